//! Retention: which readings leave the journal, and how its file gives space back.
//!
//! One bounded step per call, one transaction each. Readings leave in the order of their places: those the hub has, those
//! that are too old, and, when there is no room, the oldest, but what was set aside goes before them; each that the hub does not have is counted by its reason in
//! the same transaction. What others write to the file system never costs a reading that waits: the journal then stops
//! growing, and only what is new takes the place of what is oldest.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::{
    budget::{Budget, DiskSpace, Policy},
    checksum::JournalRow,
    own_marks::Marks,
    placement::Placements,
    removed::{Losses, note_boot, note_removed},
    retention_by_device::{self, Did, Search},
    set_aside::{self, SetAsideMax},
    settled,
};
use crate::{clock::Mono, ids::Seq, limits, record::Settlement};

/// Readings the hub has are removed once there are so many, or after [`SWEEP_WAIT`]: each removal is a commit.
pub(super) const SWEEP_ROWS: i64 = 256;
pub(super) const SWEEP_WAIT: Duration = Duration::from_secs(60);
/// What a reading takes beside its values, roughly.
pub(super) const ROW_BYTES: u64 = 32;
/// The last readings stay whatever the room, since something else than readings fills the file: so many at most, and not
/// more than fill this part of the room; what is on its way to the hub is among them.
const ROWS_KEPT: i64 = 1000;
const KEPT_SHARE: u64 = 2;
/// Readings looked at to see how large the last ones are.
const SAMPLES: i64 = 20;
/// Free pages for which the file is worth shrinking, if they are half of it.
const SHRINK_PAGES: i64 = 8192;
/// Free pages kept for new readings while the file system has too little space; half of them before more are made.
const PAGES_WHEN_TIGHT: i64 = 128;
/// The log at which shrinking waits: a reader is in the way of starting it anew.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// What one step did, and when the next is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Housekeeping {
    /// Readings removed that the hub has, or has refused.
    pub uploaded: u64,
    /// Readings removed that the hub does not have, by reason.
    pub lost: Losses,
    /// Payloads dropped from quarantine.
    pub payloads: u64,
    /// Publishers of readings are to be refused: there is no room, and the policy is not to drop any.
    pub is_full: bool,
    /// The file system has less free space than it should: it is to be looked at again before long.
    pub is_tight: bool,
    /// Room is being made: what the hub has is best said to be so before more is dropped.
    pub makes_room: bool,
    /// When to call again.
    pub next: NextStep,
}

/// When the next step is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextStep {
    /// As soon as there is time: something was done, and more may be to do.
    Now,
    /// Not before then, unless something is committed.
    At(Mono),
    /// When something was committed.
    #[default]
    AfterCommit,
}

/// What is remembered from step to step.
#[derive(Debug, Default)]
pub(super) struct House {
    pub(super) making_room: bool,
    /// Some of what was set aside goes before a reading is lost.
    sets_less_aside: bool,
    /// What is to leave before there is room again.
    short_bytes: u64,
    is_tight: bool,
    /// Nothing may go to make room; said until there is room.
    is_full: bool,
    shrinking: bool,
    /// When readings the hub has were last removed.
    pub(super) swept: Option<Mono>,
    pub(super) search: Search,
}

/// What a step is to go by.
#[derive(Clone, Copy)]
pub(super) struct Orders<'a> {
    pub(super) budget: &'a Budget,
    pub(super) disk: &'a DiskSpace,
    pub(super) now: Mono,
    /// Where this boot lies in wall time, if its clock can be trusted.
    pub(super) offset_ms: Option<i64>,
    pub(super) rows_max: u32,
}

/// A stretch to be removed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Removal {
    first: i64,
    last: i64,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Uploaded,
    TooOld,
    NoSpace,
}

/// The database's file, in pages.
#[derive(Clone, Copy, Debug)]
struct Pages {
    all: i64,
    free: i64,
    shrinks: bool,
}

