//! The properties of one packet of 5.0: checked once, read where they are. [§2.2.2]

use std::fmt;

use super::{
    error::DecodeError,
    packet::QoS,
    property::Property,
    property_table::{PropertyId, PropertyPlace},
    topic::TopicName,
    wire::{self, Parsed},
};

/// The properties of a packet, as the bytes they were received as, without their length.
///
/// A value of this type is proof that every property is known, well-formed and allowed where it stands, and there once
/// only where it may be there once only. What depends on who sent the packet, or on earlier packets, is for `session/`:
/// for instance that a client sends no Subscription Identifier in PUBLISH. [MQTT-3.3.4-6 of 5.0]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// No properties, as always before 5.0.
    pub const EMPTY: Properties<'static> = Properties(&[]);

    /// Checks the properties in `bytes`, which do not start with their length.
    ///
    /// # Errors
    /// The first rule they break.
    pub fn validate(bytes: &'a [u8], place: PropertyPlace) -> Result<Self, DecodeError> {
        let (mut rest, mut seen) = (bytes, 0);
        while !rest.is_empty() {
            rest = check_next(rest, place, &mut seen).map_err(|error| match error.into() {
                DecodeError::BodyTooShort | DecodeError::FieldPastEnd => DecodeError::PropertyCutShort,
                error => error,
            })?;
        }
        let has = |id: PropertyId| seen & id.bit() != 0;
        if has(PropertyId::AuthenticationData) && !has(PropertyId::AuthenticationMethod) {
            return Err(DecodeError::AuthDataWithoutMethod);
        }
        Ok(Self(bytes))
    }

    /// Wraps what [`super::PropertiesBuf`] has written.
    pub(super) fn from_written(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire, without their length.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The properties in their order.
    pub fn iter(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (after, property) = next(rest).expect("these bytes were checked, or written by us");
            rest = after;
            Some(property)
        })
    }

    /// The numbers of the subscriptions a message answers, or the one a SUBSCRIBE gives; never 0.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(identifier) => Some(identifier),
            _ => None,
        })
    }

    /// Keys and values of the application, in their order; keys may repeat. [MQTT-3.3.2-18 of 5.0]
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(key, value) => Some((key, value)),
            _ => None,
        })
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])+ $name:ident: $variant:ident -> $type:ty;)+) => {
        impl<'a> Properties<'a> {
            $(
                $(#[$doc])+
                pub fn $name(&self) -> Option<$type> {
                    self.iter().find_map(|property| match property {
                        Property::$variant(value) => Some(value),
                        _ => None,
                    })
                }
            )+
        }
    };
}

