//! What a value in a TOML document may be, and how it is told that it is another.

use std::{
    borrow::Cow,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Fault;

const PATH: &str = "a path in quotes";
const TEXT: &str = "a text in quotes";

/// A value, or what is wrong and where.
pub type Located<T> = Result<T, (Range<usize>, Fault)>;
/// A value and where it stands.
pub type Value<'a> = Spanned<DeValue<'a>>;

/// The entries from the top of the file: TOML tables come sorted by key.
pub fn in_file_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Spanned<Cow<'a, str>>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Says that `key` takes another kind of value.
///
/// # Errors
/// Always.
pub fn wrong_kind<T>(key: &str, value: &Value<'_>, allowed: &'static str) -> Located<T> {
    Err((value.span(), Fault::WrongKind { key: key.to_owned(), allowed }))
}

/// A table.
///
/// # Errors
/// If it is none.
pub fn table<'t, 'a>(key: &str, value: &'t Value<'a>) -> Located<&'t DeTable<'a>> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(table),
        _ => wrong_kind(key, value, "a table"),
    }
}

/// A path, which starts at the directory of `file` if it is relative.
///
/// # Errors
/// If it is none.
pub fn path(file: &Path, key: &str, value: &Value<'_>) -> Located<PathBuf> {
    match value.get_ref() {
        DeValue::String(text) if !text.is_empty() => {
            let directory = file.parent().unwrap_or(Path::new(""));
            Ok(directory.join(text.as_ref()))
        }
        _ => wrong_kind(key, value, PATH),
    }
}

/// A text that is not empty.
///
/// # Errors
/// If it is none.
pub fn text(key: &str, value: &Value<'_>) -> Located<String> {
    match value.get_ref() {
        DeValue::String(text) if !text.is_empty() => Ok(text.to_string()),
        _ => wrong_kind(key, value, TEXT),
    }
}

/// A whole number; what is out of `i64`, or no whole number at all, is out of every range.
pub fn number(value: &Value<'_>) -> i64 {
    match value.get_ref() {
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i64::MIN),
        _ => i64::MIN,
    }
}

/// A value of the right kind that makes no sense.
///
/// # Errors
/// Always.
pub fn unusable<T>(key: &str, value: &Value<'_>, words: String) -> Located<T> {
    Err((value.span(), Fault::Unusable { key: key.to_owned(), words }))
}

type Found = Option<(Range<usize>, PathBuf)>;

/// Two files of which neither is any use alone.
///
/// # Errors
/// If one is missing; the keys are for the words.
pub fn both(keys: [&'static str; 2], one: Found, other: Found) -> Located<Option<(PathBuf, PathBuf)>> {
    match (one, other) {
        (Some((_, one)), Some((_, other))) => Ok(Some((one, other))),
        (Some((span, _)), None) => Err((span, Fault::Lonely { key: keys[0], missing: keys[1] })),
        (None, Some((span, _))) => Err((span, Fault::Lonely { key: keys[1], missing: keys[0] })),
        (None, None) => Ok(None),
    }
}
