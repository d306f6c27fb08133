//! A card that can be pulled: an ext4 file system on a loop device over a file, and the file's copy at one instant.
//!
//! What the kernel still held in memory is not in that copy: dirty pages of the file system never reached the device.
//! The file lies on a second file system, which is frozen for the instant: whatever the device is writing stands
//! still between two writes, so the copy is one that a power cut could have left, in the middle of a flush as well.
//!
//! ```text
//! data directory = ext4 on a loop device over  <dir>/bay/card-N      dirty pages are lost
//!                  <dir>/bay = ext4 on a loop device over <dir>/bay.img      frozen while card-N is copied
//!                  <dir>     = tmpfs
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const CARD_BYTES: u64 = 48 << 20;
const BAY_BYTES: u64 = 2 * CARD_BYTES + (16 << 20);

/// A card in use. Its mounts are private to this process and those it starts: they go with them.
#[derive(Debug)]
pub struct Card {
    mount_point: PathBuf,
    dir: TempDir,
    number: u32,
}

impl Card {
    /// Puts a new card in at `mount_point`, which is made.
    pub fn insert(mount_point: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("forebay-card-").tempdir().expect("a temporary directory");
        let card = Self { mount_point: mount_point.to_owned(), dir, number: 0 };
        run("mount", &["-t", "tmpfs", "-o", "size=512m", "tmpfs"], &[card.dir.path()]);
        let (bay, image) = (card.bay(), card.dir.path().join("bay.img"));
        make_file_system(&image, BAY_BYTES, &["-O", "^has_journal"]);
        fs::create_dir(&bay).expect("a mount point");
        run("mount", &["-o", "loop,noatime"], &[&image, &bay]);
        make_file_system(&card.image(), CARD_BYTES, &["-J", "size=4"]);
        fs::create_dir(mount_point).expect("a mount point");
        card.mount();
        card
    }

    /// Copies the card as it is at this instant, and calls `meanwhile` before it can change again.
    pub fn cut(&mut self, meanwhile: impl FnOnce()) {
        run("fsfreeze", &["--freeze"], &[&self.bay()]);
        run("cp", &["--sparse=always"], &[&self.image(), &self.copy()]);
        meanwhile();
        run("fsfreeze", &["--unfreeze"], &[&self.bay()]);
    }

    /// Puts the copy in the card's place; whatever happened after the cut did not. Nobody may have a file open.
    pub fn insert_again(&mut self) {
        run("umount", &[], &[&self.mount_point]);
        fs::remove_file(self.image()).expect("the card that was");
        self.number += 1;
        run("cp", &["--sparse=always"], &[&self.copy(), &self.image()]);
        self.mount();
    }

    /// Mounts the card; the file system replays its journal.
    fn mount(&self) {
        run("mount", &["-o", "loop"], &[&self.image(), &self.mount_point]);
        // Told by mode: a data directory is its owner's alone.
        run("chmod", &["700"], &[&self.mount_point]);
    }

    fn bay(&self) -> PathBuf {
        self.dir.path().join("bay")
    }

    fn image(&self) -> PathBuf {
        self.bay().join(format!("card-{}", self.number))
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("copy")
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // Lazily, for after a panic somebody may still be writing. What fails here goes with the process.
        for mount_point in [&self.mount_point, &self.bay(), self.dir.path()] {
            let _ = Command::new("umount").arg("--lazy").arg(mount_point).status();
        }
    }
}

fn make_file_system(image: &Path, bytes: u64, options: &[&str]) {
    fs::File::create(image).and_then(|file| file.set_len(bytes)).expect("room for an image");
    let always = ["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    run("mkfs.ext4", &[&always, options].concat(), &[image]);
}

fn run(program: &str, options: &[&str], paths: &[&Path]) {
    let output = Command::new(program).args(options).args(paths).output().expect("it was looked for");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {options:?} {paths:?}: {words}");
}
