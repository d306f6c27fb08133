//! A simulated client: publishes, waits for its answers, and after every lost connection sends again what was not
//! answered, in the order in which it was first sent. [MQTT-4.4.0-1]

use std::{collections::VecDeque, net::IpAddr};

use forebay::ids::DeviceName;

use crate::{
    chance::Chance,
    checks::{FIRST_WILL_STREAM, Ledger, POISON, ReadingId, Sent},
    faults::Faults,
    network::{KeepAlive, LinkId, Network, Read},
    operator::Operator,
    post::Post,
    trace::{Trace, note},
    wire::{self, Connect, Heard, Terms, Version},
};

const SECOND: u64 = 1_000_000;
/// Messages it keeps for sending; beyond it, it makes no more.
const QUEUE_MAX: usize = 40;
/// How long it waits for an answer before it takes the connection for dead.
const PATIENCE: u64 = 20 * SECOND;
/// How long it goes on without reading, when it has stopped.
const DEAF_FOR: u64 = 100 * SECOND;

/// What a publisher of 5.0 is told when there is no room.
const QUOTA_EXCEEDED: u8 = 0x97;

/// What a client needs of the world to act.
pub struct Surroundings<'a> {
    pub now: u64,
    pub network: &'a mut Network,
    pub trace: &'a mut Trace,
    pub ledger: &'a mut Ledger,
    pub post: &'a mut Post,
    pub operator: &'a Operator,
    pub faults: &'a Faults,
    /// When the broker last tried to read the registry and could not.
    pub registry_unread_at: u64,
    /// Whether new messages are made.
    pub is_publishing: bool,
    /// Most readings in one message.
    pub readings_max: u64,
    /// Whether the broker may refuse readings for want of room.
    pub may_be_refused: bool,
    /// Whether some readings are such that the hub does not take them.
    pub with_poison: bool,
    /// Whether the broker may end a session because more waits for it than may.
    pub sessions_may_end: bool,
}

impl Surroundings<'_> {
    /// What may go wrong with the way of `link`.
    pub fn trouble(&mut self, link: LinkId, chance: &mut Chance) {
        if chance.happens(self.faults.resets) {
            note!(self.trace, "link {link} is reset");
            self.network.reset(link);
        }
        if chance.happens(self.faults.silences) {
            let until = if chance.coin() { u64::MAX } else { self.now + chance.below(40 * SECOND) };
            note!(self.trace, "link {link} falls silent until {} s", until / SECOND);
            self.network.fall_silent(link, until);
        }
    }
}

#[derive(Debug)]
enum State {
    Offline { until: u64 },
    Connecting { since: u64, token: String },
    Online,
}

#[derive(Debug)]
struct Message {
    /// The readings it carries; none if it is malformed, or on a topic that is not served.
    readings: Vec<ReadingId>,
    topic: &'static str,
    payload: String,
    /// With one it is QoS 1.
    packet_id: Option<u16>,
    was_sent: bool,
    sent_at: u64,
}

/// One client of a device.
#[derive(Debug)]
pub struct Client {
    pub name: DeviceName,
    device: usize,
    stream: u64,
    address: IpAddr,
    version: Version,
    /// Its own, and that of the connection.
    keep_alive_s: u16,
    keep_alive_agreed_s: u16,
    has_will: bool,
    /// New messages in a million steps.
    eagerness: u32,
    window_own: usize,
    chance: Chance,
    state: State,
    link: Option<LinkId>,
    inbox: Vec<u8>,
    /// Messages not yet answered; those before `sent` were sent on this connection.
    queue: VecDeque<Message>,
    sent: usize,
    window: usize,
    deaf_until: u64,
    next_number: u64,
    next_will: u64,
    has_sent_poison: bool,
    next_packet_id: u16,
    last_sent: u64,
    last_heard: u64,
}

impl Client {
    pub fn new(stream: u64, device: usize, name: DeviceName, address: IpAddr, mut chance: Chance) -> Self {
        Self {
            name,
            device,
            stream,
            address,
            version: if chance.coin() { Version::V5 } else { Version::V311 },
            keep_alive_s: chance.between(5, 60) as u16,
            keep_alive_agreed_s: 60,
            has_will: chance.below(3) == 0,
            eagerness: chance.between(20_000, 250_000) as u32,
            window_own: chance.between(1, 12) as usize,
            state: State::Offline { until: 0 },
            link: None,
            inbox: Vec::new(),
            queue: VecDeque::new(),
            sent: 0,
            window: 1,
            deaf_until: 0,
            next_number: 1,
            next_will: 1,
            has_sent_poison: false,
            next_packet_id: 0,
            last_sent: 0,
            last_heard: 0,
            chance,
        }
    }

