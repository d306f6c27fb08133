//! Readings the hub does not take: found by halving, judged only against readings it does take.
//!
//! ```text
//! a message is refused --halved until one reading is left--> that reading is refused --> suspect
//!                            (a closed connection must strike it three times first)        |
//!                                                    others go on past it, and one is taken|
//!                                                                                          v
//!                            taken <-- sent once more, alone --> refused again --> rejected
//!                                      (a closed connection must happen twice, with another taken between)
//! ```
//!
//! Nobody is rejected while nothing else is taken: a hub that refuses everything is at fault itself. When
//! [`UPLINK_SUSPECTS`] readings are under suspicion, or some connections in a row were closed on one, the last one that was
//! taken goes once more, as the witness: if it is taken again, it is not the hub, which need not be given longer and longer
//! pauses, and the suspects are judged. Without a witness, or if it is refused, the uplink pauses and tells people; then
//! those devices go first of whose readings none was refused yet, and of the others one reading from further on in each
//! attempt, since all of the next ones may be bad.

use crate::{
    ids::{DeviceName, Seq},
    limits::{UPLINK_SUSPECTS, UPLINK_WINDOW, UPLINK_WITNESS_BYTES},
    record::{Outbound, Rejected},
};

use super::settled::Settled;

/// Closed connections that make a suspect of a reading.
const STRIKES: u8 = 3;
/// Closed connections that reject a suspect, another reading being taken before each.
const STRIKES_OF_SUSPECT: u8 = 2;
/// Closed connections in a row after which the witness is asked: pauses grow with each.
const CLOSES_IN_A_ROW: u8 = 4;
/// Refusals after which the witness is none any more: what was taken once may be unwelcome today.
const STRIKES_OF_WITNESS: u8 = 2;
/// Known-bad stretches kept; one more makes the oldest be found again.
const STRETCHES_MAX: usize = UPLINK_WINDOW as usize;

/// How a message was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The hub has said that it cannot read the payload.
    Told(String),
    /// The hub has closed the connection, did not answer, or gave no clear reason: it may be the message.
    Guessed(String),
}

/// What is to be done about a refused message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its readings are to be sent again, in smaller messages.
    Again,
    /// Its one reading is set aside; others go on past it.
    Suspected,
    /// Its one reading is rejected for good.
    Rejected(Rejected),
    /// Too many are under suspicion: it is the hub, or how we are set up there.
    HubAtFault,
}

/// What is known of readings the hub refused.
#[derive(Debug, Default)]
pub(super) struct Poison {
    stretches: Vec<Stretch>,
    strikes: Option<(Seq, u8)>,
    suspects: Vec<Suspect>,
    /// Messages to go alone, so that it is clear which one the hub closes the connection on.
    alone: usize,
    /// Whether nothing was taken since the hub was found to be at fault.
    hub_at_fault: bool,
    /// Connections closed on readings since one was taken.
    closes: u8,
    /// Attempts since the hub was found to be at fault.
    probes: u32,
    /// The last reading that was taken, and how often it was refused since.
    witness: Option<(Outbound, u8)>,
}

/// Readings of one device of which at least one is bad.
#[derive(Debug)]
struct Stretch {
    device: DeviceName,
    first: Seq,
    last: Seq,
    count: usize,
    guessed: bool,
}

#[derive(Debug)]
struct Suspect {
    row: Outbound,
    guessed: bool,
    /// Closed connections since it is under suspicion.
    strikes: u8,
    /// Whether the hub has taken another reading since this one was last refused.
    hub_takes_others: bool,
    on_its_way: bool,
}

impl Poison {
    /// Whether messages must go alone.
    pub(super) fn wants_alone(&self) -> bool {
        self.alone > 0 || self.hub_at_fault || self.stretches.iter().any(|stretch| stretch.guessed)
    }

