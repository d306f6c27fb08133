//! From one publisher to everybody who subscribed: who gets a message, what waits, what is sent.
//!
//! A message is owned once and shared. What ends a connection while messages go out (a full queue, a packet nobody can
//! encode smaller) may publish a will, so messages to be routed stand in a queue of their own and nothing recurses.

use std::sync::Arc;

use crate::{
    clock::Now,
    ids::{ConnId, DeviceName, SessionSlot},
    mqtt::{
        Packet, PacketId, PropertiesBuf, Property, ProtocolVersion, Publish, QoS, ReasonCode, TopicFilter,
        TopicName, encode,
    },
    session::{
        Client, CloseReason, Delivery, Message, Terms, Will, outgoing::Next, rights::DEVICES_NAME_SPACE,
    },
};

use super::{Broker, commit_gate::Ticket};

/// A message that has yet to be routed.
#[derive(Debug)]
pub(super) enum Routed {
    /// To all who subscribed.
    ToAll(Arc<Message>),
    /// What a device sent: at once to durable sessions, whose deliveries go to disk with it, and to the others later.
    Announced(Arc<Message>),
    /// To those who subscribed and have no durable session: the others have it already.
    ToPassing(Arc<Message>),
    /// To another member of the group it came from.
    ToGroup(Delivery),
    /// To one member of a group, chosen already.
    ToMember(SessionSlot, Delivery),
}

/// What devices sent, for local clients, until it is on disk.
#[derive(Debug)]
pub(super) struct Announcement {
    ticket: Ticket,
    routed: Routed,
}

/// Which subscribers a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    All,
    /// Those whose delivery goes to disk, with what it tells of.
    Durable,
    /// The others.
    Passing,
}

/// A PUBLISH as it stands on the wire, kept while one message goes to many: connections of the same version and quality
/// of service get the same bytes but for the packet identifier.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// What `bytes` are of; none if they serve one connection only.
    source: Option<(Arc<Message>, Shape)>,
    bytes: Vec<u8>,
    packet_id_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    v5: bool,
    qos: QoS,
    retain: bool,
}

impl Broker {
    /// Routes `message` to whoever subscribed; it leaves with [`Broker::route_pending`].
    pub(super) fn route(&mut self, message: Arc<Message>) {
        self.to_route.push_back(Routed::ToAll(message));
    }

    /// Gives a delivery to another member of its group; it leaves with [`Broker::route_pending`].
    pub(super) fn hand_on(&mut self, delivery: Delivery) {
        self.to_route.push_back(Routed::ToGroup(delivery));
    }

    /// Sends what is to be routed on its way, also what that brings about.
    pub(super) fn route_pending(&mut self, now: Now) {
        while let Some(routed) = self.to_route.pop_front() {
            match routed {
                Routed::ToAll(message) => self.route_to_all(&message, Audience::All, now),
                Routed::Announced(message) => self.route_announced(message, now),
                Routed::ToPassing(message) => self.route_to_all(&message, Audience::Passing, now),
                Routed::ToGroup(delivery) => self.route_to_group(delivery, now),
                Routed::ToMember(slot, delivery) => drop(self.deliver(slot, delivery, now)),
            }
        }
        self.end_fan_out();
    }

    /// Lets go of the message that was fanned out last.
    pub(super) fn end_fan_out(&mut self) {
        self.encoded_publish.source = None;
        self.durability.end_fan_out();
    }

