use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::mqtt::QoS;

fn name(text: &str) -> TopicName<'_> {
    TopicName::parse(text).expect(text)
}

fn message(topic: &str, payload: &str) -> Arc<Message> {
    Arc::new(Message::new(name(topic), payload.as_bytes(), QoS::AtLeastOnce))
}

fn mortal(topic: &str, seconds: u64) -> Arc<Message> {
    let message = Message::new(name(topic), b"", QoS::AtLeastOnce);
    Arc::new(message.living(Some(Duration::from_secs(seconds)), Mono(0)))
}

fn at(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000)
}

fn retaining(topics: &[&str]) -> RetainedMessages {
    let mut retained = RetainedMessages::default();
    for topic in topics {
        retained.insert(message(topic, ""), &Limits::default()).expect("room");
    }
    retained
}

fn found(retained: &RetainedMessages, filter: &str) -> Vec<String> {
    let mut found = Vec::new();
    retained.for_each_match(TopicFilter::parse(filter).expect(filter), |message| {
        found.push(message.topic().as_str().to_owned());
    });
    found
}

/// How many nodes a look-up goes to, and how many messages it finds.
fn visited(retained: &RetainedMessages, filter: &str) -> (usize, usize) {
    let mut count = 0;
    let nodes = retained.walk(TopicFilter::parse(filter).expect(filter), |_| count += 1);
    (nodes, count)
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound) as usize
    }

    fn path(&mut self, levels: &[&str]) -> String {
        let count = 1 + self.below(4);
        let path = (0..count).map(|_| levels[self.below(levels.len() as u64)]).collect::<Vec<_>>().join("/");
        if path.is_empty() { "/".to_owned() } else { path }
    }
}

#[test]
fn a_topic_has_one_message_and_the_newest_replaces_it() {
    let (mut retained, limits) = (RetainedMessages::default(), Limits::default());
    assert_eq!(retained.insert(message("a/b", "1"), &limits), Ok(None));
    assert_eq!(retained.insert(message("a/b", "22"), &limits), Ok(Some(message("a/b", "1"))));
    assert_eq!(retained.insert(message("a", "3"), &limits), Ok(None));
    assert_eq!(retained.get(name("a/b")), Some(&message("a/b", "22")));
    assert_eq!(retained.get(name("a/b/")), None);
    assert_eq!(retained.len(), 2);
    assert_eq!(retained.remove(name("a/b")), Some(message("a/b", "22")));
    assert_eq!(retained.remove(name("a/b")), None);
    assert_eq!(retained.get(name("a")), Some(&message("a", "3")));
    retained.check_invariants();
}

#[test]
fn a_hash_finds_its_parent_and_everything_below_it_mqtt_4_7_1_2() {
    let retained = retaining(&["sport", "sport/tennis", "sport/tennis/score", "sporting", "/sport"]);
    assert_eq!(found(&retained, "sport/#"), ["sport", "sport/tennis", "sport/tennis/score"]);
    assert_eq!(found(&retained, "sport/tennis/#"), ["sport/tennis", "sport/tennis/score"]);
    assert_eq!(found(&retained, "#").len(), 5);
}

#[test]
fn a_plus_finds_one_level_and_an_empty_one_is_a_level_mqtt_4_7_1_3() {
    let retained = retaining(&["a", "a/", "a/b", "a/b/c", "/b", "/"]);
    assert_eq!(found(&retained, "a/+"), ["a/", "a/b"]);
    assert_eq!(found(&retained, "+"), ["a"]);
    assert_eq!(found(&retained, "+/+"), ["/", "/b", "a/", "a/b"]);
    assert_eq!(found(&retained, "+/b/#"), ["/b", "a/b", "a/b/c"]);
}

#[test]
fn wildcards_at_the_start_do_not_find_dollar_topics_mqtt_4_7_2_1() {
    let retained = retaining(&["$SYS", "$SYS/uptime", "hall", "hall/$x", "$/y"]);
    assert_eq!(found(&retained, "#"), ["hall", "hall/$x"]);
    assert_eq!(found(&retained, "+"), ["hall"]);
    assert_eq!(found(&retained, "+/uptime"), [""; 0]);
    assert_eq!(found(&retained, "$SYS/#"), ["$SYS", "$SYS/uptime"]);
    assert_eq!(found(&retained, "$SYS/+"), ["$SYS/uptime"]);
    assert_eq!(found(&retained, "hall/+"), ["hall/$x"]);
    assert_eq!(found(&retained, "$/#"), ["$/y"]);
}

