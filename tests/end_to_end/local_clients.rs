//! Local clients on the command line, and at the broker's door: their tokens are let in, and no longer once taken away.

use std::{io::Write as _, process::Stdio};

use crate::support::{
    broker::Broker,
    client::{Client, Event},
    home::{Home, stderr},
    packets::{Connect, Publish},
    wait::WITHIN_A_SECOND,
    wire::{Version, subscribe},
};

fn answer(broker: &Broker, token: &str) -> u8 {
    let mut client = Client::dial(broker.plain());
    let connack = client.ask_in(Version::V311, &Connect::new(Version::V311, "red").user(token));
    connack.connack().expect("a CONNACK")
}

fn listed(home: &Home, kind: &str) -> serde_json::Value {
    serde_json::from_str(&home.must(&[kind, "list", "--json"])).expect("--json prints JSON")
}

fn token_of(printed: &str) -> String {
    let token = printed.trim_end();
    assert_eq!(printed, format!("{token}\n"), "the token stands alone on standard output");
    assert_eq!(token.len(), 20);
    token.to_owned()
}

#[test]
fn a_client_is_added_rotated_and_removed_while_the_broker_runs() {
    let broker = Broker::start();
    let old = token_of(&broker.must(&["client", "add", "red"]));
    let mut connected = Client::dial(broker.plain());
    connected.connect(Version::V5, "red", &old);

    let new = token_of(&broker.must(&["client", "rotate", "red"]));
    assert_eq!(connected.dismissed(), 0x98);
    assert_eq!(connected.next(WITHIN_A_SECOND), Event::Closed);
    assert_eq!(answer(&broker, &old), 5);
    assert_eq!(answer(&broker, &new), 0);

    broker.must(&["client", "disable", "red"]);
    assert_eq!(answer(&broker, &new), 5);
    broker.must(&["client", "enable", "red"]);
    assert_eq!(answer(&broker, &new), 0);

    broker.must(&["client", "remove", "red"]);
    assert_eq!(answer(&broker, &new), 5);
    assert_eq!(listed(&broker, "client"), serde_json::json!([]));
}

