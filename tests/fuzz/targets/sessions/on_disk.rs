//! The store, in maps, and everything that ever was in it: what may only be said after its commit is looked up here.

use std::collections::{BTreeMap, BTreeSet};

use forebay::{
    ids::{IdentityId, Seq, SessionId},
    session::{
        Batch, Message,
        durable::{Change, Recovered},
    },
};

use super::durable_model::DurableModel;

/// Whose a session is: the identity and the client id.
pub type Key = (IdentityId, String);

/// Something that a commit made durable, whether or not it still is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// The reading of this number.
    Reading(u64),
    /// A message of this text, for a session or more.
    Message(Vec<u8>),
    /// A retained message of this text.
    Retained(Vec<u8>),
    Subscribed(Key, String),
    /// An identifier of QoS 2 that the session's client used.
    Unreleased(Key, u16),
}

/// What was committed.
#[derive(Default)]
pub struct OnDisk {
    model: DurableModel,
    last_seq: Seq,
    sessions: BTreeMap<SessionId, Key>,
    facts: BTreeSet<Fact>,
}

impl OnDisk {
    /// Takes over a batch that was committed.
    pub fn commit(&mut self, batch: &Batch) {
        self.last_seq = batch.last_seq().unwrap_or(self.last_seq);
        let readings = batch.records.iter().filter_map(|record| n_of(record.values.as_bytes()));
        self.facts.extend(readings.map(Fact::Reading));
        for change in &batch.changes {
            self.note(change);
        }
        self.model.commit(batch);
    }

    /// The place of the last reading.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// What a start finds.
    pub fn recovered(&self) -> Recovered {
        self.model.recovered()
    }

    /// Whether this was ever committed.
    pub fn has_had(&self, fact: &Fact) -> bool {
        self.facts.contains(fact)
    }

    fn note(&mut self, change: &Change) {
        let text = |message: &Message| message.payload().to_vec();
        let fact = match change {
            Change::Session(row) => {
                self.sessions.insert(row.id, (row.identity, row.client_id.as_ref().to_owned()));
                return;
            }
            Change::Message { message, .. } => Fact::Message(text(message)),
            Change::Retained(message) => Fact::Retained(text(message)),
            Change::Subscribed { session, filter, .. } => {
                Fact::Subscribed(self.sessions[session].clone(), filter.as_ref().to_owned())
            }
            Change::Unreleased { session, packet_id } => {
                Fact::Unreleased(self.sessions[session].clone(), packet_id.get())
            }
            _ => return,
        };
        self.facts.insert(fact);
    }
}

/// The number of a reading.
pub fn n_of(values: &[u8]) -> Option<u64> {
    std::str::from_utf8(values).ok()?.strip_prefix("{\"n\":")?.strip_suffix('}')?.parse().ok()
}
