//! The uplink of one device, which the hub takes for the device itself.

use forebay::uplink::{FailureKind, Mode, Secret, Settings, State};

use crate::{
    hub::{HubRate, Manners},
    world::{SECOND, World, settings},
};

pub fn as_pump() -> Settings {
    let template = settings();
    Settings { clock_wait: None, ..Settings::new(Mode::Device { token: own_token(&template) }) }
}

/// The hub of the tests has one token.
fn own_token(settings: &Settings) -> Secret {
    match &settings.mode {
        Mode::Gateway { token } => token.clone(),
        _ => panic!("the template is a gateway's"),
    }
}

pub fn manners() -> Manners {
    Manners { device: Some("pump".to_owned()), ..Manners::good() }
}

fn own(world: &World) -> Vec<u64> {
    world.journal.iter().filter(|(_, row)| row.device.as_str() == "pump").map(|(seq, _)| *seq).collect()
}

#[test]
fn its_own_readings_arrive_once_and_in_order_and_nobody_elses_do() {
    let mut world = World::new(1, as_pump(), manners()).with_backlog(&["hall", "pump", "roof"], 9_000);
    world.run(120 * SECOND);
    assert_eq!(world.first_arrivals("pump"), own(&world));
    assert_eq!((world.repeats(), world.hub.arrivals.len()), (0, 3_000));
    let status = world.uplink.status(world.now);
    assert_eq!((status.state, status.backlog, status.uploaded), (State::UpToDate, 0, 3_000));
    assert!(status.in_memory <= 512, "{status:?}");
}

#[test]
fn its_mark_passes_over_readings_of_others_that_it_was_shown() {
    let mut world = World::new(2, as_pump(), manners());
    world.store("pump");
    world.store_many(&["hall"], 5_000);
    world.crash();
    world.run(30 * SECOND);
    assert_eq!(world.hub.arrivals.len(), 1);
    assert_eq!(world.uplink.status(world.now).backlog, 0);
    assert_eq!(world.disk.through.0, 5_001, "so that nobody looks there again");
}

#[test]
fn a_device_that_is_up_to_date_is_not_sought_among_the_readings_of_others() {
    let mut world = World::new(3, as_pump(), manners());
    world.run(SECOND);
    for _ in 0..20 {
        world.store_many(&["hall"], 1_000);
        world.store("pump");
        world.run(SECOND);
    }
    assert_eq!(world.first_arrivals("pump"), own(&world));
    assert_eq!(world.looked_at, 20, "its own places alone");
}

#[test]
fn what_the_hub_allows_a_device_is_kept() {
    let rates = vec![HubRate { messages: true, count: 2, period: SECOND }];
    let mut world = World::new(4, as_pump(), Manners { rates, ..manners() });
    for _ in 0..100 {
        world.store("pump");
        world.run(SECOND / 20);
    }
    world.run(60 * SECOND);
    assert_eq!((world.first_arrivals("pump"), world.hub.refusals), (own(&world), 0));
}

#[test]
fn nothing_is_lost_or_sent_out_of_order_over_lost_links_and_restarts() {
    let mut world = World::new(5, as_pump(), manners()).with_backlog(&["hall", "pump"], 4_000);
    for round in 0..10 {
        world.run(SECOND / 4);
        world.store_many(&["pump", "hall", "roof"], 300);
        match round % 3 {
            0 => world.cut(FailureKind::Reset),
            1 => world.crash(),
            _ => {}
        }
    }
    world.run(600 * SECOND);
    let (mut arrived, own) = (world.first_arrivals("pump"), own(&world));
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, own);
}

#[test]
fn a_token_the_hub_does_not_know_is_an_alarm_and_no_readings_fault() {
    let settings =
        Settings { clock_wait: None, ..Settings::new(Mode::Device { token: Secret::new("OTHER") }) };
    let mut world = World::new(6, settings, manners()).with_backlog(&["pump"], 10);
    world.run(60 * SECOND);
    let status = world.uplink.status(world.now);
    assert_eq!((status.state, status.rejected), (State::Refused, 0));
    assert!(status.alarm.is_some_and(|words| words.contains("token")));
}

#[test]
fn a_device_that_is_added_at_the_hub_a_little_later_does_not_wait_for_minutes() {
    let mut world = World::new(7, as_pump(), Manners { token: "ANOTHER".to_owned(), ..manners() })
        .with_backlog(&["pump"], 10);
    world.run(10 * SECOND);
    assert_eq!(world.hub.connects.len(), 1);
    world.run(9 * SECOND);
    assert_eq!(world.hub.connects.len(), 2, "after fifteen seconds, more or less");
    world.run(76 * SECOND);
    assert_eq!(world.hub.connects.len(), 3, "and after a minute");
    world.run(200 * SECOND);
    assert_eq!(world.hub.connects.len(), 3, "then it takes its time");
    world.hub.manners.token = manners().token;
    world.run(170 * SECOND);
    assert_eq!(world.uplink.status(world.now).state, State::UpToDate);
}
