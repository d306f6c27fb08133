//! The tables of sessions and retained messages: what a row's checksum sums up, and what tells a row from the others.
//!
//! [`super::sessions`] writes them and [`super::recovery`] reads them back, both in the order of the columns here.

use rusqlite::types::ValueRef;

use super::checksum::{VALUES_MAX, delivery_checksum, retained_checksum, row_checksum};

/// One of these tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Every column but the checksum.
    pub(super) columns: &'static [&'static str],
    /// How many of them, from the first on, are the key.
    pub(super) keys: usize,
    /// What the checksum is, given the values of all columns.
    pub(super) checksum: fn(&[ValueRef<'_>]) -> i64,
}

pub(super) const SESSIONS: Table = Table {
    name: "sessions",
    columns: &["session", "identity", "client_id", "expiry_s", "ended_ms", "token"],
    keys: 1,
    checksum: row_checksum,
};

pub(super) const SUBSCRIPTIONS: Table = Table {
    name: "subscriptions",
    columns: &["session", "filter", "qos", "no_local", "retain_as_published", "identifier"],
    keys: 2,
    checksum: row_checksum,
};

pub(super) const MESSAGES: Table = Table {
    name: "messages",
    columns: &["message", "topic", "payload", "properties", "qos", "retain", "expires_ms"],
    keys: 1,
    checksum: row_checksum,
};

/// The last two columns change while a delivery is under way.
pub(super) const DELIVERIES: Table = Table {
    name: "deliveries",
    columns: &[
        "delivery",
        "session",
        "message",
        "qos",
        "retain",
        "identifiers",
        "share",
        "packet_id",
        "received",
    ],
    keys: 1,
    checksum: delivery_checksum,
};

pub(super) const UNRELEASED: Table =
    Table { name: "unreleased", columns: &["session", "packet_id"], keys: 2, checksum: row_checksum };

pub(super) const WILLS: Table = Table {
    name: "wills",
    columns: &[
        "session",
        "topic",
        "payload",
        "properties",
        "qos",
        "retain",
        "lives_ms",
        "delay_ms",
        "is_telemetry",
        "due_ms",
    ],
    keys: 1,
    checksum: row_checksum,
};

/// The last two columns are younger than the checksum.
pub(super) const RETAINED: Table = Table {
    name: "retained",
    columns: &["topic", "payload", "properties", "qos", "retain", "expires_ms", "identity", "client_id"],
    keys: 1,
    checksum: retained_checksum,
};

/// Most columns one of them has.
pub(super) const COLUMNS_MAX: usize = 10;
const _: () = assert!(COLUMNS_MAX <= VALUES_MAX);

/// All of them.
#[cfg(test)]
pub(super) const ALL: [Table; 7] =
    [SESSIONS, SUBSCRIPTIONS, MESSAGES, DELIVERIES, UNRELEASED, WILLS, RETAINED];
