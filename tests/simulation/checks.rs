//! What clients sent and were promised, held against what is on disk.

use std::collections::{BTreeMap, BTreeSet};

use forebay::{
    ids::{DeviceName, Seq},
    record::{Record, Settlement},
    store::{BufferReader, Query, StoreError, StoreOptions, StoredReading},
};

use crate::machine::data_dir;

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
    /// Which reading lies at which place of the journal.
    places: BTreeMap<Seq, ReadingId>,
    /// What the hub has, and, by stream, the numbers of what came for the first time, in order.
    uploaded: BTreeSet<ReadingId>,
    first_uploads: BTreeMap<u64, Vec<u64>>,
    /// Up to here everything is settled on disk.
    settled_through: Seq,
    sent: BTreeMap<ReadingId, Sent>,
    /// PUBACKs for these have reached their senders.
    acked: BTreeSet<ReadingId>,
    /// PUBACKs that came since the last step's check.
    acked_lately: Vec<ReadingId>,
    /// The store has said of these that they are on disk, or they were found there.
    confirmed: BTreeSet<ReadingId>,
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
            }
        }
    }

    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Everything acknowledged in this step had been confirmed by the store.
    pub fn check_step(&mut self) -> Result<(), String> {
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

    // ---- what goes on to the hub --------------------------------------------------------------------------

    /// A reading has arrived at the hub: one that is on disk, as it was sent.
    pub fn note_uploaded(&mut self, device: &str, ts: i64, values: &str) -> Result<(), String> {
        let id = ReadingId::found_in(values).ok_or_else(|| format!("MADE UP: {values} is uploaded"))?;
        let sent = self.sent.get(&id).ok_or_else(|| format!("MADE UP: nobody sent {id:?}"))?;
        if device != sent.device.as_str() || values != sent.values {
            return Err(format!("CHANGED: {id:?} of {} is uploaded as {values} of {device}", sent.device));
        }
        if sent.device_ts.is_some_and(|own| own != ts) {
            return Err(format!("CHANGED: {id:?} of {:?} is uploaded as of {ts}", sent.device_ts));
        }
        if !self.confirmed.contains(&id) {
            return Err(format!("TOO EARLY: {id:?} is uploaded and the store has not confirmed it"));
        }
        if self.uploaded.insert(id) && sent.is_ordered {
            self.first_uploads.entry(id.stream).or_default().push(id.number);
        }
        Ok(())
    }

    /// What the disk now says of readings at the hub: nothing is settled that is not there, or was rejected and rightly.
    pub fn check_settled(&mut self, settlement: &Settlement) -> Result<(), String> {
        for rejected in &settlement.rejected {
            let id = self.places.get(&rejected.seq);
            if !id.is_some_and(|id| self.sent[id].values.contains(POISON)) {
                return Err(format!("REJECTED for nothing: {id:?}: {}", rejected.reason));
            }
        }
        let through = std::iter::once((self.settled_through.next(), settlement.through));
        for (first, last) in through.chain(settlement.beyond.iter().copied()).filter(|(f, l)| f <= l) {
            let is_lost =
                |id: &&ReadingId| !self.uploaded.contains(*id) && !self.sent[*id].values.contains(POISON);
            if let Some((seq, id)) = self.places.range(first..=last).find(|(_, id)| is_lost(id)) {
                return Err(format!("LOST: {id:?} at {} is settled and the hub does not have it", seq.0));
            }
        }
        self.settled_through = self.settled_through.max(settlement.through);
        Ok(())
    }

    /// A reading that was acknowledged and is not at the hub.
    pub fn missing_at_hub(&self) -> Option<String> {
        let is_missing =
            |id: &&ReadingId| !self.uploaded.contains(id) && !self.sent[*id].values.contains(POISON);
        self.acked.iter().find(is_missing).map(|id| format!("{id:?} has not reached the hub"))
    }

    /// Each stream has arrived in order, or as two of which each is in order.
    pub fn check_upload_order(&self, is_one_lane: bool) -> Result<(), String> {
        for (stream, numbers) in &self.first_uploads {
            let lanes = lanes_of(numbers);
            if lanes > if is_one_lane { 1 } else { 2 } {
                return Err(format!("ORDER: stream {stream} has arrived as {numbers:?}"));
            }
        }
        Ok(())
    }

    // ---- what is on disk ----------------------------------------------------------------------------------

    /// Reads the journal and checks that everything acknowledged is there, everything there was sent, as it was sent,
    /// and in the order in which it was sent. Gives back how many rows there are.
    pub fn check_journal(&mut self, options: &StoreOptions) -> Result<usize, String> {
        let (found, corrupt_rows) = read_journal(options).map_err(|error| format!("cannot read: {error}"))?;
        if corrupt_rows > 0 {
            return Err(format!("{corrupt_rows} rows are damaged"));
        }
        let mut first = BTreeSet::new();
        let mut latest = BTreeMap::new();
        self.places.clear();
        for reading in &found {
            let (id, is_ordered) = self.check_row(reading)?;
            self.places.insert(reading.seq, id);
            let is_first = first.insert(id);
            if !is_ordered {
                continue;
            }
            let latest = latest.entry(id.stream).or_insert(id.number);
            if is_first && id.number < *latest {
                return Err(format!("ORDER: {id:?} comes after number {latest}"));
            }
            *latest = id.number.max(*latest);
        }
        if let Some(gap) = found.windows(2).find(|pair| pair[1].seq <= pair[0].seq) {
            return Err(format!("ORDER: place {} is not after {}", gap[1].seq.0, gap[0].seq.0));
        }
        if let Some(lost) = self.acked.iter().find(|id| !first.contains(id)) {
            return Err(format!(
                "LOST: {lost:?} was acknowledged and is not in the journal of {} rows",
                found.len()
            ));
        }
        self.confirmed.extend(first);
        Ok(found.len())
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

/// How many ascending sequences `numbers` is made of, if it is made of one or two; three if of more.
fn lanes_of(numbers: &[u64]) -> usize {
    let (mut first, mut second) = (0, 0);
    for number in numbers {
        if *number > first {
            first = *number;
        } else if *number > second {
            second = *number;
        } else {
            return 3;
        }
    }
    if second == 0 { 1 } else { 2 }
}

fn read_journal(options: &StoreOptions) -> Result<(Vec<StoredReading>, u64), StoreError> {
    let reader = BufferReader::open(&data_dir(), options)?;
    let all = Query { after: Seq(0), device: None, since: None, limit: usize::MAX, newest: false };
    let found = reader.read(&all)?;
    Ok((found, reader.corrupt_rows()))
}
