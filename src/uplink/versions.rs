//! Which version of MQTT to try: 5.0, whose answers have reasons, or 3.1.1 with a hub that does not have it.

use crate::{clock::Mono, limits::UPLINK_OLD_VERSION_SPAN, mqtt::ProtocolVersion};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Versions {
    next: ProtocolVersion,
    /// Since when 3.1.1 is known to work where 5.0 did not.
    old_works_since: Option<Mono>,
}

impl Versions {
    /// 5.0 first.
    pub(super) fn new() -> Self {
        Self { next: ProtocolVersion::V5, old_works_since: None }
    }

    /// What to speak in the next attempt.
    pub(super) fn next(&mut self, now: Mono) -> ProtocolVersion {
        if self.old_works_since.is_some_and(|since| now.since(since) >= UPLINK_OLD_VERSION_SPAN) {
            *self = Self::new();
        }
        self.next
    }

    /// The hub has answered in the version it was asked in.
    pub(super) fn on_answer(&mut self, version: ProtocolVersion, now: Mono) {
        self.next = version;
        self.old_works_since = match version {
            ProtocolVersion::V5 => None,
            ProtocolVersion::V31 | ProtocolVersion::V311 => self.old_works_since.or(Some(now)),
        };
    }

    /// The hub does not have `version`, or has closed the connection without an answer, which may mean the same.
    pub(super) fn on_no_answer(&mut self, version: ProtocolVersion) {
        // A hub that is known to speak 3.1.1 has another reason.
        if self.old_works_since.is_none() {
            self.next = match version {
                ProtocolVersion::V5 => ProtocolVersion::V311,
                ProtocolVersion::V31 | ProtocolVersion::V311 => ProtocolVersion::V5,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V311};
    use std::time::Duration;

    #[test]
    fn a_hub_without_5_0_is_spoken_to_in_3_1_1_for_a_day() {
        let mut versions = Versions::new();
        assert_eq!(versions.next(Mono(0)), V5);
        versions.on_no_answer(V5);
        assert_eq!(versions.next(Mono(0)), V311);
        versions.on_answer(V311, Mono(0));
        let hour = Duration::from_secs(3600);
        versions.on_no_answer(V311);
        versions.on_answer(V311, Mono(0) + hour);
        assert_eq!(versions.next(Mono(0) + hour * 23), V311);
        assert_eq!(versions.next(Mono(0) + hour * 24), V5);
    }

    #[test]
    fn a_hub_that_answers_nobody_is_tried_in_both_in_turn() {
        let mut versions = Versions::new();
        versions.on_no_answer(V5);
        versions.on_no_answer(V311);
        assert_eq!(versions.next(Mono(0)), V5);
        versions.on_answer(V5, Mono(0));
        versions.on_no_answer(V5);
        assert_eq!(versions.next(Mono(0)), V311, "it may have been replaced by an old one");
    }
}
