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
//! handle_presence, answer_rpc, poll_downlink                    who is here, and what the hub sends to them
//! output, poll_close                                            what goes to the socket
//! poll_notice                                                   what goes to the log
//! poll_timeout                                                  how long to sleep
//! ```
//!
//! A connection's life, and the file that knows it:
//!
//! ```text
//!    +--> Connecting --up--> Greeting --let in--> Open(Asking) --limits told, or not--> Open(Uploading)
//!    |        |                 |                      |                                     |
//!    |        | not up          | not let in           | lost (ending)                       | lost (ending)
//!    |        v                 v                      v                                     v
//!    +----------------------------------- Waiting (backoff) <--------------------------------+
//! ```
//!
//! Beside readings, for a gateway: `presence` knows whom the hub was told of, `downlink` what it sends to devices and what
//! they answer.
//!
//! `uploader` has the readings, `picking` says which go next, `flight` what is on its way, `pacing` how fast it may go,
//! `poison` which reading is to blame; `incoming` and `outgoing` are the packets. `trial` is a connection that carries
//! nothing: it asks whether the hub knows a token.

mod backoff;
mod clock_wait;
mod connection;
mod device_mode;
mod downlink;
mod ending;
pub mod failure;
mod flight;
mod gateway_mode;
mod incoming;
mod lane;
mod meter;
mod outgoing;
mod pacing;
mod picking;
mod plain_mode;
mod poison;
mod presence;
pub mod settings;
mod settled;
pub mod status;
pub mod trial;
mod uploader;
mod versions;

use std::{collections::VecDeque, time::Duration};

use crate::{
    byte_queue::ByteQueue,
    clock::{Mono, Now},
    ids::Seq,
    limits::{UPLINK_CONNECT_TIMEOUT, UPLINK_NOTICES},
    mqtt::ProtocolVersion,
    record::{Outbound, Settlement},
};

pub use downlink::DownlinkCounts;
pub use failure::{Failure, FailureKind};
pub use settings::{Mode, Order, RateTexts, Secret, Settings};
pub use status::{Notice, State, Status};
pub use trial::{Finding, Trial};

use backoff::Backoff;
use clock_wait::ClockWait;
use connection::{Connection, Due, Phase};
use downlink::Queues;
use ending::{Blame, Pause};
use meter::Meter;
use pacing::Pace;
use picking::Wait;
use uploader::Uploader;
use versions::Versions;

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
///
/// It has no `Debug`: what waits in its output may be a CONNECT with our token.
pub struct Uplink {
    settings: Settings,
    link: Link,
    uploader: Uploader,
    queues: Queues,
    pace: Pace,
    backoff: Backoff,
    versions: Versions,
    output: ByteQueue,
    /// The beginning of a packet whose end has not come yet.
    incoming: Vec<u8>,
    encoded: Vec<u8>,
    connect_wanted: bool,
    close_wanted: bool,
    clock_synchronised: bool,
    clock_wait: ClockWait,
    /// What the last look for something to send has found to wait for.
    wait: Wait,
    /// Connections that ended while the limits were being asked for; a hub that does it twice is not asked again.
    ended_asking: u8,
    /// Connections that ended while the hub was asked to send messages for devices; after two, one goes without.
    ended_subscribing: u8,
    /// Whether the last message sent of its own accord was about who has come or gone: then it is another's turn.
    presence_had_turn: bool,
    people: ForPeople,
    now: Now,
}

/// Where the connection is in its life.
#[derive(Debug)]
enum Link {
    /// Nothing is tried before `until`.
    Waiting {
        until: Mono,
        why: Pause,
    },
    /// Name, TCP and TLS are being tried.
    Connecting {
        until: Mono,
    },
    /// CONNECT was sent.
    Greeting {
        since: Mono,
        until: Mono,
        version: ProtocolVersion,
    },
    Open(Box<Connection>),
    Stopped,
}

/// What is kept for people alone.
#[derive(Debug)]
struct ForPeople {
    state: State,
    since: Mono,
    alarm: Option<Alarm>,
    last_error: Option<(String, Mono)>,
    notices: VecDeque<Notice>,
    uploaded: Meter,
    stored: Meter,
    bytes_sent: u64,
    connections: u64,
}

#[derive(Debug)]
struct Alarm {
    words: String,
    /// Whether being let in shows that it is over; otherwise only a reading taken does.
    over_when_let_in: bool,
}

