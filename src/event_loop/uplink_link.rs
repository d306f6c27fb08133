//! The way to the hub, as the loop walks it: name, addresses in turn, TCP, TLS, and the connection that comes of it.
//!
//! Knows sockets and failures; what is said over the connection is the uplink's.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use mio::{Registry, Token, event::Event};

use crate::{
    byte_queue::ByteQueue,
    clock::Mono,
    limits::{ADDRESS_TIMEOUT, ADDRESS_TIMEOUT_MIN, UPLINK_CONNECT_TIMEOUT},
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

/// What one attempt at the hub, or the connection, is doing.
pub(super) enum Link {
    /// Nothing is wanted.
    Down,
    /// The name is looked up.
    Resolving(Ticket),
    /// The addresses are tried.
    Dialling(Dialling),
    /// There is a connection.
    Up(Box<Upstream>),
}

pub(super) struct Dialling {
    upstream: Box<Upstream>,
    address: SocketAddr,
    give_up: Mono,
    rest: VecDeque<SocketAddr>,
    each: Duration,
    failed: Vec<(SocketAddr, UpstreamError)>,
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
    /// Begins an attempt.
    pub(super) fn begin(&mut self, way: Way<'_>, resolver: &mut Resolver, now: Mono) -> Attempt {
        let place = way.place;
        match resolver.ask(&place.host, place.port) {
            Asking::Known(address) => self.dial([address].into(), way, now),
            Asking::Waiting(ticket) => {
                *self = Self::Resolving(ticket);
                Attempt::Pending
            }
            Asking::Busy => {
                self.fail(not_found(place, "earlier questions to the resolver have no answer yet"))
            }
            Asking::Failed(error) => self.fail(not_found(place, &error.to_string())),
        }
    }

    /// Takes the resolver's answer, if it is the one waited for.
    pub(super) fn on_answer(&mut self, answer: &Answer, way: Way<'_>, now: Mono) -> Attempt {
        if !matches!(self, Self::Resolving(expected) if *expected == answer.ticket) {
            return Attempt::Pending;
        }
        match &answer.addresses {
            Ok(addresses) => self.dial(addresses.iter().copied().collect(), way, now),
            Err(error) => self.fail(not_found(way.place, &error.to_string())),
        }
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        match self {
            Self::Down | Self::Resolving(_) => {}
            Self::Dialling(dialling) => dialling.upstream.note_ready(readable, event.is_writable()),
            Self::Up(upstream) => upstream.note_ready(readable, event.is_writable()),
        }
    }

    /// Goes on with the attempt, as far as the network and the time allow.
    pub(super) fn advance(&mut self, way: Way<'_>, now: Mono) -> Attempt {
        let Self::Dialling(dialling) = self else { return Attempt::Pending };
        let error = match dialling.upstream.advance() {
            Ok(true) => {
                let Self::Dialling(dialling) = std::mem::replace(self, Self::Down) else {
                    unreachable!("it was dialling two lines ago");
                };
                *self = Self::Up(dialling.upstream);
                return Attempt::Connected;
            }
            Ok(false) if dialling.give_up > now => return Attempt::Pending,
            Ok(false) => UpstreamError::Io(io::ErrorKind::TimedOut.into()),
            Err(error) => error,
        };
        let Self::Dialling(mut dialling) = std::mem::replace(self, Self::Down) else {
            unreachable!("it was dialling when this began");
        };
        dialling.failed.push((dialling.address, error));
        self.dial_next(dialling.rest, dialling.failed, dialling.each, way, now)
    }

    /// Reads a portion, if there may be one.
    pub(super) fn read(&mut self, scratch: &mut Scratch, place: &HubPlace) -> Option<Arrival> {
        let Self::Up(upstream) = self else { return None };
        if !upstream.can_read() {
            return None;
        }
        let error = match upstream.read(scratch) {
            Reading::Open => return Some(Arrival::Bytes),
            Reading::Closed => UpstreamError::Io(io::ErrorKind::UnexpectedEof.into()),
            Reading::Failed(error) => error,
        };
        *self = Self::Down;
        Some(Arrival::End(failure(place, &error)))
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self, queue: &mut ByteQueue, place: &HubPlace) -> Result<(), Failure> {
        let Self::Up(upstream) = self else { return Ok(()) };
        match upstream.write(queue) {
            WriteOutcome::Done | WriteOutcome::Blocked => Ok(()),
            WriteOutcome::Failed(error) => {
                *self = Self::Down;
                Err(failure(place, &error.into()))
            }
        }
    }

    /// Ends the connection with a goodbye, or gives up the attempt.
    pub(super) fn close(&mut self) {
        if let Self::Up(upstream) = std::mem::replace(self, Self::Down) {
            upstream.close();
        }
    }

    /// Whether bytes may wait to be read.
    pub(super) fn can_read(&self) -> bool {
        matches!(self, Self::Up(upstream) if upstream.can_read())
    }

    /// When the present address is given up.
    pub(super) fn deadline(&self) -> Option<Mono> {
        match self {
            Self::Dialling(dialling) => Some(dialling.give_up),
            Self::Down | Self::Resolving(_) | Self::Up(_) => None,
        }
    }

    fn dial(&mut self, addresses: VecDeque<SocketAddr>, way: Way<'_>, now: Mono) -> Attempt {
        // All of them get their turn within what the uplink allows for one attempt.
        let share = UPLINK_CONNECT_TIMEOUT / (addresses.len() as u32 + 1);
        let each = share.clamp(ADDRESS_TIMEOUT_MIN, ADDRESS_TIMEOUT);
        self.dial_next(addresses, Vec::new(), each, way, now)
    }

    fn dial_next(
        &mut self,
        mut rest: VecDeque<SocketAddr>,
        mut failed: Vec<(SocketAddr, UpstreamError)>,
        each: Duration,
        way: Way<'_>,
        now: Mono,
    ) -> Attempt {
        while let Some(address) = rest.pop_front() {
            let dialled = Upstream::connect(address, way.place.tls.as_ref()).and_then(|mut upstream| {
                upstream.register(way.registry, way.token)?;
                Ok(upstream)
            });
            match dialled {
                Ok(upstream) => {
                    let (upstream, give_up) = (Box::new(upstream), now + each);
                    *self = Self::Dialling(Dialling { upstream, address, give_up, rest, each, failed });
                    return Attempt::Pending;
                }
                Err(error) => failed.push((address, error)),
            }
        }
        self.fail(all_failed(way.place, &failed))
    }

    fn fail(&mut self, failure: Failure) -> Attempt {
        *self = Self::Down;
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
mod tests {
    use std::net::TcpListener;

    use mio::{Events, Poll, Token};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn place(host: &str) -> HubPlace {
        HubPlace { url: format!("mqtt://{host}:1"), host: host.to_owned(), port: 1, tls: None }
    }

    fn way<'a>(place: &'a HubPlace, poll: &'a Poll) -> Way<'a> {
        Way { place, registry: poll.registry(), token: Token(1) }
    }

    /// An address where nobody listens.
    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
    }

    /// Dials `addresses` and follows the attempt to its end.
    fn attempt(addresses: &[SocketAddr]) -> (Link, Attempt) {
        let mut poll = Poll::new().expect("poll");
        let mut events = Events::with_capacity(4);
        let (place, now) = (place("hub"), Mono(0));
        let mut link = Link::Down;
        let mut outcome = link.dial(addresses.iter().copied().collect(), way(&place, &poll), now);
        while matches!(outcome, Attempt::Pending) {
            poll.poll(&mut events, Some(PATIENCE)).expect("poll");
            assert!(!events.is_empty(), "out of patience");
            events.iter().for_each(|event| link.on_event(event));
            outcome = link.advance(way(&place, &poll), now);
        }
        (link, outcome)
    }

    fn words(outcome: Attempt) -> Failure {
        match outcome {
            Attempt::Failed(failure) => failure,
            Attempt::Pending | Attempt::Connected => panic!("it must fail"),
        }
    }

    #[test]
    fn an_address_that_refuses_is_followed_by_the_next() {
        let hub = TcpListener::bind("127.0.0.1:0").expect("bind");
        let (link, outcome) = attempt(&[closed(), hub.local_addr().expect("address")]);
        assert!(matches!(outcome, Attempt::Connected) && matches!(link, Link::Up(_)));
    }

    #[test]
    fn if_no_address_answers_the_first_few_are_told_and_the_rest_counted() {
        let addresses: Vec<_> = (0..5).map(|_| closed()).collect();
        let (link, outcome) = attempt(&addresses);
        let failure = words(outcome);
        assert!(matches!(link, Link::Down));
        assert_eq!(failure.kind, FailureKind::Refused);
        let told = failure.words.matches("connection refused").count();
        assert!(told == 3 && failure.words.ends_with("; and 2 more"), "{}", failure.words);
    }

    #[test]
    fn an_address_that_does_not_answer_in_time_is_given_up() {
        let poll = Poll::new().expect("poll");
        let hub = TcpListener::bind("127.0.0.1:0").expect("bind");
        let place = place("hub");
        let mut link = Link::Down;
        let addresses = [hub.local_addr().expect("address"), closed()].into();
        assert!(matches!(link.dial(addresses, way(&place, &poll), Mono(0)), Attempt::Pending));
        let deadline = link.deadline().expect("an address is given its time");
        assert_eq!(deadline, Mono(0) + ADDRESS_TIMEOUT);
        // No event was shown to it: to the link nothing has happened.
        assert!(matches!(link.advance(way(&place, &poll), Mono(0)), Attempt::Pending));
        assert!(matches!(link.advance(way(&place, &poll), deadline), Attempt::Pending));
        assert_eq!(link.deadline(), Some(deadline + ADDRESS_TIMEOUT), "the next has its turn");
        let failure = words(link.advance(way(&place, &poll), deadline + ADDRESS_TIMEOUT));
        assert_eq!(failure.kind, FailureKind::TimedOut);
    }

    #[test]
    fn many_addresses_share_the_time_of_one_attempt() {
        let poll = Poll::new().expect("poll");
        let mut link = Link::Down;
        let addresses = (0..16).map(|_| closed()).collect();
        link.dial(addresses, way(&place("hub"), &poll), Mono(0));
        assert_eq!(link.deadline(), Some(Mono(0) + ADDRESS_TIMEOUT_MIN));
    }

    #[test]
    fn an_answer_nobody_waits_for_any_more_starts_nothing() {
        let poll = Poll::new().expect("poll");
        let mut resolver = Resolver::new(poll.registry(), Token(0)).expect("a resolver");
        let place = self::place("localhost");
        let mut link = Link::Down;
        let began = link.begin(way(&place, &poll), &mut resolver, Mono(0));
        assert!(matches!(began, Attempt::Pending));
        let Link::Resolving(old) = link else { panic!("a name is looked up") };
        let other = self::place("hub.invalid");
        link.begin(way(&other, &poll), &mut resolver, Mono(0));
        let answer = |ticket| Answer { ticket, addresses: Ok(vec![closed()]) };
        link.on_answer(&answer(old), way(&place, &poll), Mono(0));
        let Link::Resolving(new) = link else { panic!("the old answer was not waited for") };
        link.close();
        link.on_answer(&answer(new), way(&place, &poll), Mono(0));
        assert!(matches!(link, Link::Down));
    }
}
