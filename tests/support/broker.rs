//! A running broker: started on free ports, watched through its standard error, ended with the test.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    ops::Deref,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    client::Client,
    home::{Device, Home, clean_command, program},
    process,
    wait::{SOON, until},
    wire::Version,
};

/// A broker that is not started yet.
#[derive(Debug)]
pub struct Setup {
    home: Home,
    settings: String,
    limits: BTreeMap<String, u32>,
    tls: bool,
    environment: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
}

/// A broker that listens.
#[derive(Debug)]
pub struct Broker {
    setup: Setup,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    /// From the start of the program to its last `listening on` line.
    pub start_took: Duration,
}

impl Setup {
    /// Plain MQTT on a free port, default limits, an empty home.
    pub fn new() -> Self {
        Self {
            home: Home::new(),
            settings: String::new(),
            limits: BTreeMap::new(),
            tls: false,
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    /// Moves a knob of `[limits]`.
    pub fn limit(mut self, name: &str, value: u32) -> Self {
        self.limits.insert(name.to_owned(), value);
        self
    }

    /// Adds a line to the top of its configuration.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push_str(&format!("{line}\n"));
        self
    }

    /// Room for a load test: `connections` at once, all from one address, any number still unauthenticated, as fast as
    /// they like.
    pub fn roomy(self, connections: u32) -> Self {
        self.limit("connections", connections)
            .limit("connections_per_address", connections)
            .limit("connections_per_client", connections)
            .limit("connections_unauthenticated", connections)
            .hurried()
    }

    /// Connections as fast as they come, for tests of something else.
    pub fn hurried(self) -> Self {
        self.limit("connects_per_address_per_min", 0).limit("connects_per_identity_per_min", 0)
    }

    /// Listens with TLS as well.
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it through another program, which must end in `exec "$@"` or the like: the process id stays ours.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// Its home, for commands to be run before it starts.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it does not, with what it said instead.
    pub fn start(self) -> Broker {
        let (child, lines) = self.spawn();
        let mut broker = Broker {
            setup: self,
            child,
            lines,
            plain: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            start_took: Duration::ZERO,
        };
        broker.wait_until_listening(Instant::now());
        broker
    }

    /// Starts it where it is expected to give up, and returns how it ended and what it said.
    pub fn start_and_fail(self) -> (ExitStatus, String, Home) {
        let (mut child, lines) = self.spawn();
        let status = until("the broker gives up", SOON, || child.try_wait().expect("our child"));
        let said = until("its last words", SOON, || (Arc::strong_count(&lines) == 1).then(|| joined(&lines)));
        (status, said, self.home)
    }

    fn spawn(&self) -> (Child, Arc<Mutex<Vec<String>>>) {
        let config = self.home.path().join("forebay.toml");
        let limits: String = self.limits.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        fs::write(&config, format!("{}[limits]\n{limits}", self.settings))
            .expect("the configuration is written");
        let mut words = self.wrapper.clone();
        words.push(program().into());
        let mut command = clean_command(&words[0]);
        command.args(&words[1..]).args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        command.arg("--data-dir").arg(self.home.data_dir()).current_dir(self.home.path());
        if self.tls {
            let certificates = self.home.certificates();
            command
                .args(["--listen-tls", "127.0.0.1:0", "--certificate"])
                .arg(certificates.join("server.pem"));
            command.arg("--key").arg(certificates.join("server.key"));
        }
        command.envs(self.environment.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("forebay starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let sink = Arc::clone(&lines);
        thread::spawn(move || {
            for line in stderr.lines() {
                sink.lock().expect("nobody panics here").push(line.expect("the log is UTF-8"));
            }
        });
        (child, lines)
    }
}

impl Broker {
    /// A broker with default limits.
    pub fn start() -> Self {
        Setup::new().start()
    }

    /// Where it listens for plain MQTT.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// Where it listens for MQTT over TLS.
    pub fn tls(&self) -> SocketAddr {
        self.tls.expect("this broker was set up with_tls")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    pub fn log(&self) -> String {
        joined(&self.lines)
    }

    /// How many lines of its log contain `text`.
    pub fn log_lines_with(&self, text: &str) -> usize {
        self.lines.lock().expect("nobody panics here").iter().filter(|line| line.contains(text)).count()
    }

    /// A device, connected with its token.
    pub fn online(&self, version: Version, device: &Device, client_id: &str) -> Client {
        let mut client = Client::dial(self.plain);
        client.connect(version, client_id, &device.token);
        client
    }

    /// Whether the process has ended, and how.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our child")
    }

    /// Waits for the process to end by itself.
    pub fn wait_for_exit(&mut self, within: Duration) -> ExitStatus {
        until("the broker ends", within, || self.exit_status())
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// SIGTERM; see [`Broker::wait_for_exit`].
    pub fn sigterm(&self) {
        process::signal(self.pid(), Signal::TERM);
    }

    /// SIGTERM, and waits for the clean end that must follow.
    pub fn stop(&mut self) {
        self.sigterm();
        let status = self.wait_for_exit(SOON);
        assert!(status.success(), "SIGTERM must end in exit 0, not {status}: {}", self.log());
    }

    /// Starts it again after it has ended, in the same home, on other ports.
    pub fn restart(&mut self) {
        let started = Instant::now();
        (self.child, self.lines) = self.setup.spawn();
        self.wait_until_listening(started);
    }

    fn wait_until_listening(&mut self, started: Instant) {
        self.plain = self.wait_for_address("(mqtt)");
        self.tls = self.setup.tls.then(|| self.wait_for_address("(mqtts)"));
        self.start_took = started.elapsed();
    }

    fn wait_for_address(&mut self, kind: &str) -> SocketAddr {
        until("the broker says where it listens", SOON, || {
            let found =
                self.lines.lock().expect("nobody panics here").iter().find_map(|line| address(line, kind));
            if found.is_none()
                && let Some(status) = self.exit_status()
            {
                panic!("the broker gave up with {status}: {}", self.log());
            }
            found
        })
    }
}

/// The address in a line `listening on ADDRESS (KIND)`, whatever stands before it.
fn address(line: &str, kind: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    let (address, of_kind) = after.split_once(' ')?;
    of_kind.starts_with(kind).then(|| address.parse().expect("a socket address"))
}

fn joined(lines: &Mutex<Vec<String>>) -> String {
    lines.lock().expect("nobody panics here").join("\n")
}

impl Deref for Broker {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.setup.home
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the broker's log ---\n{}\n---", self.log());
        }
        // It may have ended already: then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
