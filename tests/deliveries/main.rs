//! Messages between durable clients, end to end: random publishers and subscribers over connections that break, commits
//! that fail and a broker that is killed. What was published with QoS 1 arrives at least once and in order, with QoS 2
//! exactly once and in order, whatever happens.
//!
//! The broker is the real core; the disk is `durable_model`. `SEED` repeats a run, `DELIVERY_RUNS` makes more of them.

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/chance.rs"]
mod chance;
#[path = "../support/durable_model.rs"]
mod durable_model;
#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/session_half.rs"]
mod session_half;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use forebay::{
    broker::{Broker, Start},
    clock::{Mono, Now, Wall},
    identity::{DeviceGrants, Identity, Rights, Role, TokenHash},
    ids::{ConnId, DeviceName, IdentityId},
    limits::Limits,
    mqtt::ProtocolVersion,
    session::CloseReason,
};

use chance::Chance;
use durable_model::DurableModel;
use session_half::{Heard, Message, SessionHalf, Terms};

const RUNS: u64 = 300;
const STEPS: u64 = 600;
const MESSAGES_MAX: usize = 60;
const TOPIC: &str = "hall/lamp";

/// One client, connected or not.
#[derive(Debug)]
struct Client {
    /// The connection it has.
    conn: Option<ConnId>,
    half: SessionHalf,
    /// With which QoS it subscribes, if it does.
    subscribes: Option<u8>,
    /// The messages it got, in order.
    got: Vec<String>,
}

/// The broker, its disk, and everybody who is connected to it.
struct World {
    broker: Broker,
    disk: DurableModel,
    now: Now,
    clients: Vec<Client>,
    next_slot: u32,
    /// What was published, oldest first, by publisher.
    published: Vec<Published>,
}

/// A message, and who must get it.
struct Published {
    text: String,
    publisher: usize,
    qos: u8,
    /// Subscribers whose subscription was acknowledged before it was sent for the first time.
    wanted_by: Vec<usize>,
}

fn identities() -> Vec<Identity> {
    vec![Identity {
        id: IdentityId(1),
        name: DeviceName::parse("panel").expect("valid"),
        role: Role::Client(Rights::default()),
        token_hash: TokenHash::of("TOKEN"),
        enabled: true,
        created: Wall(0),
        last_seen: None,
    }]
}

fn broker(limits: Limits, disk: &DurableModel, now: Now) -> Broker {
    let (grants, recovered) = (DeviceGrants::default(), disk.recovered());
    Broker::new(limits, Start { identities: identities(), grants, recovered, seed: 1 }, now)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    // Small, so that windows close, sockets fill and batches come often.
    for (name, value) in
        [("window", 3), ("outbox_bytes", 1024), ("receive_maximum", 4), ("commit_records", 20)]
    {
        limits.set(name, value).expect("a knob within its range");
    }
    limits
}

impl Client {
    /// What was on the way is lost; what the session remembers is not.
    fn lose_connection(&mut self) {
        self.conn = None;
        self.half.lose_connection();
    }

    /// Takes bytes from the broker.
    fn take(&mut self, bytes: &[u8]) {
        let was_subscribed = self.half.is_subscribed();
        for heard in self.half.take(bytes).unwrap_or_else(|words| panic!("{words}")) {
            match heard {
                Heard::LetIn { session_present, .. } => assert!(
                    session_present || !was_subscribed,
                    "a session that was acknowledged is not there [MQTT-3.2.2-2]"
                ),
                Heard::Refused(reason) => panic!("refused: {reason}"),
                Heard::Message(message) => {
                    assert_eq!(message.topic, TOPIC);
                    self.got.push(message.text);
                }
                Heard::Subscribed | Heard::Taken(_) | Heard::Pong | Heard::Goodbye(_) => {}
            }
        }
    }
}

