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
//! `uses`.
//!
//! Whom the gate holds back is the exception to the order of sets: what it closes is closed before anything else changes,
//! and what it opens is opened after everything else. See `gate`.
//!
//! The promise is one for each pod and direction. A flow between two pods is checked twice, and the two checks may change
//! one after the other on one node as they do on two.

mod gate;
mod sets;
mod uses;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Result;
use crate::names::{SetId, SetName};
use crate::rules::Rule;
use crate::ruleset::{Family, Hook, Ruleset, Tables, Touched};
use crate::state::{ChainChange, HeldTables, JumpChange, Phase, SetChange, State, Transaction};
use gate::{Gate, GateSets};
use sets::{SetPlan, current, generations, set_in};
use uses::Uses;

/// The changes that make the kernel hold `wanted`. Empty when it does. Families that `wanted` lacks are left alone.
///
/// # Errors
/// Too many leftovers of a set are in the way.
pub fn diff(state: &State, wanted: &Ruleset) -> Result<Transaction> {
    let Some(first) = wanted.families.keys().next() else {
        return Ok(Transaction::default());
    };
    let mut scope = Touched::all(wanted);
    for (family, tables) in state
        .families
        .iter()
        .filter(|(family, _)| wanted.families.contains_key(family))
    {
        scope
            .chains
            .extend(tables.chains.keys().map(|chain| (*family, chain.clone())));
    }
    for (name, held) in &state.sets {
        // A set of ours that is in no family, or in one that is not enforced, goes with the first.
        let family = held.family.filter(|family| wanted.families.contains_key(family));
        scope.sets.insert((family.unwrap_or(*first), name.id()));
    }
    diff_touched(state, wanted, &scope)
}

/// As [`diff`], where everything but what is `touched` is known to be held as it is wanted.
///
/// # Errors
/// As [`diff`].
pub fn diff_touched(state: &State, wanted: &Ruleset, touched: &Touched) -> Result<Transaction> {
    let mut fill = Vec::new();
    let mut switch = Vec::new();
    let mut drain = Vec::new();
    let mut settled = Vec::new();
    for (family, tables) in &wanted.families {
        let family = FamilyDiff::new(state, *family, tables, touched)?;
        fill.extend(family.fill(state));
        let change = family.switch();
        if !change.is_empty() {
            switch.push(Phase::Chains(family.family, change));
        }
        drain.extend(family.drain(state));
        let plans = family.sets.values();
        settled.extend(plans.map(|plan| (plan.name.clone(), Arc::clone(&plan.wanted.members))));
    }
    let sets = |changes: Vec<SetChange>| (!changes.is_empty()).then_some(Phase::Sets(changes));
    let phases = sets(fill).into_iter().chain(switch).chain(sets(drain));
    Ok(Transaction {
        phases: phases.collect(),
        settled,
    })
}

struct FamilyDiff<'a> {
    family: Family,
    held: &'a HeldTables,
    tables: &'a Tables,
    /// The chains and sets that may differ; no others do.
    chains: BTreeSet<&'a String>,
    touched: BTreeSet<&'a SetId>,
    sets: BTreeMap<&'a SetId, SetPlan<'a>>,
    gate: GateSets,
    /// The names that sets have in the rules that are held; looked for when first asked.
    names: OnceCell<BTreeMap<SetId, SetName>>,
}

/// What is held of a family that nothing was read of.
static NOTHING: HeldTables = HeldTables {
    chains: BTreeMap::new(),
    jumps: BTreeMap::new(),
    strays: BTreeSet::new(),
    referenced: BTreeSet::new(),
};

impl<'a> FamilyDiff<'a> {
    fn new(state: &'a State, family: Family, tables: &'a Tables, touched: &'a Touched) -> Result<Self> {
        let held = state.families.get(&family).unwrap_or(&NOTHING);
        let chains: BTreeSet<&String> = of_family(&touched.chains, family).collect();
        let touched: BTreeSet<&SetId> = of_family(&touched.sets, family).collect();
        let mut uses = Uses::new(held, tables, chains.iter().copied());
        let gate = GateSets::of(family);
        let wanted = |id: &&'a SetId| tables.sets.get_key_value(*id);
        let (gates, others): (Vec<_>, Vec<_>) = touched
            .iter()
            .filter_map(wanted)
            .partition(|(id, _)| gate.has(id));
        let in_place = |uses: &Uses, id: &SetId, set| SetPlan::in_place(state, held, uses, (family, id), set);
        let mut sets = BTreeMap::new();
        for (id, set) in &gates {
            sets.extend(in_place(&uses, id, *set).map(|plan| (*id, plan)));
        }
        if sets.len() < gates.len() {
            // Both at once, as the chains do.
            uses.switch_gate();
            for (id, set) in gates {
                sets.insert(id, SetPlan::anew(state, id, set)?);
            }
        }
        for (id, set) in others {
            let plan = in_place(&uses, id, set).map_or_else(|| SetPlan::anew(state, id, set), Ok)?;
            sets.insert(id, plan);
        }
        Ok(Self {
            family,
            held,
            tables,
            chains,
            touched,
            sets,
            gate,
            names: OnceCell::new(),
        })
    }

    fn fill(&self, state: &'a State) -> Vec<SetChange> {
        let mut changes = self.gate(state).closes();
        for (_, plan) in self
            .sets
            .iter()
            .filter(|(id, plan)| plan.create || !self.gate.has(id))
        {
            changes.extend(plan.creation(self.family));
            changes.extend(plan.addition());
        }
        changes
    }

