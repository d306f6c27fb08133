//! Which message goes next: whose readings, how many, or how long nobody may send.

use std::collections::BTreeSet;

use crate::{
    clock::Mono,
    device_api::gateway,
    ids::{DeviceName, Seq},
    limits::{UPLINK_GAP_DOUBTED, UPLINK_MESSAGE_ROWS, UPLINK_OVERTAKEN_MAX},
    mqtt::TopicName,
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
    /// The first reading found that waits only because it is more than a smaller one.
    for_size: Option<Seq>,
}

/// A reading that smaller ones overtake: with enough of them it would never go, and the mark would stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overtaken {
    seq: Seq,
    since: Mono,
}

/// What is to be done about a reading that was overtaken for too long.
enum Remedy {
    /// Nothing: there is none, or it waits for something else by now.
    Nothing,
    /// It goes, or everybody waits until it may.
    Everybody(Next),
    /// What else there is of its device waits until it may go: only that device's own rate is in its way.
    Device(DeviceName),
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
    /// The reading at this place cannot go, for this reason.
    Unfit(usize, String),
    Nothing,
}

impl Uploader {
    /// What to do next; whatever is told to be sent counts as being on its way in its lane, and must be sent.
    pub(super) fn next(&mut self, mode: &Mode, bounds: &Bounds, pace: &mut Pace, now: Mono) -> Next {
        let mut wait = Wait::default();
        let next = self.pick(mode, bounds, pace, &mut wait, now);
        if let (None, Some(seq)) = (self.overtaken, wait.for_size) {
            self.overtaken = Some(Overtaken { seq, since: now });
        }
        next
    }

    fn pick(&mut self, mode: &Mode, bounds: &Bounds, pace: &mut Pace, wait: &mut Wait, now: Mono) -> Next {
        self.makes_room = false;
        if !self.has_place(bounds) {
            return Next::Wait(*wait);
        }
        if let Some(next) = self.next_retry(mode, pace, wait, now) {
            return next;
        }
        let put_off = match self.help_overtaken(mode, bounds, pace, wait, now) {
            Remedy::Nothing => None,
            Remedy::Device(device) => Some(device),
            Remedy::Everybody(next) => return next,
        };
        for place in self.lanes_by_turn() {
            loop {
                let lane = &self.lanes[place];
                let mut look = Look::at(lane, self, mode, bounds);
                look.busy.extend(put_off.clone());
                match look.find(pace, wait, now) {
                    Found::Nothing if wait.for_quiet || self.awaits_probe(lane) => return Next::Wait(*wait),
                    Found::Nothing => break,
                    Found::Announce(device) => return Next::Announce(device),
                    Found::Unfit(at, reason) if self.may_reject() => {
                        self.reject_unfit(place, at, reason, now)
                    }
                    Found::Unfit(..) => break,
                    Found::Readings { places, points } => {
                        return self.send_of(place, &places, points, bounds);
                    }
                }
            }
        }
        Next::Wait(*wait)
    }

    /// Sends the reading that was overtaken for too long, or sees to it that it may go before others.
    fn help_overtaken(
        &mut self,
        mode: &Mode,
        bounds: &Bounds,
        pace: &mut Pace,
        wait: &mut Wait,
        now: Mono,
    ) -> Remedy {
        let Some(Overtaken { seq, since }) = self.overtaken else { return Remedy::Nothing };
        let found = (0..self.lanes.len()).find_map(|lane| Some((lane, self.lanes[lane].place_of(seq)?)));
        let Some((place, at)) = found else {
            self.overtaken = None;
            return Remedy::Nothing;
        };
        if now.since(since) < UPLINK_OVERTAKEN_MAX {
            return Remedy::Nothing;
        }
        let lane = &self.lanes[place];
        let (look, row) = (Look::at(lane, self, mode, bounds), &lane.waiting()[at]);
        if look.waits_for_other_than_size(at, row) {
            return Remedy::Nothing;
        }
        let points = gateway::data_points(&row.values);
        let ready = pace.telemetry_ready_at(&row.device, points, now);
        if ready > now {
            wait.until(ready);
            return match pace.bears_beside_device(points, now) {
                true => Remedy::Device(row.device.clone()),
                false => Remedy::Everybody(Next::Wait(*wait)),
            };
        }
        let Some((places, points)) = look.gather(at, row, pace, now) else {
            self.makes_room = true;
            return Remedy::Everybody(Next::Wait(*wait));
        };
        self.overtaken = None;
        Remedy::Everybody(self.send_of(place, &places, points, bounds))
    }

    /// Whether all that is not the reading overtaken has to wait until it has gone.
    pub(super) fn makes_room(&self) -> bool {
        self.makes_room
    }

    /// The readings at `places` of the lane at `place` go.
    fn send_of(&mut self, place: usize, places: &[usize], points: u32, bounds: &Bounds) -> Next {
        self.note_turn(place, bounds.fresh_percent);
        let lane = &mut self.lanes[place];
        let rows = lane.send(places);
        let (device, lane) = (rows[0].device.clone(), Some(lane.kind));
        Next::Send(Parcel { device, lane, rows, points })
    }

