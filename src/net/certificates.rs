//! Makes the gateway's own CA and server certificate, so that TLS works without anybody knowing X.509.
//!
//! Devices are given `ca-root.pem` once. The server's certificate can be renewed, for new names or a later end,
//! without touching them, as long as `ca-root.key` was kept. Used by the command line only; the broker reads the
//! files through [`super::tls`].

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, DnsName, pem::PemObject};
use sha2::{Digest, Sha256};

use crate::whole_file::{self, Owner};

/// The CA's certificate: what devices are given.
pub const CA_CERTIFICATE: &str = "ca-root.pem";
/// The CA's key: needed only to renew the server's certificate.
pub const CA_KEY: &str = "ca-root.key";
/// The server's certificate, followed by the CA's.
pub const SERVER_CERTIFICATE: &str = "server.pem";
/// The server's key.
pub const SERVER_KEY: &str = "server.key";

const CA_YEARS: i32 = 20;
const SERVER_YEARS: i32 = 10;
/// 2026-01-01: a clock that says less is a board without a battery, and its certificates must last all the same.
const NOW_MIN_S: i64 = 1_767_225_600;
/// 2100-01-01: a clock that says more is as wrong.
const NOW_MAX_S: i64 = 4_102_444_800;

/// Whether the CA's key is kept beside the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaKey {
    /// Written to [`CA_KEY`], so that [`renew`] can use it.
    Keep,
    /// Used once and forgotten: nobody can ever sign again, and a renewal means a new CA for every device.
    Discard,
}

/// What [`init`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// These files were written.
    New(Vec<PathBuf>),
    /// A complete set was there; nothing was touched.
    AlreadyThere,
}

/// Why no certificate was made.
#[derive(Debug)]
pub enum CertificateError {
    /// Some files of a set are there and some are not; overwriting could lock devices out.
    Partial {
        /// The files that exist.
        present: Vec<PathBuf>,
        /// The files that do not.
        missing: Vec<PathBuf>,
    },
    /// No name or address to certify was given.
    NoHost,
    /// Neither a host name nor an IP address.
    NotAHost(String),
    /// A file could not be read.
    Unreadable(PathBuf, io::Error),
    /// A file could not be written.
    Unwritable(PathBuf, io::Error),
    /// A key file holds no key we can use.
    BadKey(PathBuf, rcgen::Error),
    /// The CA's key and certificate do not belong together.
    WrongCaKey(PathBuf),
    /// The certificate library failed.
    Make(rcgen::Error),
}

/// Makes a CA and a server certificate for `hosts` in `dir`, which is created if need be; overwrites nothing.
///
/// `hosts` are host names and IP addresses, told apart here. Keys get mode 0600. Validity starts in 1970, because
/// boards boot there, and ends 20 (CA) and 10 (server) years after the later of `now_unix_s` and 2026.
///
/// # Errors
/// See [`CertificateError`]; files written before the failure are removed again.
pub fn init(dir: &Path, hosts: &[String], now_unix_s: i64, ca_key: CaKey) -> Result<Made, CertificateError> {
    let (present, missing) = take_stock(dir);
    if missing.is_empty() {
        return Ok(Made::AlreadyThere);
    }
    if !present.is_empty() {
        return Err(CertificateError::Partial { present, missing });
    }
    let names = subject_names(hosts)?;
    let authority = KeyPair::generate()?;
    let server = KeyPair::generate()?;
    let ca_pem = ca_params(&authority, now_unix_s).self_signed(&authority)?.pem();
    let chain = server_chain(names, &server, &authority, &ca_pem, now_unix_s)?;

    let mut files = vec![(SERVER_KEY, server.serialize_pem(), 0o600)];
    if ca_key == CaKey::Keep {
        files.push((CA_KEY, authority.serialize_pem(), 0o600));
    }
    files.push((SERVER_CERTIFICATE, chain, 0o644));
    files.push((CA_CERTIFICATE, ca_pem, 0o644));
    write_all(dir, &files).map(Made::New)
}

