//! What the simulator and the exhaustive mode have found, each as short as it can be told.

use forebay::{
    clock::{ClockState, Mono, Now, Wall},
    identity::TokenHash,
    ids::{DeviceName, Seq},
    store::{BootId, Buffer, BufferReader, Query, Registry, StoreError, StoreOptions},
};

use crate::{
    disk::{Call, Disk, DiskError, Lasting, Loss, Trouble},
    exhaustive::{batch_of, number},
    machine::{self, Locking, data_dir},
};

fn options(disk: &Disk) -> StoreOptions {
    machine::options(disk, Locking::Shared, 10, false)
}

fn open(disk: &Disk) -> Registry {
    Registry::open(&data_dir(), &options(disk)).expect("opened")
}

fn name(text: &str) -> DeviceName {
    DeviceName::parse(text).expect("a valid name")
}

/// Found by the script "registry", every flush failing once: the next process took what was in the log, and not on the
/// storage, for committed, and put its own change behind it.
#[test]
fn a_change_of_the_registry_does_not_lean_on_what_a_killed_process_could_not_flush() {
    let disk = Disk::new(1);
    let mut registry = open(&disk);
    registry.add(&name("pump"), &TokenHash::of("T1"), Wall(0)).expect("added");
    disk.storage().call_log = Some(Vec::new());
    registry.add(&name("fan"), &TokenHash::of("T2"), Wall(0)).expect("added");
    let calls = disk.storage().call_log.take().expect("it was kept");
    let flush = calls.iter().position(|call| *call == Call::Sync).expect("a commit flushes") as u64;

    // The next change goes the same way, up to its flush.
    let call = disk.storage().calls() + flush + 1;
    disk.storage().troubles.chosen = Some(Trouble { call, error: DiskError::Io, lasting: Lasting::Once });
    registry.add(&name("lamp"), &TokenHash::of("T3"), Wall(0)).expect_err("it could not be flushed");
    assert_eq!(disk.storage().troubles.felt, 1);
    disk.storage().stop();
    drop(registry);
    disk.storage().start();

    let mut registry = open(&disk);
    registry.set_enabled(&name("pump"), false).expect("confirmed");
    disk.storage().stop();
    drop(registry);
    disk.storage().start_after_power_cut(Loss::All);

    let pump = open(&disk).find(&name("pump")).expect("read").expect("there");
    assert!(!pump.enabled, "the confirmed change is lost");
}

/// Found by seed 2882: the change counted as noticed, and the devices could not be read just then; a removed device was
/// let in until the next change.
#[test]
fn a_change_of_the_registry_is_not_missed_when_it_cannot_be_read_at_first() {
    let disk = Disk::new(1);
    let mut broker = open(&disk);
    for round in 1..=40 {
        let token = TokenHash::of(&format!("T{round}"));
        open(&disk).add(&name(&format!("device-{round}")), &token, Wall(0)).expect("added");
        let call = disk.storage().calls() + round;
        disk.storage().troubles.chosen = Some(Trouble { call, error: DiskError::Io, lasting: Lasting::Once });
        let first = broker.take_changed();
        disk.storage().troubles.heal();
        let devices = match first {
            Ok(devices) => devices,
            Err(_) => broker.take_changed().expect("the disk is sound again"),
        };
        assert_eq!(devices.map(|devices| devices.len()), Some(round as usize), "a failure at read {round}");
    }
    assert!(disk.storage().troubles.felt > 0, "no call failed");
}

const ALL: Query = Query { after: Seq(0), device: None, since: None, limit: usize::MAX, newest: false };

fn open_journal(disk: &Disk) -> Buffer {
    let clock = ClockState { offset_ms: 0, synchronised: false };
    let now = Now { mono: Mono(5_000_000), wall: Wall(0) };
    Buffer::open(&data_dir(), &options(disk), &BootId::new("boot"), now, clock).expect("opened")
}

fn append(buffer: &mut Buffer, values: &str) -> Result<(), StoreError> {
    let mut batch = batch_of(&[values.to_owned()]);
    number(&mut batch, buffer.last_seq());
    buffer.append(&batch)
}

/// Found by reading: a reader that came while the journal was closed took what had not been flushed for committed, and
/// its index of the log outlived the bytes; what lay there before was then read, and copied into the database.
#[test]
fn what_a_reader_found_in_the_log_before_its_bytes_were_given_up_is_not_believed() {
    for earlier in 0..40 {
        let disk = Disk::new(earlier);
        let mut buffer = open_journal(&disk);
        for number in 0..earlier {
            let values = format!("{{\"v\":\"{number}{}\"}}", "x".repeat(200));
            append(&mut buffer, &values).expect("stored");
        }
        buffer.checkpoint().expect("the next reading begins the log anew");
        append(&mut buffer, "{\"v\":\"confirmed\"}").expect("stored");
        disk.storage().troubles.flush_fails = true;
        append(&mut buffer, "{\"v\":\"doubtful\"}").expect_err("not flushed");

        let reader = BufferReader::open(&data_dir(), &options(&disk)).expect("opened");
        assert_eq!(reader.read(&ALL).expect("read").len() as u64, earlier + 2, "the kernel still shows it");
        disk.forget_cached(&data_dir().buffer_path());
        buffer.reopen().unwrap_or_else(|error| panic!("after {earlier}: {error}"));
        assert_eq!(buffer.last_seq(), Seq(earlier + 1));
        let found =
            BufferReader::open(&data_dir(), &options(&disk)).expect("opened").read(&ALL).expect("read");
        assert_eq!(found.len() as u64, earlier + 1, "what was confirmed, and nothing else");
    }
}
