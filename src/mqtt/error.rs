//! What a peer did wrong, one variant for each rule, and the little that can go wrong in encoding.

use std::fmt;

use super::{
    packet::{PacketType, ProtocolVersion},
    property_table::{PropertyId, PropertyPlace},
    reason::ReasonCode,
    topic::TopicError,
};

/// The rule a packet breaks. The peer's fault: its connection is closed. [§4.13]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeError {
    /// The packet type is zero. [§2.1.2]
    PacketTypeZero,
    /// The flags of the first byte are not those of the packet. [MQTT-2.2.2-2]
    HeaderFlags(PacketType),
    /// Both QoS bits of a PUBLISH are set. [MQTT-3.3.1-4]
    PublishQoS3,
    /// A PUBLISH of QoS 0 claims to be a repeat. [MQTT-3.3.1-2]
    DupWithQoS0,
    /// The packet does not exist in the version spoken. [§2.1.2]
    NotInVersion(PacketType),
    /// A variable byte integer goes on after its fourth byte. [§1.5.5]
    VarintTooLong,
    /// A variable byte integer is longer than it needs to be. [MQTT-1.5.5-1 of 5.0]
    VarintNotMinimal,

    /// The packet ends before it is complete. [§2.1.4]
    BodyTooShort,
    /// A text or data claim to be longer than the packet. [§1.5.4], [§1.5.6]
    FieldPastEnd,
    /// The packet goes on after it is complete. [§2.1.4]
    TrailingBytes,
    /// A text is not well-formed UTF-8. [MQTT-1.5.3-1]
    NotUtf8,
    /// A text contains U+0000. [MQTT-1.5.3-2]
    NulCharacter,
    /// A name contains a control character or a non-character; the standard leaves it to us. [§1.5.4]
    ForbiddenCharacter,
    /// A packet identifier is zero. [MQTT-2.3.1-1]
    PacketIdZero,
    /// A topic name is none. [§4.7]
    TopicName(TopicError),
    /// A topic filter is none. [§4.7]
    TopicFilter(TopicError),

    /// The protocol is neither `MQTT` nor `MQIsdp`. [MQTT-3.1.2-1]
    UnknownProtocolName,
    /// The name is right, its level is not 3 for `MQIsdp`, 4 or 5 for `MQTT`. [MQTT-3.1.2-2]
    UnsupportedProtocolLevel(u8),
    /// The reserved flag of CONNECT is set. [MQTT-3.1.2-3]
    ConnectReservedFlag,
    /// CONNECT has a will QoS and no will. [MQTT-3.1.2-13]
    WillQoSWithoutWill,
    /// CONNECT wants a will retained and has none. [MQTT-3.1.2-15]
    WillRetainWithoutWill,
    /// Both will QoS bits of CONNECT are set. [MQTT-3.1.2-14]
    WillQoS3,
    /// CONNECT has a password and no user name; 5.0 allows it. [MQTT-3.1.2-22]
    PasswordWithoutUserName,

    /// The reserved flags of CONNACK are set. [MQTT-3.2.2-1 of 5.0]
    ConnAckFlags,
    /// The packet cannot carry this reason or return code. [§2.4]
    ReasonCode(PacketType, u8),
    /// SUBACK or UNSUBACK without a single reason code. [MQTT-3.8.4-5]
    NoReasonCodes(PacketType),
    /// SUBSCRIBE or UNSUBSCRIBE without a single filter. [MQTT-3.8.3-3], [MQTT-3.10.3-2]
    NoFilters(PacketType),
    /// Reserved bits of a subscription's options are set. [MQTT-3-8.3-4]
    SubscribeOptionsReserved,
    /// A subscription wants QoS 3. [MQTT-3-8.3-4]
    SubscribeQoS3,
    /// A subscription wants retained messages in a fourth way. [§3.8.3.1]
    RetainHandling3,
    /// A shared subscription with No Local. [MQTT-3.8.3-4 of 5.0]
    NoLocalOnShared,
    /// A filter of `$share` that is not `$share/NAME/FILTER`, in 5.0. [MQTT-4.8.2-1 of 5.0], [MQTT-4.8.2-2 of 5.0]
    MalformedShare,

    /// The properties claim to be longer than the packet. [§2.2.2.1]
    PropertiesPastEnd,
    /// The properties end in the middle of one. [§2.2.2.1]
    PropertyCutShort,
    /// No property has this number. [§2.2.2.2]
    PropertyUnknown(u32),
    /// The property has no place in this packet. [§2.2.2.2]
    PropertyNotAllowed(PropertyId, PropertyPlace),
    /// The property is there twice. [§2.2.2.2]
    PropertyTwice(PropertyId),
    /// The property is zero and must not be. [§3.1.2.11.3], [§3.1.2.11.4], [MQTT-3.3.2-8 of 5.0], [§3.8.2.1.2]
    PropertyZero(PropertyId),
    /// The property is a byte that can only be 0 or 1 and is not. [§3.1.2.11.6] and others
    PropertyValue(PropertyId),
    /// Authentication Data without Authentication Method. [§3.1.2.11.10]
    AuthDataWithoutMethod,
    /// AUTH that says anything, and no Authentication Method. [§3.15.2.2.2]
    AuthMethodMissing,
    /// The Response Topic is no topic name. [MQTT-3.3.2-14 of 5.0]
    ResponseTopic(TopicError),
}

