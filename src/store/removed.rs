//! What was removed from the journal: through which place, how many readings were lost by it, and the end of a boot.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::ids::Seq;

/// Readings lost, by reason; totals since the journal was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Older than `max_age`.
    pub too_old: u64,
    /// No room for them.
    pub no_space: u64,
    /// Rejected by the hub, and no room for them among the rejected.
    pub rejected: u64,
}

impl Losses {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.too_old + self.no_space + self.rejected
    }
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, more: Self) {
        self.too_old += more.too_old;
        self.no_space += more.no_space;
        self.rejected += more.rejected;
    }
}

/// How long its boot lasted is known from the last reading, which is to be removed.
pub(super) fn note_boot(transaction: &Transaction<'_>, last: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE boots SET seen_ms = max(seen_ms, (SELECT at_ms FROM journal WHERE seq = ?1))
             WHERE boot = (SELECT boot FROM journal WHERE seq = ?1)",
        )?
        .execute([last])
        .map(drop)
}

/// Notes through which place readings were removed, and how many of them are lost.
pub(super) fn note_removed(
    transaction: &Transaction<'_>,
    through: i64,
    lost: &Losses,
) -> rusqlite::Result<()> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "INSERT INTO removed (id, through, too_old, no_space, rejected) VALUES (1, ?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET through = max(through, excluded.through),
             too_old = too_old + excluded.too_old, no_space = no_space + excluded.no_space,
             rejected = rejected + excluded.rejected",
        )?
        .execute(params![through, number(lost.too_old), number(lost.no_space), number(lost.rejected)])
        .map(drop)
}

/// Reads through which place readings were removed, and how many are lost.
pub(super) fn read_removed(connection: &Connection) -> rusqlite::Result<(Seq, Losses)> {
    let row = connection
        .query_row("SELECT through, too_old, no_space, rejected FROM removed WHERE id = 1", [], |row| {
            let number = |column: usize| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
            let lost = Losses { too_old: number(1)?, no_space: number(2)?, rejected: number(3)? };
            Ok((Seq(number(0)?), lost))
        })
        .optional()?;
    Ok(row.unwrap_or_default())
}
