//! What is encoded is decoded to the same again, for many thousand made-up packets of every type and version.

use super::{
    generator::{Backing, Random, made_up_packet},
    *,
};

const PACKETS_OF_EACH: u64 = 400;

#[test]
fn every_made_up_packet_is_the_same_after_encoding_and_decoding() {
    let mut backing = Backing::default();
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        for packet_type in PacketType::ALL.into_iter().filter(|t| t.exists_in(version)) {
            for seed in 0..PACKETS_OF_EACH {
                let mut random =
                    Random::new(seed << 8 | (packet_type as u64) << 4 | u64::from(version.level()));
                backing.refill(&mut random, packet_type);
                let packet = made_up_packet(&mut random, packet_type, version, &backing);
                assert_eq!(packet.packet_type(), packet_type);
                let bytes = encoded(&packet, version);
                assert_eq!(decode_frame(&bytes, version), Ok(Some(packet)), "{version:?}, seed {seed}");
            }
        }
    }
}

#[test]
fn packets_in_a_row_are_found_one_by_one_at_any_cut() {
    let version = ProtocolVersion::V5;
    let mut stream = Vec::new();
    let mut ends = Vec::new();
    for example in examples().iter().filter(|example| example.version == version) {
        encode(&example.packet, version, &mut stream).expect("small");
        ends.push(stream.len());
    }
    for cut in 0..=stream.len() {
        let mut start = 0;
        while let Ok(Some(_)) = decode_frame(&stream[start..cut], version) {
            let header = parse_header(&stream[start..cut], version).expect("valid").expect("complete");
            start += header.frame_bytes();
        }
        let last = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
        assert_eq!(start, last, "cut at {cut}");
    }
}

#[test]
fn an_acknowledgement_needs_no_more_room_than_it_takes() {
    let mut out = Vec::with_capacity(16);
    let before = out.as_ptr();
    encode(&Packet::PubAck(plain_ack(7)), ProtocolVersion::V5, &mut out).expect("small");
    encode(&Packet::PubAck(plain_ack(8)), ProtocolVersion::V311, &mut out).expect("small");
    assert_eq!(out, b"\x40\x02\x00\x07\x40\x02\x00\x08");
    assert_eq!(out.as_ptr(), before, "the bytes did not move");
}

#[test]
fn a_decoded_publish_borrows_all_it_holds() {
    let bytes = framed(0x32, b"\0\x03a/b\x00\x07\x07\x26\0\x01k\0\x01vpayload");
    let Ok(Some(Packet::Publish(publish))) = decode_frame(&bytes, ProtocolVersion::V5) else {
        panic!("a PUBLISH");
    };
    let range = bytes.as_ptr_range();
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic.expect("named").as_str().as_ptr()));
    let (key, _) = publish.properties.user_properties().next().expect("there is one");
    assert!(range.contains(&key.as_ptr()));
}
