//! Devices with marks of their own: what is read for whom, what is settled of whom, and what may leave the journal.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{
    clock::Mono,
    limits::UPLINK_PAGE_LOOKED_AT,
    record::Record,
    session::Batch,
    store::{
        Budget, Buffer, DiskSpace, Found, NextStep, Policy, Stretch, Whose,
        test_bench::{Bench, name, record},
    },
};

const ALL: Stretch =
    Stretch { after: Seq(0), through: Seq(u64::MAX), rows_max: 100_000, bytes_max: usize::MAX };
const NOW: Mono = Mono(3_600_000_000);
const SECOND: Duration = Duration::from_secs(1);
const ROOMY: Budget = Budget {
    max_bytes: 1 << 30,
    keep_free: 1 << 20,
    max_age: None,
    keep_uploaded: false,
    policy: Policy::DropOldest,
};

#[test]
fn each_uplink_reads_its_own_and_is_told_how_far_was_looked() {
    let (_bench, mut buffer) = with_readings(&["pump", "hall", "roof"], 9);
    let (pump, roof) = (name("pump"), name("roof"));
    let end = Seq(9);
    let through = Stretch { through: end, ..ALL };
    assert_eq!(found(&mut buffer, &Whose::Only(&pump), &through), (vec![1, 4, 7], end));
    let others = BTreeSet::from([pump.clone(), roof]);
    assert_eq!(found(&mut buffer, &Whose::AllBut(&others), &through), (vec![2, 5, 8], end));
    let two = Stretch { rows_max: 2, ..through };
    assert_eq!(found(&mut buffer, &Whose::Only(&pump), &two), (vec![1, 4], Seq(4)));
    assert_eq!(found(&mut buffer, &Whose::Only(&name("nobody")), &through), (vec![], end));
}

#[test]
fn a_search_ends_after_so_many_readings_and_skips_places_that_are_gone() {
    let (bench, mut buffer) = with_readings(&["hall"], 5_000);
    buffer.append(&readings(&["pump"], 5_001, 5_001)).expect("appended");
    let pump = name("pump");
    let (none, looked) = found(&mut buffer, &Whose::Only(&pump), &ALL);
    assert_eq!((none, looked), (vec![], Seq(1 + UPLINK_PAGE_LOOKED_AT)));
    let on = Stretch { after: looked, ..ALL };
    assert_eq!(found(&mut buffer, &Whose::Only(&pump), &on).1, Seq(looked.0 + 1 + UPLINK_PAGE_LOOKED_AT));
    bench.sql("DELETE FROM journal WHERE seq <= 4990");
    let through = Stretch { through: Seq(5_001), ..ALL };
    assert_eq!(found(&mut buffer, &Whose::Only(&pump), &through), (vec![5_001], Seq(5_001)));
}

#[test]
fn a_mark_begins_where_everybodys_is_and_goes_its_own_way() {
    let (bench, mut buffer) = with_readings(&["pump", "hall"], 10);
    settle(&mut buffer, None, 4);
    buffer.begin_own_marks(&[name("pump")]).expect("begun");
    settle(&mut buffer, Some("pump"), 7);
    settle(&mut buffer, None, 10);
    settle(&mut buffer, Some("hall"), 9);
    buffer.begin_own_marks(&[name("pump")]).expect("a second time");
    drop(buffer);
    let buffer = bench.buffer();
    let own = buffer.own_settlements().expect("read");
    let expected = Settlement { of: Some(name("pump")), through: Seq(7), ..Settlement::default() };
    assert_eq!(own, BTreeMap::from([(name("pump"), expected)]), "hall has none to write");
    assert_eq!(buffer.settlement().expect("read").through, Seq(10));
}

#[test]
fn what_waits_when_an_own_mark_ends_waits_for_everybodys_uplink() {
    let (_bench, mut buffer) = with_readings(&["pump", "hall"], 10);
    buffer.begin_own_marks(&[name("pump"), name("hall")]).expect("begun");
    settle(&mut buffer, None, 10);
    settle(&mut buffer, Some("pump"), 5);
    settle(&mut buffer, Some("hall"), 10);
    buffer.end_own_marks(&[name("hall"), name("pump"), name("nobody")]).expect("ended");
    assert_eq!(buffer.own_settlements().expect("read"), BTreeMap::new());
    assert_eq!(buffer.settlement().expect("read").through, Seq(6), "7 is the first of the pump's that waits");
}

