//! The libraries that need a script: one test for each scenario of each.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::support::{
    broker::{Broker, Setup},
    wait::until,
};

/// Each scenario gives up by itself before this.
const PATIENCE: Duration = Duration::from_secs(60);

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Where the libraries are; fetched the first time.
fn libraries() -> &'static Path {
    static LIBRARIES: OnceLock<PathBuf> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        let status = Command::new(format!("{SOURCES}/install")).arg(&dir).status().expect("sh is there");
        assert!(status.success(), "tests/clients/install could not fetch the libraries: {status}");
        dir
    })
}

fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", libraries().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(format!("{SOURCES}/paho_python.py"));
    command
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.env("MQTT_JS", libraries().join("node")).arg(format!("{SOURCES}/mqttjs.mjs"));
    command
}

/// The program made from `paho_c.c`.
fn c() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paho_c");
        let source = format!("{SOURCES}/paho_c.c");
        let status =
            Command::new("cc").args(["-Wall", "-o"]).arg(&program).args([&source, "-lpaho-mqtt3cs"]).status();
        assert!(status.expect("cc is installed").success(), "{source} does not compile");
        program
    });
    Command::new(program)
}

fn rumqttc() -> Command {
    Command::new(libraries().join("rumqttc/debug/rumqttc-scenarios"))
}

/// Runs one scenario against a broker of its own; of `session`, the second half after the broker's sudden death.
fn holds(script: fn() -> Command, scenario: &str) {
    let setup = Setup::new();
    let mut broker = if scenario == "tls" { setup.with_tls().start() } else { setup.start() };
    let token = broker.add_client("tester");
    if scenario == "session" {
        run(script(), "session_begins", &broker, &token);
        broker.kill9();
        broker.restart();
        run(script(), "session_goes_on", &broker, &token);
    } else {
        run(script(), scenario, &broker, &token);
    }
}

fn run(mut script: Command, scenario: &str, broker: &Broker, token: &str) {
    let over_tls = scenario == "tls";
    let port = if over_tls { broker.tls() } else { broker.plain() }.port();
    script.args([scenario, "localhost", &port.to_string(), token]);
    if over_tls {
        script.arg(broker.certificates().join("ca-root.pem"));
    }
    let mut child =
        script.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    let status = until(scenario, PATIENCE * 2, || {
        if Instant::now() > deadline {
            child.kill().expect("our child");
        }
        child.try_wait().expect("our child")
    });
    let output = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(status.success(), "{scenario}: {status}\n{said}");
    assert_eq!(broker.log_lines_with("panicked"), 0);
}

/// A test for each scenario of a script.
macro_rules! scenarios {
    ($library:ident, $script:ident: $($scenario:ident)*) => {
        mod $library {
            $(
                #[test]
                fn $scenario() {
                    super::holds(super::$script, stringify!($scenario));
                }
            )*
        }
    };
}

scenarios!(paho_python, python:
    qos_0 qos_1 qos_2 wildcards overlapping will user_properties request_response subscription_identifiers
    topic_alias no_local message_expiry shared retained session will_delay tls wrong_token);

scenarios!(mqttjs, node:
    qos_0 qos_1 qos_2 wildcards overlapping will user_properties request_response subscription_identifiers
    topic_alias no_local message_expiry shared retained session will_delay tls wrong_token);

scenarios!(paho_c, c: qos_0 qos_1 qos_2 user_properties will_3 will_5 retained session will_delay tls wrong_token);

scenarios!(rumqttc, rumqttc: qos_0 qos_1 qos_2 will retained session will_delay tls wrong_token);
