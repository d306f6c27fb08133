//! What happened, one line a transition: the last ones for people, all of them in a hash.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

/// Lines kept for the report of a failure.
const LINES_KEPT: usize = 40;

/// The run so far.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    now_us: u64,
    step: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub fn new() -> Self {
        Self {
            hash: 0xCBF2_9CE4_8422_2325,
            lines: VecDeque::new(),
            now_us: 0,
            step: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Everything noted from now on happens then.
    pub fn set_time(&mut self, step: u64, now_us: u64) {
        self.step = step;
        self.now_us = now_us;
    }

    /// Notes one transition.
    pub fn note(&mut self, words: fmt::Arguments<'_>) {
        let (step, ms) = (self.step, self.now_us / 1000);
        let line = format!("step {step:4} {:5}.{:03} s  {words}", ms / 1000, ms % 1000);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Counts something that is worth having met.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    /// What was met, and how often.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// One number for everything noted; two runs of a seed have the same.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last transitions, oldest first.
    pub fn tail(&self) -> String {
        self.lines.iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// Notes a transition in the words of `format!`.
macro_rules! note {
    ($trace:expr, $($words:tt)+) => { $trace.note(format_args!($($words)+)) };
}
pub(crate) use note;
