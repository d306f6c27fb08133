//! Packets as values that borrow the bytes they were decoded from.
//!
//! Decoding proves every rule that can be checked on one packet alone; whoever holds a [`Packet`] need not check again.
//! Rules that span packets belong to `session/`.

use std::{fmt, num::NonZeroU16};

use super::{
    properties::Properties,
    reason::ReasonCode,
    topic::{TopicFilter, TopicName},
};

/// The protocol a connection speaks, from the level byte of CONNECT. [§3.1.2.2]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1: name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: name `MQTT`, level 5.
    V5,
}

impl ProtocolVersion {
    /// The level byte of CONNECT. [§3.1.2.2]
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name of CONNECT. [§3.1.2.1]
    pub fn name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }
}

/// How often a message may arrive. [§4.3]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service the lowest two bits of `bits` stand for; 3 is none. [MQTT-3.3.1-4]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier; zero is not one. [MQTT-2.3.1-1]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The identifier for `id`, unless it is zero.
    pub fn new(id: u16) -> Option<Self> {
        NonZeroU16::new(id).map(Self)
    }

    /// The identifier as it stands on the wire.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Debug for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketId({})", self.0)
    }
}

/// The fifteen kinds of packet; the value is the high nibble of the first byte. [§2.2.1]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

/// One control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// Which of the fifteen kinds this is.
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// A client asks to be let in. [§3.1]
#[derive(Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Clean Session (3.1, 3.1.1) or Clean Start (5.0).
    pub clean: bool,
    /// Seconds; zero means no keep-alive.
    pub keep_alive_s: u16,
    /// The client identifier, which may be empty.
    pub client_id: &'a str,
    /// What to publish should the connection end badly.
    pub will: Option<Will<'a>>,
    /// The user name: for a device, its access token.
    pub user_name: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// A message left with the broker for the day the connection ends badly. [§3.1.2.5]
#[derive(Clone, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where to publish it.
    pub topic: TopicName<'a>,
    /// What to publish.
    pub payload: &'a [u8],
    /// With which quality of service.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// The answer to [`Connect`]. [§3.2]
///
/// Before 5.0 the wire has six return codes; they map one to one: 0 Success, 1 UnsupportedProtocolVersion,
/// 2 ClientIdentifierNotValid, 3 ServerUnavailable, 4 BadUserNameOrPassword, 5 NotAuthorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the broker has a session of this client.
    pub session_present: bool,
    /// Success, or why not.
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// A message. [§3.3]
#[derive(Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether this may be a repeat.
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// Whether the message is to be retained, or comes from the retained ones.
    pub retain: bool,
    /// Where it goes; `None` when 5.0 leaves it to a topic alias (the properties then have one).
    pub topic: Option<TopicName<'a>>,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// The bytes of the message.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. [§3.4] to [§3.7]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The message this answers.
    pub packet_id: PacketId,
    /// Always `Success` before 5.0.
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// How a subscription wants its messages; before 5.0 the last three are always false, false and `Send`. [§3.8.3.1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest quality of service.
    pub qos: QoS,
    /// Not the client's own messages (5.0).
    pub no_local: bool,
    /// Keep the RETAIN flag as published (5.0).
    pub retain_as_published: bool,
    /// Which retained messages are wanted (5.0).
    pub retain_handling: RetainHandling,
}

/// Which retained messages a new subscription wants. [§3.8.3.1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    /// Send them at each subscribe.
    Send = 0,
    /// Send them only if the subscription is new.
    SendIfNew = 1,
    /// Do not send them.
    DoNotSend = 2,
}

/// A request for messages. [§3.8]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// What SUBACK will answer.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// At least one filter with its options.
    pub filters: Vec<(TopicFilter<'a>, SubscriptionOptions)>,
}

/// The answer to [`Subscribe`]: one code per filter. [§3.9]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The SUBSCRIBE this answers.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// One per filter, in their order; before 5.0 a refusal is `UnspecifiedError` (0x80).
    pub reasons: Vec<ReasonCode>,
}

/// The end of a request for messages. [§3.10]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// What UNSUBACK will answer.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// At least one filter.
    pub filters: Vec<TopicFilter<'a>>,
}

/// The answer to [`Unsubscribe`]. [§3.11]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// The UNSUBSCRIBE this answers.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// One per filter, in their order; empty before 5.0.
    pub reasons: Vec<ReasonCode>,
}

/// The end of a connection, with a reason in 5.0. [§3.14]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always `Success` (normal disconnection) before 5.0.
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// A step of enhanced authentication, 5.0 only. [§3.15]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, ContinueAuthentication or ReAuthenticate.
    pub reason: ReasonCode,
    /// Where method and data are.
    pub properties: Properties<'a>,
}

// Tokens and payloads never reach a log: what holds them shows its shape only.

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean", &self.clean)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("has_user_name", &self.user_name.is_some())
            .field("has_password", &self.password.is_some())
            .finish()
    }
}

impl fmt::Debug for Will<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish()
    }
}

impl fmt::Debug for Publish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("packet_id", &self.packet_id)
            .field("properties", &self.properties)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}
