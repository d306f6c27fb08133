use super::*;

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
            tree.insert(filter(&text), Subscriber(subscriber), TERMS);
            filters.push(text);
        }
        for gone in [3, 11] {
            assert!(tree.remove(filter(&filters[gone]), Subscriber(gone as u32)));
            assert!(!tree.remove(filter(&filters[gone]), Subscriber(gone as u32)));
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
    assert!(tree.insert(filter("a/#"), Subscriber(1), TERMS));
    assert!(!tree.insert(filter("a/#"), Subscriber(1), Terms { qos: QoS::AtMostOnce, ..TERMS }));
    let mut granted = Vec::new();
    tree.for_each(TopicName::parse("a").expect("a name"), |_, terms| granted.push(terms.qos));
    assert_eq!((granted, tree.len()), (vec![QoS::AtMostOnce], 1));
}

#[test]
fn members_of_a_group_take_turns_and_each_group_gets_each_message() {
    let mut tree = SubscriptionTree::default();
    for subscriber in 1..=3 {
        tree.insert(filter("$share/g/a/+"), Subscriber(subscriber), TERMS);
    }
    tree.insert(filter("$share/h/a/b"), Subscriber(9), TERMS);
    let mut turns: Vec<u32> = (0..4).flat_map(|_| taken(&mut tree, "a/b")).collect();
    turns.retain(|subscriber| *subscriber != 9);
    assert_eq!(turns, [1, 2, 3, 1]);
    assert!(found(&mut tree, "a/b").is_empty(), "a member of a group is no plain subscriber");
    tree.remove(filter("$share/g/a/+"), Subscriber(1));
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
        tree.insert(filter(&text), Subscriber(1), TERMS);
        let shared = format!("$share/g/{text}");
        tree.insert(filter(&shared), Subscriber(1), TERMS);
        assert!(tree.remove(filter(&text), Subscriber(1)) && tree.remove(filter(&shared), Subscriber(1)));
    }
    tree.check_invariants();
    assert!(tree.is_empty() && tree.nodes.len() < 10);
}

#[test]
fn a_look_up_goes_nowhere_near_unrelated_subscriptions() {
    let mut tree = SubscriptionTree::default();
    tree.insert(filter("hall/+/lamp"), Subscriber(0), TERMS);
    for n in 0..100_000u32 {
        tree.insert(filter(&format!("site/{}/{n}", n % 100)), Subscriber(n), TERMS);
    }
    let mut visited = 0;
    tree.walk(TopicName::parse("hall/2/lamp").expect("a name"), |_| visited += 1);
    assert!(visited < 10, "{visited}");
    assert_eq!(found(&mut tree, "hall/2/lamp"), [0]);
}