/// How the file lies between its bounds.
#[derive(Clone, Copy, Debug)]
struct Room {
    pages: Pages,
    /// Most pages it may have.
    cap: i64,
    /// Pages worth making room for at once.
    slack: i64,
    is_tight: bool,
    page_size: u64,
}

/// The front of the journal.
pub(super) struct Front<'a> {
    pub(super) first: i64,
    pub(super) last: i64,
    settlement: &'a Settlement,
    pub(super) rows_max: i64,
}

/// Does one step.
pub(super) fn step(
    connection: &mut Connection,
    house: &mut House,
    placements: &Placements,
    orders: &Orders<'_>,
) -> rusqlite::Result<Housekeeping> {
    let room = Room::read(connection, orders)?;
    let settlement = settled::read(connection)?;
    let front = Front::read(connection, &settlement, orders.rows_max)?;
    house.making_room = room.is_short(house.making_room);
    house.is_full &= house.making_room;
    (house.short_bytes, house.is_tight) = (room.short_bytes(), room.is_tight);
    house.sets_less_aside = house.making_room && set_aside::exceeds(connection, &SetAsideMax::WHEN_SHORT)?;
    let mut done =
        Housekeeping { is_tight: room.is_tight, makes_room: house.making_room, ..Housekeeping::default() };
    let Some(front) = front else {
        done.next = shrink(connection, house, &room, orders)?;
        return Ok(done);
    };
    let age = Age::look(connection, placements, orders, &front)?;
    let did = match Marks::read(connection, &settlement)? {
        None => step_by_stretch(connection, house, orders, &room, &front, &age, &mut done)?,
        Some(marks) => {
            let pressure = (age.through, house.making_room || room.is_tight);
            retention_by_device::step(connection, house, orders, &front, pressure, &marks, &mut done)?
        }
    };
    match did {
        Did::Something => done.next = NextStep::Now,
        Did::Nothing { .. } if house.sets_less_aside => {
            set_less_aside(connection, &mut done)?;
            done.next = NextStep::Now;
        }
        Did::Nothing { is_settled } => {
            house.is_full = house.making_room && orders.budget.policy == Policy::RefuseNew;
            done.next = shrink(connection, house, &room, orders)?;
            let swept = *house.swept.get_or_insert(orders.now);
            let sweep = (is_settled && !orders.budget.keep_uploaded).then_some(swept + SWEEP_WAIT);
            for at in sweep.into_iter().chain(age.due) {
                done.next = done.next.or_at(at);
            }
        }
    }
    done.is_full = house.is_full;
    Ok(done)
}

/// One mark is everybody's: what is settled, and what is not, lies in stretches.
fn step_by_stretch(
    connection: &mut Connection,
    house: &mut House,
    orders: &Orders<'_>,
    room: &Room,
    front: &Front<'_>,
    age: &Age,
    done: &mut Housekeeping,
) -> rusqlite::Result<Did> {
    let Some(mut removal) = choose(connection, house, orders, room, front, age)? else {
        return Ok(Did::Nothing { is_settled: front.settled().is_some() });
    };
    if let Some(bytes) = house.bytes_enough(orders, removal.why) {
        removal.last = enough(connection, removal, bytes)?;
    }
    if removal.why == Why::Uploaded {
        house.swept = Some(orders.now);
    }
    remove(connection, removal, front.last, done)?;
    Ok(Did::Something)
}

/// The last that goes if no more than `bytes` have to.
fn enough(connection: &Connection, removal: Removal, bytes: u64) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, octet_length(payload) FROM journal WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq",
    )?;
    let mut rows = statement.query([removal.first, removal.last])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        sum += row.get::<_, i64>(1)?.unsigned_abs() + ROW_BYTES;
        if sum >= bytes {
            return row.get(0);
        }
    }
    Ok(removal.last)
}

