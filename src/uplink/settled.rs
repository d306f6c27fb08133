//! Which readings the hub has: everything up to a mark, and stretches beyond it.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    ids::{DeviceName, Seq},
    record::Settlement,
};

/// A set of places in the journal, as a mark and the stretches beyond it.
///
/// Invariants: stretches do not touch each other nor the mark; a stretch is keyed by its first place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Whose readings are meant; nothing to us, but the disk wants to know.
    of: Option<DeviceName>,
    through: Seq,
    beyond: BTreeMap<Seq, Seq>,
    /// Places in `beyond`, all together.
    beyond_count: u64,
}

impl Settled {
    /// What was read back from disk.
    pub(super) fn new(resumed: &Settlement) -> Self {
        let mut settled = Self { of: resumed.of.clone(), through: resumed.through, ..Self::default() };
        for (first, last) in &resumed.beyond {
            settled.add(*first, *last);
        }
        settled
    }

    /// Everything up to here is settled.
    pub(super) fn through(&self) -> Seq {
        self.through
    }

    /// How many places are settled beyond the mark.
    pub(super) fn beyond_count(&self) -> u64 {
        self.beyond_count
    }

    /// How many stretches there are beyond the mark.
    pub(super) fn stretches(&self) -> usize {
        self.beyond.len()
    }

    /// The last place that is settled, wherever it is.
    pub(super) fn last(&self) -> Seq {
        self.beyond.last_key_value().map_or(self.through, |(_, last)| *last)
    }

    /// Whether `seq` is settled.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        seq <= self.through || self.beyond.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last)
    }

    /// Adds everything from `first` to `last`, settled already or not; nothing if `last` lies before `first`.
    pub(super) fn add(&mut self, first: Seq, last: Seq) {
        let first = first.max(self.through.next());
        if last < first {
            return;
        }
        let (mut low, mut high) = (first, last);
        // Every stretch that overlaps the new one, or touches it, becomes part of it.
        while let Some((start, end)) = self.beyond.range(..=high.next()).next_back().map(|(s, e)| (*s, *e)) {
            if end.next() < low {
                break;
            }
            self.beyond.remove(&start);
            self.beyond_count -= length(start, end);
            (low, high) = (low.min(start), high.max(end));
        }
        if low == self.through.next() {
            self.through = high;
        } else {
            self.beyond.insert(low, high);
            self.beyond_count += length(low, high);
        }
    }

    /// The first gap behind `seq`, up to `limit`: the place before it, and its last place.
    pub(super) fn gap_after(&self, seq: Seq, limit: Seq) -> Option<(Seq, Seq)> {
        let mut after = seq.max(self.through);
        if let Some((_, last)) = self.beyond.range(..=after.next()).next_back() {
            after = after.max(*last);
        }
        let next = self.beyond.range(after.next()..).next().map(|(first, _)| Seq(first.0 - 1));
        let through = next.map_or(limit, |last| last.min(limit));
        (after < through).then_some((after, through))
    }

    /// Forgets the shortest stretches until there are no more than `max`: what was in them is sent again.
    pub(super) fn keep_longest(&mut self, max: usize) {
        if self.beyond.len() > max {
            self.beyond = self.longest(max).into_iter().collect();
            self.beyond_count = self.beyond.iter().map(|(first, last)| length(*first, *last)).sum();
        }
    }

    /// The set as it goes to disk, with no more than `stretches_max` stretches.
    pub(super) fn to_settlement(&self, stretches_max: usize) -> Settlement {
        Settlement {
            of: self.of.clone(),
            through: self.through,
            beyond: self.longest(stretches_max),
            rejected: Vec::new(),
        }
    }

    /// The longest `max` stretches, ascending.
    fn longest(&self, max: usize) -> Vec<(Seq, Seq)> {
        let mut stretches: Vec<_> = self.beyond.iter().map(|(first, last)| (*first, *last)).collect();
        if stretches.len() > max {
            let shorter = |(first, last): &(Seq, Seq)| (Reverse(length(*first, *last)), *first);
            stretches.select_nth_unstable_by_key(max, shorter);
            stretches.truncate(max);
            stretches.sort_unstable();
        }
        stretches
    }
}

fn length(first: Seq, last: Seq) -> u64 {
    last.0 - first.0 + 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn settled(through: u64, beyond: &[(u64, u64)]) -> Settled {
        let beyond = beyond.iter().map(|(first, last)| (Seq(*first), Seq(*last))).collect();
        Settled::new(&Settlement { through: Seq(through), beyond, ..Settlement::default() })
    }

    #[test]
    fn a_gap_that_closes_moves_the_mark_over_what_lies_behind_it() {
        let mut set = settled(3, &[(5, 7), (9, 9)]);
        set.add(Seq(4), Seq(4));
        assert_eq!(set, settled(7, &[(9, 9)]));
        set.add(Seq(8), Seq(8));
        assert_eq!((set.through(), set.stretches(), set.last()), (Seq(9), 0, Seq(9)));
    }

    #[test]
    fn gaps_are_found_between_the_stretches() {
        let set = settled(3, &[(5, 7), (9, 9)]);
        let gap =
            |seq, limit| set.gap_after(Seq(seq), Seq(limit)).map(|(after, through)| (after.0, through.0));
        assert_eq!(gap(0, 100), Some((3, 4)));
        assert_eq!(gap(4, 100), Some((7, 8)));
        assert_eq!(gap(6, 100), Some((7, 8)));
        assert_eq!(gap(8, 100), Some((9, 100)));
        assert_eq!(gap(50, 100), Some((50, 100)));
        assert_eq!(gap(8, 9), None);
        assert_eq!(gap(0, 3), None);
        assert_eq!(gap(0, 0), None);
    }

    #[test]
    fn the_shortest_stretches_are_forgotten_first() {
        let mut set = settled(0, &[(10, 19), (30, 30), (40, 44), (50, 50)]);
        set.keep_longest(2);
        assert_eq!(set, settled(0, &[(10, 19), (40, 44)]));
        assert_eq!(set.beyond_count(), 15);
        assert_eq!(settled(2, &[(9, 9), (20, 25)]).to_settlement(1).beyond, [(Seq(20), Seq(25))]);
    }

    #[test]
    fn it_is_the_set_it_says_it_is_whatever_is_added() {
        let mut chance = 12345_u64;
        let mut draw = |bound: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % bound
        };
        for _ in 0..200 {
            let (mut set, mut model) = (settled(5, &[]), (1..=5).collect::<BTreeSet<u64>>());
            for _ in 0..40 {
                let first = 1 + draw(60);
                let last = first + draw(6);
                set.add(Seq(first), Seq(last));
                model.extend(first..=last);
                assert!((1..80).all(|seq| set.contains(Seq(seq)) == model.contains(&seq)), "{set:?}");
                assert_eq!(set.through.0 + set.beyond_count, model.len() as u64);
                let touching = set.beyond.iter().zip(set.beyond.keys().skip(1));
                assert!(touching.into_iter().all(|((_, last), next)| last.next() < *next), "{set:?}");
                assert!(set.beyond.keys().next().is_none_or(|first| *first > set.through.next()));
            }
        }
    }
}
