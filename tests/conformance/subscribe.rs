//! SUBSCRIBE and UNSUBSCRIBE. [§3.8] to [§3.11]

use crate::{
    support::{
        packets::{PUBACK, PUBCOMP, PUBREC, PUBREL, ack},
        wire::{PINGREQ, VERSIONS, Version, packet, subscribe, text},
    },
    world::{BOTH, World},
};

use Version::V5;

#[test]
fn many_filters_are_answered_together_in_their_order_mqtt_3_8_4_1_and_3_8_4_2_and_3_8_4_4_and_3_9_3_1() {
    let world = World::new();
    for version in VERSIONS {
        let mut peer = world.peer(version, "peer");
        let none: &[u8] = if version == V5 { &[0] } else { &[] };
        let refused = if version == V5 { 0x87 } else { 0x80 };
        let filters =
            [("many/a", 2), ("$SYS/#", 1), ("many/b", 0), ("v1/devices/me/rpc", 1), ("many/+/c", 1)];
        peer.send(&[subscribe(version, 0xFFFE, &filters), PINGREQ.to_vec()].concat());
        let suback = peer.client.packet();
        let codes = suback.codes(version, 0xFFFE).expect("a SUBACK under the identifier of its SUBSCRIBE");
        assert_eq!((codes[0], codes[2], codes[4]), (2, 0, 1), "{version:?}");
        assert_eq!(codes.len(), 5);
        assert_eq!(codes[1], refused, "nobody reads the broker's own topics");
        assert!(codes[3] >= 0x80, "the hub's topics are the devices'");
        assert_eq!(suback.body.len(), 2 + none.len() + 5);
        peer.gets(&[0xD0, 0]);
        let mut publisher = world.peer(version, "publisher");
        for (topic, qos) in [("many/a", 2), ("many/b", 0), ("many/x/c", 1)] {
            publisher.publish(topic, 2, topic);
            assert_eq!(peer.takes(topic).qos, qos);
        }
    }
}

#[test]
fn topic_filters_are_utf_8_mqtt_3_8_3_1_and_3_10_3_1() {
    let world = World::new();
    for version in BOTH {
        for bad in [&[0xC3, 0x28][..], &[0xED, 0xA0, 0x80], &[b'a', 0], &[0xC0, 0xAF]] {
            let none: &[u8] = if version == V5 { &[0] } else { &[] };
            let body = [&[0, 1], none, &text(bad)].concat();
            for bytes in [packet(0x82, &[&body[..], &[0]].concat()), packet(0xA2, &body)] {
                let mut peer = world.peer(version, "peer");
                peer.send(&bytes);
                peer.is_dismissed();
            }
        }
    }
}

#[test]
fn the_same_filter_replaces_the_subscription_mqtt_3_8_4_3_of_5_0() {
    let world = World::new();
    for version in BOTH {
        let mut peer = world.peer(version, "peer");
        let mut publisher = world.peer(version, "publisher");
        for qos in [0, 2, 1, 0] {
            assert_eq!(peer.subscribe(&[("replaced/+", qos)]), [qos]);
            publisher.publish("replaced/a", 2, "x");
            assert_eq!(peer.takes("x").qos, qos);
            peer.hears_nothing();
        }
        // In one packet the last one counts.
        assert_eq!(peer.subscribe(&[("replaced/+", 2), ("replaced/+", 1)]), [2, 1]);
        publisher.publish("replaced/a", 2, "y");
        assert_eq!(peer.takes("y").qos, 1);
        peer.unsubscribe(&["replaced/+"]);
        publisher.publish("replaced/a", 2, "z");
        peer.hears_nothing();
    }
}

#[test]
fn a_subscription_lives_as_long_as_its_connection_mqtt_4_1_0_2() {
    let world = World::new();
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        let mut peer = world.subscriber(version, "peer", "lives/a", 1);
        for n in 0..20 {
            publisher.publish("lives/a", 1, &n.to_string());
            peer.takes(&n.to_string());
        }
        peer.leave();
        publisher.publish("lives/a", 1, "to nobody");
        world.peer(version, "peer").hears_nothing();
    }
}

