//! Packets of MQTT 5.0, byte for byte.

use super::*;
use ProtocolVersion::V5;

/// Every packet, with and without what it may leave out.
pub(super) fn examples() -> Vec<Example> {
    let all = [connects(), connacks(), publishes(), acks(), subscriptions(), endings()];
    all.into_iter().flatten().map(|(bytes, packet)| Example { version: V5, bytes, packet }).collect()
}

type Pairs = Vec<(&'static [u8], Packet<'static>)>;

fn props(bytes: &'static [u8], packet_type: PacketType) -> Properties<'static> {
    Properties::validate(bytes, PropertyPlace::Packet(packet_type)).expect("valid")
}

fn connects() -> Pairs {
    let bare = Connect {
        version: V5,
        clean: true,
        keep_alive_s: 60,
        client_id: "dev",
        will: None,
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    };
    let full = Connect {
        will: Some(Will {
            topic: topic("w/t"),
            payload: b"bye",
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: Properties::validate(b"\x18\0\0\0\x0A", PropertyPlace::Will).expect("valid"),
        }),
        user_name: Some("TOKEN"),
        properties: props(b"\x11\0\0\x0E\x10\x21\0\x14", PacketType::Connect),
        ..bare.clone()
    };
    vec![
        (b"\x10\x10\0\x04MQTT\x05\x02\x00\x3C\0\0\x03dev", Packet::Connect(bare.clone())),
        (
            b"\x10\x2F\0\x04MQTT\x05\x96\x00\x3C\x08\x11\0\0\x0E\x10\x21\0\x14\0\x03dev\
              \x05\x18\0\0\0\x0A\0\x03w/t\0\x03bye\0\x05TOKEN",
            Packet::Connect(full),
        ),
        (
            b"\x10\x13\0\x04MQTT\x05\x42\x00\x3C\0\0\x03dev\0\x01p",
            Packet::Connect(Connect { password: Some(b"p"), ..bare }),
        ),
    ]
}

fn connacks() -> Pairs {
    let properties = props(b"\x21\0\x14\x27\0\x01\0\0", PacketType::ConnAck);
    vec![
        (
            b"\x20\x0B\x01\x00\x08\x21\0\x14\x27\0\x01\0\0",
            Packet::ConnAck(ConnAck { session_present: true, reason: ReasonCode::Success, properties }),
        ),
        (
            b"\x20\x03\x00\x87\x00",
            Packet::ConnAck(ConnAck {
                session_present: false,
                reason: ReasonCode::NotAuthorized,
                properties: Properties::EMPTY,
            }),
        ),
    ]
}

fn publishes() -> Pairs {
    let named = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(topic("a/b")),
        packet_id: None,
        properties: Properties::EMPTY,
        payload: b"x",
    };
    let aliased = Publish {
        dup: true,
        qos: QoS::AtLeastOnce,
        topic: None,
        packet_id: Some(id(10)),
        properties: props(b"\x23\0\x07", PacketType::Publish),
        ..named.clone()
    };
    let both = Publish { topic: Some(topic("t")), ..aliased.clone() };
    vec![
        (b"\x30\x07\0\x03a/b\x00x", Packet::Publish(named)),
        (b"\x3A\x09\0\0\x00\x0A\x03\x23\0\x07x", Packet::Publish(aliased)),
        (b"\x3A\x0A\0\x01t\x00\x0A\x03\x23\0\x07x", Packet::Publish(both)),
    ]
}

fn acks() -> Pairs {
    let with = |reason, properties| Ack { reason, properties, ..plain_ack(7) };
    let full = props(b"\x1F\0\x04full", PacketType::PubAck);
    vec![
        (b"\x40\x02\x00\x07", Packet::PubAck(plain_ack(7))),
        (b"\x40\x03\x00\x07\x10", Packet::PubAck(with(ReasonCode::NoMatchingSubscribers, Properties::EMPTY))),
        (b"\x40\x0B\x00\x07\x97\x07\x1F\0\x04full", Packet::PubAck(with(ReasonCode::QuotaExceeded, full))),
        (b"\x40\x0B\x00\x07\x00\x07\x1F\0\x04full", Packet::PubAck(with(ReasonCode::Success, full))),
        (b"\x50\x03\x00\x07\x91", Packet::PubRec(with(ReasonCode::PacketIdentifierInUse, Properties::EMPTY))),
        (b"\x62\x02\x00\x07", Packet::PubRel(plain_ack(7))),
        (
            b"\x62\x03\x00\x07\x92",
            Packet::PubRel(with(ReasonCode::PacketIdentifierNotFound, Properties::EMPTY)),
        ),
        (
            b"\x70\x0B\x00\x07\x92\x07\x1F\0\x04full",
            Packet::PubComp(with(ReasonCode::PacketIdentifierNotFound, full)),
        ),
    ]
}

