//! Answers wait here until what they answer for is on disk.
//!
//! Knows positions only: no sockets, no SQL, no clock.

use std::collections::VecDeque;

use crate::{
    ids::ConnId,
    mqtt::{PacketId, ReasonCode},
    session::Terms,
};

pub use crate::ids::Ticket;

/// Which packet an acknowledgement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// The answer to QoS 1.
    PubAck,
    /// The first answer to QoS 2.
    PubRec,
    /// The second message of QoS 2.
    PubRel,
    /// The last answer to QoS 2.
    PubComp,
}

/// What a held answer will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// About one message.
    Ack {
        /// Which packet.
        kind: AckKind,
        /// The message it is about.
        packet_id: PacketId,
        /// What it will say.
        reason: ReasonCode,
        /// Why, in words, when that is not success.
        words: Option<Box<str>>,
    },
    /// SUBACK, and behind it the retained messages that these subscriptions ask for.
    SubAck {
        /// The SUBSCRIBE it answers.
        packet_id: PacketId,
        /// A code per filter.
        reasons: Vec<ReasonCode>,
        /// Filters whose retained messages are wanted.
        retained: Vec<(Box<str>, Terms)>,
    },
    /// UNSUBACK.
    UnsubAck {
        /// The UNSUBSCRIBE it answers.
        packet_id: PacketId,
        /// A code per filter; none before version 5.
        reasons: Vec<ReasonCode>,
    },
}

impl Answer {
    /// An acknowledgement without words.
    pub fn ack(kind: AckKind, packet_id: PacketId, reason: ReasonCode) -> Self {
        Self::Ack { kind, packet_id, reason, words: None }
    }

    /// Whether it is a PUBACK.
    pub fn is_puback(&self) -> bool {
        matches!(self, Self::Ack { kind: AckKind::PubAck, .. })
    }
}

/// One answer that may not be sent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAnswer {
    /// What must be on disk first.
    pub ticket: Ticket,
    /// Who waits for it.
    pub conn: ConnId,
    /// What it is.
    pub answer: Answer,
}

/// The acknowledgements that wait, oldest first.
///
/// Invariants: `committed <= appended`; every held ack's ticket lies in `committed..=appended`; tickets never go down.
#[derive(Debug, Default)]
pub struct CommitGate {
    held: VecDeque<HeldAnswer>,
    appended: Ticket,
    committed: Ticket,
}

impl CommitGate {
    /// Numbers the next message that must become durable.
    pub fn append(&mut self) -> Ticket {
        self.appended.0 += 1;
        self.appended
    }

    /// Holds `answer` until everything appended so far is on disk.
    pub fn hold(&mut self, conn: ConnId, answer: Answer) {
        self.held.push_back(HeldAnswer { ticket: self.appended, conn, answer });
    }

    /// Moves the durable mark to `through` and gives back the acks that may now be sent, oldest first.
    ///
    /// PUBACKs leave in the order of their PUBLISHes. [MQTT-4.6.0-2]
    ///
    /// # Panics
    /// If `through` was never appended, or lies before the mark: the store lied, stopping is the safe thing.
    pub fn release(&mut self, through: Ticket) -> impl Iterator<Item = HeldAnswer> + '_ {
        assert!(through <= self.appended, "the disk claims a message nobody appended");
        assert!(through >= self.committed, "the durable mark went backwards");
        self.committed = through;
        let n = self.held.partition_point(|ack| ack.ticket <= through);
        self.held.drain(..n)
    }

    /// Gives up on everything not yet durable: the commit failed, and nobody knows what is on disk.
    ///
    /// The acks are returned so that those who wait for them can be cut off; they must never be sent.
    pub fn give_up(&mut self) -> impl Iterator<Item = HeldAnswer> + '_ {
        self.committed = self.appended;
        self.held.drain(..)
    }

    /// Messages appended and not yet known durable.
    pub fn waiting(&self) -> u64 {
        self.appended.0 - self.committed.0
    }

    /// Acks held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Everything up to here is on disk.
    pub fn committed(&self) -> Ticket {
        self.committed
    }

    /// The last ticket handed out.
    pub fn appended(&self) -> Ticket {
        self.appended
    }

    /// The acks held for `conn`, for counting in assertions.
    pub fn held_for(&self, conn: ConnId) -> usize {
        self.held.iter().filter(|ack| ack.conn == conn).count()
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        assert!(self.committed <= self.appended);
        assert!(self.held.iter().all(|ack| ack.ticket <= self.appended));
        assert!(self.held.iter().zip(self.held.iter().skip(1)).all(|(a, b)| a.ticket <= b.ticket));
        assert!(
            self.held.front().is_none_or(|ack| ack.ticket > self.committed),
            "a releasable ack stayed behind"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId { slot: 0, epoch: 0 };

    fn id(id: u16) -> PacketId {
        PacketId::new(id).expect("not zero")
    }

    fn puback(packet_id: u16) -> Answer {
        Answer::ack(AckKind::PubAck, id(packet_id), ReasonCode::Success)
    }

    fn released(gate: &mut CommitGate, through: Ticket) -> Vec<u16> {
        let packet_id = |ack: HeldAnswer| match ack.answer {
            Answer::Ack { packet_id, .. } => packet_id.get(),
            other => panic!("only acknowledgements were held, not {other:?}"),
        };
        gate.release(through).map(packet_id).collect()
    }

    #[test]
    fn an_ack_stays_until_its_message_is_durable() {
        let mut gate = CommitGate::default();
        let first = gate.append();
        gate.hold(CONN, puback(1));
        let second = gate.append();
        gate.hold(CONN, puback(2));
        assert_eq!((gate.waiting(), gate.held()), (2, 2));
        assert_eq!(released(&mut gate, first), [1]);
        gate.check_invariants();
        assert_eq!(released(&mut gate, second), [2]);
        assert_eq!((gate.waiting(), gate.held()), (0, 0));
    }

    #[test]
    fn acks_leave_in_order_of_their_publishes_mqtt_4_6_0_2() {
        let mut gate = CommitGate::default();
        gate.append();
        gate.hold(CONN, puback(7));
        gate.hold(CONN, puback(3));
        let last = gate.append();
        gate.hold(CONN, puback(5));
        assert_eq!(released(&mut gate, last), [7, 3, 5]);
    }

    #[test]
    fn a_failed_commit_gives_the_acks_up_and_the_next_starts_afresh() {
        let mut gate = CommitGate::default();
        gate.append();
        gate.hold(CONN, puback(1));
        assert_eq!(gate.give_up().count(), 1);
        assert_eq!((gate.waiting(), gate.held()), (0, 0));
        let next = gate.append();
        gate.hold(CONN, puback(2));
        assert_eq!(released(&mut gate, next), [2]);
    }

    #[test]
    #[should_panic(expected = "the disk claims a message nobody appended")]
    fn the_disk_cannot_claim_what_nobody_appended() {
        let mut gate = CommitGate::default();
        gate.append();
        let _ = gate.release(Ticket(2)).count();
    }

    #[test]
    #[should_panic(expected = "the durable mark went backwards")]
    fn the_durable_mark_cannot_go_backwards() {
        let mut gate = CommitGate::default();
        gate.append();
        let last = gate.append();
        let _ = gate.release(last).count();
        let _ = gate.release(Ticket(1)).count();
    }
}
