//! Who subscribed to a topic: a tree with one step per level, so that subscriptions which have nothing to do with a topic
//! cost nothing when it is looked up.
//!
//! Iterative throughout: a filter of many levels costs memory, never stack.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use crate::mqtt::{QoS, TopicFilter, TopicName};

/// Who subscribes: the slot of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscriber(pub u32);

/// What was asked for. [§3.8.3.1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Highest quality of service.
    pub qos: QoS,
    /// Not the subscriber's own messages.
    pub no_local: bool,
    /// The RETAIN flag stays as published.
    pub retain_as_published: bool,
    /// The subscription's number.
    pub identifier: Option<NonZeroU32>,
}

/// The members of one shared subscription, who take turns. [§4.8.2]
#[derive(Debug)]
pub struct Group {
    filter: Arc<str>,
    members: Vec<(Subscriber, Terms)>,
    /// Whose turn is next.
    next: usize,
}

/// Where a path of levels leads. Nodes that lead nowhere are taken away.
#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<Box<str>, u32>,
    /// Behind `+`; 0 for none, since nothing leads to the root.
    any: u32,
    /// Filters that end here.
    exact: Ends,
    /// Filters that end here with `#`.
    rest: Ends,
}

/// Those whose filter ends at one place.
#[derive(Debug, Default)]
struct Ends {
    plain: Vec<(Subscriber, Terms)>,
    groups: Vec<Group>,
}

/// All subscriptions.
#[derive(Debug)]
pub struct SubscriptionTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    len: usize,
    /// The nodes a topic has reached, and those of its next level: kept for the next look-up.
    reached: Vec<u32>,
    next: Vec<u32>,
}

const ROOT: u32 = 0;

impl Default for SubscriptionTree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), len: 0, reached: Vec::new(), next: Vec::new() }
    }
}

impl Group {
    /// The whole filter, `$share/NAME/` included.
    pub fn filter(&self) -> &Arc<str> {
        &self.filter
    }

    /// The next member in turn that `takes` accepts; the turn passes to the one after it.
    pub fn next_member(
        &mut self,
        mut takes: impl FnMut(Subscriber, &Terms) -> bool,
    ) -> Option<(Subscriber, Terms)> {
        let count = self.members.len();
        let chosen = (0..count).map(|step| (self.next + step) % count).find(|at| {
            let (subscriber, terms) = &self.members[*at];
            takes(*subscriber, terms)
        })?;
        self.next = (chosen + 1) % count;
        Some(self.members[chosen])
    }
}

impl Ends {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    fn insert(&mut self, filter: TopicFilter<'_>, subscriber: Subscriber, terms: Terms) -> bool {
        let members = match filter.share() {
            None => &mut self.plain,
            Some(_) => {
                let at = self.group_at(filter).unwrap_or_else(|| {
                    self.groups.push(Group { filter: filter.as_str().into(), members: Vec::new(), next: 0 });
                    self.groups.len() - 1
                });
                &mut self.groups[at].members
            }
        };
        match members.iter_mut().find(|(other, _)| *other == subscriber) {
            Some((_, before)) => {
                *before = terms;
                false
            }
            None => {
                members.push((subscriber, terms));
                true
            }
        }
    }

    fn remove(&mut self, filter: TopicFilter<'_>, subscriber: Subscriber) -> bool {
        if filter.share().is_none() {
            let Some(at) = self.plain.iter().position(|(other, _)| *other == subscriber) else {
                return false;
            };
            self.plain.swap_remove(at);
            return true;
        }
        let Some(group_at) = self.group_at(filter) else { return false };
        let group = &mut self.groups[group_at];
        let Some(at) = group.members.iter().position(|(other, _)| *other == subscriber) else { return false };
        group.members.remove(at);
        if at < group.next {
            group.next -= 1;
        }
        if group.members.is_empty() {
            self.groups.remove(group_at);
        } else {
            group.next %= group.members.len();
        }
        true
    }

    fn group_at(&self, filter: TopicFilter<'_>) -> Option<usize> {
        self.groups.iter().position(|group| *group.filter == *filter.as_str())
    }
}

impl SubscriptionTree {
    /// Adds a subscription, or replaces the terms of the one with the same filter; gives back whether it is new.
    pub fn insert(&mut self, filter: TopicFilter<'_>, subscriber: Subscriber, terms: Terms) -> bool {
        let mut at = ROOT;
        let mut ends_with_rest = false;
        for level in plain(filter).levels() {
            match level {
                "#" => ends_with_rest = true,
                _ => at = self.child_or_new(at, level),
            }
        }
        let node = &mut self.nodes[at as usize];
        let ends = if ends_with_rest { &mut node.rest } else { &mut node.exact };
        let is_new = ends.insert(filter, subscriber, terms);
        self.len += usize::from(is_new);
        is_new
    }

    /// Takes a subscription away; gives back whether it was there.
    pub fn remove(&mut self, filter: TopicFilter<'_>, subscriber: Subscriber) -> bool {
        let Some(ends) = self.ends_mut(filter) else { return false };
        if !ends.remove(filter, subscriber) {
            return false;
        }
        self.len -= 1;
        self.prune(filter);
        true
    }

