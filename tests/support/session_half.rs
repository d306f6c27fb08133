//! A client's half of a session: what it sent and has no answer for, what it has received and not yet released. It does
//! what the standard asks of a client, and notices what the standard forbids a server. [§4.3], [§4.4]
//!
//! Bytes in, bytes out: it knows no socket and no time. What it remembers outlives its connections, as that of a client
//! that keeps its state in a file does.

use std::collections::{BTreeSet, VecDeque};

use forebay::mqtt::{
    Ack, ConnAck, Connect, Disconnect, Packet, PacketId, Properties, PropertiesBuf, Property,
    ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, TopicFilter,
    TopicName, Will as WillPacket, decode, encode, parse_header,
};

/// The identifier of its one SUBSCRIBE; those of its messages stay below.
const SUBSCRIBE_ID: u16 = 60_000;

/// Who it is and what it wants.
#[derive(Clone, Debug)]
pub struct Terms {
    pub version: ProtocolVersion,
    pub client_id: String,
    pub token: String,
    pub keep_alive_s: u16,
    /// How long its session is to outlive a connection; before version 5 any but 0 is for ever.
    pub expiry_s: u32,
    /// Filters, with the QoS it asks for; it subscribes to all of them at once.
    pub filters: Vec<(String, u8)>,
    /// Whether it subscribes on every connection, though the session may be there.
    pub subscribes_again: bool,
    /// Whether it goes on with a session that is said to be there. Who may have lost one without learning it, for that
    /// CONNACK was lost, had better begin anew.
    pub trusts_sessions: bool,
    /// Messages of QoS 1 and 2 it has under way at most, so that no Receive Maximum is exceeded.
    pub in_flight_max: usize,
}

/// A will, and after how many seconds it is due.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub text: String,
    pub qos: u8,
    pub delay_s: u32,
}

/// A message, on its way either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub text: String,
    pub qos: u8,
    pub retain: bool,
}

/// What a client learns from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// CONNACK, and whether the session was there.
    LetIn {
        session_present: bool,
        keep_alive_s: Option<u16>,
    },
    /// CONNACK with this code.
    Refused(ReasonCode),
    /// SUBACK: every message from now on is promised.
    Subscribed,
    /// A message, once however often it was sent with QoS 2.
    Message(Message),
    /// PUBACK or PUBREC: the broker has taken over this message.
    Taken(Message),
    Pong,
    /// DISCONNECT with this code.
    Goodbye(ReasonCode),
}

#[derive(Debug)]
struct Outgoing {
    id: u16,
    message: Message,
    /// PUBREC came.
    received: bool,
}

/// One client, connected or not.
#[derive(Debug)]
pub struct SessionHalf {
    pub terms: Terms,
    /// Whether the session it has, or had last, is to outlive the connection.
    is_durable: bool,
    is_let_in: bool,
    is_subscribed: bool,
    wire: VecDeque<u8>,
    inbox: Vec<u8>,
    next_id: u16,
    outgoing: VecDeque<Outgoing>,
    unreleased: BTreeSet<u16>,
}

impl SessionHalf {
    /// Not connected.
    pub fn new(terms: Terms) -> Self {
        Self {
            is_durable: terms.expiry_s > 0,
            terms,
            is_let_in: false,
            is_subscribed: false,
            wire: VecDeque::new(),
            inbox: Vec::new(),
            next_id: 0,
            outgoing: VecDeque::new(),
            unreleased: BTreeSet::new(),
        }
    }

    /// Whether its session is to outlive the connection.
    pub fn is_durable(&self) -> bool {
        self.is_durable
    }

    /// Whether its CONNECT was answered well.
    pub fn is_let_in(&self) -> bool {
        self.is_let_in
    }

    /// Whether it may begin another message of QoS 1 or 2.
    pub fn may_publish(&self) -> bool {
        self.is_let_in && self.outgoing.len() < self.terms.in_flight_max
    }

