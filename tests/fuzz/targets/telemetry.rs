//! Telemetry payloads, against serde_json and rules of our own written the slow way.

use forebay::{
    device_api::{
        lenient_json::{Problem, to_strict},
        telemetry::{Reading, TelemetryError, parse},
    },
    limits::JSON_MESSAGE_DEPTH_MAX,
};
use serde_json::{Map, Value};

/// Takes `input` for the payload of a telemetry message.
pub fn run(input: &[u8]) {
    let outcome = parse(input);
    if let Ok(readings) = &outcome {
        readings.iter().for_each(check_stored);
        check_numbers(readings, input);
    }
    let Ok(text) = str::from_utf8(input) else {
        assert!(matches!(outcome, Err(TelemetryError::NotUtf8 { .. })), "{outcome:?}");
        return;
    };
    if let Ok(strict) = to_strict(text) {
        check_rewritten(&strict);
    }
    if !text.starts_with('\u{feff}')
        && let Ok(document) = serde_json::from_str::<Value>(text)
    {
        check_strict(text, &document, &outcome);
    }
}

/// What goes to the journal is one strict object without white space, and reading it again changes nothing.
fn check_stored(reading: &Reading) {
    let text = &reading.values;
    let Ok(Value::Object(object)) = serde_json::from_str(text) else { panic!("not an object: {text}") };
    assert!(!object.is_empty() && object.values().all(|value| !value.is_null()), "nothing to store: {text}");
    assert!(!outside_strings(text).contains([' ', '\t', '\r', '\n']), "white space: {text}");
    if let Some(ts) = reading.device_ts {
        assert!(ts >= 0, "a time before 1970");
    }
    // Beside each other these two names mean something else.
    if !(object.contains_key("ts") && object.contains_key("values")) {
        let again = parse(text.as_bytes()).expect("what is stored can be read");
        assert_eq!(again, [Reading { device_ts: None, values: text.clone() }]);
    }
}

/// The number tokens that are stored stand in the payload, as they are and in their order.
fn check_numbers(readings: &[Reading], input: &[u8]) {
    let mut rest = str::from_utf8(input).expect("it was read");
    for reading in readings {
        for token in numbers(&reading.values) {
            let at =
                rest.find(&token).unwrap_or_else(|| panic!("{token} was not sent, or not in this place"));
            rest = &rest[at + token.len()..];
        }
    }
}

/// Whatever the lenient reader lets pass is strict, without white space, and stays as it is.
fn check_rewritten(strict: &str) {
    let rewritten: Result<&serde_json::value::RawValue, _> = serde_json::from_str(strict);
    assert!(rewritten.is_ok(), "not strict: {strict}");
    assert!(!outside_strings(strict).contains([' ', '\t', '\r', '\n']), "white space: {strict}");
    assert_eq!(to_strict(strict).as_deref(), Ok(strict));
}

/// Strict JSON says the same to us as to serde_json, by either of our ways.
fn check_strict(text: &str, document: &Value, outcome: &Result<Vec<Reading>, TelemetryError>) {
    if depth(document) > JSON_MESSAGE_DEPTH_MAX {
        assert!(
            matches!(outcome, Err(TelemetryError::NotJson(e)) if e.problem == Problem::TooDeep),
            "{outcome:?}"
        );
        return;
    }
    let rewritten = to_strict(text).expect("strict JSON is lenient JSON");
    assert_eq!(serde_json::from_str::<Value>(&rewritten).ok().as_ref(), Some(document), "{rewritten}");
    assert!(numbers(text).eq(numbers(&rewritten)), "number tokens stay as they are: {rewritten}");
    // A comment makes it lenient.
    match (outcome, parse(format!("{text}\n#").as_bytes())) {
        (Ok(strict), Ok(lenient)) => assert_eq!(*strict, lenient),
        (Err(_), Err(_)) => {}
        (strict, lenient) => panic!("strictly {strict:?}, leniently {lenient:?}"),
    }
    match outcome {
        Ok(readings) => {
            let stored: Vec<Value> =
                readings.iter().map(|r| serde_json::from_str(&r.values).expect("strict")).collect();
            assert_eq!(stored, records(document));
        }
        Err(TelemetryError::NotJson(error)) => panic!("serde_json reads it: {error}"),
        Err(TelemetryError::NotUtf8 { .. } | TelemetryError::Empty) => panic!("{outcome:?}"),
        Err(_) => {}
    }
}

/// What is to be stored of a message that is accepted.
fn records(document: &Value) -> Vec<Value> {
    let records: Vec<&Value> = match document {
        Value::Array(records) => records.iter().collect(),
        record => vec![record],
    };
    let values = |record: &Value| -> Map<String, Value> {
        let object = record.as_object().expect("it was accepted");
        let chosen = match (object.get("ts"), object.get("values")) {
            (Some(_), Some(values)) => values.as_object().expect("it was accepted"),
            _ => object,
        };
        chosen.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    records.into_iter().map(values).filter(|values| !values.is_empty()).map(Value::Object).collect()
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// `text`, strict JSON, with its strings emptied.
fn outside_strings(text: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' if in_string => drop(characters.next()),
            '"' => {
                in_string = !in_string;
                out.push('"');
            }
            _ if in_string => {}
            _ => out.push(c),
        }
    }
    out
}

/// The number tokens of strict JSON, in order.
fn numbers(text: &str) -> impl Iterator<Item = String> {
    let plain = outside_strings(text);
    let tokens: Vec<String> = plain
        .split(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)))
        .filter(|token| token.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
        .map(str::to_owned)
        .collect();
    tokens.into_iter()
}
