//! The way to the hub, as the loop walks it: name, addresses in turn, TCP, TLS, and the connection that comes of it.
//!
//! Knows sockets and failures; what is said over the connection is the uplink's.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use mio::{Registry, Token, event::Event};

use crate::{
    byte_queue::ByteQueue,
    clock::Mono,
    limits::{
        ADDRESS_TIMEOUT, ADDRESS_TIMEOUT_MIN, HANDSHAKE_TIMEOUT, HANDSHAKE_TIMEOUT_MAX, LATE_ANSWER_SPAN,
        NAME_LOOKUP_TIMEOUT, UPLINK_DIALS_SPAN,
    },
    net::{
        connection::WriteOutcome,
        resolver::{Answer, Asking, Resolver, Ticket},
        scratch::Scratch,
        tls_client::HubTls,
        upstream::{Reading, Upstream},
        upstream_error::UpstreamError,
    },
    uplink::{Failure, FailureKind},
};

/// Failed addresses that are told one by one.
const TOLD_MAX: usize = 3;

/// Where the hub is.
#[derive(Clone, Debug)]
pub struct HubPlace {
    /// The whole, for people.
    pub url: String,
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Present if TLS is spoken.
    pub tls: Option<HubTls>,
}

/// What a link needs to make its way.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) place: &'a HubPlace,
    pub(super) registry: &'a Registry,
    /// Under which its events come.
    pub(super) token: Token,
}

/// One attempt at the hub after the other, each with the connection that may come of it, and what earlier ones have
/// taught.
pub(super) struct Link {
    stage: Stage,
    /// How long the next TLS handshake may take.
    handshake_patience: Duration,
    /// Where the next attempt begins.
    turn: Turn,
    /// What was asked of the resolver and not waited for to the end.
    unanswered: Option<Ticket>,
    /// What it answered all the same, for the next attempt, and when.
    late_answer: Option<(Vec<SocketAddr>, Mono)>,
}

enum Stage {
    /// Nothing is wanted.
    Down,
    /// The name is looked up.
    Resolving { ticket: Ticket, give_up: Mono },
    /// The addresses are tried.
    Dialling(Dialling),
    /// There is a connection.
    Up { upstream: Box<Upstream>, address: SocketAddr },
}

struct Dialling {
    upstream: Box<Upstream>,
    address: SocketAddr,
    /// Since when TCP is up.
    up_since: Option<Mono>,
    give_up: Mono,
    others: Others,
}

/// The other addresses of an attempt.
struct Others {
    rest: VecDeque<SocketAddr>,
    /// How long each may take to accept a connection.
    each: Duration,
    /// After that none is begun with; the next attempt goes on there.
    begin_until: Mono,
    failed: Vec<(SocketAddr, UpstreamError)>,
}

/// With which address an attempt begins, so that each gets its turn.
#[derive(Clone, Copy)]
enum Turn {
    /// As the system sorts them.
    Any,
    /// The hub has answered there.
    With(SocketAddr),
    /// This one was tried last.
    Behind(SocketAddr),
}

/// What became of an attempt in this turn.
pub(super) enum Attempt {
    /// It goes on.
    Pending,
    /// There is a connection, in [`Link::Up`].
    Connected,
    Failed(Failure),
}

/// What the connection brought in this turn.
pub(super) enum Arrival {
    /// The scratch holds what came, if anything did.
    Bytes,
    /// The scratch holds the last of it.
    End(Failure),
}

