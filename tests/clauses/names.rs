//! Names of tests, and the clauses they carry.
//!
//! ```text
//! .._mqtt_3_1_0_1                       3.1.1's clause of this number; 5.0's if 3.1.1 has none
//! .._mqtt_3_2_2_1_of_5_0                5.0's
//! .._mqtt_4_7_3_1_to_3_and_4_7_1_1      several
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::list::Id;

/// A clause a test's name carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Its number.
    pub id: Id,
    /// Whether the name says that it is 5.0's.
    pub of_5_0: bool,
}

/// The names of all tests in the Rust sources below `dir`, sorted; `except` is left out.
pub fn tests_below(dir: &Path, except: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path: PathBuf = entry.expect("an entry").path();
        if path == except {
            continue;
        }
        if path.is_dir() {
            names.extend(tests_below(&path, except));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(tests_in(&fs::read_to_string(&path).expect("a source file")));
        }
    }
    names.sort();
    names
}

/// The names of the functions behind a `#[test]`.
pub fn tests_in(source: &str) -> Vec<String> {
    let behind = source.split("#[test]").skip(1);
    let name = |code: &str| {
        let code = code.split_once("fn ")?.1;
        code.split_once('(').map(|(name, _)| name.trim().to_owned())
    };
    behind.filter_map(name).collect()
}

/// The clauses in the name of a test.
pub fn mentions(name: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let starts = name.match_indices("mqtt_").filter(|(at, _)| *at == 0 || name[..*at].ends_with('_'));
    for (at, prefix) in starts {
        found.extend(mentions_at(&name[at + prefix.len()..]));
    }
    found
}

/// The clauses in a list of numbers; none if `text` does not begin with one.
fn mentions_at(text: &str) -> Vec<Mention> {
    let mut ids = Vec::new();
    let mut rest = text;
    while let Some((id, after)) = id_at(rest) {
        ids.push(id);
        rest = after;
        if let Some((last, after)) = rest.strip_prefix("_to_").and_then(number_at) {
            let Id([chapter, section, subsection, first]) = id;
            ids.extend((first + 1..=last).map(|number| Id([chapter, section, subsection, number])));
            rest = after;
        }
        match rest.strip_prefix("_and_") {
            Some(next) => rest = next,
            None => break,
        }
    }
    let of_5_0 = rest.starts_with("_of_5_0");
    ids.into_iter().map(|id| Mention { id, of_5_0 }).collect()
}

fn id_at(text: &str) -> Option<(Id, &str)> {
    let (chapter, rest) = number_at(text)?;
    let (section, rest) = number_at(rest.strip_prefix('_')?)?;
    let (subsection, rest) = number_at(rest.strip_prefix('_')?)?;
    let (number, rest) = number_at(rest.strip_prefix('_')?)?;
    Some((Id([chapter, section, subsection, number]), rest))
}

fn number_at(text: &str) -> Option<(u16, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}
