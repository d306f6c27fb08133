//! Every bound in one place: the knobs of `[limits]` in the configuration, and the fixed ones.
//!
//! A knob is a whole number whose name ends in its unit (`_s`, `_ms`, `_bytes`) unless it is a count.
//! Defaults suit a gateway with 512 MB of memory.

use std::{fmt, time::Duration};

/// One knob of `[limits]`: its name with unit, default, range and meaning.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// The key in the configuration file.
    pub name: &'static str,
    /// Its value when nothing is said.
    pub default: u32,
    /// Smallest value allowed.
    pub min: u32,
    /// Largest value allowed.
    pub max: u32,
    /// What it bounds.
    pub doc: &'static str,
}

/// Why a knob could not be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// There is no knob of this name.
    UnknownName,
    /// The value lies outside the knob's range.
    OutOfRange {
        /// Smallest value allowed.
        min: u32,
        /// Largest value allowed.
        max: u32,
    },
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $default:literal in $min:literal..=$max:literal;)+) => {
        /// The bounds an operator may move, each with its default.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: u32,)+ }

        impl Default for Limits {
            fn default() -> Self { Self { $($name: $default,)+ } }
        }

        impl Limits {
            /// Every knob, in the order of the documentation.
            pub const KNOBS: &[Knob] = &[$(Knob {
                name: stringify!($name), default: $default, min: $min, max: $max, doc: concat!($($doc),+),
            },)+];

            /// Moves the knob called `name`.
            ///
            /// # Errors
            /// If there is no such knob, or `value` is out of its range.
            pub fn set(&mut self, name: &str, value: i64) -> Result<(), LimitError> {
                match name {
                    $(stringify!($name) => { self.$name = in_range(value, $min, $max)?; Ok(()) })+
                    _ => Err(LimitError::UnknownName),
                }
            }
        }

        $(const _: () = assert!($min <= $default && $default <= $max);)+
    };
}

