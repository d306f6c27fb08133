//! Who is connected to the gateway, as the hub is told.

use std::time::Duration;

use forebay::uplink::FailureKind;

use crate::{
    hub::{HubRate, Manners, OnFarewell},
    world::{SECOND, World, settings},
};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("d{number}")).collect()
}

fn is_known(world: &mut World) -> bool {
    world.connected() == world.here
}

#[test]
fn the_hub_is_told_who_comes_and_who_goes() {
    let mut world = World::new(1, settings(), Manners::good());
    world.comes("early");
    world.run(SECOND);
    world.comes("late");
    world.run(SECOND);
    assert_eq!(world.hub.told, [("early".to_owned(), true), ("late".to_owned(), true)]);
    world.goes("early");
    world.run(10 * SECOND);
    assert_eq!(world.hub.told[2..], [("early".to_owned(), false)]);
    assert!(is_known(&mut world));
}

#[test]
fn a_device_that_flaps_costs_nothing_while_it_flaps() {
    let mut world = World::new(2, settings(), Manners::good());
    world.comes("pump");
    world.run(SECOND);
    for _ in 0..100 {
        world.goes("pump");
        world.run(SECOND / 2);
        world.comes("pump");
        world.run(SECOND / 2);
    }
    assert_eq!(world.hub.told, [("pump".to_owned(), true)]);
    world.cut(FailureKind::Reset);
    for _ in 0..100 {
        world.goes("pump");
        world.comes("pump");
    }
    world.run(60 * SECOND);
    assert_eq!(world.hub.told.len(), 2, "once for each connection to the hub");
}

#[test]
fn a_new_connection_to_the_hub_tells_of_everybody_who_is_there() {
    let mut world = World::new(3, settings(), Manners::good());
    for name in names(500) {
        world.comes(&name);
    }
    assert!(world.run_until(10 * SECOND, is_known));
    for name in names(100) {
        world.goes(&name);
    }
    world.hub_restarts();
    assert!(world.run_until(20 * SECOND, |world| world.connected().len() == 400));
    assert!(is_known(&mut world));
    assert_eq!(world.hub.told.len(), 900, "nobody is told to be gone who was not told to be there");
}

#[test]
fn readings_of_a_device_that_is_not_there_are_followed_by_its_going() {
    let mut world = World::new(4, settings(), Manners::good()).with_backlog(&["pump", "fan"], 20_000);
    world.comes("fan");
    world.run(20 * SECOND);
    assert_eq!(world.uplink.status(world.now).backlog, 0);
    assert!(is_known(&mut world));
    let of_pump: Vec<bool> =
        world.hub.told.iter().filter(|(name, _)| name == "pump").map(|(_, here)| *here).collect();
    assert_eq!(of_pump, [true, false], "not before the last of its readings");
    world.store("pump");
    world.run(20 * SECOND);
    assert!(is_known(&mut world));
}

#[test]
fn what_a_device_sent_last_goes_before_its_going() {
    let mut world = World::new(5, settings(), Manners::good());
    world.comes("pump");
    world.run(SECOND);
    world.goes("pump");
    world.run(SECOND);
    world.store("pump");
    world.run(10 * SECOND);
    assert_eq!(world.hub.told, [("pump".to_owned(), true), ("pump".to_owned(), false)]);
    assert_eq!(world.hub.arrivals.len(), 1);
}

#[test]
fn the_rate_of_messages_is_kept_and_readings_do_not_wait_for_presence() {
    let message_rate = Some((60, 60 * SECOND));
    let rates = vec![HubRate { messages: true, count: 100, period: SECOND }];
    let mut world = World::new(6, settings(), Manners { message_rate, rates, ..Manners::good() });
    world.run(SECOND);
    for name in names(200) {
        world.comes(&name);
    }
    for _ in 0..10 {
        world.store("live");
        let stored = world.now.mono;
        assert!(world.run_until(60 * SECOND, |world| world.uplink.status(world.now).backlog == 0));
        assert!(world.now.mono.since(stored) <= 5 * SECOND, "{:?}", world.now.mono.since(stored));
        world.run(30 * SECOND);
    }
    assert!(world.run_until(1200 * SECOND, |world| world.connected().len() >= 200));
}

#[test]
fn devices_that_come_only_to_send_a_reading_do_not_stall_the_readings() {
    let message_rate = Some((30, 60 * SECOND));
    let mut world = World::new(7, settings(), Manners { message_rate, ..Manners::good() });
    let all = names(100);
    let mut longest = Duration::ZERO;
    for round in 0..600 {
        let name = &all[round % all.len()];
        world.comes(name);
        world.store(name);
        world.goes(name);
        let stored = world.now.mono;
        world.run(5 * SECOND);
        world.run_until(600 * SECOND, |world| world.uplink.status(world.now).backlog == 0);
        longest = longest.max(world.now.mono.since(stored));
    }
    world.drain(600 * SECOND);
    assert!(world.run_until(4000 * SECOND, is_known));
    assert!(longest < 120 * SECOND, "{longest:?}");
}

#[test]
fn a_hub_that_does_not_want_to_hear_of_departures_loses_nothing_by_it() {
    for farewell in [OnFarewell::Refuses, OnFarewell::Closes] {
        let mut world = World::new(8, settings(), Manners { farewell, ..Manners::good() });
        for round in 0..400 {
            let name = format!("d{}", round % 20);
            world.comes(&name);
            world.store(&name);
            world.goes(&name);
            world.run(5 * SECOND);
        }
        world.drain(900 * SECOND);
        assert!(world.rejected.is_empty());
        assert!(world.connections <= 20, "{} connections, {farewell:?}", world.connections);
        assert_eq!(world.uplink.status(world.now).alarm, None);
    }
}
