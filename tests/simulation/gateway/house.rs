//! Keeping the store within its budget, as `event_loop/house.rs` does. The space put by lies on the simulated disk.

use std::time::Duration;

use forebay::{
    clock::Mono,
    limits::ROWS_PER_STEP,
    session::Batch,
    store::{Budget, DiskSpace, Housekeeping, Losses, NextStep, StoreError},
};

use super::{Gateway, Room};
use crate::{
    disk::{Disk, DiskError},
    machine::data_dir,
    trace::note,
};

const WAIT: Duration = Duration::from_secs(1);
const COMMIT_BYTES: usize = 256 << 10;
const COMMIT_BYTES_WHEN_TIGHT: usize = 32 << 10;
const ROW_BYTES: usize = 48;
const WAIT_WHEN_TIGHT: Duration = Duration::from_secs(5);
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// The simulated disk, as far as it is larger than what is on it.
const DISK_BYTES: usize = 64 << 20;
/// The file that is given up when the disk is full.
const BALLAST: &str = "/ballast";
const BALLAST_BYTES: usize = 16 << 10;

/// When the store is looked after, and by which budget.
pub(super) struct House {
    budget: Budget,
    pub(super) at: Option<Mono>,
    readings: u32,
    bytes: usize,
    is_tight: bool,
}

impl House {
    pub(super) fn new(budget: Budget, now: Mono) -> Self {
        Self { budget, at: Some(now + WAIT), readings: 0, bytes: 0, is_tight: false }
    }

    fn arm_at(&mut self, at: Mono) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    /// The store is to be looked after soon.
    pub(super) fn arm(&mut self, now: Mono) {
        self.arm_at(now + WAIT);
    }

    fn note_commit(&mut self, batch: &Batch, now: Mono) {
        self.readings = self.readings.saturating_add(batch.records.len() as u32);
        let values: usize = batch.records.iter().map(|record| record.values.len()).sum();
        let payloads: usize = batch.quarantined.iter().map(|quarantined| quarantined.payload.len()).sum();
        let rows = batch.records.len() + batch.quarantined.len() + batch.changes.len();
        self.bytes += values + payloads + rows * ROW_BYTES;
        let bytes_max = if self.is_tight { COMMIT_BYTES_WHEN_TIGHT } else { COMMIT_BYTES };
        self.arm_at(if self.bytes >= bytes_max { now } else { now + WAIT });
    }

    fn plan(&mut self, done: &Housekeeping, now: Mono) {
        self.at = match done.next {
            NextStep::Now => Some(now),
            NextStep::At(at) => Some(at),
            NextStep::AfterCommit => None,
        };
        self.is_tight = done.is_tight;
        if done.is_tight || done.is_full {
            self.arm_at(now + WAIT_WHEN_TIGHT);
        }
    }
}

impl Gateway {
    /// On a full disk the space put by is given up, and the batch tried again.
    pub(super) fn append(&mut self, batch: &Batch, room: &mut Room<'_>) -> Result<(), StoreError> {
        let outcome = match self.buffer.append(batch) {
            Err(StoreError::Full(_)) if self.release_ballast(room) => self.buffer.append(batch),
            outcome => outcome,
        };
        if outcome.is_ok() {
            self.house.note_commit(batch, room.now.mono);
        }
        outcome
    }

    fn release_ballast(&mut self, room: &mut Room<'_>) -> bool {
        let is_released = room.disk.storage().delete(BALLAST, true).is_ok_and(|was_there| was_there);
        if is_released {
            note!(room.trace, "the space put by is given up");
            room.trace.count("space put by that is given up");
            self.house.at = Some(room.now.mono);
        }
        is_released
    }

    /// One step of what keeps the store within its budget.
    pub(super) fn keep_store(&mut self, room: &mut Room<'_>) {
        self.house.at = None;
        if !self.broker.is_storing() {
            return;
        }
        let now = room.now.mono;
        let mut space = measure(room.disk);
        if make_ballast(room.disk, &self.house.budget, &space) {
            room.trace.count("space that is put by");
            space = measure(room.disk);
        }
        let rows_max = ROWS_PER_STEP.saturating_add(self.house.readings.saturating_mul(2));
        (self.house.readings, self.house.bytes) = (0, 0);
        match self.buffer.keep_house(&self.house.budget, &space, now, rows_max) {
            Ok(done) => {
                self.house.plan(&done, now);
                self.note_removed(&done, room);
                if done.is_full != self.broker.is_storage_full() {
                    note!(room.trace, "there is no room for readings: {}", done.is_full);
                    self.broker.handle_storage_full(done.is_full);
                }
            }
            Err(StoreError::Full(_)) if self.release_ballast(room) => {}
            Err(error) => {
                note!(room.trace, "the store cannot be looked after: {error}");
                room.trace.count("a store that cannot be looked after");
                self.house.at = Some(now + WAIT_AFTER_FAILURE);
                if !self.buffer.is_open() {
                    self.fail_store(room);
                }
            }
        }
    }

    fn note_removed(&mut self, done: &Housekeeping, room: &mut Room<'_>) {
        let Losses { too_old, no_space, .. } = done.lost;
        let counts = [
            (done.uploaded, "readings that are removed after their upload"),
            (too_old, "readings that are dropped for their age"),
            (no_space, "readings that are dropped for want of room"),
            (u64::from(done.is_full), "a store that refuses readings"),
            (u64::from(done.is_tight), "a file system with too little space"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            note!(room.trace, "{what}: {count}");
            room.trace.count(what);
        }
    }
}

fn measure(disk: &Disk) -> DiskSpace {
    let storage = disk.storage();
    let (journal, registry) = (data_dir().buffer_path(), data_dir().registry_path());
    let bytes = |path: &std::path::Path| storage.content.bytes_of(&path.to_string_lossy()) as u64;
    let used = storage.content.used();
    DiskSpace {
        total: DISK_BYTES as u64,
        free: storage.capacity.min(DISK_BYTES).saturating_sub(used) as u64,
        journal: bytes(&journal),
        log: bytes(&journal.with_extension("db-wal")),
        others: bytes(&registry) + bytes(std::path::Path::new(BALLAST)),
    }
}

/// Puts space by, if there is none and room for it; gives back whether it was put by.
fn make_ballast(disk: &Disk, budget: &Budget, space: &DiskSpace) -> bool {
    let mut storage = disk.storage();
    let is_there = storage.content.bytes_of(BALLAST) == BALLAST_BYTES;
    if is_there || space.free < budget.keep_free + BALLAST_BYTES as u64 {
        return false;
    }
    let mut write = || {
        storage.delete(BALLAST, true)?;
        let file = storage.open(BALLAST, true)?;
        let written = storage.write(file, 0, &vec![0; BALLAST_BYTES]).and_then(|()| storage.sync(file, true));
        storage.close(file);
        written
    };
    let outcome: Result<(), DiskError> = write();
    if outcome.is_err() {
        // As for the product, what is left of it is looked at the next time.
        let _ = storage.delete(BALLAST, true);
    }
    outcome.is_ok()
}
