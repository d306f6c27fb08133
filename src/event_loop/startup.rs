//! From a [`Setup`] to a loop that listens: everything that can fail before the first connection.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mio::{Events, Poll, Token};
use slab::Slab;

use crate::{
    broker::{Broker, Start},
    clock::Now,
    identity::DeviceGrants,
    limits::Limits,
    net::{
        chance,
        connection::Scratch,
        control::ControlSocket,
        listener::{Listener, ListenerKind, bind_error_words},
        service_manager,
        signals::Signals,
        system_clock::{self, ClockWatch, SystemClock},
        tls::{self, TlsSetupError},
        watch::FileWatch,
    },
    store::{BootId, Buffer, DataDir, DataDirLock, Registry, StorageWishes, StoreError, StoreOptions},
};

use super::{
    CLOCK, CLOCK_CHECK, CONTROL, EVENTS_PER_TURN, EventLoop, FIRST_CONNECTION, FIRST_LISTENER, Observed,
    OnStored, REGISTRY, RUNNING_NOTE, RegistryCheck, SIGNALS, UplinkSource, Uploading, Watchdog,
    house::House,
};

/// Where forebay keeps its files, where it listens, and within which bounds.
pub struct Setup {
    /// Holds the databases; made if missing.
    pub data_dir: PathBuf,
    /// The bounds of everything.
    pub limits: Limits,
    /// What every device may reach beyond its own topics.
    pub device_grants: DeviceGrants,
    /// How much the data directory may take.
    pub storage: StorageWishes,
    /// Where to listen; at least one.
    pub listen: Vec<Listen>,
    /// Needed if anything listens with TLS.
    pub certificate: Option<CertificateFiles>,
    /// Told of the readings of each commit, once they are on disk.
    pub on_stored: Option<OnStored>,
    /// Where readings go, if anywhere.
    pub uplink: UplinkSource,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Port 0 takes a free port.
    pub address: SocketAddr,
    /// With TLS or without.
    pub kind: ListenerKind,
    /// Not an error if the host does not have the address family.
    pub optional: bool,
}

/// The certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key, readable by its owner only.
    pub key: PathBuf,
}

