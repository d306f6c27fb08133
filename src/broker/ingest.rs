//! Readings on their way into the batch, and the answers that wait for it.

use crate::{
    clock::Now,
    device_api::telemetry::Reading,
    ids::{ConnId, DeviceName},
    mqtt::{Ack, Packet, PacketId, Properties, PropertiesBuf, Property, Publish, ReasonCode},
    record::{Quarantined, Record},
    session::{
        CloseReason, Will,
        handle_publish::{self, Verdict},
    },
};

use super::{Broker, Deadline, SEEN_WAIT, StoreState, commit_gate::HeldAck};

/// What a record costs in memory beside its text.
const RECORD_BYTES: usize = 64;

impl Broker {
    /// Judges a PUBLISH of `conn` and does what the verdict says.
    pub(super) fn on_publish(&mut self, conn: ConnId, publish: &Publish<'_>, now: Now) {
        let Some(session) = self.connections.session(conn) else { return };
        let verdict = handle_publish::judge(publish, session, &self.limits);
        let (device, name) = (session.device, session.name.clone());
        match verdict {
            Verdict::Close(reason) => self.close(conn, reason, now),
            Verdict::Answer(reason) => self.on_unserved(conn, publish, &name, reason, now),
            Verdict::Store(_) | Verdict::SetAside(_) if self.store == StoreState::Failed => {
                self.close(conn, CloseReason::StoreFailed, now);
            }
            Verdict::Store(readings) if readings.is_empty() => {
                self.answer_in_turn(conn, publish.packet_id, ReasonCode::Success, now);
            }
            Verdict::Store(readings) => {
                self.append(&name, readings, now);
                self.answer_when_durable(conn, publish.packet_id, ReasonCode::Success, None);
            }
            Verdict::SetAside(error) => {
                let words = error.to_string();
                let topic = publish.topic.map_or("", |topic| topic.as_str());
                self.set_aside(&name, topic, publish.payload, &words, now);
                self.answer_when_durable(
                    conn,
                    publish.packet_id,
                    ReasonCode::PayloadFormatInvalid,
                    Some(words),
                );
            }
        }
        self.devices.note_seen(device, now.wall);
        self.deadlines.arm_if_idle(Deadline::Seen, now.mono + SEEN_WAIT);
    }

    /// Stores the will of a connection that ended badly; nobody waits for an answer.
    pub(super) fn ingest_will(&mut self, name: &DeviceName, will: &Will, now: Now) {
        if self.store == StoreState::Failed {
            log::warn!("lost the will of {name}: the store cannot take readings at the moment");
            return;
        }
        match handle_publish::judge_telemetry(&will.payload) {
            Verdict::Store(readings) => self.append(name, readings, now),
            Verdict::SetAside(error) => {
                self.set_aside(name, &will.topic, &will.payload, &error.to_string(), now)
            }
            Verdict::Answer(_) | Verdict::Close(_) => {}
        }
    }

    /// Sends an acknowledgement whose time has come.
    pub(super) fn on_released(&mut self, ack: HeldAck, now: Now) {
        let Some(session) = self.connections.session_mut(ack.conn) else { return };
        session.unacknowledged -= 1;
        self.send_puback(ack.conn, ack.packet_id, ack.reason, ack.words.as_deref(), now);
    }

    fn append(&mut self, name: &DeviceName, readings: Vec<Reading>, now: Now) {
        if readings.is_empty() {
            return;
        }
        self.gate.append();
        for reading in readings {
            self.batch_bytes += reading.values.len() + RECORD_BYTES;
            self.batch.records.push(Record {
                seq: self.next_seq,
                device: name.clone(),
                received: now.mono,
                device_ts: reading.device_ts,
                values: reading.values,
            });
            self.next_seq = self.next_seq.next();
        }
        self.deadlines.arm_if_idle(Deadline::Commit, now.mono + self.limits.commit_wait());
    }

    fn set_aside(&mut self, name: &DeviceName, topic: &str, payload: &[u8], reason: &str, now: Now) {
        self.gate.append();
        self.batch_bytes += payload.len() + topic.len() + RECORD_BYTES;
        self.batch.quarantined.push(Quarantined {
            device: name.clone(),
            received: now.mono,
            topic: topic.to_owned(),
            reason: reason.to_owned(),
            payload: payload.to_owned(),
        });
        self.deadlines.arm_if_idle(Deadline::Commit, now.mono + self.limits.commit_wait());
    }

    fn on_unserved(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        name: &DeviceName,
        reason: ReasonCode,
        now: Now,
    ) {
        self.counters.messages_refused += 1;
        if let Some(address) = self.connections.get(conn).map(|connection| connection.address) {
            self.tell(address, "topic not served", now, || {
                format!("dropped a message of {name} at {address}: {reason}; telemetry goes to v1/devices/me/telemetry")
            });
        }
        self.answer_in_turn(conn, publish.packet_id, reason, now);
    }

    /// Holds the answer to a QoS 1 message until what was appended for it is on disk.
    fn answer_when_durable(
        &mut self,
        conn: ConnId,
        packet_id: Option<PacketId>,
        reason: ReasonCode,
        words: Option<String>,
    ) {
        let Some(packet_id) = packet_id else { return };
        let Some(session) = self.connections.session_mut(conn) else { return };
        session.unacknowledged += 1;
        self.gate.hold(conn, packet_id, reason, words.map(Into::into));
    }

    /// Answers a QoS 1 message for which nothing is kept: at once, unless answers of this connection wait, for
    /// PUBACKs leave in the order of their PUBLISHes. [MQTT-4.6.0-2]
    fn answer_in_turn(&mut self, conn: ConnId, packet_id: Option<PacketId>, reason: ReasonCode, now: Now) {
        let Some(session) = self.connections.session(conn) else { return };
        if session.unacknowledged > 0 {
            self.answer_when_durable(conn, packet_id, reason, None);
        } else if let Some(packet_id) = packet_id {
            self.send_puback(conn, packet_id, reason, None, now);
        }
    }

    fn send_puback(
        &mut self,
        conn: ConnId,
        packet_id: PacketId,
        reason: ReasonCode,
        words: Option<&str>,
        now: Now,
    ) {
        let Some(session) = self.connections.session(conn) else { return };
        let (version, bytes_max) = (session.version, session.answer_bytes_max);
        let words = words.filter(|_| session.wants_reason_strings);
        let mut properties = PropertiesBuf::new();
        if let Some(words) = words {
            properties.push(Property::ReasonString(words));
        }
        let with_words = properties.as_properties();
        let sent = [with_words, Properties::EMPTY].into_iter().any(|properties| {
            self.send(conn, &Packet::PubAck(Ack { packet_id, reason, properties }), version, bytes_max)
        });
        if !sent {
            self.close(conn, CloseReason::AnswerTooLarge, now);
        }
    }
}
