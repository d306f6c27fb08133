//! The marks of devices that are forwarded over connections of their own.
//!
//! A reading of a device that has a mark here is settled by that mark alone; everybody else's is in `settled`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::settled::{self, beyond_text, stretches};
use crate::{
    ids::{DeviceName, Seq},
    record::Settlement,
};

/// Reads all marks; one whose name is damaged is left out.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<BTreeMap<DeviceName, Settlement>> {
    let mut statement = connection.prepare_cached("SELECT name, through, beyond FROM settled_devices")?;
    let mut rows = statement.query([])?;
    let mut marks = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let Ok(name) = DeviceName::parse(&row.get::<_, String>(0)?) else { continue };
        marks.insert(name.clone(), settlement(Some(name), row.get(1)?, &row.get::<_, String>(2)?));
    }
    Ok(marks)
}

/// What is settled of whom, by the journal's numbers of devices.
#[derive(Debug, Default)]
pub(super) struct Marks {
    everybody: Settlement,
    own: BTreeMap<i64, Settlement>,
}

impl Marks {
    /// Reads all marks; `None` if no device has one of its own.
    pub(super) fn read(connection: &Connection, everybody: &Settlement) -> rusqlite::Result<Option<Self>> {
        let mut statement = connection.prepare_cached(
            "SELECT devices.device, marks.through, marks.beyond FROM settled_devices AS marks
             JOIN devices ON devices.name = marks.name",
        )?;
        let mut rows = statement.query([])?;
        let mut own = BTreeMap::new();
        while let Some(row) = rows.next()? {
            own.insert(row.get(0)?, settlement(None, row.get(1)?, &row.get::<_, String>(2)?));
        }
        Ok((!own.is_empty()).then(|| Self { everybody: everybody.clone(), own }))
    }

    /// The place before which everything is settled.
    pub(super) fn lowest(&self) -> Seq {
        self.own.values().chain([&self.everybody]).map(|mark| mark.through).min().unwrap_or_default()
    }

    /// Whether the reading at `seq`, of the device with this number, is settled.
    pub(super) fn covers(&self, device: i64, seq: i64) -> bool {
        let mark = self.own.get(&device).unwrap_or(&self.everybody);
        let seq = settled::seq(seq);
        seq <= mark.through || mark.beyond.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    }
}

/// Writes the mark of `device`, which never goes back; nothing if it has none any more.
pub(super) fn write(
    transaction: &Transaction<'_>,
    device: &DeviceName,
    settlement: &Settlement,
) -> rusqlite::Result<()> {
    let rejected = i64::try_from(settlement.rejected.len()).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "UPDATE settled_devices SET through = max(through, ?2), beyond = ?3, rejected = rejected + ?4
             WHERE name = ?1",
        )?
        .execute(params![
            device.as_str(),
            settled::number(settlement.through),
            beyond_text(settlement),
            rejected
        ])
        .map(drop)
}

/// Gives each of `devices` a mark, where everybody's is; those that have one keep it.
pub(super) fn begin(connection: &mut Connection, devices: &[DeviceName]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let start = settled::read(&transaction)?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO settled_devices (name, through, beyond, rejected) VALUES (?1, ?2, ?3, 0)
         ON CONFLICT (name) DO NOTHING",
    )?;
    for device in devices {
        insert.execute(params![device.as_str(), settled::number(start.through), beyond_text(&start)])?;
    }
    drop(insert);
    transaction.commit()
}

/// Takes the marks of `devices` away, and everybody's back to before the first of their readings that is not settled.
pub(super) fn end(connection: &mut Connection, devices: &[DeviceName]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut marks = read(&transaction)?;
    for device in devices {
        let Some(mark) = marks.remove(device) else { continue };
        let everybody = settled::read(&transaction)?;
        if let Some(first) = first_waiting(&transaction, device, &mark)?
            && (first <= everybody.through || !everybody.beyond.is_empty())
        {
            let through = everybody.through.min(Seq(first.0.saturating_sub(1)));
            transaction
                .prepare_cached("UPDATE settled SET through = ?1, beyond = '' WHERE id = 1")?
                .execute([settled::number(through)])?;
        }
        transaction
            .prepare_cached("DELETE FROM settled_devices WHERE name = ?1")?
            .execute([device.as_str()])?;
    }
    transaction.commit()
}

fn first_waiting(
    transaction: &Transaction<'_>,
    device: &DeviceName,
    mark: &Settlement,
) -> rusqlite::Result<Option<Seq>> {
    let Some(number) = number(transaction, device)? else { return Ok(None) };
    let first: Option<i64> = transaction
        .prepare_cached("SELECT seq FROM journal WHERE seq > ?1 AND device = ?2 ORDER BY seq LIMIT 1")?
        .query_row(params![settled::number(mark.through), number], |row| row.get(0))
        .optional()?;
    Ok(first.map(settled::seq))
}

/// The journal's number of `device`, if it has sent anything.
pub(super) fn number(connection: &Connection, device: &DeviceName) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT device FROM devices WHERE name = ?1")?
        .query_row([device.as_str()], |row| row.get(0))
        .optional()
}

fn settlement(of: Option<DeviceName>, through: i64, beyond: &str) -> Settlement {
    let through = settled::seq(through);
    Settlement { of, through, beyond: stretches(beyond, through), ..Settlement::default() }
}

#[cfg(test)]
#[path = "own_marks_tests.rs"]
mod tests;
