//! CONNECT, CONNACK and DISCONNECT. [§3.1] [§3.2] [§3.14]

use std::time::{Duration, Instant};

use crate::{
    support::{
        client::Event,
        packets::{
            ASSIGNED_CLIENT_ID, AUTHENTICATION_METHOD, MAXIMUM_PACKET_SIZE, Publish, SERVER_KEEP_ALIVE,
            SESSION_EXPIRY, four, joined, pair, string,
        },
        wait::SOON,
        wire::{PINGREQ, VERSIONS, Version, packet, properties, text},
    },
    world::{BOTH, World},
};

use Version::{V5, V311};

#[test]
fn the_first_packet_is_one_connack_which_lets_in_mqtt_3_2_0_1_and_3_1_4_4_and_3_2_2_1_and_3_2_2_3_mqtt_3_2_0_2()
 {
    let world = World::new();
    for version in VERSIONS {
        let mut peer = world.peer(version, "first");
        assert_eq!(peer.connack.first, 0x20);
        assert_eq!(peer.connack.body[..2], [0, 0], "a clean session was not present before");
        if version != V5 {
            assert_eq!(peer.connack.body.len(), 2);
        }
        peer.hears_nothing();
        peer.leave();
    }
}

#[test]
fn client_identifiers_of_1_to_23_letters_and_digits_are_accepted_mqtt_3_1_3_5() {
    let world = World::new();
    for version in BOTH {
        for id in ["a", "Z", "0123456789abcdefghijklm", "NOPQRSTUVWXYZnopqrstuvw"] {
            world.peer(version, id).hears_nothing();
        }
        // what looks like a pattern or a key of somebody's is a name like any other.
        for id in ["#", "+", "a/b", "%u", "%c", "x:queue", "meta"] {
            world.peer(version, id).hears_nothing();
        }
    }
}

#[test]
fn an_empty_client_identifier_becomes_a_unique_one_mqtt_3_1_3_6() {
    let world = World::new();
    for version in BOTH {
        let mut peers: Vec<_> = (0..3).map(|_| world.peer(version, "")).collect();
        for peer in &mut peers {
            peer.hears_nothing();
        }
    }
}

#[test]
fn the_assigned_identifier_is_told_and_serves_as_one_mqtt_3_1_3_7_of_5_0() {
    let world = World::new();
    let assigned = |hello: &crate::support::packets::Connect| {
        let peer = world.connect(hello);
        let told = peer.connack_properties().into_iter().find(|(id, _)| *id == ASSIGNED_CLIENT_ID);
        (peer, told.expect("an assigned client identifier").1.split_off(2))
    };
    let (mut one, name) = assigned(&world.hello(V5, ""));
    let (_two, other) = assigned(&world.hello(V5, "").keep_session());
    assert_ne!(name, other);
    let name = String::from_utf8(name).expect("an identifier is text");
    world.peer(V5, &name).hears_nothing();
    one.is_dismissed_with(0x8E);
}

#[test]
fn the_client_identifier_names_the_session_mqtt_3_1_3_2_and_3_1_4_2() {
    let world = World::new();
    for version in BOTH {
        let mut other = world.peer(version, "other");
        let mut old = world.peer(version, "same");
        let mut new = world.peer(version, "same");
        old.is_dismissed_with(0x8E);
        new.hears_nothing();
        other.hears_nothing();
    }
}

#[test]
fn a_refused_client_identifier_is_told_and_closed_mqtt_3_1_3_8_and_3_1_3_9() {
    let world = World::new();
    for version in [Version::V31, V311] {
        let replies = world.turned_away(&world.hello(version, "").keep_session().bytes());
        let [connack] = &replies[..] else { panic!("a CONNACK alone, got {replies:02X?}") };
        assert_eq!((connack.first, &connack.body[..]), (0x20, &[0, 2][..]));
    }
    let replies = world.turned_away(&world.hello(V5, "\u{1}").bytes());
    assert!(
        replies.iter().all(|reply| matches!(reply.connack(), Some(0x81 | 0x82 | 0x85))),
        "{replies:02X?}"
    );
}

