//! What the broker tells of itself: who may hear it, when, and how it is sent.

use super::{
    delivering::{message, subscribe},
    *,
};
use crate::identity::Grant;

const RETAIN: u8 = 0x01;
const MONITOR_TOKEN: &str = "MONITORTOKEN";

impl World {
    /// A world with a client that may hear what the broker tells of itself.
    fn with_monitor() -> Self {
        let mut world = Self::new();
        let rights = Rights { subscribe: Grant::Only(vec!["$SYS/#".to_owned()]), ..Rights::default() };
        let monitor = Identity { role: Role::Client(rights), ..device(4, "monitor", MONITOR_TOKEN) };
        let now = world.now;
        world.broker.handle_registry(identities().into_iter().chain([monitor]).collect(), now);
        world
    }

    fn monitor(&mut self, client_id: &str) -> ConnId {
        self.client(4, MONITOR_TOKEN, client_id)
    }

    /// Subscribes and gives back the code of the answer.
    fn asks_for(&mut self, conn: ConnId, filter: &str) -> u8 {
        self.send(conn, &subscribe(4, 1, filter, 1));
        self.sent(conn)[4]
    }

    /// What the loop does once per turn.
    fn report(&mut self, values: &[(&str, &str)]) -> bool {
        let due = self.broker.wants_report();
        if due {
            let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            self.broker.handle_report(values.collect(), self.now);
        }
        due
    }
}

fn told(flags: u8, topic: &str, value: &str) -> Vec<u8> {
    message(4, flags, 0, topic, &[], value)
}

#[test]
fn the_first_subscriber_gets_all_at_once_and_later_what_has_changed() {
    let mut world = World::with_monitor();
    let monitor = world.monitor("first");
    assert!(!world.report(&[]), "nobody listens");
    assert_eq!(world.asks_for(monitor, "$SYS/forebay/#"), 1);
    assert!(world.report(&[("a", "1"), ("b", "1")]), "in the same turn");
    let all = [told(RETAIN, "$SYS/forebay/a", "1"), told(RETAIN, "$SYS/forebay/b", "1")].concat();
    assert_eq!(world.sent(monitor), all);
    world.wait(Duration::from_millis(9_999));
    assert!(!world.report(&[]));
    world.wait(Duration::from_millis(1));
    assert!(world.report(&[("a", "1"), ("b", "2")]));
    assert_eq!(world.sent(monitor), told(0, "$SYS/forebay/b", "2"));
}

#[test]
fn a_later_subscriber_gets_the_latest_and_the_others_nothing_twice() {
    let mut world = World::with_monitor();
    let first = world.monitor("first");
    world.asks_for(first, "$SYS/forebay/a");
    world.report(&[("a", "1")]);
    world.sent(first);
    let second = world.monitor("second");
    world.send(second, &subscribe(4, 1, "$SYS/forebay/+", 0));
    let suback = vec![0x90, 3, 0, 1, 0];
    assert_eq!(world.sent(second), [suback, told(RETAIN, "$SYS/forebay/a", "1")].concat());
    assert!(!world.report(&[]), "what is there is good enough");
    assert!(world.sent(first).is_empty());
}

#[test]
fn the_counters_are_told_under_the_names_others_gave_them() {
    let mut world = World::with_monitor();
    let pump = world.pump();
    world.send(pump, &publish(4, 1, "{a:1}"));
    world.commit();
    let monitor = world.monitor("m");
    for (topic, value) in [
        ("$SYS/broker/clients/connected", "2"),
        ("$SYS/broker/clients/total", "2"),
        ("$SYS/broker/clients/maximum", "2"),
        ("$SYS/broker/publish/messages/received", "1"),
        ("$SYS/broker/subscriptions/count", "1"),
        ("$SYS/broker/retained messages/count", "0"),
    ] {
        world.asks_for(monitor, topic);
        world.report(&[]);
        assert_eq!(world.sent(monitor), told(RETAIN, topic, value), "{topic}");
        world.send(monitor, &[0xA2, 4 + topic.len() as u8, 0, 2, 0, topic.len() as u8]);
        world.send(monitor, topic.as_bytes());
        world.sent(monitor);
        world.wait(Duration::from_secs(10));
        assert!(!world.report(&[]), "nobody listens any more");
    }
}

#[test]
fn only_who_was_granted_it_hears_it_and_nobody_says_it() {
    let mut world = World::with_monitor();
    let panel = world.panel(4, "panel");
    for filter in ["$SYS/#", "$SYS/broker/uptime", "$share/g/$SYS/#"] {
        assert_eq!(world.asks_for(panel, filter), 0x80, "{filter}");
    }
    assert_eq!(world.asks_for(panel, "#"), 1);
    assert!(!world.report(&[]), "what begins with a dollar is not meant by # [MQTT-4.7.2-1]");
    let monitor = world.monitor("m");
    assert_eq!(world.asks_for(monitor, "$SYS/broker/#"), 1);
    world.report(&[]);
    world.sent(monitor);
    world.send(panel, &publish_to("$SYS/broker/uptime", 4, 0, "forged"));
    assert!(world.sent(monitor).is_empty());
}

#[test]
fn without_a_listener_the_broker_sleeps_and_a_session_that_comes_back_wakes_it() {
    let mut world = World::with_monitor();
    let monitor = world.accept();
    world.send(monitor, &connect_with(4, "durable", Some(MONITOR_TOKEN), 60, 0, &[]));
    world.send(monitor, &subscribe(4, 1, "$SYS/forebay/#", 0));
    while world.commit() {}
    world.report(&[("a", "1")]);
    assert!(world.sent(monitor).ends_with(&told(RETAIN, "$SYS/forebay/a", "1")));
    world.broker.handle_disconnected(monitor, CloseReason::PeerClosed, world.now);
    while world.commit() {}
    world.wait(Duration::from_secs(10));
    assert!(!world.report(&[]), "its session listens to nothing");

    let again = world.accept();
    world.send(again, &connect_with(4, "durable", Some(MONITOR_TOKEN), 60, 0, &[]));
    assert_eq!(world.sent(again), [0x20, 2, 1, 0], "the session is there");
    assert!(world.report(&[("a", "1")]));
    assert!(world.sent(again).is_empty(), "it did not subscribe anew");
    world.wait(Duration::from_secs(10));
    world.report(&[("a", "2")]);
    assert_eq!(world.sent(again), told(0, "$SYS/forebay/a", "2"));
}

#[test]
fn a_subscriber_that_wants_nothing_retained_or_shares_gets_the_changes() {
    let mut world = World::with_monitor();
    let alone = world.client(5, MONITOR_TOKEN, "alone");
    world.send(alone, &subscribe(5, 1, "$SYS/forebay/a", 0x20));
    let shares = world.monitor("shares");
    world.asks_for(shares, "$share/g/$SYS/forebay/a");
    world.report(&[("a", "1")]);
    assert_eq!(world.sent(alone), [0x90, 4, 0, 1, 0, 0]);
    world.wait(Duration::from_secs(10));
    world.report(&[("a", "2")]);
    assert_eq!(world.sent(alone), message(5, 0, 0, "$SYS/forebay/a", &[], "2"));
    assert_eq!(world.sent(shares), told(0, "$SYS/forebay/a", "2"));
}
