//! The packets we send.

use crate::{
    device_api::gateway,
    ids::DeviceName,
    limits::{UPLINK_INCOMING_BYTES_MAX, UPLINK_OUTPUT_BYTES_MAX},
    mqtt::{
        Ack, Connect, Disconnect, Packet, PacketId, Properties, PropertiesBuf, Property, ProtocolVersion,
        Publish, QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, TopicFilter, TopicName,
        encode,
    },
};

use super::{
    Link, Uplink,
    connection::{Naming, Phase},
    ending::{Blame, Pause},
    flight::Content,
    picking::{Next, Parcel, Wait},
};

impl Uplink {
    /// CONNECT: who we are, in the version whose turn it is.
    pub(super) fn greet(&mut self) {
        let version = self.versions.next(self.now.mono);
        let (user_name, password) = self.settings.mode.credentials();
        let mut properties = PropertiesBuf::new();
        if version == ProtocolVersion::V5 {
            properties.push(Property::MaximumPacketSize(UPLINK_INCOMING_BYTES_MAX as u32));
        }
        let connect = Packet::Connect(Connect {
            version,
            clean: true,
            keep_alive_s: self.settings.keep_alive_s,
            client_id: &self.settings.client_id,
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
        self.people.bytes_sent += bytes.len() as u64;
        self.output.push(&bytes);
        let until = self.now.mono + self.uploader.flight.ack_timeout();
        self.link = Link::Greeting { until, version };
    }

    /// SUBSCRIBE to the answer about our limits.
    pub(super) fn send_subscribe(&mut self, packet_id: PacketId) {
        let filter = TopicFilter::parse(gateway::ANSWERS_FILTER).expect("a filter");
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let filters = vec![(filter, options)];
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

    /// Sends readings for as long as window, rates and lanes allow.
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
            match self.uploader.next(&self.settings.mode, &bounds, &mut self.pace, self.now.mono) {
                Next::Announce(device) => self.send_announcement(device),
                Next::Send(parcel) => self.send_parcel(parcel),
                Next::Wait(wait) => {
                    self.wait = wait;
                    return;
                }
            }
        }
    }

    fn send_announcement(&mut self, device: DeviceName) {
        let payload = gateway::presence_payload(device.as_str());
        let quiet = self.pace.note_message(self.now.mono);
        let packet_id = self.uploader.flight.next_id();
        self.send_publish(gateway::CONNECT_TOPIC, packet_id, payload.as_bytes());
        let content = Content::Announcement(device);
        self.uploader.flight.note_sent(packet_id, content, payload.len(), quiet, self.now.mono);
    }

    fn send_parcel(&mut self, parcel: Parcel) {
        let Parcel { device, lane, rows, points } = parcel;
        let payload = self.settings.mode.payload(&device, &rows);
        let topic = self.settings.mode.topic(&device);
        let quiet = self.pace.note_telemetry(&device, points, self.now.mono);
        let packet_id = self.uploader.flight.next_id();
        self.send_publish(&topic, packet_id, payload.as_bytes());
        let content = Content::Readings { lane, rows };
        self.uploader.flight.note_sent(packet_id, content, payload.len(), quiet, self.now.mono);
    }

    fn send_publish(&mut self, topic: &str, packet_id: PacketId, payload: &[u8]) {
        let Link::Open(connection) = &mut self.link else { return };
        let (alias, in_full) = match connection.naming(topic) {
            Naming::InFull => (None, true),
            Naming::Introduce(alias) => (Some(alias), true),
            Naming::ByNumber(alias) => (Some(alias), false),
        };
        let mut properties = PropertiesBuf::new();
        if let Some(alias) = alias {
            properties.push(Property::TopicAlias(alias));
        }
        let topic = TopicName::parse(topic).expect("the configuration and device names hold no wildcards");
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: in_full.then_some(topic),
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
