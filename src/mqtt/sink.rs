//! The data types packets are made of, on their way out. [§1.5]
//!
//! A body is put twice: first into a [`Size`], which only counts, then into the bytes that are sent. So its length
//! is known before its first byte and no packet is copied.

use super::{error::EncodeError, packet::ProtocolVersion, properties::Properties, wire::VARINT_MAX};

/// Whatever takes bytes.
pub(super) trait Sink {
    /// Takes `bytes` as they are.
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Takes a variable byte integer, in as few bytes as it needs. [MQTT-1.5.5-1 of 5.0]
    fn put_varint(&mut self, value: u32) {
        assert!(value <= VARINT_MAX, "the caller bounds what it writes as a variable byte integer");
        let mut left = value;
        while left > 0x7F {
            self.put_u8(0x80 | (left & 0x7F) as u8);
            left >>= 7;
        }
        self.put_u8(left as u8);
    }

    /// Takes a length as a variable byte integer.
    fn put_length(&mut self, length: usize) -> Result<(), EncodeError> {
        match u32::try_from(length) {
            Ok(length) if length <= VARINT_MAX => {
                self.put_varint(length);
                Ok(())
            }
            _ => Err(EncodeError::TooLarge),
        }
    }

    /// Takes binary data, or the bytes of a text, behind two bytes of length.
    fn put_binary(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let length = u16::try_from(bytes.len()).map_err(|_| EncodeError::TooLarge)?;
        self.put_u16(length);
        self.put(bytes);
        Ok(())
    }

    /// Takes properties behind their length; before 5.0 there are none.
    fn put_properties(
        &mut self,
        properties: Properties<'_>,
        version: ProtocolVersion,
    ) -> Result<(), EncodeError> {
        if version < ProtocolVersion::V5 {
            return Ok(());
        }
        self.put_length(properties.as_bytes().len())?;
        self.put(properties.as_bytes());
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts the bytes put into it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Size(pub usize);

impl Sink for Size {
    fn put(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::parse_padded_varint, *};

    #[test]
    fn varints_are_written_as_they_are_read() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, VARINT_MAX] {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            assert_eq!(parse_padded_varint(&bytes), Ok(Some((value, bytes.len()))));
        }
    }

    #[test]
    fn a_size_counts_what_a_vector_would_hold() {
        let (mut size, mut bytes) = (Size::default(), Vec::new());
        for sink in [&mut size as &mut dyn Sink, &mut bytes] {
            sink.put_u8(1);
            sink.put_u32(2);
            sink.put_varint(300);
            sink.put_binary(b"abc").expect("short");
        }
        assert_eq!(size, Size(bytes.len()));
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0xAC, 0x02, 0, 3, b'a', b'b', b'c']);
    }

    #[test]
    fn what_two_bytes_of_length_cannot_say_is_too_large() {
        let mut size = Size::default();
        assert_eq!(size.put_binary(&[0; 65_535]), Ok(()));
        assert_eq!(size.put_binary(&[0; 65_536]), Err(EncodeError::TooLarge));
        assert_eq!(size.put_length(VARINT_MAX as usize + 1), Err(EncodeError::TooLarge));
    }
}