impl Uplink {
    /// An uplink over a journal whose last reading is `last_seq`, of which `resumed` is settled; `seed` spreads the
    /// attempts of many gateways over time. It wants to connect at once.
    pub fn new(settings: Settings, resumed: Settlement, last_seq: Seq, seed: u64, now: Now) -> Self {
        let people = ForPeople {
            state: State::Connecting,
            since: now.mono,
            alarm: None,
            last_error: None,
            notices: VecDeque::new(),
            uploaded: Meter::default(),
            stored: Meter::default(),
            bytes_sent: 0,
            connections: 0,
        };
        Self {
            link: Link::Connecting { until: now.mono + UPLINK_CONNECT_TIMEOUT },
            uploader: Uploader::new(&settings, &resumed, last_seq),
            queues: Queues::default(),
            pace: Pace::new(&settings.rates),
            backoff: Backoff::new(seed),
            versions: Versions::new(),
            output: ByteQueue::default(),
            incoming: Vec::new(),
            encoded: Vec::new(),
            connect_wanted: true,
            close_wanted: false,
            clock_synchronised: false,
            clock_wait: ClockWait::new(settings.clock_wait),
            wait: Wait::default(),
            ended_asking: 0,
            ended_subscribing: 0,
            presence_had_turn: false,
            people,
            now,
            settings,
        }
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// TCP, and TLS if it is wanted, is up: CONNECT goes out.
    pub fn handle_connected(&mut self, now: Now) {
        self.now = now;
        if matches!(self.link, Link::Connecting { .. }) {
            self.output.clear();
            self.incoming = Vec::new();
            self.greet();
        }
        self.finish();
    }

    /// The attempt [`Uplink::poll_connect`] asked for has failed.
    pub fn handle_connect_failed(&mut self, failure: Failure, now: Now) {
        self.now = now;
        if matches!(self.link, Link::Connecting { .. }) {
            let pause = if failure.kind == FailureKind::Clock { Pause::Clock } else { Pause::BackOff };
            self.lose(&failure.words, Blame::Link, pause);
            self.close_wanted = false;
        }
        self.finish();
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Now) {
        self.now = now;
        self.receive(bytes);
        self.finish();
    }

    /// The connection is gone, by no wish of ours.
    pub fn handle_disconnected(&mut self, failure: Failure, now: Now) {
        self.now = now;
        if self.version().is_some() {
            let blame = if failure.may_be_an_answer() { Blame::Message } else { Blame::Link };
            self.lose(&failure.words, blame, Pause::BackOff);
            self.close_wanted = false;
        }
        self.finish();
    }

    /// A commit put readings up to `last_seq` on disk.
    pub fn handle_stored(&mut self, last_seq: Seq, now: Now) {
        self.now = now;
        let before = self.uploader.last_seq;
        self.uploader.handle_stored(last_seq);
        self.people.stored.add(self.uploader.last_seq.0 - before.0, now.mono);
        self.finish();
    }

    /// A commit put readings of our device on disk, the first at `first` and the last at `last_seq`; between there may be
    /// others. For an uplink that has readings of one device only, and is told of all of them.
    pub fn handle_own_stored(&mut self, first: Seq, last_seq: Seq, count: u64, now: Now) {
        self.now = now;
        self.uploader.handle_own_stored(first, last_seq);
        self.people.stored.add(count, now.mono);
        self.finish();
    }

    /// The first attempt is put off by `wait`: many uplinks that begin at once are not to connect at once.
    pub fn put_off(&mut self, wait: Duration, now: Now) {
        if self.connect_wanted {
            self.connect_wanted = false;
            self.link = Link::Waiting { until: now.mono + wait, why: Pause::BackOff };
        }
    }

    /// A person has had a look: what is waited for before the next attempt may be over.
    pub fn try_now(&mut self, now: Now) {
        self.try_within(Duration::ZERO, now);
    }

    /// The same where many are to try again, and not all at once: the next attempt begins after `wait` at the latest.
    pub fn try_within(&mut self, wait: Duration, now: Now) {
        self.now = now;
        if let Link::Waiting { until, .. } = &mut self.link {
            *until = (now.mono + wait).min(*until);
            self.try_again_if_due();
        }
        self.finish();
    }

    /// The system clock was found to be synchronised, or not to be.
    pub fn handle_clock(&mut self, synchronised: bool, now: Now) {
        self.now = now;
        if synchronised && !self.clock_synchronised {
            self.uploader.forget_pending();
            if matches!(self.link, Link::Waiting { why: Pause::Clock, .. }) {
                self.try_now(now);
            }
        }
        self.clock_synchronised = synchronised;
        self.finish();
    }

    /// The answer to [`Uplink::poll_read`]: the first readings of those asked for, in order; fewer than there are only
    /// if one of the request's bounds was reached, and none only if there are none. Who has not looked that far lowers
    /// [`ReadRequest::through`] to where the search has ended.
    ///
    /// # Panics
    /// If they are out of order, or were not asked for.
    pub fn handle_rows(&mut self, request: ReadRequest, rows: Vec<Outbound>, now: Now) {
        self.now = now;
        self.uploader.take_rows(&request, rows, now.mono);
        self.finish();
    }

    /// The journal could not be read; [`Uplink::poll_read`] asks again, so poll it not before the journal may be better.
    pub fn handle_read_failed(&mut self, request: ReadRequest, now: Now) {
        self.now = now;
        self.uploader.read_failed(&request);
        self.finish();
    }

    /// The settlement last polled is on disk.
    pub fn handle_settled(&mut self, now: Now) {
        self.now = now;
        self.uploader.on_settled();
        self.finish();
    }

    /// The commit that carried the settlement last polled has failed: it will be offered again.
    pub fn handle_settle_failed(&mut self, now: Now) {
        self.now = now;
        self.uploader.on_settle_failed(now.mono);
        self.finish();
    }

    /// The time [`Uplink::poll_timeout`] told has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.uploader.note_time(now.mono);
        match &self.link {
            Link::Waiting { .. } => self.try_again_if_due(),
            Link::Connecting { until } if *until <= now.mono => {
                self.lose("no connection to the hub came up in time", Blame::Link, Pause::BackOff);
            }
            Link::Greeting { until, .. } if *until <= now.mono => {
                self.uploader.flight.note_unanswered_connect();
                self.lose("the hub did not answer CONNECT in time", Blame::Link, Pause::BackOff);
            }
            Link::Open(_) => self.do_what_is_due(),
            Link::Connecting { .. } | Link::Greeting { .. } | Link::Stopped => {}
        }
        self.finish();
    }

