//! A broker with one local client's token on it, and peers that speak to it.

use std::{env, net::SocketAddr, time::Duration};

use crate::support::{
    broker::{Broker, Setup},
    client::{Client, Event},
    packets::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Property, Publish, ack, read_properties},
    wait::SOON,
    wire::{PINGREQ, Reply, Version, subscribe, unsubscribe},
};

use Version::{V5, V311};

/// The versions that most rules are tested in.
pub const BOTH: [Version; 2] = [V311, V5];

/// What lies between two connections of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Nothing else.
    Reconnect,
    /// A clean end and a new start of the broker.
    Stop,
    /// The broker's sudden death and a new start.
    Kill,
}

/// Every gap in every version.
pub fn gaps() -> impl Iterator<Item = (Version, Gap)> {
    BOTH.into_iter().flat_map(|version| [Gap::Reconnect, Gap::Stop, Gap::Kill].map(|gap| (version, gap)))
}

/// Where peers connect.
pub struct World {
    broker: Option<Broker>,
    address: SocketAddr,
    /// The user name of every peer, unless a test says otherwise.
    pub token: String,
}

/// A connection that was let in.
pub struct Peer {
    /// The bytes below.
    pub client: Client,
    pub version: Version,
    is_durable: bool,
    last_id: u16,
    /// What let it in.
    pub connack: Reply,
}

impl World {
    /// Default limits, but for what one address and one client may have.
    pub fn new() -> Self {
        Self::with(Setup::new())
    }

    /// With what a test has set.
    pub fn with(setup: Setup) -> Self {
        if let Ok(address) = env::var("CONFORMANCE_ADDRESS") {
            let address = address.parse().expect("CONFORMANCE_ADDRESS is an address and a port");
            return Self { broker: None, address, token: "anybody".to_owned() };
        }
        let setup =
            setup.limit("connections_per_device", 100).limit("refusals_per_address", 100_000).hurried();
        let token = setup.home().must(&["client", "add", "peers"]).trim_end().to_owned();
        let broker = setup.start();
        Self { address: broker.plain(), broker: Some(broker), token }
    }

    /// The broker itself, for what only ours has.
    pub fn ours(&self) -> &Broker {
        self.broker.as_ref().expect("this test is about our broker alone")
    }

    /// A connection that has sent nothing.
    pub fn dial(&self) -> Client {
        Client::dial(self.address)
    }

    /// A CONNECT with the world's token.
    pub fn hello(&self, version: Version, client_id: &str) -> Connect {
        Connect::new(version, client_id).user(&self.token)
    }

    /// Sends a CONNECT that must let in.
    pub fn connect(&self, hello: &Connect) -> Peer {
        let mut client = self.dial();
        client.send(&hello.bytes());
        let connack = client.packet();
        assert_eq!(connack.connack(), Some(0), "it is let in, got {connack:02X?}");
        Peer { client, version: hello.version, is_durable: !hello.clean, last_id: 0, connack }
    }

    /// A CONNECT for a session that outlives its connection, new or gone on with.
    pub fn durable(&self, version: Version, client_id: &str) -> Connect {
        self.hello(version, client_id).durable()
    }

    /// Sends a CONNECT that must find a session, or must find none.
    #[track_caller]
    pub fn connect_finding(&self, hello: &Connect, present: bool) -> Peer {
        let peer = self.connect(hello);
        assert_eq!(peer.connack.body[0], u8::from(present), "session present [MQTT-3.2.2-2]");
        peer
    }

    /// A new session that outlives its connection.
    #[track_caller]
    pub fn settle(&self, version: Version, client_id: &str) -> Peer {
        if self.broker.is_none() {
            // Another broker than ours lives longer than one test.
            self.peer(version, client_id).leave();
        }
        self.connect_finding(&self.durable(version, client_id), false)
    }

    /// A new session that outlives its connection, with a subscription.
    #[track_caller]
    pub fn settle_on(&self, version: Version, client_id: &str, filter: &str, qos: u8) -> Peer {
        let mut peer = self.settle(version, client_id);
        assert_eq!(peer.subscribe(&[(filter, qos)]), [qos], "{filter} is granted");
        peer
    }

    /// The client is back, and its session is there.
    #[track_caller]
    pub fn resume(&self, version: Version, client_id: &str) -> Peer {
        self.connect_finding(&self.durable(version, client_id), true)
    }