#[test]
fn the_payloads_fields_come_in_their_order_mqtt_3_1_3_1_and_3_1_2_9_and_3_1_2_19_and_3_1_2_21() {
    let world = World::new();
    for version in BOTH {
        let mut watcher = world.subscriber(version, "watcher", "will/#", 0);
        let mut hello = world.hello(version, "all").will(Publish::new("will/all", "last words"));
        hello.password = Some(b"beside the token it does not matter".to_vec());
        let peer = world.connect(&hello);
        drop(peer);
        assert_eq!(watcher.takes("last words").told().0, "will/all");
        // Too short by its last field, then by all but the first.
        let fields = hello.fields();
        let missing = hello.password.as_ref().map_or(0, |password| password.len() + 2);
        for end in [fields.len() - missing, 2 + hello.client_id.len()] {
            let bytes = packet(0x10, &[hello.head(hello.flags()), fields[..end].to_vec()].concat());
            assert_eq!(refusals(&world, version, &bytes), [], "a field is missing");
        }
        watcher.hears_nothing();
    }
}

/// The CONNACKs of a malformed CONNECT: none before 5.0, perhaps 0x81 or 0x82 in it, which are left out.
fn refusals(world: &World, version: Version, bytes: &[u8]) -> Vec<crate::support::wire::Reply> {
    let mut replies = world.turned_away(bytes);
    if version == V5 {
        replies.retain(|reply| !matches!(reply.connack(), Some(0x81 | 0x82)));
    }
    replies
}

#[test]
fn a_field_without_its_flag_closes_mqtt_3_1_2_18_and_3_1_2_20_and_3_1_2_11() {
    let world = World::new();
    for version in BOTH {
        let mut hello = world.hello(version, "flags").will(Publish::new("will/flags", "x"));
        hello.password = Some(b"secret".to_vec());
        for flags in [0x86, 0xC2, 0x06, 0x02] {
            let bytes = packet(0x10, &[hello.head(flags), hello.fields()].concat());
            assert_eq!(refusals(&world, version, &bytes), [], "{version:?} with flags {flags:#04x}");
        }
    }
}

#[test]
fn a_connect_without_a_client_identifier_field_is_closed_mqtt_3_1_3_3() {
    let world = World::new();
    for version in BOTH {
        let hello = world.hello(version, "x");
        assert_eq!(refusals(&world, version, &packet(0x10, &hello.head(0x02))), []);
    }
}

#[test]
fn strings_of_connect_are_utf_8_or_it_is_closed_mqtt_3_1_3_4_and_3_1_3_10_and_3_1_3_11() {
    let world = World::new();
    for version in BOTH {
        for bad in [&[0xC3, 0x28][..], &[0xED, 0xA0, 0x80], &[b'a', 0x00], &[0xC0, 0x80]] {
            let mut id = world.hello(version, "x");
            id.client_id = bad.to_vec();
            let mut user = world.hello(version, "x");
            user.user_name = Some(bad.to_vec());
            let will = world.hello(version, "x").will(Publish::new(bad, "w"));
            for hello in [id, user, will] {
                assert_eq!(refusals(&world, version, &hello.bytes()), []);
            }
        }
    }
}

#[test]
fn both_halves_of_a_user_property_are_utf_8_mqtt_1_5_7_1() {
    let world = World::new();
    let good = text("good");
    for bad in [&[0xC3, 0x28][..], &[0xED, 0xA0, 0x80], &[b'a', 0x00]] {
        for value in [[text(bad), good.clone()].concat(), [good.clone(), text(bad)].concat()] {
            let hello = world.hello(V5, "pairs").with((0x26, value));
            assert_eq!(refusals(&world, V5, &hello.bytes()), []);
        }
    }
}

#[test]
fn a_connect_that_breaks_a_rule_is_closed_without_connack_mqtt_3_1_4_1_and_3_2_2_6() {
    let world = World::new();
    let wrong_name = [text("MQTX"), vec![4, 2, 0, 60], text("x")].concat();
    let reserved = [text("MQTT"), vec![4, 3, 0, 60], text("x")].concat();
    for body in [wrong_name, reserved] {
        assert_eq!(world.turned_away(&packet(0x10, &body)), []);
    }
    let replies = world.turned_away(&packet(0x10, &[text("MQTT"), vec![5, 3, 0, 60, 0], text("x")].concat()));
    assert!(replies.iter().all(|reply| reply.connack().is_some_and(|code| code >= 0x80)), "{replies:02X?}");
}

