//! Which topics belong to the hub's device API, and which are ordinary publish and subscribe.
//!
//! Names only: what a payload on them means is told by `telemetry.rs`, who may use them by the access rules.

use super::{gateway, own_topics::answered_command, session_limits};

/// Where a device sends readings, by its long name.
pub const TELEMETRY_TOPIC: &str = "v1/devices/me/telemetry";

/// What a PUBLISH on a topic is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceTopic {
    /// Readings, as JSON; to be stored.
    Telemetry,
    /// Readings of devices behind a gateway, as JSON; to be stored if it is a gateway that sends them.
    GatewayTelemetry,
    /// A gateway tells which device has come or gone.
    GatewayPresence,
    /// A question of this number; what is asked stands in the payload.
    Question(i32),
    /// The answer to the hub's command of this number; without one if what should be it is none.
    RpcAnswer(Option<i32>),
    /// In the hub's name space, but nothing we serve: MQTT 5 gets PUBACK 0x90.
    UnknownHubTopic,
    /// Publish and subscribe between clients.
    Ordinary,
}

/// Tells what `topic`, the topic name of a PUBLISH, is to us.
pub fn classify(topic: &str) -> DeviceTopic {
    match topic {
        TELEMETRY_TOPIC | "v2/t" | "v2/t/j" => DeviceTopic::Telemetry,
        _ if !is_in_hub_name_space(topic) => DeviceTopic::Ordinary,
        gateway::TELEMETRY_TOPIC => DeviceTopic::GatewayTelemetry,
        gateway::CONNECT_TOPIC | gateway::DISCONNECT_TOPIC => DeviceTopic::GatewayPresence,
        _ => match (answered_command(topic), session_limits::question_number(topic)) {
            (Some(id), _) => DeviceTopic::RpcAnswer(id.parse().ok()),
            (None, Some(number)) => DeviceTopic::Question(number),
            (None, None) => DeviceTopic::UnknownHubTopic,
        },
    }
}

/// Whether `filter` asks for the hub's own topics: it begins with `v1/`, `v2/` or `/provision`.
///
/// A filter that merely covers them (`#`, `+/devices/me/telemetry`) does not count. A shared subscription is asked
/// about without its `$share/{name}/`.
pub fn is_hub_filter(filter: &str) -> bool {
    is_in_hub_name_space(filter)
}

fn is_in_hub_name_space(text: &str) -> bool {
    ["v1/", "v2/", "/provision"].iter().any(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_json_telemetry_topics_are_telemetry() {
        for topic in ["v1/devices/me/telemetry", "v2/t", "v2/t/j"] {
            assert_eq!(classify(topic), DeviceTopic::Telemetry, "{topic}");
        }
    }

    #[test]
    fn an_answer_to_a_command_carries_its_number() {
        for (topic, id) in [
            ("v1/devices/me/rpc/response/7", Some(7)),
            ("v2/r/res/-2147483648", Some(i32::MIN)),
            ("v2/r/res/j/0", Some(0)),
            ("v1/devices/me/rpc/response/2147483648", None),
            ("v1/devices/me/rpc/response/x", None),
            ("v1/devices/me/rpc/response/", None),
            ("v1/devices/me/rpc/response/1/2", None),
        ] {
            assert_eq!(classify(topic), DeviceTopic::RpcAnswer(id), "{topic}");
        }
    }

    #[test]
    fn what_a_gateway_says_and_what_a_device_asks_has_topics_of_its_own() {
        assert_eq!(classify("v1/gateway/telemetry"), DeviceTopic::GatewayTelemetry);
        assert_eq!(classify("v1/gateway/connect"), DeviceTopic::GatewayPresence);
        assert_eq!(classify("v1/gateway/disconnect"), DeviceTopic::GatewayPresence);
        assert_eq!(classify("v1/devices/me/rpc/request/12"), DeviceTopic::Question(12));
    }

    #[test]
    fn other_topics_under_the_hubs_prefixes_are_unknown_hub_topics() {
        for topic in [
            "v1/devices/me/telemetry/",
            "v1/devices/me/attributes",
            "v1/gateway",
            "v1/gateway/",
            "v1/gateway/telemetry/",
            "v1/gateway/attributes",
            "v1/devices/me/rpc/request/+",
            "v1/",
            "v2/t/p",
            "v2/T",
            "v2/a/j",
            "/provision",
            "/provision/request",
        ] {
            assert_eq!(classify(topic), DeviceTopic::UnknownHubTopic, "{topic}");
        }
    }

    #[test]
    fn everything_else_is_ordinary() {
        for topic in [
            "v1",
            "v2",
            "v3/t",
            "V1/devices/me/telemetry",
            "/v1/devices/me/telemetry",
            "provision/request",
            "hall/lamp",
        ] {
            assert_eq!(classify(topic), DeviceTopic::Ordinary, "{topic}");
        }
    }

    #[test]
    fn a_filter_is_the_hubs_if_it_begins_in_its_name_space() {
        for filter in ["v1/#", "v1/devices/me/rpc/request/+", "v2/+", "/provision/response"] {
            assert!(is_hub_filter(filter), "{filter}");
        }
        for filter in ["#", "+/devices/me/telemetry", "v1", "v10/x", "hall/+"] {
            assert!(!is_hub_filter(filter), "{filter}");
        }
    }
}
