//! Readings on a good link to a good hub.

use std::time::Duration;

use forebay::{
    ids::Seq,
    uplink::{Mode, Order, Secret, Settings, State},
};

use crate::{
    hub::{HubRate, Manners},
    world::{SECOND, World, settings},
};

const MANY: [&str; 7] = ["pump", "hall", "Pumpe 3", "насос", "a\\b", "d6", "d7"];

/// Whether `seqs` could be two ascending sequences that were shuffled into each other.
pub fn is_two_lanes(seqs: &[u64]) -> bool {
    // It could exactly if there are no three that descend.
    let (mut highest, mut highest_of_second) = (0, 0);
    for seq in seqs {
        if *seq > highest {
            highest = *seq;
        } else if *seq > highest_of_second {
            highest_of_second = *seq;
        } else {
            return false;
        }
    }
    true
}

#[test]
fn a_backlog_arrives_whole_once_and_in_order() {
    let mut world = World::new(1, settings(), Manners::good()).with_backlog(&["pump"], 20_000);
    world.drain(120 * SECOND);
    assert_eq!(world.first_arrivals("pump"), (1..=20_000).collect::<Vec<u64>>());
    assert_eq!(world.repeats(), 0);
    assert!(world.hub.messages < 300, "many readings in a message: {} messages", world.hub.messages);
    assert_eq!(world.uplink.status(world.now).state, State::UpToDate);
}

#[test]
fn readings_of_many_devices_keep_their_order_and_a_device_its_messages() {
    let mut world = World::new(2, settings(), Manners::good()).with_backlog(&MANY, 7_000);
    world.drain(120 * SECOND);
    for (place, device) in (1..).zip(MANY) {
        let expected: Vec<u64> = (place..=7_000).step_by(7).collect();
        assert_eq!(world.first_arrivals(device), expected, "{device}");
    }
    assert_eq!(world.repeats(), 0);
}

