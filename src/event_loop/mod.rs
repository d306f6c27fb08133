//! The turn: the one place that joins the sockets, the core and the store.
//!
//! One thread. It sleeps until a socket, a signal or a deadline wants it, and then goes once through the chapters of
//! [`EventLoop::turn`], in an order that matters: bytes before deadlines, the commit before the answers it allows, and
//! slots freed last, when no event of this turn can mean them any more.

mod commit_times;
mod control;
mod house;
mod learning;
mod quarantine;
mod report;
mod sockets;
mod startup;
mod storage;
mod uplink;
mod uplink_devices;
mod uplink_exchange;
mod uplink_link;
mod uplink_running;

pub use startup::{CertificateFiles, Claim, Listen, RunError, Setup};
pub use uplink::{DeviceSettings, UplinkSetup, UplinkSource};
pub use uplink_link::HubPlace;

use std::{path::PathBuf, time::Duration};

use mio::{Events, Poll, Token};
use slab::Slab;

use crate::{
    broker::Broker,
    clock::{Mono, Now},
    ids::ConnId,
    net::{
        connection::Scratch,
        control::ControlSocket,
        listener::Listener,
        service_manager,
        signals::{Signal, Signals},
        system_clock::{ClockWatch, SystemClock},
        tls::TlsConfig,
        watch::FileWatch,
    },
    record::Record,
    store::{Buffer, DataDirLock, Registry},
};

use house::House;
use report::Observed;
use sockets::Socket;
use storage::{RegistryCheck, StoreRetry};
use uplink::Uploading;

const SIGNALS: Token = Token(0);
const CLOCK: Token = Token(1);
const REGISTRY: Token = Token(2);
/// Answers of the resolver.
const RESOLVER: Token = Token(3);
/// The connection to the hub.
const UPLINK: Token = Token(4);
/// The file with the uplink's settings.
const UPLINK_FILE: Token = Token(5);
/// The control socket and those who ask on it.
const CONTROL: Token = Token(6);
const FIRST_LISTENER: usize = 7;
/// Tokens from here on are the slots of connections.
const FIRST_CONNECTION: usize = 64;
/// Tokens from here on are trials of tokens at the hub.
const FIRST_TRIAL: usize = 1 << 29;
/// Tokens from here on are the connections to the hub of devices that are forwarded as themselves.
const FIRST_DEVICE_UPLINK: usize = 1 << 30;
/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// How often an unsynchronised clock is asked again; a slew makes no event.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// How often it is noted how long the machine has run, while anything on disk has a life that runs out.
const RUNNING_NOTE: Duration = Duration::from_secs(600);

/// Runs forebay until it is told to stop.
///
/// # Errors
/// What kept it from starting, or the failure of the poll itself.
pub fn run(setup: Setup) -> Result<(), RunError> {
    let claim = Claim::take(&setup.data_dir, &setup.listen)?;
    run_with(setup, claim)
}

/// The same with what was claimed before for this `setup`.
///
/// # Errors
/// As [`run`].
pub fn run_with(setup: Setup, claim: Claim) -> Result<(), RunError> {
    let mut event_loop = EventLoop::start(setup, claim)?;
    service_manager::ready();
    while !event_loop.stopping {
        event_loop.turn()?;
    }
    event_loop.drain();
    Ok(())
}

/// What is told of the readings of each commit, once they are on disk.
pub type OnStored = Box<dyn FnMut(&[Record])>;

struct EventLoop {
    poll: Poll,
    events: Events,
    signals: Signals,
    clock: SystemClock,
    clock_watch: Option<ClockWatch>,
    clock_check: Option<Mono>,
    running_note: Mono,
    registry_watch: Option<FileWatch>,
    registry_check: RegistryCheck,
    listeners: Vec<Listener>,
    certificate: Option<CertificateFiles>,
    tls: Option<TlsConfig>,
    sockets: Slab<Socket>,
    epoch: u32,
    /// Connections that may have bytes to read, in the order of their turns.
    readable: Vec<ConnId>,
    /// Connections whose socket takes bytes again.
    writable: Vec<ConnId>,
    scratch: Scratch,
    accept_retry: Option<Mono>,
    broker: Broker,
    buffer: Buffer,
    registry: Registry,
    buffer_path: PathBuf,
    store_retry: StoreRetry,
    house: House,
    on_stored: Option<OnStored>,
    uploading: Uploading,
    /// None if it could not be made: everything else works without.
    control: Option<ControlSocket>,
    observed: Observed,
    watchdog: Option<Watchdog>,
    stopping: bool,
    /// Keeps a second forebay out of the data directory.
    _lock: DataDirLock,
}

struct Watchdog {
    interval: Duration,
    next: Mono,
}

