//! What waits for one client, and what it was sent and has not yet acknowledged. [§4.3], [§4.9]

use std::{collections::VecDeque, sync::Arc};

use crate::mqtt::{PacketId, QoS};

use super::Message;

/// What a waiting delivery costs in memory beside its message.
const DELIVERY_BYTES: usize = 64;

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
/// Invariants: identifiers in flight are distinct; no more are in flight than `window`.
#[derive(Debug)]
pub struct Outgoing {
    waiting: VecDeque<Delivery>,
    in_flight: VecDeque<InFlight>,
    waiting_bytes: usize,
    last_id: u16,
    window: usize,
}

impl Outgoing {
    /// Nothing waits; at most `window` messages will be in flight.
    pub fn new(window: u16) -> Self {
        let (waiting, in_flight) = (VecDeque::new(), VecDeque::new());
        Self { waiting, in_flight, waiting_bytes: 0, last_id: 0, window: window.into() }
    }

    /// Adds a delivery behind the others.
    pub fn push(&mut self, delivery: Delivery) {
        self.waiting_bytes += delivery.bytes();
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
        let awaits = match delivery.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => Awaits::Ack,
            QoS::ExactlyOnce => Awaits::Received,
        };
        self.last_id = packet_id.get();
        self.in_flight.push_back(InFlight { packet_id, awaits, delivery });
    }

    /// PUBACK came: the message is the client's now.
    ///
    /// # Errors
    /// If no message of QoS 1 waits for it.
    pub fn on_puback(&mut self, packet_id: PacketId) -> Result<(), Mismatch> {
        self.finish(packet_id, Awaits::Ack)
    }

    /// PUBREC came; unless `refused`, PUBREL is to be sent, also if it was before. [MQTT-4.3.3-6 of 5.0]
    ///
    /// # Errors
    /// If no message of QoS 2 waits for it.
    pub fn on_pubrec(&mut self, packet_id: PacketId, refused: bool) -> Result<(), Mismatch> {
        let at = self.position(packet_id).ok_or(Mismatch::Unknown)?;
        match self.in_flight[at].awaits {
            Awaits::Ack => Err(Mismatch::WrongKind),
            _ if refused => {
                self.in_flight.remove(at);
                Ok(())
            }
            Awaits::Received | Awaits::Complete => {
                self.in_flight[at].awaits = Awaits::Complete;
                Ok(())
            }
        }
    }

    /// PUBCOMP came: the exchange is over.
    ///
    /// # Errors
    /// If no exchange waits for it.
    pub fn on_pubcomp(&mut self, packet_id: PacketId) -> Result<(), Mismatch> {
        self.finish(packet_id, Awaits::Complete)
    }

    /// Takes what came from shared subscriptions and may go to others, oldest first: the connection is over. A delivery of
    /// QoS 2 that was begun stays with the client it was begun with. [MQTT-4.8.2-5 of 5.0]
    pub fn take_shared(&mut self) -> Vec<Delivery> {
        let sent =
            self.in_flight.drain(..).filter(|sent| sent.awaits == Awaits::Ack).map(|sent| sent.delivery);
        sent.chain(self.waiting.drain(..)).filter(|delivery| delivery.group.is_some()).collect()
    }

    fn finish(&mut self, packet_id: PacketId, awaited: Awaits) -> Result<(), Mismatch> {
        let at = self.position(packet_id).ok_or(Mismatch::Unknown)?;
        if self.in_flight[at].awaits != awaited {
            return Err(Mismatch::WrongKind);
        }
        self.in_flight.remove(at);
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Ok(())
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.in_flight.iter().position(|sent| sent.packet_id == packet_id)
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        assert!(self.in_flight.len() <= self.window, "more in flight than the client takes");
        assert_eq!(self.waiting_bytes, self.waiting.iter().map(Delivery::bytes).sum::<usize>());
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
        Delivery { message, qos, retain: false, identifiers: Vec::new(), group: None }
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
        assert_eq!(outgoing.on_puback(stuck), Ok(()));
        assert!(outgoing.is_idle());
    }

    #[test]
    fn qos_2_goes_through_its_stages_and_a_refusal_ends_it() {
        let mut outgoing = Outgoing::new(5);
        let packet_id = send(&mut outgoing, QoS::ExactlyOnce);
        assert_eq!(outgoing.on_puback(packet_id), Err(Mismatch::WrongKind));
        assert_eq!(outgoing.on_pubcomp(packet_id), Err(Mismatch::WrongKind));
        assert_eq!(outgoing.on_pubrec(packet_id, false), Ok(()));
        assert_eq!(outgoing.on_pubrec(packet_id, false), Ok(()), "PUBREL was lost");
        assert_eq!(outgoing.on_pubcomp(packet_id), Ok(()));
        assert_eq!(outgoing.on_pubcomp(packet_id), Err(Mismatch::Unknown));
        let refused = send(&mut outgoing, QoS::ExactlyOnce);
        assert_eq!(outgoing.on_pubrec(refused, true), Ok(()));
        assert!(outgoing.is_idle());
        assert_eq!(outgoing.on_pubrec(id(9), false), Err(Mismatch::Unknown));
    }
}
