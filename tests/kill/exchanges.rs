//! kill -9 at random instants while clients whose sessions outlive their connections publish to each other: what is sent
//! with QoS 2 arrives exactly once, what is sent with QoS 1 at least once, both in their order.
//!
//! `KILLS` sets how many; without it there are 100, or as many as fit in 30 seconds.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::support::{
    broker::Setup,
    chance::Chance,
    client::{Client, Event},
    packets::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack},
    tell,
    wait::SOON,
    wire::{Reply, Version, subscribe},
};

const LONGEST_LIFE_MS: u64 = 120;
/// Messages under way from one publisher.
const WINDOW: usize = 8;
/// The identifier of SUBSCRIBE, which no message has.
const SUBSCRIBE_ID: u16 = 60_000;

/// A client's half of its session.
struct Half {
    version: Version,
    hello: Connect,
    filter: Option<String>,
    is_subscribed: bool,
    client: Option<Client>,
    /// What it published and has no last answer for, and whether PUBREC came.
    outgoing: VecDeque<(Publish, bool)>,
    last_id: u16,
    unreleased: BTreeSet<u16>,
    /// QoS and number of each message, as they arrived.
    got: Vec<(u8, u64)>,
}

impl Half {
    fn new(version: Version, name: &str, token: &str, filter: Option<String>) -> Self {
        Self {
            version,
            hello: Connect::new(version, name).user(token).durable(),
            filter,
            is_subscribed: false,
            client: None,
            outgoing: VecDeque::new(),
            last_id: 0,
            unreleased: BTreeSet::new(),
            got: Vec::new(),
        }
    }

    /// Connects, and says again what has no answer yet. [MQTT-4.4.0-1]
    fn come_back(&mut self, address: SocketAddr) {
        let mut client = Client::dial(address);
        let connack = client.ask_in(self.version, &self.hello);
        assert_eq!(connack.connack(), Some(0), "it is let in: {connack:02X?}");
        // Version 3.1 does not tell.
        let is_present = self.version == Version::V31 || connack.body[0] == 1;
        assert!(is_present || !self.is_subscribed, "an acknowledged subscription is lost, and its session");
        if !is_present {
            self.unreleased.clear();
        }
        if let Some(filter) = self.filter.as_deref().filter(|_| !self.is_subscribed) {
            client.send(&subscribe(self.version, SUBSCRIBE_ID, &[(filter, 2)]));
        }
        for (message, is_received) in &self.outgoing {
            client.send(&match is_received {
                true => ack(PUBREL, message.id),
                false => message.clone().dup().bytes(self.version),
            });
        }
        self.client = Some(client);
    }

    fn publish(&mut self, topic: &str, qos: u8, number: u64) {
        self.last_id = self.last_id % 200 + 1;
        while self.outgoing.iter().any(|(message, _)| message.id == self.last_id) {
            self.last_id = self.last_id % 200 + 1;
        }
        let message = Publish::new(topic, number.to_string()).qos(qos, self.last_id);
        self.send(&message.bytes(self.version));
        self.outgoing.push_back((message, false));
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Some(client) = &mut self.client {
            client.send(bytes);
        }
    }

    /// Takes what comes, the first of it `within` this time; the broker's end ends the connection.
    fn listen(&mut self, mut within: Duration) {
        while let Some(client) = &mut self.client {
            match client.next(within) {
                Event::Packet(reply) => self.on_packet(&reply),
                Event::Silence => return,
                Event::Closed => self.client = None,
            }
            within = Duration::from_micros(1);
        }
    }

    fn on_packet(&mut self, reply: &Reply) {
        if let Some(message) = Publish::read(self.version, reply) {
            return self.on_message(&message);
        }
        let id = u16::from_be_bytes([reply.body[0], reply.body[1]]);
        match reply.first {
            0x90 => self.is_subscribed = true,
            PUBACK | PUBCOMP => self.outgoing.retain(|(message, _)| message.id != id),
            PUBREC => {
                let under_way = self.outgoing.iter_mut().find(|(message, _)| message.id == id);
                under_way.expect("PUBREC for what is under way").1 = true;
                self.send(&ack(PUBREL, id));
            }
            PUBREL => {
                self.unreleased.remove(&id);
                self.send(&ack(PUBCOMP, id));
            }
            _ => panic!("no client expects {reply:02X?}"),
        }
    }

    fn on_message(&mut self, message: &Publish) {
        let number = message.told().1.parse().expect("a number");
        if message.qos == 1 {
            self.got.push((1, number));
            return self.send(&ack(PUBACK, message.id));
        }
        if self.unreleased.insert(message.id) {
            self.got.push((2, number));
        } else {
            assert!(message.dup, "the identifier {} is in use [MQTT-2.3.1-4]", message.id);
        }
        self.send(&ack(PUBREC, message.id));
    }

