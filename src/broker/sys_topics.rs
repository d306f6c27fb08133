//! The topics in which the broker tells of itself: `$SYS/broker`, as brokers have come to name them, and
//! `$SYS/forebay`, with what `forebay status` shows.
//!
//! Values are gathered only while somebody listens: every ten seconds, and at once for the first. Whoever subscribes is
//! sent the latest of each with RETAIN, as if they were retained; later only what has changed.
//!
//! ```text
//!              a subscriber           values come               nobody listens any more
//!     Asleep ──────────────> Wanted ─────────────> Telling ────────────────────────────> Asleep
//!                               ^                     │
//!                               └──── 10 s ───────────┘
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    clock::Mono,
    limits::SYS_TOPICS_MAX,
    mqtt::{QoS, TopicFilter, TopicName},
    session::Message,
};

use super::{Counters, Gauges};

/// The first level of all topics in which the broker tells of itself.
const ROOT: &str = "$SYS";
const BROKER: &str = "$SYS/broker";
/// Where the values of the report stand.
const FOREBAY: &str = "$SYS/forebay";
/// What a shared subscription begins with.
const SHARE: &str = "$share/";

/// From one look at the values to the next.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The latest values, and whether they are wanted.
#[derive(Debug)]
pub struct SysTopics {
    started: Mono,
    stage: Stage,
    current: BTreeMap<String, Arc<Message>>,
    loads: Loads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody listens.
    Asleep,
    /// New values are due; if they are not the first, those of the last time are still there.
    Wanted { is_first: bool },
    /// The values are of at most [`INTERVAL`] ago.
    Telling,
}

/// Whether `filter` asks for what the broker tells of itself, alone or for a group.
pub fn is_sys_filter(filter: &str) -> bool {
    let plain =
        filter.strip_prefix(SHARE).and_then(|share| share.split_once('/')).map_or(filter, |(_, plain)| plain);
    plain.split('/').next() == Some(ROOT)
}

impl SysTopics {
    /// Nobody listens yet to a broker `started` then.
    pub fn new(started: Mono) -> Self {
        Self { started, stage: Stage::Asleep, current: BTreeMap::new(), loads: Loads::default() }
    }

    /// Somebody subscribed to `filter`.
    pub fn note_subscribed(&mut self, filter: &str) {
        if is_sys_filter(filter) {
            self.wake();
        }
    }

    /// Somebody listens from now on; gives back whether the latest values are there for them.
    pub fn wake(&mut self) -> bool {
        if self.stage == Stage::Asleep {
            self.stage = Stage::Wanted { is_first: true };
        }
        self.stage != Stage::Wanted { is_first: true }
    }

    /// New values are due, or nobody listens any more.
    pub fn handle_interval(&mut self, somebody_listens: bool) {
        if somebody_listens {
            self.stage = match self.stage {
                Stage::Asleep => Stage::Wanted { is_first: true },
                Stage::Telling => Stage::Wanted { is_first: false },
                wanted @ Stage::Wanted { .. } => wanted,
            };
        } else {
            self.stage = Stage::Asleep;
            self.current.clear();
            self.loads = Loads::default();
        }
    }

    /// Whether [`SysTopics::handle_values`] is to be called.
    pub fn wants_values(&self) -> bool {
        matches!(self.stage, Stage::Wanted { .. })
    }

    /// Takes over new values, `reported` being those of the report; gives back what is to be told to those who listen:
    /// messages for what has changed, none if these are the first.
    pub fn handle_values(
        &mut self,
        counters: &Counters,
        gauges: &Gauges,
        reported: Vec<(String, String)>,
        now: Mono,
    ) -> Vec<Arc<Message>> {
        let is_first = self.stage == (Stage::Wanted { is_first: true });
        self.stage = Stage::Telling;
        self.loads.sample(counters, now);
        let mut values = broker_values(counters, gauges, now.since(self.started), &self.loads);
        values.extend(reported.into_iter().map(|(name, value)| (format!("{FOREBAY}/{name}"), value)));
        values.truncate(SYS_TOPICS_MAX);
        let changed = self.replace(values);
        if is_first { Vec::new() } else { changed }
    }

    /// The latest messages that `filter` asks for.
    pub fn for_each_match(&self, filter: TopicFilter<'_>, mut found: impl FnMut(&Arc<Message>)) {
        self.current.values().filter(|message| filter.matches(message.topic())).for_each(&mut found);
    }

    /// Messages for what has changed; one without payload for what is no more, as for a retained message that is cleared.
    fn replace(&mut self, values: Vec<(String, String)>) -> Vec<Arc<Message>> {
        let mut before = std::mem::take(&mut self.current);
        let mut changed = Vec::new();
        for (topic, value) in values {
            let old = before.remove(&topic);
            let message = match old {
                Some(old) if old.payload() == value.as_bytes() => old,
                _ => {
                    let Some(message) = message(&topic, &value) else { continue };
                    changed.push(Arc::clone(&message));
                    message
                }
            };
            self.current.insert(topic, message);
        }
        changed.extend(before.keys().filter_map(|topic| message(topic, "")));
        changed
    }
}

