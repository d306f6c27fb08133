//! How forebay is doing, as plain values: what `forebay status` shows and `$SYS/forebay` tells.
//!
//! Also the document on the control socket. A command may be older or newer than the broker it asks: what is missing in
//! the document is taken as nothing, what is unknown in it is passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long it is told that readings were dropped.
const DROPPED_MATTERS_S: u64 = 86_400;

/// How forebay is doing. Spans end in `_s` (seconds) and `_us` (microseconds).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Whether nobody needs to do anything.
    pub well: bool,
    /// What is wrong, if it is not.
    pub troubles: Vec<Trouble>,
    /// Of the program that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since it was started.
    pub uptime_s: u64,
    /// Whether times can be trusted.
    pub clock: ClockReport,
    /// Why the certificate on disk is not in force, if it was to be taken over and could not be.
    pub certificate_error: Option<String>,
    /// What is on disk.
    pub store: StoreReport,
    /// Readings given up before the hub had them, since the journal was made, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The way to the hub for everybody; `None` if there is none.
    pub uplink: Option<UplinkReport>,
    /// The ways of devices that are forwarded as themselves; `None` if none is to be.
    pub uplink_devices: Option<DeviceUplinksReport>,
    /// Devices the hub was asked about; `None` if it is not asked.
    pub learning: Option<LearningReport>,
    /// Who is connected.
    pub clients: ClientsReport,
    /// What was received and sent.
    pub messages: MessagesReport,
}

/// Something a person should know of, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trouble {
    /// What is wrong.
    pub what: String,
    /// What to do about it, or what happens if nobody does anything.
    pub advice: String,
}

/// What went wrong last, and how long ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastError {
    /// The words that were logged.
    pub words: String,
    /// How long ago.
    pub ago_s: u64,
}

/// Whether times can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockReport {
    /// Whether the system clock was synchronised in this boot.
    pub synchronised: bool,
    /// Since the machine was started.
    pub boot_s: u64,
}

/// What is on disk, and what it costs to bring it there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// Whether readings are taken.
    pub storing: bool,
    /// Whether there is no room for readings, and none may be dropped for it.
    pub full: bool,
    /// What went wrong last, since the start; it may have been put right.
    pub last_error: Option<LastError>,
    /// Readings on disk, since the start.
    pub readings: u64,
    /// Readings whose commit failed, since the start; nobody was told they are stored.
    pub readings_failed: u64,
    /// Messages with readings refused because there was no room, since the start.
    pub refused_for_room: u64,
    /// Payloads in quarantine.
    pub quarantined: Option<u64>,
    /// Payloads dropped from quarantine, since the start.
    pub quarantine_dropped: u64,
    /// Commits since the start.
    pub commits: u64,
    /// How long half of the commits of the last hour took at most.
    pub commit_p50_us: Option<u64>,
    /// How long 99 of 100 commits of the last hour took at most.
    pub commit_p99_us: Option<u64>,
    /// How long the longest commit of the last hour took.
    pub commit_max_us: Option<u64>,
    /// Bytes the process has given to the storage since the start.
    pub bytes_written: Option<u64>,
    /// The same for each reading stored.
    pub bytes_written_per_reading: Option<u64>,
    /// Size of `buffer.db`.
    pub buffer_bytes: Option<u64>,
    /// How long ago readings were last dropped for want of room or for their age that the hub does not have, if any were
    /// since the start.
    pub dropped_ago_s: Option<u64>,
    /// Size of its log, `buffer.db-wal`.
    pub wal_bytes: Option<u64>,
}

