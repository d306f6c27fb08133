//! Short scripts, with the power cut at every single operation, and every single operation made to fail.
//!
//! Power: a script is played once and the disk's log kept; for each change in the log the disk is built as it was then,
//! loses power in each way, and is opened afresh. The opening is itself cut at each of its changes. Failures: a script is
//! played once for each call and each way to fail. Either way nothing confirmed may be missing, nothing may have been
//! made up, and the store must work again.

mod promises;
mod run;
mod scripts;
mod sessions;

use forebay::{
    clock::{Mono, Now, Wall},
    identity::TokenHash,
    store::{BootId, Buffer, BufferReader, Registry, StoreError, StoreOptions},
};
use rusqlite::{Connection, OpenFlags};

use crate::{
    disk::{Call, Change, Content, Disk, DiskError, Lasting, Loss, Trouble},
    machine::{self, Locking, data_dir},
};
use promises::Promises;
use run::{Cache, Manner, Run, UNSET};
pub use run::{batch_of, number};
use scripts::{SCRIPTS, Script};

/// Ways of losing what was not flushed, with the seeds each is tried with.
const LOSSES: [(Loss, u64); 8] = [
    (Loss::All, 0),
    (Loss::None, 0),
    (Loss::Suffix, 1),
    (Loss::Suffix, 2),
    (Loss::Some, 3),
    (Loss::Some, 4),
    (Loss::Torn, 5),
    (Loss::Torn, 6),
];

const QUARANTINE_ROWS: u32 = 2;

#[test]
fn power_may_go_at_any_operation_of_any_script() {
    let mut points = 0;
    for script in SCRIPTS {
        for locking in [Locking::Shared, Locking::Exclusive] {
            let manner = Manner { locking, ..Manner::USUAL };
            let visited = cut_everywhere(script, manner).expect("nothing confirmed is lost");
            println!("{}, {locking:?}: {visited} crash points", script.name);
            points += visited;
        }
    }
    println!("{points} crash points visited in all");
    assert!(points > 2_000, "the scripts hardly touch the disk");
}

#[test]
fn power_may_go_again_during_the_recovery() {
    let mut points = 0;
    for script in SCRIPTS.iter().filter(|script| script.stride == 1) {
        let visited = cut_twice_everywhere(script).expect("nothing confirmed is lost");
        println!("{}: {visited} pairs of crash points", script.name);
        points += visited;
    }
    println!("{points} pairs of crash points visited in all");
    assert!(points > 2_000, "recovery hardly touches the disk");
}

#[test]
fn any_call_may_fail_in_any_way() {
    let mut points = 0;
    for script in SCRIPTS {
        let visited = fail_everywhere(script).expect("nothing confirmed is lost");
        println!("{}: {visited} failures", script.name);
        points += visited;
    }
    println!("{points} failures in all");
    assert!(points > 2_000, "the scripts hardly touch the disk");
}

#[test]
fn commits_that_are_not_flushed_are_noticed() {
    let append = SCRIPTS.iter().find(|script| script.name == "append").expect("it is there");
    let weakened = Manner { weakened: true, ..Manner::USUAL };
    let words = cut_everywhere(append, weakened).expect_err("synchronous=NORMAL loses readings");
    assert!(words.contains("LOST"), "{words}");
}

/// Every so many operations, or all of them if the thorough run is asked for.
fn stride(usual: u64) -> usize {
    if std::env::var_os("SIM_THOROUGH").is_some() { 1 } else { usual as usize }
}

// ---- power --------------------------------------------------------------------------------------------------

/// A script's changes, and what was promised when.
struct Recording {
    log: Vec<Change>,
    /// Where the interesting part begins.
    first: usize,
    history: Vec<(u64, Promises)>,
}

impl Recording {
    fn of(script: &Script, manner: Manner) -> Self {
        let disk = Disk::new(1);
        disk.storage().log = Some(Vec::new());
        let mut run = Run::new(&disk, manner);
        (script.play)(&mut run).expect("nothing is wrong with the disk");
        run.stop();
        let history = std::mem::take(&mut run.history);
        let log = disk.storage().log.take().expect("it was kept");
        let (changes, _) = run.started.expect("every script starts");
        let first = if script.name == "first start" { 0 } else { changes as usize };
        Self { log, first, history }
    }

    /// What was promised when `changes` changes had been made.
    fn promises_after(&self, changes: usize) -> &Promises {
        let later = self.history.partition_point(|(from, _)| *from <= changes as u64);
        &self.history[later - 1].1
    }

