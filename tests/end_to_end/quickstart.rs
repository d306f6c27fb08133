//! `forebay quickstart` and the two commands it prints, pasted unchanged into the shells people use.
//!
//! The commands name the ports 1883 and 8883, so each quickstart runs in a network of its own.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::support::{
    broker::Broker,
    home::{Home, Row, clean_command, program, stderr, stdout},
    namespace::{self, Kind, enter, enter_new},
    process,
    wait::{SOON, until, until_true},
};

/// A quickstart in a network of its own, its working directory a fresh one.
struct Quickstart {
    home: Home,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Quickstart {
    fn start_in(home: Home) -> Option<Self> {
        let wrapper = enter_new(Kind::Network, "ip link set lo up")?;
        let mut child = clean_command(&wrapper[0])
            .args(&wrapper[1..])
            .arg(program())
            .arg("quickstart")
            .current_dir(home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("quickstart starts");
        let said = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), &said);
        collect(child.stderr.take().expect("piped"), &said);
        let quickstart = Self { home, child, said };
        until_true("quickstart listens with and without TLS", SOON, || {
            let said = quickstart.said();
            said.contains("(mqtt)") && said.contains("(mqtts)")
        });
        Some(quickstart)
    }

    fn said(&self) -> String {
        self.said.lock().expect("nobody panics here").clone()
    }

    /// The commands to paste: the lines that begin with the program they call.
    fn commands(&self) -> Vec<String> {
        self.said().lines().filter(|line| line.starts_with("mosquitto_pub ")).map(str::to_owned).collect()
    }

    /// Pastes a line into `shell`, in the directory quickstart was started in.
    fn paste(&self, shell: &str, line: &str) -> Output {
        let words = enter(Kind::Network, self.child.id());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .arg(shell)
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the shell starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("the shell reads");
        drop(stdin);
        child.wait_with_output().expect("the shell ends")
    }

    fn stored(&self) -> Vec<Row> {
        let mut command = clean_command(program());
        command.args(["telemetry", "--format", "ndjson"]).current_dir(self.home.path());
        let output = command.output().expect("forebay starts");
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("ndjson")).collect()
    }

    fn end(mut self) -> (Home, String) {
        process::signal(self.child.id(), rustix::process::Signal::TERM);
        let status = until("quickstart ends", SOON, || self.child.try_wait().expect("our child"));
        assert!(status.success(), "SIGTERM ends quickstart with exit 0: {}", self.said());
        let said = self.said();
        let home = std::mem::replace(&mut self.home, Home::new());
        (home, said)
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- quickstart said ---\n{}\n---", self.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl std::io::Read + Send + 'static, said: &Arc<Mutex<String>>) {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let line = line.expect("UTF-8");
            said.lock().expect("nobody panics here").push_str(&format!("{line}\n"));
        }
    });
}

