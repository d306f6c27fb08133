//! All connections at once: bytes, commits and time come in; bytes, batches and closings are polled out.
//!
//! Pure: it owns no socket, no file and no clock. The loop around it does, once per turn:
//!
//! ```text
//! handle_connected / handle_bytes / handle_disconnected     what the sockets say
//! handle_timeout                                             what is due, after the bytes
//! poll_commit -> the store -> handle_committed               or handle_commit_failed, handle_store_ready
//! poll_output -> output / consume_output                     what may now be sent
//! poll_close -> handle_closed                                whose slot may be used again
//! handle_downlink, handle_rpc_room                           what comes from the hub, and goes there
//! poll_rpc_answer, poll_presence                             without the journal
//! poll_trial -> the hub -> handle_trial                      whether it knows a token nobody here has
//! wants_report -> handle_report                              if somebody listens to how everything is doing
//! poll_timeout                                               how long to sleep
//! ```

pub mod access;
mod children;
mod closing;
pub mod commit_gate;
mod connections;
mod deadlines;
mod dispatch;
mod downlink;
mod durability;
mod gateways;
mod gauges;
mod ingest;
mod invariants;
mod learning;
mod notices;
mod pacing;
pub mod rates;
mod refusals;
pub mod retained;
mod retaining;
mod routing;
mod session_life;
mod sessions;
mod subscribing;
pub mod subscription_tree;
mod sys_publishing;
pub mod sys_topics;
mod trials;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use crate::{
    byte_queue::ByteQueue,
    clock::{Mono, Now, Wall},
    identity::{DeviceGrants, Identity},
    ids::{ConnId, IdentityId, Seq, SessionSlot},
    limits::Limits,
    mqtt::{Packet, ProtocolVersion, encode},
    session::{Batch, CloseReason, Session, Terms, durable::Recovered},
};

use access::IdentityTable;
use commit_gate::{CommitGate, Ticket};
use connections::{Connection, Connections, FromAddress, Phase};
use deadlines::Deadlines;
use downlink::DownlinkState;
pub use downlink::{Reached, RpcAnswer};
use durability::Durability;
use gateways::DevicesBehind;
pub use gauges::Gauges;
use notices::Notices;
use rates::{Publisher, Rates};
use refusals::Refusals;
use retained::RetainedMessages;
use routing::{Announcement, Encoded, Routed};
use sessions::Sessions;
use subscription_tree::SubscriptionTree;
use sys_publishing::Newcomer;
use sys_topics::SysTopics;
use trials::Trials;
pub use trials::{Ask, TrialId, Verdict};

/// How long a connection without CONNECT is safe from making room for the next.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long devices seen are gathered before the registry is told; it lies on the same card.
const SEEN_WAIT: Duration = Duration::from_secs(300);

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Commit,
    Seen,
    Connect(ConnId),
    Packet(ConnId),
    Silence(ConnId),
    Wait(ConnId),
    Pause(Publisher),
    Trial(ConnId),
    SessionEnd(SessionSlot),
    Will(SessionSlot),
    Retained,
    SysTopics,
}

/// Whether the store takes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreState {
    Ready,
    /// A batch was handed out and its fate is not known yet.
    Committing(Ticket),
    /// A commit failed; nothing is accepted until the store was opened again and checked.
    Failed,
}

/// Totals since the start, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Readings on disk.
    pub readings_stored: u64,
    /// Readings whose commit failed; their QoS 1 senders were cut off without an answer.
    pub readings_failed: u64,
    /// Messages with readings that were refused, or dropped if they had QoS 0, because there was no room.
    pub messages_without_room: u64,
    /// Payloads set aside.
    pub payloads_quarantined: u64,
    /// Messages answered but not kept: topics nobody serves.
    pub messages_refused: u64,
    /// CONNECTs refused.
    pub connects_refused: u64,
    /// Devices enrolled because the hub knows their tokens.
    pub devices_learned: u64,
    /// Tokens unknown here that the hub does not know either.
    pub tokens_rejected: u64,
    /// Trials of unknown tokens that came to no verdict.
    pub trials_undecided: u64,
    /// Connections ended for something the peer did wrong.
    pub connections_faulted: u64,
    /// Batches on disk.
    pub commits: u64,
    /// Messages sent to subscribers.
    pub messages_sent: u64,
    /// Messages not sent to a subscriber that did not keep up, or takes no packet of their size.
    pub messages_dropped: u64,
    /// Messages whose time was over before they could be sent.
    pub messages_expired: u64,
    /// Messages of the hub that a device was sent, or will be.
    pub downlinks_delivered: u64,
    /// Messages of the hub for devices that were not there, or had not subscribed.
    pub downlinks_undelivered: u64,
    /// Answers of devices to commands that could not go to the hub.
    pub rpc_answers_refused: u64,
    /// Messages that could not be retained for want of room.
    pub retained_refused: u64,
    /// Packets received, of every kind.
    pub packets_received: u64,
    /// Packets sent, of every kind.
    pub packets_sent: u64,
    /// Bytes of the packets received.
    pub bytes_received: u64,
    /// Bytes of the packets sent.
    pub bytes_sent: u64,
    /// Messages published by clients and devices.
    pub publishes_received: u64,
    /// Clients let in.
    pub clients_admitted: u64,
    /// Most clients connected at once.
    pub clients_connected_max: u64,
}

