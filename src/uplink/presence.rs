//! Which devices are connected to us, and which of them the hub has been told of.
//!
//! ```text
//!               comes, or sends readings                gone for a while, and nothing of it left to send
//!   not told ------------------------------> told ---------------------------------------------------------> not told
//! ```
//!
//! Of each device there is one state and no list of events: one that comes and goes many times before anything can be
//! sent costs one message, or none. A new connection to the hub begins with nobody told.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    clock::Mono,
    ids::DeviceName,
    limits::{UPLINK_GONE_LOOKS, UPLINK_GONE_WAIT, UPLINK_PRESENT_DEVICES, UPLINK_WINDOW},
};

/// Times a message may end the connection before none like it is sent.
const TRIES: u8 = 2;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Devices connected to us.
    here: BTreeSet<DeviceName>,
    /// Devices the hub was told of in this connection; of those that are not here, when to take leave of them.
    told: BTreeMap<DeviceName, Option<Mono>>,
    /// Devices that are here and the hub is to be told of.
    coming: BTreeSet<DeviceName>,
    /// Devices the hub is to be told are gone, by when.
    going: BTreeSet<(Mono, DeviceName)>,
    /// Devices whose announcement ended a connection, and how often.
    unwelcome: BTreeMap<DeviceName, u8>,
    /// How often taking leave of a device ended a connection.
    farewells_unwelcome: u8,
}

impl Presence {
    /// A device has come, or is gone. Beyond the bound those that come are told of when they send readings.
    pub(super) fn note(&mut self, device: &DeviceName, is_here: bool, is_open: bool, now: Mono) {
        if is_here {
            if self.here.len() >= UPLINK_PRESENT_DEVICES || !self.here.insert(device.clone()) {
                return;
            }
            if let Some(at) = self.told.get_mut(device).and_then(Option::take) {
                self.going.remove(&(at, device.clone()));
            }
            if is_open && !self.is_told(device) {
                self.coming.insert(device.clone());
            }
        } else if self.here.remove(device) {
            self.coming.remove(device);
            self.plan_farewell(device, now);
        }
    }

    /// Messages may be sent: the hub is to be told of everybody.
    pub(super) fn open(&mut self) {
        self.coming = self.here.iter().filter(|device| !self.is_told(device)).cloned().collect();
    }

    /// The connection is gone, and with it what the hub was told.
    pub(super) fn close(&mut self) {
        self.told.clear();
        self.coming.clear();
        self.going.clear();
    }

    /// Whether the hub knows `device`, or does without being told.
    pub(super) fn is_told(&self, device: &DeviceName) -> bool {
        self.told.contains_key(device) || self.unwelcome.get(device).is_some_and(|times| *times >= TRIES)
    }

    /// A device the hub is to be told of, none of those that are `busy`.
    pub(super) fn next_coming(&self, is_busy: impl Fn(&DeviceName) -> bool) -> Option<DeviceName> {
        self.coming.iter().find(|device| !is_busy(device)).cloned()
    }

    /// The announcement of `device` is on its way.
    pub(super) fn note_announcing(&mut self, device: &DeviceName) {
        self.coming.remove(device);
    }

    /// The announcement of `device` was not taken, for no fault of its own.
    pub(super) fn announce_again(&mut self, device: &DeviceName) {
        if self.here.contains(device) && !self.is_told(device) {
            self.coming.insert(device.clone());
        }
    }

    /// The hub knows `device` now; beyond the bound it is told of all again when they send readings.
    pub(super) fn note_told(&mut self, device: DeviceName, now: Mono) {
        if self.told.len() >= UPLINK_PRESENT_DEVICES {
            self.told.clear();
            self.going.clear();
        }
        self.coming.remove(&device);
        self.told.entry(device.clone()).or_insert(None);
        if !self.here.contains(&device) {
            self.plan_farewell(&device, now);
        }
    }

    fn plan_farewell(&mut self, device: &DeviceName, now: Mono) {
        if let Some(going @ None) = self.told.get_mut(device)
            && self.farewells_unwelcome < TRIES
        {
            let at = now + UPLINK_GONE_WAIT;
            *going = Some(at);
            self.going.insert((at, device.clone()));
        }
    }

    /// A device that has been gone for a while and is not `busy`.
    pub(super) fn next_going(&self, now: Mono, is_busy: impl Fn(&DeviceName) -> bool) -> Option<DeviceName> {
        let due = self.going.iter().take_while(|(at, _)| *at <= now).take(UPLINK_GONE_LOOKS);
        due.map(|(_, device)| device).find(|device| !is_busy(device)).cloned()
    }

    /// When the next will have been gone for a while; `None` if there is none, or such a one waits for something else.
    pub(super) fn next_going_at(&self, now: Mono) -> Option<Mono> {
        self.going.first().map(|(at, _)| *at).filter(|at| *at > now)
    }

    /// Leave of `device` is being taken: from here on the hub does not know it.
    pub(super) fn note_leaving(&mut self, device: &DeviceName) {
        if let Some(Some(at)) = self.told.remove(device) {
            self.going.remove(&(at, device.clone()));
        }
    }

