//! Tests of the journal's writer: what is durable, what is doubted, and what a shell sees.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    sync::Arc,
};

use super::*;
use crate::{
    clock::{Mono, Wall},
    mqtt::{QoS, TopicName},
    record::{Quarantined, Record},
    session::{Message, durable::Change},
    store::{
        private_file::companion,
        test_bench::{Bench, SET, UNSET, name, record},
    },
};

fn batch(records: Vec<Record>) -> Batch {
    Batch { records, ..Batch::default() }
}

/// One reading of the pump in each place from `first` to `last`.
fn pump(first: u64, last: u64) -> Batch {
    batch((first..=last).map(|seq| record(seq, "pump", seq as i64, "{\"t\":21.5}")).collect())
}

fn quarantined(count: usize) -> Batch {
    let one = Quarantined {
        device: name("pump"),
        received: Mono(5000),
        topic: "v1/devices/me/telemetry".into(),
        reason: "not JSON".into(),
        payload: vec![0xFF, 0x00],
    };
    Batch { quarantined: vec![one; count], ..Batch::default() }
}

/// A journal with readings 1 to 3, and the paths of its two files.
fn with_three() -> (Bench, Buffer, PathBuf, PathBuf) {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    buffer.append(&pump(1, 3)).expect("appended");
    let (database, wal) = (bench.dir.buffer_path(), companion(&bench.dir.buffer_path(), "-wal"));
    (bench, buffer, database, wal)
}

/// The rows of a query, each as its values between bars.
fn rows(bench: &Bench, sql: &str) -> Vec<String> {
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    let mut statement = shell.prepare(sql).expect("valid SQL");
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        let values = (0..columns).map(|column| match row.get_ref(column)? {
            rusqlite::types::ValueRef::Text(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            other => Ok(format!("{other:?}")),
        });
        Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
    };
    statement.query_map([], row).expect("queried").collect::<rusqlite::Result<_>>().expect("read")
}

fn count(bench: &Bench, table: &str) -> String {
    rows(bench, &format!("SELECT count(*) FROM {table}")).remove(0)
}

#[test]
fn a_batch_is_there_after_a_restart() {
    let (bench, buffer, ..) = with_three();
    assert_eq!(buffer.last_seq(), Seq(3));
    drop(buffer);
    let mut buffer = bench.buffer();
    assert_eq!(buffer.last_seq(), Seq(3));
    buffer.append(&pump(4, 4)).expect("goes on");
    assert_eq!(count(&bench, "journal"), "Integer(4)");
    assert_eq!(count(&bench, "boots"), "Integer(1)");
}

#[test]
fn a_new_journal_is_empty_and_an_empty_batch_changes_nothing() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    assert_eq!(buffer.last_seq(), Seq(0));
    buffer.append(&Batch::default()).expect("nothing to do");
    assert_eq!(buffer.last_seq(), Seq(0));
}

#[test]
#[should_panic(expected = "reading 5 came where 4 belongs")]
fn a_gap_before_a_batch_is_a_bug_of_ours() {
    let (_bench, mut buffer, ..) = with_three();
    let _ = buffer.append(&pump(5, 5));
}

#[test]
#[should_panic(expected = "reading 4 came where 5 belongs")]
fn a_place_given_twice_within_a_batch_is_a_bug_of_ours() {
    let (_bench, mut buffer, ..) = with_three();
    let mut twice = pump(4, 4);
    twice.records.extend(pump(4, 4).records);
    let _ = buffer.append(&twice);
}

#[test]
fn a_deleted_file_is_noticed_before_the_batch_counts() {
    for victim in ["", "-wal"] {
        let (_bench, mut buffer, database, _) = with_three();
        fs::remove_file(companion(&database, victim)).expect("removed");
        let error = buffer.append(&pump(4, 4)).expect_err("moved");
        assert!(
            matches!(&error, StoreError::Moved { path } if *path == companion(&database, victim)),
            "{error}"
        );
        assert_eq!(buffer.last_seq(), Seq(3));
        assert!(matches!(buffer.append(&pump(4, 4)), Err(StoreError::Closed { .. })));
        assert!(matches!(buffer.quarantine_len(), Err(StoreError::Closed { .. })));
        assert!(matches!(buffer.checkpoint(), Err(StoreError::Closed { .. })));
        assert!(matches!(buffer.set_clock(SET), Err(StoreError::Closed { .. })));
    }
}

