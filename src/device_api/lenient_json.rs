//! JSON as hand-written commands and small firmwares produce it, rewritten as strict JSON.
//!
//! The grammar is the one the hub's parser (Gson, lenient) takes, so that a payload the hub understands is understood
//! here. Only the notation is dealt with: what a document means, and all limits but depth, is for `telemetry.rs`,
//! which reads the strict text. Strict JSON never comes here.
//!
//! ```text
//! document  (`)]}'` newline)? value
//! value     object | array | string | bare          bare: true, false, null in any case, a number, else a string
//! object    { (name (: | = | =>) value) (, | ;) ... }            no comma after the last
//! array     [ value? (, | ;) ... ]                               a missing value is null
//! string    "..." | '...'                                        may hold newlines and control characters
//! name      string | bare                                        bare ends at white space or / \ ; # = { } [ ] : ,
//! between   white space, // and # to the end of the line, /* ... */
//! ```

use std::fmt::{self, Write};

use super::number::is_json_number;
use crate::limits::JSON_MESSAGE_DEPTH_MAX;

/// Why, and where, a text cannot be read even leniently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LenientError {
    /// Bytes before the place where reading stopped.
    pub at: usize,
    /// The rule broken there.
    pub problem: Problem,
}

/// A rule of the lenient grammar that a text can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A value must stand here.
    ExpectedValue,
    /// A name must stand here; so after a comma in an object.
    ExpectedName,
    /// A colon must stand between name and value.
    ExpectedColon,
    /// After a value in an object: neither a comma nor the closing brace.
    UnclosedObject,
    /// After a value in an array: neither a comma nor the closing bracket.
    UnclosedArray,
    /// A string without its closing quote.
    UnclosedString,
    /// A `/*` without its `*/`.
    UnclosedComment,
    /// A backslash before a character that it gives no meaning.
    UnknownEscape,
    /// Something after the end of the document.
    TrailingData,
    /// More than [`JSON_MESSAGE_DEPTH_MAX`] levels of nesting.
    TooDeep,
    /// `NaN`, `Infinity` or `-Infinity`, unquoted.
    NotFinite,
}

/// Rewrites `text` as strict JSON without white space; number tokens and valid escapes stay as written.
///
/// `\u` escapes are not paired up here: a lone surrogate is left for the reader of the strict text to refuse.
/// Time is linear in the length of `text`, the result at most six times as long.
///
/// # Errors
/// The first place where the grammar is broken, or where nesting goes beyond [`JSON_MESSAGE_DEPTH_MAX`].
pub fn to_strict(text: &str) -> Result<String, LenientError> {
    let mut rewriter = Rewriter { text, at: 0, out: String::with_capacity(text.len() + text.len() / 4) };
    rewriter.skip_prefix()?;
    rewriter.value(0)?;
    match rewriter.peek()? {
        None => Ok(rewriter.out),
        Some(_) => rewriter.fail(Problem::TrailingData),
    }
}