/// Replaces the server's certificate by one for `hosts` that is valid from now on for another 10 years.
///
/// Key, CA and devices stay as they are; a running broker takes the new one over on SIGHUP. The file is replaced in
/// one step.
///
/// # Errors
/// See [`CertificateError`]; the old certificate is then still there.
pub fn renew(dir: &Path, hosts: &[String], now_unix_s: i64) -> Result<(), CertificateError> {
    let names = subject_names(hosts)?;
    let authority = read_key(&dir.join(CA_KEY))?;
    let server = read_key(&dir.join(SERVER_KEY))?;
    let ca_path = dir.join(CA_CERTIFICATE);
    let ca_pem =
        fs::read_to_string(&ca_path).map_err(|error| CertificateError::Unreadable(ca_path.clone(), error))?;
    if !certifies(&ca_pem, &authority) {
        return Err(CertificateError::WrongCaKey(dir.join(CA_KEY)));
    }
    let chain = server_chain(names, &server, &authority, &ca_pem, now_unix_s)?;
    let path = dir.join(SERVER_CERTIFICATE);
    let replaced = whole_file::replace(&path, chain.as_bytes(), 0o644, Owner::OfDirectory);
    replaced.map_err(|error| CertificateError::Unwritable(path, error))
}

/// The names and addresses by which devices may know this machine: its name, `NAME.local`, `localhost`, and the
/// address of each interface; IPv6 link-local addresses are left out, no certificate can name their interface.
pub fn default_hosts() -> Vec<String> {
    let uname = rustix::system::uname();
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        log::debug!("cannot list the interfaces: {error}");
        Vec::new()
    });
    let addresses = interfaces.iter().map(|interface| interface.ip());
    hosts_of(&uname.nodename().to_string_lossy(), addresses)
}

fn hosts_of(nodename: &str, addresses: impl Iterator<Item = IpAddr>) -> Vec<String> {
    let mut hosts = Vec::new();
    let label = nodename.split('.').next().unwrap_or_default();
    if label != "localhost" && is_dns_name(nodename) {
        hosts.push(nodename.to_owned());
        hosts.push(format!("{label}.local"));
    }
    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    hosts.extend(addresses.filter(|ip| !is_link_local_v6(*ip)).map(|ip| ip.to_string()));
    let mut seen = BTreeSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts
}

fn is_link_local_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn is_dns_name(host: &str) -> bool {
    DnsName::try_from(host).is_ok()
}

/// The files of a set that exist, and the required ones that do not; the CA's key may be kept elsewhere.
fn take_stock(dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let paths = [CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY, CA_KEY].map(|name| dir.join(name));
    let (present, mut missing): (Vec<_>, Vec<_>) =
        paths.into_iter().partition(|path| path.symlink_metadata().is_ok());
    missing.retain(|path| !path.ends_with(CA_KEY));
    (present, missing)
}

fn subject_names(hosts: &[String]) -> Result<Vec<SanType>, CertificateError> {
    if hosts.is_empty() {
        return Err(CertificateError::NoHost);
    }
    hosts.iter().map(|host| subject_name(host)).collect()
}

fn subject_name(host: &str) -> Result<SanType, CertificateError> {
    if let Ok(ip) = host.parse() {
        return Ok(SanType::IpAddress(ip));
    }
    let not_a_host = || CertificateError::NotAHost(host.to_owned());
    if !is_dns_name(host.strip_prefix("*.").unwrap_or(host)) {
        return Err(not_a_host());
    }
    host.try_into().map(SanType::DnsName).map_err(|_| not_a_host())
}

/// What the CA's certificate says; its name follows from its key alone, so [`renew`] can sign without reading it.
fn ca_params(authority: &KeyPair, now_unix_s: i64) -> CertificateParams {
    let fingerprint = Sha256::digest(authority.der_bytes());
    let id: String = fingerprint.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("forebay gateway CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now_unix_s, CA_YEARS);
    params
}

fn server_chain(
    names: Vec<SanType>,
    server: &KeyPair,
    authority: &KeyPair,
    ca_pem: &str,
    now_unix_s: i64,
) -> Result<String, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("forebay MQTT broker");
    params.serial_number = Some(serial_number(server, &names, now_unix_s));
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now_unix_s, SERVER_YEARS);
    let issuer = Issuer::new(ca_params(authority, now_unix_s), authority);
    let leaf = params.signed_by(server, &issuer)?;
    Ok(format!("{}{ca_pem}", leaf.pem()))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// A number for this certificate that a renewal does not repeat, although it keeps the key.
