//! One client of the soak, over many lives.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Interest, Poll, Token, net::TcpStream};
use socket2::{Domain, SockRef, Socket, Type};

use super::Tally;
use crate::support::{
    chance::Chance,
    packets::{Connect, Publish},
    wire::{Reply, TELEMETRY, Version, publish, subscribe, unsubscribe},
};

/// Messages of QoS 1 and 2 one client has under way: few enough for every broker.
const UNFINISHED_MAX: usize = 8;
/// Local clients that subscribe to the same topics.
const ROOMS: usize = 50;
/// Seconds a session may wait for its client, well beyond any absence.
const SESSION_EXPIRY_S: u32 = 60;
const SUBSCRIBE_ID: u16 = u16::MAX;

/// What it is to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Device,
    LocalClient,
}

/// How fast things happen; each time is between nothing and twice this.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub life_ms: u64,
    pub absence_ms: u64,
    pub between_messages_ms: u64,
}

/// A message of QoS 1 or 2 on its way. The next life may speak another version, so it is encoded anew for it.
enum Unfinished {
    Publish { topic: String, qos: u8, retain: bool, payload: String },
    Released,
}

/// One client.
pub struct Soaker {
    index: usize,
    kind: Kind,
    token: String,
    broker: SocketAddr,
    version: Version,
    link: Option<TcpStream>,
    /// The connection of the life before, if this one is to take it over.
    former: Option<TcpStream>,
    online: bool,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// What was sent and not acknowledged, by packet id: sent again if the session goes on. [MQTT-4.4.0-1]
    unfinished: BTreeMap<u16, Unfinished>,
    last_id: u16,
    /// When it comes or leaves.
    next_change: Instant,
    next_message: Instant,
}

