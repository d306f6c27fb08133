//! The tables, their versions, and the way from one version to the next.
//!
//! `application_id` says whose file it is, `user_version` how far its schema has come. Each migration is one
//! transaction; there is no way back, and a schema from the future is left untouched.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::error::{Attempt, StoreError};

/// One database's schema.
pub(super) struct Schema {
    /// What the database is to people.
    pub(super) what: &'static str,
    /// What opening it is called in an error.
    pub(super) open_action: &'static str,
    application_id: i64,
    /// Whether its file is to give space back to the file system.
    pub(super) shrinks: bool,
    /// Migration `n` leads from version `n` to version `n + 1`.
    migrations: &'static [&'static str],
}

/// The schema of `buffer.db`.
pub(super) const JOURNAL: Schema = Schema {
    what: "journal",
    open_action: "open the journal",
    application_id: 0x4642_4A31,
    shrinks: true,
    migrations: &[JOURNAL_1, JOURNAL_2, JOURNAL_3, JOURNAL_4, JOURNAL_5, JOURNAL_6, JOURNAL_7, JOURNAL_8],
};

/// The schema of `registry.db`.
pub(super) const REGISTRY: Schema = Schema {
    what: "registry",
    open_action: "open the registry",
    application_id: 0x4642_5231,
    shrinks: false,
    migrations: &[REGISTRY_1, REGISTRY_2, REGISTRY_3],
};

