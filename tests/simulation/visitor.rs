//! Somebody who comes now and then to ask for the retained messages, and looks at what is found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use forebay::mqtt::ProtocolVersion;

use crate::{
    chance::Chance,
    device::Surroundings,
    line::{Line, News},
    operator::HALL_TOKEN,
    session_half::{Heard, SessionHalf, Terms},
};

/// Longest time between two visits, in microseconds.
const AWAY_MAX: u64 = 30_000_000;

/// Comes, subscribes, and asks for a PINGRESP: what is retained must be there before it.
pub struct Visitor {
    line: Line,
    chance: Chance,
    /// How far each topic was acknowledged when it subscribed.
    floors: BTreeMap<String, usize>,
    found: BTreeSet<String>,
    /// Visits that went well since everything was healed.
    visits: u32,
}

impl Visitor {
    pub fn new(mut chance: Chance) -> Self {
        let version = if chance.coin() { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let terms = Terms {
            version,
            client_id: "visitor".to_owned(),
            token: HALL_TOKEN.to_owned(),
            keep_alive_s: 30,
            expiry_s: 0,
            filters: vec![("state/#".to_owned(), 0)],
            subscribes_again: true,
            trusts_sessions: true,
            in_flight_max: 2,
        };
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        Self {
            line: Line::new(SessionHalf::new(terms), address, chance.split()),
            chance,
            floors: BTreeMap::new(),
            found: BTreeSet::new(),
            visits: 0,
        }
    }

    /// Begins a visit at once, which counts.
    pub fn heal(&mut self) {
        self.line.heal();
        self.visits = 0;
    }

    /// Whether a visit that was begun after everything was healed is over.
    pub fn is_done(&self) -> bool {
        // The first may have been under way.
        self.visits >= 2
    }

    pub fn situation(&self) -> String {
        format!("after {} visits: {}", self.visits, self.line.situation())
    }

    pub fn act(&mut self, around: &mut Surroundings<'_>) -> Result<(), String> {
        if self.line.wants_to_connect(around.now) {
            self.line.connect(false, None, around);
        }
        for news in self.line.act(around)? {
            let News::Heard(heard) = news else { continue };
            self.on_heard(heard, around).map_err(|words| format!("the visitor: {words}"))?;
        }
        self.line.flush(around);
        Ok(())
    }

    fn on_heard(&mut self, heard: Heard, around: &mut Surroundings<'_>) -> Result<(), String> {
        match heard {
            Heard::LetIn { .. } => {
                self.floors = around.post.floors();
                self.found.clear();
            }
            // It may have been the last thing the broker said.
            Heard::Subscribed if self.line.half.is_let_in() => self.line.half.ping(),
            Heard::Message(message) if message.retain => {
                around.trace.count("a retained message that is found");
                around.post.check_found(&self.floors, &message)?;
                self.found.insert(message.topic);
            }
            Heard::Pong if self.line.half.is_subscribed() => {
                let wanted = around.post.must_be_found(&self.floors);
                if let Some(topic) = wanted.iter().find(|topic| !self.found.contains(*topic)) {
                    return Err(format!("RETAINED: nothing is found on {topic}"));
                }
                self.visits += 1;
                let away = if around.is_publishing { self.chance.below(AWAY_MAX) } else { 0 };
                self.line.leave(away, around);
            }
            _ => {}
        }
        Ok(())
    }
}