impl Soaker {
    pub fn new(index: usize, kind: Kind, token: &str, broker: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            index,
            kind,
            token: token.to_owned(),
            broker,
            version: Version::V311,
            link: None,
            former: None,
            online: false,
            inbox: Vec::new(),
            outbox: Vec::new(),
            unfinished: BTreeMap::new(),
            last_id: 0,
            next_change: now,
            next_message: now,
        }
    }

    pub fn is_online(&self) -> bool {
        self.online
    }

    /// Does what is due: come, leave, publish.
    pub fn act(&mut self, now: Instant, pace: Pace, poll: &Poll, chance: &mut Chance, tally: &mut Tally) {
        if self.link.is_none() {
            if now >= self.next_change {
                self.come(poll, chance);
                self.next_change = now + about(pace.life_ms, chance);
            }
        } else if self.online && now >= self.next_change {
            self.leave(now, pace, chance, tally);
        } else if self.online && now >= self.next_message {
            self.send_something(chance, tally);
            self.next_message = now + about(pace.between_messages_ms, chance);
        }
        self.flush();
    }

    /// Reads and answers what has come.
    pub fn handle_ready(&mut self, now: Instant, pace: Pace, chance: &mut Chance, tally: &mut Tally) {
        let mut chunk = [0; 16 * 1024];
        while let Some(link) = &mut self.link {
            match link.read(&mut chunk) {
                Ok(n) if n > 0 => self.inbox.extend(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    self.handle_packets(tally);
                    self.on_ended(None, now, pace, chance, tally);
                }
            }
        }
        if let Some(code) = self.handle_packets(tally) {
            self.on_ended(Some(code), now, pace, chance, tally);
        }
        self.flush();
    }

    fn come(&mut self, poll: &Poll, chance: &mut Chance) {
        let Some(mut link) = dial(self.index, self.broker) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut link, Token(self.index), interest).expect("a fresh descriptor");
        self.link = Some(link);
        self.inbox.clear();
        self.version = [Version::V311, Version::V5][chance.below(2) as usize];
        let mut connect =
            Connect::new(self.version, format!("soaker-{}", self.index)).user(&self.token).keep_alive_s(60);
        if chance.below(2) == 0 {
            connect = connect.keep_session();
            let expiry = [&[0x11][..], &SESSION_EXPIRY_S.to_be_bytes()].concat();
            connect = if self.version == Version::V5 { connect.properties(&expiry) } else { connect };
        }
        if self.kind == Kind::LocalClient && chance.below(4) == 0 {
            let will = Publish::new(self.room("will"), "gone").qos(chance.below(3) as u8, 0);
            connect = connect.will(will);
        }
        self.outbox = connect.bytes();
    }

    fn leave(&mut self, now: Instant, pace: Pace, chance: &mut Chance, tally: &mut Tally) {
        tally.lives += 1;
        match chance.below(4) {
            0 => {
                self.outbox.extend([0xE0, 0]);
                self.flush();
            }
            1 => {}
            2 => {
                let link = self.link.as_ref().expect("it is online");
                SockRef::from(link).set_linger(Some(Duration::ZERO)).expect("a socket option");
            }
            _ => self.former = self.link.take(),
        }
        self.let_go(now + about(pace.absence_ms, chance));
    }

    fn let_go(&mut self, back_at: Instant) {
        self.link = None;
        self.online = false;
        self.outbox.clear();
        self.next_change = back_at;
    }

    fn on_ended(
        &mut self,
        code: Option<u8>,
        now: Instant,
        pace: Pace,
        chance: &mut Chance,
        tally: &mut Tally,
    ) {
        if self.link.is_some() {
            tally.lives += 1;
            *tally.ended_by_broker.entry(code).or_default() += 1;
            self.let_go(now + about(pace.absence_ms, chance));
        }
    }

    /// Gives back the code of a DISCONNECT, if there is one.
    fn handle_packets(&mut self, tally: &mut Tally) -> Option<u8> {
        while let Some(packet) = Reply::take(&mut self.inbox) {
            let id = || u16::from_be_bytes([packet.body[0], packet.body[1]]);
            match packet.first >> 4 {
                2 => self.handle_connack(&packet, tally),
                3 => self.handle_publish(&packet, tally),
                4 | 7 => {
                    self.unfinished.remove(&id());
                    tally.acknowledged += 1;
                }
                5 => {
                    self.answer(0x62, id());
                    self.unfinished.insert(id(), Unfinished::Released);
                }
                6 => self.answer(0x70, id()),
                14 => return packet.disconnect(),
                _ => {}
            }
        }
        None
    }

    fn handle_connack(&mut self, packet: &Reply, tally: &mut Tally) {
        assert_eq!(packet.connack(), Some(0), "a good client is let in");
        self.online = true;
        self.former = None;
        if packet.body[0] & 1 == 0 {
            self.unfinished.clear();
        } else {
            tally.sessions_resumed += 1;
        }
        for (id, unfinished) in &self.unfinished {
            match unfinished {
                Unfinished::Released => self.outbox.extend([&[0x62, 2][..], &id.to_be_bytes()].concat()),
                Unfinished::Publish { topic, qos, retain, payload } => {
                    let mut packet = publish(self.version, topic, *qos, *id, payload);
                    packet[0] |= 0x08 | u8::from(*retain);
                    self.outbox.extend(packet);
                }
            }
        }
        if self.kind == Kind::LocalClient {
            let room = format!("room/{}/#", self.index % ROOMS);
            let filters = [(room.as_str(), 2), ("news/+", 1), (&self.room("extra"), 0)];
            self.outbox.extend(subscribe(self.version, SUBSCRIBE_ID, &filters));
        }
    }

    fn handle_publish(&mut self, packet: &Reply, tally: &mut Tally) {
        tally.received += 1;
        let topic_end = 2 + usize::from(u16::from_be_bytes([packet.body[0], packet.body[1]]));
        let id = || u16::from_be_bytes([packet.body[topic_end], packet.body[topic_end + 1]]);
        match packet.first >> 1 & 3 {
            1 => self.answer(0x40, id()),
            2 => self.answer(0x50, id()),
            _ => {}
        }
    }

    fn answer(&mut self, first: u8, id: u16) {
        self.outbox.extend([first, 2]);
        self.outbox.extend(id.to_be_bytes());
    }

    fn send_something(&mut self, chance: &mut Chance, tally: &mut Tally) {
        if self.kind == Kind::LocalClient && chance.below(20) == 0 {
            let extra = self.room("extra");
            return self.outbox.extend(unsubscribe(self.version, SUBSCRIBE_ID, &[&extra]));
        }
        let topic = match (self.kind, chance.below(100)) {
            (Kind::Device, _) => TELEMETRY.to_owned(),
            (Kind::LocalClient, 0) => format!("news/{}", self.index),
            (Kind::LocalClient, _) => self.room("lamp"),
        };
        let qos = if self.unfinished.len() < UNFINISHED_MAX { chance.below(3) as u8 } else { 0 };
        let id = self.next_id();
        let payload = format!("{{\"n\":{}}}", chance.below(1000));
        let mut packet = publish(self.version, &topic, qos, id, &payload);
        // Before version 5 RETAIN is welcome everywhere, kept or not.
        let retain = self.kind == Kind::LocalClient && self.version == Version::V311 && chance.below(10) == 0;
        packet[0] |= u8::from(retain);
        self.outbox.extend(&packet);
        if qos > 0 {
            self.unfinished.insert(id, Unfinished::Publish { topic, qos, retain, payload });
        }
        tally.sent += 1;
    }

    /// One that is not under way.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id % 1000 + 1;
            if !self.unfinished.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    fn room(&self, what: &str) -> String {
        format!("room/{}/{what}", self.index % ROOMS)
    }

    fn flush(&mut self) {
        while let Some(link) = &mut self.link
            && !self.outbox.is_empty()
        {
            match link.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not yet, or the reader will find out that it is closed.
                Err(_) => return,
            }
        }
    }
}

/// From one of two addresses, so that ports do not run out while the last connections are remembered.
fn dial(index: usize, broker: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let source = Ipv4Addr::new(127, 0, 0, 2 + (index % 2) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into()).ok()?;
    socket.set_nonblocking(true).expect("a socket option");
    match socket.connect(&broker.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => None,
        _ => Some(TcpStream::from_std(socket.into())),
    }
}

fn about(milliseconds: u64, chance: &mut Chance) -> Duration {
    Duration::from_millis(chance.below(2 * milliseconds))
}
