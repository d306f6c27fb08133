//! Why a connection could not be had, or was lost, as the sockets tell it.

use crate::limits::UPLINK_WORDS_CHARS_MAX;

/// What went wrong below MQTT, for the uplink to judge and for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of thing it is.
    pub kind: FailureKind,
    /// The whole story in words: what was tried, with whom, what happened. No secrets.
    pub words: String,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The name of the hub could not be resolved.
    NameNotFound,
    /// The hub's machine refuses the connection.
    Refused,
    /// There is no way to the hub's machine.
    Unreachable,
    /// Nothing came back in time.
    TimedOut,
    /// TLS could not be agreed on, or a certificate is not to be trusted.
    Tls,
    /// The clock is not set, so that no certificate can be judged.
    Clock,
    /// The other end closed the connection in good order.
    Closed,
    /// The other end, or something on the way, cut the connection off.
    Reset,
    /// Anything else.
    Other,
}

impl Failure {
    /// A failure with its story.
    pub fn new(kind: FailureKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into() }
    }

    /// Whether the other end itself may have ended the connection, so that what was sent may be the reason.
    pub fn may_be_an_answer(&self) -> bool {
        matches!(self.kind, FailureKind::Closed | FailureKind::Reset)
    }
}

/// `text` made fit for a log line: no control characters, and not longer than a line should be.
pub fn fit_for_people(text: &str) -> String {
    text.chars().take(UPLINK_WORDS_CHARS_MAX).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_made_by_the_other_end_may_be_an_answer() {
        let may = |kind| Failure::new(kind, "").may_be_an_answer();
        assert!(may(FailureKind::Closed) && may(FailureKind::Reset));
        assert!(!may(FailureKind::TimedOut) && !may(FailureKind::Unreachable) && !may(FailureKind::Tls));
    }

    #[test]
    fn what_a_hub_says_cannot_break_a_line_or_fill_the_log() {
        assert_eq!(fit_for_people("a\nb\u{1b}[0m"), "a\u{FFFD}b\u{FFFD}[0m");
        assert_eq!(fit_for_people(&"x".repeat(10_000)).len(), UPLINK_WORDS_CHARS_MAX);
    }
}
