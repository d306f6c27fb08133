//! What was set aside, in the hands of people.

use crate::support::{
    broker::Broker,
    home::{Home, stderr},
    wire::Version,
};

/// A broker with one payload in quarantine, `p1`, and of three readings the second rejected, `r2`.
fn with_both() -> Broker {
    let mut broker = Broker::start();
    let device = broker.add_device("pump");
    let mut client = broker.online(Version::V311, &device, "meter");
    for n in 1..=3 {
        client.telemetry(&format!(r#"{{"ts":{n},"values":{{"n":{n}}}}}"#));
    }
    assert_eq!(client.publish(crate::support::wire::TELEMETRY, "{\x1b[2J"), 0);
    broker.stop();
    let database = rusqlite::Connection::open(broker.data_dir().join("buffer.db")).expect("there");
    database
        .execute_batch(
            "INSERT INTO rejected SELECT seq, device, boot, at_ms, device_ts, payload, 'too deep for the hub'
             FROM journal WHERE seq = 2",
        )
        .expect("inserted");
    drop(database);
    broker.restart();
    broker
}

/// What a command that must fail says.
fn refusal(home: &Home, arguments: &[&str]) -> String {
    let output = home.run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    stderr(&output)
}

#[test]
fn what_was_set_aside_is_listed_and_shown_while_the_broker_runs_and_while_it_does_not() {
    let mut broker = with_both();
    for runs in [true, false] {
        let list = broker.must(&["quarantine", "list"]);
        let rows: Vec<&str> = list.lines().skip(1).collect();
        assert_eq!(rows.len(), 2, "{list}");
        assert!(rows[0].starts_with("p1 ") && rows[0].contains("pump"), "{list}");
        assert!(rows[1].starts_with("r2 ") && rows[1].ends_with("too deep for the hub"), "{list}");
        assert_eq!(broker.must(&["quarantine", "list", "--json"]).lines().count(), 2);
        let payload = broker.must(&["quarantine", "show", "p1"]);
        assert!(payload.contains(r"payload  {\u{1b}[2J") && !payload.contains('\x1b'), "{payload}");
        let reading = broker.must(&["quarantine", "show", "r2", "--json"]);
        assert!(reading.contains(r#""payload":"{\"n\":2}""#) && reading.contains(r#""ts":2"#), "{reading}");
        assert!(refusal(&broker, &["quarantine", "show", "r1"]).contains("nothing called r1"));
        if runs {
            broker.stop();
        }
    }
    assert!(refusal(&broker, &["quarantine", "drop", "p1"]).contains("no broker is running"));
}

#[test]
fn a_rejected_reading_is_stored_again_with_its_time_and_what_is_not_wanted_is_dropped() {
    let broker = with_both();
    let output = broker.run(&["quarantine", "retry", "r2"]);
    assert!(output.status.success() && stderr(&output).contains("1 stored again"), "{}", stderr(&output));
    let rows = broker.telemetry();
    let last = rows.last().expect("readings");
    assert_eq!((rows.len(), last.ts, last.values()), (4, 2, r#"{"n":2}"#));
    assert!(refusal(&broker, &["quarantine", "retry", "r2"]).contains("nothing called r2"), "it is over");
    let words = refusal(&broker, &["quarantine", "retry", "--all"]);
    assert!(words.contains("0 stored again") && words.contains("1 could not be"), "{words}");
    broker.must(&["quarantine", "drop", "p1"]);
    assert_eq!(broker.must(&["quarantine", "list"]), "");
    assert_eq!(broker.count("SELECT count(*) FROM quarantine"), 0);
}
