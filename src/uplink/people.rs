//! What is kept for people alone: how the uplink is doing, since when, and what is worth a line in the log.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    clock::{Mono, Now},
    ids::{DeviceName, Seq},
    limits::{UPLINK_NOTICES, UPLINK_UNHEARD_DEVICES, UPLINK_UNHEARD_PAUSE},
};

use super::{
    Link, Uplink,
    connection::Phase,
    ending::Pause,
    meter::Meter,
    status::{self, Notice, State, Status},
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct ForPeople {
    /// Since when the hub has let us in, or has not.
    since: Mono,
    was_open: bool,
    last_upload: Option<Mono>,
    pub(super) alarm: Option<Alarm>,
    pub(super) last_error: Option<(String, Mono)>,
    pub(super) notices: VecDeque<Notice>,
    uploaded: Meter,
    pub(super) stored: Meter,
    pub(super) bytes_sent: u64,
    pub(super) connections: u64,
    unheard: Unheard,
}

/// Readings that were taken although nobody is subscribed to them.
#[derive(Debug, Default)]
struct Unheard {
    readings: u64,
    /// Whose readings were when they were last taken.
    devices: BTreeSet<DeviceName>,
    told: Option<Mono>,
}

/// Something only a person can put right.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) words: String,
    /// Whether being let in shows that it is over; otherwise only a reading taken does.
    pub(super) over_when_let_in: bool,
}

impl ForPeople {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            since: now,
            was_open: false,
            last_upload: None,
            alarm: None,
            last_error: None,
            notices: VecDeque::new(),
            uploaded: Meter::default(),
            stored: Meter::default(),
            bytes_sent: 0,
            connections: 0,
            unheard: Unheard::default(),
        }
    }

    /// The hub has taken so many readings.
    pub(super) fn note_uploaded(&mut self, count: u64, now: Mono) {
        self.uploaded.add(count, now);
        self.last_upload = Some(now);
        self.alarm = None;
    }

    /// Somebody is subscribed to the readings of `device` where they were taken, as far as is known.
    pub(super) fn note_heard(&mut self, device: &DeviceName) {
        self.unheard.devices.remove(device);
    }
}

impl Uplink {
    /// Readings of `device` were taken although nobody is subscribed to them; that is told once, and not soon again.
    pub(super) fn note_unheard(&mut self, device: &DeviceName, count: u64) {
        let (unheard, now) = (&mut self.people.unheard, self.now.mono);
        unheard.readings += count;
        if unheard.devices.len() < UPLINK_UNHEARD_DEVICES {
            unheard.devices.insert(device.clone());
        }
        if unheard.told.is_some_and(|told| now.since(told) < UPLINK_UNHEARD_PAUSE) {
            return;
        }
        unheard.told = Some(now);
        self.tell(
            true,
            format!(
                "the broker takes the readings, but nobody is subscribed to them there, those of {device} for one; \
                 they count as sent"
            ),
        );
    }

    /// How the uplink is doing.
    pub fn status(&self, now: Now) -> Status {
        let people = &self.people;
        let (uploaded, stored) = (people.uploaded.last_minute(now.mono), people.stored.last_minute(now.mono));
        let (backlog, counts) = (self.uploader.backlog(), self.uploader.counts());
        Status {
            state: self.state(),
            since: people.since,
            next_attempt: match self.link {
                Link::Waiting { until, .. } => Some(until),
                _ => None,
            },
            last_upload: people.last_upload,
            alarm: people.alarm.as_ref().map(|alarm| alarm.words.clone()).or_else(|| self.held_words()),
            last_error: people.last_error.clone(),
            version: match &self.link {
                Link::Open(connection) => Some(connection.version),
                _ => None,
            },
            backlog,
            in_flight: self.uploader.flight.rows(),
            in_memory: self.uploader.rows_in_memory(),
            uploaded: counts.uploaded,
            rejected: counts.rejected,
            unheard: people.unheard.readings,
            unheard_devices: people.unheard.devices.iter().cloned().collect(),
            suspected: self.uploader.poison.suspects(),
            uploaded_last_minute: uploaded,
            stored_last_minute: stored,
            drains_in: status::drains_in(backlog, uploaded, stored),
            bytes_sent: people.bytes_sent,
            connections: people.connections,
            downlink: self.queues.counts(),
        }
    }

    /// Readings on disk that the hub does not have; for a device's own uplink at most so many.
    pub fn backlog(&self) -> u64 {
        self.uploader.backlog()
    }

    /// Up to here nothing waits.
    pub fn settled_through(&self) -> Seq {
        self.uploader.settled.through()
    }

    /// Since when there is a connection, or none: attempts at one do not count.
    pub(super) fn note_state(&mut self) {
        let is_open = matches!(self.link, Link::Open(_));
        if is_open != self.people.was_open {
            self.people.was_open = is_open;
            self.people.since = self.now.mono;
        }
    }

    fn state(&self) -> State {
        match &self.link {
            Link::Waiting { why: Pause::Refused, .. } => State::Refused,
            Link::Waiting { .. } => State::BackingOff,
            Link::Connecting { .. } => State::Connecting,
            Link::Greeting { .. } => State::Greeting,
            Link::Stopped => State::Stopped,
            Link::Open(connection) if connection.phase != Phase::Uploading => State::Asking,
            Link::Open(_) if self.uploader.backlog() == 0 => State::UpToDate,
            Link::Open(_) if !self.uploader.flight.is_empty() => State::Uploading,
            Link::Open(_) if self.wait.for_clock => State::WaitingForClock,
            Link::Open(_) if self.wait.until.is_some() => State::Slowed,
            Link::Open(_) => State::Uploading,
        }
    }

    /// Whose readings are held back, in words.
    fn held_words(&self) -> Option<String> {
        let held = self.uploader.held();
        let (device, _) = held.first_key_value()?;
        let (count, what) = (held.len(), self.settings.mode.when_it_takes_nothing());
        Some(format!("the hub denies us the topics of {count} devices, {device} among them; {what}"))
    }

    /// How many readings wait, in words.
    pub(super) fn backlog_words(&self) -> String {
        let backlog = self.uploader.backlog();
        // Of the places not looked at yet, it is not known whose they are.
        let up_to = if self.settings.mode.is_device() && backlog > 0 { "up to " } else { "" };
        format!("{up_to}{backlog} readings wait")
    }

    pub(super) fn tell(&mut self, is_warning: bool, words: String) {
        let notices = &mut self.people.notices;
        if notices.len() >= UPLINK_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice { is_warning, words });
    }
}
