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
//! [`Client`] is what lasts as long as the connection, [`Session`] what may outlive it. A session that was asked to
//! outlive its connection is durable: it has a number on disk, and nothing that belongs to it leaves before it is there.
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
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::Mono,
    device_api::own_topics::OwnFilter,
    identity::TokenMark,
    ids::{ClientKey, ConnId, DeviceName, IdentityId, SessionId, SessionSlot},
    limits::Limits,
    mqtt::{PacketId, Properties, ProtocolVersion, TopicFilter, TopicName},
};

/// A client that was let in, for as long as its connection lasts.
#[derive(Debug)]
pub struct Client {
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Its session.
    pub session: SessionSlot,
    /// Silence after which it is gone: one and a half keep-alives. [MQTT-3.1.2-24]
    pub silence_max: Duration,
    /// Answers it is owed that wait for a commit.
    pub unanswered: u32,
    /// Those of them that are PUBACKs.
    pub unanswered_qos1: u32,
    /// Topics its aliases stand for, by alias less one. [§3.3.2.3.4]
    pub aliases: Vec<Option<Box<str>>>,
    /// Aliases it was given for topics; never more than it takes.
    pub given_aliases: BTreeMap<Box<str>, u16>,
    /// How many aliases it takes. [§3.1.2.11.5]
    pub given_aliases_max: u16,
    /// Largest packet it takes, in bytes. [§3.1.2.11.4]
    pub answer_bytes_max: u32,
    /// Whether it takes reason strings and user properties on other packets than CONNACK, PUBLISH and DISCONNECT.
    pub wants_reason_strings: bool,
}

/// What belongs to a client whether it is connected or not. [§4.1]
#[derive(Debug)]
pub struct Session {
    /// Whose token it has.
    pub identity: IdentityId,
    /// That identity's name.
    pub name: DeviceName,
    /// Which of that identity's tokens.
    pub token: TokenMark,
    /// What it may publish and subscribe to.
    pub rights: AccessRights,
    /// Its client id, given or assigned; with `identity` the session's key.
    pub client_id: Arc<str>,
    /// The connection it has at the moment.
    pub conn: Option<ConnId>,
    /// Since when it has none.
    pub offline_since: Mono,
    /// Its number on disk, if it is to outlive its connection.
    pub durable: Option<SessionId>,
    /// Seconds it outlives its connection; [`EXPIRY_NEVER`] stands for ever. [§3.1.2.11.2]
    pub expiry_s: u32,
    /// QoS 2 messages received and not yet released. [MQTT-4.3.3-10 of 5.0]
    pub unreleased: BTreeSet<PacketId>,
    /// What it subscribed to, as it wrote it.
    pub subscriptions: BTreeSet<Box<str>>,
    /// What it subscribed to in the hub's name space, if it is a device's: what comes to these filters is for this device
    /// alone, so they are no part of the common tree.
    pub own_subscriptions: BTreeMap<OwnFilter, Terms>,
    /// What waits for it, and what it was sent.
    pub outgoing: Outgoing,
    /// What to publish should the connection end badly, or once the time of that has come.
    pub will: Option<Box<Will>>,
}

/// The session expiry that stands for ever. [§3.1.2.11.2]
pub const EXPIRY_NEVER: u32 = u32::MAX;

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
    /// Whose it is.
    pub fn key(&self) -> ClientKey {
        ClientKey { identity: self.identity, client_id: Arc::clone(&self.client_id) }
    }

    /// Whether its client has published `message`.
    pub fn has_published(&self, message: &Message) -> bool {
        message.is_by(self.identity, &self.client_id)
    }

    /// How long it outlives its connection; none stands for ever.
    pub fn expiry(&self) -> Option<Duration> {
        (self.expiry_s != EXPIRY_NEVER).then(|| Duration::from_secs(self.expiry_s.into()))
    }

    /// Seconds it may outlive its connection at most.
    pub fn expiry_max_s(&self, limits: &Limits) -> u32 {
        if self.rights.is_device() { limits.device_session_expiry_s } else { limits.client_session_expiry_s }
    }

    /// How many sessions of its identity may exist without a connection.
    pub fn offline_max(&self, limits: &Limits) -> usize {
        let max = if self.rights.is_device() {
            limits.device_offline_sessions
        } else {
            limits.client_offline_sessions
        };
        max as usize
    }

    /// How many subscriptions it has, of either kind.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len() + self.own_subscriptions.len()
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
