//! One connection of a client: what it says, and what it may hear.

use std::collections::VecDeque;

use forebay::{
    ids::{ConnId, IdentityId},
    mqtt::{Packet, ProtocolVersion, Publish, QoS, ReasonCode, decode, parse_header},
};

use super::on_disk::{Fact, Key, OnDisk, n_of};

const VERSIONS: [(u8, ProtocolVersion); 3] =
    [(3, ProtocolVersion::V31), (4, ProtocolVersion::V311), (5, ProtocolVersion::V5)];
/// Where a device's readings go.
pub const TELEMETRY: &str = "v1/devices/me/telemetry";
/// First bytes of the four acknowledgements.
const ACKS: [u8; 4] = [PUBACK, PUBREC, PUBREL, PUBCOMP];
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

/// What a CONNECT says.
pub struct Connect<'a> {
    pub version: usize,
    pub identity: IdentityId,
    pub token: &'a str,
    pub client_id: &'a str,
    pub clean: bool,
    pub expiry_s: u32,
    pub receive_maximum: u16,
    pub problem_information: Option<u8>,
    pub will: Option<Will>,
}

/// A will, and after how many seconds it is due.
pub struct Will {
    pub topic: &'static str,
    pub text: String,
    pub qos: u8,
    pub retain: bool,
    pub delay_s: u32,
}

/// A PUBLISH.
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub text: &'a str,
    pub id: u16,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
}

#[derive(Default)]
pub struct Client {
    pub conn: Option<ConnId>,
    /// Said, and not delivered yet.
    pub wire: VecDeque<u8>,
    /// Has said bytes nobody vouches for: its answers prove nothing.
    pub is_wild: bool,
    /// Does not read.
    pub stalls: bool,
    version: usize,
    /// Whose session it has, if that is to outlive the connection.
    durable: Option<Key>,
    said_connect: bool,
    inbox: Vec<u8>,
    /// What waits for a PUBACK or PUBREC: its identifier, and what must be on disk by then.
    unanswered: VecDeque<(u16, Vec<Fact>)>,
    /// What waits for a SUBACK.
    unsubscribed: VecDeque<String>,
    /// The acknowledgements it has yet to give.
    owed: VecDeque<(u8, u16)>,
}

impl Client {
    pub fn new(conn: ConnId) -> Self {
        Self { conn: Some(conn), ..Self::default() }
    }

    /// Whether all it published was answered.
    pub fn is_answered(&self) -> bool {
        self.unanswered.is_empty()
    }

    fn is_v5(&self) -> bool {
        VERSIONS[self.version].0 == 5
    }

    // ---- what it says -------------------------------------------------------------------------------------

    pub fn say_connect(&mut self, connect: &Connect<'_>) {
        let (level, name) =
            (VERSIONS[connect.version].0, if connect.version == 0 { "MQIsdp" } else { "MQTT" });
        let will = connect.will.as_ref();
        let will_flags = will.map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        let mut body = string(name);
        body.extend([level, 0x80 | u8::from(connect.clean) << 1 | will_flags, 0, 60]);
        if level == 5 {
            body.extend(properties(&[
                connect.problem_information.map(|flag| vec![0x17, flag]),
                (connect.expiry_s > 0).then(|| [&[0x11][..], &connect.expiry_s.to_be_bytes()].concat()),
                Some([&[0x21][..], &connect.receive_maximum.to_be_bytes()].concat())
                    .filter(|_| connect.receive_maximum > 0),
            ]));
        }
        body.extend(string(connect.client_id));
        if let Some(will) = will {
            if level == 5 {
                body.extend(properties(&[Some([&[0x18][..], &will.delay_s.to_be_bytes()].concat())]));
            }
            body.extend([string(will.topic), string(&will.text)].concat());
        }
        body.extend(string(connect.token));
        // A second CONNECT ends the connection; what comes back before that is in the first one's version.
        self.is_wild |= self.said_connect;
        self.said_connect = true;
        self.version = connect.version;
        let outlives = if level == 5 { connect.expiry_s > 0 } else { !connect.clean };
        self.durable = outlives.then(|| (connect.identity, connect.client_id.to_owned()));
        self.wire.extend(packet(0x10, &body));
    }

