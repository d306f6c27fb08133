//! A week of readings of many devices, each with a number and a time of its own.

use crate::support::{
    broker::Broker,
    client::Client,
    home::Device,
    wire::{TELEMETRY, Version},
};

/// Readings in one message of a device.
const PER_MESSAGE: u64 = 10;
/// Messages of one device before the answers are read.
const BLOCK: u64 = 5;
/// When the week begins.
const BEGIN_MS: i64 = 1_700_000_000_000;
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;

/// So many readings of so many devices, spread over seven days.
#[derive(Clone, Copy, Debug)]
pub struct Week {
    pub devices: u64,
    pub readings_each: u64,
}

impl Week {
    pub fn readings(self) -> u64 {
        self.devices * self.readings_each
    }

    /// When reading `number` of a device was taken.
    pub fn time(self, number: u64) -> i64 {
        BEGIN_MS + (number * (WEEK_MS / self.readings_each)) as i64
    }

    /// Publishes all of them, the devices side by side; everything is acknowledged when this returns.
    pub fn publish(self, broker: &Broker, devices: &[Device]) {
        let mut clients: Vec<Client> =
            devices.iter().map(|device| broker.online(Version::V311, device, "meter")).collect();
        let mut number = 0;
        while number < self.readings_each {
            let end = (number + BLOCK * PER_MESSAGE).min(self.readings_each);
            let starts: Vec<u64> = (number..end).step_by(PER_MESSAGE as usize).collect();
            for client in &mut clients {
                for start in &starts {
                    client.publish_only(TELEMETRY, self.message(*start));
                }
            }
            for client in &mut clients {
                for _ in &starts {
                    assert!(client.packet().puback().is_some_and(|(_, code)| code == 0), "good telemetry");
                }
            }
            number = end;
        }
    }

    fn message(self, start: u64) -> String {
        let end = (start + PER_MESSAGE).min(self.readings_each);
        let readings: Vec<String> = (start..end)
            .map(|n| {
                let (ts, temperature) = (self.time(n), 15.0 + (n % 200) as f64 / 10.0);
                format!(r#"{{"ts":{ts},"values":{{"n":{n},"temperature":{temperature:.1}}}}}"#)
            })
            .collect();
        format!("[{}]", readings.join(","))
    }
}
