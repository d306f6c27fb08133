//! A local client's connection: made, kept, lost, on a network and with a client that both go wrong. What is said over it
//! is the business of `session_half`; what it means, that of its owner.

use std::net::IpAddr;

use forebay::mqtt::ProtocolVersion;

use crate::{
    chance::Chance,
    device::Surroundings,
    network::{KeepAlive, LinkId, Read},
    session_half::{Heard, SessionHalf, Will},
    trace::note,
};

const SECOND: u64 = 1_000_000;
/// How long it waits for an answer before it takes the connection for dead.
const PATIENCE: u64 = 20 * SECOND;
/// How long it goes on without reading, when it has stopped.
const DEAF_FOR: u64 = 60 * SECOND;

/// What the owner learns.
#[derive(Debug)]
pub enum News {
    Heard(Heard),
    /// The connection is over; whether the client had said so.
    Lost {
        said_goodbye: bool,
    },
}

/// One client's connection, or the time until the next.
#[derive(Debug)]
pub struct Line {
    pub half: SessionHalf,
    address: IpAddr,
    chance: Chance,
    link: Option<LinkId>,
    offline_until: u64,
    keep_alive_agreed_s: u16,
    last_sent: u64,
    last_heard: u64,
    /// Since when something waits for an answer.
    waits_since: Option<u64>,
    deaf_until: u64,
}

impl Line {
    pub fn new(half: SessionHalf, address: IpAddr, chance: Chance) -> Self {
        Self {
            half,
            address,
            chance,
            link: None,
            offline_until: 0,
            keep_alive_agreed_s: 60,
            last_sent: 0,
            last_heard: 0,
            waits_since: None,
            deaf_until: 0,
        }
    }

    pub fn name(&self) -> &str {
        &self.half.terms.client_id
    }

    /// In a few words, for the report of one that is not done.
    pub fn situation(&self) -> String {
        format!("{} on {:?}: {:?}", self.name(), self.link, self.half)
    }

    /// It reads again, and comes back at once.
    pub fn heal(&mut self) {
        self.deaf_until = 0;
        self.offline_until = 0;
    }

    /// Whether it has no connection and its time has come.
    pub fn wants_to_connect(&self, now: u64) -> bool {
        self.link.is_none() && now >= self.offline_until
    }

    pub fn connect(&mut self, clean_start: bool, will: Option<&Will>, around: &mut Surroundings<'_>) {
        let Some(link) = around.network.connect(self.address) else {
            self.offline_until = around.now + self.chance.between(SECOND / 10, 2 * SECOND);
            return;
        };
        let seconds = self.half.terms.keep_alive_s;
        let may_be_shortened = self.half.terms.version == ProtocolVersion::V5;
        around.network.note_keep_alive(link, KeepAlive { seconds, may_be_shortened });
        note!(around.trace, "{} connects on link {link}, clean {clean_start}", self.name());
        self.half.connect(clean_start, will);
        self.link = Some(link);
        self.keep_alive_agreed_s = seconds;
        self.last_heard = around.now;
        self.waits_since = Some(around.now);
    }

    /// Says goodbye, and is away for so long.
    pub fn leave(&mut self, away_us: u64, around: &mut Surroundings<'_>) -> News {
        self.half.disconnect();
        self.flush(around);
        let news = self.lose("said goodbye", true, around);
        self.offline_until = around.now + away_us;
        news
    }

    /// Reads, writes, pings or gives up, as it is time for.
    pub fn act(&mut self, around: &mut Surroundings<'_>) -> Result<Vec<News>, String> {
        if self.link.is_none() {
            return Ok(Vec::new());
        }
        if let Some(lost) = self.misbehave(around) {
            return Ok(vec![lost]);
        }
        let mut news = if around.now >= self.deaf_until { self.listen(around)? } else { Vec::new() };
        self.keep_in_touch(around);
        self.flush(around);
        news.extend(self.lose_patience(around));
        Ok(news)
    }

    fn misbehave(&mut self, around: &mut Surroundings<'_>) -> Option<News> {
        let link = self.link?;
        around.trouble(link, &mut self.chance);
        if self.chance.happens(around.faults.deaf) {
            note!(around.trace, "{} stops reading", self.name());
            self.deaf_until = around.now + DEAF_FOR;
        }
        if !self.chance.happens(around.faults.takeovers) {
            return None;
        }
        if self.chance.coin() {
            around.network.client_vanishes(link);
        }
        let lost = self.lose("forgot its connection", false, around);
        self.offline_until = around.now;
        Some(lost)
    }

    fn listen(&mut self, around: &mut Surroundings<'_>) -> Result<Vec<News>, String> {
        let mut news = Vec::new();
        for _ in 0..8 {
            let Some(link) = self.link else { break };
            match around.network.client_reads(link, around.now) {
                Read::Nothing => break,
                Read::Closed => news.push(self.lose("the broker closed", false, around)),
                Read::Reset => news.push(self.lose("reset", false, around)),
                Read::Bytes(bytes) => {
                    self.last_heard = around.now;
                    self.waits_since = Some(around.now);
                    let heard =
                        self.half.take(&bytes).map_err(|words| format!("{}: {words}", self.name()))?;
                    for one in heard {
                        let is_over = matches!(one, Heard::Refused(_) | Heard::Goodbye(_));
                        if let Heard::LetIn { keep_alive_s: Some(seconds), .. } = one {
                            self.keep_alive_agreed_s = seconds;
                        }
                        note!(around.trace, "{} hears {one:?}", self.name());
                        news.push(News::Heard(one));
                        if is_over {
                            news.push(self.lose("sent away", false, around));
                            break;
                        }
                    }
                }
            }
        }
        Ok(news)
    }

    /// Writes what there is to say.
    pub fn flush(&mut self, around: &mut Surroundings<'_>) {
        let Some(link) = self.link else { return };
        let bytes = self.half.say_up_to(usize::MAX);
        if bytes.is_empty() {
            return;
        }
        self.last_sent = around.now;
        if !around.network.client_writes(link, &bytes, around.now) {
            note!(around.trace, "{}'s bytes are not taken", self.name());
            around.network.reset(link);
        }
    }

    fn keep_in_touch(&mut self, around: &mut Surroundings<'_>) {
        let silence = u64::from(self.keep_alive_agreed_s) * SECOND / 2;
        if self.half.is_let_in() && around.now >= self.last_sent + silence {
            self.half.ping();
        }
    }

    fn lose_patience(&mut self, around: &mut Surroundings<'_>) -> Option<News> {
        self.link?;
        if !self.half.awaits_answer() {
            self.waits_since = None;
        }
        let waits_since = *self.waits_since.get_or_insert(around.now);
        let keep_alive = u64::from(self.keep_alive_agreed_s) * SECOND;
        let is_deaf = around.now < self.deaf_until;
        let waits_long = around.now > waits_since + PATIENCE && self.half.awaits_answer()
            || around.now > self.last_heard + keep_alive + PATIENCE;
        (waits_long && !is_deaf).then(|| self.lose("no answer", false, around))
    }

    fn lose(&mut self, why: &str, said_goodbye: bool, around: &mut Surroundings<'_>) -> News {
        note!(around.trace, "{} is offline: {why}", self.name());
        if let Some(link) = self.link.take() {
            around.network.client_closes(link);
        }
        self.half.lose_connection();
        self.deaf_until = 0;
        self.offline_until = around.now + self.chance.below(3 * SECOND);
        News::Lost { said_goodbye }
    }
}
