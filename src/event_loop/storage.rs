//! The loop's dealings with the disk: the commit, the way back after one failed, the registry, the clock's row.

use std::time::Duration;

use crate::{
    clock::{Mono, Now, Wall},
    ids::IdentityId,
    record::Settlement,
    session::Batch,
    store::StoreError,
};

use super::{CLOCK_CHECK, EventLoop, RUNNING_NOTE};

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
    /// Makes the due batch durable, and what the uplink has settled with it: the only place where the loop waits for the
    /// card.
    pub(super) fn commit(&mut self, now: Now) {
        let Some((through, mut batch)) = self.broker.poll_commit() else {
            if self.buffer.is_open() {
                let settlements = self.uploading.poll_due_settlements();
                self.commit_settlements(settlements, now);
            }
            return;
        };
        batch.settlements = self.uploading.poll_settlements();
        let stored = self.append(&batch, now);
        self.uploading.handle_settled(&batch.settlements, stored.is_ok(), now);
        match stored {
            Ok(()) => {
                self.broker.handle_committed(through, now);
                self.uploading.handle_stored(&batch.records, &self.buffer, now);
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

    /// On a full disk the space put by is given up, and the batch tried again: it was certainly not written.
    fn append(&mut self, batch: &Batch, now: Now) -> Result<(), StoreError> {
        let began = self.clock.now().mono;
        let outcome = match self.buffer.append(batch) {
            Err(error @ StoreError::Full(_)) if self.house.release_ballast(&error, now.mono) => {
                self.buffer.append(batch)
            }
            outcome => outcome,
        };
        match &outcome {
            Ok(()) => {
                let ended = self.clock.now().mono;
                self.observed.note_commit(ended.since(began), ended);
                self.house.note_commit(batch, now.mono);
            }
            Err(error) => self.observed.note_store_error(error, now.mono),
        }
        outcome
    }

    /// Commits what became of readings at the hub, and nothing else.
    pub(super) fn commit_settlements(&mut self, settlements: Vec<Settlement>, now: Now) {
        if settlements.is_empty() {
            return;
        }
        let batch = Batch { settlements, ..Batch::default() };
        let stored = self.append(&batch, now);
        self.uploading.handle_settled(&batch.settlements, stored.is_ok(), now);
        if let Err(error) = stored {
            log::error!("{error}; some readings may be uploaded twice");
            if !self.buffer.is_open() {
                self.broker.handle_commit_failed(now);
                self.reopen_store(now);
            }
        }
    }

    /// Opens the store again and checks it; nothing is acknowledged until that went well.
    pub(super) fn reopen_store(&mut self, now: Now) {
        match self.buffer.reopen().and_then(|()| self.buffer.recover()) {
            Ok(recovered) => {
                self.broker.handle_store_ready(recovered, now);
                self.uploading.handle_reopened(&self.buffer, now);
                self.store_retry = StoreRetry::default();
                self.house.arm(now.mono);
                log::info!("the store was opened again and passed its checks");
            }
            Err(error) => {
                self.observed.note_store_error(&error, now.mono);
                let words = error.to_string();
                if words != self.store_retry.told {
                    log::error!("{words}; trying again");
                    self.store_retry.told = words;
                }
                self.store_retry.put_off(now.mono);
            }
        }
    }

    /// Somebody wrote to the registry's files; if it was not this process, takes everybody over.
    pub(super) fn reload_registry(&mut self, now: Now) {
        match self.registry.take_changed() {
            Ok(None) => self.check_forwarded(false),
            Ok(Some(identities)) => {
                self.check_forwarded(true);
                log::info!("took over the registry: {} devices and clients", identities.len());
                self.broker.handle_registry(identities, now);
            }
            Err(error) => log::error!("{error}; those known so far stay in force"),
        }
    }

    pub(super) fn note_seen(&mut self, seen: &[(IdentityId, Wall)]) {
        if let Err(error) = self.registry.note_seen(seen) {
            log::warn!("{error}; it will be out of date who was seen when");
        }
    }

    /// Notes how long the machine has run, so that lives go on from here after a power cut.
    pub(super) fn note_running(&mut self, now: Now) {
        self.running_note = now.mono + RUNNING_NOTE;
        if !self.broker.counts_time() || !self.broker.is_storing() {
            return;
        }
        if let Err(error) = self.buffer.note_running(now.mono) {
            log::error!("{error}; it is tried again later");
            if !self.buffer.is_open() {
                self.broker.handle_commit_failed(now);
                self.reopen_store(now);
            }
        }
    }

    /// Reads the clock's state and corrects this boot's row if it differs.
    pub(super) fn check_clock(&mut self, now: Now) {
        let clock = self.clock.state();
        let noted = self.buffer.set_clock(clock);
        if noted.is_ok() {
            // Only now does the journal give readings their right times.
            self.uploading.handle_clock(clock.synchronised, now);
        }
        // Readings may have grown too old meanwhile.
        self.house.arm(now.mono);
        // While the store is out of order, that has been said.
        if let Err(error) = &noted
            && self.broker.is_storing()
        {
            log::error!("{error}; until the next try, readings of this boot may show a wrong time");
            if !self.buffer.is_open() {
                self.broker.handle_commit_failed(now);
                self.reopen_store(now);
            }
        }
        // The clock was set once and will not say so again: what could not be noted is tried again unasked.
        let again = noted.is_err() || !clock.synchronised || self.clock_watch.is_none();
        self.clock_check = again.then_some(now.mono + CLOCK_CHECK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ClockState,
        event_loop::{Claim, Listen, Setup, UplinkSource},
        identity::DeviceGrants,
        limits::Limits,
        net::{listener::ListenerKind, system_clock::SystemClock},
        store::StorageWishes,
    };

    /// A loop on files of its own, with a clock that counts as synchronised.
    fn start() -> (tempfile::TempDir, EventLoop) {
        let dir = tempfile::tempdir().expect("a directory");
        let address = "127.0.0.1:0".parse().expect("an address");
        let setup = Setup {
            data_dir: dir.path().join("data"),
            limits: Limits::default(),
            device_grants: DeviceGrants::default(),
            storage: StorageWishes::default(),
            listen: vec![Listen { address, kind: ListenerKind::Mqtt, optional: false }],
            certificate: None,
            on_stored: None,
            uplink: UplinkSource::none(),
        };
        let claim = Claim::take(&setup.data_dir, &setup.listen).expect("claimed");
        let mut event_loop = EventLoop::start(setup, claim).expect("started");
        event_loop.clock = SystemClock::with_marker(dir.path().to_owned());
        (dir, event_loop)
    }

    #[test]
    fn a_clock_that_could_not_be_noted_is_noted_later_and_the_store_is_not_left_closed() {
        let (dir, mut event_loop) = start();
        let now = event_loop.clock.now();
        event_loop.buffer.set_clock(ClockState { offset_ms: 1, synchronised: true }).expect("noted");
        let shell = || rusqlite::Connection::open(dir.path().join("data/buffer.db")).expect("opened");
        shell().execute_batch("DELETE FROM boots").expect("the row is lost");

        event_loop.check_clock(now);
        assert!(event_loop.buffer.is_open() && event_loop.broker.is_storing());
        let again = event_loop.clock_check.expect("it is tried again");

        event_loop.check_clock(Now { mono: again, ..now });
        let wanted = event_loop.clock.state();
        let (offset_ms, synchronised): (i64, bool) = shell()
            .query_row("SELECT offset_ms, synchronised FROM boots", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .expect("one row");
        assert!(synchronised && wanted.offset_ms.abs_diff(offset_ms) < 1000, "{wanted:?}, noted {offset_ms}");
        assert_eq!(event_loop.clock_check, None);
    }

    #[test]
    fn a_clock_that_cannot_be_watched_is_looked_at_again_and_again() {
        let (_dir, mut event_loop) = start();
        let now = event_loop.clock.now();
        event_loop.check_clock(now);
        assert_eq!(event_loop.clock_check, None, "a step would be told");
        event_loop.clock_watch = None;
        event_loop.check_clock(now);
        assert_eq!(event_loop.clock_check, Some(now.mono + CLOCK_CHECK));
    }
}
