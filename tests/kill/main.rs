//! kill -9 at random instants under load: every acknowledged reading is there after the restart, in each device's
//! order, and nothing is there that was not sent.
//!
//! `KILLS` sets how many; without it there are 200, or as many as fit in two minutes. The publishers send again what
//! was not acknowledged, so a reading may be stored twice; its first occurrence has its place in the order.

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;

mod exchanges;

use std::time::{Duration, Instant};

use support::{
    broker::{Broker, Setup},
    chance::Chance,
    fleet::{Fleet, Payload},
    tell,
    wait::SOON,
};

const PUBLISHERS: usize = 50;
const WINDOW: usize = 10;
const LONGEST_LIFE_MS: u64 = 150;
/// From the start of the program to listening, however much is stored and however it ended (B-01); nineteen starts of
/// twenty keep to it, the twentieth may have met a machine with other things to do.
const LONGEST_START: Duration = Duration::from_secs(2);

/// What is stored, read on from where the last look ended.
struct Ledger {
    last_seq: i64,
    /// For each device: readings 0 up to here are stored.
    complete: Vec<u64>,
    rows: u64,
    duplicates: u64,
}

impl Ledger {
    fn new() -> Self {
        Self { last_seq: 0, complete: vec![0; PUBLISHERS], rows: 0, duplicates: 0 }
    }

    /// Reads what is new, as anybody with a SQL shell would.
    fn read_on(&mut self, broker: &Broker) {
        let database = broker.database("buffer.db");
        let query = "SELECT seq, device, value FROM readings WHERE seq > ?1 AND key = 'n' ORDER BY seq";
        let mut statement = database.prepare(query).expect("the view is documented");
        let mut rows = statement.query([self.last_seq]).expect("the view can be read");
        while let Some(row) = rows.next().expect("a row") {
            let (seq, device): (i64, String) = (row.get_unwrap(0), row.get_unwrap(1));
            let n = u64::try_from(row.get_unwrap::<_, i64>(2)).expect("we count from 0");
            assert!(seq > self.last_seq, "seq {seq} was used twice");
            self.last_seq = seq;
            self.rows += 1;
            self.note(device.parse().expect("devices are named by their number"), n);
        }
    }

    fn note(&mut self, device: usize, n: u64) {
        let complete = &mut self.complete[device];
        assert!(
            n <= *complete,
            "device {device}: reading {n} is stored, {complete} is not: a hole in its order"
        );
        if n == *complete {
            *complete += 1;
        } else {
            self.duplicates += 1;
        }
    }

    fn check(&self, fleet: &Fleet, kill: usize) {
        for (device, publisher) in fleet.publishers().iter().enumerate() {
            let stored = self.complete[device];
            let (acked, sent) = (publisher.acked, publisher.sent);
            assert!(
                acked <= stored,
                "kill {kill}, device {device}: {acked} acknowledged, only {stored} stored"
            );
            assert!(stored <= sent, "kill {kill}, device {device}: {stored} stored, only {sent} sent");
        }
    }
}

#[test]
fn every_acknowledged_reading_survives_kill_9_at_random_instants() {
    let asked: Option<usize> =
        std::env::var("KILLS").ok().map(|text| text.parse().expect("KILLS is a number"));
    let budget = if asked.is_some() { Duration::MAX } else { Duration::from_secs(120) };
    let wanted = asked.unwrap_or(200);
    let mut chance = Chance::of_today();
    let mut broker = Setup::new().roomy(500).start();
    let mut fleet = Fleet::new(WINDOW, Payload::Numbered);
    for number in 0..PUBLISHERS {
        fleet.add("meter", &broker.add_device(&number.to_string()).token);
    }
    let mut ledger = Ledger::new();
    let mut restarts = Vec::new();
    let started = Instant::now();
    let mut kills = 0;
    while kills < wanted && started.elapsed() < budget {
        fleet.reconnect(broker.plain());
        fleet.run_for(Duration::from_micros(chance.below(LONGEST_LIFE_MS * 1000)));
        broker.kill9();
        kills += 1;
        // Acknowledgements that were already on their way count.
        assert!(fleet.run_until(SOON, |fleet| fleet.connected() == 0), "its sockets die with the process");
        broker.restart();
        restarts.push(broker.start_took);
        ledger.read_on(&broker);
        ledger.check(&fleet, kills);
    }
    fleet.reconnect(broker.plain());
    fleet.set_sending(false);
    assert!(fleet.run_until(SOON, |f| f.online() == PUBLISHERS && f.in_flight() == 0), "everything drains");
    ledger.read_on(&broker);
    for (device, publisher) in fleet.publishers().iter().enumerate() {
        assert_eq!(
            ledger.complete[device], publisher.sent,
            "device {device}: all is acknowledged, so all is stored"
        );
    }
    assert_eq!(broker.telemetry().len() as u64, ledger.rows, "`forebay telemetry` tells the same");
    let verdict: String = broker
        .database("buffer.db")
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("it can be checked");
    assert_eq!(verdict, "ok");
    assert!(fleet.acked() > 10 * kills as u64, "hardly anything was sent: this says nothing");
    restarts.sort_unstable();
    let repeats: u64 = fleet.publishers().iter().map(|publisher| publisher.repeats).sum();
    tell(&format!(
        "kill -9: {kills} kills in {:.1?}, {PUBLISHERS} publishers with {WINDOW} in flight: {} readings acknowledged, \
         0 lost; {} rows, {} of them duplicates of {repeats} repeats; back in {:.0?} (median), {:.0?} (longest)",
        started.elapsed(),
        fleet.acked(),
        ledger.rows,
        ledger.duplicates,
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
    ));
    let usual = restarts[(restarts.len() - 1) * 19 / 20];
    assert!(usual < LONGEST_START, "one start in twenty took longer than {usual:?}");
    if kills < wanted {
        tell(&format!(
            "only {kills} of {wanted} kills fitted in {budget:?}; KILLS={wanted} takes the time it takes"
        ));
    }
}
