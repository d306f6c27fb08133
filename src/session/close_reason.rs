//! Why a connection ends: one variant per cause, with the words for the log and the code for a version 5 client.

use std::fmt;

use crate::mqtt::{DecodeError, PacketType, ReasonCode};

use super::refusal::Refusal;

/// Why the broker, or the peer, ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent DISCONNECT; its will is forgotten. [§3.14.4]
    Disconnected,
    /// The client sent DISCONNECT with 0x04: it wants its will published. [§3.14.2.1]
    DisconnectedWithWill,
    /// The client closed the connection without a word.
    PeerClosed,
    /// The connection failed underneath: reset, time-out, TLS error.
    TransportFailed,
    /// The first bytes on the TLS listener were plain MQTT or HTTP.
    PlainOnTlsListener,
    /// A packet broke a rule that can be checked on it alone.
    Malformed(DecodeError),
    /// The first packet was not CONNECT. [MQTT-3.1.0-1]
    FirstPacketNotConnect(PacketType),
    /// The first bytes were a TLS handshake, on a listener without TLS.
    TlsOnPlainListener,
    /// The first bytes were an HTTP request.
    HttpOnMqttListener,
    /// A second CONNECT on one connection. [MQTT-3.1.0-2]
    SecondConnect,
    /// A packet that only a server, or nobody in this state, may send.
    UnexpectedPacket(PacketType),
    /// CONNECT was refused; the CONNACK said why.
    Refused(Refusal),
    /// No complete CONNECT within `connect_timeout_s`.
    ConnectTimeout,
    /// A packet was begun and not finished within `packet_timeout_s`.
    PacketTimeout,
    /// Nothing heard for one and a half keep-alives. [MQTT-3.1.2-24]
    KeepAliveTimeout,
    /// The packet's header announced more than `packet_bytes`, or `connect_bytes` for a CONNECT.
    PacketTooLarge,
    /// An acknowledgement of another kind than its message calls for. [§4.3]
    AnswerOutOfPlace,
    /// More waits for it than may: what is lost it learns by starting anew. [§4.1.0]
    QueueFull,
    /// More unacknowledged QoS 1 and 2 messages than the Receive Maximum. [MQTT-3.3.4-7]
    ReceiveMaximumExceeded,
    /// A topic alias above the Topic Alias Maximum. [MQTT-3.3.2-9 of 5.0]
    TopicAliasInvalid,
    /// A topic alias that stands for nothing yet, and no topic. [§3.3.4]
    TopicAliasUnknown,
    /// A subscription identifier in a PUBLISH to the server. [MQTT-3.3.4-6]
    SubscriptionIdentifierInPublish,
    /// A topic longer or deeper than `topic_bytes` and `topic_levels`.
    TopicTooLong,
    /// A publish outside its rights, before version 5.
    TopicNotAllowed,
    /// It sent readings of devices behind it and is not marked as a gateway; it speaks a version without refusals.
    NotAGateway,
    /// More QoS 2 messages that it never released than `UNRELEASED_MAX`.
    TooManyUnreleased,
    /// The answer is larger than the client's own Maximum Packet Size. [MQTT-3.1.2-24]
    AnswerTooLarge,
    /// A session expiry in DISCONNECT after CONNECT had none. [§3.14.2.2.2]
    SessionExpiryRaised,
    /// A reason code in DISCONNECT that only a server may give. [§3.14.2.1]
    ReasonOfServer(ReasonCode),
    /// Another connection with the same device and client id took over. [MQTT-3.1.4-3]
    TakenOver,
    /// The device has more than `connections_per_device`, or the local client more than `connections_per_client`; the
    /// oldest goes.
    TooManyOfIdentity,
    /// The listener's table is full.
    TooManyConnections,
    /// The address has more than `connections_per_address`.
    TooManyFromAddress,
    /// The address connects more often than `connects_per_address_per_min`.
    ConnectRate,
    /// Waited for CONNECT the longest while others wanted in.
    MadeRoom,
    /// The device's token was changed, or the device disabled or removed.
    CredentialsChanged,
    /// What the client published could not be made durable: it has no answer and should send it again.
    StoreFailed,
    /// There is no room for what the client published: it has no answer and should send it again later.
    StorageFull,
    /// The broker is stopping.
    ShuttingDown,
}

