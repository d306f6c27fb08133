//! A whole disk: names, files, locks, the count of calls and the log of changes. Knows nothing of SQLite.

use std::collections::BTreeMap;

use super::{
    file::File,
    locks::Locks,
    loss::Loss,
    troubles::{Call, DiskError, Troubles},
};
use crate::chance::Chance;

pub type FileId = usize;

/// One change to the disk, as the log keeps it: played again from an empty disk, the log gives the same disk.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        name: String,
    },
    Write {
        file: FileId,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: FileId,
        length: usize,
    },
    Sync {
        file: FileId,
        with_directory: bool,
    },
    /// A flush that answered EIO; what it lost is drawn from `seed`.
    FailSync {
        file: FileId,
        loss: Loss,
        seed: u64,
    },
    Delete {
        name: String,
        with_directory: bool,
    },
}

#[derive(Clone, Debug)]
enum PendingName {
    Add(String, FileId),
    Remove(String),
}

/// Content and names; what a power cut acts on.
#[derive(Clone, Debug, Default)]
pub struct Content {
    files: BTreeMap<FileId, File>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    pending_names: Vec<PendingName>,
    next_file: FileId,
}

impl Content {
    pub fn file_named(&self, name: &str) -> Option<FileId> {
        self.names.get(name).copied()
    }

    /// Bytes of the file called `name`; zero if there is none.
    pub fn bytes_of(&self, name: &str) -> usize {
        self.file_named(name).and_then(|file| self.files.get(&file)).map_or(0, File::len)
    }

    /// Bytes in all files.
    pub fn used(&self) -> usize {
        self.files.values().map(File::len).sum()
    }

    fn file_mut(&mut self, file: FileId) -> &mut File {
        self.files.entry(file).or_default()
    }

    /// Does what the change says.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { name } => {
                let file = self.next_file;
                self.next_file += 1;
                self.files.insert(file, File::default());
                self.names.insert(name.clone(), file);
                self.pending_names.push(PendingName::Add(name.clone(), file));
            }
            Change::Write { file, at, bytes } => self.file_mut(*file).write(*at, bytes),
            Change::Truncate { file, length } => self.file_mut(*file).truncate(*length),
            Change::Sync { file, with_directory } => {
                self.file_mut(*file).flush();
                if *with_directory {
                    self.flush_names();
                }
            }
            Change::FailSync { file, loss, seed } => {
                self.file_mut(*file).fail_flush(*loss, &mut Chance::new(*seed));
            }
            Change::Delete { name, with_directory } => {
                self.names.remove(name);
                self.pending_names.push(PendingName::Remove(name.clone()));
                if *with_directory {
                    self.flush_names();
                }
            }
        }
    }

    fn flush_names(&mut self) {
        self.pending_names.clear();
        self.durable_names.clone_from(&self.names);
    }

    /// The power goes and comes back; no file may be open.
    pub fn lose_power(&mut self, loss: Loss, chance: &mut Chance) {
        let pending = std::mem::take(&mut self.pending_names);
        let whole = loss.surviving_prefix(pending.len(), chance);
        for (index, change) in pending.into_iter().enumerate() {
            if index < whole || loss.spares_one(chance) {
                match change {
                    PendingName::Add(name, file) => drop(self.durable_names.insert(name, file)),
                    PendingName::Remove(name) => drop(self.durable_names.remove(&name)),
                }
            }
        }
        self.names.clone_from(&self.durable_names);
        for file in self.files.values_mut() {
            file.lose_power(loss, chance);
        }
        self.sweep(|_| false);
    }

    /// Reads come from the storage again, as after the kernel gave its copy up.
    pub fn forget_cache(&mut self) {
        self.files.values_mut().for_each(File::forget_cache);
    }

    /// Forgets files that have no name any more, neither now nor after a power cut, and that nobody holds open.
    fn sweep(&mut self, is_open: impl Fn(FileId) -> bool) {
        let named: Vec<FileId> = self.names.values().chain(self.durable_names.values()).copied().collect();
        self.files.retain(|file, _| named.contains(file) || is_open(*file));
    }
}

/// The disk as its callers see it.
#[derive(Debug)]
pub struct Storage {
    pub content: Content,
    pub locks: BTreeMap<FileId, Locks>,
    pub troubles: Troubles,
    /// Bytes it holds at most.
    pub capacity: usize,
    /// Every change since this was set to an empty log.
    pub log: Option<Vec<Change>>,
    /// The kind of every call, if wanted.
    pub call_log: Option<Vec<Call>>,
    /// Microseconds one flush takes, at most; how long they took adds up in `waited_us`.
    pub slowest_sync_us: u64,
    pub waited_us: u64,
    /// The change, counted from one, during which the power goes.
    pub cut_at_change: Option<u64>,
    /// What a flush that fails loses.
    pub sync_failure: Loss,
    chance: Chance,
    gone: bool,
    calls: u64,
    changes: u64,
}

impl Storage {
    /// An empty disk without faults.
    pub fn new(seed: u64) -> Self {
        Self {
            content: Content::default(),
            locks: BTreeMap::new(),
            troubles: Troubles::default(),
            capacity: usize::MAX,
            log: None,
            call_log: None,
            slowest_sync_us: 0,
            waited_us: 0,
            cut_at_change: None,
            sync_failure: Loss::All,
            chance: Chance::new(seed),
            gone: false,
            calls: 0,
            changes: 0,
        }
    }

