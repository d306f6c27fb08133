//! CONNECT: who is let in, and on what terms. [§3.1]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    device_api::topics::{self, DeviceTopic},
    identity::{DeviceGrants, Identity},
    limits::Limits,
    mqtt::{Connect, PropertiesBuf, Property, ProtocolVersion},
};

use super::{
    AccessRights, CloseReason, Message, Outgoing, Refusal, Session, Will, message, properties_fit, topic_fits,
};

/// Longest client id of version 3.1, in bytes. [MQTT 3.1 §3.1]
const CLIENT_ID_BYTES_MAX_V31: usize = 23;

/// A client that may come in, and what it must be told about it.
#[derive(Debug)]
pub struct Admission {
    /// The session it gets.
    pub session: Session,
    /// The broker chose its client id. [MQTT-3.2.2-16]
    assigned_client_id: bool,
    /// The keep-alive it must use instead of its own. [MQTT-3.1.2-21]
    server_keep_alive_s: Option<u16>,
    /// It asked for a session that outlives the connection; there is none to have.
    session_expiry_refused: bool,
}

/// Why a CONNECT ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// With a CONNACK that says why.
    Refuse(Refusal),
    /// Without a word.
    Close(CloseReason),
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// The access token of a CONNECT: its user name.
///
/// # Errors
/// What the hub answers to each way of not having one.
pub fn token<'a>(connect: &Connect<'a>) -> Result<&'a str, Refusal> {
    match (connect.user_name, connect.password) {
        (Some(""), _) => Err(Refusal::EmptyToken),
        (Some(token), _) => Ok(token),
        (None, Some(_)) => Err(Refusal::PasswordOnly),
        (None, None) if connect.client_id.trim().is_empty() => Err(Refusal::Anonymous),
        (None, None) => Err(Refusal::ClientIdOnly),
    }
}

/// Checks what must hold whoever the client is; call it before looking the token up.
///
/// # Errors
/// The first rule the CONNECT breaks.
pub fn check_terms(connect: &Connect<'_>, limits: &Limits) -> Result<(), Rejection> {
    if !properties_fit(&connect.properties, limits) {
        return Err(Rejection::Close(CloseReason::TooManyUserProperties));
    }
    if connect.properties.authentication_method().is_some() {
        return Err(Refusal::AuthenticationMethod.into());
    }
    match connect.version {
        ProtocolVersion::V31
            if connect.client_id.is_empty() || connect.client_id.len() > CLIENT_ID_BYTES_MAX_V31 =>
        {
            Err(Refusal::ClientIdLength.into())
        }
        ProtocolVersion::V311 if connect.client_id.is_empty() && !connect.clean => {
            Err(Refusal::EmptyClientIdWithoutClean.into())
        }
        _ => Ok(()),
    }
}

