//! Readings: on their way to disk, and from there to the hub.

use std::{fmt, str::FromStr};

use crate::{
    clock::Mono,
    ids::{DeviceName, Seq},
};

/// One reading on its way to the journal, or back from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the journal.
    pub seq: Seq,
    /// Who sent it.
    pub device: DeviceName,
    /// When it was received, since boot; messages of a device that need it to have a time have different milliseconds, and
    /// may be ahead by up to [`RECEIVED_AHEAD_MAX`](crate::limits::RECEIVED_AHEAD_MAX).
    pub received: Mono,
    /// The time the device itself gave, in milliseconds since 1970-01-01 UTC.
    pub device_ts: Option<i64>,
    /// The values: one strict JSON object, compact at its top level, number tokens as the device wrote them.
    pub values: String,
}

/// A payload that was acknowledged but could not be understood; kept for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Who sent it.
    pub device: DeviceName,
    /// When it was received, since boot.
    pub received: Mono,
    /// Where it was published.
    pub topic: String,
    /// What is wrong with it, in words.
    pub reason: String,
    /// The bytes as received.
    pub payload: Vec<u8>,
}

/// A reading as the uplink takes it from the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Its place in the journal.
    pub seq: Seq,
    /// Who sent it.
    pub device: DeviceName,
    /// Where it lies in time.
    pub time: Placed,
    /// The values: one strict JSON object.
    pub values: String,
}

/// Where a reading lies in time, in milliseconds since 1970-01-01 UTC, and how well that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The device gave it.
    Given(i64),
    /// From a clock that was synchronised in the reading's boot.
    Known(i64),
    /// From the present boot, whose clock has not been synchronised yet: it may be known later.
    Pending(i64),
    /// From an earlier boot whose clock never was: an estimate between its neighbours.
    Estimated(i64),
}

/// What became of readings at the hub; the mark below which nothing is needed any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// The device whose readings alone are meant, if it has a connection of its own; else everybody else's.
    pub of: Option<DeviceName>,
    /// Every reading up to here is settled.
    pub through: Seq,
    /// Stretches beyond it that are settled as well, first and last, ascending, with gaps between them.
    pub beyond: Vec<(Seq, Seq)>,
    /// Readings among the settled that the hub does not take.
    pub rejected: Vec<Rejected>,
}

/// A reading the hub does not take, set aside so that the rest goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub seq: Seq,
    /// Why, in words.
    pub reason: String,
}

/// Something set aside; `p1` and `r1` to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetAsideId {
    /// A payload that could not be understood, by its number in quarantine.
    Payload(u64),
    /// A reading the hub does not take, by its place in the journal.
    Reading(Seq),
}

impl fmt::Display for SetAsideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(number) => write!(f, "p{number}"),
            Self::Reading(seq) => write!(f, "r{}", seq.0),
        }
    }
}

impl FromStr for SetAsideId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number =
            |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        let payload = text.strip_prefix('p').and_then(number).map(Self::Payload);
        let reading = || text.strip_prefix('r').and_then(number).map(|seq| Self::Reading(Seq(seq)));
        payload.or_else(reading).ok_or("not a name like p1 or r1, as `forebay quarantine list` shows them")
    }
}

impl Placed {
    /// The time itself.
    pub fn ts(self) -> i64 {
        match self {
            Self::Given(ts) | Self::Known(ts) | Self::Pending(ts) | Self::Estimated(ts) => ts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_named_by_its_kind_and_number() {
        for id in [SetAsideId::Payload(1), SetAsideId::Reading(Seq(u64::MAX))] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "p", "1", "q1", "p-1", "p+1", "r1 ", "r99999999999999999999", "P1"] {
            assert!(text.parse::<SetAsideId>().is_err(), "{text}");
        }
    }
}
