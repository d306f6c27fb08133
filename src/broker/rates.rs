//! How often an address may connect, and an identity connect and publish: token buckets in bounded tables.
//!
//! ```text
//! a connection   address over its rate   its bytes, TLS handshake included, wait in the kernel for a moment;
//!                                        if more wait than that, it is closed before it costs a handshake
//! a CONNECT      identity over its rate  refused: 0x9F, or 3 before version 5
//! a PUBLISH      identity or address     taken; then nothing is read from the identity, or from those that the address
//!                over its rate           has let in, until the rate allows it
//! ```
//!
//! Nothing is lost by any of it: what was not read stays with its sender, whom TCP slows down.
//!
//! The defaults are against the runaway, not the busy. A hundred connections in a second, a thousand at once, let 1,000
//! devices behind one address in as fast as they come after a power cut, and 10,000 in two to four minutes (measured by
//! `tests/bench/scale/storm.rs`); at that rate the handshakes of one address leave most of a small processor to everybody
//! else. How fast to publish has no default: what suits a device that empties its backlog is far more than one that runs
//! wild should have, and only the operator knows the difference. Without it each connection still has but its portion of
//! every turn.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    time::Duration,
};

use crate::{
    clock::Mono,
    ids::IdentityId,
    limits::{CONNECT_BURST_S, CONNECT_RATE_WAIT_MS_MAX, Limits, PUBLISH_BURST_S, RATED_MAX},
};

pub(super) const MINUTE_NS: u64 = 60_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The rates of all addresses and identities.
#[derive(Debug)]
pub struct Rates {
    connections: Buckets<IpAddr>,
    connects: Buckets<IdentityId>,
    publishes: Buckets<Publisher>,
    /// Those not read from, and until when.
    paused: BTreeMap<Publisher, Mono>,
}

/// Whose messages are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Publisher {
    /// A device or a local client.
    Identity(IdentityId),
    /// All who are connected from there.
    Address(IpAddr),
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is read from at once.
    Now,
    /// It is read from after so long.
    After(Duration),
    /// Too many of its address wait already.
    Never,
}

/// How fast, and how much of it at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// From one token to the next.
    interval_ns: u64,
    /// Until an empty bucket is full.
    depth_ns: u64,
}

/// One bucket for each key, but only of those that are not full: a full one says nothing.
///
/// A bucket is the moment at which it will be full again; each token taken puts that off by one interval.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    full_at_ns: HashMap<K, u64>,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            connections: Buckets::new(),
            connects: Buckets::new(),
            publishes: Buckets::new(),
            paused: BTreeMap::new(),
        }
    }
}

impl Rates {
    /// Counts a connection from `address`, and says when it may be read from.
    ///
    /// One that is told [`Turn::Never`] does not count: those that try again and again keep nobody waiting.
    pub fn note_connection(&mut self, address: IpAddr, now: Mono, limits: &Limits) -> Turn {
        let Some(rate) = Rate::new(limits.connects_per_address_per_min, MINUTE_NS, CONNECT_BURST_S) else {
            return Turn::Now;
        };
        let wait = self.connections.wait(&address, rate, now);
        if wait > Duration::from_millis(CONNECT_RATE_WAIT_MS_MAX) {
            return Turn::Never;
        }
        self.connections.take(address, rate, now);
        if wait.is_zero() { Turn::Now } else { Turn::After(wait) }
    }

    /// Counts a CONNECT of `identity`, whose token was right; gives back whether it may come in.
    ///
    /// One that may not does not count.
    pub fn note_connect(&mut self, identity: IdentityId, now: Mono, limits: &Limits) -> bool {
        let Some(rate) = Rate::new(limits.connects_per_identity_per_min, MINUTE_NS, CONNECT_BURST_S) else {
            return true;
        };
        let may_come_in = self.connects.wait(&identity, rate, now).is_zero();
        if may_come_in {
            self.connects.take(identity, rate, now);
        }
        may_come_in
    }

