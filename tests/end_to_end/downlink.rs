//! What the hub sends to devices, what they answer, and who the hub is told is there: through a gateway, over sockets.
//!
//! Mosquitto carries the messages; a client of it plays the hub.

use std::{io::Write as _, process::Stdio};

use crate::{
    support::{
        broker::Broker,
        client::{Client, Event},
        home::stderr,
        packets::{Connect, PUBACK, ack},
        relay::Relay,
        wait::SOON,
        wire::{Reply, Version, publish, subscribe},
    },
    uplink::Mosquitto,
};

use Version::{V5, V311};

const ATTRIBUTES: &str = "v1/devices/me/attributes";
const RPC: &str = "v1/devices/me/rpc/request/+";

/// The hub: it hears everything that is said to it, and says things itself.
struct Hub {
    client: Client,
    /// Between it and the gateway.
    relay: Relay,
    mosquitto: Mosquitto,
}

impl Hub {
    /// A hub, and a gateway that has been let in by it.
    fn with_gateway() -> Option<(Self, Broker)> {
        let mosquitto = Mosquitto::start()?;
        let mut client = Client::dial(mosquitto.address);
        assert_eq!(client.ask_in(V311, &Connect::new(V311, "hub")).connack(), Some(0));
        client.send(&subscribe(V311, 1, &[("v1/#", 0)]));
        assert_eq!(client.packet().codes(V311, 1), Some(&[0][..]));
        let edge = Broker::start();
        let relay = Relay::start();
        relay.lead_to(mosquitto.address);
        let url = format!("mqtt://{}", relay.address());
        let mut command = edge.command(&["uplink", "set", &url, "--token", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("forebay starts");
        writeln!(child.stdin.take().expect("it is piped"), "AnyTokenWillDo").expect("it listens");
        let output = child.wait_with_output().expect("our child");
        assert!(output.status.success(), "{}", stderr(&output));
        let mut hub = Self { client, relay, mosquitto };
        hub.tells_limits();
        Some((hub, edge))
    }

    /// Answers the first question of a new connection.
    fn tells_limits(&mut self) {
        self.hears("v1/devices/me/rpc/request/1", r#"{"method":"getSessionLimits","params":{}}"#);
        self.says("v1/devices/me/rpc/response/1", r#"{"maxPayloadSize":65536,"rateLimits":{}}"#);
    }

    fn says(&mut self, topic: &str, payload: &str) {
        self.client.send(&publish(V311, topic, 0, 0, payload));
    }

    /// Waits for exactly this message; others, its own among them, are passed over.
    fn hears(&mut self, topic: &str, payload: &str) {
        loop {
            let Event::Packet(reply) = self.client.next(SOON) else { panic!("no {payload} on {topic}") };
            if message(&reply) == (topic.to_owned(), payload.to_owned()) {
                return;
            }
        }
    }
}

/// Topic and payload of a PUBLISH of version 3.1.1.
fn message(reply: &Reply) -> (String, String) {
    assert_eq!(reply.first & 0xF0, 0x30, "{reply:?}");
    let length = usize::from(u16::from_be_bytes([reply.body[0], reply.body[1]]));
    let (topic, rest) = reply.body[2..].split_at(length);
    let payload = if reply.first & 0x06 == 0 { rest } else { &rest[2..] };
    (String::from_utf8_lossy(topic).into_owned(), String::from_utf8_lossy(payload).into_owned())
}

/// Takes the next message, which must be this one, and acknowledges it.
fn takes(client: &mut Client, topic: &str, payload: &str) {
    let reply = client.packet();
    assert_eq!(message(&reply), (topic.to_owned(), payload.to_owned()));
    let at = 2 + topic.len();
    let id = u16::from_be_bytes([reply.body[at], reply.body[at + 1]]);
    client.send(&ack(PUBACK, id));
}

fn subscribed(broker: &Broker, name: &str) -> Client {
    let device = broker.add_device(name);
    let mut client = broker.online(V311, &device, "meter");
    client.send(&subscribe(V311, 7, &[(ATTRIBUTES, 1), (RPC, 1)]));
    assert_eq!(client.packet().codes(V311, 7), Some(&[1, 1][..]));
    client
}

#[test]
fn attributes_and_commands_reach_the_device_they_name_and_its_answers_the_hub() {
    let Some((mut hub, edge)) = Hub::with_gateway() else { return };
    let (mut pump, mut fan) = (subscribed(&edge, "pump"), subscribed(&edge, "fan"));
    hub.hears("v1/gateway/connect", r#"{"device":"pump"}"#);
    hub.says("v1/gateway/attributes", r#"{"device":"pump","data":{"limit":2.50}}"#);
    takes(&mut pump, ATTRIBUTES, r#"{"limit":2.50}"#);
    hub.says("v1/gateway/rpc", r#"{"device":"pump","data":{"id":7,"method":"open","params":{"by":1}}}"#);
    takes(&mut pump, "v1/devices/me/rpc/request/7", r#"{"method":"open","params":{"by":1}}"#);
    assert_eq!(pump.publish("v1/devices/me/rpc/response/7", r#"{"ok":true}"#), 0);
    hub.hears("v1/gateway/rpc", r#"{"device":"pump","id":7,"data":{"ok":true}}"#);
    assert!(fan.ping(SOON), "not a word of it came to another device");
    let report = edge.must(&["status", "--json"]).replace(' ', "");
    assert!(report.contains("\"downlinks\":2"), "{report}");
}

#[test]
fn whoever_commands_a_device_that_is_not_there_is_told_so() {
    let Some((mut hub, edge)) = Hub::with_gateway() else { return };
    let pump = edge.add_device("pump");
    let _pump = edge.online(V311, &pump, "meter");
    hub.hears("v1/gateway/connect", r#"{"device":"pump"}"#);
    for (name, why) in [("fan", "device is not connected"), ("pump", "device has not subscribed to commands")]
    {
        hub.says("v1/gateway/rpc", &format!(r#"{{"device":"{name}","data":{{"id":3,"method":"m"}}}}"#));
        let answer = format!(r#"{{"device":"{name}","id":3,"data":{{"error":"{why}"}}}}"#);
        hub.hears("v1/gateway/rpc", &answer);
    }
}

#[test]
fn the_hub_is_told_who_comes_and_goes_and_again_after_a_new_connection() {
    let Some((mut hub, edge)) = Hub::with_gateway() else { return };
    let (pump, fan) = (edge.add_device("pump"), edge.add_device("fan"));
    let stays = edge.online(V311, &pump, "meter");
    hub.hears("v1/gateway/connect", r#"{"device":"pump"}"#);
    let mut goes = edge.online(V5, &fan, "meter");
    goes.telemetry(r#"{"n":1}"#);
    hub.hears("v1/gateway/connect", r#"{"device":"fan"}"#);
    drop(goes);
    hub.hears("v1/gateway/disconnect", r#"{"device":"fan"}"#);
    hub.relay.cut();
    hub.relay.lead_to(hub.mosquitto.address);
    hub.tells_limits();
    hub.hears("v1/gateway/connect", r#"{"device":"pump"}"#);
    drop(stays);
    hub.hears("v1/gateway/disconnect", r#"{"device":"pump"}"#);
}

#[test]
fn an_answer_that_cannot_go_to_the_hub_is_refused() {
    let edge = Broker::start();
    let pump = edge.add_device("pump");
    let mut client = edge.online(V5, &pump, "meter");
    assert_eq!(client.publish("v1/devices/me/rpc/response/7", "{}"), 0x83);
    assert_eq!(client.publish("v1/devices/me/rpc/response/x", "{}"), 0x99);
    client.telemetry(r#"{"n":1}"#);
    let mut old = edge.online(V311, &pump, "old");
    assert_eq!(old.publish("v1/devices/me/rpc/response/7", "{}"), 0);
}
