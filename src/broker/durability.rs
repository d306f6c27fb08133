//! Sessions and retained messages as the disk knows them: every change goes into the batch here, and what a start finds
//! comes back here.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    clock::Now,
    ids::{DeliveryId, DeviceName, IdentityId, MessageId, SessionId, SessionSlot, Ticket},
    mqtt::{PacketId, TopicFilter},
    session::{
        AccessRights, Delivery, Message, Outgoing, Session, Will,
        durable::{Change, DeliveryRow, Recovered, RecoveredSession, SessionRow},
        handle_subscribe,
        outgoing::Place,
    },
};

use super::{Broker, Deadline, StoreState};

/// What a change costs in a batch beside its texts.
const CHANGE_BYTES: usize = 48;

/// The numbers given on disk, and who waits for what to be there.
#[derive(Debug, Default)]
pub(super) struct Durability {
    last_session: SessionId,
    last_message: MessageId,
    last_delivery: DeliveryId,
    /// How many deliveries speak of each message on disk.
    references: HashMap<MessageId, u32>,
    /// The message that was given a number last, while it goes to many.
    current: Option<(Arc<Message>, MessageId)>,
    /// Sessions with something in flight that waits for its commit.
    awaiting: VecDeque<(Ticket, SessionSlot)>,
    /// Wills of sessions that are in doubt: published once the disk does not have them.
    doubtful_wills: Vec<DoubtfulWill>,
    /// Whether there are subscribers that nobody knows while the store is out of order.
    subscribers_in_doubt: bool,
}

#[derive(Debug)]
struct DoubtfulWill {
    identity: IdentityId,
    client_id: Arc<str>,
    name: DeviceName,
    will: Will,
}

impl Durability {
    /// Whether somebody waits for a commit.
    pub(super) fn is_awaited(&self) -> bool {
        !self.awaiting.is_empty()
    }

    /// Whether a message may be owed to somebody who is known to the disk only.
    pub(super) fn has_subscribers_in_doubt(&self) -> bool {
        self.subscribers_in_doubt
    }

    /// Forgets which message went to many.
    pub(super) fn end_fan_out(&mut self) {
        self.current = None;
    }

    pub(super) fn check_invariants(&self, sessions: &super::sessions::Sessions) {
        let mut references = HashMap::new();
        for place in sessions.iter().flat_map(|(_, session)| session.outgoing.places()) {
            *references.entry(place.message).or_insert(0) += 1;
        }
        assert_eq!(
            references, self.references,
            "a message on disk that no delivery speaks of, or the reverse"
        );
    }
}

impl Broker {
    /// Puts `change` into the batch. While the store is out of order there are no durable sessions, and what happened
    /// to them is read from the disk later.
    pub(super) fn note(&mut self, change: Change, now: Now) {
        if self.store == StoreState::Failed {
            return;
        }
        self.gate.append();
        self.batch_bytes += CHANGE_BYTES
            + match &change {
                Change::Message { message, .. } | Change::Retained(message) => message.bytes(),
                Change::Will { will, .. } => will.message.bytes(),
                _ => 0,
            };
        self.batch.changes.push(change);
        self.deadlines.arm_if_idle(Deadline::Commit, now.mono + self.limits.commit_wait());
    }

    /// Makes `session` one that outlives its connection.
    pub(super) fn make_durable(&mut self, slot: SessionSlot, now: Now) {
        self.durability.last_session.0 += 1;
        let number = self.durability.last_session;
        let Some(session) = self.sessions.get_mut(slot) else { return };
        session.durable = Some(number);
        self.note_session(slot, now);
    }

    /// Notes the terms of a session, if it is durable, and whether it has a connection.
    pub(super) fn note_session(&mut self, slot: SessionSlot, now: Now) {
        let Some(session) = self.sessions.get(slot) else { return };
        let Some(id) = session.durable else { return };
        let row = SessionRow {
            id,
            identity: session.identity,
            client_id: session.client_id.as_ref().into(),
            token: Some(session.token),
            expiry_s: session.expiry_s,
            ended: session.conn.is_none().then_some(session.offline_since),
        };
        self.note(Change::Session(row), now);
    }

    /// Puts a delivery of QoS 1 or 2 on disk for a durable session: in flight if it may leave with the commit, waiting
    /// otherwise.
    pub(super) fn keep_delivery(&mut self, slot: SessionSlot, mut delivery: Delivery, now: Now) {
        let message = self.message_on_disk(&delivery.message, now);
        self.durability.last_delivery.0 += 1;
        let place = Place { delivery: self.durability.last_delivery, message };
        delivery.place = Some(place);
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(id) = session.durable else { return };
        let may_leave = session.conn.is_some()
            && session.outgoing.waiting() == 0
            && session.outgoing.has_room_for(delivery.qos);
        let packet_id = may_leave.then(|| session.outgoing.next_id());
        let row = DeliveryRow {
            id: place.delivery,
            session: id,
            message,
            qos: delivery.qos,
            retain: delivery.retain,
            identifiers: delivery.identifiers.clone(),
            group: delivery.group.clone(),
            packet_id,
            received: false,
        };
        self.note(Change::Queued(row), now);
        match packet_id {
            Some(packet_id) => self.hold_in_flight(slot, packet_id, delivery),
            None => self.push_waiting(slot, delivery),
        }
    }

