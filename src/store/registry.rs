//! The devices and local clients, and what their tokens hash to: rarely written, shared by the broker and the command line.
//!
//! A row that cannot be read, or whose checksum does not match, is an error: it never lets anybody in.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{
    checksum::{client_checksum, device_checksum, gateway_checksum},
    data_dir::DataDir,
    error::{Attempt, StoreError},
    file_identity,
    open::{self, StoreOptions},
    registry_role::RoleColumns,
    schema::REGISTRY,
};
use crate::{
    clock::Wall,
    identity::{Identity, Rights, Role, TokenHash},
    ids::{DeviceName, DeviceNameError, IdentityId},
};

const READ: &str = "read the registry";
const CHANGE: &str = "change the registry";

/// The registry of devices and local clients, open for reading and writing; several processes may have it open at once.
#[derive(Debug)]
pub struct Registry {
    connection: Connection,
    path: PathBuf,
    /// What SQLite's `data_version` was when [`Registry::take_changed`] last gave out everybody.
    data_version: i64,
}

/// A row as read.
enum Readable {
    Identity(Identity),
    /// It is what was written, by a version that let pass a name which is none.
    Misnamed {
        id: i64,
        error: DeviceNameError,
    },
    Damaged {
        id: i64,
    },
}

impl Registry {
    /// Opens or makes the registry in `dir`.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn open(dir: &DataDir, options: &StoreOptions) -> Result<Registry, StoreError> {
        let path = dir.registry_path();
        if options.vfs.is_none() {
            file_identity::forget_cached_wal(&path);
        }
        let connection = open::open_writer(&path, &REGISTRY, options)?;
        let attempt = Attempt::new(REGISTRY.open_action, &path);
        // What an earlier process could not flush is written once more, as for the journal: a change must not lean on
        // frames of which the storage may hold less than the kernel's copy says.
        open::checkpoint(&connection).map_err(|e| attempt.sql(e))?;
        open::checkpoint_on_close(&connection, true).map_err(|e| attempt.sql(e))?;
        let data_version = data_version(&connection).map_err(|e| attempt.sql(e))?;
        Ok(Registry { connection, path, data_version })
    }

    /// Every device and client, sorted by name. One with a name that an earlier version let pass is left out, which the
    /// log says.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if any row is damaged: half a registry is none.
    pub fn identities(&self) -> Result<Vec<Identity>, StoreError> {
        let attempt = Attempt::new(READ, &self.path);
        let rows = read_all(&self.connection).map_err(|e| attempt.sql(e))?;
        rows.into_iter().filter_map(|row| self.usable(row).transpose()).collect()
    }

    /// The device or client called `name`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if its row is damaged.
    pub fn find(&self, name: &DeviceName) -> Result<Option<Identity>, StoreError> {
        find(&self.connection, name, Attempt::new(READ, &self.path))
    }

    fn usable(&self, row: Readable) -> Result<Option<Identity>, StoreError> {
        match row {
            Readable::Identity(identity) => Ok(Some(identity)),
            Readable::Misnamed { id, error } => {
                let path = self.path.display();
                log::error!(
                    "the device or client with id {id} in {path} is not let in: {error}; add it again by another name, \
                     and remove this one: sqlite3 {path} 'DELETE FROM identities WHERE id = {id}'"
                );
                Ok(None)
            }
            Readable::Damaged { id } => Err(damaged(Attempt::new(READ, &self.path), id)),
        }
    }

    /// Adds a device that is let in from now on, created `now`.
    ///
    /// # Errors
    /// [`StoreError::DuplicateName`] or [`StoreError::DuplicateToken`].
    pub fn add(&mut self, name: &DeviceName, token: &TokenHash, now: Wall) -> Result<Identity, StoreError> {
        self.insert(name, Role::Device, token, now)
    }

    /// Adds a device that speaks for others behind it as well; else as [`Registry::add`].
    ///
    /// # Errors
    /// As [`Registry::add`].
    pub fn add_gateway(
        &mut self,
        name: &DeviceName,
        token: &TokenHash,
        now: Wall,
    ) -> Result<Identity, StoreError> {
        self.insert(name, Role::Gateway, token, now)
    }

    /// Adds a local client with these rights, which is let in from now on, created `now`.
    ///
    /// # Errors
    /// As [`Registry::add`]; a device's name is taken as well.
    pub fn add_client(
        &mut self,
        name: &DeviceName,
        rights: Rights,
        token: &TokenHash,
        now: Wall,
    ) -> Result<Identity, StoreError> {
        self.insert(name, Role::Client(rights), token, now)
    }

    fn insert(
        &mut self,
        name: &DeviceName,
        role: Role,
        token: &TokenHash,
        now: Wall,
    ) -> Result<Identity, StoreError> {
        self.change(|transaction, attempt| {
            let sql = |error| attempt.sql(error);
            let taken = "SELECT EXISTS (SELECT 1 FROM identities WHERE name = ?1)";
            if transaction.query_row(taken, [name.as_str()], |row| row.get(0)).map_err(sql)? {
                return Err(StoreError::DuplicateName { name: name.clone() });
            }
            refuse_used_token(transaction, token, None, attempt)?;
            let RoleColumns { kind, publish, subscribe, gateway } = RoleColumns::of(&role);
            // The id is part of the checksum and known only now; nobody sees the row in between.
            transaction
                .execute(
                    "INSERT INTO identities (name, kind, publish, subscribe, gateway, token_hash, enabled,
                                             created_ms, checksum)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, 0)",
                    params![name.as_str(), kind, publish, subscribe, gateway, token.0, now.0],
                )
                .map_err(sql)?;
            let id = IdentityId(transaction.last_insert_rowid());
            let (name, token_hash) = (name.clone(), *token);
            let identity =
                Identity { id, name, role, token_hash, enabled: true, created: now, last_seen: None };
            write(transaction, &identity).map_err(sql)?;
            Ok(identity)
        })
    }

    /// Gives a device or client another token; the old one opens nothing any more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::DuplicateToken`] if another one has it.
    pub fn set_token(&mut self, name: &DeviceName, token: &TokenHash) -> Result<Identity, StoreError> {
        self.change(|transaction, attempt| {
            let identity = existing(transaction, name, attempt)?;
            refuse_used_token(transaction, token, Some(identity.id), attempt)?;
            let identity = Identity { token_hash: *token, ..identity };
            write(transaction, &identity).map_err(|e| attempt.sql(e))?;
            Ok(identity)
        })
    }

    /// Lets a device or client in, or keeps it out without forgetting it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn set_enabled(&mut self, name: &DeviceName, enabled: bool) -> Result<Identity, StoreError> {
        self.change(|transaction, attempt| {
            let identity = Identity { enabled, ..existing(transaction, name, attempt)? };
            write(transaction, &identity).map_err(|e| attempt.sql(e))?;
            Ok(identity)
        })
    }

    /// Lets a device speak for others behind it, or for itself alone; a local client stays what it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn set_gateway(&mut self, name: &DeviceName, is_gateway: bool) -> Result<Identity, StoreError> {
        self.change(|transaction, attempt| {
            let mut identity = existing(transaction, name, attempt)?;
            if identity.role.is_device() {
                identity.role = if is_gateway { Role::Gateway } else { Role::Device };
            }
            write(transaction, &identity).map_err(|e| attempt.sql(e))?;
            Ok(identity)
        })
    }

    /// Removes a device or client, even if the rest of its row is damaged; its id is never given again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn remove(&mut self, name: &DeviceName) -> Result<(), StoreError> {
        self.change(|transaction, attempt| {
            let removed = transaction.execute("DELETE FROM identities WHERE name = ?1", [name.as_str()]);
            match removed.map_err(|e| attempt.sql(e))? {
                0 => Err(StoreError::NotFound { name: name.clone() }),
                _ => Ok(()),
            }
        })
    }

    /// Notes when devices and clients were last seen; one transaction, and none if there is nothing to note.
    ///
    /// One removed meanwhile is passed over.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_seen(&mut self, seen: &[(IdentityId, Wall)]) -> Result<(), StoreError> {
        if seen.is_empty() {
            return Ok(());
        }
        self.change(|transaction, attempt| {
            for (id, at) in seen {
                transaction
                    .execute("UPDATE identities SET last_seen_ms = ?2 WHERE id = ?1", params![id.0, at.0])
                    .map_err(|e| attempt.sql(e))?;
            }
            Ok(())
        })
    }

    /// Everybody, if another connection has changed the registry since they were last given out here, or since it was
    /// opened.
    ///
    /// # Errors
    /// If it cannot be read; ask again, no change is missed.
    pub fn take_changed(&mut self) -> Result<Option<Vec<Identity>>, StoreError> {
        let found = data_version(&self.connection).map_err(|e| Attempt::new(READ, &self.path).sql(e))?;
        if found == self.data_version {
            return Ok(None);
        }
        let identities = self.identities()?;
        self.data_version = found;
        Ok(Some(identities))
    }

    fn change<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, Attempt<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let attempt = Attempt::new(CHANGE, Path::new(&self.path));
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|e| attempt.sql(e))?;
        let done = work(&transaction, attempt)?;
        transaction.commit().map_err(|e| attempt.sql(e))?;
        Ok(done)
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// What [`decode`] reads, in its order.
const COLUMNS: &str =
    "id, name, kind, publish, subscribe, token_hash, enabled, created_ms, last_seen_ms, checksum, gateway";

