//! Why a configuration file cannot be used, with file, line, key and what is allowed.

use std::{fmt, io, path::PathBuf};

use forebay::limits::LimitError;

use super::{FILE_BYTES_MAX, listen_address::ListenAddressError};

/// Why a configuration file cannot be used; `Display` is for the operator.
#[derive(Debug)]
pub enum ConfigError {
    /// It could not be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// It has more than [`FILE_BYTES_MAX`] bytes.
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// It says something that is not allowed.
    Wrong {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        fault: Fault,
    },
}

/// What is wrong in one line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not TOML.
    Syntax(String),
    /// A key nobody knows.
    UnknownKey {
        /// With its table, as `log.levle`.
        key: String,
        /// The keys of that table.
        allowed: &'static str,
    },
    /// A value of another kind than its key takes.
    WrongKind {
        /// With its table.
        key: String,
        /// What it takes, to follow "must be".
        allowed: &'static str,
    },
    /// A place to listen on that is none.
    Address {
        /// With its table.
        key: String,
        /// Why.
        error: ListenAddressError,
    },
    /// A value of the right kind that makes no sense there.
    Unusable {
        /// With its table.
        key: String,
        /// Why, naming the value unless it may be a secret.
        words: String,
    },
    /// A limit that is unknown or out of its range.
    Limit {
        /// With its table.
        key: String,
        /// Why.
        error: LimitError,
    },
    /// A key that must be there and is not.
    Missing {
        /// With its table.
        key: &'static str,
        /// What it is for.
        words: &'static str,
    },
    /// A certificate without its key, or the reverse.
    Lonely {
        /// The key that is there.
        key: &'static str,
        /// The key that is missing.
        missing: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, error } => {
                write!(f, "cannot read the configuration {}: {error}", file.display())
            }
            Self::TooLong { file } => {
                write!(
                    f,
                    "cannot read the configuration {}: longer than {FILE_BYTES_MAX} bytes",
                    file.display()
                )
            }
            Self::Wrong { file, line, fault } => write!(f, "{}:{line}: {fault}", file.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "not valid TOML: {message}"),
            Self::UnknownKey { key, allowed } => write!(f, "{key}: no such key; allowed here: {allowed}"),
            Self::WrongKind { key, allowed } => write!(f, "{key}: must be {allowed}"),
            Self::Address { key, error } => write!(f, "{key}: {error}"),
            Self::Unusable { key, words } => write!(f, "{key}: {words}"),
            Self::Limit { key, error } => write!(f, "{key}: {error}"),
            Self::Missing { key, words } => write!(f, "{key} is missing: {words}"),
            Self::Lonely { key, missing } => write!(f, "{key}: also needs `{missing}`; give both or neither"),
        }
    }
}
