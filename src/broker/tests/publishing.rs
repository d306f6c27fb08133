//! PUBLISH: stored, set aside, answered or blamed. [§3.3]

use super::*;
use crate::mqtt::PacketType;

#[test]
fn puback_leaves_after_the_commit_and_not_before_mqtt_4_3_2_2() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &publish(4, 7, r#"{"temperature":25}"#));
    assert!(world.sent(conn).is_empty());
    assert!(world.commit());
    assert_eq!(world.sent(conn), puback(7));
    assert_eq!(world.values(), [r#"{"temperature":25}"#]);
    assert_eq!(world.stored[0].device.as_str(), "pump");
    assert_eq!(world.stored[0].seq, Seq(1));
}

#[test]
fn the_shell_takes_the_quotes_and_the_reading_is_stored_all_the_same() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &publish(4, 1, "{temperature:25}"));
    world.commit();
    assert_eq!(world.values(), [r#"{"temperature":25}"#]);
}

#[test]
fn one_commit_serves_everybody_who_published_in_the_turn() {
    let mut world = World::new();
    let pump = world.pump();
    let fan = world.client(5, FAN_TOKEN, "fan");
    world.send(pump, &[publish(4, 1, r#"{"a":1}"#), publish(4, 2, r#"{"a":2}"#)].concat());
    world.send(fan, &publish(5, 1, r#"{"b":1}"#));
    assert!(world.commit());
    assert!(!world.commit());
    assert_eq!(world.sent(pump), [puback(1), puback(2)].concat());
    assert_eq!(world.sent(fan), puback(1));
    assert_eq!(world.stored.iter().map(|r| r.seq.0).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn an_array_is_one_unit_with_one_answer() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &publish(4, 1, r#"[{"a":1},{"ts":1700000000000,"values":{"b":2}}]"#));
    world.commit();
    assert_eq!(world.sent(conn), puback(1));
    assert_eq!(world.values(), [r#"{"a":1}"#, r#"{"b":2}"#]);
    assert_eq!(world.stored[1].device_ts, Some(1_700_000_000_000));
}

#[test]
fn a_repeated_publish_is_stored_again_mqtt_4_3_2_2() {
    let mut world = World::new();
    let conn = world.pump();
    for dup in [0x32, 0x3a] {
        let mut bytes = publish(4, 7, r#"{"a":1}"#);
        bytes[0] = dup;
        world.send(conn, &bytes);
        world.commit();
        assert_eq!(world.sent(conn), puback(7));
    }
    assert_eq!(world.stored.len(), 2);
}

#[test]
fn an_empty_message_is_answered_and_nothing_is_stored() {
    let mut world = World::new();
    let conn = world.pump();
    for payload in ["{}", "[]", r#"{"a":null}"#] {
        world.send(conn, &publish(4, 3, payload));
        assert_eq!(world.sent(conn), puback(3), "{payload}");
    }
    assert!(!world.commit());
}

#[test]
fn an_answer_that_waits_for_nothing_still_keeps_its_place_mqtt_4_6_0_2() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(
        conn,
        &[publish(4, 1, r#"{"a":1}"#), publish(4, 2, "{}"), publish_to("v1/x", 4, 3, "")].concat(),
    );
    assert!(world.sent(conn).is_empty());
    world.commit();
    assert_eq!(world.sent(conn), [puback(1), puback(2), puback(3)].concat());
}

#[test]
fn qos_0_is_stored_after_commit_wait_at_the_latest() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &publish(4, 0, r#"{"a":1}"#));
    assert!(!world.commit());
    world.wait(Duration::from_millis(199));
    assert!(!world.commit());
    world.wait(Duration::from_millis(1));
    assert!(world.commit());
    assert_eq!(world.values(), [r#"{"a":1}"#]);
}

#[test]
fn a_malformed_payload_is_set_aside_and_answered() {
    for (version, answer) in [(4, puback(5).to_vec()), (5, vec![0x40])] {
        let mut world = World::new();
        let conn = world.client(version, PUMP_TOKEN, "pump");
        world.send(conn, &publish(version, 5, "{temperature:25"));
        assert!(world.sent(conn).is_empty(), "the answer waits for the quarantine to be on disk");
        world.commit();
        let sent = world.sent(conn);
        assert!(sent.starts_with(&answer), "{sent:02x?}");
        assert!(version == 4 || sent[4] == 0x99, "{sent:02x?}");
        assert!(world.stored.is_empty() && world.is_open(conn));
        assert_eq!(world.quarantined[0].payload, b"{temperature:25");
    }
}

#[test]
fn an_unserved_hub_topic_is_answered_with_0x90_or_plainly() {
    for topic in ["v1/devices/me/nothing", "v2/x", "v1/gateway/claim", "/provision/request"] {
        let mut world = World::new();
        let (old, new) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
        world.send(old, &publish_to(topic, 4, 1, "{}"));
        world.send(new, &publish_to(topic, 5, 1, "{}"));
        assert_eq!(world.sent(old), puback(1), "{topic}");
        assert_eq!(world.sent(new), [0x40, 3, 0, 1, 0x90], "{topic}");
    }
}

#[test]
fn a_topic_outside_the_devices_rights_is_refused_never_silently_mqtt_3_3_5_2() {
    for topic in ["home/light", "$SYS/x", "$", "devices/fan/telemetry", "v1"] {
        let mut world = World::new();
        let (old, new) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
        world.send(old, &publish_to(topic, 4, 1, "{}"));
        world.send(new, &publish_to(topic, 5, 1, "{}"));
        assert_eq!(world.closed(old), Some(CloseReason::TopicNotAllowed), "{topic}");
        assert_eq!(world.sent(new), [0x40, 3, 0, 1, 0x87], "{topic}");
    }
}

#[test]
fn qos_2_is_stored_once_however_often_it_is_sent_mqtt_4_3_3_10() {
    for version in [4, 5] {
        let mut world = World::new();
        let conn = world.client(version, PUMP_TOKEN, "pump");
        let mut bytes = publish(version, 1, r#"{"a":1}"#);
        bytes[0] = 0x34;
        world.send(conn, &bytes);
        assert!(world.sent(conn).is_empty(), "PUBREC waits for the disk");
        world.commit();
        assert_eq!(world.sent(conn), [0x50, 2, 0, 1]);
        bytes[0] = 0x3C;
        world.send(conn, &bytes);
        assert_eq!(world.sent(conn), [0x50, 2, 0, 1]);
        for _ in 0..2 {
            world.send(conn, &[0x62, 2, 0, 1]);
            let pubcomp = world.sent(conn);
            assert_eq!(pubcomp[..1], [0x70]);
        }
        world.commit();
        assert_eq!(world.values(), [r#"{"a":1}"#]);
        bytes[0] = 0x34;
        world.send(conn, &bytes);
        world.commit();
        assert_eq!(world.values().len(), 2, "a released identifier names another message");
    }
}

#[test]
fn receive_maximum_is_enforced_for_version_5_mqtt_3_3_4_7() {
    let mut world = World::new();
    let conn = world.pump_v5();
    for id in 1..=20 {
        world.send(conn, &publish(5, id, r#"{"a":1}"#));
    }
    assert!(world.is_open(conn));
    world.send(conn, &publish(5, 21, r#"{"a":1}"#));
    assert_eq!(world.closed(conn), Some(CloseReason::ReceiveMaximumExceeded));
    assert_eq!(world.sent(conn).get(2), Some(&0x93));
}

#[test]
fn unknown_topic_aliases_and_subscription_identifiers_are_refused() {
    let table = [
        (&[0x23, 0, 21][..], CloseReason::TopicAliasInvalid),
        (&[0x0b, 1], CloseReason::SubscriptionIdentifierInPublish),
    ];
    for (properties, reason) in table {
        let mut world = World::new();
        let conn = world.pump_v5();
        let mut body = string("v1/devices/me/telemetry");
        body.push(properties.len() as u8);
        body.extend(properties);
        body.extend(b"{}");
        world.send(conn, &packet(0x30, &body));
        assert_eq!(world.closed(conn), Some(reason));
    }
}

#[test]
fn topics_over_the_bounds_close_the_connection() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &publish_to(&"x".repeat(1025), 4, 1, "{}"));
    assert_eq!(world.closed(conn), Some(CloseReason::TopicTooLong));
    let conn = world.pump();
    world.send(conn, &publish_to(&"/".repeat(32), 4, 1, "{}"));
    assert_eq!(world.closed(conn), Some(CloseReason::TopicTooLong));
}

#[test]
fn a_packet_over_the_bound_is_refused_from_its_header() {
    let mut world = World::new();
    let conn = world.pump_v5();
    world.send(conn, &[0x30, 0xff, 0xff, 0x7f]);
    assert_eq!(world.closed(conn), Some(CloseReason::PacketTooLarge));
    assert_eq!(world.sent(conn).get(2), Some(&0x95));
}

#[test]
fn packets_that_only_a_server_sends_close_the_connection() {
    for (bytes, kind) in [
        (&[0x20, 2, 0, 0][..], PacketType::ConnAck),
        (&[0x90, 3, 0, 1, 0], PacketType::SubAck),
        (&[0xb0, 2, 0, 1], PacketType::UnsubAck),
        (&[0xd0, 0], PacketType::PingResp),
    ] {
        let mut world = World::new();
        let conn = world.pump();
        world.send(conn, bytes);
        assert_eq!(world.closed(conn), Some(CloseReason::UnexpectedPacket(kind)));
    }
}

#[test]
fn acks_for_nothing_are_harmless_before_version_5() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &[[0x40, 2, 0, 9], [0x50, 2, 0, 9], [0x70, 2, 0, 9]].concat());
    world.send(conn, &[0x62, 2, 0, 9]);
    // PUBREC and PUBREL are answered, so that the client can end its side of the exchange.
    assert_eq!(world.sent(conn), [0x62, 2, 0, 9, 0x70, 2, 0, 9]);
    assert!(world.is_open(conn));
}

#[test]
fn pingreq_is_answered_while_acks_wait_mqtt_3_12_4_1() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &[&publish(4, 1, r#"{"a":1}"#)[..], &[0xc0, 0]].concat());
    assert_eq!(world.sent(conn), [0xd0, 0]);
}

#[test]
fn every_filter_of_a_subscribe_has_a_code_of_its_own_mqtt_3_8_4_5() {
    let filters: Vec<u8> = ["v1/devices/me/rpc/request/1", "#", "$share/g/t"]
        .iter()
        .flat_map(|f| [string(f), vec![1]].concat())
        .collect();
    let mut world = World::new();
    let (old, new) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
    world.send(old, &packet(0x82, &[&[0, 7][..], &filters].concat()));
    world.send(new, &packet(0x82, &[&[0, 7, 0][..], &filters].concat()));
    assert_eq!(world.sent(old), [0x90, 5, 0, 7, 0x80, 0x80, 0x80]);
    assert_eq!(world.sent(new), [0x90, 6, 0, 7, 0, 0x8f, 0x87, 0x87]);
}

#[test]
fn unsubscribe_is_answered_although_nothing_was_subscribed_mqtt_3_10_4_5() {
    let mut world = World::new();
    let (old, new) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
    world.send(old, &packet(0xa2, &[&[0, 7][..], &string("a")].concat()));
    world.send(new, &packet(0xa2, &[&[0, 7, 0][..], &string("a"), &string("b")].concat()));
    assert_eq!(world.sent(old), [0xb0, 2, 0, 7]);
    assert_eq!(world.sent(new), [0xb0, 5, 0, 7, 0, 0x11, 0x11]);
}

#[test]
fn a_reader_that_never_reads_is_not_read_from() {
    let mut world = World::with_limits(|limits| limits.outbox_bytes = 1024);
    let conn = world.pump();
    for _ in 0..512 {
        world.send(conn, &[0xc0, 0]);
    }
    assert!(!world.broker.wants_bytes(conn));
    world.sent(conn);
    assert!(world.broker.wants_bytes(conn));
}

#[test]
fn a_full_batch_is_committed_before_more_is_read() {
    let mut world = World::with_limits(|limits| limits.commit_records = 2);
    let (pump, fan) = (world.pump(), world.client(4, FAN_TOKEN, "fan"));
    world.send(pump, &[publish(4, 0, r#"{"a":1}"#), publish(4, 0, r#"{"a":2}"#)].concat());
    assert!(world.broker.is_commit_urgent() && !world.broker.wants_bytes(fan));
    assert!(world.commit());
    assert!(world.broker.wants_bytes(fan));
}

#[test]
fn messages_of_one_turn_have_milliseconds_of_their_own_and_the_readings_of_one_message_have_one_together() {
    let mut world = World::new();
    let (pump, fan) = (world.pump(), world.client(4, FAN_TOKEN, "fan"));
    let own = r#"{"ts":1700000000000,"values":{"a":1}}"#;
    for (n, payload) in (1..).zip([r#"{"a":1}"#, r#"[{"a":2},{"a":3}]"#, own, r#"{"a":4}"#]) {
        world.send(pump, &publish(4, n, payload));
    }
    world.send(fan, &publish(4, 1, r#"{"a":1}"#));
    world.commit();
    let at_ms = |record: &Record| record.received.as_millis() - world.now.mono.as_millis();
    assert_eq!(world.stored.iter().map(at_ms).collect::<Vec<_>>(), [0, 1, 1, 0, 2, 0]);
    // What is ahead stays ahead after the commit.
    world.send(pump, &publish(4, 5, r#"{"a":5}"#));
    world.commit();
    assert_eq!(world.stored[6].received.as_millis(), world.now.mono.as_millis() + 3);
}
