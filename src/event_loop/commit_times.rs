//! How long commits take: of the last hour, within a per cent or so, in some kilobytes whatever happens.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::Mono;

/// Two windows make the hour; the older one is dropped as a whole.
const WINDOW: Duration = Duration::from_secs(1800);
/// Longer ones count as this.
const LONGEST_US: u64 = 600_000_000;
const SIGNIFICANT_DIGITS: u8 = 2;

/// The times of commits: those of the present window and those of the one before.
#[derive(Debug)]
pub(super) struct CommitTimes {
    present: Histogram<u32>,
    before: Histogram<u32>,
    window_ends: Mono,
}

/// What most commits took at most, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percentiles {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

impl CommitTimes {
    pub(super) fn new(now: Mono) -> Self {
        let empty = || {
            Histogram::new_with_bounds(1, LONGEST_US, SIGNIFICANT_DIGITS).expect("the bounds are in order")
        };
        Self { present: empty(), before: empty(), window_ends: now + WINDOW }
    }

    /// Notes a commit that `took` so long.
    pub(super) fn note(&mut self, took: Duration, now: Mono) {
        self.turn_over(now);
        self.present.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US));
    }

    /// `None` if there was no commit in the last hour.
    pub(super) fn percentiles(&mut self, now: Mono) -> Option<Percentiles> {
        self.turn_over(now);
        let mut all = self.present.clone();
        all.add(&self.before).expect("both have the same bounds");
        (!all.is_empty()).then(|| Percentiles {
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            max_us: all.max(),
        })
    }

    fn turn_over(&mut self, now: Mono) {
        if now < self.window_ends {
            return;
        }
        std::mem::swap(&mut self.present, &mut self.before);
        self.present.reset();
        if now >= self.window_ends + WINDOW {
            self.before.reset();
        }
        self.window_ends = now + WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(minutes: u64) -> Mono {
        Mono(0) + Duration::from_secs(60 * minutes)
    }

    #[test]
    fn most_commits_and_the_slowest_are_told_apart() {
        let mut times = CommitTimes::new(Mono(0));
        assert_eq!(times.percentiles(Mono(0)), None);
        for n in 1..=100 {
            times.note(Duration::from_millis(n), Mono(0));
        }
        let found = times.percentiles(Mono(0)).expect("a hundred commits");
        for (found, expected) in [(found.p50_us, 50_000), (found.p99_us, 99_000), (found.max_us, 100_000)] {
            assert!(found.abs_diff(expected) <= expected / 50, "{found} for {expected}");
        }
    }

    #[test]
    fn what_is_older_than_an_hour_is_forgotten_and_nothing_before_half_an_hour_is() {
        let mut times = CommitTimes::new(Mono(0));
        times.note(Duration::from_secs(9), Mono(0));
        times.note(Duration::from_millis(1), after(40));
        assert!(times.percentiles(after(40)).expect("two").max_us > 8_000_000);
        assert!(times.percentiles(after(71)).expect("one").max_us < 2_000);
        assert_eq!(times.percentiles(after(200)), None);
    }

    #[test]
    fn a_commit_longer_than_any_counts_as_the_longest() {
        let mut times = CommitTimes::new(Mono(0));
        times.note(Duration::MAX, Mono(0));
        let found = times.percentiles(Mono(0)).expect("one");
        assert!(found.p50_us >= LONGEST_US, "{found:?}");
    }
}