    fn route_to_all(&mut self, message: &Arc<Message>, audience: Audience, now: Now) {
        let mut matches = std::mem::take(&mut self.matches);
        matches.clear();
        let sessions = &self.sessions;
        self.subscriptions.for_each(message.topic(), |subscriber, terms| {
            if !(terms.no_local && sessions.has_published(subscriber, message)) {
                matches.push((subscriber, *terms));
            }
        });
        // Overlapping subscriptions of one client become one delivery. [MQTT-3.3.4-2 of 5.0]
        matches.sort_by_key(|(subscriber, _)| *subscriber);
        for overlapping in matches.chunk_by(|(one, _), (other, _)| one == other) {
            let subscriber = overlapping[0].0;
            let delivery = delivery(message, overlapping.iter().map(|(_, terms)| terms), None);
            if self.is_in(audience, subscriber, &delivery) {
                self.deliver(subscriber, delivery, now);
            }
        }
        self.matches = matches;
        match audience {
            Audience::All => {
                for (subscriber, delivery) in self.choose_members(message) {
                    self.deliver(subscriber, delivery, now);
                }
            }
            // Whose turn it is was settled when the message came.
            Audience::Durable | Audience::Passing => {}
        }
    }

    fn is_in(&self, audience: Audience, subscriber: SessionSlot, delivery: &Delivery) -> bool {
        match audience {
            Audience::All => true,
            Audience::Durable => self.is_kept(subscriber, delivery),
            Audience::Passing => !self.is_kept(subscriber, delivery),
        }
    }

    /// Whether a delivery goes to disk: QoS 1 and 2 for a session that outlives its connection.
    fn is_kept(&self, subscriber: SessionSlot, delivery: &Delivery) -> bool {
        delivery.qos > QoS::AtMostOnce
            && self.sessions.get(subscriber).is_some_and(|session| session.durable.is_some())
    }

    /// One member of each group that `message` goes to: connected and with room if there is one, else one that can be
    /// kept waiting, else whoever's turn it is, who learns that it does not keep up.
    fn choose_members(&mut self, message: &Arc<Message>) -> Vec<(SessionSlot, Delivery)> {
        let mut chosen = Vec::new();
        let (sessions, limits) = (&self.sessions, &self.limits);
        let has_room = |slot: SessionSlot, wants_connection: bool| {
            sessions.get(slot).is_some_and(|session| {
                session.outgoing.waiting() < session.queue_max(limits)
                    && (session.conn.is_some() || !wants_connection)
            })
        };
        self.subscriptions.for_each_group(message.topic(), |group| {
            let member = group
                .next_member(|slot, _| has_room(slot, true))
                .or_else(|| group.next_member(|slot, _| has_room(slot, false)))
                .or_else(|| group.next_member(|_, _| true));
            if let Some((subscriber, terms)) = member {
                chosen.push((subscriber, delivery(message, [&terms], Some(Arc::clone(group.filter())))));
            }
        });
        chosen
    }

    fn route_to_group(&mut self, mut delivery: Delivery, now: Now) {
        let Some(filter) = delivery.group.clone() else { return };
        let filter = TopicFilter::parse(&filter).expect("it was a filter when it came");
        // With the last member the group is gone, and so is what was meant for it. [§4.8.2]
        let sessions = &self.sessions;
        let Some(group) = self.subscriptions.group_mut(filter) else { return };
        let is_connected =
            |slot: SessionSlot, _: &Terms| sessions.get(slot).is_some_and(|session| session.conn.is_some());
        let Some((subscriber, terms)) =
            group.next_member(is_connected).or_else(|| group.next_member(|_, _| true))
        else {
            return;
        };
        delivery.qos = delivery.message.qos.min(terms.qos);
        delivery.identifiers = terms.identifier.map(Into::into).into_iter().collect();
        self.deliver(subscriber, delivery, now);
    }