    /// Whether the broker has promised it every message from now on, and it has not heard otherwise.
    pub fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }

    /// Whether it has sent something that has no answer.
    pub fn awaits_answer(&self) -> bool {
        !self.is_let_in || !self.outgoing.is_empty() || self.wants_to_subscribe()
    }

    /// Whether every exchange is over.
    pub fn is_done(&self) -> bool {
        !self.awaits_answer() && self.wire.is_empty() && self.unreleased.is_empty()
    }

    fn wants_to_subscribe(&self) -> bool {
        !self.terms.filters.is_empty() && !self.is_subscribed
    }

    // ---- what it says -------------------------------------------------------------------------------------

    /// Says CONNECT on a new connection. Before version 5 a session that begins clean ends with the connection.
    ///
    /// # Panics
    /// If it has a connection.
    pub fn connect(&mut self, clean_start: bool, will: Option<&Will>) {
        assert!(self.wire.is_empty() && self.inbox.is_empty() && !self.is_let_in, "it has a connection");
        let terms = self.terms.clone();
        let is_v5 = terms.version == ProtocolVersion::V5;
        let is_clean = clean_start || terms.expiry_s == 0;
        self.is_durable = terms.expiry_s > 0 && (is_v5 || !is_clean);
        if is_clean {
            // Whether or not the broker ever hears of it.
            self.forget();
        }
        let (mut properties, mut of_will) = (PropertiesBuf::new(), PropertiesBuf::new());
        if is_v5 && terms.expiry_s > 0 {
            properties.push(Property::SessionExpiryInterval(terms.expiry_s));
        }
        if let Some(will) = will.filter(|will| is_v5 && will.delay_s > 0) {
            of_will.push(Property::WillDelayInterval(will.delay_s));
        }
        let will = will.map(|will| WillPacket {
            topic: TopicName::parse(&will.topic).expect("a name"),
            payload: will.text.as_bytes(),
            qos: quality(will.qos),
            retain: false,
            properties: of_will.as_properties(),
        });
        let connect = Connect {
            version: terms.version,
            clean: is_clean,
            keep_alive_s: terms.keep_alive_s,
            client_id: &terms.client_id,
            will,
            user_name: Some(&terms.token),
            password: None,
            properties: properties.as_properties(),
        };
        self.say(&Packet::Connect(connect));
    }

    /// What was on the way is lost; what the session remembers is not.
    pub fn lose_connection(&mut self) {
        self.is_let_in = false;
        if !self.is_durable {
            self.forget();
        }
        self.wire.clear();
        self.inbox.clear();
    }

    fn forget(&mut self) {
        self.unreleased.clear();
        self.is_subscribed = false;
    }

    /// Begins a message.
    pub fn publish(&mut self, message: Message) {
        let mut outgoing = Outgoing { id: 0, message, received: false };
        if outgoing.message.qos == 0 {
            return self.say_publish(&outgoing, false);
        }
        loop {
            self.next_id = self.next_id % 50 + 1;
            if self.outgoing.iter().all(|other| other.id != self.next_id) {
                break;
            }
        }
        outgoing.id = self.next_id;
        self.say_publish(&outgoing, false);
        self.outgoing.push_back(outgoing);
    }

    pub fn ping(&mut self) {
        self.say(&Packet::PingReq);
    }

    pub fn disconnect(&mut self) {
        let properties = Properties::EMPTY;
        self.say(&Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }));
    }

    /// Takes bytes off the wire towards the broker.
    pub fn say_up_to(&mut self, at_most: usize) -> Vec<u8> {
        let count = self.wire.len().min(at_most);
        self.wire.drain(..count).collect()
    }

    fn say_publish(&mut self, outgoing: &Outgoing, dup: bool) {
        let Message { topic, text, qos, retain } = &outgoing.message;
        let publish = Publish {
            dup,
            qos: quality(*qos),
            retain: *retain,
            topic: Some(TopicName::parse(topic).expect("a name")),
            packet_id: PacketId::new(outgoing.id),
            properties: Properties::EMPTY,
            payload: text.as_bytes(),
        };
        self.say(&Packet::Publish(publish));
    }

    fn say_subscribe(&mut self) {
        let filters = self.terms.filters.clone();
        let filters = filters
            .iter()
            .map(|(filter, qos)| (TopicFilter::parse(filter).expect("a filter"), options(*qos)))
            .collect();
        let packet_id = PacketId::new(SUBSCRIBE_ID).expect("not zero");
        self.say(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    fn say_ack(&mut self, kind: fn(Ack<'static>) -> Packet<'static>, id: u16) {
        let packet_id = PacketId::new(id).expect("not zero");
        self.say(&kind(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }));
    }

    fn say(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, self.terms.version, &mut bytes).expect("a packet of this version");
        self.wire.extend(bytes);
    }

    // ---- what it hears ------------------------------------------------------------------------------------

    /// Takes bytes from the broker.
    ///
    /// # Errors
    /// In words, what no broker may send.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, String> {
        self.inbox.extend(bytes);
        let version = self.terms.version;
        let mut heard = Vec::new();
        loop {
            let inbox = std::mem::take(&mut self.inbox);
            let header = parse_header(&inbox, version).map_err(|error| format!("the broker: {error}"))?;
            let Some(header) = header.filter(|header| header.frame_bytes() <= inbox.len()) else {
                self.inbox = inbox;
                return Ok(heard);
            };
            let (frame, rest) = inbox.split_at(header.frame_bytes());
            let packet = decode(header, &frame[header.header_bytes..], version)
                .map_err(|error| format!("the broker sent {frame:02x?}: {error}"))?;
            heard.extend(self.on_packet(&packet)?);
            self.inbox = rest.to_vec();
        }
    }

    fn on_packet(&mut self, packet: &Packet<'_>) -> Result<Option<Heard>, String> {
        Ok(match packet {
            Packet::ConnAck(connack) => Some(self.on_connack(connack)?),
            Packet::SubAck(suback) => {
                if let Some(refusal) = suback.reasons.iter().find(|reason| reason.is_error()) {
                    return Err(format!("a subscription was refused: {refusal}"));
                }
                self.is_subscribed = true;
                Some(Heard::Subscribed)
            }
            Packet::Publish(publish) => self.on_publish(publish)?,
            Packet::PubAck(ack) => Some(Heard::Taken(self.finish(ack, 1)?.ok_or("PUBACK for nothing")?)),
            Packet::PubRec(ack) => Some(self.on_pubrec(ack)?),
            Packet::PubRel(ack) => {
                let id = ack.packet_id.get();
                self.unreleased.remove(&id);
                self.say_ack(Packet::PubComp, id);
                None
            }
            // A release that was said twice is answered twice.
            Packet::PubComp(ack) => self.finish(ack, 2).map(|_| None)?,
            Packet::PingResp => Some(Heard::Pong),
            Packet::Disconnect(disconnect) => Some(Heard::Goodbye(disconnect.reason)),
            other => return Err(format!("no client is sent {other:?}")),
        })
    }

    fn on_connack(&mut self, connack: &ConnAck<'_>) -> Result<Heard, String> {
        if self.is_let_in {
            return Err("a second CONNACK".into());
        }
        if connack.reason != ReasonCode::Success {
            return Ok(Heard::Refused(connack.reason));
        }
        let session_present = connack.session_present;
        if session_present && !self.is_durable() {
            return Err("a session where none was to be [MQTT-3.2.2-2]".into());
        }
        self.is_let_in = true;
        if !session_present || !self.terms.trusts_sessions {
            // The broker knows nothing of this client: its half of the session begins anew as well.
            self.forget();
        }
        self.is_subscribed &= !self.terms.subscribes_again;
        self.send_again(session_present);
        if self.wants_to_subscribe() {
            self.say_subscribe();
        }
        Ok(Heard::LetIn { session_present, keep_alive_s: connack.properties.server_keep_alive_s() })
    }

    /// What has no answer is sent again, in order. [MQTT-4.4.0-1]
    fn send_again(&mut self, dup: bool) {
        let outgoing = std::mem::take(&mut self.outgoing);
        for message in &outgoing {
            if message.received {
                self.say_ack(Packet::PubRel, message.id);
            } else {
                self.say_publish(message, dup);
            }
        }
        self.outgoing = outgoing;
    }

    fn on_publish(&mut self, publish: &Publish<'_>) -> Result<Option<Heard>, String> {
        let message = Message {
            topic: publish.topic.ok_or("an alias nobody asked for")?.as_str().to_owned(),
            text: String::from_utf8(publish.payload.to_vec()).map_err(|_| "no text")?,
            qos: publish.qos as u8,
            retain: publish.retain,
        };
        let Some(id) = publish.packet_id.map(PacketId::get) else { return Ok(Some(Heard::Message(message))) };
        if publish.qos == QoS::AtLeastOnce {
            self.say_ack(Packet::PubAck, id);
            return Ok(Some(Heard::Message(message)));
        }
        self.say_ack(Packet::PubRec, id);
        if self.unreleased.insert(id) {
            return Ok(Some(Heard::Message(message)));
        }
        match publish.dup {
            true => Ok(None),
            false => Err(format!("the identifier {id} is in use [MQTT-2.2.1-4]")),
        }
    }

    fn on_pubrec(&mut self, ack: &Ack<'_>) -> Result<Heard, String> {
        let id = ack.packet_id.get();
        let outgoing = self.outgoing.iter_mut().find(|outgoing| outgoing.id == id);
        let outgoing = outgoing.ok_or_else(|| format!("PUBREC for {id}, which is not under way"))?;
        if outgoing.message.qos != 2 || ack.reason.is_error() {
            return Err(format!("PUBREC {} for {:?}", ack.reason, outgoing.message));
        }
        outgoing.received = true;
        let message = outgoing.message.clone();
        self.say_ack(Packet::PubRel, id);
        Ok(Heard::Taken(message))
    }

    fn finish(&mut self, ack: &Ack<'_>, qos: u8) -> Result<Option<Message>, String> {
        let id = ack.packet_id.get();
        let Some(at) = self.outgoing.iter().position(|outgoing| outgoing.id == id) else { return Ok(None) };
        if self.outgoing[at].message.qos != qos {
            return Err(format!("an answer to QoS {qos} for {:?}", self.outgoing[at].message));
        }
        if qos == 1 && ack.reason.is_error() {
            return Err(format!("{:?} was refused: {}", self.outgoing[at].message, ack.reason));
        }
        Ok(self.outgoing.remove(at).map(|outgoing| outgoing.message))
    }
}

fn options(qos: u8) -> SubscriptionOptions {
    SubscriptionOptions {
        qos: quality(qos),
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

fn quality(bits: u8) -> QoS {
    QoS::from_bits(bits).expect("a QoS")
}
