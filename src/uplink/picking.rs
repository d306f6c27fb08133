//! Which message goes next: whose readings, how many, or how long nobody may send.

use std::collections::BTreeSet;

use crate::{
    clock::Mono,
    device_api::gateway,
    ids::DeviceName,
    limits::{UPLINK_GAP_DOUBTED, UPLINK_MESSAGE_ROWS},
    record::{Outbound, Placed, Rejected},
};

use super::{
    flight::Flight,
    lane::{Lane, LaneKind},
    pacing::Pace,
    settings::Mode,
    uploader::Uploader,
};

/// What the connection allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Messages on their way at once.
    pub(super) window: usize,
    /// Bytes of payload not to go beyond without need.
    pub(super) payload_bytes: usize,
    /// Bytes of payload the other end has said not to take; `None` if it has not said.
    pub(super) payload_bytes_refused: Option<usize>,
    /// Of a hundred messages, how many of the fresh lane go while both have some.
    pub(super) fresh_percent: u8,
    /// Whether readings whose time is not known wait.
    pub(super) waits_for_clock: bool,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Tell the hub of a device.
    Announce(DeviceName),
    /// Send readings of one device.
    Send(Parcel),
    /// Nothing may go before an answer comes, or before the time given.
    Wait(Wait),
}

/// Readings of one device for one message.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) device: DeviceName,
    /// Where they came from; `None` for a reading under suspicion.
    pub(super) lane: Option<LaneKind>,
    pub(super) rows: Vec<Outbound>,
    pub(super) points: u32,
}

/// Why nothing goes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    /// When a rate allows more.
    pub(super) until: Option<Mono>,
    /// Whether readings wait for the clock.
    pub(super) for_clock: bool,
    /// Whether everybody waits for quiet, so that one reading can be judged.
    for_quiet: bool,
}

impl Wait {
    /// Something else is waited for as well.
    pub(super) fn until(&mut self, ready: Mono) {
        self.until = Some(self.until.map_or(ready, |until| until.min(ready)));
    }
}

/// What a look at one lane has found.
enum Found {
    Announce(DeviceName),
    /// Readings at these places among those waiting.
    Readings {
        places: Vec<usize>,
        points: u32,
    },
    /// The reading at this place is larger than the other end takes.
    TooLarge(usize),
    Nothing,
}

impl Uploader {
    /// What to do next; whatever is told to be sent counts as being on its way in its lane, and must be sent.
    pub(super) fn next(&mut self, mode: &Mode, bounds: &Bounds, pace: &mut Pace, now: Mono) -> Next {
        let mut wait = Wait::default();
        if !self.has_place(bounds) {
            return Next::Wait(wait);
        }
        if let Some(next) = self.next_retry(mode, pace, &mut wait, now) {
            return next;
        }
        for place in self.lanes_by_turn() {
            loop {
                let lane = &self.lanes[place];
                let look =
                    Look { lane, uploader: self, mode, bounds, busy: self.flight.busy_devices(lane.kind) };
                match look.find(pace, &mut wait, now) {
                    Found::Nothing if wait.for_quiet || self.awaits_probe(lane) => return Next::Wait(wait),
                    Found::Nothing => break,
                    Found::Announce(device) => return Next::Announce(device),
                    Found::TooLarge(at) if self.may_reject() => self.reject_too_large(place, at, bounds, now),
                    Found::TooLarge(_) => break,
                    Found::Readings { places, points } => {
                        self.note_turn(place, bounds.fresh_percent);
                        let lane = &mut self.lanes[place];
                        let rows = lane.send(&places);
                        let (device, lane) = (rows[0].device.clone(), Some(lane.kind));
                        return Next::Send(Parcel { device, lane, rows, points });
                    }
                }
            }
        }
        Next::Wait(wait)
    }

