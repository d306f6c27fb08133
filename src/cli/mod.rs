//! The operator's words: one file per subcommand, and what they share.
//!
//! Reads arguments, environment and configuration, opens what the command needs, prints. No protocol and no SQL here.

pub mod certs;
pub mod check_config;
pub mod client;
pub mod demo_token;
pub mod device;
pub mod identities;
pub mod logging;
pub mod output;
pub mod private_files;
pub mod quarantine;
pub mod quickstart;
pub mod reading_format;
pub mod serve;
pub mod settings;
pub mod status;
mod status_text;
pub mod telemetry;
pub mod time_argument;
pub mod token_source;
pub mod uplink;
pub mod uplink_source;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use forebay::{net::certificates::CertificateError, store::StoreError};

use crate::config::ConfigError;

/// An MQTT broker for small gateways: what it has acknowledged is on disk.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// What every subcommand takes.
    #[command(flatten)]
    pub global: GlobalArguments,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The flags every subcommand takes.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArguments {
    /// Where the two databases live [default: data_dir of the configuration, $STATE_DIRECTORY, then /var/lib/forebay
    /// or ./forebay-data if it is there]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The configuration file [default: /etc/forebay/forebay.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the broker
    Serve(serve::ServeArguments),
    /// Sets up a data directory, certificates and a device to try, then runs the broker and shows each reading
    Quickstart(quickstart::QuickstartArguments),
    /// Adds, shows and removes devices; also while the broker runs
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Adds, shows and removes local clients; also while the broker runs
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Says where readings go: to a hub, to another broker, or nowhere; also while the broker runs
    #[command(subcommand)]
    Uplink(uplink::UplinkCommand),
    /// Asks the running broker how it is doing; exit code 3 if something is wrong
    Status(status::StatusArguments),
    /// Prints stored readings; also while the broker runs
    Telemetry(telemetry::TelemetryArguments),
    /// Shows what was set aside, payloads nobody understands and readings the hub does not take; retries or drops it
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Makes certificates
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Says whether a configuration file is fine
    CheckConfig(check_config::CheckConfigArguments),
}

/// Why a command did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The arguments or the configuration ask for something that cannot be.
    Usage(String),
    /// It was tried and failed.
    Failed(String),
    /// The broker runs, and something is wrong with it; that has been printed.
    Unwell,
    /// Whoever read our output has had enough; that is no failure.
    OutputClosed,
}

/// Does what `arguments` ask for.
///
/// # Errors
/// See [`Failure`]; nothing has been printed about it yet.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match arguments.command {
        Command::Serve(serve) => serve::run(global, &serve),
        Command::Quickstart(quickstart) => quickstart::run(global, &quickstart),
        Command::Device(device) => device::run(global, device),
        Command::Client(client) => client::run(global, client),
        Command::Uplink(uplink) => uplink::run(global, uplink),
        Command::Status(status) => status::run(global, &status),
        Command::Telemetry(telemetry) => telemetry::run(global, &telemetry),
        Command::Quarantine(quarantine) => quarantine::run(global, quarantine),
        Command::Certs(certs) => certs::run(global, certs),
        Command::CheckConfig(check) => check_config::run(global, &check),
    }
}

