//! A time on the command line: `2h`, `2026-11-24`, `2026-11-24T05:10:55Z`, or milliseconds since 1970.
//!
//! A time without an offset is UTC, as everything that is printed.

use std::str::FromStr;

use jiff::{Timestamp, civil, tz::TimeZone};

/// A point in time as the operator gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeArgument {
    /// Milliseconds since 1970-01-01 UTC.
    At(i64),
    /// Milliseconds before now.
    Ago(i64),
}

impl TimeArgument {
    /// Milliseconds since 1970-01-01 UTC, `now_ms` being now.
    pub fn as_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }
}

impl FromStr for TimeArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        milliseconds(text).or_else(|| ago(text)).or_else(|| calendar(text)).ok_or_else(|| {
            "give a time like 2026-11-24T05:10:55Z or 2026-11-24 (UTC), \
             a time ago like 45s, 30m, 2h, 7d or 2w, or milliseconds since 1970"
                .to_owned()
        })
    }
}

fn milliseconds(text: &str) -> Option<TimeArgument> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().map(TimeArgument::At)
}

fn ago(text: &str) -> Option<TimeArgument> {
    let unit = text.chars().next_back()?;
    let unit_ms: i64 = match unit {
        's' => 1000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        'w' => 604_800_000,
        _ => return None,
    };
    match milliseconds(text.strip_suffix(unit)?)? {
        TimeArgument::At(count) => count.checked_mul(unit_ms).map(TimeArgument::Ago),
        TimeArgument::Ago(_) => None,
    }
}

fn calendar(text: &str) -> Option<TimeArgument> {
    let exact = text.parse::<Timestamp>().ok();
    let time = exact.or_else(|| {
        text.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp())
    });
    time.map(|time| TimeArgument::At(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> TimeArgument {
        text.parse().expect(text)
    }

    #[test]
    fn a_time_ago_counts_back_from_now() {
        for (text, ms) in
            [("45s", 45_000), ("30m", 1_800_000), ("2h", 7_200_000), ("7d", 604_800_000), ("1w", 604_800_000)]
        {
            assert_eq!(parse(text), TimeArgument::Ago(ms), "{text}");
        }
        assert_eq!(parse("2h").as_ms(10_000_000), 2_800_000);
    }

    #[test]
    fn a_calendar_time_is_utc_unless_it_says_otherwise() {
        let at = TimeArgument::At(1_795_497_055_000);
        assert_eq!(parse("2026-11-24T05:10:55Z"), at);
        assert_eq!(parse("2026-11-24T06:10:55+01:00"), at);
        assert_eq!(parse("2026-11-24 05:10:55"), at);
        assert_eq!(parse("2026-11-24T05:10:55.250Z"), TimeArgument::At(1_795_497_055_250));
        assert_eq!(parse("2026-11-24"), TimeArgument::At(1_795_478_400_000));
        assert_eq!(parse("1970-01-01").as_ms(5), 0);
    }

    #[test]
    fn digits_alone_are_milliseconds() {
        assert_eq!(parse("1700000000000").as_ms(0), 1_700_000_000_000);
        assert_eq!(parse("0").as_ms(5), 0);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "h",
            "-2h",
            "+5",
            "2 h",
            "2y",
            "yesterday",
            "2026-13-01",
            "99999999999999999999",
            "999999999999999w",
        ] {
            assert!(text.parse::<TimeArgument>().is_err(), "{text}");
        }
    }
}
