//! What an identity may publish and subscribe to; everything else is refused.

use crate::{
    device_api::topics,
    identity::{DeviceGrants, Grant, Identity, Role},
    mqtt::{TopicFilter, TopicName},
};

/// Where the broker tells local clients what devices sent; nobody else publishes there.
pub const DEVICES_NAME_SPACE: &str = "devices/";
/// Where the broker tells of itself, and where shared subscriptions begin; nobody publishes there, whoever grants it.
const BROKERS_NAME_SPACES: [&str; 2] = ["$SYS", "$share"];
/// What stands for the device's name in what the operator grants to devices.
const DEVICE_PLACEHOLDER: &str = "{device}";

/// The rights of one session; only whether it is a gateway's may change while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRights {
    publish: Grant,
    subscribe: Grant,
    is_device: bool,
    is_gateway: bool,
}

impl AccessRights {
    /// The rights of `identity`.
    pub fn of(identity: &Identity, grants: &DeviceGrants) -> Self {
        match &identity.role {
            Role::Device | Role::Gateway => {
                let name = identity.name.as_str();
                let granted = |filters: &[String]| {
                    // A name holds no wildcard and no slash, so it cannot widen a filter; but one that comes first
                    // could lead into a name space that nobody granted.
                    let named = filters.iter().map(|filter| filter.replace(DEVICE_PLACEHOLDER, name));
                    Grant::Only(named.filter(|text| !text.starts_with('$') && !is_reserved(text)).collect())
                };
                Self {
                    publish: granted(&grants.publish),
                    subscribe: granted(&grants.subscribe),
                    is_device: true,
                    is_gateway: identity.role == Role::Gateway,
                }
            }
            Role::Client(rights) => Self {
                publish: rights.publish.clone(),
                subscribe: rights.subscribe.clone(),
                is_device: false,
                is_gateway: false,
            },
        }
    }

    /// Whether it speaks the hub's device API.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// Whether it speaks for devices behind it as well.
    pub fn is_gateway(&self) -> bool {
        self.is_gateway
    }

    /// It speaks for devices behind it from now on, or does not any more; a local client never does.
    pub fn set_gateway(&mut self, is_gateway: bool) {
        self.is_gateway = is_gateway && self.is_device;
    }

    /// Whether it may publish to `topic`, the device API apart.
    pub fn may_publish(&self, topic: TopicName<'_>) -> bool {
        if is_reserved(topic.as_str()) {
            return false;
        }
        match &self.publish {
            Grant::Ordinary => !topic.as_str().starts_with('$'),
            Grant::Only(filters) => {
                filters.iter().any(|filter| TopicFilter::parse(filter).is_ok_and(|f| f.matches(topic)))
            }
        }
    }

    /// Whether it may subscribe to `filter`, which is no shared subscription.
    pub fn may_subscribe(&self, filter: TopicFilter<'_>) -> bool {
        let text = filter.as_str();
        match &self.subscribe {
            Grant::Ordinary => !text.starts_with('$') && !topics::is_hub_filter(text),
            Grant::Only(filters) => filters.iter().any(|granted| covers(granted, text)),
        }
    }
}

/// Whether a topic or filter lies where only the broker and the hub have a say.
pub fn is_reserved(text: &str) -> bool {
    is_the_brokers(text) || text.starts_with(DEVICES_NAME_SPACE) || topics::is_hub_filter(text)
}

/// Whether a topic or filter begins with `$SYS` or `$share` as its first level.
pub fn is_the_brokers(text: &str) -> bool {
    text.split('/').next().is_some_and(|level| BROKERS_NAME_SPACES.contains(&level))
}