fn choose(
    connection: &Connection,
    house: &mut House,
    orders: &Orders<'_>,
    room: &Room,
    front: &Front<'_>,
    age: &Age,
) -> rusqlite::Result<Option<Removal>> {
    let needs_room = house.making_room || room.is_tight;
    if let Some(through) = front.settled() {
        let waits_long = house.swept.is_some_and(|swept| orders.now.since(swept) >= SWEEP_WAIT);
        let is_due = waits_long || through - front.first + 1 >= SWEEP_ROWS;
        if needs_room || (is_due && !orders.budget.keep_uploaded) {
            return Ok(Some(front.removal(through, Why::Uploaded)));
        }
    }
    if let Some(last) = age.through {
        return Ok(Some(front.removal(last, Why::TooOld)));
    }
    if !needs_room {
        return Ok(None);
    }
    if let Some(removal) = front.settled_beyond(connection)? {
        return Ok(Some(removal));
    }
    let may_drop = house.may_drop(orders);
    if !may_drop {
        return Ok(None);
    }
    let last = front.last_droppable(connection, orders)?.min(front.first + front.rows_max - 1);
    Ok((last >= front.first).then(|| front.removal(last, Why::NoSpace)))
}

/// Drops some of the oldest payloads in quarantine, and of the oldest rejected readings.
fn set_less_aside(connection: &mut Connection, done: &mut Housekeeping) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (payloads, rejected) = set_aside::shrink(&transaction, &SetAsideMax::WHEN_SHORT)?;
    let lost = Losses { rejected, ..Losses::default() };
    note_removed(&transaction, 0, &lost)?;
    transaction.commit()?;
    (done.payloads, done.lost) = (payloads, lost);
    Ok(())
}

fn remove(
    connection: &mut Connection,
    removal: Removal,
    last: i64,
    done: &mut Housekeeping,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if removal.last >= last {
        note_boot(&transaction, last)?;
    }
    let rows = transaction
        .prepare_cached("DELETE FROM journal WHERE seq BETWEEN ?1 AND ?2")?
        .execute(params![removal.first, removal.last])? as u64;
    let mut lost = Losses::default();
    match removal.why {
        Why::Uploaded => {}
        Why::TooOld => lost.too_old = rows,
        Why::NoSpace => lost.no_space = rows,
    }
    note_removed(&transaction, removal.last, &lost)?;
    transaction.commit()?;
    match removal.why {
        Why::Uploaded => done.uploaded = rows,
        Why::TooOld | Why::NoSpace => done.lost = lost,
    }
    Ok(())
}

/// Gives some free pages back to the file system, if there are more than will soon be needed.
fn shrink(
    connection: &mut Connection,
    house: &mut House,
    room: &Room,
    orders: &Orders<'_>,
) -> rusqlite::Result<NextStep> {
    house.shrinking = room.is_too_large(house.shrinking) && orders.disk.log <= LOG_BYTES_MAX;
    if !house.shrinking {
        return Ok(NextStep::AfterCommit);
    }
    let pages = (room.pages.free - room.spare()).min(limits::SHRINK_PAGES_PER_STEP);
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    drop(statement);
    let left = Pages::read(connection)?;
    house.shrinking = left.free < room.pages.free && Room { pages: left, ..*room }.is_too_large(true);
    if !house.shrinking {
        // The file itself gets shorter when the log is copied into it.
        super::open::checkpoint(connection)?;
    }
    Ok(NextStep::Now)
}

impl House {
    /// Whether readings that wait may go to make room.
    pub(super) fn may_drop(&self, orders: &Orders<'_>) -> bool {
        self.making_room && !self.sets_less_aside && orders.budget.policy == Policy::DropOldest
    }

    /// How many bytes of readings may go at once; `None` if the number of rows is the only bound. What has to go for want
    /// of room, and for nothing else, is no more than makes room: a thousand large readings may be all there are.
    pub(super) fn bytes_enough(&self, orders: &Orders<'_>, why: Why) -> Option<u64> {
        let must_stay = match why {
            Why::NoSpace => true,
            Why::Uploaded => orders.budget.keep_uploaded && !self.is_tight,
            Why::TooOld => false,
        };
        must_stay.then_some(self.short_bytes)
    }
}

