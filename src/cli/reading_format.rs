//! How stored readings look: a table for people, ndjson and csv for programs.
//!
//! Writes one reading after the other and keeps none.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
};

use clap::ValueEnum;
use forebay::store::StoredReading;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::output::{json_line, one_line, steers, to_the_millisecond};

/// How to print readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people; times are UTC
    #[default]
    Table,
    /// One JSON object a line: {"seq":1,"device":"demo","ts":1700000000000,"values":{"temperature":25}}
    Ndjson,
    /// One row for each key: seq,device,ts,key,value
    Csv,
}

/// Prints readings to `out` in one format.
pub struct ReadingWriter<W> {
    out: W,
    format: Format,
    device_width: usize,
    marked_times: bool,
}

impl<W: Write> ReadingWriter<W> {
    /// A writer that has printed nothing yet.
    pub fn new(out: W, format: Format) -> Self {
        Self { out, format, device_width: 8, marked_times: false }
    }

    /// Prints what stands above the readings.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn head(&mut self) -> io::Result<()> {
        match self.format {
            Format::Table => self.table_row("seq", "time (UTC)", "", "device", "values"),
            Format::Csv => writeln!(self.out, "seq,device,ts,key,value"),
            Format::Ndjson => Ok(()),
        }
    }

    /// Prints one reading.
    ///
    /// # Errors
    /// If it cannot be written, or its values are not the JSON object they must be.
    pub fn reading(&mut self, reading: &StoredReading) -> io::Result<()> {
        match self.format {
            Format::Table => self.table(reading),
            Format::Ndjson => self.ndjson(reading),
            Format::Csv => self.csv(reading),
        }
    }

    /// Whether a time was printed with a `?`, as of a clock that was not set.
    pub fn has_marked_times(&self) -> bool {
        self.marked_times
    }

    /// Hands on what was printed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn table(&mut self, reading: &StoredReading) -> io::Result<()> {
        let time = to_the_millisecond(reading.ts.0);
        self.marked_times |= !reading.time_is_trusted;
        let mark = if reading.time_is_trusted { "" } else { "?" };
        let seq = reading.seq.0.to_string();
        self.table_row(&seq, &time, mark, &one_line(reading.device.as_str()), &json_line(&reading.values))
    }

    fn table_row(&mut self, seq: &str, time: &str, mark: &str, device: &str, values: &str) -> io::Result<()> {
        // A longer name moves the column for good, so the rows below it line up again.
        self.device_width = self.device_width.max(device.chars().count());
        let width = self.device_width;
        writeln!(self.out, "{seq:>9}  {time:<23}{mark:<1}  {device:<width$}  {values}")
    }

    fn ndjson(&mut self, reading: &StoredReading) -> io::Result<()> {
        let device = serde_json::to_string(reading.device.as_str())?;
        let (device, values) = (json_line(&device), json_line(&reading.values));
        writeln!(
            self.out,
            r#"{{"seq":{},"device":{device},"ts":{},"values":{values}}}"#,
            reading.seq.0, reading.ts
        )
    }

    fn csv(&mut self, reading: &StoredReading) -> io::Result<()> {
        let (seq, ts) = (reading.seq.0, reading.ts);
        let device = csv_field(reading.device.as_str());
        for (key, value) in entries(&reading.values)? {
            let (key, value) = (no_escapes(&key), csv_value(value));
            writeln!(self.out, "{seq},{device},{ts},{},{}", csv_field(&key), csv_field(&no_escapes(&value)))?;
        }
        Ok(())
    }
}

/// A string stands for itself, anything else for its JSON.
fn csv_value(value: &RawValue) -> Cow<'_, str> {
    match serde_json::from_str::<String>(value.get()) {
        Ok(text) => Cow::Owned(text),
        Err(_) => json_line(value.get()),
    }
}

/// Everything that steers a terminal escaped; lines' ends and tabs stay, CSV can hold them.
fn no_escapes(text: &str) -> Cow<'_, str> {
    let plain = |c: char| matches!(c, '\n' | '\r' | '\t');
    if text.chars().all(|c| plain(c) || !steers(c)) {
        return Cow::Borrowed(text);
    }
    text.split_inclusive(plain)
        .map(|part| {
            let end = part.chars().next_back().filter(|c| plain(*c));
            let body = part.strip_suffix(plain).unwrap_or(part);
            one_line(body).into_owned() + &end.map(String::from).unwrap_or_default()
        })
        .collect::<String>()
        .into()
}

/// Quotes what a reader of CSV (RFC 4180) would otherwise take apart.
fn csv_field(text: &str) -> Cow<'_, str> {
    let padded = text.trim() != text;
    if !padded && !text.contains(['"', ',', '\n', '\r']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
}

