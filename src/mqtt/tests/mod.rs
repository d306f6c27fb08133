//! The codec as a whole: bytes written out by hand, every rule broken once, every cut, many thousand made-up packets.

mod cuts;
mod examples_v3;
mod examples_v5;
mod generator;
mod property_matrix;
mod refused;
mod roundtrip;

use super::*;

/// A packet and the bytes it is, in one version.
struct Example {
    version: ProtocolVersion,
    bytes: &'static [u8],
    packet: Packet<'static>,
}

impl Example {
    fn check(&self) {
        assert_eq!(
            decode_frame(self.bytes, self.version),
            Ok(Some(self.packet.clone())),
            "{:?}",
            self.version
        );
        assert_eq!(encoded(&self.packet, self.version), self.bytes, "{:?}", self.packet);
    }
}

/// All examples of all versions.
fn examples() -> Vec<Example> {
    let mut all = examples_v3::examples();
    all.extend(examples_v5::examples());
    all
}

/// Decodes the packet `bytes` start with; `Ok(None)` if they end before it does.
fn decode_frame(bytes: &[u8], version: ProtocolVersion) -> Result<Option<Packet<'_>>, DecodeError> {
    let Some(header) = parse_header(bytes, version)? else { return Ok(None) };
    match bytes.get(header.header_bytes..header.frame_bytes()) {
        Some(body) => decode(header, body, version).map(Some),
        None => Ok(None),
    }
}

/// The rule the packet breaks; the length in its header is filled in.
fn refusal(first: u8, body: &[u8], version: ProtocolVersion) -> DecodeError {
    decode_frame(&framed(first, body), version).expect_err("a packet that breaks a rule")
}

/// `body` behind a header of its length.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    while left > 127 {
        bytes.push((left % 128) as u8 | 0x80);
        left /= 128;
    }
    bytes.push(left as u8);
    bytes.extend_from_slice(body);
    bytes
}

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(packet, version, &mut bytes).expect("an ordinary packet");
    bytes
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::parse(text).expect(text)
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text).expect(text)
}

/// An acknowledgement that says no more than that.
fn plain_ack(packet_id: u16) -> Ack<'static> {
    Ack { packet_id: id(packet_id), reason: ReasonCode::Success, properties: Properties::EMPTY }
}

/// Options every version has.
fn plain_options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}
