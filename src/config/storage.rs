//! `[storage]`: sizes and ages as people write them.

use std::time::Duration;

use forebay::store::{FreeSpace, Policy, StorageWishes};
use toml::de::{DeTable, DeValue};

use super::{Fault, Located, Value, in_file_order, wrong_kind};

/// The least the data directory may be given, in bytes: its journal's log and the space put by fit in.
const MAX_BYTES_MIN: u64 = 16 << 20;
const KEYS: &str = "max_bytes, keep_free, max_age, keep_uploaded and policy";
const SIZE: &str = "a size of at least 16 MiB like \"500 MiB\", with kB, MB, GB, TB, KiB, MiB, GiB or TiB, or a number of bytes";
const FREE: &str = "a size like \"64 MiB\", a share like \"5%\", or a number of bytes";
const AGE: &str = "a time like \"30d\", with s, m, h, d or w, or \"never\"";
const BOOLEAN: &str = "true or false";
const POLICIES: &str = "\"drop-oldest\" or \"refuse-new\"";
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads the table.
pub(super) fn wishes(table: &DeTable<'_>) -> Located<StorageWishes> {
    let mut wishes = StorageWishes::default();
    for (key, value) in in_file_order(table) {
        let name = format!("storage.{}", key.get_ref());
        let text = || value.get_ref().as_str();
        match key.get_ref().as_ref() {
            "max_bytes" => match size(value).filter(|bytes| *bytes >= MAX_BYTES_MIN) {
                Some(bytes) => wishes.max_bytes = Some(bytes),
                None => return wrong_kind(&name, value, SIZE),
            },
            "keep_free" => match text().and_then(share).or_else(|| size(value).map(FreeSpace::Bytes)) {
                Some(space) => wishes.keep_free = Some(space),
                None => return wrong_kind(&name, value, FREE),
            },
            "max_age" => match text() {
                Some("never") => wishes.max_age = None,
                text => match text.and_then(age) {
                    Some(age) => wishes.max_age = Some(age),
                    None => return wrong_kind(&name, value, AGE),
                },
            },
            "keep_uploaded" => match value.get_ref().as_bool() {
                Some(wanted) => wishes.keep_uploaded = wanted,
                None => return wrong_kind(&name, value, BOOLEAN),
            },
            "policy" => match text() {
                Some("drop-oldest") => wishes.policy = Policy::DropOldest,
                Some("refuse-new") => wishes.policy = Policy::RefuseNew,
                _ => return wrong_kind(&name, value, POLICIES),
            },
            _ => return Err((key.span(), Fault::UnknownKey { key: name, allowed: KEYS })),
        }
    }
    Ok(wishes)
}

fn size(value: &Value<'_>) -> Option<u64> {
    match value.get_ref() {
        DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
        DeValue::String(text) => {
            let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
            text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(*factor)
        }
        _ => None,
    }
}

fn share(text: &str) -> Option<FreeSpace> {
    let percent = text.strip_suffix('%')?.trim_end().parse().ok()?;
    (percent < 100).then_some(FreeSpace::Percent(percent))
}

fn age(text: &str) -> Option<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];
    let (unit, seconds) = units.iter().find(|(unit, _)| text.ends_with(*unit))?;
    let count: u64 = text.strip_suffix(*unit)?.trim_end().parse().ok()?;
    count.checked_mul(*seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(lines: &str) -> Result<StorageWishes, String> {
        let config = Config::parse(Path::new("f.toml"), &format!("[storage]\n{lines}\n"));
        config.map(|config| config.storage).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_read() {
        let wishes = parse(
            "max_bytes = '2 GiB'\nkeep_free = '10%'\nmax_age = '30d'\nkeep_uploaded = true\npolicy = 'refuse-new'",
        );
        let expected = StorageWishes {
            max_bytes: Some(2 << 30),
            keep_free: Some(FreeSpace::Percent(10)),
            max_age: Some(Duration::from_secs(30 * 86_400)),
            keep_uploaded: true,
            policy: Policy::RefuseNew,
        };
        assert_eq!(wishes, Ok(expected));
        let two_weeks = Some(Duration::from_secs(14 * 86_400));
        assert_eq!(parse("max_age = '2w'").expect("weeks").max_age, two_weeks);
        for nothing in ["", "max_age = 'never'"] {
            assert_eq!(parse(nothing), Ok(StorageWishes::default()));
        }
    }

    #[test]
    fn sizes_are_numbers_of_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("20_000_000", 20_000_000),
            ("0x2000000", 32 << 20),
            ("'20MB'", 20_000_000),
            ("'16777216 B'", 16 << 20),
            ("'16384KiB'", 16 << 20),
            ("'1 TiB'", 1 << 40),
        ] {
            assert_eq!(parse(&format!("max_bytes = {text}")).expect(text).max_bytes, Some(bytes));
        }
        assert_eq!(parse("keep_free = 0").expect("none").keep_free, Some(FreeSpace::Bytes(0)));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_is_allowed() {
        for (line, allowed) in [
            ("max_bytes = '15 MiB'", SIZE),
            ("max_bytes = 'much'", SIZE),
            ("max_bytes = -1", SIZE),
            ("max_bytes = '99999999999999 GiB'", SIZE),
            ("keep_free = '100%'", FREE),
            ("keep_free = '-1%'", FREE),
            ("max_age = 30", AGE),
            ("max_age = '0d'", AGE),
            ("max_age = '30 days'", AGE),
            ("keep_uploaded = 'yes'", BOOLEAN),
            ("policy = 'drop-newest'", POLICIES),
        ] {
            let (key, _) = line.split_once(' ').expect("a key");
            assert_eq!(parse(line), Err(format!("f.toml:2: storage.{key}: must be {allowed}")), "{line}");
        }
        let unknown = parse("max_byte = 1").expect_err("refused");
        assert!(unknown.contains("storage.max_byte: no such key") && unknown.contains(KEYS), "{unknown}");
    }
}
