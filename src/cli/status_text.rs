//! The report of a broker for people: first whether all is well and what to do if not, then a few lines of numbers.

use std::fmt::{self, Write as _};

use forebay::report::{
    DeviceUplinkReport, DeviceUplinksReport, LastError, LearningReport, Report, UplinkReport, plural,
};

use super::output::one_line;

/// Width of the words before the numbers.
const LABEL: usize = 10;

/// The report as lines.
pub fn written_out(report: &Report) -> String {
    let mut text = String::new();
    let (version, uptime) = (one_line(&report.version), span(report.uptime_s));
    let verdict = if report.well { "and all is well" } else { "but something is wrong" };
    let _ = writeln!(text, "forebay {version} has been running for {uptime}, {verdict}");
    for trouble in &report.troubles {
        let _ = writeln!(text, "\n  ! {}\n    {}", one_line(&trouble.what), one_line(&trouble.advice));
    }
    text.push('\n');
    for (label, line) in lines(report) {
        let _ = writeln!(text, "{label:<LABEL$}  {line}");
    }
    text
}

fn lines(report: &Report) -> Vec<(&'static str, String)> {
    let mut lines =
        vec![("Readings", readings(report)), ("Commits", commits(report)), ("Disk", disk(report))];
    if report.store.storing
        && let Some(error) = &report.store.last_error
    {
        lines.push(("", last_error(error)));
    }
    match (&report.uplink, &report.uplink_devices) {
        (None, None) => lines.push(("Uplink", "none is configured: readings stay on the gateway".to_owned())),
        (uplink, devices) => {
            lines.extend(uplink.iter().flat_map(uplink_lines));
            lines.extend(devices.iter().flat_map(device_uplink_lines));
        }
    }
    let dropped: Vec<String> = report
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} {}", grouped(*count), one_line(&reason.replace('_', " "))))
        .collect();
    if !dropped.is_empty() {
        lines.push(("Dropped", dropped.join(", ")));
    }
    lines.extend(report.learning.as_ref().map(|learning| ("Learning", learnt(learning))));
    lines.push(("Clients", clients(report)));
    lines.push(("Messages", messages(report)));
    lines.push(("Clock", clock(report)));
    lines
}

fn readings(report: &Report) -> String {
    let store = &report.store;
    let mut line = format!("{} stored since the start", grouped(store.readings));
    if store.readings_failed > 0 {
        let _ = write!(line, ", {} not stored and not acknowledged", grouped(store.readings_failed));
    }
    if store.refused_for_room > 0 {
        let _ = write!(line, ", {} refused for want of room", counted(store.refused_for_room, "message"));
    }
    match store.quarantined {
        Some(0) | None => {}
        Some(count) => {
            let _ = write!(line, ", {} in quarantine", counted(count, "payload"));
        }
    }
    if store.quarantine_dropped > 0 {
        let _ = write!(line, " ({} older ones dropped)", grouped(store.quarantine_dropped));
    }
    line
}

fn commits(report: &Report) -> String {
    let store = &report.store;
    let mut line = grouped(store.commits);
    if let (Some(p50), Some(p99), Some(max)) = (store.commit_p50_us, store.commit_p99_us, store.commit_max_us)
    {
        let (p50, p99, max) = (milliseconds(p50), milliseconds(p99), milliseconds(max));
        let _ = write!(line, "; of the last hour p50 {p50}, p99 {p99}, longest {max}");
    }
    line
}

fn disk(report: &Report) -> String {
    let store = &report.store;
    let mut parts = Vec::new();
    if let Some(written) = store.bytes_written {
        let each = store.bytes_written_per_reading.map(|each| format!(" ({} a reading)", bytes(each)));
        parts.push(format!("{} written{}", bytes(written), each.unwrap_or_default()));
    }
    parts.extend(store.buffer_bytes.map(|size| format!("buffer.db {}", bytes(size))));
    parts.extend(store.wal_bytes.map(|size| format!("its log {}", bytes(size))));
    if parts.is_empty() { "not known".to_owned() } else { parts.join(", ") }
}

