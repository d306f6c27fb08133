//! The fixed header: which packet, which flags, how long.
//!
//! Judges every byte as soon as it is there, so that a peer cannot make us wait for a packet we would refuse anyway.

use std::fmt;

use super::{
    error::DecodeError,
    packet::{PacketType, ProtocolVersion, QoS},
    wire::parse_padded_varint,
};

/// DUP of PUBLISH, and of a few more in 3.1.
pub(super) const DUP: u8 = 0b1000;
/// RETAIN of PUBLISH.
pub(super) const RETAIN: u8 = 0b0001;

/// A fixed header that keeps the rules. [§2.1.1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The high nibble of the first byte.
    pub packet_type: PacketType,
    /// The low nibble of the first byte.
    pub flags: u8,
    /// Bytes of the header itself: 2 to 5.
    pub header_bytes: usize,
    /// Bytes that follow the header: 0 to 268,435,455.
    pub body_bytes: usize,
}

impl Header {
    /// Bytes of the whole packet, header and body.
    pub fn frame_bytes(&self) -> usize {
        self.header_bytes + self.body_bytes
    }

    /// The rule of 5.0 that the length is not longer than it needs to be. [MQTT-1.5.5-1 of 5.0]
    pub(super) fn check_minimal(&self) -> Result<(), DecodeError> {
        let needed = match self.body_bytes {
            0..128 => 1,
            128..16_384 => 2,
            16_384..2_097_152 => 3,
            _ => 4,
        };
        if self.header_bytes == 1 + needed { Ok(()) } else { Err(DecodeError::VarintNotMinimal) }
    }
}

/// Reads the fixed header at the start of `bytes`; `Ok(None)` says that more bytes are needed.
///
/// Before CONNECT came, any `version` does: its flags are the same in all. AUTH is a header in every version and
/// refused by `decode`; [`PacketType::exists_in`] tells earlier.
///
/// # Errors
/// As soon as one byte breaks a rule: a type of zero, flags the type does not have, a length that goes on after its
/// fourth byte, or in 5.0 is not minimal; of a CONNECT `decode` tells, for it says itself which version it is.
pub fn parse_header(bytes: &[u8], version: ProtocolVersion) -> Result<Option<Header>, DecodeError> {
    let Some((first, after_first)) = bytes.split_first() else { return Ok(None) };
    let packet_type = PacketType::from_nibble(first >> 4).ok_or(DecodeError::PacketTypeZero)?;
    let flags = first & 0b1111;
    check_flags(packet_type, flags, version)?;
    let Some((body_bytes, length_bytes)) = parse_padded_varint(after_first)? else { return Ok(None) };
    let body_bytes = usize::try_from(body_bytes).expect("28 bits fit the machines this runs on");
    let header = Header { packet_type, flags, header_bytes: 1 + length_bytes, body_bytes };
    if version == ProtocolVersion::V5 && packet_type != PacketType::Connect {
        header.check_minimal()?;
    }
    Ok(Some(header))
}

fn check_flags(packet_type: PacketType, flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    if packet_type == PacketType::Publish {
        return match QoS::from_bits(flags >> 1) {
            None => Err(DecodeError::PublishQoS3),
            Some(QoS::AtMostOnce) if flags & DUP != 0 => Err(DecodeError::DupWithQoS0),
            Some(_) => Ok(()),
        };
    }
    let fixed = packet_type.fixed_flags();
    // 3.1 lets these three be repeated with DUP. [3.1 §2.1]
    let repeated = version == ProtocolVersion::V31 && fixed != 0 && flags == fixed | DUP;
    if flags == fixed || repeated { Ok(()) } else { Err(DecodeError::HeaderFlags(packet_type)) }
}

