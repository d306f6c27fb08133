//! Positive controls: broken on purpose, and the simulator must say so.

use crate::{
    sabotage::{Omission, Sabotage},
    world::{Cast, Plan, World},
};

/// Seeds within which a control must be caught.
const SEEDS: u64 = 300;

/// The first seed that says one of the `words` of what was done on purpose.
fn caught(sabotage: Sabotage, cast: Cast, words: &[&str]) {
    let (seed, said) = (1..=SEEDS)
        .find_map(|seed| {
            let plan = Plan { seed, steps: 400, sabotage, many_cuts: true, cast };
            let said = World::new(plan).run().err()?;
            let first = said.lines().next().unwrap_or_default();
            words.iter().any(|word| first.contains(word)).then(|| (seed, first.to_owned()))
        })
        .unwrap_or_else(|| panic!("{sabotage:?} was not noticed in {SEEDS} seeds"));
    println!("{sabotage:?}, seed {seed}: {said}");
}

#[test]
fn answers_that_leave_before_the_commit_are_noticed() {
    caught(Sabotage::AnswerBeforeCommit, Cast::Drawn, &["was acknowledged"]);
    caught(Sabotage::AnswerBeforeCommit, Cast::LocalClients, &["SESSION", "was acknowledged", "RETAINED"]);
}

#[test]
fn commits_that_are_not_flushed_are_noticed() {
    caught(Sabotage::CommitWithoutFlush, Cast::Drawn, &["was acknowledged"]);
    caught(Sabotage::CommitWithoutFlush, Cast::LocalClients, &["SESSION", "was acknowledged", "RETAINED"]);
}

#[test]
fn changes_of_sessions_that_are_left_out_are_noticed() {
    for (omission, words) in [
        (Omission::Subscriptions, "has lost its subscription"),
        (Omission::Deliveries, "LOST"),
        (Omission::Acknowledged, "TWICE"),
        (Omission::Unreleased, "TWICE"),
        (Omission::Retained, "RETAINED"),
        (Omission::Wills, "STUCK: will"),
    ] {
        caught(Sabotage::LeaveOut(omission), Cast::LocalClients, &[words]);
    }
}

#[test]
fn readings_settled_before_they_are_acknowledged_are_noticed() {
    caught(Sabotage::SettleUnacknowledged, Cast::Drawn, &["is settled and the hub does not have it"]);
}

#[test]
fn rejected_readings_that_are_settled_like_any_other_are_noticed() {
    caught(Sabotage::ForgetRejected, Cast::Drawn, &["is settled and the hub does not have it"]);
}

#[test]
fn a_hub_that_acknowledges_what_it_drops_is_noticed() {
    caught(Sabotage::HubThatLies, Cast::Drawn, &["is settled and the hub does not have it"]);
}

#[test]
fn readings_that_leave_the_journal_unsettled_or_uncounted_are_noticed() {
    caught(Sabotage::RemoveUnsettled, Cast::Drawn, &["was acknowledged", "GONE"]);
    caught(Sabotage::ForgetDropped, Cast::Drawn, &["GONE"]);
}
