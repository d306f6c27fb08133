//! Header flags and identifiers, of what comes and of what is sent. [§2.1.3] [§2.2.1]

use crate::{
    support::{
        packets::{PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, TOPIC_ALIAS, ack, two},
        wait::SOON,
        wire::{PINGREQ, VERSIONS, Version, packet, subscribe, text, unsubscribe},
    },
    world::{BOTH, World},
};

use Version::V5;

fn with_first(bytes: &[u8], flags: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[0] = bytes[0] & 0xF0 | flags;
    bytes
}

/// Sends the packet with every wrong set of header flags; each closes.
fn only_these_flags(right: u8, bytes: impl Fn(Version) -> Vec<u8>) {
    let world = World::new();
    for version in BOTH {
        for flags in (0..16).filter(|flags| *flags != right) {
            let mut peer = world.peer(version, "flags");
            peer.send(&with_first(&bytes(version), flags));
            peer.is_dismissed_with(0x81);
        }
    }
}

#[test]
fn header_flags_of_pubrel_are_0010_mqtt_3_6_1_1() {
    only_these_flags(2, |_| ack(PUBREL, 1));
}

#[test]
fn header_flags_of_subscribe_are_0010_mqtt_3_8_1_1() {
    only_these_flags(2, |version| subscribe(version, 1, &[("a", 0)]));
}

#[test]
fn header_flags_of_unsubscribe_are_0010_mqtt_3_10_1_1() {
    only_these_flags(2, |version| unsubscribe(version, 1, &["a"]));
}

#[test]
fn all_we_send_is_as_the_tables_say_to_the_byte_mqtt_2_2_2_1_and_2_3_1_5_to_7_mqtt_2_2_2_1_of_5_0() {
    let world = World::new();
    for version in BOTH {
        let v5 = version == V5;
        let none: &[u8] = if v5 { &[0] } else { &[] };
        let mut peer = world.peer(version, "bytes");
        let mut source = world.peer(version, "source");
        peer.send(&subscribe(version, 0x1234, &[("bytes/+", 2)]));
        peer.gets(&packet(0x90, &[&[0x12, 0x34], none, &[2]].concat()));
        peer.send(&Publish::new("nobody", "x").qos(1, 0xABCD).bytes(version));
        if v5 {
            assert!(matches!(peer.acked(PUBACK, 0xABCD), 0 | 0x10));
        } else {
            peer.gets(&[0x40, 2, 0xAB, 0xCD]);
        }
        peer.send(&Publish::new("nobody", "x").qos(2, 0xFFFF).bytes(version));
        assert!(matches!(peer.acked(PUBREC, 0xFFFF), 0 | 0x10));
        peer.send(&ack(PUBREL, 0xFFFF));
        peer.gets(&[0x70, 2, 0xFF, 0xFF]);
        peer.send(&PINGREQ);
        peer.gets(&[0xD0, 0]);
        let body = |middle: &[u8]| [&text("bytes/a")[..], middle, none, b"x"].concat();
        source.publish("bytes/a", 0, "x");
        peer.gets(&packet(0x30, &body(&[])));
        for qos in [1, 2] {
            source.publish("bytes/a", qos, "x");
            let message = peer.message();
            assert_eq!(message, Publish::new("bytes/a", "x").qos(qos, message.id));
            peer.accept(&message);
        }
        peer.send(&unsubscribe(version, 0x0100, &["bytes/+"]));
        let codes: &[u8] = if v5 { &[0, 0] } else { &[] };
        peer.gets(&packet(0xB0, &[&[1, 0], codes].concat()));
        peer.leave();
        source.leave();
    }
}

#[test]
fn what_the_standard_calls_malformed_is_told_so_mqtt_3_3_1_2_and_3_3_2_2_and_4_7_1_1_to_3() {
    let world = World::new();
    for version in BOTH {
        let none: &[u8] = if version == V5 { &[0] } else { &[] };
        let publish = |topic: &str| [&text(topic)[..], none, b"x"].concat();
        let cases = [
            // DUP at QoS 0, wildcards in a topic name.
            packet(0x38, &publish("a")),
            packet(0x30, &publish("a/+")),
            packet(0x30, &publish("a/#")),
            subscribe(version, 1, &[("a/#/b", 0)]),
            subscribe(version, 1, &[("a+", 0)]),
            subscribe(version, 1, &[("", 0)]),
            unsubscribe(version, 1, &["a#"]),
        ];
        for bytes in cases {
            let mut peer = world.peer(version, "peer");
            peer.send(&bytes);
            peer.is_dismissed_with(0x81);
        }
    }
}

