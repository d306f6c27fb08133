//! Chance, read once at the start from the operating system: everything below is given a seed.

use std::io;

/// Gives a seed nobody can guess.
///
/// # Errors
/// If the operating system has no random bytes to give.
pub fn seed() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed().expect("random bytes"), seed().expect("random bytes"));
    }
}
