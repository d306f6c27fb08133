//! Readings go on: to mosquitto, and to a second forebay, which judges them as it judges any device's.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    home::{Device, Home, stderr},
    namespace::skip,
    packets::Connect,
    process::installed,
    relay::Relay,
    wait::{SOON, until, until_true},
    wire::{TELEMETRY, Version, subscribe},
};

use Version::{V5, V311};

/// Long enough for a few attempts that fail, with the waits between them.
const AFTER_TROUBLE: Duration = Duration::from_secs(90);

/// To a forebay, as one of its devices.
const PLAIN: [&str; 3] = ["--plain", "--topic", TELEMETRY];

/// A hub with one device for the gateway, and the gateway, whose readings come from `pump`.
struct Site {
    hub: Broker,
    account: Device,
    edge: Broker,
    pump: Device,
}

impl Site {
    fn new(hub: Setup, edge: Setup) -> Self {
        let (hub, edge) = (hub.start(), edge.start());
        let (account, pump) = (hub.add_device("gateway"), edge.add_device("pump"));
        Self { hub, account, edge, pump }
    }

    /// Sends readings to `url` from now on, as a device of that hub.
    fn set_uplink(&self, url: &str, further: &[&str]) {
        set_uplink(&self.edge, url, &self.account.token, &[&PLAIN, further].concat());
    }

    /// Publishes readings `from..to`, each with a time of its own; all are acknowledged when this returns.
    fn publish(&self, numbers: std::ops::Range<u64>) {
        let mut client = self.edge.online(V311, &self.pump, "meter");
        for number in numbers {
            client.telemetry(&reading(number));
        }
    }

    /// Waits until each of these readings is at the hub, once or more often, and no other.
    fn wait_for_each(&self, numbers: std::ops::Range<u64>) {
        let expected: BTreeSet<_> = values(numbers).into_iter().collect();
        until_true("every reading is at the hub", AFTER_TROUBLE, || {
            self.numbers_at_hub().into_iter().collect::<BTreeSet<_>>() == expected
        });
    }

    fn numbers_at_hub(&self) -> Vec<String> {
        self.hub.stored_values("gateway")
    }

    /// The edge has heard of everything it sent.
    fn wait_for_answers(&self) {
        until_true("every message is acknowledged", SOON, || {
            self.edge.must(&["status", "--json"]).replace(' ', "").contains("\"in_flight\":0")
        });
    }

    fn wait_for(&self, count: usize, within: Duration) {
        until_true("the readings are at the hub", within, || {
            self.hub.count("SELECT count(*) FROM journal") >= count as i64
        });
    }
}