impl Failure {
    /// What to tell the operator, if anything.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Usage(message) | Self::Failed(message) => Some(message),
            Self::Unwell | Self::OutputClosed => None,
        }
    }

    /// 2 for a request that cannot be, 1 for a failure, 3 for a broker that is not well, 0 when the reader left.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
            Self::Unwell => ExitCode::from(3),
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<CertificateError> for Failure {
    fn from(error: CertificateError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn accepts(line: &str) -> bool {
        Arguments::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_subcommand_takes_data_dir_and_config_before_or_after_it() {
        let commands = [
            "serve",
            "quickstart",
            "device list",
            "device show pump",
            "client list",
            "client show red",
            "uplink show",
            "status",
            "telemetry",
            "quarantine list",
            "certs init",
            "check-config f.toml",
        ];
        for command in commands {
            assert!(accepts(&format!("forebay {command} --data-dir d --config c")), "{command}");
            assert!(accepts(&format!("forebay --data-dir d --config c {command}")), "{command}");
        }
    }

    #[test]
    fn the_forms_the_documentation_names_are_accepted() {
        for line in [
            "forebay serve --listen 127.0.0.1:0 --listen [::1]:0 --listen-tls 8883 --certificate c --key k",
            "forebay device add pump --token -",
            "forebay device forward pump --as-itself",
            "forebay device forward pump --by-gateway",
            "forebay device list --json",
            "forebay device show pump --json",
            "forebay device rotate pump",
            "forebay device set-token pump",
            "forebay device disable pump",
            "forebay device enable pump",
            "forebay device remove pump",
            "forebay client add red --publish hall/# --publish a/+ --subscribe devices/+/telemetry --token -",
            "forebay client add red --publish $custom/# --subscribe $SYS/#",
            "forebay client add red --publish-nothing --subscribe hall/#",
            "forebay client add red --subscribe-nothing",
            "forebay client list --json",
            "forebay client show red --json",
            "forebay client rotate red",
            "forebay client set-token red",
            "forebay client disable red",
            "forebay client enable red",
            "forebay client remove red",
            "forebay uplink set mqtts://hub.example --token - --ca-file ca.pem",
            "forebay uplink set mqtts://hub:1 --token-file t --client-certificate c --client-key k --oldest-first",
            "forebay uplink set mqtt://[::1] --plain --topic site/{device} --username u --password-file p",
            "forebay uplink show",
            "forebay uplink remove",
            "forebay status --json",
            "forebay telemetry --device pump --since 2h --limit 5 --format ndjson --follow",
            "forebay quarantine list --json",
            "forebay quarantine show p1 --json",
            "forebay quarantine retry r1 p2",
            "forebay quarantine drop --all",
            "forebay certs init --dir d --host a --host 10.0.0.1",
        ] {
            assert!(accepts(line), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "forebay",
            "forebay serve --certificate c",
            "forebay serve --key k",
            "forebay serve --listen gateway:1883",
            "forebay device add",
            "forebay device add pump --publish a",
            "forebay device forward pump",
            "forebay device forward pump --as-itself --by-gateway",
            "forebay device forward --by-gateway",
            "forebay client add red --publish a#",
            "forebay client add red --publish $SYS/#",
            "forebay client add red --publish $share/g/a",
            "forebay client add red --publish a --publish-nothing",
            "forebay client add red --subscribe a --subscribe-nothing",
            "forebay client add red --subscribe $share/g/a",
            "forebay client add red --subscribe $share",
            "forebay uplink",
            "forebay uplink set",
            "forebay uplink set hub.example --token -",
            "forebay uplink set mqtt://hub --plain",
            "forebay uplink set mqtt://hub --topic t",
            "forebay uplink set mqtt://hub --plain --topic t/#",
            "forebay uplink set mqtt://hub --token - --token-file t",
            "forebay uplink set mqtt://hub --token - --pin abc",
            "forebay uplink set mqtt://hub --token - --client-key k",
            "forebay quarantine retry",
            "forebay quarantine drop p1 --all",
            "forebay quarantine show 1",
            "forebay telemetry --format xml",
            "forebay telemetry --limit -1",
            "forebay telemetry --since yesterday",
            "forebay check-config a b",
        ] {
            assert!(!accepts(line), "{line}");
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        assert_eq!(Failure::OutputClosed.exit_code(), ExitCode::SUCCESS);
        assert_eq!(Failure::OutputClosed.message(), None);
        assert_eq!(Failure::Failed("x".into()).exit_code(), ExitCode::from(1));
        assert_eq!(Failure::Usage("x".into()).exit_code(), ExitCode::from(2));
        assert_eq!(Failure::Unwell.exit_code(), ExitCode::from(3));
    }
}
