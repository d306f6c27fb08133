//! What durability costs: readings per second, time on the processor and memory, beside mosquitto's plain QoS 1, which
//! keeps nothing.
//!
//! And whether guesses at tokens take longer the nearer they come; how long a start takes with a long journal; what the
//! broker costs at scale (`scale`); how fast a week of readings goes to the hub (`drain`); and whether it keeps to its
//! memory in the long run (`soak`).
//!
//! Runs for a moment as a test, so that it does not rot. `BENCH=full cargo test --release --test bench -- --nocapture`
//! measures in earnest and prints the tables; mosquitto is measured if it is installed.

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "each test binary uses its own part of the hub")]
#[path = "../hub/mod.rs"]
mod hub;
#[allow(dead_code, reason = "each test binary uses its own part of the hub")]
#[path = "../hub/served.rs"]
mod served_hub;

mod drain;
mod guesses;
mod mosquitto;
mod scale;
mod soak;
mod start;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mosquitto::Mosquitto;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    broker::{Broker, Setup},
    client::{Client, tls_config},
    fleet::{Fleet, Payload},
    packets::Connect,
    process, tell,
    wait::SOON,
    wire::Version,
};

/// How long and how much.
struct Plan {
    warm_up: Duration,
    measured: Duration,
    publishers: &'static [usize],
    windows: &'static [usize],
    connections: usize,
}

const SMOKE: Plan = Plan {
    warm_up: Duration::from_millis(100),
    measured: Duration::from_millis(400),
    publishers: &[20],
    windows: &[10],
    connections: 20,
};

const FULL: Plan = Plan {
    warm_up: Duration::from_secs(1),
    measured: Duration::from_secs(6),
    publishers: &[1, 50, 500],
    windows: &[1, 10],
    connections: 1000,
};

/// A server to be measured.
struct Peer {
    pid: u32,
    plain: SocketAddr,
    tls: SocketAddr,
    ca_root: PathBuf,
    token: String,
}

/// What one server did under one load.
#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    cpu_us: f64,
}

/// Resident memory of one server, in KiB.
struct Memory {
    idle: u64,
    plain: u64,
    tls: u64,
}

#[test]
fn durable_readings_beside_mosquitto() {
    let _alone = alone();
    let full = full();
    let plan = if full { FULL } else { SMOKE };
    allow_many_descriptors();
    let rival = full && process::installed("mosquitto");
    if full && !rival {
        tell("mosquitto is not installed: only forebay is measured");
    }
    let mut report = String::from(
        "| publishers | in flight | forebay readings/s | CPU µs each | mosquitto messages/s | CPU µs each | rate | CPU |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for &publishers in plan.publishers {
        for &window in plan.windows {
            let (broker, device) = forebay();
            let ours = rate(&peer_of(&broker, &device), publishers, window, &plan);
            drop(broker);
            let theirs = rival.then(|| rate(&Mosquitto::start().peer(), publishers, window, &plan));
            report.push_str(&rate_line(publishers, window, ours, theirs));
        }
    }
    let ours = {
        let (broker, device) = forebay();
        memory(&peer_of(&broker, &device), plan.connections)
    };
    let theirs = rival.then(|| memory(&Mosquitto::start().peer(), plan.connections));
    report.push_str(&memory_table(&ours, theirs.as_ref(), plan.connections));
    if full {
        tell(&report);
    }
}

/// Whether to measure in earnest.
fn full() -> bool {
    asked_for("full")
}

/// Whether `BENCH` names this kind of measurement.
fn asked_for(kind: &str) -> bool {
    std::env::var("BENCH").is_ok_and(|asked| asked == kind)
}

/// Held by whoever measures: two at once would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static MEASURING: Mutex<()> = Mutex::new(());
    // A failure of one leaves nothing behind that the next could trip over.
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forebay() -> (Broker, String) {
    let broker = Setup::new().roomy(5000).limit("connections_per_device", 1000).with_tls().start();
    let device = broker.add_device("bench");
    (broker, device.token)
}

