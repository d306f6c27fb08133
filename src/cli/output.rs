//! Printing: standard output as a command's result, standard error as words beside it.
//!
//! A reader that closes the pipe early ends a command quietly instead of failing it.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use jiff::Timestamp;

use super::Failure;

/// Writes `text` and a line's end to standard output, at once.
///
/// # Errors
/// If it cannot be written; [`Failure::OutputClosed`] if nobody reads any more.
pub fn print_line(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    written(writeln!(output, "{text}").and_then(|()| output.flush()))
}

/// Turns the result of writing to standard output into ours.
///
/// # Errors
/// As [`print_line`].
pub fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes `text` and a line's end to standard error; that nobody reads it stops nothing.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// `text` with everything escaped that ends a line, steers a terminal or turns the direction of writing.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// Control characters, line and paragraph separators, marks and overrides of direction.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Strict JSON as one line that means the same: white space becomes blanks, what else would steer a terminal its escape.
pub fn json_line(json: &str) -> Cow<'_, str> {
    if !json.chars().any(steers) {
        return Cow::Borrowed(json);
    }
    let mut line = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            // In strict JSON these can only stand inside a string.
            c if steers(c) => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// A time for people, UTC, to the second.
pub fn to_the_second(ms: i64) -> String {
    written_out(ms, "%Y-%m-%d %H:%M:%S")
}

/// A time for people, UTC, to the millisecond.
pub fn to_the_millisecond(ms: i64) -> String {
    written_out(ms, "%Y-%m-%d %H:%M:%S%.3f")
}

/// A time no calendar holds stays a number of milliseconds.
fn written_out(ms: i64, format: &str) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.strftime(format).to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

/// `text` so that a shell reads it as one word; unchanged if it is one already.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_line_or_steers_a_terminal() {
        assert_eq!(one_line("plain, ünïcode"), "plain, ünïcode");
        assert_eq!(one_line("a\nb\x1b[31m\u{9b}"), r"a\nb\u{1b}[31m\u{9b}");
        assert_eq!(one_line("evil\u{202e}gnp.exe\u{2028}x\u{2066}"), r"evil\u{202e}gnp.exe\u{2028}x\u{2066}");
    }

    #[test]
    fn json_on_one_line_means_the_same() {
        let json = "{\"a\":{ \"b\":\n\t[1,\r\n2]},\"c\":\"x\u{9b}\u{7f}\u{202e}y\"}";
        let line = json_line(json);
        assert_eq!(line, r#"{"a":{ "b":  [1,  2]},"c":"x\u009b\u007f\u202ey"}"#);
        let [before, after] =
            [json, &line].map(|text| serde_json::from_str::<serde_json::Value>(text).expect(text));
        assert_eq!(before, after);
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(to_the_second(1_795_497_055_123), "2026-11-24 05:10:55");
        assert_eq!(to_the_millisecond(1_795_497_055_123), "2026-11-24 05:10:55.123");
        assert_eq!(to_the_millisecond(0), "1970-01-01 00:00:00.000");
        assert_eq!(to_the_millisecond(i64::MAX), "9223372036854775807 ms");
    }

    #[test]
    fn a_path_with_blanks_stays_one_word_in_a_shell() {
        assert_eq!(shell_word("./forebay-data/ca-root.pem"), "./forebay-data/ca-root.pem");
        assert_eq!(shell_word("my data/it's"), r"'my data/it'\''s'");
        assert_eq!(shell_word("~x"), "'~x'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_full_disk() {
        assert_eq!(written(Err(io::ErrorKind::BrokenPipe.into())), Err(Failure::OutputClosed));
        assert!(matches!(written(Err(io::ErrorKind::StorageFull.into())), Err(Failure::Failed(_))));
    }
}
