//! Wills of sessions that go on without their connection. [§3.1.3.2.2]

use std::time::{Duration, Instant};

use crate::{
    support::{
        packets::{MESSAGE_EXPIRY, Publish, SESSION_EXPIRY, WILL_DELAY, four},
        wait::SOON,
        wire::Version,
    },
    world::{BOTH, Gap, Peer, World, gaps},
};

use Version::{V5, V311};

/// A client whose session lives for an hour, with a will of its name that waits so long.
#[track_caller]
fn mortal(world: &World, name: &str, delay_s: u32) -> Peer {
    let will = Publish::new(format!("wills/{name}"), name).qos(1, 0).with(four(WILL_DELAY, delay_s));
    world.connect(&world.durable(V5, name).will(will))
}

/// Somebody who hears of wills whenever they come.
fn witness(world: &World) -> Peer {
    world.settle_on(V5, "witness", "wills/#", 1)
}

#[test]
fn a_will_waits_for_its_delay_mqtt_3_1_2_8() {
    let world = World::new();
    let mut witness = witness(&world);
    mortal(&world, "two seconds", 2).vanish();
    mortal(&world, "one second", 1).vanish();
    let since = Instant::now();
    mortal(&world, "at once", 0).vanish();
    for (name, at_least_ms) in [("at once", 0), ("one second", 950), ("two seconds", 1900)] {
        witness.takes(name);
        let lasted = since.elapsed();
        assert!(lasted >= Duration::from_millis(at_least_ms), "{name} after {lasted:?}");
    }
    assert!(since.elapsed() < Duration::from_secs(6));
    witness.hears_nothing();
}

#[test]
fn who_is_back_in_time_leaves_no_will_mqtt_3_1_3_9_of_5_0() {
    // C-23.
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        witness(&world).vanish();
        for name in ["in time", "in time with another"] {
            mortal(&world, name, 3).vanish();
        }
        world.pass(gap);
        let in_time = world.resume(V5, "in time");
        let another = mortal(&world, "in time with another", 3);
        // One that goes later with the same delay is heard of first.
        mortal(&world, "late", 3).vanish();
        let mut witness = world.resume(V5, "witness");
        witness.takes("late");
        witness.hears_nothing();
        in_time.vanish();
        another.vanish();
        witness.takes("in time with another");
    }
}

#[test]
fn who_was_back_in_time_leaves_no_will_when_the_broker_dies_later_mqtt_3_1_3_9_of_5_0() {
    for gap in [Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        witness(&world).vanish();
        mortal(&world, "back", 1).vanish();
        mortal(&world, "left", 1).vanish();
        let back = world.resume(V5, "back");
        let mut left = mortal(&world, "left", 1);
        left.hears_nothing();
        left.leave();
        world.settle(V5, "barrier").hears_nothing();
        world.pass(gap);
        drop(back);
        mortal(&world, "late", 2).vanish();
        let mut witness = world.resume(V5, "witness");
        witness.takes_all(&["late"]);
    }
}

#[test]
fn the_end_of_the_session_ends_the_wait_mqtt_3_1_3_9_of_5_0() {
    // C-23: a clean start, an expiry of nought.
    for gap in [Gap::Reconnect, Gap::Kill] {
        let mut world = World::new();
        witness(&world).vanish();
        mortal(&world, "anew", 600).vanish();
        world.pass(gap);
        world.peer(V5, "anew").leave();
        let will = Publish::new("wills/none", "none").qos(1, 0).with(four(WILL_DELAY, 600));
        world.connect(&world.hello(V5, "none").will(will)).vanish();
        let mut witness = world.resume(V5, "witness");
        witness.takes_all(&["anew", "none"]);
    }
}

#[test]
fn a_takeover_within_the_delay_leaves_no_will_and_one_without_delay_does() {
    // [§3.1.4]
    let world = World::new();
    let mut witness = witness(&world);
    let mut old = mortal(&world, "taken", 600);
    let mut new = mortal(&world, "taken", 0);
    old.is_dismissed_with(0x8E);
    witness.hears_nothing();
    let last = world.resume(V5, "taken");
    new.is_dismissed_with(0x8E);
    witness.takes_all(&["taken"]);
    last.leave();
    witness.hears_nothing();
}

