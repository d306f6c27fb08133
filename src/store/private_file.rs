//! Files only their owner may read: made before SQLite opens them, so that SQLite's `-wal` and `-shm` inherit the mode.
//!
//! An existing file is never opened here: closing it again would drop the locks SQLite holds on it in this process.

use std::{
    ffi::OsString,
    fs::{self, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::whole_file::{self, Owner};

use super::error::{Attempt, StoreError};

/// The mode of every file in the data directory.
pub(super) const MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// The file SQLite puts beside `database`: `-wal`, `-shm` or `-journal`.
pub(super) fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// Makes `database` if it is missing, and closes it and its companions to other users.
pub(super) fn prepare(database: &Path) -> Result<(), StoreError> {
    refuse_strangers(database)?;
    for path in family(database) {
        if let Some(metadata) = look(&path)? {
            close_to_others(&path, &metadata)?;
        }
    }
    match look(database)? {
        Some(_) => Ok(()),
        None => create(database),
    }
}

/// Refuses a symbolic link, a directory or a device where `database` or one of its companions belongs.
pub(super) fn refuse_strangers(database: &Path) -> Result<(), StoreError> {
    for path in family(database) {
        let Some(metadata) = look(&path)? else { continue };
        if !metadata.is_file() {
            let what = if metadata.is_symlink() { "a symbolic link" } else { "not a plain file" };
            return Err(StoreError::Unsuitable { path, what });
        }
    }
    Ok(())
}

/// Writes `contents` to `path`, whole or not at all, for the directory's owner only, and on disk when this returns.
pub(super) fn write_whole(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    whole_file::replace(path, contents, MODE, Owner::OfDirectory)
        .map_err(|error| Attempt::new("write", path).io(error))
}

/// Makes the names beside `path` durable.
pub(super) fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    whole_file::sync_directory_of(path).map_err(|e| Attempt::new("flush the directory of", path).io(e))
}

fn family(database: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-journal"].map(|suffix| companion(database, suffix))
}

fn look(path: &Path) -> Result<Option<Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Attempt::new("look at", path).io(error)),
    }
}

fn close_to_others(path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(MODE)) {
        Ok(()) => log::warn!("closed {} to other users, its mode was {mode:04o}", path.display()),
        // SQLite of another process removes its companions when it closes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Attempt::new("close to other users", path).io(error)),
    }
    Ok(())
}

fn create(path: &Path) -> Result<(), StoreError> {
    let attempt = Attempt::new("create", path);
    let file = match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
        Ok(file) => file,
        // Another process made it first, in the same way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(attempt.io(error)),
    };
    // A umask can only have taken rights away; the owner needs both.
    file.set_permissions(Permissions::from_mode(MODE)).map_err(|e| attempt.io(e))?;
    sync_directory_of(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buffer.db");
        prepare(&path).expect("made");
        assert_eq!(mode(&path), 0o600);
        prepare(&path).expect("a second time");
    }

    #[test]
    fn an_existing_file_and_its_companions_are_closed_to_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buffer.db");
        for file in [path.clone(), companion(&path, "-wal"), companion(&path, "-shm")] {
            fs::write(&file, "x").expect("written");
            fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("opened to others");
        }
        prepare(&path).expect("prepared");
        for file in [path.clone(), companion(&path, "-wal"), companion(&path, "-shm")] {
            assert_eq!(mode(&file), 0o600);
            assert_eq!(fs::read(&file).expect("readable"), b"x");
        }
    }

    #[test]
    fn a_symbolic_link_in_place_of_any_file_is_refused_and_not_followed() {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let dir = tempfile::tempdir().expect("a directory");
            let (path, target) = (dir.path().join("buffer.db"), dir.path().join("victim"));
            symlink(&target, companion(&path, suffix)).expect("a link");
            let error = prepare(&path).expect_err("a link");
            assert!(matches!(&error, StoreError::Unsuitable { what: "a symbolic link", .. }), "{error}");
            assert!(!target.exists());
        }
    }

    #[test]
    fn a_directory_in_place_of_the_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buffer.db");
        fs::create_dir(&path).expect("a directory");
        assert!(matches!(prepare(&path), Err(StoreError::Unsuitable { what: "not a plain file", .. })));
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = prepare(&dir.path().join("gone/buffer.db")).expect_err("no directory");
        assert!(
            matches!(&error, StoreError::Io(_)) && error.to_string().contains("gone/buffer.db"),
            "{error}"
        );
    }
}
