//! MQTT packets as bytes, written out by hand from the standard.

use super::packets::{Publish, read_properties};

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

/// A PUBLISH; `id` is left out at QoS 0.
pub fn publish(
    version: Version,
    topic: impl AsRef<[u8]>,
    qos: u8,
    id: u16,
    payload: impl AsRef<[u8]>,
) -> Vec<u8> {
    Publish::new(topic, payload).qos(qos, id).bytes(version)
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

    /// The value of a numeric property of a 5.0 CONNACK; for others, it says no more than that they are there.
    pub fn connack_property(&self, wanted: u8) -> Option<u32> {
        let (found, _) = read_properties(&self.body[2..]);
        let value = found.into_iter().find(|(id, _)| *id == wanted)?.1;
        Some(value.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }
}
