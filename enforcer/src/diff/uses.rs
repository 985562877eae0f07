//! How rules use sets, before and after: what decides whether a set can change in place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_policy::Direction;

use crate::names::{self, SetId, SetName};
use crate::plan::DIRECTIONS;
use crate::rules::{Rule, parse};
use crate::ruleset::Tables;
use crate::state::HeldTables;

/// A chain's rules with sets by their meaning. `None` stands for a rule that we never write.
type Rules = Vec<Option<Rule<SetId>>>;

/// The chains that differ, as they are and as they will be. All others are the same.
pub(super) struct Uses<'a> {
    wanted: &'a Tables,
    old: Side,
    new: Side,
    /// Some pod is served by another chain than before.
    moves: bool,
    /// The gate changes with the chains.
    gate_switches: bool,
}

/// The chains that differ, on one side.
#[derive(Default)]
struct Side {
    chains: BTreeMap<String, Rules>,
    /// The isolated addresses in them, each with the chain that serves it.
    serves: BTreeMap<(Direction, IpAddr), String>,
}

impl<'a> Uses<'a> {
    /// Compares these chains of what is held and what is wanted.
    pub(super) fn new<'c>(
        held: &HeldTables,
        wanted: &'a Tables,
        chains: impl Iterator<Item = &'c String>,
    ) -> Self {
        let (mut old, mut new) = (Side::default(), Side::default());
        for chain in chains {
            let before = held.chains.get(chain).map(|lines| logical(lines));
            let after = wanted.chains.get(chain);
            let after = after.map(|rules| rules.iter().cloned().map(Some).collect::<Rules>());
            if before != after {
                old.chains.extend(before.map(|rules| (chain.clone(), rules)));
                new.chains.extend(after.map(|rules| (chain.clone(), rules)));
            }
        }
        let (old, new) = (old.find_pods(), new.find_pods());
        let stays = |(pod, chain): (&_, &String)| old.serves.get(pod).is_none_or(|was| was == chain);
        let moves = !new.serves.iter().all(stays);
        let differs = |chain: &str| old.chains.contains_key(chain) || new.chains.contains_key(chain);
        let gate_switches =
            differs(names::FORWARD) || DIRECTIONS.map(names::unknown).into_iter().any(differs);
        Self {
            wanted,
            old,
            new,
            moves,
            gate_switches,
        }
    }

    /// The gate's sets change with the chains, too.
    pub(super) fn switch_gate(&mut self) {
        self.gate_switches = true;
    }

    /// Whether elements may be added to the set while the old chains stand.
    pub(super) fn grows(&self, set: &SetId) -> bool {
        self.survives(&self.old, &self.new, set)
    }

    /// Whether elements may be left in the set until the new chains stand.
    pub(super) fn shrinks(&self, set: &SetId) -> bool {
        self.survives(&self.new, &self.old, set)
    }

    /// Whether every use of the set in `from` is one in `to` as well: each pod that a rule with the set serves in `from`
    /// is served by an equal rule in `to`, or by none because it is open there, or held back by the gate in the meantime.
    fn survives(&self, from: &Side, to: &Side, set: &SetId) -> bool {
        if from.chains.is_empty() && to.chains.is_empty() {
            return true;
        }
        if self.gate_switches && !from.serves.keys().eq(to.serves.keys()) {
            // A pod that only one side serves may be held back on the other, instead of open.
            return false;
        }
        let differs = |chain: &String| from.chains.contains_key(chain) || to.chains.contains_key(chain);
        let same = self.wanted.chains.iter().filter(|(chain, _)| !differs(chain));
        let mut uses = same
            .flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)))
            .chain(from.rules())
            .filter(|(_, rule)| rule.set() == Some(set));
        uses.all(|(chain, rule)| {
            let has = |chain: &String| self.has(to, chain, rule);
            if names::is_port_chain(chain) {
                // Whom it serves is not looked for: a set too many that is made anew costs little.
                return has(chain) && !self.moves;
            }
            // A chain of pods that is gone serves none; whom it served is looked for below.
            let gone = from.chains.contains_key(chain) && !to.chains.contains_key(chain);
            let served = chain.starts_with(&names::isolation_chain(""));
            let stays = has(chain) || (served && gone);
            stays && from.moved(to, chain).all(has)
        })
    }

    /// Whether the chain has such a rule on that side.
    fn has(&self, side: &Side, chain: &String, rule: &Rule<SetId>) -> bool {
        let differs = self.old.chains.contains_key(chain) || self.new.chains.contains_key(chain);
        if differs {
            let rules = side.chains.get(chain);
            return rules.is_some_and(|rules| rules.iter().flatten().any(|other| other == rule));
        }
        let rules = self.wanted.chains.get(chain);
        rules.is_some_and(|rules| rules.contains(rule))
    }
}

impl Side {
    fn find_pods(mut self) -> Self {
        for rule in self.chains.values().flatten().flatten() {
            if let Rule::Branch {
                direction,
                prefix,
                chain,
            } = rule
                && prefix.prefix_len() == prefix.max_prefix_len()
                && chain.starts_with(&names::isolation_chain(""))
            {
                self.serves.insert((*direction, prefix.addr()), chain.clone());
            }
        }
        self
    }

    fn rules(&self) -> impl Iterator<Item = (&String, &Rule<SetId>)> {
        let chains = self.chains.iter();
        chains.flat_map(|(chain, rules)| rules.iter().flatten().map(move |rule| (chain, rule)))
    }

    /// The chains that serve, on the other side, pods which `chain` serves on this one.
    fn moved<'s>(&'s self, to: &'s Side, chain: &'s String) -> impl Iterator<Item = &'s String> {
        let pods = self.serves.iter().filter(move |(_, serving)| *serving == chain);
        let now: BTreeSet<&String> = pods.filter_map(|(pod, _)| to.serves.get(pod)).collect();
        now.into_iter()
    }
}

fn logical(lines: &[String]) -> Rules {
    lines
        .iter()
        .map(|line| parse::rule(line).map(|rule| rule.map(SetName::id)))
        .collect()
}
