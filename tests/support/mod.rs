//! What the black-box tests share: a broker in a directory of its own, a client whose bytes are written out by hand,
//! and waiting with a deadline.
//!
//! Nothing in here uses the crate under test: a mistake in the codec must not be able to hide behind the same mistake
//! in its test. The program under test is the one `cargo test` has built, or the one named by `FOREBAY_BIN`.

pub mod broker;
pub mod chance;
pub mod client;
pub mod fleet;
pub mod home;
pub mod namespace;
pub mod packets;
pub mod process;
pub mod relay;
pub mod tracer;
pub mod wait;
pub mod wire;

/// Says something to whoever runs the tests, past the harness, which would swallow it.
pub fn tell(line: &str) {
    use std::io::Write;
    // Nobody to tell: then nobody hears it.
    let _ = writeln!(std::io::stderr(), "{line}");
}
