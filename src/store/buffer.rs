//! The journal's one writer: a batch goes in as one transaction and is on disk when [`Buffer::append`] returns.
//!
//! Knows nothing of acknowledgements. On doubt it closes the journal and says so; what then is in it is known only
//! after [`Buffer::reopen`], which may find the doubtful batch written.
//!
//! ```text
//!            append, set_clock, checkpoint fail        reopen succeeds
//!   OPEN ───────────────────────────────────────> CLOSED ───────────> OPEN
//!     └── full or busy: stays open, nothing of the batch is in it
//! ```

mod opening;
mod uplink;
mod writing;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use opening::{note_files, open_sound};
use rusqlite::Connection;
use writing::{assert_consecutive, commit};

use super::{
    boots::{self, Boot, BootId, Opening},
    budget::{Budget, DiskSpace},
    data_dir::DataDir,
    error::{Attempt, StoreError},
    file_identity::{self, OpenedFiles},
    journal_devices::{self, JournalDevices},
    open::{self, StoreOptions},
    own_marks,
    placement::Placements,
    quarantine, recovery,
    removed::Losses,
    retention::{self, House, Housekeeping, Orders},
    set_aside::SetAsideMax,
    sweep,
};
use crate::{
    clock::{ClockState, Mono, Now},
    ids::{DeviceName, Seq},
    session::{Batch, durable::Recovered},
};

/// How long the pages are looked over at a start: devices wait meanwhile.
const OPEN_CHECK_TIME: Duration = Duration::from_millis(500);
/// How long the pages are looked over after a failure.
const REOPEN_CHECK_TIME: Duration = Duration::from_secs(2);

/// The journal of readings and sessions, open for writing; one per data directory, see [`DataDir::lock`].
#[derive(Debug)]
pub struct Buffer {
    /// None while CLOSED. Stands before `files`, so that SQLite lets go of its locks first.
    connection: Option<Connection>,
    /// None on a VFS without real files.
    files: Option<OpenedFiles>,
    path: PathBuf,
    options: StoreOptions,
    boot_id: BootId,
    boot: Boot,
    last_seq: Seq,
    devices: JournalDevices,
    quarantine_dropped: u64,
    damaged_rows: u64,
    /// Where boots lie in time; none until it is asked for, and after anything that may have changed it.
    placements: Option<Placements>,
    house: House,
    lost: Losses,
}

impl Buffer {
    /// Opens or makes the journal in `dir`, checks it, and notes this boot and its clock in it.
    ///
    /// Opened before any [`BufferReader`](super::BufferReader) of this process, and dropped after them.
    ///
    /// # Errors
    /// Any [`StoreError`]; [`StoreError::Corrupt`] if the file must be moved aside first.
    pub fn open(
        dir: &DataDir,
        options: &StoreOptions,
        boot: &BootId,
        now: Now,
        clock: ClockState,
    ) -> Result<Buffer, StoreError> {
        let path = dir.buffer_path();
        if options.vfs.is_none() {
            file_identity::forget_log(&path)?;
        }
        let opening = Opening::Start { now_ms: now.mono.as_millis() };
        let sound = open_sound(&path, options, boot, opening, clock, OPEN_CHECK_TIME)?;
        let files = note_files(&path, options, None)?;
        Ok(Buffer {
            connection: Some(sound.connection),
            files,
            path,
            options: options.clone(),
            boot_id: boot.clone(),
            boot: sound.boot,
            last_seq: sound.last_seq,
            devices: JournalDevices::default(),
            quarantine_dropped: 0,
            damaged_rows: 0,
            placements: None,
            house: House::default(),
            lost: sound.lost,
        })
    }

    /// The place of the last reading known to be on disk; `Seq(0)` if there was none yet.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Whether it takes readings; else it is to be opened again.
    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// How many payloads were dropped from quarantine since the journal was first opened.
    pub fn quarantine_dropped(&self) -> u64 {
        self.quarantine_dropped
    }