/// The members of a JSON object in their order, each value as it is written: a map would sort, numbers would round.
fn entries(object: &str) -> serde_json::Result<Vec<(String, &RawValue)>> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object of values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    serde_json::Deserializer::from_str(object).deserialize_map(Entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay::{
        clock::Wall,
        ids::{DeviceName, Seq},
    };

    fn reading(device: &str, values: &str) -> StoredReading {
        StoredReading {
            seq: Seq(1),
            device: DeviceName::parse(device).expect(device),
            ts: Wall(1_700_000_000_000),
            time_is_trusted: true,
            values: values.to_owned(),
        }
    }

    fn printed(format: Format, readings: &[StoredReading]) -> String {
        let mut out = Vec::new();
        let mut writer = ReadingWriter::new(&mut out, format);
        writer.head().expect("written");
        for reading in readings {
            writer.reading(reading).expect("written");
        }
        writer.flush().expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn an_ndjson_line_is_exactly_as_documented() {
        assert_eq!(
            printed(Format::Ndjson, &[reading("demo", r#"{"temperature":25}"#)]),
            "{\"seq\":1,\"device\":\"demo\",\"ts\":1700000000000,\"values\":{\"temperature\":25}}\n"
        );
    }

    #[test]
    fn an_ndjson_line_stays_one_line_and_keeps_every_number_as_the_device_wrote_it() {
        let line = printed(Format::Ndjson, &[reading(r"back\slash", "{\"a\":1.50e2,\"b\":{\n\"c\":0.10}}")]);
        assert_eq!(
            line,
            "{\"seq\":1,\"device\":\"back\\\\slash\",\"ts\":1700000000000,\"values\":{\"a\":1.50e2,\"b\":{ \"c\":0.10}}}\n"
        );
    }

    #[test]
    fn csv_has_a_row_for_each_key_in_the_order_of_the_device() {
        let values = r#"{"z":25,"a":1.50,"on":true,"text":"warm","none":null,"nested":{"x":[1,2]}}"#;
        assert_eq!(
            printed(Format::Csv, &[reading("demo", values)]),
            "seq,device,ts,key,value\n\
             1,demo,1700000000000,z,25\n\
             1,demo,1700000000000,a,1.50\n\
             1,demo,1700000000000,on,true\n\
             1,demo,1700000000000,text,warm\n\
             1,demo,1700000000000,none,null\n\
             1,demo,1700000000000,nested,\"{\"\"x\"\":[1,2]}\"\n"
        );
    }

    #[test]
    fn csv_quotes_what_would_be_taken_apart() {
        let values = r#"{"a,b":"say \"hi\"","line":"one\ntwo"," pad ":"x"}"#;
        assert_eq!(
            printed(Format::Csv, &[reading("Keller, links", values)]),
            "seq,device,ts,key,value\n\
             1,\"Keller, links\",1700000000000,\"a,b\",\"say \"\"hi\"\"\"\n\
             1,\"Keller, links\",1700000000000,line,\"one\ntwo\"\n\
             1,\"Keller, links\",1700000000000,\" pad \",x\n"
        );
    }

    #[test]
    fn csv_steers_no_terminal_and_keeps_its_lines() {
        let line = printed(Format::Csv, &[reading("demo", r#"{"a":"\u001b[2J\nb"}"#)]);
        assert!(line.ends_with("a,\"\\u{1b}[2J\nb\"\n"), "{line:?}");
    }

    #[test]
    fn values_that_are_no_object_are_an_error_not_a_row() {
        let mut writer = ReadingWriter::new(Vec::new(), Format::Csv);
        assert!(writer.reading(&reading("demo", "[1]")).is_err());
    }

    #[test]
    fn a_table_lines_up_and_marks_times_of_a_clock_that_was_not_set() {
        let doubtful = StoredReading { time_is_trusted: false, ..reading("demo", r#"{"t":1}"#) };
        assert_eq!(
            printed(Format::Table, &[reading("demo", r#"{"t":25}"#), doubtful]),
            "      seq  time (UTC)                device    values\n\
             \x20       1  2023-11-14 22:13:20.000   demo      {\"t\":25}\n\
             \x20       1  2023-11-14 22:13:20.000?  demo      {\"t\":1}\n"
        );
    }

    #[test]
    fn a_table_shows_no_control_character() {
        let table = printed(Format::Table, &[reading("demo", "{\"a\":\"\u{9b}31m\"}")]);
        assert!(table.ends_with("{\"a\":\"\\u009b31m\"}\n"), "{table}");
    }
}
