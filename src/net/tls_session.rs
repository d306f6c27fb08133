//! The TLS side of one connection, as a machine without a socket: ciphertext in, plaintext out, ciphertext to send.
//!
//! Built on the unbuffered interface of rustls, which keeps no read buffer per connection: an idle session owns
//! only its keys. [`super::connection`] moves the bytes.
//!
//! ```text
//!   handle_ciphertext --> pump --> plaintext      encrypt, queue_close_notify --> pump --> outgoing
//! ```

use std::{fmt, mem, sync::Arc};

use rustls::{
    Error, ServerConfig,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, ReadTraffic,
        UnbufferedStatus, WriteTraffic,
    },
};

pub use super::tls_error::TlsError;

/// Ciphertext kept until the rest of its record or handshake message arrives, in bytes; a record has at most 18,437.
pub const LEFTOVER_BYTES_MAX: usize = 20 * 1024;
/// Plaintext that is encrypted at a time, in bytes: one record.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What encryption adds to a record, with room for a change of keys before it, in bytes.
const OVERHEAD_BYTES: usize = 64;
/// Room for an alert, in bytes.
const ALERT_BYTES: usize = 128;

/// First byte of an MQTT CONNECT; a TLS client's is 22.
const CONNECT_BYTE: u8 = 0x10;

/// One server-side TLS session.
pub struct TlsSession {
    rustls: UnbufferedServerConnection,
    /// The start of a record whose end has not arrived.
    leftover: Vec<u8>,
    /// Ciphertext to send, of which the first `sent` bytes have left. rustls answers a peer only a small number of
    /// times before it gives up on it, so a peer that does not read cannot make this grow.
    outgoing: Vec<u8>,
    sent: usize,
    life: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Not one byte has come.
    Silent,
    Open,
    /// The peer said that nothing more will come.
    PeerClosed,
    Failed,
}

/// Whether more can come from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It may send more.
    Open,
    /// It said goodbye; what it sent before was delivered.
    Closed,
}

