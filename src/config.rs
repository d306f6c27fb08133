//! The configuration file: TOML, every key optional, every mistake named with file, line, key and what is allowed.
//!
//! Knows the file only. Flags, environment and defaults are laid over it in `cli/settings`.

pub mod access;
pub mod error;
pub mod hub_url;
pub mod listen_address;
mod storage;
pub mod uplink;
mod values;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use forebay::{
    identity::DeviceGrants,
    limits::{LimitError, Limits},
    store::StorageWishes,
};
use log::LevelFilter;
use toml::de::{DeTable, DeValue};

pub use error::{ConfigError, Fault};
use listen_address::ListenAddress;
use uplink::UplinkConfig;
use values::{Located, Value, both, in_file_order, number, path, table, wrong_kind};

/// What a configuration file says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `data_dir`: where the two databases live. A relative path starts at the file's own directory.
    pub data_dir: Option<PathBuf>,
    /// `listen`: where plain MQTT is spoken.
    pub listen: Option<Vec<ListenAddress>>,
    /// `listen_tls`: where MQTT over TLS is spoken.
    pub listen_tls: Option<Vec<ListenAddress>>,
    /// `certificate` and `key`: the server's certificate chain and private key, both PEM; one never without the other.
    pub certificate: Option<CertificatePaths>,
    /// `level` of `[log]`.
    pub log_level: Option<LevelFilter>,
    /// `[access]`: what devices may reach beyond their own topics, as templates with `{device}`.
    pub device_grants: DeviceGrants,
    /// `[storage]`: how much the data directory may take, and what goes when it is too much.
    pub storage: StorageWishes,
    /// `[uplink]`: where readings go.
    pub uplink: Option<UplinkConfig>,
    /// `[limits]`; what the file leaves out has its default.
    pub limits: Limits,
}

/// The server's certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePaths {
    /// PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Longest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

const KEYS: &str =
    "data_dir, listen, listen_tls, certificate, key, [log], [access], [storage], [uplink] and [limits]";
const LOG_KEYS: &str = "level";
const ACCESS_KEYS: &str = "device_publish and device_subscribe";
const FILTERS: &str = "a list of topic filters like [\"state/{device}/#\"]";
const LEVELS: &str = "one of \"off\", \"error\", \"warn\", \"info\", \"debug\" and \"trace\"";
const ADDRESSES: &str = "a list of addresses like [\"0.0.0.0:1883\"]";

impl Config {
    /// Reads the configuration in `file`.
    ///
    /// # Errors
    /// If it cannot be read, or the first line of it that is not allowed.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut text = String::new();
        let unreadable = |error| ConfigError::Unreadable { file: file.to_owned(), error };
        let open = fs::File::open(file).map_err(unreadable)?;
        open.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong { file: file.to_owned() });
        }
        // What it names is found from wherever it is told of.
        let whole = std::path::absolute(file).map_err(unreadable)?;
        Self::parse(&whole, &text)
    }

    /// Reads a configuration from `text`, the contents of `file`.
    ///
    /// # Errors
    /// The first line of it that is not allowed.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::understand(file, text).map_err(|(span, fault)| {
            let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
            ConfigError::Wrong { file: file.to_owned(), line, fault }
        })
    }

    fn understand(file: &Path, text: &str) -> Located<Self> {
        let document = DeTable::parse(text).map_err(|error| {
            (error.span().unwrap_or(0..0), Fault::Syntax(error.message().replace('\n', "; ")))
        })?;
        let mut config = Self::default();
        let (mut certificate, mut private_key) = (None, None);
        for (key, value) in in_file_order(document.get_ref()) {
            let name: &str = key.get_ref();
            match name {
                "data_dir" => config.data_dir = Some(path(file, name, value)?),
                "listen" => config.listen = Some(addresses(name, value)?),
                "listen_tls" => config.listen_tls = Some(addresses(name, value)?),
                "certificate" => certificate = Some((key.span(), path(file, name, value)?)),
                "key" => private_key = Some((key.span(), path(file, name, value)?)),
                "log" => config.log_level = log_level(table(name, value)?)?,
                "access" => config.device_grants = device_grants(table(name, value)?)?,
                "storage" => config.storage = storage::wishes(table(name, value)?)?,
                "uplink" => {
                    config.uplink = Some(UplinkConfig::read(file, key.span(), table(name, value)?)?);
                }
                "limits" => config.limits = limits(table(name, value)?)?,
                _ => return Err((key.span(), Fault::UnknownKey { key: name.to_owned(), allowed: KEYS })),
            }
        }
        let pair = both(["certificate", "key"], certificate, private_key)?;
        config.certificate = pair.map(|(certificate, key)| CertificatePaths { certificate, key });
        Ok(config)
    }
}

fn addresses(key: &str, value: &Value<'_>) -> Located<Vec<ListenAddress>> {
    let DeValue::Array(items) = value.get_ref() else { return wrong_kind(key, value, ADDRESSES) };
    items.iter().map(|item| address(key, item)).collect()
}

