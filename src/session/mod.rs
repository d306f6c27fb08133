//! One client: what it may send, and what it is to be told. Rules only; the effects are the broker's.
//!
//! ```text
//!                 CONNECT refused -> CONNACK, close
//!                        |
//!   accepted --> AwaitingConnect --CONNECT--> Active --DISCONNECT, silence, a broken rule, takeover--> gone
//!                     |    ^
//!    CONNECT from an  v    | its wait is over
//!    address that guesses: Waiting
//! ```
//!
//! `handle_connect`, `handle_publish` and `handle_subscribe` each hold the rules of the chapter they are named after.

pub mod close_reason;
pub mod handle_connect;
pub mod handle_publish;
pub mod handle_subscribe;
pub mod refusal;

pub use close_reason::CloseReason;
pub use refusal::Refusal;

use std::time::Duration;

use crate::{
    ids::{DeviceName, IdentityId},
    limits::Limits,
    mqtt::{Properties, ProtocolVersion, TopicFilter, TopicName},
};

/// A client that was let in.
#[derive(Debug)]
pub struct Session {
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Whose token it has.
    pub device: IdentityId,
    /// That device's name.
    pub name: DeviceName,
    /// Its client id, given or assigned; with `device` the session's key.
    pub client_id: Box<str>,
    /// Silence after which it is gone: one and a half keep-alives. [MQTT-3.1.2-24]
    pub silence_max: Duration,
    /// QoS 1 messages received and not yet acknowledged.
    pub unacknowledged: u32,
    /// Largest packet it takes, in bytes. [§3.1.2.11.4]
    pub answer_bytes_max: u32,
    /// Whether it takes reason strings and user properties on other packets than CONNACK, PUBLISH and DISCONNECT.
    pub wants_reason_strings: bool,
    /// What to store should the connection end badly.
    pub will: Option<Box<Will>>,
}

/// A will for the device's own telemetry; other topics are refused at CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where to publish it.
    pub topic: Box<str>,
    /// What to publish.
    pub payload: Box<[u8]>,
}

/// Whether `topic` is within the configured bounds.
pub fn topic_fits(topic: TopicName<'_>, limits: &Limits) -> bool {
    topic.as_str().len() <= limits.topic_bytes as usize && topic.level_count() <= limits.topic_levels as usize
}

/// Whether `filter` is within the configured bounds.
pub fn filter_fits(filter: TopicFilter<'_>, limits: &Limits) -> bool {
    filter.as_str().len() <= limits.topic_bytes as usize
        && filter.level_count() <= limits.topic_levels as usize
}

/// Whether the properties are within the configured bounds.
pub fn properties_fit(properties: &Properties<'_>, limits: &Limits) -> bool {
    properties.is_empty() || properties.user_properties().count() <= limits.user_properties as usize
}