limits! {
    /// Connections held at once; more are closed at once.
    connections: 1000 in 1..=1_000_000;
    /// Connections held at once from one address; for IPv6, from one network of 64 bits unless it is our own.
    connections_per_address: 100 in 1..=1_000_000;
    /// Connections of one device, told apart by client id; the oldest is closed beyond it.
    connections_per_device: 4 in 1..=1000;
    /// Connections of one local client, told apart by client id; the oldest is closed beyond it.
    connections_per_client: 100 in 1..=1_000_000;
    /// Connections that have not been let in yet; more wait in the kernel's queue.
    connections_unauthenticated: 64 in 1..=100_000;
    /// Seconds from accepting a connection to its complete CONNECT, TLS handshake included.
    connect_timeout_s: 10 in 1..=300;
    /// Seconds from a packet's first byte to its last.
    packet_timeout_s: 30 in 1..=3600;
    /// Largest packet after CONNECT, in bytes, header included.
    packet_bytes: 65_536 in 256..=1_048_576;
    /// Largest packet of a local client after CONNECT, in bytes, header included.
    client_packet_bytes: 1_048_576 in 256..=16_777_216;
    /// Largest CONNECT, in bytes, header and will included.
    connect_bytes: 4096 in 256..=262_144;
    /// Longest topic name or filter, in bytes.
    topic_bytes: 1024 in 32..=65_535;
    /// Most levels of a topic name or filter.
    topic_levels: 256 in 4..=65_535;
    /// QoS 1 and 2 messages a version 5 client may send before the first is acknowledged (Receive Maximum).
    receive_maximum: 20 in 1..=65_535;
    /// QoS 1 and 2 messages sent to a client before it has acknowledged the first; its own Receive Maximum may be less.
    window: 20 in 1..=1000;
    /// Topic aliases a version 5 client may use, and is given if it takes them.
    topic_aliases: 20 in 0..=1000;
    /// Subscriptions of one device's session.
    device_subscriptions: 50 in 1..=100_000;
    /// Subscriptions of one local client's session.
    client_subscriptions: 1000 in 1..=1_000_000;
    /// Bytes of all subscriptions, counted as what they cost in memory; one that would need more is refused.
    subscription_bytes: 33_554_432 in 65_536..=1_073_741_824;
    /// Messages that may wait for one device's session; QoS 0 beyond it is dropped, QoS 1 and 2 end the session.
    device_queue_messages: 100 in 1..=1_000_000;
    /// Bytes of messages that may wait for one device's session; beyond it as above.
    device_queue_bytes: 262_144 in 1024..=67_108_864;
    /// Messages that may wait for one local client's session; beyond it as above.
    client_queue_messages: 10_000 in 1..=1_000_000;
    /// Bytes of messages that may wait for all connections together, or for their acknowledgement; beyond it local clients
    /// that only publish are not read from. As many may wait for sessions without a connection; one that would need more
    /// ends.
    queue_memory_bytes: 16_777_216 in 65_536..=1_073_741_824;
    /// Seconds a device's session may outlive its connection.
    device_session_expiry_s: 3600 in 0..=2_592_000;
    /// Seconds a local client's session may outlive its connection.
    client_session_expiry_s: 604_800 in 0..=31_536_000;
    /// Sessions of one device without a connection; the one that is gone longest ends.
    device_offline_sessions: 1 in 1..=1000;
    /// Sessions of one local client without a connection; the one that is gone longest ends.
    client_offline_sessions: 100 in 1..=100_000;
    /// Sessions of all together without a connection; the one that is gone longest ends.
    offline_sessions: 1000 in 1..=1_000_000;
    /// Longest keep-alive in seconds; a client that asks for none is given this.
    keep_alive_max_s: 600 in 10..=65_535;
    /// Bytes that may wait for one client before it is no longer read from.
    outbox_bytes: 262_144 in 1024..=16_777_216;
    /// Milliseconds a reading of QoS 0 may wait for company before it is committed.
    commit_wait_ms: 200 in 0..=60_000;
    /// Readings that force a commit within a turn.
    commit_records: 1000 in 1..=100_000;
    /// Bytes of readings that force a commit within a turn.
    commit_bytes: 1_048_576 in 65_536..=67_108_864;
    /// Connections one address may make in a minute, ten seconds' worth at once; more wait unread for up to a second, or
    /// are closed; 0 for no bound.
    connects_per_address_per_min: 6000 in 0..=1_000_000;
    /// CONNECTs of one device or local client in a minute, ten seconds' worth at once; more are refused; 0 for no bound.
    connects_per_identity_per_min: 6000 in 0..=1_000_000;
    /// Messages one device may publish in a second, five seconds' worth at once; beyond it the device is not read from
    /// until it may send again; 0 for no bound.
    device_publishes_per_s: 0 in 0..=1_000_000;
    /// Messages one local client may publish in a second; beyond it as above.
    client_publishes_per_s: 0 in 0..=1_000_000;
    /// Messages of all who connect from one address in a second, programs on the gateway included; beyond it as above.
    publishes_per_address_per_s: 0 in 0..=1_000_000;
    /// Refused CONNECTs one address may send at full speed; each further one makes its next wait longer.
    refusals_per_address: 10 in 1..=1_000_000;
    /// Seconds after which one refused CONNECT of an address is forgiven.
    refusal_forgiven_s: 2 in 1..=3600;
    /// Longest wait, in milliseconds, before a CONNECT of an address with refusals is looked at.
    refusal_wait_max_ms: 4000 in 0..=60_000;
    /// Payloads kept in quarantine; beyond it the oldest is dropped and counted.
    quarantine_rows: 1000 in 1..=1_000_000;
    /// Bytes of payloads kept in quarantine, and as many of readings the hub has rejected, each at most a sixteenth of
    /// `max_bytes`; beyond it the oldest is dropped and counted, but never the newest.
    quarantine_bytes: 4_194_304 in 65_536..=1_073_741_824;
    /// Topics with a retained message; a message for one more is not retained.
    retained_messages: 1000 in 0..=1_000_000;
    /// Bytes of retained messages, their topics included; a message that would need more is not retained.
    retained_bytes: 4_194_304 in 0..=1_073_741_824;
    /// Connections to the hub of devices that are forwarded as themselves, one for each, about 4 kB of memory, 20 kB with
    /// TLS, and up to 64 KiB more while a backlog is sent; further devices are not.
    uplink_connections: 200 in 0..=10_000;
    /// Log lines for people's attention per ten seconds; the rest are counted.
    log_lines_per_10s: 200 in 1..=1_000_000;
}

