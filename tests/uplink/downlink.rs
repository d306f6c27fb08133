//! What the hub sends for devices, and what they answer.

use forebay::{
    device_api::downlink::DownlinkKind,
    ids::DeviceName,
    limits::{UPLINK_DOWNLINK_BYTES, UPLINK_RPC_ANSWER_BYTES, UPLINK_RPC_ANSWERS},
    uplink::{FailureKind, State},
};

use crate::{
    hub::{Manners, OnDownlink, Version5},
    world::{SECOND, World, settings},
};

const ATTRIBUTES: &str = "v1/gateway/attributes";
const RPC: &str = "v1/gateway/rpc";

fn pump() -> DeviceName {
    DeviceName::parse("pump").expect("valid")
}

fn ready(seed: u64, manners: Manners) -> World {
    let mut world = World::new(seed, settings(), manners);
    assert!(world.run_until(30 * SECOND, |world| world.takes_downlinks()));
    world.run(SECOND);
    world
}

#[test]
fn what_the_hub_sends_is_acknowledged_and_handed_on_whatever_the_version() {
    for version_5 in [Version5::Spoken, Version5::RefusedInOldForm] {
        let mut world = ready(1, Manners { version_5, ..Manners::good() });
        world.hub_sends(ATTRIBUTES, r#"{"device":"pump","data":{"on":true}}"#);
        world.hub_sends(RPC, r#"{"device":"pump","data":{"id":7,"method":"open","params":[1.50]}}"#);
        world.run(SECOND);
        let all: Vec<_> = world.downlinks.iter().map(|d| (d.kind, d.payload.as_str())).collect();
        let expected = [
            (DownlinkKind::Attributes, r#"{"on":true}"#),
            (DownlinkKind::Rpc(7), r#"{"method":"open","params":[1.50]}"#),
        ];
        assert_eq!(all, expected);
        assert!(world.downlinks.iter().all(|downlink| downlink.device == pump()));
        let counts = world.uplink.status(world.now).downlink;
        assert_eq!((counts.arrived, counts.malformed, counts.dropped), (2, 0, 0));
    }
}

#[test]
fn every_new_connection_asks_for_it_again() {
    let mut world = ready(2, Manners::good());
    world.cut(FailureKind::Reset);
    assert!(!world.takes_downlinks());
    assert!(world.run_until(60 * SECOND, |world| world.takes_downlinks()));
}

#[test]
fn what_cannot_be_read_is_acknowledged_counted_and_told_once() {
    let mut world = ready(3, Manners::good());
    let (notices, acks) = (world.notices.len(), world.hub.own_acks);
    for payload in ["", "[]", r#"{"device":"a/b","data":{}}"#, "\u{FFFD}"] {
        world.hub_sends(ATTRIBUTES, payload);
        world.hub_sends(RPC, payload);
    }
    world.run(SECOND);
    assert!(world.downlinks.is_empty());
    assert_eq!(world.hub.own_acks - acks, 8);
    assert_eq!(world.uplink.status(world.now).downlink.malformed, 8);
    assert_eq!(world.notices.len(), notices + 1, "{:?}", &world.notices[notices..]);
    assert_eq!(world.uplink.status(world.now).state, State::UpToDate);
}

#[test]
fn a_hub_that_refuses_the_subscription_gets_its_readings_and_people_are_told_once() {
    let mut world = World::new(4, settings(), Manners { downlink: OnDownlink::Refuses, ..Manners::good() });
    for _ in 0..3 {
        world.store_many(&["pump"], 1000);
        world.drain(120 * SECOND);
        world.cut(FailureKind::Reset);
    }
    let told = world.notices.iter().filter(|notice| notice.contains("refuses a subscription")).count();
    assert_eq!(told, 1, "{:?}", world.notices);
}

#[test]
fn a_hub_that_closes_for_the_subscription_gets_its_readings_and_none_is_blamed() {
    let mut world = World::new(5, settings(), Manners { downlink: OnDownlink::Closes, ..Manners::good() });
    world.store_many(&["pump", "fan"], 1000);
    world.drain(120 * SECOND);
    assert_eq!(world.connections, 3);
    assert!(world.rejected.is_empty());
}

#[test]
fn an_answer_reaches_the_hub_as_json_or_as_a_string() {
    let mut world = ready(6, Manners::good());
    world.uplink.answer_rpc(&pump(), 7, br#"{"ok":1.0}"#, world.now);
    world.uplink.answer_rpc(&pump(), 8, b"done", world.now);
    world.serve();
    world.run(SECOND);
    let expected =
        [r#"{"device":"pump","id":7,"data":{"ok":1.0}}"#, r#"{"device":"pump","id":8,"data":"done"}"#];
    assert_eq!(world.hub.answers, expected);
    let counts = world.uplink.status(world.now).downlink;
    assert_eq!((counts.answers, counts.answers_lost), (2, 0));
}

#[test]
fn an_answer_does_not_wait_for_a_backlog() {
    let mut world = ready(7, Manners::good());
    world.network.bytes_per_second = 2000;
    world.store_many(&["pump"], 5000);
    world.run(5 * SECOND);
    world.uplink.answer_rpc(&pump(), 7, b"1", world.now);
    world.serve();
    assert!(world.run_until(30 * SECOND, |world| world.hub.answers.len() == 1));
    assert!(world.uplink.status(world.now).backlog > 2000);
}

#[test]
fn there_is_no_room_for_answers_without_the_hub_and_those_that_wait_are_lost_with_the_connection() {
    let mut world = ready(8, Manners::good());
    assert_eq!(world.uplink.rpc_room(), UPLINK_RPC_ANSWERS);
    world.network.swallows = true;
    for id in 0..200 {
        world.uplink.answer_rpc(&pump(), id, b"1", world.now);
    }
    assert_eq!(world.uplink.rpc_room(), 0);
    world.cut(FailureKind::Reset);
    assert_eq!(world.uplink.rpc_room(), 0);
    assert_eq!(world.uplink.status(world.now).downlink.answers_lost, 200);
    world.network.swallows = false;
    world.run(60 * SECOND);
    assert_eq!((world.uplink.rpc_room(), world.hub.answers.len()), (UPLINK_RPC_ANSWERS, 0));
}

#[test]
fn both_queues_are_bounded_by_bytes_as_well() {
    let mut world = ready(9, Manners::good());
    let large = "x".repeat(60_000);
    world.network.swallows = true;
    let mut taken = 0;
    while world.uplink.rpc_room() > 0 {
        world.uplink.answer_rpc(&pump(), 1, large.as_bytes(), world.now);
        taken += 1;
        assert!(taken < 200, "it ends");
    }
    world.cut(FailureKind::Reset);
    world.network.swallows = false;
    assert!(taken <= 81 + UPLINK_RPC_ANSWER_BYTES / large.len(), "{taken}");
    assert!(world.run_until(60 * SECOND, |world| world.takes_downlinks()));
    world.run(SECOND);
    let payload = format!(r#"{{"device":"pump","data":{{"id":1,"method":"m","params":"{large}"}}}}"#);
    let mut bytes = Vec::new();
    for _ in 0..10 {
        bytes.extend(world.publish_of_hub(RPC, &payload));
    }
    world.uplink.handle_bytes(&bytes, world.now);
    world.serve();
    assert!(world.downlinks.len() <= UPLINK_DOWNLINK_BYTES / large.len() + 1);
    let counts = world.uplink.status(world.now).downlink;
    assert_eq!(counts.dropped as usize + world.downlinks.len(), 10);
    world.run(SECOND);
    assert!(
        world.hub.answers.iter().all(|answer| answer.ends_with(r#""data":{"error":"the gateway is busy"}}"#))
    );
    assert_eq!(world.hub.answers.len() as u64, counts.dropped, "nobody waits for an answer that cannot come");
}

#[test]
fn an_answer_larger_than_the_hub_takes_is_dropped_and_counted() {
    let mut world = ready(10, Manners { packet_bytes_max: 500, ..Manners::good() });
    world.uplink.answer_rpc(&pump(), 1, "x".repeat(1000).as_bytes(), world.now);
    world.uplink.answer_rpc(&pump(), 2, b"2", world.now);
    world.serve();
    world.run(SECOND);
    assert_eq!(world.hub.answers.len(), 1);
    assert_eq!(world.uplink.status(world.now).downlink.answers_lost, 1);
}
