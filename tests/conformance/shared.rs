//! Shared subscriptions. [§4.8.2]

use std::collections::HashMap;

use crate::{
    support::{
        packets::{PUBACK, PUBREC, Publish, ack_with},
        wire::{Version, subscribe, unsubscribe},
    },
    world::{BOTH, Peer, World},
};

use Version::{V5, V311};

/// Which of the peers gets the next message; asked by a PINGREQ each, so nobody waits in vain.
fn takers(peers: &mut [Peer], payload: &str) -> Vec<usize> {
    let mut takers = Vec::new();
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.send(&crate::support::wire::PINGREQ);
        loop {
            let reply = peer.client.packet();
            let Some(message) = Publish::read(V5, &reply) else {
                assert_eq!(reply.first, 0xD0, "{reply:02X?}");
                break;
            };
            assert_eq!(message.told().1, payload);
            takers.push(at);
            peer.accept(&message);
        }
    }
    takers
}

#[test]
fn each_message_goes_to_one_member_and_all_get_their_share_mqtt_4_8_2_1_and_4_8_2_2() {
    let world = World::new();
    let mut members: Vec<_> =
        (0..3).map(|n| world.subscriber(V5, &format!("member{n}"), "$share/group/jobs/#", 1)).collect();
    let mut alone = world.subscriber(V5, "alone", "$share/other/jobs/+", 1);
    let mut publisher = world.peer(V5, "publisher");
    let mut counts = HashMap::new();
    for n in 0..9 {
        publisher.publish("jobs/a", 1, &n.to_string());
        let by = takers(&mut members, &n.to_string());
        assert_eq!(by.len(), 1, "one member and no other");
        *counts.entry(by[0]).or_insert(0) += 1;
        alone.takes(&n.to_string());
    }
    assert_eq!(counts, HashMap::from([(0, 3), (1, 3), (2, 3)]), "round robin");
}

#[test]
fn each_member_gets_its_granted_qos_mqtt_4_8_2_3() {
    let world = World::new();
    for version in BOTH {
        for granted in [0, 1, 2] {
            let mut member = world.subscriber(version, "member", "$share/g/granted/a", granted);
            let mut publisher = world.peer(version, "publisher");
            for qos in [0, 1, 2] {
                publisher.publish("granted/a", qos, "x");
                assert_eq!(member.takes("x").qos, qos.min(granted));
            }
            member.leave();
        }
    }
}

#[test]
fn shares_that_are_none_are_malformed_in_5_0_and_refused_before_mqtt_4_8_2_1_and_4_8_2_2() {
    // A-34, C-58.
    let world = World::new();
    for filter in ["$share", "$share/", "$share/x", "$share//t", "$share/+/t", "$share/#/t", "$share/x/"] {
        for bytes in [subscribe(V5, 1, &[("fine", 0), (filter, 1)]), unsubscribe(V5, 1, &[filter])] {
            let mut peer = world.peer(V5, "peer");
            peer.send(&bytes);
            peer.is_dismissed_with(0x81);
        }
        // Before 5.0 these are filters like others, which nobody here is granted.
        let mut peer = world.peer(V311, "peer");
        assert_eq!(peer.subscribe(&[("fine", 0), (filter, 1)]), [0, 0x80], "{filter}");
        world.peer(V311, "publisher").publish("t", 1, "x");
        assert!(peer.unsubscribe(&[filter]).is_empty());
        peer.hears_nothing();
    }
}

#[test]
fn a_share_is_ended_by_its_own_name_only_mqtt_3_10_4_1() {
    //
    let world = World::new();
    for version in BOTH {
        let mut member = world.peer(version, "member");
        let mut publisher = world.peer(version, "publisher");
        for n in 0..20 {
            let filters = [("$share/s/own/t", 1), ("$share/s/own/u", 1), ("$share/z/own/t", 1)];
            assert_eq!(member.subscribe(&filters), [1, 1, 1]);
            member.unsubscribe(&["own/t", "$share/s/own/+", "$share/z/own/t"]);
            let payload = n.to_string();
            publisher.publish("own/t", 1, &payload);
            member.takes(&payload);
            member.unsubscribe(&["$share/s/own/t"]);
            publisher.publish("own/t", 1, "to nobody");
            publisher.publish("own/u", 1, "u");
            member.takes("u");
            member.hears_nothing();
        }
    }
}

#[test]
fn what_a_member_that_went_away_had_not_acknowledged_goes_to_another_mqtt_4_5_0_1() {
    let world = World::new();
    for version in BOTH {
        let mut lost = world.subscriber(version, "lost", "$share/g/passed/a", 1);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("passed/a", 1, "one");
        publisher.publish("passed/a", 1, "two");
        assert_eq!((lost.message().told().1, lost.message().told().1), ("one", "two"));
        let mut heir = world.subscriber(version, "heir", "$share/g/passed/a", 1);
        heir.hears_nothing();
        drop(lost);
        heir.takes("one");
        heir.takes("two");
        heir.hears_nothing();
    }
}

#[test]
fn a_delivery_of_qos_2_that_was_begun_goes_to_nobody_else_mqtt_4_8_2_5() {
    let world = World::new();
    let mut witness = world.subscriber(V5, "witness", "wills/#", 0);
    let hello = world.hello(V5, "lost").will(Publish::new("wills/lost", "gone"));
    let mut lost = world.connect(&hello);
    assert_eq!(lost.subscribe(&[("$share/g/begun2/a", 2)]), [2]);
    let mut publisher = world.peer(V5, "publisher");
    publisher.publish("begun2/a", 2, "begun");
    assert_eq!(lost.message().told().1, "begun");
    let mut heir = world.subscriber(V5, "heir", "$share/g/begun2/a", 2);
    drop(lost);
    witness.takes("gone");
    publisher.publish("begun2/a", 2, "next");
    heir.takes("next");
    heir.hears_nothing();
}

#[test]
fn a_members_refusal_drops_the_message_mqtt_4_8_2_6() {
    let world = World::new();
    for (qos, answer) in [(1, PUBACK), (2, PUBREC)] {
        let mut members: Vec<_> =
            (0..2).map(|n| world.subscriber(V5, &format!("m{n}"), "$share/g/dropped/a", 2)).collect();
        let mut publisher = world.peer(V5, "publisher");
        publisher.publish("dropped/a", qos, "first");
        let message = members[0].message();
        members[0].send(&ack_with(answer, message.id, 0x83));
        members[0].hears_nothing();
        members[1].hears_nothing();
        for member in members {
            member.leave();
        }
    }
}
