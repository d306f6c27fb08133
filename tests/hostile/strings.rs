//! A2: text that is none, topics and filters that cannot be.

use crate::{
    support::{
        packets::{Connect, Publish},
        wire::{TELEMETRY, VERSIONS, Version, packet, properties, publish, subscribe, text, unsubscribe},
    },
    table::{
        Expect::{Answered, Closed, NotSubscribed, Told, TurnedAway},
        Sender::{Online, Stranger},
        row, run,
    },
};

use Version::{V5, V311};

/// What no MQTT string may contain, and what we choose not to let in: controls and non-characters. [§1.5.3]
const NOT_TEXT: [(&str, &[u8]); 13] = [
    ("A-24 a stray continuation", &[b'a', 0x80]),
    ("A-24 a broken pair", &[0xC3, 0x28]),
    ("A-24 an overlong slash", &[0xC0, 0xAF]),
    ("A-24 an overlong NUL", &[0xC0, 0x80]),
    ("A-24 five bytes", &[0xF8, 0x88, 0x80, 0x80, 0x80]),
    ("A-24 beyond U+10FFFF", &[0xF4, 0x90, 0x80, 0x80]),
    ("A-25 U+D800 [MQTT-1.5.3-1]", &[0xED, 0xA0, 0x80]),
    ("A-25 U+0000 [MQTT-1.5.3-2]", &[b'a', 0x00]),
    ("A-25 U+0001", &[0x01]),
    ("A-25 U+001F", &[0x1F]),
    ("A-25 U+007F", &[0x7F]),
    ("A-25 U+009F", &[0xC2, 0x9F]),
    ("A-25 U+FFFF", &[0xEF, 0xBF, 0xBF]),
];

#[test]
fn bytes_that_are_no_text_in_every_field_that_must_be_text() {
    let mut rows = Vec::new();
    for version in VERSIONS {
        for (name, bytes) in NOT_TEXT {
            let connect = Connect::new(version, "mallory").user("x");
            let mut filter = vec![0, 1];
            filter.extend(if version == V5 { &[0][..] } else { &[] });
            filter.extend(text(bytes));
            let field = |field: &str| format!("{name} in the {field}");
            rows.extend([
                row(field("topic"), Online(version), publish(version, bytes, 1, 1, "{a:1}"), Closed),
                row(field("filter"), Online(version), packet(0x82, &[&filter[..], &[0]].concat()), Closed),
                row(field("filter to end"), Online(version), packet(0xA2, &filter), Closed),
                row(field("client id"), Stranger, Connect::new(version, bytes).user("x").bytes(), TurnedAway),
                row(field("user name"), Stranger, Connect::new(version, "m").user(bytes).bytes(), TurnedAway),
                row(
                    field("will topic"),
                    Stranger,
                    connect.will(Publish::new(bytes, "x").qos(0, 0)).bytes(),
                    TurnedAway,
                ),
            ]);
        }
    }
    run(&rows);
}

#[test]
fn topics_that_cannot_be() {
    let levels = |n: usize| vec!["a"; n].join("/");
    let mut rows = Vec::new();
    for version in VERSIONS {
        for (name, topic) in [
            ("A-26 empty", String::new()),
            ("A-27 513 levels", levels(513)),
            ("A-27 257 levels", levels(257)),
            ("A-27 1,025 bytes", "x".repeat(1025)),
            ("A-27 60,000 slashes", "/".repeat(60_000)),
            ("A-27 60,000 bytes in one level", "x".repeat(60_000)),
            ("A-31 plus [MQTT-3.3.2-2]", "v1/devices/+/telemetry".to_owned()),
            ("A-31 hash [MQTT-3.3.2-2]", "v1/devices/me/#".to_owned()),
            ("A-31 hash alone", "#".to_owned()),
        ] {
            rows.push(row(name, Online(version), publish(version, &topic, 0, 0, "{a:1}"), Closed));
            if topic.len() < 3000 {
                let connect =
                    Connect::new(version, "mallory").user("x").will(Publish::new(&topic, "x").qos(0, 0));
                rows.push(row(format!("{name}, of a will"), Stranger, connect.bytes(), TurnedAway));
            }
        }
    }
    let with = |property: &[u8]| {
        let mut body = text(TELEMETRY);
        body.extend([0, 1]);
        body.extend(properties(property));
        packet(0x32, &body)
    };
    let response_topic = [&[0x08][..], &text("a/+")].concat();
    rows.extend([
        row("A-26 empty, told", Online(V5), publish(V5, "", 1, 1, "x"), Told(&[0x82])),
        row("A-31 plus, told", Online(V5), publish(V5, "a/+", 1, 1, "x"), Told(&[0x81])),
        row(
            "A-31 response topic [MQTT-3.3.2-14]",
            Online(V5),
            with(&response_topic),
            Told(&[0x82, 0x90, 0x81]),
        ),
        row("A-27 levels, told", Online(V5), publish(V5, levels(257), 0, 0, "x"), Told(&[0x90])),
    ]);
    run(&rows);
}

#[test]
fn topics_that_look_like_paths_or_patterns_are_only_names() {
    let mut rows = Vec::new();
    for topic in
        ["v1/../../etc/passwd", "v1/devices/me/../other/telemetry", "v1/devices/%u/telemetry", "v1/a:b;--"]
    {
        let plain = Answered(vec![0x40, 0x02, 0x00, 0x09]);
        rows.push(row(format!("A-38 {topic}"), Online(V311), publish(V311, topic, 1, 9, "{a:1}"), plain));
    }
    run(&rows);
}

#[test]
fn filters_that_cannot_be_granted() {
    let mut rows = Vec::new();
    for version in VERSIONS {
        for filter in [
            "$share",
            "$share/",
            "$share/x",
            "$share//t",
            "$share/+/t",
            "$share/#/t",
            "$share/x/",
            "$share/x/t",
            "#",
            "+",
            "+/#",
            "/",
            "$SYS/#",
            "v1/devices/+/telemetry",
            "v1/devices/me/#",
            "v1/gateway/telemetry",
        ] {
            let bytes = subscribe(version, 7, &[(filter, 1)]);
            rows.push(row(format!("A-34, A-80 {filter}"), Online(version), bytes, NotSubscribed));
        }
        for (name, filter) in [
            ("C-54 hash not last", "a/#/b"),
            ("C-54 hash beside text", "a#"),
            ("C-54 plus beside text", "a+/b"),
            ("C-54 plus before text", "+a"),
            ("C-56 empty", ""),
        ] {
            rows.push(row(name, Online(version), subscribe(version, 7, &[(filter, 1)]), NotSubscribed));
            rows.push(row(
                format!("{name}, to end"),
                Online(version),
                unsubscribe(version, 7, &[filter]),
                Closed,
            ));
        }
        let many = vec![("a", 0); 5000];
        rows.push(row("A-36 5,000 filters", Online(version), subscribe(version, 7, &many), NotSubscribed));
        let eleven = vec![("a", 0); 11];
        rows.push(row("A-36 eleven filters", Online(version), subscribe(version, 7, &eleven), NotSubscribed));
        let long = "x".repeat(60_000);
        rows.push(row(
            "A-27 a filter of 60,000 bytes",
            Online(version),
            subscribe(version, 7, &[(&long, 0)]),
            NotSubscribed,
        ));
        let deep = vec!["+"; 257].join("/");
        rows.push(row(
            "A-27 257 levels",
            Online(version),
            subscribe(version, 7, &[(&deep, 0)]),
            NotSubscribed,
        ));
    }
    run(&rows);
}
