//! What hubs ask for, and what they do to those who do not listen.

use forebay::{
    mqtt::{Disconnect, Packet, Properties, ProtocolVersion, ReasonCode, encode},
    uplink::{RateTexts, State},
};

use crate::{
    hub::{HubRate, Manners, TooMuch, Version5},
    world::{MILLI, SECOND, World, settings},
};

const TEN: [&str; 10] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9"];

fn rates() -> Vec<HubRate> {
    vec![
        HubRate { messages: true, count: 20, period: SECOND },
        HubRate { messages: true, count: 600, period: 60 * SECOND },
        HubRate { messages: false, count: 300, period: SECOND },
    ]
}

#[test]
fn no_more_is_unacknowledged_than_the_hub_takes() {
    let manners = Manners { receive_maximum: 3, acknowledges: false, ..Manners::good() };
    let mut world = World::new(1, settings(), manners).with_backlog(&TEN, 1000);
    world.run(10 * SECOND);
    assert_eq!(world.hub.messages, 3);
}

#[test]
fn no_packet_is_larger_than_the_hub_takes() {
    for packet_bytes_max in [256, 1000, 20_000] {
        let manners = Manners { packet_bytes_max, ..Manners::good() };
        let mut world = World::new(2, settings(), manners).with_backlog(&TEN, 3000);
        world.drain(120 * SECOND);
    }
}

