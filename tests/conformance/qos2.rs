//! QoS 2, both roles. [§4.3.3] [§4.6]

use crate::{
    support::{
        packets::{PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack, ack_with},
        wire::Version,
    },
    world::{BOTH, World},
};

use Version::V5;

#[test]
fn a_receiver_delivers_once_and_answers_each_repeat_mqtt_4_3_3_2() {
    // C-49, A-53: the same identifier again and again; PUBREC each time, one delivery, and a new one after PUBCOMP.
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "twice/a", 2);
        let mut publisher = world.peer(version, "publisher");
        let first = Publish::new("twice/a", "first").qos(2, 7);
        publisher.sends(&first);
        assert_eq!(publisher.acked(PUBREC, 7), 0);
        for _ in 0..200 {
            publisher.sends(&first.clone().dup());
        }
        for _ in 0..200 {
            assert_eq!(publisher.acked(PUBREC, 7), 0);
        }
        for _ in 0..2 {
            publisher.send(&ack(PUBREL, 7));
            let code = publisher.acked(PUBCOMP, 7);
            assert!(matches!(code, 0 | 0x92), "unknown by now, answered all the same");
        }
        watcher.takes("first");
        publisher.sends(&Publish::new("twice/a", "second").qos(2, 7).dup());
        assert_eq!(publisher.acked(PUBREC, 7), 0);
        publisher.send(&ack(PUBREL, 7));
        assert_eq!(publisher.acked(PUBCOMP, 7), 0);
        watcher.takes("second");
        watcher.hears_nothing();
    }
}

#[test]
fn the_receivers_steps_under_their_own_numbers_mqtt_4_3_3_8_and_4_3_3_10_to_12_of_5_0() {
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "steps/a", 0);
    let mut publisher = world.peer(V5, "publisher");
    for round in ["one", "two"] {
        for id in [1, 2, u16::MAX] {
            let message = Publish::new("steps/a", round).qos(2, id);
            publisher.sends(&message);
            publisher.gets(&ack(PUBREC, id));
            publisher.sends(&message);
            publisher.gets(&ack(PUBREC, id));
        }
        for id in [1, 2, u16::MAX] {
            publisher.send(&ack(PUBREL, id));
            publisher.gets(&ack(PUBCOMP, id));
            watcher.takes(round);
        }
    }
    watcher.hears_nothing();
}

#[test]
fn a_sender_keeps_to_its_steps_mqtt_4_3_3_1() {
    // C-50: one PUBLISH without DUP, PUBREL for each PUBREC, PUBLISH never again.
    let world = World::new();
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", "sender/a", 2);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("sender/a", 2, "one");
        publisher.publish("sender/a", 2, "two");
        let (one, two) = (peer.message(), peer.message());
        assert_eq!((one.told().1, two.told().1), ("one", "two"));
        assert!(!one.dup && !two.dup && one.id != two.id);
        peer.hears_nothing();
        peer.send(&ack(PUBREC, one.id));
        peer.gets(&ack(PUBREL, one.id));
        peer.hears_nothing();
        peer.send(&ack(PUBREC, one.id));
        let again = peer.client.packet();
        assert_eq!((again.first, &again.body[..2]), (PUBREL, &one.id.to_be_bytes()[..]), "{again:02X?}");
        peer.send(&ack(PUBCOMP, one.id));
        peer.hears_nothing();
        peer.send(&ack(PUBREC, two.id));
        peer.gets(&ack(PUBREL, two.id));
        peer.send(&ack(PUBCOMP, two.id));
        peer.hears_nothing();
    }
}

#[test]
fn acknowledgements_come_in_the_order_of_what_they_answer_mqtt_4_6_0_3_and_4_6_0_4() {
    let world = World::new();
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", "ordered/a", 2);
        let mut publisher = world.peer(version, "publisher");
        let ids = [9, 3, 12, 1, 5];
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|id| Publish::new("ordered/a", id.to_string()).qos(2, *id).bytes(version))
            .collect();
        publisher.send(&bytes);
        for id in ids {
            assert_eq!(publisher.acked(PUBREC, id), 0);
            publisher.send(&ack(PUBREL, id));
        }
        // PUBRELs of ours leave in the order of the PUBRECs, whatever that of the PUBLISHes was.
        let mut got: Vec<u16> = ids.iter().map(|_| peer.message().id).collect();
        got.reverse();
        let recs: Vec<u8> = got.iter().flat_map(|id| ack(PUBREC, *id)).collect();
        peer.send(&recs);
        for id in got {
            peer.gets(&ack(PUBREL, id));
        }
    }
}

#[test]
fn a_pubrec_that_refuses_ends_the_exchange_and_no_pubrel_follows_mqtt_4_4_0_2_and_4_3_3_4_of_5_0() {
    let world = World::new();
    let mut peer = world.subscriber(V5, "peer", "refused/a", 2);
    let mut publisher = world.peer(V5, "publisher");
    for n in 0..25 {
        publisher.publish("refused/a", 2, &n.to_string());
        let message = peer.message();
        assert_eq!(message.told().1, n.to_string(), "the slot of the one before is free again");
        peer.send(&ack_with(PUBREC, message.id, 0x80));
    }
    peer.hears_nothing();
}

#[test]
fn after_a_pubrec_of_ours_that_refuses_the_identifier_is_new_mqtt_4_3_3_9() {
    let world = World::new();
    let mut watcher = world.subscriber(V5, "watcher", "good/a", 1);
    let mut publisher = world.peer(V5, "publisher");
    for n in 0..25 {
        publisher.sends(&Publish::new("$x/refused", "x").qos(2, 4));
        assert_eq!(publisher.acked(PUBREC, 4), 0x87);
        let payload = n.to_string();
        publisher.sends(&Publish::new("good/a", &payload).qos(2, 4));
        assert_eq!(publisher.acked(PUBREC, 4), 0);
        publisher.send(&ack(PUBREL, 4));
        assert_eq!(publisher.acked(PUBCOMP, 4), 0);
        watcher.takes(&payload);
    }
}

#[test]
fn an_identifier_awaiting_pubrel_is_not_free_for_qos_1_of_the_server_mqtt_4_3_2_1_and_4_3_3_2_of_5_0() {
    let world = World::new();
    for version in BOTH {
        let mut peer = world.subscriber(version, "peer", "both/a", 2);
        let mut publisher = world.peer(version, "publisher");
        publisher.publish("both/a", 2, "held");
        let held = peer.message();
        peer.send(&ack(PUBREC, held.id));
        peer.gets(&ack(PUBREL, held.id));
        for _ in 0..50 {
            publisher.publish("both/a", 1, "x");
            let message = peer.message();
            assert_ne!(message.id, held.id);
            peer.send(&ack(PUBACK, message.id));
        }
        peer.send(&ack(PUBCOMP, held.id));
        peer.hears_nothing();
    }
}
