//! A batch becomes one transaction.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::{
    ids::Seq,
    session::Batch,
    store::{
        boots::Boot,
        checksum::JournalRow,
        journal_devices::{Fresh, JournalDevices},
        quarantine, sessions,
        set_aside::{self, SetAsideMax},
        settled,
    },
};

/// What a committed batch has changed besides the journal.
pub(super) struct Committed {
    pub(super) fresh: Fresh,
    /// Payloads dropped from quarantine.
    pub(super) dropped: u64,
    /// Rejected readings dropped.
    pub(super) rejected_dropped: u64,
}

pub(super) fn commit(
    connection: &mut Connection,
    devices: &JournalDevices,
    boot: Boot,
    set_aside_max: &SetAsideMax,
    batch: &Batch,
) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut fresh = Fresh::default();
    write_records(&transaction, devices, &mut fresh, boot, batch)?;
    let dropped =
        quarantine::keep(&transaction, devices, &mut fresh, boot, &batch.quarantined, set_aside_max)?;
    sessions::apply(&transaction, boot, &batch.changes)?;
    let mut rejected_dropped = 0;
    for settlement in &batch.settlements {
        rejected_dropped += settled::write(&transaction, settlement, set_aside_max)?;
    }
    set_aside::remove(&transaction, &batch.over)?;
    transaction.commit()?;
    Ok(Committed { fresh, dropped, rejected_dropped })
}

pub(super) fn assert_consecutive(last_seq: Seq, batch: &Batch) {
    let mut expected = last_seq;
    for record in &batch.records {
        expected = expected.next();
        assert!(record.seq == expected, "reading {} came where {} belongs", record.seq.0, expected.0);
    }
}

fn write_records(
    transaction: &Transaction<'_>,
    devices: &JournalDevices,
    fresh: &mut Fresh,
    boot: Boot,
    batch: &Batch,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO journal (seq, device, boot, at_ms, device_ts, payload, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for record in &batch.records {
        let row = JournalRow {
            seq: i64::try_from(record.seq.0).expect("a reading per nanosecond takes 292 years to get there"),
            device: devices.number(transaction, fresh, &record.device)?,
            boot: boot.number,
            at_ms: record.received.as_millis(),
            device_ts: record.device_ts,
            payload: record.values.as_bytes(),
        };
        let checksum = row.checksum();
        insert.execute(params![
            row.seq,
            row.device,
            row.boot,
            row.at_ms,
            row.device_ts,
            record.values,
            checksum
        ])?;
    }
    Ok(())
}
