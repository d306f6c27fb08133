//! forebay: an MQTT broker for small gateways that never loses a reading it has acknowledged.
//!
//! `README.md` beside this file is the map. Imports point down only: `event_loop` joins `net` and `store`, which do
//! not know each other; below them everything is pure.

#![forbid(unsafe_code)]

// What tests share calls the crate by its name, wherever it is included.
#[cfg(test)]
extern crate self as forebay;

pub mod broker;
pub mod byte_queue;
pub mod clock;
pub mod device_api;
pub mod event_loop;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod mqtt;
pub mod net;
pub mod record;
pub mod report;
pub mod session;
pub mod store;
pub mod uplink;
pub mod whole_file;
