//! The scripts: short lives of a store, each walked through operation by operation.

use forebay::clock::ClockState;

use super::run::{GaveUp, Run};

/// A script and what it is about.
pub struct Script {
    pub name: &'static str,
    pub play: fn(&mut Run<'_>) -> Result<(), GaveUp>,
    /// Too long for every operation; unless all are asked for, every so many must do.
    pub stride: u64,
}

const SET: ClockState = ClockState { offset_ms: 1_700_000_000_000, synchronised: true };

pub const SCRIPTS: &[Script] = &[
    Script { name: "first start", play: first_start, stride: 1 },
    Script { name: "append", play: append, stride: 1 },
    Script { name: "quarantine", play: quarantine, stride: 1 },
    Script { name: "checkpoint by hand", play: checkpoint, stride: 1 },
    Script { name: "checkpoint of a long log", play: long_log, stride: 97 },
    Script { name: "registry", play: registry, stride: 1 },
    Script { name: "reopen", play: reopen, stride: 1 },
    Script { name: "clock row", play: clock, stride: 1 },
    Script { name: "both databases in turn", play: both, stride: 1 },
    Script { name: "starts and stops", play: starts_and_stops, stride: 1 },
];

fn first_start(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()
}

fn append(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.append(&["a1"])?;
    run.append(&["a2", "a3", "a4"])?;
    let long = "x".repeat(5_000);
    run.append(&[&long])?;
    run.append(&["a5"])
}

fn quarantine(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.set_aside(&[b"q1"])?;
    run.append(&["a1"])?;
    run.set_aside(&[b"q2", b"q3", b"q4"])?;
    run.set_aside(&[b"q5"])
}

fn checkpoint(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    for value in ["a1", "a2", "a3"] {
        run.append(&[value])?;
        run.checkpoint()?;
    }
    run.append(&["a4"])
}

/// The log passes the length at which a commit checkpoints it and starts it anew, twice.
fn long_log(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    for round in 0..5 {
        let long = format!("{round}{}", "x".repeat(220_000));
        run.append(&[&long])?;
        run.append(&[&format!("short {round}")])?;
    }
    Ok(())
}

fn registry(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.add("pump", "T1")?;
    run.add("fan", "T2")?;
    run.rotate("pump", "T3")?;
    run.disable("fan", "T2")?;
    run.remove("pump")?;
    run.add("lamp", "T4")
}

fn reopen(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.append(&["a1", "a2"])?;
    run.reopen()?;
    run.append(&["a3"])?;
    run.reopen()?;
    run.append(&["a4"])
}

fn clock(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.append(&["a1"])?;
    run.set_clock(ClockState { offset_ms: 9_000, synchronised: false })?;
    run.append(&["a2"])?;
    run.set_clock(SET)?;
    run.append(&["a3"])
}

fn both(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.add("pump", "T1")?;
    run.append(&["a1"])?;
    run.rotate("pump", "T2")?;
    run.append(&["a2"])?;
    run.disable("pump", "T2")?;
    run.append(&["a3"])
}

fn starts_and_stops(run: &mut Run<'_>) -> Result<(), GaveUp> {
    for value in ["a1", "a2", "a3"] {
        run.start()?;
        run.append(&[value])?;
        run.add(value, value)?;
        run.stop();
    }
    run.start()
}
