//! `forebay serve`: settles what to listen on and with which certificate, then hands over to the loop.

use std::path::{Path, PathBuf};

use clap::Args;
use forebay::{
    event_loop::{self, CertificateFiles, Listen, RunError, Setup},
    net::listener::ListenerKind,
};
use log::LevelFilter;

use super::{Failure, GlobalArguments, logging, settings::Surroundings, uplink_source};
use crate::config::{CertificatePaths, Config, listen_address::ListenAddress};

/// The registered port of MQTT.
pub const PORT: u16 = 1883;
/// The registered port of MQTT over TLS.
pub const PORT_TLS: u16 = 8883;
/// Most addresses to listen on, of both kinds together.
pub const ADDRESSES_MAX: usize = 24;
/// The server's certificate in the data directory, if none is configured.
pub const CERTIFICATE_FILE: &str = "server.pem";
/// The server's private key in the data directory, if none is configured.
pub const KEY_FILE: &str = "server.key";

/// Flags of `forebay serve`; each wins over the configuration's key of the same name.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArguments {
    /// Where to speak plain MQTT: IP:PORT, [IPV6]:PORT, localhost:PORT or PORT [default: 1883, unless --listen-tls]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<ListenAddress>,
    /// Where to speak MQTT over TLS [default: 8883, unless --listen; if there is a certificate]
    #[arg(long, value_name = "ADDR")]
    pub listen_tls: Vec<ListenAddress>,
    /// The server's certificate chain, PEM [default: server.pem in the data directory, if there is one]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM [default: server.key in the data directory, if there is one]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
}

/// Where to listen, and the certificate to show there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Plain MQTT.
    pub plain: Vec<ListenAddress>,
    /// MQTT over TLS.
    pub tls: Vec<ListenAddress>,
    /// There is one if anything is in `tls`.
    pub certificate: Option<CertificatePaths>,
}

/// Runs the broker until it is told to stop.
///
/// # Errors
/// If the configuration is wrong, or the broker cannot start or go on.
pub fn run(global: &GlobalArguments, arguments: &ServeArguments) -> Result<(), Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level, LevelFilter::Info)?;
    let data_dir = surroundings.data_dir(global, &config)?;
    let listening = Listening::settle(arguments, &config, certificate_in(&data_dir))?;
    run_loop(listening.into_setup(data_dir, config))
}

/// Runs the loop on `setup`.
///
/// # Errors
/// If it cannot start or go on.
pub fn run_loop(setup: Setup) -> Result<(), Failure> {
    event_loop::run(setup).map_err(failure)
}

/// What kept the loop from starting or going on, in the words of the command line.
pub fn failure(error: RunError) -> Failure {
    Failure::Failed(match error {
        RunError::Listen(words) => {
            format!("{words}; --listen and --listen-tls, or the configuration, say where to listen")
        }
        error => error.to_string(),
    })
}

/// The certificate and key `forebay certs init` leaves in a data directory, if both are there.
pub fn certificate_in(data_dir: &Path) -> Option<CertificatePaths> {
    let paths = certificate_paths(data_dir);
    (paths.certificate.exists() && paths.key.exists()).then_some(paths)
}

/// Where they are, or would be.
pub fn certificate_paths(data_dir: &Path) -> CertificatePaths {
    CertificatePaths { certificate: data_dir.join(CERTIFICATE_FILE), key: data_dir.join(KEY_FILE) }
}

impl Listening {
    /// Lays flags over the file, and both over the defaults; `found` is the certificate in the data directory.
    ///
    /// # Errors
    /// If there is nothing to listen on, or too much, if TLS is asked for and there is no certificate, or if one is named
    /// and nothing would use it.
    pub fn settle(
        flags: &ServeArguments,
        config: &Config,
        found: Option<CertificatePaths>,
    ) -> Result<Self, Failure> {
        let named = given_certificate(flags).or_else(|| config.certificate.clone());
        let plain = given(&flags.listen, config.listen.as_ref());
        let tls = given(&flags.listen_tls, config.listen_tls.as_ref());
        if let (Some(named), Some(_), None) = (&named, &plain, &tls) {
            return Err(no_tls(named));
        }
        let certificate = named.or(found);
        let (plain, tls) = match (plain, tls) {
            (None, None) => {
                let tls = certificate.iter().map(|_| ListenAddress::Everywhere(PORT_TLS)).collect();
                (vec![ListenAddress::Everywhere(PORT)], tls)
            }
            (plain, tls) => (plain.unwrap_or_default(), tls.unwrap_or_default()),
        };
        Self { plain, tls, certificate }.checked()
    }

