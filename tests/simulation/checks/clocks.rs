//! When readings were received, and what the clocks of the machine said: held against the times the hub is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use forebay::{
    clock::{ClockState, Mono},
    ids::DeviceName,
    limits::RECEIVED_AHEAD_MAX,
    record::Record,
};

use super::ReadingId;

/// Longest time a message is on its way to the hub.
const UNDER_WAY_MAX: Duration = Duration::from_secs(200);

/// How long a reading waits for a clock that is not set.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// So long after boot.
    pub after_boot: Duration,
    /// And until the hub, and with it those who know the time, was there for so long.
    pub with_hub: Duration,
    /// For how long it was there, at most; `None` if it was never away.
    pub hub_was_there: Option<Duration>,
}

/// The clock of one boot, over its time.
#[derive(Debug, Default)]
struct Boot {
    /// Every offset to wall time there was while the clock was synchronised.
    offsets_ms: BTreeSet<i64>,
    /// Since when the journal knows one of them.
    noted: Option<Mono>,
}

/// All boots, and what was received in each.
#[derive(Debug, Default)]
pub struct Clocks {
    boots: BTreeMap<u64, Boot>,
    boot: u64,
    mono: Mono,
    /// By reading, each boot and time in which it was received.
    received: BTreeMap<ReadingId, Vec<(u64, i64)>>,
    /// Readings of which nobody saw when they were received.
    unseen: BTreeSet<ReadingId>,
    /// Which message of a device was received at a time by the program that runs now.
    messages: BTreeMap<(DeviceName, i64), ReadingId>,
}

impl Clocks {
    /// So late is it on the machine, and so its clock goes.
    pub fn set(&mut self, boot: u64, mono: Mono, clock: ClockState) {
        (self.boot, self.mono) = (boot, mono);
        let known = self.boots.entry(boot).or_default();
        if clock.synchronised {
            known.offsets_ms.insert(clock.offset_ms);
        }
    }

    /// The journal has the clock's present state.
    pub fn note_noted(&mut self, clock: ClockState) {
        let boot = self.boots.entry(self.boot).or_default();
        boot.noted = boot.noted.or_else(|| clock.synchronised.then_some(self.mono));
    }

    pub(super) fn note_received(&mut self, id: ReadingId, record: &Record) {
        self.received.entry(id).or_default().push((self.boot, record.received.as_millis()));
    }

    /// The hub could not tell two messages of a device from each other that have the same time.
    pub(super) fn check_apart(&mut self, message: ReadingId, record: &Record) -> Result<(), String> {
        let at = (record.device.clone(), record.received.as_millis());
        let other = self.messages.insert(at, message).filter(|other| *other != message);
        if let Some(other) = other.filter(|_| record.received < self.mono + RECEIVED_AHEAD_MAX) {
            return Err(format!("TIME: {message:?} and {other:?} are of the same millisecond"));
        }
        if record.received > self.mono + RECEIVED_AHEAD_MAX {
            return Err(format!("TIME: {message:?} was received at {:?}, in the future", record.received));
        }
        Ok(())
    }

    /// Another program runs.
    pub(super) fn begin_again(&mut self) {
        self.messages.clear();
    }

    pub(super) fn note_found(&mut self, id: ReadingId) {
        self.unseen.insert(id);
    }

    /// Whether `ts` is right for a reading that has no time of its own, and it was time to send it.
    pub(super) fn check(&self, id: ReadingId, ts: i64, patience: Option<Patience>) -> Result<(), String> {
        let Some(received) = self.received.get(&id).filter(|_| !self.unseen.contains(&id)) else {
            return Ok(());
        };
        let fits = |(number, at_ms): &(u64, i64)| {
            let boot = &self.boots[number];
            let is_present = *number == self.boot;
            // Until the journal knows the time, and while something sent before that is under way, it is estimated.
            let is_estimated =
                boot.noted.is_none_or(|noted| is_present && self.mono.since(noted) < UNDER_WAY_MAX);
            is_estimated || boot.offsets_ms.contains(&(ts - at_ms))
        };
        if !received.iter().any(fits) {
            return Err(format!("TIME: {id:?} received in {received:?} is uploaded as of {ts}"));
        }
        let is_unknown =
            |(number, _): &(u64, i64)| *number == self.boot && self.boots[number].offsets_ms.is_empty();
        let waits = patience.is_some_and(|Patience { after_boot, with_hub, hub_was_there }| {
            self.mono < Mono(0) + after_boot || hub_was_there.is_some_and(|there| there < with_hub)
        });
        if waits && received.iter().all(is_unknown) {
            return Err(format!("TOO EARLY: {id:?} is uploaded before the clock is set"));
        }
        Ok(())
    }
}
