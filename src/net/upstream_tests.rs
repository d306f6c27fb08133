//! Tests of [`Upstream`] against a hub on a thread of its own: it echoes what it hears.

use std::{
    net::{TcpListener, TcpStream as StdStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use mio::{Events, Poll};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
};

use super::*;
use crate::net::{
    certificates::{self, CaKey},
    pin::Pin,
    tls,
    tls_client::Trust,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A listener whose first connection is handled by `serve` on a thread.
fn hub(serve: impl FnOnce(StdStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let serve = move || {
        let (stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        serve(stream);
    };
    (address, thread::spawn(serve))
}

fn echo(mut stream: impl Read + Write) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..n]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn tls_hub(config: Arc<ServerConfig>) -> (SocketAddr, JoinHandle<()>) {
    hub(|stream| echo(StreamOwned::new(ServerConnection::new(config).expect("a session"), stream)))
}

/// Certificates for `localhost`, and their directory.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    certificates::init(dir.path(), &["localhost".to_owned()], now, CaKey::Discard).expect("certificates");
    dir
}

fn server_config(dir: &Path) -> Arc<ServerConfig> {
    tls::load_server_config(&dir.join("server.pem"), &dir.join("server.key")).expect("a configuration")
}

fn trusting(ca_file: PathBuf) -> Trust {
    Trust { ca_file: Some(ca_file), ..Trust::default() }
}

fn pin_of(certificate: &Path) -> Pin {
    let der = CertificateDer::from_pem_file(certificate).expect("a certificate");
    Pin::of(&ParsedCertificate::try_from(&der).expect("parsed").subject_public_key_info())
}

/// One connection to a hub, moved by events.
struct World {
    poll: Poll,
    events: Events,
    upstream: Upstream,
    scratch: Scratch,
    queue: ByteQueue,
    heard: Vec<u8>,
    closed: bool,
}

impl World {
    fn dial(address: SocketAddr, tls: Option<&HubTls>) -> Self {
        let poll = Poll::new().expect("poll");
        let mut upstream = Upstream::connect(address, tls).expect("it can be tried");
        upstream.register(poll.registry(), Token(0)).expect("register");
        Self {
            poll,
            events: Events::with_capacity(4),
            upstream,
            scratch: Scratch::new(),
            queue: ByteQueue::default(),
            heard: Vec::new(),
            closed: false,
        }
    }

    /// Dials and waits for the connection.
    fn connect(address: SocketAddr, tls: Option<&HubTls>) -> Result<Self, String> {
        let mut world = Self::dial(address, tls);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match world.upstream.advance() {
                Ok(true) => return Ok(world),
                Ok(false) => world.wait(deadline),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn wait(&mut self, deadline: Instant) {
        assert!(Instant::now() < deadline, "out of patience");
        self.poll.poll(&mut self.events, Some(PATIENCE)).expect("poll");
        for event in &self.events {
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            self.upstream.note_ready(readable, event.is_writable());
        }
    }

    /// Reads and writes until `done`, or gives the words of the failure.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let WriteOutcome::Failed(error) = self.upstream.write(&mut self.queue) {
                return Err(UpstreamError::from(error).to_string());
            }
            let outcome = self.upstream.read(&mut self.scratch);
            self.heard.extend_from_slice(self.scratch.plaintext());
            match outcome {
                Reading::Open => {}
                Reading::Closed => self.closed = true,
                Reading::Failed(error) => return Err(error.to_string()),
            }
            if done(self) {
                return Ok(());
            }
            if !self.upstream.can_read() {
                self.wait(deadline);
            }
        }
    }

    fn converse(mut self) {
        let said: Vec<u8> = (0..1_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
        self.queue.push(&said);
        self.until(|world| world.heard.len() >= said.len()).expect("an echo");
        assert!(self.heard == said, "the same bytes in the same order");
        self.upstream.close();
    }
}

#[test]
fn plain_bytes_go_both_ways_and_closing_is_a_goodbye() {
    let (address, hub) = hub(echo);
    World::connect(address, None).expect("connected").converse();
    hub.join().expect("the hub saw the end");
}

#[test]
fn nothing_is_written_before_the_connection_is_up() {
    let (address, _hub) = hub(echo);
    let mut world = World::dial(address, None);
    world.queue.push(b"x");
    assert!(matches!(world.upstream.write(&mut world.queue), WriteOutcome::Blocked));
    assert_eq!(world.queue.len(), 1);
}

#[test]
fn nobody_listening_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let words = World::connect(address, None).err().expect("refused");
    assert!(words.contains("connection refused"), "{words}");
}

#[test]
fn the_hubs_end_is_noticed_after_its_last_words() {
    let (address, hub) = hub(|mut stream| stream.write_all(b"last words").expect("written"));
    let mut world = World::connect(address, None).expect("connected");
    world.until(|world| world.closed).expect("a clean end");
    assert_eq!(world.heard, b"last words");
    hub.join().expect("ended");
}

#[test]
fn with_the_authority_that_signed_its_certificate_the_hub_is_trusted() {
    let dir = certificates();
    let (address, hub) = tls_hub(server_config(dir.path()));
    let tls = HubTls::load("localhost", &trusting(dir.path().join("ca-root.pem"))).expect("loaded");
    World::connect(address, Some(&tls)).expect("connected").converse();
    hub.join().expect("ended");
}

#[test]
fn another_authority_another_name_and_no_authority_are_refused_with_what_to_do() {
    let (dir, other) = (certificates(), certificates());
    let refusal = |host: &str, trust: &Trust| {
        let (address, _hub) = tls_hub(server_config(dir.path()));
        let tls = HubTls::load(host, trust).expect("loaded");
        World::connect(address, Some(&tls)).err().expect("refused")
    };
    let words = refusal("localhost", &trusting(other.path().join("ca-root.pem")));
    assert!(words.contains("signed by no authority we trust") && words.contains("`ca_file`"), "{words}");
    let words = refusal("hub.example", &trusting(dir.path().join("ca-root.pem")));
    assert!(words.contains("another name"), "{words}");
}

#[test]
fn a_pin_is_enough_by_itself_and_is_wanted_beside_an_authority() {
    let (dir, other) = (certificates(), certificates());
    let outcome = |ca: Option<&Path>, pin: &Path| {
        let (address, _hub) = tls_hub(server_config(dir.path()));
        let ca_file = ca.map(|ca| ca.join("ca-root.pem"));
        let trust = Trust { ca_file, pin: Some(pin_of(&pin.join("server.pem"))), client: None };
        let tls = HubTls::load("any.name", &trust).expect("loaded");
        let tls = if ca.is_some() { HubTls::load("localhost", &trust).expect("loaded") } else { tls };
        World::connect(address, Some(&tls)).map(World::converse)
    };
    assert_eq!(outcome(None, dir.path()), Ok(()));
    assert_eq!(outcome(Some(dir.path()), dir.path()), Ok(()));
    let words = outcome(None, other.path()).expect_err("another key");
    let found = pin_of(&dir.path().join("server.pem")).to_string();
    assert!(words.contains("another key") && words.contains(&found), "{words}");
    assert!(outcome(Some(dir.path()), other.path()).expect_err("another key").contains("another key"));
    assert!(outcome(Some(other.path()), dir.path()).expect_err("another authority").contains("`ca_file`"));
}

#[test]
fn a_hub_that_wants_a_certificate_gets_ours_or_its_wish_is_told() {
    let dir = certificates();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["gateway".to_owned()]).expect("params");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let ours = params.self_signed(&key).expect("a certificate");
    let (certificate, private_key) = (dir.path().join("gateway.pem"), dir.path().join("gateway.key"));
    std::fs::write(&certificate, ours.pem()).expect("written");
    std::fs::write(&private_key, key.serialize_pem()).expect("written");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&private_key, std::fs::Permissions::from_mode(0o600)).expect("ours alone");

    let mut known = RootCertStore::empty();
    known.add(ours.der().clone()).expect("an authority");
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(known.into(), provider.clone())
        .build()
        .expect("a verifier");
    let (chain, server_key) =
        tls::read_pair(&dir.path().join("server.pem"), &dir.path().join("server.key")).expect("a pair");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, server_key)
        .expect("a configuration");
    let config = Arc::new(config);

    let outcome = |client| {
        let (address, _hub) = tls_hub(config.clone());
        let trust = Trust { client, ..trusting(dir.path().join("ca-root.pem")) };
        let tls = HubTls::load("localhost", &trust).expect("loaded");
        let mut world = World::connect(address, Some(&tls))?;
        // In TLS 1.3 the refusal comes after our side is done.
        world.queue.push(b"ping");
        world.until(|world| world.heard == b"ping")
    };
    assert_eq!(outcome(Some((certificate, private_key))), Ok(()));
    let words = outcome(None).expect_err("refused");
    assert!(words.contains("`client_certificate`") || words.contains("reset"), "{words}");
}

#[test]
fn what_does_not_speak_tls_is_told_as_such_and_so_is_an_end_in_the_middle() {
    let tls =
        HubTls::load("localhost", &Trust { pin: Some(Pin::of(b"")), ..Trust::default() }).expect("loaded");
    let (address, _hub) = hub(|mut stream| {
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let words = World::connect(address, Some(&tls)).err().expect("no TLS");
    assert!(words.contains("does not speak TLS"), "{words}");
    let (address, _hub) = hub(|mut stream| {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello);
    });
    let words = World::connect(address, Some(&tls)).err().expect("closed");
    assert!(words.contains("closed") || words.contains("reset"), "{words}");
}
