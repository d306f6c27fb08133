//! Devices behind gateways: for whom a gateway may speak, how many there may be, and what becomes of what it says.
//!
//! A device behind a gateway is a name and nothing else: it has no token, no session and no place in the registry. So a
//! name of the registry is never one of a gateway's devices, whatever the gateway says.

use std::collections::{BTreeSet, HashSet};

use crate::{
    clock::Now,
    device_api::{gateway_messages::DeviceReadings, own_topics::OwnFilter, session_limits},
    ids::{ConnId, DeviceName},
    limits::{GATEWAY_DEVICES_MAX, PUBLISH_OVERHEAD_BYTES},
    mqtt::{Publish, QoS, ReasonCode, TopicName},
    session::{Message, Terms},
};

use super::{Broker, routing::delivery};

/// The subscription that answers are asked for with.
const ANSWERS_FILTER: &str = "v1/devices/me/rpc/response/+";
/// What is asked of a session that has not subscribed to answers.
const UNASKED: Terms =
    Terms { qos: QoS::AtMostOnce, no_local: false, retain_as_published: false, identifier: None };

/// The devices behind gateways that have a place in the journal, or will have one with the next commit.
#[derive(Debug, Default)]
pub(super) struct DevicesBehind(HashSet<DeviceName>);

impl Broker {
    /// Tells which devices have a place in the journal; to be called once, at the start.
    pub fn handle_journal_devices(&mut self, devices: Vec<DeviceName>) {
        let unregistered = devices.into_iter().filter(|name| !self.identities.has(name));
        self.devices_behind.0.extend(unregistered);
    }

    /// Whether all of `devices` may be behind a gateway, and there is a place in the journal for those that are new.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check_behind_gateway(&self, devices: &[DeviceReadings]) -> Result<(), String> {
        if let Some(refusal) = devices.iter().find_map(|of| self.foreign(&of.device)) {
            return Err(refusal);
        }
        let with_readings = devices.iter().filter(|of| !of.readings.is_empty()).map(|of| &of.device);
        let new: BTreeSet<&DeviceName> =
            with_readings.filter(|name| !self.devices_behind.0.contains(*name)).collect();
        match new.first() {
            Some(first) if self.devices_behind.0.len() + new.len() > GATEWAY_DEVICES_MAX => Err(format!(
                "device {first} is new, and there are {GATEWAY_DEVICES_MAX} devices behind gateways already"
            )),
            _ => Ok(()),
        }
    }

    /// Why no gateway may speak for `name`.
    fn foreign(&self, name: &DeviceName) -> Option<String> {
        let is_taken = self.identities.has(name);
        is_taken.then(|| format!("{name} is a device or local client of this broker and speaks for itself"))
    }

    /// Stores what a gateway reports, all of it or nothing.
    pub(super) fn on_gateway_readings(
        &mut self,
        conn: ConnId,
        (publish, topic): (&Publish<'_>, TopicName<'_>),
        gateway: &DeviceName,
        devices: Vec<DeviceReadings>,
        now: Now,
    ) {
        if let Err(words) = self.check_behind_gateway(&devices) {
            return self.on_unfit(conn, publish, (gateway, topic), words, now);
        }
        let before = self.gate.appended();
        for DeviceReadings { device, readings } in devices {
            if !readings.is_empty() {
                self.devices_behind.0.insert(device.clone());
            }
            self.append(&device, readings, now);
        }
        self.answer_after(before, conn, publish, (ReasonCode::Success, None), now);
    }

    /// A gateway has told that a device came or went, which changes nothing; it learns whether it may speak for it.
    pub(super) fn on_gateway_presence(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        gateway: &DeviceName,
        told: Result<DeviceName, String>,
        now: Now,
    ) {
        match told.and_then(|name| self.foreign(&name).map_or(Ok(()), Err)) {
            Ok(()) => self.answer(conn, publish, ReasonCode::Success, None, now),
            Err(words) => {
                self.counters.messages_refused += 1;
                if let Some(address) = self.connections.get(conn).map(|connection| connection.address) {
                    self.tell(address, "device refused", now, || {
                        format!("the gateway {gateway} at {address} tells of a device that is none: {words}")
                    });
                }
                self.answer(conn, publish, ReasonCode::PayloadFormatInvalid, Some(words), now);
            }
        }
    }

    /// Answers a device that asks for the limits of its session, whether it has subscribed to answers or not: it asked.
    pub(super) fn on_limits_asked(&mut self, conn: ConnId, publish: &Publish<'_>, number: i32, now: Now) {
        self.answer(conn, publish, ReasonCode::Success, None, now);
        let Some(slot) = self.connections.client(conn).map(|client| client.session) else { return };
        let Some(session) = self.sessions.get(slot) else { return };
        let limits = session_limits::answer(
            session.packet_bytes_max(&self.limits).saturating_sub(PUBLISH_OVERHEAD_BYTES),
            self.limits.receive_maximum,
            self.limits.device_publishes_per_s,
            session.rights.is_gateway(),
        );
        let subscribed = OwnFilter::parse(ANSWERS_FILTER).and_then(|own| session.own_subscriptions.get(&own));
        let terms = *subscribed.unwrap_or(&UNASKED);
        let topic = session_limits::answer_topic(number);
        let topic = TopicName::parse(&topic).expect("the hub's topics are names");
        // Of QoS 0: it is about this connection, and is asked for again on the next.
        let message = Message::new(topic, limits.as_bytes(), QoS::AtMostOnce);
        self.deliver(slot, delivery(&message.into(), [&terms], None), now);
    }
}