/// What is done once application data may be sent.
enum Purpose<'a> {
    /// Deliver what came.
    Receive(&'a mut Vec<u8>),
    Encrypt(&'a [u8]),
    CloseNotify,
}

/// How one state of rustls was dealt with.
enum Round {
    /// Bytes moved, go on.
    Moved,
    /// Nothing more can happen without the peer; that many bytes of plaintext were encrypted.
    Rest(usize),
    PeerClosed,
}

impl TlsSession {
    /// Starts a session that waits for the client's first message.
    ///
    /// # Errors
    /// If the configuration cannot serve anybody.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let rustls = UnbufferedServerConnection::new(config)?;
        Ok(Self { rustls, leftover: Vec::new(), outgoing: Vec::new(), sent: 0, life: Life::Silent })
    }

    /// Whether application data cannot flow yet.
    pub fn is_handshaking(&self) -> bool {
        self.rustls.is_handshaking()
    }

    /// Ciphertext that came without its end; it must stand before new bytes in [`TlsSession::handle_ciphertext`].
    pub fn leftover(&self) -> &[u8] {
        &self.leftover
    }

    /// Ciphertext to send now, in this order.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.get(self.sent..).unwrap_or_default()
    }

    /// Forgets the first `n` bytes of [`TlsSession::outgoing`]: they have left. Empty, it owns no memory.
    pub fn consume_outgoing(&mut self, n: usize) {
        self.sent += n;
        assert!(self.sent <= self.outgoing.len(), "more ciphertext left than there was");
        if self.sent == self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// Decrypts `incoming`, which is [`TlsSession::leftover`] followed by what just arrived, and adds the application
    /// data to `plaintext`; replies are added to [`TlsSession::outgoing`].
    ///
    /// `incoming` is overwritten.
    ///
    /// # Errors
    /// The session is over; `plaintext` holds what came before the error, `outgoing` the alert for the peer.
    pub fn handle_ciphertext(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<PeerState, TlsError> {
        match self.life {
            Life::PeerClosed | Life::Failed => return Ok(PeerState::Closed),
            Life::Silent if incoming.is_empty() => return Ok(PeerState::Open),
            Life::Silent if is_plain(incoming[0]) => return Err(self.fail(TlsError::PlainBytes)),
            Life::Silent => self.life = Life::Open,
            Life::Open => {}
        }
        let (consumed, end) = self.pump(incoming, Purpose::Receive(plaintext));
        let rest = incoming.get_mut(consumed..).unwrap_or_default();
        match end {
            Err(error) => {
                self.queue_alert(rest);
                return Err(self.fail(error.into()));
            }
            Ok(Round::PeerClosed) => {
                self.life = Life::PeerClosed;
                self.leftover = Vec::new();
                return Ok(PeerState::Closed);
            }
            Ok(Round::Moved | Round::Rest(_)) => {}
        }
        if rest.len() > LEFTOVER_BYTES_MAX {
            return Err(self.fail(TlsError::HandshakeTooLarge));
        }
        self.keep(rest);
        Ok(PeerState::Open)
    }

    /// Encrypts the start of `plaintext`, at most [`RECORD_BYTES_MAX`], and gives back how many bytes that was: none
    /// while the handshake is going on or after the session failed.
    ///
    /// Called with [`TlsSession::outgoing`] empty, so that a slow reader costs one record and not more.
    ///
    /// # Errors
    /// If the keys are used up, which takes longer than any connection lasts.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Result<usize, TlsError> {
        if self.is_handshaking() || self.life == Life::Failed {
            return Ok(0);
        }
        let record = &plaintext[..plaintext.len().min(RECORD_BYTES_MAX)];
        match self.pump_leftover(Purpose::Encrypt(record)) {
            Ok(Round::Rest(n)) => Ok(n),
            Ok(_) => Ok(0),
            Err(error) => Err(self.fail(error.into())),
        }
    }

    /// Tells the peer that nothing more will come, if a word can be said at all.
    pub fn queue_close_notify(&mut self) {
        if !self.is_handshaking() && self.life != Life::Failed {
            // Its only failure is that there is nothing to say any more.
            let _ = self.pump_leftover(Purpose::CloseNotify);
        }
    }

    /// Runs rustls on what is left over, to get at the state in which it can send.
    fn pump_leftover(&mut self, purpose: Purpose<'_>) -> Result<Round, Error> {
        let mut incoming = mem::take(&mut self.leftover);
        let (consumed, end) = self.pump(&mut incoming, purpose);
        self.keep(&incoming[consumed..]);
        end
    }

    /// Lets rustls go from state to state until it needs the peer; gives back how much of `incoming` it is done with.
    ///
    /// Each round takes bytes in, gives bytes out or ends: whatever a peer sends, this ends (the lesson of RUSTSEC-2024-0336).
    fn pump(&mut self, incoming: &mut [u8], mut purpose: Purpose<'_>) -> (usize, Result<Round, Error>) {
        let mut consumed = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.rustls.process_tls_records(&mut incoming[consumed..]);
            let backlog = self.outgoing.len();
            let mut acknowledged = false;
            let round = state.and_then(|state| match state {
                ConnectionState::EncodeTlsData(record) => encode(record, &mut self.outgoing),
                // `outgoing` answers for these bytes; rustls says this once for what it encoded.
                ConnectionState::TransmitTlsData(transmit) => {
                    transmit.done();
                    acknowledged = true;
                    Ok(Round::Moved)
                }
                ConnectionState::ReadTraffic(traffic) => deliver(traffic, &mut purpose),
                ConnectionState::WriteTraffic(traffic) => fulfil(traffic, &purpose, &mut self.outgoing),
                ConnectionState::BlockedHandshake => Ok(Round::Rest(0)),
                ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Round::PeerClosed),
                // Early data is never accepted, and new states are not known.
                other => Err(Error::General(format!("unexpected state {other:?}"))),
            });
            consumed += discard;
            match round {
                Ok(Round::Moved) if discard > 0 || self.outgoing.len() > backlog || acknowledged => {}
                Ok(Round::Moved) => return (consumed, Err(Error::General("no progress".into()))),
                end => return (consumed, end),
            }
        }
    }

    /// Fetches the alert with which rustls answers an error.
    ///
    /// Asked once only: a second time it would look at the bad bytes again.
    fn queue_alert(&mut self, rest: &mut [u8]) {
        if let Ok(ConnectionState::EncodeTlsData(record)) = self.rustls.process_tls_records(rest).state {
            let _ = encode(record, &mut self.outgoing);
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.leftover = Vec::new();
        } else {
            self.leftover.clear();
            self.leftover.extend_from_slice(rest);
        }
    }

    fn fail(&mut self, error: TlsError) -> TlsError {
        self.life = Life::Failed;
        self.leftover = Vec::new();
        error
    }
}

type Server = ServerConnectionData;

