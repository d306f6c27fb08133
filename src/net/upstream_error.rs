//! Why the connection to the hub cannot be had or went away, in words for whoever keeps the gateway.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error};

use super::tls_client::{PinMismatch, clock_is_unset};

/// Why a connection to the hub failed.
#[derive(Debug)]
pub enum UpstreamError {
    /// The network's doing.
    Io(io::Error),
    /// TLS could not be agreed on, or a certificate is not to be trusted.
    Tls(Error),
    /// The clock is not set, and without it the hub's certificate cannot be judged.
    ClockUnset(Error),
}

impl From<io::Error> for UpstreamError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for UpstreamError {
    fn from(error: Error) -> Self {
        Self::judge(error, clock_is_unset())
    }
}

impl UpstreamError {
    /// A certificate out of its time is the clock's fault if that is not set.
    fn judge(error: Error, clock_is_unset: bool) -> Self {
        if is_about_time(&error) && clock_is_unset { Self::ClockUnset(error) } else { Self::Tls(error) }
    }
}

fn is_about_time(error: &Error) -> bool {
    use CertificateError as Fault;
    let Error::InvalidCertificate(fault) = error else { return false };
    matches!(
        fault,
        Fault::Expired | Fault::ExpiredContext { .. } | Fault::NotValidYet | Fault::NotValidYetContext { .. }
    )
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => io_words(error, f),
            Self::Tls(error) => tls_words(error, f),
            Self::ClockUnset(_) => f.write_str(
                "the clock of this machine is not set, and the hub's certificate cannot be judged without it: at the \
                 time this program was built it was not valid; it is tried again once the clock is set",
            ),
        }
    }
}

fn io_words(error: &io::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => f.write_str("connection refused: nothing listens there"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => f.write_str("the connection was reset"),
        io::ErrorKind::UnexpectedEof => f.write_str("the connection was closed"),
        _ => write!(f, "{error}"),
    }
}

fn tls_words(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use AlertDescription as Alert;
    use CertificateError as Fault;
    match error {
        Error::InvalidCertificate(fault) => match fault {
            Fault::UnknownIssuer => f.write_str(
                "the hub's certificate was signed by no authority we trust; give the authority's certificate as \
                 `ca_file`",
            ),
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => write!(
                f,
                "the hub's certificate is for another name than the URL says ({fault}); use one of its names in the \
                 URL, or `pin`"
            ),
            Fault::Expired | Fault::ExpiredContext { .. } => write!(
                f,
                "the hub's certificate has expired ({fault}); look at this machine's clock, else the hub must renew it"
            ),
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => write!(
                f,
                "the hub's certificate is not valid yet ({fault}); look at this machine's clock"
            ),
            fault => write!(f, "the hub's certificate cannot be trusted: {fault}"),
        },
        Error::Other(other) if other.0.is::<PinMismatch>() => write!(f, "{}", other.0),
        Error::AlertReceived(Alert::CertificateRequired) => f.write_str(
            "the hub wants a certificate from us; give `client_certificate` and `client_key`",
        ),
        Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate,
        ) => write!(f, "the hub does not accept our certificate ({error}); look at `client_certificate`"),
        Error::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity)
        | Error::PeerIncompatible(_) => write!(
            f,
            "the hub and this program have no TLS version or cipher in common ({error}); the hub needs TLS 1.2 or \
             1.3 with AES-GCM or ChaCha20"
        ),
        Error::InvalidMessage(_) => write!(
            f,
            "what answers does not speak TLS ({error}); mqtts:// is for the port with TLS, usually 8883, and \
             mqtt:// for the one without, usually 1883"
        ),
        error => write!(f, "TLS failed: {error}"),
    }
}

impl std::error::Error for UpstreamError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(error: impl Into<UpstreamError>) -> String {
        error.into().to_string()
    }

    #[test]
    fn each_kind_of_trouble_leads_to_its_remedy() {
        let invalid = |fault| words(Error::InvalidCertificate(fault));
        assert!(invalid(CertificateError::UnknownIssuer).contains("`ca_file`"));
        assert!(invalid(CertificateError::NotValidForName).contains("in the URL"));
        assert!(invalid(CertificateError::Expired).contains("clock"));
        assert!(invalid(CertificateError::NotValidYet).contains("clock"));
        assert!(invalid(CertificateError::BadSignature).contains("cannot be trusted"));
        let alert = |alert| words(Error::AlertReceived(alert));
        assert!(alert(AlertDescription::CertificateRequired).contains("`client_certificate`"));
        assert!(alert(AlertDescription::UnknownCA).contains("`client_certificate`"));
        assert!(alert(AlertDescription::ProtocolVersion).contains("in common"));
        assert!(words(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)).contains("mqtt://"));
        assert!(words(Error::DecryptError).starts_with("TLS failed: "));
        assert!(words(io::Error::from(io::ErrorKind::ConnectionRefused)).contains("nothing listens"));
    }

    #[test]
    fn an_unset_clock_is_told_as_such_and_only_where_it_is_to_blame() {
        let judged = |fault, unset| UpstreamError::judge(Error::InvalidCertificate(fault), unset);
        for fault in [CertificateError::NotValidYet, CertificateError::Expired] {
            let error = judged(fault.clone(), true);
            assert!(matches!(error, UpstreamError::ClockUnset(_)));
            assert!(error.to_string().contains("the clock of this machine is not set"));
            assert!(matches!(judged(fault, false), UpstreamError::Tls(_)));
        }
        assert!(matches!(judged(CertificateError::UnknownIssuer, true), UpstreamError::Tls(_)));
    }
}
