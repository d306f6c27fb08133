//! Sessions that outlive their connection, and the broker.

use super::{
    delivering::{message, subscribe},
    *,
};

const QOS1_RETAIN: u8 = 0x03;

/// The properties of a CONNECT that asks for a session of this many seconds.
fn expiry(seconds: u32) -> Vec<u8> {
    [&[0x11][..], &seconds.to_be_bytes()].concat()
}

impl World {
    /// A local client that wants to find its session again; gives what the broker said after the CONNACK.
    fn durable(&mut self, version: u8, client_id: &str) -> (ConnId, bool, Vec<u8>) {
        let conn = self.accept();
        let properties = if version == 5 { expiry(1000) } else { Vec::new() };
        self.send(conn, &connect_with(version, client_id, Some(PANEL_TOKEN), 60, 0x00, &properties));
        self.commit();
        let said = self.sent(conn);
        assert_eq!((said[0], said[3]), (0x20, 0), "not let in: {said:02x?}");
        let rest = said[2 + usize::from(said[1])..].to_vec();
        (conn, said[2] == 1, rest)
    }

    /// A durable subscriber to `filter`; its SUBACK was read.
    fn durable_subscriber(&mut self, version: u8, client_id: &str, filter: &str, qos: u8) -> ConnId {
        let (conn, _, _) = self.durable(version, client_id);
        self.send(conn, &subscribe(version, 1, filter, qos));
        assert!(self.sent(conn).is_empty(), "SUBACK waits for the disk");
        assert!(self.commit());
        assert_eq!(self.sent(conn).last(), Some(&qos));
        conn
    }

    fn drop_connection(&mut self, conn: ConnId) {
        self.broker.handle_disconnected(conn, CloseReason::PeerClosed, self.now);
        self.commit();
    }
}

#[test]
fn a_session_is_found_again_with_its_subscriptions_even_after_a_restart_mqtt_3_1_2_5() {
    for version in [3, 4, 5] {
        let mut world = World::new();
        let conn = world.durable_subscriber(version, "sub", "a", 1);
        world.drop_connection(conn);
        let (conn, present, _) = world.durable(version, "sub");
        assert_eq!(present, version != 3 || present, "version 3 has no such flag");
        world.drop_connection(conn);
        world.restart();
        let (conn, _, _) = world.durable(version, "sub");
        let publisher = world.panel(4, "pub");
        world.send(publisher, &message(4, 0x02, 9, "a", &[], "x"));
        assert!(world.sent(publisher).is_empty() && world.sent(conn).is_empty(), "nothing is on disk");
        assert!(world.commit());
        assert_eq!(world.sent(publisher), puback(9));
        assert_eq!(world.sent(conn), message(version, 0x02, 1, "a", &[], "x"));
    }
}

#[test]
fn what_comes_while_the_client_is_away_waits_in_order_and_qos_0_does_not_mqtt_4_4_0_1() {
    let mut world = World::new();
    let conn = world.durable_subscriber(4, "sub", "a/#", 2);
    world.drop_connection(conn);
    let publisher = world.panel(4, "pub");
    for (flags, id, text) in [(0x02, 1, "one"), (0x00, 0, "zero"), (0x04, 2, "two"), (0x02, 3, "three")] {
        world.send(publisher, &message(4, flags, id, "a/b", &[], text));
    }
    world.commit();
    world.restart();
    let (conn, present, said) = world.durable(4, "sub");
    assert!(present);
    let all = [
        message(4, 0x02, 1, "a/b", &[], "one"),
        message(4, 0x04, 2, "a/b", &[], "two"),
        message(4, 0x02, 3, "a/b", &[], "three"),
    ];
    assert_eq!(said, all.concat());
    world.send(conn, &puback(1));
    world.send(conn, &[0x50, 2, 0, 2]);
    assert!(world.sent(conn).is_empty(), "PUBREL waits for the disk");
    world.commit();
    assert_eq!(world.sent(conn), [0x62, 2, 0, 2]);
    // The same identifiers, in the same order, to whoever has not answered. [MQTT-4.4.0-1]
    for _ in 0..2 {
        world.restart();
        let (conn, present, again) = world.durable(4, "sub");
        assert!(present);
        assert_eq!(again, [&[0x62, 2, 0, 2][..], &message(4, 0x0A, 3, "a/b", &[], "three")].concat());
        assert!(world.is_open(conn));
    }
}