fn uplink_lines(uplink: &UplinkReport) -> Vec<(&'static str, String)> {
    let mut lines = vec![("Uplink", whereabouts(&Whereabouts::of(uplink)))];
    if uplink.connected
        && let Some(error) = &uplink.last_error
    {
        lines.push(("", last_error(error)));
    }
    let backlog = Backlog {
        readings: uplink.backlog,
        bytes: uplink.backlog_bytes,
        oldest_s: uplink.oldest_s,
        in_flight: uplink.in_flight,
        per_minute: uplink.per_minute,
        drains_in_s: uplink.drains_in_s,
    };
    lines.push(("Backlog", backlog.to_string()));
    let mut uploaded = format!("{} readings, {}", grouped(uplink.uploaded), bytes(uplink.bytes_sent));
    if uplink.rejected > 0 {
        let _ = write!(uploaded, "; {} rejected by the hub", grouped(uplink.rejected));
    }
    if uplink.unheard > 0 {
        let _ = write!(uploaded, "; to {} of them nobody was subscribed there", grouped(uplink.unheard));
    }
    lines.push(("Uploaded", uploaded));
    lines.extend(downlink(uplink).map(|line| ("Downlink", line)));
    lines
}

/// Where an uplink is, and since when.
struct Whereabouts<'a> {
    state: &'a str,
    connected: bool,
    since_s: Option<u64>,
    next_attempt_s: Option<u64>,
    last_upload_s: Option<u64>,
}

impl<'a> Whereabouts<'a> {
    fn of(uplink: &'a UplinkReport) -> Self {
        let UplinkReport { state, connected, since_s, next_attempt_s, last_upload_s, .. } = uplink;
        Self {
            state,
            connected: *connected,
            since_s: *since_s,
            next_attempt_s: *next_attempt_s,
            last_upload_s: *last_upload_s,
        }
    }

    fn of_device(uplink: &'a DeviceUplinkReport) -> Self {
        let DeviceUplinkReport { state, connected, since_s, next_attempt_s, last_upload_s, .. } = uplink;
        Self {
            state,
            connected: *connected,
            since_s: *since_s,
            next_attempt_s: *next_attempt_s,
            last_upload_s: *last_upload_s,
        }
    }
}

fn whereabouts(uplink: &Whereabouts<'_>) -> String {
    let state = one_line(uplink.state);
    let Some(since) = uplink.since_s.map(span) else { return state.into_owned() };
    let mut line = match uplink.connected {
        true => format!("{state}, connected for {since}"),
        false => format!("not connected for {since}: {state}"),
    };
    if let Some(next) = uplink.next_attempt_s {
        let _ = write!(line, ", next attempt in {}", span(next));
    }
    match uplink.last_upload_s {
        Some(last) => {
            let _ = write!(line, "; last upload {} ago", span(last));
        }
        None => line.push_str("; no upload since the start"),
    }
    line
}

/// What waits, and how long it will.
struct Backlog {
    readings: u64,
    bytes: Option<u64>,
    oldest_s: Option<u64>,
    in_flight: u64,
    per_minute: u64,
    drains_in_s: Option<u64>,
}

impl fmt::Display for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} readings wait", grouped(self.readings))?;
        if let Some(size) = self.bytes {
            write!(f, " ({})", bytes(size))?;
        }
        if let Some(age) = self.oldest_s {
            write!(f, ", the oldest {} old", span(age))?;
        }
        write!(f, ", {} in flight; {} a minute", grouped(self.in_flight), grouped(self.per_minute))?;
        match self.drains_in_s.filter(|_| self.readings > 0) {
            Some(drains_in) => write!(f, ", drained in {}", span(drains_in)),
            None => Ok(()),
        }
    }
}

