//! The server's certificate and key while the broker runs: a better one is taken over, a bad one changes nothing.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use rustix::process::Signal;

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event, tls_config},
    home::{Device, Home, stdout},
    packets::Connect,
    process,
    wait::{SOON, until_true},
    wire::Version,
};

use Version::V311;

/// Whether a device that trusts only `ca_root` is let in over TLS.
fn let_in(broker: &Broker, device: &Device, ca_root: &Path) -> bool {
    let mut client = Client::dial_tls(broker.tls(), tls_config(ca_root), "localhost");
    let connect = Connect::new(V311, "meter").user(&device.token).bytes();
    client.try_send(&connect).is_ok()
        && matches!(client.next(SOON), Event::Packet(reply) if reply.connack() == Some(0))
}

fn hang_up(broker: &Broker) {
    process::signal(broker.pid(), Signal::HUP);
}

#[test]
fn a_renewed_certificate_is_taken_over_on_sighup_and_nobody_is_cut_off() {
    let broker = Setup::new().with_tls().start();
    let device = broker.add_device("pump");
    let certificates = broker.certificates();
    let old_root = certificates.join("ca-root.pem");
    let mut connected = Client::dial_tls(broker.tls(), tls_config(&old_root), "localhost");
    connected.connect(V311, "connected before", &device.token);

    let renewed = Home::new();
    for file in ["server.pem", "server.key"] {
        fs::copy(renewed.certificates().join(file), certificates.join(file)).expect("copied");
    }
    let new_root = renewed.certificates().join("ca-root.pem");
    assert!(!let_in(&broker, &device, &new_root), "not before it is told");
    hang_up(&broker);
    until_true("the new certificate is in force", SOON, || let_in(&broker, &device, &new_root));
    assert!(!let_in(&broker, &device, &old_root));
    connected.telemetry(r#"{"still":"here"}"#);
}

#[test]
fn a_76_what_cannot_be_read_at_sighup_leaves_the_old_in_force() {
    let broker = Setup::new().with_tls().start();
    let device = broker.add_device("pump");
    let certificates = broker.certificates();
    let old_root = certificates.join("ca-root.pem");
    let (certificate, configuration) = (certificates.join("server.pem"), broker.path().join("forebay.toml"));
    let half = fs::read(&certificate).expect("it is there").split_off(200);
    for round in 1..=2 {
        if round == 1 {
            fs::write(&certificate, &half).expect("written");
        } else {
            fs::remove_file(&certificate).expect("it is there");
        }
        fs::write(&configuration, "listen = [").expect("written");
        hang_up(&broker);
        until_true("the reason is told", SOON, || broker.log_lines_with("server.pem") == round);
        assert!(let_in(&broker, &device, &old_root), "round {round}");
        // `--data-dir` alone: the configuration is broken as well by now.
        let status = broker.run(&["status"]);
        assert_eq!(status.status.code(), Some(3), "round {round}");
        assert!(stdout(&status).contains("the new certificate is not in force"), "{}", stdout(&status));
        broker.online(V311, &device, "plain").telemetry(r#"{"still":"here"}"#);
    }
}

#[test]
fn a_86_a_key_that_others_can_read_is_refused_and_named() {
    let setup = Setup::new().with_tls();
    let key = setup.home().certificates().join("server.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("it is ours");
    let (status, said, _home) = setup.start_and_fail();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("server.key"), "it says which: {said}");
}