    /// Calls `visit` for every change, with the disk as it is when the power goes during that change; for every
    /// `stride`-th if not all are wanted. The changes of the first start are left to the script about it.
    fn at_every_change(
        &self,
        stride: usize,
        mut visit: impl FnMut(usize, &Content, &Promises) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut content = Content::default();
        for (index, change) in self.log.iter().enumerate() {
            // A flush that has not ended has brought nothing for certain; anything else may have.
            let unfinished = matches!(change, Change::Sync { .. } | Change::FailSync { .. });
            let wanted = index >= self.first && (index - self.first).is_multiple_of(stride);
            if wanted && unfinished {
                visit(index, &content, self.promises_after(index))?;
            }
            content.apply(change);
            if wanted && !unfinished {
                visit(index, &content, self.promises_after(index))?;
            }
        }
        visit(self.log.len(), &content, self.promises_after(self.log.len()))
    }
}

/// The disk after a power cut.
fn after_cut(content: &Content, loss: Loss, seed: u64) -> Disk {
    let disk = Disk::with_content(seed, content.clone());
    disk.storage().start_after_power_cut(loss);
    disk
}

fn cut_everywhere(script: &Script, manner: Manner) -> Result<u64, String> {
    let recording = Recording::of(script, manner);
    let mut visited = 0;
    recording.at_every_change(stride(script.stride), |index, content, promises| {
        for (loss, seed) in LOSSES {
            let disk = after_cut(content, loss, seed);
            examine(&disk, manner, promises).map_err(|words| {
                format!("{} cut at change {index}, {loss:?} {seed}: {words}", script.name)
            })?;
            visited += 1;
        }
        Ok(())
    })?;
    Ok(visited)
}

fn cut_twice_everywhere(script: &Script) -> Result<u64, String> {
    let recording = Recording::of(script, Manner::USUAL);
    let mut visited = 0;
    recording.at_every_change(stride(5), |index, content, promises| {
        for second in 1.. {
            let disk = after_cut(content, Loss::Torn, index as u64);
            disk.storage().cut_at_change = Some(second);
            drop(open(&disk, Manner::USUAL));
            if !disk.storage().is_gone() {
                return Ok(());
            }
            disk.storage().start_after_power_cut(Loss::Torn);
            examine(&disk, Manner::USUAL, promises).map_err(|words| {
                format!("{} cut at change {index} and again at change {second}: {words}", script.name)
            })?;
            visited += 1;
        }
        Ok(())
    })?;
    Ok(visited)
}

// ---- failures -----------------------------------------------------------------------------------------------

fn fail_everywhere(script: &Script) -> Result<u64, String> {
    let (first, calls) = record_calls(script);
    let mut felt = 0;
    for (index, call) in calls.into_iter().enumerate().skip(first).step_by(stride(script.stride)) {
        for (error, sync_failure, cache) in ways_to_fail(call) {
            for lasting in [Lasting::Once, Lasting::ForEver] {
                let trouble = Trouble { call: index as u64 + 1, error: *error, lasting };
                let manner = Manner { cache: *cache, ..Manner::USUAL };
                felt += fail_at(script, trouble, *sync_failure, manner).map_err(|words| {
                    format!("{}, {call:?}, {trouble:?}, {sync_failure:?}, {manner:?}: {words}", script.name)
                })?;
            }
        }
    }
    Ok(felt)
}

/// How a call may fail: what it answers, what a flush then loses, and what becomes of the kernel's copy afterwards.
fn ways_to_fail(call: Call) -> &'static [(DiskError, Loss, Cache)] {
    const IO: (DiskError, Loss, Cache) = (DiskError::Io, Loss::All, Cache::Kept);
    const FULL: (DiskError, Loss, Cache) = (DiskError::Full, Loss::All, Cache::Kept);
    match call {
        Call::Read | Call::Truncate | Call::Delete => &[IO],
        Call::Open | Call::Write => &[IO, FULL],
        Call::Sync => &[
            IO,
            (DiskError::Io, Loss::All, Cache::Dropped),
            (DiskError::Io, Loss::All, Cache::ReadThenDropped),
            (DiskError::Io, Loss::None, Cache::Kept),
            (DiskError::Io, Loss::Some, Cache::Kept),
            (DiskError::Io, Loss::Torn, Cache::Dropped),
            (DiskError::Io, Loss::Torn, Cache::ReadThenDropped),
        ],
    }
}

/// Where the interesting part begins, and the kind of every call.
fn record_calls(script: &Script) -> (usize, Vec<Call>) {
    let disk = Disk::new(1);
    disk.storage().call_log = Some(Vec::new());
    let mut run = Run::new(&disk, Manner::USUAL);
    (script.play)(&mut run).expect("nothing is wrong with the disk");
    run.stop();
    let calls = disk.storage().call_log.take().expect("it was kept");
    let (_, started) = run.started.expect("every script starts");
    let is_about_the_start = script.name == "first start";
    (if is_about_the_start { 0 } else { started as usize }, calls)
}

