//! `forebay status`: what it shows, when it fails, and that nobody can hurt the broker through its control socket.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    home::{Device, Home, stderr, stdout},
    tracer::Tracer,
    wait::{SOON, until, until_true},
    wire::{TELEMETRY, Version, subscribe},
};

use Version::V311;

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

fn status(broker: &Broker) -> Value {
    let output = broker.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    document(&output)
}

fn socket(home: &Home) -> PathBuf {
    home.data_dir().join("control.sock")
}

/// A connection to the control socket, which says no more than it is told to.
fn call(broker: &Broker) -> UnixStream {
    let caller = UnixStream::connect(socket(broker)).expect("the broker listens");
    caller.set_read_timeout(Some(SOON)).expect("a time-out");
    caller
}

/// What comes before the end of the connection, however that comes.
fn heard(mut caller: UnixStream) -> String {
    let mut answer = Vec::new();
    let ended = caller.read_to_end(&mut answer);
    let cut_off = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(ended.as_ref().is_ok_and(|_| true) || ended.as_ref().is_err_and(cut_off), "{ended:?}");
    String::from_utf8(answer).expect("UTF-8")
}

#[test]
fn a_running_broker_says_how_it_is_doing() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    for n in 0..5 {
        client.telemetry(&format!("{{n:{n}}}"));
    }
    client.publish(TELEMETRY, "{nonsense");
    let report = status(&broker);
    assert_eq!(report["well"], true, "{report}");
    assert_eq!(report["troubles"], serde_json::json!([]));
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["pid"], broker.pid());
    let store = &report["store"];
    assert_eq!((&store["storing"], &store["readings"]), (&true.into(), &5.into()), "{report}");
    assert_eq!((&store["quarantined"], &store["commits"]), (&1.into(), &6.into()), "{report}");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {report}"));
    let commit = |name: &str| number(&store[name]);
    assert!(0 < commit("commit_p50_us") && commit("commit_p50_us") <= commit("commit_p99_us"), "{report}");
    assert!(commit("commit_p99_us") <= commit("commit_max_us"), "{report}");
    assert!(number(&store["buffer_bytes"]) > 0 && number(&store["wal_bytes"]) > 0, "{report}");
    assert_eq!(number(&report["clients"]["connected"]), 1);
    assert_eq!(number(&report["clients"]["registered"]), 1);
    assert_eq!(number(&report["messages"]["received"]), 6);
    assert_eq!(report["uplink"], Value::Null);

    let shown = broker.must(&["status"]);
    assert!(shown.lines().next().is_some_and(|line| line.ends_with("and all is well")), "{shown}");
    assert!(shown.contains("5 stored since the start, 1 payload in quarantine"), "{shown}");
}

#[test]
fn the_bytes_written_to_the_storage_are_those_the_kernel_counts() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
    let counted = || {
        let text = fs::read_to_string(format!("/proc/{}/io", broker.pid())).expect("it is alive and ours");
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    let before = counted();
    let told = status(&broker)["store"]["bytes_written"].as_u64().expect("a number");
    assert!((before..=counted()).contains(&told), "{told}");
}

#[test]
fn without_a_broker_there_is_an_error_and_exit_code_1() {
    let mut broker = Broker::start();
    let not_running = |broker: &Broker| {
        for arguments in [&["status"][..], &["status", "--json"]] {
            let output = broker.run(arguments);
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            let expected = format!("no broker is running on {}", broker.data_dir().display());
            assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
            assert_eq!(stdout(&output), "");
        }
    };
    broker.kill9();
    assert!(socket(&broker).exists(), "a killed broker leaves its socket");
    not_running(&broker);
    broker.restart();
    assert_eq!(status(&broker)["pid"], broker.pid());
    broker.stop();
    assert!(!socket(&broker).exists());
    not_running(&broker);
}

