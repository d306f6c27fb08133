//! The directory everything durable lives in, and the lock a running broker holds on it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    error::{Attempt, StoreError},
    private_file,
};
use crate::whole_file;

const MODE: u32 = 0o700;
const OTHERS: u32 = 0o077;

/// The data directory; it exists, and it is known whether others may look into it.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// Held by a running broker; dropping it lets the next one start.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDir {
    /// Makes the directory at `path` if it is missing (mode 0700), and warns if an existing one is open to others.
    ///
    /// # Errors
    /// If it cannot be made, or something else stands there.
    pub fn open(path: &Path) -> Result<DataDir, StoreError> {
        if let Err(StoreError::NotReady { .. }) = Self::open_existing(path) {
            create(path)?;
        }
        Self::open_existing(path)
    }

    /// Like [`DataDir::open`], for commands that only read: a missing directory is an error and is not made.
    ///
    /// # Errors
    /// [`StoreError::NotReady`] if it is missing; others if it is not a directory or cannot be looked at.
    pub fn open_existing(path: &Path) -> Result<DataDir, StoreError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotReady { what: "data directory", path: path.to_owned() });
            }
            Err(error) => return Err(Attempt::new("look at the data directory", path).io(error)),
        };
        if !metadata.is_dir() {
            return Err(StoreError::Unsuitable { path: path.to_owned(), what: "not a directory" });
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 {
            let path = path.display();
            log::warn!(
                "the data directory {path} is open to other users (mode {mode:04o}), try `chmod 700 {path}`"
            );
        }
        Ok(DataDir { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database of devices.
    pub fn registry_path(&self) -> PathBuf {
        self.path.join("registry.db")
    }

    /// The database of readings.
    pub fn buffer_path(&self) -> PathBuf {
        self.path.join("buffer.db")
    }

    /// The tokens of devices that are forwarded as themselves.
    pub fn kept_tokens_path(&self) -> PathBuf {
        self.path.join("uplink-tokens")
    }

    /// The file that holds space for when there is no other.
    pub fn ballast_path(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes the directory for one running broker, until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process, or this one, holds it.
    pub fn lock(&self) -> Result<DataDirLock, StoreError> {
        let path = self.path.join("forebay.lock");
        let attempt = Attempt::new("lock", &path);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(StoreError::Unsuitable { path, what: "not a plain file" });
        }
        let mut options = OpenOptions::new();
        // Not truncated: until the lock is ours, the process id in the file is the other one's.
        let options = options.read(true).write(true).create(true).truncate(false).mode(private_file::MODE);
        options.custom_flags(whole_file::NO_LINK);
        let mut file = options.open(&path).map_err(|e| attempt.io(e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { dir: self.path.clone(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(attempt.io(error)),
        }
        write_pid(&mut file).map_err(|e| attempt.io(e))?;
        Ok(DataDirLock { _file: file })
    }
}

fn create(path: &Path) -> Result<(), StoreError> {
    let attempt = Attempt::new("create the data directory", path);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| attempt.io(e))?;
    DirBuilder::new().mode(MODE).create(path).map_err(|e| attempt.io(e))?;
    // A umask can only have taken rights away; the owner needs all three.
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(|e| attempt.io(e))?;
    private_file::sync_directory_of(path)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o7777
    }

    #[test]
    fn a_missing_directory_is_made_for_its_owner_only_with_its_parents() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("var/forebay");
        let dir = DataDir::open(&path).expect("made");
        assert_eq!((dir.path(), mode(&path)), (path.as_path(), 0o700));
    }

    #[test]
    fn an_existing_directory_keeps_its_mode() {
        let root = tempfile::tempdir().expect("a directory");
        fs::set_permissions(root.path(), Permissions::from_mode(0o750)).expect("set");
        DataDir::open(root.path()).expect("opened");
        assert_eq!(mode(root.path()), 0o750);
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("file");
        fs::write(&path, "").expect("written");
        assert!(matches!(DataDir::open(&path), Err(StoreError::Unsuitable { what: "not a directory", .. })));
    }

    #[test]
    fn a_command_that_only_reads_does_not_make_the_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("gone");
        assert!(matches!(DataDir::open_existing(&path), Err(StoreError::NotReady { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn a_second_broker_is_told_which_process_holds_the_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(root.path()).expect("opened");
        let lock = dir.lock().expect("the first");
        let text = dir.lock().expect_err("the second").to_string();
        let holder = format!("another forebay is running on it (process {})", std::process::id());
        assert!(text.contains(&holder) && text.contains(&root.path().display().to_string()), "{text}");
        assert!(text.contains("stop that one first"), "{text}");
        drop(lock);
        dir.lock().expect("free again");
    }

    #[test]
    fn the_lock_file_is_private_and_no_link_is_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(root.path()).expect("opened");
        let path = root.path().join("forebay.lock");
        drop(dir.lock().expect("locked"));
        assert_eq!(mode(&path), 0o600);
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(root.path().join("victim"), &path).expect("a link");
        assert!(matches!(dir.lock(), Err(StoreError::Unsuitable { .. })));
        assert!(!root.path().join("victim").exists());
    }
}
