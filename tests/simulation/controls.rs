//! Positive controls: broken on purpose, and the simulator must say so.

use crate::{
    gateway::Sabotage,
    world::{Plan, World},
};

/// Seeds within which a control must be caught.
const SEEDS: u64 = 60;

/// The first seed that loses an acknowledged reading, and what it says.
fn caught(sabotage: Sabotage) {
    let (seed, words) = (1..=SEEDS)
        .find_map(|seed| {
            let plan = Plan { seed, steps: 400, sabotage, many_cuts: true };
            let words = World::new(plan).run().err()?;
            words.contains("was acknowledged").then_some((seed, words))
        })
        .unwrap_or_else(|| panic!("{sabotage:?} was not noticed in {SEEDS} seeds"));
    println!("{sabotage:?}, seed {seed}: {}", words.lines().next().unwrap_or_default());
}

#[test]
fn answers_that_leave_before_the_commit_are_noticed() {
    caught(Sabotage::AnswerBeforeCommit);
}

#[test]
fn commits_that_are_not_flushed_are_noticed() {
    caught(Sabotage::CommitWithoutFlush);
}