fn address(key: &str, item: &Value<'_>) -> Located<ListenAddress> {
    let DeValue::String(text) = item.get_ref() else { return wrong_kind(key, item, ADDRESSES) };
    text.parse().map_err(|error| (item.span(), Fault::Address { key: key.to_owned(), error }))
}

fn log_level(table: &DeTable<'_>) -> Located<Option<LevelFilter>> {
    let mut level = None;
    for (key, value) in in_file_order(table) {
        let name = format!("log.{}", key.get_ref());
        if name != "log.level" {
            return Err((key.span(), Fault::UnknownKey { key: name, allowed: LOG_KEYS }));
        }
        match value.get_ref().as_str().and_then(|text| text.parse().ok()) {
            Some(parsed) => level = Some(parsed),
            None => return wrong_kind(&name, value, LEVELS),
        }
    }
    Ok(level)
}

fn device_grants(table: &DeTable<'_>) -> Located<DeviceGrants> {
    let mut grants = DeviceGrants::default();
    for (key, value) in in_file_order(table) {
        let name = format!("access.{}", key.get_ref());
        match key.get_ref().as_ref() {
            "device_publish" => grants.publish = filters(&name, value)?,
            "device_subscribe" => grants.subscribe = filters(&name, value)?,
            _ => return Err((key.span(), Fault::UnknownKey { key: name, allowed: ACCESS_KEYS })),
        }
    }
    Ok(grants)
}

fn filters(key: &str, value: &Value<'_>) -> Located<Vec<String>> {
    let DeValue::Array(items) = value.get_ref() else { return wrong_kind(key, value, FILTERS) };
    items.iter().map(|item| filter(key, item)).collect()
}

fn filter(key: &str, item: &Value<'_>) -> Located<String> {
    let DeValue::String(text) = item.get_ref() else { return wrong_kind(key, item, FILTERS) };
    access::device_filter(text)
        .map_err(|words| (item.span(), Fault::Unusable { key: key.to_owned(), words }))?;
    Ok(text.to_string())
}

