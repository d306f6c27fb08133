//! A blocking MQTT client over plain TCP or TLS that sends exactly the bytes it is given.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::{
    packets::Connect,
    wait::{SOON, WITHIN_A_SECOND},
    wire::{PINGREQ, Reply, TELEMETRY, Version, publish},
};

/// What came from the broker within the time given.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet.
    Packet(Reply),
    /// The end of the connection, by FIN or RST.
    Closed,
    /// Nothing.
    Silence,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    inbox: Vec<u8>,
    version: Version,
    last_id: u16,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// The certificate authority in `ca_root`, and no other.
pub fn trusting(ca_root: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_root).expect("ca-root.pem is there") {
        roots.add(certificate.expect("a certificate")).expect("a certificate authority");
    }
    roots
}

/// What a device needs to trust the certificate authority in `ca_root`.
pub fn tls_config(ca_root: &Path) -> Arc<ClientConfig> {
    Arc::new(ClientConfig::builder().with_root_certificates(trusting(ca_root)).with_no_client_auth())
}

impl Client {
    /// Connects and sends nothing.
    pub fn dial(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect_timeout(&address, SOON).expect("the broker accepts");
        tcp.set_nodelay(true).expect("a TCP option");
        Self::over(Stream::Plain(tcp))
    }

    /// Connects with TLS; the handshake happens with the first bytes.
    pub fn dial_tls(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> Self {
        let tcp = TcpStream::connect_timeout(&address, SOON).expect("the broker accepts");
        tcp.set_nodelay(true).expect("a TCP option");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let tls = ClientConnection::new(config, name).expect("a valid configuration");
        Self::over(Stream::Tls(Box::new(StreamOwned::new(tls, tcp))))
    }

    fn over(stream: Stream) -> Self {
        Self { stream, inbox: Vec::new(), version: Version::V311, last_id: 0 }
    }

    /// The socket beneath.
    pub fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// Sends bytes; that the broker may have closed already is for the reader to find out.
    pub fn send(&mut self, bytes: &[u8]) {
        // A closed connection shows on the reading side as well, where each test says what it expects.
        let _ = self.try_send(bytes);
    }

    /// Sends bytes, and says whether the connection took them.
    ///
    /// # Errors
    /// If it is closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Says that no more bytes will come; answers can still be read.
    pub fn finish_sending(&mut self) {
        // ENOTCONN: the broker was faster.
        let _ = self.tcp().shutdown(Shutdown::Write);
    }

    /// The next thing that happens, waiting at most `within`.
    pub fn next(&mut self, within: Duration) -> Event {
        let deadline = Instant::now() + within;
        loop {
            if let Some(reply) = Reply::take(&mut self.inbox) {
                return Event::Packet(reply);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Event::Silence;
            }
            self.tcp().set_read_timeout(Some(left)).expect("a timeout above zero");
            let mut chunk = [0; 4096];
            let read = match &mut self.stream {
                Stream::Plain(tcp) => tcp.read(&mut chunk),
                Stream::Tls(tls) => tls.read(&mut chunk),
            };
            match read {
                Ok(0) => return Event::Closed,
                Ok(n) => self.inbox.extend(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Event::Closed,
            }
        }
    }

    /// The next packet, which must come.
    pub fn packet(&mut self) -> Reply {
        match self.next(SOON) {
            Event::Packet(reply) => reply,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// The code of the DISCONNECT that must come within a second.
    pub fn dismissed(&mut self) -> u8 {
        let event = self.next(WITHIN_A_SECOND);
        match &event {
            Event::Packet(reply) => reply.disconnect(),
            Event::Closed | Event::Silence => None,
        }
        .unwrap_or_else(|| panic!("expected a DISCONNECT, got {event:?}"))
    }

    /// Everything that still comes before the connection closes, which it must.
    pub fn until_closed(&mut self, within: Duration) -> Vec<Reply> {
        let deadline = Instant::now() + within;
        let mut replies = Vec::new();
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Event::Packet(reply) => replies.push(reply),
                Event::Closed => return replies,
                Event::Silence => panic!("not closed within {within:?}; it sent {replies:?}"),
            }
        }
    }

    /// Sends a CONNECT and returns the answer.
    pub fn ask_in(&mut self, version: Version, connect: &Connect) -> Reply {
        self.version = version;
        self.send(&connect.bytes());
        self.packet()
    }

    /// Connects as a device; must be let in.
    pub fn connect(&mut self, version: Version, client_id: &str, token: &str) -> Reply {
        let connack = self.ask_in(version, &Connect::new(version, client_id).user(token));
        assert_eq!(connack.connack(), Some(0), "a device with its token is let in, got {connack:?}");
        connack
    }

    /// Sends a PUBLISH of QoS 1 and gives back its packet id; does not wait for the PUBACK.
    pub fn publish_only(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> u16 {
        self.last_id = self.last_id % u16::MAX + 1;
        let bytes = publish(self.version, topic, 1, self.last_id, payload);
        self.send(&bytes);
        self.last_id
    }

    /// Publishes at QoS 1 and returns the code of the PUBACK, which must be the next packet.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> u8 {
        let id = self.publish_only(topic, payload);
        let reply = self.packet();
        let (acked, code) = reply.puback().unwrap_or_else(|| panic!("expected a PUBACK, got {reply:?}"));
        assert_eq!(acked, id, "PUBACK answers the PUBLISH before it [MQTT-4.6.0-2]");
        code
    }

    /// Publishes telemetry at QoS 1; must be acknowledged.
    pub fn telemetry(&mut self, payload: &str) {
        assert_eq!(self.publish(TELEMETRY, payload), 0, "{payload} is good telemetry");
    }

    /// Whether a PINGREQ is answered within the time given, as the next packet.
    pub fn ping(&mut self, within: Duration) -> bool {
        self.send(&PINGREQ);
        self.next(within) == Event::Packet(Reply { first: 0xD0, body: Vec::new() })
    }
}
