//! What the hub has, what the disk says of it, and what may therefore be gone from the journal.

use std::collections::{BTreeMap, BTreeSet};

use forebay::{ids::Seq, record::Settlement};

use super::{Ledger, OnDisk, POISON, Patience, ReadingId};
use crate::hub::Arrival;

/// What went on to the hub.
#[derive(Debug, Default)]
pub struct AtHub {
    /// What it has, and, by stream, the numbers of what came for the first time, in order.
    uploaded: BTreeSet<ReadingId>,
    first_uploads: BTreeMap<u64, Vec<u64>>,
    /// What is settled, on disk or on its way there, and up to where everything is.
    settled: BTreeSet<Seq>,
    settled_through: Seq,
    /// Rejected by the hub, and those of them that are certainly kept on disk.
    rejected: BTreeSet<Seq>,
    kept: BTreeSet<Seq>,
    /// Settled though the hub neither has them nor rejected them: they were dropped before.
    skipped: BTreeSet<Seq>,
}

impl AtHub {
    /// Whether the disk knows, or may know, that the hub needs no more of the reading at `seq`.
    pub(super) fn is_settled(&self, seq: Seq) -> bool {
        self.settled.contains(&seq)
    }
}

impl Ledger {
    /// A reading has arrived at the hub: one that is on disk, as it was sent, and of the right time.
    pub fn note_uploaded(&mut self, arrival: &Arrival, patience: Option<Patience>) -> Result<(), String> {
        let Arrival { device, ts, values } = arrival;
        let id = ReadingId::found_in(values).ok_or_else(|| format!("MADE UP: {values} is uploaded"))?;
        let sent = self.sent.get(&id).ok_or_else(|| format!("MADE UP: nobody sent {id:?}"))?;
        if device != sent.device.as_str() || *values != sent.values {
            return Err(format!("CHANGED: {id:?} of {} is uploaded as {values} of {device}", sent.device));
        }
        match sent.device_ts {
            Some(own) if own != *ts => {
                return Err(format!("CHANGED: {id:?} of {own} is uploaded as of {ts}"));
            }
            Some(_) => {}
            None => self.clocks.check(id, *ts, patience)?,
        }
        if !self.confirmed.contains(&id) {
            return Err(format!("TOO EARLY: {id:?} is uploaded and the store has not confirmed it"));
        }
        if self.hub.uploaded.insert(id) && sent.is_ordered {
            self.hub.first_uploads.entry(id.stream).or_default().push(id.number);
        }
        Ok(())
    }

    /// What the disk is to say of readings at the hub: nothing is settled that is not there, or was rejected and rightly,
    /// or was dropped if any may be.
    pub fn check_settled(&mut self, settlement: &Settlement) -> Result<(), String> {
        for rejected in &settlement.rejected {
            let id = self.places.get(&rejected.seq);
            if !id.is_some_and(|id| self.is_poison(*id)) {
                return Err(format!("REJECTED for nothing: {id:?}: {}", rejected.reason));
            }
            self.hub.rejected.insert(rejected.seq);
        }
        let through = std::iter::once((self.hub.settled_through.next(), settlement.through));
        for (first, last) in through.chain(settlement.beyond.iter().copied()).filter(|(f, l)| f <= l) {
            for (seq, id) in self.places.range(first..=last) {
                if !self.hub.settled.insert(*seq) || self.is_at_hub(*seq, *id) {
                    continue;
                }
                if !self.may_drop {
                    return Err(format!("LOST: {id:?} at {} is settled and the hub does not have it", seq.0));
                }
                self.hub.skipped.insert(*seq);
            }
        }
        self.hub.settled_through = self.hub.settled_through.max(settlement.through);
        Ok(())
    }

    /// It is on disk.
    pub fn note_settled(&mut self, settlement: &Settlement) {
        self.hub.kept.extend(settlement.rejected.iter().map(|rejected| rejected.seq));
    }

    fn is_poison(&self, id: ReadingId) -> bool {
        self.sent[&id].values.contains(POISON)
    }

    fn is_at_hub(&self, seq: Seq, id: ReadingId) -> bool {
        self.hub.uploaded.contains(&id) || self.hub.rejected.contains(&seq)
    }

    /// A reading that was acknowledged, and neither is at the hub nor was dropped nor is one it does not take.
    pub fn missing_at_hub(&self) -> Option<String> {
        let skipped: BTreeSet<ReadingId> =
            self.hub.skipped.iter().filter_map(|seq| self.places.get(seq).copied()).collect();
        let is_missing = |id: &&ReadingId| {
            !self.hub.uploaded.contains(id) && !skipped.contains(id) && !self.is_poison(**id)
        };
        self.acked.iter().find(is_missing).map(|id| format!("{id:?} has not reached the hub"))
    }

    /// What has left the journal is at the hub and the disk knows it, or was counted as lost; what is counted is gone.
    pub(super) fn check_gone(&self, rows: &BTreeMap<Seq, ReadingId>, disk: &OnDisk) -> Result<(), String> {
        if let Some(seq) = self.hub.skipped.iter().find(|seq| rows.contains_key(seq)) {
            return Err(format!("LOST: place {} is settled, and the hub does not have it", seq.0));
        }
        let is_lost = |(seq, id): &(Seq, ReadingId)| {
            !self.hub.settled.contains(seq) || self.hub.skipped.contains(seq) && !self.is_at_hub(*seq, *id)
        };
        let lost: Vec<_> = self.gone(rows).filter(is_lost).collect();
        if lost.len() as u64 > disk.dropped {
            let (first, dropped) = (&lost[0], disk.dropped);
            return Err(format!(
                "GONE: {} readings such as {first:?}, and {dropped} are counted",
                lost.len()
            ));
        }
        let gone = self.gone(rows).count() + self.unsure_places.len();
        if disk.dropped > gone as u64 || disk.dropped > 0 && !self.may_drop {
            return Err(format!("COUNTED: {} readings as dropped, and {gone} are gone", disk.dropped));
        }
        let rejected = self.hub.kept.len() as u64;
        // One that was dropped in the meantime cannot be kept any more.
        if disk.rejected + disk.rejected_dropped + disk.dropped < rejected {
            let kept = disk.rejected;
            return Err(format!("GONE: of {rejected} readings that were rejected only {kept} are kept"));
        }
        Ok(())
    }

    /// Each stream has arrived in order, or as two of which each is in order.
    pub fn check_upload_order(&self, lanes_max: usize) -> Result<(), String> {
        for (stream, numbers) in &self.hub.first_uploads {
            if lanes_of(numbers) <= lanes_max {
                continue;
            }
            // Of what a device has sent twice, the copies stand in order, and the first of some may have been dropped.
            let ids = self.places.values().filter(|id| id.stream == *stream);
            let (mut once, mut more) = (BTreeSet::new(), BTreeSet::new());
            ids.filter(|id| !once.insert(id.number)).for_each(|id| _ = more.insert(id.number));
            let sent_once: Vec<u64> =
                numbers.iter().copied().filter(|number| !more.contains(number)).collect();
            if lanes_of(&sent_once) > lanes_max {
                return Err(format!("ORDER: stream {stream} has arrived as {numbers:?}"));
            }
        }
        Ok(())
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
