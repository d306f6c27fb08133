//! What devices publish: every form that is stored, and what becomes of what is not.

use crate::support::{
    broker::Broker,
    client::{Client, Event},
    wait::{SOON, until_true},
    wire::{PINGREQ, Reply, TELEMETRY, VERSIONS, Version, publish},
};

use Version::{V5, V311};

fn stored_after(payload: &str) -> Vec<(i64, String)> {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry(payload);
    broker.telemetry().iter().map(|row| (row.ts, row.values().to_owned())).collect()
}

#[test]
fn the_three_telemetry_topics_are_one() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        for topic in [TELEMETRY, "v2/t", "v2/t/j"] {
            assert_eq!(client.publish(topic, r#"{"a":1}"#), 0, "{topic} {version:?}");
        }
    }
    assert_eq!(broker.stored_values("pump"), [r#"{"a":1}"#; 9]);
}

#[test]
fn every_documented_form_is_stored_as_strict_json_with_its_own_numbers() {
    let one_of = |payload: &str| {
        let mut rows = stored_after(payload);
        assert_eq!(rows.len(), 1, "{payload}");
        rows.remove(0)
    };
    assert_eq!(
        one_of(r#"{"ts":1700000000000,"values":{"t":25.10}}"#),
        (1_700_000_000_000, r#"{"t":25.10}"#.into())
    );
    assert_eq!(one_of("{temperature:25}").1, r#"{"temperature":25}"#);
    assert_eq!(one_of("{'a' = 'x' ; b => TRUE}").1, r#"{"a":"x","b":true}"#);
    assert_eq!(one_of(r#"{"big":100000000000000000000,"e":1E1,"o":{"n":[1,2]}}"#).1, {
        r#"{"big":100000000000000000000,"e":1E1,"o":{"n":[1,2]}}"#
    });
    let rows = stored_after(r#"[{"a":1},{"ts":5,"values":{"b":2}}]"#);
    assert_eq!(rows.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), [r#"{"a":1}"#, r#"{"b":2}"#]);
    assert_eq!(rows[1].0, 5);
}

#[test]
fn a_reading_without_a_time_gets_ours() {
    let before = now_ms();
    let ts = stored_after(r#"{"a":1}"#)[0].0;
    assert!((before - 1_000..=now_ms() + 1_000).contains(&ts), "{ts} is not about now");
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the end of time")
}

#[test]
fn a_qos_0_reading_is_stored_within_commit_wait() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        client.send(&publish(version, TELEMETRY, 0, 0, r#"{"qos":0}"#));
        assert!(client.ping(SOON), "no answer but the PINGRESP comes");
    }
    until_true("the QoS 0 readings are on disk", SOON, || broker.stored_values("pump").len() == 3);
}

#[test]
fn a_malformed_payload_is_answered_as_documented_and_kept_in_quarantine() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let malformed =
        ["", "{", "25", "\"x\"", "null", "[1]", "[[]]", r#"[{"a":1},2]"#, "{a:1,}", "{\"a\":1} x", "{a:x y}"];
    for (version, code) in [(V311, 0x00), (V5, 0x99)] {
        let mut client = broker.online(version, &device, "meter");
        for payload in malformed {
            assert_eq!(client.publish(TELEMETRY, payload), code, "{payload:?} in {version:?}");
        }
        client.telemetry(r#"{"good":1}"#);
    }
    assert_eq!(
        broker.stored_values("pump"),
        [r#"{"good":1}"#; 2],
        "one bad element refuses the whole message"
    );
    let kept = 2 * malformed.len() as i64;
    assert_eq!(broker.count("SELECT count(*) FROM quarantine"), kept, "acknowledged means on disk here too");
    assert_eq!(
        broker.count("SELECT count(*) FROM quarantine WHERE length(reason) > 5"),
        kept,
        "each with its reason"
    );
    assert_eq!(broker.count("SELECT count(*) FROM quarantine WHERE payload = CAST('{' AS BLOB)"), 2);
}

#[test]
fn a_malformed_qos_0_payload_is_kept_and_the_connection_stays() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    client.send(&publish(V311, TELEMETRY, 0, 0, "{"));
    assert!(client.ping(SOON));
    until_true("it is in quarantine", SOON, || broker.count("SELECT count(*) FROM quarantine") == 1);
}

#[test]
fn the_quarantine_is_bounded() {
    let broker = crate::support::broker::Setup::new().limit("quarantine_rows", 10).start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    for n in 0..30 {
        client.publish(TELEMETRY, format!("{{bad {n}"));
    }
    let kept = broker.count("SELECT count(*) FROM quarantine");
    assert!((1..=10).contains(&kept), "{kept} rows are kept");
    assert_eq!(
        broker.count("SELECT count(*) FROM quarantine WHERE payload = CAST('{bad 29' AS BLOB)"),
        1,
        "the newest"
    );
}

#[test]
fn an_unknown_topic_of_the_hubs_is_answered_as_documented() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for topic in ["v1/devices/me/telemetri", "v1/nonsense", "v2/x", "v1/devices/other/telemetry"] {
        for (version, code) in [(V311, 0x00), (V5, 0x90)] {
            let mut client = broker.online(version, &device, "meter");
            assert_eq!(client.publish(topic, "{a:1}"), code, "{topic} in {version:?}");
            client.telemetry(r#"{"still":"here"}"#);
        }
    }
    assert!(broker.stored_values("pump").iter().all(|values| values == r#"{"still":"here"}"#));
}

#[test]
fn a_topic_devices_have_no_right_to_is_refused_and_never_met_with_silence() {
    // C-31, A-28: v5 has a code for it, before there is only the close.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for topic in ["some/topic", "$x/y", "$", "$SYSx"] {
        let mut client = broker.online(V5, &device, "meter");
        assert_eq!(client.publish(topic, "x"), 0x87, "{topic}");
        let mut client = broker.online(V311, &device, "meter");
        client.publish_only(topic, "x");
        assert_eq!(client.until_closed(SOON), [], "{topic}");
    }
}

#[test]
fn an_empty_object_or_array_is_acknowledged_and_stores_nothing() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V5, &device, "meter");
    client.telemetry("{}");
    client.telemetry("[]");
    client.telemetry(r#"{"only":null}"#);
    assert_eq!(broker.telemetry().len(), 0);
    assert_eq!(broker.count("SELECT count(*) FROM quarantine"), 0);
}

#[test]
fn a_repeat_after_its_puback_is_a_new_reading() {
    // C-48: after PUBACK the packet id is free; DUP says nothing any more.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    let mut bytes = publish(V311, TELEMETRY, 1, 77, "{a:1}");
    for first in [0x32, 0x3A] {
        bytes[0] = first;
        client.send(&bytes);
        assert_eq!(client.packet().puback(), Some((77, 0)));
    }
    assert_eq!(broker.stored_values("pump").len(), 2, "[MQTT-4.3.2-2]");
}

#[test]
fn acks_come_in_the_order_of_the_messages_whatever_becomes_of_each() {
    // C-53: good, malformed and unknown ones mixed; none may overtake another.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V5, &device, "meter");
    let kinds = [
        (TELEMETRY, "{a:1}", 0x00),
        (TELEMETRY, "{", 0x99),
        ("v1/nonsense", "x", 0x90),
        ("other", "x", 0x87),
    ];
    let expected: Vec<(u16, u8)> = (1..=16u16).map(|id| (id, kinds[usize::from(id) % 4].2)).collect();
    let burst: Vec<u8> = expected
        .iter()
        .flat_map(|(id, _)| {
            let (topic, payload, _) = kinds[usize::from(*id) % 4];
            publish(V5, topic, 1, *id, payload)
        })
        .collect();
    client.send(&[burst, PINGREQ.to_vec()].concat());
    let mut acks = Vec::new();
    while acks.len() < expected.len() {
        match client.next(SOON) {
            Event::Packet(Reply { first: 0xD0, .. }) => {}
            Event::Packet(reply) => acks.push(reply.puback().unwrap_or_else(|| panic!("{reply:?}"))),
            other => panic!("{other:?} after {acks:?}"),
        }
    }
    assert_eq!(acks, expected, "[MQTT-4.6.0-2]");
}

#[test]
fn a_publish_followed_by_a_reset_hurts_nobody() {
    // A-63: stored or not; never a crash.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for _ in 0..50 {
        let mut client = broker.online(V311, &device, "meter");
        client.publish_only(TELEMETRY, "{a:1}");
        socket2::SockRef::from(client.tcp())
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("a TCP option");
        drop(client);
    }
    let mut client = broker.online(V311, &device, "meter");
    client.telemetry(r#"{"after":1}"#);
    assert!(broker.stored_values("pump").contains(&r#"{"after":1}"#.to_owned()));
}

#[test]
fn a_payload_of_every_size_up_to_the_largest_packet_is_stored() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    let overhead = 1 + 3 + 2 + TELEMETRY.len() + 2 + r#"{"s":""}"#.len();
    for size in [0, 1, 100, 117, 118, 119, 16_000, 16_400, 60_000, 65_536 - overhead] {
        let payload = format!(r#"{{"s":"{}"}}"#, "x".repeat(size));
        client.telemetry(&payload);
        assert_eq!(broker.stored_values("pump").last(), Some(&payload), "{size} characters");
    }
    client.publish_only(TELEMETRY, format!(r#"{{"s":"{}"}}"#, "x".repeat(65_536 - overhead + 1)));
    client.until_closed(SOON);
}

#[test]
fn telemetry_is_told_in_every_format_and_follows_what_comes() {
    use std::{io::BufRead, process::Stdio};
    let broker = Broker::start();
    let (pump, fan) = (broker.add_device("pump"), broker.add_device("fan"));
    let mut client: Client = broker.online(V311, &pump, "meter");
    client.telemetry(r#"{"ts":1700000000000,"values":{"t":1}}"#);
    broker.online(V311, &fan, "meter").telemetry(r#"{"speed":9}"#);
    let line = r#"{"seq":1,"device":"pump","ts":1700000000000,"values":{"t":1}}"#;
    assert_eq!(broker.must(&["telemetry", "--format", "ndjson", "--device", "pump"]), format!("{line}\n"));
    assert!(broker.must(&["telemetry", "--format", "csv"]).contains("speed"));
    assert!(broker.must(&["telemetry"]).contains("speed"));
    assert_eq!(broker.must(&["telemetry", "--format", "ndjson", "--limit", "1"]).lines().count(), 1);
    assert_eq!(broker.must(&["telemetry", "--format", "ndjson", "--since", "1h"]).lines().count(), 1);
    assert_eq!(broker.run(&["telemetry", "--device", "nobody"]).status.code(), Some(1));

    let mut follower = broker
        .command(&["telemetry", "--format", "ndjson", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("forebay starts");
    let mut told = std::io::BufReader::new(follower.stdout.take().expect("piped")).lines();
    let mut next = || told.next().expect("a line").expect("UTF-8");
    assert_eq!(next(), line);
    assert!(next().contains("speed"));
    client.telemetry(r#"{"new":1}"#);
    assert!(next().contains(r#""values":{"new":1}"#));
    follower.kill().expect("our child");
    follower.wait().expect("our child");
}