impl Counters {
    fn note_sent(&mut self, bytes: usize) {
        self.packets_sent += 1;
        self.bytes_sent += bytes as u64;
    }
}

/// What a broker begins with.
#[derive(Debug)]
pub struct Start {
    /// Who may come in.
    pub identities: Vec<Identity>,
    /// The rights of devices beyond the device API.
    pub grants: DeviceGrants,
    /// What the store holds.
    pub recovered: Recovered,
    /// Makes assigned client ids unguessable.
    pub seed: u64,
}

/// The broker's core; see the module's text for how it is driven.
pub struct Broker {
    limits: Limits,
    connections: Connections,
    identities: IdentityTable,
    grants: DeviceGrants,
    gate: CommitGate,
    store: StoreState,
    /// There is no room for readings; they are refused.
    is_storage_full: bool,
    batch: Batch,
    batch_bytes: usize,
    next_seq: Seq,
    /// Readings in the batch that was handed out.
    committing: usize,
    commit_due: bool,
    seen_due: bool,
    deadlines: Deadlines<Deadline>,
    /// Connections that wait to be let in, longest first.
    unauthenticated: BTreeSet<(Mono, ConnId)>,
    per_address: HashMap<IpAddr, FromAddress>,
    refusals: Refusals,
    trials: Trials,
    rates: Rates,
    notices: Notices,
    counters: Counters,
    outputs: VecDeque<ConnId>,
    closes: VecDeque<(ConnId, CloseReason)>,
    assigned_ids: u64,
    seed: u64,
    encoded: Vec<u8>,
    subscriptions: SubscriptionTree,
    to_route: VecDeque<Routed>,
    /// What devices sent, for local clients, until it is on disk.
    announcements: VecDeque<Announcement>,
    sessions: Sessions,
    retained: RetainedMessages,
    sys_topics: SysTopics,
    /// Those who wait for the first values of `sys_topics`, for the rest of the turn.
    sys_newcomers: Vec<Newcomer>,
    durability: Durability,
    downlink: DownlinkState,
    devices_behind: DevicesBehind,
    /// Bytes of messages that wait for all connections together.
    queued_bytes: usize,
    /// Bytes of messages that wait for sessions without a connection.
    offline_bytes: usize,
    matches: Vec<(SessionSlot, Terms)>,
    encoded_publish: Encoded,
}

impl Broker {
    /// A broker that goes on from `start`.
    pub fn new(limits: Limits, start: Start, now: Now) -> Self {
        let Start { identities, grants, recovered, seed } = start;
        let mut broker = Self {
            limits,
            connections: Connections::default(),
            identities: IdentityTable::new(identities),
            grants,
            gate: CommitGate::default(),
            store: StoreState::Ready,
            is_storage_full: false,
            batch: Batch::default(),
            batch_bytes: 0,
            next_seq: recovered.last_seq.next(),
            committing: 0,
            commit_due: false,
            seen_due: false,
            deadlines: Deadlines::new(),
            unauthenticated: BTreeSet::new(),
            per_address: HashMap::new(),
            refusals: Refusals::default(),
            trials: Trials::default(),
            rates: Rates::default(),
            notices: Notices::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            closes: VecDeque::new(),
            assigned_ids: 0,
            seed,
            encoded: Vec::new(),
            subscriptions: SubscriptionTree::default(),
            to_route: VecDeque::new(),
            announcements: VecDeque::new(),
            sessions: Sessions::default(),
            retained: RetainedMessages::default(),
            sys_topics: SysTopics::new(now.mono),
            sys_newcomers: Vec::new(),
            durability: Durability::default(),
            downlink: DownlinkState::default(),
            devices_behind: DevicesBehind::default(),
            queued_bytes: 0,
            offline_bytes: 0,
            matches: Vec::new(),
            encoded_publish: Encoded::default(),
        };
        broker.adopt(recovered, now);
        broker
    }

