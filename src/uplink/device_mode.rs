//! Towards the hub as one of its devices: what we publish is what the device itself could have published,
//! `[{"ts":..,"values":{..}},..]`.

use crate::{
    device_api::{gateway, topics::TELEMETRY_TOPIC},
    record::Outbound,
};

/// Where every reading goes.
pub(super) const TOPIC: &str = TELEMETRY_TOPIC;

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
    use crate::{
        ids::{DeviceName, Seq},
        record::Placed,
    };

    #[test]
    fn a_message_is_the_list_a_device_may_publish_and_names_nobody() {
        let device = DeviceName::parse("Pumpe 3").expect("valid");
        let row = Outbound { seq: Seq(1), device, time: Placed::Known(7), values: r#"{"a":1}"#.to_owned() };
        let payload = payload(&[row]);
        assert_eq!(payload, r#"[{"ts":7,"values":{"a":1}}]"#);
        assert_eq!(payload.len(), envelope_bytes() + gateway::reading_bytes(7, r#"{"a":1}"#));
    }
}