impl CloseReason {
    /// The code of the DISCONNECT a version 5 client gets; `None` where nobody is left to read it.
    pub fn disconnect_code(self) -> Option<ReasonCode> {
        Some(match self {
            Self::Disconnected | Self::DisconnectedWithWill | Self::PeerClosed | Self::TransportFailed => {
                return None;
            }
            Self::Refused(_) | Self::AnswerTooLarge => return None,
            Self::FirstPacketNotConnect(_) | Self::TlsOnPlainListener | Self::HttpOnMqttListener => {
                return None;
            }
            Self::PlainOnTlsListener => return None,
            Self::ConnectTimeout | Self::TooManyConnections | Self::TooManyFromAddress => return None,
            Self::ConnectRate | Self::MadeRoom => return None,
            Self::Malformed(error) => error.reason_code(),
            Self::SecondConnect
            | Self::UnexpectedPacket(_)
            | Self::SubscriptionIdentifierInPublish
            | Self::TopicAliasUnknown
            | Self::AnswerOutOfPlace
            | Self::SessionExpiryRaised
            | Self::ReasonOfServer(_) => ReasonCode::ProtocolError,
            Self::PacketTimeout => ReasonCode::MalformedPacket,
            Self::KeepAliveTimeout => ReasonCode::KeepAliveTimeout,
            Self::PacketTooLarge => ReasonCode::PacketTooLarge,
            Self::QueueFull => ReasonCode::QuotaExceeded,
            Self::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
            Self::TopicTooLong => ReasonCode::TopicNameInvalid,
            Self::TopicNotAllowed | Self::NotAGateway => ReasonCode::NotAuthorized,
            Self::TooManyUnreleased | Self::TooManyOfIdentity => ReasonCode::QuotaExceeded,
            Self::TakenOver => ReasonCode::SessionTakenOver,
            Self::CredentialsChanged => ReasonCode::AdministrativeAction,
            Self::StoreFailed => ReasonCode::ServerBusy,
            Self::StorageFull => ReasonCode::QuotaExceeded,
            Self::ShuttingDown => ReasonCode::ServerShuttingDown,
        })
    }

    /// Whether the client's will is to be published. [MQTT-3.1.2-8]
    pub fn publishes_will(self) -> bool {
        self != Self::Disconnected
    }

    /// Whether the session ends with the connection, however long it was to live: the client is to learn that it lost
    /// something, or has lost its rights.
    pub fn ends_session(self) -> bool {
        matches!(self, Self::QueueFull | Self::CredentialsChanged)
    }

    /// Whether a person should hear of it: somebody did something that will not work.
    pub fn is_noteworthy(self) -> bool {
        !matches!(
            self,
            Self::Disconnected
                | Self::DisconnectedWithWill
                | Self::PeerClosed
                | Self::TransportFailed
                | Self::ShuttingDown
                | Self::StoreFailed
                | Self::StorageFull
        )
    }

