//! The locks of one file, as SQLite's own VFS for Unix keeps them between connections of several processes.

/// Slots for locks on the shared memory of a write-ahead log.
pub const SHARED_MEMORY_SLOTS: usize = 8;

/// How far a handle has locked a database file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

/// Somebody else holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Who holds what of a file.
#[derive(Debug, Default)]
pub struct Locks {
    pub handles: usize,
    readers: usize,
    reserved: bool,
    pending: bool,
    exclusive: bool,
    slots: [Slot; SHARED_MEMORY_SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    readers: usize,
    exclusive: bool,
}

/// What one handle holds of the slots, a bit for each.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldSlots {
    shared: u8,
    exclusive: u8,
}

impl Locks {
    /// Raises what a handle `held` to `wanted`; on [`Busy`] it may have come as far as [`Level::Pending`].
    pub fn raise(&mut self, held: &mut Level, wanted: Level) -> Result<(), Busy> {
        if *held >= wanted {
            return Ok(());
        }
        if *held == Level::None {
            if self.pending || self.exclusive {
                return Err(Busy);
            }
            self.readers += 1;
            *held = Level::Shared;
        }
        if wanted == Level::Reserved {
            if self.reserved || self.pending {
                return Err(Busy);
            }
            self.reserved = true;
            *held = Level::Reserved;
        }
        if wanted >= Level::Pending {
            if *held < Level::Pending && self.pending {
                return Err(Busy);
            }
            self.pending = true;
            self.reserved |= *held >= Level::Reserved;
            *held = Level::Pending;
            if wanted == Level::Exclusive {
                if self.readers > 1 {
                    return Err(Busy);
                }
                self.exclusive = true;
                *held = Level::Exclusive;
            }
        }
        Ok(())
    }

    /// Lowers what a handle `held` to `wanted`, [`Level::Shared`] or [`Level::None`].
    pub fn lower(&mut self, held: &mut Level, wanted: Level) {
        if *held <= wanted {
            return;
        }
        if *held >= Level::Reserved {
            self.reserved = false;
        }
        if *held >= Level::Pending {
            self.pending = false;
            self.exclusive = false;
        }
        if wanted == Level::None {
            self.readers -= 1;
        }
        *held = wanted;
    }

    pub fn is_reserved(&self) -> bool {
        self.reserved || self.pending
    }

    /// Takes the slots `first..first + count` for reading or alone, all or none.
    pub fn lock_slots(
        &mut self,
        held: &mut HeldSlots,
        first: usize,
        count: usize,
        alone: bool,
    ) -> Result<(), Busy> {
        let range = first..(first + count).min(SHARED_MEMORY_SLOTS);
        for index in range.clone() {
            let (slot, bit) = (self.slots[index], 1 << index);
            let other_readers = slot.readers - usize::from(held.shared & bit != 0);
            let taken = slot.exclusive && held.exclusive & bit == 0;
            if taken || (alone && other_readers > 0) {
                return Err(Busy);
            }
        }
        for index in range {
            let (slot, bit) = (&mut self.slots[index], 1 << index);
            if alone {
                slot.exclusive = true;
                held.exclusive |= bit;
            } else if held.shared & bit == 0 {
                slot.readers += 1;
                held.shared |= bit;
            }
        }
        Ok(())
    }

    pub fn unlock_slots(&mut self, held: &mut HeldSlots, first: usize, count: usize) {
        for index in first..(first + count).min(SHARED_MEMORY_SLOTS) {
            let (slot, bit) = (&mut self.slots[index], 1 << index);
            if held.exclusive & bit != 0 {
                slot.exclusive = false;
                held.exclusive &= !bit;
            }
            if held.shared & bit != 0 {
                slot.readers -= 1;
                held.shared &= !bit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_waits_for_readers_and_keeps_new_ones_out() {
        let mut locks = Locks::default();
        let (mut writer, mut reader, mut late) = (Level::None, Level::None, Level::None);
        locks.raise(&mut reader, Level::Shared).expect("free");
        locks.raise(&mut writer, Level::Shared).expect("shared");
        locks.raise(&mut writer, Level::Reserved).expect("the only one");
        assert_eq!(locks.raise(&mut writer, Level::Exclusive), Err(Busy));
        assert_eq!(writer, Level::Pending);
        assert_eq!(locks.raise(&mut late, Level::Shared), Err(Busy));
        locks.lower(&mut reader, Level::None);
        locks.raise(&mut writer, Level::Exclusive).expect("alone");
        locks.lower(&mut writer, Level::None);
        locks.raise(&mut late, Level::Shared).expect("free again");
    }

    #[test]
    fn a_slot_has_many_readers_or_one_owner() {
        let mut locks = Locks::default();
        let (mut a, mut b) = (HeldSlots::default(), HeldSlots::default());
        locks.lock_slots(&mut a, 3, 1, false).expect("free");
        locks.lock_slots(&mut b, 3, 1, false).expect("shared");
        assert_eq!(locks.lock_slots(&mut a, 3, 1, true), Err(Busy));
        locks.unlock_slots(&mut b, 0, 8);
        locks.unlock_slots(&mut a, 3, 1);
        locks.lock_slots(&mut a, 2, 3, true).expect("free");
        assert_eq!(locks.lock_slots(&mut b, 4, 1, false), Err(Busy));
    }
}
