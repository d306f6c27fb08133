//! What clients sent and were promised, held against what is on disk.

mod clocks;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};

use forebay::{
    ids::{DeviceName, Seq},
    record::Record,
    store::{BufferReader, Query, StoreError, StoreOptions, StoredReading},
};

use rusqlite::{Connection, OpenFlags};

use crate::machine::data_dir;

pub use clocks::Patience;

/// A reading for life: which stream of readings, and the how-manieth of it. Told in its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadingId {
    pub stream: u64,
    pub number: u64,
}

/// Streams from here on are wills.
pub const FIRST_WILL_STREAM: u64 = 1_000_000;

impl ReadingId {
    /// The values of the reading, as the broker is to keep them.
    pub fn values(self, filler: &str) -> String {
        format!("{{\"stream\":{},\"number\":{},\"filler\":\"{filler}\"}}", self.stream, self.number)
    }

    fn found_in(values: &str) -> Option<Self> {
        let (stream, rest) = values.strip_prefix("{\"stream\":")?.split_once(',')?;
        let (number, _) = rest.strip_prefix("\"number\":")?.split_once(',')?;
        Some(Self { stream: stream.parse().ok()?, number: number.parse().ok()? })
    }
}

/// What a client sent, or may have sent.
pub struct Sent {
    pub device: DeviceName,
    pub values: String,
    pub device_ts: Option<i64>,
    /// The first reading of the message it is in.
    pub message: ReadingId,
    /// Whether its first occurrence keeps to the order of its stream. Wills come when connections end, and QoS 0 on a
    /// connection that was given up may be late, while QoS 1 was by then sent again on the next.
    pub is_ordered: bool,
}

/// Values with this in them are not to the hub's taste.
pub const POISON: &str = "poison";
/// Where local clients are told what devices sent.
pub const TELEMETRY_OF_DEVICES: &str = "devices/";

/// Everything sent, acknowledged and confirmed in a run.
#[derive(Default)]
pub struct Ledger {
    /// Local clients that are promised every reading from now on.
    readers: BTreeSet<usize>,
    /// By reading, who is promised it and was not told yet.
    wanted_by: BTreeMap<ReadingId, BTreeSet<usize>>,
    /// The latest reading each of them was told, by stream.
    told: BTreeMap<(usize, u64), u64>,
    /// What the hub has, and what of that the disk knows.
    pub hub: uploads::AtHub,
    /// When readings were received, by the clocks of the machine.
    pub clocks: clocks::Clocks,
    /// Which reading lies, or lay, at which place of the journal.
    places: BTreeMap<Seq, ReadingId>,
    /// Those of them that are certainly on disk, unless they were removed.
    sure_places: BTreeSet<Seq>,
    /// Those that were found at a start, and may not have been there for good.
    unsure_places: BTreeSet<Seq>,
    /// Whether readings may go that nobody has: too old, or no room for them.
    pub may_drop: bool,
    sent: BTreeMap<ReadingId, Sent>,
    /// PUBACKs for these have reached their senders.
    acked: BTreeSet<ReadingId>,
    /// PUBACKs that came since the last step's check.
    acked_lately: Vec<ReadingId>,
    /// The store has said of these that they are on disk, or they were found there.
    confirmed: BTreeSet<ReadingId>,
    /// What was wrong with a time of receipt.
    mistimed: Option<String>,
}

impl Ledger {
    /// The reading may be on its way from now on.
    pub fn note_sent(&mut self, id: ReadingId, sent: Sent) {
        self.sent.insert(id, sent);
        if !self.readers.is_empty() {
            self.wanted_by.insert(id, self.readers.clone());
        }
    }

    /// The sender of the reading was told that it is stored.
    pub fn note_acked(&mut self, id: ReadingId) {
        self.acked.insert(id);
        self.acked_lately.push(id);
    }

