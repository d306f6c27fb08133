//! How a week of readings goes to the hub after the hub was away for it: how fast, at what cost, in how much memory, and
//! whether a reading of now has to wait for it. And how fast readings come in while the oldest make room for them.
//!
//! Runs with few readings as a test; `BENCH=drain tests/run` drains a million (`DRAIN_READINGS`) into the model hub and
//! into mosquitto, as fast as they take them, and a tenth of it into a hub with rates.

mod far_end;
mod week;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use crate::{
    alone, asked_for,
    support::{
        broker::{Broker, Setup},
        client::Client,
        home::Device,
        namespace::skip,
        process,
        relay::Relay,
        tell,
        wait::{SOON, until_true},
        wire::Version,
    },
};
use far_end::FarEnd;
use week::Week;

const DEVICES: u64 = 20;
const SMOKE_READINGS: u64 = 20_000;
const FULL_READINGS: u64 = 1_000_000;
/// What memory may grow by while a backlog drains, however long it is: two lanes of half a MiB of values with what
/// belongs to them, what is on its way, and pages of the journal.
const GROWTH_MAX_KIB: u64 = 4 * 1024;
/// What the last quarter of the drain may have more than the second.
const GROWTH_MAX: f64 = 1.1;
/// How long a reading of now may take to the hub, beside a backlog, in the worst case.
const FRESH_MAX: Duration = Duration::from_secs(5);
/// Between two readings of now.
const FRESH_EVERY: Duration = Duration::from_millis(50);
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// The slowest drain that is not a failure.
const DRAINED_WITHIN: Duration = Duration::from_secs(30 * 60);
/// What is left of the speed at which readings come in while the oldest make room for them.
const SLOWED_MAX: f64 = 0.5;
/// How long it may take until the journal has let go of what the hub has.
const EMPTY_WITHIN: Duration = Duration::from_secs(300);

/// A device whose readings are of now.
const FRESH: &str = "fresh";

/// What has arrived.
#[derive(Default)]
struct Tally {
    /// Readings of the week, each counted once.
    arrived: u64,
    repeats: u64,
    /// The number each device's next reading must have.
    next: BTreeMap<String, u64>,
    /// How long each reading of now was on its way.
    fresh: Vec<Duration>,
}

impl Tally {
    /// # Panics
    /// If a reading is missing before one that has arrived, or has another time than its device gave it.
    fn note(&mut self, week: Week, far: &FarEnd, sent: &[Instant]) {
        for (at, arrival) in far.take_arrivals() {
            let digits = arrival.values.strip_prefix("{\"n\":").expect("the number comes first");
            let end = digits.find([',', '}']).expect("something follows");
            let number: u64 = digits[..end].parse().expect("a number");
            if !self.next.contains_key(&arrival.device) {
                self.next.insert(arrival.device.clone(), 0);
            }
            let next = self.next.get_mut(&arrival.device).expect("just put there");
            if number < *next {
                self.repeats += 1;
                continue;
            }
            assert_eq!(number, *next, "{}: in order, none left out", arrival.device);
            *next += 1;
            if arrival.device == FRESH {
                self.fresh.push(at - sent[number as usize]);
            } else {
                assert_eq!(arrival.ts, week.time(number), "{} {number}", arrival.device);
                self.arrived += 1;
            }
        }
    }
}

/// A week that waits for its hub.
struct Backlog {
    broker: Broker,
    relay: Relay,
    fresh: Device,
    week: Week,
}

#[test]
fn a_week_of_readings_goes_to_a_hub_with_rates_in_order_and_a_reading_of_now_does_not_wait_for_it() {
    let count = if asked_for("drain") { readings() / 10 } else { SMOKE_READINGS };
    drain_into(FarEnd::hub_with_rates, count);
}

#[test]
fn a_week_of_readings_goes_to_the_hub_in_order_and_in_little_memory() {
    drain_into(FarEnd::hub, readings());
}

#[test]
fn a_week_of_readings_goes_to_another_broker_in_order_and_in_little_memory() {
    if !process::installed("mosquitto") {
        return skip("mosquitto is not installed");
    }
    drain_into(FarEnd::mosquitto, readings());
}

fn readings() -> u64 {
    let asked = std::env::var("DRAIN_READINGS").ok();
    match asked.filter(|_| asked_for("drain")) {
        Some(text) => text.parse().expect("DRAIN_READINGS is a number"),
        None if asked_for("drain") => FULL_READINGS,
        None => SMOKE_READINGS,
    }
}