fn subscriptions() -> Pairs {
    let packet_id = id(10);
    let all_set = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let if_new =
        SubscriptionOptions { retain_handling: RetainHandling::SendIfNew, ..plain_options(QoS::AtLeastOnce) };
    let subscribe = Subscribe {
        packet_id,
        properties: props(b"\x0B\xC1\x02", PacketType::Subscribe),
        filters: vec![(filter("a"), all_set), (filter("$share/g/b"), if_new)],
    };
    let unsubscribe = Unsubscribe {
        packet_id,
        properties: props(b"\x26\0\x01k\0\x01v", PacketType::Unsubscribe),
        filters: vec![filter("a"), filter("$share/g/b")],
    };
    let codes = vec![ReasonCode::GrantedQoS2, ReasonCode::TopicFilterInvalid];
    let gone = vec![ReasonCode::NoSubscriptionExisted, ReasonCode::TopicFilterInvalid];
    let properties = Properties::EMPTY;
    vec![
        (b"\x82\x17\x00\x0A\x03\x0B\xC1\x02\0\x01a\x2E\0\x0A$share/g/b\x11", Packet::Subscribe(subscribe)),
        (b"\x90\x05\x00\x0A\x00\x02\x8F", Packet::SubAck(SubAck { packet_id, properties, reasons: codes })),
        (b"\xA2\x19\x00\x0A\x07\x26\0\x01k\0\x01v\0\x01a\0\x0A$share/g/b", Packet::Unsubscribe(unsubscribe)),
        (
            b"\xB0\x05\x00\x0A\x00\x11\x8F",
            Packet::UnsubAck(UnsubAck { packet_id, properties, reasons: gone }),
        ),
    ]
}

fn endings() -> Pairs {
    let disconnect = |reason, properties| Packet::Disconnect(Disconnect { reason, properties });
    let auth = |reason, properties| Packet::Auth(Auth { reason, properties });
    let method = props(b"\x15\0\x01m\x16\0\x02\x00\xFF", PacketType::Auth);
    vec![
        (b"\xC0\x00", Packet::PingReq),
        (b"\xD0\x00", Packet::PingResp),
        (b"\xE0\x00", disconnect(ReasonCode::Success, Properties::EMPTY)),
        (b"\xE0\x01\x04", disconnect(ReasonCode::DisconnectWithWill, Properties::EMPTY)),
        (
            b"\xE0\x07\x00\x05\x11\0\0\0\x00",
            disconnect(ReasonCode::Success, props(b"\x11\0\0\0\0", PacketType::Disconnect)),
        ),
        (b"\xF0\x00", auth(ReasonCode::Success, Properties::EMPTY)),
        (b"\xF0\x0B\x18\x09\x15\0\x01m\x16\0\x02\x00\xFF", auth(ReasonCode::ContinueAuthentication, method)),
    ]
}

#[test]
fn every_packet_of_5_0_is_exactly_its_bytes() {
    let all = examples();
    all.iter().for_each(Example::check);
    for packet_type in PacketType::ALL {
        assert!(all.iter().any(|example| example.packet.packet_type() == packet_type), "{packet_type}");
    }
}

#[test]
fn what_may_be_left_out_may_also_be_said() {
    let success = decode_frame(b"\x40\x02\x00\x07", V5);
    assert_eq!(decode_frame(b"\x40\x03\x00\x07\x00", V5), success);
    assert_eq!(decode_frame(b"\x40\x04\x00\x07\x00\x00", V5), success);
    let normal = decode_frame(b"\xE0\x00", V5);
    assert_eq!(decode_frame(b"\xE0\x01\x00", V5), normal);
    assert_eq!(decode_frame(b"\xE0\x02\x00\x00", V5), normal);
    assert_eq!(decode_frame(b"\xF0\x02\x00\x00", V5), decode_frame(b"\xF0\x00", V5));
}

#[test]
fn a_subscription_identifier_in_publish_is_decoded_and_left_to_the_session_mqtt_3_3_4_6() {
    let bytes = framed(0x30, b"\0\x01a\x04\x0B\x05\x0B\x06");
    let Ok(Some(Packet::Publish(publish))) = decode_frame(&bytes, V5) else { panic!("a PUBLISH") };
    assert!(publish.properties.subscription_identifiers().eq([5, 6]));
}

#[test]
fn session_present_beside_a_refusal_does_not_hide_the_refusal() {
    let Ok(Some(Packet::ConnAck(connack))) = decode_frame(b"\x20\x03\x01\x87\x00", V5) else {
        panic!("a CONNACK");
    };
    assert_eq!(connack.reason, ReasonCode::NotAuthorized);
}

#[test]
fn tokens_passwords_and_payloads_do_not_show_in_debug_output() {
    let body = b"\0\x04MQTT\x05\xC6\x00\x3C\x0D\x15\0\x01m\x16\0\x06SECRET\0\x01i\0\0\x01t\0\x06SECRET\0\x06SECRET\0\x06SECRET";
    let bytes = framed(0x10, body);
    let packet = decode_frame(&bytes, V5).expect("valid").expect("complete");
    assert!(!format!("{packet:?}").contains("SECRET"));
    let bytes = framed(0x30, b"\0\x01a\x00SECRET");
    let packet = decode_frame(&bytes, V5).expect("valid").expect("complete");
    assert!(!format!("{packet:?}").contains("SECRET"));
}
