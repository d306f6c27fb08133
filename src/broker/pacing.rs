//! When a connection is read from: its turn, its pauses, and what silence means meanwhile.
//!
//! The rates themselves are in `rates`; here is what comes of them.

use std::net::IpAddr;

use crate::{
    clock::Now,
    ids::{ConnId, IdentityId, SessionSlot},
    session::CloseReason,
};

use super::{Broker, Deadline, connections::Phase, rates::Turn};

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

    /// Counts a PUBLISH that came on `conn`; beyond the rate nothing more is read from its identity for a while.
    pub(super) fn pace(&mut self, conn: ConnId, session: SessionSlot, now: Now) {
        let Some(session) = self.sessions.get(session) else { return };
        let identity = session.identity;
        let (per_s, knob) = if session.rights.is_device() {
            (self.limits.device_publishes_per_s, "device_publishes_per_s")
        } else {
            (self.limits.client_publishes_per_s, "client_publishes_per_s")
        };
        let Some(until) = self.rates.note_publish(identity, per_s, now.mono) else { return };
        if self.deadlines.is_armed(Deadline::Pause(identity)) {
            return;
        }
        self.deadlines.arm(Deadline::Pause(identity), until);
        let name = session.name.clone();
        let Some(address) = self.connections.get(conn).map(|connection| connection.address) else { return };
        self.tell(address, "publishes too fast", now, || {
            format!("{name} at {address} publishes faster than {knob} and is slowed down")
        });
    }

    /// What `identity` has sent meanwhile is read now, so its silence and its unfinished packets begin anew.
    pub(super) fn on_pause_over(&mut self, identity: IdentityId, now: Now) {
        if let Some(until) = self.rates.handle_pause_over(identity, now.mono) {
            return self.deadlines.arm(Deadline::Pause(identity), until);
        }
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
        if self.is_paused(conn) {
            return self.deadlines.arm(Deadline::Packet(conn), now.mono + self.limits.packet_timeout());
        }
        self.close(conn, CloseReason::PacketTimeout, now);
    }

    pub(super) fn on_silence(&mut self, conn: ConnId, now: Now) {
        let is_paused = self.is_paused(conn);
        let Some(connection) = self.connections.get(conn) else { return };
        let Phase::Active(client) = &connection.phase else { return };
        let heard = if is_paused { now.mono } else { connection.last_packet };
        let gone_at = heard + client.silence_max;
        if gone_at <= now.mono {
            self.close(conn, CloseReason::KeepAliveTimeout, now);
        } else {
            self.deadlines.arm(Deadline::Silence(conn), gone_at);
        }
    }

    /// Whether nothing is read from `conn` because its identity publishes too fast.
    pub(super) fn is_paused(&self, conn: ConnId) -> bool {
        let session = self.connections.client(conn).and_then(|client| self.sessions.get(client.session));
        session.is_some_and(|session| self.rates.paused_until(session.identity).is_some())
    }
}