    /// Whether everything it made was answered.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// In a few words, for the report of one that is not done.
    pub fn situation(&self) -> String {
        format!(
            "{}/{}: {:?}, {} unanswered, {} of them sent",
            self.name,
            self.stream,
            self.state,
            self.queue.len(),
            self.sent
        )
    }

    /// It reads again.
    pub fn heal(&mut self) {
        self.deaf_until = 0;
    }

    /// Reads, writes, connects or gives up, as it is time for.
    pub fn act(&mut self, around: &mut Surroundings<'_>) -> Result<(), String> {
        self.invent(around);
        if let State::Offline { until } = self.state {
            if around.now >= until {
                self.connect(around);
            }
            return Ok(());
        }
        self.misbehave(around);
        if around.now >= self.deaf_until {
            self.listen(around)?;
        }
        self.send(around);
        self.keep_in_touch(around);
        Ok(())
    }

    // ---- the connection -----------------------------------------------------------------------------------

    fn connect(&mut self, around: &mut Surroundings<'_>) {
        let Some(link) = around.network.connect(self.address) else {
            self.state = State::Offline { until: around.now + self.chance.between(SECOND / 10, 2 * SECOND) };
            return;
        };
        let token = around.operator.token_told(self.device).to_owned();
        let client_id = format!("client-{}", self.stream);
        let will = self.has_will.then(|| self.make_will(around));
        let connect = Connect {
            version: self.version,
            client_id: &client_id,
            token: &token,
            keep_alive_s: self.keep_alive_s,
            will: will.as_deref(),
        };
        around.network.client_writes(link, &connect.bytes(), around.now);
        let may_be_shortened = self.version == Version::V5;
        around.network.note_keep_alive(link, KeepAlive { seconds: self.keep_alive_s, may_be_shortened });
        self.keep_alive_agreed_s = self.keep_alive_s;
        note!(around.trace, "{} connects as client-{} on link {link}", self.name, self.stream);
        self.link = Some(link);
        self.inbox.clear();
        self.sent = 0;
        // Some do not wait for the CONNACK; they may not send much before they know the window. [MQTT-3.1.4-5]
        self.window = if self.chance.below(4) == 0 { self.window_own.min(2) } else { 0 };
        self.state = State::Connecting { since: around.now, token };
        self.last_sent = around.now;
        self.last_heard = around.now;
    }

    fn make_will(&mut self, around: &mut Surroundings<'_>) -> String {
        let id = ReadingId { stream: FIRST_WILL_STREAM + self.stream, number: self.next_will };
        self.next_will += 1;
        let values = id.values("");
        let (device, device_ts, message, is_ordered) = (self.name.clone(), None, id, false);
        let sent = Sent { device, values: values.clone(), device_ts, message, is_ordered };
        around.ledger.note_sent(id, sent);
        values
    }

    fn go_offline(&mut self, around: &mut Surroundings<'_>, why: &str) {
        note!(around.trace, "{}/{} is offline: {why}", self.name, self.stream);
        if let Some(link) = self.link.take() {
            around.network.client_closes(link);
        }
        self.state = State::Offline { until: around.now + self.chance.between(0, 3 * SECOND) };
        self.deaf_until = 0;
    }

    fn misbehave(&mut self, around: &mut Surroundings<'_>) {
        let Some(link) = self.link else { return };
        around.trouble(link, &mut self.chance);
        if self.chance.happens(around.faults.deaf) {
            note!(around.trace, "{}/{} stops reading", self.name, self.stream);
            around.trace.count("a client that stops reading");
            self.deaf_until = around.now + DEAF_FOR;
        }
        if self.chance.happens(around.faults.takeovers) {
            note!(around.trace, "{}/{} forgets link {link}", self.name, self.stream);
            if self.chance.coin() {
                around.network.client_vanishes(link);
            } else {
                around.network.client_closes(link);
            }
            self.link = None;
            self.connect(around);
        }
    }

