//! One file: what reads see, what the storage holds, and what lies between the two.

use super::loss::Loss;
use crate::chance::Chance;

/// A change to a file that has not been flushed.
#[derive(Clone, Debug)]
enum Pending {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

/// The content of one file.
///
/// `storage` plus `pending`, in order, is `cache`; except after a failed flush: then `cache` shows what the storage may
/// not hold, and no later flush brings it there, as Linux has it.
#[derive(Clone, Debug, Default)]
pub struct File {
    cache: Vec<u8>,
    storage: Vec<u8>,
    pending: Vec<Pending>,
}

impl File {
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// How many bytes were there; the rest of `out` is zeros.
    pub fn read(&self, at: usize, out: &mut [u8]) -> usize {
        let from = at.min(self.cache.len());
        let found = out.len().min(self.cache.len() - from);
        out[..found].copy_from_slice(&self.cache[from..from + found]);
        out[found..].fill(0);
        found
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.change(Pending::Write { at, bytes: bytes.to_vec() });
    }

    pub fn truncate(&mut self, length: usize) {
        self.change(Pending::Truncate { length });
    }

    fn change(&mut self, change: Pending) {
        apply(&mut self.cache, &change);
        self.pending.push(change);
    }

    /// What was changed since the last flush reaches the storage.
    pub fn flush(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.storage, &change);
        }
    }

    /// The flush fails: the storage gets what `loss` leaves of the changes, and everything counts as flushed.
    pub fn fail_flush(&mut self, loss: Loss, chance: &mut Chance) {
        self.storage = self.survivor(loss, chance);
        self.pending.clear();
    }

    /// Reads come from the storage again, where nothing has been written since.
    pub fn forget_cache(&mut self) {
        self.cache.clone_from(&self.storage);
        for change in &self.pending {
            apply(&mut self.cache, change);
        }
    }

    /// The power goes, and comes back.
    pub fn lose_power(&mut self, loss: Loss, chance: &mut Chance) {
        self.storage = self.survivor(loss, chance);
        self.pending.clear();
        self.cache.clone_from(&self.storage);
    }

    fn survivor(&mut self, loss: Loss, chance: &mut Chance) -> Vec<u8> {
        let mut image = std::mem::take(&mut self.storage);
        let whole = loss.surviving_prefix(self.pending.len(), chance);
        for (index, change) in self.pending.iter().enumerate() {
            match change {
                _ if index < whole => apply(&mut image, change),
                Pending::Truncate { .. } if loss.spares_one(chance) => apply(&mut image, change),
                Pending::Write { at, bytes } => loss.write_what_survives(&mut image, *at, bytes, chance),
                Pending::Truncate { .. } => {}
            }
        }
        image
    }
}

fn apply(image: &mut Vec<u8>, change: &Pending) {
    match change {
        Pending::Write { at, bytes } => put(image, *at, bytes),
        Pending::Truncate { length } => image.resize(*length, 0),
    }
}

/// Writes `bytes` at `at`, growing the image with zeros.
pub(super) fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(bytes);
}
