//! Devices nobody here knows: their CONNECT is held while the hub is asked about their token, and then looked at as if
//! it had just come.
//!
//! ```text
//! CONNECT, token unknown -> hold_for_trial -> poll_trial -> the hub -> handle_trial -> enrolled: looked at again
//!                               | not tried                                         -> else: refused
//!                               +-> refused: unknown, or not decided
//! ```
//!
//! A CONNECT that is held has passed the waits of `pacing` before, and a refusal counts against its address as ever:
//! whoever guesses at tokens gains nothing by it.

use crate::{
    clock::Now,
    identity::{Token, TokenHash},
    ids::ConnId,
    limits::{TRIAL_CONNECTS_PER_ADDRESS_MAX, TRIAL_TIME, TRIED_TOKEN_BYTES_MIN},
    mqtt::Connect,
    session::{Refusal, handle_connect},
};

use super::{
    Broker, Deadline, StoreState,
    connections::Phase,
    trials::{Ask, Ended, Lately, TrialId, Verdict},
};

impl Broker {
    /// From now on tokens nobody here has are tried at the hub, or are not any more; what it said before is forgotten.
    ///
    /// Also to be called when it is another hub.
    pub fn handle_learning(&mut self, is_on: bool, now: Now) {
        let held = self.trials.begin_anew(is_on);
        self.refuse_held(held, Refusal::Undecided, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// A token to try at the hub; then call `handle_trial`.
    pub fn poll_trial(&mut self, now: Now) -> Option<Ask> {
        self.trials.next(now.mono)
    }

    /// What came of a trial; one that was given up meanwhile changes nothing but who is known.
    pub fn handle_trial(&mut self, id: TrialId, verdict: Verdict, now: Now) {
        let ended = self.trials.end(id, &verdict, now.mono);
        match &verdict {
            Verdict::Enrolled(_) => self.counters.devices_learned += 1,
            Verdict::Known => {}
            Verdict::Rejected => self.counters.tokens_rejected += 1,
            Verdict::Undecided | Verdict::Unreached => self.counters.trials_undecided += 1,
        }
        let is_rejected = matches!(verdict, Verdict::Rejected);
        if let Verdict::Enrolled(device) = verdict {
            self.identities.add(device);
            self.look_again(ended, now);
        } else if matches!(verdict, Verdict::Known) {
            self.look_again(ended, now);
        } else if let Some(Ended { address, held }) = ended {
            if is_rejected && held.is_empty() {
                // Whoever asked did not wait for the answer; it counts all the same.
                self.refusals.note(address, now.mono, &self.limits);
            }
            let refusal = if is_rejected { Refusal::UnknownToken } else { Refusal::Undecided };
            self.refuse_held(held, refusal, now);
        }
        let given_up = self.trials.give_up_waiting(now.mono);
        self.refuse_held(given_up, Refusal::Undecided, now);
        self.route_pending(now);
        self.check_invariants();
    }

    /// Holds the CONNECT of `conn`, whose token nobody enabled here has, until the hub was asked about it.
    ///
    /// # Errors
    /// Why it is refused instead.
    pub(super) fn hold_for_trial(
        &mut self,
        conn: ConnId,
        connect: &Connect<'_>,
        now: Now,
    ) -> Result<(), Refusal> {
        let text = handle_connect::token(connect)?;
        if !self.trials.is_on() || text.len() < TRIED_TOKEN_BYTES_MIN {
            return Err(Refusal::UnknownToken);
        }
        let hash = TokenHash::of(text);
        // Whoever was shut out here stays shut out, whatever the hub says.
        if self.identities.knows(&hash) || self.trials.lately(&hash, now.mono) == Some(Lately::Rejected) {
            return Err(Refusal::UnknownToken);
        }
        let token = Token::parse(text).map_err(|_| Refusal::UnknownToken)?;
        let address = self.connections.get(conn).map(|connection| connection.address);
        let address = address.ok_or(Refusal::Undecided)?;
        let is_undecided = self.trials.lately(&hash, now.mono).is_some();
        let of_address =
            |held: &ConnId| self.connections.get(*held).is_some_and(|found| found.address == address);
        let is_crowded = self.trials.is_full()
            || self.trials.held().filter(of_address).count() >= TRIAL_CONNECTS_PER_ADDRESS_MAX;
        if is_undecided || is_crowded || self.store == StoreState::Failed {
            return Err(Refusal::Undecided);
        }
        let trial = match self.trials.of(&hash) {
            Some(trial) => trial,
            None => self.trials.begin(token, address, now.mono).ok_or(Refusal::Undecided)?,
        };
        self.trials.join(trial, conn);
        self.hold(conn, trial, connect, now);
        Ok(())
    }

    fn hold(&mut self, conn: ConnId, trial: TrialId, connect: &Connect<'_>, now: Now) {
        // From here on it is bounded by the trials, and does not keep others from being accepted.
        self.forget_waiting(conn);
        self.deadlines.cancel(Deadline::Connect(conn));
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let bytes_max = connect.properties.maximum_packet_size_bytes().unwrap_or(u32::MAX);
        connection.phase = Phase::Held { trial, answer: (connect.version, bytes_max) };
        let until = (connection.accepted + self.limits.connect_timeout()).min(now.mono + TRIAL_TIME);
        self.deadlines.arm(Deadline::Trial(conn), until);
    }

    pub(super) fn is_held(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|connection| matches!(connection.phase, Phase::Held { .. }))
    }

    /// Keeps what comes behind a CONNECT that is held; whether it is one.
    pub(super) fn keep_held(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let is_held = self.is_held(conn);
        if is_held && let Some(connection) = self.connections.get_mut(conn) {
            connection.partial.extend_from_slice(bytes);
        }
        is_held
    }

    /// The hub has not said anything in time.
    pub(super) fn on_trial_late(&mut self, conn: ConnId, now: Now) {
        let Some(connection) = self.connections.get(conn) else { return };
        log::debug!("{conn:?} from {} has waited for the hub long enough", connection.address);
        self.refuse_one(conn, Refusal::Undecided, now);
    }

    fn refuse_held(&mut self, held: Vec<ConnId>, refusal: Refusal, now: Now) {
        for conn in held {
            self.refuse_one(conn, refusal, now);
        }
    }

    fn refuse_one(&mut self, conn: ConnId, refusal: Refusal, now: Now) {
        let Some(connection) = self.connections.get(conn) else { return };
        if let Phase::Held { answer, .. } = connection.phase {
            self.refusals.note(connection.address, now.mono, &self.limits);
            self.refuse(conn, refusal, answer, now);
        }
    }

    /// Handles the CONNECTs that were held, and what came behind them.
    fn look_again(&mut self, ended: Option<Ended>, now: Now) {
        let held = ended.map(|ended| ended.held).unwrap_or_default();
        for conn in &held {
            let Some(connection) = self.connections.get_mut(*conn) else { continue };
            connection.phase = Phase::Waited;
            let accepted = connection.accepted;
            self.unauthenticated.insert((accepted, *conn));
            self.deadlines.cancel(Deadline::Trial(*conn));
            self.deadlines.arm(Deadline::Connect(*conn), accepted + self.limits.connect_timeout());
        }
        for conn in held {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            let held_back = std::mem::take(&mut connection.partial);
            self.handle_bytes(conn, &held_back, now);
        }
    }
}
