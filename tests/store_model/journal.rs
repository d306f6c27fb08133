//! Random calls on the journal, made on the model and on SQLite.

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    ids::{DeviceName, Seq},
    record::{Quarantined, Record},
    session::Batch,
    store::{BootId, Buffer, BufferReader, Query, StoreOptions},
};

use crate::{
    chance::Chance,
    model::{Found, Journal},
    place::Place,
};

const QUARANTINE_ROWS: u32 = 5;

/// Both journals, and the time.
pub struct Both<'a> {
    place: &'a Place,
    options: StoreOptions,
    chance: Chance,
    model: Journal,
    buffer: Option<Buffer>,
    boot: u64,
    now_ms: i64,
    clock: ClockState,
}

impl<'a> Both<'a> {
    pub fn new(place: &'a Place, seed: u64) -> Self {
        let mut both = Self {
            place,
            options: StoreOptions { quarantine_rows: QUARANTINE_ROWS, ..place.options() },
            chance: Chance::new(seed),
            model: Journal::default(),
            buffer: None,
            boot: 1,
            now_ms: 1_000,
            clock: ClockState { offset_ms: 5, synchronised: false },
        };
        both.start();
        both
    }

    /// Makes one call on both, and compares what can be seen.
    pub fn call(&mut self) {
        self.now_ms += self.chance.below(100) as i64;
        match self.chance.below(20) {
            0..9 => self.append(),
            9..11 => self.set_clock(),
            11 => self.checkpoint(),
            12 => self.reopen(),
            13 => {
                self.pass_boots();
                self.start();
            }
            _ => self.query(),
        }
        let buffer = self.buffer.as_ref().expect("open");
        assert_eq!(buffer.last_seq(), self.model.last_seq());
        assert_eq!(buffer.quarantine_len().expect("counted"), self.model.quarantine_len());
        assert_eq!(buffer.quarantine_dropped(), self.model.quarantine_dropped());
    }

    fn start(&mut self) {
        self.buffer = None;
        let id = format!("boot-{}", self.boot);
        let now = Now { mono: Mono(self.now_ms.unsigned_abs() * 1000), wall: Wall(0) };
        let opened = Buffer::open(&self.place.dir(), &self.options, &BootId::new(&id), now, self.clock);
        self.buffer = Some(opened.expect("opened"));
        self.model.open(&id, self.now_ms, self.clock);
    }

    /// The program is started again: in the same boot, in another, or in the same with another idea of time.
    fn pass_boots(&mut self) {
        match self.chance.below(3) {
            0 => {}
            1 => {
                self.boot += 1;
                self.now_ms = self.chance.below(2_000) as i64;
                self.clock.synchronised = false;
            }
            _ => self.now_ms = self.chance.below(self.now_ms.unsigned_abs() + 1) as i64,
        }
    }

    fn append(&mut self) {
        let mut seq = self.model.last_seq();
        let mut batch = Batch::default();
        for _ in 0..self.chance.below(5) {
            seq = seq.next();
            batch.records.push(self.record(seq));
        }
        if self.chance.below(4) == 0 {
            batch.quarantined.extend((0..self.chance.below(8)).map(|n| Quarantined {
                device: device(n),
                received: Mono(self.now_ms.unsigned_abs() * 1000),
                topic: "v1/devices/me/telemetry".into(),
                reason: "not JSON".into(),
                payload: n.to_be_bytes().to_vec(),
            }));
        }
        self.buffer.as_mut().expect("open").append(&batch).expect("stored");
        self.model.append(&batch, QUARANTINE_ROWS as usize);
    }

    fn record(&mut self, seq: Seq) -> Record {
        let filler = "x".repeat(self.chance.below(300) as usize);
        Record {
            seq,
            device: device(self.chance.below(4)),
            received: Mono(self.now_ms.unsigned_abs() * 1000),
            device_ts: self.chance.coin().then(|| self.chance.below(100_000) as i64 - 50_000),
            values: format!("{{\"seq\":{},\"filler\":\"{filler}\"}}", seq.0),
        }
    }

    fn set_clock(&mut self) {
        self.clock = ClockState {
            offset_ms: self.chance.below(100_000) as i64 - 50_000,
            synchronised: self.chance.coin(),
        };
        self.buffer.as_mut().expect("open").set_clock(self.clock).expect("noted");
        self.model.set_clock(self.clock);
    }

    fn checkpoint(&mut self) {
        self.buffer.as_mut().expect("open").checkpoint().expect("done");
    }

    fn reopen(&mut self) {
        self.buffer.as_mut().expect("open").reopen().expect("opened again");
    }

    fn query(&mut self) {
        let last = self.model.last_seq().0;
        let query = Query {
            after: Seq(if self.chance.coin() { 0 } else { self.chance.below(last + 3) }),
            device: self.chance.coin().then(|| device(self.chance.below(5))),
            since: self.chance.coin().then(|| Wall(self.chance.below(100_000) as i64 - 50_000)),
            limit: if self.chance.coin() { usize::MAX } else { self.chance.below(30) as usize },
            newest: self.chance.coin(),
        };
        let reader = BufferReader::open(&self.place.dir(), &self.options).expect("opened");
        let found = reader.read(&query).expect("read");
        let found: Vec<Found> = found
            .into_iter()
            .map(|r| Found {
                seq: r.seq,
                device: r.device,
                ts: r.ts,
                time_is_trusted: r.time_is_trusted,
                values: r.values,
            })
            .collect();
        assert_eq!(found, self.model.read(&query), "{query:?}");
        assert_eq!(reader.corrupt_rows(), 0);
    }
}

fn device(n: u64) -> DeviceName {
    DeviceName::parse(&format!("device-{n}")).expect("a valid name")
}