/// Makes the session of `identity`; `assigned` is the client id for a client that has none.
///
/// # Errors
/// If the will is outside its rights.
pub fn admit(
    connect: &Connect<'_>,
    identity: &Identity,
    grants: &DeviceGrants,
    assigned: impl FnOnce() -> String,
    limits: &Limits,
) -> Result<Admission, Rejection> {
    let rights = AccessRights::of(identity, grants);
    let will = admit_will(connect, &rights, limits)?;
    let v5 = connect.version == ProtocolVersion::V5;
    let keep_alive_s = keep_alive_s(connect, limits);
    let client_id = match connect.client_id {
        "" => assigned().into(),
        given => given.into(),
    };
    Ok(Admission {
        session: Session {
            version: connect.version,
            identity: identity.id,
            name: identity.name.clone(),
            rights,
            client_id,
            silence_max: Duration::from_millis(u64::from(keep_alive_s) * 1500),
            unanswered: 0,
            unanswered_qos1: 0,
            unreleased: BTreeSet::new(),
            aliases: Vec::new(),
            given_aliases: BTreeMap::new(),
            given_aliases_max: given_aliases_max(connect, limits),
            subscriptions: BTreeSet::new(),
            outgoing: Outgoing::new(window(connect, limits)),
            answer_bytes_max: connect.properties.maximum_packet_size_bytes().unwrap_or(u32::MAX),
            wants_reason_strings: v5 && connect.properties.request_problem_information() != Some(false),
            will: will.map(Box::new),
        },
        assigned_client_id: connect.client_id.is_empty(),
        server_keep_alive_s: (v5 && keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
        session_expiry_refused: connect.properties.session_expiry_interval_s().is_some_and(|s| s > 0),
    })
}

impl Admission {
    /// What CONNACK tells a version 5 client about the terms. [§3.2.2.3]
    pub fn connack_properties(&self, limits: &Limits) -> PropertiesBuf {
        let mut properties = PropertiesBuf::new();
        if self.session.version != ProtocolVersion::V5 {
            return properties;
        }
        if self.session_expiry_refused {
            properties.push(Property::SessionExpiryInterval(0));
        }
        properties.push(Property::ReceiveMaximum(u16::try_from(limits.receive_maximum).unwrap_or(u16::MAX)));
        properties.push(Property::RetainAvailable(false));
        properties.push(Property::MaximumPacketSize(self.session.packet_bytes_max(limits)));
        if self.assigned_client_id {
            properties.push(Property::AssignedClientIdentifier(&self.session.client_id));
        }
        if let Some(aliases) = u16::try_from(limits.topic_aliases).ok().filter(|aliases| *aliases > 0) {
            properties.push(Property::TopicAliasMaximum(aliases));
        }
        if let Some(keep_alive_s) = self.server_keep_alive_s {
            properties.push(Property::ServerKeepAlive(keep_alive_s));
        }
        properties
    }
}

/// The keep-alive that holds. A version 5 client can be told a shorter one; an older one keeps its own, since it
/// would go on pinging at its own pace and be cut off.
fn keep_alive_s(connect: &Connect<'_>, limits: &Limits) -> u16 {
    let max = u16::try_from(limits.keep_alive_max_s).unwrap_or(u16::MAX);
    match (connect.keep_alive_s, connect.version) {
        (0, _) => max,
        (own, ProtocolVersion::V5) => own.min(max),
        (own, _) => own,
    }
}

/// How many messages may be in flight to the client. [MQTT-3.3.4-9 of 5.0]
fn window(connect: &Connect<'_>, limits: &Limits) -> u16 {
    let own = u16::try_from(limits.window).unwrap_or(u16::MAX);
    connect.properties.receive_maximum().map_or(own, |theirs| theirs.min(own))
}

fn given_aliases_max(connect: &Connect<'_>, limits: &Limits) -> u16 {
    let own = u16::try_from(limits.topic_aliases).unwrap_or(u16::MAX);
    connect.properties.topic_alias_maximum().unwrap_or(0).min(own)
}

fn admit_will(
    connect: &Connect<'_>,
    rights: &AccessRights,
    limits: &Limits,
) -> Result<Option<Will>, Rejection> {
    let Some(will) = &connect.will else { return Ok(None) };
    if !topic_fits(will.topic, limits) || !properties_fit(&will.properties, limits) {
        return Err(Refusal::WillTopic.into());
    }
    let is_telemetry = rights.is_device() && topics::classify(will.topic.as_str()) == DeviceTopic::Telemetry;
    if !is_telemetry && !rights.may_publish(will.topic) {
        return Err(Refusal::WillTopic.into());
    }
    // Telemetry is stored, whatever RETAIN says; other messages would have to be retained, and the CONNACK says no.
    if will.retain && !is_telemetry && connect.version == ProtocolVersion::V5 {
        return Err(Refusal::WillRetain.into());
    }
    Ok(Some(Will {
        message: Message::of_will(will),
        lives: message::expiry_span(will.properties),
        delay: Duration::from_secs(will.properties.will_delay_interval_s().unwrap_or(0).into()),
        is_telemetry,
    }))
}
