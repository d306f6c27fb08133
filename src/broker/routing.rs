//! From one publisher to everybody who subscribed: who gets a message, what waits, what is sent.
//!
//! A message is owned once and shared. What ends a connection while messages go out (a full queue, a packet nobody can
//! encode smaller) may publish a will, so messages to be routed stand in a queue of their own and nothing recurses.

use std::sync::Arc;

use crate::{
    clock::Now,
    ids::{ConnId, DeviceName},
    mqtt::{
        Packet, PacketId, PropertiesBuf, Property, ProtocolVersion, Publish, QoS, TopicFilter, TopicName,
        encode,
    },
    session::{CloseReason, Delivery, Message, Session, Terms, Will, rights::DEVICES_NAME_SPACE},
};

use super::{Broker, commit_gate::Ticket, subscription_tree::Subscriber};

/// A message that has yet to be routed.
#[derive(Debug)]
pub(super) enum Routed {
    /// To all who subscribed.
    ToAll(Arc<Message>),
    /// To another member of the group it came from.
    ToGroup(Delivery),
}

/// What devices sent, for local clients, until it is on disk.
#[derive(Debug)]
pub(super) struct Announcement {
    ticket: Ticket,
    message: Arc<Message>,
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
    pub(super) fn route(&mut self, message: Message) {
        self.to_route.push_back(Routed::ToAll(Arc::new(message)));
    }

    /// Sends what is to be routed on its way, also what that brings about.
    pub(super) fn route_pending(&mut self, now: Now) {
        while let Some(routed) = self.to_route.pop_front() {
            match routed {
                Routed::ToAll(message) => self.route_to_all(&message, now),
                Routed::ToGroup(delivery) => self.route_to_group(delivery, now),
            }
        }
        self.encoded_publish.source = None;
    }

    fn route_to_all(&mut self, message: &Arc<Message>, now: Now) {
        let mut matches = std::mem::take(&mut self.matches);
        matches.clear();
        let own = |subscriber: Subscriber| message.publisher.is_some_and(|conn| conn.slot == subscriber.0);
        self.subscriptions.for_each(message.topic(), |subscriber, terms| {
            if !(terms.no_local && own(subscriber)) {
                matches.push((subscriber, *terms));
            }
        });
        // Overlapping subscriptions of one client become one delivery. [MQTT-3.3.4-2 of 5.0]
        matches.sort_by_key(|(subscriber, _)| *subscriber);
        for overlapping in matches.chunk_by(|(one, _), (other, _)| one == other) {
            let subscriber = overlapping[0].0;
            let delivery = delivery(message, overlapping.iter().map(|(_, terms)| terms), None);
            self.deliver(subscriber, delivery, now);
        }
        self.matches = matches;
        self.route_to_groups(message, now);
    }

    fn route_to_groups(&mut self, message: &Arc<Message>, now: Now) {
        let mut chosen = Vec::new();
        let (connections, limits) = (&mut self.connections, &self.limits);
        self.subscriptions.for_each_group(message.topic(), |group| {
            let has_room = |subscriber: Subscriber, _: &Terms| {
                connections
                    .in_slot(subscriber.0)
                    .is_some_and(|(_, session)| session.outgoing.waiting() < session.queue_max(limits))
            };
            // Nobody has room: whoever's turn it is learns that it does not keep up.
            let member = group.next_member(has_room).or_else(|| group.next_member(|_, _| true));
            if let Some((subscriber, terms)) = member {
                chosen.push((subscriber, delivery(message, [&terms], Some(Arc::clone(group.filter())))));
            }
        });
        for (subscriber, delivery) in chosen {
            self.deliver(subscriber, delivery, now);
        }
    }

    fn route_to_group(&mut self, mut delivery: Delivery, now: Now) {
        let Some(filter) = delivery.group.clone() else { return };
        let filter = TopicFilter::parse(&filter).expect("it was a filter when it came");
        // With the last member the group is gone, and so is what was meant for it. [§4.8.2]
        let Some(group) = self.subscriptions.group_mut(filter) else { return };
        let Some((subscriber, terms)) = group.next_member(|_, _| true) else { return };
        delivery.qos = delivery.message.qos.min(terms.qos);
        delivery.identifiers = terms.identifier.map(Into::into).into_iter().collect();
        self.deliver(subscriber, delivery, now);
    }

    /// Sends `delivery` at once if nothing waits before it, or lets it wait; what does not fit costs its receiver.
    fn deliver(&mut self, subscriber: Subscriber, delivery: Delivery, now: Now) {
        let Some((conn, session)) = self.connections.in_slot(subscriber.0) else { return };
        let may_leave = session.outgoing.waiting() == 0 && session.outgoing.has_room_for(delivery.qos);
        if may_leave && self.has_room_in_outbox(conn) {
            return self.send_delivery(conn, delivery, now);
        }
        let limits = &self.limits;
        let Some(session) = self.connections.session_mut(conn) else { return };
        let bytes = delivery.bytes();
        let fits = session.outgoing.waiting() < session.queue_max(limits)
            && session.outgoing.waiting_bytes() + bytes <= session.queue_bytes_max(limits)
            && self.queued_bytes + bytes <= 2 * limits.queue_memory_bytes as usize;
        if fits {
            session.outgoing.push(delivery);
            self.queued_bytes += bytes;
        } else if delivery.qos == QoS::AtMostOnce {
            self.counters.messages_dropped += 1;
        } else {
            self.close(conn, CloseReason::QueueFull, now);
        }
    }

