//! A connection to the hub and the bytes on it: late, slow, in pieces, cut off, or lost without a word.

use std::collections::VecDeque;

use crate::{chance::Chance, hub::HubConnection};

/// How long bytes take, in microseconds; and how many go in a second, any number if zero.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub latency_max_us: u64,
    pub bytes_per_second: u64,
}

impl Pace {
    pub const GOOD: Self = Self { latency_max_us: 20_000, bytes_per_second: 0 };

    pub fn draw(chance: &mut Chance) -> Self {
        let latency_max_us = if chance.coin() { 20_000 } else { chance.between(20_000, 2_000_000) };
        let bytes_per_second = if chance.below(3) > 0 { 0 } else { chance.between(300, 5_000) };
        Self { latency_max_us, bytes_per_second }
    }

    /// Bytes that are taken while others are on their way.
    fn buffer(self) -> usize {
        if self.bytes_per_second == 0 { 65_536 } else { 2_048 }
    }
}

/// One direction of it.
#[derive(Debug, Default)]
pub struct Pipe {
    pieces: VecDeque<(u64, Vec<u8>)>,
    /// When the last piece has been sent, and when it arrives.
    busy_until: u64,
    arrived_at: u64,
}

impl Pipe {
    pub fn push(&mut self, bytes: Vec<u8>, now: u64, pace: Pace, chance: &mut Chance) {
        let takes = (bytes.len() as u64 * 1_000_000).checked_div(pace.bytes_per_second).unwrap_or(0);
        self.busy_until = self.busy_until.max(now) + takes;
        // Never before what was sent earlier.
        self.arrived_at = self.arrived_at.max(self.busy_until + chance.below(pace.latency_max_us + 1));
        self.pieces.push_back((self.arrived_at, bytes));
    }

    pub fn pop(&mut self, now: u64) -> Option<Vec<u8>> {
        let has_arrived = self.next_at().is_some_and(|at| at <= now);
        if has_arrived { self.pieces.pop_front().map(|(_, bytes)| bytes) } else { None }
    }

    /// The reader stopped in the middle of a piece.
    pub fn put_back(&mut self, bytes: Vec<u8>, now: u64) {
        self.pieces.push_front((now, bytes));
    }

    pub fn next_at(&self) -> Option<u64> {
        self.pieces.front().map(|(at, _)| *at)
    }

    /// Nothing arrives before `until`.
    pub fn hold_up(&mut self, until: u64) {
        self.arrived_at = self.arrived_at.max(until);
        self.pieces.iter_mut().for_each(|(at, _)| *at = (*at).max(until));
    }

    /// How many more bytes are taken for sending.
    pub fn room(&self, pace: Pace) -> usize {
        let waiting: usize = self.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        pace.buffer().saturating_sub(waiting)
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Everything arrives at once: whoever sent it has said goodbye and is gone.
    pub fn flush(&mut self) {
        self.pieces.iter_mut().for_each(|(at, _)| *at = 0);
    }
}

/// A connection that was made.
#[derive(Debug)]
pub struct Established {
    pub at_hub: HubConnection,
    pub up: Pipe,
    pub down: Pipe,
    pub hub_has_closed: bool,
    pub is_reset: bool,
    /// Nothing arrives any more, either way, and nobody says so.
    pub is_half_open: bool,
}

impl Established {
    pub fn new(at_hub: HubConnection) -> Self {
        Self {
            at_hub,
            up: Pipe::default(),
            down: Pipe::default(),
            hub_has_closed: false,
            is_reset: false,
            is_half_open: false,
        }
    }

    /// The hub closes; what it had not read may cost what it had sent.
    pub fn close_at_hub(&mut self, chance: &mut Chance) {
        self.hub_has_closed = true;
        self.is_reset |= !self.up.is_empty() && chance.coin();
    }

    /// When something can be read, at either end.
    pub fn next_arrival(&self) -> Option<u64> {
        if self.is_reset {
            return Some(0);
        }
        if self.is_half_open {
            return None;
        }
        let closed = (self.hub_has_closed && self.down.is_empty()).then_some(0);
        let up = self.up.next_at().filter(|_| !self.hub_has_closed);
        [self.down.next_at(), up, closed].into_iter().flatten().min()
    }
}