/// The way to the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkReport {
    /// What it is doing, in words.
    pub state: String,
    /// Whether the hub has let us in.
    pub connected: bool,
    /// Since when it has, or has not; `None` if there is no uplink running.
    pub since_s: Option<u64>,
    /// In how long it is tried again, while that is waited for.
    pub next_attempt_s: Option<u64>,
    /// How long ago the hub last took readings; `None` if it has not since the start.
    pub last_upload_s: Option<u64>,
    /// Something only a person can put right.
    pub alarm: Option<String>,
    /// What went wrong last, since the start.
    pub last_error: Option<LastError>,
    /// Readings on disk that the hub does not have.
    pub backlog: u64,
    /// Their bytes, estimated.
    pub backlog_bytes: Option<u64>,
    /// How long ago the oldest of them was taken.
    pub oldest_s: Option<u64>,
    /// Readings the hub has acknowledged in the last minute.
    pub per_minute: u64,
    /// How long the backlog will last at this rate; `None` if it does not shrink.
    pub drains_in_s: Option<u64>,
    /// Readings sent and not acknowledged yet.
    pub in_flight: u64,
    /// Readings the hub has acknowledged, since the start.
    pub uploaded: u64,
    /// Readings the hub does not take, since the start.
    pub rejected: u64,
    /// Readings a broker has taken although nobody is subscribed to them there, since the start.
    pub unheard: u64,
    /// How many devices' last readings were so, as far as they are counted.
    pub unheard_devices: u64,
    /// The first few of those.
    pub unheard_names: Vec<String>,
    /// Messages of the hub for devices, since the start.
    pub downlinks: u64,
    /// Those that came to no device: it was not there, had not subscribed, or the message made no sense.
    pub downlinks_undelivered: u64,
    /// Answers of devices to commands that the hub has acknowledged, since the start.
    pub rpc_answers: u64,
    /// Answers that could not go to the hub.
    pub rpc_answers_lost: u64,
    /// Bytes given to the connection, since the start.
    pub bytes_sent: u64,
    /// Connections the hub has let in, since the start.
    pub connections: u64,
}

/// What came of asking the hub about tokens nobody here has, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LearningReport {
    /// Devices enrolled because the hub knows their tokens.
    pub learned: u64,
    /// Tokens the hub does not know either.
    pub rejected: u64,
    /// Trials without a verdict; the devices were asked to come again.
    pub undecided: u64,
}

/// The uplinks of devices that are forwarded as themselves, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceUplinksReport {
    /// Devices with an uplink of their own.
    pub devices: u64,
    /// Those of them that the hub has let in.
    pub connected: u64,
    /// Those that are on their way, or wait before the next attempt.
    pub waiting: u64,
    /// Those that the hub refuses, or takes nothing of.
    pub refused: u64,
    /// The first few of those.
    pub refused_names: Vec<String>,
    /// Devices that have none because there would be too many connections.
    pub over: u64,
    /// Devices that have none because their token is not kept, and that nobody else forwards.
    pub without_token: u64,
    /// The first few of those.
    pub without_token_names: Vec<String>,
    /// Why it cannot be told who is forwarded so.
    pub alarm: Option<String>,
    /// What went wrong last with one that is on its way.
    pub last_error: Option<LastError>,
    /// Some of those that need somebody, the worst first: refused, without a connection for the longest, falling behind.
    pub worst: Vec<DeviceUplinkReport>,
    /// Readings of theirs on disk that the hub does not have; at most, for the journal is not searched for it.
    pub backlog: u64,
    /// Their bytes, estimated.
    pub backlog_bytes: Option<u64>,
    /// How long ago the oldest of them was taken.
    pub oldest_s: Option<u64>,
    /// Readings the hub has acknowledged in the last minute.
    pub per_minute: u64,
    /// How long the backlog will last at this rate; `None` if it does not shrink.
    pub drains_in_s: Option<u64>,
    /// Readings sent and not acknowledged yet.
    pub in_flight: u64,
    /// Readings the hub has acknowledged, since these uplinks began.
    pub uploaded: u64,
    /// Readings the hub does not take, since these uplinks began.
    pub rejected: u64,
    /// Bytes given to the connections, since these uplinks began.
    pub bytes_sent: u64,
    /// Connections the hub has let in, since these uplinks began.
    pub connections: u64,
}

/// The uplink of one device that is forwarded as itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceUplinkReport {
    /// The device.
    pub device: String,
    /// What it is doing, in words.
    pub state: String,
    /// Whether the hub has let it in.
    pub connected: bool,
    /// Since when it has, or has not.
    pub since_s: Option<u64>,
    /// In how long it is tried again, while that is waited for.
    pub next_attempt_s: Option<u64>,
    /// How long ago the hub last took readings of it; `None` if it has not since the start.
    pub last_upload_s: Option<u64>,
    /// What went wrong last, since the start.
    pub last_error: Option<LastError>,
    /// Readings of it that the hub does not have; at most.
    pub backlog: u64,
}

/// Who is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientsReport {
    /// Devices and local clients in the registry.
    pub registered: u64,
    /// Connections, those included that were not let in yet.
    pub connections: u64,
    /// Clients that were let in.
    pub connected: u64,
    /// Most of them at once, since the start.
    pub connected_max: u64,
    /// Sessions that wait for their client.
    pub offline: u64,
    /// CONNECTs refused, since the start.
    pub refused: u64,
    /// Connections ended for something the peer did wrong, since the start.
    pub faulted: u64,
}