fn peer_of(broker: &Broker, token: &str) -> Peer {
    Peer {
        pid: broker.pid(),
        plain: broker.plain(),
        tls: broker.tls(),
        ca_root: broker.certificates().join("ca-root.pem"),
        token: token.to_owned(),
    }
}

fn rate(peer: &Peer, publishers: usize, window: usize, plan: &Plan) -> Rate {
    let mut fleet = Fleet::new(window, Payload::Fixed);
    for n in 0..publishers {
        fleet.add(&format!("bench-{n}"), &peer.token);
    }
    fleet.reconnect(peer.plain);
    assert!(fleet.run_until(SOON, |fleet| fleet.online() == publishers), "everybody gets in");
    fleet.run_for(plan.warm_up);
    let (started, acked, ticks) = (Instant::now(), fleet.acked(), process::cpu_ticks(peer.pid));
    fleet.run_for(plan.measured);
    let messages = (fleet.acked() - acked) as f64;
    let cpu = (process::cpu_ticks(peer.pid) - ticks) as f64 * 1e6 / process::TICKS_PER_SECOND as f64;
    assert!(messages > 0.0, "nothing was acknowledged");
    assert_eq!(fleet.online(), publishers, "nobody was lost on the way");
    Rate { per_second: messages / started.elapsed().as_secs_f64(), cpu_us: cpu / messages }
}

fn memory(peer: &Peer, connections: usize) -> Memory {
    let idle = process::resident_kib(peer.pid);
    let mut fleet = Fleet::new(1, Payload::Fixed);
    fleet.set_sending(false);
    for n in 0..connections {
        fleet.add(&format!("bench-{n}"), &peer.token);
    }
    fleet.reconnect(peer.plain);
    assert!(fleet.run_until(SOON, |fleet| fleet.online() == connections), "everybody gets in");
    let plain = process::resident_kib(peer.pid);
    drop(fleet);
    let config = tls_config(&peer.ca_root);
    let mut clients: Vec<Client> = (0..connections)
        .map(|n| {
            let mut client = Client::dial_tls(peer.tls, Arc::clone(&config), "localhost");
            let connect = Connect::new(Version::V311, format!("tls-{n}")).user(&peer.token).keep_alive_s(600);
            assert_eq!(client.ask_in(Version::V311, &connect).connack(), Some(0));
            client
        })
        .collect();
    assert!(clients[0].ping(SOON));
    Memory { idle, plain, tls: process::resident_kib(peer.pid) }
}

fn rate_line(publishers: usize, window: usize, ours: Rate, theirs: Option<Rate>) -> String {
    let beside = theirs.map_or_else(
        || "- | - | - | -".to_owned(),
        |theirs| {
            format!(
                "{:.0} | {:.1} | {:.2} | {:.2}",
                theirs.per_second,
                theirs.cpu_us,
                ours.per_second / theirs.per_second,
                ours.cpu_us / theirs.cpu_us
            )
        },
    );
    format!("| {publishers} | {window} | {:.0} | {:.1} | {beside} |\n", ours.per_second, ours.cpu_us)
}

fn memory_table(ours: &Memory, theirs: Option<&Memory>, connections: usize) -> String {
    let mut table =
        String::from("\n| resident memory, KiB | forebay | mosquitto | ratio |\n|:--|--:|--:|--:|\n");
    let names = [
        "idle".to_owned(),
        format!("{connections} plain connections"),
        format!("{connections} TLS connections"),
    ];
    let figures = |memory: &Memory| [memory.idle, memory.plain, memory.tls];
    let theirs = theirs.map(figures);
    for (row, (name, ours)) in names.iter().zip(figures(ours)).enumerate() {
        let beside = theirs.map_or_else(
            || "- | -".to_owned(),
            |theirs| format!("{} | {:.2}", theirs[row], ours as f64 / theirs[row] as f64),
        );
        table.push_str(&format!("| {name} | {ours} | {beside} |\n"));
    }
    table
}

/// A thousand connections need more than the usual 1,024 descriptors; the servers inherit the limit.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("up to the hard limit is allowed");
}