impl Link {
    /// Nothing is wanted yet.
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Down,
            handshake_patience: HANDSHAKE_TIMEOUT,
            turn: Turn::Any,
            unanswered: None,
            late_answer: None,
        }
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, way: Way<'_>, resolver: &mut Resolver, now: Mono) -> Attempt {
        let place = way.place;
        self.close();
        let late_answer = self.late_answer.take().filter(|(_, at)| now.since(*at) < LATE_ANSWER_SPAN);
        if let Some((addresses, _)) = late_answer {
            return self.dial(addresses.into(), way, now);
        }
        match resolver.ask(&place.host, place.port) {
            Asking::Known(address) => self.dial([address].into(), way, now),
            Asking::Waiting(ticket) => {
                self.stage = Stage::Resolving { ticket, give_up: now + NAME_LOOKUP_TIMEOUT };
                Attempt::Pending
            }
            Asking::Busy => {
                self.fail(not_found(place, "earlier questions to the resolver have no answer yet"))
            }
            Asking::Failed(error) => self.fail(not_found(place, &error.to_string())),
        }
    }

    /// Takes the resolver's answer, if it is the one waited for; one that comes late is kept for the next attempt.
    pub(super) fn on_answer(&mut self, answer: &Answer, way: Way<'_>, now: Mono) -> Attempt {
        if !matches!(&self.stage, Stage::Resolving { ticket, .. } if *ticket == answer.ticket) {
            if self.unanswered == Some(answer.ticket) {
                self.unanswered = None;
                self.late_answer = answer.addresses.as_ref().ok().map(|found| (found.clone(), now));
            }
            return Attempt::Pending;
        }
        match &answer.addresses {
            Ok(addresses) => self.dial(addresses.iter().copied().collect(), way, now),
            Err(error) => self.fail(not_found(way.place, &error.to_string())),
        }
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        match &mut self.stage {
            Stage::Down | Stage::Resolving { .. } => {}
            Stage::Dialling(dialling) => dialling.upstream.note_ready(readable, event.is_writable()),
            Stage::Up { upstream, .. } => upstream.note_ready(readable, event.is_writable()),
        }
    }

    /// Goes on with the attempt, as far as the network and the time allow.
    pub(super) fn advance(&mut self, way: Way<'_>, now: Mono) -> Attempt {
        match std::mem::replace(&mut self.stage, Stage::Down) {
            Stage::Dialling(dialling) => self.go_on(dialling, way, now),
            Stage::Resolving { ticket, give_up } if give_up <= now => {
                self.unanswered = Some(ticket);
                let seconds = NAME_LOOKUP_TIMEOUT.as_secs();
                self.fail(not_found(way.place, &format!("nobody has answered for {seconds} s")))
            }
            stage => {
                self.stage = stage;
                Attempt::Pending
            }
        }
    }

    fn go_on(&mut self, mut dialling: Dialling, way: Way<'_>, now: Mono) -> Attempt {
        let outcome = dialling.upstream.advance();
        if dialling.up_since.is_none() && dialling.upstream.is_tcp_up() {
            dialling.up_since = Some(now);
            dialling.give_up = now + self.handshake_patience;
        }
        let error = match outcome {
            Ok(true) => {
                // A link that has shown how slow it is gets that much time, and a quick one no more than it needs.
                let took = now.since(dialling.up_since.unwrap_or(now));
                self.handshake_patience = (took * 2).clamp(HANDSHAKE_TIMEOUT, HANDSHAKE_TIMEOUT_MAX);
                let Dialling { upstream, address, .. } = dialling;
                self.stage = Stage::Up { upstream, address };
                return Attempt::Connected;
            }
            Ok(false) if dialling.give_up > now => {
                self.stage = Stage::Dialling(dialling);
                return Attempt::Pending;
            }
            Ok(false) => {
                if dialling.up_since.is_some() {
                    self.handshake_patience = (self.handshake_patience * 2).min(HANDSHAKE_TIMEOUT_MAX);
                }
                UpstreamError::Io(io::ErrorKind::TimedOut.into())
            }
            Err(error) => error,
        };
        let Dialling { address, mut others, .. } = dialling;
        others.failed.push((address, error));
        self.dial_next(others, way, now)
    }

    /// Reads a portion, if there may be one.
    pub(super) fn read(&mut self, scratch: &mut Scratch, place: &HubPlace) -> Option<Arrival> {
        let Stage::Up { upstream, address } = &mut self.stage else { return None };
        if !upstream.can_read() {
            return None;
        }
        let reading = upstream.read(scratch);
        if !scratch.plaintext().is_empty() {
            self.turn = Turn::With(*address);
        }
        let error = match reading {
            Reading::Open => return Some(Arrival::Bytes),
            Reading::Closed => UpstreamError::Io(io::ErrorKind::UnexpectedEof.into()),
            Reading::Failed(error) => error,
        };
        self.stage = Stage::Down;
        Some(Arrival::End(failure(place, &error)))
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self, queue: &mut ByteQueue, place: &HubPlace) -> Result<(), Failure> {
        let Stage::Up { upstream, .. } = &mut self.stage else { return Ok(()) };
        match upstream.write(queue) {
            WriteOutcome::Done | WriteOutcome::Blocked => Ok(()),
            WriteOutcome::Failed(error) => {
                self.stage = Stage::Down;
                Err(failure(place, &error.into()))
            }
        }
    }

    /// Ends the connection with a goodbye, or gives up the attempt.
    pub(super) fn close(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Down) {
            Stage::Up { upstream, .. } => upstream.close(),
            Stage::Resolving { ticket, .. } => self.unanswered = Some(ticket),
            Stage::Down | Stage::Dialling(_) => {}
        }
    }

    /// Whether bytes may wait to be read.
    pub(super) fn can_read(&self) -> bool {
        matches!(&self.stage, Stage::Up { upstream, .. } if upstream.can_read())
    }

    /// When the present step is given up.
    pub(super) fn deadline(&self) -> Option<Mono> {
        match &self.stage {
            Stage::Resolving { give_up, .. } => Some(*give_up),
            Stage::Dialling(dialling) => Some(dialling.give_up),
            Stage::Down | Stage::Up { .. } => None,
        }
    }

    fn dial(&mut self, mut rest: VecDeque<SocketAddr>, way: Way<'_>, now: Mono) -> Attempt {
        let place_of = |wanted| rest.iter().position(|address| *address == wanted);
        let first = match self.turn {
            Turn::Any => None,
            Turn::With(address) => place_of(address),
            Turn::Behind(address) => place_of(address).map(|place| (place + 1) % rest.len()),
        };
        rest.rotate_left(first.unwrap_or(0));
        let share = UPLINK_DIALS_SPAN / (rest.len() as u32 + 1);
        let each = share.clamp(ADDRESS_TIMEOUT_MIN, ADDRESS_TIMEOUT);
        let begin_until = now + UPLINK_DIALS_SPAN;
        self.dial_next(Others { rest, each, begin_until, failed: Vec::new() }, way, now)
    }

    fn dial_next(&mut self, mut others: Others, way: Way<'_>, now: Mono) -> Attempt {
        while others.begin_until > now
            && let Some(address) = others.rest.pop_front()
        {
            self.turn = Turn::Behind(address);
            let dialled = Upstream::connect(address, way.place.tls.as_ref()).and_then(|mut upstream| {
                upstream.register(way.registry, way.token)?;
                Ok(upstream)
            });
            match dialled {
                Ok(upstream) => {
                    let (upstream, give_up) = (Box::new(upstream), now + others.each);
                    self.stage =
                        Stage::Dialling(Dialling { upstream, address, up_since: None, give_up, others });
                    return Attempt::Pending;
                }
                Err(error) => others.failed.push((address, error)),
            }
        }
        self.fail(all_failed(way.place, &others.failed))
    }

    fn fail(&mut self, failure: Failure) -> Attempt {
        self.stage = Stage::Down;
        Attempt::Failed(failure)
    }
}

