//! One simulated house: a gateway on a machine with a disk, clients, strangers, an operator, a network, and time.
//!
//! Two phases: things go wrong, and after every step nothing promised may be broken; then everything is healed, and
//! everything must drain.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    limits::Limits,
    store::{BootId, StoreOptions},
};
use rusqlite::{Connection, OpenFlags};

use crate::{
    chance::Chance,
    checks::Ledger,
    device::{Client, Surroundings},
    disk::{Content, Disk},
    faults::{Faults, LOSSES},
    follower::Follower,
    gateway::{Gateway, Moment, Room, Sabotage, Turn},
    machine::{self, Locking, data_dir},
    network::Network,
    operator::Operator,
    stranger::Strangers,
    trace::{Trace, note},
};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
/// Steps in which everything must drain once all is well.
const DRAIN_STEPS: u64 = 8_000;
/// In how many of a million steps a copy of the disk loses power and is examined.
const COPIES_EXAMINED: u32 = 15_000;
/// Bytes the log may reach: where it is started anew, and the largest batches beyond.
const LOG_BYTES_MAX: usize = 4 << 20;

/// How a run is to go.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub steps: u64,
    pub sabotage: Sabotage,
    /// Power cuts rather than everything.
    pub many_cuts: bool,
}

/// What a run that went well has to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub steps: u64,
    pub cuts: u64,
    pub cuts_of_copies: u64,
    pub kills: u64,
    pub restarts: u64,
    pub disk_failures: u64,
    pub acked: u64,
    pub rows: u64,
    /// What was met, and how often.
    pub met: BTreeMap<&'static str, u64>,
}

struct WallClock {
    /// Wall time minus time since boot.
    offset_ms: i64,
    synchronised: bool,
}

