//! PUBLISH and CONNECT with everything the standard lets them carry, written and read by hand.

use super::wire::{Reply, Version, length, packet, properties, text};

use Version::V5;

/// A property: its identifier and its value as bytes. [§2.2.2.2]
pub type Property = (u8, Vec<u8>);

pub const PAYLOAD_FORMAT: u8 = 0x01;
pub const MESSAGE_EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION_DATA: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0B;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
pub const AUTHENTICATION_METHOD: u8 = 0x15;
pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub const WILL_DELAY: u8 = 0x18;
pub const REASON_STRING: u8 = 0x1F;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub const TOPIC_ALIAS: u8 = 0x23;
pub const USER_PROPERTY: u8 = 0x26;
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;

pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;

/// A property of one byte.
pub fn byte(id: u8, value: u8) -> Property {
    (id, vec![value])
}

/// A property of two bytes.
pub fn two(id: u8, value: u16) -> Property {
    (id, value.to_be_bytes().to_vec())
}

/// A property of four bytes.
pub fn four(id: u8, value: u32) -> Property {
    (id, value.to_be_bytes().to_vec())
}

/// A property that is a variable byte integer.
pub fn variable(id: u8, value: usize) -> Property {
    (id, length(value))
}

/// A property that is a string or binary data.
pub fn string(id: u8, value: impl AsRef<[u8]>) -> Property {
    (id, text(value))
}

/// A user property.
pub fn pair(name: &str, value: &str) -> Property {
    (USER_PROPERTY, [text(name), text(value)].concat())
}

/// Properties one behind the other, without their length.
pub fn joined(list: &[Property]) -> Vec<u8> {
    list.iter().flat_map(|(id, value)| [&[*id], &value[..]].concat()).collect()
}

/// Reads properties behind their length; gives them and what follows.
pub fn read_properties(bytes: &[u8]) -> (Vec<Property>, &[u8]) {
    let (size, at) = variable_at(bytes);
    let (mut inside, after) = bytes[at..].split_at(size);
    let mut found = Vec::new();
    while let [id, tail @ ..] = inside {
        let string = |at: usize| 2 + usize::from(u16::from_be_bytes([tail[at], tail[at + 1]]));
        let size = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => 1,
            0x13 | 0x21..=0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0B => variable_at(tail).1,
            0x26 => string(0) + string(string(0)),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => string(0),
            other => panic!("there is no property {other:#04x}"),
        };
        found.push((*id, tail[..size].to_vec()));
        inside = &tail[size..];
    }
    (found, after)
}

/// A variable byte integer and how many bytes it takes.
fn variable_at(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, at + 1);
        }
    }
    panic!("no variable byte integer: {bytes:02X?}")
}

/// A PUBLISH, of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub dup: bool,
    pub retain: bool,
    /// Nought at QoS 0.
    pub id: u16,
    pub properties: Vec<Property>,
}

impl Publish {
    /// QoS 0, nothing special.
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            dup: false,
            retain: false,
            id: 0,
            properties: Vec::new(),
        }
    }

    /// At QoS 1 or 2, under this packet identifier.
    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    /// With DUP.
    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// With RETAIN.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// With one more property (5.0).
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The packet as bytes.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = text(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == V5 {
            body.extend(properties(&joined(&self.properties)));
        }
        body.extend(&self.payload);
        packet(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }

    /// Reads a PUBLISH; `None` if it is another packet.
    pub fn read(version: Version, reply: &Reply) -> Option<Self> {
        if reply.first & 0xF0 != 0x30 {
            return None;
        }
        let (topic, mut rest) = reply.body[2..].split_at(usize::from(u16_at(&reply.body)));
        let qos = reply.first >> 1 & 3;
        let mut id = 0;
        if qos > 0 {
            (id, rest) = (u16_at(rest), &rest[2..]);
            assert_ne!(id, 0, "a packet identifier is above zero");
        }
        let mut list = Vec::new();
        if version == V5 {
            (list, rest) = read_properties(rest);
        }
        Some(Self {
            topic: topic.to_vec(),
            payload: rest.to_vec(),
            qos,
            dup: reply.first & 8 != 0,
            retain: reply.first & 1 != 0,
            id,
            properties: list,
        })
    }

    /// The values of a property, in order.
    pub fn values(&self, id: u8) -> Vec<&[u8]> {
        self.properties.iter().filter(|(found, _)| *found == id).map(|(_, value)| &value[..]).collect()
    }

    /// Topic and payload as text.
    pub fn told(&self) -> (&str, &str) {
        let text = |bytes| str::from_utf8(bytes).expect("the test sent text");
        (text(&self.topic), text(&self.payload))
    }
}

