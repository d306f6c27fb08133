//! strace on a running broker: counts its calls, or makes them fail.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use tempfile::NamedTempFile;

use super::{
    namespace::skip,
    process,
    wait::{SOON, until},
};

/// An strace that is attached.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    out: NamedTempFile,
}

impl Tracer {
    /// Attaches to process `pid` with these options, and waits until it has.
    ///
    /// `None`, loudly, where only root may do that.
    pub fn attach(pid: u32, options: &[&str]) -> Option<Self> {
        let out = NamedTempFile::new().expect("a temporary file");
        let mut strace = Command::new("strace")
            .args(["-f", "-p", &pid.to_string(), "-o"])
            .arg(out.path())
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let mut said = BufReader::new(strace.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("attached") {
            line.clear();
            if said.read_line(&mut line).expect("strace speaks") == 0 {
                strace.wait().expect("our child");
                assert!(!rustix::process::geteuid().is_root(), "strace could not attach");
                skip("strace may not attach to another process here");
                return None;
            }
        }
        // Kept open for its lifetime, so that it never meets a closed pipe.
        strace.stderr = Some(said.into_inner());
        Some(Self { strace, out })
    }

    /// The trace so far.
    pub fn trace(&self) -> String {
        fs::read_to_string(self.out.path()).expect("the trace can be read")
    }

    /// Lets go of the process and gives back the whole trace.
    pub fn detach(mut self) -> String {
        process::signal(self.strace.id(), Signal::INT);
        until("strace lets go", SOON, || self.strace.try_wait().expect("our child"));
        self.trace()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            process::signal(self.strace.id(), Signal::INT);
            let _ = self.strace.wait();
        }
    }
}
