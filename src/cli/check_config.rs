//! `forebay check-config`: says whether a configuration file is fine, or prints every key with its default.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use forebay::{limits::Limits, net::tls::load_server_config};

use super::{
    Failure, GlobalArguments,
    output::{print_line, tell},
    serve::{Listening, ServeArguments, certificate_in},
    settings::Surroundings,
    uplink_source::{credentials_directory, setup},
};
use crate::config::{
    Config,
    uplink::{ModeConfig, UplinkConfig},
};

/// Flags of `forebay check-config`.
#[derive(Args, Clone, Debug, Default)]
pub struct CheckConfigArguments {
    /// The file to check [default: the one that --config or /etc/forebay names]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Prints a configuration with every key, its default, its range and its meaning instead
    #[arg(long, conflicts_with = "file")]
    pub defaults: bool,
}

/// Checks the file, or prints the defaults.
///
/// # Errors
/// The first mistake in the file, or that there is no file.
pub fn run(global: &GlobalArguments, arguments: &CheckConfigArguments) -> Result<(), Failure> {
    if arguments.defaults {
        return print_line(defaults().trim_end());
    }
    let surroundings = Surroundings::of_this_process();
    let named = arguments.file.clone().or_else(|| surroundings.config_file(global));
    let Some(file) = named else {
        return Err(Failure::Usage("no configuration to check: give `forebay check-config FILE`".to_owned()));
    };
    let config = Config::load(&file)?;
    let data_dir = surroundings.data_dir(global, &config).ok();
    let mut troubles = troubles(&config, data_dir.as_deref());
    if let Some(last) = troubles.pop() {
        troubles.iter().for_each(|trouble| tell(&format!("forebay: {trouble}")));
        return Err(Failure::Failed(last));
    }
    let mixes = config.uplink.as_ref().and_then(UplinkConfig::mixes_devices);
    mixes.into_iter().for_each(|words| tell(&format!("warning: {words}")));
    print_line(&format!("{} is fine", file.display()))
}

/// Where systemd puts credentials, for a service and while it runs.
const CREDENTIALS: &str = "/run/credentials";

/// What would keep the broker from starting with this, or its uplink from working, though the file itself is fine.
fn troubles(config: &Config, data_dir: Option<&Path>) -> Vec<String> {
    let mut troubles = Vec::new();
    match Listening::settle(&ServeArguments::default(), config, data_dir.and_then(certificate_in)) {
        Err(failure) => troubles.extend(failure.message().map(str::to_owned)),
        Ok(Listening { tls, certificate: Some(files), .. })
            if !tls.is_empty() && !is_only_while_it_runs(&files.key) =>
        {
            let loaded = load_server_config(&files.certificate, &files.key);
            troubles.extend(loaded.err().map(|error| error.to_string()));
        }
        Ok(_) => {}
    }
    troubles.extend(config.uplink.clone().and_then(uplink_trouble));
    troubles
}

fn uplink_trouble(mut uplink: UplinkConfig) -> Option<String> {
    let credentials = credentials_directory();
    let token_is_elsewhere = match &uplink.token_file {
        Some(file) => is_only_while_it_runs(file),
        None => uplink.mode == ModeConfig::Gateway && credentials.is_none(),
    };
    if token_is_elsewhere {
        if uplink.token_file.take().is_none() {
            tell(
                "warning: no token_file is named in [uplink]: the service needs the credential uplink-token",
            );
        }
        // What else there is can be looked at without the token.
        uplink.mode = ModeConfig::Device;
    }
    setup(&uplink, credentials.as_deref()).err()
}

fn is_only_while_it_runs(file: &Path) -> bool {
    let is = file.starts_with(CREDENTIALS) && !file.exists();
    if is {
        tell(&format!("note: {} is there only while the service runs and was not looked at", file.display()));
    }
    is
}

const HEAD: &str = r#"# The configuration of forebay. Every key is optional; what stands here behind `#` is what holds without it.
# Flags of the command line win over this file. Relative paths start at this file's directory.

# Where the two databases live [default: the service manager's state directory, else /var/lib/forebay].
# data_dir = "/var/lib/forebay"

# Where to speak plain MQTT: "IP:PORT", "[IPV6]:PORT", "localhost:PORT", or "PORT" for every address.
# With neither `listen` nor `listen_tls`: port 1883, and port 8883 if there is a certificate.
# listen = ["1883"]

# Where to speak MQTT over TLS.
# listen_tls = ["8883"]

# The server's certificate chain and private key, PEM [default: server.pem and server.key in the data directory].
# certificate = "/var/lib/forebay/server.pem"
# key = "/var/lib/forebay/server.key"

[log]
# One of "off", "error", "warn", "info", "debug" and "trace"; the environment variable FOREBAY_LOG wins over it.
# level = "info"

[access]
# What devices may publish to beyond telemetry, as topic filters; `{device}` stands for the device's name.
# device_publish = []

# What devices may subscribe to, likewise.
# device_subscribe = []

[storage]
# The most the data directory may take: "500 MiB", or a number of bytes [default: 1 GiB, at most 70% of what is free].
# max_bytes = "1 GiB"

# What is to stay free on its file system: "64 MiB" or "5%" [default: the less of these two, at least 2 MiB].
# keep_free = "64 MiB"

# Readings older than this, like "30d", are dropped if the clock can be trusted.
# max_age = "never"

# Keeps readings that the hub has, as long as there is room.
# keep_uploaded = false

# What happens without room, once no reading is left that the hub has: "drop-oldest", or "refuse-new" publishers.
# policy = "drop-oldest"

