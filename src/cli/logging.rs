//! Log lines on standard error: with priorities for the journal, with colours for a terminal.
//!
//! How many lines there are is bounded elsewhere; here one event is always exactly one line.

use std::io::{self, IsTerminal as _, Write as _};

use env_logger::fmt::Formatter;
use forebay::net::service_manager;
use jiff::Timestamp;
use log::{Level, LevelFilter, Record};

use super::{Failure, output::one_line};

/// The environment variable that overrules the configuration's log level.
pub const LEVEL_VARIABLE: &str = "FOREBAY_LOG";

/// Starts logging at the level of `FOREBAY_LOG`, else at `configured`, else at `default`.
///
/// # Errors
/// If `FOREBAY_LOG` names no level.
pub fn start(configured: Option<LevelFilter>, default: LevelFilter) -> Result<(), Failure> {
    let variable = std::env::var_os(LEVEL_VARIABLE).map(|level| level.to_string_lossy().into_owned());
    let level = level(variable.as_deref(), configured, default)?;
    let format = match (service_manager::under_journal(), io::stderr().is_terminal()) {
        (true, _) => for_the_journal,
        (false, true) => for_a_terminal,
        (false, false) => for_a_file,
    };
    // A second start would only mean that logging runs already.
    let _ = env_logger::Builder::new().filter_level(level).format(format).try_init();
    Ok(())
}

fn level(
    variable: Option<&str>,
    configured: Option<LevelFilter>,
    default: LevelFilter,
) -> Result<LevelFilter, Failure> {
    match variable {
        None | Some("") => Ok(configured.unwrap_or(default)),
        Some(text) => text.parse().map_err(|_| {
            Failure::Usage(format!(
                "{LEVEL_VARIABLE} is {text:?}; it must be one of off, error, warn, info, debug and trace"
            ))
        }),
    }
}

fn for_the_journal(line: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    writeln!(line, "<{}>{}", priority(record.level()), one_line(&record.args().to_string()))
}

fn for_a_terminal(line: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    with_time(line, record, "%H:%M:%SZ")
}

fn for_a_file(line: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    with_time(line, record, "%Y-%m-%dT%H:%M:%SZ")
}

/// Colours vanish by themselves where there is no terminal.
fn with_time(line: &mut Formatter, record: &Record<'_>, format: &str) -> io::Result<()> {
    let style = line.default_level_style(record.level());
    let time = Timestamp::now().strftime(format);
    writeln!(line, "{time} {style}{:5}{style:#} {}", record.level(), one_line(&record.args().to_string()))
}

/// The journal's priority, as in syslog(3): 3 is an error, 7 is for debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_overrules_the_configuration_and_that_the_default() {
        let info = LevelFilter::Info;
        assert_eq!(level(None, None, info), Ok(LevelFilter::Info));
        assert_eq!(level(None, Some(LevelFilter::Warn), info), Ok(LevelFilter::Warn));
        assert_eq!(level(Some(""), Some(LevelFilter::Warn), info), Ok(LevelFilter::Warn));
        assert_eq!(level(Some("trace"), Some(LevelFilter::Warn), info), Ok(LevelFilter::Trace));
        assert_eq!(level(Some("OFF"), None, info), Ok(LevelFilter::Off));
    }

    #[test]
    fn a_level_nobody_knows_is_refused() {
        assert_eq!(
            level(Some("loud"), None, LevelFilter::Info),
            Err(Failure::Usage(
                "FOREBAY_LOG is \"loud\"; it must be one of off, error, warn, info, debug and trace".into()
            ))
        );
    }

    #[test]
    fn priorities_are_those_of_the_journal() {
        let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
    }
}
