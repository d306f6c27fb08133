//! A gateway whose clock is wrong when readings come, and is set right later: at the hub they have their right times.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    hub::Manners,
    served_hub::ServedHub,
    support::{
        broker::{Broker, Setup},
        home::Device,
        namespace::{Kind, enter_new, skip},
        wait::{SOON, until_true},
        wire::Version::V5,
    },
};

/// The broker looks at a clock that is not set every half a minute.
const CLOCK_IS_SEEN: Duration = Duration::from_secs(45);
/// A week: as long as readings may be told to wait for the clock after boot.
const WAIT_FOR_CLOCK_S: u64 = 604_800;
/// What a device with a clock of its own says.
const OF_ITS_OWN: i64 = 1_700_000_000_123;
/// How far a time may be off, on a busy machine.
const OFF_MS: i64 = 2000;

/// A gateway that shows the time by a clock of ours.
struct Gateway {
    broker: Broker,
    clock: PathBuf,
    pump: Device,
}

impl Gateway {
    /// With a clock that is `seconds` off, which nobody has set. `None`, loudly, where that cannot be done.
    fn with_clock_off_by(seconds: i64, hub: &ServedHub) -> Option<Self> {
        let uptime = fs::read_to_string("/proc/uptime").expect("the kernel tells");
        let uptime_s: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("seconds");
        if uptime_s > (WAIT_FOR_CLOCK_S - 600) as f64 {
            skip("this machine runs for so long that readings do not wait for the clock any more");
            return None;
        }
        let setup = Setup::new();
        let clock = setup.home().path().join("clock");
        fs::write(&clock, format!("{seconds} 0")).expect("written");
        let token = setup.home().path().join("token");
        let setup = setup.setting(&format!(
            "[uplink]\nurl = '{}'\ntoken_file = 'token'\nwait_for_clock_s = {WAIT_FOR_CLOCK_S}",
            hub.url()
        ));
        fs::write(&token, "TOKEN").expect("written");
        fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
        let setup = setup.env("LD_PRELOAD", library()).env("WALL_CLOCK", &clock);
        let setup = if Path::new("/run/systemd/timesync").exists() {
            // What it says of this machine's clock is not to be heard.
            let words = enter_new(Kind::Mount, "mount -t tmpfs tmpfs /run/systemd/timesync")?;
            setup.under(&words.iter().map(String::as_str).collect::<Vec<_>>())
        } else {
            setup
        };
        let broker = setup.start();
        let pump = broker.add_device("pump");
        let gateway = Self { broker, clock, pump };
        assert_eq!(gateway.status()["clock"]["synchronised"], false, "the clock in its place is heard");
        Some(gateway)
    }

    /// Somebody sets the clock: it is right from now on.
    fn set_clock(&self) {
        let next = self.clock.with_extension("next");
        fs::write(&next, "0 1").expect("written");
        fs::rename(next, &self.clock).expect("the same directory");
    }

    /// Publishes a reading without a time, and gives back the true one.
    fn publish(&self, n: u64) -> i64 {
        let mut client = self.broker.online(V5, &self.pump, "meter");
        client.telemetry(&format!(r#"{{"n":{n}}}"#));
        true_time()
    }

    fn publish_with_own_time(&self, n: u64) {
        let mut client = self.broker.online(V5, &self.pump, "meter");
        client.telemetry(&format!(r#"{{"ts":{OF_ITS_OWN},"values":{{"n":{n}}}}}"#));
    }

    fn status(&self) -> Value {
        let output = self.broker.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).expect("a document")
    }

    fn waits_for_clock(&self) -> bool {
        self.status()["uplink"]["state"] == "waiting for the clock to be set"
    }
}

/// What puts the other clock in its place, compiled once.
fn library() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let made = LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wall_clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/wall_clock.c");
        let status =
            Command::new("cc").args(["-Wall", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(status.expect("cc is installed").success(), "{source} does not compile");
        library
    });
    made.clone()
}

fn true_time() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_millis().try_into().expect("before the year 292278994")
}

/// What the hub has: numbers and times, in the order they came.
fn arrivals(hub: &ServedHub) -> Vec<(u64, i64)> {
    let hub = hub.lock();
    assert_eq!(hub.complaints, [""; 0]);
    let number = |values: &str| serde_json::from_str::<Value>(values).expect("JSON")["n"].as_u64();
    hub.arrivals.iter().map(|arrival| (number(&arrival.values).expect("n"), arrival.ts)).collect()
}

fn assert_right(arrived: &[(u64, i64)], truth: &[(u64, i64)]) {
    let numbers = |list: &[(u64, i64)]| list.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    assert_eq!(numbers(arrived), numbers(truth), "each once and in order");
    for ((n, is), (_, should)) in arrived.iter().zip(truth) {
        let off = is.abs_diff(*should);
        assert!(off <= OFF_MS.unsigned_abs(), "reading {n} is off by {off} ms");
        assert!(*should != OF_ITS_OWN || is == should, "a device's own time is kept to the millisecond");
    }
}

#[test]
fn readings_taken_in_1970_have_their_right_times_at_the_hub_once_the_clock_is_set() {
    let hub = ServedHub::start(Manners::good());
    let seconds = 100 - true_time() / 1000;
    let Some(mut gateway) = Gateway::with_clock_off_by(seconds, &hub) else { return };
    let mut truth: Vec<(u64, i64)> = (0..5).map(|n| (n, gateway.publish(n))).collect();
    gateway.publish_with_own_time(5);
    truth.push((5, OF_ITS_OWN));
    // A crash does not make anybody forget when that was.
    gateway.broker.kill9();
    gateway.broker.restart();
    truth.push((6, gateway.publish(6)));
    until_true("readings wait for the clock", SOON, || gateway.waits_for_clock());
    assert_eq!(arrivals(&hub), []);
    let local: Vec<i64> = gateway.broker.telemetry().iter().map(|row| row.ts).collect();
    assert!(local[0] < 1_000_000, "until then the gateway itself knows no better: {local:?}");

    gateway.set_clock();
    until_true("the readings are at the hub", CLOCK_IS_SEEN, || hub.lock().arrivals.len() >= truth.len());
    truth.push((7, gateway.publish(7)));
    until_true("so is the next", SOON, || hub.lock().arrivals.len() >= truth.len());
    assert_right(&arrivals(&hub), &truth);
    let local = gateway.broker.telemetry();
    let local: Vec<(u64, i64)> = (0..).zip(local.iter().map(|row| row.ts)).collect();
    assert_right(&local, &truth);
}

#[test]
fn a_clock_that_was_a_year_behind_or_ahead_shows_in_no_time_at_the_hub() {
    let year = 365 * 24 * 3600;
    let hubs = [(); 2].map(|()| ServedHub::start(Manners::good()));
    let mut sites = Vec::new();
    for (seconds, hub) in [-year, year].into_iter().zip(&hubs) {
        let Some(gateway) = Gateway::with_clock_off_by(seconds, hub) else { return };
        let mut truth = vec![(0, gateway.publish(0))];
        gateway.publish_with_own_time(1);
        truth.extend([(1, OF_ITS_OWN), (2, gateway.publish(2))]);
        until_true("readings wait for the clock", SOON, || gateway.waits_for_clock());
        sites.push((hub, gateway, truth));
    }
    for (_, gateway, _) in &sites {
        gateway.set_clock();
    }
    for (hub, _, truth) in &sites {
        until_true("the readings are at the hub", CLOCK_IS_SEEN, || hub.lock().arrivals.len() >= truth.len());
        assert_right(&arrivals(hub), truth);
    }
}
