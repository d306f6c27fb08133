//! The loop's dealings with sockets: accept, read, write, close.

use mio::event::Event;

use crate::{
    clock::Now,
    ids::ConnId,
    limits::{ACCEPTS_PER_TURN, READ_BYTES_PER_TURN},
    net::{
        connection::{Connection, ReadError, ReadOutcome, WriteOutcome},
        listener::{Accept, ListenerKind},
        tls,
        tls_session::TlsError,
    },
    session::CloseReason,
};

use super::{EventLoop, FIRST_CONNECTION};

/// One connection's socket and the name the core knows it by.
pub(super) struct Socket {
    connection: Connection,
    conn: ConnId,
    /// Whether it stands in the list of readable connections.
    listed: bool,
}

impl EventLoop {
    pub(super) fn on_socket_event(&mut self, slot: usize, event: &Event) {
        let Some(socket) = self.sockets.get_mut(slot) else { return };
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        socket.connection.note_ready(readable, event.is_writable());
        if readable && !socket.listed {
            socket.listed = true;
            self.readable.push(socket.conn);
        }
        if event.is_writable() {
            self.writable.push(socket.conn);
        }
    }

    pub(super) fn has_bytes_to_read(&self) -> bool {
        self.readable.iter().any(|conn| self.broker.wants_bytes(*conn))
            || (self.accept_retry.is_none() && self.listeners.iter().any(|listener| listener.can_accept()))
    }

