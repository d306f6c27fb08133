//! The journal under a budget: what leaves it, what is counted, and how long its file is.

use std::fs;

use super::*;
use crate::{
    record::{Quarantined, Record, Rejected},
    session::Batch,
    store::{
        Buffer, Stretch,
        test_bench::{Bench, SET, name, record},
    },
};

const HOUR_MS: i64 = 3_600_000;
/// An hour after boot "a" began; readings of these tests were received in its first seconds.
const NOW: Mono = Mono(3_600_000_000);
const PLENTY: DiskSpace = DiskSpace { total: 1 << 40, free: 1 << 40, journal: 0, log: 0, others: 0 };
const ROOMY: Budget = Budget {
    max_bytes: 1 << 30,
    keep_free: 1 << 20,
    max_age: None,
    keep_uploaded: false,
    policy: Policy::DropOldest,
};

/// Readings of about 200 bytes, each a millisecond after the one before.
fn readings(first: u64, last: u64) -> Batch {
    let reading = |seq: u64| record(seq, "pump", seq as i64, &format!("{{\"n\":\"{}\"}}", "x".repeat(160)));
    let records: Vec<Record> = (first..=last).map(reading).collect();
    Batch { records, ..Batch::default() }
}

fn with_readings(count: u64) -> (Bench, Buffer) {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, count)).expect("appended");
    (bench, buffer)
}

fn settle(buffer: &mut Buffer, through: u64, beyond: &[(u64, u64)]) {
    let beyond = beyond.iter().map(|(first, last)| (Seq(*first), Seq(*last))).collect();
    let settlement = Settlement { through: Seq(through), beyond, ..Settlement::default() };
    buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
}

/// Steps until there is nothing to do; gives back the sums, and what the last step said.
fn tidy(buffer: &mut Buffer, budget: &Budget, disk: &DiskSpace, now: Mono) -> Housekeeping {
    let (mut uploaded, mut lost) = (0, Losses::default());
    for _ in 0..10_000 {
        let done = buffer.keep_house(budget, disk, now, 100).expect("kept");
        uploaded += done.uploaded;
        lost += done.lost;
        if done.next != NextStep::Now {
            return Housekeeping { uploaded, lost, ..done };
        }
    }
    panic!("there is no end to it");
}

fn left(buffer: &mut Buffer) -> Vec<u64> {
    let all = Stretch { after: Seq(0), through: Seq(u64::MAX), rows_max: 100_000, bytes_max: usize::MAX };
    buffer.outbound(&all).expect("read").iter().map(|reading| reading.seq.0).collect()
}

fn file_pages(bench: &Bench) -> i64 {
    fs::metadata(bench.dir.buffer_path()).expect("a file").len() as i64 / 1024
}

#[test]
fn readings_the_hub_has_leave_when_there_are_many_or_when_they_have_waited() {
    let (_bench, mut buffer) = with_readings(1000);
    settle(&mut buffer, 600, &[]);
    let done = tidy(&mut buffer, &ROOMY, &PLENTY, NOW);
    assert_eq!((done.uploaded, done.lost), (400, Losses::default()), "in steps of a hundred");
    assert_eq!(done.next, NextStep::At(NOW + SWEEP_WAIT), "a removal is a commit, so the rest waits");
    let later = NOW + SWEEP_WAIT;
    assert_eq!(tidy(&mut buffer, &ROOMY, &PLENTY, later).uploaded, 100);
    let much_later = later + SWEEP_WAIT;
    assert_eq!(tidy(&mut buffer, &ROOMY, &PLENTY, much_later).uploaded, 100);
    assert_eq!(tidy(&mut buffer, &ROOMY, &PLENTY, much_later + SWEEP_WAIT).next, NextStep::AfterCommit);
    assert_eq!(left(&mut buffer), (601..=1000).collect::<Vec<_>>());
}

#[test]
fn what_the_hub_has_is_kept_for_local_queries_if_that_is_wanted_and_there_is_room() {
    let (_bench, mut buffer) = with_readings(3000);
    settle(&mut buffer, 600, &[]);
    let keeping = Budget { keep_uploaded: true, ..ROOMY };
    let done = tidy(&mut buffer, &keeping, &PLENTY, NOW + 2 * SWEEP_WAIT);
    assert_eq!((done.uploaded, done.next), (0, NextStep::AfterCommit));
    let tight = DiskSpace { free: 0, ..PLENTY };
    assert_eq!(tidy(&mut buffer, &keeping, &tight, NOW).uploaded, 600);
}

