//! For tests: both ends of one connection over loopback, moved by events and bounded by patience.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{ClientConnection, SupportedProtocolVersion};

use super::{
    connection::{Connection, ReadOutcome},
    scratch::Scratch,
    tls::tests::{client_config, server_config},
};
use crate::{byte_queue::ByteQueue, limits::READ_BYTES_PER_TURN};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Our end and the client's end of one connection over loopback.
pub struct World {
    pub poll: Poll,
    pub events: Events,
    pub server: Connection,
    pub client: TcpStream,
    pub tls: Option<ClientConnection>,
    pub scratch: Scratch,
    pub queue: ByteQueue,
    /// What we read, and how it ended.
    pub received: Vec<u8>,
    pub end: Option<ReadOutcome>,
    /// What the client read.
    pub heard: Vec<u8>,
}

impl World {
    pub fn new(make: impl FnOnce(TcpStream) -> Connection) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        for stream in [&client, &server] {
            stream.set_nonblocking(true).expect("option");
            stream.set_nodelay(true).expect("option");
        }
        let poll = Poll::new().expect("poll");
        let mut client = TcpStream::from_std(client);
        let mut server = make(TcpStream::from_std(server));
        server.register(poll.registry(), Token(0)).expect("register");
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut client, Token(1), both).expect("register");
        let (scratch, queue) = (Scratch::new(), ByteQueue::default());
        let events = Events::with_capacity(8);
        let (received, heard, end, tls) = (Vec::new(), Vec::new(), None, None);
        Self { poll, events, server, client, tls, scratch, queue, received, end, heard }
    }

    pub fn plain() -> Self {
        Self::new(Connection::plain)
    }

    /// TLS on our side, and whatever the test writes on the other.
    pub fn tls_with_raw_client() -> Self {
        Self::new(|stream| Connection::tls(stream, server_config()).expect("a session"))
    }

    pub fn tls(version: &'static SupportedProtocolVersion) -> Self {
        let name = "127.0.0.1".try_into().expect("a name");
        let client = ClientConnection::new(Arc::new(client_config(version)), name).expect("a client");
        Self { tls: Some(client), ..Self::tls_with_raw_client() }
    }

    pub fn established(version: &'static SupportedProtocolVersion) -> Self {
        let mut world = Self::tls(version);
        world.until(|world| {
            world.client_turn();
            !world.server.is_handshaking() && world.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
        });
        world
    }

    /// Waits for events and lets our side read and write, until `done`.
    pub fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "out of patience");
            if !self.server.can_read() || self.end.is_some() {
                self.wait();
            }
            self.server_turn();
        }
    }

    pub fn wait(&mut self) {
        self.poll.poll(&mut self.events, Some(Duration::from_millis(20))).expect("poll");
        for event in self.events.iter().filter(|event| event.token() == Token(0)) {
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            self.server.note_ready(readable, event.is_writable());
        }
    }

    pub fn server_turn(&mut self) {
        if self.server.can_read() && self.end.is_none() {
            let outcome = self.server.read(&mut self.scratch, READ_BYTES_PER_TURN);
            self.received.extend_from_slice(self.scratch.plaintext());
            if !matches!(outcome, ReadOutcome::Open { .. }) {
                self.end = Some(outcome);
            }
        }
        if self.server.can_write() && (self.server.wants_write() || !self.queue.is_empty()) {
            self.server.write(&mut self.queue);
        }
    }

    /// Lets the client read and write all it can.
    pub fn client_turn(&mut self) {
        let Some(tls) = &mut self.tls else {
            let mut bytes = [0; 65_536];
            while let Ok(n @ 1..) = self.client.read(&mut bytes) {
                self.heard.extend_from_slice(&bytes[..n]);
            }
            return;
        };
        while tls.wants_write() && tls.write_tls(&mut self.client).is_ok() {}
        while matches!(tls.read_tls(&mut self.client), Ok(1..)) {
            tls.process_new_packets().expect("our side keeps the rules");
            let _ = tls.reader().read_to_end(&mut self.heard);
        }
    }

    pub fn client_says(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes).expect("memory"),
            None => self.client.write_all(bytes).expect("room"),
        }
    }
}
