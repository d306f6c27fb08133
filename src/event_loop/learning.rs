//! Tokens nobody here has, tried at the hub: the trials as they run in the loop, and the device that comes of one.
//!
//! Once per turn, between the bytes of devices and the commit, so that whoever is let in hears of it in the same turn.

use std::{net::IpAddr, rc::Rc};

use mio::{Poll, Token as PollToken, event::Event};
use slab::Slab;

use crate::{
    broker::{Ask, TrialId, Verdict},
    clock::{Mono, Now},
    identity::{Identity, Token},
    ids::DeviceName,
    limits::{LEARNED_DEVICES_MAX, TRIALS_AT_ONCE},
    mqtt::ProtocolVersion,
    net::{
        resolver::{Answer, Resolver},
        scratch::Scratch,
    },
    store::{KeptTokens, StoreError},
    uplink::{Finding, Secret, Trial},
};

use super::{
    EventLoop, FIRST_TRIAL,
    uplink::{UplinkSetup, Uploading},
    uplink_link::{Arrival, Attempt, HubPlace, Link, Way},
};

/// The trials that run, and what was learnt from earlier ones.
pub(super) struct Learning {
    /// By whose settings the hub is asked.
    setup: Option<Rc<UplinkSetup>>,
    running: Slab<Running>,
    /// What the hub has spoken last.
    version: ProtocolVersion,
    /// From here on names may be free.
    next_name: u32,
    /// The same trouble again and again is told once.
    told: String,
}

/// One trial: the pure client and its way to the hub.
struct Running {
    id: TrialId,
    token: Token,
    address: IpAddr,
    trial: Trial,
    place: Rc<HubPlace>,
    poll_token: PollToken,
    link: Link,
}

/// A trial that is over.
struct Over {
    id: TrialId,
    token: Token,
    address: IpAddr,
    finding: Finding,
}

/// What became of a device the hub knows.
enum Enrolment {
    New(Identity),
    /// Its token is in the registry already.
    There,
}

impl Learning {
    pub(super) fn new() -> Self {
        Self {
            setup: None,
            running: Slab::new(),
            version: ProtocolVersion::V5,
            next_name: 1,
            told: String::new(),
        }
    }

    /// Whether the next turn has something to do at once.
    pub(super) fn is_busy(&self) -> bool {
        self.running.iter().any(|(_, running)| running.link.can_read())
    }

    /// When it wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.running
            .iter()
            .flat_map(|(_, running)| [running.trial.poll_timeout(), running.link.deadline()])
            .flatten()
            .min()
    }

    /// An event of the trial in `place`; one of a connection that has gone does no harm to its successor.
    pub(super) fn on_event(&mut self, place: usize, event: &Event) {
        if let Some(running) = self.running.get_mut(place) {
            running.link.on_event(event);
        }
    }

    pub(super) fn on_answer(&mut self, answer: &Answer, poll: &Poll, now: Now) {
        for (_, running) in &mut self.running {
            running.on_answer(answer, poll, now);
        }
    }

    /// Whether the settings are others than those the hub was asked by, which are then forgotten with all trials.
    fn take_changed(&mut self, in_force: Option<&Rc<UplinkSetup>>) -> bool {
        let is_same = match (&self.setup, in_force) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Rc::ptr_eq(ours, theirs),
            _ => false,
        };
        if !is_same {
            self.running.drain().for_each(|mut running| running.link.close());
            let next_name = self.next_name;
            *self = Self { setup: in_force.cloned(), next_name, ..Self::new() };
        }
        !is_same
    }

    /// Whether tokens nobody here has are tried at the hub.
    pub(super) fn is_on(&self) -> bool {
        self.setup.as_ref().is_some_and(|setup| setup.trial_client_id.is_some())
    }

    fn begin(&mut self, ask: Ask, now: Now) {
        let Some(setup) = &self.setup else { return };
        let Some(client_id) = &setup.trial_client_id else { return };
        let Ask { id, token, address } = ask;
        let entry = self.running.vacant_entry();
        assert!(entry.key() < TRIALS_AT_ONCE, "more trials than there may be");
        // Each its own: a hub may let only one of a name in.
        let client_id = format!("{client_id}{}", entry.key() + 1);
        let trial = Trial::new(Secret::new(token.reveal()), client_id, self.version, now);
        let poll_token = PollToken(FIRST_TRIAL + entry.key());
        let place = Rc::clone(&setup.place);
        entry.insert(Running { id, token, address, trial, place, poll_token, link: Link::new() });
    }

    /// Goes on with all of them, and gives back those that are over.
    fn serve(&mut self, resolver: &mut Resolver, poll: &Poll, scratch: &mut Scratch, now: Now) -> Vec<Over> {
        let mut over = Vec::new();
        for (slot, running) in &mut self.running {
            running.serve(resolver, poll, scratch, now);
            if let Some(finding) = running.trial.finding() {
                over.push((slot, finding.clone()));
            }
        }
        let ended = over.into_iter().map(|(slot, finding)| {
            let Running { id, token, address, trial, mut link, .. } = self.running.remove(slot);
            link.close();
            if matches!(finding, Finding::Known | Finding::Unknown(_)) {
                self.version = trial.version();
            }
            Over { id, token, address, finding }
        });
        ended.collect()
    }

    fn tell(&mut self, level: log::Level, words: String) {
        if self.told != words {
            log::log!(level, "{words}; its device is asked to come again");
            self.told = words;
        }
    }
}

impl Running {
    fn on_answer(&mut self, answer: &Answer, poll: &Poll, now: Now) {
        let place = Rc::clone(&self.place);
        let way = Way { place: &place, registry: poll.registry(), token: self.poll_token };
        let attempt = self.link.on_answer(answer, way, now.mono);
        self.on_attempt(attempt);
    }

