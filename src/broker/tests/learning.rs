//! Tokens nobody here has: who is held, who is asked about, and what becomes of it.

use super::*;
use crate::{limits, session::Refusal};

const SECOND: Duration = Duration::from_secs(1);
const NEW_TOKEN: &str = "NEWTOKEN";

fn learning() -> World {
    learning_with(|_| {})
}

fn learning_with(change: impl FnOnce(&mut Limits)) -> World {
    let mut world = World::with_limits(change);
    world.broker.handle_learning(true, world.now);
    world
}

/// The device a token becomes.
fn learned(token: &str) -> Verdict {
    Verdict::Enrolled(device(10, "learned-1", token))
}

fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
}

impl World {
    /// A connection that has sent CONNECT with `token`.
    fn knock(&mut self, version: u8, token: &str) -> ConnId {
        self.knock_from(HOME, version, token)
    }

    fn knock_from(&mut self, address: IpAddr, version: u8, token: &str) -> ConnId {
        let conn = self.accept_from(address);
        let client_id = format!("client {}", conn.slot);
        self.send(conn, &connect(version, &client_id, Some(token), 60));
        conn
    }

    fn asked(&mut self) -> Option<Ask> {
        self.broker.poll_trial(self.now)
    }

    fn told(&mut self, ask: &Ask, verdict: Verdict) {
        self.broker.handle_trial(ask.id, verdict, self.now);
    }

    fn is_held(&mut self, conn: ConnId) -> bool {
        self.is_open(conn) && self.sent(conn).is_empty()
    }

