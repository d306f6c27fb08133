//! Reads the certificate and key from disk and makes the one TLS configuration all connections share.
//!
//! TLS 1.2 and 1.3, no client certificates (devices prove themselves with access tokens), no resumption: a full
//! handshake with a P-256 key is cheap, and sessions kept for devices that sleep for hours are memory for nothing.

use std::{
    env, fmt, fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};

/// What all TLS connections share: certificate, key, versions.
pub type TlsConfig = Arc<ServerConfig>;

/// Largest certificate or key file that is read, in bytes.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no TLS configuration.
#[derive(Debug)]
pub enum TlsSetupError {
    /// A file could not be read.
    Unreadable(PathBuf, io::Error),
    /// A file is not well-formed PEM; the words say how.
    NotPem(PathBuf, String),
    /// The certificate file holds no certificate.
    NoCertificate(PathBuf),
    /// The key file holds no private key.
    NoKey(PathBuf),
    /// The key is protected by a passphrase, and nobody is there to type it.
    KeyEncrypted(PathBuf),
    /// Others than its owner may read the key file; carries its mode bits.
    KeyExposed(PathBuf, u32),
    /// Certificate and key do not belong together.
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A file of certificate authorities could not be read.
    AuthorityUnreadable(PathBuf, io::Error),
    /// A file of certificate authorities holds none.
    NoAuthority(PathBuf),
    /// A certificate authority cannot be used; the words say why.
    BadAuthority(PathBuf, String),
    /// There is no authority by which a hub could be judged; the words say why.
    NoAuthorities(String),
    /// A host that can be no certificate's.
    NoServerName(String),
    /// The TLS library does not accept the pair.
    Refused {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What it said.
        error: rustls::Error,
    },
}

/// Makes the configuration from a PEM chain (the server's certificate first) and its key (PKCS#8, PKCS#1 or SEC1).
///
/// The key file must be readable by its owner only, unless it lies in `$CREDENTIALS_DIRECTORY`, which systemd guards.
///
/// # Errors
/// Which file is at fault, how, and what to do.
pub fn load_server_config(certificate: &Path, key: &Path) -> Result<TlsConfig, TlsSetupError> {
    let (chain, private_key) = read_pair(certificate, key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key))
        .map_err(|error| refused(certificate, key, error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A certificate chain and its key.
pub(super) type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a PEM chain and its key; see [`load_server_config`] for who may read the key.
pub(super) fn read_pair(certificate: &Path, key: &Path) -> Result<Pair, TlsSetupError> {
    let chain = read_chain(certificate)?;
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    Ok((chain, read_key(key, credentials.as_deref())?))
}

/// Reads the certificates of authorities.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    read_chain(path).map_err(|error| match error {
        TlsSetupError::NoCertificate(path) => TlsSetupError::NoAuthority(path),
        TlsSetupError::Unreadable(path, error) => TlsSetupError::AuthorityUnreadable(path, error),
        error => error,
    })
}

