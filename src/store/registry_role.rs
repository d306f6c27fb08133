//! What an identity is, as four columns of the registry: its kind, where it may publish, where it may subscribe, whether
//! it is a gateway.

use crate::{
    identity::{Grant, Rights, Role},
    mqtt::TopicFilter,
};

const DEVICE: i64 = 0;
const CLIENT: i64 = 1;

/// The columns `kind`, `publish`, `subscribe` and `gateway`.
///
/// A grant is NULL if it is the ordinary one, else a JSON array of filters; a device has neither.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RoleColumns {
    pub(super) kind: i64,
    pub(super) publish: Option<String>,
    pub(super) subscribe: Option<String>,
    pub(super) gateway: bool,
}

impl RoleColumns {
    pub(super) fn of(role: &Role) -> Self {
        match role {
            Role::Device => Self { kind: DEVICE, publish: None, subscribe: None, gateway: false },
            Role::Gateway => Self { kind: DEVICE, publish: None, subscribe: None, gateway: true },
            Role::Client(Rights { publish, subscribe }) => {
                Self { kind: CLIENT, publish: column(publish), subscribe: column(subscribe), gateway: false }
            }
        }
    }

    /// The role, unless the columns say what [`RoleColumns::of`] never does.
    pub(super) fn role(self) -> Option<Role> {
        match (self.kind, &self.publish, &self.subscribe, self.gateway) {
            (DEVICE, None, None, false) => Some(Role::Device),
            (DEVICE, None, None, true) => Some(Role::Gateway),
            (CLIENT, publish, subscribe, false) => {
                Some(Role::Client(Rights { publish: grant(publish)?, subscribe: grant(subscribe)? }))
            }
            _ => None,
        }
    }
}

fn column(grant: &Grant) -> Option<String> {
    match grant {
        Grant::Ordinary => None,
        Grant::Only(filters) => Some(serde_json::Value::from(filters.as_slice()).to_string()),
    }
}

fn grant(column: &Option<String>) -> Option<Grant> {
    let Some(text) = column else { return Some(Grant::Ordinary) };
    let filters: Vec<String> = serde_json::from_str(text).ok()?;
    filters.iter().all(|filter| is_plain(filter)).then_some(Grant::Only(filters))
}

fn is_plain(text: &str) -> bool {
    TopicFilter::parse(text).is_ok_and(|filter| filter.share().is_none() && !filter.is_malformed_share())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(kind: i64, publish: Option<&str>, subscribe: Option<&str>) -> RoleColumns {
        let (publish, subscribe) = (publish.map(str::to_owned), subscribe.map(str::to_owned));
        RoleColumns { kind, publish, subscribe, gateway: false }
    }

    fn only(filters: &[&str]) -> Grant {
        Grant::Only(filters.iter().map(|filter| (*filter).to_owned()).collect())
    }

    #[test]
    fn every_role_comes_back_as_it_was() {
        let some = Rights { publish: only(&["a/+", "b \"quoted\"/\u{e4}"]), subscribe: Grant::Ordinary };
        let none = Rights { publish: only(&[]), subscribe: only(&["#"]) };
        for role in [
            Role::Device,
            Role::Gateway,
            Role::Client(Rights::default()),
            Role::Client(some),
            Role::Client(none),
        ] {
            assert_eq!(RoleColumns::of(&role).role(), Some(role));
        }
    }

    #[test]
    fn columns_nobody_wrote_are_no_role() {
        for (kind, publish, subscribe) in [
            (2, None, None),
            (0, Some("[]"), None),
            (0, None, Some("[]")),
            (1, Some(""), None),
            (1, Some("[1]"), None),
            (1, Some("\"a\""), None),
            (1, None, Some("[\"a#\"]")),
            (1, None, Some("[\"$share/g/a\"]")),
            (1, None, Some("[\"$share\"]")),
        ] {
            assert_eq!(columns(kind, publish, subscribe).role(), None, "{kind} {publish:?} {subscribe:?}");
        }
        assert_eq!(RoleColumns { gateway: true, ..columns(CLIENT, None, None) }.role(), None);
    }
}
