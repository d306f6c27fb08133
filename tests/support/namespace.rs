//! Corners of the kernel for one test alone: a network in which 1883 is free, a mount nobody else sees.

use std::process::Command;

use super::tell;

/// Which corner.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A network of its own, with nothing but the loopback.
    Network,
    /// Mounts of its own.
    Mount,
}

/// The words that start a command in a new corner, its process id unchanged; `prepare` is run there first, in `sh`.
///
/// `None`, loudly, where the kernel or a container forbids it.
pub fn enter_new(kind: Kind, prepare: &str) -> Option<Vec<String>> {
    let flag = match kind {
        Kind::Network => "-n",
        Kind::Mount => "-m",
    };
    let unshare: Vec<&str> = if rustix::process::geteuid().is_root() {
        vec!["unshare", flag]
    } else {
        vec!["unshare", "-r", flag]
    };
    let works =
        Command::new(unshare[0]).args(&unshare[1..]).arg("true").output().is_ok_and(|o| o.status.success());
    if !works {
        skip(&format!("no {kind:?} namespace can be made here"));
        return None;
    }
    let script = format!("set -e\n{prepare}\nexec \"$@\"");
    Some(unshare.into_iter().chain(["sh", "-c", &script, "sh"]).map(str::to_owned).collect())
}

/// The words that start a command in the corner process `pid` lives in.
pub fn enter(kind: Kind, pid: u32) -> Vec<String> {
    let flag = match kind {
        Kind::Network => "-n",
        Kind::Mount => "-m",
    };
    let pid = pid.to_string();
    let mut words = vec!["nsenter", "-t", &pid, flag];
    if !rustix::process::geteuid().is_root() {
        words.extend(["-U", "--preserve-credentials"]);
    }
    words.into_iter().map(str::to_owned).collect()
}

/// Says that a test could not run here.
pub fn skip(why: &str) {
    tell(&format!("SKIPPED: {why}"));
}
