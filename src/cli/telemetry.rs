//! `forebay telemetry`: prints stored readings, also while the broker runs.
//!
//! Reads page by page through a connection that cannot write; never holds more than a page.

use std::{
    io::{self, BufWriter, Write},
    time::Duration,
};

use clap::Args;
use forebay::{
    clock::Wall,
    ids::{DeviceName, Seq},
    store::{BufferReader, DataDir, Query, Registry, StoreOptions, StoredReading},
};
use jiff::Timestamp;
use log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Failure, GlobalArguments,
    identities::{Kind, existing},
    logging,
    output::{tell, written},
    reading_format::{Format, ReadingWriter},
    settings::Surroundings,
    time_argument::TimeArgument,
};

/// Readings a table shows if nobody says how many.
const TABLE_LIMIT: usize = 20;
/// Readings read at once.
const PAGE: usize = 500;
/// How long `--follow` waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Flags of `forebay telemetry`.
#[derive(Args, Clone, Debug, Default)]
pub struct TelemetryArguments {
    /// Only of this device
    #[arg(long, value_name = "NAME", value_parser = |text: &str| DeviceName::parse(text).map_err(|e| e.to_string()))]
    pub device: Option<DeviceName>,
    /// Only from this time on: 2026-11-24T05:10:55Z, 2026-11-24 (UTC), 2h ago as 2h (s, m, h, d, w), or milliseconds
    #[arg(long, value_name = "TIME")]
    pub since: Option<TimeArgument>,
    /// Only the last N [default: 20 for a table, else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub limit: Option<u32>,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Goes on with each new reading as it is stored
    #[arg(long)]
    pub follow: bool,
}

/// Which readings are wanted.
#[derive(Clone, Debug, Default)]
struct Filter {
    device: Option<DeviceName>,
    since: Option<Wall>,
}

/// Prints the readings asked for.
///
/// # Errors
/// If there is no such device, or the journal cannot be read, or the output not be written.
pub fn run(global: &GlobalArguments, arguments: &TelemetryArguments) -> Result<(), Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level.map(|level| level.min(LevelFilter::Warn)), LevelFilter::Warn)?;
    let data_dir = DataDir::open_existing(&surroundings.data_dir(global, &config)?)?;
    let reader = BufferReader::open(&data_dir, &StoreOptions::default())?;
    let now_ms = Timestamp::now().as_millisecond();
    let since = arguments.since.map(|since| Wall(since.as_ms(now_ms)));
    let filter = Filter { device: arguments.device.clone(), since };
    if let Some(name) = &filter.device {
        known(name, &data_dir, &reader)?;
    }
    let output = BufWriter::new(io::stdout().lock());
    let mut writer = ReadingWriter::new(output, arguments.format);
    written(writer.head())?;
    let damaged_before = reader.corrupt_rows();
    let last = print_stored(&reader, &filter, limit(arguments), &mut writer)?;
    tell_of_damage(reader.corrupt_rows() - damaged_before);
    if writer.has_marked_times() {
        tell("a time with `?` is that of a clock not known to be set; it is put right once the clock is");
    }
    if last == Seq(0) && !arguments.follow {
        tell(&nothing(arguments));
    }
    if arguments.follow { follow(&reader, &filter, last, &mut writer) } else { Ok(()) }
}

fn nothing(arguments: &TelemetryArguments) -> String {
    let whose = arguments.device.as_ref().map_or_else(String::new, |device| format!(" of {device}"));
    let since = if arguments.since.is_some() { " since then" } else { "" };
    format!(
        "no readings{whose} are stored{since}: nothing came, or what came has gone to the hub already and was not kept \
         (`keep_uploaded`), or was dropped; `forebay status` counts them"
    )
}

/// A device that was removed still has its readings.
fn known(name: &DeviceName, data_dir: &DataDir, reader: &BufferReader) -> Result<(), Failure> {
    let query = Query { limit: 1, ..Filter { device: Some(name.clone()), since: None }.query(Seq(0)) };
    if reader.read(&query)?.is_empty() {
        let registry = Registry::open(data_dir, &StoreOptions::default())?;
        existing(&registry, Kind::Device, name)?;
    }
    Ok(())
}

fn limit(arguments: &TelemetryArguments) -> Option<usize> {
    match (arguments.limit, arguments.format) {
        (None, Format::Table) => {
            tell(&format!("the last {TABLE_LIMIT} readings; --limit N shows more"));
            Some(TABLE_LIMIT)
        }
        (limit, _) => limit.map(|limit| limit as usize),
    }
}

