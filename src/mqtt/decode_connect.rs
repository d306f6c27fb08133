//! CONNECT: the one packet that says which version it is. [§3.1]

use nom::{
    Parser,
    combinator::cond,
    number::complete::{be_u8, be_u16},
};

use super::{
    error::DecodeError,
    packet::{Connect, PacketType, ProtocolVersion, QoS, Will},
    property_table::PropertyPlace,
    topic::TopicName,
    wire::{self, Parsed},
};

pub(super) const USER_NAME: u8 = 0b1000_0000;
pub(super) const PASSWORD: u8 = 0b0100_0000;
pub(super) const WILL_RETAIN: u8 = 0b0010_0000;
pub(super) const WILL: u8 = 0b0000_0100;
pub(super) const CLEAN: u8 = 0b0000_0010;
const RESERVED: u8 = 0b0000_0001;
/// How far left of the lowest bit the will QoS stands.
pub(super) const WILL_QOS_SHIFT: u8 = 3;

/// What the flags promise about the rest of the packet. [§3.1.2.3]
struct Flags {
    clean: bool,
    /// QoS and RETAIN.
    will: Option<(QoS, bool)>,
    user_name: bool,
    password: bool,
}

/// Reads CONNECT; the fields of its payload come in a fixed order. [MQTT-3.1.3-1]
pub(super) fn connect(input: &[u8]) -> Parsed<'_, Connect<'_>> {
    let (rest, version) = protocol(input)?;
    let (rest, flags) = flags(rest, version)?;
    let (rest, keep_alive_s) = be_u16(rest)?;
    let (rest, properties) = wire::properties(PacketType::Connect, version)(rest)?;
    let (rest, client_id) = wire::name(rest)?;
    let (rest, will) = will(rest, flags.will, version)?;
    let (rest, user_name) = cond(flags.user_name, wire::name).parse(rest)?;
    let (rest, password) = cond(flags.password, wire::binary).parse(rest)?;
    let clean = flags.clean;
    Ok((rest, Connect { version, clean, keep_alive_s, client_id, will, user_name, password, properties }))
}

/// Reads name and level. A right name with a wrong level is told apart: it deserves an answer. [MQTT-3.1.2-2]
fn protocol(input: &[u8]) -> Parsed<'_, ProtocolVersion> {
    let (rest, name) = wire::binary(input)?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::UnknownProtocolName.into());
    }
    let (rest, level) = be_u8(rest)?;
    let version = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5]
        .into_iter()
        .find(|version| version.name().as_bytes() == name && version.level() == level)
        .ok_or(DecodeError::UnsupportedProtocolLevel(level))?;
    Ok((rest, version))
}

fn flags(input: &[u8], version: ProtocolVersion) -> Parsed<'_, Flags> {
    let (rest, bits) = be_u8(input)?;
    let has = |flag| bits & flag != 0;
    // 3.1 does not use it. [3.1 §3.1]
    if has(RESERVED) && version > ProtocolVersion::V31 {
        return Err(DecodeError::ConnectReservedFlag.into());
    }
    if has(PASSWORD) && !has(USER_NAME) && version < ProtocolVersion::V5 {
        return Err(DecodeError::PasswordWithoutUserName.into());
    }
    let will = will_flags(bits, version)?;
    Ok((rest, Flags { clean: has(CLEAN), will, user_name: has(USER_NAME), password: has(PASSWORD) }))
}

fn will_flags(bits: u8, version: ProtocolVersion) -> Result<Option<(QoS, bool)>, DecodeError> {
    let qos = QoS::from_bits(bits >> WILL_QOS_SHIFT);
    let retain = bits & WILL_RETAIN != 0;
    if bits & WILL != 0 {
        return Ok(Some((qos.ok_or(DecodeError::WillQoS3)?, retain)));
    }
    // 3.1 disregards the other two when there is no will. [3.1 §3.1]
    match (version, qos, retain) {
        (ProtocolVersion::V31, ..) | (_, Some(QoS::AtMostOnce), false) => Ok(None),
        (_, Some(QoS::AtMostOnce), true) => Err(DecodeError::WillRetainWithoutWill),
        _ => Err(DecodeError::WillQoSWithoutWill),
    }
}

fn will(input: &[u8], flags: Option<(QoS, bool)>, version: ProtocolVersion) -> Parsed<'_, Option<Will<'_>>> {
    let Some((qos, retain)) = flags else { return Ok((input, None)) };
    let (rest, properties) = wire::properties(PropertyPlace::Will, version)(input)?;
    let (rest, topic) = wire::name(rest)?;
    let topic = TopicName::from_checked(topic).map_err(DecodeError::TopicName)?;
    let (rest, payload) = wire::binary(rest)?;
    Ok((rest, Some(Will { topic, payload, qos, retain, properties })))
}
