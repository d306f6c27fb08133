//! The control socket: a Unix stream socket in the data directory, on which the command line asks the running broker.
//!
//! One line of at most a kilobyte in, one document out, then the end; few at a time, each for a few seconds. Knows no
//! command: what a line asks for, and what is answered, is the caller's. Who may ask is settled here: the broker's own
//! user and root, by the mode of the socket and by what the kernel says of the peer.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use mio::{
    Interest, Registry, Token,
    net::{UnixListener, UnixStream},
};
use rustix::{
    net::sockopt::socket_peercred,
    process::{Uid, geteuid},
};

use crate::{
    clock::Mono,
    limits::{CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_BYTES_MAX, CONTROL_TIME},
};

/// The socket's name in the data directory.
pub const CONTROL_FILE: &str = "control.sock";
/// The longest path a Unix socket can have on Linux; its end takes one more.
const PATH_BYTES_MAX: usize = 107;
const MODE: u32 = 0o600;

/// The listening socket and those who ask on it.
///
/// All sockets are registered under one token: there are few, and whatever happens to one, all are looked at.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's name.
    file: (u64, u64),
    token: Token,
    own_user: Uid,
    /// Whether more may wait to be accepted.
    can_accept: bool,
    serial: u64,
    peers: Vec<Peer>,
}

/// Names whom an answer is for; whoever has gone in the meantime gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker(u64);

/// What somebody said.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// A line, without its end.
    Line(Vec<u8>),
    /// More bytes than a request may have, without the end of a line.
    TooLong,
}

#[derive(Debug)]
struct Peer {
    asker: Asker,
    stream: UnixStream,
    deadline: Mono,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Some of its line has come.
    Asking(Vec<u8>),
    /// The line has come and was not taken yet.
    Asked(Request),
    /// The answer is being made.
    Waiting,
    /// So many bytes of the answer were sent.
    Answering(Vec<u8>, usize),
    /// There is nothing more to say.
    Over,
}

/// Where the control socket of `data_dir` is.
///
/// # Errors
/// In words, if the path is longer than a socket's may be.
pub fn control_path(data_dir: &Path) -> Result<PathBuf, String> {
    let path = data_dir.join(CONTROL_FILE);
    let bytes = path.as_os_str().len();
    match bytes <= PATH_BYTES_MAX {
        true => Ok(path),
        false => Err(format!(
            "there can be no control socket at {}: its path has {bytes} bytes, and {PATH_BYTES_MAX} are possible; \
             give a shorter path to the data directory",
            path.display()
        )),
    }
}

impl ControlSocket {
    /// Listens in `data_dir`, which this process holds the lock of: a socket that stands there is nobody's any more.
    ///
    /// # Errors
    /// In words; the broker can do without.
    pub fn bind(data_dir: &Path, registry: &Registry, token: Token) -> Result<Self, String> {
        let path = control_path(data_dir)?;
        let words =
            |error: io::Error| format!("cannot listen on the control socket {}: {error}", path.display());
        remove_stale(&path)?;
        let mut listener = UnixListener::bind(&path).map_err(words)?;
        // Whoever slipped in before this line is judged by its user all the same.
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(words)?;
        registry.register(&mut listener, token, Interest::READABLE).map_err(words)?;
        let file = fs::symlink_metadata(&path).map(|found| (found.dev(), found.ino())).map_err(words)?;
        let own_user = geteuid();
        Ok(Self { listener, path, file, token, own_user, can_accept: true, serial: 0, peers: Vec::new() })
    }

    /// An event came for the token: accepts, reads and writes as far as that goes.
    pub fn handle_ready(&mut self, registry: &Registry, now: Mono) {
        self.can_accept = true;
        self.advance(registry, now);
    }

