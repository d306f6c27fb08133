//! What devices say to the hub, understood locally: topic names and telemetry payloads.
//!
//! Text in, plain values out: no connection, no clock, no store. The session asks [`topics`] what a topic means,
//! and [`telemetry`] for the readings in a payload; the other files are the floors below telemetry.
//!
//! ```text
//! telemetry      a message: its records and their times
//! values         the values of one record          lenient_json   hand-written JSON, made strict
//! strict_json    one level of strict JSON          number         decimal numbers and their bounds
//! ```
//!
//! [`gateway_messages`] is what a gateway says of the devices behind it, and [`session_limits`] a device's first question.
//! [`gateway`] is the other direction: what we say to the hub ourselves. [`downlink`] is what it sends to devices, and
//! [`own_topics`] what they may subscribe to for that.

pub mod downlink;
pub mod gateway;
pub mod gateway_messages;
pub mod lenient_json;
pub mod number;
pub mod own_topics;
pub mod session_limits;
mod strict_json;
pub mod telemetry;
pub mod topics;
pub mod values;