#[test]
fn a_refusal_has_a_code_of_the_table_and_no_session_and_nothing_follows_mqtt_3_1_4_2_and_3_2_2_6_and_3_2_2_8_and_4_13_2_1_of_5_0()
 {
    let world = World::new();
    for version in BOTH {
        let mut hello = world.hello(version, "nobody");
        hello.user_name = Some(b"NoSuchTokenInAnyRegistry".to_vec());
        let behind = Publish::new("t", "x").qos(1, 1).bytes(version);
        let replies = world.turned_away(&[hello.bytes(), behind, PINGREQ.to_vec()].concat());
        let [connack] = &replies[..] else { panic!("a CONNACK alone, got {replies:02X?}") };
        let codes: &[u8] = if version == V5 { &[0x86, 0x87] } else { &[4, 5] };
        assert_eq!((connack.first, connack.body[0]), (0x20, 0));
        assert!(codes.contains(&connack.body[1]), "{connack:02X?}");
    }
}

#[test]
fn session_present_is_nought_beside_a_refusal_mqtt_3_2_2_4() {
    let world = World::new();
    for version in BOTH {
        let _present = world.peer(version, "there");
        let mut hello = world.hello(version, "there").keep_session();
        hello.user_name = Some(b"NoSuchTokenInAnyRegistry".to_vec());
        let replies = world.turned_away(&hello.bytes());
        assert_eq!(replies.len(), 1);
        assert_eq!((replies[0].first, replies[0].body[0]), (0x20, 0));
    }
}

#[test]
fn no_disconnect_comes_before_a_connack_that_lets_in_mqtt_3_14_0_1() {
    let world = World::new();
    let refused = [
        world.hello(V5, "x").with(four(MAXIMUM_PACKET_SIZE, 0)).bytes(),
        world.hello(V5, "x").with(string(AUTHENTICATION_METHOD, "magic")).bytes(),
        packet(0x10, &[text("MQTT"), vec![6, 2, 0, 60, 0], text("x")].concat()),
        packet(0xE0, &[]),
        PINGREQ.to_vec(),
    ];
    for bytes in refused {
        let replies = world.turned_away(&bytes);
        assert!(replies.iter().all(|reply| reply.first == 0x20 && reply.body[1] >= 0x80), "{replies:02X?}");
    }
}

#[test]
fn an_unknown_authentication_method_is_closed_with_its_code_mqtt_4_12_0_1() {
    let world = World::new();
    let hello = world.hello(V5, "x").with(string(AUTHENTICATION_METHOD, "magic"));
    let replies = world.turned_away(&hello.bytes());
    assert_eq!(replies.iter().map(|reply| reply.connack()).collect::<Vec<_>>(), [Some(0x8C)]);
}

#[test]
fn who_names_no_method_gets_no_auth_and_no_method_mqtt_4_12_0_6() {
    let world = World::new();
    let mut peer = world.peer(V5, "plain");
    assert!(!peer.connack_properties().iter().any(|(id, _)| matches!(id, 0x15 | 0x16)));
    peer.hears_nothing();
    // and may not begin an exchange of its own.
    peer.send(&packet(0xF0, &[&[0x19][..], &properties(&joined(&[string(0x15, "magic")]))].concat()));
    assert!(matches!(peer.is_dismissed(), Some(0x82 | 0x8C)));
}

#[test]
fn header_flags_of_auth_close_mqtt_3_15_1_1() {
    let world = World::new();
    for flags in 1..16 {
        let mut peer = world.peer(V5, "auth");
        peer.send(&packet(0xF0 | flags, &[0x18, 0]));
        peer.is_dismissed_with(0x81);
    }
}

#[test]
fn without_a_server_keep_alive_the_clients_counts_mqtt_3_2_2_22_and_3_1_2_24() {
    let world = World::new();
    let mut peers: Vec<_> = BOTH
        .into_iter()
        .map(|version| {
            (Instant::now(), world.connect(&world.hello(version, &format!("{version:?}")).keep_alive_s(1)))
        })
        .collect();
    for (since, peer) in &mut peers {
        if peer.connack.body.len() > 2 {
            assert_eq!(peer.told_in_connack(SERVER_KEEP_ALIVE), None);
        }
        peer.is_dismissed_with(0x8D);
        let lasted = since.elapsed();
        assert!(lasted > Duration::from_millis(1_400), "one and a half keep-alives, not {lasted:?}");
        assert!(lasted < Duration::from_secs(3), "one and a half keep-alives, not {lasted:?}");
    }
}

