//! A device's question for the limits of its session, which client libraries ask first, and our answer in the hub's form.

use serde_json::{Value, json};

use super::{
    strict_json::{Document, NotStrict},
    telemetry::{TelemetryError, read_payload},
    values::Entries,
};

/// Before the number of a question.
const QUESTION_PREFIX: &str = "v1/devices/me/rpc/request/";
/// Before the number of an answer.
const ANSWER_PREFIX: &str = "v1/devices/me/rpc/response/";

/// The number of a question, if `topic` is where a device asks one.
pub fn question_number(topic: &str) -> Option<i32> {
    topic.strip_prefix(QUESTION_PREFIX)?.parse().ok()
}

/// Where the question of that number is answered.
pub fn answer_topic(number: i32) -> String {
    format!("{ANSWER_PREFIX}{number}")
}

/// Whether `payload` asks for the limits of the session.
pub fn is_asked_for(payload: &[u8]) -> bool {
    let asks = |text: &str| -> Result<Result<bool, TelemetryError>, NotStrict> {
        let Document::Object(members) = Document::read(text)? else { return Ok(Ok(false)) };
        let entries = Entries::of(members).map_err(TelemetryError::from);
        Ok(entries.map(|entries| entries.get("method") == Some("\"getSessionLimits\"")))
    };
    read_payload(payload, asks).unwrap_or(false)
}

/// The answer: the largest payload in bytes, how many messages may be unacknowledged, and how many messages a second may
/// come, 0 for as many as it likes. What is not bounded is null.
///
/// A gateway is told two lists of rates, its own and that of all its devices; ours is one, for the session as a whole.
pub fn answer(payload_bytes: u32, in_flight: u32, messages_per_s: u32, is_gateway: bool) -> String {
    let rate = match messages_per_s {
        0 => Value::Null,
        count => format!("{count}:1").into(),
    };
    let rates = json!({ "messages": rate, "telemetryMessages": rate, "telemetryDataPoints": null });
    let mut answer = json!({
        "maxPayloadSize": payload_bytes,
        "maxInflightMessages": in_flight,
        "rateLimits": rates,
    });
    if is_gateway {
        answer["gatewayRateLimits"] = rates;
    }
    answer.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device_api::gateway::{self, Rate, SessionLimits};

    #[test]
    fn the_question_is_known_by_its_method_and_its_topic() {
        assert_eq!(question_number(gateway::LIMITS_REQUEST_TOPIC), Some(1));
        assert_eq!(answer_topic(1), gateway::LIMITS_ANSWER_TOPIC);
        for topic in
            ["v1/devices/me/rpc/request/", "v1/devices/me/rpc/request/x", "v1/devices/me/rpc/request/1/2"]
        {
            assert_eq!(question_number(topic), None, "{topic}");
        }
        let asked = [
            gateway::LIMITS_REQUEST,
            br#"{"params":{"timeout":5000},"method":"getSessionLimits"}"#,
            b"{method:getSessionLimits}",
        ];
        assert!(asked.into_iter().all(is_asked_for));
        let others: [&[u8]; 5] = [b"", b"{}", b"[]", br#"{"method":"getTime"}"#, b"\xFF"];
        assert!(!others.into_iter().any(is_asked_for));
    }

    #[test]
    fn an_uplink_of_ours_reads_the_answer_as_it_is_meant() {
        let read = |answer: String| SessionLimits::parse(answer.as_bytes()).expect("an answer");
        let free = read(answer(65_000, 100, 0, true));
        let expected =
            SessionLimits { payload_bytes: Some(65_000), in_flight: Some(100), ..SessionLimits::default() };
        assert_eq!(free, expected);
        let rates = read(answer(65_000, 100, 7, true)).session;
        assert_eq!(rates.messages, [Rate { count: 7, period: Duration::from_secs(1) }]);
        assert_eq!(rates.telemetry_messages, rates.messages);
        assert_eq!(read(answer(65_000, 100, 7, false)).session, rates);
        let for_people = answer(65_000, 100, 0, false);
        assert!(
            for_people.contains(r#""telemetryMessages":null"#) && !for_people.contains("gateway"),
            "{for_people}"
        );
    }
}
