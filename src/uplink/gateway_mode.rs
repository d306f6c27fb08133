//! Towards the hub: we are a gateway there, and our devices are known by their names.

use crate::{device_api::gateway, ids::DeviceName, record::Outbound};

/// Where every reading goes.
pub(super) const TOPIC: &str = gateway::TELEMETRY_TOPIC;

/// Readings of one device, as the hub wants them from a gateway. One device for each message: an old hub acknowledges a
/// message of several devices once for each of them, which proves nothing.
pub(super) fn payload(device: &DeviceName, rows: &[Outbound]) -> String {
    gateway::telemetry_payload(device.as_str(), rows.iter().map(|row| (row.time.ts(), row.values.as_str())))
}

/// Bytes of a payload beside its readings.
pub(super) fn envelope_bytes(device: &DeviceName) -> usize {
    gateway::telemetry_envelope_bytes(device.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Seq, record::Placed};

    #[test]
    fn a_message_holds_the_readings_of_one_device_with_their_times() {
        let device = DeviceName::parse("pump").expect("valid");
        let row = |seq, time, values: &str| {
            let (seq, device, values) = (Seq(seq), device.clone(), values.to_owned());
            Outbound { seq, device, time, values }
        };
        let rows = [row(1, Placed::Given(5), r#"{"t":1.0}"#), row(2, Placed::Estimated(6), r#"{"t":2}"#)];
        let expected = r#"{"pump":[{"ts":5,"values":{"t":1.0}},{"ts":6,"values":{"t":2}}]}"#;
        assert_eq!(payload(&device, &rows), expected);
    }
}
