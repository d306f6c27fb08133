//! The loop's dealings with the uplink: its connection, its reads of the journal, its part in the commit.
//!
//! Once per turn, behind the devices: bytes from the hub before the commit, so that what they settle rides in it; then
//! at most one page of readings, and what goes out. Devices never wait for more than that.

use std::{path::PathBuf, time::Duration};

use mio::{Poll, event::Event};

use crate::{
    clock::{Mono, Now},
    limits::{UPLINK_PAGE_BYTES, UPLINK_PAGE_ROWS},
    net::{chance, resolver::Resolver, scratch::Scratch, watch::FileWatch},
    record::Settlement,
    store::{Buffer, Stretch},
    uplink::{ReadRequest, Settings, Status, Uplink},
};

use super::{
    EventLoop, RESOLVER, UPLINK_FILE,
    uplink_link::{Arrival, Attempt, HubPlace, Link},
};

/// Wait before the store is asked again after it could not tell.
const RETRY: Duration = Duration::from_secs(1);

/// Where readings go, and how.
pub struct UplinkSetup {
    /// Where the hub is.
    pub place: HubPlace,
    /// How the uplink behaves.
    pub settings: Settings,
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

/// The uplink as it runs in the loop.
pub(super) struct Uploading {
    source: UplinkSource,
    watch: Option<FileWatch>,
    resolver: Option<Resolver>,
    /// Read and not begun yet, for the store must tell first where to go on.
    waiting: Option<UplinkSetup>,
    /// When that is tried again.
    begin_again: Option<Mono>,
    running: Option<Running>,
    /// Why there is none although there should be.
    trouble: Option<String>,
}

struct Running {
    uplink: Uplink,
    place: HubPlace,
    fingerprint: [u8; 32],
    link: Link,
    /// The page that is read in the next turn.
    wanted: Option<ReadRequest>,
    /// The journal could not be read, that was told, and it is tried again then.
    read_again: Option<Mono>,
}

impl Uploading {
    pub(super) fn new(source: UplinkSource, poll: &Poll) -> Self {
        let watch = source.watched.as_ref().and_then(|file| {
            FileWatch::new(poll.registry(), UPLINK_FILE, std::slice::from_ref(file))
                .inspect_err(|error| {
                    log::warn!("cannot watch {}: {error}; changes need a SIGHUP", file.display());
                })
                .ok()
        });
        let mut uploading = Self {
            source,
            watch,
            resolver: None,
            waiting: None,
            begin_again: None,
            running: None,
            trouble: None,
        };
        uploading.load();
        uploading
    }

    /// Reads the settings; those that cannot be used leave what runs as it is.
    fn load(&mut self) {
        match (self.source.load)() {
            Ok(setup) => {
                self.trouble = None;
                let running = self.running.as_ref().map(|running| running.fingerprint);
                if setup.as_ref().map(|setup| setup.fingerprint) == running {
                    self.waiting = None;
                    return;
                }
                if let Some(mut old) = self.running.take() {
                    old.link.close();
                    log::info!("the uplink's settings have changed");
                }
                self.waiting = setup;
            }
            Err(words) => {
                let goes_on =
                    if self.running.is_some() { "; the settings read before stay in force" } else { "" };
                log::error!("the uplink: {words}{goes_on}");
                self.trouble = Some(words);
            }
        }
    }

    /// Begins what waits, if the store can tell where to go on.
    fn begin(&mut self, buffer: &Buffer, poll: &Poll, synchronised: bool, now: Now) {
        let Some(setup) = self.waiting.take() else { return };
        let (resumed, seed) = match self.prepare(buffer, poll) {
            Ok(prepared) => prepared,
            Err(words) => {
                if self.trouble.as_ref() != Some(&words) {
                    log::error!("the uplink cannot begin: {words}; trying again");
                }
                self.trouble = Some(words);
                self.waiting = Some(setup);
                self.begin_again = Some(now.mono + RETRY);
                return;
            }
        };
        self.trouble = None;
        self.begin_again = None;
        let mut uplink = Uplink::new(setup.settings, resumed, buffer.last_seq(), seed, now);
        uplink.handle_clock(synchronised, now);
        self.running = Some(Running {
            uplink,
            place: setup.place,
            fingerprint: setup.fingerprint,
            link: Link::Down,
            wanted: None,
            read_again: None,
        });
    }

