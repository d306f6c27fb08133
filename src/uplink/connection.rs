//! One connection that the hub has let us into: its terms, and when it must be considered dead.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Mono,
    device_api::gateway::SessionLimits,
    limits::{UPLINK_KEEP_ALIVE_S, UPLINK_PAYLOAD_BYTES_MIN, UPLINK_TOPIC_ALIASES, UPLINK_WINDOW},
    mqtt::{ConnAck, PacketId, ProtocolVersion, QoS},
};

use super::{Settings, flight::Flight, picking::Bounds};

/// Bytes of a PUBLISH beside its topic and payload: header 5, topic length 2, identifier 2, properties 4.
const PUBLISH_OVERHEAD: usize = 13;
/// Bytes beside the payload that a hub may count when it says how large a payload may be.
const PAYLOAD_MARGIN: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) version: ProtocolVersion,
    pub(super) phase: Phase,
    receive_maximum: u16,
    packet_bytes_max: Option<usize>,
    keep_alive: Duration,
    limits: SessionLimits,
    last_received: Mono,
    last_sent: Mono,
    ping_sent: Option<Mono>,
    aliases: BTreeMap<String, u16>,
    aliases_max: u16,
    /// The subscription to messages for devices, while it is not acknowledged.
    pub(super) subscribing: Option<PacketId>,
    /// Whether the hub has answered nothing since, so that it may be that subscription which ends the connection.
    pub(super) doubts_subscription: bool,
    /// When the hub last answered a message with a complaint about how much there is.
    pub(super) told_off: Option<Mono>,
}

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The limits were asked for; readings go when they were told, or at the latest then.
    Asking {
        /// The latest.
        until: Mono,
        /// The subscription to the answer, while it is not acknowledged.
        subscribing: Option<PacketId>,
    },
    /// Readings go.
    Uploading,
}

/// How a PUBLISH names its topic. [§3.3.2.3.4]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// In full.
    InFull,
    /// In full, and with this number from now on.
    Introduce(u16),
    /// By this number alone.
    ByNumber(u16),
}

/// What a connection needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A PINGREQ.
    Ping,
    /// To be given up: not a word came in time.
    Dead,
    /// To be given up: words come, but not the answer to the oldest message.
    Unanswered,
    /// To be used without knowing its limits.
    Unlimited,
}