    /// The program stops: a connection is taken leave of, and there will be no other.
    pub fn handle_stop(&mut self, now: Now) {
        self.now = now;
        if matches!(self.link, Link::Open(_)) {
            self.send_disconnect();
        }
        self.close_wanted |= matches!(self.link, Link::Connecting { .. }) || self.version().is_some();
        self.close_connection();
        self.link = Link::Stopped;
        self.connect_wanted = false;
        self.finish();
    }

    // ---- what is to be done -----------------------------------------------------------------------------

    /// Whether to resolve the hub's name and connect now; said once for each attempt.
    pub fn poll_connect(&mut self) -> bool {
        std::mem::take(&mut self.connect_wanted)
    }

    /// Whether to close the connection, or give up the attempt at one, after what is in [`Uplink::output`]; said once.
    ///
    /// The uplink does not wait for it: nothing that happens to that connection needs to be told any more.
    pub fn poll_close(&mut self) -> bool {
        std::mem::take(&mut self.close_wanted)
    }

    /// Bytes for the connection; consume what was written.
    pub fn output(&mut self) -> &mut ByteQueue {
        &mut self.output
    }

    /// What to read from the journal next; one question at a time.
    pub fn poll_read(&mut self) -> Option<ReadRequest> {
        self.uploader.next_read()
    }

    /// What became of readings since the last commit that said so: the whole state, to be put into the next commit there
    /// is. Then [`Uplink::handle_settled`], or [`Uplink::handle_settle_failed`].
    pub fn poll_settlement(&mut self) -> Option<Settlement> {
        self.uploader.poll_settlement(self.now.mono)
    }

    /// What became of readings is to be put on disk at once: there may be no later commit.
    pub fn settle_now(&mut self) {
        self.uploader.settle_now();
    }

    /// Whether a commit is to be made for the settlement alone: none has come by for a while.
    pub fn settlement_is_due(&self) -> bool {
        self.uploader.settle_is_due()
    }