    // ---- getters ----------------------------------------------------------------------------------------

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Connections in the table, those that are closing included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Devices and local clients in the registry.
    pub fn identity_count(&self) -> usize {
        self.identities.count()
    }

    /// Whether the life of anything on disk is running out, so that it is worth noting how time goes by.
    pub fn counts_time(&self) -> bool {
        self.sessions.offline_len() > 0 || self.retained.next_expiry().is_some()
    }

    /// Whether the store takes readings.
    pub fn is_storing(&self) -> bool {
        self.store != StoreState::Failed
    }

    /// Whether readings are refused for want of room.
    pub fn is_storage_full(&self) -> bool {
        self.is_storage_full
    }

    /// Whether a CONNECT may be looked at in this turn, so that the registry had better be up to date: one of the
    /// `readable` has yet to be let in, or one that was put off may be due.
    pub fn expects_connect(&self, readable: &[ConnId], now: Now) -> bool {
        if self.unauthenticated.is_empty() {
            return false;
        }
        let may_say_it = |conn: &ConnId| {
            self.connections.get(*conn).is_some_and(|connection| connection.phase.is_unauthenticated())
        };
        self.deadlines.next().is_some_and(|at| at <= now.mono) || readable.iter().any(may_say_it)
    }

    /// Whether another connection may be accepted now; if not, ask again within [`Broker::accept_retry`].
    pub fn admits_more(&self, now: Now) -> bool {
        let full = self.unauthenticated.len() >= self.limits.connections_unauthenticated as usize;
        !full || self.longest_waiting(now).is_some()
    }

