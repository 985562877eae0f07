//! What the kernel holds of ours, and the changes that a [`Transaction`] makes to it, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::names::SetName;
use crate::rules::{Rule, parse};
use crate::ruleset::{Element, Family, Hook, SetKind};

/// What the kernel holds of ours: read back, or what the last transaction left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Sets that carry our prefix.
    pub sets: BTreeMap<SetName, HeldSet>,
    /// The filter tables of the families that are enforced.
    pub families: BTreeMap<Family, HeldTables>,
}

/// What can be read of a [`State`] cheaply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Glance {
    /// The number of elements of each set.
    pub sizes: BTreeMap<SetName, usize>,
    /// The filter tables.
    pub families: BTreeMap<Family, HeldTables>,
}

/// A set in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSet {
    /// Its type; `None` is one that we never make.
    pub kind: Option<SetKind>,
    /// Its family; `None` is one that we never make.
    pub family: Option<Family>,
    /// How many elements it can hold.
    pub capacity: usize,
    /// Its elements, sorted.
    pub members: Arc<Vec<Element>>,
}

/// Our part of a filter table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldTables {
    /// Our chains, each with its rules as iptables-save prints them, without `-A CHAIN`.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Our jumps in built-in chains: where each stands, counted from 1, and as iptables-save prints it. Right is each that is
    /// wanted, from 1 on. No chain that has none.
    pub jumps: BTreeMap<Hook, Vec<(usize, String)>>,
    /// Other rules of built-in chains that lead to our chains: chain and rule. Another version may have written them; right
    /// is none.
    pub strays: BTreeSet<(String, String)>,
    /// Our chains that rules in chains of other people's own lead to. The kernel would not let them go.
    pub referenced: BTreeSet<String>,
}

impl HeldTables {
    /// Our jumps in this built-in chain.
    pub fn jumps_in(&self, hook: Hook) -> &[(usize, String)] {
        self.jumps.get(&hook).map_or(&[], Vec::as_slice)
    }
}

/// The changes that lead from what is held to what is wanted, in the order that keeps every moment between both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// Each phase is one write.
    pub phases: Vec<Phase>,
    /// What sets hold afterwards, where anything was planned for them.
    pub settled: Vec<(SetName, Arc<Vec<Element>>)>,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Changes of sets, one after the other, each taking effect by itself.
    Sets(Vec<SetChange>),
    /// One `iptables-restore --noflush`: all of it or nothing.
    Chains(Family, ChainChange),
}

/// A change of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetChange {
    /// A new, empty set.
    Create {
        /// Its name.
        name: SetName,
        /// Its type.
        kind: SetKind,
        /// Its family.
        family: Family,
        /// How many elements it can hold.
        capacity: usize,
    },
    /// Elements come.
    Add(SetName, Vec<Element>),
    /// Elements go.
    Remove(SetName, Vec<Element>),
    /// The set goes.
    Destroy(SetName),
}

/// A change of a filter table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainChange {
    /// Chains that are new or different, with all their rules.
    pub replace: BTreeMap<String, Vec<String>>,
    /// Chains of ours that nothing leads to any more.
    pub delete: BTreeSet<String>,
    /// What becomes of our jumps in built-in chains; none where they stay.
    pub jumps: BTreeMap<Hook, JumpChange>,
    /// Other rules of built-in chains that led to ours and go.
    pub strays: BTreeSet<(String, String)>,
}

/// A change of our jumps in a built-in chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JumpChange {
    /// Those that are removed.
    pub remove: Vec<String>,
    /// Those that are put first, in this order.
    pub insert: Vec<String>,
}

impl JumpChange {
    /// Makes the change as the kernel would.
    fn apply(&self, jumps: &mut Vec<(usize, String)>) {
        for removed in &self.remove {
            if let Some(index) = jumps.iter().position(|(_, held)| held == removed) {
                jumps.remove(index);
                jumps[index..].iter_mut().for_each(|(place, _)| *place -= 1);
            }
        }
        jumps
            .iter_mut()
            .for_each(|(place, _)| *place += self.insert.len());
        jumps.splice(..0, (1..).zip(self.insert.iter().cloned()));
    }

