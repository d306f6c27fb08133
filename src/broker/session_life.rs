//! The life of a session: begun or gone on with at CONNECT, left when the connection ends, over when its time is.
//!
//! ```text
//!            CONNECT                    the connection ends                its time is over, a clean start,
//!   (none) ──────────> with a connection ──────────────────> without one ──────────────────────────────────> over
//!                          ^     │                               │            too many, revoked, queue full
//!                          └─────│────────── CONNECT ────────────┘
//!                                └── not durable: over at once
//! ```

use crate::{
    clock::{Mono, Now},
    ids::{ConnId, IdentityId, SessionSlot},
    mqtt::TopicFilter,
    session::{Client, CloseReason, Session, Will, durable::Change},
};

use super::{Broker, Deadline, StoreState};

impl Broker {
    /// Gives the client of `conn` the session it asks for; also says whether it was there before. [MQTT-3.2.2-2]
    pub(super) fn begin_session(
        &mut self,
        conn: ConnId,
        fresh: Session,
        window: u16,
        clean_start: bool,
        now: Now,
    ) -> (SessionSlot, bool) {
        if let Some(slot) = self.sessions.find(fresh.identity, &fresh.client_id) {
            if !clean_start && !self.is_over(slot, now) {
                self.resume_session(slot, conn, fresh, window, now);
                return (slot, true);
            }
            self.end_session(slot, now);
        }
        let is_durable = fresh.expiry_s > 0;
        let slot = self.sessions.insert(Session { conn: Some(conn), ..fresh });
        if is_durable {
            self.make_durable(slot, now);
            self.note_will(slot, now);
        }
        (slot, false)
    }

    fn resume_session(&mut self, slot: SessionSlot, conn: ConnId, fresh: Session, window: u16, now: Now) {
        self.forget_deadlines(slot);
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let (identity, since) = (session.identity, session.offline_since);
        session.conn = Some(conn);
        session.token = fresh.token;
        session.rights = fresh.rights;
        session.name = fresh.name;
        session.expiry_s = fresh.expiry_s;
        // The will that waited is not published: the client is back in time. [MQTT-3.1.3-9 of 5.0]
        let had_will = session.will.is_some();
        session.will = fresh.will;
        session.outgoing.resume(window);
        let bytes = session.outgoing.bytes();
        self.sessions.forget_offline(identity, since, slot);
        self.offline_bytes -= bytes;
        self.queued_bytes += bytes;
        self.note_session(slot, now);
        self.go_on_telling(slot);
        if had_will {
            self.note_will_over(slot, now);
        }
        self.note_will(slot, now);
    }

    /// The connection of `client` ended for `reason`: its session ends too, or goes on without it.
    pub(super) fn leave_session(&mut self, client: &Client, reason: CloseReason, now: Now) {
        let slot = client.session;
        let is_failed = self.store == StoreState::Failed;
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let will_is_due = reason.publishes_will();
        if !will_is_due {
            let had_will = session.will.take().is_some();
            if had_will {
                self.note_will_over(slot, now);
            }
        }
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let goes_on =
            session.durable.is_some() && session.expiry_s > 0 && !reason.ends_session() && !is_failed;
        if !goes_on {
            if is_failed && session.durable.is_some() {
                self.doubt_will(slot);
            }
            return self.end_session(slot, now);
        }
        let identity = session.identity;
        let offline_max = session.offline_max(&self.limits);
        session.conn = None;
        session.offline_since = now.mono;
        let before = session.outgoing.bytes();
        session.outgoing.drop_unkept();
        let after = session.outgoing.bytes();
        self.queued_bytes -= before;
        self.offline_bytes += after;
        let will = session.will.take().map(|will| (*will, None));
        self.hand_over(slot, false, now);
        self.go_on_offline(slot, will, true, now);
        self.bound_offline(identity, offline_max, now);
    }

