//! What `forebay device` and `forebay client` have in common; a running broker notices every change by itself.
//!
//! A token is printed alone on standard output, once, and everything else on standard error.

use std::fmt;

use clap::Subcommand;
use forebay::{
    clock::Wall,
    identity::{Grant, Identity, Rights, Role, Token},
    ids::DeviceName,
    store::{DataDir, KeptTokens, Registry, StoreError, StoreOptions},
    whole_file,
};
use jiff::Timestamp;
use log::LevelFilter;
use serde_json::json;

use super::{
    Failure, GlobalArguments, demo_token, logging,
    output::{one_line, print_line, tell, to_the_second},
    quickstart,
    settings::Surroundings,
    token_source::{token_from_input, warn_if_weak, with_fresh_token},
    uplink_source::{SETTINGS_FILE, stored},
};
use crate::config::uplink::ModeConfig;

/// What is said of a device whose token is kept.
const AS_ITSELF: &str = ", which is forwarded as itself; its token is kept for that";
/// How that is called in a table.
const FORWARDED_AS_ITSELF: &str = "as itself";
/// What is said of one that is not to be, whatever holds for the others.
const BY_GATEWAY: &str = "never as itself";
/// How the ordinary rights are called.
const ORDINARY: &str = "everything but the hub's topics and $";

/// Whom a command is for; `Display` is the word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `forebay device`.
    Device,
    /// `forebay client`.
    Client,
}

/// Whether a data directory may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// One may be added before the broker first runs.
    IfMissing,
    /// Anything else asks for what is there.
    No,
}

/// What can be done with devices and clients alike.
#[derive(Clone, Debug, Subcommand)]
pub enum IdentityCommand {
    /// Lists them
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Shows one
    Show {
        /// Its name
        #[arg(value_parser = name)]
        name: DeviceName,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Gives it a new token and prints that, alone on standard output; the old one stops working at once
    Rotate {
        /// Its name
        #[arg(value_parser = name)]
        name: DeviceName,
    },
    /// Gives it the token on standard input; the old one stops working at once
    SetToken {
        /// Its name
        #[arg(value_parser = name)]
        name: DeviceName,
    },
    /// Shuts it out until it is enabled again
    Disable {
        /// Its name
        #[arg(value_parser = name)]
        name: DeviceName,
    },
    /// Lets it in again
    Enable {
        /// Its name
        #[arg(value_parser = name)]
        name: DeviceName,
    },
    /// Removes it; a device's readings stay
    Remove {
        /// Its name
        #[arg(value_parser = name)]
        name: DeviceName,
    },
}

/// Does what `command` says to those of `kind`.
///
/// # Errors
/// If nobody of that kind has the name, or the registry cannot be used.
pub fn run(global: &GlobalArguments, kind: Kind, command: IdentityCommand) -> Result<(), Failure> {
    let book = &mut open(global, Making::No)?;
    match command {
        IdentityCommand::List { json } => {
            let all = book.registry.identities()?;
            let ours: Vec<_> = all.into_iter().filter(|found| Kind::of(found) == kind).collect();
            list(&ours, &KeptTokens::read(&book.dir)?, kind, json)
        }
        IdentityCommand::Show { name, json } => {
            show(&existing(&book.registry, kind, &name)?, &KeptTokens::read(&book.dir)?, json)
        }
        IdentityCommand::Rotate { name } => rotate(book, kind, &name),
        IdentityCommand::SetToken { name } => set_token(book, kind, &name),
        IdentityCommand::Disable { name } => set_enabled(&mut book.registry, kind, &name, false),
        IdentityCommand::Enable { name } => set_enabled(&mut book.registry, kind, &name, true),
        IdentityCommand::Remove { name } => remove(book, kind, &name),
    }
}

/// Where devices and clients stand, and the tokens that are kept of some.
pub struct Book {
    /// Who there is.
    pub registry: Registry,
    dir: DataDir,
    /// Whether every new token of a device is kept: the uplink forwards all of them as themselves.
    pub keeps_all: bool,
}

impl Book {
    /// Keeps the token of a device, so that it can be forwarded as itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, name: &DeviceName, token: &Token) -> Result<(), StoreError> {
        KeptTokens::change(&self.dir, |kept| kept.keep(name.clone(), token.clone()))
    }

