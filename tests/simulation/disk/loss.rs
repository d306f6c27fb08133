//! What becomes of changes that were not flushed when the power went.

use super::file::put;
use crate::chance::Chance;

/// The unit a storage device writes whole or not at all.
const SECTOR: usize = 512;

/// How unflushed changes are lost, drawn anew for each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing of them reached the storage.
    All,
    /// All of them had just reached it.
    None,
    /// They reached it in order, up to some point.
    Suffix,
    /// Each did or did not: the device reorders as it likes.
    Some,
    /// Each sector of each did or did not; a sector that grew the file may hold what was there long ago.
    Torn,
}

impl Loss {
    pub const ALL: [Loss; 5] = [Loss::All, Loss::None, Loss::Suffix, Loss::Some, Loss::Torn];

    /// How many of the oldest changes survive whole, whatever becomes of the others.
    pub(super) fn surviving_prefix(self, changes: usize, chance: &mut Chance) -> usize {
        match self {
            Loss::All | Loss::Some | Loss::Torn => 0,
            Loss::None => changes,
            Loss::Suffix => chance.below(changes as u64 + 1) as usize,
        }
    }

    /// Whether a change that has no parts survives.
    pub(super) fn spares_one(self, chance: &mut Chance) -> bool {
        match self {
            Loss::All | Loss::Suffix => false,
            Loss::None => true,
            Loss::Some | Loss::Torn => chance.coin(),
        }
    }

    /// Writes to `image` what survives of a write.
    pub(super) fn write_what_survives(
        self,
        image: &mut Vec<u8>,
        at: usize,
        bytes: &[u8],
        chance: &mut Chance,
    ) {
        if self != Loss::Torn {
            if self.spares_one(chance) {
                put(image, at, bytes);
            }
            return;
        }
        let end = at + bytes.len();
        let mut from = at;
        while from < end {
            let to = end.min((from / SECTOR + 1) * SECTOR);
            match chance.below(8) {
                0..4 => put(image, from, &bytes[from - at..to - at]),
                // The size of the file got there and the content did not.
                4 if from >= image.len() => put(image, from, &chance.bytes(to - from)),
                _ => {}
            }
            from = to;
        }
    }
}
