//! The tokens of devices that are forwarded as themselves: the one place where a device's token can be read back.
//!
//! A small file for its owner only, one line for each device: its name, a tab, its token; neither can hold a tab. An
//! entry counts only while the registry has a device of that name with that token, so that no crash between the two
//! files can do harm. A line without a token says that the device is not to be forwarded so, and no token of it kept.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
};

use super::{
    data_dir::DataDir,
    error::{Attempt, StoreError},
    private_file,
};
use crate::{
    identity::{Identity, Token},
    ids::DeviceName,
    limits::KEPT_TOKENS_BYTES_MAX,
    whole_file,
};

const OTHERS: u32 = 0o077;

/// What the file holds; `Debug` shows no token.
#[derive(Clone, Debug, Default)]
pub struct KeptTokens {
    /// None for a device of which none is to be kept.
    tokens: BTreeMap<DeviceName, Option<Token>>,
}

/// Changes when the file was written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(Option<(u64, i64, i64, u64)>);

impl KeptTokens {
    /// Reads the file in `dir`; a missing one holds nothing, and a line that makes no sense is left out.
    ///
    /// # Errors
    /// If it cannot be read, or others than its owner can.
    pub fn read(dir: &DataDir) -> Result<Self, StoreError> {
        let path = dir.kept_tokens_path();
        let attempt = Attempt::new("read the kept tokens in", &path);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(attempt.io(error)),
            Ok(metadata) if !metadata.is_file() => {
                return Err(StoreError::Unsuitable { path, what: "not a plain file" });
            }
            Ok(metadata) if metadata.permissions().mode() & OTHERS != 0 => {
                let remedy = format!("others than its owner may read it; `chmod 600 {}`", path.display());
                return Err(attempt.io(io::Error::other(remedy)));
            }
            Ok(_) => {}
        }
        let mut text = String::new();
        let file = OpenOptions::new().read(true).custom_flags(whole_file::NO_LINK).open(&path);
        let read = file.and_then(|file| file.take(KEPT_TOKENS_BYTES_MAX + 1).read_to_string(&mut text));
        if read.map_err(|error| attempt.io(error))? as u64 > KEPT_TOKENS_BYTES_MAX {
            // What is cut off would be lost with the next change.
            return Err(StoreError::Unsuitable { path, what: "too large for a file of tokens" });
        }
        Ok(Self { tokens: text.lines().filter_map(entry).collect() })
    }

    /// Which version of the file lies in `dir`.
    pub fn version(dir: &DataDir) -> Version {
        let metadata = fs::symlink_metadata(dir.kept_tokens_path()).ok();
        Version(metadata.map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.len())))
    }

    /// Changes the file in `dir` as `change` says, one process at a time; nothing is written if nothing differs.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn change(dir: &DataDir, change: impl FnOnce(&mut Self)) -> Result<(), StoreError> {
        Self::change_under(dir, File::lock, change)
    }

    /// The same, but rather than wait for another process it fails.
    ///
    /// # Errors
    /// As [`KeptTokens::change`], and if another process is changing them.
    pub fn change_at_once(dir: &DataDir, change: impl FnOnce(&mut Self)) -> Result<(), StoreError> {
        Self::change_under(dir, |dir| dir.try_lock().map_err(io::Error::from), change)
    }

    fn change_under(
        dir: &DataDir,
        lock: impl FnOnce(&File) -> io::Result<()>,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), StoreError> {
        let attempt = Attempt::new("lock", dir.path());
        // Held until it is dropped.
        let locked = File::open(dir.path()).and_then(|dir| lock(&dir).map(|()| dir));
        let _locked = locked.map_err(|error| attempt.io(error))?;
        let mut tokens = Self::read(dir)?;
        let before = tokens.tokens.clone();
        change(&mut tokens);
        if tokens.tokens == before {
            return Ok(());
        }
        private_file::write_whole(&dir.kept_tokens_path(), tokens.to_text().as_bytes())
    }

    /// Keeps the token of `device`.
    pub fn keep(&mut self, device: DeviceName, token: Token) {
        self.tokens.insert(device, Some(token));
    }

    /// Forgets the token of `device`, which is not to be forwarded as itself, whatever tokens it is given.
    pub fn decline(&mut self, device: DeviceName) {
        self.tokens.insert(device, None);
    }

    /// Whether `device` is not to be forwarded as itself.
    pub fn declines(&self, device: &DeviceName) -> bool {
        matches!(self.tokens.get(device), Some(None))
    }

    /// Forgets everything about `device`.
    pub fn forget(&mut self, device: &DeviceName) {
        self.tokens.remove(device);
    }

    /// Whether a token of `device` is kept, be it the one that counts or not.
    pub fn has(&self, device: &DeviceName) -> bool {
        matches!(self.tokens.get(device), Some(Some(_)))
    }

    /// The token kept of `identity`, if it is a device and this is the token it has.
    pub fn of(&self, identity: &Identity) -> Option<&Token> {
        let token = self.tokens.get(&identity.name)?.as_ref()?;
        (identity.role.is_device() && token.hash().equals(&identity.token_hash)).then_some(token)
    }

    /// Whether no token is kept.
    pub fn is_empty(&self) -> bool {
        self.tokens.values().all(Option::is_none)
    }

    fn to_text(&self) -> String {
        let text =
            |token: &Option<Token>| token.as_ref().map_or(String::new(), |token| token.reveal().to_owned());
        self.tokens.iter().map(|(device, token)| format!("{device}\t{}\n", text(token))).collect()
    }
}