/// The world of one seed.
pub struct World {
    plan: Plan,
    chance: Chance,
    faults: Faults,
    now: u64,
    step: u64,
    network: Network,
    clients: Vec<Client>,
    strangers: Strangers,
    operator: Operator,
    follower: Follower,
    ledger: Ledger,
    gateway: Option<Gateway>,
    limits: Limits,
    registry_unread_at: u64,
    /// When the machine, or the program, starts again.
    starts_at: u64,
    boot: u64,
    boot_began: u64,
    clock: WallClock,
    space_back_at: Option<u64>,
    is_healed: bool,
    summary: Summary,
    trace: Trace,
    disk: Disk,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut chance = Chance::new(plan.seed);
        let faults =
            if plan.many_cuts { Faults::draw_many_cuts(&mut chance) } else { Faults::draw(&mut chance) };
        let disk = Disk::new(chance.next());
        faults.set_up(&mut disk.storage());
        let devices = chance.between(1, 5) as usize;
        let operator = Operator::new(devices, chance.split());
        let clients = (0..devices + chance.below(3) as usize)
            .map(|index| {
                let (device, stream) = (index % devices, index as u64);
                // Some share an address, as behind a router.
                let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, chance.below(3) as u8));
                Client::new(stream, device, operator.name(device).clone(), address, chance.split())
            })
            .collect();
        let mut network = Network::new(chance.split());
        network.delay_max_us = faults.delay_max_us;
        let strangers = Strangers::new(chance.split());
        let follower = Follower::new(chance.split());
        let limits = draw_limits(&mut chance);
        Self {
            plan,
            chance,
            faults,
            now: SECOND,
            step: 0,
            network,
            clients,
            strangers,
            operator,
            follower,
            ledger: Ledger::default(),
            gateway: None,
            limits,
            registry_unread_at: 0,
            starts_at: 0,
            boot: 1,
            boot_began: 0,
            clock: WallClock { offset_ms: 0, synchronised: false },
            space_back_at: None,
            is_healed: false,
            summary: Summary::default(),
            trace: Trace::new(),
            disk,
        }
    }

    /// Runs both phases.
    pub fn run(mut self) -> Result<Summary, String> {
        let outcome = self.live().and_then(|()| self.recover()).and_then(|()| self.settle());
        self.gateway = None;
        self.follower.leave();
        outcome.map_err(|words| self.report(&words))?;
        self.summary.trace = self.trace.hash();
        self.summary.steps = self.step;
        self.summary.disk_failures = self.disk.storage().troubles.felt;
        self.summary.acked = self.ledger.acked() as u64;
        self.summary.met = self.trace.counts().clone();
        Ok(std::mem::take(&mut self.summary))
    }

    fn report(&self, words: &str) -> String {
        let Plan { seed, steps, many_cuts, .. } = self.plan;
        let test = if many_cuts { "hundred_thousand_power_cuts" } else { "whatever_goes_wrong" };
        format!(
            "seed {seed}, step {}: {words}\n{}\nfaults: {:?}\nreplay: SIM_SEED={seed} SIM_SEEDS=1 SIM_STEPS={steps} \
             cargo test --test simulation -- --include-ignored --nocapture {test}\n",
            self.step,
            self.trace.tail(),
            self.faults
        )
    }

    // ---- the phases ---------------------------------------------------------------------------------------

    fn live(&mut self) -> Result<(), String> {
        while !self.operator.let_all_in(&self.options(), self.now, &mut self.trace) {
            self.revive_disk_if_gone();
        }
        for _ in 0..self.plan.steps {
            self.take_step()?;
        }
        Ok(())
    }

    /// Heals everything, and waits until every message is answered.
    fn recover(&mut self) -> Result<(), String> {
        self.heal();
        for _ in 0..DRAIN_STEPS {
            self.take_step()?;
            if self.clients.iter().all(Client::is_done) {
                return Ok(());
            }
        }
        let stuck: Vec<String> =
            self.clients.iter().filter(|c| !c.is_done()).map(Client::situation).collect();
        Err(format!("STUCK: {}", stuck.join("; ")))
    }

    /// Stops in good order, and looks at what is left.
    fn settle(&mut self) -> Result<(), String> {
        self.follower.leave();
        self.stop_in_order();
        self.check_files()?;
        self.summary.rows = self.ledger.check_journal(&self.options())? as u64;
        Ok(())
    }

    fn heal(&mut self) {
        note!(self.trace, "everything is healed");
        self.is_healed = true;
        self.faults = Faults::none();
        self.limits = Limits::default();
        self.revive_disk_if_gone();
        {
            let mut storage = self.disk.storage();
            storage.cut_at_change = None;
            storage.troubles.heal();
            storage.capacity = usize::MAX;
            self.faults.set_up(&mut storage);
        }
        self.space_back_at = None;
        self.strangers.leave(&mut self.network);
        self.network.delay_max_us = self.faults.delay_max_us;
        self.network.heal(self.now);
        self.clients.iter_mut().for_each(Client::heal);
        if let Some(gateway) = &mut self.gateway {
            gateway.power_goes = None;
        }
        self.stop_in_order();
        let all_in = self.operator.let_all_in(&self.options(), self.now, &mut self.trace);
        assert!(all_in, "the disk is sound and the registry cannot be written");
    }

    // ---- one step -----------------------------------------------------------------------------------------

    fn take_step(&mut self) -> Result<(), String> {
        self.step += 1;
        self.pass_time();
        self.trace.set_time(self.step, self.now);
        self.let_things_go_wrong()?;
        self.operate();
        self.let_peers_act()?;
        self.run_gateway()?;
        self.ledger.check_step()?;
        if let Some(gateway) = &mut self.gateway {
            gateway.check_bounds()?;
        }
        self.check_log_size()?;
        if self.chance.happens(COPIES_EXAMINED) {
            self.examine_copy()?;
        }
        Ok(())
    }

    fn pass_time(&mut self) {
        let ahead = match self.chance.below(20) {
            0..15 => self.chance.between(MS, 30 * MS),
            15..19 => self.chance.between(30 * MS, 500 * MS),
            _ => self.chance.between(500 * MS, 5 * SECOND),
        };
        let then = self.now + ahead;
        let deadline =
            self.gateway.as_ref().and_then(Gateway::next_deadline).map(|at| at.0 + self.boot_began);
        // The loop wakes up for what is due; now and then the process is not scheduled in time.
        self.now = match deadline {
            Some(at) if at < then && self.chance.below(10) > 0 => at.max(self.now + MS),
            _ => then,
        };
    }

    fn let_things_go_wrong(&mut self) -> Result<(), String> {
        if self.chance.happens(self.faults.power_cuts) {
            self.plan_power_cut();
        }
        if self.chance.happens(self.faults.kills) && self.gateway.is_some() {
            self.kill()?;
        }
        if self.chance.happens(self.faults.restarts) {
            self.limits = draw_limits(&mut self.chance);
            self.stop_in_order();
        }
        if self.space_back_at.is_some_and(|at| at <= self.now) {
            note!(self.trace, "there is room on the disk again");
            self.space_back_at = None;
            self.disk.storage().capacity = usize::MAX;
        } else if self.chance.happens(self.faults.full) && self.space_back_at.is_none() {
            self.fill_disk();
        }
        if self.chance.happens(self.faults.clock_jumps) {
            self.jump_clock();
        }
        Ok(())
    }

    fn fill_disk(&mut self) {
        let room = if self.chance.coin() { 0 } else { self.chance.below(40_000) as usize };
        note!(self.trace, "the disk has room for {room} bytes only");
        self.trace.count("a full disk");
        self.space_back_at = Some(self.now + self.chance.below(20 * SECOND));
        let mut storage = self.disk.storage();
        storage.capacity = storage.content.used() + room;
    }

    fn jump_clock(&mut self) {
        const YEAR_MS: i64 = 31_557_600_000;
        self.trace.count("a clock that jumps");
        self.clock.offset_ms = self.chance.below(40 * YEAR_MS as u64) as i64 - 5 * YEAR_MS;
        self.clock.synchronised = self.chance.coin();
        if self.gateway.is_some() && !self.disk.storage().is_gone() {
            self.with_room(|gateway, room| gateway.check_clock(room));
        }
    }

    fn operate(&mut self) {
        self.operator.deliver_news(self.now);
        if self.chance.happens(self.faults.operations) && !self.disk.storage().is_gone() {
            self.operator.change_something(&self.options(), self.now, &mut self.trace);
            if let Some(gateway) = &mut self.gateway {
                gateway.note_registry_written();
            }
        }
        if !self.disk.storage().is_gone() {
            self.follower.act(self.faults.followers, &self.options(), self.now, &mut self.trace);
        }
    }

    fn let_peers_act(&mut self) -> Result<(), String> {
        let token = self.operator.token_told(0).to_owned();
        self.strangers.act(self.faults.strangers, &token, &mut self.network, self.now, &mut self.trace);
        let mut around = Surroundings {
            now: self.now,
            network: &mut self.network,
            trace: &mut self.trace,
            ledger: &mut self.ledger,
            operator: &self.operator,
            faults: &self.faults,
            registry_unread_at: self.registry_unread_at,
            is_publishing: !self.is_healed,
        };
        self.clients.iter_mut().try_for_each(|client| client.act(&mut around))
    }

    // ---- the machine --------------------------------------------------------------------------------------

    fn run_gateway(&mut self) -> Result<(), String> {
        if self.disk.storage().is_gone() {
            // The operator's change was what the power went in.
            return self.lose_power();
        }
        if self.gateway.is_none() {
            return if self.now >= self.starts_at { self.start() } else { Ok(()) };
        }
        let turn = self.with_room(|gateway, room| gateway.turn(room));
        if turn == Turn::PowerLost {
            return self.lose_power();
        }
        self.now += std::mem::take(&mut self.disk.storage().waited_us);
        Ok(())
    }

    fn with_room<T>(&mut self, work: impl FnOnce(&mut Gateway, &mut Room<'_>) -> T) -> T {
        let (now, clock) = (self.turn_time(), self.clock_state());
        let mut room = Room {
            now,
            net_now: self.now,
            clock,
            disk: &self.disk,
            network: &mut self.network,
            ledger: &mut self.ledger,
            trace: &mut self.trace,
            registry_unread_at: &mut self.registry_unread_at,
        };
        work(self.gateway.as_mut().expect("it runs"), &mut room)
    }

    fn start(&mut self) -> Result<(), String> {
        let options = self.options();
        let boot = BootId::new(&format!("boot-{}", self.boot));
        let (now, clock, seed) = (self.turn_time(), self.clock_state(), self.chance.next());
        self.disk.forget_cached(&data_dir().buffer_path());
        let started =
            Gateway::start(self.limits.clone(), &options, &boot, now, clock, seed, self.plan.sabotage);
        if self.disk.storage().is_gone() {
            drop(started);
            return self.lose_power();
        }
        match started {
            Ok(gateway) => {
                note!(self.trace, "started in boot {}", self.boot);
                self.network.is_listening = true;
                self.gateway = Some(gateway);
                self.check_disk()
            }
            Err(error) => {
                note!(self.trace, "cannot start: {error}");
                self.trace.count("a start that fails");
                if self.faults.disk_is_sound() {
                    return Err(format!("CANNOT START: {error}"));
                }
                self.starts_at = self.now + 2 * SECOND;
                Ok(())
            }
        }
    }

    fn plan_power_cut(&mut self) {
        let moment = match self.chance.below(6) {
            0 => Moment::BeforeCommit,
            1 => Moment::AfterCommit,
            2 => Moment::EndOfTurn,
            _ => {
                let mut storage = self.disk.storage();
                let at = storage.changes() + self.chance.between(1, 40);
                storage.cut_at_change = Some(at);
                return;
            }
        };
        if let Some(gateway) = &mut self.gateway {
            gateway.power_goes = Some(moment);
        }
    }

    /// The power is gone, and comes back.
    fn lose_power(&mut self) -> Result<(), String> {
        self.disk.storage().stop();
        self.gateway = None;
        self.follower.leave();
        self.network.gateway_vanishes();
        let loss = *self.chance.pick(&LOSSES);
        self.trace.count("a power cut");
        self.disk.storage().start_after_power_cut(loss);
        self.summary.cuts += 1;
        note!(self.trace, "the power went, losing {loss:?} of what was not flushed");
        self.boot += 1;
        self.boot_began = self.now;
        // Without a clock of its own the machine comes up in the past.
        self.clock = WallClock { offset_ms: self.chance.below(1_000_000) as i64, synchronised: false };
        self.starts_at = self.now + self.chance.below(3 * SECOND);
        Ok(())
    }

    fn revive_disk_if_gone(&mut self) {
        let is_gone = self.disk.storage().is_gone();
        if is_gone {
            self.lose_power().expect("it only comes back");
        }
    }

    /// The process is killed; the kernel keeps what it wrote.
    fn kill(&mut self) -> Result<(), String> {
        note!(self.trace, "killed");
        self.summary.kills += 1;
        self.disk.storage().stop();
        self.gateway = None;
        self.disk.storage().start_beside_others();
        self.network.gateway_dies();
        self.starts_at = self.now + self.chance.below(SECOND);
        Ok(())
    }

    fn stop_in_order(&mut self) {
        if self.gateway.is_none() {
            return;
        }
        self.summary.restarts += 1;
        let gateway = self.gateway.take();
        let (now, clock) = (self.turn_time(), self.clock_state());
        let mut room = Room {
            now,
            net_now: self.now,
            clock,
            disk: &self.disk,
            network: &mut self.network,
            ledger: &mut self.ledger,
            trace: &mut self.trace,
            registry_unread_at: &mut self.registry_unread_at,
        };
        let turn = gateway.map(|gateway| gateway.drain(&mut room));
        if turn == Some(Turn::PowerLost) {
            self.revive_disk_if_gone();
        } else {
            self.network.gateway_dies();
            self.starts_at = self.now + self.chance.below(SECOND);
        }
    }

    fn turn_time(&self) -> Now {
        let mono = Mono(self.now - self.boot_began);
        Now { mono, wall: Wall(mono.as_millis() + self.clock.offset_ms) }
    }

    fn clock_state(&self) -> ClockState {
        ClockState { offset_ms: self.clock.offset_ms, synchronised: self.clock.synchronised }
    }

    fn options(&self) -> StoreOptions {
        options(&self.disk, &self.limits, self.plan.sabotage)
    }

    // ---- what must hold -----------------------------------------------------------------------------------

    /// What the disk holds right after a start.
    fn check_disk(&mut self) -> Result<(), String> {
        let undisturbed = Undisturbed::new(&self.disk);
        let options = options(&self.disk, &self.limits, self.plan.sabotage);
        let rows = self.ledger.check_journal(&options)?;
        let devices = self.gateway.as_ref().expect("it runs").devices().map_err(|error| error.to_string())?;
        drop(undisturbed);
        note!(self.trace, "{rows} readings are in the journal");
        self.operator.check(&devices)
    }

    /// What the disk would hold if the power went now.
    fn examine_copy(&mut self) -> Result<(), String> {
        if self.disk.storage().is_gone() {
            return Ok(());
        }
        let content: Content = self.disk.storage().content.clone();
        let copy = Disk::with_content(self.chance.next(), content);
        let loss = *self.chance.pick(&LOSSES);
        copy.storage().start_after_power_cut(loss);
        self.summary.cuts_of_copies += 1;
        let options = options(&copy, &self.limits, self.plan.sabotage);
        let boot = BootId::new("the boot after");
        let (now, clock) = (Now { mono: Mono(SECOND), wall: Wall(0) }, self.clock_state());
        let gateway =
            match Gateway::start(self.limits.clone(), &options, &boot, now, clock, 0, self.plan.sabotage) {
                Ok(gateway) => gateway,
                Err(error) => return Err(format!("CANNOT START after losing {loss:?}: {error}")),
            };
        let journal = self.ledger.check_journal(&options);
        let devices = gateway.devices();
        copy.storage().stop();
        drop(gateway);
        journal.map_err(|words| format!("if the power went now, losing {loss:?}: {words}"))?;
        self.operator.check(&devices.map_err(|error| error.to_string())?)
    }

    fn check_log_size(&self) -> Result<(), String> {
        let log = data_dir().buffer_path().with_extension("db-wal");
        match self.disk.storage().content.bytes_of(&log.to_string_lossy()) {
            bytes if bytes > LOG_BYTES_MAX => Err(format!("BOUND: the log has {bytes} bytes")),
            _ => Ok(()),
        }
    }

    /// SQLite finds nothing wrong with either file.
    fn check_files(&self) -> Result<(), String> {
        for path in [data_dir().buffer_path(), data_dir().registry_path()] {
            let verdict = Connection::open_with_flags_and_vfs(
                &path,
                OpenFlags::SQLITE_OPEN_READ_WRITE,
                self.disk.vfs(),
            )
            .and_then(|db| db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)));
            match verdict {
                Ok(verdict) if verdict == "ok" => {}
                verdict => return Err(format!("DAMAGED: {}: {verdict:?}", path.display())),
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report("an assertion failed"));
        }
    }
}

