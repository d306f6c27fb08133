//! Who connects or publishes too fast waits or is refused, and loses nothing.

use std::time::{Duration, Instant};

use crate::support::{
    broker::Setup,
    client::{Client, Event},
    packets::Connect,
    wait::SOON,
    wire::{TELEMETRY, Version},
};

#[test]
fn a_publisher_over_its_rate_is_slowed_down_and_every_message_is_stored() {
    // A hundred in a second, five hundred at once.
    let broker = Setup::new().limit("device_publishes_per_s", 100).limit("receive_maximum", 1000).start();
    let (fast, slow) = (broker.add_device("fast"), broker.add_device("slow"));
    let mut client = broker.online(Version::V311, &fast, "fast");
    let started = Instant::now();
    let ids: Vec<u16> = (0..700).map(|n| client.publish_only(TELEMETRY, format!("{{\"n\":{n}}}"))).collect();
    broker.online(Version::V311, &slow, "slow").telemetry("{\"n\":1}");
    for id in ids {
        assert_eq!(client.packet().puback(), Some((id, 0)));
    }
    // What is read at once is taken at once; then the rest of the rate has to be waited for.
    client.telemetry("{\"n\":700}");
    assert!(started.elapsed() >= Duration::from_secs(2), "700 in {:?}", started.elapsed());
    let stored: Vec<String> = (0..=700).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(broker.stored_values("fast"), stored);
    assert_eq!(broker.log_lines_with("publishes faster than device_publishes_per_s"), 1, "{}", broker.log());
}

#[test]
fn an_address_over_its_rate_waits_and_what_is_more_than_that_is_closed() {
    // One in a second, ten at once.
    let broker = Setup::new().limit("connects_per_address_per_min", 60).start();
    let device = broker.add_device("pump");
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..12).map(|_| Client::dial(broker.plain())).collect();
    let connect = |n: usize| Connect::new(Version::V311, format!("pump-{}", n % 4)).user(&device.token);
    assert_eq!(clients[11].next(SOON), Event::Closed);
    clients[10].send(&connect(0).bytes());
    for (n, client) in clients[..10].iter_mut().enumerate().skip(7) {
        assert_eq!(client.ask_in(Version::V311, &connect(n)).connack(), Some(0));
    }
    assert_eq!(clients[10].packet().connack(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(900), "in after {:?}", started.elapsed());
    assert!(clients[9].ping(SOON), "those before it stay");
}

#[test]
fn a_token_used_too_often_is_refused_as_the_hub_does() {
    // One in ten seconds.
    let broker = Setup::new().limit("connects_per_identity_per_min", 6).start();
    let (pump, fan) = (broker.add_device("pump"), broker.add_device("fan"));
    let code = |version| {
        let connect = Connect::new(version, "pump").user(&pump.token);
        Client::dial(broker.plain()).ask_in(version, &connect).connack()
    };
    assert_eq!(code(Version::V311), Some(0));
    assert_eq!(code(Version::V311), Some(3));
    assert_eq!(code(Version::V5), Some(0x9F));
    broker.online(Version::V311, &fan, "fan");
}
