//! A7 and its kin: too many, too slow, too much at once.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    support::{
        broker::{Broker, Setup},
        client::{Client, Event, tls_config},
        packets::{Connect, Publish},
        process,
        wait::{SOON, until, until_true},
        wire::{PINGREQ, TELEMETRY, Version, packet, publish, subscribe},
    },
    table::{Mine, Sender},
};

use Sender::{Online, Stranger};
use Version::{V5, V311};

#[test]
fn a_02_five_hundred_connects_of_256_mib_take_no_memory() {
    let mut mine = Mine::open(Setup::new().roomy(2000));
    for _ in 0..500 {
        let mut client = mine.connection(Stranger);
        client.send(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]);
        assert_eq!(client.until_closed(SOON), []);
    }
    mine.canary_sings("500 of them");
    mine.close(400);
}

#[test]
fn a_02_connections_with_half_a_large_packet_each_cost_what_has_come_not_what_was_announced() {
    let mut mine = Mine::open(Setup::new().roomy(2000).limit("connections_per_device", 1000));
    let before = process::resident_kib(mine.broker.pid());
    let mut held = Vec::new();
    for n in 0..500 {
        let mut client = mine.broker.online(V311, &mine.device, &format!("half {n}"));
        client.send(&[0x30, 0xF0, 0xFF, 0x03, 0, 4, b'v']);
        assert!(matches!(client.next(Duration::from_millis(1)), Event::Silence));
        held.push(client);
    }
    mine.canary_sings("500 halves");
    let grown = process::resident_kib(mine.broker.pid()) - before;
    assert!(grown < 500 * 16, "500 announcements of 64 KiB took {grown} KiB");
    drop(held);
    mine.close(600);
}

#[test]
fn a_04_a_connect_that_drips_is_closed_at_its_deadline_however_often_a_byte_comes() {
    let mut mine = Mine::open(Setup::new().limit("connect_timeout_s", 1));
    let connect = Connect::new(V311, "m".repeat(2000)).user(&mine.device.token).bytes();
    let took = drip_until_closed(&mut mine.connection(Stranger), &connect);
    assert!(took >= Duration::from_millis(900), "before its time: {took:?}");
    assert!(took < Duration::from_secs(4), "each byte must not buy more time: {took:?}");
    mine.canary_sings("a drip");
    mine.close(50);
}

