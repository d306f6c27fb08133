//! Which statements of the standards have a test, which do not apply and why, and which still wait for one.
//!
//! The lists beside this file name every numbered statement of MQTT 3.1.1 and 5.0. A statement is tested if the name of
//! some test carries its number. A line that says otherwise than the tests do is a failure, so the list of what is open
//! is never longer than it must be, and a test that goes away is missed. `UPDATE_CLAUSES=1` strikes off the list of what
//! is open whatever is tested by now; nothing else is changed for anybody.

mod list;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, Write},
    path::Path,
};

use list::{Clause, Id, List, Standard, State};
use names::{Mention, mentions, tests_below, tests_in};

/// Both lists, and what the names of the tests say.
struct Survey {
    v311: List,
    v5: List,
    /// What is carried by some name, with one such name.
    named: BTreeMap<(Standard, Id), String>,
    /// Names that carry a number neither standard has.
    astray: Vec<String>,
}

impl Survey {
    fn of<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let v311 = List::read(Standard::V311, include_str!("v3_1_1.txt"));
        let v5 = List::read(Standard::V5, include_str!("v5_0.txt"));
        let mut survey = Self { v311, v5, named: BTreeMap::new(), astray: Vec::new() };
        for name in names {
            for mention in mentions(name) {
                match survey.resolve(&mention) {
                    Some(clause) => drop(survey.named.entry(clause).or_insert_with(|| name.clone())),
                    None => survey.astray.push(format!("{name} carries {}, which is no clause", mention.id)),
                }
            }
        }
        survey
    }

    fn resolve(&self, mention: &Mention) -> Option<(Standard, Id)> {
        if self.v311.has(mention.id) && !mention.of_5_0 {
            return Some((Standard::V311, mention.id));
        }
        self.v5.has(mention.id).then_some((Standard::V5, mention.id))
    }

    /// A test of the clause: its own, its twin's, or those of all twins together.
    fn test_of(&self, standard: Standard, clause: &Clause) -> Option<&String> {
        let own = self.named.get(&(standard, clause.id));
        let twins = || match standard {
            Standard::V5 => clause.twin.and_then(|twin| self.named.get(&(Standard::V311, twin))),
            Standard::V311 => {
                let parts = self.v5.clauses.iter().filter(|part| part.twin == Some(clause.id));
                let tests: Option<Vec<_>> =
                    parts.map(|part| self.named.get(&(Standard::V5, part.id))).collect();
                tests.and_then(|tests| tests.first().copied())
            }
        };
        own.or_else(twins)
    }

    /// What a line says otherwise than the tests do.
    fn complaint(&self, standard: Standard, clause: &Clause) -> Option<String> {
        let Clause { id, words, .. } = clause;
        match (self.test_of(standard, clause), &clause.state) {
            (Some(_), State::Tested) | (None, State::Open | State::Excused(_)) => None,
            (None, State::Tested) => Some(format!("{standard} {id} is tested by nothing any more: {words}")),
            (Some(test), State::Open) => Some(format!("{standard} {id} is open no longer: {test} tests it")),
            (Some(test), State::Excused(reason)) => {
                Some(format!("{standard} {id} is excused as `{reason}`, yet {test} tests it"))
            }
        }
    }
}

