//! Topic names, topic filters, and which filter matches which name. [§4.7], [§4.8]
//!
//! Checked once, then carried as proof. No bound but that of the wire: the configured ones belong to `session/`.

use std::fmt;

use super::strings::{Forbidden, find_forbidden};

/// Longest name or filter the wire can carry, in bytes. [MQTT-4.7.3-3]
pub const TOPIC_BYTES_MAX: usize = 65_535;

const SHARE: &str = "$share";

/// The name of a topic: not empty, no wildcards, no control characters. [§4.7]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

/// A topic filter: a topic name that may hold wildcards, or `$share/NAME/FILTER`. [§4.7], [§4.8.2]
///
/// A filter whose `$share` part is malformed is still a filter, which matches nothing: it is refused alone, with
/// 0x8F in SUBACK, and not together with its connection. [`TopicFilter::is_malformed_share`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

/// Why a text is no topic name, or no topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicError {
    /// No character at all. [MQTT-4.7.3-1]
    Empty,
    /// More than [`TOPIC_BYTES_MAX`] bytes. [MQTT-4.7.3-3]
    TooLong,
    /// U+0000. [MQTT-4.7.3-2]
    NulCharacter,
    /// A control character or a non-character; the standard leaves it to us. [§1.5.4]
    ForbiddenCharacter,
    /// `+` or `#` in a name. [MQTT-4.7.1-1]
    WildcardInName,
    /// `#` that is not the whole last level of a filter. [MQTT-4.7.1-2]
    HashMisplaced,
    /// `+` that is not a whole level of a filter. [MQTT-4.7.1-3]
    PlusMisplaced,
}

impl<'a> TopicName<'a> {
    /// Checks `text` and makes a name of it.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check_characters(text)?;
        Self::from_checked(text)
    }

    /// Makes a name of a text whose characters and length are known to be fine.
    pub(super) fn from_checked(text: &'a str) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.bytes().any(is_wildcard) {
            return Err(TopicError::WildcardInName);
        }
        Ok(Self(text))
    }

    /// The name as text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// What stands between the slashes, in order; a level may be empty.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }

    /// How many levels there are: at least 1.
    pub fn level_count(self) -> usize {
        level_count(self.0)
    }
}

impl<'a> TopicFilter<'a> {
    /// Checks `text` and makes a filter of it.
    ///
    /// # Errors
    /// The first rule it breaks; those of `$share` are not among them.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check_characters(text)?;
        Self::from_checked(text)
    }

    /// Makes a filter of a text whose characters and length are known to be fine.
    pub(super) fn from_checked(text: &'a str) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        match share_parts(text) {
            Share::None => check_wildcards(text)?,
            // An empty filter is a fault of `$share`; misplaced wildcards are faults anywhere.
            Share::Group { filter, .. } => check_wildcards(filter)?,
            Share::Malformed => {}
        }
        Ok(Self(text))
    }

    /// The whole filter as text, `$share/NAME/` included.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// What stands between the slashes of the whole text, in order; a level may be empty.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }

    /// How many levels the whole text has: at least 1.
    pub fn level_count(self) -> usize {
        level_count(self.0)
    }

    /// The group's name and its filter, if this is a well-formed shared subscription. [MQTT-4.8.2-1] of 5.0
    ///
    /// Before 5.0 the standard knows no such thing; what `$share` means there is up to the caller.
    pub fn share(self) -> Option<(&'a str, TopicFilter<'a>)> {
        match share_parts(self.0) {
            Share::Group { name, filter } => Some((name, TopicFilter(filter))),
            Share::None | Share::Malformed => None,
        }
    }

    /// Whether the first level is `$share` and what follows is not NAME/FILTER. [MQTT-4.8.2-2] of 5.0
    ///
    /// NAME is not empty and holds no wildcards; FILTER is not empty and not a shared subscription itself.
    pub fn is_malformed_share(self) -> bool {
        matches!(share_parts(self.0), Share::Malformed)
    }

    /// Whether a message published to `name` is meant by this filter; for a shared subscription, by its FILTER.
    ///
    /// Wildcards at the start do not reach names that begin with `$`. [MQTT-4.7.2-1]
    pub fn matches(self, name: TopicName<'_>) -> bool {
        match share_parts(self.0) {
            Share::None => matches(self.0, name),
            Share::Group { filter, .. } => matches(filter, name),
            Share::Malformed => false,
        }
    }
}

enum Share<'a> {
    None,
    Malformed,
    Group { name: &'a str, filter: &'a str },
}

/// Takes a filter apart at `$share`.
fn share_parts(text: &str) -> Share<'_> {
    let Some(after) = text.strip_prefix(SHARE) else { return Share::None };
    if after.is_empty() {
        return Share::Malformed;
    }
    let Some(after) = after.strip_prefix('/') else { return Share::None };
    match after.split_once('/') {
        Some((name, filter)) if is_share_name(name) && is_plain_filter(filter) => {
            Share::Group { name, filter }
        }
        _ => Share::Malformed,
    }
}

