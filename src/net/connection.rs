//! One client's socket, with or without TLS: bytes in, bytes out, never waiting.
//!
//! Readiness is edge-triggered: an event sets a bit, only "would block" clears it. Reading goes through the one
//! [`Scratch`] all connections share, so a connection that says nothing owns nothing but its socket and keys. It
//! knows no MQTT.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::Arc,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use rustls::ServerConfig;

use super::tls_session::{PeerState, TlsSession};
pub use super::{scratch::Scratch, tls_error::TlsError};
use crate::{byte_queue::ByteQueue, limits::READ_BYTES_PER_TURN};

/// Bytes thrown away at [`Connection::shutdown`], so that closing is a goodbye and not a reset.
pub(super) const FAREWELL_BYTES_MAX: usize = 64 * 1024;

/// A client's connection.
pub struct Connection {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// Set by [`Connection::shutdown`]: whatever events say now, there is nothing left to do.
    over: bool,
    tls: Option<Box<TlsSession>>,
}

/// What reading brought; [`Scratch::plaintext`] holds the bytes in each case.
#[derive(Debug)]
pub enum ReadOutcome {
    /// The peer may send more.
    Open {
        /// Whether more waits already: the budget ended first.
        more: bool,
    },
    /// The peer sends nothing more.
    PeerClosed,
    /// The connection is broken, or the peer breaks TLS.
    Failed(ReadError),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub enum ReadError {
    /// The network's doing.
    Io(io::Error),
    /// The peer's doing.
    Tls(TlsError),
}

/// What writing achieved.
#[derive(Debug)]
pub enum WriteOutcome {
    /// Everything has left.
    Done,
    /// Bytes wait for the peer to read, or for its part of the handshake; an event will come.
    Blocked,
    /// The connection is broken.
    Failed(io::Error),
}

/// Why filling the scratch stopped.
enum Filled {
    BudgetSpent,
    WouldBlock,
    PeerClosed,
    Failed(io::Error),
}

impl Connection {
    /// A connection in the clear.
    pub fn plain(stream: TcpStream) -> Self {
        // A fresh socket has room; trying costs less than waiting for the event.
        Self { stream, readable: false, writable: true, over: false, tls: None }
    }

    /// A connection on which the client must start a TLS handshake.
    ///
    /// # Errors
    /// If the configuration cannot serve anybody.
    pub fn tls(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let session = TlsSession::new(config)?;
        Ok(Self { tls: Some(Box::new(session)), ..Self::plain(stream) })
    }

    /// Asks `registry` to report both kinds of readiness under `token`; once, for the connection's whole life.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Notes what an event said; a closed or broken peer counts as readable, reading then says which.
    pub fn note_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable && !self.over;
        self.writable |= writable && !self.over;
    }

    /// Whether [`Connection::read`] may bring something.
    pub fn can_read(&self) -> bool {
        self.readable
    }

    /// Whether [`Connection::write`] may get rid of something.
    pub fn can_write(&self) -> bool {
        self.writable
    }

