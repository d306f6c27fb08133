//! A connection this program makes itself: to the hub, with or without TLS, never waiting.
//!
//! It begins before TCP is up: [`Upstream::advance`] says when it is, and TLS with it. From then on it reads and writes
//! as a client's [`Connection`](super::connection::Connection) does. It knows no MQTT.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use rustls::ClientConnection;
use socket2::{SockRef, TcpKeepalive};

use super::{
    connection::{FAREWELL_BYTES_MAX, WriteOutcome, send},
    scratch::Scratch,
    tls_client::HubTls,
    upstream_error::UpstreamError,
};
use crate::{byte_queue::ByteQueue, limits::READ_BYTES_PER_TURN};

/// Plaintext that TLS holds for the socket; the rest waits in the queue.
const TLS_BUFFER_BYTES: usize = 16 * 1024;
/// Silence after which the kernel asks whether the other end is still there, and between its questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// A connection to the hub, or an attempt at one.
pub struct Upstream {
    stream: TcpStream,
    life: Life,
    readable: bool,
    writable: bool,
    tls: Option<Box<ClientConnection>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// TCP is not up yet.
    Dialling,
    /// TCP is up, TLS is not.
    Greeting,
    Established,
    Over,
}

/// What reading brought; [`Scratch::plaintext`] holds the bytes in each case.
#[derive(Debug)]
pub enum Reading {
    /// The hub may send more.
    Open,
    /// The hub sends nothing more.
    Closed,
    /// The connection is broken.
    Failed(UpstreamError),
}

impl Upstream {
    /// Begins to connect to `address`.
    ///
    /// # Errors
    /// If that cannot even be tried.
    pub fn connect(address: SocketAddr, tls: Option<&HubTls>) -> Result<Self, UpstreamError> {
        let tls = match tls {
            Some(tls) => {
                let mut session = ClientConnection::new(tls.config.clone(), tls.name.clone())?;
                session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
                Some(Box::new(session))
            }
            None => None,
        };
        let stream = TcpStream::connect(address)?;
        Ok(Self { stream, life: Life::Dialling, readable: false, writable: false, tls })
    }

    /// Asks `registry` to report both kinds of readiness under `token`; once, for the connection's whole life.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Notes what an event said; a closed or broken connection counts as readable, reading then says which.
    pub fn note_ready(&mut self, readable: bool, writable: bool) {
        let alive = self.life != Life::Over;
        self.readable |= readable && alive;
        self.writable |= writable && alive;
    }

    /// Whether TCP is up, be TLS or not.
    pub fn is_tcp_up(&self) -> bool {
        matches!(self.life, Life::Greeting | Life::Established)
    }

    /// Whether [`Upstream::read`] may bring something.
    pub fn can_read(&self) -> bool {
        self.readable
    }

    /// Goes on connecting as far as the network allows; true once the connection is established.
    ///
    /// # Errors
    /// Why there will be no connection.
    pub fn advance(&mut self) -> Result<bool, UpstreamError> {
        if self.life == Life::Dialling && (self.writable || self.readable) && self.tcp_is_up()? {
            self.life = Life::Greeting;
        }
        if self.life == Life::Greeting && self.greet()? {
            self.life = Life::Established;
        }
        Ok(self.life == Life::Established)
    }

    /// Reads up to a turn's portion and leaves what it means in `scratch`.
    pub fn read(&mut self, scratch: &mut Scratch) -> Reading {
        scratch.clear();
        match &mut self.tls {
            None => read_plain(&mut self.stream, &mut self.readable, scratch),
            Some(tls) => read_decrypted(tls, &mut self.stream, &mut self.readable, &mut scratch.decrypted),
        }
    }

    /// Writes until `queue` is empty or the socket full.
    pub fn write(&mut self, queue: &mut ByteQueue) -> WriteOutcome {
        if self.life != Life::Established {
            return WriteOutcome::Blocked;
        }
        let Some(tls) = &mut self.tls else {
            while !queue.is_empty() {
                let written = send(&mut self.writable, || self.stream.write_vectored(&queue.as_io_slices()));
                match written {
                    Ok(n) => queue.consume(n),
                    Err(outcome) => return outcome,
                }
            }
            return WriteOutcome::Done;
        };
        loop {
            match flush(tls, &mut self.stream, &mut self.writable) {
                WriteOutcome::Done => {}
                outcome => return outcome,
            }
            if queue.is_empty() {
                return WriteOutcome::Done;
            }
            let (front, back) = queue.as_slices();
            match tls.writer().write(if front.is_empty() { back } else { front }) {
                Ok(0) => return WriteOutcome::Blocked,
                Ok(n) => queue.consume(n),
                Err(error) => return WriteOutcome::Failed(error),
            }
        }
    }

