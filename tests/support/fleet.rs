//! Many publishers on one thread, each with a window of QoS 1 messages in flight, and a list of what was acknowledged.
//!
//! A publisher does what a good device does: after a lost connection it sends again, in order and marked as a repeat,
//! whatever was not acknowledged [MQTT-4.4.0-1]; then it goes on.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    packets::Connect,
    wire::{Reply, TELEMETRY, Version, publish},
};

/// What the messages say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// `{"n":0}`, `{"n":1}` and so on, each publisher for itself.
    Numbered,
    /// `{"temperature":25}` each time: bytes made once.
    Fixed,
}

/// The publishers.
#[derive(Debug)]
pub struct Fleet {
    poll: Poll,
    events: Events,
    publishers: Vec<Publisher>,
    style: Style,
}

#[derive(Clone, Copy, Debug)]
struct Style {
    window: usize,
    payload: Payload,
    sending: bool,
}

/// One publisher with its history.
#[derive(Debug)]
pub struct Publisher {
    connect: Vec<u8>,
    link: Option<TcpStream>,
    online: bool,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    in_flight: VecDeque<u64>,
    /// The number of the next new message: all below were sent at least once.
    pub sent: u64,
    /// Messages below this are acknowledged.
    pub acked: u64,
    /// Messages sent a second time.
    pub repeats: u64,
}

impl Fleet {
    /// An empty fleet; each publisher keeps up to `window` messages in flight.
    pub fn new(window: usize, payload: Payload) -> Self {
        Self {
            poll: Poll::new().expect("an epoll instance"),
            events: Events::with_capacity(1024),
            publishers: Vec::new(),
            style: Style { window, payload, sending: true },
        }
    }

    /// Adds a publisher; [`Fleet::reconnect`] brings it online.
    pub fn add(&mut self, client_id: &str, token: &str) {
        let connect = Connect::new(Version::V311, client_id).user(token).keep_alive_s(0).bytes();
        self.publishers.push(Publisher {
            connect,
            link: None,
            online: false,
            inbox: Vec::new(),
            outbox: Vec::new(),
            in_flight: VecDeque::new(),
            sent: 0,
            acked: 0,
            repeats: 0,
        });
    }

    /// Connects every publisher that has no connection.
    pub fn reconnect(&mut self, address: SocketAddr) {
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            if publisher.link.is_none() {
                publisher.dial(address, index, &self.poll);
            }
        }
    }

    /// The publishers, in the order they were added.
    pub fn publishers(&self) -> &[Publisher] {
        &self.publishers
    }

    /// Whether new messages are sent; repeats always are.
    pub fn set_sending(&mut self, sending: bool) {
        self.style.sending = sending;
    }

    /// How many are let in and still connected.
    pub fn online(&self) -> usize {
        self.publishers.iter().filter(|publisher| publisher.online).count()
    }

    /// How many have a connection, let in or not.
    pub fn connected(&self) -> usize {
        self.publishers.iter().filter(|publisher| publisher.link.is_some()).count()
    }

    /// Messages acknowledged, over all.
    pub fn acked(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.acked).sum()
    }

    /// Messages that wait for their acknowledgement, over all.
    pub fn in_flight(&self) -> usize {
        self.publishers.iter().map(|publisher| publisher.in_flight.len()).sum()
    }

    /// Sends and receives for so long.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Sends and receives until `done`, at most `within`; says whether it came to that.
    pub fn run_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + within;
        loop {
            if done(self) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.turn(left.min(Duration::from_millis(20)));
        }
    }

    fn turn(&mut self, longest: Duration) {
        match self.poll.poll(&mut self.events, Some(longest)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(error) => panic!("poll: {error}"),
        }
        for event in &self.events {
            let publisher = &mut self.publishers[event.token().0];
            publisher.handle_readable(self.style);
            publisher.flush();
        }
        if !self.style.sending {
            return;
        }
        // Somebody who was paused has nothing in flight that could wake him.
        for publisher in self.publishers.iter_mut().filter(|p| p.online && p.in_flight.is_empty()) {
            publisher.fill_window(self.style);
            publisher.flush();
        }
    }
}

impl Publisher {
    fn dial(&mut self, address: SocketAddr, index: usize, poll: &Poll) {
        // Refused: the broker is gone, which `connected` tells.
        let Ok(mut link) = TcpStream::connect(address) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut link, Token(index), interest).expect("a fresh descriptor");
        self.outbox = self.connect.clone();
        self.inbox.clear();
        self.link = Some(link);
    }

    fn close(&mut self) {
        self.link = None;
        self.online = false;
    }

    fn handle_readable(&mut self, style: Style) {
        let mut chunk = [0; 16 * 1024];
        loop {
            let Some(link) = &mut self.link else { return };
            match link.read(&mut chunk) {
                Ok(0) => return self.close(),
                Ok(n) => self.handle_bytes(&chunk[..n], style),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not connected yet: the writable event will come.
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(_) => return self.close(),
            }
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8], style: Style) {
        let mut rest = bytes;
        // The usual case, without a copy: whole PUBACKs of four bytes and nothing else.
        while self.inbox.is_empty() && rest.starts_with(&[0x40, 0x02]) && rest.len() >= 4 {
            self.handle_puback(u16::from_be_bytes([rest[2], rest[3]]));
            rest = &rest[4..];
        }
        self.inbox.extend(rest);
        while let Some(reply) = Reply::take(&mut self.inbox) {
            if let Some((id, _)) = reply.puback() {
                self.handle_puback(id);
            } else {
                assert_eq!(reply.connack(), Some(0), "a publisher is let in, got {reply:?}");
                self.online = true;
                self.send_again(style);
            }
        }
        if style.sending {
            self.fill_window(style);
        }
    }

    fn handle_puback(&mut self, id: u16) {
        let oldest = self.in_flight.pop_front().expect("a PUBACK answers a PUBLISH");
        assert_eq!(id, packet_id(oldest), "PUBACKs come in the order of the PUBLISHes [MQTT-4.6.0-2]");
        self.acked = oldest + 1;
    }

    fn send_again(&mut self, style: Style) {
        for number in &self.in_flight {
            let start = self.outbox.len();
            push_message(&mut self.outbox, *number, style.payload);
            self.outbox[start] |= 0x08;
        }
        self.repeats += self.in_flight.len() as u64;
    }

    fn fill_window(&mut self, style: Style) {
        while self.online && self.in_flight.len() < style.window {
            push_message(&mut self.outbox, self.sent, style.payload);
            self.in_flight.push_back(self.sent);
            self.sent += 1;
        }
    }

    fn flush(&mut self) {
        while !self.outbox.is_empty() {
            let Some(link) = &mut self.link else { return };
            match link.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.close(),
            }
        }
    }
}

fn packet_id(number: u64) -> u16 {
    (number % u64::from(u16::MAX)) as u16 + 1
}

fn push_message(out: &mut Vec<u8>, number: u64, payload: Payload) {
    let id = packet_id(number);
    match payload {
        Payload::Numbered => {
            out.extend(publish(Version::V311, TELEMETRY, 1, id, format!("{{\"n\":{number}}}")));
        }
        Payload::Fixed => {
            const BODY: &[u8] = b"{\"temperature\":25}";
            out.extend([0x32, (2 + TELEMETRY.len() + 2 + BODY.len()) as u8, 0, TELEMETRY.len() as u8]);
            out.extend(TELEMETRY.as_bytes());
            out.extend(id.to_be_bytes());
            out.extend(BODY);
        }
    }
}