    /// The session goes on without a connection. `was_online`: that begins now; otherwise it did when `offline_since`
    /// says, and the will carries the moment it is due.
    pub(super) fn go_on_offline(
        &mut self,
        slot: SessionSlot,
        will: Option<(Will, Option<Mono>)>,
        was_online: bool,
        now: Now,
    ) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let (since, expiry, durable) = (session.offline_since, session.expiry(), session.durable);
        self.sessions.note_offline(slot, since);
        if let Some(expiry) = expiry {
            self.deadlines.arm(Deadline::SessionEnd(slot), since + expiry);
        }
        if was_online {
            self.note_session(slot, now);
        }
        let Some((will, due)) = will else { return };
        let due = due.unwrap_or(since + will.delay);
        let Some(session) = self.sessions.get_mut(slot) else { return };
        session.will = Some(Box::new(will.clone()));
        if due <= now.mono {
            return self.on_will_due(slot, now);
        }
        self.deadlines.arm(Deadline::Will(slot), due);
        if was_online && let Some(session) = durable {
            self.note(Change::Will { session, will: Box::new(will), due: Some(due) }, now);
        }
    }

    /// The will of a session without a connection is due: it is published, once. [MQTT-3.1.2-8]
    pub(super) fn on_will_due(&mut self, slot: SessionSlot, now: Now) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(will) = session.will.take() else { return };
        let name = session.name.clone();
        self.note_will_over(slot, now);
        self.publish_will(&name, *will, now);
    }

    /// The session's time is over.
    pub(super) fn on_session_end(&mut self, slot: SessionSlot, now: Now) {
        if self.sessions.get(slot).is_some_and(|session| session.conn.is_none()) {
            self.end_session(slot, now);
        }
    }

    /// Ends a session for good; a will that waited is published now. [MQTT-3.1.3-9 of 5.0], [§3.1.3.2.2]
    pub(super) fn end_session(&mut self, slot: SessionSlot, now: Now) {
        self.forget_deadlines(slot);
        self.hand_over(slot, true, now);
        let Some(mut session) = self.sessions.remove(slot) else { return };
        let bytes = session.outgoing.bytes();
        if session.conn.is_some() {
            self.queued_bytes -= bytes;
        } else {
            self.offline_bytes -= bytes;
            self.sessions.forget_offline(session.identity, session.offline_since, slot);
        }
        for filter in &session.subscriptions {
            let filter = TopicFilter::parse(filter).expect("it was a filter when it came");
            self.subscriptions.remove(filter, slot);
        }
        self.forget_durable(&session, now);
        if let Some(will) = session.will.take() {
            self.publish_will(&session.name, *will, now);
        }
    }

    /// Ends the sessions of an identity that have no connection: its credentials were changed.
    pub(super) fn end_offline_sessions(&mut self, identity: IdentityId, now: Now) {
        let all: Vec<SessionSlot> = self.sessions.offline(identity).collect();
        for slot in all {
            self.end_session(slot, now);
        }
    }

    /// Holds the bounds on sessions without a connection; those gone longest end.
    fn bound_offline(&mut self, identity: IdentityId, max: usize, now: Now) {
        while self.sessions.offline(identity).count() > max {
            let Some(oldest) = self.sessions.offline(identity).next() else { return };
            self.end_session(oldest, now);
        }
        while self.sessions.offline_len() > self.limits.offline_sessions as usize {
            let Some(oldest) = self.sessions.longest_gone() else { return };
            self.end_session(oldest, now);
        }
    }

    /// What shared subscriptions gave the session, and it has not taken, goes to others: all of it if the session is
    /// over, else what another connected member can take.
    fn hand_over(&mut self, slot: SessionSlot, is_over: bool, now: Now) {
        let (subscriptions, sessions) = (&mut self.subscriptions, &self.sessions);
        let Some(session) = sessions.get(slot) else { return };
        if session.outgoing.is_idle() {
            return;
        }
        let mut goes = |filter: &std::sync::Arc<str>| {
            let takes = |other: SessionSlot| {
                other != slot && sessions.get(other).is_some_and(|session| session.conn.is_some())
            };
            let filter = TopicFilter::parse(filter).expect("it was a filter when it came");
            is_over || subscriptions.group_mut(filter).is_some_and(|group| group.any_member(takes))
        };
        // The filters are few and asked for once per delivery.
        let groups: Vec<_> = session.outgoing.groups();
        let going: Vec<_> = groups.into_iter().filter(|group| goes(group)).collect();
        let taken =
            self.change_outgoing(slot, |outgoing| outgoing.take_shared(|group| going.contains(group)));
        for mut delivery in taken.into_iter().flatten() {
            if let Some(place) = delivery.place.take() {
                self.release_place(place, now);
            }
            self.hand_on(delivery);
        }
    }

    /// Whether the session's time is over, though its deadline was not looked at yet.
    fn is_over(&self, slot: SessionSlot, now: Now) -> bool {
        let Some(session) = self.sessions.get(slot) else { return true };
        session.conn.is_none()
            && session.expiry().is_some_and(|expiry| session.offline_since + expiry <= now.mono)
    }

    /// Notes the will a connected client has, if its session is durable.
    pub(super) fn note_will(&mut self, slot: SessionSlot, now: Now) {
        let Some(session) = self.sessions.get(slot) else { return };
        if let (Some(id), Some(will)) = (session.durable, &session.will) {
            let will = will.clone();
            self.note(Change::Will { session: id, will, due: None }, now);
        }
    }

    fn note_will_over(&mut self, slot: SessionSlot, now: Now) {
        if let Some(session) = self.sessions.get(slot).and_then(|session| session.durable) {
            self.note(Change::WillOver(session), now);
        }
    }

    fn forget_deadlines(&mut self, slot: SessionSlot) {
        self.deadlines.cancel(Deadline::SessionEnd(slot));
        self.deadlines.cancel(Deadline::Will(slot));
    }
}
