//! The values of one record: which of them count, within which bounds, and how they are written to the journal.
//!
//! Knows objects that `strict_json.rs` has taken apart; knows no times and no lists of records.

use std::{array, borrow::Cow, fmt};

use super::{
    number::{Decimal, NumberError},
    strict_json::{LoneSurrogate, Members, decode, split_token},
};
use crate::limits::{JSON_DEPTH_MAX, JSON_KEY_CHARS_MAX, JSON_KEYS_MAX};

/// Why a set of values is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValuesError {
    /// An object has more than [`JSON_KEYS_MAX`] names, repeated ones counted.
    TooManyKeys,
    /// A value's name is empty or white space only.
    KeyBlank,
    /// A value's name has more than [`JSON_KEY_CHARS_MAX`] characters.
    KeyTooLong,
    /// It has more than [`JSON_DEPTH_MAX`] levels of nesting.
    TooDeep,
    /// A string has half of a UTF-16 surrogate pair as an escape.
    LoneSurrogate,
    /// A number is out of bounds.
    Number(NumberError),
}

/// An object's entries in the order they were written; of equal names only the last is left.
pub(super) struct Entries<'a>(Vec<Entry<'a>>);

struct Entry<'a> {
    /// The name, decoded.
    key: Cow<'a, str>,
    /// The name as JSON text.
    raw_key: &'a str,
    /// The value as JSON text.
    value: &'a str,
}

impl<'a> Entries<'a> {
    /// Decodes the names in `members` and drops the entries that later ones replace.
    pub(super) fn of(members: Members<'a>) -> Result<Self, ValuesError> {
        if members.overflowed {
            return Err(ValuesError::TooManyKeys);
        }
        let mut entries = Vec::with_capacity(members.items.len());
        for (raw_key, value) in members.items {
            entries.push(Entry { key: decode(raw_key)?, raw_key, value });
        }
        drop_replaced(&mut entries);
        Ok(Self(entries))
    }

    /// The value called `name`, as JSON text.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|entry| entry.key == name).map(|entry| entry.value)
    }

    /// Writes the object of all values that are not null, without white space; `None` if there is none.
    ///
    /// Objects inside values keep repeated names: whoever reads them takes the last. Only the names of the values
    /// themselves are held to the rules for names.
    pub(super) fn write(&self) -> Result<Option<String>, ValuesError> {
        let bytes: usize = self.0.iter().map(|entry| entry.raw_key.len() + entry.value.len() + 2).sum();
        let mut out = String::with_capacity(bytes + 1);
        for entry in self.0.iter().filter(|entry| entry.value != "null") {
            check_key(&entry.key)?;
            out.push(if out.is_empty() { '{' } else { ',' });
            out.push_str(entry.raw_key);
            out.push(':');
            push_value(entry.value, &mut out)?;
        }
        if out.is_empty() {
            return Ok(None);
        }
        out.push('}');
        Ok(Some(out))
    }
}

fn drop_replaced(entries: &mut Vec<Entry<'_>>) {
    assert!(entries.len() <= JSON_KEYS_MAX, "more entries than an object is read for");
    // Sorting places, not entries, keeps the device's order; and there is no hash for a device to attack.
    let mut places: [usize; JSON_KEYS_MAX] = array::from_fn(|place| place);
    let places = &mut places[..entries.len()];
    places.sort_unstable_by(|a, b| entries[*a].key.cmp(&entries[*b].key).then(a.cmp(b)));
    let mut replaced = [false; JSON_KEYS_MAX];
    for pair in places.windows(2) {
        replaced[pair[0]] = entries[pair[0]].key == entries[pair[1]].key;
    }
    let mut place = 0..;
    entries.retain(|_| place.next().is_some_and(|place: usize| !replaced[place]));
}

fn check_key(key: &str) -> Result<(), ValuesError> {
    if key.trim().is_empty() {
        return Err(ValuesError::KeyBlank);
    }
    // Most names are shorter in bytes than allowed in characters; only the others are counted.
    if key.len() > JSON_KEY_CHARS_MAX && key.chars().count() > JSON_KEY_CHARS_MAX {
        return Err(ValuesError::KeyTooLong);
    }
    Ok(())
}

