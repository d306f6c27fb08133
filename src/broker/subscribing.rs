//! SUBSCRIBE, UNSUBSCRIBE, and the answers of subscribers to what they were sent.

use std::num::NonZeroU32;

use crate::{
    clock::Now,
    ids::ConnId,
    mqtt::{Ack, Packet, PacketId, Properties, QoS, ReasonCode, Subscribe, Unsubscribe},
    session::{
        CloseReason, Session, Terms,
        durable::Change,
        handle_subscribe,
        outgoing::{Mismatch, Place},
    },
};

use super::{
    Broker,
    commit_gate::{AckKind, Answer},
};

impl Broker {
    pub(super) fn on_subscribe(&mut self, conn: ConnId, subscribe: &Subscribe<'_>, now: Now) {
        if let Err(reason) = handle_subscribe::check_subscribe(subscribe, &self.limits) {
            return self.close(conn, reason, now);
        }
        let Some(client) = self.connections.client(conn) else { return };
        let slot = client.session;
        let identifier = subscribe.properties.subscription_identifiers().next().and_then(NonZeroU32::new);
        let before = self.gate.appended();
        self.filters_taken += subscribe.filters.len();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut retained = Vec::new();
        for (filter, options) in &subscribe.filters {
            let Some(session) = self.sessions.get_mut(slot) else { return };
            let reason = handle_subscribe::judge_filter(*filter, options.qos, session, &self.limits);
            reasons.push(reason);
            if reason.is_error() {
                continue;
            }
            let own = handle_subscribe::own_filter(*filter, session);
            let terms = Terms {
                // Of these the hub grants no more.
                qos: if own.is_some() { options.qos.min(QoS::AtLeastOnce) } else { options.qos },
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                identifier,
            };
            let durable = session.durable;
            let is_new = match own {
                Some(own) => session.own_subscriptions.insert(own, terms).is_none(),
                None => session.subscriptions.insert(filter.as_str().into()),
            };
            if own.is_none() {
                self.subscriptions.insert(*filter, slot, terms);
                self.sys_topics.note_subscribed(filter.as_str());
            }
            if let Some(session) = durable {
                let filter = filter.as_str().into();
                self.note(Change::Subscribed { session, filter, terms }, now);
            }
            if own.is_some() {
                continue;
            }
            if handle_subscribe::wants_retained(*filter, options.retain_handling, is_new) {
                retained.push((filter.as_str().into(), terms));
            }
        }
        let packet_id = subscribe.packet_id;
        self.answer_in_turn(before, conn, Answer::SubAck { packet_id, reasons, retained }, now);
    }

    pub(super) fn on_unsubscribe(&mut self, conn: ConnId, unsubscribe: &Unsubscribe<'_>, now: Now) {
        if let Err(reason) = handle_subscribe::check_unsubscribe(unsubscribe, &self.limits) {
            return self.close(conn, reason, now);
        }
        let Some(client) = self.connections.client(conn) else { return };
        let (slot, version) = (client.session, client.version);
        let before = self.gate.appended();
        let mut were_there = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let Some(session) = self.sessions.get_mut(slot) else { return };
            let own = handle_subscribe::own_filter(*filter, session);
            let was_there = match own {
                Some(own) => session.own_subscriptions.remove(&own).is_some(),
                None => session.subscriptions.remove(filter.as_str()),
            };
            were_there.push(was_there);
            if !was_there {
                continue;
            }
            let durable = session.durable;
            if own.is_none() {
                self.subscriptions.remove(*filter, slot);
            }
            if let Some(session) = durable {
                self.note(Change::Unsubscribed { session, filter: filter.as_str().into() }, now);
            }
        }
        let reasons = handle_subscribe::unsuback_reasons(&were_there, version);
        let packet_id = unsubscribe.packet_id;
        self.answer_in_turn(before, conn, Answer::UnsubAck { packet_id, reasons }, now);
    }

    pub(super) fn on_puback(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.session_mut(conn) else { return };
        let outcome = session.outgoing.on_puback(ack.packet_id);
        self.after_end(conn, outcome, now);
    }

    pub(super) fn on_pubrec(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.session_mut(conn) else { return };
        if ack.reason.is_error() {
            let outcome = session.outgoing.on_pubrec_refused(ack.packet_id);
            return self.after_end(conn, outcome, now);
        }
        match session.outgoing.on_pubrec(ack.packet_id) {
            Ok(place) => {
                let before = self.gate.appended();
                if let Some(place) = place {
                    self.note(Change::Received(place.delivery), now);
                }
                let release = Answer::ack(AckKind::PubRel, ack.packet_id, ReasonCode::Success);
                self.answer_in_turn(before, conn, release, now);
            }
            // A version 5 client is told; an older one that goes on with an exchange we do not know gets on with it.
            Err(Mismatch::Unknown) => {
                self.send_pubrel(conn, ack.packet_id, ReasonCode::PacketIdentifierNotFound, now)
            }
            Err(Mismatch::WrongKind) => self.close(conn, CloseReason::AnswerOutOfPlace, now),
        }
    }

    pub(super) fn on_pubcomp(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.session_mut(conn) else { return };
        let outcome = session.outgoing.on_pubcomp(ack.packet_id);
        self.after_end(conn, outcome, now);
    }

    /// PUBREL: the identifier may be used again. PUBCOMP is owed in any case. [MQTT-4.3.3-11 of 5.0]
    pub(super) fn on_pubrel(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let before = self.gate.appended();
        let Some(session) = self.session_mut(conn) else { return };
        let packet_id = ack.packet_id;
        let known = session.unreleased.remove(&packet_id);
        if let (true, Some(session)) = (known, session.durable) {
            self.note(Change::Released { session, packet_id }, now);
        }
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        self.answer_in_turn(before, conn, Answer::ack(AckKind::PubComp, packet_id, reason), now);
    }

    pub(super) fn send_pubrel(&mut self, conn: ConnId, packet_id: PacketId, reason: ReasonCode, now: Now) {
        self.reply(conn, &Packet::PubRel(Ack { packet_id, reason, properties: Properties::EMPTY }), now);
    }

    /// A delivery is over, and the next may leave.
    fn after_end(&mut self, conn: ConnId, outcome: Result<Option<Place>, Mismatch>, now: Now) {
        match outcome {
            Ok(place) => {
                if let Some(place) = place {
                    self.release_place(place, now);
                }
                self.pump(conn, now);
                self.end_fan_out();
            }
            // An answer to nothing is common before version 5 and harmless; one of the wrong kind is a broken exchange.
            Err(Mismatch::Unknown) => {}
            Err(Mismatch::WrongKind) => self.close(conn, CloseReason::AnswerOutOfPlace, now),
        }
    }

    /// The session of a client that was let in and is not over.
    fn session_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        let slot = self.connections.client(conn)?.session;
        self.sessions.get_mut(slot)
    }
}
