//! CONNECT: who is let in, and on what terms. [§3.1]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clock::Mono,
    device_api::topics::{self, DeviceTopic},
    identity::{DeviceGrants, Identity},
    ids::SessionSlot,
    limits::Limits,
    mqtt::{Connect, PropertiesBuf, Property, ProtocolVersion},
};

use super::{
    AccessRights, Client, EXPIRY_NEVER, Message, Outgoing, Refusal, Session, Will, message, topic_fits,
};

/// Longest client id of version 3.1, in bytes. [MQTT 3.1 §3.1]
const CLIENT_ID_BYTES_MAX_V31: usize = 23;

/// A client that may come in, and what it must be told about it.
#[derive(Debug)]
pub struct Admission {
    /// What it is; its session is yet to be given a slot.
    pub client: Client,
    /// The session it gets, unless it goes on with one it has. [§3.1.2.4]
    pub session: Session,
    /// Whether it wants no earlier session. [MQTT-3.1.2-4 of 5.0]
    pub clean_start: bool,
    /// How many messages may be in flight to it.
    pub window: u16,
    /// The broker chose its client id. [MQTT-3.2.2-16]
    assigned_client_id: bool,
    /// The keep-alive it must use instead of its own. [MQTT-3.1.2-21]
    server_keep_alive_s: Option<u16>,
    /// It asked for a session that lives longer than it may. [§3.2.2.3.2]
    session_expiry_lowered: bool,
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
pub fn check_terms(connect: &Connect<'_>) -> Result<(), Refusal> {
    if connect.properties.authentication_method().is_some() {
        return Err(Refusal::AuthenticationMethod);
    }
    match connect.version {
        ProtocolVersion::V31
            if connect.client_id.is_empty() || connect.client_id.len() > CLIENT_ID_BYTES_MAX_V31 =>
        {
            Err(Refusal::ClientIdLength)
        }
        ProtocolVersion::V311 if connect.client_id.is_empty() && !connect.clean => {
            Err(Refusal::EmptyClientIdWithoutClean)
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
) -> Result<Admission, Refusal> {
    let rights = AccessRights::of(identity, grants);
    let will = admit_will(connect, &rights, limits)?;
    let v5 = connect.version == ProtocolVersion::V5;
    let keep_alive_s = keep_alive_s(connect, limits);
    let client_id = match connect.client_id {
        "" => assigned().into(),
        given => given.into(),
    };
    let window = window(connect, limits);
    let mut session = Session {
        identity: identity.id,
        name: identity.name.clone(),
        token: identity.token_hash.mark(),
        rights,
        client_id,
        conn: None,
        offline_since: Mono(0),
        durable: None,
        expiry_s: 0,
        unreleased: BTreeSet::new(),
        subscriptions: BTreeSet::new(),
        own_subscriptions: BTreeMap::new(),
        outgoing: Outgoing::new(window),
        will: will.map(Box::new),
    };
    let asked_s = expiry_s(connect);
    session.expiry_s = asked_s.min(session.expiry_max_s(limits));
    Ok(Admission {
        client: Client {
            version: connect.version,
            session: SessionSlot(u32::MAX),
            silence_max: Duration::from_millis(u64::from(keep_alive_s) * 1500),
            unanswered: 0,
            unanswered_qos1: 0,
            unreleased: BTreeSet::new(),
            aliases: Vec::new(),
            given_aliases: BTreeMap::new(),
            given_aliases_max: given_aliases_max(connect, limits),
            answer_bytes_max: connect.properties.maximum_packet_size_bytes().unwrap_or(u32::MAX),
            wants_reason_strings: v5 && connect.properties.request_problem_information() != Some(false),
        },
        clean_start: connect.clean,
        window,
        assigned_client_id: connect.client_id.is_empty(),
        server_keep_alive_s: (v5 && keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
        session_expiry_lowered: v5 && session.expiry_s != asked_s,
        session,
    })
}

impl Admission {
    /// What CONNACK tells a version 5 client about the terms. [§3.2.2.3]
    pub fn connack_properties(&self, limits: &Limits) -> PropertiesBuf {
        let mut properties = PropertiesBuf::new();
        if self.client.version != ProtocolVersion::V5 {
            return properties;
        }
        if self.session_expiry_lowered {
            properties.push(Property::SessionExpiryInterval(self.session.expiry_s));
        }
        properties.push(Property::ReceiveMaximum(u16::try_from(limits.receive_maximum).unwrap_or(u16::MAX)));
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

/// How long the session is asked to outlive the connection. Before version 5 a session that is not clean lives until it
/// is replaced. [MQTT-3.1.2-4], [§3.1.2.11.2]
fn expiry_s(connect: &Connect<'_>) -> u32 {
    match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_interval_s().unwrap_or(0),
        _ if connect.clean => 0,
        _ => EXPIRY_NEVER,
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
) -> Result<Option<Will>, Refusal> {
    let Some(will) = &connect.will else { return Ok(None) };
    if !topic_fits(will.topic, limits) {
        return Err(Refusal::WillTopic);
    }
    let is_telemetry = rights.is_device() && topics::classify(will.topic.as_str()) == DeviceTopic::Telemetry;
    if !is_telemetry && !rights.may_publish(will.topic) {
        return Err(Refusal::WillTopic);
    }
    Ok(Some(Will {
        message: Message::of_will(will),
        lives: message::expiry_span(will.properties),
        delay: Duration::from_secs(will.properties.will_delay_interval_s().unwrap_or(0).into()),
        is_telemetry,
    }))
}
