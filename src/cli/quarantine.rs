//! `forebay quarantine`: what was set aside, payloads that could not be understood and readings the hub does not take.
//!
//! Listing and showing reads the journal; what is to be retried or dropped is asked of the running broker, the only one
//! to write there.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use clap::{Args, Subcommand};
use forebay::{
    record::{Placed, SetAsideId},
    store::{BufferReader, DataDir, SetAside, StoreOptions},
};
use log::LevelFilter;
use serde_json::json;

use super::{
    Failure, GlobalArguments, logging,
    output::{one_line, print_line, tell, to_the_millisecond, to_the_second},
    settings::Surroundings,
    status::ask,
};

/// How many are read at once.
const PAGE: usize = 100;
/// Columns for a reason in a list.
const REASON_CHARS: usize = 60;

/// What to do with what was set aside.
#[derive(Clone, Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Lists it, oldest first: p1 is a payload that could not be understood, r1 a reading the hub does not take
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Shows one with its payload
    Show {
        /// Its name in the list
        id: SetAsideId,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Stores it again, with its time, so that it goes to the hub once more; the broker must be running
    Retry(Chosen),
    /// Forgets it; the broker must be running
    Drop(Chosen),
}

/// Some of it, or all.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct Chosen {
    /// Names in the list
    #[arg(value_name = "ID")]
    pub ids: Vec<SetAsideId>,
    /// Everything there is
    #[arg(long)]
    pub all: bool,
}

/// Does what `command` says.
///
/// # Errors
/// If something named is not there, the journal cannot be read, or the broker cannot be asked or refuses.
pub fn run(global: &GlobalArguments, command: QuarantineCommand) -> Result<(), Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    logging::start(config.log_level.map(|level| level.min(LevelFilter::Warn)), LevelFilter::Warn)?;
    let data_dir = DataDir::open_existing(&surroundings.data_dir(global, &config)?)?;
    let reader = BufferReader::open(&data_dir, &StoreOptions::default())?;
    match command {
        QuarantineCommand::List { json } => list(&reader, json),
        QuarantineCommand::Show { id, json } => show(&reader, id, json),
        QuarantineCommand::Retry(chosen) => resolve(&reader, data_dir.path(), "retry", &chosen),
        QuarantineCommand::Drop(chosen) => resolve(&reader, data_dir.path(), "drop", &chosen),
    }
}

fn list(reader: &BufferReader, json: bool) -> Result<(), Failure> {
    let mut count = 0;
    each(reader, |found| {
        if count == 0 && !json {
            print_line(&row("id", "time (UTC)", "device", "reason"))?;
        }
        count += 1;
        if json {
            return print_line(&document(found).to_string());
        }
        let reason = shortened(&found.reason);
        let time = to_the_second(found.time.ts()) + if is_trusted(found.time) { "" } else { "?" };
        print_line(&row(&found.id.to_string(), &time, found.device.as_str(), &one_line(&reason)))
    })?;
    if count == 0 {
        tell("nothing is set aside");
    }
    Ok(())
}

/// With a sign where it is cut; `show` has all of it.
fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(REASON_CHARS) {
        None => reason.to_owned(),
        Some(_) => reason.chars().take(REASON_CHARS - 3).chain("...".chars()).collect(),
    }
}

fn row(id: &str, time: &str, device: &str, reason: &str) -> String {
    format!("{id:<8} {time:<20} {device:<16} {reason}")
}

fn show(reader: &BufferReader, id: SetAsideId, json: bool) -> Result<(), Failure> {
    let found = reader.find_set_aside(id)?;
    let found = found.ok_or_else(|| Failure::Failed(format!("nothing called {id} is set aside")))?;
    if json {
        return print_line(&document(&found).to_string());
    }
    let mark = if is_trusted(found.time) { "" } else { "  (of a clock that was not set)" };
    print_line(&format!("id       {}", found.id))?;
    print_line(&format!("device   {}", found.device))?;
    print_line(&format!("time     {} UTC{mark}", to_the_millisecond(found.time.ts())))?;
    if let Some(topic) = &found.topic {
        print_line(&format!("topic    {}", one_line(topic)))?;
    }
    print_line(&format!("reason   {}", one_line(&found.reason)))?;
    print_line(&format!("payload  {}", written_out(&found.payload)))
}

fn resolve(reader: &BufferReader, data_dir: &Path, verb: &str, chosen: &Chosen) -> Result<(), Failure> {
    let mut ids = chosen.ids.clone();
    if chosen.all {
        each(reader, |found| {
            ids.push(found.id);
            Ok(())
        })?;
    }
    // Each reason once, with the first that has it and how many others do.
    let (mut done, mut refusals) = (0, BTreeMap::<String, (SetAsideId, u32)>::new());
    for id in &ids {
        let request = json!({ "command": format!("quarantine {verb}"), "id": id.to_string() });
        match ask(data_dir, &request.to_string()) {
            Ok(_) => done += 1,
            // The others are not held up by one that cannot be done.
            Err(Failure::Failed(words)) => refusals.entry(words).or_insert((*id, 0)).1 += 1,
            Err(failure) => return Err(failure),
        }
    }
    let what = if verb == "retry" { "stored again" } else { "dropped" };
    tell(&format!("{done} {what}"));
    let told: Vec<_> = refusals.iter().map(|(words, (id, count))| refusal(*id, *count, words)).collect();
    let Some((last, others)) = told.split_last() else { return Ok(()) };
    others.iter().for_each(|words| tell(&format!("forebay: {words}")));
    Err(Failure::Failed(last.clone()))
}

fn refusal(id: SetAsideId, count: u32, words: &str) -> String {
    match count {
        1 => format!("{id} could not be: {words}"),
        _ => format!("{id} and {} more could not be: {words}", count - 1),
    }
}

/// Goes through all of it.
fn each(
    reader: &BufferReader,
    mut visit: impl FnMut(&SetAside) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = reader.set_aside(after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        page.iter().try_for_each(&mut visit)?;
    }
}

fn document(found: &SetAside) -> serde_json::Value {
    json!({
        "id": found.id.to_string(),
        "device": found.device.as_str(),
        "ts": found.time.ts(),
        "time_is_trusted": is_trusted(found.time),
        "topic": found.topic,
        "reason": found.reason,
        "payload": String::from_utf8_lossy(&found.payload),
    })
}

fn is_trusted(time: Placed) -> bool {
    matches!(time, Placed::Given(_) | Placed::Known(_))
}

/// Text as it is, on one line; other bytes in hexadecimal.
fn written_out(payload: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(payload) {
        Ok(text) => one_line(text),
        Err(_) => {
            payload.iter().fold(String::from("(hex) "), |text, byte| text + &format!("{byte:02x}")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_is_cut_has_a_sign_of_it() {
        let whole = "x".repeat(REASON_CHARS);
        assert_eq!(shortened(&whole), whole);
        let cut = shortened(&format!("{whole}y"));
        assert!(cut.ends_with("x...") && cut.len() == REASON_CHARS, "{cut}");
    }

    #[test]
    fn a_payload_never_steers_a_terminal() {
        assert_eq!(written_out(b"{a:\x1b[2J}"), r"{a:\u{1b}[2J}");
        assert_eq!(written_out(&[0xFF, 0x00, b'a']), "(hex) ff0061");
    }
}