impl Room {
    fn read(connection: &Connection, orders: &Orders<'_>) -> rusqlite::Result<Self> {
        let pages = Pages::read(connection)?;
        let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let beside = orders.disk.log.saturating_add(orders.disk.others);
        let bytes = orders.budget.max_bytes.saturating_sub(beside);
        let cap = i64::try_from(bytes).unwrap_or(i64::MAX) / page_size.max(1);
        let slack = (cap / 64).clamp(64, 4096);
        let is_tight = orders.disk.free < orders.budget.keep_free;
        Ok(Self { pages, cap, slack, is_tight, page_size: page_size.unsigned_abs() })
    }

    /// Whether room is to be made inside the file; what was begun goes on a little further.
    fn is_short(&self, was_short: bool) -> bool {
        let wanted = |room: i64| if was_short { room } else { room / 2 };
        let live = self.pages.all - self.pages.free;
        let is_used_up = || self.pages.free < wanted(PAGES_WHEN_TIGHT);
        live + wanted(self.slack) > self.cap || (self.is_tight && is_used_up())
    }

    /// How much is to leave before room need not be made any more.
    fn short_bytes(&self) -> u64 {
        let live = self.pages.all - self.pages.free;
        let beyond = live + self.slack - self.cap;
        let tight = if self.is_tight { PAGES_WHEN_TIGHT - self.pages.free } else { 0 };
        beyond.max(tight).max(1).unsigned_abs().saturating_mul(self.page_size)
    }

    /// Whether the file is to give pages back.
    fn is_too_large(&self, was_too_large: bool) -> bool {
        let Pages { all, free, shrinks } = self.pages;
        if !shrinks || free <= self.spare() {
            return false;
        }
        let is_mostly_free = free >= SHRINK_PAGES && free >= all / 2;
        was_too_large || all > self.cap || is_mostly_free || (self.is_tight && free > 2 * self.spare())
    }

    /// Free pages that stay in the file: not more than room is left for before more is made.
    fn spare(&self) -> i64 {
        if self.is_tight { 2 * PAGES_WHEN_TIGHT } else { self.slack / 2 }
    }
}

impl Pages {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        Ok(Self {
            all: number("page_count")?,
            free: number("freelist_count")?,
            shrinks: number("auto_vacuum")? != 0,
        })
    }
}

impl<'a> Front<'a> {
    fn read(
        connection: &Connection,
        settlement: &'a Settlement,
        rows_max: u32,
    ) -> rusqlite::Result<Option<Self>> {
        let ends: (Option<i64>, Option<i64>) = connection
            .prepare_cached("SELECT (SELECT min(seq) FROM journal), (SELECT max(seq) FROM journal)")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (Some(first), Some(last)) = ends else { return Ok(None) };
        Ok(Some(Self { first, last, settlement, rows_max: i64::from(rows_max).max(1) }))
    }

    /// The last place that may be dropped for want of room.
    pub(super) fn last_droppable(
        &self,
        connection: &Connection,
        orders: &Orders<'_>,
    ) -> rusqlite::Result<i64> {
        let mut size =
            connection.prepare_cached("SELECT octet_length(payload) FROM journal WHERE seq = ?1")?;
        let (mut bytes, mut rows) = (0_u64, 0);
        for sample in 0..SAMPLES {
            let seq = self.last - sample * (ROWS_KEPT / SAMPLES);
            if let Some(found) = size.query_row([seq], |row| row.get::<_, u32>(0)).optional()? {
                (bytes, rows) = (bytes + u64::from(found), rows + 1);
            }
        }
        let each = (bytes / rows.max(1)).max(1);
        let fit = i64::try_from(orders.budget.max_bytes / KEPT_SHARE / each).unwrap_or(i64::MAX);
        Ok(self.last - fit.min(ROWS_KEPT))
    }

    /// The last place of the settled readings at the front, if there are any.
    fn settled(&self) -> Option<i64> {
        let through = place(self.settlement.through).min(self.last);
        (through >= self.first).then_some(through)
    }

