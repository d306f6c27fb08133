//! PUBLISH from a device: stored, set aside, answered or blamed. [§3.3]

use crate::{
    device_api::{
        telemetry::{self, Reading, TelemetryError},
        topics::{self, DeviceTopic},
    },
    limits::Limits,
    mqtt::{ProtocolVersion, Publish, QoS, ReasonCode},
};

use super::{CloseReason, Session, properties_fit, topic_fits};

/// What becomes of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Readings for the journal; there may be none, for `{}` says nothing.
    Store(Vec<Reading>),
    /// The payload goes to quarantine, for this reason.
    SetAside(TelemetryError),
    /// Nothing is kept; QoS 1 is answered with this code, before version 5 with a plain PUBACK.
    Answer(ReasonCode),
    /// The connection ends.
    Close(CloseReason),
}

/// Judges a PUBLISH of `session`.
pub fn judge(publish: &Publish<'_>, session: &Session, limits: &Limits) -> Verdict {
    match publish.qos {
        QoS::AtMostOnce => {}
        QoS::AtLeastOnce if exceeds_receive_maximum(session, limits) => {
            return Verdict::Close(CloseReason::ReceiveMaximumExceeded);
        }
        QoS::AtLeastOnce => {}
        QoS::ExactlyOnce => return Verdict::Close(CloseReason::QoSNotSupported),
    }
    if !publish.properties.is_empty() {
        if publish.properties.topic_alias().is_some() {
            return Verdict::Close(CloseReason::TopicAliasInvalid);
        }
        if publish.properties.subscription_identifiers().next().is_some() {
            return Verdict::Close(CloseReason::SubscriptionIdentifierInPublish);
        }
        if !properties_fit(&publish.properties, limits) {
            return Verdict::Close(CloseReason::TooManyUserProperties);
        }
    }
    let Some(topic) = publish.topic else { return Verdict::Close(CloseReason::TopicAliasInvalid) };
    if !topic_fits(topic, limits) {
        return Verdict::Close(CloseReason::TopicTooLong);
    }
    match topics::classify(topic.as_str()) {
        DeviceTopic::Telemetry => judge_telemetry(publish.payload),
        DeviceTopic::UnknownHubTopic => Verdict::Answer(ReasonCode::TopicNameInvalid),
        DeviceTopic::Ordinary if session.version == ProtocolVersion::V5 => {
            Verdict::Answer(ReasonCode::NotAuthorized)
        }
        // Before version 5 there is no way to say no but to close. [MQTT-3.3.5-2]
        DeviceTopic::Ordinary => Verdict::Close(CloseReason::TopicNotAllowed),
    }
}

/// Judges a payload published to the telemetry topic.
pub fn judge_telemetry(payload: &[u8]) -> Verdict {
    match telemetry::parse(payload) {
        Ok(readings) => Verdict::Store(readings),
        Err(error) => Verdict::SetAside(error),
    }
}

/// Only version 5 clients were told a Receive Maximum.
fn exceeds_receive_maximum(session: &Session, limits: &Limits) -> bool {
    session.version == ProtocolVersion::V5 && session.unacknowledged >= limits.receive_maximum
}