/// What was received and sent, since the start, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessagesReport {
    /// Messages published by devices and clients.
    pub received: u64,
    /// Messages sent to subscribers.
    pub sent: u64,
    /// Messages dropped because a subscriber did not keep up, or takes none of their size.
    pub dropped: u64,
    /// Messages whose time was over.
    pub expired: u64,
    /// Messages that wait for subscribers.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Topics with a retained message.
    pub retained: u64,
    /// Bytes of retained messages.
    pub retained_bytes: u64,
    /// Subscriptions.
    pub subscriptions: u64,
}

impl Report {
    /// The same with a judgement: whether all is well, and if not, why.
    pub fn judged(mut self) -> Self {
        self.troubles = self.troubles();
        self.well = self.troubles.is_empty();
        self
    }

    /// Every value with a name of its own, `store/commits` for one; a list is one text.
    pub fn values(&self) -> Vec<(String, String)> {
        let mut values = Vec::new();
        flatten("", serde_json::to_value(self).unwrap_or_default(), &mut values);
        values
    }

    /// Most important first.
    fn troubles(&self) -> Vec<Trouble> {
        let everybodys = self.uplink.as_ref().and_then(UplinkReport::trouble);
        let devices = self.uplink_devices.iter().flat_map(DeviceUplinksReport::troubles);
        let store = self.store.trouble().into_iter().chain(self.dropped());
        store.chain(self.certificate()).chain(everybodys).chain(devices).collect()
    }

    /// Without a hub to send them to, old readings make room as they are meant to.
    fn dropped(&self) -> Option<Trouble> {
        let has_hub = self.uplink.is_some() || self.uplink_devices.is_some();
        let ago_s = self.store.dropped_ago_s.filter(|ago_s| has_hub && *ago_s < DROPPED_MATTERS_S)?;
        Some(Trouble {
            what: format!("readings were dropped that the hub does not have, last {} min ago", ago_s / 60),
            advice: "bring the hub back, or let `max_bytes` or `max_age` of [storage] allow more; this is told for a day"
                .to_owned(),
        })
    }

    fn certificate(&self) -> Option<Trouble> {
        self.certificate_error.as_ref().map(|words| Trouble {
            what: format!("the new certificate is not in force: {words}"),
            advice:
                "the one loaded before still is; put it right, then send SIGHUP (`systemctl reload forebay`)"
                    .to_owned(),
        })
    }
}

impl StoreReport {
    fn trouble(&self) -> Option<Trouble> {
        if self.storing {
            return self.full.then(|| Trouble {
                what: "there is no room for more readings: publishers are refused".to_owned(),
                advice: "make room on the card, let [storage] in the configuration take more of it, or let its policy \
                         drop the oldest readings"
                    .to_owned(),
            });
        }
        let words = self.last_error.as_ref().map_or("the reason is in the log", |error| &error.words);
        Some(Trouble {
            what: format!("readings are not stored: {words}"),
            advice: "nothing is acknowledged meanwhile, so devices keep their readings; it is tried again every few \
                     seconds and needs no restart once the cause is gone"
                .to_owned(),
        })
    }
}

impl UplinkReport {
    fn trouble(&self) -> Option<Trouble> {
        if let Some(alarm) = &self.alarm {
            let advice = format!("{} readings wait on the gateway until it is put right", self.backlog);
            return Some(Trouble { what: format!("the uplink needs somebody: {alarm}"), advice });
        }
        // Without an error it is only on its way.
        if let Some(error) = self.last_error.as_ref().filter(|_| !self.connected) {
            return Some(Trouble {
                what: format!("the hub cannot be reached: {}", error.words),
                advice: format!("{} readings wait on the gateway; it is tried again and again", self.backlog),
            });
        }
        (self.unheard_devices > 0).then(|| Trouble {
            what: format!(
                "the broker takes the readings, but nobody is subscribed to them there: {}",
                named(&self.unheard_names, self.unheard_devices)
            ),
            advice: "what it has taken counts as sent and may be lost there; does somebody have to subscribe, or is \
                     `topic` not the right one?"
                .to_owned(),
        })
    }
}