    fn prepare(&mut self, buffer: &Buffer, poll: &Poll) -> Result<(Settlement, u64), String> {
        if self.resolver.is_none() {
            let resolver = Resolver::new(poll.registry(), RESOLVER);
            self.resolver = Some(resolver.map_err(|error| format!("cannot make a waker: {error}"))?);
        }
        let resumed = buffer.settlement().map_err(|error| error.to_string())?;
        let seed = chance::seed().map_err(|error| format!("cannot get random bytes: {error}"))?;
        Ok((resumed, seed))
    }

    /// Whether settings wait to be begun now.
    fn may_begin(&self, now: Mono) -> bool {
        self.waiting.is_some() && self.begin_again.is_none_or(|at| at <= now)
    }

    /// Whether the next turn has something to do at once.
    pub(super) fn is_busy(&self, store_is_open: bool) -> bool {
        let busy = |running: &Running| running.link.can_read() || (store_is_open && running.wanted.is_some());
        self.running.as_ref().is_some_and(busy)
    }

    /// When it wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let begin = self.waiting.as_ref().and(self.begin_again);
        let running = self
            .running
            .as_ref()
            .map(|running| [running.uplink.poll_timeout(), running.link.deadline(), running.read_again]);
        running.into_iter().flatten().chain([begin]).flatten().min()
    }

    /// What became of readings, to ride in a commit that is made anyway.
    pub(super) fn poll_settlement(&mut self) -> Option<Settlement> {
        self.running.as_mut()?.uplink.poll_settlement()
    }

    /// The same, whether or not a later commit would do: there may be none.
    fn poll_last_settlement(&mut self) -> Option<Settlement> {
        let uplink = &mut self.running.as_mut()?.uplink;
        uplink.settle_now();
        uplink.poll_settlement()
    }

    /// The same, if a commit is to be made for it alone.
    pub(super) fn poll_due_settlement(&mut self) -> Option<Settlement> {
        let running = self.running.as_mut()?;
        if running.uplink.settlement_is_due() { running.uplink.poll_settlement() } else { None }
    }

    /// The commit that carried a settlement was made, or was not.
    pub(super) fn handle_settled(&mut self, on_disk: bool, now: Now) {
        let Some(running) = &mut self.running else { return };
        if on_disk {
            running.uplink.handle_settled(now);
        } else {
            running.uplink.handle_settle_failed(now);
        }
    }

    /// What the journal holds now.
    pub(super) fn handle_stored(&mut self, buffer: &Buffer, now: Now) {
        if let Some(running) = &mut self.running {
            running.uplink.handle_stored(buffer.last_seq(), now);
        }
    }

    pub(super) fn handle_clock(&mut self, synchronised: bool, now: Now) {
        if let Some(running) = &mut self.running {
            running.uplink.handle_clock(synchronised, now);
        }
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        if let Some(running) = &mut self.running {
            running.link.on_event(event);
        }
    }

    pub(super) fn on_answers(&mut self, poll: &Poll, now: Now) {
        while let Some(answer) = self.resolver.as_mut().and_then(Resolver::take) {
            let Some(running) = &mut self.running else { continue };
            let Running { link, place, .. } = running;
            let attempt = link.on_answer(answer.ticket, answer.addresses, place, poll.registry(), now.mono);
            running.on_attempt(attempt, now);
        }
    }

    /// How it is doing, while it runs.
    pub(super) fn details(&self, now: Now) -> Option<Status> {
        self.running.as_ref().map(|running| running.uplink.status(now))
    }

    /// Why there is none although there should be, or why new settings were not taken over.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// For the line the service manager shows.
    pub(super) fn status(&self, now: Now) -> Option<String> {
        if let Some(running) = &self.running {
            let status = running.uplink.status(now);
            return Some(format!("uplink {}, {} readings wait for it", status.state, status.backlog));
        }
        self.trouble.as_ref().map(|_| "NO UPLINK, the log says why".to_owned())
    }
}

impl Running {
    fn on_attempt(&mut self, attempt: Attempt, now: Now) {
        match attempt {
            Attempt::Pending => {}
            Attempt::Connected => self.uplink.handle_connected(now),
            Attempt::Failed(failure) => self.uplink.handle_connect_failed(failure, now),
        }
    }