    /// Whether one more message may be on its way.
    pub(super) fn has_place(&self, bounds: &Bounds) -> bool {
        let window = if self.poison.wants_alone() { 1 } else { bounds.window };
        self.flight.len() < window
    }

    /// A reading under suspicion goes once more, with nothing else on its way, as soon as the hub has taken another; so does
    /// one it has taken, to see whether it takes any.
    fn next_retry(&mut self, mode: &Mode, pace: &mut Pace, wait: &mut Wait, now: Mono) -> Option<Next> {
        let (row, guessed) = self.poison.due_retry()?;
        let (row, points) = (row.clone(), gateway::data_points(&row.values));
        if !self.flight.is_empty() {
            return Some(Next::Wait(*wait));
        }
        let must_announce = mode.is_gateway() && !self.presence.is_told(&row.device);
        let mut ready = match must_announce {
            true => pace.message_ready_at(now),
            false => pace.telemetry_ready_at(&row.device, points, now),
        };
        if guessed && !must_announce {
            // A connection closed right after other readings could be closed for their rate.
            ready = ready.max(pace.quiet_at(UPLINK_GAP_DOUBTED, now));
        }
        if ready > now {
            wait.until(ready);
            return Some(Next::Wait(*wait));
        }
        if must_announce {
            return Some(Next::Announce(row.device));
        }
        self.poison.note_retry(row.seq);
        Some(Next::Send(Parcel { device: row.device.clone(), lane: None, rows: vec![row], points }))
    }

    /// Whether what lies in `lane` is to go before all else and is not read yet.
    fn awaits_probe(&self, lane: &Lane) -> bool {
        let is_read = || lane.is_read(&self.settled, self.last_seq);
        self.is_probing && lane.kind == LaneKind::Fresh && lane.waiting().is_empty() && !is_read()
    }

    /// The lanes' places, whoever has used less of its share first.
    fn lanes_by_turn(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.lanes.len()).collect();
        let is_behind = |lane: &Lane| self.is_probing && lane.kind == LaneKind::Backlog;
        places.sort_by_key(|place| (is_behind(&self.lanes[*place]), self.lanes[*place].used()));
        places
    }

    /// A message of the lane at `place` goes; lanes that had nothing to send are not owed for it.
    fn note_turn(&mut self, place: usize, fresh_percent: u8) {
        let fresh_percent = u64::from(fresh_percent.clamp(1, 99));
        let before = self.lanes[place].used();
        self.lanes.iter_mut().for_each(|lane| lane.catch_up(before));
        let lane = &mut self.lanes[place];
        // The rarer a lane's turns are to be, the more of its share each uses up.
        lane.use_up(match lane.kind {
            LaneKind::Backlog => fresh_percent,
            LaneKind::Fresh => 100 - fresh_percent,
        });
    }

    fn reject_too_large(&mut self, place: usize, at: usize, bounds: &Bounds, now: Mono) {
        let rows = self.lanes[place].send(&[at]);
        let (bytes, most) = (rows[0].values.len(), bounds.payload_bytes_refused.unwrap_or_default());
        let reason = format!("its {bytes} bytes do not fit a message, of which the hub takes {most} bytes");
        self.reject(Rejected { seq: rows[0].seq, reason }, now);
        self.lanes[place].let_go(&rows);
    }
}

/// A look at one lane.
struct Look<'a> {
    lane: &'a Lane,
    uploader: &'a Uploader,
    mode: &'a Mode,
    bounds: &'a Bounds,
    /// Devices that have to wait.
    busy: BTreeSet<DeviceName>,
}

