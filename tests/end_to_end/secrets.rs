//! Tokens are shown once and then nowhere: not in the log at its most talkative, not in a file, not in the process table.

use std::fs;

use crate::support::{
    broker::Setup,
    client::Client,
    packets::Connect,
    wait::{SOON, until_true},
    wire::{TELEMETRY, VERSIONS, Version, packet},
};

use Version::V311;

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn no_token_password_or_payload_is_in_any_log_file_or_command_line() {
    // A-87.
    let mut broker = Setup::new().with_tls().setting("log.level = \"trace\"").start();
    let device = broker.add_device("pump");
    let guess = "AlmostTheTokenOfPump";
    let password = "PasswordNobodyReads";
    let payload = "PayloadOnlyForTheJournal";
    for version in VERSIONS {
        let mut client = broker.online(version, &device, "meter");
        client.telemetry(&format!(r#"{{"text":"{payload}"}}"#));
        client.publish(TELEMETRY, format!("{{{payload}"));
        client.publish("v1/nonsense", payload);
        client.send(&packet(0x30, payload.as_bytes()));
        client.until_closed(SOON);
        let mut client = Client::dial(broker.plain());
        client.ask_in(version, &Connect::new(version, "meter").user(guess).password(password));
        client.until_closed(SOON);
        // A token in a CONNECT that is malformed right behind it.
        let mut client = Client::dial(broker.plain());
        let mut connect = Connect::new(version, "meter").user(&device.token).password(password).bytes();
        let last = connect.len() - password.len() - 1;
        connect[last] = connect[last].wrapping_add(5);
        client.send(&connect);
        client.finish_sending();
        client.until_closed(SOON);
    }
    let mut live = broker.online(V311, &device, "meter");
    let rotated = broker.must(&["device", "rotate", "pump"]).trim_end().to_owned();
    live.until_closed(SOON);
    until_true("the refusal is told", SOON, || !broker.log().is_empty());

    let secrets = [device.token.as_str(), guess, password, rotated.as_str()];
    let pid = broker.pid();
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).expect("the process is alive");
        for secret in secrets {
            assert!(!contains(&bytes, secret), "/proc/PID/{file}");
        }
    }
    broker.stop();
    let log = broker.log();
    for secret in secrets.iter().chain([&payload]) {
        assert!(!log.contains(secret), "the log contains {secret}");
    }
    let files = broker.files();
    assert!(files.len() > 3);
    for (path, bytes) in files {
        for secret in secrets {
            assert!(!contains(&bytes, secret), "{} contains a secret", path.display());
        }
    }
}

#[test]
fn a_removed_token_is_not_left_behind_in_a_free_page() {
    let mut broker = Setup::new().start();
    let device = broker.add_device("pump");
    broker.must(&["device", "remove", "pump"]);
    broker.stop();
    assert!(broker.files().iter().all(|(_, bytes)| !contains(bytes, &device.token)));
}

#[test]
fn hostile_client_ids_stay_on_one_line_of_the_log_and_are_cut() {
    // A-39: no line of its own, no colours, no direction, no kilobytes.
    let broker = Setup::new().setting("log.level = \"trace\"").start();
    let device = broker.add_device("pump");
    let long = "L".repeat(3000);
    let ids =
        ["<script>alert(1)</script>", "evil\u{202E}gnp.exe", "a\u{2028}FAKE LOG LINE", "%s%n%d{}", &long];
    for id in ids {
        for _ in 0..2 {
            let mut client = Client::dial(broker.plain());
            let connect = Connect::new(V311, id).user(&device.token);
            assert_eq!(client.ask_in(V311, &connect).connack(), Some(0), "{id:?}");
            let refused = Connect::new(V311, id).user("NoDeviceHasThisToken");
            let mut client = Client::dial(broker.plain());
            assert_eq!(client.ask_in(V311, &refused).connack(), Some(5));
            client.until_closed(SOON);
        }
    }
    // Control characters are refused outright, and must not reach the log either.
    for id in ["evil\r\nFAKE LOG LINE", "\u{1B}[31mred", "\u{9B}31m"] {
        let mut client = Client::dial(broker.plain());
        client.send(&Connect::new(V311, id).user(&device.token).bytes());
        client.until_closed(SOON);
    }
    let log = broker.log();
    assert!(!log.contains('\u{202E}') && !log.contains('\u{2028}') && !log.contains('\u{9B}'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("FAKE LOG LINE")), "{log}");
    assert!(!log.contains("\u{1B}[31mred"), "{log}");
    assert!(!log.contains(&"L".repeat(300)), "a client id is cut in the log");
}
