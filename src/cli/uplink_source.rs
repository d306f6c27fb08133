//! From `[uplink]`, or `uplink.toml` in the data directory, to what the loop needs: secrets and certificates are read
//! here, at the start and whenever the loop asks again.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use forebay::{
    event_loop::{DeviceSettings, HubPlace, UplinkSetup, UplinkSource},
    identity::Token,
    net::tls_client::{HubTls, Trust},
    uplink::{Mode, Secret, Settings},
};
use sha2::{Digest as _, Sha256};

use super::{Failure, private_files::read_secret, token_source::token_from_bytes};
use crate::config::{
    Config,
    uplink::{ModeConfig, UplinkConfig},
};

/// The settings `forebay uplink set` leaves in the data directory.
pub const SETTINGS_FILE: &str = "uplink.toml";
/// Names of the credentials systemd may give us.
pub const TOKEN_CREDENTIAL: &str = "uplink-token";
const PASSWORD_CREDENTIAL: &str = "uplink-password";
/// As much of a certificate file as decides whether it has changed.
const FINGERPRINT_BYTES_MAX: u64 = 1 << 20;
/// What tells this machine apart.
const MACHINE_ID: &str = "/etc/machine-id";

/// Where the loop gets the uplink's settings: `configured` if there is an `[uplink]`, else the data directory.
pub fn source(configured: Option<UplinkConfig>, data_dir: &Path) -> UplinkSource {
    let file = data_dir.join(SETTINGS_FILE);
    let watched = configured.is_none().then(|| file.clone());
    let credentials = credentials_directory();
    let load = move || {
        let config = match &configured {
            Some(config) => Some(config.clone()),
            None => stored(&file)?,
        };
        config.map(|config| setup(&config, credentials.as_deref())).transpose()
    };
    UplinkSource { watched, load: Box::new(load) }
}

/// The settings in `file`, if it is there.
///
/// # Errors
/// If it cannot be read or is wrong.
pub fn stored(file: &Path) -> Result<Option<UplinkConfig>, String> {
    if matches!(file.try_exists(), Ok(false)) {
        return Ok(None);
    }
    Config::load(file).map(|config| config.uplink).map_err(|error| error.to_string())
}

/// The directory of the credentials the service manager gives us.
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Everything `config` stands for, secrets included.
///
/// # Errors
/// Which file cannot be used, why, and what to do.
pub fn setup(config: &UplinkConfig, credentials: Option<&Path>) -> Result<UplinkSetup, String> {
    let credential = |name: &str| credentials.map(|dir| dir.join(name)).filter(|file| file.exists());
    let token_file = config.token_file.clone().or_else(|| match config.mode {
        ModeConfig::Gateway => credential(TOKEN_CREDENTIAL),
        ModeConfig::Device => None,
        ModeConfig::Plain { ref user_name, .. } => {
            user_name.is_none().then(|| credential(TOKEN_CREDENTIAL)).flatten()
        }
    });
    let mut files: Vec<PathBuf> = token_file.iter().cloned().collect();
    let token = token_file.map(|file| secret(&file, credentials)).transpose()?;
    let mode = match &config.mode {
        ModeConfig::Gateway => Some(Mode::Gateway { token: token.ok_or_else(no_token)? }),
        ModeConfig::Device => None,
        ModeConfig::Plain { topic, user_name } => {
            let password_file = config.password_file.clone().or_else(|| credential(PASSWORD_CREDENTIAL));
            files.extend(password_file.clone());
            Some(Mode::Plain {
                topic: topic.clone(),
                user_name: token.or_else(|| user_name.as_ref().map(Secret::new)),
                password: password_file.map(|file| secret(&file, credentials)).transpose()?,
            })
        }
    };
    if let Some(words) = config.mixes_devices() {
        log::warn!("{words}");
    }
    let url = &config.url;
    let tls = url.tls.then(|| HubTls::load(&url.host, &trust(config))).transpose();
    let tls = tls.map_err(|error| error.to_string())?;
    let fingerprint = fingerprint(config, mode.as_ref());
    files.extend(certificate_files(config).cloned());
    let client_id = config.client_id.clone().unwrap_or_else(own_client_id);
    let is_hub = !matches!(config.mode, ModeConfig::Plain { .. });
    let trial_client_id = (is_hub && config.learn).then(|| format!("{client_id}-t"));
    let everybody = mode.map(|mode| settings(config, mode, client_id.clone()));
    let device: Option<DeviceSettings> = is_hub.then(|| {
        let config = config.clone();
        let settings: DeviceSettings = Box::new(move |name, token| {
            let mode = Mode::Device { token: Secret::new(token.reveal()) };
            settings(&config, mode, format!("{client_id}-{name}"))
        });
        settings
    });
    let place = Rc::new(HubPlace { url: url.to_string(), host: url.host.clone(), port: url.port, tls });
    Ok(UplinkSetup { place, everybody, device, trial_client_id, files, fingerprint })
}

