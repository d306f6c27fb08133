//! Lanes, what is on its way, and what is settled: from the journal to the hub, and never a reading lost between.
//!
//! A reading is settled by a PUBACK that says it was taken, by being rejected for good, or by not being in the journal
//! any more. Everything else, whatever happens, is read from the journal again.
//!
//! Knows nothing of connections: what is sent when, and how it ended, comes from above.

use std::collections::BTreeSet;

use crate::{
    clock::Mono,
    ids::{DeviceName, Seq},
    limits::{
        UPLINK_FRESH_BACKLOG_MIN, UPLINK_LANE_ROWS, UPLINK_REJECTED_UNSAVED, UPLINK_SETTLE_PAUSE,
        UPLINK_SETTLE_WAIT, UPLINK_STRETCHES, UPLINK_STRETCHES_IN_MEMORY,
    },
    record::{Outbound, Rejected, Settlement},
};

use super::{
    ReadRequest, Settings,
    failure::fit_for_people,
    flight::{Content, Flight, InFlight},
    lane::{Lane, LaneKind, LaneSize},
    pacing::Pace,
    picking::Overtaken,
    poison::{Outcome, Poison, Refusal},
    presence::Presence,
    settings::Order,
    settled::Settled,
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Uploader {
    pub(super) settled: Settled,
    pub(super) last_seq: Seq,
    /// One or two while there is a connection, none otherwise.
    pub(super) lanes: Vec<Lane>,
    lane_size: LaneSize,
    pub(super) flight: Flight,
    pub(super) poison: Poison,
    pub(super) presence: Presence,
    order: Order,
    /// Whether the fresh lane is where a reading is looked for that the hub takes.
    pub(super) is_probing: bool,
    /// Where the fresh lane of the last connection had come to.
    fresh_through: Option<Seq>,
    /// A reading that smaller ones overtake.
    pub(super) overtaken: Option<Overtaken>,
    /// Nothing goes until the link bears that reading.
    pub(super) makes_room: bool,
    reading: Option<u64>,
    tickets: u64,
    unsaved: Unsaved,
    counts: Counts,
}

/// What became of readings and is not on disk yet.
#[derive(Debug, Default)]
struct Unsaved {
    /// When it is to go to disk even if no commit comes by; `None` if there is nothing.
    at: Option<Mono>,
    is_due: bool,
    /// Before this none is offered: commits come often, and each mark wears the card.
    not_before: Mono,
    is_offered: bool,
    rejected: Vec<Rejected>,
    /// How many of `rejected` were offered.
    offered: usize,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) uploaded: u64,
    pub(super) rejected: u64,
}

impl Uploader {
    /// An uploader over a journal whose last reading is `last_seq`, of which `resumed` is settled.
    pub(super) fn new(settings: &Settings, resumed: &Settlement, last_seq: Seq) -> Self {
        let settled = Settled::new(resumed);
        Self {
            last_seq: last_seq.max(settled.last()),
            order: settings.order,
            is_probing: false,
            fresh_through: None,
            settled,
            lanes: Vec::new(),
            lane_size: LaneSize { rows: settings.lane_rows, bytes: settings.lane_bytes },
            flight: Flight::new(settings.flight_bytes, settings.ack_timeout),
            poison: Poison::default(),
            presence: Presence::default(),
            overtaken: None,
            makes_room: false,
            reading: None,
            tickets: 0,
            unsaved: Unsaved::default(),
            counts: Counts::default(),
        }
    }

    // ---- the beginning and the end of a connection ------------------------------------------------------

    /// Readings may be sent: lanes are laid out over what is not settled.
    pub(super) fn open(&mut self) {
        self.presence.open();
        self.lay_out_lanes();
    }

    fn lay_out_lanes(&mut self) {
        let probe = self.next_probe();
        self.is_probing = probe.is_some();
        let through = self.settled.through();
        let everything = Lane::new(LaneKind::Backlog, self.lane_size, through, None);
        self.lanes = match probe.or_else(|| self.fresh_begin()) {
            None => vec![everything],
            Some(begin) => vec![
                Lane::new(LaneKind::Backlog, self.lane_size, through, Some(begin)),
                Lane::new(LaneKind::Fresh, self.lane_size, begin, None),
            ],
        };
    }

