//! Tokens nobody here has, on their way to the hub and back: which are asked about, how fast, and what it said lately.
//!
//! Knows tokens, addresses and time; who is held for which answer is told by `learning`. Everything in it is bounded,
//! and a trial the hub rejects is counted dearly: a hub may shut out an address after some in a row, and to the hub
//! everybody here has the same.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
};

use crate::{
    clock::Mono,
    identity::{Identity, Token, TokenHash},
    ids::ConnId,
    limits::{
        TRIAL_BURST_S, TRIAL_CONNECTS_MAX, TRIAL_FORGIVEN, TRIAL_PAUSE, TRIAL_REJECTED_SPAN,
        TRIAL_UNDECIDED_SPAN, TRIALS_AT_ONCE, TRIALS_PER_ADDRESS_PER_MIN, TRIALS_PER_MIN,
        TRIALS_REJECTED_MAX, TRIED_TOKENS_MAX,
    },
};

use super::rates::{Buckets, MINUTE_NS, Rate};

/// Which trial; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrialId(u64);

/// A question to the hub: does it know this token?
#[derive(Debug)]
pub struct Ask {
    /// To be given back with the answer.
    pub id: TrialId,
    /// The token.
    pub token: Token,
    /// Where the CONNECT with it came from.
    pub address: IpAddr,
}

/// What came of a trial.
#[derive(Debug)]
pub enum Verdict {
    /// The hub knows the token, and this is the device it now is in the registry.
    Enrolled(Identity),
    /// Somebody else has meanwhile put the token into the registry.
    Known,
    /// The hub does not know it.
    Rejected,
    /// The hub answered, but not this question; or the device could not be enrolled.
    Undecided,
    /// The hub could not be asked.
    Unreached,
}

/// What is remembered of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lately {
    /// The hub does not know it.
    Rejected,
    /// The hub did not say.
    Undecided,
}

/// The trials, waiting and running.
#[derive(Debug, Default)]
pub(super) struct Trials {
    is_on: bool,
    last_id: u64,
    trials: BTreeMap<TrialId, Trial>,
    /// Those that have not been begun, oldest first.
    waiting: VecDeque<TrialId>,
    held: usize,
    pace: Pace,
    lately: HashMap<TokenHash, (Lately, Mono)>,
    /// The hub could not be reached a moment ago.
    paused_until: Option<Mono>,
}

#[derive(Debug)]
struct Trial {
    hash: TokenHash,
    /// Until it is asked about.
    token: Option<Token>,
    /// Whose CONNECT began it.
    address: IpAddr,
    held: Vec<ConnId>,
}

/// A trial that is over.
#[derive(Debug)]
pub(super) struct Ended {
    /// Whose CONNECT began it.
    pub(super) address: IpAddr,
    /// Who waits for it.
    pub(super) held: Vec<ConnId>,
}

impl Trials {
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Begins anew, with nothing remembered; gives back everybody who was held.
    pub(super) fn begin_anew(&mut self, is_on: bool) -> Vec<ConnId> {
        let held = std::mem::take(&mut self.trials).into_values().flat_map(|trial| trial.held).collect();
        // Trials that run are somebody else's by now: their numbers are not used again.
        *self = Self { is_on, last_id: self.last_id, ..Self::default() };
        held
    }

    /// What the hub said of a token lately.
    pub(super) fn lately(&self, hash: &TokenHash, now: Mono) -> Option<Lately> {
        self.lately.get(hash).filter(|(_, until)| *until > now).map(|(what, _)| *what)
    }

    /// The trial of this token, if there is one.
    pub(super) fn of(&self, hash: &TokenHash) -> Option<TrialId> {
        self.trials.iter().find(|(_, trial)| trial.hash == *hash).map(|(id, _)| *id)
    }

    /// A new trial, which waits for its turn, unless there were too many lately.
    pub(super) fn begin(&mut self, token: Token, address: IpAddr, now: Mono) -> Option<TrialId> {
        if self.paused_until.is_some_and(|until| until > now) || !self.pace.take(address, now) {
            return None;
        }
        self.last_id += 1;
        let id = TrialId(self.last_id);
        self.trials.insert(id, Trial { hash: token.hash(), token: Some(token), address, held: Vec::new() });
        self.waiting.push_back(id);
        Some(id)
    }

