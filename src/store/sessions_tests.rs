//! Tests of what the store keeps of sessions and retained messages: there and back, over boots, and damaged.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use rusqlite::Connection;

use crate::{
    clock::{Mono, Now, Wall},
    identity::TokenMark,
    ids::{ClientKey, DeliveryId, IdentityId, MessageId, Seq, SessionId},
    mqtt::{PacketId, PropertiesBuf, Property, QoS, TopicName},
    session::{
        Batch, Message, Terms, Will,
        durable::{Change, DeliveryRow, Recovered, RecoveredSession, SessionRow},
    },
    store::{
        BootId, Buffer, StoreError,
        schema::{JOURNAL_BEFORE_CHECKSUMS, JOURNAL_BEFORE_SESSIONS},
        session_tables::{self, Table},
        test_bench::{Bench, SET, UNSET, record},
    },
};

const S1: SessionId = SessionId(1);
const S2: SessionId = SessionId(2);
const TERMS: Terms =
    Terms { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: true, identifier: None };

fn seconds(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000)
}

fn packet(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

fn row(id: SessionId) -> SessionRow {
    SessionRow {
        id,
        identity: IdentityId(7),
        client_id: format!("клиент {}", id.0).into(),
        token: Some(TokenMark(i64::MIN + 5)),
        expiry_s: 3600,
        ended: None,
    }
}

fn session(row: SessionRow) -> RecoveredSession {
    let (subscriptions, deliveries, unreleased) = (Vec::new(), Vec::new(), Vec::new());
    RecoveredSession { row, subscriptions, deliveries, unreleased, will: None }
}

fn message(topic: &str) -> Message {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::ContentType("text"));
    properties.push(Property::UserProperty("b", "2"));
    properties.push(Property::UserProperty("a", "1"));
    let properties = properties.as_properties().as_bytes();
    Message::restored(topic, b"\x00\xFF", properties, QoS::ExactlyOnce, true, Some(seconds(3660)))
        .expect("sound")
}

fn will() -> Will {
    Will {
        message: message("gone").living(None, Mono(0)),
        lives: Some(Duration::from_secs(5)),
        delay: Duration::from_secs(10),
        is_telemetry: true,
    }
}

fn delivery(id: u64, session: SessionId, message: u64) -> DeliveryRow {
    DeliveryRow {
        id: DeliveryId(id),
        session,
        message: MessageId(message),
        qos: QoS::AtLeastOnce,
        retain: false,
        identifiers: Vec::new(),
        group: None,
        packet_id: None,
        received: false,
    }
}

fn message_change(id: u64, topic: &str) -> Change {
    Change::Message { id: MessageId(id), message: Arc::new(message(topic)) }
}

fn append(buffer: &mut Buffer, changes: Vec<Change>) {
    buffer.append(&Batch { changes, ..Batch::default() }).expect("appended");
}

/// What a journal with nothing but `changes` gives back, the same before and after a restart and a reopening.
fn recovered(changes: Vec<Change>) -> Recovered {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    append(&mut buffer, changes);
    let recovered = buffer.recover().expect("read");
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.recover().expect("read"), recovered);
    drop(buffer);
    assert_eq!(bench.buffer().recover().expect("read"), recovered);
    recovered
}

/// A journal with two sessions that have something of everything.
fn with_two() -> (Bench, Buffer) {
    let bench = Bench::new();
    let mut buffer = bench.buffer();
    append(&mut buffer, vec![message_change(1, "m/1"), message_change(2, "m/2")]);
    for id in [S1, S2] {
        append(
            &mut buffer,
            vec![
                Change::Session(row(id)),
                Change::Subscribed { session: id, filter: "a/#".into(), terms: TERMS },
                Change::Subscribed { session: id, filter: "b".into(), terms: TERMS },
                Change::Queued(delivery(id.0 * 10, id, 1)),
                Change::Queued(delivery(id.0 * 10 + 1, id, 2)),
                Change::Unreleased { session: id, packet_id: packet(9) },
                Change::Will { session: id, will: Box::new(will()), due: None },
            ],
        );
    }
    append(&mut buffer, vec![Change::Retained(Arc::new(message("r/1")))]);
    (bench, buffer)
}

