//! The network between clients and the gateway: bytes take their time, are cut anywhere and glued, and connections are
//! reset or fall silent. Nothing is reordered or damaged within a connection: that is what TCP is for.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use crate::chance::Chance;

/// A connection, never used again.
pub type LinkId = u64;

/// Bytes under way or waiting in one direction, beyond which the sender must wait.
const PIPE_BYTES: usize = 48 * 1024;

/// What an end finds when it reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(Vec<u8>),
    Nothing,
    /// The other end said that it has nothing more to say.
    Closed,
    /// The connection is no more.
    Reset,
}

/// What a client said about its keep-alive.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    pub seconds: u16,
    /// Whether the broker may have answered with a shorter one.
    pub may_be_shortened: bool,
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(u64, Vec<u8>)>,
    last_at: u64,
    bytes: usize,
    closed: bool,
}

impl Pipe {
    fn push(&mut self, bytes: &[u8], at: u64) {
        self.last_at = self.last_at.max(at);
        self.bytes += bytes.len();
        self.chunks.push_back((self.last_at, bytes.to_vec()));
    }

    fn room(&self) -> usize {
        PIPE_BYTES.saturating_sub(self.bytes)
    }

    fn has_arrived(&self, now: u64) -> bool {
        match self.chunks.front() {
            Some((at, _)) => *at <= now,
            None => self.closed && self.last_at <= now,
        }
    }

    /// Takes up to `max` of the bytes that have arrived.
    fn pull(&mut self, now: u64, max: usize) -> Vec<u8> {
        let mut pulled = Vec::new();
        while pulled.len() < max {
            let Some((at, chunk)) = self.chunks.front_mut() else { break };
            if *at > now {
                break;
            }
            let taken = chunk.len().min(max - pulled.len());
            pulled.extend(chunk.drain(..taken));
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        self.bytes -= pulled.len();
        pulled
    }
}

#[derive(Debug)]
struct Link {
    address: IpAddr,
    /// From the client to the gateway, and back.
    up: Pipe,
    down: Pipe,
    accepted: bool,
    client_gone: bool,
    gateway_gone: bool,
    reset: bool,
    /// Nothing arrives, either way, until then.
    silent_until: u64,
    keep_alive: Option<KeepAlive>,
}

impl Link {
    fn is_over(&self) -> bool {
        self.client_gone && (self.gateway_gone || !self.accepted)
    }
}

/// All connections.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    next: LinkId,
    chance: Chance,
    /// Longest time bytes are under way.
    pub delay_max_us: u64,
    /// Whether somebody listens.
    pub is_listening: bool,
}

impl Network {
    pub fn new(chance: Chance) -> Self {
        Self { links: BTreeMap::new(), next: 0, chance, delay_max_us: 0, is_listening: false }
    }

    fn arrival(&mut self, now: u64) -> u64 {
        now + self.chance.below(self.delay_max_us + 1)
    }

    fn portion(&mut self, max: usize) -> usize {
        if self.chance.below(3) == 0 { 1 + self.chance.below(max.min(40) as u64) as usize } else { max }
    }

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    // ---- a client's end -----------------------------------------------------------------------------------

    /// Connects to the gateway; None if nobody listens.
    pub fn connect(&mut self, address: IpAddr) -> Option<LinkId> {
        if !self.is_listening {
            return None;
        }
        self.next += 1;
        let (up, down) = Default::default();
        let link = Link {
            address,
            up,
            down,
            accepted: false,
            client_gone: false,
            gateway_gone: false,
            reset: false,
            silent_until: 0,
            keep_alive: None,
        };
        self.links.insert(self.next, link);
        Some(self.next)
    }

    /// Lets the observer of the gateway know what it may expect of the client.
    pub fn note_keep_alive(&mut self, id: LinkId, keep_alive: KeepAlive) {
        if let Some(link) = self.link(id) {
            link.keep_alive = Some(keep_alive);
        }
    }

    /// Sends all of `bytes`, or nothing and gives back false if there is no room for them.
    pub fn client_writes(&mut self, id: LinkId, bytes: &[u8], now: u64) -> bool {
        let at = self.arrival(now);
        let is_listening = self.is_listening;
        let Some(link) = self.link(id) else { return true };
        if link.gateway_gone && is_listening {
            // The machine, up again, knows nothing of this connection and says so.
            link.reset = true;
        }
        if link.up.room() < bytes.len() {
            return false;
        }
        link.up.push(bytes, at);
        true
    }