impl DecodeError {
    /// The clause of the standard: of 3.1.1 where it has the rule, else of 5.0.
    pub fn clause(&self) -> &'static str {
        match self {
            Self::PacketTypeZero | Self::NotInVersion(_) => "§2.1.2 of 5.0",
            Self::HeaderFlags(_) => "MQTT-2.2.2-2",
            Self::PublishQoS3 => "MQTT-3.3.1-4",
            Self::DupWithQoS0 => "MQTT-3.3.1-2",
            Self::VarintTooLong => "§1.5.5 of 5.0",
            Self::VarintNotMinimal => "MQTT-1.5.5-1 of 5.0",
            Self::BodyTooShort | Self::TrailingBytes => "§2.1.4 of 5.0",
            Self::FieldPastEnd => "§1.5.4, §1.5.6 of 5.0",
            Self::NotUtf8 => "MQTT-1.5.3-1",
            Self::NulCharacter => "MQTT-1.5.3-2",
            Self::ForbiddenCharacter => "§1.5.4 of 5.0",
            Self::PacketIdZero => "MQTT-2.3.1-1",
            Self::TopicName(TopicError::WildcardInName) => "MQTT-3.3.2-2",
            Self::TopicName(error) | Self::TopicFilter(error) => error.clause(),
            Self::UnknownProtocolName => "MQTT-3.1.2-1",
            Self::UnsupportedProtocolLevel(_) => "MQTT-3.1.2-2",
            Self::ConnectReservedFlag => "MQTT-3.1.2-3",
            Self::WillQoSWithoutWill => "MQTT-3.1.2-13",
            Self::WillRetainWithoutWill => "MQTT-3.1.2-15",
            Self::WillQoS3 => "MQTT-3.1.2-14",
            Self::PasswordWithoutUserName => "MQTT-3.1.2-22",
            Self::ConnAckFlags => "MQTT-3.2.2-1 of 5.0",
            Self::ReasonCode(packet_type, _) => reason_code_clause(*packet_type),
            Self::NoReasonCodes(PacketType::UnsubAck) => "MQTT-3.11.3-1 of 5.0",
            Self::NoReasonCodes(_) => "MQTT-3.8.4-5",
            Self::NoFilters(PacketType::Unsubscribe) => "MQTT-3.10.3-2",
            Self::NoFilters(_) => "MQTT-3.8.3-3",
            Self::SubscribeOptionsReserved | Self::SubscribeQoS3 => "MQTT-3-8.3-4",
            Self::RetainHandling3 => "§3.8.3.1 of 5.0",
            Self::NoLocalOnShared => "MQTT-3.8.3-4 of 5.0",
            Self::MalformedShare => "MQTT-4.8.2-2 of 5.0",
            Self::PropertiesPastEnd | Self::PropertyCutShort => "§2.2.2.1 of 5.0",
            Self::PropertyUnknown(_) | Self::PropertyNotAllowed(..) | Self::PropertyTwice(_) => {
                "§2.2.2.2 of 5.0"
            }
            Self::PropertyZero(PropertyId::ReceiveMaximum) => "§3.1.2.11.3 of 5.0",
            Self::PropertyZero(PropertyId::MaximumPacketSize) => "§3.1.2.11.4 of 5.0",
            Self::PropertyZero(PropertyId::TopicAlias) => "MQTT-3.3.2-8 of 5.0",
            Self::PropertyZero(_) => "§3.8.2.1.2 of 5.0",
            Self::PropertyValue(id) => flag_clause(*id),
            Self::AuthDataWithoutMethod => "§3.1.2.11.10 of 5.0",
            Self::AuthMethodMissing => "§3.15.2.2.2 of 5.0",
            Self::ResponseTopic(_) => "MQTT-3.3.2-14 of 5.0",
        }
    }

    /// What a server of 5.0 answers before it closes the connection. [§4.13]
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::UnknownProtocolName | Self::UnsupportedProtocolLevel(_) => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::PropertyZero(PropertyId::TopicAlias) => ReasonCode::TopicAliasInvalid,
            // 0x8F and 0x90 are for what is correctly formed and not accepted; what is not formed correctly is malformed.
            Self::TopicName(TopicError::Empty)
            | Self::NotInVersion(_)
            | Self::PacketIdZero
            | Self::ReasonCode(..)
            | Self::NoReasonCodes(_)
            | Self::NoFilters(_)
            | Self::SubscribeQoS3
            | Self::RetainHandling3
            | Self::NoLocalOnShared
            | Self::PropertyTwice(_)
            | Self::PropertyZero(_)
            | Self::PropertyValue(_)
            | Self::AuthDataWithoutMethod
            | Self::AuthMethodMissing
            | Self::ResponseTopic(_) => ReasonCode::ProtocolError,
            _ => ReasonCode::MalformedPacket,
        }
    }
}