/// What came for devices and what they answered, if anything did.
fn downlink(uplink: &UplinkReport) -> Option<String> {
    let UplinkReport { downlinks, downlinks_undelivered, rpc_answers, rpc_answers_lost, .. } = uplink;
    if downlinks + downlinks_undelivered + rpc_answers + rpc_answers_lost == 0 {
        return None;
    }
    let mut line = format!("{} messages for devices", grouped(*downlinks));
    if *downlinks_undelivered > 0 {
        let _ = write!(line, ", {} of them reached none", grouped(*downlinks_undelivered));
    }
    let _ = write!(line, "; {} answers sent", grouped(*rpc_answers));
    if *rpc_answers_lost > 0 {
        let _ = write!(line, ", {} could not be", grouped(*rpc_answers_lost));
    }
    Some(line)
}

fn learnt(learning: &LearningReport) -> String {
    let LearningReport { learned, rejected, undecided } = learning;
    format!(
        "{} learnt from the hub, {} it does not know, {} without a verdict",
        counted(*learned, "device"),
        counted(*rejected, "token"),
        counted(*undecided, "trial")
    )
}

fn device_uplink_lines(uplinks: &DeviceUplinksReport) -> Vec<(&'static str, String)> {
    let mut line = match uplinks.devices {
        0 => "none has an uplink of its own".to_owned(),
        devices => {
            format!(
                "{} with an uplink of their own, {} connected",
                grouped(devices),
                grouped(uplinks.connected)
            )
        }
    };
    if uplinks.waiting > 0 {
        let _ = write!(line, ", {} waiting", grouped(uplinks.waiting));
    }
    if uplinks.refused > 0 {
        let _ = write!(line, ", {} refused by the hub", grouped(uplinks.refused));
    }
    let mut lines = vec![("Devices", line)];
    if uplinks.devices > 0 {
        let backlog = Backlog {
            readings: uplinks.backlog,
            bytes: uplinks.backlog_bytes,
            oldest_s: uplinks.oldest_s,
            in_flight: uplinks.in_flight,
            per_minute: uplinks.per_minute,
            drains_in_s: uplinks.drains_in_s,
        };
        let at_most = if uplinks.backlog > 0 { "up to " } else { "" };
        lines.push(("", format!("{at_most}{backlog}")));
        let mut uploaded =
            format!("{} readings uploaded, {}", grouped(uplinks.uploaded), bytes(uplinks.bytes_sent));
        if uplinks.rejected > 0 {
            let _ = write!(uploaded, "; {} rejected by the hub", grouped(uplinks.rejected));
        }
        lines.push(("", uploaded));
    }
    lines.extend(uplinks.worst.iter().map(|uplink| ("", one_of_many(uplink))));
    lines
}

fn one_of_many(uplink: &DeviceUplinkReport) -> String {
    let (name, place) = (one_line(&uplink.device), whereabouts(&Whereabouts::of_device(uplink)));
    let mut line = format!("{name}: {place}; up to {} readings wait", grouped(uplink.backlog));
    if let Some(error) = &uplink.last_error {
        let _ = write!(line, "; {}", last_error(error));
    }
    line
}

fn clients(report: &Report) -> String {
    let clients = &report.clients;
    let mut line = format!(
        "{} connected (most at once {}), {} registered",
        grouped(clients.connected),
        grouped(clients.connected_max),
        grouped(clients.registered)
    );
    if clients.offline > 0 {
        let _ = write!(line, ", {} without a connection", counted(clients.offline, "session"));
    }
    if clients.refused > 0 {
        let _ = write!(line, ", {} refused", counted(clients.refused, "CONNECT"));
    }
    line
}

fn messages(report: &Report) -> String {
    let messages = &report.messages;
    let mut line = format!("{} received, {} sent", grouped(messages.received), grouped(messages.sent));
    if messages.dropped > 0 {
        let _ = write!(line, ", {} dropped", grouped(messages.dropped));
    }
    if messages.waiting > 0 {
        let _ = write!(line, ", {} wait ({})", grouped(messages.waiting), bytes(messages.waiting_bytes));
    }
    let _ = write!(line, ", {} retained", grouped(messages.retained));
    line
}

