//! Why a TLS session failed, in words that lead somebody at the other end to the remedy.

use std::fmt;

use rustls::{AlertDescription, Error};

use super::tls_session::LEFTOVER_BYTES_MAX;

/// Why a session ended: always the peer's doing.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsError {
    /// The first byte was that of an MQTT CONNECT or an HTTP request, not of TLS.
    PlainBytes,
    /// A handshake message larger than any honest client sends.
    HandshakeTooLarge,
    /// A rule of TLS was broken, or both sides have nothing in common, or the peer refused us.
    Protocol(Error),
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        Self::Protocol(error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainBytes => f.write_str(
                "the client speaks plain MQTT or HTTP to the TLS port; switch TLS on in the client (mqtts, port \
                 8883), or let it use the plain port (mqtt, port 1883)",
            ),
            Self::HandshakeTooLarge => write!(
                f,
                "the client sent a TLS handshake message of more than {LEFTOVER_BYTES_MAX} bytes; no MQTT client \
                 needs that"
            ),
            Self::Protocol(error) => protocol_words(error, f),
        }
    }
}

fn protocol_words(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use AlertDescription as Alert;
    match error {
        Error::AlertReceived(Alert::UnknownCA) => {
            f.write_str("the client does not know our CA; give it the gateway's ca-root.pem")
        }
        Error::AlertReceived(Alert::BadCertificate | Alert::CertificateUnknown) => f.write_str(
            "the client refuses our certificate; give it the gateway's ca-root.pem, and let it connect to a name or \
             address the certificate was made for",
        ),
        Error::AlertReceived(Alert::CertificateExpired) => {
            f.write_str("the client finds our certificate expired; check its clock, or renew the certificate")
        }
        Error::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity)
        | Error::PeerIncompatible(_) => write!(
            f,
            "the client and this broker have no TLS version or cipher in common ({error}); the client needs TLS 1.2 \
             or 1.3 with AES-GCM or ChaCha20"
        ),
        Error::InvalidMessage(_) => write!(f, "the client sent something that is not TLS ({error})"),
        error => write!(f, "TLS failed: {error}"),
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_has_its_words() {
        let words = |error: Error| TlsError::Protocol(error).to_string();
        assert!(words(Error::AlertReceived(AlertDescription::BadCertificate)).contains("name or address"));
        assert!(words(Error::AlertReceived(AlertDescription::CertificateExpired)).contains("its clock"));
        assert!(words(rustls::PeerIncompatible::NoCipherSuitesInCommon.into()).contains("in common"));
        assert!(words(Error::AlertReceived(AlertDescription::ProtocolVersion)).contains("in common"));
        assert!(words(rustls::InvalidMessage::InvalidContentType.into()).contains("not TLS"));
        assert!(words(Error::DecryptError).starts_with("TLS failed: "));
    }

    #[test]
    fn the_other_errors_say_what_to_do() {
        assert!(TlsError::PlainBytes.to_string().contains("plain port"));
        assert!(TlsError::HandshakeTooLarge.to_string().contains("20480"));
    }
}