    /// Takes a delivery that waited into flight; it leaves once its identifier is on disk. [MQTT-4.4.0-1]
    pub(super) fn keep_sent(&mut self, slot: SessionSlot, delivery: Delivery, place: Place, now: Now) {
        let Some(session) = self.sessions.get(slot) else { return };
        let packet_id = session.outgoing.next_id();
        self.note(Change::Sent { delivery: place.delivery, packet_id }, now);
        self.hold_in_flight(slot, packet_id, delivery);
    }

    fn hold_in_flight(&mut self, slot: SessionSlot, packet_id: PacketId, delivery: Delivery) {
        let ticket = self.gate.appended();
        self.change_outgoing(slot, |outgoing| outgoing.hold(packet_id, delivery, ticket));
        self.durability.awaiting.push_back((ticket, slot));
    }

    /// Notes that a delivery is over.
    pub(super) fn release_place(&mut self, place: Place, now: Now) {
        self.note(Change::Delivered(place.delivery), now);
        self.drop_reference(place.message, now);
    }

    /// Notes that a session is over, and with it everything that was on its way.
    pub(super) fn forget_durable(&mut self, session: &Session, now: Now) {
        let Some(id) = session.durable else { return };
        for place in session.outgoing.places() {
            self.release_place(place, now);
        }
        self.note(Change::SessionOver(id), now);
    }

    /// Sends what waited for the commit that has just happened.
    pub(super) fn release_deliveries(&mut self, through: Ticket, now: Now) {
        while let Some((ticket, slot)) = self.durability.awaiting.front().copied() {
            if ticket > through {
                return;
            }
            self.durability.awaiting.pop_front();
            if let Some(conn) = self.sessions.get(slot).and_then(|session| session.conn) {
                self.pump(conn, now);
            }
        }
    }

    fn message_on_disk(&mut self, message: &Arc<Message>, now: Now) -> MessageId {
        let known = self.durability.current.as_ref().filter(|(current, id)| {
            Arc::ptr_eq(current, message) && self.durability.references.contains_key(id)
        });
        let id = match known {
            Some((_, id)) => *id,
            None => {
                self.durability.last_message.0 += 1;
                let id = self.durability.last_message;
                self.note(Change::Message { id, message: Arc::clone(message) }, now);
                self.durability.current = Some((Arc::clone(message), id));
                id
            }
        };
        *self.durability.references.entry(id).or_insert(0) += 1;
        id
    }

    fn drop_reference(&mut self, message: MessageId, now: Now) {
        let Some(count) = self.durability.references.get_mut(&message) else { return };
        *count -= 1;
        if *count == 0 {
            self.durability.references.remove(&message);
            self.note(Change::MessageOver(message), now);
        }
    }

    /// Notes, before anybody is cut off, whether there are durable sessions with subscriptions.
    pub(super) fn doubt_subscribers(&mut self) {
        let is_subscriber =
            |(_, session): (_, &Session)| session.durable.is_some() && !session.subscriptions.is_empty();
        self.durability.subscribers_in_doubt |= self.sessions.iter().any(is_subscriber);
    }

    /// Forgets everything that is on disk as well: it is in doubt, and will be read anew. What is retained is shown until
    /// then; who subscribes now would not be told of it later.
    pub(super) fn forget_everything_durable(&mut self, now: Now) {
        let durable: Vec<SessionSlot> =
            self.sessions.iter().filter(|(_, s)| s.durable.is_some()).map(|(slot, _)| slot).collect();
        for slot in durable {
            self.doubt_will(slot);
            self.end_session(slot, now);
        }
        let Durability { doubtful_wills, subscribers_in_doubt, .. } = std::mem::take(&mut self.durability);
        self.durability = Durability { doubtful_wills, subscribers_in_doubt, ..Durability::default() };
    }

