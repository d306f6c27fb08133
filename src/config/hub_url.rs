//! Where the hub is, in the operator's words: `mqtt://host`, `mqtts://host:8883`.
//!
//! Resolves nothing; a host may be a name or an address.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use crate::cli::serve::{PORT, PORT_TLS};

/// The other end of the uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, the registered one if none is named.
    pub port: u16,
}

/// Why a text is no such URL. What was given is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubUrlError {
    /// Neither `mqtt://` nor `mqtts://`.
    Scheme,
    /// Something before an `@`.
    UserInfo,
    /// No host, or one that cannot be.
    Host,
    /// No port from 1 to 65535.
    Port,
    /// Something behind host and port.
    Rest,
}

impl FromStr for HubUrl {
    type Err = HubUrlError;

    fn from_str(text: &str) -> Result<Self, HubUrlError> {
        let (tls, rest) = match (text.strip_prefix("mqtts://"), text.strip_prefix("mqtt://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(HubUrlError::Scheme),
        };
        if rest.contains('@') {
            return Err(HubUrlError::UserInfo);
        }
        let place = rest.strip_suffix('/').unwrap_or(rest);
        if place.contains(['/', '?', '#']) {
            return Err(HubUrlError::Rest);
        }
        let (host, port) = split(place)?;
        let port = match port {
            None if tls => PORT_TLS,
            None => PORT,
            Some(digits) => port_number(digits).ok_or(HubUrlError::Port)?,
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

fn split(place: &str) -> Result<(&str, Option<&str>), HubUrlError> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(HubUrlError::Host)?;
        // An address of one's own link names its interface behind a `%`.
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        address.parse::<Ipv6Addr>().map_err(|_| HubUrlError::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(HubUrlError::Port),
        };
    }
    let (host, port) = place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(letter) {
        return Err(HubUrlError::Host);
    }
    Ok((host, port))
}

fn port_number(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port > 0)
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        let host = &self.host;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{}", self.port)
        } else {
            write!(f, "{scheme}://{host}:{}", self.port)
        }
    }
}

impl fmt::Display for HubUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "must begin with mqtt:// or mqtts://, as mqtts://hub.example:8883",
            Self::UserInfo => {
                "cannot carry a user or a password, which everybody could see; use the token's file"
            }
            Self::Host => {
                "has no valid host; give a name or an address, as mqtts://hub.example or mqtt://[fd00::1]"
            }
            Self::Port => "must have a port from 1 to 65535, or none",
            Self::Rest => "must end behind host and port",
        })
    }
}

impl std::error::Error for HubUrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_scheme_host_and_port_and_is_written_out_in_full() {
        for (text, full) in [
            ("mqtt://hub.example", "mqtt://hub.example:1883"),
            ("mqtts://hub.example/", "mqtts://hub.example:8883"),
            ("mqtts://10.0.0.1:443", "mqtts://10.0.0.1:443"),
            ("mqtt://[fd00::1]", "mqtt://[fd00::1]:1883"),
            ("mqtt://[fe80::1%eth0]:1", "mqtt://[fe80::1%eth0]:1"),
            ("mqtt://my_hub-2", "mqtt://my_hub-2:1883"),
        ] {
            let url: HubUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), full);
            assert_eq!(full.parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_no_such_url_is_refused_by_its_fault() {
        use HubUrlError::*;
        for (text, error) in [
            ("", Scheme),
            ("hub.example", Scheme),
            ("http://hub.example", Scheme),
            ("mqtt://user:secret@hub", UserInfo),
            ("mqtt://", Host),
            ("mqtt://a b", Host),
            ("mqtt://[10.0.0.1]", Host),
            ("mqtt://[::1", Host),
            ("mqtt://fd00::1", Port),
            ("mqtt://hub:", Port),
            ("mqtt://hub:0", Port),
            ("mqtt://hub:+1", Port),
            ("mqtt://hub:65536", Port),
            ("mqtt://[::1]x", Port),
            ("mqtt://hub/topic", Rest),
            ("mqtt://hub?x", Rest),
        ] {
            assert_eq!(text.parse::<HubUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let error = "mqtt://user:SECRET@hub".parse::<HubUrl>().expect_err("refused");
        assert!(!error.to_string().contains("SECRET"));
    }
}