impl DeviceUplinksReport {
    fn troubles(&self) -> Vec<Trouble> {
        let alarm = self.alarm.as_ref().map(|alarm| Trouble {
            what: format!("it cannot be told which devices are forwarded as themselves: {alarm}"),
            advice: "those that are stay so; it is tried again every second".to_owned(),
        });
        let refused = (self.refused > 0).then(|| Trouble {
            what: format!(
                "the hub refuses {} of {} devices: {}",
                self.refused,
                self.devices,
                named(&self.refused_names, self.refused)
            ),
            advice: "their readings wait on the gateway; give each the token it has at the hub, with `forebay device \
                     set-token NAME`"
                .to_owned(),
        });
        let without_token = (self.without_token > 0).then(|| Trouble {
            what: format!(
                "{} devices are not forwarded, for their tokens are not kept: {}",
                self.without_token,
                named(&self.without_token_names, self.without_token)
            ),
            advice:
                "their readings wait on the gateway; give each its token with `forebay device forward NAME \
                     --as-itself`, or say that they stay here with `--by-gateway`"
                    .to_owned(),
        });
        let over = (self.over > 0).then(|| Trouble {
            what: format!(
                "{} devices are not forwarded as themselves, there would be too many connections",
                self.over
            ),
            advice: "`uplink_connections` in [limits] says how many there may be".to_owned(),
        });
        [alarm, self.lost(), refused, without_token, over].into_iter().flatten().collect()
    }

    /// Without an error they are only on their way.
    fn lost(&self) -> Option<Trouble> {
        let LastError { words, .. } = self.last_error.as_ref().filter(|_| self.waiting > 0)?;
        let what = match self.connected {
            0 => format!("the hub cannot be reached: {words}"),
            _ => {
                format!("{} of {} devices have no connection to the hub: {words}", self.waiting, self.devices)
            }
        };
        let advice =
            format!("up to {} readings wait on the gateway; it is tried again and again", self.backlog);
        Some(Trouble { what, advice })
    }
}

/// `what`, a noun, in its plural unless there is one of it.
pub fn plural(count: u64, what: &str) -> String {
    if count == 1 { what.to_owned() } else { format!("{what}s") }
}

