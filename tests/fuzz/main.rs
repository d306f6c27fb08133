//! The short run of the fuzz targets: every seed of `corpus/`, then mutations of the seeds for a few seconds each.
//!
//! No coverage steers these mutations; for that there is libFuzzer, `tests/fuzz/run TARGET SECONDS`, whose finds become
//! seeds here. `SEED` repeats a run, `FUZZ_SECONDS` makes it longer (for each target, two without it).

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/chance.rs"]
mod chance;
mod mutation;
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant},
};

use chance::Chance;
use mutation::mutate;

const SECONDS: u64 = 2;
/// Longest input that mutations make.
const BYTES_MAX: usize = 512;

#[test]
fn any_bytes_are_decoded_or_refused_and_what_is_decoded_survives_the_way_back() {
    fuzz("packets", targets::packets::run);
}

#[test]
fn any_payload_is_read_as_serde_json_reads_it_or_refused() {
    fuzz("telemetry", targets::telemetry::run);
}

#[test]
fn any_message_of_a_gateway_says_of_a_device_what_its_own_would_or_is_refused() {
    fuzz("gateway", targets::gateway::run);
}

#[test]
fn any_filter_matches_what_a_naive_matcher_says() {
    fuzz("topics", targets::topics::run);
}

#[test]
fn any_script_of_two_clients_is_played_to_its_end() {
    fuzz("sessions", targets::sessions::run);
}

fn fuzz(name: &str, target: fn(&[u8])) {
    let seeds = seeds(name);
    let mut chance = Chance::of_today();
    let seconds = std::env::var("FUZZ_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut inputs = 0_u64;
    for seed in &seeds {
        must_hold(target, seed);
    }
    while Instant::now() < end {
        // The clock is dearer than a packet.
        for _ in 0..64 {
            must_hold(target, &mutate(&seeds, &mut chance, BYTES_MAX));
            inputs += 1;
        }
    }
    println!("{name}: {} seeds and {inputs} mutations of them", seeds.len());
}

/// Runs `target` and, if it panics, shows the input in a form that can be pasted into a test.
fn must_hold(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("the input was b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

/// The seeds of a target, in an order that does not depend on the file system.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .expect("every target has seeds")
        .map(|entry| entry.expect("a file").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "every target has seeds");
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}
