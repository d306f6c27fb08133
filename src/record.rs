//! What goes to disk: readings, payloads set aside, and the batch that carries them there.

use crate::{
    clock::Mono,
    ids::{DeviceName, Seq},
};

/// One reading on its way to the journal, or back from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the journal.
    pub seq: Seq,
    /// Who sent it.
    pub device: DeviceName,
    /// When it was received, since boot.
    pub received: Mono,
    /// The time the device itself gave, in milliseconds since 1970-01-01 UTC.
    pub device_ts: Option<i64>,
    /// The values: one strict JSON object, compact at its top level, number tokens as the device wrote them.
    pub values: String,
}

/// A payload that was acknowledged but could not be understood; kept for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Who sent it.
    pub device: DeviceName,
    /// When it was received, since boot.
    pub received: Mono,
    /// Where it was published.
    pub topic: String,
    /// What is wrong with it, in words.
    pub reason: String,
    /// The bytes as received.
    pub payload: Vec<u8>,
}

/// Everything one transaction makes durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Readings, in the order of their [`Seq`].
    pub records: Vec<Record>,
    /// Payloads set aside.
    pub quarantined: Vec<Quarantined>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.quarantined.is_empty()
    }

    /// The last reading's place, if there is a reading.
    pub fn last_seq(&self) -> Option<Seq> {
        self.records.last().map(|record| record.seq)
    }
}
