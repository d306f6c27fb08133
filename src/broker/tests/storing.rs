//! The commit, the commit that fails, and the way back.

use super::*;
use crate::device_api::gateway_messages::DeviceReadings;
use crate::session::Refusal;
use crate::{device_api::telemetry::Reading, record::SetAsideId};

#[test]
fn a_failed_commit_cuts_the_publishers_off_without_an_answer() {
    let mut world = World::new();
    let (pump, fan) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
    let bystander = world.client(4, FAN_TOKEN, "bystander");
    world.store_works = false;
    world.send(pump, &publish(4, 1, r#"{"a":1}"#));
    world.send(fan, &publish(5, 1, r#"{"a":1}"#));
    assert!(world.commit());
    assert_eq!(world.closed(pump), Some(CloseReason::StoreFailed));
    assert_eq!(world.closed(fan), Some(CloseReason::StoreFailed));
    assert!(world.sent(pump).is_empty());
    let goodbye = world.sent(fan);
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x89), "{goodbye:02x?}");
    assert!(world.is_open(bystander));
}

#[test]
fn while_the_store_is_down_nothing_is_accepted_and_pings_are_answered() {
    let mut world = World::new();
    let (pump, fan) = (world.pump(), world.client(4, FAN_TOKEN, "fan"));
    world.store_works = false;
    world.send(pump, &publish(4, 1, r#"{"a":1}"#));
    world.commit();
    let newcomer = world.accept();
    world.send(newcomer, &connect(4, "pump", Some(PUMP_TOKEN), 60));
    assert_eq!(world.sent(newcomer), [0x20, 2, 0, 3]);
    assert_eq!(world.closed(newcomer), Some(CloseReason::Refused(Refusal::StoreUnavailable)));
    world.send(fan, &[0xc0, 0]);
    assert_eq!(world.sent(fan), [0xd0, 0]);
    world.send(fan, &publish(4, 1, r#"{"a":1}"#));
    assert_eq!(world.closed(fan), Some(CloseReason::StoreFailed));
    assert!(!world.commit());
}

#[test]
fn after_the_store_is_back_the_sequence_goes_on_where_the_disk_says() {
    let mut world = World::new();
    let pump = world.pump();
    world.store_works = false;
    world.send(pump, &publish(4, 1, r#"{"a":1}"#));
    world.commit();
    world.store_works = true;
    world.broker.handle_store_ready(Recovered { last_seq: Seq(1), ..Recovered::default() }, world.now);
    let pump = world.pump();
    world.send(pump, &publish(4, 1, r#"{"a":1}"#));
    assert!(world.commit());
    assert_eq!(world.sent(pump), puback(1));
    assert_eq!(world.stored[0].seq, Seq(2));
}

#[test]
fn without_room_publishers_of_readings_are_refused_and_others_notice_nothing() {
    let mut world = World::new();
    let (pump, fan) = (world.pump(), world.client(5, FAN_TOKEN, "fan"));
    world.broker.handle_storage_full(true);
    world.send(fan, &publish(5, 1, r#"{"a":1}"#));
    world.send(pump, &publish(4, 1, r#"{"a":1}"#));
    assert!(!world.commit(), "nothing of it is kept");
    assert_eq!(world.sent(fan), [0x40, 3, 0, 1, 0x97], "PUBACK, quota exceeded");
    assert_eq!(world.closed(pump), Some(CloseReason::StorageFull), "before version 5 nothing else says no");
    assert_eq!(world.broker.counters().messages_without_room, 2);
    world.send(fan, &[0xc0, 0]);
    assert_eq!(world.sent(fan), [0xd0, 0]);

    world.broker.handle_storage_full(false);
    world.send(fan, &publish(5, 2, r#"{"a":1}"#));
    assert!(world.commit());
    assert_eq!(world.sent(fan), puback(2));
}

#[test]
fn an_answer_goes_only_to_the_connection_that_published() {
    let mut world = World::new();
    let old = world.pump();
    world.send(old, &publish(4, 9, r#"{"a":1}"#));
    let new = world.pump();
    assert_eq!(world.closed(old), Some(CloseReason::TakenOver));
    assert!(world.commit());
    assert!(world.sent(new).is_empty() && world.sent(old).is_empty());
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn a_publish_before_a_reset_is_stored_and_its_answer_dropped() {
    let mut world = World::new();
    let conn = world.pump();
    world.send(conn, &publish(4, 9, r#"{"a":1}"#));
    world.broker.handle_disconnected(conn, CloseReason::TransportFailed, world.now);
    world.broker.handle_closed(conn);
    assert!(world.commit());
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn a_drain_commits_what_waits_for_company_then_says_goodbye() {
    let mut world = World::new();
    let conn = world.pump_v5();
    world.send(conn, &publish(5, 0, r#"{"a":1}"#));
    world.broker.handle_drain();
    assert!(world.commit());
    world.broker.handle_shutdown(world.now);
    assert_eq!(world.closed(conn), Some(CloseReason::ShuttingDown));
    assert_eq!(world.sent(conn).get(2), Some(&0x8b));
}

#[test]
#[should_panic(expected = "a commit nobody asked for")]
fn a_commit_nobody_asked_for_stops_the_broker() {
    let mut world = World::new();
    world.broker.handle_committed(Ticket(0), world.now);
}

#[test]
fn what_was_set_aside_is_stored_again_or_dropped_with_the_next_commit() {
    let mut world = World::new();
    let name = DeviceName::parse("pump").expect("a name");
    let reading = Reading { device_ts: Some(7), values: "{}".into() };
    let (again, gone) = (SetAsideId::Reading(Seq(3)), SetAsideId::Payload(1));
    let of_pump = |readings| vec![DeviceReadings { device: name.clone(), readings }];
    world.broker.handle_resolved(again, of_pump(vec![reading.clone()]), world.now).expect("taken");
    world.broker.handle_resolved(gone, vec![], world.now).expect("taken");
    let (_, batch) = world.broker.poll_commit().expect("due at once");
    assert_eq!(batch.over, [again, gone]);
    assert_eq!(batch.records.iter().map(|record| record.device_ts).collect::<Vec<_>>(), [Some(7)]);

    world.broker.handle_storage_full(true);
    assert!(
        world.broker.handle_resolved(again, of_pump(vec![reading]), world.now).is_err(),
        "there is no room"
    );
    world.broker.handle_resolved(gone, of_pump(vec![]), world.now).expect("needs none");
}
