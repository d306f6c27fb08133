//! The one place where SQLite opens a file: flags, locks, durability, schema.
//!
//! Everything else in `store` gets a [`Connection`] from here, so a simulated VFS sees every access to the databases.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{
    error::{Attempt, StoreError},
    private_file,
    schema::Schema,
};
use crate::limits::Limits;

/// How long a connection waits for another process before it gives up.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_POLL: Duration = Duration::from_millis(10);
/// Bytes in a page: a lonely commit dirties as little of the card as SQLite can manage.
const PAGE_SIZE: i64 = 1024;
/// Pages in the write-ahead log at which it is copied into the database and started anew.
pub(super) const WAL_PAGES: i32 = 500;

/// How the databases are opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The SQLite VFS to use instead of real files: no file is made, looked at or advised on outside SQLite.
    pub vfs: Option<&'static str>,
    /// Keeps the databases locked and the log's index in memory, as a VFS without shared memory needs it.
    ///
    /// No other connection can then use the databases.
    pub exclusive_locking: bool,
    /// Payloads kept in quarantine; beyond it the oldest is dropped and counted.
    pub quarantine_rows: u32,
    /// Bytes of them, and of rejected readings as many; as above.
    pub quarantine_bytes: u64,
    /// Commits WITHOUT flushing, so that a crash test can show that it notices the loss; never set it elsewhere.
    #[doc(hidden)]
    pub weaken_for_tests: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let Limits { quarantine_rows, quarantine_bytes, .. } = Limits::default();
        Self {
            vfs: None,
            exclusive_locking: false,
            quarantine_rows,
            quarantine_bytes: quarantine_bytes.into(),
            weaken_for_tests: false,
        }
    }
}

/// Opens `path` for writing, makes or upgrades its schema, and proves that commits will be durable.
///
/// The connection leaves the log alone when it closes until [`checkpoint_on_close`] says otherwise: a database that is
/// refused or doubted keeps its bytes.
pub(super) fn open_writer(
    path: &Path,
    schema: &Schema,
    options: &StoreOptions,
) -> Result<Connection, StoreError> {
    let attempt = Attempt::new(schema.open_action, path);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match options.vfs {
        Some(_) => flags |= OpenFlags::SQLITE_OPEN_CREATE,
        None => private_file::prepare(path)?,
    }
    let mut connection = connect(path, flags, options).map_err(|e| attempt.sql(e))?;
    schema.check(&connection, path)?;
    make_durable(&connection, schema, options).map_err(|e| attempt.sql(e))?;
    schema.migrate(&mut connection, path)?;
    verify_durability(&connection, path, options.weaken_for_tests)?;
    Ok(connection)
}

/// Opens `path` for reading only; the database must exist and have the schema of this build.
pub(super) fn open_reader(
    path: &Path,
    schema: &Schema,
    options: &StoreOptions,
) -> Result<Connection, StoreError> {
    let attempt = Attempt::new(schema.open_action, path);
    if options.vfs.is_none() {
        private_file::refuse_strangers(path)?;
        if !path.exists() {
            return Err(StoreError::NotReady { what: schema.what, path: path.to_owned() });
        }
    }
    // An index in memory is made under an exclusive lock, which a read-only handle cannot take.
    let access = if options.exclusive_locking {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    } else {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags, options).map_err(|e| attempt.sql(e))?;
    connection.execute_batch("PRAGMA query_only=ON").map_err(|e| attempt.sql(e))?;
    if schema.check(&connection, path)? < schema.version() {
        return Err(StoreError::NotReady { what: schema.what, path: path.to_owned() });
    }
    Ok(connection)
}

/// Whether closing the last connection copies the log into the database and removes it.
pub(super) fn checkpoint_on_close(connection: &Connection, wanted: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !wanted).map(drop)
}

/// Copies the log into the database as far as nobody is in the way.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    unless_busy(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
}

/// Copies the whole log into the database, waiting for readers of older states; gives back whether it is there whole.
pub(super) fn checkpoint_whole(connection: &Connection) -> rusqlite::Result<bool> {
    let (busy, pages, copied): (bool, i64, i64) =
        connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    Ok(!busy && copied == pages)
}

/// Takes it for done if only somebody else was in the way.
pub(super) fn unless_busy(outcome: rusqlite::Result<()>) -> rusqlite::Result<()> {
    match outcome {
        Err(error) if is_busy(&error) => Ok(()),
        outcome => outcome,
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn connect(path: &Path, flags: OpenFlags, options: &StoreOptions) -> rusqlite::Result<Connection> {
    let connection = match options.vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    connection.busy_timeout(BUSY_WAIT)?;
    checkpoint_on_close(&connection, false)?;
    if options.exclusive_locking {
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
    }
    connection
        .execute_batch("PRAGMA temp_store=MEMORY; PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF")?;
    Ok(connection)
}

fn make_durable(connection: &Connection, schema: &Schema, options: &StoreOptions) -> rusqlite::Result<()> {
    // Both take effect only on a database that has no page yet. A journal of an older version keeps its size: its free
    // pages are used again, and only rewriting the whole file would give them back.
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    if schema.shrinks {
        connection.execute_batch("PRAGMA auto_vacuum=INCREMENTAL")?;
    }
    switch_to_wal(connection)?;
    let synchronous = if options.weaken_for_tests { "NORMAL" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch(&format!("PRAGMA wal_autocheckpoint={WAL_PAGES}; PRAGMA journal_size_limit=-1"))
}

/// SQLite does not wait for other processes while it switches, so the waiting is done here.
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY_WAIT;
    loop {
        let outcome = connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()));
        match outcome {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < give_up =>
            {
                thread::sleep(BUSY_POLL);
            }
            outcome => return outcome,
        }
    }
}

