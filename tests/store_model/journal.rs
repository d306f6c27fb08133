//! Random calls on the journal, made on the model and on SQLite.

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    ids::{DeviceName, Seq},
    record::{Placed, Quarantined, Record, Rejected, Settlement},
    session::Batch,
    store::{
        BootId, Budget, Buffer, BufferReader, DiskSpace, Housekeeping, Losses, NextStep, Policy, Query,
        StoreOptions, Stretch,
    },
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
        match self.chance.below(24) {
            0..9 => self.append(),
            9..11 => self.set_clock(),
            11 => self.checkpoint(),
            12 => self.reopen(),
            13 => {
                self.pass_boots();
                self.start();
            }
            14..16 => self.settle(),
            16..18 => self.keep_house(),
            18 => self.outbound(),
            _ => self.query(),
        }
        let buffer = self.buffer.as_ref().expect("open");
        assert_eq!(buffer.last_seq(), self.model.last_seq());
        assert_eq!(buffer.quarantine_len().expect("counted"), self.model.quarantine_len());
        assert_eq!(buffer.quarantine_dropped(), self.model.quarantine_dropped());
        assert_eq!(buffer.settlement().expect("read"), *self.model.settlement());
        assert_eq!(buffer.rejected_len().expect("counted"), self.model.rejected_len());
        assert_eq!(buffer.lost(), self.model.lost());
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
        let many = self.chance.below(60) == 0;
        for _ in 0..if many { 600 } else { self.chance.below(5) } {
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
        let filler = "x".repeat(self.chance.below(200) as usize);
        Record {
            seq,
            device: device(self.chance.below(4)),
            received: Mono(self.now_ms.unsigned_abs() * 1000),
            device_ts: self.chance.coin().then(|| self.chance.below(100_000) as i64 - 50_000),
            values: format!("{{\"seq\":{},\"filler\":\"{filler}\"}}", seq.0),
        }
    }

    /// The hub has taken what was next, and perhaps something of what is new; a reading of it, it has not.
    fn settle(&mut self) {
        let places = self.model.places();
        let Some(last) = places.last() else { return };
        let before = self.model.settlement().through;
        let mut through = before;
        if self.chance.coin() {
            through = Seq(before.0 + self.chance.below(last.0 + 1 - before.0.min(last.0)) / 2);
        }
        let mut beyond = Vec::new();
        let mut end = through.0 + 1;
        while self.chance.coin() && end + 4 < last.0 {
            let first = end + 1 + self.chance.below(2);
            end = first + self.chance.below(last.0 - first);
            beyond.push((Seq(first), Seq(end)));
            end += 1;
        }
        let poison = places.iter().filter(|seq| **seq > before && **seq <= through && seq.0 % 7 == 0);
        let rejected = poison.map(|seq| Rejected { seq: *seq, reason: "not valid".to_owned() }).collect();
        let settlement = Settlement { of: None, through, beyond, rejected };
        let batch = Batch { settlements: vec![settlement], ..Batch::default() };
        self.buffer.as_mut().expect("open").append(&batch).expect("stored");
        self.model.append(&batch, QUARANTINE_ROWS as usize);
    }

    fn keep_house(&mut self) {
        let is_short = self.chance.coin();
        let age_ms = self.chance.coin().then(|| self.chance.below(4000));
        let budget = Budget {
            max_bytes: if is_short { 200 << 10 } else { 1 << 30 },
            keep_free: 1,
            max_age: age_ms.map(std::time::Duration::from_millis),
            keep_uploaded: self.chance.coin(),
            policy: if self.chance.coin() { Policy::DropOldest } else { Policy::RefuseNew },
        };
        let disk = DiskSpace { free: self.chance.below(2), ..DiskSpace::default() };
        let may = Losses {
            too_old: age_ms.map_or(0, |_| u64::MAX),
            no_space: if budget.policy == Policy::DropOldest && (is_short || disk.free == 0) {
                u64::MAX
            } else {
                0
            },
            rejected: 0,
        };
        let now = Mono(self.now_ms.unsigned_abs() * 1000);
        for _ in 0..self.chance.below(20) {
            let rows_max = 1 + self.chance.below(100) as u32;
            let buffer = self.buffer.as_mut().expect("open");
            let done: Housekeeping = buffer.keep_house(&budget, &disk, now, rows_max).expect("kept");
            assert!(done.uploaded + done.lost.total() <= rows_max.into());
            let left: Vec<Seq> =
                self.read_outbound(Seq(0), Seq(u64::MAX)).into_iter().map(|(seq, ..)| seq).collect();
            self.model.keep_house(&left, &done, &may);
            if done.next != NextStep::Now {
                break;
            }
        }
    }

    fn outbound(&mut self) {
        let last = self.model.last_seq().0;
        let after = Seq(self.chance.below(last + 2));
        let through = Seq(self.chance.below(last + 2));
        let found = self.read_outbound(after, through);
        let expected = self.model.outbound(after, through);
        assert_eq!(found.len(), expected.len());
        for ((seq, time, values), (expected_seq, expected_time, expected_values)) in
            found.into_iter().zip(expected)
        {
            assert_eq!((seq, values), (expected_seq, expected_values));
            match expected_time {
                Some(expected) => assert_eq!(time, expected),
                None => assert!(matches!(time, Placed::Pending(_) | Placed::Estimated(_)), "{time:?}"),
            }
        }
    }

    fn read_outbound(&mut self, after: Seq, through: Seq) -> Vec<(Seq, Placed, String)> {
        let stretch = Stretch { after, through, rows_max: usize::MAX, bytes_max: usize::MAX };
        let found = self.buffer.as_mut().expect("open").outbound(&stretch).expect("read");
        found.into_iter().map(|reading| (reading.seq, reading.time, reading.values)).collect()
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
