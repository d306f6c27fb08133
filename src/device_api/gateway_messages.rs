//! What a gateway says to us: which devices are behind it, and what they have read.
//!
//! One message is one unit here as well: every name and every reading in it is good, or it is refused whole. Readings
//! are held to the rules of `telemetry.rs`, names to those of [`DeviceName`]. Whether a gateway may speak for a name is
//! for the broker to say.
//!
//! ```text
//! message   { name: [ record, ... ], ... }       a name twice: its lists are one list
//! ```

use std::fmt;

use super::{
    strict_json::{Document, NotStrict, decode, read_elements},
    telemetry::{Reading, TelemetryError, read_payload, read_records, settle},
    values::{Entries, ValuesError},
};
use crate::{
    ids::{DeviceName, DeviceNameError},
    limits::{GATEWAY_DEVICES_PER_MESSAGE, JSON_RECORDS_MAX},
};

/// Characters that are shown of a name which is none.
const SHOWN_CHARS: usize = 40;

/// What a gateway reports of one of its devices; perhaps nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReadings {
    /// Which device.
    pub device: DeviceName,
    /// What it has read.
    pub readings: Vec<Reading>,
}

/// Why a message of a gateway is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayError {
    /// It cannot be read at all.
    Unreadable(TelemetryError),
    /// It is not an object.
    NotAnObject,
    /// There are more than [`GATEWAY_DEVICES_PER_MESSAGE`] names in it.
    TooManyDevices,
    /// There are more than [`JSON_RECORDS_MAX`] records of all devices in it.
    TooManyRecords,
    /// No device can be called that; the beginning of the name, and why.
    Name(String, DeviceNameError),
    /// A name has half of a UTF-16 surrogate pair as an escape.
    LoneSurrogate,
    /// What stands beside a device's name is not an array.
    NotAnArray(DeviceName),
    /// A device's readings break a rule.
    Readings(DeviceName, TelemetryError),
    /// It does not say which device is meant.
    NoDevice,
}

/// Reads a message of telemetry; a device with nothing to store is among the result, for it was named.
///
/// # Errors
/// A rule the message breaks; then none of it may be stored.
pub fn parse_telemetry(payload: &[u8]) -> Result<Vec<DeviceReadings>, GatewayError> {
    read_payload(payload, read_telemetry)
}

/// Reads which device has come or gone: `{"device":"A"}`, and whatever else there is.
///
/// # Errors
/// If it is not said, or is no name of a device.
pub fn parse_presence(payload: &[u8]) -> Result<DeviceName, GatewayError> {
    read_payload(payload, read_presence)
}

fn read_telemetry(text: &str) -> Result<Result<Vec<DeviceReadings>, GatewayError>, NotStrict> {
    let Document::Object(members) = Document::read(text)? else { return Ok(Err(GatewayError::NotAnObject)) };
    if members.overflowed || members.items.len() > GATEWAY_DEVICES_PER_MESSAGE {
        return Ok(Err(GatewayError::TooManyDevices));
    }
    let (mut all, mut count) = (Vec::with_capacity(members.items.len()), 0);
    for (raw_name, value) in members.items {
        let device = match read_name(raw_name) {
            Ok(device) => device,
            Err(error) => return Ok(Err(error)),
        };
        if !value.starts_with('[') {
            return Ok(Err(GatewayError::NotAnArray(device)));
        }
        let elements = read_elements(value)?;
        count += elements.items.len();
        if count > JSON_RECORDS_MAX {
            return Ok(Err(GatewayError::TooManyRecords));
        }
        match settle(read_records(elements))? {
            Ok(readings) => all.push(DeviceReadings { device, readings }),
            Err(error) => return Ok(Err(GatewayError::Readings(device, error))),
        }
    }
    Ok(Ok(all))
}

