//! The uplink: one MQTT connection of our own, towards the hub, that takes readings from the journal to it.
//!
//! Pure: it owns no socket, no file and no clock. The loop around it does, once per turn:
//!
//! ```text
//! poll_connect -> resolve, connect, TLS -> handle_connected     or handle_connect_failed
//! handle_bytes / handle_disconnected                            what the socket says
//! handle_stored / handle_clock                                  what the journal and the clock say
//! handle_timeout                                                what is due
//! poll_read -> the journal -> handle_rows                       or handle_read_failed
//! poll_settlement -> the next commit -> handle_settled          or handle_settle_failed
//! output, poll_close                                            what goes to the socket
//! poll_notice                                                   what goes to the log
//! poll_timeout                                                  how long to sleep
//! ```

#[allow(dead_code)]
mod backoff;
pub mod failure;
#[allow(dead_code)]
mod pacing;
pub mod settings;
#[allow(dead_code)]
mod settled;
pub mod status;

use std::time::Duration;

use crate::{
    byte_queue::ByteQueue,
    clock::{Mono, Now},
    ids::Seq,
    record::{Outbound, Settlement},
};

pub use failure::{Failure, FailureKind};
pub use settings::{Mode, Order, RateTexts, Secret, Settings};
pub use status::{Notice, State, Status};

/// A wish to read the journal: readings behind `after`, up to `through`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The place before the first reading wanted.
    pub after: Seq,
    /// The last place wanted.
    pub through: Seq,
    /// Most readings to give.
    pub rows_max: usize,
    /// Bytes of values after which to stop; the reading that goes beyond them may still be given, and the first is.
    pub bytes_max: usize,
    /// Which question this is: answers to questions of an earlier connection are not wanted any more.
    ticket: u64,
}

/// Our client towards the hub; see the module's text for how it is driven.
#[derive(Debug)]
pub struct Uplink {
    settings: Settings,
    settled: Settlement,
    last_seq: Seq,
    output: ByteQueue,
    now: Now,
}

impl Uplink {
    /// An uplink over a journal whose last reading is `last_seq`, of which `resumed` is settled; `seed` spreads the
    /// attempts of many gateways over time.
    pub fn new(settings: Settings, resumed: Settlement, last_seq: Seq, seed: u64, now: Now) -> Self {
        let _ = seed;
        Self { settings, settled: resumed, last_seq, output: ByteQueue::default(), now }
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// TCP, and TLS if it is wanted, is up: CONNECT goes out.
    pub fn handle_connected(&mut self, now: Now) {
        self.now = now;
    }

    /// The attempt [`Uplink::poll_connect`] asked for has failed.
    pub fn handle_connect_failed(&mut self, failure: Failure, now: Now) {
        let _ = failure;
        self.now = now;
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Now) {
        let _ = bytes;
        self.now = now;
    }

    /// The connection is gone, by no wish of ours.
    pub fn handle_disconnected(&mut self, failure: Failure, now: Now) {
        let _ = failure;
        self.now = now;
    }

    /// A commit put readings up to `last_seq` on disk.
    pub fn handle_stored(&mut self, last_seq: Seq, now: Now) {
        self.last_seq = last_seq;
        self.now = now;
    }

    /// The system clock was found to be synchronised, or not to be.
    pub fn handle_clock(&mut self, synchronised: bool, now: Now) {
        let _ = synchronised;
        self.now = now;
    }

    /// The answer to [`Uplink::poll_read`]: the first readings of those asked for, in order; fewer than there are only
    /// if one of the request's bounds was reached.
    pub fn handle_rows(&mut self, request: ReadRequest, rows: Vec<Outbound>, now: Now) {
        let _ = (request, rows);
        self.now = now;
    }

    /// The journal could not be read; it is asked again a little later.
    pub fn handle_read_failed(&mut self, request: ReadRequest, now: Now) {
        let _ = request;
        self.now = now;
    }

    /// The settlement last polled is on disk.
    pub fn handle_settled(&mut self, now: Now) {
        self.now = now;
    }

    /// The commit that carried the settlement last polled has failed: it will be offered again.
    pub fn handle_settle_failed(&mut self, now: Now) {
        self.now = now;
    }

    /// The time [`Uplink::poll_timeout`] told has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
    }

    /// The program stops: a connection is taken leave of, and there will be no other.
    pub fn handle_stop(&mut self, now: Now) {
        self.now = now;
    }

    // ---- what is to be done -----------------------------------------------------------------------------

    /// Whether to resolve the hub's name and connect now; said once for each attempt.
    pub fn poll_connect(&mut self) -> bool {
        false
    }

    /// Whether to close the connection, or give up the attempt at one, after what is in [`Uplink::output`]; said once.
    ///
    /// The uplink does not wait for it: nothing that happens to that connection needs to be told any more.
    pub fn poll_close(&mut self) -> bool {
        false
    }

    /// Bytes for the connection; consume what was written.
    pub fn output(&mut self) -> &mut ByteQueue {
        &mut self.output
    }

    /// What to read from the journal next; one question at a time.
    pub fn poll_read(&mut self) -> Option<ReadRequest> {
        None
    }

    /// What became of readings since the last commit that said so; to be put into the next commit there is.
    pub fn poll_settlement(&mut self) -> Option<Settlement> {
        None
    }

    /// Whether a commit is to be made for the settlement alone: none has come by for a while.
    pub fn settlement_is_due(&self) -> bool {
        false
    }

    /// A line for the log.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        None
    }

    /// When [`Uplink::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Mono> {
        None
    }

    // ---- getters ----------------------------------------------------------------------------------------

    /// How the uplink is doing.
    pub fn status(&self, now: Now) -> Status {
        Status {
            state: State::BackingOff,
            since: now.mono,
            alarm: None,
            last_error: None,
            version: None,
            backlog: self.last_seq.0 - self.settled.through.0,
            in_flight: 0,
            uploaded: 0,
            rejected: 0,
            suspected: 0,
            uploaded_last_minute: 0,
            drains_in: self.settings.clock_wait.filter(|wait| *wait < Duration::ZERO),
            bytes_sent: 0,
            connections: 0,
        }
    }
}