    /// Whether bytes wait here that are in no queue: encrypted ones, or our part of the handshake.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.outgoing().is_empty())
    }

    /// Whether a TLS handshake is going on; never for a plain connection.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The peer's address, while it is connected.
    ///
    /// # Errors
    /// If it is not.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Reads at most `budget` bytes off the socket (and at most [`READ_BYTES_PER_TURN`]) and leaves what they mean in
    /// `scratch`. Replies of the handshake leave at once.
    pub fn read(&mut self, scratch: &mut Scratch, budget: usize) -> ReadOutcome {
        scratch.clear();
        let budget = budget.min(READ_BYTES_PER_TURN);
        let held = self.tls.as_ref().map_or(&[][..], |tls| tls.leftover());
        let start = held.len();
        scratch.wire[..start].copy_from_slice(held);
        let (n, filled) = self.fill(&mut scratch.wire[start..start + budget]);

        let mut outcome = match filled {
            Filled::BudgetSpent => ReadOutcome::Open { more: self.readable },
            Filled::WouldBlock => ReadOutcome::Open { more: false },
            Filled::PeerClosed => ReadOutcome::PeerClosed,
            Filled::Failed(error) => ReadOutcome::Failed(ReadError::Io(error)),
        };
        let Some(tls) = &mut self.tls else {
            scratch.plain = n;
            return outcome;
        };
        if n > 0 {
            match tls.handle_ciphertext(&mut scratch.wire[..start + n], &mut scratch.decrypted) {
                Ok(PeerState::Open) => {}
                Ok(PeerState::Closed) => outcome = ReadOutcome::PeerClosed,
                Err(error) => outcome = ReadOutcome::Failed(ReadError::Tls(error)),
            }
            // After its end nothing in the socket matters, and nobody shall be called for it.
            self.readable &= matches!(outcome, ReadOutcome::Open { .. });
        }
        match (self.flush(), &outcome) {
            (WriteOutcome::Failed(error), ReadOutcome::Open { .. }) => {
                ReadOutcome::Failed(ReadError::Io(error))
            }
            _ => outcome,
        }
    }

    /// Writes until `queue` is empty or the socket full.
    ///
    /// With TLS at most one record is encrypted ahead of the socket, so a slow reader costs 16 KiB beside its queue.
    pub fn write(&mut self, queue: &mut ByteQueue) -> WriteOutcome {
        if self.tls.is_some() { self.write_encrypted(queue) } else { self.write_plain(queue) }
    }

    /// Says goodbye in TLS, as far as the socket takes it at once; nothing in the clear.
    pub fn close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.queue_close_notify();
            self.flush();
        }
    }

    /// Ends the connection so that bytes already written still arrive; it is then dropped.
    ///
    /// Closing a socket with unread bytes in it resets the connection, and the reset overtakes our last words: what
    /// is there is thrown away first. From now on it is neither readable nor writable.
    pub fn shutdown(&mut self) {
        if self.over {
            return; // each shutdown(2) raises an event, which would keep a loop turning
        }
        // Fails only if the peer was faster.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut nowhere = [0; 4096];
        for _ in 0..FAREWELL_BYTES_MAX / nowhere.len() {
            if !matches!(self.stream.read(&mut nowhere), Ok(n) if n > 0) {
                break;
            }
        }
        (self.readable, self.writable, self.over) = (false, false, true);
    }

    fn fill(&mut self, buffer: &mut [u8]) -> (usize, Filled) {
        let mut n = 0;
        while self.readable && n < buffer.len() {
            match self.stream.read(&mut buffer[n..]) {
                Ok(0) => {
                    self.readable = false;
                    return (n, Filled::PeerClosed);
                }
                Ok(more) => n += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    let blocked = error.kind() == io::ErrorKind::WouldBlock;
                    return (n, if blocked { Filled::WouldBlock } else { Filled::Failed(error) });
                }
            }
        }
        (n, Filled::BudgetSpent)
    }

    fn write_plain(&mut self, queue: &mut ByteQueue) -> WriteOutcome {
        while !queue.is_empty() {
            let written = send(&mut self.writable, || self.stream.write_vectored(&queue.as_io_slices()));
            match written {
                Ok(n) => queue.consume(n),
                Err(outcome) => return outcome,
            }
        }
        WriteOutcome::Done
    }

    fn write_encrypted(&mut self, queue: &mut ByteQueue) -> WriteOutcome {
        loop {
            match self.flush() {
                WriteOutcome::Done => {}
                outcome => return outcome,
            }
            if queue.is_empty() {
                return WriteOutcome::Done;
            }
            let Some(tls) = &mut self.tls else { return WriteOutcome::Done };
            let (front, back) = queue.as_slices();
            match tls.encrypt(if front.is_empty() { back } else { front }) {
                Ok(0) => return WriteOutcome::Blocked,
                Ok(n) => queue.consume(n),
                Err(error) => return WriteOutcome::Failed(io::Error::other(error)),
            }
        }
    }

    /// Writes the ciphertext that waits.
    fn flush(&mut self) -> WriteOutcome {
        let Some(tls) = &mut self.tls else { return WriteOutcome::Done };
        while !tls.outgoing().is_empty() {
            match send(&mut self.writable, || self.stream.write(tls.outgoing())) {
                Ok(n) => tls.consume_outgoing(n),
                Err(outcome) => return outcome,
            }
        }
        WriteOutcome::Done
    }
}

