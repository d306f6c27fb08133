//! One simulated house: a gateway on a machine with a disk, clients, strangers, an operator, a network, and time.
//!
//! Two phases: things go wrong, and after every step nothing promised may be broken; then everything is healed, and
//! everything must drain.

mod drawing;
mod inspection;
mod meddling;
mod power;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use forebay::{
    limits::Limits,
    store::{Budget, Policy, StoreOptions},
};

use crate::{
    chance::Chance,
    checks::Ledger,
    device::{Client, Surroundings},
    disk::Disk,
    faults::Faults,
    follower::Follower,
    gateway::{Gateway, STORE_FAILURE},
    local::Local,
    machine::{self, Locking},
    network::Network,
    operator::Operator,
    post::Post,
    sabotage::Sabotage,
    stranger::Strangers,
    trace::{Trace, note},
    upstream::Upstream,
    visitor::Visitor,
};
use drawing::{draw_budget, draw_limits, may_drop};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
/// Steps in which everything must drain once all is well.
const DRAIN_STEPS: u64 = 8_000;
/// In how many of a million steps a copy of the disk loses power and is examined.
const COPIES_EXAMINED: u32 = 15_000;
/// Messages that may wait for a session without a run ever reaching it.
const QUEUE_MESSAGES_ENOUGH: u32 = 1000;
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
    /// Who is there beside the gateway.
    pub cast: Cast,
}

