//! Packets that were read with others and have to wait: the client reads first what it has been sent, and nobody takes more
//! than a share of a turn.
//!
//! They lie in the connection's `partial`, and nothing more is read from it before they are handled, as soon as they may
//! be, in [`Broker::handle_timeout`].

use crate::{
    clock::{Mono, Now},
    ids::ConnId,
    limits::FILTERS_PER_TURN,
    session::CloseReason,
};

use super::Broker;

impl Broker {
    /// Whether the next packet of `conn`, which has been read, waits; it is noted if so.
    pub(super) fn must_put_off(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        let is_full = connection.outbox.len() >= self.limits.outbox_bytes as usize;
        // Nobody will make room in the outbox of one that is over, and no more than that goes into it.
        let waits = self.filters_taken >= FILTERS_PER_TURN || (is_full && connection.ends.is_none());
        if waits {
            self.put_off.insert(conn);
        }
        waits
    }

    /// Keeps what comes behind packets that wait; whether there are any.
    pub(super) fn keep_behind(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let is_put_off = self.put_off.contains(&conn);
        if is_put_off && let Some(connection) = self.connections.get_mut(conn) {
            connection.partial.extend_from_slice(bytes);
        }
        is_put_off
    }

    /// Whether `conn`, which is over for `reason`, has packets that wait: then it ends with the last of them.
    pub(super) fn ends_later(&mut self, conn: ConnId, reason: CloseReason) -> bool {
        let is_put_off = self.put_off.contains(&conn);
        if is_put_off && let Some(connection) = self.connections.get_mut(conn) {
            connection.ends.get_or_insert(reason);
        }
        is_put_off
    }

    /// Since when packets have waited that may be handled now.
    pub(super) fn next_put_off(&self) -> Option<Mono> {
        let may_go = self.put_off.iter().filter(|conn| self.may_be_taken_up(**conn));
        may_go.filter_map(|conn| self.connections.get(*conn)).map(|connection| connection.last_packet).min()
    }

    /// Handles packets that have waited; what has to wait again waits for the next turn.
    pub(super) fn handle_put_off(&mut self, now: Now) {
        let waiting: Vec<ConnId> = self.put_off.iter().copied().collect();
        for conn in waiting {
            if self.may_be_taken_up(conn) && self.put_off.remove(&conn) {
                self.take_up(conn, now);
            }
        }
    }

    fn take_up(&mut self, conn: ConnId, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (bytes, ends) = (std::mem::take(&mut connection.partial), connection.ends);
        self.handle_arrived(conn, &bytes, now);
        if let Some(reason) = ends
            && !self.put_off.contains(&conn)
        {
            self.close(conn, reason, now);
        }
        self.route_pending(now);
    }

    fn may_be_taken_up(&self, conn: ConnId) -> bool {
        let ends = self.connections.get(conn).is_some_and(|connection| connection.ends.is_some());
        if ends { !self.is_commit_urgent() } else { self.may_go_on(conn) }
    }
}