#[test]
fn a_property_in_a_packet_that_has_no_such_property_is_malformed() {
    // §2.2.2.2.
    let world = World::new();
    let cases = [
        // Receive Maximum in PUBLISH, also of nought, Topic Alias in SUBSCRIBE, Content Type in UNSUBSCRIBE and PUBACK.
        packet(0x30, &[&text("a")[..], &[3, 0x21, 0, 1]].concat()),
        packet(0x30, &[&text("a")[..], &[3, 0x21, 0, 0]].concat()),
        packet(0x82, &[&[0, 1, 3, 0x23, 0, 1][..], &text("a"), &[0]].concat()),
        packet(0xA2, &[&[0, 1, 4, 0x03, 0, 1, b'x'][..], &text("a")].concat()),
        packet(0x40, &[0, 1, 0, 4, 0x03, 0, 1, b'x']),
        packet(0xE0, &[0, 3, 0x21, 0, 1]),
    ];
    for bytes in cases {
        let mut peer = world.peer(V5, "peer");
        peer.send(&bytes);
        peer.is_dismissed_with(0x81);
    }
    let hello = world.hello(V5, "peer").with(two(TOPIC_ALIAS, 1));
    let [connack] = &world.turned_away(&hello.bytes())[..] else { panic!("one CONNACK") };
    assert_eq!(connack.connack(), Some(0x81));
}

#[test]
fn a_length_longer_than_it_needs_to_be_is_malformed_in_5_0_alone_mqtt_1_5_5_1() {
    let world = World::new();
    for version in VERSIONS {
        let bytes = world.hello(version, "padded").bytes();
        assert!(bytes[1] < 0x80);
        let padded = [&[bytes[0], bytes[1] | 0x80, 0x80, 0x00][..], &bytes[2..]].concat();
        let mut client = world.dial();
        client.send(&padded);
        if version == V5 {
            let [connack] = &client.until_closed(SOON)[..] else { panic!("one CONNACK") };
            assert_eq!(connack.connack(), Some(0x81));
        } else {
            assert_eq!(client.packet().connack(), Some(0));
        }
        let mut peer = world.peer(version, "peer");
        peer.send(&[0xC0, 0x80, 0x00]);
        if version == V5 {
            peer.is_dismissed_with(0x81);
        } else {
            peer.gets(&[0xD0, 0x00]);
        }
    }
}

#[test]
fn the_lowest_flag_of_connect_is_not_used_in_3_1_mqtt_3_1_2_3() {
    let world = World::new();
    for version in VERSIONS {
        let mut bytes = world.hello(version, "flag").bytes();
        // Behind the header, the protocol's name and its level.
        let at = if version == Version::V31 { 2 + 8 + 1 } else { 2 + 6 + 1 };
        bytes[at] |= 1;
        let mut client = world.dial();
        client.send(&bytes);
        if version == Version::V31 {
            assert_eq!(client.packet().connack(), Some(0));
        } else {
            assert!(client.until_closed(SOON).iter().all(|reply| reply.connack() == Some(0x81)));
        }
    }
}

#[test]
fn an_acknowledgement_of_nothing_is_ignored_or_closes_and_hurts_nobody_mqtt_3_7_2_1() {
    // for identifiers nobody has used, the first and the last.
    let world = World::new();
    let mut canary = world.peer(V5, "canary");
    for version in BOTH {
        for id in [1, 7, 65_535] {
            for first in [PUBACK, PUBREC, PUBCOMP] {
                let mut peer = world.peer(version, "stray");
                peer.send(&[ack(first, id), PINGREQ.to_vec()].concat());
                // An answer to PUBREC is PUBREL, 0x92 in 5.0; all else is the PINGRESP or the end.
                let replies = peer.client.next(crate::support::wait::SOON);
                let fine = match &replies {
                    crate::support::client::Event::Packet(reply) => {
                        matches!(reply.first, 0xD0 | 0xE0) || first == PUBREC && reply.first == PUBREL
                    }
                    other => *other == crate::support::client::Event::Closed,
                };
                assert!(fine, "{first:#04x} {id} in {version:?}: {replies:02X?}");
            }
            let mut peer = world.peer(version, "stray");
            peer.send(&ack(PUBREL, id));
            let code = peer.acked(PUBCOMP, id);
            assert!(if version == V5 { matches!(code, 0 | 0x92) } else { code == 0 }, "{code:#04x}");
        }
        for first in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
            let mut peer = world.peer(version, "nought");
            peer.send(&ack(first, 0));
            peer.is_dismissed();
        }
        canary.hears_nothing();
    }
}
