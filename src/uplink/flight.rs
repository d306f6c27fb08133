//! Messages on their way to the hub, each until its PUBACK, and how many bytes the link bears at once.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    clock::Mono,
    ids::DeviceName,
    limits::{
        UPLINK_ACK_TIMEOUT_MAX, UPLINK_CONNACK_TIMEOUT_MAX, UPLINK_FLIGHT_BYTES_FIRST,
        UPLINK_FLIGHT_BYTES_MAX, UPLINK_FLIGHT_BYTES_MIN,
    },
    mqtt::PacketId,
    record::Outbound,
};

use super::lane::LaneKind;

/// An answer that takes no longer than this says that the link bears more.
const QUICK: Duration = Duration::from_secs(2);
/// An answer that takes longer than this says that the link bears less.
const SLOW: Duration = Duration::from_secs(8);
/// What a byte may take, once a link was found to be slow, and on the slowest.
const BYTE_TIME: Duration = Duration::from_millis(1);
const BYTE_TIME_MAX: Duration = Duration::from_millis(16);

/// A message on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) packet_id: PacketId,
    pub(super) content: Content,
    pub(super) payload_bytes: usize,
    /// Bytes of payload on their way when it left, its own among them.
    queued_bytes: usize,
    pub(super) sent: Mono,
    /// How long nothing had gone before it.
    pub(super) quiet: Duration,
}

/// What a message says.
#[derive(Debug)]
pub(super) enum Content {
    /// A device is there.
    Announcement(DeviceName),
    /// A device is gone.
    Farewell,
    /// The answer of a device to a command.
    RpcAnswer,
    /// Readings of one device, at least one.
    Readings {
        /// Where they are to go back to; `None` for a reading under suspicion.
        lane: Option<LaneKind>,
        /// The readings, in order.
        rows: Vec<Outbound>,
    },
}

/// Everything on its way, oldest first.
///
/// Invariant: packet identifiers are distinct.
#[derive(Debug)]
pub(super) struct Flight {
    messages: VecDeque<InFlight>,
    payload_bytes: usize,
    last_id: u16,
    /// Bytes of payload the link bears at once.
    budget: usize,
    budget_max: usize,
    /// Up to here the budget doubles, beyond it grows slowly: it was too much once.
    doubles_until: usize,
    /// How long a small message and its answer may take.
    ack_timeout: Duration,
    ack_timeout_min: Duration,
    /// What each byte before the answer may take beside that.
    byte_time: Duration,
    /// Whether the hub has been found to answer late though it is there.
    hub_is_busy: bool,
}

impl Flight {
    /// Nothing is on its way; at most `bytes_max` bytes of payload ever will be, and the first answers may take
    /// `ack_timeout`.
    pub(super) fn new(bytes_max: usize, ack_timeout: Duration) -> Self {
        let budget_max = bytes_max.clamp(UPLINK_FLIGHT_BYTES_MIN, UPLINK_FLIGHT_BYTES_MAX);
        Self {
            messages: VecDeque::new(),
            payload_bytes: 0,
            last_id: 0,
            budget: UPLINK_FLIGHT_BYTES_FIRST.min(budget_max),
            budget_max,
            doubles_until: budget_max,
            ack_timeout,
            ack_timeout_min: ack_timeout,
            byte_time: Duration::ZERO,
            hub_is_busy: false,
        }
    }

    /// How many messages are on their way.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many readings are on their way.
    pub(super) fn rows(&self) -> usize {
        self.readings().map(|(_, rows)| rows.len()).sum()
    }

    /// The readings on their way, message by message.
    pub(super) fn readings(&self) -> impl Iterator<Item = (Option<LaneKind>, &[Outbound])> {
        self.messages.iter().filter_map(|message| match &message.content {
            Content::Readings { lane, rows } => Some((*lane, rows.as_slice())),
            Content::Announcement(_) | Content::Farewell | Content::RpcAnswer => None,
        })
    }

