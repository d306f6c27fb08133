//! Turns a host's name into addresses, on a thread of its own: the system's resolver blocks for as long as it likes.
//!
//! One thread, made when the first name is asked for; a literal address needs none. Questions wait in a bounded queue,
//! answers come back through a [`Waker`] of the loop. Dropping the resolver lets the thread end after what it is
//! looking up; nobody waits for it.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError},
    },
    thread,
};

use mio::{Registry, Token, Waker};

use crate::limits::{ADDRESSES_PER_NAME_MAX, NAME_LOOKUPS_MAX};

/// Looks up names for the loop.
pub struct Resolver {
    waker: Arc<Waker>,
    lookup: Lookup,
    thread: Option<Channels>,
    /// What the thread has been asked and has not answered, oldest first.
    asked: VecDeque<Asked>,
    last_ticket: u64,
}

/// Which question an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What a name stands for.
#[derive(Debug)]
pub struct Answer {
    /// The question; one that is not waited for any more may be forgotten.
    pub ticket: Ticket,
    /// Every address to try, in turn, at least one; or why there is none.
    pub addresses: Result<Vec<SocketAddr>, io::Error>,
}

/// What asking brought.
#[derive(Debug)]
pub enum Asking {
    /// The name is an address itself.
    Known(SocketAddr),
    /// An event for the resolver's token will come, and then [`Resolver::take`] has the answer.
    Waiting(Ticket),
    /// The resolver still looks for names asked for before.
    Busy,
    /// There can be no thread.
    Failed(io::Error),
}

type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

struct Asked {
    host: String,
    port: u16,
    ticket: Ticket,
}

struct Channels {
    questions: SyncSender<(String, u16)>,
    answers: Receiver<io::Result<Vec<SocketAddr>>>,
}

impl Resolver {
    /// A resolver whose answers are announced under `token`; the one waker there may be on a poll.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Self::with_lookup(registry, token, system_lookup)
    }

    fn with_lookup(registry: &Registry, token: Token, lookup: Lookup) -> io::Result<Self> {
        let waker = Arc::new(Waker::new(registry, token)?);
        Ok(Self { waker, lookup, thread: None, asked: VecDeque::new(), last_ticket: 0 })
    }

    /// Asks where `host` is; a question that is being looked up already is not asked twice.
    pub fn ask(&mut self, host: &str, port: u16) -> Asking {
        if let Some(address) = literal(host) {
            return Asking::Known(SocketAddr::new(address, port));
        }
        // The answer is for everybody who has asked meanwhile.
        if let Some(asked) = self.asked.iter().find(|asked| asked.host == host && asked.port == port) {
            return Asking::Waiting(asked.ticket);
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let channels = match self.channels() {
            Ok(channels) => channels,
            Err(error) => return Asking::Failed(error),
        };
        match channels.questions.try_send((host.to_owned(), port)) {
            Ok(()) => {
                self.asked.push_back(Asked { host: host.to_owned(), port, ticket });
                Asking::Waiting(ticket)
            }
            Err(TrySendError::Full(_)) => Asking::Busy,
            Err(TrySendError::Disconnected(_)) => {
                self.forget_thread();
                Asking::Failed(thread_is_gone())
            }
        }
    }

    /// The next answer, if there is one; called until there is none when an event for the token came.
    pub fn take(&mut self) -> Option<Answer> {
        let addresses = match self.thread.as_ref()?.answers.try_recv() {
            Ok(addresses) => addresses,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                let ticket = self.asked.pop_front().map(|asked| asked.ticket);
                if self.asked.is_empty() {
                    self.forget_thread();
                }
                return ticket.map(|ticket| Answer { ticket, addresses: Err(thread_is_gone()) });
            }
        };
        let asked = self.asked.pop_front().expect("the thread answers only what it was asked, in order");
        Some(Answer { ticket: asked.ticket, addresses })
    }

    fn channels(&mut self) -> io::Result<&Channels> {
        match &mut self.thread {
            Some(channels) => Ok(channels),
            none => Ok(none.insert(start(self.lookup, Arc::clone(&self.waker))?)),
        }
    }

    fn forget_thread(&mut self) {
        self.thread = None;
        self.asked.clear();
    }
}

fn start(lookup: Lookup, waker: Arc<Waker>) -> io::Result<Channels> {
    let (questions, asked) = mpsc::sync_channel::<(String, u16)>(NAME_LOOKUPS_MAX);
    // Answers are never more than questions: the queue of questions bounds both.
    let (answer, answers) = mpsc::channel();
    let work = move || {
        while let Ok((host, port)) = asked.recv() {
            let found = lookup(&host, port).and_then(|addresses| in_turn(&addresses));
            if answer.send(found).is_err() {
                return; // nobody is there any more
            }
            if let Err(error) = waker.wake() {
                log::warn!("cannot wake the loop for an answer: {error}");
            }
        }
    };
    thread::Builder::new().name("resolver".to_owned()).spawn(work)?;
    Ok(Channels { questions, answers })
}

fn system_lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

fn thread_is_gone() -> io::Error {
    io::Error::other("the thread that looks up names has ended")
}

