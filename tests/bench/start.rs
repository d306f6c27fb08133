//! How long it takes from the start of the program to its listening, with a long journal.

use std::{fs::File, path::Path, time::Duration};

use rusqlite::Connection;
use rustix::fs::{Advice, fadvise};

use super::{
    alone, full,
    support::{broker::Broker, tell, wire::Version},
};

#[test]
fn a_broker_with_millions_of_readings_listens_within_a_second() {
    let _alone = alone();
    let readings = if full() { 5_000_000 } else { 50_000 };
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    broker.online(Version::V311, &device, "meter").telemetry("{\"first\":1}");
    broker.stop();
    let path = broker.data_dir().join("buffer.db");
    fill(&path, readings);
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
}

/// Puts readings behind the one there is, as that one is but for their places.
fn fill(path: &Path, readings: u32) {
    let shell = Connection::open(path).expect("opened");
    shell
        .execute_batch(&format!(
            "PRAGMA synchronous=OFF;
             WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {readings})
             INSERT INTO journal SELECT n.i, device, boot, at_ms, NULL, '{{\"temperature\":21.5,\"humidity\":40}}', 0
             FROM n, journal WHERE seq = 1;
             PRAGMA wal_checkpoint(TRUNCATE);"
        ))
        .expect("filled");
}
