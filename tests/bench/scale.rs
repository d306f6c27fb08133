//! What many connections, subscriptions and retained messages cost: memory each, and that a message pays nothing for the
//! subscriptions of others.
//!
//! Runs for a moment as a test; `BENCH=scale tests/run` measures in earnest, beside mosquitto if it is installed.

mod storm;

use std::{fmt::Write as _, io::Read, net::SocketAddr};

use crate::{
    Peer, allow_many_descriptors, alone, asked_for,
    mosquitto::Mosquitto,
    support::{
        broker::{Broker, Setup},
        client::{Client, Event},
        packets::Connect,
        process, tell,
        wait::SOON,
        wire::{Version, publish, subscribe},
    },
};

/// How much of everything.
struct Plan {
    connections: usize,
    filters_each: usize,
    /// Subscriptions, or retained messages, that count as few.
    few: usize,
    retained: usize,
    messages: usize,
    subscribes: usize,
    /// Of so many measurements the best counts: something else had the processor.
    rounds: usize,
}

const SMOKE: Plan = Plan {
    connections: 40,
    filters_each: 5,
    few: 10,
    retained: 30,
    messages: 1000,
    subscribes: 100,
    rounds: 1,
};

const FULL: Plan = Plan {
    connections: 10_000,
    filters_each: 10,
    few: 10,
    retained: 999,
    messages: 200_000,
    subscribes: 50_000,
    rounds: 3,
};

/// Messages, or packets, sent before the answers are read.
const BLOCK: usize = 100;
/// What a message among many unrelated subscriptions may cost beside one among few.
const COST_RATIO_MAX: f64 = 1.5;
/// Filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 10;
const TOPIC: &str = "hall/lamp";
/// The property of a CONNACK that says whether messages are retained.
const RETAIN_AVAILABLE: u8 = 0x25;

/// What was measured of one server: KiB, and microseconds on the processor.
struct Scale {
    idle: u64,
    connected: u64,
    subscribed: u64,
    publish: Costs,
    /// None if it retains nothing.
    retained: Option<Costs>,
}

#[derive(Clone, Copy)]
struct Costs {
    few: f64,
    many: f64,
}

#[test]
fn what_others_subscribe_to_and_retain_costs_a_message_nothing() {
    let _alone = alone();
    let earnest = asked_for("scale");
    let plan = if earnest { FULL } else { SMOKE };
    allow_many_descriptors();
    let (broker, peer) = forebay(&plan);
    let ours = measure(&peer, &plan);
    drop(broker);
    if !earnest {
        return;
    }
    let theirs = if process::installed("mosquitto") {
        Some(measure(&Mosquitto::start().peer(), &plan))
    } else {
        tell("mosquitto is not installed: only forebay is measured");
        None
    };
    tell(&table(&plan, &ours, theirs.as_ref()));
    for (what, costs) in [("publish", Some(ours.publish)), ("retained", ours.retained)] {
        let Some(costs) = costs else { continue };
        let ratio = costs.many / costs.few;
        assert!(ratio <= COST_RATIO_MAX, "{what}: many cost {ratio:.2} times as much as few");
    }
}

fn forebay(plan: &Plan) -> (Broker, Peer) {
    // A few more: the publisher, the subscriber, and those just closed.
    let setup = Setup::new().roomy(plan.connections as u32 + 100);
    let token = setup.home().add_client("bench");
    let broker = setup.start();
    let peer = Peer {
        pid: broker.pid(),
        plain: broker.plain(),
        tls: broker.plain(),
        ca_root: Default::default(),
        token,
    };
    (broker, peer)
}

fn measure(peer: &Peer, plan: &Plan) -> Scale {
    let few: Vec<String> = (0..plan.few).map(|n| format!("site/few/{n}")).collect();
    let mut first = online(peer, "first");
    subscribe_all(&mut first, &few);
    let publish_few = publish_cost(peer, plan);
    let idle = process::resident_kib(peer.pid);
    let mut crowd: Vec<Client> = (0..plan.connections).map(|n| online(peer, &format!("crowd-{n}"))).collect();
    let connected = process::resident_kib(peer.pid);
    for (n, client) in crowd.iter_mut().enumerate() {
        let filters: Vec<String> = (0..plan.filters_each).map(|k| format!("site/{n}/{k}")).collect();
        subscribe_all(client, &filters);
    }
    let subscribed = process::resident_kib(peer.pid);
    let publish_many = publish_cost(peer, plan);
    assert!(crowd.iter_mut().step_by(97).all(|client| client.ping(SOON)), "nobody was lost on the way");
    drop(crowd);
    let publish = Costs { few: publish_few, many: publish_many };
    Scale { idle, connected, subscribed, publish, retained: retained_cost(peer, plan) }
}

fn online(peer: &Peer, client_id: &str) -> Client {
    let mut client = Client::dial(peer.plain);
    let connect = Connect::new(Version::V311, client_id).user(&peer.token).keep_alive_s(600);
    assert_eq!(client.ask_in(Version::V311, &connect).connack(), Some(0), "{client_id} is let in");
    client
}

fn subscribe_all(client: &mut Client, filters: &[String]) {
    for filters in filters.chunks(FILTERS_PER_PACKET) {
        let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
        client.send(&subscribe(Version::V311, 1, &filters));
        let granted = client.packet();
        let codes = granted.codes(Version::V311, 1).expect("a SUBACK");
        assert!(codes.iter().all(|code| *code == 0), "all are granted, not {codes:?}");
    }
}