#[test]
fn a_04_a_packet_that_drips_is_closed_at_its_deadline_however_often_a_byte_comes() {
    let mut mine = Mine::open(Setup::new().limit("packet_timeout_s", 1));
    let payload = format!(r#"{{"s":"{}"}}"#, "x".repeat(3000));
    for version in [V311, V5] {
        let packet = publish(version, TELEMETRY, 1, 1, &payload);
        let took = drip_until_closed(&mut mine.connection(Online(version)), &packet);
        assert!(took >= Duration::from_millis(900), "before its time: {took:?}");
        assert!(took < Duration::from_secs(4), "each byte must not buy more time: {took:?}");
    }
    mine.canary_sings("a drip");
    assert_eq!(mine.broker.telemetry().len(), 0);
    mine.close(50);
}

/// Sends a byte each time nothing has come for a moment, until the connection is closed.
fn drip_until_closed(client: &mut Client, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    for byte in bytes {
        client.send(&[*byte]);
        match client.next(Duration::from_millis(20)) {
            Event::Silence => {}
            Event::Closed => return started.elapsed(),
            Event::Packet(reply) if reply.disconnect().is_some() => {}
            Event::Packet(reply) => panic!("{reply:?}"),
        }
    }
    panic!("it was let finish")
}

#[test]
fn subscriptions_of_a_client_that_does_not_read_hold_up_nobody_and_all_of_them_are_answered_once_it_does() {
    let mut mine = Mine::open(Setup::new().with_tls());
    let token = mine.broker.add_client("greedy");
    let config = tls_config(&mine.broker.certificates().join("ca-root.pem"));
    let mut publisher = Client::dial(mine.broker.plain());
    publisher.connect(V311, "publisher", &token);
    let retained = |n: usize| Publish::new(format!("t{n}"), "x".repeat(100)).retain().bytes(V311);
    publisher.send(&(0..1000).flat_map(retained).collect::<Vec<u8>>());
    assert!(publisher.ping(SOON));
    let plain = Client::dial(mine.broker.plain());
    let tls = Client::dial_tls(mine.broker.tls(), config, "localhost");
    for (mut greedy, id) in [(plain, "plain"), (tls, "tls")] {
        greedy.connect(V311, id, &token);
        let burst: Vec<u8> = (1..=300).flat_map(|id| subscribe(V311, id, &[("#", 0)])).collect();
        greedy.send(&[&burst[..], &PINGREQ].concat());
        for _ in 0..10 {
            mine.canary_sings("a burst of subscriptions");
        }
        let (mut answered, mut messages) = (0, 0);
        loop {
            match greedy.packet().first {
                0x90 => answered += 1,
                0xD0 => break,
                _ => messages += 1,
            }
        }
        assert_eq!(answered, 300);
        assert!(messages >= 200_000, "only {messages} retained messages");
    }
}

#[test]
fn a_90_silent_connections_are_closed_at_the_deadline_and_cost_nothing_meanwhile() {
    let mut mine = Mine::open(Setup::new().roomy(2000).limit("connect_timeout_s", 3));
    let started = Instant::now();
    let mut silent: Vec<Client> = (0..1000).map(|_| Client::dial(mine.broker.plain())).collect();
    mine.canary_sings("1,000 silent connections");
    let before = process::cpu_ticks(mine.broker.pid());
    let first = silent.remove(0).until_closed(SOON);
    assert_eq!(first, []);
    assert!(started.elapsed() >= Duration::from_millis(2900), "closed after {:?}", started.elapsed());
    for client in &mut silent {
        assert_eq!(client.until_closed(SOON), []);
    }
    let ticks = process::cpu_ticks(mine.broker.pid()) - before;
    assert!(ticks <= process::TICKS_PER_SECOND / 4, "waiting took {ticks} hundredths of a second");
    mine.close(400);
}

#[test]
fn those_who_have_not_said_who_they_are_cannot_keep_devices_out() {
    // 64 may wait unauthenticated; a device must get in all the same, at the latest when they are cleared away.
    let mut mine =
        Mine::open(Setup::new().limit("connections_per_address", 1000).limit("connect_timeout_s", 2));
    let _silent: Vec<Client> = (0..300).map(|_| Client::dial(mine.broker.plain())).collect();
    let mut device = mine.connection(Online(V311));
    device.telemetry(r#"{"got":"in"}"#);
    mine.canary_sings("300 silent connections");
}

#[test]
fn a_88_connections_beyond_the_limit_are_closed_and_each_place_is_used_again() {
    let setup = Setup::new().limit("connections", 10).limit("connections_per_device", 1000);
    let mut mine = Mine::open(setup);
    // The canary has one of the ten places.
    let mut inside: Vec<Client> =
        (0..9).map(|n| mine.broker.online(V311, &mine.device, &format!("client {n}"))).collect();
    for extra in 0..50 {
        let mut client = mine.connection(Stranger);
        client.send(&Connect::new(V5, format!("extra {extra}")).user(&mine.device.token).bytes());
        let replies = client.until_closed(SOON);
        assert!(
            replies.iter().all(|reply| reply.connack() != Some(0)),
            "one too many was let in: {replies:?}"
        );
    }
    for client in &mut inside {
        assert!(client.ping(SOON));
    }
    for round in 0..20 {
        inside.remove(0).send(&packet(0xE0, &[]));
        let client = until("the place is free", SOON, || {
            let mut client = mine.connection(Stranger);
            let connect = Connect::new(V311, format!("next {round}")).user(&mine.device.token);
            client.send(&connect.bytes());
            matches!(client.next(SOON), Event::Packet(reply) if reply.connack() == Some(0)).then_some(client)
        });
        inside.push(client);
    }
    mine.canary_sings("a full house");
    drop(inside);
    mine.close(200);
}

#[test]
fn connections_from_one_address_are_bounded() {
    let mut mine = Mine::open(Setup::new().limit("connections_per_address", 5));
    let held: Vec<Client> = (0..3)
        .map(|n| {
            let device = mine.broker.add_device(&format!("device {n}"));
            mine.broker.online(V311, &device, "meter")
        })
        .collect();
    let _fifth = mine.connection(Online(V311));
    let mut sixth = mine.connection(Stranger);
    sixth.send(&Connect::new(V311, "sixth").user(&mine.device.token).bytes());
    let replies = sixth.until_closed(SOON);
    assert!(replies.iter().all(|reply| reply.connack() != Some(0)), "{replies:?}");
    mine.canary_sings("a sixth");
    drop(held);
}

#[test]
fn a_96_running_out_of_descriptors_is_survived_without_spinning() {
    let mut broker = Setup::new()
        .roomy(2000)
        .limit("connect_timeout_s", 300)
        .under(&["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"])
        .start();
    let device = broker.add_device("pump");
    let mut canary = broker.online(V311, &device, "canary");
    let crowd: Vec<Client> = (0..200).map(|_| Client::dial(broker.plain())).collect();
    assert!(canary.ping(SOON), "who is in stays in");
    canary.telemetry(r#"{"still":"stored"}"#);
    let before = process::cpu_ticks(broker.pid());
    assert_eq!(canary.next(Duration::from_secs(2)), Event::Silence);
    let ticks = process::cpu_ticks(broker.pid()) - before;
    assert!(
        ticks <= process::TICKS_PER_SECOND / 4,
        "it spins: {ticks} hundredths of a second in two seconds"
    );
    drop(crowd);
    let mut client = until("a descriptor is free again", SOON, || {
        let mut client = Client::dial(broker.plain());
        client.send(&Connect::new(V311, "after").user(&device.token).bytes());
        matches!(client.next(SOON), Event::Packet(reply) if reply.connack() == Some(0)).then_some(client)
    });
    assert!(client.ping(SOON));
    assert!(broker.exit_status().is_none());
    let lines = broker.log().lines().count();
    assert!(lines < 150, "{lines} log lines");
    broker.stop();
}

#[test]
fn a_14_a_segment_full_of_pingreqs_is_answered_and_others_do_not_wait() {
    let mut mine = Mine::open(Setup::new());
    let mut client = mine.connection(Online(V311));
    client.send(&PINGREQ.repeat(32_768));
    let started = Instant::now();
    mine.canary_sings("32,768 PINGREQs");
    assert!(started.elapsed() < Duration::from_secs(1), "the canary waited {:?}", started.elapsed());
    for n in 0..32_768 {
        assert_eq!(client.packet().first, 0xD0, "PINGRESP number {n}");
    }
    drop(client);
    mine.close(50);
}

#[test]
fn a_14_who_sends_and_never_reads_is_not_read_from_any_more() {
    let mut mine = Mine::open(Setup::new());
    let before = process::resident_kib(mine.broker.pid());
    let client = mine.connection(Online(V311));
    let mut tcp: &TcpStream = client.tcp();
    tcp.set_nonblocking(true).expect("a socket option");
    let pings = PINGREQ.repeat(32_768);
    let mut sent = 0usize;
    let mut stuck_since = Instant::now();
    // Half a second without a byte taken: it is no longer read from. 64 MB taken: it is.
    while sent < 64 << 20 && stuck_since.elapsed() < Duration::from_millis(500) {
        match tcp.write(&pings) {
            Ok(n) => (sent, stuck_since) = (sent + n, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => mine.canary_sings("a flood"),
            Err(_) => break,
        }
    }
    assert!(sent < 64 << 20, "64 MB were read from somebody who never reads");
    let grown = process::resident_kib(mine.broker.pid()).saturating_sub(before);
    assert!(grown < 4 * 1024, "its answers took {grown} KiB");
    drop(client);
    mine.close(50);
}

#[test]
fn a_97b_a_flood_of_malformed_packets_leaves_a_short_log() {
    let mut mine = Mine::open(Setup::new().limit("log_lines_per_10s", 20));
    let started = Instant::now();
    for _ in 0..2000 {
        let mut client = mine.connection(Stranger);
        client.send(&[0x00, 0x00]);
        client.until_closed(SOON);
    }
    mine.canary_sings("2,000 of them");
    let spans = 2 + started.elapsed().as_secs() as usize / 10;
    mine.close(spans * 25 + 20);
}

#[test]
fn a_68_a_refused_client_that_does_not_hang_up_is_hung_up_on() {
    let mine = Mine::open(Setup::new());
    let mut clients: Vec<Client> = (0..50).map(|_| mine.connection(Stranger)).collect();
    for client in &mut clients {
        client.send(&Connect::new(V311, "mallory").user("NoDeviceHasThisToken").bytes());
    }
    for client in &mut clients {
        let replies = client.until_closed(Duration::from_secs(2));
        assert_eq!(replies[0].connack(), Some(5));
    }
    mine.close(150);
}

#[test]
fn a_62_connections_that_come_and_go_leave_nothing_behind() {
    let mut mine = Mine::open(Setup::new());
    for n in 0..2000 {
        let mut client = mine.connection(Online(V311));
        if n % 10 == 0 {
            client.telemetry("{a:1}");
        }
        client.send(&packet(0xE0, &[]));
    }
    mine.canary_sings("2,000 visits");
    mine.close(200);
}

#[test]
fn the_loop_serves_a_talkative_and_a_quiet_client_alike() {
    // READ_BYTES_PER_TURN: a megabyte from one does not make the other wait for its end.
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let mut loud = broker.online(V311, &device, "loud");
    let mut quiet = broker.online(V311, &device, "quiet");
    let payload = format!(r#"{{"s":"{}"}}"#, "x".repeat(2000));
    let burst: Vec<u8> = (1..=200).flat_map(|id| publish(V311, TELEMETRY, 1, id, &payload)).collect();
    loud.send(&burst);
    quiet.telemetry(r#"{"quiet":1}"#);
    for id in 1..=200 {
        assert_eq!(loud.packet().puback(), Some((id, 0)));
    }
    until_true("all is stored", SOON, || broker.telemetry().len() == 201);
}