    /// Lets go of those whose time is over.
    pub fn handle_timeout(&mut self, registry: &Registry, now: Mono) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.peers.retain(|peer| peer.deadline > now);
            // Those who had to wait for a place have one now.
            self.advance(registry, now);
        }
    }

    /// A request that came; [`ControlSocket::answer`] is owed to it.
    pub fn poll_request(&mut self) -> Option<(Asker, Request)> {
        let peer = self.peers.iter_mut().find(|peer| matches!(peer.stage, Stage::Asked(_)))?;
        match std::mem::replace(&mut peer.stage, Stage::Waiting) {
            Stage::Asked(request) => Some((peer.asker, request)),
            _ => None,
        }
    }

    /// Sends `document` as one line and closes.
    pub fn answer(&mut self, asker: Asker, document: &str, registry: &Registry, now: Mono) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.asker == asker) {
            peer.stage = Stage::Answering(format!("{document}\n").into_bytes(), 0);
            self.advance(registry, now);
        }
    }

    /// When [`ControlSocket::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.peers.iter().map(|peer| peer.deadline).min()
    }

    fn advance(&mut self, registry: &Registry, now: Mono) {
        loop {
            self.peers.iter_mut().for_each(Peer::advance);
            self.peers.retain(|peer| !matches!(peer.stage, Stage::Over));
            if !self.accept(registry, now) {
                return;
            }
        }
    }

    /// Accepts one, if there is one and a place for it; the others stay in the kernel's queue.
    fn accept(&mut self, registry: &Registry, now: Mono) -> bool {
        if !self.can_accept || self.peers.len() >= CONTROL_CONNECTIONS_MAX {
            return false;
        }
        let mut stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                self.can_accept = false;
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("cannot accept on the control socket: {error}");
                }
                return false;
            }
        };
        if let Err(words) = self.admit(&stream) {
            log::warn!("turned somebody away from the control socket: {words}");
            return true;
        }
        match registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => {
                self.serial += 1;
                let (asker, deadline) = (Asker(self.serial), now + CONTROL_TIME);
                self.peers.push(Peer { asker, stream, deadline, stage: Stage::Asking(Vec::new()) });
            }
            Err(error) => log::warn!("cannot serve a connection of the control socket: {error}"),
        }
        true
    }

    fn admit(&self, stream: &UnixStream) -> Result<(), String> {
        let user = socket_peercred(stream).map_err(|error| error.to_string())?.uid;
        match may_ask(user, self.own_user) {
            true => Ok(()),
            false => Err(format!("user {} is neither root nor the broker's", user.as_raw())),
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // If the directory was moved away, another broker may listen under this name now.
        if !fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl Peer {
    fn advance(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Asking(bytes) => self.stage = self.read(bytes),
            Stage::Answering(answer, sent) => self.stage = self.write(answer, sent),
            stage => self.stage = stage,
        }
    }

    fn read(&mut self, mut line: Vec<u8>) -> Stage {
        let mut chunk = [0; CONTROL_REQUEST_BYTES_MAX + 1];
        loop {
            let room = chunk.len() - line.len();
            match self.stream.read(&mut chunk[..room]) {
                // Who has said all may leave out the line's end.
                Ok(0) if line.is_empty() => return Stage::Over,
                Ok(0) => return Stage::Asked(Request::Line(line)),
                Ok(n) => line.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Stage::Asking(line),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Stage::Over,
            }
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                line.truncate(end);
                return Stage::Asked(Request::Line(line));
            }
            if line.len() > CONTROL_REQUEST_BYTES_MAX {
                return Stage::Asked(Request::TooLong);
            }
        }
    }

    fn write(&mut self, answer: Vec<u8>, mut sent: usize) -> Stage {
        while sent < answer.len() {
            match self.stream.write(&answer[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Stage::Answering(answer, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Stage::Over,
            }
        }
        Stage::Over
    }
}

fn may_ask(user: Uid, own_user: Uid) -> bool {
    user == own_user || user == Uid::ROOT
}

fn remove_stale(path: &Path) -> Result<(), String> {
    let cannot = |what: String| format!("cannot listen on the control socket {}: {what}", path.display());
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            fs::remove_file(path).map_err(|error| cannot(format!("the old one cannot be removed: {error}")))
        }
        Ok(_) => Err(cannot("something else stands there; move it away".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream as Caller, time::Duration};

    use mio::{Events, Poll};

    use super::*;

    struct World {
        dir: tempfile::TempDir,
        poll: Poll,
        control: ControlSocket,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let poll = Poll::new().expect("poll");
            let control = ControlSocket::bind(dir.path(), poll.registry(), Token(0)).expect("bound");
            Self { dir, poll, control }
        }

        fn call(&self) -> Caller {
            let caller = Caller::connect(self.dir.path().join(CONTROL_FILE)).expect("it listens");
            caller.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
            caller
        }

        fn turn(&mut self, now: Mono) {
            let mut events = Events::with_capacity(16);
            self.poll.poll(&mut events, Some(Duration::ZERO)).expect("poll");
            if !events.is_empty() {
                self.control.handle_ready(self.poll.registry(), now);
            }
            self.control.handle_timeout(self.poll.registry(), now);
        }

        fn answer(&mut self, asker: Asker, document: &str) {
            self.control.answer(asker, document, self.poll.registry(), Mono(0));
        }
    }

    fn heard(mut caller: Caller) -> String {
        let mut answer = String::new();
        // A reset comes after the answer if not all was read of what the caller said.
        let _ = caller.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn a_line_is_answered_with_a_document_and_the_end() {
        let mut world = World::new();
        let mut caller = world.call();
        world.turn(Mono(0));
        assert_eq!(world.control.poll_request(), None);
        caller.write_all(b"{\"comm").expect("sent");
        world.turn(Mono(0));
        assert_eq!(world.control.poll_request(), None, "half a line asks for nothing");
        caller.write_all(b"and\":1}\n").expect("sent");
        world.turn(Mono(0));
        let (asker, request) = world.control.poll_request().expect("a line");
        assert_eq!(request, Request::Line(b"{\"command\":1}".to_vec()));
        assert_eq!(world.control.poll_request(), None, "it is given out once");
        world.answer(asker, "{}");
        assert_eq!(heard(caller), "{}\n");
        assert_eq!(world.control.poll_timeout(), None, "nobody is left");
    }

    #[test]
    fn a_line_may_end_with_the_connections_half() {
        let mut world = World::new();
        let mut caller = world.call();
        caller.write_all(b"status").expect("sent");
        caller.shutdown(std::net::Shutdown::Write).expect("shut down");
        world.turn(Mono(0));
        let (asker, request) = world.control.poll_request().expect("a line");
        assert_eq!(request, Request::Line(b"status".to_vec()));
        world.answer(asker, "{}");
        assert_eq!(heard(caller), "{}\n");
    }

    #[test]
    fn a_request_may_have_a_kilobyte_and_not_a_byte_more() {
        for (bytes, fits) in [(CONTROL_REQUEST_BYTES_MAX, true), (CONTROL_REQUEST_BYTES_MAX + 1, false)] {
            let mut world = World::new();
            let mut caller = world.call();
            caller.write_all(&vec![b'x'; bytes]).expect("sent");
            caller.write_all(b"\n").expect("sent");
            world.turn(Mono(0));
            let (asker, request) = world.control.poll_request().expect("a request");
            assert_eq!(request != Request::TooLong, fits, "{bytes}");
            world.answer(asker, "answer");
            assert_eq!(heard(caller), "answer\n");
        }
    }

    #[test]
    fn who_says_nothing_is_let_go_when_the_time_is_over() {
        let mut world = World::new();
        let caller = world.call();
        world.turn(Mono(0));
        assert_eq!(world.control.poll_timeout(), Some(Mono(0) + CONTROL_TIME));
        world.turn(Mono(0) + CONTROL_TIME);
        assert_eq!(heard(caller), "");
        assert_eq!(world.control.poll_timeout(), None);
    }

    #[test]
    fn more_than_there_are_places_for_wait_for_one() {
        let mut world = World::new();
        let silent: Vec<Caller> = (0..CONTROL_CONNECTIONS_MAX).map(|_| world.call()).collect();
        let mut late = world.call();
        late.write_all(b"late\n").expect("sent");
        world.turn(Mono(0));
        assert_eq!(world.control.poll_request(), None);
        drop(silent);
        world.turn(Mono(1));
        let (asker, request) = world.control.poll_request().expect("its turn has come");
        assert_eq!(request, Request::Line(b"late".to_vec()));
        world.answer(asker, "{}");
        assert_eq!(heard(late), "{}\n");
    }

    #[test]
    fn a_large_answer_waits_for_its_reader() {
        let mut world = World::new();
        let mut caller = world.call();
        caller.write_all(b"x\n").expect("sent");
        world.turn(Mono(0));
        let (asker, _) = world.control.poll_request().expect("a line");
        let document = "x".repeat(4 << 20);
        world.answer(asker, &document);
        let reader = std::thread::spawn(move || heard(caller));
        while world.control.poll_timeout().is_some() {
            world.turn(Mono(0));
        }
        assert_eq!(reader.join().expect("it reads").len(), document.len() + 1);
    }

    #[test]
    fn who_has_gone_gets_no_answer() {
        let mut world = World::new();
        let mut caller = world.call();
        caller.write_all(b"x\n").expect("sent");
        world.turn(Mono(0));
        let (asker, _) = world.control.poll_request().expect("a line");
        world.turn(Mono(0) + CONTROL_TIME);
        world.answer(asker, "{}");
        assert_eq!(heard(caller), "");
    }

    #[test]
    fn the_socket_is_private_replaces_a_stale_one_and_goes_with_its_owner() {
        let World { dir, poll, control } = World::new();
        let path = dir.path().join(CONTROL_FILE);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        drop(control);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a killed process leaves its socket");
        let control = ControlSocket::bind(dir.path(), poll.registry(), Token(0)).expect("bound");
        Caller::connect(&path).expect("the new one listens");
        drop(control);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(CONTROL_FILE);
        fs::write(&path, "mine").expect("written");
        let poll = Poll::new().expect("poll");
        let words = ControlSocket::bind(dir.path(), poll.registry(), Token(0)).expect_err("a file");
        assert!(words.contains("something else stands there"), "{words}");
        assert_eq!(fs::read(&path).expect("there"), b"mine");
    }

    #[test]
    fn a_path_longer_than_a_socket_can_have_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("d".repeat(PATH_BYTES_MAX));
        let words = control_path(&deep).expect_err("too long");
        assert!(words.contains("107 are possible"), "{words}");
        let room = PATH_BYTES_MAX - dir.path().as_os_str().len() - CONTROL_FILE.len() - 2;
        let longest = dir.path().join("d".repeat(room));
        fs::create_dir(&longest).expect("a directory");
        let poll = Poll::new().expect("poll");
        ControlSocket::bind(&longest, poll.registry(), Token(0)).expect("107 bytes are possible");
    }

    #[test]
    fn only_the_own_user_and_root_may_ask() {
        let user = |raw| Uid::from_raw(raw);
        assert!(may_ask(user(0), user(999)) && may_ask(user(999), user(999)));
        assert!(!may_ask(user(1000), user(999)) && !may_ask(user(1000), user(0)));
    }
}