    /// Whether nothing but the way in of revoked connections comes or goes.
    fn is_about_revoked(&self) -> bool {
        let mut rules = self.remove.iter().chain(&self.insert);
        rules.all(|rule| matches!(parse::rule(rule), Some(Rule::EnterRevoked { .. })))
    }
}

impl ChainChange {
    /// Whether nothing but the way in of revoked connections comes or goes: no other connection fares differently.
    pub fn is_about_revoked(&self) -> bool {
        let elsewhere = !self.replace.is_empty() || !self.delete.is_empty() || !self.strays.is_empty();
        !elsewhere && self.jumps.values().all(JumpChange::is_about_revoked)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let ways_in = self.jumps.is_empty() && self.strays.is_empty();
        self.replace.is_empty() && self.delete.is_empty() && ways_in
    }
}

/// Why a change cannot be made to a state; the kernel would refuse it too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The set is not there.
    #[error("no set {0}")]
    NoSet(SetName),
    /// The set is there already.
    #[error("the set {0} exists")]
    SetExists(SetName),
    /// More elements than the set can hold.
    #[error("the set {0} is full")]
    SetFull(SetName),
    /// A rule leads to a chain that is not there.
    #[error("no chain {0}, which {1} leads to")]
    NoChain(String, String),
}

impl State {
    /// Makes the change as the kernel would.
    ///
    /// # Errors
    /// What the kernel would refuse is refused, and the state is of no use afterwards. Not looked for here, because it
    /// takes a walk through all rules: whether one still leads to what is removed. [`State::fault`] does.
    pub fn apply(&mut self, phase: &Phase) -> Result<(), Refused> {
        match phase {
            Phase::Sets(changes) => changes.iter().try_for_each(|change| self.change_set(change)),
            Phase::Chains(family, change) => self.change_chains(*family, change),
        }
    }

    /// Why the kernel could not hold this: a rule that leads nowhere.
    pub fn fault(&self) -> Option<Refused> {
        let tables = self.families.values();
        let lines = tables.flat_map(|tables| {
            tables
                .chains
                .iter()
                .map(move |(chain, lines)| (tables, chain, lines))
        });
        lines
            .flat_map(|(tables, chain, lines)| lines.iter().map(move |line| (tables, chain, line)))
            .find_map(|(tables, chain, line)| self.leads_nowhere(tables, chain, line))
    }

    fn leads_nowhere(&self, tables: &HeldTables, chain: &str, line: &str) -> Option<Refused> {
        let rule = parse::rule(line)?;
        let target = rule
            .target()
            .filter(|target| !tables.chains.contains_key(*target));
        let set = rule.set().filter(|set| !self.sets.contains_key(*set));
        target
            .map(|target| Refused::NoChain(target.to_owned(), chain.to_owned()))
            .or_else(|| set.map(|set| Refused::NoSet(set.clone())))
    }

    /// Shares what sets hold with who else has it, where it is the same.
    pub fn share(&mut self, settled: Vec<(SetName, Arc<Vec<Element>>)>) {
        for (name, members) in settled {
            if let Some(held) = self.sets.get_mut(&name).filter(|held| held.members == members) {
                held.members = members;
            }
        }
    }

