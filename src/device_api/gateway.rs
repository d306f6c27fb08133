//! What a gateway says to the hub, and what the hub tells it about limits: topics and payloads.
//!
//! The other direction of `telemetry.rs`. Values go out as the text they were stored as, so that no number is rounded
//! on its way.

use std::{fmt::Write, time::Duration};

use serde::Deserialize;

use crate::limits::RATE_WINDOWS_MAX;

use super::strict_json::split_token;

/// Where a gateway tells that a device is there.
pub const CONNECT_TOPIC: &str = "v1/gateway/connect";
/// Where a gateway tells that a device is gone.
pub const DISCONNECT_TOPIC: &str = "v1/gateway/disconnect";
/// Where a gateway sends readings.
pub const TELEMETRY_TOPIC: &str = "v1/gateway/telemetry";
/// Where a device asks for its limits.
pub const LIMITS_REQUEST_TOPIC: &str = "v1/devices/me/rpc/request/1";
/// What a device subscribes to for the answers to its questions.
pub const ANSWERS_FILTER: &str = "v1/devices/me/rpc/response/+";
/// Where the limits are told.
pub const LIMITS_ANSWER_TOPIC: &str = "v1/devices/me/rpc/response/1";
/// The question for the limits.
pub const LIMITS_REQUEST: &[u8] = br#"{"method":"getSessionLimits","params":{}}"#;

/// What the hub allows a session; what it does not say is not bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// The largest payload, in bytes.
    pub payload_bytes: Option<usize>,
    /// Messages that may wait for their acknowledgement.
    pub in_flight: Option<u16>,
    /// What the session as a whole may send.
    pub session: Rates,
    /// What each device behind a gateway may send.
    pub each_device: Rates,
}

/// What may be sent in which time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages that are not telemetry.
    pub messages: Vec<Rate>,
    /// Messages of telemetry.
    pub telemetry_messages: Vec<Rate>,
    /// Values in telemetry.
    pub data_points: Vec<Rate>,
}

/// At most `count` in each `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u32,
    /// In which time; at least one second.
    pub period: Duration,
}

impl Rate {
    /// Reads rates as the hub writes them: `20:1,600:60` is 20 in one second and 600 in sixty.
    ///
    /// What cannot be read is left out, as is what goes beyond [`RATE_WINDOWS_MAX`].
    pub fn parse_list(text: &str) -> Vec<Rate> {
        text.split(',').filter_map(Self::parse).take(RATE_WINDOWS_MAX).collect()
    }

