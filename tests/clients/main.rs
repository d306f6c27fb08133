//! Clients that people use, against the program: mosquitto's commands, Paho for Python and C, MQTT.js,
//! rumqttc.
//!
//! A script holds all scenarios of its library; each is one test here, so that a failure names what broke.

#[allow(dead_code, reason = "each test binary uses its own part of the support")]
#[path = "../support/mod.rs"]
mod support;

mod mosquitto;
mod scripts;