# Where readings go. Without this table they go where `forebay uplink set` says, or stay here.
# [uplink]
# The hub: mqtts:// with TLS, mqtt:// without. Ports, if none is named: 8883 and 1883.
# url = "mqtts://hub.example"
# "gateway": the hub, which knows us as a gateway. "device": the hub, which knows each device by its own token.
# "plain": any broker.
# mode = "gateway"
# A device unknown here is tried at the hub; if the hub accepts its token, it is enrolled here [true or false].
# learn = false
# A file with the access token of this gateway, which nobody else may read [default: the credential uplink-token].
# In plain mode the token is the user name.
# token_file = "uplink.token"
# The authority that signed the hub's certificate, PEM [default: the authorities the system trusts].
# ca_file = "hub-ca.pem"
# SHA-256 of the hub's public key, 64 hexadecimal digits or sha256/ and base64; without `ca_file` this alone is trusted.
# pin = "sha256/..."
# A certificate that proves who we are, and its key, PEM.
# client_certificate = "gateway.pem"
# client_key = "gateway.key"
# Plain mode: where readings are published; `{device}` stands for the device's name.
# topic = "site/{device}/telemetry"
# Plain mode: our user name if it is no secret, and a file with our password [default: the credential uplink-password].
# username = "gateway"
# password_file = "uplink.password"
# Our client id [default: forebay- and some digits of this machine's own].
# client_id = "gateway-7"
# "fresh-first": while a backlog drains, new readings get a share of the way. "oldest-first": strictly as they came.
# order = "fresh-first"
# That share, in percent [1 to 99].
# fresh_share = 20
# Seconds after boot for which readings without a time of their own wait for the clock to be set [0 to 604800].
# wait_for_clock_s = 600
# The largest payload the other end takes, in bytes, unless it says so itself [1024 to 1048576].
# payload_bytes = 65536
# Seconds of silence after which the other end is asked whether it is there [5 to 3600].
# keep_alive_s = 60
# Rates to stay within besides those the other end tells, in its own form: 20 in one second and 600 in sixty. Four fifths
# of them are used. Messages of readings, values in them, and other messages [default: none].
# telemetry_rate = "20:1,600:60"
# values_rate = "100:1,3000:60"
# message_rate = "10:1"

[limits]
"#;

/// A whole configuration file as a comment: nothing in it changes anything until a `#` is taken away.
pub fn defaults() -> String {
    let mut text = HEAD.to_owned();
    for knob in Limits::KNOBS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "#{} [{} to {}]", knob.doc, knob.min, knob.max);
        let _ = writeln!(text, "# {} = {}", knob.name, knob.default);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(Path::new("defaults.toml"), text).expect("a valid configuration")
    }

    #[test]
    fn the_printed_defaults_change_nothing() {
        assert_eq!(parse(&defaults()), Config::default());
    }

    #[test]
    fn the_printed_defaults_are_the_defaults_and_name_every_limit() {
        let keys = defaults()
            .lines()
            .filter(|line| line.contains(" = "))
            .fold(String::new(), |text, line| text + line.trim_start_matches("# ") + "\n");
        let (_, limits) = keys.split_once("connections = ").expect("the limits come last");
        let config = parse(&format!("[limits]\nconnections = {limits}"));
        assert_eq!(config, Config::default());
        assert_eq!(limits.lines().count(), Limits::KNOBS.len());
    }

    #[test]
    fn the_numbers_printed_for_the_uplink_are_its_defaults() {
        let (_, table) = HEAD.split_once("# [uplink]\n").expect("the table");
        let lines = table.lines().filter(|line| line.contains(" = ") && !line.contains("..."));
        let wanted =
            ["url", "learn", "order", "fresh_share", "wait_for_clock_s", "payload_bytes", "keep_alive_s"];
        let text = lines
            .map(|line| line.trim_start_matches("# "))
            .filter(|line| wanted.contains(&line.split(' ').next().unwrap_or_default()))
            .fold("[uplink]\n".to_owned(), |text, line| text + line + "\n");
        assert_eq!(text.lines().count(), wanted.len() + 1);
        let found = parse(&text).uplink.expect("the table");
        assert_eq!(found, UplinkConfig::new(found.url.clone(), ModeConfig::Gateway));
    }

    #[test]
    fn what_the_file_names_is_looked_at_as_well() {
        let dir = tempfile::tempdir().expect("a directory");
        let found = |text: &str| {
            let config = Config::parse(&dir.path().join("f.toml"), text).expect("valid");
            troubles(&config, Some(dir.path())).join("; ")
        };
        let uplink = "[uplink]\nurl = 'mqtt://hub'\ntoken_file = 'token'\n";
        assert!(found(uplink).contains("token"), "missing");
        std::fs::write(dir.path().join("token"), "abc").expect("written");
        assert!(found(uplink).contains("chmod 600"), "readable by all");
        assert_eq!(found("[uplink]\nurl = 'mqtt://hub'\n"), "", "it may be a credential");
        let tls = "listen_tls = ['8883']\n";
        assert!(found(tls).contains("there is no certificate"));
        let certificate = "certificate = 'server.pem'\nkey = 'server.key'\n";
        assert!(found(&format!("{tls}{certificate}")).contains("cannot read"));
        assert!(found(&format!("listen = ['1883']\n{certificate}")).contains("nothing listens for TLS"));
        assert_eq!(found("listen = ['1883']\n"), "");
    }

    #[test]
    fn a_missing_file_is_a_request_that_cannot_be() {
        let arguments = CheckConfigArguments { file: Some("/nowhere/f.toml".into()), defaults: false };
        assert!(matches!(run(&GlobalArguments::default(), &arguments), Err(Failure::Usage(_))));
    }
}