impl Connection {
    /// A connection on the hub's terms, which are as good as the standard's where it says nothing.
    ///
    /// # Errors
    /// In words, if the terms are none we can live with.
    pub(super) fn new(
        connack: &ConnAck<'_>,
        version: ProtocolVersion,
        settings: &Settings,
        now: Mono,
    ) -> Result<Self, &'static str> {
        let granted = connack.properties;
        if granted.maximum_qos() == Some(QoS::AtMostOnce) {
            return Err("the hub takes no messages it would have to acknowledge (Maximum QoS 0)");
        }
        if granted
            .maximum_packet_size_bytes()
            .is_some_and(|bytes| (bytes as usize) < UPLINK_PAYLOAD_BYTES_MIN)
        {
            return Err("the hub takes too small messages for readings (Maximum Packet Size)");
        }
        let seconds = granted.server_keep_alive_s().unwrap_or(settings.keep_alive_s);
        // A hub that wants no keep-alive does not mind one; we want to know whether it is there.
        let seconds = if seconds == 0 { UPLINK_KEEP_ALIVE_S } else { seconds };
        Ok(Self {
            version,
            phase: Phase::Uploading,
            receive_maximum: granted.receive_maximum().unwrap_or(u16::MAX),
            packet_bytes_max: granted.maximum_packet_size_bytes().map(|bytes| bytes as usize),
            keep_alive: Duration::from_secs(seconds.into()),
            limits: SessionLimits::default(),
            last_received: now,
            last_sent: now,
            ping_sent: None,
            aliases: BTreeMap::new(),
            aliases_max: granted.topic_alias_maximum().unwrap_or(0).min(UPLINK_TOPIC_ALIASES),
            subscribing: None,
            doubts_subscription: false,
            told_off: None,
        })
    }

    /// The hub has told its limits.
    pub(super) fn learn(&mut self, limits: SessionLimits) {
        self.limits = limits;
    }

    /// What may be sent.
    pub(super) fn bounds(&self, settings: &Settings, topic_bytes: usize, waits_for_clock: bool) -> Bounds {
        let told = self.limits.payload_bytes.map(|bytes| bytes.saturating_sub(PAYLOAD_MARGIN));
        let by_packet = self.packet_bytes_max.map(|b| b.saturating_sub(PUBLISH_OVERHEAD + topic_bytes));
        let refused = [told, by_packet].into_iter().flatten().min();
        // Four fifths of what the hub says it takes: it closes the connection on messages it finds too many.
        let in_flight = self.limits.in_flight.map_or(u16::MAX, |count| (count / 5 * 4).max(1));
        let window = settings.window.min(UPLINK_WINDOW).min(self.receive_maximum).min(in_flight);
        let payload_bytes = refused.unwrap_or(usize::MAX).min(settings.payload_bytes);
        Bounds {
            window: window.max(1).into(),
            payload_bytes: payload_bytes / 5 * 4,
            payload_bytes_refused: refused,
            fresh_percent: settings.fresh_percent,
            waits_for_clock,
        }
    }

    /// How to name `topic`.
    pub(super) fn naming(&mut self, topic: &str) -> Naming {
        if let Some(alias) = self.aliases.get(topic) {
            return Naming::ByNumber(*alias);
        }
        if self.aliases.len() >= self.aliases_max.into() {
            return Naming::InFull;
        }
        let alias = u16::try_from(self.aliases.len() + 1).expect("no more than the hub takes");
        self.aliases.insert(topic.to_owned(), alias);
        Naming::Introduce(alias)
    }

    /// A packet has left.
    pub(super) fn note_sent(&mut self, now: Mono) {
        self.last_sent = now;
    }

    /// A PINGREQ has left.
    pub(super) fn note_ping(&mut self, now: Mono) {
        self.ping_sent = self.ping_sent.or(Some(now));
    }

    /// Bytes have come.
    pub(super) fn note_received(&mut self, now: Mono) {
        self.last_received = now;
    }

    /// PINGRESP has come; how long it took is given back.
    pub(super) fn on_pingresp(&mut self, now: Mono) -> Option<Duration> {
        self.ping_sent.take().map(|sent| now.since(sent))
    }

    /// What is due next, and when. While something is on its way, silence is noticed within the flight's patience.
    pub(super) fn next_due(&self, flight: &Flight) -> (Mono, Due) {
        let patience = flight.silence_timeout();
        let oldest = flight.oldest_sent();
        let mut next = (self.last_sent + self.keep_alive * 3 / 4, Due::Ping);
        let mut or_earlier = |time: Mono, due| next = if time < next.0 { (time, due) } else { next };
        if let Some(waiting_since) = [oldest, self.ping_sent].into_iter().flatten().min() {
            let quiet_since = waiting_since.max(self.last_received);
            or_earlier(quiet_since + patience, Due::Dead);
            if self.ping_sent.is_none() {
                or_earlier(quiet_since + patience / 2, Due::Ping);
            }
        }
        if let Some(oldest) = oldest {
            or_earlier(oldest + flight.answer_timeout(), Due::Unanswered);
        }
        if let Phase::Asking { until, .. } = self.phase {
            or_earlier(until, Due::Unlimited);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::DeviceName,
        mqtt::{PropertiesBuf, Property, ReasonCode},
        uplink::{Mode, Secret, flight::Content},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> Settings {
        Settings::new(Mode::Gateway { token: Secret::new("token") })
    }

    fn connection(granted: &[Property<'_>]) -> Result<Connection, &'static str> {
        let mut properties = PropertiesBuf::new();
        granted.iter().for_each(|property| properties.push(*property));
        let properties = properties.as_properties();
        let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
        Connection::new(&connack, ProtocolVersion::V5, &settings(), Mono(0))
    }

    fn flight(sent: Option<Mono>) -> Flight {
        let mut flight = Flight::new(100_000, SECOND * 20);
        if let Some(sent) = sent {
            let device = DeviceName::parse("pump").expect("valid");
            flight.note_sent(flight.next_id(), Content::Announcement(device), 1, Duration::ZERO, sent);
        }
        flight
    }

    #[test]
    fn a_hub_that_says_nothing_is_given_what_a_hub_takes() {
        let bounds = connection(&[]).expect("fine").bounds(&settings(), 20, false);
        assert_eq!(bounds.window, 80);
        assert_eq!(bounds.payload_bytes, 65_536 / 5 * 4);
        assert_eq!(bounds.payload_bytes_refused, None);
    }

    #[test]
    fn the_hubs_own_terms_are_kept() {
        let granted = [Property::ReceiveMaximum(7), Property::MaximumPacketSize(1000)];
        let mut connection = connection(&granted).expect("fine");
        let bounds = connection.bounds(&settings(), 20, false);
        assert_eq!((bounds.window, bounds.payload_bytes_refused), (7, Some(967)));
        assert_eq!(bounds.payload_bytes, 967 / 5 * 4);
        let (payload_bytes, in_flight) = (Some(664), Some(5));
        connection.learn(SessionLimits { payload_bytes, in_flight, ..SessionLimits::default() });
        let bounds = connection.bounds(&settings(), 20, false);
        assert_eq!((bounds.window, bounds.payload_bytes_refused), (4, Some(600)));
        assert!(self::connection(&[Property::MaximumQoS(QoS::AtMostOnce)]).is_err());
        assert!(self::connection(&[Property::MaximumQoS(QoS::AtLeastOnce)]).is_ok());
    }

    #[test]
    fn topics_get_as_many_numbers_as_the_hub_takes() {
        let mut connection = connection(&[Property::TopicAliasMaximum(2)]).expect("fine");
        let namings: Vec<_> = ["a", "b", "c", "a", "b", "c"].iter().map(|t| connection.naming(t)).collect();
        use Naming::{ByNumber, InFull, Introduce};
        assert_eq!(namings, [Introduce(1), Introduce(2), InFull, ByNumber(1), ByNumber(2), InFull]);
        assert_eq!(self::connection(&[]).expect("fine").naming("a"), InFull);
    }

    #[test]
    fn an_idle_connection_is_kept_alive_at_the_pace_the_hub_wants() {
        let idle = |granted: &[Property<'_>]| connection(granted).expect("fine").next_due(&flight(None));
        assert_eq!(idle(&[]), (Mono(0) + SECOND * 45, Due::Ping));
        assert_eq!(idle(&[Property::ServerKeepAlive(20)]), (Mono(0) + SECOND * 15, Due::Ping));
        assert_eq!(idle(&[Property::ServerKeepAlive(0)]), (Mono(0) + SECOND * 45, Due::Ping));
    }

    #[test]
    fn a_link_without_a_word_is_dead_within_twenty_seconds_of_what_was_sent() {
        let mut connection = connection(&[]).expect("fine");
        let flight = flight(Some(Mono(0) + SECOND * 5));
        assert_eq!(connection.next_due(&flight), (Mono(0) + SECOND * 15, Due::Ping));
        connection.note_ping(Mono(0) + SECOND * 15);
        assert_eq!(connection.next_due(&flight), (Mono(0) + SECOND * 25, Due::Dead));
        connection.note_received(Mono(0) + SECOND * 16);
        connection.on_pingresp(Mono(0));
        assert_eq!(connection.next_due(&flight), (Mono(0) + SECOND * 26, Due::Ping));
        connection.note_received(Mono(0) + SECOND * 26);
        assert_eq!(connection.next_due(&flight), (Mono(0) + SECOND * 35, Due::Unanswered));
    }
}
