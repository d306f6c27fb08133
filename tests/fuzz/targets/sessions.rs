//! Two clients, a store and a clock over the whole core: any script is played without a panic, the invariants hold after
//! each step, and nothing leaves before its commit: no answer that says a thing is on disk, and no delivery of a session
//! that outlives its connection.
//!
//! A script is read byte by byte. What a client says goes onto its wire first, whole packets or bytes as they stand in
//! the script, and is delivered in portions; so a packet may be cut anywhere and end in another one's middle. The broker
//! may be killed between any two steps, and begins again with what was committed.

mod client;
#[path = "../../support/durable_model.rs"]
mod durable_model;
mod on_disk;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use forebay::{
    broker::{Broker, Start, commit_gate::Ticket},
    clock::{Mono, Now, Wall},
    identity::{DeviceGrants, Identity, Rights, Role, TokenHash},
    ids::{ConnId, DeviceName, IdentityId, Seq},
    limits::Limits,
    session::{Batch, CloseReason},
};

use client::{Client, Connect, Outgoing, TELEMETRY, Will};
use on_disk::OnDisk;

/// Where messages go that are no telemetry, and what asks for them.
const TOPICS: [&str; 4] = ["a", "a/b", "a/c", "b"];
const FILTERS: [&str; 8] =
    ["a", "a/+", "#", "+/b", "$share/g/a/#", "$share/h/+", "devices/+/telemetry", "$share/h/devices/#"];
/// What is asked of sessions as to their length; the last is for ever.
const EXPIRIES_S: [u32; 4] = [0, 1, 100, u32::MAX];
/// Steps after which a script ends, however long it is.
const STEPS: usize = 400;

const PUMP: IdentityId = IdentityId(1);
const FAN: IdentityId = IdentityId(2);
const PANEL: IdentityId = IdentityId(3);

/// Plays `input`.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let mut world = World::new();
    for _ in 0..STEPS {
        let Some(step) = script.byte() else { break };
        world.step(step, &mut script);
        world.turn();
    }
    world.heal();
}

struct Script<'a>(&'a [u8]);

struct World {
    broker: Broker,
    now: Now,
    clients: [Client; 2],
    committing: Option<(Ticket, Batch)>,
    disk: OnDisk,
    /// Readings and messages that were sent; each has its number in it.
    sent: u64,
    epoch: u32,
    token_of_fan: u8,
}

impl World {
    fn new() -> Self {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        let disk = OnDisk::default();
        Self {
            broker: broker(&disk, 0, now),
            now,
            clients: Default::default(),
            committing: None,
            disk,
            sent: 0,
            epoch: 0,
            token_of_fan: 0,
        }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        let who = usize::from(step >> 7);
        let argument = script.byte().unwrap_or(0);
        match step & 0x1F {
            0 => self.reconnect(who),
            1 => self.say_connect(who, argument),
            2 => self.say_reading(who, argument),
            3 => self.say_nothing_to_store(who, argument, script.byte().unwrap_or(0)),
            4 => self.say_other(who, argument),
            5 => {
                let bytes = script.bytes(usize::from(argument % 32));
                self.clients[who].say_wildly(bytes);
            }
            6 => self.deliver(who, 1 + usize::from(argument % 16)),
            7 | 8 => self.deliver(who, usize::MAX),
            9 => self.pass_time(Duration::from_millis(1 << (argument % 21))),
            10 => self.begin_commit(),
            11 => self.end_commit(),
            12 => self.fail_commit(argument & 1 == 1),
            13 => self.open_store(),
            14 => self.hang_up(who),
            15 => self.change_registry(argument),
            16 => self.say_connect_to_stay(who, argument, script.byte().unwrap_or(0)),
            17 => self.say_subscribe(who, argument),
            18 => self.say_message(who, argument, script.byte().unwrap_or(0)),
            19 => self.clients[who].say_owed(argument.into()),
            20 => self.clients[who].say_any_ack(argument & 3, argument >> 2),
            21 => self.restart(argument & 1 == 1),
            22 => self.stall(who, argument),
            23 => self.clients[who].say_unsubscribe(FILTERS[usize::from(argument % 8)]),
            24 => {
                let expiry_s = (argument & 4 != 0).then(|| EXPIRIES_S[usize::from(argument & 3)]);
                self.clients[who].say_disconnect(expiry_s);
            }
            // Everything a client has to say and to hear, and the commit: a long script need not spell them out.
            _ => self.go_on(),
        }
    }