    /// How many readings of `device` a message that begins at `head` may carry, and the last place it may reach.
    pub(super) fn bounds(&self, device: &DeviceName, head: Seq) -> (usize, Seq) {
        let own = self.stretches.iter().filter(|stretch| stretch.device == *device);
        // While the hub seems to be at fault more of a device would show no more.
        let most = if self.is_put_off(device) { 1 } else { usize::MAX };
        let mut bounds = (most, Seq(u64::MAX));
        for stretch in own {
            if (stretch.first..=stretch.last).contains(&head) {
                return (stretch.count.div_ceil(2).min(most), stretch.last);
            }
            if head < stretch.first {
                bounds.1 = bounds.1.min(Seq(stretch.first.0 - 1));
            }
        }
        bounds
    }

    /// Whether `head` alone is to be judged by a closed connection, so that nothing else should explain one.
    pub(super) fn wants_quiet(&self, device: &DeviceName, head: Seq) -> bool {
        let mut own = self.stretches.iter().filter(|stretch| stretch.guessed && stretch.device == *device);
        own.any(|stretch| stretch.count == 1 && (stretch.first..=stretch.last).contains(&head))
    }

    /// Devices that others are to go before: so many readings were refused that the hub seems to be at fault, and only
    /// those of others can show whether it is.
    pub(super) fn put_off(&self) -> impl Iterator<Item = &DeviceName> {
        let stretches = self.stretches.iter().map(|stretch| &stretch.device);
        let suspects = self.suspects.iter().map(|suspect| &suspect.row.device);
        stretches.chain(suspects).filter(|_| self.hub_at_fault)
    }

    fn is_put_off(&self, device: &DeviceName) -> bool {
        self.put_off().any(|put_off| put_off == device)
    }

    /// Whether nothing was taken since the hub was found to be at fault.
    pub(super) fn hub_at_fault(&self) -> bool {
        self.hub_at_fault
    }

    /// Which attempt this is, the first being zero, to find a reading that is taken from a hub that seems to be at fault;
    /// `None` if it does not, or a witness will show whether it is.
    pub(super) fn next_probe(&mut self) -> Option<u32> {
        if !self.hub_at_fault || self.witness.is_some() {
            return None;
        }
        self.probes = self.probes.wrapping_add(1);
        Some(self.probes - 1)
    }

    /// Whether it is being found out which reading the hub closes the connection on, so that nothing else should go
    /// without need.
    pub(super) fn is_judging(&self) -> bool {
        self.stretches.iter().any(|stretch| stretch.guessed) || self.due_retry().is_some()
    }

    /// Whether a reading of `device` is set aside.
    pub(super) fn suspects_of(&self, device: &DeviceName) -> bool {
        self.suspects.iter().any(|suspect| suspect.row.device == *device)
    }

    /// Readings set aside.
    pub(super) fn suspects(&self) -> usize {
        self.suspects.len()
    }

    /// Whether `seq` is set aside.
    pub(super) fn is_suspect(&self, seq: Seq) -> bool {
        self.suspects.iter().any(|suspect| suspect.row.seq == seq)
    }

    /// A reading to be sent once more, alone, and whether a closed connection will be put down to it: a suspect whose time
    /// has come, or, if all wait for another to be taken and there is room for no more, the witness.
    pub(super) fn due_retry(&self) -> Option<(&Outbound, bool)> {
        let due = |suspect: &&Suspect| suspect.hub_takes_others && !suspect.on_its_way;
        let due_suspect = || self.suspects.iter().find(due).map(|suspect| (&suspect.row, suspect.guessed));
        self.due_witness().or_else(due_suspect)
    }

    fn due_witness(&self) -> Option<(&Outbound, bool)> {
        let waits = |suspect: &Suspect| !suspect.hub_takes_others && !suspect.on_its_way;
        let all_wait = || self.suspects.len() >= UPLINK_SUSPECTS && self.suspects.iter().all(waits);
        let (row, _) = self.witness.as_ref().filter(|_| self.closes >= CLOSES_IN_A_ROW || all_wait())?;
        Some((row, self.closes > 0))
    }

