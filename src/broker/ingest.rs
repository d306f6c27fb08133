//! What clients publish: readings into the batch, messages to subscribers, and the answers to both.

use std::sync::Arc;

use crate::{
    clock::Now,
    device_api::{
        gateway_messages::DeviceReadings,
        telemetry::Reading,
        topics::{self, DeviceTopic},
    },
    ids::{ConnId, DeviceName, SessionSlot, Ticket},
    mqtt::{
        Ack, Packet, PacketId, Properties, PropertiesBuf, Property, ProtocolVersion, Publish, QoS,
        ReasonCode, SubAck, TopicName, UnsubAck,
    },
    record::{Quarantined, Record, SetAsideId},
    session::{
        Client, CloseReason, Message,
        durable::Change,
        handle_publish::{self, Verdict},
    },
};

use super::{
    Broker, Deadline, SEEN_WAIT, StoreState,
    commit_gate::{AckKind, Answer, HeldAnswer},
};

/// What a record costs in memory beside its text.
const RECORD_BYTES: usize = 64;

impl Broker {
    /// Judges a PUBLISH of `conn` and does what the verdict says.
    pub(super) fn on_publish(&mut self, conn: ConnId, publish: &Publish<'_>, now: Now) {
        let Some(client) = self.connections.client_mut(conn) else { return };
        let slot = client.session;
        let spelled = match handle_publish::take_alias(publish, &mut client.aliases, &self.limits) {
            Ok(spelled) => spelled,
            Err(reason) => return self.close(conn, reason, now),
        };
        let known = spelled.as_deref().and_then(|text| TopicName::parse(text).ok());
        let topic = publish.topic.or(known).expect("a topic, or an alias that stands for one");
        let Some(session) = self.sessions.get(slot) else { return };
        let verdict = handle_publish::judge(publish, topic, client, session, &self.limits);
        let (identity, name) = (session.identity, session.name.clone());
        let publisher = session.key();
        self.pace(conn, slot, now);
        match verdict {
            Verdict::Close(reason) => self.close(conn, reason, now),
            Verdict::Answer(reason) => self.on_unserved(conn, (publish, topic), &name, reason, now),
            Verdict::TellLimits(number) => self.on_limits_asked(conn, publish, number, now),
            Verdict::Presence(told) => self.on_gateway_presence(conn, publish, &name, told, now),
            Verdict::RpcAnswer(id) => self.on_rpc_answer(conn, publish, name, id, now),
            Verdict::Repeat => self.answer(conn, publish, ReasonCode::Success, None, now),
            Verdict::Route => {
                self.on_message(conn, publish, Message::published(publish, topic, publisher, now.mono), now)
            }
            Verdict::Store(_) | Verdict::StoreBehind(_) | Verdict::SetAside(_)
                if self.store == StoreState::Failed =>
            {
                self.close(conn, CloseReason::StoreFailed, now);
            }
            Verdict::Store(_) | Verdict::StoreBehind(_) if self.is_storage_full => {
                self.on_no_room(conn, publish, now);
            }
            Verdict::Store(readings) => {
                let before = self.gate.appended();
                self.append(&name, readings, now);
                self.answer_after(before, conn, publish, (ReasonCode::Success, None), now);
            }
            Verdict::StoreBehind(devices) => {
                self.on_gateway_readings(conn, (publish, topic), &name, devices, now);
            }
            Verdict::SetAside(words) => self.on_unfit(conn, publish, (&name, topic), words, now),
        }
        self.identities.note_seen(identity, now.wall);
        self.deadlines.arm_if_idle(Deadline::Seen, now.mono + SEEN_WAIT);
    }

