//! A hub with quirks at the other end, in gateway mode: whatever it does, every reading arrives, each device's in order,
//! and the gateway knows it in the end.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    ops::Range,
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    hub::{HubRate, Manners, TooMuch, Version5},
    served_hub::ServedHub,
    support::{
        broker::{Broker, Setup},
        home::{Device, stdout},
        process,
        wait::{SOON, until, until_true},
        wire::Version::V5,
    },
    uplink::set_uplink,
};

/// Long enough for a few attempts that fail, with the waits between them.
const AFTER_TROUBLE: Duration = Duration::from_secs(240);

/// The gateway, its devices, and the hub it is led to.
struct Site {
    hub: ServedHub,
    edge: Broker,
    devices: Vec<Device>,
    /// Readings of each device.
    published: u64,
}

impl Site {
    fn new(manners: Manners) -> Self {
        let edge = Setup::new().start();
        let devices = ["pump", "fan", "roof"].map(|name| edge.add_device(name)).into();
        Self { hub: ServedHub::start(manners), edge, devices, published: 0 }
    }

    fn lead_to_hub(&self) {
        self.lead_to_hub_with("TOKEN");
    }

    fn lead_to_hub_with(&self, token: &str) {
        set_uplink(&self.edge, &self.hub.url(), token, &[]);
    }

    /// Each device publishes so many readings more, each with a number and a time of its own.
    fn publish(&mut self, count: u64) {
        let numbers = self.published..self.published + count;
        for device in &self.devices {
            publish(&self.edge, device, numbers.clone());
        }
        self.published += count;
    }

    /// The gateway knows that the hub has everything, and nobody needs to do anything.
    fn wait_until_drained(&self) {
        // Looked at first because it is cheap; it does not yet mean that the gateway knows.
        let all = self.devices.len() * self.published as usize;
        until_true("the hub has everything", AFTER_TROUBLE, || self.hub.lock().arrivals.len() >= all);
        until_true("the gateway knows of everything that it arrived", AFTER_TROUBLE, || {
            let uplink = &self.status().1["uplink"];
            (&uplink["backlog"], &uplink["in_flight"]) == (&0.into(), &0.into())
        });
        assert_eq!(self.status().0, 0, "{}", self.status().1);
    }

    /// What `forebay status` says, and its exit code.
    fn status(&self) -> (i32, Value) {
        let output = self.edge.run(&["status", "--json"]);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stdout(&output)));
        (output.status.code().expect("an exit code"), report)
    }

    /// Nothing is lost, each device's readings arrived in order with the times they were given, and the gateway has done
    /// nothing a client may not do; gives back how many arrived more than once.
    fn check_arrivals(&self) -> usize {
        let hub = self.hub.lock();
        assert_eq!(hub.complaints, [""; 0]);
        let mut seen = BTreeSet::new();
        let mut repeats = 0;
        for device in &self.devices {
            let mut first_arrivals = Vec::new();
            for arrival in hub.arrivals.iter().filter(|arrival| arrival.device == device.name) {
                let values: Value = serde_json::from_str(&arrival.values).expect("JSON");
                let number = values["n"].as_u64().expect("a number");
                assert_eq!(arrival.ts, time(number));
                match seen.insert((&device.name, number)) {
                    true => first_arrivals.push(number),
                    false => repeats += 1,
                }
            }
            assert!(
                first_arrivals.iter().copied().eq(0..self.published),
                "{}: {first_arrivals:?}",
                device.name
            );
        }
        repeats
    }
}

