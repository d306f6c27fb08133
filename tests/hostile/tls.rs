//! A8: handshakes that stall, break off, crumble, or are none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use crate::{
    support::{
        broker::Setup,
        client::{Client, Event, tls_config, trusting},
        packets::Connect,
        wait::{SOON, until_true},
        wire::Version,
    },
    table::Mine,
};

use Version::{V5, V311};

fn open(setup: Setup) -> (Mine, Arc<ClientConfig>) {
    let mine = Mine::open(setup.with_tls());
    let config = tls_config(&mine.broker.certificates().join("ca-root.pem"));
    (mine, config)
}

fn online(mine: &Mine, config: &Arc<ClientConfig>, version: Version, id: &str) -> Client {
    let mut client = Client::dial_tls(mine.broker.tls(), Arc::clone(config), "localhost");
    client.connect(version, id, &mine.device.token);
    client
}

/// The bytes a client says first.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a valid configuration");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a vector takes everything");
    hello
}

#[test]
fn a_device_publishes_over_either_version_of_tls_by_name_and_by_address() {
    let (mine, _) = open(Setup::new());
    let ca = mine.broker.certificates().join("ca-root.pem");
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(trusting(&ca))
            .with_no_client_auth();
        let config = Arc::new(config);
        for name in ["localhost", "127.0.0.1", "::1"] {
            let mut client = Client::dial_tls(mine.broker.tls(), Arc::clone(&config), name);
            client.connect(V5, "meter", &mine.device.token);
            client.telemetry(&format!(r#"{{"over":"{name}"}}"#));
        }
    }
    assert_eq!(mine.broker.stored_values("mallory").len(), 6);
}

#[test]
fn a_packet_of_64_kib_passes_through_tls() {
    let (mine, config) = open(Setup::new());
    let mut client = online(&mine, &config, V311, "meter");
    let payload = format!(r#"{{"s":"{}"}}"#, "x".repeat(60_000));
    for _ in 0..20 {
        client.telemetry(&payload);
    }
    assert_eq!(mine.broker.stored_values("mallory"), vec![payload; 20]);
}

#[test]
fn a_98_a_hello_followed_by_close_notify_or_fin_ends_the_connection() {
    let (mut mine, config) = open(Setup::new());
    let hello = client_hello(&config);
    for cut in [0, 1, 5, 6, 100, hello.len()] {
        let mut client = Client::dial(mine.broker.tls());
        client.send(&hello[..cut]);
        client.finish_sending();
        end(&mut client);
    }
    let mut client = Client::dial(mine.broker.tls());
    let close_notify = [0x15, 0x03, 0x03, 0x00, 0x02, 0x01, 0x00];
    client.send(&[&hello[..], &close_notify].concat());
    client.finish_sending();
    end(&mut client);
    mine.canary_sings("broken handshakes");
    let before = crate::support::process::cpu_ticks(mine.broker.pid());
    assert!(crate::support::process::cpu_ticks(mine.broker.pid()) - before < 5, "it does not loop");
    mine.close(50);
}

/// Waits for the end, whatever bytes come before it: they are not MQTT.
fn end(client: &mut Client) {
    use std::io::Read;
    let mut tcp = client.tcp();
    tcp.set_read_timeout(Some(SOON)).expect("a time-out");
    let mut sink = Vec::new();
    match tcp.read_to_end(&mut sink) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it was not closed: {error}"),
    }
}

#[test]
fn a_99_a_handshake_and_packets_may_come_byte_by_byte() {
    let (mut mine, config) = open(Setup::new());
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(config, name).expect("a valid configuration");
    let connect = Connect::new(V311, "meter").user(&mine.device.token).bytes();
    std::io::Write::write_all(&mut tls.writer(), &connect).expect("it is kept until the handshake is done");
    let mut socket = Client::dial(mine.broker.tls());
    let mut plain: Vec<u8> = Vec::new();
    while plain.len() < 4 {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).expect("a vector takes everything");
        }
        for (n, byte) in bytes.iter().enumerate() {
            socket.send(&[*byte]);
            if n % 16 == 0 {
                mine.canary_sings("a byte of a handshake");
            }
        }
        socket.tcp().set_read_timeout(Some(SOON)).expect("a time-out");
        assert!(tls.read_tls(&mut socket.tcp()).expect("the broker answers") > 0, "it closed");
        tls.process_new_packets().expect("the handshake goes on");
        let mut chunk = [0; 64];
        if let Ok(n) = std::io::Read::read(&mut tls.reader(), &mut chunk) {
            plain.extend(&chunk[..n]);
        }
    }
    assert_eq!(plain, [0x20, 0x02, 0x00, 0x00]);
    drop(socket);
    mine.close(50);
}

