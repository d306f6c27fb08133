//! One script on one disk, driven as the program drives its store: what fails is opened again and tried again.

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    identity::TokenHash,
    ids::{DeviceName, Seq},
    record::{Quarantined, Record},
    session::{Batch, durable::Change},
    store::{BootId, Buffer, BufferReader, Query, Registry, StoreError, StoreOptions},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    promises::{DeviceState, Promises, RECEIVED_MS},
    sessions::words,
};
use crate::{
    disk::Disk,
    machine::{self, Locking},
};

/// How often something is tried before the script gives up: a failure that happens once is over by then.
const TRIES: usize = 4;
/// The clock of the first boot.
pub const UNSET: ClockState = ClockState { offset_ms: 5_000, synchronised: false };

/// The disk would not do it, however often it was asked.
#[derive(Debug)]
pub struct GaveUp;

/// How a script is run.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub locking: Locking,
    /// Commits are not flushed: the control that must be caught.
    pub weakened: bool,
    /// What becomes of the kernel's copy of the files after a failure.
    pub cache: Cache,
}

/// What becomes of the kernel's copy of the files after a failure, before the store is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It is kept: the kernel need not do as it is asked.
    Kept,
    /// It is dropped, as the program asks the kernel to.
    Dropped,
    /// A reader comes, finds what was not flushed, and stays; then it is dropped.
    ReadThenDropped,
}

impl Manner {
    pub const USUAL: Manner = Manner { locking: Locking::Shared, weakened: false, cache: Cache::Kept };
}

/// The run of a script, and what has been promised at each change of the disk.
pub struct Run<'a> {
    disk: &'a Disk,
    manner: Manner,
    quarantine_rows: u32,
    registry: Option<Registry>,
    buffer: Option<Buffer>,
    reader: Option<BufferReader>,
    pub promises: Promises,
    /// What was promised from each count of changes on.
    pub history: Vec<(u64, Promises)>,
    /// Changes and calls of the first start.
    pub started: Option<(u64, u64)>,
}

impl<'a> Run<'a> {
    pub fn new(disk: &'a Disk, manner: Manner) -> Self {
        let promises = Promises::default();
        let history = vec![(0, promises.clone())];
        Self {
            disk,
            manner,
            quarantine_rows: 2,
            registry: None,
            buffer: None,
            reader: None,
            promises,
            history,
            started: None,
        }
    }

    /// Notes what is promised from now on.
    fn note(&mut self) {
        let changes = self.disk.storage().changes();
        self.history.push((changes, self.promises.clone()));
    }