#[test]
fn no_place_is_given_again_whatever_was_removed() {
    let (bench, mut buffer) = with_readings(3000);
    buffer.set_clock(SET).expect("noted");
    let brief = Budget { max_age: Some(Duration::from_secs(60)), ..ROOMY };
    assert_eq!(tidy(&mut buffer, &brief, &PLENTY, NOW).lost.too_old, 3000);
    assert_eq!(left(&mut buffer), [0; 0]);
    drop(buffer);
    let mut buffer = bench.buffer();
    assert_eq!(buffer.last_seq(), Seq(3000));
    assert_eq!(buffer.lost(), Losses { too_old: 3000, ..Losses::default() }, "the count is on disk as well");
    buffer.append(&readings(3001, 3001)).expect("goes on");
}

#[test]
fn age_counts_only_when_the_clock_can_be_trusted() {
    let (_bench, mut buffer) = with_readings(10);
    let brief = Budget { max_age: Some(Duration::from_secs(3600)), ..ROOMY };
    // Reading 5 becomes an hour old.
    let now = NOW + Duration::from_millis(5);
    assert_eq!(tidy(&mut buffer, &brief, &PLENTY, now).next, NextStep::AfterCommit);
    buffer.set_clock(SET).expect("noted");
    settle(&mut buffer, 2, &[]);
    let done = tidy(&mut buffer, &brief, &PLENTY, now);
    assert_eq!((done.uploaded, done.lost.too_old), (2, 2), "what the hub has is not lost");
    assert_eq!(left(&mut buffer), (5..=10).collect::<Vec<_>>());
    assert_eq!(done.next, NextStep::At(now + Duration::from_millis(1)), "when reading 5 is too old");
}

#[test]
fn readings_of_a_boot_that_was_never_set_are_too_old_once_they_cannot_be_newer() {
    let (bench, mut buffer) = with_readings(10);
    drop(buffer);
    bench.sql("UPDATE boots SET seen_ms = 3600000");
    let mut options = bench.options.clone();
    options.quarantine_rows = 1;
    let start = crate::clock::Now { mono: Mono(1_000), wall: crate::clock::Wall(0) };
    buffer = Buffer::open(&bench.dir, &options, &crate::store::BootId::new("b"), start, SET).expect("opened");
    let day = Budget { max_age: Some(Duration::from_millis(24 * HOUR_MS as u64)), ..ROOMY };
    let at = |ms: i64| Mono(ms.unsigned_abs() * 1000);
    // The readings were received at most an hour before boot "b" began.
    assert_eq!(tidy(&mut buffer, &day, &PLENTY, at(22 * HOUR_MS)).lost.too_old, 0);
    assert_eq!(tidy(&mut buffer, &day, &PLENTY, at(23 * HOUR_MS + 100)).lost.too_old, 10);
}

#[test]
fn a_damaged_reading_does_not_keep_others_from_growing_old() {
    let (bench, mut buffer) = with_readings(10);
    buffer.set_clock(SET).expect("noted");
    bench.sql("UPDATE journal SET at_ms = 9000000000 WHERE seq = 2");
    let brief = Budget { max_age: Some(Duration::from_secs(60)), ..ROOMY };
    assert_eq!(tidy(&mut buffer, &brief, &PLENTY, NOW).lost.too_old, 10);
}

#[test]
fn over_the_budget_uploaded_readings_go_first_and_then_the_oldest_and_each_is_counted() {
    let (bench, mut buffer) = with_readings(8000);
    settle(&mut buffer, 0, &[(5001, 6000)]);
    buffer.checkpoint().expect("copied");
    let most = Budget { max_bytes: file_pages(&bench) as u64 * 1024, keep_uploaded: true, ..ROOMY };
    let done = tidy(&mut buffer, &most, &PLENTY, NOW);
    assert_eq!((done.uploaded, done.lost.no_space), (332, 0), "as much as must");
    assert_eq!(left(&mut buffer), (1..=5000).chain(5333..=8000).collect::<Vec<_>>());
    let less = Budget { max_bytes: 1000 * 1024, ..most };
    let done = tidy(&mut buffer, &less, &PLENTY, NOW);
    let rest = left(&mut buffer);
    assert_eq!((done.uploaded, done.lost.no_space), (668, 7000 - rest.len() as u64));
    assert_eq!(rest.last(), Some(&8000), "the newest stay: {}", rest.len());
    assert!(rest.len() > 3000, "and no more go than must: {}", rest.len());
    buffer.checkpoint().expect("copied");
    assert!(file_pages(&bench) <= 1000, "{}", file_pages(&bench));
}