fn tell_of_damage(rows: u64) {
    if rows > 0 {
        tell(&format!(
            "warning: {rows} damaged rows of the journal were passed over; `dmesg` may know of a failing card"
        ));
    }
}

/// Prints what is stored already; gives back where it ended.
fn print_stored<W: Write>(
    reader: &BufferReader,
    filter: &Filter,
    limit: Option<usize>,
    writer: &mut ReadingWriter<W>,
) -> Result<Seq, Failure> {
    match limit {
        None => print_pages(reader, filter, Seq(0), writer),
        Some(0) => {
            let newest = reader.read(&Query { limit: 1, newest: true, ..Filter::default().query(Seq(0)) })?;
            Ok(newest.last().map_or(Seq(0), |reading| reading.seq))
        }
        Some(limit) => {
            let query = Query { limit, newest: true, ..filter.query(Seq(0)) };
            print_page(&reader.read(&query)?, Seq(0), writer)
        }
    }
}

fn print_pages<W: Write>(
    reader: &BufferReader,
    filter: &Filter,
    mut after: Seq,
    writer: &mut ReadingWriter<W>,
) -> Result<Seq, Failure> {
    loop {
        let page = reader.read(&filter.query(after))?;
        if page.is_empty() {
            return Ok(after);
        }
        after = print_page(&page, after, writer)?;
    }
}

fn print_page<W: Write>(
    page: &[StoredReading],
    after: Seq,
    writer: &mut ReadingWriter<W>,
) -> Result<Seq, Failure> {
    for reading in page {
        written(writer.reading(reading))?;
    }
    written(writer.flush())?;
    Ok(page.last().map_or(after, |reading| reading.seq))
}

/// Looks for new readings until nobody reads ours.
///
/// Filters here, not in the journal: so each reading is looked at once, wanted or not.
fn follow<W: Write>(
    reader: &BufferReader,
    filter: &Filter,
    mut after: Seq,
    writer: &mut ReadingWriter<W>,
) -> Result<(), Failure> {
    let everything = Filter::default();
    loop {
        let page = reader.read(&everything.query(after))?;
        if page.is_empty() {
            wait_while_read(LOOK_AGAIN)?;
            continue;
        }
        let last = page.last().map_or(after, |reading| reading.seq);
        let wanted: Vec<_> = page.into_iter().filter(|reading| filter.wants(reading)).collect();
        print_page(&wanted, after, writer)?;
        after = last;
    }
}

/// Waits, but ends at once when the reader of standard output goes away.
fn wait_while_read(span: Duration) -> Result<(), Failure> {
    let output = io::stdout();
    let mut watched = [PollFd::new(&output, PollFlags::empty())];
    let span = Timespec::try_from(span).expect("a fifth of a second fits");
    match poll(&mut watched, Some(&span)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => Err(Failure::OutputClosed),
        Err(error) => written(Err(error.into())),
    }
}

impl Filter {
    /// The next page after `after`.
    fn query(&self, after: Seq) -> Query {
        Query { after, device: self.device.clone(), since: self.since, limit: PAGE, newest: false }
    }

    fn wants(&self, reading: &StoredReading) -> bool {
        self.device.as_ref().is_none_or(|device| *device == reading.device)
            && self.since.is_none_or(|since| reading.ts >= since)
    }
}

#[cfg(test)]
mod tests {
    use forebay::{
        clock::{ClockState, Mono, Now},
        record::Record,
        session::Batch,
        store::{BootId, Buffer},
    };

    use super::*;

    fn reading(device: &str, ts_ms: i64) -> StoredReading {
        let device = DeviceName::parse(device).expect(device);
        StoredReading { seq: Seq(7), device, ts: Wall(ts_ms), time_is_trusted: true, values: "{}".to_owned() }
    }

    fn arguments(limit: Option<u32>, format: Format) -> TelemetryArguments {
        TelemetryArguments { limit, format, ..TelemetryArguments::default() }
    }

    #[test]
    fn only_a_table_is_cut_short_unasked() {
        assert_eq!(limit(&arguments(None, Format::Table)), Some(TABLE_LIMIT));
        assert_eq!(limit(&arguments(Some(3), Format::Table)), Some(3));
        assert_eq!(limit(&arguments(None, Format::Ndjson)), None);
        assert_eq!(limit(&arguments(Some(3), Format::Csv)), Some(3));
    }