fn read_presence(text: &str) -> Result<Result<DeviceName, GatewayError>, NotStrict> {
    let Document::Object(members) = Document::read(text)? else { return Ok(Err(GatewayError::NotAnObject)) };
    let named = Entries::of(members).map_err(GatewayError::from).and_then(|entries| {
        let device = entries.get("device").filter(|value| value.starts_with('"'));
        read_name(device.ok_or(GatewayError::NoDevice)?)
    });
    Ok(named)
}

fn read_name(raw: &str) -> Result<DeviceName, GatewayError> {
    let name = decode(raw).map_err(|_| GatewayError::LoneSurrogate)?;
    DeviceName::parse(&name)
        .map_err(|error| GatewayError::Name(name.chars().take(SHOWN_CHARS).collect(), error))
}

impl From<TelemetryError> for GatewayError {
    fn from(error: TelemetryError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<ValuesError> for GatewayError {
    fn from(error: ValuesError) -> Self {
        Self::Unreadable(error.into())
    }
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::NotAnObject => f.write_str("the payload of a gateway is not an object"),
            Self::TooManyDevices => {
                write!(f, "there are more than {GATEWAY_DEVICES_PER_MESSAGE} devices in it")
            }
            Self::TooManyRecords => write!(f, "there are more than {JSON_RECORDS_MAX} readings in it"),
            Self::Name(name, error) => write!(f, "{name:?}: {error}"),
            Self::LoneSurrogate => {
                f.write_str("a device's name has half of a surrogate pair as a \\u escape")
            }
            Self::NotAnArray(device) => write!(f, "what stands beside the device {device} is not an array"),
            Self::Readings(device, error) => write!(f, "device {device}: {error}"),
            Self::NoDevice => f.write_str("it does not say which device is meant"),
        }
    }
}