    /// A PUBLISH, and `reading` if that is what it carries.
    pub fn say_publish(&mut self, publish: &Outgoing<'_>, reading: Option<u64>) {
        let Outgoing { topic, text, id, qos, retain, dup } = *publish;
        let mut body = string(topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
            // Before version 5 there is no way to say that there was no room for it, and of QoS 2 it may be a repeat.
            let is_kept = retain && !text.is_empty() && self.is_v5() && qos == 1;
            let retained = is_kept.then(|| Fact::Retained(text.into()));
            let unreleased = self.durable.clone().filter(|_| qos == 2).map(|key| Fact::Unreleased(key, id));
            let facts = [reading.map(Fact::Reading), retained, unreleased];
            self.unanswered.push_back((id, facts.into_iter().flatten().collect()));
        }
        if self.is_v5() {
            body.push(0);
        }
        body.extend(text.as_bytes());
        self.wire.extend(packet(0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain), &body));
    }

    pub fn say_subscribe(&mut self, filter: &str, options: u8) {
        self.unsubscribed.push_back(filter.to_owned());
        let body = self.filter_body(filter);
        self.wire.extend(packet(0x82, &[&body[..], &[options]].concat()));
    }

    pub fn say_unsubscribe(&mut self, filter: &str) {
        let body = self.filter_body(filter);
        self.wire.extend(packet(0xA2, &body));
    }

    fn filter_body(&self, filter: &str) -> Vec<u8> {
        let no_properties: &[u8] = if self.is_v5() { &[0] } else { &[] };
        [&[0, 9], no_properties, &string(filter)].concat()
    }

    /// The `nth` of the acknowledgements it owes.
    pub fn say_owed(&mut self, nth: usize) {
        if !self.owed.is_empty()
            && let Some((kind, id)) = self.owed.remove(nth % self.owed.len())
        {
            self.say_ack(kind, id);
        }
    }

    /// An acknowledgement that nobody asked for, perhaps.
    pub fn say_any_ack(&mut self, kind: u8, id: u8) {
        self.say_ack(ACKS[usize::from(kind) % ACKS.len()], id.into());
    }

    fn say_ack(&mut self, kind: u8, id: u16) {
        self.wire.extend(packet(kind, &id.to_be_bytes()));
    }

    /// DISCONNECT; a version 5 client may ask for its session to live so long from now on.
    pub fn say_disconnect(&mut self, expiry_s: Option<u32>) {
        let body = match expiry_s.filter(|_| self.is_v5()) {
            None => Vec::new(),
            Some(seconds) => [&[0, 5, 0x11][..], &seconds.to_be_bytes()].concat(),
        };
        self.wire.extend(packet(0xE0, &body));
    }

    pub fn say_ping(&mut self) {
        self.wire.extend(packet(0xC0, &[]));
    }

    pub fn say_wildly(&mut self, bytes: &[u8]) {
        self.is_wild = true;
        self.wire.extend(bytes);
    }

    // ---- what it hears ------------------------------------------------------------------------------------

    /// Takes bytes from the broker, and looks at the packets they complete.
    pub fn hear(&mut self, bytes: &[u8], disk: &OnDisk) {
        if self.is_wild {
            return;
        }
        self.inbox.extend(bytes);
        let version = VERSIONS[self.version].1;
        loop {
            let inbox = std::mem::take(&mut self.inbox);
            let header = parse_header(&inbox, version).expect("a header of ours");
            let Some(header) = header.filter(|header| header.frame_bytes() <= inbox.len()) else {
                self.inbox = inbox;
                return;
            };
            let (frame, rest) = inbox.split_at(header.frame_bytes());
            let packet = decode(header, &frame[header.header_bytes..], version).expect("a packet of ours");
            self.on_packet(&packet, disk);
            self.inbox = rest.to_vec();
        }
    }

    fn on_packet(&mut self, packet: &Packet<'_>, disk: &OnDisk) {
        match packet {
            Packet::PubAck(ack) => self.on_answer(ack.packet_id.get(), ack.reason, disk),
            Packet::PubRec(ack) => {
                self.on_answer(ack.packet_id.get(), ack.reason, disk);
                if !ack.reason.is_error() {
                    self.owed.push_back((PUBREL, ack.packet_id.get()));
                }
            }
            Packet::PubRel(ack) => self.owed.push_back((PUBCOMP, ack.packet_id.get())),
            Packet::SubAck(suback) => {
                let filter = self.unsubscribed.pop_front().expect("it answers a SUBSCRIBE");
                if let Some(key) = self.durable.clone().filter(|_| !suback.reasons[0].is_error()) {
                    must_have_been(disk, &Fact::Subscribed(key, filter));
                }
            }
            Packet::Publish(publish) => self.on_publish(publish, disk),
            Packet::ConnAck(_)
            | Packet::UnsubAck(_)
            | Packet::PubComp(_)
            | Packet::PingResp
            | Packet::Disconnect(_) => {}
            other => panic!("no client is sent {other:?}"),
        }
    }

    /// PUBACK and PUBREC: due, and in the order of the messages.
    fn on_answer(&mut self, id: u16, reason: ReasonCode, disk: &OnDisk) {
        let (expected, facts) = self.unanswered.pop_front().expect("it answers a PUBLISH");
        assert_eq!(id, expected, "answers come in order");
        if !reason.is_error() {
            facts.iter().for_each(|fact| must_have_been(disk, fact));
        }
    }

    fn on_publish(&mut self, publish: &Publish<'_>, disk: &OnDisk) {
        if let Some(n) = n_of(publish.payload) {
            must_have_been(disk, &Fact::Reading(n));
        }
        let Some(id) = publish.packet_id else { return };
        if self.durable.is_some() {
            must_have_been(disk, &Fact::Message(publish.payload.to_vec()));
        }
        let answer = if publish.qos == QoS::ExactlyOnce { PUBREC } else { PUBACK };
        self.owed.push_back((answer, id.get()));
    }
}

fn must_have_been(disk: &OnDisk, fact: &Fact) {
    assert!(disk.has_had(fact), "said before it was on disk: {fact:?}");
}

fn string(text: &str) -> Vec<u8> {
    [&[0, text.len() as u8], text.as_bytes()].concat()
}

fn properties(each: &[Option<Vec<u8>>]) -> Vec<u8> {
    let all: Vec<u8> = each.iter().flatten().flatten().copied().collect();
    [&[all.len() as u8], &all[..]].concat()
}

/// A packet of less than 128 bytes.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, body.len() as u8], body].concat()
}
