//! What the hub sends to devices through us, and what they answer: two short queues, neither on disk.
//!
//! A message of the hub is acknowledged when it is in the queue, and the queue is emptied in the same turn. An answer
//! that cannot go while the connection lasts is of no use later: it is dropped, and counted.

use std::collections::VecDeque;

use crate::{
    clock::Now,
    device_api::downlink::{self, Downlink, DownlinkError, DownlinkKind},
    ids::DeviceName,
    limits::{UPLINK_DOWNLINK_BYTES, UPLINK_DOWNLINKS, UPLINK_RPC_ANSWER_BYTES, UPLINK_RPC_ANSWERS},
    mqtt::{Publish, SubAck},
};

use super::{Link, Uplink, connection::Phase};

/// The two queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    arrived: VecDeque<Downlink>,
    arrived_bytes: usize,
    /// Payloads for the hub.
    answers: VecDeque<String>,
    answers_bytes: usize,
    counts: DownlinkCounts,
    /// Whether the hub's refusal to send us anything was told.
    told_refused: bool,
    /// Whether a message that cannot be read was told of in this connection.
    told_malformed: bool,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkCounts {
    /// Messages of the hub for devices.
    pub arrived: u64,
    /// Those that could not be read.
    pub malformed: u64,
    /// Those there was no room for.
    pub dropped: u64,
    /// Answers to commands that the hub has taken.
    pub answers: u64,
    /// Answers to commands that it has not.
    pub answers_lost: u64,
}

impl Queues {
    /// Totals since the start.
    pub(super) fn counts(&self) -> DownlinkCounts {
        self.counts
    }

    /// A connection has begun.
    pub(super) fn open(&mut self) {
        self.told_malformed = false;
    }

    /// The connection is gone: answers that wait go nowhere.
    pub(super) fn close(&mut self) {
        self.counts.answers_lost += self.answers.len() as u64;
        self.answers.clear();
        self.answers_bytes = 0;
    }

    /// The next answer to send.
    pub(super) fn next_answer(&self) -> Option<&str> {
        self.answers.front().map(String::as_str)
    }

    /// The next answer is taken out: it is on its way, or it is `lost`.
    pub(super) fn take_answer(&mut self, is_lost: bool) -> Option<String> {
        let answer = self.answers.pop_front()?;
        self.answers_bytes -= answer.len();
        self.counts.answers_lost += u64::from(is_lost);
        Some(answer)
    }

    /// An answer that was on its way was taken, or was not.
    pub(super) fn note_answered(&mut self, was_taken: bool) {
        self.counts.answers += u64::from(was_taken);
        self.counts.answers_lost += u64::from(!was_taken);
    }

    fn has_room_for_answers(&self) -> bool {
        self.answers.len() < UPLINK_RPC_ANSWERS && self.answers_bytes < UPLINK_RPC_ANSWER_BYTES
    }

    fn push_answer(&mut self, payload: String) {
        self.answers_bytes += payload.len();
        self.answers.push_back(payload);
    }

    fn push(&mut self, downlink: Downlink) {
        if self.arrived.len() < UPLINK_DOWNLINKS && self.arrived_bytes < UPLINK_DOWNLINK_BYTES {
            self.arrived_bytes += downlink.payload.len();
            self.arrived.push_back(downlink);
            return;
        }
        self.counts.dropped += 1;
        if let DownlinkKind::Rpc(id) = downlink.kind
            && self.has_room_for_answers()
        {
            let error = downlink::rpc_error("the gateway is busy");
            self.push_answer(downlink::rpc_answer(downlink.device.as_str(), id, error.as_bytes()));
        }
    }
}

impl Uplink {
    /// A message of the hub for one of our devices.
    pub fn poll_downlink(&mut self) -> Option<Downlink> {
        let downlink = self.queues.arrived.pop_front()?;
        self.queues.arrived_bytes -= downlink.payload.len();
        Some(downlink)
    }

    /// How many answers to commands may be given to [`Uplink::answer_rpc`] now, one after the other, if none of them is
    /// large; none while the hub cannot be reached.
    pub fn rpc_room(&self) -> usize {
        let is_open = matches!(&self.link, Link::Open(connection) if connection.phase == Phase::Uploading);
        match is_open && self.settings.mode.is_gateway() && self.queues.has_room_for_answers() {
            true => UPLINK_RPC_ANSWERS - self.queues.answers.len(),
            false => 0,
        }
    }

    /// The answer of `device` to the command `id`, whatever it is; without room it is lost, and counted.
    pub fn answer_rpc(&mut self, device: &DeviceName, id: i32, answer: &[u8], now: Now) {
        self.now = now;
        if self.rpc_room() == 0 {
            self.queues.counts.answers_lost += 1;
            return;
        }
        self.queues.push_answer(downlink::rpc_answer(device.as_str(), id, answer));
        self.finish();
    }

    /// A device of ours has come, or is gone. When an uplink begins, it is to be told of all that are there.
    pub fn handle_presence(&mut self, device: &DeviceName, is_here: bool, now: Now) {
        self.now = now;
        if !self.settings.mode.is_gateway() {
            return;
        }
        let is_open = matches!(&self.link, Link::Open(connection) if connection.phase == Phase::Uploading);
        self.uploader.presence.note(device, is_here, is_open, now.mono);
        self.finish();
    }

    /// The hub has answered whether it sends us messages for our devices; readings do not depend on it.
    pub(super) fn on_downlink_suback(&mut self, suback: &SubAck<'_>) {
        self.ended_subscribing = 0;
        let refusal = suback.reasons.iter().find(|reason| reason.is_error()).copied();
        let Some(reason) = refusal else {
            self.queues.told_refused = false;
            return;
        };
        if !std::mem::replace(&mut self.queues.told_refused, true) {
            let code = reason.as_byte();
            let what = "attributes and commands for devices do not come, readings go on";
            self.tell(
                true,
                format!("the hub refuses a subscription of ours: {reason} (0x{code:02X}); {what}"),
            );
        }
    }

    /// A message of the hub on one of its topics for gateways.
    pub(super) fn on_downlink(&mut self, publish: &Publish<'_>) {
        // What was kept is not a command of now, and the hub keeps nothing.
        if !self.settings.mode.is_gateway() || publish.retain {
            return;
        }
        let read = match publish.topic.map(|topic| topic.as_str()) {
            Some(downlink::ATTRIBUTES_TOPIC) => Downlink::attributes(publish.payload),
            Some(downlink::RPC_TOPIC) => Downlink::rpc(publish.payload),
            _ => return,
        };
        self.queues.counts.arrived += 1;
        match read {
            Ok(downlink) => self.queues.push(downlink),
            Err(error) => self.on_malformed_downlink(error),
        }
    }

    fn on_malformed_downlink(&mut self, error: DownlinkError) {
        self.queues.counts.malformed += 1;
        if !std::mem::replace(&mut self.queues.told_malformed, true) {
            let why = match error {
                DownlinkError::Malformed => "is not of the form it should have",
                DownlinkError::ImpossibleName => "names a device that cannot be one of ours",
            };
            self.tell(true, format!("a message of the hub for a device {why}; it is dropped, and counted"));
        }
    }
}