    /// Lets `conn` wait for `trial`.
    pub(super) fn join(&mut self, trial: TrialId, conn: ConnId) {
        if let Some(trial) = self.trials.get_mut(&trial) {
            trial.held.push(conn);
            self.held += 1;
        }
    }

    /// `conn` waits no more; a trial that was not begun and nobody waits for is dropped.
    pub(super) fn leave(&mut self, id: TrialId, conn: ConnId) {
        let Some(trial) = self.trials.get_mut(&id) else { return };
        if let Some(at) = trial.held.iter().position(|held| *held == conn) {
            trial.held.remove(at);
            self.held -= 1;
        }
        if trial.held.is_empty() && trial.token.is_some() {
            self.trials.remove(&id);
            self.waiting.retain(|waiting| *waiting != id);
        }
    }

    /// The next to ask the hub about, if it may be asked now.
    pub(super) fn next(&mut self, now: Mono) -> Option<Ask> {
        let running = self.trials.len() - self.waiting.len();
        if running >= TRIALS_AT_ONCE.min(self.pace.rejections_left(now) as usize) {
            return None;
        }
        let id = self.waiting.pop_front()?;
        let trial = self.trials.get_mut(&id)?;
        Some(Ask { id, token: trial.token.take()?, address: trial.address })
    }

    /// A trial is over; `None` if it was given up before.
    pub(super) fn end(&mut self, id: TrialId, verdict: &Verdict, now: Mono) -> Option<Ended> {
        let Trial { hash, address, held, .. } = self.trials.remove(&id)?;
        self.held -= held.len();
        match verdict {
            Verdict::Enrolled(_) | Verdict::Known => self.pace.forgive(),
            Verdict::Rejected => {
                self.pace.note_rejected(now);
                self.remember(hash, Lately::Rejected, now);
            }
            Verdict::Undecided => self.remember(hash, Lately::Undecided, now),
            Verdict::Unreached => self.paused_until = Some(now + TRIAL_PAUSE),
        }
        Some(Ended { address, held })
    }

    /// Those that cannot be begun soon, with everybody who waits for them.
    pub(super) fn give_up_waiting(&mut self, now: Mono) -> Vec<ConnId> {
        let is_paused = self.paused_until.is_some_and(|until| until > now);
        if !is_paused && self.pace.rejections_left(now) > 0 {
            return Vec::new();
        }
        let given_up: Vec<ConnId> = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(|id| self.trials.remove(&id))
            .flat_map(|trial| trial.held)
            .collect();
        self.held -= given_up.len();
        given_up
    }

    fn remember(&mut self, hash: TokenHash, what: Lately, now: Mono) {
        if self.lately.len() >= TRIED_TOKENS_MAX {
            self.lately.retain(|_, (_, until)| *until > now);
        }
        if self.lately.len() >= TRIED_TOKENS_MAX {
            let soonest = self.lately.iter().min_by_key(|(hash, (_, until))| (*until, hash.0));
            if let Some(soonest) = soonest.map(|(hash, _)| *hash) {
                self.lately.remove(&soonest);
            }
        }
        let span = match what {
            Lately::Rejected => TRIAL_REJECTED_SPAN,
            Lately::Undecided => TRIAL_UNDECIDED_SPAN,
        };
        self.lately.insert(hash, (what, now + span));
    }

    /// Whether as many CONNECTs are held as may be.
    pub(super) fn is_full(&self) -> bool {
        self.held >= TRIAL_CONNECTS_MAX
    }

    /// Everybody who is held.
    pub(super) fn held(&self) -> impl Iterator<Item = ConnId> {
        self.trials.values().flat_map(|trial| trial.held.iter().copied())
    }

    /// How many are held.
    pub(super) fn held_len(&self) -> usize {
        self.held
    }

    /// Whether `conn` is held for `trial`.
    pub(super) fn holds(&self, trial: TrialId, conn: ConnId) -> bool {
        self.trials.get(&trial).is_some_and(|trial| trial.held.contains(&conn))
    }
}

