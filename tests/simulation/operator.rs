//! The operator at the command line: adds, rotates, disables and removes devices while the broker runs, through a
//! connection to the registry of his own.

use std::collections::BTreeMap;

use forebay::{
    clock::Wall,
    identity::{Identity, Rights, TokenHash},
    ids::DeviceName,
    store::{Registry, StoreError, StoreOptions},
};

use crate::{
    chance::Chance,
    machine::data_dir,
    trace::{Trace, note},
};

/// What local clients are let in with; nobody changes it.
pub const HALL_TOKEN: &str = "the token of the hall";

/// Longest time until a device has its new token, in microseconds.
const NEWS_TAKES_US: u64 = 5_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    token: String,
    enabled: bool,
}

#[derive(Debug)]
struct Entry {
    name: DeviceName,
    /// What the registry says for certain, and what it may say since a change failed; None is no device.
    known: Option<Standing>,
    doubtful: Option<Option<Standing>>,
    told: String,
    told_next: Option<(u64, String)>,
    tokens_made: u64,
    /// Since when a token opens nothing any more.
    revoked: BTreeMap<String, u64>,
}

/// The operator, and what he knows.
#[derive(Debug)]
pub struct Operator {
    entries: Vec<Entry>,
    chance: Chance,
    unfinished: Option<usize>,
}

impl Operator {
    /// Knows `count` devices; none of them is in the registry yet.
    pub fn new(count: usize, chance: Chance) -> Self {
        let entry = |index| Entry {
            name: DeviceName::parse(&format!("device-{index}")).expect("a valid name"),
            known: None,
            doubtful: None,
            told: format!("token-{index}-0"),
            told_next: None,
            tokens_made: 0,
            revoked: BTreeMap::new(),
        };
        Self { entries: (0..count).map(entry).collect(), chance, unfinished: None }
    }

    pub fn name(&self, device: usize) -> &DeviceName {
        &self.entries[device].name
    }

    /// The token the device was last told.
    pub fn token_told(&self, device: usize) -> &str {
        &self.entries[device].told
    }

    /// Whether `token` opened nothing any more at `at`, for certain.
    pub fn had_revoked(&self, device: usize, token: &str, at: u64) -> bool {
        let entry = &self.entries[device];
        let may_open =
            entry.doubtful.iter().flatten().any(|standing| standing.token == token && standing.enabled);
        !may_open && entry.revoked.get(token).is_some_and(|since| *since < at)
    }

    /// Gives every device its token when the news has arrived.
    pub fn deliver_news(&mut self, now: u64) {
        for entry in &mut self.entries {
            if let Some((_, token)) = entry.told_next.take_if(|(at, _)| *at <= now) {
                entry.told = token;
            }
        }
    }

    /// Changes some device, or tries again what failed.
    pub fn change_something(&mut self, options: &StoreOptions, now: u64, trace: &mut Trace) {
        let device = self.unfinished.unwrap_or_else(|| self.chance.below(self.entries.len() as u64) as usize);
        let wanted = match self.entries[device].doubtful.clone() {
            Some(doubtful) => doubtful,
            None => self.another_standing(device),
        };
        self.change(device, wanted, options, now, trace);
    }

    /// Lets every device in; gives back whether all are.
    pub fn let_all_in(&mut self, options: &StoreOptions, now: u64, trace: &mut Trace) -> bool {
        (0..self.entries.len()).all(|device| {
            let entry = &self.entries[device];
            let settled = entry.doubtful.is_none();
            match (&entry.known, settled) {
                (Some(standing), true) if standing.enabled => {
                    let token = standing.token.clone();
                    self.entries[device].told_next = None;
                    self.entries[device].told = token;
                    true
                }
                (known, _) => {
                    let token =
                        known.as_ref().map_or_else(|| self.entries[device].told.clone(), |s| s.token.clone());
                    self.change(device, Some(Standing { token, enabled: true }), options, now, trace)
                }
            }
        })
    }

