//! What waits for a session, and what was on its way when its connection broke. [§4.3] [§4.4] [§4.5] [§4.6]

use std::time::Duration;

use crate::{
    support::{
        broker::Setup,
        packets::{
            MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, RECEIVE_MAXIMUM,
            ack, four, two,
        },
        wait::SOON,
        wire::{TELEMETRY, Version},
    },
    world::{BOTH, Gap, Peer, World, gaps},
};

use Version::V5;

/// What comes until each PUBLISH of `count` and each PUBREL of `releases` is there, nothing answered.
#[track_caller]
fn repeated(peer: &mut Peer, count: usize, releases: usize) -> (Vec<Publish>, Vec<u16>) {
    let (mut messages, mut released) = (Vec::new(), Vec::new());
    while messages.len() < count || released.len() < releases {
        let reply = peer.client.packet();
        match Publish::read(peer.version, &reply) {
            Some(message) => messages.push(message),
            None => {
                assert_eq!((reply.first, reply.body.len()), (PUBREL, 2), "{reply:02X?}");
                released.push(u16::from_be_bytes([reply.body[0], reply.body[1]]));
            }
        }
    }
    (messages, released)
}

#[test]
fn what_comes_while_it_is_away_waits_in_its_order_mqtt_3_1_2_5_and_4_5_0_1() {
    // C-52: more than are in flight at once; QoS 0 is not kept.
    for (version, gap) in gaps() {
        let mut world = World::new();
        world.settle_on(version, "peer", "away/#", 2).leave();
        let mut publisher = world.peer(V5, "publisher");
        let mut kept = Vec::new();
        for n in 0..45 {
            let payload = n.to_string();
            publisher.publish(&format!("away/{}", n % 4), n % 3, &payload);
            if n % 3 > 0 {
                kept.push(payload);
            }
        }
        publisher.publish("elsewhere", 1, "");
        world.pass(gap);
        let mut peer = world.resume(version, "peer");
        let messages = peer.takes_all(&kept.iter().map(String::as_str).collect::<Vec<_>>());
        for (message, n) in messages.iter().zip((0..45).filter(|n| n % 3 > 0)) {
            assert_eq!((message.qos, message.dup, message.retain), (n % 3, false, false), "{message:?}");
        }
        peer.leave();
        world.pass(gap);
        world.resume(version, "peer").hears_nothing();
    }
}

#[test]
fn what_was_not_acknowledged_comes_again_as_it_was_and_in_order_mqtt_3_3_1_1_and_4_4_0_1_and_4_6_0_1() {
    // C-25, C-51.
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut peer = world.settle_on(version, "peer", "again/#", 2);
        let mut publisher = world.peer(version, "publisher");
        for n in 0..8 {
            publisher.publish("again/a", 1 + n % 2, &n.to_string());
        }
        let first: Vec<Publish> = (0..8).map(|_| peer.message()).collect();
        assert!(first.iter().all(|message| !message.dup));
        // 2 is done with, 3 and 5 are received.
        peer.send(&ack(PUBACK, first[2].id));
        for n in [5, 3] {
            peer.send(&ack(PUBREC, first[n].id));
            peer.gets(&ack(PUBREL, first[n].id));
        }
        // Within a connection nothing comes again.
        peer.hears_nothing();
        let expected: Vec<Publish> = [0, 1, 4, 6, 7].map(|n: usize| first[n].clone().dup()).into();
        for _ in 0..3 {
            peer.vanish();
            world.pass(gap);
            peer = world.resume(version, "peer");
            let (messages, mut released) = repeated(&mut peer, 5, 2);
            assert_eq!(messages, expected);
            released.sort_unstable();
            assert_eq!(released, [first[3].id, first[5].id]);
            peer.hears_nothing();
        }
        for n in [3, 5] {
            peer.send(&ack(PUBCOMP, first[n].id));
        }
        for message in &expected {
            peer.accept(message);
        }
        world.peer(version, "publisher").publish("again/a", 2, "new");
        assert!(!peer.takes_all(&["new"])[0].dup);
        peer.vanish();
        world.pass(gap);
        world.resume(version, "peer").hears_nothing();
    }
}