    /// A line for the log.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.people.notices.pop_front()
    }

    /// When [`Uplink::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let link = match &self.link {
            Link::Waiting { until, .. } | Link::Connecting { until } | Link::Greeting { until, .. } => {
                Some(*until)
            }
            Link::Open(connection) => Some(connection.next_due(&self.uploader.flight).0),
            Link::Stopped => None,
        };
        let clock = self.wait.for_clock.then(|| self.clock_wait_over()).flatten();
        [link, self.wait.until, clock, self.uploader.settle_at()].into_iter().flatten().min()
    }

    // ---- getters ----------------------------------------------------------------------------------------

    /// How the uplink is doing.
    pub fn status(&self, now: Now) -> Status {
        let people = &self.people;
        let (uploaded, stored) = (people.uploaded.last_minute(now.mono), people.stored.last_minute(now.mono));
        let (backlog, counts) = (self.uploader.backlog(), self.uploader.counts());
        Status {
            state: people.state,
            since: people.since,
            alarm: people.alarm.as_ref().map(|alarm| alarm.words.clone()),
            last_error: people.last_error.clone(),
            version: match &self.link {
                Link::Open(connection) => Some(connection.version),
                _ => None,
            },
            backlog,
            in_flight: self.uploader.flight.rows(),
            in_memory: self.uploader.rows_in_memory(),
            uploaded: counts.uploaded,
            rejected: counts.rejected,
            suspected: self.uploader.poison.suspects(),
            uploaded_last_minute: uploaded,
            drains_in: status::drains_in(backlog, uploaded, stored),
            bytes_sent: people.bytes_sent,
            connections: people.connections,
            downlink: self.queues.counts(),
        }
    }

    /// The version being spoken, if there is a connection.
    fn version(&self) -> Option<ProtocolVersion> {
        match &self.link {
            Link::Greeting { version, .. } => Some(*version),
            Link::Open(connection) => Some(connection.version),
            Link::Waiting { .. } | Link::Connecting { .. } | Link::Stopped => None,
        }
    }

    // ---- reactions --------------------------------------------------------------------------------------

    /// What every event ends with: sending what may be sent, and noting what people should know.
    fn finish(&mut self) {
        self.send_readings();
        let state = self.state();
        if state != self.people.state {
            if !(state.is_open() && self.people.state.is_open()) {
                self.people.since = self.now.mono;
            }
            self.people.state = state;
        }
    }

    fn try_again_if_due(&mut self) {
        let Link::Waiting { until, .. } = self.link else { return };
        if until <= self.now.mono {
            self.link = Link::Connecting { until: self.now.mono + UPLINK_CONNECT_TIMEOUT };
            self.connect_wanted = true;
        }
    }

    fn do_what_is_due(&mut self) {
        let Link::Open(connection) = &self.link else { return };
        let (at, due) = connection.next_due(&self.uploader.flight);
        if at > self.now.mono {
            return;
        }
        match due {
            Due::Ping => self.send_ping(),
            Due::Unlimited => {
                self.begin_uploading();
            }
            Due::Dead => {
                self.uploader.flight.note_silence();
                self.lose("not a word from the hub in time", Blame::Link, Pause::BackOff);
            }
            Due::Unanswered => {
                self.uploader.flight.note_unanswered();
                let look_at = self.settings.mode.when_it_takes_nothing();
                let words = format!("the hub does not acknowledge what it is sent; {look_at}");
                self.lose(&words, Blame::Message, Pause::BackOff);
            }
        }
    }

    /// When readings whose time is not known go all the same; `None` if they do not wait.
    fn clock_wait_over(&self) -> Option<Mono> {
        if self.clock_synchronised { None } else { self.clock_wait.over(self.now.mono) }
    }

    fn waits_for_clock(&self) -> bool {
        self.clock_wait_over().is_some_and(|over| self.now.mono < over)
    }

    fn state(&self) -> State {
        match &self.link {
            Link::Waiting { why: Pause::Refused, .. } => State::Refused,
            Link::Waiting { .. } => State::BackingOff,
            Link::Connecting { .. } => State::Connecting,
            Link::Greeting { .. } => State::Greeting,
            Link::Stopped => State::Stopped,
            Link::Open(connection) if connection.phase != Phase::Uploading => State::Asking,
            Link::Open(_) if self.uploader.backlog() == 0 => State::UpToDate,
            Link::Open(_) if !self.uploader.flight.is_empty() => State::Uploading,
            Link::Open(_) if self.wait.for_clock => State::WaitingForClock,
            Link::Open(_) if self.wait.until.is_some() => State::Slowed,
            Link::Open(_) => State::Uploading,
        }
    }

    /// How many readings wait, in words.
    fn backlog_words(&self) -> String {
        let backlog = self.uploader.backlog();
        // Of the places not looked at yet, it is not known whose they are.
        let up_to = if self.settings.mode.is_device() && backlog > 0 { "up to " } else { "" };
        format!("{up_to}{backlog} readings wait")
    }

    fn tell(&mut self, is_warning: bool, words: String) {
        let notices = &mut self.people.notices;
        if notices.len() >= UPLINK_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice { is_warning, words });
    }
}
