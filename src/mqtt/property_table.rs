//! The 27 properties of 5.0 as a table: number, name, and the packets that may carry each. [§2.2.2.2]

use std::fmt;

use super::packet::PacketType;

/// What carries properties: a packet, or the will inside of CONNECT, which has a list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PropertyPlace {
    /// The packet itself.
    Packet(PacketType),
    /// The will. [§3.1.3.2]
    Will,
}

impl PropertyPlace {
    fn bit(self) -> u16 {
        match self {
            Self::Packet(packet_type) => 1 << packet_type as u16,
            Self::Will => WILL,
        }
    }
}

impl fmt::Display for PropertyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(packet_type) => packet_type.fmt(f),
            Self::Will => f.write_str("the will of CONNECT"),
        }
    }
}

/// The bit that no packet type has.
const WILL: u16 = 1;
const CONNECT: u16 = 1 << PacketType::Connect as u16;
const CONNACK: u16 = 1 << PacketType::ConnAck as u16;
const PUBLISH: u16 = 1 << PacketType::Publish as u16;
const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u16;
const UNSUBSCRIBE: u16 = 1 << PacketType::Unsubscribe as u16;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u16;
const AUTH: u16 = 1 << PacketType::Auth as u16;
/// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
const ACKS: u16 = 1 << PacketType::PubAck as u16
    | 1 << PacketType::PubRec as u16
    | 1 << PacketType::PubRel as u16
    | 1 << PacketType::PubComp as u16
    | 1 << PacketType::SubAck as u16
    | 1 << PacketType::UnsubAck as u16;
const MESSAGE: u16 = PUBLISH | WILL;

macro_rules! property_ids {
    ($($number:literal $name:ident $words:literal $places:expr;)+) => {
        /// Which property; the value is its identifier on the wire. [§2.2.2.2]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $(#[doc = concat!("`", stringify!($number), "`: ", $words, ".")] $name = $number,)+
        }

        impl PropertyId {
            /// Every property, in the order of its number.
            pub const ALL: &[PropertyId] = &[$(Self::$name,)+];

            /// The property with this number, if there is one.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The property as the standard writes it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)+
                }
            }

            fn places(self) -> u16 {
                match self {
                    $(Self::$name => $places,)+
                }
            }
        }
    };
}

property_ids! {
    0x01 PayloadFormatIndicator "Payload Format Indicator" MESSAGE;
    0x02 MessageExpiryInterval "Message Expiry Interval" MESSAGE;
    0x03 ContentType "Content Type" MESSAGE;
    0x08 ResponseTopic "Response Topic" MESSAGE;
    0x09 CorrelationData "Correlation Data" MESSAGE;
    0x0B SubscriptionIdentifier "Subscription Identifier" PUBLISH | SUBSCRIBE;
    0x11 SessionExpiryInterval "Session Expiry Interval" CONNECT | CONNACK | DISCONNECT;
    0x12 AssignedClientIdentifier "Assigned Client Identifier" CONNACK;
    0x13 ServerKeepAlive "Server Keep Alive" CONNACK;
    0x15 AuthenticationMethod "Authentication Method" CONNECT | CONNACK | AUTH;
    0x16 AuthenticationData "Authentication Data" CONNECT | CONNACK | AUTH;
    0x17 RequestProblemInformation "Request Problem Information" CONNECT;
    0x18 WillDelayInterval "Will Delay Interval" WILL;
    0x19 RequestResponseInformation "Request Response Information" CONNECT;
    0x1A ResponseInformation "Response Information" CONNACK;
    0x1C ServerReference "Server Reference" CONNACK | DISCONNECT;
    0x1F ReasonString "Reason String" CONNACK | ACKS | DISCONNECT | AUTH;
    0x21 ReceiveMaximum "Receive Maximum" CONNECT | CONNACK;
    0x22 TopicAliasMaximum "Topic Alias Maximum" CONNECT | CONNACK;
    0x23 TopicAlias "Topic Alias" PUBLISH;
    0x24 MaximumQoS "Maximum QoS" CONNACK;
    0x25 RetainAvailable "Retain Available" CONNACK;
    0x26 UserProperty "User Property"
        MESSAGE | CONNECT | CONNACK | ACKS | SUBSCRIBE | UNSUBSCRIBE | DISCONNECT | AUTH;
    0x27 MaximumPacketSize "Maximum Packet Size" CONNECT | CONNACK;
    0x28 WildcardSubscriptionAvailable "Wildcard Subscription Available" CONNACK;
    0x29 SubscriptionIdentifierAvailable "Subscription Identifier Available" CONNACK;
    0x2A SharedSubscriptionAvailable "Shared Subscription Available" CONNACK;
}

impl PropertyId {
    /// Whether `place` may carry the property.
    pub fn is_allowed_in(self, place: PropertyPlace) -> bool {
        self.places() & place.bit() != 0
    }

    /// Whether `place` may carry the property more than once. [§3.3.2.3.8], [§3.1.2.11.8]
    pub fn may_repeat_in(self, place: PropertyPlace) -> bool {
        match self {
            Self::UserProperty => true,
            Self::SubscriptionIdentifier => place == PropertyPlace::Packet(PacketType::Publish),
            _ => false,
        }
    }

    /// One bit for each property; the highest number is 0x2A.
    pub(super) fn bit(self) -> u64 {
        1 << self as u8
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_27_and_each_number_gives_its_property_back() {
        assert_eq!(PropertyId::ALL.len(), 27);
        let known: Vec<_> = (0..100_000).filter_map(PropertyId::from_number).collect();
        assert_eq!(known, PropertyId::ALL);
        assert!(known.iter().all(|id| PropertyId::from_number(*id as u32) == Some(*id)));
    }

    #[test]
    fn only_user_properties_repeat_and_subscription_identifiers_in_publish() {
        let publish = PropertyPlace::Packet(PacketType::Publish);
        let repeating = |place| PropertyId::ALL.iter().copied().filter(move |id| id.may_repeat_in(place));
        let expected = [PropertyId::SubscriptionIdentifier, PropertyId::UserProperty];
        assert_eq!(repeating(publish).collect::<Vec<_>>(), expected);
        assert!(repeating(PropertyPlace::Packet(PacketType::Subscribe)).eq([PropertyId::UserProperty]));
    }

    #[test]
    fn pings_carry_none_and_places_have_names() {
        for packet_type in [PacketType::PingReq, PacketType::PingResp] {
            assert!(PropertyId::ALL.iter().all(|id| !id.is_allowed_in(PropertyPlace::Packet(packet_type))));
        }
        assert_eq!(PropertyPlace::Packet(PacketType::PubAck).to_string(), "PUBACK");
        assert_eq!(PropertyPlace::Will.to_string(), "the will of CONNECT");
        assert_eq!(PropertyId::MaximumQoS.to_string(), "Maximum QoS");
    }
}
