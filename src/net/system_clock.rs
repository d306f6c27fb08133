//! Reads the machine's clocks, and notices when somebody sets them.
//!
//! The one place where time enters; everything below is handed a [`Now`]. A gateway without a battery boots in 1970
//! and learns the time when it first reaches a time server, hours or days later: [`ClockWatch`] wakes the loop at that
//! moment, and [`SystemClock::state`] says by how much and whether it can be believed.

use std::{
    cell::Cell,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rtime_clock::adjtime::{Timex, adjtimex};
use rustix::{
    io::Errno,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
        timerfd_create, timerfd_settime,
    },
};

use crate::clock::{ClockState, Mono, Now, Wall};

/// Exists once systemd-timesyncd has set the clock in this boot.
const TIMESYNC_MARKER: &str = "/run/systemd/timesync/synchronized";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's own word for "nobody disciplines this clock", in the status bits of adjtimex(2).
const STA_UNSYNC: i32 = 0x40;
/// The same as adjtimex(2)'s return value.
const TIME_ERROR: i32 = 5;

/// Year 2038: as far as every kernel's timers reach.
const FAR_AWAY_S: i64 = i32::MAX as i64;
/// Readings of both clocks from which the one with the least time between is taken.
const OFFSET_TRIES: usize = 3;
/// How often the clock may be set again while the watch is being armed.
const ARM_TRIES: usize = 8;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    marker: PathBuf,
    was_synchronised: Cell<bool>,
    kernel_is_silent: Cell<bool>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemClock {
    /// The clocks, with the marker file where systemd puts it.
    pub fn new() -> Self {
        Self::with_marker(TIMESYNC_MARKER.into())
    }

    /// The clocks, with `marker` as the file whose existence says that the time was synchronised in this boot.
    pub fn with_marker(marker: PathBuf) -> Self {
        Self { marker, was_synchronised: Cell::new(false), kernel_is_silent: Cell::new(false) }
    }

    /// Reads both clocks; suspended time counts in `mono`.
    pub fn now(&self) -> Now {
        Now { mono: Mono(boottime_us().unsigned_abs()), wall: Wall(realtime_us().div_euclid(1000)) }
    }

    /// The offset between the two clocks, and whether the wall clock was seen synchronised since this value was made.
    ///
    /// Asked at start and whenever [`ClockWatch::stepped`] says so; a few microseconds.
    pub fn state(&self) -> ClockState {
        if !self.was_synchronised.get() {
            let synchronised = self.kernel_says_synchronised() || self.marker.exists();
            self.was_synchronised.set(synchronised);
        }
        ClockState { offset_ms: offset_us().div_euclid(1000), synchronised: self.was_synchronised.get() }
    }

    fn kernel_says_synchronised(&self) -> bool {
        let mut query = Timex::new();
        match adjtimex(&mut query) {
            Ok(verdict) => is_synchronised(verdict, query.0.status),
            Err(error) => {
                if !self.kernel_is_silent.replace(true) {
                    log::debug!(
                        "cannot ask the kernel whether its clock is synchronised: {error}; relying on {}",
                        self.marker.display()
                    );
                }
                false
            }
        }
    }
}

/// Wakes the loop when the wall clock is set; not when it is merely slewed.
#[derive(Debug)]
pub struct ClockWatch {
    timer: OwnedFd,
}

