//! What must hold: looked at after a start, at the end, and on copies of the disk at any time.

use std::collections::BTreeMap;

use forebay::{
    clock::{Mono, Now, Wall},
    ids::MessageId,
    session::durable::{Recovered, RecoveredSession},
    store::BootId,
};
use rusqlite::{Connection, OpenFlags};

use super::{LOG_BYTES_MAX, SECOND, World, options};
use crate::{
    disk::{Content, Disk},
    faults::LOSSES,
    gateway::Gateway,
    local::Local,
    machine::data_dir,
    session_half::Message,
    trace::note,
};

impl World {
    /// What the disk holds right after a start.
    pub(super) fn check_disk(&mut self) -> Result<(), String> {
        let undisturbed = Undisturbed::new(&self.disk);
        let options = options(&self.disk, &self.limits, self.plan.sabotage);
        let found = self.ledger.check_journal(&options)?;
        let rows = found.len();
        self.ledger.note_found(found);
        let gateway = self.gateway.as_mut().expect("it runs");
        let devices = gateway.devices().map_err(|error| error.to_string())?;
        let recovered = gateway.recovered().map_err(|error| error.to_string())?;
        drop(undisturbed);
        note!(self.trace, "{rows} readings are in the journal, and {} sessions", recovered.sessions.len());
        self.check_sessions(&recovered)?;
        self.operator.check(&devices)
    }

    /// What the disk would hold if the power went now.
    pub(super) fn examine_copy(&mut self) -> Result<(), String> {
        if self.disk.storage().is_gone() {
            return Ok(());
        }
        let content: Content = self.disk.storage().content.clone();
        let copy = Disk::with_content(self.chance.next(), content);
        let loss = *self.chance.pick(&LOSSES);
        copy.storage().start_after_power_cut(loss);
        self.summary.cuts_of_copies += 1;
        let options = options(&copy, &self.limits, self.plan.sabotage);
        let boot = BootId::new("the boot after");
        let (now, clock) = (Now { mono: Mono(SECOND), wall: Wall(0) }, self.clock_state());
        let mut gateway = match Gateway::start(&self.setup(), &options, &boot, now, clock, 0) {
            Ok(gateway) => gateway,
            Err(error) => return Err(format!("CANNOT START after losing {loss:?}: {error}")),
        };
        let journal = self.ledger.check_journal(&options);
        let (devices, recovered) = (gateway.devices(), gateway.recovered());
        copy.storage().stop();
        drop(gateway);
        journal
            .and_then(|_| self.check_sessions(&recovered.map_err(|error| error.to_string())?))
            .map_err(|words| format!("if the power went now, losing {loss:?}: {words}"))?;
        self.operator.check(&devices.map_err(|error| error.to_string())?)
    }

    /// Every session that was acknowledged is on disk, with everything it is owed, and what is retained is not outdated.
    fn check_sessions(&self, recovered: &Recovered) -> Result<(), String> {
        let topics = self.post.floors();
        for message in &recovered.retained {
            let text = String::from_utf8_lossy(message.payload()).into_owned();
            let topic = message.topic().as_str().to_owned();
            self.post.check_found(&topics, &Message { topic, text, qos: message.qos as u8, retain: true })?;
        }
        let is_there = |topic: &String| recovered.retained.iter().any(|m| m.topic().as_str() == topic);
        if let Some(topic) = self.post.must_be_found(&topics).iter().find(|topic| !is_there(topic)) {
            return Err(format!("RETAINED: nothing is on disk for {topic}"));
        }
        if self.sessions_may_end {
            return Ok(());
        }
        let texts: BTreeMap<MessageId, &[u8]> =
            recovered.messages.iter().map(|(id, message)| (*id, message.payload())).collect();
        let holds = |session: &RecoveredSession, text: &str| {
            session.deliveries.iter().any(|row| texts.get(&row.message) == Some(&text.as_bytes()))
        };
        let is_promised =
            |local: &&Local| local.counts_on_the_disk() && self.post.is_promised(local.reader());
        for local in self.locals.iter().filter(is_promised) {
            let id = local.client_id();
            let session = recovered.sessions.iter().find(|session| &*session.row.client_id == id);
            let session = session.ok_or_else(|| format!("SESSION: that of {id} is not on disk"))?;
            let has = |wanted: &str| session.subscriptions.iter().any(|(filter, _)| &**filter == wanted);
            if let Some(filter) = local.filters().find(|filter| !has(filter)) {
                return Err(format!("SESSION: {id} has lost its subscription to {filter}"));
            }
            let owed = [self.post.outstanding(local.reader()), self.ledger.untold(local.reader())].concat();
            if let Some(text) = owed.iter().find(|text| !holds(session, text)) {
                return Err(format!("LOST: {text:?} was acknowledged and is not on its way to {id}"));
            }
        }
        let is_on_its_way = |text: &&&str| !recovered.sessions.iter().any(|session| holds(session, text));
        match self.post.outstanding_of_groups().iter().find(is_on_its_way) {
            None => Ok(()),
            Some(text) => {
                Err(format!("LOST: {text:?} was acknowledged and is on its way to none of its group"))
            }
        }
    }

    pub(super) fn check_log_size(&self) -> Result<(), String> {
        let log = data_dir().buffer_path().with_extension("db-wal");
        match self.disk.storage().content.bytes_of(&log.to_string_lossy()) {
            bytes if bytes > LOG_BYTES_MAX => Err(format!("BOUND: the log has {bytes} bytes")),
            _ => Ok(()),
        }
    }

    /// SQLite finds nothing wrong with either file.
    pub(super) fn check_files(&self) -> Result<(), String> {
        for path in [data_dir().buffer_path(), data_dir().registry_path()] {
            let verdict = Connection::open_with_flags_and_vfs(
                &path,
                OpenFlags::SQLITE_OPEN_READ_WRITE,
                self.disk.vfs(),
            )
            .and_then(|db| db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)));
            match verdict {
                Ok(verdict) if verdict == "ok" => {}
                verdict => return Err(format!("DAMAGED: {}: {verdict:?}", path.display())),
            }
        }
        Ok(())
    }
}

/// While it lives, the disk does not fail: an observer is not to be part of the experiment.
pub(super) struct Undisturbed<'a> {
    disk: &'a Disk,
    io_errors: u32,
    cut_at_change: Option<u64>,
    slowest_sync_us: u64,
}

impl<'a> Undisturbed<'a> {
    pub(super) fn new(disk: &'a Disk) -> Self {
        let mut storage = disk.storage();
        let io_errors = std::mem::take(&mut storage.troubles.io_error_per_million);
        let slowest_sync_us = std::mem::take(&mut storage.slowest_sync_us);
        storage.troubles.end_row();
        let cut_at_change = storage.cut_at_change.take();
        Self { disk, io_errors, cut_at_change, slowest_sync_us }
    }
}

impl Drop for Undisturbed<'_> {
    fn drop(&mut self) {
        let mut storage = self.disk.storage();
        storage.troubles.io_error_per_million = self.io_errors;
        storage.slowest_sync_us = self.slowest_sync_us;
        storage.cut_at_change = self.cut_at_change;
    }
}
