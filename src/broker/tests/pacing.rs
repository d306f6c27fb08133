//! Rates: who waits, who is refused, and that nobody who merely sends too fast loses anything.

use super::*;
use crate::session::Refusal;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn beyond_its_rate_an_address_is_first_not_read_from_and_then_closed() {
    // One in a second, ten at once.
    let mut world = World::with_limits(|limits| limits.connects_per_address_per_min = 60);
    let first: Vec<ConnId> = (0..10).map(|_| world.accept()).collect();
    assert!(first.iter().all(|conn| world.broker.wants_bytes(*conn)));
    let (late, later) = (world.accept(), world.accept());
    assert!(!world.broker.wants_bytes(late), "its TLS handshake would cost what the rate is to save");
    assert!(world.is_open(late));
    assert_eq!(world.closed(later), Some(CloseReason::ConnectRate));
    assert_eq!(world.sent(later), b"");
    let elsewhere = world.accept_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    assert!(world.broker.wants_bytes(elsewhere));

    assert!(world.broker.poll_timeout().is_some_and(|at| at <= world.now.mono + SECOND));
    world.wait(SECOND);
    assert!(world.broker.wants_bytes(late));
    world.send(late, &connect(4, "pump", Some(PUMP_TOKEN), 60));
    assert_eq!(world.sent(late), [0x20, 2, 0, 0]);
}

#[test]
fn who_waits_for_a_turn_and_gives_up_leaves_nothing_behind() {
    let mut world = World::with_limits(|limits| limits.connects_per_address_per_min = 60);
    let conns: Vec<ConnId> = (0..11).map(|_| world.accept()).collect();
    for conn in conns {
        world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
        world.broker.handle_closed(conn);
    }
    assert_eq!(world.broker.connection_count(), 0);
    assert_eq!(world.broker.poll_timeout(), None);
}

#[test]
fn a_device_that_connects_too_often_is_told_so_and_let_in_later() {
    let mut world = World::with_limits(|limits| limits.connects_per_identity_per_min = 60);
    for _ in 0..10 {
        world.pump();
    }
    for (version, code) in [(4, 0x03), (5, 0x9F)] {
        let conn = world.accept();
        world.send(conn, &connect(version, "pump", Some(PUMP_TOKEN), 60));
        assert_eq!(world.sent(conn)[3], code, "version {version}");
        assert_eq!(world.closed(conn), Some(CloseReason::Refused(Refusal::ConnectRate)));
    }
    world.client(4, FAN_TOKEN, "fan");
    world.wait(SECOND);
    world.pump();
}

#[test]
fn a_device_over_its_rate_is_not_read_from_until_it_may_send_again_and_loses_nothing() {
    // Ten in a second, fifty at once.
    let mut world = World::with_limits(|limits| limits.device_publishes_per_s = 10);
    let (pump, twin) = (world.pump(), world.client(4, PUMP_TOKEN, "twin"));
    let (fan, panel) = (world.client(4, FAN_TOKEN, "fan"), world.client(4, PANEL_TOKEN, "panel"));
    let messages: Vec<u8> = (0..60).flat_map(|_| publish(4, 0, "{\"a\":1}")).collect();
    world.send(pump, &messages);
    assert!(!world.broker.wants_bytes(pump) && !world.broker.wants_bytes(twin), "the rate is the device's");
    assert!(world.broker.wants_bytes(fan) && world.broker.wants_bytes(panel));

    // What was read beyond the rate has to be waited for: eleven tokens.
    world.wait(SECOND);
    assert!(!world.broker.wants_bytes(pump));
    world.wait(SECOND / 10);
    assert!(world.broker.wants_bytes(pump) && world.broker.wants_bytes(twin));
    world.send(pump, &publish(4, 7, "{\"a\":2}"));
    assert!(!world.broker.wants_bytes(pump));
    world.commit();
    assert_eq!(world.sent(pump), puback(7), "what was read is answered, paused or not");
    assert_eq!(world.stored.len(), 61);
}

#[test]
fn messages_count_whatever_becomes_of_them() {
    let mut world = World::with_limits(|limits| limits.device_publishes_per_s = 1);
    let pump = world.pump();
    for topic in ["v1/devices/me/attributes", "v2/t/p", "/provision/request", "v1/unknown"] {
        world.send(pump, &publish_to(topic, 4, 1, "{}"));
    }
    assert!(world.broker.wants_bytes(pump));
    world.send(pump, &publish(4, 1, "not a reading"));
    assert!(!world.broker.wants_bytes(pump));
}

#[test]
fn a_local_client_has_a_rate_of_its_own_and_none_unless_it_is_given_one() {
    let lamp = publish_to("hall/lamp", 4, 0, "on").repeat(10_000);
    let mut world = World::new();
    let panel = world.client(4, PANEL_TOKEN, "panel");
    world.send(panel, &lamp);
    assert!(world.broker.wants_bytes(panel));

    let mut world = World::with_limits(|limits| limits.client_publishes_per_s = 1000);
    let panel = world.client(4, PANEL_TOKEN, "panel");
    world.send(panel, &lamp);
    assert!(!world.broker.wants_bytes(panel));
}

