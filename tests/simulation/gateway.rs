//! The broker and its stores, driven as the event loop drives them: the same chapters in the same order, with the
//! simulated network for sockets. Written once; whoever changes `src/event_loop` changes this.

mod bounds;
mod house;
mod uplink;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use forebay::{
    broker::{Broker, Start},
    clock::{ClockState, Mono, Now},
    identity::{DeviceGrants, Identity},
    ids::ConnId,
    limits::{ACCEPTS_PER_TURN, Limits, READ_BYTES_PER_TURN},
    record::Record,
    session::{Batch, CloseReason, durable::Recovered},
    store::{BootId, Budget, Buffer, Registry, StoreError, StoreOptions},
};

use crate::{
    checks::Ledger,
    disk::Disk,
    machine::data_dir,
    network::{LinkId, Network, Read},
    sabotage::Sabotage,
    trace::{Trace, note},
    uploading::Uploading,
    upstream::Upstream,
};
use house::House;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);
const CLOCK_CHECK: Duration = Duration::from_secs(30);
const RUNNING_NOTE: Duration = Duration::from_secs(600);

/// What is counted whenever it is in doubt what is on disk.
pub const STORE_FAILURE: &str = "a store that is out of order";

/// The chapter of a turn at whose end the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    BeforeCommit,
    AfterCommit,
    EndOfTurn,
}

/// Whether the process is still there after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    Done,
    PowerLost,
}

/// How it is set up.
#[derive(Clone)]
pub struct Setup {
    pub limits: Limits,
    pub budget: Budget,
    pub sabotage: Sabotage,
}

/// What a turn works with.
pub struct Room<'a> {
    pub now: Now,
    /// The network's own time.
    pub net_now: u64,
    pub clock: ClockState,
    pub disk: &'a Disk,
    pub network: &'a mut Network,
    pub ledger: &'a mut Ledger,
    pub trace: &'a mut Trace,
    /// The hub, if there is one.
    pub upstream: Option<&'a mut Upstream>,
    /// When the registry could last not be read.
    pub registry_unread_at: &'a mut u64,
}

struct Socket {
    link: LinkId,
    conn: ConnId,
    /// Its last write was not taken whole.
    is_blocked: bool,
    /// When it was accepted or something was read.
    last_read: Mono,
    /// When everything sent so far had been read.
    last_drained: Mono,
}

/// Longest time a CONNECT is put off, during which nothing is read.
const PUT_OFF_MAX: Duration = Duration::from_secs(5);

/// A running broker.
pub struct Gateway {
    broker: Broker,
    buffer: Buffer,
    registry: Registry,
    limits: Limits,
    /// By slot, as the event loop's slab.
    sockets: BTreeMap<u32, Socket>,
    epoch: u32,
    /// The slot that is read first, so that everybody has his turn.
    first_slot: u32,
    retry_at: Option<Mono>,
    retry_wait: Duration,
    clock_check: Option<Mono>,
    running_note: Mono,
    registry_check: bool,
    house: House,
    uploading: Option<Uploading>,
    /// When its beginning is tried again.
    begin_again: Option<Mono>,
    /// Readings of a commit that failed, until it is known whether they are on disk.
    doubtful: Vec<Record>,
    sabotage: Sabotage,
    /// When the power goes, if it does.
    pub power_goes: Option<Moment>,
    /// Payloads there may be in quarantine: a smaller bound than before is kept to from the next payload on.
    quarantine_max: u64,
    /// A rule about time that was broken.
    broken: Option<String>,
}

impl Gateway {
    /// Starts as `event_loop/startup.rs` does.
    pub fn start(
        setup: &Setup,
        options: &StoreOptions,
        boot: &BootId,
        now: Now,
        clock: ClockState,
        seed: u64,
    ) -> Result<Self, StoreError> {
        let limits = setup.limits.clone();
        let registry = Registry::open(&data_dir(), options)?;
        let mut buffer = Buffer::open(&data_dir(), options, boot, now, clock)?;
        let broker = new_broker(limits.clone(), registry.identities()?, buffer.recover()?, seed, now);
        let quarantine_max = buffer.quarantine_len()?.max(limits.quarantine_rows.into());
        Ok(Self {
            broker,
            buffer,
            registry,
            limits,
            sockets: BTreeMap::new(),
            epoch: 0,
            first_slot: 0,
            retry_at: None,
            retry_wait: Duration::ZERO,
            clock_check: Some(now.mono + CLOCK_CHECK),
            running_note: now.mono + RUNNING_NOTE,
            registry_check: false,
            house: House::new(setup.budget, now.mono),
            uploading: None,
            begin_again: None,
            doubtful: Vec::new(),
            sabotage: setup.sabotage,
            power_goes: None,
            quarantine_max,
            broken: None,
        })
    }

