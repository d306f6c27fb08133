//! What there is at the moment, for people; [`Counters`](super::Counters) say what has happened.

use super::Broker;

/// What there is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Devices and local clients in the registry.
    pub identities: u64,
    /// Connections in the table, those that are closing included.
    pub connections: u64,
    /// Clients that were let in.
    pub clients_connected: u64,
    /// Sessions without a connection.
    pub sessions_offline: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Topics with a retained message.
    pub retained_messages: u64,
    /// Bytes of retained messages.
    pub retained_bytes: u64,
    /// Messages that wait for all sessions together.
    pub waiting_messages: u64,
    /// Bytes of messages that wait for all sessions together.
    pub waiting_bytes: u64,
}

impl Broker {
    /// What there is at the moment; counted anew, so not for every message.
    pub fn gauges(&self) -> Gauges {
        let own: usize = self.sessions.iter().map(|(_, session)| session.own_subscriptions.len()).sum();
        let waiting: usize = self.sessions.iter().map(|(_, session)| session.outgoing.waiting()).sum();
        Gauges {
            identities: self.identities.count() as u64,
            connections: self.connections.len() as u64,
            clients_connected: self.sessions.online_len() as u64,
            sessions_offline: self.sessions.offline_len() as u64,
            subscriptions: (self.subscriptions.len() + own) as u64,
            retained_messages: self.retained.len() as u64,
            retained_bytes: self.retained.bytes() as u64,
            waiting_messages: waiting as u64,
            waiting_bytes: (self.queued_bytes + self.offline_bytes) as u64,
        }
    }
}