fn drain_into(far_end: fn() -> FarEnd, readings: u64) {
    let _alone = alone();
    let week = Week { devices: DEVICES, readings_each: readings / DEVICES };
    let far = far_end();
    let mut report = format!("\n{}: {} readings of {DEVICES} devices\n", far.name(), week.readings());
    let backlog = Backlog::new(week, &far, &mut report);
    backlog.drain(&far, &mut report);
    if asked_for("drain") {
        backlog.wait_until_shrunk(&mut report);
        tell(&report);
    }
}

impl Backlog {
    fn new(week: Week, far: &FarEnd, report: &mut String) -> Self {
        let relay = Relay::start();
        let setup = Setup::new();
        let token = setup.home().path().join("token");
        fs::write(&token, "TOKEN").expect("written");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("ours");
        let uplink =
            format!("[uplink]\nurl = 'mqtt://{}'\nwait_for_clock_s = 0\n{}", relay.address(), far.settings());
        let devices: Vec<Device> =
            (0..week.devices).map(|n| setup.home().add_device(&format!("device-{n}"))).collect();
        let fresh = setup.home().add_device(FRESH);
        let broker = setup.setting(&uplink).start();
        let (began, spent) = (Instant::now(), process::cpu_nanoseconds(broker.pid()));
        week.publish(&broker, &devices);
        let cost = Cost::since(began, spent, &broker);
        report.push_str(&format!("coming in: {}\n", cost.of(week.readings())));
        Self { broker, relay, fresh, week }
    }

    /// The hub appears, and takes everything.
    fn drain(&self, far: &FarEnd, report: &mut String) {
        let pid = self.broker.pid();
        let (before, journal) = (process::resident_kib(pid), self.journal_bytes());
        let mut fresh = self.broker.online(Version::V5, &self.fresh, "meter");
        self.relay.lead_to(far.address());
        until_true("the uplink finds the hub", SOON * 36, || self.relay.carried().0 > 0);
        let (began, spent) = (Instant::now(), process::cpu_nanoseconds(pid));

        let (mut tally, mut sent, mut samples) = (Tally::default(), Vec::new(), Vec::new());
        let mut slowest_puback = Duration::ZERO;
        let mut last_sample = began;
        until_true("everything has arrived", DRAINED_WITHIN, || {
            tally.note(self.week, far, &sent);
            let is_drained = tally.arrived >= self.week.readings();
            // Before the first arrival it would be one of those that wait.
            if tally.arrived > 0
                && !is_drained
                && sent.last().is_none_or(|last| last.elapsed() >= FRESH_EVERY)
            {
                sent.push(Instant::now());
                publish_fresh(&mut fresh, sent.len() as u64 - 1);
                slowest_puback = slowest_puback.max(sent[sent.len() - 1].elapsed());
            }
            if last_sample.elapsed() >= SAMPLE_EVERY {
                last_sample = Instant::now();
                samples.push(process::resident_kib(pid));
            }
            is_drained
        });
        let cost = Cost::since(began, spent, &self.broker);
        until_true("so have the readings of now, and the gateway knows", SOON, || {
            tally.note(self.week, far, &sent);
            tally.fresh.len() == sent.len() && self.is_known_as_drained()
        });
        let (there, back) = self.relay.carried();
        let total = self.week.readings() + sent.len() as u64;
        let most = samples.iter().copied().max().unwrap_or(before);
        tally.fresh.sort_unstable();
        let middle = tally.fresh.get(tally.fresh.len() / 2).copied().unwrap_or_default();
        let worst = tally.fresh.last().copied().unwrap_or_default();
        report.push_str(&format!(
            "going out: {}; {} arrived twice\n\
             on the wire: {:.1} bytes there and {:.2} back for each reading\n\
             memory: {before} KiB before, {most} KiB at most\n\
             a reading of now: {middle:?} in the middle of {}, {worst:?} at most; its PUBACK {slowest_puback:?} at most\n\
             journal: {} KiB before, {} KiB when everything had arrived\n",
            cost.of(total),
            tally.repeats,
            there as f64 / total as f64,
            back as f64 / total as f64,
            tally.fresh.len(),
            journal >> 10,
            self.journal_bytes() >> 10,
        ));
        assert!(most <= before + GROWTH_MAX_KIB, "memory grew from {before} to {most} KiB");
        assert!(worst <= FRESH_MAX, "a reading of now took {worst:?}");
        if asked_for("drain") {
            assert_flat(&samples);
        }
    }

