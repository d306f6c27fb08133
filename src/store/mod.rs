//! What survives: the registry of devices, and the journal of readings, sessions and retained messages; two SQLite
//! databases in one directory.
//!
//! Knows files, SQL and how disks fail. Knows no socket, no packet and no policy: it reports a failure with what was
//! tried, and the broker decides who is closed. `registry.db` is rarely written and shared with the command line;
//! `buffer.db` has one writer, the running broker, and any number of readers.
//!
//! A running broker holds [`DataDir::lock`], opens [`Registry`] and [`Buffer`], and calls [`Buffer::append`] once per
//! turn. When that fails, the batch is *unknown*: its publishers are closed and [`Buffer::reopen`] is called until it
//! succeeds; only then is [`Buffer::last_seq`] meaningful again.

mod ballast;
mod boots;
mod budget;
mod buffer;
mod checksum;
mod data_dir;
mod error;
mod file_identity;
mod health;
mod journal_devices;
mod kept_tokens;
mod open;
mod outbound;
mod own_marks;
mod placement;
mod private_file;
mod quarantine;
mod reader;
mod recovery;
mod registry;
mod registry_role;
mod removed;
mod retention;
mod retention_by_device;
mod schema;
mod session_tables;
mod sessions;
mod set_aside;
mod settled;
mod sweep;
#[cfg(test)]
mod test_bench;

pub use ballast::Ballast;
pub use boots::BootId;
pub use budget::{Budget, DiskSpace, FreeSpace, Policy, StorageWishes};
pub use buffer::Buffer;
pub use data_dir::{DataDir, DataDirLock};
pub use error::{Failure, StoreError};
pub use kept_tokens::{KeptTokens, Version as KeptTokensVersion};
pub use open::StoreOptions;
pub use outbound::{Found, Stretch, Whose};
pub use reader::{BufferReader, Query, StoredReading, UplinkMark};
pub use registry::Registry;
pub use removed::Losses;
pub use retention::{Housekeeping, NextStep};
pub use set_aside::SetAside;
