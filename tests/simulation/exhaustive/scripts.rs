//! The scripts: short lives of a store, each walked through operation by operation.

use forebay::clock::ClockState;

use super::{
    run::{GaveUp, Run},
    sessions::{
        delivered, message, message_over, over, queued, received, retained, sent, session, subscribed,
        unreleased, will,
    },
};

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
    Script { name: "a journal of readings only", play: old_journal, stride: 1 },
    Script { name: "sessions", play: sessions, stride: 1 },
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

fn old_journal(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.find_old_journal();
    run.start()?;
    run.change_sessions(&[session(1), subscribed(1, "a/#")], "[1 a/#]")?;
    run.append(&["a1"])
}

fn sessions(run: &mut Run<'_>) -> Result<(), GaveUp> {
    run.start()?;
    run.change_sessions(&[session(1), subscribed(1, "a/#"), will(1, "w")], "[1 a/# will w]")?;
    run.change_sessions(&[message(1, "a/1", 9), queued(1, 1, 1)], "[1 a/# a/1 will w]")?;
    run.change_sessions(&[sent(1, 7), unreleased(1, 5)], "[1 a/# a/1@7 ?5 will w]")?;
    run.append(&["a1"])?;
    run.change_sessions(&[received(1), retained("r", 3_000)], "[1 a/# a/1@7! ?5 will w] r:3000")?;
    run.change_sessions(
        &[session(2), message(2, "a/2", 2_000), queued(2, 2, 2), queued(3, 1, 2), retained("r", 1)],
        "[1 a/# a/1@7! a/2 ?5 will w] [2 a/2] r:1",
    )?;
    run.change_sessions(&[delivered(1), message_over(1)], "[1 a/# a/2 ?5 will w] [2 a/2] r:1")?;
    run.change_sessions(&[delivered(3), over(1)], "[2 a/2] r:1")
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