    fn refusal(&mut self, conn: ConnId) -> Option<Refusal> {
        match self.closed(conn) {
            Some(CloseReason::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }
}

#[test]
fn a_token_the_hub_knows_lets_its_device_in_with_what_it_has_sent_meanwhile() {
    for version in [3, 4, 5] {
        let mut world = learning();
        let conn = world.knock(version, NEW_TOKEN);
        world.send(conn, &publish(version, 7, "{\"a\":1}"));
        assert!(world.is_held(conn) && world.stored.is_empty());
        let ask = world.asked().expect("a question");
        assert_eq!((ask.token.reveal(), ask.address), (NEW_TOKEN, HOME));
        assert!(world.asked().is_none(), "once is enough");

        world.told(&ask, learned(NEW_TOKEN));
        world.commit();
        let sent = world.sent(conn);
        assert_eq!((sent[0], sent[3]), (0x20, 0), "version {version}: {sent:02x?}");
        assert!(sent.ends_with(&puback(7)), "version {version}: {sent:02x?}");
        assert_eq!(world.stored[0].device.as_str(), "learned-1");
        let again = world.client(version, NEW_TOKEN, "another");
        assert!(world.asked().is_none() && world.is_open(again));
        let counters = world.broker.counters();
        assert_eq!((counters.devices_learned, counters.tokens_rejected), (1, 0));
        assert_eq!((counters.packets_received, counters.connects_refused), (3, 0));
    }
}

#[test]
fn a_connect_that_comes_in_pieces_is_held_as_well() {
    let mut world = learning();
    let conn = world.accept();
    let bytes = [connect(4, "new", Some(NEW_TOKEN), 60), publish(4, 1, "{\"a\":1}")].concat();
    for byte in &bytes {
        world.send(conn, &[*byte]);
    }
    let ask = world.asked().expect("a question");
    world.told(&ask, learned(NEW_TOKEN));
    world.commit();
    assert_eq!(world.sent(conn), [&[0x20, 2, 0, 0][..], &puback(1)].concat());
}

#[test]
fn a_token_the_hub_does_not_know_is_refused_and_not_tried_again_for_ten_minutes() {
    let mut world = learning();
    for (version, code) in [(4, 5), (5, 0x86)] {
        let token = format!("{NEW_TOKEN}{version}");
        let conn = world.knock(version, &token);
        let ask = world.asked().expect("a question");
        world.told(&ask, Verdict::Rejected);
        assert_eq!((world.sent(conn)[3], world.refusal(conn)), (code, Some(Refusal::UnknownToken)));
        let again = world.knock(version, &token);
        assert!(world.asked().is_none());
        assert_eq!(world.refusal(again), Some(Refusal::UnknownToken));
    }
    world.wait(limits::TRIAL_REJECTED_SPAN);
    let conn = world.knock(4, &format!("{NEW_TOKEN}4"));
    assert!(world.is_held(conn) && world.asked().is_some());
    assert_eq!(world.broker.counters().tokens_rejected, 2);
}

#[test]
fn without_a_verdict_the_device_is_asked_to_come_again() {
    for verdict in [Verdict::Undecided, Verdict::Unreached] {
        let mut world = learning();
        let conns = [(4, 3), (5, 0x88)].map(|(version, code)| (world.knock(version, NEW_TOKEN), code));
        let ask = world.asked().expect("a question");
        world.told(&ask, verdict);
        for (conn, code) in conns {
            assert_eq!((world.sent(conn)[3], world.refusal(conn)), (code, Some(Refusal::Undecided)));
        }
        let soon = world.knock(4, NEW_TOKEN);
        assert_eq!((world.refusal(soon), world.asked().is_none()), (Some(Refusal::Undecided), true));
        world.wait(SECOND * 5);
        let later = world.knock(4, NEW_TOKEN);
        assert!(world.is_held(later) && world.asked().is_some());
        assert_eq!(world.broker.counters().trials_undecided, 1);
    }
}

#[test]
fn nobody_is_held_without_learning_or_with_a_token_that_cannot_be_one() {
    let mut world = World::new();
    let conn = world.knock(4, NEW_TOKEN);
    assert_eq!(world.refusal(conn), Some(Refusal::UnknownToken));
    let mut world = learning();
    for token in ["SHORTER".to_owned(), "X".repeat(513), " ".repeat(20)] {
        let conn = world.knock(4, &token);
        assert_eq!(world.refusal(conn), Some(Refusal::UnknownToken), "{token:?}");
    }
    assert!(world.asked().is_none());
}

#[test]
fn a_device_that_is_disabled_here_is_not_learnt_anew() {
    let mut world = learning();
    let shut_out = Identity { enabled: false, ..device(1, "pump", PUMP_TOKEN) };
    world.broker.handle_registry(vec![shut_out], world.now);
    let conn = world.knock(4, PUMP_TOKEN);
    assert_eq!((world.refusal(conn), world.asked().is_none()), (Some(Refusal::UnknownToken), true));
}

#[test]
fn two_connects_with_one_token_share_a_trial() {
    let mut world = learning();
    let conns = [world.knock(4, NEW_TOKEN), world.knock(4, NEW_TOKEN)];
    let ask = world.asked().expect("a question");
    assert!(world.asked().is_none());
    world.told(&ask, learned(NEW_TOKEN));
    for conn in conns {
        assert_eq!(world.sent(conn), [0x20, 2, 0, 0]);
    }
}

#[test]
fn one_client_that_is_held_twice_takes_over_from_itself() {
    let mut world = learning();
    let [first, second] = [0, 1].map(|_| {
        let conn = world.accept();
        world.send(conn, &connect(4, "same", Some(NEW_TOKEN), 60));
        conn
    });
    let ask = world.asked().expect("a question");
    world.told(&ask, learned(NEW_TOKEN));
    assert_eq!(world.closed(first), Some(CloseReason::TakenOver));
    assert_eq!(world.sent(second), [0x20, 2, 0, 0]);
}

#[test]
fn who_gives_up_leaves_nothing_behind_and_an_answer_that_came_too_late_is_used_all_the_same() {
    let mut world = learning();
    let (gone, asked) = (world.knock(4, "TOKEN OF ONE"), world.knock(4, NEW_TOKEN));
    assert!(world.broker.wants_bytes(gone), "else nobody would notice that it gives up");
    world.broker.handle_disconnected(gone, CloseReason::PeerClosed, world.now);
    let ask = world.asked().expect("a question");
    assert_eq!(ask.token.reveal(), NEW_TOKEN);
    world.broker.handle_disconnected(asked, CloseReason::PeerClosed, world.now);
    for conn in [gone, asked] {
        world.broker.handle_closed(conn);
    }
    assert_eq!((world.broker.connection_count(), world.broker.poll_timeout()), (0, None));
    world.told(&ask, learned(NEW_TOKEN));
    world.client(4, NEW_TOKEN, "back");
}

#[test]
fn a_guess_counts_though_nobody_waits_for_the_answer() {
    let mut world = learning_with(|limits| limits.refusals_per_address = 1);
    let guess = world.knock(4, NEW_TOKEN);
    let ask = world.asked().expect("a question");
    world.broker.handle_disconnected(guess, CloseReason::PeerClosed, world.now);
    world.told(&ask, Verdict::Rejected);
    let next = world.knock(4, PUMP_TOKEN);
    assert!(world.is_held(next) && !world.broker.wants_bytes(next), "its address waits");
    world.wait(SECOND);
    assert_eq!(world.sent(next), [0x20, 2, 0, 0]);
}

#[test]
fn a_connect_of_an_address_with_refusals_waits_before_it_is_held() {
    let mut world = learning_with(|limits| limits.refusals_per_address = 1);
    let guess = world.knock(4, "GUESSED1");
    let ask = world.asked().expect("a question");
    world.told(&ask, Verdict::Undecided);
    assert_eq!(world.refusal(guess), Some(Refusal::Undecided));
    let next = world.knock(4, "GUESSED2");
    assert!(world.asked().is_none());
    world.wait(SECOND / 10);
    assert!(world.is_held(next) && world.asked().is_some());
}

#[test]
fn a_hub_that_says_nothing_is_waited_for_no_longer_than_connect_timeout() {
    let mut world = learning();
    let slow = world.accept();
    world.wait(SECOND * 4);
    world.send(slow, &connect(4, "slow", Some(NEW_TOKEN), 60));
    let quick = world.knock(4, NEW_TOKEN);
    let ask = world.asked().expect("a question");
    world.wait(SECOND * 6);
    assert_eq!(world.refusal(slow), Some(Refusal::Undecided));
    assert!(world.is_held(quick));
    world.wait(SECOND * 4);
    assert_eq!((world.sent(quick), world.refusal(quick)), (vec![0x20, 2, 0, 3], Some(Refusal::Undecided)));
    world.told(&ask, learned(NEW_TOKEN));
    world.client(4, NEW_TOKEN, "back");
}

#[test]
fn only_so_many_are_held_in_all_and_from_one_address() {
    let mut world = learning_with(|limits| limits.refusals_per_address = 1000);
    let first: Vec<ConnId> = (0..16).map(|_| world.knock(4, NEW_TOKEN)).collect();
    let beyond = world.knock(4, NEW_TOKEN);
    assert_eq!(world.refusal(beyond), Some(Refusal::Undecided));
    let others: Vec<ConnId> = (1..=48).map(|n| world.knock_from(address(n), 4, NEW_TOKEN)).collect();
    let beyond = world.knock_from(address(49), 5, NEW_TOKEN);
    assert_eq!(world.refusal(beyond), Some(Refusal::Undecided));
    assert_eq!(world.client(4, PUMP_TOKEN, "pump").epoch, 1, "who is known comes in");
    assert!(first.iter().chain(&others).all(|conn| world.is_held(*conn)));
}

#[test]
fn those_who_are_held_do_not_keep_others_from_being_accepted() {
    let mut world = learning_with(|limits| limits.connections_unauthenticated = 2);
    for _ in 0..10 {
        let conn = world.knock(4, NEW_TOKEN);
        assert!(world.is_held(conn));
    }
    assert!(world.broker.admits_more(world.now));
}

#[test]
fn a_guesser_gets_few_answers_and_no_held_connect_hides_a_guess() {
    let mut world = learning_with(|limits| limits.refusals_per_address = 1_000_000);
    let mut asked = 0;
    for n in 0..200 {
        let conn = world.knock(4, &format!("GUESS NUMBER {n}"));
        if let Some(ask) = world.asked() {
            asked += 1;
            world.told(&ask, Verdict::Rejected);
        }
        assert!(world.refusal(conn).is_some());
        world.broker.handle_closed(conn);
    }
    assert_eq!(asked, limits::TRIALS_REJECTED_MAX);
}

#[test]
fn another_hub_is_asked_again_and_those_held_for_the_old_one_come_again() {
    let mut world = learning();
    let rejected = world.knock(4, "REJECTED");
    let ask = world.asked().expect("a question");
    world.told(&ask, Verdict::Rejected);
    let held = world.knock(4, NEW_TOKEN);
    let old = world.asked().expect("a question");
    world.broker.handle_learning(true, world.now);
    assert_eq!(world.refusal(rejected), Some(Refusal::UnknownToken));
    assert_eq!(world.refusal(held), Some(Refusal::Undecided));
    let again = world.knock(4, "REJECTED");
    let new = world.asked().expect("asked anew");
    world.told(&old, Verdict::Rejected);
    assert!(world.is_held(again));
    world.told(&new, learned("REJECTED"));
    assert_eq!(world.sent(again), [0x20, 2, 0, 0]);
    world.broker.handle_learning(false, world.now);
    let conn = world.knock(4, NEW_TOKEN);
    assert_eq!(world.refusal(conn), Some(Refusal::UnknownToken));
}

#[test]
fn a_device_added_by_hand_meanwhile_is_let_in() {
    let mut world = learning();
    let conn = world.knock(4, NEW_TOKEN);
    let ask = world.asked().expect("a question");
    world.broker.handle_registry([identities(), vec![device(9, "by hand", NEW_TOKEN)]].concat(), world.now);
    world.told(&ask, Verdict::Known);
    assert_eq!(world.sent(conn), [0x20, 2, 0, 0]);
}

#[test]
fn while_the_store_is_out_of_order_nobody_is_learnt() {
    let mut world = learning();
    world.store_works = false;
    let pump = world.pump();
    world.send(pump, &publish(4, 1, "{\"a\":1}"));
    world.commit();
    let conn = world.knock(4, NEW_TOKEN);
    assert_eq!((world.refusal(conn), world.asked().is_none()), (Some(Refusal::Undecided), true));
}

#[test]
fn a_store_that_fails_or_a_broker_that_stops_leaves_nobody_held() {
    let mut world = learning();
    let (conn, other) = (world.knock(5, NEW_TOKEN), world.knock(5, "OTHERTOKEN"));
    let ask = world.asked().expect("a question");
    world.store_works = false;
    let pump = world.pump();
    world.send(pump, &publish(4, 1, "{\"a\":1}"));
    world.commit();
    world.told(&ask, learned(NEW_TOKEN));
    assert_eq!(world.refusal(conn), Some(Refusal::StoreUnavailable), "it is known from now on");
    world.broker.handle_shutdown(world.now);
    assert_eq!(world.closed(other), Some(CloseReason::ShuttingDown));
}

/// Numbers that look like chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn whatever_happens_in_whatever_order_everybody_is_answered_or_gone_in_the_end() {
    for seed in 0..300 {
        let (mut chance, mut world) = (Chance(seed), learning());
        let (mut conns, mut asked, mut ids) = (Vec::new(), Vec::<Ask>::new(), 10);
        let token = |n: u64| format!("TOKEN NUMBER {n}");
        for _ in 0..200 {
            match chance.below(10) {
                0..=2 => {
                    let (from, version) = (address(chance.below(3) as u8), 3 + chance.below(3) as u8);
                    conns.push(world.knock_from(from, version, &token(chance.below(12))));
                }
                3 if !conns.is_empty() => {
                    let conn = conns[chance.below(conns.len() as u64) as usize];
                    world.send(conn, &publish(4, 1, "{\"a\":1}")[..chance.below(30) as usize]);
                }
                4 if !conns.is_empty() => {
                    let conn = conns.swap_remove(chance.below(conns.len() as u64) as usize);
                    world.broker.handle_disconnected(conn, CloseReason::PeerClosed, world.now);
                }
                5 | 6 => asked.extend(world.asked()),
                7 if !asked.is_empty() => {
                    let ask = asked.swap_remove(chance.below(asked.len() as u64) as usize);
                    let text = ask.token.reveal().to_owned();
                    let is_there = world.broker.identities.knows(&TokenHash::of(&text));
                    ids += 1;
                    let verdict = match chance.below(5) {
                        0 | 1 if is_there => Verdict::Known,
                        0 | 1 => Verdict::Enrolled(device(ids, &format!("learned-{ids}"), &text)),
                        2 => Verdict::Rejected,
                        3 => Verdict::Undecided,
                        _ => Verdict::Unreached,
                    };
                    world.told(&ask, verdict);
                }
                8 => world.wait(Duration::from_millis(chance.below(4000))),
                _ => match chance.below(20) {
                    0 => world.broker.handle_learning(true, world.now),
                    1 => world.broker.handle_registry(identities(), world.now),
                    _ => drop(world.commit()),
                },
            }
        }
        world.wait(limits::TRIAL_TIME);
        world.wait(limits::TRIAL_TIME);
        assert_eq!(world.broker.trials.held_len(), 0, "seed {seed}");
        let is_waiting = |conn: &ConnId| {
            world.broker.connections.get(*conn).is_some_and(|found| found.phase.is_unauthenticated())
        };
        assert!(!conns.iter().any(is_waiting), "seed {seed}");
    }
}
