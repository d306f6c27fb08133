//! The packets we send.

use crate::{
    device_api::{downlink, gateway},
    ids::DeviceName,
    limits::{UPLINK_INCOMING_BYTES_MAX, UPLINK_OUTPUT_BYTES_MAX, UPLINK_PRESENCE_WINDOW},
    mqtt::{
        Ack, Connect, Disconnect, Packet, PacketId, Properties, PropertiesBuf, Property, ProtocolVersion,
        Publish, QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, TopicFilter, TopicName,
        encode,
    },
};

use super::{
    Link, Settings, Uplink,
    connection::{Naming, Phase},
    ending::{Blame, Pause},
    flight::Content,
    picking::{Bounds, Next, Parcel, Wait},
    uploader::Uploader,
};

/// CONNECT of a client that wants no session and no packet larger than we take.
pub(super) fn connect_bytes(
    version: ProtocolVersion,
    client_id: &str,
    keep_alive_s: u16,
    user_name: Option<&str>,
    password: Option<&str>,
) -> Vec<u8> {
    let mut properties = PropertiesBuf::new();
    if version == ProtocolVersion::V5 {
        properties.push(Property::MaximumPacketSize(UPLINK_INCOMING_BYTES_MAX as u32));
    }
    let connect = Packet::Connect(Connect {
        version,
        clean: true,
        keep_alive_s,
        client_id,
        will: None,
        user_name,
        // Before 5.0 there is no password without a user name. [MQTT-3.1.2-22]
        password: password
            .filter(|_| user_name.is_some() || version == ProtocolVersion::V5)
            .map(str::as_bytes),
        properties: properties.as_properties(),
    });
    let mut bytes = Vec::new();
    let written = encode(&connect, version, &mut bytes);
    written.expect("the configuration bounds names and tokens");
    bytes
}

impl Uplink {
    /// CONNECT: who we are, in the version whose turn it is.
    pub(super) fn greet(&mut self) {
        let version = self.versions.next(self.now.mono);
        let (user_name, password) = self.settings.mode.credentials();
        let Settings { client_id, keep_alive_s, .. } = &self.settings;
        let bytes = connect_bytes(version, client_id, *keep_alive_s, user_name, password);
        self.people.bytes_sent += bytes.len() as u64;
        self.output.push(&bytes);
        let since = self.now.mono;
        let until = since + self.uploader.flight.connack_timeout();
        self.link = Link::Greeting { since, until, version };
    }