#[test]
fn a_client_has_the_token_and_the_rights_it_was_given() {
    let home = Home::new();
    let mut child = home
        .command(&["client", "add", "red", "--publish", "hall/#", "--publish", "a/+", "--token", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("forebay starts");
    child.stdin.take().expect("piped").write_all(b"chosenByTheOperator7\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.stdout, b"", "whoever gave the token has it");

    let shown: serde_json::Value =
        serde_json::from_str(&home.must(&["client", "show", "red", "--json"])).expect("JSON");
    assert_eq!(shown["publish"], serde_json::json!(["hall/#", "a/+"]));
    assert_eq!(shown["subscribe"], serde_json::Value::Null);
    for arguments in [&["client", "list"][..], &["client", "show", "red"]] {
        let printed = home.must(arguments);
        assert!(printed.contains("hall/#, a/+"), "{printed}");
        assert!(printed.contains("everything but the hub's topics and $"), "{printed}");
        assert!(!printed.contains("chosenByTheOperator7"), "{printed}");
    }
}

#[test]
fn a_client_may_be_given_one_of_publishing_and_subscribing_alone() {
    let broker = Broker::start();
    let sensor = token_of(&broker.must(&["client", "add", "sensor", "--subscribe-nothing"]));
    let display = token_of(&broker.must(&["client", "add", "display", "--publish-nothing"]));
    let rights = |name: &str| {
        let shown = broker.must(&["client", "show", name, "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        (shown["publish"].clone(), shown["subscribe"].clone())
    };
    let (null, nothing) = (serde_json::Value::Null, serde_json::json!([]));
    assert_eq!(rights("sensor"), (null.clone(), nothing.clone()));
    assert_eq!(rights("display"), (nothing, null));

    let (mut publisher, mut listener) = (Client::dial(broker.plain()), Client::dial(broker.plain()));
    publisher.connect(Version::V5, "sensor", &sensor);
    listener.connect(Version::V5, "display", &display);
    for (client, code) in [(&mut publisher, 0x87), (&mut listener, 1)] {
        client.send(&subscribe(Version::V5, 1, &[("hall/#", 1)]));
        assert_eq!(client.packet().codes(Version::V5, 1), Some(&[code][..]));
    }
    assert_eq!(listener.publish("hall/lamp", "on"), 0x87);
    assert_eq!(publisher.publish("hall/lamp", "on"), 0);
    let message = Publish::read(Version::V5, &listener.packet()).expect("a PUBLISH");
    assert_eq!(message.told(), ("hall/lamp", "on"));
}

#[test]
fn a_client_publishes_to_a_topic_with_a_dollar_if_it_was_named_and_never_to_the_brokers_own() {
    let broker = Broker::start();
    let given = ["--publish", "$custom/#", "--publish", "#", "--subscribe", "$custom/#", "--subscribe", "#"];
    let token = token_of(&broker.must(&[&["client", "add", "red"][..], &given].concat()));
    let ordinary = broker.add_client("ordinary");
    let online = |client_id: &str, token: &str| {
        let mut client = Client::dial(broker.plain());
        client.connect(Version::V5, client_id, token);
        client
    };
    let mut red = online("red", &token);
    for topic in ["$SYS/broker/version", "$SYS/x", "$share/g/a", "$other/x"] {
        assert_eq!(red.publish(topic, "x"), 0x87, "{topic}");
    }
    let mut other = online("other", &ordinary);
    assert_eq!(other.publish("$custom/a", "x"), 0x87, "it was granted to another");

    let filters = [("$custom/#", 1), ("#", 1)];
    let mut named = online("named", &token);
    let mut wild = online("wild", &token);
    for (client, filter) in [(&mut named, filters[0]), (&mut wild, filters[1])] {
        client.send(&subscribe(Version::V5, 1, &[filter]));
        assert_eq!(client.packet().codes(Version::V5, 1), Some(&[1][..]));
    }
    red.send(&Publish::new("$custom/a", "1").qos(1, 100).retain().bytes(Version::V5));
    assert_eq!(red.packet().puback(), Some((100, 0)));
    assert_eq!(red.publish("end", "2"), 0);
    let told = |client: &mut Client| {
        let message = Publish::read(Version::V5, &client.packet()).expect("a PUBLISH");
        (message.told().0.to_owned(), message.told().1.to_owned())
    };
    assert_eq!(told(&mut named), ("$custom/a".to_owned(), "1".to_owned()));
    assert_eq!(told(&mut wild), ("end".to_owned(), "2".to_owned()), "a leading wildcard [MQTT-4.7.2-1]");

    // The retained message comes to who asks for it by name, and only then.
    let mut late = online("late", &token);
    late.send(&subscribe(Version::V5, 1, &[filters[1]]));
    assert_eq!(late.packet().codes(Version::V5, 1), Some(&[1][..]));
    assert!(late.ping(WITHIN_A_SECOND), "nothing comes before the PINGRESP");
    late.send(&subscribe(Version::V5, 2, &[filters[0]]));
    assert_eq!(late.packet().codes(Version::V5, 2), Some(&[1][..]));
    assert_eq!(told(&mut late), ("$custom/a".to_owned(), "1".to_owned()));
}

#[test]
fn a_filter_that_is_none_is_named_and_nothing_is_added() {
    let home = Home::new();
    for (flag, filter) in [
        ("--publish", "hall/#/lamp"),
        ("--subscribe", "$share/g/hall"),
        ("--publish", "$SYS/#"),
        ("--publish", ""),
    ] {
        let output = home.run(&["client", "add", "red", flag, filter]);
        assert_eq!(output.status.code(), Some(2), "{filter:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&format!("{filter:?}")), "{filter:?}: {}", stderr(&output));
    }
    assert!(!home.data_dir().exists());
}

#[test]
fn the_commands_for_devices_and_for_clients_leave_each_other_alone() {
    let home = Home::new();
    let device = home.add_device("pump");
    home.must(&["client", "add", "red"]);
    for verb in ["show", "rotate", "set-token", "disable", "enable", "remove"] {
        for (kind, name, other) in [("device", "red", "client"), ("client", "pump", "device")] {
            let output = home.run(&[kind, verb, name]);
            assert_eq!(output.status.code(), Some(1), "{kind} {verb} {name}");
            let said = format!("{name} is a {other}; use `forebay {other} ...`");
            assert!(stderr(&output).contains(&said), "{kind} {verb}: {}", stderr(&output));
        }
    }
    for (kind, name) in [("device", "red"), ("client", "pump")] {
        let output = home.run(&[kind, "add", name]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("named {name} exists already")), "{}", stderr(&output));
    }
    let (devices, clients) = (listed(&home, "device"), listed(&home, "client"));
    assert_eq!(devices.as_array().map(Vec::len), Some(1));
    assert_eq!(devices[0]["name"], "pump");
    assert_eq!(clients.as_array().map(Vec::len), Some(1));
    assert_eq!(clients[0]["name"], "red");
    assert_eq!(devices[0]["enabled"], true, "{} was not touched", device.name);
}
