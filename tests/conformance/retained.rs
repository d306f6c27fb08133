//! Retained messages. [§3.3.1.3] [§3.8.3.1]

use std::time::{Duration, Instant};

use crate::{
    support::{
        broker::Setup,
        packets::{
            CONTENT_TYPE, MESSAGE_EXPIRY, PUBACK, PUBREC, Publish, SUBSCRIPTION_ID, four, pair, string,
            subscribe_with, variable,
        },
        wire::{PINGREQ, Version},
    },
    world::{BOTH, Gap, Peer, World, gaps},
};

use Version::{V5, V311};

/// Retain handling 1 and 2, and retain as published, as they stand in the options. [§3.8.3.1]
const ONLY_IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;
const AS_PUBLISHED: u8 = 0x08;
/// No Local, likewise.
const NO_LOCAL: u8 = 0x04;

/// Publishes with RETAIN to the end of the exchange.
#[track_caller]
fn retain(peer: &mut Peer, topic: &str, qos: u8, payload: &str) {
    peer.publish_whole(Publish::new(topic, payload).retain(), qos);
}

/// What a new subscription is sent at once, every exchange completed.
#[track_caller]
fn found(world: &World, version: Version, filter: &str, options: u8) -> Vec<Publish> {
    let mut peer = world.subscriber(version, "finder", filter, options);
    brought(&mut peer)
}

/// What a subscription just made has brought, all in flight at once being few enough.
#[track_caller]
fn brought(peer: &mut Peer) -> Vec<Publish> {
    let mut all = Vec::new();
    loop {
        peer.send(&PINGREQ);
        let before = all.len();
        loop {
            let reply = peer.client.packet();
            let Some(message) = Publish::read(peer.version, &reply) else {
                assert_eq!(reply.first, 0xD0, "{reply:02X?}");
                break;
            };
            all.push(message);
        }
        if all.len() == before {
            return all;
        }
        for message in &all[before..] {
            peer.accept(message);
        }
    }
}

#[test]
fn a_retained_message_is_kept_with_its_qos_and_sent_to_new_subscriptions_mqtt_3_3_1_5_and_3_3_1_6_and_3_3_1_8_and_3_1_2_7()
 {
    for (version, gap) in gaps() {
        let mut world = World::new();
        for qos in [0, 1, 2] {
            let mut publisher = world.peer(version, "publisher");
            retain(&mut publisher, &format!("kept/{qos}"), qos, "state");
            // Behind an acknowledgement, for QoS 0 has none.
            publisher.publish("elsewhere", 2, "x");
            retain(&mut publisher, "elsewhere", 1, "x");
            publisher.leave();
        }
        world.pass(gap);
        for reader in BOTH {
            for (qos, granted) in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)] {
                let messages = found(&world, reader, &format!("kept/{qos}"), granted);
                let [message] = &messages[..] else { panic!("one message, got {messages:?}") };
                assert_eq!(message.told(), (&format!("kept/{qos}")[..], "state"));
                assert_eq!((message.qos, message.retain, message.dup), (qos.min(granted), true, false));
            }
        }
    }
}

#[test]
fn the_last_one_is_kept_whatever_its_qos_mqtt_3_3_1_7_and_3_3_1_5() {
    // C-27.
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut publisher = world.peer(version, "publisher");
        for (n, (before, after)) in [(2, 0), (0, 2), (1, 0), (1, 1)].into_iter().enumerate() {
            retain(&mut publisher, &format!("last/{n}"), before, "before");
            retain(&mut publisher, &format!("last/{n}"), after, "after");
        }
        retain(&mut publisher, "elsewhere", 1, "x");
        world.pass(gap);
        for (n, qos) in [0, 2, 0, 1].into_iter().enumerate() {
            let messages = found(&world, version, &format!("last/{n}"), 2);
            assert_eq!(messages.len(), 1);
            assert_eq!((messages[0].told().1, messages[0].qos), ("after", qos));
        }
    }
}