#[test]
fn a_protocol_violation_closes_mqtt_4_8_0_1() {
    let world = World::new();
    for version in BOTH {
        for bytes in [&[0x36, 0x05, 0, 1, b't', 0, 1][..], &[0x80, 0x05, 0, 1, 0, 0, 0], &[0x00, 0x00]] {
            let mut peer = world.peer(version, "offender");
            peer.send(bytes);
            peer.is_dismissed();
        }
    }
}

#[test]
fn reserved_bits_of_disconnect_close_mqtt_3_14_1_1() {
    let world = World::new();
    for version in BOTH {
        for flags in 1..16 {
            let mut peer = world.peer(version, "leaver");
            peer.send(&[0xE0 | flags, 0x00]);
            peer.is_dismissed_with(0x81);
        }
    }
}

#[test]
fn a_servers_disconnect_has_a_code_of_its_table_no_expiry_and_is_the_last_mqtt_3_14_2_1_and_3_14_2_2_and_3_14_4_1_and_3_14_4_2_of_5_0()
 {
    const CODES: [u8; 27] = [
        0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
        0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    let world = World::new();
    let offences: [&[u8]; 6] = [
        &[0xC1, 0x00],
        &[0x10, 0x00],
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x32, 0x04, 0, 0, 0, 1],
        &[0x82, 0x03, 0, 1, 0],
        &[0x30, 0x07, 0, 1, b't', 3, 0x23, 0, 0],
    ];
    for bytes in offences {
        let mut peer = world.peer(V5, "offender");
        peer.send(&[bytes, &PINGREQ[..]].concat());
        let replies = peer.client.until_closed(SOON);
        let [last] = &replies[..] else { panic!("one packet for {bytes:02X?}, got {replies:02X?}") };
        assert!(last.disconnect().is_some_and(|code| CODES.contains(&code)), "{last:02X?}");
        if last.body.len() > 1 {
            let (list, rest) = crate::support::packets::read_properties(&last.body[1..]);
            assert!(list.iter().all(|(id, _)| *id != SESSION_EXPIRY) && rest.is_empty(), "{list:02X?}");
        }
    }
}

#[test]
fn a_session_that_ended_with_its_connection_gets_nothing_later_mqtt_4_1_0_2_of_5_0() {
    let world = World::new();
    let mut publisher = world.peer(V5, "publisher");
    world.subscriber(V5, "gone", "ended/#", 1).leave();
    publisher.publish("ended/a", 1, "in its absence");
    let mut back = world.connect(&world.hello(V5, "gone").keep_session());
    assert_eq!(back.connack.body[0], 0, "there is no session to come back to");
    publisher.publish("ended/a", 1, "in its presence");
    back.hears_nothing();
}

#[test]
fn an_expiry_that_is_not_kept_is_said_so_in_connack() {
    // however many ask for eternity, none is promised.
    let world = World::new();
    for n in 0..20 {
        let hello = world.hello(V5, &format!("eternal{n}")).with(four(SESSION_EXPIRY, u32::MAX));
        let peer = world.connect(&hello);
        assert!(peer.told_in_connack(SESSION_EXPIRY).is_some_and(|told| told < u32::MAX));
    }
}

#[test]
fn a_peer_may_send_before_connack_and_over_any_boundary_mqtt_7_1_1_1_and_7_0_0_2() {
    // and everything is taken in its order.
    let world = World::new();
    let mut watcher = world.subscriber(V311, "watcher", "early/#", 0);
    for version in BOTH {
        let mut client = world.dial();
        let bytes = [
            world.hello(version, "early").with(pair("a", "b")).bytes(),
            Publish::new("early/a", "1").qos(1, 1).bytes(version),
            Publish::new("early/a", "2").bytes(version),
        ]
        .concat();
        for part in bytes.chunks(3) {
            client.send(part);
        }
        assert_eq!(client.packet().connack(), Some(0));
        assert_eq!(client.packet().puback(), Some((1, 0)));
        assert_eq!(client.next(Duration::ZERO), Event::Silence);
        watcher.takes("1");
        watcher.takes("2");
    }
}
