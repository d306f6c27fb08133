//! What 5.0 passes on beside the payload, and what its answers may carry. [§3.3.2.3]

use std::time::Duration;

use crate::{
    support::{
        client::Event,
        packets::{
            CONTENT_TYPE, CORRELATION_DATA, MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY, PAYLOAD_FORMAT, PUBACK,
            PUBCOMP, PUBREC, PUBREL, Publish, REASON_STRING, RECEIVE_MAXIMUM, REQUEST_PROBLEM_INFORMATION,
            RESPONSE_TOPIC, SUBSCRIPTION_ID, USER_PROPERTY, ack, byte, four, pair, read_properties, string,
            subscribe_with, two, variable,
        },
        wait::SOON,
        wire::{Reply, Version, subscribe, unsubscribe},
    },
    world::World,
};

use Version::{V5, V311};

#[test]
fn everything_a_publish_carries_is_passed_on_mqtt_3_3_2_4_and_3_3_2_15_to_18_and_3_3_2_20() {
    let world = World::new();
    let mut peer = world.subscriber(V5, "peer", "carried/+", 2);
    let mut old = world.subscriber(V311, "old", "carried/+", 2);
    let mut publisher = world.peer(V5, "publisher");
    let carried = [
        byte(PAYLOAD_FORMAT, 1),
        string(CONTENT_TYPE, "application/json"),
        string(RESPONSE_TOPIC, "answers/to/me"),
        string(CORRELATION_DATA, [0, 255, 0, 1]),
        pair("z", "1"),
        pair("a", "2"),
        pair("z", "1"),
        pair("", ""),
    ];
    for qos in [0, 1, 2] {
        let id = u16::from(qos > 0) * 7;
        let mut sent = Publish::new("carried/a", "{}").qos(qos, id);
        sent.properties = carried.to_vec();
        publisher.sends(&sent);
        if qos == 1 {
            assert_eq!(publisher.acked(PUBACK, 7), 0);
        }
        if qos == 2 {
            assert_eq!(publisher.acked(PUBREC, 7), 0);
            publisher.send(&ack(PUBREL, 7));
            assert_eq!(publisher.acked(PUBCOMP, 7), 0);
        }
        let got = peer.takes("{}");
        for (id, _) in &carried {
            assert_eq!(got.values(*id), sent.values(*id), "property {id:#04x} at QoS {qos}");
        }
        assert_eq!(got.properties.len(), carried.len(), "and nothing else");
        assert_eq!(old.takes("{}").told().0, "carried/a");
    }
    // A payload format of nought is passed on too, and none is not invented.
    publisher.sends(&Publish::new("carried/a", "0").with(byte(PAYLOAD_FORMAT, 0)));
    assert!(matches!(peer.takes("0").values(PAYLOAD_FORMAT)[..], [] | [[0]]));
    publisher.publish("carried/a", 0, "none");
    assert_eq!(peer.takes("none").properties, []);
}

#[test]
fn response_topic_and_content_type_are_utf_8_mqtt_3_3_2_13_and_3_3_2_19() {
    let world = World::new();
    for id in [RESPONSE_TOPIC, CONTENT_TYPE] {
        for bad in [&[0xC3, 0x28][..], &[0xED, 0xA0, 0x80], &[b'a', 0]] {
            let mut peer = world.peer(V5, "peer");
            peer.sends(&Publish::new("text/a", "x").with(string(id, bad)));
            peer.is_dismissed();
        }
    }
}

