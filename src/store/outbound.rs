//! Readings for the uplink, in order, each with its time.

use rusqlite::{Connection, Row, params, types::ValueRef};

use super::{checksum::JournalRow, placement::Placements};
use crate::{
    ids::{DeviceName, Seq},
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

/// Reads a stretch; damaged rows are left out, and counted in the second part.
pub(super) fn read(
    connection: &Connection,
    placements: &Placements,
    stretch: &Stretch,
) -> rusqlite::Result<(Vec<Outbound>, u64)> {
    let place = |seq: Seq| i64::try_from(seq.0).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT journal.seq, journal.device, journal.boot, journal.at_ms, journal.device_ts, journal.payload,
                journal.checksum, devices.name
         FROM journal LEFT JOIN devices ON devices.device = journal.device
         WHERE journal.seq > ?1 AND journal.seq <= ?2 ORDER BY journal.seq",
    )?;
    let mut rows = statement.query(params![place(stretch.after), place(stretch.through)])?;
    let (mut found, mut bytes, mut damaged) = (Vec::new(), 0, 0);
    while found.len() < stretch.rows_max && bytes < stretch.bytes_max {
        let Some(row) = rows.next()? else { break };
        match decode(row, placements) {
            Some(reading) => {
                bytes += reading.values.len();
                found.push(reading);
            }
            None => damaged += 1,
        }
    }
    Ok((found, damaged))
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
        device: DeviceName::parse(row.get_ref(7).ok()?.as_str().ok()?).ok()?,
        time,
        values: str::from_utf8(payload).ok()?.to_owned(),
    })
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
