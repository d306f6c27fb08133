//! Who is let in, who is not and what he is told, and what happens to those who are in when that changes.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    home::{Device, stderr, stdout},
    packets::{Connect, Publish},
    process,
    wait::{SOON, WITHIN_A_SECOND, until_true},
    wire::{TELEMETRY, VERSIONS, Version, publish},
};

use Version::{V5, V31, V311};

/// Somebody who is let in has a CONNACK of 0; anybody else a refusal, and then the end.
fn answer(broker: &Broker, version: Version, connect: &Connect) -> u8 {
    let mut client = Client::dial(broker.plain());
    let connack = client.ask_in(version, connect);
    let code = connack.connack().expect("a CONNACK comes first [MQTT-3.2.0-1]");
    if code != 0 {
        assert_eq!(connack.body[0], 0, "a refusal has no session present [MQTT-3.2.2-4]");
        let after = client.until_closed(SOON);
        assert!(
            after.iter().all(|reply| reply.disconnect().is_some()),
            "nothing but the end follows: {after:?}"
        );
    }
    code
}

#[test]
fn every_way_of_not_being_a_device_has_its_documented_code() {
    let broker = Setup::new().limit("refusals_per_address", 1000).start();
    broker.add_device("pump");
    let unknown = "NoDeviceHasThisToken";
    // The table of the hub's return codes: what is sent, the code before 5.0, the code of 5.0.
    type Make = fn(Connect) -> Connect;
    let table: [(&str, &str, Make, u8, u8); 8] = [
        ("unknown token", "meter", |c| c.user("NoDeviceHasThisToken"), 0x05, 0x86),
        (
            "unknown token, some password",
            "meter",
            |c| c.user("NoDeviceHasThisToken").password("x"),
            0x05,
            0x86,
        ),
        ("empty token", "meter", |c| c.user(""), 0x05, 0x86),
        ("empty token, some password", "meter", |c| c.user("").password("x"), 0x05, 0x86),
        ("only spaces", "meter", |c| c.user("   "), 0x05, 0x86),
        ("no user name", "meter", |c| c, 0x02, 0x85),
        ("nothing at all", "", |c| c, 0x05, 0x87),
        ("token in the client id", unknown, |c| c.user("pump"), 0x05, 0x86),
    ];
    for version in VERSIONS {
        for (case, client_id, make, before_5, of_5) in &table {
            if version == V31 && client_id.is_empty() {
                continue;
            }
            let expected = if version == V5 { *of_5 } else { *before_5 };
            let code = answer(&broker, version, &make(Connect::new(version, client_id)));
            assert_eq!(code, expected, "{case} in {version:?}");
        }
    }
    // Before 5.0 a password needs a user name: the flags themselves are malformed [MQTT-3.1.2-22].
    assert_eq!(answer(&broker, V5, &Connect::new(V5, "meter").password("x")), 0x86, "password only");
    assert_eq!(broker.telemetry().len(), 0);
}

#[test]
fn nothing_after_a_refused_connect_is_looked_at() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = Client::dial(broker.plain());
        let connect = Connect::new(version, "meter").user("NoDeviceHasThisToken").bytes();
        let reading = publish(version, TELEMETRY, 1, 1, r#"{"smuggled":1}"#);
        let honest = Connect::new(version, "meter").user(&device.token).bytes();
        client.send(&[connect, reading.clone(), honest, reading].concat());
        let replies = client.until_closed(SOON);
        assert!(
            replies.iter().all(|reply| reply.connack() != Some(0) && reply.puback().is_none()),
            "{replies:?}"
        );
    }
    assert_eq!(broker.telemetry().len(), 0, "[MQTT-3.1.4-5]");
}

