//! Two clients, a store and a clock over the whole core: any script is played without a panic, the invariants hold after
//! each step, and no acknowledgement comes before its reading was stored.
//!
//! A script is read byte by byte. What a client says goes onto its wire first, whole packets or bytes as they stand in
//! the script, and is delivered in portions; so a packet may be cut anywhere and end in another one's middle.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use forebay::{
    broker::{Broker, Start, commit_gate::Ticket},
    clock::{Mono, Now, Wall},
    identity::{DeviceGrants, Identity, Role, TokenHash},
    ids::{ConnId, DeviceName, IdentityId, Seq},
    limits::Limits,
    mqtt::{Packet, ProtocolVersion, decode, parse_header},
    session::{Batch, CloseReason, durable::Recovered},
};

const VERSIONS: [(u8, ProtocolVersion); 3] =
    [(3, ProtocolVersion::V31), (4, ProtocolVersion::V311), (5, ProtocolVersion::V5)];
const TELEMETRY: &str = "v1/devices/me/telemetry";
/// Steps after which a script ends, however long it is.
const STEPS: usize = 400;

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
    last_seq: Seq,
    /// The `n` of every reading that is on disk.
    stored: BTreeSet<u64>,
    next_n: u64,
    epoch: u32,
    token_of_fan: u8,
}

#[derive(Default)]
struct Client {
    conn: Option<ConnId>,
    version: usize,
    said_connect: bool,
    /// Said, and not delivered yet.
    wire: VecDeque<u8>,
    /// What waits for a PUBACK: its packet identifier, and its `n` if it is a reading.
    unanswered: VecDeque<(u16, Option<u64>)>,
    /// Has said bytes nobody vouches for: its answers prove nothing.
    wild: bool,
}

impl World {
    fn new() -> Self {
        let mut limits = Limits::default();
        // Small enough for a script to reach.
        for (name, value) in [("connections_per_device", 1), ("commit_records", 8), ("outbox_bytes", 1024)] {
            limits.set(name, value).expect("a knob within its range");
        }
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        let (grants, recovered) = (DeviceGrants::default(), Recovered::default());
        let start = Start { identities: devices(0), grants, recovered, seed: 7 };
        Self {
            broker: Broker::new(limits, start, now),
            now,
            clients: Default::default(),
            committing: None,
            last_seq: Seq(0),
            stored: BTreeSet::new(),
            next_n: 0,
            epoch: 0,
            token_of_fan: 0,
        }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        let who = usize::from(step >> 7);
        let argument = script.byte().unwrap_or(0);
        match step & 0x0F {
            0 => self.reconnect(who),
            1 => self.say_connect(who, argument),
            2 => self.say_reading(who, argument),
            3 => self.say_nothing_to_store(who, argument, script.byte().unwrap_or(0)),
            4 => self.say_other(who, argument),
            5 => {
                let bytes = script.bytes(usize::from(argument % 32));
                self.say_wildly(who, bytes);
            }
            6 => self.deliver(who, 1 + usize::from(argument % 16)),
            7 | 8 => self.deliver(who, usize::MAX),
            9 => self.pass_time(Duration::from_millis(1 << (argument % 21))),
            10 => self.begin_commit(),
            11 => self.end_commit(),
            12 => self.fail_commit(),
            13 => self.open_store(),
            14 => self.hang_up(who),
            _ => self.change_registry(argument),
        }
    }