    /// Keeps no token of a device: it is not to be forwarded as itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn decline(&self, name: &DeviceName) -> Result<(), StoreError> {
        KeptTokens::change(&self.dir, |kept| kept.decline(name.clone()))
    }

    /// Keeps a new token if the old one was kept, or if all are.
    fn keep_again(&self, kind: Kind, name: &DeviceName, token: &Token) -> Result<bool, StoreError> {
        let kept = KeptTokens::read(&self.dir)?;
        let keeps = kind == Kind::Device && (self.keeps_all || kept.has(name)) && !kept.declines(name);
        if keeps {
            self.keep(name, token)?;
        }
        Ok(keeps)
    }
}

/// Opens the registry of the data directory.
///
/// # Errors
/// If the configuration is wrong, or the registry cannot be used.
pub fn open(global: &GlobalArguments, making: Making) -> Result<Book, Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level.map(|level| level.min(LevelFilter::Warn)), LevelFilter::Warn)?;
    let path = surroundings.data_dir(global, &config)?;
    let data_dir = match making {
        Making::IfMissing => DataDir::open(&path)?,
        Making::No => DataDir::open_existing(&path)?,
    };
    let registry = Registry::open(&data_dir, &StoreOptions::default())?;
    // Settings that are wrong are the broker's to complain of.
    let uplink = config.uplink.or_else(|| stored(&data_dir.path().join(SETTINGS_FILE)).ok().flatten());
    let keeps_all = uplink.is_some_and(|uplink| uplink.mode == ModeConfig::Device);
    Ok(Book { registry, dir: data_dir, keeps_all })
}

/// Adds what `store` stores with the token it is given, and prints the token.
///
/// # Errors
/// Those of `store`, or that there is no token, or nowhere to print it.
pub fn add(
    kind: Kind,
    name: &DeviceName,
    own_token: bool,
    is_kept: bool,
    mut store: impl FnMut(&Token) -> Result<(), StoreError>,
) -> Result<(), Failure> {
    if own_token {
        let token = token_from_input(name.as_str())?;
        store(&token)?;
        warn_if_weak(&token);
        tell(&format!("added {name}{}", if is_kept { AS_ITSELF } else { "" }));
        return Ok(());
    }
    let token = with_fresh_token(store)?;
    match is_kept {
        true => tell(&format!("added {name}{AS_ITSELF}; its token is shown this once")),
        false => tell(&format!("added {name}; its token is shown this once and is not stored")),
    }
    print_token(kind, name, &token)
}

/// Now, as the registry keeps it.
pub fn now() -> Wall {
    Wall(Timestamp::now().as_millisecond())
}

/// Parses a name on the command line.
///
/// # Errors
/// Why it is none.
pub fn name(text: &str) -> Result<DeviceName, String> {
    DeviceName::parse(text).map_err(|error| error.to_string())
}

fn rotate(book: &mut Book, kind: Kind, name: &DeviceName) -> Result<(), Failure> {
    existing(&book.registry, kind, name)?;
    let token = with_fresh_token(|token| book.registry.set_token(name, &token.hash()).map(drop))?;
    if book.keep_again(kind, name, &token)? {
        tell("it is forwarded as itself: the hub must be given the new token as well");
    }
    tell(&format!("{name} has a new token, shown this once; the old one no longer works"));
    print_token(kind, name, &token)
}

/// A token nobody could read is lost for good: here a reader that left is a failure.
fn print_token(kind: Kind, name: &DeviceName, token: &Token) -> Result<(), Failure> {
    print_line(token.reveal()).map_err(|_| {
        Failure::Failed(format!(
            "cannot write the token of {name} to standard output, and it is not stored; \
             make another with `forebay {kind} rotate`"
        ))
    })
}

fn set_token(book: &mut Book, kind: Kind, name: &DeviceName) -> Result<(), Failure> {
    // Nobody is asked for the token of one that is not there.
    existing(&book.registry, kind, name)?;
    let token = token_from_input(name.as_str())?;
    book.registry.set_token(name, &token.hash())?;
    book.keep_again(kind, name, &token)?;
    warn_if_weak(&token);
    tell(&format!("{name} has the token given; the old one no longer works"));
    Ok(())
}

