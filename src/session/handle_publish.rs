//! PUBLISH from a client: stored, set aside, routed, answered or blamed. [§3.3]

use crate::{
    device_api::{
        gateway_messages::{self, DeviceReadings, GatewayError},
        session_limits,
        telemetry::{self, Reading},
        topics::{self, DeviceTopic},
    },
    ids::DeviceName,
    limits::{Limits, UNRELEASED_MAX},
    mqtt::{PacketId, ProtocolVersion, Publish, QoS, ReasonCode, TopicName},
};

use super::{Client, CloseReason, Session, topic_fits};

/// What becomes of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Readings for the journal; there may be none, for `{}` says nothing.
    Store(Vec<Reading>),
    /// Readings of devices behind this gateway, for the journal if it may speak for them; all of them or none.
    StoreBehind(Vec<DeviceReadings>),
    /// The payload goes to quarantine, for this reason.
    SetAside(String),
    /// A device behind this gateway has come or gone, or why it cannot be told which.
    Presence(Result<DeviceName, String>),
    /// It asks for the limits of its session, with this number.
    TellLimits(i32),
    /// It answers the hub's command of this number.
    RpcAnswer(i32),
    /// It goes to whoever subscribed.
    Route,
    /// It is here already and was not released: it is answered again and nothing else. [MQTT-4.3.3-10 of 5.0]
    Repeat,
    /// Nothing is kept; QoS 1 and 2 are answered with this code, before version 5 with a plain answer.
    Answer(ReasonCode),
    /// The connection ends.
    Close(CloseReason),
}

/// Takes the alias of a PUBLISH into account; gives back the topic it stands for, if that is all there is.
///
/// # Errors
/// If the alias is over its maximum, or stands for nothing. [MQTT-3.3.2-9 of 5.0], [§3.3.4]
pub fn take_alias(
    publish: &Publish<'_>,
    aliases: &mut Vec<Option<Box<str>>>,
    limits: &Limits,
) -> Result<Option<Box<str>>, CloseReason> {
    let alias = if publish.properties.is_empty() { None } else { publish.properties.topic_alias() };
    let Some(alias) = alias else {
        return if publish.topic.is_some() { Ok(None) } else { Err(CloseReason::TopicAliasUnknown) };
    };
    if u32::from(alias) > limits.topic_aliases {
        return Err(CloseReason::TopicAliasInvalid);
    }
    let at = usize::from(alias) - 1;
    let Some(topic) = publish.topic else {
        let known = aliases.get(at).cloned().flatten();
        return known.map(Some).ok_or(CloseReason::TopicAliasUnknown);
    };
    if !topic_fits(topic, limits) {
        return Err(CloseReason::TopicTooLong);
    }
    if aliases.len() <= at {
        aliases.resize(at + 1, None);
    }
    aliases[at] = Some(topic.as_str().into());
    Ok(None)
}

/// Judges a PUBLISH of `client` to `topic`.
pub fn judge(
    publish: &Publish<'_>,
    topic: TopicName<'_>,
    client: &Client,
    session: &Session,
    limits: &Limits,
) -> Verdict {
    if publish.properties.subscription_identifiers().next().is_some() {
        return Verdict::Close(CloseReason::SubscriptionIdentifierInPublish);
    }
    if publish.qos == QoS::ExactlyOnce && publish.packet_id.is_some_and(|id| is_unreleased(session, id)) {
        return Verdict::Repeat;
    }
    if exceeds_receive_maximum(publish, client, limits) {
        return Verdict::Close(CloseReason::ReceiveMaximumExceeded);
    }
    if publish.qos == QoS::ExactlyOnce && session.unreleased.len() >= unreleased_max(limits) {
        return Verdict::Close(CloseReason::TooManyUnreleased);
    }
    if !topic_fits(topic, limits) {
        let can_be_told = client.version == ProtocolVersion::V5 && publish.qos > QoS::AtMostOnce;
        return if can_be_told {
            Verdict::Answer(ReasonCode::TopicNameInvalid)
        } else {
            Verdict::Close(CloseReason::TopicTooLong)
        };
    }
    match topics::classify(topic.as_str()) {
        DeviceTopic::Telemetry if session.rights.is_device() => judge_telemetry(publish.payload),
        DeviceTopic::RpcAnswer(id) if session.rights.is_device() => {
            id.map_or(Verdict::Answer(ReasonCode::PayloadFormatInvalid), Verdict::RpcAnswer)
        }
        DeviceTopic::GatewayTelemetry if session.rights.is_gateway() => {
            judge_behind(gateway_messages::parse_telemetry(publish.payload))
        }
        DeviceTopic::GatewayPresence if session.rights.is_gateway() => {
            let told = gateway_messages::parse_presence(publish.payload);
            Verdict::Presence(told.map_err(|error| error.to_string()))
        }
        DeviceTopic::Question(number)
            if session.rights.is_device() && session_limits::is_asked_for(publish.payload) =>
        {
            Verdict::TellLimits(number)
        }
        // An answer without a code would say that readings are safe which nobody keeps.
        DeviceTopic::GatewayTelemetry
            if session.rights.is_device()
                && publish.qos > QoS::AtMostOnce
                && client.version < ProtocolVersion::V5 =>
        {
            Verdict::Close(CloseReason::NotAGateway)
        }
        DeviceTopic::GatewayTelemetry
        | DeviceTopic::GatewayPresence
        | DeviceTopic::Question(_)
        | DeviceTopic::UnknownHubTopic
            if session.rights.is_device() =>
        {
            Verdict::Answer(ReasonCode::TopicNameInvalid)
        }
        _ => judge_ordinary(topic, client.version, session),
    }
}

/// Judges a payload published to the telemetry topic.
pub fn judge_telemetry(payload: &[u8]) -> Verdict {
    match telemetry::parse(payload) {
        Ok(readings) => Verdict::Store(readings),
        Err(error) => Verdict::SetAside(error.to_string()),
    }
}

fn judge_behind(read: Result<Vec<DeviceReadings>, GatewayError>) -> Verdict {
    match read {
        Ok(devices) => Verdict::StoreBehind(devices),
        Err(error) => Verdict::SetAside(error.to_string()),
    }
}

fn judge_ordinary(topic: TopicName<'_>, version: ProtocolVersion, session: &Session) -> Verdict {
    match (session.rights.may_publish(topic), version) {
        (true, _) => Verdict::Route,
        (false, ProtocolVersion::V5) => Verdict::Answer(ReasonCode::NotAuthorized),
        // Before version 5 there is no way to say no but to close. [MQTT-3.3.5-2]
        (false, _) => Verdict::Close(CloseReason::TopicNotAllowed),
    }
}

fn is_unreleased(session: &Session, packet_id: PacketId) -> bool {
    session.unreleased.contains(&packet_id)
}

/// Whether there are more than the Receive Maximum, which only version 5 clients were told. What was left open by an
/// earlier connection counts nothing: the quota is the connection's. [§4.9]
fn exceeds_receive_maximum(publish: &Publish<'_>, client: &Client, limits: &Limits) -> bool {
    publish.qos > QoS::AtMostOnce
        && client.version == ProtocolVersion::V5
        && client.unanswered_qos1 as usize + client.unreleased.len() >= limits.receive_maximum as usize
}

/// Most identifiers of QoS 2 that are kept for one session, whatever connections they came over.
fn unreleased_max(limits: &Limits) -> usize {
    UNRELEASED_MAX + limits.receive_maximum as usize
}
