//! `forebay certs`: makes a certificate authority for this gateway, and the broker's certificate.
//!
//! Says what was made and who needs it; `net/certificates` makes it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use forebay::{
    net::certificates::{self, CaKey, Made},
    store::DataDir,
};
use jiff::Timestamp;
use log::LevelFilter;

use super::{
    Failure, GlobalArguments, logging,
    output::{print_line, tell},
    settings::Surroundings,
};

/// What to do with certificates.
#[derive(Clone, Debug, Subcommand)]
pub enum CertsCommand {
    /// Makes a certificate authority and the broker's certificate; never overwrites
    Init(CertsArguments),
    /// Replaces the broker's certificate, for other names or another ten years; devices need nothing new
    Renew(CertsArguments),
}

/// Flags of `forebay certs init` and `forebay certs renew`.
#[derive(Args, Clone, Debug, Default)]
pub struct CertsArguments {
    /// Where the files are [default: the data directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A further name or address by which devices reach this machine, beside its own name, localhost and its addresses
    #[arg(long, value_name = "NAME_OR_ADDRESS")]
    pub host: Vec<String>,
}

/// Does what `command` says.
///
/// # Errors
/// If a file is in the way, missing or cannot be written.
pub fn run(global: &GlobalArguments, command: CertsCommand) -> Result<(), Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level.map(|level| level.min(LevelFilter::Warn)), LevelFilter::Warn)?;
    let (CertsCommand::Init(arguments) | CertsCommand::Renew(arguments)) = &command;
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => DataDir::open(&surroundings.data_dir(global, &config)?)?.path().to_owned(),
    };
    let hosts = hosts(&arguments.host);
    match command {
        CertsCommand::Init(_) => init(&dir, &hosts),
        CertsCommand::Renew(_) => renew(&dir, &hosts),
    }
}

/// Makes the certificates in `dir` unless they are all there.
///
/// # Errors
/// If some are there and some not, or one cannot be written.
pub fn make(dir: &Path, hosts: &[String]) -> Result<Made, Failure> {
    Ok(certificates::init(dir, hosts, now_unix_s(), CaKey::Keep)?)
}

/// This machine's names and addresses, and `further` ones.
pub fn hosts(further: &[String]) -> Vec<String> {
    let mut hosts = certificates::default_hosts();
    for host in further {
        if !hosts.contains(host) {
            hosts.push(host.clone());
        }
    }
    hosts
}

fn init(dir: &Path, hosts: &[String]) -> Result<(), Failure> {
    match make(dir, hosts)? {
        Made::AlreadyThere => {
            tell(&format!(
                "nothing made: {} has its certificates already; `forebay certs renew` makes one for other names",
                dir.display()
            ));
            Ok(())
        }
        Made::New(files) => {
            tell(&format!("made certificates for {}", hosts.join(", ")));
            files.iter().try_for_each(|file| print_line(&format!("{}  {}", file.display(), purpose(file))))
        }
    }
}

fn renew(dir: &Path, hosts: &[String]) -> Result<(), Failure> {
    certificates::renew(dir, hosts, now_unix_s())?;
    let file = dir.join(certificates::SERVER_CERTIFICATE);
    tell(&format!(
        "made a new certificate for {}; restart the broker, or send it SIGHUP, to use it",
        hosts.join(", ")
    ));
    print_line(&file.display().to_string())
}

fn purpose(file: &Path) -> &'static str {
    match file.file_name().and_then(|name| name.to_str()) {
        Some(certificates::CA_CERTIFICATE) => "(give this one to every device)",
        Some(certificates::CA_KEY) => "(only to renew; keep it secret, here or elsewhere)",
        Some(certificates::SERVER_CERTIFICATE) => "(the broker's certificate)",
        Some(certificates::SERVER_KEY) => "(the broker's key; keep it secret)",
        _ => "",
    }
}

fn now_unix_s() -> i64 {
    Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_hosts_are_added_once_to_this_machines_own() {
        let own = certificates::default_hosts();
        let all =
            hosts(&["gateway.example".to_owned(), "localhost".to_owned(), "gateway.example".to_owned()]);
        assert_eq!(all[..own.len()], own);
        assert_eq!(all[own.len()..], ["gateway.example"]);
    }

    #[test]
    fn what_is_made_is_not_made_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let hosts = ["localhost".to_owned()];
        let Ok(Made::New(files)) = make(directory.path(), &hosts) else { panic!("must be made") };
        assert!(files.iter().all(|file| !purpose(file).is_empty()), "{files:?}");
        assert_eq!(make(directory.path(), &hosts), Ok(Made::AlreadyThere));
    }

    #[test]
    fn a_set_with_a_file_missing_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(certificates::SERVER_KEY), "mine").expect("written");
        assert!(matches!(make(directory.path(), &["localhost".to_owned()]), Err(Failure::Failed(_))));
        let kept = std::fs::read_to_string(directory.path().join(certificates::SERVER_KEY));
        assert_eq!(kept.expect("still there"), "mine");
    }
}