fn encode(mut record: EncodeTlsData<'_, Server>, outgoing: &mut Vec<u8>) -> Result<Round, Error> {
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = record.encode(&mut [])
    else {
        return Ok(Round::Moved);
    };
    let start = outgoing.len();
    outgoing.resize(start + required_size, 0);
    record.encode(&mut outgoing[start..]).map_err(|error| Error::General(error.to_string()))?;
    Ok(Round::Moved)
}

fn deliver(mut traffic: ReadTraffic<'_, '_, Server>, purpose: &mut Purpose<'_>) -> Result<Round, Error> {
    // All whole records are delivered when they arrive; what is left over holds none.
    let Purpose::Receive(plaintext) = purpose else {
        return Err(Error::General("application data out of turn".into()));
    };
    while let Some(record) = traffic.next_record() {
        plaintext.extend_from_slice(record?.payload);
    }
    Ok(Round::Moved)
}

fn fulfil(
    mut traffic: WriteTraffic<'_, Server>,
    purpose: &Purpose<'_>,
    outgoing: &mut Vec<u8>,
) -> Result<Round, Error> {
    match purpose {
        Purpose::Receive(_) => Ok(Round::Rest(0)),
        Purpose::Encrypt(plaintext) => {
            let mut append = |room| append(outgoing, room, |space| traffic.encrypt(plaintext, space));
            match append(plaintext.len() + OVERHEAD_BYTES) {
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    append(required_size)
                }
                outcome => outcome,
            }
            .map(|()| Round::Rest(plaintext.len()))
            .map_err(|error| Error::General(error.to_string()))
        }
        Purpose::CloseNotify => append(outgoing, ALERT_BYTES, |space| traffic.queue_close_notify(space))
            .map(|()| Round::Rest(0))
            .map_err(|error| Error::General(error.to_string())),
    }
}

