//! The broker and the store: a batch is handed out, and what became of it is taken in.

use std::collections::BTreeSet;

use crate::{
    clock::Now,
    ids::ConnId,
    session::{Batch, CloseReason, Session, durable::Recovered},
};

use super::{Broker, Deadline, StoreState, commit_gate::Ticket};

impl Broker {
    /// The batch to make durable in one transaction, if one is due; then call `handle_committed` with the ticket,
    /// or `handle_commit_failed`.
    pub fn poll_commit(&mut self) -> Option<(Ticket, Batch)> {
        let is_awaited = self.gate.held() > 0 || self.durability.is_awaited();
        let due = self.commit_due || is_awaited || self.is_commit_urgent();
        if !due || self.batch.is_empty() || self.store != StoreState::Ready {
            return None;
        }
        self.commit_due = false;
        self.deadlines.cancel(Deadline::Commit);
        self.batch_bytes = 0;
        let through = self.gate.appended();
        self.store = StoreState::Committing(through);
        let batch = std::mem::take(&mut self.batch);
        self.committing = batch.records.len();
        self.counters.payloads_quarantined += batch.quarantined.len() as u64;
        Some((through, batch))
    }

    /// Everything up to `through` is on disk: the answers that waited for it may leave.
    ///
    /// # Panics
    /// If `through` is not what `poll_commit` handed out last: the store lied.
    pub fn handle_committed(&mut self, through: Ticket, now: Now) {
        assert_eq!(self.store, StoreState::Committing(through), "a commit nobody asked for");
        self.store = StoreState::Ready;
        self.counters.commits += 1;
        self.counters.readings_stored += self.committing as u64;
        self.stamps.forget_past(now.mono);
        self.release_announcements(through);
        let released: Vec<_> = self.gate.release(through).collect();
        for answer in released {
            self.on_released(answer, now);
        }
        self.release_deliveries(through, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// The commit failed, and nobody knows what of it is on disk: whoever waits for an answer is cut off without
    /// one, so that the readings are sent again. [MQTT-4.4.0-1]
    pub fn handle_commit_failed(&mut self, now: Now) {
        self.store = StoreState::Failed;
        self.counters.readings_failed += (self.committing + self.batch.records.len()) as u64;
        self.batch = Batch::default();
        self.batch_bytes = 0;
        self.commit_due = false;
        self.announcements.clear();
        self.deadlines.cancel(Deadline::Commit);
        self.doubt_subscribers();
        let mut cut_off: BTreeSet<ConnId> = self.gate.give_up().map(|held| held.conn).collect();
        let durable = |(_, session): (_, &Session)| session.conn.filter(|_| session.durable.is_some());
        cut_off.extend(self.sessions.iter().filter_map(durable));
        for conn in cut_off {
            self.close(conn, CloseReason::StoreFailed, now);
        }
        self.forget_everything_durable(now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// The store was opened again and passed its checks, and this is what it holds.
    pub fn handle_store_ready(&mut self, recovered: Recovered, now: Now) {
        assert_eq!(self.store, StoreState::Failed, "the store became ready without having failed");
        self.store = StoreState::Ready;
        self.next_seq = recovered.last_seq.next();
        self.adopt(recovered, now);
        self.check_invariants();
    }

    /// There is no room for readings any more, or there is again.
    pub fn handle_storage_full(&mut self, is_full: bool) {
        self.is_storage_full = is_full;
    }

    /// What is not yet on disk is due now: the broker is about to stop.
    pub fn handle_drain(&mut self) {
        self.commit_due = !self.batch.is_empty();
    }
}
