//! TLS towards the hub: whom to trust, who we are, and what time it is.
//!
//! A gateway without a battery may have to judge a certificate before its clock is set. Time never counts as earlier
//! than the program itself is, so that most certificates can be judged all the same; what then still cannot be judged
//! is told as what it is, a clock that is not set.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};

use super::{
    pin::Pin,
    tls::{self, TlsSetupError},
};

/// When this program was built if its builder says so in SOURCE_DATE_EPOCH, else when this was written: no clock that
/// shows less is set. In seconds since 1970.
pub const BUILD_TIME_S: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => later(seconds(text.as_bytes()), WRITTEN_S),
    None => WRITTEN_S,
};
/// 2026-01-01.
const WRITTEN_S: u64 = 1_767_225_600;
/// Year 9999; a build time beyond it is a mistake.
const SECONDS_MAX: u64 = 253_402_300_799;

const _: () = assert!(BUILD_TIME_S >= WRITTEN_S);

/// Whom to trust at the other end, and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM; instead of the authorities the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate that proves who we are, and its key; both PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The key the hub must have. Without `ca_file`, this key alone is what is trusted, whatever its certificate says.
    pub pin: Option<Pin>,
}

/// Everything one connection with TLS needs.
#[derive(Clone)]
pub struct HubTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl HubTls {
    /// Reads the files `trust` names, for connections to `host`.
    ///
    /// # Errors
    /// Which file is at fault, how, and what to do.
    pub fn load(host: &str, trust: &Trust) -> Result<Self, TlsSetupError> {
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(inner.to_owned())
            .map_err(|_| TlsSetupError::NoServerName(host.to_owned()))?;
        Ok(Self { config: Arc::new(client_config(trust)?), name })
    }
}

/// Whether the system's clock shows a time before this program was built.
pub fn clock_is_unset() -> bool {
    system_time_s() < BUILD_TIME_S
}

fn client_config(trust: &Trust) -> Result<ClientConfig, TlsSetupError> {
    let provider = Arc::new(ring::default_provider());
    let authorities = match (&trust.ca_file, trust.pin) {
        (Some(file), _) => Some(authorities_in(file)?),
        (None, Some(_)) => None,
        (None, None) => Some(authorities_of_the_system()?),
    };
    let by_authority = match authorities {
        Some(roots) => {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.build().map_err(|error| TlsSetupError::NoAuthorities(error.to_string()))?)
        }
        None => None,
    };
    let verifier = HubVerifier { by_authority, pin: trust.pin, provider: provider.clone() };
    let unusable = |error: rustls::Error| TlsSetupError::NoAuthorities(error.to_string());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &trust.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, private_key) = tls::read_pair(certificate, key)?;
            let refused = |error| tls::refused(certificate, key, error);
            builder.with_client_auth_cert(chain, private_key).map_err(refused)?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn authorities_in(file: &Path) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in tls::read_authorities(file)? {
        roots
            .add(certificate)
            .map_err(|error| TlsSetupError::BadAuthority(file.to_owned(), error.to_string()))?;
    }
    Ok(roots)
}

fn authorities_of_the_system() -> Result<RootCertStore, TlsSetupError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One odd certificate among many is no reason to trust none.
    roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        _ if !roots.is_empty() => Ok(roots),
        Some(error) => Err(TlsSetupError::NoAuthorities(error.to_string())),
        None => Err(TlsSetupError::NoAuthorities("no certificate authorities are installed".to_owned())),
    }
}

/// Judges the hub's certificate: by the authorities, by the pin, or by both.
#[derive(Debug)]
struct HubVerifier {
    by_authority: Option<Arc<WebPkiServerVerifier>>,
    pin: Option<Pin>,
    provider: Arc<CryptoProvider>,
}

/// The hub has another key than the one it must have.
#[derive(Debug)]
pub(super) struct PinMismatch(Pin);

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(expected) = self.pin {
            let found = Pin::of(&ParsedCertificate::try_from(end_entity)?.subject_public_key_info());
            if found != expected {
                return Err(OtherError(Arc::new(PinMismatch(found))).into());
            }
        }
        match &self.by_authority {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The system's clock, never earlier than the program.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(later(system_time_s(), BUILD_TIME_S))))
    }
}

fn system_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

const fn later(one: u64, other: u64) -> u64 {
    if one > other { one } else { other }
}

/// Decimal digits as a number; 0 for anything else.
const fn seconds(digits: &[u8]) -> u64 {
    let (mut at, mut number) = (0, 0u64);
    while at < digits.len() {
        if !digits[at].is_ascii_digit() || number > SECONDS_MAX {
            return 0;
        }
        number = number * 10 + (digits[at] - b'0') as u64;
        at += 1;
    }
    if number > SECONDS_MAX { 0 } else { number }
}

impl fmt::Debug for HubTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the hub has another key than `pin` says: its pin is {}; if the hub was given a new key, change the pin, \
             else somebody is between",
            self.0
        )
    }
}

impl std::error::Error for PinMismatch {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::net::certificates::{self, CaKey};

    #[test]
    fn the_build_time_is_read_from_digits_and_nothing_else() {
        assert_eq!(seconds(b"1767225600"), 1_767_225_600);
        for odd in ["", "x", "-1", "1e9", "999999999999999999999999", "253402300800"] {
            assert_eq!(seconds(odd.as_bytes()), 0, "{odd}");
        }
        assert!(Clock.current_time().expect("a time").as_secs() >= BUILD_TIME_S);
    }

    #[test]
    fn a_file_that_holds_no_authority_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ca.pem");
        let load = || {
            let trust = Trust { ca_file: Some(file.clone()), ..Trust::default() };
            HubTls::load("hub.example", &trust).expect_err("must be refused").to_string()
        };
        assert!(load().starts_with(&format!("cannot read {}: ", file.display())));
        fs::write(&file, "").expect("written");
        assert!(load().contains("holds no certificate"));
        certificates::init(dir.path(), &["hub.example".to_owned()], 0, CaKey::Discard).expect("certificates");
        let trust = Trust { ca_file: Some(dir.path().join("ca-root.pem")), ..Trust::default() };
        assert!(HubTls::load("hub.example", &trust).is_ok());
    }

    #[test]
    fn a_name_and_an_address_are_both_names_and_nonsense_is_refused() {
        let trust = Trust { pin: Some(Pin::of(b"")), ..Trust::default() };
        for host in ["hub.example", "10.0.0.1", "::1", "[::1]", "localhost"] {
            assert!(HubTls::load(host, &trust).is_ok(), "{host}");
        }
        let error = HubTls::load("no name", &trust).expect_err("a space");
        assert!(error.to_string().contains("no name"), "{error}");
    }
}