/// `names`, and how many more there are.
fn named(names: &[String], count: u64) -> String {
    let more = count.saturating_sub(names.len() as u64);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

fn flatten(name: &str, value: Value, values: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member } else { format!("{name}/{member}") };
                flatten(&name, value, values);
            }
        }
        Value::String(text) => values.push((name.to_owned(), text)),
        value => values.push((name.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storing() -> Report {
        Report { store: StoreReport { storing: true, ..Default::default() }, ..Default::default() }
    }

    fn error(words: &str) -> Option<LastError> {
        Some(LastError { words: words.to_owned(), ago_s: 5 })
    }

    fn with_uplink(uplink: UplinkReport) -> Report {
        Report { uplink: Some(uplink), ..storing() }.judged()
    }

    #[test]
    fn a_broker_that_stores_and_has_no_uplink_is_well() {
        let report = storing().judged();
        assert!(report.well && report.troubles.is_empty());
    }

    #[test]
    fn a_full_store_is_a_trouble_though_it_stores() {
        let mut report = storing();
        report.store.full = true;
        assert!(report.judged().troubles[0].what.starts_with("there is no room"));
    }

    #[test]
    fn dropped_readings_are_a_trouble_for_a_day_if_a_hub_was_to_have_them() {
        let mut report = storing();
        report.store.dropped_ago_s = Some(120);
        assert!(report.clone().judged().well, "no hub");
        report.uplink = Some(UplinkReport { connected: true, ..Default::default() });
        assert!(report.clone().judged().troubles[0].what.starts_with("readings were dropped"));
        report.store.dropped_ago_s = Some(DROPPED_MATTERS_S);
        assert!(report.judged().well);
    }

    #[test]
    fn a_certificate_that_could_not_be_taken_over_is_a_trouble() {
        let report = Report { certificate_error: Some("no PEM".to_owned()), ..storing() }.judged();
        assert!(report.troubles[0].what.ends_with("no PEM"));
    }

    #[test]
    fn an_error_that_is_over_is_no_trouble() {
        let mut report = storing();
        report.store.last_error = error("disk full");
        assert!(report.judged().well);
    }

    #[test]
    fn a_store_that_takes_nothing_comes_first_with_its_words() {
        let mut report = with_uplink(UplinkReport { alarm: Some("token".to_owned()), ..Default::default() });
        report.store = StoreReport { last_error: error("disk full"), ..Default::default() };
        let report = report.judged();
        assert!(!report.well);
        assert_eq!(report.troubles.len(), 2);
        assert_eq!(report.troubles[0].what, "readings are not stored: disk full");
    }

    #[test]
    fn an_uplink_is_a_trouble_once_it_has_failed_and_until_it_is_let_in() {
        let lost = UplinkReport { last_error: error("no route"), backlog: 7, ..Default::default() };
        let trouble = &with_uplink(lost.clone()).troubles[0];
        assert_eq!(trouble.what, "the hub cannot be reached: no route");
        assert!(trouble.advice.starts_with("7 readings wait"));
        assert!(with_uplink(UplinkReport { connected: true, ..lost }).well);
        assert!(with_uplink(UplinkReport::default()).well, "it has only begun");
        let alarm = Some("the hub refuses the token".to_owned());
        assert!(!with_uplink(UplinkReport { connected: true, alarm, ..Default::default() }).well);
    }

    #[test]
    fn a_broker_where_nobody_is_subscribed_is_a_trouble() {
        let names = vec!["pump".to_owned()];
        let unheard =
            UplinkReport { connected: true, unheard_devices: 3, unheard_names: names, ..Default::default() };
        let what = &with_uplink(unheard).troubles[0].what;
        assert!(what.ends_with("nobody is subscribed to them there: pump and 2 more"), "{what}");
    }

    fn with_devices(devices: DeviceUplinksReport) -> Report {
        Report { uplink_devices: Some(devices), ..storing() }.judged()
    }

    #[test]
    fn devices_the_hub_refuses_are_a_trouble_with_their_names() {
        let names = || ["fan", "pump"].map(str::to_owned).to_vec();
        let some = DeviceUplinksReport {
            devices: 9,
            connected: 7,
            refused: 2,
            refused_names: names(),
            ..Default::default()
        };
        let what = |devices| {
            with_devices(devices).troubles.into_iter().map(|trouble| trouble.what).collect::<Vec<_>>()
        };
        assert_eq!(what(some.clone()), ["the hub refuses 2 of 9 devices: fan, pump"]);
        assert_eq!(
            what(DeviceUplinksReport { refused: 5, ..some.clone() }),
            ["the hub refuses 5 of 9 devices: fan, pump and 3 more"]
        );
        let unkept =
            DeviceUplinksReport { without_token: 2, without_token_names: names(), ..Default::default() };
        assert_eq!(what(unkept), ["2 devices are not forwarded, for their tokens are not kept: fan, pump"]);
        assert_eq!(what(DeviceUplinksReport { over: 3, ..Default::default() }).len(), 1);
        let alarm = Some("no file".to_owned());
        assert_eq!(what(DeviceUplinksReport { alarm, ..some }).len(), 2);
    }

    #[test]
    fn devices_on_their_way_are_a_trouble_once_one_has_failed() {
        let lost = DeviceUplinksReport { devices: 3, waiting: 3, backlog: 7, ..Default::default() };
        assert!(with_devices(lost.clone()).well, "they have only begun");
        let lost = DeviceUplinksReport { last_error: error("no route"), ..lost };
        let trouble = &with_devices(lost.clone()).troubles[0];
        assert_eq!(trouble.what, "the hub cannot be reached: no route");
        assert!(trouble.advice.starts_with("up to 7 readings wait"));
        let some = DeviceUplinksReport { connected: 2, waiting: 1, ..lost.clone() };
        assert_eq!(
            with_devices(some).troubles[0].what,
            "1 of 3 devices have no connection to the hub: no route"
        );
        assert!(with_devices(DeviceUplinksReport { connected: 3, waiting: 0, ..lost }).well);
    }

    #[test]
    fn the_document_of_another_version_is_understood_as_far_as_it_goes() {
        let report = with_uplink(UplinkReport { last_error: error("x"), ..Default::default() });
        let text = serde_json::to_string(&report).expect("written");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("read"), report);
        let other = r#"{"well":true,"version":"9","news":[1],"store":{"storing":true,"x":{}},"uplink":null}"#;
        let read: Report = serde_json::from_str(other).expect("read");
        assert!(read.well && read.store.storing && read.uplink.is_none());
        assert_eq!(read.clients, ClientsReport::default());
    }

    #[test]
    fn every_value_has_a_name_and_what_is_not_known_has_none() {
        let mut report = storing().judged();
        report.version = "1.2".to_owned();
        report.dropped.insert("too_old".to_owned(), 3);
        report.store.wal_bytes = Some(9);
        let values = report.values();
        let value =
            |name: &str| values.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        assert_eq!(value("well"), Some("true"));
        assert_eq!(value("version"), Some("1.2"));
        assert_eq!(value("troubles"), Some("[]"));
        assert_eq!(value("dropped/too_old"), Some("3"));
        assert_eq!(value("store/wal_bytes"), Some("9"));
        assert_eq!(value("store/buffer_bytes"), None);
        assert_eq!(value("uplink"), None);
    }
}
