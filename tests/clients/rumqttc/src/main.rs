//! Scenarios for rumqttc: rumqttc-scenarios SCENARIO HOST PORT TOKEN [CA]. Exits 0 if the scenario held.

use std::{
    collections::VecDeque,
    env, fs,
    time::{Duration, Instant},
};

use rumqttc::Transport;

const SOON: Duration = Duration::from_secs(20);

/// A message as it came.
#[derive(Debug, PartialEq)]
struct Message {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
}

impl Message {
    fn told(&self) -> (&str, &[u8], u8, bool) {
        (&self.topic, &self.payload, self.qos, self.retain)
    }
}

/// What a client asks for.
#[derive(Clone, Default)]
struct Wish {
    name: &'static str,
    durable: bool,
    /// Payload, QoS, delay in seconds.
    will: Option<(&'static str, u8, u32)>,
    token: Option<&'static str>,
}

fn wish(name: &'static str) -> Wish {
    Wish { name, ..Wish::default() }
}

/// One of the program's arguments.
fn argument(number: usize) -> String {
    env::args().nth(number).expect("SCENARIO HOST PORT TOKEN [CA]")
}

fn port() -> u16 {
    argument(3).parse().expect("a port")
}

fn transport() -> Transport {
    match env::args().nth(5) {
        Some(ca) => Transport::tls(fs::read(ca).expect("a certificate"), None, None),
        None => Transport::tcp(),
    }
}

/// What is the same in both halves of the library, but for the types.
macro_rules! client {
    () => {
        pub struct Client {
            requests: AsyncClient,
            events: EventLoop,
            messages: VecDeque<Message>,
            pub session_present: bool,
        }

        impl Client {
            /// Connects; gives the code of a refusal.
            pub async fn ask_in(wish: Wish) -> Result<Self, String> {
                let (requests, mut events) = AsyncClient::new(options(&wish), 10);
                loop {
                    match events.poll().await {
                        Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                            let (messages, session_present) = (VecDeque::new(), ack.session_present);
                            return Ok(Self { requests, events, messages, session_present });
                        }
                        Ok(_) => {}
                        Err(ConnectionError::ConnectionRefused(code)) => return Err(format!("{code:?}")),
                        Err(error) => panic!("{error}"),
                    }
                }
            }

            pub async fn connect(wish: Wish) -> Self {
                Self::ask_in(wish).await.expect("it is let in")
            }

            /// Waits for an event; messages are kept for later.
            async fn until(&mut self, is_it: impl Fn(&Event) -> bool) {
                loop {
                    let event = self.events.poll().await.expect("the connection lives");
                    if let Event::Incoming(Packet::Publish(publish)) = &event {
                        let topic: &[u8] = publish.topic.as_ref();
                        self.messages.push_back(Message {
                            topic: String::from_utf8(topic.to_vec()).expect("UTF-8"),
                            payload: publish.payload.to_vec(),
                            qos: publish.qos as u8,
                            retain: publish.retain,
                        });
                    }
                    if is_it(&event) {
                        return;
                    }
                }
            }

            pub async fn subscribe(mut self, filter: &str, granted: u8) -> Self {
                self.requests.subscribe(filter, qos(granted)).await.expect("it is sent");
                self.until(|event| matches!(event, Event::Incoming(Packet::SubAck(_)))).await;
                self
            }

            pub async fn publish(&mut self, topic: &str, at: u8, retain: bool, payload: &[u8]) {
                let request = self.requests.publish(topic, qos(at), retain, payload.to_vec());
                request.await.expect("it is sent");
                self.until(|event| match (event, at) {
                    (Event::Outgoing(Outgoing::Publish(_)), 0) => true,
                    (Event::Incoming(Packet::PubAck(_)), 1) => true,
                    (Event::Incoming(Packet::PubComp(_)), 2) => true,
                    _ => false,
                })
                .await;
            }

            pub async fn next(&mut self) -> Message {
                while self.messages.is_empty() {
                    self.until(|event| matches!(event, Event::Incoming(Packet::Publish(_)))).await;
                }
                self.messages.pop_front().expect("one is there")
            }

            pub async fn leave(mut self) {
                self.requests.disconnect().await.expect("it is sent");
                self.until(|event| matches!(event, Event::Outgoing(Outgoing::Disconnect))).await;
            }
        }

        fn qos(qos: u8) -> QoS {
            [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)]
        }

        pub async fn each_qos(at: u8) {
            let mut client = Client::connect(wish("both")).await.subscribe("hall/+", at).await;
            client.publish("hall/1", at, false, b"a\0b").await;
            assert_eq!(client.next().await.told(), ("hall/1", &b"a\0b"[..], at, false));
            client.leave().await;
        }

        pub async fn will() {
            let mut watcher = Client::connect(wish("watcher")).await.subscribe("gone/+", 2).await;
            for at in 0..3 {
                drop(Client::connect(Wish { will: Some(("farewell", at, 0)), ..wish("victim") }).await);
                assert_eq!(watcher.next().await.told(), ("gone/victim", &b"farewell"[..], at, false));
            }
        }

        pub async fn retained() {
            let mut publisher = Client::connect(wish("publisher")).await;
            let mut watcher = Client::connect(wish("watcher")).await.subscribe("state/#", 1).await;
            publisher.publish("state/lamp", 1, true, b"on").await;
            assert_eq!(watcher.next().await.told(), ("state/lamp", &b"on"[..], 1, false));
            let mut late = Client::connect(wish("late")).await.subscribe("state/+", 2).await;
            assert_eq!(late.next().await.told(), ("state/lamp", &b"on"[..], 1, true));
            publisher.publish("state/lamp", 1, true, b"").await;
            publisher.publish("state/end", 1, true, b"end").await;
            let mut later = Client::connect(wish("later")).await.subscribe("state/+", 2).await;
            assert_eq!(later.next().await.topic, "state/end");
            publisher.publish("state/end", 1, true, b"").await;
        }