fn message(topic: &str, value: &str) -> Option<Arc<Message>> {
    let topic = TopicName::parse(topic).ok()?;
    let mut message = Message::new(topic, value.as_bytes(), QoS::AtMostOnce);
    message.retain = true;
    Some(Arc::new(message))
}

/// What mosquitto's users look for, under the names it gives them.
fn broker_values(
    counters: &Counters,
    gauges: &Gauges,
    uptime: Duration,
    loads: &Loads,
) -> Vec<(String, String)> {
    let connected = gauges.clients_connected;
    let numbers = [
        ("clients/total", connected + gauges.sessions_offline),
        ("clients/connected", connected),
        ("clients/disconnected", gauges.sessions_offline),
        ("clients/maximum", counters.clients_connected_max),
        ("messages/received", counters.packets_received),
        ("messages/sent", counters.packets_sent),
        ("publish/messages/received", counters.publishes_received),
        ("publish/messages/sent", counters.messages_sent),
        ("publish/messages/dropped", counters.messages_dropped),
        ("bytes/received", counters.bytes_received),
        ("bytes/sent", counters.bytes_sent),
        ("subscriptions/count", gauges.subscriptions),
        ("retained messages/count", gauges.retained_messages),
        ("store/messages/count", gauges.retained_messages + gauges.waiting_messages),
        ("store/messages/bytes", gauges.retained_bytes + gauges.waiting_bytes),
    ];
    let mut values = vec![
        (format!("{BROKER}/version"), format!("forebay version {}", env!("CARGO_PKG_VERSION"))),
        (format!("{BROKER}/uptime"), format!("{} seconds", uptime.as_secs())),
    ];
    values.extend(numbers.map(|(name, number)| (format!("{BROKER}/{name}"), number.to_string())));
    values.extend(loads.values());
    values
}

/// Moving averages of what happens in a minute.
#[derive(Debug, Default)]
struct Loads {
    /// When the counters were looked at last, and what they said.
    last: Option<(Mono, [u64; LOADS.len()])>,
    /// By load and by span; `None` until an interval has passed.
    averages: Option<[[f64; SPANS.len()]; LOADS.len()]>,
}

/// The counters of which there is an average, as they are called.
const LOADS: [&str; 8] = [
    "messages/received",
    "messages/sent",
    "publish/received",
    "publish/sent",
    "publish/dropped",
    "bytes/received",
    "bytes/sent",
    "connections",
];

/// What is averaged over, in seconds.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

impl Loads {
    fn sample(&mut self, counters: &Counters, now: Mono) {
        let counts = [
            counters.packets_received,
            counters.packets_sent,
            counters.publishes_received,
            counters.messages_sent,
            counters.messages_dropped,
            counters.bytes_received,
            counters.bytes_sent,
            counters.clients_admitted,
        ];
        let last = self.last.replace((now, counts));
        let Some((then, before)) = last.filter(|(then, _)| *then < now) else { return };
        let seconds = now.since(then).as_secs_f64();
        let rate = |load: usize| counts[load].saturating_sub(before[load]) as f64 * 60.0 / seconds;
        // The first interval stands for the time before it, of which nothing is known.
        let mut averages = self.averages.unwrap_or(std::array::from_fn(|load| [rate(load); SPANS.len()]));
        for (load, averages) in averages.iter_mut().enumerate() {
            for (average, (_, span)) in averages.iter_mut().zip(SPANS) {
                let keeps = (-seconds / span).exp();
                *average = rate(load) + keeps * (*average - rate(load));
            }
        }
        self.averages = Some(averages);
    }