#[test]
fn identifiers_in_flight_are_not_given_again_mqtt_2_3_1_4() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut peer = world.settle_on(version, "peer", "distinct/#", 2);
        let mut publisher = world.peer(version, "publisher");
        let mut in_flight = Vec::new();
        for round in 0..4 {
            publisher.publish("distinct/a", 1 + round % 2, "x");
            in_flight.push(peer.message().id);
            peer.hears_nothing();
            peer.vanish();
            world.pass(gap);
            publisher = world.peer(version, "publisher");
            peer = world.resume(version, "peer");
            let again: Vec<u16> = in_flight.iter().map(|_| peer.message().id).collect();
            assert_eq!(again, in_flight);
        }
        in_flight.sort_unstable();
        in_flight.dedup();
        assert_eq!(in_flight.len(), 4);
    }
}

#[test]
fn a_message_received_is_not_delivered_again_over_any_gap_mqtt_4_3_3_2_mqtt_4_3_3_10_to_12_of_5_0() {
    // C-49.
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut witness = world.settle_on(version, "witness", "once/#", 1);
        let mut peer = world.settle(version, "peer");
        let back = |world: &mut World, peer: Peer| {
            peer.vanish();
            world.pass(gap);
            world.resume(version, "peer")
        };
        let first = Publish::new("once/a", "first").qos(2, 700);
        peer.sends(&first);
        assert_eq!(peer.acked(PUBREC, 700), 0);
        for _ in 0..2 {
            peer = back(&mut world, peer);
            peer.sends(&first.clone().dup());
            assert_eq!(peer.acked(PUBREC, 700), 0);
            peer.sends(&Publish::new("once/a", "second").qos(2, 701).dup());
            assert_eq!(peer.acked(PUBREC, 701), 0);
        }
        // The PUBREL may come first on a new connection; then it is forgotten, and answered all the same.
        peer = back(&mut world, peer);
        for id in [700, 701] {
            peer.send(&ack(PUBREL, id));
            peer.gets(&ack(PUBCOMP, id));
        }
        peer = back(&mut world, peer);
        peer.send(&ack(PUBREL, 700));
        assert_eq!(peer.acked(PUBCOMP, 700), if version == V5 { 0x92 } else { 0 });
        peer.sends(&Publish::new("once/a", "third").qos(2, 700).dup());
        assert_eq!(peer.acked(PUBREC, 700), 0);
        peer.send(&ack(PUBREL, 700));
        peer.gets(&ack(PUBCOMP, 700));
        if gap != Gap::Reconnect {
            witness = world.resume(version, "witness");
        }
        witness.takes_all(&["first", "second", "third"]);
    }
}

#[test]
fn a_reading_of_qos_2_is_stored_once_wherever_the_broker_dies() {
    //
    for version in BOTH {
        let mut world = World::new();
        let pump = world.ours().add_device("pump");
        let hello = |world: &World| world.durable(version, "meter").user(&pump.token);
        let mut peer = world.connect_finding(&hello(&world), false);
        for id in 1..=6 {
            let reading = Publish::new(TELEMETRY, format!("{{n:{id}}}")).qos(2, id);
            peer.sends(&reading);
            // Killed before the answer or after it.
            if id % 2 == 0 {
                assert_eq!(peer.acked(PUBREC, id), 0);
            }
            world.pass(Gap::Kill);
            peer = world.connect_finding(&hello(&world), true);
            peer.sends(&reading.dup());
            assert_eq!(peer.acked(PUBREC, id), 0);
            world.pass(Gap::Kill);
            peer = world.connect_finding(&hello(&world), true);
            peer.send(&ack(PUBREL, id));
            assert_eq!(peer.acked(PUBCOMP, id), 0);
        }
        let stored = world.ours().stored_values("pump");
        assert_eq!(stored, (1..=6).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
    }
}

#[test]
fn an_acknowledged_message_waits_on_disk_for_those_who_are_away() {
    // The publisher is answered only then: no barrier but its PUBACK lies before the kill.
    for version in BOTH {
        for qos in [1, 2] {
            let mut world = World::new();
            world.settle_on(version, "peer", "safe/#", 2).vanish();
            world.peer(version, "publisher").publish("safe/a", qos, "x");
            world.pass(Gap::Kill);
            assert_eq!(world.resume(version, "peer").takes_all(&["x"])[0].qos, qos);
        }
    }
}

#[test]
fn what_waits_expires_and_the_rest_of_its_life_is_told_mqtt_3_3_2_5_and_3_3_2_6_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        world.settle_on(V5, "peer", "mortal/#", 2).vanish();
        let mut publisher = world.peer(V5, "publisher");
        for (payload, life_s) in [("one", 1), ("thousand", 1000), ("one more", 1), ("two thousand", 2000)] {
            publisher.publish_whole(Publish::new("mortal/a", payload).with(four(MESSAGE_EXPIRY, life_s)), 1);
        }
        publisher.publish("mortal/a", 2, "for ever");
        publisher.waits_in_vain(Duration::from_millis(1100));
        world.pass(gap);
        let messages = world.resume(V5, "peer").takes_all(&["thousand", "two thousand", "for ever"]);
        for (message, lives_s) in messages.iter().zip([Some(1000), Some(2000), None]) {
            let told = message.values(MESSAGE_EXPIRY);
            let left =
                told.first().map(|value| value.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
            let within = |lives: u32| left.is_some_and(|left| (lives - 60..lives).contains(&left));
            assert!(lives_s.map_or(left.is_none(), within), "{message:?}");
        }
    }
}

