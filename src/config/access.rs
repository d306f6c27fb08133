//! `[access]`: what devices may reach beyond their own topics.
//!
//! Filters are templates here: `{device}` stands for the name of the device that asks.

use forebay::{device_api::topics, mqtt::TopicFilter, session::rights::DEVICES_NAME_SPACE};

/// What stands for a device's name.
pub(super) const DEVICE_PLACEHOLDER: &str = "{device}";
/// Any name serves to try a template: none holds a wildcard or a slash.
pub(super) const SOME_DEVICE: &str = "device";

/// Checks that `text` is a topic filter and no shared subscription.
///
/// # Errors
/// Why it is not, in words that name it.
pub fn plain_filter(text: &str) -> Result<(), String> {
    let filter = TopicFilter::parse(text).map_err(|error| format!("{text:?} is no topic filter: {error}"))?;
    if filter.share().is_some() || filter.is_malformed_share() {
        return Err(format!(
            "{text:?} is a shared subscription; give the filter alone, it is shared all the same"
        ));
    }
    Ok(())
}

/// Checks that devices may be granted what `template` covers.
///
/// # Errors
/// Why they may not, in words that name it.
pub fn device_filter(template: &str) -> Result<(), String> {
    let filter = template.replace(DEVICE_PLACEHOLDER, SOME_DEVICE);
    plain_filter(&filter)?;
    if filter.contains(['{', '}']) {
        return Err(format!(
            "{template:?} has braces around something else than `device`; only {DEVICE_PLACEHOLDER} stands for a name"
        ));
    }
    if topics::is_hub_filter(&filter) {
        return Err(format!("{template:?} is the hub's; nothing in v1/, v2/ and /provision can be granted"));
    }
    if filter.starts_with('$') {
        return Err(format!("{template:?} begins with $; nothing of that kind can be granted to devices"));
    }
    if filter.starts_with(DEVICES_NAME_SPACE) {
        return Err(format!(
            "{template:?} is for local clients; nothing in devices/ can be granted to devices"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_placeholder_is_named() {
        for text in ["state/{dev}/x", "state/{device/x", "state/device}"] {
            assert!(device_filter(text).expect_err(text).contains("{device}"));
        }
        assert_eq!(device_filter("state/{device}/x"), Ok(()));
    }

    #[test]
    fn a_plain_filter_is_accepted_and_anything_else_named() {
        for text in ["a", "#", "hall/+/lamp", "devices/+/telemetry", "$SYS/#"] {
            assert_eq!(plain_filter(text), Ok(()), "{text}");
        }
        for text in ["", "a#", "a/#/b", "$share", "$share/g/a", "$share//a"] {
            let said = plain_filter(text).expect_err(text);
            assert!(said.starts_with(&format!("{text:?} is ")), "{said}");
        }
    }

    #[test]
    fn devices_are_granted_filters_of_their_own_and_nothing_of_the_hub() {
        for template in ["state/{device}/#", "{device}", "all/+", "lamp-{device}/on", "v1", "device/x"] {
            assert_eq!(device_filter(template), Ok(()), "{template}");
        }
        for template in [
            "v1/x",
            "v2/{device}",
            "/provision",
            "/provision/response",
            "devices/{device}/x",
            "$share/g/{device}",
            "$SYS/#",
            "$custom/{device}",
            "a/{device}#",
        ] {
            assert!(device_filter(template).is_err(), "{template}");
        }
    }
}
