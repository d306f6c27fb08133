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
    let mark = buffer.settlement().expect("read").through;
    assert_eq!(mark, Seq(5), "where the pump's was");
    let on = Stretch { after: mark, through: Seq(10), ..ALL };
    assert_eq!(found(&mut buffer, &Whose::Everybody, &on), (vec![7, 9], Seq(10)), "hall's are settled");
}

#[test]
fn an_own_mark_ends_without_a_look_at_the_journal() {
    let (bench, mut buffer) = with_readings(&["pump", "hall"], 10);
    buffer.begin_own_marks(&[name("pump")]).expect("begun");
    settle(&mut buffer, None, 10);
    bench.sql("DROP VIEW readings; DROP TABLE journal");
    buffer.end_own_marks(&[name("pump")]).expect("ended");
}

#[test]
fn everybodys_mark_catches_up_in_bounded_pages_and_then_stands_alone() {
    let (bench, mut buffer) = with_readings(&["pump"], 5);
    buffer.append(&readings(&["hall"], 6, 5_000)).expect("appended");
    buffer.begin_own_marks(&[name("pump")]).expect("begun");
    settle(&mut buffer, Some("pump"), 3);
    settle(&mut buffer, None, 5_000);
    buffer.end_own_marks(&[name("pump")]).expect("ended");
    drop(buffer);
    let mut buffer = bench.buffer();
    let pages: Vec<_> = std::iter::from_fn(|| {
        let after = buffer.settlement().expect("read").through;
        let on = Stretch { after, through: Seq(5_000), ..ALL };
        (after < on.through).then(|| {
            let page = found(&mut buffer, &Whose::Everybody, &on);
            settle(&mut buffer, None, page.1.0);
            page
        })
    })
    .collect();
    let (first, second) = (Seq(4 + UPLINK_PAGE_LOOKED_AT), Seq(5 + 2 * UPLINK_PAGE_LOOKED_AT));
    assert_eq!(pages, [(vec![4, 5], first), (vec![], second), (vec![], Seq(5_000))]);
    assert_eq!(bench.number("SELECT count(*) FROM settled_devices"), 0);
    assert_eq!(bench.number("SELECT catches_up_through + others_through FROM settled"), 0);
    assert_eq!(bench.buffer().last_seq(), Seq(5_000));
}

#[test]
fn readings_leave_as_far_as_each_is_settled_while_everybodys_mark_catches_up() {
    let (_bench, mut buffer) = with_readings(&["pump", "hall"], 1_000);
    buffer.begin_own_marks(&[name("pump")]).expect("begun");
    settle(&mut buffer, Some("pump"), 500);
    settle(&mut buffer, None, 1_000);
    buffer.end_own_marks(&[name("pump")]).expect("ended");
    let tight = Budget { max_bytes: 1, ..ROOMY };
    assert_eq!(tidy(&mut buffer, &tight, NOW), (750, 0), "all to 500, and hall's behind");
    assert_eq!(left(&mut buffer), (501..=1_000).step_by(2).collect::<Vec<_>>());
}

/// Devices come and go from having marks of their own while readings come, are sent, and the power fails.
#[test]
fn whatever_marks_begin_and_end_each_reading_is_sent_once_and_in_order() {
    const DEVICES: [&str; 4] = ["pump", "hall", "roof", "well"];
    for seed in 1..=20_u64 {
        let mut chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut draw = |bound: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % bound
        };
        let bench = Bench::new();
        let mut buffer = bench.buffer();
        let (mut own, mut last) = (BTreeSet::new(), 0);
        let mut sent: BTreeMap<DeviceName, Vec<u64>> = BTreeMap::new();
        for _ in 0..120 {
            let device = name(DEVICES[draw(4) as usize]);
            match draw(8) {
                0 | 1 => {
                    let count = 1 + draw(12);
                    let devices: Vec<&str> = (0..count).map(|_| DEVICES[draw(4) as usize]).collect();
                    let records =
                        devices.iter().zip(last + 1..).map(|(device, seq)| record(seq, device, 1, "{}"));
                    let batch = Batch { records: records.collect(), ..Batch::default() };
                    buffer.append(&batch).expect("appended");
                    last += count;
                }
                2 if own.insert(device.clone()) => buffer.begin_own_marks(&[device]).expect("begun"),
                3 if own.remove(&device) => buffer.end_own_marks(&[device]).expect("ended"),
                4 => {
                    drop(buffer);
                    buffer = bench.buffer();
                    assert_eq!(buffer.last_seq(), Seq(last));
                }
                5 if own.contains(&device) => {
                    upload(&mut buffer, Some(&device), &own, 1 + draw(5) as usize, &mut sent)
                }
                _ => upload(&mut buffer, None, &own, 1 + draw(5) as usize, &mut sent),
            }
        }
        for device in own.clone() {
            upload(&mut buffer, Some(&device), &own, usize::MAX, &mut sent);
        }
        upload(&mut buffer, None, &own, usize::MAX, &mut sent);
        let mut all: Vec<u64> = sent.values().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (1..=last).collect::<Vec<_>>(), "seed {seed}: each once");
        assert!(sent.values().all(|seqs| seqs.is_sorted()), "seed {seed}: {sent:?}");
        let marks: i64 = bench.number("SELECT count(*) FROM settled_devices WHERE ended = 1");
        assert_eq!(marks, 0, "seed {seed}: everybody's has caught up");
    }
}

/// One page of an uplink that begins where the disk says, all of it taken by the hub.
fn upload(
    buffer: &mut Buffer,
    device: Option<&DeviceName>,
    own: &BTreeSet<DeviceName>,
    rows_max: usize,
    sent: &mut BTreeMap<DeviceName, Vec<u64>>,
) {
    let mark = match device {
        None => buffer.settlement().expect("read").through,
        Some(device) => buffer.own_settlements().expect("read")[device].through,
    };
    let whose = device.map_or(Whose::AllBut(own), Whose::Only);
    let stretch = Stretch { after: mark, through: buffer.last_seq(), rows_max, bytes_max: usize::MAX };
    let Found { readings, looked_through } = buffer.outbound_of(&whose, &stretch).expect("read");
    for reading in readings {
        sent.entry(reading.device).or_default().push(reading.seq.0);
    }
    settle(buffer, device.map(DeviceName::as_str), looked_through.0.max(mark.0));
}

#[test]
fn what_either_mark_settles_is_settled_by_both_together() {
    let mark = |through, beyond: &[(u64, u64)]| Settlement {
        through: Seq(through),
        beyond: beyond.iter().map(|(first, last)| (Seq(*first), Seq(*last))).collect(),
        ..Settlement::default()
    };
    let both = union(&mark(5, &[(8, 9), (20, 30)]), &mark(3, &[(6, 6), (9, 12), (40, 40)]));
    assert_eq!(both, mark(6, &[(8, 12), (20, 30), (40, 40)]));
    assert_eq!(union(&mark(0, &[(2, 3)]), &mark(1, &[])), mark(3, &[]));
    assert_eq!(union(&mark(9, &[]), &mark(1, &[(3, 4)])), mark(9, &[]));
    let many: Vec<(u64, u64)> =
        (0..=UPLINK_STRETCHES as u64).map(|n| (10 * n + 2, 10 * n + 2 + n % 7)).collect();
    let kept = union(&mark(0, &many), &mark(0, &[]));
    assert_eq!(kept.beyond.len(), UPLINK_STRETCHES);
    assert!(kept.beyond.is_sorted());
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
