//! The uplink against a model hub: its whole public surface, in simulated time.

mod clock;
mod devices;
mod downlink;
#[allow(dead_code, reason = "each test binary uses its own part of the model")]
#[path = "../hub/mod.rs"]
mod hub;
mod large;
mod links;
mod manners;
mod poison;
mod presence;
mod random;
mod uploads;
mod world;