/// Who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Devices, and local clients in most runs.
    Drawn,
    /// Local clients, and devices that say nothing.
    LocalClients,
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
    locals: Vec<Local>,
    visitor: Option<Visitor>,
    post: Post,
    upstream: Option<Upstream>,
    strangers: Strangers,
    operator: Operator,
    follower: Follower,
    ledger: Ledger,
    /// Whether devices send many readings at once.
    is_chatty: bool,
    gateway: Option<Gateway>,
    limits: Limits,
    budget: Budget,
    /// Whether sessions have had so little room that one may be over.
    sessions_may_end: bool,
    registry_unread_at: u64,
    store_failures: u64,
    /// When the machine, or the program, starts again.
    starts_at: u64,
    boot: u64,
    boot_began: u64,
    clock: WallClock,
    space_back_at: Option<u64>,
    is_healed: bool,
    /// Everything has drained but what is on its way to the hub.
    only_hub_lacks: bool,
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
        let mut post = Post::default();
        let locals = match plan.cast {
            Cast::LocalClients => chance.between(2, 4),
            Cast::Drawn => chance.below(5),
        };
        let locals: Vec<Local> =
            (0..locals).map(|number| Local::new(number as usize, chance.split(), &mut post)).collect();
        let visitor = (!locals.is_empty()).then(|| Visitor::new(chance.split()));
        let upstream = chance.coin().then(|| Upstream::new(plan.sabotage, chance.split()));
        let strangers = Strangers::new(chance.split());
        let follower = Follower::new(chance.split());
        let limits = draw_limits(&mut chance);
        let is_chatty = locals.is_empty() && chance.below(4) == 0;
        let budget = draw_budget(is_chatty, &mut chance);
        let mut ledger = Ledger::default();
        ledger.may_drop = may_drop(&budget);
        Self {
            plan,
            chance,
            faults,
            now: SECOND,
            step: 0,
            network,
            clients,
            locals,
            visitor,
            post,
            upstream,
            strangers,
            operator,
            follower,
            ledger,
            is_chatty,
            gateway: None,
            sessions_may_end: limits.client_queue_messages < QUEUE_MESSAGES_ENOUGH,
            limits,
            budget,
            registry_unread_at: 0,
            store_failures: 0,
            starts_at: 0,
            boot: 1,
            boot_began: 0,
            clock: WallClock { offset_ms: 0, synchronised: false },
            space_back_at: None,
            is_healed: false,
            only_hub_lacks: false,
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
        let hub = self.upstream.as_ref().map(Upstream::situation).unwrap_or_default();
        format!(
            "seed {seed}, step {}: {words}\n{}\nhub: {hub}\nfaults: {:?}\nreplay: SIM_SEED={seed} SIM_SEEDS=1 SIM_STEPS={steps} \
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
        while !self.locals.is_empty() && !self.operator.let_locals_in(&self.options()) {
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
            if !self.unfinished_here().is_empty() {
                continue;
            }
            self.only_hub_lacks = self.lacking_at_hub().is_some();
            if !self.only_hub_lacks {
                return Ok(());
            }
        }
        Err(format!("STUCK: {}", self.unfinished().join("; ")))
    }

    /// What has not drained yet, in words.
    fn unfinished(&self) -> Vec<String> {
        self.unfinished_here().into_iter().chain(self.lacking_at_hub()).collect()
    }

    fn unfinished_here(&self) -> Vec<String> {
        let devices = self.clients.iter().filter(|client| !client.is_done()).map(Client::situation);
        let locals = self.locals.iter().filter(|local| !local.is_done()).map(Local::situation);
        let visitor = self.visitor.iter().filter(|visitor| !visitor.is_done()).map(Visitor::situation);
        let missing = [self.post.missing(), self.ledger.missing()];
        devices.chain(locals).chain(visitor).chain(missing.into_iter().flatten()).collect()
    }

    fn lacking_at_hub(&self) -> Option<String> {
        self.upstream.as_ref().and_then(|_| self.ledger.missing_at_hub())
    }

    /// What is under suspicion is judged beside others: life goes on a little while the hub lacks something.
    fn is_publishing(&self) -> bool {
        !self.is_healed || self.only_hub_lacks && self.step.is_multiple_of(32)
    }

    /// Stops in good order, and looks at what is left.
    fn settle(&mut self) -> Result<(), String> {
        self.follower.leave();
        self.stop_in_order();
        self.check_files()?;
        if let Some(lanes) = self.upstream.as_ref().and_then(Upstream::lanes) {
            self.ledger.check_upload_order(lanes)?;
        }
        self.summary.rows = self.ledger.check_journal(&self.options())?.len() as u64;
        Ok(())
    }

    fn heal(&mut self) {
        note!(self.trace, "everything is healed");
        self.is_healed = true;
        self.faults = Faults::none();
        self.limits = Limits::default();
        self.budget = Budget { max_bytes: u64::MAX, keep_free: 0, ..self.budget };
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
        self.locals.iter_mut().for_each(Local::heal);
        self.upstream.iter_mut().for_each(Upstream::heal);
        self.visitor.iter_mut().for_each(Visitor::heal);
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
        self.note_clock();
        self.operate();
        self.let_peers_act()?;
        self.run_gateway()?;
        let failures = self.trace.counts().get(STORE_FAILURE).copied().unwrap_or_default();
        if std::mem::replace(&mut self.store_failures, failures) < failures {
            self.post.excuse_wills();
        }
        self.ledger.check_step()?;
        if let Some(gateway) = &mut self.gateway {
            gateway.check_bounds()?;
        }
        self.check_log_size()?;
        self.meddle();
        if self.chance.happens(COPIES_EXAMINED) {
            self.examine_copy()?;
        }
        Ok(())
    }

    fn pass_time(&mut self) {
        let ahead = match self.chance.below(20) {
            _ if self.only_hub_lacks => self.chance.between(MS, 5 * SECOND),
            0..15 => self.chance.between(MS, 30 * MS),
            15..19 => self.chance.between(30 * MS, 500 * MS),
            _ => self.chance.between(500 * MS, 5 * SECOND),
        };
        let then = self.now + ahead;
        let deadline =
            self.gateway.as_ref().and_then(Gateway::next_deadline).map(|at| at.0 + self.boot_began);
        let arrival = self.upstream.as_ref().and_then(Upstream::next_arrival);
        let deadline = deadline.into_iter().chain(arrival).min();
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
            self.sessions_may_end |= self.limits.client_queue_messages < QUEUE_MESSAGES_ENOUGH;
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
        if let Some(upstream) = &mut self.upstream {
            upstream.act(&self.faults, self.now, &mut self.ledger, &mut self.trace)?;
        }
        let is_publishing = self.is_publishing();
        let mut around = Surroundings {
            now: self.now,
            network: &mut self.network,
            trace: &mut self.trace,
            ledger: &mut self.ledger,
            post: &mut self.post,
            operator: &self.operator,
            faults: &self.faults,
            registry_unread_at: self.registry_unread_at,
            is_publishing,
            readings_max: if self.is_chatty { 120 } else { 4 },
            may_be_refused: self.budget.policy == Policy::RefuseNew,
            with_poison: !self.is_healed && self.upstream.as_ref().is_some_and(Upstream::minds_poison),
            sessions_may_end: self.sessions_may_end,
        };
        if self.plan.cast != Cast::LocalClients {
            self.clients.iter_mut().try_for_each(|client| client.act(&mut around))?;
        }
        self.locals.iter_mut().try_for_each(|local| local.act(&mut around))?;
        self.visitor.iter_mut().try_for_each(|visitor| visitor.act(&mut around))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report("an assertion failed"));
        }
    }
}

fn options(disk: &Disk, limits: &Limits, sabotage: Sabotage) -> StoreOptions {
    let weakened = sabotage == Sabotage::CommitWithoutFlush;
    machine::options(disk, Locking::Shared, limits.quarantine_rows, weakened)
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
