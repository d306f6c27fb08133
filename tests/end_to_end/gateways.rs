//! A second forebay as the hub of a gateway: the readings of the devices behind one come to the other under their names.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    broker::{Broker, Setup},
    home::{Device, Home, Row, stdout},
    relay::Relay,
    wait::{SOON, until_true},
    wire::Version::{V5, V311},
};

/// Long enough for a few attempts that fail, with the waits between them.
const AFTER_TROUBLE: Duration = Duration::from_secs(90);

/// Adds a device that is a gateway, and gives back its token.
fn add_gateway(hub: &Home, name: &str) -> String {
    hub.must(&["device", "add", name, "--gateway"]).trim_end().to_owned()
}

/// From now on the readings of `edge` go to `url`, for which it has `token`.
fn set_uplink(edge: &Home, url: &str, token: &str, further: &[&str]) {
    edge.must_with_input(&[&["uplink", "set", url, "--token", "-"], further].concat(), token);
}

fn url(hub: &Broker) -> String {
    format!("mqtt://{}", hub.plain())
}

fn time(number: u64) -> i64 {
    1_700_000_000_000 + number as i64
}

fn value(number: u64) -> String {
    format!(r#"{{"n":{number}}}"#)
}

/// Publishes readings of `device`, each with a time of its own; all are acknowledged when this returns.
fn publish(edge: &Broker, device: &Device, numbers: std::ops::Range<u64>) {
    let mut client = edge.online(V311, device, "meter");
    for number in numbers {
        client.telemetry(&format!(r#"{{"ts":{},"values":{}}}"#, time(number), value(number)));
    }
}

/// What `hub` has of `device`: times and values.
fn stored(hub: &Home, device: &str) -> Vec<(i64, String)> {
    let of_device = |row: &Row| row.device == device;
    hub.telemetry().iter().filter(|row| of_device(row)).map(|row| (row.ts, row.values().to_owned())).collect()
}

fn readings(numbers: std::ops::Range<u64>) -> Vec<(i64, String)> {
    numbers.map(|number| (time(number), value(number))).collect()
}

fn arrived(hub: &Home, device: &str, numbers: std::ops::Range<u64>) {
    let expected = readings(numbers);
    until_true("the readings are at the hub, once and in order", SOON, || stored(hub, device) == expected);
}

fn each_arrived(hub: &Home, device: &str, numbers: std::ops::Range<u64>) {
    let expected: BTreeSet<_> = readings(numbers).into_iter().collect();
    until_true("every reading is at the hub", AFTER_TROUBLE, || {
        stored(hub, device).into_iter().collect::<BTreeSet<_>>() == expected
    });
}

/// The status of `edge` as one line of JSON without spaces between its parts.
fn status(edge: &Home) -> String {
    stdout(&edge.run(&["status", "--json"])).replace(": ", ":")
}

#[test]
fn the_devices_behind_a_gateway_are_at_the_hub_under_their_names_with_their_times() {
    let (mut hub, edge) = (Broker::start(), Broker::start());
    let token = add_gateway(&hub, "site");
    let devices = ["pump", "Pumpe Keller 3", "насос", "back\\slash"].map(|name| edge.add_device(name));
    publish(&edge, &devices[0], 0..50);
    set_uplink(&edge, &url(&hub), &token, &[]);
    for device in &devices[1..] {
        publish(&edge, device, 0..50);
    }
    publish(&edge, &devices[0], 50..100);
    arrived(&hub, "pump", 0..100);
    for device in &devices[1..] {
        arrived(&hub, &device.name, 0..50);
    }
    // The deepest, widest and largest readings one forebay takes are no less welcome at the next.
    let mut client = edge.online(V5, &devices[0], "meter");
    let deep = format!(r#"{{"deep":{}1{}}}"#, "[".repeat(15), "]".repeat(15));
    let wide: Vec<String> = (0..256).map(|key| format!(r#""{key}":1e-308"#)).collect();
    let large = format!(r#"{{"large":"{}"}}"#, "x".repeat(60_000));
    let extremes = [deep, format!("{{{}}}", wide.join(",")), large];
    extremes.iter().for_each(|values| client.telemetry(values));
    until_true("the extremes are at the hub", SOON, || {
        hub.stored_values("pump").get(100..).is_some_and(|values| values == extremes)
    });
    assert_eq!(hub.count("SELECT count(*) FROM quarantine"), 0);
    assert_eq!(hub.stored_values("site"), Vec::<String>::new(), "nothing is the gateway's own");
    until_true("nothing waits any more", SOON, || status(&edge).contains(r#""waiting":0"#));

    hub.kill9();
    hub.restart();
    assert_eq!(hub.stored_values("pump").len(), 103, "what was acknowledged is on disk");
}

#[test]
fn it_works_over_tls() {
    let hub = Setup::new().with_tls().start();
    let edge = Broker::start();
    let token = add_gateway(&hub, "site");
    let ca = hub.certificates().join("ca-root.pem").display().to_string();
    let address = format!("mqtts://localhost:{}", hub.tls().port());
    set_uplink(&edge, &address, &token, &["--ca-file", &ca]);
    for name in ["pump", "fan", "roof"] {
        publish(&edge, &edge.add_device(name), 0..30);
    }
    for name in ["pump", "fan", "roof"] {
        arrived(&hub, name, 0..30);
    }
}

#[test]
fn nothing_is_lost_by_cuts_and_by_kill_9_of_either_side() {
    let (mut hub, mut edge) = (Broker::start(), Broker::start());
    let token = add_gateway(&hub, "site");
    let relay = Relay::start();
    relay.lead_to(hub.plain());
    set_uplink(&edge, &format!("mqtt://{}", relay.address()), &token, &[]);
    let devices = ["pump", "fan"].map(|name| edge.add_device(name));
    for round in 0..3 {
        for device in &devices {
            publish(&edge, device, round * 200..(round + 1) * 200);
        }
        match round {
            0 => relay.cut(),
            1 => {
                hub.kill9();
                relay.cut();
                hub.restart();
            }
            _ => {
                edge.kill9();
                edge.restart();
            }
        }
        relay.lead_to(hub.plain());
    }
    for device in &devices {
        each_arrived(&hub, &device.name, 0..600);
    }
    assert_eq!(hub.count("SELECT count(*) FROM quarantine"), 0);
}

#[test]
fn a_device_that_is_no_gateway_there_is_told_and_nothing_is_set_aside() {
    let (hub, mut edge) = (Broker::start(), Broker::start());
    let account = hub.add_device("site");
    set_uplink(&edge, &url(&hub), &account.token, &[]);
    let pump = edge.add_device("pump");
    publish(&edge, &pump, 0..20);
    until_true("the status says what is wrong", SOON, || {
        let told = status(&edge);
        told.contains("not marked as a gateway") && told.contains(r#""well":false"#)
    });
    assert_eq!(hub.count("SELECT count(*) FROM journal"), 0);
    assert!(hub.log_lines_with("forebay device set site --gateway on") > 0);
    assert_eq!(edge.must(&["quarantine", "list", "--json"]), "");

    hub.must(&["device", "set", "site", "--gateway", "on"]);
    assert!(hub.must(&["device", "show", "site"]).contains("gateway    yes"));
    // It would try again by itself, after minutes.
    edge.stop();
    edge.restart();
    arrived(&hub, "pump", 0..20);
    until_true("all is well again", SOON, || status(&edge).contains(r#""well":true"#));
}

#[test]
fn a_name_the_hub_has_a_device_of_is_set_aside_and_the_others_go_on() {
    let (hub, edge) = (Broker::start(), Broker::start());
    let token = add_gateway(&hub, "site");
    let own = hub.add_device("pump");
    set_uplink(&edge, &url(&hub), &token, &[]);
    let (pump, fan) = (edge.add_device("pump"), edge.add_device("fan"));
    publish(&edge, &fan, 0..5);
    publish(&edge, &pump, 0..1);
    // A reading is given up only once others are taken.
    publish(&edge, &fan, 5..10);
    until_true("it is set aside with the reason", AFTER_TROUBLE, || {
        edge.must(&["quarantine", "list", "--json"])
            .contains("pump is a device or local client of this broker")
    });
    arrived(&hub, "fan", 0..10);
    publish(&hub, &own, 7..8);
    arrived(&hub, "pump", 7..8);
    let kept = hub.must(&["quarantine", "list", "--json"]);
    assert!(kept.contains("pump is a device or local client") && kept.contains("site"), "{kept}");

    // With the hub's own out of the way both ends can put it right.
    hub.must(&["device", "remove", "pump"]);
    until_true("the broker has heard of it", SOON, || {
        hub.run(&["quarantine", "retry", "--all"]).status.success()
    });
    until_true("it is stored again", SOON, || stored(&hub, "pump").contains(&(time(0), value(0))));
}

#[test]
fn gateways_can_be_tiered() {
    let (top, middle, edge) = (Broker::start(), Broker::start(), Broker::start());
    let (at_top, at_middle) = (add_gateway(&top, "region"), add_gateway(&middle, "site"));
    set_uplink(&edge, &url(&middle), &at_middle, &[]);
    set_uplink(&middle, &url(&top), &at_top, &[]);
    let (pump, own) = (edge.add_device("pump"), middle.add_device("boiler"));
    publish(&edge, &pump, 0..100);
    publish(&middle, &own, 0..10);
    arrived(&middle, "pump", 0..100);
    arrived(&top, "pump", 0..100);
    arrived(&top, "boiler", 0..10);
}

#[test]
fn without_a_token_of_their_own_devices_behind_a_gateway_wait_while_others_go_as_themselves() {
    let (top, middle, edge) = (Broker::start(), Broker::start(), Broker::start());
    let at_middle = add_gateway(&middle, "site");
    set_uplink(&edge, &url(&middle), &at_middle, &[]);
    middle.must(&["uplink", "set", &url(&top), "--devices"]);
    let boiler = top.add_device("boiler");
    middle.must_with_input(&["device", "add", "boiler", "--token", "-"], &boiler.token);
    publish(&edge, &edge.add_device("pump"), 0..20);
    publish(&middle, &boiler, 0..20);
    arrived(&middle, "pump", 0..20);
    arrived(&top, "boiler", 0..20);
    assert_eq!(top.stored_values("pump"), Vec::<String>::new());
    let region = add_gateway(&top, "region");
    set_uplink(&middle, &url(&top), &region, &[]);
    each_arrived(&top, "pump", 0..20);
}