pub(super) fn refused(certificate: &Path, key: &Path, error: rustls::Error) -> TlsSetupError {
    let (certificate, key) = (certificate.to_owned(), key.to_owned());
    match error {
        rustls::Error::InconsistentKeys(_) => TlsSetupError::KeyMismatch { certificate, key },
        error => TlsSetupError::Refused { certificate, key, error },
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let (text, _) = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsSetupError::NoCertificate(path.to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(TlsSetupError::NotPem(path.to_owned(), error.to_string())),
    }
}

fn read_key(path: &Path, credentials: Option<&Path>) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    let (text, mode) = read(path)?;
    let guarded = credentials.is_some_and(|directory| path.starts_with(directory));
    if mode & 0o077 != 0 && !guarded {
        return Err(TlsSetupError::KeyExposed(path.to_owned(), mode & 0o7777));
    }
    if text.windows(b"ENCRYPTED".len()).any(|word| word == b"ENCRYPTED") {
        return Err(TlsSetupError::KeyEncrypted(path.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsSetupError::NoKey(path.to_owned()),
        error => TlsSetupError::NotPem(path.to_owned(), error.to_string()),
    })
}

/// Reads a file and the mode bits of the very file that was read.
fn read(path: &Path) -> Result<(Vec<u8>, u32), TlsSetupError> {
    let read = || {
        let file = fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        file.take(PEM_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    read().map_err(|error| TlsSetupError::Unreadable(path.to_owned(), error))
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) if error.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot read {}: {error}; a service has a user of its own: put the file in its data directory, owned by \
                 that directory's owner, or give it with LoadCredential= of systemd",
                path.display()
            ),
            Self::Unreadable(path, error) => write!(
                f,
                "cannot read {}: {error}; check the path and that this user may read it, or make certificates with \
                 `forebay certs init`",
                path.display()
            ),
            Self::NotPem(path, words) => {
                write!(f, "cannot use {}: it is not a valid PEM file ({words}); copy it anew", path.display())
            }
            Self::NoCertificate(path) => write!(
                f,
                "cannot use {}: it holds no certificate; it must contain the server's certificate and then those \
                 of its issuers, each between BEGIN CERTIFICATE and END CERTIFICATE",
                path.display()
            ),
            Self::NoKey(path) => write!(
                f,
                "cannot use {}: it holds no private key; point at the file with BEGIN PRIVATE KEY",
                path.display()
            ),
            Self::KeyEncrypted(path) => write!(
                f,
                "cannot use {0}: the key is protected by a passphrase; write it without one: \
                 `openssl pkey -in {0} -out server.key`",
                path.display()
            ),
            Self::KeyExposed(path, mode) => write!(
                f,
                "refused the key {0}: others than its owner may read it (mode {mode:04o}); `chmod 600 {0}`",
                path.display()
            ),
            Self::KeyMismatch { certificate, key } => write!(
                f,
                "cannot use {} with {}: the key does not belong to the first certificate of the file; the server's \
                 own certificate must come first",
                certificate.display(),
                key.display()
            ),
            Self::AuthorityUnreadable(path, error) => write!(
                f,
                "cannot read {}: {error}; check `ca_file`, and that this user may read the file",
                path.display()
            ),
            Self::NoAuthority(path) => write!(
                f,
                "cannot use {}: it holds no certificate; `ca_file` is the PEM file of the authority that signed the \
                 hub's certificate",
                path.display()
            ),
            Self::BadAuthority(path, words) => {
                write!(
                    f,
                    "cannot use {}: a certificate in it is none of an authority ({words})",
                    path.display()
                )
            }
            Self::NoAuthorities(words) => write!(
                f,
                "no certificate authority to judge the hub by: {words}; install ca-certificates, or give `ca_file` \
                 or `pin`"
            ),
            Self::NoServerName(host) => {
                write!(f, "{host} is neither a host's name nor an address, so no certificate can be for it")
            }
            Self::Refused { certificate, key, error } => write!(
                f,
                "cannot use {} with {}: {error}; use an ECDSA P-256 or RSA key of at least 2048 bits",
                certificate.display(),
                key.display()
            ),
        }
    }
}

