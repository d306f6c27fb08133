//! The uplink against a model hub: its whole public surface, in simulated time.

mod clock;
mod devices;
mod downlink;
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