/// Calls `write` until it is not interrupted; what it wrote, or why it did not.
pub(super) fn send(
    writable: &mut bool,
    mut write: impl FnMut() -> io::Result<usize>,
) -> Result<usize, WriteOutcome> {
    while *writable {
        match write() {
            Ok(0) => return Err(WriteOutcome::Failed(io::ErrorKind::WriteZero.into())),
            Ok(n) => return Ok(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *writable = false,
            Err(error) => return Err(WriteOutcome::Failed(error)),
        }
    }
    Err(WriteOutcome::Blocked)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("readable", &self.readable)
            .field("writable", &self.writable)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::version::{TLS12, TLS13};
    use socket2::SockRef;

    use super::*;
    use crate::net::loopback::{PATIENCE, World};

    #[test]
    fn plain_bytes_go_both_ways() {
        let mut world = World::plain();
        assert!(!world.server.is_tls() && !world.server.is_handshaking());
        world.client_says(b"ping");
        world.until(|world| world.received == b"ping");
        world.queue.push(b"pong");
        assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Done));
        world.until(|world| {
            world.client_turn();
            world.heard == b"pong"
        });
    }

    #[test]
    fn a_read_keeps_to_its_budget_and_only_would_block_ends_readiness() {
        let mut world = World::plain();
        world.client_says(&[7; 100]);
        while !world.server.can_read() {
            world.wait();
        }
        let outcome = world.server.read(&mut world.scratch, 60);
        assert!(matches!(outcome, ReadOutcome::Open { more: true }));
        assert_eq!(world.scratch.plaintext().len(), 60);
        let outcome = world.server.read(&mut world.scratch, 60);
        assert!(matches!(outcome, ReadOutcome::Open { more: false }));
        assert_eq!(world.scratch.plaintext().len(), 40);
        assert!(!world.server.can_read());
        world.server.read(&mut world.scratch, usize::MAX);
        assert!(world.scratch.plaintext().is_empty(), "old bytes are not read twice");
    }

    #[test]
    fn no_budget_is_larger_than_the_scratch() {
        let mut world = World::plain();
        world.client_says(&[7; 3 * READ_BYTES_PER_TURN]);
        while !world.server.can_read() {
            world.wait();
        }
        world.server.read(&mut world.scratch, usize::MAX);
        assert!(world.scratch.plaintext().len() <= READ_BYTES_PER_TURN);
        world.until(|world| world.received.len() + READ_BYTES_PER_TURN >= 3 * READ_BYTES_PER_TURN);
    }

    #[test]
    fn last_words_and_goodbye_come_together() {
        let mut world = World::plain();
        world.client_says(b"last words");
        world.client.shutdown(Shutdown::Both).expect("shutdown");
        world.until(|world| world.end.is_some());
        assert!(matches!(world.end, Some(ReadOutcome::PeerClosed)));
        assert_eq!(world.received, b"last words");
        assert!(!world.server.can_read(), "nothing to spin on");
    }

    #[test]
    fn a_reset_is_an_error() {
        let mut world = World::plain();
        SockRef::from(&world.client).set_linger(Some(Duration::ZERO)).expect("option");
        world.client = World::plain().client; // and the old one is dropped
        world.until(|world| world.end.is_some());
        let Some(ReadOutcome::Failed(error)) = &world.end else { panic!("{:?}", world.end) };
        assert!(matches!(error, ReadError::Io(error) if error.kind() == io::ErrorKind::ConnectionReset));
        world.queue.push(b"x");
        assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Failed(_)));
    }

    #[test]
    fn a_slow_reader_blocks_and_gets_everything_in_the_end() {
        let mut world = World::plain();
        let sent: Vec<u8> = (0..8_000_000u32).map(|i| i as u8).collect();
        world.queue.push(&sent);
        assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Blocked));
        assert!(!world.server.can_write() && !world.queue.is_empty());
        world.until(|world| {
            world.client_turn();
            world.heard.len() == sent.len()
        });
        assert!(world.heard == sent && world.queue.is_empty());
    }

    #[test]
    fn tls_carries_bytes_both_ways_in_both_versions() {
        for version in [&TLS12, &TLS13] {
            let mut world = World::tls(version);
            assert!(world.server.is_tls() && world.server.is_handshaking());
            world.client_says(b"ping");
            world.until(|world| {
                world.client_turn();
                world.received == b"ping"
            });
            world.queue.push(b"pong");
            assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Done));
            world.until(|world| {
                world.client_turn();
                world.heard == b"pong"
            });
            assert!(!world.server.wants_write());
        }
    }

    //
    #[test]
    fn tls_in_segments_of_one_byte_works() {
        for version in [&TLS12, &TLS13] {
            let mut world = World::tls(version);
            world.client_says(b"ping");
            let mut upward: Vec<u8> = Vec::new();
            world.until(|world| {
                let tls = world.tls.as_mut().expect("a TLS client");
                while tls.wants_write() {
                    tls.write_tls(&mut upward).expect("memory");
                }
                if !upward.is_empty() && world.client.write(&upward[..1]).is_ok() {
                    upward.remove(0);
                }
                while matches!(tls.read_tls(&mut world.client), Ok(1..)) {
                    tls.process_new_packets().expect("our side keeps the rules");
                }
                world.received == b"ping"
            });
        }
    }

    #[test]
    fn a_slow_tls_reader_costs_one_record_beside_its_queue() {
        let mut world = World::established(&TLS13);
        let sent: Vec<u8> = (0..8_000_000u32).map(|i| i as u8).collect();
        world.queue.push(&sent);
        assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Blocked));
        assert!(world.server.wants_write());
        let waiting = world.server.tls.as_ref().expect("TLS").outgoing().len();
        assert!(waiting <= 17_000, "{waiting}");
        world.until(|world| {
            world.client_turn();
            world.heard.len() == sent.len()
        });
        assert!(world.heard == sent && !world.server.wants_write());
    }

    #[test]
    fn large_tls_traffic_upwards_arrives_complete() {
        let mut world = World::established(&TLS12);
        world.tls.as_mut().expect("a TLS client").set_buffer_limit(None);
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i / 3) as u8).collect();
        world.client_says(&sent);
        world.until(|world| {
            world.client_turn();
            world.received.len() == sent.len()
        });
        assert!(world.received == sent);
    }

    #[test]
    fn nothing_leaves_a_queue_before_the_handshake_is_over() {
        let mut world = World::tls_with_raw_client();
        world.queue.push(b"secret");
        assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Blocked));
        assert_eq!(world.queue.len(), 6);
        assert!(!world.server.wants_write(), "nothing to spin on");
    }

    //
    #[test]
    fn plain_mqtt_on_the_tls_port_is_told() {
        let mut world = World::tls_with_raw_client();
        world.client_says(b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04pump");
        world.until(|world| world.end.is_some());
        let Some(ReadOutcome::Failed(ReadError::Tls(error))) = &world.end else { panic!("{:?}", world.end) };
        assert_eq!(*error, TlsError::PlainBytes);
        assert!(world.received.is_empty());
    }

    #[test]
    fn a_broken_handshake_is_answered_by_an_alert() {
        let mut world = World::tls_with_raw_client();
        world.client_says(&[0x16, 3, 1, 0, 4, 99, 0, 0, 0]);
        world.until(|world| {
            world.client_turn();
            !world.heard.is_empty()
        });
        assert_eq!(world.heard[0], 0x15);
        assert!(matches!(world.end, Some(ReadOutcome::Failed(ReadError::Tls(TlsError::Protocol(_))))));
    }

    #[test]
    fn a_stalled_handshake_leaves_nothing_to_spin_on() {
        let mut world = World::tls_with_raw_client();
        world.client_says(&[0x16, 3, 1]);
        world.until(|world| !world.server.tls.as_ref().expect("TLS").leftover().is_empty());
        world.until(|world| !world.server.can_read());
        assert!(!world.server.wants_write() && world.end.is_none());
    }

    #[test]
    fn our_goodbye_reaches_a_tls_client() {
        let mut world = World::established(&TLS13);
        world.server.close_notify();
        world.server.shutdown();
        world.until(|world| {
            let tls = world.tls.as_mut().expect("a TLS client");
            let _ = tls.read_tls(&mut world.client);
            tls.process_new_packets().expect("valid").peer_has_closed()
        });
    }

    #[test]
    fn a_tls_client_may_leave_with_or_without_a_word() {
        for says_goodbye in [true, false] {
            let mut world = World::established(&TLS13);
            world.client_says(b"last words");
            if says_goodbye {
                world.tls.as_mut().expect("a TLS client").send_close_notify();
            }
            world.client_turn();
            world.client.shutdown(Shutdown::Write).expect("shutdown");
            world.until(|world| world.end.is_some());
            assert!(matches!(world.end, Some(ReadOutcome::PeerClosed)));
            assert_eq!(world.received, b"last words");
        }
    }

    #[test]
    fn unread_bytes_do_not_turn_our_last_words_into_a_reset() {
        let mut world = World::plain();
        world.client_says(&[7; 10_000]);
        while !world.server.can_read() {
            world.wait();
        }
        world.queue.push(&[9; 8_000_000]); // so much that part of it waits in the kernel when we close
        assert!(matches!(world.server.write(&mut world.queue), WriteOutcome::Blocked));
        world.server.shutdown();
        let World { server, client, queue, .. } = world;
        drop(server);
        let client: std::net::TcpStream = client.into();
        client.set_nonblocking(false).expect("option");
        client.set_read_timeout(Some(PATIENCE)).expect("option");
        let mut heard = Vec::new();
        (&client).read_to_end(&mut heard).expect("no reset");
        assert_eq!(heard.len() + queue.len(), 8_000_000);
    }

    #[test]
    fn after_shutdown_no_event_wakes_it_again() {
        for mut world in [World::plain(), World::established(&TLS13)] {
            world.client.shutdown(Shutdown::Both).expect("shutdown");
            while !world.server.can_read() {
                world.wait();
            }
            for _ in 0..3 {
                world.server.close_notify();
                world.server.shutdown();
                world.wait();
                assert!(!world.server.can_read() && !world.server.can_write());
            }
            let outcome = world.server.read(&mut world.scratch, 100);
            assert!(matches!(outcome, ReadOutcome::Open { more: false }));
        }
    }

    #[test]
    fn no_bytes_show_in_debug_output() {
        let mut world = World::plain();
        world.client_says(b"SECRET");
        world.until(|world| !world.received.is_empty());
        let shown = format!("{:?}", world.server);
        assert!(!shown.contains("83, 69") && !shown.contains("SECRET"), "{shown}");
    }
}
