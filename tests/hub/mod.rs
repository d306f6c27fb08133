//! A small hub in memory that speaks MQTT with the crate's own codec and behaves as hubs do, the bad ones included.
//!
//! Pure: bytes and a time in, bytes and a verdict on the connection out. What it has taken it remembers in order, and
//! what a client of it must never do it writes down as a complaint.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use forebay::{
    clock::Mono,
    mqtt::{
        Ack, ConnAck, Connect, Disconnect, Packet, PacketId, PropertiesBuf, Property, ProtocolVersion,
        Publish, QoS, ReasonCode, SubAck, Subscribe, decode, encode, parse_header,
    },
};

/// How a hub behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    /// The token it lets in.
    pub token: String,
    /// Whether it has MQTT 5; without, it closes the connection, or says so in the form of 3.1.1.
    pub version_5: Version5,
    /// Receive Maximum, Maximum Packet Size, Server Keep Alive, Topic Alias Maximum: each left out if zero.
    pub receive_maximum: u16,
    pub packet_bytes_max: u32,
    pub server_keep_alive_s: u16,
    pub topic_alias_maximum: u16,
    /// Messages of telemetry and values it takes in each period, counted by a bucket that refills evenly.
    pub rates: Vec<HubRate>,
    /// What it does about too much.
    pub too_much: TooMuch,
    /// Whether 3.1.1 is told by a PUBACK like any other what is dropped, as by hubs from 4.2.1; else it is closed.
    pub lies_in_old_form: bool,
    /// Cannot keep telemetry for now, and does what it does about too much.
    pub is_failing: bool,
    /// Whether it answers the question for limits.
    pub tells_limits: bool,
    /// What it says it takes in one message.
    pub payload_bytes: usize,
    /// What it does with a value named `poison`.
    pub poison: OnPoison,
    /// Takes nothing at all: each message is treated as poison.
    pub takes_nothing: bool,
    /// Answers every message of telemetry with this, and takes none.
    pub refuses_with: Option<ReasonCode>,
    /// Acknowledges telemetry at all.
    pub acknowledges: bool,
    /// Of a hundred PUBACKs, how many are swallowed, and how many come twice.
    pub acks_swallowed: u64,
    pub acks_doubled: u64,
    /// Topic of readings when it is an ordinary broker; gateway topics otherwise.
    pub is_plain: bool,
    /// Takes whoever connects for this device, which sends its own readings.
    pub device: Option<String>,
    /// Messages that are not telemetry it takes in a period; told, and counted over any such period.
    pub message_rate: Option<(usize, Duration)>,
    /// What it does about a subscription to messages for a gateway's devices, and about being told that one is gone.
    pub downlink: OnDownlink,
    pub farewell: OnFarewell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDownlink {
    Grants,
    Refuses,
    Closes,
    /// No SUBACK, and no close.
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFarewell {
    Takes,
    /// PUBACK 0x87 in 5.0; before that, any PUBACK is a good one.
    Refuses,
    Closes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version5 {
    Spoken,
    ClosesWithoutAWord,
    RefusedInOldForm,
}

#[derive(Clone, Copy, Debug)]
pub struct HubRate {
    pub messages: bool,
    pub count: u32,
    pub period: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMuch {
    /// As hubs up to 4.2.0: closed, without a PUBACK; in 5.0 DISCONNECT 0x83 before.
    Closes,
    /// As hubs from 4.2.1: PUBACK 0x97, then closed.
    AnswersAndCloses,
    /// PUBACK 0x97, and the connection stays.
    Answers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPoison {
    /// PUBACK 0x99 in 5.0; 3.1.1 is closed.
    Says,
    /// Closed without a word.
    Closes,
    /// No PUBACK, and no close.
    Hangs,
}

impl Manners {
    pub fn good() -> Self {
        Self {
            token: "TOKEN".to_owned(),
            version_5: Version5::Spoken,
            receive_maximum: 0,
            packet_bytes_max: 0,
            server_keep_alive_s: 0,
            topic_alias_maximum: 0,
            rates: Vec::new(),
            too_much: TooMuch::Closes,
            lies_in_old_form: false,
            is_failing: false,
            tells_limits: true,
            payload_bytes: 65_536,
            poison: OnPoison::Says,
            takes_nothing: false,
            refuses_with: None,
            acknowledges: true,
            acks_swallowed: 0,
            acks_doubled: 0,
            is_plain: false,
            device: None,
            message_rate: None,
            downlink: OnDownlink::Grants,
            farewell: OnFarewell::Takes,
        }
    }
}

/// A reading as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub device: String,
    pub ts: i64,
    pub values: String,
}

/// The hub, all its connections over time.
#[derive(Debug)]
pub struct Hub {
    pub manners: Manners,
    /// Everything taken, in order, repeats included.
    pub arrivals: Vec<Arrival>,
    /// Messages of telemetry taken, and refused or closed for.
    pub messages: u64,
    pub refusals: u64,
    /// What no client may do.
    pub complaints: Vec<String>,
    pub connects: Vec<ProtocolVersion>,
    /// Whether keep-alive can be judged: on a slow link bytes are on their way that it does not see.
    pub minds_silence: bool,
    /// Whether readings of a device that was not announced are a fault.
    pub minds_announcements: bool,
    pub pings: u64,
    /// Messages answered with a PUBACK of a good code, by connection and identifier.
    pub good_acks: u64,
    /// What it was told of devices, over all connections: who came and who went.
    pub told: Vec<(String, bool)>,
    /// Answers of devices to commands.
    pub answers: Vec<String>,
    /// Of its own messages, how many were acknowledged.
    pub own_acks: u64,
    messages_at: Vec<Mono>,
    buckets: Vec<(f64, Mono)>,
    chance: u64,
}

/// One connection to it.
#[derive(Debug)]
pub struct HubConnection {
    incoming: Vec<u8>,
    version: Option<ProtocolVersion>,
    /// Devices it takes for connected.
    pub announced: BTreeSet<String>,
    aliases: BTreeMap<u16, String>,
    pub subscribed: bool,
    /// Whether messages for devices are wanted.
    pub wants_downlink: bool,
    unanswered: usize,
    last_packet: Mono,
    keep_alive: Duration,
}

/// What the hub does about bytes.
#[derive(Debug, Default)]
pub struct Reaction {
    pub bytes: Vec<u8>,
    pub closes: bool,
}

impl Hub {
    /// What it keeps, as hubs do: one value for a device, a key and a time; what comes later takes the place.
    pub fn kept(&self) -> BTreeMap<(String, String, i64), serde_json::Value> {
        let mut kept = BTreeMap::new();
        for Arrival { device, ts, values } in &self.arrivals {
            let values: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(values).expect("an object");
            kept.extend(values.into_iter().map(|(key, value)| ((device.clone(), key, *ts), value)));
        }
        kept
    }

    pub fn new(manners: Manners, seed: u64) -> Self {
        Self {
            manners,
            arrivals: Vec::new(),
            messages: 0,
            refusals: 0,
            complaints: Vec::new(),
            connects: Vec::new(),
            minds_silence: true,
            minds_announcements: true,
            pings: 0,
            good_acks: 0,
            told: Vec::new(),
            answers: Vec::new(),
            own_acks: 0,
            messages_at: Vec::new(),
            buckets: Vec::new(),
            chance: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// Somebody connects.
    pub fn accept(&self, now: Mono) -> HubConnection {
        HubConnection {
            incoming: Vec::new(),
            version: None,
            announced: BTreeSet::new(),
            aliases: BTreeMap::new(),
            subscribed: false,
            wants_downlink: false,
            unanswered: 0,
            last_packet: now,
            keep_alive: Duration::from_secs(1 << 32),
        }
    }

    /// Bytes come.
    pub fn receive(&mut self, connection: &mut HubConnection, bytes: &[u8], now: Mono) -> Reaction {
        let mut reaction = Reaction::default();
        if self.minds_silence && now.since(connection.last_packet) > connection.keep_alive * 3 / 2 {
            self.complain(format!("silent for {:?}", now.since(connection.last_packet)));
        }
        connection.last_packet = now;
        connection.incoming.extend_from_slice(bytes);
        let incoming = std::mem::take(&mut connection.incoming);
        let mut start = 0;
        while !reaction.closes {
            let version = connection.version.unwrap_or(ProtocolVersion::V5);
            let Some(header) = parse_header(&incoming[start..], version).expect("well-formed") else { break };
            let Some(frame) = incoming.get(start..start + header.frame_bytes()) else { break };
            let is_told = version == ProtocolVersion::V5 && self.manners.packet_bytes_max > 0;
            if is_told && frame.len() > self.manners.packet_bytes_max as usize {
                self.complain(format!("a packet of {} bytes", frame.len()));
            }
            let packet = decode(header, &frame[header.header_bytes..], version).expect("well-formed");
            self.on_packet(connection, &packet, now, &mut reaction);
            start += header.frame_bytes();
        }
        connection.incoming = incoming[start..].to_vec();
        reaction
    }

    fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    fn on_packet(
        &mut self,
        connection: &mut HubConnection,
        packet: &Packet<'_>,
        now: Mono,
        reaction: &mut Reaction,
    ) {
        let Some(version) = connection.version else {
            let Packet::Connect(connect) = packet else { panic!("{packet:?} before CONNECT") };
            return self.on_connect(connection, connect, reaction);
        };
        match packet {
            Packet::Publish(publish) => self.on_publish(connection, publish, version, now, reaction),
            Packet::Subscribe(subscribe) => self.on_subscribe(connection, subscribe, version, reaction),
            Packet::PingReq => {
                self.pings += 1;
                say(&Packet::PingResp, version, reaction);
            }
            Packet::Disconnect(_) => reaction.closes = true,
            Packet::PubAck(_) => self.own_acks += 1,
            other => panic!("{other:?}"),
        }
    }

    fn on_subscribe(
        &mut self,
        connection: &mut HubConnection,
        subscribe: &Subscribe<'_>,
        version: ProtocolVersion,
        reaction: &mut Reaction,
    ) {
        let filters: Vec<_> = subscribe.filters.iter().map(|(filter, _)| filter.as_str()).collect();
        let mut reason = ReasonCode::GrantedQoS1;
        match filters[..] {
            ["v1/devices/me/rpc/response/+"] => connection.subscribed = true,
            ["v1/gateway/attributes", "v1/gateway/rpc"] if self.manners.device.is_none() => {
                match self.manners.downlink {
                    OnDownlink::Grants => connection.wants_downlink = true,
                    OnDownlink::Refuses => reason = ReasonCode::NotAuthorized,
                    OnDownlink::Closes => return reaction.closes = true,
                    OnDownlink::Hangs => return,
                }
            }
            _ => self.complain(format!("a subscription to {filters:?}")),
        }
        let (packet_id, properties) = (subscribe.packet_id, forebay::mqtt::Properties::EMPTY);
        let reasons = vec![reason; filters.len()];
        say(&Packet::SubAck(SubAck { packet_id, properties, reasons }), version, reaction);
    }

    /// A message of the hub's own, of QoS 1.
    pub fn sends(&self, connection: &HubConnection, topic: &str, payload: &str) -> Vec<u8> {
        assert!(connection.wants_downlink, "nobody has asked for it");
        let message = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Some(forebay::mqtt::TopicName::parse(topic).expect("a name")),
            packet_id: PacketId::new(77),
            properties: forebay::mqtt::Properties::EMPTY,
            payload: payload.as_bytes(),
        };
        let mut reaction = Reaction::default();
        say(&Packet::Publish(message), connection.version.expect("let in"), &mut reaction);
        reaction.bytes
    }

    fn note_message(&mut self, now: Mono) {
        let Some((count, period)) = self.manners.message_rate else { return };
        self.messages_at.retain(|at| now.since(*at) < period);
        self.messages_at.push(now);
        if self.messages_at.len() > count {
            self.complain(format!("{} messages in {period:?}", self.messages_at.len()));
        }
    }

    fn on_connect(&mut self, connection: &mut HubConnection, connect: &Connect<'_>, reaction: &mut Reaction) {
        self.connects.push(connect.version);
        if connect.version == ProtocolVersion::V5 {
            match self.manners.version_5 {
                Version5::Spoken => {}
                Version5::ClosesWithoutAWord => return reaction.closes = true,
                Version5::RefusedInOldForm => {
                    reaction.bytes.extend([0x20, 2, 0, 1]);
                    return reaction.closes = true;
                }
            }
        }
        connection.version = Some(connect.version);
        let is_let_in = connect.user_name == Some(self.manners.token.as_str());
        let mut granted = PropertiesBuf::new();
        let version_5 = connect.version == ProtocolVersion::V5;
        if is_let_in && version_5 {
            let m = &self.manners;
            if m.receive_maximum > 0 {
                granted.push(Property::ReceiveMaximum(m.receive_maximum));
            }
            if m.packet_bytes_max > 0 {
                granted.push(Property::MaximumPacketSize(m.packet_bytes_max));
            }
            if m.server_keep_alive_s > 0 {
                granted.push(Property::ServerKeepAlive(m.server_keep_alive_s));
            }
            if m.topic_alias_maximum > 0 {
                granted.push(Property::TopicAliasMaximum(m.topic_alias_maximum));
            }
        }
        let keep_alive_s = match (version_5, self.manners.server_keep_alive_s) {
            (true, seconds) if seconds > 0 => seconds,
            _ => connect.keep_alive_s,
        };
        connection.keep_alive = Duration::from_secs(keep_alive_s.into());
        let reason = match (is_let_in, version_5) {
            (true, _) => ReasonCode::Success,
            (false, true) => ReasonCode::BadUserNameOrPassword,
            (false, false) => ReasonCode::NotAuthorized,
        };
        let connack = ConnAck { session_present: false, reason, properties: granted.as_properties() };
        say(&Packet::ConnAck(connack), connect.version, reaction);
        reaction.closes = !is_let_in;
    }

    fn on_publish(
        &mut self,
        connection: &mut HubConnection,
        publish: &Publish<'_>,
        version: ProtocolVersion,
        now: Mono,
        reaction: &mut Reaction,
    ) {
        let topic = self.topic_of(connection, publish);
        match topic.as_str() {
            "v1/devices/me/rpc/request/1" => {
                if self.manners.tells_limits && connection.subscribed {
                    self.tell_limits(version, reaction);
                }
            }
            "v1/gateway/connect" if !self.manners.is_plain => {
                let said: serde_json::Value = serde_json::from_slice(publish.payload).expect("JSON");
                let device = said["device"].as_str().expect("a name").to_owned();
                self.note_message(now);
                self.told.push((device.clone(), true));
                if !connection.announced.insert(device.clone()) {
                    self.complain(format!("{device} announced twice"));
                }
                self.acknowledge(publish.packet_id.expect("QoS 1"), ReasonCode::Success, version, reaction);
            }
            "v1/gateway/disconnect" if !self.manners.is_plain => {
                self.note_message(now);
                self.on_farewell(connection, publish, version, reaction);
            }
            "v1/gateway/rpc" if !self.manners.is_plain => {
                self.note_message(now);
                self.answers.push(String::from_utf8(publish.payload.to_vec()).expect("text"));
                self.acknowledge(publish.packet_id.expect("QoS 1"), ReasonCode::Success, version, reaction);
            }
            "v1/devices/me/telemetry" if self.manners.device.is_some() => {
                let device = self.manners.device.clone().expect("just looked at");
                let readings = list_of(&device, publish.payload);
                self.on_telemetry(publish, readings, version, now, connection, reaction);
            }
            other if self.manners.device.is_some() => {
                self.complain(format!("a device's message on {other}"));
            }
            "v1/gateway/telemetry" if !self.manners.is_plain => {
                let readings = readings_of(publish.payload);
                let devices: BTreeSet<_> = readings.iter().map(|reading| &reading.device).collect();
                if devices.len() != 1 {
                    self.complaints.push(format!("{} devices in one message", devices.len()));
                }
                for device in devices {
                    if self.minds_announcements && !connection.announced.contains(device) {
                        self.complaints.push(format!("{device} sends before it is announced"));
                    }
                }
                self.on_telemetry(publish, readings, version, now, connection, reaction);
            }
            other if self.manners.is_plain => {
                let device = other.strip_prefix("site/").expect("the topic of the tests").to_owned();
                let readings = list_of(&device, publish.payload);
                self.on_telemetry(publish, readings, version, now, connection, reaction);
            }
            other => self.complain(format!("a message on {other}")),
        }
    }

    fn on_farewell(
        &mut self,
        connection: &mut HubConnection,
        publish: &Publish<'_>,
        version: ProtocolVersion,
        reaction: &mut Reaction,
    ) {
        let said: serde_json::Value = serde_json::from_slice(publish.payload).expect("JSON");
        let device = said["device"].as_str().expect("a name").to_owned();
        if !connection.announced.remove(&device) {
            self.complain(format!("{device} is gone and was not there"));
        }
        self.told.push((device, false));
        let reason = match self.manners.farewell {
            OnFarewell::Closes => return reaction.closes = true,
            OnFarewell::Refuses if version == ProtocolVersion::V5 => ReasonCode::NotAuthorized,
            OnFarewell::Takes | OnFarewell::Refuses => ReasonCode::Success,
        };
        self.acknowledge(publish.packet_id.expect("QoS 1"), reason, version, reaction);
    }

    fn topic_of(&mut self, connection: &mut HubConnection, publish: &Publish<'_>) -> String {
        let Some(alias) = publish.properties.topic_alias() else {
            return publish.topic.expect("a topic or an alias").as_str().to_owned();
        };
        if alias > self.manners.topic_alias_maximum {
            self.complain(format!("topic alias {alias}"));
        }
        if let Some(topic) = publish.topic {
            connection.aliases.insert(alias, topic.as_str().to_owned());
        }
        connection.aliases[&alias].clone()
    }

    fn on_telemetry(
        &mut self,
        publish: &Publish<'_>,
        readings: Vec<Arrival>,
        version: ProtocolVersion,
        now: Mono,
        connection: &mut HubConnection,
        reaction: &mut Reaction,
    ) {
        assert_eq!(publish.qos, QoS::AtLeastOnce);
        let packet_id = publish.packet_id.expect("QoS 1");
        if readings.is_empty() {
            self.complain("an empty list".to_owned());
        }
        if std::env::var("TRACE").is_ok() {
            println!(
                "{:.3} {} {} rows {:?} .. {:?}",
                now.0 as f64 / 1e6,
                readings[0].device,
                readings.len(),
                readings[0].values,
                readings.last().map(|r| r.values.clone())
            );
        }
        let is_poison = readings.iter().any(|reading| reading.values.contains("poison"));
        if is_poison || self.manners.takes_nothing {
            self.refusals += 1;
            match self.manners.poison {
                OnPoison::Says if version == ProtocolVersion::V5 => {
                    self.acknowledge(packet_id, ReasonCode::PayloadFormatInvalid, version, reaction);
                }
                OnPoison::Hangs => connection.unanswered += 1,
                OnPoison::Says | OnPoison::Closes => reaction.closes = true,
            }
            return;
        }
        if let Some(reason) = self.manners.refuses_with {
            self.refusals += 1;
            return self.acknowledge(packet_id, reason, version, reaction);
        }
        if self.manners.is_failing {
            self.refusals += 1;
            return self.drop_one(packet_id, ReasonCode::UnspecifiedError, version, reaction);
        }
        let points = readings.iter().map(|reading| reading.values.matches(':').count() as u32).sum();
        if !self.takes_at_this_rate(points, now) {
            self.refusals += 1;
            return self.drop_one(packet_id, ReasonCode::QuotaExceeded, version, reaction);
        }
        self.messages += 1;
        self.arrivals.extend(readings);
        if !self.manners.acknowledges || self.draw(100) < self.manners.acks_swallowed {
            connection.unanswered += 1;
            return;
        }
        self.acknowledge(packet_id, ReasonCode::Success, version, reaction);
        if self.draw(100) < self.manners.acks_doubled {
            self.acknowledge(packet_id, ReasonCode::Success, version, reaction);
        }
    }

    fn drop_one(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        version: ProtocolVersion,
        reaction: &mut Reaction,
    ) {
        let is_old = version < ProtocolVersion::V5;
        let too_much =
            if is_old && !self.manners.lies_in_old_form { TooMuch::Closes } else { self.manners.too_much };
        if too_much != TooMuch::Closes {
            // In 3.1.1 there is no room for the reason.
            self.acknowledge(packet_id, reason, version, reaction);
        } else if !is_old && reason == ReasonCode::QuotaExceeded {
            let (reason, properties) =
                (ReasonCode::ImplementationSpecificError, forebay::mqtt::Properties::EMPTY);
            say(&Packet::Disconnect(Disconnect { reason, properties }), version, reaction);
        }
        reaction.closes |= too_much != TooMuch::Answers;
    }

    fn acknowledge(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        version: ProtocolVersion,
        reaction: &mut Reaction,
    ) {
        self.good_acks += u64::from(!reason.is_error());
        let properties = forebay::mqtt::Properties::EMPTY;
        say(&Packet::PubAck(Ack { packet_id, reason, properties }), version, reaction);
    }

    fn tell_limits(&mut self, version: ProtocolVersion, reaction: &mut Reaction) {
        let list = |messages: bool| {
            let of_kind = self.manners.rates.iter().filter(|rate| rate.messages == messages);
            let texts: Vec<_> =
                of_kind.map(|rate| format!("{}:{}", rate.count, rate.period.as_secs())).collect();
            texts.join(",")
        };
        let messages = self
            .manners
            .message_rate
            .map_or("null".to_owned(), |(count, period)| format!("\"{count}:{}\"", period.as_secs()));
        let rates = format!(
            r#"{{"messages":{messages},"telemetryMessages":"{}","telemetryDataPoints":"{}"}}"#,
            list(true),
            list(false)
        );
        // A device is told its own rates, a gateway those of its devices as well.
        let rates = match self.manners.device {
            Some(_) => format!(r#""rateLimits":{rates}"#),
            None => format!(r#""rateLimits":{{}},"gatewayRateLimits":{rates}"#),
        };
        let payload = format!(
            r#"{{"maxPayloadSize":{},"maxInflightMessages":100,{rates}}}"#,
            self.manners.payload_bytes
        );
        let answer = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Some(forebay::mqtt::TopicName::parse("v1/devices/me/rpc/response/1").expect("a name")),
            packet_id: PacketId::new(1),
            properties: forebay::mqtt::Properties::EMPTY,
            payload: payload.as_bytes(),
        };
        say(&Packet::Publish(answer), version, reaction);
    }

    /// Buckets that refill evenly, as the hub's do.
    fn takes_at_this_rate(&mut self, points: u32, now: Mono) -> bool {
        let rates = &self.manners.rates;
        self.buckets.resize(rates.len(), (f64::MAX, now));
        for (rate, (level, at)) in rates.iter().zip(&mut self.buckets) {
            let refill = now.since(*at).as_secs_f64() / rate.period.as_secs_f64() * f64::from(rate.count);
            *level = (*level + refill).min(rate.count.into());
            *at = now;
        }
        let cost = |rate: &HubRate| if rate.messages { 1.0 } else { f64::from(points) };
        if rates.iter().zip(&self.buckets).any(|(rate, (level, _))| *level < cost(rate)) {
            return false;
        }
        for (rate, (level, _)) in rates.iter().zip(&mut self.buckets) {
            *level -= cost(rate);
        }
        true
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        (self.chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound
    }
}

fn say(packet: &Packet<'_>, version: ProtocolVersion, reaction: &mut Reaction) {
    encode(packet, version, &mut reaction.bytes).expect("small");
}

#[derive(serde::Deserialize)]
struct Entry {
    ts: i64,
    values: Box<serde_json::value::RawValue>,
}

/// The readings of a message that does not say whose they are.
fn list_of(device: &str, payload: &[u8]) -> Vec<Arrival> {
    readings_of(format!("{{{:?}:{}}}", device, String::from_utf8_lossy(payload)).as_bytes())
}

/// The readings of a message, in order.
fn readings_of(payload: &[u8]) -> Vec<Arrival> {
    let devices: BTreeMap<String, Vec<Entry>> = serde_json::from_slice(payload).expect("a message");
    let entries =
        devices.into_iter().flat_map(|(device, list)| list.into_iter().map(move |e| (device.clone(), e)));
    entries
        .map(|(device, Entry { ts, values })| Arrival { device, ts, values: values.get().to_owned() })
        .collect()
}