fn reading(number: u64) -> String {
    format!(r#"{{"ts":{},"values":{{"n":{number}}}}}"#, time(number))
}

fn time(number: u64) -> i64 {
    1_700_000_000_000 + number as i64
}

fn values(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!(r#"{{"n":{number}}}"#)).collect()
}

/// Sends what `edge` has to `url` from now on, with this token.
pub fn set_uplink(edge: &Broker, url: &str, token: &str, further: &[&str]) {
    edge.must_with_input(&[&["uplink", "set", url, "--token", "-"], further].concat(), token);
}

fn mqtt(address: SocketAddr) -> String {
    format!("mqtt://{address}")
}

#[test]
fn a_second_forebay_gets_every_reading_once_with_its_time_and_in_order() {
    let mut site = Site::new(Setup::new(), Setup::new());
    site.publish(0..200);
    site.set_uplink(&mqtt(site.hub.plain()), &[]);
    site.publish(200..400);
    site.wait_for(400, SOON);
    assert_eq!(site.numbers_at_hub(), values(0..400));
    let times: Vec<_> = site.hub.telemetry().iter().map(|row| row.ts).collect();
    assert_eq!(times, (0..400).map(time).collect::<Vec<_>>());
    // What was taken is known as such after a clean stop, without waiting for another commit.
    site.wait_for_answers();
    site.edge.stop();
    let shown = site.edge.must(&["uplink", "show"]);
    assert!(shown.contains("waiting     0"), "{shown}");
    site.edge.restart();
    site.publish(400..401);
    site.wait_for(401, SOON);
    assert_eq!(site.numbers_at_hub(), values(0..401), "nothing is sent again");
    assert_eq!(site.hub.count("SELECT count(*) FROM quarantine"), 0);
}

#[test]
fn tls_works_with_the_hubs_authority_and_another_authority_is_told() {
    let site = Site::new(Setup::new().with_tls(), Setup::new());
    let url = format!("mqtts://localhost:{}", site.hub.tls().port());
    let strangers = Home::new();
    let ca = |home: &Home| home.certificates().join("ca-root.pem").display().to_string();
    site.publish(0..10);
    site.set_uplink(&url, &["--ca-file", &ca(&strangers)]);
    until_true("the refusal is told", SOON, || {
        site.edge.log_lines_with("signed by no authority we trust; give the authority's certificate") > 0
    });
    assert_eq!(site.hub.count("SELECT count(*) FROM journal"), 0);

    site.set_uplink(&url, &["--ca-file", &ca(&site.hub)]);
    site.wait_for(10, SOON);
    assert_eq!(site.numbers_at_hub(), values(0..10));
    let shown = site.edge.must(&["uplink", "show"]);
    assert!(shown.contains(&url) && shown.contains("uplink-ca.pem"), "{shown}");
}

#[test]
fn what_was_taken_in_while_the_hub_was_away_arrives_when_it_is_back() {
    let mut site = Site::new(Setup::new(), Setup::new());
    let relay = Relay::start();
    site.set_uplink(&mqtt(relay.address()), &[]);
    site.publish(0..50);
    until_true("the trouble is told", SOON, || site.edge.log_lines_with("uplink: ") > 0);
    relay.lead_to(site.hub.plain());
    site.wait_for(50, AFTER_TROUBLE);

    relay.cut();
    site.hub.stop();
    site.publish(50..100);
    site.hub.restart();
    relay.lead_to(site.hub.plain());
    site.wait_for_each(0..100);
}

#[test]
fn nothing_is_lost_by_kill_9_of_either_side_in_the_middle() {
    let mut site = Site::new(Setup::new(), Setup::new());
    let relay = Relay::start();
    relay.lead_to(site.hub.plain());
    site.set_uplink(&mqtt(relay.address()), &[]);
    let mut sent = 0;
    for round in 0..4 {
        site.publish(sent..sent + 300);
        sent += 300;
        if round % 2 == 0 {
            site.edge.kill9();
            site.edge.restart();
        } else {
            site.hub.kill9();
            relay.cut();
            site.hub.restart();
            relay.lead_to(site.hub.plain());
        }
    }
    site.wait_for_each(0..sent);
    site.wait_for_answers();
    site.edge.stop();
    let shown = site.edge.must(&["uplink", "show"]);
    assert!(shown.contains("waiting     0"), "{shown}");
}

#[test]
fn the_uplink_is_moved_and_taken_away_while_the_broker_runs() {
    let site = Site::new(Setup::new(), Setup::new());
    let other = Broker::start();
    let account = other.add_device("gateway");
    site.set_uplink(&mqtt(site.hub.plain()), &[]);
    site.publish(0..5);
    site.wait_for(5, SOON);
    site.wait_for_answers();
    site.edge.must(&["uplink", "remove"]);
    site.publish(5..10);
    set_uplink(&site.edge, &mqtt(other.plain()), &account.token, &PLAIN);
    until_true("the rest is at the other hub", SOON, || other.stored_values("gateway") == values(5..10));
    assert_eq!(site.numbers_at_hub(), values(0..5));
}

#[test]
fn the_token_is_in_no_log_no_output_no_command_line_and_in_one_private_file() {
    let mut site = Site::new(Setup::new(), Setup::new().setting("log.level = \"trace\""));
    site.set_uplink(&mqtt(site.hub.plain()), &[]);
    site.publish(0..3);
    site.wait_for(3, SOON);
    let shown = site.edge.must(&["uplink", "show"]);
    let pid = site.edge.pid();
    let process =
        ["cmdline", "environ"].map(|file| fs::read(format!("/proc/{pid}/{file}")).expect("alive")).concat();
    site.edge.stop();
    let token = site.account.token.as_str();
    let contains = |bytes: &[u8]| bytes.windows(token.len()).any(|window| window == token.as_bytes());
    assert!(!contains(shown.as_bytes()) && !contains(&process) && !contains(site.edge.log().as_bytes()));
    let holders: Vec<PathBuf> =
        site.edge.files().into_iter().filter(|(_, bytes)| contains(bytes)).map(|(path, _)| path).collect();
    assert_eq!(holders, [site.edge.data_dir().join("uplink.token")]);
    for file in ["uplink.token", "uplink.toml"] {
        let mode = fs::metadata(site.edge.data_dir().join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
}

#[test]
fn a_token_file_others_may_read_stops_the_uplink_and_nothing_else() {
    let setup = Setup::new();
    let file = setup.home().path().join("token");
    fs::write(&file, "SecretNobodyShouldSee").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("opened to others");
    let edge = setup.setting("[uplink]\nurl = \"mqtt://127.0.0.1:1\"\ntoken_file = \"token\"\n").start();
    let pump = edge.add_device("pump");
    edge.online(V5, &pump, "meter").telemetry(r#"{"n":1}"#);
    assert_eq!(edge.log_lines_with("chmod 600"), 1);
    assert!(!edge.log().contains("SecretNobodyShouldSee"));
    let config = edge.path().join("forebay.toml").display().to_string();
    assert!(stderr(&edge.run(&["check-config", &config])).contains("chmod 600"));
    let refused = edge.run(&["uplink", "remove", "--config", &config]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
}

/// A mosquitto that lets everybody in.
pub struct Mosquitto {
    child: Child,
    pub address: SocketAddr,
    _home: Home,
}

impl Mosquitto {
    pub fn start() -> Option<Self> {
        if !installed("mosquitto") {
            skip("mosquitto is not installed");
            return None;
        }
        let home = Home::new();
        // It announces no port of its own choosing, so a free one is looked for and handed over.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let file = home.path().join("mosquitto.conf");
        let config = format!("user root\nallow_anonymous true\nlistener {} 127.0.0.1\n", address.port());
        fs::write(&file, config).expect("written");
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("it is installed");
        until("mosquitto listens", SOON, || TcpStream::connect(address).ok());
        Some(Self { child, address, _home: home })
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn mosquitto_gets_each_device_on_a_topic_of_its_own() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let mut listener = Client::dial(mosquitto.address);
    assert_eq!(listener.ask_in(V311, &Connect::new(V311, "listener")).connack(), Some(0));
    listener.send(&subscribe(V311, 1, &[("site/#", 0)]));
    assert_eq!(listener.packet().codes(V311, 1), Some(&[0][..]));

    let settings = format!(
        "[uplink]\nurl = \"{}\"\nmode = \"plain\"\ntopic = \"site/{{device}}/telemetry\"\nwait_for_clock_s = 0\n",
        mqtt(mosquitto.address)
    );
    let edge = Setup::new().setting(&settings).start();
    for name in ["pump", "fan"] {
        let device = edge.add_device(name);
        edge.online(V5, &device, "meter")
            .telemetry(&format!(r#"{{"ts":1700000000000,"values":{{"{name}":1}}}}"#));
    }
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        let Event::Packet(publish) = listener.next(SOON) else { panic!("only {heard:?} came") };
        assert_eq!(publish.first, 0x30);
        let length = usize::from(u16::from_be_bytes([publish.body[0], publish.body[1]]));
        let (topic, payload) = publish.body[2..].split_at(length);
        heard.insert(format!("{} {}", String::from_utf8_lossy(topic), String::from_utf8_lossy(payload)));
    }
    let message =
        |name: &str| format!(r#"site/{name}/telemetry [{{"ts":1700000000000,"values":{{"{name}":1}}}}]"#);
    assert_eq!(heard, ["fan", "pump"].map(message).into());
}

#[test]
fn a_backlog_of_many_small_readings_fits_what_the_other_end_takes_in_one_message() {
    // 52 KiB hold more of these than the 1,000 readings a forebay takes in one message.
    let site = Site::new(Setup::new(), Setup::new());
    let mut client = site.edge.online(V311, &site.pump, "meter");
    for message in 0..20u64 {
        let readings: Vec<String> = (0..250).map(|n| reading(message * 250 + n)).collect();
        client.telemetry(&format!("[{}]", readings.join(",")));
    }
    site.set_uplink(&mqtt(site.hub.plain()), &[]);
    site.wait_for(5000, AFTER_TROUBLE);
    assert_eq!(site.hub.count("SELECT count(*) FROM quarantine"), 0);
    assert_eq!(site.numbers_at_hub(), values(0..5000));
}