    /// The numbers that came with this QoS.
    fn numbers(&self, qos: u8) -> Vec<u64> {
        self.got.iter().filter(|(of, _)| *of == qos).map(|(_, number)| *number).collect()
    }

    fn is_done(&self) -> bool {
        self.client.is_some() && self.outgoing.is_empty() && self.unreleased.is_empty()
    }
}

/// A publisher and its subscriber.
struct Pair {
    publisher: Half,
    subscriber: Half,
    topic: String,
    sent: u64,
}

impl Pair {
    fn new(number: usize, from: Version, to: Version, token: &str) -> Self {
        let topic = format!("exchange/{number}");
        Self {
            publisher: Half::new(from, &format!("publisher {number}"), token, None),
            subscriber: Half::new(to, &format!("subscriber {number}"), token, Some(topic.clone())),
            topic,
            sent: 0,
        }
    }

    /// One look at both; new messages only if `sends`, and to nobody before the subscription is promised.
    fn step(&mut self, sends: bool) {
        while sends && self.subscriber.is_subscribed && self.publisher.outgoing.len() < WINDOW {
            // Odd numbers are of QoS 1, even ones of QoS 2.
            self.publisher.publish(&self.topic, if self.sent.is_multiple_of(2) { 2 } else { 1 }, self.sent);
            self.sent += 1;
        }
        self.publisher.listen(Duration::from_micros(300));
        self.subscriber.listen(Duration::from_micros(300));
    }

    fn check(&self) {
        let sent = |parity: u64| (0..self.sent).filter(|n| n % 2 == parity).collect::<Vec<_>>();
        assert_eq!(self.subscriber.numbers(2), sent(0), "{}: exactly once, in order", self.topic);
        let mut first: Vec<u64> = Vec::new();
        for number in self.subscriber.numbers(1) {
            if first.last().is_none_or(|last| number > *last) {
                first.push(number);
            }
        }
        assert_eq!(first, sent(1), "{}: at least once, in order", self.topic);
    }
}

#[test]
fn what_durable_clients_exchange_survives_kill_9_at_random_instants() {
    let asked: Option<usize> =
        std::env::var("KILLS").ok().map(|text| text.parse().expect("KILLS is a number"));
    let budget = if asked.is_some() { Duration::MAX } else { Duration::from_secs(30) };
    let wanted = asked.unwrap_or(100);
    let mut chance = Chance::of_today();
    let mut broker = Setup::new().roomy(100).limit("connects_per_identity_per_min", 0).start();
    let token = broker.add_client("peers");
    let versions = [Version::V31, Version::V311, Version::V5];
    let mut pairs: Vec<Pair> = versions
        .into_iter()
        .zip([Version::V5, Version::V311, Version::V31])
        .enumerate()
        .map(|(number, (from, to))| Pair::new(number, from, to, &token))
        .collect();
    let (started, mut kills) = (Instant::now(), 0);
    while kills < wanted && started.elapsed() < budget {
        for pair in &mut pairs {
            pair.publisher.come_back(broker.plain());
            // Now and then a subscriber stays away, and its messages wait.
            if !pair.subscriber.is_subscribed || chance.below(3) > 0 {
                pair.subscriber.come_back(broker.plain());
            }
        }
        let end = Instant::now() + Duration::from_micros(chance.below(LONGEST_LIFE_MS * 1000));
        while Instant::now() < end {
            for pair in &mut pairs {
                pair.step(true);
            }
        }
        broker.kill9();
        kills += 1;
        for half in pairs.iter_mut().flat_map(|pair| [&mut pair.publisher, &mut pair.subscriber]) {
            // What was on its way still counts.
            half.listen(SOON);
            assert!(half.client.is_none(), "its socket dies with the process");
        }
        broker.restart();
    }
    for half in pairs.iter_mut().flat_map(|pair| [&mut pair.publisher, &mut pair.subscriber]) {
        half.come_back(broker.plain());
    }
    let deadline = Instant::now() + SOON;
    let is_over = |pair: &Pair| {
        pair.publisher.is_done()
            && pair.subscriber.is_done()
            && pair.sent.checked_sub(1).is_none_or(|last| pair.subscriber.got.iter().any(|got| got.1 == last))
    };
    while !pairs.iter().all(is_over) {
        assert!(Instant::now() < deadline, "everything drains");
        pairs.iter_mut().for_each(|pair| pair.step(false));
    }
    pairs.iter().for_each(Pair::check);
    let sent: u64 = pairs.iter().map(|pair| pair.sent).sum();
    let got: usize = pairs.iter().map(|pair| pair.subscriber.got.len()).sum();
    assert!(sent > 10 * kills as u64, "hardly anything was sent: this says nothing");
    tell(&format!(
        "kill -9 between durable clients: {kills} kills in {:.1?}, {sent} messages, half of them QoS 2: 0 lost, {} twice, \
         all of those QoS 1",
        started.elapsed(),
        got as u64 - sent,
    ));
}
