//! As much of MQTT as a device needs, written without the broker's own codec: so that an error there is not made twice.

/// The protocol versions clients speak here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// Where devices publish.
pub const TELEMETRY: &str = "v1/devices/me/telemetry";

/// PINGREQ, whole.
pub const PINGREQ: [u8; 2] = [0xC0, 0];
/// DISCONNECT with success, whole.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// What a client hears from the broker.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    ConnAck { code: u8, terms: Terms },
    PubAck { packet_id: u16, code: u8 },
    PingResp,
    Disconnect { code: u8 },
}

/// What a CONNACK says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub receive_maximum: u16,
    pub keep_alive_s: Option<u16>,
}

pub struct Connect<'a> {
    pub version: Version,
    pub client_id: &'a str,
    pub token: &'a str,
    pub keep_alive_s: u16,
    pub will: Option<&'a str>,
}

impl Connect<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = text(b"MQTT");
        body.push(if self.version == Version::V5 { 5 } else { 4 });
        body.push(0b1000_0010 | if self.will.is_some() { 0b0000_0100 } else { 0 });
        body.extend(self.keep_alive_s.to_be_bytes());
        self.no_properties(&mut body);
        body.extend(text(self.client_id.as_bytes()));
        if let Some(will) = self.will {
            self.no_properties(&mut body);
            body.extend(text(TELEMETRY.as_bytes()));
            body.extend(text(will.as_bytes()));
        }
        body.extend(text(self.token.as_bytes()));
        packet(0x10, &body)
    }

    fn no_properties(&self, body: &mut Vec<u8>) {
        if self.version == Version::V5 {
            body.push(0);
        }
    }
}

/// A PUBLISH: with a packet id it is QoS 1, else QoS 0.
pub fn publish(
    version: Version,
    topic: &str,
    packet_id: Option<u16>,
    again: bool,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = text(topic.as_bytes());
    let mut first = 0x30;
    if let Some(packet_id) = packet_id {
        first |= 0x02 | if again { 0x08 } else { 0 };
        body.extend(packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(payload);
    packet(first, &body)
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        let low = (rest % 128) as u8;
        rest /= 128;
        bytes.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// Takes the first whole packet off `bytes`; words if it is none that a broker may send.
pub fn take_packet(bytes: &mut Vec<u8>, version: Version) -> Result<Option<Heard>, String> {
    let Some((length, header)) = remaining_length(bytes)? else { return Ok(None) };
    if bytes.len() < header + length {
        return Ok(None);
    }
    let frame: Vec<u8> = bytes.drain(..header + length).collect();
    let heard = hear(frame[0], &frame[header..], version);
    heard.map(Some).ok_or_else(|| format!("the broker sent {frame:02x?}"))
}

fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut length = 0;
    for index in 0..4 {
        let Some(byte) = bytes.get(index + 1) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((length, index + 2)));
        }
    }
    Err(format!("the broker sent an endless length: {:02x?}", &bytes[..5]))
}

fn hear(first: u8, body: &[u8], version: Version) -> Option<Heard> {
    match (first, body) {
        (0x20, [0, code]) if version == Version::V311 => Some(Heard::ConnAck { code: *code, terms: USUAL }),
        (0x20, [0, code, rest @ ..]) if version == Version::V5 => {
            Some(Heard::ConnAck { code: *code, terms: terms(rest)? })
        }
        (0x40, [high, low]) => Some(Heard::PubAck { packet_id: u16::from_be_bytes([*high, *low]), code: 0 }),
        (0x40, [high, low, code, ..]) if version == Version::V5 => {
            Some(Heard::PubAck { packet_id: u16::from_be_bytes([*high, *low]), code: *code })
        }
        (0xD0, []) => Some(Heard::PingResp),
        (0xE0, [code, ..]) if version == Version::V5 => Some(Heard::Disconnect { code: *code }),
        _ => None,
    }
}

/// What holds if nothing is said.
const USUAL: Terms = Terms { receive_maximum: u16::MAX, keep_alive_s: None };

/// Finds the terms among the properties of a CONNACK; None if they cannot be read. [§3.2.2.3]
fn terms(properties: &[u8]) -> Option<Terms> {
    let (length, mut rest) = properties.split_first()?;
    if usize::from(*length) != rest.len() {
        return None;
    }
    let mut found = USUAL;
    while let [id, after @ ..] = rest {
        let bytes = match id {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x1F => 2 + usize::from(u16::from_be_bytes([*after.first()?, *after.get(1)?])),
            _ => return None,
        };
        let number = || Some(u16::from_be_bytes([*after.first()?, *after.get(1)?]));
        match id {
            0x21 => found.receive_maximum = number()?,
            0x13 => found.keep_alive_s = number(),
            _ => {}
        }
        rest = after.get(bytes..)?;
    }
    Some(found)
}
