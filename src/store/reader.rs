//! Reads the journal back, beside a running broker or without one; changes nothing.
//!
//! A reading whose checksum does not match is skipped and counted, never handed out.

use std::{cell::Cell, fmt, path::PathBuf};

use rusqlite::{Connection, Row, Statement, params, types::ValueRef};

use super::{
    checksum::JournalRow,
    data_dir::DataDir,
    error::{Attempt, StoreError},
    open::{self, StoreOptions},
    own_marks::Marks,
    placement::Placements,
    schema::JOURNAL,
    set_aside::{self, SetAside},
    settled,
};
use crate::{
    clock::Wall,
    ids::{DeviceName, Seq},
    record::SetAsideId,
};

/// Rows looked at in one read transaction: a longer one would keep the writer from starting its log anew.
const WINDOW_ROWS: usize = 1000;

const ASCENDING: &str = "
SELECT journal.seq, journal.device, journal.boot, journal.at_ms, journal.device_ts, journal.payload, journal.checksum,
       devices.name, boots.offset_ms, boots.synchronised
FROM journal
LEFT JOIN devices ON devices.device = journal.device
LEFT JOIN boots ON boots.boot = journal.boot
WHERE journal.seq > ?1 AND journal.seq < ?2 ORDER BY journal.seq LIMIT ?3";

const DESCENDING: &str = "
SELECT journal.seq, journal.device, journal.boot, journal.at_ms, journal.device_ts, journal.payload, journal.checksum,
       devices.name, boots.offset_ms, boots.synchronised
FROM journal
LEFT JOIN devices ON devices.device = journal.device
LEFT JOIN boots ON boots.boot = journal.boot
WHERE journal.seq > ?1 AND journal.seq < ?2 ORDER BY journal.seq DESC LIMIT ?3";

/// The journal, open for reading only.
#[derive(Debug)]
pub struct BufferReader {
    connection: Connection,
    path: PathBuf,
    corrupt_rows: Cell<u64>,
}

/// Which readings to give back.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only readings after this place; `Seq(0)` for all.
    pub after: Seq,
    /// Only readings of this device.
    pub device: Option<DeviceName>,
    /// Only readings of this time or later.
    pub since: Option<Wall>,
    /// At most so many.
    pub limit: usize,
    /// The last ones that match instead of the first; their order is the same.
    pub newest: bool,
}

/// A reading as the journal holds it; `Debug` does not show its values.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredReading {
    /// Its place in the journal.
    pub seq: Seq,
    /// Who sent it.
    pub device: DeviceName,
    /// The time the device gave, or else the time it was received.
    pub ts: Wall,
    /// Whether the device gave the time, or the clock has been synchronised in the boot it was received in.
    pub time_is_trusted: bool,
    /// The values: one JSON object.
    pub values: String,
}

/// How far the uplink has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkMark {
    /// Readings the hub does not have yet.
    pub waiting: u64,
    /// Readings set aside because the hub does not take them.
    pub rejected: u64,
}

impl BufferReader {
    /// Opens the journal in `dir`.
    ///
    /// # Errors
    /// [`StoreError::NotReady`] if no broker has made it yet; any other [`StoreError`] that opening can meet.
    pub fn open(dir: &DataDir, options: &StoreOptions) -> Result<BufferReader, StoreError> {
        let path = dir.buffer_path();
        let connection = open::open_reader(&path, &JOURNAL, options)?;
        Ok(BufferReader { connection, path, corrupt_rows: Cell::new(0) })
    }