fn not_found(place: &HubPlace, words: &str) -> Failure {
    Failure::new(FailureKind::NameNotFound, format!("cannot find {}: {words}", place.host))
}

/// The failure of a whole attempt: told by the first address, or by one where a person can do something about it.
fn all_failed(place: &HubPlace, failed: &[(SocketAddr, UpstreamError)]) -> Failure {
    let telling = |(_, error): &&(SocketAddr, UpstreamError)| !matches!(error, UpstreamError::Io(_));
    let Some((_, main)) = failed.iter().find(telling).or(failed.first()) else {
        return not_found(place, "it has no address");
    };
    let mut words: Vec<String> =
        failed.iter().take(TOLD_MAX).map(|(address, error)| format!("{}: {error}", address.ip())).collect();
    if failed.len() > TOLD_MAX {
        words.push(format!("and {} more", failed.len() - TOLD_MAX));
    }
    Failure::new(kind(main), format!("cannot connect to {}: {}", place.url, words.join("; ")))
}

fn failure(place: &HubPlace, error: &UpstreamError) -> Failure {
    Failure::new(kind(error), format!("{}: {error}", place.url))
}

fn kind(error: &UpstreamError) -> FailureKind {
    use io::ErrorKind as Io;
    match error {
        UpstreamError::Tls(_) => FailureKind::Tls,
        UpstreamError::ClockUnset(_) => FailureKind::Clock,
        UpstreamError::Io(error) => match error.kind() {
            Io::ConnectionRefused => FailureKind::Refused,
            Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown | Io::AddrNotAvailable => {
                FailureKind::Unreachable
            }
            Io::TimedOut => FailureKind::TimedOut,
            Io::UnexpectedEof => FailureKind::Closed,
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => FailureKind::Reset,
            _ => FailureKind::Other,
        },
    }
}

#[cfg(test)]
#[path = "uplink_link_tests.rs"]
mod tests;
