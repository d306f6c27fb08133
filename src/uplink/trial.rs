//! One short connection to the hub that finds out whether it knows a token: CONNECT, its answer, DISCONNECT.
//!
//! Pure, and driven as the uplink is, but its life has an end:
//!
//! ```text
//!  +--> Connecting --up--> Greeting --let in, or refused-----------------> Over: known, unknown, unclear
//!  |        | not up          | closed without a word, or not this version
//!  |        |                 +--> if the other version was not tried: again, in that one
//!  +--------|---------------------------+
//!           +--> Over: unreached       else, or out of time
//! ```

use crate::{
    byte_queue::ByteQueue,
    clock::{Mono, Now},
    limits::{TRIAL_TIME, UPLINK_INCOMING_BYTES_MAX, UPLINK_KEEP_ALIVE_S},
    mqtt::{
        ConnAck, Disconnect, Packet, Properties, ProtocolVersion, ReasonCode, decode, encode, parse_header,
    },
};

use super::{
    Failure, Secret,
    failure::fit_for_people,
    incoming::{answer_version, with_reason},
    outgoing::connect_bytes,
    versions::other,
};

/// What a trial has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The hub lets whoever has the token in.
    Known,
    /// The hub does not accept the token, for these words.
    Unknown(String),
    /// The hub has answered, but not about the token.
    Unclear(String),
    /// The hub has not answered.
    Unreached(String),
}

/// See the module's text; it has no `Debug`, for what waits in its output may be a CONNECT with the token.
pub struct Trial {
    token: Secret,
    client_id: String,
    version: ProtocolVersion,
    /// Whether the other version is still to be tried.
    may_change: bool,
    phase: Phase,
    until: Mono,
    output: ByteQueue,
    /// The beginning of a packet whose end has not come yet.
    incoming: Vec<u8>,
    connect_wanted: bool,
    close_wanted: bool,
}

enum Phase {
    /// Name, TCP and TLS are being tried.
    Connecting,
    /// CONNECT was sent.
    Greeting,
    Over(Finding),
}

