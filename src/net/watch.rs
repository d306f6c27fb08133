//! Tells that a file was changed by another process, without polling.
//!
//! The broker watches `registry.db` and its `-wal` this way: the command line adds a device there, and the running
//! broker lets it in at once. What changed is for the store to find out.

use std::{
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

/// Bytes for one batch of events; a single one takes at most 272 (a name of 255 bytes).
const EVENT_BYTES: usize = 4096;

/// Files under watch; they need not exist yet, their directories must.
#[derive(Debug)]
pub struct FileWatch {
    inotify: OwnedFd,
    files: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// The kernel's number for the directory, which says when the file appears.
    directory: i32,
    /// The kernel's number for the file, while it exists.
    file: Option<i32>,
}

impl FileWatch {
    /// Watches `files` and asks `registry` to report changes under `token`.
    ///
    /// A hot neighbour in the same directory costs nothing: of the directory only appearing files are reported.
    ///
    /// # Errors
    /// What the kernel said: a directory is missing, or the user's inotify watches are used up.
    pub fn new(registry: &Registry, token: Token, files: &[PathBuf]) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let appearing = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let mut watch = Self { inotify, files: Vec::new() };
        for path in files {
            let directory = inotify::add_watch(&watch.inotify, directory_of(path), appearing)?;
            watch.files.push(Watched { path: path.clone(), directory, file: None });
        }
        watch.watch_existing();
        registry.register(&mut SourceFd(&watch.inotify.as_raw_fd()), token, Interest::READABLE)?;
        Ok(watch)
    }

    /// Whether a file was written, removed, or appeared since the last call; called when an event for its token came.
    ///
    /// Files that appeared are watched from now on. In doubt (too many events for the kernel's queue) the answer is yes.
    pub fn take_changed(&mut self) -> bool {
        let mut changed = false;
        let mut appeared = false;
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = Reader::new(self.inotify.as_fd(), &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let news = react(&mut self.files, event.wd(), event.events(), event.file_name());
                    changed |= news != News::Nothing;
                    appeared |= news == News::Appeared;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    log::debug!("cannot read what changed in the watched files: {error}");
                    changed = true;
                    break;
                }
            }
        }
        if appeared {
            self.watch_existing();
        }
        changed
    }

    /// Watches the files that exist; asking again for one that is watched already changes nothing.
    fn watch_existing(&mut self) {
        let changes = WatchFlags::MODIFY | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        for watched in &mut self.files {
            match inotify::add_watch(&self.inotify, &watched.path, changes) {
                Ok(file) => watched.file = Some(file),
                Err(Errno::NOENT) => watched.file = None,
                Err(error) => {
                    watched.file = None;
                    log::warn!(
                        "cannot watch {}: {error}; changes show after a restart",
                        watched.path.display()
                    );
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Nothing,
    Changed,
    /// The file is there now, new or in place of another.
    Appeared,
}

fn react(files: &mut [Watched], wd: i32, what: ReadFlags, name: Option<&std::ffi::CStr>) -> News {
    if what.contains(ReadFlags::QUEUE_OVERFLOW) {
        return News::Appeared;
    }
    if what.contains(ReadFlags::IGNORED) {
        files.iter_mut().filter(|watched| watched.file == Some(wd)).for_each(|watched| watched.file = None);
        return News::Nothing;
    }
    let name = name.map(|name| OsStr::from_bytes(name.to_bytes()));
    let appeared = |watched: &Watched| watched.directory == wd && watched.path.file_name() == name;
    if name.is_some() {
        return if files.iter().any(appeared) { News::Appeared } else { News::Nothing };
    }
    let ours = files.iter().any(|watched| watched.file == Some(wd));
    if ours { News::Changed } else { News::Nothing }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        time::{Duration, Instant},
    };

    use mio::{Events, Poll};
    use tempfile::TempDir;

    use super::*;

    struct World {
        dir: TempDir,
        poll: Poll,
        watch: FileWatch,
    }

    impl World {
        /// `registry.db` exists, `registry.db-wal` does not.
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            fs::write(dir.path().join("registry.db"), "x").expect("write");
            let poll = Poll::new().expect("poll");
            let files = ["registry.db", "registry.db-wal"].map(|name| dir.path().join(name));
            let watch = FileWatch::new(poll.registry(), Token(0), &files).expect("a watch");
            Self { dir, poll, watch }
        }

        fn append(&self, name: &str) {
            let mut options = fs::OpenOptions::new();
            let mut file = options.append(true).create(true).open(self.dir.path().join(name)).expect("open");
            file.write_all(b"more").expect("write");
        }

        /// inotify queues events before the writing call returns, so "no event" needs no waiting.
        fn woken(&mut self) -> bool {
            let mut events = Events::with_capacity(1);
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline {
                match self.poll.poll(&mut events, Some(Duration::ZERO)) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    outcome => {
                        outcome.expect("poll");
                        return !events.is_empty();
                    }
                }
            }
            panic!("interrupted for ever");
        }
    }

    #[test]
    fn a_write_by_anybody_wakes_the_loop_once() {
        let mut world = World::new();
        assert!(!world.woken() && !world.watch.take_changed());
        world.append("registry.db");
        assert!(world.woken() && world.watch.take_changed());
        assert!(!world.woken() && !world.watch.take_changed());
    }

    #[test]
    fn a_file_that_appears_is_watched_from_then_on() {
        let mut world = World::new();
        world.append("registry.db-wal");
        assert!(world.woken() && world.watch.take_changed());
        world.append("registry.db-wal");
        assert!(world.woken() && world.watch.take_changed());
    }

    #[test]
    fn a_file_put_in_place_of_another_is_watched() {
        let mut world = World::new();
        world.append("new");
        fs::rename(world.dir.path().join("new"), world.dir.path().join("registry.db")).expect("rename");
        assert!(world.woken() && world.watch.take_changed());
        world.append("registry.db");
        assert!(world.watch.take_changed());
    }

    #[test]
    fn a_removed_file_is_a_change_and_its_return_too() {
        let mut world = World::new();
        fs::remove_file(world.dir.path().join("registry.db")).expect("remove");
        assert!(world.watch.take_changed());
        world.append("registry.db");
        assert!(world.watch.take_changed());
    }

    #[test]
    fn neighbours_in_the_directory_do_not_count_nor_wake_when_written() {
        let mut world = World::new();
        world.append("buffer.db");
        assert!(!world.watch.take_changed());
        assert!(!world.woken(), "drained");
        world.append("buffer.db");
        assert!(!world.woken());
    }

    #[test]
    fn a_lost_event_counts_as_a_change() {
        let mut files = [];
        assert_eq!(react(&mut files, -1, ReadFlags::QUEUE_OVERFLOW, None), News::Appeared);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let poll = Poll::new().expect("poll");
        let files = [PathBuf::from("/nonexistent/registry.db")];
        let error = FileWatch::new(poll.registry(), Token(0), &files).expect_err("no directory");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(directory_of(Path::new("registry.db")), Path::new("."));
    }
}