    /// Readings that match `query`, in the order of their places.
    ///
    /// Reads in short transactions: what is written meanwhile may or may not be among them.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn read(&self, query: &Query) -> Result<Vec<StoredReading>, StoreError> {
        let mut found = Vec::new();
        let read = self.read_windows(query, &mut found);
        read.map_err(|e| Attempt::new("read the journal", &self.path).sql(e))?;
        if query.newest {
            found.reverse();
        }
        Ok(found)
    }

    /// The first `rows` of what is set aside, from behind `after` on: payloads, then readings.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn set_aside(&self, after: Option<SetAsideId>, rows: usize) -> Result<Vec<SetAside>, StoreError> {
        let read = Placements::read(&self.connection)
            .and_then(|placements| set_aside::page(&self.connection, &placements, after, rows));
        read.map_err(|e| Attempt::new("read the journal", &self.path).sql(e))
    }

    /// Something that was set aside, if it is there and not damaged.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn find_set_aside(&self, id: SetAsideId) -> Result<Option<SetAside>, StoreError> {
        let read = Placements::read(&self.connection)
            .and_then(|placements| set_aside::find(&self.connection, &placements, id));
        read.map_err(|e| Attempt::new("read the journal", &self.path).sql(e))
    }

    /// How far the uplink has come, as far as the disk knows.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn uplink_mark(&self) -> Result<UplinkMark, StoreError> {
        let attempt = Attempt::new("read the mark of the uplink in", &self.path);
        let read = || {
            let settled = settled::read(&self.connection)?;
            if let Some(marks) = Marks::read(&self.connection, &settled)? {
                let waiting = self.waiting_by_device(&marks)?;
                return Ok(UplinkMark { waiting, rejected: settled::rejected_len(&self.connection)? });
            }
            let ends = "SELECT coalesce((SELECT min(seq) FROM journal), 1), coalesce((SELECT max(seq) FROM journal), 0)";
            let (first, last): (i64, i64) =
                self.connection.query_row(ends, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            // Readings may have been dropped before the hub had them.
            let before = settled.through.0.max(first.unsigned_abs().saturating_sub(1));
            let behind = settled.beyond.iter().map(|(first, last)| (first.0.max(before + 1), last.0));
            let beyond: u64 = behind.map(|(first, last)| (last + 1).saturating_sub(first)).sum();
            let waiting = last.unsigned_abs().saturating_sub(before).saturating_sub(beyond);
            Ok(UplinkMark { waiting, rejected: settled::rejected_len(&self.connection)? })
        };
        read().map_err(|e: rusqlite::Error| attempt.sql(e))
    }

    /// Where devices have marks of their own, only their readings tell which are settled.
    fn waiting_by_device(&self, marks: &Marks) -> rusqlite::Result<u64> {
        let mut statement = self
            .connection
            .prepare("SELECT seq, device FROM journal WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
        let (mut after, mut waiting) = (i64::try_from(marks.lowest().0).unwrap_or(i64::MAX), 0);
        loop {
            let mut rows = statement.query(params![after, WINDOW_ROWS as i64])?;
            let mut looked_at = 0;
            while let Some(row) = rows.next()? {
                after = row.get(0)?;
                waiting += u64::from(!marks.covers(row.get(1)?, after));
                looked_at += 1;
            }
            if looked_at < WINDOW_ROWS {
                return Ok(waiting);
            }
        }
    }

    /// How many damaged rows reads have skipped so far; one that is met twice counts twice.
    pub fn corrupt_rows(&self) -> u64 {
        self.corrupt_rows.get()
    }

    fn read_windows(&self, query: &Query, found: &mut Vec<StoredReading>) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(if query.newest { DESCENDING } else { ASCENDING })?;
        let mut after = i64::try_from(query.after.0).unwrap_or(i64::MAX);
        let mut before = i64::MAX;
        while found.len() < query.limit {
            let Some(last) = self.read_window(&mut statement, (after, before), query, found)? else { break };
            if query.newest {
                before = last;
            } else {
                after = last;
            }
        }
        Ok(())
    }

    /// Reads up to [`WINDOW_ROWS`] rows between the two places; gives back the last place if there may be more.
    fn read_window(
        &self,
        statement: &mut Statement<'_>,
        (after, before): (i64, i64),
        query: &Query,
        found: &mut Vec<StoredReading>,
    ) -> rusqlite::Result<Option<i64>> {
        let mut rows = statement.query((after, before, WINDOW_ROWS as i64))?;
        let (mut seen, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            seen += 1;
            last = Some(row.get(0)?);
            match decode(row, query) {
                Some(Some(reading)) => found.push(reading),
                Some(None) => {}
                None => self.corrupt_rows.set(self.corrupt_rows.get() + 1),
            }
            if found.len() == query.limit {
                return Ok(None);
            }
        }
        Ok(last.filter(|_| seen == WINDOW_ROWS))
    }
}

