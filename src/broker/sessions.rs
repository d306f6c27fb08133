//! The table of sessions, those of connected clients and those that outlive their connection: found by slot, and by
//! whose they are.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    clock::Mono,
    ids::{IdentityId, SessionSlot},
    session::{Message, Session},
};

/// Sessions by slot; a slot is used again once its session is over.
#[derive(Debug, Default)]
pub struct Sessions {
    slots: Vec<Option<Box<Session>>>,
    free: Vec<u32>,
    by_key: HashMap<(IdentityId, Arc<str>), SessionSlot>,
    /// Those without a connection, by identity, longest gone first.
    offline: BTreeSet<(IdentityId, Mono, SessionSlot)>,
}

impl Sessions {
    /// Adds a session.
    ///
    /// # Panics
    /// If its identity has one of that client id already.
    pub fn insert(&mut self, session: Session) -> SessionSlot {
        let key = (session.identity, Arc::clone(&session.client_id));
        let free = self.free.pop();
        let slot = SessionSlot(free.unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("connections and sessions are bounded")
        }));
        let before = self.by_key.insert(key, slot);
        assert_eq!(before, None, "two sessions of one client");
        self.slots[slot.0 as usize] = Some(Box::new(session));
        slot
    }

    /// Takes a session out of the table.
    pub fn remove(&mut self, slot: SessionSlot) -> Option<Box<Session>> {
        let session = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_key.remove(&(session.identity, Arc::clone(&session.client_id)));
        self.free.push(slot.0);
        Some(session)
    }

    /// The session in `slot`.
    pub fn get(&self, slot: SessionSlot) -> Option<&Session> {
        self.slots.get(slot.0 as usize)?.as_deref()
    }

    /// The session in `slot`.
    pub fn get_mut(&mut self, slot: SessionSlot) -> Option<&mut Session> {
        self.slots.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    /// The session of `identity` and `client_id`.
    pub fn find(&self, identity: IdentityId, client_id: &Arc<str>) -> Option<SessionSlot> {
        self.by_key.get(&(identity, Arc::clone(client_id))).copied()
    }

    /// Whether the client of this session has published `message`: No Local keeps it from it.
    pub fn has_published(&self, slot: SessionSlot, message: &Message) -> bool {
        self.get(slot).is_some_and(|session| session.has_published(message))
    }

    /// Notes that the session has had no connection since `since`.
    pub fn note_offline(&mut self, slot: SessionSlot, since: Mono) {
        if let Some(session) = self.get(slot) {
            self.offline.insert((session.identity, since, slot));
        }
    }

    /// Notes that the session, without a connection since `since`, has one again or is over.
    pub fn forget_offline(&mut self, identity: IdentityId, since: Mono, slot: SessionSlot) {
        self.offline.remove(&(identity, since, slot));
    }

    /// The sessions of `identity` without a connection, longest gone first.
    pub fn offline(&self, identity: IdentityId) -> impl DoubleEndedIterator<Item = SessionSlot> + '_ {
        let range = (identity, Mono(0), SessionSlot(0))..=(identity, Mono(u64::MAX), SessionSlot(u32::MAX));
        self.offline.range(range).map(|(_, _, slot)| *slot)
    }

    /// How many sessions have a connection: one for each client that was let in.
    pub fn online_len(&self) -> usize {
        self.by_key.len() - self.offline.len()
    }

    /// How many sessions have no connection.
    pub fn offline_len(&self) -> usize {
        self.offline.len()
    }

    /// The session that has been without a connection longest.
    pub fn longest_gone(&self) -> Option<SessionSlot> {
        self.offline.iter().min_by_key(|(_, since, _)| *since).map(|(_, _, slot)| *slot)
    }

    /// All of them, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (SessionSlot, &Session)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, session)| Some((SessionSlot(slot as u32), session.as_deref()?)))
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.slots.iter_mut().filter_map(|session| session.as_deref_mut())
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        assert_eq!(self.by_key.len() + self.free.len(), self.slots.len());
        let without = self.iter().filter(|(_, session)| session.conn.is_none()).count();
        assert_eq!(without, self.offline.len(), "a session without a connection that nobody knows of");
        for (slot, session) in self.iter() {
            assert_eq!(self.find(session.identity, &session.client_id), Some(slot));
            assert!(session.conn.is_some() || session.durable.is_some(), "a session outlived its connection");
        }
    }
}
