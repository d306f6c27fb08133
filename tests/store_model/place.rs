//! Where SQLite keeps its files: on a simulated disk, which costs nothing, or on the real one.

use std::path::Path;

use forebay::store::{DataDir, StoreOptions};

use crate::disk::Disk;

pub enum Place {
    Simulated(Disk),
    Real(tempfile::TempDir),
}

impl Place {
    pub fn dir(&self) -> DataDir {
        let path = match self {
            Self::Simulated(_) => Path::new(env!("CARGO_TARGET_TMPDIR")),
            Self::Real(dir) => dir.path(),
        };
        DataDir::open(path).expect("it is there")
    }

    pub fn options(&self) -> StoreOptions {
        let vfs = match self {
            Self::Simulated(disk) => Some(disk.vfs()),
            Self::Real(_) => None,
        };
        StoreOptions { vfs, ..StoreOptions::default() }
    }
}
