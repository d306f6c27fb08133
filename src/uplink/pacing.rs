//! How fast readings may go: the rates the hub has told, and what it shows by closing connections.
//!
//! A rate of 600 in a minute is kept as at most 480 in any minute, whatever minute one looks at: hubs differ in how
//! they count.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Mono,
    device_api::gateway::{Rate, Rates, SessionLimits},
    ids::DeviceName,
    limits::{UPLINK_DEVICES, UPLINK_GAP_MIN},
};

use super::settings::RateTexts;

/// Parts a span of time is counted in.
const SLOTS: usize = 10;

/// How fast messages may go.
#[derive(Debug)]
pub(super) struct Pace {
    ours: Rates,
    told: Option<(Rates, Rates)>,
    messages: Budget,
    telemetry: TelemetryBudget,
    each_device: BTreeMap<DeviceName, TelemetryBudget>,
    /// Time between two messages, for a hub that has shown it wants fewer.
    gap: Duration,
    last: Option<Mono>,
}

/// Messages of telemetry and the values in them.
#[derive(Clone, Debug)]
struct TelemetryBudget {
    messages: Budget,
    points: Budget,
}

/// What may still be sent, by every rate there is for it.
#[derive(Clone, Debug)]
struct Budget(Vec<Window>);

/// One rate, and what was sent of late.
#[derive(Clone, Debug)]
struct Window {
    limit: u32,
    slot_us: u64,
    /// One slot more than the span has, so that the slots together always cover it.
    counts: [u32; SLOTS + 1],
    newest: u64,
}

impl Pace {
    /// The operator's rates; the hub's come later.
    pub(super) fn new(texts: &RateTexts) -> Self {
        let ours = Rates {
            messages: Rate::parse_list(&texts.messages),
            telemetry_messages: Rate::parse_list(&texts.telemetry_messages),
            data_points: Rate::parse_list(&texts.data_points),
        };
        let (messages, telemetry) = (Budget::new([&ours.messages]), TelemetryBudget::new(&[&ours]));
        let (each_device, gap) = (BTreeMap::new(), Duration::ZERO);
        Self { ours, told: None, messages, telemetry, each_device, gap, last: None }
    }

    /// The hub has told its limits; what was sent so far still counts if they are the old ones.
    pub(super) fn learn(&mut self, limits: &SessionLimits) {
        let told = (limits.session.clone(), limits.each_device.clone());
        if self.told.as_ref() == Some(&told) {
            return;
        }
        self.messages = Budget::new([&self.ours.messages, &told.0.messages]);
        self.telemetry = TelemetryBudget::new(&[&self.ours, &told.0]);
        self.each_device.clear();
        self.told = Some(told);
    }

    /// Whether the hub has told its rates, so that it has another reason if it closes the connection. What the operator
    /// says may be a guess.
    pub(super) fn is_known(&self) -> bool {
        self.told.is_some()
    }

    /// When a message that is not telemetry may go.
    pub(super) fn message_ready_at(&mut self, now: Mono) -> Mono {
        self.messages.ready_at(1, now).max(self.quiet_at(self.gap, now))
    }

    /// When a message that is not telemetry may go and half of what is allowed is left for others.
    pub(super) fn spare_message_ready_at(&mut self, now: Mono) -> Mono {
        self.messages.spare_at(now).max(self.quiet_at(self.gap, now))
    }

    /// Whether the hub has shown that it wants less than it has told.
    pub(super) fn is_slowed(&self) -> bool {
        !self.gap.is_zero()
    }

    /// A message that is not telemetry goes; how long nothing had gone before is given back.
    pub(super) fn note_message(&mut self, now: Mono) -> Duration {
        self.messages.take(1, now);
        self.note_sent(now)
    }

    /// When a message of `points` values of `device` may go.
    pub(super) fn telemetry_ready_at(&mut self, device: &DeviceName, points: u32, now: Mono) -> Mono {
        let after_gap = self.quiet_at(self.gap, now);
        let whole = self.telemetry.ready_at(points, now);
        let own = self.device(device).map_or(now, |budget| budget.ready_at(points, now));
        now.max(after_gap).max(whole).max(own)
    }

