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
pub mod durable;
pub mod handle_connect;
pub mod handle_publish;
pub mod handle_subscribe;
pub mod message;
pub mod outgoing;
pub mod refusal;
pub mod rights;

pub use close_reason::CloseReason;
pub use durable::{Batch, Terms};
pub use message::Message;
pub use outgoing::{Delivery, Outgoing};
pub use refusal::Refusal;
pub use rights::AccessRights;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    ids::{DeviceName, IdentityId},
    limits::Limits,
    mqtt::{PacketId, Properties, ProtocolVersion, TopicFilter, TopicName},
};

/// A client that was let in.
#[derive(Debug)]
pub struct Session {
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Whose token it has.
    pub identity: IdentityId,
    /// That identity's name.
    pub name: DeviceName,
    /// What it may publish and subscribe to.
    pub rights: AccessRights,
    /// Its client id, given or assigned; with `identity` the session's key.
    pub client_id: Box<str>,
    /// Silence after which it is gone: one and a half keep-alives. [MQTT-3.1.2-24]
    pub silence_max: Duration,
    /// Messages received whose PUBACK or PUBREC waits for a commit.
    pub unanswered: u32,
    /// Those of them that are of QoS 1.
    pub unanswered_qos1: u32,
    /// QoS 2 messages received and not yet released. [MQTT-4.3.3-10 of 5.0]
    pub unreleased: BTreeSet<PacketId>,
    /// Topics its aliases stand for, by alias less one. [§3.3.2.3.4]
    pub aliases: Vec<Option<Box<str>>>,
    /// Aliases it was given for topics; never more than it takes.
    pub given_aliases: BTreeMap<Box<str>, u16>,
    /// How many aliases it takes. [§3.1.2.11.5]
    pub given_aliases_max: u16,
    /// What it subscribed to, as it wrote it.
    pub subscriptions: BTreeSet<Box<str>>,
    /// What waits for it.
    pub outgoing: Outgoing,
    /// Largest packet it takes, in bytes. [§3.1.2.11.4]
    pub answer_bytes_max: u32,
    /// Whether it takes reason strings and user properties on other packets than CONNACK, PUBLISH and DISCONNECT.
    pub wants_reason_strings: bool,
    /// What to publish should the connection end badly.
    pub will: Option<Box<Will>>,
}

/// A message left for the day the connection ends badly. [§3.1.2.5]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What is published.
    pub message: Message,
    /// How long it lives once it is published.
    pub lives: Option<Duration>,
    /// How long after the connection's end it is published, unless the session ends before. [§3.1.3.2.2]
    pub delay: Duration,
    /// Whether it is a device's telemetry, to be stored.
    pub is_telemetry: bool,
}

impl Session {
    /// QoS 1 and 2 messages received whose exchange is not over: what Receive Maximum bounds. [§3.3.4]
    pub fn incoming_in_flight(&self) -> usize {
        self.unanswered_qos1 as usize + self.unreleased.len()
    }

    /// Most subscriptions it may have.
    pub fn subscriptions_max(&self, limits: &Limits) -> usize {
        let max =
            if self.rights.is_device() { limits.device_subscriptions } else { limits.client_subscriptions };
        max as usize
    }

    /// Most messages that may wait for it.
    pub fn queue_max(&self, limits: &Limits) -> usize {
        let max =
            if self.rights.is_device() { limits.device_queue_messages } else { limits.client_queue_messages };
        max as usize
    }

    /// Most bytes of messages that may wait for it.
    pub fn queue_bytes_max(&self, limits: &Limits) -> usize {
        let max = if self.rights.is_device() { limits.device_queue_bytes } else { limits.queue_memory_bytes };
        max as usize
    }

    /// Largest packet it may send, in bytes.
    pub fn packet_bytes_max(&self, limits: &Limits) -> u32 {
        if self.rights.is_device() { limits.packet_bytes } else { limits.client_packet_bytes }
    }
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
