//! Readings in the last minute, counted in short slots.

use std::time::Duration;

use crate::clock::Mono;

const SLOTS: usize = 12;
const SLOT: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Meter {
    counts: [u64; SLOTS],
    newest: u64,
}

impl Meter {
    /// `count` more.
    pub(super) fn add(&mut self, count: u64, now: Mono) {
        let slot = slot(now);
        for passed in (self.newest + 1..=slot).take(SLOTS) {
            self.counts[(passed % SLOTS as u64) as usize] = 0;
        }
        self.newest = self.newest.max(slot);
        self.counts[(self.newest % SLOTS as u64) as usize] += count;
    }

    /// How many in the last minute, give or take a slot.
    pub(super) fn last_minute(&self, now: Mono) -> u64 {
        let oldest = (slot(now) + 1).saturating_sub(SLOTS as u64);
        let known = (self.newest + 1).saturating_sub(SLOTS as u64)..=self.newest;
        known.filter(|slot| *slot >= oldest).map(|slot| self.counts[(slot % SLOTS as u64) as usize]).sum()
    }
}

fn slot(now: Mono) -> u64 {
    now.0 / u64::try_from(SLOT.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_remembered_and_no_more() {
        let mut meter = Meter::default();
        let at = |seconds| Mono(0) + Duration::from_secs(seconds);
        for second in 0..120 {
            meter.add(2, at(second));
        }
        assert_eq!(meter.last_minute(at(119)), 120);
        assert_eq!(meter.last_minute(at(149)), 60);
        assert_eq!(meter.last_minute(at(1000)), 0);
        meter.add(1, at(5000));
        assert_eq!(meter.last_minute(at(5000)), 1);
    }
}
