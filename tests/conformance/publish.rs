//! PUBLISH: what is delivered to whom, and how. [§3.3] [§4.3] [§4.6]

use std::collections::HashSet;

use crate::{
    support::{
        packets::{PUBACK, PUBREC, Publish, ack, ack_with},
        wire::{VERSIONS, Version, packet, text},
    },
    world::{BOTH, World},
};

use Version::{V5, V311};

#[test]
fn publish_is_answered_as_its_qos_asks_mqtt_3_3_4_1() {
    let world = World::new();
    for version in VERSIONS {
        let mut peer = world.peer(version, "publisher");
        peer.publish("answers/a", 0, "x");
        peer.hears_nothing();
        peer.publish("answers/a", 1, "x");
        peer.publish("answers/a", 2, "x");
        peer.hears_nothing();
    }
}

#[test]
fn every_version_reaches_every_version_at_every_qos_mqtt_4_5_0_1_and_4_3_1_1_and_4_3_2_1_and_3_3_2_3() {
    let world = World::new();
    let mut watchers: Vec<_> = VERSIONS
        .iter()
        .map(|version| world.subscriber(*version, &format!("w{version:?}"), "all/+", 2))
        .collect();
    for from in VERSIONS {
        let mut publisher = world.peer(from, "publisher");
        for qos in [0, 1, 2] {
            let payload = format!("{from:?} {qos}");
            publisher.publish("all/one", qos, &payload);
            for watcher in &mut watchers {
                let message = watcher.takes(&payload);
                assert_eq!((message.qos, message.dup, message.retain), (qos, false, false));
                assert_eq!(message.told().0, "all/one");
                watcher.hears_nothing();
            }
        }
    }
}

#[test]
fn delivery_is_at_the_lower_of_published_and_granted_qos_mqtt_3_8_4_6() {
    let world = World::new();
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        for granted in [0, 1, 2] {
            let mut peer = world.subscriber(version, "granted", "lower/a", granted);
            for published in [0, 1, 2] {
                publisher.publish("lower/a", published, "x");
                assert_eq!(peer.takes("x").qos, published.min(granted));
            }
            peer.leave();
        }
    }
}

#[test]
fn dup_of_what_arrives_is_not_passed_on_mqtt_3_3_1_3() {
    let world = World::new();
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", "dup/a", 2);
        let mut publisher = world.peer(version, "publisher");
        publisher.sends(&Publish::new("dup/a", "one").qos(1, 9).dup());
        assert_eq!(publisher.acked(PUBACK, 9), 0);
        assert!(!peer.takes("one").dup);
        publisher.sends(&Publish::new("dup/a", "two").qos(2, 9).dup());
        assert_eq!(publisher.acked(PUBREC, 9), 0);
        publisher.send(&ack(0x62, 9));
        assert_eq!(publisher.acked(0x70, 9), 0);
        assert!(!peer.takes("two").dup);
    }
}

#[test]
fn retain_is_0_for_an_established_subscription_mqtt_3_3_1_9() {
    let world = World::new();
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", "established/a", 1);
        let mut publisher = world.peer(V311, "publisher");
        publisher.sends(&Publish::new("established/a", "kept").qos(1, 3).retain());
        assert_eq!(publisher.acked(PUBACK, 3), 0);
        assert!(!peer.takes("kept").retain);
        publisher.sends(&Publish::new("established/a", "").qos(1, 4).retain());
        assert_eq!(publisher.acked(PUBACK, 4), 0);
        assert!(!peer.takes("").retain, "what removes a retained message is passed on all the same");
    }
}

#[test]
fn retain_as_published_leaves_it_as_it_was_mqtt_3_3_1_13() {
    let world = World::new();
    let mut peer = world.subscriber(V5, "peer", "published/a", 0x08 | 1);
    let mut publisher = world.peer(V311, "publisher");
    publisher.sends(&Publish::new("published/a", "1").retain());
    assert!(peer.takes("1").retain);
    publisher.publish("published/a", 1, "0");
    assert!(!peer.takes("0").retain);
    publisher.sends(&Publish::new("published/a", "").retain());
    assert!(peer.takes("").retain);
}