impl Trial {
    /// Begins to try `token`, in `version` first; it wants to connect at once.
    pub fn new(token: Secret, client_id: String, version: ProtocolVersion, now: Now) -> Self {
        Self {
            token,
            client_id,
            version,
            may_change: true,
            phase: Phase::Connecting,
            until: now.mono + TRIAL_TIME,
            output: ByteQueue::default(),
            incoming: Vec::new(),
            connect_wanted: true,
            close_wanted: false,
        }
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// TCP, and TLS if it is wanted, is up: CONNECT goes out.
    pub fn handle_connected(&mut self) {
        if matches!(self.phase, Phase::Connecting) {
            let token = Some(self.token.reveal());
            let connect = connect_bytes(self.version, &self.client_id, UPLINK_KEEP_ALIVE_S, token, None);
            self.output.clear();
            self.output.push(&connect);
            self.phase = Phase::Greeting;
        }
    }

    /// The attempt [`Trial::poll_connect`] asked for has failed.
    pub fn handle_connect_failed(&mut self, failure: &Failure) {
        if matches!(self.phase, Phase::Connecting) {
            self.end(Finding::Unreached(failure.words.clone()));
            self.close_wanted = false;
        }
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if !matches!(self.phase, Phase::Greeting) {
            return;
        }
        self.incoming.extend_from_slice(bytes);
        let incoming = std::mem::take(&mut self.incoming);
        let header = match parse_header(&incoming, self.version) {
            Ok(Some(header)) => header,
            Ok(None) => return self.incoming = incoming,
            Err(error) => return self.end(nonsense(&error.to_string())),
        };
        if header.frame_bytes() > UPLINK_INCOMING_BYTES_MAX {
            return self.end(nonsense("a packet larger than any answer"));
        }
        let Some(body) = incoming.get(header.header_bytes..header.frame_bytes()) else {
            return self.incoming = incoming;
        };
        match decode(header, body, answer_version(header, self.version)) {
            Ok(Packet::ConnAck(connack)) => self.on_connack(&connack),
            Ok(other) => self.end(nonsense(&format!("{} where it has no place", other.packet_type()))),
            Err(error) => self.end(nonsense(&error.to_string())),
        }
    }

    /// The connection is gone, by no wish of ours.
    pub fn handle_disconnected(&mut self, failure: &Failure) {
        if !matches!(self.phase, Phase::Greeting) {
            return;
        }
        if failure.may_be_an_answer() && self.may_change {
            return self.try_other_version();
        }
        self.end(Finding::Unreached(failure.words.clone()));
        self.close_wanted = false;
    }

    /// The time [`Trial::poll_timeout`] told has come.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.until > now.mono {
            return;
        }
        let words = match self.phase {
            Phase::Connecting => "no connection to the hub came up in time",
            Phase::Greeting => "the hub did not answer CONNECT in time",
            Phase::Over(_) => return,
        };
        self.end(Finding::Unreached(words.to_owned()));
    }

    // ---- what is to be done -----------------------------------------------------------------------------

    /// Whether to begin an attempt to connect, said once for each.
    pub fn poll_connect(&mut self) -> bool {
        std::mem::take(&mut self.connect_wanted)
    }

    /// Whether to close the connection, or give up the attempt at one, after what is in [`Trial::output`]; said once.
    pub fn poll_close(&mut self) -> bool {
        std::mem::take(&mut self.close_wanted)
    }

    /// Bytes for the connection; consume what was written.
    pub fn output(&mut self) -> &mut ByteQueue {
        &mut self.output
    }

    /// When [`Trial::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Mono> {
        (!matches!(self.phase, Phase::Over(_))).then_some(self.until)
    }

    /// What was found out, once it is over.
    pub fn finding(&self) -> Option<&Finding> {
        match &self.phase {
            Phase::Over(finding) => Some(finding),
            Phase::Connecting | Phase::Greeting => None,
        }
    }

    /// The version last spoken: the one to begin with next time, if the hub has answered.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    // ---- reactions --------------------------------------------------------------------------------------

    fn on_connack(&mut self, connack: &ConnAck<'_>) {
        let words = with_reason("the hub", connack.reason, connack.properties.reason_string());
        match connack.reason {
            ReasonCode::Success => {
                let mut bytes = Vec::new();
                let goodbye = Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY };
                let written = encode(&Packet::Disconnect(goodbye), self.version, &mut bytes);
                written.expect("it is of that version and has two bytes");
                self.output.push(&bytes);
                self.end(Finding::Known);
            }
            ReasonCode::UnsupportedProtocolVersion if self.may_change => {
                self.close_wanted = true;
                self.try_other_version();
            }
            ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized => {
                self.end(Finding::Unknown(fit_for_people(&words)));
            }
            _ => self.end(Finding::Unclear(fit_for_people(&words))),
        }
    }

    /// A connection of its own for each version: after a refusal nothing more may be said over the old one.
    fn try_other_version(&mut self) {
        self.may_change = false;
        self.version = other(self.version);
        self.phase = Phase::Connecting;
        self.incoming = Vec::new();
        self.connect_wanted = true;
    }

    fn end(&mut self, finding: Finding) {
        self.phase = Phase::Over(finding);
        self.close_wanted = true;
        self.connect_wanted = false;
    }
}