    /// Calls `found` for each plain subscription that `topic` matches; overlapping ones of one subscriber each count.
    pub fn for_each(&mut self, topic: TopicName<'_>, mut found: impl FnMut(Subscriber, &Terms)) {
        self.walk(topic, |ends| {
            for (subscriber, terms) in &ends.plain {
                found(*subscriber, terms);
            }
        });
    }

    /// Calls `found` for each shared subscription that `topic` matches.
    pub fn for_each_group(&mut self, topic: TopicName<'_>, mut found: impl FnMut(&mut Group)) {
        self.walk(topic, |ends| {
            for group in &mut ends.groups {
                found(group);
            }
        });
    }

    /// The members of the shared subscription `filter`.
    pub fn group_mut(&mut self, filter: TopicFilter<'_>) -> Option<&mut Group> {
        let ends = self.ends_mut(filter)?;
        let at = ends.group_at(filter)?;
        Some(&mut ends.groups[at])
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Goes to every place where filters that match `topic` end. [§4.7]
    fn walk(&mut self, topic: TopicName<'_>, mut visit: impl FnMut(&mut Ends)) {
        let (mut reached, mut next) = (std::mem::take(&mut self.reached), std::mem::take(&mut self.next));
        reached.clear();
        reached.push(ROOT);
        // Wildcards at the start do not reach names that begin with `$`. [MQTT-4.7.2-1]
        let mut wildcards_apply = !topic.as_str().starts_with('$');
        for level in topic.levels() {
            next.clear();
            for at in &reached {
                let node = &mut self.nodes[*at as usize];
                if wildcards_apply {
                    visit(&mut node.rest);
                    if node.any != ROOT {
                        next.push(node.any);
                    }
                }
                next.extend(node.children.get(level));
            }
            std::mem::swap(&mut reached, &mut next);
            wildcards_apply = true;
        }
        for at in &reached {
            let node = &mut self.nodes[*at as usize];
            visit(&mut node.exact);
            visit(&mut node.rest);
        }
        (self.reached, self.next) = (reached, next);
    }

    fn child(&self, at: u32, level: &str) -> Option<u32> {
        let node = &self.nodes[at as usize];
        match level {
            "+" => Some(node.any).filter(|child| *child != ROOT),
            _ => node.children.get(level).copied(),
        }
    }

    fn child_or_new(&mut self, at: u32, level: &str) -> u32 {
        if let Some(child) = self.child(at, level) {
            return child;
        }
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("subscriptions and their levels are bounded")
        });
        let node = &mut self.nodes[at as usize];
        match level {
            "+" => node.any = child,
            _ => drop(node.children.insert(level.into(), child)),
        }
        child
    }

    fn ends_mut(&mut self, filter: TopicFilter<'_>) -> Option<&mut Ends> {
        let mut at = ROOT;
        for level in plain(filter).levels() {
            match level {
                "#" => return Some(&mut self.nodes[at as usize].rest),
                _ => at = self.child(at, level)?,
            }
        }
        Some(&mut self.nodes[at as usize].exact)
    }

    /// Takes away the nodes on the way of `filter` that lead nowhere any more, the last first.
    fn prune(&mut self, filter: TopicFilter<'_>) {
        let mut way = Vec::new();
        let mut at = ROOT;
        for level in plain(filter).levels().filter(|level| *level != "#") {
            let Some(child) = self.child(at, level) else { break };
            way.push((at, level, child));
            at = child;
        }
        for (parent, level, child) in way.into_iter().rev() {
            if !self.nodes[child as usize].leads_nowhere() {
                return;
            }
            self.nodes[child as usize] = Node::default();
            self.free.push(child);
            let parent = &mut self.nodes[parent as usize];
            match level {
                "+" => parent.any = ROOT,
                _ => drop(parent.children.remove(level)),
            }
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        let held = |ends: &Ends| {
            let members = ends.groups.iter().map(|group| {
                assert!(group.next < group.members.len(), "a group without members, or with nobody's turn");
                group.members.len()
            });
            ends.plain.len() + members.sum::<usize>()
        };
        let held: usize = self.nodes.iter().map(|node| held(&node.exact) + held(&node.rest)).sum();
        assert_eq!(held, self.len);
        let leading_nowhere = self.nodes[1..].iter().filter(|node| node.leads_nowhere()).count();
        assert_eq!(leading_nowhere, self.free.len(), "a node leads nowhere and was kept");
    }
}

impl Node {
    fn leads_nowhere(&self) -> bool {
        self.children.is_empty() && self.any == ROOT && self.exact.is_empty() && self.rest.is_empty()
    }
}

/// The filter without its `$share/NAME/`.
fn plain(filter: TopicFilter<'_>) -> TopicFilter<'_> {
    filter.share().map_or(filter, |(_, plain)| plain)
}

#[cfg(test)]
mod tests {
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
}