    /// The store says that the records are on disk.
    pub fn note_confirmed(&mut self, records: &[Record]) {
        for record in records {
            if let Some(id) = ReadingId::found_in(&record.values) {
                self.confirmed.insert(id);
                self.places.insert(record.seq, id);
                self.sure_places.insert(record.seq);
                self.clocks.note_received(id, record);
                if let Some(sent) = self.sent.get(&id).filter(|sent| sent.device_ts.is_none()) {
                    let apart = self.clocks.check_apart(sent.message, record);
                    self.mistimed = self.mistimed.take().or(apart.err());
                }
            }
        }
    }

    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Everything acknowledged in this step had been confirmed by the store, and has a good time of receipt.
    pub fn check_step(&mut self) -> Result<(), String> {
        if let Some(words) = self.mistimed.take() {
            return Err(words);
        }
        match self.acked_lately.drain(..).find(|id| !self.confirmed.contains(id)) {
            None => Ok(()),
            Some(id) => Err(format!("LOST: {id:?} was acknowledged and the store has not confirmed it")),
        }
    }

    // ---- what local clients are told ----------------------------------------------------------------------

    /// The local client's subscription to what devices send was acknowledged.
    pub fn add_reader(&mut self, reader: usize) {
        self.readers.insert(reader);
    }

    /// Its session is over, and what it was promised is forgiven.
    pub fn forget_reader(&mut self, reader: usize) {
        self.readers.remove(&reader);
        for wanted_by in self.wanted_by.values_mut() {
            wanted_by.remove(&reader);
        }
    }

    /// A local client was told of a reading: of one on disk, and in the order in which its device sent it.
    pub fn note_told(
        &mut self,
        reader: usize,
        is_durable: bool,
        topic: &str,
        values: &str,
    ) -> Result<(), String> {
        let id = ReadingId::found_in(values).ok_or_else(|| format!("MADE UP: {values} on {topic}"))?;
        let sent = self.sent.get(&id).ok_or_else(|| format!("MADE UP: nobody sent {id:?}"))?;
        if topic != format!("{TELEMETRY_OF_DEVICES}{}/telemetry", sent.device) || values != sent.values {
            return Err(format!("CHANGED: {id:?} of {} is told as {values} of {topic}", sent.device));
        }
        if !self.confirmed.contains(&id) {
            return Err(format!("TOO EARLY: {id:?} is told and the store has not confirmed it"));
        }
        let was_wanted = self.wanted_by.get_mut(&id).is_some_and(|wanted_by| wanted_by.remove(&reader));
        if was_wanted && is_durable && sent.is_ordered {
            let latest = self.told.entry((reader, id.stream)).or_insert(id.number);
            if id.number < *latest {
                return Err(format!("ORDER: {id:?} is told after number {latest}"));
            }
            *latest = id.number;
        }
        Ok(())
    }

    /// The values of readings that were acknowledged, and the reader was promised and not told.
    pub fn untold(&self, reader: usize) -> Vec<&str> {
        let is_owed =
            |(id, by): &(&ReadingId, &BTreeSet<usize>)| by.contains(&reader) && self.acked.contains(id);
        let values = |(id, _): (&ReadingId, _)| &*self.sent[id].values;
        self.wanted_by.iter().filter(is_owed).map(values).collect()
    }

    /// A reading that was acknowledged and not told to everybody who was promised it.
    pub fn missing(&self) -> Option<String> {
        let (id, wanted_by) =
            self.wanted_by.iter().find(|(id, by)| !by.is_empty() && self.acked.contains(id))?;
        Some(format!("{id:?} was not told to {wanted_by:?}"))
    }

    // ---- what is on disk ----------------------------------------------------------------------------------

    /// Reads the journal and checks that everything acknowledged is there or has left it rightly, everything there was
    /// sent, as it was sent, and in the order in which it was sent. Gives back the readings and their places.
    pub fn check_journal(&self, options: &StoreOptions) -> Result<BTreeMap<Seq, ReadingId>, String> {
        let disk = OnDisk::read(options)?;
        let mut first = BTreeSet::new();
        let mut latest = BTreeMap::new();
        let mut rows = BTreeMap::new();
        let earlier_are_gone = disk.readings.first().is_some_and(|reading| reading.seq > Seq(1));
        for reading in &disk.readings {
            let (id, is_ordered) = self.check_row(reading)?;
            rows.insert(reading.seq, id);
            let is_first = first.insert(id);
            if !is_ordered {
                continue;
            }
            let latest = latest.entry(id.stream).or_insert(id.number);
            // What stood before it may be gone.
            let is_known = earlier_are_gone && self.confirmed.contains(&id);
            if is_first && id.number < *latest && !is_known {
                return Err(format!("ORDER: {id:?} comes after number {latest}"));
            }
            *latest = id.number.max(*latest);
        }
        if let Some(gap) = disk.readings.windows(2).find(|pair| pair[1].seq <= pair[0].seq) {
            return Err(format!("ORDER: place {} is not after {}", gap[1].seq.0, gap[0].seq.0));
        }
        let may_go = |(seq, _): &(Seq, ReadingId)| self.may_drop || self.hub.is_settled(*seq);
        let gone: BTreeSet<ReadingId> = self.gone(&rows).filter(may_go).map(|(_, id)| id).collect();
        if let Some(lost) = self.acked.iter().find(|id| !first.contains(id) && !gone.contains(id)) {
            return Err(format!(
                "LOST: {lost:?} was acknowledged and is not in the journal of {} rows",
                rows.len()
            ));
        }
        self.check_gone(&rows, &disk)?;
        Ok(rows)
    }

