//! What the store promises, in as few lines as it takes: lists and maps in memory, nothing about files.

use std::collections::{BTreeMap, BTreeSet};

use forebay::{
    clock::{ClockState, Wall},
    identity::{Identity, Role, TokenHash},
    ids::{DeviceName, IdentityId, Seq},
    limits::RECEIVED_AHEAD_MAX,
    record::{Placed, Record, Settlement},
    session::Batch,
    store::{Housekeeping, Losses, Query},
};

/// A boot of the machine, as the journal knows it.
#[derive(Clone, Debug)]
struct Boot {
    id: String,
    clock: ClockState,
    /// When the journal was last opened in it.
    opened_ms: i64,
}

/// The journal.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    boots: Vec<Boot>,
    /// Each reading with the index of its boot.
    readings: Vec<(Record, usize)>,
    /// The last reading there ever was: its place, its boot, its time.
    last: Option<(Seq, usize, i64)>,
    /// Payloads in quarantine, oldest first.
    quarantined: Vec<Vec<u8>>,
    dropped: u64,
    settlement: Settlement,
    /// Places of readings the hub does not take.
    rejected: Vec<Seq>,
    lost: Losses,
}

/// A reading as it is to be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub seq: Seq,
    pub device: DeviceName,
    pub ts: Wall,
    pub time_is_trusted: bool,
    pub values: String,
}

impl Journal {
    /// The journal is opened in boot `id`, so long after its beginning. The newest boot goes on if it is the same one,
    /// unless its last reading, which may be ahead a little, or the last opening lies in the future.
    pub fn open(&mut self, id: &str, now_ms: i64, clock: ClockState) {
        let last = self.last.filter(|(_, boot, _)| boot + 1 == self.boots.len());
        let ahead_ms = RECEIVED_AHEAD_MAX.as_millis() as i64;
        let is_past = last.is_none_or(|(_, _, received_ms)| received_ms <= now_ms + ahead_ms);
        match self.boots.last() {
            Some(newest) if newest.id == id && is_past && newest.opened_ms <= now_ms => self.set_clock(clock),
            _ => self.boots.push(Boot { id: id.to_owned(), clock, opened_ms: now_ms }),
        }
        self.boots.last_mut().expect("there is one now").opened_ms = now_ms;
        self.dropped = 0;
    }

    /// Once synchronised, only a synchronised clock counts.
    pub fn set_clock(&mut self, clock: ClockState) {
        let boot = self.boots.last_mut().expect("opened");
        if clock.synchronised || !boot.clock.synchronised {
            boot.clock = clock;
        }
    }

    pub fn append(&mut self, batch: &Batch, quarantine_rows: usize) {
        let boot = self.boots.len() - 1;
        self.readings.extend(batch.records.iter().map(|record| (record.clone(), boot)));
        if let Some(record) = batch.records.last() {
            self.last = Some((record.seq, boot, record.received.as_millis()));
        }
        for settlement in &batch.settlements {
            self.settle(settlement, quarantine_rows);
        }
        if batch.quarantined.is_empty() {
            return;
        }
        self.quarantined.extend(batch.quarantined.iter().map(|payload| payload.payload.clone()));
        let over = self.quarantined.len().saturating_sub(quarantine_rows);
        self.quarantined.drain(..over);
        self.dropped += over as u64;
    }

    fn settle(&mut self, settlement: &Settlement, rows: usize) {
        self.settlement.through = self.settlement.through.max(settlement.through);
        self.settlement.beyond = settlement.beyond.clone();
        let is_here = |seq: Seq| self.readings.iter().any(|(record, _)| record.seq == seq);
        self.rejected
            .extend(settlement.rejected.iter().map(|rejected| rejected.seq).filter(|seq| is_here(*seq)));
        self.rejected.sort();
        self.rejected.dedup();
        let over = self.rejected.len().saturating_sub(rows);
        self.rejected.drain(..over);
        self.lost.rejected += over as u64;
    }

    pub fn settlement(&self) -> &Settlement {
        &self.settlement
    }

    pub fn rejected_len(&self) -> u64 {
        self.rejected.len() as u64
    }

    pub fn lost(&self) -> Losses {
        self.lost
    }

    pub fn places(&self) -> Vec<Seq> {
        self.readings.iter().map(|(record, _)| record.seq).collect()
    }

    fn is_settled(&self, seq: Seq) -> bool {
        let Settlement { through, beyond, .. } = &self.settlement;
        seq <= *through || beyond.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    }

    /// House was kept, and these places are left: what went must be what the hub has, or the oldest of the rest, each
    /// counted. Nothing is too old, and nothing is dropped for want of room, unless it `may` be.
    pub fn keep_house(&mut self, left: &[Seq], done: &Housekeeping, may: &Losses) {
        let left: BTreeSet<Seq> = left.iter().copied().collect();
        let went: Vec<Seq> = self.places().into_iter().filter(|seq| !left.contains(seq)).collect();
        let (settled, rest): (Vec<Seq>, Vec<Seq>) = went.iter().partition(|seq| self.is_settled(**seq));
        assert_eq!(settled.len() as u64, done.uploaded, "{went:?}");
        assert_eq!(rest.len() as u64, done.lost.too_old + done.lost.no_space, "{went:?}");
        assert!(done.lost.too_old <= may.too_old && done.lost.no_space <= may.no_space, "{done:?}");
        let oldest_left = left.iter().find(|seq| !self.is_settled(**seq));
        assert!(
            rest.iter().all(|seq| oldest_left.is_none_or(|left| seq < left)),
            "{rest:?} before {oldest_left:?}"
        );
        self.readings.retain(|(record, _)| left.contains(&record.seq));
        self.lost += done.lost;
    }