#[test]
fn a_reading_stored_on_a_good_link_is_there_in_no_time_with_its_text_and_time() {
    let mut world = World::new(3, settings(), Manners::good());
    world.run(SECOND);
    world.store_values("pump", r#"{"n":1,"t":2.50,"e":1E+1,"o":{"z":1,"a":0.10}}"#);
    world.drain(SECOND);
    let arrival = &world.hub.arrivals[0];
    assert_eq!(arrival.values, r#"{"n":1,"t":2.50,"e":1E+1,"o":{"z":1,"a":0.10}}"#);
    assert_eq!(arrival.ts, world.journal[&1].time.ts());
}

#[test]
fn fresh_readings_do_not_wait_for_the_backlog_but_leave_it_most_of_the_link() {
    let rates = vec![HubRate { messages: true, count: 10, period: SECOND }];
    let manners = Manners { rates, ..Manners::good() };
    let devices: Vec<String> = (0..200).map(|number| format!("d{number}")).collect();
    let names: Vec<&str> = devices.iter().map(String::as_str).collect();
    let mut world = World::new(4, settings(), manners).with_backlog(&names, 100_000);
    world.run(10 * SECOND);
    let before = world.hub.messages;
    let mut waits = Vec::new();
    for _ in 0..60 {
        let seq = world.store("live");
        let stored = world.now.mono;
        world.run(SECOND);
        let has = |world: &mut World| world.first_arrivals("live").last() == Some(&seq);
        assert!(world.run_until(10 * SECOND, has), "reading {seq}");
        waits.push(world.now.mono.since(stored));
    }
    assert!(waits.iter().max() < Some(&(3 * SECOND)), "{waits:?}");
    assert!(world.hub.messages - before > 400, "the backlog went on: {}", world.hub.messages - before);
    assert!(world.hub.refusals == 0);
    world.drain(4000 * SECOND);
    for device in &devices {
        assert!(is_two_lanes(&world.first_arrivals(device)), "{device}");
    }
}

#[test]
fn a_flood_of_fresh_readings_gets_a_fifth_of_the_messages_while_there_is_a_backlog() {
    let rates = vec![HubRate { messages: true, count: 20, period: SECOND }];
    let manners = Manners { rates, ..Manners::good() };
    let old: Vec<String> = (0..50).map(|number| format!("old{number}")).collect();
    let names: Vec<&str> = old.iter().map(String::as_str).collect();
    let mut world = World::new(5, settings(), manners).with_backlog(&names, 200_000);
    world.run(5 * SECOND);
    let fresh: Vec<String> = (0..50).map(|number| format!("new{number}")).collect();
    let names: Vec<&str> = fresh.iter().map(String::as_str).collect();
    let mut first_messages = 0;
    for _ in 0..60 {
        world.store_many(&names, 500);
        let messages = world.hub.messages;
        world.run(SECOND);
        first_messages += world.hub.messages - messages;
    }
    let of_new = world.hub.arrivals.iter().filter(|arrival| arrival.device.starts_with("new"));
    let new_share = of_new.count() as f64 / world.hub.arrivals.len() as f64;
    assert!((0.05..0.35).contains(&new_share), "{new_share} of {first_messages} messages' readings");
}

#[test]
fn oldest_first_means_that_nothing_overtakes() {
    let settings = Settings { order: Order::OldestFirst, ..settings() };
    let rates = vec![HubRate { messages: true, count: 20, period: SECOND }];
    let manners = Manners { rates, ..Manners::good() };
    let mut world = World::new(6, settings, manners).with_backlog(&["pump"], 50_000);
    world.run(2 * SECOND);
    for _ in 0..50 {
        world.store("pump");
        world.run(SECOND / 10);
    }
    world.drain(600 * SECOND);
    assert!(world.first_arrivals("pump").is_sorted());
}

#[test]
fn what_the_journal_has_lost_is_not_waited_for() {
    let mut world = World::new(7, settings(), Manners::good());
    world.network.is_up = false;
    world.store_many(&["pump"], 3000);
    world.forget(1..=1000);
    world.forget(1500..=1600);
    world.forget(2999..=3000);
    world.network.is_up = true;
    world.drain(600 * SECOND);
    assert_eq!(world.first_arrivals("pump").len(), 3000 - 1000 - 101 - 2);
    world.run(10 * SECOND);
    assert_eq!(world.disk.through, Seq(3000));
}

#[test]
fn the_mark_goes_to_disk_with_the_next_commit_and_after_a_while_without_one() {
    let mut world = World::new(8, settings(), Manners::good());
    world.run(SECOND);
    world.store("pump");
    world.drain(SECOND);
    assert_eq!(world.disk.through, Seq(0), "no commit of its own for each reading");
    world.run(SECOND);
    world.store("pump");
    assert_eq!(world.disk.through, Seq(1), "it rides in the next");
    world.run(6 * SECOND);
    assert_eq!(world.disk.through, Seq(2), "or goes alone after a while");
}

#[test]
fn after_a_power_cut_only_what_the_disk_does_not_know_is_sent_again() {
    let mut world = World::new(9, settings(), Manners::good()).with_backlog(&MANY, 5000);
    world.drain(120 * SECOND);
    world.run(6 * SECOND);
    world.store_many(&MANY, 10);
    world.drain(SECOND);
    world.crash();
    world.drain(60 * SECOND);
    assert!(world.repeats() <= 10, "{} repeats", world.repeats());
}

#[test]
fn a_journal_that_cannot_be_read_now_and_a_commit_that_fails_lose_nothing() {
    let mut world = World::new(10, settings(), Manners::good());
    world.disk_fails = 50;
    world.store_many(&MANY, 5000);
    for _ in 0..200 {
        world.store("pump");
        world.run(SECOND);
    }
    world.disk_fails = 0;
    world.drain(120 * SECOND);
    world.run(10 * SECOND);
    assert_eq!(world.disk.through, Seq(5200));
}

#[test]
fn readings_whose_time_is_not_known_wait_for_the_clock_and_go_with_the_right_time() {
    let mut settings = settings();
    settings.clock_wait = Some(600 * SECOND);
    let mut world = World::new(11, settings, Manners::good());
    world.clock_synchronised = false;
    world.uplink.handle_clock(false, world.now);
    world.store_many(&MANY, 700);
    world.run(60 * SECOND);
    assert_eq!(world.hub.arrivals.len(), 0);
    assert_eq!(world.uplink.status(world.now).state, State::WaitingForClock);
    world.synchronise(1_000_000);
    world.drain(10 * SECOND);
    assert!(world.hub.arrivals.iter().all(|arrival| {
        let seq = crate::world::seq_of(&arrival.values).expect("numbered");
        arrival.ts == world.journal[&seq].time.ts()
    }));
}

#[test]
fn a_clock_set_while_readings_are_on_their_way_sends_none_of_them_twice() {
    for step in 0..15 {
        let mut world = World::new(15, settings(), Manners::good());
        world.network.latency = SECOND / 10;
        world.clock_synchronised = false;
        world.uplink.handle_clock(false, world.now);
        world.store_many(&MANY, 4_000);
        world.run(SECOND / 20 * (10 + step));
        world.synchronise(0);
        world.drain(60 * SECOND);
        assert_eq!(world.repeats(), 0);
        assert!(MANY.iter().all(|device| world.first_arrivals(device).is_sorted()));
    }
}

#[test]
fn a_clock_that_never_comes_is_waited_for_until_ten_minutes_after_boot() {
    let mut settings = settings();
    settings.clock_wait = Some(600 * SECOND);
    let mut world = World::new(12, settings, Manners::good());
    world.clock_synchronised = false;
    world.uplink.handle_clock(false, world.now);
    world.store_many(&MANY, 70);
    world.run(597 * SECOND);
    assert_eq!(world.hub.arrivals.len(), 0);
    world.drain(5 * SECOND);
    assert_eq!(world.hub.arrivals.len(), 70);
}

#[test]
fn an_ordinary_broker_gets_a_topic_for_each_device_by_number_if_it_takes_numbers() {
    for topic_alias_maximum in [0, 3, 100] {
        let mut settings = settings();
        settings.mode = Mode::Plain {
            topic: "site/{device}".to_owned(),
            user_name: Some(Secret::new("TOKEN")),
            password: Some(Secret::new("PASSWORD")),
        };
        let manners = Manners { is_plain: true, topic_alias_maximum, ..Manners::good() };
        let mut world = World::new(13, settings, manners).with_backlog(&["a", "b", "c", "d"], 2000);
        world.drain(60 * SECOND);
        for _ in 0..20 {
            world.store_many(&["a", "b", "c", "d"], 4);
            world.run(SECOND);
        }
        world.drain(60 * SECOND);
        assert!(world.first_arrivals("a").is_sorted());
        assert_eq!(world.repeats(), 0);
    }
}

#[test]
fn readings_of_a_device_that_has_no_topic_are_set_aside_in_words() {
    let mut settings = settings();
    let (user_name, password) = (Some(Secret::new("TOKEN")), Some(Secret::new("PASSWORD")));
    settings.mode = Mode::Plain { topic: format!("site/{}", "{device}".repeat(128)), user_name, password };
    let manners = Manners { is_plain: true, ..Manners::good() };
    let long = "\u{1F4A7}".repeat(128);
    let mut world = World::new(16, settings, manners).with_backlog(&[&long], 3);
    world.run(60 * SECOND);
    assert_eq!(world.rejected.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(world.uplink.status(world.now).state, State::UpToDate);
    let reason = &world.rejected[&1];
    assert!(reason.starts_with("there is no topic for its device: "), "{reason}");
}

#[test]
fn the_status_tells_how_it_goes() {
    let mut world = World::new(14, settings(), Manners::good());
    world.network.is_up = false;
    world.store_many(&MANY, 50_000);
    world.run(10 * SECOND);
    let status = world.uplink.status(world.now);
    assert!(!status.state.is_open() && status.version.is_none());
    assert_eq!((status.backlog, status.uploaded, status.drains_in), (50_000, 0, None));
    assert_eq!(status.last_error.expect("it failed").0, "there is no way to the hub");
    world.network = crate::world::Network { is_up: true, bytes_per_second: 20_000, ..world.network };
    world.run(100 * SECOND);
    let status = world.uplink.status(world.now);
    assert_eq!(status.state, State::Uploading);
    assert!(status.uploaded > 0 && status.in_flight > 0 && status.bytes_sent > 100_000, "{status:?}");
    assert_eq!(status.backlog, 50_000 - status.uploaded);
    let left = status.drains_in.expect("it shrinks");
    world.drain(left * 2);
    assert_eq!(world.uplink.status(world.now).drains_in, Some(Duration::ZERO));
}