fn rows(bench: &Bench, table: &str) -> i64 {
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    shell.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("counted")
}

#[test]
fn a_new_journal_has_no_session() {
    assert_eq!(Bench::new().buffer().recover().expect("read"), Recovered::default());
}

#[test]
fn a_session_comes_back_with_its_last_terms() {
    let ended = SessionRow { token: None, expiry_s: u32::MAX, ended: Some(seconds(12)), ..row(S1) };
    let found = recovered(vec![Change::Session(row(S1)), Change::Session(ended.clone())]);
    assert_eq!(found.sessions, [session(ended.clone())]);
    let found = recovered(vec![Change::Session(ended), Change::Session(row(S1))]);
    assert_eq!(found.sessions, [session(row(S1))]);
}

#[test]
fn subscriptions_come_back_with_their_last_terms() {
    let terms =
        Terms { qos: QoS::ExactlyOnce, no_local: true, identifier: NonZeroU32::new(268_435_455), ..TERMS };
    let subscribed = |filter: &str, terms| Change::Subscribed { session: S1, filter: filter.into(), terms };
    let found = recovered(vec![
        Change::Session(row(S1)),
        subscribed("$share/g/+/x", TERMS),
        subscribed("a", TERMS),
        subscribed("b", TERMS),
        subscribed("$share/g/+/x", terms),
        Change::Unsubscribed { session: S1, filter: "a".into() },
    ]);
    assert_eq!(found.sessions[0].subscriptions, [("$share/g/+/x".into(), terms), ("b".into(), TERMS)]);
}

#[test]
fn a_delivery_comes_back_as_far_as_it_has_come() {
    let rich = DeliveryRow {
        qos: QoS::ExactlyOnce,
        retain: true,
        identifiers: vec![1, 268_435_455],
        group: Some("$share/g/a".into()),
        ..delivery(3, S1, 8)
    };
    let begun = [Change::Session(row(S1)), message_change(8, "m"), Change::Queued(rich.clone())];
    let after = |more: &[Change]| recovered([&begun[..], more].concat());
    let first = |found: &Recovered| found.sessions[0].deliveries[0].clone();
    assert_eq!(first(&after(&[])), rich);
    let sent = Change::Sent { delivery: rich.id, packet_id: packet(65_535) };
    let in_flight = DeliveryRow { packet_id: Some(packet(65_535)), ..rich };
    assert_eq!(first(&after(std::slice::from_ref(&sent))), in_flight);
    let found = after(&[sent.clone(), Change::Received(in_flight.id)]);
    assert_eq!(first(&found), DeliveryRow { received: true, ..in_flight.clone() });
    assert_eq!(found.messages, [(MessageId(8), Arc::new(message("m")))]);
    assert_eq!((found.last_delivery, found.last_message), (DeliveryId(3), MessageId(8)));
    let found = after(&[sent, Change::Delivered(in_flight.id), Change::MessageOver(MessageId(8))]);
    assert_eq!(
        found,
        Recovered { sessions: vec![session(row(S1))], last_session: S1, ..Recovered::default() }
    );
}

#[test]
fn deliveries_of_a_session_come_back_in_their_order() {
    let (bench, buffer) = with_two();
    drop(buffer);
    let mut buffer = bench.buffer();
    append(&mut buffer, vec![Change::Queued(delivery(22, S1, 1))]);
    let found = buffer.recover().expect("read");
    let ids = |session: &RecoveredSession| session.deliveries.iter().map(|d| d.id.0).collect::<Vec<_>>();
    assert_eq!(found.sessions.iter().map(ids).collect::<Vec<_>>(), [vec![10, 11, 22], vec![20, 21]]);
    assert_eq!(found.messages.len(), 2);
    assert_eq!(found.last_delivery, DeliveryId(22));
}

#[test]
fn identifiers_not_released_come_back() {
    let unreleased = |id| Change::Unreleased { session: S1, packet_id: packet(id) };
    let released = Change::Released { session: S1, packet_id: packet(2) };
    let begun =
        vec![Change::Session(row(S1)), unreleased(2), unreleased(65_535), unreleased(65_535), released];
    assert_eq!(recovered(begun).sessions[0].unreleased, [packet(65_535)]);
}

