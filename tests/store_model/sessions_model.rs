//! What the store keeps of sessions and retained messages, in maps; times are running time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use forebay::{
    clock::Mono,
    ids::{DeliveryId, MessageId, Seq, SessionId},
    mqtt::PacketId,
    session::{
        Message, Terms, Will,
        durable::{Change, DeliveryRow, Recovered, RecoveredSession, SessionRow},
    },
};

/// A session with everything that is kept under its number alone.
#[derive(Clone, Debug)]
struct Kept {
    row: SessionRow,
    subscriptions: BTreeMap<Box<str>, Terms>,
    unreleased: BTreeSet<PacketId>,
    will: Option<(Will, Option<Mono>)>,
}

/// Sessions and retained messages.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    boot: String,
    /// Running time before the boot, and how much of the boot is known to have passed.
    age: Duration,
    passed: Mono,
    sessions: BTreeMap<SessionId, Kept>,
    last_session: SessionId,
    messages: BTreeMap<MessageId, Arc<Message>>,
    deliveries: BTreeMap<DeliveryId, DeliveryRow>,
    retained: BTreeMap<Box<str>, Message>,
}

impl Sessions {
    /// The journal is opened in boot `id`: the one before, unless time has gone back, or another.
    pub fn open(&mut self, id: &str, now: Mono) {
        // The end of a connection says how late it is, as long as its session is known by it.
        let ended = self.sessions.values().filter_map(|kept| kept.row.ended).max().unwrap_or_default();
        let passed = self.passed.max(self.since_boot(ended));
        if self.boot != id || now < passed {
            self.boot = id.to_owned();
            self.age += passed.since(Mono(0));
            self.passed = Mono(0);
        }
        self.note(now);
    }

    /// So much of the boot is known to have passed.
    pub fn note(&mut self, now: Mono) {
        self.passed = self.passed.max(now);
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Session(row) => self.put_session(row),
            Change::SessionOver(session) => drop(self.sessions.remove(session)),
            Change::Subscribed { session, filter, terms } => {
                self.kept(*session).subscriptions.insert(filter.clone(), *terms);
            }
            Change::Unsubscribed { session, filter } => {
                self.kept(*session).subscriptions.remove(filter);
            }
            Change::Message { id, message } => {
                self.messages.insert(*id, Arc::new(moved(message, |time| self.running(time))));
            }
            Change::MessageOver(id) => drop(self.messages.remove(id)),
            Change::Queued(row) => drop(self.deliveries.insert(row.id, row.clone())),
            Change::Sent { delivery, packet_id } => self.delivery(*delivery).packet_id = Some(*packet_id),
            Change::Received(delivery) => self.delivery(*delivery).received = true,
            Change::Delivered(delivery) => drop(self.deliveries.remove(delivery)),
            Change::Unreleased { session, packet_id } => {
                self.kept(*session).unreleased.insert(*packet_id);
            }
            Change::Released { session, packet_id } => {
                self.kept(*session).unreleased.remove(packet_id);
            }
            Change::Will { session, will, due } => {
                let due = due.map(|due| self.running(due));
                self.kept(*session).will = Some(((**will).clone(), due));
            }
            Change::WillOver(session) => self.kept(*session).will = None,
            Change::Retained(message) => {
                let kept = moved(message, |time| self.running(time));
                self.retained.insert(message.topic().as_str().into(), kept);
            }
            Change::RetainedOver(topic) => drop(self.retained.remove(topic)),
        }
    }

    pub fn recovered(&self) -> Recovered {
        let back = |time: Mono| self.since_boot(time);
        let spoken_of = |id: &MessageId| self.deliveries.values().any(|delivery| delivery.message == *id);
        Recovered {
            last_seq: Seq(0),
            sessions: self.sessions.values().map(|kept| self.session(kept)).collect(),
            messages: self
                .messages
                .iter()
                .filter(|(id, _)| spoken_of(id))
                .map(|(id, message)| (*id, Arc::new(moved(message, back))))
                .collect(),
            retained: self.retained.values().map(|message| moved(message, back)).collect(),
            last_session: self.last_session,
            last_message: self.messages.keys().last().copied().unwrap_or_default(),
            last_delivery: self.deliveries.keys().last().copied().unwrap_or_default(),
        }
    }

    fn session(&self, kept: &Kept) -> RecoveredSession {
        let row =
            SessionRow { ended: kept.row.ended.map(|ended| self.since_boot(ended)), ..kept.row.clone() };
        let deliveries = self.deliveries.values().filter(|delivery| delivery.session == row.id);
        RecoveredSession {
            deliveries: deliveries.cloned().collect(),
            row,
            subscriptions: kept.subscriptions.clone().into_iter().collect(),
            unreleased: kept.unreleased.iter().copied().collect(),
            will: kept.will.clone().map(|(will, due)| (will, due.map(|due| self.since_boot(due)))),
        }
    }

    fn put_session(&mut self, row: &SessionRow) {
        let row = SessionRow { ended: row.ended.map(|ended| self.running(ended)), ..row.clone() };
        self.last_session = self.last_session.max(row.id);
        self.sessions.entry(row.id).and_modify(|kept| kept.row = row.clone()).or_insert_with(|| Kept {
            row,
            subscriptions: BTreeMap::new(),
            unreleased: BTreeSet::new(),
            will: None,
        });
    }

    fn kept(&mut self, session: SessionId) -> &mut Kept {
        self.sessions.get_mut(&session).expect("changes are made to sessions there are")
    }

    fn delivery(&mut self, delivery: DeliveryId) -> &mut DeliveryRow {
        self.deliveries.get_mut(&delivery).expect("changes are made to deliveries there are")
    }

    fn running(&self, time: Mono) -> Mono {
        time + self.age
    }

    fn since_boot(&self, time: Mono) -> Mono {
        time - self.age
    }
}

/// The message with another end.
fn moved(message: &Message, to: impl Fn(Mono) -> Mono) -> Message {
    let end = message.expires().map(to);
    message.clone().living(end.map(|_| Duration::ZERO), end.unwrap_or_default())
}
