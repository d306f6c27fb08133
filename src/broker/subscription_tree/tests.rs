use super::*;
use crate::mqtt::QoS;

const TERMS: Terms =
    Terms { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, identifier: None };

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text).expect(text)
}

fn found(tree: &mut SubscriptionTree, topic: &str) -> Vec<u32> {
    let mut found = Vec::new();
    tree.for_each(TopicName::parse(topic).expect(topic), |subscriber, _| found.push(subscriber.0));
    found.sort_unstable();
    found
}

fn taken(tree: &mut SubscriptionTree, topic: &str) -> Vec<u32> {
    let mut taken = Vec::new();
    tree.for_each_group(TopicName::parse(topic).expect(topic), |group| {
        taken.extend(group.next_member(|_, _| true).map(|(subscriber, _)| subscriber.0));
    });
    taken
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound) as usize
    }

    fn path(&mut self, levels: &[&str]) -> String {
        let count = 1 + self.below(4);
        (0..count).map(|_| levels[self.below(levels.len() as u64)]).collect::<Vec<_>>().join("/")
    }
}

#[test]
fn it_finds_what_comparing_with_every_filter_finds() {
    let mut chance = Chance(7);
    for _ in 0..200 {
        let mut tree = SubscriptionTree::default();
        let mut filters = Vec::new();
        for subscriber in 0..20 {
            let mut text = chance.path(&["a", "b", "", "+", "$x", "+"]) + ["", "/#"][chance.below(2)];
            if text.is_empty() {
                text.push('#');
            }
            tree.insert(filter(&text), SessionSlot(subscriber), TERMS);
            filters.push(text);
        }
        for gone in [3, 11] {
            assert!(tree.remove(filter(&filters[gone]), SessionSlot(gone as u32)));
            assert!(!tree.remove(filter(&filters[gone]), SessionSlot(gone as u32)));
        }
        tree.check_invariants();
        for _ in 0..50 {
            let topic = chance.path(&["a", "b", "", "$x", "c"]);
            let Ok(name) = TopicName::parse(&topic) else { continue };
            let by_comparing: Vec<u32> = (0..20u32)
                .filter(|n| ![3, 11].contains(n) && filter(&filters[*n as usize]).matches(name))
                .collect();
            assert_eq!(found(&mut tree, &topic), by_comparing, "{topic} {filters:?}");
        }
    }
}

#[test]
fn the_same_filter_again_replaces_its_terms_mqtt_3_8_4_3() {
    let mut tree = SubscriptionTree::default();
    assert!(tree.insert(filter("a/#"), SessionSlot(1), TERMS));
    assert!(!tree.insert(filter("a/#"), SessionSlot(1), Terms { qos: QoS::AtMostOnce, ..TERMS }));
    let mut granted = Vec::new();
    tree.for_each(TopicName::parse("a").expect("a name"), |_, terms| granted.push(terms.qos));
    assert_eq!((granted, tree.len()), (vec![QoS::AtMostOnce], 1));
}

#[test]
fn members_of_a_group_take_turns_and_each_group_gets_each_message() {
    let mut tree = SubscriptionTree::default();
    for subscriber in 1..=3 {
        tree.insert(filter("$share/g/a/+"), SessionSlot(subscriber), TERMS);
    }
    tree.insert(filter("$share/h/a/b"), SessionSlot(9), TERMS);
    let mut turns: Vec<u32> = (0..4).flat_map(|_| taken(&mut tree, "a/b")).collect();
    turns.retain(|subscriber| *subscriber != 9);
    assert_eq!(turns, [1, 2, 3, 1]);
    assert!(found(&mut tree, "a/b").is_empty(), "a member of a group is no plain subscriber");
    tree.remove(filter("$share/g/a/+"), SessionSlot(1));
    tree.check_invariants();
    assert_eq!(taken(&mut tree, "a/x"), [2]);
    let group = tree.group_mut(filter("$share/g/a/+")).expect("two are left");
    assert_eq!(group.next_member(|subscriber, _| subscriber.0 != 3).map(|(s, _)| s.0), Some(2));
}

#[test]
fn what_was_taken_away_leaves_nothing_behind() {
    let mut tree = SubscriptionTree::default();
    for round in 0..1000 {
        let text = format!("a/{round}/+/b/#");
        tree.insert(filter(&text), SessionSlot(1), TERMS);
        let shared = format!("$share/g/{text}");
        tree.insert(filter(&shared), SessionSlot(1), TERMS);
        assert!(tree.remove(filter(&text), SessionSlot(1)) && tree.remove(filter(&shared), SessionSlot(1)));
    }
    tree.check_invariants();
    assert!(tree.is_empty() && tree.nodes.len() < 10);
}

#[test]
fn a_look_up_goes_nowhere_near_unrelated_subscriptions() {
    let mut tree = SubscriptionTree::default();
    tree.insert(filter("hall/+/lamp"), SessionSlot(0), TERMS);
    for n in 0..100_000u32 {
        tree.insert(filter(&format!("site/{}/{n}", n % 100)), SessionSlot(n), TERMS);
    }
    let mut visited = 0;
    tree.walk(TopicName::parse("hall/2/lamp").expect("a name"), |_| visited += 1);
    assert!(visited < 10, "{visited}");
    assert_eq!(found(&mut tree, "hall/2/lamp"), [0]);
}

