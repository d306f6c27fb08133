//! Wills. [§3.1.2.5] [§3.14.4]

use crate::{
    support::{
        packets::{CONTENT_TYPE, MESSAGE_EXPIRY, PAYLOAD_FORMAT, Publish, byte, four, pair, string},
        wire::{PINGREQ, Version},
    },
    world::{BOTH, Peer, World},
};

use Version::{V5, V311};

fn with_will(world: &World, version: Version, client_id: &str, keep_alive_s: u16) -> Peer {
    let will = Publish::new(format!("wills/{client_id}"), "last words").qos(1, 0);
    world.connect(&world.hello(version, client_id).will(will).keep_alive_s(keep_alive_s))
}

#[test]
fn a_will_is_published_once_however_the_connection_breaks_mqtt_3_1_2_8_and_3_1_2_10_and_3_1_2_16() {
    // C-22: FIN, RST, a protocol error, a takeover, silence.
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "wills/+", 2);
        let mut published = |client_id: &str| {
            let will = watcher.takes("last words");
            assert_eq!(will.told().0, format!("wills/{client_id}"));
            assert_eq!((will.qos, will.retain, will.dup), (1, false, false));
            watcher.hears_nothing();
        };
        let silent = with_will(&world, version, "silence", 1);
        let mut fin = with_will(&world, version, "fin", 60);
        fin.client.finish_sending();
        published("fin");
        drop(with_will(&world, version, "drop", 60));
        published("drop");
        let mut offender = with_will(&world, version, "error", 60);
        offender.send(&[0x00, 0x00]);
        offender.is_dismissed();
        published("error");
        let mut old = with_will(&world, version, "taken", 60);
        let new = world.peer(version, "taken");
        old.is_dismissed_with(0x8E);
        published("taken");
        new.leave();
        published("silence");
        drop(silent);
        watcher.hears_nothing();
    }
}

#[test]
fn disconnect_discards_the_will_mqtt_3_14_4_3() {
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "wills/+", 1);
        with_will(&world, version, "leaver", 60).leave();
        if version == V5 {
            let mut leaver = with_will(&world, version, "leaver", 60);
            leaver.send(&[0xE0, 0x02, 0x00, 0x00]);
            leaver.client.until_closed(crate::support::wait::SOON);
        }
        world.peer(version, "publisher").publish("wills/end", 1, "end");
        watcher.takes("end");
    }
}

#[test]
fn disconnect_with_will_publishes_it_mqtt_3_1_2_8() {
    // C-24.
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "wills/+", 1);
    for bytes in [&[0xE0, 0x01, 0x04][..], &[0xE0, 0x02, 0x04, 0x00]] {
        let mut leaver = with_will(&world, V5, "leaver", 60);
        leaver.send(bytes);
        leaver.client.until_closed(crate::support::wait::SOON);
        watcher.takes("last words");
        watcher.hears_nothing();
    }
}

#[test]
fn without_the_will_flag_no_will_is_published_mqtt_3_1_2_12() {
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "#", 1);
        for _ in 0..3 {
            drop(world.peer(version, "silent"));
        }
        world.peer(version, "publisher").publish("wills/end", 1, "end");
        watcher.takes("end");
    }
}

#[test]
fn a_will_of_each_qos_and_an_empty_one_arrive_as_they_were_told_mqtt_3_1_2_9() {
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "wills/+", 2);
        for qos in [0, 1, 2] {
            for payload in ["", "x"] {
                let will = Publish::new("wills/a", payload).qos(qos, 0);
                drop(world.connect(&world.hello(version, "w").will(will)));
                assert_eq!(watcher.takes(payload).qos, qos);
            }
        }
    }
}

#[test]
fn a_wills_properties_are_passed_on_in_their_order_mqtt_3_1_3_10_of_5_0() {
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "wills/+", 1);
    let pairs = [pair("b", "1"), pair("a", "2"), pair("b", "1"), pair("", "")];
    let mut will = Publish::new("wills/a", "x")
        .with(byte(PAYLOAD_FORMAT, 1))
        .with(string(CONTENT_TYPE, "text/plain"))
        .with(four(MESSAGE_EXPIRY, 500));
    will.properties.extend(pairs.clone());
    drop(world.connect(&world.hello(V5, "w").will(will)));
    let got = watcher.takes("x");
    let values: Vec<&[u8]> = pairs.iter().map(|(_, value)| &value[..]).collect();
    assert_eq!(got.values(0x26), values);
    assert_eq!(got.values(PAYLOAD_FORMAT), [&[1]]);
    assert_eq!(got.values(CONTENT_TYPE), [&string(0, "text/plain").1[..]]);
    assert_eq!(got.values(MESSAGE_EXPIRY).len(), 1);
}

#[test]
fn a_will_to_where_its_client_may_not_publish_is_refused_at_connect_mqtt_3_1_4_2_of_5_0() {
    //
    let world = World::new();
    for topic in ["$SYS/a", "$CONTROL/x", "v1/gateway/telemetry", "devices/pump/telemetry", "$share/a/b"] {
        let will = Publish::new(topic, "x");
        let replies = world.turned_away(&world.hello(V5, "w").will(will.clone()).bytes());
        assert_eq!(replies.iter().map(|reply| reply.connack()).collect::<Vec<_>>(), [Some(0x87)], "{topic}");
        let replies = world.turned_away(&world.hello(V311, "w").will(will).bytes());
        assert!(
            replies.iter().all(|reply| matches!(reply.connack(), Some(4 | 5))),
            "{topic}: {replies:02X?}"
        );
    }
}

#[test]
fn nothing_behind_a_disconnect_is_looked_at_mqtt_3_14_4_3() {
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "#", 1);
        let mut leaver = with_will(&world, version, "leaver", 60);
        let behind = Publish::new("wills/behind", "x").bytes(version);
        leaver.send(&[&[0xE0, 0x00][..], &behind, &PINGREQ, &[0x00, 0x00]].concat());
        assert_eq!(leaver.client.until_closed(crate::support::wait::SOON), []);
        world.peer(version, "publisher").publish("wills/end", 1, "end");
        watcher.takes("end");
    }
}
