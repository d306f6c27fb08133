//! What waits for one client, and what it was sent and has not yet acknowledged. [§4.3], [§4.4], [§4.9]
//!
//! ```text
//!              the window is open                       on disk, if it is to be                     PUBACK, PUBCOMP
//!   waiting ─────────────────────> in flight, not sent ─────────────────────────> in flight, sent ───────────────> gone
//!                                         ^                                              │
//!                                         └────────── the client comes back ─────────────┘
//! ```

use std::{collections::VecDeque, sync::Arc};

use crate::{
    clock::Mono,
    ids::{DeliveryId, MessageId, Ticket},
    mqtt::{PacketId, QoS},
};

use super::Message;

/// What a waiting delivery costs in memory beside its message.
const DELIVERY_BYTES: usize = 80;

/// A message for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What is delivered.
    pub message: Arc<Message>,
    /// The lower of what was published and what was granted. [MQTT-3.8.4-6]
    pub qos: QoS,
    /// What the RETAIN flag says.
    pub retain: bool,
    /// The numbers of the subscriptions it answers. [MQTT-3.3.4-3 of 5.0]
    pub identifiers: Vec<u32>,
    /// The shared subscription it was taken from, with its `$share/NAME/`.
    pub group: Option<Arc<str>>,
    /// Where it is on disk, if it is.
    pub place: Option<Place>,
}

/// Where a delivery is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The delivery's number.
    pub delivery: DeliveryId,
    /// Its message's number.
    pub message: MessageId,
}

impl Delivery {
    /// What it costs in memory while it waits, its message not shared with anybody.
    pub fn bytes(&self) -> usize {
        DELIVERY_BYTES + self.message.bytes()
    }
}

/// What the client has to answer next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Ack,
    Received,
    Complete,
}

#[derive(Debug)]
struct InFlight {
    packet_id: PacketId,
    awaits: Awaits,
    delivery: Delivery,
    /// What must be on disk before it may be sent.
    held: Ticket,
    /// Whether it was sent on the present connection.
    sent: bool,
    /// Whether it was, or may have been, sent on an earlier one.
    again: bool,
}

/// What of an exchange is to be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The message, for the first time or once more.
    Publish {
        /// Under which identifier.
        packet_id: PacketId,
        /// What is sent.
        delivery: Delivery,
        /// Whether it may have been sent before. [MQTT-3.3.1-1]
        dup: bool,
    },
    /// PUBREL: the message itself has arrived. [MQTT-4.4.0-1]
    Release(PacketId),
}

/// An answer that no state of the exchange allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Nothing of that identifier is in flight.
    Unknown,
    /// PUBREC for a message of QoS 1, or the like: the client is confused. [§4.13]
    WrongKind,
}

/// Messages for one client, oldest first.
///
/// Invariants: identifiers in flight are distinct; no more messages were sent and not answered than `window`.
#[derive(Debug)]
pub struct Outgoing {
    waiting: VecDeque<Delivery>,
    in_flight: VecDeque<InFlight>,
    /// How many in flight are not sent.
    unsent: usize,
    waiting_bytes: usize,
    in_flight_bytes: usize,
    /// Nothing that waits expires before; none if nothing ever does.
    first_expiry: Option<Mono>,
    last_id: u16,
    window: usize,
}

