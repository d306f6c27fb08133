//! Readings the hub does not take.

use std::time::Duration;

use forebay::uplink::{Order, Settings, State};

use crate::{
    devices,
    hub::{Manners, OnPoison, Version5},
    world::{SECOND, World, settings},
};

const POISON: &str = r#"{"poison":1}"#;

fn world_with_poison(seed: u64, manners: Manners) -> World {
    let mut world = World::new(seed, settings(), manners);
    world.network.is_up = false;
    world.store_many(&["a", "b", "c"], 900);
    world.store_values("b", POISON);
    world.store_many(&["a", "b", "c"], 300);
    world.store_values("a", POISON);
    world.store_values("a", POISON);
    world.store_many(&["a", "b", "c"], 900);
    world.network.is_up = true;
    world
}

#[test]
fn poison_the_hub_tells_of_is_rejected_in_the_hubs_words_and_all_else_arrives() {
    let mut world = world_with_poison(1, Manners::good());
    world.drain(600 * SECOND);
    world.run(10 * SECOND);
    assert_eq!(world.rejected.keys().copied().collect::<Vec<_>>(), [901, 1202, 1203]);
    assert!(world.rejected[&901].contains("payload format invalid (0x99)"), "{:?}", world.rejected);
    assert!(world.hub.refusals < 60, "{} refusals", world.hub.refusals);
    assert_eq!(world.connections, 1, "no reason to reconnect");
    for device in ["a", "b", "c"] {
        assert!(world.first_arrivals(device).is_sorted(), "{device}");
    }
}

#[test]
fn poison_the_hub_closes_on_is_found_and_rejected_and_all_else_arrives() {
    for version_5 in [Version5::Spoken, Version5::ClosesWithoutAWord] {
        for poison in [OnPoison::Closes, OnPoison::Says, OnPoison::Hangs] {
            let manners = Manners { version_5, poison, ..Manners::good() };
            let mut world = world_with_poison(2, manners);
            world.live_and_drain(&["a", "b", "c"]);
            assert_eq!(
                world.rejected.keys().copied().collect::<Vec<_>>(),
                [901, 1202, 1203],
                "{version_5:?} {poison:?}"
            );
            assert!(world.hub.refusals < 80, "{} refusals, {poison:?}", world.hub.refusals);
        }
    }
}

#[test]
fn poison_is_found_as_well_when_the_hub_does_not_tell_its_rates() {
    let manners = Manners { poison: OnPoison::Closes, tells_limits: false, ..Manners::good() };
    let mut world = world_with_poison(3, manners);
    world.live_and_drain(&["a", "b", "c"]);
    assert_eq!(world.rejected.len(), 3);
}

#[test]
fn a_hub_that_takes_nothing_is_at_fault_itself() {
    for poison in [OnPoison::Says, OnPoison::Closes] {
        let manners = Manners { takes_nothing: true, poison, ..Manners::good() };
        let mut world = World::new(4, settings(), manners);
        world.store_many(&["a", "b"], 2000);
        world.run(12 * 3600 * SECOND);
        let status = world.uplink.status(world.now);
        assert_eq!((status.rejected, status.uploaded, status.backlog), (0, 0, 2000));
        assert!(status.alarm.clone().is_some_and(|words| words.contains("no reading at all")), "{status:?}");
        assert!(world.hub.refusals < 1000, "{} refusals", world.hub.refusals);
        world.hub.manners.takes_nothing = false;
        world.drain(3600 * SECOND);
        assert!(world.rejected.is_empty());
        let status = world.uplink.status(world.now);
        assert_eq!((status.state, status.alarm), (State::UpToDate, None));
    }
}

#[test]
fn the_last_reading_of_all_is_rejected_only_when_another_is_taken() {
    let mut world = World::new(5, settings(), Manners::good());
    let bad = world.store_values("pump", POISON);
    world.run(600 * SECOND);
    assert!(world.rejected.is_empty());
    assert_eq!(world.uplink.status(world.now).suspected, 1);
    world.store("hall");
    world.drain(60 * SECOND);
    world.run(10 * SECOND);
    assert_eq!(world.rejected.keys().copied().collect::<Vec<_>>(), [bad]);
}

#[test]
fn what_was_rejected_before_a_power_cut_is_not_sent_again_after_it() {
    let mut world = world_with_poison(6, Manners::good());
    world.drain(600 * SECOND);
    world.run(10 * SECOND);
    let refusals = world.hub.refusals;
    world.crash();
    world.store("a");
    world.drain(60 * SECOND);
    assert_eq!(world.hub.refusals, refusals);
}