#[test]
fn a_will_comes_back_until_it_is_over() {
    let with = |will: Will, due| Change::Will { session: S1, will: Box::new(will), due };
    let plain = Will { lives: None, delay: Duration::ZERO, is_telemetry: false, ..will() };
    let begun = vec![Change::Session(row(S1)), with(plain.clone(), None)];
    assert_eq!(recovered(begun.clone()).sessions[0].will, Some((plain, None)));
    let due = Some(seconds(3700));
    let again = [&begun[..], &[with(will(), due)]].concat();
    assert_eq!(recovered(again.clone()).sessions[0].will, Some((will(), due)));
    assert_eq!(recovered([&again[..], &[Change::WillOver(S1)]].concat()).sessions[0].will, None);
}

#[test]
fn a_retained_message_comes_back_until_it_is_over() {
    let publisher = ClientKey { identity: IdentityId(7), client_id: "panel".into() };
    let newer =
        Message::new(TopicName::parse("r/1").expect("a name"), b"", QoS::AtMostOnce).by(Some(publisher));
    let retained = |message: &Message| Change::Retained(Arc::new(message.clone()));
    let begun = vec![retained(&message("r/1")), retained(&message("r/2"))];
    assert_eq!(recovered(begun.clone()).retained, [message("r/1"), message("r/2")]);
    let replaced = [&begun[..], &[retained(&newer), Change::RetainedOver("r/2".into())]].concat();
    assert_eq!(recovered(replaced).retained, [newer]);
}

#[test]
fn a_session_that_is_over_takes_everything_along_that_belongs_to_it_and_nothing_else() {
    let (bench, mut buffer) = with_two();
    let before = buffer.recover().expect("read");
    append(&mut buffer, vec![Change::SessionOver(S1)]);
    let after = buffer.recover().expect("read");
    assert_eq!(after, Recovered { sessions: before.sessions[1..].to_vec(), ..before });
    for (table, left) in
        [("sessions", 1), ("subscriptions", 2), ("deliveries", 2), ("unreleased", 1), ("wills", 1)]
    {
        assert_eq!(rows(&bench, table), left, "{table}");
    }
}

#[test]
fn the_number_of_a_session_is_remembered_when_it_is_over() {
    let over = vec![Change::Session(row(SessionId(41))), Change::SessionOver(SessionId(41))];
    let found = recovered(over);
    assert_eq!((found.sessions.len(), found.last_session), (0, SessionId(41)));
}

#[test]
fn changes_and_readings_of_a_batch_are_one_transaction() {
    let (bench, mut buffer) = with_two();
    bench.sql(
        "CREATE TRIGGER refuse BEFORE DELETE ON deliveries WHEN old.delivery = 11
         BEGIN SELECT raise(ABORT, 'refused'); END",
    );
    let before = buffer.recover().expect("read");
    let changes = vec![Change::Retained(Arc::new(message("new"))), Change::Delivered(DeliveryId(11))];
    let batch = Batch { records: vec![record(1, "pump", 1, "{}")], changes, ..Batch::default() };
    assert!(matches!(buffer.append(&batch), Err(StoreError::Other(_))));
    assert!(matches!(buffer.recover(), Err(StoreError::Closed { .. })));
    bench.sql("DROP TRIGGER refuse");
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.recover().expect("read"), before);
    buffer.append(&batch).expect("appended");
    let after = buffer.recover().expect("read");
    assert_eq!((after.last_seq, after.retained.len()), (Seq(1), 2));
    assert_eq!(after.sessions[0].deliveries.len(), 1);
}

#[test]
fn a_journal_that_knew_readings_only_keeps_them_and_takes_sessions() {
    let bench = Bench::new();
    let mut old = Connection::open(bench.dir.buffer_path()).expect("made");
    JOURNAL_BEFORE_SESSIONS.migrate(&mut old, &bench.dir.buffer_path()).expect("made");
    old.execute_batch(
        "INSERT INTO boots VALUES (1, 'old', 500, 1);
         INSERT INTO devices VALUES (1, 'pump');
         INSERT INTO journal VALUES (1, 1, 1, 77, NULL, '{\"t\":1}', 0)",
    )
    .expect("filled");
    drop(old);
    let mut buffer = bench.buffer();
    append(&mut buffer, vec![Change::Session(row(S1))]);
    assert_eq!(buffer.recover().expect("read").last_seq, Seq(1));
    assert_eq!(buffer.recover().expect("read").sessions, [session(row(S1))]);
    assert_eq!((rows(&bench, "readings"), rows(&bench, "boots WHERE age_ms = 77")), (1, 1));
}

