//! Reason codes of 5.0, and how they stand for the return codes before it.

use std::fmt;

use super::packet::PacketType;

const CONNACK: u16 = 1 << PacketType::ConnAck as u16;
const PUBACK: u16 = 1 << PacketType::PubAck as u16;
const PUBREC: u16 = 1 << PacketType::PubRec as u16;
const PUBREL: u16 = 1 << PacketType::PubRel as u16;
const PUBCOMP: u16 = 1 << PacketType::PubComp as u16;
const SUBACK: u16 = 1 << PacketType::SubAck as u16;
const UNSUBACK: u16 = 1 << PacketType::UnsubAck as u16;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u16;
const AUTH: u16 = 1 << PacketType::Auth as u16;
/// Answers to PUBLISH.
const PUB: u16 = PUBACK | PUBREC;
/// Answers to SUBSCRIBE and UNSUBSCRIBE.
const SUBS: u16 = SUBACK | UNSUBACK;
const EVERYWHERE: u16 = CONNACK | PUB | PUBREL | PUBCOMP | SUBS | DISCONNECT | AUTH;
/// What ends a connection, before it began or later.
const ENDS: u16 = CONNACK | DISCONNECT;

macro_rules! reason_codes {
    ($($name:ident = $byte:literal, $words:literal, $packets:expr;)+) => {
        /// Why something was done or refused; the value is the byte on the wire. [§2.4]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(#[doc = concat!("`", stringify!($byte), "`: ", $words, ".")] $name = $byte,)+
        }

        impl ReasonCode {
            /// Every code, in the order of its byte.
            pub const ALL: &[ReasonCode] = &[$(Self::$name,)+];

            /// The code `byte` stands for, if any.
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// One bit for each packet type that may carry the code.
            fn packets(self) -> u16 {
                match self {
                    $(Self::$name => $packets,)+
                }
            }

            fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)+
                }
            }
        }
    };
}

reason_codes! {
    Success = 0x00, "success", EVERYWHERE;
    GrantedQoS1 = 0x01, "granted QoS 1", SUBACK;
    GrantedQoS2 = 0x02, "granted QoS 2", SUBACK;
    DisconnectWithWill = 0x04, "disconnect with will message", DISCONNECT;
    NoMatchingSubscribers = 0x10, "no matching subscribers", PUB;
    NoSubscriptionExisted = 0x11, "no subscription existed", UNSUBACK;
    ContinueAuthentication = 0x18, "continue authentication", AUTH;
    ReAuthenticate = 0x19, "re-authenticate", AUTH;
    UnspecifiedError = 0x80, "unspecified error", ENDS | PUB | SUBS;
    MalformedPacket = 0x81, "malformed packet", ENDS;
    ProtocolError = 0x82, "protocol error", ENDS;
    ImplementationSpecificError = 0x83, "implementation specific error", ENDS | PUB | SUBS;
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version", CONNACK;
    ClientIdentifierNotValid = 0x85, "client identifier not valid", CONNACK;
    BadUserNameOrPassword = 0x86, "bad user name or password", CONNACK;
    NotAuthorized = 0x87, "not authorized", ENDS | PUB | SUBS;
    ServerUnavailable = 0x88, "server unavailable", CONNACK;
    ServerBusy = 0x89, "server busy", ENDS;
    Banned = 0x8A, "banned", CONNACK;
    ServerShuttingDown = 0x8B, "server shutting down", DISCONNECT;
    BadAuthenticationMethod = 0x8C, "bad authentication method", ENDS;
    KeepAliveTimeout = 0x8D, "keep alive timeout", DISCONNECT;
    SessionTakenOver = 0x8E, "session taken over", DISCONNECT;
    TopicFilterInvalid = 0x8F, "topic filter invalid", SUBS | DISCONNECT;
    TopicNameInvalid = 0x90, "topic name invalid", ENDS | PUB;
    PacketIdentifierInUse = 0x91, "packet identifier in use", PUB | SUBS;
    PacketIdentifierNotFound = 0x92, "packet identifier not found", PUBREL | PUBCOMP;
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded", DISCONNECT;
    TopicAliasInvalid = 0x94, "topic alias invalid", DISCONNECT;
    PacketTooLarge = 0x95, "packet too large", ENDS;
    MessageRateTooHigh = 0x96, "message rate too high", DISCONNECT;
    QuotaExceeded = 0x97, "quota exceeded", ENDS | PUB | SUBACK;
    AdministrativeAction = 0x98, "administrative action", DISCONNECT;
    PayloadFormatInvalid = 0x99, "payload format invalid", ENDS | PUB;
    RetainNotSupported = 0x9A, "retain not supported", ENDS;
    QoSNotSupported = 0x9B, "QoS not supported", ENDS;
    UseAnotherServer = 0x9C, "use another server", ENDS;
    ServerMoved = 0x9D, "server moved", ENDS;
    SharedSubscriptionsNotSupported = 0x9E, "shared subscriptions not supported", SUBACK | DISCONNECT;
    ConnectionRateExceeded = 0x9F, "connection rate exceeded", ENDS;
    MaximumConnectTime = 0xA0, "maximum connect time", DISCONNECT;
    SubscriptionIdentifiersNotSupported = 0xA1, "subscription identifiers not supported", SUBACK | DISCONNECT;
    WildcardSubscriptionsNotSupported = 0xA2, "wildcard subscriptions not supported", SUBACK | DISCONNECT;
}

