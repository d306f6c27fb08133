//! What a gateway says of the devices behind it, for whom it may speak, and what a device is told of its limits.

use super::{
    delivering::{message, subscribe},
    *,
};
use crate::{
    device_api::gateway_messages::{self, DeviceReadings},
    limits::{GATEWAY_DEVICES_MAX, PUBLISH_OVERHEAD_BYTES},
};

const SITE_TOKEN: &str = "SITETOKEN";
const TELEMETRY: &str = "v1/gateway/telemetry";
const CONNECT: &str = "v1/gateway/connect";
const DISCONNECT: &str = "v1/gateway/disconnect";
const QUESTION: &str = "v1/devices/me/rpc/request/1";
const ANSWER: &str = "v1/devices/me/rpc/response/1";
const ASKING: &str = r#"{"method":"getSessionLimits","params":{}}"#;

impl World {
    /// A world with a gateway called `site` beside the others.
    fn with_site() -> Self {
        let mut world = Self::new();
        world.site_is(Role::Gateway);
        world
    }

    fn site_is(&mut self, role: Role) {
        let site = Identity { role, ..device(5, "site", SITE_TOKEN) };
        self.broker.handle_registry(identities().into_iter().chain([site]).collect(), self.now);
    }

    fn site(&mut self, version: u8) -> ConnId {
        self.client(version, SITE_TOKEN, "uplink")
    }

    /// What is stored, as device, time and values.
    fn readings(&self) -> Vec<(&str, Option<i64>, &str)> {
        self.stored.iter().map(|r| (r.device.as_str(), r.device_ts, r.values.as_str())).collect()
    }

    /// Sends a message of `site` with version 5 and gives back the code of its PUBACK.
    fn says(&mut self, site: ConnId, topic: &str, payload: &str) -> u8 {
        self.send(site, &publish_to(topic, 5, 9, payload));
        self.commit();
        let answer = self.sent(site);
        assert_eq!((answer[0], &answer[2..4]), (0x40, &[0, 9][..]), "{answer:02x?}");
        answer.get(4).copied().unwrap_or(0)
    }
}

