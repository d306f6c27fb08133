//! Strict JSON, taken apart one level at a time and never copied.
//!
//! Checks grammar and depth; names and values stay the text the device wrote, so that nothing is rounded or re-escaped.
//! What a level means is for `telemetry.rs`, what its values may be for `values.rs`.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::limits::{JSON_KEYS_MAX, JSON_MESSAGE_DEPTH_MAX, JSON_RECORDS_MAX};

/// A document's outermost level.
pub(super) enum Document<'a> {
    /// An object's names and values.
    Object(Members<'a>),
    /// An array's elements.
    Array(Elements<'a>),
    /// Anything else.
    Scalar,
}

/// An object's names and values, both as JSON text; those beyond [`JSON_KEYS_MAX`] are only noticed.
pub(super) type Members<'a> = Bounded<(&'a str, &'a str), JSON_KEYS_MAX>;

/// An array's elements, each as JSON text; those beyond [`JSON_RECORDS_MAX`] are only noticed.
pub(super) type Elements<'a> = Bounded<&'a str, JSON_RECORDS_MAX>;

/// The first `MAX` items of a list, and whether there were more.
pub(super) struct Bounded<T, const MAX: usize> {
    /// The items, in the order they were written.
    pub(super) items: Vec<T>,
    /// Whether items were left out.
    pub(super) overflowed: bool,
}

/// The text is not strict JSON, or nests too deeply to try.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotStrict;

/// A string has half of a UTF-16 surrogate pair as an escape.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

impl<'a> Document<'a> {
    /// Reads `text` whole, down to its last character.
    pub(super) fn read(text: &'a str) -> Result<Self, NotStrict> {
        if !is_shallow(text) {
            return Err(NotStrict);
        }
        match text.trim_ascii_start().as_bytes() {
            [b'{', ..] => Ok(Self::Object(read(text)?)),
            [b'[', ..] => Ok(Self::Array(read(text)?)),
            _ => read::<&RawValue>(text).map(|_| Self::Scalar),
        }
    }
}

/// Reads the object `text`, a part of a document already read.
pub(super) fn read_members(text: &str) -> Result<Members<'_>, NotStrict> {
    read(text)
}

/// Reads the array `text`, a part of a document already read.
pub(super) fn read_elements(text: &str) -> Result<Elements<'_>, NotStrict> {
    read(text)
}

/// What the JSON string `raw` says; borrowed if it has no escapes.
pub(super) fn decode(raw: &str) -> Result<Cow<'_, str>, LoneSurrogate> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(plain.into()),
        // Whether surrogates pair up is the only thing not checked when the document was read.
        _ => serde_json::from_str(raw).map(Cow::Owned).map_err(|_| LoneSurrogate),
    }
}

/// Splits strict JSON after its first token: a string, a number, or one character of anything else.
///
/// `None` at the end of `text`.
pub(super) fn split_token(text: &str) -> Option<(&str, &str)> {
    let length = match *text.as_bytes().first()? {
        b'"' => string_length(text),
        b'-' | b'0'..=b'9' => number_length(text),
        _ => 1,
    };
    text.split_at_checked(length)
}

fn string_length(text: &str) -> usize {
    let mut escaped = true; // the opening quote does not close
    let closes = |byte: u8| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    };
    text.bytes().position(closes).map_or(text.len(), |last| last + 1)
}

