//! How everything is doing: gathered from the core, the store and the operating system when somebody asks.

use std::{collections::BTreeMap, fs, path::Path, process, time::Duration};

use crate::{
    broker::{Counters, Gauges},
    clock::{Mono, Now},
    ids::DeviceName,
    limits::UPLINK_DEVICE_NAMES_TOLD,
    record::Outbound,
    report::{
        ClientsReport, ClockReport, DeviceUplinksReport, LastError, LearningReport, MessagesReport, Report,
        StoreReport, UplinkReport,
    },
    store::{Losses, StoreError, Stretch, Whose},
    uplink::Status,
};

use super::{EventLoop, commit_times::CommitTimes, uplink_running::whose};

/// Where Linux tells what the process has given to the storage; `ProcSubset=pid` does not hide it.
const OWN_IO: &str = "/proc/self/io";
/// From so many readings the bytes of the whole backlog are estimated.
const SAMPLE_ROWS: usize = 32;
const SAMPLE_BYTES: usize = 16 * 1024;

/// What the loop itself notes for the report.
#[derive(Debug)]
pub(super) struct Observed {
    started: Mono,
    commit_times: CommitTimes,
    store_error: Option<(String, Mono)>,
    /// Why the certificate on disk is not in force.
    certificate_error: Option<String>,
}

impl Observed {
    pub(super) fn new(now: Mono) -> Self {
        Self { started: now, commit_times: CommitTimes::new(now), store_error: None, certificate_error: None }
    }

    pub(super) fn note_commit(&mut self, took: Duration, now: Mono) {
        self.commit_times.note(took, now);
    }

    /// A certificate was taken over, or could not be.
    pub(super) fn note_certificate(&mut self, error: Option<String>) {
        self.certificate_error = error;
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
            certificate_error: self.observed.certificate_error.clone(),
            store: self.store_report(&counters, now),
            dropped: dropped(&self.buffer.lost()),
            uplink: self.uplink_report(&counters, now),
            uplink_devices: self.device_uplinks_report(now),
            learning: self.uploading.learning.is_on().then(|| learning_report(&counters)),
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
        let store_error = self.observed.store_error.as_ref();
        StoreReport {
            storing: self.broker.is_storing(),
            full: self.broker.is_storage_full(),
            last_error: store_error.map(|(words, at)| last_error(words, *at, now.mono)),
            readings: counters.readings_stored,
            readings_failed: counters.readings_failed,
            refused_for_room: counters.messages_without_room,
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
            dropped_ago_s: self.house.lost_at().map(|at| now.mono.since(at).as_secs()),
            wal_bytes: file_bytes(&self.buffer_path.with_extension("db-wal")),
        }
    }

    fn uplink_report(&mut self, counters: &Counters, now: Now) -> Option<UplinkReport> {
        let trouble = self.uploading.trouble().map(str::to_owned);
        let Some(status) = self.uploading.details(now) else {
            let alarm = Some(trouble?);
            return Some(UplinkReport { state: "not running".to_owned(), alarm, ..Default::default() });
        };
        let mut report = of_status(&status, counters, now.mono);
        if let Some(words) = trouble {
            report.alarm = Some(format!("its new settings are not in force: {words}"));
        }
        if report.backlog > 0
            && let Some(Sample { bytes_each, oldest_ts }) = self.first_of_backlog()
        {
            report.backlog_bytes = Some(bytes_each.saturating_mul(report.backlog));
            report.oldest_s = Some(age_s(oldest_ts, now));
        }
        Some(report)
    }

    fn device_uplinks_report(&mut self, now: Now) -> Option<DeviceUplinksReport> {
        if !self.uploading.forwards_devices() {
            return None;
        }
        let mut report = self.uploading.devices.report(now);
        // Each counts places that nobody has looked at yet as its own: together they are not more than there are.
        if let Ok(marks) = self.buffer.own_settlements()
            && let Some(lowest) = marks.values().map(|mark| mark.through).min()
        {
            report.backlog = report.backlog.min(self.buffer.last_seq().0.saturating_sub(lowest.0));
        }
        if let Some(Sample { bytes_each, oldest_ts }) = self.sample_of_devices() {
            report.backlog_bytes = Some(bytes_each.saturating_mul(report.backlog));
            report.oldest_s = Some(age_s(oldest_ts, now));
        }
        Some(report)
    }

