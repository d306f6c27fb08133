//! How much the data directory may take, what has to go when it is too much, and what the file system says now.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use rustix::fs::statvfs;

use super::{
    data_dir::DataDir,
    error::{Attempt, StoreError},
    private_file::companion,
};
use crate::limits::SET_ASIDE_BUDGET_PARTS;

/// Most bytes of the data directory if nothing is said.
const MAX_BYTES: u64 = 1 << 30;
/// Most bytes to leave free on the file system if nothing is said: logs and updates of the system live there too.
const KEEP_FREE: u64 = 64 << 20;
/// Least bytes to leave free if nothing is said: what stands in the journal's log has yet to get room in its file.
const KEEP_FREE_LEAST: u64 = 2 << 20;

/// What the operator wants of the storage; `None` where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageWishes {
    /// Most bytes of the data directory.
    pub max_bytes: Option<u64>,
    /// What is to stay free on its file system.
    pub keep_free: Option<FreeSpace>,
    /// Readings older than that go.
    pub max_age: Option<Duration>,
    /// Readings the hub has are kept for local queries, as long as there is room.
    pub keep_uploaded: bool,
    /// What happens when there is no room.
    pub policy: Policy,
}

/// An amount of space on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeSpace {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system.
    Percent(u8),
}

/// What happens to readings when there is no room; those the hub has always go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The oldest make room for the new.
    #[default]
    DropOldest,
    /// Publishers are refused until there is room again.
    RefuseNew,
}

/// The wishes, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most bytes of the data directory.
    pub max_bytes: u64,
    /// Bytes that are to stay free on its file system.
    pub keep_free: u64,
    /// Readings older than that go.
    pub max_age: Option<Duration>,
    /// Readings the hub has are kept as long as there is room.
    pub keep_uploaded: bool,
    /// What happens when there is no room.
    pub policy: Policy,
}

/// What the file system holds, and what of it is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes of the whole file system.
    pub total: u64,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes of the journal's own file.
    pub journal: u64,
    /// Bytes of the journal's log.
    pub log: u64,
    /// Bytes of everything else in the data directory that is ours.
    pub others: u64,
}

impl DiskSpace {
    /// Asks the file system.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn measure(dir: &DataDir) -> Result<Self, StoreError> {
        let attempt = Attempt::new("ask for the space at", dir.path());
        let found = statvfs(dir.path()).map_err(|e| attempt.io(e.into()))?;
        let (journal, registry) = (dir.buffer_path(), dir.registry_path());
        let others = [
            companion(&journal, "-shm"),
            companion(&registry, "-wal"),
            companion(&registry, "-shm"),
            dir.ballast_path(),
            registry,
        ];
        Ok(Self {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
            log: bytes(&companion(&journal, "-wal")),
            journal: bytes(&journal),
            others: others.iter().map(|path| bytes(path)).sum(),
        })
    }

    /// Bytes of everything in the data directory that is ours.
    pub fn used(&self) -> u64 {
        self.journal + self.log + self.others
    }
}

impl Budget {
    /// Puts numbers in place of what the wishes leave open.
    ///
    /// `max_bytes`: 1 GiB, but not more than 70 hundredths of what is ours or free now. `keep_free`: 5 hundredths of the
    /// file system, but not less than 2 MiB and not more than 64 MiB, which is plenty on any card.
    pub fn new(wishes: &StorageWishes, disk: &DiskSpace) -> Self {
        let hundredths = |bytes: u64, percent: u64| bytes / 100 * percent;
        let keep_free = match wishes.keep_free {
            Some(FreeSpace::Bytes(bytes)) => bytes,
            Some(FreeSpace::Percent(percent)) => hundredths(disk.total, percent.into()),
            None => hundredths(disk.total, 5).clamp(KEEP_FREE_LEAST, KEEP_FREE),
        };
        let ours = hundredths(disk.used().saturating_add(disk.free), 70);
        Self {
            max_bytes: wishes.max_bytes.unwrap_or(MAX_BYTES.min(ours)),
            keep_free,
            max_age: wishes.max_age,
            keep_uploaded: wishes.keep_uploaded,
            policy: wishes.policy,
        }
    }

    /// How much of it payloads in quarantine may take, and rejected readings, if `wanted` is what they should have.
    pub fn for_set_aside(&self, wanted: u64) -> u64 {
        wanted.min(self.max_bytes / SET_ASIDE_BUDGET_PARTS)
    }
}

/// What the file takes on the disk; one that is not there takes nothing.
fn bytes(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_not_said_follows_the_file_system() {
        let large = DiskSpace { total: 100 * GIB, free: 50 * GIB, ..DiskSpace::default() };
        let budget = Budget::new(&StorageWishes::default(), &large);
        assert_eq!((budget.max_bytes, budget.keep_free), (GIB, 64 << 20));
        assert_eq!((budget.max_age, budget.keep_uploaded, budget.policy), (None, false, Policy::DropOldest));
        let small = DiskSpace { total: 100 << 20, free: 40 << 20, journal: 9 << 20, log: 1 << 20, others: 0 };
        let budget = Budget::new(&StorageWishes::default(), &small);
        assert_eq!((budget.max_bytes >> 20, budget.keep_free >> 20), (35, 5), "of 50 and of 100");
        let tiny = DiskSpace { total: 3 << 20, ..DiskSpace::default() };
        assert_eq!(Budget::new(&StorageWishes::default(), &tiny).keep_free, 2 << 20);
    }

    #[test]
    fn what_is_said_holds() {
        let disk = DiskSpace { total: 1000, free: 1000, ..DiskSpace::default() };
        let wishes = StorageWishes {
            max_bytes: Some(GIB),
            keep_free: Some(FreeSpace::Percent(20)),
            ..StorageWishes::default()
        };
        let budget = Budget::new(&wishes, &disk);
        assert_eq!((budget.max_bytes, budget.keep_free), (GIB, 200));
        assert_eq!((budget.for_set_aside(5), budget.for_set_aside(GIB)), (5, GIB / 16));
        let wishes = StorageWishes { keep_free: Some(FreeSpace::Bytes(7)), ..wishes };
        assert_eq!(Budget::new(&wishes, &disk).keep_free, 7);
    }

    #[test]
    fn the_files_of_the_data_directory_are_counted() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(root.path()).expect("opened");
        assert_eq!(DiskSpace::measure(&dir).expect("measured").used(), 0);
        fs::write(dir.buffer_path(), vec![1; 8192]).expect("written");
        fs::write(dir.registry_path(), vec![1; 4096]).expect("written");
        fs::File::open(dir.buffer_path()).and_then(|file| file.sync_all()).expect("flushed");
        fs::File::open(dir.registry_path()).and_then(|file| file.sync_all()).expect("flushed");
        let disk = DiskSpace::measure(&dir).expect("measured");
        assert!(disk.journal >= 8192 && disk.others >= 4096 && disk.total > disk.used(), "{disk:?}");
    }
}
