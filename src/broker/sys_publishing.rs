//! What the broker tells of itself, on its way to those who subscribed; the values are [`SysTopics`]'s.
//!
//! [`SysTopics`]: super::sys_topics::SysTopics

use std::{ops::Bound, sync::Arc};

use crate::{
    clock::Now,
    ids::{ConnId, SessionSlot},
    limits::SYS_NEWCOMERS_MAX,
    mqtt::TopicFilter,
    session::{Delivery, Session, Terms},
};

use super::{
    Broker, Deadline,
    sys_topics::{INTERVAL, is_sys_filter},
};

/// A subscriber to be sent the first values once they are there.
pub(super) type Newcomer = (ConnId, Box<str>, Terms);

impl Broker {
    /// Whether [`Broker::handle_report`] is to be called in this turn.
    pub fn wants_report(&self) -> bool {
        self.sys_topics.wants_values()
    }

    /// How everything is doing, as names and values: told under `$SYS/forebay`, beside what the broker itself knows.
    pub fn handle_report(&mut self, values: Vec<(String, String)>, now: Now) {
        let (counters, gauges) = (self.counters(), self.gauges());
        for message in self.sys_topics.handle_values(&counters, &gauges, values, now.mono) {
            self.route(message);
        }
        for (conn, filter, terms) in std::mem::take(&mut self.sys_newcomers) {
            self.send_sys_topics(conn, &filter, terms, now);
        }
        self.deadlines.arm(Deadline::SysTopics, now.mono + INTERVAL);
        self.route_pending(now);
        self.check_invariants();
    }

    /// Sends the latest values to a new subscription that asks for them, or lets it wait for the first.
    pub(super) fn send_latest(&mut self, conn: ConnId, filter: &str, terms: Terms, now: Now) {
        if !is_sys_filter(filter) {
            return;
        }
        if self.sys_topics.wake() {
            self.send_sys_topics(conn, filter, terms, now);
        } else if self.sys_newcomers.len() < SYS_NEWCOMERS_MAX {
            self.sys_newcomers.push((conn, filter.into(), terms));
        }
    }

    /// The session has a connection again; it is told from now on if it ever subscribed.
    pub(super) fn go_on_telling(&mut self, slot: SessionSlot) {
        if self.sessions.get(slot).is_some_and(listens) {
            self.sys_topics.wake();
        }
    }

    /// New values are due, if anybody listens.
    pub(super) fn on_sys_interval(&mut self) {
        let somebody_listens = self.sessions.iter().any(|(_, session)| listens(session));
        self.sys_topics.handle_interval(somebody_listens);
    }

    fn send_sys_topics(&mut self, conn: ConnId, filter: &str, terms: Terms, now: Now) {
        let Some(slot) = self.connections.client(conn).map(|client| client.session) else { return };
        let filter = TopicFilter::parse(filter).expect("it was a filter when it came");
        let mut found = Vec::new();
        self.sys_topics.for_each_match(filter, |message| found.push(Arc::clone(message)));
        for message in found {
            let identifiers = terms.identifier.map(u32::from).into_iter().collect();
            let qos = message.qos.min(terms.qos);
            let delivery = Delivery { message, qos, retain: true, identifiers, group: None, place: None };
            self.deliver(slot, delivery, now);
        }
        self.end_fan_out();
    }
}

/// Whether the session is connected and subscribed to anything the broker tells of itself.
fn listens(session: &Session) -> bool {
    // All such filters begin with a dollar, so they stand together.
    let from_dollar = session.subscriptions.range::<str, _>((Bound::Included("$"), Bound::Unbounded));
    session.conn.is_some()
        && from_dollar.take_while(|filter| filter.starts_with('$')).any(|filter| is_sys_filter(filter))
}
