//! What one client may have, and what becomes of it beyond.

use crate::{
    support::{
        packets::{PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack},
        wire::Version,
    },
    world::{BOTH, World},
};

use Version::{V5, V311};

#[test]
fn ten_filters_in_a_packet_are_taken_and_many_come_one_after_the_other_mqtt_3_8_4_4() {
    // 1,000 subscriptions of a client are its bound; a code says so, and those it has go on.
    let world = World::new();
    for version in BOTH {
        let mut peer = world.peer(version, "peer");
        let mut granted = 0;
        for packet in 0..110 {
            let names: Vec<String> = (0..10).map(|n| format!("many/{packet}/{n}")).collect();
            let filters: Vec<(&str, u8)> = names.iter().map(|name| (&name[..], 0)).collect();
            let codes = peer.subscribe(&filters);
            assert_eq!(codes.len(), 10);
            let full = if version == V5 { 0x97 } else { 0x80 };
            assert!(codes.iter().all(|code| [0, full].contains(code)), "{codes:02X?}");
            granted += codes.iter().filter(|code| **code == 0).count();
        }
        assert_eq!(granted, 1000);
        assert_eq!(peer.subscribe(&[("many/0/0", 1)]), [1], "one it has may be made anew");
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("many/0/0", 1, "x");
        peer.takes("x");
        peer.unsubscribe(&["many/0/0"]);
        assert_eq!(peer.subscribe(&[("many/new", 1)]), [1]);
    }
}

#[test]
fn a_client_that_acknowledges_nothing_is_closed_when_its_queue_is_full_mqtt_4_1_0_1_of_5_0() {
    // C-59, A-92: it learns of the loss, instead of missing a message in silence.
    let world = World::new();
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", "full/a", 1);
        let mut canary = world.subscriber(version, "canary", "calm/a", 1);
        let mut publisher = world.peer(version, "publisher");
        for _ in 0..21 {
            let bytes: Vec<u8> =
                (1..=500u16).flat_map(|id| Publish::new("full/a", "x").qos(1, id).bytes(V311)).collect();
            let mut source = world.peer(V311, "source");
            source.send(&bytes);
            for id in 1..=500 {
                source.acked(PUBACK, id);
            }
        }
        let mut last = None;
        let replies = peer.client.until_closed(crate::support::wait::SOON);
        for reply in &replies {
            if Publish::read(version, reply).is_none() {
                last = reply.disconnect();
            }
        }
        assert_eq!(last, (version == V5).then_some(0x97));
        assert!(replies.len() <= 21, "no more than the window was in flight");
        publisher.publish("calm/a", 1, "calm");
        canary.takes("calm");
    }
}

#[test]
fn connecting_publishing_and_leaving_again_and_again_leaves_nothing_behind_mqtt_4_3_2_1() {
    //
    let world = World::new();
    let mut watcher = world.subscriber(V311, "watcher", "cycle/a", 0);
    let descriptors = crate::support::process::descriptors(world.ours().pid());
    for n in 0..300u16 {
        let version = BOTH[usize::from(n % 2)];
        let mut peer = world.peer(version, "cycle");
        assert_eq!(peer.subscribe(&[("cycle/b", 2)]), [2]);
        peer.publish("cycle/a", 1, "x");
        peer.sends(&Publish::new("cycle/b", "x").qos(2, 9));
        drop(peer);
        watcher.takes("x");
    }
    crate::support::wait::until_true("descriptors are given back", crate::support::wait::SOON, || {
        crate::support::process::descriptors(world.ours().pid()) <= descriptors
    });
}

#[test]
fn names_full_of_tricks_stay_names_in_the_log_mqtt_4_7_3_4() {
    // none makes a line of its own, none reaches a terminal.
    let world = World::new();
    let tricks = ["../../etc/x", "<script>", "a:b;--", "\u{202E}gnp", "%s%n{}"];
    let mut watcher = world.subscriber(V5, "watcher", "tricks/#", 1);
    for name in tricks {
        let mut peer = world.peer(V5, name);
        let topic = format!("tricks/{name}");
        peer.sends(&Publish::new(&topic, "x").qos(2, 1));
        assert_eq!(peer.acked(PUBREC, 1), 0);
        peer.send(&ack(PUBREL, 1));
        assert_eq!(peer.acked(PUBCOMP, 1), 0);
        assert_eq!(watcher.takes("x").told().0, topic);
        peer.send(&[0x00, 0x00]);
        peer.is_dismissed();
    }
    let log = world.ours().log();
    assert!(!log.contains('\u{1B}') && !log.contains('\u{202E}'), "{log}");
}
