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
mod committing;
mod connections;
mod counters;
mod deadlines;
mod dispatch;
mod downlink;
mod durability;
mod gateways;
mod gauges;
mod getters;
mod ingest;
mod invariants;
mod learning;
mod notices;
mod pacing;
mod put_off;
pub mod rates;
mod refusals;
pub mod retained;
mod retaining;
mod routing;
mod session_life;
mod sessions;
mod stamps;
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
    session::{Batch, CloseReason, Terms, durable::Recovered},
};

use access::IdentityTable;
use commit_gate::{CommitGate, Ticket};
use connections::{Connection, Connections, FromAddress, Phase};
pub use counters::Counters;
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
use stamps::Stamps;
use subscription_tree::SubscriptionTree;
use sys_publishing::Newcomer;
use sys_topics::SysTopics;
use trials::Trials;
pub use trials::{Ask, TrialId, Verdict};

/// How long a connection without CONNECT is safe from making room for the next.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long devices seen are gathered before the registry is told; it lies on the same card.
const SEEN_WAIT: Duration = Duration::from_secs(300);
/// The same for one that was never seen before: somebody may just be looking whether it comes.
const FIRST_SEEN_WAIT: Duration = Duration::from_secs(1);

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
    stamps: Stamps,
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
    /// Connections with packets that were read and have to wait.
    put_off: BTreeSet<ConnId>,
    /// Filters of the SUBSCRIBEs handled since a connection's bytes began to be handled.
    filters_taken: usize,
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
            stamps: Stamps::default(),
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
            put_off: BTreeSet::new(),
            filters_taken: 0,
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
            ends: None,
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

    /// The peer closed the connection, or it failed underneath. What it sent before and was put off is handled first.
    pub fn handle_disconnected(&mut self, conn: ConnId, reason: CloseReason, now: Now) {
        if !self.ends_later(conn, reason) {
            self.close(conn, reason, now);
        }
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
        self.handle_put_off(now);
        self.route_pending(now);
        self.check_invariants();
    }

    // ---- what is to be done -----------------------------------------------------------------------------

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
        self.next_put_off().into_iter().chain(self.deadlines.next()).min()
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
