//! Receive Maximum and Maximum Packet Size. [§4.9] [§3.1.2.11]

use crate::{
    support::{
        packets::{
            MAXIMUM_PACKET_SIZE, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, RECEIVE_MAXIMUM, ack, four, two,
        },
        wire::Version,
    },
    world::{BOTH, World},
};

use Version::{V5, V311};

#[test]
fn the_server_keeps_to_the_clients_receive_maximum_mqtt_3_3_4_9_and_4_9_0_1_and_4_9_0_2() {
    let world = World::new();
    for maximum in [1, 3] {
        for qos in [1, 2] {
            let mut peer = world.connect(&world.hello(V5, "peer").with(two(RECEIVE_MAXIMUM, maximum)));
            assert_eq!(peer.subscribe(&[("quota/a", 2)]), [2]);
            let mut publisher = world.peer(V5, "publisher");
            for n in 0..maximum + 2 {
                publisher.publish("quota/a", qos, &n.to_string());
            }
            let mut open: Vec<_> = (0..maximum).map(|_| peer.message()).collect();
            peer.hears_nothing();
            for n in 0..2 {
                let done = open.remove(0);
                if qos == 2 {
                    peer.send(&ack(PUBREC, done.id));
                    peer.gets(&ack(PUBREL, done.id));
                    peer.hears_nothing();
                    peer.send(&ack(PUBCOMP, done.id));
                } else {
                    peer.send(&ack(PUBACK, done.id));
                }
                let next = peer.message();
                assert_eq!(next.told().1, (maximum + n).to_string());
                open.push(next);
                peer.hears_nothing();
            }
            peer.leave();
        }
    }
}

#[test]
fn a_quota_of_nought_holds_back_nothing_else_mqtt_3_3_4_10_and_4_9_0_3_and_3_12_4_1() {
    // C-46.
    let world = World::new();
    let mut peer = world.connect(&world.hello(V5, "peer").with(two(RECEIVE_MAXIMUM, 1)));
    assert_eq!(peer.subscribe(&[("quota/+", 2)]), [2]);
    let mut publisher = world.peer(V5, "publisher");
    publisher.publish("quota/a", 1, "held");
    publisher.publish("quota/a", 1, "waits");
    let held = peer.message();
    peer.hears_nothing();
    assert_eq!(peer.subscribe(&[("quota/b/#", 1)]), [1]);
    assert_eq!(peer.unsubscribe(&["quota/b/#"]), [0]);
    peer.publish("elsewhere", 1, "x");
    peer.publish("elsewhere", 2, "x");
    peer.accept(&held);
    peer.takes("waits");
}

#[test]
fn before_5_0_a_window_bounds_what_is_in_flight_mqtt_4_3_2_1() {
    //
    let world = World::new();
    let mut peer = world.subscriber(V311, "peer", "window/a", 1);
    let mut publisher = world.peer(V311, "publisher");
    for n in 0..30 {
        publisher.publish("window/a", 1, &n.to_string());
    }
    let open: Vec<_> = (0..20).map(|_| peer.message()).collect();
    peer.hears_nothing();
    for message in &open {
        peer.accept(message);
    }
    for n in 20..30 {
        peer.takes(&n.to_string());
    }
}

#[test]
fn more_than_the_servers_receive_maximum_closes_mqtt_3_3_4_7() {
    // A-54, C-33: of QoS 1 and 2 together; before 5.0 there is no such bound.
    let world = World::new();
    let told = world.peer(V5, "asks").told_in_connack(RECEIVE_MAXIMUM).unwrap_or(65_535);
    let maximum = u16::try_from(told).expect("two bytes");
    for version in BOTH {
        let mut peer = world.peer(version, "peer");
        for id in 1..=maximum {
            peer.sends(&Publish::new("receive/a", "x").qos(2, id));
            assert!(peer.acked(PUBREC, id) < 0x80);
        }
        peer.hears_nothing();
        peer.sends(&Publish::new("receive/a", "x").qos(2, maximum + 1));
        if version == V5 {
            peer.is_dismissed_with(0x93);
        } else {
            peer.acked(PUBREC, maximum + 1);
        }
    }
}

