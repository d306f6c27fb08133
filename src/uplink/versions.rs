//! Which version of MQTT to try: 5.0, whose answers have reasons, or 3.1.1 with a hub that does not have it.

use crate::{clock::Mono, limits::UPLINK_OLD_VERSION_SPAN, mqtt::ProtocolVersion};

/// Closed connections, one after the other and without a CONNACK, that make us think that the hub does not have 5.0.
///
/// Not the first: it may only be starting, and 3.1.1 is a loss. What looks like an acknowledgement there may hide a
/// refusal.
const CLOSES: u8 = 3;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Versions {
    next: ProtocolVersion,
    /// Why 3.1.1 would be spoken, if nothing but closed connections says so.
    guess: Guess,
    /// Since when 3.1.1 is known to work where 5.0 did not.
    old_works_since: Option<Mono>,
    /// Connections closed without a CONNACK in a row.
    closes: u8,
}

/// What closed connections say about a hub. A hub that is starting closes as well, or what stands before it does: only
/// one that is there, and closes on 5.0 all the same, does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guess {
    /// Nothing yet, or the hub itself has spoken.
    None,
    /// It may not have 5.0: 3.1.1 is tried, to see whether it is there.
    IsItThere,
    /// It is there: 5.0 is tried once more.
    HasItNew,
}

impl Versions {
    /// 5.0 first.
    pub(super) fn new() -> Self {
        Self { next: ProtocolVersion::V5, guess: Guess::None, old_works_since: None, closes: 0 }
    }

    /// What to speak in the next attempt.
    pub(super) fn next(&mut self, now: Mono) -> ProtocolVersion {
        if self.old_works_since.is_some_and(|since| now.since(since) >= UPLINK_OLD_VERSION_SPAN) {
            *self = Self { guess: Guess::HasItNew, ..Self::new() };
        }
        self.next
    }

    /// The hub has answered in the version it was asked in; gives back whether that is the one to speak.
    pub(super) fn on_answer(&mut self, version: ProtocolVersion, now: Mono) -> bool {
        if self.guess == Guess::IsItThere && version < ProtocolVersion::V5 {
            *self = Self { guess: Guess::HasItNew, ..Self::new() };
            return false;
        }
        let is_old = version < ProtocolVersion::V5;
        let old_works_since = is_old.then(|| self.old_works_since.unwrap_or(now));
        *self = Self { next: version, old_works_since, ..Self::new() };
        true
    }

    /// The hub has said that it does not have `version`.
    pub(super) fn on_refused(&mut self, version: ProtocolVersion) {
        *self = Self { next: other(version), ..Self::new() };
    }

    /// The hub has closed the connection instead of an answer, which may mean the same.
    pub(super) fn on_closed(&mut self, version: ProtocolVersion) {
        // A hub that is known to speak 3.1.1 has another reason.
        if self.old_works_since.is_some() {
            return;
        }
        self.closes += 1;
        if version < ProtocolVersion::V5 {
            *self = Self::new();
        } else if self.guess == Guess::HasItNew {
            *self = Self { next: other(version), ..Self::new() };
        } else if self.closes >= CLOSES {
            *self = Self { next: other(version), guess: Guess::IsItThere, ..Self::new() };
        }
    }
}

pub(super) fn other(version: ProtocolVersion) -> ProtocolVersion {
    match version {
        ProtocolVersion::V5 => ProtocolVersion::V311,
        ProtocolVersion::V31 | ProtocolVersion::V311 => ProtocolVersion::V5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V311};
    use std::time::Duration;

    #[test]
    fn a_hub_that_says_it_has_no_5_0_is_spoken_to_in_3_1_1_for_an_hour() {
        let mut versions = Versions::new();
        assert_eq!(versions.next(Mono(0)), V5);
        versions.on_refused(V5);
        assert_eq!(versions.next(Mono(0)), V311);
        versions.on_answer(V311, Mono(0));
        let minute = Duration::from_secs(60);
        versions.on_closed(V311);
        versions.on_answer(V311, Mono(0) + minute);
        assert_eq!(versions.next(Mono(0) + minute * 59), V311);
        assert_eq!(versions.next(Mono(0) + minute * 60), V5);
        versions.on_closed(V5);
        assert_eq!(versions.next(Mono(0) + minute * 60), V311, "no need to be told thrice");
    }

    #[test]
    fn a_hub_that_answers_nobody_is_tried_in_both() {
        let mut versions = Versions::new();
        let mut tried = Vec::new();
        for _ in 0..8 {
            let version = versions.next(Mono(0));
            tried.push(version);
            versions.on_closed(version);
        }
        assert_eq!(tried, [V5, V5, V5, V311, V5, V5, V5, V311]);
    }

    #[test]
    fn a_hub_that_closed_while_it_was_starting_is_asked_for_5_0_once_it_is_there() {
        let mut versions = Versions::new();
        for _ in 0..CLOSES {
            versions.on_closed(V5);
        }
        assert_eq!(versions.next(Mono(0)), V311);
        assert!(!versions.on_answer(V311, Mono(0)), "it is there, and nobody knows yet what it has");
        assert_eq!(versions.next(Mono(0)), V5);
        assert!(versions.on_answer(V5, Mono(0)));
        versions.on_closed(V5);
        assert_eq!(versions.next(Mono(0)), V5);
    }

    #[test]
    fn a_hub_that_is_there_and_closes_on_5_0_does_not_have_it() {
        let mut versions = Versions::new();
        for _ in 0..CLOSES {
            versions.on_closed(V5);
        }
        versions.on_answer(V311, Mono(0));
        versions.on_closed(V5);
        assert_eq!(versions.next(Mono(0)), V311);
        assert!(versions.on_answer(V311, Mono(0)));
        versions.on_closed(V311);
        assert_eq!(versions.next(Mono(0)), V311);
    }

    #[test]
    fn one_close_of_a_hub_that_is_starting_does_not_cost_5_0() {
        let mut versions = Versions::new();
        versions.on_closed(V5);
        versions.on_closed(V5);
        versions.on_answer(V5, Mono(0));
        versions.on_closed(V5);
        assert_eq!(versions.next(Mono(0)), V5);
    }
}
