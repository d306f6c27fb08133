//! `forebay check-config`: says whether a configuration file is fine, or prints every key with its default.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use forebay::limits::Limits;

use super::{Failure, GlobalArguments, output::print_line, settings::Surroundings};
use crate::config::Config;

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
    let named = arguments.file.clone().or_else(|| Surroundings::of_this_process().config_file(global));
    let Some(file) = named else {
        return Err(Failure::Usage("no configuration to check: give `forebay check-config FILE`".to_owned()));
    };
    Config::load(&file)?;
    print_line(&format!("{} is fine", file.display()))
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
    use std::path::Path;

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
    fn a_missing_file_is_a_request_that_cannot_be() {
        let arguments = CheckConfigArguments { file: Some("/nowhere/f.toml".into()), defaults: false };
        assert!(matches!(run(&GlobalArguments::default(), &arguments), Err(Failure::Usage(_))));
    }
}
