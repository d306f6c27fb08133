//! Packets to bytes: the mirror of `decode`.
//!
//! What a version cannot say is left out: before 5.0 properties and most reason codes.

use super::{
    decode_connect::{CLEAN, PASSWORD, USER_NAME, WILL, WILL_QOS_SHIFT, WILL_RETAIN},
    decode_subscribe::{NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_HANDLING_SHIFT},
    error::EncodeError,
    frame::{DUP, RETAIN},
    packet::{
        Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, ProtocolVersion, Publish, QoS, SubAck,
        Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, Will,
    },
    properties::Properties,
    property_table::PropertyPlace,
    reason::ReasonCode,
    sink::{Sink, Size},
};

type Written = Result<(), EncodeError>;

/// Appends `packet` to `out` as the bytes of `version`; CONNECT is written in its own version.
///
/// # Errors
/// If the version does not have the packet, or the packet is larger than the protocol allows; `out` is then as before.
///
/// # Panics
/// If the packet is one no peer may be sent: a PUBLISH with a packet identifier at QoS 0 or without one above, or
/// without a topic before 5.0. In debug builds also if it carries properties that have no place in it.
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Written {
    let packet_type = packet.packet_type();
    if !packet_type.exists_in(version) {
        return Err(EncodeError::NotInVersion(packet_type, version));
    }
    let mut size = Size::default();
    put_body(packet, version, &mut size)?;
    // Whatever a length cannot say fails here, before the first byte.
    Size::default().put_length(size.0)?;
    out.reserve(5 + size.0);
    out.put_u8((packet_type as u8) << 4 | header_flags(packet));
    out.put_length(size.0)?;
    put_body(packet, version, out)
}

fn header_flags(packet: &Packet<'_>) -> u8 {
    match packet {
        Packet::Publish(publish) => {
            let bit = |set, flag| if set { flag } else { 0 };
            bit(publish.dup, DUP) | (publish.qos as u8) << 1 | bit(publish.retain, RETAIN)
        }
        other => other.packet_type().fixed_flags(),
    }
}

fn put_body(packet: &Packet<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    match packet {
        Packet::Connect(connect) => put_connect(connect, out),
        Packet::ConnAck(connack) => put_connack(connack, version, out),
        Packet::Publish(publish) => put_publish(publish, version, out),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            put_ack(ack, packet.packet_type(), version, out)
        }
        Packet::Subscribe(subscribe) => put_subscribe(subscribe, version, out),
        Packet::SubAck(suback) => put_suback(suback, version, out),
        Packet::Unsubscribe(unsubscribe) => put_unsubscribe(unsubscribe, version, out),
        Packet::UnsubAck(unsuback) => put_unsuback(unsuback, version, out),
        Packet::PingReq | Packet::PingResp => Ok(()),
        Packet::Disconnect(disconnect) => put_disconnect(disconnect, version, out),
        Packet::Auth(auth) => put_auth(auth, version, out),
    }
}

fn put_connect(connect: &Connect<'_>, out: &mut impl Sink) -> Written {
    let version = connect.version;
    out.put_binary(version.name().as_bytes())?;
    out.put_u8(version.level());
    out.put_u8(connect_flags(connect));
    out.put_u16(connect.keep_alive_s);
    put_properties(connect.properties, PacketType::Connect, version, out)?;
    out.put_binary(connect.client_id.as_bytes())?;
    if let Some(will) = &connect.will {
        put_will(will, version, out)?;
    }
    if let Some(user_name) = connect.user_name {
        out.put_binary(user_name.as_bytes())?;
    }
    if let Some(password) = connect.password {
        out.put_binary(password)?;
    }
    Ok(())
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let bit = |set, flag| if set { flag } else { 0 };
    let will = connect
        .will
        .as_ref()
        .map_or(0, |will| WILL | (will.qos as u8) << WILL_QOS_SHIFT | bit(will.retain, WILL_RETAIN));
    bit(connect.user_name.is_some(), USER_NAME)
        | bit(connect.password.is_some(), PASSWORD)
        | will
        | bit(connect.clean, CLEAN)
}

fn put_will(will: &Will<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    put_properties(will.properties, PropertyPlace::Will, version, out)?;
    out.put_binary(will.topic.as_str().as_bytes())?;
    out.put_binary(will.payload)
}

fn put_connack(connack: &ConnAck<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    // 3.1 has no such flag. [3.1 §3.2]
    out.put_u8(u8::from(connack.session_present && version > ProtocolVersion::V31));
    out.put_u8(match version {
        ProtocolVersion::V5 => connack.reason.as_byte(),
        _ => connack.reason.connack_return_code(),
    });
    put_properties(connack.properties, PacketType::ConnAck, version, out)
}

