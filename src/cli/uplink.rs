//! `forebay uplink`: where readings go, settled from the command line, also while the broker runs.
//!
//! Secrets and certificates are copied into the data directory, where the service may read them and nobody else. The
//! settings lie beside them, in a file the broker watches.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use forebay::{
    identity::Token,
    net::{
        pin::Pin,
        tls_client::{HubTls, Trust},
    },
    store::{BufferReader, DataDir, StoreError, StoreOptions},
    uplink::Order,
    whole_file,
};
use log::LevelFilter;

use super::{
    Failure, GlobalArguments, logging,
    output::{one_line, print_line, tell},
    private_files,
    settings::Surroundings,
    token_source,
    uplink_source::{self, SETTINGS_FILE},
};
use crate::config::{
    hub_url::HubUrl,
    uplink::{ModeConfig, UplinkConfig, check_topic},
};

/// What to do with the uplink.
#[derive(Clone, Debug, Subcommand)]
pub enum UplinkCommand {
    /// Says where readings go from now on
    Set(Box<SetArguments>),
    /// Shows where readings go, and how many wait
    Show,
    /// Keeps readings here from now on
    Remove,
}

/// Flags of `forebay uplink set`.
#[derive(Args, Clone, Debug)]
pub struct SetArguments {
    /// The hub: mqtts://HOST[:PORT] with TLS, mqtt://HOST[:PORT] without
    #[arg(value_name = "URL", value_parser = url)]
    pub url: HubUrl,
    /// Takes the hub's access token for this gateway from standard input; the one value is `-`
    #[arg(long, value_name = "-", allow_hyphen_values = true)]
    pub token: Option<String>,
    /// Takes the token from this file, which nobody else may read
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The authority that signed the hub's certificate, PEM [default: those the system trusts]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the hub's public key: 64 hexadecimal digits, or sha256/ and base64
    #[arg(long)]
    pub pin: Option<Pin>,
    /// A certificate that proves who we are, PEM
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// The private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
    /// The hub knows each device by its own token, which it shares with forebay: no gateway is needed there
    #[arg(long, conflicts_with_all = ["plain", "token", "token_file"])]
    pub devices: bool,
    /// Tries a device unknown here at the hub, and enrols it if the hub accepts its token
    #[arg(long, conflicts_with = "plain")]
    pub learn: bool,
    /// The other end is an ordinary broker
    #[arg(long, requires = "topic")]
    pub plain: bool,
    /// Where readings are published there; {device} stands for the device's name
    #[arg(long, requires = "plain", value_parser = topic)]
    pub topic: Option<String>,
    /// Our user name there, if it is no secret; else it is the token
    #[arg(long, requires = "plain", value_name = "NAME", conflicts_with_all = ["token", "token_file"])]
    pub username: Option<String>,
    /// Takes our password there from this file, which nobody else may read
    #[arg(long, requires = "plain", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Our client id there [default: forebay- and some digits of this machine's own]
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// Sends readings strictly in the order in which they came
    #[arg(long)]
    pub oldest_first: bool,
}

const TOKEN_FILE: &str = "uplink.token";
const PASSWORD_FILE: &str = "uplink.password";
const CA_FILE: &str = "uplink-ca.pem";
const CERTIFICATE_FILE: &str = "uplink-client.pem";
const KEY_FILE: &str = "uplink-client.key";
/// Everything but the settings.
const FILES: [&str; 5] = [TOKEN_FILE, PASSWORD_FILE, CA_FILE, CERTIFICATE_FILE, KEY_FILE];
/// Largest file that is copied, in bytes.
const COPY_BYTES_MAX: u64 = 1 << 20;

/// Does what `command` says, in the data directory.
///
/// # Errors
/// If the arguments make no sense together, the configuration has an `[uplink]` of its own, or a file cannot be used.
pub fn run(global: &GlobalArguments, command: UplinkCommand) -> Result<(), Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level.map(|level| level.min(LevelFilter::Warn)), LevelFilter::Warn)?;
    let path = surroundings.data_dir(global, &config)?;
    let configured =
        |uplink| Configured { uplink, file: surroundings.config_file(global).unwrap_or_default() };
    let configured = config.uplink.map(configured);
    match command {
        UplinkCommand::Set(arguments) => {
            refuse_configured(configured.as_ref())?;
            set(DataDir::open(&path)?.path(), &arguments)
        }
        UplinkCommand::Show => show(&DataDir::open_existing(&path)?, configured),
        UplinkCommand::Remove => {
            refuse_configured(configured.as_ref())?;
            remove(DataDir::open_existing(&path)?.path())
        }
    }
}

/// An `[uplink]`, and the file it stands in.
struct Configured {
    uplink: UplinkConfig,
    file: PathBuf,
}