/// How fast the hub is asked.
#[derive(Debug)]
struct Pace {
    all: Buckets<()>,
    addresses: Buckets<IpAddr>,
    /// Rejections that are not forgiven yet, and since when that holds.
    rejected: (u32, Mono),
}

impl Default for Pace {
    fn default() -> Self {
        Self { all: Buckets::new(), addresses: Buckets::new(), rejected: (0, Mono(0)) }
    }
}

impl Pace {
    /// Counts a trial for `address`, if there may be another; one that may not does not count.
    fn take(&mut self, address: IpAddr, now: Mono) -> bool {
        let rate = |per_min| Rate::new(per_min, MINUTE_NS, TRIAL_BURST_S);
        let (Some(all), Some(each)) = (rate(TRIALS_PER_MIN), rate(TRIALS_PER_ADDRESS_PER_MIN)) else {
            return false;
        };
        let may = self.rejections_left(now) > 0
            && self.all.wait(&(), all, now).is_zero()
            && self.addresses.wait(&address, each, now).is_zero();
        if may {
            self.all.take((), all, now);
            self.addresses.take(address, each, now);
        }
        may
    }

    /// How many more the hub may reject at once.
    fn rejections_left(&self, now: Mono) -> u32 {
        TRIALS_REJECTED_MAX - self.unforgiven(now).0
    }

    fn note_rejected(&mut self, now: Mono) {
        let (count, since) = self.unforgiven(now);
        self.rejected = if count == 0 { (1, now) } else { ((count + 1).min(TRIALS_REJECTED_MAX), since) };
    }

    /// The hub has let somebody in: its own count begins anew.
    fn forgive(&mut self) {
        self.rejected = (0, Mono(0));
    }

