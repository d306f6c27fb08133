//! Who may come in, and the access token that shows it, as plain values.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    clock::Wall,
    ids::{DeviceName, IdentityId},
};

/// A device, or a local program, as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Never used again, even after the identity is removed.
    pub id: IdentityId,
    /// Unique among all identities.
    pub name: DeviceName,
    /// What it is, and what it may do.
    pub role: Role,
    /// What its token hashes to; unique among all identities.
    pub token_hash: TokenHash,
    /// Whether it is let in.
    pub enabled: bool,
    /// When it was added.
    pub created: Wall,
    /// When it last connected or published, give or take a few minutes.
    pub last_seen: Option<Wall>,
}

/// What an identity is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends telemetry, and speaks the hub's device API.
    Device,
    /// A device behind which there are others, and which speaks for them as well.
    Gateway,
    /// A program on the gateway or near it, with rights of its own.
    Client(Rights),
}

impl Role {
    /// Whether it speaks the hub's device API.
    pub fn is_device(&self) -> bool {
        matches!(self, Self::Device | Self::Gateway)
    }
}

/// What a local client may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Where it may publish.
    pub publish: Grant,
    /// What it may subscribe to.
    pub subscribe: Grant,
}

/// Topics somebody has a right to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Everything but the hub's name spaces and topics that begin with `$`.
    #[default]
    Ordinary,
    /// What these filters cover, and nothing else; each is a well-formed filter, none a shared subscription.
    Only(Vec<String>),
}

/// What the operator grants to every device beyond its own topics; the text `{device}` stands for its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceGrants {
    /// Filters of the topics it may publish to.
    pub publish: Vec<String>,
    /// Filters that cover what it may subscribe to.
    pub subscribe: Vec<String>,
}

/// SHA-256 of an access token, which is all the registry holds of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of `token`, byte for byte: no trimming, no case folding.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The mark of the token.
    pub fn mark(&self) -> TokenMark {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        TokenMark(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Compares in a time that does not depend on where the two differ.
    pub fn equals(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Tells one token of an identity from the next: the first 8 bytes of the hash. It lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenMark(pub i64);

impl fmt::Debug for TokenMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenMark(..)")
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// An access token in the clear: made or read by the command line and shown once. Three files may keep some, for their
/// owner only: `uplink-tokens` (devices forwarded as themselves), `uplink.token` (ours at the hub), `demo.token`.
///
/// `Debug` hides it; [`Token::reveal`] is the one way to see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why a text cannot be an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Nothing, or white space only.
    Blank,
    /// More than [`Token::BYTES_MAX`] bytes.
    TooLong,
    /// A control character, which no CONNECT could carry.
    ControlCharacter,
}

impl Token {
    /// Longest token, in bytes; it must fit a CONNECT beside everything else.
    pub const BYTES_MAX: usize = 512;
    /// Length of a generated token, in characters of [A-Za-z0-9]: 119 bits.
    pub const GENERATED_CHARS: usize = 20;

    /// Checks a token chosen by the operator.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.trim().is_empty() {
            return Err(TokenError::Blank);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(TokenError::ControlCharacter);
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes a token of [`Token::GENERATED_CHARS`] characters from `random`, which fills a buffer with chance.
    pub fn generate(mut random: impl FnMut(&mut [u8])) -> Self {
        const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut token = String::with_capacity(Self::GENERATED_CHARS);
        let mut chance = [0; 64];
        while token.len() < Self::GENERATED_CHARS {
            random(&mut chance);
            // Bytes of 248 and more are thrown away: keeping them would favour the first letters.
            let fair =
                chance.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(*byte) % 62]);
            let missing = Self::GENERATED_CHARS - token.len();
            token.extend(fair.take(missing).map(char::from));
        }
        Self(token)
    }

    /// The token in the clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the registry stores of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// Whether the token is short or plain enough to be guessed: under 16 characters, or under 8 different ones.
    pub fn is_weak(&self) -> bool {
        let mut different: Vec<char> = self.0.chars().collect();
        let length = different.len();
        different.sort_unstable();
        different.dedup();
        length < 16 || different.len() < 8
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("an access token cannot be blank"),
            Self::TooLong => write!(f, "an access token has at most {} bytes", Token::BYTES_MAX),
            Self::ControlCharacter => f.write_str("an access token cannot contain control characters"),
        }
    }
}

impl std::error::Error for TokenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_token_has_twenty_characters_of_the_hubs_alphabet() {
        let mut byte = 0u8;
        let token = Token::generate(|chance| {
            for slot in chance {
                *slot = byte;
                byte = byte.wrapping_add(37);
            }
        });
        assert_eq!(token.reveal().len(), 20);
        assert!(token.reveal().bytes().all(|b| b.is_ascii_alphanumeric()));
    }

    #[test]
    fn every_letter_is_about_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        let mut chance = 1u32;
        for _ in 0..3100 {
            let token = Token::generate(|bytes| {
                for byte in bytes {
                    chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (chance >> 24) as u8;
                }
            });
            for letter in token.reveal().chars() {
                *counts.entry(letter).or_insert(0) += 1;
            }
        }
        assert_eq!(counts.len(), 62);
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_token_is_compared_byte_for_byte() {
        let hash = TokenHash::of("TOKEN");
        assert!(hash.equals(&TokenHash::of("TOKEN")));
        assert!(!hash.equals(&TokenHash::of("TOKEN ")));
        assert!(!hash.equals(&TokenHash::of("token")));
    }

    #[test]
    fn no_token_shows_in_debug_output() {
        let token = Token::parse("SECRETSECRET").expect("valid");
        assert!(!format!("{token:?} {:?}", token.hash()).contains("SECRET"));
    }

    #[test]
    fn weak_tokens_are_told_apart() {
        assert!(Token::parse("demo").expect("valid").is_weak());
        assert!(Token::parse("aaaaaaaaaaaaaaaaaaaaaaaa").expect("valid").is_weak());
        assert!(!Token::parse("7qPzL0aXw2RnT5vYb9Kd").expect("valid").is_weak());
    }

    #[test]
    fn blank_long_and_unprintable_tokens_are_refused() {
        assert_eq!(Token::parse("  "), Err(TokenError::Blank));
        assert_eq!(Token::parse(&"x".repeat(513)), Err(TokenError::TooLong));
        assert_eq!(Token::parse("a\nb"), Err(TokenError::ControlCharacter));
    }
}
