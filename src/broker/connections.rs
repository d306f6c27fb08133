//! The table of connections: what is known of each, found by its slot.

use std::net::IpAddr;

use crate::{
    byte_queue::ByteQueue,
    clock::Mono,
    ids::ConnId,
    mqtt::ProtocolVersion,
    session::{Client, CloseReason},
};

use super::trials::TrialId;

/// One connection, from accept to close.
#[derive(Debug)]
pub struct Connection {
    /// Where it comes from.
    pub address: IpAddr,
    /// How far it has come.
    pub phase: Phase,
    /// The beginning of a packet whose end has not arrived; empty, and without memory, most of the time.
    pub partial: Vec<u8>,
    /// Bytes for the peer.
    pub outbox: ByteQueue,
    /// When it was accepted.
    pub accepted: Mono,
    /// When its last packet was complete, or else when it was accepted.
    pub last_packet: Mono,
    /// Whether it stands in the list of connections with new output.
    pub listed: bool,
    /// Why it is over, once the packets it sent before are handled.
    pub ends: Option<CloseReason>,
}

/// What is known of an address for as long as somebody is connected from there.
#[derive(Debug, Default)]
pub struct FromAddress {
    /// How many connections it has.
    pub connections: u32,
    /// When its last pause was over, if it was ever over its rate.
    pub read_since: Mono,
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Phase {
    /// Nothing but CONNECT may come. [MQTT-3.1.0-1]
    AwaitingConnect,
    /// Its CONNECT lies in `partial` until its address has waited for earlier refusals.
    Waiting,
    /// Its CONNECT waited; it is looked at now, or the rest of it awaited.
    Waited,
    /// Its CONNECT lies in `partial`, with what came behind it, until the hub was asked about its token.
    Held {
        /// The question.
        trial: TrialId,
        /// The version of the CONNECT, and the largest answer it takes.
        answer: (ProtocolVersion, u32),
    },
    /// It was let in.
    Active(Box<Client>),
    /// It is over; what is in the outbox may still leave.
    Closing,
}

impl Phase {
    /// Whether the client has yet to be let in, and nobody but itself is to blame for it.
    pub fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::AwaitingConnect | Self::Waiting | Self::Waited)
    }
}

/// Connections by slot; a slot's epoch tells its owners apart.
#[derive(Debug, Default)]
pub struct Connections {
    slots: Vec<Option<(u32, Connection)>>,
    count: usize,
}

impl Connections {
    /// Adds `connection` under `id`.
    ///
    /// # Panics
    /// If the slot is still taken.
    pub fn insert(&mut self, id: ConnId, connection: Connection) {
        let slot = id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "slot {slot} was used again before its connection was removed");
        self.slots[slot] = Some((id.epoch, connection));
        self.count += 1;
    }

    /// The connection `id`, unless it is gone.
    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        match self.slots.get(id.slot as usize)? {
            Some((epoch, connection)) if *epoch == id.epoch => Some(connection),
            _ => None,
        }
    }

    /// The connection `id`, unless it is gone.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        match self.slots.get_mut(id.slot as usize)? {
            Some((epoch, connection)) if *epoch == id.epoch => Some(connection),
            _ => None,
        }
    }

    /// The client of `id`, if it was let in and is not over.
    pub fn client(&self, id: ConnId) -> Option<&Client> {
        match &self.get(id)?.phase {
            Phase::Active(client) => Some(client),
            _ => None,
        }
    }

    /// The client of `id`, if it was let in and is not over.
    pub fn client_mut(&mut self, id: ConnId) -> Option<&mut Client> {
        match &mut self.get_mut(id)?.phase {
            Phase::Active(client) => Some(client),
            _ => None,
        }
    }

    /// Takes the connection `id` out of the table.
    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        self.count -= 1;
        self.slots[id.slot as usize].take().map(|(_, connection)| connection)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All of them, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let (epoch, connection) = entry.as_ref()?;
            Some((ConnId { slot: slot as u32, epoch: *epoch }, connection))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn connection() -> Connection {
        Connection {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            phase: Phase::AwaitingConnect,
            partial: Vec::new(),
            outbox: ByteQueue::default(),
            accepted: Mono(0),
            last_packet: Mono(0),
            listed: false,
            ends: None,
        }
    }

    #[test]
    fn a_reused_slot_does_not_answer_to_its_former_owner() {
        let (old, new) = (ConnId { slot: 3, epoch: 1 }, ConnId { slot: 3, epoch: 2 });
        let mut connections = Connections::default();
        connections.insert(old, connection());
        assert!(connections.remove(old).is_some());
        connections.insert(new, connection());
        assert!(connections.get(old).is_none() && connections.remove(old).is_none());
        assert!(connections.get(new).is_some());
        assert_eq!(connections.iter().map(|(id, _)| id).collect::<Vec<_>>(), [new]);
    }

    #[test]
    #[should_panic(expected = "slot 3 was used again")]
    fn a_taken_slot_cannot_be_used_again() {
        let mut connections = Connections::default();
        connections.insert(ConnId { slot: 3, epoch: 1 }, connection());
        connections.insert(ConnId { slot: 3, epoch: 2 }, connection());
    }
}