fn read_all(connection: &Connection) -> rusqlite::Result<Vec<Readable>> {
    let sql = format!("SELECT {COLUMNS} FROM identities ORDER BY name");
    connection.prepare(&sql)?.query_map([], decode)?.collect()
}

fn find(
    connection: &Connection,
    name: &DeviceName,
    attempt: Attempt<'_>,
) -> Result<Option<Identity>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM identities WHERE name = ?1");
    let row = connection.query_row(&sql, [name.as_str()], decode).optional().map_err(|e| attempt.sql(e))?;
    match row {
        Some(Readable::Identity(identity)) => Ok(Some(identity)),
        // Its name is not the one that was asked for, for that is one.
        Some(Readable::Damaged { id } | Readable::Misnamed { id, .. }) => Err(damaged(attempt, id)),
        None => Ok(None),
    }
}

fn existing(
    transaction: &Transaction<'_>,
    name: &DeviceName,
    attempt: Attempt<'_>,
) -> Result<Identity, StoreError> {
    find(transaction, name, attempt)?.ok_or_else(|| StoreError::NotFound { name: name.clone() })
}

fn refuse_used_token(
    transaction: &Transaction<'_>,
    token: &TokenHash,
    by_others_than: Option<IdentityId>,
    attempt: Attempt<'_>,
) -> Result<(), StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM identities WHERE token_hash = ?1 AND id IS NOT ?2)";
    let own = by_others_than.map(|id| id.0);
    let used =
        transaction.query_row(sql, params![token.0, own], |row| row.get(0)).map_err(|e| attempt.sql(e))?;
    if used { Err(StoreError::DuplicateToken) } else { Ok(()) }
}