impl std::error::Error for TlsSetupError {}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        os::unix::fs::OpenOptionsExt,
        sync::{LazyLock, OnceLock},
    };

    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
    use tempfile::TempDir;

    use super::*;
    use crate::net::certificates::{self, CaKey};

    /// Certificates for `localhost` and 127.0.0.1, made once for all tests.
    static MADE: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        certificates::init(dir.path(), &hosts, 0, CaKey::Discard).expect("certificates");
        dir
    });

    pub(in crate::net) fn server_config() -> Arc<ServerConfig> {
        static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
        let load = || load_server_config(&file("server.pem"), &file("server.key")).expect("a configuration");
        CONFIG.get_or_init(load).clone()
    }

    pub(in crate::net) fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
        client_config_trusting(&file("ca-root.pem"), version)
    }

    pub(in crate::net) fn client_config_trusting(
        ca: &Path,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).expect("the CA certificate");
        roots.add(ca).expect("a usable CA");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn file(name: &str) -> PathBuf {
        MADE.path().join(name)
    }

    fn write(dir: &TempDir, name: &str, text: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&path).expect("create");
        io::Write::write_all(&mut file, text).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        path
    }

    fn load_error(certificate: &Path, key: &Path) -> (TlsSetupError, String) {
        let error = load_server_config(certificate, key).expect_err("must be refused");
        let words = error.to_string();
        (error, words)
    }

    #[test]
    fn early_data_tickets_and_stored_sessions_are_off() {
        let config = server_config();
        assert_eq!((config.max_early_data_size, config.send_tls13_tickets), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
    }

    #[test]
    fn a_missing_file_is_named() {
        let (error, words) = load_error(Path::new("/nonexistent/server.pem"), &file("server.key"));
        assert!(matches!(error, TlsSetupError::Unreadable(..)));
        assert!(words.starts_with("cannot read /nonexistent/server.pem: "), "{words}");
    }

    #[test]
    fn a_key_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = fs::read(file("server.key")).expect("read");
        let open = write(&dir, "open.key", &text, 0o640);
        let (error, words) = load_error(&file("server.pem"), &open);
        assert!(matches!(error, TlsSetupError::KeyExposed(_, 0o640)));
        assert!(words.contains("(mode 0640)") && words.contains("chmod 600"), "{words}");
    }

    #[test]
    fn a_key_in_the_credentials_directory_may_have_any_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = fs::read(file("server.key")).expect("read");
        let open = write(&dir, "open.key", &text, 0o440);
        assert!(read_key(&open, Some(dir.path())).is_ok());
        assert!(read_key(&open, Some(Path::new("/elsewhere"))).is_err());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let other = tempfile::tempdir().expect("a directory");
        certificates::init(other.path(), &["other".to_owned()], 0, CaKey::Discard).expect("certificates");
        let (error, words) = load_error(&file("server.pem"), &other.path().join("server.key"));
        assert!(matches!(error, TlsSetupError::KeyMismatch { .. }), "{error:?}");
        assert!(words.contains("does not belong"), "{words}");
    }

    #[test]
    fn swapped_files_are_recognised() {
        let (error, _) = load_error(&file("server.key"), &file("server.pem"));
        assert!(matches!(error, TlsSetupError::NoCertificate(_)), "{error:?}");
        let dir = tempfile::tempdir().expect("a directory");
        let text = fs::read(file("server.pem")).expect("read");
        let (error, words) = load_error(&file("server.pem"), &write(&dir, "cert.key", &text, 0o600));
        assert!(matches!(error, TlsSetupError::NoKey(_)), "{error:?}");
        assert!(words.contains("BEGIN PRIVATE KEY"), "{words}");
    }

    #[test]
    fn a_key_with_a_passphrase_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let (error, words) = load_error(&file("server.pem"), &write(&dir, "locked.key", text, 0o600));
        assert!(matches!(error, TlsSetupError::KeyEncrypted(_)));
        assert!(words.contains("openssl pkey"), "{words}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let cut = write(&dir, "cut.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n", 0o644);
        let (error, words) = load_error(&cut, &file("server.key"));
        assert!(matches!(error, TlsSetupError::NotPem(..)), "{error:?}");
        assert!(words.contains("cut.pem"), "{words}");
    }

    #[test]
    fn a_key_the_library_cannot_use_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let (error, words) = load_error(&file("server.pem"), &write(&dir, "odd.key", text, 0o600));
        assert!(matches!(error, TlsSetupError::Refused { .. }), "{error:?}");
        assert!(words.contains("P-256"), "{words}");
    }
}