fn refuse_configured(configured: Option<&Configured>) -> Result<(), Failure> {
    match configured {
        None => Ok(()),
        Some(configured) => Err(Failure::Usage(format!(
            "the uplink is settled by [uplink] in {}, which wins; change it there, or take it out first",
            configured.file.display()
        ))),
    }
}

fn set(dir: &Path, arguments: &SetArguments) -> Result<(), Failure> {
    let contents = Contents::gather(arguments)?;
    let config = contents.config(arguments);
    // Taken away first: the new token must not be shown to the old hub, nor the old one to the new.
    let failed = |file: &Path, error: io::Error| {
        Failure::Failed(format!("cannot write {}: {error}; there is no uplink now", file.display()))
    };
    let settings = dir.join(SETTINGS_FILE);
    let text = config.to_toml().map_err(Failure::Failed)?;
    whole_file::remove(&settings).map_err(|error| failed(&settings, error))?;
    for (name, contents) in contents.files() {
        let file = dir.join(name);
        let done = match contents {
            Some(contents) => private_files::write(&file, contents),
            None => whole_file::remove(&file),
        };
        done.map_err(|error| failed(&file, error))?;
    }
    private_files::write(&settings, text.as_bytes()).map_err(|error| failed(&settings, error))?;
    tell(&format!("readings go to {} from now on, those that wait already included", config.url));
    config.mixes_devices().into_iter().for_each(|words| tell(&format!("warning: {words}")));
    Ok(())
}

fn remove(dir: &Path) -> Result<(), Failure> {
    let there = dir.join(SETTINGS_FILE).exists();
    for name in [SETTINGS_FILE].into_iter().chain(FILES) {
        let file = dir.join(name);
        whole_file::remove(&file)
            .map_err(|error| Failure::Failed(format!("cannot remove {}: {error}", file.display())))?;
    }
    if there {
        tell("readings stay here from now on");
        return Ok(());
    }
    Err(Failure::Failed("there is no uplink to remove".to_owned()))
}

