//! What happens to sessions and retained messages, row by row; [`super::recovery`] reads it back.
//!
//! Knows what a [`Change`] does to the tables, and no rule of MQTT: what is inconsistent is not noticed here. Nothing
//! is looked up by anything but its key, except when a session is over.

use rusqlite::{
    Transaction, params, params_from_iter,
    types::{
        ToSqlOutput,
        ValueRef::{self, Blob, Integer, Null, Text},
    },
};

use super::{
    boots::Boot,
    checksum::GROWTH_WHEN_RECEIVED,
    session_tables::{DELIVERIES, MESSAGES, RETAINED, SESSIONS, SUBSCRIPTIONS, Table, UNRELEASED, WILLS},
};
use crate::{
    identity::TokenMark,
    ids::{DeliveryId, MessageId, SessionId},
    mqtt::{PacketId, QoS},
    session::{
        Message, Terms, Will,
        durable::{Change, DeliveryRow, SessionRow},
    },
};

/// Makes `changes`, in their order; times are those of `boot`.
pub(super) fn apply(transaction: &Transaction<'_>, boot: Boot, changes: &[Change]) -> rusqlite::Result<()> {
    let tables = Tables { transaction, boot };
    changes.iter().try_for_each(|change| tables.apply(change))
}

struct Tables<'a> {
    transaction: &'a Transaction<'a>,
    boot: Boot,
}