#[test]
fn a_replaced_file_is_noticed_and_what_replaced_it_is_kept() {
    for victim in ["", "-wal"] {
        let (_bench, mut buffer, database, _) = with_three();
        let path = companion(&database, victim);
        let copy = companion(&database, ".copy");
        fs::copy(&path, &copy).expect("copied");
        fs::rename(&copy, &path).expect("put in its place");
        let bytes = fs::read(&path).expect("read");
        assert!(matches!(buffer.append(&pump(4, 4)), Err(StoreError::Moved { .. })));
        drop(buffer);
        assert!(fs::read(&path).expect("still there") == bytes, "{victim}");
    }
}

#[test]
fn a_file_replaced_unnoticed_is_not_touched_at_the_end() {
    let (_bench, buffer, database, wal) = with_three();
    for path in [&database, &wal] {
        fs::remove_file(path).expect("removed");
        fs::write(path, "restored by hand").expect("written");
    }
    drop(buffer);
    for path in [&database, &wal] {
        assert_eq!(fs::read(path).expect("still there"), b"restored by hand");
    }
}

#[test]
fn a_deleted_log_is_saved_into_the_database() {
    let (bench, mut buffer, _, wal) = with_three();
    fs::remove_file(&wal).expect("removed");
    buffer.append(&pump(4, 4)).expect_err("moved");
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.last_seq(), Seq(4), "nothing is lost, not even the doubtful batch");
    buffer.append(&pump(5, 5)).expect("goes on");
    assert_eq!(count(&bench, "journal"), "Integer(5)");
}

#[test]
fn a_deleted_log_counts_as_saved_only_once_no_reader_keeps_the_database_from_all_of_it() {
    let (bench, mut buffer, database, _) = with_three();
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    let rows: i64 = shell
        .execute_batch("BEGIN")
        .and_then(|()| shell.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)))
        .expect("read");
    assert_eq!(rows, 3);
    buffer.append(&pump(4, 4)).expect("appended");
    let connection = buffer.connection.as_ref().expect("open");
    connection.busy_timeout(Duration::ZERO).expect("set");
    assert!(!save_unlinked_wal(connection, &database), "the reader looks at three readings");
    shell.execute_batch("COMMIT").expect("done");
    assert!(save_unlinked_wal(connection, &database));
}

#[test]
fn a_batch_that_failed_after_its_commit_is_found_by_reopening() {
    let (bench, mut buffer, database, _) = with_three();
    let aside = companion(&database, ".aside");
    fs::rename(&database, &aside).expect("moved");
    buffer.append(&pump(4, 6)).expect_err("moved");
    assert_eq!(buffer.last_seq(), Seq(3));
    fs::rename(&aside, &database).expect("moved back");
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.last_seq(), Seq(6));
    buffer.append(&pump(7, 7)).expect("goes on");
    assert_eq!(count(&bench, "journal"), "Integer(7)");
}

#[test]
fn what_a_reader_found_in_the_log_is_not_believed_once_it_is_no_longer_there() {
    for starts_again in [false, true] {
        let (bench, mut buffer, database, wal) = with_three();
        let flushed = fs::read(&wal).expect("read");
        let aside = companion(&database, ".aside");
        fs::rename(&database, &aside).expect("moved");
        buffer.append(&pump(4, 6)).expect_err("moved");
        fs::rename(&aside, &database).expect("moved back");
        let all = crate::store::Query { after: Seq(0), device: None, since: None, limit: 9, newest: false };
        let reader = bench.reader();
        assert_eq!(reader.read(&all).expect("read").len(), 6, "the reader has made the index");

        // As if the kernel had given up what it could not flush.
        let log = fs::OpenOptions::new().write(true).open(&wal).expect("opened");
        log.write_all_at(&flushed, 0).and_then(|()| log.set_len(flushed.len() as u64)).expect("as before");
        if starts_again {
            drop(buffer);
            buffer = bench.buffer();
        } else {
            buffer.reopen().expect("reopened");
        }
        assert_eq!(buffer.last_seq(), Seq(3));
        buffer.append(&pump(4, 4)).expect("goes on");
        assert_eq!(reader.read(&all).expect("read").len(), 4);
        assert_eq!(rows(&bench, "PRAGMA integrity_check"), ["ok"]);
    }
}

