//! How long to wait before the next attempt, so that a hub that comes back is not run over by all its gateways at once.

use std::time::Duration;

use crate::limits::{UPLINK_BACKOFF_MAX, UPLINK_BACKOFF_MIN, UPLINK_REFUSED_WAIT};

/// Waits that grow from attempt to attempt, each drawn by chance.
#[derive(Debug)]
pub(super) struct Backoff {
    attempts: u32,
    /// How often in a row the hub has refused us.
    refusals: usize,
    chance: u64,
}

impl Backoff {
    /// The first wait will be short; `seed` makes ours differ from other gateways'.
    pub(super) fn new(seed: u64) -> Self {
        // Seeds may be small numbers that follow each other: spread them, and never start at zero.
        Self { attempts: 0, refusals: 0, chance: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// How long to wait now: by chance between [`UPLINK_BACKOFF_MIN`] and a ceiling that doubles with each attempt, up
    /// to [`UPLINK_BACKOFF_MAX`].
    pub(super) fn next_wait(&mut self) -> Duration {
        let doubled = UPLINK_BACKOFF_MIN.saturating_mul(2 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        let ceiling = doubled.min(UPLINK_BACKOFF_MAX);
        UPLINK_BACKOFF_MIN + self.part_of(ceiling - UPLINK_BACKOFF_MIN)
    }

    /// How long to wait after a refusal: as the `first` waits say, then [`UPLINK_REFUSED_WAIT`], each give or take a fifth.
    pub(super) fn next_refused_wait(&mut self, first: &[Duration]) -> Duration {
        let span = first.get(self.refusals).copied().unwrap_or(UPLINK_REFUSED_WAIT);
        self.refusals = self.refusals.saturating_add(1);
        self.around(span)
    }

    /// The hub has acknowledged readings: the next wait is a short one again.
    ///
    /// A connection alone is no reason: a hub that lets us in and throws us out again would be asked every second.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
        self.refusals = 0;
    }

    /// `span` give or take a fifth.
    pub(super) fn around(&mut self, span: Duration) -> Duration {
        span * 4 / 5 + self.part_of(span * 2 / 5)
    }

    /// By chance between nothing and `whole`.
    fn part_of(&mut self, whole: Duration) -> Duration {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let drawn = self.chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        Duration::from_micros((micros * drawn) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_lie_between_a_second_and_a_ceiling_that_doubles_to_five_minutes() {
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..500 {
            let mut backoff = Backoff::new(seed);
            for (attempt, longest) in (0..).zip(&mut longest) {
                let wait = backoff.next_wait();
                let ceiling = Duration::from_secs(2 << attempt).min(UPLINK_BACKOFF_MAX);
                assert!((UPLINK_BACKOFF_MIN..=ceiling).contains(&wait), "attempt {attempt}: {wait:?}");
                *longest = wait.max(*longest);
            }
        }
        assert!(longest[0] > Duration::from_millis(1900), "chance reaches the ceiling: {longest:?}");
        assert!(longest[11] > Duration::from_secs(290), "chance reaches the ceiling: {longest:?}");
    }

    #[test]
    fn an_acknowledged_upload_makes_the_next_wait_short() {
        let mut backoff = Backoff::new(7);
        for _ in 0..20 {
            backoff.next_wait();
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_secs(2));
    }

    #[test]
    fn who_is_refused_again_and_again_waits_longer_until_readings_are_taken() {
        let first = [Duration::from_secs(15), Duration::from_secs(60)];
        let mut backoff = Backoff::new(7);
        for _ in 0..2 {
            for seconds in [15, 60, 300, 300] {
                let wait = backoff.next_refused_wait(&first);
                let span = Duration::from_secs(seconds);
                assert!((span * 4 / 5..=span * 6 / 5).contains(&wait), "{seconds}: {wait:?}");
            }
            backoff.reset();
        }
        let wait = Backoff::new(7).next_refused_wait(&[]);
        assert!(wait >= Duration::from_secs(240), "{wait:?}");
    }

    #[test]
    fn gateways_with_seeds_side_by_side_do_not_come_back_together() {
        let mut waits: Vec<_> = (0..100).map(|seed| Backoff::new(seed).next_wait()).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 90, "{} different waits", waits.len());
    }

    #[test]
    fn around_stays_within_a_fifth() {
        let mut backoff = Backoff::new(3);
        for _ in 0..1000 {
            let span = backoff.around(Duration::from_secs(300));
            assert!((Duration::from_secs(240)..=Duration::from_secs(360)).contains(&span), "{span:?}");
        }
    }
}
