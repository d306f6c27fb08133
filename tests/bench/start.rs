//! How long it takes from the start of the program to its listening, with a long journal.

use std::{fs::File, path::Path, time::Duration};

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    ids::{DeviceName, Seq},
    record::Record,
    session::Batch,
    store::{BootId, Buffer, DataDir, StoreOptions},
};
use rustix::fs::{Advice, fadvise};

use super::{
    alone, full,
    hub::Manners,
    served_hub::ServedHub,
    support::{
        broker::Broker,
        tell,
        wait::{SOON, until_true},
        wire::Version,
    },
};

/// Readings in one commit.
const BATCH: u64 = 50_000;
/// Readings that show that all are sound.
const SENT_ON: u64 = 5000;

#[test]
fn a_broker_with_millions_of_readings_listens_within_a_second() {
    let _alone = alone();
    let readings = if full() { 5_000_000 } else { 50_000 };
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    broker.online(Version::V311, &device, "meter").telemetry("{\"first\":1}");
    broker.stop();
    let path = broker.data_dir().join("buffer.db");
    fill(&broker.data_dir(), readings);
    let bytes = std::fs::metadata(&path).expect("there").len();
    let mut took = Vec::new();
    for _ in 0..3 {
        // As after a power cut: nothing of it is in memory.
        let file = File::open(&path).expect("there");
        file.sync_all().expect("flushed");
        fadvise(&file, 0, None, Advice::DontNeed).expect("forgotten");
        drop(file);
        broker.restart();
        took.push(broker.start_took);
        broker.kill9();
    }
    took.sort();
    tell(&format!("{readings} readings, {} MiB: listening after {took:?}", bytes >> 20));
    assert!(took[1] < Duration::from_secs(1), "{took:?}");
    // They are what they seem: the uplink takes them from the journal, and the hub takes them.
    broker.restart();
    let hub = ServedHub::start(Manners::good());
    broker.must_with_input(&["uplink", "set", &hub.url(), "--token", "-"], "TOKEN");
    until_true("the first of them are at the hub", SOON, || hub.lock().arrivals.len() as u64 >= SENT_ON);
    assert_eq!(hub.lock().complaints, [""; 0]);
    broker.stop();
}

/// Puts readings behind those there are, through the store itself: each is one the uplink would send.
fn fill(data_dir: &Path, readings: u64) {
    let dir = DataDir::open(data_dir).expect("the broker's");
    let options = StoreOptions { weaken_for_tests: true, ..StoreOptions::default() };
    let now = Now { mono: Mono(0), wall: Wall(0) };
    let clock = ClockState { offset_ms: 1_700_000_000_000, synchronised: true };
    let mut buffer =
        Buffer::open(&dir, &options, &BootId::new("an earlier one"), now, clock).expect("opened");
    let device = DeviceName::parse("pump").expect("valid");
    while buffer.last_seq().0 < readings {
        let first = buffer.last_seq().0 + 1;
        let record = |seq| Record {
            seq: Seq(seq),
            device: device.clone(),
            received: Mono(seq * 100_000),
            device_ts: None,
            values: format!("{{\"temperature\":21.5,\"humidity\":{}}}", seq % 100),
        };
        let records = (first..=readings.min(first + BATCH - 1)).map(record).collect();
        buffer.append(&Batch { records, ..Batch::default() }).expect("appended");
    }
}
