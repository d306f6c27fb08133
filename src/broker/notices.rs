//! Log lines about what peers do, bounded: a million bad packets make a handful of lines and a count.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::{clock::Mono, limits::Limits};

/// One line for each address and label in this span.
const SAME_CAUSE: Duration = Duration::from_secs(60);
/// The window of `log_lines_per_10s`.
const WINDOW: Duration = Duration::from_secs(10);
/// Pairs of address and label remembered; beyond it all are forgotten, and the window's bound alone holds.
const REMEMBERED_MAX: usize = 1024;

/// Decides which lines are written.
#[derive(Debug, Default)]
pub struct Notices {
    last: HashMap<(IpAddr, &'static str), Mono>,
    window_began: Mono,
    lines: u32,
    suppressed: u64,
}

/// Whether a line is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Write it; so many were left out before it.
    Write {
        /// Lines left out since the last one written.
        left_out: u64,
    },
    /// Leave it out.
    LeaveOut,
}

impl Notices {
    /// Whether to write a line about `label` from `address`.
    pub fn ask(&mut self, address: IpAddr, label: &'static str, now: Mono, limits: &Limits) -> Notice {
        if now.since(self.window_began) >= WINDOW {
            self.window_began = now;
            self.lines = 0;
        }
        let recently = self.last.get(&(address, label)).is_some_and(|at| now.since(*at) < SAME_CAUSE);
        if recently || self.lines >= limits.log_lines_per_10s {
            self.suppressed += 1;
            return Notice::LeaveOut;
        }
        if self.last.len() >= REMEMBERED_MAX {
            self.last.clear();
        }
        self.last.insert((address, label), now);
        self.lines += 1;
        Notice::Write { left_out: std::mem::take(&mut self.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    #[test]
    fn the_same_cause_from_the_same_address_is_told_once_a_minute() {
        let (mut notices, limits) = (Notices::default(), Limits::default());
        assert_eq!(notices.ask(address(1), "malformed", Mono(0), &limits), Notice::Write { left_out: 0 });
        for _ in 0..1000 {
            assert_eq!(notices.ask(address(1), "malformed", Mono(1), &limits), Notice::LeaveOut);
        }
        assert_eq!(notices.ask(address(1), "refused", Mono(1), &limits), Notice::Write { left_out: 1000 });
        assert_eq!(
            notices.ask(address(1), "malformed", Mono(60_000_000), &limits),
            Notice::Write { left_out: 0 }
        );
    }

    #[test]
    fn many_addresses_share_one_bound() {
        let (mut notices, limits) = (Notices::default(), Limits::default());
        let written = (0..100_000)
            .filter(|n| notices.ask(address(*n), "malformed", Mono(5), &limits) != Notice::LeaveOut)
            .count();
        assert_eq!(written, 200);
        assert!(notices.last.len() <= REMEMBERED_MAX);
    }
}
