//! The marks of devices that are forwarded over connections of their own.
//!
//! A reading of a device that has a mark here is settled by that mark alone; everybody else's is in `settled`.
//!
//! When such a mark ends, what waits of the device becomes the business of everybody's uplink, which may be millions of
//! readings further on. Nobody looks for the first that waits: the journal has no index for it. Everybody's mark goes back
//! to the mark that ends, and everybody's uplink goes through the journal from there, a bounded page in each turn. Until it
//! has come to where both had been, it *catches up*: the ended mark stays, and beside everybody's mark stands what it was
//! before. A reading is then settled
//!
//! * of a device whose mark has ended: by that mark, or by everybody's;
//! * of a device with a mark of its own: by that mark alone, as ever;
//! * of anybody else: by everybody's mark as it was before, or as it is now.
//!
//! So nothing is lost: everybody's mark alone says which places were looked at since, and it begins no later than any mark
//! that has ended. Nothing is sent twice either, but for what was on its way and for stretches that there is no room to
//! remember: the uplink is not given what is settled, takes it for absent, and settles it as well. And each device's
//! readings go in order, for those that wait are found from the front. Another mark may end, or begin, meanwhile: what is
//! settled by either of two marks then becomes the one that is kept. All of it is on disk in the transaction that moves
//! everybody's mark, so a power cut at any moment changes nothing.

use std::{cmp::Reverse, collections::BTreeMap};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::settled::{self, beyond_text, stretches};
use crate::{
    ids::{DeviceName, Seq},
    limits::UPLINK_STRETCHES,
    record::Settlement,
};

/// Reads the marks that have not ended; one whose name is damaged is left out.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<BTreeMap<DeviceName, Settlement>> {
    read_all(connection, false)
}

fn read_all(connection: &Connection, ended: bool) -> rusqlite::Result<BTreeMap<DeviceName, Settlement>> {
    let mut statement =
        connection.prepare_cached("SELECT name, through, beyond FROM settled_devices WHERE ended = ?1")?;
    let mut rows = statement.query([ended])?;
    let mut marks = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let Ok(name) = DeviceName::parse(&row.get::<_, String>(0)?) else { continue };
        marks.insert(name.clone(), settlement(Some(name), row.get(1)?, &row.get::<_, String>(2)?));
    }
    Ok(marks)
}

/// The largest place any mark speaks of, those included that are kept while everybody's catches up.
pub(super) fn last_seq(connection: &Connection) -> rusqlite::Result<Seq> {
    let catch_up = CatchUp::read(connection)?;
    let own = read_all(connection, false)?.into_values().chain(read_all(connection, true)?.into_values());
    Ok(own.map(|mark| last(&mark)).max().unwrap_or_default().max(last(&catch_up.others)))
}

/// What is settled of whom, by the journal's numbers of devices.
#[derive(Debug, Default)]
pub(super) struct Marks {
    everybody: Settlement,
    own: BTreeMap<i64, Settlement>,
}

impl Marks {
    /// Reads all marks; `None` if everybody's says it all.
    pub(super) fn read(connection: &Connection, everybody: &Settlement) -> rusqlite::Result<Option<Self>> {
        let catch_up = CatchUp::read(connection)?;
        let mut own = by_number(connection, true)?;
        own.values_mut().for_each(|mark| *mark = union(mark, everybody));
        own.append(&mut by_number(connection, false)?);
        let is_needed = catch_up.is_on() || !own.is_empty();
        Ok(is_needed.then(|| Self { everybody: union(everybody, &catch_up.others), own }))
    }

