//! What went wrong with the store, in words for people and in variants for callers.
//!
//! A message says what was tried, on which path, what happened and what to try. It never holds a token or a payload.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use rusqlite::{ErrorCode, ffi};

use crate::ids::DeviceName;

/// Why the store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Another running forebay holds the data directory.
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The other one's process id, if it could be read.
        pid: Option<u32>,
    },
    /// No device and no client of this name is registered.
    NotFound {
        /// The name asked for.
        name: DeviceName,
    },
    /// A device or a client of this name is registered already.
    DuplicateName {
        /// The name asked for.
        name: DeviceName,
    },
    /// The token belongs to another device or client; which one is not said, since the token would then open it.
    DuplicateToken,
    /// The database has not been made yet, or its schema has not been brought up to date yet.
    NotReady {
        /// What the database is to people: "journal" or "registry".
        what: &'static str,
        /// Its file.
        path: PathBuf,
    },
    /// The database was written by a newer version; it is left untouched.
    NewerSchema {
        /// What the database is to people.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The schema found.
        found: i64,
        /// The newest schema this build knows.
        known: i64,
    },
    /// The file is a database of some other program.
    Foreign {
        /// What the database should have been.
        what: &'static str,
        /// Its file.
        path: PathBuf,
    },
    /// Something other than a plain file or directory stands where one is needed.
    Unsuitable {
        /// Where.
        path: PathBuf,
        /// What stands there, as the end of "it is ...".
        what: &'static str,
    },
    /// A file was deleted, moved or replaced while it was open: what was written to it may be gone.
    Moved {
        /// The file.
        path: PathBuf,
    },
    /// The database would not keep what it confirms.
    WeakDurability {
        /// The database's file.
        path: PathBuf,
        /// The SQLite setting that is too weak.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The value needed.
        wanted: &'static str,
    },
    /// The journal was closed after a failed write and has not been reopened yet.
    Closed {
        /// The journal's file.
        path: PathBuf,
    },
    /// The file system is full, or a quota is reached.
    Full(Failure),
    /// The operating system or the storage refused.
    Io(Failure),
    /// The database holds something it cannot hold.
    Corrupt(Failure),
    /// Another program kept the database locked for too long.
    Busy(Failure),
    /// Anything else SQLite reported.
    Other(Failure),
}

/// What was tried, on what, and what happened.
#[derive(Debug)]
pub struct Failure {
    /// What was tried, as the end of "cannot ...".
    pub action: &'static str,
    /// The file or directory it was tried on.
    pub path: PathBuf,
    /// What happened.
    pub cause: Box<dyn Error + Send + Sync>,
}

/// An action about to be tried on a path: turns whatever goes wrong into a [`StoreError`].
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) action: &'static str,
    pub(super) path: &'a Path,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(action: &'static str, path: &'a Path) -> Self {
        Self { action, path }
    }

    pub(super) fn sql(self, error: rusqlite::Error) -> StoreError {
        let variant = sql_variant(&error);
        variant(self.failure(Box::new(error)))
    }

    pub(super) fn io(self, error: io::Error) -> StoreError {
        let variant = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
            _ => StoreError::Io,
        };
        variant(self.failure(Box::new(error)))
    }

    pub(super) fn corrupt(self, found: String) -> StoreError {
        StoreError::Corrupt(self.failure(found.into()))
    }

    fn failure(self, cause: Box<dyn Error + Send + Sync>) -> Failure {
        Failure { action: self.action, path: self.path.to_owned(), cause }
    }
}

fn sql_variant(error: &rusqlite::Error) -> fn(Failure) -> StoreError {
    // Growing the -shm file reports a full file system as an I/O error of its own kind.
    if error.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_IOERR_SHMSIZE) {
        return StoreError::Full;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::NoLargeFileSupport,
        ) => StoreError::Io,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            StoreError::Busy
        }
        _ => StoreError::Other,
    }
}

