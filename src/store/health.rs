//! Whether an opened journal deserves trust: a look over its pages, and a canary that must come back from disk.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, Transaction};

use super::error::{Attempt, StoreError};

/// Pages looked over between two looks at the time; a card may need a millisecond for each.
const STEPS_PER_LOOK: i32 = 50;

/// Looks over the pages for at most `time`; what was not reached by then is not judged.
pub(super) fn quick_check(
    connection: &mut Connection,
    path: &Path,
    time: Duration,
) -> Result<(), StoreError> {
    let attempt = Attempt::new("check the journal", path);
    let end = Instant::now() + time;
    connection
        .progress_handler(STEPS_PER_LOOK, Some(move || Instant::now() >= end))
        .map_err(|e| attempt.sql(e))?;
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    connection.progress_handler(0, None::<fn() -> bool>).map_err(|e| attempt.sql(e))?;
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(attempt.corrupt(verdict.replace('\n', ", "))),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            log::info!("the journal {} was found sound as far as it was looked over", path.display());
            Ok(())
        }
        Err(error) => Err(attempt.sql(error)),
    }
}

/// Writes the next canary; it counts once the transaction has committed.
pub(super) fn release_canary(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    transaction.query_row("UPDATE health SET canary = canary + 1 WHERE id = 1 RETURNING canary", [], |row| {
        row.get(0)
    })
}

/// Reads the canary back.
pub(super) fn expect_canary(connection: &Connection, path: &Path, canary: i64) -> Result<(), StoreError> {
    let attempt = Attempt::new("read back from the journal", path);
    let found: i64 = connection
        .query_row("SELECT canary FROM health WHERE id = 1", [], |row| row.get(0))
        .map_err(|e| attempt.sql(e))?;
    match found == canary {
        true => Ok(()),
        false => Err(attempt.corrupt(format!("wrote {canary} and read {found}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::store::{StoreOptions, open, schema::JOURNAL};

    /// A journal of some hundred pages with one page in the middle overwritten.
    fn damaged() -> (tempfile::TempDir, PathBuf, Connection) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buffer.db");
        let connection = open::open_writer(&path, &JOURNAL, &StoreOptions::default()).expect("made");
        connection
            .execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                 INSERT INTO journal SELECT i, 1, 1, i, NULL, '{\"temperature\":21.5}', 0 FROM n;
                 PRAGMA wal_checkpoint(TRUNCATE)",
            )
            .expect("filled");
        drop(connection);
        let mut bytes = fs::read(&path).expect("read");
        bytes[100 * 1024..101 * 1024].fill(0xFF);
        fs::write(&path, bytes).expect("written");
        let connection = open::open_writer(&path, &JOURNAL, &StoreOptions::default()).expect("opened");
        (dir, path, connection)
    }

    #[test]
    fn a_damaged_page_is_found() {
        let (_dir, path, mut connection) = damaged();
        let error = quick_check(&mut connection, &path, Duration::from_secs(60)).expect_err("damaged");
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    }

    #[test]
    fn a_check_that_runs_out_of_time_does_not_condemn() {
        let (_dir, path, mut connection) = damaged();
        quick_check(&mut connection, &path, Duration::ZERO).expect("not judged");
        let rows: i64 = connection.query_row("SELECT 1", [], |row| row.get(0)).expect("the handler is gone");
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_canary_that_does_not_come_back_is_reported() {
        let mut connection = Connection::open_in_memory().expect("opened");
        let path = Path::new("/d/buffer.db");
        JOURNAL.migrate(&mut connection, path).expect("made");
        let transaction = connection.transaction().expect("begun");
        let canary = release_canary(&transaction).expect("released");
        transaction.commit().expect("committed");
        expect_canary(&connection, path, canary).expect("back");
        let error = expect_canary(&connection, path, canary + 1).expect_err("another bird");
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    }
}