#[test]
fn with_members_coming_and_going_at_random_the_groups_reached_are_those_whose_filter_matches() {
    let mut chance = Chance(11);
    let mut tree = SubscriptionTree::default();
    let mut held: Vec<(String, u32)> = Vec::new();
    for _ in 0..3000 {
        let text = format!("$share/{}/{}", ["g", "h"][chance.below(2)], chance.path(&["a", "b", "+", "$x"]));
        let subscriber = chance.below(3) as u32;
        let at = held.iter().position(|one| *one == (text.clone(), subscriber));
        if chance.below(5) < 2 {
            assert_eq!(tree.insert(filter(&text), SessionSlot(subscriber), TERMS), at.is_none());
            if at.is_none() {
                held.push((text, subscriber));
            }
        } else {
            assert_eq!(tree.remove(filter(&text), SessionSlot(subscriber)), at.is_some());
            at.map(|at| held.swap_remove(at));
        }
        tree.check_invariants();
        assert_eq!(tree.len(), held.len());
        let topic = chance.path(&["a", "b", "$x"]);
        let name = TopicName::parse(&topic).expect("a name");
        let mut reached = Vec::new();
        tree.for_each_group(name, |group| reached.push(group.filter().to_string()));
        reached.sort();
        let mut by_comparing: Vec<String> = held.iter().map(|(text, _)| text.clone()).collect();
        by_comparing.retain(|text| filter(text).matches(name));
        by_comparing.sort();
        by_comparing.dedup();
        assert_eq!(reached, by_comparing, "{topic}");
    }
    for (text, subscriber) in held {
        assert!(tree.remove(filter(&text), SessionSlot(subscriber)));
        tree.check_invariants();
    }
    assert_eq!(tree.free.len() + 1, tree.nodes.len());
}

#[test]
fn three_members_get_the_same_share_and_one_that_takes_nothing_is_passed_over() {
    let mut tree = SubscriptionTree::default();
    let shared = filter("$share/g/a");
    for subscriber in [5, 3, 8] {
        tree.insert(shared, SessionSlot(subscriber), TERMS);
    }
    let turns: Vec<u32> = (0..9).flat_map(|_| taken(&mut tree, "a")).collect();
    assert_eq!(turns, [5, 3, 8, 5, 3, 8, 5, 3, 8]);
    let group = tree.group_mut(shared).expect("three are there");
    let mut without_3 = || group.next_member(|subscriber, _| subscriber.0 != 3).map(|(one, _)| one.0);
    assert_eq!([without_3(), without_3(), without_3()], [Some(5), Some(8), Some(5)]);
    assert!(group.next_member(|_, _| false).is_none());
    assert_eq!(taken(&mut tree, "a"), [3], "nobody took it, so nobody's turn passed");
}

#[test]
fn a_member_that_leaves_costs_no_other_its_turn() {
    // Who has had a turn, who leaves, and who is next.
    for (turns, leaves, next) in [(1, 1, 2), (1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (0, 1, 2), (3, 2, 1)]
    {
        let mut tree = SubscriptionTree::default();
        let shared = filter("$share/g/a/#");
        for subscriber in 1..=3 {
            tree.insert(shared, SessionSlot(subscriber), TERMS);
        }
        for _ in 0..turns {
            taken(&mut tree, "a");
        }
        assert!(tree.remove(shared, SessionSlot(leaves)));
        tree.check_invariants();
        assert_eq!(taken(&mut tree, "a"), [next], "after {turns} turns {leaves} leaves");
    }
}

#[test]
fn a_group_goes_with_its_last_member() {
    let mut tree = SubscriptionTree::default();
    tree.insert(filter("$share/g/a"), SessionSlot(1), TERMS);
    assert!(tree.group_mut(filter("$share/h/a")).is_none(), "the filter is the same, the group is not");
    assert!(!tree.remove(filter("a"), SessionSlot(1)), "a member is no plain subscriber");
    assert!(tree.remove(filter("$share/g/a"), SessionSlot(1)));
    assert!(tree.group_mut(filter("$share/g/a")).is_none());
}

#[test]
fn the_deepest_filters_take_no_stack() {
    let mut tree = SubscriptionTree::default();
    let topic = "/".repeat(65_535);
    let filters = [topic.clone(), "+/".repeat(32_767) + "+", "/".repeat(65_533) + "/#", "#".into()];
    for (subscriber, text) in (0..).zip(&filters) {
        assert!(tree.insert(filter(text), SessionSlot(subscriber), TERMS));
    }
    assert_eq!(found(&mut tree, &topic), [0, 2, 3]);
    for (subscriber, text) in (0..).zip(&filters) {
        assert!(tree.remove(filter(text), SessionSlot(subscriber)));
    }
    tree.check_invariants();
    assert_eq!(tree.free.len() + 1, tree.nodes.len());
}

#[test]
fn leading_wildcards_do_not_reach_dollar_topics_mqtt_4_7_2_1() {
    let mut tree = SubscriptionTree::default();
    for (subscriber, text) in (0..).zip(["#", "+/x", "+/#", "$SYS/#", "$SYS/+", "a/#", "a/+"]) {
        tree.insert(filter(text), SessionSlot(subscriber), TERMS);
    }
    assert_eq!(found(&mut tree, "$SYS/x"), [3, 4]);
    assert_eq!(found(&mut tree, "$SYS"), [3]);
    assert_eq!(found(&mut tree, "a/$SYS"), [0, 2, 5, 6]);
}

#[test]
fn overlapping_filters_of_one_subscriber_are_found_one_by_one() {
    let mut tree = SubscriptionTree::default();
    for text in ["a/b", "a/+", "a/#", "+/b", "#", "a/c"] {
        tree.insert(filter(text), SessionSlot(4), TERMS);
    }
    assert_eq!(found(&mut tree, "a/b"), [4; 5]);
    assert!(tree.remove(filter("a/+"), SessionSlot(4)));
    assert_eq!(found(&mut tree, "a/b"), [4; 4]);
}
