//! Retained messages.

use super::{
    delivering::{message, subscribe},
    *,
};

const RETAIN: u8 = 0x01;
const QOS1_RETAIN: u8 = 0x03;

#[test]
fn the_last_retained_message_goes_to_who_subscribes_later_mqtt_3_3_1_6() {
    let mut world = World::new();
    let publisher = world.panel(4, "pub");
    world.send(publisher, &message(4, QOS1_RETAIN, 1, "hall/lamp", &[], "on"));
    assert!(world.sent(publisher).is_empty(), "it is not on disk yet");
    assert!(world.commit());
    assert_eq!(world.sent(publisher), puback(1));
    world.send(publisher, &message(4, RETAIN, 0, "hall/lamp", &[], "off"));
    for version in [3, 4, 5] {
        let late = world.panel(version, &format!("late{version}"));
        world.send(late, &subscribe(version, 7, "hall/+", 1));
        let suback = subscribe_answer(version, 7, 1);
        assert_eq!(world.sent(late), [suback, message(version, RETAIN, 0, "hall/lamp", &[], "off")].concat());
    }
    world.send(publisher, &message(4, RETAIN, 0, "hall/lamp", &[], ""));
    let late = world.panel(4, "too late");
    world.send(late, &subscribe(4, 7, "hall/+", 1));
    assert_eq!(world.sent(late), subscribe_answer(4, 7, 1));
}

#[test]
fn a_subscriber_that_was_there_gets_it_without_the_flag_unless_it_asked_for_it_mqtt_3_3_1_12() {
    let mut world = World::new();
    let plain = world.subscriber(5, "plain", "a", 0);
    let as_published = world.subscriber(5, "as published", "a", 0x08);
    let publisher = world.panel(5, "pub");
    world.send(publisher, &message(5, RETAIN, 0, "a", &[], "x"));
    assert_eq!(world.sent(plain), message(5, 0, 0, "a", &[], "x"));
    assert_eq!(world.sent(as_published), message(5, RETAIN, 0, "a", &[], "x"));
}

#[test]
fn retain_handling_says_who_gets_it_mqtt_3_3_1_9() {
    let mut world = World::new();
    let publisher = world.panel(5, "pub");
    world.send(publisher, &message(5, RETAIN, 0, "a", &[], "x"));
    let subscriber = world.panel(5, "sub");
    let with_message =
        |options: u8| [subscribe_answer(5, 1, options & 3), message(5, RETAIN, 0, "a", &[], "x")].concat();
    for (options, wanted) in [(0x20, false), (0x00, true), (0x10, false), (0x00, true)] {
        world.send(subscriber, &subscribe(5, 1, "a", options));
        let expected = if wanted { with_message(options) } else { subscribe_answer(5, 1, options & 3) };
        assert_eq!(world.sent(subscriber), expected, "options {options:#04x}");
    }
    let fresh = world.panel(5, "fresh");
    world.send(fresh, &subscribe(5, 1, "a", 0x10));
    assert_eq!(world.sent(fresh), with_message(0x10), "a new subscription");
    let shared = world.panel(5, "shared");
    world.send(shared, &subscribe(5, 1, "$share/g/a", 0));
    assert_eq!(world.sent(shared), subscribe_answer(5, 1, 0), "a shared one gets none");
}

#[test]
fn retained_messages_survive_a_restart_and_expire_mqtt_3_3_2_6() {
    let mut world = World::new();
    let publisher = world.panel(5, "pub");
    world.send(publisher, &message(5, QOS1_RETAIN, 1, "a", &[0x02, 0, 0, 0, 10], "x"));
    world.send(publisher, &message(5, QOS1_RETAIN, 2, "b", &[], "y"));
    world.commit();
    world.restart();
    world.wait(Duration::from_secs(4));
    let subscriber = world.panel(5, "sub");
    world.send(subscriber, &subscribe(5, 1, "#", 0));
    let both = [
        subscribe_answer(5, 1, 0),
        message(5, RETAIN, 0, "a", &[0x02, 0, 0, 0, 6], "x"),
        message(5, RETAIN, 0, "b", &[], "y"),
    ];
    assert_eq!(world.sent(subscriber), both.concat());
    world.wait(Duration::from_secs(6));
    world.commit();
    world.restart();
    let subscriber = world.panel(5, "sub");
    world.send(subscriber, &subscribe(5, 1, "#", 0));
    assert_eq!(world.sent(subscriber), [subscribe_answer(5, 1, 0), both[2].clone()].concat());
}

#[test]
fn one_message_too_many_is_not_retained_and_version_5_is_told() {
    let mut world = World::with_limits(|limits| limits.retained_messages = 1);
    let publisher = world.panel(5, "pub");
    let subscriber = world.subscriber(4, "sub", "#", 0);
    world.send(publisher, &message(5, QOS1_RETAIN, 1, "a", &[], "x"));
    world.commit();
    world.sent(publisher);
    world.send(publisher, &message(5, QOS1_RETAIN, 2, "b", &[], "y"));
    assert_eq!(world.sent(publisher), [0x40, 3, 0, 2, 0x97]);
    world.send(publisher, &message(5, QOS1_RETAIN, 3, "a", &[], "z"));
    world.commit();
    assert_eq!(world.sent(publisher)[..4], [0x40, 2, 0, 3]);
    let seen = [message(4, 0, 0, "a", &[], "x"), message(4, 0, 0, "a", &[], "z")].concat();
    assert_eq!(world.sent(subscriber), seen);
}

#[test]
fn a_will_may_be_retained() {
    let mut world = World::new();
    let conn = world.accept();
    let mut body = [string("MQTT"), vec![4, 0x80 | 0x26, 0, 60]].concat();
    for text in ["dying", "gone", "bye", PANEL_TOKEN] {
        body.extend(string(text));
    }
    world.send(conn, &packet(0x10, &body));
    world.sent(conn);
    world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
    let subscriber = world.panel(4, "sub");
    world.send(subscriber, &subscribe(4, 1, "gone", 0));
    assert_eq!(
        world.sent(subscriber),
        [subscribe_answer(4, 1, 0), message(4, RETAIN, 0, "gone", &[], "bye")].concat()
    );
}

fn subscribe_answer(version: u8, id: u16, code: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    body.push(code);
    packet(0x90, &body)
}

#[test]
fn what_is_retained_is_found_also_while_the_store_is_out_of_order() {
    let mut world = World::new();
    let publisher = world.panel(4, "pub");
    for (topic, text) in [("a", "x"), ("b", "old")] {
        world.send(publisher, &message(4, QOS1_RETAIN, 1, topic, &[], text));
        world.commit();
    }
    let late = world.panel(4, "late");
    world.send(publisher, &message(4, QOS1_RETAIN, 2, "b", &[], "new"));
    world.store_works = false;
    assert!(world.commit());
    world.send(late, &subscribe(4, 7, "a", 0));
    let found = |topic, text| [subscribe_answer(4, 7, 0), message(4, RETAIN, 0, topic, &[], text)].concat();
    assert_eq!(world.sent(late), found("a", "x"));
    world.store_works = true;
    world.broker.handle_store_ready(world.durable.recovered(), world.now);
    world.send(late, &subscribe(4, 7, "b", 0));
    assert_eq!(world.sent(late), found("b", "old"), "what the disk says holds");
}