    /// Where a fresh lane would begin; `None` if there should be none.
    ///
    /// After a short interruption the fresh lane goes on where it was, so that a link that comes and goes does not
    /// leave a gap behind each time.
    fn fresh_begin(&self) -> Option<Seq> {
        if self.order == Order::OldestFirst || self.backlog() < UPLINK_FRESH_BACKLOG_MIN {
            return None;
        }
        if let Some(fresh) = self.fresh_through.filter(|fresh| *fresh > self.settled.through())
            && self.last_seq.0.saturating_sub(fresh.0) <= UPLINK_LANE_ROWS as u64
        {
            return Some(fresh);
        }
        (self.settled.stretches() < UPLINK_STRETCHES_IN_MEMORY / 2).then_some(self.last_seq)
    }

    /// Where a reading is looked for that a hub takes which seems to be at fault: the newest, which is what it will get from
    /// now on, in turn with one further and further into all the gaps between those tried.
    fn next_probe(&mut self) -> Option<Seq> {
        let attempt = self.poison.next_probe()?;
        let (through, last) = (self.settled.through(), self.last_seq);
        let span = last.0.checked_sub(through.0).filter(|span| *span > 1)?;
        let part = match attempt % 2 {
            0 => u32::MAX,
            // 1, 2, 3, 4 .. are a half, a quarter, three quarters, an eighth of the whole.
            _ => attempt.div_ceil(2).reverse_bits(),
        };
        let steps = (u128::from(span) * u128::from(part)) >> u32::BITS;
        Some(Seq(through.0 + u64::try_from(steps).unwrap_or(span).min(span - 1)))
    }

    /// The connection is gone: what was on its way is given back for judgement, all else is forgotten.
    pub(super) fn close(&mut self) -> Vec<InFlight> {
        if self.is_probing {
            // Where it has looked is no place to go on from.
        } else if let Some(fresh) = self.lanes.iter().find(|lane| lane.kind == LaneKind::Fresh) {
            let first_open = self.first_open_from(fresh.begin());
            self.fresh_through = Some(Seq(first_open.0 - 1));
        } else if !self.lanes.is_empty() {
            self.fresh_through = None;
        }
        self.lanes.clear();
        self.overtaken = None;
        self.makes_room = false;
        self.reading = None;
        self.presence.close();
        self.poison.on_disconnected();
        self.settled.keep_longest(UPLINK_STRETCHES_IN_MEMORY);
        self.flight.take_all()
    }

    /// The first place behind `seq` that is not settled.
    fn first_open_from(&self, seq: Seq) -> Seq {
        self.settled.gap_after(seq, Seq(u64::MAX)).map_or(Seq(u64::MAX), |(after, _)| after.next())
    }

    // ---- the journal ------------------------------------------------------------------------------------

    /// A commit put readings up to `last_seq` on disk.
    pub(super) fn handle_stored(&mut self, last_seq: Seq) {
        self.last_seq = self.last_seq.max(last_seq);
    }

    /// A commit put readings on disk, the first of ours at `first`; all before were told. While nothing waits, the mark
    /// steps over the readings of others, so that nobody needs to look through them.
    pub(super) fn handle_own_stored(&mut self, first: Seq, last_seq: Seq) {
        if self.settled.through() == self.last_seq {
            self.settled.add(self.last_seq.next(), Seq(first.0.saturating_sub(1)));
        }
        self.handle_stored(last_seq);
    }

    /// What to read next, if anything; one question at a time.
    pub(super) fn next_read(&mut self) -> Option<ReadRequest> {
        if self.reading.is_some() {
            return None;
        }
        // The emptier lane first: nobody waits for the journal while the other one is being filled.
        let wishes = self.lanes.iter().filter_map(|lane| {
            let piece = lane.next_piece(&self.settled, self.last_seq)?;
            Some((lane.waiting().len(), piece))
        });
        let (_, piece) = wishes.min_by_key(|(waiting, _)| *waiting)?;
        self.tickets += 1;
        self.reading = Some(self.tickets);
        Some(ReadRequest {
            after: piece.after,
            through: piece.through,
            rows_max: piece.rows_max,
            bytes_max: piece.bytes_max,
            ticket: self.tickets,
        })
    }

