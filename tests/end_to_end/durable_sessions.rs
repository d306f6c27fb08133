//! Sessions and retained messages outlive the connection and a broker that is killed.

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    packets::{Connect, SESSION_EXPIRY, four, joined},
    wait::{SOON, until_true},
    wire::{VERSIONS, Version, packet, properties, publish, subscribe},
};

use Version::{V5, V31, V311};

/// A broker with one local client, and that client's token.
fn start() -> (Broker, String) {
    let setup = Setup::new();
    let token = setup.home().must(&["client", "add", "panel"]).trim_end().to_owned();
    (setup.start(), token)
}

/// A client that finds its session again; gives back whether the broker says that it has one.
fn connect(broker: &Broker, version: Version, token: &str) -> (Client, bool) {
    let mut client = Client::dial(broker.plain());
    let connack = client.ask_in(version, &Connect::new(version, "panel").user(token).durable());
    assert_eq!(connack.connack(), Some(0), "{version:?} is let in: {connack:02X?}");
    (client, connack.body[0] == 1)
}

#[test]
fn a_session_is_found_again_after_a_kill_with_what_came_meanwhile_mqtt_3_2_2_2() {
    for version in VERSIONS {
        let (mut broker, token) = start();
        let (mut client, present) = connect(&broker, version, &token);
        assert!(!present, "{version:?}: there was none [MQTT-3.2.2-3]");
        client.send(&subscribe(version, 1, &[("hall/+", 1)]));
        assert_eq!(client.packet().codes(version, 1), Some(&[1][..]), "{version:?}");
        drop(client);

        let mut publisher = Client::dial(broker.plain());
        publisher.connect(V311, "publisher", &token);
        for text in ["one", "two"] {
            assert_eq!(publisher.publish("hall/lamp", text), 0, "it is on disk");
        }
        broker.kill9();
        broker.restart();

        let (mut client, present) = connect(&broker, version, &token);
        // Version 3.1 has no such flag.
        assert_eq!(present, version != V31, "{version:?}");
        for (id, text) in [(1, "one"), (2, "two")] {
            let message = client.packet();
            let expected = publish(version, "hall/lamp", 1, id, text);
            assert_eq!((message.first, &message.body[..]), (expected[0], &expected[2..]), "{version:?}");
        }
    }
}

#[test]
fn a_retained_message_survives_a_kill() {
    let (mut broker, token) = start();
    let mut publisher = Client::dial(broker.plain());
    publisher.connect(V5, "publisher", &token);
    let mut retained = publish(V5, "hall/lamp", 1, 7, "on");
    retained[0] |= 1;
    publisher.send(&retained);
    assert_eq!(publisher.packet().puback().map(|(_, code)| code < 0x80), Some(true));
    broker.kill9();
    broker.restart();
    let mut late = Client::dial(broker.plain());
    late.connect(V311, "late", &token);
    late.send(&subscribe(V311, 1, &[("#", 0)]));
    assert_eq!(late.packet().codes(V311, 1), Some(&[0][..]));
    let expected = publish(V311, "hall/lamp", 0, 0, "on");
    let message = late.packet();
    assert_eq!((message.first, &message.body[..]), (0x31, &expected[2..]));
}

#[test]
fn a_token_changed_while_the_broker_is_not_running_ends_the_session() {
    let (mut broker, old) = start();
    let (mut client, _) = connect(&broker, V5, &old);
    client.send(&subscribe(V5, 1, &[("hall/+", 1)]));
    assert_eq!(client.packet().codes(V5, 1), Some(&[1][..]));
    broker.kill9();
    broker.restart();
    let (client, present) = connect(&broker, V5, &old);
    assert!(present, "nothing was changed");
    drop(client);
    broker.stop();
    let new = broker.must(&["client", "rotate", "panel"]).trim_end().to_owned();
    broker.restart();
    let (_, present) = connect(&broker, V5, &new);
    assert!(!present, "it belonged to the old token");
}

/// A client that asks for a session of so many seconds, and whether there was one.
fn connect_for(broker: &Broker, client_id: &str, token: &str, expiry_s: u32) -> (Client, bool) {
    let hello = Connect::new(V5, client_id).user(token).keep_session().with(four(SESSION_EXPIRY, expiry_s));
    let mut client = Client::dial(broker.plain());
    let connack = client.ask_in(V5, &hello);
    assert_eq!(connack.connack(), Some(0), "{client_id} is let in: {connack:02X?}");
    (client, connack.body[0] == 1)
}

/// Sends DISCONNECT with another expiry, and waits for the end.
fn leave_for(mut client: Client, expiry_s: u32) {
    let expiry = properties(&joined(&[four(SESSION_EXPIRY, expiry_s)]));
    client.send(&packet(0xE0, &[&[0][..], &expiry].concat()));
    assert_eq!(client.next(SOON), Event::Closed);
}

#[test]
fn a_session_expiry_that_was_changed_survives_a_kill() {
    const LONG: u32 = 3600;
    let (mut broker, token) = start();
    let device = broker.add_device("pump");
    // What is said in a DISCONNECT is on disk with what is acknowledged after it.
    let (longer, _) = connect_for(&broker, "longer at the end", &token, 1);
    leave_for(longer, LONG);
    let (shorter, _) = connect_for(&broker, "shorter at the end", &token, LONG);
    leave_for(shorter, 1);
    broker.online(V311, &device, "pump").telemetry("{a:1}");
    // What is said in a CONNECT is on disk before its CONNACK.
    let _held: Vec<Client> = [("longer from now", 1, LONG), ("shorter from now", LONG, 1)]
        .into_iter()
        .flat_map(|(client_id, before, after)| {
            let (first, present) = connect_for(&broker, client_id, &token, before);
            assert!(!present);
            let (second, present) = connect_for(&broker, client_id, &token, after);
            assert!(present, "{client_id}: it goes on, taken over");
            [first, second]
        })
        .collect();
    broker.kill9();
    broker.restart();
    until_true("the short ones are over", SOON, || {
        broker.count("SELECT count(*) FROM sessions WHERE client_id LIKE 'shorter%'") == 0
    });
    for client_id in ["longer at the end", "longer from now"] {
        let (_, present) = connect_for(&broker, client_id, &token, LONG);
        assert!(present, "{client_id}: it has outlived those");
    }
}