    /// A short fixed name: the label of its counter, and what log lines are bounded by.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disconnected | Self::DisconnectedWithWill => "disconnected",
            Self::PeerClosed => "peer closed",
            Self::TransportFailed => "transport failed",
            Self::Malformed(_) => "malformed",
            Self::FirstPacketNotConnect(_) => "first packet not CONNECT",
            Self::TlsOnPlainListener => "TLS on plain listener",
            Self::HttpOnMqttListener => "HTTP on MQTT listener",
            Self::PlainOnTlsListener => "plain bytes on TLS listener",
            Self::SecondConnect => "second CONNECT",
            Self::UnexpectedPacket(_) => "unexpected packet",
            Self::Refused(_) => "refused",
            Self::ConnectTimeout => "connect timeout",
            Self::PacketTimeout => "packet timeout",
            Self::KeepAliveTimeout => "keep-alive timeout",
            Self::PacketTooLarge => "packet too large",
            Self::AnswerOutOfPlace => "answer out of place",
            Self::QueueFull => "queue full",
            Self::ReceiveMaximumExceeded => "receive maximum exceeded",
            Self::TopicAliasInvalid => "topic alias invalid",
            Self::TopicAliasUnknown => "topic alias unknown",
            Self::SubscriptionIdentifierInPublish => "subscription identifier in PUBLISH",
            Self::TopicTooLong => "topic too long",
            Self::TopicNotAllowed => "topic not allowed",
            Self::NotAGateway => "not a gateway",
            Self::TooManyUnreleased => "too many unreleased",
            Self::AnswerTooLarge => "answer too large",
            Self::SessionExpiryRaised => "session expiry raised",
            Self::ReasonOfServer(_) => "reason code of a server",
            Self::TakenOver => "taken over",
            Self::TooManyOfIdentity => "too many of one identity",
            Self::TooManyConnections => "too many connections",
            Self::TooManyFromAddress => "too many from address",
            Self::ConnectRate => "connects too often",
            Self::MadeRoom => "made room",
            Self::CredentialsChanged => "credentials changed",
            Self::StoreFailed => "store failed",
            Self::StorageFull => "storage full",
            Self::ShuttingDown => "shutting down",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "{error} [{}]", error.clause()),
            Self::FirstPacketNotConnect(kind) => write!(f, "the first packet was {kind:?}, not Connect"),
            Self::TlsOnPlainListener => {
                f.write_str("a TLS handshake on the listener without TLS; point the client at the TLS port (8883 unless configured)")
            }
            Self::HttpOnMqttListener => f.write_str("an HTTP request; this port speaks MQTT"),
            Self::PlainOnTlsListener => {
                f.write_str("plain bytes on the TLS listener; point the client at the plain port (1883 unless configured) or let it use TLS")
            }
            Self::UnexpectedPacket(kind) => write!(f, "a client may not send {kind:?} here"),
            Self::ReasonOfServer(reason) => write!(f, "its DISCONNECT says \"{reason}\", which only a server may"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::ConnectTimeout => f.write_str("no CONNECT arrived in time"),
            Self::PacketTimeout => f.write_str("a packet was begun and not finished in time"),
            Self::KeepAliveTimeout => f.write_str("nothing heard for one and a half keep-alives"),
            Self::AnswerOutOfPlace => f.write_str("it acknowledged a message as if it had another QoS"),
            Self::QueueFull => f.write_str("it does not keep up: more messages wait for it than may"),
            Self::TooManyUnreleased => f.write_str("it left too many messages of QoS 2 without a PUBREL"),
            Self::TopicNotAllowed => f.write_str("it published to a topic it has no right to"),
            Self::NotAGateway => {
                f.write_str("it is not marked as a gateway, see `forebay device set NAME --gateway on`")
            }
            Self::TooManyOfIdentity => {
                f.write_str("it opened more connections than connections_per_device or connections_per_client")
            }
            Self::TooManyConnections => f.write_str("all connections are taken (limit `connections`)"),
            Self::TooManyFromAddress => f.write_str("the address holds connections_per_address already"),
            Self::ConnectRate => {
                f.write_str("the address connects more often than connects_per_address_per_min")
            }
            Self::MadeRoom => f.write_str("it waited without CONNECT while others wanted in"),
            Self::CredentialsChanged => f.write_str("its token was changed, or its device disabled or removed"),
            Self::StoreFailed => f.write_str("what it published could not be stored"),
            Self::StorageFull => f.write_str("there is no room for the readings it published"),
            Self::TakenOver => f.write_str("another connection with its client id took over"),
            other => f.write_str(other.label()),
        }
    }
}