fn publish(edge: &Broker, device: &Device, numbers: Range<u64>) {
    let mut client = edge.online(V5, device, "meter");
    for n in numbers {
        client.telemetry(&format!(r#"{{"ts":{},"values":{{"n":{n}}}}}"#, time(n)));
    }
}

fn time(number: u64) -> i64 {
    1_700_000_000_000 + number as i64
}

#[test]
fn a_hub_that_closes_without_an_answer_when_there_is_too_much_gets_everything_and_no_reading_is_blamed() {
    arrives_at_a_hub_that_closes_on_its_rates(Version5::Spoken);
}

#[test]
fn a_hub_that_closes_without_a_word_in_3_1_1_when_there_is_too_much_gets_everything_as_well() {
    arrives_at_a_hub_that_closes_on_its_rates(Version5::ClosesWithoutAWord);
}

fn arrives_at_a_hub_that_closes_on_its_rates(version_5: Version5) {
    let rates = vec![HubRate { messages: true, count: 2, period: Duration::from_secs(1) }];
    let manners =
        Manners { rates, tells_limits: false, too_much: TooMuch::Closes, version_5, ..Manners::good() };
    let mut site = Site::new(manners);
    site.publish(40);
    site.lead_to_hub();
    until_true("the hub has closed on us", AFTER_TROUBLE, || site.hub.lock().refusals > 0);
    site.wait_until_drained();
    site.check_arrivals();
    assert_eq!(site.edge.must(&["quarantine", "list"]), "");
}

#[test]
fn rates_the_hub_tells_are_kept_so_that_it_never_closes() {
    let rates = vec![
        HubRate { messages: true, count: 10, period: Duration::from_secs(1) },
        HubRate { messages: false, count: 100, period: Duration::from_secs(1) },
    ];
    let mut site = Site::new(Manners { rates, ..Manners::good() });
    site.publish(100);
    site.lead_to_hub();
    site.wait_until_drained();
    assert_eq!((site.check_arrivals(), site.hub.lock().refusals), (0, 0));
}

#[test]
fn a_reading_the_hub_does_not_take_is_set_aside_alone_and_the_rest_arrives() {
    let mut site = Site::new(Manners::good());
    site.publish(60);
    let mut client = site.edge.online(V5, &site.devices[0], "meter");
    client.telemetry(r#"{"ts":1700000000999,"values":{"poison":1}}"#);
    drop(client);
    site.publish(60);
    site.lead_to_hub();
    site.wait_until_drained();
    site.check_arrivals();
    let list = until("the reading is in quarantine", SOON, || {
        Some(site.edge.must(&["quarantine", "list"])).filter(|list| !list.is_empty())
    });
    assert_eq!(list.lines().count(), 2, "a heading, and the one reading: {list}");
    assert!(list.contains("pump") && list.contains("payload format invalid (0x99)"), "{list}");
    let name = list.lines().nth(1).and_then(|line| line.split(' ').next()).expect("it has a name");
    let shown = site.edge.must(&["quarantine", "show", name, "--json"]);
    assert!(shown.contains(r#""payload":"{\"poison\":1}""#), "{shown}");
    assert_eq!(site.status().1["uplink"]["rejected"], 1);
}

#[test]
fn a_hub_that_acknowledges_everything_twice_settles_nothing_else() {
    let mut site = Site::new(Manners { acks_doubled: 100, ..Manners::good() });
    site.publish(150);
    site.lead_to_hub();
    site.publish(150);
    site.wait_until_drained();
    assert_eq!(site.check_arrivals(), 0);
}

#[test]
fn a_hub_that_does_not_acknowledge_is_given_up_told_of_and_tried_again_and_nothing_is_lost() {
    let mut site = Site::new(Manners { acknowledges: false, ..Manners::good() });
    site.publish(20);
    site.lead_to_hub();
    until_true("the connection is given up", AFTER_TROUBLE, || {
        site.edge.log_lines_with("the hub does not acknowledge what it is sent") > 0
    });
    let report = site.status().1;
    assert_eq!((&report["uplink"]["uploaded"], &report["uplink"]["backlog"]), (&0.into(), &60.into()));
    site.hub.lock().manners.acknowledges = true;
    site.wait_until_drained();
    assert!(site.check_arrivals() > 0, "the hub had them before");
    assert!(site.hub.lock().connects.len() > 1);
}

#[test]
fn a_hub_without_mqtt_5_is_spoken_to_in_3_1_1() {
    for version_5 in [Version5::ClosesWithoutAWord, Version5::RefusedInOldForm] {
        let mut site = Site::new(Manners { version_5, ..Manners::good() });
        site.publish(50);
        site.lead_to_hub();
        site.publish(50);
        site.wait_until_drained();
        assert_eq!(site.check_arrivals(), 0, "{version_5:?}");
        let connects = site.hub.lock().connects.clone();
        assert_eq!(*connects.last().expect("it was let in"), forebay::mqtt::ProtocolVersion::V311);
    }
}

#[test]
fn a_token_the_hub_refuses_is_an_alarm_in_the_status_and_readings_wait_for_the_right_one() {
    let mut site = Site::new(Manners { token: "NEW-TOKEN".to_owned(), ..Manners::good() });
    site.publish(20);
    site.lead_to_hub_with("OLD-TOKEN");
    let report = until("the status tells of it", SOON, || {
        let (code, report) = site.status();
        (code == 3).then_some(report)
    });
    let alarm = report["uplink"]["alarm"].as_str().expect("people must act");
    assert!(alarm.contains("does not accept our access token"), "{alarm}");
    assert_eq!((&report["well"], &report["uplink"]["backlog"]), (&false.into(), &60.into()));
    let shown = site.edge.run(&["status"]);
    assert_eq!(shown.status.code(), Some(3));
    assert!(stdout(&shown).contains("does not accept our access token"), "{}", stdout(&shown));
    site.publish(20);
    assert_eq!(site.hub.lock().connects.len(), 1, "a refusal is not hammered at");

    site.lead_to_hub_with("NEW-TOKEN");
    site.wait_until_drained();
    assert_eq!(site.check_arrivals(), 0);
}

#[test]
fn a_hub_that_knows_the_token_only_later_is_asked_again_at_once_on_sighup_and_when_it_is_set_again() {
    for again in ["SIGHUP", "uplink set"] {
        let mut site = Site::new(Manners { token: "ANOTHER".to_owned(), ..Manners::good() });
        site.publish(20);
        site.lead_to_hub();
        until_true("the status tells of it", SOON, || site.status().0 == 3);
        site.hub.lock().manners.token = "TOKEN".to_owned();
        match again {
            "SIGHUP" => process::signal(site.edge.pid(), Signal::HUP),
            _ => site.lead_to_hub(),
        }
        until_true("nobody waits for five minutes", SOON, || site.hub.lock().connects.len() > 1);
        site.wait_until_drained();
        assert_eq!(site.check_arrivals(), 0, "{again}");
    }
}

#[test]
fn devices_that_go_as_themselves_are_asked_for_again_at_once_as_well() {
    for again in ["SIGHUP", "uplink set"] {
        let device = Some("pump".to_owned());
        let hub = ServedHub::start(Manners { token: "LATER".to_owned(), device, ..Manners::good() });
        let edge = Broker::start();
        let set = || edge.must(&["uplink", "set", &hub.url(), "--devices"]);
        set();
        edge.must_with_input(&["device", "add", "pump", "--token", "-"], "OF-THE-PUMP");
        until_true("the hub refuses it", SOON, || {
            edge.log_lines_with("does not accept our access token") > 0
        });
        hub.lock().manners.token = "OF-THE-PUMP".to_owned();
        let before = hub.lock().connects.len();
        match again {
            "SIGHUP" => process::signal(edge.pid(), Signal::HUP),
            _ => drop(set()),
        }
        // It would have waited for twelve seconds at least.
        until_true("nobody waits", SOON, || hub.lock().connects.len() > before);
    }
}

#[test]
fn a_token_file_that_comes_late_and_one_that_changes_need_no_signal() {
    let hub = ServedHub::start(Manners::good());
    let setup = Setup::new();
    let file = setup.home().path().join("token");
    let setting = format!("[uplink]\nurl = \"{}\"\ntoken_file = \"token\"\n", hub.url());
    let edge = setup.setting(&setting).start();
    assert_eq!(edge.log_lines_with("cannot read"), 1, "{}", edge.log());
    let write = |token: &str| {
        // In one step, as who renews a secret does it.
        let beside = file.with_extension("new");
        fs::write(&beside, token).expect("written");
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).expect("private");
        fs::rename(&beside, &file).expect("renamed");
    };
    write("WRONG");
    until_true("it is found", SOON, || edge.log_lines_with("does not accept our access token") > 0);
    write("TOKEN");
    until_true("the new one is taken over", SOON, || edge.log_lines_with("has let us in") > 0);
}

#[test]
fn readings_that_came_while_the_gateway_was_busy_are_as_many_values_at_the_hub() {
    let hub = ServedHub::start(Manners::good());
    let setup = Setup::new();
    let token = setup.home().path().join("token");
    fs::write(&token, "TOKEN").expect("written");
    fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("ours");
    let uplink = format!("[uplink]\nurl = '{}'\ntoken_file = 'token'\nwait_for_clock_s = 0", hub.url());
    let edge = setup.setting(&uplink).start();
    let device = edge.add_device("pump");
    let mut client = edge.online(V5, &device, "meter");
    process::signal(edge.pid(), Signal::STOP);
    for n in 0..20 {
        client.publish_only("v1/devices/me/telemetry", format!(r#"{{"n":{n}}}"#));
    }
    process::signal(edge.pid(), Signal::CONT);
    for _ in 0..20 {
        client.packet();
    }
    until_true("the hub has everything", SOON, || hub.lock().arrivals.len() >= 20);
    assert!(hub.lock().kept().into_values().eq((0..20).map(Value::from)));
}

#[test]
fn what_the_hub_has_stays_for_local_queries_as_long_as_there_is_room() {
    const MAX_BYTES: u64 = 16 << 20;
    let edge = Setup::new()
        .setting("storage.keep_uploaded = true")
        .setting(&format!("storage.max_bytes = {MAX_BYTES}"))
        .start();
    let devices = vec![edge.add_device("pump")];
    let mut site = Site { hub: ServedHub::start(Manners::good()), edge, devices, published: 0 };
    site.lead_to_hub();
    site.publish(1000);
    site.wait_until_drained();
    let values = |n: u64, wide: &str| format!(r#"{{"n":{n},"wide":"{wide}"}}"#);
    assert_eq!(site.edge.stored_values("pump").len(), 1000, "all of them");

    // Half as much again as there is room for.
    let wide = "x".repeat(30_000);
    let mut client = site.edge.online(V5, &site.devices[0], "meter");
    for n in 1000..1800 {
        client.telemetry(&format!(r#"{{"ts":{},"values":{}}}"#, time(n), values(n, &wide)));
        site.published = n + 1;
        if site.published.is_multiple_of(50) {
            // What the hub does not have may fill half of the room; more of it would be dropped.
            site.wait_until_drained();
        }
    }
    assert_eq!(site.check_arrivals(), 0, "each once");
    let bytes = || -> u64 {
        let files = fs::read_dir(site.edge.data_dir()).expect("there");
        files.map(|file| file.expect("an entry").metadata().map_or(0, |found| found.len())).sum()
    };
    until_true("the budget holds", SOON, || bytes() <= MAX_BYTES);
    let left = site.edge.stored_values("pump");
    assert!((100..800).contains(&left.len()), "the newest have stayed: {}", left.len());
    assert_eq!(left.last(), Some(&values(1799, &wide)));
    let (_, report) = site.status();
    let dropped = report["dropped"].as_object().expect("reasons").values().filter_map(Value::as_u64);
    assert_eq!(dropped.sum::<u64>(), 0, "the hub has them: {report}");
}
