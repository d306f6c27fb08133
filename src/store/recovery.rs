//! Sessions and retained messages as they are found on disk; [`super::sessions`] writes them.
//!
//! A damaged row is left out, with what cannot be without it: a session less is better than a broker less. What was left
//! out is removed by [`super::sweep`]. Pages that SQLite itself cannot read are an error all the same.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rusqlite::{
    Connection, Row,
    types::{FromSql, ValueRef},
};

use super::{
    boots::Boot,
    session_tables::{
        COLUMNS_MAX, DELIVERIES, MESSAGES, RETAINED, SESSIONS, SUBSCRIPTIONS, Table, UNRELEASED, WILLS,
    },
    sweep::LeftOut,
};
use crate::{
    clock::Mono,
    identity::TokenMark,
    ids::{ClientKey, DeliveryId, IdentityId, MessageId, SessionId},
    mqtt::{PacketId, QoS, TopicFilter},
    session::{
        Message, Terms, Will,
        durable::{DeliveryRow, Recovered, RecoveredSession, SessionRow},
    },
};

/// Reads everything but the readings, and gives back as well what it had to leave out; times are those of `boot`.
pub(super) fn read(
    connection: &Connection,
    boot: Boot,
    path: &Path,
) -> rusqlite::Result<(Recovered, Vec<LeftOut>)> {
    // One state for all tables: a person with a shell may be at them.
    let transaction = connection.unchecked_transaction()?;
    let tables = Tables { connection: &transaction, boot, path, left_out: RefCell::default() };
    let mut sessions = tables.sessions()?;
    tables.add_subscriptions(&mut sessions)?;
    tables.add_unreleased(&mut sessions)?;
    tables.add_wills(&mut sessions)?;
    tables.add_deliveries(&mut sessions)?;
    let spoken_of = deliveries(&sessions).map(|delivery| delivery.message).max().unwrap_or_default();
    let messages = tables.messages(&mut sessions)?;
    let recovered = Recovered {
        sessions: sessions.into_values().collect(),
        messages,
        retained: tables.retained()?,
        last_session: SessionId(tables.last(LAST_SESSION)?),
        last_message: MessageId(tables.last(LAST_MESSAGE)?).max(spoken_of),
        last_delivery: DeliveryId(tables.last(LAST_DELIVERY)?),
        ..Recovered::default()
    };
    Ok((recovered, tables.left_out.into_inner()))
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
    left_out: RefCell<Vec<LeftOut>>,
}

impl Tables<'_> {
    /// Hands each sound row to `take`, which gives back none for one that cannot be used; says once how many there were
    /// that are not.
    fn each(&self, table: Table, mut take: impl FnMut(&Row<'_>) -> Option<()>) -> rusqlite::Result<()> {
        let columns = table.columns.join(", ");
        let sql = format!("SELECT {columns}, checksum FROM {} ORDER BY 1", table.name);
        let mut statement = self.connection.prepare(&sql)?;
        let (mut rows, before) = (statement.query([])?, self.left_out.borrow().len());
        while let Some(row) = rows.next()? {
            if !(is_sound(table, row)? && take(row).is_some()) {
                self.left_out.borrow_mut().push(LeftOut::row(table, row)?);
            }
        }
        self.tell(table, before);
        Ok(())
    }

    fn tell(&self, table: Table, left_out_before: usize) {
        let count = self.left_out.borrow().len() - left_out_before;
        if count > 0 {
            let (table, path) = (table.name, self.path.display());
            log::error!("left out {count} rows of the table {table} in {path}: damaged, or part of what is");
        }
    }

    fn last(&self, sql: &str) -> rusqlite::Result<u64> {
        self.connection.query_row(sql, [], |row| Ok(number(row, 0).unwrap_or(0)))
    }

    fn sessions(&self) -> rusqlite::Result<Sessions> {
        let mut sessions = Sessions::new();
        self.each(SESSIONS, |row| {
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
        self.each(SUBSCRIPTIONS, |row| {
            let filter: String = get(row, 1)?;
            TopicFilter::parse(&filter).ok()?;
            let identifier: Option<u32> = get(row, 5)?;
            let terms = Terms {
                qos: qos(row, 2)?,
                no_local: get(row, 3)?,
                retain_as_published: get(row, 4)?,
                identifier: match identifier {
                    Some(identifier) => Some(NonZeroU32::new(subscription_identifier(identifier)?)?),
                    None => None,
                },
            };
            session(sessions, row)?.subscriptions.push((filter.into(), terms));
            Some(())
        })
    }

    fn add_unreleased(&self, sessions: &mut Sessions) -> rusqlite::Result<()> {
        self.each(UNRELEASED, |row| {
            let packet_id = PacketId::new(get(row, 1)?)?;
            session(sessions, row)?.unreleased.push(packet_id);
            Some(())
        })
    }

    fn add_wills(&self, sessions: &mut Sessions) -> rusqlite::Result<()> {
        self.each(WILLS, |row| {
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
        self.each(DELIVERIES, |row| {
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
        self.each(MESSAGES, |row| {
            let id = MessageId(number(row, 0)?);
            // One that nobody waits for any more lost those who did.
            if !missing.contains(&id) {
                return None;
            }
            messages.push((id, Arc::new(message(row, 1, self.time(row, 6)?)?)));
            missing.remove(&id);
            Some(())
        })?;
        let before = self.left_out.borrow().len();
        for session in sessions.values_mut() {
            session.deliveries.retain(|delivery| {
                let is_whole = !missing.contains(&delivery.message);
                if !is_whole {
                    self.left_out.borrow_mut().push(LeftOut::numbered(DELIVERIES, delivery.id.0));
                }
                is_whole
            });
        }
        self.tell(DELIVERIES, before);
        Ok(messages)
    }

    fn retained(&self) -> rusqlite::Result<Vec<Message>> {
        let mut retained = Vec::new();
        self.each(RETAINED, |row| {
            retained.push(message(row, 0, self.time(row, 5)?)?.by(publisher(row, 6)?));
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

/// Whether the row is what was written, as far as its checksum tells; one from before there was any has none.
fn is_sound(table: Table, row: &Row<'_>) -> rusqlite::Result<bool> {
    let mut values = [ValueRef::Null; COLUMNS_MAX];
    let values = &mut values[..table.columns.len()];
    for (column, value) in values.iter_mut().enumerate() {
        *value = row.get_ref(column)?;
    }
    Ok(match row.get_ref(values.len())? {
        ValueRef::Null => true,
        ValueRef::Integer(checksum) => checksum == (table.checksum)(values),
        ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => false,
    })
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

/// Who published a message, whose columns stand from `first` on; none if that was not written, or only half of it.
fn publisher(row: &Row<'_>, first: usize) -> Option<Option<ClientKey>> {
    let identity: Option<i64> = get(row, first)?;
    let client_id: Option<Arc<str>> = get(row, first + 1)?;
    Some(identity.zip(client_id).map(|(id, client_id)| ClientKey { identity: IdentityId(id), client_id }))
}

/// The numbers that [`super::sessions`] has put between spaces.
fn split(identifiers: &str) -> Option<Vec<u32>> {
    let parse = |identifier: &str| identifier.parse().ok().and_then(subscription_identifier);
    identifiers.split_ascii_whitespace().map(parse).collect()
}

/// The identifier, if it can be one [§3.8.2.1.2].
fn subscription_identifier(number: u32) -> Option<u32> {
    (1..=268_435_455).contains(&number).then_some(number)
}
