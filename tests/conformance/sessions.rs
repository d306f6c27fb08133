//! Sessions that outlive their connection: how they begin, go on and end. [§3.1.2.4] [§3.1.2.11.2] [§4.1]

use std::time::{Duration, Instant};

use crate::{
    support::{
        broker::Setup,
        packets::{
            Connect, PUBACK, PUBREC, PUBREL, Publish, SESSION_EXPIRY, SUBSCRIPTION_ID, TOPIC_ALIAS,
            WILL_DELAY, ack, four, subscribe_with, two, variable,
        },
        wait::SOON,
        wire::{Version, packet, properties},
    },
    world::{BOTH, Gap, World, gaps},
};

use Version::{V5, V31, V311};

/// A DISCONNECT with a session expiry. [§3.14.2.2.2]
fn disconnect_with(expiry_s: u32) -> Vec<u8> {
    let expiry = [&[SESSION_EXPIRY][..], &expiry_s.to_be_bytes()].concat();
    packet(0xE0, &[&[0x00][..], &properties(&expiry)].concat())
}

/// The same CONNECT with another expiry.
fn expiring(hello: Connect, expiry_s: u32) -> Connect {
    hello.keep_session().with(four(SESSION_EXPIRY, expiry_s))
}

#[test]
fn session_present_tells_whether_there_was_one_mqtt_3_1_2_4_and_3_1_2_6_and_3_1_4_3_and_3_2_2_2() {
    // C-15.
    for (version, gap) in gaps() {
        let mut world = World::new();
        let kept = world.durable(version, "client");
        let anew = Connect { clean: true, ..kept.clone() };
        let passing = world.hello(version, "client");
        // Before 5.0 a session that began clean ends with its connection.
        let outlives = version == V5;
        for (step, (hello, present)) in [
            (&kept, false),
            (&kept, true),
            (&kept, true),
            (&anew, false),
            (&kept, outlives),
            (&kept, true),
            (&passing, false),
            (&kept, false),
        ]
        .into_iter()
        .enumerate()
        {
            let peer = world.connect(hello);
            assert_eq!(peer.connack.body[..2], [u8::from(present), 0], "step {step}");
            if step % 2 == 0 {
                peer.leave()
            } else {
                peer.vanish()
            }
            world.pass(gap);
        }
    }
}

#[test]
fn a_clean_start_drops_what_was_kept_mqtt_3_1_2_6_and_3_1_4_3() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut peer = world.settle_on(version, "peer", "dropped/#", 2);
        peer.sends(&Publish::new("elsewhere/a", "first").qos(2, 700));
        assert_eq!(peer.acked(PUBREC, 700), 0);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("dropped/a", 1, "in flight");
        peer.message();
        peer.vanish();
        publisher.publish("dropped/a", 2, "waiting");
        world.pass(gap);
        let anew = Connect { clean: true, ..world.durable(version, "peer") };
        let mut peer = world.connect_finding(&anew, false);
        world.peer(version, "publisher").publish("dropped/a", 1, "unwanted");
        peer.hears_nothing();
        let mut watcher = world.subscriber(version, "watcher", "elsewhere/#", 2);
        peer.sends(&Publish::new("elsewhere/a", "second").qos(2, 700));
        assert_eq!(peer.acked(PUBREC, 700), 0);
        peer.send(&ack(PUBREL, 700));
        watcher.takes("second");
    }
}

#[test]
fn it_ends_when_its_expiry_is_over_and_not_before_mqtt_3_1_2_23_of_5_0() {
    // C-23: the end of the session is told by its will, which would wait longer.
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let mut witness = world.settle_on(V5, "witness", "wills/#", 1);
        let will = Publish::new("wills/a", "over").qos(1, 0).with(four(WILL_DELAY, 600));
        let hello = expiring(world.hello(V5, "peer"), 2).will(will);
        world.connect_finding(&hello, false).vanish();
        world.connect_finding(&hello, true).vanish();
        witness.hears_nothing();
        let since = Instant::now();
        if gap != Gap::Reconnect {
            witness.vanish();
            world.pass(gap);
            witness = world.resume(V5, "witness");
        }
        witness.takes("over");
        let lasted = since.elapsed();
        // The end of the connection was noticed a little before.
        assert!(lasted > Duration::from_millis(1900) || gap != Gap::Reconnect, "{lasted:?}");
        assert!(lasted < Duration::from_secs(6), "{lasted:?}");
        world.connect_finding(&hello, false);
    }
}