    /// Calls that could have failed so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Calls that could have changed something so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether nothing is done any more until the machine, or the process, starts again.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// From now on no call does anything: the process is dying, with the power or without it.
    pub fn stop(&mut self) {
        self.gone = true;
        self.cut_at_change = None;
    }

    /// The process starts again on what the kernel kept.
    pub fn start(&mut self) {
        self.assert_closed();
        self.gone = false;
    }

    /// One process starts again on what the kernel kept, beside others that did not stop.
    pub fn start_beside_others(&mut self) {
        self.gone = false;
    }

    /// The machine starts again on what the storage kept.
    pub fn start_after_power_cut(&mut self, loss: Loss) {
        self.assert_closed();
        let mut chance = self.chance.split();
        self.content.lose_power(loss, &mut chance);
        self.cut_at_change = None;
        self.gone = false;
    }

    /// Whether no file is open.
    pub fn is_closed(&self) -> bool {
        self.locks.is_empty()
    }

    fn assert_closed(&self) {
        assert!(self.is_closed(), "files are still open: {:?}", self.locks);
    }

    // ---- calls ------------------------------------------------------------------------------------------

    /// Opens the file called `name`, or makes it if `create`.
    pub fn open(&mut self, name: &str, create: bool) -> Result<FileId, DiskError> {
        self.begin(Call::Open)?;
        let file = match self.content.file_named(name) {
            Some(file) => file,
            None if !create => return Err(DiskError::Io),
            None => {
                self.change(Change::Create { name: name.to_owned() })?;
                self.content.next_file - 1
            }
        };
        self.locks.entry(file).or_default().handles += 1;
        Ok(file)
    }

    pub fn close(&mut self, file: FileId) {
        let locks = self.locks.entry(file).or_default();
        locks.handles -= 1;
        if locks.handles == 0 {
            self.locks.remove(&file);
            let locks = &self.locks;
            self.content.sweep(|file| locks.contains_key(&file));
        }
    }

    pub fn exists(&self, name: &str) -> bool {
        self.content.bytes_of(name) > 0
    }

    pub fn length(&self, file: FileId) -> usize {
        self.content.files.get(&file).map_or(0, File::len)
    }

    /// How many bytes were there; the rest of `out` is zeros.
    pub fn read(&mut self, file: FileId, at: usize, out: &mut [u8]) -> Result<usize, DiskError> {
        self.begin(Call::Read)?;
        Ok(self.content.files.get(&file).map_or(0, |file| file.read(at, out)))
    }

    /// Writes everything, or fails having written any part of it.
    pub fn write(&mut self, file: FileId, at: usize, bytes: &[u8]) -> Result<(), DiskError> {
        let write = |length: usize| Change::Write { file, at, bytes: bytes[..length].to_vec() };
        if let Err(error) = self.begin(Call::Write) {
            if error != DiskError::Gone && self.chance.coin() {
                let part = self.chance.below(bytes.len() as u64) as usize;
                self.change(write(part))?;
            }
            return Err(error);
        }
        let grown = (at + bytes.len()).saturating_sub(self.length(file).max(at));
        let room = self.capacity.saturating_sub(self.content.used());
        if grown > room {
            self.troubles.felt += 1;
            self.change(write(bytes.len() - grown + room))?;
            return Err(DiskError::Full);
        }
        self.change(write(bytes.len()))
    }

    pub fn truncate(&mut self, file: FileId, length: usize) -> Result<(), DiskError> {
        self.begin(Call::Truncate)?;
        self.change(Change::Truncate { file, length })
    }

    /// Brings the file, and its directory if asked, to the storage.
    pub fn sync(&mut self, file: FileId, with_directory: bool) -> Result<(), DiskError> {
        self.waited_us += self.chance.below(self.slowest_sync_us + 1);
        if let Err(error) = self.begin(Call::Sync) {
            if error != DiskError::Gone {
                let (loss, seed) = (self.sync_failure, self.chance.next());
                self.change(Change::FailSync { file, loss, seed })?;
            }
            return Err(error);
        }
        self.change(Change::Sync { file, with_directory })
    }

    /// Removes the name; false if there is none.
    pub fn delete(&mut self, name: &str, with_directory: bool) -> Result<bool, DiskError> {
        self.begin(Call::Delete)?;
        if self.content.file_named(name).is_none() {
            return Ok(false);
        }
        self.change(Change::Delete { name: name.to_owned(), with_directory })?;
        let locks = &self.locks;
        self.content.sweep(|file| locks.contains_key(&file));
        Ok(true)
    }

    fn begin(&mut self, call: Call) -> Result<(), DiskError> {
        if self.gone {
            return Err(DiskError::Gone);
        }
        self.calls += 1;
        if let Some(log) = &mut self.call_log {
            log.push(call);
        }
        self.troubles.strike(call, self.calls, &mut self.chance)
    }

    /// Makes the change, unless the power goes during it: a write may then survive all the same, a flush has not ended.
    fn change(&mut self, change: Change) -> Result<(), DiskError> {
        self.changes += 1;
        let power_goes = self.cut_at_change.is_some_and(|at| self.changes >= at);
        let unfinished = matches!(change, Change::Sync { .. } | Change::FailSync { .. });
        if !(power_goes && unfinished) {
            self.content.apply(&change);
        }
        if power_goes {
            self.stop();
            return Err(DiskError::Gone);
        }
        if let Some(log) = &mut self.log {
            log.push(change);
        }
        Ok(())
    }
}