    /// Sets aside a payload that cannot be understood, or is not for its sender to send.
    pub(super) fn on_unfit(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        (name, topic): (&DeviceName, TopicName<'_>),
        words: String,
        now: Now,
    ) {
        let before = self.gate.appended();
        self.set_aside(name, topic.as_str(), publish.payload, &words, now);
        let answer = (ReasonCode::PayloadFormatInvalid, Some(words));
        self.answer_after(before, conn, publish, answer, now);
    }

    /// Retains a message if it is to be, and routes it; the answer waits for the disk if any of that goes there.
    fn on_message(&mut self, conn: ConnId, publish: &Publish<'_>, message: Message, now: Now) {
        let before = self.gate.appended();
        let message = Arc::new(message);
        // Who subscribed is on disk, and so is what they are owed: no answer may say that it will reach them.
        let is_owed = message.qos > QoS::AtMostOnce && self.durability.has_subscribers_in_doubt();
        if self.store == StoreState::Failed && (message.retain || is_owed) {
            return self.close(conn, CloseReason::StoreFailed, now);
        }
        if message.retain {
            // Who can be told is told, and the message goes nowhere; else it goes to those who are there.
            let hears =
                |client: &Client| client.version == ProtocolVersion::V5 && publish.qos > QoS::AtMostOnce;
            if !self.retain(&message, now) && self.connections.client(conn).is_some_and(hears) {
                return self.answer(conn, publish, ReasonCode::QuotaExceeded, None, now);
            }
        }
        self.route(message);
        self.route_pending(now);
        self.answer_after(before, conn, publish, (ReasonCode::Success, None), now);
    }

    /// Stores the will of a device whose connection ended badly; nobody waits for an answer.
    pub(super) fn ingest_will(&mut self, name: &DeviceName, will: &Message, now: Now) {
        if self.store == StoreState::Failed {
            log::warn!("lost the will of {name}: the store cannot take readings at the moment");
            return;
        }
        match handle_publish::judge_telemetry(will.payload()) {
            Verdict::Store(_) if self.is_storage_full => {
                self.counters.messages_without_room += 1;
                log::warn!("lost the will of {name}: there is no room for readings");
            }
            Verdict::Store(readings) => self.append(name, readings, now),
            Verdict::SetAside(words) => {
                let topic = will.topic().as_str().to_owned();
                self.set_aside(name, &topic, will.payload(), &words, now);
            }
            _ => {}
        }
    }

    /// Sends an answer whose time has come.
    pub(super) fn on_released(&mut self, held: HeldAnswer, now: Now) {
        let Some(client) = self.connections.client_mut(held.conn) else { return };
        client.unanswered -= 1;
        client.unanswered_qos1 -= u32::from(held.answer.is_puback());
        self.send_answer(held.conn, held.answer, now);
    }

    pub(super) fn append(&mut self, name: &DeviceName, readings: Vec<Reading>, now: Now) {
        if readings.is_empty() {
            return;
        }
        self.gate.append();
        readings.iter().for_each(|reading| self.announce(name, &reading.values));
        self.keep(name, readings, now);
        self.deadlines.arm_if_idle(Deadline::Commit, now.mono + self.limits.commit_wait());
    }

    /// Puts the readings of one message into the batch.
    fn keep(&mut self, name: &DeviceName, readings: Vec<Reading>, now: Now) {
        let needs_time = readings.iter().any(|reading| reading.device_ts.is_none());
        let received = if needs_time { self.stamps.stamp(name, now.mono) } else { now.mono };
        for Reading { device_ts, values } in readings {
            self.batch_bytes += values.len() + RECORD_BYTES;
            let (seq, device) = (self.next_seq, name.clone());
            self.batch.records.push(Record { seq, device, received, device_ts, values });
            self.next_seq = self.next_seq.next();
        }
    }

    /// What was set aside is over: dropped, or stored again as these readings, with the next commit, which is
    /// due at once. Nobody is told of them a second time.
    ///
    /// # Errors
    /// Why nothing can be stored now.
    pub fn handle_resolved(
        &mut self,
        over: SetAsideId,
        all: Vec<DeviceReadings>,
        now: Now,
    ) -> Result<(), &'static str> {
        if self.store == StoreState::Failed {
            return Err("the store is out of order");
        }
        if self.is_storage_full && !all.iter().all(|of| of.readings.is_empty()) {
            return Err("there is no room for readings");
        }
        self.gate.append();
        for DeviceReadings { device, readings } in all {
            self.keep(&device, readings, now);
        }
        self.batch.over.push(over);
        self.commit_due = true;
        Ok(())
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

    /// Refuses readings for which there is no room. Before version 5 there is no way to say no but to close.
    fn on_no_room(&mut self, conn: ConnId, publish: &Publish<'_>, now: Now) {
        self.counters.messages_without_room += 1;
        let is_v5 = |client: &Client| client.version == ProtocolVersion::V5;
        match publish.qos {
            QoS::AtMostOnce => {}
            _ if self.connections.client(conn).is_some_and(is_v5) => {
                self.answer(conn, publish, ReasonCode::QuotaExceeded, None, now);
            }
            _ => self.close(conn, CloseReason::StorageFull, now),
        }
    }

    fn on_unserved(
        &mut self,
        conn: ConnId,
        (publish, topic): (&Publish<'_>, TopicName<'_>),
        name: &DeviceName,
        reason: ReasonCode,
        now: Now,
    ) {
        self.counters.messages_refused += 1;
        let is_gateways = matches!(
            topics::classify(topic.as_str()),
            DeviceTopic::GatewayTelemetry | DeviceTopic::GatewayPresence
        );
        let words = is_gateways.then_some("this device is not marked as a gateway");
        if let Some(address) = self.connections.get(conn).map(|connection| connection.address) {
            let hint = match words {
                Some(_) => {
                    format!("it is not marked as a gateway, see `forebay device set {name} --gateway on`")
                }
                None => "telemetry goes to v1/devices/me/telemetry".to_owned(),
            };
            self.tell(address, "topic not served", now, || {
                format!("dropped a message of {name} at {address}: {reason}; {hint}")
            });
        }
        self.answer(conn, publish, reason, words.map(str::to_owned), now);
    }

    /// Answers a message for which nothing is kept, or nothing new.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        reason: ReasonCode,
        words: Option<String>,
        now: Now,
    ) {
        self.answer_after(self.gate.appended(), conn, publish, (reason, words), now);
    }

