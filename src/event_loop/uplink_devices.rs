//! The uplinks of devices that are forwarded as themselves: one connection for each, with the device's own token.
//!
//! Who they are is told by two files, the registry and the kept tokens, and looked at again when either changes. How
//! far each has come is its own mark in the journal.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use mio::{Poll, Token as PollToken, event::Event};
use slab::Slab;

use crate::{
    clock::{Mono, Now},
    identity::{Token, TokenHash},
    ids::{DeviceName, Seq},
    limits::{
        UPLINK_DEVICE_CONNECT_SPREAD_MAX, UPLINK_DEVICE_CONNECT_STEP, UPLINK_DEVICE_LINES,
        UPLINK_DEVICE_LINES_SPAN, UPLINK_DEVICE_NAMES_TOLD, UPLINK_DEVICE_PAGES, UPLINK_PAGE_LOOKED_AT,
    },
    net::{chance, resolver::Resolver},
    record::Record,
    report::DeviceUplinksReport,
    store::{Buffer, DataDir, KeptTokens, KeptTokensVersion, Registry},
    uplink::{Notice, State, Uplink},
};

use super::{
    FIRST_DEVICE_UPLINK,
    report::last_error,
    uplink::UplinkSetup,
    uplink_running::{RETRY, Running, whose},
};

pub(super) struct DeviceUplinks {
    dir: DataDir,
    connections_max: usize,
    slots: Slab<Slot>,
    places: BTreeMap<DeviceName, usize>,
    /// The keys of `places`, for the journal.
    forwarded: BTreeSet<DeviceName>,
    version: KeptTokensVersion,
    /// When to look at the files again.
    sync_at: Option<Mono>,
    /// What kept that from working, so that it is told once.
    trouble: Option<String>,
    /// Devices for which there is no connection left, told once.
    told_over: usize,
    /// Devices that nobody forwards, for their token is not kept.
    without_token: Vec<DeviceName>,
    /// Whose page comes next.
    turn: usize,
    lines: Lines,
}

struct Slot {
    device: DeviceName,
    token: TokenHash,
    running: Running,
}

impl DeviceUplinks {
    pub(super) fn new(dir: DataDir, connections_max: usize) -> Self {
        Self {
            version: KeptTokens::version(&dir),
            dir,
            connections_max,
            slots: Slab::new(),
            places: BTreeMap::new(),
            forwarded: BTreeSet::new(),
            sync_at: None,
            trouble: None,
            told_over: 0,
            without_token: Vec::new(),
            turn: 0,
            lines: Lines::default(),
        }
    }

    pub(super) fn dir(&self) -> &DataDir {
        &self.dir
    }

