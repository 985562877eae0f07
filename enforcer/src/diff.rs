//! From what the kernel holds to what it ought to hold, without a moment that is more open or more closed than both.
//!
//! A transaction runs in this order: new sets are filled and existing ones gain elements; chains switch, one atomic
//! restore per family; existing sets lose elements and sets without a use are destroyed.
//!
//! Between the first and the last step an existing set holds the old *and* the new elements. That is harmless as long as
//! every rule that looks it up, for every pod it serves, is the same before and after: the union of the elements grants
//! the union of the flows. It is not when a rule appears, goes, or begins to serve another pod in the same
//! transaction: a peer that is new to the set would meet a port or a pod that is only in the old rules. Such a set is not
//! changed in place. It gets a new generation, under another name, and the chains switch to it at once. See
//! `survives`.
//!
//! The promise is one for each pod and direction. A flow between two pods is checked twice, and the two checks may change
//! one after the other on one node as they do on two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_policy::Direction;

use crate::error::{Error, Result};
use crate::names::{self, SetId, SetName};
use crate::rules::{Rule, parse};
use crate::ruleset::{Element, Family, Hook, Ruleset, Set, Tables};
use crate::state::{
    ChainChange, HeldSet, HeldTables, JumpChange, Phase, SetChange, State, Transaction, mentions,
};

/// The fewest elements that a new set has room for.
const LEAST_CAPACITY: usize = 1024;

/// The chains of a family, with sets by their meaning. `None` stands for a rule that we never write.
type Chains = BTreeMap<String, Vec<Option<Rule<SetId>>>>;

/// The changes that make the kernel hold `wanted`. Empty when it does. Families that `wanted` lacks are left alone.
///
/// # Errors
/// Too many leftovers of a set are in the way.
pub fn diff(state: &State, wanted: &Ruleset) -> Result<Transaction> {
    let mut fill = Vec::new();
    let mut switch = Vec::new();
    let mut drain = Vec::new();
    let Some(first) = wanted.families.keys().next() else {
        return Ok(Transaction::default());
    };
    for (family, tables) in &wanted.families {
        // A set of ours that is in no family, or in one that is not enforced, goes with the first.
        let keeps = |held: &HeldSet| held.family.filter(|family| wanted.families.contains_key(family));
        let stale = |held: &HeldSet| keeps(held).unwrap_or(*first) == *family;
        let family = FamilyDiff::new(state, *family, tables)?;
        fill.extend(family.fill());
        let change = family.switch();
        if !change.is_empty() {
            switch.push(Phase::Chains(family.family, change));
        }
        drain.extend(family.drain(state, stale));
    }
    let sets = |changes: Vec<SetChange>| (!changes.is_empty()).then_some(Phase::Sets(changes));
    let phases = sets(fill).into_iter().chain(switch).chain(sets(drain));
    Ok(Transaction {
        phases: phases.collect(),
    })
}

/// What becomes of one wanted set.
struct SetPlan<'a> {
    name: SetName,
    wanted: &'a Set,
    /// The set has to be made; otherwise it exists and changes in place.
    create: bool,
    add: Vec<Element>,
    remove: Vec<Element>,
}

struct FamilyDiff<'a> {
    family: Family,
    held: HeldTables,
    tables: &'a Tables,
    sets: BTreeMap<&'a SetId, SetPlan<'a>>,
}

impl<'a> FamilyDiff<'a> {
    fn new(state: &State, family: Family, tables: &'a Tables) -> Result<Self> {
        let held = state.families.get(&family).cloned().unwrap_or_default();
        let uses = Uses::new(&held, tables);
        let mut sets = BTreeMap::new();
        for (id, wanted) in &tables.sets {
            sets.insert(id, plan_set(state, &held, &uses, family, id, wanted)?);
        }
        Ok(Self {
            family,
            held,
            tables,
            sets,
        })
    }