#[test]
fn devices_with_nothing_but_poison_do_not_hold_up_the_others_for_ever() {
    for (poison, tells_limits) in [
        (OnPoison::Says, true),
        (OnPoison::Closes, true),
        (OnPoison::Closes, false),
        (OnPoison::Hangs, false),
    ] {
        for order in [Order::OldestFirst, Order::FreshBeside] {
            let settings = Settings { order, ..settings() };
            let mut world = World::new(7, settings, Manners { poison, tells_limits, ..Manners::good() });
            world.network.is_up = false;
            for place in 0..15 {
                world.store_values(["bad", "worse", "worst"][place % 3], POISON);
            }
            world.store_many(&["good"], 300);
            world.network.is_up = true;
            let is_there = |world: &mut World| world.first_arrivals("good").len() == 300;
            let arrived = world.run_until(12 * 3600 * SECOND, is_there);
            assert!(arrived, "{poison:?} {tells_limits} {order:?}: {:#?}", world.uplink.status(world.now));
        }
    }
}

/// Readings of one device alone, every other device's being somebody else's business: `good` of them, then `bad` the hub
/// does not take, then good ones again.
fn only_device(is_own: bool, order: Order, manners: Manners, good: u64, bad: u64) -> World {
    let (settings, manners) = match is_own {
        true => (devices::as_pump(), Manners { device: devices::manners().device, ..manners }),
        false => (settings(), manners),
    };
    let mut world = World::new(8, Settings { order, ..settings }, manners);
    world.store_many(&["pump"], good);
    world.run(10 * SECOND);
    world.network.is_up = false;
    world.cut(forebay::uplink::FailureKind::Reset);
    (0..bad).for_each(|_| _ = world.store_values("pump", POISON));
    world.store_many(&["pump"], 300);
    world.network.is_up = true;
    world
}

/// The kinds of hub that do not take a reading, and how long finding fifty such may take.
fn refusing_hubs() -> [(Manners, Duration); 3] {
    let manners = |poison, tells_limits| Manners { poison, tells_limits, ..Manners::good() };
    [
        (manners(OnPoison::Says, true), 1800 * SECOND),
        (manners(OnPoison::Closes, true), 6 * 3600 * SECOND),
        (manners(OnPoison::Closes, false), 6 * 3600 * SECOND),
    ]
}

#[test]
fn more_bad_readings_than_may_be_suspected_do_not_hold_up_the_only_device() {
    for (manners, span) in refusing_hubs() {
        for (is_own, order) in
            [(true, Order::OldestFirst), (true, Order::FreshBeside), (false, Order::OldestFirst)]
        {
            for good in [0, 10] {
                let mut world = only_device(is_own, order, manners.clone(), good, 50);
                let is_done = |world: &mut World| {
                    let found = world.rejected.len() + world.uplink.status(world.now).suspected;
                    found == 50 && world.first_arrivals("pump").len() as u64 == good + 300
                };
                let what = format!("{:?} {is_own} {order:?} {good}", manners.poison);
                let done = world.run_until(span, is_done);
                assert!(done, "{what}: {:#?}", world.uplink.status(world.now));
                // The last ones wait for one more to be taken between.
                for _ in 0..4 {
                    world.store("pump");
                    world.run(60 * SECOND);
                }
                assert_eq!(world.rejected.len(), 50, "{what}");
                world.check_promises();
                let arrivals = world.first_arrivals("pump");
                let turns = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count();
                // Where the hub has never taken anything, one reading shows that it takes any.
                assert!(turns <= usize::from(good == 0), "{what}: {arrivals:?}");
            }
        }
    }
}

#[test]
fn bad_readings_beyond_what_is_held_in_memory_are_got_past_as_well() {
    for order in [Order::OldestFirst, Order::FreshBeside] {
        let mut world = only_device(true, order, Manners::good(), 0, 600);
        world.drain(3600 * SECOND);
        world.run(10 * SECOND);
        assert_eq!(world.rejected.len(), 600);
    }
}

#[test]
fn a_hub_that_takes_nothing_any_more_has_nothing_of_an_only_device_rejected() {
    for (manners, _) in refusing_hubs() {
        for (is_own, good) in [(true, 0), (true, 10), (false, 0), (false, 10)] {
            let mut world = only_device(is_own, Order::FreshBeside, manners.clone(), good, 0);
            world.hub.manners.takes_nothing = true;
            for _ in 0..24 * 6 {
                world.store("pump");
                world.run(600 * SECOND);
            }
            let status = world.uplink.status(world.now);
            assert_eq!((status.rejected, status.uploaded), (0, good), "{:?}", manners.poison);
            assert!(status.alarm.is_some_and(|words| words.contains("no reading at all")));
            assert!(world.hub.refusals < 2000, "{} refusals", world.hub.refusals);
            world.hub.manners.takes_nothing = false;
            let is_done = |world: &mut World| world.first_arrivals("pump").len() as u64 == good + 444;
            assert!(world.run_until(3600 * SECOND, is_done), "{:#?}", world.uplink.status(world.now));
            assert!(world.rejected.is_empty());
        }
    }
}