impl Look<'_> {
    /// Finds the oldest reading that may go, and what goes with it.
    fn find(mut self, pace: &mut Pace, wait: &mut Wait, now: Mono) -> Found {
        let lane = self.lane;
        let put_off: BTreeSet<&DeviceName> = self.uploader.poison.put_off().collect();
        if lane.waiting().iter().any(|row| !put_off.contains(&row.device)) {
            self.busy.extend(put_off.into_iter().cloned());
        }
        for (device, until) in self.uploader.held().iter().filter(|(_, until)| **until > now) {
            wait.until(*until);
            self.busy.insert(device.clone());
        }
        for (place, row) in lane.waiting().iter().enumerate() {
            // Whatever lies behind it waits as well: overtaking would turn the order of readings around.
            if self.waits_for_clock(row) {
                wait.for_clock = true;
                return Found::Nothing;
            }
            if self.busy.contains(&row.device) {
                continue;
            }
            let ready = match self.must_announce(&row.device) {
                true => pace.message_ready_at(now),
                false => pace.telemetry_ready_at(&row.device, gateway::data_points(&row.values), now),
            };
            let quiet = if self.wants_quiet(row) { pace.quiet_at(UPLINK_GAP_DOUBTED, now) } else { now };
            if quiet > now {
                // If others went on meanwhile it would never be quiet.
                wait.for_quiet = true;
                wait.until(quiet.max(ready));
                return Found::Nothing;
            }
            if ready > now {
                wait.until(ready);
            } else if self.must_announce(&row.device) {
                return Found::Announce(row.device.clone());
            } else if self.is_too_large(row) {
                return Found::TooLarge(place);
            } else if let Some((places, points)) = self.gather(place, row, pace, now) {
                return Found::Readings { places, points };
            }
            self.busy.insert(row.device.clone());
        }
        Found::Nothing
    }

    /// Whether `row` is to go after quiet alone: a closed connection would be put down to it.
    fn wants_quiet(&self, row: &Outbound) -> bool {
        !self.must_announce(&row.device) && self.uploader.poison.wants_quiet(&row.device, row.seq)
    }

    fn waits_for_clock(&self, row: &Outbound) -> bool {
        self.bounds.waits_for_clock && matches!(row.time, Placed::Pending(_))
    }

    fn must_announce(&self, device: &DeviceName) -> bool {
        self.mode.is_gateway() && !self.uploader.presence.is_told(device)
    }

    fn is_too_large(&self, row: &Outbound) -> bool {
        let bytes =
            self.mode.envelope_bytes(&row.device) + gateway::reading_bytes(row.time.ts(), &row.values);
        self.bounds.payload_bytes_refused.is_some_and(|most| bytes > most)
    }

    /// The readings of one message, `head` at `start` first; `None` if even it must wait for an answer.
    fn gather(&self, start: usize, head: &Outbound, pace: &mut Pace, now: Mono) -> Option<(Vec<usize>, u32)> {
        let flight: &Flight = &self.uploader.flight;
        let bytes_max = flight.room_bytes()?.min(self.bounds.payload_bytes);
        let points_max = pace.points_room(&head.device, now);
        let (rows_max, last) = self.uploader.poison.bounds(&head.device, head.seq);
        let rows_max = rows_max.min(UPLINK_MESSAGE_ROWS);
        let mut bytes = self.mode.envelope_bytes(&head.device);
        let (mut points, mut places) = (0_u32, Vec::new());
        for (place, row) in self.lane.waiting().iter().enumerate().skip(start) {
            if places.len() >= rows_max || row.seq > last || self.waits_for_clock(row) {
                break;
            }
            if row.device != head.device {
                continue;
            }
            let more = gateway::data_points(&row.values);
            bytes += gateway::reading_bytes(row.time.ts(), &row.values);
            let fits = bytes <= bytes_max && points.saturating_add(more) <= points_max;
            // A head that is more than is allowed at once goes alone: the rates have let it pass, and of bytes there
            // are none on their way.
            let goes_alone = places.is_empty() && (bytes <= bytes_max || flight.is_empty());
            if !fits && !goes_alone {
                break;
            }
            places.push(place);
            points = points.saturating_add(more);
            if !fits {
                break;
            }
        }
        (!places.is_empty()).then_some((places, points))
    }
}