#[test]
fn a_reading_sent_before_the_connack_is_stored_all_the_same() {
    // A-69: legal, and devices do it to save a round trip.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = Client::dial(broker.plain());
        let connect = Connect::new(version, "meter").user(&device.token).bytes();
        client.send(&[connect, publish(version, TELEMETRY, 1, 7, r#"{"early":1}"#)].concat());
        assert_eq!(client.packet().connack(), Some(0), "{version:?}");
        assert_eq!(client.packet().puback(), Some((7, 0)), "{version:?}");
    }
    assert_eq!(broker.stored_values("pump").len(), 3);
}

#[test]
fn client_id_and_password_do_not_matter_beside_the_right_token() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for (id, password) in [("", None), ("anything at all", Some("secret")), ("a/b", Some("")), ("#", None)] {
        for version in [V311, V5] {
            let mut connect = Connect::new(version, id).user(&device.token);
            if let Some(password) = password {
                connect = connect.password(password);
            }
            assert_eq!(answer(&broker, version, &connect), 0, "{id:?} {password:?} {version:?}");
        }
    }
}

#[test]
fn a_token_counts_byte_for_byte_and_is_never_sql() {
    // A-74, A-84: nothing is trimmed, folded, or pasted into a query.
    let broker = Setup::new().limit("refusals_per_address", 1000).start();
    let token = broker.add_device("pump").token;
    let flipped: String = token
        .chars()
        .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    let near = [
        format!("{token} "),
        format!(" {token}"),
        flipped,
        token[..19].to_owned(),
        format!("{token}{token}"),
    ];
    let hostile =
        ["' OR 1=1 --", "x\"; DROP TABLE devices; --", "%", "*", "pump", "demo", "NULL", "../../etc/passwd"];
    for wrong in near.iter().map(String::as_str).chain(hostile) {
        if wrong != token {
            assert_eq!(answer(&broker, V311, &Connect::new(V311, "meter").user(wrong)), 5, "{wrong:?}");
        }
    }
    let long = "x".repeat(3000);
    assert_eq!(answer(&broker, V311, &Connect::new(V311, "meter").user(&long)), 5, "a token of 3,000 bytes");
    assert_eq!(
        answer(&broker, V311, &Connect::new(V311, "meter").user(&token)),
        0,
        "and the device is still there"
    );
}

#[test]
fn mosquitto_pub_exits_with_5_when_the_token_is_wrong() {
    let broker = Broker::start();
    broker.add_device("pump");
    let exit = |user: &[&str]| {
        let port = broker.plain().port().to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-V",
            "mqttv311",
            "-q",
            "1",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-t",
            TELEMETRY,
            "-m",
            "{a:1}",
        ]);
        command
            .args(user)
            .stdin(Stdio::null())
            .output()
            .expect("mosquitto-clients is installed")
            .status
            .code()
    };
    assert_eq!(exit(&["-u", "NoDeviceHasThisToken"]), Some(5));
    assert_eq!(exit(&["-u", ""]), Some(5));
    assert_ne!(exit(&[]), Some(0));
    assert_eq!(broker.telemetry().len(), 0, "nothing of it is stored");
}