#[test]
fn a_message_of_a_gateway_is_one_commit_and_one_puback_whoever_is_in_it() {
    for version in [3, 4, 5] {
        let mut world = World::with_site();
        let site = world.site(version);
        let payload =
            r#"{"A":[{"ts":5,"values":{"t":2.50}},{"n":1}],"B":[{"ts":6,"values":{"t":3}}],"C":[]}"#;
        world.send(site, &publish_to(TELEMETRY, version, 7, payload));
        assert!(world.sent(site).is_empty(), "nothing is on disk yet");
        assert!(world.commit() && !world.commit());
        assert_eq!(world.sent(site), puback(7));
        let expected =
            [("A", Some(5), r#"{"t":2.50}"#), ("A", None, r#"{"n":1}"#), ("B", Some(6), r#"{"t":3}"#)];
        assert_eq!(world.readings(), expected);
    }
}

#[test]
fn a_gateways_message_with_nothing_to_store_is_acknowledged_at_once() {
    let mut world = World::with_site();
    let site = world.site(4);
    for payload in ["{}", r#"{"A":[]}"#, r#"{"A":[{}]}"#] {
        world.send(site, &publish_to(TELEMETRY, 4, 7, payload));
        assert_eq!(world.sent(site), puback(7), "{payload}");
    }
    assert!(!world.commit() && world.stored.is_empty());
}

#[test]
fn local_clients_hear_of_devices_behind_a_gateway_as_of_any() {
    let mut world = World::with_site();
    let panel = world.subscriber(4, "panel", "devices/+/telemetry", 0);
    let site = world.site(4);
    world.send(site, &publish_to(TELEMETRY, 4, 7, r#"{"A":[{"ts":5,"values":{"n":1}}]}"#));
    assert!(world.sent(panel).is_empty());
    world.commit();
    assert_eq!(world.sent(panel), message(4, 0, 0, "devices/A/telemetry", &[], r#"{"n":1}"#));
}

#[test]
fn a_device_that_is_no_gateway_is_told_so_and_nothing_is_stored() {
    let mut world = World::with_site();
    let (old, new) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
    for topic in [TELEMETRY, CONNECT, DISCONNECT] {
        world.send(old, &publish_to(topic, 4, 7, r#"{"A":[{"n":1}]}"#));
        assert_eq!(world.sent(old), puback(7));
        world.send(new, &publish_to(topic, 5, 7, r#"{"A":[{"n":1}]}"#));
        let refusal = world.sent(new);
        assert_eq!((refusal[0], refusal[4]), (0x40, 0x90), "{topic}");
        assert!(String::from_utf8_lossy(&refusal).contains("not marked as a gateway"), "{refusal:02x?}");
    }
    assert!(!world.commit() && world.stored.is_empty());
    let panel = world.client(5, PANEL_TOKEN, "panel");
    world.send(panel, &publish_to(TELEMETRY, 5, 7, "{}"));
    assert_eq!(world.sent(panel).get(4), Some(&0x87), "a local client is no device at all");
}

#[test]
fn what_is_not_served_under_the_gateways_topics_is_unknown() {
    let mut world = World::with_site();
    let site = world.site(5);
    for topic in ["v1/gateway/attributes", "v1/gateway/claim", "v1/gateway/telemetry/", "v1/gateway"] {
        assert_eq!(world.says(site, topic, "{}"), 0x90, "{topic}");
    }
    for filter in ["v1/gateway/rpc", "v1/gateway/attributes", "v1/gateway/+"] {
        world.send(site, &subscribe(5, 1, filter, 1));
        assert_eq!(world.sent(site).last(), Some(&0x8F), "{filter}");
    }
}

#[test]
fn a_gateway_speaks_for_nobody_who_is_in_the_registry() {
    let mut world = World::with_site();
    let site = world.site(5);
    for name in ["pump", "panel", "site"] {
        let payload = format!(r#"{{"A":[{{"n":1}}],"{name}":[{{"n":2}}]}}"#);
        assert_eq!(world.says(site, TELEMETRY, &payload), 0x99, "{name}");
        let kept = world.quarantined.pop().expect("set aside whole");
        assert_eq!((kept.device.as_str(), kept.topic.as_str()), ("site", TELEMETRY));
        assert_eq!(kept.payload, payload.as_bytes());
        assert!(kept.reason.starts_with(&format!("{name} is a device or local client")), "{}", kept.reason);
        assert_eq!(world.says(site, CONNECT, &format!(r#"{{"device":"{name}"}}"#)), 0x99, "{name}");
    }
    assert!(world.stored.is_empty() && world.quarantined.is_empty());
    let old = world.client(4, SITE_TOKEN, "old");
    world.send(old, &publish_to(TELEMETRY, 4, 7, r#"{"pump":[{"n":1}]}"#));
    assert!(world.commit());
    assert_eq!(world.sent(old), puback(7), "3.1.1 has no way to say no");
    assert_eq!((world.quarantined.len(), world.stored.len()), (1, 0));
}

#[test]
fn a_name_that_comes_into_the_registry_is_the_gateways_no_more() {
    let mut world = World::with_site();
    let site = world.site(5);
    assert_eq!(world.says(site, TELEMETRY, r#"{"A":[{"n":1}]}"#), 0);
    let gateway = Identity { role: Role::Gateway, ..device(5, "site", SITE_TOKEN) };
    let mut disabled = device(6, "A", "ATOKEN");
    disabled.enabled = false;
    let all = identities().into_iter().chain([gateway, disabled]).collect();
    world.broker.handle_registry(all, world.now);
    assert_eq!(world.says(site, TELEMETRY, r#"{"A":[{"n":2}]}"#), 0x99);
    world.site_is(Role::Gateway);
    assert_eq!(world.says(site, TELEMETRY, r#"{"A":[{"n":3}]}"#), 0);
    assert_eq!(world.values(), [r#"{"n":1}"#, r#"{"n":3}"#]);
}

#[test]
fn what_a_gateway_sends_amiss_is_set_aside_with_the_reason() {
    let mut world = World::with_site();
    let site = world.site(5);
    for (payload, reason) in [
        ("[]", "not an object"),
        (r#"{"A":{"n":1}}"#, "beside the device A is not an array"),
        (r#"{"A":[{"n":1}],"B":[5]}"#, "device B: element 0"),
        (r#"{"a/b":[{"n":1}]}"#, "cannot contain '/'"),
        ("{", "cannot be read as JSON"),
    ] {
        assert_eq!(world.says(site, TELEMETRY, payload), 0x99, "{payload}");
        let kept = world.quarantined.pop().expect("set aside");
        assert!(kept.reason.contains(reason), "{payload}: {}", kept.reason);
    }
    assert!(world.stored.is_empty());
}

#[test]
fn coming_and_going_is_acknowledged_and_kept_nowhere() {
    let mut world = World::with_site();
    let site = world.site(5);
    for topic in [CONNECT, DISCONNECT] {
        assert_eq!(world.says(site, topic, r#"{"device":"A","type":"default"}"#), 0);
        for payload in ["{}", "", r#"{"device":"a+b"}"#] {
            assert_eq!(world.says(site, topic, payload), 0x99, "{topic} {payload}");
        }
    }
    assert!(!world.commit() && world.stored.is_empty() && world.quarantined.is_empty());
}

#[test]
fn devices_behind_gateways_are_bounded_and_those_that_are_known_go_on() {
    let mut world = World::with_site();
    let name = |text: &str| DeviceName::parse(text).expect("valid");
    let known = (0..GATEWAY_DEVICES_MAX - 2).map(|number| name(&format!("d{number}")));
    world.broker.handle_journal_devices(known.chain([name("pump"), name("panel")]).collect());
    let site = world.site(5);
    assert_eq!(world.says(site, TELEMETRY, r#"{"A":[{"n":1}],"B":[{"n":1}],"C":[{"n":1}]}"#), 0x99);
    assert!(world.quarantined[0].reason.contains("10000 devices behind gateways"));
    assert_eq!(world.says(site, TELEMETRY, r#"{"A":[{"n":1}],"B":[{"n":1}],"C":[]}"#), 0);
    assert_eq!(world.says(site, TELEMETRY, r#"{"C":[{"n":1}]}"#), 0x99);
    assert_eq!(world.says(site, TELEMETRY, r#"{"C":[],"A":[{"n":2}],"d7":[{"n":2}]}"#), 0);
    assert_eq!(world.stored.len(), 4);
}

#[test]
fn what_of_a_gateway_was_set_aside_is_checked_again_before_it_is_stored() {
    let world = World::with_site();
    let all = |text: &str| gateway_messages::parse_telemetry(text.as_bytes()).expect("read");
    assert!(world.broker.check_behind_gateway(&all(r#"{"pump":[{"n":1}]}"#)).is_err());
    assert_eq!(world.broker.check_behind_gateway(&all(r#"{"A":[{"n":1}]}"#)), Ok(()));
    let none: [DeviceReadings; 0] = [];
    assert_eq!(world.broker.check_behind_gateway(&none), Ok(()));
}

#[test]
fn without_room_or_store_a_gateway_is_refused_as_a_device_is() {
    let mut world = World::with_site();
    let (old, site) = (world.client(4, SITE_TOKEN, "old"), world.site(5));
    world.broker.handle_storage_full(true);
    assert_eq!(world.says(site, TELEMETRY, r#"{"A":[{"n":1}]}"#), 0x97);
    world.send(old, &publish_to(TELEMETRY, 4, 7, r#"{"A":[{"n":1}]}"#));
    assert_eq!(world.closed(old), Some(CloseReason::StorageFull));
    world.broker.handle_storage_full(false);
    world.store_works = false;
    world.send(site, &publish_to(TELEMETRY, 5, 7, r#"{"A":[{"n":1}]}"#));
    assert!(world.commit());
    assert_eq!(world.closed(site), Some(CloseReason::StoreFailed));
    assert!(world.stored.is_empty());
}

#[test]
fn the_mark_takes_effect_while_the_gateway_is_connected() {
    let mut world = World::new();
    world.site_is(Role::Device);
    let site = world.site(5);
    let payload = r#"{"A":[{"n":1}]}"#;
    assert_eq!(world.says(site, TELEMETRY, payload), 0x90);
    world.site_is(Role::Gateway);
    assert_eq!(world.says(site, TELEMETRY, payload), 0);
    world.site_is(Role::Device);
    assert_eq!(world.says(site, TELEMETRY, payload), 0x90);
    assert!(world.is_open(site));
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn a_device_is_told_its_limits_whether_it_has_subscribed_or_not() {
    for (version, token) in [(3, PUMP_TOKEN), (4, SITE_TOKEN), (5, PUMP_TOKEN)] {
        let mut world = World::with_site();
        let conn = world.client(version, token, "asks");
        let asks = |world: &mut World, packet_id| {
            world.send(conn, &publish_to(QUESTION, version, packet_id, ASKING));
            world.sent(conn)
        };
        let limits = &world.broker.limits;
        let (bytes, count) = (limits.packet_bytes - PUBLISH_OVERHEAD_BYTES, limits.receive_maximum);
        let rates = r#"{"messages":null,"telemetryDataPoints":null,"telemetryMessages":null}"#;
        let gateways =
            if token == SITE_TOKEN { format!(r#""gatewayRateLimits":{rates},"#) } else { String::new() };
        let expected = format!(
            r#"{{{gateways}"maxInflightMessages":{count},"maxPayloadSize":{bytes},"rateLimits":{rates}}}"#
        );
        let told = message(version, 0, 0, ANSWER, &[], &expected);
        assert_eq!(asks(&mut world, 0), told);
        world.send(conn, &subscribe(version, 1, "v1/devices/me/rpc/response/+", 1));
        assert_eq!(world.sent(conn).last(), Some(&1));
        assert_eq!(asks(&mut world, 7), [&puback(7)[..], &told].concat());
        assert!(!world.commit(), "nothing of it goes to disk");
    }
}

#[test]
fn an_answer_carries_the_number_of_its_subscription_mqtt_3_3_4_3() {
    let mut world = World::new();
    let pump = world.pump_v5();
    let mut body = vec![0, 1, 2, 0x0B, 9];
    body.extend(string("v1/devices/me/rpc/response/+"));
    body.push(1);
    world.send(pump, &packet(0x82, &body));
    world.sent(pump);
    world.send(pump, &publish_to(QUESTION, 5, 0, ASKING));
    let told = world.sent(pump);
    let at = 2 + 1 + 2 + ANSWER.len();
    assert_eq!(&told[at..at + 3], [2, 0x0B, 9], "{told:02x?}");
}

#[test]
fn other_questions_are_not_served_and_local_clients_may_not_ask() {
    let mut world = World::new();
    let pump = world.pump_v5();
    for (topic, payload) in [
        (QUESTION, r#"{"method":"getTime","params":{}}"#),
        (QUESTION, ""),
        ("v1/devices/me/rpc/request/x", ASKING),
    ] {
        assert_eq!(world.says(pump, topic, payload), 0x90, "{topic} {payload}");
    }
    let panel = world.client(5, PANEL_TOKEN, "panel");
    assert_eq!(world.says(panel, QUESTION, ASKING), 0x87);
}

#[test]
fn what_a_device_may_publish_in_a_second_is_among_its_limits() {
    let mut world = World::with_limits(|limits| limits.device_publishes_per_s = 20);
    let pump = world.pump();
    world.send(pump, &publish_to(QUESTION, 4, 0, ASKING));
    let told = world.sent(pump);
    let text = String::from_utf8_lossy(&told);
    assert!(
        text.contains(r#""messages":"20:1""#) && text.contains(r#""telemetryMessages":"20:1""#),
        "{text}"
    );
}
