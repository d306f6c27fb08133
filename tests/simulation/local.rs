//! Local clients: programs on the gateway or near it that write to each other, read what devices send, leave wills, and
//! keep their sessions, or do not.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use forebay::mqtt::ProtocolVersion;

use crate::{
    chance::Chance,
    checks::TELEMETRY_OF_DEVICES,
    device::Surroundings,
    line::{Line, News},
    operator::HALL_TOKEN,
    post::{Post, STATE, WILL},
    session_half::{Heard, Message, SessionHalf, Terms, Will},
};

const SECOND: u64 = 1_000_000;
/// Longest time a client is away after it said goodbye.
const AWAY_MAX: u64 = 40 * SECOND;
/// The expiry of those that keep their sessions for good, in seconds.
const LONG_S: u32 = 600_000;

/// A local client.
pub struct Local {
    line: Line,
    /// What it is called in the post.
    reader: usize,
    chance: Chance,
    /// Whether its session may be over by the time it is back, however short that is.
    is_forgetful: bool,
    reads_telemetry: bool,
    has_wills: bool,
    /// The will of its CONNECT, and, once that was answered, of its connection: it must be published should the
    /// connection end badly.
    will_said: Option<String>,
    will_owed: Option<String>,
    /// New messages in a million steps.
    eagerness: u32,
}

impl Local {
    pub fn new(number: usize, mut chance: Chance, post: &mut Post) -> Self {
        let version = if chance.coin() { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let expiry_s = match chance.below(8) {
            0 | 1 => 0,
            2 if version == ProtocolVersion::V5 => chance.between(1, 20) as u32,
            _ => LONG_S,
        };
        let filters = draw_filters(&mut chance, expiry_s == LONG_S);
        let reader = post.add(filters.clone());
        let reads_telemetry = post.granted(reader, &format!("{TELEMETRY_OF_DEVICES}x/telemetry"));
        let terms = Terms {
            version,
            client_id: format!("local-{number}"),
            token: HALL_TOKEN.to_owned(),
            keep_alive_s: chance.between(5, 60) as u16,
            expiry_s,
            filters,
            subscribes_again: false,
            trusts_sessions: true,
            in_flight_max: 2,
        };
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
        Self {
            line: Line::new(SessionHalf::new(terms), address, chance.split()),
            reader,
            is_forgetful: expiry_s > 0 && expiry_s < LONG_S,
            reads_telemetry: reads_telemetry.is_some_and(|qos| qos > 0),
            has_wills: chance.coin(),
            will_said: None,
            will_owed: None,
            eagerness: chance.between(0, 250_000) as u32,
            chance,
        }
    }

    pub fn client_id(&self) -> &str {
        self.line.name()
    }

    pub fn reader(&self) -> usize {
        self.reader
    }

    /// Whether the disk must hold what it is promised.
    pub fn counts_on_the_disk(&self) -> bool {
        self.line.half.is_durable() && !self.is_forgetful
    }

    /// Its filters.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.line.half.terms.filters.iter().map(|(filter, _)| &**filter)
    }

    /// All of a group keep their sessions, or none of them could be promised anything.
    fn is_in_a_group(&self) -> bool {
        self.filters().any(|filter| filter.starts_with("$share/"))
    }

    pub fn is_done(&self) -> bool {
        self.line.half.is_done()
    }

    pub fn situation(&self) -> String {
        self.line.situation()
    }

    pub fn heal(&mut self) {
        self.line.heal();
    }

    /// Connects, writes, reads or leaves, as it is time for.
    pub fn act(&mut self, around: &mut Surroundings<'_>) -> Result<(), String> {
        if self.line.wants_to_connect(around.now) {
            self.connect(around);
            self.line.flush(around);
            return Ok(());
        }
        for news in self.line.act(around)? {
            self.on_news(news, around).map_err(|words| format!("{}: {words}", self.client_id()))?;
        }
        if around.is_publishing && self.chance.happens(self.eagerness) {
            self.write(around);
        }
        self.line.flush(around);
        let wants_to_leave = self.line.half.is_done() && self.chance.happens(around.faults.takeovers / 4);
        if around.is_publishing && wants_to_leave {
            let away = self.chance.below(AWAY_MAX);
            let news = self.line.leave(away, around);
            self.on_news(news, around)?;
        }
        Ok(())
    }

    fn connect(&mut self, around: &mut Surroundings<'_>) {
        let may_begin_anew = self.line.half.terms.version == ProtocolVersion::V5 || !self.is_in_a_group();
        let is_clean = may_begin_anew && around.is_publishing && self.chance.below(40) == 0;
        if is_clean {
            around.trace.count("a clean start");
            self.forget_promises(around);
        }
        let will = self.has_wills.then(|| self.make_will(around));
        self.line.half.terms.trusts_sessions = !self.may_lose_its_session(around);
        self.line.half.terms.subscribes_again = self.chance.below(4) == 0;
        self.line.connect(is_clean, will.as_ref(), around);
        around.post.note_connecting(self.reader, self.line.half.is_durable());
        let is_sure = |will: &Will| will.delay_s == 0 && self.line.half.is_durable();
        self.will_said = will.filter(is_sure).map(|will| will.text);
    }

