//! The program as its users meet it: started as a process, spoken to over sockets, judged by what it answers, prints,
//! stores and returns.

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "each test binary uses its own part of the hub")]
#[path = "../hub/mod.rs"]
mod hub;
#[allow(dead_code, reason = "each test binary uses its own part of the hub")]
#[path = "../hub/served.rs"]
mod served_hub;

mod certificates;
mod configuration;
mod credentials;
mod downlink;
mod durability;
mod durable_sessions;
mod full_disk;
mod gateways;
mod learning;
mod lifecycle;
mod local_clients;
mod not_offered;
mod payloads;
mod quarantine;
mod quickstart;
mod rates;
mod secrets;
mod sessions;
mod status;
mod systemd_unit;
mod uplink;
mod uplink_devices;
mod uplink_hub;
mod wall_clock;