/// The bytes that are copied into the data directory.
struct Contents {
    token: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Contents {
    fn gather(arguments: &SetArguments) -> Result<Self, Failure> {
        check(arguments)?;
        let token = match (&arguments.token, &arguments.token_file) {
            (Some(_), _) => Some(token_source::token_from_input("this gateway at the hub")?),
            (None, Some(file)) => Some(secret(file)?),
            (None, None) => None,
        };
        let line = |token: Token| format!("{}\n", token.reveal()).into_bytes();
        let client = match (&arguments.client_certificate, &arguments.client_key) {
            (Some(certificate), Some(key)) => {
                let key = private_files::read_secret(key, None, COPY_BYTES_MAX).map_err(Failure::Failed)?;
                Some((copy(certificate)?, key))
            }
            _ => None,
        };
        Ok(Self {
            token: token.map(line),
            password: arguments.password_file.as_deref().map(secret).transpose()?.map(line),
            ca: arguments.ca_file.as_deref().map(copy).transpose()?,
            client,
        })
    }

    fn files(&self) -> [(&'static str, Option<&Vec<u8>>); 5] {
        let client = self.client.as_ref();
        [
            (TOKEN_FILE, self.token.as_ref()),
            (PASSWORD_FILE, self.password.as_ref()),
            (CA_FILE, self.ca.as_ref()),
            (CERTIFICATE_FILE, client.map(|pair| &pair.0)),
            (KEY_FILE, client.map(|pair| &pair.1)),
        ]
    }

    /// The settings that go with them; files are named from where the settings are, so that the directory can be moved.
    fn config(&self, arguments: &SetArguments) -> UplinkConfig {
        let mode = match &arguments.topic {
            Some(topic) => ModeConfig::Plain { topic: topic.clone(), user_name: arguments.username.clone() },
            None if arguments.devices => ModeConfig::Device,
            None => ModeConfig::Gateway,
        };
        UplinkConfig {
            learn: arguments.learn,
            token_file: self.token.as_ref().map(|_| TOKEN_FILE.into()),
            password_file: self.password.as_ref().map(|_| PASSWORD_FILE.into()),
            ca_file: self.ca.as_ref().map(|_| CA_FILE.into()),
            client: self.client.as_ref().map(|_| (CERTIFICATE_FILE.into(), KEY_FILE.into())),
            pin: arguments.pin,
            client_id: arguments.client_id.clone(),
            order: if arguments.oldest_first { Order::OldestFirst } else { Order::default() },
            ..UplinkConfig::new(arguments.url.clone(), mode)
        }
    }
}

/// What the flags must be like together, as far as clap does not know.
fn check(arguments: &SetArguments) -> Result<(), Failure> {
    arguments.token.as_deref().map_or(Ok(()), token_source::is_given)?;
    let usage = |words: &str| Err(Failure::Usage(words.to_owned()));
    if !arguments.plain && !arguments.devices && arguments.token.is_none() && arguments.token_file.is_none() {
        return usage(
            "a gateway needs its access token of the hub; give `--token -` and write it to standard input, or `--devices` if \
             each device is to use its own",
        );
    }
    let pair = arguments.client_certificate.clone().zip(arguments.client_key.clone());
    let trust = Trust { ca_file: arguments.ca_file.clone(), client: pair, pin: arguments.pin };
    if arguments.url.tls {
        // With the eyes of the broker, before anything is changed.
        return HubTls::load(&arguments.url.host, &trust)
            .map(drop)
            .map_err(|error| Failure::Failed(error.to_string()));
    }
    if trust != Trust::default() {
        return usage("certificates and pins are for mqtts:// only");
    }
    Ok(())
}

fn secret(file: &Path) -> Result<Token, Failure> {
    let bytes =
        private_files::read_secret(file, None, Token::BYTES_MAX as u64 + 4).map_err(Failure::Failed)?;
    token_source::token_from_bytes(bytes, &format!("in {}", file.display()))
}

fn copy(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(COPY_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", file.display())))?;
    private_files::whole(bytes, COPY_BYTES_MAX, file).map_err(Failure::Failed)
}

fn url(text: &str) -> Result<HubUrl, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn topic(text: &str) -> Result<String, String> {
    check_topic(text)?;
    Ok(text.to_owned())
}

fn show(dir: &DataDir, configured: Option<Configured>) -> Result<(), Failure> {
    let settings = dir.path().join(SETTINGS_FILE);
    let (config, file) =
        match configured {
            Some(configured) => (configured.uplink, configured.file),
            None => match uplink_source::stored(&settings).map_err(Failure::Failed)? {
                Some(config) => (config, settings),
                None => return Err(Failure::Failed(
                    "there is no uplink: readings stay here; `forebay uplink set URL --token -` makes one"
                        .to_owned(),
                )),
            },
        };
    for (name, value) in description(&config) {
        print_line(&format!("{name:<12}{}", one_line(&value)))?;
    }
    print_line(&format!("{:<12}{}", "settled in", file.display()))?;
    match BufferReader::open(dir, &StoreOptions::default()).and_then(|reader| reader.uplink_mark()) {
        Ok(mark) => {
            print_line(&format!("{:<12}{}", "waiting", mark.waiting))?;
            print_line(&format!("{:<12}{}", "rejected", mark.rejected))
        }
        Err(StoreError::NotReady { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn description(config: &UplinkConfig) -> Vec<(&'static str, String)> {
    let path = |path: &PathBuf| path.display().to_string();
    let mut lines = vec![("hub", config.url.to_string())];
    match &config.mode {
        ModeConfig::Gateway => lines.push(("mode", "gateway".to_owned())),
        ModeConfig::Device => lines.push(("mode", "device".to_owned())),
        ModeConfig::Plain { topic, user_name } => {
            lines.push(("mode", "plain".to_owned()));
            lines.push(("topic", topic.clone()));
            lines.extend(user_name.clone().map(|name| ("user name", name)));
        }
    }
    if config.learn {
        lines.push(("learn", "devices unknown here are tried at the hub".to_owned()));
    }
    lines.extend(config.token_file.as_ref().map(|file| ("token", path(file))));
    lines.extend(config.password_file.as_ref().map(|file| ("password", path(file))));
    if config.url.tls {
        let trusted = match (&config.ca_file, config.pin) {
            (Some(file), _) => path(file),
            (None, Some(_)) => "the pin alone".to_owned(),
            (None, None) => "the authorities of the system".to_owned(),
        };
        lines.push(("trust", trusted));
        lines.extend(config.pin.map(|pin| ("pin", pin.to_string())));
        lines.extend(config.client.as_ref().map(|(file, _)| ("certificate", path(file))));
    }
    lines.extend(config.client_id.clone().map(|id| ("client id", id)));
    let order = match config.order {
        Order::FreshBeside => "fresh-first",
        Order::OldestFirst => "oldest-first",
    };
    lines.push(("order", order.to_owned()));
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Arguments, Command};

    fn arguments(line: &str) -> SetArguments {
        let parsed = Arguments::try_parse_from(format!("forebay uplink set {line}").split(' ')).expect(line);
        match parsed.command {
            Command::Uplink(UplinkCommand::Set(arguments)) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    fn stored(dir: &Path) -> UplinkConfig {
        uplink_source::stored(&dir.join(SETTINGS_FILE)).expect("valid").expect("settings")
    }

    fn write(dir: &Path, name: &str, contents: &str) -> PathBuf {
        let file = dir.join(name);
        private_files::write(&file, contents.as_bytes()).expect("written");
        file
    }

    #[test]
    fn a_data_directory_that_was_moved_has_its_own_token() {
        let (old, elsewhere) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let token = write(elsewhere.path(), "token", "SecretOfTheHub\n");
        set(old.path(), &arguments(&format!("mqtt://hub --token-file {}", token.display()))).expect("set");
        let moved = elsewhere.path().join("moved");
        std::fs::rename(old.path(), &moved).expect("moved");
        assert_eq!(stored(&moved).token_file, Some(moved.join(TOKEN_FILE)));
        std::fs::create_dir(old.path()).expect("for the guard to remove");
    }

    #[test]
    fn what_was_set_is_found_again_with_its_token_apart_and_removed_without_a_trace() {
        let (dir, elsewhere) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let token = write(elsewhere.path(), "token", "SecretOfTheHub\n");
        set(dir.path(), &arguments(&format!("mqtt://hub --token-file {}", token.display()))).expect("set");
        let config = stored(dir.path());
        assert_eq!(config.url.to_string(), "mqtt://hub:1883");
        let own = dir.path().join(TOKEN_FILE);
        assert_eq!(config.token_file.as_ref(), Some(&own));
        assert_eq!(std::fs::read_to_string(own).expect("read"), "SecretOfTheHub\n");
        let settings = std::fs::read_to_string(dir.path().join(SETTINGS_FILE)).expect("read");
        let shown: String = description(&config).into_iter().map(|(_, value)| value).collect();
        assert!(!settings.contains("SecretOfTheHub") && !shown.contains("SecretOfTheHub"));

        set(dir.path(), &arguments("mqtt://other --plain --topic site/{device} --username u")).expect("set");
        assert!(stored(dir.path()).token_file.is_none() && !dir.path().join(TOKEN_FILE).exists());
        remove(dir.path()).expect("removed");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
        assert!(matches!(remove(dir.path()), Err(Failure::Failed(_))));
    }

    #[test]
    fn learning_is_set_and_shown_and_is_for_hubs_only() {
        let dir = tempfile::tempdir().expect("a directory");
        set(dir.path(), &arguments("mqtt://hub --devices")).expect("set");
        let learns = |config: &UplinkConfig| description(config).iter().any(|(name, _)| *name == "learn");
        assert!(!learns(&stored(dir.path())));
        set(dir.path(), &arguments("mqtt://hub --devices --learn")).expect("set");
        let config = stored(dir.path());
        assert!(config.learn && config.mode == ModeConfig::Device && learns(&config));
        let plain = "forebay uplink set mqtt://hub --plain --topic t --learn";
        assert!(Arguments::try_parse_from(plain.split(' ')).is_err());
    }

    #[test]
    fn a_file_is_copied_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let bytes_max = usize::try_from(COPY_BYTES_MAX).expect("small");
        let file = write(dir.path(), "ca.pem", &"x".repeat(bytes_max));
        assert_eq!(copy(&file).map(|bytes| bytes.len()), Ok(bytes_max));
        let file = write(dir.path(), "ca.pem", &"x".repeat(bytes_max + 1));
        let Err(Failure::Failed(words)) = copy(&file) else { panic!("it is cut") };
        assert!(words.contains("ca.pem: it has more than 1048576 bytes"), "{words}");
        let Err(words) = private_files::read_secret(&file, None, COPY_BYTES_MAX) else { panic!("it is cut") };
        assert!(words.contains("more than 1048576 bytes"), "{words}");
    }

    #[test]
    fn a_set_that_cannot_work_says_so_before_anything_is_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        set(dir.path(), &arguments("mqtt://hub --plain --topic t")).expect("set");
        let before = stored(dir.path());
        for line in
            ["mqtt://hub", "mqtt://hub --pin 0", "mqtt://hub --token SECRET", "mqtts://h --token-file /gone"]
        {
            let parsed = Arguments::try_parse_from(format!("forebay uplink set {line}").split(' '));
            let Ok(Arguments { command: Command::Uplink(UplinkCommand::Set(arguments)), .. }) = parsed else {
                continue;
            };
            let Err(Failure::Usage(words) | Failure::Failed(words)) = set(dir.path(), &arguments) else {
                panic!("{line}");
            };
            assert!(!words.contains("SECRET"), "{words}");
            assert_eq!(stored(dir.path()), before, "{line}");
        }
    }

    #[test]
    fn an_uplink_of_the_configuration_wins_and_is_named() {
        let uplink = UplinkConfig::new("mqtt://hub".parse().expect("a URL"), ModeConfig::Gateway);
        let configured = Configured { uplink, file: "/etc/forebay/forebay.toml".into() };
        let Err(Failure::Usage(words)) = refuse_configured(Some(&configured)) else { panic!("refused") };
        assert!(words.contains("/etc/forebay/forebay.toml"), "{words}");
        assert_eq!(refuse_configured(None), Ok(()));
    }
}
