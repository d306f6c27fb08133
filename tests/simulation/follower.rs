//! Somebody who reads the journal at the command line while the broker runs, fails or is down: a process of its own, whose
//! connection outlives the broker's.

use forebay::{
    ids::Seq,
    store::{BufferReader, Query, StoreOptions},
};

use crate::{
    chance::Chance,
    machine::data_dir,
    trace::{Trace, note},
};

/// Longest time one of them stays, in microseconds.
const STAYS_US: u64 = 60_000_000;

/// Nobody, or the one who reads.
pub struct Follower {
    reader: Option<BufferReader>,
    until: u64,
    chance: Chance,
}

impl Follower {
    pub fn new(chance: Chance) -> Self {
        Self { reader: None, until: 0, chance }
    }

    /// Comes at this `rate`, reads now and then, and goes when it is time.
    ///
    /// What it reads is nobody's promise: the ledger looks at the journal when the disk does not fail.
    pub fn act(&mut self, rate: u32, options: &StoreOptions, now: u64, trace: &mut Trace) {
        if self.reader.is_some() && self.until <= now {
            note!(trace, "nobody reads the journal any more");
            self.leave();
        }
        if self.reader.is_none() && self.chance.happens(rate) {
            self.reader = BufferReader::open(&data_dir(), options).ok();
            self.until = now + self.chance.below(STAYS_US);
            note!(trace, "somebody wants to read the journal: {}", self.reader.is_some());
        }
        let Some(reader) = self.reader.as_ref().filter(|_| self.chance.below(4) == 0) else { return };
        let newest = Query { after: Seq(0), device: None, since: None, limit: 5, newest: true };
        trace.count(match reader.read(&newest) {
            Ok(_) => "a reader beside the broker",
            Err(_) => "a reader that cannot read",
        });
    }

    /// Ends, as its process does.
    pub fn leave(&mut self) {
        self.reader = None;
    }
}