    /// Says goodbye as far as the socket takes it at once; what was written before still arrives.
    pub fn close(mut self) {
        if let (Life::Established, Some(tls)) = (self.life, &mut self.tls) {
            tls.send_close_notify();
            flush(tls, &mut self.stream, &mut self.writable);
        }
        self.life = Life::Over;
        // Fails only if there is no connection any more.
        let _ = self.stream.shutdown(Shutdown::Write);
        // Closing with unread bytes resets the connection, and the reset would overtake our goodbye.
        let mut nowhere = [0; 4096];
        for _ in 0..FAREWELL_BYTES_MAX / nowhere.len() {
            if !matches!(self.stream.read(&mut nowhere), Ok(1..)) {
                break;
            }
        }
    }

    fn tcp_is_up(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.writable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&self.stream).set_tcp_keepalive(&keepalive)?;
        Ok(true)
    }

    /// Carries the handshake on; true when it is done, as it is without TLS.
    fn greet(&mut self) -> Result<bool, UpstreamError> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        loop {
            match flush(tls, &mut self.stream, &mut self.writable) {
                WriteOutcome::Failed(error) => return Err(error.into()),
                WriteOutcome::Done | WriteOutcome::Blocked => {}
            }
            if !tls.is_handshaking() {
                return Ok(true);
            }
            match receive(tls, &mut self.stream, &mut self.readable)? {
                Received::Bytes => {}
                Received::Nothing => return Ok(false),
                Received::End => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        }
    }
}

fn read_plain(stream: &mut TcpStream, readable: &mut bool, scratch: &mut Scratch) -> Reading {
    while *readable && scratch.plain < READ_BYTES_PER_TURN {
        match stream.read(&mut scratch.wire[scratch.plain..READ_BYTES_PER_TURN]) {
            Ok(0) => {
                *readable = false;
                return Reading::Closed;
            }
            Ok(n) => scratch.plain += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                *readable = false;
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Reading::Failed(error.into());
                }
            }
        }
    }
    Reading::Open
}

fn read_decrypted(
    tls: &mut ClientConnection,
    stream: &mut TcpStream,
    readable: &mut bool,
    plaintext: &mut Vec<u8>,
) -> Reading {
    // What the handshake brought along comes first.
    let mut ended = take_plaintext(tls, plaintext);
    while !ended && *readable && plaintext.len() < READ_BYTES_PER_TURN {
        match receive(tls, stream, readable) {
            Ok(Received::Bytes) => ended = take_plaintext(tls, plaintext),
            Ok(Received::Nothing) => break,
            Ok(Received::End) => ended = true,
            Err(error) => return Reading::Failed(error),
        }
    }
    if ended {
        *readable = false;
        return Reading::Closed;
    }
    Reading::Open
}

/// Moves what was decrypted to `plaintext`; true if the hub has said goodbye.
fn take_plaintext(tls: &mut ClientConnection, plaintext: &mut Vec<u8>) -> bool {
    // Would-block and a missing goodbye are the socket's to tell.
    tls.reader().read_to_end(plaintext).is_ok()
}

enum Received {
    Bytes,
    /// The socket has nothing now.
    Nothing,
    /// TCP has ended.
    End,
}

fn receive(
    tls: &mut ClientConnection,
    stream: &mut TcpStream,
    readable: &mut bool,
) -> Result<Received, UpstreamError> {
    while *readable {
        match tls.read_tls(stream) {
            Ok(0) => {
                *readable = false;
                return Ok(Received::End);
            }
            Ok(_) => {
                if let Err(error) = tls.process_new_packets() {
                    // The alert that tells the hub; whether it still arrives does not matter.
                    let _ = tls.write_tls(stream);
                    return Err(error.into());
                }
                return Ok(Received::Bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *readable = false,
            Err(error) => {
                *readable = false;
                return Err(error.into());
            }
        }
    }
    Ok(Received::Nothing)
}

/// Writes the ciphertext that waits.
fn flush(tls: &mut ClientConnection, stream: &mut TcpStream, writable: &mut bool) -> WriteOutcome {
    while tls.wants_write() {
        if let Err(outcome) = send(writable, || tls.write_tls(stream)) {
            return outcome;
        }
    }
    WriteOutcome::Done
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("life", &self.life)
            .field("readable", &self.readable)
            .field("writable", &self.writable)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
