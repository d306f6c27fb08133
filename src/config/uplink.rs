//! `[uplink]`: where readings go, whom to trust there, and in which files the secrets are.
//!
//! Holds no secret itself: a configuration is read by more people than a token should be.

use std::{
    fmt::Write as _,
    ops::Range,
    path::{Path, PathBuf},
};

use forebay::{
    device_api::gateway::Rate,
    ids::DeviceName,
    limits::{
        RATE_WINDOWS_MAX, UPLINK_CLOCK_WAIT, UPLINK_FRESH_PERCENT, UPLINK_KEEP_ALIVE_S, UPLINK_PAYLOAD_BYTES,
    },
    mqtt::TopicName,
    net::pin::Pin,
    uplink::{Order, RateTexts},
};
use toml::de::DeTable;

use super::{
    access::{DEVICE_PLACEHOLDER, SOME_DEVICE},
    error::Fault,
    hub_url::HubUrl,
    values::{Located, Value, both, in_file_order, number, path, text, unusable, wrong_kind},
};

/// What `[uplink]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// `url`.
    pub url: HubUrl,
    /// `mode`, with what belongs to it.
    pub mode: ModeConfig,
    /// `learn`: a device unknown here is tried at the hub, and enrolled if that knows it.
    pub learn: bool,
    /// `token_file`: the access token of the gateway; in plain mode it is the user name.
    pub token_file: Option<PathBuf>,
    /// `password_file`, in plain mode.
    pub password_file: Option<PathBuf>,
    /// `ca_file`.
    pub ca_file: Option<PathBuf>,
    /// `client_certificate` and `client_key`.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `pin`.
    pub pin: Option<Pin>,
    /// `client_id`.
    pub client_id: Option<String>,
    /// `order`.
    pub order: Order,
    /// `fresh_share`, in percent.
    pub fresh_share: u8,
    /// `wait_for_clock_s`; 0 for not at all.
    pub wait_for_clock_s: u32,
    /// `payload_bytes`.
    pub payload_bytes: u32,
    /// `keep_alive_s`.
    pub keep_alive_s: u16,
    /// `telemetry_rate`, `values_rate` and `message_rate`.
    pub rates: RateTexts,
}

/// What is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeConfig {
    /// `gateway`: the hub, or another that speaks its gateway API.
    Gateway,
    /// `device`: the hub, which knows each of our devices by its own token.
    Device,
    /// `plain`: any broker.
    Plain {
        /// `topic`; `{device}` stands for the device's name.
        topic: String,
        /// `username`.
        user_name: Option<String>,
    },
}

/// The keys of `[uplink]`.
const KEYS: &str = "url, mode, learn, token_file, ca_file, client_certificate, client_key, pin, topic, username, \
                    password_file, client_id, order, fresh_share, wait_for_clock_s, payload_bytes, keep_alive_s, \
                    telemetry_rate, values_rate and message_rate";
const MODES: &str = "one of \"gateway\", \"device\" and \"plain\"";
const ORDERS: &str = "one of \"fresh-first\" and \"oldest-first\"";
/// Longest client id and user name, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// Longest topic, in bytes.
const TOPIC_BYTES_MAX: usize = 1024;

/// The word of `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    #[default]
    Gateway,
    Device,
    Plain,
}

/// What stands in the table, one by one.
#[derive(Default)]
struct Found {
    url: Option<HubUrl>,
    mode: Word,
    learn: Option<(Range<usize>, bool)>,
    token_file: Option<(Range<usize>, PathBuf)>,
    password_file: Option<(Range<usize>, PathBuf)>,
    ca_file: Option<(Range<usize>, PathBuf)>,
    client_certificate: Option<(Range<usize>, PathBuf)>,
    client_key: Option<(Range<usize>, PathBuf)>,
    pin: Option<(Range<usize>, Pin)>,
    topic: Option<(Range<usize>, String)>,
    user_name: Option<(Range<usize>, String)>,
    client_id: Option<String>,
    order: Order,
    fresh_share: Option<i64>,
    wait_for_clock_s: Option<i64>,
    payload_bytes: Option<i64>,
    keep_alive_s: Option<i64>,
    rates: RateTexts,
}