/// The address a host is, if it is one; an IPv6 address may stand in brackets.
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    inner.parse().ok()
}

/// The addresses in the order they are to be tried: as the system sorted them, but the two families by turns, so that
/// one that leads nowhere does not hold up the other.
fn in_turn(addresses: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let family = |first: bool| addresses.iter().filter(move |a| (a.is_ipv6() == first_is_v6) == first);
    let (mut one, mut other) = (family(true), family(false));
    let mut turns: Vec<SocketAddr> = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            break;
        }
        for address in pair.into_iter().flatten() {
            if !turns.contains(address) && turns.len() < ADDRESSES_PER_NAME_MAX {
                turns.push(*address);
            }
        }
    }
    if turns.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(turns) }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Mutex,
        time::{Duration, Instant},
    };

    use mio::{Events, Poll};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn answer(poll: &mut Poll, resolver: &mut Resolver) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        let mut events = Events::with_capacity(4);
        loop {
            if let Some(answer) = resolver.take() {
                return answer;
            }
            assert!(Instant::now() < deadline, "out of patience");
            poll.poll(&mut events, Some(PATIENCE)).expect("poll");
            assert!(events.iter().all(|event| event.token() == Token(7)));
        }
    }

    fn waiting(asking: Asking) -> Ticket {
        match asking {
            Asking::Waiting(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_literal_address_needs_no_thread() {
        let poll = Poll::new().expect("poll");
        let mut resolver = Resolver::new(poll.registry(), Token(7)).expect("a resolver");
        for (host, expected) in
            [("10.0.0.1", "10.0.0.1:1883"), ("::1", "[::1]:1883"), ("[::1]", "[::1]:1883")]
        {
            let Asking::Known(address) = resolver.ask(host, 1883) else { panic!("{host}") };
            assert_eq!(address.to_string(), expected);
        }
        assert!(resolver.thread.is_none() && resolver.take().is_none());
    }

    #[test]
    fn a_name_is_looked_up_and_the_loop_is_woken() {
        let mut poll = Poll::new().expect("poll");
        let mut resolver = Resolver::new(poll.registry(), Token(7)).expect("a resolver");
        let ticket = waiting(resolver.ask("localhost", 1884));
        let answer = answer(&mut poll, &mut resolver);
        assert_eq!(answer.ticket, ticket);
        let addresses = answer.addresses.expect("localhost is known");
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 1884));
    }

    #[test]
    fn a_name_that_is_not_found_is_an_answer_too_and_the_next_is_looked_up() {
        fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            match host {
                "nowhere" => Err(io::Error::other("no such name")),
                "empty" => Ok(vec![]),
                _ => Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]),
            }
        }
        let mut poll = Poll::new().expect("poll");
        let mut resolver = Resolver::with_lookup(poll.registry(), Token(7), lookup).expect("a resolver");
        for host in ["nowhere", "empty", "hub"] {
            let ticket = waiting(resolver.ask(host, 1));
            let answer = answer(&mut poll, &mut resolver);
            assert_eq!(answer.ticket, ticket);
            assert_eq!(answer.addresses.is_ok(), host == "hub", "{host}");
        }
    }

    /// Held by a test while its lookups hang.
    static GATE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_lookup_that_hangs_is_waited_for_once_bounds_what_waits_and_holds_up_nobody_at_the_end() {
        fn lookup(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            drop(GATE.lock());
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))])
        }
        let mut poll = Poll::new().expect("poll");
        let mut resolver = Resolver::with_lookup(poll.registry(), Token(7), lookup).expect("a resolver");
        let closed = GATE.lock().expect("nobody panics here");
        let first = waiting(resolver.ask("hub", 1));
        let second = waiting(resolver.ask("hub", 1));
        assert_eq!(first, second, "the answer is for everybody who asks meanwhile");
        assert_eq!(resolver.asked.len(), 1, "the same name is not looked up twice");
        let full = (0..100).any(|n| matches!(resolver.ask(&format!("other{n}"), 1), Asking::Busy));
        assert!(full && resolver.asked.len() <= NAME_LOOKUPS_MAX + 1);
        drop(closed);
        assert_eq!(answer(&mut poll, &mut resolver).ticket, second, "both questions get the one answer");
        let closed = GATE.lock().expect("nobody panics here");
        let dropping = Instant::now();
        drop(resolver);
        assert!(dropping.elapsed() < PATIENCE);
        drop(closed);
    }

    #[test]
    fn the_families_take_turns_and_the_systems_favourite_goes_first() {
        let sorted = addresses(&["[::1]:1", "[::2]:1", "[::2]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let expected = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(in_turn(&sorted).expect("addresses"), expected);
        let v4_first = addresses(&["10.0.0.1:1", "[::1]:1"]);
        assert_eq!(in_turn(&v4_first).expect("addresses"), v4_first);
        assert!(in_turn(&[]).is_err());
        let many: Vec<SocketAddr> = (0..100u8).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect();
        assert_eq!(in_turn(&many).expect("addresses").len(), ADDRESSES_PER_NAME_MAX);
    }
}
