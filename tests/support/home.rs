//! A directory for one broker: its data, its certificates, its configuration, and the commands that work on it.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::value::RawValue;
use tempfile::TempDir;

/// A directory that goes away with the test.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
}

/// A device and its token.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name in the registry.
    pub name: String,
    /// Its token in the clear.
    pub token: String,
}

/// One line of `forebay telemetry --format ndjson`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Row {
    /// Its place in the journal.
    pub seq: u64,
    /// Who sent it.
    pub device: String,
    /// Its time, in milliseconds since 1970.
    pub ts: i64,
    values: Box<RawValue>,
}

impl Row {
    /// The values, exactly as they are stored.
    pub fn values(&self) -> &str {
        self.values.get()
    }
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("FOREBAY_BIN").map_or_else(|| env!("CARGO_BIN_EXE_forebay").into(), PathBuf::from)
}

/// What a command printed on standard output, as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

/// What a command printed on standard error, as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are UTF-8")
}

/// A command without what a service manager or a terminal may have left in the environment.
pub fn clean_command(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    for name in
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "STATE_DIRECTORY", "JOURNAL_STREAM", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

impl Home {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("forebay-").tempdir().expect("a temporary directory") }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory, which need not exist yet.
    pub fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    /// `forebay SUBCOMMAND .. --data-dir ..`, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = clean_command(program());
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).current_dir(self.path());
        command
    }

    /// Runs a subcommand to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("forebay starts")
    }

    /// Runs a subcommand that must succeed, and gives back its standard output.
    ///
    /// # Panics
    /// If it fails.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "forebay {arguments:?} failed: {}", stderr(&output));
        stdout(&output)
    }

    /// Runs a subcommand that reads a secret from standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("forebay starts");
        writeln!(child.stdin.take().expect("it is piped"), "{input}").expect("it listens");
        child.wait_with_output().expect("our child")
    }

    /// The same, which must succeed; gives back what it says on either.
    ///
    /// # Panics
    /// If it fails.
    pub fn must_with_input(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_with_input(arguments, input);
        assert!(output.status.success(), "forebay {arguments:?} failed: {}", stderr(&output));
        stdout(&output) + &stderr(&output)
    }

    /// Adds a device with a fresh token.
    pub fn add_device(&self, name: &str) -> Device {
        let printed = self.must(&["device", "add", name]);
        let token = printed.trim_end().to_owned();
        assert_eq!(printed, format!("{token}\n"), "the token stands alone on standard output");
        assert!(
            token.len() == 20 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "a token has 20 characters of [A-Za-z0-9]"
        );
        Device { name: name.to_owned(), token }
    }

    /// Adds a local client with the ordinary rights, and gives back its token.
    pub fn add_client(&self, name: &str) -> String {
        self.must(&["client", "add", name]).trim_end().to_owned()
    }

    /// Makes `ca-root.pem`, `server.pem` and `server.key` in `certs`, unless they are there.
    pub fn certificates(&self) -> PathBuf {
        let dir = self.path().join("certs");
        if !dir.join("server.pem").exists() {
            let mut command = clean_command(program());
            let output = command.args(["certs", "init", "--dir"]).arg(&dir).output().expect("forebay starts");
            assert!(output.status.success(), "certs init failed: {}", stderr(&output));
        }
        dir
    }

    /// Everything stored, as `forebay telemetry` tells it, oldest first.
    ///
    /// # Panics
    /// If a line is not what the README promises, or the order is not that of `seq`.
    pub fn telemetry(&self) -> Vec<Row> {
        let rows: Vec<Row> = self
            .must(&["telemetry", "--format", "ndjson"])
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in line {line}")))
            .collect();
        assert!(rows.is_sorted_by(|a, b| a.seq < b.seq), "rows come in the order of seq, each once");
        rows
    }

    /// The stored values of `device`, oldest first.
    pub fn stored_values(&self, device: &str) -> Vec<String> {
        self.telemetry()
            .iter()
            .filter(|row| row.device == device)
            .map(|row| row.values().to_owned())
            .collect()
    }

    /// Opens a database of the data directory for reading.
    pub fn database(&self, file: &str) -> rusqlite::Connection {
        let path = self.data_dir().join(file);
        rusqlite::Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
    }

    /// The one number a query on `buffer.db` gives.
    pub fn count(&self, query: &str) -> i64 {
        self.database("buffer.db").query_row(query, [], |row| row.get(0)).expect(query)
    }

    /// Every file below the home with its bytes.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("the home can be listed") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.is_file() {
                    let bytes = fs::read(&path).expect("the home can be read");
                    found.push((path, bytes));
                }
            }
        }
        found.sort();
        found
    }
}
