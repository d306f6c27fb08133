//! The floors of the house hold: imports point down only, and what is pure stays pure.
//!
//! Reads the sources as text: `use` lines, paths, and a few banned words. It protects determinism, not taste: the same
//! seed must give the same trace, so clocks, chance, sockets, files and the environment stay on the upper floors.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The floors, lowest first; modules of one row do not know each other unless the row says so.
const FLOORS: &[(&[&str], Neighbours)] = &[
    (&["clock", "ids", "record", "identity", "limits", "byte_queue", "report"], Neighbours::Know),
    (&["mqtt"], Neighbours::Strangers),
    (&["device_api"], Neighbours::Strangers),
    (&["session", "uplink"], Neighbours::Strangers),
    (&["broker"], Neighbours::Strangers),
    (&["whole_file"], Neighbours::Strangers),
    (&["net", "store"], Neighbours::Strangers),
    (&["event_loop"], Neighbours::Strangers),
    (&["config", "cli"], Neighbours::Know),
    (&["main", "lib"], Neighbours::Know),
];

/// The lowest floor that may touch the world.
const FIRST_IMPURE: &str = "whole_file";

/// A crate, and the only modules that may name it.
const CRATES: &[(&str, &[&str])] =
    &[("mio", &["net", "event_loop"]), ("rustls", &["net"]), ("rusqlite", &["store"])];

/// What reads a clock, chance or the environment, and the only modules that may.
const SOURCES_OF_CHANCE: &[(&str, &[&str])] = &[
    ("SystemTime", &["net", "cli", "main"]),
    ("std::env", &["net", "cli", "main"]),
    ("getrandom::", &["net", "cli", "main"]),
    ("rand::", &["net", "cli", "main"]),
    // The store bounds how long it waits for the card or for another process; no row and no order comes from that.
    ("Instant::now", &["net", "cli", "main", "store"]),
];

/// What nothing under the line may name.
const IMPURE: &[&str] = &[
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::fs",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::process",
    "std::thread",
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "rustix::",
    "socket2::",
    "signal_hook::",
    "rtime_clock::",
    "sd_notify::",
    "if_addrs::",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Neighbours {
    Know,
    Strangers,
}

#[test]
fn every_source_file_keeps_to_its_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src);
    assert!(files.len() > 10, "the sources are where they are expected");
    let broken: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let place = path.strip_prefix(&src).expect("it was found there");
            violations(place, &fs::read_to_string(path).expect("a source file"))
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn an_import_that_points_up_is_noticed() {
    let up = |place: &str, text: &str| violations(Path::new(place), text);
    assert_eq!(up("mqtt/frame.rs", "use crate::{clock::Now, session::Session};\n").len(), 1);
    assert_eq!(up("session/mod.rs", "use super::uplink::Uplink;\n").len(), 1);
    assert_eq!(up("session/states/active.rs", "use super::super::super::broker::Broker;\n").len(), 1);
    assert_eq!(up("net/tls.rs", "fn f() { crate::store::open(); }\n").len(), 1);
    assert_eq!(up("store/mod.rs", "use forebay::net::tls::Session;\n").len(), 1);
    assert_eq!(up("broker/mod.rs", "use crate::{session::Session, mqtt::{frame, packet}};\n"), [""; 0]);
    assert_eq!(up("session/mod.rs", "use super::mqtt::Packet;\nuse crate::session::inflight;\n"), [""; 0]);
    assert_eq!(up("attic/mod.rs", "").len(), 1, "a module without a floor is asked to name one");
}

#[test]
fn a_banned_word_under_the_line_is_noticed() {
    let found = |place: &str, text: &str| violations(Path::new(place), text).len();
    assert_eq!(found("broker/mod.rs", "use std::{fmt, fs, collections::BTreeMap};\n"), 1);
    assert_eq!(found("session/mod.rs", "let now = Instant::now();\n"), 1);
    assert_eq!(found("store/mod.rs", "let now = std::time::SystemTime::now();\n"), 1);
    assert_eq!(found("mqtt/frame.rs", "println!(\"here\");\n"), 1);
    assert_eq!(found("cli/serve.rs", "use rusqlite::Connection;\n"), 1);
    assert_eq!(found("store/mod.rs", "use rusqlite::Connection;\nuse std::fs;\n"), 0);
    assert_eq!(found("broker/mod.rs", "use std::net::{IpAddr, SocketAddr};\n"), 0);
}