fn u16_at(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP in its short form, which every version knows.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// The same with a reason code (5.0).
pub fn ack_with(first: u8, id: u16, code: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()[..], &[code]].concat())
}

/// A SUBSCRIBE with properties (5.0).
pub fn subscribe_with(id: u16, list: &[Property], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(&joined(list)));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// A CONNECT in the making.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: Vec<u8>,
    pub user_name: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub keep_alive_s: u16,
    pub clean: bool,
    /// Topic, payload, QoS (3 as well, for those who try), RETAIN and properties count.
    pub will: Option<Publish>,
    /// Without their length (5.0).
    pub properties: Vec<u8>,
}

impl Connect {
    /// A clean session, a minute of keep-alive, and nobody's name.
    pub fn new(version: Version, client_id: impl AsRef<[u8]>) -> Self {
        Self {
            version,
            client_id: client_id.as_ref().to_vec(),
            user_name: None,
            password: None,
            keep_alive_s: 60,
            clean: true,
            will: None,
            properties: Vec::new(),
        }
    }

    /// With this user name: the token of whoever connects.
    pub fn user(mut self, name: impl AsRef<[u8]>) -> Self {
        self.user_name = Some(name.as_ref().to_vec());
        self
    }

    /// With this password.
    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    /// With this keep-alive, in seconds.
    pub fn keep_alive_s(mut self, keep_alive_s: u16) -> Self {
        self.keep_alive_s = keep_alive_s;
        self
    }

    /// With clean session (clean start) off.
    pub fn keep_session(mut self) -> Self {
        self.clean = false;
        self
    }

    /// For a session that outlives its connection, for as long as it may.
    pub fn durable(self) -> Self {
        let kept = self.keep_session();
        if kept.version == V5 { kept.with(four(SESSION_EXPIRY, u32::MAX)) } else { kept }
    }

    /// With this will.
    pub fn will(mut self, will: Publish) -> Self {
        self.will = Some(will);
        self
    }

    /// With one more property (5.0).
    pub fn with(mut self, property: Property) -> Self {
        self.properties.extend(joined(&[property]));
        self
    }

    /// With these properties, already as bytes (5.0).
    pub fn properties(mut self, bytes: &[u8]) -> Self {
        self.properties = bytes.to_vec();
        self
    }

    /// The connect flags its parts call for. [§3.1.2.3]
    pub fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.user_name.is_some()) << 7
            | u8::from(self.password.is_some()) << 6
            | will
            | u8::from(self.clean) << 1
    }

    /// What stands before the payload, with these flags.
    pub fn head(&self, flags: u8) -> Vec<u8> {
        let (name, level): (&str, u8) = match self.version {
            Version::V31 => ("MQIsdp", 3),
            Version::V311 => ("MQTT", 4),
            V5 => ("MQTT", 5),
        };
        let mut head = text(name);
        head.extend([level, flags]);
        head.extend(self.keep_alive_s.to_be_bytes());
        if self.version == V5 {
            head.extend(properties(&self.properties));
        }
        head
    }

    /// The payload's fields, in their order.
    pub fn fields(&self) -> Vec<u8> {
        let mut fields = text(&self.client_id);
        if let Some(will) = &self.will {
            if self.version == V5 {
                fields.extend(properties(&joined(&will.properties)));
            }
            fields.extend(text(&will.topic));
            fields.extend(text(&will.payload));
        }
        for part in [&self.user_name, &self.password].into_iter().flatten() {
            fields.extend(text(part));
        }
        fields
    }

    /// The body, with other connect flags than its parts call for.
    pub fn body_with_flags(&self, flags: u8) -> Vec<u8> {
        [self.head(flags), self.fields()].concat()
    }

    /// The packet as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        packet(0x10, &self.body_with_flags(self.flags()))
    }
}
