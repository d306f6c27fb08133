//! What was found on the card, against what was acknowledged and sent.

use crate::support::home::Row;

/// The readings of some devices, which are named by their number and count `n` from 0.
#[derive(Debug)]
pub struct Ledger {
    /// For each device: readings 0 up to here are stored.
    complete: Vec<u64>,
    /// Rows that repeat an earlier one: sent again because no acknowledgement came.
    pub duplicates: u64,
    /// Readings that were acknowledged and are not there.
    pub lost: u64,
}

impl Ledger {
    /// Takes down what `forebay telemetry` has told.
    ///
    /// # Panics
    /// If a device's readings are not in the order they were sent, each first occurrence in its place.
    pub fn read(rows: &[Row], devices: usize) -> Self {
        let mut ledger = Self { complete: vec![0; devices], duplicates: 0, lost: 0 };
        for row in rows {
            ledger.note(row.device.parse().expect("devices are named by their number"), number(row));
        }
        ledger
    }

    fn note(&mut self, device: usize, n: u64) {
        let complete = &mut self.complete[device];
        assert!(
            n <= *complete,
            "device {device}: reading {n} is stored, {complete} is not: a hole in its order"
        );
        if n == *complete {
            *complete += 1;
        } else {
            self.duplicates += 1;
        }
    }

    /// Counts what a device lost.
    ///
    /// # Panics
    /// If more is stored than was sent.
    pub fn compare(&mut self, device: usize, acked: u64, sent: u64) {
        let stored = self.complete[device];
        assert!(stored <= sent, "device {device}: {stored} readings are stored, only {sent} were sent");
        self.lost += acked.saturating_sub(stored);
    }
}

fn number(row: &Row) -> u64 {
    let digits = row.values().strip_prefix("{\"n\":").and_then(|rest| rest.strip_suffix('}'));
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("not sent by us: {}", row.values()))
}