/// While it lives, the disk does not fail: an observer is not to be part of the experiment.
struct Undisturbed<'a> {
    disk: &'a Disk,
    io_errors: u32,
    cut_at_change: Option<u64>,
    slowest_sync_us: u64,
}

impl<'a> Undisturbed<'a> {
    fn new(disk: &'a Disk) -> Self {
        let mut storage = disk.storage();
        let io_errors = std::mem::take(&mut storage.troubles.io_error_per_million);
        let slowest_sync_us = std::mem::take(&mut storage.slowest_sync_us);
        storage.troubles.end_row();
        let cut_at_change = storage.cut_at_change.take();
        Self { disk, io_errors, cut_at_change, slowest_sync_us }
    }
}

impl Drop for Undisturbed<'_> {
    fn drop(&mut self) {
        let mut storage = self.disk.storage();
        storage.troubles.io_error_per_million = self.io_errors;
        storage.slowest_sync_us = self.slowest_sync_us;
        storage.cut_at_change = self.cut_at_change;
    }
}

fn options(disk: &Disk, limits: &Limits, sabotage: Sabotage) -> StoreOptions {
    let weakened = sabotage == Sabotage::CommitWithoutFlush;
    machine::options(disk, Locking::Shared, limits.quarantine_rows, weakened)
}

