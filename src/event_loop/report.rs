//! How everything is doing: gathered from the core, the store and the operating system when somebody asks.

use std::{fs, path::Path, process, time::Duration};

use crate::{
    broker::{Counters, Gauges},
    clock::{Mono, Now},
    report::{ClientsReport, ClockReport, LastError, MessagesReport, Report, StoreReport},
    store::StoreError,
};

use super::{EventLoop, commit_times::CommitTimes};

/// Where Linux tells what the process has given to the storage; `ProcSubset=pid` does not hide it.
const OWN_IO: &str = "/proc/self/io";

/// What the loop itself notes for the report.
#[derive(Debug)]
pub(super) struct Observed {
    started: Mono,
    commit_times: CommitTimes,
    store_error: Option<(String, Mono)>,
}

impl Observed {
    pub(super) fn new(now: Mono) -> Self {
        Self { started: now, commit_times: CommitTimes::new(now), store_error: None }
    }

    pub(super) fn note_commit(&mut self, took: Duration, now: Mono) {
        self.commit_times.note(took, now);
    }

    pub(super) fn note_store_error(&mut self, error: &StoreError, now: Mono) {
        self.store_error = Some((error.to_string(), now));
    }
}

impl EventLoop {
    /// How everything is doing.
    pub(super) fn report(&mut self, now: Now) -> Report {
        let (counters, gauges) = (self.broker.counters(), self.broker.gauges());
        let report = Report {
            well: false,
            troubles: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            uptime_s: now.mono.since(self.observed.started).as_secs(),
            clock: ClockReport {
                synchronised: self.clock.state().synchronised,
                boot_s: now.mono.since(Mono(0)).as_secs(),
            },
            store: self.store_report(&counters, now),
            dropped: Default::default(),
            uplink: None,
            clients: clients_report(&counters, &gauges),
            messages: messages_report(&counters, &gauges),
        };
        report.judged()
    }

    /// Tells those who subscribed how everything is doing, when that is due.
    pub(super) fn tell_sys_topics(&mut self, now: Now) {
        if self.broker.wants_report() {
            let values = self.report(now).values();
            self.broker.handle_report(values, now);
        }
    }

    fn store_report(&mut self, counters: &Counters, now: Now) -> StoreReport {
        let percentiles = self.observed.commit_times.percentiles(now.mono);
        let bytes_written = fs::read_to_string(OWN_IO).ok().and_then(|text| write_bytes(&text));
        let last_error = self
            .observed
            .store_error
            .as_ref()
            .map(|(words, at)| LastError { words: words.clone(), ago_s: now.mono.since(*at).as_secs() });
        StoreReport {
            storing: self.broker.is_storing(),
            last_error,
            readings: counters.readings_stored,
            readings_failed: counters.readings_failed,
            quarantined: self.buffer.quarantine_len().ok(),
            quarantine_dropped: self.buffer.quarantine_dropped(),
            commits: counters.commits,
            commit_p50_us: percentiles.map(|found| found.p50_us),
            commit_p99_us: percentiles.map(|found| found.p99_us),
            commit_max_us: percentiles.map(|found| found.max_us),
            bytes_written,
            bytes_written_per_reading: bytes_written
                .and_then(|bytes| bytes.checked_div(counters.readings_stored)),
            buffer_bytes: file_bytes(&self.buffer_path),
            wal_bytes: file_bytes(&self.buffer_path.with_extension("db-wal")),
        }
    }
}

fn clients_report(counters: &Counters, gauges: &Gauges) -> ClientsReport {
    ClientsReport {
        registered: gauges.identities,
        connections: gauges.connections,
        connected: gauges.clients_connected,
        connected_max: counters.clients_connected_max,
        offline: gauges.sessions_offline,
        refused: counters.connects_refused,
        faulted: counters.connections_faulted,
    }
}

fn messages_report(counters: &Counters, gauges: &Gauges) -> MessagesReport {
    MessagesReport {
        received: counters.publishes_received,
        sent: counters.messages_sent,
        dropped: counters.messages_dropped,
        expired: counters.messages_expired,
        waiting: gauges.waiting_messages,
        waiting_bytes: gauges.waiting_bytes,
        retained: gauges.retained_messages,
        retained_bytes: gauges.retained_bytes,
        subscriptions: gauges.subscriptions,
    }
}

fn file_bytes(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// What was given to the storage, in the text of proc_pid_io(5).
fn write_bytes(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_written_are_found_among_the_others() {
        let text =
            "rchar: 1\nwchar: 2\nsyscr: 3\nread_bytes: 4\nwrite_bytes: 40960\ncancelled_write_bytes: 7\n";
        assert_eq!(write_bytes(text), Some(40_960));
        assert_eq!(write_bytes("rchar: 1\n"), None);
    }
}
