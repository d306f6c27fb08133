//! The control's program: appends to the journal through the library and tells after each append that it returned.
//!
//! The broker has no knob that weakens it, so this stands in for a broker that acknowledges what is not flushed.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    ids::DeviceName,
    record::Record,
    session::Batch,
    store::{BootId, Buffer, DataDir, StoreOptions},
};
use rustix::process::Signal;

use crate::support::{
    process,
    wait::{SOON, until_true},
};

const DIR: &str = "POWER_LOSS_WRITER_DIR";
const APPENDS: &str = "POWER_LOSS_WRITER_APPENDS";
const WEAK: &str = "POWER_LOSS_WRITER_WEAK";
const TOLD: &str = "appended ";

/// Whether a commit waits for the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushing {
    /// synchronous=FULL, as the broker has it.
    Done,
    /// synchronous=NORMAL.
    Left,
}

/// The program, running.
#[derive(Debug)]
pub struct Writer {
    child: Child,
    /// Appends it has told of.
    told: Arc<AtomicU64>,
}

impl Writer {
    /// Starts it on a data directory; after `appends` it stands still.
    ///
    /// If it went on, its next checkpoint would flush what its commits had not, and the cut would cost nothing of what
    /// was counted before it.
    pub fn start(dir: &Path, flushing: Flushing, appends: u64) -> Self {
        let mut command = Command::new(env::current_exe().expect("a test binary knows itself"));
        command
            .args(["--exact", "writer::the_writer_of_the_control", "--ignored", "--nocapture"])
            .env(DIR, dir)
            .env(APPENDS, appends.to_string());
        if flushing == Flushing::Left {
            command.env(WEAK, "1");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let told = Arc::new(AtomicU64::new(0));
        let sink = Arc::clone(&told);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(count) = line.strip_prefix(TOLD).and_then(|count| count.parse().ok()) {
                    sink.store(count, Ordering::Relaxed);
                }
            }
        });
        Self { child, told }
    }

    /// Waits until it has told of so many appends.
    pub fn wait_until(&self, count: u64) {
        until_true("the writer writes", SOON, || self.told.load(Ordering::Relaxed) >= count);
    }

    /// SIGKILL, without waiting for what comes of it.
    pub fn kill(&self) {
        process::signal(self.child.id(), Signal::KILL);
    }

    /// Waits until it is gone.
    pub fn wait_for_exit(&mut self) {
        self.child.wait().expect("our child");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "the control starts it, as a process of its own"]
fn the_writer_of_the_control() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else { return };
    let options = StoreOptions { weaken_for_tests: env::var_os(WEAK).is_some(), ..StoreOptions::default() };
    let dir = DataDir::open(&dir).expect("the card is mounted");
    let clock = ClockState { offset_ms: 0, synchronised: false };
    let now = Now { mono: Mono(1_000_000), wall: Wall(0) };
    let mut buffer =
        Buffer::open(&dir, &options, &BootId::new("control"), now, clock).expect("a fresh journal");
    let device = DeviceName::parse("0").expect("a name");
    let mut stdout = std::io::stdout();
    let appends: u64 = env::var(APPENDS).expect("set beside it").parse().expect("a number");
    for n in 0..appends {
        let record = Record {
            seq: buffer.last_seq().next(),
            device: device.clone(),
            received: now.mono,
            device_ts: None,
            values: format!("{{\"n\":{n}}}"),
        };
        buffer.append(&Batch { records: vec![record], ..Batch::default() }).expect("room on the card");
        // Told past the harness, which would keep it: only what has left the process counts.
        writeln!(stdout, "{TOLD}{}", n + 1).and_then(|()| stdout.flush()).expect("somebody listens");
    }
    loop {
        thread::park();
    }
}