    /// The suspect `seq` is being sent once more.
    pub(super) fn note_retry(&mut self, seq: Seq) {
        for suspect in self.suspects.iter_mut().filter(|suspect| suspect.row.seq == seq) {
            suspect.on_its_way = true;
        }
    }

    /// A message of `rows` was taken.
    pub(super) fn on_taken(&mut self, rows: &[Outbound], settled: &Settled) {
        self.alone = self.alone.saturating_sub(1);
        (self.hub_at_fault, self.probes, self.closes) = (false, 0, 0);
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        if last.values.len() <= UPLINK_WITNESS_BYTES {
            self.witness = Some((last.clone(), 0));
        }
        self.suspects.retain(|suspect| suspect.row.seq != first.seq);
        self.suspects.iter_mut().for_each(|suspect| suspect.hub_takes_others = true);
        if self.strikes.is_some_and(|(seq, _)| rows.iter().any(|row| row.seq == seq)) {
            self.strikes = None;
        }
        for stretch in self.stretches.iter_mut().filter(|stretch| stretch.device == first.device) {
            if (stretch.first..=stretch.last).contains(&first.seq) {
                // The bad one is further on.
                stretch.count = stretch.count.saturating_sub(rows.len()).max(1);
                stretch.first = last.seq.next();
            }
        }
        self.stretches.retain(|stretch| stretch.first <= stretch.last && !settled.contains(stretch.last));
    }