#[test]
fn comments_and_unit_tests_may_say_anything() {
    let text = "// see std::fs\n/// or rusqlite::Connection\nfn f() {}\n\n#[cfg(test)]\nmod tests { use std::fs; }\n";
    assert_eq!(violations(Path::new("mqtt/frame.rs"), text), [""; 0]);
}

fn violations(place: &Path, text: &str) -> Vec<String> {
    let parts: Vec<String> =
        place.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.iter().any(|part| part == "tests") {
        return Vec::new();
    }
    let module = parts[0].as_str();
    let Some(floor) = floor_of(module) else {
        return vec![format!(
            "{}: module `{module}` has no floor; give it one in tests/house.rs",
            place.display()
        )];
    };
    let code = code_only(text);
    let imports = imported_paths(&code);
    let mut broken = Vec::new();
    for target in crate_modules(&parts, &code, &imports) {
        if let Some(theirs) = floor_of(&target) {
            let level = theirs == floor && (target == module || FLOORS[floor].1 == Neighbours::Know);
            if !level && theirs >= floor {
                broken.push(format!("{}: `{module}` may not know `{target}`", place.display()));
            }
        }
    }
    let says = |word: &str| imports.iter().any(|path| starts_with_word(path, word)) || has_word(&code, word);
    for (name, allowed) in CRATES {
        if !allowed.contains(&module) && says(&format!("{name}::")) {
            broken.push(format!("{}: {name} belongs to {allowed:?}", place.display()));
        }
    }
    for (word, allowed) in SOURCES_OF_CHANCE {
        if !allowed.contains(&module) && says(word) {
            broken.push(format!("{}: `{word}` is read in {allowed:?} only", place.display()));
        }
    }
    if floor < floor_of(FIRST_IMPURE).expect("it is in the table") {
        for word in IMPURE.iter().filter(|word| says(word)) {
            broken.push(format!("{}: `{word}` has no place under the line", place.display()));
        }
    }
    broken
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|(modules, _)| modules.contains(&module))
}

/// The text without line comments and without the unit tests at its end.
fn code_only(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod ").next().expect("split gives at least one part");
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every path of every `use`, groups written out.
fn imported_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let starts = code.match_indices("use ").filter(|(at, _)| {
        let before = code[..*at].rsplit('\n').next().expect("at least one part").trim_start();
        before.is_empty() || before.starts_with("pub")
    });
    for (at, word) in starts {
        if let Some((tree, _)) = code[at + word.len()..].split_once(';') {
            expand("", tree, &mut paths);
        }
    }
    paths
}

fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        Some((head, group)) if tree.ends_with('}') => {
            let prefix = format!("{prefix}{}", head.trim());
            for branch in split_at_top(&group[..group.len() - 1]) {
                expand(&prefix, branch, paths);
            }
        }
        _ if tree.is_empty() => {}
        _ => paths.push(format!("{prefix}{tree}")),
    }
}

/// Splits at the commas that stand in no inner group.
fn split_at_top(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts
}

/// The modules of this crate a file names, whether through `crate::` or through `super::` from high enough up.
fn crate_modules(parts: &[String], code: &str, imports: &[String]) -> Vec<String> {
    let depth = if parts.last().is_some_and(|name| name == "mod") { parts.len() - 1 } else { parts.len() };
    let to_the_top = "super::".repeat(depth);
    // The binary's own modules call the library by its name.
    let mut roots = vec!["crate::".to_owned(), "forebay::".to_owned()];
    if depth > 0 {
        roots.push(to_the_top);
    }
    let mut found: Vec<String> = Vec::new();
    for root in &roots {
        let inline = code.match_indices(root.as_str()).filter(|(at, _)| {
            !code[..*at].ends_with("super::")
                && !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
        });
        found.extend(inline.filter_map(|(at, _)| first_word(&code[at + root.len()..])));
        found.extend(imports.iter().filter_map(|path| first_word(path.strip_prefix(root.as_str())?)));
    }
    found.sort();
    found.dedup();
    found
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

fn starts_with_word(path: &str, word: &str) -> bool {
    path.strip_prefix(word).is_some_and(|rest| {
        word.ends_with("::") || !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

/// Whether `word` stands in `code` with nothing of an identifier or a path before it.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = &code[..at];
        let after = &code[at + word.len()..];
        let open = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let deeper = before.ends_with("::") && word.ends_with("::");
        let longer = !word.ends_with(':') && after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        !open && !deeper && !longer
    })
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
