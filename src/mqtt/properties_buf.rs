//! Properties being put together, on their way out or to be kept.

use std::fmt;

use super::{
    packet::QoS, properties::Properties, property::Property, property_table::PropertyId,
    strings::find_forbidden, wire::VARINT_MAX,
};

/// Properties that own their bytes.
///
/// Which packet they are for is not known here; `encode` asserts in debug builds that the packet may carry them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PropertiesBuf(Vec<u8>);

impl PropertiesBuf {
    /// No properties yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a property behind the others.
    ///
    /// Texts may hold what peers made us say: U+0000 becomes U+FFFD, and what goes past 65,535 bytes is left out.
    ///
    /// # Panics
    /// If the value is one no peer would take (a number of 0, a Maximum QoS of 2, data over 65,535 bytes, a client
    /// identifier with control characters), or the property is there already and may not repeat.
    pub fn push(&mut self, property: Property<'_>) {
        let id = property.id();
        let repeats = matches!(id, PropertyId::UserProperty | PropertyId::SubscriptionIdentifier);
        assert!(
            repeats || self.as_properties().iter().all(|other| other.id() != id),
            "{id} is there already"
        );
        assert!(is_allowed_value(property), "{id} cannot have this value");
        property.write(&mut self.0);
    }

    /// What has been put together so far.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties::from_written(&self.0)
    }
}

impl From<Properties<'_>> for PropertiesBuf {
    fn from(properties: Properties<'_>) -> Self {
        Self(properties.as_bytes().to_vec())
    }
}

fn is_allowed_value(property: Property<'_>) -> bool {
    match property {
        Property::ReceiveMaximum(number) | Property::TopicAlias(number) => number != 0,
        Property::MaximumPacketSize(bytes) => bytes != 0,
        Property::SubscriptionIdentifier(identifier) => (1..=VARINT_MAX).contains(&identifier),
        Property::MaximumQoS(qos) => qos != QoS::ExactlyOnce,
        Property::AssignedClientIdentifier(identifier) => find_forbidden(identifier).is_none(),
        Property::CorrelationData(data) | Property::AuthenticationData(data) => {
            data.len() <= usize::from(u16::MAX)
        }
        _ => true,
    }
}

impl fmt::Debug for PropertiesBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_properties().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{packet::PacketType, property_table::PropertyPlace},
        *,
    };

    #[test]
    fn what_was_pushed_is_read_back_in_order() {
        let mut buf = PropertiesBuf::new();
        assert!(buf.as_properties().is_empty());
        buf.push(Property::ReasonString("full"));
        buf.push(Property::UserProperty("k", "v"));
        buf.push(Property::UserProperty("k", "v"));
        let properties = buf.as_properties();
        assert_eq!(properties.reason_string(), Some("full"));
        assert_eq!(properties.user_properties().count(), 2);
        let place = PropertyPlace::Packet(PacketType::PubAck);
        assert_eq!(Properties::validate(properties.as_bytes(), place), Ok(properties));
        assert_eq!(PropertiesBuf::from(properties), buf);
        let shown = r#"[Reason String("full"), User Property("k", "v"), User Property("k", "v")]"#;
        assert_eq!(format!("{buf:?}"), shown);
    }

    #[test]
    fn texts_are_made_to_fit_the_wire() {
        let mut buf = PropertiesBuf::new();
        buf.push(Property::ReasonString("unknown key a\0b"));
        buf.push(Property::UserProperty("k", &"é".repeat(40_000)));
        let properties = buf.as_properties();
        assert_eq!(properties.reason_string(), Some("unknown key a\u{FFFD}b"));
        let (_, value) = properties.user_properties().next().expect("pushed");
        assert_eq!(value.len(), 65_534, "an é of two bytes is not cut in half");
    }

    #[test]
    #[should_panic(expected = "Reason String is there already")]
    fn a_second_reason_string_is_our_own_bug() {
        let mut buf = PropertiesBuf::new();
        buf.push(Property::ReasonString("a"));
        buf.push(Property::ReasonString("b"));
    }

    #[test]
    fn values_the_standard_forbids_are_our_own_bugs() {
        let long = vec![0; 65_536];
        for property in [
            Property::ReceiveMaximum(0),
            Property::TopicAlias(0),
            Property::MaximumPacketSize(0),
            Property::SubscriptionIdentifier(0),
            Property::SubscriptionIdentifier(VARINT_MAX + 1),
            Property::MaximumQoS(QoS::ExactlyOnce),
            Property::AssignedClientIdentifier("a\n"),
            Property::CorrelationData(&long),
            Property::AuthenticationData(&long),
        ] {
            assert!(!is_allowed_value(property), "{property:?}");
        }
        assert!(is_allowed_value(Property::MaximumQoS(QoS::AtLeastOnce)));
    }
}