    /// Counts a PUBLISH of `publisher`, who may send `per_s` of them, 0 for any number. If that was more than the rate
    /// allows, `publisher` is paused from now on: the moment at which [`Rates::handle_pause_over`] is due is given back.
    ///
    /// What was read at once may hold many messages, so a bucket can be overdrawn; the pause is the longer for it.
    pub fn note_publish(&mut self, publisher: Publisher, per_s: u32, now: Mono) -> Option<Mono> {
        let rate = Rate::new(per_s, SECOND_NS, PUBLISH_BURST_S)?;
        self.publishes.take(publisher, rate, now);
        let wait = self.publishes.wait(&publisher, rate, now);
        if wait.is_zero() {
            return None;
        }
        self.paused.insert(publisher, now + wait);
        Some(now + wait)
    }

    /// Until when nothing is read from `publisher`, if that is paused.
    pub fn paused_until(&self, publisher: Publisher) -> Option<Mono> {
        self.paused.get(&publisher).copied()
    }

    /// The pause of `publisher` is over, unless it was put off in the meantime: then the new moment is given back.
    pub fn handle_pause_over(&mut self, publisher: Publisher, now: Mono) -> Option<Mono> {
        let until = self.paused_until(publisher)?;
        if until > now {
            return Some(until);
        }
        self.paused.remove(&publisher);
        None
    }
}

impl Rate {
    /// `count` in each `span_ns`, and as much at once as comes together in `burst_s`, at least one; none if `count` is
    /// 0.
    pub(super) fn new(count: u32, span_ns: u64, burst_s: u64) -> Option<Self> {
        let interval_ns = span_ns.checked_div(count.into())?.max(1);
        Some(Self { interval_ns, depth_ns: interval_ns.max(burst_s * SECOND_NS) })
    }
}

impl<K: Copy + Ord + Hash> Buckets<K> {
    pub(super) fn new() -> Self {
        Self { full_at_ns: HashMap::new() }
    }

    /// How long until `key` has a token.
    pub(super) fn wait(&self, key: &K, rate: Rate, now: Mono) -> Duration {
        let full_at_ns = self.full_at_ns.get(key).copied().unwrap_or(0);
        let allowed_ns = nanoseconds(now) + rate.depth_ns;
        Duration::from_nanos((full_at_ns + rate.interval_ns).saturating_sub(allowed_ns))
    }

    /// Takes a token of `key`, whether it has one or not.
    pub(super) fn take(&mut self, key: K, rate: Rate, now: Mono) {
        if self.full_at_ns.len() >= RATED_MAX && !self.full_at_ns.contains_key(&key) {
            self.make_room(now);
        }
        let full_at_ns = self.full_at_ns.entry(key).or_insert(0);
        *full_at_ns = (*full_at_ns).max(nanoseconds(now)) + rate.interval_ns;
    }

    /// Forgets the full ones, or else the one that is full soonest.
    fn make_room(&mut self, now: Mono) {
        self.full_at_ns.retain(|_, full_at_ns| *full_at_ns > nanoseconds(now));
        if self.full_at_ns.len() >= RATED_MAX {
            let soonest = self.full_at_ns.iter().min_by_key(|(key, full_at_ns)| (**full_at_ns, **key));
            if let Some(soonest) = soonest.map(|(key, _)| *key) {
                self.full_at_ns.remove(&soonest);
            }
        }
    }
}