#[test]
fn a_100_a_handshake_that_stalls_is_closed_at_the_deadline() {
    let (mut mine, config) = open(Setup::new().limit("connect_timeout_s", 1));
    let hello = client_hello(&config);
    let started = Instant::now();
    let mut stalled: Vec<Client> = [&[][..], &hello[..1], &hello[..hello.len() - 1], &hello]
        .iter()
        .map(|bytes| {
            let mut client = Client::dial(mine.broker.tls());
            client.send(bytes);
            client
        })
        .collect();
    for client in &mut stalled {
        end(client);
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "before its time: {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(4), "too late: {:?}", started.elapsed());
    let mut slow = Client::dial(mine.broker.tls());
    let started = Instant::now();
    for byte in &hello {
        slow.send(&[*byte]);
        if slow.next(Duration::from_millis(20)) == Event::Closed {
            break;
        }
    }
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "a byte at a time buys no time: {:?}",
        started.elapsed()
    );
    mine.canary_sings("stalled handshakes");
    mine.close(50);
}

#[test]
fn a_102_the_wrong_protocol_on_a_port_is_closed_with_one_hint() {
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let connect = Connect::new(V311, "meter").user("NoDeviceHasThisToken").bytes();
    for (name, on_tls_port, bytes, hint) in [
        ("MQTT on the TLS port", true, Some(connect), "TLS"),
        ("HTTP on the TLS port", true, Some(http.clone()), "TLS"),
        ("TLS on the plain port", false, None, "TLS"),
        ("HTTP on the plain port", false, Some(http), "MQTT"),
    ] {
        let (mut mine, config) = open(Setup::new());
        let mut client = Client::dial(if on_tls_port { mine.broker.tls() } else { mine.broker.plain() });
        client.send(&bytes.unwrap_or_else(|| client_hello(&config)));
        end(&mut client);
        until_true(name, SOON, || mine.broker.log_lines_with("closed") > 0);
        let log = mine.broker.log();
        let said: Vec<&str> = log.lines().filter(|line| line.contains("closed")).collect();
        assert!(said.len() == 1 && said[0].contains(hint), "{name}: {said:?}");
        mine.canary_sings(name);
        drop(client);
        mine.close(50);
    }
}

#[test]
fn a_103_many_handshakes_at_once_all_come_through_and_plain_clients_do_not_wait() {
    let setup = Setup::new().limit("connections_per_address", 1000).limit("connections_per_device", 1000);
    let (mut mine, config) = open(setup);
    let (address, token) = (mine.broker.tls(), mine.device.token.clone());
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (config, token) = (Arc::clone(&config), token.clone());
            std::thread::spawn(move || {
                (0..25)
                    .map(|n| {
                        let mut client = Client::dial_tls(address, Arc::clone(&config), "localhost");
                        client.connect(V311, &format!("{worker}-{n}"), &token);
                        client
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    while !workers.iter().all(std::thread::JoinHandle::is_finished) {
        mine.canary_sings("handshakes");
    }
    let mut clients: Vec<Client> = workers
        .into_iter()
        .flat_map(|worker| worker.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
        .collect();
    assert_eq!(clients.len(), 200);
    for client in &mut clients {
        assert!(client.ping(SOON));
    }
    drop(clients);
    mine.close(300);
}

#[test]
fn a_client_that_does_not_trust_the_certificate_leaves_and_nobody_minds() {
    let (mut mine, _) = open(Setup::new());
    let stranger = Arc::new(
        ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
    );
    for _ in 0..5 {
        let mut client = Client::dial_tls(mine.broker.tls(), Arc::clone(&stranger), "localhost");
        assert!(client.try_send(b"\x10").is_err(), "the certificate is not trusted");
    }
    mine.canary_sings("mistrust");
    mine.close(50);
}
