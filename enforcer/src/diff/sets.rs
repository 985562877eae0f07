//! What becomes of one set: changed in place, or a new generation of it.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::uses::Uses;
use crate::error::{Error, Result};
use crate::names::{SetId, SetName};
use crate::ruleset::{Element, Family, Set};
use crate::state::{HeldSet, HeldTables, SetChange, State};

/// The fewest elements that a new set has room for.
const LEAST_CAPACITY: usize = 1024;

/// What becomes of one wanted set.
pub(super) struct SetPlan<'a> {
    pub(super) name: SetName,
    pub(super) wanted: &'a Set,
    /// The set has to be made; otherwise it exists and changes in place.
    pub(super) create: bool,
    pub(super) add: Vec<Element>,
    pub(super) remove: Vec<Element>,
}

impl<'a> SetPlan<'a> {
    /// How the set can change in place, if its users allow that.
    pub(super) fn in_place(
        state: &State,
        held: &HeldTables,
        uses: &Uses,
        (family, id): (Family, &SetId),
        wanted: &'a Set,
    ) -> Option<Self> {
        let (name, set) = current(state, held, id)?;
        if set.kind != Some(wanted.kind) || set.family != Some(family) {
            return None;
        }
        let (add, remove) = changes(&set.members, &wanted.members);
        let fits = set.members.len() + add.len() <= set.capacity;
        let harmless = (add.is_empty() || uses.grows(id)) && (remove.is_empty() || uses.shrinks(id));
        (fits && harmless).then(|| Self {
            name: name.clone(),
            wanted,
            create: false,
            add,
            remove,
        })
    }

    /// A new generation of the set.
    pub(super) fn anew(state: &State, id: &SetId, wanted: &'a Set) -> Result<Self> {
        let existing = generations(state, id).into_iter();
        let taken: BTreeSet<_> = existing.map(|(name, _)| name.clone()).collect();
        let name = ('a'..='z')
            .map(|letter| id.generation(letter))
            .find(|name| !taken.contains(name))
            .ok_or_else(|| Error::NoGeneration(id.to_string()))?;
        Ok(Self {
            name,
            wanted,
            create: true,
            add: wanted.members.to_vec(),
            remove: Vec::new(),
        })
    }

    pub(super) fn creation(&self, family: Family) -> Option<SetChange> {
        self.create.then(|| SetChange::Create {
            name: self.name.clone(),
            kind: self.wanted.kind,
            family,
            capacity: capacity(self.wanted.members.len()),
        })
    }

    pub(super) fn addition(&self) -> Option<SetChange> {
        self.adding(|_| true)
    }

    pub(super) fn removal(&self) -> Option<SetChange> {
        self.removing(|_| true)
    }

    /// The change that adds those of the new elements that are chosen, if there are any.
    pub(super) fn adding(&self, chosen: impl Fn(&Element) -> bool) -> Option<SetChange> {
        let elements = those(&self.add, chosen)?;
        Some(SetChange::Add(self.name.clone(), elements))
    }

    /// The change that removes those of the old elements that are chosen, if there are any.
    pub(super) fn removing(&self, chosen: impl Fn(&Element) -> bool) -> Option<SetChange> {
        let elements = those(&self.remove, chosen)?;
        Some(SetChange::Remove(self.name.clone(), elements))
    }
}

fn those(elements: &[Element], chosen: impl Fn(&Element) -> bool) -> Option<Vec<Element>> {
    let chosen: Vec<Element> = elements.iter().copied().filter(chosen).collect();
    (!chosen.is_empty()).then_some(chosen)
}

/// The generation in use; or, if none is, a leftover of an interrupted transaction.
pub(super) fn current<'s>(
    state: &'s State,
    held: &HeldTables,
    id: &SetId,
) -> Option<(&'s SetName, &'s HeldSet)> {
    let existing = generations(state, id);
    let several = existing.len() > 1;
    let mut used = existing.iter().filter(|(name, _)| several && in_use(held, name));
    used.next().or(existing.first()).copied()
}

/// The sets in the kernel that carry this meaning; one without a generation, which another version may have made, too.
pub(super) fn generations<'s>(state: &'s State, id: &SetId) -> Vec<(&'s SetName, &'s HeldSet)> {
    let plain = SetName::parse(&id.to_string()).unwrap_or_else(|| id.generation('a'));
    let range = plain..=id.generation('z');
    state
        .sets
        .range(range)
        .filter(|(name, _)| name.id() == *id)
        .collect()
}

fn in_use(held: &HeldTables, name: &SetName) -> bool {
    let mut lines = held.chains.values().flatten();
    lines.any(|line| set_in(line).as_ref() == Some(name))
}

/// The set of ours that a rule's text names.
pub(super) fn set_in(line: &str) -> Option<SetName> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "--match-set")?;
    SetName::parse(words.next()?)
}

/// Room to grow: a set that outgrows its capacity costs a new generation.
fn capacity(elements: usize) -> usize {
    (elements * 2).next_power_of_two().max(LEAST_CAPACITY)
}

/// What is in `new` only and what is in `old` only; both are sorted.
fn changes(old: &[Element], new: &[Element]) -> (Vec<Element>, Vec<Element>) {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old, new);
    loop {
        match (old, new) {
            ([], rest) => {
                add.extend(rest);
                return (add, remove);
            }
            (rest, []) => {
                remove.extend(rest);
                return (add, remove);
            }
            ([was, were @ ..], [is, are @ ..]) => match was.cmp(is) {
                Ordering::Equal => (old, new) = (were, are),
                Ordering::Less => {
                    remove.push(*was);
                    old = were;
                }
                Ordering::Greater => {
                    add.push(*is);
                    new = are;
                }
            },
        }
    }
}
