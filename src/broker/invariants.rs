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
        self.check_sessions();
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
                self.gate.held() > 0
                    || self.durability.is_awaited()
                    || self.deadlines.is_armed(Deadline::Commit)
                    || self.is_commit_urgent(),
                "a batch nobody will commit"
            );
        }
    }

    fn check_connections(&self) {
        let (mut waiting, mut held) = (0, 0);
        let mut from_addresses = 0;
        for (conn, connection) in self.connections.iter() {
            from_addresses += 1;
            waiting += usize::from(connection.phase.is_unauthenticated());
            match &connection.phase {
                Phase::Active(client) => {
                    assert!(
                        self.deadlines.is_armed(Deadline::Silence(conn)),
                        "{conn:?} may be silent for ever"
                    );
                    assert_eq!(
                        client.unanswered as usize,
                        self.gate.held_for(conn),
                        "{conn:?} is owed an answer"
                    );
                    let session = self.sessions.get(client.session).expect("a client has a session");
                    assert_eq!(session.conn, Some(conn), "a session that knows another connection");
                    assert!(self.identities.connections(session.identity).contains(&conn));
                    let is_put_off = self.put_off.contains(&conn);
                    assert!(!connection.partial.is_empty() || !is_put_off, "nothing waits for {conn:?}");
                    assert!(connection.ends.is_none() || is_put_off, "{conn:?} may be over for ever");
                    if !connection.partial.is_empty() && !is_put_off {
                        let bytes_max = session.packet_bytes_max(&self.limits) as usize;
                        assert!(connection.partial.len() < bytes_max);
                        assert!(
                            self.deadlines.is_armed(Deadline::Packet(conn)),
                            "{conn:?} may dawdle for ever"
                        );
                    }
                }
                Phase::AwaitingConnect | Phase::Waiting | Phase::Waited => {
                    assert!(self.deadlines.is_armed(Deadline::Connect(conn)), "{conn:?} may wait for ever");
                }
                Phase::Held { trial, .. } => {
                    assert!(self.deadlines.is_armed(Deadline::Trial(conn)), "{conn:?} may be held for ever");
                    assert!(self.trials.holds(*trial, conn), "{conn:?} waits for nothing");
                    held += 1;
                }
                Phase::Closing => {
                    assert!(connection.partial.is_empty() && !self.put_off.contains(&conn));
                }
            }
        }
        assert!(self.to_route.is_empty(), "a message nobody will route");
        assert_eq!(held, self.trials.held_len());
        assert_eq!(waiting, self.unauthenticated.len());
        assert_eq!(
            from_addresses,
            self.per_address.values().map(|from| from.connections as usize).sum::<usize>()
        );
    }

    fn check_sessions(&self) {
        self.sessions.check_invariants();
        self.durability.check_invariants(&self.sessions);
        let (mut subscriptions, mut queued_bytes, mut offline_bytes) = (0, 0, 0);
        for (slot, session) in self.sessions.iter() {
            session.outgoing.check_invariants();
            assert!(session.subscription_count() <= session.subscriptions_max(&self.limits));
            assert!(session.own_subscriptions.is_empty() || session.rights.is_device());
            subscriptions += session.subscriptions.len();
            let bytes = session.outgoing.waiting_bytes();
            match session.conn {
                Some(conn) => {
                    assert!(self.connections.client(conn).is_some_and(|client| client.session == slot));
                    queued_bytes += bytes;
                }
                None => {
                    let is_bounded = self.deadlines.is_armed(Deadline::SessionEnd(slot));
                    assert!(is_bounded || session.expiry().is_none(), "a session nobody will end");
                    offline_bytes += bytes;
                }
            }
        }
        assert_eq!(subscriptions, self.subscriptions.len(), "a subscription without its subscriber");
        assert_eq!((queued_bytes, offline_bytes), (self.queued_bytes, self.offline_bytes));
        assert!(self.store != StoreState::Failed || self.sessions.offline_len() == 0);
    }
}