#[test]
fn the_file_stays_within_the_budget_however_much_comes() {
    let (bench, mut buffer) = with_readings(100);
    let small = Budget { max_bytes: 1024 * 1024, ..ROOMY };
    for hundred in 1..300 {
        buffer.append(&readings(100 * hundred + 1, 100 * hundred + 100)).expect("appended");
        tidy(&mut buffer, &small, &PLENTY, NOW);
        assert!(file_pages(&bench) <= 1024, "{} after {hundred}", file_pages(&bench));
    }
    let rest = left(&mut buffer);
    assert_eq!(buffer.lost().no_space + rest.len() as u64, 30_000, "none left uncounted");
    assert!(rest.len() > 3000, "the room is used: {}", rest.len());
}

#[test]
fn the_policy_may_be_to_refuse_what_is_new() {
    let (_bench, mut buffer) = with_readings(8000);
    let refusing = Budget { max_bytes: 1200 * 1024, policy: Policy::RefuseNew, ..ROOMY };
    let done = tidy(&mut buffer, &refusing, &PLENTY, NOW);
    assert!(done.is_full && done.uploaded == 0 && done.lost == Losses::default(), "{done:?}");
    assert_eq!(left(&mut buffer).len(), 8000);
    settle(&mut buffer, 5000, &[]);
    assert!(buffer.keep_house(&refusing, &PLENTY, NOW, 100).expect("kept").is_full, "room is being made");
    let done = tidy(&mut buffer, &refusing, &PLENTY, NOW);
    assert!(!done.is_full && done.uploaded >= 4700 && done.lost.no_space == 0, "{done:?}");
}

/// Readings of 10 kB.
fn large(first: u64, last: u64) -> Batch {
    let values = format!("{{\"n\":\"{}\"}}", "x".repeat(10_000));
    let records = (first..=last).map(|seq| record(seq, "pump", seq as i64, &values)).collect();
    Batch { records, ..Batch::default() }
}

#[test]
fn for_want_of_room_no_more_goes_than_must_however_large_readings_are() {
    for (own_marks, settled) in [(0, 0), (0, 3000), (1, 0), (1, 3000)] {
        let bench = Bench::new();
        let mut buffer = bench.buffer();
        buffer.append(&large(1, 3000)).expect("appended");
        buffer.begin_own_marks(&vec![name("idle"); own_marks]).expect("begun");
        settle(&mut buffer, settled, &[]);
        let budget = Budget { max_bytes: 20 << 20, keep_uploaded: true, ..ROOMY };
        let mut done = Housekeeping::default();
        for _ in 0..1000 {
            done = buffer.keep_house(&budget, &PLENTY, NOW, 1000).expect("kept");
            if done.next != NextStep::Now {
                break;
            }
        }
        assert_ne!(done.next, NextStep::Now);
        let left = left(&mut buffer).len();
        assert!((1600..2000).contains(&left), "{left} of 10 kB in 20 MiB; {own_marks}, {settled}");
        assert_eq!(buffer.lost().no_space, if settled > 0 { 0 } else { 3000 - left as u64 });
    }
}

/// Payloads of 60 kB, set aside in commits of their own.
fn set_aside(buffer: &mut Buffer, count: u64) {
    for _ in 0..count {
        let payload = Quarantined {
            device: name("fan"),
            received: Mono(7000),
            topic: "v1/devices/me/telemetry".to_owned(),
            reason: "not JSON".to_owned(),
            payload: vec![b'{'; 60_000],
        };
        let batch = Batch { quarantined: vec![payload], ..Batch::default() };
        buffer.append(&batch).expect("appended");
        tidy(buffer, &Budget { max_bytes: 16 << 20, ..ROOMY }, &PLENTY, NOW);
    }
}

#[test]
fn a_device_that_sends_nonsense_costs_no_reading_of_others() {
    let (_bench, mut buffer) = with_readings(20_000);
    set_aside(&mut buffer, 300);
    assert_eq!(buffer.lost(), Losses::default());
    let kept = buffer.quarantine_len().expect("counted");
    assert_eq!((kept, buffer.quarantine_dropped()), ((4 << 20) / 60_023, 300 - kept), "as many as fit");
}

