//! What the scripts do to sessions, and what is found of them, in words that can be compared at a glance.

use std::sync::Arc;

use forebay::{
    identity::TokenMark,
    ids::{DeliveryId, IdentityId, MessageId, SessionId},
    mqtt::{PacketId, QoS, TopicName},
    session::{
        Message, Terms, Will,
        durable::{Change, DeliveryRow, Recovered, RecoveredSession, SessionRow},
    },
};

pub fn session(id: u64) -> Change {
    Change::Session(SessionRow {
        id: SessionId(id),
        identity: IdentityId(1),
        client_id: "client".into(),
        token: Some(TokenMark(7)),
        expiry_s: 3600,
        ended: None,
    })
}

pub fn over(id: u64) -> Change {
    Change::SessionOver(SessionId(id))
}

pub fn subscribed(session: u64, filter: &str) -> Change {
    let terms =
        Terms { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, identifier: None };
    Change::Subscribed { session: SessionId(session), filter: filter.into(), terms }
}

pub fn message(id: u64, topic: &str, bytes: usize) -> Change {
    Change::Message { id: MessageId(id), message: Arc::new(published(topic, bytes)) }
}

pub fn message_over(id: u64) -> Change {
    Change::MessageOver(MessageId(id))
}

pub fn queued(id: u64, session: u64, message: u64) -> Change {
    Change::Queued(DeliveryRow {
        id: DeliveryId(id),
        session: SessionId(session),
        message: MessageId(message),
        qos: QoS::ExactlyOnce,
        retain: false,
        identifiers: Vec::new(),
        group: None,
        packet_id: None,
        received: false,
    })
}

pub fn sent(id: u64, packet_id: u16) -> Change {
    Change::Sent { delivery: DeliveryId(id), packet_id: packet(packet_id) }
}

pub fn received(id: u64) -> Change {
    Change::Received(DeliveryId(id))
}

pub fn delivered(id: u64) -> Change {
    Change::Delivered(DeliveryId(id))
}

pub fn unreleased(session: u64, packet_id: u16) -> Change {
    Change::Unreleased { session: SessionId(session), packet_id: packet(packet_id) }
}

pub fn will(session: u64, topic: &str) -> Change {
    let will = Will {
        message: published(topic, 1),
        lives: None,
        delay: std::time::Duration::ZERO,
        is_telemetry: false,
    };
    Change::Will { session: SessionId(session), will: Box::new(will), due: None }
}

pub fn retained(topic: &str, bytes: usize) -> Change {
    Change::Retained(Arc::new(published(topic, bytes)))
}

fn published(topic: &str, bytes: usize) -> Message {
    Message::new(TopicName::parse(topic).expect("a name"), &vec![b'x'; bytes], QoS::ExactlyOnce)
}

fn packet(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

/// Everything found, in a line: sessions in brackets, then retained topics with their lengths.
pub fn words(found: &Recovered) -> String {
    let mut parts: Vec<String> = found.sessions.iter().map(|session| of(session, found)).collect();
    let retained = |message: &Message| format!("{}:{}", message.topic().as_str(), message.payload().len());
    parts.extend(found.retained.iter().map(retained));
    parts.join(" ")
}

/// A session's number, its filters, its deliveries as topic, packet and whether they were received, what it has not
/// released, and its will.
fn of(session: &RecoveredSession, found: &Recovered) -> String {
    let mut parts = vec![session.row.id.0.to_string()];
    parts.extend(session.subscriptions.iter().map(|(filter, _)| filter.to_string()));
    for delivery in &session.deliveries {
        let message = found.messages.iter().find(|(id, _)| *id == delivery.message);
        let topic = message.map_or("no message", |(_, message)| message.topic().as_str());
        let packet = delivery.packet_id.map_or(String::new(), |packet| format!("@{}", packet.get()));
        parts.push(format!("{topic}{packet}{}", if delivery.received { "!" } else { "" }));
    }
    parts.extend(session.unreleased.iter().map(|packet| format!("?{}", packet.get())));
    parts.extend(session.will.iter().map(|(will, _)| format!("will {}", will.message.topic().as_str())));
    format!("[{}]", parts.join(" "))
}
