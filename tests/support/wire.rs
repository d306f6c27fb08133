//! MQTT packets as bytes, written out by hand from the standard.

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// Every version.
pub const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// PINGREQ, whole.
pub const PINGREQ: [u8; 2] = [0xC0, 0x00];
/// Where a device sends its telemetry.
pub const TELEMETRY: &str = "v1/devices/me/telemetry";

/// A packet: its first byte, its remaining length, its body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &length(body.len()), body].concat()
}

/// `n` as a variable byte integer, in as few bytes as it takes.
pub fn length(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n % 128) as u8;
        n /= 128;
        bytes.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return bytes;
        }
    }
}

/// Bytes behind their two-byte length: a string or binary data.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a string has at most 65,535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Properties behind their length.
pub fn properties(bytes: &[u8]) -> Vec<u8> {
    [&length(bytes.len())[..], bytes].concat()
}

/// A will: topic, payload, quality of service.
#[derive(Clone, Debug)]
pub struct Will {
    /// Where to.
    pub topic: Vec<u8>,
    /// What.
    pub payload: Vec<u8>,
    /// 0 to 3: the table of hostile packets wants 3 as well.
    pub qos: u8,
}

/// A CONNECT in the making.
#[derive(Clone, Debug)]
pub struct Connect {
    version: Version,
    client_id: Vec<u8>,
    user_name: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    keep_alive_s: u16,
    clean: bool,
    will: Option<Will>,
    properties: Vec<u8>,
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

    /// With this user name: for a device, its token.
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

    /// For a session that outlives the connection, in version 5 for ever.
    pub fn keep_session(mut self) -> Self {
        self.clean = false;
        if self.version == Version::V5 {
            self.properties.extend([0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
        }
        self
    }

    /// With this will.
    pub fn will(mut self, topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, qos: u8) -> Self {
        self.will = Some(Will { topic: topic.as_ref().to_vec(), payload: payload.as_ref().to_vec(), qos });
        self
    }

    /// With these properties, already as bytes (5.0).
    pub fn properties(mut self, bytes: &[u8]) -> Self {
        self.properties = bytes.to_vec();
        self
    }

    /// The connect flags its parts call for. [§3.1.2.3]
    pub fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | (will.qos << 3));
        u8::from(self.user_name.is_some()) << 7
            | u8::from(self.password.is_some()) << 6
            | will
            | u8::from(self.clean) << 1
    }

    /// The whole packet.
    pub fn bytes(&self) -> Vec<u8> {
        packet(0x10, &self.body_with_flags(self.flags()))
    }

    /// The body with other connect flags than its parts call for.
    pub fn body_with_flags(&self, flags: u8) -> Vec<u8> {
        let (name, level): (&str, u8) = match self.version {
            Version::V31 => ("MQIsdp", 3),
            Version::V311 => ("MQTT", 4),
            Version::V5 => ("MQTT", 5),
        };
        let mut body = text(name);
        body.extend([level, flags]);
        body.extend(self.keep_alive_s.to_be_bytes());
        if self.version == Version::V5 {
            body.extend(properties(&self.properties));
        }
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            if self.version == Version::V5 {
                body.push(0);
            }
            body.extend(text(&will.topic));
            body.extend(text(&will.payload));
        }
        for part in [&self.user_name, &self.password].into_iter().flatten() {
            body.extend(text(part));
        }
        body
    }
}

/// A PUBLISH; `id` is left out at QoS 0.
pub fn publish(
    version: Version,
    topic: impl AsRef<[u8]>,
    qos: u8,
    id: u16,
    payload: impl AsRef<[u8]>,
) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(payload.as_ref());
    packet(0x30 | (qos << 1), &body)
}

/// A SUBSCRIBE: filters with their option bytes.
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// An UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        body.extend(text(filter));
    }
    packet(0xA2, &body)
}

/// A packet as it came back from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Type and flags.
    pub first: u8,
    /// What follows the remaining length.
    pub body: Vec<u8>,
}

impl Reply {
    /// Takes one whole packet off the front of `bytes`, if one is there.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let (mut at, mut remaining, mut shift) = (1, 0usize, 0);
        loop {
            let byte = *bytes.get(at)?;
            at += 1;
            remaining |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            assert!(shift <= 28, "the broker sent a remaining length of five bytes");
            if byte & 0x80 == 0 {
                break;
            }
        }
        if bytes.len() < at + remaining {
            return None;
        }
        let rest = bytes.split_off(at + remaining);
        let whole = std::mem::replace(bytes, rest);
        Some(Self { first: whole[0], body: whole[at..].to_vec() })
    }

    /// The code of a CONNACK.
    pub fn connack(&self) -> Option<u8> {
        (self.first == 0x20).then(|| self.body[1])
    }

    /// Packet id and code of a PUBACK; a short one means success. [§3.4.2.1]
    pub fn puback(&self) -> Option<(u16, u8)> {
        let id = || u16::from_be_bytes([self.body[0], self.body[1]]);
        (self.first == 0x40).then(|| (id(), self.body.get(2).copied().unwrap_or(0)))
    }

    /// The code of a DISCONNECT; a short one means normal.
    pub fn disconnect(&self) -> Option<u8> {
        (self.first == 0xE0).then(|| self.body.first().copied().unwrap_or(0))
    }

    /// The codes of a SUBACK or UNSUBACK for `id`.
    pub fn codes(&self, version: Version, id: u16) -> Option<&[u8]> {
        if !matches!(self.first, 0x90 | 0xB0) || self.body[..2] != id.to_be_bytes() {
            return None;
        }
        let after_id = &self.body[2..];
        Some(if version == Version::V5 { &after_id[1 + usize::from(after_id[0])..] } else { after_id })
    }

    /// The value of a property of a 5.0 CONNACK, as its bytes; only the numeric ones are known.
    pub fn connack_property(&self, wanted: u8) -> Option<u32> {
        let mut rest = &self.body[3..];
        while let [id, tail @ ..] = rest {
            let size = match id {
                0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
                0x13 | 0x21 | 0x22 => 2,
                0x11 | 0x27 => 4,
                0x12 | 0x1A | 0x1C | 0x1F => 2 + usize::from(u16::from_be_bytes([tail[0], tail[1]])),
                other => panic!("a CONNACK cannot have property {other:#04x}"),
            };
            if *id == wanted {
                return Some(tail[..size].iter().fold(0, |value, byte| value << 8 | u32::from(*byte)));
            }
            rest = &tail[size..];
        }
        None
    }
}