    /// What the uplink is to get from behind `after`: place, time and values.
    pub fn outbound(&self, after: Seq, through: Seq) -> Vec<(Seq, Option<Placed>, String)> {
        let wanted = |record: &Record| record.seq > after && record.seq <= through;
        let readings = self.readings.iter().filter(|(record, _)| wanted(record));
        readings
            .map(|(record, boot)| (record.seq, self.placed(record, *boot), record.values.clone()))
            .collect()
    }

    /// The time, where it is not an estimate.
    fn placed(&self, record: &Record, boot: usize) -> Option<Placed> {
        let clock = self.boots[boot].clock;
        let received = clock.offset_ms + record.received.as_millis();
        record.device_ts.map(Placed::Given).or(clock.synchronised.then_some(Placed::Known(received)))
    }

    pub fn last_seq(&self) -> Seq {
        self.last.map_or(Seq(0), |(seq, ..)| seq)
    }

    pub fn quarantine_len(&self) -> u64 {
        self.quarantined.len() as u64
    }

    pub fn quarantine_dropped(&self) -> u64 {
        self.dropped
    }

    /// Everything that matches, the first or the last so many, in the order of their places.
    pub fn read(&self, query: &Query) -> Vec<Found> {
        let all = self.readings.iter().map(|(record, boot)| self.found(record, *boot));
        let matching: Vec<Found> = all
            .filter(|found| found.seq > query.after)
            .filter(|found| query.device.as_ref().is_none_or(|device| found.device == *device))
            .filter(|found| query.since.is_none_or(|since| found.ts >= since))
            .collect();
        let over = matching.len().saturating_sub(query.limit);
        let (from, to) = if query.newest { (over, matching.len()) } else { (0, matching.len() - over) };
        matching[from..to].to_vec()
    }

    fn found(&self, record: &Record, boot: usize) -> Found {
        let clock = self.boots[boot].clock;
        let received = Wall(clock.offset_ms + record.received.as_millis());
        Found {
            seq: record.seq,
            device: record.device.clone(),
            ts: record.device_ts.map_or(received, Wall),
            time_is_trusted: record.device_ts.is_some() || clock.synchronised,
            values: record.values.clone(),
        }
    }
}

/// What a change of the registry comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    NotFound,
    DuplicateName,
    DuplicateToken,
}

/// The registry.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    by_name: BTreeMap<DeviceName, Identity>,
    last_id: i64,
}

impl Devices {
    pub fn all(&self) -> Vec<Identity> {
        self.by_name.values().cloned().collect()
    }

    pub fn find(&self, name: &DeviceName) -> Option<Identity> {
        self.by_name.get(name).cloned()
    }

    pub fn add(&mut self, name: &DeviceName, role: Role, token: TokenHash, now: Wall) -> Outcome {
        if self.by_name.contains_key(name) {
            return Outcome::DuplicateName;
        }
        if self.is_used(&token, None) {
            return Outcome::DuplicateToken;
        }
        self.last_id += 1;
        let id = IdentityId(self.last_id);
        let device = Identity {
            id,
            name: name.clone(),
            role,
            token_hash: token,
            enabled: true,
            created: now,
            last_seen: None,
        };
        self.by_name.insert(name.clone(), device);
        Outcome::Done
    }

    pub fn set_token(&mut self, name: &DeviceName, token: TokenHash) -> Outcome {
        let used = self.is_used(&token, Some(name));
        match self.by_name.get_mut(name) {
            None => Outcome::NotFound,
            Some(_) if used => Outcome::DuplicateToken,
            Some(device) => {
                device.token_hash = token;
                Outcome::Done
            }
        }
    }

    pub fn set_enabled(&mut self, name: &DeviceName, enabled: bool) -> Outcome {
        let Some(device) = self.by_name.get_mut(name) else { return Outcome::NotFound };
        device.enabled = enabled;
        Outcome::Done
    }

    pub fn set_gateway(&mut self, name: &DeviceName, is_gateway: bool) -> Outcome {
        let Some(device) = self.by_name.get_mut(name) else { return Outcome::NotFound };
        if device.role.is_device() {
            device.role = if is_gateway { Role::Gateway } else { Role::Device };
        }
        Outcome::Done
    }

    pub fn remove(&mut self, name: &DeviceName) -> Outcome {
        match self.by_name.remove(name) {
            None => Outcome::NotFound,
            Some(_) => Outcome::Done,
        }
    }

    pub fn note_seen(&mut self, id: IdentityId, at: Wall) {
        if let Some(device) = self.by_name.values_mut().find(|device| device.id == id) {
            device.last_seen = Some(at);
        }
    }

    fn is_used(&self, token: &TokenHash, by_others_than: Option<&DeviceName>) -> bool {
        self.by_name
            .values()
            .any(|device| device.token_hash == *token && Some(&device.name) != by_others_than)
    }
}
