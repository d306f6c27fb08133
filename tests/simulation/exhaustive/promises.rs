//! What the store has confirmed so far, what it was merely asked for, and whether a disk read afresh agrees.

use std::collections::BTreeMap;

use forebay::{
    clock::ClockState,
    identity::TokenHash,
    ids::{DeviceName, Seq},
    store::{Buffer, BufferReader, Query, Registry, StoredReading},
};

use super::sessions::words;

/// What a device's row may say; None is no row.
pub type DeviceState = Option<(TokenHash, bool)>;

/// What may and what must be found.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// Readings whose append returned well: each must be found.
    pub stored: Vec<String>,
    /// Readings handed to append, whatever it said: nothing else may be found.
    pub asked: Vec<String>,
    /// The last payload whose quarantine was confirmed.
    pub set_aside: Option<Vec<u8>>,
    /// Each device's possible states: one if its last change was confirmed.
    pub devices: BTreeMap<DeviceName, Vec<DeviceState>>,
    /// What may be found of sessions and retained messages, in words: one thing if the last change was confirmed.
    pub sessions: Vec<String>,
    /// The possible clocks of the first boot; empty if it may not have begun.
    pub clocks: Vec<ClockState>,
}

/// Milliseconds since boot at which every reading of a script is received.
pub const RECEIVED_MS: i64 = 2_000;

impl Promises {
    /// The device is about to get `state`.
    pub fn ask(&mut self, name: &DeviceName, state: DeviceState) {
        self.devices.entry(name.clone()).or_insert_with(|| vec![None]).push(state);
    }

    /// The device has `state` for certain.
    pub fn confirm(&mut self, name: &DeviceName, state: DeviceState) {
        self.devices.insert(name.clone(), vec![state]);
    }

    /// Checks the journal: nothing confirmed is missing, nothing was made up, and the order is that of the appends.
    pub fn check_journal(&self, reader: &BufferReader) -> Result<(), String> {
        let query = Query { after: Seq(0), device: None, since: None, limit: usize::MAX, newest: false };
        let found = reader.read(&query).map_err(|error| error.to_string())?;
        if reader.corrupt_rows() > 0 {
            return Err(format!("{} rows are damaged", reader.corrupt_rows()));
        }
        let values = first_occurrences(&found);
        if let Some(lost) = self.stored.iter().find(|value| !values.contains(&value.as_str())) {
            return Err(format!("LOST {lost}, which was confirmed; found {values:?}"));
        }
        if let Some(made_up) = values.iter().find(|value| !self.asked.iter().any(|asked| asked == *value)) {
            return Err(format!("found {made_up}, which nobody stored"));
        }
        let in_order: Vec<&str> =
            self.asked.iter().map(String::as_str).filter(|asked| values.contains(asked)).collect();
        if values != in_order {
            return Err(format!("found {values:?} where {in_order:?} was the order"));
        }
        self.check_places(&found)?;
        self.check_times(&found)
    }

    fn check_places(&self, found: &[StoredReading]) -> Result<(), String> {
        let gap = found.windows(2).find(|pair| pair[1].seq != pair[0].seq.next());
        gap.map_or(Ok(()), |pair| Err(format!("a gap after place {}", pair[0].seq.0)))
    }

    fn check_times(&self, found: &[StoredReading]) -> Result<(), String> {
        let possible = |reading: &StoredReading| {
            self.clocks.iter().any(|clock| {
                reading.ts.0 == clock.offset_ms + RECEIVED_MS && reading.time_is_trusted == clock.synchronised
            })
        };
        match found.iter().find(|reading| !possible(reading)) {
            None => Ok(()),
            Some(reading) => Err(format!("{reading:?} has a time of none of {:?}", self.clocks)),
        }
    }

    /// Checks the sessions: they are as the last change left them that was confirmed, or asked for.
    pub fn check_sessions(&self, buffer: &mut Buffer) -> Result<(), String> {
        let found = words(&buffer.recover().map_err(|error| error.to_string())?);
        match self.sessions.contains(&found) || (self.sessions.is_empty() && found.is_empty()) {
            true => Ok(()),
            false => Err(format!("LOST a change: found {found:?} where {:?} may be", self.sessions)),
        }
    }

    /// Checks the registry: each device is as it was confirmed, or as it was asked to be.
    pub fn check_registry(&self, registry: &Registry) -> Result<(), String> {
        let found = registry.identities().map_err(|error| error.to_string())?;
        for (name, possible) in &self.devices {
            let device = found.iter().find(|device| device.name == *name);
            let state = device.map(|device| (device.token_hash, device.enabled));
            if !possible.contains(&state) {
                let now = state.map(|(_, enabled)| enabled);
                return Err(format!("LOST a confirmed change: {name} is found as {now:?} (enabled)"));
            }
        }
        match found.iter().find(|device| !self.devices.contains_key(&device.name)) {
            Some(device) => Err(format!("found a device {} nobody added", device.name)),
            None => Ok(()),
        }
    }
}

/// The values in the order of their places, repeats left out: what was sent twice may be there twice.
fn first_occurrences(found: &[StoredReading]) -> Vec<&str> {
    let mut values: Vec<&str> = Vec::new();
    for reading in found {
        if !values.contains(&reading.values.as_str()) {
            values.push(&reading.values);
        }
    }
    values
}
