//! Signals as events of the loop: a handler sets a flag and writes a byte, the loop wakes and asks.
//!
//! What a signal means (drain, stop at once, reload) is decided by the loop. SIGPIPE is ignored by Rust's runtime
//! already; SIGXFSZ is caught here, so that a file-size limit shows as a failed write instead of a dead broker.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream as Pipe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mio::{Interest, Registry, Token, net::UnixStream};
use signal_hook::{
    SigId,
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag, low_level,
};

/// A signal the broker acts upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: the service manager wants us to stop.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGHUP: read the certificate and its key again, and what the uplink needs; the rest of the configuration waits for
    /// a restart.
    HangUp,
}

/// The installed handlers; they are taken out again on drop.
#[derive(Debug)]
pub struct Signals {
    wakes: UnixStream,
    arrived: Vec<(Signal, Arc<AtomicBool>)>,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers and asks `registry` to report a signal under `token`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn install(registry: &Registry, token: Token) -> io::Result<Self> {
        let (reader, writer) = Pipe::pair()?;
        reader.set_nonblocking(true)?;
        let wakes = UnixStream::from_std(reader);
        let mut signals = Self { wakes, arrived: Vec::new(), handlers: Vec::new() };
        signals.handlers.push(flag::register(SIGXFSZ, Arc::default())?);
        signals.watch(SIGTERM, Signal::Terminate, &writer)?;
        signals.watch(SIGINT, Signal::Interrupt, &writer)?;
        signals.watch(SIGHUP, Signal::HangUp, &writer)?;
        registry.register(&mut signals.wakes, token, Interest::READABLE)?;
        Ok(signals)
    }

    /// The signals that came since the last call, each at most once; called when an event for its token came.
    pub fn take(&mut self) -> Vec<Signal> {
        self.drain();
        let came = |(_, flag): &&(Signal, Arc<AtomicBool>)| flag.swap(false, Ordering::SeqCst);
        self.arrived.iter().filter(came).map(|(signal, _)| *signal).collect()
    }

    fn watch(&mut self, number: i32, signal: Signal, writer: &Pipe) -> io::Result<()> {
        let arrived = Arc::new(AtomicBool::new(false));
        // Handlers run in the order of their registration: the flag is up before the byte wakes anybody.
        self.handlers.push(flag::register(number, arrived.clone())?);
        self.handlers.push(low_level::pipe::register(number, writer.try_clone()?)?);
        self.arrived.push((signal, arrived));
        Ok(())
    }

    fn drain(&mut self) {
        let mut wakes = [0; 64];
        loop {
            match self.wakes.read(&mut wakes) {
                Ok(n) if n > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        time::{Duration, Instant},
    };

    use mio::{Events, Poll};

    use super::*;

    fn wait_for_signals(poll: &mut Poll, signals: &mut Signals) -> Vec<Signal> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut events = Events::with_capacity(1);
        while Instant::now() < deadline {
            poll.poll(&mut events, Some(Duration::from_millis(100))).expect("poll");
            if !events.is_empty() {
                return signals.take();
            }
        }
        panic!("no wake-up");
    }

    // One test for all: signals concern the whole process, and tests share it.
    #[test]
    fn each_signal_wakes_the_loop_and_is_told_once() {
        let mut poll = Poll::new().expect("poll");
        let mut signals = Signals::install(poll.registry(), Token(0)).expect("install");
        assert_eq!(signals.take(), []);

        for (number, signal) in
            [(SIGTERM, Signal::Terminate), (SIGINT, Signal::Interrupt), (SIGHUP, Signal::HangUp)]
        {
            low_level::raise(number).expect("raise");
            assert_eq!(wait_for_signals(&mut poll, &mut signals), [signal]);
            assert_eq!(signals.take(), []);
        }

        low_level::raise(SIGTERM).expect("raise");
        assert_eq!(
            wait_for_signals(&mut poll, &mut signals),
            [Signal::Terminate],
            "a second one counts again"
        );

        low_level::raise(SIGHUP).expect("raise");
        low_level::raise(SIGTERM).expect("raise");
        low_level::raise(SIGTERM).expect("raise");
        assert_eq!(wait_for_signals(&mut poll, &mut signals), [Signal::Terminate, Signal::HangUp]);

        low_level::raise(SIGXFSZ).expect("raise");
        assert_eq!(signals.take(), [], "and we still live");
    }

    #[test]
    fn writing_to_a_closed_peer_is_an_error_not_a_signal() {
        let (mut near, far) = Pipe::pair().expect("a pair");
        drop(far);
        let error = near.write_all(b"x").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