// ---- times over boots ---------------------------------------------------------------------------------------

fn boot(bench: &Bench, id: &str, at: Mono) -> Buffer {
    let now = Now { mono: at, wall: Wall(0) };
    Buffer::open(&bench.dir, &bench.options, &BootId::new(id), now, UNSET).expect("opened")
}

fn ended(at: Mono) -> Change {
    Change::Session(SessionRow { ended: Some(at), ..row(S1) })
}

/// When the retained message ends, which was to end at 100 s of the boot before, in the boot that is now begun.
fn end_in_next_boot(bench: &Bench, now: Mono) -> Mono {
    let found = boot(bench, "next", now).recover().expect("read");
    found.retained[0].expires().expect("it has an end")
}

/// A boot with a retained message that ends 100 s after it began.
fn first_boot() -> (Bench, Buffer) {
    let bench = Bench::new();
    let mut buffer = boot(&bench, "first", seconds(1));
    let message = message("r").living(Some(Duration::from_secs(100)), Mono(0));
    append(&mut buffer, vec![Change::Retained(Arc::new(message))]);
    (bench, buffer)
}

#[test]
fn a_restart_within_a_boot_keeps_all_times() {
    let (bench, mut buffer) = first_boot();
    append(&mut buffer, vec![ended(seconds(30))]);
    drop(buffer);
    let mut buffer = boot(&bench, "first", seconds(50));
    for _ in 0..2 {
        let found = buffer.recover().expect("read");
        assert_eq!(found.retained[0].expires(), Some(seconds(100)));
        assert_eq!(found.sessions[0].row.ended, Some(seconds(30)));
        buffer.reopen().expect("reopened");
    }
}

#[test]
fn the_start_of_a_boot_is_the_least_that_is_known_of_it() {
    let (bench, buffer) = first_boot();
    drop(buffer);
    assert_eq!(end_in_next_boot(&bench, seconds(5)), seconds(99));
}

#[test]
fn a_new_boot_goes_on_from_the_last_reading() {
    let (bench, mut buffer) = first_boot();
    let records = vec![record(1, "pump", 40_000, "{}")];
    buffer.append(&Batch { records, ..Batch::default() }).expect("appended");
    drop(buffer);
    assert_eq!(end_in_next_boot(&bench, seconds(5)), seconds(60));
}

#[test]
fn a_new_boot_goes_on_from_the_end_of_the_last_connection() {
    let (bench, mut buffer) = first_boot();
    append(&mut buffer, vec![ended(seconds(70))]);
    drop(buffer);
    let found = boot(&bench, "next", seconds(5)).recover().expect("read");
    assert_eq!(found.sessions[0].row.ended, Some(Mono(0)));
    assert_eq!(found.retained[0].expires(), Some(seconds(30)));
}

#[test]
fn a_new_boot_goes_on_from_what_was_noted() {
    let (bench, mut buffer) = first_boot();
    buffer.note_running(seconds(90)).expect("noted");
    drop(buffer);
    assert_eq!(end_in_next_boot(&bench, seconds(5)), seconds(10));
}

#[test]
fn a_will_that_is_due_later_does_not_move_the_time_on() {
    let (bench, mut buffer) = first_boot();
    let due_later = Change::Will { session: S1, will: Box::new(will()), due: Some(seconds(95)) };
    append(&mut buffer, vec![Change::Session(row(S1)), due_later]);
    drop(buffer);
    let found = boot(&bench, "next", seconds(5)).recover().expect("read");
    assert_eq!(found.sessions[0].will, Some((will(), Some(seconds(94)))));
}