#[test]
fn what_is_in_flight_does_not_expire_mqtt_4_3_3_7_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Kill] {
        let mut world = World::new();
        let mut peer = world.settle_on(V5, "peer", "begun/#", 2);
        let mut publisher = world.peer(V5, "publisher");
        publisher.publish_whole(Publish::new("begun/a", "x").with(four(MESSAGE_EXPIRY, 1)), 2);
        let first = peer.message();
        peer.send(&ack(PUBREC, first.id));
        peer.gets(&ack(PUBREL, first.id));
        peer.vanish();
        publisher.waits_in_vain(Duration::from_millis(1100));
        world.pass(gap);
        let mut peer = world.resume(V5, "peer");
        peer.gets(&ack(PUBREL, first.id));
        peer.send(&ack(PUBCOMP, first.id));
        peer.hears_nothing();
    }
}

#[test]
fn one_message_too_many_ends_a_session_that_is_away() {
    for (version, gap) in gaps() {
        let mut world = World::with(Setup::new().limit("client_queue_messages", 5));
        for name in ["fits", "full"] {
            world.settle_on(version, name, &format!("{name}/#"), 1).vanish();
        }
        let mut publisher = world.peer(version, "publisher");
        for n in 0..5 {
            publisher.publish("fits/a", 1, &n.to_string());
            publisher.publish("full/a", 2, &n.to_string());
        }
        publisher.publish("fits/a", 0, "no room, and none needed");
        publisher.publish("full/a", 1, "too many");
        world.pass(gap);
        world.resume(version, "fits").takes_all(&["0", "1", "2", "3", "4"]);
        world.settle(version, "full").hears_nothing();
    }
}

#[test]
fn what_is_too_large_for_the_client_that_is_back_is_left_out_mqtt_3_1_2_24_and_3_1_2_25_of_5_0() {
    //
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let mut peer = world.settle_on(V5, "peer", "size/#", 2);
        let large = "x".repeat(600);
        let mut publisher = world.peer(V5, "publisher");
        publisher.publish("size/a", 1, &large);
        publisher.publish("size/a", 2, "in flight");
        assert_eq!((peer.message().told().1, peer.message().told().1), (&large[..], "in flight"));
        peer.vanish();
        for payload in ["one", &large, "two"] {
            publisher.publish("size/a", 1, payload);
        }
        world.pass(gap);
        let small = world.durable(V5, "peer").with(four(MAXIMUM_PACKET_SIZE, 500));
        let mut peer = world.connect_finding(&small, true);
        peer.takes_all(&["in flight", "one", "two"]);
        peer.vanish();
        world.pass(gap);
        // Left out is as good as delivered.
        world.resume(V5, "peer").hears_nothing();
    }
}

#[test]
fn the_receive_maximum_of_the_new_connection_holds_mqtt_3_3_4_9_of_5_0() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let mut peer = world.settle_on(V5, "peer", "narrow/#", 2);
        let mut publisher = world.peer(V5, "publisher");
        for n in 0..5 {
            publisher.publish("narrow/a", 1 + n % 2, &n.to_string());
        }
        let first: Vec<Publish> = (0..5).map(|_| peer.message()).collect();
        peer.vanish();
        publisher.publish("narrow/a", 1, "5");
        world.pass(gap);
        let hello = world.durable(V5, "peer").with(two(RECEIVE_MAXIMUM, 2));
        let mut peer = world.connect_finding(&hello, true);
        let mut in_flight = vec![peer.message(), peer.message()];
        let mut came = in_flight.clone();
        while let Some(message) = (!in_flight.is_empty()).then(|| in_flight.remove(0)) {
            peer.hears_nothing();
            peer.accept(&message);
            if came.len() < 6 {
                in_flight.push(peer.message());
                came.extend(in_flight.last().cloned());
            }
        }
        peer.hears_nothing();
        let expected: Vec<Publish> = first.into_iter().map(Publish::dup).collect();
        assert_eq!(came[..5], expected);
        assert_eq!((came[5].told().1, came[5].dup), ("5", false));
    }
}