    /// Sends `delivery` at once if nothing waits before it, or lets it wait; what does not fit costs its receiver. Gives
    /// back whether there was room.
    pub(super) fn deliver(&mut self, subscriber: SessionSlot, delivery: Delivery, now: Now) -> bool {
        let Some(session) = self.sessions.get(subscriber) else { return false };
        let conn = session.conn;
        let is_kept = self.is_kept(subscriber, &delivery);
        if let Some(conn) = conn
            && !is_kept
            && session.outgoing.waiting() == 0
            && session.outgoing.has_room_for(delivery.qos)
            && self.has_room_in_outbox(conn)
        {
            self.send_delivery(conn, delivery, now);
            return true;
        }
        // QoS 0 is not kept for a client that is not there. [§4.1.0]
        if conn.is_none() && !is_kept {
            return false;
        }
        // What is over when it comes would have a full queue looked through for it, every time.
        if delivery.message.is_expired(now.mono) {
            self.counters.messages_expired += 1;
            return true;
        }
        let has_room = self.has_room_for(subscriber, &delivery) || {
            self.drop_expired(subscriber, now);
            self.has_room_for(subscriber, &delivery)
        };
        match conn {
            _ if has_room && is_kept => self.keep_delivery(subscriber, delivery, now),
            _ if has_room => self.push_waiting(subscriber, delivery),
            _ if delivery.qos == QoS::AtMostOnce => self.counters.messages_dropped += 1,
            Some(conn) => self.close(conn, CloseReason::QueueFull, now),
            None => {
                self.counters.messages_dropped += 1;
                self.end_session(subscriber, now);
            }
        }
        has_room
    }

    fn has_room_for(&self, subscriber: SessionSlot, delivery: &Delivery) -> bool {
        let Some(session) = self.sessions.get(subscriber) else { return false };
        let (limits, bytes) = (&self.limits, delivery.bytes());
        // What is retained is bounded already, and comes all at once.
        let may_wait = match delivery.message.retain && delivery.retain {
            true => session.queue_max(limits).max(limits.retained_messages as usize),
            false => session.queue_max(limits),
        };
        let ceiling = limits.queue_memory_bytes as usize;
        let fits_together = match session.conn {
            Some(_) => self.queued_bytes + bytes <= 2 * ceiling,
            None => self.offline_bytes + bytes <= ceiling,
        };
        session.outgoing.waiting() < may_wait
            && session.outgoing.waiting_bytes() + bytes <= session.queue_bytes_max(limits)
            && fits_together
    }

    /// Makes room in a queue that is full.
    fn drop_expired(&mut self, subscriber: SessionSlot, now: Now) {
        let Some(session) = self.sessions.get_mut(subscriber) else { return };
        let (before, is_connected) = (session.outgoing.waiting_bytes(), session.conn.is_some());
        let expired = session.outgoing.take_expired(now.mono);
        let freed = before - session.outgoing.waiting_bytes();
        *(if is_connected { &mut self.queued_bytes } else { &mut self.offline_bytes }) -= freed;
        self.counters.messages_expired += expired.len() as u64;
        for place in expired.iter().filter_map(|delivery| delivery.place) {
            self.release_place(place, now);
        }
    }

    /// Lets a delivery wait behind the others.
    pub(super) fn push_waiting(&mut self, subscriber: SessionSlot, delivery: Delivery) {
        let Some(session) = self.sessions.get_mut(subscriber) else { return };
        let bytes = delivery.bytes();
        session.outgoing.push(delivery);
        *(if session.conn.is_some() { &mut self.queued_bytes } else { &mut self.offline_bytes }) += bytes;
    }

    /// Sends what waits for `conn`, as far as the disk, its window and its socket allow.
    pub(super) fn pump(&mut self, conn: ConnId, now: Now) {
        let committed = self.gate.committed();
        while self.has_room_in_outbox(conn) {
            let Some(slot) = self.connections.client(conn).map(|client| client.session) else { return };
            let Some(session) = self.sessions.get_mut(slot) else { return };
            if let Some(next) = session.outgoing.next(committed) {
                self.send_next(conn, slot, next, now);
                continue;
            }
            let before = session.outgoing.waiting_bytes();
            let Some(delivery) = session.outgoing.pop() else { return };
            self.queued_bytes -= before - session.outgoing.waiting_bytes();
            match delivery.place {
                Some(place) if delivery.message.is_expired(now.mono) => {
                    self.counters.messages_expired += 1;
                    self.release_place(place, now);
                }
                Some(place) => self.keep_sent(slot, delivery, place, now),
                None => self.send_delivery(conn, delivery, now),
            }
        }
    }

    fn has_room_in_outbox(&self, conn: ConnId) -> bool {
        let max = self.limits.outbox_bytes as usize;
        self.connections.get(conn).is_some_and(|connection| connection.outbox.len() < max)
    }

