//! Whether the time a refusal takes tells how much of a guessed token was right.
//!
//! Over loopback, which is as near as a guesser gets: connections are dialled and accepted before they are used, the
//! kinds of guesses come in random order, and each is compared with tokens that have nothing to do with any device.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{
    alone, full,
    support::{
        broker::{Broker, Setup},
        chance::Chance,
        client::Client,
        home::Device,
        packets::Connect,
        tell,
        wait::SOON,
        wire::Version,
    },
};

const GUESSES_FULL: usize = 20_000;
const GUESSES_SMOKE: usize = 6 * KINDS.len();
/// Connections dialled at once: fewer than are accepted in one turn.
const ROUND: usize = 50;
/// Of all refusals this part, the slowest, is left out: something else had the processor.
const SLOWEST_PART: f64 = 0.1;
/// Beyond it, a difference is no chance any more.
const T_MAX: f64 = 5.0;

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What is known of the token of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing; what the others are compared with.
    Random,
    /// So many characters from the front; all behind them are wrong.
    Right(usize),
    /// All of it, and one character more.
    TooLong,
    /// All of it, but the device is disabled.
    Disabled,
}

const KINDS: [Kind; 7] = [
    Kind::Random,
    Kind::Right(0),
    Kind::Right(1),
    Kind::Right(10),
    Kind::Right(19),
    Kind::TooLong,
    Kind::Disabled,
];

/// The times of one kind, in microseconds, without the slowest.
struct Times(Vec<f64>);

#[test]
fn a_82_a_refusal_takes_as_long_however_much_of_the_token_was_right() {
    let _alone = alone();
    let setup = Setup::new()
        .roomy(1000)
        .limit("refusals_per_address", 1_000_000)
        // What is written to the log costs time, and not each time.
        .limit("log_lines_per_10s", 1);
    let (device, disabled) = (setup.home().add_device("bench"), setup.home().add_device("disabled"));
    setup.home().must(&["device", "disable", "disabled"]);
    let broker = setup.start();
    let mut chance = Chance::of_today();
    let mut order: Vec<Kind> =
        KINDS.into_iter().cycle().take(if full() { GUESSES_FULL } else { GUESSES_SMOKE }).collect();
    shuffle(&mut order, &mut chance);
    let mut canary = broker.online(Version::V311, &device, "canary");
    let mut taken = Vec::new();
    for round in order.chunks(ROUND) {
        let guesses: Vec<(Kind, Vec<u8>)> =
            round.iter().map(|kind| (*kind, connect(&kind.guess(&device, &disabled, &mut chance)))).collect();
        taken.extend(refusals(&broker, &mut canary, &guesses));
    }
    if full() {
        judge(&taken);
    }
}

/// How long each refusal took.
fn refusals(broker: &Broker, canary: &mut Client, guesses: &[(Kind, Vec<u8>)]) -> Vec<(Kind, Duration)> {
    let clients: Vec<Client> = guesses.iter().map(|_| Client::dial(broker.plain())).collect();
    // A turn accepts before it reads: whoever was dialled before this ping is accepted when it is answered.
    assert!(canary.ping(SOON));
    let refusal = |(mut client, (kind, connect)): (Client, &(Kind, Vec<u8>))| {
        let sent = Instant::now();
        client.send(connect);
        let connack = client.packet();
        let taken = sent.elapsed();
        assert_eq!(connack.connack(), Some(5), "a guess of {kind} is refused");
        // Then the broker has nothing left to do for this one.
        client.until_closed(SOON);
        (*kind, taken)
    };
    clients.into_iter().zip(guesses).map(refusal).collect()
}

/// Prints the table, and panics if a guesser could learn from it which characters were right.
fn judge(taken: &[(Kind, Duration)]) {
    let mut all: Vec<f64> = taken.iter().map(|(_, taken)| micros(*taken)).collect();
    all.sort_by(f64::total_cmp);
    // One line for all kinds: cutting each at its own would move what is compared.
    let slowest = all[(all.len() as f64 * (1.0 - SLOWEST_PART)) as usize];
    let times = |wanted: Kind| {
        let of_kind = taken.iter().filter(|(kind, _)| *kind == wanted).map(|(_, taken)| micros(*taken));
        Times(of_kind.filter(|taken| *taken < slowest).collect())
    };
    let random = times(Kind::Random);
    let mut table = String::from(
        "| guess | refusals | mean, µs | beside random, µs | seen from, µs | t |\n|:--|--:|--:|--:|--:|--:|\n",
    );
    let mut told = Vec::new();
    for kind in KINDS {
        let these = times(kind);
        let (difference, error) = (these.mean() - random.mean(), these.error_beside(&random));
        let t = difference / error;
        table.push_str(&format!(
            "| {kind} | {} | {:.2} | {difference:+.3} | {:.3} | {t:+.2} |\n",
            these.0.len(),
            these.mean(),
            T_MAX * error
        ));
        if matches!(kind, Kind::Right(_)) && t.abs() >= T_MAX {
            told.push(kind.to_string());
        }
    }
    tell(&table);
    assert!(told.is_empty(), "the time of a refusal gives away: {}", told.join(", "));
}

impl Kind {
    fn guess(self, device: &Device, disabled: &Device, chance: &mut Chance) -> String {
        let token = &device.token;
        match self {
            Self::Random => token.chars().map(|_| any_character(chance)).collect(),
            Self::Right(right) => {
                let (front, back) = token.split_at(right);
                front.chars().chain(back.chars().map(|right| other_character(right, chance))).collect()
            }
            Self::TooLong => format!("{token}{}", any_character(chance)),
            Self::Disabled => disabled.token.clone(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Right(right) => write!(f, "{right} of 20 characters right"),
            Self::TooLong => f.write_str("the token and one character"),
            Self::Disabled => f.write_str("the token of a disabled device"),
        }
    }
}

impl Times {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn variance(&self) -> f64 {
        let mean = self.mean();
        self.0.iter().map(|taken| (taken - mean).powi(2)).sum::<f64>() / (self.0.len() - 1) as f64
    }

    /// The standard error of the difference of the means; the difference over it is Welch's t.
    fn error_beside(&self, other: &Self) -> f64 {
        (self.variance() / self.0.len() as f64 + other.variance() / other.0.len() as f64).sqrt()
    }
}

fn connect(token: &str) -> Vec<u8> {
    Connect::new(Version::V311, "guesser").user(token).bytes()
}

fn any_character(chance: &mut Chance) -> char {
    char::from(ALPHABET[chance.below(ALPHABET.len() as u64) as usize])
}

fn other_character(than: char, chance: &mut Chance) -> char {
    loop {
        let character = any_character(chance);
        if character != than {
            return character;
        }
    }
}

fn shuffle(kinds: &mut [Kind], chance: &mut Chance) {
    for last in (1..kinds.len()).rev() {
        kinds.swap(last, chance.below(last as u64 + 1) as usize);
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
