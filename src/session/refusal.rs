//! Why a CONNECT is refused, and the code each version is told. Codes follow the hub's (its return code resolver).

use std::fmt;

use crate::mqtt::{ProtocolVersion, ReasonCode};

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No device has this token, or the device is disabled.
    UnknownToken,
    /// Nobody here has this token, and what the hub says of it is not known yet.
    Undecided,
    /// The user name is there and empty.
    EmptyToken,
    /// Neither user name nor password, but a client id: the hub takes the id for the culprit.
    ClientIdOnly,
    /// Neither user name, nor password, nor client id.
    Anonymous,
    /// A password without a user name.
    PasswordOnly,
    /// An empty client id without Clean Session. [MQTT-3.1.3-8]
    EmptyClientIdWithoutClean,
    /// A version 3.1 client id must have 1 to 23 bytes. [MQTT 3.1 §3.1]
    ClientIdLength,
    /// Enhanced authentication is not offered. [MQTT-4.12.0-1]
    AuthenticationMethod,
    /// The will's topic is outside the device's rights.
    WillTopic,
    /// Protocol levels other than 3, 4 and 5. [MQTT-3.1.2-2]
    ProtocolLevel(u8),
    /// The store is not able to take readings.
    StoreUnavailable,
    /// The device or local client connects more often than `connects_per_identity_per_min`.
    ConnectRate,
}

impl Refusal {
    /// What CONNACK says to a client of `version`; before 5.0 only the six codes that `encode` maps occur.
    pub fn code(self, version: ProtocolVersion) -> ReasonCode {
        let v5 = version == ProtocolVersion::V5;
        match self {
            Self::UnknownToken | Self::EmptyToken | Self::PasswordOnly if v5 => {
                ReasonCode::BadUserNameOrPassword
            }
            Self::AuthenticationMethod if v5 => ReasonCode::BadAuthenticationMethod,
            Self::UnknownToken | Self::EmptyToken | Self::PasswordOnly | Self::Anonymous => {
                ReasonCode::NotAuthorized
            }
            Self::AuthenticationMethod | Self::WillTopic => ReasonCode::NotAuthorized,
            Self::ClientIdOnly | Self::EmptyClientIdWithoutClean | Self::ClientIdLength => {
                ReasonCode::ClientIdentifierNotValid
            }
            Self::ProtocolLevel(_) => ReasonCode::UnsupportedProtocolVersion,
            Self::ConnectRate if v5 => ReasonCode::ConnectionRateExceeded,
            Self::StoreUnavailable | Self::Undecided | Self::ConnectRate => ReasonCode::ServerUnavailable,
        }
    }

    /// Whether it may have been a guess at a token, which slows the address down.
    pub fn may_be_a_guess(self) -> bool {
        matches!(self, Self::UnknownToken | Self::Undecided)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownToken => "nobody enabled has this access token",
            Self::Undecided => {
                "nobody here has this access token, and the hub has not said whether it knows it"
            }
            Self::EmptyToken => "the user name is empty; it must be the device's access token",
            Self::ClientIdOnly | Self::Anonymous => "no user name; it must be the device's access token",
            Self::PasswordOnly => {
                "a password without a user name; the user name must be the device's access token"
            }
            Self::EmptyClientIdWithoutClean => "an empty client id needs Clean Session",
            Self::ClientIdLength => "a version 3.1 client id must have 1 to 23 bytes",
            Self::AuthenticationMethod => "enhanced authentication is not offered",
            Self::WillTopic => "the will's topic is outside its rights",
            Self::ProtocolLevel(level) => {
                return write!(f, "protocol level {level} is not spoken here; 3, 4 and 5 are");
            }
            Self::StoreUnavailable => "the store cannot take readings at the moment",
            Self::ConnectRate => "its token is used to connect more often than connects_per_identity_per_min",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V311};
    use ReasonCode as R;

    #[test]
    fn the_codes_are_the_hubs() {
        let table = [
            (Refusal::UnknownToken, R::NotAuthorized, R::BadUserNameOrPassword),
            (Refusal::EmptyToken, R::NotAuthorized, R::BadUserNameOrPassword),
            (Refusal::ClientIdOnly, R::ClientIdentifierNotValid, R::ClientIdentifierNotValid),
            (Refusal::Anonymous, R::NotAuthorized, R::NotAuthorized),
            (Refusal::PasswordOnly, R::NotAuthorized, R::BadUserNameOrPassword),
            (Refusal::Undecided, R::ServerUnavailable, R::ServerUnavailable),
            (Refusal::StoreUnavailable, R::ServerUnavailable, R::ServerUnavailable),
            (Refusal::ConnectRate, R::ServerUnavailable, R::ConnectionRateExceeded),
            (Refusal::ProtocolLevel(6), R::UnsupportedProtocolVersion, R::UnsupportedProtocolVersion),
        ];
        for (refusal, v3, v5) in table {
            assert_eq!(refusal.code(V311), v3, "{refusal:?}");
            assert_eq!(refusal.code(V5), v5, "{refusal:?}");
        }
    }
}
