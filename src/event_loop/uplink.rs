//! The loop's dealings with the uplinks: their connections, their reads of the journal, their part in the commit.
//!
//! Once per turn, behind the devices: bytes from the hub before the commit, so that what they settle rides in it; then
//! a bounded look at the journal, and what goes out. Devices never wait for more than that.
//!
//! There is one uplink for everybody, if any, and one for each device that is forwarded as itself (`uplink_devices`).

use std::{collections::BTreeSet, io, path::PathBuf, rc::Rc};

use mio::{Poll, Registry, event::Event};

use crate::{
    clock::{Mono, Now},
    device_api::downlink::Downlink,
    identity::Token,
    ids::DeviceName,
    limits::{UPLINK_LOAD_WAIT_MAX, UPLINK_LOAD_WAIT_MIN},
    net::{chance, resolver::Resolver, watch::FileWatch},
    record::{Record, Settlement},
    store::{Buffer, DataDir, KeptTokens},
    uplink::{Notice, Settings, Status, Uplink},
};

use super::{
    EventLoop, RESOLVER, UPLINK, UPLINK_FILE,
    learning::Learning,
    uplink_devices::DeviceUplinks,
    uplink_link::HubPlace,
    uplink_running::{RETRY, Running, whose},
};

/// How the uplink of one device behaves, given its name and its token.
pub type DeviceSettings = Box<dyn Fn(&DeviceName, &Token) -> Settings>;

/// Where readings go, and how.
pub struct UplinkSetup {
    /// Where the hub is.
    pub place: Rc<HubPlace>,
    /// How everybody's uplink behaves, if there is one.
    pub everybody: Option<Settings>,
    /// How that of a device that is forwarded as itself behaves; none if no device is.
    pub device: Option<DeviceSettings>,
    /// How our client id begins when a token unknown here is tried; none if tokens are not.
    pub trial_client_id: Option<String>,
    /// The files with secrets and certificates that were read: a change of one is a change of the settings.
    pub files: Vec<PathBuf>,
    /// Changes if anything in the settings or in the files they name does.
    pub fingerprint: [u8; 32],
}

/// Where the settings of the uplink come from, now and when they change.
pub struct UplinkSource {
    /// A change of this file is a change of the settings.
    pub watched: Option<PathBuf>,
    /// Reads the settings: none if there is to be no uplink, else they or why they cannot be used, in words.
    pub load: Box<dyn FnMut() -> Result<Option<UplinkSetup>, String>>,
}

impl UplinkSource {
    /// No uplink, ever.
    pub fn none() -> Self {
        Self { watched: None, load: Box::new(|| Ok(None)) }
    }
}

/// The uplinks as they run in the loop.
pub(super) struct Uploading {
    source: UplinkSource,
    watch: Option<FileWatch>,
    /// Watches the files named by what is in force.
    files_watch: Option<FileWatch>,
    registry: Registry,
    /// When settings that could not be used are read again, and how often that was in vain.
    load_again: Option<Mono>,
    loads_failed: u32,
    pub(super) resolver: Resolver,
    /// What is in force.
    pub(super) setup: Option<Rc<UplinkSetup>>,
    /// Everybody's uplink has not begun yet, for the store must tell first where to go on.
    is_waiting: bool,
    /// When that is tried again.
    begin_again: Option<Mono>,
    running: Option<Running>,
    pub(super) devices: DeviceUplinks,
    pub(super) learning: Learning,
    /// Why there is none although there should be.
    trouble: Option<String>,
}

impl Uploading {
    /// # Errors
    /// If there can be no waker for the answers of the resolver.
    pub(super) fn new(
        source: UplinkSource,
        dir: DataDir,
        connections_max: usize,
        poll: &Poll,
        now: Mono,
    ) -> io::Result<Self> {
        let watch =
            source.watched.as_ref().and_then(|file| watch(poll.registry(), std::slice::from_ref(file)));
        let mut uploading = Self {
            source,
            watch,
            files_watch: None,
            registry: poll.registry().try_clone()?,
            load_again: None,
            loads_failed: 0,
            resolver: Resolver::new(poll.registry(), RESOLVER)?,
            setup: None,
            is_waiting: false,
            begin_again: None,
            running: None,
            devices: DeviceUplinks::new(dir, connections_max),
            learning: Learning::new(),
            trouble: None,
        };
        uploading.load(now);
        Ok(uploading)
    }