#[test]
fn an_empty_one_clears_and_is_not_kept_but_passed_on_mqtt_3_3_1_10_and_3_3_1_11() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut watcher = world.subscriber(version, "watcher", "cleared/+", 2);
        let mut publisher = world.peer(version, "publisher");
        for qos in [0, 1, 2] {
            let topic = format!("cleared/{qos}");
            retain(&mut publisher, &topic, qos, "state");
            watcher.takes("state");
            retain(&mut publisher, &topic, qos, "");
            let passed_on = watcher.takes("");
            assert!(!passed_on.retain, "to an established subscription [MQTT-3.3.1-9]");
            // Nothing to clear is nothing wrong.
            retain(&mut publisher, &topic, qos, "");
            watcher.takes("");
        }
        retain(&mut publisher, "elsewhere", 1, "x");
        world.pass(gap);
        assert_eq!(found(&world, version, "cleared/+", 2), []);
    }
}

#[test]
fn without_retain_the_one_before_stays_mqtt_3_3_1_12() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut publisher = world.peer(version, "publisher");
        retain(&mut publisher, "stays/a", 1, "state");
        for qos in [0, 1, 2] {
            publisher.publish("stays/a", qos, "other");
            publisher.publish("stays/a", qos, "");
            publisher.publish("stays/b", qos, "none");
        }
        world.pass(gap);
        let messages = found(&world, version, "stays/+", 2);
        assert_eq!(messages.iter().map(Publish::told).collect::<Vec<_>>(), [("stays/a", "state")]);
    }
}

#[test]
fn a_live_copy_has_no_retain_unless_it_is_asked_for_as_published_mqtt_3_3_1_9_mqtt_3_3_1_12_and_3_3_1_13_of_5_0()
 {
    // C-28.
    let world = World::new();
    let mut plain = world.subscriber(V311, "plain", "live/a", 1);
    let mut five = world.subscriber(V5, "five", "live/a", 1);
    let mut published = world.subscriber(V5, "as published", "live/a", AS_PUBLISHED | 1);
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        for flag in [true, false, true] {
            let message = Publish::new("live/a", "x");
            publisher.publish_whole(if flag { message.retain() } else { message }, 1);
            assert!(!plain.takes("x").retain && !five.takes("x").retain);
            assert_eq!(published.takes("x").retain, flag);
        }
        // What a subscription brings has RETAIN whatever its options say.
        for options in [0, AS_PUBLISHED] {
            assert!(found(&world, V5, "live/a", options)[0].retain);
        }
    }
}

#[test]
fn retain_handling_says_when_they_are_sent_mqtt_3_3_1_9_to_11_of_5_0() {
    let world = World::new();
    retain(&mut world.peer(V5, "publisher"), "handled/a", 1, "state");
    let mut peer = world.peer(V5, "peer");
    let mut asks = |options: u8, comes: bool| {
        assert_eq!(peer.subscribe(&[("handled/+", options)]), [options & 3]);
        if comes {
            assert!(peer.takes("state").retain);
        }
        peer.hears_nothing();
    };
    asks(NEVER | 1, false);
    asks(ONLY_IF_NEW | 1, false);
    asks(1, true);
    asks(0, true);
    asks(ONLY_IF_NEW | 2, false);
    peer.unsubscribe(&["handled/+"]);
    let mut peer = world.peer(V5, "peer");
    for (options, comes) in [(ONLY_IF_NEW | 1, true), (ONLY_IF_NEW | 1, false), (NEVER, false), (2, true)] {
        assert_eq!(peer.subscribe(&[("handled/a", options)]), [options & 3]);
        if comes {
            peer.takes("state");
        }
        peer.hears_nothing();
    }
}

#[test]
fn retain_handling_of_a_session_that_is_back_knows_its_subscriptions_mqtt_3_3_1_10_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        retain(&mut world.peer(V5, "publisher"), "known/a", 1, "state");
        let mut peer = world.settle_on(V5, "peer", "known/+", 1);
        peer.takes("state");
        peer.vanish();
        world.pass(gap);
        let mut peer = world.resume(V5, "peer");
        if gap != Gap::Reconnect {
            // The PUBACK may have come too late for the disk.
            let again = brought(&mut peer);
            assert!(again.iter().all(|message| message.told().1 == "state" && message.dup), "{again:?}");
        }
        assert_eq!(peer.subscribe(&[("known/+", ONLY_IF_NEW | 1)]), [1]);
        peer.hears_nothing();
        assert_eq!(peer.subscribe(&[("known/+", 1)]), [1]);
        peer.takes_all(&["state"]);
        assert_eq!(peer.subscribe(&[("known/#", ONLY_IF_NEW | 1)]), [1]);
        peer.takes_all(&["state"]);
    }
}

