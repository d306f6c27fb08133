//! The store against a model of it: random calls on both must give the same answers.
//!
//! `MODEL_SEED` chooses the first seed, `MODEL_SEEDS` how many.

#[path = "../simulation/chance.rs"]
#[allow(dead_code, reason = "shared with the simulator, which uses more of it")]
mod chance;
#[path = "../simulation/disk/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the simulator, which uses more of it")]
mod disk;
mod journal;
mod model;
mod place;
mod registry;
mod sessions;
mod sessions_model;

use disk::Disk;
use place::Place;

const CALLS: usize = 300;

#[test]
fn the_journal_does_what_its_model_does() {
    for seed in seeds(60) {
        let replay = Replay(seed);
        let place = Place::Simulated(Disk::new(seed));
        let mut both = journal::Both::new(&place, seed);
        (0..CALLS).for_each(|_| both.call());
        drop(replay);
    }
}

#[test]
fn the_registry_does_what_its_model_does() {
    for seed in seeds(60) {
        let replay = Replay(seed);
        let place = Place::Simulated(Disk::new(seed));
        let mut both = registry::Both::new(&place, seed);
        (0..CALLS).for_each(|_| both.call());
        drop(replay);
    }
}

#[test]
fn sessions_are_kept_as_their_model_keeps_them() {
    for seed in seeds(20) {
        let replay = Replay(seed);
        let place = Place::Simulated(Disk::new(seed));
        let mut both = sessions::Both::new(&place, seed);
        (0..CALLS).for_each(|_| both.call());
        drop(replay);
    }
}

#[test]
fn on_real_files_it_is_the_same() {
    let replay = Replay(1);
    let place = Place::Real(tempfile::tempdir().expect("a directory"));
    let mut journal = journal::Both::new(&place, 1);
    let mut registry = registry::Both::new(&place, 1);
    for _ in 0..CALLS {
        journal.call();
        registry.call();
    }
    drop(journal);
    let mut sessions = sessions::Both::new(&place, 1);
    (0..CALLS).for_each(|_| sessions.call());
    drop(replay);
}

/// Tells which seed it was, if the test fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: MODEL_SEED={} MODEL_SEEDS=1 cargo test --test store_model", self.0);
        }
    }
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a whole number"));
    let first = number("MODEL_SEED").unwrap_or(1);
    first..first + number("MODEL_SEEDS").unwrap_or(usual)
}