    /// How many values a message of `device` may carry now.
    pub(super) fn points_room(&mut self, device: &DeviceName, now: Mono) -> u32 {
        let whole = self.telemetry.points.room(now);
        self.device(device).map_or(whole, |budget| budget.points.room(now).min(whole))
    }

    /// A message of `points` values of `device` goes; how long nothing had gone before is given back.
    pub(super) fn note_telemetry(&mut self, device: &DeviceName, points: u32, now: Mono) -> Duration {
        self.telemetry.take(points, now);
        if let Some(budget) = self.device(device) {
            budget.take(points, now);
        }
        self.note_sent(now)
    }

    fn note_sent(&mut self, now: Mono) -> Duration {
        let quiet = self.last.map_or(Duration::MAX, |last| now.since(last));
        self.last = Some(now);
        quiet
    }

    /// The hub has shown that it wants less, or may have: the gap doubles, up to `most`.
    pub(super) fn slow_down(&mut self, most: Duration) {
        if self.gap < most {
            self.gap = (self.gap * 2).clamp(UPLINK_GAP_MIN, most);
        }
    }

    /// The hub has taken readings: the gap shrinks by an eighth, and is gone when it hardly matters.
    pub(super) fn speed_up(&mut self) {
        self.gap = self.gap * 7 / 8;
        if self.gap < UPLINK_GAP_MIN / 16 {
            self.gap = Duration::ZERO;
        }
    }

    /// When nothing will have gone for `span`.
    pub(super) fn quiet_at(&self, span: Duration, now: Mono) -> Mono {
        self.last.map_or(now, |last| last + span)
    }

    /// The device's own budget, if devices have any.
    fn device(&mut self, name: &DeviceName) -> Option<&mut TelemetryBudget> {
        let (_, rates) = self.told.as_ref()?;
        if rates.telemetry_messages.is_empty() && rates.data_points.is_empty() {
            return None;
        }
        if !self.each_device.contains_key(name) {
            if self.each_device.len() >= UPLINK_DEVICES {
                // Whoever it is loses its memory of at most one span; the hub would close the connection, no more.
                self.each_device.pop_first();
            }
            self.each_device.insert(name.clone(), TelemetryBudget::new(&[rates]));
        }
        self.each_device.get_mut(name)
    }
}

impl TelemetryBudget {
    fn new(rates: &[&Rates]) -> Self {
        Self {
            messages: Budget::new(rates.iter().map(|rates| &rates.telemetry_messages)),
            points: Budget::new(rates.iter().map(|rates| &rates.data_points)),
        }
    }

    fn ready_at(&mut self, points: u32, now: Mono) -> Mono {
        self.messages.ready_at(1, now).max(self.points.ready_at(points, now))
    }

    fn take(&mut self, points: u32, now: Mono) {
        self.messages.take(1, now);
        self.points.take(points, now);
    }
}

impl Budget {
    fn new<'a>(lists: impl IntoIterator<Item = &'a Vec<Rate>>) -> Self {
        Self(lists.into_iter().flatten().map(Window::new).collect())
    }

    fn room(&mut self, now: Mono) -> u32 {
        self.0.iter_mut().map(|window| window.room(now)).min().unwrap_or(u32::MAX)
    }

    fn ready_at(&mut self, count: u32, now: Mono) -> Mono {
        self.0.iter_mut().map(|window| window.ready_at(count, now)).max().unwrap_or(now)
    }

    fn spare_at(&mut self, now: Mono) -> Mono {
        let spare = |window: &mut Window| window.ready_at(window.limit / 2 + 1, now);
        self.0.iter_mut().map(spare).max().unwrap_or(now)
    }

    fn take(&mut self, count: u32, now: Mono) {
        self.0.iter_mut().for_each(|window| window.take(count, now));
    }
}

