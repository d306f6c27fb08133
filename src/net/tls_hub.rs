//! For tests: what a hub with TLS says first, so that a test can let it arrive as slowly as it likes.

use std::{net::TcpStream, path::Path};

use rustls::ServerConnection;

use super::tls;

/// Everything a hub with the certificates in `dir` answers to the greeting that comes over `stream`; they are in there.
pub(crate) fn first_flight(stream: &mut TcpStream, dir: &Path) -> Vec<u8> {
    let config = tls::load_server_config(&dir.join("server.pem"), &dir.join("server.key"));
    let mut session = ServerConnection::new(config.expect("a configuration")).expect("a session");
    while !session.wants_write() {
        session.read_tls(stream).expect("the greeting");
        session.process_new_packets().expect("a greeting");
    }
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut flight).expect("memory");
    }
    flight
}
