//! When messages of a device were received: for the hub, no two of them in the same millisecond.
//!
//! The hub keeps one value for a device, a key and a millisecond. What a device sends while the loop is busy with the disk
//! is handled in one turn, and so at one time; of twenty readings the hub would keep the last. Each message of a device
//! whose readings have no time of their own gets a millisecond more than the one before, which may be a little ahead of
//! the time. The readings of one message keep one time together, as they would at the hub.
//!
//! A restart forgets it all: there is a collision only if the device was ahead by more than the restart has taken.

use std::collections::BTreeMap;

use crate::{clock::Mono, ids::DeviceName, limits::RECEIVED_AHEAD_MAX};

/// The latest times given to devices; as many as have sent something in this turn, or are ahead.
#[derive(Debug, Default)]
pub(super) struct Stamps(BTreeMap<DeviceName, Mono>);

impl Stamps {
    /// The time of a message of `device` that came `now`.
    pub(super) fn stamp(&mut self, device: &DeviceName, now: Mono) -> Mono {
        let Some(latest) = self.0.get_mut(device) else {
            self.0.insert(device.clone(), now);
            return now;
        };
        let next = Mono(millis(*latest).saturating_add(1).saturating_mul(1000));
        *latest = now.max(next.min(now + RECEIVED_AHEAD_MAX)).max(*latest);
        *latest
    }

    /// Forgets those whose next message gets the time of its own turn anyway.
    pub(super) fn forget_past(&mut self, now: Mono) {
        self.0.retain(|_, latest| millis(*latest) >= millis(now));
    }
}

fn millis(time: Mono) -> u64 {
    time.0 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DeviceName {
        DeviceName::parse(text).expect("valid")
    }

    #[test]
    fn messages_of_one_turn_get_a_millisecond_each_and_those_of_others_are_not_moved() {
        let mut stamps = Stamps::default();
        let given = [(); 3].map(|()| stamps.stamp(&name("pump"), Mono(5_000_700)));
        assert_eq!(given, [Mono(5_000_700), Mono(5_001_000), Mono(5_002_000)]);
        assert_eq!(stamps.stamp(&name("fan"), Mono(5_000_700)), Mono(5_000_700));
        assert_eq!(stamps.stamp(&name("pump"), Mono(5_001_000)), Mono(5_003_000));
        assert_eq!(stamps.stamp(&name("pump"), Mono(9_000_001)), Mono(9_000_001));
        assert_eq!(stamps.stamp(&name("pump"), Mono(9_000_999)), Mono(9_001_000), "the same millisecond");
    }

    #[test]
    fn nobody_gets_ahead_of_the_time_for_more_than_the_bound_nor_ever_goes_back() {
        let (mut stamps, now) = (Stamps::default(), Mono(1_000_000));
        let given: Vec<Mono> = (0..6_000).map(|_| stamps.stamp(&name("pump"), now)).collect();
        assert!(given.is_sorted());
        assert_eq!(given.last(), Some(&(now + RECEIVED_AHEAD_MAX)));
    }

    #[test]
    fn what_does_not_matter_any_more_is_forgotten() {
        let mut stamps = Stamps::default();
        for device in ["pump", "fan", "fan", "fan"] {
            stamps.stamp(&name(device), Mono(1_000_999));
        }
        stamps.forget_past(Mono(1_001_500));
        assert_eq!(stamps.stamp(&name("fan"), Mono(1_001_500)), Mono(1_003_000));
        stamps.forget_past(Mono(1_004_000));
        assert!(stamps.0.is_empty());
    }
}