    pub(super) fn forwarded(&self) -> &BTreeSet<DeviceName> {
        &self.forwarded
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Running> {
        self.slots.iter().map(|(_, slot)| &slot.running)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        self.slots.iter_mut().map(|(_, slot)| &mut slot.running)
    }

    pub(super) fn get_mut(&mut self, device: &DeviceName) -> Option<&mut Running> {
        let place = self.places.get(device)?;
        self.slots.get_mut(*place).map(|slot| &mut slot.running)
    }

    /// An event of the connection in `place`; one of a connection that has gone does no harm to its successor.
    pub(super) fn on_event(&mut self, place: usize, event: &Event) {
        if let Some(slot) = self.slots.get_mut(place) {
            slot.running.on_event(event);
        }
    }

    // ---- who is forwarded ---------------------------------------------------------------------------------

    /// The files are to be looked at as soon as the store is open.
    pub(super) fn want_sync(&mut self) {
        self.sync_at = Some(Mono(0));
    }

    /// The store is out of order: the files are looked at later.
    pub(super) fn put_off_sync(&mut self, now: Mono) {
        self.sync_at = Some(now + RETRY);
    }

    pub(super) fn wants_sync(&self) -> bool {
        self.sync_at.is_some()
    }

    pub(super) fn sync_is_due(&self, now: Mono) -> bool {
        self.sync_at.is_some_and(|at| at <= now)
    }

    /// Notes which version of the kept tokens there is; whether it is another.
    pub(super) fn note_version(&mut self, version: KeptTokensVersion) -> bool {
        std::mem::replace(&mut self.version, version) != version
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.sync_at
    }

    pub(super) fn stop_all(&mut self) {
        for mut slot in self.slots.drain() {
            slot.running.close();
        }
        self.places.clear();
        self.forwarded.clear();
        self.without_token.clear();
        self.told_over = 0;
    }

    /// Begins and ends uplinks as the files say. Whether everybody's uplink is to begin again, for it has to go on
    /// before where it is.
    ///
    /// Files that cannot be read change nothing.
    pub(super) fn sync(
        &mut self,
        setup: Option<&UplinkSetup>,
        registry: &Registry,
        buffer: &mut Buffer,
        synchronised: bool,
        now: Now,
    ) -> bool {
        self.sync_at = None;
        let Some(setup) = setup else { return false };
        match self.try_sync(setup, registry, buffer, synchronised, now) {
            Ok(begins_again) => {
                self.trouble = None;
                begins_again
            }
            Err(words) => {
                if self.trouble.as_ref() != Some(&words) {
                    log::error!("{words}; which devices are forwarded as themselves stays as it is");
                }
                self.trouble = Some(words);
                self.sync_at = Some(now.mono + RETRY);
                false
            }
        }
    }

    fn try_sync(
        &mut self,
        setup: &UplinkSetup,
        registry: &Registry,
        buffer: &mut Buffer,
        synchronised: bool,
        now: Now,
    ) -> Result<bool, String> {
        let marks = buffer.own_settlements().map_err(|error| error.to_string())?;
        let (mut wanted, without_token) = match setup.device {
            Some(_) => self.read_files(registry)?,
            None => Default::default(),
        };
        self.without_token = if setup.everybody.is_none() { without_token } else { Vec::new() };
        self.bound(&mut wanted, |device| marks.contains_key(device));
        let gone: Vec<DeviceName> = self
            .slots
            .iter()
            .filter(|(_, slot)| wanted.get(&slot.device).is_none_or(|token| token.hash() != slot.token))
            .map(|(_, slot)| slot.device.clone())
            .collect();
        let ended: Vec<DeviceName> =
            marks.keys().filter(|device| !wanted.contains_key(*device)).cloned().collect();
        gone.iter().for_each(|device| self.stop(device));
        let fresh: Vec<DeviceName> =
            wanted.keys().filter(|device| !self.places.contains_key(*device)).cloned().collect();
        let has_changed = !(gone.is_empty() && fresh.is_empty());
        if let Some(settings) = &setup.device
            && !fresh.is_empty()
        {
            buffer.begin_own_marks(&fresh).map_err(|error| error.to_string())?;
            let mut marks = buffer.own_settlements().map_err(|error| error.to_string())?;
            for device in fresh {
                let (Some(token), Some(resumed)) = (wanted.get(&device), marks.remove(&device)) else {
                    continue;
                };
                let seed = chance::seed().map_err(|error| format!("cannot get random bytes: {error}"))?;
                let mut uplink = Uplink::new(settings(&device, token), resumed, buffer.last_seq(), seed, now);
                uplink.handle_clock(synchronised, now);
                uplink.put_off(jitter(seed, wanted.len()), now);
                self.start(device, token.hash(), uplink, setup);
            }
        }
        if has_changed {
            log::info!("{} devices are forwarded as themselves", self.slots.len());
        }
        // Without an uplink for everybody nobody would take what waits: the marks stay, and say what need not wait.
        let begins_again = setup.everybody.is_some() && !ended.is_empty();
        if begins_again {
            // Last of all that may fail: once everybody's mark has gone back, the uplink that runs must begin again.
            buffer.end_own_marks(&ended).map_err(|error| error.to_string())?;
        }
        Ok(begins_again)
    }

    /// The devices whose kept token is the one they have, and those of which none is kept though it might be.
    fn read_files(
        &self,
        registry: &Registry,
    ) -> Result<(BTreeMap<DeviceName, Token>, Vec<DeviceName>), String> {
        let kept = KeptTokens::read(&self.dir).map_err(|error| error.to_string())?;
        let identities = registry.identities().map_err(|error| error.to_string())?;
        let (mut tokens, mut without) = (BTreeMap::new(), Vec::new());
        for device in identities.into_iter().filter(|found| found.role.is_device()) {
            match kept.of(&device) {
                Some(token) => drop(tokens.insert(device.name, token.clone())),
                None if device.enabled && !kept.declines(&device.name) => without.push(device.name),
                None => {}
            }
        }
        Ok((tokens, without))
    }

    /// Leaves as many as there may be connections, those that have been forwarded before first.
    fn bound(&mut self, wanted: &mut BTreeMap<DeviceName, Token>, has_mark: impl Fn(&DeviceName) -> bool) {
        let over = wanted.len().saturating_sub(self.connections_max);
        if over > 0 {
            let mut devices: Vec<DeviceName> = wanted.keys().cloned().collect();
            devices.sort_by_key(|device| !has_mark(device));
            for device in devices.drain(self.connections_max..) {
                wanted.remove(&device);
            }
        }
        if over > 0 && over != self.told_over {
            let most = self.connections_max;
            log::error!(
                "{over} devices are not forwarded as themselves: there may be {most} connections to the hub \
                 (`uplink_connections` in [limits])"
            );
        }
        self.told_over = over;
    }

    fn start(&mut self, device: DeviceName, token: TokenHash, uplink: Uplink, setup: &UplinkSetup) {
        let entry = self.slots.vacant_entry();
        let place = entry.key();
        let running = Running::new(uplink, Rc::clone(&setup.place), PollToken(FIRST_DEVICE_UPLINK + place));
        entry.insert(Slot { device: device.clone(), token, running });
        self.forwarded.insert(device.clone());
        self.places.insert(device, place);
    }

    fn stop(&mut self, device: &DeviceName) {
        self.forwarded.remove(device);
        if let Some(place) = self.places.remove(device) {
            self.slots.remove(place).running.close();
        }
    }

    // ---- the turn -----------------------------------------------------------------------------------------

    /// Of a commit, each device is told of its own readings.
    pub(super) fn handle_stored(&mut self, records: &[Record], now: Now) {
        if self.places.is_empty() {
            return;
        }
        let mut stored: BTreeMap<usize, (Seq, Seq, u64)> = BTreeMap::new();
        for record in records {
            let Some(place) = self.places.get(&record.device) else { continue };
            let (_, last, count) = stored.entry(*place).or_insert((record.seq, record.seq, 0));
            (*last, *count) = (record.seq, *count + 1);
        }
        for (place, (first, last, count)) in stored {
            if let Some(slot) = self.slots.get_mut(place) {
                slot.running.touch().handle_own_stored(first, last, count, now);
            }
        }
    }

    /// Each that waits tries again, one after the other.
    pub(super) fn try_soon(&mut self, now: Now) {
        let mut wait = Duration::ZERO;
        for running in self.all_mut() {
            running.touch().try_within(wait, now);
            wait = (wait + UPLINK_DEVICE_CONNECT_STEP).min(UPLINK_DEVICE_CONNECT_SPREAD_MAX);
        }
    }

    pub(super) fn serve(&mut self, resolver: &mut Resolver, poll: &Poll, now: Now) {
        let Self { slots, lines, .. } = self;
        for (_, slot) in slots {
            let device = &slot.device;
            slot.running.serve(resolver, poll, now, |notice| lines.tell(device, &notice, now.mono));
        }
    }

    /// Some pages, of one device after the other, until enough readings were looked at for one turn.
    pub(super) fn read_pages(&mut self, buffer: &mut Buffer, now: Now) {
        let places: Vec<usize> = self.slots.iter().map(|(place, _)| place).collect();
        let begin = places.partition_point(|place| *place < self.turn);
        let (mut looked_at, mut pages) = (0, 0);
        for place in places[begin..].iter().chain(&places[..begin]) {
            let slot = &mut self.slots[*place];
            if !slot.running.wants_page(now.mono) {
                continue;
            }
            looked_at += slot.running.read_page(buffer, &whose(Some(&slot.device), &self.forwarded), now);
            self.turn = place + 1;
            pages += 1;
            if looked_at >= UPLINK_PAGE_LOOKED_AT || pages >= UPLINK_DEVICE_PAGES {
                break;
            }
        }
    }

    /// Whether there is anything to report.
    pub(super) fn has_news(&self) -> bool {
        !self.slots.is_empty() || self.told_over > 0 || self.trouble.is_some()
    }

    /// How they are doing, all together.
    pub(super) fn report(&self, now: Now) -> DeviceUplinksReport {
        let mut report = DeviceUplinksReport {
            devices: self.slots.len() as u64,
            over: self.told_over as u64,
            without_token: self.without_token.len() as u64,
            without_token_names: first_few(self.without_token.iter()),
            alarm: self.trouble.clone(),
            ..Default::default()
        };
        let (mut refused, mut failed) = (Vec::new(), None::<(String, Mono)>);
        for (device, place) in &self.places {
            let status = self.slots[*place].running.uplink.status(now);
            match status.state {
                State::Refused => refused.push(device),
                state if state.is_open() => report.connected += 1,
                _ => {
                    report.waiting += 1;
                    failed = failed.into_iter().chain(status.last_error).max_by_key(|(_, at)| *at);
                }
            }
            report.backlog += status.backlog;
            report.per_minute += status.uploaded_last_minute;
            report.in_flight += status.in_flight as u64;
            report.uploaded += status.uploaded;
            report.rejected += status.rejected;
            report.bytes_sent += status.bytes_sent;
            report.connections += status.connections;
        }
        report.refused = refused.len() as u64;
        report.refused_names = first_few(refused.into_iter());
        report.last_error = failed.map(|(words, at)| last_error(&words, at, now.mono));
        report
    }

    /// For the line the service manager shows.
    pub(super) fn status(&self, now: Now) -> Option<String> {
        let count = self.slots.len();
        let open = self.all().filter(|running| running.uplink.status(now).state.is_open()).count();
        (count > 0).then(|| format!("{count} devices forwarded as themselves, {open} of them connected"))
    }
}

fn first_few<'a>(devices: impl Iterator<Item = &'a DeviceName>) -> Vec<String> {
    devices.take(UPLINK_DEVICE_NAMES_TOLD).map(|device| device.as_str().to_owned()).collect()
}

