//! The journal as the uplink sees it.

use super::*;
use crate::{
    record::{Record, Rejected, Settlement},
    session::Batch,
    store::{
        Buffer,
        test_bench::{Bench, SET, UNSET, record},
    },
};

const ALL: Stretch = Stretch { after: Seq(0), through: Seq(u64::MAX), rows_max: 100, bytes_max: 1 << 20 };

fn readings(first: u64, last: u64, device_ts: Option<i64>) -> Batch {
    let reading = |seq: u64| {
        let values = format!("{{\"n\":{seq}}}");
        Record { device_ts, ..record(seq, "pump", seq as i64, &values) }
    };
    Batch { records: (first..=last).map(reading).collect(), ..Batch::default() }
}

fn seqs(readings: &[Outbound]) -> Vec<u64> {
    readings.iter().map(|reading| reading.seq.0).collect()
}

#[test]
fn a_stretch_is_read_in_order_up_to_its_bounds() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 9, None)).expect("appended");
    assert_eq!(seqs(&buffer.outbound(&ALL).expect("read")), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let some = Stretch { after: Seq(2), through: Seq(6), ..ALL };
    assert_eq!(seqs(&buffer.outbound(&some).expect("read")), [3, 4, 5, 6]);
    assert_eq!(seqs(&buffer.outbound(&Stretch { rows_max: 2, ..some }).expect("read")), [3, 4]);
    assert_eq!(seqs(&buffer.outbound(&Stretch { bytes_max: 1, ..some }).expect("read")), [3], "at least one");
}

#[test]
fn a_reading_is_where_its_device_or_the_clock_of_its_boot_says() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 1, None)).expect("appended");
    buffer.append(&readings(2, 2, Some(77))).expect("appended");
    let times = |buffer: &mut Buffer| -> Vec<Placed> {
        buffer.outbound(&ALL).expect("read").iter().map(|reading| reading.time).collect()
    };
    assert_eq!(times(&mut buffer), [Placed::Pending(UNSET.offset_ms + 1), Placed::Given(77)]);
    buffer.set_clock(SET).expect("noted");
    assert_eq!(times(&mut buffer), [Placed::Known(SET.offset_ms + 1), Placed::Given(77)]);
}

#[test]
fn the_mark_is_found_again_and_never_goes_back() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 9, None)).expect("appended");
    let settled = |through, beyond: &[(u64, u64)]| Settlement {
        through: Seq(through),
        beyond: beyond.iter().map(|(first, last)| (Seq(*first), Seq(*last))).collect(),
        ..Settlement::default()
    };
    assert_eq!(buffer.settlement().expect("read"), Settlement::default());
    for settlement in [settled(3, &[(5, 6), (8, 8)]), settled(2, &[(8, 9)])] {
        buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
    }
    drop(buffer);
    assert_eq!(bench.buffer().settlement().expect("read"), settled(3, &[(8, 9)]));
}

#[test]
fn a_mark_alone_costs_one_page() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 300, None)).expect("appended");
    let shell = rusqlite::Connection::open(bench.dir.buffer_path()).expect("opened");
    let pages_logged = || -> i64 {
        shell.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1)).expect("checkpointed")
    };
    let mut mark = |through| {
        let beyond = vec![(Seq(through + 5), Seq(290))];
        let settlement = Settlement { through: Seq(through), beyond, ..Settlement::default() };
        buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
    };
    mark(100);
    pages_logged();
    mark(101);
    assert_eq!(pages_logged(), 1, "the log begins anew after a checkpoint");
}

#[test]
fn a_reading_the_hub_does_not_take_is_set_aside() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 3, None)).expect("appended");
    let rejected = vec![Rejected { seq: Seq(2), reason: "payload format invalid".to_owned() }];
    let settlement = Settlement { through: Seq(2), rejected, ..Settlement::default() };
    buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
    assert_eq!(buffer.rejected_len().expect("counted"), 1);
}

#[test]
fn the_place_of_a_settled_reading_is_not_given_again_though_the_journal_is_empty() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 3, None)).expect("appended");
    let settlement = Settlement { through: Seq(3), ..Settlement::default() };
    buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
    bench.sql("DELETE FROM journal");
    drop(buffer);
    assert_eq!(bench.buffer().last_seq(), Seq(3));
}

#[test]
fn a_damaged_row_is_left_out_and_counted() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 3, None)).expect("appended");
    bench.sql("UPDATE journal SET payload = '{}' WHERE seq = 2");
    assert_eq!(seqs(&buffer.outbound(&ALL).expect("read")), [1, 3]);
    assert_eq!(buffer.damaged_rows(), 1);
}