    /// A message of `rows` of one device was refused; `counts` says that nothing but the message explains it.
    pub(super) fn on_refused(&mut self, rows: &[Outbound], refusal: &Refusal, counts: bool) -> Outcome {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Outcome::Again };
        let guessed = matches!(refusal, Refusal::Guessed(_));
        self.closes = self.closes.saturating_add(u8::from(guessed));
        if self.is_suspect(first.seq) {
            return self.judge(first.seq, refusal, counts);
        }
        if rows.len() == 1 && self.is_put_off(&first.device) {
            // It was one of many, to see whether the hub takes any.
            return Outcome::HubAtFault;
        }
        self.stretches.retain(|stretch| {
            stretch.device != first.device || stretch.last < first.seq || last.seq < stretch.first
        });
        let is_struck = rows.len() == 1 && counts && self.strike(first.seq, guessed);
        if is_struck {
            return self.suspect(first, guessed);
        }
        if self.stretches.len() >= STRETCHES_MAX {
            self.stretches.remove(0);
        }
        let (device, count) = (first.device.clone(), rows.len());
        self.stretches.push(Stretch { device, first: first.seq, last: last.seq, count, guessed });
        if self.hub_at_fault { Outcome::HubAtFault } else { Outcome::Again }
    }

    /// The witness was refused; `counts` says that nothing but the message explains it.
    pub(super) fn on_witness_refused(&mut self, refusal: &Refusal, counts: bool) -> Outcome {
        if matches!(refusal, Refusal::Guessed(_)) && !counts {
            return Outcome::Again;
        }
        self.hub_at_fault = true;
        self.witness = self.witness.take().map(|(row, strikes)| (row, strikes + 1));
        self.witness = self.witness.take().filter(|(_, strikes)| *strikes < STRIKES_OF_WITNESS);
        Outcome::HubAtFault
    }

    /// The connection was closed on `messages` at once, and it is not clear on which: they go one by one for a while.
    pub(super) fn on_unclear_close(&mut self, messages: usize) {
        self.alone = self.alone.max(messages);
    }

    /// The connection is gone: what was on its way is not any more.
    pub(super) fn on_disconnected(&mut self) {
        self.suspects.iter_mut().for_each(|suspect| suspect.on_its_way = false);
    }

    /// Counts a refusal of one reading; whether it was one too many.
    fn strike(&mut self, seq: Seq, guessed: bool) -> bool {
        let strikes = match self.strikes {
            Some((struck, strikes)) if struck == seq => strikes.saturating_add(1),
            _ => 1,
        };
        self.strikes = Some((seq, strikes));
        !guessed || strikes >= STRIKES
    }

    fn suspect(&mut self, row: &Outbound, guessed: bool) -> Outcome {
        if self.suspects.len() >= UPLINK_SUSPECTS {
            if self.witness.is_some() {
                return Outcome::Again;
            }
            self.hub_at_fault = true;
            return Outcome::HubAtFault;
        }
        let row = row.clone();
        self.suspects.push(Suspect { row, guessed, strikes: 0, hub_takes_others: false, on_its_way: false });
        Outcome::Suspected
    }

    fn judge(&mut self, seq: Seq, refusal: &Refusal, counts: bool) -> Outcome {
        let (Refusal::Told(words) | Refusal::Guessed(words)) = refusal;
        let Some(place) = self.suspects.iter().position(|suspect| suspect.row.seq == seq) else {
            return Outcome::Suspected;
        };
        let suspect = &mut self.suspects[place];
        (suspect.hub_takes_others, suspect.on_its_way) = (false, false);
        suspect.strikes += u8::from(counts);
        let is_told = matches!(refusal, Refusal::Told(_));
        if !is_told && suspect.strikes < STRIKES_OF_SUSPECT {
            return Outcome::Suspected;
        }
        self.suspects.remove(place);
        Outcome::Rejected(Rejected { seq, reason: words.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Placed;

    fn rows(seqs: std::ops::RangeInclusive<u64>) -> Vec<Outbound> {
        let device = DeviceName::parse("pump").expect("valid");
        seqs.map(|seq| Outbound {
            seq: Seq(seq),
            device: device.clone(),
            time: Placed::Known(0),
            values: "{}".to_owned(),
        })
        .collect()
    }

    fn told() -> Refusal {
        Refusal::Told("payload format invalid".to_owned())
    }

    fn guessed() -> Refusal {
        Refusal::Guessed("closed".to_owned())
    }

    /// Sends `rows` in order, as the uploader would, to a hub that refuses every message with one of `bad` in it; gives
    /// back how many messages it took, and what was rejected.
    fn upload(mut left: Vec<Outbound>, bad: &[u64], refusal: &Refusal) -> (usize, Vec<u64>) {
        // What comes in time, so that there is always another reading to be taken.
        let mut later = rows(5001..=5100).into_iter();
        let (mut poison, mut settled) = (Poison::default(), Settled::default());
        let (mut messages, mut rejected) = (0, Vec::new());
        for _ in 0..10_000 {
            let due = poison.due_retry().map(|(row, _)| row.clone());
            let message = match due {
                Some(row) => {
                    poison.note_retry(row.seq);
                    vec![row]
                }
                None if left.is_empty() && poison.suspects() == 0 => break,
                None => {
                    if left.is_empty() {
                        left.extend(later.next());
                    }
                    let (count, last) = poison.bounds(&left[0].device, left[0].seq);
                    left.iter().take(count).take_while(|row| row.seq <= last).cloned().collect()
                }
            };
            messages += 1;
            let is_bad = message.iter().any(|row| bad.contains(&row.seq.0));
            let outcome = is_bad.then(|| poison.on_refused(&message, refusal, true));
            match outcome {
                None => {
                    message.iter().for_each(|row| settled.add(row.seq, row.seq));
                    poison.on_taken(&message, &settled);
                }
                Some(Outcome::Again) => continue,
                Some(Outcome::Rejected(one)) => rejected.push(one.seq.0),
                Some(Outcome::Suspected) => {}
                Some(Outcome::HubAtFault) => break,
            }
            left.retain(|row| message.iter().all(|sent| sent.seq != row.seq));
        }
        rejected.sort_unstable();
        (messages, rejected)
    }

    #[test]
    fn one_bad_reading_among_many_is_found_by_halving_and_nothing_else_is_rejected() {
        for bad in [1, 2, 500, 999] {
            let (messages, rejected) = upload(rows(1..=1000), &[bad], &told());
            assert_eq!(rejected, [bad]);
            assert!(messages <= 26, "{messages} messages for reading {bad}");
        }
    }

    #[test]
    fn several_bad_readings_are_found_each() {
        let (_, rejected) = upload(rows(1..=300), &[3, 4, 150, 299], &told());
        assert_eq!(rejected, [3, 4, 150, 299]);
        let (_, rejected) = upload(rows(1..=300), &[3, 4, 150, 299], &guessed());
        assert_eq!(rejected, [3, 4, 150, 299]);
    }

    #[test]
    fn a_hub_that_takes_nothing_has_nothing_rejected() {
        let all: Vec<u64> = (1..=6000).collect();
        for refusal in [told(), guessed()] {
            let (messages, rejected) = upload(rows(1..=300), &all, &refusal);
            assert_eq!(rejected, [0; 0]);
            assert!(messages < 1000);
        }
    }

    #[test]
    fn the_last_reading_is_not_rejected_before_another_is_taken() {
        let (mut poison, mut settled) = (Poison::default(), Settled::default());
        assert_eq!(poison.on_refused(&rows(7..=7), &told(), true), Outcome::Suspected);
        assert!(poison.due_retry().is_none() && poison.is_suspect(Seq(7)));
        settled.add(Seq(8), Seq(8));
        poison.on_taken(&rows(8..=8), &settled);
        assert!(poison.due_retry().is_some());
        poison.note_retry(Seq(7));
        assert!(poison.due_retry().is_none(), "it is on its way");
        let rejected = Rejected { seq: Seq(7), reason: "payload format invalid".to_owned() };
        assert_eq!(poison.on_refused(&rows(7..=7), &told(), true), Outcome::Rejected(rejected));
        assert_eq!(poison.suspects(), 0);
    }

    #[test]
    fn a_closed_connection_counts_only_if_nothing_else_explains_it() {
        let mut poison = Poison::default();
        for _ in 0..10 {
            assert_eq!(poison.on_refused(&rows(7..=7), &guessed(), false), Outcome::Again);
        }
        assert_eq!(poison.on_refused(&rows(7..=7), &guessed(), true), Outcome::Again);
        assert_eq!(poison.on_refused(&rows(7..=7), &guessed(), true), Outcome::Again);
        assert_eq!(poison.on_refused(&rows(7..=7), &guessed(), true), Outcome::Suspected);
    }

    #[test]
    fn after_an_unclear_close_messages_go_alone_until_as_many_were_taken() {
        let (mut poison, settled) = (Poison::default(), Settled::default());
        poison.on_unclear_close(2);
        poison.on_taken(&rows(1..=1), &settled);
        assert!(poison.wants_alone());
        poison.on_taken(&rows(2..=2), &settled);
        assert!(!poison.wants_alone());
    }

    #[test]
    fn a_message_does_not_run_into_a_stretch_known_to_be_bad() {
        let mut poison = Poison::default();
        poison.on_refused(&rows(10..=19), &told(), true);
        let device = rows(1..=1)[0].device.clone();
        assert_eq!(poison.bounds(&device, Seq(5)), (usize::MAX, Seq(9)));
        assert_eq!(poison.bounds(&device, Seq(10)), (5, Seq(19)));
        assert_eq!(poison.bounds(&device, Seq(20)), (usize::MAX, Seq(u64::MAX)));
    }

    #[test]
    fn a_suspect_on_its_way_when_the_link_breaks_is_tried_again() {
        let (mut poison, settled) = (Poison::default(), Settled::default());
        poison.on_refused(&rows(7..=7), &told(), true);
        poison.on_taken(&rows(8..=8), &settled);
        poison.note_retry(Seq(7));
        poison.on_disconnected();
        assert!(poison.due_retry().is_some());
    }
}
