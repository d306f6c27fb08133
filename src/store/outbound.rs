//! Readings for the uplink, in order, each with its time.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row, params, types::ValueRef};

use super::{
    checksum::JournalRow,
    own_marks::{self, Marks},
    placement::Placements,
};
use crate::{
    ids::{DeviceName, Seq},
    limits::UPLINK_PAGE_LOOKED_AT,
    record::{Outbound, Placed},
};

/// Which readings are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The place before the first.
    pub after: Seq,
    /// The last place.
    pub through: Seq,
    /// Most readings.
    pub rows_max: usize,
    /// Bytes of values after which to stop; the first reading is given whatever its size.
    pub bytes_max: usize,
}

/// Whose readings are wanted; of all but one device's, those that are known to be settled are left out.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// Everybody's.
    Everybody,
    /// Those of one device.
    Only(&'a DeviceName),
    /// Those of all but these.
    AllBut(&'a BTreeSet<DeviceName>),
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The readings, in the order of their places.
    pub readings: Vec<Outbound>,
    /// Up to here there are no others.
    pub looked_through: Seq,
}

/// Reads a stretch; damaged rows are left out, and counted in the second part.
pub(super) fn read(
    connection: &Connection,
    placements: &Placements,
    whose: &Whose<'_>,
    stretch: &Stretch,
) -> rusqlite::Result<(Found, u64)> {
    let settled = match whose {
        Whose::Only(_) => None,
        Whose::Everybody | Whose::AllBut(_) => Marks::while_catching_up(connection)?,
    };
    let through = match whose {
        Whose::Everybody if settled.is_none() => stretch.through,
        Whose::Everybody | Whose::Only(_) | Whose::AllBut(_) => reach(connection, stretch)?,
    };
    let number = match whose {
        Whose::Only(device) => match own_marks::number(connection, device)? {
            Some(number) => Some(number),
            // It has never sent anything.
            None => return Ok((Found { looked_through: stretch.through, ..Found::default() }, 0)),
        },
        Whose::Everybody | Whose::AllBut(_) => None,
    };
    let mut statement = connection.prepare_cached(
        "SELECT journal.seq, journal.device, journal.boot, journal.at_ms, journal.device_ts, journal.payload,
                journal.checksum, devices.name
         FROM journal LEFT JOIN devices ON devices.device = journal.device
         WHERE journal.seq > ?1 AND journal.seq <= ?2 AND (?3 IS NULL OR journal.device = ?3) ORDER BY journal.seq",
    )?;
    let mut rows = statement.query(params![place(stretch.after), place(through), number])?;
    let (mut readings, mut bytes, mut damaged) = (Vec::new(), 0, 0);
    while readings.len() < stretch.rows_max && bytes < stretch.bytes_max {
        let Some(row) = rows.next()? else {
            return Ok((Found { readings, looked_through: through }, damaged));
        };
        let is_settled = settled.as_ref().is_some_and(|settled| is_settled(settled, row));
        if is_settled || whose.leaves_out(row) {
            continue;
        }
        // A damaged page can give rows twice, or out of order.
        let in_order = |reading: &Outbound| {
            let before = readings.last().map_or(stretch.after, |before: &Outbound| before.seq);
            before < reading.seq && reading.seq <= through
        };
        match decode(row, placements).filter(in_order) {
            Some(reading) => {
                bytes += reading.values.len();
                readings.push(reading);
            }
            None => damaged += 1,
        }
    }
    let looked_through = readings.last().map_or(stretch.after, |reading: &Outbound| reading.seq);
    Ok((Found { readings, looked_through }, damaged))
}

impl Whose<'_> {
    fn leaves_out(&self, row: &Row<'_>) -> bool {
        let Self::AllBut(devices) = self else { return false };
        let name = row.get_ref(7).ok().and_then(|name| name.as_str().ok());
        name.and_then(DeviceName::restored).is_some_and(|name| devices.contains(&name))
    }
}

fn is_settled(settled: &Marks, row: &Row<'_>) -> bool {
    let integer = |column: usize| row.get_ref(column).ok()?.as_i64().ok();
    integer(0).zip(integer(1)).is_some_and(|(seq, device)| settled.covers(device, seq))
}

/// How far to look at once: places that were given up long ago cost nothing.
fn reach(connection: &Connection, stretch: &Stretch) -> rusqlite::Result<Seq> {
    let first: Option<i64> = connection
        .prepare_cached("SELECT min(seq) FROM journal WHERE seq > ?1")?
        .query_row([place(stretch.after)], |row| row.get(0))?;
    let end = first.map_or(u64::MAX, |first| first.unsigned_abs().saturating_add(UPLINK_PAGE_LOOKED_AT));
    Ok(stretch.through.min(Seq(end)))
}

fn place(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

fn decode(row: &Row<'_>, placements: &Placements) -> Option<Outbound> {
    let integer = |column: usize| row.get_ref(column).ok()?.as_i64().ok();
    let device_ts = match row.get_ref(4).ok()? {
        ValueRef::Null => None,
        value => Some(value.as_i64().ok()?),
    };
    let payload = row.get_ref(5).ok()?.as_bytes().ok()?;
    let (seq, device, boot, at_ms) = (integer(0)?, integer(1)?, integer(2)?, integer(3)?);
    let summed = JournalRow { seq, device, boot, at_ms, device_ts, payload };
    if summed.checksum() != integer(6)? {
        return None;
    }
    let time = match device_ts {
        Some(ts) => Placed::Given(ts),
        None => placements.place(boot, at_ms)?,
    };
    Some(Outbound {
        seq: Seq(u64::try_from(seq).ok()?),
        device: DeviceName::restored(row.get_ref(7).ok()?.as_str().ok()?)?,
        time,
        values: str::from_utf8(payload).ok()?.to_owned(),
    })
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
