//! Retention while some devices have marks of their own: which readings are settled has no end in common any more, so
//! each is looked at, a bounded number in a step.

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    own_marks::Marks,
    removed::{Losses, note_boot, note_removed},
    retention::{Front, House, Housekeeping, Orders, ROWS_KEPT, SWEEP_ROWS, SWEEP_WAIT, Why},
};
use crate::clock::Mono;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Did {
    /// Readings were removed or looked through: there may be more.
    Something,
    /// Nothing is to be removed now.
    Nothing {
        /// Settled readings wait at the front until they are worth a commit.
        is_settled: bool,
    },
}

/// Where the search for settled readings behind others has come to.
#[derive(Debug, Default)]
pub(super) struct Search {
    next: i64,
    /// The journal was searched to its end: not again before then.
    again: Option<Mono>,
}

/// A reading's place, and whether it is settled.
type Looked = (i64, bool);

/// Does one step.
pub(super) fn step(
    connection: &mut Connection,
    house: &mut House,
    orders: &Orders<'_>,
    front: &Front<'_>,
    (too_old, needs_room): (Option<i64>, bool),
    marks: &Marks,
    done: &mut Housekeeping,
) -> rusqlite::Result<Did> {
    let rows_max = usize::try_from(front.rows_max).unwrap_or(usize::MAX);
    let window = look(connection, front.first, front.rows_max.max(SWEEP_ROWS), marks)?;
    let settled = window.iter().take_while(|(_, is_settled)| *is_settled).count();
    let waits_long = house.swept.is_some_and(|swept| orders.now.since(swept) >= SWEEP_WAIT);
    let is_due = (waits_long || settled as i64 >= SWEEP_ROWS) && !orders.budget.keep_uploaded;
    if settled > 0 && (needs_room || is_due) {
        house.swept = Some(orders.now);
        remove(connection, &window[..settled.min(rows_max)], Why::Uploaded, front, done)?;
        return Ok(Did::Something);
    }
    let up_to = |last: i64| window.iter().take(rows_max).take_while(|(seq, _)| *seq <= last).count();
    if let Some(last) = too_old {
        remove(connection, &window[..up_to(last)], Why::TooOld, front, done)?;
        return Ok(Did::Something);
    }
    if !needs_room {
        return Ok(Did::Nothing { is_settled: settled > 0 });
    }
    if let Some(behind) = search(connection, &mut house.search, orders.now, front, marks)? {
        if !behind.is_empty() {
            remove(connection, &behind, Why::Uploaded, front, done)?;
        }
        return Ok(Did::Something);
    }
    let may_drop = house.may_drop(orders);
    let droppable = up_to(front.last - ROWS_KEPT);
    if may_drop && droppable > 0 {
        remove(connection, &window[..droppable], Why::NoSpace, front, done)?;
        return Ok(Did::Something);
    }
    Ok(Did::Nothing { is_settled: false })
}

/// Settled readings among the next to be looked at; `None` if all were looked at not long ago.
fn search(
    connection: &Connection,
    search: &mut Search,
    now: Mono,
    front: &Front<'_>,
    marks: &Marks,
) -> rusqlite::Result<Option<Vec<Looked>>> {
    if search.again.is_some_and(|again| now < again) {
        return Ok(None);
    }
    let mut window = look(connection, search.next.max(front.first), front.rows_max, marks)?;
    match window.last() {
        Some((last, _)) if *last < front.last => {
            search.next = last + 1;
            search.again = None;
        }
        _ => *search = Search { next: 0, again: Some(now + SWEEP_WAIT) },
    }
    window.retain(|(_, is_settled)| *is_settled);
    Ok(Some(window))
}

fn look(connection: &Connection, from: i64, rows_max: i64, marks: &Marks) -> rusqlite::Result<Vec<Looked>> {
    let mut statement =
        connection.prepare_cached("SELECT seq, device FROM journal WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = statement.query(params![from, rows_max])?;
    let mut looked = Vec::new();
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        looked.push((seq, marks.covers(row.get(1)?, seq)));
    }
    Ok(looked)
}

/// Removes readings in one transaction; those that are not settled are counted as lost.
fn remove(
    connection: &mut Connection,
    rows: &[Looked],
    why: Why,
    front: &Front<'_>,
    done: &mut Housekeeping,
) -> rusqlite::Result<()> {
    let Some((last, _)) = rows.last() else { return Ok(()) };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if *last >= front.last {
        note_boot(&transaction, *last)?;
    }
    let mut delete = transaction.prepare_cached("DELETE FROM journal WHERE seq = ?1")?;
    for (seq, _) in rows {
        delete.execute([seq])?;
    }
    drop(delete);
    let waiting = rows.iter().filter(|(_, is_settled)| !is_settled).count() as u64;
    let lost = match why {
        Why::Uploaded => Losses::default(),
        Why::TooOld => Losses { too_old: waiting, ..Losses::default() },
        Why::NoSpace => Losses { no_space: waiting, ..Losses::default() },
    };
    note_removed(&transaction, *last, &lost)?;
    transaction.commit()?;
    done.uploaded = rows.len() as u64 - waiting;
    done.lost = lost;
    Ok(())
}