    /// Keeps the will of a durable session apart, if it has one: the disk may have it as well, and it is published once.
    pub(super) fn doubt_will(&mut self, slot: SessionSlot) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(will) = session.will.take() else { return };
        let (identity, client_id) = (session.identity, Arc::clone(&session.client_id));
        let doubtful = DoubtfulWill { identity, client_id, name: session.name.clone(), will: *will };
        self.durability.doubtful_wills.push(doubtful);
    }

    /// Publishes the wills that were in doubt and are not on disk.
    fn publish_doubtful_wills(&mut self, wills: Vec<DoubtfulWill>, sessions: &[RecoveredSession], now: Now) {
        for DoubtfulWill { identity, client_id, name, will } in wills {
            let is_on_disk = sessions.iter().any(|session| {
                session.row.identity == identity
                    && session.row.client_id.as_ref() == client_id.as_ref()
                    && session.will.is_some()
            });
            if !is_on_disk {
                self.publish_will(&name, will, now);
            }
        }
    }

    /// Takes over what a start or a reopening found on disk.
    ///
    /// Sessions of identities that are gone or have another token end, and so do subscriptions beyond today's rights: all
    /// of it may have changed while the broker was not running.
    pub(super) fn adopt(&mut self, recovered: Recovered, now: Now) {
        let doubtful_wills = std::mem::take(&mut self.durability.doubtful_wills);
        self.durability = Durability {
            last_session: recovered.last_session,
            last_message: recovered.last_message,
            last_delivery: recovered.last_delivery,
            ..Durability::default()
        };
        self.adopt_retained(recovered.retained, now);
        let messages: HashMap<MessageId, Arc<Message>> = recovered.messages.into_iter().collect();
        for id in recovered.sessions.iter().flat_map(|session| &session.deliveries).map(|row| row.message) {
            *self.durability.references.entry(id).or_insert(0) += 1;
        }
        for id in messages.keys() {
            if !self.durability.references.contains_key(id) {
                self.note(Change::MessageOver(*id), now);
            }
        }
        self.publish_doubtful_wills(doubtful_wills, &recovered.sessions, now);
        for session in recovered.sessions {
            self.adopt_session(session, &messages, now);
        }
        self.route_pending(now);
    }

    fn adopt_session(
        &mut self,
        recovered: RecoveredSession,
        messages: &HashMap<MessageId, Arc<Message>>,
        now: Now,
    ) {
        let row = recovered.row;
        let Some(identity) = self.identities.enabled(row.identity) else {
            return self.discard_recovered(row.id, &recovered.deliveries, now);
        };
        let token = identity.token_hash.mark();
        let has_another_token = row.token.is_some_and(|its| its != token);
        let client_id: Arc<str> = row.client_id.into();
        // A clean start discarded it, and the commit that was to say so failed: its client is connected. [MQTT-3.1.2-6]
        if self.sessions.find(row.identity, &client_id).is_some() {
            let name = identity.name.clone();
            self.discard_recovered(row.id, &recovered.deliveries, now);
            if let Some((will, _)) = recovered.will {
                self.publish_will(&name, will, now);
            }
            return;
        }
        let mut session = Session {
            identity: row.identity,
            name: identity.name.clone(),
            token,
            rights: AccessRights::of(identity, &self.grants),
            client_id,
            conn: None,
            offline_since: row.ended.unwrap_or(now.mono),
            durable: Some(row.id),
            expiry_s: row.expiry_s,
            unreleased: recovered.unreleased.into_iter().collect(),
            subscriptions: Default::default(),
            own_subscriptions: Default::default(),
            outgoing: Outgoing::new(u16::MAX),
            will: None,
        };
        for delivery in recovered.deliveries {
            let Some(message) = messages.get(&delivery.message) else {
                self.release_place(Place { delivery: delivery.id, message: delivery.message }, now);
                continue;
            };
            let kept = Delivery {
                message: Arc::clone(message),
                qos: delivery.qos,
                retain: delivery.retain,
                identifiers: delivery.identifiers,
                group: delivery.group,
                place: Some(Place { delivery: delivery.id, message: delivery.message }),
            };
            match delivery.packet_id {
                Some(packet_id) => session.outgoing.restore(packet_id, kept, delivery.received),
                None => session.outgoing.push(kept),
            }
        }
        self.offline_bytes += session.outgoing.bytes();
        let slot = self.sessions.insert(session);
        for (filter, terms) in recovered.subscriptions {
            self.adopt_subscription(slot, row.id, filter, terms, now);
        }
        let was_online = row.ended.is_none();
        self.go_on_offline(slot, recovered.will, was_online, now);
        if has_another_token {
            self.end_session(slot, now);
        } else if row.token.is_none() && !was_online {
            self.note_session(slot, now);
        }
    }

    /// Notes that a session found on disk is over, and with it everything that was on its way.
    fn discard_recovered(&mut self, id: SessionId, deliveries: &[DeliveryRow], now: Now) {
        for DeliveryRow { id: delivery, message, .. } in deliveries {
            self.release_place(Place { delivery: *delivery, message: *message }, now);
        }
        self.note(Change::SessionOver(id), now);
    }

    fn adopt_subscription(
        &mut self,
        slot: SessionSlot,
        id: SessionId,
        filter: Box<str>,
        terms: crate::session::Terms,
        now: Now,
    ) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let parsed = TopicFilter::parse(&filter).ok().filter(|parsed| !parsed.is_malformed_share());
        if let Some(own) = parsed.and_then(|parsed| handle_subscribe::own_filter(parsed, session)) {
            session.own_subscriptions.insert(own, terms);
            return;
        }
        let plain = |filter: TopicFilter<'_>| session.rights.may_subscribe(filter);
        match parsed {
            Some(parsed) if plain(parsed.share().map_or(parsed, |(_, plain)| plain)) => {
                self.subscriptions.insert(parsed, slot, terms);
                session.subscriptions.insert(filter);
            }
            _ => self.note(Change::Unsubscribed { session: id, filter }, now),
        }
    }
}