#[test]
fn a_device_added_while_the_broker_runs_is_let_in_at_once() {
    let broker = Broker::start();
    for n in 0..5 {
        let device = broker.add_device(&format!("pump {n}"));
        broker.online(V311, &device, "meter").telemetry(r#"{"n":1}"#);
    }
    assert_eq!(broker.telemetry().len(), 5);
}

/// What takes a device's right away, and whether the device can come back with another token.
fn loses_its_right(what: &str, mut act: impl FnMut(&Broker, &Device) -> Option<String>) {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let other = broker.add_device("fan");
    let mut old_v5 = broker.online(V5, &device, "five");
    let mut old_v3 = broker.online(V311, &device, "three");
    let mut bystander = broker.online(V311, &other, "meter");
    old_v5.telemetry(r#"{"before":5}"#);
    old_v3.telemetry(r#"{"before":3}"#);

    let new_token = act(&broker, &device);
    assert_eq!(old_v5.dismissed(), 0x98, "{what}: the v5 client is told");
    assert_eq!(old_v5.next(WITHIN_A_SECOND), Event::Closed, "{what}");
    assert_eq!(old_v3.next(WITHIN_A_SECOND), Event::Closed, "{what}: before 5.0 there is only the close");
    for version in VERSIONS {
        let code = answer(&broker, version, &Connect::new(version, "five").user(&device.token));
        assert_eq!(
            code,
            if version == V5 { 0x86 } else { 5 },
            "{what}: the old token is refused, {version:?}"
        );
    }
    if let Some(token) = new_token {
        let device = Device { name: "pump".to_owned(), token };
        broker.online(V5, &device, "five").telemetry(r#"{"after":1}"#);
    }
    bystander.telemetry(r#"{"undisturbed":1}"#);
    assert_eq!(broker.stored_values("fan"), [r#"{"undisturbed":1}"#], "{what}: other devices notice nothing");
    assert!(broker.stored_values("pump").len() >= 2, "{what}: what was stored stays");
}

#[test]
fn rotating_a_token_closes_the_devices_connections_within_a_second() {
    loses_its_right("rotate", |broker, device| {
        let printed = broker.must(&["device", "rotate", &device.name]);
        let token = printed.trim_end().to_owned();
        assert_eq!(printed, format!("{token}\n"));
        assert_ne!(token, device.token);
        Some(token)
    });
}

#[test]
fn setting_a_token_closes_the_devices_connections_within_a_second() {
    loses_its_right("set-token", |broker, device| {
        let token = "chosenByTheOperator7";
        set_token(broker, &device.name, token);
        Some(token.to_owned())
    });
}

#[test]
fn disabling_a_device_closes_its_connections_within_a_second() {
    loses_its_right("disable", |broker, device| {
        broker.must(&["device", "disable", &device.name]);
        None
    });
}

#[test]
fn removing_a_device_closes_its_connections_within_a_second() {
    loses_its_right("remove", |broker, device| {
        broker.must(&["device", "remove", &device.name]);
        None
    });
}

#[test]
fn an_enabled_device_comes_back_with_its_old_token() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    broker.must(&["device", "disable", "pump"]);
    assert_eq!(answer(&broker, V311, &Connect::new(V311, "meter").user(&device.token)), 5);
    broker.must(&["device", "enable", "pump"]);
    broker.online(V311, &device, "meter").telemetry(r#"{"back":true}"#);
}

fn set_token(broker: &Broker, name: &str, token: &str) -> String {
    let mut child = broker
        .command(&["device", "set-token", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("forebay starts");
    child.stdin.take().expect("piped").write_all(format!("{token}\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        !stdout(&output).contains(token) && !stderr(&output).contains(token),
        "a given token is not repeated"
    );
    stderr(&output)
}

#[test]
fn a_token_of_the_operators_own_works_and_a_weak_one_is_warned_about() {
    let broker = Broker::start();
    let mut device = broker.add_device("pump");
    let warned = set_token(&broker, "pump", "demo");
    assert!(warned.contains("weak") || warned.contains("guess"), "{warned}");
    device.token = "demo".to_owned();
    broker.online(V311, &device, "meter").telemetry("{a:1}");
}

#[test]
fn two_devices_cannot_have_one_token() {
    let broker = Broker::start();
    let pump = broker.add_device("pump");
    broker.add_device("fan");
    let mut child = broker
        .command(&["device", "set-token", "fan"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("forebay starts");
    child.stdin.take().expect("piped").write_all(pump.token.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!stderr(&output).contains(&pump.token));
}

#[test]
fn the_list_shows_devices_and_no_token() {
    let broker = Broker::start();
    let pump = broker.add_device("pump");
    broker.must(&["device", "disable", "pump"]);
    broker.add_device("fan");
    for arguments in [&["device", "list"][..], &["device", "list", "--json"], &["device", "show", "pump"]] {
        let printed = broker.must(arguments);
        assert!(printed.contains("pump"), "{arguments:?}: {printed}");
        assert!(!printed.contains(&pump.token), "{arguments:?} shows a token");
    }
    let listed = broker.must(&["device", "list", "--json"]);
    // One document or one per line: either way each piece is JSON.
    let pieces: Vec<serde_json::Value> = serde_json::Deserializer::from_str(&listed)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("--json prints JSON: {error}: {listed}"));
    assert!(!pieces.is_empty());
}

#[test]
fn commands_on_a_device_that_is_not_there_fail_and_name_it() {
    let broker = Broker::start();
    for verb in ["show", "rotate", "disable", "enable", "remove"] {
        let output = broker.run(&["device", verb, "nobody"]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        assert!(stderr(&output).contains("nobody"), "{verb}: {}", stderr(&output));
    }
    broker.add_device("pump");
    assert_eq!(broker.run(&["device", "add", "pump"]).status.code(), Some(1), "the name is taken");
    for bad in ["a/b", "#", ""] {
        assert!(!broker.run(&["device", "add", bad]).status.success(), "{bad:?} is no name");
    }
}

#[test]
fn a_registry_that_cannot_be_read_lets_nobody_in() {
    // A-75: fail closed. Another process holds the file, then it is garbage.
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    let path = broker.data_dir().join("registry.db");
    let holder = rusqlite::Connection::open(&path).expect("it is there");
    holder.execute_batch("BEGIN EXCLUSIVE").expect("nobody else holds it");
    assert_ne!(answer(&broker, V311, &Connect::new(V311, "meter").user("NoDeviceHasThisToken")), 0);
    let code = answer(&broker, V311, &Connect::new(V311, "meter").user(&device.token));
    assert!(matches!(code, 0 | 3), "a known device is let in from memory, or asked to wait, not {code}");
    holder.execute_batch("ROLLBACK").expect("it was begun");
    drop(holder);

    broker.stop();
    std::fs::write(&path, vec![0x5A; 8192]).expect("written");
    let output = broker.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "it must not start without its registry: {}", stderr(&output));
    assert!(stderr(&output).contains("registry.db"), "{}", stderr(&output));
}

#[test]
fn guessing_tokens_gets_slow_and_a_good_device_behind_the_same_address_still_gets_in() {
    // A-83: ten refusals at full speed, then each one makes the next wait.
    let broker = Setup::new().limit("refusals_per_address", 5).limit("refusal_wait_max_ms", 500).start();
    let device = broker.add_device("pump");
    let started = std::time::Instant::now();
    for n in 0..10 {
        let guess = Connect::new(V311, "guesser").user(format!("guess number {n}"));
        assert_eq!(answer(&broker, V311, &guess), 5);
    }
    let slowed = started.elapsed();
    assert!(slowed.as_millis() >= 500, "ten guesses, five free, took only {slowed:?}");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
}

#[test]
fn a_will_outside_the_devices_rights_is_refused_at_connect() {
    // A-30, A-79.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for topic in ["$SYS/broker", "$CONTROL/x", "v1/gateway/telemetry", "some/other/topic"] {
        for (version, code) in [(V311, 5), (V5, 0x87)] {
            let connect =
                Connect::new(version, "meter").user(&device.token).will(Publish::new(topic, "{}").qos(0, 0));
            assert_eq!(answer(&broker, version, &connect), code, "will to {topic} in {version:?}");
        }
    }
    let allowed = Connect::new(V311, "meter")
        .user(&device.token)
        .will(Publish::new(TELEMETRY, r#"{"gone":1}"#).qos(1, 0));
    assert_eq!(answer(&broker, V311, &allowed), 0, "a will of telemetry is within them");
}

#[test]
fn a_second_device_with_the_same_client_id_disturbs_nobody() {
    // A-66: a session belongs to (device, client id).
    let broker = Broker::start();
    let (pump, fan) = (broker.add_device("pump"), broker.add_device("fan"));
    let mut first = broker.online(V5, &pump, "meter");
    let mut second = broker.online(V5, &fan, "meter");
    first.telemetry(r#"{"of":"pump"}"#);
    second.telemetry(r#"{"of":"fan"}"#);
    assert_eq!(broker.stored_values("pump"), [r#"{"of":"pump"}"#]);
    assert_eq!(broker.stored_values("fan"), [r#"{"of":"fan"}"#]);
}

#[test]
fn no_listener_exists_that_was_not_asked_for() {
    // A-81: the sockets of the process that listen are those it announced.
    let broker = Setup::new().with_tls().start();
    let pid = broker.pid();
    let mut announced = vec![broker.plain().port(), broker.tls().port()];
    announced.sort_unstable();
    let mut listening = Vec::new();
    until_true("both listen", SOON, || {
        listening = process_listens_on(pid);
        listening.len() >= announced.len()
    });
    assert_eq!(listening, announced);
    assert!(process::descriptors(pid) > 0);
}

fn process_listens_on(pid: u32) -> Vec<u16> {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process is alive")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).expect("the table of sockets");
        for fields in text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            if fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]) {
                let port = fields[1].rsplit(':').next().expect("address:port");
                ports.push(u16::from_str_radix(port, 16).expect("hexadecimal"));
            }
        }
    }
    ports.sort_unstable();
    ports
}