    #[test]
    fn what_is_followed_is_what_was_asked_for() {
        let filter = Filter { device: DeviceName::parse("pump").ok(), since: Some(Wall(100)) };
        assert!(filter.wants(&reading("pump", 100)));
        assert!(!filter.wants(&reading("pump", 99)));
        assert!(!filter.wants(&reading("demo", 100)));
        assert!(Filter::default().wants(&reading("demo", -5)));
    }

    /// Readings 1 to 6 of pump, demo, pump, ... at 1001 to 1006 ms.
    fn journal() -> (tempfile::TempDir, DataDir, Buffer) {
        let root = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(root.path()).expect("opened");
        let clock = ClockState { offset_ms: 1000, synchronised: true };
        let now = Now { mono: Mono(50_000), wall: Wall(1050) };
        let options = StoreOptions::default();
        let mut buffer = Buffer::open(&dir, &options, &BootId::new("a"), now, clock).expect("opened");
        let records = (1..=6).map(|seq| Record {
            seq: Seq(seq),
            device: DeviceName::parse(["demo", "pump"][seq as usize % 2]).expect("a name"),
            received: Mono(seq * 1000),
            device_ts: None,
            values: format!("{{\"n\":{seq}}}"),
        });
        buffer.append(&Batch { records: records.collect(), ..Batch::default() }).expect("appended");
        (root, dir, buffer)
    }

    fn stored(filter: &Filter, limit: Option<usize>) -> (Vec<u64>, Seq) {
        let (_root, dir, _buffer) = journal();
        let reader = BufferReader::open(&dir, &StoreOptions::default()).expect("opened");
        let mut out = Vec::new();
        let last = print_stored(&reader, filter, limit, &mut ReadingWriter::new(&mut out, Format::Ndjson));
        let text = String::from_utf8(out).expect("text");
        let seq = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect(line)["seq"].as_u64();
        (text.lines().map(|line| seq(line).expect("a number")).collect(), last.expect("printed"))
    }

    #[test]
    fn everything_is_printed_in_order_and_a_limit_keeps_the_last() {
        let all = Filter::default();
        assert_eq!(stored(&all, None), (vec![1, 2, 3, 4, 5, 6], Seq(6)));
        assert_eq!(stored(&all, Some(2)), (vec![5, 6], Seq(6)));
        assert_eq!(stored(&all, Some(9)), (vec![1, 2, 3, 4, 5, 6], Seq(6)));
    }

    #[test]
    fn a_limit_of_none_prints_nothing_and_goes_on_after_the_last_reading() {
        assert_eq!(stored(&Filter::default(), Some(0)), (vec![], Seq(6)));
    }

    #[test]
    fn a_limit_counts_only_what_was_asked_for() {
        let pump = Filter { device: DeviceName::parse("pump").ok(), since: None };
        assert_eq!(stored(&pump, Some(2)), (vec![3, 5], Seq(5)));
        let late_pump = Filter { since: Some(Wall(1004)), ..pump };
        assert_eq!(stored(&late_pump, None), (vec![5], Seq(5)));
    }

    #[test]
    fn a_device_is_known_by_its_readings_or_by_the_registry() {
        let (_root, dir, _buffer) = journal();
        let reader = BufferReader::open(&dir, &StoreOptions::default()).expect("opened");
        let name = |text| DeviceName::parse(text).expect("a name");
        assert_eq!(known(&name("pump"), &dir, &reader), Ok(()));
        assert!(matches!(known(&name("silent"), &dir, &reader), Err(Failure::Failed(_))));
        let token = forebay::identity::Token::parse("token").expect("a token");
        let mut registry = Registry::open(&dir, &StoreOptions::default()).expect("opened");
        registry.add(&name("silent"), &token.hash(), Wall(0)).expect("added");
        assert_eq!(known(&name("silent"), &dir, &reader), Ok(()));
    }

    #[test]
    fn a_page_ends_where_its_last_reading_stands() {
        let mut writer = ReadingWriter::new(Vec::new(), Format::Ndjson);
        assert_eq!(print_page(&[reading("demo", 1)], Seq(3), &mut writer), Ok(Seq(7)));
        assert_eq!(print_page(&[], Seq(3), &mut writer), Ok(Seq(3)));
    }
}