#[test]
fn a_clean_start_and_a_session_that_is_over_begin_anew_mqtt_3_1_2_4() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    world.wait(Duration::from_secs(999));
    let (conn, present, _) = world.durable(5, "sub");
    assert!(present);
    world.drop_connection(conn);
    world.wait(Duration::from_secs(1000));
    let (conn, present, _) = world.durable(5, "sub");
    assert!(!present, "its time was over");
    world.drop_connection(conn);
    let conn = world.panel(5, "sub");
    world.drop_connection(conn);
    let (_, present, _) = world.durable(5, "sub");
    assert!(!present, "it was discarded");
}

#[test]
fn the_time_without_a_connection_counts_over_restarts() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    world.wait(Duration::from_secs(600));
    world.commit();
    world.restart();
    world.wait(Duration::from_secs(399));
    world.commit();
    world.restart();
    assert_eq!(world.durable.recovered().sessions.len(), 1);
    world.wait(Duration::from_secs(1));
    world.wait(Duration::from_secs(1));
    world.commit();
    assert!(world.durable.recovered().sessions.is_empty());
}

#[test]
fn qos_2_from_a_durable_client_is_taken_once_over_a_restart_mqtt_4_3_3_10() {
    let mut world = World::new();
    let subscriber = world.durable_subscriber(4, "sub", "a", 2);
    let (publisher, ..) = world.durable(4, "pub");
    world.send(publisher, &message(4, 0x04, 5, "a", &[], "x"));
    assert!(world.sent(publisher).is_empty(), "PUBREC waits for the disk");
    world.commit();
    assert_eq!(world.sent(publisher), [0x50, 2, 0, 5]);
    assert_eq!(world.sent(subscriber), message(4, 0x04, 1, "a", &[], "x"));
    world.restart();
    let (publisher, ..) = world.durable(4, "pub");
    world.send(publisher, &message(4, 0x0C, 5, "a", &[], "x"));
    world.commit();
    assert_eq!(world.sent(publisher), [0x50, 2, 0, 5]);
    world.send(publisher, &[0x62, 2, 0, 5]);
    world.commit();
    assert_eq!(world.sent(publisher), [0x70, 2, 0, 5]);
    let (_, _, again) = world.durable(4, "sub");
    assert_eq!(again, message(4, 0x0C, 1, "a", &[], "x"), "one delivery, begun before");
    world.send(publisher, &message(4, 0x04, 5, "a", &[], "y"));
    world.commit();
    assert_eq!(world.sent(publisher), [0x50, 2, 0, 5], "the identifier is free again");
}

#[test]
fn readings_go_to_a_durable_subscriber_with_the_commit_that_stores_them() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "devices/+/telemetry", 1);
    let passing = world.subscriber(5, "passing", "devices/#", 1);
    let pump = world.pump();
    world.send(pump, &publish(4, 1, r#"{"a":1}"#));
    assert!(world.commit());
    assert_eq!(world.sent(pump), puback(1));
    assert_eq!(world.durable.recovered().messages.len(), 1, "one transaction");
    let telemetry = message(5, 0x02, 1, "devices/pump/telemetry", &[], r#"{"a":1}"#);
    assert_eq!(world.sent(conn), telemetry);
    assert_eq!(world.sent(passing), telemetry);
    world.send(conn, &puback(1));
    world.wait(Duration::from_secs(1));
    world.commit();
    assert_eq!(world.durable.recovered().messages.len(), 0);
}

#[test]
fn a_queue_that_is_full_ends_the_session_so_that_the_client_learns_it() {
    let mut world = World::with_limits(|limits| limits.client_queue_messages = 2);
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    let publisher = world.panel(4, "pub");
    for id in 1..=3 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], "x"));
    }
    world.commit();
    let (_, present, _) = world.durable(5, "sub");
    assert!(!present);
    assert!(world.durable.recovered().messages.is_empty());
}