        pub async fn session_begins() {
            let keeper = Client::connect(Wish { durable: true, ..wish(KEEPER) }).await;
            assert!(!keeper.session_present);
            keeper.subscribe(&format!("{KEEPER}/#"), 2).await.leave().await;
            let mut publisher = Client::connect(wish("publisher")).await;
            publisher.publish(&format!("{KEEPER}/1"), 1, false, b"one").await;
            publisher.publish(&format!("{KEEPER}/2"), 2, true, b"two").await;
            let keeper = Client::connect(Wish { durable: true, ..wish(KEEPER) }).await;
            assert!(keeper.session_present);
        }

        pub async fn session_goes_on() {
            let mut keeper = Client::connect(Wish { durable: true, ..wish(KEEPER) }).await;
            assert!(keeper.session_present);
            let topics = [format!("{KEEPER}/1"), format!("{KEEPER}/2")];
            assert_eq!(keeper.next().await.told(), (&topics[0][..], &b"one"[..], 1, false));
            assert_eq!(keeper.next().await.told(), (&topics[1][..], &b"two"[..], 2, false));
            keeper.leave().await;
            let mut late = Client::connect(wish("late")).await.subscribe(&format!("{KEEPER}/+"), 2).await;
            assert_eq!(late.next().await.told(), (&topics[1][..], &b"two"[..], 2, true));
            late.publish(&topics[1], 1, true, b"").await;
            let end = Client::connect(wish(KEEPER)).await;
            assert!(!end.session_present);
        }

        pub async fn wrong_token() {
            let refused = Client::ask_in(Wish { token: Some("wrong"), ..wish("both") }).await;
            assert_eq!(refused.err().as_deref(), Some(REFUSED));
        }
    };
}

/// MQTT 3.1.1.
mod v4 {
    use rumqttc::{
        AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, QoS,
    };

    use super::*;

    /// A client that keeps its session, and where it is told things.
    const KEEPER: &str = "kept/4";
    const REFUSED: &str = "NotAuthorized";

    fn options(wish: &Wish) -> MqttOptions {
        let mut options = MqttOptions::new(wish.name, argument(2), port());
        options.set_credentials(wish.token.map_or_else(|| argument(4), str::to_owned), "");
        options.set_transport(transport()).set_clean_session(!wish.durable);
        options.set_max_packet_size(1 << 20, 1 << 20);
        if let Some((payload, at, _)) = wish.will {
            options.set_last_will(LastWill::new("gone/victim", payload, qos(at), false));
        }
        options
    }

    client!();
}

/// MQTT 5.0.
mod v5 {
    use rumqttc::{
        Outgoing,
        v5::{
            AsyncClient, ConnectionError, Event, EventLoop, MqttOptions,
            mqttbytes::{
                QoS,
                v5::{LastWill, LastWillProperties, Packet},
            },
        },
    };

    use super::*;

    /// A client that keeps its session, and where it is told things.
    const KEEPER: &str = "kept/5";
    const REFUSED: &str = "BadUserNamePassword";

    fn options(wish: &Wish) -> MqttOptions {
        let mut options = MqttOptions::new(wish.name, argument(2), port());
        options.set_credentials(wish.token.map_or_else(|| argument(4), str::to_owned), "");
        options.set_transport(transport()).set_clean_start(!wish.durable);
        options.set_max_packet_size(Some(1 << 20));
        if wish.durable {
            options.set_session_expiry_interval(Some(600));
        }
        if let Some((payload, at, delay_s)) = wish.will {
            let properties = LastWillProperties {
                delay_interval: Some(delay_s),
                payload_format_indicator: None,
                message_expiry_interval: None,
                content_type: None,
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            };
            options.set_last_will(LastWill::new("gone/victim", payload, qos(at), false, Some(properties)));
        }
        options
    }

    client!();

    pub async fn will_delay() {
        let mut watcher = Client::connect(wish("watcher")).await.subscribe("gone/+", 1).await;
        // The second is back in time, so the will of the first is never heard.
        for payload in ["too early", "farewell"] {
            let victim = Wish { durable: true, will: Some((payload, 1, 1)), ..wish("victim") };
            assert_eq!(Client::connect(victim).await.session_present, payload == "farewell");
        }
        let since = Instant::now();
        assert_eq!(watcher.next().await.told(), ("gone/victim", &b"farewell"[..], 1, false));
        assert!(since.elapsed() > Duration::from_millis(900));
    }
}

async fn run(scenario: &str) {
    match scenario {
        "will_delay" => return v5::will_delay().await,
        "tls" => _ = rustls::crypto::ring::default_provider().install_default(),
        _ => {}
    }
    match scenario {
        "qos_0" => (v4::each_qos(0).await, v5::each_qos(0).await),
        "qos_1" => (v4::each_qos(1).await, v5::each_qos(1).await),
        "qos_2" | "tls" => (v4::each_qos(2).await, v5::each_qos(2).await),
        "will" => (v4::will().await, v5::will().await),
        "retained" => (v4::retained().await, v5::retained().await),
        "session_begins" => (v4::session_begins().await, v5::session_begins().await),
        "session_goes_on" => (v4::session_goes_on().await, v5::session_goes_on().await),
        "wrong_token" => (v4::wrong_token().await, v5::wrong_token().await),
        other => panic!("no scenario {other}"),
    };
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(SOON, run(&argument(1))).await.expect("it is done soon");
    });
}