    /// The devices the registry holds.
    pub fn devices(&self) -> Result<Vec<Identity>, StoreError> {
        self.registry.identities()
    }

    /// What the store holds of sessions and retained messages.
    pub fn recovered(&mut self) -> Result<Recovered, StoreError> {
        self.buffer.recover()
    }

    /// When the loop wakes up of its own accord.
    pub fn next_deadline(&self) -> Option<Mono> {
        let uplink = self.uploading.as_ref().and_then(|uploading| uploading.due(self.buffer.is_open()));
        let own = [self.retry_at, self.clock_check, Some(self.running_note), self.house.at, uplink];
        own.into_iter().flatten().chain(self.broker.poll_timeout()).min()
    }

    /// Somebody wrote to the registry's files.
    pub fn note_registry_written(&mut self) {
        self.registry_check = true;
    }

    // ---- the turn -----------------------------------------------------------------------------------------

    /// One turn of the loop.
    pub fn turn(&mut self, room: &mut Room<'_>) -> Turn {
        self.accept(room);
        if self.broker.expects_connect(&self.readable(room), room.now) {
            self.reload_registry(room);
        }
        self.read(room);
        self.read_uplink(room);
        self.broker.handle_timeout(room.now);
        if self.is_cut(Moment::BeforeCommit, room) {
            return Turn::PowerLost;
        }
        let committed = self.commit(room);
        if committed && self.is_cut(Moment::AfterCommit, room) || room.disk.storage().is_gone() {
            return Turn::PowerLost;
        }
        self.write(room);
        self.tell_uplink(room);
        self.drive_uplink(room);
        self.close(room);
        self.keep_house(room);
        self.check_silence(room);
        self.broker.check_invariants();
        if self.is_cut(Moment::EndOfTurn, room) || room.disk.storage().is_gone() {
            return Turn::PowerLost;
        }
        Turn::Done
    }

    /// The last turns of a stop in good order.
    pub fn drain(mut self, room: &mut Room<'_>) -> Turn {
        self.broker.handle_drain();
        self.commit(room);
        self.broker.handle_shutdown(room.now);
        self.commit(room);
        self.stop_uplink(room);
        self.write(room);
        self.close(room);
        if let Some(seen) = self.broker.poll_seen() {
            // Only a note for people.
            let _ = self.registry.note_seen(&seen);
        }
        let checkpointed = self.buffer.checkpoint().is_ok();
        note!(room.trace, "stopped in good order, checkpoint {checkpointed}");
        if room.disk.storage().is_gone() { Turn::PowerLost } else { Turn::Done }
    }

    fn is_cut(&mut self, moment: Moment, room: &mut Room<'_>) -> bool {
        if self.power_goes != Some(moment) {
            return false;
        }
        note!(room.trace, "the power goes: {moment:?}");
        room.trace.count(match moment {
            Moment::BeforeCommit => "a power cut before a commit",
            Moment::AfterCommit => "a power cut between a commit and its answers",
            Moment::EndOfTurn => "a power cut between two turns",
        });
        room.disk.storage().stop();
        true
    }