    /// How many messages on their way say who has come and gone.
    pub(super) fn presence_len(&self) -> usize {
        let is_one = |content: &Content| matches!(content, Content::Announcement(_) | Content::Farewell);
        self.messages.iter().filter(|message| is_one(&message.content)).count()
    }

    /// Whether `device` is being announced.
    pub(super) fn announces(&self, device: &DeviceName) -> bool {
        let is_it = |content: &Content| matches!(content, Content::Announcement(of) if of == device);
        self.messages.iter().any(|message| is_it(&message.content))
    }

    /// Devices that something of `lane` is on its way for, and those being announced.
    pub(super) fn busy_devices(&self, lane: LaneKind) -> BTreeSet<DeviceName> {
        let busy = self.messages.iter().filter_map(|message| match &message.content {
            Content::Announcement(device) => Some(device),
            Content::Readings { lane: Some(of), rows } if *of == lane => Some(&rows[0].device),
            Content::Readings { .. } | Content::Farewell | Content::RpcAnswer => None,
        });
        busy.cloned().collect()
    }

    /// When the oldest message left.
    pub(super) fn oldest_sent(&self) -> Option<Mono> {
        self.messages.front().map(|message| message.sent)
    }

    /// Bytes of payload that may leave now; `None` if it is better to wait for an answer.
    pub(super) fn room_bytes(&self) -> Option<usize> {
        let room = self.budget.saturating_sub(self.payload_bytes);
        (self.payload_bytes == 0 || room >= self.budget / 4).then_some(room)
    }

    /// How long there may be silence.
    pub(super) fn silence_timeout(&self) -> Duration {
        let bytes = self.messages.front().map_or(0, |oldest| oldest.queued_bytes);
        let on_their_way = self.byte_time.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        (self.ack_timeout + on_their_way).min(self.ack_timeout_max())
    }

    /// How long the oldest message may wait for its answer while there is no silence.
    pub(super) fn answer_timeout(&self) -> Duration {
        let of_the_hub = if self.hub_is_busy { self.ack_timeout_min * 2 } else { self.ack_timeout_min };
        self.silence_timeout().max(of_the_hub.min(self.ack_timeout_max())) * 3 / 2
    }

    /// How long the answer to CONNECT may take.
    pub(super) fn connack_timeout(&self) -> Duration {
        self.ack_timeout.min(UPLINK_CONNACK_TIMEOUT_MAX.max(self.ack_timeout_min))
    }

    fn ack_timeout_max(&self) -> Duration {
        UPLINK_ACK_TIMEOUT_MAX.max(self.ack_timeout_min)
    }

    /// An identifier that nothing on its way has; they are not used again soon, so that a late answer meets nobody.
    pub(super) fn next_id(&self) -> PacketId {
        (1..=u16::MAX)
            .filter_map(|step| PacketId::new(self.last_id.wrapping_add(step)))
            .find(|id| self.messages.iter().all(|message| message.packet_id != *id))
            .expect("the window is smaller than the number of identifiers")
    }

    /// An identifier for something that is not a message.
    pub(super) fn spend_id(&mut self) -> PacketId {
        let id = self.next_id();
        self.last_id = id.get();
        id
    }

    /// A message has left as `packet_id`, which came from [`Flight::next_id`].
    pub(super) fn note_sent(
        &mut self,
        packet_id: PacketId,
        content: Content,
        payload_bytes: usize,
        quiet: Duration,
        now: Mono,
    ) {
        self.last_id = packet_id.get();
        self.payload_bytes += payload_bytes;
        let queued_bytes = self.payload_bytes;
        let message = InFlight { packet_id, content, payload_bytes, queued_bytes, sent: now, quiet };
        self.messages.push_back(message);
    }

    /// Takes the message that a PUBACK answers; nothing if none of this identifier is on its way: the answer is late,
    /// or comes twice, or was never asked for.
    pub(super) fn take(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let place = self.messages.iter().position(|message| message.packet_id == packet_id)?;
        let message = self.messages.remove(place)?;
        self.payload_bytes -= message.payload_bytes;
        Some(message)
    }