/// Writes what may change of an identity: a client's rights stay as they were added.
fn write(transaction: &Transaction<'_>, identity: &Identity) -> rusqlite::Result<()> {
    transaction
        .execute(
            "UPDATE identities SET token_hash = ?2, enabled = ?3, gateway = ?4, checksum = ?5 WHERE id = ?1",
            params![
                identity.id.0,
                identity.token_hash.0,
                identity.enabled,
                identity.role == Role::Gateway,
                checksum(identity)
            ],
        )
        .map(drop)
}

fn checksum(identity: &Identity) -> i64 {
    checksum_as(identity.name.as_str(), identity)
}

/// The checksum of a row that is `identity` under the name `name`.
fn checksum_as(name: &str, identity: &Identity) -> i64 {
    let Identity { id, name: _, role, token_hash, enabled, created, last_seen: _ } = identity;
    let sum = device_checksum(id.0, *enabled, created.0, &token_hash.0, name);
    match role {
        Role::Device => sum,
        Role::Gateway => gateway_checksum(sum),
        Role::Client(_) => {
            let RoleColumns { publish, subscribe, .. } = RoleColumns::of(role);
            client_checksum(sum, publish.as_deref(), subscribe.as_deref())
        }
    }
}

fn decode(row: &Row<'_>) -> rusqlite::Result<Readable> {
    let id: i64 = row.get(0)?;
    Ok(decode_values(id, row).unwrap_or(Readable::Damaged { id }))
}

/// `None` if the row is damaged.
fn decode_values(id: i64, row: &Row<'_>) -> Option<Readable> {
    let flag = |column: usize| match row.get::<_, i64>(column).ok()? {
        number @ (0 | 1) => Some(number == 1),
        _ => None,
    };
    let (kind, publish, subscribe) = (row.get(2).ok()?, row.get(3).ok()?, row.get(4).ok()?);
    let columns = RoleColumns { kind, publish, subscribe, gateway: flag(10)? };
    let name = row.get_ref(1).ok()?.as_str().ok()?;
    let identity = Identity {
        id: IdentityId(id),
        name: DeviceName::restored(name)?,
        role: columns.role()?,
        token_hash: TokenHash(row.get(5).ok()?),
        enabled: flag(6)?,
        created: Wall(row.get(7).ok()?),
        last_seen: row.get::<_, Option<i64>>(8).ok()?.map(Wall),
    };
    if row.get::<_, i64>(9).ok()? != checksum_as(name, &identity) {
        return None;
    }
    Some(match DeviceName::parse(name) {
        Ok(_) => Readable::Identity(identity),
        Err(error) => Readable::Misnamed { id, error },
    })
}

fn damaged(attempt: Attempt<'_>, id: i64) -> StoreError {
    attempt.corrupt(format!(
        "the row of the device or client with id {id} is damaged, nobody is let in by it; remove that one"
    ))
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
