//! Readings that are more than goes at once, while others never cease.

use std::time::Duration;

use crate::{
    hub::{HubRate, Manners},
    world::{MILLI, SECOND, World, settings},
};

/// Lets fresh readings of `devices` come every `pause`, until the hub has `large` or `span` is over; how long it took.
fn live_until(
    world: &mut World,
    devices: &[&str],
    pause: Duration,
    span: Duration,
    large: &str,
) -> Option<Duration> {
    let begin = world.now.mono;
    for device in devices.iter().cycle() {
        if world.hub.arrivals.iter().any(|arrival| arrival.values == large) {
            return Some(world.now.mono.since(begin));
        }
        if world.now.mono.since(begin) > span {
            break;
        }
        world.store(device);
        world.run(pause);
    }
    None
}

#[test]
fn a_reading_larger_than_the_link_bears_beside_others_is_not_held_up_by_them_for_ever() {
    let mut world = World::new(1, settings(), Manners::good());
    world.network.latency = 400 * MILLI;
    live_until(&mut world, &["a", "b", "c"], 50 * MILLI, 5 * SECOND, "none");
    let large = format!(r#"{{"n":0,"text":"{}"}}"#, "x".repeat(60_000));
    let seq = world.store_values("large", &large);
    let took = live_until(&mut world, &["a", "b", "c"], 50 * MILLI, 60 * SECOND, &large);
    assert!(took.is_some_and(|took| took < 20 * SECOND), "{took:?}");
    world.run(10 * SECOND);
    assert!(world.disk.through.0 >= seq, "the mark goes on");
    world.drain(10 * SECOND);
    for device in ["a", "b", "c"] {
        assert!(world.first_arrivals(device).is_sorted());
    }
}

#[test]
fn a_reading_of_more_values_than_the_rate_leaves_is_not_held_up_by_small_ones_for_ever() {
    let rates = vec![HubRate { messages: false, count: 100, period: 10 * SECOND }];
    for values in [60, 90] {
        let mut world = World::new(2, settings(), Manners { rates: rates.clone(), ..Manners::good() });
        // A little more than the rate allows, so that some of them always wait.
        let (devices, pause) = (["a", "b", "c", "d", "e"], 100 * MILLI);
        live_until(&mut world, &devices, pause, 15 * SECOND, "none");
        let large: Vec<String> = (1..values).map(|number| format!(r#""k{number}":{number}"#)).collect();
        let large = format!(r#"{{"n":0,{}}}"#, large.join(","));
        let seq = world.store_values("large", &large);
        let took = live_until(&mut world, &devices, pause, 120 * SECOND, &large);
        assert!(took.is_some_and(|took| took < 40 * SECOND), "{values} values: {took:?}");
        world.run(20 * SECOND);
        assert!(world.disk.through.0 >= seq, "the mark goes on");
        world.drain(120 * SECOND);
        assert_eq!(world.hub.refusals, 0, "the rates are kept all the same");
    }
}

#[test]
fn a_message_that_is_an_answer_waits_no_longer_than_for_the_large_one() {
    let mut world = World::new(3, settings(), Manners::good());
    world.network.latency = 400 * MILLI;
    world.comes("a");
    live_until(&mut world, &["a", "b"], 50 * MILLI, 5 * SECOND, "none");
    let large = format!(r#"{{"n":0,"text":"{}"}}"#, "x".repeat(60_000));
    world.store_values("large", &large);
    let name = forebay::ids::DeviceName::parse("a").expect("valid");
    for round in 0..30 {
        world.uplink.answer_rpc(&name, round, b"{}", world.now);
        world.serve();
        live_until(&mut world, &["a", "b"], 50 * MILLI, SECOND, "none");
    }
    assert!(world.hub.arrivals.iter().any(|arrival| arrival.values == large));
    world.run(10 * SECOND);
    assert_eq!(world.hub.answers.len(), 30);
}