impl Window {
    /// Four fifths of the rate, since the hub counts when messages arrive, not when they leave.
    fn new(rate: &Rate) -> Self {
        let limit = u32::try_from(u64::from(rate.count) * 4 / 5).unwrap_or(u32::MAX).max(1);
        let span_us = u64::try_from(rate.period.as_micros()).unwrap_or(u64::MAX);
        Self { limit, slot_us: (span_us / SLOTS as u64).max(1), counts: [0; SLOTS + 1], newest: 0 }
    }

    /// What is left now.
    fn room(&mut self, now: Mono) -> u32 {
        self.roll(now);
        self.limit.saturating_sub(self.used())
    }

    /// When `count` may go; what is more than the limit itself, when nothing else has gone for the span.
    fn ready_at(&mut self, count: u32, now: Mono) -> Mono {
        self.roll(now);
        let mut used = self.used();
        if used == 0 || used.saturating_add(count) <= self.limit {
            return now;
        }
        let span = self.counts.len() as u64;
        let oldest = (self.newest + 1).saturating_sub(span);
        for slot in oldest..=self.newest {
            used -= self.counts[(slot % span) as usize];
            if used == 0 || used.saturating_add(count) <= self.limit {
                return Mono((slot + span).saturating_mul(self.slot_us)).max(now);
            }
        }
        now
    }

    fn take(&mut self, count: u32, now: Mono) {
        self.roll(now);
        let slot = (self.newest % self.counts.len() as u64) as usize;
        // Kept small enough that all slots together are still a number.
        self.counts[slot] = self.counts[slot].saturating_add(count).min(u32::MAX / 16);
    }

