//! What readings drain into: the model hub in gateway mode, or mosquitto with somebody who listens.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    hub::{Arrival, HubRate, Manners},
    mosquitto::Mosquitto,
    served_hub::ServedHub,
    support::{
        client::{Client, Event},
        packets::Connect,
        wait::SOON,
        wire::{Version, packet, subscribe},
    },
};

/// The other end of the uplink.
pub enum FarEnd {
    Hub { server: ServedHub, name: &'static str },
    Broker { server: Mosquitto, heard: Heard },
}

type Heard = Arc<Mutex<Vec<(Instant, Arrival)>>>;

#[derive(serde::Deserialize)]
struct Entry {
    ts: i64,
    values: Box<serde_json::value::RawValue>,
}

impl FarEnd {
    pub fn hub() -> Self {
        Self::Hub { server: ServedHub::start(Manners::good()), name: "model hub, gateway mode" }
    }

    /// A hub that takes so much in a second, says so, and closes on who sends more.
    pub fn hub_with_rates() -> Self {
        let second = Duration::from_secs(1);
        let rates = vec![
            HubRate { messages: true, count: 100, period: second },
            HubRate { messages: false, count: 20_000, period: second },
        ];
        let server = ServedHub::start(Manners { rates, ..Manners::good() });
        Self::Hub { server, name: "model hub that takes 100 messages and 20,000 values a second" }
    }

    /// mosquitto, and a subscriber to everything that comes.
    pub fn mosquitto() -> Self {
        // Whoever listens is not to miss any because it is slower.
        let server = Mosquitto::start_with("max_queued_messages 0");
        let heard = Heard::default();
        let (address, sink) = (server.peer().plain, Arc::clone(&heard));
        let mut listener = Client::dial(address);
        let connect = Connect::new(Version::V311, "listener").keep_alive_s(0);
        assert_eq!(listener.ask_in(Version::V311, &connect).connack(), Some(0));
        listener.send(&subscribe(Version::V311, 1, &[("site/#", 1)]));
        assert_eq!(listener.packet().codes(Version::V311, 1), Some(&[1][..]));
        // It ends with the server.
        thread::spawn(move || listen(listener, &sink));
        Self::Broker { server, heard }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Hub { name, .. } => name,
            Self::Broker { .. } => "mosquitto, plain mode",
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Hub { server, .. } => server.address(),
            Self::Broker { server, .. } => server.peer().plain,
        }
    }

    /// What an `[uplink]` to it says of its kind.
    pub fn settings(&self) -> &'static str {
        match self {
            Self::Hub { .. } => "token_file = 'token'",
            Self::Broker { .. } => "mode = 'plain'\ntopic = 'site/{device}/telemetry'",
        }
    }

    /// What has arrived since the last call, in order, and when.
    pub fn take_arrivals(&self) -> Vec<(Instant, Arrival)> {
        match self {
            Self::Hub { server, .. } => {
                let mut hub = server.lock();
                assert_eq!((hub.complaints.as_slice(), hub.refusals), (&[][..], 0));
                let now = Instant::now();
                hub.arrivals.drain(..).map(|arrival| (now, arrival)).collect()
            }
            Self::Broker { heard, .. } => {
                std::mem::take(&mut *heard.lock().expect("the listener understands it"))
            }
        }
    }
}

fn listen(mut listener: Client, heard: &Heard) {
    loop {
        let publish = match listener.next(SOON) {
            Event::Packet(publish) => publish,
            Event::Silence => continue,
            Event::Closed => return,
        };
        let now = Instant::now();
        let (topic, rest) =
            publish.body[2..].split_at(u16::from_be_bytes([publish.body[0], publish.body[1]]).into());
        let (id, payload) = rest.split_at(2);
        let topic = std::str::from_utf8(topic).expect("a topic");
        let device = topic.split('/').nth(1).expect("site/DEVICE/telemetry");
        // Locked first, so that what is not understood is noticed.
        let mut heard = heard.lock().expect("nobody else panics here");
        let entries: Vec<Entry> = serde_json::from_slice(payload).expect("a list of readings");
        heard.extend(entries.into_iter().map(|Entry { ts, values }| {
            (now, Arrival { device: device.to_owned(), ts, values: values.get().to_owned() })
        }));
        drop(heard);
        listener.send(&packet(0x40, id));
    }
}