    /// Lets happen what lies between two connections; another broker than ours is left running.
    pub fn pass(&mut self, gap: Gap) {
        let Some(broker) = self.broker.as_mut() else { return };
        match gap {
            Gap::Reconnect => return,
            Gap::Stop => broker.stop(),
            Gap::Kill => broker.kill9(),
        }
        broker.restart();
        self.address = broker.plain();
    }

    /// A peer with a clean session.
    pub fn peer(&self, version: Version, client_id: &str) -> Peer {
        self.connect(&self.hello(version, client_id))
    }

    /// A peer that has subscribed to one filter.
    pub fn subscriber(&self, version: Version, client_id: &str, filter: &str, options: u8) -> Peer {
        let mut peer = self.peer(version, client_id);
        assert_eq!(peer.subscribe(&[(filter, options)]), [options & 3], "{filter} is granted");
        peer
    }

    /// What comes back for bytes of a stranger until the connection ends, which it must.
    pub fn turned_away(&self, bytes: &[u8]) -> Vec<Reply> {
        let mut client = self.dial();
        client.send(bytes);
        client.until_closed(SOON)
    }
}

impl Peer {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.client.send(bytes);
    }

    /// A packet identifier it has not used yet.
    pub fn fresh_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    /// The next packet is exactly this one.
    #[track_caller]
    pub fn gets(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let expected = Reply::take(&mut bytes).expect("a whole packet is expected");
        let got = self.client.next(SOON);
        assert_eq!(got, Event::Packet(expected), "the next packet");
    }

    /// The next packet, which is a PUBLISH.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        let event = self.client.next(SOON);
        let Event::Packet(reply) = &event else { panic!("expected a PUBLISH, got {event:?}") };
        Publish::read(self.version, reply).unwrap_or_else(|| panic!("expected a PUBLISH, got {reply:02X?}"))
    }

    /// The next packet is a PUBLISH of this payload; its exchange is completed from our side.
    #[track_caller]
    pub fn takes(&mut self, payload: &str) -> Publish {
        let message = self.message();
        assert_eq!(message.told().1, payload, "the next message is {message:?}");
        self.accept(&message);
        message
    }

    /// Takes the next message and gives its payload.
    #[track_caller]
    pub fn message_taken(&mut self) -> String {
        let message = self.message();
        self.accept(&message);
        message.told().1.to_owned()
    }

    /// Says what ends the exchange of a PUBLISH.
    #[track_caller]
    pub fn accept(&mut self, message: &Publish) {
        match message.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, message.id)),
            _ => {
                self.send(&ack(PUBREC, message.id));
                self.gets(&ack(PUBREL, message.id));
                self.send(&ack(PUBCOMP, message.id));
            }
        }
    }

    /// Sends a PUBLISH and nothing more.
    pub fn sends(&mut self, message: &Publish) {
        let bytes = message.bytes(self.version);
        self.send(&bytes);
    }

    /// Publishes to the end of the exchange, which must go well.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &str) {
        self.publish_whole(Publish::new(topic, payload), qos);
    }

    /// The same for a message that is more than topic and payload.
    #[track_caller]
    pub fn publish_whole(&mut self, message: Publish, qos: u8) {
        let id = if qos > 0 { self.fresh_id() } else { 0 };
        self.sends(&message.qos(qos, id));
        match qos {
            0 => {}
            1 => assert!(self.acked(PUBACK, id) < 0x80, "it may be published"),
            _ => {
                assert!(self.acked(PUBREC, id) < 0x80, "it may be published");
                self.send(&ack(PUBREL, id));
                assert_eq!(self.acked(PUBCOMP, id), 0);
            }
        }
    }

    /// The code of the next packet, which is an acknowledgement of this kind and identifier.
    #[track_caller]
    pub fn acked(&mut self, first: u8, id: u16) -> u8 {
        let reply = self.client.packet();
        assert_eq!((reply.first, &reply.body[..2]), (first, &id.to_be_bytes()[..]), "got {reply:02X?}");
        if self.version != V5 {
            assert_eq!(reply.body.len(), 2, "before 5.0 there is nothing behind the identifier");
        }
        reply.body.get(2).copied().unwrap_or(0)
    }

    /// Subscribes; gives the codes of the SUBACK, which must be the next packet.
    #[track_caller]
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        let id = self.fresh_id();
        let bytes = subscribe(self.version, id, filters);
        self.send(&bytes);
        self.codes(0x90, id)
    }

    /// Ends subscriptions; gives the codes of the UNSUBACK, of which there are none before 5.0.
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.fresh_id();
        let bytes = unsubscribe(self.version, id, filters);
        self.send(&bytes);
        self.codes(0xB0, id)
    }

    /// The codes of the SUBACK or UNSUBACK that comes next.
    #[track_caller]
    pub fn codes(&mut self, first: u8, id: u16) -> Vec<u8> {
        let reply = self.client.packet();
        assert_eq!(reply.first, first, "got {reply:02X?}");
        reply.codes(self.version, id).unwrap_or_else(|| panic!("it answers {id}: {reply:02X?}")).to_vec()
    }

    /// Nothing has come, and the connection lives.
    #[track_caller]
    pub fn hears_nothing(&mut self) {
        if self.is_durable {
            // What is held until it is on disk comes before this is answered.
            self.publish("to/nobody", 1, "");
        }
        self.send(&PINGREQ);
        self.gets(&[0xD0, 0x00]);
    }

    /// The connection ends: silently before 5.0, behind a DISCONNECT in it, whose code this is.
    #[track_caller]
    pub fn is_dismissed(&mut self) -> Option<u8> {
        let replies = self.client.until_closed(SOON);
        if self.version != V5 {
            assert_eq!(replies, [], "before 5.0 a server closes without a word");
            return None;
        }
        let [disconnect] = &replies[..] else {
            panic!("one DISCONNECT and nothing else, got {replies:02X?}")
        };
        let code = disconnect.disconnect().unwrap_or_else(|| panic!("a DISCONNECT, got {disconnect:02X?}"));
        assert!(code >= 0x80, "a code that says what was wrong, got {code:#04x}");
        Some(code)
    }

    /// Whether it is told this code, if its version has codes.
    #[track_caller]
    pub fn is_dismissed_with(&mut self, wanted: u8) {
        if let Some(code) = self.is_dismissed() {
            assert_eq!(code, wanted, "the code of the DISCONNECT, got {code:#04x}");
        }
    }

    /// Whether nothing comes for as long as this. Only for what takes its time by the standard.
    #[track_caller]
    pub fn waits_in_vain(&mut self, within: Duration) {
        assert_eq!(self.client.next(within), Event::Silence);
    }

    /// The properties of its CONNACK.
    pub fn connack_properties(&self) -> Vec<Property> {
        read_properties(&self.connack.body[2..]).0
    }

    /// The value of a numeric property of its CONNACK.
    pub fn told_in_connack(&self, id: u8) -> Option<u32> {
        self.connack.connack_property(id)
    }

    /// Ends the connection without a DISCONNECT, and waits until the broker has noticed.
    pub fn vanish(mut self) {
        self.client.finish_sending();
        self.client.until_closed(SOON);
    }

    /// Takes messages, however many come at once, and completes the exchange of each, until `is_enough`.
    #[track_caller]
    pub fn collect(&mut self, mut is_enough: impl FnMut(&[Publish]) -> bool) -> Vec<Publish> {
        let (mut messages, mut unreleased) = (Vec::new(), 0);
        while !is_enough(&messages) || unreleased > 0 {
            let reply = self.client.packet();
            if let Some(message) = Publish::read(self.version, &reply) {
                match message.qos {
                    0 => {}
                    1 => self.send(&ack(PUBACK, message.id)),
                    _ => self.send(&ack(PUBREC, message.id)),
                }
                unreleased += usize::from(message.qos == 2);
                messages.push(message);
            } else {
                assert_eq!(reply.first, PUBREL, "a PUBLISH or PUBREL, got {reply:02X?}");
                self.send(&[&[PUBCOMP, 2][..], &reply.body[..2]].concat());
                unreleased -= 1;
            }
        }
        messages
    }

    /// Takes exactly the messages of these payloads, in this order, and nothing more.
    #[track_caller]
    pub fn takes_all(&mut self, payloads: &[&str]) -> Vec<Publish> {
        let messages = self.collect(|messages| messages.len() >= payloads.len());
        let told: Vec<&str> = messages.iter().map(|message| message.told().1).collect();
        assert_eq!(told, payloads);
        self.hears_nothing();
        messages
    }

    /// DISCONNECT, and waits for the end.
    pub fn leave(mut self) {
        self.send(&[0xE0, 0x00]);
        let last = self.client.until_closed(SOON);
        assert_eq!(last, [], "nothing follows a DISCONNECT");
    }
}