#[test]
fn a_store_that_fails_is_shown_with_its_words_and_exit_code_3_and_then_no_more() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    client.telemetry("{a:1}");
    let options = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1+"];
    let Some(tracer) = Tracer::attach(broker.pid(), &options) else { return };
    client.publish_only(TELEMETRY, "{doubtful:1}");
    assert_eq!(client.until_closed(SOON), []);
    let output = until("the store has failed for good", SOON, || {
        let output = broker.run(&["status", "--json"]);
        (output.status.code() == Some(3)).then_some(output)
    });
    let report = document(&output);
    assert_eq!((&report["well"], &report["store"]["storing"]), (&false.into(), &false.into()), "{report}");
    assert!(report["store"]["last_error"]["words"].as_str().is_some_and(|words| words.contains("journal")));
    let shown = broker.run(&["status"]);
    let text = stdout(&shown);
    assert_eq!(shown.status.code(), Some(3), "{text}");
    assert!(
        text.contains("but something is wrong") && text.contains("! readings are not stored: "),
        "{text}"
    );
    assert_eq!(stderr(&shown), "");
    tracer.detach();
    until_true("it stores again", Duration::from_secs(20), || broker.run(&["status"]).status.success());
    let report = status(&broker);
    assert!(report["store"]["last_error"]["words"].is_string(), "what has been wrong stays known: {report}");
}

