//! The journal's own small numbers for devices, given in the transaction that first needs them.
//!
//! Apart from the registry on purpose: readings outlive their device, and a broken registry does not touch them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::ids::DeviceName;

/// Numbers remembered between batches; beyond it all are forgotten and read again.
const REMEMBERED_MAX: usize = 4096;

/// Numbers known to be on disk.
#[derive(Debug, Default)]
pub(super) struct JournalDevices {
    committed: BTreeMap<DeviceName, i64>,
}

/// Numbers looked up or given within one transaction: worth nothing until it has committed.
#[derive(Debug, Default)]
pub(super) struct Fresh(BTreeMap<DeviceName, i64>);

impl JournalDevices {
    /// The number of `name`: remembered, read, or given now.
    pub(super) fn number(
        &self,
        transaction: &Transaction<'_>,
        fresh: &mut Fresh,
        name: &DeviceName,
    ) -> rusqlite::Result<i64> {
        if let Some(number) = self.committed.get(name).or_else(|| fresh.0.get(name)) {
            return Ok(*number);
        }
        let number = find_or_insert(transaction, name)?;
        fresh.0.insert(name.clone(), number);
        Ok(number)
    }

    /// Remembers the numbers of a transaction that has committed.
    pub(super) fn adopt(&mut self, mut fresh: Fresh) {
        if self.committed.len() + fresh.0.len() > REMEMBERED_MAX {
            self.committed.clear();
        }
        self.committed.append(&mut fresh.0);
    }

    /// Forgets everything: the journal was reopened, and what it holds is to be read again.
    pub(super) fn forget(&mut self) {
        self.committed.clear();
    }

    #[cfg(test)]
    pub(super) fn remembers(&self, name: &DeviceName) -> bool {
        self.committed.contains_key(name)
    }
}

/// Every name that has a number; one that cannot be a device's is left out.
pub(super) fn names(connection: &Connection) -> rusqlite::Result<Vec<DeviceName>> {
    let mut statement = connection.prepare("SELECT name FROM devices")?;
    let mut rows = statement.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        names.extend(row.get_ref(0)?.as_str().ok().and_then(|name| DeviceName::parse(name).ok()));
    }
    Ok(names)
}

fn find_or_insert(transaction: &Transaction<'_>, name: &DeviceName) -> rusqlite::Result<i64> {
    let known = transaction
        .query_row("SELECT device FROM devices WHERE name = ?1", [name.as_str()], |row| row.get(0))
        .optional()?;
    match known {
        Some(number) => Ok(number),
        None => {
            transaction.execute("INSERT INTO devices (name) VALUES (?1)", [name.as_str()])?;
            Ok(transaction.last_insert_rowid())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::schema::JOURNAL;

    #[test]
    fn a_number_is_given_once_and_remembered_only_after_the_commit() {
        let mut connection = Connection::open_in_memory().expect("opened");
        JOURNAL.migrate(&mut connection, Path::new("memory")).expect("made");
        let (pump, fan) =
            (DeviceName::parse("pump").expect("valid"), DeviceName::parse("fan").expect("valid"));
        let mut devices = JournalDevices::default();

        let transaction = connection.transaction().expect("begun");
        let mut fresh = Fresh::default();
        let lost = devices.number(&transaction, &mut fresh, &pump).expect("given");
        assert_eq!(devices.number(&transaction, &mut fresh, &pump).expect("the same"), lost);
        drop(transaction);
        assert!(!devices.remembers(&pump));

        let transaction = connection.transaction().expect("begun");
        let mut fresh = Fresh::default();
        let of_fan = devices.number(&transaction, &mut fresh, &fan).expect("given");
        let of_pump = devices.number(&transaction, &mut fresh, &pump).expect("given");
        assert_ne!(of_fan, of_pump);
        transaction.commit().expect("committed");
        devices.adopt(fresh);
        assert!(devices.remembers(&pump) && devices.remembers(&fan));
        assert_eq!(names(&connection).expect("read"), [fan.clone(), pump.clone()]);

        devices.forget();
        let transaction = connection.transaction().expect("begun");
        assert_eq!(devices.number(&transaction, &mut Fresh::default(), &pump).expect("read"), of_pump);
    }

    #[test]
    fn memory_for_numbers_is_bounded() {
        let mut devices = JournalDevices::default();
        for number in 0..=REMEMBERED_MAX {
            let name = DeviceName::parse(&format!("device {number}")).expect("valid");
            devices.adopt(Fresh([(name, number as i64)].into()));
        }
        assert_eq!(devices.committed.len(), 1);
    }
}