/// How long one of `count` uplinks that begin at once waits.
fn jitter(seed: u64, count: usize) -> Duration {
    let steps = u32::try_from(count).unwrap_or(u32::MAX).saturating_sub(1);
    let span = UPLINK_DEVICE_CONNECT_STEP.saturating_mul(steps).min(UPLINK_DEVICE_CONNECT_SPREAD_MAX);
    // The seed serves the uplink as well; its upper half is as good as chance for this.
    span.mul_f64((seed >> 32) as f64 / f64::from(u32::MAX))
}

/// Keeps the lines of many uplinks that tell the same from filling the log.
#[derive(Debug, Default)]
struct Lines {
    since: Option<Mono>,
    told: u32,
}

impl Lines {
    fn tell(&mut self, device: &DeviceName, notice: &Notice, now: Mono) {
        if self.since.is_none_or(|since| now.since(since) >= UPLINK_DEVICE_LINES_SPAN) {
            *self = Self { since: Some(now), told: 0 };
        }
        self.told += 1;
        let level = match (self.told <= UPLINK_DEVICE_LINES, notice.is_warning) {
            (false, _) => log::Level::Debug,
            (true, true) => log::Level::Warn,
            (true, false) => log::Level::Info,
        };
        log::log!(level, "uplink of {device}: {}", notice.words);
        if self.told == UPLINK_DEVICE_LINES {
            log::info!("further lines of devices' uplinks within this minute are told at level debug");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uplink_connects_at_once_and_many_do_not_connect_together() {
        assert_eq!(jitter(u64::MAX, 1), Duration::ZERO);
        assert_eq!(jitter(u64::MAX, 11), 10 * UPLINK_DEVICE_CONNECT_STEP);
        assert_eq!(jitter(0, 200), Duration::ZERO);
        assert!(jitter(u64::MAX / 2, 200) < jitter(u64::MAX, 200));
        assert_eq!(jitter(u64::MAX, 1_000_000), UPLINK_DEVICE_CONNECT_SPREAD_MAX);
    }
}