#[test]
fn the_socket_is_for_its_owner_only_whatever_the_umask() {
    let broker = Setup::new().under(&["sh", "-c", "umask 000; exec \"$@\"", "sh"]).start();
    let mode = fs::metadata(socket(&broker)).expect("there is a socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn garbage_gets_an_error_and_hurts_nobody() {
    let broker = Broker::start();
    for (request, expected) in [
        (&b"{\"command\":\"dance\"}\n"[..], "no command \\\"dance\\\""),
        (b"status\n", "not a request"),
        (b"\n", "not a request"),
        (b"\x00\xFF\xFE\x10\x10MQTT\n", "not a request"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a request"),
        (b"{}\n", "not a request"),
        (&[b'{'; 1024], ""),
        (&[b'x'; 100_000], "at most 1024 bytes"),
    ] {
        let mut caller = call(&broker);
        // The broker need not read all of what is too much.
        let _ = caller.write_all(request);
        let _ = caller.shutdown(std::net::Shutdown::Write);
        let answer = heard(caller);
        assert!(answer.starts_with("{\"error\":") && answer.ends_with("}\n"), "{request:?}: {answer}");
        assert!(answer.contains(expected), "{request:?}: {answer}");
    }
    assert_eq!(status(&broker)["well"], true);
}

#[test]
fn who_says_nothing_is_let_go_and_the_others_get_their_turn() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    let began = Instant::now();
    let silent: Vec<UnixStream> = (0..12).map(|_| call(&broker)).collect();
    let mut slow = call(&broker);
    slow.write_all(b"{\"command\"").expect("it is accepted, or will be");
    assert!(client.ping(Duration::from_secs(2)), "devices notice nothing");
    client.telemetry("{a:1}");
    // All places are taken; the command waits for one, and gets it.
    assert_eq!(status(&broker)["store"]["readings"], 1);
    for caller in silent.into_iter().chain([slow]) {
        assert_eq!(heard(caller), "", "without a request there is no answer");
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "they had their time");
}

#[test]
fn a_data_directory_too_deep_for_a_socket_is_told_and_the_broker_runs() {
    let home = Home::new();
    let deep = home.path().join("d".repeat(120));
    let deep = deep.to_str().expect("UTF-8");
    let mut broker = Setup::new()
        .under(&["sh", "-c", "exec \"$1\" serve --listen 127.0.0.1:0 --data-dir \"$0\"", deep])
        .start();
    assert_eq!(broker.log_lines_with("there can be no control socket"), 1, "{}", broker.log());
    let mut command = crate::support::home::clean_command(crate::support::home::program());
    let output = command.args(["status", "--data-dir", deep]).output().expect("forebay starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("107 are possible"), "{}", stderr(&output));
    broker.stop();
}

/// Lets the readings of `edge` go to `address`, with the token of `account` there.
fn set_uplink(edge: &Broker, address: SocketAddr, account: &Device) {
    let token = edge.path().join("token");
    fs::write(&token, &account.token).expect("written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("set");
    let (url, token) = (format!("mqtt://{address}"), token.display().to_string());
    edge.must(&["uplink", "set", &url, "--plain", "--topic", TELEMETRY, "--token-file", &token]);
}

#[test]
fn a_hub_that_cannot_be_reached_is_shown_with_the_backlog_and_no_more_once_it_can() {
    let (hub, edge) = (Broker::start(), Broker::start());
    let (account, pump) = (hub.add_device("gateway"), edge.add_device("pump"));
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("an address");
    set_uplink(&edge, nobody, &account);
    let mut client = edge.online(V311, &pump, "meter");
    for n in 0..3 {
        client.telemetry(&format!("{{n:{n}}}"));
    }
    let output = until("the hub is found away", SOON, || {
        let output = edge.run(&["status", "--json"]);
        (output.status.code() == Some(3)).then_some(output)
    });
    let report = document(&output);
    let what = report["troubles"][0]["what"].as_str().expect("words");
    assert!(what.starts_with("the hub cannot be reached: ") && what.contains(&nobody.to_string()), "{what}");
    let uplink = &report["uplink"];
    assert_eq!((&uplink["connected"], &uplink["backlog"]), (&false.into(), &3.into()), "{report}");
    assert_eq!(uplink["backlog_bytes"], 3 * r#"{"n":0}"#.len(), "{report}");
    assert!(uplink["oldest_s"].as_u64().is_some_and(|age| age < 60), "{report}");
    let shown = stdout(&edge.run(&["status"]));
    assert!(shown.contains("! the hub cannot be reached: ") && shown.contains("3 readings wait"), "{shown}");

    set_uplink(&edge, hub.plain(), &account);
    let done = |report: &Value| report["uplink"]["uploaded"] == 3 && report["uplink"]["backlog"] == 0;
    let report = until("the hub has everything", SOON, || {
        Some(document(&edge.run(&["status", "--json"]))).filter(|report| done(report))
    });
    assert_eq!((&report["well"], &report["uplink"]["connected"]), (&true.into(), &true.into()), "{report}");
    assert_eq!((&report["uplink"]["oldest_s"], &report["dropped"]["too_old"]), (&Value::Null, &0.into()));
}

/// Between two rounds of what the broker tells.
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// What comes before `last`, as topic, payload and whether RETAIN is set.
fn told_until(client: &mut Client, last: &str) -> Vec<(String, String, bool)> {
    let mut told = Vec::new();
    while told.last().is_none_or(|(topic, _, _): &(String, String, bool)| topic != last) {
        let Event::Packet(reply) = client.next(TEN_SECONDS + SOON) else { panic!("nothing more was told") };
        assert_eq!(reply.first & 0xFE, 0x30, "a PUBLISH of QoS 0, not {reply:?}");
        let (topic, payload) = reply.body[2..].split_at(usize::from(reply.body[1]));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        told.push((text(topic), text(payload), reply.first & 1 == 1));
    }
    told
}

#[test]
fn a_client_with_the_right_is_told_all_at_once_and_anew_every_ten_seconds() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
    let token = broker.must(&["client", "add", "monitor", "--subscribe", "$SYS/#"]);
    let mut monitor = Client::dial(broker.plain());
    monitor.connect(V311, "monitor", token.trim_end());
    monitor.send(&subscribe(V311, 1, &[("$SYS/#", 0)]));
    assert_eq!(monitor.packet().codes(V311, 1), Some(&[0][..]));
    let told = told_until(&mut monitor, "$SYS/forebay/well");
    assert!(told.iter().all(|(_, _, retained)| *retained), "{told:?}");
    let value =
        |topic: &str| told.iter().find(|told| told.0 == topic).map(|(_, payload, _)| payload.as_str());
    assert_eq!(value("$SYS/broker/version"), Some(concat!("forebay version ", env!("CARGO_PKG_VERSION"))));
    assert_eq!(value("$SYS/broker/publish/messages/received"), Some("1"));
    assert_eq!(value("$SYS/forebay/store/readings"), Some("1"));
    assert_eq!(value("$SYS/forebay/well"), Some("true"));
    assert!(told.len() > 40, "{told:?}");

    let changed = told_until(&mut monitor, "$SYS/forebay/uptime_s");
    assert!(changed.iter().all(|(_, _, retained)| !retained), "{changed:?}");
    assert!(!changed.iter().any(|(topic, _, _)| topic == "$SYS/broker/version"), "it has not changed");

    let ordinary = broker.add_client("ordinary");
    let mut ordinary_client = Client::dial(broker.plain());
    ordinary_client.connect(V311, "ordinary", &ordinary);
    ordinary_client.send(&subscribe(V311, 1, &[("$SYS/#", 0)]));
    assert_eq!(ordinary_client.packet().codes(V311, 1), Some(&[0x80][..]));
}
