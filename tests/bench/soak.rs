//! Whether the broker keeps to its memory and its descriptors while clients come and go.
//!
//! Clients of all kinds on one thread: they publish and subscribe, with sessions that end with the connection and
//! sessions that do not, and leave politely, in silence, by a reset, or by being taken over. Runs for a moment as a test;
//! `BENCH=soak tests/run` goes on for twenty minutes, or `SOAK_S` seconds.

mod soaker;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    time::{Duration, Instant},
};

use mio::{Events, Poll};

use crate::{
    allow_many_descriptors, alone, asked_for,
    support::{
        broker::{Broker, Setup},
        chance::Chance,
        home::Device,
        process, tell,
        wait::{SOON, until_true},
        wire::Version,
    },
};
use soaker::{Kind, Pace, Soaker};

/// How long and how much.
struct Plan {
    span: Duration,
    between_samples: Duration,
    clients: usize,
    pace: Pace,
}

const SMOKE: Plan = Plan {
    span: Duration::from_secs(2),
    between_samples: Duration::from_millis(250),
    clients: 30,
    pace: Pace { life_ms: 600, absence_ms: 100, between_messages_ms: 40 },
};

const FULL: Plan = Plan {
    span: Duration::from_secs(20 * 60),
    between_samples: Duration::from_secs(10),
    clients: 500,
    pace: Pace { life_ms: 20_000, absence_ms: 5000, between_messages_ms: 1000 },
};

/// What the last quarter may have more than the second: the first is warming up.
const GROWTH_MAX: f64 = 1.1;
/// Of what the broker has to complain of.
const LOG_LINES_SHOWN: usize = 20;
/// Devices, and as many local clients, by whose tokens everybody comes in.
const IDENTITIES: usize = 10;

/// What the broker holds at one moment.
#[derive(Clone, Copy)]
struct Sample {
    resident_kib: f64,
    descriptors: f64,
}

/// What all clients together have seen.
#[derive(Default)]
pub struct Tally {
    lives: u64,
    sent: u64,
    acknowledged: u64,
    received: u64,
    sessions_resumed: u64,
    /// Connections the broker ended, by the code of its DISCONNECT if there was one.
    ended_by_broker: BTreeMap<Option<u8>, u64>,
}

#[test]
fn memory_and_descriptors_stay_where_they_are_while_clients_come_and_go() {
    let _alone = alone();
    let earnest = asked_for("soak");
    let plan = if earnest { Plan { span: span(), ..FULL } } else { SMOKE };
    allow_many_descriptors();
    let (broker, mut soakers) = start(&plan);
    let descriptors_before = process::descriptors(broker.pid());
    let (mut chance, mut tally) = (Chance::of_today(), Tally::default());
    let samples = soak(&plan, &broker, &mut soakers, &mut chance, &mut tally);
    drop(soakers);

    let ended: u64 = tally.ended_by_broker.values().sum();
    if earnest {
        tell(&format!(
            "{} lives, {} messages sent, {} acknowledged, {} received, {} sessions resumed, {ended} ended by the broker: {:02x?}",
            tally.lives,
            tally.sent,
            tally.acknowledged,
            tally.received,
            tally.sessions_resumed,
            tally.ended_by_broker
        ));
        let log = broker.log();
        let reasons: Vec<&str> =
            log.lines().filter(|line| line.contains("WARN")).take(LOG_LINES_SHOWN).collect();
        tell(&reasons.join("\n"));
    }
    assert!(tally.lives >= plan.clients as u64 && tally.acknowledged > 0 && tally.received > 0);
    assert!(ended * 100 <= tally.lives, "the broker ended good clients: {:02x?}", tally.ended_by_broker);
    until_true("descriptors of clients that are gone are closed", SOON, || {
        process::descriptors(broker.pid()) <= descriptors_before
    });
    if earnest {
        assert_steady("resident KiB", &samples, |sample| sample.resident_kib);
        assert_steady("descriptors", &samples, |sample| sample.descriptors);
    }
}

fn span() -> Duration {
    let seconds =
        std::env::var("SOAK_S").ok().map(|text| text.parse().expect("SOAK_S is a number of seconds"));
    seconds.map_or(FULL.span, Duration::from_secs)
}

fn start(plan: &Plan) -> (Broker, Vec<Soaker>) {
    let setup = Setup::new().roomy(2 * plan.clients as u32 + 100).limit("connections_per_device", 1000);
    let devices: Vec<String> =
        (0..IDENTITIES).map(|n| setup.home().add_device(&format!("device-{n}")).token).collect();
    let clients: Vec<String> =
        (0..IDENTITIES).map(|n| setup.home().add_client(&format!("client-{n}"))).collect();
    let broker = setup.start();
    let soakers = (0..plan.clients).map(|n| {
        let (kind, tokens) =
            if n % 2 == 0 { (Kind::Device, &devices) } else { (Kind::LocalClient, &clients) };
        Soaker::new(n, kind, &tokens[n / 2 % IDENTITIES], broker.plain())
    });
    let soakers = soakers.collect();
    // What it opens when the first reading is stored belongs to it.
    let device = Device { name: "device-0".to_owned(), token: devices[0].clone() };
    broker.online(Version::V311, &device, "first").telemetry("{\"n\":0}");
    (broker, soakers)
}

fn soak(
    plan: &Plan,
    broker: &Broker,
    soakers: &mut [Soaker],
    chance: &mut Chance,
    tally: &mut Tally,
) -> Vec<Sample> {
    let mut poll = Poll::new().expect("an epoll instance");
    let mut events = Events::with_capacity(1024);
    let started = Instant::now();
    let mut samples = Vec::new();
    while started.elapsed() < plan.span {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => panic!("poll: {error}"),
            _ => {}
        }
        let now = Instant::now();
        for event in &events {
            soakers[event.token().0].handle_ready(now, plan.pace, chance, tally);
        }
        for soaker in &mut *soakers {
            soaker.act(now, plan.pace, &poll, chance, tally);
        }
        if started.elapsed() >= plan.between_samples * (samples.len() as u32 + 1) {
            let sample = Sample {
                resident_kib: process::resident_kib(broker.pid()) as f64,
                descriptors: process::descriptors(broker.pid()) as f64,
            };
            if plan.span > SMOKE.span {
                let (seconds, online) =
                    (started.elapsed().as_secs(), soakers.iter().filter(|s| s.is_online()).count());
                tell(&format!(
                    "{seconds} s: {} KiB resident, {} descriptors, {online} clients online",
                    sample.resident_kib, sample.descriptors
                ));
            }
            samples.push(sample);
        }
    }
    samples
}

fn assert_steady(what: &str, samples: &[Sample], figure: impl Fn(&Sample) -> f64) {
    let quarter = samples.len() / 4;
    assert!(quarter > 0, "too short a time for four samples");
    let mean = |samples: &[Sample]| samples.iter().map(&figure).sum::<f64>() / samples.len() as f64;
    let (second, last) = (mean(&samples[quarter..2 * quarter]), mean(&samples[samples.len() - quarter..]));
    tell(&format!("{what}: {second:.0} in the second quarter, {last:.0} in the last"));
    assert!(last <= second * GROWTH_MAX, "{what} grew from {second:.0} to {last:.0}");
}
