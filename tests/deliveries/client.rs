//! A client that keeps its own half of the session: what it sent and has no answer for, what it has received and not yet
//! released. It does what the standard asks of a client, and notices what the standard forbids a server. [§4.3], [§4.4]

use std::collections::{BTreeSet, VecDeque};

use forebay::{
    ids::ConnId,
    mqtt::{
        Ack, Connect, Packet, PacketId, Properties, PropertiesBuf, Property, ProtocolVersion, Publish, QoS,
        ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, TopicFilter, TopicName, decode, encode,
        parse_header,
    },
};

const TOPIC: &str = "hall/lamp";
/// What a client has under way at most, so that no Receive Maximum is exceeded.
const IN_FLIGHT_MAX: usize = 3;

/// A message on its way to the broker.
#[derive(Debug)]
struct Outgoing {
    id: u16,
    text: String,
    qos: u8,
    /// PUBREC came.
    received: bool,
}

/// One client, connected or not.
#[derive(Debug)]
pub struct Client {
    /// The connection it has.
    pub conn: Option<ConnId>,
    /// With which QoS it subscribes, if it does.
    pub subscribes: Option<u8>,
    /// The messages it got, in order.
    pub got: Vec<String>,
    id: String,
    version: ProtocolVersion,
    is_let_in: bool,
    subscribed: bool,
    wire: VecDeque<u8>,
    inbox: Vec<u8>,
    next_id: u16,
    outgoing: VecDeque<Outgoing>,
    unreleased: BTreeSet<u16>,
}

impl Client {
    /// Not connected.
    pub fn new(id: String, version: ProtocolVersion, subscribes: Option<u8>) -> Self {
        Self {
            conn: None,
            subscribes,
            got: Vec::new(),
            id,
            version,
            is_let_in: false,
            subscribed: false,
            wire: VecDeque::new(),
            inbox: Vec::new(),
            next_id: 0,
            outgoing: VecDeque::new(),
            unreleased: BTreeSet::new(),
        }
    }

    /// Says CONNECT on a new connection.
    pub fn connect(&mut self, conn: ConnId) {
        self.conn = Some(conn);
        let mut properties = PropertiesBuf::new();
        if self.version == ProtocolVersion::V5 {
            properties.push(Property::SessionExpiryInterval(100_000));
        }
        let connect = Connect {
            version: self.version,
            clean: false,
            keep_alive_s: 600,
            client_id: &self.id.clone(),
            will: None,
            user_name: Some("TOKEN"),
            password: None,
            properties: properties.as_properties(),
        };
        self.say(&Packet::Connect(connect));
    }

    /// What was on the way is lost; what the session remembers is not.
    pub fn lose_connection(&mut self) {
        self.conn = None;
        self.is_let_in = false;
        self.wire.clear();
        self.inbox.clear();
    }

    /// Whether it may begin another message.
    pub fn may_publish(&self) -> bool {
        self.is_let_in && self.outgoing.len() < IN_FLIGHT_MAX
    }

    /// Whether the broker has promised it every message from now on.
    pub fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Whether every exchange is over.
    pub fn is_done(&self) -> bool {
        self.is_let_in
            && self.outgoing.is_empty()
            && self.wire.is_empty()
            && self.unreleased.is_empty()
            && self.subscribed == self.subscribes.is_some()
    }

    /// Begins a message.
    pub fn publish(&mut self, text: &str, qos: u8) {
        loop {
            self.next_id = self.next_id % 50 + 1;
            if self.outgoing.iter().all(|message| message.id != self.next_id) {
                break;
            }
        }
        let message = Outgoing { id: self.next_id, text: text.to_owned(), qos, received: false };
        self.say_publish(&message, false);
        self.outgoing.push_back(message);
    }

    /// Takes bytes off the wire towards the broker.
    pub fn say_up_to(&mut self, at_most: usize) -> Vec<u8> {
        let count = self.wire.len().min(at_most);
        self.wire.drain(..count).collect()
    }

    /// Takes bytes from the broker.
    pub fn take(&mut self, bytes: &[u8]) {
        self.inbox.extend(bytes);
        loop {
            let inbox = std::mem::take(&mut self.inbox);
            let header = parse_header(&inbox, self.version).expect("a header of ours");
            let Some(header) = header.filter(|header| header.frame_bytes() <= inbox.len()) else {
                self.inbox = inbox;
                return;
            };
            let (frame, rest) = inbox.split_at(header.frame_bytes());
            let packet =
                decode(header, &frame[header.header_bytes..], self.version).expect("a packet of ours");
            self.on_packet(&packet);
            self.inbox = rest.to_vec();
        }
    }

