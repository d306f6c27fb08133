//! Every timer of the broker in one ordered set.
//!
//! Knows moments and what they are for; reads no clock.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Mono;

/// Deadlines keyed by what they are for; arming a key again moves it.
#[derive(Debug)]
pub struct Deadlines<K> {
    due: BTreeSet<(Mono, K)>,
    armed: BTreeMap<K, Mono>,
}

impl<K: Copy + Ord> Deadlines<K> {
    /// Nothing armed.
    pub fn new() -> Self {
        Self { due: BTreeSet::new(), armed: BTreeMap::new() }
    }

    /// Arms `key` for `at`, replacing the moment it was armed for before.
    pub fn arm(&mut self, key: K, at: Mono) {
        self.cancel(key);
        self.due.insert((at, key));
        self.armed.insert(key, at);
    }

    /// Arms `key` for `at` unless it is armed already.
    pub fn arm_if_idle(&mut self, key: K, at: Mono) {
        if !self.armed.contains_key(&key) {
            self.arm(key, at);
        }
    }

    /// Forgets `key`; does nothing if it is not armed.
    pub fn cancel(&mut self, key: K) {
        if let Some(at) = self.armed.remove(&key) {
            self.due.remove(&(at, key));
        }
    }

    /// The next moment anything is due.
    pub fn next(&self) -> Option<Mono> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the earliest key due at or before `now`.
    pub fn pop_due(&mut self, now: Mono) -> Option<K> {
        let (at, key) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.armed.remove(&key);
        Some(key)
    }

    /// Whether `key` is armed.
    pub fn is_armed(&self, key: K) -> bool {
        self.armed.contains_key(&key)
    }

    /// How many are armed.
    #[cfg(test)]
    fn len(&self) -> usize {
        debug_assert_eq!(self.due.len(), self.armed.len());
        self.armed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_comes_first_and_only_when_due() {
        let mut deadlines = Deadlines::new();
        deadlines.arm('b', Mono(20));
        deadlines.arm('a', Mono(10));
        assert_eq!(deadlines.next(), Some(Mono(10)));
        assert_eq!(deadlines.pop_due(Mono(9)), None);
        assert_eq!(deadlines.pop_due(Mono(30)), Some('a'));
        assert_eq!(deadlines.pop_due(Mono(30)), Some('b'));
        assert_eq!(deadlines.pop_due(Mono(30)), None);
    }

    #[test]
    fn arming_again_moves_a_deadline() {
        let mut deadlines = Deadlines::new();
        deadlines.arm('a', Mono(10));
        deadlines.arm('a', Mono(50));
        assert_eq!((deadlines.next(), deadlines.len()), (Some(Mono(50)), 1));
        deadlines.arm_if_idle('a', Mono(5));
        assert_eq!(deadlines.next(), Some(Mono(50)));
        deadlines.cancel('a');
        assert_eq!((deadlines.next(), deadlines.len()), (None, 0));
    }
}
