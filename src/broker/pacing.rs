//! When a connection is read from: its turn, its pauses, and what silence means meanwhile.
//!
//! The rates themselves are in `rates`; here is what comes of them.

use std::net::IpAddr;

use crate::{
    clock::{Mono, Now},
    ids::{ConnId, SessionSlot},
    session::CloseReason,
};

use super::{
    Broker, Deadline,
    connections::{Connection, Phase},
    rates::{Publisher, Turn},
};

impl Broker {
    /// Lets a new connection say CONNECT, now or when its address has had enough time to itself.
    pub(super) fn on_accepted(&mut self, conn: ConnId, address: IpAddr, now: Now) {
        let turn = self.rates.note_connection(address, now.mono, &self.limits);
        if turn == Turn::Never {
            return self.close(conn, CloseReason::ConnectRate, now);
        }
        if let Turn::After(wait) = turn
            && let Some(connection) = self.connections.get_mut(conn)
        {
            connection.phase = Phase::Waiting;
            self.deadlines.arm(Deadline::Wait(conn), now.mono + wait);
        }
        self.deadlines.arm(Deadline::Connect(conn), now.mono + self.limits.connect_timeout());
        self.make_room(now);
    }

    /// A connection has waited long enough: for its turn to be read from, or for its CONNECT to be looked at.
    pub(super) fn on_wait_over(&mut self, conn: ConnId, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if !matches!(connection.phase, Phase::Waiting) {
            return;
        }
        if connection.partial.is_empty() {
            connection.phase = Phase::AwaitingConnect;
            return;
        }
        connection.phase = Phase::Waited;
        let held_back = std::mem::take(&mut connection.partial);
        self.handle_bytes(conn, &held_back, now);
    }

    /// Counts a PUBLISH that came on `conn`; beyond a rate nothing more is read from its identity, or its address, for a
    /// while.
    pub(super) fn pace(&mut self, conn: ConnId, slot: SessionSlot, now: Now) {
        let Some(session) = self.sessions.get(slot) else { return };
        let Some(address) = self.connections.get(conn).map(|connection| connection.address) else { return };
        let identity = Publisher::Identity(session.identity);
        let (per_s, knob) = if session.rights.is_device() {
            (self.limits.device_publishes_per_s, "device_publishes_per_s")
        } else {
            (self.limits.client_publishes_per_s, "client_publishes_per_s")
        };
        if self.overdraws(identity, per_s, now)
            && let Some(name) = self.sessions.get(slot).map(|session| session.name.clone())
        {
            self.tell(address, "publishes too fast", now, || {
                format!("{name} at {address} publishes faster than {knob} and is slowed down")
            });
        }
        if self.overdraws(Publisher::Address(address), self.limits.publishes_per_address_per_s, now) {
            self.tell(address, "too much is published", now, || {
                format!(
                    "more is published from {address} than publishes_per_address_per_s; it is slowed down"
                )
            });
        }
    }

    /// Whether a PUBLISH of `publisher`, counted here, begins a pause.
    fn overdraws(&mut self, publisher: Publisher, per_s: u32, now: Now) -> bool {
        let Some(until) = self.rates.note_publish(publisher, per_s, now.mono) else { return false };
        let begins = !self.deadlines.is_armed(Deadline::Pause(publisher));
        if begins {
            self.deadlines.arm(Deadline::Pause(publisher), until);
        }
        begins
    }

    /// What `publisher` has sent meanwhile is read now, so its silence and its unfinished packets begin anew.
    pub(super) fn on_pause_over(&mut self, publisher: Publisher, now: Now) {
        if let Some(until) = self.rates.handle_pause_over(publisher, now.mono) {
            return self.deadlines.arm(Deadline::Pause(publisher), until);
        }
        let identity = match publisher {
            Publisher::Identity(identity) => identity,
            Publisher::Address(address) => {
                // An address may have thousands of connections; each asks when its own time is up.
                if let Some(from_address) = self.per_address.get_mut(&address) {
                    from_address.read_since = now.mono;
                }
                return;
            }
        };
        for conn in self.identities.connections(identity) {
            if let Some(connection) = self.connections.get_mut(*conn) {
                connection.last_packet = now.mono;
            }
            if self.deadlines.is_armed(Deadline::Packet(*conn)) {
                self.deadlines.arm(Deadline::Packet(*conn), now.mono + self.limits.packet_timeout());
            }
        }
    }

    /// A packet is unfinished for too long, unless that is for not being read.
    pub(super) fn on_packet_late(&mut self, conn: ConnId, now: Now) {
        let Some(connection) = self.connections.get(conn) else { return };
        let read_since = if self.is_paused(conn) { now.mono } else { self.read_since(connection) };
        let late_at = read_since + self.limits.packet_timeout();
        if late_at > now.mono {
            return self.deadlines.arm(Deadline::Packet(conn), late_at);
        }
        self.close(conn, CloseReason::PacketTimeout, now);
    }

    pub(super) fn on_silence(&mut self, conn: ConnId, now: Now) {
        let is_paused = self.is_paused(conn);
        let Some(connection) = self.connections.get(conn) else { return };
        let Phase::Active(client) = &connection.phase else { return };
        let read_since = self.read_since(connection);
        let heard = if is_paused { now.mono } else { connection.last_packet.max(read_since) };
        let gone_at = heard + client.silence_max;
        if gone_at <= now.mono {
            self.close(conn, CloseReason::KeepAliveTimeout, now);
        } else {
            self.deadlines.arm(Deadline::Silence(conn), gone_at);
        }
    }

    /// When the last pause of the address of `connection` was over.
    fn read_since(&self, connection: &Connection) -> Mono {
        self.per_address.get(&connection.address).map_or(Mono::default(), |from| from.read_since)
    }

    /// Whether nothing is read from `conn`, which was let in, because its identity or its address publishes too fast.
    pub(super) fn is_paused(&self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        let Phase::Active(client) = &connection.phase else { return false };
        let is_paused = |publisher| self.rates.paused_until(publisher).is_some();
        is_paused(Publisher::Address(connection.address))
            || self
                .sessions
                .get(client.session)
                .is_some_and(|session| is_paused(Publisher::Identity(session.identity)))
    }
}