    /// What the loop does at the end of each turn, but for the commit, which takes as long as the script wants.
    fn turn(&mut self) {
        while let Some(conn) = self.broker.poll_output() {
            self.read_answers(conn);
        }
        while let Some((conn, _)) = self.broker.poll_close() {
            self.read_answers(conn);
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

    fn reconnect(&mut self, who: usize) {
        self.hang_up(who);
        self.turn();
        self.epoch += 1;
        let conn = ConnId { slot: who as u32, epoch: self.epoch };
        self.clients[who] = Client { conn: Some(conn), ..Client::default() };
        self.broker.handle_connected(conn, IpAddr::V4(Ipv4Addr::LOCALHOST), self.now);
    }

    fn hang_up(&mut self, who: usize) {
        if let Some(conn) = self.clients[who].conn {
            self.broker.handle_disconnected(conn, CloseReason::PeerClosed, self.now);
        }
    }

    fn say_connect(&mut self, who: usize, argument: u8) {
        let version = usize::from(argument % 3);
        let (level, name) = (VERSIONS[version].0, if version == 0 { "MQIsdp" } else { "MQTT" });
        let mut body = string(name);
        body.extend([level, 0x82, 0, 60]);
        if level == 5 {
            // Problem information, or none.
            body.extend([2, 0x17, argument >> 7]);
        }
        // Both may be the pump, and both may be the same client.
        let pump = argument & 0x10 == 0;
        body.extend(string(if argument & 0x20 == 0 { "meter" } else { ["a", "b"][who] }));
        body.extend(string(&if pump { token("pump", 0) } else { token("fan", argument >> 6 & 1) }));
        let client = &mut self.clients[who];
        // A second CONNECT ends the connection; what comes back before that is in the first one's version.
        client.wild |= client.said_connect;
        client.said_connect = true;
        client.version = version;
        client.wire.extend(packet(0x10, &body));
    }

    fn say_reading(&mut self, who: usize, argument: u8) {
        let n = self.next_n;
        self.next_n += 1;
        self.say_publish(who, argument, TELEMETRY, &format!("{{\"n\":{n}}}"), Some(n));
    }

    /// Something that is answered at once or set aside, and must not overtake what waits for the disk.
    fn say_nothing_to_store(&mut self, who: usize, argument: u8, kind: u8) {
        let (topic, payload) = match kind % 4 {
            0 => (TELEMETRY, "{}"),
            1 => (TELEMETRY, "{"),
            2 => ("v1/devices/me/nothing", "{}"),
            _ => ("a/b", ""),
        };
        self.say_publish(who, argument, topic, payload, None);
    }

    /// A PUBLISH of QoS 0 or 1, by the lowest bit of `argument`; the others are its packet identifier.
    fn say_publish(&mut self, who: usize, argument: u8, topic: &str, payload: &str, n: Option<u64>) {
        let (id, qos) = (u16::from(argument >> 1) + 1, argument & 1);
        let client = &mut self.clients[who];
        let mut body = string(topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
            client.unanswered.push_back((id, n));
        }
        if VERSIONS[client.version].0 == 5 {
            body.push(0);
        }
        body.extend(payload.as_bytes());
        client.wire.extend(packet(0x30 | qos << 1, &body));
    }

    fn say_other(&mut self, who: usize, argument: u8) {
        let properties: &[u8] = if VERSIONS[self.clients[who].version].0 == 5 { &[0] } else { &[] };
        let filter =
            [&[0, 9], properties, &string(["a/+", "#", "$share/g/a", TELEMETRY][usize::from(argument >> 6)])]
                .concat();
        let bytes = match argument % 5 {
            0 => packet(0xC0, &[]),
            1 => packet(0xE0, &[]),
            2 => packet(0x82, &[&filter[..], &[1]].concat()),
            3 => packet(0xA2, &filter),
            _ => packet(0x62, &[0, argument]),
        };
        self.clients[who].wire.extend(bytes);
    }

    fn say_wildly(&mut self, who: usize, bytes: &[u8]) {
        self.clients[who].wild = true;
        self.clients[who].wire.extend(bytes);
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

    fn pass_time(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
        self.broker.handle_timeout(self.now);
    }

    fn begin_commit(&mut self) {
        let Some((ticket, batch)) = self.broker.poll_commit() else { return };
        assert!(self.committing.is_none(), "one commit at a time");
        assert!(!batch.is_empty(), "a commit of nothing");
        for (record, n) in batch.records.iter().zip(self.last_seq.0 + 1..) {
            assert_eq!(record.seq, Seq(n), "readings follow each other without a gap");
        }
        self.committing = Some((ticket, batch));
    }

    fn end_commit(&mut self) {
        let Some((ticket, batch)) = self.committing.take() else { return };
        self.last_seq = batch.last_seq().unwrap_or(self.last_seq);
        self.stored.extend(batch.records.iter().filter_map(|record| n_of(&record.values)));
        self.broker.handle_committed(ticket, self.now);
    }

    fn fail_commit(&mut self) {
        if self.committing.take().is_some() {
            self.broker.handle_commit_failed(self.now);
        }
    }

    fn open_store(&mut self) {
        if !self.broker.is_storing() {
            let recovered = Recovered { last_seq: self.last_seq, ..Recovered::default() };
            self.broker.handle_store_ready(recovered, self.now);
        }
    }

    fn change_registry(&mut self, argument: u8) {
        self.token_of_fan = argument & 1;
        self.broker.handle_registry(devices(self.token_of_fan), self.now);
    }

    /// Takes what the broker has for `conn`: whole packets, of which every PUBACK is due and in order.
    fn read_answers(&mut self, conn: ConnId) {
        let Some(outbox) = self.broker.output(conn) else { return };
        let (front, back) = outbox.as_slices();
        let bytes = [front, back].concat();
        outbox.consume(bytes.len());
        let Some(client) = self.clients.iter_mut().find(|client| client.conn == Some(conn)) else { return };
        if client.wild {
            return;
        }
        let version = VERSIONS[client.version].1;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let header = parse_header(rest, version).expect("a header of ours").expect("a whole packet");
            let (frame, behind) = rest.split_at(header.frame_bytes());
            rest = behind;
            match decode(header, &frame[header.header_bytes..], version).expect("a packet of ours") {
                Packet::PubAck(ack) => {
                    let (id, n) = client.unanswered.pop_front().expect("it answers a PUBLISH");
                    assert_eq!(ack.packet_id.get(), id, "PUBACKs come in order");
                    let too_early = n.filter(|n| !self.stored.contains(n));
                    assert_eq!(too_early, None, "a reading was acknowledged before it was stored");
                }
                Packet::ConnAck(_)
                | Packet::SubAck(_)
                | Packet::UnsubAck(_)
                | Packet::PubComp(_)
                | Packet::PingResp
                | Packet::Disconnect(_) => {}
                other => panic!("no client is sent {other:?}"),
            }
        }
    }

    /// Everything works again: whoever is let in has his answers, and at the end nobody is left.
    fn heal(&mut self) {
        self.end_commit();
        self.open_store();
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
            let owed = client.conn.is_some() && !client.wild && client.wire.is_empty();
            assert!(!owed || client.unanswered.is_empty() || !self.is_let_in(client), "an answer is missing");
        }
        self.broker.handle_shutdown(self.now);
        self.turn();
        self.begin_commit();
        self.end_commit();
        self.turn();
        assert_eq!(self.broker.connection_count(), 0, "somebody stayed behind");
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

fn devices(token_of_fan: u8) -> Vec<Identity> {
    [(1, "pump", 0), (2, "fan", token_of_fan)]
        .into_iter()
        .map(|(id, name, number)| Identity {
            id: IdentityId(id),
            name: DeviceName::parse(name).expect("a name"),
            role: Role::Device,
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

fn n_of(values: &str) -> Option<u64> {
    values.strip_prefix("{\"n\":")?.strip_suffix('}')?.parse().ok()
}

fn string(text: &str) -> Vec<u8> {
    [&[0, text.len() as u8], text.as_bytes()].concat()
}

/// A packet of less than 128 bytes.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, body.len() as u8], body].concat()
}