#[test]
fn the_same_filter_again_brings_them_again_and_loses_no_message_mqtt_3_8_4_3() {
    // C-41.
    let world = World::new();
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        retain(&mut publisher, "again/state", 1, "state");
        let mut peer = world.subscriber(version, "peer", "again/+", 1);
        peer.takes("state");
        for n in 0..20 {
            let live = n.to_string();
            publisher.publish("again/live", 1, &live);
            let id = peer.fresh_id();
            peer.send(&crate::support::wire::subscribe(version, id, &[("again/+", 1)]));
            publisher.publish("again/live", 1, &format!("{live}, after"));
            let mut told = Vec::new();
            while told.len() < 3 {
                let reply = peer.client.packet();
                let Some(message) = Publish::read(version, &reply) else {
                    assert_eq!(reply.first, 0x90, "{reply:02X?}");
                    continue;
                };
                peer.accept(&message);
                assert_eq!(message.retain, message.told().0 == "again/state");
                told.push(message.told().1.to_owned());
            }
            told.retain(|payload| payload != "state");
            assert_eq!(told, [live.clone(), format!("{live}, after")]);
            peer.hears_nothing();
        }
        peer.leave();
    }
}

#[test]
fn wildcards_find_what_they_cover_and_nothing_else_mqtt_4_7_1_1() {
    let world = World::new();
    let mut publisher = world.peer(V5, "publisher");
    let topics = ["a", "a/b", "a/b/c", "a/", "/a", "a/+b".trim_end_matches("+b"), "b/b", "a/d/c"];
    for topic in topics {
        retain(&mut publisher, topic, 1, "x");
    }
    for (filter, covers) in [
        ("a", &["a"][..]),
        ("a/+", &["a/", "a/b"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c", "a/d/c"]),
        ("+/b", &["a/b", "b/b"]),
        ("a/+/c", &["a/b/c", "a/d/c"]),
        ("+", &["a"]),
        ("/+", &["/a"]),
        ("+/+", &["/a", "a/", "a/b", "b/b"]),
        ("#", &["/a", "a", "a/", "a/b", "a/b/c", "a/d/c", "b/b"]),
        ("a/b/c/#", &["a/b/c"]),
        ("c/#", &[]),
    ] {
        for version in BOTH {
            let messages = found(&world, version, filter, 1);
            let mut topics: Vec<&str> = messages.iter().map(|message| message.told().0).collect();
            topics.sort_unstable();
            assert_eq!(topics, covers, "{filter}");
        }
    }
}

#[test]
fn a_shared_subscription_gets_none() {
    // [§4.8.2]
    let world = World::new();
    retain(&mut world.peer(V5, "publisher"), "shared/a", 1, "state");
    for options in [1, ONLY_IF_NEW | 1, NEVER | 1, AS_PUBLISHED | 1] {
        assert_eq!(found(&world, V5, "$share/g/shared/+", options), []);
    }
    assert_eq!(found(&world, V311, "$share/g/shared/+", 1), []);
}

#[test]
fn a_subscription_identifier_comes_with_them_mqtt_3_3_4_3_of_5_0() {
    let world = World::new();
    retain(&mut world.peer(V5, "publisher"), "numbered/a", 1, "state");
    let mut peer = world.peer(V5, "peer");
    for number in [1, 128, 268_435_455] {
        let id = peer.fresh_id();
        peer.send(&subscribe_with(id, &[variable(SUBSCRIPTION_ID, number)], &[("numbered/+", 1)]));
        assert_eq!(peer.codes(0x90, id), [1]);
        let message = peer.takes("state");
        assert_eq!(message.values(SUBSCRIPTION_ID), [&variable(0, number).1[..]]);
    }
}

#[test]
fn their_properties_are_passed_on_and_kept_mqtt_3_3_2_17_and_3_3_2_20_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let pairs = [pair("b", "1"), pair("a", "2"), pair("b", "1")];
        let mut message = Publish::new("told/a", [0, 255, 0]).with(string(CONTENT_TYPE, "raw")).retain();
        message.properties.extend(pairs.clone());
        world.peer(V5, "publisher").publish_whole(message, 1);
        world.pass(gap);
        let messages = found(&world, V5, "told/+", 1);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].payload, [0, 255, 0]);
        assert_eq!(messages[0].values(0x26), pairs.each_ref().map(|(_, value)| &value[..]));
        assert_eq!(messages[0].values(CONTENT_TYPE), [&string(0, "raw").1[..]]);
        assert_eq!(found(&world, V311, "told/+", 1)[0].payload, [0, 255, 0]);
    }
}

