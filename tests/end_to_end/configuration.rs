//! The configuration file through the program: what is refused is named with file, line, key and what is allowed.

use std::fs;

use crate::support::{
    broker::Setup,
    home::{Home, clean_command, program, stderr},
    wait::SOON,
    wire::Version,
};

/// How `check-config` and `serve` end with this file, and what they say.
fn judged(text: &str) -> [(Option<i32>, String); 2] {
    let home = Home::new();
    let file = home.path().join("forebay.toml");
    fs::write(&file, text).expect("written");
    let check = clean_command(program()).arg("check-config").arg(&file).output().expect("forebay starts");
    let file = file.to_str().expect("UTF-8");
    let serve = home.run(&["serve", "--listen", "127.0.0.1:0", "--config", file]);
    assert!(!home.data_dir().exists(), "a wrong configuration makes nothing");
    [(check.status.code(), stderr(&check)), (serve.status.code(), stderr(&serve))]
}

#[test]
fn what_is_wrong_is_named_with_file_line_key_and_what_is_allowed() {
    let table = [
        ("\nlissten = []\n", "forebay.toml:2", "lissten", "listen"),
        ("[limits]\nconnexions = 5\n", "forebay.toml:2", "connexions", "connections"),
        ("[limits]\n\nconnections = 0\n", "forebay.toml:3", "connections", "from 1 to 1000000"),
        ("[limits]\nconnections = \"many\"\n", "forebay.toml:2", "connections", "whole number"),
        ("listen = 1883\n", "forebay.toml:1", "listen", "list"),
        ("[log]\nlevel = \"loud\"\n", "forebay.toml:2", "level", "info"),
        ("listen = [\n", "forebay.toml:", "TOML", ""),
        ("[access]\ndevice_publish = [\"v1/{device}\"]\n", "forebay.toml:2", "device_publish", "hub"),
        ("[access]\ndevice_subscribe = [\"a#\"]\n", "forebay.toml:2", "device_subscribe", "topic filter"),
    ];
    for (text, place, key, allowed) in table {
        for (code, said) in judged(text) {
            assert_eq!(code, Some(2), "{text:?}: {said}");
            for part in [place, key, allowed] {
                assert!(said.contains(part), "{text:?}: {part:?} is not in: {said}");
            }
        }
    }
}

#[test]
fn a_good_file_passes_the_check_and_is_used() {
    let setup = Setup::new().limit("connections_per_device", 1);
    let broker = setup.start();
    let file = broker.path().join("forebay.toml");
    let check = clean_command(program()).arg("check-config").arg(&file).output().expect("forebay starts");
    assert_eq!(check.status.code(), Some(0), "{}", stderr(&check));
    let device = broker.add_device("pump");
    let mut first = broker.online(Version::V311, &device, "one");
    let mut second = broker.online(Version::V311, &device, "two");
    assert_eq!(first.until_closed(SOON), [], "one connection per device is one");
    second.telemetry("{a:1}");
}

#[test]
fn a_device_publishes_where_the_configuration_grants_it_to_its_name_and_nowhere_else() {
    let setting = "[access]\ndevice_publish = [\"state/{device}/#\"]";
    let broker = Setup::new().setting(setting).start();
    let device = broker.add_device("pump");
    let mut pump = broker.online(Version::V5, &device, "one");
    // 0x10: accepted, and nobody subscribes.
    assert!(matches!(pump.publish("state/pump/valve", "open"), 0 | 0x10));
    assert_eq!(pump.publish("state/fan/valve", "open"), 0x87);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let check =
        clean_command(program()).args(["check-config", "no-such-file.toml"]).output().expect("it starts");
    assert_ne!(check.status.code(), Some(0));
    assert!(stderr(&check).contains("no-such-file.toml"), "{}", stderr(&check));
}

#[test]
fn a_word_nobody_knows_ends_with_exit_code_2() {
    let output = clean_command(program()).arg("swerve").output().expect("forebay starts");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn flags_win_over_the_file() {
    // An address nobody here has, and a place nobody has: were the file to win, the start would fail.
    let broker =
        Setup::new().setting("listen = [\"192.0.2.1:1883\"]").setting("data_dir = \"/proc/nowhere\"").start();
    assert!(broker.plain().ip().is_loopback());
    assert!(broker.data_dir().join("buffer.db").exists());
}
