//! Devices forwarded as themselves: each over a connection of its own, with the token it has here and at the hub.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::support::{
    broker::{Broker, Setup},
    home::{Device, Home, stderr},
    wait::{SOON, until_true},
    wire::Version::{V5, V311},
};

/// What a command that reads a secret says when it must not succeed.
fn refused(home: &Home, arguments: &[&str], input: &str) -> String {
    let output = home.run_with_input(arguments, input);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

/// A device of the hub, which has the same token at the gateway; `further` are flags there.
fn of_both(hub: &Home, edge: &Home, name: &str, further: &[&str]) -> Device {
    let device = hub.add_device(name);
    edge.must_with_input(&[&["device", "add", name, "--token", "-"], further].concat(), &device.token);
    device
}

fn publish(edge: &Broker, device: &Device, numbers: std::ops::Range<u64>) {
    let mut client = edge.online(V5, device, "meter");
    for number in numbers {
        client.telemetry(&format!(r#"{{"ts":{},"values":{{"n":{number}}}}}"#, 1_700_000_000_000 + number));
    }
}

fn values(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!(r#"{{"n":{number}}}"#)).collect()
}

fn arrived(hub: &Broker, device: &str, numbers: std::ops::Range<u64>) {
    let expected = values(numbers);
    until_true("the readings are at the hub, once and in order", SOON, || {
        hub.stored_values(device) == expected
    });
}

#[test]
fn the_hub_sees_the_devices_it_knows_and_needs_no_gateway() {
    let (hub, mut edge) = (Broker::start(), Broker::start());
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let (pump, fan) = (of_both(&hub, &edge, "pump", &[]), of_both(&hub, &edge, "fan", &[]));
    publish(&edge, &pump, 0..50);
    publish(&edge, &fan, 0..20);
    publish(&edge, &pump, 50..100);
    arrived(&hub, "pump", 0..100);
    arrived(&hub, "fan", 0..20);
    let list = edge.must(&["device", "list"]);
    assert_eq!(list.matches("as itself").count(), 2, "{list}");

    // What was taken is known as such after a clean stop.
    edge.stop();
    assert_eq!(edge.count("SELECT count(*) FROM settled_devices WHERE through > 0"), 2);
    edge.restart();
    publish(&edge, &fan, 20..25);
    arrived(&hub, "fan", 0..25);
    arrived(&hub, "pump", 0..100);
}

#[test]
fn it_works_over_tls() {
    let hub = Setup::new().with_tls().start();
    let edge = Broker::start();
    let ca = hub.certificates().join("ca-root.pem").display().to_string();
    let url = format!("mqtts://localhost:{}", hub.tls().port());
    edge.must(&["uplink", "set", &url, "--devices", "--ca-file", &ca]);
    let devices = ["pump", "fan", "roof"].map(|name| of_both(&hub, &edge, name, &[]));
    for device in &devices {
        publish(&edge, device, 0..30);
    }
    for device in &devices {
        arrived(&hub, &device.name, 0..30);
    }
}

#[test]
fn one_device_goes_as_itself_and_the_others_by_the_gateway() {
    let (hub, edge) = (Broker::start(), Broker::start());
    let account = hub.add_device("gateway");
    hub.must(&["device", "set", "gateway", "--gateway", "on"]);
    let url = format!("mqtt://{}", hub.plain());
    edge.must_with_input(&["uplink", "set", &url, "--token", "-"], &account.token);
    let pump = of_both(&hub, &edge, "pump", &["--forward-as-itself"]);
    let fan = edge.add_device("fan");
    publish(&edge, &fan, 0..5);
    publish(&edge, &pump, 0..10);
    arrived(&hub, "pump", 0..10);
    arrived(&hub, "fan", 0..5);
    assert_eq!(hub.count("SELECT count(*) FROM quarantine"), 0, "the gateway has not spoken for the pump");
    let list = edge.must(&["device", "list"]);
    assert_eq!(list.matches("as itself").count(), 1, "{list}");
}

#[test]
fn a_device_with_others_behind_it_goes_as_itself_too() {
    let (hub, edge) = (Broker::start(), Broker::start());
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let site = of_both(&hub, &edge, "site", &["--gateway"]);
    publish(&edge, &site, 0..5);
    arrived(&hub, "site", 0..5);
}

#[test]
fn a_rotated_token_is_used_at_once_and_a_removed_device_is_forwarded_no_more() {
    let (hub, edge) = (Broker::start(), Broker::start());
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let pump = of_both(&hub, &edge, "pump", &[]);
    publish(&edge, &pump, 0..5);
    arrived(&hub, "pump", 0..5);
    // The hub ends the old connection: what it has not acknowledged by then is sent again.
    until_true("the edge knows it", SOON, || {
        edge.count("SELECT count(*) FROM settled_devices WHERE through >= 5") == 1
    });

    let rotated =
        Device { name: "pump".to_owned(), token: hub.must(&["device", "rotate", "pump"]).trim().to_owned() };
    edge.must_with_input(&["device", "set-token", "pump"], &rotated.token);
    publish(&edge, &rotated, 5..10);
    arrived(&hub, "pump", 0..10);

    edge.must(&["device", "remove", "pump"]);
    let file = edge.data_dir().join("uplink-tokens");
    assert_eq!(fs::read_to_string(file).expect("there"), "");
}

#[test]
fn a_device_is_forwarded_as_itself_until_the_operator_says_otherwise_and_again_when_the_token_is_given() {
    let (hub, edge) = (Broker::start(), Broker::start());
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let (pump, fan) = (of_both(&hub, &edge, "pump", &[]), of_both(&hub, &edge, "fan", &[]));
    publish(&edge, &pump, 0..5);
    arrived(&hub, "pump", 0..5);
    let taken = || edge.count("SELECT count(*) FROM settled_devices WHERE through >= 5") > 0;
    until_true("the edge knows it", SOON, taken);

    let told = || edge.log_lines_with("1 devices are forwarded as themselves");
    let before = told();
    edge.must(&["device", "forward", "pump", "--by-gateway"]);
    let forwarded = || -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&edge.must(&["device", "show", "pump", "--json"]))
            .expect("JSON")["forwarded_as_itself"]
            .clone()
    };
    assert_eq!(forwarded(), false);
    until_true("only the fan is", SOON, || told() > before);
    publish(&edge, &pump, 5..10);
    publish(&edge, &fan, 0..5);
    arrived(&hub, "fan", 0..5);
    assert_eq!(hub.stored_values("pump").len(), 5, "they stay");
    // A new token changes nothing about that.
    let rotated = edge.must(&["device", "rotate", "pump"]).trim().to_owned();
    assert_eq!(forwarded(), false);
    let back = |token: &str| edge.must_with_input(&["device", "set-token", "pump"], token);
    back(&pump.token);
    assert_eq!(forwarded(), false);

    let refused = refused(&edge, &["device", "forward", "pump", "--as-itself"], &rotated);
    assert!(refused.contains("that is not the token of pump"), "{refused}");
    assert_eq!(forwarded(), false);
    edge.must_with_input(&["device", "forward", "pump", "--as-itself"], &pump.token);
    assert_eq!(forwarded(), true);
    arrived(&hub, "pump", 0..10);
}

#[test]
fn a_token_the_hub_does_not_know_is_told_and_holds_up_nobody_else() {
    let (hub, edge) = (Broker::start(), Broker::start());
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let (pump, stranger) = (of_both(&hub, &edge, "pump", &[]), edge.add_device("stranger"));
    publish(&edge, &stranger, 0..5);
    publish(&edge, &pump, 0..5);
    arrived(&hub, "pump", 0..5);
    until_true("the refusal is told", SOON, || edge.log_lines_with("uplink of stranger: the hub says") > 0);
    assert_eq!(hub.count("SELECT count(*) FROM journal"), 5);
}

/// What `forebay status` says, and whether all is well.
fn status(edge: &Broker) -> (serde_json::Value, bool) {
    let output = edge.run(&["status", "--json"]);
    (serde_json::from_slice(&output.stdout).expect("JSON"), output.status.success())
}

#[test]
fn status_tells_how_the_uplinks_of_devices_are_doing() {
    let (hub, edge) = (Broker::start(), Broker::start());
    let before = edge.add_device("before");
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let pump = of_both(&hub, &edge, "pump", &[]);
    publish(&edge, &pump, 0..5);
    arrived(&hub, "pump", 0..5);
    // One added before the uplink: nobody knows its token.
    let troubles = |report: &serde_json::Value| report["troubles"].as_array().map_or(0, Vec::len);
    let (report, is_well) = status(&edge);
    assert_eq!(
        (&report["uplink"], troubles(&report), is_well),
        (&serde_json::Value::Null, 1, false),
        "{report}"
    );
    assert_eq!(report["uplink_devices"]["without_token_names"], serde_json::json!(["before"]), "{report}");
    edge.must(&["device", "forward", "before", "--by-gateway"]);
    until_true("that is no trouble any more", SOON, || status(&edge).1);

    let stranger = edge.add_device("stranger");
    publish(&edge, &stranger, 0..3);
    publish(&edge, &before, 0..2);
    until_true("the hub refuses it", SOON, || status(&edge).0["uplink_devices"]["refused"] == 1);
    let (report, is_well) = status(&edge);
    let devices = &report["uplink_devices"];
    assert!(!is_well);
    assert_eq!(devices["refused_names"], serde_json::json!(["stranger"]), "{report}");
    assert_eq!((&devices["devices"], &devices["connected"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(report["troubles"][0]["what"], "the hub refuses 1 of 2 devices: stranger", "{report}");
    let worst = &devices["worst"][0];
    assert_eq!((&worst["device"], &worst["connected"]), (&"stranger".into(), &false.into()), "{report}");
    assert!(worst["next_attempt_s"].as_u64().is_some_and(|wait| wait <= 20), "{report}");
    assert!(worst["last_upload_s"].is_null() && worst["last_error"]["words"].is_string(), "{report}");
    assert!(devices["oldest_s"].is_u64(), "{report}");
    assert!(devices["backlog_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report}");
    assert!(devices["backlog"].as_u64().is_some_and(|backlog| (3..=10).contains(&backlog)), "{report}");
    let shown = edge.run(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("Devices     2 with an uplink of their own, 1 connected, 1 refused by the hub"),
        "{shown}"
    );

    let waiting = || edge.must(&["uplink", "show"]).lines().any(|line| line == "waiting     5");
    until_true("three of the stranger and two that stay, and none of the pump", SOON, waiting);
}

#[test]
fn kept_tokens_lie_in_one_private_file_and_show_nowhere() {
    let hub = Broker::start();
    let mut edge = Setup::new().setting("log.level = \"trace\"").start();
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let pump = of_both(&hub, &edge, "pump", &[]);
    publish(&edge, &pump, 0..3);
    arrived(&hub, "pump", 0..3);
    let shown = ["list", "show"].map(|word| {
        edge.must(&[&["device", word][..], if word == "show" { &["pump"] } else { &[] }].concat())
    });
    edge.stop();
    let token = pump.token.as_str();
    let contains = |bytes: &[u8]| bytes.windows(token.len()).any(|window| window == token.as_bytes());
    assert!(!contains(shown.concat().as_bytes()) && !contains(edge.log().as_bytes()));
    let holders: Vec<_> =
        edge.files().into_iter().filter(|(_, bytes)| contains(bytes)).map(|(path, _)| path).collect();
    let file = edge.data_dir().join("uplink-tokens");
    assert_eq!(holders, std::slice::from_ref(&file));
    assert_eq!(fs::metadata(file).expect("there").permissions().mode() & 0o7777, 0o600);
}

#[test]
fn nothing_is_lost_by_kill_9_in_the_middle() {
    let (hub, mut edge) = (Broker::start(), Broker::start());
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices"]);
    let devices = ["pump", "fan"].map(|name| of_both(&hub, &edge, name, &[]));
    for round in 0..3_u64 {
        for device in &devices {
            let mut client = edge.online(V311, device, "meter");
            for number in round * 100..(round + 1) * 100 {
                // With a time, or they would wait for the clock of a machine where nobody sets it.
                client.telemetry(&format!(
                    r#"{{"ts":{},"values":{{"n":{number}}}}}"#,
                    1_700_000_000_000 + number
                ));
            }
        }
        edge.kill9();
        edge.restart();
    }
    for device in &devices {
        until_true("every reading is at the hub", SOON, || {
            let mut arrived = hub.stored_values(&device.name);
            arrived.sort_by_key(|values| values.len());
            let distinct: std::collections::BTreeSet<_> = arrived.into_iter().collect();
            distinct == values(0..300).into_iter().collect()
        });
    }
}