    fn fill(&self) -> Vec<SetChange> {
        let mut changes = Vec::new();
        for plan in self.sets.values() {
            if plan.create {
                changes.push(SetChange::Create {
                    name: plan.name.clone(),
                    kind: plan.wanted.kind,
                    family: self.family,
                    capacity: capacity(plan.wanted.members.len()),
                });
            }
            if !plan.add.is_empty() {
                changes.push(SetChange::Add(plan.name.clone(), plan.add.clone()));
            }
        }
        changes
    }

    fn switch(&self) -> ChainChange {
        let bind = |rule: &Rule<SetId>| {
            rule.map(|id| {
                self.sets
                    .get(id)
                    .map_or_else(|| id.generation('a'), |plan| plan.name.clone())
            })
        };
        let lines = |rules: &Vec<Rule<SetId>>| {
            rules
                .iter()
                .map(|rule| bind(rule).to_string())
                .collect::<Vec<_>>()
        };
        let wanted = self
            .tables
            .chains
            .iter()
            .map(|(chain, rules)| (chain.clone(), lines(rules)));
        let replace = wanted
            .filter(|(chain, lines)| self.held.chains.get(chain) != Some(lines))
            .collect();
        let stale = self
            .held
            .chains
            .keys()
            .filter(|chain| !self.tables.chains.contains_key(*chain));
        let jumps = Hook::ALL.into_iter().filter_map(|hook| {
            let held = self.held.jumps_in(hook);
            let wanted: &[usize] = if self.tables.hooks.contains(&hook) {
                &[1]
            } else {
                &[]
            };
            let change = JumpChange {
                remove: held.len(),
                insert: !wanted.is_empty(),
            };
            (held != wanted).then_some((hook, change))
        });
        ChainChange {
            replace,
            delete: stale.cloned().collect(),
            jumps: jumps.collect(),
        }
    }

    fn drain(&self, state: &State, own: impl Fn(&HeldSet) -> bool) -> Vec<SetChange> {
        let shrinking = self.sets.values().filter(|plan| !plan.remove.is_empty());
        let mut changes: Vec<_> = shrinking
            .map(|plan| SetChange::Remove(plan.name.clone(), plan.remove.clone()))
            .collect();
        let used: BTreeSet<_> = self.sets.values().map(|plan| &plan.name).collect();
        let stale = state
            .sets
            .iter()
            .filter(|(name, held)| own(held) && !used.contains(name));
        changes.extend(stale.map(|(name, _)| SetChange::Destroy(name.clone())));
        changes
    }
}

fn plan_set<'a>(
    state: &State,
    held: &HeldTables,
    uses: &Uses,
    family: Family,
    id: &SetId,
    wanted: &'a Set,
) -> Result<SetPlan<'a>> {
    let existing = generations(state, id);
    // The generation in use; or, if none is, a leftover of an interrupted transaction.
    let current = existing
        .iter()
        .find(|(name, _)| in_use(held, name))
        .or(existing.first());
    if let Some((name, set)) = current
        && set.kind == Some(wanted.kind)
        && set.family == Some(family)
    {
        let (add, remove) = changes(&set.members, &wanted.members);
        let fits = set.members.len() + add.len() <= set.capacity;
        if fits && (add.is_empty() || uses.grows(id)) && (remove.is_empty() || uses.shrinks(id)) {
            return Ok(SetPlan {
                name: (*name).clone(),
                wanted,
                create: false,
                add,
                remove,
            });
        }
    }
    let taken: BTreeSet<_> = existing.iter().map(|(name, _)| (*name).clone()).collect();
    let name = ('a'..='z')
        .map(|letter| id.generation(letter))
        .find(|name| !taken.contains(name))
        .ok_or_else(|| Error::NoGeneration(id.to_string()))?;
    Ok(SetPlan {
        name,
        wanted,
        create: true,
        add: wanted.members.to_vec(),
        remove: Vec::new(),
    })
}