#[test]
fn a_batch_that_failed_before_its_commit_is_not_there_and_its_device_is_unknown() {
    let (bench, mut buffer, ..) = with_three();
    bench.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON journal WHEN new.payload = '{}'
         BEGIN SELECT raise(ABORT, 'refused'); END",
    );
    let refused = batch(vec![record(4, "valve", 4, "{\"a\":1}"), record(5, "fan", 5, "{}")]);
    let error = buffer.append(&refused).expect_err("refused");
    assert!(matches!(error, StoreError::Other(_)), "{error}");
    bench.sql("DROP TRIGGER refuse");
    assert!(!buffer.devices.remembers(&name("valve")) && !buffer.devices.remembers(&name("fan")));
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.last_seq(), Seq(3));
    assert_eq!(rows(&bench, "SELECT name FROM devices"), ["pump"]);
    buffer.append(&refused).expect("appended");
    assert!(buffer.devices.remembers(&name("valve")) && buffer.devices.remembers(&name("fan")));
    assert_eq!(rows(&bench, "SELECT DISTINCT device FROM readings"), ["pump", "valve"]);
}

#[test]
fn a_full_disk_is_reported_and_the_same_journal_goes_on_once_there_is_space() {
    let (_bench, mut buffer, ..) = with_three();
    let limit = |buffer: &Buffer, pages: i64| {
        let connection = buffer.connection.as_ref().expect("open");
        connection.pragma_update(None, "max_page_count", pages).expect("set");
    };
    limit(&buffer, 1);
    let big = batch(vec![record(4, "valve", 4, &format!("{{\"a\":\"{}\"}}", "x".repeat(50_000)))]);
    let error = buffer.append(&big).expect_err("full");
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(!buffer.devices.remembers(&name("valve")));
    limit(&buffer, 1_000_000);
    buffer.append(&big).expect("appended without reopening");
    assert_eq!(buffer.last_seq(), Seq(4));
}

#[test]
fn a_journal_locked_by_a_shell_goes_on_once_it_is_free() {
    let (bench, mut buffer, ..) = with_three();
    buffer.connection.as_ref().expect("open").busy_timeout(Duration::ZERO).expect("set");
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    shell.execute_batch("BEGIN IMMEDIATE").expect("locked");
    assert!(matches!(buffer.append(&pump(4, 4)), Err(StoreError::Busy(_))));
    shell.execute_batch("ROLLBACK").expect("free");
    buffer.append(&pump(4, 4)).expect("appended without reopening");
}

#[test]
fn a_damaged_row_that_cannot_be_removed_is_left_out_all_the_same() {
    let (bench, mut buffer, ..) = with_three();
    let retained = |topic: &str| {
        let topic = TopicName::parse(topic).expect("a name");
        Change::Retained(Arc::new(Message::new(topic, b"x", QoS::AtMostOnce)))
    };
    let changes = vec![retained("a"), retained("b")];
    buffer.append(&Batch { changes, ..Batch::default() }).expect("appended");
    bench.sql("UPDATE retained SET payload = x'00' WHERE topic = 'a'");
    buffer.connection.as_ref().expect("open").busy_timeout(Duration::ZERO).expect("set");
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    shell.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let topics = |buffer: &mut Buffer| -> Vec<String> {
        let found = buffer.recover().expect("read");
        found.retained.iter().map(|message| message.topic().as_str().to_owned()).collect()
    };
    assert_eq!(topics(&mut buffer), ["b"]);
    assert_eq!((buffer.is_open(), buffer.damaged_rows()), (true, 1));
    assert_eq!(rows(&bench, "SELECT topic FROM retained ORDER BY topic"), ["a", "b"]);
    shell.execute_batch("ROLLBACK").expect("free");
    assert_eq!(topics(&mut buffer), ["b"]);
    assert_eq!(rows(&bench, "SELECT topic FROM retained"), ["b"]);
}

#[test]
fn reopening_a_sound_journal_changes_nothing() {
    let (bench, mut buffer, ..) = with_three();
    let _reader = bench.reader();
    buffer.reopen().expect("reopened");
    buffer.append(&pump(4, 4)).expect("appended");
    assert_eq!(count(&bench, "journal"), "Integer(4)");
    assert_eq!(count(&bench, "boots"), "Integer(1)");
}

