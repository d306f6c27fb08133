//! What the uplinks read of the journal, and how far each of them has come.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::Buffer;
use crate::{
    ids::DeviceName,
    record::{Outbound, SetAsideId, Settlement},
    store::{
        error::{Attempt, StoreError},
        outbound::{self, Found, Stretch, Whose},
        own_marks,
        placement::Placements,
        set_aside::{self, SetAside},
        settled,
    },
};

impl Buffer {
    /// Reads readings for the uplink, in the order of their places. If fewer are given than were asked for, and their
    /// values have fewer bytes, there are no more in that stretch.
    ///
    /// A damaged row is left out and counted; see [`Buffer::damaged_rows`].
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn outbound(&mut self, stretch: &Stretch) -> Result<Vec<Outbound>, StoreError> {
        self.outbound_of(&Whose::Everybody, stretch).map(|found| found.readings)
    }

    /// Reads readings of some devices only, or of everybody. A search looks at a bounded number of readings, whoever's
    /// they are, and says how far it has come.
    ///
    /// # Errors
    /// As [`Buffer::outbound`].
    pub fn outbound_of(&mut self, whose: &Whose<'_>, stretch: &Stretch) -> Result<Found, StoreError> {
        let (found, damaged) = self
            .read_placed(|connection, placements| outbound::read(connection, placements, whose, stretch))?;
        self.damaged_rows += damaged;
        Ok(found)
    }

    /// Something that was set aside, if it is there and not damaged.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn set_aside(&mut self, id: SetAsideId) -> Result<Option<SetAside>, StoreError> {
        self.read_placed(|connection, placements| set_aside::find(connection, placements, id))
    }

    fn read_placed<T>(
        &mut self,
        read: impl FnOnce(&Connection, &Placements) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        let attempt = Attempt::new("read the journal", &self.path);
        let placements = match self.placements.take() {
            Some(placements) => placements,
            None => Placements::read(connection).map_err(|e| attempt.sql(e))?,
        };
        let found = read(connection, &placements);
        self.placements = Some(placements);
        found.map_err(|e| attempt.sql(e))
    }

    /// What became of readings at the hub, as far as the disk knows; without the rejected ones. Those of devices with a
    /// mark of their own are not meant, see [`Buffer::own_settlements`].
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn settlement(&self) -> Result<Settlement, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        settled::read(connection)
            .map_err(|e| Attempt::new("read the mark of the uplink in", &self.path).sql(e))
    }

    /// The same for each device with a mark of its own.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn own_settlements(&self) -> Result<BTreeMap<DeviceName, Settlement>, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        own_marks::read(connection)
            .map_err(|e| Attempt::new("read the marks of devices in", &self.path).sql(e))
    }

    /// Each of `devices` has a mark of its own from now on, which begins where everybody's is.
    ///
    /// To be called before the readings of these devices are left out of what everybody's uplink reads.
    ///
    /// # Errors
    /// As [`Buffer::append`].
    pub fn begin_own_marks(&mut self, devices: &[DeviceName]) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Err(self.closed()) };
        own_marks::begin(connection, devices)
            .map_err(|error| self.after_failure("begin the marks of devices in the journal", error))
    }

    /// None of `devices` has a mark of its own any more. Everybody's goes back to the first of theirs, so that an uplink
    /// that begins now sends what waits; what the hub has is not read for it. An uplink that runs is to end before it
    /// settles anything.
    ///
    /// # Errors
    /// As [`Buffer::append`].
    pub fn end_own_marks(&mut self, devices: &[DeviceName]) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Err(self.closed()) };
        own_marks::end(connection, devices)
            .map_err(|error| self.after_failure("end the marks of devices in the journal", error))
    }

    /// How many readings that the hub does not take are set aside.
    ///
    /// # Errors
    /// If the journal is closed or cannot be read.
    pub fn rejected_len(&self) -> Result<u64, StoreError> {
        let Some(connection) = &self.connection else { return Err(self.closed()) };
        settled::rejected_len(connection)
            .map_err(|e| Attempt::new("count the rejected readings in", &self.path).sql(e))
    }
}
