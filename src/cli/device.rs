//! `forebay device`: what is peculiar to devices; the rest is in `identities`.

use clap::{ArgGroup, Subcommand};
use forebay::ids::DeviceName;

use super::{
    Failure, GlobalArguments,
    identities::{self, IdentityCommand, Kind, Making, now},
    output::tell,
    token_source::{self, token_from_input},
};

/// What to do with devices.
#[derive(Clone, Debug, Subcommand)]
pub enum DeviceCommand {
    /// Adds a device and prints its token, alone on standard output
    Add {
        /// The device's name
        #[arg(value_parser = identities::name)]
        name: DeviceName,
        /// Takes the token from standard input instead of making one; the one value is `-`
        #[arg(long, value_name = "-", allow_hyphen_values = true)]
        token: Option<String>,
        /// Forwards its readings over a connection of its own, with its own token, which is kept for that
        #[arg(long)]
        forward_as_itself: bool,
        /// Lets it send readings of the devices behind it as well, by the hub's gateway API
        #[arg(long)]
        gateway: bool,
    },
    /// Changes what a device is; it keeps its token and its connections
    Set {
        /// Its name
        #[arg(value_parser = identities::name)]
        name: DeviceName,
        /// Whether it may send readings of the devices behind it as well
        #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
        gateway: String,
    },
    /// Says how the readings of a device that is there go on
    #[command(group = ArgGroup::new("way").required(true).args(["as_itself", "by_gateway"]))]
    Forward {
        /// The device's name
        #[arg(value_parser = identities::name)]
        name: DeviceName,
        /// Over a connection of its own, with its own token, which is kept for that; takes it from standard input
        #[arg(long)]
        as_itself: bool,
        /// Over the gateway's own connection, if there is one; a kept token is forgotten, and later ones are not kept
        #[arg(long)]
        by_gateway: bool,
    },
    /// What is done to clients as well.
    #[command(flatten)]
    Other(IdentityCommand),
}

/// Does what `command` says, in the registry of the data directory.
///
/// # Errors
/// If the device is not there, or is there already, or the registry cannot be used.
pub fn run(global: &GlobalArguments, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add { name, token, forward_as_itself, gateway } => {
            token.as_deref().map_or(Ok(()), token_source::is_given)?;
            let mut book = identities::open(global, Making::IfMissing)?;
            let keeps = forward_as_itself || book.keeps_all;
            identities::add(Kind::Device, &name, token.is_some(), keeps, |token| {
                let (hash, now) = (token.hash(), now());
                match gateway {
                    true => book.registry.add_gateway(&name, &hash, now)?,
                    false => book.registry.add(&name, &hash, now)?,
                };
                if keeps { book.keep(&name, token) } else { Ok(()) }
            })
        }
        DeviceCommand::Set { name, gateway } => {
            let mut book = identities::open(global, Making::No)?;
            identities::existing(&book.registry, Kind::Device, &name)?;
            book.registry.set_gateway(&name, gateway == "on")?;
            tell(&match gateway.as_str() {
                "on" => format!("{name} is a gateway: it may send readings of the devices behind it"),
                _ => format!("{name} is no gateway: it sends its own readings only"),
            });
            Ok(())
        }
        DeviceCommand::Forward { name, as_itself, by_gateway: _ } => forward(global, &name, as_itself),
        DeviceCommand::Other(command) => identities::run(global, Kind::Device, command),
    }
}

fn forward(global: &GlobalArguments, name: &DeviceName, as_itself: bool) -> Result<(), Failure> {
    let book = identities::open(global, Making::No)?;
    let device = identities::existing(&book.registry, Kind::Device, name)?;
    if as_itself {
        let token = token_from_input(name.as_str())?;
        if !token.hash().equals(&device.token_hash) {
            return Err(Failure::Failed(format!(
                "that is not the token of {name}, and nothing was changed; `forebay device set-token {name}` gives it \
                 another"
            )));
        }
        book.keep(name, &token)?;
        tell(&format!("{name} is forwarded as itself; its token is kept for that"));
        return Ok(());
    }
    book.decline(name)?;
    tell(&match book.keeps_all {
        true => format!("{name} is not forwarded as itself; its readings stay here"),
        false => {
            format!("{name} is not forwarded as itself; its readings go by the gateway's own connection")
        }
    });
    Ok(())
}
