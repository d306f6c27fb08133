//! Random changes to sessions and retained messages, made on the model and on SQLite.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    identity::TokenMark,
    ids::{DeliveryId, IdentityId, MessageId, SessionId},
    mqtt::{PacketId, PropertiesBuf, Property, QoS},
    session::{
        Batch, Message, Terms, Will,
        durable::{Change, DeliveryRow, Recovered, SessionRow},
    },
    store::{BootId, Buffer},
};

use crate::{chance::Chance, place::Place, sessions_model::Sessions};

const CLOCK: ClockState = ClockState { offset_ms: 5, synchronised: false };
const FILTERS: u64 = 6;

/// Both stores, and the time.
pub struct Both<'a> {
    place: &'a Place,
    chance: Chance,
    model: Sessions,
    buffer: Option<Buffer>,
    boot: u64,
    now: Mono,
}

impl<'a> Both<'a> {
    pub fn new(place: &'a Place, seed: u64) -> Self {
        let (model, boot, now) = (Sessions::default(), 1, Mono(0));
        let mut both = Self { place, chance: Chance::new(seed), model, buffer: None, boot, now };
        both.start();
        both
    }

    /// Makes one call on both, and compares what can be read back.
    pub fn call(&mut self) {
        self.now = self.now + self.upto_ms(1_000);
        match self.chance.below(20) {
            0..16 => self.append(),
            16 => self.buffer().reopen().expect("opened again"),
            17 => {
                let now = self.now;
                self.buffer().note_running(now).expect("noted");
                self.model.note(now);
            }
            18 => self.buffer().checkpoint().expect("done"),
            _ => {
                self.pass_boots();
                self.start();
            }
        }
        let last_seq = self.buffer().last_seq();
        let expected = Recovered { last_seq, ..self.model.recovered() };
        assert_eq!(self.buffer().recover().expect("read"), expected);
    }

    fn start(&mut self) {
        self.buffer = None;
        let id = format!("sessions-{}", self.boot);
        let now = Now { mono: self.now, wall: Wall(0) };
        let options = self.place.options();
        let opened = Buffer::open(&self.place.dir(), &options, &BootId::new(&id), now, CLOCK);
        self.buffer = Some(opened.expect("opened"));
        self.model.open(&id, self.now);
    }

    /// The program is started again: in the same boot, in another, or in the same with another idea of time.
    fn pass_boots(&mut self) {
        match self.chance.below(3) {
            0 => {}
            1 => {
                self.boot += 1;
                self.now = Mono(0) + self.upto_ms(2_000);
            }
            _ => self.now = Mono(0) + self.upto_ms(self.now.as_millis().unsigned_abs()),
        }
    }

    fn append(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..1 + self.chance.below(6) {
            // Each is made on the model at once: the next one may build on it.
            for change in self.changes() {
                self.model.apply(&change);
                changes.push(change);
            }
        }
        self.buffer().append(&Batch { changes, ..Batch::default() }).expect("stored");
    }

    fn buffer(&mut self) -> &mut Buffer {
        self.buffer.as_mut().expect("open")
    }

    /// One change, or some that only make sense together; none if there is nothing that could change so.
    fn changes(&mut self) -> Vec<Change> {
        let found = self.model.recovered();
        let kind = self.chance.below(20);
        let sessions: Vec<SessionId> = found.sessions.iter().map(|session| session.row.id).collect();
        let Some(session) = self.one_of(&sessions) else { return vec![self.new_session(&found)] };
        let rows = found.sessions.iter().flat_map(|session| session.deliveries.iter().cloned());
        let rows: Vec<DeliveryRow> = rows.collect();
        match kind {
            0 => vec![self.new_session(&found)],
            1 => vec![Change::Session(self.session_row(session))],
            2 if self.chance.coin() => self.session_over(&found, &rows, session),
            3 | 4 => vec![Change::Subscribed { session, filter: self.filter(), terms: self.terms() }],
            5 => vec![Change::Unsubscribed { session, filter: self.filter() }],
            6..9 => self.queue(&found, &rows, session),
            9..12 => self.one_of(&rows).map_or(Vec::new(), |row| self.go_on(row)),
            12 | 13 => self.one_of(&rows).map_or(Vec::new(), |row| delivered(&rows, &row)),
            14 => vec![Change::Unreleased { session, packet_id: self.packet_id() }],
            15 => vec![Change::Released { session, packet_id: self.packet_id() }],
            16 => vec![Change::Will { session, will: Box::new(self.will()), due: self.time() }],
            17 => vec![Change::WillOver(session)],
            18 => vec![Change::Retained(Arc::new(self.message()))],
            _ => vec![Change::RetainedOver(self.topic())],
        }
    }

    fn new_session(&mut self, found: &Recovered) -> Change {
        let id = SessionId(found.last_session.0 + 1 + self.chance.below(3));
        Change::Session(self.session_row(id))
    }