    /// Gives it back if the broker could listen like this.
    ///
    /// # Errors
    /// As [`Listening::settle`].
    pub fn checked(self) -> Result<Self, Failure> {
        if self.plain.is_empty() && self.tls.is_empty() {
            return Err(Failure::Usage(
                "nothing to listen on: the lists of addresses are empty; \
                 give --listen ADDR, or take `listen` and `listen_tls` out of the configuration for the usual ports"
                    .to_owned(),
            ));
        }
        if self.plain.len() + self.tls.len() > ADDRESSES_MAX {
            return Err(Failure::Usage(format!(
                "too many addresses to listen on: at most {ADDRESSES_MAX} are possible"
            )));
        }
        match self.tls.first() {
            Some(address) if self.certificate.is_none() => Err(no_certificate(*address)),
            _ => Ok(self),
        }
    }

    /// Every socket to listen on.
    pub fn sockets(&self) -> Vec<Listen> {
        sockets(&self.plain, ListenerKind::Mqtt).chain(sockets(&self.tls, ListenerKind::Mqtts)).collect()
    }

    /// Everything the loop needs; nobody is shown what is stored.
    pub fn into_setup(self, data_dir: PathBuf, config: Config) -> Setup {
        let listen = self.sockets();
        let files =
            |paths: CertificatePaths| CertificateFiles { certificate: paths.certificate, key: paths.key };
        let certificate = self.certificate.filter(|_| !self.tls.is_empty()).map(files);
        let Config { limits, device_grants, storage, uplink, .. } = config;
        let uplink = uplink_source::source(uplink, &data_dir);
        Setup { data_dir, limits, device_grants, storage, listen, certificate, on_stored: None, uplink }
    }
}

fn sockets(addresses: &[ListenAddress], kind: ListenerKind) -> impl Iterator<Item = Listen> {
    let sockets = addresses.iter().flat_map(|address| address.sockets());
    sockets.map(move |socket| Listen { address: socket.address, kind, optional: socket.optional })
}

/// Flags win over the file; an empty list in the file means none.
fn given(flags: &[ListenAddress], file: Option<&Vec<ListenAddress>>) -> Option<Vec<ListenAddress>> {
    if flags.is_empty() { file.cloned() } else { Some(flags.to_vec()) }
}

fn given_certificate(flags: &ServeArguments) -> Option<CertificatePaths> {
    let (certificate, key) = (flags.certificate.clone()?, flags.key.clone()?);
    Some(CertificatePaths { certificate, key })
}

fn no_tls(named: &CertificatePaths) -> Failure {
    Failure::Usage(format!(
        "the certificate {} is given, but nothing listens for TLS: addresses for plain MQTT alone are named; give \
         --listen-tls {PORT_TLS} or `listen_tls = [\"{PORT_TLS}\"]` in the configuration as well (`listen_tls = []` there \
         means none)",
        named.certificate.display()
    ))
}

fn no_certificate(address: ListenAddress) -> Failure {
    Failure::Usage(format!(
        "cannot speak TLS on {address}: there is no certificate; make one with `forebay certs init`, \
         or name yours with --certificate FILE --key FILE or with `certificate` and `key` in the configuration"
    ))
}

#[cfg(test)]
mod tests {
    use forebay::identity::DeviceGrants;

    use super::*;

    fn addresses(list: &[&str]) -> Vec<ListenAddress> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn flags(listen: &[&str], listen_tls: &[&str]) -> ServeArguments {
        ServeArguments {
            listen: addresses(listen),
            listen_tls: addresses(listen_tls),
            ..ServeArguments::default()
        }
    }

    fn file(listen: &[&str], listen_tls: &[&str]) -> Config {
        Config {
            listen: Some(addresses(listen)),
            listen_tls: Some(addresses(listen_tls)),
            ..Config::default()
        }
    }

    fn pair(name: &str) -> CertificatePaths {
        CertificatePaths { certificate: format!("{name}.pem").into(), key: format!("{name}.key").into() }
    }

    fn message(result: Result<Listening, Failure>) -> String {
        let Err(Failure::Usage(message)) = result else { panic!("{result:?}") };
        message
    }

    #[test]
    fn with_nothing_said_plain_listens_and_tls_if_there_is_a_certificate() {
        let settle = |found| {
            Listening::settle(&ServeArguments::default(), &Config::default(), found)
                .expect("something to listen on")
        };
        assert_eq!(settle(None), Listening { plain: addresses(&["1883"]), tls: vec![], certificate: None });
        let tls = addresses(&["8883"]);
        assert_eq!(
            settle(Some(pair("found"))),
            Listening { plain: addresses(&["1883"]), tls, certificate: Some(pair("found")) }
        );
    }

    #[test]
    fn naming_one_kind_of_address_means_only_that_kind() {
        let none = Config::default();
        let plain =
            Listening::settle(&flags(&["127.0.0.1:0"], &[]), &none, Some(pair("found"))).expect("plain");
        assert_eq!((plain.plain, plain.tls), (addresses(&["127.0.0.1:0"]), vec![]));
        let tls = Listening::settle(&flags(&[], &["127.0.0.1:0"]), &none, Some(pair("found"))).expect("tls");
        assert_eq!((tls.plain, tls.tls), (vec![], addresses(&["127.0.0.1:0"])));
    }