/// The defaults, or much smaller ones.
fn draw_limits(chance: &mut Chance) -> Limits {
    let mut limits = Limits::default();
    if chance.coin() {
        return limits;
    }
    limits.connections = chance.between(6, 20) as u32;
    limits.connections_per_device = chance.between(1, 3) as u32;
    limits.connections_unauthenticated = chance.between(1, 5) as u32;
    limits.receive_maximum = chance.between(2, 6) as u32;
    limits.outbox_bytes = 1024;
    limits.commit_wait_ms = chance.between(0, 2_000) as u32;
    limits.commit_records = chance.between(1, 10) as u32;
    limits.quarantine_rows = chance.between(1, 4) as u32;
    limits.keep_alive_max_s = chance.between(10, 60) as u32;
    limits
}

impl Summary {
    /// Adds another run's figures; the trace stays what it is.
    pub fn add(&mut self, other: Summary) {
        self.steps += other.steps;
        self.cuts += other.cuts;
        self.cuts_of_copies += other.cuts_of_copies;
        self.kills += other.kills;
        self.restarts += other.restarts;
        self.disk_failures += other.disk_failures;
        self.acked += other.acked;
        self.rows += other.rows;
        for (what, count) in other.met {
            *self.met.entry(what).or_insert(0) += count;
        }
    }
}