#[test]
fn a_reader_in_the_middle_of_its_work_keeps_what_it_sees_while_the_journal_is_reopened() {
    let (bench, mut buffer, ..) = with_three();
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    let count =
        || shell.query_row("SELECT count(*) FROM journal", [], |row| row.get::<_, i64>(0)).expect("read");
    shell.execute_batch("BEGIN").expect("begun");
    assert_eq!(count(), 3);
    buffer.append(&pump(4, 400)).expect("appended");
    buffer.reopen().expect("reopened");
    buffer.append(&pump(401, 900)).expect("appended");
    buffer.checkpoint().expect("copied as far as the reader lets it");
    assert_eq!(count(), 3);
    shell.execute_batch("COMMIT").expect("done");
    assert_eq!(count(), 900);
    buffer.checkpoint().expect("copied");
    buffer.append(&pump(901, 901)).expect("appended");
    assert_eq!(count(), 901);
    assert_eq!(rows(&bench, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn a_failed_reopening_can_be_tried_again() {
    let (_bench, mut buffer, database, _) = with_three();
    let aside = companion(&database, ".aside");
    fs::rename(&database, &aside).expect("moved");
    fs::create_dir(&database).expect("something in the way");
    buffer.append(&pump(4, 4)).expect_err("moved");
    assert!(matches!(buffer.reopen(), Err(StoreError::Unsuitable { .. })));
    assert!(matches!(buffer.append(&pump(4, 4)), Err(StoreError::Closed { .. })));
    fs::remove_dir(&database).expect("removed");
    fs::rename(&aside, &database).expect("moved back");
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.last_seq(), Seq(4));
}

#[test]
fn a_place_is_never_given_again_even_if_the_journal_is_lost() {
    let (bench, mut buffer, database, wal) = with_three();
    fs::remove_file(&database).expect("removed");
    fs::remove_file(&wal).expect("removed");
    buffer.append(&pump(4, 4)).expect_err("moved");
    buffer.reopen().expect("made anew");
    assert_eq!(buffer.last_seq(), Seq(3));
    buffer.append(&pump(4, 4)).expect("appended");
    assert_eq!(rows(&bench, "SELECT seq, device FROM readings"), ["Integer(4)|pump"]);
}

#[test]
fn files_are_for_their_owner_only_whatever_the_umask() {
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let (bench, _buffer, ..) = with_three();
    let _registry = bench.registry();
    rustix::process::umask(before);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(bench.dir.path()), 0o700);
    for file in
        ["registry.db", "registry.db-wal", "registry.db-shm", "buffer.db", "buffer.db-wal", "buffer.db-shm"]
    {
        assert_eq!(mode(&bench.dir.path().join(file)), 0o600, "{file}");
    }
}

#[test]
fn quarantine_keeps_the_newest_and_counts_the_dropped() {
    let mut bench = Bench::new();
    bench.options.quarantine_rows = 3;
    let mut buffer = bench.buffer();
    let mut mixed = quarantined(2);
    mixed.records = pump(1, 1).records;
    buffer.append(&mixed).expect("appended");
    assert_eq!((buffer.quarantine_len().expect("counted"), buffer.quarantine_dropped()), (2, 0));
    buffer.append(&quarantined(4)).expect("appended without a reading");
    assert_eq!((buffer.quarantine_len().expect("counted"), buffer.quarantine_dropped()), (3, 3));
    assert_eq!(buffer.last_seq(), Seq(1));
    assert_eq!(rows(&bench, "SELECT id FROM quarantine"), ["Integer(4)", "Integer(5)", "Integer(6)"]);
    let kept = rows(&bench, "SELECT at_ms, topic, reason, hex(payload) FROM quarantine LIMIT 1");
    assert_eq!(kept, ["Integer(5)|v1/devices/me/telemetry|not JSON|FF00"]);
}

#[test]
fn setting_the_clock_moves_every_reading_of_the_boot_but_not_the_times_devices_gave() {
    let (bench, mut buffer, ..) = with_three();
    let mut own_time = record(4, "pump", 4, "{\"t\":1}");
    own_time.device_ts = Some(77);
    buffer.append(&batch(vec![own_time])).expect("appended");
    let times = || rows(&bench, "SELECT ts FROM readings");
    assert_eq!(times(), ["Integer(1001)", "Integer(1002)", "Integer(1003)", "Integer(77)"]);
    buffer.set_clock(SET).expect("set");
    let moved = [1, 2, 3].map(|at_ms| format!("Integer({})", SET.offset_ms + at_ms));
    assert_eq!(times()[..3], moved);
    assert_eq!(times()[3], "Integer(77)");
    assert_eq!(count(&bench, "boots"), "Integer(1)");
}

#[test]
fn the_clock_is_written_only_if_it_differs_and_never_loses_its_synchronisation() {
    let (bench, mut buffer, ..) = with_three();
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    let version = || shell.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).expect("read");
    let before = version();
    buffer.set_clock(UNSET).expect("nothing to do");
    assert_eq!(version(), before);
    buffer.set_clock(SET).expect("set");
    assert_ne!(version(), before);
    let after = version();
    buffer.set_clock(ClockState { offset_ms: 5, synchronised: false }).expect("not to be trusted");
    assert_eq!(version(), after);
    assert_eq!(
        rows(&bench, "SELECT offset_ms, synchronised FROM boots"),
        ["Integer(1700000000000)|Integer(1)"]
    );
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.boot.clock, SET);
}