    fn parse(text: &str) -> Option<Rate> {
        let (count, seconds) = text.split_once(':')?;
        let (count, seconds): (u32, u32) = (count.trim().parse().ok()?, seconds.trim().parse().ok()?);
        let period = Duration::from_secs(seconds.into());
        (count > 0 && seconds > 0).then_some(Rate { count, period })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LimitsAnswer {
    max_payload_size: Option<usize>,
    max_inflight_messages: Option<u32>,
    rate_limits: Option<RatesAnswer>,
    gateway_rate_limits: Option<RatesAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RatesAnswer {
    messages: Option<String>,
    telemetry_messages: Option<String>,
    telemetry_data_points: Option<String>,
}

impl SessionLimits {
    /// Reads the answer to [`LIMITS_REQUEST`]; `None` if it is none, such as `{"error":"timeout"}`.
    ///
    /// A gateway is told two lists of rates: its own, and that of each device behind it; a device one, its own.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let answer: LimitsAnswer = serde_json::from_slice(payload).ok()?;
        let said_nothing = answer.max_payload_size.is_none()
            && answer.rate_limits.is_none()
            && answer.gateway_rate_limits.is_none();
        if said_nothing {
            return None;
        }
        let rates = answer.rate_limits.map(Rates::from).unwrap_or_default();
        let (session, each_device) = match answer.gateway_rate_limits {
            Some(gateway) => (gateway.into(), rates),
            None => (rates, Rates::default()),
        };
        Some(Self {
            payload_bytes: answer.max_payload_size.filter(|bytes| *bytes > 0),
            in_flight: answer
                .max_inflight_messages
                .filter(|count| *count > 0)
                .map(|count| u16::try_from(count).unwrap_or(u16::MAX)),
            session,
            each_device,
        })
    }
}

impl From<RatesAnswer> for Rates {
    fn from(answer: RatesAnswer) -> Self {
        let list = |text: Option<String>| Rate::parse_list(text.as_deref().unwrap_or_default());
        Self {
            messages: list(answer.messages),
            telemetry_messages: list(answer.telemetry_messages),
            data_points: list(answer.telemetry_data_points),
        }
    }
}

/// The payload that tells the hub of a device: that it is there, or that it is gone.
pub fn presence_payload(device: &str) -> String {
    format!(r#"{{"device":{}}}"#, quoted(device))
}

/// The payload that carries `readings`, each a time and an object of values, of one device; at least one of them, since
/// the hub never acknowledges an empty list.
///
/// # Panics
/// If there are none.
pub fn telemetry_payload<'a>(device: &str, readings: impl Iterator<Item = (i64, &'a str)>) -> String {
    let mut payload = format!("{{{}:", quoted(device));
    write_readings(readings, &mut payload);
    payload.push('}');
    payload
}

/// Writes `readings` as the list that [`telemetry_payload`] holds, and that a device would publish itself.
///
/// # Panics
/// If there are none.
pub fn write_readings<'a>(readings: impl Iterator<Item = (i64, &'a str)>, out: &mut String) {
    let start = out.len();
    for (ts, values) in readings {
        out.push(if out.len() == start { '[' } else { ',' });
        write!(out, r#"{{"ts":{ts},"values":{values}}}"#).expect("a String takes everything");
    }
    assert!(out.len() > start, "the hub never acknowledges an empty list");
    out.push(']');
}

/// Bytes that a reading takes in a list, the comma before it included.
pub fn reading_bytes(ts: i64, values: &str) -> usize {
    let sign_and_digits = usize::from(ts < 0) + ts.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
    r#",{"ts":,"values":}"#.len() + sign_and_digits + values.len()
}

/// Bytes of [`telemetry_payload`] beside its readings.
pub fn telemetry_envelope_bytes(device: &str) -> usize {
    quoted(device).len() + "{:]}".len()
}

/// How many values `values`, one strict JSON object, has: what the hub counts as data points.
pub fn data_points(values: &str) -> u32 {
    let (mut rest, mut depth, mut colons) = (values, 0_u32, 0_u32);
    while let Some((token, after)) = split_token(rest) {
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth = depth.saturating_sub(1),
            ":" if depth == 1 => colons += 1,
            _ => {}
        }
        rest = after;
    }
    colons
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u32, seconds: u64) -> Rate {
        Rate { count, period: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_gateway_is_told_its_own_rates_and_those_of_each_device() {
        let answer = br#"{"maxPayloadSize":65536,"maxInflightMessages":100,
            "rateLimits":{"messages":"200:1,6000:60","telemetryMessages":"100:1","telemetryDataPoints":null},
            "gatewayRateLimits":{"messages":"","telemetryMessages":"20:1,600:60","telemetryDataPoints":"7:2"}}"#;
        let limits = SessionLimits::parse(answer).expect("an answer");
        assert_eq!((limits.payload_bytes, limits.in_flight), (Some(65_536), Some(100)));
        assert_eq!(limits.session.telemetry_messages, [rate(20, 1), rate(600, 60)]);
        assert_eq!(limits.session.data_points, [rate(7, 2)]);
        assert_eq!(limits.each_device.messages, [rate(200, 1), rate(6000, 60)]);
        assert!(limits.session.messages.is_empty() && limits.each_device.data_points.is_empty());
    }

    #[test]
    fn a_device_is_told_its_own_rates_alone() {
        let answer = br#"{"maxPayloadSize":1000,"rateLimits":{"telemetryMessages":"1:1"}}"#;
        let limits = SessionLimits::parse(answer).expect("an answer");
        assert_eq!(limits.session.telemetry_messages, [rate(1, 1)]);
        assert_eq!(limits.each_device, Rates::default());
        assert_eq!(limits.in_flight, None);
    }

    #[test]
    fn what_is_no_answer_bounds_nothing() {
        for answer in
            [&b"{\"error\":\"timeout\"}"[..], b"", b"null", b"[1]", b"{\"maxPayloadSize\":\"x\"}", b"\xFF"]
        {
            assert_eq!(SessionLimits::parse(answer), None);
        }
    }

    #[test]
    fn rates_that_cannot_be_read_are_left_out() {
        assert_eq!(Rate::parse_list(" 20:1 , 600:60"), [rate(20, 1), rate(600, 60)]);
        assert_eq!(Rate::parse_list("x:1,0:1,1:0,5,,7:7,-1:1,99999999999:1"), [rate(7, 7)]);
        assert_eq!(Rate::parse_list(&"1:1,".repeat(100)).len(), RATE_WINDOWS_MAX);
        assert!(Rate::parse_list("").is_empty());
    }

    #[test]
    fn a_message_of_telemetry_names_its_device_and_keeps_the_text_of_its_values() {
        let payload = telemetry_payload("Pumpe\\1", [(5, r#"{"t":2.50}"#), (-6, "{}")].into_iter());
        assert_eq!(payload, r#"{"Pumpe\\1":[{"ts":5,"values":{"t":2.50}},{"ts":-6,"values":{}}]}"#);
        assert_eq!(presence_payload("насос"), r#"{"device":"насос"}"#);
    }

    #[test]
    fn the_bytes_of_a_message_are_known_before_it_is_written() {
        let readings =
            [(0, "{}"), (-1, r#"{"a":1}"#), (i64::MIN, "{}"), (i64::MAX, "{}"), (10, "{}"), (9, "{}")];
        let payload = telemetry_payload("a\\b", readings.into_iter());
        let sum: usize = readings.iter().map(|(ts, values)| reading_bytes(*ts, values)).sum();
        assert_eq!(payload.len(), telemetry_envelope_bytes("a\\b") + sum);
    }

    #[test]
    #[should_panic(expected = "never acknowledges an empty list")]
    fn a_message_without_readings_is_our_own_bug() {
        telemetry_payload("pump", std::iter::empty());
    }

    #[test]
    fn data_points_are_the_names_at_the_top() {
        for (values, points) in
            [("{}", 0), (r#"{"a":1}"#, 1), (r#"{"a":{"x":1,"y":[{"z":2}]},"b:c":"d,e:f","g":null}"#, 3)]
        {
            assert_eq!(data_points(values), points, "{values}");
        }
    }
}
