//! Talks to the service manager (systemd) and reads what it says in the environment.
//!
//! Everything is a no-op when nobody listens: in a terminal, in a container, in a test.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::Duration,
};

use sd_notify::NotifyState;

/// Says that clients can connect: units that wait for us may start.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Shows `text` in `systemctl status`; one line.
pub fn status(text: &str) {
    tell(NotifyState::Status(&one_line(text)));
}

/// Says that we are on our way out, so that nobody takes the silence for a crash.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// How often [`watchdog_ping`] must be called: half of what the service manager allows; `None` if it does not watch.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2).filter(|interval| !interval.is_zero())
}

/// Says that the loop still turns.
pub fn watchdog_ping() {
    tell(NotifyState::Watchdog);
}

/// The directory `StateDirectory=` made for us, the first if there are several.
pub fn state_directory() -> Option<PathBuf> {
    first_of(env::var_os("STATE_DIRECTORY")?)
}

/// Whether standard error goes to the journal, which adds time and priority itself.
pub fn under_journal() -> bool {
    let Some(stream) = env::var_os("JOURNAL_STREAM") else { return false };
    // The variable is inherited by children whose output was redirected; only the very same file counts.
    rustix::fs::fstat(io::stderr()).is_ok_and(|file| names_file(&stream, file.st_dev, file.st_ino))
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::debug!("cannot reach the service manager: {error}");
    }
}

/// A line break would end the status and begin another message.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn first_of(directories: OsString) -> Option<PathBuf> {
    let first = directories.as_bytes().split(|byte| *byte == b':').next()?;
    (!first.is_empty()).then(|| OsStr::from_bytes(first).into())
}

/// Whether `stream`, a text `device:inode`, names this file.
fn names_file(stream: &OsStr, device: u64, inode: u64) -> bool {
    stream == OsStr::new(&format!("{device}:{inode}"))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixDatagram,
        process::{Command, Stdio},
    };

    use super::*;

    /// The environment of this process cannot be changed safely, so a second one runs `tells_its_life_story`.
    #[test]
    fn the_service_manager_hears_ready_status_watchdog_and_stopping() {
        let dir = tempfile::tempdir().expect("a directory");
        let address = dir.path().join("notify");
        let socket = UnixDatagram::bind(&address).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "--ignored", &story_name()])
            .env("NOTIFY_SOCKET", &address)
            .env("WATCHDOG_USEC", "3000000")
            .env_remove("WATCHDOG_PID")
            .env("STATE_DIRECTORY", "/var/lib/forebay:/var/lib/other")
            .env("JOURNAL_STREAM", "1:1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("run");
        assert!(child.success());
        for expected in ["READY=1", "STATUS=serving 0 clients", "WATCHDOG=1", "STOPPING=1"] {
            let mut message = [0; 256];
            let n = socket.recv(&mut message).expect("a message");
            assert_eq!(str::from_utf8(&message[..n]).expect("text").trim_end(), expected);
        }
    }

    #[test]
    #[ignore = "run by the test above, in an environment of its own"]
    fn tells_its_life_story() {
        assert_eq!(watchdog_interval(), Some(Duration::from_millis(1500)));
        assert_eq!(state_directory(), Some("/var/lib/forebay".into()));
        assert!(!under_journal());
        ready();
        status("serving 0\nclients");
        watchdog_ping();
        stopping();
    }

    #[test]
    fn the_first_state_directory_counts() {
        assert_eq!(first_of("/var/lib/a:/var/lib/b".into()), Some("/var/lib/a".into()));
        assert_eq!(first_of("/var/lib/a".into()), Some("/var/lib/a".into()));
        assert_eq!(first_of("".into()), None);
    }

    #[test]
    fn only_the_same_file_is_the_journal() {
        assert!(names_file(OsStr::new("9:42"), 9, 42));
        assert!(!names_file(OsStr::new("9:42"), 9, 4));
        assert!(!names_file(OsStr::new("garbage"), 9, 42));
    }

    fn story_name() -> String {
        let module = module_path!().split_once("::").expect("a path inside the crate").1;
        format!("{module}::tells_its_life_story")
    }
}
