//! The hub at the far end of the uplink, and the way there: slow, cut, half open, refused; a hub that restarts, forgets
//! to acknowledge, wants another token for a while, and does not take everything.

use std::{collections::VecDeque, time::Duration};

use forebay::{
    clock::Mono,
    uplink::{Mode, Order, Secret, Settings},
};

use crate::{
    chance::Chance,
    checks::Ledger,
    faults::Faults,
    hub::{Hub, HubConnection, HubRate, Manners, OnPoison, TooMuch, Version5},
    trace::{Trace, note},
};

const SECOND: u64 = 1_000_000;
const TOKEN: &str = "the token of the gateway";
/// Longest time a trouble of the hub lasts, in microseconds.
const TROUBLE_MAX: u64 = 60 * SECOND;

/// What the gateway finds when it reads from the hub.
#[derive(Debug, PartialEq, Eq)]
pub enum FromHub {
    Nothing,
    Bytes(Vec<u8>),
    Closed,
    Reset,
}

#[derive(Debug)]
struct Established {
    at_hub: HubConnection,
    /// Bytes on their way, and when they arrive.
    up: VecDeque<(u64, Vec<u8>)>,
    down: VecDeque<(u64, Vec<u8>)>,
    last_at: u64,
    hub_has_closed: bool,
    is_reset: bool,
    /// Nothing arrives any more, either way, and nobody says so.
    is_half_open: bool,
}

/// What lasts for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Unreachable,
    OtherToken,
    NoAcknowledgements,
}

/// The hub and the way there.
pub struct Upstream {
    hub: Hub,
    good: Manners,
    settings: Settings,
    chance: Chance,
    has_poison: bool,
    latency_max_us: u64,
    link: Option<Established>,
    /// When the attempt to connect is answered.
    connecting: Option<u64>,
    trouble: Option<(Trouble, u64)>,
    noted: usize,
}

impl Upstream {
    pub fn new(mut chance: Chance) -> Self {
        let good = draw_manners(&mut chance);
        let mut settings = Settings::new(Mode::Gateway { token: Secret::new(TOKEN) });
        settings.order = if chance.coin() { Order::OldestFirst } else { Order::FreshBeside };
        settings.clock_wait = chance.coin().then(|| Duration::from_secs(chance.between(1, 60)));
        let mut hub = Hub::new(good.clone(), chance.next());
        // Power cuts are long silences.
        hub.minds_silence = false;
        Self {
            hub,
            good,
            settings,
            has_poison: chance.below(3) == 0,
            latency_max_us: if chance.coin() { 20_000 } else { chance.between(20_000, 2_000_000) },
            chance,
            link: None,
            connecting: None,
            trouble: None,
            noted: 0,
        }
    }

    /// How the gateway's uplink is set up.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Whether there are readings the hub does not take: only those that can be told so.
    pub fn minds_poison(&self) -> bool {
        self.has_poison && self.good.version_5 == Version5::Spoken
    }

    pub fn is_oldest_first(&self) -> bool {
        self.settings.order == Order::OldestFirst
    }

    /// Everything works, and the hub is a good one.
    pub fn heal(&mut self) {
        self.end_trouble();
        self.latency_max_us = 20_000;
        self.good.acks_swallowed = 0;
        self.hub.manners = self.good.clone();
        if let Some(link) = &mut self.link {
            link.is_reset |= link.is_half_open;
        }
    }

    /// The machine or the program at this end is gone.
    pub fn lose_gateway(&mut self) {
        self.link = None;
        self.connecting = None;
    }

    // ---- the hub's end ------------------------------------------------------------------------------------

    /// Goes wrong now and then, and takes what has arrived.
    pub fn act(
        &mut self,
        faults: &Faults,
        now: u64,
        ledger: &mut Ledger,
        trace: &mut Trace,
    ) -> Result<(), String> {
        if self.trouble.is_some_and(|(_, until)| until <= now) {
            note!(trace, "the hub is well again");
            self.end_trouble();
        }
        if self.chance.happens(faults.upstream) {
            self.go_wrong(now, trace);
        }
        self.take_what_arrived(now, trace);
        for arrival in &self.hub.arrivals[self.noted..] {
            ledger.note_uploaded(&arrival.device, arrival.ts, &arrival.values)?;
        }
        self.noted = self.hub.arrivals.len();
        match self.hub.complaints.first() {
            Some(words) => Err(format!("the hub complains: {words}")),
            None => Ok(()),
        }
    }

    fn go_wrong(&mut self, now: u64, trace: &mut Trace) {
        let choice = self.chance.below(7);
        if let Some(link) = self.link.as_mut().filter(|_| choice < 3) {
            note!(
                trace,
                "the way to the hub: {}",
                ["reset", "half open", "the hub restarts"][choice as usize]
            );
            match choice {
                0 => link.is_reset = true,
                1 => {
                    trace.count("a way to the hub that is half open");
                    link.is_half_open = true;
                }
                _ => link.hub_has_closed = true,
            }
            return;
        }
        let (trouble, words) = match choice {
            3 => (Trouble::Unreachable, "a hub that is not reached"),
            4 => (Trouble::OtherToken, "a hub that refuses the token"),
            5 => (Trouble::NoAcknowledgements, "a hub that does not acknowledge"),
            _ => return,
        };
        self.end_trouble();
        note!(trace, "{words}");
        trace.count(words);
        self.trouble = Some((trouble, now + self.chance.below(TROUBLE_MAX)));
        match trouble {
            Trouble::Unreachable => {}
            Trouble::OtherToken => "another token".clone_into(&mut self.hub.manners.token),
            Trouble::NoAcknowledgements => self.hub.manners.acknowledges = false,
        }
    }