impl Outgoing {
    /// Nothing waits; at most `window` messages will be in flight.
    pub fn new(window: u16) -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            unsent: 0,
            waiting_bytes: 0,
            in_flight_bytes: 0,
            first_expiry: None,
            last_id: 0,
            window: window.into(),
        }
    }

    /// Adds a delivery behind the others.
    pub fn push(&mut self, delivery: Delivery) {
        self.waiting_bytes += delivery.bytes();
        self.first_expiry = self.first_expiry.into_iter().chain(delivery.message.expires()).min();
        self.waiting.push_back(delivery);
    }

    /// Takes the next delivery, if the window is open for it. [MQTT-3.3.4-9 of 5.0]
    pub fn pop(&mut self) -> Option<Delivery> {
        let next = self.waiting.front()?;
        if !self.has_room_for(next.qos) {
            return None;
        }
        self.waiting_bytes -= next.bytes();
        let next = self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        next
    }

    /// Whether a message of `qos` may be in flight beside the others.
    pub fn has_room_for(&self, qos: QoS) -> bool {
        qos == QoS::AtMostOnce || self.in_flight.len() < self.window
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// How many deliveries wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What the waiting deliveries cost in memory.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// What all of it costs in memory, waiting or in flight.
    pub fn bytes(&self) -> usize {
        self.waiting_bytes + self.in_flight_bytes
    }

    /// An identifier that nothing in flight has. [MQTT-2.2.1-4 of 5.0]
    ///
    /// # Panics
    /// If the window is full: it is smaller than the number of identifiers.
    pub fn next_id(&self) -> PacketId {
        (1..=u16::MAX)
            .filter_map(|step| PacketId::new(self.last_id.wrapping_add(step)))
            .find(|id| self.position(*id).is_none())
            .expect("the window is smaller than the number of identifiers")
    }

    /// Notes that `delivery` was sent as `packet_id`; of QoS 0 nothing is kept.
    pub fn note_sent(&mut self, packet_id: PacketId, delivery: Delivery) {
        self.begin(packet_id, delivery, Ticket(0), true);
    }

    /// Puts `delivery` in flight as `packet_id`; it is sent, by [`Outgoing::next`], once `held` is on disk.
    pub fn hold(&mut self, packet_id: PacketId, delivery: Delivery, held: Ticket) {
        self.begin(packet_id, delivery, held, false);
    }

    fn begin(&mut self, packet_id: PacketId, delivery: Delivery, held: Ticket, sent: bool) {
        let awaits = match delivery.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => Awaits::Ack,
            QoS::ExactlyOnce => Awaits::Received,
        };
        self.last_id = packet_id.get();
        self.unsent += usize::from(!sent);
        self.in_flight_bytes += delivery.bytes();
        self.in_flight.push_back(InFlight { packet_id, awaits, delivery, held, sent, again: false });
    }

    /// Puts back what was in flight when the broker stopped; whether it was sent is not known.
    pub fn restore(&mut self, packet_id: PacketId, delivery: Delivery, received: bool) {
        self.begin(packet_id, delivery, Ticket(0), false);
        if let Some(last) = self.in_flight.back_mut() {
            last.again = true;
            last.awaits = if received { Awaits::Complete } else { last.awaits };
        }
    }

    /// The client is back, and takes `window` messages at once: what it has not answered is sent again.
    /// [MQTT-4.4.0-1]
    pub fn resume(&mut self, window: u16) {
        self.window = window.into();
        self.unsent = self.in_flight.len();
        for flying in &mut self.in_flight {
            flying.again |= flying.sent;
            flying.sent = false;
        }
    }

    /// What in flight is to be sent next, now that everything up to `committed` is on disk; it then counts as sent.
    pub fn next(&mut self, committed: Ticket) -> Option<Next> {
        if self.unsent == 0 {
            return None;
        }
        let sent = self.in_flight.len() - self.unsent;
        let window = self.window;
        let may_go = |flying: &&mut InFlight| {
            !flying.sent && flying.held <= committed && (flying.awaits == Awaits::Complete || sent < window)
        };
        let flying = self.in_flight.iter_mut().find(|flying| !flying.sent).filter(may_go)?;
        flying.sent = true;
        self.unsent -= 1;
        Some(match flying.awaits {
            Awaits::Complete => Next::Release(flying.packet_id),
            _ => Next::Publish {
                packet_id: flying.packet_id,
                delivery: flying.delivery.clone(),
                dup: flying.again,
            },
        })
    }

    /// PUBACK came: the message is the client's now. Gives back where it is on disk.
    ///
    /// # Errors
    /// If no message of QoS 1 waits for it.
    pub fn on_puback(&mut self, packet_id: PacketId) -> Result<Option<Place>, Mismatch> {
        self.finish(packet_id, &[Awaits::Ack])
    }

    /// PUBREC came, and PUBREL is to be sent, also if it was before. [MQTT-4.3.3-6 of 5.0] Gives back where the delivery
    /// is on disk, the first time.
    ///
    /// # Errors
    /// If no message of QoS 2 waits for it.
    pub fn on_pubrec(&mut self, packet_id: PacketId) -> Result<Option<Place>, Mismatch> {
        let at = self.position(packet_id).ok_or(Mismatch::Unknown)?;
        let flying = &mut self.in_flight[at];
        match flying.awaits {
            Awaits::Ack => Err(Mismatch::WrongKind),
            _ if !flying.sent && !flying.again => Err(Mismatch::Unknown),
            Awaits::Received => {
                flying.awaits = Awaits::Complete;
                self.unsent -= usize::from(!flying.sent);
                flying.sent = true;
                Ok(flying.delivery.place)
            }
            Awaits::Complete => Ok(None),
        }
    }

    /// PUBREC came with an error: the exchange is over. [MQTT-4.3.3-4 of 5.0] Gives back where it was on disk.
    ///
    /// # Errors
    /// If no message of QoS 2 waits for it.
    pub fn on_pubrec_refused(&mut self, packet_id: PacketId) -> Result<Option<Place>, Mismatch> {
        self.finish(packet_id, &[Awaits::Received, Awaits::Complete])
    }

    /// PUBCOMP came: the exchange is over. Gives back where it was on disk.
    ///
    /// # Errors
    /// If no exchange waits for it.
    pub fn on_pubcomp(&mut self, packet_id: PacketId) -> Result<Option<Place>, Mismatch> {
        self.finish(packet_id, &[Awaits::Complete])
    }

    /// Takes what came from those shared subscriptions that `goes` names, and may go to others, oldest first: the
    /// connection is over. A delivery of QoS 2 that was begun stays with the client it was begun with.
    /// [MQTT-4.8.2-5 of 5.0]
    pub fn take_shared(&mut self, mut goes: impl FnMut(&Arc<str>) -> bool) -> Vec<Delivery> {
        let mut is_taken = |delivery: &Delivery| delivery.group.as_ref().is_some_and(&mut goes);
        if self.is_idle() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for flying in std::mem::take(&mut self.in_flight) {
            if flying.awaits == Awaits::Ack && is_taken(&flying.delivery) {
                self.unsent -= usize::from(!flying.sent);
                self.in_flight_bytes -= flying.delivery.bytes();
                taken.push(flying.delivery);
            } else {
                self.in_flight.push_back(flying);
            }
        }
        for delivery in std::mem::take(&mut self.waiting) {
            if is_taken(&delivery) {
                self.waiting_bytes -= delivery.bytes();
                taken.push(delivery);
            } else {
                self.waiting.push_back(delivery);
            }
        }
        taken
    }

    /// The shared subscriptions that anything came from, each once.
    pub fn groups(&self) -> Vec<Arc<str>> {
        let in_flight = self.in_flight.iter().map(|flying| &flying.delivery);
        let mut groups: Vec<Arc<str>> =
            in_flight.chain(&self.waiting).filter_map(|delivery| delivery.group.clone()).collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// Whether anything that waits may be expired; if not, there is no need to look through all of it.
    pub fn may_have_expired(&self, now: Mono) -> bool {
        self.first_expiry.is_some_and(|first| first <= now)
    }

    /// Takes what waits and is expired.
    pub fn take_expired(&mut self, now: Mono) -> Vec<Delivery> {
        if !self.may_have_expired(now) {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (expired, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|delivery| delivery.message.is_expired(now));
        self.waiting = waiting.into();
        self.waiting_bytes -= expired.iter().map(Delivery::bytes).sum::<usize>();
        self.first_expiry = self.waiting.iter().filter_map(|delivery| delivery.message.expires()).min();
        expired
    }

    /// Drops what waits and is kept nowhere but here: QoS 0, which nobody keeps for a client that is gone.
    pub fn drop_unkept(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = waiting.into_iter().filter(|delivery| delivery.place.is_some()).collect();
        self.waiting_bytes = self.waiting.iter().map(Delivery::bytes).sum();
    }

    /// Where everything is that is on disk.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let in_flight = self.in_flight.iter().map(|flying| &flying.delivery);
        in_flight.chain(&self.waiting).filter_map(|delivery| delivery.place)
    }

    /// Takes a message out of flight that the client cannot take: it counts as delivered. [MQTT-3.1.2-25 of 5.0]
    pub fn discard(&mut self, packet_id: PacketId) -> Option<Place> {
        let at = self.position(packet_id)?;
        let flying = self.in_flight.remove(at)?;
        self.unsent -= usize::from(!flying.sent);
        self.in_flight_bytes -= flying.delivery.bytes();
        flying.delivery.place
    }

    fn finish(&mut self, packet_id: PacketId, awaited: &[Awaits]) -> Result<Option<Place>, Mismatch> {
        let at = self.position(packet_id).ok_or(Mismatch::Unknown)?;
        let flying = &self.in_flight[at];
        if !flying.sent && !flying.again {
            return Err(Mismatch::Unknown);
        }
        if !awaited.contains(&flying.awaits) {
            return Err(Mismatch::WrongKind);
        }
        self.unsent -= usize::from(!flying.sent);
        self.in_flight_bytes -= flying.delivery.bytes();
        let place = flying.delivery.place;
        self.in_flight.remove(at);
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Ok(place)
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.in_flight.iter().position(|sent| sent.packet_id == packet_id)
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        let unanswered = self.in_flight.iter().filter(|f| f.sent && f.awaits != Awaits::Complete).count();
        assert!(unanswered <= self.window, "more in flight than the client takes");
        assert_eq!(self.unsent, self.in_flight.iter().filter(|f| !f.sent).count());
        assert_eq!(self.waiting_bytes, self.waiting.iter().map(Delivery::bytes).sum::<usize>());
        let in_flight = self.in_flight.iter().map(|flying| flying.delivery.bytes());
        assert_eq!(self.in_flight_bytes, in_flight.sum::<usize>());
        let first_expiry = self.waiting.iter().filter_map(|delivery| delivery.message.expires()).min();
        assert!(first_expiry.is_none_or(|first| self.may_have_expired(first)), "one that expires unseen");
        for (n, sent) in self.in_flight.iter().enumerate() {
            assert_eq!(self.position(sent.packet_id), Some(n), "an identifier is in flight twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicName;

    fn delivery(qos: QoS) -> Delivery {
        let message = Arc::new(Message::new(TopicName::parse("a").expect("a name"), b"x", qos));
        Delivery { message, qos, retain: false, identifiers: Vec::new(), group: None, place: None }
    }

    fn id(id: u16) -> PacketId {
        PacketId::new(id).expect("not zero")
    }

    fn send(outgoing: &mut Outgoing, qos: QoS) -> PacketId {
        outgoing.push(delivery(qos));
        let next = outgoing.pop().expect("there is room");
        let packet_id = outgoing.next_id();
        outgoing.note_sent(packet_id, next);
        outgoing.check_invariants();
        packet_id
    }

    #[test]
    fn the_window_holds_back_qos_1_and_2_but_nothing_waits_behind_an_open_window() {
        let mut outgoing = Outgoing::new(2);
        let first = send(&mut outgoing, QoS::AtLeastOnce);
        send(&mut outgoing, QoS::ExactlyOnce);
        outgoing.push(delivery(QoS::AtLeastOnce));
        outgoing.push(delivery(QoS::AtMostOnce));
        assert_eq!(outgoing.pop(), None, "what came later does not overtake");
        outgoing.on_puback(first).expect("in flight");
        assert_eq!(outgoing.pop().expect("room again").qos, QoS::AtLeastOnce);
        outgoing.check_invariants();
    }

    #[test]
    fn identifiers_wrap_around_those_in_flight_mqtt_2_2_1_4() {
        let mut outgoing = Outgoing::new(3);
        let stuck = send(&mut outgoing, QoS::AtLeastOnce);
        for _ in 0..70_000 {
            let packet_id = send(&mut outgoing, QoS::AtLeastOnce);
            assert_ne!(packet_id, stuck);
            outgoing.on_puback(packet_id).expect("in flight");
        }
        assert_eq!(outgoing.on_puback(stuck), Ok(None));
        assert!(outgoing.is_idle());
    }

    #[test]
    fn qos_2_goes_through_its_stages_and_a_refusal_ends_it() {
        let mut outgoing = Outgoing::new(5);
        let packet_id = send(&mut outgoing, QoS::ExactlyOnce);
        assert_eq!(outgoing.on_puback(packet_id), Err(Mismatch::WrongKind));
        assert_eq!(outgoing.on_pubcomp(packet_id), Err(Mismatch::WrongKind));
        assert_eq!(outgoing.on_pubrec(packet_id), Ok(None));
        assert_eq!(outgoing.on_pubrec(packet_id), Ok(None), "PUBREL was lost");
        assert_eq!(outgoing.on_pubcomp(packet_id), Ok(None));
        assert_eq!(outgoing.on_pubcomp(packet_id), Err(Mismatch::Unknown));
        let refused = send(&mut outgoing, QoS::ExactlyOnce);
        assert_eq!(outgoing.on_pubrec_refused(refused), Ok(None));
        assert!(outgoing.is_idle());
        assert_eq!(outgoing.on_pubrec(id(9)), Err(Mismatch::Unknown));
    }

    #[test]
    fn a_queue_is_looked_through_only_if_something_in_it_may_be_expired() {
        let mut outgoing = Outgoing::new(1);
        let living = |seconds| {
            let message = Message::new(TopicName::parse("a").expect("a name"), b"x", QoS::AtMostOnce);
            let message = Arc::new(message.living(Some(std::time::Duration::from_secs(seconds)), Mono(0)));
            Delivery { message, ..delivery(QoS::AtMostOnce) }
        };
        outgoing.push(delivery(QoS::AtMostOnce));
        assert!(!outgoing.may_have_expired(Mono(u64::MAX)), "nothing in it ever expires");
        outgoing.push(living(9));
        outgoing.push(living(5));
        assert!(!outgoing.may_have_expired(Mono(4_999_999)));
        assert!(outgoing.may_have_expired(Mono(5_000_000)));
        assert_eq!(outgoing.take_expired(Mono(5_000_000)).len(), 1);
        assert!(!outgoing.may_have_expired(Mono(8_999_999)), "the next is known");
        assert_eq!(outgoing.take_expired(Mono(9_000_000)).len(), 1);
        assert_eq!(outgoing.waiting(), 1);
        outgoing.check_invariants();
    }

    #[test]
    fn what_is_held_is_sent_once_it_is_on_disk_and_again_in_order_when_the_client_is_back_mqtt_4_4_0_1() {
        let mut outgoing = Outgoing::new(3);
        let sent = |next: Option<Next>| match next {
            Some(Next::Publish { packet_id, dup, .. }) => Some((packet_id.get(), dup)),
            Some(Next::Release(packet_id)) => Some((packet_id.get() + 1000, false)),
            None => None,
        };
        for (n, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::AtLeastOnce)] {
            outgoing.hold(id(n), delivery(qos), Ticket(n.into()));
        }
        assert_eq!(outgoing.next(Ticket(0)), None, "nothing is on disk");
        assert_eq!(outgoing.on_puback(id(1)), Err(Mismatch::Unknown), "it was not sent yet");
        assert_eq!(sent(outgoing.next(Ticket(2))), Some((1, false)));
        assert_eq!(sent(outgoing.next(Ticket(2))), Some((2, false)));
        assert_eq!(outgoing.next(Ticket(2)), None);
        assert_eq!(outgoing.on_pubrec(id(2)), Ok(None));
        outgoing.resume(1);
        assert_eq!(sent(outgoing.next(Ticket(3))), Some((1, true)));
        assert_eq!(sent(outgoing.next(Ticket(3))), Some((1002, false)), "a release is no message");
        assert_eq!(outgoing.next(Ticket(3)), None, "the client takes one message at a time now");
        outgoing.on_puback(id(1)).expect("in flight");
        outgoing.on_pubcomp(id(2)).expect("in flight");
        assert_eq!(sent(outgoing.next(Ticket(3))), Some((3, false)), "it was never sent");
        outgoing.check_invariants();
    }
}