    /// Makes one change of a set.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn change_set(&mut self, change: &SetChange) -> Result<(), Refused> {
        match change {
            SetChange::Create {
                name,
                kind,
                family,
                capacity,
            } => {
                let held = HeldSet {
                    kind: Some(*kind),
                    family: Some(*family),
                    capacity: *capacity,
                    members: Arc::default(),
                };
                match self.sets.insert(name.clone(), held) {
                    None => Ok(()),
                    Some(_) => Err(Refused::SetExists(name.clone())),
                }
            }
            SetChange::Add(name, elements) => {
                let held = self.held(name)?;
                let members = Arc::make_mut(&mut held.members);
                members.extend(elements);
                members.sort_unstable();
                members.dedup();
                if members.len() > held.capacity {
                    return Err(Refused::SetFull(name.clone()));
                }
                Ok(())
            }
            SetChange::Remove(name, elements) => {
                let gone: BTreeSet<_> = elements.iter().collect();
                Arc::make_mut(&mut self.held(name)?.members).retain(|element| !gone.contains(element));
                Ok(())
            }
            SetChange::Destroy(name) => {
                let removed = self.sets.remove(name).map(|_| ());
                removed.ok_or_else(|| Refused::NoSet(name.clone()))
            }
        }
    }

    fn held(&mut self, name: &SetName) -> Result<&mut HeldSet, Refused> {
        self.sets
            .get_mut(name)
            .ok_or_else(|| Refused::NoSet(name.clone()))
    }

    fn change_chains(&mut self, family: Family, change: &ChainChange) -> Result<(), Refused> {
        let tables = self.families.entry(family).or_default();
        tables.chains.extend(change.replace.clone());
        tables.chains.retain(|chain, _| !change.delete.contains(chain));
        for (hook, change) in &change.jumps {
            change.apply(tables.jumps.entry(*hook).or_default());
        }
        tables.jumps.retain(|_, jumps| !jumps.is_empty());
        tables.strays.retain(|stray| !change.strays.contains(stray));
        let Some(tables) = self.families.get(&family) else {
            return Ok(());
        };
        let mut faults = change
            .replace
            .iter()
            .flat_map(|(chain, lines)| lines.iter().map(move |line| (chain, line)))
            .filter_map(|(chain, line)| self.leads_nowhere(tables, chain, line));
        faults.next().map_or(Ok(()), Err)
    }

    /// What [`Glance`] would show of it.
    pub fn glance(&self) -> Glance {
        let sizes = self
            .sets
            .iter()
            .map(|(name, held)| (name.clone(), held.members.len()));
        Glance {
            sizes: sizes.collect(),
            families: self.families.clone(),
        }
    }

    /// What differs in `other`, in words, for the log; the first few.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let sets = keys_that_differ(&self.sets, &other.sets).map(|name| format!("set {name}"));
        sets.chain(table_differences(&self.families, &other.families))
            .take(SHOWN)
            .collect()
    }
}

impl Glance {
    /// What differs in `other`, in words, for the log; the first few.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let sets = keys_that_differ(&self.sizes, &other.sizes).map(|name| format!("set {name}"));
        sets.chain(table_differences(&self.families, &other.families))
            .take(SHOWN)
            .collect()
    }
}

/// How many differences are told.
const SHOWN: usize = 5;

fn keys_that_differ<'a, K: Ord, V: PartialEq>(
    a: &'a BTreeMap<K, V>,
    b: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    keys.into_iter().filter(|key| a.get(key) != b.get(key))
}

fn table_differences(
    ours: &BTreeMap<Family, HeldTables>,
    theirs: &BTreeMap<Family, HeldTables>,
) -> Vec<String> {
    let mut found = Vec::new();
    let empty = HeldTables::default();
    for family in keys_that_differ(ours, theirs) {
        let (ours, theirs) = (
            ours.get(family).unwrap_or(&empty),
            theirs.get(family).unwrap_or(&empty),
        );
        for hook in Hook::ALL {
            let (ours, theirs) = (ours.jumps_in(hook), theirs.jumps_in(hook));
            if ours != theirs {
                let chain = hook.chain();
                found.push(format!("{family} jumps in {chain}: {theirs:?}, not {ours:?}"));
            }
        }
        let strays = theirs.strays.difference(&ours.strays);
        found.extend(
            strays.map(|(chain, rule)| format!("{family} rule of {chain} that leads to our chains: {rule}")),
        );
        found.extend(
            keys_that_differ(&ours.chains, &theirs.chains).map(|chain| format!("{family} chain {chain}")),
        );
    }
    found
}
