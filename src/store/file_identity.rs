//! Whether the journal's files still are the ones that were opened.
//!
//! SQLite keeps confirming commits to a file that was deleted under it, and the data is gone at the next start.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, OFlags, fadvise};

use super::{
    error::{Attempt, StoreError},
    private_file::companion,
};

/// The header of the index of a log, two copies of it; all zeros mean that there is none yet.
const INDEX_HEADER_BYTES: u64 = 96;

/// The database file and its write-ahead log, as they were opened.
///
/// The handles stay open for the journal's whole life: closing one on the database would drop the locks that SQLite
/// holds on that file for every connection of this process.
#[derive(Debug)]
pub(super) struct OpenedFiles {
    database: OpenedFile,
    wal: OpenedFile,
}

#[derive(Debug)]
struct OpenedFile {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
}

impl OpenedFiles {
    /// Takes down which files stand at the paths now; called right after SQLite opened them.
    ///
    /// `earlier` is what was taken down before a reopen; a database file that is still the same keeps its handle.
    pub(super) fn note(database: &Path, earlier: Option<OpenedFiles>) -> Result<Self, StoreError> {
        let database = match earlier {
            Some(earlier) if earlier.database.is_in_place()? => earlier.database,
            _ => OpenedFile::note(database.to_owned())?,
        };
        let wal = OpenedFile::note(companion(&database.path, "-wal"))?;
        Ok(Self { database, wal })
    }

    /// Checks that both paths still lead to the files that were opened.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        for opened in [&self.database, &self.wal] {
            if !opened.is_in_place()? {
                return Err(StoreError::Moved { path: opened.path.clone() });
            }
        }
        Ok(())
    }

    /// Whether the log's name is gone while the database is in place: its content can still be saved.
    pub(super) fn only_wal_is_missing(&self) -> bool {
        self.database.is_in_place().unwrap_or(false) && !self.wal.path.exists()
    }

    /// Makes the kernel forget what it has read of both files, so that what is read next comes from the storage.
    ///
    /// After a failed flush the kernel's copy may differ from the storage, and it is marked as if it did not.
    pub(super) fn forget_cached(&self) {
        for opened in [&self.database, &self.wal] {
            forget(&opened.file, &opened.path);
        }
    }
}

/// Makes whoever opens `database` next take its log from the storage alone: the kernel forgets what it has read of it,
/// and the log's index counts as not made yet.
///
/// The index lives on in another process's reader, and may list what was never flushed: the reader has found it in the
/// kernel's copy. SQLite would read what lies in its place as pages, without looking at their checksums; when it makes
/// the index anew, it does look. No connection of this process may be open: closing a file drops its locks.
pub(super) fn forget_log(database: &Path) -> Result<(), StoreError> {
    forget_cached_wal(database);
    let path = companion(database, "-shm");
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let overwritten = options.open(&path).and_then(|index| match index.metadata()?.len() {
        0..INDEX_HEADER_BYTES => Ok(()),
        _ => index.write_all_at(&[0; INDEX_HEADER_BYTES as usize], 0),
    });
    match overwritten {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Attempt::new("start anew the index", &path).io(error))
        }
        _ => Ok(()),
    }
}

/// Makes the kernel forget what it has read of the log beside `database`, if there is one.
///
/// For a start after a failure of an earlier run. The log carries no locks, so its handle may be closed again.
pub(super) fn forget_cached_wal(database: &Path) {
    if let Ok(wal) = File::open(companion(database, "-wal")) {
        forget(&wal, database);
    }
}

fn forget(file: &File, path: &Path) {
    if let Err(error) = fadvise(file, 0, None, Advice::DontNeed) {
        log::debug!("the kernel keeps its copy of {}: {error}", path.display());
    }
}

impl OpenedFile {
    fn note(path: PathBuf) -> Result<Self, StoreError> {
        let opened = File::open(&path).and_then(|file| Ok((identity(&file.metadata()?), file)));
        match opened {
            Ok((identity, file)) => Ok(Self { path, file, identity }),
            Err(error) => Err(Attempt::new("look at", &path).io(error)),
        }
    }

    fn is_in_place(&self) -> Result<bool, StoreError> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) => Ok(found.nlink() > 0 && identity(&found) == self.identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Attempt::new("look at", &self.path).io(error)),
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, PathBuf, PathBuf, OpenedFiles) {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("buffer.db");
        let wal = companion(&database, "-wal");
        fs::write(&database, "d").expect("written");
        fs::write(&wal, "w").expect("written");
        let opened = OpenedFiles::note(&database, None).expect("opened");
        (dir, database, wal, opened)
    }

    #[test]
    fn files_in_place_pass() {
        let (_dir, _, _, opened) = files();
        opened.verify().expect("in place");
        opened.forget_cached();
        assert!(!opened.only_wal_is_missing());
    }

    #[test]
    fn a_deleted_file_is_noticed() {
        for victim in [0, 1] {
            let (_dir, database, wal, opened) = files();
            let path = [database, wal][victim].clone();
            fs::remove_file(&path).expect("removed");
            assert!(matches!(opened.verify(), Err(StoreError::Moved { path: found }) if found == path));
            assert_eq!(opened.only_wal_is_missing(), victim == 1);
        }
    }

    #[test]
    fn a_replaced_file_is_noticed_even_with_the_same_bytes() {
        let (dir, database, _, opened) = files();
        let copy = dir.path().join("copy");
        fs::copy(&database, &copy).expect("copied");
        fs::rename(&copy, &database).expect("put in its place");
        assert!(matches!(opened.verify(), Err(StoreError::Moved { .. })));
    }

    #[test]
    fn a_database_still_in_place_keeps_its_handle() {
        use std::os::fd::AsRawFd;
        let (_dir, database, wal, opened) = files();
        let handle = opened.database.file.as_raw_fd();
        fs::remove_file(&wal).expect("removed");
        fs::write(&wal, "new").expect("written");
        let again = OpenedFiles::note(&database, Some(opened)).expect("opened");
        assert_eq!(again.database.file.as_raw_fd(), handle);
        again.verify().expect("in place");
    }
}
