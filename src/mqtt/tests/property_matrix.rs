//! All 27 properties in every packet that has properties, and in the will.

use super::*;
use ProtocolVersion::V5;

/// Where properties can stand, in the order of the columns below.
const PLACES: [PropertyPlace; 14] = [
    PropertyPlace::Packet(PacketType::Connect),
    PropertyPlace::Will,
    PropertyPlace::Packet(PacketType::ConnAck),
    PropertyPlace::Packet(PacketType::Publish),
    PropertyPlace::Packet(PacketType::PubAck),
    PropertyPlace::Packet(PacketType::PubRec),
    PropertyPlace::Packet(PacketType::PubRel),
    PropertyPlace::Packet(PacketType::PubComp),
    PropertyPlace::Packet(PacketType::Subscribe),
    PropertyPlace::Packet(PacketType::SubAck),
    PropertyPlace::Packet(PacketType::Unsubscribe),
    PropertyPlace::Packet(PacketType::UnsubAck),
    PropertyPlace::Packet(PacketType::Disconnect),
    PropertyPlace::Packet(PacketType::Auth),
];

/// One row per property: an example of it, then the places that may carry it, `x` for yes.
///
/// Columns: CONNECT will CONNACK PUBLISH, PUBACK PUBREC PUBREL PUBCOMP, SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK,
/// DISCONNECT AUTH.
const MATRIX: [(&[u8], &str); 27] = [
    (b"\x01\x01", ".x.x .... .... .."),
    (b"\x02\0\0\0\x01", ".x.x .... .... .."),
    (b"\x03\0\x01c", ".x.x .... .... .."),
    (b"\x08\0\x01r", ".x.x .... .... .."),
    (b"\x09\0\x01d", ".x.x .... .... .."),
    (b"\x0B\x01", "...x .... x... .."),
    (b"\x11\0\0\0\x01", "x.x. .... .... x."),
    (b"\x12\0\x01i", "..x. .... .... .."),
    (b"\x13\0\x01", "..x. .... .... .."),
    (b"\x15\0\x01m", "x.x. .... .... .x"),
    (b"\x16\0\x01d", "x.x. .... .... .x"),
    (b"\x17\x01", "x... .... .... .."),
    (b"\x18\0\0\0\x01", ".x.. .... .... .."),
    (b"\x19\x01", "x... .... .... .."),
    (b"\x1A\0\x01r", "..x. .... .... .."),
    (b"\x1C\0\x01s", "..x. .... .... x."),
    (b"\x1F\0\x01w", "..x. xxxx .x.x xx"),
    (b"\x21\0\x01", "x.x. .... .... .."),
    (b"\x22\0\x01", "x.x. .... .... .."),
    (b"\x23\0\x01", "...x .... .... .."),
    (b"\x24\x01", "..x. .... .... .."),
    (b"\x25\x01", "..x. .... .... .."),
    (b"\x26\0\x01k\0\x01v", "xxxx xxxx xxxx xx"),
    (b"\x27\0\0\0\x01", "x.x. .... .... .."),
    (b"\x28\x01", "..x. .... .... .."),
    (b"\x29\x01", "..x. .... .... .."),
    (b"\x2A\x01", "..x. .... .... .."),
];

