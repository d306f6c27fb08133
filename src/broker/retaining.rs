//! Retained messages: kept, replaced and cleared by what is published with RETAIN; sent to who subscribes. [§3.3.1.3]

use std::sync::Arc;

use crate::{
    clock::Now,
    ids::ConnId,
    mqtt::{QoS, TopicFilter},
    session::{Delivery, Message, Terms, durable::Change},
};

use super::{Broker, Deadline, StoreState};

impl Broker {
    /// Makes `message` its topic's retained message, or clears that if it is empty; gives back whether there was room.
    /// While the store is out of order there is none.
    pub(super) fn retain(&mut self, message: &Arc<Message>, now: Now) -> bool {
        if self.store == StoreState::Failed {
            return false;
        }
        if message.payload().is_empty() {
            if self.retained.remove(message.topic()).is_some() {
                self.note(Change::RetainedOver(message.topic().as_str().into()), now);
            }
            return true;
        }
        if self.retained.insert(Arc::clone(message), &self.limits).is_err() {
            self.counters.retained_refused += 1;
            return false;
        }
        self.note(Change::Retained(Arc::clone(message)), now);
        self.arm_retained_expiry();
        true
    }

    /// Takes over what is on disk, instead of what there was; what has expired meanwhile goes.
    pub(super) fn adopt_retained(&mut self, messages: Vec<Message>, now: Now) {
        self.retained.clear();
        for message in messages {
            if message.is_expired(now.mono) {
                self.note(Change::RetainedOver(message.topic().as_str().into()), now);
            } else if self.retained.insert(Arc::new(message), &self.limits).is_err() {
                log::warn!("a retained message is left out: there are more on disk than may be kept");
            }
        }
        self.arm_retained_expiry();
    }

    /// Drops the retained messages whose time is over. [MQTT-3.3.2-5 of 5.0]
    pub(super) fn on_retained_expired(&mut self, now: Now) {
        for topic in self.retained.take_expired(now.mono) {
            self.counters.messages_expired += 1;
            self.note(Change::RetainedOver(topic), now);
        }
        self.arm_retained_expiry();
    }

    fn arm_retained_expiry(&mut self) {
        match self.retained.next_expiry() {
            Some(at) => self.deadlines.arm(Deadline::Retained, at),
            None => self.deadlines.cancel(Deadline::Retained),
        }
    }

    /// Sends the retained messages that new subscriptions ask for, with RETAIN set. [MQTT-3.3.1-8]
    pub(super) fn send_retained(&mut self, conn: ConnId, wanted: &[(Box<str>, Terms)], now: Now) {
        for (filter, terms) in wanted {
            self.send_latest(conn, filter, *terms, now);
        }
        if self.retained.is_empty() {
            return;
        }
        let Some(slot) = self.connections.client(conn).map(|client| client.session) else { return };
        for (filter, terms) in wanted {
            let filter = TopicFilter::parse(filter).expect("it was a filter when it came");
            let mut found = Vec::new();
            self.retained.for_each_match(filter, |message| found.push(Arc::clone(message)));
            let mut has_room = true;
            for message in found {
                if terms.no_local && self.sessions.has_published(slot, &message) {
                    continue;
                }
                let qos = message.qos.min(terms.qos);
                // Where one had no room the others have none, and looking for it costs more than they are worth.
                if qos == QoS::AtMostOnce && !has_room {
                    self.counters.messages_dropped += 1;
                    continue;
                }
                let identifiers = terms.identifier.map(u32::from).into_iter().collect();
                let delivery = Delivery { message, qos, retain: true, identifiers, group: None, place: None };
                has_room = self.deliver(slot, delivery, now);
                if self.connections.client(conn).is_none() {
                    return self.end_fan_out();
                }
            }
        }
        self.end_fan_out();
    }
}