    /// The connection ended while the announcement of `device` was the only thing on its way: the second time is the
    /// last, and its readings go without one.
    pub(super) fn note_unwelcome(&mut self, device: DeviceName) {
        if self.unwelcome.len() >= UPLINK_WINDOW.into() {
            self.unwelcome.pop_first();
        }
        *self.unwelcome.entry(device).or_default() += 1;
    }

    /// The connection ended while taking leave of a device was the only thing on its way.
    pub(super) fn note_farewell_unwelcome(&mut self) {
        self.farewells_unwelcome = self.farewells_unwelcome.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: fn(&DeviceName) -> bool = |_| false;

    fn device(name: &str) -> DeviceName {
        DeviceName::parse(name).expect("valid")
    }

    fn open_with(here: &[&str]) -> Presence {
        let mut presence = Presence::default();
        here.iter().for_each(|name| presence.note(&device(name), true, false, Mono(0)));
        presence.open();
        presence
    }

    #[test]
    fn a_new_connection_begins_with_everybody_who_is_here() {
        let mut presence = open_with(&["b", "a"]);
        assert_eq!(presence.next_coming(NOBODY), Some(device("a")));
        assert_eq!(presence.next_coming(|busy| *busy == device("a")), Some(device("b")));
        for name in ["a", "b"] {
            presence.note_announcing(&device(name));
            presence.note_told(device(name), Mono(0));
        }
        assert_eq!(presence.next_coming(NOBODY), None);
        presence.close();
        assert!(!presence.is_told(&device("a")));
        presence.open();
        assert_eq!(presence.next_coming(NOBODY), Some(device("a")));
    }

    #[test]
    fn who_comes_back_soon_has_never_been_gone() {
        let mut presence = open_with(&["a"]);
        presence.note_told(device("a"), Mono(0));
        for _ in 0..3 {
            presence.note(&device("a"), false, true, Mono(0));
            assert_eq!(presence.next_going_at(Mono(0)), Some(Mono(0) + UPLINK_GONE_WAIT));
            assert_eq!(presence.next_going(Mono(0), NOBODY), None);
            presence.note(&device("a"), true, true, Mono(0));
            assert_eq!(presence.next_going_at(Mono(0)), None);
        }
        assert_eq!(presence.next_coming(NOBODY), None);
        assert!(presence.going.is_empty() && presence.coming.is_empty());
    }

    #[test]
    fn who_is_gone_is_taken_leave_of_once_nothing_of_it_is_left() {
        let mut presence = open_with(&["a"]);
        presence.note_told(device("a"), Mono(0));
        presence.note(&device("a"), false, true, Mono(0));
        let later = Mono(0) + UPLINK_GONE_WAIT;
        assert_eq!(presence.next_going(later, |_| true), None);
        assert_eq!(presence.next_going(later, NOBODY), Some(device("a")));
        presence.note_leaving(&device("a"));
        assert!(!presence.is_told(&device("a")));
        assert_eq!(presence.next_going(later, NOBODY), None);
    }

    #[test]
    fn who_sends_readings_without_being_here_is_taken_leave_of_as_well() {
        let mut presence = open_with(&[]);
        presence.note_told(device("a"), Mono(5));
        presence.note_told(device("a"), Mono(9));
        assert_eq!(presence.next_going_at(Mono(5)), Some(Mono(5) + UPLINK_GONE_WAIT));
        assert_eq!(presence.going.len(), 1);
    }

    #[test]
    fn who_goes_before_the_hub_was_told_is_not_told_of() {
        let mut presence = open_with(&["a"]);
        presence.note(&device("a"), false, true, Mono(0));
        assert_eq!((presence.next_coming(NOBODY), presence.next_going_at(Mono(0))), (None, None));
        presence.note(&device("a"), true, true, Mono(0));
        presence.note_announcing(&device("a"));
        presence.note(&device("a"), false, true, Mono(0));
        presence.announce_again(&device("a"));
        assert_eq!(presence.next_coming(NOBODY), None);
    }

    #[test]
    fn what_ends_connections_twice_is_not_sent_a_third_time() {
        let mut presence = open_with(&["a"]);
        for _ in 0..TRIES {
            assert_eq!(presence.next_coming(NOBODY), Some(device("a")));
            presence.note_unwelcome(device("a"));
            presence.close();
            presence.open();
        }
        assert!(presence.is_told(&device("a")) && presence.next_coming(NOBODY).is_none());
        for _ in 0..TRIES {
            presence.note_farewell_unwelcome();
        }
        presence.note_told(device("b"), Mono(0));
        assert_eq!(presence.next_going_at(Mono(0)), None);
    }

    #[test]
    fn devices_beyond_the_bound_are_not_kept() {
        let mut presence = open_with(&[]);
        for number in 0..UPLINK_PRESENT_DEVICES + 10 {
            presence.note(&device(&format!("d{number}")), true, true, Mono(0));
            presence.note_told(device(&format!("d{number}")), Mono(0));
        }
        assert_eq!(presence.here.len(), UPLINK_PRESENT_DEVICES);
        assert!(presence.told.len() <= UPLINK_PRESENT_DEVICES);
    }
}
