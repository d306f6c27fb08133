//! Which characters texts may hold.
//!
//! Every text of MQTT is well-formed UTF-8 without U+0000. What names something (topics, filters, client identifiers,
//! user names) also holds no control characters and no non-characters: the standard lets a receiver refuse them
//! [§1.5.4], and they would only come back as trouble in logs, files and terminals.

use crate::ids::is_non_character;

/// A character that may not stand in a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// U+0000. [MQTT-1.5.3-2]
    Nul,
    /// A control character or a non-character; our choice.
    ControlOrNonCharacter,
}

/// The first character of `text` that may not stand in a name.
pub(super) fn find_forbidden(text: &str) -> Option<Forbidden> {
    // Nearly all names are printable ASCII: one look at each byte settles those.
    if text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
        return None;
    }
    text.chars().find_map(forbidden)
}

fn forbidden(c: char) -> Option<Forbidden> {
    match c {
        '\0' => Some(Forbidden::Nul),
        c if c.is_control() || is_non_character(c) => Some(Forbidden::ControlOrNonCharacter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_66_non_characters_and_65_control_characters() {
        assert_eq!(('\0'..=char::MAX).filter(|c| is_non_character(*c)).count(), 66);
        assert_eq!(('\0'..=char::MAX).filter(|c| forbidden(*c).is_some()).count(), 66 + 65);
    }

    #[test]
    fn names_in_any_script_are_fine_and_so_is_a_byte_order_mark() {
        for text in
            ["", "pump/1", " ~", "насос", "ポンプ", "\u{FEFF}a", "\u{FDCF}\u{FDF0}\u{FFFD}", "\u{10FFFD}"]
        {
            assert_eq!(find_forbidden(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_first_forbidden_character_is_named() {
        assert_eq!(find_forbidden("a\0"), Some(Forbidden::Nul));
        for text in ["\u{1}", "é\u{1F}", "\u{7F}", "\u{80}", "\u{9F}", "\u{FDD0}", "a\u{FFFF}\0", "\u{1FFFE}"]
        {
            assert_eq!(find_forbidden(text), Some(Forbidden::ControlOrNonCharacter), "{text:?}");
        }
    }
}