fn serial_number(server: &KeyPair, names: &[SanType], now_unix_s: i64) -> SerialNumber {
    let mut hash = Sha256::new();
    hash.update(server.der_bytes());
    hash.update(now_unix_s.to_be_bytes());
    hash.update(format!("{names:?}"));
    let mut number: [u8; 32] = hash.finalize().into();
    number[0] &= 0x7f; // a positive number
    SerialNumber::from_slice(&number[..16])
}

fn set_validity(params: &mut CertificateParams, now_unix_s: i64, years: i32) {
    let end = years_after(now_unix_s, years);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after =
        rcgen::date_time_ymd(end.year().into(), end.month().unsigned_abs(), end.day().unsigned_abs());
}

fn years_after(now_unix_s: i64, years: i32) -> Date {
    let now = Timestamp::from_second(now_unix_s.clamp(NOW_MIN_S, NOW_MAX_S))
        .expect("a time from 2026 to 2100 is within the calendar");
    let today = now.to_zoned(TimeZone::UTC).date();
    today.checked_add(years.years()).expect("a few decades after 2100 are within the calendar")
}

/// Whether the certificate in `ca_pem` is for this key.
fn certifies(ca_pem: &str, authority: &KeyPair) -> bool {
    let Ok(certificate) = CertificateDer::from_pem_slice(ca_pem.as_bytes()) else { return false };
    let key = authority.der_bytes();
    certificate.windows(key.len()).any(|bytes| bytes == key)
}

fn read_key(path: &Path) -> Result<KeyPair, CertificateError> {
    let text =
        fs::read_to_string(path).map_err(|error| CertificateError::Unreadable(path.to_owned(), error))?;
    KeyPair::from_pem(&text).map_err(|error| CertificateError::BadKey(path.to_owned(), error))
}

/// Writes all files or none.
fn write_all(dir: &Path, files: &[(&str, String, u32)]) -> Result<Vec<PathBuf>, CertificateError> {
    fs::create_dir_all(dir).map_err(|error| CertificateError::Unwritable(dir.to_owned(), error))?;
    let mut written = Vec::new();
    for (name, text, mode) in files {
        let path = dir.join(name);
        // The authority's key is none of the service's business.
        let owner = if *name == CA_KEY { Owner::Writer } else { Owner::OfDirectory };
        if let Err(error) = whole_file::create(&path, text.as_bytes(), *mode, owner) {
            for path in &written {
                let _ = fs::remove_file(path);
            }
            return Err(CertificateError::Unwritable(path, error));
        }
        written.push(path);
    }
    whole_file::sync_directory_of(&dir.join(CA_CERTIFICATE))
        .map_err(|error| CertificateError::Unwritable(dir.to_owned(), error))?;
    Ok(written)
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self::Make(error)
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partial { present, missing } => write!(
                f,
                "made no certificates: {} exists but {} does not; restore what is missing, or move the rest away to \
                 begin anew (every device then needs the new {CA_CERTIFICATE})",
                listed(present),
                listed(missing),
            ),
            Self::NoHost => f.write_str(
                "made no certificate: no host name or address was given; name those by which devices reach this \
                 gateway",
            ),
            Self::NotAHost(host) => write!(
                f,
                "made no certificate: {host:?} is neither a host name nor an IP address; give it without scheme, \
                 port or spaces"
            ),
            Self::Unreadable(path, error) if path.ends_with(CA_KEY) && error.kind() == io::ErrorKind::NotFound => {
                write!(
                    f,
                    "cannot renew the certificate: the CA's key {} is not there; put it back, or move all \
                     certificates away and make new ones (every device then needs the new {CA_CERTIFICATE})",
                    path.display()
                )
            }
            Self::Unreadable(path, error) => {
                write!(f, "cannot read {}: {error}; check the directory and its owner", path.display())
            }
            Self::Unwritable(path, error) => {
                write!(f, "cannot write {}: {error}; check the directory, its owner and its space", path.display())
            }
            Self::BadKey(path, error) => {
                write!(f, "cannot use the key {}: {error}; restore it from a backup", path.display())
            }
            Self::WrongCaKey(path) => write!(
                f,
                "cannot renew the certificate: {} does not belong to {CA_CERTIFICATE}; restore both from the same \
                 backup",
                path.display()
            ),
            Self::Make(error) => write!(f, "cannot make a certificate: {error}"),
        }
    }
}