impl UplinkConfig {
    /// An uplink to `url` with everything else as it is when nothing is said.
    pub fn new(url: HubUrl, mode: ModeConfig) -> Self {
        Self {
            url,
            mode,
            learn: false,
            token_file: None,
            password_file: None,
            ca_file: None,
            client: None,
            pin: None,
            client_id: None,
            order: Order::default(),
            fresh_share: UPLINK_FRESH_PERCENT,
            wait_for_clock_s: UPLINK_CLOCK_WAIT.as_secs() as u32,
            payload_bytes: UPLINK_PAYLOAD_BYTES as u32,
            keep_alive_s: UPLINK_KEEP_ALIVE_S,
            rates: RateTexts::default(),
        }
    }

    /// What is to be said if readings of all devices go to one topic, where nobody can tell whose they are: as it should
    /// be for one device and a receiver with a topic of its own choice, and a mistake for more.
    pub fn mixes_devices(&self) -> Option<&'static str> {
        let ModeConfig::Plain { topic, .. } = &self.mode else { return None };
        (!topic.contains(DEVICE_PLACEHOLDER)).then_some(
            "the uplink's `topic` has no `{device}`: readings of all devices go to one topic, and nothing there tells \
             whose they are",
        )
    }

    /// Reads the table, which begins at `start` of `file`.
    ///
    /// # Errors
    /// The first thing in it that is not allowed, or what is missing.
    pub(super) fn read(file: &Path, start: Range<usize>, table: &DeTable<'_>) -> Located<Self> {
        let mut found = Found::default();
        for (key, value) in in_file_order(table) {
            let name = format!("uplink.{}", key.get_ref());
            let at = key.span();
            match key.get_ref().as_ref() {
                "url" => found.url = Some(url(&name, value)?),
                "mode" => {
                    let words =
                        [("gateway", Word::Gateway), ("device", Word::Device), ("plain", Word::Plain)];
                    found.mode = choice(&name, value, MODES, &words)?;
                }
                "learn" => match value.get_ref().as_bool() {
                    Some(learn) => found.learn = Some((at, learn)),
                    None => return wrong_kind(&name, value, "true or false"),
                },
                "token_file" => found.token_file = Some((at, path(file, &name, value)?)),
                "password_file" => found.password_file = Some((at, path(file, &name, value)?)),
                "ca_file" => found.ca_file = Some((at, path(file, &name, value)?)),
                "client_certificate" => found.client_certificate = Some((at, path(file, &name, value)?)),
                "client_key" => found.client_key = Some((at, path(file, &name, value)?)),
                "pin" => found.pin = Some((at, pin(&name, value)?)),
                "topic" => found.topic = Some((at, topic(&name, value)?)),
                "username" => found.user_name = Some((at, short_text(&name, value)?)),
                "client_id" => found.client_id = Some(short_text(&name, value)?),
                "order" => {
                    let orders = [("fresh-first", Order::FreshBeside), ("oldest-first", Order::OldestFirst)];
                    found.order = choice(&name, value, ORDERS, &orders)?;
                }
                "fresh_share" => found.fresh_share = Some(in_range(&name, value, FRESH_SHARE)?),
                "wait_for_clock_s" => {
                    found.wait_for_clock_s = Some(in_range(&name, value, WAIT_FOR_CLOCK_S)?)
                }
                "payload_bytes" => found.payload_bytes = Some(in_range(&name, value, PAYLOAD_BYTES)?),
                "keep_alive_s" => found.keep_alive_s = Some(in_range(&name, value, KEEP_ALIVE_S)?),
                "telemetry_rate" => found.rates.telemetry_messages = rates(&name, value)?,
                "values_rate" => found.rates.data_points = rates(&name, value)?,
                "message_rate" => found.rates.messages = rates(&name, value)?,
                "token" | "password" => {
                    let words = "a secret has no place in a configuration; put it into a file that only its owner \
                                 may read, and name that in `token_file` or `password_file`";
                    return Err((at, Fault::Unusable { key: name, words: words.to_owned() }));
                }
                _ => return Err((at, Fault::UnknownKey { key: name, allowed: KEYS })),
            }
        }
        found.settle(start)
    }

    /// The table as text, `[uplink]` and all, for a file of its own; what is as it is by default is left out.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String, String> {
        let mut text = String::from("[uplink]\n");
        let mut line = |key: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key} = {}", quoted(value));
        };
        line("url", &self.url.to_string());
        match &self.mode {
            ModeConfig::Gateway => {}
            ModeConfig::Device => line("mode", "device"),
            ModeConfig::Plain { topic, user_name } => {
                line("mode", "plain");
                line("topic", topic);
                if let Some(user_name) = user_name {
                    line("username", user_name);
                }
            }
        }
        let client = |pick: fn(&(PathBuf, PathBuf)) -> &PathBuf| self.client.as_ref().map(pick);
        for (key, path) in [
            ("token_file", self.token_file.as_ref()),
            ("password_file", self.password_file.as_ref()),
            ("ca_file", self.ca_file.as_ref()),
            ("client_certificate", client(|pair| &pair.0)),
            ("client_key", client(|pair| &pair.1)),
        ] {
            if let Some(path) = path {
                line(key, path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?);
            }
        }
        if let Some(pin) = self.pin {
            line("pin", &pin.to_string());
        }
        if let Some(client_id) = &self.client_id {
            line("client_id", client_id);
        }
        if self.order == Order::OldestFirst {
            line("order", "oldest-first");
        }
        if self.learn {
            text.push_str("learn = true\n");
        }
        Ok(text)
    }
}