fn number_length(text: &str) -> usize {
    let ends = |byte: u8| !(byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.bytes().position(ends).unwrap_or(text.len())
}

/// Whether `text`, if it is strict JSON, nests no deeper than [`JSON_MESSAGE_DEPTH_MAX`]; the cheap look before any parsing.
fn is_shallow(text: &str) -> bool {
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => drop(bytes.next()),
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_MESSAGE_DEPTH_MAX {
            return false;
        }
    }
    true
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, NotStrict> {
    serde_json::from_str(text).map_err(|_| NotStrict)
}

impl<T, const MAX: usize> Bounded<T, MAX> {
    const EMPTY: Self = Self { items: Vec::new(), overflowed: false };

    fn push(&mut self, item: T) {
        if self.items.len() < MAX { self.items.push(item) } else { self.overflowed = true }
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bounded<(&'de str, &'de str), MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for MembersVisitor<MAX> {
    type Value = Bounded<(&'de str, &'de str), MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Bounded::EMPTY;
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            members.push((name.get(), value.get()));
        }
        Ok(members)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bounded<&'de str, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

struct ElementsVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for ElementsVisitor<MAX> {
    type Value = Bounded<&'de str, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Bounded::EMPTY;
        while let Some(element) = seq.next_element::<&RawValue>()? {
            elements.push(element.get());
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_taken_apart_into_the_texts_of_its_names_and_values() {
        let Ok(Document::Object(members)) = Document::read(r#" {"a\u0062" : [1, 2.50] , "c":"\n"} "#) else {
            panic!("an object");
        };
        assert_eq!(members.items, [(r#""a\u0062""#, "[1, 2.50]"), (r#""c""#, r#""\n""#)]);
        assert!(!members.overflowed);
    }

    #[test]
    fn an_array_is_taken_apart_into_the_texts_of_its_elements() {
        let Ok(Document::Array(elements)) = Document::read(r#"[{"a": 1}, null]"#) else { panic!("an array") };
        assert_eq!(elements.items, [r#"{"a": 1}"#, "null"]);
    }

    #[test]
    fn a_list_longer_than_its_bound_is_read_to_the_end_but_not_kept() {
        let text = format!("[{}0]", "0,".repeat(5000));
        let Ok(Document::Array(elements)) = Document::read(&text) else { panic!("an array") };
        assert_eq!((elements.items.len(), elements.overflowed), (JSON_RECORDS_MAX, true));
        assert!(Document::read(&format!("[{}]", "0,".repeat(5000))).is_err());
    }

    #[test]
    fn what_is_not_strict_json_is_not_read() {
        for text in ["", "{a:1}", "{\"a\":1,}", "{\"a\":01}", "[1] 2", "\"\n\"", "NaN", "[1", "True"] {
            assert!(Document::read(text).is_err(), "{text}");
        }
        assert!(matches!(Document::read(" -0.5e1 "), Ok(Document::Scalar)));
        assert!(read_members("[1]").is_err());
    }

    #[test]
    fn depth_counts_brackets_but_not_those_in_strings() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Document::read(&nested(JSON_MESSAGE_DEPTH_MAX)).is_ok());
        assert!(Document::read(&nested(JSON_MESSAGE_DEPTH_MAX + 1)).is_err());
        assert!(Document::read(&format!("\"\\\"{}\"", "[".repeat(100))).is_ok());
        assert!(Document::read(&format!("[{}{{}}]", "[],{},".repeat(100))).is_ok());
    }

    #[test]
    fn a_string_is_decoded_and_a_lone_surrogate_refused() {
        assert!(matches!(decode(r#""plain""#), Ok(Cow::Borrowed("plain"))));
        assert_eq!(decode(r#""\u0061\"\ud83d\ude00""#).as_deref(), Ok("a\"\u{1f600}"));
        for raw in [r#""\ud800""#, r#""\udc00\ud800""#, r#""\ud800\u0061""#] {
            assert_eq!(decode(raw), Err(LoneSurrogate), "{raw}");
        }
    }

    #[test]
    fn tokens_end_where_json_ends_them() {
        let mut rest = r#"{"a\\":-1.5E+3,"\"":[0 true]"#.to_owned();
        let mut tokens = Vec::new();
        while let Some((token, after)) = split_token(&rest) {
            tokens.push(token.to_owned());
            rest = after.to_owned();
        }
        let expected =
            ["{", r#""a\\""#, ":", "-1.5E+3", ",", r#""\"""#, ":", "[", "0", " ", "t", "r", "u", "e", "]"];
        assert_eq!(tokens, expected);
    }
}