    pub fn client_reads(&mut self, id: LinkId, now: u64) -> Read {
        let max = self.portion(4096);
        let Some(link) = self.link(id) else { return Read::Reset };
        if link.reset {
            return Read::Reset;
        }
        read(&mut link.down, link.silent_until, now, max)
    }

    /// Says that there is nothing more to say, and reads no more.
    pub fn client_closes(&mut self, id: LinkId) {
        let Some(link) = self.link(id) else { return };
        link.client_gone = true;
        link.up.closed = true;
        self.sweep(id);
    }

    /// Vanishes: the gateway hears nothing more, not even that.
    pub fn client_vanishes(&mut self, id: LinkId) {
        let Some(link) = self.link(id) else { return };
        link.client_gone = true;
        link.silent_until = u64::MAX;
        self.sweep(id);
    }

    // ---- the gateway's end --------------------------------------------------------------------------------

    /// The next connection that waits to be accepted.
    pub fn accept(&mut self) -> Option<(LinkId, IpAddr)> {
        let (id, link) = self.links.iter_mut().find(|(_, link)| !link.accepted && !link.gateway_gone)?;
        link.accepted = true;
        Some((*id, link.address))
    }

    /// Whether reading would find something.
    pub fn is_readable(&self, id: LinkId, now: u64) -> bool {
        self.links
            .get(&id)
            .is_none_or(|link| link.reset || link.silent_until <= now && link.up.has_arrived(now))
    }

    pub fn keep_alive(&self, id: LinkId) -> Option<KeepAlive> {
        self.links.get(&id)?.keep_alive
    }

    /// Whether everything sent was read, so that no packet is only half there.
    pub fn is_drained(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| link.up.chunks.is_empty())
    }

    pub fn gateway_reads(&mut self, id: LinkId, max: usize, now: u64) -> Read {
        let max = self.portion(max);
        let Some(link) = self.link(id) else { return Read::Reset };
        if link.reset {
            return Read::Reset;
        }
        read(&mut link.up, link.silent_until, now, max)
    }

    /// How many of `bytes` were taken; None if the connection was reset.
    pub fn gateway_writes(&mut self, id: LinkId, bytes: &[u8], now: u64) -> Option<usize> {
        let at = self.arrival(now);
        let portion = self.portion(bytes.len().max(1));
        let link = self.link(id)?;
        if link.reset {
            return None;
        }
        if link.client_gone && link.silent_until <= now {
            link.reset = true;
        }
        let taken = bytes.len().min(link.down.room()).min(portion);
        if taken > 0 {
            link.down.push(&bytes[..taken], at);
        }
        Some(taken)
    }

    pub fn gateway_closes(&mut self, id: LinkId) {
        let Some(link) = self.link(id) else { return };
        link.gateway_gone = true;
        link.down.closed = true;
        self.sweep(id);
    }

    /// The process is gone: its kernel ends every connection. What was sent arrives, or the news is first.
    pub fn gateway_dies(&mut self) {
        self.is_listening = false;
        for link in self.links.values_mut() {
            link.gateway_gone = true;
            link.down.closed = true;
            link.reset |= self.chance.coin();
        }
        self.links.retain(|_, link| !link.is_over());
    }

    /// The machine is gone; clients find out when they next say something and somebody is there to answer.
    pub fn gateway_vanishes(&mut self) {
        self.is_listening = false;
        for link in self.links.values_mut() {
            link.gateway_gone = true;
            link.up.chunks.clear();
            link.up.bytes = 0;
        }
        self.links.retain(|_, link| !link.is_over());
    }

    // ---- what goes wrong ----------------------------------------------------------------------------------

    pub fn reset(&mut self, id: LinkId) {
        if let Some(link) = self.link(id) {
            link.reset = true;
        }
    }

    pub fn fall_silent(&mut self, id: LinkId, until: u64) {
        if let Some(link) = self.link(id) {
            link.silent_until = link.silent_until.max(until);
        }
    }

    /// Every connection works again or is reset for good.
    pub fn heal(&mut self, now: u64) {
        for link in self.links.values_mut() {
            if link.silent_until > now {
                link.silent_until = 0;
                link.reset = true;
            }
        }
    }

    fn sweep(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(Link::is_over) {
            self.links.remove(&id);
        }
    }
}

fn read(pipe: &mut Pipe, silent_until: u64, now: u64, max: usize) -> Read {
    if silent_until > now {
        return Read::Nothing;
    }
    let bytes = pipe.pull(now, max);
    if !bytes.is_empty() {
        return Read::Bytes(bytes);
    }
    if pipe.closed && pipe.chunks.is_empty() && pipe.last_at <= now { Read::Closed } else { Read::Nothing }
}