impl Limits {
    /// [`Limits::connect_timeout_s`] as a span.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s.into())
    }

    /// [`Limits::packet_timeout_s`] as a span.
    pub fn packet_timeout(&self) -> Duration {
        Duration::from_secs(self.packet_timeout_s.into())
    }

    /// [`Limits::commit_wait_ms`] as a span.
    pub fn commit_wait(&self) -> Duration {
        Duration::from_millis(self.commit_wait_ms.into())
    }
}

/// QoS 2 messages of one session that may wait for their PUBREL, beside those that `receive_maximum` allows.
pub const UNRELEASED_MAX: usize = 1000;
/// Levels of nesting in the values of one reading, the outermost counted.
pub const JSON_DEPTH_MAX: usize = 16;
/// Levels of nesting in a telemetry payload: around the values there may be a list, a time, and a gateway's names.
pub const JSON_MESSAGE_DEPTH_MAX: usize = JSON_DEPTH_MAX + 3;
/// Keys in one object of values.
pub const JSON_KEYS_MAX: usize = 256;
/// Characters of one key.
pub const JSON_KEY_CHARS_MAX: usize = 255;
/// Readings in one telemetry message.
pub const JSON_RECORDS_MAX: usize = 1000;
/// Digits of one number, those of its exponent not counted.
pub const JSON_NUMBER_DIGITS_MAX: usize = 40;
/// Largest power of ten, either way, that a number may carry.
pub const JSON_EXPONENT_MAX: u32 = 308;
/// Last millisecond of the year 9999: the latest time a device may give.
pub const DEVICE_TS_MAX: i64 = 253_402_300_799_999;

/// Devices in one message of a gateway.
pub const GATEWAY_DEVICES_PER_MESSAGE: usize = JSON_KEYS_MAX;
/// Devices that are known through gateways only, all together: each has a place in the journal for good.
pub const GATEWAY_DEVICES_MAX: usize = 10_000;
/// Of the largest packet, what the largest payload told to a device leaves for all else.
pub const PUBLISH_OVERHEAD_BYTES: u32 = 64;
/// How far the time of receipt may be ahead of the time, so that messages of a device are told apart by it.
pub const RECEIVED_AHEAD_MAX: Duration = Duration::from_secs(5);
/// Connections accepted from one listener in one turn.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Bytes read from one connection in one turn; what is left is read in the next, after everybody else.
pub const READ_BYTES_PER_TURN: usize = 16 * 1024;
/// Filters of one connection's SUBSCRIBEs after which its next packet waits for the next turn: each may have everything
/// retained looked through.
pub const FILTERS_PER_TURN: usize = 64;
/// Addresses whose refused CONNECTs are remembered.
pub const REFUSING_ADDRESSES_MAX: usize = 4096;
/// Addresses, or identities, whose rates are remembered.
pub const RATED_MAX: usize = 4096;
/// Connections and CONNECTs may come as many at once as in so many seconds.
pub const CONNECT_BURST_S: u64 = 10;
/// Messages may come as many at once as in so many seconds.
pub const PUBLISH_BURST_S: u64 = 5;
/// Names that wait to be looked up.
pub const NAME_LOOKUPS_MAX: usize = 2;
/// Addresses tried for one name.
pub const ADDRESSES_PER_NAME_MAX: usize = 16;
/// How long the hub's name is looked up before the attempt is given up.
pub const NAME_LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer that came later than that is good for another attempt.
pub const LATE_ANSWER_SPAN: Duration = Duration::from_secs(600);
/// How long one address of the hub may take to accept a connection.
pub const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// The same, if there are so many addresses that they would not all get their turn.
pub const ADDRESS_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// A hub that takes smaller messages than this is not set up for readings; none is rejected for it.
pub const UPLINK_PAYLOAD_BYTES_MIN: usize = 256;
/// How long a TLS handshake with the hub may take. Each that takes longer doubles it: a chain of certificates is half a
/// minute on a link of a kilobit per second.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// The same on the slowest link.
pub const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// How long one attempt begins with further addresses of the hub.
pub const UPLINK_DIALS_SPAN: Duration = Duration::from_secs(60);
/// Readings for the uplink read from the journal in one turn.
pub const UPLINK_PAGE_ROWS: usize = 512;
/// Readings looked at for one device's uplink in one turn, whoever's they are.
pub const UPLINK_PAGE_LOOKED_AT: u64 = 2048;
/// Bytes of values read for the uplink in one turn.
pub const UPLINK_PAGE_BYTES: usize = 128 * 1024;
/// Readings that leave the journal in one step, beside as many as came since the step before.
pub const ROWS_PER_STEP: u32 = 1000;
/// Of the budget, one part in so many may be taken by payloads in quarantine, and another by rejected readings.
pub const SET_ASIDE_BUDGET_PARTS: u64 = 16;
/// Payloads in quarantine, and rejected readings, that stay when room is to be made for readings.
pub const SET_ASIDE_ROWS_WHEN_SHORT: u64 = 100;
/// Their bytes; the newest may go beyond them.
pub const SET_ASIDE_BYTES_WHEN_SHORT: u64 = 64 * 1024;
/// Bytes of payloads after which a step that drops some of them ends.
pub const SET_ASIDE_BYTES_PER_STEP: u64 = 1024 * 1024;
/// Boots before this one that the journal remembers though nothing is left of them.
pub const BOOTS_KEPT: i64 = 16;
/// Free pages the journal's file gives back in one step.
pub const SHRINK_PAGES_PER_STEP: i64 = 128;
/// Longest wait of a connection whose address connects too often: less than what it may wait for its CONNECT anyway.
pub const CONNECT_RATE_WAIT_MS_MAX: u64 = 1000;

