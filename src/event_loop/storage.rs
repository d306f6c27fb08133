//! The loop's dealings with the disk: the commit, the way back after one failed, the registry, the clock's row.

use std::time::Duration;

use crate::{
    clock::{Mono, Now, Wall},
    ids::DeviceId,
};

use super::{CLOCK_CHECK, EventLoop};

/// First wait after the store could not be opened again; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest wait: space may come back at any time, and somebody is waiting.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// When the store is tried again, if it failed.
#[derive(Debug, Default)]
pub(super) struct StoreRetry {
    at: Option<Mono>,
    wait: Duration,
    /// What was logged last, so that the same trouble is told once.
    told: String,
}

impl StoreRetry {
    pub(super) fn at(&self) -> Option<Mono> {
        self.at
    }

    pub(super) fn is_due(&self, now: Mono) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    fn put_off(&mut self, now: Mono) {
        self.wait = if self.wait.is_zero() { FIRST_RETRY } else { (self.wait * 2).min(LAST_RETRY) };
        self.at = Some(now + self.wait);
    }
}

/// How often, and how long, a change of the registry is looked for once its files were written.
const REGISTRY_CHECK_STEP: Duration = Duration::from_millis(20);
const REGISTRY_CHECK_STEPS: u32 = 25;

/// The looks at the registry that a write to its files asked for: half a second of them, for between the write and the
/// moment its commit can be seen lies a flush of the card.
#[derive(Debug, Default)]
pub(super) struct RegistryCheck {
    at: Option<Mono>,
    left: u32,
}

impl RegistryCheck {
    pub(super) fn at(&self) -> Option<Mono> {
        self.at
    }

    pub(super) fn begin(&mut self, now: Mono) {
        self.at = Some(now);
        self.left = REGISTRY_CHECK_STEPS;
    }

    /// Whether a look is due; arms the next.
    pub(super) fn take_due(&mut self, now: Mono) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        self.left -= 1;
        self.at = (self.left > 0).then_some(now + REGISTRY_CHECK_STEP);
        true
    }
}

impl EventLoop {
    /// Makes the due batch durable: the only place where the loop waits for the card.
    pub(super) fn commit(&mut self, now: Now) {
        let Some((through, batch)) = self.broker.poll_commit() else { return };
        match self.buffer.append(&batch) {
            Ok(()) => {
                self.broker.handle_committed(through, now);
                if let Some(on_stored) = &mut self.on_stored {
                    on_stored(&batch.records);
                }
            }
            Err(error) => {
                log::error!(
                    "{error}; nobody was told that these {} readings are stored",
                    batch.records.len()
                );
                self.broker.handle_commit_failed(now);
                self.reopen_store(now);
            }
        }
    }

    /// Opens the store again and checks it; nothing is acknowledged until that went well.
    pub(super) fn reopen_store(&mut self, now: Now) {
        match self.buffer.reopen() {
            Ok(()) => {
                self.broker.handle_store_ready(self.buffer.last_seq());
                self.store_retry = StoreRetry::default();
                log::info!("the store was opened again and passed its checks");
            }
            Err(error) => {
                let words = error.to_string();
                if words != self.store_retry.told {
                    log::error!("{words}; trying again");
                    self.store_retry.told = words;
                }
                self.store_retry.put_off(now.mono);
            }
        }
    }

    /// Somebody wrote to the registry's files; if it was not this process, takes the devices over.
    pub(super) fn reload_registry(&mut self, now: Now) {
        match self.registry.take_changed() {
            Ok(None) => {}
            Ok(Some(devices)) => {
                log::info!("took over the registry: {} devices", devices.len());
                self.broker.handle_registry(devices, now);
            }
            Err(error) => log::error!("{error}; the devices known so far stay in force"),
        }
    }

    pub(super) fn note_seen(&mut self, seen: &[(DeviceId, Wall)]) {
        if let Err(error) = self.registry.note_seen(seen) {
            log::warn!("{error}; it will be out of date who was seen when");
        }
    }

    /// Reads the clock's state and corrects this boot's row if it differs.
    pub(super) fn check_clock(&mut self, now: Now) {
        let clock = self.clock.state();
        match self.buffer.set_clock(clock) {
            Ok(()) => {}
            Err(error) => log::error!("{error}; readings of this boot may show a wrong time"),
        }
        self.clock_check = (!clock.synchronised).then_some(now.mono + CLOCK_CHECK);
    }
}