    /// Pings in time; gives up on a broker that does not answer.
    fn keep_in_touch(&mut self, around: &mut Surroundings<'_>) {
        let Some(link) = self.link else { return };
        let now = around.now;
        let keep_alive = u64::from(self.keep_alive_agreed_s) * SECOND;
        let is_deaf = now < self.deaf_until;
        if is_deaf && self.is_online() {
            // Answers pile up at the broker, which must stop reading before they become too many.
            around.network.client_writes(link, &wire::PINGREQ.repeat(400), now);
        } else if self.is_online() && now >= self.last_sent + keep_alive / 2 {
            around.network.client_writes(link, &wire::PINGREQ, now);
            self.last_sent = now;
        }
        let oldest = self.queue.front().filter(|message| self.sent > 0 && message.was_sent);
        let waits_long = match &self.state {
            State::Offline { .. } => false,
            State::Connecting { since, .. } => now > since + PATIENCE,
            State::Online => {
                now > self.last_heard + keep_alive + PATIENCE
                    || oldest.is_some_and(|message| now > message.sent_at + PATIENCE)
            }
        };
        if waits_long && !is_deaf {
            self.go_offline(around, "no answer");
        } else if self.is_online()
            && self.queue.is_empty()
            && self.chance.happens(around.faults.takeovers / 4)
        {
            around.network.client_writes(link, &wire::DISCONNECT, now);
            self.go_offline(around, "said goodbye");
        }
    }

    fn is_online(&self) -> bool {
        matches!(self.state, State::Online)
    }

    // ---- messages -----------------------------------------------------------------------------------------

    fn invent(&mut self, around: &mut Surroundings<'_>) {
        if !around.is_publishing || self.queue.len() >= QUEUE_MAX || !self.chance.happens(self.eagerness) {
            return;
        }
        let has_packet_id = self.chance.below(5) > 0;
        let packet_id = has_packet_id.then(|| {
            self.next_packet_id = self.next_packet_id % u16::MAX + 1;
            self.next_packet_id
        });
        let (topic, payload, readings) = match self.chance.below(20) {
            0 => (wire::TELEMETRY, "{\"stream\":".to_owned(), Vec::new()),
            1 => ("v1/devices/me/nothing", "{}".to_owned(), Vec::new()),
            _ => self.invent_readings(has_packet_id, around),
        };
        self.queue.push_back(Message { readings, topic, payload, packet_id, was_sent: false, sent_at: 0 });
    }

    fn invent_readings(
        &mut self,
        is_ordered: bool,
        around: &mut Surroundings<'_>,
    ) -> (&'static str, String, Vec<ReadingId>) {
        // One for each client: it takes a hub's closing of connections to find them, and long pauses.
        let is_poison = around.with_poison && !self.has_sent_poison && self.chance.below(30) == 0;
        self.has_sent_poison |= is_poison;
        let is_array = !is_poison && self.chance.below(4) == 0;
        let count = if is_array { self.chance.between(2, around.readings_max) } else { 1 };
        let filler = if is_poison {
            POISON.to_owned()
        } else {
            "x".repeat(if self.chance.below(10) == 0 { 150 } else { self.chance.below(12) } as usize)
        };
        let mut readings = Vec::new();
        let mut elements = Vec::new();
        for _ in 0..count {
            let id = ReadingId { stream: self.stream, number: self.next_number };
            self.next_number += 1;
            let device_ts =
                (self.chance.below(3) == 0).then(|| 1_600_000_000_000 + self.chance.below(1 << 40) as i64);
            let values = id.values(&filler);
            let device = self.name.clone();
            readings.push(id);
            let message = readings[0];
            let sent = Sent { device, values: values.clone(), device_ts, message, is_ordered };
            around.ledger.note_sent(id, sent);
            elements.push(match device_ts {
                Some(ts) => format!("{{\"ts\":{ts},\"values\":{values}}}"),
                None => values,
            });
        }
        let payload = if count == 1 { elements.swap_remove(0) } else { format!("[{}]", elements.join(", ")) };
        (wire::TELEMETRY, payload, readings)
    }

