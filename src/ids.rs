//! Names for things that live longer than one packet.

use std::{fmt, sync::Arc};

/// One connection for its whole life; the epoch tells a reused slot from its former owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Index in the table of connections.
    pub slot: u32,
    /// Raised each time the slot is used again.
    pub epoch: u32,
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot, self.epoch)
    }
}

/// A session while the broker runs: its place in the table of sessions, used again once the session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionSlot(pub u32);

/// A device in the registry; never used again after the device is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId(pub i64);

/// A client, whatever connection or session it has at the moment: whose token it has, and its client id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// Whose token it has.
    pub identity: IdentityId,
    /// The client id it gave, or was given.
    pub client_id: Arc<str>,
}

/// A session that outlives its connections; never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A message on disk that deliveries speak of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// A message on its way to one session, on disk; increasing in the order of delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// Position in the order of commits; one for each change that must be on disk before what waits for it may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Position of a reading in the journal; increasing, never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

/// A device's name: 1 to [`DeviceName::CHARS_MAX`] characters, no control characters, no non-characters, none of
/// `/ + # "`. It can be a level of a topic.
///
/// The name is the device's identity towards people, the journal and the hub; it is shared, so a clone is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(Arc<str>);

/// Why a text cannot be a device's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceNameError {
    /// Nothing, or white space only.
    Blank,
    /// More than [`DeviceName::CHARS_MAX`] characters.
    TooLong,
    /// White space at the start or the end.
    Padded,
    /// A control character, a non-character, or one of `/ + # "`, which topics and shells give a meaning.
    Forbidden(char),
}

impl DeviceName {
    /// Longest name, in characters.
    pub const CHARS_MAX: usize = 128;
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = Self::CHARS_MAX * 4;

    /// Checks `text` and makes a name of it.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, DeviceNameError> {
        if text.trim().is_empty() {
            return Err(DeviceNameError::Blank);
        }
        if text.trim() != text {
            return Err(DeviceNameError::Padded);
        }
        if text.chars().count() > Self::CHARS_MAX {
            return Err(DeviceNameError::TooLong);
        }
        match text.chars().find(|c| c.is_control() || is_non_character(*c) || "/+#\"".contains(*c)) {
            Some(c) => Err(DeviceNameError::Forbidden(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// A name as it stands on disk. Non-characters were let pass once: for each of them U+FFFD stands in the name made.
    ///
    /// Nothing that was stored under such a name is lost for it.
    pub fn restored(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|_| Self::parse(&text.replace(is_non_character, "\u{FFFD}"))).ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `c` is one of the 66 code points Unicode promises never to assign: U+FDD0 to U+FDEF and the last two of each
/// plane. They may not stand in what names something.
pub fn is_non_character(c: char) -> bool {
    matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DeviceNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("a device's name cannot be blank"),
            Self::TooLong => write!(f, "a device's name has at most {} characters", DeviceName::CHARS_MAX),
            Self::Padded => f.write_str("a device's name cannot start or end with white space"),
            Self::Forbidden(c) => {
                write!(
                    f,
                    "a device's name cannot contain {c:?} (nor control characters, non-characters, or any of / + # \")"
                )
            }
        }
    }
}

impl std::error::Error for DeviceNameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_mistaken_for_topics_are_refused() {
        assert_eq!(DeviceName::parse("a/b"), Err(DeviceNameError::Forbidden('/')));
        assert_eq!(DeviceName::parse("#"), Err(DeviceNameError::Forbidden('#')));
        assert_eq!(DeviceName::parse("a\nb"), Err(DeviceNameError::Forbidden('\n')));
    }

    #[test]
    fn a_name_with_a_non_character_is_refused_and_comes_back_from_disk_without_it() {
        assert_eq!(DeviceName::parse("a\u{FFFE}"), Err(DeviceNameError::Forbidden('\u{FFFE}')));
        let words = DeviceName::parse("a\u{FFFE}").expect_err("refused").to_string();
        assert!(words.contains(r"'\u{fffe}'"), "{words}");
        let restored = DeviceName::restored("a\u{FFFE}b\u{FDD0}").expect("a name");
        assert_eq!(restored.as_str(), "a\u{FFFD}b\u{FFFD}");
        assert_eq!(DeviceName::restored("a/\u{FFFE}"), None);
    }

    #[test]
    fn blank_padded_and_long_names_are_refused() {
        assert_eq!(DeviceName::parse(""), Err(DeviceNameError::Blank));
        assert_eq!(DeviceName::parse("  "), Err(DeviceNameError::Blank));
        assert_eq!(DeviceName::parse(" pump"), Err(DeviceNameError::Padded));
        assert_eq!(DeviceName::parse(&"x".repeat(129)), Err(DeviceNameError::TooLong));
    }

    #[test]
    fn names_in_any_script_are_accepted() {
        for name in ["pump", "Pumpe Keller 3", "насос", "ポンプ", "a.b-c_d:e@f"] {
            assert_eq!(DeviceName::parse(name).expect(name).as_str(), name);
        }
    }
}
