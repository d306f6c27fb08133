//! The ends of connections: silence, slowness, changed tokens.

use super::*;
use crate::mqtt::ReasonCode;

#[test]
fn silence_closes_at_one_and_a_half_keep_alives_mqtt_3_1_2_24() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(5, "pump", Some(PUMP_TOKEN), 10));
    world.sent(conn);
    world.wait(Duration::from_millis(14_999));
    assert!(world.is_open(conn));
    world.wait(Duration::from_millis(1));
    assert_eq!(world.closed(conn), Some(CloseReason::KeepAliveTimeout));
    assert_eq!(world.sent(conn).get(2), Some(&0x8d));
}

#[test]
fn any_packet_proves_that_the_client_lives() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(4, "pump", Some(PUMP_TOKEN), 10));
    for _ in 0..5 {
        world.wait(Duration::from_secs(14));
        world.send(conn, &[0xc0, 0]);
    }
    assert!(world.is_open(conn));
}

#[test]
fn half_a_packet_proves_nothing() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(4, "pump", Some(PUMP_TOKEN), 10));
    for _ in 0..14 {
        world.wait(Duration::from_secs(1));
        world.send(conn, &[0x30, 100][..1]);
        if !world.is_open(conn) {
            break;
        }
    }
    world.wait(Duration::from_secs(1));
    assert!(!world.is_open(conn));
}

#[test]
fn without_keep_alive_the_longest_one_holds() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(4, "pump", Some(PUMP_TOKEN), 0));
    world.wait(Duration::from_secs(899));
    assert!(world.is_open(conn));
    world.wait(Duration::from_secs(1));
    assert_eq!(world.closed(conn), Some(CloseReason::KeepAliveTimeout));
}

#[test]
fn a_long_keep_alive_of_an_old_version_is_honoured() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(4, "pump", Some(PUMP_TOKEN), 3600));
    world.wait(Duration::from_secs(5399));
    assert!(world.is_open(conn));
}

#[test]
fn a_stall_of_our_own_is_not_held_against_clients() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect(4, "pump", Some(PUMP_TOKEN), 1));
    // The commit took two seconds; the ping lay in the socket and is read in the turn that notices.
    world.now.mono = world.now.mono + Duration::from_secs(2);
    world.send(conn, &[0xc0, 0]);
    world.broker.handle_timeout(world.now);
    assert!(world.is_open(conn));
}

#[test]
fn a_packet_begun_and_not_finished_closes_however_it_drips() {
    let mut world = World::new();
    let conn = world.pump();
    let bytes = publish(4, 1, &format!(r#"{{"a":"{}"}}"#, "x".repeat(100)));
    for byte in &bytes[..30] {
        world.send(conn, &[*byte]);
        world.wait(Duration::from_secs(1));
    }
    assert_eq!(world.closed(conn), Some(CloseReason::PacketTimeout));
}

#[test]
fn disconnect_closes_without_a_word() {
    let mut world = World::new();
    let conn = world.pump_v5();
    world.send(conn, &[0xe0, 0]);
    assert_eq!(world.closed(conn), Some(CloseReason::Disconnected));
    assert!(world.sent(conn).is_empty());
}

#[test]
fn session_expiry_cannot_be_raised_in_disconnect() {
    let mut world = World::new();
    let conn = world.pump_v5();
    world.send(conn, &[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    assert_eq!(world.closed(conn), Some(CloseReason::SessionExpiryRaised));
    assert_eq!(world.sent(conn).get(2), Some(&0x82));
}

#[test]
fn a_reason_that_only_a_server_may_give_is_a_protocol_error_and_the_others_are_taken() {
    // The column "sent by" of the standard's table of codes in DISCONNECT. [§3.14.2.1]
    let clients = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let servers = [0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2];
    for code in clients {
        let mut world = World::new();
        let conn = world.pump_v5();
        world.send(conn, &[0xe0, 1, code]);
        assert!(!world.is_open(conn) && world.sent(conn).is_empty(), "{code:#04x}");
    }
    for code in servers {
        let mut world = World::new();
        let conn = world.pump_v5();
        world.send(conn, &[0xe0, 1, code]);
        let reason = ReasonCode::from_byte(code).expect("a code of the table");
        assert_eq!(world.closed(conn), Some(CloseReason::ReasonOfServer(reason)), "{code:#04x}");
        assert_eq!(world.sent(conn).get(2), Some(&0x82), "{code:#04x}");
    }
}

#[test]
fn a_changed_token_closes_the_devices_connections_and_no_others() {
    let mut world = World::new();
    let pumps = [world.client(5, PUMP_TOKEN, "a"), world.client(4, PUMP_TOKEN, "b")];
    let fan = world.client(4, FAN_TOKEN, "fan");
    world.broker.handle_registry(vec![device(1, "pump", "ROTATED"), device(2, "fan", FAN_TOKEN)], world.now);
    for pump in pumps {
        assert_eq!(world.closed(pump), Some(CloseReason::CredentialsChanged));
    }
    assert_eq!(world.sent(pumps[0]).get(2), Some(&0x98));
    assert!(world.is_open(fan));
    let refused = world.accept();
    world.send(refused, &connect(4, "pump", Some(PUMP_TOKEN), 60));
    assert_eq!(world.sent(refused), [0x20, 2, 0, 5]);
    world.client(4, "ROTATED", "pump");
}

#[test]
fn malformed_packets_close_with_the_standards_code() {
    let table: [(&[u8], u8); 5] = [
        (&[0x36, 0], 0x81),                   // QoS 3
        (&[0x30, 0x80, 0], 0x81),             // remaining length not minimal
        (&[0x00, 0], 0x81),                   // type 0
        (&[0x32, 5, 0, 1, b'a', 0, 0], 0x81), // packet id 0, then no properties
        (&[0x80, 2, 0, 1], 0x81),             // SUBSCRIBE flags
    ];
    for (bytes, code) in table {
        let mut world = World::new();
        let conn = world.pump_v5();
        world.send(conn, bytes);
        assert!(matches!(world.closed(conn), Some(CloseReason::Malformed(_))), "{bytes:02x?}");
        let sent = world.sent(conn);
        assert!(sent[0] == 0xe0 && (sent[2] == code || sent[2] == 0x82), "{bytes:02x?}: {sent:02x?}");
    }
}

#[test]
fn a_client_that_takes_no_packet_of_our_size_is_closed() {
    let mut world = World::new();
    let conn = world.accept();
    world.send(conn, &connect_with(5, "pump", Some(PUMP_TOKEN), 60, 0x02, &[0x27, 0, 0, 0, 2]));
    assert_eq!(world.closed(conn), Some(CloseReason::AnswerTooLarge));
    assert!(world.sent(conn).is_empty());
}

#[test]
fn devices_seen_are_gathered_for_the_registry() {
    let mut world = World::new();
    world.pump();
    assert!(world.broker.poll_seen().is_none());
    world.wait(FIRST_SEEN_WAIT);
    assert_eq!(world.broker.poll_seen(), Some(vec![(IdentityId(1), Wall(1_700_000_000_000))]));
    assert!(world.broker.poll_seen().is_none());
}