    /// What the gate's sets become where they change in place.
    fn gate(&self, state: &'a State) -> Gate<'a, '_> {
        let in_place = |id| self.sets.get(id).filter(|plan| !plan.create);
        let ranges = &self.gate.ranges;
        let before = current(state, self.held, ranges).map(|(_, set)| set.members.as_slice());
        let after = self.tables.sets.get(ranges).map(|set| set.members.as_slice());
        Gate {
            ranges: in_place(ranges),
            known: in_place(&self.gate.known),
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
        }
    }

    fn switch(&self) -> ChainChange {
        let renamed: BTreeSet<&SetId> = self
            .sets
            .iter()
            .filter(|(_, plan)| plan.create)
            .map(|(id, _)| *id)
            .collect();
        let refers = |chain: &&String| {
            let rules = self.tables.chains.get(*chain);
            let mut sets = rules.into_iter().flatten().filter_map(|rule| rule.set());
            sets.any(|set| renamed.contains(set))
        };
        let follow = self
            .tables
            .chains
            .keys()
            .filter(|chain| !renamed.is_empty() && refers(chain));
        let candidates: BTreeSet<&String> = self.chains.iter().copied().chain(follow).collect();
        let wanted = candidates
            .iter()
            .filter_map(|chain| self.tables.chains.get_key_value(*chain));
        let replace = wanted
            .map(|(chain, rules)| {
                (
                    chain.clone(),
                    rules
                        .iter()
                        .map(|rule| self.line(chain, rule))
                        .collect::<Vec<_>>(),
                )
            })
            .filter(|(chain, lines)| self.held.chains.get(chain) != Some(lines));
        let stale = candidates.iter().filter(|chain| {
            self.held.chains.contains_key(**chain) && !self.tables.chains.contains_key(**chain)
        });
        let (kept, delete): (Vec<_>, Vec<_>) = stale
            .map(|chain| (*chain).clone())
            .partition(|chain| self.held.referenced.contains(chain));
        // They stay until whoever leads there lets go of them, and say nothing.
        let kept = kept.into_iter().map(|chain| (chain, Vec::new()));
        let kept = kept.filter(|(chain, lines)| self.held.chains.get(chain) != Some(lines));
        ChainChange {
            replace: replace.chain(kept).collect(),
            delete: delete.into_iter().collect(),
            jumps: self.jumps(),
            strays: self.held.strays.clone(),
        }
    }

    /// A rule as it is written: its set by the name that it has, or will have.
    fn line(&self, chain: &str, rule: &Rule<SetId>) -> String {
        let bound = rule.map(|id| match self.sets.get(id) {
            Some(plan) => plan.name.clone(),
            None => self.bound(chain, id).unwrap_or_else(|| id.generation('a')),
        });
        bound.to_string()
    }

    /// The name of a set that nothing changes about, as the chain's rules have it, or else another's.
    fn bound(&self, chain: &str, id: &SetId) -> Option<SetName> {
        let mut own = self.held.chains.get(chain).into_iter().flatten();
        let named = own.find_map(|line| set_in(line).filter(|name| name.id() == *id));
        named.or_else(|| self.names().get(id).cloned())
    }

    fn names(&self) -> &BTreeMap<SetId, SetName> {
        self.names.get_or_init(|| {
            let lines = self.held.chains.values().flatten();
            let names = lines.filter_map(|line| set_in(line));
            names.map(|name| (name.id(), name)).collect()
        })
    }

    fn jumps(&self) -> BTreeMap<Hook, JumpChange> {
        let jumps = Hook::ALL.into_iter().filter_map(|hook| {
            let wanted = self.tables.hooks.get(&hook).into_iter().flatten();
            // They look no sets up.
            let wanted: Vec<String> = wanted.map(|rule| self.line(hook.chain(), rule)).collect();
            jump_change(self.held.jumps_in(hook), &wanted).map(|change| (hook, change))
        });
        jumps.collect()
    }

    fn drain(&self, state: &'a State) -> Vec<SetChange> {
        let others = self.sets.iter().filter(|(id, _)| !self.gate.has(id));
        let mut changes: Vec<SetChange> = others.filter_map(|(_, plan)| plan.removal()).collect();
        changes.extend(self.gate(state).opens());
        for id in &self.touched {
            let used = self.sets.get(*id).map(|plan| &plan.name);
            let stale = generations(state, id)
                .into_iter()
                .filter(|(name, _)| Some(*name) != used);
            changes.extend(stale.map(|(name, _)| SetChange::Destroy(name.clone())));
        }
        changes
    }
}

/// What makes these jumps the first rules of their chain. Those that come before others that stand come alone, and those that
/// go from before them, too: the rest do not move.
fn jump_change(held: &[(usize, String)], wanted: &[String]) -> Option<JumpChange> {
    let first = (1..).zip(held).all(|(place, (at, _))| place == *at);
    let held: Vec<String> = held.iter().map(|(_, rule)| rule.clone()).collect();
    if first && held == wanted {
        return None;
    }
    let stay = first && !held.is_empty() && !wanted.is_empty();
    let come = wanted.strip_suffix(held.as_slice()).filter(|_| stay);
    let go = held.strip_suffix(wanted).filter(|_| stay);
    let (remove, insert) = match (come, go) {
        (Some(come), _) => (&[][..], come),
        (None, Some(go)) => (go, &[][..]),
        (None, None) => (held.as_slice(), wanted),
    };
    Some(JumpChange {
        remove: remove.to_vec(),
        insert: insert.to_vec(),
    })
}

/// The parts of a family.
fn of_family<T: Ord>(parts: &BTreeSet<(Family, T)>, family: Family) -> impl Iterator<Item = &T> {
    parts
        .iter()
        .filter(move |(of, _)| *of == family)
        .map(|(_, part)| part)
}