fn nonsense(what: &str) -> Finding {
    Finding::Unclear(fit_for_people(&format!("the hub sent what is not right: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Wall, uplink::FailureKind};
    use ProtocolVersion::{V5, V311};

    const START: Now = Now { mono: Mono(1_000_000), wall: Wall(0) };

    /// A trial whose CONNECT is on its way.
    fn greeting(version: ProtocolVersion) -> Trial {
        let mut trial = Trial::new(Secret::new("THE TOKEN"), "me-t1".to_owned(), version, START);
        assert!(trial.poll_connect() && !trial.poll_connect());
        trial.handle_connected();
        trial
    }

    fn sent(trial: &mut Trial) -> Vec<u8> {
        let (front, back) = trial.output().as_slices();
        let bytes = [front, back].concat();
        trial.output().consume(bytes.len());
        bytes
    }

    fn closed() -> Failure {
        Failure::new(FailureKind::Closed, "closed")
    }

    fn answered(version: ProtocolVersion, answer: &[u8]) -> Finding {
        let mut trial = greeting(version);
        trial.handle_bytes(answer);
        assert!(trial.poll_close() && trial.poll_timeout().is_none() && !trial.poll_connect());
        trial.finding().expect("over").clone()
    }

    #[test]
    fn connect_carries_the_token_and_nothing_else_and_disconnect_follows_the_answer() {
        let mut trial = greeting(V311);
        let connect = sent(&mut trial);
        assert_eq!(connect, b"\x10\x1c\0\x04MQTT\x04\x82\0\x3c\0\x05me-t1\0\x09THE TOKEN");
        // In pieces, as TCP may bring it.
        for byte in [0x20, 2, 0] {
            trial.handle_bytes(&[byte]);
            assert!(trial.finding().is_none());
        }
        trial.handle_bytes(&[0]);
        assert_eq!(trial.finding(), Some(&Finding::Known));
        assert_eq!(sent(&mut trial), [0xE0, 0]);
        assert!(trial.poll_close());
        // What happens to the old connection changes nothing.
        trial.handle_disconnected(&closed());
        trial.handle_timeout(Now { mono: START.mono + TRIAL_TIME, ..START });
        assert!(!trial.poll_connect() && trial.finding() == Some(&Finding::Known));
    }

    #[test]
    fn only_an_answer_about_the_token_is_a_verdict() {
        assert_eq!(answered(V5, &[0x20, 3, 0, 0, 0]), Finding::Known);
        let is_unknown = |version, answer: &[u8]| matches!(answered(version, answer), Finding::Unknown(_));
        for code in [0x86, 0x87] {
            assert!(is_unknown(V5, &[0x20, 3, 0, code, 0]), "{code:#x}");
        }
        for code in [4, 5] {
            assert!(is_unknown(V311, &[0x20, 2, 0, code]) && is_unknown(V5, &[0x20, 2, 0, code]), "{code}");
        }
        for answer in [&[0x20, 3, 0, 0x88, 0][..], &[0x20, 3, 0, 0x89, 0], &[0x20, 3, 0, 0x8A, 0]] {
            assert!(matches!(answered(V5, answer), Finding::Unclear(_)), "{answer:02x?}");
        }
        for answer in [&[0x20, 2, 0, 3][..], &[0x20, 2, 0, 2], &[0xD0, 0], b"HTTP/1.1 400 Bad Request"] {
            assert!(matches!(answered(V311, answer), Finding::Unclear(_)), "{answer:02x?}");
        }
    }

    #[test]
    fn a_hub_without_5_0_is_asked_again_in_3_1_1_over_another_connection() {
        let says_so: [fn(&mut Trial); 3] = [
            |trial| trial.handle_bytes(&[0x20, 2, 0, 1]),
            |trial| trial.handle_bytes(&[0x20, 3, 0, 0x84, 0]),
            |trial| trial.handle_disconnected(&closed()),
        ];
        for (n, say) in says_so.into_iter().enumerate() {
            let mut trial = greeting(V5);
            sent(&mut trial);
            say(&mut trial);
            assert!(trial.finding().is_none());
            assert_eq!((trial.poll_close(), trial.poll_connect()), (n < 2, true), "{n}");
            trial.handle_connected();
            assert_eq!(sent(&mut trial)[8], 4, "level 4");
            trial.handle_bytes(&[0x20, 2, 0, 0]);
            assert_eq!((trial.finding(), trial.version()), (Some(&Finding::Known), V311));
        }
    }

    #[test]
    fn a_hub_that_closes_both_has_not_answered() {
        let mut trial = greeting(V5);
        trial.handle_disconnected(&closed());
        assert!(trial.poll_connect());
        trial.handle_connected();
        trial.handle_disconnected(&closed());
        assert!(matches!(trial.finding(), Some(Finding::Unreached(_))));
        assert!(!trial.poll_connect() && !trial.poll_close());
    }

    #[test]
    fn a_hub_that_cannot_be_reached_or_says_nothing_in_time_is_told_apart_from_one_that_refuses() {
        let mut trial = Trial::new(Secret::new("T"), "c".to_owned(), V5, START);
        trial.handle_connect_failed(&Failure::new(FailureKind::Refused, "connection refused"));
        assert_eq!(trial.finding(), Some(&Finding::Unreached("connection refused".to_owned())));

        for mut trial in [Trial::new(Secret::new("T"), "c".to_owned(), V5, START), greeting(V5)] {
            let until = trial.poll_timeout().expect("it has an end");
            assert_eq!(until, START.mono + TRIAL_TIME);
            trial.handle_timeout(START);
            assert!(trial.finding().is_none());
            trial.handle_timeout(Now { mono: until, ..START });
            assert!(matches!(trial.finding(), Some(Finding::Unreached(_))) && trial.poll_close());
        }
        let mut trial = greeting(V5);
        trial.handle_disconnected(&Failure::new(FailureKind::TimedOut, "timed out"));
        assert!(matches!(trial.finding(), Some(Finding::Unreached(_))));
    }
}
