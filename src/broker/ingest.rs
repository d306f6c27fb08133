//! What clients publish: readings into the batch, messages to subscribers, and the answers to both.

use crate::{
    clock::Now,
    device_api::telemetry::Reading,
    ids::{ConnId, DeviceName},
    mqtt::{
        Ack, Packet, Properties, PropertiesBuf, Property, ProtocolVersion, Publish, QoS, ReasonCode,
        TopicName,
    },
    record::{Quarantined, Record},
    session::{
        CloseReason, Message,
        handle_publish::{self, Verdict},
    },
};

use super::{
    Broker, Deadline, SEEN_WAIT, StoreState,
    commit_gate::{AckKind, Answer, HeldAck},
};

/// What a record costs in memory beside its text.
const RECORD_BYTES: usize = 64;

impl Broker {
    /// Judges a PUBLISH of `conn` and does what the verdict says.
    pub(super) fn on_publish(&mut self, conn: ConnId, publish: &Publish<'_>, now: Now) {
        let Some(session) = self.connections.session_mut(conn) else { return };
        let spelled = match handle_publish::take_alias(publish, &mut session.aliases, &self.limits) {
            Ok(spelled) => spelled,
            Err(reason) => return self.close(conn, reason, now),
        };
        let known = spelled.as_deref().and_then(|text| TopicName::parse(text).ok());
        let topic = publish.topic.or(known).expect("a topic, or an alias that stands for one");
        let verdict = handle_publish::judge(publish, topic, session, &self.limits);
        let (identity, name) = (session.identity, session.name.clone());
        match verdict {
            Verdict::Close(reason) => self.close(conn, reason, now),
            Verdict::Answer(reason) => self.on_unserved(conn, publish, &name, reason, now),
            Verdict::Repeat => self.answer_in_turn(conn, publish, ReasonCode::Success, now),
            Verdict::Route => {
                self.route(Message::published(publish, topic, conn, now.mono));
                self.answer_in_turn(conn, publish, ReasonCode::Success, now);
                self.route_pending(now);
            }
            Verdict::Store(_) | Verdict::SetAside(_) if self.store == StoreState::Failed => {
                self.close(conn, CloseReason::StoreFailed, now);
            }
            Verdict::Store(readings) if readings.is_empty() => {
                self.answer_in_turn(conn, publish, ReasonCode::Success, now);
            }
            Verdict::Store(readings) => {
                self.append(&name, readings, now);
                self.answer_when_durable(conn, publish, ReasonCode::Success, None);
            }
            Verdict::SetAside(error) => {
                let words = error.to_string();
                self.set_aside(&name, topic.as_str(), publish.payload, &words, now);
                self.answer_when_durable(conn, publish, ReasonCode::PayloadFormatInvalid, Some(words));
            }
        }
        self.identities.note_seen(identity, now.wall);
        self.deadlines.arm_if_idle(Deadline::Seen, now.mono + SEEN_WAIT);
    }

    /// Stores the will of a device whose connection ended badly; nobody waits for an answer.
    pub(super) fn ingest_will(&mut self, name: &DeviceName, will: &Message, now: Now) {
        if self.store == StoreState::Failed {
            log::warn!("lost the will of {name}: the store cannot take readings at the moment");
            return;
        }
        match handle_publish::judge_telemetry(will.payload()) {
            Verdict::Store(readings) => self.append(name, readings, now),
            Verdict::SetAside(error) => {
                let topic = will.topic().as_str().to_owned();
                self.set_aside(name, &topic, will.payload(), &error.to_string(), now);
            }
            _ => {}
        }
    }

    /// Sends an acknowledgement whose time has come.
    pub(super) fn on_released(&mut self, ack: HeldAck, now: Now) {
        let Some(session) = self.connections.session_mut(ack.conn) else { return };
        session.unanswered -= 1;
        session.unanswered_qos1 -= u32::from(ack.answer.kind == AckKind::PubAck);
        self.send_answer(ack.conn, &ack.answer, now);
    }

    fn append(&mut self, name: &DeviceName, readings: Vec<Reading>, now: Now) {
        if readings.is_empty() {
            return;
        }
        self.gate.append();
        for reading in readings {
            self.announce(name, &reading.values);
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
        self.answer_in_turn(conn, publish, reason, now);
    }

    /// Holds the answer to a QoS 1 or 2 message until what was appended for it is on disk.
    fn answer_when_durable(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        reason: ReasonCode,
        words: Option<String>,
    ) {
        let Some(answer) = self.accept(conn, publish, reason, words) else { return };
        self.hold(conn, answer);
    }

    /// Answers a message for which nothing is kept: at once, unless answers of this connection wait, for they leave in
    /// the order of their PUBLISHes. [MQTT-4.6.0-2]
    fn answer_in_turn(&mut self, conn: ConnId, publish: &Publish<'_>, reason: ReasonCode, now: Now) {
        let Some(answer) = self.accept(conn, publish, reason, None) else { return };
        if self.connections.session(conn).is_some_and(|session| session.unanswered > 0) {
            self.hold(conn, answer);
        } else {
            self.send_answer(conn, &answer, now);
        }
    }

    /// The answer to `publish`, if its QoS asks for one; from now on a repeat of QoS 2 is known as one.
    fn accept(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        reason: ReasonCode,
        words: Option<String>,
    ) -> Option<Answer> {
        let packet_id = publish.packet_id?;
        let session = self.connections.session_mut(conn)?;
        let kind = match publish.qos {
            QoS::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        // A version 5 client takes a refusal for the end of the exchange. [MQTT-4.3.3-9 of 5.0]
        let is_over = reason.is_error() && session.version == ProtocolVersion::V5;
        if kind == AckKind::PubRec && !is_over {
            session.unreleased.insert(packet_id);
        }
        Some(Answer { kind, packet_id, reason, words: words.map(Into::into) })
    }

    fn hold(&mut self, conn: ConnId, answer: Answer) {
        let Some(session) = self.connections.session_mut(conn) else { return };
        session.unanswered += 1;
        session.unanswered_qos1 += u32::from(answer.kind == AckKind::PubAck);
        self.gate.hold(conn, answer);
    }

    fn send_answer(&mut self, conn: ConnId, answer: &Answer, now: Now) {
        let Some(session) = self.connections.session(conn) else { return };
        let (version, bytes_max) = (session.version, session.answer_bytes_max);
        let words = answer.words.as_deref().filter(|_| session.wants_reason_strings);
        let mut properties = PropertiesBuf::new();
        if let Some(words) = words {
            properties.push(Property::ReasonString(words));
        }
        let with_words = properties.as_properties();
        let sent = [with_words, Properties::EMPTY].into_iter().any(|properties| {
            let ack = Ack { packet_id: answer.packet_id, reason: answer.reason, properties };
            let packet = match answer.kind {
                AckKind::PubAck => Packet::PubAck(ack),
                AckKind::PubRec => Packet::PubRec(ack),
            };
            self.send(conn, &packet, version, bytes_max)
        });
        if !sent {
            self.close(conn, CloseReason::AnswerTooLarge, now);
        }
    }
}
