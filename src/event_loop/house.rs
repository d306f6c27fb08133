//! Keeping the store within its budget: a step now and then after commits, never a wake-up when nothing is to do.

use std::time::Duration;

use crate::{
    clock::{Mono, Now},
    limits,
    session::Batch,
    store::{Ballast, Budget, DataDir, DiskSpace, Housekeeping, Losses, NextStep, StorageWishes, StoreError},
};

use super::EventLoop;

/// How long after a commit the house is looked after, if not more than [`COMMIT_BYTES`] came.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes of commits after which it is done at once, so that the budget holds.
const COMMIT_BYTES: usize = 256 << 10;
/// The same while the file system has too little space: there is less room in the file then.
const COMMIT_BYTES_WHEN_TIGHT: usize = 32 << 10;
/// What a change costs on disk beside its texts, roughly.
const ROW_BYTES: usize = 48;
/// How soon the file system is looked at again while it has too little space: it may be anybody who makes some.
const WAIT_WHEN_TIGHT: Duration = Duration::from_secs(5);
/// How long a step that failed is put off.
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// How often readings that are dropped are spoken of.
const WAIT_TO_TELL: Duration = Duration::from_secs(60);

/// When the store is looked after, by which budget, and what was said about it.
#[derive(Debug)]
pub(super) struct House {
    dir: DataDir,
    budget: Budget,
    ballast: Ballast,
    at: Option<Mono>,
    /// What came since the last step.
    readings: u32,
    bytes: usize,
    is_tight: bool,
    /// Lost readings that nobody was told of yet, payloads as well, and when somebody was told last.
    untold: Losses,
    untold_payloads: u64,
    told: Option<Mono>,
    /// When readings were last dropped that the hub does not have.
    lost_at: Option<Mono>,
    /// The trouble that was logged last, so that it is told once.
    trouble: String,
}

impl House {
    /// Settles the budget; the store is looked after for the first time soon.
    pub(super) fn new(dir: &DataDir, wishes: &StorageWishes, now: Mono) -> Result<Self, StoreError> {
        let disk = DiskSpace::measure(dir)?;
        Ok(Self {
            dir: dir.clone(),
            budget: Budget::new(wishes, &disk),
            ballast: Ballast::find(dir, &disk),
            at: Some(now + WAIT),
            readings: 0,
            bytes: 0,
            is_tight: false,
            untold: Losses::default(),
            untold_payloads: 0,
            told: None,
            lost_at: None,
            trouble: String::new(),
        })
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn at(&self) -> Option<Mono> {
        self.at
    }

    /// When readings were last dropped that the hub does not have, since the start.
    pub(super) fn lost_at(&self) -> Option<Mono> {
        self.lost_at
    }

    pub(super) fn is_due(&self, now: Mono) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// The store is to be looked after soon.
    pub(super) fn arm(&mut self, now: Mono) {
        self.arm_at(now + WAIT);
    }

    fn arm_at(&mut self, at: Mono) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Something was committed.
    pub(super) fn note_commit(&mut self, batch: &Batch, now: Mono) {
        let records = &batch.records;
        self.readings = self.readings.saturating_add(u32::try_from(records.len()).unwrap_or(u32::MAX));
        self.bytes += records.iter().map(|record| record.values.len() + ROW_BYTES).sum::<usize>();
        self.bytes +=
            batch.quarantined.iter().map(|payload| payload.payload.len() + ROW_BYTES).sum::<usize>();
        self.bytes += batch.changes.len() * ROW_BYTES;
        let bytes_max = if self.is_tight { COMMIT_BYTES_WHEN_TIGHT } else { COMMIT_BYTES };
        self.arm_at(if self.bytes >= bytes_max { now } else { now + WAIT });
    }

    /// Gives up the space put by, if there is any, because of `error`.
    pub(super) fn release_ballast(&mut self, error: &StoreError, now: Mono) -> bool {
        let is_released = self.ballast.release();
        if is_released {
            log::warn!("{error}; the space put by was given up, and there is no more");
            self.at = Some(now);
        }
        is_released
    }

    /// Puts space by again, if there is room for it.
    fn make_ballast(&mut self, disk: &DiskSpace) {
        match self.ballast.make(&self.budget, disk) {
            Ok(true) => log::debug!("space was put by for when the disk is full"),
            Ok(false) => {}
            Err(error) => self.tell_trouble(&error),
        }
    }

    fn tell_trouble(&mut self, error: &StoreError) {
        let words = error.to_string();
        if words != self.trouble {
            log::error!("{words}; trying again");
            self.trouble = words;
        }
    }

    fn tell_lost(&mut self, done: &Housekeeping, now: Mono) {
        // What was set aside is told of elsewhere: the hub would not have had it.
        if done.lost.too_old + done.lost.no_space > 0 {
            self.lost_at = Some(now);
        }
        self.untold += done.lost;
        self.untold_payloads += done.payloads;
        let is_quiet = self.told.is_none_or(|told| now.since(told) >= WAIT_TO_TELL);
        if !self.has_untold() || !is_quiet {
            return;
        }
        let Losses { too_old, no_space, rejected } = std::mem::take(&mut self.untold);
        let payloads = std::mem::take(&mut self.untold_payloads);
        self.told = Some(now);
        if too_old + no_space > 0 {
            log::warn!(
                "dropped the oldest readings: {no_space} for want of room, {too_old} older than max_age"
            );
        }
        if payloads + rejected > 0 {
            log::warn!(
                "dropped the oldest of what was set aside, for want of room: {payloads} payloads, {rejected} \
                 rejected readings"
            );
        }
    }

    fn has_untold(&self) -> bool {
        self.untold.total() + self.untold_payloads > 0
    }

    /// When the next step is due, given what the last one said.
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
        if self.has_untold() {
            self.arm_at(now + WAIT_TO_TELL);
        }
    }
}

impl EventLoop {
    /// One step of what keeps the store within its budget.
    pub(super) fn keep_store(&mut self, now: Now) {
        self.house.at = None;
        if !self.broker.is_storing() {
            // It is armed again when the store is.
            return;
        }
        match self.step(now.mono) {
            Ok(done) => {
                self.house.trouble.clear();
                self.house.tell_lost(&done, now.mono);
                self.house.plan(&done, now.mono);
                if done.makes_room {
                    self.uploading.settle_now();
                }
                self.tell_full(done.is_full);
            }
            Err(error @ StoreError::Full(_)) if self.house.release_ballast(&error, now.mono) => {}
            Err(error) => {
                self.house.tell_trouble(&error);
                self.house.at = Some(now.mono + WAIT_AFTER_FAILURE);
                if !self.buffer.is_open() {
                    self.broker.handle_commit_failed(now);
                    self.reopen_store(now);
                }
            }
        }
    }

    fn step(&mut self, now: Mono) -> Result<Housekeeping, StoreError> {
        let house = &mut self.house;
        let disk = DiskSpace::measure(&house.dir)?;
        house.make_ballast(&disk);
        // Faster than what comes in, or the budget would not hold.
        let rows_max = limits::ROWS_PER_STEP.saturating_add(house.readings.saturating_mul(2));
        (house.readings, house.bytes) = (0, 0);
        self.buffer.keep_house(&house.budget, &disk, now, rows_max)
    }

    fn tell_full(&mut self, is_full: bool) {
        if is_full == self.broker.is_storage_full() {
            return;
        }
        match is_full {
            true => log::error!("there is no room for more readings: publishers are refused until there is"),
            false => log::info!("there is room for readings again"),
        }
        self.broker.handle_storage_full(is_full);
    }
}