    /// Accepts what waits, listener by listener, up to a bound and as long as the core admits more.
    pub(super) fn accept(&mut self, now: Now) {
        if self.accept_retry.is_some_and(|at| at > now.mono) {
            return;
        }
        self.accept_retry = None;
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.listeners[index].can_accept() {
                    break;
                }
                if !self.broker.admits_more(now) {
                    self.accept_retry = Some(now.mono + self.broker.accept_retry());
                    return;
                }
                match self.listeners[index].accept() {
                    Accept::Connection(stream, peer) => self.on_accepted(index, stream, peer, now),
                    Accept::Empty => break,
                    Accept::OutOfDescriptors => {
                        log::warn!(
                            "no descriptor is free for another connection; raise LimitNOFILE, or lower `connections`"
                        );
                        self.accept_retry = Some(now.mono + self.broker.accept_retry() * 10);
                        return;
                    }
                    Accept::Failed(error) => {
                        log::warn!("cannot accept a connection: {error}");
                        break;
                    }
                }
            }
        }
    }

    fn on_accepted(
        &mut self,
        listener: usize,
        stream: mio::net::TcpStream,
        peer: std::net::SocketAddr,
        now: Now,
    ) {
        let connection = match (self.listeners[listener].kind(), &self.tls) {
            (ListenerKind::Mqtts, Some(config)) => Connection::tls(stream, config.clone()),
            (ListenerKind::Mqtts, None) => unreachable!("a TLS listener is bound only with a certificate"),
            (ListenerKind::Mqtt, _) => Ok(Connection::plain(stream)),
        };
        let entry = self.sockets.vacant_entry();
        let slot = entry.key();
        let registered = connection.map_err(std::io::Error::other).and_then(|mut connection| {
            connection.register(self.poll.registry(), mio::Token(FIRST_CONNECTION + slot))?;
            Ok(connection)
        });
        match registered {
            Ok(connection) => {
                self.epoch = self.epoch.wrapping_add(1);
                let conn = ConnId { slot: slot as u32, epoch: self.epoch };
                entry.insert(Socket { connection, conn, listed: false });
                self.broker.handle_connected(conn, peer.ip(), now);
            }
            Err(error) => log::warn!("cannot serve a connection from {}: {error}", peer.ip()),
        }
    }

    /// Gives every readable connection one portion; those with more to say, or whose bytes are not wanted yet, stay on
    /// the list for the next turn.
    pub(super) fn read(&mut self, now: Now) {
        let round = std::mem::take(&mut self.readable);
        for conn in round {
            let stays =
                if self.broker.wants_bytes(conn) { self.read_one(conn, now) } else { self.is_open(conn) };
            if stays {
                self.readable.push(conn);
            } else if let Some(socket) = self.socket(conn) {
                socket.listed = false;
            }
        }
    }

    fn read_one(&mut self, conn: ConnId, now: Now) -> bool {
        let Some(socket) = self.sockets.get_mut(conn.slot as usize).filter(|socket| socket.conn == conn)
        else {
            return false;
        };
        let outcome = socket.connection.read(&mut self.scratch, READ_BYTES_PER_TURN);
        if socket.connection.wants_write() {
            self.writable.push(conn);
        }
        if !self.scratch.plaintext().is_empty() {
            self.broker.handle_bytes(conn, self.scratch.plaintext(), now);
        }
        match outcome {
            ReadOutcome::Open { more } => more,
            ReadOutcome::PeerClosed => {
                self.broker.handle_disconnected(conn, CloseReason::PeerClosed, now);
                false
            }
            ReadOutcome::Failed(error) => {
                log::debug!("{conn:?}: {error}");
                self.broker.handle_disconnected(conn, close_reason(&error), now);
                false
            }
        }
    }

    fn is_open(&mut self, conn: ConnId) -> bool {
        self.socket(conn).is_some()
    }

    fn socket(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.sockets.get_mut(conn.slot as usize).filter(|socket| socket.conn == conn)
    }

    /// Sends what may be sent: to those with something new, and to those whose sockets take bytes again.
    pub(super) fn write(&mut self, now: Now) {
        while let Some(conn) = self.broker.poll_output() {
            self.write_one(conn, now);
        }
        for conn in std::mem::take(&mut self.writable) {
            self.write_one(conn, now);
        }
    }

    fn write_one(&mut self, conn: ConnId, now: Now) {
        let Some(socket) = self.sockets.get_mut(conn.slot as usize).filter(|socket| socket.conn == conn)
        else {
            return;
        };
        let Some(outbox) = self.broker.output(conn) else { return };
        match socket.connection.write(outbox) {
            WriteOutcome::Failed(error) => {
                log::debug!("{conn:?}: cannot send: {error}");
                self.broker.handle_disconnected(conn, CloseReason::TransportFailed, now);
            }
            _ => self.broker.handle_written(conn, now),
        }
    }

    /// Closes what is over. Slots are freed here and nowhere else: no event of this turn is looked at any more.
    pub(super) fn close(&mut self, now: Now) {
        while let Some((conn, reason)) = self.broker.poll_close() {
            self.write_one(conn, now);
            if let Some(socket) = self.sockets.try_remove(conn.slot as usize) {
                self.let_go(socket, reason);
            }
            self.broker.handle_closed(conn);
        }
    }

    fn let_go(&mut self, mut socket: Socket, reason: CloseReason) {
        if reason != CloseReason::TransportFailed {
            socket.connection.close_notify();
        }
        socket.connection.shutdown();
    }

    /// Takes over a renewed certificate; a bad one leaves the old one in force. Live connections keep theirs.
    pub(super) fn reload_certificate(&mut self) {
        let Some(files) = &self.certificate else { return };
        match tls::load_server_config(&files.certificate, &files.key) {
            Ok(config) => {
                self.tls = Some(config);
                self.observed.note_certificate(None);
                log::info!("took over the certificate {}", files.certificate.display());
            }
            Err(error) => {
                log::error!("{error}; the certificate loaded before stays in force");
                self.observed.note_certificate(Some(error.to_string()));
            }
        }
    }
}

fn close_reason(error: &ReadError) -> CloseReason {
    match error {
        ReadError::Tls(TlsError::PlainBytes) => CloseReason::PlainOnTlsListener,
        _ => CloseReason::TransportFailed,
    }
}
