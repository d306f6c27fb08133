//! From the payload of a telemetry message to the readings in it.
//!
//! One message is one unit: either every reading in it is good, or it is refused whole. Strict JSON is read as it
//! stands; anything else goes through `lenient_json.rs` first and is then read by the same code. Numbers, names and
//! strings keep the text the device gave them; nothing is rounded, decoded or sorted. Knows no clock: a reading
//! without a time of its own leaves here without one.
//!
//! ```text
//! message   record | [ record, ... ]
//! record    { "ts": time, "values": values, (ignored) ... } | values
//! values    { name: value, ... }          null: dropped; a name twice: the last one counts, even if it is null
//! ```

use std::fmt;

use super::{
    lenient_json::{LenientError, Problem, to_strict},
    number::{Decimal, NumberError},
    strict_json::{Document, Elements, Members, NotStrict, decode, read_members},
    values::{Entries, ValuesError},
};
use crate::limits::{DEVICE_TS_MAX, JSON_RECORDS_MAX};

/// One record of a telemetry message: a set of values that belong to one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time the device itself gave, in milliseconds since 1970-01-01 UTC; 0 to [`DEVICE_TS_MAX`].
    pub device_ts: Option<i64>,
    /// The values: one strict JSON object, not empty, without white space, number tokens as the device wrote them.
    ///
    /// Names are unique in it; inside an object that is itself a value they may repeat, and the last one counts.
    pub values: String,
}

/// Why a telemetry message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TelemetryError {
    /// There is nothing in it but white space.
    Empty,
    /// It is not UTF-8.
    NotUtf8 {
        /// Bytes before the first bad one.
        at: usize,
    },
    /// It is not JSON, not even leniently, or nested too deeply.
    NotJson(LenientError),
    /// It is neither an object nor an array.
    NotARecord,
    /// An element of the array is not an object.
    ElementNotARecord {
        /// Elements before it.
        index: usize,
    },
    /// There are more than [`JSON_RECORDS_MAX`] records in it.
    TooManyRecords,
    /// A record's values break a rule for values.
    Values(ValuesError),
    /// `ts`, beside `values`, is neither a number nor a string that holds one, within the bounds of numbers.
    TsNotANumber,
    /// `ts`, beside `values`, lies before 1970 or beyond [`DEVICE_TS_MAX`].
    TsOutOfRange,
    /// Beside `ts`, `values` is not an object.
    ValuesNotAnObject,
}

/// Reads a telemetry message; a record without a value that is not null gives no reading.
///
/// An empty result is a good message with nothing to store.
///
/// # Errors
/// A rule the message breaks; then none of it may be stored.
///
/// # Examples
/// ```
/// use forebay::device_api::telemetry::parse;
///
/// let readings = parse(b"{temperature:25.10}").expect("a lenient record");
/// assert_eq!(readings[0].values, r#"{"temperature":25.10}"#);
/// ```
pub fn parse(payload: &[u8]) -> Result<Vec<Reading>, TelemetryError> {
    read_payload(payload, |text| settle(read_strict(text)))
}

/// Reads a payload by `read`: as it stands if it is strict JSON, else made strict.
pub(super) fn read_payload<T, E: From<TelemetryError>>(
    payload: &[u8],
    read: impl Fn(&str) -> Result<Result<T, E>, NotStrict>,
) -> Result<T, E> {
    let text =
        str::from_utf8(payload).map_err(|error| TelemetryError::NotUtf8 { at: error.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Err(TelemetryError::Empty.into());
    }
    read(text).unwrap_or_else(|NotStrict| read_lenient(text, payload.len() - text.len(), read))
}

/// Why the strict reading of a text stopped.
pub(super) enum Refusal {
    /// It is not strict JSON, or nests too deeply to try.
    NotStrict,
    /// It is, but breaks a rule of ours.
    Broken(TelemetryError),
}

/// Tells a broken rule from a text that is to be read leniently.
pub(super) fn settle<T>(read: Result<T, Refusal>) -> Result<Result<T, TelemetryError>, NotStrict> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(Refusal::Broken(rule)) => Ok(Err(rule)),
        Err(Refusal::NotStrict) => Err(NotStrict),
    }
}

