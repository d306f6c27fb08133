//! CONNECT: who is let in, who is not, and who must wait. [§3.1]

use super::*;
use crate::session::Refusal;

/// The return code of the CONNACK that answers `bytes`, and why the connection was closed.
fn answer(bytes: &[u8]) -> (Option<u8>, Option<CloseReason>) {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, bytes);
    let sent = world.sent(conn);
    (sent.get(3).copied(), world.closed(conn))
}

#[test]
fn a_token_lets_its_device_in_whatever_the_client_id_and_version() {
    for version in [3, 4, 5] {
        let (code, closed) = answer(&connect(version, "any client id", Some(PUMP_TOKEN), 60));
        assert_eq!((code, closed), (Some(0), None), "version {version}");
    }
}

#[test]
fn refusals_carry_the_hubs_codes_mqtt_3_2_2_5() {
    let table: [(&str, Option<&str>, Refusal, u8, u8); 4] = [
        ("id", Some("WRONG"), Refusal::UnknownToken, 0x05, 0x86),
        ("id", Some(""), Refusal::EmptyToken, 0x05, 0x86),
        ("id", None, Refusal::ClientIdOnly, 0x02, 0x85),
        ("", None, Refusal::Anonymous, 0x05, 0x87),
    ];
    for (client_id, token, refusal, v3, v5) in table {
        for (version, code) in [(4, v3), (5, v5)] {
            let got = answer(&connect(version, client_id, token, 60));
            assert_eq!(
                got,
                (Some(code), Some(CloseReason::Refused(refusal))),
                "{refusal:?} version {version}"
            );
        }
    }
}

#[test]
fn a_password_without_a_user_name_is_refused_in_version_5() {
    let mut body = b"\0\x04MQTT\x05\x42\0\x3c\0".to_vec();
    body.extend(string("id"));
    body.extend(string("secret"));
    assert_eq!(answer(&packet(0x10, &body)), (Some(0x86), Some(CloseReason::Refused(Refusal::PasswordOnly))));
}

#[test]
fn an_empty_client_id_needs_clean_session_mqtt_3_1_3_8() {
    let (code, _) = answer(&connect_with(4, "", Some(PUMP_TOKEN), 60, 0, &[]));
    assert_eq!(code, Some(0x02));
    let (code, _) = answer(&connect(4, "", Some(PUMP_TOKEN), 60));
    assert_eq!(code, Some(0x00));
}

#[test]
fn version_5_is_told_its_assigned_client_id_mqtt_3_2_2_16() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(5, "", Some(PUMP_TOKEN), 60));
    let connack = String::from_utf8_lossy(&world.sent(conn)).into_owned();
    assert!(connack.contains("auto-"), "{connack:?}");
}

#[test]
fn a_version_3_1_client_id_has_1_to_23_bytes() {
    assert_eq!(answer(&connect(3, "", Some(PUMP_TOKEN), 60)).0, Some(2));
    assert_eq!(answer(&connect(3, &"x".repeat(24), Some(PUMP_TOKEN), 60)).0, Some(2));
    assert_eq!(answer(&connect(3, &"x".repeat(23), Some(PUMP_TOKEN), 60)).0, Some(0));
}

#[test]
fn other_protocol_levels_are_told_so_mqtt_3_1_2_2() {
    for (level, bytes) in [(2, &[0x20, 2, 0, 1][..]), (6, &[0x20, 3, 0, 0x84, 0]), (0x84, &[0x20, 2, 0, 1])] {
        let mut world = World::new();
        let conn = world.accept();
        world.send(conn, &connect(level, "id", Some(PUMP_TOKEN), 60));
        assert_eq!(world.sent(conn), bytes, "level {level}");
        assert_eq!(world.closed(conn), Some(CloseReason::Refused(Refusal::ProtocolLevel(level))));
    }
}