    fn read(&mut self, scratch: &mut Scratch, now: Now) {
        let Some(arrival) = self.link.read(scratch, &self.place) else { return };
        if !scratch.plaintext().is_empty() {
            self.uplink.handle_bytes(scratch.plaintext(), now);
        }
        if let Arrival::End(failure) = arrival {
            self.uplink.handle_disconnected(failure, now);
        }
    }

    fn connect(&mut self, resolver: &mut Resolver, poll: &Poll, now: Now) {
        let attempt = self.link.advance(&self.place, poll.registry(), now.mono);
        self.on_attempt(attempt, now);
        if self.uplink.poll_connect() {
            let attempt = self.link.begin(&self.place, resolver, poll.registry(), now.mono);
            self.on_attempt(attempt, now);
        }
    }

    /// One page at most: the devices are waiting.
    fn read_page(&mut self, buffer: &mut Buffer, now: Now) {
        if !buffer.is_open() || self.read_again.is_some_and(|at| at > now.mono) {
            return;
        }
        if self.wanted.is_none() {
            self.wanted = self.uplink.poll_read();
        }
        let Some(mut request) = self.wanted.take() else { return };
        request.rows_max = request.rows_max.min(UPLINK_PAGE_ROWS);
        request.bytes_max = request.bytes_max.min(UPLINK_PAGE_BYTES);
        let ReadRequest { after, through, rows_max, bytes_max, .. } = request;
        match buffer.outbound(&Stretch { after, through, rows_max, bytes_max }) {
            Ok(rows) => {
                self.read_again = None;
                self.uplink.handle_rows(request, rows, now);
                self.wanted = self.uplink.poll_read();
            }
            Err(error) => {
                if self.read_again.replace(now.mono + RETRY).is_none() {
                    log::error!("{error}; nothing is uploaded until that works again");
                }
                self.uplink.handle_read_failed(request, now);
            }
        }
    }

    fn write(&mut self, now: Now) {
        if let Err(failure) = self.link.write(self.uplink.output(), &self.place) {
            self.uplink.handle_disconnected(failure, now);
        }
        if self.uplink.poll_close() {
            self.link.close();
        }
    }

    fn tell(&mut self) {
        while let Some(notice) = self.uplink.poll_notice() {
            let level = if notice.is_warning { log::Level::Warn } else { log::Level::Info };
            log::log!(level, "uplink: {}", notice.words);
        }
    }
}

impl EventLoop {
    /// Takes what the hub has sent.
    pub(super) fn read_uplink(&mut self, now: Now) {
        if let Some(running) = &mut self.uploading.running {
            running.read(&mut self.scratch, now);
        }
    }

    /// Everything else the uplink wants in this turn.
    pub(super) fn drive_uplink(&mut self, now: Now) {
        let Uploading { resolver, running, .. } = &mut self.uploading;
        if let (Some(running), Some(resolver)) = (running, resolver) {
            if running.uplink.poll_timeout().is_some_and(|at| at <= now.mono) {
                running.uplink.handle_timeout(now);
            }
            running.connect(resolver, &self.poll, now);
            running.read_page(&mut self.buffer, now);
            running.write(now);
            running.tell();
        }
        if self.uploading.may_begin(now.mono) {
            let synchronised = self.clock.state().synchronised;
            self.uploading.begin(&self.buffer, &self.poll, synchronised, now);
        }
    }

    /// Reads the settings again; what the old uplink knows is put on disk before, so that a new one goes on there.
    pub(super) fn reload_uplink(&mut self, now: Now) {
        if let Some(settlement) = self.uploading.poll_last_settlement() {
            self.commit_settlement(settlement, now);
        }
        self.uploading.load();
    }

    /// Says goodbye to the hub, and puts on disk what became of readings.
    pub(super) fn stop_uplink(&mut self, now: Now) {
        self.uploading.waiting = None;
        if let Some(running) = &mut self.uploading.running {
            running.uplink.handle_stop(now);
            running.write(now);
        }
        if let Some(settlement) = self.uploading.poll_last_settlement() {
            self.commit_settlement(settlement, now);
        }
    }

    pub(super) fn on_uplink_file_event(&mut self, now: Now) {
        if self.uploading.watch.as_mut().is_some_and(FileWatch::take_changed) {
            self.reload_uplink(now);
        }
    }
}