fn set_enabled(registry: &mut Registry, kind: Kind, name: &DeviceName, enabled: bool) -> Result<(), Failure> {
    existing(registry, kind, name)?;
    registry.set_enabled(name, enabled)?;
    tell(&format!(
        "{name} is {}",
        if enabled { "enabled" } else { "disabled and is shut out until it is enabled" }
    ));
    Ok(())
}

fn remove(book: &mut Book, kind: Kind, name: &DeviceName) -> Result<(), Failure> {
    match book.registry.find(name) {
        Ok(found) => drop(of_kind(found, kind, name)?),
        // What a damaged row was cannot be told; removing it is the one thing that helps.
        Err(StoreError::Corrupt(_)) => {}
        Err(error) => return Err(error.into()),
    }
    book.registry.remove(name)?;
    KeptTokens::change(&book.dir, |kept| kept.forget(name))?;
    if name.as_str() == quickstart::DEVICE {
        let file = demo_token::path(book.dir.path());
        whole_file::remove(&file)
            .map_err(|error| Failure::Failed(format!("cannot remove {}: {error}", file.display())))?;
    }
    tell(&match kind {
        Kind::Device => format!("removed {name}; its readings stay"),
        Kind::Client => format!("removed {name}"),
    });
    Ok(())
}

/// The one of `kind` that is called `name`.
///
/// # Errors
/// If nobody is, or one of the other kind is.
pub fn existing(registry: &Registry, kind: Kind, name: &DeviceName) -> Result<Identity, Failure> {
    of_kind(registry.find(name)?, kind, name)
}

/// `found` if it is of this kind: the commands of one kind leave the other alone.
fn of_kind(found: Option<Identity>, kind: Kind, name: &DeviceName) -> Result<Identity, Failure> {
    let Some(identity) = found else {
        return Err(Failure::Failed(format!(
            "no {kind} is named {name}; check the spelling against `forebay {kind} list`"
        )));
    };
    match Kind::of(&identity) {
        its if its == kind => Ok(identity),
        its => Err(Failure::Failed(format!("{name} is a {its}; use `forebay {its} ...`"))),
    }
}

impl Kind {
    fn of(identity: &Identity) -> Self {
        match identity.role {
            Role::Device | Role::Gateway => Self::Device,
            Role::Client(_) => Self::Client,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Client => "client",
        })
    }
}

fn list(identities: &[Identity], kept: &KeptTokens, kind: Kind, json: bool) -> Result<(), Failure> {
    if json {
        let array: Vec<_> = identities.iter().map(|identity| as_json(identity, kept)).collect();
        return print_line(&serde_json::Value::from(array).to_string());
    }
    if identities.is_empty() {
        tell(&format!("there are no {kind}s; `forebay {kind} add NAME` adds one"));
        return Ok(());
    }
    print_line(table(identities, kept, kind).trim_end())
}

fn show(identity: &Identity, kept: &KeptTokens, json: bool) -> Result<(), Failure> {
    if json {
        return print_line(&as_json(identity, kept).to_string());
    }
    let name = one_line(identity.name.as_str());
    let (state, created, seen) = (state(identity), to_the_second(identity.created.0), last_seen(identity));
    let mut text = format!("name       {name}\nstate      {state}\ncreated    {created}\nlast seen  {seen}");
    if identity.role == Role::Gateway {
        text += "\ngateway    yes";
    }
    if let Some(way) = forwarded(identity, kept) {
        text += &format!("\nforwarded  {way}");
    }
    if let Role::Client(rights) = &identity.role {
        text +=
            &format!("\npublish    {}\nsubscribe  {}", granted(&rights.publish), granted(&rights.subscribe));
    }
    print_line(&text)
}

