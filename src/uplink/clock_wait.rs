//! How long readings whose time is not known wait for the clock to be set.
//!
//! Time servers are reached by the network by which the hub is: a clock that nobody could set while the network was away
//! is set moments after it has come back, when the hub may have let us in already. So the hub has to be there for a while
//! before the clock is given up. That while is made up of all connections together. If it began anew with each, a link
//! that comes and goes would put readings off for ever; if it began with the first, a moment of network at boot would be
//! enough. A hub that was never seen to be away has not come back, and is not waited for.

use std::time::Duration;

use crate::{clock::Mono, limits::UPLINK_CLOCK_WAIT_WITH_HUB};

/// Connections after which the hub was there for long enough, however short they were.
const CONNECTIONS: u32 = 10;

/// What is waited for, and how far it has come.
#[derive(Debug)]
pub(super) struct ClockWait {
    /// How long after boot the clock is waited for; `None` if it is not.
    after_boot: Option<Duration>,
    /// How long the hub was there, in connections that are over.
    with_hub: Duration,
    /// When the hub has let us into the present one.
    since: Option<Mono>,
    /// Whether there was ever a connection that ended, or could not be made.
    was_away: bool,
}

impl ClockWait {
    /// Nothing has happened yet.
    pub(super) fn new(after_boot: Option<Duration>) -> Self {
        Self { after_boot, with_hub: Duration::ZERO, since: None, was_away: false }
    }

    /// The hub has let us in.
    pub(super) fn on_let_in(&mut self, now: Mono) {
        self.since = Some(now);
    }

    /// The connection, or the attempt at one, is over.
    pub(super) fn on_lost(&mut self, now: Mono) {
        self.was_away = true;
        if let Some(since) = self.since.take() {
            let span = now.since(since).max(self.with_hub_min() / CONNECTIONS);
            self.with_hub = self.with_hub.saturating_add(span);
        }
    }

    /// When the clock is given up, if the hub stays there from `now`; `None` if it is not waited for.
    pub(super) fn over(&self, now: Mono) -> Option<Mono> {
        let with_hub = self.with_hub_min().saturating_sub(self.with_hub);
        // Mono counts from the boot of the machine.
        let boot_over = Mono(0) + self.after_boot?;
        if !self.was_away {
            return Some(boot_over);
        }
        Some(boot_over.max(self.since.unwrap_or(now) + with_hub))
    }

    fn with_hub_min(&self) -> Duration {
        UPLINK_CLOCK_WAIT_WITH_HUB.min(self.after_boot.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_HUB_S: u64 = UPLINK_CLOCK_WAIT_WITH_HUB.as_secs();

    fn of(seconds: u64) -> ClockWait {
        ClockWait::new(Some(Duration::from_secs(seconds)))
    }

    fn at(second: u64) -> Mono {
        Mono(second * 1_000_000)
    }

    #[test]
    fn a_hub_that_was_never_away_adds_nothing_to_the_time_after_boot() {
        let mut wait = of(600);
        wait.on_let_in(at(599));
        assert_eq!(wait.over(at(599)), Some(at(600)));
    }

    #[test]
    fn the_hub_need_not_be_there_for_longer_than_the_clock_is_waited_for_after_boot() {
        let mut wait = of(30);
        wait.on_lost(at(4000));
        wait.on_let_in(at(5000));
        assert_eq!(wait.over(at(5020)), Some(at(5030)));
    }

    #[test]
    fn a_hub_that_comes_late_is_there_for_a_while_first_in_one_connection_or_in_several() {
        let mut wait = of(600);
        wait.on_lost(at(10));
        wait.on_let_in(at(5000));
        assert_eq!(wait.over(at(5001)), Some(at(5000 + WITH_HUB_S)));
        wait.on_lost(at(5100));
        wait.on_lost(at(5200));
        wait.on_let_in(at(9000));
        assert_eq!(wait.over(at(9001)), Some(at(9000 + WITH_HUB_S - 100)));
    }

    #[test]
    fn short_connections_are_enough_if_they_are_many() {
        let mut wait = of(600);
        wait.on_lost(at(10));
        for now in (1000..).map(at).take(CONNECTIONS as usize) {
            assert!(wait.over(now) > Some(now));
            wait.on_let_in(now);
            wait.on_lost(now);
        }
        assert_eq!(wait.over(at(2000)), Some(at(2000)));
    }
}