#[test]
fn a_shared_subscription_finds_nothing_retained() {
    let retained = retaining(&["a", "$share/g/a", "g/a"]);
    assert_eq!(found(&retained, "$share/g/a"), [""; 0]);
    assert_eq!(found(&retained, "$share/g/#"), [""; 0]);
    assert_eq!(found(&retained, "$share/g"), [""; 0]);
}

#[test]
fn it_finds_what_comparing_with_every_topic_finds_in_a_stable_order() {
    let mut chance = Chance(11);
    for round in 0..100 {
        let mut retained = RetainedMessages::default();
        let limits = Limits { retained_messages: 25, ..Limits::default() };
        let mut model: BTreeMap<String, Arc<Message>> = BTreeMap::new();
        let mut time = 0;
        for step in 0..150 {
            let topic = chance.path(&["a", "b", "", "$x", "c"]);
            match chance.below(4) {
                0 => assert_eq!(retained.remove(name(&topic)), model.remove(&topic), "{topic}"),
                1 if chance.below(5) == 0 => {
                    time += 1;
                    let mut gone = retained.take_expired(at(time));
                    gone.sort_unstable();
                    let expected: Vec<Box<str>> = model
                        .extract_if(.., |_, message| message.is_expired(at(time)))
                        .map(|(topic, _)| topic.into())
                        .collect();
                    assert_eq!(gone, expected);
                }
                kind => {
                    let payload = format!("{round} {step}");
                    let span = (kind == 2).then(|| Duration::from_secs(chance.below(6) as u64));
                    let message = Message::new(name(&topic), payload.as_bytes(), QoS::AtLeastOnce);
                    let message = Arc::new(message.living(span, at(time)));
                    let is_full = model.len() == 25 && !model.contains_key(&topic);
                    let replaced = if is_full {
                        Err(Full::Messages)
                    } else {
                        Ok(model.insert(topic.clone(), message.clone()))
                    };
                    assert_eq!(retained.insert(message, &limits), replaced, "{topic}");
                }
            }
            assert_eq!(retained.len(), model.len());
            assert_eq!(retained.next_expiry(), model.values().filter_map(|message| message.expires()).min());
        }
        retained.check_invariants();
        let mut in_order: Vec<&String> = model.keys().collect();
        in_order.sort_by_key(|topic| topic.split('/').collect::<Vec<_>>());
        for _ in 0..100 {
            let filter = match chance.below(20) {
                0 => "#".to_owned(),
                _ => chance.path(&["a", "b", "", "+", "$x", "+"]) + ["", "/#"][chance.below(2)],
            };
            let parsed = TopicFilter::parse(&filter).expect(&filter);
            let expected: Vec<&String> =
                in_order.iter().copied().filter(|topic| parsed.matches(name(topic))).collect();
            assert_eq!(found(&retained, &filter).iter().collect::<Vec<_>>(), expected, "{filter}");
        }
        for topic in model.keys() {
            retained.remove(name(topic));
        }
        retained.check_invariants();
        assert!(retained.is_empty() && retained.bytes() == 0 && retained.nodes[0].leads_nowhere());
    }
}

#[test]
fn beyond_the_number_of_messages_only_replacements_are_taken() {
    let limits = Limits { retained_messages: 2, ..Limits::default() };
    let mut retained = RetainedMessages::default();
    for topic in ["a", "b"] {
        assert_eq!(retained.insert(message(topic, ""), &limits), Ok(None));
    }
    assert_eq!(retained.insert(message("c/d", ""), &limits), Err(Full::Messages));
    assert!(retained.insert(message("a", "new"), &limits).is_ok());
    retained.remove(name("b"));
    assert_eq!(retained.insert(message("c/d", ""), &limits), Ok(None));
    retained.check_invariants();
}

#[test]
fn beyond_the_bytes_nothing_is_taken_and_what_was_to_be_replaced_stays() {
    let limits = Limits { retained_bytes: 1024, ..Limits::default() };
    let mut retained = RetainedMessages::default();
    let (small, large) = (message("a", &"x".repeat(500)), message("a", &"x".repeat(900)));
    assert_eq!(retained.insert(small.clone(), &limits), Ok(None));
    let before = retained.bytes();
    assert_eq!(retained.insert(message("b/c", &"x".repeat(500)), &limits), Err(Full::Bytes));
    assert_eq!(retained.insert(large, &limits), Err(Full::Bytes));
    assert_eq!(retained.get(name("a")), Some(&small));
    assert_eq!(retained.bytes(), before);
    retained.check_invariants();
}