#[test]
fn a_disconnect_says_whether_a_will_waits_at_all_mqtt_3_14_4_3() {
    let world = World::new();
    let mut witness = witness(&world);
    let mut quiet = mortal(&world, "quiet", 1);
    quiet.send(&[0xE0, 0x00]);
    assert_eq!(quiet.client.until_closed(SOON), []);
    let mut told = mortal(&world, "told", 1);
    told.send(&[0xE0, 0x01, 0x04]);
    assert_eq!(told.client.until_closed(SOON), []);
    witness.takes("told");
    witness.hears_nothing();
    world.resume(V5, "quiet").vanish();
    world.resume(V5, "told").vanish();
    mortal(&world, "end", 0).vanish();
    witness.takes("end");
}

#[test]
fn before_5_0_a_will_does_not_wait_mqtt_3_1_2_8() {
    let world = World::new();
    let mut witness = witness(&world);
    let will = Publish::new("wills/old", "old").qos(1, 0);
    let hello = world.durable(V311, "old").will(will);
    for _ in 0..2 {
        world.connect(&hello).vanish();
        witness.takes("old");
    }
    world.resume(V311, "old").vanish();
    witness.hears_nothing();
}

#[test]
fn a_will_outlives_the_broker_mqtt_3_1_2_8() {
    // C-22: of those connected, and of those whose delay has begun.
    for (version, gap) in gaps().filter(|(_, gap)| *gap != Gap::Reconnect) {
        let mut world = World::new();
        witness(&world).vanish();
        let will = |name: &str| Publish::new(format!("wills/{name}"), name).qos(1, 0);
        let _connected = world.connect(&world.durable(version, "connected").will(will("connected")));
        let waiting = match version {
            V5 => will("waiting").with(four(WILL_DELAY, 1)),
            _ => will("waiting"),
        };
        world.connect(&world.durable(version, "waiting").will(waiting)).vanish();
        let mut leaver = world.connect(&world.durable(version, "leaver").will(will("leaver")));
        leaver.hears_nothing();
        leaver.leave();
        // Behind it, what has left is on disk.
        world.settle(version, "barrier").hears_nothing();
        world.pass(gap);
        let mut witness = world.resume(V5, "witness");
        let mut told = [witness.message_taken(), witness.message_taken()];
        told.sort();
        assert_eq!(told, ["connected", "waiting"], "{version:?} over a {gap:?}");
        witness.hears_nothing();
    }
}

#[test]
fn whoever_is_connected_when_the_broker_stops_leaves_a_will_mqtt_3_1_2_8() {
    for version in BOTH {
        let mut world = World::new();
        witness(&world).vanish();
        let will = Publish::new("wills/passing", "passing").qos(1, 0);
        let _passing = world.connect(&world.hello(version, "passing").will(will));
        world.pass(Gap::Stop);
        world.resume(V5, "witness").takes_all(&["passing"]);
    }
}

#[test]
fn a_will_lives_from_when_it_is_published() {
    // [§3.1.3.2.4]
    let world = World::new();
    let mut witness = witness(&world);
    let will = Publish::new("wills/a", "x").qos(1, 0).with(four(WILL_DELAY, 2)).with(four(MESSAGE_EXPIRY, 2));
    world.connect(&world.durable(V5, "a").will(will)).vanish();
    assert_eq!(witness.takes("x").values(MESSAGE_EXPIRY), [2u32.to_be_bytes()]);
}

#[test]
fn a_retained_will_waits_as_well_and_is_retained_then_mqtt_3_1_2_17() {
    for gap in [Gap::Reconnect, Gap::Kill] {
        let mut world = World::new();
        let mut witness = witness(&world);
        let will = Publish::new("wills/a", "state").qos(1, 0).retain().with(four(WILL_DELAY, 1));
        world.connect(&world.durable(V5, "a").will(will)).vanish();
        let mut early = world.subscriber(V5, "early", "wills/#", 1);
        early.hears_nothing();
        if gap == Gap::Reconnect {
            assert!(!early.takes("state").retain);
        } else {
            world.settle(V5, "barrier").hears_nothing();
            world.pass(gap);
            witness = world.resume(V5, "witness");
        }
        assert!(!witness.takes("state").retain);
        assert!(world.subscriber(V5, "late", "wills/#", 1).takes("state").retain);
    }
}

#[test]
fn the_wills_delay_is_not_that_of_its_session_mqtt_3_1_2_23_of_5_0() {
    let world = World::new();
    let mut witness = witness(&world);
    let will = Publish::new("wills/a", "x").qos(1, 0).with(four(WILL_DELAY, 1));
    let hello = world.hello(V5, "a").keep_session().with(four(SESSION_EXPIRY, 600)).will(will);
    world.connect(&hello).vanish();
    witness.takes("x");
    world.connect_finding(&hello, true).leave();
    witness.hears_nothing();
}