getters! {
    /// Seconds the session outlives its connection; `u32::MAX` means for ever. [§3.1.2.11.2]
    session_expiry_interval_s: SessionExpiryInterval -> u32;
    /// QoS 1 and 2 messages accepted unacknowledged; never 0. [§3.1.2.11.3]
    receive_maximum: ReceiveMaximum -> u16;
    /// The largest packet accepted, in bytes, header included; never 0. [§3.1.2.11.4]
    maximum_packet_size_bytes: MaximumPacketSize -> u32;
    /// The highest topic alias accepted. [§3.1.2.11.5]
    topic_alias_maximum: TopicAliasMaximum -> u16;
    /// The number that stands for the topic name; never 0. [§3.3.2.3.4]
    topic_alias: TopicAlias -> u16;
    /// Whether the client wants response information. [§3.1.2.11.6]
    request_response_information: RequestResponseInformation -> bool;
    /// Whether the client wants reason strings and user properties on failures. [§3.1.2.11.7]
    request_problem_information: RequestProblemInformation -> bool;
    /// How both sides authenticate. [§3.1.2.11.9]
    authentication_method: AuthenticationMethod -> &'a str;
    /// A step of that method; never to be logged. [§3.1.2.11.10]
    authentication_data: AuthenticationData -> &'a [u8];
    /// Seconds the message lives. [§3.3.2.3.3]
    message_expiry_interval_s: MessageExpiryInterval -> u32;
    /// Whether the payload is UTF-8 text. [§3.3.2.3.2]
    payload_format_indicator: PayloadFormatIndicator -> bool;
    /// What the payload is, in the application's words. [§3.3.2.3.9]
    content_type: ContentType -> &'a str;
    /// Where an answer is expected. [§3.3.2.3.5]
    response_topic: ResponseTopic -> TopicName<'a>;
    /// What tells which question an answer answers. [§3.3.2.3.6]
    correlation_data: CorrelationData -> &'a [u8];
    /// Seconds between the end of the connection and its will. [§3.1.3.2.2]
    will_delay_interval_s: WillDelayInterval -> u32;
    /// Seconds of keep-alive the server wants; 0 for none. [§3.2.2.3.14]
    server_keep_alive_s: ServerKeepAlive -> u16;
    /// The client identifier the server chose. [§3.2.2.3.7]
    assigned_client_identifier: AssignedClientIdentifier -> &'a str;
    /// The highest quality of service the server has, if it is not 2. [§3.2.2.3.4]
    maximum_qos: MaximumQoS -> QoS;
    /// Whether the server retains. [§3.2.2.3.5]
    retain_available: RetainAvailable -> bool;
    /// What happened, for people. [§3.4.2.2.2]
    reason_string: ReasonString -> &'a str;
    /// What response topics are to be made of. [§3.2.2.3.15]
    response_information: ResponseInformation -> &'a str;
    /// Another server to use. [§3.2.2.3.16]
    server_reference: ServerReference -> &'a str;
    /// Whether the server has wildcard subscriptions. [§3.2.2.3.11]
    wildcard_subscription_available: WildcardSubscriptionAvailable -> bool;
    /// Whether the server has subscription identifiers. [§3.2.2.3.12]
    subscription_identifier_available: SubscriptionIdentifierAvailable -> bool;
    /// Whether the server has shared subscriptions. [§3.2.2.3.13]
    shared_subscription_available: SharedSubscriptionAvailable -> bool;
}

/// Checks the property `rest` starts with and gives back what follows it.
fn check_next<'a>(
    rest: &'a [u8],
    place: PropertyPlace,
    seen: &mut u64,
) -> Result<&'a [u8], nom::Err<DecodeError>> {
    let (rest, id) = property_id(rest)?;
    if !id.is_allowed_in(place) {
        return Err(DecodeError::PropertyNotAllowed(id, place).into());
    }
    if *seen & id.bit() != 0 && !id.may_repeat_in(place) {
        return Err(DecodeError::PropertyTwice(id).into());
    }
    *seen |= id.bit();
    let (rest, _) = Property::read(id, rest)?;
    Ok(rest)
}

fn next(input: &[u8]) -> Parsed<'_, Property<'_>> {
    let (rest, id) = property_id(input)?;
    Property::read(id, rest)
}