    /// Sends what was put in flight before.
    fn send_next(&mut self, conn: ConnId, slot: SessionSlot, next: Next, now: Now) {
        match next {
            Next::Release(packet_id) => self.send_pubrel(conn, packet_id, ReasonCode::Success, now),
            Next::Publish { packet_id, delivery, dup } => {
                if self.send_publish(conn, &delivery, Some(packet_id), dup, now) {
                    return;
                }
                let Some(session) = self.sessions.get_mut(slot) else { return };
                if let Some(place) = session.outgoing.discard(packet_id) {
                    self.release_place(place, now);
                }
            }
        }
    }

    /// Sends a delivery that is kept nowhere but in memory.
    fn send_delivery(&mut self, conn: ConnId, delivery: Delivery, now: Now) {
        if delivery.message.is_expired(now.mono) {
            self.counters.messages_expired += 1;
            return;
        }
        let Some(slot) = self.connections.client(conn).map(|client| client.session) else { return };
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let packet_id = (delivery.qos > QoS::AtMostOnce).then(|| session.outgoing.next_id());
        if self.send_publish(conn, &delivery, packet_id, false, now)
            && let Some(packet_id) = packet_id
            && let Some(session) = self.sessions.get_mut(slot)
        {
            session.outgoing.note_sent(packet_id, delivery);
        }
    }

    /// Encodes a PUBLISH into the outbox of `conn`; gives back whether the client can take it. What it cannot take counts
    /// as delivered. [MQTT-3.1.2-25 of 5.0]
    fn send_publish(
        &mut self,
        conn: ConnId,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: Now,
    ) -> bool {
        let Some(client) = self.connections.client_mut(conn) else { return false };
        encode_delivery(&mut self.encoded_publish, delivery, packet_id, dup, client, now);
        if self.encoded_publish.bytes.len() > client.answer_bytes_max as usize {
            self.counters.messages_dropped += 1;
            return false;
        }
        note_alias(client, delivery.message.topic());
        self.counters.messages_sent += 1;
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        self.counters.note_sent(self.encoded_publish.bytes.len());
        connection.outbox.push(&self.encoded_publish.bytes);
        if !connection.listed {
            connection.listed = true;
            self.outputs.push_back(conn);
        }
        true
    }

    /// Publishes a will, or stores it if it is telemetry; nobody waits for an answer.
    pub(super) fn publish_will(&mut self, name: &DeviceName, will: Will, now: Now) {
        if will.is_telemetry {
            return self.ingest_will(name, &will.message, now);
        }
        let message = Arc::new(will.message.living(will.lives, now.mono));
        if message.retain && !self.retain(&message, now) {
            log::warn!("the will of {name} could not be retained");
        }
        self.route(message);
    }

    /// Tells local clients what a device sent: durable sessions with the same commit, the others once it is on disk.
    pub(super) fn announce(&mut self, name: &DeviceName, values: &str) {
        // Most gateways have no local clients, and every reading passes here.
        if self.subscriptions.is_empty() {
            return;
        }
        let topic = format!("{DEVICES_NAME_SPACE}{name}/telemetry");
        let Ok(topic) = TopicName::parse(&topic) else { return };
        let mut wanted = false;
        self.subscriptions.for_each(topic, |_, _| wanted = true);
        self.subscriptions.for_each_group(topic, |_| wanted = true);
        if wanted {
            let message = Message::new(topic, values.as_bytes(), QoS::AtLeastOnce);
            self.to_route.push_back(Routed::Announced(Arc::new(message)));
        }
    }

    fn route_announced(&mut self, message: Arc<Message>, now: Now) {
        self.route_to_all(&message, Audience::Durable, now);
        let ticket = self.gate.appended();
        for (slot, delivery) in self.choose_members(&message) {
            if self.is_kept(slot, &delivery) {
                self.deliver(slot, delivery, now);
            } else {
                let routed = Routed::ToMember(slot, delivery);
                self.announcements.push_back(Announcement { ticket, routed });
            }
        }
        self.announcements.push_back(Announcement { ticket, routed: Routed::ToPassing(message) });
    }

