//! The promise: a PUBACK means on disk. What it costs in calls to the kernel, and what happens when the disk fails.

use std::{
    fs,
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use crate::{
    full_disk,
    support::{
        broker::{Broker, Setup},
        client::{Client, Event},
        home::{Device, stderr, stdout},
        namespace::{Kind, enter_new},
        packets::Connect,
        tracer::Tracer,
        wait::{SOON, until},
        wire::{TELEMETRY, Version, publish},
    },
};

use Version::{V5, V311};

/// Whether `{"n":N}` is stored, for each N asked about.
fn missing(stored: &[String], acked: impl IntoIterator<Item = u64>) -> Vec<u64> {
    acked.into_iter().filter(|n| !stored.contains(&numbered(*n))).collect()
}

fn numbered(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

#[test]
fn a_commit_calls_fdatasync_once_on_the_wal_and_never_fsync() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    client.telemetry(&numbered(0));
    let Some(tracer) = Tracer::attach(broker.pid(), &["-y", "-e", "trace=fsync,fdatasync"]) else { return };
    for n in 1..=20 {
        client.telemetry(&numbered(n));
    }
    let trace = tracer.detach();
    let calls =
        |call: &str| trace.lines().filter(|l| l.contains(call) && l.contains("buffer.db-wal")).count();
    assert!((20..=23).contains(&calls("fdatasync(")), "one per commit, and one per checkpoint: {trace}");
    assert_eq!(calls("fsync("), 0, "fsync would write the inode as well: {trace}");
}

#[test]
fn one_commit_carries_all_that_arrived_together() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    client.telemetry(&numbered(0));
    let Some(tracer) = Tracer::attach(broker.pid(), &["-y", "-e", "trace=fdatasync"]) else { return };
    let burst: Vec<u8> = (1..=100).flat_map(|n| publish(V311, TELEMETRY, 1, n, numbered(n.into()))).collect();
    client.send(&burst);
    for n in 1..=100 {
        assert_eq!(client.packet().puback(), Some((n, 0)));
    }
    let trace = tracer.detach();
    let commits = trace.lines().filter(|line| line.contains("buffer.db-wal")).count();
    assert!((1..=10).contains(&commits), "100 readings in one segment took {commits} commits");
}

#[test]
fn the_journal_has_pages_of_1024_bytes_and_a_wal_that_keeps_its_size() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    assert_eq!(broker.count("PRAGMA page_size"), 1024);
    let mode: String =
        broker.database("buffer.db").query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
    assert_eq!(mode, "wal");
    let wal = broker.data_dir().join("buffer.db-wal");
    let size = || fs::metadata(&wal).expect("there is a WAL while the broker runs").len();
    let mut client = broker.online(V311, &device, "meter");
    let mut largest = 0;
    for _ in 0..15 {
        for n in 0..100 {
            client.telemetry(&numbered(n));
        }
        assert!(size() >= largest, "the WAL was cut: that costs the card twice the writes");
        largest = size();
    }
    let settled = largest;
    for n in 0..1500 {
        client.telemetry(&numbered(n));
    }
    assert!(settled < 4 << 20, "the WAL is kept short, not {settled} bytes");
    assert!(size() - settled <= 64 << 10, "it goes round instead of growing: {settled}, then {}", size());
}