fn put_publish(publish: &Publish<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    let has_id = publish.packet_id.is_some();
    assert_eq!(has_id, publish.qos > QoS::AtMostOnce, "a packet identifier exactly above QoS 0");
    assert!(publish.topic.is_some() || version == ProtocolVersion::V5, "topic aliases exist only in 5.0");
    out.put_binary(publish.topic.map_or("", |topic| topic.as_str()).as_bytes())?;
    if let Some(packet_id) = publish.packet_id {
        out.put_u16(packet_id.get());
    }
    put_properties(publish.properties, PacketType::Publish, version, out)?;
    out.put(publish.payload);
    Ok(())
}

fn put_ack(ack: &Ack<'_>, packet_type: PacketType, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    out.put_u16(ack.packet_id.get());
    put_reason_and_properties(ack.reason, ack.properties, packet_type, version, out)
}

fn put_subscribe(subscribe: &Subscribe<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    out.put_u16(subscribe.packet_id.get());
    put_properties(subscribe.properties, PacketType::Subscribe, version, out)?;
    for (filter, options) in &subscribe.filters {
        out.put_binary(filter.as_str().as_bytes())?;
        out.put_u8(subscription_options(options, version));
    }
    Ok(())
}

fn subscription_options(options: &SubscriptionOptions, version: ProtocolVersion) -> u8 {
    let qos = options.qos as u8;
    if version < ProtocolVersion::V5 {
        return qos;
    }
    let bit = |set, flag| if set { flag } else { 0 };
    qos | bit(options.no_local, NO_LOCAL)
        | bit(options.retain_as_published, RETAIN_AS_PUBLISHED)
        | (options.retain_handling as u8) << RETAIN_HANDLING_SHIFT
}

fn put_suback(suback: &SubAck<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    out.put_u16(suback.packet_id.get());
    put_properties(suback.properties, PacketType::SubAck, version, out)?;
    for reason in &suback.reasons {
        // Before 5.0 there is one refusal for all. [MQTT-3.9.3-2]
        let one_for_all = version < ProtocolVersion::V5 && reason.is_error();
        out.put_u8(if one_for_all { ReasonCode::UnspecifiedError } else { *reason }.as_byte());
    }
    Ok(())
}

fn put_unsubscribe(unsubscribe: &Unsubscribe<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    out.put_u16(unsubscribe.packet_id.get());
    put_properties(unsubscribe.properties, PacketType::Unsubscribe, version, out)?;
    unsubscribe.filters.iter().try_for_each(|filter| out.put_binary(filter.as_str().as_bytes()))
}

fn put_unsuback(unsuback: &UnsubAck<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    out.put_u16(unsuback.packet_id.get());
    put_properties(unsuback.properties, PacketType::UnsubAck, version, out)?;
    if version == ProtocolVersion::V5 {
        unsuback.reasons.iter().for_each(|reason| out.put_u8(reason.as_byte()));
    }
    Ok(())
}

fn put_disconnect(disconnect: &Disconnect<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    put_reason_and_properties(disconnect.reason, disconnect.properties, PacketType::Disconnect, version, out)
}

fn put_auth(auth: &Auth<'_>, version: ProtocolVersion, out: &mut impl Sink) -> Written {
    if auth.reason == ReasonCode::Success && auth.properties.is_empty() {
        return Ok(());
    }
    out.put_u8(auth.reason.as_byte());
    put_properties(auth.properties, PacketType::Auth, version, out)
}

/// Puts what need not be said when all is well. [§3.4.2.1], [§3.14.2.1]
fn put_reason_and_properties(
    reason: ReasonCode,
    properties: Properties<'_>,
    packet_type: PacketType,
    version: ProtocolVersion,
    out: &mut impl Sink,
) -> Written {
    let silent = reason == ReasonCode::Success && properties.is_empty();
    if version < ProtocolVersion::V5 || silent {
        return Ok(());
    }
    out.put_u8(reason.as_byte());
    if properties.is_empty() {
        return Ok(());
    }
    put_properties(properties, packet_type, version, out)
}

fn put_properties(
    properties: Properties<'_>,
    place: impl Into<PropertyPlace>,
    version: ProtocolVersion,
    out: &mut impl Sink,
) -> Written {
    debug_assert_eq!(Properties::validate(properties.as_bytes(), place.into()), Ok(properties));
    out.put_properties(properties, version)
}
