//! From bytes to packets to the rule that knows what to do with them.

use crate::{
    clock::Now,
    ids::ConnId,
    mqtt::{
        ConnAck, Connect, DecodeError, Disconnect, Header, Packet, PacketType, Properties, ProtocolVersion,
        ReasonCode, decode, parse_header,
    },
    session::{
        CloseReason, Refusal, Session,
        handle_connect::{self, Admission},
    },
};

use super::{Broker, Deadline, FIRST_SEEN_WAIT, SEEN_WAIT, StoreState, connections::Phase};

/// What an HTTP request begins with; a browser or a scanner that found the port.
const HTTP_METHODS: [&[u8]; 5] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS "];
/// What the body of a CONNECT of version 5 begins with. [§3.1.2]
const CONNECT_5: &[u8] = b"\0\x04MQTT\x05";
/// The first byte of a TLS handshake record. [RFC 8446 §5.1]
const TLS_HANDSHAKE: u8 = 0x16;

impl Broker {
    /// Takes the bytes that arrived on `conn`, in any portions; connections that are over ignore them.
    ///
    /// Only the beginning of an unfinished packet is kept, and never more of it than has arrived.
    pub fn handle_bytes(&mut self, conn: ConnId, bytes: &[u8], now: Now) {
        if self.keep_held(conn, bytes) || self.keep_behind(conn, bytes) {
            return;
        }
        self.handle_arrived(conn, bytes, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// Handles what follows on what has been handled of `conn`.
    pub(super) fn handle_arrived(&mut self, conn: ConnId, bytes: &[u8], now: Now) {
        self.filters_taken = 0;
        let rest = self.finish_partial(conn, bytes, now);
        let rest = self.handle_frames(conn, rest, now);
        self.keep_partial(conn, rest, now);
    }

    /// Completes the packet that was begun earlier, if there is one, and returns the bytes behind it.
    fn finish_partial<'b>(&mut self, conn: ConnId, mut bytes: &'b [u8], now: Now) -> &'b [u8] {
        let Some(connection) = self.connections.get_mut(conn) else { return &[] };
        if connection.partial.is_empty() {
            return bytes;
        }
        let mut frame = std::mem::take(&mut connection.partial);
        loop {
            let missing = match self.check_header(conn, &frame) {
                Ok(Some(header)) if header.frame_bytes() == frame.len() => {
                    self.deadlines.cancel(Deadline::Packet(conn));
                    if self.must_wait(conn, header, now) {
                        frame.extend_from_slice(bytes);
                        break;
                    }
                    self.handle_frame(conn, header, &frame, now);
                    if self.is_held(conn) {
                        frame.extend_from_slice(bytes);
                        break;
                    }
                    return bytes;
                }
                Ok(Some(header)) => header.frame_bytes() - frame.len(),
                Ok(None) => 1,
                Err(reason) => {
                    self.on_unfit_header(conn, reason, &frame, now);
                    return &[];
                }
            };
            if bytes.is_empty() {
                break;
            }
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            frame.extend_from_slice(more);
            bytes = rest;
        }
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.partial = frame;
        }
        &[]
    }

    /// Handles the whole packets at the front of `bytes` and returns what is behind them, or has to wait.
    fn handle_frames<'b>(&mut self, conn: ConnId, mut bytes: &'b [u8], now: Now) -> &'b [u8] {
        while !bytes.is_empty() && self.takes_packets(conn) {
            if self.must_put_off(conn) {
                return bytes;
            }
            match self.check_header(conn, bytes) {
                Ok(Some(header)) if header.frame_bytes() <= bytes.len() => {
                    if self.must_wait(conn, header, now) {
                        return bytes;
                    }
                    let (frame, rest) = bytes.split_at(header.frame_bytes());
                    self.handle_frame(conn, header, frame, now);
                    if self.is_held(conn) {
                        return bytes;
                    }
                    bytes = rest;
                }
                Ok(_) => return bytes,
                Err(reason) => self.on_unfit_header(conn, reason, bytes, now),
            }
        }
        bytes
    }

    fn keep_partial(&mut self, conn: ConnId, rest: &[u8], now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if rest.is_empty() || matches!(connection.phase, Phase::Closing) {
            return;
        }
        connection.partial = rest.to_vec();
        // The deadline of CONNECT covers its own bytes; what was put off is not the client's fault.
        if matches!(connection.phase, Phase::Active(_)) && !self.put_off.contains(&conn) {
            self.deadlines.arm_if_idle(Deadline::Packet(conn), now.mono + self.limits.packet_timeout());
        }
    }

    fn takes_packets(&self, conn: ConnId) -> bool {
        let is_deaf = |phase: &Phase| matches!(phase, Phase::Waiting | Phase::Held { .. } | Phase::Closing);
        self.connections.get(conn).is_some_and(|connection| !is_deaf(&connection.phase))
    }

    /// Reads the header at the front of `bytes` and refuses what can be refused from it alone.
    fn check_header(&self, conn: ConnId, bytes: &[u8]) -> Result<Option<Header>, CloseReason> {
        let client = self.connections.client(conn);
        let version = client.map_or(ProtocolVersion::V5, |client| client.version);
        let header = match parse_header(bytes, version) {
            Ok(header) => header,
            Err(_) if client.is_none() && bytes[0] == TLS_HANDSHAKE => {
                return Err(CloseReason::TlsOnPlainListener);
            }
            Err(_) if client.is_none() && is_http(bytes) => return Err(CloseReason::HttpOnMqttListener),
            Err(error) => return Err(CloseReason::Malformed(error)),
        };
        let Some(header) = header else { return Ok(None) };
        let session = client.and_then(|client| self.sessions.get(client.session));
        let bytes_max = match session {
            Some(session) => session.packet_bytes_max(&self.limits),
            None if is_http(bytes) => return Err(CloseReason::HttpOnMqttListener),
            None if header.packet_type != PacketType::Connect => {
                return Err(CloseReason::FirstPacketNotConnect(header.packet_type));
            }
            None => self.limits.connect_bytes,
        };
        if client.is_some() && header.packet_type == PacketType::Connect {
            return Err(CloseReason::SecondConnect);
        }
        if !header.packet_type.exists_in(version) {
            return Err(CloseReason::UnexpectedPacket(header.packet_type));
        }
        if header.frame_bytes() > bytes_max as usize {
            return Err(CloseReason::PacketTooLarge);
        }
        Ok(Some(header))
    }

    /// Whether this CONNECT is put off because its address guessed too much; its bytes are kept until then.
    fn must_wait(&mut self, conn: ConnId, header: Header, now: Now) -> bool {
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        if header.packet_type != PacketType::Connect || !matches!(connection.phase, Phase::AwaitingConnect) {
            return false;
        }
        let wait = self.refusals.wait(connection.address, now.mono, &self.limits);
        if wait.is_zero() {
            return false;
        }
        connection.phase = Phase::Waiting;
        self.deadlines.arm(Deadline::Wait(conn), now.mono + wait);
        true
    }

    fn handle_frame(&mut self, conn: ConnId, header: Header, frame: &[u8], now: Now) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.last_packet = now.mono;
        let version = match &connection.phase {
            Phase::Active(client) => client.version,
            _ => ProtocolVersion::V5,
        };
        let body = &frame[header.header_bytes..];
        match decode(header, body, version) {
            Ok(packet) => self.handle_packet(conn, packet, now),
            Err(error) => self.on_malformed(conn, header, body, error, now),
        }
        // What is held comes again.
        if !self.is_held(conn) {
            self.counters.packets_received += 1;
            self.counters.bytes_received += frame.len() as u64;
        }
    }

    fn handle_packet(&mut self, conn: ConnId, packet: Packet<'_>, now: Now) {
        let kind = match packet {
            Packet::Connect(connect) => return self.on_connect(conn, &connect, now),
            Packet::Publish(publish) => {
                self.counters.publishes_received += 1;
                return self.on_publish(conn, &publish, now);
            }
            Packet::Subscribe(subscribe) => return self.on_subscribe(conn, &subscribe, now),
            Packet::Unsubscribe(unsubscribe) => return self.on_unsubscribe(conn, &unsubscribe, now),
            Packet::PingReq => return self.reply(conn, &Packet::PingResp, now),
            Packet::Disconnect(disconnect) => return self.on_disconnect(conn, &disconnect, now),
            Packet::PubAck(ack) => return self.on_puback(conn, &ack, now),
            Packet::PubRec(ack) => return self.on_pubrec(conn, &ack, now),
            Packet::PubRel(ack) => return self.on_pubrel(conn, &ack, now),
            Packet::PubComp(ack) => return self.on_pubcomp(conn, &ack, now),
            Packet::Auth(_) => PacketType::Auth,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::PingResp => PacketType::PingResp,
        };
        self.close(conn, CloseReason::UnexpectedPacket(kind), now);
    }

    /// Who sends a CONNECT that is too large and of version 5, as far as it is here, is told so.
    fn on_unfit_header(&mut self, conn: ConnId, reason: CloseReason, bytes: &[u8], now: Now) {
        let is_stranger = self.connections.client(conn).is_none();
        if is_stranger && reason == CloseReason::PacketTooLarge && is_connect_of_version_5(bytes) {
            self.send_connack(conn, ReasonCode::PacketTooLarge, ProtocolVersion::V5, u32::MAX);
        }
        self.close(conn, reason, now);
    }

    /// A CONNECT of version 5, or of a level nobody speaks, is told why; everything else is closed.
    fn on_malformed(&mut self, conn: ConnId, header: Header, body: &[u8], error: DecodeError, now: Now) {
        if let DecodeError::UnsupportedProtocolLevel(level) = error {
            let version =
                if (6..0x80).contains(&level) { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
            return self.refuse(conn, Refusal::ProtocolLevel(level), (version, u32::MAX), now);
        }
        if header.packet_type == PacketType::Connect && body.starts_with(CONNECT_5) {
            self.send_connack(conn, error.reason_code(), ProtocolVersion::V5, u32::MAX);
        }
        self.close(conn, CloseReason::Malformed(error), now);
    }

    fn on_connect(&mut self, conn: ConnId, connect: &Connect<'_>, now: Now) {
        match self.judge_connect(conn, connect, now) {
            Ok(admission) => self.let_in(conn, admission, now),
            Err(refusal) => {
                let refusal = match refusal {
                    Refusal::UnknownToken => match self.hold_for_trial(conn, connect, now) {
                        Ok(()) => return,
                        Err(refusal) => refusal,
                    },
                    other => other,
                };
                if refusal.may_be_a_guess()
                    && let Some(connection) = self.connections.get(conn)
                {
                    self.refusals.note(connection.address, now.mono, &self.limits);
                }
                let bytes_max = connect.properties.maximum_packet_size_bytes().unwrap_or(u32::MAX);
                self.refuse(conn, refusal, (connect.version, bytes_max), now);
            }
        }
    }

    fn judge_connect(&mut self, conn: ConnId, connect: &Connect<'_>, now: Now) -> Result<Admission, Refusal> {
        handle_connect::check_terms(connect)?;
        let token = handle_connect::token(connect)?;
        let identity = self.identities.authenticate(token).ok_or(Refusal::UnknownToken)?;
        if self.store == StoreState::Failed {
            return Err(Refusal::StoreUnavailable);
        }
        if !self.rates.note_connect(identity.id, now.mono, &self.limits) {
            return Err(Refusal::ConnectRate);
        }
        self.assigned_ids += 1;
        let assigned = || assigned_client_id(self.seed, self.assigned_ids, conn);
        handle_connect::admit(connect, identity, &self.grants, assigned, &self.limits)
    }

    fn let_in(&mut self, conn: ConnId, admission: Admission, now: Now) {
        self.make_way(&admission.session, now);
        self.forget_waiting(conn);
        let properties = admission.connack_properties(&self.limits);
        let Admission { mut client, session, clean_start, window, .. } = admission;
        let (identity, name) = (session.identity, session.name.clone());
        let (version, bytes_max) = (client.version, client.answer_bytes_max);
        self.deadlines.cancel(Deadline::Connect(conn));
        self.deadlines.arm(Deadline::Silence(conn), now.mono + client.silence_max);
        let is_device = session.rights.is_device();
        self.identities.add_connection(identity, conn);
        if is_device && self.identities.connections(identity).len() == 1 {
            self.downlink.note_presence(&name);
        }
        if self.identities.note_seen(identity, now.wall) {
            self.deadlines.arm(Deadline::Seen, now.mono + FIRST_SEEN_WAIT);
        }
        self.deadlines.arm_if_idle(Deadline::Seen, now.mono + SEEN_WAIT);
        let before = self.gate.appended();
        let (slot, session_present) = self.begin_session(conn, session, window, clean_start, now);
        client.session = slot;
        self.counters.clients_admitted += 1;
        let connected = self.sessions.online_len() as u64;
        self.counters.clients_connected_max = self.counters.clients_connected_max.max(connected);
        if let Some(connection) = self.connections.get_mut(conn) {
            log::debug!("{conn:?} from {} is {name}", connection.address);
            connection.phase = Phase::Active(Box::new(client));
        }
        // The commit of this turn comes before its output: a session that was discarded stays so.
        self.commit_due |= self.gate.appended() > before;
        let properties = properties.as_properties();
        let connack = Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties });
        if !self.send(conn, &connack, version, bytes_max) {
            return self.close(conn, CloseReason::AnswerTooLarge, now);
        }
        self.pump(conn, now);
        self.end_fan_out();
    }

    /// Closes the connection that this one takes over, or its identity's oldest if there are too many.
    fn make_way(&mut self, session: &Session, now: Now) {
        let live = self.identities.connections(session.identity);
        let connections_max = if session.rights.is_device() {
            self.limits.connections_per_device
        } else {
            self.limits.connections_per_client
        };
        let is_crowded = live.len() >= connections_max as usize;
        let same = self.sessions.find(session.identity, &session.client_id);
        if let Some(old) = same.and_then(|slot| self.sessions.get(slot)?.conn) {
            self.close(old, CloseReason::TakenOver, now);
        } else if is_crowded {
            self.close(live[0], CloseReason::TooManyOfIdentity, now);
        }
    }

    /// Tells why, if the client takes a packet of that size. [MQTT-3.1.2-24 of 5.0]
    pub(super) fn refuse(
        &mut self,
        conn: ConnId,
        refusal: Refusal,
        (version, bytes_max): (ProtocolVersion, u32),
        now: Now,
    ) {
        self.send_connack(conn, refusal.code(version), version, bytes_max);
        self.close(conn, CloseReason::Refused(refusal), now);
    }

    fn send_connack(&mut self, conn: ConnId, reason: ReasonCode, version: ProtocolVersion, bytes_max: u32) {
        let properties = Properties::EMPTY;
        let connack = Packet::ConnAck(ConnAck { session_present: false, reason, properties });
        self.send(conn, &connack, version, bytes_max);
    }

    fn on_disconnect(&mut self, conn: ConnId, disconnect: &Disconnect<'_>, now: Now) {
        let Some(slot) = self.connections.client(conn).map(|client| client.session) else { return };
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let expiry_s = disconnect.properties.session_expiry_interval_s();
        // A session that was to end with its connection cannot be kept any more. [§3.14.2.2.2]
        let raises_expiry = session.expiry_s == 0 && expiry_s.is_some_and(|expiry_s| expiry_s > 0);
        let reason = match disconnect.reason {
            _ if raises_expiry => CloseReason::SessionExpiryRaised,
            reason if !reason.client_may_end_with() => CloseReason::ReasonOfServer(reason),
            ReasonCode::Success => CloseReason::Disconnected,
            _ => CloseReason::DisconnectedWithWill,
        };
        if let Some(expiry_s) = expiry_s.filter(|_| !raises_expiry) {
            session.expiry_s = expiry_s.min(session.expiry_max_s(&self.limits));
        }
        self.close(conn, reason, now);
    }

    /// Sends `packet` to a client that was let in, or ends the connection if the client takes no packet of its size.
    pub(super) fn reply(&mut self, conn: ConnId, packet: &Packet<'_>, now: Now) {
        let Some(client) = self.connections.client(conn) else { return };
        let (version, bytes_max) = (client.version, client.answer_bytes_max);
        if !self.send(conn, packet, version, bytes_max) {
            self.close(conn, CloseReason::AnswerTooLarge, now);
        }
    }
}

/// `bytes` begin with the header of a CONNECT, and as much of its body as has come.
fn is_connect_of_version_5(bytes: &[u8]) -> bool {
    let header = parse_header(bytes, ProtocolVersion::V5).ok().flatten();
    header.is_some_and(|header| bytes[header.header_bytes..].starts_with(CONNECT_5))
}

fn is_http(bytes: &[u8]) -> bool {
    HTTP_METHODS.iter().any(|method| bytes.starts_with(method))
}

/// A client id no other client has. [MQTT-3.1.3-6]
fn assigned_client_id(seed: u64, count: u64, conn: ConnId) -> String {
    let mut z = seed ^ count.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(conn.slot) << 32;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    format!("auto-{count:x}-{:016x}", z ^ (z >> 31))
}
