//! What is done wrong on purpose by the positive controls.

use forebay::session::durable::Change;

/// What can be done wrong on purpose, to show that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Answers leave before the commit they answer for.
    AnswerBeforeCommit,
    /// Commits are not flushed.
    CommitWithoutFlush,
    /// Some change of a session is left out of every batch.
    LeaveOut(Omission),
    /// Readings are settled that the hub has not acknowledged.
    SettleUnacknowledged,
    /// Readings the hub rejected are settled like any other.
    ForgetRejected,
    /// The hub acknowledges what it drops.
    HubThatLies,
    /// Readings leave the journal though the hub does not have them.
    RemoveUnsettled,
    /// Readings that are dropped are not counted.
    ForgetDropped,
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omission {
    Subscriptions,
    Deliveries,
    Acknowledged,
    Unreleased,
    Retained,
    Wills,
}

impl Omission {
    pub fn concerns(self, change: &Change) -> bool {
        match self {
            Self::Subscriptions => matches!(change, Change::Subscribed { .. }),
            Self::Deliveries => matches!(change, Change::Queued(_)),
            Self::Acknowledged => matches!(change, Change::Delivered(_) | Change::Received(_)),
            Self::Unreleased => matches!(change, Change::Unreleased { .. }),
            Self::Retained => matches!(change, Change::Retained(_)),
            Self::Wills => matches!(change, Change::Will { .. }),
        }
    }
}