    fn unforgiven(&self, now: Mono) -> (u32, Mono) {
        let (count, since) = self.rejected;
        let steps = now.since(since).as_secs() / TRIAL_FORGIVEN.as_secs();
        match u32::try_from(steps) {
            Ok(steps) if steps < count => (count - steps, since + TRIAL_FORGIVEN * steps),
            _ => (0, Mono(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, time::Duration};

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const START: Mono = Mono(1_000_000_000);

    fn token(n: usize) -> Token {
        Token::parse(&format!("token number {n}")).expect("valid")
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, epoch: 0 }
    }

    fn trials() -> Trials {
        let mut trials = Trials::default();
        trials.begin_anew(true);
        trials
    }

    /// Begins a trial for an address of its own and has `conn` wait for it.
    fn held(trials: &mut Trials, n: u32, now: Mono) -> Option<TrialId> {
        let id = trials.begin(token(n as usize), Ipv4Addr::from(n).into(), now)?;
        trials.join(id, conn(n));
        Some(id)
    }

    #[test]
    fn so_many_run_at_once_and_the_rest_wait_for_their_turn() {
        let mut trials = trials();
        for n in 1..=6 {
            held(&mut trials, n, START).expect("begun");
        }
        let running: Vec<_> = std::iter::from_fn(|| trials.next(START)).map(|ask| ask.id).collect();
        assert_eq!(running.len(), TRIALS_AT_ONCE);
        let ended = trials.end(running[0], &Verdict::Known, START).expect("it ran");
        assert_eq!(ended.held, [conn(1)]);
        assert_eq!(trials.next(START).expect("the fifth").token.reveal(), "token number 5");
        assert!(trials.next(START).is_none());
    }

    #[test]
    fn a_trial_nobody_waits_for_is_dropped_unless_it_runs() {
        let mut trials = trials();
        let (one, two) = (held(&mut trials, 1, START), held(&mut trials, 2, START));
        let (one, two) = (one.expect("begun"), two.expect("begun"));
        assert_eq!(trials.next(START).map(|ask| ask.id), Some(one));
        trials.leave(one, conn(1));
        trials.leave(two, conn(2));
        assert_eq!((trials.held_len(), trials.trials.len()), (0, 1));
        assert!(trials.next(START).is_none());
        assert!(trials.end(one, &Verdict::Rejected, START).is_some());
        assert_eq!(trials.lately(&token(1).hash(), START), Some(Lately::Rejected));
    }

    #[test]
    fn what_the_hub_said_is_remembered_for_a_while() {
        let mut trials = trials();
        for (n, verdict) in [(1, Verdict::Rejected), (2, Verdict::Undecided), (3, Verdict::Known)] {
            let id = held(&mut trials, n, START).expect("begun");
            trials.next(START).expect("asked");
            trials.end(id, &verdict, START);
        }
        let lately = |n, at| trials.lately(&token(n).hash(), at);
        assert_eq!(lately(1, START), Some(Lately::Rejected));
        assert_eq!(lately(2, START), Some(Lately::Undecided));
        assert_eq!(lately(3, START), None);
        assert_eq!(lately(2, START + TRIAL_UNDECIDED_SPAN), None);
        assert_eq!(lately(1, START + Duration::from_secs(599)), Some(Lately::Rejected));
        assert_eq!(lately(1, START + TRIAL_REJECTED_SPAN), None);
        trials.begin_anew(true);
        assert_eq!(trials.lately(&token(1).hash(), START), None);
    }

    #[test]
    fn the_memory_is_bounded_and_loses_the_oldest() {
        let mut trials = trials();
        for n in 0..=TRIED_TOKENS_MAX {
            let now = START + Duration::from_millis(n as u64);
            trials.remember(token(n).hash(), Lately::Rejected, now);
        }
        let now = START + Duration::from_secs(1);
        assert_eq!(trials.lately.len(), TRIED_TOKENS_MAX);
        assert_eq!(trials.lately(&token(0).hash(), now), None);
        assert_eq!(trials.lately(&token(1).hash(), now), Some(Lately::Rejected));
    }

    #[test]
    fn rejections_are_few_until_they_are_forgiven_or_the_hub_lets_somebody_in() {
        let mut trials = trials();
        let reject = |trials: &mut Trials, n: u32, now| {
            let id = held(trials, n, now)?;
            trials.next(now)?;
            trials.end(id, &Verdict::Rejected, now)
        };
        for n in 1..=TRIALS_REJECTED_MAX {
            assert!(reject(&mut trials, n, START).is_some(), "{n}");
        }
        assert!(reject(&mut trials, 10, START).is_none());
        let later = START + TRIAL_FORGIVEN;
        assert!(reject(&mut trials, 11, later).is_some() && reject(&mut trials, 12, later).is_none());

        let later = later + TRIAL_FORGIVEN;
        let id = held(&mut trials, 13, later).expect("one is forgiven");
        trials.next(later).expect("asked");
        trials.end(id, &Verdict::Known, later);
        assert!(reject(&mut trials, 14, later).is_some() && reject(&mut trials, 15, later).is_some());
    }

    #[test]
    fn trials_that_run_count_as_if_the_hub_would_reject_them() {
        let mut trials = trials();
        for n in 1..=4 {
            let id = held(&mut trials, n, START).expect("begun");
            trials.next(START).expect("asked");
            trials.end(id, &Verdict::Rejected, START);
        }
        assert!(held(&mut trials, 5, START).is_some() && held(&mut trials, 6, START).is_some());
        assert!(trials.next(START).is_some() && trials.next(START).is_none());
    }

    #[test]
    fn one_address_has_a_share_of_all_trials() {
        let mut trials = trials();
        let begun = |trials: &mut Trials, address, count| {
            (0..count).filter(|n| trials.begin(token(*n), address, START).is_some()).count()
        };
        assert_eq!(begun(&mut trials, HOME, 100), 10);
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(begun(&mut trials, other, 100), 10);
        assert_eq!(begun(&mut trials, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 100), 0);
        let later = START + Duration::from_secs(1);
        assert!(trials.begin(token(1000), other, later).is_some());
    }

    #[test]
    fn a_hub_that_is_not_there_is_left_alone_for_a_moment_and_nobody_waits_for_it() {
        let mut trials = trials();
        for n in 1..=6 {
            held(&mut trials, n, START).expect("begun");
        }
        let first = trials.next(START).expect("asked");
        trials.end(first.id, &Verdict::Unreached, START);
        assert_eq!(trials.give_up_waiting(START).len(), 5);
        assert_eq!((trials.held_len(), trials.trials.len()), (0, 0));
        assert!(held(&mut trials, 7, START).is_none());
        assert!(held(&mut trials, 7, START + TRIAL_PAUSE).is_some());
    }
}
