//! The machine and the program on it: started, stopped, killed, without power.

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    store::{BootId, StoreOptions},
};

use super::{SECOND, WallClock, World, options};
use crate::{
    faults::LOSSES,
    gateway::{Gateway, Moment, Room, Setup, Turn},
    machine::data_dir,
    trace::note,
    upstream::Upstream,
};

impl World {
    pub(super) fn run_gateway(&mut self) -> Result<(), String> {
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

    pub(super) fn with_room<T>(&mut self, work: impl FnOnce(&mut Gateway, &mut Room<'_>) -> T) -> T {
        let mut gateway = self.gateway.take().expect("it runs");
        let done = work(&mut gateway, &mut self.room());
        self.gateway = Some(gateway);
        done
    }

    /// What surrounds the gateway at the moment.
    fn room(&mut self) -> Room<'_> {
        let (now, clock) = (self.turn_time(), self.clock_state());
        Room {
            now,
            net_now: self.now,
            clock,
            disk: &self.disk,
            network: &mut self.network,
            ledger: &mut self.ledger,
            trace: &mut self.trace,
            upstream: self.upstream.as_mut(),
            registry_unread_at: &mut self.registry_unread_at,
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let options = self.options();
        let boot = BootId::new(&format!("boot-{}", self.boot));
        let (now, clock, seed) = (self.turn_time(), self.clock_state(), self.chance.next());
        self.disk.forget_cached(&data_dir().buffer_path());
        let started = Gateway::start(&self.setup(), &options, &boot, now, clock, seed);
        if self.disk.storage().is_gone() {
            drop(started);
            return self.lose_power();
        }
        match started {
            Ok(gateway) => {
                note!(self.trace, "started in boot {}", self.boot);
                self.network.is_listening = true;
                self.gateway = Some(gateway);
                self.ledger.clocks.note_noted(clock);
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

    pub(super) fn plan_power_cut(&mut self) {
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
        self.upstream.iter_mut().for_each(Upstream::lose_gateway);
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

    pub(super) fn revive_disk_if_gone(&mut self) {
        let is_gone = self.disk.storage().is_gone();
        if is_gone {
            self.lose_power().expect("it only comes back");
        }
    }

    /// The process is killed; the kernel keeps what it wrote.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        note!(self.trace, "killed");
        self.summary.kills += 1;
        self.disk.storage().stop();
        self.gateway = None;
        self.disk.storage().start_beside_others();
        self.network.gateway_dies();
        self.upstream.iter_mut().for_each(Upstream::lose_gateway);
        self.starts_at = self.now + self.chance.below(SECOND);
        Ok(())
    }

    pub(super) fn stop_in_order(&mut self) {
        if self.gateway.is_none() {
            return;
        }
        self.summary.restarts += 1;
        let gateway = self.gateway.take();
        self.note_clock();
        let turn = gateway.map(|gateway| gateway.drain(&mut self.room()));
        if turn == Some(Turn::PowerLost) {
            self.revive_disk_if_gone();
        } else {
            self.network.gateway_dies();
            self.upstream.iter_mut().for_each(Upstream::lose_gateway);
            self.starts_at = self.now + self.chance.below(SECOND);
        }
    }

    pub(super) fn turn_time(&self) -> Now {
        let mono = Mono(self.now - self.boot_began);
        Now { mono, wall: Wall(mono.as_millis() + self.clock.offset_ms) }
    }

    pub(super) fn note_clock(&mut self) {
        self.ledger.clocks.set(self.boot, self.turn_time().mono, self.clock_state());
    }

    pub(super) fn clock_state(&self) -> ClockState {
        ClockState { offset_ms: self.clock.offset_ms, synchronised: self.clock.synchronised }
    }

    pub(super) fn setup(&self) -> Setup {
        Setup { limits: self.limits.clone(), budget: self.budget, sabotage: self.plan.sabotage }
    }

    pub(super) fn options(&self) -> StoreOptions {
        options(&self.disk, &self.limits, self.plan.sabotage)
    }
}
