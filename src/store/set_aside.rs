//! What is set aside, for people to look at: payloads that could not be understood, and readings the hub did not take.

use rusqlite::{Connection, Row, Transaction, params, types::ValueRef};

use super::placement::Placements;
use crate::{
    ids::{DeviceName, Seq},
    limits::{
        ROWS_PER_STEP, SET_ASIDE_BYTES_PER_STEP, SET_ASIDE_BYTES_WHEN_SHORT, SET_ASIDE_ROWS_WHEN_SHORT,
    },
    record::{Placed, SetAsideId},
};

/// Something set aside, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Which.
    pub id: SetAsideId,
    /// Who sent it.
    pub device: DeviceName,
    /// When, as far as that is known.
    pub time: Placed,
    /// Why it was set aside, in words.
    pub reason: String,
    /// Where it was published; a reading had another way.
    pub topic: Option<String>,
    /// The bytes as received, or the values of a reading.
    pub payload: Vec<u8>,
}

/// How much may be set aside of either kind; the newest stays whatever its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetAsideMax {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl SetAsideMax {
    /// While room is to be made for readings.
    pub(super) const WHEN_SHORT: Self =
        Self { rows: SET_ASIDE_ROWS_WHEN_SHORT, bytes: SET_ASIDE_BYTES_WHEN_SHORT };
}

/// Where things are set aside: payloads in quarantine, or readings the hub does not take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Payloads,
    Readings,
}

const PAYLOADS: &str = "
SELECT quarantine.id, devices.name, quarantine.boot, quarantine.at_ms, NULL, quarantine.reason, quarantine.payload,
       quarantine.topic
FROM quarantine LEFT JOIN devices ON devices.device = quarantine.device
WHERE quarantine.id > ?1 ORDER BY quarantine.id LIMIT ?2";

const READINGS: &str = "
SELECT rejected.seq, devices.name, rejected.boot, rejected.at_ms, rejected.device_ts, rejected.reason, rejected.payload,
       NULL
FROM rejected LEFT JOIN devices ON devices.device = rejected.device
WHERE rejected.seq > ?1 ORDER BY rejected.seq LIMIT ?2";

/// The first `rows` after `after`, payloads before readings; damaged rows are left out.
pub(super) fn page(
    connection: &Connection,
    placements: &Placements,
    after: Option<SetAsideId>,
    rows: usize,
) -> rusqlite::Result<Vec<SetAside>> {
    let (payloads_after, readings_after) = match after {
        None => (Some(0), 0),
        Some(SetAsideId::Payload(id)) => (Some(id), 0),
        Some(SetAsideId::Reading(seq)) => (None, seq.0),
    };
    let mut found = Vec::new();
    if let Some(after) = payloads_after {
        read(connection, PAYLOADS, placements, (after, rows), &mut found)?;
    }
    if found.len() < rows {
        let left = rows - found.len();
        read(connection, READINGS, placements, (readings_after, left), &mut found)?;
    }
    Ok(found)
}

/// One of them, if it is there.
pub(super) fn find(
    connection: &Connection,
    placements: &Placements,
    id: SetAsideId,
) -> rusqlite::Result<Option<SetAside>> {
    let after = match id {
        SetAsideId::Payload(0) | SetAsideId::Reading(Seq(0)) => return Ok(None),
        SetAsideId::Payload(number) => SetAsideId::Payload(number - 1),
        SetAsideId::Reading(seq) => SetAsideId::Reading(Seq(seq.0 - 1)),
    };
    let found = page(connection, placements, Some(after), 1)?;
    Ok(found.into_iter().next().filter(|found| found.id == id))
}

/// Removes what was dropped, or is tried again.
pub(super) fn remove(transaction: &Transaction<'_>, over: &[SetAsideId]) -> rusqlite::Result<()> {
    for id in over {
        let (sql, number) = match id {
            SetAsideId::Payload(number) => ("DELETE FROM quarantine WHERE id = ?1", *number),
            SetAsideId::Reading(seq) => ("DELETE FROM rejected WHERE seq = ?1", seq.0),
        };
        transaction.execute(sql, [place(number)])?;
    }
    Ok(())
}

/// Whether more is set aside of either kind than `most`.
pub(super) fn exceeds(connection: &Connection, most: &SetAsideMax) -> rusqlite::Result<bool> {
    Ok(Kind::Payloads.last_over(connection, most)?.is_some()
        || Kind::Readings.last_over(connection, most)?.is_some())
}

