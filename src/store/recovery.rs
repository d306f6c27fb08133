//! Sessions and retained messages as they are found on disk; [`super::sessions`] writes them.
//!
//! A damaged row is left out, with what cannot be without it: a session less is better than a broker less. Pages that
//! SQLite itself cannot read are an error all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, Row, types::FromSql};

use super::boots::Boot;
use crate::{
    clock::Mono,
    identity::TokenMark,
    ids::{DeliveryId, IdentityId, MessageId, SessionId},
    mqtt::{PacketId, QoS, TopicFilter},
    session::{
        Message, Terms, Will,
        durable::{DeliveryRow, Recovered, RecoveredSession, SessionRow},
    },
};

/// Reads everything but the readings; times are those of `boot`.
pub(super) fn read(connection: &Connection, boot: Boot, path: &Path) -> rusqlite::Result<Recovered> {
    // One state for all tables: a person with a shell may be at them.
    let transaction = connection.unchecked_transaction()?;
    let tables = Tables { connection: &transaction, boot, path };
    let mut sessions = tables.sessions()?;
    tables.add_subscriptions(&mut sessions)?;
    tables.add_unreleased(&mut sessions)?;
    tables.add_wills(&mut sessions)?;
    tables.add_deliveries(&mut sessions)?;
    let spoken_of = deliveries(&sessions).map(|delivery| delivery.message).max().unwrap_or_default();
    let messages = tables.messages(&mut sessions)?;
    Ok(Recovered {
        sessions: sessions.into_values().collect(),
        messages,
        retained: tables.retained()?,
        last_session: SessionId(tables.last(LAST_SESSION)?),
        last_message: MessageId(tables.last(LAST_MESSAGE)?).max(spoken_of),
        last_delivery: DeliveryId(tables.last(LAST_DELIVERY)?),
        ..Recovered::default()
    })
}

// Rows that are left out count: a number must not come to mean something else than they say.
const LAST_SESSION: &str = "
SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0),
           coalesce((SELECT max(session) FROM sessions), 0))";
const LAST_MESSAGE: &str = "SELECT coalesce(max(message), 0) FROM messages";
const LAST_DELIVERY: &str = "SELECT coalesce(max(delivery), 0) FROM deliveries";

type Sessions = BTreeMap<SessionId, RecoveredSession>;

struct Tables<'a> {
    connection: &'a Connection,
    boot: Boot,
    path: &'a Path,
}