/// Topics in which the broker tells of itself.
pub const SYS_TOPICS_MAX: usize = 200;
/// Subscriptions that may wait for the first values of these topics, for the rest of a turn.
pub const SYS_NEWCOMERS_MAX: usize = 1000;
/// Connections of the control socket at once; more wait in the kernel's queue.
pub const CONTROL_CONNECTIONS_MAX: usize = 8;
/// Bytes of one request on the control socket.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 1024;
/// From accepting a connection of the control socket to its end.
pub const CONTROL_TIME: Duration = Duration::from_secs(5);

/// How long a command of the hub may wait for its device: who gave it has long stopped waiting.
pub const DOWNLINK_RPC_LIFE: Duration = Duration::from_secs(60);
/// Spans of time one rate of the hub is told for.
pub const RATE_WINDOWS_MAX: usize = 6;
/// Messages of ours on their way to the hub at once; it closes connections that have 100 waiting.
pub const UPLINK_WINDOW: u16 = 80;
/// Bytes of payload on their way to the hub at once.
pub const UPLINK_FLIGHT_BYTES: usize = 256 * 1024;
/// Most an operator may make of it.
pub const UPLINK_FLIGHT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes on their way at once on a new link, until it has shown what it can carry.
pub const UPLINK_FLIGHT_BYTES_FIRST: usize = 16 * 1024;
/// Bytes on their way at once on the slowest link.
pub const UPLINK_FLIGHT_BYTES_MIN: usize = 512;
/// The largest payload of a hub that does not say.
pub const UPLINK_PAYLOAD_BYTES: usize = 65_536;
/// The largest packet taken from the hub, in bytes.
pub const UPLINK_INCOMING_BYTES_MAX: usize = 128 * 1024;
/// Of a hundred messages, how many carry fresh readings while a backlog drains.
pub const UPLINK_FRESH_PERCENT: u8 = 20;
/// Readings that must wait before fresh ones get a share of their own.
pub const UPLINK_FRESH_BACKLOG_MIN: u64 = 500;
/// Readings in one message to the hub: not more than a forebay takes in one.
pub const UPLINK_MESSAGE_ROWS: usize = JSON_RECORDS_MAX;
/// How long smaller readings overtake one that is more than may go beside them, before all wait until it has gone.
pub const UPLINK_OVERTAKEN_MAX: Duration = Duration::from_secs(10);
/// Readings held in memory for one lane, sent or waiting.
pub const UPLINK_LANE_ROWS: usize = 4096;
/// Bytes of values held in memory for one lane; one reading may go beyond them.
pub const UPLINK_LANE_BYTES: usize = 512 * 1024;
/// Bytes of payload on their way to the hub at once over the own connection of one device.
pub const UPLINK_DEVICE_FLIGHT_BYTES: usize = 32 * 1024;
/// Time between connections to the hub of devices that begin at once, on average; at most
/// [`UPLINK_DEVICE_CONNECT_SPREAD_MAX`] for all.
pub const UPLINK_DEVICE_CONNECT_STEP: Duration = Duration::from_millis(50);
/// In which time all of them have tried.
pub const UPLINK_DEVICE_CONNECT_SPREAD_MAX: Duration = Duration::from_secs(30);
/// Pages of the journal read in one turn for uplinks of devices.
pub const UPLINK_DEVICE_PAGES: u32 = 16;
/// Lines such uplinks may log in [`UPLINK_DEVICE_LINES_SPAN`].
pub const UPLINK_DEVICE_LINES: u32 = 10;
/// Devices a report names, or tells more of, of those that need somebody.
pub const UPLINK_DEVICE_NAMES_TOLD: usize = 5;
/// See [`UPLINK_DEVICE_LINES`].
pub const UPLINK_DEVICE_LINES_SPAN: Duration = Duration::from_secs(60);
/// The largest file of kept tokens that is read, in bytes.
pub const KEPT_TOKENS_BYTES_MAX: u64 = 16 << 20;
/// Readings held in memory for one lane of such a connection.
pub const UPLINK_DEVICE_LANE_ROWS: usize = 256;
/// Bytes of values held in memory for one lane of such a connection; one reading may go beyond them.
pub const UPLINK_DEVICE_LANE_BYTES: usize = 32 * 1024;
/// Trials of unknown tokens at the hub at once.
pub const TRIALS_AT_ONCE: usize = 4;
/// How long one may take, and how long a CONNECT may wait for one.
pub const TRIAL_TIME: Duration = Duration::from_secs(10);
/// CONNECTs that wait for a trial; more are told to come again.
pub const TRIAL_CONNECTS_MAX: usize = 64;
/// The same from one address.
pub const TRIAL_CONNECTS_PER_ADDRESS_MAX: usize = 16;
/// Trials begun in a minute.
pub const TRIALS_PER_MIN: u32 = 120;
/// Trials begun in a minute for one address.
pub const TRIALS_PER_ADDRESS_PER_MIN: u32 = 60;
/// Trials may come as many at once as in so many seconds.
pub const TRIAL_BURST_S: u64 = 10;
/// Trials the hub may reject at once: hubs shut out an address, and ours is everybody's, after ten in a row.
pub const TRIALS_REJECTED_MAX: u32 = 5;
/// After which time one of them is forgiven.
pub const TRIAL_FORGIVEN: Duration = Duration::from_secs(30);
/// Tokens remembered because the hub has rejected them, or was not clear about them.
pub const TRIED_TOKENS_MAX: usize = 1000;
/// How long a token is remembered that the hub has rejected.
pub const TRIAL_REJECTED_SPAN: Duration = Duration::from_secs(600);
/// How long a token is remembered that the hub was not clear about.
pub const TRIAL_UNDECIDED_SPAN: Duration = Duration::from_secs(5);
/// How long no token is tried after the hub could not be reached.
pub const TRIAL_PAUSE: Duration = Duration::from_secs(5);
/// The shortest token that is tried, in bytes.
pub const TRIED_TOKEN_BYTES_MIN: usize = 8;
/// Devices learnt from the hub.
pub const LEARNED_DEVICES_MAX: u32 = 10_000;
/// Stretches of settled readings with gaps before them that are kept on disk.
pub const UPLINK_STRETCHES: usize = 64;
/// Stretches that are kept over a lost connection: each lane may have one between any two of its readings.
pub const UPLINK_STRETCHES_IN_MEMORY: usize = 4 * UPLINK_LANE_ROWS;
/// Readings set aside at once until it is clear whether it is they or the hub.
pub const UPLINK_SUSPECTS: usize = 8;
/// Devices whose topic an ordinary broker denies us and whose readings are held back while others go on.
pub const UPLINK_HELD_DEVICES: usize = 256;
/// Bytes of the values of a reading the hub has taken that is kept, to be sent again when the hub seems to take none.
pub const UPLINK_WITNESS_BYTES: usize = 4096;
/// Messages of the hub for devices that wait for the end of the turn.
pub const UPLINK_DOWNLINKS: usize = 1024;
/// Bytes of their payloads; one may go beyond them.
pub const UPLINK_DOWNLINK_BYTES: usize = 256 * 1024;
/// Answers of devices to commands that wait for their way to the hub.
pub const UPLINK_RPC_ANSWERS: usize = 64;
/// Their bytes; one answer may go beyond them.
pub const UPLINK_RPC_ANSWER_BYTES: usize = 256 * 1024;
/// Devices of which it is kept whether they are here, and whether the hub knows.
pub const UPLINK_PRESENT_DEVICES: usize = 65_536;
/// Messages on their way at once that say who has come and gone.
pub const UPLINK_PRESENCE_WINDOW: usize = 8;
/// How long a device is gone before the hub is told: it may be back at once, and what it sent last is not on disk yet.
pub const UPLINK_GONE_WAIT: Duration = Duration::from_secs(2);
/// Devices looked at for one that has gone and left nothing to send.
pub const UPLINK_GONE_LOOKS: usize = 64;
/// Topics the hub is given numbers for.
pub const UPLINK_TOPIC_ALIASES: u16 = 16;
/// Devices whose own rate is watched.
pub const UPLINK_DEVICES: usize = 4096;
/// Seconds of silence after which a PINGREQ is sent.
pub const UPLINK_KEEP_ALIVE_S: u16 = 60;
/// How long an answer may take while the link is not known to be slow.
pub const UPLINK_ACK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an answer may take on the slowest link.
pub const UPLINK_ACK_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// How long the answer to CONNECT may take on the slowest link: it is small, and nothing is before it.
pub const UPLINK_CONNACK_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long one attempt, with name, TCP and TLS, may take. Its steps have bounds of their own, which come first.
pub const UPLINK_CONNECT_TIMEOUT: Duration = Duration::from_secs(240);
/// First wait before settings of the uplink that cannot be used are read again; each time in vain doubles it.
pub const UPLINK_LOAD_WAIT_MIN: Duration = Duration::from_secs(2);
/// The longest.
pub const UPLINK_LOAD_WAIT_MAX: Duration = Duration::from_secs(300);
/// Shortest wait before the next attempt to reach the hub.
pub const UPLINK_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest wait before the next attempt to reach the hub.
pub const UPLINK_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Wait before a hub that has refused us is asked again, give or take a fifth.
pub const UPLINK_REFUSED_WAIT: Duration = Duration::from_secs(300);
/// The same for a device forwarded as itself, the first times: it may be about to be added at the hub.
pub const UPLINK_DEVICE_REFUSED_WAITS: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(60)];
/// How long the hub may take to tell its limits before readings go without knowing them.
pub const UPLINK_LIMITS_WAIT: Duration = Duration::from_secs(5);
/// How long 3.1.1 is spoken with a hub that did not want 5.0, before that is tried again.
pub const UPLINK_OLD_VERSION_SPAN: Duration = Duration::from_secs(3600);
/// First time between two messages for a hub that has closed the connection on one.
pub const UPLINK_GAP_MIN: Duration = Duration::from_secs(1);
/// Longest time between two messages for a hub that may have closed the connection for their rate.
pub const UPLINK_GAP_DOUBTED: Duration = Duration::from_secs(10);
/// Longest time between two messages for a hub that has said that there were too many.
pub const UPLINK_GAP_MAX: Duration = Duration::from_secs(60);
/// Wait before a hub that has given our place to another client is asked again, give or take a fifth.
pub const UPLINK_TAKEOVER_WAIT: Duration = Duration::from_secs(30);
/// How long after a complaint about how much there is a closed connection is put down to it.
pub const UPLINK_TOLD_OFF_SPAN: Duration = Duration::from_secs(5);
/// Bytes that may wait for a hub that does not read.
pub const UPLINK_OUTPUT_BYTES_MAX: usize = 4 * UPLINK_FLIGHT_BYTES_MAX;
/// How long what became of readings may wait for a commit to ride in.
pub const UPLINK_SETTLE_WAIT: Duration = Duration::from_secs(5);
/// Shortest time between two commits that say what became of readings.
pub const UPLINK_SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// Readings the hub does not take that wait for a commit.
pub const UPLINK_REJECTED_UNSAVED: usize = 64;
/// How long after boot readings whose time is not known yet wait for the clock.
pub const UPLINK_CLOCK_WAIT: Duration = Duration::from_secs(600);
/// For how long a hub that was away must have been there as well, all connections together, if the wait after boot is not
/// shorter: time servers are tried again after some 30 seconds to 2 minutes.
pub const UPLINK_CLOCK_WAIT_WITH_HUB: Duration = Duration::from_secs(300);
/// Characters of one line of words for people.
pub const UPLINK_WORDS_CHARS_MAX: usize = 300;
/// Lines for the log that wait; beyond it the oldest is dropped.
pub const UPLINK_NOTICES: usize = 16;
/// Devices remembered whose readings an ordinary broker takes with nobody subscribed to them.
pub const UPLINK_UNHEARD_DEVICES: usize = 64;
/// How long it is not told again that there are such.
pub const UPLINK_UNHEARD_PAUSE: Duration = Duration::from_secs(3600);