#[test]
fn what_expires_while_it_waits_is_not_delivered_mqtt_3_3_2_5() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    let publisher = world.panel(5, "pub");
    world.send(publisher, &message(5, 0x02, 1, "a", &[0x02, 0, 0, 0, 5], "short"));
    world.send(publisher, &message(5, 0x02, 2, "a", &[0x02, 0, 0, 0, 50], "long"));
    world.commit();
    world.restart();
    world.wait(Duration::from_secs(10));
    let (_, _, said) = world.durable(5, "sub");
    assert_eq!(said, message(5, 0x02, 1, "a", &[0x02, 0, 0, 0, 40], "long"));
}

#[test]
fn a_smaller_receive_maximum_holds_for_what_is_sent_again_mqtt_3_3_4_9() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    let publisher = world.panel(4, "pub");
    for id in 1..=3 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], "x"));
    }
    world.commit();
    world.sent(conn);
    world.drop_connection(conn);
    let conn = world.accept();
    let properties = [expiry(1000), vec![0x21, 0, 1]].concat();
    world.send(conn, &connect_with(5, "sub", Some(PANEL_TOKEN), 60, 0x00, &properties));
    let said = world.sent(conn);
    assert_eq!(said[2 + usize::from(said[1])..], message(5, 0x0A, 1, "a", &[], "x"));
    world.send(conn, &puback(1));
    assert_eq!(world.sent(conn), message(5, 0x0A, 2, "a", &[], "x"));
}

#[test]
fn a_will_with_a_delay_waits_for_the_client_mqtt_3_1_3_9() {
    let will = |world: &mut World| {
        let conn = world.accept();
        let mut body = [string("MQTT"), vec![5, 0x84, 0, 60]].concat();
        body.push(5);
        body.extend(expiry(100));
        body.extend([5, 0x18, 0, 0, 0, 30]);
        let parts = [string("dying"), vec![], string("gone"), string("bye"), string(PANEL_TOKEN)];
        let mut parts = parts.concat();
        // The client id stands before the will's properties.
        let id = string("dying");
        parts.drain(..id.len());
        let properties = body.split_off(body.len() - 6);
        body.extend(id);
        body.extend(properties);
        body.extend(parts);
        world.send(conn, &packet(0x10, &body));
        assert_eq!(world.sent(conn)[3], 0);
        world.drop_connection(conn);
    };
    let mut world = World::new();
    let watcher = world.subscriber(4, "watcher", "gone", 0);
    will(&mut world);
    world.wait(Duration::from_secs(29));
    will(&mut world);
    world.wait(Duration::from_secs(29));
    assert!(world.sent(watcher).is_empty(), "the client was back in time");
    world.restart();
    let watcher = world.subscriber(4, "watcher", "gone", 0);
    world.wait(Duration::from_secs(1));
    assert_eq!(world.sent(watcher), message(4, 0, 0, "gone", &[], "bye"));
    world.commit();
    world.restart();
    let watcher = world.subscriber(4, "watcher", "gone", 0);
    world.wait(Duration::from_secs(100));
    assert!(world.sent(watcher).is_empty(), "once");
}

#[test]
fn a_revoked_token_ends_the_sessions_that_wait() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    let mut rotated = identities();
    rotated[2].token_hash = TokenHash::of("ANOTHER");
    world.broker.handle_registry(rotated, world.now);
    world.wait(Duration::from_secs(1));
    world.commit();
    assert!(world.durable.recovered().sessions.is_empty());
}

