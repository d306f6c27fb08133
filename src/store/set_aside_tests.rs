//! Payloads and rejected readings, listed, looked at and removed.

use super::*;
use crate::{
    clock::Mono,
    record::{Quarantined, Rejected, Settlement},
    session::Batch,
    store::{
        Buffer,
        test_bench::{Bench, SET, UNSET, name, record},
    },
};

/// Two payloads in quarantine, and of readings 1 to 3 the last two rejected.
fn with_both() -> (Bench, Buffer) {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    let payload = |bytes: &[u8]| Quarantined {
        device: name("fan"),
        received: Mono(7000),
        topic: "v1/devices/me/telemetry".into(),
        reason: "not JSON".into(),
        payload: bytes.to_vec(),
    };
    let mut own_time = record(3, "pump", 3, "{\"n\":3}");
    own_time.device_ts = Some(77);
    let records = vec![record(1, "pump", 1, "{}"), record(2, "pump", 2, "{\"n\":2}"), own_time];
    let quarantined = vec![payload(b"\xff\0"), payload(b"{")];
    buffer.append(&Batch { records, quarantined, ..Batch::default() }).expect("appended");
    let rejected = [2, 3].map(|seq| Rejected { seq: Seq(seq), reason: "too deep".into() }).to_vec();
    let settlement = Settlement { of: None, through: Seq(3), beyond: Vec::new(), rejected };
    buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
    (bench, buffer)
}

fn ids(found: &[SetAside]) -> String {
    found.iter().map(|found| found.id.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn everything_set_aside_is_listed_page_by_page() {
    let (bench, _buffer) = with_both();
    let reader = bench.reader();
    let page = |after, rows| ids(&reader.set_aside(after, rows).expect("read"));
    assert_eq!(page(None, 9), "p1 p2 r2 r3");
    assert_eq!(page(None, 3), "p1 p2 r2");
    assert_eq!(page(Some(SetAsideId::Payload(1)), 2), "p2 r2");
    assert_eq!(page(Some(SetAsideId::Payload(2)), 1), "r2");
    assert_eq!(page(Some(SetAsideId::Reading(Seq(2))), 9), "r3");
    assert_eq!(page(Some(SetAsideId::Reading(Seq(3))), 9), "");
}

#[test]
fn one_is_found_with_all_that_is_known_of_it() {
    let (_bench, mut buffer) = with_both();
    let payload = buffer.set_aside(SetAsideId::Payload(1)).expect("read").expect("there");
    let expected = SetAside {
        id: SetAsideId::Payload(1),
        device: name("fan"),
        time: Placed::Pending(UNSET.offset_ms + 7),
        reason: "not JSON".into(),
        topic: Some("v1/devices/me/telemetry".into()),
        payload: vec![0xFF, 0],
    };
    assert_eq!(payload, expected);
    buffer.set_clock(SET).expect("noted");
    let reading = buffer.set_aside(SetAsideId::Reading(Seq(2))).expect("read").expect("there");
    assert_eq!((reading.time, reading.topic), (Placed::Known(SET.offset_ms + 2), None));
    assert_eq!((reading.payload, reading.reason), (b"{\"n\":2}".to_vec(), "too deep".into()));
    let own_time = buffer.set_aside(SetAsideId::Reading(Seq(3))).expect("read").expect("there");
    assert_eq!(own_time.time, Placed::Given(77));
    for missing in [SetAsideId::Reading(Seq(1)), SetAsideId::Reading(Seq(0)), SetAsideId::Payload(3)] {
        assert_eq!(buffer.set_aside(missing).expect("read"), None);
    }
}

#[test]
fn a_reading_is_removed_in_the_commit_that_stores_it_again() {
    let (bench, mut buffer) = with_both();
    let over = vec![SetAsideId::Reading(Seq(2)), SetAsideId::Payload(1)];
    let records = vec![record(4, "pump", 9, "{\"n\":2}")];
    buffer.append(&Batch { records, over, ..Batch::default() }).expect("appended");
    assert_eq!(ids(&bench.reader().set_aside(None, 9).expect("read")), "p2 r3");
    assert_eq!(buffer.last_seq(), Seq(4));
}
