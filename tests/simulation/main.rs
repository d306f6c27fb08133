//! The proof of the promise, on a machine that is made of memory: the real core and the real store on a disk that fails
//! and loses power, with devices, local clients, a network, a hub, a clock and an operator that all go wrong.
//!
//! ```text
//! cargo test --test simulation                                               about a minute
//! SIM_SEED=17 SIM_SEEDS=1 cargo test --test simulation whatever              one seed again
//! SIM_SECONDS=3600 cargo test --test simulation whatever -- --nocapture      an hour of them
//! cargo test --test simulation -- --ignored --nocapture                      a hundred thousand power cuts
//! SIM_THOROUGH=1 cargo test --test simulation exhaustive                     every single operation
//! ```
//!
//! `disk/` is the disk, `exhaustive/` walks through short scripts operation by operation, `../hub/` is the hub,
//! the rest is the simulator.

mod chance;
mod checks;
mod controls;
mod device;
mod disk;
mod exhaustive;
mod faults;
mod follower;
mod found;
mod gateway;
#[allow(dead_code, reason = "each test binary uses its own part of the model")]
#[path = "../hub/mod.rs"]
mod hub;
mod line;
mod local;
mod machine;
mod network;
mod operator;
mod post;
mod sabotage;
#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/session_half.rs"]
mod session_half;
mod settings;
mod stranger;
mod trace;
mod uploading;
mod upstream;
mod visitor;
mod wire;
mod world;

use std::time::Instant;

use sabotage::Sabotage;
use settings::Settings;
use world::{Cast, Plan, Summary, World};

#[test]
fn whatever_goes_wrong_nothing_acknowledged_is_lost_and_everything_drains() {
    let settings = Settings::read(45);
    let began = Instant::now();
    let mut total = Summary::default();
    let mut runs = 0;
    for seed in settings.seeds() {
        let plan = Plan {
            seed,
            steps: settings.steps,
            sabotage: Sabotage::None,
            many_cuts: false,
            cast: Cast::Drawn,
        };
        total.add(World::new(plan).run().unwrap_or_else(|words| panic!("{words}")));
        runs += 1;
    }
    println!("{runs} seeds in {:.1?}: {total:#?}", began.elapsed());
    if runs >= 200 {
        let missed: Vec<_> = TO_BE_MET.iter().filter(|what| !total.met.contains_key(**what)).collect();
        assert!(missed.is_empty(), "never met in {runs} seeds: {missed:?}");
    }
}

/// What a good number of seeds must have met: a simulator that is too kind proves nothing.
const TO_BE_MET: &[&str] = &[
    "a clean start",
    "a client that stops reading",
    "a clock that cannot be noted",
    "a clock that jumps",
    "a commit that fails",
    "a delivery of QoS 2",
    "a full disk",
    "a hub that answers late",
    "a hub that cannot keep readings",
    "a hub that does not acknowledge",
    "a hub that does not answer",
    "a hub that is not reached",
    "a hub that is starting",
    "a hub that refuses the token",
    "a hub that restarts",
    "a message the hub does not take",
    "a message the hub takes",
    "a power cut before a commit",
    "a power cut between a commit and its answers",
    "a power cut between two turns",
    "a reader beside the broker",
    "a reading that is told",
    "a reading the hub has rejected",
    "a reading under suspicion",
    "a registry that cannot be read",
    "a retained message that is found",
    "a session that is found again",
    "a settlement on disk",
    "a settlement that is not stored",
    "a start that fails",
    "a store that cannot be opened again",
    "a way to the hub that is cut",
    "a way to the hub that is half open",
    "a way to the hub that stalls",
    "a will that arrives",
    "connect timeout",
    "credentials changed",
    "keep-alive timeout",
    "made room",
    "malformed",
    "queue full",
    "readings that are dropped for their age",
    "readings that are dropped for want of room",
    "readings that are removed after their upload",
    "refused",
    "space put by that is given up",
    "space that is put by",
    "store failed",
    "taken over",
    "too many of one identity",
    "transport failed",
];

#[test]
#[ignore = "takes many minutes"]
fn a_hundred_thousand_power_cuts_lose_nothing_acknowledged() {
    let settings = Settings::read(u64::MAX / 2_000_000_000);
    let began = Instant::now();
    let mut total = Summary::default();
    for seed in settings.seeds() {
        let plan = Plan {
            seed,
            steps: settings.steps,
            sabotage: Sabotage::None,
            many_cuts: true,
            cast: Cast::Drawn,
        };
        total.add(World::new(plan).run().unwrap_or_else(|words| panic!("{words}")));
        if seed.is_multiple_of(500) {
            println!("{:.0?}: seed {seed}, {total:?}", began.elapsed());
        }
        if total.cuts >= 100_000 {
            break;
        }
    }
    println!("{:.1?}: {total:?}", began.elapsed());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=8 {
        let plan = Plan { seed, steps: 300, sabotage: Sabotage::None, many_cuts: false, cast: Cast::Drawn };
        let [first, second] =
            [(); 2].map(|()| World::new(plan).run().unwrap_or_else(|words| panic!("{words}")));
        assert_eq!(first, second, "seed {seed}");
    }
}
