//! What happens to sessions and retained messages, row by row; [`super::recovery`] reads it back.
//!
//! Knows what a [`Change`] does to the tables, and no rule of MQTT: what is inconsistent is not noticed here. Nothing
//! is looked up by anything but its key, except when a session is over.

use rusqlite::{Transaction, params};

use super::boots::Boot;
use crate::{
    identity::TokenMark,
    ids::{DeliveryId, MessageId, SessionId},
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
            Change::Sent { delivery, packet_id } => self.run(
                "UPDATE deliveries SET packet_id = ?2 WHERE delivery = ?1",
                params![number(delivery.0), packet_id.get()],
            ),
            Change::Received(DeliveryId(delivery)) => {
                self.run("UPDATE deliveries SET received = 1 WHERE delivery = ?1", [number(*delivery)])
            }
            Change::Delivered(DeliveryId(delivery)) => {
                self.run("DELETE FROM deliveries WHERE delivery = ?1", [number(*delivery)])
            }
            Change::Unreleased { session, packet_id } => self.run(
                "INSERT OR REPLACE INTO unreleased (session, packet_id) VALUES (?1, ?2)",
                params![number(session.0), packet_id.get()],
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

    fn put_session(&self, row: &SessionRow) -> rusqlite::Result<()> {
        let ended_ms = row.ended.map(|ended| self.boot.running_ms(ended));
        let token = row.token.map(|TokenMark(mark)| mark);
        let values = params![number(row.id.0), row.identity.0, row.client_id, row.expiry_s, ended_ms, token];
        // An INSERT would write down the largest number given, even where it finds the session there.
        let known = self
            .transaction
            .prepare_cached(
                "UPDATE sessions SET identity = ?2, client_id = ?3, expiry_s = ?4, ended_ms = ?5, token = ?6
                 WHERE session = ?1",
            )?
            .execute(values)?;
        if known == 1 {
            return Ok(());
        }
        self.run(
            "INSERT INTO sessions (session, identity, client_id, expiry_s, ended_ms, token)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            values,
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
        self.run(
            "INSERT OR REPLACE INTO subscriptions (session, filter, qos, no_local, retain_as_published, identifier)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                number(session),
                filter,
                terms.qos as u8,
                terms.no_local,
                terms.retain_as_published,
                terms.identifier.map(|identifier| identifier.get())
            ],
        )
    }

    fn insert_message(&self, MessageId(id): MessageId, message: &Message) -> rusqlite::Result<()> {
        self.run(
            "INSERT INTO messages (message, topic, payload, properties, qos, retain, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                number(id),
                message.topic().as_str(),
                message.payload(),
                message.properties().as_bytes(),
                message.qos as u8,
                message.retain,
                self.expires_ms(message)
            ],
        )
    }

    fn insert_delivery(&self, row: &DeliveryRow) -> rusqlite::Result<()> {
        self.run(
            "INSERT INTO deliveries
             (delivery, session, message, qos, retain, identifiers, share, packet_id, received)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                number(row.id.0),
                number(row.session.0),
                number(row.message.0),
                row.qos as u8,
                row.retain,
                join(&row.identifiers),
                row.group.as_deref(),
                row.packet_id.map(|packet_id| packet_id.get()),
                row.received
            ],
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
        self.run(
            "INSERT OR REPLACE INTO wills
             (session, topic, payload, properties, qos, retain, lives_ms, delay_ms, is_telemetry, due_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                number(session),
                message.topic().as_str(),
                message.payload(),
                message.properties().as_bytes(),
                message.qos as u8,
                message.retain,
                will.lives.map(millis),
                millis(will.delay),
                will.is_telemetry,
                due_ms
            ],
        )
    }

    fn put_retained(&self, message: &Message) -> rusqlite::Result<()> {
        self.run(
            "INSERT OR REPLACE INTO retained (topic, payload, properties, qos, retain, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                message.topic().as_str(),
                message.payload(),
                message.properties().as_bytes(),
                message.qos as u8,
                message.retain,
                self.expires_ms(message)
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

/// The numbers of subscriptions, with a space between them: almost always none or one.
fn join(identifiers: &[u32]) -> String {
    let texts: Vec<String> = identifiers.iter().map(u32::to_string).collect();
    texts.join(" ")
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