#[test]
fn a_reading_larger_than_the_hub_takes_is_rejected_in_words_and_the_rest_goes_on() {
    let manners = Manners { packet_bytes_max: 1000, ..Manners::good() };
    let mut world = World::new(3, settings(), manners);
    world.store("pump");
    let large = world.store_values("pump", &format!(r#"{{"poison":"{}"}}"#, "x".repeat(2000)));
    world.store("pump");
    world.drain(60 * SECOND);
    world.run(10 * SECOND);
    assert!(world.rejected[&large].contains("do not fit"), "{}", world.rejected[&large]);
    assert_eq!(world.first_arrivals("pump"), [1, 3]);
}

#[test]
fn rates_the_hub_has_told_are_never_exceeded_and_nearly_used() {
    let manners = Manners { rates: rates(), ..Manners::good() };
    let mut world = World::new(4, settings(), manners).with_backlog(&TEN, 20_000);
    world.drain(400 * SECOND);
    assert_eq!(world.hub.refusals, 0);
    let seconds = world.now.mono.0 / 1_000_000;
    // Four fifths of 300 values each second are 240.
    assert!(seconds < 20_000 / 200, "{seconds} s");
}

#[test]
fn rates_the_operator_sets_are_kept_if_the_hub_tells_none() {
    let manners = Manners { rates: rates(), tells_limits: false, ..Manners::good() };
    let mut settings = settings();
    settings.rates = RateTexts {
        messages: String::new(),
        telemetry_messages: "20:1,600:60".to_owned(),
        data_points: "300:1".to_owned(),
    };
    let mut world = World::new(5, settings, manners).with_backlog(&TEN, 10_000);
    world.drain(400 * SECOND);
    assert_eq!(world.hub.refusals, 0);
}

#[test]
fn a_hub_that_closes_for_rates_it_has_not_told_gets_everything_in_the_end_and_no_reading_is_blamed() {
    for version_5 in [Version5::Spoken, Version5::ClosesWithoutAWord] {
        for too_much in [TooMuch::Closes, TooMuch::AnswersAndCloses, TooMuch::Answers] {
            // Before 5.0 that PUBACK is a lie nobody can see through.
            if version_5 != Version5::Spoken && too_much != TooMuch::Closes {
                continue;
            }
            let manners =
                Manners { rates: rates(), tells_limits: false, too_much, version_5, ..Manners::good() };
            let mut world = World::new(6, settings(), manners).with_backlog(&TEN, 5_000);
            world.drain(7200 * SECOND);
            let status = world.uplink.status(world.now);
            assert_eq!((status.rejected, status.suspected), (0, 0), "{too_much:?}");
            assert!(world.hub.refusals < 200, "{} refusals, {too_much:?}", world.hub.refusals);
        }
    }
}

#[test]
fn acknowledgements_that_come_twice_or_for_nothing_settle_nothing_else() {
    let manners = Manners { acks_doubled: 100, ..Manners::good() };
    let mut world = World::new(7, settings(), manners).with_backlog(&TEN, 5_000);
    world.run(20 * MILLI);
    for id in (1..=200).chain(60_000..60_200_u16) {
        // Made-up identifiers beyond what is on its way; the checks of the world see any that settles something.
        if id > 100 {
            let [high, low] = id.to_be_bytes();
            world.uplink.handle_bytes(&[0x40, 2, high, low], world.now);
        }
    }
    world.serve();
    world.drain(60 * SECOND);
}

#[test]
fn swallowed_acknowledgements_mean_repeats_and_no_loss() {
    let manners = Manners { acks_swallowed: 10, acks_doubled: 10, ..Manners::good() };
    let mut world = World::new(8, settings(), manners).with_backlog(&TEN, 5_000);
    world.drain(7200 * SECOND);
    assert!(world.rejected.is_empty());
    for device in TEN {
        assert!(crate::uploads::is_two_lanes(&world.first_arrivals(device)), "{device}");
    }
}

#[test]
fn a_hub_that_never_acknowledges_is_told_of_in_words_and_has_nothing_settled() {
    let manners = Manners { acknowledges: false, ..Manners::good() };
    let mut world = World::new(9, settings(), manners);
    world.store_many(&["pump"], 50);
    world.run(3600 * SECOND);
    let status = world.uplink.status(world.now);
    assert_eq!((status.backlog, status.uploaded, status.rejected), (50, 0, 0));
    assert!(status.last_error.expect("it fails").0.contains("gateway"));
    world.hub.manners.acknowledges = true;
    world.drain(900 * SECOND);
    assert_eq!(world.uplink.status(world.now).state, State::UpToDate);
}

#[test]
fn a_topic_we_may_not_publish_to_is_an_alarm_and_no_reading_is_to_blame() {
    for reason in [ReasonCode::NotAuthorized, ReasonCode::TopicNameInvalid] {
        let manners = Manners { refuses_with: Some(reason), ..Manners::good() };
        let mut world = World::new(10, settings(), manners);
        world.store_many(&TEN, 500);
        world.run(3600 * SECOND);
        let status = world.uplink.status(world.now);
        assert_eq!((status.state, status.rejected, status.suspected), (State::Refused, 0, 0));
        assert!(status.alarm.expect("people must act").contains("gateway"));
        assert!(world.hub.refusals < 300, "{} refusals", world.hub.refusals);
        world.hub.manners.refuses_with = None;
        world.drain(400 * SECOND);
        assert_eq!(world.uplink.status(world.now).alarm, None);
    }
}

#[test]
fn a_hub_that_says_it_takes_hardly_a_byte_is_an_alarm_and_nothing_is_rejected_for_it() {
    let slips = [
        Manners { payload_bytes: 100, ..Manners::good() },
        Manners { packet_bytes_max: 100, ..Manners::good() },
    ];
    for slip in slips {
        let mut world = World::new(13, settings(), slip);
        world.store_many(&TEN, 500);
        world.run(3600 * SECOND);
        let status = world.uplink.status(world.now);
        assert_eq!((status.state, status.rejected), (State::Refused, 0));
        assert!(status.alarm.expect("people must act").contains("hub"));
        world.hub.manners = Manners::good();
        world.drain(400 * SECOND);
        assert!(world.rejected.is_empty());
        assert_eq!(world.uplink.status(world.now).alarm, None);
    }
}

#[test]
fn a_hub_out_of_quota_gets_everything_later_and_no_reading_is_to_blame() {
    for reason in [ReasonCode::QuotaExceeded, ReasonCode::UnspecifiedError] {
        let manners = Manners { refuses_with: Some(reason), tells_limits: false, ..Manners::good() };
        let mut world = World::new(11, settings(), manners);
        world.store_many(&TEN, 500);
        world.run(1200 * SECOND);
        assert!(world.hub.refusals < 200, "{} refusals", world.hub.refusals);
        world.hub.manners.refuses_with = None;
        world.drain(3600 * SECOND);
        assert!(world.rejected.is_empty(), "{reason}");
    }
}

#[test]
fn another_client_in_our_place_is_told_of_and_not_fought() {
    let mut world = World::new(12, settings(), Manners::good());
    for _ in 0..20 {
        assert!(
            world.run_until(60 * SECOND, |world| world.uplink.status(world.now).state == State::UpToDate)
        );
        world.store("pump");
        world.drain(SECOND);
        let (reason, properties) = (ReasonCode::SessionTakenOver, Properties::EMPTY);
        let mut bytes = Vec::new();
        let disconnect = Packet::Disconnect(Disconnect { reason, properties });
        encode(&disconnect, ProtocolVersion::V5, &mut bytes).expect("small");
        world.uplink.handle_bytes(&bytes, world.now);
        world.serve();
        let (words, _) = world.uplink.status(world.now).last_error.expect("told");
        assert!(words.contains("another client"), "{words}");
    }
    let seconds = world.now.mono.0 / 1_000_000;
    assert!(seconds > 19 * 24, "no sooner than every 24 s: {seconds} s");
}