/// None for a damaged row, `Some(None)` for a sound one that does not match.
fn decode(row: &Row<'_>, query: &Query) -> Option<Option<StoredReading>> {
    let (device_ts, payload) = match (value(row, 4)?, value(row, 5)?) {
        (ValueRef::Null, ValueRef::Text(payload)) => (None, payload),
        (ValueRef::Integer(ts), ValueRef::Text(payload)) => (Some(ts), payload),
        _ => return None,
    };
    let (seq, at_ms) = (integer(row, 0)?, integer(row, 3)?);
    let summed =
        JournalRow { seq, device: integer(row, 1)?, boot: integer(row, 2)?, at_ms, device_ts, payload };
    if summed.checksum() != integer(row, 6)? {
        return None;
    }
    // A row whose device or boot is unknown has lost its meaning as surely as one with a flipped bit.
    let name = value(row, 7)?.as_str().ok()?;
    let received = integer(row, 8)?.saturating_add(at_ms);
    let synchronised = integer(row, 9)? != 0;
    let ts = Wall(device_ts.unwrap_or(received));
    let matches = query.device.as_ref().is_none_or(|device| device.as_str() == name)
        && query.since.is_none_or(|since| ts >= since);
    if !matches {
        return Some(None);
    }
    Some(Some(StoredReading {
        seq: Seq(u64::try_from(seq).ok()?),
        device: DeviceName::restored(name)?,
        ts,
        time_is_trusted: device_ts.is_some() || synchronised,
        values: str::from_utf8(payload).ok()?.to_owned(),
    }))
}

fn value<'a>(row: &'a Row<'_>, column: usize) -> Option<ValueRef<'a>> {
    row.get_ref(column).ok()
}

fn integer(row: &Row<'_>, column: usize) -> Option<i64> {
    value(row, column)?.as_i64().ok()
}

