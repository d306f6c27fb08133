//! Topic filters and names, against a matcher and rules written as the standard words them.

use forebay::mqtt::{TopicFilter, TopicName};

/// Takes what stands before the first 0xFF for a filter and what stands behind it for a name.
pub fn run(input: &[u8]) {
    let split = input.iter().position(|byte| *byte == 0xFF).unwrap_or(input.len());
    let (filter, name) = (&input[..split], input.get(split + 1..).unwrap_or_default());
    let (Ok(filter), Ok(name)) = (str::from_utf8(filter), str::from_utf8(name)) else { return };
    let (parsed_filter, parsed_name) = (TopicFilter::parse(filter), TopicName::parse(name));
    // Control and non-characters we refuse of our own accord.
    assert_eq!(parsed_filter.is_ok(), is_filter(filter) && !filter.contains(is_odd), "{parsed_filter:?}");
    assert_eq!(parsed_name.is_ok(), is_name(name) && !name.contains(is_odd), "{parsed_name:?}");
    if let Ok(filter) = parsed_filter {
        check_filter(filter);
    }
    if let (Ok(filter), Ok(name)) = (parsed_filter, parsed_name) {
        let expected = !filter.is_malformed_share() && matches(filter.as_str(), name.as_str());
        assert_eq!(filter.matches(name), expected, "{filter:?} and {name:?}");
        assert_eq!(TopicFilter::parse(name.as_str()).map(TopicFilter::as_str), Ok(name.as_str()));
    }
}

fn is_odd(c: char) -> bool {
    (c.is_control() && c != '\0')
        || (u32::from(c) & 0xFFFE) == 0xFFFE
        || ('\u{FDD0}'..='\u{FDEF}').contains(&c)
}

/// [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.7.3-3]
fn is_topic(text: &str) -> bool {
    (1..=65_535).contains(&text.len()) && !text.contains('\0')
}

/// [MQTT-4.7.1-1]
fn is_name(text: &str) -> bool {
    is_topic(text) && !text.contains(['+', '#'])
}

/// [MQTT-4.7.1-2], [MQTT-4.7.1-3]; a malformed share is a filter that matches nothing.
fn is_filter(text: &str) -> bool {
    let plain = match share(text) {
        Some(Some((_, filter))) => filter,
        Some(None) => return is_topic(text),
        None => text,
    };
    let levels: Vec<&str> = plain.split('/').collect();
    is_topic(text)
        && levels.iter().enumerate().all(|(at, level)| {
            !level.contains(['+', '#']) || *level == "+" || (*level == "#" && at + 1 == levels.len())
        })
}

/// Whether the first level is `$share`, and if so the group and its filter, if they are well formed.
fn share(text: &str) -> Option<Option<(&str, &str)>> {
    let parts: Vec<&str> = text.splitn(3, '/').collect();
    if parts[0] != "$share" {
        return None;
    }
    let [_, name, filter] = parts[..] else { return Some(None) };
    let well_formed = !name.is_empty()
        && !name.contains(['+', '#'])
        && !filter.is_empty()
        && filter.split('/').next() != Some("$share");
    Some(well_formed.then_some((name, filter)))
}

fn check_filter(filter: TopicFilter<'_>) {
    assert_eq!(filter.level_count(), filter.as_str().split('/').count());
    assert_eq!(filter.levels().collect::<Vec<_>>().join("/"), filter.as_str());
    let expected = share(filter.as_str());
    assert_eq!(filter.is_malformed_share(), expected == Some(None), "{filter:?}");
    let found = filter.share().map(|(name, inner)| (name, inner.as_str()));
    assert_eq!(found, expected.flatten(), "{filter:?}");
}

fn matches(filter: &str, name: &str) -> bool {
    let plain = share(filter).flatten().map_or(filter, |(_, plain)| plain);
    // [MQTT-4.7.2-1]
    if name.starts_with('$') && plain.starts_with(['+', '#']) {
        return false;
    }
    let levels = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    level_by_level(&levels(plain), &levels(name))
}

fn level_by_level(filter: &[String], name: &[String]) -> bool {
    match (filter, name) {
        ([last], _) if last == "#" => true,
        ([], []) => true,
        ([wanted, filter @ ..], [level, name @ ..]) => {
            (wanted == "+" || wanted == level) && level_by_level(filter, name)
        }
        _ => false,
    }
}