/// Appends `value`, which is strict JSON, without its white space, and checks what it holds at any depth.
fn push_value(value: &str, out: &mut String) -> Result<(), ValuesError> {
    let mut keys = [0; JSON_DEPTH_MAX];
    let mut depth = 0;
    let mut rest = value;
    while let Some((token, after)) = split_token(rest) {
        rest = after;
        match token.as_bytes()[0] {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'"' => check_surrogates(token)?,
            b'-' | b'0'..=b'9' => drop(Decimal::parse(token).map_err(ValuesError::Number)?),
            // The object of all values is a level as well.
            b'{' | b'[' if depth + 1 == JSON_DEPTH_MAX => return Err(ValuesError::TooDeep),
            b'{' | b'[' => {
                keys[depth] = 0;
                depth += 1;
            }
            b'}' | b']' => depth -= 1,
            // A colon outside strings follows a name, so colons count names.
            b':' if keys[depth - 1] == JSON_KEYS_MAX => return Err(ValuesError::TooManyKeys),
            b':' => keys[depth - 1] += 1,
            _ => {}
        }
        out.push_str(token);
    }
    Ok(())
}

fn check_surrogates(string: &str) -> Result<(), ValuesError> {
    if string.contains("\\u") {
        decode(string)?;
    }
    Ok(())
}

impl From<LoneSurrogate> for ValuesError {
    fn from(LoneSurrogate: LoneSurrogate) -> Self {
        Self::LoneSurrogate
    }
}

