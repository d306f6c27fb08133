//! What a device is not given: topics of others. Each is refused with its code, never silently accepted.

use crate::support::{
    broker::Broker,
    client::Client,
    wire::{TELEMETRY, VERSIONS, Version, publish, subscribe, unsubscribe},
};

use Version::{V5, V311};

#[test]
fn a_subscription_is_refused_with_one_code_per_filter() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    // A-80 among them: no device ever reads another's topics.
    let filters = [
        ("v1/devices/me/rpc/request/1", 1),
        ("#", 0),
        ("+/#", 2),
        ("v1/devices/+/telemetry", 1),
        ("v1/nonsense", 0),
    ];
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        client.send(&subscribe(version, 0x1234, &filters));
        let suback = client.packet();
        let codes =
            suback.codes(version, 0x1234).unwrap_or_else(|| panic!("a SUBACK for 0x1234, got {suback:?}"));
        assert_eq!(codes.len(), filters.len(), "{version:?} [MQTT-3.9.3-1]");
        assert!(
            codes.iter().all(|code| *code >= 0x80),
            "{version:?}: nothing is silently accepted: {codes:?}"
        );
        if version == V311 {
            assert_eq!(codes, [0x80; 5], "[MQTT-3.9.3-2]");
        }
        if version == V5 {
            assert_eq!(codes[4], 0x8F, "an unknown filter of the hub's");
        }
        client.telemetry(r#"{"still":"here"}"#);
    }
}

#[test]
fn an_unsubscribe_is_answered_even_if_there_was_no_subscription() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        client.send(&unsubscribe(version, 9, &["a/b", "c"]));
        let unsuback = client.packet();
        assert_eq!(unsuback.first, 0xB0, "[MQTT-3.10.4-4]");
        let expected: &[u8] = if version == V5 { &[0x11, 0x11] } else { &[] };
        assert_eq!(unsuback.codes(version, 9), Some(expected), "{version:?}");
    }
}

#[test]
fn version_5_is_told_of_nothing_that_is_not_served() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let connack = Client::dial(broker.plain()).connect(V5, "meter", &device.token);
    for absent in [0x24, 0x25, 0x28, 0x29, 0x2A] {
        assert_eq!(connack.connack_property(absent), None, "Maximum QoS, Retain Available and the like");
    }
}

#[test]
fn qos_2_telemetry_is_stored_once_and_every_step_is_answered() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        for _ in 0..2 {
            client.send(&publish(version, TELEMETRY, 2, 1, "{a:1}"));
            let pubrec = client.packet();
            assert_eq!((pubrec.first, &pubrec.body[..]), (0x50, &[0, 1][..]), "{version:?}");
        }
        client.send(&[0x62, 2, 0, 1]);
        let pubcomp = client.packet();
        assert_eq!((pubcomp.first, &pubcomp.body[..]), (0x70, &[0, 1][..]), "{version:?}");
    }
    assert_eq!(broker.telemetry().len(), VERSIONS.len());
}
