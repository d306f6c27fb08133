//! The steps of a tree by topic level: from one node to those of the next level, by name.
//!
//! Used by the trees of subscriptions and of retained messages, which keep their nodes in a vector.

use std::collections::{BTreeMap, btree_map};

/// The levels that follow one node, by name. Most nodes have one or none, and a map for one costs ten times the child.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "the box makes every node smaller, and few nodes have the map")]
pub(super) enum Children {
    #[default]
    None,
    One(Box<str>, u32),
    Many(Box<BTreeMap<Box<str>, u32>>),
}

/// Children by name, in the order of their names.
#[derive(Debug)]
pub(super) enum ChildrenIter<'a> {
    One(Option<(&'a str, u32)>),
    Many(btree_map::Iter<'a, Box<str>, u32>),
}

impl Children {
    pub(super) fn get(&self, level: &str) -> Option<u32> {
        match self {
            Self::None => None,
            Self::One(name, child) => (**name == *level).then_some(*child),
            Self::Many(children) => children.get(level).copied(),
        }
    }

    pub(super) fn iter(&self) -> ChildrenIter<'_> {
        match self {
            Self::None => ChildrenIter::One(None),
            Self::One(name, child) => ChildrenIter::One(Some((name, *child))),
            Self::Many(children) => ChildrenIter::Many(children.iter()),
        }
    }

    /// Adds a child that is not there yet.
    pub(super) fn insert(&mut self, level: &str, child: u32) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(level.into(), child),
            Self::One(name, other) => {
                Self::Many(Box::new(BTreeMap::from([(name, other), (level.into(), child)])))
            }
            Self::Many(mut children) => {
                children.insert(level.into(), child);
                Self::Many(children)
            }
        };
    }

    pub(super) fn remove(&mut self, level: &str) {
        if let Self::Many(children) = self {
            children.remove(level);
            if children.len() > 1 {
                return;
            }
            *self = children.pop_first().map_or(Self::None, |(name, child)| Self::One(name, child));
        } else if self.get(level).is_some() {
            *self = Self::None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl<'a> Iterator for ChildrenIter<'a> {
    type Item = (&'a str, u32);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(child) => child.take(),
            Self::Many(children) => children.next().map(|(name, child)| (&**name, *child)),
        }
    }
}