#[test]
fn running_time_adds_up_over_boots_and_what_is_long_over_is_the_beginning() {
    let (bench, mut buffer) = first_boot();
    append(&mut buffer, vec![ended(seconds(10))]);
    for id in ["b", "c", "d"] {
        buffer.note_running(seconds(40)).expect("noted");
        drop(buffer);
        buffer = boot(&bench, id, seconds(2));
    }
    let found = buffer.recover().expect("read");
    assert_eq!(found.retained[0].expires(), Some(Mono(0)));
    assert_eq!(found.sessions[0].row.ended, Some(Mono(0)));
    append(&mut buffer, vec![ended(seconds(3))]);
    assert_eq!(buffer.recover().expect("read").sessions[0].row.ended, Some(seconds(3)));
}

#[test]
fn a_boot_that_began_anew_under_the_same_name_is_another() {
    let (bench, mut buffer) = first_boot();
    buffer.note_running(seconds(80)).expect("noted");
    drop(buffer);
    let found = boot(&bench, "first", seconds(5)).recover().expect("read");
    assert_eq!(found.retained[0].expires(), Some(seconds(20)));
}

#[test]
fn a_reopening_that_finds_no_row_of_the_boot_keeps_its_age() {
    let (bench, mut buffer) = first_boot();
    drop(buffer);
    buffer = boot(&bench, "next", seconds(5));
    bench.sql("DELETE FROM boots");
    assert!(matches!(buffer.note_running(seconds(9)), Err(StoreError::Corrupt(_))));
    buffer.reopen().expect("reopened");
    assert_eq!(buffer.recover().expect("read").retained[0].expires(), Some(seconds(99)));
    buffer.note_running(seconds(9)).expect("noted");
}

// ---- damage -------------------------------------------------------------------------------------------------

#[test]
fn a_damaged_row_is_left_out_with_what_needs_it_and_the_rest_is_there() {
    // What is changed, and how many are then left of sessions, subscriptions, deliveries, unreleased, wills, messages
    // and retained messages.
    let all = [2, 4, 4, 2, 2, 2, 1];
    let cases: &[(&str, [usize; 7])] = &[
        ("UPDATE boots SET seen_ms = seen_ms", all),
        ("UPDATE sessions SET client_id = CAST(x'FF' AS TEXT) WHERE session = 1", [1, 2, 2, 1, 1, 2, 1]),
        ("UPDATE sessions SET expiry_s = -1 WHERE session = 1", [1, 2, 2, 1, 1, 2, 1]),
        ("DELETE FROM sessions", [0, 0, 0, 0, 0, 0, 1]),
        (
            "UPDATE subscriptions SET filter = 'a/#/b' WHERE session = 1 AND filter = 'b'",
            [2, 3, 4, 2, 2, 2, 1],
        ),
        ("UPDATE subscriptions SET qos = 3 WHERE session = 1", [2, 2, 4, 2, 2, 2, 1]),
        ("UPDATE subscriptions SET identifier = 0 WHERE session = 1", [2, 2, 4, 2, 2, 2, 1]),
        ("UPDATE deliveries SET qos = 0 WHERE delivery = 10", [2, 4, 3, 2, 2, 2, 1]),
        ("UPDATE deliveries SET packet_id = 65536 WHERE delivery = 10", [2, 4, 3, 2, 2, 2, 1]),
        ("UPDATE deliveries SET packet_id = 0 WHERE delivery = 10", [2, 4, 3, 2, 2, 2, 1]),
        ("UPDATE deliveries SET received = 1 WHERE delivery = 10", [2, 4, 3, 2, 2, 2, 1]),
        ("UPDATE deliveries SET identifiers = '1 x' WHERE delivery = 10", [2, 4, 3, 2, 2, 2, 1]),
        ("UPDATE deliveries SET session = 3 WHERE message = 2", [2, 4, 2, 2, 2, 1, 1]),
        ("UPDATE deliveries SET message = -1 WHERE delivery = 10", [2, 4, 3, 2, 2, 2, 1]),
        ("UPDATE unreleased SET packet_id = 0 WHERE session = 1", [2, 4, 4, 1, 2, 2, 1]),
        ("UPDATE wills SET delay_ms = -1 WHERE session = 1", [2, 4, 4, 2, 1, 2, 1]),
        ("UPDATE wills SET topic = '+' WHERE session = 1", [2, 4, 4, 2, 1, 2, 1]),
        ("UPDATE messages SET topic = '' WHERE message = 1", [2, 4, 2, 2, 2, 1, 1]),
        ("UPDATE messages SET properties = x'FF' WHERE message = 1", [2, 4, 2, 2, 2, 1, 1]),
        ("UPDATE messages SET qos = 300 WHERE message = 1", [2, 4, 2, 2, 2, 1, 1]),
        ("DELETE FROM messages WHERE message = 1", [2, 4, 2, 2, 2, 1, 1]),
        ("UPDATE retained SET topic = 'r/#'", [2, 4, 4, 2, 2, 2, 0]),
        ("UPDATE retained SET client_id = 'x'", [2, 4, 4, 2, 2, 2, 0]),
        ("DELETE FROM sqlite_sequence", all),
    ];
    for (damage, left) in cases {
        let (bench, mut buffer) = with_two();
        bench.sql(damage);
        let found = buffer.recover().expect(damage);
        let sum = |count: fn(&RecoveredSession) -> usize| found.sessions.iter().map(count).sum::<usize>();
        let counts = [
            found.sessions.len(),
            sum(|session| session.subscriptions.len()),
            sum(|session| session.deliveries.len()),
            sum(|session| session.unreleased.len()),
            sum(|session| usize::from(session.will.is_some())),
            found.messages.len(),
            found.retained.len(),
        ];
        assert_eq!(counts, *left, "{damage}");
        assert_eq!((found.last_session, found.last_message), (S2, MessageId(2)), "{damage}");
        assert_eq!(found.last_delivery, DeliveryId(21), "{damage}");
        buffer.set_clock(SET).expect(damage);
        buffer.reopen().expect(damage);
        // What was left out is gone, and its numbers with it.
        let again = Recovered {
            last_message: found.last_message,
            last_delivery: found.last_delivery,
            ..buffer.recover().expect(damage)
        };
        assert_eq!(again, found, "{damage}");
    }
}