impl fmt::Debug for StoredReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredReading")
            .field("seq", &self.seq.0)
            .field("device", &self.device)
            .field("ts", &self.ts.0)
            .field("time_is_trusted", &self.time_is_trusted)
            .field("values", &format_args!("{} bytes", self.values.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        clock::ClockState,
        record::Record,
        session::Batch,
        store::{
            Buffer,
            test_bench::{Bench, name, record},
        },
    };

    const ALL: Query = Query { after: Seq(0), device: None, since: None, limit: 10_000, newest: false };

    fn places(readings: &[StoredReading]) -> Vec<u64> {
        readings.iter().map(|reading| reading.seq.0).collect()
    }

    fn fill(buffer: &mut Buffer, records: Vec<Record>) {
        buffer.append(&Batch { records, ..Batch::default() }).expect("appended");
    }

    /// Readings 1 to 4 of pump, fan, pump, fan at 100, 200, 300 and 400 ms after an unsynchronised boot at 1000 ms.
    fn four() -> (Bench, Buffer, BufferReader) {
        let bench = Bench::new();
        let mut buffer = bench.buffer();
        let records =
            (1..=4).map(|seq| record(seq, ["fan", "pump"][seq as usize % 2], seq as i64 * 100, "{}"));
        fill(&mut buffer, records.collect());
        let reader = bench.reader();
        (bench, buffer, reader)
    }

    #[test]
    fn readings_come_back_as_they_were_written() {
        let bench = Bench::new();
        let mut buffer = bench.buffer();
        let mut with_ts = record(2, "fan", 7, "{\"on\":true}");
        with_ts.device_ts = Some(1_700_000_000_123);
        fill(&mut buffer, vec![record(1, "pump", 5, "{\"t\":21.50}"), with_ts]);
        let readings = bench.reader().read(&ALL).expect("read");
        let expected = [
            StoredReading {
                seq: Seq(1),
                device: name("pump"),
                ts: Wall(1005),
                time_is_trusted: false,
                values: "{\"t\":21.50}".into(),
            },
            StoredReading {
                seq: Seq(2),
                device: name("fan"),
                ts: Wall(1_700_000_000_123),
                time_is_trusted: true,
                values: "{\"on\":true}".into(),
            },
        ];
        assert!(readings == expected, "{readings:?}");
        assert!(!format!("{readings:?}").contains("21.50"));
    }

    #[test]
    fn a_query_narrows_by_place_device_and_time() {
        let (_bench, _buffer, reader) = four();
        let read = |query: Query| places(&reader.read(&query).expect("read"));
        assert_eq!(read(ALL), [1, 2, 3, 4]);
        assert_eq!(read(Query { after: Seq(2), ..ALL }), [3, 4]);
        assert_eq!(read(Query { after: Seq(u64::MAX), ..ALL }), [0; 0]);
        assert_eq!(read(Query { device: Some(name("pump")), ..ALL }), [1, 3]);
        assert_eq!(read(Query { device: Some(name("nobody")), ..ALL }), [0; 0]);
        assert_eq!(read(Query { since: Some(Wall(1300)), ..ALL }), [3, 4]);
        assert_eq!(read(Query { limit: 3, ..ALL }), [1, 2, 3]);
        assert_eq!(read(Query { limit: 0, ..ALL }), [0; 0]);
        assert_eq!(read(Query { limit: 3, newest: true, ..ALL }), [2, 3, 4]);
        assert_eq!(read(Query { limit: 1, newest: true, device: Some(name("pump")), ..ALL }), [3]);
    }

    #[test]
    fn a_query_reaches_over_many_windows() {
        let bench = Bench::new();
        let mut buffer = bench.buffer();
        let last = 2 * WINDOW_ROWS as u64 + 5;
        let device = |seq| if seq == 1 || seq == last { "rare" } else { "pump" };
        fill(&mut buffer, (1..=last).map(|seq| record(seq, device(seq), seq as i64, "{}")).collect());
        let reader = bench.reader();
        assert_eq!(reader.read(&ALL).expect("read").len() as u64, last);
        for newest in [false, true] {
            let rare = Query { device: Some(name("rare")), newest, ..ALL };
            assert_eq!(places(&reader.read(&rare).expect("read")), [1, last]);
        }
    }

    #[test]
    fn a_reader_sees_what_is_appended_and_what_the_clock_turns_out_to_be() {
        let (_bench, mut buffer, reader) = four();
        fill(&mut buffer, vec![record(5, "pump", 500, "{}")]);
        buffer.set_clock(ClockState { offset_ms: 9000, synchronised: true }).expect("set");
        let last = reader.read(&Query { limit: 1, newest: true, ..ALL }).expect("read");
        assert_eq!((last[0].seq, last[0].ts, last[0].time_is_trusted), (Seq(5), Wall(9500), true));
    }

    #[test]
    fn a_row_that_does_not_match_its_checksum_is_skipped_and_counted() {
        let changes = [
            "payload = '{\"t\":22}'",
            "checksum = checksum + 1",
            "device = 2",
            "at_ms = at_ms + 1",
            "device_ts = 0",
            "seq = 9",
        ];
        for change in changes {
            let (bench, _buffer, reader) = four();
            bench.sql(&format!("UPDATE journal SET {change} WHERE seq = 3"));
            assert_eq!(places(&reader.read(&ALL).expect("read")), [1, 2, 4], "{change}");
            assert_eq!(reader.corrupt_rows(), 1, "{change}");
        }
    }

    #[test]
    fn a_row_whose_device_or_boot_is_lost_is_skipped_and_counted() {
        for lost in ["devices WHERE name = 'pump'", "boots"] {
            let (bench, _buffer, reader) = four();
            bench.sql(&format!("DELETE FROM {lost}"));
            let left = if lost == "boots" { 0 } else { 2 };
            assert_eq!(reader.read(&ALL).expect("read").len(), left);
            assert_eq!(reader.corrupt_rows(), 4 - left as u64);
        }
    }

    #[test]
    fn readings_in_the_log_are_read_when_no_broker_runs() {
        let (bench, _buffer, _reader) = four();
        let after_power_cut = Bench::new();
        for file in ["buffer.db", "buffer.db-wal"] {
            fs::copy(bench.dir.path().join(file), after_power_cut.dir.path().join(file)).expect("copied");
        }
        for _ in 0..2 {
            let reader = after_power_cut.reader();
            assert_eq!(places(&reader.read(&ALL).expect("read")), [1, 2, 3, 4]);
        }
        assert_eq!(after_power_cut.buffer().last_seq(), Seq(4));
    }

    #[test]
    fn a_journal_closed_in_good_order_is_read_too() {
        let (bench, buffer, reader) = four();
        drop((reader, buffer));
        assert!(!bench.dir.path().join("buffer.db-wal").exists());
        assert_eq!(bench.reader().read(&ALL).expect("read").len(), 4);
    }

    #[test]
    fn a_journal_that_does_not_exist_is_not_made_and_says_what_to_do() {
        let bench = Bench::new();
        let error = BufferReader::open(&bench.dir, &bench.options).expect_err("nothing there");
        assert!(matches!(error, StoreError::NotReady { .. }));
        assert!(error.to_string().contains("start the broker once"), "{error}");
        assert!(!bench.dir.buffer_path().exists());
        fs::write(bench.dir.buffer_path(), "").expect("an empty file");
        let error = BufferReader::open(&bench.dir, &bench.options).expect_err("no table in it");
        assert!(matches!(error, StoreError::NotReady { .. }));
    }
}
