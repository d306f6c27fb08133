//! Packets of MQTT 3.1 and 3.1.1, byte for byte.

use super::*;
use ProtocolVersion::{V31, V311};

/// Every packet in both versions.
pub(super) fn examples() -> Vec<Example> {
    let mut all = connects();
    for version in [V31, V311] {
        let same = same_in_both().into_iter();
        all.extend(same.map(|(bytes, packet)| Example { version, bytes, packet }));
    }
    let packet =
        ConnAck { session_present: true, reason: ReasonCode::Success, properties: Properties::EMPTY };
    all.push(Example { version: V311, bytes: b"\x20\x02\x01\x00", packet: Packet::ConnAck(packet) });
    all
}

fn bare_connect(version: ProtocolVersion) -> Connect<'static> {
    Connect {
        version,
        clean: true,
        keep_alive_s: 60,
        client_id: "dev",
        will: None,
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    }
}

fn full_connect(version: ProtocolVersion) -> Connect<'static> {
    Connect {
        clean: false,
        keep_alive_s: 0x0102,
        will: Some(Will {
            topic: topic("w/t"),
            payload: b"bye",
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: Properties::EMPTY,
        }),
        user_name: Some("TOKEN"),
        password: Some(b"\x00\xFF"),
        ..bare_connect(version)
    }
}

fn connects() -> Vec<Example> {
    let example = |bytes, connect: Connect<'static>| Example {
        version: connect.version,
        bytes,
        packet: Packet::Connect(connect),
    };
    vec![
        example(b"\x10\x11\0\x06MQIsdp\x03\x02\x00\x3C\0\x03dev", bare_connect(V31)),
        example(b"\x10\x0F\0\x04MQTT\x04\x02\x00\x3C\0\x03dev", bare_connect(V311)),
        example(
            b"\x10\x26\0\x06MQIsdp\x03\xEC\x01\x02\0\x03dev\0\x03w/t\0\x03bye\0\x05TOKEN\0\x02\x00\xFF",
            full_connect(V31),
        ),
        example(
            b"\x10\x24\0\x04MQTT\x04\xEC\x01\x02\0\x03dev\0\x03w/t\0\x03bye\0\x05TOKEN\0\x02\x00\xFF",
            full_connect(V311),
        ),
        example(
            b"\x10\x0C\0\x04MQTT\x04\x02\x00\x00\0\0",
            Connect { client_id: "", keep_alive_s: 0, ..bare_connect(V311) },
        ),
    ]
}

fn same_in_both() -> Vec<(&'static [u8], Packet<'static>)> {
    let mut all = publishes();
    all.extend(refused_connacks());
    all.extend(subscriptions());
    all.extend([
        (&b"\x40\x02\x12\x34"[..], Packet::PubAck(plain_ack(0x1234))),
        (b"\x50\x02\x12\x34", Packet::PubRec(plain_ack(0x1234))),
        (b"\x62\x02\x12\x34", Packet::PubRel(plain_ack(0x1234))),
        (b"\x70\x02\xFF\xFF", Packet::PubComp(plain_ack(0xFFFF))),
        (b"\xC0\x00", Packet::PingReq),
        (b"\xD0\x00", Packet::PingResp),
        (
            b"\xE0\x00",
            Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY }),
        ),
    ]);
    all
}

fn publishes() -> Vec<(&'static [u8], Packet<'static>)> {
    let lonely = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(topic("a/b")),
        packet_id: None,
        properties: Properties::EMPTY,
        payload: b"",
    };
    let (one, two) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
    vec![
        (&b"\x30\x05\0\x03a/b"[..], Packet::Publish(lonely.clone())),
        (
            b"\x31\x08\0\x03a/b\x00\x01\x02",
            Packet::Publish(Publish { retain: true, payload: b"\0\x01\x02", ..lonely.clone() }),
        ),
        (
            b"\x32\x09\0\x03a/b\x00\x0A{}",
            Packet::Publish(Publish { qos: one, packet_id: Some(id(10)), payload: b"{}", ..lonely.clone() }),
        ),
        (
            b"\x3D\x07\0\x03a/b\xFF\xFF",
            Packet::Publish(Publish {
                dup: true,
                retain: true,
                qos: two,
                packet_id: Some(id(0xFFFF)),
                ..lonely
            }),
        ),
    ]
}

fn refused_connacks() -> Vec<(&'static [u8], Packet<'static>)> {
    let connack =
        |reason| Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::EMPTY });
    vec![
        (b"\x20\x02\x00\x00", connack(ReasonCode::Success)),
        (b"\x20\x02\x00\x01", connack(ReasonCode::UnsupportedProtocolVersion)),
        (b"\x20\x02\x00\x02", connack(ReasonCode::ClientIdentifierNotValid)),
        (b"\x20\x02\x00\x03", connack(ReasonCode::ServerUnavailable)),
        (b"\x20\x02\x00\x04", connack(ReasonCode::BadUserNameOrPassword)),
        (b"\x20\x02\x00\x05", connack(ReasonCode::NotAuthorized)),
    ]
}

