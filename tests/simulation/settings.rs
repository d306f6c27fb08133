//! What the environment says about how much to simulate.

use std::{
    env,
    time::{Duration, Instant},
};

/// Which seeds are run, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `SIM_SEED`: the first seed.
    pub seed: u64,
    /// `SIM_SEEDS`: how many; the time decides if it is not said.
    pub seeds: Option<u64>,
    /// `SIM_STEPS`: steps until everything is healed.
    pub steps: u64,
    /// `SIM_SECONDS`: no seed is begun after so long.
    pub seconds: u64,
}

impl Settings {
    /// What is said, and `seconds` if nothing is.
    pub fn read(seconds: u64) -> Self {
        Self {
            seed: number("SIM_SEED").unwrap_or(1),
            seeds: number("SIM_SEEDS"),
            steps: number("SIM_STEPS").unwrap_or(400),
            seconds: number("SIM_SECONDS").unwrap_or(seconds),
        }
    }

    /// The seeds, until there were enough or the time is over.
    pub fn seeds(self) -> impl Iterator<Item = u64> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let count = self.seeds;
        (self.seed..).take_while(move |seed| match count {
            Some(count) => *seed - self.seed < count,
            None => Instant::now() < end,
        })
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number, and is {text:?}")))
}