fn settings(config: &UplinkConfig, mode: Mode, client_id: String) -> Settings {
    let clock_wait = Duration::from_secs(config.wait_for_clock_s.into());
    Settings {
        client_id,
        order: config.order,
        fresh_percent: config.fresh_share,
        payload_bytes: config.payload_bytes as usize,
        keep_alive_s: config.keep_alive_s,
        rates: config.rates.clone(),
        clock_wait: Some(clock_wait).filter(|wait| !wait.is_zero()),
        ..Settings::new(mode)
    }
}

fn trust(config: &UplinkConfig) -> Trust {
    Trust { ca_file: config.ca_file.clone(), client: config.client.clone(), pin: config.pin }
}

fn secret(file: &Path, credentials: Option<&Path>) -> Result<Secret, String> {
    let bytes = read_secret(file, credentials, Token::BYTES_MAX as u64 + 4)?;
    match token_from_bytes(bytes, &format!("in {}", file.display())) {
        Ok(token) => Ok(Secret::new(token.reveal())),
        Err(Failure::Failed(words) | Failure::Usage(words)) => Err(words),
        Err(Failure::Unwell | Failure::OutputClosed) => Err(format!("cannot read {}", file.display())),
    }
}

fn no_token() -> String {
    format!(
        "the hub's access token for this gateway is missing: name a file with it in `token_file`, give the service the \
         credential {TOKEN_CREDENTIAL}, or `forebay uplink set URL --token -`"
    )
}

