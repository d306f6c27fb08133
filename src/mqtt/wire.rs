//! The data types packets are made of, as nom parsers over borrowed bytes. [§1.5]
//!
//! All parsers are complete: they see the whole body, so bytes that lack are an error and never a reason to wait.

use nom::{
    IResult,
    bytes::complete::take,
    error::{ErrorKind, ParseError},
    number::complete::be_u16,
};

use super::{
    error::DecodeError,
    packet::{PacketId, PacketType, ProtocolVersion},
    properties::Properties,
    property_table::PropertyPlace,
    strings::{Forbidden, find_forbidden},
};

/// What a parser found, and the bytes after it.
pub(super) type Parsed<'a, T> = IResult<&'a [u8], T, DecodeError>;

/// The largest number a variable byte integer holds. [§1.5.5]
pub(super) const VARINT_MAX: u32 = 268_435_455;

impl ParseError<&[u8]> for DecodeError {
    // The ready-made parsers in use fail for one reason only: the bytes are at an end.
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        Self::BodyTooShort
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

impl From<DecodeError> for nom::Err<DecodeError> {
    fn from(error: DecodeError) -> Self {
        Self::Failure(error)
    }
}

impl From<nom::Err<DecodeError>> for DecodeError {
    fn from(error: nom::Err<DecodeError>) -> Self {
        match error {
            nom::Err::Error(error) | nom::Err::Failure(error) => error,
            nom::Err::Incomplete(_) => Self::BodyTooShort,
        }
    }
}

/// Reads a variable byte integer, however it is written, and the number of its bytes; `Ok(None)` says that more bytes are
/// needed. [§1.5.5]
///
/// # Errors
/// If it goes on after the fourth byte.
pub(super) fn parse_padded_varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DecodeError::VarintTooLong) }
}

/// Reads a variable byte integer that is not longer than it needs to be. [MQTT-1.5.5-1 of 5.0]
pub(super) fn varint(input: &[u8]) -> Parsed<'_, u32> {
    let (value, bytes) = parse_padded_varint(input)?.ok_or(DecodeError::BodyTooShort)?;
    if bytes > 1 && input[bytes - 1] == 0 {
        return Err(DecodeError::VarintNotMinimal.into());
    }
    let (rest, _) = take(bytes)(input)?;
    Ok((rest, value))
}

/// Reads binary data: two bytes of length, then as many bytes. [§1.5.6]
pub(super) fn binary(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = be_u16(input)?;
    match rest.split_at_checked(length.into()) {
        Some((data, rest)) => Ok((rest, data)),
        None => Err(DecodeError::FieldPastEnd.into()),
    }
}

/// Reads a text: UTF-8 without U+0000; a byte order mark is kept. [MQTT-1.5.3-1] to [MQTT-1.5.3-3]
pub(super) fn text(input: &[u8]) -> Parsed<'_, &str> {
    let (rest, text) = utf8(input)?;
    if text.contains('\0') { Err(DecodeError::NulCharacter.into()) } else { Ok((rest, text)) }
}

/// Reads a text that names something: no control characters and no non-characters either.
pub(super) fn name(input: &[u8]) -> Parsed<'_, &str> {
    let (rest, text) = utf8(input)?;
    match find_forbidden(text) {
        None => Ok((rest, text)),
        Some(Forbidden::Nul) => Err(DecodeError::NulCharacter.into()),
        Some(Forbidden::ControlOrNonCharacter) => Err(DecodeError::ForbiddenCharacter.into()),
    }
}

fn utf8(input: &[u8]) -> Parsed<'_, &str> {
    let (rest, bytes) = binary(input)?;
    let text = str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
    Ok((rest, text))
}

/// Reads a packet identifier. [MQTT-2.3.1-1]
pub(super) fn packet_id(input: &[u8]) -> Parsed<'_, PacketId> {
    let (rest, id) = be_u16(input)?;
    let id = PacketId::new(id).ok_or(DecodeError::PacketIdZero)?;
    Ok((rest, id))
}

/// Reads the properties a packet of 5.0 always has; before 5.0 there are none and nothing is read.
pub(super) fn properties(
    place: impl Into<PropertyPlace>,
    version: ProtocolVersion,
) -> impl Fn(&[u8]) -> Parsed<'_, Properties<'_>> {
    let place = place.into();
    move |input| {
        if version < ProtocolVersion::V5 {
            return Ok((input, Properties::EMPTY));
        }
        let (rest, length) = varint(input)?;
        let Some((bytes, rest)) =
            usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length))
        else {
            return Err(DecodeError::PropertiesPastEnd.into());
        };
        Ok((rest, Properties::validate(bytes, place)?))
    }
}

impl From<PacketType> for PropertyPlace {
    fn from(packet_type: PacketType) -> Self {
        Self::Packet(packet_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_one_to_four_bytes() {
        assert_eq!(varint(&[0x00, 9]), Ok((&[9][..], 0)));
        assert_eq!(varint(&[0x7F]), Ok((&[][..], 127)));
        assert_eq!(varint(&[0xC1, 0x02]), Ok((&[][..], 321)));
        assert_eq!(varint(&[0xFF, 0xFF, 0xFF, 0x7F, 1]), Ok((&[1][..], VARINT_MAX)));
    }

    #[test]
    fn a_varint_cut_overlong_or_not_minimal_is_refused_mqtt_1_5_5_1() {
        assert_eq!(varint(&[]), Err(DecodeError::BodyTooShort.into()));
        assert_eq!(varint(&[0x80, 0x80]), Err(DecodeError::BodyTooShort.into()));
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x01]), Err(DecodeError::VarintTooLong.into()));
        assert_eq!(varint(&[0x81, 0x80, 0x00]), Err(DecodeError::VarintNotMinimal.into()));
    }

    #[test]
    fn a_length_past_the_end_is_not_the_same_as_a_missing_length() {
        assert_eq!(binary(&[0, 2, 7, 8, 9]), Ok((&[9][..], &[7, 8][..])));
        assert_eq!(binary(&[0]).map_err(DecodeError::from), Err(DecodeError::BodyTooShort));
        assert_eq!(binary(&[0xFF, 0xFF, 1]), Err(DecodeError::FieldPastEnd.into()));
    }

    #[test]
    fn texts_are_strict_utf8_and_keep_a_byte_order_mark_mqtt_1_5_3_1_to_3() {
        assert_eq!(text(b"\x00\x04\xEF\xBB\xBFa"), Ok((&[][..], "\u{FEFF}a")));
        for bytes in
            [&b"\0\x01\x80"[..], b"\0\x02\xC0\xAF", b"\0\x03\xED\xA0\x80", b"\0\x05\xF8\x88\x80\x80\x80"]
        {
            assert_eq!(text(bytes), Err(DecodeError::NotUtf8.into()));
        }
        assert_eq!(text(b"\0\x02a\0"), Err(DecodeError::NulCharacter.into()));
    }

    #[test]
    fn names_hold_no_control_characters_but_other_texts_may() {
        assert_eq!(name(b"\0\x02a\n"), Err(DecodeError::ForbiddenCharacter.into()));
        assert_eq!(name(b"\0\x02a\0"), Err(DecodeError::NulCharacter.into()));
        assert_eq!(text(b"\0\x02a\n"), Ok((&[][..], "a\n")));
    }
}