    /// Takes the journal's answer.
    ///
    /// # Panics
    /// If the rows are not those asked for, in order: the store lied, and readings would be lost.
    pub(super) fn take_rows(&mut self, request: &ReadRequest, rows: Vec<Outbound>, now: Mono) {
        if self.reading != Some(request.ticket) {
            return;
        }
        self.reading = None;
        // An answer with rows may have been cut short by a bound; one without says that there are none.
        let covered = rows.last().map_or(request.through, |row| row.seq);
        let mut previous = request.after;
        for row in &rows {
            assert!(previous < row.seq && row.seq <= request.through, "the journal gave {:?}", row.seq);
            self.settle_absent(previous, row.seq, now);
            previous = row.seq;
        }
        if rows.is_empty() {
            self.settle_absent(request.after, request.through.next(), now);
        }
        let elsewhere: BTreeSet<Seq> =
            self.flight.readings().flat_map(|(_, rows)| rows.iter().map(|row| row.seq)).collect();
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.reaches(request.through)) else { return };
        let (settled, poison) = (&self.settled, &self.poison);
        let wanted = rows.into_iter().filter(|row| {
            !elsewhere.contains(&row.seq) && !poison.is_suspect(row.seq) && !settled.contains(row.seq)
        });
        lane.take(covered, wanted);
    }

    /// The journal could not be read: ask again.
    pub(super) fn read_failed(&mut self, request: &ReadRequest) {
        if self.reading == Some(request.ticket) {
            self.reading = None;
        }
    }

    /// Readings between two places are not in the journal any more: nothing is to be done about them.
    fn settle_absent(&mut self, after: Seq, before: Seq, now: Mono) {
        if after.next() < before {
            self.settled.add(after.next(), Seq(before.0 - 1));
            self.note_unsaved(now);
        }
    }

    /// The clock was set: readings whose time was not known are read again.
    pub(super) fn forget_pending(&mut self) {
        self.lanes.iter_mut().for_each(Lane::forget_pending);
    }

    // ---- what becomes of messages -----------------------------------------------------------------------

    /// The hub took a message.
    pub(super) fn on_taken(&mut self, message: InFlight, pace: &mut Pace, now: Mono) {
        if matches!(message.content, Content::Readings { .. }) {
            self.flight.note_taken(&message, now);
        }
        match message.content {
            Content::Announcement(device) => self.presence.note_told(device, now),
            Content::Farewell | Content::RpcAnswer => {}
            Content::Readings { lane, rows } => {
                for row in &rows {
                    self.counts.uploaded += u64::from(!self.settled.contains(row.seq));
                    self.settled.add(row.seq, row.seq);
                }
                self.poison.on_taken(&rows, &self.settled);
                pace.speed_up();
                self.let_go(lane, &rows);
                self.note_unsaved(now);
                if self.is_probing && !self.poison.hub_at_fault() {
                    // Nothing else was on its way.
                    self.reading = None;
                    self.lay_out_lanes();
                }
            }
        }
    }

    /// The hub refused a message of readings; `counts` says that nothing but the message explains it. The outcome is for
    /// people: what is to be done was done, except that a hub at fault is to be left alone.
    pub(super) fn on_refused(
        &mut self,
        message: InFlight,
        refusal: &Refusal,
        counts: bool,
        now: Mono,
    ) -> Option<Outcome> {
        let Content::Readings { lane, rows } = message.content else { return None };
        let is_witness = lane.is_none() && rows.first().is_some_and(|row| !self.poison.is_suspect(row.seq));
        let outcome = match is_witness {
            true => self.poison.on_witness_refused(refusal, counts),
            false => self.poison.on_refused(&rows, refusal, counts),
        };
        match &outcome {
            Outcome::Again | Outcome::HubAtFault => self.give_back(lane, rows),
            Outcome::Suspected => self.let_go(lane, &rows),
            Outcome::Rejected(rejected) => {
                self.reject(rejected.clone(), now);
                self.let_go(lane, &rows);
            }
        }
        Some(outcome)
    }

    /// A message was not taken, for no fault of its own: its readings go again.
    pub(super) fn send_again(&mut self, message: InFlight) {
        match message.content {
            Content::Readings { lane, rows } => {
                if lane.is_none() {
                    self.poison.on_disconnected();
                }
                self.give_back(lane, rows);
            }
            Content::Announcement(device) => self.presence.announce_again(&device),
            Content::Farewell | Content::RpcAnswer => {}
        }
    }

    /// A reading is set aside for good.
    pub(super) fn reject(&mut self, mut rejected: Rejected, now: Mono) {
        rejected.reason = fit_for_people(&rejected.reason);
        self.settled.add(rejected.seq, rejected.seq);
        self.counts.rejected += 1;
        self.unsaved.rejected.push(rejected);
        self.note_unsaved(now);
    }

    /// Whether anything of `device` may still have to be sent, as far as is known.
    pub(super) fn may_hold(&self, device: &DeviceName) -> bool {
        self.lanes.iter().any(|lane| lane.holds(device)) || self.poison.suspects_of(device)
    }

    /// Whether there is nothing in the journal that was not read.
    pub(super) fn has_read_everything(&self) -> bool {
        self.lanes.iter().all(|lane| lane.is_read(&self.settled, self.last_seq))
    }

    fn give_back(&mut self, lane: Option<LaneKind>, rows: Vec<Outbound>) {
        if let Some(lane) = self.lane(lane) {
            lane.give_back(rows);
        }
    }

    fn let_go(&mut self, lane: Option<LaneKind>, rows: &[Outbound]) {
        if let Some(lane) = self.lane(lane) {
            lane.let_go(rows);
        }
    }

    fn lane(&mut self, kind: Option<LaneKind>) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| Some(lane.kind) == kind)
    }

    // ---- the settlement ---------------------------------------------------------------------------------

    fn note_unsaved(&mut self, now: Mono) {
        if self.unsaved.at.is_none() {
            self.unsaved.at = Some(now + UPLINK_SETTLE_WAIT);
        }
    }

    /// Whether more may be rejected before a commit has taken what was.
    pub(super) fn may_reject(&self) -> bool {
        self.unsaved.rejected.len() < UPLINK_REJECTED_UNSAVED
    }

    /// When a commit is to be made for the settlement alone.
    pub(super) fn settle_at(&self) -> Option<Mono> {
        self.unsaved.at.filter(|_| !self.unsaved.is_due && !self.unsaved.is_offered)
    }

    /// Whether a commit is to be made for the settlement alone.
    pub(super) fn settle_is_due(&self) -> bool {
        self.unsaved.is_due && !self.unsaved.is_offered
    }

    /// Time has passed.
    pub(super) fn note_time(&mut self, now: Mono) {
        if self.settle_at().is_some_and(|at| at <= now) {
            self.unsaved.is_due = true;
        }
    }

    /// What became of readings and is not on disk; offered once, until it is told what came of it.
    pub(super) fn poll_settlement(&mut self, now: Mono) -> Option<Settlement> {
        let is_early = now < self.unsaved.not_before && !self.unsaved.is_due;
        if self.unsaved.is_offered || self.unsaved.at.is_none() || is_early {
            return None;
        }
        let mut settlement = self.settled.to_settlement(UPLINK_STRETCHES);
        settlement.rejected = self.unsaved.rejected.clone();
        let offered = settlement.rejected.len();
        let rejected = std::mem::take(&mut self.unsaved.rejected);
        let not_before = now + UPLINK_SETTLE_PAUSE;
        self.unsaved = Unsaved { at: None, is_due: false, not_before, is_offered: true, rejected, offered };
        Some(settlement)
    }

    /// There may be no later commit: what is settled is offered at once.
    pub(super) fn settle_now(&mut self) {
        self.unsaved.is_due = self.unsaved.at.is_some();
    }

    /// The settlement offered last is on disk.
    pub(super) fn on_settled(&mut self) {
        let offered = std::mem::take(&mut self.unsaved.offered);
        self.unsaved.rejected.drain(..offered);
        self.unsaved.is_offered = false;
    }

    /// The settlement offered last is not on disk: it is offered again.
    pub(super) fn on_settle_failed(&mut self, now: Mono) {
        if self.unsaved.is_offered {
            self.unsaved.is_offered = false;
            self.unsaved.offered = 0;
            self.note_unsaved(now);
        }
    }

    // ---- getters ----------------------------------------------------------------------------------------

    /// Readings on disk that the hub does not have.
    pub(super) fn backlog(&self) -> u64 {
        self.last_seq.0.saturating_sub(self.settled.through().0).saturating_sub(self.settled.beyond_count())
    }

    /// Totals since the start.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Readings held in memory.
    pub(super) fn rows_in_memory(&self) -> usize {
        self.lanes.iter().map(Lane::rows).sum::<usize>() + self.poison.suspects()
    }
}
