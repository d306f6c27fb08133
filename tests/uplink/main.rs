//! The uplink against a model hub: its whole public surface, in simulated time.

mod devices;
#[path = "../hub/mod.rs"]
mod hub;
mod links;
mod manners;
mod poison;
mod random;
mod uploads;
mod world;