    fn send(&mut self, around: &mut Surroundings<'_>) {
        let Some(link) = self.link else { return };
        let mut glued = Vec::new();
        let mut in_flight =
            self.queue.iter().take(self.sent).filter(|message| message.packet_id.is_some()).count();
        while in_flight < self.window
            && let Some(message) = self.queue.get_mut(self.sent)
        {
            let (id, payload) = (message.packet_id, message.payload.as_bytes());
            glued.extend(wire::publish(self.version, message.topic, id, message.was_sent, payload));
            message.was_sent = true;
            message.sent_at = around.now;
            match id {
                Some(_) => {
                    self.sent += 1;
                    in_flight += 1;
                }
                None => drop(self.queue.remove(self.sent)),
            }
        }
        if !glued.is_empty() {
            self.last_sent = around.now;
            if !around.network.client_writes(link, &glued, around.now) {
                self.go_offline(around, "its bytes are not taken");
            }
        }
    }

    // ---- answers ------------------------------------------------------------------------------------------

    fn listen(&mut self, around: &mut Surroundings<'_>) -> Result<(), String> {
        for _ in 0..8 {
            let Some(link) = self.link else { break };
            match around.network.client_reads(link, around.now) {
                Read::Nothing => break,
                Read::Closed => self.go_offline(around, "the broker closed"),
                Read::Reset => self.go_offline(around, "reset"),
                Read::Bytes(bytes) => {
                    self.inbox.extend(bytes);
                    self.last_heard = around.now;
                    self.take_packets(around)?;
                }
            }
        }
        Ok(())
    }

    fn take_packets(&mut self, around: &mut Surroundings<'_>) -> Result<(), String> {
        while self.link.is_some()
            && let Some(heard) = wire::take_packet(&mut self.inbox, self.version)?
        {
            self.on_packet(heard, around)
                .map_err(|words| format!("{}/{}: {words}", self.name, self.stream))?;
        }
        Ok(())
    }

    fn on_packet(&mut self, heard: Heard, around: &mut Surroundings<'_>) -> Result<(), String> {
        match heard {
            Heard::ConnAck { code, terms } => self.on_connack(code, terms, around),
            Heard::PubAck { packet_id, code } => self.on_puback(packet_id, code, around),
            Heard::PingResp if self.is_online() => Ok(()),
            Heard::Disconnect { code } => {
                self.go_offline(around, &format!("DISCONNECT {code:#04x}"));
                Ok(())
            }
            Heard::PingResp => Err("a PINGRESP before the CONNACK".into()),
        }
    }

    fn on_connack(&mut self, code: u8, terms: Terms, around: &mut Surroundings<'_>) -> Result<(), String> {
        let State::Connecting { since, token } = &self.state else { return Err("a second CONNACK".into()) };
        if code != 0 {
            self.go_offline(around, &format!("refused with {code:#04x}"));
            return Ok(());
        }
        let could_know = around.registry_unread_at < *since;
        if could_know && around.operator.had_revoked(self.device, token, *since) {
            return Err("let in with a token that was revoked before".into());
        }
        note!(around.trace, "{}/{} is online", self.name, self.stream);
        self.state = State::Online;
        self.window = self.window_own.min(terms.receive_maximum.into());
        self.keep_alive_agreed_s = terms.keep_alive_s.unwrap_or(self.keep_alive_s);
        Ok(())
    }

    /// Answers come in the order of the messages. [MQTT-4.6.0-2]
    fn on_puback(&mut self, packet_id: u16, code: u8, around: &mut Surroundings<'_>) -> Result<(), String> {
        let Some(message) = self.queue.pop_front().filter(|_| self.sent > 0) else {
            return Err(format!("a PUBACK for {packet_id}, and nothing was sent"));
        };
        self.sent -= 1;
        if message.packet_id != Some(packet_id) {
            return Err(format!("a PUBACK for {packet_id} where {:?} was due", message.packet_id));
        }
        if code == QUOTA_EXCEEDED && around.may_be_refused {
            note!(around.trace, "{}/{}: there is no room for {packet_id}", self.name, self.stream);
            around.trace.count("readings that are refused");
            return Ok(());
        }
        if !message.readings.is_empty() && code != 0 {
            return Err(format!("readings were refused with {code:#04x}"));
        }
        note!(
            around.trace,
            "{}/{} has its answer to {packet_id}, {:?}",
            self.name,
            self.stream,
            message.readings.first()
        );
        for id in message.readings {
            around.ledger.note_acked(id);
        }
        Ok(())
    }
}