fn is_share_name(name: &str) -> bool {
    !name.is_empty() && !name.bytes().any(is_wildcard)
}

/// A share of a share would make matching recursive and means nothing.
fn is_plain_filter(filter: &str) -> bool {
    !filter.is_empty() && filter.split('/').next() != Some(SHARE)
}

fn matches(filter: &str, name: TopicName<'_>) -> bool {
    if name.0.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = name.levels();
    for wanted in filter.split('/') {
        match wanted {
            // Also when no level is left: `sport/#` matches `sport`.
            "#" => return true,
            "+" if levels.next().is_some() => {}
            exact if levels.next() == Some(exact) => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

fn check_characters(text: &str) -> Result<(), TopicError> {
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    match find_forbidden(text) {
        None => Ok(()),
        Some(Forbidden::Nul) => Err(TopicError::NulCharacter),
        Some(Forbidden::ControlOrNonCharacter) => Err(TopicError::ForbiddenCharacter),
    }
}

fn check_wildcards(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/');
    while let Some(level) = levels.next() {
        let hash_is_last = level == "#" && levels.clone().next().is_none();
        if level.contains('#') && !hash_is_last {
            return Err(TopicError::HashMisplaced);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::PlusMisplaced);
        }
    }
    Ok(())
}

fn is_wildcard(byte: u8) -> bool {
    matches!(byte, b'+' | b'#')
}

fn level_count(text: &str) -> usize {
    1 + text.bytes().filter(|byte| *byte == b'/').count()
}

impl TopicError {
    /// The clause of the standard, 3.1.1 where it has the rule.
    pub fn clause(self) -> &'static str {
        match self {
            Self::Empty => "MQTT-4.7.3-1",
            Self::TooLong => "MQTT-4.7.3-3",
            Self::NulCharacter => "MQTT-4.7.3-2",
            Self::ForbiddenCharacter => "§1.5.4 of 5.0",
            Self::WildcardInName => "MQTT-4.7.1-1",
            Self::HashMisplaced => "MQTT-4.7.1-2",
            Self::PlusMisplaced => "MQTT-4.7.1-3",
        }
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a topic cannot be empty",
            Self::TooLong => "a topic has at most 65,535 bytes",
            Self::NulCharacter => "a topic cannot contain U+0000",
            Self::ForbiddenCharacter => "a topic cannot contain control characters or non-characters",
            Self::WildcardInName => "a topic name cannot contain + or #",
            Self::HashMisplaced => "# must be the whole last level of a topic filter",
            Self::PlusMisplaced => "+ must be a whole level of a topic filter",
        })
    }
}

