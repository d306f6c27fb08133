//! Peers that do not keep to the protocol: scanners, browsers, guessers, and clients that have lost their minds.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    chance::Chance,
    network::{LinkId, Network},
    trace::{Trace, note},
    wire::{self, Connect, Version},
};

/// Strangers at a time.
const STRANGERS_MAX: usize = 6;

#[derive(Debug)]
struct Visit {
    link: LinkId,
    until: u64,
}

/// All strangers.
#[derive(Debug)]
pub struct Strangers {
    visits: Vec<Visit>,
    chance: Chance,
}

impl Strangers {
    pub fn new(chance: Chance) -> Self {
        Self { visits: Vec::new(), chance }
    }

    /// Lets those go whose time is over, and perhaps one come.
    pub fn act(&mut self, rate: u32, token: &str, network: &mut Network, now: u64, trace: &mut Trace) {
        let Self { visits, chance } = self;
        visits.retain(|visit| {
            let stays = visit.until > now;
            if !stays && chance.coin() {
                network.client_closes(visit.link);
            } else if !stays {
                network.client_vanishes(visit.link);
            }
            stays
        });
        if visits.len() < STRANGERS_MAX && chance.happens(rate) {
            self.come(token, network, now, trace);
        }
    }

    /// All of them leave.
    pub fn leave(&mut self, network: &mut Network) {
        for visit in self.visits.drain(..) {
            network.client_closes(visit.link);
        }
    }

    fn come(&mut self, token: &str, network: &mut Network, now: u64, trace: &mut Trace) {
        let address = IpAddr::V4(Ipv4Addr::new(10, 9, 0, self.chance.below(3) as u8));
        let Some(link) = network.connect(address) else { return };
        let (kind, bytes) = self.words(token);
        note!(trace, "a stranger on link {link}: {kind}, {} bytes", bytes.len());
        network.client_writes(link, &bytes, now);
        self.visits.push(Visit { link, until: now + self.chance.below(30_000_000) });
    }

    fn words(&mut self, token: &str) -> (&'static str, Vec<u8>) {
        let version = if self.chance.coin() { Version::V5 } else { Version::V311 };
        let connect =
            |token| Connect { version, client_id: "stranger", token, keep_alive_s: 10, will: None }.bytes();
        match self.chance.below(8) {
            0 => ("nothing", Vec::new()),
            1 => ("noise", self.noise(300)),
            2 => ("HTTP", b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n".to_vec()),
            3 => ("TLS", [&[0x16, 3, 1, 2, 0][..], &self.noise(120)].concat()),
            4 => ("a guessed token", connect("password")),
            5 => {
                let mut bytes = connect(token);
                bytes.truncate(self.chance.below(bytes.len() as u64) as usize);
                ("half a CONNECT", bytes)
            }
            6 => ("noise after a CONNECT", [connect(token), self.noise(200)].concat()),
            _ => {
                let mut bytes = wire::publish(version, "#\0", Some(0), true, b"{}");
                for _ in 0..3 {
                    let at = self.chance.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << self.chance.below(8);
                }
                ("a bad PUBLISH after a CONNECT", [connect(token), bytes].concat())
            }
        }
    }

    fn noise(&mut self, max: u64) -> Vec<u8> {
        let length = self.chance.below(max) as usize;
        self.chance.bytes(length)
    }
}