    /// What everybody's uplink is not to be given while it catches up; `None` if it does not.
    pub(super) fn while_catching_up(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let catch_up = CatchUp::read(connection)?;
        if !catch_up.is_on() {
            return Ok(None);
        }
        Ok(Some(Self { everybody: catch_up.others, own: by_number(connection, true)? }))
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

fn by_number(connection: &Connection, ended: bool) -> rusqlite::Result<BTreeMap<i64, Settlement>> {
    let mut statement = connection.prepare_cached(
        "SELECT devices.device, marks.through, marks.beyond FROM settled_devices AS marks
         JOIN devices ON devices.name = marks.name WHERE marks.ended = ?1",
    )?;
    let mut rows = statement.query([ended])?;
    let mut marks = BTreeMap::new();
    while let Some(row) = rows.next()? {
        marks.insert(row.get(0)?, settlement(None, row.get(1)?, &row.get::<_, String>(2)?));
    }
    Ok(marks)
}

/// What is kept beside everybody's mark while it catches up.
#[derive(Debug, Default)]
struct CatchUp {
    /// What is settled of devices without a mark, ended or not, beside what everybody's says.
    others: Settlement,
    /// Where it ends; zero while there is none.
    through: Seq,
}

impl CatchUp {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let row: Option<(i64, String, i64)> = connection
            .prepare_cached(
                "SELECT others_through, others_beyond, catches_up_through FROM settled WHERE id = 1",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let (others, beyond, through) = row.unwrap_or_default();
        Ok(Self { others: settlement(None, others, &beyond), through: settled::seq(through) })
    }

    fn is_on(&self) -> bool {
        self.through > Seq(0)
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
             WHERE name = ?1 AND ended = 0",
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
    let everybody = settled::read(&transaction)?;
    let start = union(&everybody, &CatchUp::read(&transaction)?.others);
    let ended = read_all(&transaction, true)?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO settled_devices (name, through, beyond, rejected) VALUES (?1, ?2, ?3, 0)
         ON CONFLICT (name) DO UPDATE SET through = excluded.through, beyond = excluded.beyond, ended = 0
         WHERE ended = 1",
    )?;
    for device in devices {
        let mark = ended.get(device).map_or_else(|| start.clone(), |mark| union(mark, &everybody));
        insert.execute(params![device.as_str(), settled::number(mark.through), beyond_text(&mark)])?;
    }
    drop(insert);
    transaction.commit()
}

/// Ends the marks of `devices`: everybody's goes back to the first of them, and catches up.
pub(super) fn end(connection: &mut Connection, devices: &[DeviceName]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let own = read(&transaction)?;
    let ending: Vec<&Settlement> = devices.iter().filter_map(|device| own.get(device)).collect();
    let everybody = settled::read(&transaction)?;
    let Some(first) = ending.iter().map(|mark| mark.through).min() else { return Ok(()) };
    // Of marks that ended before, what everybody's has added since is not to be forgotten as it goes back.
    for (device, mark) in read_all(&transaction, true)? {
        let mark = union(&mark, &everybody);
        transaction
            .prepare_cached("UPDATE settled_devices SET through = ?2, beyond = ?3 WHERE name = ?1")?
            .execute(params![device.as_str(), settled::number(mark.through), beyond_text(&mark)])?;
    }
    let mut statement = transaction.prepare_cached("UPDATE settled_devices SET ended = 1 WHERE name = ?1")?;
    for device in devices {
        statement.execute([device.as_str()])?;
    }
    drop(statement);
    let catch_up = CatchUp::read(&transaction)?;
    let others = union(&everybody, &catch_up.others);
    let ends = ending.into_iter().chain([&others]).map(last);
    transaction
        .prepare_cached(
            "INSERT INTO settled (id, through, beyond, rejected, others_through, others_beyond, catches_up_through)
             VALUES (1, ?1, '', 0, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET through = excluded.through, beyond = excluded.beyond,
             others_through = excluded.others_through, others_beyond = excluded.others_beyond,
             catches_up_through = excluded.catches_up_through",
        )?
        .execute(params![
            settled::number(everybody.through.min(first)),
            settled::number(others.through),
            beyond_text(&others),
            settled::number(ends.fold(catch_up.through, Seq::max)),
        ])?;
    forget_if_caught_up(&transaction)?;
    transaction.commit()
}

/// Once everybody's mark has caught up, it alone says what is settled of all who have none.
pub(super) fn forget_if_caught_up(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let caught_up = transaction
        .prepare_cached(
            "UPDATE settled SET others_through = 0, others_beyond = '', catches_up_through = 0
             WHERE catches_up_through > 0 AND through >= catches_up_through",
        )?
        .execute([])?;
    if caught_up > 0 {
        transaction.prepare_cached("DELETE FROM settled_devices WHERE ended = 1")?.execute([])?;
    }
    Ok(())
}

/// What is settled by either; of stretches, the longest, as many as are kept.
fn union(one: &Settlement, other: &Settlement) -> Settlement {
    let mut stretches: Vec<(Seq, Seq)> = one.beyond.iter().chain(&other.beyond).copied().collect();
    stretches.sort_unstable();
    let mut through = one.through.max(other.through);
    let mut beyond: Vec<(Seq, Seq)> = Vec::new();
    for (first, last) in stretches {
        let end = beyond.last_mut().map_or(&mut through, |(_, end)| end);
        if first <= end.next() {
            *end = last.max(*end);
        } else {
            beyond.push((first, last));
        }
    }
    if beyond.len() > UPLINK_STRETCHES {
        beyond.sort_unstable_by_key(|(first, last)| Reverse(last.0 - first.0));
        beyond.truncate(UPLINK_STRETCHES);
        beyond.sort_unstable();
    }
    Settlement { of: None, through, beyond, rejected: Vec::new() }
}

/// The largest place `mark` speaks of.
pub(super) fn last(mark: &Settlement) -> Seq {
    mark.beyond.last().map_or(mark.through, |(_, last)| *last).max(mark.through)
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
