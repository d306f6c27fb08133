//! A listening socket and what can happen when it accepts.
//!
//! It decides which failures of `accept` concern one client and which concern us; it does not decide how many
//! clients are let in, and it never waits.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use mio::{Interest, Registry, Token, net::TcpListener, net::TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections the kernel completes and keeps for us while we are busy.
const BACKLOG: i32 = 1024;
/// Clients that may be gone already when we accept them, in a row, before the turn goes on.
const RETRIES_MAX: usize = 64;
/// How long bytes we sent may stay unacknowledged before the kernel gives the peer up: it vanished without a FIN.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT in the clear; port 1883 by custom.
    Mqtt,
    /// MQTT inside TLS; port 8883 by custom.
    Mqtts,
}

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    kind: ListenerKind,
    local_addr: SocketAddr,
    ready: bool,
}

/// What one call of [`Listener::accept`] brought.
#[derive(Debug)]
pub enum Accept {
    /// A client and its address; options are set, nothing was read yet.
    Connection(TcpStream, SocketAddr),
    /// Nobody waits, or only clients that have gone again.
    Empty,
    /// Clients wait but no descriptor or memory is left for one; the listener stays ready, so try again after a
    /// connection was closed, not at once.
    OutOfDescriptors,
    /// The listener itself is broken; it is not ready any more, unless another event comes.
    Failed(io::Error),
}

impl Listener {
    /// Binds to `addr` and listens; port 0 lets the kernel choose, see [`Listener::local_addr`].
    ///
    /// An IPv6 address accepts IPv6 only, so that `0.0.0.0` and `::` can be listened on side by side.
    ///
    /// # Errors
    /// What the kernel said; [`bind_error_words`] explains it to the operator.
    pub fn bind(addr: SocketAddr, kind: ListenerKind) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into());
        let local_addr = socket.local_addr()?;
        Ok(Self { socket, kind, local_addr, ready: true })
    }

    /// The address it listens on, with the port the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What is spoken on it.
    pub fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// Asks `registry` to report new clients under `token`; once, for the listener's whole life.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    /// Notes that an event for its token came.
    pub fn note_ready(&mut self) {
        self.ready = true;
    }

    /// Whether [`Listener::accept`] may bring somebody.
    pub fn can_accept(&self) -> bool {
        self.ready
    }

    /// Takes the next waiting client, if any.
    ///
    /// Clients that went away while they waited are passed over. Only an empty queue, or a broken listener, clears
    /// [`Listener::can_accept`].
    pub fn accept(&mut self) -> Accept {
        for _ in 0..RETRIES_MAX {
            if !self.ready {
                break;
            }
            match self.socket.accept() {
                Ok((stream, addr)) => {
                    prepare(&stream);
                    let own = if addr.is_ipv6() { stream.local_addr().ok() } else { None };
                    return Accept::Connection(stream, counted_as(addr, own.map(|own| own.ip())));
                }
                Err(error) => match blame(&error) {
                    Blame::NobodyWaits => self.ready = false,
                    Blame::Client => {}
                    Blame::Shortage => return Accept::OutOfDescriptors,
                    Blame::Listener => {
                        self.ready = false;
                        return Accept::Failed(error);
                    }
                },
            }
        }
        Accept::Empty
    }
}

/// Explains why `addr` could not be listened on, and what to try.
pub fn bind_error_words(addr: SocketAddr, error: &io::Error) -> String {
    let port = addr.port();
    let what = format!("cannot listen on {addr}");
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => format!(
            "{what}: port {port} is taken by another program; stop that program (`systemctl stop mosquitto` if it \
             is another broker, `ss -ltnp 'sport = :{port}'` names it) or choose another port"
        ),
        Some(Errno::ACCESS | Errno::PERM) if port < 1024 => format!(
            "{what}: ports below 1024 need a privilege; choose a port of 1024 or more, such as 1883, or give the \
             service AmbientCapabilities=CAP_NET_BIND_SERVICE"
        ),
        Some(Errno::ADDRNOTAVAIL) => format!(
            "{what}: no interface of this machine has the address {}; choose one that `ip address` lists, or {} \
             for all of them",
            addr.ip(),
            any_address(addr.ip()),
        ),
        Some(Errno::AFNOSUPPORT) => {
            format!("{what}: this system has no {}; choose an address of the other family", family(addr.ip()))
        }
        _ => format!("{what}: {error}; choose another address or port"),
    }
}

