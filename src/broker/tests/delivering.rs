//! Messages from client to client.

use super::*;
use crate::mqtt::DecodeError;

pub(super) fn subscribe(version: u8, id: u16, filter: &str, options: u8) -> Vec<u8> {
    subscribe_with(version, id, filter, options, &[])
}

fn subscribe_with(version: u8, id: u16, filter: &str, options: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(string(filter));
    body.push(options);
    packet(0x82, &body)
}

/// A PUBLISH with the fixed header's flags `flags`; no packet identifier if it is zero.
pub(super) fn message(
    version: u8,
    flags: u8,
    id: u16,
    topic: &str,
    properties: &[u8],
    payload: &str,
) -> Vec<u8> {
    let mut body = string(topic);
    if id > 0 {
        body.extend(id.to_be_bytes());
    }
    if version == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(payload.as_bytes());
    packet(0x30 | flags, &body)
}

impl World {
    pub(super) fn panel(&mut self, version: u8, client_id: &str) -> ConnId {
        self.client(version, PANEL_TOKEN, client_id)
    }

    /// A client that has subscribed to `filter`; its SUBACK was read.
    pub(super) fn subscriber(&mut self, version: u8, client_id: &str, filter: &str, options: u8) -> ConnId {
        let conn = self.panel(version, client_id);
        self.send(conn, &subscribe(version, 1, filter, options));
        let suback = self.sent(conn);
        assert_eq!(suback.last(), Some(&(options & 3)), "{suback:02x?}");
        conn
    }
}

#[test]
fn a_message_reaches_subscribers_of_every_version_with_the_lower_qos_mqtt_3_8_4_8() {
    for (to, from) in [(3, 4), (4, 5), (5, 3), (5, 5)] {
        let mut world = World::new();
        let subscriber = world.subscriber(to, "sub", "hall/+", 1);
        let publisher = world.panel(from, "pub");
        world.send(publisher, &message(from, 0x04, 9, "hall/lamp", &[], "on"));
        assert_eq!(world.sent(publisher), [0x50, 2, 0, 9]);
        assert_eq!(world.sent(subscriber), message(to, 0x02, 1, "hall/lamp", &[], "on"));
        world.send(publisher, &[0x62, 2, 0, 9]);
        assert_eq!(world.sent(publisher), [0x70, 2, 0, 9]);
        world.send(publisher, &message(from, 0x00, 0, "hall/lamp", &[], "off"));
        assert_eq!(world.sent(subscriber), message(to, 0x00, 0, "hall/lamp", &[], "off"));
    }
}

#[test]
fn qos_2_to_a_subscriber_takes_four_packets_mqtt_4_3_3_1() {
    let mut world = World::new();
    let subscriber = world.subscriber(4, "sub", "a", 2);
    let publisher = world.panel(4, "pub");
    world.send(publisher, &message(4, 0x04, 1, "a", &[], "x"));
    assert_eq!(world.sent(subscriber), message(4, 0x04, 1, "a", &[], "x"));
    world.send(subscriber, &[0x50, 2, 0, 1]);
    assert_eq!(world.sent(subscriber), [0x62, 2, 0, 1]);
    world.send(subscriber, &[0x70, 2, 0, 1]);
    assert!(world.sent(subscriber).is_empty() && world.is_open(subscriber));
    world.send(publisher, &[0x62, 2, 0, 1]);
    world.send(publisher, &message(4, 0x04, 1, "a", &[], "y"));
    world.sent(subscriber);
    world.send(subscriber, &[0x40, 2, 0, 2]);
    assert_eq!(world.closed(subscriber), Some(CloseReason::AnswerOutOfPlace), "PUBACK for QoS 2");
}

