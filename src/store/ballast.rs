//! Space put by: a file that is given up when the disk is full, so that what waits can still be written and uploaded.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{
    budget::{Budget, DiskSpace},
    data_dir::DataDir,
    error::{Attempt, StoreError},
    private_file,
};

/// Its size; less on a file system of which that would be more than a sixteenth.
const BYTES: u64 = 8 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The file, if it is there.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
    is_there: bool,
}

impl Ballast {
    /// Takes over what an earlier run has left; nothing is made yet.
    pub fn find(dir: &DataDir, disk: &DiskSpace) -> Self {
        let (path, bytes) = (dir.ballast_path(), BYTES.min(disk.total / 16));
        let is_there = fs::symlink_metadata(&path).is_ok_and(|found| is_whole(&found, bytes));
        Self { path, bytes, is_there }
    }

    /// Whether there is something to give up.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// Makes the file if it is not there and the budget leaves room for it on the disk; gives back whether it was made.
    ///
    /// # Errors
    /// If it cannot be made; what was begun of it is removed.
    pub fn make(&mut self, budget: &Budget, disk: &DiskSpace) -> Result<bool, StoreError> {
        let has_room = disk.free >= budget.keep_free.saturating_add(self.bytes);
        if self.is_there || self.bytes == 0 || !has_room {
            return Ok(false);
        }
        let attempt = Attempt::new("put space by in", &self.path);
        self.remove().map_err(|e| attempt.io(e))?;
        if let Err(error) = allocate(&self.path, self.bytes) {
            // What it says of the first error is enough.
            let _ = self.remove();
            return Err(attempt.io(error));
        }
        self.is_there = true;
        Ok(true)
    }

    /// Gives the space up; gives back whether there was any. Needs no space itself.
    pub fn release(&mut self) -> bool {
        if !self.is_there {
            return false;
        }
        self.is_there = false;
        if let Err(error) = self.remove() {
            log::warn!("cannot give up the space in {}: {error}", self.path.display());
            return false;
        }
        // Freed blocks may count as used until the file system has written down that they are free.
        if let Err(error) = private_file::sync_directory_of(&self.path) {
            log::debug!("{error}");
        }
        true
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A file with holes holds no space.
fn is_whole(found: &fs::Metadata, bytes: u64) -> bool {
    found.is_file() && found.len() == bytes && found.blocks().saturating_mul(512) >= bytes
}

fn allocate(path: &std::path::Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(private_file::MODE).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(&mut file, bytes),
        outcome => outcome.map_err(Into::into),
    }
}

fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let portion = left.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..portion as usize])?;
        left -= portion;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::{Policy, StorageWishes};

    const MIB: u64 = 1 << 20;

    fn place() -> (tempfile::TempDir, DataDir) {
        let root = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(root.path()).expect("opened");
        (root, dir)
    }

    fn budget() -> Budget {
        let wishes = StorageWishes { policy: Policy::RefuseNew, ..StorageWishes::default() };
        Budget { keep_free: 10 * MIB, ..Budget::new(&wishes, &DiskSpace::default()) }
    }

    #[test]
    fn it_is_really_allocated_for_its_owner_only_and_found_again() {
        let (_root, dir) = place();
        let disk = DiskSpace { total: 1 << 30, free: 18 * MIB, ..DiskSpace::default() };
        let mut ballast = Ballast::find(&dir, &disk);
        assert!(!ballast.is_there() && !ballast.release());
        assert!(ballast.make(&budget(), &disk).expect("made"));
        let found = fs::metadata(dir.ballast_path()).expect("a file");
        assert_eq!((found.len(), found.permissions().mode() & 0o777), (8 * MIB, 0o600));
        assert!(found.blocks() * 512 >= 8 * MIB);
        assert!(Ballast::find(&dir, &disk).is_there());
        assert!(!ballast.make(&budget(), &disk).expect("there already"));
        assert!(ballast.release() && !dir.ballast_path().exists());
        assert!(!ballast.release());
    }

    #[test]
    fn it_is_not_made_of_space_that_is_to_stay_free() {
        let (_root, dir) = place();
        let disk = DiskSpace { total: 1 << 30, free: 18 * MIB - 1, ..DiskSpace::default() };
        let mut ballast = Ballast::find(&dir, &disk);
        assert!(!ballast.make(&budget(), &disk).expect("not tried"));
        assert!(!dir.ballast_path().exists());
    }

    #[test]
    fn on_a_small_file_system_it_is_small() {
        let (_root, dir) = place();
        let disk = DiskSpace { total: 32 * MIB, free: 20 * MIB, ..DiskSpace::default() };
        let mut ballast = Ballast::find(&dir, &disk);
        assert!(ballast.make(&budget(), &disk).expect("made"));
        assert_eq!(fs::metadata(dir.ballast_path()).expect("a file").len(), 2 * MIB);
    }

    #[test]
    fn a_file_with_holes_is_made_anew() {
        let (_root, dir) = place();
        let disk = DiskSpace { total: 1 << 30, free: 1 << 30, ..DiskSpace::default() };
        File::create(dir.ballast_path()).and_then(|file| file.set_len(8 * MIB)).expect("a hole");
        let mut ballast = Ballast::find(&dir, &disk);
        assert!(!ballast.is_there() && ballast.make(&budget(), &disk).expect("made"));
        assert!(fs::metadata(dir.ballast_path()).expect("a file").blocks() > 0);
    }

    #[test]
    fn without_fallocate_it_is_written() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("ballast");
        let mut file = File::create(&path).expect("made");
        fill(&mut file, 100_000).expect("written");
        assert!(is_whole(&fs::metadata(&path).expect("a file"), 100_000));
    }
}