#[test]
fn a_quickstart_in_the_way_of_a_broker_changes_nothing_and_prints_no_command() {
    let broker = Broker::start();
    let port = broker.plain().to_string();
    let its_directory = broker.run(&["quickstart", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"]);
    assert!(!its_directory.status.success());
    assert_eq!(stdout(&its_directory), "");
    assert!(stderr(&its_directory).contains("another forebay is running"), "{}", stderr(&its_directory));
    assert!(!broker.must(&["device", "list", "--json"]).contains("demo"));
    assert!(!broker.data_dir().join("server.pem").exists());

    let elsewhere = Home::new();
    let its_port = elsewhere.run(&["quickstart", "--listen", &port, "--listen-tls", "127.0.0.1:0"]);
    assert!(!its_port.status.success());
    assert_eq!(stdout(&its_port), "");
    assert!(!elsewhere.data_dir().exists(), "{}", stderr(&its_port));
}

/// Every shell of the three that is there; bash must be.
fn shells() -> Vec<&'static str> {
    let (there, missing): (Vec<&str>, Vec<&str>) =
        ["bash", "dash", "zsh"].into_iter().partition(|shell| process::installed(shell));
    for shell in missing {
        namespace::skip(&format!("the commands were not pasted into {shell}, which is not installed"));
    }
    assert!(there.contains(&"bash"), "bash must be installed");
    there
}

fn sqlite_shell(dir: &Path, query: &str) -> String {
    let mut command = Command::new("sqlite3");
    let output = command.arg("-readonly").arg(dir.join("forebay-data/buffer.db")).arg(query).output();
    let output = output.expect("sqlite3 is installed");
    assert!(output.status.success(), "sqlite3: {}", stderr(&output));
    stdout(&output)
}

#[test]
fn the_two_printed_commands_store_a_reading_from_every_shell_in_every_version() {
    let Some(quickstart) = Quickstart::start_in(Home::new()) else { return };
    let commands = quickstart.commands();
    let [plain, tls] = &commands[..] else { panic!("expected two commands, got {commands:?}") };
    let token = plain.split("-u \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    let rest = format!("-d -q 1 -h \"localhost\" -p \"PORT\" -t \"v1/devices/me/telemetry\" -u \"{token}\"");
    let message = "-m {\"temperature\":25}";
    assert_eq!(*plain, format!("mosquitto_pub {rest} {message}").replace("PORT", "1883"));
    assert_eq!(*tls, format!("mosquitto_pub --cafile ca-root.pem {rest} {message}").replace("PORT", "8883"));

    let mut pasted = 0;
    for shell in shells() {
        for command in &commands {
            for version in ["", " -V mqttv5", " -V mqttv311", " -V mqttv31"] {
                let line = command.replacen("mosquitto_pub", &format!("mosquitto_pub{version}"), 1);
                let output = quickstart.paste(shell, &line);
                assert!(output.status.success(), "{shell}: {line}: {}{}", stdout(&output), stderr(&output));
                pasted += 1;
                let stored = quickstart.stored();
                assert_eq!(stored.len(), pasted, "acknowledged means stored: {shell}: {line}");
            }
        }
    }
    let stored = quickstart.stored();
    assert!(
        stored.iter().all(|row| row.device == "demo" && row.values() == r#"{"temperature":25}"#),
        "{stored:?}"
    );
    let query = "SELECT device, key, value, count(*) FROM readings GROUP BY 1, 2, 3";
    assert_eq!(sqlite_shell(quickstart.home.path(), query), format!("demo|temperature|25|{pasted}\n"));
    let said = quickstart.said();
    let shown =
        said.lines().filter(|line| line.contains(r#"{"temperature":25}"#) && !line.contains("mosquitto_pub"));
    assert_eq!(shown.count(), pasted, "each reading is shown as it lands: {said}");
}

#[test]
fn a_reading_that_took_the_lenient_way_is_the_same_as_a_strict_one() {
    let Some(quickstart) = Quickstart::start_in(Home::new()) else { return };
    let lenient = quickstart.commands()[0].clone();
    let strict = lenient.replace("-m {\"temperature\":25}", "-m '{\"temperature\":25}'");
    for line in [lenient, strict] {
        assert!(quickstart.paste("bash", &line).status.success());
    }
    let values: Vec<String> = quickstart.stored().iter().map(|row| row.values().to_owned()).collect();
    assert_eq!(values, [r#"{"temperature":25}"#; 2]);
}

#[test]
fn a_second_quickstart_finds_everything_and_changes_nothing() {
    let Some(first) = Quickstart::start_in(Home::new()) else { return };
    let commands = first.commands();
    assert!(first.paste("bash", &commands[0]).status.success());
    let (home, _) = first.end();
    let kept = |home: &Home| {
        let mut files = home.files();
        // The databases may be opened and checkpointed, what is in them is compared below; the lock says who holds it.
        files.retain(|(path, _)| ![".db", ".lock"].iter().any(|kind| path.to_string_lossy().contains(kind)));
        files
    };
    let before = kept(&home);
    let second = Quickstart::start_in(home).expect("it went before");
    assert_eq!(second.commands(), commands, "the same token, the same commands");
    assert_eq!(second.stored().len(), 1);
    assert!(second.paste("bash", &commands[1]).status.success(), "the old certificate authority still fits");
    let (home, _) = second.end();
    let names = |files: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(path, _)| path.display().to_string()).collect()
    };
    let after = kept(&home);
    assert_eq!(names(&before), names(&after));
    for (old, new) in before.iter().zip(&after) {
        assert!(old == new, "{} has changed", old.0.display());
    }
    let devices =
        rusqlite::Connection::open(home.path().join("forebay-data/registry.db")).expect("it is there");
    let count: i64 =
        devices.query_row("SELECT count(*) FROM identities", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, 1);
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let home = Home::new();
    let output = home.run(&["quickstart", "--listen", &address, "--listen-tls", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains(&address), "the port is named: {said}");
    assert!(said.contains("--listen"), "what to do is said: {said}");
}