#[test]
fn the_window_is_the_clients_receive_maximum_and_what_waits_follows_mqtt_3_3_4_9() {
    let mut world = World::new();
    let subscriber = world.accept();
    world.send(subscriber, &connect_with(5, "sub", Some(PANEL_TOKEN), 60, 0x02, &[0x21, 0, 2]));
    world.send(subscriber, &subscribe(5, 1, "a", 1));
    world.sent(subscriber);
    let publisher = world.panel(4, "pub");
    for id in 1..=3 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], "x"));
    }
    let two = [message(5, 0x02, 1, "a", &[], "x"), message(5, 0x02, 2, "a", &[], "x")].concat();
    assert_eq!(world.sent(subscriber), two);
    world.send(subscriber, &puback(2));
    assert_eq!(world.sent(subscriber), message(5, 0x02, 3, "a", &[], "x"));
}

#[test]
fn overlapping_subscriptions_make_one_delivery_with_all_their_identifiers_mqtt_3_3_4_3() {
    let mut world = World::new();
    let subscriber = world.panel(5, "sub");
    world.send(subscriber, &subscribe_with(5, 1, "a/#", 0, &[0x0B, 7]));
    world.send(subscriber, &subscribe_with(5, 2, "a/+", 1, &[0x0B, 8]));
    world.sent(subscriber);
    let publisher = world.panel(5, "pub");
    world.send(publisher, &message(5, 0x02, 1, "a/b", &[0x26, 0, 1, b'k', 0, 1, b'v'], "x"));
    let sent = world.sent(subscriber);
    assert_eq!(sent[0], 0x32);
    let ends = [&[11, 0x26, 0, 1, b'k', 0, 1, b'v'][..], &[0x0B, 7, 0x0B, 8, b'x']].concat();
    assert!(sent.ends_with(&ends) || sent.len() == 2 + 5 + 2 + ends.len(), "{sent:02x?}");
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it_mqtt_3_8_3_3() {
    let mut world = World::new();
    let both = world.subscriber(5, "both", "a", 0x04);
    let other = world.subscriber(5, "other", "a", 0);
    world.send(both, &message(5, 0, 0, "a", &[], "x"));
    assert!(world.sent(both).is_empty());
    assert_eq!(world.sent(other), message(5, 0, 0, "a", &[], "x"));
    world.send(both, &subscribe(5, 2, "$share/g/a", 0x04));
    assert_eq!(world.closed(both), Some(CloseReason::Malformed(DecodeError::NoLocalOnShared)));
}

#[test]
fn members_share_and_inherit_what_one_did_not_acknowledge_mqtt_4_8_2_4() {
    let mut world = World::new();
    let one = world.subscriber(5, "one", "$share/g/a", 1);
    let two = world.subscriber(4, "two", "$share/g/a", 1);
    let publisher = world.panel(4, "pub");
    for id in 1..=4 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], &id.to_string()));
    }
    let of_one = world.sent(one);
    assert_eq!(of_one, [message(5, 2, 1, "a", &[], "1"), message(5, 2, 2, "a", &[], "3")].concat());
    assert_eq!(world.sent(two), [message(4, 2, 1, "a", &[], "2"), message(4, 2, 2, "a", &[], "4")].concat());
    world.send(one, &puback(1));
    world.broker.handle_disconnected(one, CloseReason::PeerClosed, world.now);
    assert_eq!(world.sent(two), message(4, 2, 3, "a", &[], "3"), "what was acknowledged is not sent again");
}

#[test]
fn a_will_is_published_when_the_connection_ends_badly_and_not_otherwise_mqtt_3_1_2_8() {
    for says_goodbye in [true, false] {
        let mut world = World::new();
        let subscriber = world.subscriber(4, "sub", "gone", 1);
        let dying = world.accept();
        let mut body = [string("MQTT"), vec![4, 0x80 | 0x0E, 0, 60]].concat();
        for text in ["dying", "gone", "bye", PANEL_TOKEN] {
            body.extend(string(text));
        }
        world.send(dying, &packet(0x10, &body));
        if says_goodbye {
            world.send(dying, &[0xE0, 0]);
        }
        world.broker.handle_disconnected(dying, CloseReason::PeerClosed, world.now);
        let expected = if says_goodbye { Vec::new() } else { message(4, 0x02, 1, "gone", &[], "bye") };
        assert_eq!(world.sent(subscriber), expected);
    }
}