/// Why forebay could not start, or had to stop.
#[derive(Debug)]
pub enum RunError {
    /// The data directory or a database in it.
    Store(StoreError),
    /// The certificate or its key.
    Certificate(TlsSetupError),
    /// An address could not be listened on.
    Listen(String),
    /// Something of the operating system that always works did not.
    System(&'static str, io::Error),
    /// The poll failed.
    Poll(io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Certificate(error) => error.fmt(f),
            Self::Listen(words) => f.write_str(words),
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
            Self::Poll(error) => write!(f, "cannot wait for events: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TlsSetupError> for RunError {
    fn from(error: TlsSetupError) -> Self {
        Self::Certificate(error)
    }
}

/// The addresses and the data directory, taken: nobody else has them until it is dropped.
pub struct Claim {
    listeners: Vec<Listener>,
    dir: DataDir,
    lock: DataDirLock,
}

impl Claim {
    /// Takes them; nothing is announced, and a directory that is missing is made only once the addresses are ours.
    ///
    /// # Errors
    /// If somebody has one of them, or the directory cannot be used.
    pub fn take(data_dir: &Path, listen: &[Listen]) -> Result<Self, RunError> {
        let claimed = match DataDir::open_existing(data_dir) {
            Err(StoreError::NotReady { .. }) => None,
            opened => Some(locked(opened?)?),
        };
        let listeners = bind_all(listen)?;
        let (dir, lock) = match claimed {
            Some(claimed) => claimed,
            None => locked(DataDir::open(data_dir)?)?,
        };
        Ok(Self { listeners, dir, lock })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &DataDir {
        &self.dir
    }
}

fn locked(dir: DataDir) -> Result<(DataDir, DataDirLock), RunError> {
    let lock = dir.lock()?;
    Ok((dir, lock))
}

impl EventLoop {
    /// Opens everything and listens; each bound address is announced on standard error.
    pub(super) fn start(setup: Setup, claim: Claim) -> Result<Self, RunError> {
        let Claim { listeners, dir: data_dir, lock } = claim;
        let clock = SystemClock::new();
        let now = clock.now();
        let house = House::new(&data_dir, &setup.storage, now.mono)?;
        let options = StoreOptions {
            quarantine_rows: setup.limits.quarantine_rows,
            quarantine_bytes: house.budget().for_set_aside(setup.limits.quarantine_bytes.into()),
            ..StoreOptions::default()
        };
        let registry = Registry::open(&data_dir, &options)?;
        let mut buffer =
            Buffer::open(&data_dir, &options, &BootId::new(&system_clock::boot_id()), now, clock.state())?;
        let start = Start {
            identities: registry.identities()?,
            grants: setup.device_grants,
            recovered: buffer.recover()?,
            seed: seed()?,
        };
        let uplink_connections = setup.limits.uplink_connections as usize;
        let mut broker = Broker::new(setup.limits, start, now);
        broker.handle_journal_devices(buffer.device_names()?);
        let tls = match &setup.certificate {
            Some(files) => Some(tls::load_server_config(&files.certificate, &files.key)?),
            None => None,
        };
        let poll = Poll::new().map_err(|error| RunError::System("make a poll", error))?;
        let signals =
            Signals::install(poll.registry(), SIGNALS).map_err(|e| RunError::System("catch signals", e))?;
        // Before the listeners: who sees them announced may ask.
        let control = listen_for_control(&poll, &data_dir);
        let listeners = register_all(listeners, &poll)?;
        let uploading = Uploading::new(setup.uplink, data_dir.clone(), uplink_connections, &poll, now.mono)
            .map_err(|error| RunError::System("make a waker", error))?;
        Ok(Self {
            events: Events::with_capacity(EVENTS_PER_TURN),
            clock_watch: watch_clock(&poll),
            clock_check: Some(now.mono + CLOCK_CHECK),
            running_note: now.mono + RUNNING_NOTE,
            registry_watch: watch_registry(&poll, &data_dir),
            registry_check: RegistryCheck::default(),
            signals,
            clock,
            listeners,
            certificate: setup.certificate,
            tls,
            sockets: Slab::new(),
            epoch: 0,
            readable: Vec::new(),
            writable: Vec::new(),
            scratch: Scratch::new(),
            accept_retry: None,
            broker,
            buffer,
            registry,
            buffer_path: data_dir.buffer_path(),
            store_retry: Default::default(),
            house,
            on_stored: setup.on_stored,
            uploading,
            control,
            observed: Observed::new(now.mono),
            watchdog: watchdog(now),
            stopping: false,
            poll,
            _lock: lock,
        })
    }
}

fn bind_all(listen: &[Listen]) -> Result<Vec<Listener>, RunError> {
    let mut listeners = Vec::new();
    for wish in listen {
        let listener = match Listener::bind(wish.address, wish.kind) {
            Ok(listener) => listener,
            Err(error) if wish.optional && lacks_family(&error) => {
                log::debug!("not listening on {}: {error}", wish.address);
                continue;
            }
            Err(error) => return Err(RunError::Listen(bind_error_words(wish.address, &error))),
        };
        listeners.push(listener);
    }
    Ok(listeners)
}

fn register_all(mut listeners: Vec<Listener>, poll: &Poll) -> Result<Vec<Listener>, RunError> {
    for (at, listener) in listeners.iter_mut().enumerate() {
        let token = Token(FIRST_LISTENER + at);
        assert!(token.0 < FIRST_CONNECTION, "more listeners than tokens");
        listener.register(poll.registry(), token).map_err(|e| RunError::System("register a listener", e))?;
        announce(listener);
    }
    Ok(listeners)
}

/// Whether the host does not speak the address's family, IPv6 for one.
fn lacks_family(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Says where it listens, on a line of its own that scripts may wait for.
fn announce(listener: &Listener) {
    let kind = match listener.kind() {
        ListenerKind::Mqtt => "mqtt",
        ListenerKind::Mqtts => "mqtts",
    };
    let priority = if service_manager::under_journal() { "<6>" } else { "" };
    eprintln!("{priority}listening on {} ({kind})", listener.local_addr());
}

fn watch_clock(poll: &Poll) -> Option<ClockWatch> {
    match ClockWatch::new(poll.registry(), CLOCK) {
        Ok(watch) => Some(watch),
        Err(error) => {
            log::warn!("cannot watch the clock: {error}; steps are noticed late");
            None
        }
    }
}

fn watch_registry(poll: &Poll, data_dir: &DataDir) -> Option<FileWatch> {
    let database = data_dir.registry_path();
    // The kept tokens are the other half of who is forwarded as itself.
    let files = [database.clone(), database.with_extension("db-wal"), data_dir.kept_tokens_path()];
    match FileWatch::new(poll.registry(), REGISTRY, &files) {
        Ok(watch) => Some(watch),
        Err(error) => {
            log::warn!(
                "cannot watch the registry: {error}; changes to devices take effect at the next start"
            );
            None
        }
    }
}

fn listen_for_control(poll: &Poll, data_dir: &DataDir) -> Option<ControlSocket> {
    match ControlSocket::bind(data_dir.path(), poll.registry(), CONTROL) {
        Ok(control) => Some(control),
        Err(words) => {
            log::warn!("{words}; `forebay status` cannot ask this broker");
            None
        }
    }
}

fn watchdog(now: Now) -> Option<Watchdog> {
    service_manager::watchdog_interval().map(|interval| Watchdog { interval, next: now.mono })
}

fn seed() -> Result<u64, RunError> {
    chance::seed().map_err(|error| RunError::System("get random bytes", error))
}