impl std::error::Error for TopicError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter<'_> {
        TopicFilter::parse(text).expect(text)
    }

    fn matching(text: &str, name: &str) -> bool {
        filter(text).matches(TopicName::parse(name).expect(name))
    }

    #[test]
    fn names_are_taken_as_they_are_mqtt_4_7_3_4() {
        for name in ["a", "/", "a//b", "/a/", "$SYS/x", "$", " ", "a b", "ä/ポ", "\u{FEFF}a"] {
            assert_eq!(TopicName::parse(name).expect(name).as_str(), name);
        }
        let name = TopicName::parse("/a//").expect("valid");
        assert_eq!(name.levels().collect::<Vec<_>>(), ["", "a", "", ""]);
        assert_eq!(name.level_count(), 4);
    }

    #[test]
    fn whatever_may_stand_in_a_devices_name_may_stand_in_a_topic() {
        for c in '\0'..=char::MAX {
            let text = format!("a{c}b");
            if let Ok(device) = crate::ids::DeviceName::parse(&text) {
                let topic = format!("site/{device}/telemetry");
                let topic = TopicName::parse(&topic).unwrap_or_else(|error| panic!("{c:?}: {error}"));
                assert_eq!(topic.level_count(), 3, "{c:?}");
            }
        }
    }

    #[test]
    fn names_that_break_a_rule_are_refused_mqtt_4_7_3_1_to_3_and_4_7_1_1() {
        assert_eq!(TopicName::parse(""), Err(TopicError::Empty));
        assert_eq!(TopicName::parse(&"x".repeat(65_536)), Err(TopicError::TooLong));
        assert_eq!(TopicName::parse("a\0"), Err(TopicError::NulCharacter));
        assert_eq!(TopicName::parse("a\u{7F}"), Err(TopicError::ForbiddenCharacter));
        assert_eq!(TopicName::parse("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::parse("a#"), Err(TopicError::WildcardInName));
        assert!(TopicName::parse(&"/".repeat(65_535)).is_ok());
    }

    #[test]
    fn wildcards_stand_alone_in_their_level_mqtt_4_7_1_2_and_4_7_1_3() {
        for text in ["#", "+", "a/#", "+/#", "+/a/+", "/+", "+/", "a/+/#", "//#"] {
            assert_eq!(filter(text).as_str(), text);
        }
        for text in ["a#", "#a", "#/", "a/#/b", "##", "a/b#", "+#", "#/#"] {
            assert_eq!(TopicFilter::parse(text), Err(TopicError::HashMisplaced), "{text}");
        }
        for text in ["a+", "+a", "++", "a/b+/c", "+a/#"] {
            assert_eq!(TopicFilter::parse(text), Err(TopicError::PlusMisplaced), "{text}");
        }
        assert_eq!(TopicFilter::parse(""), Err(TopicError::Empty));
        assert_eq!(TopicFilter::parse("a\0"), Err(TopicError::NulCharacter));
        assert_eq!(TopicFilter::parse("a\u{FFFF}"), Err(TopicError::ForbiddenCharacter));
    }

    #[test]
    fn a_shared_subscription_has_a_name_and_a_filter_mqtt_4_8_2_1() {
        let shared = filter("$share/group/a/+/#");
        assert_eq!(shared.share(), Some(("group", filter("a/+/#"))));
        assert_eq!(shared.level_count(), 5);
        assert!(!shared.is_malformed_share());
        assert_eq!(filter("$share/group//").share(), Some(("group", filter("/"))));
        assert_eq!(filter("$shared/group/a").share(), None);
        assert!(!filter("$shared/group/a").is_malformed_share());
        assert!(!filter("a/$share").is_malformed_share());
    }

    #[test]
    fn a_malformed_share_is_a_filter_that_matches_nothing_mqtt_4_8_2_2() {
        for text in [
            "$share",
            "$share/",
            "$share/x",
            "$share//t",
            "$share/+/t",
            "$share/#",
            "$share/a+/t",
            "$share/a#/t",
            "$share/x/",
            "$share/x/$share/y/t",
        ] {
            assert!(filter(text).is_malformed_share(), "{text}");
            assert_eq!(filter(text).share(), None, "{text}");
            for name in ["t", "$share", "$share/x", "/t"] {
                assert!(!matching(text, name), "{text} {name}");
            }
        }
    }

    #[test]
    fn wildcards_are_misplaced_in_a_shared_filter_too() {
        assert_eq!(TopicFilter::parse("$share/g/a#"), Err(TopicError::HashMisplaced));
        assert_eq!(TopicFilter::parse("$share/g/a/b+"), Err(TopicError::PlusMisplaced));
    }

    #[test]
    fn filters_match_the_names_of_the_standards_examples_4_7_1() {
        for (text, name) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player2"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/tennis/#", "a/tennis"),
            ("a//b", "a//b"),
            ("a/+/b", "a//b"),
            ("$SYS/#", "$SYS/"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("$share/g/sport/#", "sport"),
        ] {
            assert!(matching(text, name), "{text} {name}");
        }
    }

    #[test]
    fn filters_do_not_match_what_only_looks_alike() {
        for (text, name) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("a/#", "ab"),
            ("a/b", "a"),
            ("a", "a/"),
            ("a/", "a"),
            ("A", "a"),
            ("\u{FEFF}a", "a"),
            ("+/+/#", "a"),
            ("$share/g/t", "$share/g/t"),
        ] {
            assert!(!matching(text, name), "{text} {name}");
        }
    }

    #[test]
    fn leading_wildcards_do_not_reach_dollar_topics_mqtt_4_7_2_1() {
        for text in ["#", "+", "+/#", "+/monitor/Clients", "$share/g/#"] {
            for name in ["$SYS", "$SYS/monitor/Clients", "$"] {
                assert!(!matching(text, name), "{text} {name}");
            }
        }
        assert!(matching("a/#", "a/$b"));
    }

    #[test]
    fn matching_the_deepest_topic_takes_no_stack() {
        let deep = "/".repeat(65_535);
        assert!(matching(&deep, &deep));
        assert!(matching("#", &deep));
        assert!(!matching(&"+/".repeat(32_767), &deep));
    }

    #[test]
    fn every_error_has_words_and_a_clause() {
        for error in [
            TopicError::Empty,
            TopicError::TooLong,
            TopicError::NulCharacter,
            TopicError::ForbiddenCharacter,
            TopicError::WildcardInName,
            TopicError::HashMisplaced,
            TopicError::PlusMisplaced,
        ] {
            assert!(error.to_string().contains("topic"), "{error}");
            assert!(error.clause().starts_with("MQTT-") || error.clause().starts_with('§'), "{error}");
        }
    }
}