#[test]
fn a_message_that_expired_is_not_delivered_and_the_rest_of_a_life_is_told_mqtt_3_3_2_5_and_3_3_2_6_and_4_3_3_7_and_4_3_3_13()
 {
    // C-36, A-50.
    let world = World::new();
    let mut peer = world.connect(&world.hello(V5, "slow").with(two(RECEIVE_MAXIMUM, 1)));
    assert_eq!(peer.subscribe(&[("life/+", 2)]), [2]);
    let mut publisher = world.peer(V5, "publisher");
    let mut sends = |id, payload, expiry| {
        publisher.sends(&Publish::new("life/a", payload).qos(1, id).with(four(MESSAGE_EXPIRY, expiry)));
        assert_eq!(publisher.acked(PUBACK, id), 0);
    };
    sends(1, "in flight", 1);
    sends(2, "short", 1);
    sends(3, "long", 100);
    sends(4, "eternal", u32::MAX);
    publisher.sends(&Publish::new("life/b", "qos 2").qos(2, 5).with(four(MESSAGE_EXPIRY, 1)));
    assert_eq!(publisher.acked(PUBREC, 5), 0);
    let first = peer.message();
    assert_eq!(first.told().1, "in flight");
    peer.waits_in_vain(Duration::from_millis(2_100));
    publisher.send(&ack(PUBREL, 5));
    assert_eq!(publisher.acked(PUBCOMP, 5), 0, "the exchange is completed all the same");
    peer.accept(&first);
    let life = |message: &Publish| {
        let [value] = message.values(MESSAGE_EXPIRY)[..] else { panic!("an expiry, got {message:?}") };
        u32::from_be_bytes(value.try_into().expect("four bytes"))
    };
    assert!((95..=98).contains(&life(&peer.takes("long"))));
    let left = life(&peer.takes("eternal"));
    assert!((u32::MAX - 10..u32::MAX - 1).contains(&left), "{left}");
    peer.hears_nothing();
}

#[test]
fn an_expiry_of_nought_and_of_eternity_is_no_accident_mqtt_3_3_2_6() {
    //
    let world = World::new();
    let mut peer = world.subscriber(V5, "peer", "edges/+", 1);
    let mut publisher = world.peer(V5, "publisher");
    for expiry in [0, u32::MAX] {
        publisher.sends(&Publish::new("edges/a", "x").qos(1, 1).with(four(MESSAGE_EXPIRY, expiry)));
        assert!(publisher.acked(PUBACK, 1) < 0x80);
    }
    publisher.publish("edges/a", 1, "end");
    while peer.message_taken() != "end" {}
}

#[test]
fn one_copy_carries_the_identifiers_of_all_its_subscriptions_mqtt_3_3_4_3_and_3_3_4_4() {
    let world = World::new();
    let mut peer = world.peer(V5, "peer");
    for (id, number, filter) in
        [(1, Some(1), "ids/a"), (2, Some(268_435_455), "ids/+"), (3, None, "ids/#"), (4, Some(9), "other/#")]
    {
        let list: Vec<_> = number.iter().map(|number| variable(SUBSCRIPTION_ID, *number)).collect();
        peer.send(&subscribe_with(id, &list, &[(filter, 1)]));
        assert_eq!(peer.codes(0x90, id), [1]);
    }
    let mut publisher = world.peer(V5, "publisher");
    publisher.publish("ids/a", 1, "x");
    let got = peer.takes("x");
    let mut ids = got.values(SUBSCRIPTION_ID);
    ids.sort();
    assert_eq!(ids, [&[1][..], &[0xFF, 0xFF, 0xFF, 0x7F]]);
    peer.hears_nothing();
    // The same filter again, with another identifier, and then with none.
    peer.send(&subscribe_with(5, &[variable(SUBSCRIPTION_ID, 300)], &[("ids/a", 1)]));
    assert_eq!(peer.codes(0x90, 5), [1]);
    peer.send(&subscribe(V5, 6, &[("ids/+", 1)]));
    assert_eq!(peer.codes(0x90, 6), [1]);
    publisher.publish("ids/a", 1, "y");
    assert_eq!(peer.takes("y").values(SUBSCRIPTION_ID), [&[0xAC, 0x02]]);
}

#[test]
fn subscription_identifiers_that_cannot_be_close_mqtt_3_3_4_6() {
    //
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "ids/#", 1);
    let mut peer = world.peer(V5, "peer");
    peer.sends(&Publish::new("ids/a", "x").with(variable(SUBSCRIPTION_ID, 1)));
    peer.is_dismissed_with(0x82);
    watcher.hears_nothing();
    for value in [&[0][..], &[0xFF, 0xFF, 0xFF, 0xFF, 0x01]] {
        let mut peer = world.peer(V5, "peer");
        peer.send(&subscribe_with(1, &[(SUBSCRIPTION_ID, value.to_vec())], &[("a", 0)]));
        peer.is_dismissed();
    }
}

