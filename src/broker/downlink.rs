//! What comes from the hub for single devices, what they answer, and who of them is there.
//!
//! The topics of all this are the same for every device, so nothing here goes through the common subscriptions: a
//! message is for the sessions of the one identity it names, and for nobody else.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    clock::Now,
    device_api::downlink::{Downlink, DownlinkKind},
    ids::{ConnId, DeviceName, IdentityId, SessionSlot},
    limits::DOWNLINK_RPC_LIFE,
    mqtt::{Publish, QoS, ReasonCode, TopicName},
    session::{Message, Terms},
};

use super::{Broker, routing::delivery};

/// What has become of a message of the hub for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The device is sent it, or will be when it comes back.
    Device,
    /// The device is there and has not subscribed to such messages.
    NotSubscribed,
    /// It is not there, and no session of it is.
    NotConnected,
}

/// What a device has answered to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcAnswer {
    /// Who.
    pub device: DeviceName,
    /// The number of the command.
    pub id: i32,
    /// The answer, whatever it is.
    pub payload: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct DownlinkState {
    answers: VecDeque<RpcAnswer>,
    /// How many answers may wait; none while there is no way to the hub.
    answers_max: usize,
    /// Devices that have come or gone: one entry for each, however often.
    changed: BTreeSet<DeviceName>,
}

impl DownlinkState {
    /// The first connection of `device` has come, or its last has gone.
    pub(super) fn note_presence(&mut self, device: &DeviceName) {
        self.changed.insert(device.clone());
    }
}

impl Broker {
    /// Hands a message of the hub to the sessions of its device that have subscribed to such messages.
    pub fn handle_downlink(&mut self, downlink: &Downlink, now: Now) -> Reached {
        let identity = self.identities.device(&downlink.device);
        let takers = identity.map(|identity| self.takers(identity, downlink.kind)).unwrap_or_default();
        let reached = match identity {
            _ if !takers.is_empty() => Reached::Device,
            Some(identity) if !self.identities.connections(identity).is_empty() => Reached::NotSubscribed,
            _ => Reached::NotConnected,
        };
        match reached {
            Reached::Device => self.counters.downlinks_delivered += 1,
            Reached::NotSubscribed | Reached::NotConnected => self.counters.downlinks_undelivered += 1,
        }
        let life = matches!(downlink.kind, DownlinkKind::Rpc(_)).then_some(DOWNLINK_RPC_LIFE);
        for (slot, terms, topic) in takers {
            let topic = TopicName::parse(&topic).expect("the hub's topics are names");
            let message = Message::new(topic, downlink.payload.as_bytes(), QoS::AtLeastOnce);
            let message = Arc::new(message.living(life, now.mono));
            self.deliver(slot, delivery(&message, [&terms], None), now);
        }
        self.route_pending(now);
        self.check_invariants();
        reached
    }

    /// The sessions of `identity` that have subscribed to messages of `kind` and are there, or can be kept waiting; each
    /// once, with the topic it wants.
    fn takers(&self, identity: IdentityId, kind: DownlinkKind) -> Vec<(SessionSlot, Terms, String)> {
        let online = self.identities.connections(identity).iter();
        let online = online.filter_map(|conn| self.connections.client(*conn)).map(|client| client.session);
        let all = online.chain(self.sessions.offline(identity));
        all.filter_map(|slot| {
            let session = self.sessions.get(slot)?;
            assert_eq!(session.identity, identity, "a session of somebody else");
            let mut wanted = session.own_subscriptions.iter();
            let (terms, topic) = wanted.find_map(|(filter, terms)| Some((*terms, filter.topic(kind)?)))?;
            (session.conn.is_some() || terms.qos > QoS::AtMostOnce).then_some((slot, terms, topic))
        })
        .collect()
    }

    /// How many answers of devices to commands may be taken until this is called again: none while there is no way to
    /// the hub. Those that wait for [`Broker::poll_rpc_answer`] count.
    pub fn handle_rpc_room(&mut self, answers_max: usize) {
        self.downlink.answers_max = answers_max;
    }

    /// An answer of a device to a command; whoever has told that there is room must take it.
    pub fn poll_rpc_answer(&mut self) -> Option<RpcAnswer> {
        self.downlink.answers.pop_front()
    }

    /// A device that has come or gone since this was last asked, and whether it has a connection now.
    pub fn poll_presence(&mut self) -> Option<(DeviceName, bool)> {
        let device = self.downlink.changed.pop_first()?;
        let identity = self.identities.device(&device);
        let is_here = identity.is_some_and(|identity| !self.identities.connections(identity).is_empty());
        Some((device, is_here))
    }

    /// All devices that have a connection.
    pub fn connected_devices(&self) -> impl Iterator<Item = &DeviceName> {
        self.identities.connected_devices()
    }

    /// An answer is of no use later: if it cannot go now, the device is told so, as far as its version has a way to.
    pub(super) fn on_rpc_answer(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        device: DeviceName,
        id: i32,
        now: Now,
    ) {
        if self.downlink.answers.len() >= self.downlink.answers_max {
            self.counters.rpc_answers_refused += 1;
            return self.answer(conn, publish, ReasonCode::ImplementationSpecificError, None, now);
        }
        self.downlink.answers.push_back(RpcAnswer { device, id, payload: publish.payload.to_vec() });
        self.answer(conn, publish, ReasonCode::Success, None, now);
    }
}