    fn values(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.averages.iter().flat_map(|averages| {
            LOADS.iter().zip(averages).flat_map(|(load, averages)| {
                SPANS.iter().zip(averages).map(move |((span, _), average)| {
                    (format!("{BROKER}/load/{load}/{span}"), format!("{average:.2}"))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(0) + Duration::from_secs(seconds)
    }

    fn told(
        topics: &mut SysTopics,
        counters: &Counters,
        reported: &[(&str, &str)],
        now: Mono,
    ) -> Vec<String> {
        let reported =
            reported.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert!(topics.wants_values());
        let messages = topics.handle_values(counters, &Gauges::default(), reported, now);
        messages.iter().map(|message| shown(message)).collect()
    }

    fn shown(message: &Message) -> String {
        let payload = String::from_utf8_lossy(message.payload());
        format!("{}={payload}", message.topic().as_str())
    }

    fn latest(topics: &SysTopics, filter: &str) -> Vec<String> {
        let mut found = Vec::new();
        let filter = TopicFilter::parse(filter).expect("a filter");
        topics.for_each_match(filter, |message| found.push(shown(message)));
        found
    }

    #[test]
    fn nothing_is_gathered_until_somebody_listens() {
        let mut topics = SysTopics::new(at(0));
        assert!(!topics.wants_values());
        assert!(!topics.wake(), "there is nothing for the first yet");
        assert!(topics.wants_values());
    }

    #[test]
    fn the_first_values_are_told_to_nobody_but_those_who_asked() {
        let mut topics = SysTopics::new(at(0));
        topics.wake();
        assert!(!topics.wake(), "nor for a second before they come");
        assert_eq!(told(&mut topics, &Counters::default(), &[("well", "true")], at(5)), [""; 0]);
        assert_eq!(latest(&topics, "$SYS/forebay/#"), ["$SYS/forebay/well=true"]);
        assert_eq!(latest(&topics, "$SYS/+/uptime"), ["$SYS/broker/uptime=5 seconds"]);
        assert_eq!(latest(&topics, "$SYS/broker/clients/+").len(), 4);
        assert_eq!(latest(&topics, "#"), [""; 0], "[MQTT-4.7.2-1]");
        assert!(topics.wake(), "whoever comes later finds them");
        assert!(!topics.wants_values());
    }

    #[test]
    fn later_only_what_has_changed_is_told_and_what_is_gone_is_cleared() {
        let mut topics = SysTopics::new(at(0));
        topics.wake();
        told(&mut topics, &Counters::default(), &[("a", "1"), ("b", "1")], at(0));
        // The loads are known from here on.
        topics.handle_interval(true);
        told(&mut topics, &Counters::default(), &[("a", "1"), ("b", "1")], at(10));
        topics.handle_interval(true);
        let counters = Counters { clients_connected_max: 3, ..Counters::default() };
        assert_eq!(
            told(&mut topics, &counters, &[("a", "2")], at(20)),
            [
                "$SYS/broker/uptime=20 seconds",
                "$SYS/broker/clients/maximum=3",
                "$SYS/forebay/a=2",
                "$SYS/forebay/b=",
            ]
        );
        assert_eq!(latest(&topics, "$SYS/forebay/#"), ["$SYS/forebay/a=2"]);
    }

    #[test]
    fn once_nobody_listens_everything_is_forgotten() {
        let mut topics = SysTopics::new(at(0));
        topics.wake();
        told(&mut topics, &Counters::default(), &[("a", "1")], at(0));
        topics.handle_interval(false);
        assert!(!topics.wants_values());
        assert_eq!(latest(&topics, "$SYS/#"), [""; 0]);
        assert!(!topics.wake() && topics.wants_values());
    }

    #[test]
    fn loads_are_moving_averages_for_a_minute() {
        let mut topics = SysTopics::new(at(0));
        topics.wake();
        let load =
            |topics: &SysTopics, span: &str| latest(topics, &format!("$SYS/broker/load/bytes/sent/{span}"));
        told(&mut topics, &Counters::default(), &[], at(0));
        assert_eq!(load(&topics, "+"), [""; 0], "nothing is known yet");
        let mut counters = Counters::default();
        for n in 1..=6 {
            counters.bytes_sent += 100;
            topics.handle_interval(true);
            told(&mut topics, &counters, &[], at(10 * n));
        }
        assert_eq!(load(&topics, "1min"), ["$SYS/broker/load/bytes/sent/1min=600.00"]);
        // A minute of silence: the short average falls to a third, the long one hardly.
        topics.handle_interval(true);
        told(&mut topics, &counters, &[], at(120));
        assert_eq!(load(&topics, "1min"), ["$SYS/broker/load/bytes/sent/1min=220.73"]);
        assert_eq!(load(&topics, "15min"), ["$SYS/broker/load/bytes/sent/15min=561.30"]);
    }

    #[test]
    fn a_filter_for_what_the_broker_tells_is_known_alone_and_shared() {
        for filter in ["$SYS", "$SYS/#", "$SYS/broker/uptime", "$share/group/$SYS/#"] {
            assert!(is_sys_filter(filter), "{filter}");
        }
        for filter in ["#", "+/broker", "$SYSTEM/#", "a/$SYS", "$share/$SYS/a", "$share/$SYS"] {
            assert!(!is_sys_filter(filter), "{filter}");
        }
    }

    #[test]
    fn there_is_a_bound_on_topics_and_what_is_no_topic_is_left_out() {
        let mut topics = SysTopics::new(at(0));
        topics.wake();
        let names: Vec<String> = (0..2 * SYS_TOPICS_MAX).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        told(&mut topics, &Counters::default(), &many, at(0));
        assert_eq!(latest(&topics, "$SYS/#").len(), SYS_TOPICS_MAX);
        topics.handle_interval(true);
        told(&mut topics, &Counters::default(), &[("too+wild", "x")], at(10));
        assert_eq!(latest(&topics, "$SYS/forebay/#"), [""; 0]);
    }
}
