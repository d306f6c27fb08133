//! Where a simulated machine keeps its databases, and how it opens them.

use std::path::Path;

use forebay::store::{DataDir, StoreOptions};

use crate::disk::Disk;

/// How the databases are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// As in production: others may open them too, the log's index lies in shared memory.
    Shared,
    /// One connection each, the log's index is that connection's own.
    Exclusive,
}

/// The data directory: the same for all machines, since each has a disk of its own. Nothing is ever written there.
pub fn data_dir() -> DataDir {
    DataDir::open(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("cargo makes it")
}

/// The options for databases on `disk`.
pub fn options(disk: &Disk, locking: Locking, quarantine_rows: u32, weakened: bool) -> StoreOptions {
    StoreOptions {
        vfs: Some(disk.vfs()),
        exclusive_locking: locking == Locking::Exclusive,
        quarantine_rows,
        weaken_for_tests: weakened,
        ..StoreOptions::default()
    }
}
