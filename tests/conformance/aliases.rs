//! Topic aliases, both ways. [§3.3.2.3.4]

use std::collections::HashMap;

use crate::{
    support::{
        packets::{PUBACK, PUBREC, Publish, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM, two},
        wire::Version,
    },
    world::World,
};

use Version::{V5, V311};

fn maximum(world: &World) -> u16 {
    let told = world.peer(V5, "asks").told_in_connack(TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
    u16::try_from(told).expect("two bytes")
}

#[test]
fn every_alias_up_to_the_servers_maximum_stands_for_its_topic_mqtt_3_3_2_12() {
    let world = World::new();
    let maximum = maximum(&world);
    assert!(maximum > 0, "aliases are offered");
    let mut peer = world.subscriber(V311, "peer", "alias/+", 1);
    let mut publisher = world.peer(V5, "publisher");
    for alias in 1..=maximum {
        let topic = format!("alias/{alias}");
        publisher.sends(&Publish::new(&topic, "named").qos(1, 1).with(two(TOPIC_ALIAS, alias)));
        assert_eq!(publisher.acked(PUBACK, 1), 0);
        assert_eq!(peer.takes("named").told().0, topic);
    }
    for alias in 1..=maximum {
        publisher.sends(&Publish::new("", "short").qos(1, 1).with(two(TOPIC_ALIAS, alias)));
        assert_eq!(publisher.acked(PUBACK, 1), 0);
        assert_eq!(peer.takes("short").told().0, format!("alias/{alias}"));
    }
    // bound anew, it stands for the new topic.
    publisher.sends(&Publish::new("alias/new", "new").with(two(TOPIC_ALIAS, 1)));
    publisher.sends(&Publish::new("", "new again").with(two(TOPIC_ALIAS, 1)));
    peer.takes("new");
    assert_eq!(peer.takes("new again").told().0, "alias/new");
}

#[test]
fn aliases_end_with_the_connection_and_belong_to_it_alone_mqtt_3_3_2_7() {
    let world = World::new();
    for other in ["same", "another"] {
        let mut publisher = world.peer(V5, "same");
        publisher.sends(&Publish::new("alias/a", "x").with(two(TOPIC_ALIAS, 1)));
        publisher.hears_nothing();
        let mut stranger = world.peer(V5, other);
        stranger.sends(&Publish::new("", "x").with(two(TOPIC_ALIAS, 1)));
        stranger.is_dismissed_with(0x82);
    }
}

#[test]
fn an_alias_of_nought_or_above_the_maximum_is_invalid_and_an_unknown_one_a_protocol_error_mqtt_3_3_2_8() {
    let world = World::new();
    let maximum = maximum(&world);
    let cases = [
        ("a", 0, 0x94),
        ("", 0, 0x94),
        ("a", maximum + 1, 0x94),
        ("", maximum + 1, 0x94),
        ("a", u16::MAX, 0x94),
        ("", maximum, 0x82),
        ("", 1, 0x82),
    ];
    for (topic, alias, code) in cases {
        let mut peer = world.peer(V5, "peer");
        peer.sends(&Publish::new(topic, "x").with(two(TOPIC_ALIAS, alias)));
        peer.is_dismissed_with(code);
    }
    let mut peer = world.peer(V5, "peer");
    peer.sends(&Publish::new("", "neither topic nor alias"));
    peer.is_dismissed_with(0x82);
}

#[test]
fn an_alias_of_a_publish_that_is_refused_holds_all_the_same_mqtt_3_3_2_12() {
    let world = World::new();
    let mut publisher = world.peer(V5, "publisher");
    publisher.sends(&Publish::new("$x/refused", "x").qos(2, 1).with(two(TOPIC_ALIAS, 1)));
    assert_eq!(publisher.acked(PUBREC, 1), 0x87);
    publisher.sends(&Publish::new("", "x").qos(1, 2).with(two(TOPIC_ALIAS, 1)));
    assert_eq!(publisher.acked(PUBACK, 2), 0x87);
}

#[test]
fn the_server_sends_no_alias_above_the_clients_maximum_mqtt_3_3_2_8_and_3_3_2_11_and_3_1_2_26_and_3_1_2_27_of_5_0()
 {
    let world = World::new();
    for maximum in [None, Some(0), Some(1), Some(3)] {
        let mut hello = world.hello(V5, "peer");
        if let Some(maximum) = maximum {
            hello = hello.with(two(TOPIC_ALIAS_MAXIMUM, maximum));
        }
        let mut peer = world.connect(&hello);
        assert_eq!(peer.subscribe(&[("alias/+", 0)]), [0]);
        let mut publisher = world.peer(V5, "publisher");
        let mut known: HashMap<Vec<u8>, String> = HashMap::new();
        for n in 0..30 {
            let topic = format!("alias/{}", n * 7 % 5);
            publisher.publish(&topic, 0, "x");
            let got = peer.message();
            match got.values(TOPIC_ALIAS)[..] {
                [] => assert_eq!(got.told().0, topic),
                [alias] => {
                    let number = u16::from_be_bytes(alias.try_into().expect("two bytes"));
                    assert!((1..=maximum.unwrap_or(0)).contains(&number), "alias {number}");
                    if got.topic.is_empty() {
                        assert_eq!(known[alias], topic);
                    } else {
                        assert_eq!(got.told().0, topic);
                        known.insert(alias.to_vec(), topic);
                    }
                }
                _ => panic!("one alias at most: {got:?}"),
            }
        }
    }
}