#[test]
fn a_failed_commit_brings_sessions_back_to_what_the_disk_says() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    let publisher = world.panel(4, "pub");
    world.store_works = false;
    world.send(publisher, &message(4, 0x02, 1, "a", &[], "x"));
    assert!(world.commit());
    assert_eq!(world.closed(publisher), Some(CloseReason::StoreFailed));
    world.store_works = true;
    world.broker.handle_store_ready(world.durable.recovered(), world.now);
    let (_, present, said) = world.durable(5, "sub");
    assert!(present);
    assert!(said.is_empty(), "what was not acknowledged may be gone");
}

#[test]
fn a_will_is_published_once_whichever_way_a_failed_commit_went_mqtt_3_1_2_8() {
    for (is_known, is_there_after_all) in [(true, false), (false, false), (false, true)] {
        let mut world = World::new();
        let watcher = world.subscriber(4, "watcher", "gone", 0);
        let conn = world.accept();
        let body = [string("MQTT"), vec![4, 0x84, 0, 60], string("dying"), string("gone"), string("bye")];
        world.send(conn, &packet(0x10, &[body.concat(), string(PANEL_TOKEN)].concat()));
        if is_known {
            world.commit();
        }
        world.send(conn, &message(4, QOS1_RETAIN, 1, "a", &[], "x"));
        let (_, batch) = world.broker.poll_commit().expect("something to commit");
        if is_there_after_all {
            world.durable.commit(&batch);
        }
        world.broker.handle_commit_failed(world.now);
        world.broker.handle_store_ready(world.durable.recovered(), world.now);
        world.wait(Duration::from_secs(1));
        let told = message(4, 0, 0, "gone", &[], "bye");
        assert_eq!(world.sent(watcher), told, "known {is_known}, there {is_there_after_all}");
        world.commit();
        assert!(world.durable.recovered().sessions.iter().all(|session| session.will.is_none()));
    }
}

#[test]
fn a_device_has_one_session_that_waits_for_an_hour() {
    let mut world = World::new();
    for client_id in ["one", "two"] {
        let conn = world.accept();
        world.send(conn, &connect_with(4, client_id, Some(PUMP_TOKEN), 60, 0x00, &[]));
        world.sent(conn);
        world.drop_connection(conn);
    }
    let kept = world.durable.recovered().sessions;
    let rows: Vec<_> = kept.iter().map(|session| (&*session.row.client_id, session.row.expiry_s)).collect();
    assert_eq!(rows, [("two", 3600)]);
}

#[test]
fn a_session_that_was_discarded_stays_so_when_the_commit_that_says_it_fails_mqtt_3_1_2_6() {
    for is_there_after_all in [false, true] {
        let mut world = World::new();
        let conn = world.durable_subscriber(4, "sub", "a", 1);
        world.drop_connection(conn);
        let publisher = world.panel(4, "pub");
        world.send(publisher, &message(4, 0x02, 1, "a", &[], "x"));
        world.commit();
        world.panel(4, "sub");
        let (_, batch) = world.broker.poll_commit().expect("the session is over");
        if is_there_after_all {
            world.durable.commit(&batch);
        }
        world.broker.handle_commit_failed(world.now);
        world.broker.handle_store_ready(world.durable.recovered(), world.now);
        world.wait(Duration::from_secs(1));
        world.commit();
        assert!(world.durable.recovered().sessions.is_empty());
        let (_, present, said) = world.durable(4, "sub");
        assert!(!present && said.is_empty());
    }
}

#[test]
fn what_a_session_on_disk_is_owed_is_not_acknowledged_while_the_store_is_out_of_order() {
    for (flags, is_subscribed, is_open) in
        [(0x02, true, false), (0x04, true, false), (0x00, true, true), (0x02, false, true)]
    {
        let mut world = World::new();
        let filter = if is_subscribed { "a/#" } else { "b" };
        let conn = world.durable_subscriber(4, "sub", filter, 2);
        if !is_subscribed {
            world.send(conn, &[0xA2, 5, 0, 2, 0, 1, b'b']);
            world.commit();
        }
        world.drop_connection(conn);
        let (publisher, other) = (world.panel(4, "pub"), world.panel(4, "other"));
        world.store_works = false;
        world.send(other, &message(4, QOS1_RETAIN, 1, "x", &[], "x"));
        assert!(world.commit());
        world.send(publisher, &message(4, flags, 1, "a/b", &[], "x"));
        assert_eq!(world.is_open(publisher), is_open, "flags {flags:#x}, subscribed {is_subscribed}");
        assert_eq!(world.sent(publisher).is_empty(), !is_open || flags == 0);
        world.store_works = true;
        world.broker.handle_store_ready(world.durable.recovered(), world.now);
        let again = world.panel(4, "again");
        world.send(again, &message(4, 0x02, 1, "a/b", &[], "x"));
        world.commit();
        assert_eq!(world.sent(again), puback(1));
    }
}

