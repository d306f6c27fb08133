//! Bodies to packets.
//!
//! One parser for each packet, in the order of the standard; CONNECT and the two packets with filters have files of
//! their own. A packet is what its parser found and nothing after it.

use nom::{
    Parser,
    combinator::{cond, map},
    number::complete::be_u8,
};

use super::{
    decode_connect::connect,
    decode_subscribe::{subscribe, unsubscribe},
    error::DecodeError,
    frame::{DUP, Header, RETAIN},
    packet::{
        Ack, Auth, ConnAck, Disconnect, Packet, PacketType, ProtocolVersion, Publish, QoS, SubAck, UnsubAck,
    },
    properties::Properties,
    reason::ReasonCode,
    topic::TopicName,
    wire::{self, Parsed},
};

/// Makes a packet of a body, whose bytes it borrows.
///
/// `header` comes from `parse_header`, `body` is what follows it. CONNECT says itself which version it is, for all
/// others it is `version`. PUBLISH and what has no list in it allocate nothing; lists are in proportion to the body.
///
/// # Errors
/// The first rule the packet breaks.
///
/// # Panics
/// If `body` is not as long as `header` says.
pub fn decode<'a>(
    header: Header,
    body: &'a [u8],
    version: ProtocolVersion,
) -> Result<Packet<'a>, DecodeError> {
    assert_eq!(body.len(), header.body_bytes, "a body as long as its header says");
    let packet_type = header.packet_type;
    if !packet_type.exists_in(version) {
        return Err(DecodeError::NotInVersion(packet_type));
    }
    let (rest, packet) = match packet_type {
        PacketType::Connect => map(connect, Packet::Connect).parse(body)?,
        PacketType::ConnAck => map(connack(version), Packet::ConnAck).parse(body)?,
        PacketType::Publish => map(publish(header.flags, version), Packet::Publish).parse(body)?,
        PacketType::PubAck => map(ack(packet_type, version), Packet::PubAck).parse(body)?,
        PacketType::PubRec => map(ack(packet_type, version), Packet::PubRec).parse(body)?,
        PacketType::PubRel => map(ack(packet_type, version), Packet::PubRel).parse(body)?,
        PacketType::PubComp => map(ack(packet_type, version), Packet::PubComp).parse(body)?,
        PacketType::Subscribe => map(subscribe(version), Packet::Subscribe).parse(body)?,
        PacketType::SubAck => map(suback(version), Packet::SubAck).parse(body)?,
        PacketType::Unsubscribe => map(unsubscribe(version), Packet::Unsubscribe).parse(body)?,
        PacketType::UnsubAck => map(unsuback(version), Packet::UnsubAck).parse(body)?,
        PacketType::PingReq => (body, Packet::PingReq),
        PacketType::PingResp => (body, Packet::PingResp),
        PacketType::Disconnect => map(disconnect(version), Packet::Disconnect).parse(body)?,
        PacketType::Auth => map(auth, Packet::Auth).parse(body)?,
    };
    if matches!(&packet, Packet::Connect(connect) if connect.version == ProtocolVersion::V5) {
        header.check_minimal()?;
    }
    if rest.is_empty() { Ok(packet) } else { Err(DecodeError::TrailingBytes) }
}

/// CONNACK. [§3.2]
///
/// Session Present beside a refusal [MQTT-3.2.2-4] is let pass: hubs send it, and the refusal is what matters.
fn connack(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, ConnAck<'_>> {
    move |input| {
        let (rest, flags) = be_u8(input)?;
        // 3.1 does not use this byte. [3.1 §3.2]
        let session_present = match flags {
            _ if version == ProtocolVersion::V31 => false,
            0 | 1 => flags == 1,
            _ => return Err(DecodeError::ConnAckFlags.into()),
        };
        let (rest, byte) = be_u8(rest)?;
        let reason = match version {
            ProtocolVersion::V5 => reason_code(PacketType::ConnAck, version, byte)?,
            _ => ReasonCode::from_connack_return_code(byte)
                .ok_or(DecodeError::ReasonCode(PacketType::ConnAck, byte))?,
        };
        let (rest, properties) = wire::properties(PacketType::ConnAck, version)(rest)?;
        Ok((rest, ConnAck { session_present, reason, properties }))
    }
}