fn read_lenient<T, E: From<TelemetryError>>(
    text: &str,
    bytes_before: usize,
    read: impl Fn(&str) -> Result<Result<T, E>, NotStrict>,
) -> Result<T, E> {
    let not_json = |at, problem| TelemetryError::NotJson(LenientError { at: at + bytes_before, problem });
    let strict = to_strict(text).map_err(|error| not_json(error.at, error.problem))?;
    // The rewriter writes strict JSON only; were it ever wrong, to refuse is the safe answer.
    read(&strict).unwrap_or_else(|NotStrict| Err(not_json(0, Problem::ExpectedValue).into()))
}

fn read_strict(text: &str) -> Result<Vec<Reading>, Refusal> {
    match Document::read(text)? {
        Document::Object(members) => Ok(read_record(members)?.into_iter().collect()),
        Document::Array(elements) => read_records(elements),
        Document::Scalar => Err(TelemetryError::NotARecord.into()),
    }
}

/// Reads the records of one list.
pub(super) fn read_records(elements: Elements<'_>) -> Result<Vec<Reading>, Refusal> {
    if elements.overflowed {
        return Err(TelemetryError::TooManyRecords.into());
    }
    let mut readings = Vec::with_capacity(elements.items.len());
    for (index, element) in elements.items.into_iter().enumerate() {
        if !element.starts_with('{') {
            return Err(TelemetryError::ElementNotARecord { index }.into());
        }
        readings.extend(read_record(read_members(element)?)?);
    }
    Ok(readings)
}

/// Reads one record; `None` if it has no value that is not null.
fn read_record(members: Members<'_>) -> Result<Option<Reading>, Refusal> {
    let entries = Entries::of(members)?;
    let (Some(ts), Some(values)) = (entries.get("ts"), entries.get("values")) else {
        return Ok(entries.write()?.map(|values| Reading { device_ts: None, values }));
    };
    let device_ts = Some(read_ts(ts)?);
    if !values.starts_with('{') {
        return Err(TelemetryError::ValuesNotAnObject.into());
    }
    let entries = Entries::of(read_members(values)?)?;
    Ok(entries.write()?.map(|values| Reading { device_ts, values }))
}

/// Reads a time from its JSON text, dropping any fraction of a millisecond.
fn read_ts(raw: &str) -> Result<i64, TelemetryError> {
    let text = if raw.starts_with('"') { decode(raw).map_err(ValuesError::from)? } else { raw.into() };
    let number = Decimal::parse(&text).map_err(|error| match error {
        NumberError::Malformed => TelemetryError::TsNotANumber,
        out_of_bounds => ValuesError::Number(out_of_bounds).into(),
    })?;
    number.truncated().filter(|ts| (0..=DEVICE_TS_MAX).contains(ts)).ok_or(TelemetryError::TsOutOfRange)
}

impl From<NotStrict> for Refusal {
    fn from(NotStrict: NotStrict) -> Self {
        Self::NotStrict
    }
}

impl<E: Into<TelemetryError>> From<E> for Refusal {
    fn from(rule: E) -> Self {
        Self::Broken(rule.into())
    }
}

impl From<ValuesError> for TelemetryError {
    fn from(error: ValuesError) -> Self {
        Self::Values(error)
    }
}

impl fmt::Display for TelemetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the payload is empty"),
            Self::NotUtf8 { at } => write!(f, "the payload is not UTF-8 from byte {at}"),
            Self::NotJson(error) => write!(f, "the payload cannot be read as JSON: {error}"),
            Self::NotARecord => f.write_str("the payload is neither an object nor an array of objects"),
            Self::ElementNotARecord { index } => write!(f, "element {index} of the array is not an object"),
            Self::TooManyRecords => write!(f, "the array has more than {JSON_RECORDS_MAX} elements"),
            Self::Values(error) => error.fmt(f),
            Self::TsNotANumber => f.write_str("ts stands beside values but is not a number"),
            Self::TsOutOfRange => write!(f, "ts is not from 0 to {DEVICE_TS_MAX} milliseconds"),
            Self::ValuesNotAnObject => f.write_str("values stands beside ts but is not an object"),
        }
    }
}

impl std::error::Error for TelemetryError {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::value::RawValue;

    use super::*;
    use crate::limits::JSON_DEPTH_MAX;

    // Shapes

    #[test]
    fn an_object_of_values_is_one_reading_without_a_time() {
        let text = r#"{"temperature":25.1,"humidity":40}"#;
        assert_eq!(parse(text.as_bytes()), Ok(vec![Reading { device_ts: None, values: text.into() }]));
    }