    /// Sends what waits for `conn`, as far as its window and its socket allow.
    pub(super) fn pump(&mut self, conn: ConnId, now: Now) {
        while self.has_room_in_outbox(conn) {
            let Some(session) = self.connections.session_mut(conn) else { return };
            let before = session.outgoing.waiting_bytes();
            let Some(delivery) = session.outgoing.pop() else { return };
            self.queued_bytes -= before - session.outgoing.waiting_bytes();
            self.send_delivery(conn, delivery, now);
        }
        self.encoded_publish.source = None;
    }

    fn has_room_in_outbox(&self, conn: ConnId) -> bool {
        let max = self.limits.outbox_bytes as usize;
        self.connections.get(conn).is_some_and(|connection| connection.outbox.len() < max)
    }

    fn send_delivery(&mut self, conn: ConnId, delivery: Delivery, now: Now) {
        if delivery.message.is_expired(now.mono) {
            self.counters.messages_expired += 1;
            return;
        }
        let Some(session) = self.connections.session_mut(conn) else { return };
        let packet_id = (delivery.qos > QoS::AtMostOnce).then(|| session.outgoing.next_id());
        let bytes_max = session.answer_bytes_max as usize;
        encode_delivery(&mut self.encoded_publish, &delivery, packet_id, session, now);
        // What the client cannot take counts as delivered. [MQTT-3.1.2-25 of 5.0]
        if self.encoded_publish.bytes.len() > bytes_max {
            self.counters.messages_dropped += 1;
            return;
        }
        note_alias(session, delivery.message.topic());
        if let Some(packet_id) = packet_id {
            session.outgoing.note_sent(packet_id, delivery);
        }
        self.counters.messages_sent += 1;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.outbox.push(&self.encoded_publish.bytes);
        if !connection.listed {
            connection.listed = true;
            self.outputs.push_back(conn);
        }
    }

    /// The connection is over: what shared subscriptions gave it, and it has not taken, goes to others.
    pub(super) fn hand_over(&mut self, session: &mut Session) {
        self.queued_bytes -= session.outgoing.waiting_bytes();
        self.to_route.extend(session.outgoing.take_shared().into_iter().map(Routed::ToGroup));
    }

    /// Publishes a will, or stores it if it is telemetry; nobody waits for an answer.
    pub(super) fn publish_will(&mut self, name: &DeviceName, will: Will, now: Now) {
        if will.is_telemetry {
            return self.ingest_will(name, &will.message, now);
        }
        self.route(will.message.living(will.lives, now.mono));
    }

    /// Tells local clients what a device sent, as soon as it is on disk.
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
            let message = Arc::new(Message::new(topic, values.as_bytes(), QoS::AtLeastOnce));
            self.announcements.push_back(Announcement { ticket: self.gate.appended(), message });
        }
    }

    /// What waited for the commit `through` may now be told.
    pub(super) fn release_announcements(&mut self, through: Ticket) {
        while let Some(next) = self.announcements.front() {
            if next.ticket > through {
                return;
            }
            self.to_route.extend(self.announcements.pop_front().map(|next| Routed::ToAll(next.message)));
        }
    }
}

/// What one client gets of `message` for the subscriptions `terms`.
fn delivery<'t>(
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
    }
}

/// Brings the bytes of `delivery` into `encoded`; those of the delivery before are used again if they are the same.
fn encode_delivery(
    encoded: &mut Encoded,
    delivery: &Delivery,
    packet_id: Option<PacketId>,
    session: &Session,
    now: Now,
) {
    let v5 = session.version == ProtocolVersion::V5;
    let shape = Shape { v5, qos: delivery.qos, retain: delivery.retain };
    let is_common = delivery.identifiers.is_empty() && session.given_aliases_max == 0;
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
        if let Some(alias) = session.given_aliases.get(message.topic().as_str()) {
            topic = None;
            properties.push(Property::TopicAlias(*alias));
        } else if let Some(alias) = free_alias(session) {
            properties.push(Property::TopicAlias(alias));
        }
    }
    let publish = Publish {
        dup: false,
        qos: delivery.qos,
        retain: delivery.retain,
        topic,
        packet_id,
        properties: properties.as_properties(),
        payload: message.payload(),
    };
    encoded.bytes.clear();
    encode(&Packet::Publish(publish), session.version, &mut encoded.bytes)
        .expect("what came in one packet fits into another");
    encoded.source = is_common.then(|| (Arc::clone(message), shape));
    // After the length of the packet, one to four bytes, stands the topic with two bytes of length.
    let length_bytes = encoded.bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    encoded.packet_id_at = 1 + length_bytes + 2 + message.topic().as_str().len();
}

/// The next alias for a topic that has none, while there are any. [§3.3.2.3.4]
fn free_alias(session: &Session) -> Option<u16> {
    let given = u16::try_from(session.given_aliases.len()).ok()?;
    (given < session.given_aliases_max).then_some(given + 1)
}

/// Notes the alias that `topic` was just sent with.
fn note_alias(session: &mut Session, topic: TopicName<'_>) {
    if session.given_aliases_max == 0 || session.given_aliases.contains_key(topic.as_str()) {
        return;
    }
    if let Some(alias) = free_alias(session) {
        session.given_aliases.insert(topic.as_str().into(), alias);
    }
}
