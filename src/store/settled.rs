//! What became of readings at the hub: the mark, and the readings the hub does not take.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    own_marks,
    removed::{self, Losses},
    set_aside::{self, Kind, SetAsideMax},
};
use crate::{
    ids::Seq,
    record::{Rejected, Settlement},
};

/// Reads the mark back. A damaged one stands for nothing settled beyond what its numbers still say: what is sent twice
/// is the same reading at the hub.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Settlement> {
    let row: Option<(i64, String)> = connection
        .query_row("SELECT through, beyond FROM settled WHERE id = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (through, beyond) = row.unwrap_or_default();
    let through = seq(through);
    Ok(Settlement { through, beyond: stretches(&beyond, through), ..Settlement::default() })
}

/// The stretches as text.
pub(super) fn beyond_text(settlement: &Settlement) -> String {
    let stretches: Vec<String> =
        settlement.beyond.iter().map(|(first, last)| format!("{}-{}", first.0, last.0)).collect();
    stretches.join(",")
}

/// Writes the mark, which never goes back, and sets the rejected readings aside; gives back how many were dropped from
/// there.
pub(super) fn write(
    transaction: &Transaction<'_>,
    settlement: &Settlement,
    most: &SetAsideMax,
) -> rusqlite::Result<u64> {
    if let Some(device) = &settlement.of {
        own_marks::write(transaction, device, settlement)?;
        return copy_aside(transaction, &settlement.rejected, most);
    }
    transaction
        .prepare_cached(
            "INSERT INTO settled (id, through, beyond, rejected) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET through = max(through, excluded.through), beyond = excluded.beyond,
             rejected = rejected + excluded.rejected",
        )?
        .execute(params![
            number(settlement.through),
            beyond_text(settlement),
            i64::try_from(settlement.rejected.len()).unwrap_or(i64::MAX)
        ])?;
    own_marks::forget_if_caught_up(transaction)?;
    copy_aside(transaction, &settlement.rejected, most)
}

/// Copies readings out of the journal, before anything deletes them there.
fn copy_aside(
    transaction: &Transaction<'_>,
    rejected: &[Rejected],
    most: &SetAsideMax,
) -> rusqlite::Result<u64> {
    if rejected.is_empty() {
        return Ok(0);
    }
    let mut copy = transaction.prepare_cached(
        "INSERT OR REPLACE INTO rejected (seq, device, boot, at_ms, device_ts, payload, reason)
         SELECT seq, device, boot, at_ms, device_ts, payload, ?2 FROM journal WHERE seq = ?1",
    )?;
    for reading in rejected {
        copy.execute(params![number(reading.seq), reading.reason])?;
    }
    let dropped = set_aside::keep_newest(transaction, Kind::Readings, most)?;
    if dropped > 0 {
        removed::note_removed(transaction, 0, &Losses { rejected: dropped, ..Losses::default() })?;
    }
    Ok(dropped)
}

/// How many readings the hub did not take are kept.
pub(super) fn rejected_len(connection: &Connection) -> rusqlite::Result<u64> {
    let rows: i64 = connection.query_row("SELECT count(*) FROM rejected", [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}

/// The largest place the mark speaks of: no reading may get it again.
pub(super) fn last_seq(connection: &Connection) -> rusqlite::Result<Seq> {
    Ok(own_marks::last(&read(connection)?).max(own_marks::last_seq(connection)?))
}

pub(super) fn stretches(text: &str, through: Seq) -> Vec<(Seq, Seq)> {
    let mut found: Vec<(Seq, Seq)> = Vec::new();
    for stretch in text.split(',').filter_map(|stretch| stretch.split_once('-')) {
        let (Ok(first), Ok(last)) = (stretch.0.parse(), stretch.1.parse()) else { continue };
        let end = found.last().map_or(through, |(_, last)| *last);
        if Seq(first) > end && first <= last {
            found.push((Seq(first), Seq(last)));
        }
    }
    found
}

pub(super) fn seq(number: i64) -> Seq {
    Seq(u64::try_from(number).unwrap_or(0))
}

pub(super) fn number(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}
