//! `forebay quickstart`: from nothing to a device that publishes, plain and over TLS, in one command.
//!
//! Makes what is missing (data directory, certificates, the device `demo`), changes nothing that is there, prints the
//! two commands to paste on standard output, then runs the broker and shows each reading once it is on disk.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::Args;
use forebay::{
    event_loop::{self, Claim},
    identity::Token,
    ids::DeviceName,
    net::certificates::{self, Made},
    record::Record,
    store::{DataDir, Registry, StoreOptions},
};
use jiff::Timestamp;
use log::LevelFilter;

use super::{
    Failure, GlobalArguments, certs,
    demo_token::{self, Found},
    identities::now,
    logging,
    output::{json_line, one_line, print_line, shell_word, tell, to_the_second},
    serve::{self, Listening, PORT, PORT_TLS},
    settings::Surroundings,
    token_source::with_fresh_token,
};
use crate::config::{Config, listen_address::ListenAddress};

/// The device a quickstart makes.
pub const DEVICE: &str = "demo";

/// Flags of `forebay quickstart`.
#[derive(Args, Clone, Debug, Default)]
pub struct QuickstartArguments {
    /// Where to speak plain MQTT, instead of 1883 on every address
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<ListenAddress>,
    /// Where to speak MQTT over TLS, instead of 8883 on every address
    #[arg(long, value_name = "ADDR")]
    pub listen_tls: Vec<ListenAddress>,
}

/// Prepares what is missing, says how to publish, and runs the broker.
///
/// A configuration is used only if `--config` names it: an installed one has other ports and another data directory.
///
/// # Errors
/// Which file or port could not be had, and what to do.
pub fn run(global: &GlobalArguments, arguments: &QuickstartArguments) -> Result<(), Failure> {
    let config = global.config.as_deref().map(Config::load).transpose()?.unwrap_or_default();
    logging::start(config.log_level, LevelFilter::Info)?;
    let path = Surroundings::of_this_process().quickstart_data_dir(global, &config);
    let listening = listening(arguments, &config, &path).checked()?;
    // Before anything is changed: the directory, or the ports, may be those of a broker at work.
    let claim = Claim::take(&path, &listening.sockets()).map_err(serve::failure)?;
    tell(&format!("data directory  {}", path.display()));
    let hosts = certs::hosts(&[]);
    match certs::make(&path, &hosts)? {
        Made::New(_) => tell(&format!("certificates    made, for {}", hosts.join(", "))),
        Made::AlreadyThere => tell("certificates    found"),
    }
    let authority = place_authority(&path, Path::new(""))?;
    let token = prepare_device(claim.data_dir())?;
    print_commands(&listening, &authority, token.as_ref())?;
    let mut setup = listening.into_setup(path, config);
    setup.on_stored = Some(Box::new(show));
    event_loop::run_with(setup, claim).map_err(serve::failure)
}

/// Each kind of address has its own default here: moving one port leaves the other where the guide expects it.
fn listening(arguments: &QuickstartArguments, config: &Config, data_dir: &Path) -> Listening {
    let pick = |flags: &[ListenAddress], file: &Option<Vec<ListenAddress>>, port| match (flags, file) {
        ([], Some(file)) => file.clone(),
        ([], None) => vec![ListenAddress::Everywhere(port)],
        (flags, _) => flags.to_vec(),
    };
    Listening {
        plain: pick(&arguments.listen, &config.listen, PORT),
        tls: pick(&arguments.listen_tls, &config.listen_tls, PORT_TLS),
        // It is made if it is missing.
        certificate: Some(serve::certificate_paths(data_dir)),
    }
}

/// Puts the authority's certificate where the guide expects it, and gives back the name to use for it.
///
/// Another file of that name is left alone.
fn place_authority(data_dir: &Path, working_dir: &Path) -> Result<String, Failure> {
    let ours = data_dir.join(certificates::CA_CERTIFICATE);
    let pem = fs::read(&ours)
        .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", ours.display())))?;
    let beside = working_dir.join(certificates::CA_CERTIFICATE);
    let trouble = match fs::read(&beside) {
        Ok(found) if found == pem => None,
        Ok(_) => Some("it belongs to another authority".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_new(&beside, &pem).err().map(|e| e.to_string())
        }
        Err(error) => Some(error.to_string()),
    };
    let Some(trouble) = trouble else { return Ok(name_for_a_shell(&beside)) };
    tell(&format!(
        "note: cannot use {} in the working directory: {trouble}; the command below names {} instead",
        certificates::CA_CERTIFICATE,
        ours.display()
    ));
    Ok(name_for_a_shell(&ours))
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(contents)
}

fn name_for_a_shell(path: &Path) -> String {
    shell_word(&path.to_string_lossy()).into_owned()
}

