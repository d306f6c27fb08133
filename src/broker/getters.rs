//! What the loop asks the broker before it does something: nothing here changes anything.

use std::time::Duration;

use crate::{clock::Now, ids::ConnId};

use super::{
    Broker, Counters, StoreState,
    connections::{Connection, Phase},
};

impl Broker {
    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Connections in the table, those that are closing included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Devices and local clients in the registry.
    pub fn identity_count(&self) -> usize {
        self.identities.count()
    }

    /// Whether the life of anything on disk is running out, so that it is worth noting how time goes by.
    pub fn counts_time(&self) -> bool {
        self.sessions.offline_len() > 0 || self.retained.next_expiry().is_some()
    }

    /// Whether the store takes readings.
    pub fn is_storing(&self) -> bool {
        self.store != StoreState::Failed
    }

    /// Whether readings are refused for want of room.
    pub fn is_storage_full(&self) -> bool {
        self.is_storage_full
    }

    /// Whether a CONNECT may be looked at in this turn, so that the registry had better be up to date: one of the
    /// `readable` has yet to be let in, or one that was put off may be due.
    pub fn expects_connect(&self, readable: &[ConnId], now: Now) -> bool {
        if self.unauthenticated.is_empty() {
            return false;
        }
        let may_say_it = |conn: &ConnId| {
            self.connections.get(*conn).is_some_and(|connection| connection.phase.is_unauthenticated())
        };
        self.deadlines.next().is_some_and(|at| at <= now.mono) || readable.iter().any(may_say_it)
    }

    /// Whether another connection may be accepted now; if not, ask again within [`Broker::accept_retry`].
    pub fn admits_more(&self, now: Now) -> bool {
        let full = self.unauthenticated.len() >= self.limits.connections_unauthenticated as usize;
        !full || self.longest_waiting(now).is_some()
    }

    /// How long to leave connections in the kernel's queue when no more are admitted.
    pub fn accept_retry(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Whether bytes of `conn` are welcome. If not, they stay in the socket, and TCP slows the peer down.
    pub fn wants_bytes(&self, conn: ConnId) -> bool {
        !self.put_off.contains(&conn) && self.may_go_on(conn)
    }

    /// Whether packets of `conn` may be handled, read or yet to be read.
    pub(super) fn may_go_on(&self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        match &connection.phase {
            Phase::Waiting | Phase::Closing => false,
            Phase::AwaitingConnect | Phase::Waited => self.may_read(connection),
            // Only to notice that it gives up.
            Phase::Held { .. } => {
                self.may_read(connection) && connection.partial.len() <= self.limits.connect_bytes as usize
            }
            Phase::Active(client) => {
                let only_publishes = || {
                    self.sessions
                        .get(client.session)
                        .is_some_and(|session| !session.rights.is_device() && session.outgoing.is_idle())
                };
                self.may_read(connection)
                    && !self.is_paused(conn)
                    && !(self.is_memory_short() && only_publishes())
            }
        }
    }

    /// Whether the batch has reached a bound: nothing more is read until it is committed.
    pub fn is_commit_urgent(&self) -> bool {
        self.batch.records.len() + self.batch.quarantined.len() + self.batch.changes.len()
            >= self.limits.commit_records as usize
            || self.batch_bytes >= self.limits.commit_bytes as usize
    }

    pub(super) fn may_read(&self, connection: &Connection) -> bool {
        connection.outbox.len() < self.limits.outbox_bytes as usize && !self.is_commit_urgent()
    }

    /// Whether so much waits for subscribers that local clients which only publish must wait too.
    pub(super) fn is_memory_short(&self) -> bool {
        self.queued_bytes >= self.limits.queue_memory_bytes as usize
    }
}