#[test]
fn a_life_is_counted_down_and_then_it_is_gone_mqtt_3_3_2_5_and_3_3_2_6_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Kill] {
        let mut world = World::new();
        let message = Publish::new("mortal/a", "x").with(four(MESSAGE_EXPIRY, 3)).retain();
        let since = Instant::now();
        world.peer(V5, "publisher").publish_whole(message, 1);
        world.pass(gap);
        let mut told = vec![3];
        let mut peer = world.peer(V5, "peer");
        loop {
            assert_eq!(peer.subscribe(&[("mortal/a", 1)]), [1]);
            let messages = brought(&mut peer);
            let [message] = &messages[..] else { break };
            let [left] = message.values(MESSAGE_EXPIRY)[..] else { panic!("what is left, in {message:?}") };
            told.push(left.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
        }
        let lasted = since.elapsed();
        assert!(told.is_sorted_by(|a, b| a >= b), "it only goes down: {told:?}");
        assert_eq!(told.last(), Some(&1), "{told:?}");
        assert!(lasted >= Duration::from_millis(2990), "not before its time: {lasted:?}");
        assert_eq!(found(&world, V311, "mortal/a", 1), []);
        // One without an end takes its place.
        world.peer(V5, "publisher").publish_whole(Publish::new("mortal/a", "y").retain(), 1);
        assert!(found(&world, V5, "mortal/a", 1)[0].values(MESSAGE_EXPIRY).is_empty());
    }
}

#[test]
fn what_has_no_room_is_refused_with_0x97_and_the_others_stay() {
    // [§3.4.2.1], [§3.5.2.1]
    let world = World::with(Setup::new().limit("retained_messages", 2));
    let mut watcher = world.subscriber(V5, "watcher", "room/+", 2);
    let mut publisher = world.peer(V5, "publisher");
    retain(&mut publisher, "room/a", 1, "a");
    retain(&mut publisher, "room/b", 2, "b");
    watcher.takes_all(&["a", "b"]);
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        let id = publisher.fresh_id();
        publisher.sends(&Publish::new("room/c", "c").retain().qos(qos, id));
        assert_eq!(publisher.acked(kind, id), 0x97);
    }
    watcher.hears_nothing();
    // Before 5.0 nobody can be told: it is delivered, and not retained.
    retain(&mut world.peer(V311, "older"), "room/c", 1, "c");
    watcher.takes_all(&["c"]);
    retain(&mut publisher, "room/a", 1, "another");
    retain(&mut publisher, "room/b", 1, "");
    retain(&mut publisher, "room/c", 1, "c");
    let mut told = found(&world, V5, "room/+", 1);
    told.sort_by_key(|message| message.topic.clone());
    assert_eq!(told.iter().map(Publish::told).collect::<Vec<_>>(), [("room/a", "another"), ("room/c", "c")]);
}

#[test]
fn one_that_is_too_large_leaves_the_one_before() {
    for (version, gap) in gaps() {
        let mut world = World::with(Setup::new().limit("retained_bytes", 2000));
        let mut publisher = world.peer(V5, "publisher");
        retain(&mut publisher, "bytes/a", 1, "small");
        let id = publisher.fresh_id();
        publisher.sends(&Publish::new("bytes/a", "x".repeat(3000)).retain().qos(1, id));
        assert_eq!(publisher.acked(PUBACK, id), 0x97);
        retain(&mut world.peer(V311, "older"), "bytes/a", 1, &"x".repeat(3000));
        world.pass(gap);
        let messages = found(&world, version, "bytes/a", 1);
        assert_eq!(messages.iter().map(Publish::told).collect::<Vec<_>>(), [("bytes/a", "small")]);
    }
}

