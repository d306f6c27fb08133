//! Small files written whole or not at all, and on disk when that is said.
//!
//! Root runs the commands in a directory that belongs to the service's own user, who must not be able to lead a write
//! or a change of owner elsewhere: a file is always made anew, and the rest is done on its open handle.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// For `OpenOptions::custom_flags`: a symbolic link is not followed.
pub const NO_LINK: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Whose a file is to be that root writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Its directory's: the service's own user must read it.
    OfDirectory,
    /// Whoever writes it.
    Writer,
}

/// Puts `contents` in the place of what is at `path`; a power cut leaves the old or the new file.
///
/// # Errors
/// If it cannot be written; what was there is then still there.
pub fn replace(path: &Path, contents: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    let unfinished = unfinished(path);
    // A leftover might have another mode, and might be a link to somewhere else.
    forget(&unfinished)?;
    create(&unfinished, contents, mode, owner)?;
    fs::rename(&unfinished, path)?;
    sync_directory_of(path)
}

/// Writes `contents` to `path`, where there must be nothing; its name is on disk after [`sync_directory_of`].
///
/// # Errors
/// If something is there, or it cannot be written; then nothing of it is left.
pub fn create(path: &Path, contents: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    fill(file, path, contents, mode, owner).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

fn fill(mut file: File, path: &Path, contents: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    // A umask can only have taken rights away.
    file.set_permissions(Permissions::from_mode(mode))?;
    if owner == Owner::OfDirectory {
        let (wanted, is) = (directory_of(path).metadata()?, file.metadata()?);
        if (wanted.uid(), wanted.gid()) != (is.uid(), is.gid()) && rustix::process::geteuid().is_root() {
            fchown(&file, Some(wanted.uid()), Some(wanted.gid()))?;
        }
    }
    file.write_all(contents)?;
    file.sync_all()
}

/// Removes what is at `path`, for good when this returns; if there is nothing, that is no failure.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    if forget(path)? { sync_directory_of(path) } else { Ok(()) }
}

/// Makes the names beside `path` durable.
///
/// # Errors
/// If the directory cannot be flushed.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn forget(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).expect("a file").permissions().mode() & 0o7777
    }

    #[test]
    fn what_was_written_replaces_what_was_there_and_has_the_mode_it_was_given() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("secret");
        for (contents, bits) in [(&b"one"[..], 0o600), (b"two", 0o644)] {
            replace(&file, contents, bits, Owner::OfDirectory).expect("written");
            assert_eq!(fs::read(&file).expect("read"), contents);
            assert_eq!(mode(&file), bits);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        remove(&file).expect("removed");
        remove(&file).expect("removed already");
        assert!(!file.exists());
    }

    #[test]
    fn a_leftover_of_a_run_that_was_cut_short_is_no_obstacle_and_no_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, elsewhere) = (dir.path().join("secret"), dir.path().join("elsewhere"));
        symlink(&elsewhere, dir.path().join("secret.new")).expect("a link");
        replace(&file, b"fresh", 0o600, Owner::Writer).expect("written");
        assert!(file.exists() && !elsewhere.exists());
    }

    #[test]
    fn a_link_in_place_of_the_file_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, victim) = (dir.path().join("server.pem"), dir.path().join("victim"));
        fs::write(&victim, "old").expect("written");
        symlink(&victim, &file).expect("a link");
        replace(&file, b"fresh", 0o644, Owner::OfDirectory).expect("written");
        assert_eq!(fs::read(&victim).expect("read"), b"old");
        assert!(fs::symlink_metadata(&file).expect("there").is_file());
    }

    #[test]
    fn what_is_there_is_not_created_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("server.key");
        fs::write(&file, "mine").expect("written");
        let error = create(&file, b"other", 0o600, Owner::Writer).expect_err("it is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).expect("read"), b"mine");
    }
}
