//! The one buffer through which all connections read, so that an idle connection owns none.

use std::fmt;

use super::tls_session::LEFTOVER_BYTES_MAX;
use crate::limits::READ_BYTES_PER_TURN;

/// The buffers all connections read through, one after the other.
pub struct Scratch {
    /// Bytes as they came off the wire; those of a plain connection are plaintext already.
    pub(super) wire: Box<[u8]>,
    /// How many bytes at the start of `wire` are plaintext.
    pub(super) plain: usize,
    pub(super) decrypted: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Buffers for the largest read.
    pub fn new() -> Self {
        let size = LEFTOVER_BYTES_MAX + READ_BYTES_PER_TURN;
        Self { wire: vec![0; size].into(), plain: 0, decrypted: Vec::with_capacity(size) }
    }

    /// What the last [`Connection::read`](super::connection::Connection::read) brought, decrypted; not more than leftover and budget of it together.
    pub fn plaintext(&self) -> &[u8] {
        if self.plain > 0 { &self.wire[..self.plain] } else { &self.decrypted }
    }

    /// Forgets what the last read brought.
    pub(super) fn clear(&mut self) {
        self.plain = 0;
        self.decrypted.clear();
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("plaintext_bytes", &self.plaintext().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_shown_whether_it_was_encrypted_or_not() {
        let mut scratch = Scratch::new();
        assert!(scratch.plaintext().is_empty());
        scratch.wire[..4].copy_from_slice(b"data");
        scratch.plain = 4;
        assert_eq!(scratch.plaintext(), b"data");
        scratch.clear();
        scratch.decrypted.extend(b"other");
        assert_eq!(scratch.plaintext(), b"other");
    }

    #[test]
    fn no_bytes_show_in_debug_output() {
        let mut scratch = Scratch::new();
        scratch.decrypted.extend(b"SECRET");
        assert_eq!(format!("{scratch:?}"), "Scratch { plaintext_bytes: 6, .. }");
    }
}