fn lists(survey: &Survey) -> [(Standard, &List); 2] {
    [(Standard::V311, &survey.v311), (Standard::V5, &survey.v5)]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_clause_is_tested_or_excused_or_on_the_list_of_what_is_open() {
    let ours = root().join("tests/clauses");
    let names: Vec<String> =
        ["src", "tests"].iter().flat_map(|dir| tests_below(&root().join(dir), &ours)).collect();
    assert!(names.len() > 100, "the tests are where they are expected");
    let survey = Survey::of(&names);
    if env::var_os("UPDATE_CLAUSES").is_some() {
        for (standard, list) in lists(&survey) {
            strike_off(&survey, standard, list);
        }
        panic!("the lists are up to date now, run the test again");
    }
    let mut complaints = survey.astray.clone();
    for (standard, list) in lists(&survey) {
        complaints.extend(list.clauses.iter().filter_map(|clause| survey.complaint(standard, clause)));
        tell(standard, list);
    }
    assert!(complaints.is_empty(), "tests/clauses says otherwise than the tests:\n{}", complaints.join("\n"));
}

/// Turns `open` into `tested` on the lines of clauses that have a test.
fn strike_off(survey: &Survey, standard: Standard, list: &List) {
    let path = root().join(match standard {
        Standard::V311 => "tests/clauses/v3_1_1.txt",
        Standard::V5 => "tests/clauses/v5_0.txt",
    });
    let done: BTreeSet<String> = list
        .clauses
        .iter()
        .filter(|clause| clause.state == State::Open && survey.test_of(standard, clause).is_some())
        .map(|clause| clause.id.to_string())
        .collect();
    let text = fs::read_to_string(&path).expect("the list is there");
    let updated: String = text
        .lines()
        .map(|line| match line.split(' ').next() {
            Some(id) if done.contains(id) => line.replacen(" open   ", " tested ", 1) + "\n",
            _ => format!("{line}\n"),
        })
        .collect();
    fs::write(&path, updated).expect("the list can be written");
}

/// Says how far it is, past the harness, which would swallow it.
fn tell(standard: Standard, list: &List) {
    let count = |wanted: fn(&State) -> bool| list.clauses.iter().filter(|c| wanted(&c.state)).count();
    let tested = count(|state| matches!(state, State::Tested));
    let open = count(|state| matches!(state, State::Open));
    let excused = count(|state| matches!(state, State::Excused(_)));
    // Nobody to tell: then nobody hears it.
    let _ = writeln!(
        io::stderr(),
        "MQTT {standard}: {} clauses, {tested} tested, {excused} do not apply, {open} open",
        list.clauses.len(),
    );
}

#[test]
fn the_lists_are_whole_and_in_order() {
    let survey = Survey::of([]);
    for ((standard, list), clauses) in lists(&survey).into_iter().zip([141, 251]) {
        assert_eq!(list.clauses.len(), clauses, "{standard}");
        assert!(list.clauses.is_sorted_by(|a, b| a.id < b.id), "{standard}: in order, each once");
    }
}

#[test]
fn every_twin_is_a_clause_of_3_1_1() {
    let survey = Survey::of([]);
    let strangers: Vec<Id> = survey
        .v5
        .clauses
        .iter()
        .filter_map(|clause| clause.twin)
        .filter(|twin| !survey.v311.has(*twin))
        .collect();
    assert_eq!(strangers, []);
}

#[test]
fn every_excuse_has_its_reason_and_every_reason_is_needed() {
    let survey = Survey::of([]);
    for (standard, list) in lists(&survey) {
        let used: BTreeSet<&String> = list
            .clauses
            .iter()
            .filter_map(|clause| match &clause.state {
                State::Excused(reason) => Some(reason),
                State::Tested | State::Open => None,
            })
            .collect();
        assert!(
            used.into_iter().eq(list.reasons.keys()),
            "{standard}: a reason is missing, or nobody has it"
        );
    }
}

#[test]
fn numbers_are_found_in_names() {
    let found = |name: &str| -> Vec<String> {
        mentions(name).iter().map(|m| format!("{}{}", m.id, if m.of_5_0 { " of 5.0" } else { "" })).collect()
    };
    assert_eq!(found("the_first_packet_must_be_connect_mqtt_3_1_0_1"), ["3.1.0-1"]);
    assert_eq!(found("what_is_not_mqtt_is_refused_mqtt_3_1_2_1"), ["3.1.2-1"]);
    assert_eq!(found("x_mqtt_4_7_3_1_to_3_and_4_7_1_1"), ["4.7.3-1", "4.7.3-2", "4.7.3-3", "4.7.1-1"]);
    assert_eq!(found("x_mqtt_3_2_2_1_of_5_0"), ["3.2.2-1 of 5.0"]);
    assert_eq!(found("x_mqtt_3_1_4_2_mqtt_3_1_4_3_of_5_0"), ["3.1.4-2", "3.1.4-3 of 5.0"]);
    assert_eq!(found("mqtt_4_12_0_1_closes"), ["4.12.0-1"]);
    assert_eq!(found("a_level_of_mqtt_3_1_is_served"), [""; 0]);
    assert_eq!(found("xmqtt_3_1_0_1"), [""; 0]);
}

#[test]
fn only_functions_behind_test_are_tests() {
    let source = "fn helper_mqtt_3_1_0_1() {}\n#[test]\n#[ignore]\nfn a_mqtt_3_1_0_2() {}\n    #[test]\n    fn b(){}\n";
    assert_eq!(tests_in(source), ["a_mqtt_3_1_0_2", "b"]);
}

#[test]
fn one_test_covers_the_rule_in_both_standards() {
    let survey = Survey::of([&"x_mqtt_3_1_2_24".to_owned()]);
    let keep_alive = |list: &List, id| list.clauses.iter().find(|c| c.id == id).cloned().expect("listed");
    let (old, new) = (Id([3, 1, 2, 24]), Id([3, 1, 2, 22]));
    assert!(survey.test_of(Standard::V311, &keep_alive(&survey.v311, old)).is_some());
    assert!(survey.test_of(Standard::V5, &keep_alive(&survey.v5, new)).is_some());
    let another = keep_alive(&survey.v5, old);
    assert!(survey.test_of(Standard::V5, &another).is_none(), "5.0 has this number for another rule");
}

#[test]
fn half_of_a_rule_of_3_1_1_is_not_the_whole() {
    let clause = |survey: &Survey| {
        survey.v311.clauses.iter().find(|c| c.id == Id([3, 1, 2, 4])).cloned().expect("listed")
    };
    let half = Survey::of([&"x_mqtt_3_1_2_5_of_5_0".to_owned()]);
    assert!(half.test_of(Standard::V311, &clause(&half)).is_none());
    let whole = Survey::of([&"x_mqtt_3_1_2_5_and_3_1_2_6_of_5_0".to_owned()]);
    assert!(whole.test_of(Standard::V311, &clause(&whole)).is_some());
}

#[test]
fn a_line_that_says_otherwise_than_the_tests_is_complained_of() {
    let survey = Survey::of([&"x_mqtt_3_1_0_1".to_owned(), &"y_mqtt_9_9_9_9".to_owned()]);
    assert_eq!(survey.astray.len(), 1);
    let complaint = |id, state| {
        let clause = Clause { id, twin: None, state, words: "w".to_owned() };
        survey.complaint(Standard::V311, &clause).is_some()
    };
    let (named, unnamed) = (Id([3, 1, 0, 1]), Id([3, 1, 0, 2]));
    let excused = || State::Excused("client".to_owned());
    assert!(!complaint(named, State::Tested) && complaint(unnamed, State::Tested));
    assert!(complaint(named, State::Open) && !complaint(unnamed, State::Open));
    assert!(complaint(named, excused()) && !complaint(unnamed, excused()));
}
