//! Everybody comes back at once: after a SIGKILL in the middle of their readings, from one address, with the rates of a
//! fresh installation. Nobody is locked out, and nothing that was acknowledged is missing.

use std::time::{Duration, Instant};

use crate::{
    allow_many_descriptors, alone, asked_for,
    support::{
        broker::{Broker, Setup},
        fleet::{Fleet, Payload},
        process, tell,
    },
};

/// How many, how long they are busy before, and how soon all must be back.
struct Plan {
    clients: usize,
    busy: Duration,
    within: Duration,
}

const SMOKE: Plan = Plan { clients: 200, busy: Duration::from_millis(300), within: Duration::from_secs(60) };
/// By default one address may make a hundred connections a second, a thousand at once.
const FULL: Plan = Plan { clients: 10_000, busy: Duration::from_secs(5), within: Duration::from_secs(300) };

/// Clients of one device.
const CLIENTS_EACH: usize = 100;
/// Messages under way from each client.
const WINDOW: usize = 2;
/// How soon a client tries again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[test]
fn all_come_back_at_once_after_a_kill_and_nothing_acknowledged_is_missing() {
    let _alone = alone();
    let earnest = asked_for("scale");
    let plan = if earnest { FULL } else { SMOKE };
    allow_many_descriptors();
    let room = plan.clients as u32 + 100;
    let setup = Setup::new()
        .limit("connections", room)
        .limit("connections_per_address", room)
        .limit("connections_per_device", CLIENTS_EACH as u32);
    let mut fleet = Fleet::new(WINDOW, Payload::Numbered);
    for device in 0..plan.clients.div_ceil(CLIENTS_EACH) {
        let token = setup.home().add_device(&format!("device-{device}")).token;
        for client in 0..CLIENTS_EACH {
            fleet.add(&format!("client-{client}"), &token);
        }
    }
    let mut broker = setup.start();
    fleet.set_sending(false);
    let coming = bring_online(&mut fleet, &broker, &plan);
    fleet.set_sending(true);
    fleet.run_for(plan.busy);
    let descriptors = process::descriptors(broker.pid());
    broker.kill9();
    fleet.run_until(TRY_AGAIN, |fleet| fleet.connected() == 0);
    let (acked, in_flight) = (fleet.acked(), fleet.in_flight());
    assert!(acked > 0 && in_flight > 0, "it was in the middle of something");

    broker.restart();
    fleet.set_sending(false);
    let back = bring_online(&mut fleet, &broker, &plan);
    assert!(fleet.run_until(plan.within, |fleet| fleet.in_flight() == 0), "what was under way is taken");
    let sent: u64 = fleet.publishers().iter().map(|publisher| publisher.sent).sum();
    let repeats: u64 = fleet.publishers().iter().map(|publisher| publisher.repeats).sum();
    let stored = u64::try_from(broker.count("SELECT count(*) FROM journal")).expect("a count");
    assert!((sent..=sent + repeats).contains(&stored), "{stored} readings are stored, {sent} were sent");
    assert_eq!(distinct(&broker), sent_numbers(&fleet), "each number of each device is there");
    assert!(process::descriptors(broker.pid()) <= descriptors + 10);
    if earnest {
        tell(&format!(
            "{} clients: in {coming:.1?} at first, back in {back:.1?} after a kill; {acked} readings acknowledged before \
             it, {in_flight} under way, {} stored twice; {} KiB resident",
            plan.clients,
            stored - sent,
            process::resident_kib(broker.pid())
        ));
    }
}

/// How long it took until all were let in.
fn bring_online(fleet: &mut Fleet, broker: &Broker, plan: &Plan) -> Duration {
    let (started, everybody) = (Instant::now(), fleet.publishers().len());
    while fleet.online() < everybody {
        assert!(started.elapsed() < plan.within, "{} of {everybody} are let in", fleet.online());
        fleet.reconnect(broker.plain());
        fleet.run_until(TRY_AGAIN, |fleet| fleet.online() == everybody);
    }
    started.elapsed()
}

/// How many different readings there are, over all devices.
fn distinct(broker: &Broker) -> u64 {
    let query = "SELECT count(*) FROM (SELECT DISTINCT device, payload FROM journal)";
    u64::try_from(broker.count(query)).expect("a count")
}

/// The same, as it must be: the clients of a device count alike, so the one that came furthest says how far.
fn sent_numbers(fleet: &Fleet) -> u64 {
    let devices = fleet.publishers().chunks(CLIENTS_EACH);
    devices.filter_map(|clients| clients.iter().map(|client| client.sent).max()).sum()
}
