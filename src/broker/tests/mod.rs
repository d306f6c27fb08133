//! The broker as its clients see it, without a socket, a file or a clock.

mod closing;
mod connecting;
mod delivering;
mod downlink;
mod durable;
mod gateways;
mod learning;
mod pacing;
mod publishing;
mod put_off;
mod retaining;
mod storing;
mod sys_topics;

#[path = "../../../tests/support/durable_model.rs"]
mod durable_model;

use std::{net::IpAddr, net::Ipv4Addr, time::Duration};

use super::*;
use crate::{
    identity::{Rights, Role, TokenHash},
    ids::DeviceName,
    record::Record,
};

use durable_model::DurableModel;

/// A broker with two devices and a local client, a store that can be told to fail, and a clock that stands still unless moved.
struct World {
    broker: Broker,
    now: Now,
    stored: Vec<Record>,
    quarantined: Vec<crate::record::Quarantined>,
    durable: DurableModel,
    store_works: bool,
    next_slot: u32,
}

const PUMP_TOKEN: &str = "PUMPTOKEN";
const FAN_TOKEN: &str = "FANTOKEN";
const PANEL_TOKEN: &str = "PANELTOKEN";
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl World {
    fn new() -> Self {
        Self::with_limits(|_| {})
    }

    fn with_limits(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::begin(limits, DeviceGrants::default())
    }

    fn begin(limits: Limits, grants: DeviceGrants) -> Self {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        let start = Start { identities: identities(), grants, recovered: Recovered::default(), seed: 7 };
        Self {
            broker: Broker::new(limits, start, now),
            now,
            stored: Vec::new(),
            quarantined: Vec::new(),
            durable: DurableModel::default(),
            store_works: true,
            next_slot: 0,
        }
    }

    /// The same, with `grants` for devices.
    fn with_grants(grants: DeviceGrants) -> Self {
        Self::begin(Limits::default(), grants)
    }

    /// A connection that has sent nothing.
    fn accept(&mut self) -> ConnId {
        self.accept_from(HOME)
    }

    fn accept_from(&mut self, address: IpAddr) -> ConnId {
        self.next_slot += 1;
        let conn = ConnId { slot: self.next_slot, epoch: 1 };
        self.broker.handle_connected(conn, address, self.now);
        conn
    }

    /// A client of `version` that was let in with `token` as `client_id`; its CONNACK was read.
    fn client(&mut self, version: u8, token: &str, client_id: &str) -> ConnId {
        let conn = self.accept();
        self.send(conn, &connect(version, client_id, Some(token), 60));
        let connack = self.sent(conn);
        assert_eq!(connack.get(..1), Some(&[0x20][..]), "not let in: {connack:02x?}");
        assert_eq!(connack[3], 0, "refused: {connack:02x?}");
        conn
    }

    /// The pump, online with version 3.1.1.
    fn pump(&mut self) -> ConnId {
        self.client(4, PUMP_TOKEN, "pump")
    }

    /// The pump, online with version 5.
    fn pump_v5(&mut self) -> ConnId {
        self.client(5, PUMP_TOKEN, "pump")
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.broker.handle_bytes(conn, bytes, self.now);
    }

    /// What the broker has to say to `conn`, taken as the socket would take it.
    fn sent(&mut self, conn: ConnId) -> Vec<u8> {
        let Some(outbox) = self.broker.output(conn) else { return Vec::new() };
        let (front, back) = outbox.as_slices();
        let bytes = [front, back].concat();
        outbox.consume(bytes.len());
        bytes
    }

    /// One commit, if one is due; the store works or fails as it was told. Returns whether there was one.
    fn commit(&mut self) -> bool {
        let Some((through, batch)) = self.broker.poll_commit() else { return false };
        if self.store_works {
            self.durable.commit(&batch);
            self.stored.extend(batch.records);
            self.quarantined.extend(batch.quarantined);
            self.broker.handle_committed(through, self.now);
        } else {
            self.broker.handle_commit_failed(self.now);
        }
        true
    }

    /// The broker is killed and started again: what was not committed is lost, and so are all connections.
    fn restart(&mut self) {
        self.restart_with(identities());
    }

    /// The same, with a registry that was changed meanwhile.
    fn restart_with(&mut self, identities: Vec<Identity>) {
        let start = Start {
            identities,
            grants: DeviceGrants::default(),
            recovered: self.durable.recovered(),
            seed: 8,
        };
        self.broker = Broker::new(self.broker.limits.clone(), start, self.now);
        self.broker.check_invariants();
    }

    fn wait(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
        self.now.wall.0 += span.as_millis() as i64;
        self.broker.handle_timeout(self.now);
    }

    /// Why `conn` was closed; the socket is then gone.
    fn closed(&mut self, conn: ConnId) -> Option<CloseReason> {
        let at = self.broker.closes.iter().position(|(closed, _)| *closed == conn)?;
        let (_, reason) = self.broker.closes.remove(at).expect("just found");
        Some(reason)
    }

    fn is_open(&self, conn: ConnId) -> bool {
        self.broker.connections.get(conn).is_some_and(|c| !matches!(c.phase, Phase::Closing))
    }

    fn values(&self) -> Vec<&str> {
        self.stored.iter().map(|record| record.values.as_str()).collect()
    }
}

fn identities() -> Vec<Identity> {
    [("pump", PUMP_TOKEN), ("fan", FAN_TOKEN)]
        .into_iter()
        .zip(1..)
        .map(|((name, token), id)| device(id, name, token))
        .chain([Identity { role: Role::Client(Rights::default()), ..device(3, "panel", PANEL_TOKEN) }])
        .collect()
}

fn device(id: i64, name: &str, token: &str) -> Identity {
    Identity {
        id: IdentityId(id),
        name: DeviceName::parse(name).expect("valid"),
        role: Role::Device,
        token_hash: TokenHash::of(token),
        enabled: true,
        created: Wall(0),
        last_seen: None,
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        let more = if rest > 127 { 0x80 } else { 0 };
        bytes.push((rest % 128) as u8 | more);
        rest /= 128;
        if rest == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn connect(version: u8, client_id: &str, token: Option<&str>, keep_alive_s: u16) -> Vec<u8> {
    connect_with(version, client_id, token, keep_alive_s, 0x02, &[])
}

fn connect_with(
    version: u8,
    client_id: &str,
    token: Option<&str>,
    keep_alive_s: u16,
    flags: u8,
    properties: &[u8],
) -> Vec<u8> {
    let mut body = string(if version == 3 { "MQIsdp" } else { "MQTT" });
    body.push(version);
    body.push(flags | if token.is_some() { 0x80 } else { 0 });
    body.extend(keep_alive_s.to_be_bytes());
    if version == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(string(client_id));
    if let Some(token) = token {
        body.extend(string(token));
    }
    packet(0x10, &body)
}

fn publish(version: u8, packet_id: u16, payload: &str) -> Vec<u8> {
    publish_to("v1/devices/me/telemetry", version, packet_id, payload)
}

/// QoS 1, or QoS 0 if `packet_id` is zero.
fn publish_to(topic: &str, version: u8, packet_id: u16, payload: &str) -> Vec<u8> {
    let mut body = string(topic);
    if packet_id > 0 {
        body.extend(packet_id.to_be_bytes());
    }
    if version == 5 {
        body.push(0);
    }
    body.extend(payload.as_bytes());
    packet(if packet_id > 0 { 0x32 } else { 0x30 }, &body)
}

fn puback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0x40, 2, high, low]
}
