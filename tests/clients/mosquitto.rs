//! `mosquitto_pub`, `mosquitto_sub` and `mosquitto_rr`, in the three versions of the protocol.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use crate::support::{
    broker::{Broker, Setup},
    wait::SOON,
};

const VERSIONS: [&str; 3] = ["31", "311", "5"];
/// What stands before a message among the lines of `mosquitto_sub -d`.
const MARK: &str = "> ";

/// A broker, and a client's token for it.
struct Place {
    broker: Broker,
    token: String,
}

/// A command that runs on, read line by line.
struct Watched {
    child: Child,
    lines: Receiver<String>,
}

impl Place {
    fn new() -> Self {
        let broker = Broker::start();
        let token = broker.add_client("tester");
        Self { broker, token }
    }

    /// `program` told where the broker is; `stdbuf` because a line must be seen when it is printed.
    fn command(&self, program: &str, version: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program, "-h", "localhost", "-p", &self.broker.plain().port().to_string()]);
        command.args(["-V", version, "-u", &self.token]).args(arguments).stdin(Stdio::null());
        command
    }

    fn publish(&self, version: &str, arguments: &[&str]) {
        let output = self.command("mosquitto_pub", version, arguments).output().expect("it is installed");
        assert!(output.status.success(), "mosquitto_pub {arguments:?}: {}", said(&output));
    }

    /// A `mosquitto_sub` whose subscription has been acknowledged.
    fn subscribe(&self, version: &str, format: &str, arguments: &[&str]) -> Watched {
        let format = format!("{MARK}{format}");
        let mut command = self.command("mosquitto_sub", version, &["-d", "-F", &format]);
        let watched = Watched::start(command.args(arguments));
        watched.until("Subscribed");
        watched
    }
}

