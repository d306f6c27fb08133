//! Power cuts: the real program on a real file system, whose card is taken away at random instants under load. What was
//! acknowledged is there after the restart, in each device's order, and nothing is there that was not sent.
//!
//! `CUTS` sets how many, twenty without it; `SEED` repeats a run's instants as far as the machine does. A thousand:
//!
//! ```text
//! CUTS=1000 cargo test --test power_loss acknowledged -- --nocapture
//! ```
//!
//! It needs root, for loop devices and mounts, and fails without it unless `SKIP_POWER_LOSS=1` says that nobody minds.
//! A second test shows that the first can fail: the same cuts, with commits that are not flushed, lose readings.

mod card;
mod corner;
mod ledger;
#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;
mod writer;

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use card::Card;
use ledger::Ledger;
use support::{
    broker::{Broker, Setup},
    chance::Chance,
    fleet::{Fleet, Payload},
    process, tell,
    wait::SOON,
};
use writer::{Flushing, Writer};

const CUTS: u32 = 20;
/// Cuts one card sees: enough to recover from a recovery, few enough to read its journal back each time.
const CUTS_OF_A_CARD: u32 = 10;
const PUBLISHERS: usize = 8;
const WINDOW: usize = 10;
/// Longest time under load before a cut.
const LOAD_US: u64 = 200_000;
/// Longest time from the start of the program to a cut meant to hit the start itself.
const START_US: u64 = 60_000;
/// One cut in so many hits the start.
const CUTS_PER_START: u64 = 8;
const CUTS_OF_THE_CONTROL: u32 = 5;

/// What a run of cuts has shown.
#[derive(Debug, Default)]
struct Tally {
    cuts: u32,
    during_starts: u32,
    acked: u64,
    lost: u64,
    /// Sent and not acknowledged when the power went.
    in_flight: u64,
    duplicates: u64,
}

#[test]
fn every_acknowledged_reading_survives_power_cuts_at_random_instants() {
    if !corner::entered("every_acknowledged_reading_survives_power_cuts_at_random_instants") {
        return;
    }
    let wanted = std::env::var("CUTS").map_or(CUTS, |text| text.parse().expect("CUTS is a number"));
    let mut chance = Chance::of_today();
    let mut tally = Tally::default();
    let started = Instant::now();
    // A loss ends it: what is sent afterwards would only tell of the hole again.
    while tally.cuts < wanted && tally.lost == 0 {
        let cuts = CUTS_OF_A_CARD.min(wanted - tally.cuts);
        wear_out_a_card(&mut chance, &mut tally, cuts);
    }
    tell(&format!(
        "power cuts: {} in {:.1?}, {} of them during starts; {} readings acknowledged, {} lost; {} in flight at the \
         cuts, {} of which were stored all the same and then sent again",
        tally.cuts,
        started.elapsed(),
        tally.during_starts,
        tally.acked,
        tally.lost,
        tally.in_flight,
        tally.duplicates,
    ));
    assert_eq!(tally.lost, 0, "acknowledged means on disk");
    assert!(tally.acked > u64::from(10 * wanted), "hardly anything was acknowledged: this says nothing");
}

/// Cuts the power `cuts` times on one card, each life starting from what the one before left on it.
fn wear_out_a_card(chance: &mut Chance, tally: &mut Tally, cuts: u32) {
    let setup = Setup::new();
    let mut card = Card::insert(&setup.home().data_dir());
    let mut fleet = Fleet::new(WINDOW, Payload::Numbered);
    for number in 0..PUBLISHERS {
        fleet.add("meter", &setup.home().add_device(&number.to_string()).token);
    }
    let mut broker = setup.start();
    for _ in 0..cuts {
        if chance.below(CUTS_PER_START) == 0 {
            cut_during_a_start(&mut card, &mut broker, chance);
            tally.during_starts += 1;
        } else {
            cut_under_load(&mut card, &mut broker, &mut fleet, chance);
            tally.in_flight += fleet.in_flight() as u64;
        }
        tally.cuts += 1;
        card.insert_again();
        broker.restart();
        tally.lost += check(&broker, &fleet).lost;
        if tally.lost > 0 {
            tally.acked += fleet.acked();
            return;
        }
    }
    fleet.reconnect(broker.plain());
    fleet.set_sending(false);
    let drained = |fleet: &Fleet| fleet.online() == PUBLISHERS && fleet.in_flight() == 0;
    assert!(fleet.run_until(SOON, drained), "after the last cut everything drains");
    let ledger = check(&broker, &fleet);
    tally.acked += fleet.acked();
    tally.duplicates += ledger.duplicates;
    broker.stop();
}

