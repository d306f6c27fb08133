//! Links that are bad, and hubs that cannot be had.

use std::time::Duration;

use forebay::{
    mqtt::ProtocolVersion::{V5, V311},
    uplink::{Failure, FailureKind, State},
};

use crate::{
    hub::{Manners, Version5},
    world::{Network, SECOND, World, settings},
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_link_that_swallows_everything_is_given_up_within_half_a_minute_of_the_next_reading() {
    let mut world = World::new(1, settings(), Manners::good());
    world.run(20 * SECOND);
    assert_eq!(world.uplink.status(world.now).state, State::UpToDate);
    world.network.swallows = true;
    world.store("pump");
    let gone = |world: &mut World| !world.uplink.status(world.now).state.is_open();
    assert!(world.run_until(30 * SECOND, gone));
    world.network.swallows = false;
    world.drain(120 * SECOND);
}

#[test]
fn a_link_that_falls_silent_again_and_again_is_given_up_as_soon_the_last_time_as_the_first() {
    for slow_bytes in [0, 125] {
        let mut world = World::new(12, settings(), Manners::good());
        world.network.bytes_per_second = slow_bytes;
        world.store_many(&["pump", "fan"], 400);
        let is_open = |world: &mut World| world.uplink.status(world.now).state.is_open();
        for round in 0..8 {
            world.network.swallows = false;
            assert!(world.run_until(HOUR, is_open), "round {round}");
            world.network.swallows = true;
            // Five seconds of them are for the limits that are asked for.
            let gone = |world: &mut World| !world.uplink.status(world.now).state.is_open();
            assert!(world.run_until(35 * SECOND, gone), "round {round}, {slow_bytes} bytes a second");
        }
        world.network.swallows = false;
        world.drain(3 * HOUR);
    }
}

#[test]
fn an_answer_to_connect_is_not_waited_for_longer_than_a_minute() {
    let mut world = World::new(13, settings(), Manners::good());
    // Too slow to count as quick.
    world.network.latency = 2 * SECOND;
    world.store("pump");
    for _ in 0..8 {
        world.network.swallows = false;
        assert!(world.run_until(HOUR, |world| world.uplink.status(world.now).state.is_open()));
        world.network.swallows = true;
        world.run_until(HOUR, |world| !world.uplink.status(world.now).state.is_open());
    }
    for _ in 0..8 {
        let is_greeting = |world: &mut World| world.uplink.status(world.now).state == State::Greeting;
        assert!(world.run_until(HOUR, is_greeting));
        assert!(world.run_until(61 * SECOND, |world| !is_greeting(world)));
    }
    world.network.swallows = false;
    world.drain(HOUR);
}

#[test]
fn an_idle_link_is_kept_alive_and_found_dead_when_it_is() {
    let mut world = World::new(2, settings(), Manners::good());
    world.run(HOUR);
    assert!((70..=90).contains(&world.hub.pings), "{} pings", world.hub.pings);
    assert_eq!(world.connections, 1);
    world.network.swallows = true;
    let gone = |world: &mut World| !world.uplink.status(world.now).state.is_open();
    assert!(world.run_until(70 * SECOND, gone));
}

#[test]
fn the_keep_alive_the_hub_wants_is_kept() {
    let manners = Manners { server_keep_alive_s: 10, ..Manners::good() };
    let mut world = World::new(3, settings(), manners);
    world.run(HOUR / 10);
    assert!((45..=55).contains(&world.hub.pings), "{} pings", world.hub.pings);
}

#[test]
fn a_link_of_a_kilobit_per_second_drains_and_does_not_reconnect_for_ever() {
    let mut world = World::new(4, settings(), Manners::good());
    world.network = Network { bytes_per_second: 125, latency: SECOND, ..world.network };
    world.store_many(&["pump"], 2000);
    world.drain(3 * HOUR);
    assert!(world.connections <= 6, "{} connections", world.connections);
    assert!(world.repeats() < 2000, "{} repeats", world.repeats());
}

#[test]
fn a_reading_too_large_for_the_patience_a_link_deserves_gets_more_of_it() {
    let mut world = World::new(5, settings(), Manners::good());
    world.network.bytes_per_second = 125;
    let large = format!(r#"{{"n":1,"text":"{}"}}"#, "x".repeat(20_000));
    world.store_values("pump", &large);
    world.drain(HOUR);
    assert_eq!(world.hub.arrivals.last().map(|arrival| arrival.values.clone()), Some(large));
}

#[test]
fn a_link_that_comes_and_goes_every_twenty_seconds_still_drains() {
    let mut world = World::new(6, settings(), Manners::good());
    world.network.bytes_per_second = 5_000;
    world.store_many(&["a", "b", "c"], 30_000);
    for round in 0..60 {
        world.run(20 * SECOND);
        world.cut(if round % 2 == 0 { FailureKind::Reset } else { FailureKind::TimedOut });
        world.store("live");
    }
    world.drain(1200 * SECOND);
    assert!(world.rejected.is_empty());
    assert!(world.repeats() < 30_000 / 4, "{} repeats", world.repeats());
}

#[test]
fn a_hub_that_is_down_for_days_is_not_asked_more_often_than_need_be() {
    let mut world = World::new(7, settings(), Manners::good());
    world.network.is_up = false;
    world.store("pump");
    let mut attempts = 0;
    for _ in 0..48 {
        let before = world.notices.len();
        world.run(HOUR);
        attempts += world.uplink.status(world.now).connections;
        assert!(world.notices.len() - before <= 1, "the same trouble is told once");
    }
    assert_eq!(attempts, 0);
    world.network.is_up = true;
    world.drain(310 * SECOND);
}

#[test]
fn back_off_is_not_reset_by_a_hub_that_lets_us_in_and_throws_us_out() {
    let mut world = World::new(8, settings(), Manners { acknowledges: false, ..Manners::good() });
    world.store("pump");
    for _ in 0..400 {
        world.run(20 * SECOND);
        world.cut(FailureKind::TimedOut);
    }
    // 8000 s with a reconnect every second or two would be thousands.
    assert!(world.connections < 100, "{} connections", world.connections);
    assert_eq!(world.disk.through.0, 0, "nothing was acknowledged");
}

#[test]
fn a_hub_without_mqtt_5_is_spoken_to_in_3_1_1_and_asked_again_later() {
    for version_5 in [Version5::ClosesWithoutAWord, Version5::RefusedInOldForm] {
        let mut world = World::new(9, settings(), Manners { version_5, ..Manners::good() });
        world.store_many(&["pump"], 1000);
        world.drain(60 * SECOND);
        let first: &[_] = match version_5 {
            Version5::ClosesWithoutAWord => &[V5, V5, V5, V311, V5, V311],
            _ => &[V5, V311],
        };
        assert_eq!(world.hub.connects, first);
        assert_eq!(world.uplink.status(world.now).version, Some(V311));
        world.cut(FailureKind::Reset);
        world.store("pump");
        world.drain(60 * SECOND);
        assert_eq!(world.hub.connects, [first, &[V311]].concat(), "it is remembered");
        world.run(HOUR);
        world.hub.manners.version_5 = Version5::Spoken;
        world.cut(FailureKind::Reset);
        world.store("pump");
        world.drain(60 * SECOND);
        assert_eq!(world.uplink.status(world.now).version, Some(V5));
    }
}

#[test]
fn a_hub_with_mqtt_5_that_closed_while_it_was_starting_is_sent_nothing_in_3_1_1() {
    let starting = Manners { version_5: Version5::ClosesWithoutAWord, ..Manners::good() };
    let mut world = World::new(14, settings(), starting);
    world.store_many(&["pump"], 1000);
    assert!(world.run_until(60 * SECOND, |world| world.hub.connects.len() == 3));
    world.hub.manners.version_5 = Version5::Spoken;
    assert!(world.run_until(60 * SECOND, |world| world.hub.connects.len() == 5));
    assert_eq!((&*world.hub.connects, world.hub.messages), (&[V5, V5, V5, V311, V5][..], 0));
    world.drain(60 * SECOND);
    assert_eq!(world.uplink.status(world.now).version, Some(V5));
}

#[test]
fn a_refused_token_is_an_alarm_and_a_long_wait_and_no_reading_is_to_blame() {
    for version_5 in [Version5::Spoken, Version5::ClosesWithoutAWord] {
        let manners = Manners { token: "ANOTHER".to_owned(), version_5, ..Manners::good() };
        let mut world = World::new(10, settings(), manners);
        world.store_many(&["pump"], 100);
        world.run(HOUR);
        let status = world.uplink.status(world.now);
        assert_eq!(status.state, State::Refused);
        assert!(status.alarm.expect("people must act").contains("access token"));
        assert!((10..=18).contains(&world.hub.connects.len()), "{} attempts", world.hub.connects.len());
        assert_eq!((status.backlog, status.rejected, status.suspected), (100, 0, 0));
        world.hub.manners.token = "TOKEN".to_owned();
        world.drain(400 * SECOND);
        assert_eq!(world.uplink.status(world.now).alarm, None);
    }
}

#[test]
fn a_person_who_has_put_it_right_does_not_wait() {
    let mut world = World::new(10, settings(), Manners { token: "ANOTHER".to_owned(), ..Manners::good() });
    world.store_many(&["pump"], 100);
    assert!(world.run_until(10 * SECOND, |world| world.uplink.status(world.now).alarm.is_some()));
    world.hub.manners.token = "TOKEN".to_owned();
    world.uplink.try_now(world.now);
    world.serve();
    world.drain(10 * SECOND);
    // While it is connected there is nothing to try.
    world.uplink.try_now(world.now);
    world.serve();
    world.store("pump");
    world.drain(SECOND);
    assert_eq!(world.hub.connects.len(), 2);
}

#[test]
fn a_certificate_that_cannot_be_judged_is_tried_again_when_the_clock_is_set() {
    let mut world = World::new(11, settings(), Manners::good());
    world.uplink.handle_clock(false, world.now);
    let failure = Failure::new(FailureKind::Clock, "the clock is not set");
    for _ in 0..10 {
        world.uplink.handle_connect_failed(failure.clone(), world.now);
        let until = world.uplink.poll_timeout().expect("it tries again");
        world.now.mono = until;
        world.uplink.handle_timeout(world.now);
        assert!(world.uplink.poll_connect());
    }
    world.uplink.handle_connect_failed(failure, world.now);
    assert!(!world.uplink.poll_connect());
    world.uplink.handle_clock(true, world.now);
    assert!(world.uplink.poll_connect(), "at once");
}

#[test]
fn a_hub_that_sends_nonsense_is_left_and_nothing_breaks() {
    let mut nonsense: Vec<Vec<u8>> = vec![
        vec![0x00],
        vec![0x20, 2, 0, 0, 0x20, 2, 0, 0],
        vec![0xF0, 0],
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        vec![0x10, 2, 0, 0],
        vec![0xFF; 100],
    ];
    let mut world = World::new(12, settings(), Manners::good());
    // Some of it reads like a hub that does not want to be told of devices.
    world.hub.minds_announcements = false;
    for length in 0..300 {
        let bytes = (0..length).map(|_| world.draw(256) as u8).collect();
        nonsense.push(bytes);
    }
    for bytes in nonsense {
        assert!(world.run_until(900 * SECOND, |world| world.uplink.status(world.now).state.is_open()));
        world.uplink.handle_bytes(&bytes, world.now);
        world.serve();
        world.store("pump");
        world.run(SECOND);
    }
    world.drain(900 * SECOND);
    assert!(world.rejected.is_empty());
}

#[test]
fn who_stops_takes_leave_and_does_not_come_back() {
    let mut world = World::new(13, settings(), Manners::good());
    world.store("pump");
    world.drain(SECOND * 10);
    world.uplink.handle_stop(world.now);
    let (front, back) = world.uplink.output().as_slices();
    assert_eq!([front, back].concat(), [0xE0, 0], "DISCONNECT");
    assert!(world.uplink.poll_close());
    world.serve();
    world.run(HOUR);
    assert_eq!(world.uplink.status(world.now).state, State::Stopped);
    assert_eq!(world.connections, 1);
}
