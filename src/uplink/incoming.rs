//! The packets the hub sends.

use crate::{
    device_api::{
        downlink,
        gateway::{self, SessionLimits},
    },
    limits::{
        UPLINK_GAP_DOUBTED, UPLINK_GAP_MAX, UPLINK_INCOMING_BYTES_MAX, UPLINK_LIMITS_WAIT,
        UPLINK_PAYLOAD_BYTES_MIN, UPLINK_TAKEOVER_WAIT,
    },
    mqtt::{
        Ack, ConnAck, Disconnect, Header, Packet, PacketType, ProtocolVersion, Publish, QoS, ReasonCode,
        SubAck, decode, parse_header,
    },
};

use super::{
    Link, Uplink,
    connection::{Connection, Phase},
    ending::{Blame, Pause},
    failure::fit_for_people,
    flight::{Content, InFlight},
    poison::Refusal,
};

impl Uplink {
    /// Takes bytes apart into packets; the beginning of one is kept.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if self.version().is_none() {
            return;
        }
        if let Link::Open(connection) = &mut self.link {
            connection.note_received(self.now.mono);
        }
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(taken) = self.receive_packet(&incoming[start..]) {
            start += taken;
        }
        if self.version().is_some() && start < incoming.len() {
            incoming.drain(..start);
            self.incoming = incoming;
        }
    }

    /// Takes one packet, and tells how many bytes it had; `None` if there is none yet, or nobody to take it.
    fn receive_packet(&mut self, bytes: &[u8]) -> Option<usize> {
        let version = self.version()?;
        let header = match parse_header(bytes, version) {
            Ok(header) => header?,
            Err(error) => {
                self.lose_for_nonsense(&error.to_string());
                return None;
            }
        };
        if header.frame_bytes() > UPLINK_INCOMING_BYTES_MAX {
            let size = header.frame_bytes();
            self.lose_for_nonsense(&format!("a packet of {size} bytes, of which we take fewer"));
            return None;
        }
        let body = bytes.get(header.header_bytes..header.frame_bytes())?;
        match decode(header, body, answer_version(header, version)) {
            Ok(packet) => self.on_packet(&packet),
            Err(error) => self.lose_for_nonsense(&error.to_string()),
        }
        Some(header.frame_bytes())
    }

    fn on_packet(&mut self, packet: &Packet<'_>) {
        match (&self.link, packet) {
            (Link::Greeting { version, since, .. }, Packet::ConnAck(connack)) => {
                self.uploader.flight.note_small_answer(self.now.mono.since(*since));
                self.on_connack(connack, *version);
            }
            (Link::Open(_), Packet::Publish(publish)) => self.on_publish(publish),
            (Link::Open(_), Packet::PubAck(ack)) => self.on_puback(ack),
            (Link::Open(_), Packet::PubRel(ack)) => self.acknowledge(ack.packet_id, Packet::PubComp),
            (Link::Open(_), Packet::SubAck(suback)) => self.on_suback(suback),
            (Link::Open(_), Packet::PingResp) => {
                if let Link::Open(connection) = &mut self.link
                    && let Some(took) = connection.on_pingresp(self.now.mono)
                {
                    self.uploader.flight.note_small_answer(took);
                }
            }
            (_, Packet::Disconnect(disconnect)) => self.on_disconnect(disconnect),
            // We send nothing of QoS 2 and unsubscribe from nothing: late nonsense does no harm.
            (Link::Open(_), Packet::PubRec(_) | Packet::PubComp(_) | Packet::UnsubAck(_)) => {}
            (_, other) => self.lose_for_nonsense(&format!("{} where it has no place", other.packet_type())),
        }
    }

    // ---- being let in -----------------------------------------------------------------------------------

    fn on_connack(&mut self, connack: &ConnAck<'_>, version: ProtocolVersion) {
        let words = with_reason("the hub", connack.reason, connack.properties.reason_string());
        match connack.reason {
            ReasonCode::Success => self.on_let_in(connack, version),
            ReasonCode::UnsupportedProtocolVersion => {
                self.versions.on_refused(version);
                self.lose(&words, Blame::Link, Pause::BackOff);
            }
            ReasonCode::BadUserNameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::ClientIdentifierNotValid
            | ReasonCode::Banned
            | ReasonCode::BadAuthenticationMethod => {
                self.versions.on_answer(version, self.now.mono);
                let alarm = format!("{words}: it does not accept our access token or user name");
                self.refuse(alarm, true);
            }
            _ => self.lose(&words, Blame::Link, Pause::BackOff),
        }
    }

    fn on_let_in(&mut self, connack: &ConnAck<'_>, version: ProtocolVersion) {
        if !self.versions.on_answer(version, self.now.mono) {
            let words = "the hub is there in MQTT 3.1.1, which hides what it refuses: 5.0 is tried once more";
            return self.lose(words, Blame::Link, Pause::BackOff);
        }
        let connection = match Connection::new(connack, version, &self.settings, self.now.mono) {
            Ok(connection) => connection,
            Err(words) => return self.refuse(words.to_owned(), true),
        };
        self.people.connections += 1;
        if self.people.alarm.as_ref().is_some_and(|alarm| alarm.over_when_let_in) {
            self.people.alarm = None;
        }
        self.link = Link::Open(Box::new(connection));
        self.clock_wait.on_let_in(self.now.mono);
        let backlog = self.backlog_words();
        self.tell(false, format!("the hub has let us in (MQTT level {}), {backlog}", version.level()));
        self.queues.open();
        if self.settings.mode.asks_for_limits() && self.ended_asking < 2 {
            self.ask_for_limits();
        } else {
            self.begin_uploading();
        }
    }

    /// Readings may go, and a gateway asks for what comes the other way.
    pub(super) fn begin_uploading(&mut self) {
        let Link::Open(connection) = &mut self.link else { return };
        connection.phase = Phase::Uploading;
        self.uploader.open();
        if !self.settings.mode.is_gateway() {
            return;
        }
        if self.ended_subscribing >= 2 {
            self.ended_subscribing = 0;
            let what = "attributes and commands for devices do not come";
            return self.tell(true, format!("the hub seems to end connections for a subscription; {what}"));
        }
        let packet_id = self.uploader.flight.spend_id();
        connection.subscribing = Some(packet_id);
        connection.doubts_subscription = true;
        self.send_subscribe(packet_id, &[downlink::ATTRIBUTES_TOPIC, downlink::RPC_TOPIC]);
    }

    fn ask_for_limits(&mut self) {
        let packet_id = self.uploader.flight.spend_id();
        let until = self.now.mono + UPLINK_LIMITS_WAIT;
        if let Link::Open(connection) = &mut self.link {
            connection.phase = Phase::Asking { until, subscribing: Some(packet_id) };
        }
        self.send_subscribe(packet_id, &[gateway::ANSWERS_FILTER]);
    }

    fn on_suback(&mut self, suback: &SubAck<'_>) {
        let Link::Open(connection) = &mut self.link else { return };
        if connection.subscribing == Some(suback.packet_id) {
            connection.subscribing = None;
            connection.doubts_subscription = false;
            return self.on_downlink_suback(suback);
        }
        let Phase::Asking { until, subscribing } = connection.phase else { return };
        if subscribing != Some(suback.packet_id) {
            return;
        }
        if suback.reasons.iter().any(|reason| reason.is_error()) {
            // Nobody will tell us: readings go without knowing.
            return self.begin_uploading();
        }
        connection.phase = Phase::Asking { until, subscribing: None };
        self.send_limits_request();
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => self.acknowledge(packet_id, Packet::PubAck),
            (QoS::ExactlyOnce, Some(packet_id)) => self.acknowledge(packet_id, Packet::PubRec),
            _ => {}
        }
        match publish.topic.map(|topic| topic.as_str()) {
            Some(gateway::LIMITS_ANSWER_TOPIC) => self.on_limits(publish.payload),
            _ => self.on_downlink(publish),
        }
    }

    fn on_limits(&mut self, payload: &[u8]) {
        let Some(limits) = SessionLimits::parse(payload) else { return };
        let Link::Open(connection) = &mut self.link else { return };
        if let Some(bytes) = limits.payload_bytes.filter(|bytes| *bytes < UPLINK_PAYLOAD_BYTES_MIN) {
            // Else one wrong number at the hub would reject everything that waits.
            return self
                .refuse(format!("the hub says that it takes messages of {bytes} bytes at most"), false);
        }
        self.pace.learn(&limits);
        connection.learn(limits);
        self.ended_asking = 0;
        if connection.phase != Phase::Uploading {
            self.begin_uploading();
        }
    }

    // ---- what becomes of messages -----------------------------------------------------------------------

    fn on_puback(&mut self, ack: &Ack<'_>) {
        if let Link::Open(connection) = &mut self.link {
            connection.doubts_subscription = false;
        }
        let Some(message) = self.uploader.flight.take(ack.packet_id) else { return };
        let words = with_reason("the hub", ack.reason, ack.properties.reason_string());
        match ack.reason {
            reason if !reason.is_error() => self.on_taken(message),
            _ if matches!(message.content, Content::Farewell | Content::RpcAnswer) => {
                self.on_aside_refused(&message, ack.reason, &words);
            }
            ReasonCode::NotAuthorized | ReasonCode::TopicNameInvalid => {
                self.uploader.send_again(message);
                let what = self.settings.mode.when_it_takes_nothing();
                self.refuse(format!("{words}: {what}"), false);
            }
            ReasonCode::QuotaExceeded => {
                self.pace.slow_down(UPLINK_GAP_MAX);
                self.note_told_off(&words);
                self.uploader.send_again(message);
            }
            ReasonCode::PacketIdentifierInUse => {
                self.uploader.send_again(message);
                self.lose(&words, Blame::Link, Pause::BackOff);
            }
            _ if matches!(message.content, Content::Announcement(_)) => self.on_announcement_refused(message),
            ReasonCode::PayloadFormatInvalid => self.on_refused(message, &Refusal::Told(words), true),
            _ => {
                let counts = self.nothing_else_explains(&message);
                if !self.pace.is_known() {
                    self.pace.slow_down(UPLINK_GAP_DOUBTED);
                }
                self.note_told_off(&words);
                self.on_refused(message, &Refusal::Guessed(words), counts);
            }
        }
    }

    fn on_taken(&mut self, message: InFlight) {
        if let Content::Readings { rows, .. } = &message.content {
            self.people.uploaded.add(rows.len() as u64, self.now.mono);
            self.people.alarm = None;
            self.backoff.reset();
        }
        if matches!(message.content, Content::RpcAnswer) {
            self.queues.note_answered(true);
        }
        self.uploader.on_taken(message, &mut self.pace, self.now.mono);
    }

    /// A device the hub does not want to be told of may do without: its readings tell as much.
    fn on_announcement_refused(&mut self, message: InFlight) {
        if let Content::Announcement(device) = message.content {
            self.uploader.presence.note_told(device, self.now.mono);
        }
    }

    /// Of what is neither a reading nor goes before one, a refusal means nothing for the rest but that there is too much.
    fn on_aside_refused(&mut self, message: &InFlight, reason: ReasonCode, words: &str) {
        if matches!(message.content, Content::RpcAnswer) {
            self.queues.note_answered(false);
        }
        if reason == ReasonCode::QuotaExceeded {
            self.pace.slow_down(UPLINK_GAP_MAX);
            self.note_told_off(words);
        }
    }

    fn note_told_off(&mut self, words: &str) {
        self.uploader.flight.shrink(2);
        self.people.last_error = Some((words.to_owned(), self.now.mono));
        if let Link::Open(connection) = &mut self.link {
            connection.told_off = Some(self.now.mono);
        }
    }

    // ---- being thrown out -------------------------------------------------------------------------------

    fn on_disconnect(&mut self, disconnect: &Disconnect<'_>) {
        use ReasonCode as R;
        let words = with_reason("the hub", disconnect.reason, disconnect.properties.reason_string());
        let (blame, pause) = match disconnect.reason {
            R::ImplementationSpecificError
            | R::MessageRateTooHigh
            | R::QuotaExceeded
            | R::ServerBusy
            | R::ReceiveMaximumExceeded
            | R::ConnectionRateExceeded => (Blame::Rate, Pause::BackOff),
            // Whoever it is comes back as soon as we do: do not fight.
            R::SessionTakenOver => {
                let words = format!("{words}: does another client use our access token or client id?");
                return self.lose(&words, Blame::Link, Pause::AtLeast(UPLINK_TAKEOVER_WAIT));
            }
            R::NotAuthorized
            | R::AdministrativeAction
            | R::KeepAliveTimeout
            | R::MaximumConnectTime
            | R::UseAnotherServer
            | R::ServerMoved
            | R::Success => (Blame::Link, Pause::BackOff),
            _ => (Blame::Message, Pause::BackOff),
        };
        self.lose(&words, blame, pause);
    }

    fn lose_for_nonsense(&mut self, what: &str) {
        self.lose(&format!("the hub sent what is not right: {what}"), Blame::Link, Pause::BackOff);
    }
}

/// The version of a packet: a hub that does not have 5.0 refuses it in the form it has. [3.1.1 §3.2.2.3]
pub(super) fn answer_version(header: Header, version: ProtocolVersion) -> ProtocolVersion {
    let is_old = header.packet_type == PacketType::ConnAck && header.body_bytes == 2;
    if is_old { ProtocolVersion::V311 } else { version }
}

/// What the hub said, in words: the code's, its number, and the hub's own if it has any.
pub(super) fn with_reason(who: &str, reason: ReasonCode, own_words: Option<&str>) -> String {
    let own_words = own_words.map(|words| format!(", {}", fit_for_people(words))).unwrap_or_default();
    format!("{who} says: {reason} (0x{:02X}){own_words}", reason.as_byte())
}