/// The server's time on the processor for a message that comes in and goes out once.
fn publish_cost(peer: &Peer, plan: &Plan) -> f64 {
    let (mut publisher, mut subscriber) = (online(peer, "publisher"), online(peer, "subscriber"));
    subscribe_all(&mut subscriber, &[TOPIC.to_owned()]);
    let block = publish(Version::V311, TOPIC, 0, 0, [b'x'; 20]).repeat(BLOCK);
    let mut delivered = vec![0; block.len()];
    subscriber.tcp().set_read_timeout(Some(SOON)).expect("a timeout above zero");
    best_of(peer, plan.rounds, plan.messages, || {
        for _ in 0..plan.messages / BLOCK {
            publisher.try_send(&block).expect("the publisher is welcome");
            subscriber.tcp().read_exact(&mut delivered).expect("every message is delivered");
            assert_eq!(delivered, block, "at QoS 0 a message leaves as it came");
        }
    })
}

/// The server's time on the processor for a SUBSCRIBE that finds one retained message.
fn retained_cost(peer: &Peer, plan: &Plan) -> Option<Costs> {
    if !retains(peer.plain, &peer.token) {
        tell("nothing is retained yet: what a look-up costs is not measured");
        return None;
    }
    let mut publisher = online(peer, "publisher");
    let mut retain = |topic: &str| {
        let mut packet = publish(Version::V311, topic, 1, 1, b"on");
        packet[0] |= 1;
        publisher.send(&packet);
        assert_eq!(publisher.packet().puback(), Some((1, 0)));
    };
    retain(TOPIC);
    (0..plan.few).for_each(|n| retain(&format!("store/{n}/state")));
    let few = lookup_cost(peer, plan);
    (plan.few..plan.retained).for_each(|n| retain(&format!("store/{n}/state")));
    Some(Costs { few, many: lookup_cost(peer, plan) })
}

fn retains(address: SocketAddr, token: &str) -> bool {
    let mut client = Client::dial(address);
    let connack = client.ask_in(Version::V5, &Connect::new(Version::V5, "asks").user(token));
    assert_eq!(connack.connack(), Some(0));
    connack.connack_property(RETAIN_AVAILABLE) != Some(0)
}

fn lookup_cost(peer: &Peer, plan: &Plan) -> f64 {
    let mut client = online(peer, "asks");
    let block = subscribe(Version::V311, 1, &[(TOPIC, 0)]).repeat(BLOCK);
    best_of(peer, plan.rounds, plan.subscribes, || {
        for _ in 0..plan.subscribes / BLOCK {
            client.send(&block);
            let (mut answers, mut messages) = (0, 0);
            while (answers, messages) != (BLOCK, BLOCK) {
                let Event::Packet(packet) = client.next(SOON) else {
                    panic!("{answers} answers and {messages} messages came of {BLOCK}");
                };
                answers += usize::from(packet.first == 0x90);
                messages += usize::from(packet.first == 0x31);
            }
        }
    })
}

/// Microseconds of the server for each of `count` things that `act` does.
fn best_of(peer: &Peer, rounds: usize, count: usize, mut act: impl FnMut()) -> f64 {
    let costs = (0..rounds).map(|_| {
        let before = process::cpu_nanoseconds(peer.pid);
        act();
        (process::cpu_nanoseconds(peer.pid) - before) as f64 / 1000.0 / count as f64
    });
    costs.fold(f64::INFINITY, f64::min)
}

fn table(plan: &Plan, ours: &Scale, theirs: Option<&Scale>) -> String {
    let subscriptions = plan.connections * plan.filters_each;
    let each = |more: u64, fewer: u64, count: usize| more.saturating_sub(fewer) as f64 / count as f64;
    let figures = |scale: &Scale| {
        let retained = scale.retained;
        [
            Some(scale.idle as f64),
            Some(scale.connected as f64),
            Some(each(scale.connected, scale.idle, plan.connections)),
            Some(scale.subscribed as f64),
            Some(each(scale.subscribed, scale.connected, subscriptions)),
            Some(scale.publish.few),
            Some(scale.publish.many),
            retained.map(|costs| costs.few),
            retained.map(|costs| costs.many),
        ]
    };
    let names = [
        "KiB resident, idle".to_owned(),
        format!("KiB resident, {} connections", plan.connections),
        "KiB each".to_owned(),
        format!("KiB resident, {subscriptions} subscriptions more"),
        "KiB each".to_owned(),
        format!("CPU µs a message, {} unrelated subscriptions", plan.few),
        format!("CPU µs a message, {subscriptions} unrelated subscriptions"),
        format!("CPU µs a SUBSCRIBE, {} unrelated retained messages", plan.few),
        format!("CPU µs a SUBSCRIBE, {} unrelated retained messages", plan.retained),
    ];
    let mut table = String::from("| | forebay | mosquitto | ratio |\n|:--|--:|--:|--:|\n");
    let theirs = theirs.map_or([None; 9], figures);
    let text = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"));
    for ((name, ours), theirs) in names.iter().zip(figures(ours)).zip(theirs) {
        let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        let [ours, theirs, ratio] = [ours, theirs, ratio].map(text);
        writeln!(table, "| {name} | {ours} | {theirs} | {ratio} |").expect("a string takes everything");
    }
    table
}