    fn session_row(&mut self, id: SessionId) -> SessionRow {
        SessionRow {
            id,
            identity: IdentityId(self.chance.below(5) as i64),
            client_id: format!("client {}", id.0).into(),
            token: self.chance.coin().then(|| TokenMark(self.chance.below(3) as i64)),
            expiry_s: if self.chance.coin() { u32::MAX } else { self.chance.below(100_000) as u32 },
            // The end of a connection is never in the future.
            ended: self.chance.coin().then_some(self.now),
        }
    }

    /// As the broker does it: its deliveries, and the messages nobody speaks of any more, go in the same transaction.
    fn session_over(&mut self, found: &Recovered, rows: &[DeliveryRow], session: SessionId) -> Vec<Change> {
        let still = |id: &MessageId| rows.iter().any(|row| row.session != session && row.message == *id);
        let over = found.messages.iter().map(|(id, _)| *id).filter(|id| !still(id));
        let own = rows.iter().filter(|row| row.session == session).map(|row| Change::Delivered(row.id));
        own.chain([Change::SessionOver(session)]).chain(over.map(Change::MessageOver)).collect()
    }

    fn queue(&mut self, found: &Recovered, rows: &[DeliveryRow], session: SessionId) -> Vec<Change> {
        let known: Vec<MessageId> = rows.iter().map(|row| row.message).collect();
        let known = self.one_of(&known).filter(|_| self.chance.coin());
        let id = known.unwrap_or(MessageId(found.last_message.0 + 1));
        let row = DeliveryRow {
            id: DeliveryId(found.last_delivery.0 + 1),
            session,
            message: id,
            qos: if self.chance.coin() { QoS::AtLeastOnce } else { QoS::ExactlyOnce },
            retain: self.chance.coin(),
            identifiers: (0..self.chance.below(3))
                .map(|_| 1 + self.chance.below(268_435_455) as u32)
                .collect(),
            group: self.chance.coin().then(|| "$share/group/a".into()),
            packet_id: self.chance.coin().then(|| self.packet_id()),
            received: false,
        };
        let message = known.is_none().then(|| Change::Message { id, message: Arc::new(self.message()) });
        message.into_iter().chain([Change::Queued(row)]).collect()
    }

    fn go_on(&mut self, row: DeliveryRow) -> Vec<Change> {
        let sent = Change::Sent { delivery: row.id, packet_id: self.packet_id() };
        match row.packet_id {
            Some(_) if self.chance.coin() => vec![Change::Received(row.id)],
            _ => vec![sent],
        }
    }

    fn terms(&mut self) -> Terms {
        Terms {
            qos: *self.chance.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
            no_local: self.chance.coin(),
            retain_as_published: self.chance.coin(),
            identifier: NonZeroU32::new(self.chance.below(3) as u32),
        }
    }

    fn will(&mut self) -> Will {
        Will {
            message: self.message().living(None, Mono(0)),
            lives: self.chance.coin().then(|| self.upto_ms(100_000)),
            delay: self.upto_ms(100_000),
            is_telemetry: self.chance.coin(),
        }
    }

    fn message(&mut self) -> Message {
        let mut properties = PropertiesBuf::new();
        if self.chance.coin() {
            properties.push(Property::UserProperty("key", "value"));
            properties.push(Property::CorrelationData(&[0, 255]));
        }
        let length = if self.chance.below(10) == 0 { 3_000 } else { 10 };
        let length = self.chance.below(length) as usize;
        let payload = self.chance.bytes(length);
        let (topic, ends) = (self.topic(), self.time());
        let (qos, properties) = (self.terms().qos, properties.as_properties().as_bytes());
        Message::restored(&topic, &payload, properties, qos, self.chance.coin(), ends).expect("sound")
    }

    fn topic(&mut self) -> Box<str> {
        format!("topic/{}", self.chance.below(FILTERS)).into()
    }

    fn filter(&mut self) -> Box<str> {
        format!("$share/group/{}/#", self.chance.below(FILTERS)).into()
    }

    fn packet_id(&mut self) -> PacketId {
        PacketId::new(1 + self.chance.below(8) as u16).expect("not zero")
    }

    /// None, or a time that is near.
    fn time(&mut self) -> Option<Mono> {
        self.chance.coin().then(|| self.now + self.upto_ms(10_000))
    }

    fn upto_ms(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.chance.below(most + 1))
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| self.chance.pick(all).clone())
    }
}

/// The delivery is over, and with it its message if no other one speaks of it.
fn delivered(rows: &[DeliveryRow], over: &DeliveryRow) -> Vec<Change> {
    let speaks_of_it = rows.iter().filter(|row| row.message == over.message).count();
    let message = (speaks_of_it == 1).then_some(Change::MessageOver(over.message));
    [Change::Delivered(over.id)].into_iter().chain(message).collect()
}