/// Drops the oldest of `kind` beyond `most`; gives back how many.
pub(super) fn keep_newest(
    transaction: &Transaction<'_>,
    kind: Kind,
    most: &SetAsideMax,
) -> rusqlite::Result<u64> {
    match kind.last_over(transaction, most)? {
        Some(last) => kind.drop_through(transaction, last),
        None => Ok(0),
    }
}

/// Drops some of the oldest of both kinds beyond `most`, as much as a step may; gives back how many of each.
pub(super) fn shrink(transaction: &Transaction<'_>, most: &SetAsideMax) -> rusqlite::Result<(u64, u64)> {
    let some = |kind: Kind| -> rusqlite::Result<u64> {
        let Some(last) = kind.last_over(transaction, most)? else { return Ok(0) };
        let last = kind.last_of_step(transaction)?.map_or(last, |step| step.min(last));
        kind.drop_through(transaction, last)
    };
    Ok((some(Kind::Payloads)?, some(Kind::Readings)?))
}

impl Kind {
    /// Each place with its bytes. What stands behind a long payload in a row is not asked for: it would have to be read.
    fn sizes(self) -> &'static str {
        match self {
            Self::Payloads => {
                "SELECT id, octet_length(topic) + octet_length(payload) FROM quarantine ORDER BY id"
            }
            Self::Readings => "SELECT seq, octet_length(payload) FROM rejected ORDER BY seq",
        }
    }

    /// The newest that is too much beside those newer than itself.
    fn last_over(self, connection: &Connection, most: &SetAsideMax) -> rusqlite::Result<Option<i64>> {
        let mut statement = connection.prepare_cached(&format!("{} DESC", self.sizes()))?;
        let mut found = statement.query([])?;
        let (mut rows, mut bytes) = (0_u64, 0_u64);
        while let Some(row) = found.next()? {
            rows += 1;
            bytes += row.get::<_, i64>(1)?.unsigned_abs();
            if rows > 1 && (rows > most.rows || bytes > most.bytes) {
                return row.get(0).map(Some);
            }
        }
        Ok(None)
    }

    /// Up to where a step may drop the oldest; `None` if it may drop all.
    fn last_of_step(self, connection: &Connection) -> rusqlite::Result<Option<i64>> {
        let mut statement = connection.prepare_cached(self.sizes())?;
        let mut found = statement.query([])?;
        let (mut rows, mut bytes) = (0, 0);
        while let Some(row) = found.next()? {
            rows += 1;
            bytes += row.get::<_, i64>(1)?.unsigned_abs();
            if rows >= ROWS_PER_STEP || bytes >= SET_ASIDE_BYTES_PER_STEP {
                return row.get(0).map(Some);
            }
        }
        Ok(None)
    }

    fn drop_through(self, transaction: &Transaction<'_>, last: i64) -> rusqlite::Result<u64> {
        let sql = match self {
            Self::Payloads => "DELETE FROM quarantine WHERE id <= ?1",
            Self::Readings => "DELETE FROM rejected WHERE seq <= ?1",
        };
        transaction.prepare_cached(sql)?.execute([last]).map(|rows| rows as u64)
    }
}

fn read(
    connection: &Connection,
    sql: &str,
    placements: &Placements,
    (after, rows): (u64, usize),
    found: &mut Vec<SetAside>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![place(after), place(rows as u64)])?;
    while let Some(row) = rows.next()? {
        found.extend(decode(row, placements));
    }
    Ok(())
}

fn decode(row: &Row<'_>, placements: &Placements) -> Option<SetAside> {
    let integer = |column: usize| row.get_ref(column).ok()?.as_i64().ok();
    let text = |column: usize| row.get_ref(column).ok()?.as_str().ok();
    let topic = match row.get_ref(7).ok()? {
        ValueRef::Null => None,
        value => Some(value.as_str().ok()?.to_owned()),
    };
    let number = u64::try_from(integer(0)?).ok()?;
    let time = match integer(4) {
        Some(ts) => Placed::Given(ts),
        None => placements.place(integer(2)?, integer(3)?)?,
    };
    Some(SetAside {
        id: if topic.is_some() { SetAsideId::Payload(number) } else { SetAsideId::Reading(Seq(number)) },
        device: DeviceName::restored(text(1)?)?,
        time,
        reason: text(5)?.to_owned(),
        topic,
        payload: row.get_ref(6).ok()?.as_bytes().ok()?.to_owned(),
    })
}

fn place(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "set_aside_tests.rs"]
mod tests;