const _: () = assert!(
    NAME_LOOKUP_TIMEOUT.as_secs()
        + UPLINK_DIALS_SPAN.as_secs()
        + ADDRESS_TIMEOUT.as_secs()
        + HANDSHAKE_TIMEOUT_MAX.as_secs()
        < UPLINK_CONNECT_TIMEOUT.as_secs()
);
const _: () =
    assert!(ADDRESS_TIMEOUT_MIN.as_secs() * ADDRESSES_PER_NAME_MAX as u64 <= UPLINK_DIALS_SPAN.as_secs());
const _: () = assert!(LATE_ANSWER_SPAN.as_secs() > UPLINK_BACKOFF_MAX.as_secs());
const _: () = assert!(UPLINK_BACKOFF_MIN.as_millis() < UPLINK_BACKOFF_MAX.as_millis());
const _: () = assert!(TRIAL_CONNECTS_PER_ADDRESS_MAX < TRIAL_CONNECTS_MAX);
const _: () = assert!(UPLINK_CLOCK_WAIT_WITH_HUB.as_secs() < UPLINK_CLOCK_WAIT.as_secs());
const _: () = assert!(UPLINK_FLIGHT_BYTES_MIN < UPLINK_FLIGHT_BYTES_FIRST);
const _: () = assert!(UPLINK_FLIGHT_BYTES_FIRST < UPLINK_FLIGHT_BYTES);
const _: () = assert!(UPLINK_FLIGHT_BYTES <= UPLINK_FLIGHT_BYTES_MAX);

