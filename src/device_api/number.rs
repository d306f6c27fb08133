//! Decimal numbers as devices write them: taken apart, held within bounds, never rounded.
//!
//! The journal keeps a number's own text, so nothing here makes a float of a reading; the text only has to stay small
//! enough that no reader after us turns it into an infinity or a gigabyte of digits.

use std::fmt;

use crate::limits::{JSON_EXPONENT_MAX, JSON_NUMBER_DIGITS_MAX};

/// A decimal number within our bounds, borrowed from its text.
#[derive(Clone, Copy, Debug)]
pub struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i32,
}

/// Why a text is not a number we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// It is not a decimal number.
    Malformed,
    /// It has more than [`JSON_NUMBER_DIGITS_MAX`] digits, those of the exponent not counted.
    TooManyDigits,
    /// Its exponent lies beyond [`JSON_EXPONENT_MAX`], either way.
    ExponentTooLarge,
    /// It is larger than the largest 64-bit float.
    Overflows,
}

impl<'a> Decimal<'a> {
    /// Takes `text` apart: an optional sign, digits, optionally a fraction, optionally an exponent.
    ///
    /// Wider than JSON: a plus sign and leading zeros are let through, as numeric strings may have them.
    ///
    /// # Errors
    /// The first rule it breaks, the grammar first.
    pub fn parse(text: &'a str) -> Result<Self, NumberError> {
        let number = Self::split(text).ok_or(NumberError::Malformed)?;
        if number.whole.len() + number.fraction.len() > JSON_NUMBER_DIGITS_MAX {
            return Err(NumberError::TooManyDigits);
        }
        if number.exponent.unsigned_abs() > JSON_EXPONENT_MAX {
            return Err(NumberError::ExponentTooLarge);
        }
        // With a smaller exponent the digits allowed cannot reach the largest float.
        if number.exponent > 0 && !text.parse().is_ok_and(f64::is_finite) {
            return Err(NumberError::Overflows);
        }
        Ok(number)
    }

    /// The number without its fraction, or `None` if that does not fit.
    pub fn truncated(&self) -> Option<i64> {
        let digits = self.whole.bytes().chain(self.fraction.bytes()).chain(std::iter::repeat(b'0'));
        let places = i64::from(self.exponent) + i64::try_from(self.whole.len()).ok()?;
        let magnitude = digits
            .take(usize::try_from(places).unwrap_or(0))
            .try_fold(0_i64, |sum, digit| sum.checked_mul(10)?.checked_add(i64::from(digit - b'0')))?;
        Some(if self.negative { -magnitude } else { magnitude })
    }

    fn split(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, power) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, Some(power)),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let exponent = match power {
            Some(power) => exponent(power)?,
            None => 0,
        };
        is_digits(whole).then_some(Self { negative: text.starts_with('-'), whole, fraction, exponent })
    }
}

/// Whether `text` is a number by the grammar of JSON, whatever its size. [RFC 8259 §6]
pub fn is_json_number(text: &str) -> bool {
    let unpadded = |whole: &str| whole == "0" || !whole.starts_with('0');
    !text.starts_with('+') && Decimal::split(text).is_some_and(|number| unpadded(number.whole))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The exponent written as `text`; one beyond 32 bits is still only "too large".
fn exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    is_digits(digits).then(|| text.parse().unwrap_or(i32::MAX))
}

impl fmt::Display for NumberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a decimal number"),
            Self::TooManyDigits => write!(f, "a number has more than {JSON_NUMBER_DIGITS_MAX} digits"),
            Self::ExponentTooLarge => write!(f, "a number's exponent lies beyond {JSON_EXPONENT_MAX}"),
            Self::Overflows => f.write_str("a number is too large for a 64-bit float"),
        }
    }
}

impl std::error::Error for NumberError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_numbers_are_told_from_texts_that_look_like_them() {
        for text in
            ["0", "-0", "7", "10.50", "1e5", "1E+05", "-1.5e-7", "9223372036854775808", "0e999999999999"]
        {
            assert!(is_json_number(text), "{text}");
        }
        for text in [
            "", "-", "+5", "007", "-01", ".5", "1.", "1.e5", "1e", "1e+", "1.5.2", "0x10", "25C", "1_0", "٣",
            "--1",
        ] {
            assert!(!is_json_number(text), "{text}");
        }
    }

    #[test]
    fn numbers_within_the_bounds_are_taken() {
        for text in
            ["25", "-0", "25.0", "1.7976931348623157e308", "1e-308", "0007", "+5", "1e+0000000000000000008"]
        {
            assert!(Decimal::parse(text).is_ok(), "{text}");
        }
        assert!(Decimal::parse(&"9".repeat(JSON_NUMBER_DIGITS_MAX)).is_ok());
    }

    #[test]
    fn a_text_that_is_no_number_is_malformed() {
        for text in ["", "soon", "1.", "0x10", " 5", "5 ", "1e5.5", "NaN", "Infinity", "inf"] {
            assert_eq!(Decimal::parse(text).err(), Some(NumberError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_number_with_41_digits_is_refused_wherever_the_point_is() {
        assert_eq!(Decimal::parse(&"9".repeat(41)).err(), Some(NumberError::TooManyDigits));
        assert_eq!(Decimal::parse(&format!("0.{}", "0".repeat(40))).err(), Some(NumberError::TooManyDigits));
    }

    #[test]
    fn an_exponent_beyond_308_is_refused_either_way() {
        for text in ["1e309", "1e-309", "0e400", "1e-400", "1e999999999", "1e99999999999999999999"] {
            assert_eq!(Decimal::parse(text).err(), Some(NumberError::ExponentTooLarge), "{text}");
        }
    }

    #[test]
    fn a_number_beyond_the_largest_float_is_refused_though_its_exponent_is_allowed() {
        assert_eq!(Decimal::parse("1.8e308").err(), Some(NumberError::Overflows));
        assert_eq!(Decimal::parse(&format!("-{}e308", "9".repeat(40))).err(), Some(NumberError::Overflows));
    }

    #[test]
    fn truncation_moves_the_point_and_drops_the_fraction() {
        let truncated = |text: &str| Decimal::parse(text).expect(text).truncated();
        assert_eq!(truncated("1700000000000"), Some(1_700_000_000_000));
        assert_eq!(truncated("1.7e12"), Some(1_700_000_000_000));
        assert_eq!(truncated("17000000000009e-1"), Some(1_700_000_000_000));
        assert_eq!(truncated("12.99"), Some(12));
        assert_eq!(truncated("1.2345e2"), Some(123));
        assert_eq!(truncated("0.9"), Some(0));
        assert_eq!(truncated("9e-300"), Some(0));
        assert_eq!(truncated("-7.5"), Some(-7));
        assert_eq!(truncated("0e300"), Some(0));
        assert_eq!(truncated("9223372036854775807"), Some(i64::MAX));
        assert_eq!(truncated("9223372036854775808"), None);
        assert_eq!(truncated("1e300"), None);
    }

    #[test]
    fn errors_are_told_in_words() {
        assert_eq!(NumberError::Malformed.to_string(), "not a decimal number");
        assert_eq!(NumberError::TooManyDigits.to_string(), "a number has more than 40 digits");
        assert_eq!(NumberError::ExponentTooLarge.to_string(), "a number's exponent lies beyond 308");
        assert_eq!(NumberError::Overflows.to_string(), "a number is too large for a 64-bit float");
    }
}