#[test]
fn a_failed_commit_yields_no_puback_and_the_store_serves_again() {
    let broker = Broker::start();
    let (pump, fan) = (broker.add_device("pump"), broker.add_device("fan"));
    for (round, version) in [(0, V311), (1, V5)] {
        let mut publisher = broker.online(version, &pump, "meter");
        let mut bystander = broker.online(V311, &fan, "meter");
        let first = 100 * round;
        publisher.telemetry(&numbered(first));
        let options = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1"];
        let Some(tracer) = Tracer::attach(broker.pid(), &options) else { return };
        let burst: Vec<u8> =
            (1..=3).flat_map(|n| publish(version, TELEMETRY, 1, 50 + n, "{doubtful:1}")).collect();
        publisher.send(&burst);
        let replies = publisher.until_closed(SOON);
        assert!(
            replies.iter().all(|reply| reply.puback().is_none()),
            "never acknowledge on doubt: {replies:?}"
        );
        assert!(bystander.ping(SOON), "who published nothing notices nothing");
        let trace = tracer.detach();
        assert!(trace.contains("EIO"), "the fault was really injected: {trace}");

        let mut publisher = until("the store is open again", SOON, || let_in(&broker, version, &pump));
        for n in first + 1..first + 10 {
            publisher.telemetry(&numbered(n));
        }
        bystander.telemetry(r#"{"still":"here"}"#);
        assert_eq!(missing(&broker.stored_values("pump"), first..first + 10), [0; 0]);
    }
    let doubtful = broker.stored_values("pump").iter().filter(|values| values.contains("doubtful")).count();
    assert!(doubtful <= 6, "unknown is allowed, twice is not: {doubtful}");
    assert_eq!(broker.log_lines_with("nobody was told"), 2, "each cause is logged once");
}

/// A connection of the device, if it is let in now.
fn let_in(broker: &Broker, version: Version, device: &Device) -> Option<Client> {
    let mut client = Client::dial(broker.plain());
    let connack = client.ask_in(version, &Connect::new(version, "again").user(&device.token));
    match connack.connack() {
        Some(0) => Some(client),
        Some(3 | 0x88) => None,
        other => panic!("let in, or asked to come later; not {other:?}"),
    }
}

#[test]
fn while_the_disk_keeps_failing_nothing_is_acknowledged_and_clients_are_told_to_come_later() {
    let mut broker = Broker::start();
    let pump = broker.add_device("pump");
    let mut publisher = broker.online(V311, &pump, "meter");
    publisher.telemetry(&numbered(0));
    let options = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1+"];
    let Some(tracer) = Tracer::attach(broker.pid(), &options) else { return };
    publisher.publish_only(TELEMETRY, "{doubtful:1}");
    assert_eq!(publisher.until_closed(SOON), []);
    // For two seconds of failing disk: whoever gets in and publishes is closed, nobody is acknowledged.
    let until_then = Instant::now() + Duration::from_secs(2);
    let mut told_to_wait = 0;
    while Instant::now() < until_then {
        match let_in(&broker, V311, &pump) {
            None => told_to_wait += 1,
            Some(mut client) => {
                client.publish_only(TELEMETRY, "{doubtful:2}");
                let replies = client.until_closed(SOON);
                assert!(replies.iter().all(|reply| reply.puback().is_none()), "{replies:?}");
            }
        }
    }
    assert!(told_to_wait > 0, "a store that cannot be opened is no place to let devices in");
    tracer.detach();
    let mut publisher =
        until("the store is open again", Duration::from_secs(20), || let_in(&broker, V311, &pump));
    publisher.telemetry(&numbered(1));
    assert!(broker.exit_status().is_none());
    let lines = broker.log().lines().count();
    assert!(lines < 200, "a failing disk is no reason to fill it with {lines} log lines");
    broker.kill9();
    broker.restart();
    assert_eq!(missing(&broker.stored_values("pump"), 0..2), [0; 0]);
}

#[test]
fn a_full_disk_yields_no_puback_and_space_that_comes_back_is_used() {
    let setup = Setup::new().limit("refusals_per_address", 100_000).setting("storage.policy = 'refuse-new'");
    let data = setup.home().data_dir();
    fs::create_dir(&data).expect("the mount point");
    let mount = format!("mount -t tmpfs -o size=3m,mode=0700 tmpfs '{}'", data.display());
    let Some(wrapper) = enter_new(Kind::Mount, &mount) else { return };
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let mut broker = setup.under(&words).start();
    let token = stdout(&inside(&broker, &["device", "add", "pump"])).trim_end().to_owned();
    let device = Device { name: "pump".to_owned(), token };
    let mut client = broker.online(V311, &device, "meter");
    client.telemetry(&numbered(0));

    let filler = PathBuf::from(format!("/proc/{}/root{}/filler", broker.pid(), data.display()));
    assert!(fs::write(&filler, vec![0u8; 8 << 20]).is_err(), "more than fits does not fit");
    let mut acked = 1;
    let closed = loop {
        client.publish_only(TELEMETRY, numbered(acked));
        match client.next(SOON) {
            Event::Packet(reply) if reply.puback().is_some() => acked += 1,
            Event::Closed => break true,
            other => panic!("acknowledged or closed, not {other:?}"),
        }
        if acked > 20_000 {
            break false;
        }
    };
    assert!(closed, "a full disk must show at some time");
    fs::remove_file(&filler).expect("it was written");
    until("space is found again", Duration::from_secs(20), || {
        let mut client = let_in(&broker, V311, &device)?;
        client.publish_only(TELEMETRY, numbered(acked + 1));
        matches!(client.next(SOON), Event::Packet(_)).then_some(())
    });
    let stored = inside(&broker, &["telemetry", "--format", "ndjson"]);
    let rows: Vec<crate::support::home::Row> =
        stdout(&stored).lines().map(|line| serde_json::from_str(line).expect("ndjson")).collect();
    let values: Vec<String> = rows.iter().map(|row| row.values().to_owned()).collect();
    assert_eq!(missing(&values, (0..acked).chain([acked + 1])), [0; 0]);
    assert!(broker.exit_status().is_none(), "without a restart");
    broker.stop();
}

#[test]
fn on_a_full_disk_the_oldest_make_room_for_the_new_and_each_is_counted() {
    let setup = Setup::new();
    let data = setup.home().data_dir();
    fs::create_dir(&data).expect("the mount point");
    let mount = format!("mount -t tmpfs -o size=3m,mode=0700 tmpfs '{}'", data.display());
    let Some(wrapper) = enter_new(Kind::Mount, &mount) else { return };
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let mut broker = setup.under(&words).start();
    let token = stdout(&inside(&broker, &["device", "add", "pump"])).trim_end().to_owned();
    let mut client = broker.online(V311, &Device { name: "pump".to_owned(), token }, "meter");
    let filler = PathBuf::from(format!("/proc/{}/root{}/filler", broker.pid(), data.display()));
    fs::write(&filler, vec![0u8; 1 << 20]).expect("there is so much");
    let wide = "x".repeat(500);
    for n in 0..10_000 {
        client.telemetry(&format!(r#"{{"n":{n},"wide":"{wide}"}}"#));
    }
    until("somebody is told", SOON, || {
        (broker.log_lines_with("dropped the oldest readings") > 0).then_some(())
    });
    let stored = inside(&broker, &["telemetry", "--format", "ndjson"]);
    let kept = stdout(&stored).lines().count();
    assert!((1000..5000).contains(&kept), "{kept} of 10,000 fit");
    let newest = stdout(&inside(&broker, &["telemetry", "--format", "ndjson", "--limit", "1"]));
    assert!(newest.contains(r#""n":9999"#), "{newest}");
    broker.stop();
}

#[test]
fn the_data_directory_stays_within_max_bytes_and_the_newest_readings_stay() {
    let broker = Setup::new().setting("storage.max_bytes = '16 MiB'").start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    let wide = "x".repeat(400);
    let mut last = 0;
    for _ in 0..400 {
        let readings: Vec<String> =
            (last + 1..=last + 130).map(|n| format!(r#"{{"n":{n},"w":"{wide}"}}"#)).collect();
        client.telemetry(&format!("[{}]", readings.join(",")));
        last += readings.len();
    }
    let used = || -> u64 {
        let files = fs::read_dir(broker.data_dir()).expect("a directory");
        files.map(|file| file.expect("a file").metadata().expect("it is there").len()).sum()
    };
    assert!(used() < 17 << 20, "{} bytes of 21 MB that came", used());
    assert_eq!(broker.count(&format!("SELECT count(*) FROM journal WHERE seq > {}", last - 1000)), 1000);
    let lost = broker.count("SELECT no_space FROM removed");
    assert_eq!(lost + broker.count("SELECT count(*) FROM journal"), last as i64, "each is counted");
}

/// Runs a subcommand among the mounts of the broker, which must succeed.
fn inside(broker: &Broker, arguments: &[&str]) -> Output {
    let output = full_disk::inside(broker, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    output
}

/// Does `damage` to the files under a running broker; whatever is acknowledged after that must be in the files that
/// are there, as a fresh process finds them.
fn no_ack_into_the_void(what: &str, damage: impl Fn(&Broker)) {
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V311, &device, "meter");
    for n in 0..5 {
        client.telemetry(&numbered(n));
    }
    damage(&broker);
    let mut acked = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut number = 100;
    while acked.len() < 3 && Instant::now() < deadline && broker.exit_status().is_none() {
        number += 1;
        client.publish_only(TELEMETRY, numbered(number));
        match client.next(SOON) {
            Event::Packet(reply) if reply.puback().is_some() => acked.push(number),
            Event::Packet(reply) => panic!("{what}: {reply:?}"),
            Event::Silence => panic!("{what}: neither acknowledged nor closed"),
            Event::Closed => {
                if let Some(again) = reconnect(&mut broker, &device) {
                    client = again;
                }
            }
        }
    }
    if let Some(status) = broker.exit_status() {
        assert!(!status.success(), "{what}: giving up is a failure");
    } else {
        assert_eq!(acked.len(), 3, "{what}: it serves again, or gives up: {}", broker.log());
        broker.kill9();
    }
    broker.restart();
    let stored = broker.stored_values("pump");
    assert_eq!(missing(&stored, acked), [0; 0], "{what}: acknowledged, and gone after a restart");
    let mut client = broker.online(V311, &device, "meter");
    client.telemetry(r#"{"goes":"on"}"#);
}

fn reconnect(broker: &mut Broker, device: &Device) -> Option<Client> {
    until("let in again, or the broker gave up", SOON, || {
        if broker.exit_status().is_some() { Some(None) } else { let_in(broker, V311, device).map(Some) }
    })
}

#[test]
fn a_journal_deleted_under_the_broker_swallows_nothing() {
    no_ack_into_the_void("rm buffer.db", |broker| {
        fs::remove_file(broker.data_dir().join("buffer.db")).expect("it is there");
    });
}

#[test]
fn a_journal_deleted_with_its_wal_swallows_nothing() {
    no_ack_into_the_void("rm buffer.db*", |broker| {
        for file in ["buffer.db", "buffer.db-wal", "buffer.db-shm"] {
            fs::remove_file(broker.data_dir().join(file)).expect("it is there");
        }
    });
}

#[test]
fn a_wal_deleted_under_the_broker_swallows_nothing() {
    no_ack_into_the_void("rm buffer.db-wal", |broker| {
        fs::remove_file(broker.data_dir().join("buffer.db-wal")).expect("it is there");
    });
}

#[test]
fn a_journal_replaced_by_a_copy_swallows_nothing() {
    no_ack_into_the_void("mv copy buffer.db", |broker| {
        let (file, copy) = (broker.data_dir().join("buffer.db"), broker.data_dir().join("copy"));
        fs::copy(&file, &copy).expect("it is there");
        fs::rename(&copy, &file).expect("it is there");
    });
}

#[test]
fn a_data_directory_moved_away_swallows_nothing() {
    no_ack_into_the_void("mv data elsewhere", |broker| {
        fs::rename(broker.data_dir(), broker.path().join("elsewhere")).expect("it is there");
        fs::create_dir(broker.data_dir()).expect("the name is free");
        let registry = |dir: PathBuf| dir.join("registry.db");
        fs::copy(registry(broker.path().join("elsewhere")), registry(broker.data_dir()))
            .expect("it is there");
        let wal = |dir: PathBuf| dir.join("registry.db-wal");
        if wal(broker.path().join("elsewhere")).exists() {
            fs::copy(wal(broker.path().join("elsewhere")), wal(broker.data_dir())).expect("it is there");
        }
    });
}

#[test]
fn a_journal_from_the_future_is_refused_and_left_alone() {
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry(&numbered(0));
    broker.stop();
    let path = broker.data_dir().join("buffer.db");
    let connection = rusqlite::Connection::open(&path).expect("it is there");
    connection.pragma_update(None, "user_version", 99).expect("it can be written");
    let folded: String =
        connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).expect("no WAL is left");
    assert_eq!(folded, "delete");
    drop(connection);
    let before = fs::read(&path).expect("it is there");
    let output = broker.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("buffer.db") && said.contains("newer") && said.contains("99"), "{said}");
    assert!(before == fs::read(&path).expect("it is there"), "not a byte of it has changed");
}

#[test]
fn acknowledged_readings_survive_kill_9_in_their_order() {
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(V5, &device, "meter");
    for n in 0..200 {
        client.telemetry(&numbered(n));
    }
    broker.kill9();
    assert!(matches!(client.next(SOON), Event::Closed));
    broker.restart();
    let expected: Vec<String> = (0..200).map(numbered).collect();
    assert_eq!(broker.stored_values("pump"), expected);
    let sequence: Vec<u64> = broker.telemetry().iter().map(|row| row.seq).collect();
    let mut client = broker.online(V5, &device, "meter");
    client.telemetry(&numbered(200));
    let last = broker.telemetry().last().expect("a row").seq;
    assert!(last > sequence[199], "no place in the journal is used twice");
}
