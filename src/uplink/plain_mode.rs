//! Towards an ordinary broker: each device has a topic; the messages on it are those of `device_mode`.

use crate::ids::DeviceName;

/// What stands for the device's name in a topic.
const PLACEHOLDER: &str = "{device}";

/// The topic of `device`; a template without a place for its name is the topic of all.
pub(super) fn topic(template: &str, device: &DeviceName) -> String {
    template.replace(PLACEHOLDER, device.as_str())
}

/// Bytes of the longest topic that comes of `template`.
pub(super) fn topic_bytes_max(template: &str) -> usize {
    template.len() + template.matches(PLACEHOLDER).count() * DeviceName::BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_its_topic() {
        let device = DeviceName::parse("Pumpe 3").expect("valid");
        assert_eq!(topic("site/7/{device}/telemetry", &device), "site/7/Pumpe 3/telemetry");
        assert_eq!(topic("all", &device), "all");
    }
}