impl Found {
    fn settle(self, start: Range<usize>) -> Located<UplinkConfig> {
        let missing = |key, words| (start.clone(), Fault::Missing { key, words });
        let Some(url) = self.url else {
            return Err(missing("uplink.url", "where readings go, as mqtts://hub.example"));
        };
        let only_in = |mode: &str, key: &str| Fault::Unusable {
            key: format!("uplink.{key}"),
            words: format!("is for {mode} only"),
        };
        let learn = self.learn.as_ref().is_some_and(|(_, learn)| *learn);
        if let (Word::Plain, Some((span, true))) = (self.mode, self.learn) {
            let words = "only a hub knows devices by their tokens, not mode = \"plain\"".to_owned();
            return Err((span, Fault::Unusable { key: "uplink.learn".to_owned(), words }));
        }
        let mode = if self.mode == Word::Plain {
            let Some((_, topic)) = self.topic else {
                let words = "where readings are published, as \"site/{device}/telemetry\"";
                return Err(missing("uplink.topic", words));
            };
            if let (Some((span, _)), Some(_)) = (&self.user_name, &self.token_file) {
                let words = "`token_file` holds the user name already".to_owned();
                return Err((span.clone(), Fault::Unusable { key: "uplink.username".to_owned(), words }));
            }
            ModeConfig::Plain { topic, user_name: self.user_name.map(|(_, name)| name) }
        } else {
            let places = [
                ("topic", self.topic.map(|(span, _)| span)),
                ("username", self.user_name.map(|(span, _)| span)),
                ("password_file", self.password_file.as_ref().map(|(span, _)| span.clone())),
            ];
            for (key, span) in places {
                if let Some(span) = span {
                    return Err((span, only_in("mode = \"plain\"", key)));
                }
            }
            match (self.mode, &self.token_file) {
                (Word::Device, Some((span, _))) => {
                    let words = "each device has its own token in mode = \"device\"".to_owned();
                    return Err((
                        span.clone(),
                        Fault::Unusable { key: "uplink.token_file".to_owned(), words },
                    ));
                }
                (Word::Device, None) => ModeConfig::Device,
                _ => ModeConfig::Gateway,
            }
        };
        if !url.tls {
            let places = [
                ("ca_file", self.ca_file.as_ref().map(|(span, _)| span)),
                ("client_certificate", self.client_certificate.as_ref().map(|(span, _)| span)),
                ("client_key", self.client_key.as_ref().map(|(span, _)| span)),
                ("pin", self.pin.as_ref().map(|(span, _)| span)),
            ];
            for (key, span) in places {
                if let Some(span) = span {
                    return Err((span.clone(), only_in("mqtts://", key)));
                }
            }
        }
        let keys = ["uplink.client_certificate", "uplink.client_key"];
        let client = both(keys, self.client_certificate, self.client_key)?;
        let defaults = UplinkConfig::new(url, mode);
        Ok(UplinkConfig {
            learn,
            token_file: self.token_file.map(|(_, path)| path),
            password_file: self.password_file.map(|(_, path)| path),
            ca_file: self.ca_file.map(|(_, path)| path),
            client,
            pin: self.pin.map(|(_, pin)| pin),
            client_id: self.client_id,
            order: self.order,
            fresh_share: given(self.fresh_share, defaults.fresh_share),
            wait_for_clock_s: given(self.wait_for_clock_s, defaults.wait_for_clock_s),
            payload_bytes: given(self.payload_bytes, defaults.payload_bytes),
            keep_alive_s: given(self.keep_alive_s, defaults.keep_alive_s),
            rates: self.rates,
            ..defaults
        })
    }
}