impl EventLoop {
    fn turn(&mut self) -> Result<(), RunError> {
        self.wait()?;
        let now = self.clock.now();
        self.note_events(now);
        self.accept(now);
        if self.broker.expects_connect(&self.readable, now) {
            // Whoever was let in or shut out before this CONNECT was sent is so by now.
            self.reload_registry(now);
        }
        self.check_learning(now);
        self.read(now);
        self.read_uplink(now);
        self.hand_on_downlinks(now);
        self.broker.handle_timeout(now);
        self.try_tokens(now);
        self.commit(now);
        self.tell_sys_topics(now);
        self.write(now);
        self.tell_uplink(now);
        self.drive_uplink(now);
        self.close(now);
        self.keep_house(now);
        self.serve_control(now);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), RunError> {
        let is_busy = self.has_bytes_to_read() || self.uploading.is_busy(self.buffer.is_open());
        let timeout = if is_busy { Some(Duration::ZERO) } else { self.until_next_deadline() };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(RunError::Poll(error)),
            _ => Ok(()),
        }
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let own = [
            self.accept_retry,
            self.clock_check,
            Some(self.running_note),
            self.registry_check.at(),
            self.store_retry.at(),
            self.uploading.deadline(),
            self.house.at(),
            self.control.as_ref().and_then(ControlSocket::poll_timeout),
            self.watchdog.as_ref().map(|w| w.next),
        ];
        let next = own.into_iter().flatten().chain(self.broker.poll_timeout()).min()?;
        // A millisecond more: the kernel counts in milliseconds, and waking up just before the time is no use.
        let wait = next.since(self.clock.now().mono);
        Some(if wait.is_zero() { wait } else { wait + Duration::from_millis(1) })
    }

    fn note_events(&mut self, now: Now) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                SIGNALS => self.on_signals(now),
                CLOCK => self.on_clock_event(now),
                REGISTRY => self.on_registry_event(now),
                RESOLVER => self.uploading.on_answers(&self.poll, now),
                UPLINK => self.uploading.on_event(event),
                UPLINK_FILE => self.on_uplink_file_event(now),
                CONTROL => self.on_control_event(now),
                Token(token) if token < FIRST_CONNECTION => {
                    self.listeners[token - FIRST_LISTENER].note_ready()
                }
                Token(token) if token >= FIRST_DEVICE_UPLINK => {
                    self.uploading.devices.on_event(token - FIRST_DEVICE_UPLINK, event);
                }
                Token(token) if token >= FIRST_TRIAL => {
                    self.uploading.learning.on_event(token - FIRST_TRIAL, event);
                }
                Token(token) => self.on_socket_event(token - FIRST_CONNECTION, event),
            }
        }
        self.events = events;
    }

    fn on_signals(&mut self, now: Now) {
        for signal in self.signals.take() {
            match signal {
                Signal::Terminate | Signal::Interrupt => {
                    log::info!("stopping");
                    service_manager::stopping();
                    self.stopping = true;
                }
                Signal::HangUp => {
                    self.reload_certificate();
                    self.reload_uplink(now);
                }
            }
        }
    }

    fn on_clock_event(&mut self, now: Now) {
        match self.clock_watch.as_mut().map(ClockWatch::stepped) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => self.check_clock(now),
            Some(Err(error)) => {
                log::warn!("cannot watch the clock any longer: {error}; steps are noticed late");
                self.clock_watch = None;
                self.check_clock(now);
            }
        }
    }

    /// The event comes when the log is written, before its commit shows: it is looked for a little longer.
    fn on_registry_event(&mut self, now: Now) {
        if self.registry_watch.as_mut().is_some_and(FileWatch::take_changed) {
            self.registry_check.begin(now.mono);
        }
    }

    fn on_control_event(&mut self, now: Now) {
        if let Some(control) = &mut self.control {
            control.handle_ready(self.poll.registry(), now.mono);
        }
    }

    /// What is due now and then, and is no client's business.
    fn keep_house(&mut self, now: Now) {
        if self.clock_check.is_some_and(|at| at <= now.mono) {
            self.check_clock(now);
        }
        if self.running_note <= now.mono {
            self.note_running(now);
        }
        if self.registry_check.take_due(now.mono) {
            self.reload_registry(now);
        }
        if self.store_retry.is_due(now.mono) {
            self.reopen_store(now);
        }
        if self.house.is_due(now.mono) {
            self.keep_store(now);
        }
        if let Some(seen) = self.broker.poll_seen() {
            self.note_seen(&seen);
        }
        self.feed_watchdog(now);
    }

    /// The watchdog is fed from here only: a turn was completed, so sockets, core and store all work.
    fn feed_watchdog(&mut self, now: Now) {
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.next > now.mono {
            return;
        }
        watchdog.next = now.mono + watchdog.interval;
        service_manager::watchdog_ping();
        service_manager::status(&self.status(now));
    }

    fn status(&self, now: Now) -> String {
        let counters = self.broker.counters();
        let uplink = self.uploading.status(now).map_or_else(String::new, |words| format!("; {words}"));
        let storing = match (self.broker.is_storing(), self.broker.is_storage_full()) {
            (false, _) => "NOT STORING; ",
            (true, true) => "FULL, REFUSING READINGS; ",
            (true, false) => "",
        };
        let lost = self.buffer.lost();
        format!(
            "{storing}{} connections, {} devices and clients, {} readings stored, {} payloads quarantined, {} readings \
             dropped{uplink}",
            self.broker.connection_count(),
            self.broker.identity_count(),
            counters.readings_stored,
            counters.payloads_quarantined,
            lost.total()
        )
    }

    /// The last turns: what was accepted is made durable and answered, everybody is told, the files are left tidy.
    fn drain(&mut self) {
        let now = self.clock.now();
        self.listeners.clear();
        self.broker.handle_drain();
        self.commit(now);
        self.broker.handle_shutdown(now);
        self.commit(now);
        self.stop_uplink(now);
        self.write(now);
        self.close(now);
        if let Some(seen) = self.broker.poll_seen() {
            self.note_seen(&seen);
        }
        if let Err(error) = self.buffer.checkpoint() {
            log::warn!("{error}; the next start does it");
        }
        let counters = self.broker.counters();
        log::info!("stopped; {} readings stored in {} commits", counters.readings_stored, counters.commits);
    }
}
