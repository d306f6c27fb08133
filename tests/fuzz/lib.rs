//! The pure floors of forebay and the targets, compiled alone: no SQLite and no TLS to build under a sanitizer.
//!
//! The modules lie here as they lie in the crate, so that their own paths and those of the targets hold.

extern crate self as forebay;

#[path = "../../src/broker/mod.rs"]
pub mod broker;
#[path = "../../src/byte_queue.rs"]
pub mod byte_queue;
#[path = "../../src/clock.rs"]
pub mod clock;
#[path = "../../src/identity.rs"]
pub mod identity;
#[path = "../../src/device_api/mod.rs"]
pub mod device_api;
#[path = "../../src/ids.rs"]
pub mod ids;
#[path = "../../src/limits.rs"]
pub mod limits;
#[path = "../../src/mqtt/mod.rs"]
pub mod mqtt;
#[path = "../../src/record.rs"]
pub mod record;
#[path = "../../src/session/mod.rs"]
pub mod session;

pub mod targets;