/// Reads back what decides whether a confirmed commit survives a power cut.
fn verify_durability(connection: &Connection, path: &Path, weakened: bool) -> Result<(), StoreError> {
    let attempt = Attempt::new("read the settings of", path);
    let journal_mode: String =
        connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(|e| attempt.sql(e))?;
    if journal_mode != "wal" {
        return Err(weak(path, "journal_mode", journal_mode, "wal"));
    }
    let synchronous: i64 =
        connection.pragma_query_value(None, "synchronous", |row| row.get(0)).map_err(|e| attempt.sql(e))?;
    if synchronous != 2 && !weakened {
        return Err(weak(path, "synchronous", synchronous.to_string(), "2"));
    }
    let page_size: i64 =
        connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(|e| attempt.sql(e))?;
    if page_size != PAGE_SIZE {
        // As durable, only harder on the card: a copy restored with other tools must not stop the gateway.
        log::warn!("{} has pages of {page_size} bytes, {PAGE_SIZE} would wear the card less", path.display());
    }
    Ok(())
}

fn weak(path: &Path, setting: &'static str, found: String, wanted: &'static str) -> StoreError {
    StoreError::WeakDurability { path: path.to_owned(), setting, found, wanted }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::store::schema::JOURNAL;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buffer.db");
        (dir, path)
    }

    fn pragma(connection: &Connection, name: &str) -> String {
        connection
            .query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get(0).or_else(|_| row.get::<_, i64>(0).map(|n| n.to_string()))
            })
            .expect(name)
    }

    #[test]
    fn a_new_database_is_durable_and_easy_on_the_card() {
        let (_dir, path) = fresh();
        let connection = open_writer(&path, &JOURNAL, &StoreOptions::default()).expect("opened");
        for (name, value) in [
            ("journal_mode", "wal"),
            ("synchronous", "2"),
            ("page_size", "1024"),
            ("auto_vacuum", "2"),
            ("wal_autocheckpoint", "500"),
            ("journal_size_limit", "-1"),
            ("locking_mode", "normal"),
        ] {
            assert_eq!(pragma(&connection, name), value, "{name}");
        }
    }

    #[test]
    fn a_file_system_without_shared_memory_is_refused_unless_locked_for_good() {
        let (_dir, path) = fresh();
        let mut options = StoreOptions { vfs: Some("unix-none"), ..StoreOptions::default() };
        let error = open_writer(&path, &JOURNAL, &options).expect_err("no WAL there");
        assert!(
            matches!(&error, StoreError::WeakDurability { setting: "journal_mode", found, .. } if found == "delete"),
            "{error}"
        );
        options.exclusive_locking = true;
        let connection = open_writer(&path, &JOURNAL, &options).expect("the index is in memory");
        assert_eq!(pragma(&connection, "locking_mode"), "exclusive");
        assert!(!private_file::companion(&path, "-shm").exists());
    }

    #[test]
    fn weaker_flushing_is_refused_unless_a_test_asks_for_it() {
        let (_dir, path) = fresh();
        let connection = open_writer(&path, &JOURNAL, &StoreOptions::default()).expect("opened");
        connection.execute_batch("PRAGMA synchronous=NORMAL").expect("set");
        let error = verify_durability(&connection, &path, false).expect_err("too weak");
        assert!(matches!(error, StoreError::WeakDurability { setting: "synchronous", wanted: "2", .. }));
        let options = StoreOptions { weaken_for_tests: true, ..StoreOptions::default() };
        let weakened = open_writer(&path, &JOURNAL, &options).expect("opened");
        assert_eq!(pragma(&weakened, "synchronous"), "1");
    }

    #[test]
    fn a_database_restored_with_other_pages_is_used_all_the_same() {
        let (_dir, path) = fresh();
        let foreign = Connection::open(&path).expect("opened");
        foreign.execute_batch("PRAGMA page_size=4096; VACUUM").expect("made");
        drop(foreign);
        let connection = open_writer(&path, &JOURNAL, &StoreOptions::default()).expect("opened");
        assert_eq!(pragma(&connection, "page_size"), "4096");
    }

    #[test]
    fn a_reader_cannot_write() {
        let (_dir, path) = fresh();
        for exclusive_locking in [false, true] {
            let options = StoreOptions { exclusive_locking, ..StoreOptions::default() };
            drop(open_writer(&path, &JOURNAL, &options).expect("made"));
            let reader = open_reader(&path, &JOURNAL, &options).expect("opened");
            let error = reader.execute("DELETE FROM journal", []).expect_err("read only");
            assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
        }
    }

    #[test]
    fn garbage_in_place_of_a_database_is_corrupt_and_kept() {
        let (_dir, path) = fresh();
        let garbage = [0xA5; 4096];
        std::fs::write(&path, garbage).expect("written");
        let error = open_writer(&path, &JOURNAL, &StoreOptions::default()).expect_err("no database");
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        assert_eq!(std::fs::read(&path).expect("kept"), garbage);
    }
}