#[test]
fn a_clock_whose_row_is_lost_closes_the_journal() {
    let (bench, mut buffer, ..) = with_three();
    bench.sql("DELETE FROM boots");
    assert!(matches!(buffer.set_clock(SET), Err(StoreError::Corrupt(_))));
    buffer.reopen().expect("reopened");
    buffer.set_clock(SET).expect("set");
    buffer.append(&pump(4, 4)).expect("appended");
}

#[test]
fn a_last_reading_in_the_future_starts_another_boot() {
    let (bench, buffer, ..) = with_three();
    drop(buffer);
    let now = Now { mono: Mono(2000), wall: Wall(0) };
    let mut buffer = Buffer::open(&bench.dir, &bench.options, &BootId::new("a"), now, SET).expect("opened");
    buffer.append(&pump(4, 4)).expect("appended");
    assert_eq!(count(&bench, "boots"), "Integer(2)");
    let times = rows(&bench, "SELECT ts FROM readings WHERE seq IN (3, 4)");
    assert_eq!(times, ["Integer(1003)", "Integer(1700000000004)"]);
}

#[test]
fn a_shell_sees_one_row_per_value() {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    let values = r#"{"t":21.50,"n":7,"s":"on","yes":true,"gone":null,"deep":{"a":[1,2]},"Größe \"x\"":1}"#;
    buffer.append(&batch(vec![record(1, "pump", 5, values)])).expect("appended");
    let expected = [
        "Integer(1)|pump|Integer(1005)|t|Real(21.5)",
        "Integer(1)|pump|Integer(1005)|n|Integer(7)",
        "Integer(1)|pump|Integer(1005)|s|on",
        "Integer(1)|pump|Integer(1005)|yes|Integer(1)",
        "Integer(1)|pump|Integer(1005)|gone|Null",
        "Integer(1)|pump|Integer(1005)|deep|{\"a\":[1,2]}",
        "Integer(1)|pump|Integer(1005)|Größe \"x\"|Integer(1)",
    ];
    assert_eq!(rows(&bench, "SELECT seq, device, ts, key, value FROM readings"), expected);
}

#[test]
fn one_damaged_payload_does_not_hide_the_others_from_a_shell() {
    let (bench, _buffer, ..) = with_three();
    bench.sql("UPDATE journal SET payload = '{\"t\":' WHERE seq = 2");
    assert_eq!(rows(&bench, "SELECT seq FROM readings"), ["Integer(1)", "Integer(3)"]);
}

#[test]
fn the_log_stays_short_and_keeps_its_size_through_a_checkpoint() {
    let (_bench, mut buffer, database, wal) = with_three();
    for seq in 4..=1500 {
        buffer.append(&pump(seq, seq)).expect("appended");
    }
    let size = |path: &Path| fs::metadata(path).expect("there").len();
    let log = size(&wal);
    assert!(log < 2 * open::WAL_PAGES as u64 * (1024 + 24), "{log} bytes");
    assert!(size(&database) > 30 * 1024, "the log was copied on the way");
    buffer.checkpoint().expect("copied");
    assert_eq!(size(&wal), log);
    buffer.append(&pump(1501, 1501)).expect("appended");
    assert_eq!(size(&wal), log);
}

#[test]
fn a_vfs_without_shared_memory_works_behind_an_exclusive_lock() {
    let mut bench = Bench::new();
    bench.options = StoreOptions { vfs: Some("unix-none"), exclusive_locking: true, ..bench.options };
    let mut buffer = bench.buffer();
    buffer.append(&pump(1, 3)).expect("appended");
    buffer.checkpoint().expect("copied");
    buffer.reopen().expect("reopened");
    buffer.append(&pump(4, 4)).expect("appended");
    drop(buffer);
    let all = crate::store::Query { after: Seq(0), device: None, since: None, limit: 9, newest: false };
    assert_eq!(bench.reader().read(&all).expect("read").len(), 4);
    assert_eq!(bench.buffer().last_seq(), Seq(4));
}

#[test]
fn a_journal_of_a_newer_version_is_refused_untouched() {
    let (bench, buffer, database, _) = with_three();
    drop(buffer);
    bench.sql("PRAGMA user_version = 9");
    let bytes = fs::read(&database).expect("read");
    let now = Now { mono: Mono(0), wall: Wall(0) };
    let error = Buffer::open(&bench.dir, &bench.options, &BootId::new("b"), now, SET).expect_err("newer");
    assert!(matches!(error, StoreError::NewerSchema { found: 9, .. }), "{error}");
    assert!(fs::read(&database).expect("read") == bytes);
}