/// The sets in the kernel that carry this meaning.
fn generations<'s>(state: &'s State, id: &SetId) -> Vec<(&'s SetName, &'s HeldSet)> {
    let range = id.generation('a')..=id.generation('z');
    state
        .sets
        .range(range)
        .filter(|(name, _)| name.id() == *id)
        .collect()
}

fn in_use(held: &HeldTables, name: &SetName) -> bool {
    held.chains
        .values()
        .flatten()
        .any(|line| mentions(line, name.as_str()))
}

/// Room to grow: a set that outgrows its capacity costs a new generation.
fn capacity(elements: usize) -> usize {
    (elements * 2).next_power_of_two().max(LEAST_CAPACITY)
}

/// What is in `new` only and what is in `old` only; both are sorted.
fn changes(old: &[Element], new: &[Element]) -> (Vec<Element>, Vec<Element>) {
    let missing = |from: &[Element], of: &[Element]| {
        from.iter()
            .filter(|element| of.binary_search(element).is_err())
            .copied()
            .collect()
    };
    (missing(new, old), missing(old, new))
}

/// How rules use sets, before and after.
struct Uses {
    /// Nothing about the chains changes: every use survives.
    same: bool,
    old: Served,
    new: Served,
}

impl Uses {
    fn new(held: &HeldTables, tables: &Tables) -> Self {
        let old: Chains = held
            .chains
            .iter()
            .map(|(chain, lines)| (chain.clone(), logical(lines)))
            .collect();
        let known = |rules: &Vec<Rule<SetId>>| rules.iter().cloned().map(Some).collect::<Vec<_>>();
        let new: Chains = tables
            .chains
            .iter()
            .map(|(chain, rules)| (chain.clone(), known(rules)))
            .collect();
        Self {
            same: old == new,
            old: Served::new(old),
            new: Served::new(new),
        }
    }

    /// Whether elements may be added to the set while the old chains stand.
    fn grows(&self, set: &SetId) -> bool {
        self.same || survives(&self.old, &self.new, set)
    }

    /// Whether elements may be left in the set until the new chains stand.
    fn shrinks(&self, set: &SetId) -> bool {
        self.same || survives(&self.new, &self.old, set)
    }
}

fn logical(lines: &[String]) -> Vec<Option<Rule<SetId>>> {
    lines
        .iter()
        .map(|line| parse::rule(line).map(|rule| rule.map(SetName::id)))
        .collect()
}

/// Chains and which pods they serve.
struct Served {
    chains: Chains,
    /// The chain of each isolated address.
    by_address: BTreeMap<(Direction, IpAddr), String>,
}

impl Served {
    fn new(chains: Chains) -> Self {
        let mut by_address = BTreeMap::new();
        for rule in chains.values().flatten().flatten() {
            if let Rule::Branch {
                direction,
                prefix,
                chain,
            } = rule
                && prefix.prefix_len() == prefix.max_prefix_len()
                && chain.starts_with(&names::isolation_chain(""))
            {
                by_address.insert((*direction, prefix.addr()), chain.clone());
            }
        }
        Self { chains, by_address }
    }
}

/// Whether every use of the set in `from` is one in `to` as well: each pod that a rule with the set serves in `from` is
/// served by an equal rule in `to`, or by none because it is open there.
fn survives(from: &Served, to: &Served, set: &SetId) -> bool {
    from.chains.iter().all(|(chain, rules)| {
        rules
            .iter()
            .flatten()
            .filter(|rule| rule.set() == Some(set))
            .all(|rule| {
                let has = |chain: &String| {
                    to.chains
                        .get(chain)
                        .is_some_and(|rules| rules.iter().flatten().any(|r| r == rule))
                };
                if !chain.starts_with(&names::isolation_chain("")) {
                    return has(chain);
                }
                let pods = from.by_address.iter().filter(|(_, serving)| *serving == chain);
                let mut now = pods
                    .filter_map(|(pod, _)| to.by_address.get(pod))
                    .collect::<BTreeSet<_>>()
                    .into_iter();
                now.all(has)
            })
    })
}