/// Everybody as before, but the local client with another token.
fn with_another_token(token: &str) -> Vec<Identity> {
    let mut identities = identities();
    identities[2].token_hash = TokenHash::of(token);
    identities
}

#[test]
fn a_token_that_was_changed_while_the_broker_was_not_running_ends_the_sessions_of_its_identity() {
    for was_connected in [false, true] {
        let mut world = World::new();
        let conn = world.durable_subscriber(5, "sub", "a", 1);
        if !was_connected {
            world.drop_connection(conn);
        }
        let publisher = world.panel(4, "pub");
        world.send(publisher, &message(4, 0x02, 1, "a", &[], "x"));
        world.commit();
        world.restart();
        assert_eq!(world.durable.recovered().sessions.len(), 1, "the token is the same");
        world.restart_with(with_another_token("OTHERTOKEN"));
        world.wait(Duration::from_secs(1));
        world.commit();
        let found = world.durable.recovered();
        assert!(found.sessions.is_empty() && found.messages.is_empty(), "{found:?}");
        let conn = world.accept();
        world.send(conn, &connect_with(5, "sub", Some("OTHERTOKEN"), 60, 0x00, &expiry(1000)));
        world.commit();
        let said = world.sent(conn);
        assert_eq!((said[0], said[2], said[3]), (0x20, 0, 0), "a new session: {said:02x?}");
    }
}

#[test]
fn a_session_of_before_tokens_were_noted_goes_on_and_its_token_is_noted_then() {
    let mut world = World::new();
    let conn = world.durable_subscriber(5, "sub", "a", 1);
    world.drop_connection(conn);
    let mut recovered = world.durable.recovered();
    recovered.sessions[0].row.token = None;
    let grants = DeviceGrants::default();
    let start = Start { identities: identities(), grants, recovered, seed: 8 };
    world.broker = Broker::new(Limits::default(), start, world.now);
    world.wait(Duration::from_secs(1));
    assert!(world.commit());
    let row = world.durable.recovered().sessions[0].row.clone();
    assert_eq!(row.token, Some(TokenHash::of(PANEL_TOKEN).mark()));
    assert!(world.durable(5, "sub").1, "it is there");
}

#[test]
fn the_will_of_a_session_that_ends_for_a_changed_token_is_published_at_the_start() {
    let mut world = World::new();
    let keeper = world.client(4, FAN_TOKEN, "fan");
    assert!(world.is_open(keeper));
    let conn = world.accept();
    let mut body = string("MQTT");
    // Version 5, a retained will of QoS 1, the session kept, and a delay of an hour.
    body.extend([5, 0x2C | 0x80, 0, 60, 5, 0x11, 0, 0, 3, 0xE8]);
    body.extend(string("sub"));
    body.extend([5, 0x18, 0, 0, 14, 16]);
    body.extend([string("gone"), string("x"), string(PANEL_TOKEN)].concat());
    world.send(conn, &packet(0x10, &body));
    world.commit();
    assert_eq!(world.sent(conn)[3], 0);
    world.restart_with(with_another_token("OTHERTOKEN"));
    world.wait(Duration::from_secs(1));
    world.commit();
    let found = world.durable.recovered();
    assert!(found.sessions.is_empty());
    let retained: Vec<_> = found.retained.iter().map(|message| message.topic().as_str().to_owned()).collect();
    assert_eq!(retained, ["gone"]);
}