/// PUBLISH. [§3.3]
fn publish(flags: u8, version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, Publish<'_>> {
    move |input| {
        let qos = QoS::from_bits(flags >> 1).ok_or(DecodeError::PublishQoS3)?;
        let (rest, topic) = wire::name(input)?;
        let (rest, packet_id) = cond(qos != QoS::AtMostOnce, wire::packet_id).parse(rest)?;
        let (payload, properties) = wire::properties(PacketType::Publish, version)(rest)?;
        let topic = match TopicName::from_checked(topic) {
            Ok(topic) => Some(topic),
            Err(_) if topic.is_empty() && properties.topic_alias().is_some() => None,
            Err(error) => return Err(DecodeError::TopicName(error).into()),
        };
        let (dup, retain) = (flags & DUP != 0, flags & RETAIN != 0);
        Ok((&[][..], Publish { dup, qos, retain, topic, packet_id, properties, payload }))
    }
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP. [§3.4] to [§3.7]
fn ack(packet_type: PacketType, version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, Ack<'_>> {
    move |input| {
        let (rest, packet_id) = wire::packet_id(input)?;
        let (rest, (reason, properties)) = reason_and_properties(packet_type, version)(rest)?;
        Ok((rest, Ack { packet_id, reason, properties }))
    }
}

/// SUBACK. [§3.9]
fn suback(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, SubAck<'_>> {
    move |input| {
        let (rest, packet_id) = wire::packet_id(input)?;
        let (rest, properties) = wire::properties(PacketType::SubAck, version)(rest)?;
        let (rest, reasons) = reason_codes(PacketType::SubAck, version)(rest)?;
        Ok((rest, SubAck { packet_id, properties, reasons }))
    }
}

/// UNSUBACK, which before 5.0 has no codes. [§3.11]
fn unsuback(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, UnsubAck<'_>> {
    move |input| {
        let (rest, packet_id) = wire::packet_id(input)?;
        let (rest, properties) = wire::properties(PacketType::UnsubAck, version)(rest)?;
        let has_codes = version == ProtocolVersion::V5;
        let (rest, reasons) = cond(has_codes, reason_codes(PacketType::UnsubAck, version)).parse(rest)?;
        Ok((rest, UnsubAck { packet_id, properties, reasons: reasons.unwrap_or_default() }))
    }
}

/// DISCONNECT. [§3.14]
fn disconnect(version: ProtocolVersion) -> impl Fn(&[u8]) -> Parsed<'_, Disconnect<'_>> {
    move |input| {
        let (rest, (reason, properties)) = reason_and_properties(PacketType::Disconnect, version)(input)?;
        Ok((rest, Disconnect { reason, properties }))
    }
}

/// AUTH. [§3.15]
///
/// The standard asks for a method in every AUTH and yet lets an AUTH of success be empty; both are honoured.
fn auth(input: &[u8]) -> Parsed<'_, Auth<'_>> {
    if input.is_empty() {
        return Ok((input, Auth { reason: ReasonCode::Success, properties: Properties::EMPTY }));
    }
    let (rest, byte) = be_u8(input)?;
    let reason = reason_code(PacketType::Auth, ProtocolVersion::V5, byte)?;
    let (rest, properties) = wire::properties(PacketType::Auth, ProtocolVersion::V5)(rest)?;
    let says_something = reason != ReasonCode::Success || !properties.is_empty();
    if says_something && properties.authentication_method().is_none() {
        return Err(DecodeError::AuthMethodMissing.into());
    }
    Ok((rest, Auth { reason, properties }))
}

/// Reads the end of a packet that may stop before its reason code (success) or before its properties (none); before
/// 5.0 it always stops. [§3.4.2.1], [§3.14.2.1]
fn reason_and_properties(
    packet_type: PacketType,
    version: ProtocolVersion,
) -> impl Fn(&[u8]) -> Parsed<'_, (ReasonCode, Properties<'_>)> {
    move |input| {
        if version < ProtocolVersion::V5 || input.is_empty() {
            return Ok((input, (ReasonCode::Success, Properties::EMPTY)));
        }
        let (rest, byte) = be_u8(input)?;
        let reason = reason_code(packet_type, version, byte)?;
        if rest.is_empty() {
            return Ok((rest, (reason, Properties::EMPTY)));
        }
        let (rest, properties) = wire::properties(packet_type, version)(rest)?;
        Ok((rest, (reason, properties)))
    }
}

/// Reads all that is left as reason codes, at least one.
fn reason_codes(
    packet_type: PacketType,
    version: ProtocolVersion,
) -> impl Fn(&[u8]) -> Parsed<'_, Vec<ReasonCode>> {
    move |input| {
        if input.is_empty() {
            return Err(DecodeError::NoReasonCodes(packet_type).into());
        }
        let codes: Result<_, _> = input.iter().map(|byte| reason_code(packet_type, version, *byte)).collect();
        Ok((&[][..], codes?))
    }
}

fn reason_code(
    packet_type: PacketType,
    version: ProtocolVersion,
    byte: u8,
) -> Result<ReasonCode, DecodeError> {
    // Before 5.0 only SUBACK gets here, and its one refusal is 0x80. [MQTT-3.9.3-2]
    let in_version = version == ProtocolVersion::V5 || byte <= ReasonCode::UnspecifiedError.as_byte();
    ReasonCode::from_byte(byte)
        .filter(|code| in_version && code.is_defined_in(packet_type))
        .ok_or(DecodeError::ReasonCode(packet_type, byte))
}
