//! What README.md says about `[limits]` is what the program does.

use forebay::limits::Limits;

const README: &str = include_str!("../README.md");

/// The rows of the table, without its head.
fn rows() -> Vec<&'static str> {
    let (_, table) = README.split_once("| name | default | from | to |").expect("the table of limits");
    table.lines().skip(2).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn every_limit_has_its_row_with_default_range_and_meaning_and_nothing_else_has() {
    let expected: Vec<String> = Limits::KNOBS
        .iter()
        .map(|knob| {
            let (name, meaning) = (knob.name, knob.doc.trim());
            format!("| `{name}` | {} | {} | {} | {meaning} |", knob.default, knob.min, knob.max)
        })
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(rows(), expected, "the rows README.md must have:\n{}", expected.join("\n"));
}