/// The publishers go on until their sockets die, so the cut meets a program at work: wherever the card is in a commit,
/// or, if the program is stopped first, wherever the program is; only so it can have committed and not yet answered.
fn cut_under_load(card: &mut Card, broker: &mut Broker, fleet: &mut Fleet, chance: &mut Chance) {
    fleet.reconnect(broker.plain());
    let (pid, instant) = (broker.pid(), Duration::from_micros(chance.below(LOAD_US)));
    let stopped_first = chance.below(2) == 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_the_instant(instant);
            if stopped_first {
                process::signal(pid, Signal::STOP);
            }
            // Killed while the card takes nothing: no acknowledgement can leave for what is not on the copy.
            card.cut(|| process::signal(pid, Signal::KILL));
        });
        // Acknowledgements that were on their way when the power went count as well.
        assert!(fleet.run_until(SOON, |fleet| fleet.connected() == 0), "its sockets die with the process");
    });
    broker.kill9();
}

/// The cut may come before the program has opened anything, or after it listens; nobody is connected.
fn cut_during_a_start(card: &mut Card, broker: &mut Broker, chance: &mut Chance) {
    broker.kill9();
    let instant = Duration::from_micros(chance.below(START_US));
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_the_instant(instant);
            card.cut(|| {});
        });
        broker.restart();
    });
    broker.kill9();
}

/// Not a wait for anything to happen: the instant is what is random.
fn wait_for_the_instant(instant: Duration) {
    thread::sleep(instant);
}

fn check(broker: &Broker, fleet: &Fleet) -> Ledger {
    let verdict: String = broker
        .database("buffer.db")
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("it can be checked");
    assert_eq!(verdict, "ok");
    let mut ledger = Ledger::read(&broker.telemetry(), PUBLISHERS);
    for (device, publisher) in fleet.publishers().iter().enumerate() {
        ledger.compare(device, publisher.acked, publisher.sent);
    }
    ledger
}

#[test]
fn the_same_cuts_lose_readings_if_commits_are_not_flushed() {
    if !corner::entered("the_same_cuts_lose_readings_if_commits_are_not_flushed") {
        return;
    }
    let mut chance = Chance::of_today();
    let started = Instant::now();
    let weak = cut_a_writer(Flushing::Left, &mut chance);
    let strong = cut_a_writer(Flushing::Done, &mut chance);
    tell(&format!(
        "power cuts, the control: {CUTS_OF_THE_CONTROL} cuts each in {:.1?}; synchronous=NORMAL lost {} of {} readings, \
         FULL {} of {}",
        started.elapsed(),
        weak.lost,
        weak.acked,
        strong.lost,
        strong.acked,
    ));
    assert!(weak.lost > 0, "a cut that costs nothing is no cut");
    assert_eq!(strong.lost, 0, "the loss comes from the missing flush and from nothing else");
}

/// Cuts the power of a program that does nothing but append and tell; each time on a new card.
fn cut_a_writer(flushing: Flushing, chance: &mut Chance) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..CUTS_OF_THE_CONTROL {
        let setup = Setup::new();
        let home = setup.home();
        let mut card = Card::insert(&home.data_dir());
        let acked = 1 + chance.below(1000);
        let mut writer = Writer::start(&home.data_dir(), flushing, acked);
        writer.wait_until(acked);
        card.cut(|| writer.kill());
        writer.wait_for_exit();
        card.insert_again();
        let mut ledger = Ledger::read(&home.telemetry(), 1);
        ledger.compare(0, acked, acked);
        tally.cuts += 1;
        tally.acked += acked;
        tally.lost += ledger.lost;
    }
    tally
}
