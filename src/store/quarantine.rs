//! Payloads that were acknowledged but could not be understood: the newest are kept for people to look at.

use rusqlite::{Connection, Transaction, params};

use super::{
    boots::Boot,
    journal_devices::{Fresh, JournalDevices},
    set_aside::{self, Kind, SetAsideMax},
};
use crate::record::Quarantined;

/// Adds the payloads and drops the oldest beyond `most`; gives back how many were dropped.
pub(super) fn keep(
    transaction: &Transaction<'_>,
    devices: &JournalDevices,
    fresh: &mut Fresh,
    boot: Boot,
    payloads: &[Quarantined],
    most: &SetAsideMax,
) -> rusqlite::Result<u64> {
    if payloads.is_empty() {
        return Ok(0);
    }
    let mut insert = transaction.prepare(
        "INSERT INTO quarantine (device, boot, at_ms, topic, reason, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for payload in payloads {
        let device = devices.number(transaction, fresh, &payload.device)?;
        let at_ms = payload.received.as_millis();
        insert.execute(params![
            device,
            boot.number,
            at_ms,
            payload.topic,
            payload.reason,
            payload.payload
        ])?;
    }
    set_aside::keep_newest(transaction, Kind::Payloads, most)
}

/// How many payloads are kept.
pub(super) fn len(connection: &Connection) -> rusqlite::Result<u64> {
    let rows: i64 = connection.query_row("SELECT count(*) FROM quarantine", [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}