#[test]
fn without_an_expiry_it_ends_with_its_connection() {
    // [§3.1.2.11.2]: absent is nought.
    let world = World::new();
    let absent = world.hello(V5, "peer").keep_session();
    for hello in [&absent, &expiring(world.hello(V5, "peer"), 0)] {
        for _ in 0..2 {
            world.connect_finding(hello, false).vanish();
        }
    }
    // The CONNECT that goes on with a session says anew how long it is to live.
    world.connect_finding(&world.durable(V5, "peer"), false).vanish();
    world.connect_finding(&absent, true).vanish();
    world.connect_finding(&absent, false);
}

#[test]
fn the_longest_expiry_is_told_and_kept() {
    //
    for gap in [Gap::Reconnect, Gap::Kill] {
        let mut world = World::new();
        let eternal = expiring(world.hello(V5, "peer"), u32::MAX);
        assert_eq!(world.connect(&eternal).told_in_connack(SESSION_EXPIRY), Some(604_800));
        let hour = expiring(world.hello(V5, "peer"), 3600);
        world.pass(gap);
        let peer = world.connect_finding(&hour, true);
        assert_eq!(peer.told_in_connack(SESSION_EXPIRY), None, "an hour is granted");
    }
}

#[test]
fn a_disconnect_says_anew_how_long_it_lives() {
    // [§3.14.2.2.2]
    for gap in [Gap::Reconnect, Gap::Stop] {
        let mut world = World::new();
        for (asked, last, present) in
            [(600, Some(0), false), (600, Some(60), true), (60, Some(600), true), (0, Some(0), false)]
        {
            let hello = expiring(world.hello(V5, &format!("{asked}, then {last:?}")), asked);
            let mut peer = world.connect_finding(&hello, false);
            if let Some(last) = last {
                peer.send(&disconnect_with(last));
            }
            assert_eq!(peer.client.until_closed(SOON), []);
            world.pass(gap);
            world.connect_finding(&hello, present);
        }
    }
}

#[test]
fn a_disconnect_shortens_the_life_of_its_session() {
    let world = World::new();
    let mut witness = world.subscriber(V5, "witness", "wills/#", 1);
    let will = Publish::new("wills/a", "over").qos(1, 0).with(four(WILL_DELAY, 600));
    let hello = expiring(world.hello(V5, "peer"), 600).will(will);
    let mut peer = world.connect_finding(&hello, false);
    let since = Instant::now();
    // With 0x04 the will stays, and tells of the session's end.
    let expiry = [&[SESSION_EXPIRY][..], &1u32.to_be_bytes()].concat();
    peer.send(&packet(0xE0, &[&[0x04][..], &properties(&expiry)].concat()));
    assert_eq!(peer.client.until_closed(SOON), []);
    witness.takes("over");
    assert!(since.elapsed() >= Duration::from_secs(1));
    world.connect_finding(&hello, false);
}

#[test]
fn a_disconnect_cannot_keep_what_was_to_end_with_its_connection() {
    // [§3.14.2.2.2]: a protocol error.
    let world = World::new();
    for hello in [world.hello(V5, "peer"), expiring(world.hello(V5, "peer"), 0)] {
        for expiry_s in [1, 600, u32::MAX] {
            let mut peer = world.connect_finding(&hello, false);
            peer.send(&disconnect_with(expiry_s));
            peer.is_dismissed_with(0x82);
            world.connect_finding(&world.hello(V5, "peer").keep_session(), false).vanish();
        }
    }
}

#[test]
fn subscriptions_stay_with_it_mqtt_3_1_2_4_and_4_1_0_1() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut peer = world.settle(version, "peer");
        assert_eq!(peer.subscribe(&[("kept/0", 0), ("kept/1", 1), ("kept/+", 2), ("gone", 1)]), [0, 1, 2, 1]);
        assert_eq!(peer.subscribe(&[("kept/+", 1), ("kept/2/#", 2)]), [1, 2]);
        peer.unsubscribe(&["gone", "kept/1"]);
        for _ in 0..3 {
            peer.vanish();
            world.pass(gap);
            peer = world.resume(version, "peer");
            let mut publisher = world.peer(version, "publisher");
            for topic in ["gone", "kept/0", "kept/1", "kept/2"] {
                publisher.publish(topic, 2, topic);
            }
            let messages = peer.takes_all(&["kept/0", "kept/1", "kept/2"]);
            assert_eq!(messages.iter().map(|message| message.qos).collect::<Vec<_>>(), [1, 1, 2]);
        }
        assert_eq!(peer.unsubscribe(&["kept/+"]), if version == V5 { &[0][..] } else { &[] });
        peer.vanish();
        world.pass(gap);
        let mut peer = world.resume(version, "peer");
        world.peer(version, "publisher").publish("kept/1", 1, "x");
        peer.hears_nothing();
    }
}

