//! Which boot a row's time counts from, and where that boot lies in wall time.
//!
//! Readings hold milliseconds since boot. A boot's row here holds the offset to wall time; when the clock is set, that one
//! row changes and every reading of the boot is right. Sessions outlive boots: their times are running time, which goes
//! on from boot to boot and stands still while the machine is off.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    clock::{ClockState, Mono},
    limits::RECEIVED_AHEAD_MAX,
};

/// Readings may be ahead of the time by so much.
const AHEAD_MS: i64 = RECEIVED_AHEAD_MAX.as_millis() as i64;

/// The kernel's name for the time since it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// Takes the text of the kernel's boot id; white space around it does not count.
    ///
    /// A blank text stands for a boot that could not be told; it is never taken for an earlier one.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

/// The boot that rows are written under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boot {
    /// Its number in the journal.
    pub(super) number: i64,
    /// What the journal says about its clock.
    pub(super) clock: ClockState,
    /// The running time before it, in milliseconds: how long the machine is known to have run in earlier boots.
    pub(super) age_ms: i64,
}

/// How the journal comes to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The program starts, so many milliseconds after the boot began.
    Start {
        /// So many.
        now_ms: i64,
    },
    /// After a failure, under the same boot, whatever the journal says: so no time can lie in its future.
    Again {
        /// The running time before that boot.
        age_ms: i64,
    },
}

impl Boot {
    /// A time of this boot as the disk keeps it.
    pub(super) fn running_ms(&self, time: Mono) -> i64 {
        self.age_ms.saturating_add(time.as_millis())
    }

    /// A time from the disk; what lies before this boot is its beginning.
    pub(super) fn mono(&self, running_ms: i64) -> Mono {
        let since_boot_ms = u64::try_from(running_ms.saturating_sub(self.age_ms)).unwrap_or(0);
        Mono(since_boot_ms.saturating_mul(1000))
    }
}

/// Finds the row of this boot, or makes one, and notes the clock in it.
///
/// A row is made anew if more time is known to have passed under the old one than has passed now: this is then another
/// time since boot, as in a container with a time namespace of its own.
pub(super) fn resume(
    transaction: &Transaction<'_>,
    id: &BootId,
    opening: Opening,
    clock: ClockState,
) -> rusqlite::Result<Boot> {
    let newest = newest(transaction)?;
    let same = newest.as_ref().filter(|row| !id.0.is_empty() && row.id == id.0);
    let boot = match same {
        Some(row) if opening.is_after(row.passed_ms) => {
            let boot = Boot { clock: merge(row.boot.clock, clock), ..row.boot };
            note(transaction, boot)?;
            boot
        }
        _ => {
            let known_ms = newest.map_or(0, |row| row.boot.age_ms.saturating_add(row.passed_ms));
            insert(transaction, id, clock, opening.age_ms(known_ms))?
        }
    };
    if let Opening::Start { now_ms } = opening {
        note_passed(transaction, boot, now_ms)?;
    }
    Ok(boot)
}

/// Notes that the boot has lasted so long; gives back whether there was a row.
pub(super) fn note_passed(connection: &Connection, boot: Boot, passed_ms: i64) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE boots SET seen_ms = max(seen_ms, ?2) WHERE boot = ?1",
        params![boot.number, passed_ms],
    )?;
    Ok(changed == 1)
}

/// What is to be kept of the clock, given what is kept and what is heard.
///
/// Once synchronised, a boot stays so, and only steps of a clock that still is synchronised move it.
pub(super) fn merge(kept: ClockState, heard: ClockState) -> ClockState {
    match (kept.synchronised, heard.synchronised) {
        (true, false) => kept,
        (false, _) | (true, true) => heard,
    }
}

/// Writes the clock of `boot` into its row; gives back whether there was a row.
pub(super) fn note(connection: &Connection, boot: Boot) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE boots SET offset_ms = ?2, synchronised = ?3 WHERE boot = ?1",
        params![boot.number, boot.clock.offset_ms, boot.clock.synchronised],
    )?;
    Ok(changed == 1)
}

impl Opening {
    fn is_after(self, passed_ms: i64) -> bool {
        match self {
            Self::Start { now_ms } => passed_ms <= now_ms.saturating_add(AHEAD_MS),
            Self::Again { .. } => true,
        }
    }

    fn age_ms(self, known_ms: i64) -> i64 {
        match self {
            Self::Start { .. } => known_ms,
            Self::Again { age_ms } => age_ms,
        }
    }
}

/// A boot as the journal knows it.
struct KnownBoot {
    id: String,
    boot: Boot,
    /// How long it is known to have lasted.
    passed_ms: i64,
}