fn entry(line: &str) -> Option<(DeviceName, Option<Token>)> {
    let (name, token) = line.split_once('\t')?;
    let token = if token.is_empty() { None } else { Some(Token::parse(token).ok()?) };
    Some((DeviceName::parse(name).ok()?, token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_bench::{Bench, name};

    fn token(text: &str) -> Token {
        Token::parse(text).expect("valid")
    }

    #[test]
    fn what_is_kept_is_read_back_and_only_the_owner_can() {
        let bench = Bench::new();
        assert!(KeptTokens::read(&bench.dir).expect("read").is_empty());
        let first = KeptTokens::version(&bench.dir);
        KeptTokens::change(&bench.dir, |kept| {
            kept.keep(name("Pumpe 3"), token("a b"));
            kept.keep(name("hall"), token("HUSH"));
        })
        .expect("written");
        KeptTokens::change(&bench.dir, |kept| kept.forget(&name("hall"))).expect("written");
        assert_ne!(KeptTokens::version(&bench.dir), first);
        let kept = KeptTokens::read(&bench.dir).expect("read");
        assert_eq!((kept.has(&name("Pumpe 3")), kept.has(&name("hall"))), (true, false));
        let path = bench.dir.kept_tokens_path();
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o7777, 0o600);
        assert!(!format!("{kept:?}").contains("a b"));
    }

    #[test]
    fn a_file_larger_than_is_read_is_an_error_and_is_left_alone() {
        let bench = Bench::new();
        KeptTokens::change(&bench.dir, |kept| kept.keep(name("pump"), token("one"))).expect("written");
        let path = bench.dir.kept_tokens_path();
        let file = File::options().append(true).open(&path).expect("there");
        file.set_len(KEPT_TOKENS_BYTES_MAX + 1).expect("grown");
        KeptTokens::change(&bench.dir, |kept| kept.keep(name("fan"), token("two"))).expect_err("too large");
        assert_eq!(fs::metadata(&path).expect("there").len(), KEPT_TOKENS_BYTES_MAX + 1);
    }

    #[test]
    fn a_device_that_is_not_to_be_forwarded_so_is_remembered_until_it_is_kept_again_or_forgotten() {
        let bench = Bench::new();
        let pump = name("pump");
        let change = |change: &dyn Fn(&mut KeptTokens)| {
            KeptTokens::change(&bench.dir, change).expect("written");
            let kept = KeptTokens::read(&bench.dir).expect("read");
            (kept.has(&pump), kept.declines(&pump), kept.is_empty())
        };
        assert_eq!(change(&|kept| kept.keep(name("pump"), token("one"))), (true, false, false));
        assert_eq!(change(&|kept| kept.decline(name("pump"))), (false, true, true));
        assert_eq!(change(&|kept| kept.keep(name("pump"), token("one"))), (true, false, false));
        assert_eq!(change(&|kept| kept.decline(name("pump"))), (false, true, true));
        assert_eq!(change(&|kept| kept.forget(&name("pump"))), (false, false, true));
    }

    #[test]
    fn a_token_counts_only_while_the_registry_has_it() {
        let bench = Bench::new();
        let mut registry = bench.registry();
        let pump = registry.add(&name("pump"), &token("one").hash(), crate::clock::Wall(0)).expect("added");
        let mut kept = KeptTokens::default();
        kept.keep(name("pump"), token("one"));
        assert_eq!(kept.of(&pump).map(Token::reveal), Some("one"));
        let pump = registry.set_token(&name("pump"), &token("two").hash()).expect("set");
        assert!(kept.of(&pump).is_none());
    }

    #[test]
    fn a_file_others_can_read_is_refused_and_so_is_a_link() {
        let bench = Bench::new();
        KeptTokens::change(&bench.dir, |kept| kept.keep(name("pump"), token("HUSH"))).expect("written");
        let path = bench.dir.kept_tokens_path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("opened");
        let words = KeptTokens::read(&bench.dir).expect_err("refused").to_string();
        assert!(words.contains("chmod 600") && !words.contains("HUSH"), "{words}");
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("linked");
        assert!(KeptTokens::read(&bench.dir).is_err());
    }

    #[test]
    fn who_cannot_wait_fails_while_another_process_changes_them() {
        let bench = Bench::new();
        let other = File::open(bench.dir.path()).expect("opened");
        other.lock().expect("locked");
        let keep = |kept: &mut KeptTokens| kept.keep(name("pump"), token("HUSH"));
        let words = KeptTokens::change_at_once(&bench.dir, keep).expect_err("locked").to_string();
        assert!(!words.contains("HUSH"), "{words}");
        drop(other);
        KeptTokens::change_at_once(&bench.dir, keep).expect("written");
        assert!(KeptTokens::read(&bench.dir).expect("read").has(&name("pump")));
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out() {
        assert!(entry("pump").is_none() && entry("a/b\ttoken").is_none() && entry("pump\t ").is_none());
        assert_eq!(
            entry("pump\tx")
                .map(|(name, token)| (name.to_string(), token.map(|token| token.reveal().to_owned()))),
            Some(("pump".to_owned(), Some("x".to_owned())))
        );
    }
}