impl World {
    fn new(chance: &mut Chance) -> Self {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_790_000_000_000) };
        let disk = DurableModel::default();
        let versions = [ProtocolVersion::V311, ProtocolVersion::V5];
        let clients = (0..4).map(|n| {
            let subscribes = (n >= 2).then(|| 1 + chance.below(2) as u8);
            let terms = Terms {
                version: versions[chance.below(2) as usize],
                client_id: format!("client{n}"),
                token: "TOKEN".to_owned(),
                keep_alive_s: 600,
                expiry_s: 100_000,
                filters: subscribes.map(|qos| ("hall/+".to_owned(), qos)).into_iter().collect(),
                subscribes_again: false,
                trusts_sessions: true,
                in_flight_max: 3,
            };
            Client { conn: None, half: SessionHalf::new(terms), subscribes, got: Vec::new() }
        });
        Self {
            broker: broker(limits(), &disk, now),
            clients: clients.collect(),
            disk,
            now,
            next_slot: 0,
            published: Vec::new(),
        }
    }

    fn step(&mut self, chance: &mut Chance) {
        let who = chance.below(self.clients.len() as u64) as usize;
        match chance.below(100) {
            0..12 => self.connect(who),
            12..30 => self.publish(who, chance),
            30..62 => self.deliver(who, chance.below(200) as usize),
            62..82 => self.take(who, chance.below(200) as usize),
            82..84 => self.break_connection(who),
            84..97 => self.commit(),
            97 => self.fail_commit(chance.below(2) == 0),
            98 => self.kill(),
            _ => self.pass_time(Duration::from_millis(chance.below(2_000))),
        }
        self.close_what_is_over();
    }

    fn connect(&mut self, who: usize) {
        if self.clients[who].conn.is_some() {
            return;
        }
        self.next_slot += 1;
        let conn = ConnId { slot: self.next_slot, epoch: 1 };
        self.broker.handle_connected(conn, IpAddr::V4(Ipv4Addr::LOCALHOST), self.now);
        let client = &mut self.clients[who];
        client.conn = Some(conn);
        client.half.connect(false, None);
    }

    fn publish(&mut self, who: usize, chance: &mut Chance) {
        if who >= 2 || self.published.len() >= MESSAGES_MAX || !self.clients[who].half.may_publish() {
            return;
        }
        let text = format!("message {} of {who}", self.published.len());
        let qos = 1 + chance.below(2) as u8;
        let wanted = |(n, client): (usize, &Client)| client.half.is_subscribed().then_some(n);
        let wanted_by = self.clients.iter().enumerate().filter_map(wanted).collect();
        let message = Message { topic: TOPIC.to_owned(), text: text.clone(), qos, retain: false };
        self.clients[who].half.publish(message);
        self.published.push(Published { text, publisher: who, qos, wanted_by });
    }

    /// So many bytes reach the broker.
    fn deliver(&mut self, who: usize, at_most: usize) {
        let Some(conn) = self.clients[who].conn else { return };
        if self.broker.wants_bytes(conn) {
            let bytes = self.clients[who].half.say_up_to(at_most);
            self.broker.handle_bytes(conn, &bytes, self.now);
        }
    }

    /// So many bytes reach the client.
    fn take(&mut self, who: usize, at_most: usize) {
        let Some(conn) = self.clients[who].conn else { return };
        let Some(outbox) = self.broker.output(conn) else { return };
        let (front, back) = outbox.as_slices();
        let mut bytes = [front, back].concat();
        bytes.truncate(at_most);
        outbox.consume(bytes.len());
        self.clients[who].take(&bytes);
        self.broker.handle_written(conn, self.now);
    }

    fn break_connection(&mut self, who: usize) {
        if let Some(conn) = self.clients[who].conn {
            self.broker.handle_disconnected(conn, CloseReason::TransportFailed, self.now);
        }
    }

    fn commit(&mut self) {
        let Some((ticket, batch)) = self.broker.poll_commit() else { return };
        self.disk.commit(&batch);
        self.broker.handle_committed(ticket, self.now);
    }

    /// A commit that fails; whether it is on disk after all is only seen when the store is opened again.
    fn fail_commit(&mut self, is_there_after_all: bool) {
        let Some((_, batch)) = self.broker.poll_commit() else { return };
        if is_there_after_all {
            self.disk.commit(&batch);
        }
        self.broker.handle_commit_failed(self.now);
        self.close_what_is_over();
        self.broker.handle_store_ready(self.disk.recovered(), self.now);
    }

    fn kill(&mut self) {
        self.broker = broker(limits(), &self.disk, self.now);
        for client in &mut self.clients {
            client.lose_connection();
        }
    }

    fn pass_time(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
        self.broker.handle_timeout(self.now);
    }

    fn close_what_is_over(&mut self) {
        while self.broker.poll_output().is_some() {}
        while let Some((conn, reason)) = self.broker.poll_close() {
            assert!(
                matches!(
                    reason,
                    CloseReason::TransportFailed | CloseReason::StoreFailed | CloseReason::KeepAliveTimeout
                ),
                "nobody did anything wrong: {reason}"
            );
            self.broker.handle_closed(conn);
            let closed = self.clients.iter_mut().filter(|client| client.conn == Some(conn));
            closed.for_each(Client::lose_connection);
        }
        self.broker.check_invariants();
    }

    /// Everything works, until nothing happens any more.
    fn heal(&mut self) {
        for _ in 0..400 {
            for who in 0..self.clients.len() {
                self.connect(who);
                self.deliver(who, usize::MAX);
                self.close_what_is_over();
            }
            self.pass_time(Duration::from_millis(300));
            self.commit();
            for who in 0..self.clients.len() {
                self.take(who, usize::MAX);
                self.close_what_is_over();
            }
        }
    }

    fn check(&self) {
        for (n, client) in self.clients.iter().enumerate() {
            assert!(client.half.is_done(), "client{n} still waits for an answer: {client:?}");
            for publisher in 0..2 {
                for qos in [1, 2] {
                    self.check_order(n, publisher, qos);
                }
            }
        }
    }

    /// What one publisher sent with one QoS has arrived at one subscriber: all of it, in order, and if both ends are of
    /// QoS 2, once.
    fn check_order(&self, subscriber: usize, publisher: usize, qos: u8) {
        let Some(granted) = self.clients[subscriber].subscribes else { return };
        // What was begun before the subscription may come, again, at any time.
        let of = |message: &&Published| {
            message.publisher == publisher && message.qos == qos && message.wanted_by.contains(&subscriber)
        };
        let sent: Vec<&str> = self.published.iter().filter(of).map(|message| &*message.text).collect();
        let got: Vec<&str> = self.clients[subscriber].got.iter().map(|text| &**text).collect();
        let got: Vec<&str> = got.into_iter().filter(|text| sent.contains(text)).collect();
        for message in self.published.iter().filter(of) {
            let times = got.iter().filter(|text| **text == message.text).count();
            assert!(times >= 1, "{:?} is lost for client{subscriber}", message.text);
            assert!(times == 1 || qos.min(granted) == 1, "{:?} came {times} times", message.text);
        }
        let mut first: Vec<&str> = Vec::new();
        for text in got {
            if !first.contains(&text) {
                first.push(text);
            }
        }
        let expected: Vec<&str> = sent.iter().copied().filter(|text| first.contains(text)).collect();
        assert_eq!(first, expected, "client{subscriber} got QoS {qos} of client{publisher} out of order");
    }
}

#[test]
fn qos_1_arrives_at_least_once_and_qos_2_exactly_once_whatever_breaks() {
    let mut chance = Chance::of_today();
    let runs = std::env::var("DELIVERY_RUNS").map_or(RUNS, |text| text.parse().expect("a number"));
    let (mut messages, mut deliveries) = (0, 0);
    for _ in 0..runs {
        let mut world = World::new(&mut chance);
        for _ in 0..STEPS {
            world.step(&mut chance);
        }
        world.heal();
        world.check();
        messages += world.published.len();
        deliveries += world.clients.iter().map(|client| client.got.len()).sum::<usize>();
    }
    println!("{runs} runs, {messages} messages, {deliveries} deliveries");
    assert!(messages as u64 > runs, "the runs were not idle");
}
