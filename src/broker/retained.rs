//! Retained messages: a tree with one step per level of their topics, so that a look-up by filter costs what it finds
//! and not what is retained elsewhere. [§3.3.1.3]
//!
//! Knows messages only: who is sent them, and what of them is on disk, is decided elsewhere. Iterative throughout, like
//! the subscription tree.

use std::{collections::BTreeSet, sync::Arc};

use super::children::{Children, ChildrenIter};
use crate::{
    clock::Mono,
    limits::Limits,
    mqtt::{TopicFilter, TopicName},
    session::Message,
};

/// What one level of a topic costs at most: its node, its name, and its place in the map of its parent.
const LEVEL_BYTES: usize = 96;

/// The retained message of each topic that has one.
#[derive(Debug)]
pub struct RetainedMessages {
    nodes: Vec<Node>,
    free: Vec<u32>,
    len: usize,
    bytes: usize,
    /// The nodes whose messages have an end, the first to end first.
    expiries: BTreeSet<(Mono, u32)>,
}

/// Why a message cannot be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many topics have one as [`Limits::retained_messages`] allows.
    Messages,
    /// They would need more memory than [`Limits::retained_bytes`].
    Bytes,
}

/// Where a path of levels leads. Nodes that lead nowhere are taken away.
#[derive(Debug, Default)]
struct Node {
    children: Children,
    message: Option<Arc<Message>>,
}

/// The children of one node that a look-up has still to go to, and what of the filter lies behind them.
struct Fork<'a, 'f> {
    children: ChildrenIter<'a>,
    rest: Rest<'f>,
    /// Whether names that begin with `$` are left out. [MQTT-4.7.2-1]
    skips_dollar: bool,
}

/// What is left of a filter behind the levels gone.
#[derive(Clone, Copy)]
enum Rest<'f> {
    /// Nothing: the message here, if there is one.
    End,
    /// More levels.
    Levels(&'f str),
    /// `#` was met: everything below as well.
    Everything,
}

const ROOT: u32 = 0;

impl Default for RetainedMessages {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), len: 0, bytes: 0, expiries: BTreeSet::new() }
    }
}

impl RetainedMessages {
    /// Makes `message` the retained one of its topic and gives back the one it replaces.
    ///
    /// A message without payload is kept like any other; that it stands for [`RetainedMessages::remove`] is for the
    /// caller to know. [MQTT-3.3.1-6]
    ///
    /// # Errors
    /// If there is no room for it; then everything is as it was, and a message it should have replaced stays.
    pub fn insert(&mut self, message: Arc<Message>, limits: &Limits) -> Result<Option<Arc<Message>>, Full> {
        let replaced = self.get(message.topic());
        let len = self.len + usize::from(replaced.is_none());
        let bytes = self.bytes - replaced.map_or(0, |replaced| cost(replaced)) + cost(&message);
        if len > limits.retained_messages as usize {
            return Err(Full::Messages);
        }
        if bytes > limits.retained_bytes as usize {
            return Err(Full::Bytes);
        }
        let mut at = ROOT;
        for level in message.topic().levels() {
            at = self.child_or_new(at, level);
        }
        (self.len, self.bytes) = (len, bytes);
        let expires = message.expires();
        let replaced = self.nodes[at as usize].message.replace(message);
        if let Some(before) = replaced.as_ref().and_then(|replaced| replaced.expires()) {
            self.expiries.remove(&(before, at));
        }
        self.expiries.extend(expires.map(|expires| (expires, at)));
        Ok(replaced)
    }

    /// Takes away the message of `topic`.
    pub fn remove(&mut self, topic: TopicName<'_>) -> Option<Arc<Message>> {
        let at = self.node(topic)?;
        let message = self.nodes[at as usize].message.take()?;
        self.len -= 1;
        self.bytes -= cost(&message);
        if let Some(expires) = message.expires() {
            self.expiries.remove(&(expires, at));
        }
        self.prune(topic);
        Some(message)
    }

    /// The message of `topic`; its time may be over.
    pub fn get(&self, topic: TopicName<'_>) -> Option<&Arc<Message>> {
        self.nodes[self.node(topic)? as usize].message.as_ref()
    }

    /// Calls `found` for the message of each topic that `filter` matches, in the order of their levels' names; the time
    /// of some may be over.
    ///
    /// A shared subscription finds none: nothing retained is sent for it. [§4.8.2]
    pub fn for_each_match(&self, filter: TopicFilter<'_>, found: impl FnMut(&Arc<Message>)) {
        self.walk(filter, found);
    }

