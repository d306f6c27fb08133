//! Where the cuts happen: mounts and processes of their own, which end with the test, however it ends.
//!
//! The test starts itself again in there. When that process dies, by a panic or by SIGKILL, the kernel ends everything it
//! has started, and with the last of them the mounts and their loop devices go. Only a bay that was frozen at that very
//! moment would hold them for ever: so somebody stands by, outside of what is ended, and thaws it.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
};

use crate::support::namespace::skip;

/// Set for the process inside.
const INSIDE: &str = "POWER_LOSS_INSIDE";
/// A file in the room, locked while the process inside lives.
const ALIVE: &str = "alive";
/// Run in mounts of its own with the room and the test's words: sets up the bystander, then the processes' corner.
const SCRIPT: &str = r#"
room=$1
shift
setsid sh -c '
    tries=100
    until [ -e "$0/alive" ] || [ $((tries -= 1)) = 0 ]; do sleep 0.1; done
    flock "$0/alive" true
    for bay in "$0"/forebay-card-*/bay; do fsfreeze --unfreeze "$bay"; done
' "$room" </dev/null >/dev/null 2>&1 &
exec unshare --pid --fork --kill-child sh -c 'mount -t proc proc /proc && exec "$@"' sh "$@"
"#;
const TOOLS: [&str; 9] =
    ["setpriv", "unshare", "setsid", "flock", "mount", "umount", "mkfs.ext4", "fsfreeze", "cp"];

/// Whether this process is inside; if not, runs the test called `name` there first and passes on how it went.
///
/// # Panics
/// If it failed there, or cannot be run here and nobody said `SKIP_POWER_LOSS=1`.
pub fn entered(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        show_that_we_live(&env::temp_dir());
        return true;
    }
    if env::var_os("SKIP_POWER_LOSS").is_some_and(|value| value == "1") {
        skip(&format!("SKIP_POWER_LOSS=1, so {name} shows nothing"));
        return false;
    }
    if let Some(missing) = missing() {
        panic!("power cuts need {missing}; run as root, or set SKIP_POWER_LOSS=1 to go without this proof");
    }
    // What is killed inside cleans nothing up, so its directories lie in one of ours.
    let room = tempfile::Builder::new().prefix("forebay-cuts-").tempdir().expect("a temporary directory");
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(room.path())
        .arg(env::current_exe().expect("a test binary knows itself"))
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .env("TMPDIR", room.path())
        .status()
        .expect("setpriv is there");
    drop(room);
    assert!(status.success(), "{name} failed in its corner, see above");
    false
}

/// Locks the file the bystander waits for, until this process ends, however it does.
fn show_that_we_live(room: &Path) {
    let unlocked = room.join("unlocked");
    let file = File::create(&unlocked).expect("a file in the room");
    file.lock().expect("nobody else knows it");
    fs::rename(unlocked, room.join(ALIVE)).expect("it is ours");
    // Closed by the kernel, before it waits for any process we have started.
    std::mem::forget(file);
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
