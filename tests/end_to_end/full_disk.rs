//! A full disk and the hub: publishers are told, nothing acknowledged is lost, and what the hub takes makes room again.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Output, time::Duration};

use serde_json::Value;

use crate::{
    hub::Manners,
    served_hub::ServedHub,
    support::{
        broker::{Broker, Setup},
        client::{Client, Event},
        home::{Device, clean_command, program, stdout},
        namespace::{Kind, enter, enter_new},
        packets::Connect,
        relay::Relay,
        wait::{SOON, until, until_true},
        wire::{TELEMETRY, Version},
    },
};

use Version::{V5, V311};

/// "No room", to a publisher of version 5.
const QUOTA_EXCEEDED: u8 = 0x97;
/// Long enough for a few attempts to reach the hub, with the waits between them.
const AFTER_TROUBLE: Duration = Duration::from_secs(90);
/// Far more messages than the disk has room for.
const FAR_TOO_MANY: u64 = 50_000;

/// A gateway whose data directory is a file system of 4 MiB, led to a hub that is not there yet.
struct Gateway {
    broker: Broker,
    pump: Device,
    hub: ServedHub,
    relay: Relay,
}

impl Gateway {
    /// `None`, loudly, where nothing can be mounted.
    fn new(policy: &str) -> Option<Self> {
        let setup = Setup::new().limit("refusals_per_address", 100_000).hurried();
        let home = setup.home().path().to_owned();
        let data = setup.home().data_dir();
        fs::create_dir(&data).expect("the mount point");
        let mount = format!("mount -t tmpfs -o size=4m,mode=0700 tmpfs '{}'", data.display());
        let wrapper = enter_new(Kind::Mount, &mount)?;
        let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();

        let (hub, relay) = (ServedHub::start(Manners::good()), Relay::start());
        fs::write(home.join("token"), "TOKEN").expect("written");
        fs::set_permissions(home.join("token"), fs::Permissions::from_mode(0o600)).expect("ours");
        let uplink = format!(
            "[uplink]\nurl = 'mqtt://{}'\ntoken_file = 'token'\nwait_for_clock_s = 0",
            relay.address()
        );
        let setup = setup.setting(&format!("storage.policy = '{policy}'")).setting(&uplink);
        let broker = setup.under(&words).start();
        let token = stdout(&inside(&broker, &["device", "add", "pump"])).trim_end().to_owned();
        Some(Self { broker, pump: Device { name: "pump".to_owned(), token }, hub, relay })
    }

    /// Publishes readings one by one, `first` and those after it, until one is not acknowledged; gives back how many
    /// were, and what came instead of the PUBACK.
    fn fill(&self, version: Version, first: u64) -> (u64, Event) {
        let mut client = self.broker.online(version, &self.pump, "meter");
        for n in first..first + FAR_TOO_MANY {
            client.publish_only(TELEMETRY, reading(n));
            match client.next(SOON) {
                Event::Packet(reply) if reply.puback().is_some_and(|(_, code)| code == 0) => {}
                other => return (n - first, other),
            }
        }
        panic!("a full disk must show at some time");
    }

    fn status(&self) -> (Option<i32>, Value) {
        let output = inside(&self.broker, &["status", "--json"]);
        (output.status.code(), serde_json::from_slice(&output.stdout).expect("a document"))
    }

    /// The numbers that are at the hub, in order, each once.
    fn numbers_at_hub(&self) -> Vec<u64> {
        let hub = self.hub.lock();
        assert_eq!(hub.complaints, [""; 0]);
        let numbers: Vec<u64> = hub.arrivals.iter().map(|arrival| number(&arrival.values)).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "in order, each once");
        numbers
    }

    fn wait_until_drained(&self) {
        until_true("the gateway knows that the hub has everything", AFTER_TROUBLE, || {
            let uplink = &self.status().1["uplink"];
            uplink["connected"] == true && uplink["backlog"] == 0
        });
    }
}

fn reading(n: u64) -> String {
    format!(r#"{{"n":{n},"wide":"{}"}}"#, "x".repeat(200))
}

fn number(values: &str) -> u64 {
    let values: Value = serde_json::from_str(values).expect("JSON");
    values["n"].as_u64().expect("a number")
}

/// Runs a subcommand among the mounts of the broker.
pub fn inside(broker: &Broker, arguments: &[&str]) -> Output {
    let words = enter(Kind::Mount, broker.pid());
    let mut command = clean_command(&words[0]);
    command.args(&words[1..]).arg(program()).args(arguments).arg("--data-dir").arg(broker.data_dir());
    command.output().expect("nsenter starts")
}

/// A file beside the journal, seen from outside.
fn on_its_disk(broker: &Broker, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}/{name}", broker.pid(), broker.data_dir().display()))
}