    fn end_trouble(&mut self) {
        self.trouble = None;
        self.hub.manners = self.good.clone();
    }

    fn take_what_arrived(&mut self, now: u64, trace: &mut Trace) {
        let Some(link) = self.link.as_mut().filter(|link| !link.is_half_open && !link.is_reset) else {
            return;
        };
        while !link.hub_has_closed
            && let Some(bytes) = pop_arrived(&mut link.up, now)
        {
            let before = self.hub.arrivals.len();
            let reaction = self.hub.receive(&mut link.at_hub, &bytes, Mono(now));
            let taken = self.hub.arrivals.len() - before;
            if taken > 0 {
                note!(trace, "the hub takes {taken} readings");
            }
            link.last_at = link.last_at.max(now + self.chance.below(self.latency_max_us + 1));
            if !reaction.bytes.is_empty() {
                link.down.push_back((link.last_at, reaction.bytes));
            }
            link.hub_has_closed |= reaction.closes;
        }
    }

    // ---- the gateway's end --------------------------------------------------------------------------------

    pub fn connect(&mut self, now: u64) {
        self.link = None;
        self.connecting = Some(now + self.chance.below(2 * self.latency_max_us + 1));
    }

    /// What became of the attempt to connect: none while nothing is known.
    pub fn attempt(&mut self, now: u64) -> Option<bool> {
        self.connecting.take_if(|at| *at <= now)?;
        let is_reached = !matches!(self.trouble, Some((Trouble::Unreachable, _)));
        if is_reached {
            self.link = Some(Established {
                at_hub: self.hub.accept(Mono(now)),
                up: VecDeque::new(),
                down: VecDeque::new(),
                last_at: now,
                hub_has_closed: false,
                is_reset: false,
                is_half_open: false,
            });
        }
        Some(is_reached)
    }

    pub fn read(&mut self, now: u64) -> FromHub {
        let Some(link) = &mut self.link else { return FromHub::Nothing };
        if link.is_reset {
            self.link = None;
            return FromHub::Reset;
        }
        if link.is_half_open {
            return FromHub::Nothing;
        }
        let mut bytes = Vec::new();
        while let Some(more) = pop_arrived(&mut link.down, now) {
            bytes.extend(more);
        }
        if !bytes.is_empty() {
            let cut = self.chance.below(bytes.len() as u64 + 1) as usize;
            if cut > 0 && cut < bytes.len() {
                link.down.push_front((now, bytes.split_off(cut)));
            }
            return FromHub::Bytes(bytes);
        }
        if link.hub_has_closed && link.down.is_empty() {
            self.link = None;
            return FromHub::Closed;
        }
        FromHub::Nothing
    }

    /// When there is something to read, or the attempt to connect is answered.
    pub fn next_arrival(&self) -> Option<u64> {
        let down = self.link.as_ref().and_then(|link| link.down.front()).map(|(at, _)| *at);
        [down, self.connecting].into_iter().flatten().min()
    }

    pub fn write(&mut self, bytes: &[u8], now: u64) {
        let arrival = now + self.chance.below(self.latency_max_us + 1);
        if let Some(link) = &mut self.link {
            let last = link.up.back().map_or(0, |(at, _)| *at);
            link.up.push_back((arrival.max(last), bytes.to_vec()));
        }
    }

    /// The gateway ends the connection, or the attempt at one; what it sent arrives.
    pub fn close(&mut self, now: u64, trace: &mut Trace) {
        self.connecting = None;
        if let Some(link) = &mut self.link {
            for (at, _) in &mut link.up {
                *at = now;
            }
        }
        self.take_what_arrived(now, trace);
        self.link = None;
    }
}

fn pop_arrived(way: &mut VecDeque<(u64, Vec<u8>)>, now: u64) -> Option<Vec<u8>> {
    let is_there = way.front().is_some_and(|(at, _)| *at <= now);
    if is_there { way.pop_front().map(|(_, bytes)| bytes) } else { None }
}

fn draw_manners(chance: &mut Chance) -> Manners {
    let version_5 = if chance.below(3) == 0 { Version5::ClosesWithoutAWord } else { Version5::Spoken };
    // Before 5.0 only a close can be understood.
    let too_much = match version_5 {
        Version5::Spoken => *chance.pick(&[TooMuch::Closes, TooMuch::AnswersAndCloses, TooMuch::Answers]),
        _ => TooMuch::Closes,
    };
    let rates = match chance.below(3) {
        0 => vec![
            HubRate { messages: true, count: chance.between(5, 50) as u32, period: Duration::from_secs(1) },
            HubRate {
                messages: false,
                count: chance.between(100, 2000) as u32,
                period: Duration::from_secs(5),
            },
        ],
        _ => Vec::new(),
    };
    Manners {
        token: TOKEN.to_owned(),
        version_5,
        receive_maximum: *chance.pick(&[0, 1, 2, 10]),
        packet_bytes_max: *chance.pick(&[0, 500, 5000]),
        topic_alias_maximum: *chance.pick(&[0, 1, 10]),
        rates,
        too_much,
        tells_limits: chance.coin(),
        poison: OnPoison::Says,
        acks_swallowed: *chance.pick(&[0, 0, 2]),
        acks_doubled: *chance.pick(&[0, 20]),
        ..Manners::good()
    }
}