#[test]
fn a_will_with_retain_is_retained_mqtt_3_1_2_17_and_3_1_2_16() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut watcher = world.subscriber(version, "watcher", "will/+", 2);
        for (name, payload) in [("kept", "last words"), ("plain", "last words"), ("cleared", "")] {
            let topic = format!("will/{name}");
            if name == "cleared" {
                retain(&mut world.peer(version, "publisher"), &topic, 1, "state");
                watcher.takes("state");
            }
            let will = Publish::new(&topic, payload).qos(2, 0);
            let will = if name == "plain" { will } else { will.retain() };
            world.connect(&world.hello(version, name).will(will)).vanish();
            let live = watcher.takes(payload);
            assert!(!live.retain, "to an established subscription");
        }
        retain(&mut world.peer(version, "publisher"), "elsewhere", 1, "x");
        world.pass(gap);
        let messages = found(&world, version, "will/+", 2);
        let [message] = &messages[..] else { panic!("one message, got {messages:?}") };
        assert_eq!(message.told(), ("will/kept", "last words"));
        assert_eq!((message.qos, message.retain), (2, true));
    }
}

#[test]
fn many_come_through_a_small_window_mqtt_3_3_4_9_of_5_0() {
    let world = World::new();
    let mut publisher = world.peer(V5, "publisher");
    for n in 0..100 {
        retain(&mut publisher, &format!("many/{n}"), 1 + n % 2, "x");
    }
    for version in BOTH {
        let mut peer = world.subscriber(version, "wide", "many/#", 2);
        let mut messages = peer.collect(|messages| messages.len() == 100);
        peer.hears_nothing();
        messages.sort_by_key(|message| message.topic.clone());
        messages.dedup_by_key(|message| message.topic.clone());
        assert_eq!(messages.len(), 100);
    }
    let hello = world.hello(V5, "narrow").with(crate::support::packets::two(0x21, 1));
    let mut narrow = world.connect(&hello);
    assert_eq!(narrow.subscribe(&[("many/#", 2)]), [2]);
    for _ in 0..100 {
        let message = narrow.message();
        narrow.hears_nothing();
        narrow.accept(&message);
    }
    narrow.hears_nothing();
}

#[test]
fn one_in_flight_when_the_connection_breaks_comes_again_with_retain_mqtt_4_4_0_1() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        retain(&mut world.peer(version, "publisher"), "broken/a", 2, "state");
        let mut peer = world.settle_on(version, "peer", "broken/+", 2);
        let first = peer.message();
        peer.vanish();
        retain(&mut world.peer(version, "publisher"), "broken/a", 1, "");
        world.pass(gap);
        let mut peer = world.resume(version, "peer");
        let messages = peer.takes_all(&["state", ""]);
        assert_eq!(messages[0], first.dup());
        assert_eq!(found(&world, version, "broken/+", 2), []);
    }
}

#[test]
fn retained_messages_are_on_offer() {
    // [§3.2.2.3.5]
    let world = World::new();
    assert!(matches!(world.peer(V5, "peer").told_in_connack(0x25), None | Some(1)));
}

#[test]
fn no_local_keeps_a_retained_message_from_its_publisher_alone_whenever_it_is_back_mqtt_3_8_3_3_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let mut publisher = world.peer(V5, "publisher");
        retain(&mut publisher, "local/a", 1, "mine");
        assert_eq!(publisher.subscribe(&[("local/+", NO_LOCAL)]), [0]);
        assert!(brought(&mut publisher).is_empty(), "it is there still");
        publisher.leave();
        world.pass(gap);
        let mut stranger = world.peer(V5, "stranger");
        assert_eq!(stranger.subscribe(&[("local/+", NO_LOCAL)]), [0]);
        stranger.takes("mine");
        let mut publisher = world.peer(V5, "publisher");
        assert_eq!(publisher.subscribe(&[("local/+", NO_LOCAL)]), [0]);
        assert!(brought(&mut publisher).is_empty(), "it is back, {gap:?}");
        retain(&mut stranger, "local/a", 1, "another's");
        publisher.takes("another's");
        assert_eq!(stranger.subscribe(&[("local/#", NO_LOCAL)]), [0]);
        stranger.hears_nothing();
    }
}