impl Watched {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it is installed");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens any more: then the test is over.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The rest of the next line that begins with `beginning`.
    fn until(&self, beginning: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(SOON).unwrap_or_else(|_| panic!("no line begins with {beginning}"));
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    fn message(&self) -> String {
        self.until(MARK)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_qos_arrives_as_it_was_sent_in_every_version() {
    let place = Place::new();
    for version in VERSIONS {
        let watched = place.subscribe(version, "%t %q %r %p", &["-q", "2", "-t", "hall/#"]);
        for from in VERSIONS {
            for qos in ["0", "1", "2"] {
                place.publish(from, &["-q", qos, "-t", "hall/1", "-m", "payload"]);
                assert_eq!(watched.message(), format!("hall/1 {qos} 0 payload"), "{from} to {version}");
            }
        }
    }
}

#[test]
fn wildcards_choose_and_overlapping_subscriptions_bring_one_copy_with_the_highest_qos() {
    let place = Place::new();
    for version in VERSIONS {
        let one_each = place.subscribe(version, "%t", &["-q", "1", "-t", "hall/+/t", "-t", "yard/#"]);
        for topic in ["hall/1/t", "hall/1/2/t", "hall/t", "yard", "garden", "yard/a/b"] {
            place.publish(version, &["-q", "1", "-t", topic, "-m", "x"]);
        }
        let topics: Vec<String> = (0..3).map(|_| one_each.message()).collect();
        assert_eq!(topics, ["hall/1/t", "yard", "yard/a/b"], "{version}");

        let overlapping = place.subscribe(version, "%t %q", &["-q", "2", "-t", "a/#", "-t", "a/+"]);
        place.publish(version, &["-q", "2", "-t", "a/1", "-m", "x"]);
        place.publish(version, &["-q", "2", "-t", "a/2", "-m", "x"]);
        assert_eq!([overlapping.message(), overlapping.message()], ["a/1 2", "a/2 2"], "{version}");
    }
}

#[test]
fn a_killed_client_leaves_its_will() {
    let place = Place::new();
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let watched = place.subscribe(version, "%t %q %p", &["-q", "2", "-t", "gone/#"]);
            let will = ["--will-topic", "gone/v", "--will-payload", "farewell", "--will-qos", qos, "-t", "x"];
            drop(place.subscribe(version, "%p", &will));
            assert_eq!(watched.message(), format!("gone/v {qos} farewell"), "{version}");
        }
    }
}

#[test]
fn version_5_properties_arrive_and_user_properties_keep_their_order() {
    let place = Place::new();
    let identifier = ["-q", "1", "-t", "t", "-D", "subscribe", "subscription-identifier", "77"];
    let watched = place.subscribe("5", "%P|%C|%R|%D|%S|%E|%F", &identifier);
    let mut words = vec!["-q", "1", "-t", "t", "-m", "x"];
    words.extend(["b 1", "a 2", "b 3"].iter().flat_map(|pair| {
        let (name, value) = pair.split_once(' ').expect("a pair");
        ["-D", "publish", "user-property", name, value]
    }));
    for property in [
        ["content-type", "text/plain"],
        ["response-topic", "r"],
        ["correlation-data", "c"],
        ["message-expiry-interval", "1000000"],
        ["payload-format-indicator", "1"],
    ] {
        words.extend(["-D", "publish"].into_iter().chain(property));
    }
    place.publish("5", &words);
    let message = watched.message();
    let fields: Vec<&str> = message.split('|').collect();
    assert_eq!(fields[..5], ["b:1 a:2 b:3", "text/plain", "r", "c", "77"], "{message}");
    let expiry: u32 = fields[5].parse().expect("seconds");
    assert!((999_000..=1_000_000).contains(&expiry), "{message}");
    assert_eq!(fields[6], "1", "{message}");
}

#[test]
fn a_request_is_answered_on_its_response_topic() {
    let place = Place::new();
    let responder = place.subscribe("5", "%R %D %p", &["-q", "1", "-t", "ask"]);
    let words = ["-q", "1", "-t", "ask", "-e", "reply/rr", "-m", "q", "-F", "> %D %p"];
    let correlation = ["-D", "publish", "correlation-data", "c7"];
    let asker = Watched::start(place.command("mosquitto_rr", "5", &words).args(correlation));
    assert_eq!(responder.message(), "reply/rr c7 q");
    place.publish("5", &["-q", "1", "-t", "reply/rr", "-m", "a", "-D", "publish", "correlation-data", "c7"]);
    assert_eq!(asker.message(), "c7 a");
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    let place = Place::new();
    let watched = place.subscribe("5", "%t %p", &["-q", "1", "-t", "long/topic"]);
    let words = ["-q", "1", "-t", "long/topic", "-l", "-D", "publish", "topic-alias", "3"];
    let mut command = place.command("mosquitto_pub", "5", &words);
    let mut publisher = command.stdin(Stdio::piped()).spawn().expect("it is installed");
    publisher.stdin.take().expect("piped").write_all(b"one\ntwo\nthree\n").expect("it reads");
    for expected in ["one", "two", "three"] {
        assert_eq!(watched.message(), format!("long/topic {expected}"));
    }
    assert!(publisher.wait().expect("our child").success());
}

#[test]
fn the_members_of_a_shared_subscription_split_the_messages() {
    let place = Place::new();
    for version in ["311", "5"] {
        let words = ["-q", "1", "-t", "$share/team/job", "-t", "end"];
        let members = [place.subscribe(version, "%p", &words), place.subscribe(version, "%p", &words)];
        for number in 0..6 {
            place.publish(version, &["-q", "1", "-t", "job", "-m", &number.to_string()]);
        }
        place.publish(version, &["-q", "1", "-t", "end", "-m", "end"]);
        let shares = members.each_ref().map(|member| {
            std::iter::repeat_with(|| member.message()).take_while(|text| text != "end").collect::<Vec<_>>()
        });
        let mut all = shares.concat();
        all.sort();
        assert_eq!(all, ["0", "1", "2", "3", "4", "5"], "{version}: {shares:?}");
        assert_eq!(shares.each_ref().map(Vec::len), [3, 3], "{version}: {shares:?}");
    }
}

#[test]
fn retained_messages_are_found_told_as_such_and_removed() {
    let place = Place::new();
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let watched = place.subscribe(version, "%t %q %r %p", &["-q", "2", "-t", "state/#"]);
            place.publish(version, &["-q", qos, "-t", "state/lamp", "-r", "-m", "on"]);
            assert_eq!(watched.message(), format!("state/lamp {qos} 0 on"), "{version}");
            let late = place.subscribe(version, "%t %q %r %p", &["-q", "1", "-t", "state/+"]);
            let granted = if qos == "2" { "1" } else { qos };
            assert_eq!(late.message(), format!("state/lamp {granted} 1 on"), "{version}");
            let remove = ["-t", "state/#", "--remove-retained", "--retained-only", "-W", "1"];
            place.command("mosquitto_sub", version, &remove).output().expect("it is installed");
            assert!(watched.message().ends_with(" 0 "), "{version}: empty, and not told as retained");
            place.publish(version, &["-t", "state/end", "-r", "-m", "end"]);
            let later = place.subscribe(version, "%t %p", &["-t", "state/+"]);
            assert_eq!(later.message(), "state/end end", "{version}");
            place.publish(version, &["-t", "state/end", "-r", "-n"]);
        }
    }
}