    fn used(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Forgets the slots that lie more than a span back.
    fn roll(&mut self, now: Mono) {
        let slot = now.0 / self.slot_us;
        let span = self.counts.len() as u64;
        for passed in (self.newest + 1..=slot).take(self.counts.len()) {
            self.counts[(passed % span) as usize] = 0;
        }
        self.newest = self.newest.max(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pump() -> DeviceName {
        DeviceName::parse("pump").expect("valid")
    }

    fn pace(telemetry_messages: &str, data_points: &str) -> Pace {
        let (telemetry_messages, data_points) = (telemetry_messages.to_owned(), data_points.to_owned());
        Pace::new(&RateTexts { messages: String::new(), telemetry_messages, data_points })
    }

    /// When messages of `points` values would go, one after the other, for `span` from the start.
    fn departures(pace: &mut Pace, points: u32, span: Duration) -> Vec<Mono> {
        let (mut now, mut times) = (Mono(0), Vec::new());
        loop {
            let ready = pace.telemetry_ready_at(&pump(), points, now);
            if ready > now {
                now = ready;
                assert!(pace.telemetry_ready_at(&pump(), points, now) <= now, "it is ready when it said");
                continue;
            }
            if now > Mono(0) + span {
                return times;
            }
            pace.note_telemetry(&pump(), points, now);
            times.push(now);
        }
    }

    fn most_in_any(span: Duration, times: &[Mono]) -> usize {
        let within =
            |start: &Mono| times.iter().filter(|time| *time >= start && **time <= *start + span).count();
        times.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn in_no_span_do_more_than_four_fifths_go_and_nearly_that_many_do() {
        let times = departures(&mut pace("20:1,600:60", ""), 1, SECOND * 300);
        assert!(most_in_any(SECOND, &times) <= 16);
        assert!(most_in_any(SECOND * 60, &times) <= 480);
        assert!(times.len() > 300 / 66 * 480, "{} of 2400 went", times.len());
    }

    #[test]
    fn values_are_counted_as_well_as_messages() {
        let times = departures(&mut pace("", "100:1"), 30, SECOND * 20);
        assert!(most_in_any(SECOND, &times) <= 2, "80 values are two messages of 30");
        assert!(times.len() >= 36, "{}", times.len());
    }

    #[test]
    fn a_message_of_more_values_than_the_rate_allows_goes_alone() {
        let times = departures(&mut pace("", "10:1"), 50, SECOND * 20);
        assert!(most_in_any(SECOND, &times) == 1);
        assert!(times.len() >= 18, "it goes at all: {}", times.len());
    }

    #[test]
    fn the_hubs_rates_hold_beside_the_operators_and_each_device_has_its_own() {
        let mut pace = pace("1000:1", "");
        assert!(!pace.is_known(), "the operator may have guessed");
        let answer = br#"{"rateLimits":{"telemetryMessages":"5:10"},"gatewayRateLimits":{"telemetryMessages":"10:10"}}"#;
        pace.learn(&SessionLimits::parse(answer).expect("an answer"));
        let hall = DeviceName::parse("hall").expect("valid");
        for _ in 0..4 {
            pace.note_telemetry(&pump(), 1, Mono(0));
        }
        assert!(pace.telemetry_ready_at(&pump(), 1, Mono(0)) > Mono(0), "the pump has had its four");
        assert_eq!(pace.telemetry_ready_at(&hall, 1, Mono(0)), Mono(0));
        for _ in 0..4 {
            pace.note_telemetry(&hall, 1, Mono(0));
        }
        let third = DeviceName::parse("third").expect("valid");
        assert!(pace.telemetry_ready_at(&third, 1, Mono(0)) > Mono(0), "the gateway has had its eight");
        pace.learn(&SessionLimits::parse(answer).expect("an answer"));
        assert!(pace.telemetry_ready_at(&third, 1, Mono(0)) > Mono(0), "the same answer changes nothing");
    }

    #[test]
    fn a_hub_that_closes_gets_less_and_one_that_takes_gets_more_again() {
        let mut pace = pace("", "");
        assert!(!pace.is_known());
        pace.note_telemetry(&pump(), 1, Mono(0));
        pace.slow_down(SECOND * 10);
        let first = pace.telemetry_ready_at(&pump(), 1, Mono(0));
        assert_eq!(first, Mono(0) + UPLINK_GAP_MIN);
        (0..10).for_each(|_| pace.slow_down(SECOND * 10));
        assert_eq!(pace.telemetry_ready_at(&pump(), 1, Mono(0)), Mono(0) + SECOND * 10);
        (0..100).for_each(|_| pace.speed_up());
        assert_eq!(pace.telemetry_ready_at(&pump(), 1, Mono(0)), Mono(0));
    }

    #[test]
    fn a_gap_already_longer_stays() {
        let mut pace = pace("", "");
        (0..10).for_each(|_| pace.slow_down(SECOND * 60));
        pace.slow_down(SECOND * 10);
        pace.note_telemetry(&pump(), 1, Mono(0));
        assert_eq!(pace.telemetry_ready_at(&pump(), 1, Mono(0)), Mono(0) + SECOND * 60);
    }

    #[test]
    fn messages_that_can_wait_leave_half_of_what_is_allowed() {
        let messages = "10:10".to_owned();
        let mut pace = Pace::new(&RateTexts { messages, ..RateTexts::default() });
        for _ in 0..4 {
            assert_eq!(pace.spare_message_ready_at(Mono(0)), Mono(0));
            pace.note_message(Mono(0));
        }
        assert!(pace.spare_message_ready_at(Mono(0)) > Mono(0));
        assert_eq!(pace.message_ready_at(Mono(0)), Mono(0));
    }

    #[test]
    fn devices_beyond_the_bound_are_forgotten() {
        let mut pace = pace("", "");
        let answer = br#"{"rateLimits":{"telemetryMessages":"5:10"},"gatewayRateLimits":{}}"#;
        pace.learn(&SessionLimits::parse(answer).expect("an answer"));
        for number in 0..UPLINK_DEVICES + 10 {
            let device = DeviceName::parse(&format!("d{number}")).expect("valid");
            pace.note_telemetry(&device, 1, Mono(0));
        }
        assert_eq!(pace.each_device.len(), UPLINK_DEVICES);
    }
}