    /// Lets local clients in; gives back whether they are.
    pub fn let_locals_in(&mut self, options: &StoreOptions) -> bool {
        let add = || {
            let mut registry = Registry::open(&data_dir(), options)?;
            let name = DeviceName::parse("hall").expect("a valid name");
            match registry.add_client(&name, Rights::default(), &TokenHash::of(HALL_TOKEN), Wall(0)) {
                Err(StoreError::DuplicateName { .. }) => Ok(()),
                other => other.map(drop),
            }
        };
        add().is_ok()
    }

    /// Everything the registry says was asked for, and what was confirmed it says.
    pub fn check(&self, found: &[Identity]) -> Result<(), String> {
        for entry in &self.entries {
            let device = found.iter().find(|device| device.name == entry.name);
            let says = |standing: &Option<Standing>| match (standing, device) {
                (None, None) => true,
                (Some(standing), Some(device)) => {
                    device.token_hash == TokenHash::of(&standing.token) && device.enabled == standing.enabled
                }
                _ => false,
            };
            if !says(&entry.known) && !entry.doubtful.as_ref().is_some_and(says) {
                return Err(format!(
                    "LOST a change of {}: {:?} and {:?} were possible",
                    entry.name, entry.known, entry.doubtful
                ));
            }
        }
        Ok(())
    }

    fn another_standing(&mut self, device: usize) -> Option<Standing> {
        let choice = self.chance.below(4);
        let entry = &mut self.entries[device];
        match (&entry.known, choice) {
            (Some(_), 0) => None,
            (Some(standing), 1) => Some(Standing { enabled: !standing.enabled, ..standing.clone() }),
            (known, _) => {
                entry.tokens_made += 1;
                let token = format!("token-{device}-{}", entry.tokens_made);
                Some(Standing { token, enabled: known.as_ref().is_none_or(|standing| standing.enabled) })
            }
        }
    }

    fn change(
        &mut self,
        device: usize,
        wanted: Option<Standing>,
        options: &StoreOptions,
        now: u64,
        trace: &mut Trace,
    ) -> bool {
        let entry = &mut self.entries[device];
        entry.doubtful = Some(wanted.clone());
        let outcome = write(&entry.name, wanted.as_ref(), options);
        note!(trace, "the operator wants {} to be {:?}: {}", entry.name, wanted, outcome.is_ok());
        if outcome.is_err() {
            self.unfinished = Some(device);
            return false;
        }
        self.unfinished = None;
        entry.doubtful = None;
        if let Some(former) = &entry.known
            && wanted.as_ref() != Some(former)
        {
            entry.revoked.insert(former.token.clone(), now);
        }
        if let Some(standing) = &wanted {
            if standing.enabled {
                entry.revoked.remove(&standing.token);
            } else {
                entry.revoked.insert(standing.token.clone(), now);
            }
            let news = now + self.chance.below(NEWS_TAKES_US);
            self.entries[device].told_next = Some((news, standing.token.clone()));
        }
        self.entries[device].known = wanted;
        true
    }
}

/// Brings the registry to say what is wanted of one device, whatever it said before.
fn write(name: &DeviceName, wanted: Option<&Standing>, options: &StoreOptions) -> Result<(), StoreError> {
    let mut registry = Registry::open(&data_dir(), options)?;
    let Some(standing) = wanted else {
        return match registry.remove(name) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            other => other,
        };
    };
    let hash = TokenHash::of(&standing.token);
    match registry.find(name)? {
        None => drop(registry.add(name, &hash, Wall(0))?),
        Some(device) if device.token_hash != hash => drop(registry.set_token(name, &hash)?),
        Some(_) => {}
    }
    if registry.find(name)?.is_some_and(|device| device.enabled != standing.enabled) {
        registry.set_enabled(name, standing.enabled)?;
    }
    Ok(())
}