#[test]
fn a_topic_name_is_there_first_and_utf_8_or_it_closes_and_reaches_nobody_mqtt_3_3_2_1() {
    // what is no text must not be passed on, or good subscribers hang up.
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "#", 1);
        for topic in
            [&b""[..], b"text/\xC3\x28", b"text/\xED\xA0\x80", b"text/\xC0\xAF", b"text/\0", b"text/+"]
        {
            let mut publisher = world.peer(version, "publisher");
            publisher.sends(&Publish::new(topic, "x").qos(1, 1));
            publisher.is_dismissed();
        }
        for body in [&[][..], &[0], &[0, 9, b't']] {
            let mut publisher = world.peer(version, "publisher");
            publisher.send(&packet(0x30, body));
            publisher.is_dismissed();
        }
        watcher.hears_nothing();
        watcher.leave();
    }
}

#[test]
fn overlapping_subscriptions_deliver_once_at_the_highest_qos_mqtt_3_3_5_1() {
    let world = World::new();
    for version in BOTH {
        let mut peer = world.peer(version, "peer");
        assert_eq!(peer.subscribe(&[("over/#", 0), ("over/+", 2), ("over/a", 1)]), [0, 2, 1]);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("over/a", 2, "x");
        assert_eq!(peer.takes("x").qos, 2);
        peer.hears_nothing();
    }
}

#[test]
fn what_one_client_publishes_on_a_topic_arrives_in_that_order_mqtt_4_6_0_5_and_4_6_0_6() {
    let world = World::new();
    for version in BOTH {
        for qos in [0, 1, 2] {
            let mut peer = world.subscriber(version, "peer", "order/+", qos);
            let mut publisher = world.peer(version, "publisher");
            let bytes: Vec<u8> = (1..=15u16)
                .flat_map(|n| {
                    let id = if qos > 0 { n } else { 0 };
                    Publish::new("order/a", n.to_string()).qos(qos, id).bytes(version)
                })
                .collect();
            publisher.send(&bytes);
            for n in 1..=15u16 {
                if qos == 1 {
                    assert_eq!(publisher.acked(PUBACK, n), 0);
                }
                if qos == 2 {
                    assert_eq!(publisher.acked(PUBREC, n), 0);
                    publisher.send(&ack(0x62, n));
                }
            }
            let mut got = Vec::new();
            while got.len() < 15 {
                let message = peer.message();
                if qos == 1 {
                    peer.send(&ack(PUBACK, message.id));
                }
                got.push(message.told().1.to_owned());
            }
            let sent: Vec<String> = (1..=15).map(|n: u16| n.to_string()).collect();
            assert_eq!(got, sent, "QoS {qos} in {version:?}");
        }
    }
}

#[test]
fn a_filter_matches_what_the_standard_says_mqtt_4_7_1_2_and_4_7_1_3_and_4_7_3_4() {
    let world = World::new();
    let cases = [
        ("sport/#", "sport", true),
        ("sport/#", "sport/a/b", true),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("sport/+", "sport/a/b", false),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("a//b", "a/b", false),
        ("ACCOUNTS", "Accounts", false),
        ("blank space/ä", "blank space/ä", true),
        ("\u{FEFF}a", "a", false),
        ("a", "\u{FEFF}a", false),
        ("foo/#", "foo/", true),
    ];
    let mut publisher = world.peer(V311, "publisher");
    for version in BOTH {
        for (filter, topic, matches) in cases {
            let mut peer = world.subscriber(version, "peer", filter, 1);
            assert_eq!(peer.subscribe(&[("the/end", 1)]), [1]);
            publisher.publish(topic, 1, "x");
            publisher.publish("the/end", 1, "end");
            if matches {
                assert_eq!(peer.takes("x").told().0, topic);
            }
            peer.takes("end");
        }
    }
}