/// SQL that makes another value of a column, one that could have been written.
const OTHER_VALUES: &str = "CASE typeof(VALUE) WHEN 'null' THEN 1 WHEN 'integer' THEN VALUE + 16
     WHEN 'text' THEN CASE VALUE WHEN '' THEN '3' ELSE VALUE || '0' END ELSE CAST(VALUE || x'30' AS BLOB) END";

/// What the columns of `table` are called, in SQL that also runs on other versions.
fn columns(bench: &Bench, table: Table) -> Vec<String> {
    let shell = Connection::open(bench.dir.buffer_path()).expect("opened");
    let mut statement = shell.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY cid").expect("SQL");
    let names = statement.query_map([table.name], |row| row.get(0)).expect("read");
    names.collect::<Result<_, _>>().expect("names")
}

#[test]
fn a_row_of_which_any_value_has_become_another_is_left_out_and_removed() {
    for table in session_tables::ALL {
        let (bench, buffer) = with_two();
        let names = columns(&bench, table);
        let summed_up: Vec<_> = names.iter().filter(|name| *name != "checksum").collect();
        assert_eq!(summed_up, *table.columns, "{}", table.name);
        assert!(table.columns.len() <= session_tables::COLUMNS_MAX);
        drop(buffer);
        for column in &names {
            let (bench, mut buffer) = with_two();
            let first = bench.number(&format!("SELECT count(*) FROM {}", table.name));
            // A view of the table: there is no rowid everywhere.
            let key = table.columns[..table.keys].join(", ");
            let other = OTHER_VALUES.replace("VALUE", column);
            bench.sql(&format!(
                "UPDATE {} SET {column} = {other} WHERE ({key}) = (SELECT {key} FROM {0} ORDER BY {key} LIMIT 1)",
                table.name
            ));
            buffer.recover().expect("read");
            let left = bench.number(&format!("SELECT count(*) FROM {}", table.name));
            let is_message = table.name == "messages";
            assert_eq!(left, first - 1, "{}.{column}", table.name);
            assert!(buffer.damaged_rows() >= if is_message { 3 } else { 1 }, "{}.{column}", table.name);
            let counted = buffer.damaged_rows();
            buffer.recover().expect("read");
            assert_eq!(
                buffer.damaged_rows(),
                counted,
                "{}.{column}: nothing is left to leave out",
                table.name
            );
        }
    }
}