impl PacketType {
    /// The fifteen types, in the order of their number.
    pub const ALL: [PacketType; 15] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::PingReq,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The type a nibble stands for; zero is reserved, as is all above 15. [§2.1.2]
    pub fn from_nibble(nibble: u8) -> Option<Self> {
        let index = usize::from(nibble).checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Whether the version has this packet: AUTH came with 5.0.
    pub fn exists_in(self, version: ProtocolVersion) -> bool {
        self != Self::Auth || version == ProtocolVersion::V5
    }

    /// The flags of every packet of this type; those of PUBLISH vary. [MQTT-2.2.2-1]
    pub(super) fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// The type as the standard writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    /// One row per type; `.` accepted, anything else the rule it breaks. Columns are the flags 0 to 15.
    const FLAGS: [&str; 16] = [
        "zzzzzzzzzzzzzzzz",
        ".fffffffffffffff",
        ".fffffffffffffff",
        "......33dd....33",
        ".fffffffffffffff",
        ".fffffffffffffff",
        "ff.fffffffffffff",
        ".fffffffffffffff",
        "ff.fffffffffffff",
        ".fffffffffffffff",
        "ff.fffffffffffff",
        ".fffffffffffffff",
        ".fffffffffffffff",
        ".fffffffffffffff",
        ".fffffffffffffff",
        ".fffffffffffffff",
    ];

    fn verdict(first: u8, version: ProtocolVersion) -> char {
        match parse_header(&[first], version) {
            Ok(None) => '.',
            Ok(Some(_)) => '?',
            Err(DecodeError::PacketTypeZero) => 'z',
            Err(DecodeError::HeaderFlags(_)) => 'f',
            Err(DecodeError::PublishQoS3) => '3',
            Err(DecodeError::DupWithQoS0) => 'd',
            Err(_) => '!',
        }
    }

    #[test]
    fn every_first_byte_is_judged_alone_by_the_table_mqtt_2_2_2_2() {
        for version in [V311, V5] {
            for (row, expected) in (0u8..).zip(FLAGS) {
                let found: String = (0..16).map(|flags| verdict(row << 4 | flags, version)).collect();
                assert_eq!(found, expected, "type {row}, {version:?}");
            }
        }
    }

    #[test]
    fn in_3_1_pubrel_subscribe_and_unsubscribe_may_be_repeated_with_dup() {
        for (row, expected) in (0u8..).zip(FLAGS) {
            let found: String = (0..16).map(|flags| verdict(row << 4 | flags, V31)).collect();
            let expected = expected.replace("ff.fffffffffffff", "ff.fffffff.fffff");
            assert_eq!(found, expected, "type {row}");
        }
    }

    #[test]
    fn a_header_is_2_to_5_bytes_and_says_how_long_its_packet_is() {
        for (bytes, header_bytes, body_bytes) in [
            (&[0x30, 0x00][..], 2, 0),
            (&[0x30, 0x7F], 2, 127),
            (&[0x30, 0x80, 0x01], 3, 128),
            (&[0x30, 0xFF, 0x7F, 9, 9], 3, 16_383),
            (&[0x30, 0x80, 0x80, 0x01], 4, 16_384),
            (&[0x30, 0xFF, 0xFF, 0x7F], 4, 2_097_151),
            (&[0x30, 0x80, 0x80, 0x80, 0x01], 5, 2_097_152),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 5, 268_435_455),
        ] {
            let header = parse_header(bytes, V311).expect("valid").expect("complete");
            assert_eq!((header.header_bytes, header.body_bytes), (header_bytes, body_bytes), "{bytes:x?}");
            assert_eq!(header.frame_bytes(), header_bytes + body_bytes);
            for cut in 0..header_bytes {
                assert_eq!(parse_header(&bytes[..cut], V311), Ok(None));
            }
        }
    }

    #[test]
    fn a_fourth_length_byte_that_goes_on_is_refused_before_the_fifth() {
        for bytes in [[0x10, 0xFF, 0xFF, 0xFF, 0xFF], [0x10, 0x80, 0x80, 0x80, 0x80]] {
            assert_eq!(parse_header(&bytes, V5), Err(DecodeError::VarintTooLong));
        }
    }

    #[test]
    fn a_length_written_longer_than_needed_is_refused_in_5_0_mqtt_1_5_5_1() {
        for bytes in [&[0x30, 0x80, 0x00][..], &[0x30, 0xFF, 0x80, 0x00], &[0x30, 0x80, 0x80, 0x80, 0x00]] {
            assert_eq!(parse_header(bytes, V5), Err(DecodeError::VarintNotMinimal));
            for version in [V31, V311] {
                let header = parse_header(bytes, version).expect("valid").expect("complete");
                assert_eq!(header.header_bytes, bytes.len());
                assert!(header.body_bytes < 128);
            }
        }
        let connect = parse_header(&[0x10, 0x80, 0x00], V5).expect("who knows").expect("complete");
        assert_eq!(connect.check_minimal(), Err(DecodeError::VarintNotMinimal));
    }

    #[test]
    fn auth_exists_only_in_5_0() {
        assert!(PacketType::Auth.exists_in(V5));
        assert!(!PacketType::Auth.exists_in(V311) && !PacketType::Auth.exists_in(V31));
        let others = PacketType::ALL.iter().filter(|t| **t != PacketType::Auth);
        assert!(others.clone().all(|t| t.exists_in(V31) && t.exists_in(V311) && t.exists_in(V5)));
        assert_eq!(others.count(), 14);
    }
}