/// Plays the script with one trouble; then all is well again, and the store is examined as a killed process left it,
/// and as a power cut then leaves it. Gives back whether the trouble was felt.
fn fail_at(script: &Script, trouble: Trouble, sync_failure: Loss, manner: Manner) -> Result<u64, String> {
    let disk = Disk::new(trouble.call);
    {
        let mut storage = disk.storage();
        storage.troubles.chosen = Some(trouble);
        storage.sync_failure = sync_failure;
    }
    let mut run = Run::new(&disk, manner);
    let played = (script.play)(&mut run);
    if played.is_err() && trouble.lasting == Lasting::Once {
        return Err("gave up, though the disk failed only once".into());
    }
    let promises = run.promises.clone();
    disk.storage().stop();
    run.end();
    let felt = disk.storage().troubles.felt;
    disk.storage().start();
    disk.storage().troubles.heal();
    let content = disk.storage().content.clone();
    examine(&disk, manner, &promises).map_err(|words| format!("killed, then {words}"))?;
    let cut = after_cut(&content, Loss::All, trouble.call);
    examine(&cut, manner, &promises).map_err(|words| format!("power lost, then {words}"))?;
    Ok(u64::from(felt > 0))
}

// ---- what must hold ------------------------------------------------------------------------------------------

fn options(disk: &Disk, manner: Manner) -> StoreOptions {
    machine::options(disk, manner.locking, QUARANTINE_ROWS, manner.weakened)
}

/// Starts as the next boot does.
fn open(disk: &Disk, manner: Manner) -> Result<(Registry, Buffer), StoreError> {
    let options = options(disk, manner);
    let now = Now { mono: Mono(500_000), wall: Wall(0) };
    let registry = Registry::open(&data_dir(), &options)?;
    let buffer = Buffer::open(&data_dir(), &options, &BootId::new("second"), now, UNSET)?;
    Ok((registry, buffer))
}

/// Starts on the disk, checks everything promised, stores one more reading and adds one more device, and checks again
/// after another power cut.
fn examine(disk: &Disk, manner: Manner, promises: &Promises) -> Result<(), String> {
    let mut promises = promises.clone();
    let words = |error: StoreError| format!("cannot start: {error}");
    {
        let (mut registry, mut buffer) = open(disk, manner).map_err(words)?;
        promises.check_registry(&registry)?;
        check_quarantine(disk, &buffer, &promises)?;
        promises.check_sessions(&mut buffer)?;
        if promises.clocks.is_empty() {
            promises.clocks.push(UNSET);
        }
        let values = vec!["{\"v\":\"afterwards\"}".to_owned()];
        let mut batch = batch_of(&values);
        number(&mut batch, buffer.last_seq());
        buffer.append(&batch).map_err(|error| format!("cannot store any more: {error}"))?;
        promises.clocks.push(UNSET);
        promises.asked.extend(values.clone());
        promises.stored.extend(values);
        let (newcomer, token) = (run::name("afterwards"), TokenHash::of("afterwards"));
        registry.add(&newcomer, &token, Wall(2)).map_err(|error| format!("cannot add any more: {error}"))?;
        promises.confirm(&newcomer, Some((token, true)));
        disk.storage().stop();
    }
    // The readers below see what a power cut leaves; what was confirmed before the start is checked there too.
    disk.storage().start_after_power_cut(if manner.weakened { Loss::None } else { Loss::All });
    let reader = BufferReader::open(&data_dir(), &options(disk, manner)).map_err(words)?;
    promises.check_journal(&reader)?;
    promises.check_registry(&Registry::open(&data_dir(), &options(disk, manner)).map_err(words)?)
}

/// The last payload confirmed is there, and no more payloads than are to be kept.
fn check_quarantine(disk: &Disk, buffer: &Buffer, promises: &Promises) -> Result<(), String> {
    let kept = buffer.quarantine_len().map_err(|error| error.to_string())?;
    if kept > QUARANTINE_ROWS.into() {
        return Err(format!("{kept} payloads in quarantine"));
    }
    let Some(payload) = &promises.set_aside else { return Ok(()) };
    if kept == 0 {
        return Err("LOST a payload whose quarantine was confirmed".into());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let found =
        Connection::open_with_flags_and_vfs(data_dir().buffer_path(), flags, disk.vfs()).and_then(|db| {
            db.query_row("SELECT payload FROM quarantine ORDER BY id DESC LIMIT 1", [], |row| {
                row.get::<_, Vec<u8>>(0)
            })
        });
    match found {
        Ok(found) if found == *payload => Ok(()),
        Ok(_) => Err("LOST the payload whose quarantine was confirmed last".into()),
        // The journal is locked for its one connection.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