    /// What waited for the commit `through` may now be told.
    pub(super) fn release_announcements(&mut self, through: Ticket) {
        while let Some(next) = self.announcements.front() {
            if next.ticket > through {
                return;
            }
            self.to_route.extend(self.announcements.pop_front().map(|next| next.routed));
        }
    }
}

/// What one client gets of `message` for the subscriptions `terms`.
pub(super) fn delivery<'t>(
    message: &Arc<Message>,
    terms: impl IntoIterator<Item = &'t Terms>,
    group: Option<Arc<str>>,
) -> Delivery {
    let mut granted = QoS::AtMostOnce;
    let mut keeps_retain = false;
    let mut identifiers = Vec::new();
    for terms in terms {
        granted = granted.max(terms.qos);
        keeps_retain |= terms.retain_as_published;
        identifiers.extend(terms.identifier.map(u32::from));
    }
    Delivery {
        message: Arc::clone(message),
        qos: granted.min(message.qos),
        retain: keeps_retain && message.retain,
        identifiers,
        group,
        place: None,
    }
}

/// Brings the bytes of `delivery` into `encoded`; those of the delivery before are used again if they are the same.
fn encode_delivery(
    encoded: &mut Encoded,
    delivery: &Delivery,
    packet_id: Option<PacketId>,
    dup: bool,
    client: &Client,
    now: Now,
) {
    let v5 = client.version == ProtocolVersion::V5;
    let shape = Shape { v5, qos: delivery.qos, retain: delivery.retain };
    let is_common = !dup && delivery.identifiers.is_empty() && client.given_aliases_max == 0;
    let is_there =
        |(message, of): &(Arc<Message>, Shape)| Arc::ptr_eq(message, &delivery.message) && *of == shape;
    if is_common && encoded.source.as_ref().is_some_and(is_there) {
        if let Some(packet_id) = packet_id {
            let at = encoded.packet_id_at;
            encoded.bytes[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        return;
    }
    let message = &delivery.message;
    let mut topic = Some(message.topic());
    let mut properties = PropertiesBuf::new();
    if v5 {
        properties = message.properties().into();
        if let Some(seconds) = message.seconds_left(now.mono) {
            properties.push(Property::MessageExpiryInterval(seconds));
        }
        for identifier in &delivery.identifiers {
            properties.push(Property::SubscriptionIdentifier(*identifier));
        }
        if let Some(alias) = client.given_aliases.get(message.topic().as_str()) {
            topic = None;
            properties.push(Property::TopicAlias(*alias));
        } else if let Some(alias) = free_alias(client) {
            properties.push(Property::TopicAlias(alias));
        }
    }
    let publish = Publish {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic,
        packet_id,
        properties: properties.as_properties(),
        payload: message.payload(),
    };
    encoded.bytes.clear();
    encode(&Packet::Publish(publish), client.version, &mut encoded.bytes)
        .expect("what came in one packet fits into another");
    encoded.source = is_common.then(|| (Arc::clone(message), shape));
    // After the length of the packet, one to four bytes, stands the topic with two bytes of length.
    let length_bytes = encoded.bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    encoded.packet_id_at = 1 + length_bytes + 2 + message.topic().as_str().len();
}

/// The next alias for a topic that has none, while there are any. [§3.3.2.3.4]
fn free_alias(client: &Client) -> Option<u16> {
    let given = u16::try_from(client.given_aliases.len()).ok()?;
    (given < client.given_aliases_max).then_some(given + 1)
}

/// Notes the alias that `topic` was just sent with.
fn note_alias(client: &mut Client, topic: TopicName<'_>) {
    if client.given_aliases_max == 0 || client.given_aliases.contains_key(topic.as_str()) {
        return;
    }
    if let Some(alias) = free_alias(client) {
        client.given_aliases.insert(topic.as_str().into(), alias);
    }
}