/// Makes the device if it is missing; its token, if it is known.
fn prepare_device(data_dir: &DataDir) -> Result<Option<Token>, Failure> {
    let name = DeviceName::parse(DEVICE).expect("a plain word is a name");
    let file = demo_token::path(data_dir.path());
    let mut registry = Registry::open(data_dir, &StoreOptions::default())?;
    let device = registry.find(&name)?;
    if device.as_ref().is_some_and(|device| !device.enabled) {
        tell(&format!("note: {DEVICE} is disabled; `forebay device enable {DEVICE}` lets it in"));
    }
    let in_file = demo_token::read(&file).map_err(|error| cannot("read", &file, &error))?;
    match demo_token::compare(device.as_ref(), in_file) {
        Found::Known(token) => {
            tell(&format!("device          {DEVICE}, found"));
            Ok(Some(token))
        }
        Found::NoDevice => {
            let token = add_device(&mut registry, &name, &file)?;
            tell(&format!("device          {DEVICE}, made"));
            Ok(Some(token))
        }
        Found::FileMissing => Ok(lost(data_dir.path(), &format!("{} is missing", file.display()))),
        Found::FileOutdated => Ok(lost(data_dir.path(), "it was changed since")),
    }
}

/// The file comes first: a device whose token nobody knows would be of no use.
fn add_device(registry: &mut Registry, name: &DeviceName, file: &Path) -> Result<Token, Failure> {
    let mut unwritten = None;
    let token = with_fresh_token(|token| {
        unwritten = demo_token::write(file, token).err();
        if unwritten.is_some() { Ok(()) } else { registry.add(name, &token.hash(), now()).map(drop) }
    })?;
    unwritten.map_or(Ok(token), |error| Err(cannot("write", file, &error)))
}

fn cannot(what: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!(
        "cannot {what} {}: {error}; check who owns the data directory, or give another one with --data-dir",
        file.display()
    ))
}

fn lost(data_dir: &Path, why: &str) -> Option<Token> {
    tell(&format!("device          {DEVICE}, found"));
    tell(&format!(
        "note: the token of {DEVICE} is not known here, {why}; put yours in place of TOKEN below, \
         or make a new one with `forebay device rotate {DEVICE} --data-dir {}`",
        name_for_a_shell(data_dir)
    ));
    None
}

fn print_commands(listening: &Listening, authority: &str, token: Option<&Token>) -> Result<(), Failure> {
    tell(
        "\nPaste one of these into another terminal of this machine (mosquitto_pub is in mosquitto-clients):\n",
    );
    for command in commands(listening, authority, token.map_or("TOKEN", Token::reveal)) {
        print_line(&command)?;
    }
    tell("\nEach reading is shown here once it is on disk; times are UTC. Ctrl-C ends it.\n");
    Ok(())
}

/// The commands to paste, as the hub's guide writes them.
fn commands(listening: &Listening, authority: &str, token: &str) -> Vec<String> {
    let command = |address: &ListenAddress, authority: &str| {
        // A free port is not known before it is taken; it is announced as the broker starts to listen.
        let port = match address.port() {
            0 => "PORT".to_owned(),
            port => port.to_string(),
        };
        format!(
            "mosquitto_pub {authority}-d -q 1 -h \"{}\" -p \"{port}\" -t \"v1/devices/me/telemetry\" \
             -u \"{token}\" -m {{\"temperature\":25}}",
            address.host_from_here()
        )
    };
    let plain = listening.plain.first().map(|address| command(address, ""));
    let tls = listening.tls.first().map(|address| command(address, &format!("--cafile {authority} ")));
    plain.into_iter().chain(tls).collect()
}

/// Shows what was stored; a terminal that is gone stops nothing.
fn show(records: &[Record]) {
    let now_ms = Timestamp::now().as_millisecond();
    let mut output = io::stdout().lock();
    for record in records {
        let _ = writeln!(output, "{}", stored_line(record, now_ms));
    }
    let _ = output.flush();
}