    fn is_known_as_drained(&self) -> bool {
        let status: serde_json::Value =
            serde_json::from_str(&self.broker.must(&["status", "--json"])).expect("a document");
        (&status["uplink"]["backlog"], &status["uplink"]["in_flight"]) == (&0.into(), &0.into())
    }

    /// The journal with its log.
    fn journal_bytes(&self) -> u64 {
        let size = |name: &str| fs::metadata(self.broker.data_dir().join(name)).map_or(0, |file| file.len());
        size("buffer.db") + size("buffer.db-wal")
    }

    /// What the hub has leaves the journal, and its file shrinks. Nobody looks into it meanwhile: a reader would be in
    /// the way.
    fn wait_until_shrunk(&self, report: &mut String) {
        let (began, mut size, mut changed) = (Instant::now(), self.journal_bytes(), Instant::now());
        until_true("its file keeps its size", EMPTY_WITHIN, || {
            let now = self.journal_bytes();
            if now != std::mem::replace(&mut size, now) {
                changed = Instant::now();
            }
            changed.elapsed() > SOON
        });
        let (took, left) = (changed - began, self.broker.count("SELECT count(*) FROM journal"));
        report.push_str(&format!("{took:.1?} later: {} KiB, {left} readings in it\n", size >> 10));
        // The last few stay for a minute: each removal is a commit.
        assert!(left < 1000, "{left} readings that the hub has are in the journal still");
    }
}

fn publish_fresh(client: &mut Client, number: u64) {
    client.telemetry(&format!(r#"{{"n":{number}}}"#));
}

fn assert_flat(resident_kib: &[u64]) {
    let quarter = resident_kib.len() / 4;
    assert!(quarter > 0, "too short a time for four samples");
    let mean = |samples: &[u64]| samples.iter().sum::<u64>() as f64 / samples.len() as f64;
    let (second, last) =
        (mean(&resident_kib[quarter..2 * quarter]), mean(&resident_kib[resident_kib.len() - quarter..]));
    assert!(last <= second * GROWTH_MAX, "memory grew from {second:.0} to {last:.0} KiB");
}

/// What something has cost.
struct Cost {
    took: Duration,
    cpu_ns: u64,
}

impl Cost {
    /// Since `began`, when the broker had spent `spent` nanoseconds on the processor.
    fn since(began: Instant, spent: u64, broker: &Broker) -> Self {
        Self { took: began.elapsed(), cpu_ns: process::cpu_nanoseconds(broker.pid()) - spent }
    }

    fn of(&self, readings: u64) -> String {
        let rate = readings as f64 / self.took.as_secs_f64();
        let cpu_us = self.cpu_ns as f64 / 1e3 / readings as f64;
        format!("{rate:.0} readings/s in {:.1?}, {cpu_us:.2} µs on the processor each", self.took)
    }
}

#[test]
fn readings_come_in_hardly_slower_while_the_oldest_make_room_for_them() {
    let _alone = alone();
    let earnest = asked_for("drain");
    // The smallest budget there is holds about 100,000 of them.
    let part = if earnest { 400_000 } else { 40_000 };
    let setup = Setup::new().setting("storage.max_bytes = '16 MiB'");
    let devices: Vec<Device> =
        (0..DEVICES).map(|n| setup.home().add_device(&format!("device-{n}"))).collect();
    let broker = setup.start();
    let (mut report, mut rates) = (String::from("\nat a budget of 16 MiB\n"), Vec::new());
    for round in 0..3 {
        let week = Week { devices: DEVICES, readings_each: part / DEVICES };
        let (began, spent) = (Instant::now(), process::cpu_nanoseconds(broker.pid()));
        week.publish(&broker, &devices);
        let cost = Cost::since(began, spent, &broker);
        let dropped =
            broker.database("buffer.db").query_row("SELECT no_space FROM removed", [], |row| row.get(0));
        let dropped: i64 = dropped.unwrap_or(0);
        report.push_str(&format!("part {round}: {}, {dropped} dropped so far\n", cost.of(part)));
        rates.push(part as f64 / cost.took.as_secs_f64());
    }
    let files = fs::read_dir(broker.data_dir()).expect("a directory");
    let used: u64 = files.map(|file| file.expect("a file").metadata().expect("there").len()).sum();
    report.push_str(&format!("data directory: {} KiB\n", used >> 10));
    if earnest {
        tell(&report);
        assert!(rates[2] >= rates[0] * SLOWED_MAX, "{rates:?}");
    }
    assert!(used < 17 << 20, "{used} bytes");
}