/// Whether everything that `filter` matches is matched by `granted`.
fn covers(granted: &str, filter: &str) -> bool {
    if filter.starts_with('$') && granted.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = filter.split('/');
    for level in granted.split('/') {
        match (level, wanted.next()) {
            ("#", _) => return true,
            ("+", Some(other)) if other != "#" => {}
            (exact, Some(other)) if exact == other => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Wall,
        identity::{Rights, TokenHash},
        ids::{DeviceName, IdentityId},
    };

    fn identity(name: &str, role: Role) -> Identity {
        Identity {
            id: IdentityId(1),
            name: DeviceName::parse(name).expect(name),
            role,
            token_hash: TokenHash::of("token"),
            enabled: true,
            created: Wall(0),
            last_seen: None,
        }
    }

    fn topic(text: &str) -> TopicName<'_> {
        TopicName::parse(text).expect(text)
    }

    fn filter(text: &str) -> TopicFilter<'_> {
        TopicFilter::parse(text).expect(text)
    }

    #[test]
    fn a_device_has_no_rights_beyond_its_own_topics_unless_they_are_granted() {
        let none = AccessRights::of(&identity("pump", Role::Device), &DeviceGrants::default());
        for text in ["a", "devices/pump/telemetry", "v1/devices/me/attributes", "$SYS/x"] {
            assert!(!none.may_publish(topic(text)), "{text}");
            assert!(!none.may_subscribe(filter(text)), "{text}");
        }
        assert!(!none.may_subscribe(filter("#")));
        let grants = DeviceGrants {
            publish: vec!["state/{device}/#".to_owned()],
            subscribe: vec!["command/{device}/+".to_owned()],
        };
        let pump = AccessRights::of(&identity("pump", Role::Device), &grants);
        assert!(pump.may_publish(topic("state/pump/valve")) && !pump.may_publish(topic("state/fan/valve")));
        assert!(pump.may_subscribe(filter("command/pump/open")));
        assert!(pump.may_subscribe(filter("command/pump/+")));
        for wider in ["command/pump/#", "command/+/open", "command/fan/open", "#", "command/pump"] {
            assert!(!pump.may_subscribe(filter(wider)), "{wider}");
        }
    }

    #[test]
    fn a_devices_name_opens_no_name_space_that_was_not_granted() {
        let grants = DeviceGrants { publish: vec![], subscribe: vec!["{device}/#".to_owned()] };
        for (name, wanted, granted) in [
            ("pump", "pump/x", true),
            ("devices", "devices/fan/telemetry", false),
            ("$SYS", "$SYS/x", false),
            ("v1", "v1/x", false),
        ] {
            let rights = AccessRights::of(&identity(name, Role::Device), &grants);
            assert_eq!(rights.may_subscribe(filter(wanted)), granted, "{name}");
        }
    }

    #[test]
    fn a_local_client_has_everything_but_the_hubs_name_spaces_and_what_begins_with_a_dollar() {
        let any =
            AccessRights::of(&identity("red", Role::Client(Rights::default())), &DeviceGrants::default());
        assert!(any.may_publish(topic("hall/lamp")) && any.may_subscribe(filter("#")));
        assert!(any.may_subscribe(filter("devices/+/telemetry")));
        for refused in ["v1/devices/me/telemetry", "v2/t", "/provision", "$SYS/x", "devices/pump/telemetry"] {
            assert!(!any.may_publish(topic(refused)), "{refused}");
        }
        for refused in ["v1/#", "v2/+", "$SYS/#", "/provision/response"] {
            assert!(!any.may_subscribe(filter(refused)), "{refused}");
        }
    }

    #[test]
    fn a_topic_that_begins_with_a_dollar_may_be_published_to_if_it_was_named_and_is_not_the_brokers() {
        let with = |publish: &[&str]| {
            let publish = Grant::Only(publish.iter().map(|filter| (*filter).to_owned()).collect());
            let role = Role::Client(Rights { publish, subscribe: Grant::Ordinary });
            AccessRights::of(&identity("red", role), &DeviceGrants::default())
        };
        let custom = with(&["$custom/#", "#"]);
        assert!(custom.may_publish(topic("$custom/a")) && custom.may_publish(topic("$custom")));
        for refused in ["$customs/a", "$x", "$SYS/a", "$share/g/a"] {
            assert!(!custom.may_publish(topic(refused)), "{refused}");
        }
        let everywhere = ["#", "+/#", "$SYS", "$SYS/#", "$SYS/+", "$share", "$share/#"];
        let all = with(&everywhere);
        for refused in ["$SYS", "$SYS/a", "$SYS/", "$share", "$share/a", "$share/g/a", "$custom/a"] {
            assert!(!all.may_publish(topic(refused)), "{refused}");
        }
        let everywhere = everywhere.map(str::to_owned).to_vec();
        let grants =
            DeviceGrants { publish: [everywhere, vec!["$custom/#".to_owned()]].concat(), subscribe: vec![] };
        let pump = AccessRights::of(&identity("pump", Role::Device), &grants);
        for refused in ["$SYS/a", "$share/a", "$custom/a"] {
            assert!(!pump.may_publish(topic(refused)), "a device: {refused}");
        }
    }

    #[test]
    fn a_filter_is_covered_only_if_all_it_matches_is() {
        for (granted, wanted) in
            [("#", "a/#"), ("a/#", "a"), ("a/+", "a/+"), ("+/b", "a/b"), ("$SYS/#", "$SYS/uptime")]
        {
            assert!(covers(granted, wanted), "{granted} {wanted}");
        }
        for (granted, wanted) in
            [("a/+", "a/#"), ("a", "a/b"), ("a/b", "a/+"), ("#", "$SYS/#"), ("+/x", "$a/x"), ("a/b", "a")]
        {
            assert!(!covers(granted, wanted), "{granted} {wanted}");
        }
    }
}