    /// SUBSCRIBE to what the hub may send us. What we publish ourselves does not come back, and nothing that was kept.
    pub(super) fn send_subscribe(&mut self, packet_id: PacketId, filters: &[&'static str]) {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: true,
            retain_as_published: false,
            retain_handling: RetainHandling::DoNotSend,
        };
        let parsed = |text: &&'static str| (TopicFilter::parse(text).expect("a filter"), options);
        let filters = filters.iter().map(parsed).collect();
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    /// The question about our limits. Of QoS 0: whether it is acknowledged does not matter, and some hubs do not.
    pub(super) fn send_limits_request(&mut self) {
        self.pace.note_message(self.now.mono);
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(TopicName::parse(gateway::LIMITS_REQUEST_TOPIC).expect("a name")),
            packet_id: None,
            properties: Properties::EMPTY,
            payload: gateway::LIMITS_REQUEST,
        }));
    }

    /// PINGREQ.
    pub(super) fn send_ping(&mut self) {
        self.send(&Packet::PingReq);
        if let Link::Open(connection) = &mut self.link {
            connection.note_ping(self.now.mono);
        }
    }

    /// DISCONNECT: we go in peace.
    pub(super) fn send_disconnect(&mut self) {
        self.send(&Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            properties: Properties::EMPTY,
        }));
    }

    /// The answer to a message of the hub, or to a step of it.
    pub(super) fn acknowledge(&mut self, packet_id: PacketId, packet: fn(Ack<'static>) -> Packet<'static>) {
        self.send(&packet(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }));
    }

    /// Sends readings, and what is told beside them, for as long as window, rates and lanes allow.
    pub(super) fn send_readings(&mut self) {
        self.wait = Wait::default();
        loop {
            let waits_for_clock = self.waits_for_clock();
            let Link::Open(connection) = &self.link else { return };
            if connection.phase != Phase::Uploading {
                return;
            }
            let topic_bytes = self.settings.mode.topic_bytes_max();
            let bounds = connection.bounds(&self.settings, topic_bytes, waits_for_clock);
            let mut also = Wait::default();
            if self.send_answer(&bounds, &mut also) {
                continue;
            }
            let is_presence_first = !self.presence_had_turn && !self.pace.is_slowed();
            if is_presence_first && self.send_presence(&bounds, &mut also) {
                continue;
            }
            let made_room = self.uploader.makes_room();
            match self.uploader.next(&self.settings.mode, &bounds, &mut self.pace, self.now.mono) {
                Next::Announce(device) => self.send_announcement(device),
                Next::Send(parcel) => self.send_parcel(parcel),
                // What was put aside meanwhile may go.
                Next::Wait(_) if made_room && !self.uploader.makes_room() => {}
                Next::Wait(_) if !is_presence_first && self.send_presence(&bounds, &mut also) => continue,
                Next::Wait(mut wait) => {
                    also.until.into_iter().for_each(|at| wait.until(at));
                    self.wait = wait;
                    return;
                }
            }
            self.presence_had_turn = false;
        }
    }

    /// Sends an answer of a device to a command, if one waits and may go. Somebody waits for it, so it goes first.
    fn send_answer(&mut self, bounds: &Bounds, wait: &mut Wait) -> bool {
        let Some(answer) = self.queues.next_answer() else { return false };
        if bounds.payload_bytes_refused.is_some_and(|most| answer.len() > most) {
            self.queues.take_answer(true);
            self.tell(true, "an answer to a command is larger than the hub takes; it is dropped".to_owned());
            return true;
        }
        if !self.uploader.has_place_aside(bounds) {
            return false;
        }
        let ready = self.pace.message_ready_at(self.now.mono);
        if ready > self.now.mono {
            wait.until(ready);
            return false;
        }
        let Some(answer) = self.queues.take_answer(false) else { return false };
        self.send_message(downlink::RPC_TOPIC, &answer, Content::RpcAnswer);
        true
    }

    /// Tells the hub of a device that has come or gone, if there is one and it may be told. Readings need announcements
    /// as well and nobody waits for this, so half of what is allowed is left to them.
    fn send_presence(&mut self, bounds: &Bounds, wait: &mut Wait) -> bool {
        let now = self.now.mono;
        let Uploader { presence, flight, poison, .. } = &self.uploader;
        if !self.settings.mode.is_gateway() {
            return false;
        }
        let coming = presence.next_coming(|device| flight.announces(device));
        let may_go = coming.is_none() && self.uploader.has_read_everything();
        let going =
            may_go.then(|| presence.next_going(now, |device| self.uploader.may_hold(device))).flatten();
        if coming.is_none() && going.is_none() {
            presence.next_going_at(now).into_iter().for_each(|at| wait.until(at));
            return false;
        }
        let is_full = flight.presence_len() >= UPLINK_PRESENCE_WINDOW;
        if is_full || poison.is_judging() || !self.uploader.has_place_aside(bounds) {
            return false;
        }
        let ready = self.pace.spare_message_ready_at(now);
        if ready > now {
            wait.until(ready);
            return false;
        }
        self.presence_had_turn = true;
        match (coming, going) {
            (Some(device), _) => self.send_announcement(device),
            (None, Some(device)) => self.send_farewell(&device),
            (None, None) => return false,
        }
        true
    }

    fn send_farewell(&mut self, device: &DeviceName) {
        self.uploader.presence.note_leaving(device);
        let payload = gateway::presence_payload(device.as_str());
        self.send_message(gateway::DISCONNECT_TOPIC, &payload, Content::Farewell);
    }

    fn send_announcement(&mut self, device: DeviceName) {
        self.uploader.presence.note_announcing(&device);
        let payload = gateway::presence_payload(device.as_str());
        self.send_message(gateway::CONNECT_TOPIC, &payload, Content::Announcement(device));
    }

    /// Sends what is not readings.
    fn send_message(&mut self, topic: &str, payload: &str, content: Content) {
        let quiet = self.pace.note_message(self.now.mono);
        let packet_id = self.uploader.flight.next_id();
        self.uploader.flight.note_sent(packet_id, content, payload.len(), quiet, self.now.mono);
        self.send_publish(topic, packet_id, payload.as_bytes());
    }

    fn send_parcel(&mut self, parcel: Parcel) {
        let Parcel { device, lane, rows, points } = parcel;
        let payload = self.settings.mode.payload(&device, &rows);
        let topic = self.settings.mode.topic(&device);
        let quiet = self.pace.note_telemetry(&device, points, self.now.mono);
        let packet_id = self.uploader.flight.next_id();
        let content = Content::Readings { lane, rows };
        self.uploader.flight.note_sent(packet_id, content, payload.len(), quiet, self.now.mono);
        self.send_publish(&topic, packet_id, payload.as_bytes());
    }

    /// Sends what is noted as being on its way: if that ends the connection, it comes back with the rest.
    fn send_publish(&mut self, topic: &str, packet_id: PacketId, payload: &[u8]) {
        let Link::Open(connection) = &mut self.link else { return };
        let Ok(name) = TopicName::parse(topic) else {
            // Readings without a topic were set aside before.
            return self.lose("a message of ours has no topic", Blame::Link, Pause::BackOff);
        };
        let (alias, in_full) = match connection.naming(topic) {
            Naming::InFull => (None, true),
            Naming::Introduce(alias) => (Some(alias), true),
            Naming::ByNumber(alias) => (Some(alias), false),
        };
        let mut properties = PropertiesBuf::new();
        if let Some(alias) = alias {
            properties.push(Property::TopicAlias(alias));
        }
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: in_full.then_some(name),
            packet_id: Some(packet_id),
            properties: properties.as_properties(),
            payload,
        }));
    }

    /// Queues a packet for the connection there is.
    fn send(&mut self, packet: &Packet<'_>) {
        let Link::Open(connection) = &mut self.link else { return };
        self.encoded.clear();
        let written = encode(packet, connection.version, &mut self.encoded);
        written.expect("messages are far smaller than the protocol allows");
        connection.note_sent(self.now.mono);
        self.people.bytes_sent += self.encoded.len() as u64;
        self.output.push(&self.encoded);
        // Messages of ours are bounded by the flight; answers to the hub's are not.
        if self.output.len() > UPLINK_OUTPUT_BYTES_MAX {
            self.lose("the hub sends much and reads nothing", Blame::Link, Pause::BackOff);
        }
    }
}