impl ClockWatch {
    /// Starts watching and asks `registry` to report under `token`.
    ///
    /// # Errors
    /// What the kernel said; without a watch, steps go unnoticed until the next look at [`SystemClock::state`].
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let watch = Self { timer };
        watch.arm()?;
        registry.register(&mut SourceFd(&watch.timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(watch)
    }

    /// Whether the clock was set since the last call; called when an event for its token came.
    ///
    /// Read [`SystemClock::state`] after it, not before: a step in between is then in both.
    ///
    /// # Errors
    /// If the watch could not be armed again.
    pub fn stepped(&mut self) -> io::Result<bool> {
        let mut expirations = [0; 8];
        match rustix::io::read(&self.timer, &mut expirations) {
            Ok(_) | Err(Errno::CANCELED) => self.arm().map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets a timer that never matters but is cancelled when the clock is set.
    fn arm(&self) -> io::Result<()> {
        let far_away = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: FAR_AWAY_S, tv_nsec: 0 },
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        for _ in 0..ARM_TRIES {
            // Cancelled here means: set once more since the last read.
            match timerfd_settime(&self.timer, flags, &far_away) {
                Ok(_) => return Ok(()),
                Err(Errno::CANCELED) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::CANCELED.into())
    }
}

/// The kernel's name for this boot.
///
/// Where /proc does not tell (a sandbox with `ProcSubset=pid`), each run of the broker counts as a boot of its own: rows
/// of two boots must never share an offset, while two offsets for one boot do no harm.
pub fn boot_id() -> String {
    boot_id_from(fs::read_to_string(BOOT_ID))
}

fn boot_id_from(kernel: io::Result<String>) -> String {
    match kernel {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        _ => format!("run-{:016x}", RandomState::new().build_hasher().finish()),
    }
}

fn is_synchronised(verdict: i32, status: i32) -> bool {
    verdict != TIME_ERROR && status & STA_UNSYNC == 0
}

fn boottime_us() -> i64 {
    micros(clock_gettime(ClockId::Boottime))
}

/// Asked through the C library, where a test can put a clock of its own.
fn realtime_us() -> i64 {
    let us = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -us(before.duration()), us)
}

/// `wall - mono`, from the reading that was disturbed least.
fn offset_us() -> i64 {
    let read = || {
        let before = boottime_us();
        let wall = realtime_us();
        let spent = boottime_us() - before;
        (spent, wall - before - spent / 2)
    };
    let (_, offset) = (1..OFFSET_TRIES).map(|_| read()).fold(read(), |best, next| best.min(next));
    offset
}

fn micros(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    fn nowhere() -> PathBuf {
        "/nonexistent/synchronized".into()
    }

    #[test]
    fn mono_grows_and_wall_is_the_time_of_day() {
        let clock = SystemClock::new();
        let (first, second) = (clock.now(), clock.now());
        assert!(second.mono >= first.mono && first.mono > Mono(0));
        let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        assert!(first.wall.0.abs_diff(today.try_into().expect("a date")) < 10_000);
    }

    #[test]
    fn mono_plus_offset_is_wall() {
        let clock = SystemClock::new();
        let (now, state) = (clock.now(), clock.state());
        assert!((now.mono.as_millis() + state.offset_ms).abs_diff(now.wall.0) < 1000);
    }

    #[test]
    fn only_a_disciplined_clock_counts_as_synchronised() {
        const STA_PLL: i32 = 1;
        assert!(is_synchronised(0, STA_PLL));
        assert!(!is_synchronised(0, STA_PLL | STA_UNSYNC));
        assert!(!is_synchronised(TIME_ERROR, STA_PLL));
    }

    #[test]
    fn once_synchronised_stays_synchronised() {
        let dir = tempfile::tempdir().expect("a directory");
        let marker = dir.path().join("synchronized");
        let clock = SystemClock::with_marker(marker.clone());
        fs::write(&marker, "").expect("write");
        assert!(clock.state().synchronised);
        fs::remove_file(&marker).expect("remove");
        assert!(clock.state().synchronised);
    }

    #[test]
    fn without_a_marker_the_kernel_alone_decides() {
        let clock = SystemClock::with_marker(nowhere());
        let kernel = SystemClock::with_marker(nowhere()).kernel_says_synchronised();
        assert_eq!(clock.state().synchronised, kernel);
    }

    #[test]
    fn a_boot_has_one_id_and_a_silent_kernel_gives_each_run_its_own() {
        if let Ok(id) = fs::read_to_string(BOOT_ID) {
            assert_eq!(boot_id(), id.trim());
        }
        let silent = || boot_id_from(Err(io::ErrorKind::NotFound.into()));
        assert!(silent().starts_with("run-"));
        assert_ne!(silent(), silent());
        assert!(boot_id_from(Ok("\n".into())).starts_with("run-"));
    }

    #[test]
    fn a_clock_nobody_sets_reports_no_step() {
        let poll = Poll::new().expect("poll");
        let mut watch = ClockWatch::new(poll.registry(), Token(0)).expect("a watch");
        assert!(!watch.stepped().expect("no error"));
    }

    #[test]
    #[ignore = "sets the machine's clock (to the time it shows) and needs the right to"]
    fn setting_the_clock_wakes_the_loop_every_time() {
        let mut poll = Poll::new().expect("poll");
        let mut watch = ClockWatch::new(poll.registry(), Token(0)).expect("a watch");
        let mut events = Events::with_capacity(1);
        for _ in 0..3 {
            rustix::time::clock_settime(ClockId::Realtime, clock_gettime(ClockId::Realtime))
                .expect("the right to");
            poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
            assert!(!events.is_empty() && watch.stepped().expect("no error"));
            assert!(!watch.stepped().expect("no error"), "told once");
        }
    }
}