    #[test]
    fn an_array_gives_one_reading_for_each_object_in_it() {
        assert_eq!(values(r#"[{"k":1}, {"k":2}]"#), [r#"{"k":1}"#, r#"{"k":2}"#]);
    }

    #[test]
    fn an_object_with_ts_and_values_carries_its_own_time() {
        let values = r#"{"k":1}"#.to_owned();
        let expected = Reading { device_ts: Some(1_700_000_000_000), values };
        assert_eq!(parse(br#"{"ts":1700000000000,"values":{"k":1}}"#), Ok(vec![expected.clone()]));
        assert_eq!(parse(br#"{"values":{"k":1},"x":1e999,"ts":1700000000000}"#), Ok(vec![expected]));
    }

    #[test]
    fn an_array_may_mix_both_forms() {
        let readings = parse(br#"[{"k":1},{"ts":5,"values":{"k":2}}]"#).expect("both forms");
        assert_eq!(readings.iter().map(|r| r.device_ts).collect::<Vec<_>>(), [None, Some(5)]);
    }

    #[test]
    fn only_one_of_ts_and_values_is_a_plain_name() {
        assert_eq!(values(r#"{"ts":"x","k":1}"#), [r#"{"ts":"x","k":1}"#]);
        assert_eq!(values(r#"{"values":{"a": 1}}"#), [r#"{"values":{"a":1}}"#]);
    }

    #[test]
    fn messages_without_a_value_are_good_and_store_nothing() {
        for text in ["[]", "{}", "[{},{}]", "{a:null}", r#"{"ts":1,"values":{}}"#, r#"[{"a":null,"":null}]"#]
        {
            assert_eq!(parse(text.as_bytes()), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn scalars_and_arrays_of_other_things_are_refused_whole() {
        for text in ["25", "null", r#""x""#, "hello", " true "] {
            assert_eq!(refusal(text), TelemetryError::NotARecord, "{text}");
        }
        for (text, index) in [("[[]]", 0), ("[{k:1},5]", 1), ("[{\"k\":1},]", 1), ("[{},{},null]", 2)] {
            assert_eq!(refusal(text), TelemetryError::ElementNotARecord { index }, "{text}");
        }
    }

    // Times

    #[test]
    fn a_time_may_have_a_fraction_an_exponent_or_quotes() {
        for ts in ["1700000000000", "1700000000000.9", "1.7e12", r#""1700000000000""#, r#""\u00317e+11""#] {
            assert_eq!(ts_of(ts), Ok(Some(1_700_000_000_000)), "{ts}");
        }
        for ts in ["0", "-0", "-0.5", "0.9"] {
            assert_eq!(ts_of(ts), Ok(Some(0)), "{ts}");
        }
    }

    #[test]
    fn seconds_instead_of_milliseconds_and_future_times_are_kept_as_given() {
        assert_eq!(ts_of("1700000000"), Ok(Some(1_700_000_000)));
        assert_eq!(ts_of("4102444800000"), Ok(Some(4_102_444_800_000)));
        assert_eq!(ts_of("253402300799999"), Ok(Some(DEVICE_TS_MAX)));
    }

    #[test]
    fn a_time_out_of_range_is_refused() {
        for ts in ["-1", "253402300800000", "9223372036854775807", "9223372036854775808", "1e300", "'-5'"] {
            assert_eq!(ts_of(ts), Err(TelemetryError::TsOutOfRange), "{ts}");
        }
        assert_eq!(ts_of("1e999999999"), Err(ValuesError::Number(NumberError::ExponentTooLarge).into()));
    }

    #[test]
    fn a_time_that_is_no_number_is_refused() {
        for ts in ["null", "true", "{}", "[1]", r#""""#, r#""soon""#, r#"" 1""#, r#""2024-01-01""#] {
            assert_eq!(ts_of(ts), Err(TelemetryError::TsNotANumber), "{ts}");
        }
    }

    #[test]
    fn values_beside_ts_must_be_an_object() {
        for text in [r#"{"ts":1,"values":5}"#, r#"{"ts":1,"values":null}"#, r#"{"ts":1,"values":[{}]}"#] {
            assert_eq!(refusal(text), TelemetryError::ValuesNotAnObject, "{text}");
        }
    }

    // Values

    #[test]
    fn each_object_of_values_is_held_to_the_rules_for_values() {
        for (text, error) in [
            (r#"{ts:1,values:{'':1}}"#, ValuesError::KeyBlank),
            (r#"[{"a":1},{" ":1}]"#, ValuesError::KeyBlank),
            (r#"{a:'\ud800'}"#, ValuesError::LoneSurrogate),
            (r#"{"ts":"\ud800","values":{}}"#, ValuesError::LoneSurrogate),
        ] {
            assert_eq!(refusal(text), error.into(), "{text}");
        }
        assert_eq!(
            parse(br#"{"ts":1,"values":{"a":1},"ts":2,"values":{"a":2,"a":3}}"#),
            Ok(vec![Reading { device_ts: Some(2), values: r#"{"a":3}"#.into() }])
        );
    }

    #[test]
    fn numbers_keep_their_token() {
        let worked = "25 25.0 1E1 101E-1 1e19 9223372036854775808 1.5e300 0.30000000000000004 1E-17 -0";
        let more = ["100000000000000000000.0", "1.50", "1.7976931348623157e308"];
        for token in worked.split(' ').chain(more) {
            assert_eq!(values(&format!("{{\"k\": {token} }}")), [format!("{{\"k\":{token}}}")]);
            assert_eq!(values(&format!("{{k={token}}}")), [format!("{{\"k\":{token}}}")]);
        }
    }

    // The lenient grammar

    #[test]
    fn the_documented_command_without_its_quotes_is_stored() {
        assert_eq!(values("{temperature:25}"), [r#"{"temperature":25}"#]);
    }

    #[test]
    fn lenient_messages_have_the_same_shapes_as_strict_ones() {
        assert_eq!(
            parse(b"[{'a'=>007;b:NULL},{ts='1700000000000',values:{c:'it\\'s'}}] // done"),
            Ok(vec![
                Reading { device_ts: None, values: r#"{"a":"007"}"#.into() },
                Reading { device_ts: Some(1_700_000_000_000), values: r#"{"c":"it's"}"#.into() },
            ])
        );
        assert_eq!(values("{a:[,1,];b:{c:x}}"), [r#"{"a":[null,1,null],"b":{"c":"x"}}"#]);
        assert_eq!(values("{\"s\":\"two\nlines\"}"), ["{\"s\":\"two\\u000alines\"}"]);
    }

    #[test]
    fn number_like_texts_of_other_notations_are_strings() {
        for text in ["1.", "01", "+1", "0x10", "007", "+5", ".5", "25C", "nan", "inf", "-infinity"] {
            assert_eq!(values(&format!("{{\"k\":{text}}}")), [format!("{{\"k\":\"{text}\"}}")]);
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_at_any_depth() {
        for text in ["{\"k\":NaN}", "{k:Infinity}", "{k:[-Infinity]}", "{ts:1,values:{a:{b:NaN}}}"] {
            let error = refusal(text);
            let TelemetryError::NotJson(LenientError { problem: Problem::NotFinite, .. }) = error else {
                panic!("{text}: {error}");
            };
        }
        assert_eq!(values(r#"{"k":"NaN"}"#), [r#"{"k":"NaN"}"#]);
    }

    #[test]
    fn what_even_the_lenient_grammar_refuses_is_told_with_its_place() {
        for (text, at, problem) in [
            ("{\"a\":1,}", 7, Problem::ExpectedName),
            ("{\"a\":1", 6, Problem::UnclosedObject),
            ("{a:x y}", 5, Problem::UnclosedObject),
            ("{\"a\":1}x", 7, Problem::TrailingData),
            ("{\"a\":1}{\"a\":2}", 7, Problem::TrailingData),
            ("\u{feff}{a:1}]", 8, Problem::TrailingData),
            ("# nothing", 9, Problem::ExpectedValue),
        ] {
            assert_eq!(refusal(text), TelemetryError::NotJson(LenientError { at, problem }), "{text}");
        }
    }

    // Encodings

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(values("\u{feff}{\"a\":1}"), [r#"{"a":1}"#]);
    }

    #[test]
    fn a_payload_of_nothing_or_white_space_is_empty() {
        for text in ["", " \r\n\t", "\u{feff}"] {
            assert_eq!(refusal(text), TelemetryError::Empty, "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_refused() {
        assert_eq!(parse(b"{\"a\":\"\xff\"}"), Err(TelemetryError::NotUtf8 { at: 6 }));
        assert_eq!(parse(b"\xff\xfe{\0}\0"), Err(TelemetryError::NotUtf8 { at: 0 }));
        assert!(matches!(parse(b"\0{\0\"\0a\0\"\0:\x001\0}"), Err(TelemetryError::NotJson(_))));
    }

    // Bounds

    #[test]
    fn sixteen_levels_of_a_reading_are_read_and_a_message_far_deeper_is_refused_before_any_parsing() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert_eq!(values(&nested(10)), [nested(10)]);
        assert_eq!(values(&nested(JSON_DEPTH_MAX)), [nested(JSON_DEPTH_MAX)]);
        let around = format!("[{{\"ts\":1,\"values\":{}}}]", nested(JSON_DEPTH_MAX));
        assert_eq!(values(&around), [nested(JSON_DEPTH_MAX)], "a list and a time do not count");
        let too_deep = ValuesError::TooDeep.into();
        assert_eq!(refusal(&nested(JSON_DEPTH_MAX + 1)), too_deep);
        assert_eq!(refusal(&format!("[{{b:1}},{}]", nested(JSON_DEPTH_MAX + 1))), too_deep);
        let deep = [nested(100), "[".repeat(100_000), "{\"a\":".repeat(100_000)];
        for text in deep {
            let error = refusal(&text);
            assert!(matches!(error, TelemetryError::NotJson(LenientError { problem: Problem::TooDeep, .. })));
        }
        let brackets_in_a_string = format!("{{a:'{}'}}", "[".repeat(100));
        assert_eq!(values(&brackets_in_a_string), [format!("{{\"a\":\"{}\"}}", "[".repeat(100))]);
    }

    #[test]
    fn a_message_of_1001_records_is_refused() {
        let records = |count: usize| format!("[{}]", vec!["{\"k\":1}"; count].join(","));
        assert_eq!(values(&records(JSON_RECORDS_MAX)).len(), JSON_RECORDS_MAX);
        assert_eq!(refusal(&records(JSON_RECORDS_MAX + 1)), TelemetryError::TooManyRecords);
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_at_any_depth() {
        let digits = |count: usize| "9".repeat(count);
        for (token, error) in [
            (digits(41), NumberError::TooManyDigits),
            (digits(400), NumberError::TooManyDigits),
            ("1e309".into(), NumberError::ExponentTooLarge),
            ("1e-400".into(), NumberError::ExponentTooLarge),
            (digits(40) + "e308", NumberError::Overflows),
        ] {
            for shape in
                ["{\"k\":#}", "{\"k\":[{\"x\":#}]}", "{k:#}", "[{\"a\":1},{\"ts\":1,\"values\":{\"k\":#}}]"]
            {
                assert_eq!(
                    refusal(&shape.replace('#', &token)),
                    ValuesError::Number(error).into(),
                    "{shape}"
                );
            }
        }
        assert_eq!(values(&format!("{{\"k\":{}}}", digits(40))), [format!("{{\"k\":{}}}", digits(40))]);
    }

    #[test]
    fn errors_are_told_in_words_without_the_payload() {
        for (error, words) in [
            (TelemetryError::Empty, "the payload is empty"),
            (TelemetryError::NotUtf8 { at: 6 }, "the payload is not UTF-8 from byte 6"),
            (refusal("{secret:1,}"), "the payload cannot be read as JSON: a name is missing at byte 10"),
            (TelemetryError::ElementNotARecord { index: 2 }, "element 2 of the array is not an object"),
            (ValuesError::KeyBlank.into(), "a value's name is blank"),
            (TelemetryError::TsOutOfRange, "ts is not from 0 to 253402300799999 milliseconds"),
        ] {
            assert_eq!(error.to_string(), words);
        }
    }

    // Properties

    #[test]
    fn whatever_is_accepted_keeps_its_number_tokens() {
        let mut chance = Chance(7);
        for _ in 0..2000 {
            let tokens: Vec<String> = (0..=chance.below(6)).map(|_| chance.number()).collect();
            let strict = tokens.iter().enumerate().map(|(i, token)| format!(" \"k{i}\" : {token}"));
            let lenient = tokens.iter().enumerate().map(|(i, token)| format!("k{i} = {token}"));
            for members in [strict.collect::<Vec<_>>(), lenient.collect()] {
                let readings =
                    parse(format!("{{{}}}", members.join(",")).as_bytes()).expect("numbers in bounds");
                let stored: BTreeMap<String, &RawValue> =
                    serde_json::from_str(&readings[0].values).expect("an object");
                let stored: Vec<_> = stored.values().map(|value| value.get()).collect();
                assert_eq!(stored, tokens);
            }
        }
    }

    #[test]
    fn strict_documents_mean_the_same_after_rewriting() {
        let mut chance = Chance(11);
        for _ in 0..2000 {
            let text = chance.document(4);
            let before: serde_json::Value = serde_json::from_str(&text).expect("strict");
            let after: serde_json::Value =
                serde_json::from_str(&to_strict(&text).expect("lenient")).expect("strict");
            assert_eq!(before, after, "{text}");
        }
    }

    #[test]
    fn no_damaged_document_panics_and_what_is_accepted_is_strict() {
        let pieces: Vec<&str> = concat!(
            r#"{ } [ ] : , = > ; " ' \ u d800 0 1 - + . e a é / * # null NaN ts values {a: "k": "#,
            "{\"ts\":1,\"values\":{ )]}'\n \n \0 \t  "
        )
        .split(' ')
        .collect();
        let mut chance = Chance(13);
        let mut accepted = 0;
        for _ in 0..30_000 {
            let text = chance.damaged_document(&pieces);
            if let Ok(strict) = to_strict(&text) {
                serde_json::from_str::<&RawValue>(&strict).expect(&text);
            }
            for reading in parse(text.as_bytes()).into_iter().flatten() {
                let stored: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&reading.values).expect(&text);
                assert!(!stored.is_empty(), "{text}");
                accepted += 1;
            }
        }
        assert!(accepted > 1000, "only {accepted} texts say anything");
    }

    #[test]
    fn no_random_bytes_panic() {
        const BYTES: &[u8] = b"{}[]:,;=\"'\\/#*u0189-+.eEtrufalsn \n\x00\xc3\xa9\xff";
        let mut chance = Chance(17);
        for _ in 0..50_000 {
            let payload: Vec<u8> = (0..chance.below(40)).map(|_| BYTES[chance.below(BYTES.len())]).collect();
            let _either = parse(&payload);
        }
    }

    fn values(text: &str) -> Vec<String> {
        parse(text.as_bytes()).expect(text).into_iter().map(|reading| reading.values).collect()
    }

    fn refusal(text: &str) -> TelemetryError {
        parse(text.as_bytes()).expect_err("to be refused")
    }

    fn ts_of(ts: &str) -> Result<Option<i64>, TelemetryError> {
        let readings = parse(format!("{{\"ts\":{ts},\"values\":{{\"k\":1}}}}").as_bytes())?;
        Ok(readings[0].device_ts)
    }

    /// A small xorshift generator, so that a failing run can be run again.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).expect("31 bits") % end
        }

        fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
            choices[self.below(choices.len())]
        }

        fn number(&mut self) -> String {
            let whole = self.pick(&["0", "-0", "7", "-25", "1234567890123456789012"]);
            let fraction = self.pick(&["", "", ".0", ".50", ".000000000000000001"]);
            let exponent = self.pick(&["", "", "e5", "E+05", "e-300", "e250"]);
            format!("{whole}{fraction}{exponent}")
        }

        fn string(&mut self) -> String {
            let parts = ["a", "é", "😀", "'", "\\\"", "\\\\", "\\u00e9", "\\/", " ", "{", "#", "//"];
            (0..self.below(5)).map(|_| self.pick(&parts)).collect()
        }

        /// A document in which a few characters gave way to pieces of JSON, or to nothing.
        fn damaged_document(&mut self, pieces: &[&str]) -> String {
            let mut text = format!("{{a:{}}}", self.document(2));
            for _ in 0..self.below(4) {
                let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                let from = self.below(places.len());
                let to = (from + self.below(3)).min(places.len() - 1);
                text.replace_range(places[from]..places[to], self.pick(pieces));
            }
            text
        }

        fn document(&mut self, depth: usize) -> String {
            let space = self.pick(&["", "", " ", "\r\n\t"]);
            let kinds = if depth == 0 { 3 } else { 5 };
            let text = match self.below(kinds) {
                0 => self.number(),
                1 => format!("\"{}\"", self.string()),
                2 => self.pick(&["true", "false", "null"]).to_owned(),
                3 => {
                    let items: Vec<_> = (0..self.below(4)).map(|_| self.document(depth - 1)).collect();
                    format!("[{}]", items.join(","))
                }
                _ => {
                    let member = |i| format!("\"{i}{}\"{space}:{}", self.string(), self.document(depth - 1));
                    let members: Vec<_> = (0..3).map(member).collect();
                    format!("{{{}}}", members.join(","))
                }
            };
            format!("{space}{text}{space}")
        }
    }
}