#[test]
fn devices_are_apart_and_a_local_client_hears_of_what_is_on_disk() {
    let mut world = World::new();
    let panel = world.subscriber(4, "panel", "devices/+/telemetry", 0);
    let pump = world.pump_v5();
    for (filter, code) in [("#", 0x87), ("devices/pump/telemetry", 0x87), ("v1/devices/+/telemetry", 0x8F)] {
        world.send(pump, &subscribe(5, 1, filter, 0));
        assert_eq!(world.sent(pump).last(), Some(&code), "{filter}");
    }
    world.send(pump, &message(5, 0x02, 1, "hall/lamp", &[], "on"));
    assert_eq!(world.sent(pump), [0x40, 3, 0, 1, 0x87]);
    world.send(pump, &publish(5, 2, r#"{"t":1}"#));
    assert!(world.sent(panel).is_empty(), "it is not on disk yet");
    world.commit();
    assert_eq!(world.sent(panel), message(4, 0, 0, "devices/pump/telemetry", &[], r#"{"t":1}"#));
    world.store_works = false;
    world.send(pump, &publish(5, 3, r#"{"t":2}"#));
    world.commit();
    assert!(world.sent(panel).is_empty(), "nobody is told of what may be lost");
}

#[test]
fn what_the_operator_grants_to_devices_carries_their_own_name() {
    let grants = DeviceGrants {
        publish: vec!["state/{device}".to_owned()],
        subscribe: vec!["command/{device}".to_owned()],
    };
    let mut world = World::with_grants(grants);
    let pump = world.pump();
    let panel = world.subscriber(4, "panel", "state/+", 0);
    for (filter, code) in [("command/pump", 0), ("command/fan", 0x80), ("command/+", 0x80)] {
        world.send(pump, &subscribe(4, 1, filter, 0));
        assert_eq!(world.sent(pump).last(), Some(&code), "{filter}");
    }
    world.send(panel, &message(4, 0, 0, "command/pump", &[], "open"));
    assert_eq!(world.sent(pump), message(4, 0, 0, "command/pump", &[], "open"));
    world.send(pump, &message(4, 0, 0, "state/pump", &[], "opened"));
    assert_eq!(world.sent(panel), message(4, 0, 0, "state/pump", &[], "opened"));
    world.send(pump, &message(4, 0, 0, "state/fan", &[], "stopped"));
    assert_eq!(world.closed(pump), Some(CloseReason::TopicNotAllowed));
}

#[test]
fn aliases_stand_for_topics_in_both_directions_mqtt_3_3_2_12() {
    let mut world = World::new();
    let subscriber = world.accept();
    world.send(subscriber, &connect_with(5, "sub", Some(PANEL_TOKEN), 60, 0x02, &[0x22, 0, 1]));
    world.send(subscriber, &subscribe(5, 1, "#", 0));
    world.sent(subscriber);
    let publisher = world.panel(5, "pub");
    world.send(publisher, &message(5, 0, 0, "long/topic", &[0x23, 0, 5], "1"));
    world.send(publisher, &message(5, 0, 0, "", &[0x23, 0, 5], "2"));
    world.send(publisher, &message(5, 0, 0, "another", &[], "3"));
    let expected = [
        message(5, 0, 0, "long/topic", &[0x23, 0, 1], "1"),
        message(5, 0, 0, "", &[0x23, 0, 1], "2"),
        message(5, 0, 0, "another", &[], "3"),
    ];
    assert_eq!(world.sent(subscriber), expected.concat());
    world.send(publisher, &message(5, 0, 0, "", &[0x23, 0, 6], "4"));
    assert_eq!(world.closed(publisher), Some(CloseReason::TopicAliasUnknown));
}

#[test]
fn a_message_lives_as_long_as_it_was_given_mqtt_3_3_2_5() {
    let mut world = World::new();
    let subscriber = world.accept();
    world.send(subscriber, &connect_with(5, "sub", Some(PANEL_TOKEN), 60, 0x02, &[0x21, 0, 1]));
    world.send(subscriber, &subscribe(5, 1, "a", 1));
    world.sent(subscriber);
    let publisher = world.panel(5, "pub");
    for (id, seconds) in [(1, 9), (2, 2), (3, 9)] {
        world.send(publisher, &message(5, 0x02, id, "a", &[0x02, 0, 0, 0, seconds], "x"));
    }
    world.sent(subscriber);
    world.wait(Duration::from_secs(4));
    world.send(subscriber, &puback(1));
    assert_eq!(world.sent(subscriber), message(5, 0x02, 2, "a", &[0x02, 0, 0, 0, 5], "x"));
    assert_eq!(world.broker.counters().messages_expired, 1);
}

#[test]
fn a_subscriber_that_does_not_keep_up_loses_qos_0_and_is_told_of_more() {
    let mut world = World::with_limits(|limits| limits.client_queue_messages = 3);
    let slow = world.accept();
    world.send(slow, &connect_with(5, "slow", Some(PANEL_TOKEN), 60, 0x02, &[0x21, 0, 1]));
    world.send(slow, &subscribe(5, 1, "a", 1));
    world.sent(slow);
    let publisher = world.panel(4, "pub");
    for id in 1..=4 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], "x"));
    }
    world.send(publisher, &message(4, 0, 0, "a", &[], "x"));
    assert!(world.is_open(slow));
    assert_eq!(world.broker.counters().messages_dropped, 1);
    world.send(publisher, &message(4, 0x02, 5, "a", &[], "x"));
    assert_eq!(world.closed(slow), Some(CloseReason::QueueFull));
    assert!(world.is_open(publisher));
    assert!(world.sent(slow).windows(3).any(|bytes| bytes[0] == 0xE0 && bytes[2] == 0x97));
}

#[test]
fn one_message_to_many_differs_in_its_identifier_alone() {
    let mut world = World::new();
    let subscribers: Vec<ConnId> =
        (0..5).map(|n| world.subscriber(4 + n % 2, &format!("s{n}"), "a", 1)).collect();
    let publisher = world.panel(4, "pub");
    world.send(publisher, &message(4, 0x02, 1, "a", &[], "first"));
    world.sent(subscribers[2]);
    world.send(subscribers[2], &puback(1));
    world.send(publisher, &message(4, 0x02, 2, "a", &[], "second"));
    for (n, conn) in subscribers.iter().enumerate() {
        let version = 4 + (n as u8) % 2;
        let sent = world.sent(*conn);
        assert!(sent.ends_with(&message(version, 0x02, 2, "a", &[], "second")), "{n}: {sent:02x?}");
    }
}

#[test]
fn what_was_unsubscribed_comes_no_more_and_what_was_not_there_is_said_mqtt_3_10_4_1() {
    let mut world = World::new();
    let subscriber = world.subscriber(5, "sub", "a", 0);
    let publisher = world.panel(4, "pub");
    for code in [0x00, 0x11] {
        world.send(subscriber, &packet(0xA2, &[0, 2, 0, 0, 1, b'a']));
        assert_eq!(world.sent(subscriber), [0xB0, 4, 0, 2, 0, code]);
    }
    world.send(publisher, &message(4, 0, 0, "a", &[], "x"));
    assert!(world.sent(subscriber).is_empty());
}

#[test]
fn no_alias_goes_above_the_clients_maximum_mqtt_3_3_2_11_mqtt_3_1_2_26() {
    let mut world = World::new();
    let subscriber = world.accept();
    world.send(subscriber, &connect_with(5, "sub", Some(PANEL_TOKEN), 60, 0x02, &[0x22, 0, 2]));
    world.send(subscriber, &subscribe(5, 1, "#", 0));
    world.sent(subscriber);
    let publisher = world.panel(4, "pub");
    for (topic, alias) in [("a", Some(1)), ("b", Some(2)), ("c", None)] {
        world.send(publisher, &message(4, 0, 0, topic, &[], "x"));
        let properties = alias.map_or(Vec::new(), |alias| vec![0x23, 0, alias]);
        assert_eq!(world.sent(subscriber), message(5, 0, 0, topic, &properties, "x"));
    }
}

#[test]
fn a_client_that_takes_no_alias_is_given_none_mqtt_3_1_2_27() {
    let mut world = World::new();
    let subscriber = world.subscriber(5, "sub", "a", 0);
    let publisher = world.panel(5, "pub");
    for _ in 0..2 {
        world.send(publisher, &message(5, 0, 0, "a", &[0x23, 0, 1], "x"));
        assert_eq!(world.sent(subscriber), message(5, 0, 0, "a", &[], "x"));
    }
}

#[test]
fn what_subscribers_do_not_acknowledge_counts_as_what_waits_for_them() {
    let mut world = World::with_limits(|limits| limits.queue_memory_bytes = 65_536);
    let readers: Vec<ConnId> = (0..4).map(|n| world.subscriber(4, &format!("reader {n}"), "a", 1)).collect();
    let publisher = world.panel(4, "pub");
    let text = "x".repeat(10_000);
    for id in 1..=2 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], &text));
    }
    assert!(!world.broker.wants_bytes(publisher), "80 kB are in flight");
    for reader in &readers {
        world.send(*reader, &[puback(1), puback(2)].concat());
    }
    assert!(world.broker.wants_bytes(publisher));
    for id in 1..=4 {
        world.send(publisher, &message(4, 0x02, id, "a", &[], &text));
    }
    let open = readers.iter().filter(|reader| world.is_open(**reader)).count();
    assert_eq!(open, 3, "twice the bound is twelve of them, and more than that is nobody's to hold");
}