    /// How many payloads are in quarantine.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn quarantine_len(&self) -> Result<u64, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        quarantine::len(connection).map_err(|e| Attempt::new("count the quarantine of", &self.path).sql(e))
    }

    /// Writes `batch` in one transaction; it is on disk, under its own name, when this returns `Ok`.
    ///
    /// # Errors
    /// After [`StoreError::Full`] and [`StoreError::Busy`] the journal stays open without the batch, which may be tried
    /// again. After any other error it is closed, and whether the batch is in it is unknown until [`Buffer::reopen`].
    ///
    /// # Panics
    /// If the records do not follow [`Buffer::last_seq`] one by one.
    pub fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Err(self.closed()) };
        assert_consecutive(self.last_seq, batch);
        if batch.is_empty() {
            return Ok(());
        }
        let StoreOptions { quarantine_rows, quarantine_bytes, .. } = self.options;
        let set_aside_max = SetAsideMax { rows: quarantine_rows.into(), bytes: quarantine_bytes };
        match commit(connection, &self.devices, self.boot, &set_aside_max, batch) {
            Ok(committed) => {
                self.verify_files()?;
                self.devices.adopt(committed.fresh);
                self.quarantine_dropped += committed.dropped;
                self.lost.rejected += committed.rejected_dropped;
                self.last_seq = batch.last_seq().unwrap_or(self.last_seq);
                Ok(())
            }
            Err(error) => Err(self.after_failure("append to the journal", error)),
        }
    }

    /// How many damaged rows [`Buffer::outbound`] and [`Buffer::recover`] have left out so far, with what belongs to them.
    pub fn damaged_rows(&self) -> u64 {
        self.damaged_rows
    }

    /// Whether there are, or were, readings of a device called `name`.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn has_heard_of(&self, name: &DeviceName) -> Result<bool, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        own_marks::number(connection, name)
            .map(|number| number.is_some())
            .map_err(|e| Attempt::new("look a device up in", &self.path).sql(e))
    }

    /// Does one step of what keeps the journal within `budget`: at most `rows_max` readings leave it, or its file gives
    /// some pages back. To be called again as [`Housekeeping::next`] says.
    ///
    /// `disk` is what the file system says now.
    ///
    /// # Errors
    /// After [`StoreError::Full`], [`StoreError::Busy`] and [`StoreError::Corrupt`] the journal stays open and nothing
    /// was done; otherwise as [`Buffer::append`].
    pub fn keep_house(
        &mut self,
        budget: &Budget,
        disk: &DiskSpace,
        now: Mono,
        rows_max: u32,
    ) -> Result<Housekeeping, StoreError> {
        let Some(connection) = &mut self.connection else { return Err(self.closed()) };
        let placements = match self.placements.take().map(Ok) {
            Some(placements) => placements,
            None => Placements::read(connection),
        };
        let offset_ms = self.boot.clock.synchronised.then_some(self.boot.clock.offset_ms);
        let orders = Orders { budget, disk, now, offset_ms, rows_max };
        let step = placements.and_then(|placements| {
            let step = retention::step(connection, &mut self.house, &placements, &orders);
            self.placements = Some(placements);
            step
        });
        match step {
            Ok(done) => {
                self.lost += done.lost;
                self.quarantine_dropped += done.payloads;
                Ok(done)
            }
            Err(error) => {
                let error = Attempt::new("keep house in the journal", &self.path).sql(error);
                // A damaged page among old readings keeps nobody from storing new ones.
                let is_harmless = matches!(error, StoreError::Corrupt(_)) || is_rolled_back(&error);
                self.close_unless(is_harmless);
                Err(error)
            }
        }
    }

    /// How many readings were lost, by reason, since the journal was made.
    pub fn lost(&self) -> Losses {
        self.lost
    }

    /// Reads back the sessions with all that belongs to them, and the retained messages.
    ///
    /// Called after [`Buffer::open`] and [`Buffer::reopen`]. A damaged row is left out, and so is what belongs to it; all
    /// of that is removed.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read, or as [`Buffer::append`] if the removal fails in a way that leaves
    /// doubt.
    pub fn recover(&mut self) -> Result<Recovered, StoreError> {
        let Some(connection) = &mut self.connection else { return Err(self.closed()) };
        let (recovered, left_out) = recovery::read(connection, self.boot, &self.path)
            .map_err(|e| Attempt::new("read the sessions in the journal", &self.path).sql(e))?;
        self.damaged_rows += left_out.len() as u64;
        if !left_out.is_empty()
            && let Err(error) = sweep::remove(connection, &left_out)
        {
            let error = Attempt::new("remove damaged rows of the journal", &self.path).sql(error);
            let is_harmless = matches!(error, StoreError::Corrupt(_)) || is_rolled_back(&error);
            self.close_unless(is_harmless);
            if !self.is_open() {
                return Err(error);
            }
            log::warn!("{error}; they are left out again at the next start");
        }
        Ok(Recovered { last_seq: self.last_seq, ..recovered })
    }

    /// Every device that has, or had, anything in the journal.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn device_names(&self) -> Result<Vec<DeviceName>, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        journal_devices::names(connection)
            .map_err(|e| Attempt::new("read the devices in the journal", &self.path).sql(e))
    }

    /// Notes that the machine runs still, so that after a power cut the lives of sessions and messages go on from here.
    ///
    /// For a now and then: readings and the ends of connections note it as well.
    ///
    /// # Errors
    /// As [`Buffer::append`].
    pub fn note_running(&mut self, now: Mono) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        let noted = boots::note_passed(connection, self.boot, now.as_millis());
        self.after_note("note the time in the journal", noted)
    }

    /// Notes where this boot lies in wall time, if that differs from what is noted; all its readings move with it.
    ///
    /// A boot once synchronised stays so, and then follows only a clock that still is.
    ///
    /// # Errors
    /// As [`Buffer::append`]; the clock counts as not noted.
    pub fn set_clock(&mut self, clock: ClockState) -> Result<(), StoreError> {
        let boot = Boot { clock: boots::merge(self.boot.clock, clock), ..self.boot };
        if boot == self.boot {
            return Ok(());
        }
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        let noted = boots::note(connection, boot);
        self.after_note("note the clock in the journal", noted)?;
        self.boot = boot;
        self.placements = None;
        Ok(())
    }

    /// Copies the log into the database as far as no reader is in the way; the log file keeps its size.
    ///
    /// For idle moments: a busy journal does it on its own.
    ///
    /// # Errors
    /// As [`Buffer::append`].
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        let outcome = open::checkpoint(connection);
        outcome.map_err(|error| self.after_failure("checkpoint the journal", error))
    }

    /// Closes the journal and opens it again from what the storage holds; to be called until it succeeds.
    ///
    /// The kernel's copy of the files is dropped, the pages are looked over for up to two seconds, and one transaction
    /// must come back from disk. Afterwards [`Buffer::last_seq`] may lie beyond the last append that returned `Ok`: the
    /// batch that failed was written after all. Readers of this process should be closed meanwhile.
    ///
    /// # Errors
    /// Any [`StoreError`]; the journal then stays closed.
    pub fn reopen(&mut self) -> Result<(), StoreError> {
        self.close_doubtful();
        if let Some(files) = &self.files {
            files.forget_cached();
        }
        if self.options.vfs.is_none() {
            file_identity::forget_log(&self.path)?;
        }
        let (clock, opening) = (self.boot.clock, Opening::Again { age_ms: self.boot.age_ms });
        let sound = open_sound(&self.path, &self.options, &self.boot_id, opening, clock, REOPEN_CHECK_TIME)?;
        let earlier = self.files.take();
        self.files = note_files(&self.path, &self.options, earlier)?;
        if sound.last_seq < self.last_seq {
            let (path, found, confirmed) = (self.path.display(), sound.last_seq.0, self.last_seq.0);
            log::error!("the storage lost readings: {path} ends at {found}, and {confirmed} was on it");
        }
        self.connection = Some(sound.connection);
        self.boot = sound.boot;
        self.placements = None;
        self.lost = sound.lost;
        // Never back: a place once confirmed is not given to another reading.
        self.last_seq = self.last_seq.max(sound.last_seq);
        self.devices.forget();
        Ok(())
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.path.clone() }
    }

    fn verify_files(&mut self) -> Result<(), StoreError> {
        let verified = self.files.as_ref().map_or(Ok(()), OpenedFiles::verify);
        if verified.is_err() {
            self.close_doubtful();
        }
        verified
    }

    /// What came of a change to this boot's row, which may not have been there.
    fn after_note(&mut self, action: &'static str, noted: rusqlite::Result<bool>) -> Result<(), StoreError> {
        match noted {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.close_doubtful();
                let missing = format!("boot {} has no row", self.boot.number);
                Err(Attempt::new(action, &self.path).corrupt(missing))
            }
            Err(error) => Err(self.after_failure(action, error)),
        }
    }

    fn after_failure(&mut self, action: &'static str, error: rusqlite::Error) -> StoreError {
        let error = Attempt::new(action, &self.path).sql(error);
        self.close_unless(is_rolled_back(&error));
        error
    }

    fn close_unless(&mut self, is_harmless: bool) {
        let idle = self.connection.as_ref().is_some_and(Connection::is_autocommit);
        if !(is_harmless && idle) {
            self.close_doubtful();
        }
    }

    /// Closes without a checkpoint: it would spread what is doubted, and remove a log that may not be ours.
    fn close_doubtful(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.files.as_ref().is_some_and(OpenedFiles::only_wal_is_missing) {
            save_unlinked_wal(&connection, &self.path);
        }
        if let Err(error) = open::checkpoint_on_close(&connection, false) {
            log::debug!("the journal {} checkpoints as it closes: {error}", self.path.display());
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.files.as_ref().is_some_and(|files| files.verify().is_err()) {
            self.close_doubtful();
        }
    }
}

/// Neither comes from a flush, so SQLite has rolled back for certain: the next commit takes the place of whatever was
/// written. Reopening a full disk would need space itself.
fn is_rolled_back(error: &StoreError) -> bool {
    matches!(error, StoreError::Full(_) | StoreError::Busy(_))
}

/// The log was deleted, but it lives as long as it is open: its readings go into the database now or never, so readers
/// in the way are waited for. Gives back whether they are all there.
fn save_unlinked_wal(connection: &Connection, path: &Path) -> bool {
    let saved = open::checkpoint_whole(connection);
    let path = path.display();
    match &saved {
        Ok(true) => log::warn!("the log of {path} was deleted; its readings were saved"),
        Ok(false) => {
            log::error!("the log of {path} was deleted; its last readings are lost, a reader was in the way")
        }
        Err(error) => log::error!("the log of {path} was deleted, its readings may be lost: {error}"),
    }
    saved.unwrap_or(false)
}

#[cfg(test)]
#[path = "buffer_tests.rs"]
mod tests;
