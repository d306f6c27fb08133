//! The two clocks, as plain values: nothing here reads one.
//!
//! `net/system_clock` reads them once per turn and hands a [`Now`] down; in tests a `Now` is whatever the test says.

use std::{fmt, ops::Add, ops::Sub, time::Duration};

/// Microseconds since the machine booted; never goes back, drives every deadline and every row's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Milliseconds since 1970-01-01 UTC; may jump either way, so nothing is ordered or expired by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// What the clocks said when this turn of the loop began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and for the time of rows.
    pub mono: Mono,
    /// For people; see [`ClockState`] for how far it can be trusted.
    pub wall: Wall,
}

/// How this boot's monotonic time maps to wall time, and whether that mapping can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// `wall - mono`, in milliseconds; the wall time of a row is this plus its milliseconds since boot.
    pub offset_ms: i64,
    /// Whether the system clock was ever synchronised in this boot.
    pub synchronised: bool,
}

impl Mono {
    /// Whole milliseconds since boot: the time a row carries.
    pub fn as_millis(self) -> i64 {
        (self.0 / 1_000) as i64
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    fn add(self, wait: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;

    fn sub(self, span: Duration) -> Mono {
        Mono(self.0.saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_far_beyond_the_clock_saturates() {
        assert_eq!(Mono(5) + Duration::MAX, Mono(u64::MAX));
        assert_eq!(Mono(5) - Duration::from_secs(1), Mono(0));
        assert_eq!(Mono(5).since(Mono(9)), Duration::ZERO);
    }
}