#[test]
fn a_place_an_own_mark_speaks_of_is_not_given_again() {
    let (bench, mut buffer) = with_readings(&["pump"], 5);
    buffer.begin_own_marks(&[name("pump")]).expect("begun");
    settle(&mut buffer, Some("pump"), 5);
    bench.sql("DELETE FROM journal");
    drop(buffer);
    assert_eq!(bench.buffer().last_seq(), Seq(5));
}

#[test]
fn readings_leave_from_the_front_as_far_as_each_is_settled_for_its_device() {
    let (_bench, mut buffer) = with_readings(&["pump", "hall"], 2_000);
    buffer.begin_own_marks(&[name("pump"), name("idle")]).expect("begun");
    settle(&mut buffer, Some("pump"), 1_501);
    settle(&mut buffer, None, 1_200);
    let (uploaded, lost) = tidy(&mut buffer, &ROOMY, NOW);
    assert_eq!((uploaded, lost), (1_000, 0), "as long as a piece is worth it");
    assert_eq!(tidy(&mut buffer, &ROOMY, NOW + 100 * SECOND), (100, 0), "and the rest in time");
    assert_eq!(tidy(&mut buffer, &ROOMY, NOW + 200 * SECOND), (100, 0));
    assert_eq!(tidy(&mut buffer, &ROOMY, NOW + 300 * SECOND), (1, 0));
    assert_eq!(left(&mut buffer), (1_202..=2_000).collect::<Vec<_>>(), "1202 is hall's and waits");
}

#[test]
fn for_want_of_room_what_the_hub_has_goes_before_what_waits_wherever_it_lies() {
    let (_bench, mut buffer) = with_readings(&["stuck", "pump", "hall"], 6_000);
    buffer.begin_own_marks(&[name("stuck"), name("pump")]).expect("begun");
    settle(&mut buffer, Some("pump"), 6_000);
    settle(&mut buffer, None, 6_000);
    let tight = Budget { max_bytes: 1_000_000, ..ROOMY };
    let (uploaded, lost) = tidy(&mut buffer, &tight, NOW);
    assert!(uploaded > 1_000 && lost == 0, "{uploaded} and {lost}");
    let waiting = left(&mut buffer);
    assert!((1..=6_000).step_by(3).all(|seq| waiting.contains(&seq)), "the stuck device's are all there");
    buffer.append(&readings(&["stuck"], 6_001, 9_000)).expect("appended");
    let (_, lost) = tidy(&mut buffer, &tight, NOW + 120 * SECOND);
    assert!(lost > 0, "only then are readings lost");
    assert_eq!(buffer.lost().no_space, lost);
}

/// Readings of `devices` in turn.
fn readings(devices: &[&str], first: u64, last: u64) -> Batch {
    let reading = |seq: u64| {
        let values = format!("{{\"n\":\"{}\"}}", "x".repeat(160));
        record(seq, devices[(seq as usize - 1) % devices.len()], seq as i64, &values)
    };
    let records: Vec<Record> = (first..=last).map(reading).collect();
    Batch { records, ..Batch::default() }
}

fn with_readings(devices: &[&str], count: u64) -> (Bench, Buffer) {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(devices, 1, count)).expect("appended");
    (bench, buffer)
}

fn settle(buffer: &mut Buffer, of: Option<&str>, through: u64) {
    let settlement = Settlement { of: of.map(name), through: Seq(through), ..Settlement::default() };
    buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
}

fn found(buffer: &mut Buffer, whose: &Whose<'_>, stretch: &Stretch) -> (Vec<u64>, Seq) {
    let Found { readings, looked_through } = buffer.outbound_of(whose, stretch).expect("read");
    (readings.iter().map(|reading| reading.seq.0).collect(), looked_through)
}

fn left(buffer: &mut Buffer) -> Vec<u64> {
    found(buffer, &Whose::Everybody, &ALL).0
}

/// Steps until there is nothing to do; gives back how many the hub has, and how many were lost.
fn tidy(buffer: &mut Buffer, budget: &Budget, now: Mono) -> (u64, u64) {
    let disk = DiskSpace { total: 1 << 40, free: 1 << 40, journal: 0, log: 0, others: 0 };
    let (mut uploaded, mut lost) = (0, 0);
    for _ in 0..10_000 {
        let done = buffer.keep_house(budget, &disk, now, 100).expect("kept");
        uploaded += done.uploaded;
        lost += done.lost.total();
        if done.next != NextStep::Now {
            return (uploaded, lost);
        }
    }
    panic!("there is no end to it");
}