impl Tables<'_> {
    fn apply(&self, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::Session(row) => self.put_session(row),
            Change::SessionOver(session) => self.remove_session(*session),
            Change::Subscribed { session, filter, terms } => self.subscribe(*session, filter, *terms),
            Change::Unsubscribed { session, filter } => self.run(
                "DELETE FROM subscriptions WHERE session = ?1 AND filter = ?2",
                params![number(session.0), filter],
            ),
            Change::Message { id, message } => self.insert_message(*id, message),
            Change::MessageOver(id) => self.run("DELETE FROM messages WHERE message = ?1", [number(id.0)]),
            Change::Queued(row) => self.insert_delivery(row),
            Change::Sent { delivery, packet_id } => self.set_packet_id(*delivery, *packet_id),
            Change::Received(delivery) => self.set_received(*delivery),
            Change::Delivered(DeliveryId(delivery)) => {
                self.run("DELETE FROM deliveries WHERE delivery = ?1", [number(*delivery)])
            }
            Change::Unreleased { session, packet_id } => self.put(
                UNRELEASED,
                "INSERT OR REPLACE INTO unreleased (session, packet_id, checksum) VALUES (?1, ?2, ?3)",
                &[id(session.0), Integer(packet_id.get().into())],
            ),
            Change::Released { session, packet_id } => self.run(
                "DELETE FROM unreleased WHERE session = ?1 AND packet_id = ?2",
                params![number(session.0), packet_id.get()],
            ),
            Change::Will { session, will, due } => {
                self.put_will(*session, will, due.map(|due| self.boot.running_ms(due)))
            }
            Change::WillOver(session) => {
                self.run("DELETE FROM wills WHERE session = ?1", [number(session.0)])
            }
            Change::Retained(message) => self.put_retained(message),
            Change::RetainedOver(topic) => self.run("DELETE FROM retained WHERE topic = ?1", [topic]),
        }
    }

    fn run(&self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql)?.execute(values).map(drop)
    }

    /// Runs a statement whose parameters are the columns of `table` and its checksum; says how many rows there were.
    fn put_counted(&self, table: Table, sql: &str, values: &[ValueRef<'_>]) -> rusqlite::Result<usize> {
        assert_eq!(values.len(), table.columns.len(), "a value for each column of {}", table.name);
        let checksum = ToSqlOutput::from((table.checksum)(values));
        let values = values.iter().map(|value| ToSqlOutput::Borrowed(*value));
        self.transaction.prepare_cached(sql)?.execute(params_from_iter(values.chain([checksum])))
    }

    fn put(&self, table: Table, sql: &str, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
        self.put_counted(table, sql, values).map(drop)
    }

    fn put_session(&self, row: &SessionRow) -> rusqlite::Result<()> {
        let ended_ms = row.ended.map(|ended| self.boot.running_ms(ended));
        let values = [
            id(row.id.0),
            Integer(row.identity.0),
            text(&row.client_id),
            Integer(row.expiry_s.into()),
            optional(ended_ms),
            optional(row.token.map(|TokenMark(mark)| mark)),
        ];
        // An INSERT would write down the largest number given, even where it finds the session there.
        let known = self.put_counted(
            SESSIONS,
            "UPDATE sessions SET identity = ?2, client_id = ?3, expiry_s = ?4, ended_ms = ?5, token = ?6, checksum = ?7
             WHERE session = ?1",
            &values,
        )?;
        if known == 1 {
            return Ok(());
        }
        self.put(
            SESSIONS,
            "INSERT INTO sessions (session, identity, client_id, expiry_s, ended_ms, token, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            &values,
        )
    }

    fn remove_session(&self, SessionId(session): SessionId) -> rusqlite::Result<()> {
        // Deliveries have no index by session: this reads them all, which a session's end is rare enough for.
        for sql in [
            "DELETE FROM deliveries WHERE session = ?1",
            "DELETE FROM subscriptions WHERE session = ?1",
            "DELETE FROM unreleased WHERE session = ?1",
            "DELETE FROM wills WHERE session = ?1",
            "DELETE FROM sessions WHERE session = ?1",
        ] {
            self.run(sql, [number(session)])?;
        }
        Ok(())
    }

    fn subscribe(&self, SessionId(session): SessionId, filter: &str, terms: Terms) -> rusqlite::Result<()> {
        self.put(
            SUBSCRIPTIONS,
            "INSERT OR REPLACE INTO subscriptions
             (session, filter, qos, no_local, retain_as_published, identifier, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            &[
                id(session),
                text(filter),
                qos(terms.qos),
                flag(terms.no_local),
                flag(terms.retain_as_published),
                optional(terms.identifier.map(|identifier| identifier.get())),
            ],
        )
    }

    fn insert_message(&self, MessageId(message_id): MessageId, message: &Message) -> rusqlite::Result<()> {
        self.put(
            MESSAGES,
            "INSERT INTO messages (message, topic, payload, properties, qos, retain, expires_ms, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            &[
                id(message_id),
                text(message.topic().as_str()),
                Blob(message.payload()),
                Blob(message.properties().as_bytes()),
                qos(message.qos),
                flag(message.retain),
                optional(self.expires_ms(message)),
            ],
        )
    }

    fn insert_delivery(&self, row: &DeliveryRow) -> rusqlite::Result<()> {
        self.put(
            DELIVERIES,
            "INSERT INTO deliveries
             (delivery, session, message, qos, retain, identifiers, share, packet_id, received, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            &[
                id(row.id.0),
                id(row.session.0),
                id(row.message.0),
                qos(row.qos),
                flag(row.retain),
                text(&join(&row.identifiers)),
                row.group.as_deref().map_or(Null, text),
                optional(row.packet_id.map(PacketId::get)),
                flag(row.received),
            ],
        )
    }

    /// The row's sum counts a packet identifier as one more than it is, and none as 0.
    fn set_packet_id(&self, DeliveryId(delivery): DeliveryId, packet_id: PacketId) -> rusqlite::Result<()> {
        self.run(
            "UPDATE deliveries SET packet_id = ?2, checksum = checksum + ?2 - coalesce(packet_id, -1)
             WHERE delivery = ?1",
            params![number(delivery), packet_id.get()],
        )
    }

    fn set_received(&self, DeliveryId(delivery): DeliveryId) -> rusqlite::Result<()> {
        self.run(
            "UPDATE deliveries SET received = 1, checksum = checksum + ?2 WHERE delivery = ?1 AND received = 0",
            [number(delivery), GROWTH_WHEN_RECEIVED],
        )
    }

    fn put_will(
        &self,
        SessionId(session): SessionId,
        will: &Will,
        due_ms: Option<i64>,
    ) -> rusqlite::Result<()> {
        let message = &will.message;
        let millis = |span: std::time::Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.put(
            WILLS,
            "INSERT OR REPLACE INTO wills
             (session, topic, payload, properties, qos, retain, lives_ms, delay_ms, is_telemetry, due_ms, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            &[
                id(session),
                text(message.topic().as_str()),
                Blob(message.payload()),
                Blob(message.properties().as_bytes()),
                qos(message.qos),
                flag(message.retain),
                optional(will.lives.map(millis)),
                Integer(millis(will.delay)),
                flag(will.is_telemetry),
                optional(due_ms),
            ],
        )
    }

    fn put_retained(&self, message: &Message) -> rusqlite::Result<()> {
        let publisher = message.publisher();
        self.put(
            RETAINED,
            "INSERT OR REPLACE INTO retained
             (topic, payload, properties, qos, retain, expires_ms, identity, client_id, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            &[
                text(message.topic().as_str()),
                Blob(message.payload()),
                Blob(message.properties().as_bytes()),
                qos(message.qos),
                flag(message.retain),
                optional(self.expires_ms(message)),
                optional(publisher.map(|by| by.identity.0)),
                publisher.map_or(Null, |by| text(&by.client_id)),
            ],
        )
    }

    fn expires_ms(&self, message: &Message) -> Option<i64> {
        message.expires().map(|expires| self.boot.running_ms(expires))
    }
}

/// A number as SQLite keeps it.
fn number(id: u64) -> i64 {
    i64::try_from(id).expect("a number per nanosecond takes 292 years to get there")
}

fn id(id: u64) -> ValueRef<'static> {
    Integer(number(id))
}

fn text(text: &str) -> ValueRef<'_> {
    Text(text.as_bytes())
}

fn flag(is_set: bool) -> ValueRef<'static> {
    Integer(is_set.into())
}

fn qos(qos: QoS) -> ValueRef<'static> {
    Integer(qos as i64)
}

fn optional(number: Option<impl Into<i64>>) -> ValueRef<'static> {
    number.map_or(Null, |number| Integer(number.into()))
}

/// The numbers of subscriptions, with a space between them: almost always none or one.
fn join(identifiers: &[u32]) -> String {
    let texts: Vec<String> = identifiers.iter().map(u32::to_string).collect();
    texts.join(" ")
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