impl std::error::Error for GatewayError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device_api::gateway,
        limits::{JSON_DEPTH_MAX, JSON_KEYS_MAX},
    };

    #[test]
    fn each_device_gets_its_own_readings_in_either_form() {
        let text = br#"{"A":[{"ts":5,"values":{"t":2.50}},{"n":1}],"B":[{"ts":6,"values":{"t":3},"metadata":{"x":1}}]}"#;
        let expected = [
            ("A", vec![(Some(5), r#"{"t":2.50}"#), (None, r#"{"n":1}"#)]),
            ("B", vec![(Some(6), r#"{"t":3}"#)]),
        ];
        assert_eq!(
            parse_telemetry(text),
            Ok(expected.into_iter().map(|(name, list)| of(name, &list)).collect())
        );
        let lenient = parse_telemetry(b"{'Pumpe 3':[{t=007}]}").expect("as for a device");
        assert_eq!(lenient, [of("Pumpe 3", &[(None, r#"{"t":"007"}"#)])]);
    }

    #[test]
    fn a_device_with_nothing_to_store_is_named_all_the_same() {
        assert_eq!(
            parse_telemetry(br#"{"A":[],"B":[{}],"C":[{"x":null}]}"#),
            Ok(["A", "B", "C"].map(|name| of(name, &[])).into())
        );
        assert_eq!(parse_telemetry(b"{}"), Ok(vec![]));
    }

    #[test]
    fn a_name_that_comes_twice_loses_nothing() {
        let twice = parse_telemetry(br#"{"A":[{"x":1}],"\u0041":[{"x":2}]}"#).expect("read");
        assert_eq!(twice, [of("A", &[(None, r#"{"x":1}"#)]), of("A", &[(None, r#"{"x":2}"#)])]);
    }

    #[test]
    fn one_bad_part_refuses_the_whole_message() {
        let a = name("A");
        for (text, error) in [
            ("[]", GatewayError::NotAnObject),
            ("5", GatewayError::NotAnObject),
            ("", GatewayError::Unreadable(TelemetryError::Empty)),
            (r#"{"A":{"x":1}}"#, GatewayError::NotAnArray(a.clone())),
            (r#"{"B":[{"x":1}],"A":null}"#, GatewayError::NotAnArray(a.clone())),
            (
                r#"{"A":[5]}"#,
                GatewayError::Readings(a.clone(), TelemetryError::ElementNotARecord { index: 0 }),
            ),
            (
                r#"{"B":[{"x":1}],"A":[{"ts":-1,"values":{}}]}"#,
                GatewayError::Readings(a, TelemetryError::TsOutOfRange),
            ),
            (r#"{"":[]}"#, GatewayError::Name(String::new(), DeviceNameError::Blank)),
            (r#"{"a/b":[]}"#, GatewayError::Name("a/b".into(), DeviceNameError::Forbidden('/'))),
            (r#"{" a":[]}"#, GatewayError::Name(" a".into(), DeviceNameError::Padded)),
            (r#"{"\ud800":[]}"#, GatewayError::LoneSurrogate),
        ] {
            assert_eq!(parse_telemetry(text.as_bytes()), Err(error), "{text}");
        }
        let long =
            parse_telemetry(format!("{{\"{}\":[]}}", "x".repeat(60_000)).as_bytes()).expect_err("too long");
        assert!(long.to_string().len() < 200, "{long}");
    }

    #[test]
    fn devices_and_readings_are_bounded_all_together() {
        let devices = |count: usize, list: &str| {
            let members: Vec<String> = (0..count).map(|number| format!("\"d{number}\":{list}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let read = |text: String| parse_telemetry(text.as_bytes()).map(|all| all.len());
        assert_eq!(read(devices(GATEWAY_DEVICES_PER_MESSAGE, "[]")), Ok(GATEWAY_DEVICES_PER_MESSAGE));
        assert_eq!(read(devices(GATEWAY_DEVICES_PER_MESSAGE + 1, "[]")), Err(GatewayError::TooManyDevices));
        let half = format!("[{}]", vec!["{}"; JSON_RECORDS_MAX / 2].join(","));
        assert_eq!(read(devices(2, &half)), Ok(2));
        assert_eq!(read(devices(3, &half)), Err(GatewayError::TooManyRecords));
    }

    #[test]
    fn the_deepest_and_widest_reading_of_a_device_fits_into_what_a_gateway_makes_of_it() {
        let levels = JSON_DEPTH_MAX - 1;
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let wide: Vec<String> = (0..JSON_KEYS_MAX).map(|key| format!("\"k{key}\":1e-308")).collect();
        for values in [deep, format!("{{{}}}", wide.join(","))] {
            let [reading] = &crate::device_api::telemetry::parse(values.as_bytes()).expect("a device's")[..]
            else {
                panic!("one reading");
            };
            let payload = gateway::telemetry_payload("A\\", [(0, reading.values.as_str())].into_iter());
            let expected = of("A\\", &[(Some(0), &values)]);
            assert_eq!(parse_telemetry(payload.as_bytes()), Ok(vec![expected]));
        }
    }

    #[test]
    fn who_has_come_or_gone_is_told_by_name() {
        assert_eq!(parse_presence(br#"{"device":"A","type":"default"}"#), Ok(name("A")));
        assert_eq!(parse_presence(gateway::presence_payload("B\\").as_bytes()), Ok(name("B\\")));
        for text in ["{}", r#"{"device":5}"#, r#"{"device":null}"#] {
            assert_eq!(parse_presence(text.as_bytes()), Err(GatewayError::NoDevice), "{text}");
        }
        assert_eq!(parse_presence(b"[]"), Err(GatewayError::NotAnObject));
        assert!(matches!(parse_presence(br#"{"device":"a+b"}"#), Err(GatewayError::Name(..))));
    }

    fn name(text: &str) -> DeviceName {
        DeviceName::parse(text).expect(text)
    }

    fn of(device: &str, readings: &[(Option<i64>, &str)]) -> DeviceReadings {
        let reading = |(device_ts, values): &(Option<i64>, &str)| Reading {
            device_ts: *device_ts,
            values: (*values).to_owned(),
        };
        DeviceReadings { device: name(device), readings: readings.iter().map(reading).collect() }
    }
}