    /// What the program finds in the journal when it starts.
    pub fn note_found(&mut self, rows: BTreeMap<Seq, ReadingId>) {
        self.confirmed.extend(rows.values());
        self.clocks.begin_again();
        for (seq, id) in &rows {
            if !self.sure_places.contains(seq) {
                self.clocks.note_found(*id);
                self.unsure_places.insert(*seq);
            }
        }
        self.places.retain(|seq, _| self.sure_places.contains(seq));
        self.places.extend(rows);
    }

    /// Places of readings that were certainly on disk and are not.
    fn gone(&self, rows: &BTreeMap<Seq, ReadingId>) -> impl Iterator<Item = (Seq, ReadingId)> {
        let sure = self.sure_places.iter().map(|seq| (*seq, self.places[seq]));
        sure.filter(|(seq, _)| !rows.contains_key(seq))
    }

    fn check_row(&self, reading: &StoredReading) -> Result<(ReadingId, bool), String> {
        let id = ReadingId::found_in(&reading.values)
            .ok_or_else(|| format!("MADE UP: place {} holds {}", reading.seq.0, reading.values))?;
        let sent = self.sent.get(&id).ok_or_else(|| format!("MADE UP: nobody sent {id:?}"))?;
        if sent.values != reading.values || sent.device != reading.device {
            return Err(format!(
                "CHANGED: {id:?} of {} is now {} of {}",
                sent.device, reading.values, reading.device
            ));
        }
        match sent.device_ts {
            Some(ts) if ts != reading.ts.0 || !reading.time_is_trusted => {
                Err(format!("CHANGED: {id:?} was of {ts} and is now of {}", reading.ts))
            }
            _ => Ok((id, sent.is_ordered)),
        }
    }
}

/// What the journal holds.
struct OnDisk {
    readings: Vec<StoredReading>,
    /// How many readings it says were dropped: too old or without room; and rejected, without room for those.
    dropped: u64,
    rejected_dropped: u64,
    /// How many it keeps of those the hub rejected.
    rejected: u64,
}

impl OnDisk {
    fn read(options: &StoreOptions) -> Result<Self, String> {
        let readings = read_journal(options).map_err(|error| format!("cannot read: {error}"))?;
        let counts =
            read_counts(options).map_err(|error| format!("cannot read what was removed: {error}"))?;
        let [dropped, rejected_dropped, rejected] = counts.map(i64::unsigned_abs);
        match readings {
            (readings, 0) => Ok(Self { readings, dropped, rejected_dropped, rejected }),
            (_, corrupt_rows) => Err(format!("{corrupt_rows} rows are damaged")),
        }
    }
}

fn read_journal(options: &StoreOptions) -> Result<(Vec<StoredReading>, u64), StoreError> {
    let reader = BufferReader::open(&data_dir(), options)?;
    let all = Query { after: Seq(0), device: None, since: None, limit: usize::MAX, newest: false };
    let found = reader.read(&all)?;
    Ok((found, reader.corrupt_rows()))
}

fn read_counts(options: &StoreOptions) -> rusqlite::Result<[i64; 3]> {
    let vfs = options.vfs.expect("a simulated disk");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = Connection::open_with_flags_and_vfs(data_dir().buffer_path(), flags, vfs)?;
    let counts = "SELECT coalesce((SELECT too_old + no_space FROM removed), 0),
        coalesce((SELECT rejected FROM removed), 0), (SELECT count(*) FROM rejected)";
    db.query_row(counts, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))
}
