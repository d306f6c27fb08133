//! What a device may subscribe to in the hub's name space: topics in which `me` stands for whoever subscribes, so that
//! the same filter means something else to each device.
//!
//! They are compared as exact texts, as the hub does; a wider or a narrower filter is none of them.

use super::downlink::DownlinkKind;

/// One of the filters a device may subscribe to; those of one kind are ordered, the long form first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnFilter {
    kind: Kind,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Shared attributes that have changed.
    Attributes,
    /// Answers to the device's questions for attributes.
    AttributesResponse,
    /// Commands.
    RpcRequest,
    /// Answers to the device's own commands.
    RpcResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Long,
    Short,
    ShortJson,
}

/// Before the number of a command.
const RPC_ANSWER_PREFIXES: [&str; 3] = ["v1/devices/me/rpc/response/", "v2/r/res/j/", "v2/r/res/"];

impl OwnFilter {
    /// The filter that `text` is, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        use {Form::*, Kind::*};
        let (kind, form) = match text {
            "v1/devices/me/attributes" => (Attributes, Long),
            "v2/a" => (Attributes, Short),
            "v2/a/j" => (Attributes, ShortJson),
            "v1/devices/me/attributes/response/+" => (AttributesResponse, Long),
            "v2/a/res/+" => (AttributesResponse, Short),
            "v2/a/res/j/+" => (AttributesResponse, ShortJson),
            "v1/devices/me/rpc/request/+" => (RpcRequest, Long),
            "v2/r/req/+" => (RpcRequest, Short),
            "v2/r/req/j/+" => (RpcRequest, ShortJson),
            "v1/devices/me/rpc/response/+" => (RpcResponse, Long),
            "v2/r/res/+" => (RpcResponse, Short),
            "v2/r/res/j/+" => (RpcResponse, ShortJson),
            _ => return None,
        };
        Some(Self { kind, form })
    }

    /// The topic on which who has subscribed to this is sent something of `kind`; `None` if it has not asked for that.
    pub fn topic(self, kind: DownlinkKind) -> Option<String> {
        match (self.kind, kind) {
            (Kind::Attributes, DownlinkKind::Attributes) => Some(match self.form {
                Form::Long => "v1/devices/me/attributes".to_owned(),
                Form::Short => "v2/a".to_owned(),
                Form::ShortJson => "v2/a/j".to_owned(),
            }),
            (Kind::RpcRequest, DownlinkKind::Rpc(id)) => Some(match self.form {
                Form::Long => format!("v1/devices/me/rpc/request/{id}"),
                Form::Short => format!("v2/r/req/{id}"),
                Form::ShortJson => format!("v2/r/req/j/{id}"),
            }),
            _ => None,
        }
    }
}

/// What stands for the number of a command if `topic` is where a device answers one.
pub fn answered_command(topic: &str) -> Option<&str> {
    RPC_ANSWER_PREFIXES.iter().find_map(|prefix| topic.strip_prefix(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hubs_own_filters_are_known() {
        for text in ["v1/devices/me/attributes", "v1/devices/me/rpc/request/+", "v2/a/j", "v2/r/req/+"] {
            assert!(OwnFilter::parse(text).is_some(), "{text}");
        }
        for text in [
            "#",
            "v1/#",
            "v1/devices/me/#",
            "v1/devices/me/+",
            "v1/devices/+/attributes",
            "v1/devices/me/attributes/",
            "v1/devices/me/rpc/request/5",
            "v1/devices/me/rpc/request/#",
            "v1/devices/me/telemetry",
            "v1/gateway/rpc",
            "v2/a/p",
            "$share/g/v1/devices/me/attributes",
        ] {
            assert_eq!(OwnFilter::parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_form_is_answered_in_its_own() {
        let topic = |filter: &str, kind| OwnFilter::parse(filter).expect(filter).topic(kind);
        for (filter, expected) in [
            ("v1/devices/me/rpc/request/+", "v1/devices/me/rpc/request/-7"),
            ("v2/r/req/+", "v2/r/req/-7"),
            ("v2/r/req/j/+", "v2/r/req/j/-7"),
        ] {
            assert_eq!(topic(filter, DownlinkKind::Rpc(-7)).as_deref(), Some(expected));
            assert_eq!(topic(filter, DownlinkKind::Attributes), None);
        }
        for filter in ["v1/devices/me/attributes", "v2/a", "v2/a/j"] {
            assert_eq!(topic(filter, DownlinkKind::Attributes).as_deref(), Some(filter));
            assert_eq!(topic(filter, DownlinkKind::Rpc(1)), None);
        }
        for filter in ["v1/devices/me/rpc/response/+", "v1/devices/me/attributes/response/+"] {
            assert_eq!(topic(filter, DownlinkKind::Rpc(1)), None);
            assert_eq!(topic(filter, DownlinkKind::Attributes), None);
        }
        assert!(OwnFilter::parse("v1/devices/me/attributes") < OwnFilter::parse("v2/a"));
    }

    #[test]
    fn the_number_of_an_answered_command_is_what_stands_behind_the_prefix() {
        for (topic, id) in [
            ("v1/devices/me/rpc/response/12", Some("12")),
            ("v2/r/res/12", Some("12")),
            ("v2/r/res/j/12", Some("12")),
            ("v1/devices/me/rpc/response/", Some("")),
            ("v1/devices/me/rpc/response", None),
            ("v1/devices/me/rpc/request/12", None),
        ] {
            assert_eq!(answered_command(topic), id, "{topic}");
        }
    }
}
