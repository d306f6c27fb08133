//! Who subscribed to a topic: a tree with one step per level, so that subscriptions which have nothing to do with a
//! topic cost nothing when it is looked up.
//!
//! Iterative throughout: a filter of many levels costs memory, never stack.

use std::sync::Arc;

use super::children::Children;
use crate::{
    ids::SessionSlot,
    limits::Limits,
    mqtt::{TopicFilter, TopicName},
    session::Terms,
};

/// What a subscription costs in memory at most beside its levels: its filter is kept with its session as well.
const SUBSCRIPTION_BYTES: usize = 160;
/// What one level of a filter costs at most: its node, its name, and its place in the map of its parent.
const LEVEL_BYTES: usize = 128;

/// The members of one shared subscription, who take turns. [§4.8.2]
#[derive(Debug)]
pub struct Group {
    filter: Arc<str>,
    members: Vec<(SessionSlot, Terms)>,
    /// Whose turn is next.
    next: usize,
}

/// Where a path of levels leads. Nodes that lead nowhere are taken away.
#[derive(Debug, Default)]
struct Node {
    children: Children,
    /// Behind `+`; 0 for none, since nothing leads to the root.
    any: u32,
    /// Filters that end here.
    exact: Ends,
    /// Filters that end here with `#`.
    rest: Ends,
}

/// Those whose filter ends at one place; at most places none does, which costs a pointer.
#[derive(Debug, Default)]
struct Ends(Option<Box<Parties>>);

#[derive(Debug, Default)]
struct Parties {
    /// Sorted, so that many of them are found fast.
    plain: Vec<(SessionSlot, Terms)>,
    groups: Vec<Group>,
}

/// All subscriptions.
#[derive(Debug)]
pub struct SubscriptionTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    len: usize,
    bytes: usize,
    /// The nodes a topic has reached, and those of its next level: kept for the next look-up.
    reached: Vec<u32>,
    next: Vec<u32>,
}

const ROOT: u32 = 0;

impl Default for SubscriptionTree {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            len: 0,
            bytes: 0,
            reached: Vec::new(),
            next: Vec::new(),
        }
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
        mut takes: impl FnMut(SessionSlot, &Terms) -> bool,
    ) -> Option<(SessionSlot, Terms)> {
        let count = self.members.len();
        let chosen = (0..count).map(|step| (self.next + step) % count).find(|at| {
            let (subscriber, terms) = &self.members[*at];
            takes(*subscriber, terms)
        })?;
        self.next = (chosen + 1) % count;
        Some(self.members[chosen])
    }

    /// Whether there is a member that `takes`.
    pub fn any_member(&self, takes: impl Fn(SessionSlot) -> bool) -> bool {
        self.members.iter().any(|(member, _)| takes(*member))
    }

    /// Gives back whether the member is new; it comes after the others.
    fn insert(&mut self, subscriber: SessionSlot, terms: Terms) -> bool {
        match self.members.iter_mut().find(|(other, _)| *other == subscriber) {
            Some((_, before)) => {
                *before = terms;
                false
            }
            None => {
                self.members.push((subscriber, terms));
                true
            }
        }
    }

    /// Gives back whether the member was there; the turn stays with whoever has it, or passes on if it was theirs.
    fn remove(&mut self, subscriber: SessionSlot) -> bool {
        let Some(at) = self.members.iter().position(|(other, _)| *other == subscriber) else { return false };
        self.members.remove(at);
        self.next -= usize::from(at < self.next);
        if self.next == self.members.len() {
            self.next = 0;
        }
        true
    }
}

impl Ends {
    fn plain(&self) -> &[(SessionSlot, Terms)] {
        self.0.as_ref().map_or(&[], |parties| &parties.plain)
    }

    fn groups(&self) -> &[Group] {
        self.0.as_ref().map_or(&[], |parties| &parties.groups)
    }

    fn groups_mut(&mut self) -> &mut [Group] {
        self.0.as_mut().map_or(&mut [], |parties| &mut parties.groups)
    }

