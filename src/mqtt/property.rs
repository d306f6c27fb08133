//! One property of 5.0: its value, how it is read and how it is written. [§2.2.2]

use std::{borrow::Cow, fmt};

use nom::{
    Parser,
    combinator::map,
    number::complete::{be_u8, be_u16, be_u32},
    sequence::pair,
};

use super::{
    error::DecodeError,
    packet::QoS,
    property_table::PropertyId,
    sink::Sink,
    topic::TopicName,
    wire::{self, Parsed},
};

/// One property with its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// Whether the payload is UTF-8 text. [§3.3.2.3.2]
    PayloadFormatIndicator(bool),
    /// Seconds a message lives. [§3.3.2.3.3]
    MessageExpiryInterval(u32),
    /// What the payload is, in the application's words. [§3.3.2.3.9]
    ContentType(&'a str),
    /// Where an answer is expected. [§3.3.2.3.5]
    ResponseTopic(TopicName<'a>),
    /// What tells which question an answer answers. [§3.3.2.3.6]
    CorrelationData(&'a [u8]),
    /// A number for a subscription, 1 to 268,435,455. [§3.8.2.1.2]
    SubscriptionIdentifier(u32),
    /// Seconds a session outlives its connection; `u32::MAX` means for ever. [§3.1.2.11.2]
    SessionExpiryInterval(u32),
    /// The client identifier the server chose. [§3.2.2.3.7]
    AssignedClientIdentifier(&'a str),
    /// Seconds of keep-alive the server wants. [§3.2.2.3.14]
    ServerKeepAlive(u16),
    /// How both sides authenticate. [§3.1.2.11.9]
    AuthenticationMethod(&'a str),
    /// A step of that method. [§3.1.2.11.10]
    AuthenticationData(&'a [u8]),
    /// Whether the client wants reason strings and user properties on failures. [§3.1.2.11.7]
    RequestProblemInformation(bool),
    /// Seconds between the end of a connection and its will. [§3.1.3.2.2]
    WillDelayInterval(u32),
    /// Whether the client wants response information. [§3.1.2.11.6]
    RequestResponseInformation(bool),
    /// What response topics are to be made of. [§3.2.2.3.15]
    ResponseInformation(&'a str),
    /// Another server to use. [§3.2.2.3.16]
    ServerReference(&'a str),
    /// What happened, for people. [§3.4.2.2.2]
    ReasonString(&'a str),
    /// QoS 1 and 2 messages accepted unacknowledged, at least 1. [§3.1.2.11.3]
    ReceiveMaximum(u16),
    /// The highest topic alias accepted. [§3.1.2.11.5]
    TopicAliasMaximum(u16),
    /// A number for a topic name, at least 1. [§3.3.2.3.4]
    TopicAlias(u16),
    /// The highest quality of service the server has: 0 or 1. [§3.2.2.3.4]
    MaximumQoS(QoS),
    /// Whether the server retains. [§3.2.2.3.5]
    RetainAvailable(bool),
    /// A key and a value, in the application's words. [§3.1.2.11.8]
    UserProperty(&'a str, &'a str),
    /// The largest packet accepted, in bytes, at least 1. [§3.1.2.11.4]
    MaximumPacketSize(u32),
    /// Whether the server has wildcard subscriptions. [§3.2.2.3.11]
    WildcardSubscriptionAvailable(bool),
    /// Whether the server has subscription identifiers. [§3.2.2.3.12]
    SubscriptionIdentifierAvailable(bool),
    /// Whether the server has shared subscriptions. [§3.2.2.3.13]
    SharedSubscriptionAvailable(bool),
}

/// A value without its meaning: what the wire knows.
enum Value<'a> {
    Byte(u8),
    Two(u16),
    Four(u32),
    Varint(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

impl<'a> Property<'a> {
    /// Which property this is.
    pub fn id(&self) -> PropertyId {
        match self {
            Self::PayloadFormatIndicator(_) => PropertyId::PayloadFormatIndicator,
            Self::MessageExpiryInterval(_) => PropertyId::MessageExpiryInterval,
            Self::ContentType(_) => PropertyId::ContentType,
            Self::ResponseTopic(_) => PropertyId::ResponseTopic,
            Self::CorrelationData(_) => PropertyId::CorrelationData,
            Self::SubscriptionIdentifier(_) => PropertyId::SubscriptionIdentifier,
            Self::SessionExpiryInterval(_) => PropertyId::SessionExpiryInterval,
            Self::AssignedClientIdentifier(_) => PropertyId::AssignedClientIdentifier,
            Self::ServerKeepAlive(_) => PropertyId::ServerKeepAlive,
            Self::AuthenticationMethod(_) => PropertyId::AuthenticationMethod,
            Self::AuthenticationData(_) => PropertyId::AuthenticationData,
            Self::RequestProblemInformation(_) => PropertyId::RequestProblemInformation,
            Self::WillDelayInterval(_) => PropertyId::WillDelayInterval,
            Self::RequestResponseInformation(_) => PropertyId::RequestResponseInformation,
            Self::ResponseInformation(_) => PropertyId::ResponseInformation,
            Self::ServerReference(_) => PropertyId::ServerReference,
            Self::ReasonString(_) => PropertyId::ReasonString,
            Self::ReceiveMaximum(_) => PropertyId::ReceiveMaximum,
            Self::TopicAliasMaximum(_) => PropertyId::TopicAliasMaximum,
            Self::TopicAlias(_) => PropertyId::TopicAlias,
            Self::MaximumQoS(_) => PropertyId::MaximumQoS,
            Self::RetainAvailable(_) => PropertyId::RetainAvailable,
            Self::UserProperty(..) => PropertyId::UserProperty,
            Self::MaximumPacketSize(_) => PropertyId::MaximumPacketSize,
            Self::WildcardSubscriptionAvailable(_) => PropertyId::WildcardSubscriptionAvailable,
            Self::SubscriptionIdentifierAvailable(_) => PropertyId::SubscriptionIdentifierAvailable,
            Self::SharedSubscriptionAvailable(_) => PropertyId::SharedSubscriptionAvailable,
        }
    }

    /// Reads the value of the property `id`.
    pub(super) fn read(id: PropertyId, input: &'a [u8]) -> Parsed<'a, Self> {
        use PropertyId as Id;
        match id {
            Id::PayloadFormatIndicator => map(flag(id), Self::PayloadFormatIndicator).parse(input),
            Id::MessageExpiryInterval => map(be_u32, Self::MessageExpiryInterval).parse(input),
            Id::ContentType => map(wire::text, Self::ContentType).parse(input),
            Id::ResponseTopic => map(response_topic, Self::ResponseTopic).parse(input),
            Id::CorrelationData => map(wire::binary, Self::CorrelationData).parse(input),
            Id::SubscriptionIdentifier => {
                map(not_zero(id, wire::varint), Self::SubscriptionIdentifier).parse(input)
            }
            Id::SessionExpiryInterval => map(be_u32, Self::SessionExpiryInterval).parse(input),
            Id::AssignedClientIdentifier => map(wire::name, Self::AssignedClientIdentifier).parse(input),
            Id::ServerKeepAlive => map(be_u16, Self::ServerKeepAlive).parse(input),
            Id::AuthenticationMethod => map(wire::text, Self::AuthenticationMethod).parse(input),
            Id::AuthenticationData => map(wire::binary, Self::AuthenticationData).parse(input),
            Id::RequestProblemInformation => map(flag(id), Self::RequestProblemInformation).parse(input),
            Id::WillDelayInterval => map(be_u32, Self::WillDelayInterval).parse(input),
            Id::RequestResponseInformation => map(flag(id), Self::RequestResponseInformation).parse(input),
            Id::ResponseInformation => map(wire::text, Self::ResponseInformation).parse(input),
            Id::ServerReference => map(wire::text, Self::ServerReference).parse(input),
            Id::ReasonString => map(wire::text, Self::ReasonString).parse(input),
            Id::ReceiveMaximum => map(not_zero(id, be_u16), Self::ReceiveMaximum).parse(input),
            Id::TopicAliasMaximum => map(be_u16, Self::TopicAliasMaximum).parse(input),
            Id::TopicAlias => map(not_zero(id, be_u16), Self::TopicAlias).parse(input),
            Id::MaximumQoS => map(flag(id), |one| Self::MaximumQoS(maximum_qos(one))).parse(input),
            Id::RetainAvailable => map(flag(id), Self::RetainAvailable).parse(input),
            Id::UserProperty => {
                map(pair(wire::text, wire::text), |(key, value)| Self::UserProperty(key, value)).parse(input)
            }
            Id::MaximumPacketSize => map(not_zero(id, be_u32), Self::MaximumPacketSize).parse(input),
            Id::WildcardSubscriptionAvailable => {
                map(flag(id), Self::WildcardSubscriptionAvailable).parse(input)
            }
            Id::SubscriptionIdentifierAvailable => {
                map(flag(id), Self::SubscriptionIdentifierAvailable).parse(input)
            }
            Id::SharedSubscriptionAvailable => map(flag(id), Self::SharedSubscriptionAvailable).parse(input),
        }
    }

    /// Writes identifier and value; texts are made to fit.
    ///
    /// # Panics
    /// If data are longer than 65,535 bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(self.id() as u8);
        match self.value() {
            Value::Byte(value) => out.put_u8(value),
            Value::Two(value) => out.put_u16(value),
            Value::Four(value) => out.put_u32(value),
            Value::Varint(value) => out.put_varint(value),
            Value::Text(text) => put_text(text, out),
            Value::Binary(bytes) => out.put_binary(bytes).expect("the caller measures data"),
            Value::Pair(key, value) => {
                put_text(key, out);
                put_text(value, out);
            }
        }
    }

    fn value(&self) -> Value<'a> {
        match *self {
            Self::PayloadFormatIndicator(value)
            | Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifierAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => Value::Byte(value.into()),
            Self::MaximumQoS(qos) => Value::Byte(qos as u8),
            Self::ServerKeepAlive(value)
            | Self::ReceiveMaximum(value)
            | Self::TopicAliasMaximum(value)
            | Self::TopicAlias(value) => Value::Two(value),
            Self::MessageExpiryInterval(value)
            | Self::SessionExpiryInterval(value)
            | Self::WillDelayInterval(value)
            | Self::MaximumPacketSize(value) => Value::Four(value),
            Self::SubscriptionIdentifier(value) => Value::Varint(value),
            Self::ContentType(text)
            | Self::AssignedClientIdentifier(text)
            | Self::AuthenticationMethod(text)
            | Self::ResponseInformation(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => Value::Text(text),
            Self::ResponseTopic(topic) => Value::Text(topic.as_str()),
            Self::CorrelationData(bytes) | Self::AuthenticationData(bytes) => Value::Binary(bytes),
            Self::UserProperty(key, value) => Value::Pair(key, value),
        }
    }
}

/// Writes a text without U+0000 [MQTT-1.5.3-2], and as much of it as its length can say.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let text = if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { Cow::Borrowed(text) };
    let end = (0..=text.len().min(usize::from(u16::MAX))).rev().find(|end| text.is_char_boundary(*end));
    let fitting = &text.as_bytes()[..end.expect("0 is a boundary")];
    out.put_binary(fitting).expect("cut to fit");
}

fn flag(id: PropertyId) -> impl Fn(&[u8]) -> Parsed<'_, bool> {
    move |input| match be_u8(input)? {
        (rest, 0) => Ok((rest, false)),
        (rest, 1) => Ok((rest, true)),
        _ => Err(DecodeError::PropertyValue(id).into()),
    }
}

fn not_zero<'a, T: Default + PartialEq>(
    id: PropertyId,
    number: impl Fn(&'a [u8]) -> Parsed<'a, T>,
) -> impl Fn(&'a [u8]) -> Parsed<'a, T> {
    move |input| {
        let (rest, value) = number(input)?;
        if value == T::default() { Err(DecodeError::PropertyZero(id).into()) } else { Ok((rest, value)) }
    }
}

fn response_topic(input: &[u8]) -> Parsed<'_, TopicName<'_>> {
    let (rest, text) = wire::name(input)?;
    let topic = TopicName::from_checked(text).map_err(DecodeError::ResponseTopic)?;
    Ok((rest, topic))
}

fn maximum_qos(one: bool) -> QoS {
    if one { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

// What is binary may be a secret: its length is enough to see.
impl fmt::Debug for Property<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple(self.id().name());
        match self.value() {
            Value::Byte(value) => tuple.field(&value),
            Value::Two(value) => tuple.field(&value),
            Value::Four(value) | Value::Varint(value) => tuple.field(&value),
            Value::Text(text) => tuple.field(&text),
            Value::Binary(bytes) => tuple.field(&format_args!("{} bytes", bytes.len())),
            Value::Pair(key, value) => tuple.field(&key).field(&value),
        };
        tuple.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(property: Property<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        property.write(&mut bytes);
        bytes
    }

    #[test]
    fn each_kind_of_value_has_its_bytes() {
        assert_eq!(written(Property::RetainAvailable(true)), [0x25, 1]);
        assert_eq!(written(Property::MaximumQoS(QoS::AtLeastOnce)), [0x24, 1]);
        assert_eq!(written(Property::TopicAlias(0x0102)), [0x23, 1, 2]);
        assert_eq!(written(Property::MessageExpiryInterval(0x0102_0304)), [0x02, 1, 2, 3, 4]);
        assert_eq!(written(Property::SubscriptionIdentifier(321)), [0x0B, 0xC1, 0x02]);
        assert_eq!(written(Property::ContentType("a")), [0x03, 0, 1, b'a']);
        assert_eq!(written(Property::CorrelationData(&[7, 8])), [0x09, 0, 2, 7, 8]);
        assert_eq!(written(Property::UserProperty("k", "")), [0x26, 0, 1, b'k', 0, 0]);
    }

    #[test]
    fn authentication_data_does_not_show_in_debug_output() {
        let shown = format!("{:?}", Property::AuthenticationData(b"SECRET"));
        assert_eq!(shown, "Authentication Data(6 bytes)");
        assert_eq!(format!("{:?}", Property::UserProperty("k", "v")), r#"User Property("k", "v")"#);
    }
}
