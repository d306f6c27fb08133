//! A message on its way from one client to others: owned once, shared by everybody it goes to.

use std::time::Duration;

use crate::{
    clock::Mono,
    ids::{ClientKey, IdentityId},
    mqtt::{PacketType, Properties, PropertiesBuf, Property, PropertyPlace, Publish, QoS, TopicName, Will},
};

/// What a message costs in memory beside its topic, payload and properties.
const MESSAGE_BYTES: usize = 112;

/// An application message, as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published: a topic name.
    topic: Box<str>,
    payload: Box<[u8]>,
    /// What is forwarded unaltered, in the order given; empty before version 5. [MQTT-3.3.2-17 of 5.0]
    properties: PropertiesBuf,
    /// With which quality of service it was published.
    pub qos: QoS,
    /// Whether it was published with RETAIN.
    pub retain: bool,
    /// From here on nobody is sent it any more. [MQTT-3.3.2-5 of 5.0]
    expires: Option<Mono>,
    /// Who published it, for No Local; none for a will and for what the broker itself says.
    publisher: Option<ClientKey>,
}

impl Message {
    /// A message without properties.
    pub fn new(topic: TopicName<'_>, payload: &[u8], qos: QoS) -> Self {
        Self {
            topic: topic.as_str().into(),
            payload: payload.into(),
            properties: PropertiesBuf::new(),
            qos,
            retain: false,
            expires: None,
            publisher: None,
        }
    }

    /// What `publish`, received `now` from `publisher`, asks to be forwarded; `topic` is what its alias stands for.
    pub fn published(publish: &Publish<'_>, topic: TopicName<'_>, publisher: ClientKey, now: Mono) -> Self {
        Self {
            properties: forwarded(publish.properties),
            retain: publish.retain,
            expires: expiry(publish.properties, now),
            publisher: Some(publisher),
            ..Self::new(topic, publish.payload, publish.qos)
        }
    }

    /// The message of a will; it lives from the moment it is published, not from CONNECT. [§3.1.3.2.4]
    pub fn of_will(will: &Will<'_>) -> Self {
        Self {
            properties: forwarded(will.properties),
            retain: will.retain,
            ..Self::new(will.topic, will.payload, will.qos)
        }
    }

    /// A message as the store kept it; none if these cannot be the parts of one.
    ///
    /// Its publisher is not known any more.
    pub fn restored(
        topic: &str,
        payload: &[u8],
        properties: &[u8],
        qos: QoS,
        retain: bool,
        expires: Option<Mono>,
    ) -> Option<Self> {
        let place = PropertyPlace::Packet(PacketType::Publish);
        let properties = Properties::validate(properties, place).ok()?;
        let kept = forwarded(properties);
        if kept.as_properties() != properties {
            return None;
        }
        let topic = TopicName::parse(topic).ok()?;
        Some(Self { properties: kept, retain, expires, ..Self::new(topic, payload, qos) })
    }

    /// The same message with a life that ends `span` after `now`.
    pub fn living(mut self, span: Option<Duration>, now: Mono) -> Self {
        self.expires = span.map(|span| now + span);
        self
    }

    /// The same message, of this publisher or of nobody.
    pub fn by(self, publisher: Option<ClientKey>) -> Self {
        Self { publisher, ..self }
    }

    /// Who published it, if that is known.
    pub fn publisher(&self) -> Option<&ClientKey> {
        self.publisher.as_ref()
    }

    /// Whether this client has published it, over this connection or an earlier one. [MQTT-3.8.3-3 of 5.0]
    pub fn is_by(&self, identity: IdentityId, client_id: &str) -> bool {
        self.publisher.as_ref().is_some_and(|by| by.identity == identity && *by.client_id == *client_id)
    }

    /// Where it was published.
    pub fn topic(&self) -> TopicName<'_> {
        TopicName::parse(&self.topic).expect("it was a topic name when it came")
    }

    /// What was published.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What is forwarded with it, message expiry apart.
    pub fn properties(&self) -> Properties<'_> {
        self.properties.as_properties()
    }

    /// When its time is over, if it ever is.
    pub fn expires(&self) -> Option<Mono> {
        self.expires
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Mono) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// The seconds it has left, at least one while it is not over. [MQTT-3.3.2-6 of 5.0]
    pub fn seconds_left(&self, now: Mono) -> Option<u32> {
        self.expires.map(|at| {
            let left = at.since(now);
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
        })
    }

    /// What it costs in memory.
    pub fn bytes(&self) -> usize {
        let publisher = self.publisher.as_ref().map_or(0, |by| by.client_id.len());
        MESSAGE_BYTES + self.topic.len() + self.payload.len() + self.properties().as_bytes().len() + publisher
    }
}

/// The span that a Message Expiry Interval stands for.
pub fn expiry_span(properties: Properties<'_>) -> Option<Duration> {
    properties.message_expiry_interval_s().map(|seconds| Duration::from_secs(seconds.into()))
}

fn expiry(properties: Properties<'_>, now: Mono) -> Option<Mono> {
    if properties.is_empty() {
        return None;
    }
    expiry_span(properties).map(|span| now + span)
}

/// What a receiver gets unaltered; the rest is between the publisher and the broker. [§3.3.2.3]
fn forwarded(properties: Properties<'_>) -> PropertiesBuf {
    let mut kept = PropertiesBuf::new();
    for property in properties.iter() {
        match property {
            Property::PayloadFormatIndicator(_)
            | Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::UserProperty(..) => kept.push(property),
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_its_life_down_in_whole_seconds_mqtt_3_3_2_6() {
        let message = Message::new(TopicName::parse("a").expect("a name"), b"", QoS::AtLeastOnce)
            .living(Some(Duration::from_secs(10)), Mono(0));
        assert_eq!(message.seconds_left(Mono(0)), Some(10));
        assert_eq!(message.seconds_left(Mono(3_500_000)), Some(7));
        assert!(!message.is_expired(Mono(9_999_999)));
        assert_eq!(message.seconds_left(Mono(9_999_999)), Some(1));
        assert!(message.is_expired(Mono(10_000_000)));
    }

    #[test]
    fn what_concerns_the_broker_alone_is_not_forwarded() {
        let mut given = PropertiesBuf::new();
        for property in [
            Property::UserProperty("b", "2"),
            Property::MessageExpiryInterval(5),
            Property::TopicAlias(3),
            Property::ContentType("text"),
            Property::UserProperty("a", "1"),
        ] {
            given.push(property);
        }
        let kept = forwarded(given.as_properties());
        assert!(kept.as_properties().user_properties().eq([("b", "2"), ("a", "1")]));
        assert_eq!(kept.as_properties().content_type(), Some("text"));
        assert_eq!(kept.as_properties().iter().count(), 3);
    }

    #[test]
    fn a_message_is_restored_from_its_parts_and_from_nothing_else() {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::ContentType("text"));
        properties.push(Property::UserProperty("a", "1"));
        let properties = properties.as_properties().as_bytes();
        let restored =
            |topic, properties| Message::restored(topic, b"21", properties, QoS::AtLeastOnce, true, None);
        let message = restored("a/b", properties).expect("sound");
        assert_eq!((message.topic().as_str(), message.payload(), message.retain), ("a/b", &b"21"[..], true));
        assert_eq!(message.properties().as_bytes(), properties);
        assert_eq!(restored("a/+", properties), None, "a filter is no name");
        assert_eq!(restored("", properties), None);
        assert_eq!(restored("a", &properties[..properties.len() - 1]), None, "cut short");
        assert_eq!(restored("a", b"\x23\0\x01"), None, "an alias is never kept");
    }
}