/// Finer than the clock, so that no rate loses by rounding; far from the largest number for centuries after boot.
fn nanoseconds(at: Mono) -> u64 {
    at.0.saturating_mul(1000).min(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, net::Ipv4Addr};

    const PUMP: IdentityId = IdentityId(1);
    const PUMP_SENDS: Publisher = Publisher::Identity(PUMP);
    const FAN: IdentityId = IdentityId(2);

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    fn at_ms(milliseconds: u64) -> Mono {
        Mono(milliseconds * 1000)
    }

    fn limits(per_min: u32) -> Limits {
        Limits {
            connects_per_address_per_min: per_min,
            connects_per_identity_per_min: per_min,
            ..Limits::default()
        }
    }

    #[test]
    fn connections_beyond_the_burst_come_at_the_rate_and_those_beyond_the_wait_never() {
        // Ten in a second, a hundred at once.
        let (mut rates, limits) = (Rates::default(), limits(600));
        for _ in 0..100 {
            assert_eq!(rates.note_connection(address(1), at_ms(0), &limits), Turn::Now);
        }
        for n in 1..=10 {
            let turn = rates.note_connection(address(1), at_ms(0), &limits);
            assert_eq!(turn, Turn::After(Duration::from_millis(n * 100)));
        }
        for _ in 0..1000 {
            assert_eq!(rates.note_connection(address(1), at_ms(99), &limits), Turn::Never);
        }
        let turn = rates.note_connection(address(1), at_ms(100), &limits);
        assert_eq!(turn, Turn::After(Duration::from_secs(1)));
        assert_eq!(rates.note_connection(address(2), at_ms(0), &limits), Turn::Now);
        assert_eq!(rates.note_connection(address(1), at_ms(1200), &limits), Turn::Now);
    }

    /// When the last of so many devices behind one address is let in: all try at once, and each again every five
    /// seconds or so, as clients do that were closed.
    fn last_in_ms(devices: u32, limits: &Limits) -> u64 {
        let mut rates = Rates::default();
        let mut tries: BTreeSet<(u64, u32)> = (0..devices).map(|device| (0, device)).collect();
        let mut last_ms = 0;
        while let Some((ms, device)) = tries.pop_first() {
            match rates.note_connection(address(1), at_ms(ms), limits) {
                Turn::Now => last_ms = last_ms.max(ms),
                Turn::After(wait) => last_ms = last_ms.max(ms + wait.as_millis() as u64),
                Turn::Never => drop(tries.insert((ms + 5000 + u64::from(device % 97), device))),
            }
        }
        last_ms
    }

    #[test]
    fn after_a_power_cut_a_thousand_devices_behind_one_address_are_in_at_once_and_ten_thousand_soon() {
        assert_eq!(last_in_ms(1000, &Limits::default()), 0);
        let last_ms = last_in_ms(10_000, &Limits::default());
        assert!((60_000..=120_000).contains(&last_ms), "the last was let in after {last_ms} ms");
    }

    #[test]
    fn an_identity_that_connects_too_often_is_refused_until_its_rate_allows_it_again() {
        let (mut rates, limits) = (Rates::default(), limits(60));
        for _ in 0..10 {
            assert!(rates.note_connect(PUMP, at_ms(0), &limits));
        }
        // Trying again and again does not make it longer.
        for ms in 0..1000 {
            assert!(!rates.note_connect(PUMP, at_ms(ms), &limits));
        }
        assert!(rates.note_connect(FAN, at_ms(0), &limits));
        assert!(rates.note_connect(PUMP, at_ms(1000), &limits));
        assert!(!rates.note_connect(PUMP, at_ms(1000), &limits));
    }

    #[test]
    fn a_rate_slower_than_its_burst_is_long_lets_one_in() {
        let (mut rates, limits) = (Rates::default(), limits(1));
        assert!(rates.note_connect(PUMP, at_ms(0), &limits));
        assert!(!rates.note_connect(PUMP, at_ms(59_999), &limits));
        assert!(rates.note_connect(PUMP, at_ms(60_000), &limits));
    }

    #[test]
    fn zero_bounds_nothing() {
        let (mut rates, limits) = (Rates::default(), limits(0));
        for _ in 0..100_000 {
            assert_eq!(rates.note_connection(address(1), at_ms(0), &limits), Turn::Now);
            assert!(rates.note_connect(PUMP, at_ms(0), &limits));
            assert_eq!(rates.note_publish(PUMP_SENDS, 0, at_ms(0)), None);
        }
        assert!(rates.connections.full_at_ns.is_empty() && rates.publishes.full_at_ns.is_empty());
    }

    #[test]
    fn a_publisher_over_its_rate_is_paused_until_the_rate_allows_one_more() {
        let mut rates = Rates::default();
        // A thousand in a second, five thousand at once.
        for _ in 0..4999 {
            assert_eq!(rates.note_publish(PUMP_SENDS, 1000, at_ms(0)), None);
        }
        assert_eq!(rates.paused_until(PUMP_SENDS), None);
        assert_eq!(rates.note_publish(PUMP_SENDS, 1000, at_ms(0)), Some(at_ms(1)));
        assert_eq!(rates.paused_until(PUMP_SENDS), Some(at_ms(1)));
        for other in [Publisher::Identity(FAN), Publisher::Address(address(1))] {
            assert_eq!(rates.paused_until(other), None);
        }
        assert_eq!(rates.handle_pause_over(PUMP_SENDS, at_ms(1)), None);
        assert_eq!(rates.paused_until(PUMP_SENDS), None);
        // It goes on at its rate: one and a pause, one and a pause.
        assert_eq!(rates.note_publish(PUMP_SENDS, 1000, at_ms(1)), Some(at_ms(2)));
    }

    #[test]
    fn what_was_read_beyond_the_rate_makes_the_pause_longer() {
        let mut rates = Rates::default();
        for n in 0..5 + 20 {
            let until = rates.note_publish(PUMP_SENDS, 1, at_ms(0));
            assert_eq!(until, (n >= 4).then(|| at_ms((n - 3) * 1000)));
        }
        // The deadline of the first of them comes too early.
        assert_eq!(rates.handle_pause_over(PUMP_SENDS, at_ms(1000)), Some(at_ms(21_000)));
        assert_eq!(rates.handle_pause_over(PUMP_SENDS, at_ms(21_000)), None);
        assert_eq!(rates.handle_pause_over(PUMP_SENDS, at_ms(21_000)), None, "it was over already");
        assert_eq!(rates.note_publish(PUMP_SENDS, 1, at_ms(60_000)), None, "all is forgiven with time");
    }

    #[test]
    fn over_any_span_no_more_is_let_through_than_the_rate_and_one_burst() {
        let mut chance = 5_u64;
        for per_s in [1, 3, 700, 1000, 30_011] {
            let (mut rates, mut now, mut sent) = (Rates::default(), Mono(0), 0_u64);
            while now < at_ms(20_000) {
                chance =
                    chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sent += 1;
                match rates.note_publish(PUMP_SENDS, per_s, now) {
                    Some(until) => {
                        now = until;
                        rates.handle_pause_over(PUMP_SENDS, now);
                    }
                    // Now and then it is silent for a while.
                    None if chance >> 60 == 0 => now = now + Duration::from_micros(chance >> 54),
                    None => {}
                }
            }
            let most = u64::from(per_s) * (20 + PUBLISH_BURST_S) + 1;
            assert!(sent <= most + most / 1000, "{sent} of {per_s} in a second");
            assert!(sent >= u64::from(per_s) * 20 * 9 / 10, "{sent} of {per_s} in a second");
        }
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_emptiest_buckets() {
        let (mut rates, limits) = (Rates::default(), limits(600));
        while rates.note_connection(address(0), at_ms(0), &limits) != Turn::Never {}
        for n in 1..=2 * RATED_MAX as u32 {
            assert_eq!(rates.note_connection(address(n), at_ms(0), &limits), Turn::Now);
        }
        assert!(rates.connections.full_at_ns.len() <= RATED_MAX);
        assert_eq!(rates.note_connection(address(0), at_ms(0), &limits), Turn::Never);
        // A second later all others are full again, and need not be kept.
        rates.note_connection(address(1_000_000), at_ms(1000), &limits);
        assert_eq!(rates.connections.full_at_ns.len(), 2);
    }

    #[test]
    fn the_end_of_time_overflows_nothing() {
        let (mut rates, limits) = (Rates::default(), limits(1));
        for _ in 0..3 {
            rates.note_connection(address(1), Mono(u64::MAX), &limits);
            rates.note_publish(PUMP_SENDS, 1, Mono(u64::MAX));
        }
    }
}
