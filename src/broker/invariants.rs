//! What must hold between any two calls; checked after each in tests and debug builds.

use super::{Broker, Deadline, StoreState, connections::Phase};

impl Broker {
    /// Panics if an invariant does not hold; costs nothing in a release build.
    pub fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.gate.check_invariants();
        self.identities.check_invariants();
        self.subscriptions.check_invariants();
        self.check_batch();
        self.check_connections();
    }

    fn check_batch(&self) {
        let sequence = self.batch.records.iter().map(|record| record.seq.0);
        let first = self.next_seq.0 - self.batch.records.len() as u64;
        assert!(sequence.eq(first..self.next_seq.0), "the batch has a gap");
        if self.store == StoreState::Failed {
            assert!(self.batch.is_empty() && self.gate.held() == 0, "accepted what cannot be stored");
        }
        if !self.batch.is_empty() && self.store == StoreState::Ready && !self.commit_due {
            assert!(
                self.gate.held() > 0 || self.deadlines.is_armed(Deadline::Commit) || self.is_commit_urgent(),
                "a batch nobody will commit"
            );
        }
    }

    fn check_connections(&self) {
        let mut waiting = 0;
        let mut from_addresses = 0;
        let (mut subscriptions, mut queued_bytes) = (0, 0);
        for (conn, connection) in self.connections.iter() {
            from_addresses += 1;
            waiting += usize::from(connection.phase.is_unauthenticated());
            match &connection.phase {
                Phase::Active(session) => {
                    assert!(
                        self.deadlines.is_armed(Deadline::Silence(conn)),
                        "{conn:?} may be silent for ever"
                    );
                    assert_eq!(
                        session.unanswered as usize,
                        self.gate.held_for(conn),
                        "{conn:?} is owed an answer"
                    );
                    session.outgoing.check_invariants();
                    assert!(session.subscriptions.len() <= session.subscriptions_max(&self.limits));
                    subscriptions += session.subscriptions.len();
                    queued_bytes += session.outgoing.waiting_bytes();
                    assert!(self.identities.connections(session.identity).contains(&conn));
                    assert!(connection.partial.len() < session.packet_bytes_max(&self.limits) as usize);
                    if !connection.partial.is_empty() {
                        assert!(
                            self.deadlines.is_armed(Deadline::Packet(conn)),
                            "{conn:?} may dawdle for ever"
                        );
                    }
                }
                Phase::AwaitingConnect | Phase::Waiting | Phase::Waited => {
                    assert!(self.deadlines.is_armed(Deadline::Connect(conn)), "{conn:?} may wait for ever");
                }
                Phase::Closing => assert!(connection.partial.is_empty()),
            }
        }
        assert_eq!(subscriptions, self.subscriptions.len(), "a subscription without its subscriber");
        assert_eq!(queued_bytes, self.queued_bytes);
        assert!(self.to_route.is_empty(), "a message nobody will route");
        assert_eq!(waiting, self.unauthenticated.len());
        assert_eq!(from_addresses, self.per_address.values().map(|count| *count as usize).sum::<usize>());
    }
}
