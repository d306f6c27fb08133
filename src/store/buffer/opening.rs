//! A journal is opened, checked, and told of this boot, before anything is written to it.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, TransactionBehavior, hooks::Wal};

use crate::{
    clock::ClockState,
    ids::Seq,
    store::{
        boots::{self, Boot, BootId, Opening},
        error::{Attempt, StoreError},
        file_identity::OpenedFiles,
        health,
        open::{self, StoreOptions, WAL_PAGES},
        removed::{self, Losses},
        schema::JOURNAL,
        settled,
    },
};

/// Statements kept compiled between commits: more than there are.
const STATEMENTS_KEPT: usize = 64;

/// An open journal that has passed its checks.
pub(super) struct Sound {
    pub(super) connection: Connection,
    pub(super) boot: Boot,
    pub(super) last_seq: Seq,
    pub(super) lost: Losses,
}

pub(super) fn open_sound(
    path: &Path,
    options: &StoreOptions,
    boot_id: &BootId,
    opening: Opening,
    clock: ClockState,
    check_time: Duration,
) -> Result<Sound, StoreError> {
    let attempt = Attempt::new(JOURNAL.open_action, path);
    let mut connection = open::open_writer(path, &JOURNAL, options)?;
    health::quick_check(&mut connection, path, check_time)?;
    // What an earlier run could not flush is written once more, and the log starts anew: a commit must not lean on
    // frames of which the storage may hold less than the kernel's copy says.
    open::checkpoint(&connection).map_err(|e| attempt.sql(e))?;
    let (boot, canary) = begin(&mut connection, boot_id, opening, clock).map_err(|e| attempt.sql(e))?;
    health::expect_canary(&connection, path, canary)?;
    let (last_seq, lost) = read_last_seq(&connection).map_err(|e| attempt.sql(e))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Replaces SQLite's own automatic checkpoint, which keeps its I/O errors to itself.
    connection.wal_hook(Some(checkpoint_long_log)).map_err(|e| attempt.sql(e))?;
    open::checkpoint_on_close(&connection, true).map_err(|e| attempt.sql(e))?;
    Ok(Sound { connection, boot, last_seq, lost })
}

fn begin(
    connection: &mut Connection,
    boot_id: &BootId,
    opening: Opening,
    clock: ClockState,
) -> rusqlite::Result<(Boot, i64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let boot = boots::resume(&transaction, boot_id, opening, clock)?;
    let canary = health::release_canary(&transaction)?;
    transaction.commit()?;
    Ok((boot, canary))
}

fn read_last_seq(connection: &Connection) -> rusqlite::Result<(Seq, Losses)> {
    let last: i64 =
        connection.query_row("SELECT coalesce(max(seq), 0) FROM journal", [], |row| row.get(0))?;
    let in_journal = Seq(u64::try_from(last).unwrap_or(0));
    // Readings may have been removed, and their places are not given again.
    let (removed, lost) = removed::read_removed(connection)?;
    Ok((in_journal.max(settled::last_seq(connection)?).max(removed), lost))
}

pub(super) fn note_files(
    path: &Path,
    options: &StoreOptions,
    earlier: Option<OpenedFiles>,
) -> Result<Option<OpenedFiles>, StoreError> {
    match options.vfs {
        Some(_) => Ok(None),
        None => OpenedFiles::note(path, earlier).map(Some),
    }
}

/// Runs after every commit. An error makes the commit report it, though the batch is on disk: it is then in doubt, and
/// the reopening that follows writes everything of the log again.
fn checkpoint_long_log(wal: &mut Wal, pages: i32) -> rusqlite::Result<()> {
    if pages < WAL_PAGES {
        return Ok(());
    }
    match wal.checkpoint() {
        // The log holds everything and grows a little; the next commit tries again.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
        outcome => open::unless_busy(outcome),
    }
}