impl ReasonCode {
    /// The byte on the wire.
    pub fn as_byte(self) -> u8 {
        self as u8
    }

    /// Whether the code says that something went wrong: 0x80 and above. [§2.4]
    pub fn is_error(self) -> bool {
        self.as_byte() >= 0x80
    }

    /// Whether a packet of this type may carry the code; `Success` also means normal disconnection and granted QoS 0.
    pub fn is_defined_in(self, packet_type: PacketType) -> bool {
        self.packets() & (1 << packet_type as u16) != 0
    }

    /// Whether a client may end its connection with the code: the rest of those defined in DISCONNECT are the server's.
    /// [§3.14.2.1]
    pub fn client_may_end_with(self) -> bool {
        matches!(
            self,
            Self::Success
                | Self::DisconnectWithWill
                | Self::UnspecifiedError
                | Self::MalformedPacket
                | Self::ProtocolError
                | Self::ImplementationSpecificError
                | Self::TopicNameInvalid
                | Self::ReceiveMaximumExceeded
                | Self::TopicAliasInvalid
                | Self::PacketTooLarge
                | Self::MessageRateTooHigh
                | Self::QuotaExceeded
                | Self::AdministrativeAction
                | Self::PayloadFormatInvalid
        )
    }

    /// The reason a return code of CONNACK before 5.0 stands for; 6 and above are reserved. [3.1.1 §3.2.2.3]
    pub fn from_connack_return_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// The return code of CONNACK before 5.0; a reason without one of its own is "server unavailable".
    pub fn connack_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized => 5,
            _ => 3,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: code, then the packets that may carry it, as in the standard's table of reason codes.
    const TABLE: &[(u8, &str)] = &[
        (0x00, "connack puback pubrec pubrel pubcomp suback unsuback disconnect auth"),
        (0x01, "suback"),
        (0x02, "suback"),
        (0x04, "disconnect"),
        (0x10, "puback pubrec"),
        (0x11, "unsuback"),
        (0x18, "auth"),
        (0x19, "auth"),
        (0x80, "connack puback pubrec suback unsuback disconnect"),
        (0x81, "connack disconnect"),
        (0x82, "connack disconnect"),
        (0x83, "connack puback pubrec suback unsuback disconnect"),
        (0x84, "connack"),
        (0x85, "connack"),
        (0x86, "connack"),
        (0x87, "connack puback pubrec suback unsuback disconnect"),
        (0x88, "connack"),
        (0x89, "connack disconnect"),
        (0x8A, "connack"),
        (0x8B, "disconnect"),
        (0x8C, "connack disconnect"),
        (0x8D, "disconnect"),
        (0x8E, "disconnect"),
        (0x8F, "suback unsuback disconnect"),
        (0x90, "connack puback pubrec disconnect"),
        (0x91, "puback pubrec suback unsuback"),
        (0x92, "pubrel pubcomp"),
        (0x93, "disconnect"),
        (0x94, "disconnect"),
        (0x95, "connack disconnect"),
        (0x96, "disconnect"),
        (0x97, "connack puback pubrec suback disconnect"),
        (0x98, "disconnect"),
        (0x99, "connack puback pubrec disconnect"),
        (0x9A, "connack disconnect"),
        (0x9B, "connack disconnect"),
        (0x9C, "connack disconnect"),
        (0x9D, "connack disconnect"),
        (0x9E, "suback disconnect"),
        (0x9F, "connack disconnect"),
        (0xA0, "disconnect"),
        (0xA1, "suback disconnect"),
        (0xA2, "suback disconnect"),
    ];

    #[test]
    fn each_code_is_defined_in_the_packets_of_the_standards_table() {
        assert_eq!(TABLE.len(), ReasonCode::ALL.len());
        for (byte, packets) in TABLE {
            let code = ReasonCode::from_byte(*byte).expect("a code of the table");
            for packet_type in PacketType::ALL {
                let listed = packets.split(' ').any(|name| name == packet_type.name().to_lowercase());
                assert_eq!(code.is_defined_in(packet_type), listed, "{code} in {packet_type}");
            }
        }
    }

    #[test]
    fn every_byte_is_a_code_that_gives_the_byte_back_or_none() {
        let known = (0..=u8::MAX).filter_map(|byte| ReasonCode::from_byte(byte).map(|code| (byte, code)));
        let known: Vec<_> = known.collect();
        assert_eq!(known.len(), TABLE.len());
        assert!(
            known.iter().all(|(byte, code)| code.as_byte() == *byte && code.is_error() == (*byte >= 0x80))
        );
    }

    #[test]
    fn the_six_return_codes_of_connack_map_one_to_one() {
        for code in 0..=5 {
            let reason = ReasonCode::from_connack_return_code(code).expect("six codes");
            assert_eq!(reason.connack_return_code(), code);
        }
        assert_eq!(ReasonCode::from_connack_return_code(6), None);
        assert_eq!(ReasonCode::Banned.connack_return_code(), 3);
    }

    #[test]
    fn codes_are_shown_in_words() {
        assert_eq!(ReasonCode::QuotaExceeded.to_string(), "quota exceeded");
    }
}
