//! The hub at the far end of the uplink, and the way there: slow, stalled, cut, half open, refused; a hub that restarts,
//! forgets to acknowledge, wants another token for a while, cannot keep what it is sent, and does not take everything.

mod way;

use std::time::Duration;

use forebay::{
    clock::Mono,
    limits::UPLINK_CLOCK_WAIT_WITH_HUB,
    uplink::{Mode, Order, Secret, Settings},
};

use crate::{
    chance::Chance,
    checks::{Ledger, Patience},
    faults::Faults,
    hub::{Hub, HubRate, Manners, OnPoison, TooMuch, Version5},
    sabotage::Sabotage,
    trace::{Trace, note},
};
use way::{Established, Pace};

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

/// What lasts for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// There is no way, and that is said.
    Unreachable,
    /// There is no way, and nobody says so.
    Unanswered,
    /// Something takes connections for a hub that is not there yet, and closes them.
    Starting,
    OtherToken,
    NoAcknowledgements,
    Failing,
}

const TROUBLES: [(Trouble, &str); 6] = [
    (Trouble::Unreachable, "a hub that is not reached"),
    (Trouble::Unanswered, "a hub that does not answer"),
    (Trouble::Starting, "a hub that is starting"),
    (Trouble::OtherToken, "a hub that refuses the token"),
    (Trouble::NoAcknowledgements, "a hub that does not acknowledge"),
    (Trouble::Failing, "a hub that cannot keep readings"),
];

/// The hub and the way there.
pub struct Upstream {
    hub: Hub,
    good: Manners,
    settings: Settings,
    chance: Chance,
    has_poison: bool,
    pace: Pace,
    link: Option<Established>,
    /// When the attempt to connect is answered.
    connecting: Option<u64>,
    trouble: Option<(Trouble, u64)>,
    noted: usize,
    refusals: u64,
    /// Readings were held back, and others have gone past them.
    has_suspected: bool,
    there: There,
    /// That, when each reading came that the ledger was not told of yet.
    there_then: Vec<There>,
}

/// For how long the program that runs now has had a way to the hub.
#[derive(Clone, Copy, Debug, Default)]
struct There {
    /// No less than that, in microseconds.
    us: u64,
    /// How often it was tried, and with success.
    attempts: u32,
    connections: u32,
    looked_at: u64,
    /// Whether there may have been a way since.
    was_there: bool,
}

impl Upstream {
    pub fn new(sabotage: Sabotage, mut chance: Chance) -> Self {
        let mut good = draw_manners(&mut chance);
        if sabotage == Sabotage::HubThatLies {
            let rate = HubRate { messages: true, count: 1, period: Duration::from_secs(5) };
            let version_5 = Version5::RefusedInOldForm;
            good = Manners { version_5, lies_in_old_form: true, too_much: TooMuch::Answers, ..good };
            good.rates = vec![rate];
            good.tells_limits = false;
        }
        let mut settings = Settings::new(Mode::Gateway { token: Secret::new(TOKEN) });
        settings.order = if chance.coin() { Order::OldestFirst } else { Order::FreshBeside };
        settings.clock_wait = chance.coin().then(|| Duration::from_secs(chance.between(1, 60)));
        let mut hub = Hub::new(good.clone(), chance.next());
        // On a slow or stalled way bytes are under way that the hub does not see.
        hub.minds_silence = false;
        // A device whose announcement seems to have cost the connection is not announced again.
        hub.minds_announcements = false;
        Self {
            hub,
            good,
            settings,
            has_poison: chance.below(3) == 0,
            pace: Pace::draw(&mut chance),
            chance,
            link: None,
            connecting: None,
            trouble: None,
            noted: 0,
            refusals: 0,
            has_suspected: false,
            there: There::default(),
            there_then: Vec::new(),
        }
    }

    /// How the gateway's uplink is set up.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// How it behaves, for the report of a failure.
    pub fn situation(&self) -> String {
        format!("{:?}, {:?}, {:?}", self.good, self.settings.order, self.trouble)
    }

    /// Whether there are readings the hub does not take.
    pub fn minds_poison(&self) -> bool {
        self.has_poison
    }

