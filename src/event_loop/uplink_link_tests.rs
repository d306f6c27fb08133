//! Tests of [`Link`] against listeners of this machine, in time of our own making.

use std::{io::Write as _, net::TcpListener, path::Path};

use mio::{Events, Poll, Token};

use super::*;
use crate::net::{
    certificates::{self, CaKey},
    tls_client::Trust,
    tls_hub,
};

const PATIENCE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

fn place(host: &str) -> HubPlace {
    HubPlace { url: format!("mqtt://{host}:1"), host: host.to_owned(), port: 1, tls: None }
}

fn way<'a>(place: &'a HubPlace, poll: &'a Poll) -> Way<'a> {
    Way { place, registry: poll.registry(), token: Token(1) }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

/// An address where nobody listens.
fn closed() -> SocketAddr {
    listener().1
}

/// A link, and the poll that tells of its events.
struct World {
    poll: Poll,
    events: Events,
    place: HubPlace,
    link: Link,
    now: Mono,
}

impl World {
    fn new(place: HubPlace) -> Self {
        let poll = Poll::new().expect("poll");
        Self { poll, events: Events::with_capacity(4), place, link: Link::new(), now: Mono(0) }
    }

    fn dial(&mut self, addresses: &[SocketAddr]) -> Attempt {
        self.link.dial(addresses.iter().copied().collect(), way(&self.place, &self.poll), self.now)
    }

    /// Goes on at once, without having been told of anything.
    fn advance(&mut self) -> Attempt {
        self.link.advance(way(&self.place, &self.poll), self.now)
    }

    /// Waits for an event, and goes on.
    fn go_on(&mut self) -> Attempt {
        self.poll.poll(&mut self.events, Some(PATIENCE)).expect("poll");
        assert!(!self.events.is_empty(), "out of patience");
        self.events.iter().for_each(|event| self.link.on_event(event));
        self.advance()
    }

    /// Dials `addresses` and follows the attempt to its end.
    fn attempt(&mut self, addresses: &[SocketAddr]) -> Attempt {
        let mut outcome = self.dial(addresses);
        while matches!(outcome, Attempt::Pending) {
            outcome = self.go_on();
        }
        outcome
    }

    /// Lets the time of the present step pass.
    fn run_out(&mut self) -> Attempt {
        self.now = self.link.deadline().expect("each step has its time");
        self.advance()
    }

    fn dialled(&self) -> SocketAddr {
        match &self.link.stage {
            Stage::Dialling(dialling) => dialling.address,
            _ => panic!("an address is dialled"),
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.link.stage, Stage::Up { .. })
    }
}

fn words(outcome: Attempt) -> Failure {
    match outcome {
        Attempt::Failed(failure) => failure,
        Attempt::Pending | Attempt::Connected => panic!("it must fail"),
    }
}

#[test]
fn an_address_that_refuses_is_followed_by_the_next() {
    let (_hub, address) = listener();
    let mut world = World::new(place("hub"));
    assert!(matches!(world.attempt(&[closed(), address]), Attempt::Connected) && world.is_up());
}

#[test]
fn an_address_of_the_new_kind_is_dialled_as_well() {
    let Ok(hub) = TcpListener::bind("[::1]:0") else { return }; // a machine without IPv6
    let mut world = World::new(place("::1"));
    let mut resolver = Resolver::new(world.poll.registry(), Token(0)).expect("a resolver");
    world.place.port = hub.local_addr().expect("its address").port();
    let mut outcome = world.link.begin(way(&world.place, &world.poll), &mut resolver, world.now);
    while matches!(outcome, Attempt::Pending) {
        outcome = world.go_on();
    }
    assert!(matches!(outcome, Attempt::Connected) && world.is_up());
}

#[test]
fn if_no_address_answers_the_first_few_are_told_and_the_rest_counted() {
    let addresses: Vec<_> = (0..5).map(|_| closed()).collect();
    let mut world = World::new(place("hub"));
    let failure = words(world.attempt(&addresses));
    assert!(matches!(world.link.stage, Stage::Down));
    assert_eq!(failure.kind, FailureKind::Refused);
    let told = failure.words.matches("connection refused").count();
    assert!(told == 3 && failure.words.ends_with("; and 2 more"), "{}", failure.words);
}

#[test]
fn an_address_that_does_not_answer_in_time_is_given_up() {
    let (_hub, address) = listener();
    let mut world = World::new(place("hub"));
    assert!(matches!(world.dial(&[address, closed()]), Attempt::Pending));
    assert_eq!(world.link.deadline(), Some(world.now + ADDRESS_TIMEOUT));
    // No event was shown to it: to the link nothing has happened.
    assert!(matches!(world.advance(), Attempt::Pending));
    assert!(matches!(world.run_out(), Attempt::Pending));
    assert_eq!(world.link.deadline(), Some(world.now + ADDRESS_TIMEOUT), "the next has its turn");
    assert_eq!(words(world.run_out()).kind, FailureKind::TimedOut);
}

#[test]
fn each_of_many_addresses_is_tried_in_one_attempt_though_none_answers() {
    let addresses: Vec<_> = (0..16).map(|_| closed()).collect();
    let mut world = World::new(place("hub"));
    let mut tried = Vec::new();
    let mut outcome = world.dial(&addresses);
    while matches!(outcome, Attempt::Pending) {
        tried.push(world.dialled());
        outcome = world.run_out();
    }
    assert_eq!(tried, addresses);
    assert!(world.now <= Mono(0) + UPLINK_DIALS_SPAN, "{:?}", world.now);
}

#[test]
fn an_attempt_begins_where_the_last_one_has_ended() {
    let ((hub, stuck), mut tls) = (listener(), World::new(tls_place(&certificates())));
    let addresses = [stuck, closed(), closed()];
    // TCP is up, and then nobody says a word.
    tls.link.handshake_patience = HANDSHAKE_TIMEOUT_MAX;
    let mut outcome = tls.dial(&addresses);
    while matches!(outcome, Attempt::Pending) && !is_greeting(&tls) {
        outcome = tls.go_on();
    }
    let _open = hub.accept().expect("a connection");
    words(tls.run_out());
    tls.dial(&addresses);
    assert_eq!(tls.dialled(), addresses[1], "the first has had its time");
    tls.dial(&addresses);
    assert_eq!(tls.dialled(), addresses[2]);
    tls.dial(&addresses);
    assert_eq!(tls.dialled(), addresses[0]);
    tls.dial(&[closed(), addresses[2]]);
    assert_ne!(tls.dialled(), addresses[2], "an address that is gone says nothing");
}

#[test]
fn an_address_where_the_hub_has_spoken_is_tried_first_the_next_time() {
    let (hub, address) = listener();
    let addresses = [closed(), address, closed()];
    let mut world = World::new(place("hub"));
    assert!(matches!(world.attempt(&addresses), Attempt::Connected));
    let (mut connection, _) = hub.accept().expect("a connection");
    connection.write_all(b"x").expect("written");
    let mut scratch = Scratch::new();
    while world.link.read(&mut scratch, &world.place).is_none_or(|_| scratch.plaintext().is_empty()) {
        world.go_on();
    }
    world.link.close();
    world.dial(&addresses);
    assert_eq!(world.dialled(), address);
    world.dial(&addresses);
    assert_eq!(world.dialled(), addresses[2], "unless nothing more comes of it");
}

// ---- TLS ------------------------------------------------------------------------------------------------------

/// Certificates for `localhost`, and their directory.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    certificates::init(dir.path(), &["localhost".to_owned()], 0, CaKey::Discard).expect("certificates");
    dir
}

