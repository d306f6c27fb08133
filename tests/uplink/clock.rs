//! Readings whose time is not known: a clock that is set by the network has its time once the hub is back, and a clock
//! that nobody sets holds up nothing for good.

use std::time::Duration;

use forebay::uplink::State;

use crate::{
    hub::Manners,
    world::{SECOND, World, seq_of, settings},
};

const MANY: [&str; 3] = ["pump", "fan", "valve"];
const HOUR: Duration = Duration::from_secs(3600);

/// A machine that has just booted without knowing the time, with readings.
fn without_a_clock(seed: u64) -> World {
    let mut settings = settings();
    settings.clock_wait = Some(600 * SECOND);
    let mut world = World::new(seed, settings, Manners::good());
    world.clock_synchronised = false;
    world.uplink.handle_clock(false, world.now);
    world.store_many(&MANY, 700);
    world
}

fn assert_all_of_the_right_time(world: &World) {
    assert!(world.hub.arrivals.iter().all(|arrival| {
        let seq = seq_of(&arrival.values).expect("numbered");
        arrival.ts == world.journal[&seq].time.ts()
    }));
}

#[test]
fn a_clock_that_is_set_soon_after_the_hub_is_back_is_waited_for_however_long_it_was_away() {
    let mut world = without_a_clock(1);
    world.network.is_up = false;
    world.run(HOUR);
    world.network.is_up = true;
    assert!(world.run_until(400 * SECOND, |world| world.uplink.status(world.now).state.is_open()));
    world.run(120 * SECOND);
    assert_eq!(world.uplink.status(world.now).state, State::WaitingForClock);
    assert_eq!(world.hub.arrivals.len(), 0);
    world.synchronise(1_000_000);
    world.drain(10 * SECOND);
    assert_all_of_the_right_time(&world);
}

#[test]
fn a_moment_with_the_hub_before_it_is_away_for_long_is_no_reason_to_give_the_clock_up() {
    let mut world = without_a_clock(2);
    world.run(30 * SECOND);
    world.network.is_up = false;
    world.hub_restarts();
    world.run(HOUR);
    world.network.is_up = true;
    assert!(world.run_until(400 * SECOND, |world| world.uplink.status(world.now).state.is_open()));
    world.run(120 * SECOND);
    assert_eq!(world.hub.arrivals.len(), 0);
    world.synchronise(1_000_000);
    world.drain(10 * SECOND);
    assert_all_of_the_right_time(&world);
}

#[test]
fn a_clock_that_does_not_come_with_the_network_is_waited_for_five_minutes_more_and_never_again() {
    let mut world = without_a_clock(3);
    world.network.is_up = false;
    world.run(HOUR);
    world.network.is_up = true;
    assert!(world.run_until(400 * SECOND, |world| world.uplink.status(world.now).state.is_open()));
    world.run(295 * SECOND);
    assert_eq!(world.hub.arrivals.len(), 0);
    world.drain(10 * SECOND);
    world.network.is_up = false;
    world.hub_restarts();
    world.store_many(&MANY, 70);
    world.run(HOUR);
    world.network.is_up = true;
    assert!(world.run_until(400 * SECOND, |world| world.uplink.status(world.now).state.is_open()));
    world.drain(10 * SECOND);
}

#[test]
fn a_link_that_comes_and_goes_does_not_put_readings_off_for_ever() {
    let mut world = without_a_clock(4);
    for _ in 0..60 {
        assert!(world.run_until(400 * SECOND, |world| world.uplink.status(world.now).state.is_open()));
        world.run(SECOND);
        if !world.hub.arrivals.is_empty() {
            break;
        }
        world.hub_restarts();
    }
    assert!(world.now.mono.0 > 600_000_000, "not before the ten minutes are over");
    world.drain(10 * SECOND);
}

#[test]
fn a_wait_shorter_than_what_the_network_is_given_is_the_longest_wait_there_is() {
    let mut world = without_a_clock(5);
    world.settings.clock_wait = Some(20 * SECOND);
    world.crash();
    world.drain(25 * SECOND);
}
