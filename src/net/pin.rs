//! A pin: the fingerprint of the one public key the hub may have.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// SHA-256 of a SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// How many digits 32 bytes have in base64, the padding included.
const BASE64_DIGITS: usize = 44;

/// Why a text is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinError;

impl Pin {
    /// The pin of a key, given as its DER-encoded SubjectPublicKeyInfo.
    pub fn of(public_key: &[u8]) -> Self {
        Self(Sha256::digest(public_key).into())
    }
}

impl FromStr for Pin {
    type Err = PinError;

    /// 64 hexadecimal digits, or base64 after `sha256//` as curl writes it or `sha256/` as Android does.
    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = match text.strip_prefix("sha256/") {
            // The digits may begin with a slash themselves.
            Some(digits) if digits.len() > BASE64_DIGITS => {
                from_base64(digits.strip_prefix('/').unwrap_or(digits))
            }
            Some(digits) => from_base64(digits),
            None => from_hex(text),
        };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(PinError)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|n| u8::try_from(n).ok()))
        .collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for byte in text.trim_end_matches('=').bytes() {
        let six = ALPHABET.iter().position(|letter| *letter == byte)?;
        bits = bits << 6 | u32::try_from(six).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xFF) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a pin is the SHA-256 of the hub's public key: 64 hexadecimal digits, or sha256/ and base64",
        )
    }
}

impl std::error::Error for PinError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_pin_mean_the_same() {
        // SHA-256 of nothing, as the standard gives it.
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let pin = Pin::of(b"");
        assert_eq!(pin.to_string(), hex);
        let colons =
            "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55";
        let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        for text in [hex, colons, &format!("sha256/{base64}"), &format!("sha256//{base64}")] {
            assert_eq!(text.parse(), Ok(pin), "{text}");
        }
    }

    #[test]
    fn digits_that_begin_with_a_slash_are_read_after_one_slash_and_after_two() {
        let hex = "ffffff000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c";
        let base64 = "////AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxw=";
        for text in [format!("sha256/{base64}"), format!("sha256//{base64}")] {
            assert_eq!(text.parse::<Pin>().map(|pin| pin.to_string()), Ok(hex.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let long = "00".repeat(33);
        for text in ["", "sha256/", "e3b0", "xyz", "sha256/47DEQpj8", "sha256/!", &long, "e3b"] {
            assert_eq!(text.parse::<Pin>(), Err(PinError), "{text}");
        }
    }
}
