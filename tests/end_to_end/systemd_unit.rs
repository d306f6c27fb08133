//! The service file: as narrow as it can be, and without a word from its checker.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::support::{
    home::{program, stderr, stdout},
    namespace::skip,
    process::installed,
};

/// The unit in a directory of its own, its program the one under test: the checker looks whether it exists.
fn unit() -> (TempDir, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/forebay.service");
    let text = fs::read_to_string(&path).expect("systemd/forebay.service");
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("ExecStart=") {
            Some(command) => {
                let arguments = command.split_once(' ').map_or("", |(_, arguments)| arguments);
                format!("ExecStart={} {arguments}", program().display())
            }
            None => line.to_owned(),
        })
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("forebay.service");
    fs::write(&copy, lines.join("\n") + "\n").expect("written");
    let name = copy.to_str().expect("UTF-8").to_owned();
    (dir, name)
}

fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    if !installed("systemd-analyze") {
        skip("systemd-analyze is not installed");
        return None;
    }
    let output = Command::new("systemd-analyze").args(arguments).output().expect("it is installed");
    Some((output.status.success(), stdout(&output) + &stderr(&output)))
}

#[test]
fn its_exposure_is_at_most_one_and_a_half() {
    let (_dir, unit) = unit();
    let Some((fine, said)) = analyze(&["security", "--offline=true", "--threshold=15", "--no-pager", &unit])
    else {
        return;
    };
    assert!(fine, "{said}");
    assert!(said.contains("Overall exposure level"), "{said}");
}

#[test]
fn its_checker_has_nothing_to_say() {
    let (_dir, unit) = unit();
    let Some((fine, said)) = analyze(&["verify", "--man=no", &unit]) else { return };
    assert!(fine && said.is_empty(), "{said}");
}

#[test]
fn it_says_what_the_program_relies_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/forebay.service");
    let text = fs::read_to_string(path).expect("systemd/forebay.service");
    for line in ["Type=notify", "StateDirectory=forebay", "WatchdogSec=", "Restart=always", "UMask=0077"] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing");
    }
}
