//! Addresses that guess at tokens are made to wait, a little longer each time; everybody else is not.
//!
//! The wait comes before the token is looked at, so it tells a guesser nothing, and a device behind the same
//! address still gets in, later.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::{
    clock::Mono,
    limits::{Limits, REFUSING_ADDRESSES_MAX},
};

/// First wait beyond the free refusals; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Refused CONNECTs by address, forgiven with time.
#[derive(Debug, Default)]
pub struct Refusals {
    addresses: HashMap<IpAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    count: u32,
    /// When the count was last brought up to date.
    at: Mono,
}

impl Refusals {
    /// How long a CONNECT from `address` must wait before it is looked at; zero for nearly everybody.
    pub fn wait(&self, address: IpAddr, now: Mono, limits: &Limits) -> Duration {
        let Some(entry) = self.addresses.get(&address) else { return Duration::ZERO };
        let count = entry.count - forgiven(entry, now, limits);
        let Some(excess) = count.checked_sub(limits.refusals_per_address) else { return Duration::ZERO };
        let max = Duration::from_millis(limits.refusal_wait_max_ms.into());
        FIRST_WAIT.checked_mul(1 << excess.min(16)).map_or(max, |wait| wait.min(max))
    }

    /// Counts a refusal against `address`.
    pub fn note(&mut self, address: IpAddr, now: Mono, limits: &Limits) {
        if self.addresses.len() >= REFUSING_ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.make_room(now, limits);
        }
        let entry = self.addresses.entry(address).or_insert(Entry { count: 0, at: now });
        let forgiven = forgiven(entry, now, limits);
        // The cap keeps an hour of guessing from costing its address days.
        entry.count = (entry.count - forgiven + 1).min(limits.refusals_per_address.saturating_add(20));
        entry.at = now;
    }

    /// Forgets the forgiven, or else the one with the fewest refusals.
    fn make_room(&mut self, now: Mono, limits: &Limits) {
        self.addresses.retain(|_, entry| forgiven(entry, now, limits) < entry.count);
        if self.addresses.len() >= REFUSING_ADDRESSES_MAX {
            let mildest =
                self.addresses.iter().min_by_key(|(address, entry)| (entry.count, entry.at, **address));
            if let Some(address) = mildest.map(|(address, _)| *address) {
                self.addresses.remove(&address);
            }
        }
    }
}

fn forgiven(entry: &Entry, now: Mono, limits: &Limits) -> u32 {
    let steps = now.since(entry.at).as_secs() / u64::from(limits.refusal_forgiven_s);
    u32::try_from(steps).unwrap_or(u32::MAX).min(entry.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    #[test]
    fn the_first_refusals_cost_nothing_and_later_ones_more_and_more() {
        let (mut refusals, limits) = (Refusals::default(), Limits::default());
        for _ in 0..9 {
            refusals.note(address(1), at(0), &limits);
        }
        assert_eq!(refusals.wait(address(1), at(0), &limits), Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..8 {
            refusals.note(address(1), at(0), &limits);
            waits.push(refusals.wait(address(1), at(0), &limits).as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 4000, 4000]);
        assert_eq!(refusals.wait(address(2), at(0), &limits), Duration::ZERO);
    }

    #[test]
    fn refusals_are_forgiven_with_time() {
        let (mut refusals, limits) = (Refusals::default(), Limits::default());
        for _ in 0..1000 {
            refusals.note(address(1), at(0), &limits);
        }
        assert_eq!(refusals.wait(address(1), at(1), &limits), Duration::from_secs(4));
        assert_eq!(refusals.wait(address(1), at(120), &limits), Duration::ZERO);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let (mut refusals, limits) = (Refusals::default(), Limits::default());
        for _ in 0..30 {
            refusals.note(address(0), at(0), &limits);
        }
        for n in 1..=2 * REFUSING_ADDRESSES_MAX as u32 {
            refusals.note(address(n), at(0), &limits);
        }
        assert!(refusals.addresses.len() <= REFUSING_ADDRESSES_MAX);
        assert!(refusals.wait(address(0), at(0), &limits) > Duration::ZERO);
    }
}