fn tls_place(certificates: &tempfile::TempDir) -> HubPlace {
    let trust = Trust { ca_file: Some(certificates.path().join("ca-root.pem")), ..Trust::default() };
    let tls = HubTls::load("localhost", &trust).expect("a configuration");
    HubPlace { tls: Some(tls), ..place("localhost") }
}

fn is_greeting(world: &World) -> bool {
    matches!(&world.link.stage, Stage::Dialling(dialling) if dialling.up_since.is_some())
}

/// A hub behind a link that carries so many bytes from it in a second of the world's time.
struct SlowHub<'a> {
    listener: TcpListener,
    certificates: &'a Path,
    bytes_per_second: usize,
}

impl SlowHub<'_> {
    /// One attempt, to its end.
    fn attempt(&self, world: &mut World) -> Attempt {
        let mut outcome = world.dial(&[self.listener.local_addr().expect("its address")]);
        while matches!(outcome, Attempt::Pending) && !is_greeting(world) {
            outcome = world.go_on();
        }
        let (mut stream, _) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        let flight = tls_hub::first_flight(&mut stream, self.certificates);
        for piece in flight.chunks(self.bytes_per_second) {
            if !matches!(outcome, Attempt::Pending) {
                break;
            }
            world.now = world.now + SECOND;
            stream.write_all(piece).expect("written");
            outcome = world.go_on();
        }
        outcome
    }
}