    fn accept(&mut self, room: &mut Room<'_>) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.broker.admits_more(room.now) {
                break;
            }
            let Some((link, address)) = room.network.accept() else { break };
            self.on_accepted(link, address, room);
        }
    }

    fn on_accepted(&mut self, link: LinkId, address: IpAddr, room: &mut Room<'_>) {
        let slot =
            (0..).find(|slot| !self.sockets.contains_key(slot)).expect("there are more slots than links");
        self.epoch = self.epoch.wrapping_add(1);
        let conn = ConnId { slot, epoch: self.epoch };
        self.sockets.insert(
            slot,
            Socket { link, conn, is_blocked: false, last_read: room.now.mono, last_drained: room.now.mono },
        );
        self.broker.handle_connected(conn, address, room.now);
    }

    fn readable(&self, room: &Room<'_>) -> Vec<ConnId> {
        let readable = |socket: &&Socket| room.network.is_readable(socket.link, room.net_now);
        self.sockets.values().filter(readable).map(|socket| socket.conn).collect()
    }

    fn read(&mut self, room: &mut Room<'_>) {
        let first = self.first_slot;
        let (later, sooner): (Vec<u32>, Vec<u32>) = self.sockets.keys().partition(|slot| **slot < first);
        for slot in sooner.into_iter().chain(later) {
            let Socket { link, conn, .. } = self.sockets[&slot];
            if self.broker.wants_bytes(conn) && room.network.is_readable(link, room.net_now) {
                self.read_one(link, conn, room);
                self.first_slot = slot + 1;
            }
        }
        if self.sockets.range(self.first_slot..).next().is_none() {
            self.first_slot = 0;
        }
    }

    fn read_one(&mut self, link: LinkId, conn: ConnId, room: &mut Room<'_>) {
        match room.network.gateway_reads(link, READ_BYTES_PER_TURN, room.net_now) {
            Read::Nothing => {}
            Read::Bytes(bytes) => {
                let drained = room.network.is_drained(link);
                let socket = self.sockets.get_mut(&conn.slot).expect("it is being read");
                socket.last_read = room.now.mono;
                if drained {
                    socket.last_drained = room.now.mono;
                }
                self.broker.handle_bytes(conn, &bytes, room.now);
            }
            Read::Closed => self.broker.handle_disconnected(conn, CloseReason::PeerClosed, room.now),
            Read::Reset => self.broker.handle_disconnected(conn, CloseReason::TransportFailed, room.now),
        }
    }

    /// Gives back whether there was something to commit, and it was.
    fn commit(&mut self, room: &mut Room<'_>) -> bool {
        let Some((through, mut batch)) = self.broker.poll_commit() else {
            let due = self.poll_due_settlement();
            self.commit_settlement(due, room);
            return false;
        };
        batch.settlements = self.poll_settlement().into_iter().collect();
        if let Sabotage::LeaveOut(omission) = self.sabotage {
            batch.changes.retain(|change| !omission.concerns(change));
        }
        if self.sabotage == Sabotage::AnswerBeforeCommit {
            self.broker.handle_committed(through, room.now);
            room.ledger.note_confirmed(&batch.records);
            self.write(room);
            let stored = self.append(&batch, room).is_ok();
            self.note_settled(&batch, stored, room);
            return stored;
        }
        let outcome = self.append(&batch, room);
        self.note_settled(&batch, outcome.is_ok(), room);
        match outcome {
            Ok(()) => {
                self.broker.handle_committed(through, room.now);
                self.note_stored(room);
                note!(room.trace, "{} is on disk", words(&batch));
                room.ledger.note_confirmed(&batch.records);
                true
            }
            Err(error) => {
                note!(room.trace, "{} is not stored: {error}", words(&batch));
                room.trace.count("a commit that fails");
                self.doubtful = batch.records;
                self.fail_store(room);
                false
            }
        }
    }

    fn fail_store(&mut self, room: &mut Room<'_>) {
        if !room.disk.storage().is_gone() {
            room.trace.count(STORE_FAILURE);
        }
        self.broker.handle_commit_failed(room.now);
        self.reopen_store(room);
    }

    fn reopen_store(&mut self, room: &mut Room<'_>) {
        if !room.disk.storage().is_gone() {
            // The buffer asks the kernel to drop its copy, but has no file of its own here.
            room.disk.forget_cached(&data_dir().buffer_path());
        }
        match self.buffer.reopen().and_then(|()| self.buffer.recover()) {
            Ok(recovered) => {
                let last_seq = self.buffer.last_seq();
                note!(room.trace, "the store is open again, at {}", last_seq.0);
                self.doubtful.retain(|record| record.seq <= last_seq);
                room.ledger.note_confirmed(&std::mem::take(&mut self.doubtful));
                self.broker.handle_store_ready(recovered, room.now);
                self.note_stored(room);
                self.house.arm(room.now.mono);
                self.retry_at = None;
                self.retry_wait = Duration::ZERO;
            }
            Err(error) => {
                note!(room.trace, "the store cannot be opened: {error}");
                room.trace.count("a store that cannot be opened again");
                let doubled = (self.retry_wait * 2).min(LAST_RETRY);
                self.retry_wait = if doubled.is_zero() { FIRST_RETRY } else { doubled };
                self.retry_at = Some(room.now.mono + self.retry_wait);
            }
        }
    }

    fn reload_registry(&mut self, room: &mut Room<'_>) {
        match self.registry.take_changed() {
            Ok(None) => {}
            Ok(Some(devices)) => {
                note!(room.trace, "took over the registry");
                self.broker.handle_registry(devices, room.now);
            }
            Err(error) => {
                note!(room.trace, "the registry cannot be read: {error}");
                room.trace.count("a registry that cannot be read");
                *room.registry_unread_at = room.net_now;
            }
        }
    }

    fn write(&mut self, room: &mut Room<'_>) {
        while let Some(conn) = self.broker.poll_output() {
            self.write_one(conn, room);
        }
        let blocked: Vec<ConnId> = self.sockets.values().filter(|s| s.is_blocked).map(|s| s.conn).collect();
        for conn in blocked {
            self.write_one(conn, room);
        }
    }

    fn write_one(&mut self, conn: ConnId, room: &mut Room<'_>) {
        let Some(socket) = self.sockets.get_mut(&conn.slot).filter(|socket| socket.conn == conn) else {
            return;
        };
        let Some(outbox) = self.broker.output(conn) else { return };
        let bytes = [outbox.as_slices().0, outbox.as_slices().1].concat();
        match room.network.gateway_writes(socket.link, &bytes, room.net_now) {
            Some(taken) => {
                outbox.consume(taken);
                socket.is_blocked = taken < bytes.len();
                self.broker.handle_written(conn, room.now);
            }
            None => self.broker.handle_disconnected(conn, CloseReason::TransportFailed, room.now),
        }
    }

    fn close(&mut self, room: &mut Room<'_>) {
        while let Some((conn, reason)) = self.broker.poll_close() {
            note!(room.trace, "{conn:?} is closed: {reason}");
            room.trace.count(reason.label());
            self.write_one(conn, room);
            if let Some(socket) = self.sockets.remove(&conn.slot) {
                self.check_timeout(&socket, reason, room);
                room.network.gateway_closes(socket.link);
            }
            self.broker.handle_closed(conn);
        }
    }

    fn keep_house(&mut self, room: &mut Room<'_>) {
        if self.clock_check.is_some_and(|at| at <= room.now.mono) {
            self.check_clock(room);
        }
        if std::mem::take(&mut self.registry_check) {
            self.reload_registry(room);
        }
        if self.retry_at.is_some_and(|at| at <= room.now.mono) {
            self.reopen_store(room);
        }
        if self.running_note <= room.now.mono {
            self.note_running(room);
        }
        if self.house.at.is_some_and(|at| at <= room.now.mono) {
            self.keep_store(room);
        }
        if let Some(seen) = self.broker.poll_seen() {
            // Only a note for people.
            let _ = self.registry.note_seen(&seen);
        }
    }

    fn note_running(&mut self, room: &mut Room<'_>) {
        self.running_note = room.now.mono + RUNNING_NOTE;
        if !self.broker.counts_time() || !self.broker.is_storing() {
            return;
        }
        if self.buffer.note_running(room.now.mono).is_err() && !self.buffer.is_open() {
            self.fail_store(room);
        }
    }

    /// The wall clock jumped, or was not synchronised when last looked at.
    pub fn check_clock(&mut self, room: &mut Room<'_>) {
        let clock = room.clock;
        let noted = self.buffer.set_clock(clock).is_ok();
        note!(room.trace, "the clock is {clock:?}, noted {noted}");
        if noted {
            room.ledger.clocks.note_noted(clock);
        }
        if let Some(uploading) = self.uploading.as_mut().filter(|_| noted) {
            uploading.uplink.handle_clock(clock.synchronised, room.now);
        }
        if !noted && self.broker.is_storing() && !self.buffer.is_open() {
            room.trace.count("a clock that cannot be noted");
            self.fail_store(room);
        }
        self.clock_check = (!noted || !clock.synchronised).then_some(room.now.mono + CLOCK_CHECK);
    }
}

/// The one place where a broker is made.
fn new_broker(
    limits: Limits,
    identities: Vec<Identity>,
    recovered: Recovered,
    seed: u64,
    now: Now,
) -> Broker {
    Broker::new(limits, Start { identities, grants: DeviceGrants::default(), recovered, seed }, now)
}

fn words(batch: &Batch) -> String {
    let (first, last) = (batch.records.first(), batch.records.last());
    let places = first.zip(last).map(|(first, last)| (first.seq.0, last.seq.0));
    format!(
        "a batch of {} readings {places:?}, {} payloads and {} changes",
        batch.records.len(),
        batch.quarantined.len(),
        batch.changes.len()
    )
}