fn clock(report: &Report) -> String {
    match report.clock.synchronised {
        true => "synchronised".to_owned(),
        false => format!(
            "not synchronised since the machine started {} ago; times are put right once it is",
            span(report.clock.boot_s)
        ),
    }
}

fn last_error(error: &LastError) -> String {
    format!("last error, {} ago: {}", span(error.ago_s), one_line(&error.words))
}

/// Two units at most: what is more precise helps nobody.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000 => return format!("{count} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    format!("{}.{} {name}", count / unit, count % unit * 10 / unit)
}

fn milliseconds(us: u64) -> String {
    if us < 100_000 { format!("{}.{} ms", us / 1000, us % 1000 / 100) } else { format!("{} ms", us / 1000) }
}

/// `3 readings`.
fn counted(count: u64, what: &str) -> String {
    format!("{} {}", grouped(count), plural(count, what))
}

/// 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use forebay::report::{StoreReport, Trouble};

    use super::*;

    fn well() -> Report {
        Report {
            well: true,
            version: "0.1.0".to_owned(),
            uptime_s: 11_520,
            store: StoreReport {
                storing: true,
                readings: 1_234_567,
                quarantined: Some(3),
                commits: 4321,
                commit_p50_us: Some(12_340),
                commit_p99_us: Some(250_000),
                commit_max_us: Some(999),
                bytes_written: Some(2_345_678),
                bytes_written_per_reading: Some(1900),
                buffer_bytes: Some(12_000_000),
                wal_bytes: None,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn a_broker_that_is_well_takes_a_few_lines() {
        let text = written_out(&well());
        let expected = "\
forebay 0.1.0 has been running for 3 h 12 min, and all is well

Readings    1,234,567 stored since the start, 3 payloads in quarantine
Commits     4,321; of the last hour p50 12.3 ms, p99 250 ms, longest 0.9 ms
Disk        2.3 MB written (1.9 kB a reading), buffer.db 12.0 MB
Uplink      none is configured: readings stay on the gateway
Clients     0 connected (most at once 0), 0 registered
Messages    0 received, 0 sent, 0 retained
Clock       not synchronised since the machine started 0 s ago; times are put right once it is
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_wrong_comes_first_and_cannot_steer_the_terminal() {
        let trouble =
            Trouble { what: "readings\u{1b}[2J are not stored".to_owned(), advice: "wait".to_owned() };
        let text = written_out(&Report { well: false, troubles: vec![trouble], ..well() });
        let first: Vec<&str> = text.lines().take(4).collect();
        assert!(first[0].ends_with("but something is wrong"));
        assert_eq!(first[1..], ["", r"  ! readings\u{1b}[2J are not stored", "    wait"]);
    }

    #[test]
    fn an_error_that_is_over_and_what_was_dropped_are_told() {
        let mut report = well();
        report.store.last_error = Some(LastError { words: "disk full".to_owned(), ago_s: 90 });
        report.dropped = [("too_old".to_owned(), 5), ("no_space".to_owned(), 0)].into();
        let text = written_out(&report);
        assert!(text.contains("\n            last error, 1 min ago: disk full\n"), "{text}");
        assert!(text.contains("\nDropped     5 too old\n"), "{text}");
    }

    #[test]
    fn the_uplink_is_told_with_its_backlog() {
        let uplink = UplinkReport {
            state: "uploading".to_owned(),
            connected: true,
            since_s: Some(7200),
            last_upload_s: Some(3),
            backlog: 12_345,
            backlog_bytes: Some(1_500_000),
            oldest_s: Some(200),
            per_minute: 600,
            drains_in_s: Some(1300),
            in_flight: 80,
            uploaded: 99,
            rejected: 1,
            unheard: 2,
            downlinks: 12,
            downlinks_undelivered: 3,
            rpc_answers: 5,
            rpc_answers_lost: 1,
            ..Default::default()
        };
        let text = written_out(&Report { uplink: Some(uplink), ..well() });
        for line in [
            "Uplink      uploading, connected for 2 h 0 min; last upload 3 s ago",
            "Backlog     12,345 readings wait (1.5 MB), the oldest 3 min old, 80 in flight; 600 a minute, drained in 21 min",
            "Uploaded    99 readings, 0 B; 1 rejected by the hub; to 2 of them nobody was subscribed there",
            "Downlink    12 messages for devices, 3 of them reached none; 5 answers sent, 1 could not be",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }

    #[test]
    fn an_uplink_without_a_connection_is_told_since_when_and_when_it_is_tried_again() {
        let line = |uplink| {
            let text = written_out(&Report { uplink: Some(uplink), ..well() });
            text.lines().find(|line| line.starts_with("Uplink")).map(str::to_owned)
        };
        let away = UplinkReport {
            state: "waiting to try again".to_owned(),
            since_s: Some(3 * 86_400),
            next_attempt_s: Some(12),
            last_upload_s: Some(3 * 86_400 + 7200),
            ..Default::default()
        };
        assert_eq!(
            line(away.clone()).as_deref(),
            Some(
                "Uplink      not connected for 3 d 0 h: waiting to try again, next attempt in 12 s; \
                 last upload 3 d 2 h ago"
            )
        );
        let never = UplinkReport { last_upload_s: None, next_attempt_s: None, ..away };
        assert!(line(never).is_some_and(|line| line.ends_with("again; no upload since the start")));
        let none = UplinkReport { state: "not running".to_owned(), ..Default::default() };
        assert_eq!(line(none).as_deref(), Some("Uplink      not running"));
    }

    #[test]
    fn the_uplinks_of_devices_are_told_together() {
        let devices = DeviceUplinksReport {
            devices: 1200,
            connected: 1195,
            waiting: 3,
            refused: 2,
            worst: vec![DeviceUplinkReport {
                device: "pump".to_owned(),
                state: "refused by the hub".to_owned(),
                since_s: Some(60),
                next_attempt_s: Some(9),
                last_error: Some(LastError { words: "no".to_owned(), ago_s: 1 }),
                backlog: 50,
                ..Default::default()
            }],
            backlog: 5000,
            backlog_bytes: Some(50_000),
            oldest_s: Some(61),
            drains_in_s: Some(600),
            in_flight: 7,
            uploaded: 10,
            ..Default::default()
        };
        let text = written_out(&Report { uplink_devices: Some(devices), ..well() });
        let expected = "\
Devices     1,200 with an uplink of their own, 1,195 connected, 3 waiting, 2 refused by the hub
            up to 5,000 readings wait (50.0 kB), the oldest 1 min old, 7 in flight; 0 a minute, drained in 10 min
            10 readings uploaded, 0 B
            pump: not connected for 1 min: refused by the hub, next attempt in 9 s; no upload since the start; \
up to 50 readings wait; last error, 1 s ago: no
";
        assert!(text.contains(expected) && !text.contains("none is configured"), "{text}");
        let none = written_out(&Report { uplink_devices: Some(DeviceUplinksReport::default()), ..well() });
        assert!(none.contains("\nDevices     none has an uplink of its own\nClients"), "{none}");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86_399, 90_000].map(span),
            ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "23 h 59 min", "1 d 1 h"]
        );
        assert_eq!(
            [0, 999, 1000, 999_999, 1_000_000, 2_500_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "2.5 GB"]
        );
        assert_eq!([0, 999, 1000, 1_000_000].map(grouped), ["0", "999", "1,000", "1,000,000"]);
        assert_eq!([400, 99_999, 100_000].map(milliseconds), ["0.4 ms", "99.9 ms", "100 ms"]);
    }
}
