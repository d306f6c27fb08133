//! Packets that were read together and do not all get their turn at once.

use super::{
    delivering::{message, subscribe},
    *,
};
use crate::limits::FILTERS_PER_TURN;

const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];
const RETAIN: u8 = 0x01;

impl World {
    /// A world with `count` retained messages, and little room in an outbox.
    fn retaining(count: usize) -> Self {
        let mut world = Self::with_limits(|limits| limits.outbox_bytes = 1024);
        let publisher = world.panel(4, "pub");
        for n in 0..count {
            world.send(publisher, &message(4, RETAIN, 0, &format!("t{n}"), &[], "x"));
        }
        world
    }

    /// The socket takes what there is, and the loop goes round; gives back what was taken.
    fn turn(&mut self, conn: ConnId) -> Vec<u8> {
        let bytes = self.sent(conn);
        self.broker.handle_written(conn, self.now);
        self.broker.handle_timeout(self.now);
        bytes
    }

    fn is_due(&self) -> bool {
        self.broker.poll_timeout().is_some_and(|at| at <= self.now.mono)
    }
}

/// How many packets of the kind `first` stand in `bytes`, none of them longer than 127 bytes.
fn count(bytes: &[u8], first: u8) -> usize {
    let mut found = 0;
    let mut rest = bytes;
    while let [kind, length, ..] = rest {
        found += usize::from(*kind == first);
        rest = &rest[2 + usize::from(*length)..];
    }
    found
}

fn subscribes(count: u16, filter: &str) -> Vec<u8> {
    (1..=count).flat_map(|id| subscribe(4, id, filter, 0)).collect()
}

#[test]
fn what_was_read_waits_until_the_client_has_read_what_it_was_sent() {
    let mut world = World::retaining(100);
    let slow = world.panel(4, "slow");
    world.send(slow, &[&subscribes(30, "#")[..], &PINGREQ].concat());
    let mut taken = world.sent(slow);
    assert!(taken.len() < 1024 + 100 * 8, "{} bytes for one that does not read", taken.len());
    assert!(!world.broker.wants_bytes(slow), "there is something to handle before");
    for _ in 0..100 {
        let more = world.turn(slow);
        assert!(more.len() < 1024 + 100 * 8);
        taken.extend(more);
    }
    assert_eq!(count(&taken, 0x90), 30, "every SUBSCRIBE was answered");
    assert!(taken.ends_with(&PINGRESP));
    assert!(world.broker.wants_bytes(slow) && !world.is_due());
}

#[test]
fn nothing_goes_on_for_a_client_that_does_not_read_until_its_silence_ends_it() {
    let mut world = World::retaining(100);
    let slow = world.panel(4, "slow");
    world.send(slow, &[&subscribes(30, "#")[..], &PINGREQ].concat());
    let before = world.broker.output(slow).map(|outbox| outbox.len());
    assert!(!world.is_due(), "the loop would spin");
    world.broker.handle_timeout(world.now);
    assert_eq!(world.broker.output(slow).map(|outbox| outbox.len()), before);
    world.wait(Duration::from_secs(89));
    assert!(world.is_open(slow));
    world.wait(Duration::from_secs(1));
    assert_eq!(world.closed(slow), Some(CloseReason::KeepAliveTimeout));
}

#[test]
fn many_subscriptions_at_once_are_made_in_several_turns() {
    let mut world = World::new();
    let eager = world.panel(4, "eager");
    world.send(eager, &[&subscribes(200, "a/#")[..], &PINGREQ].concat());
    assert_eq!(count(&world.sent(eager), 0x90), FILTERS_PER_TURN);
    for expected in [FILTERS_PER_TURN, FILTERS_PER_TURN, 200 - 3 * FILTERS_PER_TURN, 0] {
        assert_eq!(world.is_due(), expected > 0, "the next turn comes at once");
        world.broker.handle_timeout(world.now);
        let sent = world.sent(eager);
        assert_eq!(count(&sent, 0x90), expected);
        assert_eq!(sent.ends_with(&PINGRESP), expected == 200 - 3 * FILTERS_PER_TURN);
    }
}

#[test]
fn an_unfinished_packet_behind_others_that_wait_is_finished_later() {
    let mut world = World::new();
    let eager = world.panel(4, "eager");
    let (half, rest) = PINGREQ.split_at(1);
    world.send(eager, &[&subscribes(70, "a")[..], half].concat());
    while world.is_due() {
        world.broker.handle_timeout(world.now);
    }
    assert_eq!(count(&world.sent(eager), 0x90), 70);
    assert!(world.broker.wants_bytes(eager));
    world.send(eager, rest);
    assert_eq!(world.sent(eager), PINGRESP);
}

#[test]
fn what_was_sent_before_the_end_of_a_connection_is_handled_before_it_ends() {
    for says_goodbye in [true, false] {
        let mut world = World::retaining(100);
        let watcher = world.subscriber(4, "watcher", "last", 0);
        let leaving = world.panel(4, "leaving");
        let last = message(4, 0, 0, "last", &[], "words");
        let goodbye = if says_goodbye { &[0xE0, 0][..] } else { &[] };
        world.send(leaving, &[&subscribes(150, "#")[..], &last, goodbye].concat());
        world.broker.handle_disconnected(leaving, CloseReason::PeerClosed, world.now);
        assert!(world.closed(leaving).is_none() && world.sent(watcher).is_empty());
        while world.is_due() {
            world.broker.handle_timeout(world.now);
        }
        assert_eq!(world.sent(watcher), last);
        let reason = if says_goodbye { CloseReason::Disconnected } else { CloseReason::PeerClosed };
        assert_eq!(world.closed(leaving), Some(reason));
    }
}