    #[test]
    fn a_flag_replaces_the_files_list_of_the_same_name_and_no_other() {
        let file = file(&["1"], &["2"]);
        let listening = Listening::settle(&flags(&["3"], &[]), &file, Some(pair("found"))).expect("both");
        assert_eq!((listening.plain, listening.tls), (addresses(&["3"]), addresses(&["2"])));
    }

    #[test]
    fn a_certificate_of_the_flags_wins_over_the_files_and_that_over_the_one_found() {
        let by_flag = ServeArguments {
            certificate: Some("flag.pem".into()),
            key: Some("flag.key".into()),
            ..ServeArguments::default()
        };
        let by_file = Config { certificate: Some(pair("file")), ..Config::default() };
        let settle = |flags: &ServeArguments, config: &Config| {
            Listening::settle(flags, config, Some(pair("found")))
                .expect("listening")
                .certificate
                .expect("one")
        };
        assert_eq!(settle(&by_flag, &by_file), pair("flag"));
        assert_eq!(settle(&ServeArguments::default(), &by_file), pair("file"));
        assert_eq!(settle(&ServeArguments::default(), &Config::default()), pair("found"));
    }

    #[test]
    fn tls_without_a_certificate_is_refused_with_what_to_do() {
        let message = message(Listening::settle(&flags(&[], &["8883"]), &Config::default(), None));
        assert!(message.starts_with("cannot speak TLS on 8883: there is no certificate; "), "{message}");
        assert!(message.contains("forebay certs init"), "{message}");
    }

    #[test]
    fn a_certificate_that_nothing_would_show_is_refused_unless_tls_is_declined() {
        let by_flag = ServeArguments {
            certificate: Some("mine.pem".into()),
            key: Some("mine.key".into()),
            ..flags(&["1883"], &[])
        };
        let message = message(Listening::settle(&by_flag, &Config::default(), None));
        assert!(message.contains("mine.pem") && message.contains("listen_tls"), "{message}");
        let by_file = Config { certificate: Some(pair("file")), ..file(&["1883"], &[]) };
        let nothing = ServeArguments::default();
        assert!(Listening::settle(&nothing, &by_file, None).is_ok(), "an empty list says so");
        let by_file = Config { listen_tls: None, ..by_file };
        assert!(Listening::settle(&nothing, &by_file, None).is_err());
        assert!(Listening::settle(&nothing, &Config { listen: None, ..by_file }, None).is_ok());
    }

    #[test]
    fn nothing_to_listen_on_is_refused() {
        let message = message(Listening::settle(&ServeArguments::default(), &file(&[], &[]), None));
        assert!(message.starts_with("nothing to listen on: "), "{message}");
    }

    #[test]
    fn more_addresses_than_there_is_room_for_are_refused() {
        let settle =
            |count| Listening::settle(&flags(&vec!["127.0.0.1:0"; count], &[]), &Config::default(), None);
        assert!(settle(ADDRESSES_MAX).is_ok());
        assert!(message(settle(ADDRESSES_MAX + 1)).starts_with("too many addresses"));
    }

    #[test]
    fn the_loop_is_given_every_socket_with_its_kind_and_no_certificate_it_does_not_need() {
        let listening = Listening {
            plain: addresses(&["1883"]),
            tls: addresses(&["127.0.0.1:8883"]),
            certificate: Some(pair("a")),
        };
        let grants = DeviceGrants { publish: vec!["a".to_owned()], subscribe: vec![] };
        let config = Config { device_grants: grants.clone(), ..Config::default() };
        let setup = listening.into_setup("/data".into(), config);
        let found: Vec<_> =
            setup.listen.iter().map(|l| (l.address.to_string(), l.kind, l.optional)).collect();
        let expected = [
            ("0.0.0.0:1883".to_owned(), ListenerKind::Mqtt, false),
            ("[::]:1883".to_owned(), ListenerKind::Mqtt, true),
            ("127.0.0.1:8883".to_owned(), ListenerKind::Mqtts, false),
        ];
        assert_eq!(found, expected);
        assert!(setup.certificate.is_some() && setup.on_stored.is_none());
        assert_eq!(setup.device_grants, grants);
        let plain = Listening { plain: addresses(&["1"]), tls: vec![], certificate: Some(pair("a")) };
        assert!(plain.into_setup("/data".into(), Config::default()).certificate.is_none());
    }

    #[test]
    fn a_certificate_counts_as_found_only_with_its_key() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(certificate_in(directory.path()), None);
        std::fs::write(directory.path().join(CERTIFICATE_FILE), "").expect("written");
        assert_eq!(certificate_in(directory.path()), None);
        std::fs::write(directory.path().join(KEY_FILE), "").expect("written");
        assert!(certificate_in(directory.path()).is_some());
    }
}
