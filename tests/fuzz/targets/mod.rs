//! What is fuzzed: each target takes any bytes and panics if something does not hold.

pub mod gateway;
pub mod packets;
pub mod sessions;
pub mod telemetry;
pub mod topics;
