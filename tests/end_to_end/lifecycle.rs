//! From start to stop: readiness, company, permissions, and an end that keeps the promise.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    time::{Duration, Instant},
};

use crate::support::{
    broker::{Broker, Setup},
    client::Client,
    fleet::{Fleet, Payload},
    home::{Home, stderr},
    wait::{SOON, until_true},
    wire::Version,
};

use Version::V311;

#[test]
fn sigterm_under_load_commits_acknowledges_and_ends_within_five_seconds() {
    let mut broker = Setup::new().roomy(200).start();
    let mut fleet = Fleet::new(10, Payload::Numbered);
    for n in 0..50 {
        let device = broker.add_device(&format!("device {n}"));
        fleet.add("meter", &device.token);
    }
    fleet.reconnect(broker.plain());
    assert!(fleet.run_until(SOON, |fleet| fleet.acked() > 5_000), "the load is on");
    broker.sigterm();
    let told = Instant::now();
    assert!(fleet.run_until(SOON, |fleet| fleet.connected() == 0), "every connection ends");
    let status = broker.wait_for_exit(SOON);
    let took = told.elapsed();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    broker.restart();
    let rows = broker.telemetry();
    for (index, publisher) in fleet.publishers().iter().enumerate() {
        let device = format!("device {index}");
        let stored: Vec<&str> =
            rows.iter().filter(|row| row.device == device).map(|row| row.values()).collect();
        let expected: Vec<String> = (0..stored.len()).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        assert_eq!(stored, expected, "{device}: in order, without a hole, each once");
        assert!(stored.len() as u64 >= publisher.acked, "{device}: what was acknowledged is there");
        assert!(stored.len() as u64 <= publisher.sent, "{device}: nothing is there that was not sent");
    }
}

#[test]
fn sigterm_while_idle_ends_at_once_and_tells_version_5_clients() {
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(Version::V5, &device, "five");
    let mut silent = Client::dial(broker.plain());
    assert!(client.ping(SOON));
    let told = Instant::now();
    broker.sigterm();
    let codes: Vec<Option<u8>> = client.until_closed(SOON).iter().map(|reply| reply.disconnect()).collect();
    assert_eq!(codes, [Some(0x8B)], "server shutting down");
    silent.until_closed(SOON);
    assert!(broker.wait_for_exit(SOON).success());
    assert!(told.elapsed() < Duration::from_secs(2), "nothing was left to do, it took {:?}", told.elapsed());
}

#[test]
fn a_second_instance_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let broker = Broker::start();
    let device = broker.add_device("pump");
    let output = broker.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains(&*broker.data_dir().to_string_lossy()), "it says where: {said}");
    assert!(said.contains("another") || said.contains("already"), "it says why: {said}");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
}