/// Whatever the program says of its own accord, provoked packet by packet.
fn provoked(world: &World, hello: &crate::support::packets::Connect) -> Vec<Reply> {
    let mut peer = world.connect(hello);
    let mut replies = Vec::new();
    let mut source = world.peer(V5, "source");
    let bytes = [
        subscribe(V5, 1, &[("said/a", 2), ("$SYS/#", 1), ("v1/devices/me/rpc", 0)]),
        unsubscribe(V5, 2, &["said/never"]),
        Publish::new("$x", "x").qos(1, 3).bytes(V5),
        Publish::new("$x", "x").qos(2, 4).bytes(V5),
        Publish::new("nobody", "x").qos(1, 5).bytes(V5),
        Publish::new("nobody", "x").qos(2, 6).bytes(V5),
        ack(PUBREL, 6),
        ack(PUBREL, 7),
    ]
    .concat();
    peer.send(&bytes);
    for _ in 0..8 {
        replies.push(peer.client.packet());
    }
    source.publish("said/a", 2, "x");
    let message = peer.message();
    peer.send(&[ack(PUBREC, message.id), ack(PUBREC, 999), vec![0x00, 0x00]].concat());
    replies.extend(peer.client.until_closed(SOON));
    replies.push(peer.connack);
    replies
}

/// Everything behind the identifier, or behind the type, that is properties.
fn properties_of(reply: &Reply) -> Vec<crate::support::packets::Property> {
    let from = match reply.first {
        0x20 => 2,
        0x90 | 0xB0 => 2,
        0xE0 => 1,
        _ => 3,
    };
    if reply.body.len() <= from { Vec::new() } else { read_properties(&reply.body[from..]).0 }
}

#[test]
fn no_answer_is_too_large_for_its_client_mqtt_3_1_2_24_and_3_4_2_2_and_3_4_2_3_and_3_5_2_2_and_3_5_2_3_and_3_6_2_2_and_3_6_2_3_and_3_7_2_2_and_3_7_2_3_and_3_9_2_1_and_3_9_2_2_and_3_11_2_1_and_3_11_2_2_and_3_14_2_3_and_3_14_2_4_of_5_0()
 {
    let world = World::new();
    // The smallest size that lets in: a CONNACK must fit.
    let connack = world.peer(V5, "size").connack.body.len() + 2;
    let size = u32::try_from(connack).expect("a CONNACK is small");
    let hello = world.hello(V5, "size").with(four(MAXIMUM_PACKET_SIZE, size));
    let replies = provoked(&world, &hello);
    let kinds: std::collections::BTreeSet<u8> = replies.iter().map(|reply| reply.first).collect();
    for kind in [0x20, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0] {
        assert!(kinds.contains(&kind), "{kind:#04x} was provoked");
    }
    for reply in replies {
        assert!(reply.body.len() + 2 <= connack, "at most {connack} bytes: {reply:02X?}");
    }
}

#[test]
fn no_connack_is_too_large_for_its_client_mqtt_3_2_2_19_and_3_2_2_20() {
    let world = World::new();
    for size in 1..40 {
        for token in [&world.token, "NoSuchTokenInAnyRegistry"] {
            let mut hello = world.hello(V5, "").with(four(MAXIMUM_PACKET_SIZE, size));
            hello.user_name = Some(token.into());
            let mut client = world.dial();
            client.send(&hello.bytes());
            if let Event::Packet(reply) = client.next(SOON) {
                assert!(reply.body.len() + 2 <= size as usize, "{size} bytes at most: {reply:02X?}");
            }
        }
    }
}

#[test]
fn who_wants_no_problem_information_gets_none_mqtt_3_1_2_29() {
    // C-60.
    let world = World::new();
    let hello = world.hello(V5, "content").with(byte(REQUEST_PROBLEM_INFORMATION, 0));
    for reply in provoked(&world, &hello) {
        if !matches!(reply.first, 0x20 | 0xE0) {
            let list = properties_of(&reply);
            assert!(list.iter().all(|(id, _)| !matches!(*id, REASON_STRING | USER_PROPERTY)), "{reply:02X?}");
        }
    }
}

#[test]
fn reason_codes_are_those_of_their_tables_mqtt_3_4_2_1_and_3_5_2_1_and_3_7_2_1_mqtt_3_6_2_1() {
    let world = World::new();
    for reply in provoked(&world, &world.hello(V5, "codes")) {
        let code = reply.body.get(2).copied().unwrap_or(0);
        let table: &[u8] = match reply.first {
            0x40 | 0x50 => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            0x62 | 0x70 => &[0x00, 0x92],
            _ => continue,
        };
        assert!(table.contains(&code), "{reply:02X?}");
    }
}