    /// What the loop does at the end of each turn, but for the commit, which takes as long as the script wants.
    fn turn(&mut self) {
        while let Some(conn) = self.broker.poll_output() {
            self.take_output(conn, usize::MAX);
        }
        while let Some((conn, _)) = self.broker.poll_close() {
            self.take_output(conn, usize::MAX);
            self.broker.handle_closed(conn);
            if let Some(client) = self.clients.iter_mut().find(|client| client.conn == Some(conn)) {
                *client = Client::default();
            }
        }
        self.broker.poll_seen();
        if let Some(next) = self.broker.poll_timeout() {
            assert!(next > Mono(0), "a deadline at the beginning of time");
        }
        self.broker.check_invariants();
    }

    // ---- connections --------------------------------------------------------------------------------------

    fn reconnect(&mut self, who: usize) {
        self.hang_up(who);
        self.turn();
        self.epoch += 1;
        let conn = ConnId { slot: who as u32, epoch: self.epoch };
        self.clients[who] = Client::new(conn);
        self.broker.handle_connected(conn, IpAddr::V4(Ipv4Addr::LOCALHOST), self.now);
    }

    fn hang_up(&mut self, who: usize) {
        if let Some(conn) = self.clients[who].conn {
            self.broker.handle_disconnected(conn, CloseReason::PeerClosed, self.now);
        }
    }

    fn deliver(&mut self, who: usize, at_most: usize) {
        let client = &mut self.clients[who];
        let Some(conn) = client.conn else { return };
        if self.broker.wants_bytes(conn) {
            let count = client.wire.len().min(at_most);
            let bytes: Vec<u8> = client.wire.drain(..count).collect();
            self.broker.handle_bytes(conn, &bytes, self.now);
        }
    }

    /// The client reads what the broker has for it, unless it stalls.
    fn take_output(&mut self, conn: ConnId, at_most: usize) {
        let Some(client) = self.clients.iter_mut().find(|client| client.conn == Some(conn)) else { return };
        if client.stalls && at_most == usize::MAX {
            return;
        }
        let Some(outbox) = self.broker.output(conn) else { return };
        let (front, back) = outbox.as_slices();
        let mut bytes = [front, back].concat();
        bytes.truncate(at_most);
        outbox.consume(bytes.len());
        client.hear(&bytes, &self.disk);
        self.broker.handle_written(conn, self.now);
    }

    /// The client stops reading, or goes on with it; or it reads a few bytes only.
    fn stall(&mut self, who: usize, argument: u8) {
        let client = &mut self.clients[who];
        let Some(conn) = client.conn else { return };
        if argument >= 128 {
            return self.take_output(conn, usize::from(argument - 127));
        }
        client.stalls = !client.stalls;
        self.take_output(conn, usize::MAX);
    }

    // ---- what clients say ---------------------------------------------------------------------------------

    /// A device with a session that ends with the connection.
    fn say_connect(&mut self, who: usize, argument: u8) {
        // Both may be the pump, and both may be the same client.
        let (identity, token) = match argument & 0x10 {
            0 => (PUMP, token("pump", 0)),
            _ => (FAN, token("fan", argument >> 6 & 1)),
        };
        self.clients[who].say_connect(&Connect {
            version: usize::from(argument % 3),
            identity,
            token: &token,
            client_id: if argument & 0x20 == 0 { "meter" } else { ["a", "b"][who] },
            clean: true,
            expiry_s: 0,
            receive_maximum: 0,
            problem_information: Some(argument >> 7),
            will: None,
        });
    }

