//! Where to listen, in the operator's words: `127.0.0.1:1883`, `[::1]:1883`, `localhost:1883` or `1883`.
//!
//! Resolves no names and binds nothing; `net/listener` does the binding.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// A place to listen, as the operator named it; port 0 takes any free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// One address. `[::]` means every IPv6 address and no IPv4 one.
    Exactly(SocketAddr),
    /// This machine only, IPv4 and, where there is any, IPv6.
    Localhost(u16),
    /// Every address of this machine, IPv4 and, where there is any, IPv6.
    Everywhere(u16),
}

/// One socket to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where.
    pub address: SocketAddr,
    /// Whether it may be missing: the IPv6 half of a pair, on a machine without IPv6.
    pub optional: bool,
}

/// The text names no place to listen on; `Display` says what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddressError {
    text: String,
}

impl ListenAddress {
    /// The port, 0 for any free one.
    pub fn port(self) -> u16 {
        match self {
            Self::Exactly(address) => address.port(),
            Self::Localhost(port) | Self::Everywhere(port) => port,
        }
    }

    /// The sockets to bind for it, one or two.
    pub fn sockets(self) -> Vec<Socket> {
        match self {
            Self::Exactly(address) => vec![Socket { address, optional: false }],
            Self::Localhost(port) => pair(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port),
            Self::Everywhere(port) => pair(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port),
        }
    }

    /// The host a client on this machine connects to.
    pub fn host_from_here(self) -> String {
        match self {
            Self::Exactly(address) if !address.ip().is_unspecified() && !address.ip().is_loopback() => {
                address.ip().to_string()
            }
            _ => "localhost".to_owned(),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Exactly(address));
        }
        if let Some(port) = text.strip_prefix("localhost:").and_then(port) {
            return Ok(Self::Localhost(port));
        }
        match port(text) {
            Some(port) => Ok(Self::Everywhere(port)),
            None => Err(ListenAddressError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(address) => address.fmt(f),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Everywhere(port) => port.fmt(f),
        }
    }
}

impl fmt::Display for ListenAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address to listen on; ", self.text)?;
        f.write_str(
            "give IP:PORT, [IPV6]:PORT, localhost:PORT, or PORT alone for every address of this machine",
        )
    }
}

impl std::error::Error for ListenAddressError {}

fn pair(v4: Ipv4Addr, v6: Ipv6Addr, port: u16) -> Vec<Socket> {
    vec![
        Socket { address: SocketAddr::new(v4.into(), port), optional: false },
        Socket { address: SocketAddr::new(v6.into(), port), optional: true },
    ]
}

/// Digits only: `u16::from_str` would also take a sign.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ListenAddress {
        text.parse().expect(text)
    }

    #[test]
    fn each_form_of_an_address_is_understood_and_written_back() {
        for text in ["127.0.0.1:0", "[::]:1883", "[fe80::1]:8883", "localhost:1883", "1883"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_bare_port_means_every_address_and_ipv6_may_be_missing() {
        assert_eq!(
            parse("1883").sockets(),
            [
                Socket { address: "0.0.0.0:1883".parse().expect("v4"), optional: false },
                Socket { address: "[::]:1883".parse().expect("v6"), optional: true },
            ]
        );
    }

    #[test]
    fn localhost_means_both_loopback_addresses() {
        let sockets = parse("localhost:7").sockets();
        assert_eq!(sockets[0].address, "127.0.0.1:7".parse().expect("v4"));
        assert_eq!(sockets[1].address, "[::1]:7".parse().expect("v6"));
        assert!(!sockets[0].optional && sockets[1].optional);
    }

    #[test]
    fn an_ipv6_address_that_was_asked_for_is_not_optional() {
        let address = "[::1]:1883".parse().expect("v6");
        assert_eq!(parse("[::1]:1883").sockets(), [Socket { address, optional: false }]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "65536",
            "-1",
            "+1",
            ":1883",
            "127.0.0.1",
            "::1:1883",
            "localhost",
            "localhost:",
            "gateway:1883",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_refusal_says_what_is_allowed() {
        let error = "gateway:1883".parse::<ListenAddress>().expect_err("a name");
        assert_eq!(
            error.to_string(),
            "\"gateway:1883\" is no address to listen on; give IP:PORT, [IPV6]:PORT, localhost:PORT, \
             or PORT alone for every address of this machine"
        );
    }

    #[test]
    fn a_client_on_this_machine_is_sent_to_localhost_unless_only_another_address_listens() {
        assert_eq!(parse("1883").host_from_here(), "localhost");
        assert_eq!(parse("0.0.0.0:1883").host_from_here(), "localhost");
        assert_eq!(parse("127.0.0.1:1883").host_from_here(), "localhost");
        assert_eq!(parse("192.168.1.5:1883").host_from_here(), "192.168.1.5");
    }
}