/// The newest boot. Older rows of this boot's id are not looked for: the data directory has been on another machine
/// since.
fn newest(transaction: &Transaction<'_>) -> rusqlite::Result<Option<KnownBoot>> {
    let row = transaction
        .query_row(
            "SELECT boot, boot_id, offset_ms, synchronised, age_ms, seen_ms FROM boots ORDER BY boot DESC LIMIT 1",
            [],
            |row| {
                let clock = ClockState { offset_ms: row.get(2)?, synchronised: row.get(3)? };
                let boot = Boot { number: row.get(0)?, clock, age_ms: row.get(4)? };
                Ok(KnownBoot { id: row.get(1)?, boot, passed_ms: row.get(5)? })
            },
        )
        .optional()?;
    let Some(mut known) = row else { return Ok(None) };
    let ended_ms: Option<i64> =
        transaction.query_row("SELECT max(ended_ms) FROM sessions", [], |row| row.get(0))?;
    let ended_ms = ended_ms.map(|ended_ms| ended_ms.saturating_sub(known.boot.age_ms));
    let read_ms = last_reading_ms(transaction, known.boot.number)?;
    known.passed_ms = known.passed_ms.max(ended_ms.unwrap_or(0)).max(read_ms.unwrap_or(0));
    Ok(Some(known))
}

/// When the journal's last reading was received, if it is of `boot`; the newest boot's readings are always the last.
fn last_reading_ms(transaction: &Transaction<'_>, boot: i64) -> rusqlite::Result<Option<i64>> {
    let last = transaction
        .query_row("SELECT boot, at_ms FROM journal ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(last.filter(|(of, _)| *of == boot).map(|(_, at_ms)| at_ms))
}

fn insert(
    transaction: &Transaction<'_>,
    id: &BootId,
    clock: ClockState,
    age_ms: i64,
) -> rusqlite::Result<Boot> {
    transaction.execute(
        "INSERT INTO boots (boot_id, offset_ms, synchronised, age_ms) VALUES (?1, ?2, ?3, ?4)",
        params![id.0, clock.offset_ms, clock.synchronised, age_ms],
    )?;
    Ok(Boot { number: transaction.last_insert_rowid(), clock, age_ms })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::schema::JOURNAL;

    const UNSET: ClockState = ClockState { offset_ms: 100, synchronised: false };
    const SET: ClockState = ClockState { offset_ms: 1_700_000_000_000, synchronised: true };

    fn journal() -> Connection {
        let mut connection = Connection::open_in_memory().expect("opened");
        JOURNAL.migrate(&mut connection, Path::new("memory")).expect("made");
        connection
    }

    fn start(connection: &mut Connection, id: &str, now_ms: i64, clock: ClockState) -> Boot {
        let transaction = connection.transaction().expect("begun");
        let boot = resume(&transaction, &BootId::new(id), Opening::Start { now_ms }, clock).expect("resumed");
        transaction.commit().expect("committed");
        boot
    }

    fn reading(connection: &Connection, boot: Boot, at_ms: i64) {
        connection
            .execute(
                "INSERT INTO journal (device, boot, at_ms, payload, checksum) VALUES (1, ?1, ?2, '{}', 0)",
                params![boot.number, at_ms],
            )
            .expect("inserted");
    }

    #[test]
    fn a_restart_within_a_boot_keeps_its_row() {
        let mut connection = journal();
        let boot = start(&mut connection, "a\n", 10, UNSET);
        reading(&connection, boot, 50);
        assert_eq!(start(&mut connection, "a", 50, UNSET), boot);
    }

    #[test]
    fn another_boot_gets_another_row() {
        let mut connection = journal();
        let first = start(&mut connection, "a", 10, SET);
        let second = start(&mut connection, "b", 10, UNSET);
        assert_ne!(first.number, second.number);
        assert_eq!(second.clock, UNSET);
        assert_ne!(
            start(&mut connection, "a", 10, UNSET).number,
            first.number,
            "the card was elsewhere meanwhile"
        );
    }

    #[test]
    fn a_last_reading_in_the_future_means_another_time_since_boot() {
        let mut connection = journal();
        let first = start(&mut connection, "a", 10, UNSET);
        reading(&connection, first, 50 + AHEAD_MS);
        assert_eq!(start(&mut connection, "a", 50, UNSET), first, "readings may be ahead by so much");
        reading(&connection, first, 51 + AHEAD_MS);
        let second = start(&mut connection, "a", 50, UNSET);
        assert_ne!(first.number, second.number);
        assert_eq!(start(&mut connection, "a", 50, UNSET), second);
    }

    #[test]
    fn a_boot_that_cannot_be_told_is_never_taken_for_an_earlier_one() {
        let mut connection = journal();
        let first = start(&mut connection, " ", 10, UNSET);
        assert_ne!(start(&mut connection, "", 10, UNSET).number, first.number);
    }

    #[test]
    fn a_restart_notes_the_clock_it_finds() {
        let mut connection = journal();
        start(&mut connection, "a", 10, UNSET);
        assert_eq!(start(&mut connection, "a", 10, SET).clock, SET);
        assert_eq!(start(&mut connection, "a", 10, UNSET).clock, SET, "the row was written");
    }

    #[test]
    fn an_unsynchronised_clock_is_followed_until_it_is_synchronised() {
        let moved = ClockState { offset_ms: 7, synchronised: false };
        assert_eq!(merge(UNSET, moved), moved);
        assert_eq!(merge(UNSET, SET), SET);
    }

    #[test]
    fn a_synchronised_boot_follows_only_a_synchronised_clock() {
        let stepped = ClockState { offset_ms: SET.offset_ms + 5, ..SET };
        assert_eq!(merge(SET, stepped), stepped);
        assert_eq!(merge(SET, UNSET), SET);
    }
}
