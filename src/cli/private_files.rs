//! Files in the data directory that hold secrets, or belong to such: readable by their owner only, and read back only
//! if that is so.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use forebay::whole_file::{self, Owner};

/// Writes `contents` to `file`, whole or not at all, readable by nobody else, and on disk when this returns.
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &Path, contents: &[u8]) -> io::Result<()> {
    whole_file::replace(file, contents, 0o600, Owner::OfDirectory)
}

/// Reads a secret of at most `bytes_max` bytes from `file`, which only its owner may read, unless it lies in `credentials`,
/// the directory systemd guards.
///
/// # Errors
/// Why not, in words that name the file and the remedy.
pub fn read_secret(file: &Path, credentials: Option<&Path>, bytes_max: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; a service has a user of its own: put the file in its data directory, owned by that directory's owner, \
                 or give it with LoadCredential= of systemd"
            }
            _ => "",
        };
        format!("cannot read {}: {error}{remedy}", file.display())
    };
    let open = File::open(file).map_err(unreadable)?;
    let metadata = open.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(format!("cannot read {}: it is not a plain file", file.display()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 && !credentials.is_some_and(|directory| file.starts_with(directory)) {
        return Err(format!(
            "refused the secret in {0}: others than its owner may read it (mode {mode:04o}); `chmod 600 {0}`",
            file.display()
        ));
    }
    let mut bytes = Vec::new();
    open.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    whole(bytes, bytes_max, file)
}

/// `bytes` unless they are more than `bytes_max`: part of a file is never taken for the whole.
///
/// # Errors
/// If they are, in words that name `file`.
pub fn whole(bytes: Vec<u8>, bytes_max: u64, file: &Path) -> Result<Vec<u8>, String> {
    match bytes.len() as u64 > bytes_max {
        true => Err(format!("cannot use {}: it has more than {bytes_max} bytes", file.display())),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_secret_others_may_read_is_refused_with_the_remedy_unless_systemd_guards_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("secret");
        write(&file, b"HUSH").expect("written");
        for open in [0o640, 0o604, 0o660] {
            fs::set_permissions(&file, fs::Permissions::from_mode(open)).expect("opened");
            let words = read_secret(&file, None, 100).expect_err("refused");
            assert!(words.contains("chmod 600") && !words.contains("HUSH"), "{words}");
            assert!(read_secret(&file, Some(dir.path()), 100).is_ok());
        }
        assert!(read_secret(dir.path(), None, 100).is_err());
        assert!(read_secret(&dir.path().join("gone"), None, 100).expect_err("missing").contains("gone"));
    }

    #[test]
    fn a_secret_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("secret");
        write(&file, b"HUSH").expect("written");
        assert_eq!(read_secret(&file, None, 4), Ok(b"HUSH".to_vec()));
        let words = read_secret(&file, None, 3).expect_err("it would be cut");
        assert!(words.contains("secret: it has more than 3 bytes") && !words.contains("HUSH"), "{words}");
    }
}