#[test]
fn retain_as_published_is_what_version_5_makes_of_it() {
    let place = Place::new();
    place.publish("5", &["-q", "1", "-t", "state/lamp", "-r", "-m", "on"]);
    let watched = place.subscribe("5", "%r", &["-q", "1", "-t", "state/+", "--retain-as-published"]);
    place.publish("5", &["-q", "1", "-t", "state/lamp", "-r", "-m", "off"]);
    assert_eq!([watched.message(), watched.message()], ["1", "1"]);
}

#[test]
fn a_session_goes_on_over_the_brokers_death_with_what_came_meanwhile() {
    let mut place = Place::new();
    for version in VERSIONS {
        let name = format!("keeper {version}");
        let lives: &[&str] = if version == "5" { &["-x", "600"] } else { &[] };
        let words = [&["-i", &name, "-c", "-q", "2", "-t", "kept/#"][..], lives].concat();
        let leaving = [&words[..], &["-E"]].concat();
        let output = place.command("mosquitto_sub", version, &leaving).output().expect("it is installed");
        assert!(output.status.success(), "{version}: {}", said(&output));
        for (qos, payload) in [("1", "one"), ("1", "two"), ("2", "three")] {
            place.publish(version, &["-q", qos, "-t", "kept/1", "-m", payload]);
        }
        place.broker.kill9();
        place.broker.restart();
        // What waited comes before the subscription is answered.
        let back = Watched::start(place.command("mosquitto_sub", version, &["-F", "> %q %p"]).args(&words));
        let came = [back.message(), back.message(), back.message()];
        assert_eq!(came, ["1 one", "1 two", "2 three"], "{version}");
        drop(back);
        // The next one has another topic to listen to, and nothing to find.
        let clean = ["-i", &name, "-t", "none", "-E"];
        assert!(place.command("mosquitto_sub", version, &clean).output().expect("it is").status.success());
    }
}

#[test]
fn a_will_waits_for_its_delay_and_for_nothing_if_its_client_is_back() {
    let place = Place::new();
    let watched = place.subscribe("5", "%p", &["-q", "1", "-t", "gone/#"]);
    let words = |name: &'static str, delay: &'static str| {
        let will = ["--will-topic", "gone/v", "--will-payload", name, "--will-qos", "1"];
        let session = ["-i", name, "-c", "-x", "600", "-t", "x", "-D", "will", "will-delay-interval", delay];
        [&will[..], &session].concat()
    };
    drop(place.subscribe("5", "%p", &words("back in time", "2")));
    let _back = place.subscribe("5", "%p", &words("back in time", "2"));
    // Gone later and to wait for as long: so the other one would have been first.
    drop(place.subscribe("5", "%p", &words("gone", "2")));
    assert_eq!(watched.message(), "gone");
}

#[test]
fn tls_with_the_root_of_certs_init_carries_messages_both_ways() {
    let broker = Setup::new().with_tls().start();
    let token = broker.add_client("tester");
    let root = broker.certificates().join("ca-root.pem");
    let root = root.to_str().expect("a plain path");
    let place = Place { broker, token };
    let port = place.broker.tls().port().to_string();
    for version in VERSIONS {
        let over_tls = ["--cafile", root, "-p", &port, "-q", "2", "-t", "t"];
        let watched = place.subscribe(version, "%q %p", &over_tls);
        place.publish(version, &[&over_tls[..], &["-m", "secret"]].concat());
        assert_eq!(watched.message(), "2 secret", "{version}");
    }
}

#[test]
fn a_wrong_token_is_refused() {
    let place = Place::new();
    for (version, code) in [("31", 5), ("311", 5), ("5", 0x86)] {
        let words = ["-u", "wrong", "-t", "t", "-m", "x"];
        let output = place.command("mosquitto_pub", version, &words).output().expect("it is installed");
        assert_eq!(output.status.code(), Some(code), "{version}: {}", said(&output));
    }
}
