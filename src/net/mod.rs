//! The floor that touches the operating system: sockets, TLS, clocks, signals, the service manager.
//!
//! Knows neither the broker nor the store; `event_loop` joins it with them. Clocks, chance and the environment are
//! read here and in `cli/`, nowhere else, so that everything below can be simulated.
//!
//! All readiness is edge-triggered: a source is registered once, an event sets a bit, and only the kernel's
//! "would block" clears it.

pub mod certificates;
pub mod chance;
pub mod connection;
pub mod control;
pub mod listener;
#[cfg(test)]
mod loopback;
pub mod pin;
pub mod resolver;
pub mod scratch;
pub mod service_manager;
pub mod signals;
pub mod subject_names;
pub mod system_clock;
pub mod tls;
pub mod tls_client;
pub mod tls_error;
#[cfg(test)]
pub(crate) mod tls_hub;
pub mod tls_session;
pub mod upstream;
pub mod upstream_error;
pub mod watch;
