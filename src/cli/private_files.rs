//! Files in the data directory that hold secrets, or belong to such: written whole or not at all, readable by their
//! owner only, and read back only if that is so.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
};

use super::Failure;

/// Writes `contents` to `file`, whole or not at all, readable by nobody else, and on disk when this returns.
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let unfinished = PathBuf::from(name);
    // A leftover might have another mode, and might be a link to somewhere else.
    remove(&unfinished)?;
    let mut fresh = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    fresh.write_all(contents)?;
    fresh.sync_all()?;
    give_to_owner(&unfinished)?;
    fs::rename(&unfinished, file)?;
    sync_directory(file)
}

/// Removes `file`, for good when this returns; one that is not there is no failure.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(file),
    }
}

/// Reads a secret of at most `bytes_max` bytes from `file`, which only its owner may read, unless it lies in `credentials`,
/// the directory systemd guards.
///
/// # Errors
/// Why not, in words that name the file and the remedy.
pub fn read_secret(file: &Path, credentials: Option<&Path>, bytes_max: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot read {}: {error}", file.display());
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

/// Root makes `files` in `dir`, the service's own user must read them.
///
/// # Errors
/// If their owner cannot be set.
pub fn give_to_owner_of(dir: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let unowned =
        |path: &Path, error| Failure::Failed(format!("cannot set the owner of {}: {error}", path.display()));
    dir.metadata().map_err(|error| unowned(dir, error))?;
    files.iter().try_for_each(|file| give_to_owner(file).map_err(|error| unowned(file, error)))
}

/// Gives `file` to the owner of its directory, if we are root and it is not theirs.
fn give_to_owner(file: &Path) -> io::Result<()> {
    let owner = directory_of(file).metadata()?;
    let now = file.symlink_metadata()?;
    if (now.uid(), now.gid()) != (owner.uid(), owner.gid()) && rustix::process::geteuid().is_root() {
        lchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

fn sync_directory(file: &Path) -> io::Result<()> {
    File::open(directory_of(file))?.sync_all()
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).expect("a file").permissions().mode() & 0o7777
    }

    #[test]
    fn what_was_written_is_private_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("secret");
        for contents in [&b"one"[..], b"two"] {
            write(&file, contents).expect("written");
            assert_eq!(read_secret(&file, None, 100), Ok(contents.to_vec()));
        }
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        remove(&file).expect("removed");
        remove(&file).expect("removed already");
        assert!(!file.exists());
    }

    #[test]
    fn a_leftover_of_a_run_that_was_cut_short_is_no_obstacle_and_no_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, elsewhere) = (dir.path().join("secret"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("secret.new")).expect("a link");
        write(&file, b"fresh").expect("written");
        assert!(file.exists() && !elsewhere.exists());
    }

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