#[test]
fn options_and_identifiers_of_subscriptions_stay_with_it_mqtt_3_1_2_5_and_3_3_4_3_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let mut peer = world.settle(V5, "peer");
        let id = peer.fresh_id();
        let number = [variable(SUBSCRIPTION_ID, 200_000)];
        peer.send(&subscribe_with(id, &number, &[("own/a", 0x04 | 1), ("flag/a", 0x08 | 2)]));
        assert_eq!(peer.codes(0x90, id), [1, 2]);
        assert_eq!(peer.subscribe(&[("plain/a", 1)]), [1]);
        peer.vanish();
        world.pass(gap);
        let mut peer = world.resume(V5, "peer");
        peer.publish("own/a", 1, "its own");
        let mut publisher = world.peer(V5, "publisher");
        for topic in ["own/a", "flag/a", "plain/a"] {
            publisher.publish_whole(Publish::new(topic, topic).retain(), 2);
        }
        let messages = peer.takes_all(&["own/a", "flag/a", "plain/a"]);
        let number = variable(0, 200_000).1;
        for (message, (qos, retain, numbers)) in
            messages.iter().zip([(1, false, &[&number[..]][..]), (2, true, &[&number[..]]), (1, false, &[])])
        {
            assert_eq!((message.qos, message.retain), (qos, retain), "{message:?}");
            assert_eq!(message.values(SUBSCRIPTION_ID), numbers, "{message:?}");
        }
    }
}

#[test]
fn a_takeover_hands_it_on_mqtt_3_1_4_2() {
    for version in BOTH {
        let world = World::new();
        let mut old = world.settle_on(version, "peer", "taken/#", 1);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("taken/a", 1, "one");
        let one = old.message();
        let mut new = world.resume(version, "peer");
        old.is_dismissed_with(0x8E);
        publisher.publish("taken/a", 1, "two");
        assert_eq!(new.takes_all(&["one", "two"])[0], one.dup());
    }
}

#[test]
fn it_serves_whichever_version_comes_back() {
    let mut versions = [V31, V311, V5, V311, V31, V5, V5].into_iter();
    let world = World::new();
    let first = versions.next().unwrap_or(V5);
    world.settle_on(first, "peer", "any/#", 2).vanish();
    for version in versions {
        world.peer(V5, "publisher").publish("any/a", 2, "x");
        let mut peer = world.connect(&world.durable(version, "peer"));
        peer.takes_all(&["x"]);
        peer.vanish();
    }
}

#[test]
fn it_belongs_to_whoever_began_it() {
    //
    for version in BOTH {
        let world = World::new();
        let stranger = world.ours().add_client("stranger");
        world.settle_on(version, "peer", "mine/#", 1).vanish();
        let mut other = world.connect_finding(&world.durable(version, "peer").user(&stranger), false);
        world.peer(version, "publisher").publish("mine/a", 1, "x");
        other.hears_nothing();
        world.resume(version, "peer").takes_all(&["x"]);
        other.hears_nothing();
    }
}

#[test]
fn the_one_gone_longest_makes_room() {
    //
    for (version, gap) in gaps().filter(|(_, gap)| *gap != Gap::Kill) {
        let mut world = World::with(Setup::new().limit("client_offline_sessions", 3));
        for name in ["a", "b", "c", "d", "e"] {
            world.settle(version, name).leave();
        }
        world.pass(gap);
        let peers = ["e", "d", "c"].map(|name| world.resume(version, name));
        for name in ["a", "b"] {
            world.settle(version, name);
        }
        drop(peers);
    }
}

#[test]
fn an_alias_ends_with_its_connection_mqtt_3_3_2_7_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Kill] {
        let mut world = World::new();
        let mut peer = world.settle(V5, "peer");
        peer.sends(&Publish::new("alias/a", "x").with(two(TOPIC_ALIAS, 1)).qos(1, 1));
        assert!(peer.acked(PUBACK, 1) < 0x80);
        peer.vanish();
        world.pass(gap);
        let mut peer = world.resume(V5, "peer");
        peer.sends(&Publish::new("", "x").with(two(TOPIC_ALIAS, 1)).qos(1, 1));
        assert!(matches!(peer.is_dismissed(), Some(0x82 | 0x94)));
    }
}
