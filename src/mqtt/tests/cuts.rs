//! Packets that break off, and bytes that were never a packet.

use super::{generator::Random, *};

#[test]
fn every_cut_of_every_example_asks_for_more() {
    for example in examples() {
        for cut in 0..example.bytes.len() {
            assert_eq!(
                decode_frame(&example.bytes[..cut], example.version),
                Ok(None),
                "{:?}",
                example.packet
            );
        }
    }
}

/// Packets whose end is a list, a payload or optional may be cut and still be a packet, just another one.
fn may_stay_valid(packet: &Packet<'_>, version: ProtocolVersion) -> bool {
    match packet {
        Packet::Publish(_) | Packet::SubAck(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => true,
        Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
            version == ProtocolVersion::V5
        }
        Packet::UnsubAck(_) | Packet::Disconnect(_) | Packet::Auth(_) => version == ProtocolVersion::V5,
        Packet::Connect(_) | Packet::ConnAck(_) | Packet::PingReq | Packet::PingResp => false,
    }
}

#[test]
fn every_cut_with_a_length_that_fits_is_refused_or_another_packet() {
    for example in examples() {
        let body = &example.bytes[2..];
        for cut in 0..body.len() {
            let bytes = framed(example.bytes[0], &body[..cut]);
            let Ok(packet) = decode_frame(&bytes, example.version) else { continue };
            let packet = packet.expect("the length fits");
            assert!(may_stay_valid(&example.packet, example.version), "{packet:?}");
            assert_ne!(packet, example.packet);
            let again = encoded(&packet, example.version);
            assert_eq!(decode_frame(&again, example.version), Ok(Some(packet)));
        }
    }
}

#[test]
fn every_example_with_a_byte_more_is_refused_or_another_packet() {
    for example in examples() {
        for extra in [0x00, 0x01, 0xFF] {
            let body = [&example.bytes[2..], &[extra]].concat();
            let bytes = framed(example.bytes[0], &body);
            let refused = decode_frame(&bytes, example.version).is_err();
            assert!(refused || may_stay_valid(&example.packet, example.version), "{:?}", example.packet);
        }
    }
}

#[test]
fn every_example_with_any_byte_changed_is_refused_or_a_packet_that_survives_encoding() {
    for example in examples() {
        for at in 2..example.bytes.len() {
            for value in 0..=u8::MAX {
                let mut bytes = example.bytes.to_vec();
                bytes[at] = value;
                survives_encoding(&bytes, example.version);
            }
        }
    }
}

#[test]
fn bytes_made_up_behind_every_first_byte_are_refused_or_a_packet_that_survives_encoding() {
    let mut random = Random::new(1);
    for round in 0..64_000_u32 {
        let length = random.below(24) as usize;
        // Small numbers make lengths that fit; without them hardly anything gets past the first field.
        let body: Vec<u8> =
            (0..length).map(|_| random.next() as u8 % [4, 48, 255][round as usize % 3]).collect();
        let bytes = framed(random.next() as u8, &body);
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            survives_encoding(&bytes, version);
        }
    }
}

fn survives_encoding(bytes: &[u8], version: ProtocolVersion) {
    if let Ok(Some(packet)) = decode_frame(bytes, version) {
        let again = encoded(&packet, version);
        assert_eq!(decode_frame(&again, version), Ok(Some(packet)), "{bytes:x?}");
    }
}