/// A number and how its range is told.
type NumberRange = (i64, i64, &'static str);

const FRESH_SHARE: NumberRange = (1, 99, "a whole number from 1 to 99, in percent");
const WAIT_FOR_CLOCK_S: NumberRange = (0, 604_800, "a whole number from 0 to 604800, in seconds");
const PAYLOAD_BYTES: NumberRange = (1024, 1_048_576, "a whole number from 1024 to 1048576, in bytes");
const KEEP_ALIVE_S: NumberRange = (5, 3600, "a whole number from 5 to 3600, in seconds");

fn in_range(key: &str, value: &Value<'_>, (min, max, allowed): NumberRange) -> Located<i64> {
    let number = number(value);
    if (min..=max).contains(&number) { Ok(number) } else { wrong_kind(key, value, allowed) }
}

/// A number that was checked already, or the default.
fn given<T: TryFrom<i64>>(found: Option<i64>, default: T) -> T {
    found.and_then(|number| number.try_into().ok()).unwrap_or(default)
}

fn url(key: &str, value: &Value<'_>) -> Located<HubUrl> {
    match text(key, value)?.parse() {
        Ok(url) => Ok(url),
        Err(error) => unusable(key, value, format!("{error}")),
    }
}

fn rates(key: &str, value: &Value<'_>) -> Located<String> {
    let text = text(key, value)?;
    match Rate::parse_list(&text).len() == text.split(',').count() {
        true => Ok(text),
        false => {
            let words = format!(
                "must be rates as the hub writes them, \"20:1,600:60\" for 20 in one second and 600 in sixty, \
                 {RATE_WINDOWS_MAX} of them at most"
            );
            unusable(key, value, words)
        }
    }
}

fn pin(key: &str, value: &Value<'_>) -> Located<Pin> {
    match text(key, value)?.parse() {
        Ok(pin) => Ok(pin),
        Err(error) => unusable(key, value, format!("{error}")),
    }
}

fn topic(key: &str, value: &Value<'_>) -> Located<String> {
    let text = text(key, value)?;
    match check_topic(&text) {
        Ok(()) => Ok(text),
        Err(words) => unusable(key, value, words),
    }
}

/// Checks that readings can be published on `template` once `{device}` stands for a name.
///
/// # Errors
/// Why they cannot, in words that name it.
pub fn check_topic(template: &str) -> Result<(), String> {
    if template.len() > TOPIC_BYTES_MAX {
        return Err(format!("the topic has more than {TOPIC_BYTES_MAX} bytes"));
    }
    if template.len() + template.matches(DEVICE_PLACEHOLDER).count() * DeviceName::BYTES_MAX
        > usize::from(u16::MAX)
    {
        return Err(format!(
            "with a long name for each `{DEVICE_PLACEHOLDER}` the topic is longer than topics may be"
        ));
    }
    TopicName::parse(&template.replace(DEVICE_PLACEHOLDER, SOME_DEVICE))
        .map(drop)
        .map_err(|error| format!("{template:?} is no topic to publish on: {error}"))
}

fn short_text(key: &str, value: &Value<'_>) -> Located<String> {
    let text = text(key, value)?;
    if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return unusable(key, value, format!("has at most {NAME_BYTES_MAX} bytes and no control characters"));
    }
    Ok(text)
}

fn choice<T: Copy>(key: &str, value: &Value<'_>, allowed: &'static str, choices: &[(&str, T)]) -> Located<T> {
    let word = value.get_ref().as_str();
    match choices.iter().find(|(name, _)| word == Some(*name)) {
        Some((_, choice)) => Ok(*choice),
        None => wrong_kind(key, value, allowed),
    }
}