    fn on_attempt(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Pending => {}
            Attempt::Connected => self.trial.handle_connected(),
            Attempt::Failed(failure) => self.trial.handle_connect_failed(&failure),
        }
    }

    fn serve(&mut self, resolver: &mut Resolver, poll: &Poll, scratch: &mut Scratch, now: Now) {
        self.read(scratch);
        self.trial.handle_timeout(now);
        // The old connection goes before there is another.
        self.write();
        self.connect(resolver, poll, now);
        self.write();
    }

    fn read(&mut self, scratch: &mut Scratch) {
        let Some(arrival) = self.link.read(scratch, &self.place) else { return };
        if !scratch.plaintext().is_empty() {
            self.trial.handle_bytes(scratch.plaintext());
        }
        if let Arrival::End(failure) = arrival {
            self.trial.handle_disconnected(&failure);
        }
    }

    fn connect(&mut self, resolver: &mut Resolver, poll: &Poll, now: Now) {
        let place = Rc::clone(&self.place);
        let way = Way { place: &place, registry: poll.registry(), token: self.poll_token };
        if self.trial.poll_connect() {
            let attempt = self.link.begin(way, resolver, now.mono);
            self.on_attempt(attempt);
        }
        let attempt = self.link.advance(way, now.mono);
        self.on_attempt(attempt);
    }

    fn write(&mut self) {
        if let Err(failure) = self.link.write(self.trial.output(), &self.place) {
            self.trial.handle_disconnected(&failure);
        }
        if self.trial.poll_close() {
            self.link.close();
        }
    }
}

impl EventLoop {
    /// Takes over whether tokens are tried, and where, if that has changed.
    pub(super) fn check_learning(&mut self, now: Now) {
        let uploading = &mut self.uploading;
        if uploading.learning.take_changed(uploading.setup.as_ref()) {
            self.broker.handle_learning(self.uploading.learning.is_on(), now);
        }
    }

    /// Everything trials want in this turn.
    pub(super) fn try_tokens(&mut self, now: Now) {
        loop {
            while let Some(ask) = self.broker.poll_trial(now) {
                self.uploading.learning.begin(ask, now);
            }
            let Uploading { learning, resolver, .. } = &mut self.uploading;
            let over = learning.serve(resolver, &self.poll, &mut self.scratch, now);
            if over.is_empty() {
                return;
            }
            for over in over {
                self.conclude(over, now);
            }
        }
    }

    fn conclude(&mut self, over: Over, now: Now) {
        let Over { id, token, address, finding } = over;
        let verdict = match finding {
            Finding::Known => match self.enrol(&token, now) {
                Ok(Enrolment::New(device)) => {
                    log::info!("learnt {}, which came from {address}: the hub knows its token", device.name);
                    Verdict::Enrolled(device)
                }
                Ok(Enrolment::There) => Verdict::Known,
                Err(words) => {
                    let words = format!("a device the hub knows cannot be enrolled: {words}");
                    self.uploading.learning.tell(log::Level::Error, words);
                    Verdict::Undecided
                }
            },
            Finding::Unknown(words) => {
                log::debug!("the token of a device at {address} is unknown at the hub as well: {words}");
                Verdict::Rejected
            }
            Finding::Unclear(words) => {
                self.uploading.learning.tell(log::Level::Warn, untried(&words));
                Verdict::Undecided
            }
            Finding::Unreached(words) => {
                self.uploading.learning.tell(log::Level::Warn, untried(&words));
                Verdict::Unreached
            }
        };
        if matches!(verdict, Verdict::Enrolled(_) | Verdict::Known | Verdict::Rejected) {
            self.uploading.learning.told.clear();
        }
        self.broker.handle_trial(id, verdict, now);
    }

    /// Puts a device with `token` into the registry, to be forwarded as itself; on disk when this returns.
    fn enrol(&mut self, token: &Token, now: Now) -> Result<Enrolment, String> {
        let words = |error: StoreError| error.to_string();
        let name = self.free_name()?;
        let dir = self.uploading.devices.dir().clone();
        // Kept before it counts: without a device of that name and token it means nothing.
        KeptTokens::change_at_once(&dir, |kept| kept.keep(name.clone(), token.clone())).map_err(words)?;
        match self.registry.add(&name, &token.hash(), now.wall) {
            Ok(device) => {
                self.check_forwarded(true);
                Ok(Enrolment::New(device))
            }
            Err(StoreError::DuplicateToken) => {
                KeptTokens::change_at_once(&dir, |kept| kept.forget(&name)).map_err(words)?;
                let identities = self.registry.identities().map_err(words)?;
                self.broker.handle_registry(identities, now);
                Ok(Enrolment::There)
            }
            Err(error) => Err(words(error)),
        }
    }

    /// A name of ours that nobody has, and no reading in the journal: it would become another device's.
    fn free_name(&mut self) -> Result<DeviceName, String> {
        let first = self.uploading.learning.next_name;
        for number in first..=LEARNED_DEVICES_MAX {
            let name = DeviceName::parse(&format!("learned-{number}")).expect("letters, digits and a hyphen");
            let is_taken = match self.registry.find(&name) {
                Ok(None) => self.buffer.has_heard_of(&name),
                Ok(Some(_)) => Ok(true),
                Err(error) => Err(error),
            };
            if !is_taken.map_err(|error| error.to_string())? {
                self.uploading.learning.next_name = number;
                return Ok(name);
            }
        }
        Err(format!("the names up to learned-{LEARNED_DEVICES_MAX} are taken"))
    }
}

fn untried(words: &str) -> String {
    format!("a token unknown here could not be tried: {words}")
}