    fn make_will(&mut self, around: &mut Surroundings<'_>) -> Will {
        let (topic, qos) = (format!("{WILL}{}", self.reader), self.chance.below(3) as u8);
        let text = around.post.write_will(&topic, qos);
        let delay_s = if self.chance.below(3) == 0 { self.chance.between(1, 20) as u32 } else { 0 };
        Will { topic, text, qos, delay_s }
    }

    /// A message to a room, a job for one of a group, or its own state.
    fn write(&mut self, around: &mut Surroundings<'_>) {
        let is_state = self.chance.below(6) == 0;
        // One QoS beside 0 for its state: what is sent again with QoS 1 may overtake what was taken with QoS 2.
        let highest = if is_state { 1 + self.reader as u64 % 2 } else { self.chance.between(1, 2) };
        let qos = if self.chance.below(5) == 0 { 0 } else { highest as u8 };
        if !self.line.half.is_let_in() || qos > 0 && !self.line.half.may_publish() {
            return;
        }
        let rooms = ["room/a/lamp", "room/a/heat", "room/b/lamp", "room/b", "job/any"];
        let (topic, retain) = match is_state {
            true => (format!("{STATE}{}", self.reader), true),
            false => ((*self.chance.pick(&rooms)).to_owned(), false),
        };
        let clears = retain && self.chance.below(5) == 0;
        self.line.half.publish(around.post.write(self.reader, &topic, qos, retain, clears));
    }

    fn on_news(&mut self, news: News, around: &mut Surroundings<'_>) -> Result<(), String> {
        match news {
            News::Lost { said_goodbye } => {
                around.post.note_lost(self.reader);
                if !self.line.half.is_durable() {
                    around.ledger.forget_reader(self.reader);
                }
                self.will_said = None;
                if let Some(text) = self.will_owed.take().filter(|_| !said_goodbye) {
                    around.post.note_owed(&text);
                }
                Ok(())
            }
            News::Heard(heard) => self.on_heard(heard, around),
        }
    }

    fn on_heard(&mut self, heard: Heard, around: &mut Surroundings<'_>) -> Result<(), String> {
        if let Heard::LetIn { .. } = heard {
            self.will_owed = self.will_said.take();
        }
        match heard {
            Heard::LetIn { .. } if self.may_lose_its_session(around) => self.forget_promises(around),
            Heard::LetIn { session_present: true, .. } => {
                around.trace.count("a session that is found again");
                if self.line.half.is_subscribed() {
                    self.note_subscribed(around);
                }
            }
            Heard::LetIn { session_present: false, .. } => {
                if around.post.is_promised(self.reader) {
                    return Err("SESSION: one that was acknowledged is not there".into());
                }
                self.forget_promises(around);
            }
            Heard::Subscribed => self.note_subscribed(around),
            Heard::Taken(message) => around.post.note_taken(self.reader, &message),
            Heard::Message(message) => self.on_message(&message, around)?,
            Heard::Pong | Heard::Refused(_) | Heard::Goodbye(_) => {}
        }
        Ok(())
    }

    fn on_message(&mut self, message: &Message, around: &mut Surroundings<'_>) -> Result<(), String> {
        around.trace.count(match message.qos {
            0 => "a delivery of QoS 0",
            1 => "a delivery of QoS 1",
            _ => "a delivery of QoS 2",
        });
        if message.topic.starts_with(TELEMETRY_OF_DEVICES) {
            around.trace.count("a reading that is told");
            let is_durable = self.line.half.is_durable();
            return around.ledger.note_told(self.reader, is_durable, &message.topic, &message.text);
        }
        if message.topic.starts_with(WILL) {
            around.trace.count("a will that arrives");
            return around.post.note_will_got(self.reader, message);
        }
        if message.retain {
            return around.post.check_found(&BTreeMap::new(), message);
        }
        around.post.note_got(self.reader, message)
    }

    fn may_lose_its_session(&self, around: &Surroundings<'_>) -> bool {
        self.is_forgetful || around.sessions_may_end
    }

    fn note_subscribed(&mut self, around: &mut Surroundings<'_>) {
        around.post.note_subscribed(self.reader);
        if self.reads_telemetry {
            around.ledger.add_reader(self.reader);
        }
    }

    fn forget_promises(&mut self, around: &mut Surroundings<'_>) {
        around.post.note_session_gone(self.reader);
        around.ledger.forget_reader(self.reader);
    }
}

/// What it reads. `is_lasting`: it keeps its session, as all of a group must for one of them to be promised anything; and
/// none of them may ask for QoS 0.
fn draw_filters(chance: &mut Chance, is_lasting: bool) -> Vec<(String, u8)> {
    let mut filters = Vec::new();
    let mut add = |chance: &mut Chance, filter: &str, lowest: u64| {
        filters.push((filter.to_owned(), chance.below(5).clamp(lowest, 2) as u8));
    };
    if chance.below(3) > 0 {
        let filter = *chance.pick(&["room/#", "room/+/lamp", "+/a/+", "room/b", "room/a/heat"]);
        add(chance, filter, 0);
    }
    if chance.below(3) == 0 {
        add(chance, "devices/+/telemetry", 0);
    }
    if chance.coin() && is_lasting {
        add(chance, "$share/workers/job/#", 1);
    }
    if chance.coin() {
        add(chance, "will/+", 0);
    }
    if chance.below(4) == 0 {
        add(chance, "state/+", 0);
    }
    filters
}