fn limits(table: &DeTable<'_>) -> Located<Limits> {
    let mut limits = Limits::default();
    for (key, value) in in_file_order(table) {
        limits.set(key.get_ref(), number(value)).map_err(|error| {
            let span = if error == LimitError::UnknownName { key.span() } else { value.span() };
            (span, Fault::Limit { key: format!("limits.{}", key.get_ref()), error })
        })?;
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/forebay.toml"), text).map_err(|error| error.to_string())
    }

    fn refusal(text: &str) -> String {
        parse(text).expect_err("must be refused")
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse("[log]\n[access]\n[limits]\n"), Ok(Config::default()));
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            "data_dir = '/data'\nlisten = ['1883', '127.0.0.1:1884']\nlisten_tls = []\n\
             certificate = 'tls/server.pem'\nkey = '/tls/server.key'\n\
             [log]\nlevel = 'debug'\n[limits]\nconnections = 5_000\npacket_bytes = 0x1000\n",
        )
        .expect("valid");
        assert_eq!(config.data_dir, Some("/data".into()));
        let addresses = ["1883", "127.0.0.1:1884"].map(|text| text.parse().expect(text));
        assert_eq!(config.listen, Some(addresses.to_vec()));
        assert_eq!(config.listen_tls, Some(vec![]));
        let paths =
            CertificatePaths { certificate: "/etc/tls/server.pem".into(), key: "/tls/server.key".into() };
        assert_eq!(config.certificate, Some(paths));
        assert_eq!(config.log_level, Some(LevelFilter::Debug));
        assert_eq!(config.limits, Limits { connections: 5000, packet_bytes: 4096, ..Limits::default() });
    }

    #[test]
    fn every_limit_can_be_set_by_its_name() {
        for knob in Limits::KNOBS {
            parse(&format!("[limits]\n{} = {}\n", knob.name, knob.max)).expect(knob.name);
        }
    }

    #[test]
    fn a_misspelt_limit_is_named_with_its_line_and_the_limits_there_are() {
        let message = refusal("# one\n[limits]\nconnections = 5\nconections = 5\n");
        let start = "/etc/forebay.toml:4: limits.conections: no such limit; the limits are connections, ";
        assert!(message.starts_with(start), "{message}");
    }

    #[test]
    fn a_limit_out_of_its_range_is_named_with_its_line_and_the_range() {
        let range = "must be a whole number from 10 to 65535";
        for value in ["9", "65536", "-10", "99999999999999999999", "60.0", "'60'", "true"] {
            let message = refusal(&format!("[limits]\n\nkeep_alive_max_s = {value}\n"));
            assert_eq!(message, format!("/etc/forebay.toml:3: limits.keep_alive_max_s: {range}"), "{value}");
        }
    }

    #[test]
    fn a_key_nobody_knows_is_named_with_the_keys_there_are() {
        assert_eq!(
            refusal("\nlisten_on = []\n"),
            "/etc/forebay.toml:2: listen_on: no such key; allowed here: \
             data_dir, listen, listen_tls, certificate, key, [log], [access], [storage], [uplink] and [limits]"
        );
        assert_eq!(
            refusal("[log]\nlevle = 'info'\n"),
            "/etc/forebay.toml:2: log.levle: no such key; allowed here: level"
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_what_is_allowed() {
        assert_eq!(refusal("data_dir = 5"), "/etc/forebay.toml:1: data_dir: must be a path in quotes");
        assert_eq!(refusal("data_dir = ''"), "/etc/forebay.toml:1: data_dir: must be a path in quotes");
        assert_eq!(
            refusal("listen = '0.0.0.0:1883'"),
            "/etc/forebay.toml:1: listen: must be a list of addresses like [\"0.0.0.0:1883\"]"
        );
        assert_eq!(
            refusal("listen = [\n1883]"),
            "/etc/forebay.toml:2: listen: must be a list of addresses like [\"0.0.0.0:1883\"]"
        );
        assert_eq!(refusal("log = 'info'"), "/etc/forebay.toml:1: log: must be a table");
        assert_eq!(
            refusal("[log]\nlevel = 'loud'"),
            "/etc/forebay.toml:2: log.level: \
             must be one of \"off\", \"error\", \"warn\", \"info\", \"debug\" and \"trace\""
        );
    }

    #[test]
    fn an_address_that_is_none_is_named_with_its_own_line() {
        let message = refusal("listen_tls = [\n  '8883',\n  'gateway:8883',\n]\n");
        let start = "/etc/forebay.toml:3: listen_tls: \"gateway:8883\" is no address to listen on; give ";
        assert!(message.starts_with(start), "{message}");
    }

    #[test]
    fn what_is_granted_to_devices_is_read() {
        let config = parse("[access]\ndevice_publish = ['state/{device}/#', 'a']\n").expect("valid");
        let publish = vec!["state/{device}/#".to_owned(), "a".to_owned()];
        assert_eq!(config.device_grants, DeviceGrants { publish, subscribe: vec![] });
        let config = parse("[access]\ndevice_subscribe = ['command/{device}']\n").expect("valid");
        let subscribe = vec!["command/{device}".to_owned()];
        assert_eq!(config.device_grants, DeviceGrants { publish: vec![], subscribe });
    }

    #[test]
    fn what_cannot_be_granted_is_named_with_its_own_line() {
        assert_eq!(
            refusal("[access]\ndevice_publish = [\n  'a',\n  'v1/{device}',\n]\n"),
            "/etc/forebay.toml:4: access.device_publish: \"v1/{device}\" is the hub's; \
             nothing in v1/, v2/ and /provision can be granted"
        );
        assert_eq!(
            refusal("[access]\ndevices = []\n"),
            "/etc/forebay.toml:2: access.devices: no such key; allowed here: device_publish and device_subscribe"
        );
        for value in ["'a'", "[1]"] {
            assert_eq!(
                refusal(&format!("[access]\ndevice_subscribe = {value}\n")),
                "/etc/forebay.toml:2: access.device_subscribe: \
                 must be a list of topic filters like [\"state/{device}/#\"]"
            );
        }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_and_the_reverse() {
        assert_eq!(
            refusal("\ncertificate = 'a'"),
            "/etc/forebay.toml:2: certificate: also needs `key`; give both or neither"
        );
        assert_eq!(
            refusal("key = 'a'"),
            "/etc/forebay.toml:1: key: also needs `certificate`; give both or neither"
        );
    }

    #[test]
    fn what_is_not_toml_is_named_with_its_line() {
        let message = refusal("\n\nlisten = [\"1883\"\nkey\n");
        assert!(
            message.starts_with("/etc/forebay.toml:") && message.contains(": not valid TOML: "),
            "{message}"
        );
        let twice = refusal("data_dir = 'a'\ndata_dir = 'b'\n");
        assert!(twice.starts_with("/etc/forebay.toml:2: not valid TOML: "), "{twice}");
    }

    #[test]
    fn the_first_mistake_from_the_top_is_the_one_that_is_named() {
        assert!(refusal("zebra = 1\nalpha = 1\n").starts_with("/etc/forebay.toml:1: zebra"));
    }

    #[test]
    fn a_file_that_is_missing_or_endless_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("forebay.toml");
        let missing = Config::load(&file).expect_err("missing").to_string();
        assert!(
            missing.starts_with(&format!("cannot read the configuration {}: ", file.display())),
            "{missing}"
        );
        fs::write(&file, "#".repeat(FILE_BYTES_MAX as usize + 1)).expect("written");
        assert!(matches!(Config::load(&file), Err(ConfigError::TooLong { .. })));
        fs::write(&file, [0xff, 0xfe]).expect("written");
        assert!(matches!(Config::load(&file), Err(ConfigError::Unreadable { .. })));
        fs::write(&file, "listen = ['0']").expect("written");
        assert_eq!(Config::load(&file).expect("valid").listen.map(|list| list.len()), Some(1));
    }
}
