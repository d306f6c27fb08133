//! A data directory of its own for each test of the store.

use rusqlite::Connection;

use super::{BootId, Buffer, BufferReader, DataDir, Registry, StoreOptions};
use crate::{
    clock::{ClockState, Mono, Now, Wall},
    ids::{DeviceName, Seq},
    record::Record,
};

/// The clock a bench starts with: never synchronised, the boot at 1000 ms after 1970.
pub(super) const UNSET: ClockState = ClockState { offset_ms: 1000, synchronised: false };
/// What the clock says once it is set.
pub(super) const SET: ClockState = ClockState { offset_ms: 1_700_000_000_000, synchronised: true };

pub(super) struct Bench {
    _root: tempfile::TempDir,
    pub(super) dir: DataDir,
    pub(super) options: StoreOptions,
}

impl Bench {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(&root.path().join("data")).expect("made");
        Self { _root: root, dir, options: StoreOptions::default() }
    }

    /// The journal in boot "a", an hour after it began.
    pub(super) fn buffer(&self) -> Buffer {
        let now = Now { mono: Mono(3_600_000_000), wall: Wall(3_601_000) };
        Buffer::open(&self.dir, &self.options, &BootId::new("a"), now, UNSET).expect("opened")
    }

    pub(super) fn reader(&self) -> BufferReader {
        BufferReader::open(&self.dir, &self.options).expect("opened")
    }

    pub(super) fn registry(&self) -> Registry {
        Registry::open(&self.dir, &self.options).expect("opened")
    }

    /// The one number a query on the journal gives.
    pub(super) fn number(&self, sql: &str) -> i64 {
        let shell = Connection::open(self.dir.buffer_path()).expect("opened");
        shell.query_row(sql, [], |row| row.get(0)).expect(sql)
    }

    /// Runs SQL on the journal as a person with a shell would.
    pub(super) fn sql(&self, sql: &str) {
        let shell = Connection::open(self.dir.buffer_path()).expect("opened");
        shell.execute_batch(sql).expect("valid SQL");
    }
}

pub(super) fn name(text: &str) -> DeviceName {
    DeviceName::parse(text).expect("a valid name")
}

/// A reading received `at_ms` after boot.
pub(super) fn record(seq: u64, device: &str, at_ms: i64, values: &str) -> Record {
    let received = Mono(at_ms.unsigned_abs() * 1000);
    Record { seq: Seq(seq), device: name(device), received, device_ts: None, values: values.into() }
}