#[test]
fn a_topic_of_the_brokers_own_is_refused_never_silently_mqtt_3_3_5_2_and_3_4_2_1_and_3_5_2_1() {
    //
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "#", 1);
    for topic in
        ["$x/y", "$", "$SYSx", "$SYS/a", "$share/a/b", "v1/devices/me/telemetry", "/provision/request"]
    {
        for qos in [1, 2] {
            let mut peer = world.peer(V5, "peer");
            peer.sends(&Publish::new(topic, "x").qos(qos, 5));
            assert_eq!(peer.acked(if qos == 1 { PUBACK } else { PUBREC }, 5), 0x87, "{topic}");
            peer.hears_nothing();
            let mut old = world.peer(V311, "old");
            old.sends(&Publish::new(topic, "x").qos(qos, 5));
            old.is_dismissed();
        }
    }
    watcher.hears_nothing();
}

#[test]
fn identifiers_in_flight_are_unique_across_the_wrap_mqtt_2_3_1_4() {
    // A-60, C-07: one message is never acknowledged, 66,000 pass by it.
    const EACH: u32 = 500;
    let world = World::new();
    let mut peer = world.subscriber(V311, "peer", "wrap/a", 1);
    let mut publisher = world.peer(V311, "publisher");
    publisher.publish("wrap/a", 1, "kept");
    let kept = peer.message().id;
    let mut seen = HashSet::new();
    for round in 0..132 {
        let bytes: Vec<u8> =
            (1..=EACH as u16).flat_map(|id| Publish::new("wrap/a", "x").qos(1, id).bytes(V311)).collect();
        publisher.send(&bytes);
        for _ in 0..EACH {
            let message = peer.message();
            assert_ne!(message.id, kept, "in flight still, in round {round}");
            peer.send(&ack(PUBACK, message.id));
            seen.insert(message.id);
        }
        for id in 1..=EACH as u16 {
            publisher.acked(PUBACK, id);
        }
    }
    assert!(!seen.contains(&0) && !seen.contains(&kept));
    peer.send(&ack(PUBACK, kept));
    peer.hears_nothing();
}

#[test]
fn a_refusing_puback_ends_the_exchange_mqtt_4_4_0_2() {
    let world = World::new();
    let mut peer = world.subscriber(V5, "peer", "refuse/+", 1);
    let mut publisher = world.peer(V5, "publisher");
    for n in 0..30 {
        publisher.publish("refuse/a", 1, &n.to_string());
        let message = peer.message();
        assert_eq!(message.told().1, n.to_string());
        peer.send(&ack_with(PUBACK, message.id, 0x83));
    }
    peer.hears_nothing();
}

#[test]
fn an_answer_of_the_wrong_kind_is_a_protocol_error_mqtt_4_8_0_1() {
    //
    let world = World::new();
    for version in BOTH {
        for (qos, wrong) in [(1, PUBREC), (2, PUBACK), (1, 0x70), (2, 0x70)] {
            let mut peer = world.subscriber(version, "peer", "kind/a", 2);
            world.peer(version, "publisher").publish("kind/a", qos, "x");
            let message = peer.message();
            peer.send(&ack(wrong, message.id));
            peer.is_dismissed();
        }
    }
}

#[test]
fn who_goes_while_its_message_is_handled_hurts_nobody_mqtt_4_3_2_1() {
    // FIN, and a takeover that repeats the identifier; no PUBACK reaches the wrong connection.
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "gone/a", 1);
    for version in BOTH {
        for n in 0..20u16 {
            let mut old = world.peer(version, "same");
            old.sends(&Publish::new("gone/a", "old").qos(1, 7));
            if n % 2 == 0 {
                drop(old);
            }
            let mut new = world.peer(version, "same");
            new.hears_nothing();
            new.sends(&Publish::new("gone/a", "new").qos(1, 7));
            assert!(new.acked(PUBACK, 7) < 0x80);
            new.hears_nothing();
            while watcher.message_taken() != "new" {}
        }
    }
}

#[test]
fn no_body_of_a_publish_is_misread_mqtt_4_8_0_1() {
    let world = World::new();
    for version in BOTH {
        // A packet identifier is missing; the properties end behind the packet.
        for body in [text("t"), [text("t"), vec![0]].concat(), [text("t"), vec![0, 0, 0]].concat()] {
            let mut peer = world.peer(version, "peer");
            peer.send(&packet(0x32, &body));
            peer.is_dismissed();
        }
    }
}