    /// Anybody, with any session and perhaps a will.
    fn say_connect_to_stay(&mut self, who: usize, argument: u8, terms: u8) {
        let (identity, token) = match argument >> 2 & 3 {
            0 => (PUMP, token("pump", 0)),
            1 => (FAN, token("fan", self.token_of_fan)),
            _ => (PANEL, token("panel", 0)),
        };
        let will = (argument & 0x20 != 0).then(|| self.will(identity, terms >> 4));
        self.clients[who].say_connect(&Connect {
            version: usize::from(argument & 3) % 3,
            identity,
            token: &token,
            client_id: if argument & 0x10 == 0 { "meter" } else { ["a", "b"][who] },
            clean: terms & 1 == 1,
            expiry_s: EXPIRIES_S[usize::from(terms >> 1 & 3)],
            // Its own window, or the broker's.
            receive_maximum: u16::from(terms >> 3 & 1),
            problem_information: None,
            will,
        });
    }

    fn will(&mut self, identity: IdentityId, choice: u8) -> Will {
        let n = self.number();
        let (topic, text) = match identity {
            PANEL => (TOPICS[usize::from(choice & 3)], format!("message {n}")),
            _ => (TELEMETRY, format!("{{\"n\":{n}}}")),
        };
        let delay_s = if choice & 4 == 0 { 0 } else { 10 };
        Will { topic, text, qos: choice & 1, retain: choice & 8 != 0, delay_s }
    }

    fn say_reading(&mut self, who: usize, argument: u8) {
        let n = self.number();
        let text = format!("{{\"n\":{n}}}");
        self.clients[who].say_publish(&short_publish(argument, TELEMETRY, &text), Some(n));
    }

    /// Something that is answered at once or set aside, and must not overtake what waits for the disk.
    fn say_nothing_to_store(&mut self, who: usize, argument: u8, kind: u8) {
        let (topic, text) = match kind % 4 {
            0 => (TELEMETRY, "{}"),
            1 => (TELEMETRY, "{"),
            2 => ("v1/devices/me/nothing", "{}"),
            _ => ("a/b", ""),
        };
        self.clients[who].say_publish(&short_publish(argument, topic, text), None);
    }

    /// A message of any QoS, retained or not, perhaps empty: what devices may not say and local clients may.
    fn say_message(&mut self, who: usize, argument: u8, id: u8) {
        let text = if argument & 0x40 == 0 { format!("message {}", self.number()) } else { String::new() };
        let publish = Outgoing {
            topic: TOPICS[usize::from(argument >> 4 & 3)],
            text: &text,
            id: u16::from(id) + 1,
            qos: (argument & 3).min(2),
            retain: argument & 4 != 0,
            dup: argument & 8 != 0 && argument & 3 > 0,
        };
        self.clients[who].say_publish(&publish, None);
    }

    fn say_subscribe(&mut self, who: usize, argument: u8) {
        // Retain handling before version 5 would be malformed, which is worth a try now and then.
        let options = (argument >> 3 & 3).min(2) | argument >> 5 << 3;
        self.clients[who].say_subscribe(FILTERS[usize::from(argument % 8)], options);
    }

    fn say_other(&mut self, who: usize, argument: u8) {
        let filter = ["a/+", "#", "$share/g/a", TELEMETRY][usize::from(argument >> 6)];
        let client = &mut self.clients[who];
        match argument % 5 {
            0 => client.say_ping(),
            1 => client.say_disconnect(None),
            2 => client.say_subscribe(filter, 1),
            3 => client.say_unsubscribe(filter),
            _ => client.say_any_ack(2, argument),
        }
    }