    /// How long to leave connections in the kernel's queue when no more are admitted.
    pub fn accept_retry(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Whether bytes of `conn` are welcome. If not, they stay in the socket, and TCP slows the peer down.
    pub fn wants_bytes(&self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        match &connection.phase {
            Phase::Waiting | Phase::Closing => false,
            Phase::AwaitingConnect | Phase::Waited => self.may_read(connection),
            // Only to notice that it gives up.
            Phase::Held { .. } => {
                self.may_read(connection) && connection.partial.len() <= self.limits.connect_bytes as usize
            }
            Phase::Active(client) => {
                let only_publishes = || {
                    self.sessions
                        .get(client.session)
                        .is_some_and(|session| !session.rights.is_device() && session.outgoing.is_idle())
                };
                self.may_read(connection)
                    && !self.is_paused(conn)
                    && !(self.is_memory_short() && only_publishes())
            }
        }
    }

    /// Whether the batch has reached a bound: nothing more is read until it is committed.
    pub fn is_commit_urgent(&self) -> bool {
        self.batch.records.len() + self.batch.quarantined.len() + self.batch.changes.len()
            >= self.limits.commit_records as usize
            || self.batch_bytes >= self.limits.commit_bytes as usize
    }

    fn may_read(&self, connection: &Connection) -> bool {
        connection.outbox.len() < self.limits.outbox_bytes as usize && !self.is_commit_urgent()
    }

    /// Whether so much waits for subscribers that local clients which only publish must wait too.
    fn is_memory_short(&self) -> bool {
        self.queued_bytes >= self.limits.queue_memory_bytes as usize
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// A peer connected. The caller goes on as if all were well: a refusal comes out of `poll_close`.
    pub fn handle_connected(&mut self, conn: ConnId, address: IpAddr, now: Now) {
        let connection = Connection {
            address,
            phase: Phase::AwaitingConnect,
            partial: Vec::new(),
            outbox: ByteQueue::default(),
            accepted: now.mono,
            last_packet: now.mono,
            listed: false,
        };
        self.connections.insert(conn, connection);
        self.unauthenticated.insert((now.mono, conn));
        let from_address = self.per_address.entry(address).or_default();
        from_address.connections += 1;
        if from_address.connections > self.limits.connections_per_address {
            self.close(conn, CloseReason::TooManyFromAddress, now);
        } else if self.connections.len() > self.limits.connections as usize {
            self.close(conn, CloseReason::TooManyConnections, now);
        } else {
            self.on_accepted(conn, address, now);
        }
        self.route_pending(now);
        self.check_invariants();
    }

    /// The peer closed the connection, or it failed underneath.
    pub fn handle_disconnected(&mut self, conn: ConnId, reason: CloseReason, now: Now) {
        self.close(conn, reason, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// The socket of `conn` took bytes of its output: more of what waits for it may follow.
    pub fn handle_written(&mut self, conn: ConnId, now: Now) {
        self.pump(conn, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// The socket behind a connection that `poll_close` gave out is gone; its slot may be used again.
    pub fn handle_closed(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.remove(conn) else { return };
        if let Some(from_address) = self.per_address.get_mut(&connection.address) {
            from_address.connections -= 1;
            if from_address.connections == 0 {
                self.per_address.remove(&connection.address);
            }
        }
    }

    /// The registry was changed by somebody: connections that lost their right are closed.
    pub fn handle_registry(&mut self, identities: Vec<Identity>, now: Now) {
        for (identity, connections) in self.identities.replace(identities) {
            for conn in connections {
                self.close(conn, CloseReason::CredentialsChanged, now);
            }
            self.end_offline_sessions(identity, now);
        }
        for session in self.sessions.iter_mut() {
            session.rights.set_gateway(self.identities.is_gateway(session.identity));
        }
        self.route_pending(now);
        self.check_invariants();
    }

    /// Everything up to `through` is on disk: the answers that waited for it may leave.
    ///
    /// # Panics
    /// If `through` is not what `poll_commit` handed out last: the store lied.
    pub fn handle_committed(&mut self, through: Ticket, now: Now) {
        assert_eq!(self.store, StoreState::Committing(through), "a commit nobody asked for");
        self.store = StoreState::Ready;
        self.counters.commits += 1;
        self.counters.readings_stored += self.committing as u64;
        self.release_announcements(through);
        let released: Vec<_> = self.gate.release(through).collect();
        for answer in released {
            self.on_released(answer, now);
        }
        self.release_deliveries(through, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// The commit failed, and nobody knows what of it is on disk: whoever waits for an answer is cut off without
    /// one, so that the readings are sent again. [MQTT-4.4.0-1]
    pub fn handle_commit_failed(&mut self, now: Now) {
        self.store = StoreState::Failed;
        self.counters.readings_failed += (self.committing + self.batch.records.len()) as u64;
        self.batch = Batch::default();
        self.batch_bytes = 0;
        self.commit_due = false;
        self.announcements.clear();
        self.deadlines.cancel(Deadline::Commit);
        self.doubt_subscribers();
        let mut cut_off: BTreeSet<ConnId> = self.gate.give_up().map(|held| held.conn).collect();
        let durable = |(_, session): (_, &Session)| session.conn.filter(|_| session.durable.is_some());
        cut_off.extend(self.sessions.iter().filter_map(durable));
        for conn in cut_off {
            self.close(conn, CloseReason::StoreFailed, now);
        }
        self.forget_everything_durable(now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// The store was opened again and passed its checks, and this is what it holds.
    pub fn handle_store_ready(&mut self, recovered: Recovered, now: Now) {
        assert_eq!(self.store, StoreState::Failed, "the store became ready without having failed");
        self.store = StoreState::Ready;
        self.next_seq = recovered.last_seq.next();
        self.adopt(recovered, now);
        self.check_invariants();
    }

    /// There is no room for readings any more, or there is again.
    pub fn handle_storage_full(&mut self, is_full: bool) {
        self.is_storage_full = is_full;
    }

    /// What is not yet on disk is due now: the broker is about to stop.
    pub fn handle_drain(&mut self) {
        self.commit_due = !self.batch.is_empty();
    }

    /// The broker stops: everybody is told, and the wills of those who did not say goodbye are due.
    ///
    /// Call it after the commit that `handle_drain` asked for, so that nobody is closed while an answer is owed.
    pub fn handle_shutdown(&mut self, now: Now) {
        let all: Vec<ConnId> = self.connections.iter().map(|(id, _)| id).collect();
        for conn in all {
            self.close(conn, CloseReason::ShuttingDown, now);
        }
        self.route_pending(now);
        self.commit_due = !self.batch.is_empty();
        self.seen_due = true;
    }

    /// Does what is due at `now`. Call it after the bytes of the turn: while a commit stalled, a PINGREQ may have
    /// arrived in time and only been read late.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(deadline) = self.deadlines.pop_due(now.mono) {
            match deadline {
                Deadline::Commit => self.commit_due = true,
                Deadline::Seen => self.seen_due = true,
                Deadline::Connect(conn) => self.close(conn, CloseReason::ConnectTimeout, now),
                Deadline::Packet(conn) => self.on_packet_late(conn, now),
                Deadline::Silence(conn) => self.on_silence(conn, now),
                Deadline::Wait(conn) => self.on_wait_over(conn, now),
                Deadline::Pause(publisher) => self.on_pause_over(publisher, now),
                Deadline::Trial(conn) => self.on_trial_late(conn, now),
                Deadline::SessionEnd(slot) => self.on_session_end(slot, now),
                Deadline::Will(slot) => self.on_will_due(slot, now),
                Deadline::Retained => self.on_retained_expired(now),
                Deadline::SysTopics => self.on_sys_interval(),
            }
        }
        self.route_pending(now);
        self.check_invariants();
    }

    // ---- what is to be done -----------------------------------------------------------------------------

    /// The batch to make durable in one transaction, if one is due; then call `handle_committed` with the ticket,
    /// or `handle_commit_failed`.
    pub fn poll_commit(&mut self) -> Option<(Ticket, Batch)> {
        let is_awaited = self.gate.held() > 0 || self.durability.is_awaited();
        let due = self.commit_due || is_awaited || self.is_commit_urgent();
        if !due || self.batch.is_empty() || self.store != StoreState::Ready {
            return None;
        }
        self.commit_due = false;
        self.deadlines.cancel(Deadline::Commit);
        self.batch_bytes = 0;
        let through = self.gate.appended();
        self.store = StoreState::Committing(through);
        let batch = std::mem::take(&mut self.batch);
        self.committing = batch.records.len();
        self.counters.payloads_quarantined += batch.quarantined.len() as u64;
        Some((through, batch))
    }

    /// A connection with new bytes to send.
    pub fn poll_output(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.outputs.pop_front() {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.listed = false;
                return Some(conn);
            }
        }
        None
    }

    /// The bytes for `conn`; take from the front what the socket took.
    pub fn output(&mut self, conn: ConnId) -> Option<&mut ByteQueue> {
        self.connections.get_mut(conn).map(|connection| &mut connection.outbox)
    }

    /// A connection to close, after a last try to send its output; then call `handle_closed`.
    pub fn poll_close(&mut self) -> Option<(ConnId, CloseReason)> {
        self.closes.pop_front()
    }

    /// When `handle_timeout` is next due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.deadlines.next()
    }

    /// Which devices were seen since the last time, when the registry is due to hear of it.
    pub fn poll_seen(&mut self) -> Option<Vec<(IdentityId, Wall)>> {
        if !std::mem::take(&mut self.seen_due) {
            return None;
        }
        Some(self.identities.take_seen()).filter(|seen| !seen.is_empty())
    }

    // ---- inside -----------------------------------------------------------------------------------------

    /// Encodes `packet` into the outbox of `conn`; a packet larger than the client takes is not sent.
    ///
    /// Returns whether it was.
    fn send(&mut self, conn: ConnId, packet: &Packet<'_>, version: ProtocolVersion, bytes_max: u32) -> bool {
        self.encoded.clear();
        encode(packet, version, &mut self.encoded)
            .expect("our own packets are small and of the client's version");
        if self.encoded.len() > bytes_max as usize {
            return false;
        }
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        self.counters.note_sent(self.encoded.len());
        connection.outbox.push(&self.encoded);
        if !connection.listed {
            connection.listed = true;
            self.outputs.push_back(conn);
        }
        true
    }

    /// The connection that has waited for its CONNECT longest, if it has used up everybody's patience.
    fn longest_waiting(&self, now: Now) -> Option<ConnId> {
        let (since, conn) = self.unauthenticated.first()?;
        (now.mono.since(*since) >= PATIENCE).then_some(*conn)
    }

    fn make_room(&mut self, now: Now) {
        if self.unauthenticated.len() > self.limits.connections_unauthenticated as usize
            && let Some(conn) = self.longest_waiting(now)
        {
            self.close(conn, CloseReason::MadeRoom, now);
        }
    }
}

#[cfg(test)]
mod tests;
