//! What a store must remember of sessions and retained messages, in maps: the batches that were committed, and what a
//! start finds of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use forebay::{
    clock::Mono,
    ids::{DeliveryId, MessageId, Seq, SessionId},
    mqtt::PacketId,
    session::{
        Batch, Message, Terms, Will,
        durable::{Change, DeliveryRow, Recovered, RecoveredSession, SessionRow},
    },
};

/// The committed state.
#[derive(Clone, Debug, Default)]
pub struct DurableModel {
    last_seq: Seq,
    sessions: BTreeMap<SessionId, Kept>,
    messages: BTreeMap<MessageId, Arc<Message>>,
    deliveries: BTreeMap<DeliveryId, DeliveryRow>,
    retained: BTreeMap<Box<str>, Arc<Message>>,
    last_session: SessionId,
}

#[derive(Clone, Debug)]
struct Kept {
    row: SessionRow,
    subscriptions: BTreeMap<Box<str>, Terms>,
    unreleased: BTreeSet<PacketId>,
    will: Option<(Will, Option<Mono>)>,
}

impl DurableModel {
    /// Takes over a batch that was committed.
    pub fn commit(&mut self, batch: &Batch) {
        self.last_seq = batch.last_seq().unwrap_or(self.last_seq);
        for change in &batch.changes {
            self.apply(change.clone());
        }
    }

    /// What a start finds.
    pub fn recovered(&self) -> Recovered {
        let session = |(id, kept): (&SessionId, &Kept)| RecoveredSession {
            row: kept.row.clone(),
            subscriptions: kept.subscriptions.clone().into_iter().collect(),
            deliveries: self.deliveries.values().filter(|row| row.session == *id).cloned().collect(),
            unreleased: kept.unreleased.iter().copied().collect(),
            will: kept.will.clone(),
        };
        Recovered {
            last_seq: self.last_seq,
            sessions: self.sessions.iter().map(session).collect(),
            messages: self.messages.clone().into_iter().collect(),
            retained: self.retained.values().map(|message| Message::clone(message)).collect(),
            last_session: self.last_session,
            last_message: self.messages.keys().next_back().copied().unwrap_or_default(),
            last_delivery: self.deliveries.keys().next_back().copied().unwrap_or_default(),
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Session(row) => {
                let id = row.id;
                self.last_session = self.last_session.max(id);
                let fresh = Kept {
                    row: row.clone(),
                    subscriptions: BTreeMap::new(),
                    unreleased: BTreeSet::new(),
                    will: None,
                };
                self.sessions.entry(id).or_insert(fresh).row = row;
            }
            Change::SessionOver(id) => {
                self.sessions.remove(&id).expect("a session that began");
                self.deliveries.retain(|_, row| row.session != id);
            }
            Change::Subscribed { session, filter, terms } => {
                self.session(session).subscriptions.insert(filter, terms);
            }
            Change::Unsubscribed { session, filter } => {
                self.session(session).subscriptions.remove(&filter);
            }
            Change::Message { id, message } => {
                let message = Arc::new(Message::clone(&message).by(None));
                assert!(self.messages.insert(id, message).is_none(), "a number given twice");
            }
            Change::MessageOver(id) => {
                self.messages.remove(&id).expect("a message that was kept");
                assert!(self.deliveries.values().all(|row| row.message != id), "a delivery speaks of it");
            }
            Change::Queued(row) => {
                assert!(self.messages.contains_key(&row.message), "a delivery of nothing");
                assert!(self.sessions.contains_key(&row.session), "a delivery to nobody");
                assert!(self.deliveries.last_key_value().is_none_or(|(last, _)| *last < row.id));
                self.deliveries.insert(row.id, row);
            }
            Change::Sent { delivery, packet_id } => self.delivery(delivery).packet_id = Some(packet_id),
            Change::Received(delivery) => self.delivery(delivery).received = true,
            Change::Delivered(delivery) => {
                self.deliveries.remove(&delivery).expect("a delivery that was queued");
            }
            Change::Unreleased { session, packet_id } => {
                self.session(session).unreleased.insert(packet_id);
            }
            Change::Released { session, packet_id } => {
                self.session(session).unreleased.remove(&packet_id);
            }
            Change::Will { session, will, due } => self.session(session).will = Some((*will, due)),
            Change::WillOver(session) => self.session(session).will = None,
            Change::Retained(message) => {
                self.retained.insert(message.topic().as_str().into(), message);
            }
            Change::RetainedOver(topic) => {
                self.retained.remove(&topic).expect("a message that was retained");
            }
        }
    }

    fn session(&mut self, id: SessionId) -> &mut Kept {
        self.sessions.get_mut(&id).expect("a session that began and is not over")
    }

    fn delivery(&mut self, id: DeliveryId) -> &mut DeliveryRow {
        self.deliveries.get_mut(&id).expect("a delivery that was queued and is not over")
    }
}