/// `text` as a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(table: &str) -> Result<UplinkConfig, String> {
        let config = Config::parse(Path::new("/etc/forebay.toml"), &format!("[uplink]\n{table}"));
        config.map(|config| config.uplink.expect("the table")).map_err(|error| error.to_string())
    }

    fn refusal(table: &str) -> String {
        let message = parse(table).expect_err("must be refused");
        message.strip_prefix("/etc/forebay.toml:").expect("the file is named").to_owned()
    }

    fn url(text: &str) -> HubUrl {
        text.parse().expect("a URL")
    }

    #[test]
    fn a_url_is_enough_and_the_rest_has_defaults() {
        let config = parse("url = 'mqtts://hub.example'\n").expect("valid");
        assert_eq!(config, UplinkConfig::new(url("mqtts://hub.example:8883"), ModeConfig::Gateway));
    }

    #[test]
    fn every_key_is_read_and_paths_start_at_the_file() {
        let pin = "ab".repeat(32);
        let config = parse(&format!(
            "url = 'mqtts://hub:1'\nmode = 'plain'\ntopic = 'site/{{device}}/t'\nusername = 'gateway'\n\
             password_file = 'p'\nca_file = 'ca.pem'\nclient_certificate = '/c.pem'\nclient_key = '/c.key'\n\
             pin = '{pin}'\nclient_id = 'one'\norder = 'oldest-first'\nfresh_share = 50\nwait_for_clock_s = 0\n\
             payload_bytes = 2048\nkeep_alive_s = 30\n\
             telemetry_rate = '20:1,600:60'\nvalues_rate = '100:1'\nmessage_rate = '5:1'\n"
        ))
        .expect("valid");
        let topic = "site/{device}/t".to_owned();
        let mode = ModeConfig::Plain { topic, user_name: Some("gateway".to_owned()) };
        let expected = UplinkConfig {
            password_file: Some("/etc/p".into()),
            ca_file: Some("/etc/ca.pem".into()),
            client: Some(("/c.pem".into(), "/c.key".into())),
            pin: Some(pin.parse().expect("a pin")),
            client_id: Some("one".to_owned()),
            order: Order::OldestFirst,
            fresh_share: 50,
            wait_for_clock_s: 0,
            payload_bytes: 2048,
            keep_alive_s: 30,
            rates: RateTexts {
                messages: "5:1".to_owned(),
                telemetry_messages: "20:1,600:60".to_owned(),
                data_points: "100:1".to_owned(),
            },
            ..UplinkConfig::new(url("mqtts://hub:1"), mode)
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn what_is_missing_or_has_no_place_is_named() {
        assert!(refusal("").starts_with("1: uplink.url is missing: "));
        assert!(refusal("url = 'mqtt://h'\nmode = 'plain'\n").starts_with("1: uplink.topic is missing: "));
        for (line, key, place) in [
            ("topic = 'a'", "topic", "mode = \"plain\""),
            ("username = 'a'", "username", "mode = \"plain\""),
            ("password_file = 'a'", "password_file", "mode = \"plain\""),
            ("ca_file = 'a'", "ca_file", "mqtts://"),
            ("client_key = 'a'", "client_key", "mqtts://"),
            ("pin = '0000000000000000000000000000000000000000000000000000000000000000'", "pin", "mqtts://"),
        ] {
            let message = refusal(&format!("url = 'mqtt://h'\n{line}\n"));
            assert_eq!(message, format!("3: uplink.{key}: is for {place} only"));
        }
        assert_eq!(
            refusal("url = 'mqtts://h'\nclient_key = 'a'\n"),
            "3: uplink.client_key: also needs `uplink.client_certificate`; give both or neither"
        );
        let plain = "url = 'mqtt://h'\nmode = 'plain'\ntopic = 'a'\n";
        assert!(refusal(&format!("{plain}learn = true\n")).starts_with("5: uplink.learn: only a hub"));
        assert_eq!(parse(&format!("{plain}learn = false\n")).map(|config| config.learn), Ok(false));
        let device = refusal("url = 'mqtt://h'\nmode = 'device'\ntoken_file = 'a'\n");
        assert!(device.starts_with("4: uplink.token_file: each device has its own"), "{device}");
        let twice = "url = 'mqtt://h'\nmode = 'plain'\ntopic = 'a'\ntoken_file = 'a'\nusername = 'a'\n";
        assert!(refusal(twice).starts_with("6: uplink.username: "));
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_what_can() {
        for (line, words) in [
            ("url = 'hub'", "uplink.url: must begin with mqtt:// or mqtts://"),
            ("url = 5", "uplink.url: must be a text in quotes"),
            ("mode = 'bridge'", "uplink.mode: must be one of \"gateway\", \"device\" and \"plain\""),
            ("learn = 1", "uplink.learn: must be true or false"),
            ("order = 'newest'", "uplink.order: must be one of \"fresh-first\" and \"oldest-first\""),
            ("pin = 'abc'", "uplink.pin: a pin is the SHA-256"),
            ("topic = 'a/#'", "uplink.topic: \"a/#\" is no topic to publish on"),
            (&format!("topic = '{}'", "{device}".repeat(128)), "uplink.topic: with a long name for each"),
            ("fresh_share = 0", "uplink.fresh_share: must be a whole number from 1 to 99"),
            ("fresh_share = 100", "uplink.fresh_share: must be a whole number from 1 to 99"),
            ("wait_for_clock_s = -1", "uplink.wait_for_clock_s: must be a whole number"),
            ("payload_bytes = 10", "uplink.payload_bytes: must be a whole number from 1024"),
            ("keep_alive_s = 1.5", "uplink.keep_alive_s: must be a whole number"),
            ("telemetry_rate = '20'", "uplink.telemetry_rate: must be rates as the hub writes them"),
            ("values_rate = '20:1,'", "uplink.values_rate: must be rates as the hub writes them"),
            ("client_id = \"a\\nb\"", "uplink.client_id: has at most"),
            ("tokenfile = 'a'", "uplink.tokenfile: no such key; allowed here: url, mode, "),
        ] {
            let message = refusal(&format!("{line}\n"));
            assert!(message.starts_with(&format!("2: {words}")), "{message}");
        }
    }

    #[test]
    fn one_topic_for_all_devices_is_allowed_with_a_word_about_it() {
        let mixes = |topic: &str| {
            let config =
                parse(&format!("url = 'mqtt://h'\nmode = 'plain'\ntopic = '{topic}'\n")).expect("valid");
            config.mixes_devices().is_some()
        };
        assert!(mixes("all") && !mixes("site/{device}/t"));
        assert_eq!(parse("url = 'mqtt://h'\n").map(|config| config.mixes_devices()), Ok(None));
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        for line in ["token = 'SECRET'", "password = 'SECRET'", "url = 'mqtt://u:SECRET@hub'"] {
            let message = refusal(&format!("{line}\n"));
            assert!(!message.contains("SECRET") && message.contains("file"), "{message}");
        }
    }

    #[test]
    fn what_is_written_out_reads_back_the_same() {
        let plain = ModeConfig::Plain { topic: "a\"b\\{device}".to_owned(), user_name: Some("u".to_owned()) };
        let config = UplinkConfig {
            password_file: Some("/p".into()),
            ca_file: Some("/ca file.pem".into()),
            client: Some(("/c.pem".into(), "/c.key".into())),
            pin: Some("cd".repeat(32).parse().expect("a pin")),
            client_id: Some("gateway \u{e9}".to_owned()),
            order: Order::OldestFirst,
            ..UplinkConfig::new(url("mqtts://[fd00::1]:9"), plain)
        };
        let gateway = UplinkConfig {
            token_file: Some("/t".into()),
            ..UplinkConfig::new(url("mqtt://hub"), ModeConfig::Gateway)
        };
        let device = UplinkConfig { learn: true, ..UplinkConfig::new(url("mqtt://hub"), ModeConfig::Device) };
        for config in [config, gateway, device] {
            let text = config.to_toml().expect("UTF-8");
            let read = Config::parse(Path::new("/x.toml"), &text).expect("valid");
            assert_eq!(read, Config { uplink: Some(config), ..Config::default() });
        }
        assert_eq!(quoted("\u{7f}\n"), "\"\\u007F\\u000A\"");
    }
}
