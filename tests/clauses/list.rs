//! The lists of clauses, `v3_1_1.txt` and `v5_0.txt`, and what they say of each.

use std::{collections::BTreeMap, fmt};

/// A standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standard {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// The number of a statement: `3.1.0-1` is chapter 3, section 1.0, statement 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub [u16; 4]);

/// What the list says of a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Some test carries its id.
    Tested,
    /// A test is still to be written.
    Open,
    /// It does not apply, for the reason of this name.
    Excused(String),
}

/// One line of a list.
#[derive(Clone, Debug)]
pub struct Clause {
    /// Its number in its standard.
    pub id: Id,
    /// The same rule in 3.1.1, for a clause of 5.0 that has one.
    pub twin: Option<Id>,
    /// What is said of it.
    pub state: State,
    /// What it asks for.
    pub words: String,
}

/// A list, read.
#[derive(Debug, Default)]
pub struct List {
    /// Its clauses, in the order of their lines.
    pub clauses: Vec<Clause>,
    /// Reasons why a clause need not apply, by name.
    pub reasons: BTreeMap<String, String>,
}

impl Id {
    /// Reads `3.1.0-1`.
    pub fn parse(text: &str) -> Option<Self> {
        let (section, number) = text.split_once('-')?;
        let mut parts = section.split('.').chain([number]).map(|part| part.parse().ok());
        let id = Self([parts.next()??, parts.next()??, parts.next()??, parts.next()??]);
        parts.next().is_none().then_some(id)
    }
}

impl List {
    /// Reads a list of `standard`.
    ///
    /// # Panics
    /// At the first line that is neither a clause, a reason, a comment nor empty.
    pub fn read(standard: Standard, text: &str) -> Self {
        let mut list = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix("= ") {
                Some(reason) => {
                    let (name, words) = reason.split_once(' ').expect("a reason has a name and says why");
                    list.reasons.insert(name.to_owned(), words.trim().to_owned());
                }
                None => list.clauses.push(
                    clause(standard, line).unwrap_or_else(|| panic!("{standard} list, not a clause: {line}")),
                ),
            }
        }
        list
    }

    /// Whether there is a clause of this number.
    pub fn has(&self, id: Id) -> bool {
        self.clauses.iter().any(|clause| clause.id == id)
    }
}

fn clause(standard: Standard, line: &str) -> Option<Clause> {
    let mut rest = line;
    let id = Id::parse(word(&mut rest)?)?;
    let twin = match standard {
        Standard::V311 => None,
        Standard::V5 => match word(&mut rest)? {
            "-" => None,
            twin => Some(Id::parse(twin)?),
        },
    };
    let state = match word(&mut rest)? {
        "tested" => State::Tested,
        "open" => State::Open,
        reason => State::Excused(reason.to_owned()),
    };
    let words = rest.trim();
    (!words.is_empty()).then(|| Clause { id, twin, state, words: words.to_owned() })
}

/// Takes the first word off `rest`.
fn word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (word, after) = rest.trim_start().split_once(' ')?;
    *rest = after;
    Some(word)
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([chapter, section, subsection, number]) = self;
        write!(f, "{chapter}.{section}.{subsection}-{number}")
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
