//! The gateway's dealings with its uplink, as in `event_loop/uplink.rs` and `storage.rs`.

use std::time::Duration;

use forebay::{record::Settlement, session::Batch};

use super::{Gateway, Room};
use crate::{sabotage::Sabotage, trace::note, uploading::Uploading};

/// Wait before the store is asked again where to begin.
const RETRY: Duration = Duration::from_secs(1);

impl Gateway {
    /// Takes what the hub has sent.
    pub(super) fn read_uplink(&mut self, room: &mut Room<'_>) {
        if let (Some(uploading), Some(upstream)) = (&mut self.uploading, &mut room.upstream) {
            uploading.read(upstream, room.net_now, room.now);
        }
    }

    /// Everything else the uplink wants in this turn.
    pub(super) fn drive_uplink(&mut self, room: &mut Room<'_>) {
        let Some(upstream) = &mut room.upstream else { return };
        if let Some(uploading) = &mut self.uploading {
            return uploading.serve(upstream, &mut self.buffer, (room.net_now, room.now), room.trace);
        }
        if !self.buffer.is_open() || self.begin_again.is_some_and(|at| at > room.now.mono) {
            return;
        }
        let seed = u64::from(self.epoch) ^ room.net_now;
        match Uploading::begin(&self.buffer, upstream, seed, room.clock.synchronised, room.now) {
            Ok(uploading) => self.uploading = Some(uploading),
            Err(error) => {
                note!(room.trace, "the uplink cannot begin: {error}");
                self.begin_again = Some(room.now.mono + RETRY);
            }
        }
    }

    /// What became of readings, to ride in a commit that is made anyway.
    pub(super) fn poll_settlement(&mut self) -> Option<Settlement> {
        let settlement = self.uploading.as_mut()?.uplink.poll_settlement()?;
        Some(self.falsify(settlement))
    }

    /// The same, if a commit is to be made for it alone.
    pub(super) fn poll_due_settlement(&mut self) -> Option<Settlement> {
        let is_due = self.uploading.as_ref().is_some_and(|u| u.uplink.settlement_is_due());
        if is_due && self.buffer.is_open() { self.poll_settlement() } else { None }
    }

    fn falsify(&self, settlement: Settlement) -> Settlement {
        match self.sabotage {
            Sabotage::SettleUnacknowledged => {
                let through = settlement.through.max(self.buffer.last_seq());
                Settlement { through, beyond: Vec::new(), ..settlement }
            }
            Sabotage::ForgetRejected => Settlement { rejected: Vec::new(), ..settlement },
            _ => settlement,
        }
    }

    /// Commits what became of readings at the hub, and nothing else.
    pub(super) fn commit_settlement(&mut self, settlement: Option<Settlement>, room: &mut Room<'_>) {
        let Some(settlement) = settlement else { return };
        let batch = Batch { settlements: vec![settlement], ..Batch::default() };
        let outcome = self.append(&batch, room);
        self.note_settled(&batch, outcome.is_ok(), room);
        if let Err(error) = outcome {
            note!(room.trace, "what the hub has is not stored: {error}");
            if !self.buffer.is_open() {
                self.fail_store(room);
            }
        }
    }

    pub(super) fn note_settled(&mut self, batch: &Batch, on_disk: bool, room: &mut Room<'_>) {
        let (Some(uploading), Some(settlement)) = (&mut self.uploading, batch.settlements.first()) else {
            return;
        };
        // Also if the commit failed: it may be on disk all the same.
        if let Err(words) = room.ledger.check_settled(settlement) {
            self.broken = Some(words);
        }
        if !on_disk {
            room.trace.count("a settlement that is not stored");
            return uploading.uplink.handle_settle_failed(room.now);
        }
        note!(room.trace, "settled through {} and {:?}", settlement.through.0, settlement.beyond);
        room.trace.count("a settlement on disk");
        for rejected in &settlement.rejected {
            note!(room.trace, "{} is rejected: {}", rejected.seq.0, rejected.reason);
            room.trace.count("a reading the hub has rejected");
        }
        room.ledger.note_settled(settlement);
        uploading.uplink.handle_settled(room.now);
    }

    pub(super) fn note_stored(&mut self, room: &Room<'_>) {
        if let Some(uploading) = &mut self.uploading {
            uploading.uplink.handle_stored(self.buffer.last_seq(), room.now);
        }
    }

    /// Says goodbye to the hub, and puts on disk what became of readings.
    pub(super) fn stop_uplink(&mut self, room: &mut Room<'_>) {
        if let (Some(uploading), Some(upstream)) = (&mut self.uploading, &mut room.upstream) {
            uploading.stop(upstream, room.net_now, room.now, room.trace);
            let last = self.poll_settlement();
            self.commit_settlement(last, room);
        }
    }
}
