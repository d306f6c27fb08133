//! What one client may have, and what becomes of it beyond.

use crate::{
    support::{
        broker::Setup,
        packets::{
            PUBACK, PUBCOMP, PUBREC, PUBREL, Property, Publish, USER_PROPERTY, ack, pair, subscribe_with,
        },
        wire::{VERSIONS, Version},
    },
    world::{BOTH, World},
};

use Version::{V5, V311};

#[test]
fn a_packet_may_carry_any_number_of_filters_and_each_has_its_code_mqtt_3_8_4_4_and_3_8_4_5_and_3_10_4_6() {
    let world = World::new();
    for version in VERSIONS {
        let mut peer = world.peer(version, "peer");
        let names: Vec<String> = (0..1200).map(|n| format!("many/{n}")).collect();
        let filters: Vec<(&str, u8)> = names.iter().map(|name| (&name[..], 1)).collect();
        assert_eq!(peer.subscribe(&filters[..11]), [1; 11]);
        let full = if version == V5 { 0x97 } else { 0x80 };
        assert_eq!(peer.subscribe(&filters), [[1; 1000].as_slice(), &[full; 200]].concat());
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("many/1000", 1, "to nobody");
        publisher.publish("many/999", 1, "x");
        peer.takes("x");
        let names: Vec<&str> = names.iter().map(|name| &name[..]).collect();
        let codes = peer.unsubscribe(&names);
        let ended = [[0; 1000].as_slice(), &[0x11; 200]].concat();
        assert_eq!(codes, if version == V5 { ended } else { Vec::new() });
        publisher.publish("many/999", 1, "to nobody");
        peer.hears_nothing();
    }
}

#[test]
fn a_topic_may_have_200_levels_and_5_0_is_told_of_one_with_too_many_mqtt_4_7_3_4() {
    let world = World::new();
    let deep = "/".repeat(200);
    let too_deep = "/".repeat(400);
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", &deep, 1);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish(&deep, 1, "x");
        peer.takes("x");
        publisher.sends(&Publish::new(&too_deep, "x").qos(1, 7));
        if version == V5 {
            assert_eq!(publisher.acked(PUBACK, 7), 0x90);
            publisher.sends(&Publish::new(&too_deep, "x").qos(2, 8));
            assert_eq!(publisher.acked(PUBREC, 8), 0x90);
            publisher.sends(&Publish::new(&too_deep, "x"));
        }
        publisher.is_dismissed_with(0x90);
        let refused = if version == V5 { 0x8F } else { 0x80 };
        assert_eq!(peer.subscribe(&[(&too_deep, 1)]), [refused]);
    }
}

#[test]
fn user_properties_are_bounded_by_the_packet_alone_mqtt_3_3_2_17_and_3_3_2_18_of_5_0() {
    let world = World::new();
    let many: Vec<Property> = (0..1000).map(|n| pair("key", &n.to_string())).collect();
    let will = many.iter().fold(Publish::new("many/will", "gone"), |will, one| will.with(one.clone()));
    let mut watcher = world.subscriber(V5, "watcher", "many/+", 1);
    let few: Vec<Property> = many[..100].to_vec();
    let hello = few.iter().fold(world.hello(V5, "peer"), |hello, one| hello.with(one.clone()));
    let mut peer = world.connect(&hello);
    let message = Publish { properties: many.clone(), ..Publish::new("many/a", "x") };
    peer.publish_whole(message, 1);
    assert_eq!(watcher.takes("x").values(USER_PROPERTY).len(), 1000);
    peer.send(&subscribe_with(9, &few, &[("many/b", 0)]));
    assert_eq!(peer.codes(0x90, 9), [0]);
    peer.leave();
    let short = Publish { properties: few, ..will };
    drop(world.connect(&world.hello(V5, "peer").will(short)));
    assert_eq!(watcher.takes("gone").values(USER_PROPERTY).len(), 100);
}

#[test]
fn a_connect_that_is_too_large_is_told_so_in_5_0_and_the_knob_makes_room_for_a_large_will() {
    let world = World::new();
    let huge = |version| world.hello(version, "huge").will(Publish::new("huge/will", "x".repeat(5000)));
    let [connack] = &world.turned_away(&huge(V5).bytes())[..] else { panic!("one CONNACK") };
    assert_eq!(connack.connack(), Some(0x95));
    assert_eq!(world.turned_away(&huge(V311).bytes()), []);
    let world = World::with(Setup::new().limit("connect_bytes", 70_000));
    let hello = |version| world.hello(version, "huge").will(Publish::new("huge/will", "x".repeat(65_535)));
    for version in BOTH {
        world.connect(&hello(version)).leave();
    }
}

#[test]
fn a_thousand_subscriptions_are_a_clients_bound_mqtt_3_8_4_4() {
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