#[test]
fn filters_to_end_are_compared_byte_by_byte_mqtt_3_10_4_1() {
    let world = World::new();
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        let mut peer = world.subscriber(version, "peer", "Exact/+", 1);
        peer.unsubscribe(&["exact/+", "Exact/#", "Exact/a", "Exact/+/", "/Exact/+", "#"]);
        publisher.publish("Exact/a", 1, "still");
        peer.takes("still");
        peer.unsubscribe(&["Exact/+"]);
        publisher.publish("Exact/a", 1, "no more");
        peer.hears_nothing();
    }
}

#[test]
fn many_filters_are_ended_and_answered_together_mqtt_3_10_4_4_to_6_and_3_10_4_2_mqtt_3_11_3_1_and_3_11_3_2() {
    let world = World::new();
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        let mut peer = world.peer(version, "peer");
        assert_eq!(peer.subscribe(&[("ended/a", 1), ("ended/b", 1), ("ended/c", 1)]), [1, 1, 1]);
        let codes = peer.unsubscribe(&["ended/c", "never/was", "ended/a"]);
        let wanted: &[u8] = if version == V5 { &[0, 0x11, 0] } else { &[] };
        assert_eq!(codes, wanted);
        for topic in ["ended/a", "ended/b", "ended/c"] {
            publisher.publish(topic, 1, topic);
        }
        peer.takes("ended/b");
        peer.hears_nothing();
        assert_eq!(peer.unsubscribe(&["never/was"]), if version == V5 { &[0x11][..] } else { &[] });
    }
}

#[test]
fn what_was_begun_is_completed_after_the_end_of_the_subscription_mqtt_3_10_4_3() {
    let world = World::new();
    for version in BOTH {
        let mut publisher = world.peer(version, "publisher");
        let mut peer = world.subscriber(version, "peer", "begun/a", 2);
        publisher.publish("begun/a", 1, "one");
        publisher.publish("begun/a", 2, "two");
        let (one, two) = (peer.message(), peer.message());
        peer.unsubscribe(&["begun/a"]);
        publisher.publish("begun/a", 2, "three");
        peer.send(&ack(PUBACK, one.id));
        peer.send(&ack(PUBREC, two.id));
        peer.gets(&ack(PUBREL, two.id));
        peer.send(&ack(PUBCOMP, two.id));
        peer.hears_nothing();
    }
}

#[test]
fn with_no_local_a_client_does_not_get_its_own_messages_mqtt_3_8_3_3_of_5_0() {
    let world = World::new();
    let mut peer = world.peer(V5, "peer");
    assert_eq!(peer.subscribe(&[("local/a", 0x04 | 1)]), [1]);
    peer.publish("local/a", 1, "own");
    peer.hears_nothing();
    world.peer(V5, "other").publish("local/a", 1, "another's");
    peer.takes("another's");
    // Another subscription of the same client that is not so shy still gets it, once.
    assert_eq!(peer.subscribe(&[("local/+", 0)]), [0]);
    peer.sends(&crate::support::packets::Publish::new("local/a", "mine"));
    peer.takes("mine");
    peer.hears_nothing();
}

#[test]
fn leading_wildcards_do_not_reach_dollar_topics_mqtt_4_7_2_1() {
    // C-55: and only who is granted $SYS may ask for it.
    let world = World::new();
    for version in BOTH {
        let mut peer = world.peer(version, "peer");
        assert_eq!(peer.subscribe(&[("#", 0), ("+/x", 0), ("+/+", 0)]), [0, 0, 0]);
        peer.hears_nothing();
        for filter in ["$SYS/#", "$SYS/+", "$SYS", "$x/#"] {
            let codes = peer.subscribe(&[(filter, 0)]);
            assert!(codes.len() == 1 && codes[0] >= 0x80, "{filter}: {codes:02X?}");
        }
    }
}