#[test]
fn after_a_refused_connect_nothing_is_processed_mqtt_3_1_4_5() {
    let mut world = World::new();
    let conn = world.accept();
    let bytes = [connect(4, "id", Some("WRONG"), 60), publish(4, 1, r#"{"a":1}"#)].concat();
    world.send(conn, &bytes);
    assert!(!world.commit());
    assert_eq!(world.sent(conn), [0x20, 2, 0, 5]);
}

#[test]
fn connect_and_publish_in_one_segment_are_served_in_order() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &[connect(4, "id", Some(PUMP_TOKEN), 60), publish(4, 9, r#"{"a":1}"#)].concat());
    assert!(world.commit());
    assert_eq!(world.sent(conn), [&[0x20, 2, 0, 0][..], &puback(9)].concat());
}

#[test]
fn the_first_packet_must_be_connect_mqtt_3_1_0_1() {
    for bytes in
        [&[0xc0, 0][..], &[0xe0, 0], &[0x40, 2, 0, 1], &[0x62, 2, 0, 1], &[0x82, 6, 0, 1, 0, 1, b'a', 0]]
    {
        let (code, closed) = answer(bytes);
        assert_eq!(code, None);
        assert!(matches!(closed, Some(CloseReason::FirstPacketNotConnect(_))), "{bytes:02x?}: {closed:?}");
    }
}

#[test]
fn a_second_connect_closes_the_connection_mqtt_3_1_0_2() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &connect(4, "pump", Some(PUMP_TOKEN), 60));
    assert_eq!(world.closed(conn), Some(CloseReason::SecondConnect));
}

#[test]
fn an_oversized_connect_is_refused_from_its_header_alone() {
    let (code, closed) = answer(&[0x10, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!((code, closed), (None, Some(CloseReason::PacketTooLarge)));
}

#[test]
fn tls_and_http_on_the_plain_listener_are_named() {
    assert_eq!(answer(&[0x16, 3, 1, 2, 0, 1]).1, Some(CloseReason::TlsOnPlainListener));
    assert_eq!(answer(b"GET / HTTP/1.1\r\n").1, Some(CloseReason::HttpOnMqttListener));
    assert_eq!(answer(b"POST / HTTP/1.1\r\n").1, Some(CloseReason::HttpOnMqttListener));
}

#[test]
fn no_connect_in_time_closes_the_connection() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &[0x10]);
    world.wait(Duration::from_millis(9_999));
    assert!(world.is_open(conn));
    world.wait(Duration::from_millis(1));
    assert_eq!(world.closed(conn), Some(CloseReason::ConnectTimeout));
}

#[test]
fn the_same_client_id_takes_over_mqtt_3_1_4_2() {
    let mut world = World::new();
    let old = world.pump_v5();
    let new = world.pump_v5();
    assert_eq!(world.closed(old), Some(CloseReason::TakenOver));
    assert_eq!(world.sent(old).get(2), Some(&0x8e));
    assert!(world.is_open(new));
}

#[test]
fn another_devices_client_id_takes_nothing_over() {
    let mut world = World::new();
    let pump = world.client(4, PUMP_TOKEN, "same id");
    let fan = world.client(4, FAN_TOKEN, "same id");
    assert!(world.is_open(pump) && world.is_open(fan));
}

#[test]
fn beyond_connections_per_device_the_oldest_goes() {
    let mut world = World::new();
    let conns: Vec<ConnId> = (0..5).map(|n| world.client(4, PUMP_TOKEN, &format!("id {n}"))).collect();
    assert_eq!(world.closed(conns[0]), Some(CloseReason::TooManyOfIdentity));
    assert!(conns[1..].iter().all(|conn| world.is_open(*conn)));
}

#[test]
fn beyond_connections_per_client_the_oldest_goes() {
    let mut world = World::with_limits(|limits| limits.connections_per_client = 3);
    let conns: Vec<ConnId> = (0..4).map(|n| world.client(4, PANEL_TOKEN, &format!("id {n}"))).collect();
    assert_eq!(world.closed(conns[0]), Some(CloseReason::TooManyOfIdentity));
    assert!(conns[1..].iter().all(|conn| world.is_open(*conn)));
}

#[test]
fn connections_beyond_the_bounds_are_closed_and_their_slots_freed() {
    let mut world = World::with_limits(|limits| {
        limits.connections = 2;
        limits.connections_per_address = 100;
    });
    let first = world.pump();
    let second = world.accept();
    let third = world.accept();
    assert_eq!(world.closed(third), Some(CloseReason::TooManyConnections));
    world.broker.handle_closed(third);
    assert!(world.is_open(first) && world.is_open(second));
    world.broker.handle_disconnected(second, CloseReason::PeerClosed, world.now);
    world.broker.handle_closed(second);
    let fourth = world.accept();
    assert!(world.is_open(fourth));
}

#[test]
fn one_address_cannot_take_all_connections() {
    let mut world = World::with_limits(|limits| limits.connections_per_address = 1);
    let first = world.accept();
    let second = world.accept();
    let other = world.accept_from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(world.closed(second), Some(CloseReason::TooManyFromAddress));
    assert!(world.is_open(first) && world.is_open(other));
}

#[test]
fn connections_without_connect_make_room_once_patience_is_used_up() {
    let mut world = World::with_limits(|limits| limits.connections_unauthenticated = 2);
    let idle = world.accept();
    world.accept();
    assert!(!world.broker.admits_more(world.now));
    world.wait(PATIENCE);
    assert!(world.broker.admits_more(world.now));
    let third = world.accept();
    assert_eq!(world.closed(idle), Some(CloseReason::MadeRoom));
    assert!(world.is_open(third));
}

#[test]
fn an_address_that_guesses_waits_and_a_device_behind_it_still_gets_in() {
    let mut world = World::new();
    for _ in 0..10 {
        let conn = world.accept();
        world.send(conn, &connect(4, "id", Some("GUESS"), 60));
        assert!(world.closed(conn).is_some());
        world.broker.handle_closed(conn);
    }
    let conn = world.accept();
    let connect_bytes = connect(4, "pump", Some(PUMP_TOKEN), 60);
    let (head, tail) = connect_bytes.split_at(5);
    world.send(conn, head);
    world.send(conn, &[tail, &publish(4, 1, r#"{"a":1}"#)].concat());
    assert!(world.sent(conn).is_empty() && !world.broker.wants_bytes(conn));
    world.wait(Duration::from_millis(100));
    assert_eq!(world.sent(conn), [0x20, 2, 0, 0]);
    assert!(world.commit());
    assert_eq!(world.sent(conn), puback(1));
}

#[test]
fn a_connect_cut_anywhere_is_served_when_it_is_whole() {
    let bytes = [connect(4, "pump", Some(PUMP_TOKEN), 60), publish(4, 1, r#"{"a":1}"#)].concat();
    for cut in 1..bytes.len() {
        let mut world = World::new();
        let conn = world.accept();
        world.send(conn, &bytes[..cut]);
        world.send(conn, &bytes[cut..]);
        assert!(world.commit(), "cut at {cut}");
        assert_eq!(world.sent(conn), [&[0x20, 2, 0, 0][..], &puback(1)].concat(), "cut at {cut}");
    }
}

#[test]
fn version_5_is_told_the_terms() {
    let mut world = World::new();
    let conn = world.accept();
    let wishes = [0x11, 0, 0, 0x0E, 0x11]; // Session Expiry Interval 3601 s
    world.send(conn, &connect_with(5, "pump", Some(PUMP_TOKEN), 0, 0x02, &wishes));
    let connack = world.sent(conn);
    let has = |bytes: &[u8]| connack.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(&[0x11, 0, 0, 0x0E, 0x10]), "session expiry of an hour: {connack:02x?}");
    assert!(has(&[0x21, 0, 20]), "receive maximum: {connack:02x?}");
    assert!(!has(&[0x24, 1]), "every QoS: {connack:02x?}");
    assert!(!has(&[0x25]), "messages are retained: {connack:02x?}");
    assert!(has(&[0x22, 0, 20]), "topic alias maximum: {connack:02x?}");
    assert!(has(&[0x27, 0, 1, 0, 0]), "maximum packet size: {connack:02x?}");
    assert!(has(&[0x13, 2, 88]), "server keep alive: {connack:02x?}");
}

#[test]
fn enhanced_authentication_is_refused() {
    let (code, _) = answer(&connect_with(5, "pump", Some(PUMP_TOKEN), 60, 0x02, &[0x15, 0, 1, b'x']));
    assert_eq!(code, Some(0x8c));
}

fn connect_with_will(version: u8, topic: &str, qos: u8) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([version, 0x86 | qos << 3, 0, 60]);
    if version == 5 {
        body.push(0);
    }
    body.extend(string("pump"));
    if version == 5 {
        body.push(0);
    }
    body.extend(string(topic));
    body.extend(string(r#"{"gone":true}"#));
    body.extend(string(PUMP_TOKEN));
    packet(0x10, &body)
}

#[test]
fn a_will_outside_the_devices_rights_is_refused() {
    for topic in ["$SYS/x", "v1/gateway/telemetry", "v1/devices/me/attributes", "home/light"] {
        assert_eq!(answer(&connect_with_will(4, topic, 0)).0, Some(0x05), "{topic}");
        assert_eq!(answer(&connect_with_will(5, topic, 0)).0, Some(0x87), "{topic}");
    }
    assert_eq!(answer(&connect_with_will(5, "v1/devices/me/telemetry", 2)).0, Some(0x00));
}

#[test]
fn a_will_is_stored_unless_the_client_said_goodbye_mqtt_3_1_2_8() {
    for (goodbye, stored) in [(true, 0), (false, 1)] {
        let mut world = World::new();
        let conn = world.accept();
        world.send(conn, &connect_with_will(4, "v1/devices/me/telemetry", 1));
        if goodbye {
            world.send(conn, &[0xe0, 0]);
        } else {
            world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
        }
        world.wait(Duration::from_millis(200));
        world.commit();
        assert_eq!(world.stored.len(), stored, "goodbye: {goodbye}");
    }
}

#[test]
fn disconnect_with_will_publishes_the_will() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect_with_will(5, "v1/devices/me/telemetry", 1));
    world.send(conn, &[0xe0, 2, 0x04, 0]);
    world.wait(Duration::from_millis(200));
    world.commit();
    assert_eq!(world.values(), [r#"{"gone":true}"#]);
}

#[test]
fn a_connect_is_expected_of_those_who_have_bytes_or_whose_wait_is_over() {
    let mut world = World::with_limits(|limits| limits.refusals_per_address = 1);
    let pump = world.pump();
    assert!(!world.broker.expects_connect(&[pump], world.now), "everybody is in");
    let silent = world.accept();
    assert!(!world.broker.expects_connect(&[pump], world.now), "nobody new says anything");
    assert!(world.broker.expects_connect(&[pump, silent], world.now));
    for _ in 0..2 {
        let guesser = world.accept();
        world.send(guesser, &connect(4, "guesser", Some("WRONG"), 60));
    }
    assert!(!world.broker.expects_connect(&[], world.now), "the second guess waits");
    world.now.mono = world.now.mono + Duration::from_secs(1);
    assert!(world.broker.expects_connect(&[], world.now), "its wait is over");
}
