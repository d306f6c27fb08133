//! What of sessions, retained messages and readings is on disk, as plain values: the changes of one transaction, and
//! what a start finds.
//!
//! Every time in here is [`Mono`] of the present boot. The store keeps running time, which goes on over boots and
//! stands still while the machine is off; what lies before this boot comes back as the beginning of it.

use std::{num::NonZeroU32, sync::Arc};

use crate::{
    clock::Mono,
    identity::TokenMark,
    ids::{DeliveryId, IdentityId, MessageId, Seq, SessionId},
    mqtt::{PacketId, QoS},
    record::{Quarantined, Record, SetAsideId, Settlement},
};

use super::{Message, Will};

/// Everything one transaction makes durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Readings, in the order of their [`Seq`].
    pub records: Vec<Record>,
    /// Payloads set aside.
    pub quarantined: Vec<Quarantined>,
    /// What happened to sessions and retained messages, in order.
    pub changes: Vec<Change>,
    /// What became of readings at the hub: one for each uplink that has news.
    pub settlements: Vec<Settlement>,
    /// What was set aside and is over: dropped, or among the readings above.
    pub over: Vec<SetAsideId>,
}

/// One thing that happened to a session or a retained message, as the disk needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session begins, or goes on with these terms.
    Session(SessionRow),
    /// A session is over, and everything that belongs to it: subscriptions, deliveries, identifiers, will.
    SessionOver(SessionId),
    /// A subscription, new or with new terms.
    Subscribed {
        /// Whose.
        session: SessionId,
        /// As the client wrote it, `$share/NAME/` included.
        filter: Box<str>,
        /// What was asked for.
        terms: Terms,
    },
    /// A subscription is over.
    Unsubscribed {
        /// Whose.
        session: SessionId,
        /// As the client wrote it.
        filter: Box<str>,
    },
    /// A message that deliveries will speak of.
    Message {
        /// Its number.
        id: MessageId,
        /// The message; its publisher is not kept, for it is known by now who gets it.
        message: Arc<Message>,
    },
    /// No delivery speaks of the message any more.
    MessageOver(MessageId),
    /// A message waits for a session, behind those that wait already.
    Queued(DeliveryRow),
    /// A delivery that waited is in flight.
    Sent {
        /// Which.
        delivery: DeliveryId,
        /// As what it is sent.
        packet_id: PacketId,
    },
    /// PUBREC came for a delivery.
    Received(DeliveryId),
    /// A delivery is over.
    Delivered(DeliveryId),
    /// A message of QoS 2 was received from the session's client and is not released yet.
    Unreleased {
        /// Whose.
        session: SessionId,
        /// Its identifier.
        packet_id: PacketId,
    },
    /// The identifier was released.
    Released {
        /// Whose.
        session: SessionId,
        /// Its identifier.
        packet_id: PacketId,
    },
    /// The session has this will, instead of any other.
    Will {
        /// Whose.
        session: SessionId,
        /// What is to be published.
        will: Box<Will>,
        /// When, if its connection is over already.
        due: Option<Mono>,
    },
    /// The session has no will any more.
    WillOver(SessionId),
    /// The topic's retained message is this one, instead of any other.
    Retained(Arc<Message>),
    /// The topic has no retained message any more.
    RetainedOver(Box<str>),
}

/// A session that outlives its connections, without what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its number, never used again.
    pub id: SessionId,
    /// With `client_id` the session's key.
    pub identity: IdentityId,
    /// With `identity` the session's key.
    pub client_id: Box<str>,
    /// The token it belongs to as well; none if that was not kept yet.
    pub token: Option<TokenMark>,
    /// Seconds it outlives its connection; `u32::MAX` stands for ever. [§3.1.2.11.2]
    pub expiry_s: u32,
    /// When its last connection ended; none while it has one.
    pub ended: Option<Mono>,
}

/// A message on its way to one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its number; those of one session are delivered in this order.
    pub id: DeliveryId,
    /// Whose.
    pub session: SessionId,
    /// What is delivered.
    pub message: MessageId,
    /// With which quality of service: 1 or 2.
    pub qos: QoS,
    /// What the RETAIN flag says.
    pub retain: bool,
    /// The numbers of the subscriptions it answers.
    pub identifiers: Vec<u32>,
    /// The shared subscription it was taken from.
    pub group: Option<Arc<str>>,
    /// As what it was sent, if it is in flight.
    pub packet_id: Option<PacketId>,
    /// Whether PUBREC came for it.
    pub received: bool,
}

/// What was asked for in a subscription. [§3.8.3.1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Highest quality of service.
    pub qos: QoS,
    /// Not the subscriber's own messages.
    pub no_local: bool,
    /// The RETAIN flag stays as published.
    pub retain_as_published: bool,
    /// The subscription's number.
    pub identifier: Option<NonZeroU32>,
}

/// What a start, or a reopening, finds on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The place of the last reading.
    pub last_seq: Seq,
    /// The sessions, by number.
    pub sessions: Vec<RecoveredSession>,
    /// Every message that a delivery speaks of.
    pub messages: Vec<(MessageId, Arc<Message>)>,
    /// The retained messages.
    pub retained: Vec<Message>,
    /// The largest number any session ever had.
    pub last_session: SessionId,
    /// The largest number of a message there is.
    pub last_message: MessageId,
    /// The largest number of a delivery there is.
    pub last_delivery: DeliveryId,
}

/// A session with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSession {
    /// The session; `ended` is none if it had a connection when the broker stopped.
    pub row: SessionRow,
    /// Its subscriptions.
    pub subscriptions: Vec<(Box<str>, Terms)>,
    /// What was on its way to it, oldest first.
    pub deliveries: Vec<DeliveryRow>,
    /// Messages of QoS 2 it sent and did not release.
    pub unreleased: Vec<PacketId>,
    /// Its will, and when that is due if its connection was over.
    pub will: Option<(Will, Option<Mono>)>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.quarantined.is_empty()
            && self.changes.is_empty()
            && self.settlements.is_empty()
            && self.over.is_empty()
    }

    /// The last reading's place, if there is a reading.
    pub fn last_seq(&self) -> Option<Seq> {
        self.records.last().map(|record| record.seq)
    }
}