/// A name no other gateway has: an ordinary broker lets in one of each name only.
fn own_client_id() -> String {
    let system = rustix::system::uname();
    let mut hash = Sha256::new();
    hash.update(fs::read(MACHINE_ID).unwrap_or_default());
    hash.update(system.nodename().to_bytes());
    let hash = hash.finalize();
    hash.iter().take(6).fold("forebay-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn certificate_files(config: &UplinkConfig) -> impl Iterator<Item = &PathBuf> {
    let own = config.client.iter().flat_map(|(certificate, key)| [certificate, key]);
    config.ca_file.iter().chain(own)
}

/// Changes if anything does that the settings are made of.
fn fingerprint(config: &UplinkConfig, mode: Option<&Mode>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("{config:?}"));
    let secrets = match mode {
        None => [None, None],
        Some(Mode::Gateway { token } | Mode::Device { token }) => [Some(token), None],
        Some(Mode::Plain { user_name, password, .. }) => [user_name.as_ref(), password.as_ref()],
    };
    for secret in secrets {
        hash.update(secret.map_or("", Secret::reveal));
        hash.update([0]);
    }
    for file in certificate_files(config) {
        let mut bytes = Vec::new();
        // What cannot be read was told already, when it was to be used.
        let _ = File::open(file).map(|open| open.take(FINGERPRINT_BYTES_MAX).read_to_end(&mut bytes));
        hash.update(Sha256::digest(&bytes));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::private_files;

    fn config(text: &str) -> UplinkConfig {
        let text = format!("[uplink]\nurl = 'mqtt://hub'\n{text}");
        Config::parse(Path::new("/x.toml"), &text).expect("valid").uplink.expect("the table")
    }

    fn refusal(config: &UplinkConfig, credentials: Option<&Path>) -> String {
        setup(config, credentials).err().expect("must be refused")
    }

    fn token(setup: &UplinkSetup) -> &str {
        match &setup.everybody.as_ref().expect("an uplink for everybody").mode {
            Mode::Gateway { token } | Mode::Device { token } => token.reveal(),
            Mode::Plain { user_name, .. } => user_name.as_ref().map_or("", Secret::reveal),
        }
    }

    #[test]
    fn the_token_comes_from_its_file_or_from_the_service_manager() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        private_files::write(&file, b"FromFile\n").expect("written");
        let named = UplinkConfig { token_file: Some(file.clone()), ..config("") };
        assert_eq!(token(&setup(&named, None).expect("settled")), "FromFile");
        assert!(refusal(&config(""), None).contains("uplink set URL --token -"));

        let credentials = tempfile::tempdir().expect("a directory");
        let credential = credentials.path().join(TOKEN_CREDENTIAL);
        fs::write(&credential, "FromSystemd").expect("written");
        fs::set_permissions(&credential, fs::Permissions::from_mode(0o444)).expect("opened");
        assert_eq!(token(&setup(&config(""), Some(credentials.path())).expect("settled")), "FromSystemd");
        assert_eq!(token(&setup(&named, Some(credentials.path())).expect("settled")), "FromFile");
        let plain = config("mode = 'plain'\ntopic = 't'\nusername = 'u'\n");
        assert_eq!(token(&setup(&plain, Some(credentials.path())).expect("settled")), "u");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("opened");
        let words = refusal(&named, None);
        assert!(words.contains("chmod 600") && !words.contains("FromFile"), "{words}");
    }

    #[test]
    fn nothing_said_means_no_uplink_and_the_data_directory_is_asked_only_then() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut none = source(None, dir.path());
        assert!(matches!((none.load)(), Ok(None)));
        let file = dir.path().join(SETTINGS_FILE);
        assert_eq!(none.watched.as_ref(), Some(&file));
        private_files::write(&file, b"[uplink]\nurl = 'mqtt://other'\nmode = 'plain'\ntopic = 't'\n")
            .expect("written");
        let found = (none.load)().expect("valid").expect("settings");
        assert_eq!((found.place.host.as_str(), found.place.port), ("other", 1883));
        private_files::write(&file, b"[uplink]\nurl = 5\n").expect("written");
        assert!((none.load)().err().expect("wrong").contains("uplink.toml:2"));

        let mut configured = source(Some(config("mode = 'plain'\ntopic = 't'\n")), dir.path());
        assert_eq!(configured.watched, None);
        assert_eq!((configured.load)().expect("valid").expect("settings").place.host, "hub");
    }

    #[test]
    fn a_change_of_a_secret_or_a_setting_shows_in_the_fingerprint_and_nothing_else_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        let named = UplinkConfig { token_file: Some(file.clone()), ..config("") };
        let print = |text: &[u8], config: &UplinkConfig| {
            private_files::write(&file, text).expect("written");
            setup(config, None).expect("settled").fingerprint
        };
        let first = print(b"one", &named);
        assert_eq!(first, print(b"one\n", &named));
        assert_ne!(first, print(b"two", &named));
        let other = UplinkConfig { keep_alive_s: 30, ..named.clone() };
        assert_ne!(first, print(b"one", &other));
    }

    #[test]
    fn tokens_are_tried_only_if_that_was_said() {
        let trials = |text: &str| setup(&config(text), None).expect("settled").trial_client_id;
        assert_eq!(trials("mode = 'device'\n"), None);
        assert_eq!(trials("mode = 'device'\nlearn = true\nclient_id = 'me'\n").as_deref(), Some("me-t"));
    }

    #[test]
    fn a_client_id_is_the_same_each_time_and_short_enough_for_every_broker() {
        let id = own_client_id();
        assert_eq!(id, own_client_id());
        assert!(id.len() <= 23 && id.starts_with("forebay-"), "{id}");
    }
}