impl fmt::Display for ValuesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyKeys => write!(f, "an object has more than {JSON_KEYS_MAX} names"),
            Self::KeyBlank => f.write_str("a value's name is blank"),
            Self::KeyTooLong => write!(f, "a value's name has more than {JSON_KEY_CHARS_MAX} characters"),
            Self::TooDeep => write!(f, "a reading goes beyond {JSON_DEPTH_MAX} levels of nesting"),
            Self::LoneSurrogate => f.write_str("a string has half of a surrogate pair as a \\u escape"),
            Self::Number(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ValuesError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_api::strict_json::read_members;

    #[test]
    fn words_strings_and_nulls_are_kept_kept_and_dropped() {
        let text = r#"{"t":true,"f":false,"n":null,"s":"25","u":"a\/\u00e9\ud83d\ude00\"b  c"}"#;
        assert_eq!(values(text), r#"{"t":true,"f":false,"s":"25","u":"a\/\u00e9\ud83d\ude00\"b  c"}"#);
    }

    #[test]
    fn nested_values_lose_their_white_space_and_nothing_else() {
        let text =
            "{ \"a\" : { \"x\" : [ 1.0 , \" \\\" ] \" , null ,\r\n\ttrue ] , \"x\" : { } } , \"b\":[ ] }";
        assert_eq!(values(text), r#"{"a":{"x":[1.0," \" ] ",null,true],"x":{}},"b":[]}"#);
    }

    #[test]
    fn of_equal_names_the_last_counts_and_keeps_its_place() {
        assert_eq!(values(r#"{"a":1,"b":2,"a":3,"c":4}"#), r#"{"b":2,"a":3,"c":4}"#);
        assert_eq!(values(r#"{"a":1,"\u0061":2}"#), r#"{"\u0061":2}"#);
        assert_eq!(values(r#"{"a":1,"b":2,"a":null}"#), r#"{"b":2}"#);
        assert_eq!(values(r#"{"a":1,"a":2,"a":3}"#), r#"{"a":3}"#);
    }

    #[test]
    fn a_replaced_value_out_of_bounds_does_no_harm() {
        assert_eq!(values(r#"{"a":1e999,"a":1}"#), r#"{"a":1}"#);
    }

    #[test]
    fn names_may_hold_any_other_character() {
        for name in ["a b", "a.b/c", "<b>", "naïve", "\u{1F321}", "a\\n", "\\u0000", "'", "ts "] {
            let text = format!("{{\"{name}\":1}}");
            assert_eq!(values(&text), text);
        }
    }

    #[test]
    fn a_string_as_long_as_a_message_is_stored_as_text() {
        let text = format!("{{\"blob\":\"{}==\"}}", "QUJD".repeat(15 * 1024));
        assert_eq!(values(&text), text);
    }

    #[test]
    fn a_lone_surrogate_is_refused_in_names_and_values_at_any_depth() {
        for text in [
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00x"}"#,
            r#"{"a":"\ud83dx\ude00"}"#,
            r#"{"a":[{"b":"\uD800"}]}"#,
            r#"{"a":[{"\ud800":1}]}"#,
            r#"{"\ud800":1}"#,
        ] {
            assert_eq!(refusal(text), ValuesError::LoneSurrogate, "{text}");
        }
    }

    #[test]
    fn an_object_of_257_names_is_refused_at_any_depth() {
        let object = |names: usize| {
            let members: Vec<_> = (0..names).map(|i| format!("\"k{i}\":{i}")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert_eq!(values(&object(JSON_KEYS_MAX)), object(JSON_KEYS_MAX));
        assert_eq!(refusal(&object(JSON_KEYS_MAX + 1)), ValuesError::TooManyKeys);
        let nested = |names: usize| format!("{{\"a\":[{{\"b\":1}},{}]}}", object(names));
        assert_eq!(values(&nested(JSON_KEYS_MAX)), nested(JSON_KEYS_MAX));
        assert_eq!(refusal(&nested(JSON_KEYS_MAX + 1)), ValuesError::TooManyKeys);
        let same = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(JSON_KEYS_MAX));
        assert_eq!(refusal(&same), ValuesError::TooManyKeys);
    }

    #[test]
    fn blank_names_are_refused() {
        for text in [r#"{"":1}"#, r#"{" \t":1}"#, "{\"\u{a0}\":1}"] {
            assert_eq!(refusal(text), ValuesError::KeyBlank, "{text}");
        }
    }

    #[test]
    fn a_name_has_at_most_255_characters_not_bytes() {
        let named = |name: String| format!("{{\"{name}\":1}}");
        assert_eq!(values(&named("é".repeat(255))), named("é".repeat(255)));
        assert_eq!(values(&named("\\u00e9".repeat(255))), named("\\u00e9".repeat(255)));
        assert_eq!(refusal(&named("é".repeat(256))), ValuesError::KeyTooLong);
        assert_eq!(refusal(&named("a".repeat(256))), ValuesError::KeyTooLong);
    }

    #[test]
    fn an_object_without_a_value_is_not_written() {
        for text in ["{}", r#"{"a":null}"#, r#"{"a":1,"a":null}"#, r#"{"":null}"#] {
            assert_eq!(written(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_number_out_of_bounds_is_refused_at_any_depth() {
        for text in [r#"{"a":1e309}"#, r#"{"a":[{"b":1e309}]}"#] {
            assert_eq!(refusal(text), ValuesError::Number(NumberError::ExponentTooLarge), "{text}");
        }
    }

    #[test]
    fn errors_are_told_in_words() {
        for (error, words) in [
            (ValuesError::TooManyKeys, "an object has more than 256 names"),
            (ValuesError::KeyBlank, "a value's name is blank"),
            (ValuesError::KeyTooLong, "a value's name has more than 255 characters"),
            (ValuesError::LoneSurrogate, "a string has half of a surrogate pair as a \\u escape"),
            (ValuesError::Number(NumberError::Overflows), "a number is too large for a 64-bit float"),
        ] {
            assert_eq!(error.to_string(), words);
        }
    }

    fn written(text: &str) -> Result<Option<String>, ValuesError> {
        Entries::of(read_members(text).expect(text))?.write()
    }

    fn values(text: &str) -> String {
        written(text).expect(text).expect("a value")
    }

    fn refusal(text: &str) -> ValuesError {
        written(text).expect_err("to be refused")
    }
}