    /// In how many lanes each stream goes, if what it is made of keeps to its order at all.
    pub fn lanes(&self) -> Option<usize> {
        let lanes = if self.settings.order == Order::OldestFirst { 1 } else { 2 };
        (!self.has_suspected).then_some(lanes)
    }

    /// The uplink suspects so many readings.
    pub fn note_suspected(&mut self, readings: usize, trace: &mut Trace) {
        if readings > 0 && !std::mem::replace(&mut self.has_suspected, true) {
            trace.count("a reading under suspicion");
        }
    }

    /// Everything works, and the hub is a good one. What is half open stays so: that is for the uplink to find out.
    pub fn heal(&mut self) {
        self.good.acks_swallowed = 0;
        self.end_trouble();
        self.pace = Pace::GOOD;
    }

    /// The machine or the program at this end is gone.
    pub fn lose_gateway(&mut self) {
        self.link = None;
        self.connecting = None;
        self.there = There::default();
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
        self.there.look(now, self.link.is_some());
        for (arrival, there) in self.hub.arrivals[self.noted..].iter().zip(self.there_then.drain(..)) {
            let patience = self.settings.clock_wait.map(|wait| Patience {
                after_boot: wait,
                with_hub: wait.min(UPLINK_CLOCK_WAIT_WITH_HUB),
                hub_was_there: there.at_most(wait.min(UPLINK_CLOCK_WAIT_WITH_HUB)),
            });
            ledger.note_uploaded(arrival, patience)?;
        }
        self.noted = self.hub.arrivals.len();
        match self.hub.complaints.first() {
            Some(words) => Err(format!("the hub complains: {words}")),
            None => Ok(()),
        }
    }

    fn go_wrong(&mut self, now: u64, trace: &mut Trace) {
        if let Some(link) = self.link.as_mut().filter(|_| self.chance.coin()) {
            let words = match self.chance.below(5) {
                0 => {
                    link.is_reset = true;
                    "a way to the hub that is cut"
                }
                1 => {
                    link.is_half_open = true;
                    "a way to the hub that is half open"
                }
                2 => {
                    link.close_at_hub(&mut self.chance);
                    "a hub that restarts"
                }
                3 => {
                    let until = now + self.chance.below(TROUBLE_MAX);
                    link.up.hold_up(until);
                    link.down.hold_up(until);
                    "a way to the hub that stalls"
                }
                _ => {
                    link.down.hold_up(now + self.chance.below(TROUBLE_MAX));
                    "a hub that answers late"
                }
            };
            note!(trace, "{words}");
            return trace.count(words);
        }
        if self.trouble.is_some() {
            return;
        }
        let (trouble, words) = *self.chance.pick(&TROUBLES);
        note!(trace, "{words}");
        trace.count(words);
        let longest = if self.chance.coin() { TROUBLE_MAX } else { TROUBLE_MAX / 6 };
        let lasts = self.chance.below(longest);
        self.trouble = Some((trouble, now + lasts));
        match trouble {
            Trouble::Unreachable | Trouble::Unanswered => {}
            Trouble::Starting => self.link.iter_mut().for_each(|link| link.close_at_hub(&mut self.chance)),
            Trouble::OtherToken => "another token".clone_into(&mut self.hub.manners.token),
            Trouble::NoAcknowledgements => self.hub.manners.acknowledges = false,
            Trouble::Failing => self.hub.manners.is_failing = true,
        }
    }

    fn is_troubled_by(&self, trouble: Trouble) -> bool {
        self.trouble.is_some_and(|(present, _)| present == trouble)
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
            && let Some(bytes) = link.up.pop(now)
        {
            let before = self.hub.arrivals.len();
            let reaction = self.hub.receive(&mut link.at_hub, &bytes, Mono(now));
            let taken = self.hub.arrivals.len() - before;
            self.there.look(now, true);
            self.there_then.resize(self.hub.arrivals.len() - self.noted, self.there);
            if taken > 0 {
                note!(trace, "the hub takes {taken} readings");
                trace.count("a message the hub takes");
            }
            if self.hub.refusals > std::mem::replace(&mut self.refusals, self.hub.refusals) {
                trace.count("a message the hub does not take");
            }
            if !reaction.bytes.is_empty() {
                link.down.push(reaction.bytes, now, self.pace, &mut self.chance);
            }
            if reaction.closes {
                link.close_at_hub(&mut self.chance);
            }
        }
    }