    fn group_mut(&mut self, filter: TopicFilter<'_>) -> Option<&mut Group> {
        self.groups_mut().iter_mut().find(|group| *group.filter == *filter.as_str())
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn insert(&mut self, filter: TopicFilter<'_>, subscriber: SessionSlot, terms: Terms) -> bool {
        if filter.share().is_none() {
            return self.0.get_or_insert_default().insert_plain(subscriber, terms);
        }
        if let Some(group) = self.group_mut(filter) {
            return group.insert(subscriber, terms);
        }
        let group = Group { filter: filter.as_str().into(), members: vec![(subscriber, terms)], next: 0 };
        self.0.get_or_insert_default().groups.push(group);
        true
    }

    fn remove(&mut self, filter: TopicFilter<'_>, subscriber: SessionSlot) -> bool {
        let Some(parties) = &mut self.0 else { return false };
        let was_there = if filter.share().is_none() {
            parties.remove_plain(subscriber)
        } else {
            parties.remove_from_group(filter, subscriber)
        };
        if parties.plain.is_empty() && parties.groups.is_empty() {
            self.0 = None;
        }
        was_there
    }
}

impl Parties {
    fn insert_plain(&mut self, subscriber: SessionSlot, terms: Terms) -> bool {
        match self.plain.binary_search_by_key(&subscriber, |(other, _)| *other) {
            Ok(at) => {
                self.plain[at].1 = terms;
                false
            }
            Err(at) => {
                // Most filters have one subscriber, and room for four would be most of its cost.
                if self.plain.is_empty() {
                    self.plain.reserve_exact(1);
                }
                self.plain.insert(at, (subscriber, terms));
                true
            }
        }
    }

    fn remove_plain(&mut self, subscriber: SessionSlot) -> bool {
        let found = self.plain.binary_search_by_key(&subscriber, |(other, _)| *other);
        found.map(|at| self.plain.remove(at)).is_ok()
    }

    fn remove_from_group(&mut self, filter: TopicFilter<'_>, subscriber: SessionSlot) -> bool {
        let Some(at) = self.groups.iter().position(|group| *group.filter == *filter.as_str()) else {
            return false;
        };
        let was_there = self.groups[at].remove(subscriber);
        if self.groups[at].members.is_empty() {
            self.groups.remove(at);
        }
        was_there
    }
}

impl SubscriptionTree {
    /// Adds a subscription, or replaces the terms of the one with the same filter; gives back whether it is new.
    pub fn insert(&mut self, filter: TopicFilter<'_>, subscriber: SessionSlot, terms: Terms) -> bool {
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
        self.bytes += if is_new { cost(filter) } else { 0 };
        is_new
    }

    /// Takes a subscription away; gives back whether it was there.
    pub fn remove(&mut self, filter: TopicFilter<'_>, subscriber: SessionSlot) -> bool {
        let Some(ends) = self.ends_mut(filter) else { return false };
        if !ends.remove(filter, subscriber) {
            return false;
        }
        self.len -= 1;
        self.bytes -= cost(filter);
        self.prune(filter);
        true
    }

    /// Calls `found` for each plain subscription that `topic` matches; overlapping ones of one subscriber each count.
    pub fn for_each(&mut self, topic: TopicName<'_>, mut found: impl FnMut(SessionSlot, &Terms)) {
        self.walk(topic, |ends| {
            for (subscriber, terms) in ends.plain() {
                found(*subscriber, terms);
            }
        });
    }

    /// Calls `found` for each shared subscription that `topic` matches.
    pub fn for_each_group(&mut self, topic: TopicName<'_>, mut found: impl FnMut(&mut Group)) {
        self.walk(topic, |ends| {
            for group in ends.groups_mut() {
                found(group);
            }
        });
    }

    /// The members of the shared subscription `filter`.
    pub fn group_mut(&mut self, filter: TopicFilter<'_>) -> Option<&mut Group> {
        self.ends_mut(filter)?.group_mut(filter)
    }

    /// Whether there is memory for one more subscription.
    pub fn has_room_for(&self, filter: TopicFilter<'_>, limits: &Limits) -> bool {
        self.bytes + cost(filter) <= limits.subscription_bytes as usize
    }

    /// What they cost in memory at most.
    pub fn bytes(&self) -> usize {
        self.bytes
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
            _ => node.children.get(level),
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
            _ => node.children.insert(level, child),
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
                _ => parent.children.remove(level),
            }
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        let held = |ends: &Ends| {
            assert!(
                ends.plain().is_sorted_by(|(one, _), (other, _)| one < other),
                "a subscriber twice at one place"
            );
            let members = ends.groups().iter().map(|group| {
                assert!(group.next < group.members.len(), "a group without members, or with nobody's turn");
                group.members.len()
            });
            let held = ends.plain().len() + members.sum::<usize>();
            assert_eq!(held == 0, ends.is_empty(), "nobody is at a place, and it was kept");
            held
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

/// Counted as if every subscription had its levels to itself, so that what one costs depends on nothing else.
fn cost(filter: TopicFilter<'_>) -> usize {
    SUBSCRIPTION_BYTES + 2 * filter.as_str().len() + LEVEL_BYTES * filter.level_count()
}

#[cfg(test)]
mod tests;