    /// Does `work` until it succeeds.
    fn insist<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, StoreError>) -> Result<T, GaveUp> {
        for _ in 0..TRIES {
            match work(self) {
                Ok(done) => return Ok(done),
                Err(_) if self.disk.storage().is_gone() => return Err(GaveUp),
                Err(_) => self.lose_cache(),
            }
        }
        Err(GaveUp)
    }

    fn options(&self) -> StoreOptions {
        let Manner { locking, weakened, .. } = self.manner;
        machine::options(self.disk, locking, self.quarantine_rows, weakened)
    }

    /// What happens between a failure and the next opening.
    fn lose_cache(&mut self) {
        if self.manner.cache == Cache::ReadThenDropped && self.reader.is_none() {
            self.reader = BufferReader::open(&machine::data_dir(), &self.options()).ok();
            let all = Query { after: Seq(0), device: None, since: None, limit: usize::MAX, newest: false };
            // It may fail too; what it reads is examined by others.
            let _ = self.reader.as_ref().map(|reader| reader.read(&all));
        }
        if self.manner.cache != Cache::Kept {
            self.disk.forget_cached(&machine::data_dir().buffer_path());
        }
    }

    // ---- what scripts do --------------------------------------------------------------------------------

    /// Opens both databases, as a starting broker does; a start that fails is followed by another.
    pub fn start(&mut self) -> Result<(), GaveUp> {
        if self.promises.clocks.is_empty() {
            self.promises.clocks.push(UNSET);
        }
        self.note();
        self.insist(|run| {
            run.stop();
            let options = run.options();
            let now = Now { mono: Mono(3_000_000), wall: Wall(8_000) };
            run.registry = Some(Registry::open(&machine::data_dir(), &options)?);
            run.buffer =
                Some(Buffer::open(&machine::data_dir(), &options, &BootId::new("first"), now, UNSET)?);
            Ok(())
        })?;
        let storage = self.disk.storage();
        self.started.get_or_insert((storage.changes(), storage.calls()));
        Ok(())
    }

    /// Ends as a process does that was told to: the databases are closed.
    pub fn stop(&mut self) {
        self.buffer = None;
        self.registry = None;
    }

    /// Everybody is gone.
    pub fn end(&mut self) {
        self.stop();
        self.reader = None;
    }

    /// Stores readings in one batch, and promises them when it is done.
    pub fn append(&mut self, values: &[&str]) -> Result<(), GaveUp> {
        let values: Vec<String> = values.iter().copied().map(value).collect();
        self.promises.asked.extend(values.clone());
        self.note();
        self.insist(|run| run.append_or_reopen(batch_of(&values)))?;
        self.promises.stored.extend(values);
        self.note();
        Ok(())
    }

    /// There is a journal with three readings already, of the version that knew nothing else.
    pub fn find_old_journal(&mut self) {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let path = machine::data_dir().buffer_path();
        let old = Connection::open_with_flags_and_vfs(path, flags, self.disk.vfs()).expect("made");
        old.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA page_size=1024; PRAGMA journal_mode=WAL")
            .and_then(|()| old.execute_batch(include_str!("journal_1.sql")))
            .expect("written");
        drop(old);
        let values = ["old1", "old2", "old3"].map(value);
        self.promises.asked.extend(values.clone());
        self.promises.stored.extend(values);
        self.promises.clocks.push(UNSET);
        self.note();
        let storage = self.disk.storage();
        self.started = Some((storage.changes(), storage.calls()));
    }

    /// Makes changes to sessions in one batch, after which `after` is to be found.
    pub fn change_sessions(&mut self, changes: &[Change], after: &str) -> Result<(), GaveUp> {
        let batch = Batch { changes: changes.to_vec(), ..Batch::default() };
        let before = self.promises.sessions.pop().unwrap_or_default();
        self.promises.sessions = vec![before, after.to_owned()];
        self.note();
        self.insist(|run| {
            let Err(error) = run.append_or_reopen(batch.clone()) else { return Ok(()) };
            // The try that failed may have come through all the same: the broker goes by what it finds.
            let found = run.buffer.as_mut().expect("the script has started").recover()?;
            if words(&found) == after { Ok(()) } else { Err(error) }
        })?;
        self.promises.sessions = vec![after.to_owned()];
        self.note();
        Ok(())
    }

    /// Sets payloads aside in one batch.
    pub fn set_aside(&mut self, payloads: &[&[u8]]) -> Result<(), GaveUp> {
        let quarantined = payloads.iter().map(|payload| Quarantined {
            device: name("pump"),
            received: Mono(RECEIVED_MS.unsigned_abs() * 1000),
            topic: "v1/devices/me/telemetry".into(),
            reason: "not JSON".into(),
            payload: payload.to_vec(),
        });
        let batch = Batch { quarantined: quarantined.collect(), ..Batch::default() };
        self.promises.set_aside = None;
        self.note();
        self.insist(|run| run.append_or_reopen(batch.clone()))?;
        self.promises.set_aside = payloads.last().map(|payload| payload.to_vec());
        self.note();
        Ok(())
    }

    fn append_or_reopen(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        let buffer = self.buffer.as_mut().expect("the script has started");
        number(&mut batch, buffer.last_seq());
        let Err(error) = buffer.append(&batch) else { return Ok(()) };
        if !self.disk.storage().is_gone() {
            self.lose_cache();
            // A failure here is found out by the next append, which says that the journal is closed.
            let _ = self.buffer.as_mut().map(Buffer::reopen);
        }
        Err(error)
    }

    /// Writes the log back into the database.
    pub fn checkpoint(&mut self) -> Result<(), GaveUp> {
        self.insist(|run| {
            let buffer = run.buffer.as_mut().expect("the script has started");
            buffer.checkpoint().inspect_err(|_| drop(buffer.reopen()))
        })
    }

    /// The journal is opened again, as after a failure.
    pub fn reopen(&mut self) -> Result<(), GaveUp> {
        self.insist(|run| run.buffer.as_mut().expect("the script has started").reopen())
    }

    /// Notes the clock in the boot's row.
    pub fn set_clock(&mut self, clock: ClockState) -> Result<(), GaveUp> {
        self.promises.clocks.push(clock);
        self.note();
        self.insist(|run| {
            let buffer = run.buffer.as_mut().expect("the script has started");
            buffer.set_clock(clock).inspect_err(|_| drop(buffer.reopen()))
        })?;
        self.promises.clocks = vec![clock];
        self.note();
        Ok(())
    }

    pub fn add(&mut self, device: &str, token: &str) -> Result<(), GaveUp> {
        let hash = TokenHash::of(token);
        self.change(device, Some((hash, true)), |registry, name| registry.add(name, &hash, Wall(1)).map(drop))
    }

    pub fn rotate(&mut self, device: &str, token: &str) -> Result<(), GaveUp> {
        let hash = TokenHash::of(token);
        self.change(device, Some((hash, true)), |registry, name| registry.set_token(name, &hash).map(drop))
    }

    pub fn disable(&mut self, device: &str, token: &str) -> Result<(), GaveUp> {
        let hash = TokenHash::of(token);
        self.change(device, Some((hash, false)), |registry, name| registry.set_enabled(name, false).map(drop))
    }

    pub fn remove(&mut self, device: &str) -> Result<(), GaveUp> {
        self.change(device, None, Registry::remove)
    }

    fn change(
        &mut self,
        device: &str,
        state: DeviceState,
        mut work: impl FnMut(&mut Registry, &DeviceName) -> Result<(), StoreError>,
    ) -> Result<(), GaveUp> {
        let name = name(device);
        self.promises.ask(&name, state);
        self.note();
        self.insist(|run| {
            let registry = run.registry.as_mut().expect("the script has started");
            match work(registry, &name) {
                // The try before was told that it failed, and had not.
                Err(StoreError::DuplicateName { .. } | StoreError::NotFound { .. }) => Ok(()),
                other => other,
            }
        })?;
        self.promises.confirm(&name, state);
        self.note();
        Ok(())
    }
}

/// The values of a reading.
fn value(text: &str) -> String {
    format!("{{\"v\":\"{text}\"}}")
}

pub fn name(text: &str) -> DeviceName {
    DeviceName::parse(text).expect("a valid name")
}

/// The readings, still without a place.
pub fn batch_of(values: &[String]) -> Batch {
    let record = |values: &String| Record {
        seq: Seq(0),
        device: name("pump"),
        received: Mono(RECEIVED_MS.unsigned_abs() * 1000),
        device_ts: None,
        values: values.clone(),
    };
    Batch { records: values.iter().map(record).collect(), ..Batch::default() }
}

/// Gives the records the places after `last`.
pub fn number(batch: &mut Batch, last: Seq) {
    let mut seq = last;
    for record in &mut batch.records {
        seq = seq.next();
        record.seq = seq;
    }
}
