//! Bytes nobody should send, and too much of everything: the broker closes, answers or bounds, and nobody else notices.
//!
//! Tests carry the number of their row in the catalogue of faults (A-..) or of the standard's fine points (C-..).

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod exhaustion;
mod framing;
mod properties;
mod strings;
mod table;
mod tls;
