//! `forebay client`: what is peculiar to local clients, their rights; the rest is in `identities`.

use clap::Subcommand;
use forebay::{
    identity::{Grant, Rights},
    ids::DeviceName,
    session::rights::{is_reserved, is_the_brokers},
};

use super::{
    Failure, GlobalArguments,
    identities::{self, IdentityCommand, Kind, Making, now},
    token_source,
};
use crate::config::access::plain_filter;

/// What to do with local clients.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Adds a local client and prints its token, alone on standard output
    Add {
        /// The client's name
        #[arg(value_parser = identities::name)]
        name: DeviceName,
        /// Where it may publish; may be given again [default: everywhere but the hub's topics, devices/ and $]
        #[arg(long, value_name = "FILTER", value_parser = publish_filter)]
        publish: Vec<String>,
        /// It publishes nowhere
        #[arg(long, conflicts_with = "publish")]
        publish_nothing: bool,
        /// What it may subscribe to; may be given again [default: everything but the hub's topics and $]
        #[arg(long, value_name = "FILTER", value_parser = filter)]
        subscribe: Vec<String>,
        /// It subscribes to nothing
        #[arg(long, conflicts_with = "subscribe")]
        subscribe_nothing: bool,
        /// Takes the token from standard input instead of making one; the one value is `-`
        #[arg(long, value_name = "-", allow_hyphen_values = true)]
        token: Option<String>,
    },
    /// What is done to devices as well.
    #[command(flatten)]
    Other(IdentityCommand),
}

/// Does what `command` says, in the registry of the data directory.
///
/// # Errors
/// If the client is not there, or is there already, or the registry cannot be used.
pub fn run(global: &GlobalArguments, command: ClientCommand) -> Result<(), Failure> {
    match command {
        ClientCommand::Add { name, publish, publish_nothing, subscribe, subscribe_nothing, token } => {
            token.as_deref().map_or(Ok(()), token_source::is_given)?;
            let rights = Rights {
                publish: grant(publish, publish_nothing),
                subscribe: grant(subscribe, subscribe_nothing),
            };
            let mut book = identities::open(global, Making::IfMissing)?;
            identities::add(Kind::Client, &name, token.is_some(), false, |token| {
                book.registry.add_client(&name, rights.clone(), &token.hash(), now()).map(drop)
            })
        }
        ClientCommand::Other(command) => identities::run(global, Kind::Client, command),
    }
}

fn grant(filters: Vec<String>, is_nothing: bool) -> Grant {
    if filters.is_empty() && !is_nothing { Grant::Ordinary } else { Grant::Only(filters) }
}

/// Nothing is granted that nobody gets.
fn publish_filter(text: &str) -> Result<String, String> {
    if is_the_brokers(text) {
        return Err(format!("{text:?} is the broker's own; nobody publishes there"));
    }
    if is_reserved(text) {
        return Err(format!("{text:?} is for devices and the hub; no local client publishes there"));
    }
    filter(text)
}

fn filter(text: &str) -> Result<String, String> {
    plain_filter(text)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_for_publishing_that_nobody_gets() {
        for text in ["v1/#", "v2/t", "devices/pump/telemetry", "$SYS/a", "/provision"] {
            assert!(publish_filter(text).is_err(), "{text}");
        }
        for text in ["#", "hall/#", "$custom/#"] {
            assert_eq!(publish_filter(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn no_filter_means_the_ordinary_rights_and_any_filter_only_what_it_covers() {
        assert_eq!(grant(vec![], false), Grant::Ordinary);
        assert_eq!(grant(vec!["a/#".to_owned()], false), Grant::Only(vec!["a/#".to_owned()]));
        assert_eq!(grant(vec![], true), Grant::Only(vec![]));
    }
}
