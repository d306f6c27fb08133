//! The end of a connection: who is told, what becomes of the will, what is written in the log.

use crate::{
    clock::Now,
    ids::{ConnId, DeviceName},
    mqtt::{Disconnect, Packet, Properties, PropertiesBuf, Property, ProtocolVersion},
    session::{Client, CloseReason},
};

use super::{Broker, Deadline, connections::Phase, notices::Notice};

impl Broker {
    /// Ends `conn` for `reason`; does nothing if it is over already.
    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason, now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        if matches!(phase, Phase::Closing) {
            return;
        }
        connection.partial = Vec::new();
        self.put_off.remove(&conn);
        for deadline in
            [Deadline::Connect, Deadline::Packet, Deadline::Silence, Deadline::Wait, Deadline::Trial]
                .map(|of| of(conn))
        {
            self.deadlines.cancel(deadline);
        }
        let device = match phase {
            Phase::Active(client) => {
                let name = self.sessions.get(client.session).map(|session| session.name.clone());
                self.end_client(conn, &client, reason, now);
                name
            }
            Phase::Held { trial, .. } => {
                self.trials.leave(trial, conn);
                None
            }
            Phase::AwaitingConnect | Phase::Waiting | Phase::Waited | Phase::Closing => {
                self.forget_waiting(conn);
                None
            }
        };
        self.tell_people(conn, device, reason, now);
        self.closes.push_back((conn, reason));
    }

    /// Takes `conn` off the list of those that wait to be let in.
    pub(super) fn forget_waiting(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get(conn) {
            self.unauthenticated.remove(&(connection.accepted, conn));
        }
    }

    fn end_client(&mut self, conn: ConnId, client: &Client, reason: CloseReason, now: Now) {
        if let Some(session) = self.sessions.get(client.session) {
            let identity = session.identity;
            self.identities.remove_connection(identity, conn);
            if session.rights.is_device() && self.identities.connections(identity).is_empty() {
                self.downlink.note_presence(&session.name);
            }
        }
        if client.version == ProtocolVersion::V5
            && let Some(code) = reason.disconnect_code()
        {
            let words = reason.to_string();
            let mut properties = PropertiesBuf::new();
            properties.push(Property::ReasonString(&words));
            // With the words if the client takes a packet of that size, else without, else not at all.
            [properties.as_properties(), Properties::EMPTY].into_iter().any(|properties| {
                let goodbye = Packet::Disconnect(Disconnect { reason: code, properties });
                self.send(conn, &goodbye, client.version, client.answer_bytes_max)
            });
        }
        self.leave_session(client, reason, now);
    }

    fn tell_people(&mut self, conn: ConnId, device: Option<DeviceName>, reason: CloseReason, now: Now) {
        if matches!(reason, CloseReason::Refused(_)) {
            self.counters.connects_refused += 1;
        }
        let Some(address) = self.connections.get(conn).map(|connection| connection.address) else { return };
        let words = || match &device {
            Some(name) => format!("closed {name} at {address}: {reason}"),
            None => format!("closed a connection from {address}: {reason}"),
        };
        if reason.is_noteworthy() {
            self.counters.connections_faulted += 1;
            self.tell(address, reason.label(), now, words);
        } else {
            log::debug!("{}", words());
        }
    }

    /// Writes one log line, unless the same was said lately or too much is being said.
    pub(super) fn tell(
        &mut self,
        address: std::net::IpAddr,
        label: &'static str,
        now: Now,
        words: impl FnOnce() -> String,
    ) {
        match self.notices.ask(address, label, now.mono, &self.limits) {
            Notice::LeaveOut => {}
            Notice::Write { left_out: 0 } => log::warn!("{}", words()),
            Notice::Write { left_out } => {
                log::warn!("{} ({left_out} lines left out before this one)", words())
            }
        }
    }
}