#[test]
fn a_killed_instance_leaves_no_lock_behind() {
    let mut broker = Broker::start();
    broker.kill9();
    broker.restart();
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let home = Home::new();
    let output = home.run(&["serve", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

/// The next message of the service manager's socket.
fn notified(manager: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = manager.recv(&mut message).expect("a message within the time-out");
    String::from_utf8(message[..length].to_vec()).expect("UTF-8")
}

fn manager(dir: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(dir.join("notify")).expect("a socket");
    manager.set_read_timeout(Some(SOON)).expect("a time-out");
    manager
}

#[test]
fn the_service_manager_hears_ready_once_it_listens_then_the_watchdog_then_stopping() {
    let setup = Setup::new();
    let manager = manager(setup.home().path());
    let socket = setup.home().path().join("notify");
    let mut broker = setup.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "400000").start();
    let first = notified(&manager);
    assert!(first.lines().any(|line| line == "READY=1"), "{first}");
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
    let started = Instant::now();
    let mut pings = 0;
    while pings < 5 {
        pings += usize::from(notified(&manager).contains("WATCHDOG=1"));
    }
    // At least as often as half the time demands: five pings in five halves, with room for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(3), "five pings took {:?}", started.elapsed());
    broker.sigterm();
    let mut said = String::new();
    while !said.contains("STOPPING=1") {
        said = notified(&manager);
    }
    assert!(broker.wait_for_exit(SOON).success());
}

#[test]
fn a_broker_that_cannot_listen_never_says_ready() {
    let home = Home::new();
    let manager = manager(home.path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let mut command = home.command(&["serve", "--listen", &address]);
    let output = command.env("NOTIFY_SOCKET", home.path().join("notify")).output().expect("forebay starts");
    assert_eq!(output.status.code(), Some(1));
    manager.set_nonblocking(true).expect("a socket option");
    let mut message = [0; 4096];
    while let Ok(length) = manager.recv(&mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        assert!(!text.contains("READY=1"), "{text}");
    }
}

#[test]
fn without_a_watchdog_an_idle_broker_sleeps() {
    // A change of the registry is looked after for a while: the device is added, and seen for the first time, before.
    let setup = Setup::new();
    let device = setup.home().add_device("pump");
    let mut broker = setup.start();
    drop(broker.online(V311, &device, "meter"));
    until_true("it is noted that the device was seen", SOON, || {
        !broker.must(&["device", "list", "--json"]).contains("\"last_seen\":null")
    });
    broker.stop();
    broker.restart();
    let mut client = broker.online(V311, &device, "meter");
    assert!(client.ping(SOON));
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("it is alive");
        let line =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
        line.trim().parse::<u64>().expect("a number")
    };
    let before = switches();
    assert_eq!(client.next(Duration::from_secs(3)), crate::support::client::Event::Silence);
    let woken = switches() - before;
    assert!(woken <= 6, "three idle seconds woke it {woken} times");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

#[test]
fn files_are_private_whatever_the_umask() {
    // A-86.
    let broker = Setup::new().with_tls().under(&["sh", "-c", "umask 000; exec \"$@\"", "sh"]).start();
    let device = broker.add_device("pump");
    broker.online(V311, &device, "meter").telemetry("{a:1}");
    assert_eq!(mode(&broker.data_dir()), 0o700);
    let mut seen = 0;
    for entry in fs::read_dir(broker.data_dir()).expect("it can be listed") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4, "two databases and their WALs, at least");
    assert_eq!(mode(&broker.certificates().join("server.key")), 0o600);
}

#[test]
fn certificates_are_never_overwritten() {
    let home = Home::new();
    let dir = home.certificates();
    let before = home.files();
    let output = crate::support::home::clean_command(crate::support::home::program())
        .args(["certs", "init", "--dir"])
        .arg(&dir)
        .output()
        .expect("forebay starts");
    // Whether that is a failure or nothing to do, every byte stays.
    assert!(before == home.files(), "certs init changed a file: {}", stderr(&output));
    let names: Vec<String> =
        before.iter().filter_map(|(path, _)| path.file_name()?.to_str().map(str::to_owned)).collect();
    for name in ["ca-root.pem", "server.pem", "server.key"] {
        assert!(names.iter().any(|found| found == name), "{name} is missing among {names:?}");
    }
}

#[test]
fn the_state_directory_of_the_service_manager_is_used() {
    let home = Home::new();
    let state = home.path().join("state");
    fs::create_dir(&state).expect("a directory");
    let mut command = crate::support::home::clean_command(crate::support::home::program());
    let output =
        command.args(["device", "add", "pump"]).env("STATE_DIRECTORY", &state).current_dir(home.path());
    let output = output.output().expect("forebay starts");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(state.join("registry.db").exists());
}

#[test]
fn a_client_that_never_speaks_does_not_hold_up_the_end() {
    let mut broker = Broker::start();
    let _silent: Vec<Client> = (0..20).map(|_| Client::dial(broker.plain())).collect();
    until_true("they are accepted", SOON, || crate::support::process::descriptors(broker.pid()) > 20);
    broker.stop();
}
