//! Where the cuts happen: mounts and processes of their own, which end with the test, however it ends.
//!
//! The test starts itself again in there. When that process dies, by a panic or by SIGKILL, the kernel ends everything it
//! has started, and with the last of them the mounts and their loop devices go.

use std::{env, path::Path, process::Command};

use crate::support::namespace::skip;

/// Set for the process inside.
const INSIDE: &str = "POWER_LOSS_INSIDE";
const TOOLS: [&str; 7] = ["setpriv", "unshare", "mount", "umount", "mkfs.ext4", "fsfreeze", "cp"];

/// Whether this process is inside; if not, runs the test called `name` there first and passes on how it went.
///
/// # Panics
/// If it failed there, or cannot be run here and nobody said `SKIP_POWER_LOSS=1`.
pub fn entered(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    if env::var_os("SKIP_POWER_LOSS").is_some_and(|value| value == "1") {
        skip(&format!("SKIP_POWER_LOSS=1, so {name} shows nothing"));
        return false;
    }
    if let Some(missing) = missing() {
        panic!("power cuts need {missing}; run as root, or set SKIP_POWER_LOSS=1 to go without this proof");
    }
    let status = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(env::current_exe().expect("a test binary knows itself"))
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .expect("setpriv is there");
    assert!(status.success(), "{name} failed in its corner, see above");
    false
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("loop devices".to_owned());
    }
    TOOLS
        .iter()
        .find(|tool| !crate::support::process::installed(tool))
        .map(|tool| format!("the program {tool}"))
}