/// A whole packet with `properties` at `place`.
fn carrying(properties: &[u8], place: PropertyPlace) -> Vec<u8> {
    let block = [&[properties.len() as u8][..], properties].concat();
    let around = |first, before: &[u8], after: &[u8]| framed(first, &[before, &block, after].concat());
    let PropertyPlace::Packet(packet_type) = place else {
        return around(0x10, b"\0\x04MQTT\x05\x06\0\x3C\0\0\x01i", b"\0\x01t\0\0");
    };
    match packet_type {
        PacketType::Connect => around(0x10, b"\0\x04MQTT\x05\x02\0\x3C", b"\0\x01i"),
        PacketType::ConnAck => around(0x20, b"\0\0", b""),
        PacketType::Publish => around(0x30, b"\0\x01t", b"payload"),
        PacketType::PubAck => around(0x40, b"\0\x01\x00", b""),
        PacketType::PubRec => around(0x50, b"\0\x01\x00", b""),
        PacketType::PubRel => around(0x62, b"\0\x01\x00", b""),
        PacketType::PubComp => around(0x70, b"\0\x01\x00", b""),
        PacketType::Subscribe => around(0x82, b"\0\x01", b"\0\x01f\x01"),
        PacketType::SubAck => around(0x90, b"\0\x01", b"\x01"),
        PacketType::Unsubscribe => around(0xA2, b"\0\x01", b"\0\x01f"),
        PacketType::UnsubAck => around(0xB0, b"\0\x01", b"\x11"),
        PacketType::Disconnect => around(0xE0, b"\x00", b""),
        PacketType::Auth => around(0xF0, b"\x18", b""),
        PacketType::PingReq | PacketType::PingResp => panic!("pings have no properties"),
    }
}

/// The property and what it cannot stand without: data need a method, and AUTH needs one always.
fn with_company(property: &[u8], id: PropertyId, place: PropertyPlace) -> Vec<u8> {
    let auth = place == PropertyPlace::Packet(PacketType::Auth);
    let needs_method = id == PropertyId::AuthenticationData || auth;
    let method: &[u8] =
        if needs_method && id != PropertyId::AuthenticationMethod { b"\x15\0\x01m" } else { b"" };
    [property, method].concat()
}

#[test]
fn each_property_is_accepted_in_its_packets_and_refused_in_all_others() {
    for (id, (property, row)) in PropertyId::ALL.iter().zip(MATRIX) {
        let row = row.replace(' ', "");
        assert_eq!(row.len(), PLACES.len());
        for (place, cell) in PLACES.into_iter().zip(row.chars()) {
            let allowed = cell == 'x';
            assert_eq!(id.is_allowed_in(place), allowed, "{id} in {place}");
            let company = if allowed { with_company(property, *id, place) } else { property.to_vec() };
            let bytes = carrying(&company, place);
            match decode_frame(&bytes, V5) {
                Ok(Some(packet)) => {
                    assert!(allowed, "{id} in {place}");
                    assert_eq!(encoded(&packet, V5), bytes, "{id} in {place}");
                }
                refused => assert_eq!(refused, Err(DecodeError::PropertyNotAllowed(*id, place))),
            }
        }
    }
}

#[test]
fn each_property_is_refused_when_it_comes_twice_but_for_two() {
    for (id, (property, _)) in PropertyId::ALL.iter().zip(MATRIX) {
        for place in PLACES.into_iter().filter(|place| id.is_allowed_in(*place)) {
            let company = with_company(&property.repeat(2), *id, place);
            let bytes = carrying(&company, place);
            let decoded = decode_frame(&bytes, V5);
            if id.may_repeat_in(place) {
                assert!(decoded.is_ok(), "{id} in {place}");
            } else {
                assert_eq!(decoded, Err(DecodeError::PropertyTwice(*id)), "{id} in {place}");
            }
        }
    }
}

#[test]
fn each_property_cut_anywhere_is_refused() {
    for (id, (property, _)) in PropertyId::ALL.iter().zip(MATRIX) {
        for place in PLACES.into_iter().filter(|place| id.is_allowed_in(*place)) {
            for cut in 1..property.len() {
                let bytes = carrying(&property[..cut], place);
                assert_eq!(decode_frame(&bytes, V5), Err(DecodeError::PropertyCutShort), "{id} at {cut}");
            }
        }
    }
}

#[test]
fn every_number_that_is_no_property_is_refused_in_every_packet() {
    for number in (0..=0x7F).filter(|number| PropertyId::from_number(*number).is_none()) {
        for place in PLACES {
            let bytes = carrying(&[number as u8, 0, 0], place);
            assert_eq!(decode_frame(&bytes, V5), Err(DecodeError::PropertyUnknown(number)));
        }
    }
}