    /// Takes away the messages whose time is over, and gives back their topics.
    pub fn take_expired(&mut self, now: Mono) -> Vec<Box<str>> {
        let mut topics = Vec::new();
        while let Some((_, at)) = self.expiries.first().copied().filter(|(expires, _)| *expires <= now) {
            let message = self.nodes[at as usize].message.clone();
            let message = message.expect("a message that is taken away leaves the expiries");
            self.remove(message.topic());
            topics.push(message.topic().as_str().into());
        }
        topics
    }

    /// When the next message's time is over.
    pub fn next_expiry(&self) -> Option<Mono> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What they cost in memory at most, the levels of their topics included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes all of them away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// As [`RetainedMessages::for_each_match`]; gives back how many nodes it went to.
    fn walk(&self, filter: TopicFilter<'_>, mut found: impl FnMut(&Arc<Message>)) -> usize {
        if filter.share().is_some() || filter.is_malformed_share() {
            return 0;
        }
        let mut visited = 0;
        let mut forks = Vec::new();
        let mut next = Some((ROOT, Rest::Levels(filter.as_str())));
        while let Some((at, rest)) = next {
            visited += 1;
            let node = &self.nodes[at as usize];
            if let (Some(message), Rest::End | Rest::Everything | Rest::Levels("#")) = (&node.message, rest) {
                found(message);
            }
            next = self.step(at, rest, &mut forks).or_else(|| next_of(&mut forks));
        }
        visited
    }

    /// The one child that `rest` leads to; if it leads to many, they become a fork.
    fn step<'a, 'f>(
        &'a self,
        at: u32,
        rest: Rest<'f>,
        forks: &mut Vec<Fork<'a, 'f>>,
    ) -> Option<(u32, Rest<'f>)> {
        let children = &self.nodes[at as usize].children;
        let (level, behind) = match rest {
            Rest::End => return None,
            Rest::Everything => ("#", Rest::End),
            Rest::Levels(text) => match text.split_once('/') {
                Some((level, behind)) => (level, Rest::Levels(behind)),
                None => (text, Rest::End),
            },
        };
        let rest = match level {
            "#" => Rest::Everything,
            "+" => behind,
            _ => return children.get(level).map(|child| (child, behind)),
        };
        forks.push(Fork { children: children.iter(), rest, skips_dollar: at == ROOT });
        None
    }

    fn node(&self, topic: TopicName<'_>) -> Option<u32> {
        topic.levels().try_fold(ROOT, |at, level| self.nodes[at as usize].children.get(level))
    }

    fn child_or_new(&mut self, at: u32, level: &str) -> u32 {
        if let Some(child) = self.nodes[at as usize].children.get(level) {
            return child;
        }
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("retained messages and their levels are bounded")
        });
        self.nodes[at as usize].children.insert(level, child);
        child
    }

    /// Takes away the nodes on the way to `topic` that lead nowhere any more, the last first.
    fn prune(&mut self, topic: TopicName<'_>) {
        let mut way = Vec::new();
        let mut at = ROOT;
        for level in topic.levels() {
            let Some(child) = self.nodes[at as usize].children.get(level) else { break };
            way.push((at, level, child));
            at = child;
        }
        for (parent, level, child) in way.into_iter().rev() {
            if !self.nodes[child as usize].leads_nowhere() {
                return;
            }
            self.nodes[child as usize] = Node::default();
            self.free.push(child);
            self.nodes[parent as usize].children.remove(level);
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check_invariants(&self) {
        let messages = || self.nodes.iter().filter_map(|node| node.message.as_ref());
        assert_eq!(messages().count(), self.len);
        assert_eq!(messages().map(|message| cost(message)).sum::<usize>(), self.bytes);
        assert_eq!(messages().filter(|message| message.expires().is_some()).count(), self.expiries.len());
        let leading_nowhere = self.nodes[1..].iter().filter(|node| node.leads_nowhere()).count();
        assert_eq!(leading_nowhere, self.free.len(), "a node leads nowhere and was kept");
    }
}

impl Node {
    fn leads_nowhere(&self) -> bool {
        self.message.is_none() && self.children.is_empty()
    }
}

/// Where the last fork leads next; forks with nothing left are taken away.
fn next_of<'f>(forks: &mut Vec<Fork<'_, 'f>>) -> Option<(u32, Rest<'f>)> {
    while let Some(fork) = forks.last_mut() {
        let skips_dollar = fork.skips_dollar;
        if let Some((_, child)) = fork.children.find(|(name, _)| !(skips_dollar && name.starts_with('$'))) {
            return Some((child, fork.rest));
        }
        forks.pop();
    }
    None
}

/// Counted as if every message had its levels to itself, so that what a message costs depends on nothing else.
fn cost(message: &Message) -> usize {
    message.bytes() + LEVEL_BYTES * message.topic().level_count()
}

#[cfg(test)]
mod tests;