/// Whose concern a failure of `accept` is.
#[derive(Debug, PartialEq, Eq)]
enum Blame {
    NobodyWaits,
    /// The client at the head of the queue is gone, or a packet filter refused it; the next may be fine.
    Client,
    Shortage,
    Listener,
}

fn blame(error: &io::Error) -> Blame {
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN) => Blame::NobodyWaits,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Blame::Shortage,
        // Linux hands pending network errors of the new connection to accept(2).
        Some(
            Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::INTR
            | Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NONET
            | Errno::OPNOTSUPP
            | Errno::TIMEDOUT,
        ) => Blame::Client,
        _ => Blame::Listener,
    }
}

/// Sets the options of a fresh connection.
///
/// A failure means the peer has gone already; reading will say so.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // An ack of four bytes must not wait for company.
    let nodelay = socket.set_tcp_nodelay(true);
    let timeout = socket.set_tcp_user_timeout(Some(PEER_SILENCE_MAX));
    if let Err(error) = nodelay.and(timeout) {
        log::debug!("cannot set the options of a new connection: {error}");
    }
}

/// The address a peer counts as, where there are limits per address; `own` is the address it has reached.
///
/// An IPv4 address in IPv6 clothes is an IPv4 address. A host elsewhere has a whole IPv6 network of 64 bits to itself and
/// counts as that; on our own network each address counts, for there it is everybody's.
fn counted_as(peer: SocketAddr, own: Option<IpAddr>) -> SocketAddr {
    let ip = match (peer.ip().to_canonical(), own) {
        (IpAddr::V6(peer), Some(IpAddr::V6(own))) if network(peer) != network(own) => network(peer).into(),
        (ip, _) => ip,
    };
    SocketAddr::new(ip, peer.port())
}

/// The first 64 bits of an address.
fn network(ip: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))
}