#[test]
fn what_belongs_to_a_damaged_row_is_removed_with_it_and_nothing_else() {
    let (bench, mut buffer) = with_two();
    bench.sql("UPDATE sessions SET client_id = CAST(x'FF' AS TEXT) WHERE session = 1");
    bench.sql("UPDATE subscriptions SET filter = CAST(x'FE' AS TEXT) WHERE session = 2 AND filter = 'b'");
    buffer.recover().expect("read");
    for (table, left) in [
        ("sessions", 1),
        ("subscriptions", 1),
        ("deliveries", 2),
        ("unreleased", 1),
        ("wills", 1),
        ("messages", 2),
        ("retained", 1),
    ] {
        assert_eq!(rows(&bench, table), left, "{table}");
    }
    bench.sql("UPDATE sessions SET identity = 8 WHERE session = 2");
    let found = buffer.recover().expect("read");
    assert_eq!(found, Recovered { retained: found.retained.clone(), last_session: S2, ..found.clone() });
    assert_eq!((found.sessions.len(), found.messages.len()), (0, 0));
    for table in ["sessions", "subscriptions", "deliveries", "unreleased", "wills", "messages"] {
        assert_eq!(rows(&bench, table), 0, "{table}");
    }
    assert_eq!(rows(&bench, "retained"), 1);
}

#[test]
fn what_happens_to_a_damaged_delivery_does_not_make_it_sound() {
    let (bench, mut buffer) = with_two();
    bench.sql("UPDATE deliveries SET message = 2 WHERE delivery = 10");
    append(
        &mut buffer,
        vec![
            Change::Sent { delivery: DeliveryId(10), packet_id: packet(4) },
            Change::Received(DeliveryId(10)),
            Change::Sent { delivery: DeliveryId(11), packet_id: packet(5) },
            Change::Received(DeliveryId(11)),
        ],
    );
    let found = buffer.recover().expect("read");
    let kept: Vec<_> = found.sessions[0].deliveries.iter().map(|row| (row.id.0, row.packet_id)).collect();
    assert_eq!(kept, [(11, Some(packet(5)))]);
}

#[test]
fn rows_from_before_there_were_checksums_are_taken_as_they_are() {
    let bench = Bench::new();
    let mut old = Connection::open(bench.dir.buffer_path()).expect("made");
    JOURNAL_BEFORE_CHECKSUMS.migrate(&mut old, &bench.dir.buffer_path()).expect("made");
    old.execute_batch(
        "INSERT INTO sessions VALUES (1, 7, 'old', 3600, NULL, NULL);
         INSERT INTO subscriptions VALUES (1, 'a/#', 1, 0, 0, NULL);
         INSERT INTO messages VALUES (1, 'a/b', x'78', x'', 1, 0, NULL);
         INSERT INTO deliveries VALUES (1, 1, 1, 1, 0, '', NULL, NULL, 0);
         INSERT INTO retained VALUES ('r', x'79', x'', 1, 1, NULL)",
    )
    .expect("filled");
    drop(old);
    let mut buffer = bench.buffer();
    let found = buffer.recover().expect("read");
    assert_eq!((found.sessions.len(), found.messages.len(), found.retained.len()), (1, 1, 1));
    assert_eq!((found.sessions[0].subscriptions.len(), found.sessions[0].deliveries.len()), (1, 1));
    append(&mut buffer, vec![Change::Sent { delivery: DeliveryId(1), packet_id: packet(4) }]);
    let found = buffer.recover().expect("read");
    assert_eq!(found.sessions[0].deliveries[0].packet_id, Some(packet(4)));
    assert_eq!(buffer.damaged_rows(), 0);
}

#[test]
fn the_number_of_a_lost_message_is_not_given_again_while_a_delivery_speaks_of_it() {
    let (bench, mut buffer) = with_two();
    bench.sql("DELETE FROM messages WHERE message = 2");
    let found = buffer.recover().expect("read");
    assert_eq!((found.messages.len(), found.last_message), (1, MessageId(2)));
}