/// Adds what `write` puts into `room` bytes at the end of `outgoing`; on failure nothing is added.
fn append<E>(
    outgoing: &mut Vec<u8>,
    room: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<(), E> {
    let start = outgoing.len();
    outgoing.resize(start + room, 0);
    let written = write(&mut outgoing[start..]);
    outgoing.truncate(start + written.as_ref().map_or(0, |n| *n));
    written.map(drop)
}

/// Whether a connection that begins with this byte speaks MQTT or HTTP in the clear.
fn is_plain(first: u8) -> bool {
    first == CONNECT_BYTE || first.is_ascii_uppercase()
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession").field("handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustls::{
        AlertDescription, ClientConfig, ClientConnection, SupportedProtocolVersion,
        version::{TLS12, TLS13},
    };

    use super::*;
    use crate::net::{
        certificates::{self, CaKey},
        tls::tests::{client_config, client_config_trusting, server_config},
    };

    /// A real client and our session, joined by memory.
    struct Pair {
        client: ClientConnection,
        server: TlsSession,
        received: Vec<u8>,
        /// Bytes handed over at a time.
        segment: usize,
    }

    impl Pair {
        fn new(version: &'static SupportedProtocolVersion, segment: usize) -> Self {
            Self::with(client_config(version), segment)
        }

        fn with(config: ClientConfig, segment: usize) -> Self {
            let name = "localhost".try_into().expect("a name");
            let client = ClientConnection::new(config.into(), name).expect("a client");
            let server = TlsSession::new(server_config()).expect("a session");
            Self { client, server, received: Vec::new(), segment }
        }

        fn established(version: &'static SupportedProtocolVersion) -> Self {
            let mut pair = Self::new(version, usize::MAX);
            pair.exchange().expect("a handshake");
            pair
        }

        /// Carries bytes both ways until nobody has anything to say.
        fn exchange(&mut self) -> Result<PeerState, TlsError> {
            let mut state = PeerState::Open;
            loop {
                let upward = self.client_bytes();
                for segment in upward.chunks(self.segment) {
                    state = self.feed(segment)?;
                }
                let downward = self.server_bytes();
                if upward.is_empty() && downward.is_empty() {
                    return Ok(state);
                }
                let mut unread = &downward[..];
                while !unread.is_empty() {
                    self.client.read_tls(&mut unread).expect("memory");
                    // What the client thinks of it, it tells our side.
                    let _ = self.client.process_new_packets();
                }
            }
        }

        fn client_bytes(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).expect("memory");
            }
            bytes
        }

        fn server_bytes(&mut self) -> Vec<u8> {
            let bytes = self.server.outgoing().to_vec();
            self.server.consume_outgoing(bytes.len());
            bytes
        }

        fn feed(&mut self, segment: &[u8]) -> Result<PeerState, TlsError> {
            let mut incoming = [self.server.leftover(), segment].concat();
            self.server.handle_ciphertext(&mut incoming, &mut self.received)
        }

        fn client_reads(&mut self) -> Vec<u8> {
            let mut bytes = vec![0; 100_000];
            let n = self.client.reader().read(&mut bytes).unwrap_or(0);
            bytes.truncate(n);
            bytes
        }
    }

    #[test]
    fn both_versions_carry_data_both_ways_in_segments_of_any_size() {
        for version in [&TLS12, &TLS13] {
            for segment in [1, 2, 7, 100, usize::MAX] {
                let mut pair = Pair::new(version, segment);
                pair.client.writer().write_all(b"CONNECT").expect("memory");
                assert!(pair.server.is_handshaking());
                assert_eq!(pair.exchange(), Ok(PeerState::Open));
                assert!(!pair.server.is_handshaking());
                assert_eq!(pair.client.protocol_version(), Some(version.version));
                assert_eq!(pair.received, b"CONNECT");

                assert_eq!(pair.server.encrypt(b"CONNACK"), Ok(7));
                pair.exchange().expect("no error");
                assert_eq!(pair.client_reads(), b"CONNACK");
            }
        }
    }

    #[test]
    fn a_handshake_fragmented_over_many_records_succeeds() {
        for version in [&TLS12, &TLS13] {
            let mut config = client_config(version);
            config.max_fragment_size = Some(32);
            let mut pair = Pair::with(config, 1);
            assert_eq!(pair.exchange(), Ok(PeerState::Open));
            assert!(!pair.server.is_handshaking());
        }
    }

    #[test]
    fn an_idle_session_owns_no_buffers() {
        let mut pair = Pair::established(&TLS13);
        pair.client.writer().write_all(&[7; 5000]).expect("memory");
        pair.exchange().expect("no error");
        assert_eq!(pair.server.encrypt(&[7; 5000]), Ok(5000));
        pair.exchange().expect("no error");
        assert_eq!((pair.server.leftover.capacity(), pair.server.outgoing.capacity()), (0, 0));
    }

    #[test]
    fn one_call_encrypts_one_record_and_says_how_much_that_was() {
        let mut pair = Pair::established(&TLS13);
        assert_eq!(pair.server.encrypt(&[7; 100_000]), Ok(RECORD_BYTES_MAX));
        assert!(pair.server.outgoing().len() <= RECORD_BYTES_MAX + OVERHEAD_BYTES);
        pair.exchange().expect("no error");
        assert_eq!(pair.client_reads().len(), RECORD_BYTES_MAX);
    }

    #[test]
    fn nothing_is_encrypted_during_the_handshake() {
        let mut pair = Pair::new(&TLS13, usize::MAX);
        let hello = pair.client_bytes();
        pair.feed(&hello).expect("no error");
        assert!(pair.server.is_handshaking() && !pair.server.outgoing().is_empty());
        assert_eq!(pair.server.encrypt(b"too early"), Ok(0));
    }

    #[test]
    fn writing_between_the_halves_of_a_record_disturbs_neither() {
        let mut pair = Pair::established(&TLS13);
        pair.client.writer().write_all(b"a reading").expect("memory");
        let record = pair.client_bytes();
        let (front, back) = record.split_at(8);
        pair.feed(front).expect("no error");
        assert_eq!(pair.server.encrypt(b"an answer"), Ok(9));
        pair.feed(back).expect("no error");
        pair.exchange().expect("no error");
        assert_eq!(pair.client_reads(), b"an answer");
        assert_eq!(pair.received, b"a reading");
    }

    #[test]
    fn a_change_of_keys_is_followed() {
        let mut pair = Pair::established(&TLS13);
        for _ in 0..3 {
            pair.client.refresh_traffic_keys().expect("TLS 1.3");
            pair.client.writer().write_all(b"x").expect("memory");
            pair.exchange().expect("no error");
            assert_eq!(pair.server.encrypt(b"y"), Ok(1));
            pair.exchange().expect("no error");
        }
        assert_eq!(pair.client_reads(), b"yyy");
        assert_eq!(pair.received, b"xxx");
    }

    #[test]
    fn a_goodbye_is_heard_after_the_last_data_and_answered() {
        let mut pair = Pair::established(&TLS12);
        pair.client.writer().write_all(b"last words").expect("memory");
        pair.client.send_close_notify();
        assert_eq!(pair.exchange(), Ok(PeerState::Closed));
        assert_eq!(pair.received, b"last words");
        assert_eq!(pair.feed(b"anything"), Ok(PeerState::Closed), "nothing is looked at any more");

        pair.server.queue_close_notify();
        let goodbye = pair.server_bytes();
        pair.client.read_tls(&mut &goodbye[..]).expect("memory");
        assert!(pair.client.process_new_packets().expect("valid").peer_has_closed());
    }

    // A-98
    #[test]
    fn close_notify_right_after_client_hello_ends() {
        for version in [&TLS12, &TLS13] {
            let mut pair = Pair::new(version, usize::MAX);
            let mut bytes = pair.client_bytes();
            bytes.extend([0x15, 3, 3, 0, 2, 1, 0]);
            let _ = pair.feed(&bytes);
            for _ in 0..10 {
                let _ = pair.feed(&[0x15, 3, 3, 0, 2, 1, 0]);
            }
            pair.server.queue_close_notify();
            assert_eq!(pair.server.encrypt(b"x"), Ok(0));
            assert!(pair.server.outgoing().len() < 8192);
        }
    }

    #[test]
    fn plain_mqtt_and_http_are_recognised_by_their_first_byte() {
        for first in [&b"\x10"[..], b"GET / HTTP/1.1\r\n", b"POST"] {
            let mut pair = Pair::new(&TLS13, usize::MAX);
            assert_eq!(pair.feed(first), Err(TlsError::PlainBytes));
            assert!(pair.server.outgoing().is_empty(), "an alert would be noise to it");
        }
        assert!(TlsError::PlainBytes.to_string().contains("plain port"));
    }

    #[test]
    fn garbage_is_answered_by_an_alert_and_ends_the_session() {
        let mut pair = Pair::new(&TLS13, usize::MAX);
        let error = pair.feed(&[0x16, 3, 1, 0, 4, 99, 0, 0, 0]).expect_err("no such message");
        assert!(matches!(error, TlsError::Protocol(_)));
        assert_eq!(pair.server.outgoing().first(), Some(&0x15), "an alert");
        assert_eq!(pair.feed(&[0; 100]), Ok(PeerState::Closed));
    }

    #[test]
    fn a_damaged_record_ends_the_session_after_the_good_ones() {
        let mut pair = Pair::established(&TLS13);
        pair.client.writer().write_all(b"good").expect("memory");
        let mut bytes = pair.client_bytes();
        pair.client.writer().write_all(b"bad").expect("memory");
        bytes.extend(pair.client_bytes());
        *bytes.last_mut().expect("bytes") ^= 1;
        assert_eq!(pair.feed(&bytes), Err(TlsError::Protocol(Error::DecryptError)));
        assert_eq!(pair.received, b"good");
        assert!(!pair.server.outgoing().is_empty(), "an alert");
    }

    #[test]
    fn a_monstrous_handshake_message_is_refused_before_it_is_complete() {
        let mut pair = Pair::new(&TLS13, usize::MAX);
        let record = [&[0x16, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
        let mut first = record.clone();
        first[5..9].copy_from_slice(&[1, 0, 0xff, 0]); // ClientHello of 65,280 bytes
        assert_eq!(pair.feed(&first), Ok(PeerState::Open));
        let error = pair.feed(&record).expect_err("too large");
        assert_eq!(error, TlsError::HandshakeTooLarge);
        assert!(error.to_string().contains("20480"));
        assert!(pair.server.leftover().is_empty());
    }

    #[test]
    fn a_client_that_does_not_trust_us_is_explained() {
        let dir = tempfile::tempdir().expect("a directory");
        certificates::init(dir.path(), &["localhost".to_owned()], 0, CaKey::Discard).expect("another CA");
        let config = client_config_trusting(&dir.path().join("ca-root.pem"), &TLS13);
        let mut pair = Pair::with(config, usize::MAX);
        let error = pair.exchange().expect_err("refused");
        assert_eq!(error, TlsError::Protocol(Error::AlertReceived(AlertDescription::UnknownCA)));
        assert!(error.to_string().contains("ca-root.pem"));
    }

    #[test]
    fn no_cut_or_flip_of_a_handshake_panics_or_hangs() {
        let hello = Pair::new(&TLS12, usize::MAX).client_bytes();
        for at in 0..hello.len() {
            let mut flipped = hello.clone();
            flipped[at] ^= 0x55;
            let mut pair = Pair::new(&TLS12, usize::MAX);
            let _ = pair.feed(&flipped);
            let _ = pair.feed(&hello[..at]);
            pair.server.queue_close_notify();
        }
    }
}