/// Neither the token, which nobody has, nor its hash; a client's ordinary rights are null.
fn as_json(identity: &Identity, kept: &KeptTokens) -> serde_json::Value {
    let mut object = json!({
        "name": identity.name.as_str(),
        "enabled": identity.enabled,
        "created": identity.created.0,
        "last_seen": identity.last_seen.map(|seen| seen.0),
    });
    if Kind::of(identity) == Kind::Device {
        object["gateway"] = (identity.role == Role::Gateway).into();
        object["forwarded_as_itself"] = kept.of(identity).is_some().into();
    }
    if let Role::Client(rights) = &identity.role {
        for (key, grant) in [("publish", &rights.publish), ("subscribe", &rights.subscribe)] {
            object[key] = match grant {
                Grant::Ordinary => serde_json::Value::Null,
                Grant::Only(filters) => filters.as_slice().into(),
            };
        }
    }
    object
}

fn table(identities: &[Identity], kept: &KeptTokens, kind: Kind) -> String {
    let longest = identities.iter().map(|identity| identity.name.as_str().chars().count()).max();
    let width = longest.unwrap_or(0).max("name".len());
    let row = |name: &str, state: &str, created: &str, seen: &str, rights: &str| {
        let line = format!("{name:<width$}  {state:<8}  {created:<19}  {seen:<19}  {rights}");
        line.trim_end().to_owned() + "\n"
    };
    let rows = identities.iter().map(|identity| {
        row(
            &one_line(identity.name.as_str()),
            state(identity),
            &to_the_second(identity.created.0),
            &last_seen(identity),
            &match &identity.role {
                Role::Client(rights) => rights_in_words(rights),
                _ => noted(identity, kept),
            },
        )
    });
    let last = match kind {
        Kind::Client => "rights",
        Kind::Device if identities.iter().all(|identity| noted(identity, kept).is_empty()) => "",
        Kind::Device => "remarks",
    };
    row("name", "state", "created (UTC)", "last seen (UTC)", last) + &rows.collect::<String>()
}

/// What was said of how a device is forwarded, if anything.
fn forwarded(identity: &Identity, kept: &KeptTokens) -> Option<&'static str> {
    match kept.of(identity) {
        Some(_) => Some(FORWARDED_AS_ITSELF),
        None => (identity.role.is_device() && kept.declines(&identity.name)).then_some(BY_GATEWAY),
    }
}

/// What there is to say of a device beside its state.
fn noted(identity: &Identity, kept: &KeptTokens) -> String {
    let gateway = (identity.role == Role::Gateway).then_some("gateway");
    let forwarded = forwarded(identity, kept).map(|way| format!("forwarded {way}"));
    gateway.map(str::to_owned).into_iter().chain(forwarded).collect::<Vec<_>>().join(", ")
}

fn rights_in_words(rights: &Rights) -> String {
    match rights {
        Rights { publish: Grant::Ordinary, subscribe: Grant::Ordinary } => ORDINARY.to_owned(),
        Rights { publish, subscribe } => {
            format!("publish: {}; subscribe: {}", granted(publish), granted(subscribe))
        }
    }
}

fn granted(grant: &Grant) -> String {
    match grant {
        Grant::Ordinary => ORDINARY.to_owned(),
        Grant::Only(filters) if filters.is_empty() => "nothing".to_owned(),
        Grant::Only(filters) => one_line(&filters.join(", ")).into_owned(),
    }
}

fn state(identity: &Identity) -> &'static str {
    if identity.enabled { "enabled" } else { "disabled" }
}