    /// Whether one more message may be on its way.
    pub(super) fn has_place(&self, bounds: &Bounds) -> bool {
        let window = if self.poison.wants_alone() { 1 } else { bounds.window };
        self.flight.len() < window
    }

    /// Whether one more message that is not a reading may be on its way.
    pub(super) fn has_place_aside(&self, bounds: &Bounds) -> bool {
        self.has_place(bounds) && !self.makes_room
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

    /// Whether `lane` is where a reading is looked for that the hub takes, of those devices whose last were refused.
    fn is_probe(&self, lane: &Lane) -> bool {
        self.is_probing && lane.kind == LaneKind::Fresh
    }

    /// Whether what lies in `lane` is to go before all else and is not read yet.
    fn awaits_probe(&self, lane: &Lane) -> bool {
        self.is_probe(lane) && lane.waiting().is_empty() && !lane.is_read(&self.settled, self.last_seq)
    }

    /// The lanes' places, whoever has used less of its share first.
    fn lanes_by_turn(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.lanes.len()).collect();
        let put_off: BTreeSet<&DeviceName> = self.poison.put_off().collect();
        let has_others = |lane: &Lane| lane.waiting().iter().any(|row| !put_off.contains(&row.device));
        let is_behind = |lane: &Lane| self.is_probing && lane.kind == LaneKind::Backlog && !has_others(lane);
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

    fn reject_unfit(&mut self, place: usize, at: usize, reason: String, now: Mono) {
        let rows = self.lanes[place].send(&[at]);
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

impl<'a> Look<'a> {
    fn at(lane: &'a Lane, uploader: &'a Uploader, mode: &'a Mode, bounds: &'a Bounds) -> Self {
        Self { lane, uploader, mode, bounds, busy: uploader.flight.busy_devices(lane.kind) }
    }

    /// Finds the oldest reading that may go, and what goes with it.
    fn find(mut self, pace: &mut Pace, wait: &mut Wait, now: Mono) -> Found {
        let lane = self.lane;
        let put_off: BTreeSet<&DeviceName> = self.uploader.poison.put_off().collect();
        let others = || lane.waiting().iter().filter(|row| !put_off.contains(&row.device));
        if self.uploader.is_probe(lane) {
            // They go where they have come to, in order.
            self.busy.extend(others().map(|row| row.device.clone()));
        } else if others().next().is_some() {
            self.busy.extend(put_off.iter().copied().cloned());
        }
        for (device, until) in self.uploader.held().iter().filter(|(_, until)| **until > now) {
            wait.until(*until);
            self.busy.insert(device.clone());
        }
        for (place, row) in lane.waiting().iter().enumerate() {
            if self.busy.contains(&row.device) {
                continue;
            }
            // What the device has behind it waits as well: overtaking would turn the order of its readings around.
            if self.waits_for_clock(row) {
                wait.for_clock = true;
                self.busy.insert(row.device.clone());
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
                if wait.for_size.is_none() && self.smaller_would_go(row, pace, now) {
                    wait.for_size = Some(row.seq);
                }
            } else if self.must_announce(&row.device) {
                return Found::Announce(row.device.clone());
            } else if let Some(reason) = self.unfitness(row) {
                return Found::Unfit(place, reason);
            } else if let Some((places, points)) = self.gather(place, row, pace, now) {
                return Found::Readings { places, points };
            } else if wait.for_size.is_none() && self.uploader.flight.room_bytes().is_some() {
                wait.for_size = Some(row.seq);
            }
            self.busy.insert(row.device.clone());
        }
        Found::Nothing
    }

    /// Whether the rates that keep `row` back would let a reading of one value pass.
    fn smaller_would_go(&self, row: &Outbound, pace: &mut Pace, now: Mono) -> bool {
        !self.must_announce(&row.device) && pace.telemetry_ready_at(&row.device, 1, now) <= now
    }

    /// Whether `row`, at `place`, would have to wait even if it were small.
    fn waits_for_other_than_size(&self, place: usize, row: &Outbound) -> bool {
        let mut before = self.lane.waiting().iter().take(place);
        self.busy.contains(&row.device)
            || self.must_announce(&row.device)
            || self.unfitness(row).is_some()
            || self.wants_quiet(row)
            || self.waits_for_clock(row)
            || self.uploader.poison.put_off().any(|device| *device == row.device)
            || before.any(|other| other.device == row.device)
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

    /// Why `row` can go in no message at all.
    fn unfitness(&self, row: &Outbound) -> Option<String> {
        if let Err(error) = TopicName::parse(&self.mode.topic(&row.device)) {
            return Some(format!("there is no topic for its device: {error}"));
        }
        let bytes =
            self.mode.envelope_bytes(&row.device) + gateway::reading_bytes(row.time.ts(), &row.values);
        let most = self.bounds.payload_bytes_refused.filter(|most| bytes > *most)?;
        let bytes = row.values.len();
        Some(format!("its {bytes} bytes do not fit a message, of which the hub takes {most} bytes"))
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
            if places.len() >= rows_max || row.seq > last {
                break;
            }
            if row.device != head.device {
                continue;
            }
            if self.waits_for_clock(row) {
                break;
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
