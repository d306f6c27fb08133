//! A disk in memory that loses power, fills up and fails, and that SQLite takes for real.
//!
//! Every change goes through `storage.rs`: it is counted, may be made to fail, and is kept in a log. What was not
//! flushed when the power went is lost as `loss.rs` says. `vfs.rs` is the bridge to SQLite.

mod file;
mod locks;
mod loss;
mod storage;
mod troubles;
mod vfs;

pub use loss::Loss;
pub use storage::{Change, Content, Storage};
pub use troubles::{Call, DiskError, Lasting, Trouble};

use std::{
    ffi::CString,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use vfs::Drive;

/// Drives whose disks are gone, to be used again: SQLite's list of VFSs stays short.
static SPARE: Mutex<Spare> = Mutex::new(Spare { drives: Vec::new(), made: 0 });

struct Spare {
    drives: Vec<&'static Drive>,
    made: usize,
}

/// One machine's disk. No file on it may be open when it is dropped.
pub struct Disk {
    drive: &'static Drive,
}

impl Disk {
    /// An empty disk whose chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let drive = spare.drives.pop().unwrap_or_else(|| {
            spare.made += 1;
            let name = CString::new(format!("simulated-{}", spare.made)).expect("no zero in it");
            Drive::register(Box::leak(name.into_boxed_c_str()))
        });
        *drive.storage() = Storage::new(seed);
        Self { drive }
    }

    /// A disk that holds `content`.
    pub fn with_content(seed: u64, content: Content) -> Self {
        let disk = Self::new(seed);
        disk.storage().content = content;
        disk
    }

    /// The name of its VFS.
    pub fn vfs(&self) -> &'static str {
        self.drive.name()
    }

    /// The disk itself; let go of it before SQLite is called.
    pub fn storage(&self) -> MutexGuard<'_, Storage> {
        self.drive.storage()
    }
}

impl Disk {
    /// Does what the program does to `database` and its log before it opens them: the kernel's copy is dropped, and the
    /// log's index, which other processes may keep alive, is to be built anew.
    pub fn forget_cached(&self, database: &Path) {
        let file = {
            let content = &mut self.storage().content;
            content.forget_cache();
            content.file_named(&database.to_string_lossy())
        };
        if let Some(file) = file {
            self.drive.forget_index(file);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A drive with open files is not used again: after a failed test, somebody may still hold them.
        if self.storage().is_closed() {
            *self.storage() = Storage::new(0);
            SPARE.lock().unwrap_or_else(PoisonError::into_inner).drives.push(self.drive);
        }
    }
}
