//! Towards an ordinary broker: each device has a topic, and a message on it is what the device itself could have sent
//! to the hub: `[{"ts":..,"values":{..}},..]`.

use crate::{device_api::gateway, ids::DeviceName, record::Outbound};

/// What stands for the device's name in a topic.
const PLACEHOLDER: &str = "{device}";

/// The topic of `device`; a template without a place for its name is the topic of all.
pub(super) fn topic(template: &str, device: &DeviceName) -> String {
    template.replace(PLACEHOLDER, device.as_str())
}

/// Readings of one device as a list.
pub(super) fn payload(rows: &[Outbound]) -> String {
    let mut payload = String::new();
    gateway::write_readings(rows.iter().map(|row| (row.time.ts(), row.values.as_str())), &mut payload);
    payload
}

/// Bytes of a payload beside its readings.
pub(super) fn envelope_bytes() -> usize {
    "]".len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Seq, record::Placed};

    #[test]
    fn a_device_has_its_topic_and_its_message_is_a_list() {
        let device = DeviceName::parse("Pumpe 3").expect("valid");
        assert_eq!(topic("site/7/{device}/telemetry", &device), "site/7/Pumpe 3/telemetry");
        assert_eq!(topic("all", &device), "all");
        let row = Outbound { seq: Seq(1), device, time: Placed::Known(7), values: r#"{"a":1}"#.to_owned() };
        let payload = payload(&[row]);
        assert_eq!(payload, r#"[{"ts":7,"values":{"a":1}}]"#);
        assert_eq!(payload.len(), envelope_bytes() + gateway::reading_bytes(7, r#"{"a":1}"#));
    }
}
