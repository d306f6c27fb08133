//! SUBSCRIBE, UNSUBSCRIBE, and the answers of subscribers to what they were sent.

use std::num::NonZeroU32;

use crate::{
    clock::Now,
    ids::ConnId,
    mqtt::{
        Ack, Packet, PacketId, Properties, ReasonCode, SubAck, Subscribe, TopicFilter, UnsubAck, Unsubscribe,
    },
    session::{CloseReason, Session, Terms, handle_subscribe, outgoing::Mismatch},
};

use super::{Broker, subscription_tree::Subscriber};

impl Broker {
    pub(super) fn on_subscribe(&mut self, conn: ConnId, subscribe: &Subscribe<'_>, now: Now) {
        if let Err(reason) = handle_subscribe::check_subscribe(subscribe, &self.limits) {
            return self.close(conn, reason, now);
        }
        let identifier = subscribe.properties.subscription_identifiers().next().and_then(NonZeroU32::new);
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for (filter, options) in &subscribe.filters {
            let Some(session) = self.connections.session_mut(conn) else { return };
            let reason = handle_subscribe::judge_filter(*filter, options.qos, session, &self.limits);
            if !reason.is_error() {
                session.subscriptions.insert(filter.as_str().into());
                let terms = Terms {
                    qos: options.qos,
                    no_local: options.no_local,
                    retain_as_published: options.retain_as_published,
                    identifier,
                };
                self.subscriptions.insert(*filter, Subscriber(conn.slot), terms);
            }
            reasons.push(reason);
        }
        let (packet_id, properties) = (subscribe.packet_id, Properties::EMPTY);
        self.reply(conn, &Packet::SubAck(SubAck { packet_id, properties, reasons }), now);
    }

    pub(super) fn on_unsubscribe(&mut self, conn: ConnId, unsubscribe: &Unsubscribe<'_>, now: Now) {
        if let Err(reason) = handle_subscribe::check_unsubscribe(unsubscribe, &self.limits) {
            return self.close(conn, reason, now);
        }
        let mut were_there = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let Some(session) = self.connections.session_mut(conn) else { return };
            let was_there = session.subscriptions.remove(filter.as_str());
            if was_there {
                self.subscriptions.remove(*filter, Subscriber(conn.slot));
            }
            were_there.push(was_there);
        }
        let Some(session) = self.connections.session(conn) else { return };
        let reasons = handle_subscribe::unsuback_reasons(&were_there, session.version);
        let (packet_id, properties) = (unsubscribe.packet_id, Properties::EMPTY);
        self.reply(conn, &Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }), now);
    }

    /// Forgets every subscription of a connection that is over.
    pub(super) fn unsubscribe_all(&mut self, conn: ConnId, session: &Session) {
        for filter in &session.subscriptions {
            let filter = TopicFilter::parse(filter).expect("it was a filter when it came");
            self.subscriptions.remove(filter, Subscriber(conn.slot));
        }
    }

    pub(super) fn on_puback(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.connections.session_mut(conn) else { return };
        let outcome = session.outgoing.on_puback(ack.packet_id);
        self.after_answer(conn, outcome, now);
    }

    pub(super) fn on_pubrec(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.connections.session_mut(conn) else { return };
        let refused = ack.reason.is_error();
        match session.outgoing.on_pubrec(ack.packet_id, refused) {
            Ok(()) if !refused => self.send_pubrel(conn, ack.packet_id, ReasonCode::Success, now),
            // A version 5 client is told; an older one that goes on with an exchange we do not know gets on with it.
            Err(Mismatch::Unknown) => {
                self.send_pubrel(conn, ack.packet_id, ReasonCode::PacketIdentifierNotFound, now)
            }
            outcome => self.after_answer(conn, outcome, now),
        }
    }

    pub(super) fn on_pubcomp(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.connections.session_mut(conn) else { return };
        let outcome = session.outgoing.on_pubcomp(ack.packet_id);
        self.after_answer(conn, outcome, now);
    }

    /// PUBREL: the identifier may be used again. PUBCOMP is owed in any case. [MQTT-4.3.3-11 of 5.0]
    pub(super) fn on_pubrel(&mut self, conn: ConnId, ack: &Ack<'_>, now: Now) {
        let Some(session) = self.connections.session_mut(conn) else { return };
        let known = session.unreleased.remove(&ack.packet_id);
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        let (packet_id, properties) = (ack.packet_id, Properties::EMPTY);
        self.reply(conn, &Packet::PubComp(Ack { packet_id, reason, properties }), now);
    }

    fn send_pubrel(&mut self, conn: ConnId, packet_id: PacketId, reason: ReasonCode, now: Now) {
        self.reply(conn, &Packet::PubRel(Ack { packet_id, reason, properties: Properties::EMPTY }), now);
    }

    /// An answer to nothing is common before version 5 and harmless; one of the wrong kind is a broken exchange.
    fn after_answer(&mut self, conn: ConnId, outcome: Result<(), Mismatch>, now: Now) {
        match outcome {
            Ok(()) => self.pump(conn, now),
            Err(Mismatch::Unknown) => {}
            Err(Mismatch::WrongKind) => self.close(conn, CloseReason::AnswerOutOfPlace, now),
        }
    }
}