#[test]
fn the_quota_is_a_connections_own_and_old_exchanges_take_nothing_of_it_mqtt_3_3_4_7_and_4_9_0_1() {
    let world = World::new();
    drop(world.settle(V5, "peer"));
    let mut id = 0;
    for _ in 0..3 {
        let mut peer = world.resume(V5, "peer");
        let maximum = peer.told_in_connack(RECEIVE_MAXIMUM).unwrap_or(65_535);
        for _ in 0..maximum {
            id += 1;
            peer.sends(&Publish::new("receive/a", "x").qos(2, id));
            assert!(peer.acked(PUBREC, id) < 0x80);
        }
        drop(peer);
    }
    let mut peer = world.resume(V5, "peer");
    for id in 1..=id {
        peer.send(&ack(PUBREL, id));
        assert_eq!(peer.acked(PUBCOMP, id), 0, "{id} was open");
    }
    // What has come to an end makes room again.
    for id in 1..=id {
        peer.sends(&Publish::new("receive/a", "x").qos(2, id));
        assert!(peer.acked(PUBREC, id) < 0x80);
        peer.send(&ack(PUBREL, id));
        assert_eq!(peer.acked(PUBCOMP, id), 0);
    }
}

#[test]
fn exchanges_that_are_never_completed_are_bounded() {
    let world = World::new();
    for version in BOTH {
        let client_id = format!("never {version:?}");
        let mut peer = world.settle(version, &client_id);
        let mut opened = 0;
        'all: for turn in 0..200 {
            for n in 0..20 {
                let id = 1 + turn * 20 + n;
                peer.sends(&Publish::new("receive/a", "x").qos(2, id));
                let reply = peer.client.next(crate::support::wait::SOON);
                let crate::support::client::Event::Packet(reply) = reply else { break 'all };
                if reply.first != PUBREC {
                    assert_eq!(reply.disconnect(), Some(0x97), "{reply:02X?}");
                    break 'all;
                }
                opened += 1;
            }
            drop(peer);
            peer = world.resume(version, &client_id);
        }
        assert!((500..3000).contains(&opened), "{opened} in {version:?}");
    }
}

#[test]
fn a_repeat_and_a_completed_exchange_take_no_slot_mqtt_3_3_4_7() {
    let world = World::new();
    let mut peer = world.peer(V5, "peer");
    for id in 1..=60 {
        for _ in 0..2 {
            peer.sends(&Publish::new("receive/a", "x").qos(2, id));
            assert!(peer.acked(PUBREC, id) < 0x80);
        }
        peer.send(&ack(PUBREL, id));
        assert_eq!(peer.acked(PUBCOMP, id), 0);
    }
}

#[test]
fn a_message_too_large_for_a_client_counts_as_delivered_mqtt_3_1_2_24_and_3_1_2_25_of_5_0() {
    // C-34: exactly as large as allowed is allowed; no slot is lost over the others.
    let world = World::new();
    const SIZE: usize = 100;
    let hello = world.hello(V5, "small").with(four(MAXIMUM_PACKET_SIZE, SIZE as u32));
    let mut peer = world.connect(&hello.with(two(RECEIVE_MAXIMUM, 2)));
    assert_eq!(peer.subscribe(&[("size/a", 2)]), [2]);
    let mut large = world.subscriber(V5, "large", "size/a", 2);
    let mut publisher = world.peer(V5, "publisher");
    for qos in [0, 1, 2] {
        // Header 2, topic 2 + 6, properties 1, identifier 2 above QoS 0.
        let room = SIZE - 11 - if qos > 0 { 2 } else { 0 };
        let (fits, exceeds) = ("f".repeat(room), "e".repeat(room + 1));
        for _ in 0..5 {
            publisher.publish("size/a", qos, &exceeds);
            large.takes(&exceeds);
        }
        publisher.publish("size/a", qos, &fits);
        peer.takes(&fits);
        large.takes(&fits);
        peer.hears_nothing();
    }
}