    /// The oldest readings of devices that are forwarded as themselves; `None` if none is found soon.
    fn sample_of_devices(&mut self) -> Option<Sample> {
        let through = self.buffer.last_seq();
        for after in self.uploading.devices.oldest_places() {
            let stretch = Stretch { after, through, rows_max: SAMPLE_ROWS, bytes_max: SAMPLE_BYTES };
            let found = self.buffer.outbound_of(&Whose::Everybody, &stretch).ok()?.readings;
            let devices = &self.uploading.devices;
            let waiting: Vec<Outbound> =
                found.into_iter().filter(|row| devices.may_wait(&row.device, row.seq)).collect();
            if let Some(sample) = Sample::of(&waiting) {
                return Some(sample);
            }
        }
        None
    }

    /// The oldest readings the hub does not have; the rest is taken to be like them.
    fn first_of_backlog(&mut self) -> Option<Sample> {
        let after = self.buffer.settlement().ok()?.through;
        let through = self.buffer.last_seq();
        let stretch = Stretch { after, through, rows_max: SAMPLE_ROWS, bytes_max: SAMPLE_BYTES };
        let whose = whose(None, self.uploading.devices.forwarded());
        self.buffer.outbound_of(&whose, &stretch).ok().and_then(|found| Sample::of(&found.readings))
    }
}

/// What the oldest readings tell of a backlog.
struct Sample {
    bytes_each: u64,
    oldest_ts: i64,
}

impl Sample {
    fn of(readings: &[Outbound]) -> Option<Self> {
        let oldest_ts = readings.first()?.time.ts();
        let bytes: usize = readings.iter().map(|reading| reading.values.len()).sum();
        Some(Self { bytes_each: (bytes / readings.len()) as u64, oldest_ts })
    }
}

fn age_s(ts: i64, now: Now) -> u64 {
    u64::try_from(now.wall.0.saturating_sub(ts) / 1000).unwrap_or(0)
}

/// What `uplink` is doing, to be completed by what the journal knows.
fn of_status(status: &Status, counters: &Counters, now: Mono) -> UplinkReport {
    UplinkReport {
        state: status.state.to_string(),
        connected: status.version.is_some(),
        since_s: Some(now.since(status.since).as_secs()),
        next_attempt_s: status.next_attempt.map(|at| in_seconds(at, now)),
        last_upload_s: status.last_upload.map(|at| now.since(at).as_secs()),
        alarm: status.alarm.clone(),
        last_error: status.last_error.as_ref().map(|(words, at)| last_error(words, *at, now)),
        backlog: status.backlog,
        backlog_bytes: None,
        oldest_s: None,
        per_minute: status.uploaded_last_minute,
        drains_in_s: status.drains_in.map(|span| span.as_secs()),
        in_flight: status.in_flight as u64,
        uploaded: status.uploaded,
        rejected: status.rejected,
        unheard: status.unheard,
        unheard_devices: status.unheard_devices.len() as u64,
        unheard_names: first_few(status.unheard_devices.iter()),
        downlinks: status.downlink.arrived,
        downlinks_undelivered: counters.downlinks_undelivered
            + status.downlink.malformed
            + status.downlink.dropped,
        rpc_answers: status.downlink.answers,
        rpc_answers_lost: counters.rpc_answers_refused + status.downlink.answers_lost,
        bytes_sent: status.bytes_sent,
        connections: status.connections,
    }
}

fn dropped(lost: &Losses) -> BTreeMap<String, u64> {
    [("too_old", lost.too_old), ("no_space", lost.no_space), ("rejected", lost.rejected)]
        .map(|(reason, count)| (reason.to_owned(), count))
        .into()
}

/// Whole seconds until `at`, rounded up.
pub(super) fn in_seconds(at: Mono, now: Mono) -> u64 {
    at.since(now).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// The names of the first few of `devices`.
pub(super) fn first_few<'a>(devices: impl Iterator<Item = &'a DeviceName>) -> Vec<String> {
    devices.take(UPLINK_DEVICE_NAMES_TOLD).map(|device| device.as_str().to_owned()).collect()
}

pub(super) fn last_error(words: &str, at: Mono, now: Mono) -> LastError {
    LastError { words: words.to_owned(), ago_s: now.since(at).as_secs() }
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

fn learning_report(counters: &Counters) -> LearningReport {
    LearningReport {
        learned: counters.devices_learned,
        rejected: counters.tokens_rejected,
        undecided: counters.trials_undecided,
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