    fn on_packet(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::ConnAck(connack) => {
                assert_eq!(connack.reason, ReasonCode::Success);
                assert!(
                    connack.session_present || !self.subscribed,
                    "a session that was acknowledged is not there [MQTT-3.2.2-2]"
                );
                self.begin(connack.session_present);
            }
            Packet::SubAck(_) => self.subscribed = true,
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => self.finish(ack.packet_id.get(), 1),
            Packet::PubRec(ack) => {
                let id = ack.packet_id.get();
                let message = self.outgoing.iter_mut().find(|message| message.id == id);
                let message = message.unwrap_or_else(|| panic!("PUBREC for {id}, which is not under way"));
                assert_eq!(message.qos, 2);
                message.received = true;
                self.say_ack(Packet::PubRel, id);
            }
            Packet::PubRel(ack) => {
                let id = ack.packet_id.get();
                self.unreleased.remove(&id);
                self.say_ack(Packet::PubComp, id);
            }
            Packet::PubComp(ack) => self.finish(ack.packet_id.get(), 2),
            Packet::Disconnect(_) => {}
            other => panic!("no client is sent {other:?}"),
        }
    }

    /// The connection is there: what has no answer is sent again, in order. [MQTT-4.4.0-1]
    fn begin(&mut self, session_present: bool) {
        self.is_let_in = true;
        if !session_present {
            // The broker knows nothing of this client: its half of the session begins anew as well.
            self.unreleased.clear();
        }
        let outgoing = std::mem::take(&mut self.outgoing);
        for message in &outgoing {
            if message.received {
                self.say_ack(Packet::PubRel, message.id);
            } else {
                self.say_publish(message, true);
            }
        }
        self.outgoing = outgoing;
        if let Some(qos) = self.subscribes.filter(|_| !self.subscribed) {
            let options = SubscriptionOptions {
                qos: QoS::from_bits(qos).expect("a QoS"),
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
            };
            let subscribe = Subscribe {
                packet_id: PacketId::new(60_000).expect("not zero"),
                properties: Properties::EMPTY,
                filters: vec![(TopicFilter::parse("hall/+").expect("a filter"), options)],
            };
            self.say(&Packet::Subscribe(subscribe));
        }
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        assert_eq!(publish.topic.map(|topic| topic.as_str()), Some(TOPIC));
        let text = String::from_utf8(publish.payload.to_vec()).expect("text");
        let id = publish.packet_id.expect("QoS 1 or 2").get();
        if publish.qos == QoS::AtLeastOnce {
            self.got.push(text);
            return self.say_ack(Packet::PubAck, id);
        }
        if self.unreleased.insert(id) {
            self.got.push(text);
        } else {
            assert!(publish.dup, "the identifier {id} is in use [MQTT-2.2.1-4]");
        }
        self.say_ack(Packet::PubRec, id);
    }

    fn finish(&mut self, id: u16, qos: u8) {
        let at = self.outgoing.iter().position(|message| message.id == id);
        // A release that was said twice is answered twice.
        let Some(at) = at else { return assert_eq!(qos, 2, "PUBACK for {id}, which is not under way") };
        assert_eq!(self.outgoing[at].qos, qos);
        self.outgoing.remove(at);
    }

    fn say_publish(&mut self, message: &Outgoing, dup: bool) {
        let publish = Publish {
            dup,
            qos: QoS::from_bits(message.qos).expect("a QoS"),
            retain: false,
            topic: Some(TopicName::parse(TOPIC).expect("a name")),
            packet_id: PacketId::new(message.id),
            properties: Properties::EMPTY,
            payload: message.text.as_bytes(),
        };
        self.say(&Packet::Publish(publish));
    }

    fn say_ack(&mut self, kind: fn(Ack<'static>) -> Packet<'static>, id: u16) {
        let packet_id = PacketId::new(id).expect("not zero");
        self.say(&kind(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }));
    }

    fn say(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, self.version, &mut bytes).expect("a packet of this version");
        self.wire.extend(bytes);
    }
}
