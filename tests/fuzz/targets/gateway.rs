//! What a gateway sends, against what a device's own telemetry would have been, and a device's question for its limits.

use std::collections::BTreeMap;

use forebay::{
    device_api::{
        gateway::{presence_payload, telemetry_payload},
        gateway_messages::{DeviceReadings, GatewayError, parse_presence, parse_telemetry},
        lenient_json::Problem,
        session_limits,
        telemetry::{Reading, TelemetryError, parse},
    },
    ids::DeviceName,
    limits::{GATEWAY_DEVICES_PER_MESSAGE, JSON_RECORDS_MAX},
};
use serde_json::value::RawValue;

use super::telemetry::check_stored;

/// Takes `input` for the payload of a gateway's message, for the list of one device in it, and for a question.
pub fn run(input: &[u8]) {
    if let Ok(devices) = parse_telemetry(input) {
        check_devices(&devices);
        check_members(input, &devices);
    }
    check_as_the_list_of_a_device(input);
    if let Ok(name) = parse_presence(input) {
        assert_eq!(DeviceName::parse(name.as_str()), Ok(name.clone()));
        assert_eq!(parse_presence(presence_payload(name.as_str()).as_bytes()), Ok(name));
    }
    if session_limits::is_asked_for(input) {
        assert!(String::from_utf8_lossy(input).contains("getSessionLimits") || input.contains(&b'\\'));
    }
}

fn check_devices(devices: &[DeviceReadings]) {
    assert!(devices.len() <= GATEWAY_DEVICES_PER_MESSAGE);
    assert!(devices.iter().map(|of| of.readings.len()).sum::<usize>() <= JSON_RECORDS_MAX);
    for DeviceReadings { device, readings } in devices {
        readings.iter().for_each(check_stored);
        let Some(first) = readings.first() else { continue };
        // What we would send on of it is taken as it is.
        let sent = telemetry_payload(device.as_str(), [(7, first.values.as_str())].into_iter());
        let readings = vec![Reading { device_ts: Some(7), values: first.values.clone() }];
        assert_eq!(
            parse_telemetry(sent.as_bytes()),
            Ok(vec![DeviceReadings { device: device.clone(), readings }])
        );
    }
}

/// If it is strict JSON, each list in it says what it would say as a device's message.
fn check_members(input: &[u8], devices: &[DeviceReadings]) {
    let Ok(members) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(input) else { return };
    // A name that comes twice is two members to us and one to a map.
    if members.len() != devices.len() {
        return;
    }
    for DeviceReadings { device, readings } in devices {
        let list = members[device.as_str()].get();
        assert_eq!(parse(list.as_bytes()).as_ref(), Ok(readings), "{list}");
    }
}

/// One device's list is refused or taken as the device's own message would be.
fn check_as_the_list_of_a_device(input: &[u8]) {
    let Ok(list) = str::from_utf8(input) else { return };
    if !list.starts_with('[') || serde_json::from_str::<&RawValue>(list).is_err() {
        return;
    }
    let wrapped = parse_telemetry(format!("{{\"A\":{list}}}").as_bytes());
    match (parse(input), wrapped) {
        (Ok(readings), Ok(devices)) => assert_eq!(devices[0].readings, readings),
        (Err(own), Err(GatewayError::Readings(_, error))) => assert_eq!(own, error),
        // How deep a message may be is counted from the outside, where the names are.
        (_, Err(GatewayError::Unreadable(TelemetryError::NotJson(error))))
            if error.problem == Problem::TooDeep => {}
        (own, behind) => panic!("a device's own message {own:?}, a gateway's {behind:?}"),
    }
}
