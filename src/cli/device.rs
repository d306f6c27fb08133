//! `forebay device`: adds, shows and removes devices in the registry; a running broker notices by itself.
//!
//! A token is printed alone on standard output, once, and everything else on standard error.

use std::io::{self, IsTerminal as _, Read as _};

use clap::Subcommand;
use forebay::{
    clock::Wall,
    identity::{Identity, Token},
    ids::DeviceName,
    store::{DataDir, Registry, StoreError, StoreOptions},
};
use jiff::Timestamp;
use log::LevelFilter;
use serde_json::json;

use super::{
    Failure, GlobalArguments, logging,
    output::{one_line, print_line, tell, to_the_second},
    settings::Surroundings,
};

/// What to do with devices.
#[derive(Clone, Debug, Subcommand)]
pub enum DeviceCommand {
    /// Adds a device and prints its token, alone on standard output
    Add {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
        /// Takes the token from standard input instead of making one; the one value is `-`
        #[arg(long, value_name = "-", allow_hyphen_values = true)]
        token: Option<String>,
    },
    /// Lists the devices
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Shows one device
    Show {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Gives a device a new token and prints it, alone on standard output; the old one stops working at once
    Rotate {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
    },
    /// Gives a device the token on standard input; the old one stops working at once
    SetToken {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
    },
    /// Shuts a device out until it is enabled again
    Disable {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
    },
    /// Lets a device in again
    Enable {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
    },
    /// Removes a device; its readings stay
    Remove {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceName,
    },
}

/// Does what `command` says, in the registry of the data directory.
///
/// # Errors
/// If the device is not there, or is there already, or the registry cannot be used.
pub fn run(global: &GlobalArguments, command: DeviceCommand) -> Result<(), Failure> {
    refuse_token_in_sight(&command)?;
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level.map(|level| level.min(LevelFilter::Warn)), LevelFilter::Warn)?;
    let path = surroundings.data_dir(global, &config)?;
    // A device may be added before the broker first runs; anything else asks for what is there.
    let making = matches!(command, DeviceCommand::Add { .. });
    let data_dir = if making { DataDir::open(&path)? } else { DataDir::open_existing(&path)? };
    let mut registry = Registry::open(&data_dir, &StoreOptions::default())?;
    apply(&mut registry, command)
}

fn apply(registry: &mut Registry, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add { name, token } => add(registry, &name, token.is_some()),
        DeviceCommand::List { json } => list(&registry.devices()?, json),
        DeviceCommand::Show { name, json } => show(&existing(registry, &name)?, json),
        DeviceCommand::Rotate { name } => rotate(registry, &name),
        DeviceCommand::SetToken { name } => set_token(registry, &name),
        DeviceCommand::Disable { name } => set_enabled(registry, &name, false),
        DeviceCommand::Enable { name } => set_enabled(registry, &name, true),
        DeviceCommand::Remove { name } => remove(registry, &name),
    }
}

/// Makes a token from the operating system's generator.
///
/// # Errors
/// If the generator has nothing to give.
pub fn fresh_token() -> Result<Token, Failure> {
    let mut trouble = None;
    let token = Token::generate(|chance| {
        if let Err(error) = getrandom::fill(chance) {
            trouble = Some(error);
        }
    });
    match trouble {
        None => Ok(token),
        Some(error) => Err(Failure::Failed(format!(
            "cannot make a token: the operating system's random generator failed: {error}"
        ))),
    }
}

/// Now, as the registry keeps it.
pub fn now() -> Wall {
    Wall(Timestamp::now().as_millisecond())
}

fn device_name(text: &str) -> Result<DeviceName, String> {
    DeviceName::parse(text).map_err(|error| error.to_string())
}