    /// Takes everything: the connection is gone.
    pub(super) fn take_all(&mut self) -> Vec<InFlight> {
        self.payload_bytes = 0;
        std::mem::take(&mut self.messages).into()
    }

    /// The hub took readings, in `message`.
    pub(super) fn note_taken(&mut self, message: &InFlight, now: Mono) {
        let took = now.since(message.sent);
        self.ack_timeout = (self.ack_timeout / 2).max(self.ack_timeout_min);
        self.hub_is_busy &= took > self.ack_timeout_min;
        if message.queued_bytes > UPLINK_FLIGHT_BYTES_MIN {
            let bytes = u32::try_from(message.queued_bytes).unwrap_or(u32::MAX);
            self.byte_time = self.byte_time.min(took * 2 / bytes);
        }
        if took > SLOW {
            self.shrink(2);
        } else if took < QUICK {
            let bytes = message.payload_bytes;
            let growth = if self.budget < self.doubles_until { bytes } else { bytes / 16 };
            self.budget = (self.budget + growth).min(self.budget_max);
        }
    }

    /// The hub has answered something small, `took` after it left: a quick answer says that no link is waited for, so
    /// that silence says what it says at first.
    pub(super) fn note_small_answer(&mut self, took: Duration) {
        if took < QUICK {
            self.ack_timeout = self.ack_timeout_min;
        }
    }

    /// No answer to CONNECT came: more patience the next time.
    pub(super) fn note_unanswered_connect(&mut self) {
        let doubled = (self.ack_timeout * 2).min(UPLINK_CONNACK_TIMEOUT_MAX);
        self.ack_timeout = self.ack_timeout.max(doubled);
    }

    /// Not a word came: less at once, and more patience, for the link may be a slow one. If there was much on its way,
    /// it is the bytes that are given more time.
    pub(super) fn note_silence(&mut self) {
        self.shrink(4);
        self.ack_timeout = (self.ack_timeout * 2).min(self.ack_timeout_max());
        let bytes = self.messages.front().map_or(0, |oldest| oldest.queued_bytes);
        if bytes > UPLINK_FLIGHT_BYTES_MIN {
            self.byte_time = (self.byte_time * 2).clamp(BYTE_TIME, BYTE_TIME_MAX);
        }
    }

    /// Words came but not the answer: a little more patience, for the hub may be a busy one. Much more would only make
    /// it take long to find a message the hub never answers.
    pub(super) fn note_unanswered(&mut self) {
        self.shrink(4);
        self.hub_is_busy = true;
    }

