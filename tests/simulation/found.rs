//! What the simulator and the exhaustive mode have found, each as short as it can be told.

use forebay::{
    clock::Wall,
    device::TokenHash,
    ids::DeviceName,
    store::{Registry, StoreOptions},
};

use crate::{
    disk::{Call, Disk, DiskError, Lasting, Loss, Trouble},
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