fn subscriptions() -> Vec<(&'static [u8], Packet<'static>)> {
    let properties = Properties::EMPTY;
    let filters = vec![
        (filter("a/+"), plain_options(QoS::AtMostOnce)),
        (filter("#"), plain_options(QoS::ExactlyOnce)),
        (filter("$share/x"), plain_options(QoS::AtLeastOnce)),
    ];
    let reasons = vec![
        ReasonCode::Success,
        ReasonCode::GrantedQoS1,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ];
    vec![
        (
            b"\x82\x17\x00\x0A\0\x03a/+\x00\0\x01#\x02\0\x08$share/x\x01",
            Packet::Subscribe(Subscribe { packet_id: id(10), properties, filters }),
        ),
        (
            b"\x90\x06\x00\x0A\x00\x01\x02\x80",
            Packet::SubAck(SubAck { packet_id: id(10), properties, reasons }),
        ),
        (
            b"\xA2\x0A\x00\x0B\0\x03a/+\0\x01#",
            Packet::Unsubscribe(Unsubscribe {
                packet_id: id(11),
                properties,
                filters: vec![filter("a/+"), filter("#")],
            }),
        ),
        (b"\xB0\x02\x00\x0B", Packet::UnsubAck(UnsubAck { packet_id: id(11), properties, reasons: vec![] })),
    ]
}

#[test]
fn every_packet_of_3_1_and_3_1_1_is_exactly_its_bytes() {
    let all = examples();
    all.iter().for_each(Example::check);
    for packet_type in PacketType::ALL.iter().filter(|t| **t != PacketType::Auth) {
        for version in [V31, V311] {
            let has = |example: &Example| {
                example.version == version && example.packet.packet_type() == *packet_type
            };
            assert!(all.iter().any(has), "an example of {packet_type} in {version:?}");
        }
    }
}

#[test]
fn connect_is_read_and_written_in_its_own_version_whatever_the_caller_says() {
    for example in connects() {
        for version in [V31, V311, ProtocolVersion::V5] {
            assert_eq!(decode_frame(example.bytes, version), Ok(Some(example.packet.clone())));
            assert_eq!(encoded(&example.packet, version), example.bytes);
        }
    }
}

#[test]
fn what_3_1_disregards_in_connect_is_disregarded() {
    let bytes = framed(0x10, b"\0\x06MQIsdp\x03\x3A\x00\x3C\0\x03dev");
    assert_eq!(decode_frame(&bytes, V31), Ok(Some(Packet::Connect(bare_connect(V31)))));
}

#[test]
fn a_repeat_with_dup_is_the_same_packet_in_3_1() {
    let packet = decode_frame(b"\x6A\x02\x12\x34", V31);
    assert_eq!(packet, Ok(Some(Packet::PubRel(plain_ack(0x1234)))));
}

#[test]
fn the_first_byte_of_connack_means_nothing_in_3_1() {
    let packet =
        ConnAck { session_present: true, reason: ReasonCode::Success, properties: Properties::EMPTY };
    assert_eq!(encoded(&Packet::ConnAck(packet), V31), b"\x20\x02\x00\x00");
    let Ok(Some(Packet::ConnAck(connack))) = decode_frame(b"\x20\x02\xFF\x00", V31) else {
        panic!("a CONNACK");
    };
    assert!(!connack.session_present);
}

#[test]
fn before_5_0_refusals_lose_their_reason_mqtt_3_9_3_2() {
    let mut buf = PropertiesBuf::new();
    buf.push(Property::ReasonString("full"));
    let (properties, reason) = (buf.as_properties(), ReasonCode::QuotaExceeded);
    let ack = Ack { packet_id: id(7), reason, properties };
    assert_eq!(encoded(&Packet::PubAck(ack.clone()), V311), b"\x40\x02\x00\x07");
    assert_eq!(encoded(&Packet::PubRec(ack), V31), b"\x50\x02\x00\x07");
    let suback = SubAck { packet_id: id(7), properties, reasons: vec![reason, ReasonCode::GrantedQoS1] };
    assert_eq!(encoded(&Packet::SubAck(suback), V311), b"\x90\x04\x00\x07\x80\x01");
    let connack = ConnAck { session_present: false, reason, properties };
    assert_eq!(encoded(&Packet::ConnAck(connack), V311), b"\x20\x02\x00\x03");
    let disconnect = Disconnect { reason, properties };
    assert_eq!(encoded(&Packet::Disconnect(disconnect), V311), b"\xE0\x00");
}

#[test]
fn before_5_0_unsuback_has_no_codes() {
    let properties = Properties::EMPTY;
    let unsuback = UnsubAck { packet_id: id(7), properties, reasons: vec![ReasonCode::Success] };
    assert_eq!(encoded(&Packet::UnsubAck(unsuback), V311), b"\xB0\x02\x00\x07");
}