fn in_range(value: i64, min: u32, max: u32) -> Result<u32, LimitError> {
    match u32::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(LimitError::OutOfRange { min, max }),
    }
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName => {
                f.write_str("no such limit; the limits are ")?;
                for (i, knob) in Limits::KNOBS.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", knob.name)?;
                }
                Ok(())
            }
            Self::OutOfRange { min, max } => write!(f, "must be a whole number from {min} to {max}"),
        }
    }
}

impl std::error::Error for LimitError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knob_is_set_by_its_name_within_its_range() {
        let mut limits = Limits::default();
        assert_eq!(limits.set("connections", 10_000), Ok(()));
        assert_eq!(limits.connections, 10_000);
        assert_eq!(limits.set("connections", 0), Err(LimitError::OutOfRange { min: 1, max: 1_000_000 }));
        assert_eq!(limits.set("connections", -1), Err(LimitError::OutOfRange { min: 1, max: 1_000_000 }));
        assert_eq!(limits.set("connexions", 1), Err(LimitError::UnknownName));
        assert_eq!(limits.connections, 10_000);
    }

    #[test]
    fn every_knob_accepts_its_own_default_and_ends() {
        let mut limits = Limits::default();
        for knob in Limits::KNOBS {
            for value in [knob.min, knob.max, knob.default] {
                assert_eq!(limits.set(knob.name, value.into()), Ok(()), "{}", knob.name);
            }
        }
        assert_eq!(limits, Limits::default());
    }
}