/// Does not repeat what it was given: that may be the token.
fn refuse_token_in_sight(command: &DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add { token: Some(given), .. } if given != "-" => Err(Failure::Usage(
            "a token on the command line can be seen by everybody on this machine; \
             give `--token -` and write the token to standard input"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

fn add(registry: &mut Registry, name: &DeviceName, own_token: bool) -> Result<(), Failure> {
    if own_token {
        let token = token_from_input(name)?;
        registry.add(name, &token.hash(), now())?;
        warn_if_weak(&token);
        tell(&format!("added {name}"));
        return print_token(name, &token);
    }
    let token = with_fresh_token(|token| registry.add(name, &token.hash(), now()).map(drop))?;
    tell(&format!("added {name}; its token is shown this once and is not stored"));
    print_token(name, &token)
}

fn rotate(registry: &mut Registry, name: &DeviceName) -> Result<(), Failure> {
    let token = with_fresh_token(|token| registry.set_token(name, &token.hash()).map(drop))?;
    tell(&format!("{name} has a new token, shown this once; the old one no longer works"));
    print_token(name, &token)
}

/// A token nobody could read is lost for good: here a reader that left is a failure.
fn print_token(name: &DeviceName, token: &Token) -> Result<(), Failure> {
    print_line(token.reveal()).map_err(|_| {
        Failure::Failed(format!(
            "cannot write the token of {name} to standard output, and it is not stored; \
             make another with `forebay device rotate`"
        ))
    })
}

fn set_token(registry: &mut Registry, name: &DeviceName) -> Result<(), Failure> {
    // Nobody is asked for the token of a device that is not there.
    existing(registry, name)?;
    let token = token_from_input(name)?;
    registry.set_token(name, &token.hash())?;
    warn_if_weak(&token);
    tell(&format!("{name} has the token given; the old one no longer works"));
    Ok(())
}

fn set_enabled(registry: &mut Registry, name: &DeviceName, enabled: bool) -> Result<(), Failure> {
    registry.set_enabled(name, enabled)?;
    tell(&format!(
        "{name} is {}",
        if enabled { "enabled" } else { "disabled and is shut out until it is enabled" }
    ));
    Ok(())
}

fn remove(registry: &mut Registry, name: &DeviceName) -> Result<(), Failure> {
    registry.remove(name)?;
    tell(&format!("removed {name}; its readings stay"));
    Ok(())
}

/// Makes a token and tries to `store` it; one that another device has already is thrown away.
pub fn with_fresh_token(mut store: impl FnMut(&Token) -> Result<(), StoreError>) -> Result<Token, Failure> {
    const ATTEMPTS: usize = 3;
    let mut outcome = Err(Failure::Failed("no attempt was made".to_owned()));
    for _ in 0..ATTEMPTS {
        let token = fresh_token()?;
        match store(&token) {
            Ok(()) => return Ok(token),
            Err(error @ StoreError::DuplicateToken) => outcome = Err(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    outcome
}

fn existing(registry: &Registry, name: &DeviceName) -> Result<Identity, Failure> {
    registry.find(name)?.ok_or_else(|| StoreError::NotFound { name: name.clone() }.into())
}

fn warn_if_weak(token: &Token) {
    if token.is_weak() {
        tell(&format!(
            "warning: this token is easy to guess; one of {} random letters and digits is not",
            Token::GENERATED_CHARS
        ));
    }
}

fn token_from_input(name: &DeviceName) -> Result<Token, Failure> {
    let input = io::stdin();
    let mut bytes = Vec::new();
    let read = if input.is_terminal() {
        tell(&format!("type the token of {name}, then Enter"));
        let mut line = String::new();
        input.read_line(&mut line).map(|_| bytes.extend(line.bytes()))
    } else {
        // A token that is too long still comes out too long.
        input.lock().take(Token::BYTES_MAX as u64 + 4).read_to_end(&mut bytes).map(drop)
    };
    read.map_err(|error| Failure::Failed(format!("cannot read the token from standard input: {error}")))?;
    token_from_bytes(bytes)
}

/// One line's end is taken off, be it of Unix or of Windows; anything else belongs to the token.
fn token_from_bytes(bytes: Vec<u8>) -> Result<Token, Failure> {
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::Failed("cannot use the token on standard input: it is not UTF-8".to_owned()))?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Token::parse(line)
        .map_err(|error| Failure::Failed(format!("cannot use the token on standard input: {error}")))
}

fn list(devices: &[Identity], json: bool) -> Result<(), Failure> {
    if json {
        let array: Vec<_> = devices.iter().map(as_json).collect();
        return print_line(&serde_json::Value::from(array).to_string());
    }
    if devices.is_empty() {
        tell("there are no devices; `forebay device add NAME` adds one");
        return Ok(());
    }
    print_line(table(devices).trim_end())
}

fn show(device: &Identity, json: bool) -> Result<(), Failure> {
    if json {
        return print_line(&as_json(device).to_string());
    }
    let name = one_line(device.name.as_str());
    let (state, created, seen) = (state(device), to_the_second(device.created.0), last_seen(device));
    print_line(&format!("name       {name}\nstate      {state}\ncreated    {created}\nlast seen  {seen}"))
}

/// Neither the token, which nobody has, nor its hash.
fn as_json(device: &Identity) -> serde_json::Value {
    json!({
        "name": device.name.as_str(),
        "enabled": device.enabled,
        "created": device.created.0,
        "last_seen": device.last_seen.map(|seen| seen.0),
    })
}

fn table(devices: &[Identity]) -> String {
    let longest = devices.iter().map(|device| device.name.as_str().chars().count()).max();
    let width = longest.unwrap_or(0).max("name".len());
    let row = |name: &str, state: &str, created: &str, seen: &str| {
        format!("{name:<width$}  {state:<8}  {created:<19}  {seen}\n")
    };
    let rows = devices.iter().map(|device| {
        row(
            &one_line(device.name.as_str()),
            state(device),
            &to_the_second(device.created.0),
            &last_seen(device),
        )
    });
    row("name", "state", "created (UTC)", "last seen (UTC)") + &rows.collect::<String>()
}

fn state(device: &Identity) -> &'static str {
    if device.enabled { "enabled" } else { "disabled" }
}

fn last_seen(device: &Identity) -> String {
    device.last_seen.map_or_else(|| "never".to_owned(), |seen| to_the_second(seen.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay::{identity::Role, ids::IdentityId};

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

    fn token(bytes: &[u8]) -> Result<String, Failure> {
        token_from_bytes(bytes.to_vec()).map(|token| token.reveal().to_owned())
    }

    #[test]
    fn two_fresh_tokens_differ() {
        let [one, other] = [fresh_token(), fresh_token()].map(|token| token.expect("chance"));
        assert_ne!(one.reveal(), other.reveal());
    }

    #[test]
    fn a_token_on_the_command_line_is_refused_and_not_repeated() {
        let add = |token: Option<&str>| DeviceCommand::Add {
            name: DeviceName::parse("pump").expect("a name"),
            token: token.map(str::to_owned),
        };
        let Err(Failure::Usage(message)) = refuse_token_in_sight(&add(Some("SECRET"))) else {
            panic!("must be refused")
        };
        assert!(message.contains("--token -") && !message.contains("SECRET"), "{message}");
        assert_eq!(refuse_token_in_sight(&add(Some("-"))), Ok(()));
        assert_eq!(refuse_token_in_sight(&add(None)), Ok(()));
    }

    #[test]
    fn one_line_end_is_taken_off_a_token_and_nothing_else() {
        assert_eq!(token(b"abc\n").as_deref(), Ok("abc"));
        assert_eq!(token(b"abc\r\n").as_deref(), Ok("abc"));
        assert_eq!(token(b"abc").as_deref(), Ok("abc"));
        assert_eq!(token(b" abc ").as_deref(), Ok(" abc "));
        for unusable in [&b"abc\n\n"[..], b"\n", b"", b"a\nb\n", &[0xff], &[b'x'; 516]] {
            assert!(matches!(token(unusable), Err(Failure::Failed(_))), "{unusable:?}");
        }
    }

    #[test]
    fn an_unusable_token_is_not_repeated() {
        let Err(Failure::Failed(message)) = token(b"SEC\tRET\n") else { panic!("must be refused") };
        assert_eq!(
            message,
            "cannot use the token on standard input: an access token cannot contain control characters"
        );
    }

    #[test]
    fn json_shows_no_token_and_no_hash() {
        let seen = Identity { last_seen: Some(Wall(5)), enabled: false, ..device("pump") };
        assert_eq!(
            as_json(&device("demo")).to_string(),
            r#"{"created":1795497055000,"enabled":true,"last_seen":null,"name":"demo"}"#
        );
        assert_eq!(
            as_json(&seen).to_string(),
            r#"{"created":1795497055000,"enabled":false,"last_seen":5,"name":"pump"}"#
        );
    }

    #[test]
    fn a_table_of_devices_lines_up() {
        let long = Identity { enabled: false, last_seen: Some(Wall(0)), ..device("a longer name") };
        assert_eq!(
            table(&[device("demo"), long]),
            "name           state     created (UTC)        last seen (UTC)\n\
             demo           enabled   2026-11-24 05:10:55  never\n\
             a longer name  disabled  2026-11-24 05:10:55  1970-01-01 00:00:00\n"
        );
    }
}