    /// Answers a message for which everything after `before` goes to disk: at once if that is nothing and no answer of
    /// this connection waits, for answers leave in the order of their PUBLISHes. [MQTT-4.6.0-2]
    pub(super) fn answer_after(
        &mut self,
        before: Ticket,
        conn: ConnId,
        publish: &Publish<'_>,
        (reason, words): (ReasonCode, Option<String>),
        now: Now,
    ) {
        let Some(packet_id) = publish.packet_id else { return };
        let Some(client) = self.connections.client(conn) else { return };
        let (slot, version) = (client.session, client.version);
        let kind = match publish.qos {
            QoS::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        // A version 5 client takes a refusal for the end of the exchange. [MQTT-4.3.3-9 of 5.0]
        let is_over = reason.is_error() && version == ProtocolVersion::V5;
        if kind == AckKind::PubRec && !is_over {
            self.note_unreleased(slot, packet_id, now);
        }
        let words = words.map(Into::into);
        self.answer_in_turn(before, conn, Answer::Ack { kind, packet_id, reason, words }, now);
    }

    /// From now on a repeat of this message of QoS 2 is known as one.
    fn note_unreleased(&mut self, slot: SessionSlot, packet_id: PacketId, now: Now) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if session.unreleased.insert(packet_id)
            && let Some(session) = session.durable
        {
            self.note(Change::Unreleased { session, packet_id }, now);
        }
    }

    /// Sends an answer, or holds it until everything appended so far is on disk: if anything was appended after
    /// `before`, if other answers of the connection wait, or if what it repeats may still be on its way to the disk.
    pub(super) fn answer_in_turn(&mut self, before: Ticket, conn: ConnId, answer: Answer, now: Now) {
        let Some(client) = self.connections.client_mut(conn) else { return };
        let is_durable = self.sessions.get(client.session).is_some_and(|session| session.durable.is_some());
        let waits =
            self.gate.appended() > before || client.unanswered > 0 || (is_durable && self.gate.waiting() > 0);
        if !waits {
            return self.send_answer(conn, answer, now);
        }
        client.unanswered += 1;
        client.unanswered_qos1 += u32::from(answer.is_puback());
        self.gate.hold(conn, answer);
    }

    fn send_answer(&mut self, conn: ConnId, answer: Answer, now: Now) {
        match answer {
            Answer::Ack { kind, packet_id, reason, words } => {
                self.send_ack(conn, (kind, packet_id, reason), words.as_deref(), now);
            }
            Answer::SubAck { packet_id, reasons, retained } => {
                let properties = Properties::EMPTY;
                self.reply(conn, &Packet::SubAck(SubAck { packet_id, properties, reasons }), now);
                self.send_retained(conn, &retained, now);
            }
            Answer::UnsubAck { packet_id, reasons } => {
                let properties = Properties::EMPTY;
                self.reply(conn, &Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }), now);
            }
        }
    }

    fn send_ack(
        &mut self,
        conn: ConnId,
        (kind, packet_id, reason): (AckKind, PacketId, ReasonCode),
        words: Option<&str>,
        now: Now,
    ) {
        let Some(client) = self.connections.client(conn) else { return };
        let (version, bytes_max) = (client.version, client.answer_bytes_max);
        let words = words.filter(|_| client.wants_reason_strings);
        let mut properties = PropertiesBuf::new();
        if let Some(words) = words {
            properties.push(Property::ReasonString(words));
        }
        let with_words = properties.as_properties();
        let sent = [with_words, Properties::EMPTY].into_iter().any(|properties| {
            let ack = Ack { packet_id, reason, properties };
            let packet = match kind {
                AckKind::PubAck => Packet::PubAck(ack),
                AckKind::PubRec => Packet::PubRec(ack),
                AckKind::PubRel => Packet::PubRel(ack),
                AckKind::PubComp => Packet::PubComp(ack),
            };
            self.send(conn, &packet, version, bytes_max)
        });
        if !sent {
            self.close(conn, CloseReason::AnswerTooLarge, now);
        }
    }
}