    /// What to remove if everything through `last` may go: not more than a step takes, and either only readings that are
    /// settled or only readings that are not.
    fn removal(&self, last: i64, why: Why) -> Removal {
        let last = last.min(self.first + self.rows_max - 1);
        let (last, is_settled) = self.stretch(last);
        Removal { first: self.first, last, why: if is_settled { Why::Uploaded } else { why } }
    }

    /// How far from the front, up to `last`, readings are of one kind, and whether they are settled.
    fn stretch(&self, last: i64) -> (i64, bool) {
        if let Some(through) = self.settled() {
            return (last.min(through), true);
        }
        for (from, to) in &self.settlement.beyond {
            let (from, to) = (place(*from), place(*to));
            if self.first < from {
                return (last.min(from - 1), false);
            }
            if self.first <= to {
                return (last.min(to), true);
            }
        }
        (last, false)
    }

    /// Settled readings that lie beyond others that are not.
    fn settled_beyond(&self, connection: &Connection) -> rusqlite::Result<Option<Removal>> {
        let mut find =
            connection.prepare_cached("SELECT min(seq) FROM journal WHERE seq BETWEEN ?1 AND ?2")?;
        for (from, to) in &self.settlement.beyond {
            let first: Option<i64> = find.query_row([place(*from), place(*to)], |row| row.get(0))?;
            if let Some(first) = first {
                let last = place(*to).min(first + self.rows_max - 1).min(self.last);
                return Ok(Some(Removal { first, last, why: Why::Uploaded }));
            }
        }
        Ok(None)
    }
}

/// What age says about the front.
#[derive(Debug, Default)]
struct Age {
    /// The last reading that is too old, as far as a step looks.
    through: Option<i64>,
    /// When the first reading will be too old.
    due: Option<Mono>,
}

impl Age {
    /// Looks at when readings were received; nothing is too old while this boot's clock cannot be trusted, and no
    /// reading whose time has no trusted upper bound.
    fn look(
        connection: &Connection,
        placements: &Placements,
        orders: &Orders<'_>,
        front: &Front<'_>,
    ) -> rusqlite::Result<Self> {
        let (Some(max_age), Some(offset_ms)) = (orders.budget.max_age, orders.offset_ms) else {
            return Ok(Self::default());
        };
        let max_age_ms = i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX);
        let eldest = offset_ms.saturating_add(orders.now.as_millis()).saturating_sub(max_age_ms);
        let mut statement = connection.prepare_cached(
            "SELECT seq, device, boot, at_ms, device_ts, payload, checksum FROM journal
             WHERE seq >= ?1 AND seq < ?1 + ?2 ORDER BY seq",
        )?;
        let mut rows = statement.query([front.first, front.rows_max])?;
        let mut age = Self::default();
        while let Some(row) = rows.next()? {
            let Some((seq, boot, at_ms)) = sound(row) else { continue };
            let Some(latest) = placements.latest(boot, at_ms) else { break };
            if latest >= eldest {
                let left_ms = u64::try_from(latest.saturating_sub(eldest)).unwrap_or(0);
                age.due = Some(orders.now + Duration::from_millis(left_ms + 1));
                break;
            }
            age.through = Some(seq);
        }
        Ok(age)
    }
}

/// Place, boot and time of a row that is not damaged.
fn sound(row: &rusqlite::Row<'_>) -> Option<(i64, i64, i64)> {
    let integer = |column: usize| row.get_ref(column).ok()?.as_i64().ok();
    let payload = row.get_ref(5).ok()?.as_bytes().ok()?;
    let (seq, device, boot, at_ms) = (integer(0)?, integer(1)?, integer(2)?, integer(3)?);
    let summed = JournalRow { seq, device, boot, at_ms, device_ts: integer(4), payload };
    (summed.checksum() == integer(6)?).then_some((seq, boot, at_ms))
}

impl NextStep {
    fn or_at(self, at: Mono) -> Self {
        match self {
            Self::Now => Self::Now,
            Self::At(earlier) => Self::At(earlier.min(at)),
            Self::AfterCommit => Self::At(at),
        }
    }
}

fn place(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