    /// The link, or the hub, bears only a `part` of what it was given.
    pub(super) fn shrink(&mut self, part: usize) {
        self.budget = (self.budget / part).max(UPLINK_FLIGHT_BYTES_MIN);
        self.doubles_until = self.budget;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn flight() -> Flight {
        Flight::new(256 * 1024, Duration::from_secs(20))
    }

    fn announce(flight: &mut Flight, bytes: usize) -> PacketId {
        let id = flight.next_id();
        let device = DeviceName::parse("pump").expect("valid");
        flight.note_sent(id, Content::Announcement(device), bytes, Duration::ZERO, Mono(0));
        id
    }

    #[test]
    fn an_answer_belongs_to_exactly_one_message_and_only_once() {
        let mut flight = flight();
        let (first, second) = (announce(&mut flight, 1), announce(&mut flight, 1));
        assert_ne!(first, second);
        assert!(flight.take(second).is_some());
        assert!(flight.take(second).is_none());
        assert!(flight.take(PacketId::new(999).expect("not zero")).is_none());
        assert_eq!(flight.len(), 1);
    }

    #[test]
    fn identifiers_are_not_used_again_before_all_others_were() {
        let mut flight = flight();
        let first = announce(&mut flight, 1);
        flight.take(first);
        for _ in 1..u16::MAX {
            let id = announce(&mut flight, 1);
            assert_ne!(id, first);
            flight.take(id);
        }
        assert_eq!(announce(&mut flight, 1), first);
    }

    /// A message of so many bytes is taken `took` after it left.
    fn carry(flight: &mut Flight, bytes: usize, took: Duration) {
        let id = announce(flight, bytes);
        let message = flight.take(id).expect("on its way");
        flight.note_taken(&message, Mono(0) + took);
    }

    #[test]
    fn a_quick_link_soon_bears_the_most_and_a_slow_one_little() {
        let mut flight = flight();
        for _ in 0..40 {
            let bytes = flight.room_bytes().expect("nothing is on its way");
            carry(&mut flight, bytes, Duration::from_millis(50));
        }
        assert_eq!(flight.room_bytes(), Some(256 * 1024));
        (0..40).for_each(|_| carry(&mut flight, 100, Duration::from_secs(9)));
        assert_eq!(flight.room_bytes(), Some(UPLINK_FLIGHT_BYTES_MIN));
    }

    #[test]
    fn patience_grows_with_each_silence_and_returns_with_answers() {
        let mut flight = flight();
        (0..20).for_each(|_| flight.note_silence());
        assert_eq!(flight.silence_timeout(), UPLINK_ACK_TIMEOUT_MAX);
        assert_eq!(flight.connack_timeout(), UPLINK_CONNACK_TIMEOUT_MAX);
        (0..20).for_each(|_| carry(&mut flight, 1, SECOND));
        assert_eq!(flight.silence_timeout(), SECOND * 20);
        (0..20).for_each(|_| flight.note_silence());
        flight.note_small_answer(SECOND * 3);
        assert_eq!(flight.silence_timeout(), UPLINK_ACK_TIMEOUT_MAX);
        flight.note_small_answer(SECOND);
        assert_eq!(flight.silence_timeout(), SECOND * 20);
    }

    #[test]
    fn what_a_slow_link_is_given_for_much_it_is_not_given_for_little() {
        let mut flight = flight();
        for _ in 0..10 {
            announce(&mut flight, 20_000);
            flight.note_silence();
            flight.note_small_answer(SECOND);
            flight.take_all();
        }
        announce(&mut flight, 20_000);
        assert_eq!(flight.silence_timeout(), SECOND * 20 + BYTE_TIME_MAX * 20_000);
        flight.take_all();
        announce(&mut flight, UPLINK_FLIGHT_BYTES_MIN);
        assert!(flight.silence_timeout() < SECOND * 30, "{:?}", flight.silence_timeout());
        flight.take_all();
        carry(&mut flight, 20_000, SECOND * 100);
        announce(&mut flight, 20_000);
        assert_eq!(flight.silence_timeout(), SECOND * 220, "twice what it took last");
    }

    #[test]
    fn a_busy_hub_is_given_a_little_more_until_it_is_not_busy() {
        let mut flight = flight();
        assert_eq!(flight.answer_timeout(), SECOND * 30);
        flight.note_unanswered();
        flight.note_small_answer(SECOND);
        assert_eq!((flight.silence_timeout(), flight.answer_timeout()), (SECOND * 20, SECOND * 60));
        carry(&mut flight, 1, SECOND * 35);
        assert_eq!(flight.answer_timeout(), SECOND * 60);
        carry(&mut flight, 1, SECOND);
        assert_eq!(flight.answer_timeout(), SECOND * 30);
    }

    #[test]
    fn a_nearly_full_link_waits_for_an_answer() {
        let mut flight = flight();
        announce(&mut flight, UPLINK_FLIGHT_BYTES_FIRST - 10);
        assert_eq!(flight.room_bytes(), None);
        flight.take_all();
        assert_eq!(flight.room_bytes(), Some(UPLINK_FLIGHT_BYTES_FIRST));
    }
}