// The journal has no second index and no key out of insertion order: either would write every commit several times.
const JOURNAL_1: &str = "
CREATE TABLE boots (
    boot INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    offset_ms INTEGER NOT NULL,
    synchronised INTEGER NOT NULL
) STRICT;
CREATE TABLE devices (
    device INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    device_ts INTEGER,
    payload TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    topic TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE health (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    canary INTEGER NOT NULL
) STRICT;
INSERT INTO health (id, canary) VALUES (1, 0);
-- For people: one row per value. The journal leads, so a LIMIT reads no more than it shows, and one damaged
-- payload does not hide the others.
CREATE VIEW readings (seq, device, ts, key, value) AS
SELECT journal.seq, devices.name, coalesce(journal.device_ts, boots.offset_ms + journal.at_ms), item.key, item.value
FROM journal
CROSS JOIN devices ON devices.device = journal.device
CROSS JOIN boots ON boots.boot = journal.boot
CROSS JOIN json_each(CASE WHEN json_valid(journal.payload) THEN journal.payload ELSE '{}' END) AS item;
";

// Sessions and retained messages come beside the readings. Times are running time in milliseconds: `boots.age_ms`, the
// running time before a boot, plus the milliseconds since it began; `seen_ms` is how long that boot is known to have
// lasted. A session's number is never given again, which AUTOINCREMENT remembers. A delivery's number is its place in
// the order of delivery, so that a new one lands on the table's last page; there is no second index here either.
const JOURNAL_2: &str = "
ALTER TABLE boots ADD COLUMN age_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE boots ADD COLUMN seen_ms INTEGER NOT NULL DEFAULT 0;
CREATE TABLE sessions (
    session INTEGER PRIMARY KEY AUTOINCREMENT,
    identity INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    expiry_s INTEGER NOT NULL,
    ended_ms INTEGER
) STRICT;
CREATE TABLE subscriptions (
    session INTEGER NOT NULL,
    filter TEXT NOT NULL,
    qos INTEGER NOT NULL,
    no_local INTEGER NOT NULL,
    retain_as_published INTEGER NOT NULL,
    identifier INTEGER,
    PRIMARY KEY (session, filter)
) STRICT, WITHOUT ROWID;
CREATE TABLE messages (
    message INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    properties BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expires_ms INTEGER
) STRICT;
CREATE TABLE deliveries (
    delivery INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    message INTEGER NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    identifiers TEXT NOT NULL,
    share TEXT,
    packet_id INTEGER,
    received INTEGER NOT NULL
) STRICT;
CREATE TABLE unreleased (
    session INTEGER NOT NULL,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE wills (
    session INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    properties BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    lives_ms INTEGER,
    delay_ms INTEGER NOT NULL,
    is_telemetry INTEGER NOT NULL,
    due_ms INTEGER
) STRICT;
CREATE TABLE retained (
    topic TEXT PRIMARY KEY,
    payload BLOB NOT NULL,
    properties BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expires_ms INTEGER
) STRICT, WITHOUT ROWID;
";

// What became of readings at the hub: one row that says it of all, and the readings the hub does not take. And what was
// removed from the journal: through which place, which is never given again, and how many readings were lost by that.
const JOURNAL_3: &str = "
CREATE TABLE settled (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    through INTEGER NOT NULL,
    beyond TEXT NOT NULL,
    rejected INTEGER NOT NULL
) STRICT;
CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    device_ts INTEGER,
    payload TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE TABLE removed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    through INTEGER NOT NULL,
    too_old INTEGER NOT NULL,
    no_space INTEGER NOT NULL,
    rejected INTEGER NOT NULL
) STRICT;
INSERT INTO removed (id, through, too_old, no_space, rejected) VALUES (1, 0, 0, 0, 0);
";

// Devices that are forwarded over a connection of their own have a mark of their own, and `settled` does not mean them.
const JOURNAL_4: &str = "
CREATE TABLE settled_devices (
    name TEXT PRIMARY KEY,
    through INTEGER NOT NULL,
    beyond TEXT NOT NULL,
    rejected INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

// A session belongs to a token as well, so that one that was changed while the broker was not running ends it.
const JOURNAL_5: &str = "
ALTER TABLE sessions ADD COLUMN token INTEGER;
";

// Rows of sessions and retained messages get a checksum as the readings have one; rows from before have none.
const JOURNAL_6: &str = "
ALTER TABLE sessions ADD COLUMN checksum INTEGER;
ALTER TABLE subscriptions ADD COLUMN checksum INTEGER;
ALTER TABLE messages ADD COLUMN checksum INTEGER;
ALTER TABLE deliveries ADD COLUMN checksum INTEGER;
ALTER TABLE unreleased ADD COLUMN checksum INTEGER;
ALTER TABLE wills ADD COLUMN checksum INTEGER;
ALTER TABLE retained ADD COLUMN checksum INTEGER;
";

// The mark of a device that is not forwarded as itself any more is kept until everybody's has caught up with it; `others_`
// is what was everybody's before it went back for that.
const JOURNAL_7: &str = "
ALTER TABLE settled_devices ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
ALTER TABLE settled ADD COLUMN others_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE settled ADD COLUMN others_beyond TEXT NOT NULL DEFAULT '';
ALTER TABLE settled ADD COLUMN catches_up_through INTEGER NOT NULL DEFAULT 0;
";

// A retained message says who published it, for No Local; of those from before it is not known.
const JOURNAL_8: &str = "
ALTER TABLE retained ADD COLUMN identity INTEGER;
ALTER TABLE retained ADD COLUMN client_id TEXT;
";

const REGISTRY_1: &str = "
CREATE TABLE devices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    token_hash BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_ms INTEGER NOT NULL,
    last_seen_ms INTEGER,
    checksum INTEGER NOT NULL
) STRICT;
";

// Local clients come beside the devices. A device's row keeps its checksum, which the new columns of a client extend.
// ADD COLUMN looks at every row again; one with a damaged value must come along, to be named and removed.
const REGISTRY_2: &str = "
PRAGMA ignore_check_constraints = ON;
ALTER TABLE devices RENAME TO identities;
ALTER TABLE identities ADD COLUMN kind INTEGER NOT NULL DEFAULT 0 CHECK (kind IN (0, 1));
ALTER TABLE identities ADD COLUMN publish TEXT CHECK (publish IS NULL OR kind = 1);
ALTER TABLE identities ADD COLUMN subscribe TEXT CHECK (subscribe IS NULL OR kind = 1);
PRAGMA ignore_check_constraints = OFF;
";

// A device may be a gateway, which speaks for others behind it. As above, a damaged row must come along.
const REGISTRY_3: &str = "
PRAGMA ignore_check_constraints = ON;
ALTER TABLE identities ADD COLUMN gateway INTEGER NOT NULL DEFAULT 0
    CHECK (gateway IN (0, 1) AND (gateway = 0 OR kind = 0));
PRAGMA ignore_check_constraints = OFF;
";

/// The journal as it was when it knew readings only.
#[cfg(test)]
pub(super) const JOURNAL_BEFORE_SESSIONS: Schema = Schema { migrations: &[JOURNAL_1], ..JOURNAL };

/// The journal as it was when rows of sessions had no checksum.
#[cfg(test)]
pub(super) const JOURNAL_BEFORE_CHECKSUMS: Schema =
    Schema { migrations: &[JOURNAL_1, JOURNAL_2, JOURNAL_3, JOURNAL_4, JOURNAL_5], ..JOURNAL };

/// The registry as it was when it knew devices only.
#[cfg(test)]
pub(super) const REGISTRY_BEFORE_CLIENTS: Schema = Schema { migrations: &[REGISTRY_1], ..REGISTRY };

impl Schema {
    /// The version this build knows.
    pub(super) fn version(&self) -> i64 {
        self.migrations.len() as i64
    }

    /// Reads the version of the database without writing; 0 is a database nobody has made a table in yet.
    ///
    /// # Errors
    /// If the database is another program's, or a newer version's.
    pub(super) fn check(&self, connection: &Connection, path: &Path) -> Result<i64, StoreError> {
        let attempt = Attempt::new(self.open_action, path);
        // One statement, one snapshot: another process may be making the schema at this moment.
        let (version, application_id, tables) = connection
            .query_row(
                "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
                 FROM pragma_user_version, pragma_application_id",
                [],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)),
            )
            .map_err(|e| attempt.sql(e))?;
        let ours = match application_id {
            0 => version == 0 && tables == 0,
            id => id == self.application_id && version > 0,
        };
        if !ours {
            return Err(StoreError::Foreign { what: self.what, path: path.to_owned() });
        }
        if version > self.version() {
            let (path, known) = (path.to_owned(), self.version());
            return Err(StoreError::NewerSchema { what: self.what, path, found: version, known });
        }
        Ok(version)
    }

    /// Brings the database to the version of this build, one transaction per step.
    pub(super) fn migrate(&self, connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
        while self.check(connection, path)? < self.version() {
            self.step(connection).map_err(|e| Attempt::new(self.open_action, path).sql(e))?;
        }
        Ok(())
    }

    fn step(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Read again under the lock: another process may have made the step meanwhile.
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if let Some(migration) =
            usize::try_from(version).ok().and_then(|version| self.migrations.get(version))
        {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "application_id", self.application_id)?;
            transaction.pragma_update(None, "user_version", version + 1)?;
        }
        transaction.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreOptions, open::open_writer};

    const PATH: &str = "/d/buffer.db";

    fn memory(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().expect("opened");
        connection.execute_batch(sql).expect("valid SQL");
        connection
    }

    #[test]
    fn a_new_database_gets_every_step_once() {
        for schema in [JOURNAL, REGISTRY] {
            let mut connection = memory("");
            assert_eq!(schema.check(&connection, Path::new(PATH)).expect("empty"), 0);
            schema.migrate(&mut connection, Path::new(PATH)).expect("migrated");
            assert_eq!(schema.check(&connection, Path::new(PATH)).expect("ours"), schema.version());
            schema.migrate(&mut connection, Path::new(PATH)).expect("nothing left to do");
        }
    }

    #[test]
    fn an_older_schema_is_brought_forward_and_keeps_its_rows() {
        let mut connection = memory("");
        JOURNAL_BEFORE_SESSIONS.migrate(&mut connection, Path::new(PATH)).expect("version 1");
        connection.execute_batch("INSERT INTO boots VALUES (1, 'b', 5, 0)").expect("inserted");
        JOURNAL.migrate(&mut connection, Path::new(PATH)).expect("this build's version");
        let row = connection.query_row("SELECT offset_ms, age_ms FROM boots", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(row.expect("kept"), (5, 0));
    }

    #[test]
    fn a_failing_step_leaves_the_version_before_it() {
        let broken =
            Schema { migrations: &[JOURNAL_1, "CREATE TABLE half (a INTEGER); NONSENSE"], ..JOURNAL };
        let mut connection = memory("");
        assert!(matches!(broken.migrate(&mut connection, Path::new(PATH)), Err(StoreError::Other(_))));
        assert_eq!(broken.check(&connection, Path::new(PATH)).expect("ours"), 1);
        assert!(connection.prepare("SELECT * FROM half").is_err());
    }

    #[test]
    fn the_database_of_another_program_is_refused() {
        let others = [
            "CREATE TABLE shopping (item TEXT)",
            "PRAGMA user_version = 3",
            "PRAGMA application_id = 7; PRAGMA user_version = 1",
            "PRAGMA application_id = 1178747441; PRAGMA user_version = -1",
        ];
        for sql in others {
            let checked = JOURNAL.check(&memory(sql), Path::new(PATH));
            assert!(matches!(checked, Err(StoreError::Foreign { .. })), "{sql}");
        }
        let mut registry = memory("");
        REGISTRY.migrate(&mut registry, Path::new(PATH)).expect("made");
        assert!(matches!(JOURNAL.check(&registry, Path::new(PATH)), Err(StoreError::Foreign { .. })));
    }

    #[test]
    fn a_newer_schema_is_refused_and_not_a_byte_is_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buffer.db");
        let newer = open_writer(&path, &JOURNAL, &StoreOptions::default()).expect("made");
        newer.pragma_update(None, "user_version", JOURNAL.version() + 1).expect("set");
        // Closed without a checkpoint: the future's version stands in the log only, as after a power cut.
        drop(newer);
        let bytes = |suffix| std::fs::read(dir.path().join(format!("buffer.db{suffix}"))).expect("a file");
        let before = (bytes(""), bytes("-wal"));
        let error = open_writer(&path, &JOURNAL, &StoreOptions::default()).expect_err("from the future");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot open the journal {}: it was written by a newer version (schema {}, this build knows {}); \
                 upgrade this build, or point `data_dir` at another directory",
                path.display(),
                JOURNAL.version() + 1,
                JOURNAL.version()
            )
        );
        assert_eq!((bytes(""), bytes("-wal")), before);
    }
}
