//! Connections of one device: takeover, company, keep-alive, what is on offer, and the end.

use std::time::{Duration, Instant};

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    packets::Connect,
    wait::{SOON, WITHIN_A_SECOND},
    wire::{PINGREQ, Reply, TELEMETRY, VERSIONS, Version, packet, publish},
};

use Version::{V5, V311};

#[test]
fn the_newest_connection_with_a_client_id_wins_and_the_old_one_is_told() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut old = broker.online(version, &device, "meter");
        old.telemetry(r#"{"old":1}"#);
        let mut new = broker.online(version, &device, "meter");
        if version == V5 {
            assert_eq!(old.dismissed(), 0x8E, "[MQTT-3.1.4-3]");
        }
        assert_eq!(old.next(WITHIN_A_SECOND), Event::Closed, "{version:?}");
        new.telemetry(r#"{"new":1}"#);
    }
    assert_eq!(broker.stored_values("pump").len(), 6);
}

#[test]
fn two_client_ids_of_a_device_live_side_by_side() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut one = broker.online(V5, &device, "one");
    let mut two = broker.online(V311, &device, "two");
    one.telemetry(r#"{"from":1}"#);
    two.telemetry(r#"{"from":2}"#);
    one.telemetry(r#"{"from":1}"#);
    assert_eq!(broker.stored_values("pump").len(), 3);
}

#[test]
fn the_fifth_connection_of_a_device_closes_the_oldest() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut clients: Vec<Client> =
        ["a", "b", "c", "d"].iter().map(|id| broker.online(V5, &device, id)).collect();
    for client in &mut clients {
        assert!(client.ping(SOON), "four are within connections_per_device");
    }
    clients.push(broker.online(V5, &device, "e"));
    assert_eq!(clients[0].dismissed(), 0x97);
    assert_eq!(clients[0].next(WITHIN_A_SECOND), Event::Closed);
    for client in &mut clients[1..] {
        client.telemetry("{a:1}");
    }
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives_and_not_before() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = Client::dial(broker.plain());
        let connect = Connect::new(version, "meter").user(&device.token).keep_alive_s(1);
        assert_eq!(client.ask_in(version, &connect).connack(), Some(0));
        // A packet starts the clock anew; measured from before it was sent, so that the bound is the stricter one.
        client.send(&PINGREQ);
        let silent_since = Instant::now();
        assert!(matches!(client.next(SOON), Event::Packet(Reply { first: 0xD0, .. })));
        let replies = client.until_closed(SOON);
        let took = silent_since.elapsed();
        assert!(took >= Duration::from_millis(1_500), "{version:?}: closed too early, after {took:?}");
        assert!(took < Duration::from_millis(3_000), "{version:?}: closed too late, after {took:?}");
        let told: Vec<Option<u8>> = replies.iter().map(Reply::disconnect).collect();
        assert_eq!(told, if version == V5 { vec![Some(0x8D)] } else { vec![] }, "{version:?}");
    }
}

#[test]
fn a_client_that_pings_in_time_is_kept() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = Client::dial(broker.plain());
    let connect = Connect::new(V311, "meter").user(&device.token).keep_alive_s(1);
    assert_eq!(client.ask_in(V311, &connect).connack(), Some(0));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(client.next(Duration::from_millis(900)), Event::Silence, "after {:?}", started.elapsed());
        assert!(client.ping(Duration::from_millis(400)), "after {:?}", started.elapsed());
    }
}

#[test]
fn a_keep_alive_above_ours_is_brought_down_and_a_v5_client_is_told() {
    let broker = Setup::new().limit("keep_alive_max_s", 30).start();
    let device = broker.add_device("pump");
    for asked in [0, 31, 65_535] {
        let mut client = Client::dial(broker.plain());
        let connect = Connect::new(V5, "meter").user(&device.token).keep_alive_s(asked);
        assert_eq!(client.ask_in(V5, &connect).connack_property(0x13), Some(30), "asked for {asked}");
    }
    let mut client = Client::dial(broker.plain());
    let connect = Connect::new(V5, "meter").user(&device.token).keep_alive_s(30);
    assert_eq!(client.ask_in(V5, &connect).connack_property(0x13), None, "30 is within 30");
}

#[test]
fn the_connack_of_version_5_says_what_is_on_offer() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = Client::dial(broker.plain());
    let connack = client.connect(V5, "", &device.token);
    assert_eq!(connack.connack_property(0x21), Some(20), "Receive Maximum");
    assert_eq!(connack.connack_property(0x27), Some(65_536), "Maximum Packet Size");
    assert!(connack.connack_property(0x12).is_some(), "Assigned Client Identifier [MQTT-3.2.2-16]");
}

#[test]
fn an_empty_client_id_without_clean_session_is_refused_before_version_5() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = Client::dial(broker.plain());
    let connect = Connect::new(V311, "").user(&device.token).keep_session();
    assert_eq!(client.ask_in(V311, &connect).connack(), Some(2), "[MQTT-3.1.3-8]");
    client.until_closed(SOON);
    let mut client = Client::dial(broker.plain());
    let connect = Connect::new(V5, "").user(&device.token).keep_session();
    assert_eq!(client.ask_in(V5, &connect).connack(), Some(0), "version 5 assigns one");
}

#[test]
fn a_disconnect_ends_the_connection_without_a_word() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        client.send(&[0xE0, 0x00]);
        assert_eq!(client.until_closed(SOON), [], "{version:?}");
    }
}

#[test]
fn what_was_published_before_a_disconnect_in_the_same_breath_is_stored() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        client.send(&[publish(version, TELEMETRY, 1, 5, "{last:1}"), packet(0xE0, &[])].concat());
        client.until_closed(SOON);
    }
    crate::support::wait::until_true("all three are on disk", SOON, || broker.telemetry().len() == 3);
}

#[test]
fn a_v5_client_that_exceeds_the_receive_maximum_is_closed_with_0x93() {
    let broker = Setup::new().limit("receive_maximum", 2).start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V5, &device, "meter");
    let burst: Vec<u8> = (1..=50).flat_map(|id| publish(V5, TELEMETRY, 1, id, "{a:1}")).collect();
    client.send(&burst);
    let replies = client.until_closed(SOON);
    assert_eq!(replies.last().and_then(Reply::disconnect), Some(0x93), "[MQTT-3.3.4-7] {replies:?}");
    let acked = replies.iter().filter(|reply| reply.puback().is_some()).count();
    assert!(broker.telemetry().len() >= acked, "what was acknowledged is stored");
}

#[test]
fn a_devices_session_outlives_its_connection_if_it_asks_and_not_otherwise() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in [V311, V5] {
        let present = |connect: Connect| Client::dial(broker.plain()).ask_in(version, &connect).body[0];
        let clean = || Connect::new(version, format!("{version:?}")).user(&device.token);
        let kept = || clean().durable();
        assert_eq!([kept(), kept(), clean(), kept()].map(present), [0, 1, 0, 0], "[MQTT-3.2.2-2]");
    }
}