struct Rewriter<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Rewriter<'a> {
    /// Steps over the guard that some web services put before JSON.
    fn skip_prefix(&mut self) -> Result<(), LenientError> {
        const PREFIX: &str = ")]}'\n";
        self.peek()?;
        if self.rest().starts_with(PREFIX) {
            self.at += PREFIX.len();
        }
        Ok(())
    }

    /// Rewrites one value inside `depth` open brackets; recursion ends at [`JSON_MESSAGE_DEPTH_MAX`].
    fn value(&mut self, depth: usize) -> Result<(), LenientError> {
        match self.peek()? {
            Some(b'{' | b'[') if depth == JSON_MESSAGE_DEPTH_MAX => self.fail(Problem::TooDeep),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(quote @ (b'"' | b'\'')) => self.string(quote),
            _ => self.bare_value(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), LenientError> {
        self.step('{');
        if self.peek()? == Some(b'}') {
            self.step('}');
            return Ok(());
        }
        loop {
            self.name()?;
            self.colon()?;
            self.value(depth)?;
            match self.peek()? {
                Some(b',' | b';') => self.step(','),
                Some(b'}') => break,
                _ => return self.fail(Problem::UnclosedObject),
            }
        }
        self.step('}');
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), LenientError> {
        self.step('[');
        if self.peek()? == Some(b']') {
            self.step(']');
            return Ok(());
        }
        loop {
            match self.peek()? {
                Some(b',' | b';' | b']') => self.out.push_str("null"),
                _ => self.value(depth)?,
            }
            match self.peek()? {
                Some(b',' | b';') => self.step(','),
                Some(b']') => break,
                _ => return self.fail(Problem::UnclosedArray),
            }
        }
        self.step(']');
        Ok(())
    }

    fn name(&mut self) -> Result<(), LenientError> {
        if let Some(quote @ (b'"' | b'\'')) = self.peek()? {
            return self.string(quote);
        }
        match self.bare_token() {
            "" => self.fail(Problem::ExpectedName),
            token => {
                self.push_quoted(token);
                Ok(())
            }
        }
    }

    fn colon(&mut self) -> Result<(), LenientError> {
        match self.peek()? {
            Some(b':') => self.step(':'),
            Some(b'=') => {
                self.step(':');
                self.at += usize::from(self.rest().starts_with('>'));
            }
            _ => return self.fail(Problem::ExpectedColon),
        }
        Ok(())
    }

    fn bare_value(&mut self) -> Result<(), LenientError> {
        let start = self.at;
        let token = self.bare_token();
        match token {
            "" => return self.fail(Problem::ExpectedValue),
            "NaN" | "Infinity" | "-Infinity" => {
                return Err(LenientError { at: start, problem: Problem::NotFinite });
            }
            _ => {}
        }
        match ["true", "false", "null"].into_iter().find(|word| token.eq_ignore_ascii_case(word)) {
            Some(word) => self.out.push_str(word),
            None if is_json_number(token) => self.out.push_str(token),
            None => self.push_quoted(token),
        }
        Ok(())
    }

    /// The unquoted text from here to its end, stepped over; empty if there is none.
    fn bare_token(&mut self) -> &'a str {
        let rest = self.rest();
        let ends_token = |byte: u8| b" \t\x0c\r\n/\\;#={}[]:,".contains(&byte);
        let length = rest.bytes().position(ends_token).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn push_quoted(&mut self, token: &str) {
        self.out.push('"');
        for character in token.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\0'..='\x1f' => self.push_control(u32::from(character)),
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    /// Rewrites the string that opens here, up to the next unescaped `quote`.
    fn string(&mut self, quote: u8) -> Result<(), LenientError> {
        self.step('"');
        loop {
            let rest = self.rest();
            let special = |byte: u8| byte == b'"' || byte == b'\\' || byte == quote || byte < b' ';
            let plain = rest.bytes().position(special).unwrap_or(rest.len());
            self.out.push_str(&rest[..plain]);
            self.at += plain;
            match rest.as_bytes().get(plain) {
                None => return self.fail(Problem::UnclosedString),
                Some(b'\\') => self.escape(&rest[plain..])?,
                Some(&byte) if byte == quote => break,
                Some(b'"') => self.replace(1, "\\\""),
                Some(&control) => {
                    self.push_control(control.into());
                    self.at += 1;
                }
            }
        }
        self.step('"');
        Ok(())
    }

    /// Rewrites the escape that `rest`, what is left of the text, begins with.
    fn escape(&mut self, rest: &str) -> Result<(), LenientError> {
        match rest.as_bytes() {
            [_, b'\'', ..] => self.replace(2, "'"),
            [_, b'\n', ..] => self.replace(2, "\\n"),
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.replace(2, &rest[..2]),
            [_, b'u', hex @ ..] if hex.len() >= 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => {
                self.replace(6, &rest[..6]);
            }
            [_] => return Err(LenientError { at: self.text.len(), problem: Problem::UnclosedString }),
            _ => return self.fail(Problem::UnknownEscape),
        }
        Ok(())
    }

    /// The next byte that is neither white space nor comment, not yet stepped over; `None` at the end.
    fn peek(&mut self) -> Result<Option<u8>, LenientError> {
        loop {
            let rest = self.rest();
            match rest.as_bytes() {
                [] => return Ok(None),
                [b' ' | b'\t' | b'\r' | b'\n', ..] => self.at += 1,
                [b'#', ..] | [b'/', b'/', ..] => self.at += rest.find(['\r', '\n']).unwrap_or(rest.len()),
                [b'/', b'*', ..] => match rest[2..].find("*/") {
                    Some(length) => self.at += 2 + length + 2,
                    None => return self.fail(Problem::UnclosedComment),
                },
                [byte, ..] => return Ok(Some(*byte)),
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Steps over one byte, for which `written` stands in the strict text.
    fn step(&mut self, written: char) {
        self.at += 1;
        self.out.push(written);
    }

    fn replace(&mut self, bytes: usize, written: &str) {
        self.at += bytes;
        self.out.push_str(written);
    }

    fn push_control(&mut self, control: u32) {
        write!(self.out, "\\u{control:04x}").expect("a String takes every write");
    }

    fn fail<T>(&self, problem: Problem) -> Result<T, LenientError> {
        Err(LenientError { at: self.at, problem })
    }
}

impl fmt::Display for LenientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.problem, self.at)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExpectedValue => f.write_str("a value is missing"),
            Self::ExpectedName => f.write_str("a name is missing"),
            Self::ExpectedColon => f.write_str("a colon is missing"),
            Self::UnclosedObject => f.write_str("a comma or a closing brace is missing"),
            Self::UnclosedArray => f.write_str("a comma or a closing bracket is missing"),
            Self::UnclosedString => f.write_str("a string is not closed"),
            Self::UnclosedComment => f.write_str("a comment is not closed"),
            Self::UnknownEscape => f.write_str("a backslash escapes nothing known"),
            Self::TrailingData => f.write_str("something follows the end of the document"),
            Self::TooDeep => write!(f, "nesting goes beyond {JSON_MESSAGE_DEPTH_MAX} levels"),
            Self::NotFinite => f.write_str("a number is not finite"),
        }
    }
}

impl std::error::Error for LenientError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_command_without_its_quotes_is_understood() {
        rewrites("{temperature:25}", r#"{"temperature":25}"#);
    }

    #[test]
    fn names_and_strings_may_be_unquoted_or_in_single_quotes() {
        rewrites("{a:b,'c d':'e f',\"g\":h-i.j}", r#"{"a":"b","c d":"e f","g":"h-i.j"}"#);
        rewrites("{true:1,7:2,é:ü}", r#"{"true":1,"7":2,"é":"ü"}"#);
        rewrites(r#"{a:'say "hi"',b:"it's",c:x"y'z}"#, r#"{"a":"say \"hi\"","b":"it's","c":"x\"y'z"}"#);
        rewrites("{a:x\u{1}y,'':''}", r#"{"a":"x\u0001y","":""}"#);
    }

    #[test]
    fn equals_signs_and_arrows_stand_for_colons_and_semicolons_for_commas() {
        rewrites("{a=1;b=>2;c:[3;4]}", r#"{"a":1,"b":2,"c":[3,4]}"#);
        rewrites("{a= >1}", r#"{"a":">1"}"#);
    }

    #[test]
    fn comments_of_all_three_kinds_are_skipped() {
        rewrites("// x\n{a:1,# y\r b:/* {z */2} /**/ //", r#"{"a":1,"b":2}"#);
        rewrites("{a:1//}\n}", r#"{"a":1}"#);
        rewrites("{'a//b':'#c /* d'}", r##"{"a//b":"#c /* d"}"##);
    }

    #[test]
    fn the_three_words_are_known_in_any_case() {
        rewrites("[TRUE,False,nULL,nil,truex]", r#"[true,false,null,"nil","truex"]"#);
    }

    #[test]
    fn missing_array_items_are_null() {
        rewrites("[,]", "[null,null]");
        rewrites("[1,]", "[1,null]");
        rewrites("[1,;2]", "[1,null,2]");
        rewrites("[[],[ ]]", "[[],[]]");
    }

    #[test]
    fn raw_newlines_and_control_characters_in_strings_are_escaped() {
        rewrites("{\"a\n\u{0}\":'\t\u{1f}\u{7f}'}", "{\"a\\u000a\\u0000\":\"\\u0009\\u001f\u{7f}\"}");
    }

    #[test]
    fn the_guard_prefix_is_skipped_once() {
        rewrites(")]}'\n{a:1}", r#"{"a":1}"#);
        rewrites(" /* x */ )]}'\n[1]", "[1]");
    }

    #[test]
    fn escapes_are_kept_and_escaped_quotes_and_newlines_made_strict() {
        rewrites(r#"['\'\"\\\/\b\f\n\r\t\u00e9']"#, r#"["'\"\\\/\b\f\n\r\t\u00e9"]"#);
        rewrites("['a\\\nb']", r#"["a\nb"]"#);
    }

    #[test]
    fn bare_tokens_are_numbers_only_by_the_grammar_of_json() {
        rewrites("[-0,1.50,1E+1,9223372036854775808]", "[-0,1.50,1E+1,9223372036854775808]");
        rewrites(
            "[007,+5,.5,25C,1.,0x10,-,nan,INFINITY]",
            r#"["007","+5",".5","25C","1.","0x10","-","nan","INFINITY"]"#,
        );
    }

    #[test]
    fn nesting_is_allowed_down_to_the_limit() {
        let text = format!("{}{}", "[".repeat(JSON_MESSAGE_DEPTH_MAX), "]".repeat(JSON_MESSAGE_DEPTH_MAX));
        assert_eq!(to_strict(&text), Ok(text));
    }

    #[test]
    fn each_broken_rule_is_named_with_its_place() {
        for (text, at, problem) in [
            ("", 0, Problem::ExpectedValue),
            ("/* */ ", 6, Problem::ExpectedValue),
            ("{a:}", 3, Problem::ExpectedValue),
            ("{a:,b:1}", 3, Problem::ExpectedValue),
            ("[:]", 1, Problem::ExpectedValue),
            ("{a:1,}", 5, Problem::ExpectedName),
            ("{,}", 1, Problem::ExpectedName),
            ("{", 1, Problem::ExpectedName),
            ("{a}", 2, Problem::ExpectedColon),
            ("{a b:1}", 3, Problem::ExpectedColon),
            ("{a:x y}", 5, Problem::UnclosedObject),
            ("{a:1", 4, Problem::UnclosedObject),
            ("{a:1\x0c}", 4, Problem::UnclosedObject),
            ("[1 2]", 3, Problem::UnclosedArray),
            ("[1", 2, Problem::UnclosedArray),
            ("[", 1, Problem::ExpectedValue),
            ("['a", 3, Problem::UnclosedString),
            ("['a\\", 4, Problem::UnclosedString),
            ("[\"a'", 4, Problem::UnclosedString),
            ("{a:1 /* }", 5, Problem::UnclosedComment),
            ("['\\x']", 2, Problem::UnknownEscape),
            ("['\\u12g4']", 2, Problem::UnknownEscape),
            ("['\\u12", 2, Problem::UnknownEscape),
            ("['\\é']", 2, Problem::UnknownEscape),
            ("{a:1}}", 5, Problem::TrailingData),
            ("{a:1} {b:2}", 6, Problem::TrailingData),
            ("a:1", 1, Problem::TrailingData),
            (")]}'{a:1}", 1, Problem::TrailingData),
            (")]}'\n)]}'\n1", 6, Problem::TrailingData),
            ("[NaN]", 1, Problem::NotFinite),
            ("{a:Infinity}", 3, Problem::NotFinite),
            ("{a:-Infinity}", 3, Problem::NotFinite),
        ] {
            assert_eq!(to_strict(text), Err(LenientError { at, problem }), "{text}");
        }
        for bracket in ["[", "{a:"] {
            let at = bracket.len() * JSON_MESSAGE_DEPTH_MAX;
            assert_eq!(
                to_strict(&bracket.repeat(100_000)),
                Err(LenientError { at, problem: Problem::TooDeep })
            );
        }
    }

    #[test]
    fn a_message_says_what_is_wrong_and_where() {
        let words = |text: &str| to_strict(text).expect_err(text).to_string();
        assert_eq!(words("{a:1,}"), "a name is missing at byte 5");
        assert_eq!(words(&"[".repeat(20)), "nesting goes beyond 19 levels at byte 19");
    }

    fn rewrites(text: &str, strict: &str) {
        assert_eq!(to_strict(text).as_deref(), Ok(strict), "{text}");
        serde_json::from_str::<serde_json::Value>(strict).expect(strict);
    }
}