#[test]
fn levels_without_a_name_count_as_memory_as_well() {
    let mut retained = RetainedMessages::default();
    retained.insert(message(&"/".repeat(31), ""), &Limits::default()).expect("room");
    assert_eq!(retained.nodes.len(), 33);
    assert!(retained.bytes() >= 32 * LEVEL_BYTES);
    let node = std::mem::size_of::<Node>();
    assert!(
        LEVEL_BYTES >= 2 * node,
        "a vector may have twice the room it needs, and a node has {node} bytes"
    );
}

#[test]
fn messages_expire_in_the_order_of_their_time_and_no_others() {
    let (mut retained, limits) = (retaining(&["stays"]), Limits::default());
    for (topic, seconds) in [("c", 30), ("a/b", 10), ("a", 20), ("later", 10), ("gone", 5), ("forever", 5)] {
        retained.insert(mortal(topic, seconds), &limits).expect("room");
    }
    retained.insert(mortal("later", 40), &limits).expect("room");
    retained.insert(message("forever", ""), &limits).expect("room");
    retained.remove(name("gone"));
    assert_eq!(retained.next_expiry(), Some(at(10)));
    assert_eq!(retained.take_expired(at(9)), []);
    assert_eq!(retained.take_expired(at(20)), ["a/b".into(), "a".into()]);
    assert_eq!(retained.next_expiry(), Some(at(30)));
    assert_eq!(retained.take_expired(at(100)), ["c".into(), "later".into()]);
    assert_eq!(retained.next_expiry(), None);
    assert_eq!(found(&retained, "#"), ["forever", "stays"]);
    retained.check_invariants();
}

#[test]
fn a_look_up_goes_to_no_node_of_a_hundred_thousand_unrelated_topics() {
    let limits = Limits { retained_messages: 200_000, retained_bytes: 1 << 30, ..Limits::default() };
    let mut retained = RetainedMessages::default();
    for topic in ["site/hall/temp", "site/roof/temp", "site/roof/wind/gusts", "$SYS/uptime"] {
        retained.insert(message(topic, ""), &limits).expect("room");
    }
    let filters = ["site/hall/temp", "site/+/temp", "site/#", "site/roof/+/+", "site/none/#", "$SYS/#"];
    let before: Vec<_> = filters.iter().map(|filter| visited(&retained, filter)).collect();
    for n in 0..50_000 {
        retained.insert(message(&format!("{n}/roof/temp"), ""), &limits).expect("room");
        retained.insert(message(&format!("other/{n}/temp"), ""), &limits).expect("room");
    }
    let after: Vec<_> = filters.iter().map(|filter| visited(&retained, filter)).collect();
    assert_eq!(after, before);
    assert_eq!(after, [(4, 1), (6, 2), (8, 3), (6, 1), (2, 0), (3, 1)]);
    assert_eq!(visited(&retained, "other/#"), (100_002, 50_000));
    retained.check_invariants();
}

#[test]
fn a_topic_of_very_many_levels_needs_no_stack() {
    let topic = "/".repeat(60_000);
    let mut retained = RetainedMessages::default();
    let limits = Limits { retained_bytes: 1 << 30, ..Limits::default() };
    retained.insert(message(&topic, ""), &limits).expect("room");
    assert_eq!(found(&retained, "#").len(), 1);
    assert_eq!(found(&retained, &("+/".repeat(30_000) + "#")).len(), 1);
    retained.remove(name(&topic));
    retained.check_invariants();
    assert_eq!(retained.nodes.len(), retained.free.len() + 1);
}

#[test]
fn nothing_is_left_after_clearing() {
    let mut retained = retaining(&["a/b", "c"]);
    retained.insert(mortal("d", 1), &Limits::default()).expect("room");
    retained.clear();
    assert!(retained.is_empty());
    assert_eq!((retained.len(), retained.bytes(), retained.next_expiry()), (0, 0, None));
    assert_eq!(found(&retained, "#"), [""; 0]);
}