    fn number(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    // ---- time, disk, registry -----------------------------------------------------------------------------

    fn pass_time(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
        self.broker.handle_timeout(self.now);
    }

    fn begin_commit(&mut self) {
        let Some((ticket, batch)) = self.broker.poll_commit() else { return };
        assert!(self.committing.is_none(), "one commit at a time");
        assert!(!batch.is_empty(), "a commit of nothing");
        for (record, n) in batch.records.iter().zip(self.disk.last_seq().0 + 1..) {
            assert_eq!(record.seq, Seq(n), "readings follow each other without a gap");
        }
        self.committing = Some((ticket, batch));
    }

    fn end_commit(&mut self) {
        let Some((ticket, batch)) = self.committing.take() else { return };
        self.disk.commit(&batch);
        self.broker.handle_committed(ticket, self.now);
    }

    /// The commit fails, and may be on disk all the same.
    fn fail_commit(&mut self, is_there_after_all: bool) {
        let Some((_, batch)) = self.committing.take() else { return };
        if is_there_after_all {
            self.disk.commit(&batch);
        }
        self.broker.handle_commit_failed(self.now);
    }

    fn open_store(&mut self) {
        if !self.broker.is_storing() {
            self.broker.handle_store_ready(self.disk.recovered(), self.now);
        }
    }

    /// The broker is killed, before or after its commit, and starts again.
    fn restart(&mut self, after_commit: bool) {
        if let Some((_, batch)) = self.committing.take().filter(|_| after_commit) {
            self.disk.commit(&batch);
        }
        self.broker = broker(&self.disk, self.token_of_fan, self.now);
        self.clients = Default::default();
    }

    fn change_registry(&mut self, argument: u8) {
        self.token_of_fan = argument & 1;
        self.broker.handle_registry(identities(self.token_of_fan), self.now);
    }

    fn go_on(&mut self) {
        for who in [0, 1] {
            self.deliver(who, usize::MAX);
        }
        self.begin_commit();
        self.end_commit();
    }

    /// Everything works again: whoever is let in has his answers, and at the end nobody is left.
    fn heal(&mut self) {
        self.end_commit();
        self.open_store();
        for who in [0, 1] {
            if self.clients[who].stalls {
                self.stall(who, 0);
            }
        }
        // Longer than an address that guesses is made to wait, and than anybody may take to say CONNECT.
        for _ in 0..16 {
            self.deliver(0, usize::MAX);
            self.deliver(1, usize::MAX);
            self.pass_time(Duration::from_secs(1));
            self.begin_commit();
            self.end_commit();
            self.turn();
        }
        for client in &self.clients {
            let owed = client.conn.is_some() && !client.is_wild && client.wire.is_empty();
            assert!(!owed || client.is_answered() || !self.is_let_in(client), "an answer is missing");
        }
        self.broker.handle_shutdown(self.now);
        self.turn();
        self.begin_commit();
        self.end_commit();
        self.turn();
        assert_eq!(self.broker.connection_count(), 0, "somebody stayed behind");
        self.restart(false);
        self.turn();
    }

    /// Whether the broker reads from the client; one that waits for its CONNECT to be looked at is not let in.
    fn is_let_in(&self, client: &Client) -> bool {
        client.conn.is_some_and(|conn| self.broker.wants_bytes(conn))
    }
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, at_most: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(at_most.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// A PUBLISH of QoS 0 or 1, by the lowest bit of `argument`; the others are its packet identifier.
fn short_publish<'a>(argument: u8, topic: &'a str, text: &'a str) -> Outgoing<'a> {
    let (id, qos) = (u16::from(argument >> 1) + 1, argument & 1);
    Outgoing { topic, text, id, qos, retain: false, dup: false }
}

fn broker(disk: &OnDisk, token_of_fan: u8, now: Now) -> Broker {
    let mut limits = Limits::default();
    // Small enough for a script to reach.
    for (name, value) in [
        ("connections_per_device", 1),
        ("commit_records", 8),
        ("outbox_bytes", 1024),
        ("window", 3),
        ("device_queue_messages", 4),
        ("client_queue_messages", 6),
        ("client_offline_sessions", 2),
        ("retained_messages", 3),
    ] {
        limits.set(name, value).expect("a knob within its range");
    }
    let (identities, grants, recovered) =
        (identities(token_of_fan), DeviceGrants::default(), disk.recovered());
    Broker::new(limits, Start { identities, grants, recovered, seed: 7 }, now)
}

/// Two devices, and a local client.
fn identities(token_of_fan: u8) -> Vec<Identity> {
    [(PUMP, "pump", 0), (FAN, "fan", token_of_fan), (PANEL, "panel", 0)]
        .into_iter()
        .map(|(id, name, number)| Identity {
            id,
            name: DeviceName::parse(name).expect("a name"),
            role: if id == PANEL { Role::Client(Rights::default()) } else { Role::Device },
            token_hash: TokenHash::of(&token(name, number)),
            enabled: true,
            created: Wall(0),
            last_seen: None,
        })
        .collect()
}

fn token(name: &str, number: u8) -> String {
    format!("{name}{number}")
}
