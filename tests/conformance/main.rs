//! The standard's rules, one by one, as exact bytes against the running program.
//!
//! Names carry the statements they test, see `tests/clauses`; comments carry rows of the catalogue of faults (A-.., C-..).
//! With `CONFORMANCE_ADDRESS=127.0.0.1:1883` the same bytes go to whatever broker listens there, so an expectation can
//! be compared with what others do; it wants `--test-threads=1`.

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;

mod aliases;
mod connect;
mod limits;
mod malformed;
mod properties_v5;
mod publish;
mod qos2;
mod quota;
mod resumption;
mod retained;
mod sessions;
mod shared;
mod subscribe;
mod will_delay;
mod wills;
mod world;