    // ---- the gateway's end --------------------------------------------------------------------------------

    pub fn connect(&mut self, now: u64) {
        self.there.attempts += 1;
        self.link = None;
        let is_answered = !self.is_troubled_by(Trouble::Unanswered);
        let answered = now + self.chance.below(2 * self.pace.latency_max_us + 1);
        self.connecting = is_answered.then_some(answered);
    }

    /// What became of the attempt to connect: none while nothing is known.
    pub fn attempt(&mut self, now: u64) -> Option<bool> {
        self.connecting.take_if(|at| *at <= now)?;
        let is_reached = !self.is_troubled_by(Trouble::Unreachable);
        if is_reached {
            let mut link = Established::new(self.hub.accept(Mono(now)));
            link.hub_has_closed = self.is_troubled_by(Trouble::Starting);
            self.link = Some(link);
            self.there.connections += 1;
            self.there.was_there = true;
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
        while let Some(more) = link.down.pop(now) {
            bytes.extend(more);
        }
        if !bytes.is_empty() {
            let cut = self.chance.below(bytes.len() as u64 + 1) as usize;
            if cut > 0 && cut < bytes.len() {
                link.down.put_back(bytes.split_off(cut), now);
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
        let arrival = self.link.as_ref().and_then(Established::next_arrival);
        [arrival, self.connecting].into_iter().flatten().min()
    }

    /// How many of the bytes were taken; the others find no room yet.
    pub fn write(&mut self, bytes: &[u8], now: u64) -> usize {
        // What is written after the end is known nowhere.
        let Some(link) = &mut self.link else { return bytes.len() };
        let taken = bytes.len().min(link.up.room(self.pace));
        if taken > 0 {
            link.up.push(bytes[..taken].to_vec(), now, self.pace, &mut self.chance);
        }
        taken
    }

    /// The gateway ends the connection, or the attempt at one; what it sent arrives.
    pub fn close(&mut self, now: u64, trace: &mut Trace) {
        self.connecting = None;
        if let Some(link) = &mut self.link {
            link.up.flush();
        }
        self.take_what_arrived(now, trace);
        self.link = None;
    }
}

impl There {
    fn look(&mut self, now: u64, is_there: bool) {
        let was_there = std::mem::replace(&mut self.was_there, is_there);
        if was_there || is_there {
            self.us += now - self.looked_at;
        }
        self.looked_at = now;
    }

    /// How long it was at most, if no connection counts for less than a tenth of `wanted`; `None` if it was never away.
    fn at_most(&self, wanted: Duration) -> Option<Duration> {
        if self.attempts <= 1 {
            return None;
        }
        Some(Duration::from_micros(self.us) + wanted / 10 * self.connections)
    }
}

/// How old the hub is, and how it is set up.
fn draw_manners(chance: &mut Chance) -> Manners {
    let version_5 =
        *chance.pick(&[Version5::Spoken, Version5::Spoken, Version5::Spoken, Version5::ClosesWithoutAWord]);
    let version_5 = if chance.below(8) == 0 { Version5::RefusedInOldForm } else { version_5 };
    let too_much = *chance.pick(&[TooMuch::Closes, TooMuch::AnswersAndCloses, TooMuch::Answers]);
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
        // Before 5.0 only a close can be understood; a hub that has 5.0 must never be spoken to in anything older.
        lies_in_old_form: version_5 == Version5::Spoken,
        tells_limits: chance.coin(),
        poison: *chance.pick(&[OnPoison::Says, OnPoison::Says, OnPoison::Closes, OnPoison::Hangs]),
        acks_swallowed: *chance.pick(&[0, 0, 2]),
        acks_doubled: *chance.pick(&[0, 20]),
        ..Manners::good()
    }
}
