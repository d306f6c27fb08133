//! What comes from the hub for one device, and what the device answers.

use super::{
    delivering::{message, subscribe},
    *,
};
use crate::device_api::downlink::{Downlink, DownlinkKind};

const ATTRIBUTES: &str = "v1/devices/me/attributes";
const RPC: &str = "v1/devices/me/rpc/request/+";

fn attributes(device: &str, payload: &str) -> Downlink {
    let device = DeviceName::parse(device).expect("valid");
    Downlink { device, kind: DownlinkKind::Attributes, payload: payload.to_owned() }
}

fn command(device: &str, id: i32) -> Downlink {
    Downlink { kind: DownlinkKind::Rpc(id), ..attributes(device, r#"{"method":"m"}"#) }
}

impl World {
    /// A device that has subscribed to `filters` with QoS 1; its SUBACKs were read.
    fn device(&mut self, version: u8, token: &str, client_id: &str, filters: &[&str]) -> ConnId {
        let conn = self.client(version, token, client_id);
        for filter in filters {
            self.grants(conn, version, filter, 1, 1);
        }
        conn
    }

    fn grants(&mut self, conn: ConnId, version: u8, filter: &str, asked: u8, granted: u8) {
        self.send(conn, &subscribe(version, 1, filter, asked));
        self.commit();
        assert_eq!(self.sent(conn).last(), Some(&granted), "{filter}");
    }

    /// A device with a session that outlives its connection.
    fn durable_device(&mut self, client_id: &str) -> (ConnId, Vec<u8>) {
        let conn = self.accept();
        self.send(conn, &connect_with(4, client_id, Some(PUMP_TOKEN), 60, 0x00, &[]));
        self.commit();
        let said = self.sent(conn);
        assert_eq!(said[3], 0, "not let in: {said:02x?}");
        (conn, said[4..].to_vec())
    }

    fn reached(&mut self, downlink: &Downlink) -> Reached {
        let reached = self.broker.handle_downlink(downlink, self.now);
        self.commit();
        reached
    }

    fn presence(&mut self) -> Vec<(String, bool)> {
        std::iter::from_fn(|| self.broker.poll_presence())
            .map(|(name, is_here)| (name.as_str().to_owned(), is_here))
            .collect()
    }
}

#[test]
fn a_message_of_the_hub_reaches_the_device_it_names_and_no_other() {
    for version in [3, 4, 5] {
        let mut world = World::new();
        let pump = world.device(version, PUMP_TOKEN, "pump", &[ATTRIBUTES, RPC]);
        let fan = world.device(version, FAN_TOKEN, "fan", &[ATTRIBUTES, RPC]);
        let panel = world.subscriber(version, "panel", "#", 2);
        assert_eq!(world.reached(&attributes("pump", r#"{"a":1}"#)), Reached::Device);
        assert_eq!(world.sent(pump), message(version, 0x02, 1, ATTRIBUTES, &[], r#"{"a":1}"#));
        assert_eq!(world.reached(&command("pump", 7)), Reached::Device);
        let said = world.sent(pump);
        let topic = "v1/devices/me/rpc/request/7";
        let properties: &[u8] = if version == 5 { &[2, 0, 0, 0, 60] } else { &[] };
        assert_eq!(said, message(version, 0x02, 2, topic, properties, r#"{"method":"m"}"#));
        assert!(world.sent(fan).is_empty() && world.sent(panel).is_empty());
        let counters = world.broker.counters();
        assert_eq!((counters.downlinks_delivered, counters.downlinks_undelivered), (2, 0));
    }
}

#[test]
fn every_connection_of_the_device_is_sent_it_once_in_the_form_it_has_asked_for() {
    let mut world = World::new();
    let long = world.device(4, PUMP_TOKEN, "1", &["v2/a", ATTRIBUTES]);
    let short = world.device(4, PUMP_TOKEN, "2", &["v2/a", "v2/r/req/+"]);
    let json = world.device(4, PUMP_TOKEN, "3", &["v2/a/j", "v2/r/req/j/+"]);
    let other = world.device(4, PUMP_TOKEN, "4", &["v1/devices/me/attributes/response/+"]);
    world.reached(&attributes("pump", "{}"));
    world.reached(&command("pump", -2));
    let both = |a: &str, b: &str| {
        let first = message(4, 0x02, 1, a, &[], "{}");
        [first, message(4, 0x02, 2, b, &[], r#"{"method":"m"}"#)].concat()
    };
    assert_eq!(world.sent(long), message(4, 0x02, 1, ATTRIBUTES, &[], "{}"));
    assert_eq!(world.sent(short), both("v2/a", "v2/r/req/-2"));
    assert_eq!(world.sent(json), both("v2/a/j", "v2/r/req/j/-2"));
    assert!(world.sent(other).is_empty());
}

#[test]
fn the_hubs_filters_are_granted_to_devices_alone_word_by_word_and_with_qos_1_at_most() {
    for version in [4, 5] {
        let mut world = World::new();
        let pump = world.client(version, PUMP_TOKEN, "pump");
        for (asked, granted) in [(0, 0), (1, 1), (2, 1)] {
            world.grants(pump, version, RPC, asked, granted);
        }
        let refused = if version == 5 { 0x8F } else { 0x80 };
        for filter in ["v1/devices/me/#", "v1/devices/me/rpc/request/7", "$share/g/v1/devices/me/attributes"]
        {
            world.grants(pump, version, filter, 1, refused);
        }
        let panel = world.panel(version, "panel");
        world.grants(panel, version, RPC, 1, if version == 5 { 0x87 } else { 0x80 });
        assert_eq!(world.broker.gauges().subscriptions, 1);
    }
}

#[test]
fn subscriptions_to_the_hubs_topics_count_and_end_as_any() {
    let mut world = World::with_limits(|limits| limits.device_subscriptions = 2);
    let pump = world.device(5, PUMP_TOKEN, "pump", &[ATTRIBUTES, RPC, RPC]);
    world.grants(pump, 5, "v2/a", 1, 0x97);
    let unsubscribe = |filter: &str| packet(0xA2, &[&[0, 9, 0][..], &string(filter)].concat());
    world.send(pump, &unsubscribe(RPC));
    assert_eq!(world.sent(pump), [0xB0, 4, 0, 9, 0, 0]);
    world.send(pump, &unsubscribe(RPC));
    assert_eq!(world.sent(pump), [0xB0, 4, 0, 9, 0, 0x11]);
    assert_eq!(world.reached(&command("pump", 1)), Reached::NotSubscribed);
    world.grants(pump, 5, "v2/a", 1, 1);
}

#[test]
fn who_is_not_there_or_did_not_subscribe_is_not_reached() {
    let mut world = World::new();
    let pump = world.device(4, PUMP_TOKEN, "pump", &[ATTRIBUTES]);
    assert_eq!(world.reached(&command("pump", 1)), Reached::NotSubscribed);
    for name in ["fan", "nobody", "panel"] {
        world.panel(4, "panel");
        assert_eq!(world.reached(&attributes(name, "{}")), Reached::NotConnected, "{name}");
    }
    world.broker.handle_disconnected(pump, CloseReason::PeerClosed, world.now);
    assert_eq!(world.reached(&attributes("pump", "{}")), Reached::NotConnected);
    assert_eq!(world.broker.counters().downlinks_undelivered, 5);
}

#[test]
fn a_session_without_its_connection_is_kept_what_comes_even_over_a_restart() {
    let mut world = World::new();
    let (conn, _) = world.durable_device("pump");
    world.grants(conn, 4, ATTRIBUTES, 1, 1);
    world.grants(conn, 4, RPC, 1, 1);
    world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
    assert_eq!(world.reached(&attributes("pump", r#"{"a":1}"#)), Reached::Device);
    assert_eq!(world.reached(&command("pump", 3)), Reached::Device);
    world.wait(Duration::from_secs(1));
    world.commit();
    world.restart();
    let fan = world.device(4, FAN_TOKEN, "pump", &[ATTRIBUTES, RPC]);
    let (conn, said) = world.durable_device("pump");
    world.commit();
    let said = [said, world.sent(conn)].concat();
    let first = message(4, 0x02, 1, ATTRIBUTES, &[], r#"{"a":1}"#);
    let second = message(4, 0x02, 2, "v1/devices/me/rpc/request/3", &[], r#"{"method":"m"}"#);
    assert_eq!(said, [first, second].concat());
    assert!(world.sent(fan).is_empty());
    assert_eq!(world.reached(&attributes("pump", "{}")), Reached::Device, "it is still subscribed");
    assert_eq!(world.sent(conn), message(4, 0x02, 3, ATTRIBUTES, &[], "{}"));
}

#[test]
fn a_command_is_not_kept_longer_than_anybody_waits_for_it() {
    let mut world = World::new();
    let (conn, _) = world.durable_device("pump");
    world.grants(conn, 4, RPC, 1, 1);
    world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
    world.reached(&command("pump", 3));
    world.wait(Duration::from_secs(61));
    world.commit();
    let (conn, said) = world.durable_device("pump");
    world.commit();
    assert!(said.is_empty() && world.sent(conn).is_empty());
}

#[test]
fn a_session_that_asked_for_qos_0_is_kept_nothing() {
    let mut world = World::new();
    let (conn, _) = world.durable_device("pump");
    world.grants(conn, 4, ATTRIBUTES, 0, 0);
    assert_eq!(world.reached(&attributes("pump", "{}")), Reached::Device);
    assert_eq!(world.sent(conn), message(4, 0x00, 0, ATTRIBUTES, &[], "{}"));
    world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
    assert_eq!(world.reached(&attributes("pump", "{}")), Reached::NotConnected);
}

#[test]
fn an_answer_to_a_command_is_for_the_hub_while_there_is_room_and_else_refused() {
    let mut world = World::new();
    let pump = world.pump_v5();
    let fan = world.client(4, FAN_TOKEN, "fan");
    world.broker.handle_rpc_room(2);
    world.send(pump, &publish_to("v1/devices/me/rpc/response/7", 5, 1, "{\"ok\":1}"));
    assert_eq!(world.sent(pump), puback(1));
    world.send(fan, &publish_to("v2/r/res/8", 4, 1, "done"));
    assert_eq!(world.sent(fan), puback(1));
    world.send(pump, &publish_to("v2/r/res/j/9", 5, 2, "x"));
    assert_eq!(world.sent(pump), [0x40, 3, 0, 2, 0x83]);
    world.send(fan, &publish_to("v2/r/res/9", 4, 2, "x"));
    assert_eq!(world.sent(fan), puback(2), "there is no way to say no");
    let answers: Vec<_> = std::iter::from_fn(|| world.broker.poll_rpc_answer())
        .map(|answer| (answer.device.as_str().to_owned(), answer.id, answer.payload))
        .collect();
    let expected = [("pump", 7, &b"{\"ok\":1}"[..]), ("fan", 8, b"done")];
    assert_eq!(answers, expected.map(|(name, id, text)| (name.to_owned(), id, text.to_vec())));
    assert_eq!(world.broker.counters().rpc_answers_refused, 2);
    world.broker.handle_rpc_room(0);
    world.send(pump, &publish_to("v2/r/res/9", 5, 3, "x"));
    assert_eq!(world.sent(pump), [0x40, 3, 0, 3, 0x83]);
    assert_eq!(world.broker.poll_rpc_answer(), None);
}

#[test]
fn an_answer_to_no_number_is_refused_and_a_local_client_answers_nothing() {
    let mut world = World::new();
    world.broker.handle_rpc_room(2);
    let pump = world.pump_v5();
    world.send(pump, &publish_to("v1/devices/me/rpc/response/x", 5, 1, "{}"));
    assert_eq!(world.sent(pump), [0x40, 3, 0, 1, 0x99]);
    let panel = world.panel(5, "panel");
    world.send(panel, &publish_to("v1/devices/me/rpc/response/1", 5, 1, "{}"));
    assert_eq!(world.sent(panel), [0x40, 3, 0, 1, 0x87]);
    assert_eq!(world.broker.poll_rpc_answer(), None);
}

#[test]
fn presence_tells_of_first_and_last_connections_of_devices_once_each() {
    let mut world = World::new();
    let first = world.pump();
    world.panel(4, "panel");
    assert_eq!(world.presence(), [("pump".to_owned(), true)]);
    let second = world.client(4, PUMP_TOKEN, "second");
    world.broker.handle_disconnected(first, CloseReason::PeerClosed, world.now);
    assert_eq!(world.presence(), []);
    assert_eq!(world.broker.connected_devices().map(DeviceName::as_str).collect::<Vec<_>>(), ["pump"]);
    world.broker.handle_disconnected(second, CloseReason::PeerClosed, world.now);
    for _ in 0..3 {
        let conn = world.pump();
        world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
    }
    assert_eq!(world.presence(), [("pump".to_owned(), false)], "one entry, however often it came");
    world.pump();
    world.pump();
    assert_eq!(world.presence(), [("pump".to_owned(), true)], "taking over is no going");
    world.broker.handle_registry(Vec::new(), world.now);
    assert_eq!(world.presence(), [("pump".to_owned(), false)]);
}
