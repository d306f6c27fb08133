//! The token of a quickstart's device, kept in the clear so that its second run can print it again.
//!
//! Written by `forebay quickstart` only, to a file of mode 0600 in the data directory.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use forebay::identity::{Identity, Token};

use super::private_files;

/// Its name in the data directory.
pub const FILE: &str = "demo.token";

/// What a quickstart finds about its device.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such device yet.
    NoDevice,
    /// The device, and the token that lets it in.
    Known(Token),
    /// The device, but no file with a token.
    FileMissing,
    /// The device, but the file's token is not its token: it was rotated or set since.
    FileOutdated,
}

/// The file in `data_dir`.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Compares the registry's `device` with the token in the file.
pub fn compare(device: Option<&Identity>, in_file: Option<Token>) -> Found {
    match (device, in_file) {
        (None, _) => Found::NoDevice,
        (Some(_), None) => Found::FileMissing,
        (Some(device), Some(token)) if token.hash().equals(&device.token_hash) => Found::Known(token),
        (Some(_), Some(_)) => Found::FileOutdated,
    }
}

/// Reads the token in `file`; a missing file, or one that holds no token, is `None`.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read(file: &Path) -> io::Result<Option<Token>> {
    let open = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        open => open?,
    };
    let mut bytes = Vec::new();
    open.take(Token::BYTES_MAX as u64 + 2).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok().and_then(|text| Token::parse(text.trim_end_matches('\n')).ok()))
}

/// Writes `token` to `file`, whole or not at all, readable by nobody else.
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &Path, token: &Token) -> io::Result<()> {
    private_files::write(file, format!("{}\n", token.reveal()).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use forebay::{
        clock::Wall,
        identity::Role,
        ids::{DeviceName, IdentityId},
    };

    fn token(text: &str) -> Token {
        Token::parse(text).expect(text)
    }

    fn device(token: &Token) -> Identity {
        Identity {
            id: IdentityId(1),
            name: DeviceName::parse("demo").expect("a name"),
            role: Role::Device,
            token_hash: token.hash(),
            enabled: true,
            created: Wall(0),
            last_seen: None,
        }
    }

    #[test]
    fn a_token_that_was_written_is_read_back_and_is_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = path(directory.path());
        for text in ["7qPzL0aXw2RnT5vYb9Kd", "second"] {
            write(&file, &token(text)).expect("written");
            assert_eq!(read(&file).expect("read"), Some(token(text)));
        }
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_file_that_is_missing_or_holds_no_token_is_no_token() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = path(directory.path());
        assert_eq!(read(&file).expect("missing"), None);
        for contents in [&b""[..], b"\n", b"two\nlines\n", &[0xff; 8], &[b'x'; 600]] {
            fs::write(&file, contents).expect("written");
            assert_eq!(read(&file).expect("read"), None, "{contents:?}");
        }
        assert!(read(directory.path()).is_err());
    }

    #[test]
    fn without_a_device_a_file_left_behind_counts_for_nothing() {
        assert_eq!(compare(None, None), Found::NoDevice);
        assert_eq!(compare(None, Some(token("removed"))), Found::NoDevice);
    }

    #[test]
    fn a_token_is_known_only_if_it_is_the_devices_own() {
        let own = token("own");
        assert_eq!(compare(Some(&device(&own)), Some(own.clone())), Found::Known(own.clone()));
        assert_eq!(compare(Some(&device(&own)), Some(token("old"))), Found::FileOutdated);
        assert_eq!(compare(Some(&device(&own)), None), Found::FileMissing);
    }
}