impl Failure {
    fn explain(&self, f: &mut fmt::Formatter<'_>, advice: &str) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.action, self.path.display(), self.cause)?;
        let code = self.cause.downcast_ref().and_then(rusqlite::Error::sqlite_error).map(|e| e.extended_code);
        if let Some(code) = code {
            write!(f, " (SQLite code {code})")?;
        }
        write!(f, "; {advice}")
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { dir, pid } => {
                write!(f, "cannot use the data directory {}: another forebay is running on it", dir.display())?;
                if let Some(pid) = pid {
                    write!(f, " (process {pid})")?;
                }
                f.write_str("; stop that one first, or point `data_dir` at another directory")
            }
            Self::NotFound { name } => {
                write!(f, "no device or client is named {name}; check the spelling against the list")
            }
            Self::DuplicateName { name } => write!(f, "a device or client named {name} exists already; choose another name"),
            Self::DuplicateToken => f.write_str("this token belongs to another device or client already; choose another token"),
            Self::NotReady { what, path } => write!(
                f,
                "cannot read the {what} {}: it has not been made yet; start the broker once, \
                 or point `data_dir` at the directory it uses",
                path.display()
            ),
            Self::NewerSchema { what, path, found, known } => write!(
                f,
                "cannot open the {what} {}: it was written by a newer version (schema {found}, this build \
                 knows {known}); upgrade this build, or point `data_dir` at another directory",
                path.display()
            ),
            Self::Foreign { what, path } => write!(
                f,
                "cannot open the {what} {}: it is a database of another program; move it away, \
                 or point `data_dir` at another directory",
                path.display()
            ),
            Self::Unsuitable { path, what } => {
                write!(f, "cannot use {}: it is {what}; move it away and try again", path.display())
            }
            Self::Moved { path } => write!(
                f,
                "cannot trust {}: it was deleted, moved or replaced while it was open; \
                 stop forebay before touching the files of its data directory",
                path.display()
            ),
            Self::WeakDurability { path, setting, found, wanted } => write!(
                f,
                "cannot open {}: its {setting} is {found} and must be {wanted}, or acknowledged readings could be \
                 lost; put the data directory on a local file system",
                path.display()
            ),
            Self::Closed { path } => write!(
                f,
                "cannot use the journal {}: it was closed after a failed write; it must be reopened first",
                path.display()
            ),
            Self::Full(failure) => {
                failure.explain(f, "free some space there, or point `data_dir` at another file system")
            }
            Self::Io(failure) => failure.explain(
                f,
                "check that the files belong to the user forebay runs as, that the file system is not mounted \
                 read-only, and `dmesg` for errors of the storage",
            ),
            Self::Corrupt(failure) => failure.explain(
                f,
                "keep a copy of the file, then restore it from a backup, or move it away so that a new one is made",
            ),
            Self::Busy(failure) => failure.explain(f, "close the other program that uses it, and try again"),
            Self::Other(failure) => failure.explain(f, "if trying again does not help, please report it"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Full(failure)
            | Self::Io(failure)
            | Self::Corrupt(failure)
            | Self::Busy(failure)
            | Self::Other(failure) => Some(failure.cause.as_ref()),
            Self::InUse { .. }
            | Self::NotFound { .. }
            | Self::DuplicateName { .. }
            | Self::DuplicateToken
            | Self::NotReady { .. }
            | Self::NewerSchema { .. }
            | Self::Foreign { .. }
            | Self::Unsuitable { .. }
            | Self::Moved { .. }
            | Self::WeakDurability { .. }
            | Self::Closed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(code: i32) -> StoreError {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("what SQLite says".into()));
        Attempt::new("append to the journal", Path::new("/d/buffer.db")).sql(error)
    }

    #[test]
    fn the_codes_of_sqlite_are_sorted_by_what_a_caller_can_do() {
        assert!(matches!(sqlite(ffi::SQLITE_FULL), StoreError::Full(_)));
        assert!(matches!(sqlite(ffi::SQLITE_IOERR_SHMSIZE), StoreError::Full(_)));
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_CANTOPEN, ffi::SQLITE_READONLY, ffi::SQLITE_PERM] {
            assert!(matches!(sqlite(code), StoreError::Io(_)), "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(sqlite(code), StoreError::Corrupt(_)), "{code}");
        }
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_LOCKED, ffi::SQLITE_PROTOCOL] {
            assert!(matches!(sqlite(code), StoreError::Busy(_)), "{code}");
        }
        assert!(matches!(sqlite(ffi::SQLITE_CONSTRAINT_PRIMARYKEY), StoreError::Other(_)));
    }

    #[test]
    fn a_full_file_system_is_told_from_other_failures_of_the_operating_system() {
        let attempt = Attempt::new("create the data directory", Path::new("/d"));
        assert!(matches!(attempt.io(io::ErrorKind::StorageFull.into()), StoreError::Full(_)));
        assert!(matches!(attempt.io(io::ErrorKind::QuotaExceeded.into()), StoreError::Full(_)));
        assert!(matches!(attempt.io(io::ErrorKind::PermissionDenied.into()), StoreError::Io(_)));
    }

    #[test]
    fn a_failure_says_what_was_tried_on_what_what_happened_and_what_to_try() {
        let text = sqlite(ffi::SQLITE_FULL).to_string();
        assert_eq!(
            text,
            "cannot append to the journal /d/buffer.db: what SQLite says (SQLite code 13); free some space there, \
             or point `data_dir` at another file system"
        );
        assert_eq!(sqlite(ffi::SQLITE_FULL).source().expect("a cause").to_string(), "what SQLite says");
    }

    #[test]
    fn every_message_is_one_sentence_in_lower_case_with_advice() {
        let (path, dir) = (PathBuf::from("/d/buffer.db"), PathBuf::from("/d"));
        let name = DeviceName::parse("pump").expect("valid");
        let what = "journal";
        let attempt = Attempt::new("read the journal", &path);
        let all = [
            StoreError::InUse { dir, pid: Some(7) },
            StoreError::NotFound { name: name.clone() },
            StoreError::DuplicateName { name },
            StoreError::DuplicateToken,
            StoreError::NotReady { what, path: path.clone() },
            StoreError::NewerSchema { what, path: path.clone(), found: 7, known: 5 },
            StoreError::Foreign { what, path: path.clone() },
            StoreError::Unsuitable { path: path.clone(), what: "a symbolic link" },
            StoreError::Moved { path: path.clone() },
            StoreError::WeakDurability {
                path: path.clone(),
                setting: "synchronous",
                found: "1".into(),
                wanted: "2",
            },
            StoreError::Closed { path: path.clone() },
            sqlite(ffi::SQLITE_FULL),
            sqlite(ffi::SQLITE_IOERR),
            attempt.corrupt("row 7 is damaged".into()),
            sqlite(ffi::SQLITE_BUSY),
            sqlite(ffi::SQLITE_ERROR),
        ];
        for error in all {
            let text = error.to_string();
            assert!(text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('.'), "{text}");
            assert!(text.contains("; ") && !text.contains('\n') && !text.contains("  "), "{text}");
        }
    }
}