#[test]
fn a_handshake_that_takes_as_long_as_it_does_on_a_slow_link_is_waited_for_in_the_end() {
    let dir = certificates();
    for seconds in [10, 30, 100] {
        let mut world = World::new(tls_place(&dir));
        let mut hub = SlowHub { listener: listener().0, certificates: dir.path(), bytes_per_second: 100_000 };
        assert!(matches!(hub.attempt(&mut world), Attempt::Connected), "a quick link");
        let length = 1300; // about what comes with these certificates
        hub.bytes_per_second = length / seconds;
        let attempts = (1..=5).find(|_| matches!(hub.attempt(&mut world), Attempt::Connected));
        assert!(attempts.is_some(), "not even in five attempts, taking {seconds} s each");
        let attempts = (0..3).filter(|_| matches!(hub.attempt(&mut world), Attempt::Connected)).count();
        assert_eq!(attempts, 3, "it knows by then");
        assert!(world.link.handshake_patience <= HANDSHAKE_TIMEOUT_MAX);
        hub.bytes_per_second = 100_000;
        assert!(matches!(hub.attempt(&mut world), Attempt::Connected));
        assert_eq!(world.link.handshake_patience, HANDSHAKE_TIMEOUT, "a quick one is worth less patience");
    }
}

#[test]
fn patience_for_a_hub_that_never_ends_its_handshake_is_bounded() {
    let mut world = World::new(tls_place(&certificates()));
    let (hub, address) = listener();
    for expected in [20, 40, 80, 120, 120] {
        world.dial(&[address]);
        while !is_greeting(&world) {
            world.go_on();
        }
        let _open = hub.accept().expect("a connection");
        let began = world.now;
        assert_eq!(words(world.run_out()).kind, FailureKind::TimedOut);
        assert_eq!(world.now.since(began), SECOND * expected);
    }
}

// ---- the name -------------------------------------------------------------------------------------------------

#[test]
fn an_answer_nobody_waits_for_any_more_starts_nothing() {
    let mut world = World::new(place("localhost"));
    let World { poll, link, .. } = &mut world;
    let mut resolver = Resolver::new(poll.registry(), Token(0)).expect("a resolver");
    let place = self::place("localhost");
    let began = link.begin(way(&place, poll), &mut resolver, Mono(0));
    assert!(matches!(began, Attempt::Pending));
    let Stage::Resolving { ticket: old, .. } = link.stage else { panic!("a name is looked up") };
    let other = self::place("hub.invalid");
    link.begin(way(&other, poll), &mut resolver, Mono(0));
    let answer = |ticket| Answer { ticket, addresses: Ok(vec![closed()]) };
    link.on_answer(&answer(old), way(&place, poll), Mono(0));
    let Stage::Resolving { ticket: new, .. } = link.stage else {
        panic!("the old answer was not waited for")
    };
    link.close();
    link.on_answer(&answer(new), way(&place, poll), Mono(0));
    assert!(matches!(link.stage, Stage::Down));
}

#[test]
fn a_name_that_is_found_late_is_used_in_the_next_attempt() {
    let mut world = World::new(place("localhost"));
    let mut resolver = Resolver::new(world.poll.registry(), Token(0)).expect("a resolver");
    world.link.begin(way(&world.place, &world.poll), &mut resolver, world.now);
    let Stage::Resolving { ticket, .. } = world.link.stage else { panic!("a name is looked up") };
    let failure = words(world.run_out());
    assert_eq!((failure.kind, world.now), (FailureKind::NameNotFound, Mono(0) + NAME_LOOKUP_TIMEOUT));
    let (_hub, address) = listener();
    let answer = Answer { ticket, addresses: Ok(vec![address]) };
    for (wait, is_used) in [(SECOND * 300, true), (LATE_ANSWER_SPAN, false)] {
        world.link.unanswered = Some(ticket);
        assert!(matches!(
            world.link.on_answer(&answer, way(&world.place, &world.poll), world.now),
            Attempt::Pending
        ));
        world.now = world.now + wait;
        world.link.begin(way(&world.place, &world.poll), &mut resolver, world.now);
        assert_eq!(matches!(world.link.stage, Stage::Dialling(_)), is_used);
        world.link.close();
    }
}