#[test]
fn large_messages_that_waited_come_through_a_bounded_outbox() {
    for (version, gap) in gaps().filter(|(_, gap)| *gap != Gap::Stop) {
        let mut world = World::new();
        world.settle_on(version, "peer", "large/#", 2).vanish();
        let mut publisher = world.peer(version, "publisher");
        let payloads: Vec<String> = (0..12).map(|n| format!("{n}{}", "x".repeat(100_000))).collect();
        for (payload, qos) in payloads.iter().zip([1, 2].into_iter().cycle()) {
            publisher.publish("large/a", qos, payload);
        }
        world.pass(gap);
        let mut peer = world.resume(version, "peer");
        peer.takes_all(&payloads.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn a_begun_delivery_of_a_shared_subscription_is_completed_to_its_member_mqtt_4_8_2_4() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut begun = world.settle_on(version, "begun", "$share/g/shared/a", 2);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("shared/a", 2, "begun");
        let first = begun.message();
        let other = world.settle_on(version, "other", "$share/g/shared/a", 2);
        begun.vanish();
        other.vanish();
        world.pass(gap);
        let mut other = world.resume(version, "other");
        world.peer(version, "publisher").publish("shared/a", 2, "for who is there");
        other.takes_all(&["for who is there"]);
        let mut begun = world.resume(version, "begun");
        assert_eq!(begun.takes_all(&["begun"]), [first.dup()]);
        other.hears_nothing();
    }
}

#[test]
fn a_begun_delivery_of_a_shared_subscription_goes_to_nobody_else_when_its_session_ends_mqtt_4_8_2_5() {
    for gap in [Gap::Reconnect, Gap::Stop, Gap::Kill] {
        let mut world = World::new();
        let mut begun = world.settle_on(V5, "begun", "$share/g/shared/b", 2);
        world.peer(V5, "publisher").publish("shared/b", 2, "begun");
        begun.message();
        begun.vanish();
        world.settle_on(V5, "other", "$share/g/shared/b", 2).vanish();
        world.pass(gap);
        let mut other = world.resume(V5, "other");
        world.peer(V5, "begun").hears_nothing();
        other.hears_nothing();
    }
}

#[test]
fn a_group_whose_members_are_all_away_keeps_its_messages() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        for name in ["one", "two"] {
            let mut member = world.settle_on(version, name, "$share/g/asleep/a", 1);
            assert_eq!(member.subscribe(&[("end", 1)]), [1]);
            member.vanish();
        }
        let mut publisher = world.peer(version, "publisher");
        for n in 0..6 {
            publisher.publish("asleep/a", 1, &n.to_string());
        }
        publisher.publish("end", 1, "end");
        world.pass(gap);
        let mut payloads = Vec::new();
        for name in ["one", "two"] {
            let is_end = |messages: &[Publish]| messages.last().is_some_and(|last| last.payload == b"end");
            let mut messages = world.resume(version, name).collect(is_end);
            messages.pop();
            payloads.extend(messages.iter().map(|message| message.told().1.to_owned()));
        }
        payloads.sort();
        assert_eq!(payloads, ["0", "1", "2", "3", "4", "5"]);
    }
}

#[test]
fn an_answer_to_what_was_answered_before_the_gap_is_taken_kindly() {
    for (version, gap) in gaps() {
        let mut world = World::new();
        let mut peer = world.settle_on(version, "peer", "kind/#", 2);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("kind/a", 1, "one");
        publisher.publish("kind/a", 2, "two");
        let (one, two) = (peer.message(), peer.message());
        peer.accept(&one);
        peer.accept(&two);
        peer.hears_nothing();
        peer.vanish();
        world.pass(gap);
        let mut peer = world.resume(version, "peer");
        peer.send(&[ack(PUBACK, one.id), ack(PUBREC, two.id)].concat());
        let reply = peer.client.packet();
        assert_eq!((reply.first, &reply.body[..2]), (PUBREL, &two.id.to_be_bytes()[..]), "{reply:02X?}");
        peer.send(&ack(PUBCOMP, two.id));
        peer.hears_nothing();
        peer.send(&[0xE0, 0x00]);
        assert_eq!(peer.client.until_closed(SOON), []);
    }
}
