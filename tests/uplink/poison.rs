//! Readings the hub does not take.

use forebay::uplink::{Order, Settings, State};

use crate::{
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