    /// Reads the settings; those that cannot be used leave what runs as it is, and are read again after a while: a file
    /// may come late, or the disk it is on.
    fn load(&mut self, now: Mono) {
        match (self.source.load)() {
            Ok(setup) => {
                self.load_again = None;
                self.loads_failed = 0;
                self.trouble = None;
                self.take_over(setup);
            }
            Err(words) => {
                let goes_on = match self.setup {
                    Some(_) => "; the settings read before stay in force",
                    None => "",
                };
                if self.trouble.as_ref() != Some(&words) {
                    log::error!("the uplink: {words}{goes_on}");
                }
                self.trouble = Some(words);
                let wait = UPLINK_LOAD_WAIT_MIN.saturating_mul(1 << self.loads_failed.min(16));
                self.load_again = Some(now + wait.min(UPLINK_LOAD_WAIT_MAX));
                self.loads_failed = self.loads_failed.saturating_add(1);
            }
        }
    }

    fn take_over(&mut self, setup: Option<UplinkSetup>) {
        let in_force = self.setup.as_ref().map(|setup| setup.fingerprint);
        if setup.as_ref().map(|setup| setup.fingerprint) == in_force {
            return;
        }
        if in_force.is_some() {
            log::info!("the uplink's settings have changed");
        }
        self.stop_everybodys();
        self.devices.stop_all();
        let files = setup.as_ref().map_or(&[][..], |setup| &setup.files);
        self.files_watch = if files.is_empty() { None } else { watch(&self.registry, files) };
        self.setup = setup.map(Rc::new);
        self.is_waiting = self.setup.as_ref().is_some_and(|setup| setup.everybody.is_some());
        self.devices.want_sync();
    }

    /// Whether any of the files the settings are made of has changed.
    fn take_changed(&mut self) -> bool {
        let watches = [&mut self.watch, &mut self.files_watch];
        // Each is asked: an event is told once.
        let changed = watches.map(|watch| watch.as_mut().is_some_and(FileWatch::take_changed));
        changed.contains(&true)
    }

    fn stop_everybodys(&mut self) {
        if let Some(mut old) = self.running.take() {
            old.close();
        }
    }

    /// Begins everybody's uplink, if the store can tell where to go on.
    fn begin(&mut self, buffer: &Buffer, synchronised: bool, now: Now) {
        let Some(setup) = self.setup.clone() else { return };
        let Some(settings) = setup.everybody.clone() else { return };
        let (resumed, seed) = match prepare(buffer) {
            Ok(prepared) => prepared,
            Err(words) => {
                if self.trouble.as_ref() != Some(&words) {
                    log::error!("the uplink cannot begin: {words}; trying again");
                }
                self.trouble = Some(words);
                self.begin_again = Some(now.mono + RETRY);
                return;
            }
        };
        self.trouble = None;
        self.begin_again = None;
        self.is_waiting = false;
        let mut uplink = Uplink::new(settings, resumed, buffer.last_seq(), seed, now);
        uplink.handle_clock(synchronised, now);
        self.running = Some(Running::new(uplink, Rc::clone(&setup.place), UPLINK));
    }

    /// Whether settings wait to be begun now. Devices come first: their readings are not everybody's any more.
    fn may_begin(&self, now: Mono) -> bool {
        self.is_waiting && !self.devices.wants_sync() && self.begin_again.is_none_or(|at| at <= now)
    }

    fn all(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().chain(self.devices.all())
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        self.running.iter_mut().chain(self.devices.all_mut())
    }

    /// Whether the next turn has something to do at once.
    pub(super) fn is_busy(&self, store_is_open: bool) -> bool {
        self.learning.is_busy() || self.all().any(|running| running.is_busy(store_is_open))
    }

