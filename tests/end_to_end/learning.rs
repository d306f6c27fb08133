//! Devices nobody here knows, learnt from the hub: point them at the gateway, and there is nothing else to do.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
};

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    home::{Device, Home, stdout},
    packets::Connect,
    wait::{SOON, until, until_true},
    wire::Version::{self, V5, V31, V311},
};

/// A gateway that learns from the hub at `hub`.
fn edge_of(hub: SocketAddr) -> Setup {
    let setup = Setup::new();
    setup.home().must(&["uplink", "set", &format!("mqtt://{hub}"), "--devices", "--learn"]);
    setup
}

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A connection that has sent CONNECT with `token`.
fn knock(edge: &Broker, version: Version, token: &str) -> Client {
    let mut client = Client::dial(edge.plain());
    client.send(&Connect::new(version, "meter").user(token).bytes());
    client
}

/// The code of the CONNACK that a CONNECT with `token` gets.
fn answer(edge: &Broker, version: Version, token: &str) -> u8 {
    knock(edge, version, token).packet().connack().expect("a CONNACK")
}

fn arrived(hub: &Broker, device: &str, numbers: std::ops::Range<u64>) {
    let expected: Vec<String> = numbers.map(|number| format!(r#"{{"n":{number}}}"#)).collect();
    until_true("the readings are at the hub, once and in order", SOON, || {
        hub.stored_values(device) == expected
    });
}

fn publish(client: &mut Client, numbers: std::ops::Range<u64>) {
    for number in numbers {
        client.telemetry(&format!(r#"{{"ts":{},"values":{{"n":{number}}}}}"#, 1_700_000_000_000 + number));
    }
}

/// The names of the devices there are, and whether they are forwarded as themselves.
fn devices(home: &Home) -> Vec<(String, bool)> {
    let list: serde_json::Value =
        serde_json::from_str(&home.must(&["device", "list", "--json"])).expect("JSON");
    let device = |found: &serde_json::Value| {
        (found["name"].as_str().expect("a name").to_owned(), found["forwarded_as_itself"] == true)
    };
    list.as_array().expect("a list").iter().map(device).collect()
}

/// `learned`, `rejected` and `undecided` of `forebay status`.
fn counters(edge: &Broker) -> [u64; 3] {
    let output = edge.run(&["status", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    ["learned", "rejected", "undecided"].map(|name| report["learning"][name].as_u64().expect("a number"))
}

/// A hub that does what it is told.
struct Puppet(TcpListener);

impl Puppet {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// The next connection, whose CONNECT must carry `token`.
    fn greeted(&self, token: &str) -> TcpStream {
        self.0.set_nonblocking(true).expect("a socket option");
        let (mut stream, _) = until("the hub is asked", SOON, || self.0.accept().ok());
        stream.set_nonblocking(false).expect("a socket option");
        stream.set_read_timeout(Some(SOON)).expect("a socket option");
        let mut connect = [0; 1024];
        let length = stream.read(&mut connect).expect("a CONNECT");
        let carries = |part: &[u8]| connect[..length].windows(part.len()).any(|window| window == part);
        assert!(connect[0] == 0x10 && carries(token.as_bytes()));
        stream
    }
}

#[test]
fn a_device_the_hub_knows_is_let_in_and_works_on_without_the_hub() {
    let mut hub = Broker::start();
    let pump = hub.add_device("pump");
    let mut edge = edge_of(hub.plain()).start();
    let mut client = edge.online(V5, &pump, "meter");
    publish(&mut client, 0..20);
    arrived(&hub, "pump", 0..20);
    assert_eq!(devices(&edge), [("learned-1".to_owned(), true)]);
    assert_eq!(counters(&edge), [1, 0, 0]);
    until_true("it is told", SOON, || edge.log_lines_with("learnt learned-1") == 1);
    let status = edge.run(&["status"]);
    assert!(stdout(&status).contains("1 device learnt from the hub"), "{}", stdout(&status));
    // What was sent and is settled here need not be sent again.
    until_true("the edge knows it", SOON, || {
        edge.count("SELECT count(*) FROM settled_devices WHERE through >= 20") == 1
    });

    hub.stop();
    publish(&mut client, 20..30);
    edge.kill9();
    edge.restart();
    publish(&mut edge.online(V5, &pump, "meter"), 30..40);
    assert_eq!(edge.stored_values("learned-1").len(), 40);
    hub.restart();
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices", "--learn"]);
    arrived(&hub, "pump", 0..40);
}

#[test]
fn many_devices_get_names_in_the_order_they_come_and_a_name_with_readings_is_not_given_again() {
    let hub = Broker::start();
    let edge = edge_of(hub.plain()).start();
    let known: Vec<Device> = (0..8).map(|n| hub.add_device(&format!("device {n}"))).collect();
    for (n, device) in known[..7].iter().enumerate() {
        let mut client = edge.online([V31, V311, V5][n % 3], device, "not-my-name");
        // With a time, or they would wait for the clock of a machine where nobody sets it.
        let payload = format!(r#"{{"ts":1700000000000,"values":{{"n":{n}}}}}"#);
        assert_eq!(client.publish("v1/devices/me/telemetry", payload), 0);
    }
    assert_eq!(devices(&edge).len(), 7);
    for (n, device) in known[..7].iter().enumerate() {
        arrived(&hub, &device.name, n as u64..n as u64 + 1);
        assert_eq!(edge.stored_values(&format!("learned-{}", n + 1)), [format!(r#"{{"n":{n}}}"#)]);
    }
    edge.must(&["device", "remove", "learned-3"]);
    edge.online(V311, &known[7], "meter");
    let names: Vec<String> = devices(&edge).into_iter().map(|(name, _)| name).collect();
    assert!(!names.contains(&"learned-3".to_owned()) && names.contains(&"learned-8".to_owned()), "{names:?}");
}

#[test]
fn it_works_over_tls_beside_a_gateway_and_by_the_configuration() {
    let hub = Setup::new().with_tls().start();
    let (pump, gateway) = (hub.add_device("pump"), hub.add_device("gateway"));
    let edge = Setup::new();
    let token = edge.home().path().join("token");
    fs::write(&token, gateway.token).expect("written");
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("closed");
    let ca = hub.certificates().join("ca-root.pem");
    let edge = edge
        .setting(&format!(
            "uplink = {{ url = \"mqtts://localhost:{}\", token_file = {token:?}, ca_file = {ca:?}, learn = true }}",
            hub.tls().port()
        ))
        .start();
    publish(&mut edge.online(V5, &pump, "meter"), 0..10);
    arrived(&hub, "pump", 0..10);
    assert!(edge.must(&["device", "list"]).contains("as itself"));
}

#[test]
fn a_device_the_hub_does_not_know_is_refused_and_the_hub_is_not_asked_again() {
    let hub = Broker::start();
    let edge = edge_of(hub.plain()).start();
    assert_eq!(answer(&edge, V311, "a-stranger's-token"), 5);
    assert_eq!(answer(&edge, V5, "a-stranger's-token"), 0x86);
    assert_eq!(answer(&edge, V5, "short"), 0x86);
    assert_eq!((devices(&edge).len(), counters(&edge)), (0, [0, 1, 0]));

    // Another hub may know it.
    let other = Broker::start();
    let pump = other.add_device("pump");
    assert_eq!(answer(&edge, V311, &pump.token), 5);
    edge.must(&["uplink", "set", &format!("mqtt://{}", other.plain()), "--devices", "--learn"]);
    until_true("the new hub is asked", SOON, || answer(&edge, V311, &pump.token) == 0);
}

#[test]
fn while_the_hub_cannot_be_reached_a_device_is_asked_to_come_again() {
    let edge = edge_of(nowhere()).start();
    let known = edge.add_device("known");
    let hub = Broker::start();
    let pump = hub.add_device("pump");
    for (version, code) in [(V311, 3), (V5, 0x88)] {
        assert_eq!(answer(&edge, version, &pump.token), code);
    }
    edge.online(V5, &known, "meter");
    until_true("it is told", SOON, || edge.log_lines_with("could not be tried") == 1);
    assert!(matches!(counters(&edge), [0, 0, undecided] if undecided > 0));
    edge.must(&["uplink", "set", &format!("mqtt://{}", hub.plain()), "--devices", "--learn"]);
    until_true("the hub is asked", SOON, || answer(&edge, V311, &pump.token) == 0);
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for_longer_than_a_connect() {
    let puppet = Puppet::new();
    let edge = edge_of(puppet.address()).limit("connect_timeout_s", 1).start();
    let mut client = knock(&edge, V5, "a-token-it-holds");
    let _silent = puppet.greeted("a-token-it-holds");
    assert_eq!(client.packet().connack(), Some(0x88));
}

#[test]
fn one_token_twice_is_one_question_and_who_gives_up_holds_up_nobody() {
    let puppet = Puppet::new();
    let edge = edge_of(puppet.address()).start();
    let panel = Device { name: "panel".to_owned(), token: edge.add_client("panel") };
    let (mut first, gone) = (knock(&edge, V311, "one-token-for-two"), knock(&edge, V5, "one-token-for-two"));
    let mut trial = puppet.greeted("one-token-for-two");
    drop(gone);
    let mut second = Client::dial(edge.plain());
    second.send(&Connect::new(V311, "another").user("one-token-for-two").bytes());
    // Who is known is served meanwhile, and after what came before.
    assert!(edge.online(V311, &panel, "panel").ping(SOON));
    trial.write_all(&[0x20, 3, 0, 0, 0]).expect("it listens");
    for client in [&mut first, &mut second] {
        assert_eq!(client.packet().connack(), Some(0));
        client.telemetry("{\"n\":2}");
    }
    assert_eq!(counters(&edge), [1, 0, 0]);
    let mut goodbye = Vec::new();
    trial.read_to_end(&mut goodbye).expect("it closes");
    assert_eq!(goodbye[0], 0xE0, "nothing but DISCONNECT follows");
    assert_eq!(edge.count("SELECT count(*) FROM journal"), 2);
}

#[test]
fn a_hub_without_5_0_is_asked_in_3_1_1() {
    let puppet = Puppet::new();
    let edge = edge_of(puppet.address()).start();
    let mut client = knock(&edge, V5, "known-to-the-old-hub");
    puppet.greeted("known-to-the-old-hub").write_all(&[0x20, 2, 0, 1]).expect("it listens");
    puppet.greeted("known-to-the-old-hub").write_all(&[0x20, 2, 0, 0]).expect("it listens");
    assert_eq!(client.packet().connack(), Some(0));
}

#[test]
fn a_device_disabled_here_stays_out_and_one_that_cannot_be_kept_is_not_let_in() {
    let hub = Broker::start();
    let (pump, fan) = (hub.add_device("pump"), hub.add_device("fan"));
    let edge = edge_of(hub.plain()).start();
    let mut client = edge.online(V5, &pump, "meter");
    edge.must(&["device", "disable", "learned-1"]);
    assert!(matches!(client.next(SOON), Event::Packet(reply) if reply.disconnect() == Some(0x98)));
    assert_eq!(answer(&edge, V311, &pump.token), 5);

    // A file others can read is not written to.
    let file = edge.data_dir().join("uplink-tokens");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("opened");
    assert_eq!(answer(&edge, V311, &fan.token), 3);
    until_true("it is told", SOON, || edge.log_lines_with("cannot be enrolled") == 1);
    assert_eq!(devices_of_the_registry(&edge), 1);
}

/// How many devices there are, for when the list cannot be made.
fn devices_of_the_registry(edge: &Broker) -> i64 {
    let count = "SELECT count(*) FROM identities";
    edge.database("registry.db").query_row(count, [], |row| row.get(0)).expect(count)
}

#[test]
fn no_token_shows_anywhere_but_in_the_file_of_kept_tokens() {
    let hub = Broker::start();
    let mut edge = edge_of(hub.plain()).setting("log.level = \"trace\"").start();
    let pump = hub.add_device("pump");
    publish(&mut edge.online(V5, &pump, "meter"), 0..3);
    arrived(&hub, "pump", 0..3);
    let stranger = "a-token-the-hub-does-not-know";
    assert_eq!(answer(&edge, V5, stranger), 0x86);
    edge.stop();
    for token in [pump.token.as_str(), stranger] {
        let contains = |bytes: &[u8]| bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!contains(edge.log().as_bytes()));
        let holders: Vec<_> =
            edge.files().into_iter().filter(|(_, bytes)| contains(bytes)).map(|(path, _)| path).collect();
        let expected = if token == stranger { vec![] } else { vec![edge.data_dir().join("uplink-tokens")] };
        assert_eq!(holders, expected);
    }
}