fn any_address(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "::" } else { "0.0.0.0" }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "IPv6" } else { "IPv4" }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream as Client, time::Instant};

    use mio::{Events, Poll};

    use super::*;

    fn bind_local() -> Listener {
        Listener::bind("127.0.0.1:0".parse().expect("an address"), ListenerKind::Mqtt).expect("bind")
    }

    fn accept_within(listener: &mut Listener, patience: Duration) -> Accept {
        let mut poll = Poll::new().expect("poll");
        listener.register(poll.registry(), Token(0)).expect("register");
        let deadline = Instant::now() + patience;
        let mut events = Events::with_capacity(4);
        loop {
            match listener.accept() {
                Accept::Empty if Instant::now() < deadline => {}
                outcome => return outcome,
            }
            poll.poll(&mut events, Some(Duration::from_millis(50))).expect("poll");
            if !events.is_empty() {
                listener.note_ready();
            }
        }
    }

    #[test]
    fn a_client_is_accepted_with_its_options_set() {
        let mut listener = bind_local();
        let client = Client::connect(listener.local_addr()).expect("connect");
        let Accept::Connection(stream, addr) = accept_within(&mut listener, Duration::from_secs(5)) else {
            panic!("no connection");
        };
        assert_eq!(addr, client.local_addr().expect("address"));
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("option"));
        assert_eq!(socket.tcp_user_timeout().expect("option"), Some(PEER_SILENCE_MAX));
        assert!(listener.can_accept(), "only an empty queue clears it");
    }

    #[test]
    fn an_empty_queue_clears_readiness_and_an_event_sets_it() {
        let mut listener = bind_local();
        assert!(matches!(listener.accept(), Accept::Empty));
        assert!(!listener.can_accept());
        listener.note_ready();
        assert!(listener.can_accept());
    }

    #[test]
    fn a_broken_listener_fails_once_and_leaves_nothing_to_spin_on() {
        let mut listener = bind_local();
        SockRef::from(&listener.socket).shutdown(std::net::Shutdown::Both).expect("shutdown");
        assert!(matches!(listener.accept(), Accept::Failed(_)));
        assert!(!listener.can_accept());
        assert!(matches!(listener.accept(), Accept::Empty));
    }

    #[test]
    fn both_families_can_be_listened_on_with_the_same_port() {
        let four =
            Listener::bind("0.0.0.0:0".parse().expect("an address"), ListenerKind::Mqtt).expect("bind");
        let port = four.local_addr().port();
        let six = SocketAddr::new("::".parse().expect("an address"), port);
        match Listener::bind(six, ListenerKind::Mqtts) {
            Ok(six) => assert_eq!((six.kind(), six.local_addr().port()), (ListenerKind::Mqtts, port)),
            Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT)),
        }
    }

    #[test]
    fn running_out_of_descriptors_is_told_from_a_client_that_left() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(blame(&errno.into()), Blame::Shortage, "{errno:?}");
        }
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::HOSTUNREACH, Errno::PERM] {
            assert_eq!(blame(&errno.into()), Blame::Client, "{errno:?}");
        }
        assert_eq!(blame(&Errno::AGAIN.into()), Blame::NobodyWaits);
        assert_eq!(blame(&Errno::BADF.into()), Blame::Listener);
        assert_eq!(blame(&io::Error::other("odd")), Blame::Listener);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_becomes_ipv4() {
        let mapped = "[::ffff:192.0.2.7]:4000".parse().expect("an address");
        assert_eq!(counted_as(mapped, None), "192.0.2.7:4000".parse().expect("an address"));
        let six = "[2001:db8::1]:4000".parse().expect("an address");
        assert_eq!(counted_as(six, None), six);
    }

    #[test]
    fn an_ipv6_host_elsewhere_counts_as_its_network_and_one_on_ours_as_itself() {
        let ours = Some("2001:db8:0:1::5".parse().expect("an address"));
        for (peer, counted) in [
            ("[2001:db8:0:2::7]:4000", "[2001:db8:0:2::]:4000"),
            ("[2001:db8:0:2:ffff::1]:4000", "[2001:db8:0:2::]:4000"),
            ("[2001:db8:0:1::7]:4000", "[2001:db8:0:1::7]:4000"),
        ] {
            let peer = peer.parse().expect("an address");
            assert_eq!(counted_as(peer, ours), counted.parse().expect("an address"));
        }
    }

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let first = bind_local();
        let error = Listener::bind(first.local_addr(), ListenerKind::Mqtt).expect_err("the port is taken");
        let words = bind_error_words(first.local_addr(), &error);
        assert!(words.contains(&format!("port {} is taken", first.local_addr().port())), "{words}");
        assert!(words.contains("systemctl stop mosquitto"), "{words}");
    }

    #[test]
    fn each_reason_why_binding_fails_has_its_words() {
        let words =
            |addr: &str, errno: Errno| bind_error_words(addr.parse().expect("an address"), &errno.into());
        assert!(words("0.0.0.0:883", Errno::ACCESS).contains("ports below 1024"));
        assert!(!words("0.0.0.0:1883", Errno::ACCESS).contains("1024"));
        assert!(words("[2001:db8::1]:1883", Errno::ADDRNOTAVAIL).contains("has the address 2001:db8::1;"));
        assert!(words("192.0.2.1:1883", Errno::ADDRNOTAVAIL).contains("or 0.0.0.0 for all"));
        assert!(words("[::1]:1883", Errno::AFNOSUPPORT).contains("has no IPv6"));
        assert!(words("127.0.0.1:1883", Errno::AFNOSUPPORT).contains("has no IPv4"));
        assert!(words("127.0.0.1:1883", Errno::IO).starts_with("cannot listen on 127.0.0.1:1883: "));
    }
}