#[test]
fn what_a_client_has_in_flight_goes_with_it() {
    let mut world = World::with_limits(|limits| limits.queue_memory_bytes = 65_536);
    let publisher = world.panel(4, "pub");
    let text = "x".repeat(20_000);
    for n in 0..10 {
        let reader = world.subscriber(4, &format!("reader {n}"), "a", 1);
        for id in 1..=4 {
            world.send(publisher, &message(4, 0x02, id, "a", &[], &text));
        }
        assert!(world.is_open(reader) && !world.broker.wants_bytes(publisher));
        world.broker.handle_disconnected(reader, CloseReason::PeerClosed, world.now);
        assert!(world.broker.wants_bytes(publisher));
    }
}

#[test]
fn all_subscriptions_together_have_a_bound_in_memory() {
    let mut world = World::with_limits(|limits| limits.subscription_bytes = 65_536);
    let deep = |n: usize| format!("{n}{}", "/a".repeat(31));
    let mut granted = Vec::new();
    let clients: Vec<ConnId> = (0..4).map(|n| world.panel(5, &format!("client {n}"))).collect();
    for n in 0..40 {
        let client = clients[n % clients.len()];
        world.send(client, &subscribe(5, 1, &deep(n), 0));
        match world.sent(client).last() {
            Some(0) => granted.push(n),
            code => assert_eq!(code, Some(&0x97), "{n}"),
        }
    }
    assert!((10..20).contains(&granted.len()), "{} of 4 kB each", granted.len());
    world.send(clients[0], &subscribe(5, 1, &deep(0), 1));
    assert_eq!(world.sent(clients[0]).last(), Some(&1), "one it has may be made anew");
    world.broker.handle_disconnected(clients[0], CloseReason::PeerClosed, world.now);
    world.send(clients[1], &subscribe(5, 1, &deep(99), 0));
    assert_eq!(world.sent(clients[1]).last(), Some(&0), "those of who is gone make room");
}