fn reason_code_clause(packet_type: PacketType) -> &'static str {
    match packet_type {
        PacketType::ConnAck => "MQTT-3.2.2-8 of 5.0",
        PacketType::PubAck => "MQTT-3.4.2-1 of 5.0",
        PacketType::PubRec => "MQTT-3.5.2-1 of 5.0",
        PacketType::PubRel => "MQTT-3.6.2-1 of 5.0",
        PacketType::PubComp => "MQTT-3.7.2-1 of 5.0",
        PacketType::SubAck => "MQTT-3.9.3-2",
        PacketType::UnsubAck => "MQTT-3.11.3-2 of 5.0",
        PacketType::Disconnect => "MQTT-3.14.2-1 of 5.0",
        _ => "MQTT-3.15.2-1 of 5.0",
    }
}

fn flag_clause(id: PropertyId) -> &'static str {
    match id {
        PropertyId::PayloadFormatIndicator => "§3.3.2.3.2 of 5.0",
        PropertyId::RequestResponseInformation => "§3.1.2.11.6 of 5.0",
        PropertyId::RequestProblemInformation => "§3.1.2.11.7 of 5.0",
        PropertyId::MaximumQoS => "§3.2.2.3.4 of 5.0",
        PropertyId::RetainAvailable => "§3.2.2.3.5 of 5.0",
        PropertyId::WildcardSubscriptionAvailable => "§3.2.2.3.11 of 5.0",
        PropertyId::SubscriptionIdentifierAvailable => "§3.2.2.3.12 of 5.0",
        _ => "§3.2.2.3.13 of 5.0",
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PacketTypeZero => f.write_str("a packet type of zero"),
            Self::HeaderFlags(packet_type) => write!(f, "header flags that {packet_type} does not have"),
            Self::PublishQoS3 => f.write_str("a PUBLISH of QoS 3"),
            Self::DupWithQoS0 => f.write_str("a PUBLISH of QoS 0 that claims to be a repeat"),
            Self::NotInVersion(packet_type) => write!(f, "{packet_type}, which this version does not have"),
            Self::VarintTooLong => f.write_str("a variable byte integer of more than four bytes"),
            Self::VarintNotMinimal => f.write_str("a variable byte integer longer than it needs to be"),
            Self::BodyTooShort => f.write_str("a packet that ends before it is complete"),
            Self::FieldPastEnd => f.write_str("a text or data longer than their packet"),
            Self::TrailingBytes => f.write_str("a packet that goes on after it is complete"),
            Self::NotUtf8 => f.write_str("a text that is not UTF-8"),
            Self::NulCharacter => f.write_str("a text with U+0000 in it"),
            Self::ForbiddenCharacter => f.write_str("a name with control characters or non-characters in it"),
            Self::PacketIdZero => f.write_str("a packet identifier of zero"),
            Self::TopicName(error) => write!(f, "a topic name that is none: {error}"),
            Self::TopicFilter(error) => write!(f, "a topic filter that is none: {error}"),
            Self::UnknownProtocolName => f.write_str("a protocol that is not MQTT"),
            Self::UnsupportedProtocolLevel(level) => {
                write!(f, "protocol level {level}; 3 (MQIsdp), 4 and 5 (MQTT) are spoken here")
            }
            Self::ConnectReservedFlag => f.write_str("the reserved flag of CONNECT set"),
            Self::WillQoSWithoutWill => f.write_str("a will QoS without a will"),
            Self::WillRetainWithoutWill => f.write_str("a will to be retained, but no will"),
            Self::WillQoS3 => f.write_str("a will of QoS 3"),
            Self::PasswordWithoutUserName => f.write_str("a password without a user name"),
            Self::ConnAckFlags => f.write_str("reserved flags of CONNACK set"),
            Self::ReasonCode(packet_type, code) => {
                write!(f, "code {code:#04x}, which {packet_type} cannot carry")
            }
            Self::NoReasonCodes(packet_type) => write!(f, "{packet_type} without a code"),
            Self::NoFilters(packet_type) => write!(f, "{packet_type} without a topic filter"),
            Self::SubscribeOptionsReserved => f.write_str("reserved bits of subscription options set"),
            Self::SubscribeQoS3 => f.write_str("a subscription of QoS 3"),
            Self::RetainHandling3 => f.write_str("a subscription with retain handling 3"),
            Self::NoLocalOnShared => f.write_str("a shared subscription with No Local"),
            Self::MalformedShare => f.write_str("a shared subscription that is not $share/NAME/FILTER"),
            Self::PropertiesPastEnd => f.write_str("properties longer than their packet"),
            Self::PropertyCutShort => f.write_str("properties that end in the middle of one"),
            Self::PropertyUnknown(number) => write!(f, "an unknown property, {number:#04x}"),
            Self::PropertyNotAllowed(id, place) => write!(f, "the property {id} in {place}"),
            Self::PropertyTwice(id) => write!(f, "the property {id} twice"),
            Self::PropertyZero(id) => write!(f, "the property {id} of zero"),
            Self::PropertyValue(id) => write!(f, "the property {id} neither 0 nor 1"),
            Self::AuthDataWithoutMethod => f.write_str("authentication data without a method"),
            Self::AuthMethodMissing => f.write_str("AUTH without an authentication method"),
            Self::ResponseTopic(error) => write!(f, "a response topic that is none: {error}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a packet could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A text or data of more than 65,535 bytes, or a body of more than 268,435,455.
    TooLarge,
    /// The version does not have this packet.
    NotInVersion(PacketType, ProtocolVersion),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("cannot encode a packet larger than the protocol allows"),
            Self::NotInVersion(packet_type, version) => {
                write!(
                    f,
                    "cannot encode {packet_type}: level {} of the protocol does not have it",
                    version.level()
                )
            }
        }
    }
}

impl std::error::Error for EncodeError {}