    /// When it wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let begin = self.begin_again.filter(|_| self.is_waiting);
        let others = [self.load_again, begin, self.devices.deadline(), self.learning.deadline()];
        self.all().map(Running::due).chain(others).flatten().min()
    }

    /// What became of readings, to ride in a commit that is made anyway.
    pub(super) fn poll_settlements(&mut self) -> Vec<Settlement> {
        self.all_mut().filter_map(|running| running.uplink.poll_settlement()).collect()
    }

    /// The same, whether or not a later commit would do: there may be none.
    fn poll_last_settlements(&mut self) -> Vec<Settlement> {
        self.settle_now();
        self.poll_settlements()
    }

    /// What became of readings goes with the next commit, and if there is none now, with one of its own.
    pub(super) fn settle_now(&mut self) {
        self.all_mut().for_each(|running| running.uplink.settle_now());
    }

    /// The same, if a commit is to be made for it alone.
    pub(super) fn poll_due_settlements(&mut self) -> Vec<Settlement> {
        if self.all().any(|running| running.uplink.settlement_is_due()) {
            return self.poll_settlements();
        }
        Vec::new()
    }

    /// The commit that carried `settlements` was made, or was not.
    pub(super) fn handle_settled(&mut self, settlements: &[Settlement], on_disk: bool, now: Now) {
        for settlement in settlements {
            let running = match &settlement.of {
                None => self.running.as_mut(),
                Some(device) => self.devices.get_mut(device),
            };
            let Some(running) = running else { continue };
            match on_disk {
                true => running.touch().handle_settled(now),
                false => running.touch().handle_settle_failed(now),
            }
        }
    }

    /// A commit put `records` on disk.
    pub(super) fn handle_stored(&mut self, records: &[Record], buffer: &Buffer, now: Now) {
        if let Some(running) = &mut self.running {
            running.touch().handle_stored(buffer.last_seq(), now);
        }
        self.devices.handle_stored(records, now);
    }

    /// The journal was opened again, and may hold more than was told.
    pub(super) fn handle_reopened(&mut self, buffer: &Buffer, now: Now) {
        for running in self.all_mut() {
            running.touch().handle_stored(buffer.last_seq(), now);
        }
    }

    pub(super) fn handle_clock(&mut self, synchronised: bool, now: Now) {
        for running in self.all_mut() {
            running.touch().handle_clock(synchronised, now);
        }
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        if let Some(running) = &mut self.running {
            running.on_event(event);
        }
    }

    pub(super) fn on_answers(&mut self, poll: &Poll, now: Now) {
        while let Some(answer) = self.resolver.take() {
            for running in self.all_mut() {
                running.on_answer(&answer, poll, now);
            }
            self.learning.on_answer(&answer, poll, now);
        }
    }

    /// Whether the hub knows `device` by its gateway, if at all.
    pub(super) fn goes_by_gateway(&self, device: &DeviceName) -> bool {
        !self.devices.forwarded().contains(device)
    }

    /// A message of the hub for a device.
    pub(super) fn poll_downlink(&mut self) -> Option<Downlink> {
        self.running.as_mut()?.uplink.poll_downlink()
    }

    /// What `device` has answered to a command, or what is answered for it.
    pub(super) fn answer_rpc(&mut self, device: &DeviceName, id: i32, answer: &[u8], now: Now) {
        if self.goes_by_gateway(device)
            && let Some(running) = &mut self.running
        {
            running.touch().answer_rpc(device, id, answer, now);
        }
    }

    /// A device has come, or is gone.
    pub(super) fn tell_presence(&mut self, device: &DeviceName, is_here: bool, now: Now) {
        if self.goes_by_gateway(device)
            && let Some(running) = &mut self.running
        {
            running.touch().handle_presence(device, is_here, now);
        }
    }

    /// How it is doing, while it runs.
    pub(super) fn details(&self, now: Now) -> Option<Status> {
        self.running.as_ref().map(|running| running.uplink.status(now))
    }

    /// Whether devices are forwarded as themselves, or would be if there were any.
    pub(super) fn forwards_devices(&self) -> bool {
        let is_only_way = |setup: &Rc<UplinkSetup>| setup.device.is_some() && setup.everybody.is_none();
        self.setup.as_ref().is_some_and(is_only_way) || self.devices.has_news()
    }

    /// Why there is none although there should be, or why new settings were not taken over.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// For the line the service manager shows.
    pub(super) fn status(&self, now: Now) -> Option<String> {
        let everybodys = self.running.as_ref().map(|running| {
            let status = running.uplink.status(now);
            format!("uplink {}, {} readings wait for it", status.state, status.backlog)
        });
        let words: Vec<String> = everybodys.into_iter().chain(self.devices.status(now)).collect();
        if !words.is_empty() {
            return Some(words.join("; "));
        }
        self.trouble.as_ref().map(|_| "NO UPLINK, the log says why".to_owned())
    }
}

/// Watches `files`; if that cannot be, a change of them needs a signal.
fn watch(registry: &Registry, files: &[PathBuf]) -> Option<FileWatch> {
    FileWatch::new(registry, UPLINK_FILE, files)
        .inspect_err(|error| {
            let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            log::warn!("cannot watch {}: {error}; changes need a SIGHUP", names.join(", "));
        })
        .ok()
}