#[test]
fn a_disk_that_is_full_of_readings_is_emptied_by_the_hub_and_takes_new_ones_by_itself() {
    let Some(mut gateway) = Gateway::new("refuse-new") else { return };
    let (stored, answer) = gateway.fill(V5, 0);
    let Event::Packet(answer) = answer else { panic!("version 5 is told, not {answer:?}") };
    assert_eq!(answer.puback().map(|(_, code)| code), Some(QUOTA_EXCEEDED));
    let mut old = gateway.broker.online(V311, &gateway.pump, "old meter");
    old.publish_only(TELEMETRY, reading(stored));
    assert_eq!(old.until_closed(SOON), [], "3.1.1 has no word for it");
    let (code, report) = gateway.status();
    assert_eq!((code, &report["store"]["full"]), (Some(3), &true.into()), "{report}");
    assert_eq!(report["uplink"]["backlog"], stored, "{report}");
    assert!(stored > 1000, "{stored} readings in 4 MiB");

    gateway.relay.lead_to(gateway.hub.address());
    gateway.wait_until_drained();
    assert!(gateway.numbers_at_hub().into_iter().eq(0..stored), "what was acknowledged, and nothing else");
    let mut client = until("readings are taken again", SOON, || taken(&gateway, stored));
    for n in stored + 1..stored + 500 {
        client.telemetry(&reading(n));
    }
    gateway.wait_until_drained();
    assert!(gateway.numbers_at_hub().into_iter().eq(0..stored + 500));
    until_true("all is well again", SOON, || gateway.status().0 == Some(0));
    assert!(gateway.broker.exit_status().is_none(), "without a restart");
    gateway.broker.stop();
}

/// A client that has published the reading, if it is taken now.
fn taken(gateway: &Gateway, n: u64) -> Option<Client> {
    let mut client = Client::dial(gateway.broker.plain());
    if client.ask_in(V5, &Connect::new(V5, "meter").user(&gateway.pump.token)).connack() != Some(0) {
        return None;
    }
    (client.publish(TELEMETRY, reading(n)) == 0).then_some(client)
}

#[test]
fn a_disk_filled_by_others_holds_up_readings_until_they_make_room_and_loses_none() {
    let Some(mut gateway) = Gateway::new("refuse-new") else { return };
    let mut client = gateway.broker.online(V5, &gateway.pump, "meter");
    client.telemetry(&reading(0));
    let ballast = on_its_disk(&gateway.broker, "ballast");
    until_true("space is put by", SOON, || ballast.exists());
    let filler = on_its_disk(&gateway.broker, "filler");
    assert!(fs::write(&filler, vec![0u8; 8 << 20]).is_err(), "more than fits does not fit");
    let (more, answer) = gateway.fill(V5, 1);
    let Event::Packet(answer) = answer else { panic!("version 5 is told, not {answer:?}") };
    assert_eq!(answer.puback().map(|(_, code)| code), Some(QUOTA_EXCEEDED), "{answer:?}");
    assert!(!ballast.exists(), "it was given up, so that what waits can be sent on");
    gateway.relay.lead_to(gateway.hub.address());
    until_true("what was stored goes on", AFTER_TROUBLE, || gateway.hub.lock().arrivals.len() as u64 > more);

    fs::remove_file(&filler).expect("it was written");
    until("space is found again", Duration::from_secs(20), || taken(&gateway, more + 1));
    gateway.wait_until_drained();
    let arrived = gateway.numbers_at_hub();
    assert!(arrived.iter().copied().eq(0..=more + 1), "{} of {}", arrived.len(), more + 2);
    // A second time everything goes as it went the first.
    until_true("space is put by again", Duration::from_secs(20), || ballast.exists());
    assert!(fs::write(&filler, vec![0u8; 8 << 20]).is_err(), "more than fits does not fit");
    gateway.fill(V5, more + 2);
    assert!(!ballast.exists(), "it was given up once more");
    gateway.broker.stop();
}

#[test]
fn of_readings_that_made_room_for_newer_ones_each_is_counted_and_the_hub_gets_the_others() {
    let Some(mut gateway) = Gateway::new("drop-oldest") else { return };
    let mut client = gateway.broker.online(V5, &gateway.pump, "meter");
    let published = 12_000;
    for n in 0..published {
        client.telemetry(&reading(n));
    }
    gateway.relay.lead_to(gateway.hub.address());
    gateway.wait_until_drained();
    let (_, report) = gateway.status();
    let dropped: u64 =
        report["dropped"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
    let arrived = gateway.numbers_at_hub();
    assert!(dropped > 1000, "12,000 readings do not fit: {dropped} dropped");
    assert!(
        arrived.iter().copied().eq(dropped..published),
        "the oldest go: {dropped} dropped, {} arrived",
        arrived.len()
    );
    gateway.broker.stop();
}