impl Tables<'_> {
    /// Hands each row to `take`, which gives back none for a damaged one; says once how many those were.
    fn each(
        &self,
        table: &str,
        columns: &str,
        mut take: impl FnMut(&Row<'_>) -> Option<()>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1"))?;
        let (mut rows, mut damaged) = (statement.query([])?, 0_u64);
        while let Some(row) = rows.next()? {
            damaged += u64::from(take(row).is_none());
        }
        self.warn(table, damaged);
        Ok(())
    }

    fn warn(&self, table: &str, damaged: u64) {
        if damaged > 0 {
            log::error!("left out {damaged} damaged rows of the table {table} in {}", self.path.display());
        }
    }

    fn last(&self, sql: &str) -> rusqlite::Result<u64> {
        self.connection.query_row(sql, [], |row| Ok(number(row, 0).unwrap_or(0)))
    }

    fn sessions(&self) -> rusqlite::Result<Sessions> {
        let mut sessions = Sessions::new();
        self.each("sessions", "session, identity, client_id, expiry_s, ended_ms, token", |row| {
            let row = SessionRow {
                id: SessionId(number(row, 0)?),
                identity: IdentityId(get(row, 1)?),
                client_id: get::<String>(row, 2)?.into(),
                expiry_s: get(row, 3)?,
                ended: self.time(row, 4)?,
                token: get::<Option<i64>>(row, 5)?.map(TokenMark),
            };
            let session = RecoveredSession {
                row,
                subscriptions: Vec::new(),
                deliveries: Vec::new(),
                unreleased: Vec::new(),
                will: None,
            };
            sessions.insert(session.row.id, session);
            Some(())
        })?;
        Ok(sessions)
    }

    fn add_subscriptions(&self, sessions: &mut Sessions) -> rusqlite::Result<()> {
        let columns = "session, filter, qos, no_local, retain_as_published, identifier";
        self.each("subscriptions", columns, |row| {
            let filter: String = get(row, 1)?;
            TopicFilter::parse(&filter).ok()?;
            let identifier: Option<u32> = get(row, 5)?;
            let terms = Terms {
                qos: qos(row, 2)?,
                no_local: get(row, 3)?,
                retain_as_published: get(row, 4)?,
                identifier: match identifier {
                    Some(identifier) => Some(NonZeroU32::new(identifier)?),
                    None => None,
                },
            };
            session(sessions, row)?.subscriptions.push((filter.into(), terms));
            Some(())
        })
    }

    fn add_unreleased(&self, sessions: &mut Sessions) -> rusqlite::Result<()> {
        self.each("unreleased", "session, packet_id", |row| {
            let packet_id = PacketId::new(get(row, 1)?)?;
            session(sessions, row)?.unreleased.push(packet_id);
            Some(())
        })
    }

    fn add_wills(&self, sessions: &mut Sessions) -> rusqlite::Result<()> {
        let columns =
            "session, topic, payload, properties, qos, retain, lives_ms, delay_ms, is_telemetry, due_ms";
        self.each("wills", columns, |row| {
            let will = Will {
                message: message(row, 1, None)?,
                lives: match get(row, 6)? {
                    Some(lives_ms) => Some(span(lives_ms)?),
                    None => None,
                },
                delay: span(get(row, 7)?)?,
                is_telemetry: get(row, 8)?,
            };
            session(sessions, row)?.will = Some((will, self.time(row, 9)?));
            Some(())
        })
    }

    fn add_deliveries(&self, sessions: &mut Sessions) -> rusqlite::Result<()> {
        let columns = "delivery, session, message, qos, retain, identifiers, share, packet_id, received";
        self.each("deliveries", columns, |row| {
            let packet_id: Option<u16> = get(row, 7)?;
            let delivery = DeliveryRow {
                id: DeliveryId(number(row, 0)?),
                session: SessionId(number(row, 1)?),
                message: MessageId(number(row, 2)?),
                qos: qos(row, 3).filter(|qos| *qos != QoS::AtMostOnce)?,
                retain: get(row, 4)?,
                identifiers: split(&get::<String>(row, 5)?)?,
                group: get::<Option<Arc<str>>>(row, 6)?,
                packet_id: match packet_id {
                    Some(packet_id) => Some(PacketId::new(packet_id)?),
                    None => None,
                },
                received: get(row, 8)?,
            };
            if delivery.received && delivery.packet_id.is_none() {
                return None;
            }
            sessions.get_mut(&delivery.session)?.deliveries.push(delivery);
            Some(())
        })
    }

    /// The messages that deliveries speak of; deliveries without a message are taken out of `sessions`.
    fn messages(&self, sessions: &mut Sessions) -> rusqlite::Result<Vec<(MessageId, Arc<Message>)>> {
        let mut missing: BTreeSet<MessageId> =
            deliveries(sessions).map(|delivery| delivery.message).collect();
        let mut messages = Vec::new();
        self.each("messages", "message, topic, payload, properties, qos, retain, expires_ms", |row| {
            let id = MessageId(number(row, 0)?);
            // One that nobody waits for any more does no harm.
            if missing.contains(&id) {
                messages.push((id, Arc::new(message(row, 1, self.time(row, 6)?)?)));
                missing.remove(&id);
            }
            Some(())
        })?;
        let mut lost = 0;
        for session in sessions.values_mut() {
            let before = session.deliveries.len();
            session.deliveries.retain(|delivery| !missing.contains(&delivery.message));
            lost += (before - session.deliveries.len()) as u64;
        }
        self.warn("deliveries", lost);
        Ok(messages)
    }

    fn retained(&self) -> rusqlite::Result<Vec<Message>> {
        let mut retained = Vec::new();
        self.each("retained", "topic, payload, properties, qos, retain, expires_ms", |row| {
            retained.push(message(row, 0, self.time(row, 5)?)?);
            Some(())
        })?;
        Ok(retained)
    }

    /// The time in a column, if there is one; none if it is damaged.
    fn time(&self, row: &Row<'_>, column: usize) -> Option<Option<Mono>> {
        let running_ms: Option<i64> = get(row, column)?;
        Some(running_ms.map(|running_ms| self.boot.mono(running_ms)))
    }
}

fn get<T: FromSql>(row: &Row<'_>, column: usize) -> Option<T> {
    row.get(column).ok()
}

fn number(row: &Row<'_>, column: usize) -> Option<u64> {
    u64::try_from(get::<i64>(row, column)?).ok()
}

fn span(millis: i64) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

fn qos(row: &Row<'_>, column: usize) -> Option<QoS> {
    QoS::from_bits(get::<u8>(row, column).filter(|bits| *bits < 3)?)
}

fn deliveries(sessions: &Sessions) -> impl Iterator<Item = &DeliveryRow> {
    sessions.values().flat_map(|session| &session.deliveries)
}

/// The session the row belongs to, which its first column names.
fn session<'a>(sessions: &'a mut Sessions, row: &Row<'_>) -> Option<&'a mut RecoveredSession> {
    sessions.get_mut(&SessionId(number(row, 0)?))
}

/// A message whose topic, payload, properties, quality of service and RETAIN flag stand from column `first` on.
fn message(row: &Row<'_>, first: usize, expires: Option<Mono>) -> Option<Message> {
    let topic = row.get_ref(first).ok()?.as_str().ok()?;
    let payload = row.get_ref(first + 1).ok()?.as_blob().ok()?;
    let properties = row.get_ref(first + 2).ok()?.as_blob().ok()?;
    Message::restored(topic, payload, properties, qos(row, first + 3)?, get(row, first + 4)?, expires)
}

/// The numbers that [`super::sessions`] has put between spaces.
fn split(identifiers: &str) -> Option<Vec<u32>> {
    identifiers.split_ascii_whitespace().map(|identifier| identifier.parse().ok()).collect()
}