fn prepare(buffer: &Buffer) -> Result<(Settlement, u64), String> {
    let resumed = buffer.settlement().map_err(|error| error.to_string())?;
    let seed = chance::seed().map_err(|error| format!("cannot get random bytes: {error}"))?;
    Ok((resumed, seed))
}

fn tell_everybodys(notice: Notice) {
    let level = if notice.is_warning { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "uplink: {}", notice.words);
}

impl EventLoop {
    /// Takes what the hub has sent.
    pub(super) fn read_uplink(&mut self, now: Now) {
        for running in self.uploading.all_mut() {
            running.read(&mut self.scratch, now);
        }
    }

    /// Everything else the uplinks want in this turn.
    pub(super) fn drive_uplink(&mut self, now: Now) {
        if self.uploading.load_again.is_some_and(|at| at <= now.mono) {
            self.load_uplink(now);
        }
        let Uploading { resolver, running, devices, .. } = &mut self.uploading;
        if let Some(running) = running {
            running.serve(resolver, &self.poll, now, tell_everybodys);
        }
        devices.serve(resolver, &self.poll, now);
        if self.buffer.is_open() {
            if let Some(running) = running.as_mut().filter(|running| running.wants_page(now.mono)) {
                running.read_page(&mut self.buffer, &whose(None, devices.forwarded()), now);
            }
            devices.read_pages(&mut self.buffer, now);
        }
        self.begin_uplinks(now);
        let room = self.uploading.running.as_ref().map_or(0, |running| running.uplink.rpc_room());
        self.broker.handle_rpc_room(room);
    }

    fn begin_uplinks(&mut self, now: Now) {
        let synchronised = self.clock.state().synchronised;
        let is_due = self.uploading.devices.sync_is_due(now.mono);
        if is_due && !self.buffer.is_open() {
            self.uploading.devices.put_off_sync(now.mono);
        } else if is_due {
            // Uplinks that end here are not to send again what the hub has acknowledged.
            let settlements = self.uploading.poll_last_settlements();
            self.commit_settlements(settlements, now);
            let Uploading { setup, devices, running, .. } = &mut self.uploading;
            let before = devices.forwarded().clone();
            let begins_again =
                devices.sync(setup.as_deref(), &self.registry, &mut self.buffer, synchronised, now);
            if let Some(running) = running {
                let connected: BTreeSet<&DeviceName> = self.broker.connected_devices().collect();
                // Who is forwarded as itself from now on is gone from the gateway, and the reverse.
                for device in devices.forwarded().symmetric_difference(&before) {
                    let is_here = before.contains(device) && connected.contains(device);
                    running.touch().handle_presence(device, is_here, now);
                }
            }
            if begins_again && running.is_some() {
                // It goes on before readings that have become its business.
                self.uploading.stop_everybodys();
                self.uploading.is_waiting = true;
            }
        }
        if self.uploading.may_begin(now.mono) {
            self.uploading.begin(&self.buffer, synchronised, now);
            self.tell_all_presence(now);
        }
    }

    /// The registry or the kept tokens may have changed.
    pub(super) fn check_forwarded(&mut self, registry_changed: bool) {
        let devices = &mut self.uploading.devices;
        if devices.note_version(KeptTokens::version(devices.dir())) || registry_changed {
            devices.want_sync();
        }
    }

    /// Reads the settings again; what the old uplinks know is put on disk before, so that new ones go on there.
    fn load_uplink(&mut self, now: Now) {
        let settlements = self.uploading.poll_last_settlements();
        self.commit_settlements(settlements, now);
        self.uploading.load(now.mono);
    }

    /// Somebody wants the settings to be read again. If they are the old ones, they are to be tried now.
    pub(super) fn reload_uplink(&mut self, now: Now) {
        self.uploading.loads_failed = 0;
        self.load_uplink(now);
        let Uploading { running, devices, .. } = &mut self.uploading;
        if let Some(running) = running {
            running.touch().try_now(now);
        }
        devices.try_soon(now);
    }

    /// Says goodbye to the hub, and puts on disk what became of readings.
    pub(super) fn stop_uplink(&mut self, now: Now) {
        self.uploading.is_waiting = false;
        for running in self.uploading.all_mut() {
            running.touch().handle_stop(now);
            running.write(now);
        }
        let settlements = self.uploading.poll_last_settlements();
        self.commit_settlements(settlements, now);
    }

    pub(super) fn on_uplink_file_event(&mut self, now: Now) {
        if self.uploading.take_changed() {
            self.reload_uplink(now);
        }
    }
}