fn last_seen(identity: &Identity) -> String {
    identity.last_seen.map_or_else(|| "never".to_owned(), |seen| to_the_second(seen.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay::ids::IdentityId;

    fn device(name: &str) -> Identity {
        Identity {
            id: IdentityId(1),
            name: DeviceName::parse(name).expect(name),
            role: Role::Device,
            token_hash: Token::parse("7qPzL0aXw2RnT5vYb9Kd").expect("a token").hash(),
            enabled: true,
            created: Wall(1_795_497_055_000),
            last_seen: None,
        }
    }

    fn client(name: &str, publish: Grant, subscribe: Grant) -> Identity {
        Identity { role: Role::Client(Rights { publish, subscribe }), ..device(name) }
    }

    fn only(filters: &[&str]) -> Grant {
        Grant::Only(filters.iter().map(|filter| (*filter).to_owned()).collect())
    }

    #[test]
    fn json_shows_no_token_and_no_hash() {
        let seen = Identity { last_seen: Some(Wall(5)), enabled: false, ..device("pump") };
        assert_eq!(
            as_json(&device("demo"), &KeptTokens::default()).to_string(),
            r#"{"created":1795497055000,"enabled":true,"forwarded_as_itself":false,"gateway":false,"last_seen":null,"name":"demo"}"#
        );
        assert_eq!(
            as_json(&seen, &KeptTokens::default()).to_string(),
            r#"{"created":1795497055000,"enabled":false,"forwarded_as_itself":false,"gateway":false,"last_seen":5,"name":"pump"}"#
        );
    }

    #[test]
    fn json_shows_a_clients_rights() {
        let red = client("red", only(&["a/+", "b"]), Grant::Ordinary);
        assert_eq!(
            as_json(&red, &KeptTokens::default()).to_string(),
            r#"{"created":1795497055000,"enabled":true,"last_seen":null,"name":"red","publish":["a/+","b"],"subscribe":null}"#
        );
    }

    #[test]
    fn a_table_of_devices_lines_up() {
        let long = Identity { enabled: false, last_seen: Some(Wall(0)), ..device("a longer name") };
        assert_eq!(
            table(&[device("demo"), long], &KeptTokens::default(), Kind::Device),
            "name           state     created (UTC)        last seen (UTC)\n\
             demo           enabled   2026-11-24 05:10:55  never\n\
             a longer name  disabled  2026-11-24 05:10:55  1970-01-01 00:00:00\n"
        );
    }

    #[test]
    fn a_gateway_is_told_from_other_devices() {
        let site = Identity { role: Role::Gateway, ..device("site") };
        assert_eq!(
            as_json(&site, &KeptTokens::default()).to_string(),
            r#"{"created":1795497055000,"enabled":true,"forwarded_as_itself":false,"gateway":true,"last_seen":null,"name":"site"}"#
        );
        assert_eq!(
            table(&[device("demo"), site.clone()], &KeptTokens::default(), Kind::Device),
            "name  state     created (UTC)        last seen (UTC)      remarks\n\
             demo  enabled   2026-11-24 05:10:55  never\n\
             site  enabled   2026-11-24 05:10:55  never                gateway\n"
        );
        let mut kept = KeptTokens::default();
        kept.keep(site.name.clone(), Token::parse("7qPzL0aXw2RnT5vYb9Kd").expect("a token"));
        assert_eq!(noted(&site, &kept), "gateway, forwarded as itself");
    }

    #[test]
    fn a_table_of_clients_shows_their_rights() {
        let clients = [
            client("any", Grant::Ordinary, Grant::Ordinary),
            client("red", only(&["a/+", "b"]), only(&[])),
            client("blue", Grant::Ordinary, only(&["c\u{202e}/#"])),
        ];
        assert_eq!(
            table(&clients, &KeptTokens::default(), Kind::Client),
            "name  state     created (UTC)        last seen (UTC)      rights\n\
             any   enabled   2026-11-24 05:10:55  never                everything but the hub's topics and $\n\
             red   enabled   2026-11-24 05:10:55  never                publish: a/+, b; subscribe: nothing\n\
             blue  enabled   2026-11-24 05:10:55  never                \
             publish: everything but the hub's topics and $; subscribe: c\\u{202e}/#\n"
        );
    }

    #[test]
    fn the_commands_of_one_kind_leave_the_other_alone() {
        let name = DeviceName::parse("red").expect("a name");
        let red = client("red", Grant::Ordinary, Grant::Ordinary);
        let refusal = |found, kind| of_kind(found, kind, &name).expect_err("refused");
        assert_eq!(
            refusal(Some(red.clone()), Kind::Device),
            Failure::Failed("red is a client; use `forebay client ...`".to_owned())
        );
        assert_eq!(
            refusal(Some(device("red")), Kind::Client),
            Failure::Failed("red is a device; use `forebay device ...`".to_owned())
        );
        assert_eq!(
            refusal(None, Kind::Client),
            Failure::Failed(
                "no client is named red; check the spelling against `forebay client list`".to_owned()
            )
        );
        assert_eq!(of_kind(Some(red.clone()), Kind::Client, &name), Ok(red));
    }
}
