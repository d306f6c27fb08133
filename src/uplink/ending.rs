//! The end of a connection: what of it is whose fault, and how long to wait before the next.

use std::time::Duration;

use crate::limits::{UPLINK_DEVICE_REFUSED_WAITS, UPLINK_GAP_DOUBTED, UPLINK_GAP_MAX, UPLINK_TOLD_OFF_SPAN};

use super::{
    Alarm, Link, Uplink,
    connection::Phase,
    failure::fit_for_people,
    flight::{Content, InFlight},
    poison::{Outcome, Refusal},
};

/// What may have ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nothing we have sent.
    Link,
    /// That we have sent too much, says the hub.
    Rate,
    /// Perhaps a message that was on its way.
    Message,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// As long as after so many attempts.
    BackOff,
    /// As long as that, but not shorter.
    AtLeast(Duration),
    /// As long as that, or until the clock is set.
    Clock,
    /// Long: only a person can put it right.
    Refused,
}

impl Uplink {
    /// The connection, or the attempt at one, is over.
    pub(super) fn lose(&mut self, words: &str, blame: Blame, pause: Pause) {
        let mut pause = pause;
        match &self.link {
            Link::Waiting { .. } | Link::Stopped => return,
            Link::Greeting { version, .. } if blame == Blame::Message => self.versions.on_closed(*version),
            Link::Connecting { .. } | Link::Greeting { .. } => {}
            Link::Open(connection) => {
                if connection.phase != Phase::Uploading {
                    self.ended_asking = self.ended_asking.saturating_add(1);
                }
                // Readings are not to blame for a subscription the hub does not like.
                let is_subscribing = connection.doubts_subscription && blame == Blame::Message;
                self.ended_subscribing += u8::from(is_subscribing);
                let blame = if is_subscribing { Blame::Link } else { blame };
                let told_off = |at| self.now.mono.since(at) < UPLINK_TOLD_OFF_SPAN;
                let is_told_off = connection.told_off.is_some_and(told_off);
                let blame = if is_told_off && blame == Blame::Message { Blame::Rate } else { blame };
                if self.judge(words, blame) == Some(Outcome::HubAtFault) {
                    pause = Pause::Refused;
                }
            }
        }
        self.wait_after(words, pause);
    }

    /// The hub lets us in no more, or takes nothing, until a person does something about it.
    pub(super) fn refuse(&mut self, words: String, over_when_let_in: bool) {
        let words = fit_for_people(&words);
        self.close_connection();
        self.wait_after(&words, Pause::Refused);
        self.people.alarm = Some(Alarm { words, over_when_let_in });
    }

    /// The hub refused a message and is still there.
    pub(super) fn on_refused(&mut self, message: InFlight, refusal: &Refusal, counts: bool) {
        let outcome = self.uploader.on_refused(message, refusal, counts, self.now.mono);
        let (Refusal::Told(words) | Refusal::Guessed(words)) = refusal;
        self.tell_outcome(outcome.as_ref(), words);
        if outcome == Some(Outcome::HubAtFault) {
            self.refuse(hub_at_fault(words), false);
        }
    }

    /// Whether a refusal must have to do with the message itself: the rates are known and kept, or nothing else was sent
    /// for a while.
    pub(super) fn nothing_else_explains(&self, message: &InFlight) -> bool {
        self.pace.is_known() || message.quiet >= UPLINK_GAP_DOUBTED
    }

    /// Finds out which of the messages on their way, if any, is to blame.
    fn judge(&mut self, words: &str, blame: Blame) -> Option<Outcome> {
        let mut messages = self.close_connection();
        if blame == Blame::Link || messages.is_empty() {
            return None;
        }
        let count = messages.len();
        let only = messages.pop().filter(|_| count == 1);
        let long_quiet = only.as_ref().is_some_and(|message| message.quiet >= UPLINK_GAP_MAX);
        if blame == Blame::Rate && !long_quiet {
            self.pace.slow_down(UPLINK_GAP_MAX);
            self.uploader.flight.shrink(2);
            return None;
        }
        if !self.pace.is_known() {
            self.pace.slow_down(UPLINK_GAP_DOUBTED);
            self.uploader.flight.shrink(2);
        }
        let Some(message) = only else {
            self.uploader.poison.on_unclear_close(count);
            return None;
        };
        match message.content {
            Content::Readings { .. } => {}
            Content::Announcement(device) => {
                self.uploader.presence.note_unwelcome(device);
                return None;
            }
            Content::Farewell => {
                self.uploader.presence.note_farewell_unwelcome();
                return None;
            }
            // It is not sent a second time.
            Content::RpcAnswer => return None,
        }
        let counts = self.nothing_else_explains(&message);
        let refusal = Refusal::Guessed(fit_for_people(words));
        let outcome = self.uploader.on_refused(message, &refusal, counts, self.now.mono);
        self.tell_outcome(outcome.as_ref(), words);
        if outcome == Some(Outcome::HubAtFault) {
            let alarm = Alarm { words: fit_for_people(&hub_at_fault(words)), over_when_let_in: false };
            self.people.alarm = Some(alarm);
        }
        outcome
    }

    /// What was on its way is given back for judgement, all else is forgotten.
    pub(super) fn close_connection(&mut self) -> Vec<InFlight> {
        self.queues.close();
        let messages = self.uploader.close();
        for _ in messages.iter().filter(|message| matches!(message.content, Content::RpcAnswer)) {
            self.queues.note_answered(false);
        }
        messages
    }

    fn tell_outcome(&mut self, outcome: Option<&Outcome>, words: &str) {
        let words = match outcome {
            Some(Outcome::Rejected(rejected)) => {
                format!(
                    "reading {} is set aside, the hub does not take it: {}",
                    rejected.seq.0, rejected.reason
                )
            }
            Some(Outcome::Suspected) => {
                format!("a reading is held back until the hub has taken another: {words}")
            }
            Some(Outcome::Again | Outcome::HubAtFault) | None => return,
        };
        self.tell(true, fit_for_people(&words));
    }

    fn wait_after(&mut self, words: &str, pause: Pause) {
        let words = fit_for_people(words);
        let wait = match pause {
            Pause::BackOff | Pause::Clock => self.backoff.next_wait(),
            Pause::AtLeast(span) => self.backoff.next_wait().max(self.backoff.around(span)),
            Pause::Refused if self.settings.mode.is_device() => {
                self.backoff.next_refused_wait(&UPLINK_DEVICE_REFUSED_WAITS)
            }
            Pause::Refused => self.backoff.next_refused_wait(&[]),
        };
        // The same trouble again and again is told once.
        if self.people.last_error.as_ref().is_none_or(|(last, _)| *last != words) {
            let (seconds, backlog) = (wait.as_secs_f32().ceil(), self.backlog_words());
            self.tell(true, format!("{words}; next attempt in {seconds} s, {backlog}"));
        }
        self.people.last_error = Some((words, self.now.mono));
        self.clock_wait.on_lost(self.now.mono);
        self.link = Link::Waiting { until: self.now.mono + wait, why: pause };
        self.close_wanted = true;
        self.incoming = Vec::new();
    }
}

fn hub_at_fault(words: &str) -> String {
    format!("the hub takes no reading at all, whichever it is: {words}")
}