#[test]
fn for_want_of_room_what_was_set_aside_goes_before_readings_that_wait() {
    for policy in [Policy::DropOldest, Policy::RefuseNew] {
        let (_bench, mut buffer) = with_readings(8000);
        let rejected = (1..=200).map(|seq| Rejected { seq: Seq(seq), reason: "too deep".to_owned() });
        let settlement = Settlement { rejected: rejected.collect(), ..Settlement::default() };
        buffer.append(&Batch { settlements: vec![settlement], ..Batch::default() }).expect("appended");
        set_aside(&mut buffer, 30);
        let small = Budget { max_bytes: 2500 * 1024, policy, ..ROOMY };
        let done = tidy(&mut buffer, &small, &PLENTY, NOW);
        assert_eq!((buffer.lost().no_space, done.is_full), (0, false));
        assert_eq!(left(&mut buffer).len(), 8000);
        let few = buffer.quarantine_len().expect("counted");
        assert!(few < 30 && few + buffer.quarantine_dropped() == 30, "each is counted: {few} are left");
        assert_eq!(buffer.rejected_len().expect("counted") + buffer.lost().rejected, 200);
        let smaller = Budget { max_bytes: 1200 * 1024, policy, ..ROOMY };
        let done = tidy(&mut buffer, &smaller, &PLENTY, NOW);
        assert_eq!(buffer.quarantine_len().expect("counted"), 1, "the newest stays for people to look at");
        assert_eq!(done.is_full, policy == Policy::RefuseNew);
        assert_eq!(buffer.lost().no_space > 0, policy == Policy::DropOldest, "only then");
    }
}

#[test]
fn large_readings_leave_the_budget_no_more_than_small_ones_do() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    let budget = Budget { max_bytes: 16 << 20, ..ROOMY };
    for seq in 1..=600 {
        let reading = record(seq, "camera", seq as i64, &format!("{{\"n\":\"{}\"}}", "x".repeat(50_000)));
        buffer.append(&Batch { records: vec![reading], ..Batch::default() }).expect("appended");
        tidy(&mut buffer, &budget, &PLENTY, NOW);
    }
    buffer.checkpoint().expect("copied");
    assert!(file_pages(&bench) <= 17 << 10, "{} pages", file_pages(&bench));
    let kept = left(&mut buffer).len();
    assert!(kept >= 160, "half of the room is for the last: {kept}");
    assert_eq!(buffer.lost().no_space, 600 - kept as u64);
}

#[test]
fn what_others_write_to_the_disk_costs_no_reading_but_the_file_grows_no_more() {
    let (bench, mut buffer) = with_readings(8000);
    let tight = DiskSpace { free: 0, ..PLENTY };
    let done = tidy(&mut buffer, &ROOMY, &tight, NOW);
    assert!(done.is_tight && !done.is_full, "{done:?}");
    let kept = left(&mut buffer).len();
    assert!(kept >= 7300, "room for what comes next, no more: {kept}");
    assert_eq!(tidy(&mut buffer, &ROOMY, &tight, NOW).lost, Losses::default(), "it is not eaten up");
    buffer.checkpoint().expect("copied");
    let pages = file_pages(&bench);
    for hundred in 80..120 {
        buffer.append(&readings(100 * hundred + 1, 100 * hundred + 100)).expect("appended");
        tidy(&mut buffer, &ROOMY, &tight, NOW);
    }
    buffer.checkpoint().expect("copied");
    assert!(file_pages(&bench) <= pages, "{pages} before, {} after", file_pages(&bench));
    assert!(left(&mut buffer).len() > 7000);
}

#[test]
fn the_file_really_shrinks_when_the_hub_has_everything() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    for thousand in 0..60 {
        buffer.append(&readings(1000 * thousand + 1, 1000 * thousand + 1000)).expect("appended");
    }
    buffer.checkpoint().expect("copied");
    let before = file_pages(&bench);
    assert!(before > 12_000, "{before}");
    settle(&mut buffer, 60_000, &[]);
    assert_eq!(tidy(&mut buffer, &ROOMY, &PLENTY, NOW).uploaded, 59_800);
    assert!(file_pages(&bench) < 4_400, "{} of {before}", file_pages(&bench));
    buffer.append(&readings(60_001, 60_001)).expect("appended");
    drop(buffer);
    assert_eq!(bench.buffer().last_seq(), Seq(60_001));
}

#[test]
fn a_journal_of_an_older_version_keeps_its_size_and_uses_its_free_pages() {
    let bench = Bench::new();
    let shell = rusqlite::Connection::open(bench.dir.buffer_path()).expect("opened");
    shell
        .execute_batch("PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t (a); DROP TABLE t")
        .expect("made");
    drop(shell);
    let mut buffer = bench.buffer();
    buffer.append(&readings(1, 8000)).expect("appended");
    settle(&mut buffer, 8000, &[]);
    let small = Budget { max_bytes: 64 << 10, ..ROOMY };
    assert_eq!(tidy(&mut buffer, &small, &PLENTY, NOW).uploaded, 8000);
    buffer.checkpoint().expect("copied");
    let before = file_pages(&bench);
    buffer.append(&readings(8001, 15_000)).expect("appended");
    buffer.checkpoint().expect("copied");
    assert_eq!(file_pages(&bench), before);
}