impl std::error::Error for CertificateError {}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto::ring,
        pki_types::{ServerName, UnixTime},
    };
    use tempfile::TempDir;

    use super::*;

    const JUNE_2026: i64 = 1_780_272_000;
    const YEAR_S: i64 = 365 * 86_400;

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn made(names: &[&str], ca_key: CaKey) -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let outcome = init(dir.path(), &hosts(names), JUNE_2026, ca_key).expect("certificates");
        assert!(matches!(outcome, Made::New(_)));
        dir
    }

    /// Checks `server.pem` against `ca-root.pem` as a device would.
    fn verify(dir: &Path, host: &str, at_unix_s: i64) -> Result<(), rustls::Error> {
        let ca = CertificateDer::from_pem_file(dir.join(CA_CERTIFICATE)).expect("the CA");
        let mut roots = RootCertStore::empty();
        roots.add(ca).expect("a usable CA");
        let chain: Vec<_> = CertificateDer::pem_file_iter(dir.join(SERVER_CERTIFICATE))
            .expect("the chain")
            .collect::<Result<_, _>>()
            .expect("certificates");
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().expect("a verifier");
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at_unix_s.unsigned_abs()));
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at).map(drop)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("the file").permissions().mode() & 0o777
    }

    #[test]
    fn every_name_and_address_given_is_certified_and_no_other() {
        let names = ["gw-7", "gw-7.local", "localhost", "192.0.2.7", "2001:db8::7", "*.plant.example"];
        let dir = made(&names, CaKey::Keep);
        for name in ["gw-7", "gw-7.local", "localhost", "192.0.2.7", "2001:db8::7", "a.plant.example"] {
            verify(dir.path(), name, JUNE_2026).expect(name);
        }
        for name in ["gw-8", "192.0.2.8", "::1"] {
            verify(dir.path(), name, JUNE_2026).expect_err(name);
        }
    }

    #[test]
    fn a_board_that_boots_in_1970_accepts_the_certificate() {
        let dir = made(&["gw"], CaKey::Discard);
        verify(dir.path(), "gw", 60).expect("valid in 1970");
        verify(dir.path(), "gw", JUNE_2026 + 9 * YEAR_S).expect("valid for ten years");
        verify(dir.path(), "gw", JUNE_2026 + 11 * YEAR_S).expect_err("the server's has ended");
    }

    #[test]
    fn a_clock_without_a_battery_does_not_shorten_the_validity() {
        assert_eq!(years_after(0, 10).to_string(), "2036-01-01");
        assert_eq!(years_after(JUNE_2026, 20).to_string(), "2046-06-01");
        assert_eq!(
            years_after(1_835_395_200, 10).to_string(),
            "2038-02-28",
            "a leap day has no tenth birthday"
        );
        assert_eq!(years_after(i64::MAX, 20).to_string(), "2120-01-01");
    }

    #[test]
    fn keys_are_for_their_owner_only_and_the_ca_key_is_kept_on_demand() {
        let kept = made(&["gw"], CaKey::Keep);
        assert_eq!(mode(&kept.path().join(SERVER_KEY)), 0o600);
        assert_eq!(mode(&kept.path().join(CA_KEY)), 0o600);
        assert!(!made(&["gw"], CaKey::Discard).path().join(CA_KEY).exists());
    }

    #[test]
    fn a_complete_set_is_left_alone() {
        let dir = made(&["gw"], CaKey::Discard);
        let before = fs::read(dir.path().join(SERVER_KEY)).expect("read");
        let again = init(dir.path(), &hosts(&["other"]), JUNE_2026, CaKey::Keep).expect("nothing to do");
        assert_eq!(again, Made::AlreadyThere);
        assert_eq!(fs::read(dir.path().join(SERVER_KEY)).expect("read"), before);
    }

    #[test]
    fn a_partial_set_is_named_and_left_alone() {
        let dir = made(&["gw"], CaKey::Discard);
        fs::remove_file(dir.path().join(SERVER_KEY)).expect("remove");
        let error = init(dir.path(), &hosts(&["gw"]), JUNE_2026, CaKey::Keep).expect_err("partial");
        let words = error.to_string();
        assert!(words.contains("server.pem exists but") && words.contains("server.key does not"), "{words}");
        assert!(!dir.path().join(SERVER_KEY).exists());
    }

    #[test]
    fn what_was_written_before_a_failure_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("blocked")).expect("create");
        let files = [("first", String::new(), 0o600), ("blocked", String::new(), 0o600)];
        let error = write_all(dir.path(), &files).expect_err("the second exists");
        assert!(
            matches!(&error, CertificateError::Unwritable(path, _) if path.ends_with("blocked")),
            "{error:?}"
        );
        assert!(!dir.path().join("first").exists());
        assert!(dir.path().join("blocked").exists(), "it was not ours");
    }

    #[test]
    fn things_that_are_no_hosts_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for host in ["http://gw", "gw:8883", "a b", "", "gw..local", "*", "grüß"] {
            let error = init(dir.path(), &hosts(&[host]), 0, CaKey::Keep).expect_err(host);
            assert!(matches!(&error, CertificateError::NotAHost(named) if named == host), "{error:?}");
        }
        assert!(matches!(init(dir.path(), &[], 0, CaKey::Keep), Err(CertificateError::NoHost)));
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_renewal_certifies_new_names_under_the_same_ca() {
        let dir = made(&["gw"], CaKey::Keep);
        let (ca, old) =
            (fs::read(dir.path().join(CA_CERTIFICATE)), fs::read(dir.path().join(SERVER_CERTIFICATE)));
        renew(dir.path(), &hosts(&["gw", "192.0.2.9"]), JUNE_2026 + 9 * YEAR_S).expect("renewed");
        assert_eq!(fs::read(dir.path().join(CA_CERTIFICATE)).expect("read"), ca.expect("read"));
        assert_ne!(fs::read(dir.path().join(SERVER_CERTIFICATE)).expect("read"), old.expect("read"));
        verify(dir.path(), "192.0.2.9", JUNE_2026 + 18 * YEAR_S).expect("valid for another ten years");
        assert!(!dir.path().join("server.pem.new").exists());
    }

    #[test]
    fn a_renewal_without_the_right_ca_key_changes_nothing() {
        let dir = made(&["gw"], CaKey::Discard);
        let error = renew(dir.path(), &hosts(&["gw"]), JUNE_2026).expect_err("no CA key");
        assert!(error.to_string().contains("the CA's key"), "{error}");
        let other = made(&["gw"], CaKey::Keep);
        fs::copy(other.path().join(CA_KEY), dir.path().join(CA_KEY)).expect("copy");
        let error = renew(dir.path(), &hosts(&["gw"]), JUNE_2026).expect_err("another CA's key");
        assert!(matches!(error, CertificateError::WrongCaKey(_)));
        fs::write(dir.path().join(CA_KEY), "no key").expect("write");
        let error = renew(dir.path(), &hosts(&["gw"]), JUNE_2026).expect_err("no key");
        assert!(matches!(error, CertificateError::BadKey(..)));
        verify(dir.path(), "gw", JUNE_2026).expect("still the old one");
    }

    #[test]
    fn the_machine_is_known_by_its_names_and_addresses() {
        let addresses =
            ["127.0.0.1", "192.0.2.7", "fe80::1", "2001:db8::7"].map(|ip| ip.parse().expect("an address"));
        let expected = ["gw", "gw.local", "localhost", "127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"];
        assert_eq!(hosts_of("gw", addresses.into_iter()), expected);
        let none = std::iter::empty;
        assert_eq!(hosts_of("gw.plant.example", none())[..2], ["gw.plant.example", "gw.local"]);
        assert_eq!(hosts_of("gw.local", none())[..2], ["gw.local", "localhost"]);
        assert_eq!(hosts_of("(none)", none())[0], "localhost");
        assert_eq!(hosts_of("localhost", none())[0], "localhost");
    }

    #[test]
    fn the_default_hosts_can_all_be_certified() {
        let hosts = default_hosts();
        assert!(hosts.iter().any(|host| host == "localhost"));
        subject_names(&hosts).expect("all are hosts");
    }
}