fn stored_line(record: &Record, now_ms: i64) -> String {
    let time = to_the_second(record.device_ts.unwrap_or(now_ms));
    format!("{}  {time}  {}", one_line(record.device.as_str()), json_line(&record.values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay::{clock::Mono, ids::Seq};

    const TOKEN: &str = "7qPzL0aXw2RnT5vYb9Kd";

    fn addresses(list: &[&str]) -> Vec<ListenAddress> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn on(plain: &[&str], tls: &[&str]) -> Listening {
        Listening { plain: addresses(plain), tls: addresses(tls), certificate: None }
    }

    fn data_dir_with_authority(pem: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(certificates::CA_CERTIFICATE), pem).expect("written");
        directory
    }

    #[test]
    fn the_commands_are_those_of_the_guide() {
        assert_eq!(
            commands(&on(&["1883"], &["8883"]), "ca-root.pem", TOKEN),
            [
                "mosquitto_pub -d -q 1 -h \"localhost\" -p \"1883\" -t \"v1/devices/me/telemetry\" \
                 -u \"7qPzL0aXw2RnT5vYb9Kd\" -m {\"temperature\":25}",
                "mosquitto_pub --cafile ca-root.pem -d -q 1 -h \"localhost\" -p \"8883\" \
                 -t \"v1/devices/me/telemetry\" -u \"7qPzL0aXw2RnT5vYb9Kd\" -m {\"temperature\":25}",
            ]
        );
    }

    #[test]
    fn the_commands_follow_where_it_listens() {
        let commands = commands(&on(&["192.168.1.5:2883"], &["127.0.0.1:0"]), "ca-root.pem", TOKEN);
        assert!(commands[0].contains("-h \"192.168.1.5\" -p \"2883\""), "{}", commands[0]);
        assert!(commands[1].contains("-h \"localhost\" -p \"PORT\""), "{}", commands[1]);
    }

    #[test]
    fn moving_one_port_leaves_the_other_where_it_was() {
        let arguments =
            QuickstartArguments { listen: addresses(&["2883"]), ..QuickstartArguments::default() };
        let found = listening(&arguments, &Config::default(), Path::new("/nowhere"));
        assert_eq!((found.plain, found.tls), (addresses(&["2883"]), addresses(&["8883"])));
        let config = Config { listen_tls: Some(addresses(&["9883"])), ..Config::default() };
        let found = listening(&QuickstartArguments::default(), &config, Path::new("/nowhere"));
        assert_eq!((found.plain, found.tls), (addresses(&["1883"]), addresses(&["9883"])));
    }

    #[test]
    fn the_authoritys_certificate_is_copied_once() {
        let (data, working) = (data_dir_with_authority("ours"), tempfile::tempdir().expect("a directory"));
        let copy = working.path().join(certificates::CA_CERTIFICATE);
        for _ in 0..2 {
            let name = place_authority(data.path(), working.path()).expect("placed");
            assert_eq!(name, copy.display().to_string());
        }
        assert_eq!(fs::read_to_string(copy).expect("there"), "ours");
    }

    #[test]
    fn another_authoritys_certificate_is_left_alone_and_ours_is_named() {
        let (data, working) = (data_dir_with_authority("ours"), data_dir_with_authority("another's"));
        let name = place_authority(data.path(), working.path()).expect("placed");
        assert_eq!(name, data.path().join(certificates::CA_CERTIFICATE).display().to_string());
        let kept = fs::read_to_string(working.path().join(certificates::CA_CERTIFICATE));
        assert_eq!(kept.expect("there"), "another's");
    }

    #[test]
    fn a_working_directory_that_cannot_be_written_is_no_obstacle() {
        let data = data_dir_with_authority("ours");
        let name = place_authority(data.path(), &data.path().join("missing")).expect("placed");
        assert_eq!(name, data.path().join(certificates::CA_CERTIFICATE).display().to_string());
    }

    #[test]
    fn a_second_run_knows_the_token_of_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::open(directory.path()).expect("opened");
        let first = prepare_device(&data_dir).expect("prepared").expect("a token");
        let second = prepare_device(&data_dir).expect("prepared").expect("a token");
        assert_eq!(first, second);
    }

    #[test]
    fn a_token_that_was_rotated_or_whose_file_is_gone_is_not_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::open(directory.path()).expect("opened");
        prepare_device(&data_dir).expect("prepared");
        let name = DeviceName::parse(DEVICE).expect("a name");
        let mut registry = Registry::open(&data_dir, &StoreOptions::default()).expect("opened");
        registry.set_token(&name, &Token::parse("another").expect("a token").hash()).expect("rotated");
        assert_eq!(prepare_device(&data_dir), Ok(None));
        fs::remove_file(demo_token::path(directory.path())).expect("removed");
        assert_eq!(prepare_device(&data_dir), Ok(None));
    }

    #[test]
    fn a_device_that_was_removed_is_made_anew_with_another_token() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::open(directory.path()).expect("opened");
        let first = prepare_device(&data_dir).expect("prepared").expect("a token");
        let name = DeviceName::parse(DEVICE).expect("a name");
        let mut registry = Registry::open(&data_dir, &StoreOptions::default()).expect("opened");
        registry.remove(&name).expect("removed");
        let second = prepare_device(&data_dir).expect("prepared").expect("a token");
        assert_ne!(first, second);
    }

    #[test]
    fn a_token_file_that_cannot_be_written_is_named_and_no_device_is_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::open(directory.path()).expect("opened");
        fs::create_dir(directory.path().join("demo.token.new")).expect("in the way");
        let Err(Failure::Failed(message)) = prepare_device(&data_dir) else { panic!("must fail") };
        assert!(message.starts_with("cannot write ") && message.contains("demo.token"), "{message}");
        let registry = Registry::open(&data_dir, &StoreOptions::default()).expect("opened");
        assert_eq!(registry.identities().expect("listed").len(), 0);
    }

    #[test]
    fn a_stored_reading_is_one_line_with_the_devices_own_time_if_it_gave_one() {
        let record = Record {
            seq: Seq(1),
            device: DeviceName::parse(DEVICE).expect("a name"),
            received: Mono(0),
            device_ts: None,
            values: r#"{"temperature":25}"#.to_owned(),
        };
        let now_ms = 1_795_497_055_123;
        assert_eq!(stored_line(&record, now_ms), r#"demo  2026-11-24 05:10:55  {"temperature":25}"#);
        let dated = Record { device_ts: Some(0), ..record };
        assert_eq!(stored_line(&dated, now_ms), r#"demo  1970-01-01 00:00:00  {"temperature":25}"#);
    }
}