fn property_id(input: &[u8]) -> Parsed<'_, PropertyId> {
    let (rest, number) = wire::varint(input)?;
    let id = PropertyId::from_number(number).ok_or(DecodeError::PropertyUnknown(number))?;
    Ok((rest, id))
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::packet::PacketType, *};

    const CONNECT: PropertyPlace = PropertyPlace::Packet(PacketType::Connect);
    const CONNACK: PropertyPlace = PropertyPlace::Packet(PacketType::ConnAck);
    const PUBLISH: PropertyPlace = PropertyPlace::Packet(PacketType::Publish);
    const SUBSCRIBE: PropertyPlace = PropertyPlace::Packet(PacketType::Subscribe);

    fn valid(bytes: &[u8], place: PropertyPlace) -> Properties<'_> {
        Properties::validate(bytes, place).expect("valid")
    }

    #[test]
    fn what_a_message_carries_is_read_by_name() {
        let bytes = b"\x01\x01\x02\0\0\0\x3C\x03\0\x01c\x08\0\x03a/b\x09\0\x01\xFF\x23\0\x07";
        let properties = valid(bytes, PUBLISH);
        assert_eq!(properties.payload_format_indicator(), Some(true));
        assert_eq!(properties.message_expiry_interval_s(), Some(60));
        assert_eq!(properties.content_type(), Some("c"));
        assert_eq!(properties.response_topic().map(TopicName::as_str), Some("a/b"));
        assert_eq!(properties.correlation_data(), Some(&[0xFF][..]));
        assert_eq!(properties.topic_alias(), Some(7));
        assert_eq!(properties.receive_maximum(), None);
        assert_eq!(properties.as_bytes(), bytes);
        assert_eq!(valid(b"\x18\0\0\0\x05", PropertyPlace::Will).will_delay_interval_s(), Some(5));
    }

    #[test]
    fn what_a_client_asks_for_is_read_by_name() {
        let bytes =
            b"\x11\xFF\xFF\xFF\xFF\x15\0\x01m\x16\0\x01d\x17\0\x19\x01\x21\0\x14\x22\0\x0A\x27\0\x01\0\0";
        let properties = valid(bytes, CONNECT);
        assert_eq!(properties.session_expiry_interval_s(), Some(u32::MAX));
        assert_eq!(properties.authentication_method(), Some("m"));
        assert_eq!(properties.authentication_data(), Some(&b"d"[..]));
        assert_eq!(properties.request_problem_information(), Some(false));
        assert_eq!(properties.request_response_information(), Some(true));
        assert_eq!(properties.receive_maximum(), Some(20));
        assert_eq!(properties.topic_alias_maximum(), Some(10));
        assert_eq!(properties.maximum_packet_size_bytes(), Some(65_536));
    }

    #[test]
    fn what_a_server_grants_is_read_by_name() {
        let bytes =
            b"\x12\0\x01i\x13\0\x3C\x1A\0\x01r\x1C\0\x01s\x1F\0\x01w\x24\x01\x25\0\x28\x01\x29\0\x2A\x01";
        let properties = valid(bytes, CONNACK);
        assert_eq!(properties.assigned_client_identifier(), Some("i"));
        assert_eq!(properties.server_keep_alive_s(), Some(60));
        assert_eq!(properties.response_information(), Some("r"));
        assert_eq!(properties.server_reference(), Some("s"));
        assert_eq!(properties.reason_string(), Some("w"));
        assert_eq!(properties.maximum_qos(), Some(QoS::AtLeastOnce));
        assert_eq!(properties.retain_available(), Some(false));
        assert_eq!(properties.wildcard_subscription_available(), Some(true));
        assert_eq!(properties.subscription_identifier_available(), Some(false));
        assert_eq!(properties.shared_subscription_available(), Some(true));
    }

    #[test]
    fn user_properties_and_subscription_identifiers_keep_their_order_mqtt_3_3_2_18() {
        let properties = valid(b"\x26\0\x01k\0\x012\x0B\x02\x26\0\x01k\0\x011\x0B\xC1\x02", PUBLISH);
        assert!(properties.user_properties().eq([("k", "2"), ("k", "1")]));
        assert!(properties.subscription_identifiers().eq([2, 321]));
        assert_eq!(
            Properties::validate(b"\x0B\x02\x0B\x03", SUBSCRIBE),
            Err(DecodeError::PropertyTwice(PropertyId::SubscriptionIdentifier))
        );
    }

    #[test]
    fn unknown_numbers_are_malformed_even_long_ones() {
        assert_eq!(Properties::validate(&[0x00], PUBLISH), Err(DecodeError::PropertyUnknown(0)));
        assert_eq!(Properties::validate(&[0x7F, 1], PUBLISH), Err(DecodeError::PropertyUnknown(0x7F)));
        assert_eq!(Properties::validate(&[0x81, 0x01], PUBLISH), Err(DecodeError::PropertyUnknown(129)));
        assert_eq!(Properties::validate(&[0x81, 0x00, 1], PUBLISH), Err(DecodeError::VarintNotMinimal));
    }

    #[test]
    fn authentication_data_never_shows() {
        let shown = format!("{:?}", valid(b"\x15\0\x01m\x16\0\x06SECRET", CONNECT));
        assert_eq!(shown, r#"[Authentication Method("m"), Authentication Data(6 bytes)]"#);
        assert_eq!(Properties::default(), Properties::EMPTY);
        assert!(Properties::EMPTY.is_empty() && Properties::EMPTY.iter().next().is_none());
    }
}