#[test]
fn who_is_not_read_from_is_not_closed_for_silence_or_an_unfinished_packet() {
    // Five at once, and each one read beyond them is waited for a second.
    let mut world = World::with_limits(|limits| {
        limits.device_publishes_per_s = 1;
        limits.packet_timeout_s = 30;
    });
    let pump = world.pump();
    let whole = publish(4, 0, "{\"a\":1}");
    let (begin, end) = whole.split_at(5);
    world.send(pump, &[&whole.repeat(905)[..], begin].concat());
    for _ in 0..90 {
        assert!(!world.broker.wants_bytes(pump));
        world.wait(Duration::from_secs(10));
        assert!(world.is_open(pump));
    }
    world.wait(SECOND);
    assert!(world.broker.wants_bytes(pump));
    // The rest has lain in the socket all the time; it is read in the next turn.
    world.send(pump, end);
    world.wait(Duration::from_secs(20));
    assert!(world.is_open(pump));
    assert!(world.closed(pump).is_none());
    world.wait(Duration::from_secs(90));
    assert_eq!(world.closed(pump), Some(CloseReason::KeepAliveTimeout), "it is as mortal as before");
}

#[test]
fn a_packet_that_is_not_finished_after_the_pause_closes() {
    let mut world = World::with_limits(|limits| limits.device_publishes_per_s = 1);
    let pump = world.pump();
    let whole = publish(4, 0, "{\"a\":1}");
    world.send(pump, &[&whole.repeat(6)[..], &whole[..5]].concat());
    world.wait(2 * SECOND);
    assert!(world.broker.wants_bytes(pump));
    world.wait(Duration::from_secs(30));
    assert_eq!(world.closed(pump), Some(CloseReason::PacketTimeout));
}

const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

#[test]
fn an_address_over_its_rate_is_not_read_from_whoever_sends_and_others_are() {
    // Ten in a second, fifty at once.
    let mut world = World::with_limits(|limits| limits.publishes_per_address_per_s = 10);
    let (pump, fan) = (world.pump(), world.client(4, FAN_TOKEN, "fan"));
    let panel = world.accept_from(AWAY);
    world.send(panel, &connect(4, "panel", Some(PANEL_TOKEN), 60));
    world.send(pump, &publish(4, 0, "{\"a\":1}").repeat(30));
    assert!(world.broker.wants_bytes(pump) && world.broker.wants_bytes(fan));
    world.send(fan, &publish(4, 0, "{\"a\":1}").repeat(30));
    assert!(!world.broker.wants_bytes(pump) && !world.broker.wants_bytes(fan), "the rate is the address's");
    assert!(world.broker.wants_bytes(panel));
    let newcomer = world.accept();
    assert!(world.broker.wants_bytes(newcomer), "a CONNECT is no PUBLISH");

    world.wait(SECOND);
    assert!(!world.broker.wants_bytes(fan));
    world.wait(SECOND / 10);
    assert!(world.broker.wants_bytes(pump) && world.broker.wants_bytes(fan));
    world.wait(SECOND);
    world.commit();
    assert_eq!(world.stored.len(), 60, "nothing is lost by it");
}

#[test]
fn an_address_and_an_identity_are_both_held_to_their_rates() {
    let mut world = World::with_limits(|limits| {
        limits.publishes_per_address_per_s = 100;
        limits.device_publishes_per_s = 1;
    });
    let (pump, fan) = (world.pump(), world.client(4, FAN_TOKEN, "fan"));
    world.send(pump, &publish(4, 0, "{\"a\":1}").repeat(10));
    assert!(!world.broker.wants_bytes(pump) && world.broker.wants_bytes(fan));
    world.send(fan, &publish(4, 0, "{\"a\":1}").repeat(490));
    assert!(!world.broker.wants_bytes(fan));
    world.wait(SECOND);
    assert!(
        !world.broker.wants_bytes(pump) && !world.broker.wants_bytes(fan),
        "each waits for its own rate as well"
    );
}

#[test]
fn who_is_not_read_from_for_its_address_is_not_closed_for_silence_or_an_unfinished_packet() {
    let mut world = World::with_limits(|limits| {
        limits.publishes_per_address_per_s = 1;
        limits.packet_timeout_s = 30;
    });
    let (pump, fan) = (world.pump(), world.client(4, FAN_TOKEN, "fan"));
    let whole = publish(4, 0, "{\"a\":1}");
    world.send(pump, &[&whole.repeat(905)[..], &whole[..5]].concat());
    for _ in 0..90 {
        assert!(!world.broker.wants_bytes(pump) && !world.broker.wants_bytes(fan));
        world.wait(Duration::from_secs(10));
        assert!(world.is_open(pump) && world.is_open(fan));
    }
    world.wait(SECOND);
    assert!(world.broker.wants_bytes(pump) && world.broker.wants_bytes(fan));
    // What they sent meanwhile is read only now.
    world.wait(Duration::from_secs(28));
    world.send(pump, &whole[5..]);
    assert!(world.is_open(pump) && world.is_open(fan));
    world.send(pump, &whole[..5]);
    world.wait(Duration::from_secs(30));
    assert_eq!(world.closed(pump), Some(CloseReason::PacketTimeout), "it is as mortal as before");
    world.wait(Duration::from_secs(40));
    assert_eq!(world.closed(fan), Some(CloseReason::KeepAliveTimeout));
}

#[test]
fn an_address_that_goes_while_it_is_paused_leaves_nothing_behind() {
    let mut world = World::with_limits(|limits| limits.publishes_per_address_per_s = 1);
    let panel = world.client(4, PANEL_TOKEN, "panel");
    world.send(panel, &publish_to("hall/lamp", 4, 0, "on").repeat(10));
    world.broker.handle_disconnected(panel, CloseReason::PeerClosed, world.now);
    world.broker.handle_closed(panel);
    assert!(world.broker.per_address.is_empty());
    world.wait(Duration::from_secs(10));
    assert!(world.broker.per_address.is_empty());
    let panel = world.client(4, PANEL_TOKEN, "panel");
    assert!(world.broker.wants_bytes(panel));
}
