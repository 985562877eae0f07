//! What a node's policies mean in sets and chains, kept up to date part by part.
//!
//! ```text
//!  Compiled ─┬─ addresses of isolated pods ─► gate sets, dispatch trees      (dispatch)
//!            └─ isolations, each once ──────► sets of grants, a chain each   (grants), below it more for ports (ports)
//! ```
//!
//! A change is planned anew only where it is: an isolation, or the isolations that name a group of peers, or the trees.
//! What came out differently is noted as [`Touched`], so that nothing else has to be compared with the kernel either.

mod dispatch;
mod frame;
mod grants;
mod ports;
mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_policy::{Changes, Compiled, CompiledIsolation, Direction, NodePolicies};

use crate::names::{self, SetId};
use crate::options::Options;
use crate::rules::Rule;
use crate::ruleset::{Element, Family, Ruleset, Set, SetKind, Touched};
use served::{Service, isolated, served};

/// How often a packet may jump from chain to chain, the built-in one not counted: nftables refuses more ("Too many links").
pub const JUMPS: usize = 15;
/// The most levels of the tree that finds what is granted at a port, below its root.
const PORT_JUMPS: usize = 5;
/// The most levels of the tree that finds a pod, below its root: what is left when a packet has been to the first chain,
/// that root, the pod's chain, the root of its ports, their tree, and the end.
const POD_JUMPS: usize = JUMPS - 5 - PORT_JUMPS;

/// Egress first: a packet leaves one pod before it reaches another.
pub const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// The rules that enforce `policies` on a node with these addresses, for these families.
pub fn plan(policies: &NodePolicies, node: &[IpAddr], families: &[Family], options: &Options) -> Ruleset {
    let mut planner = Planner::new(families, options);
    planner.update(&Compiled::from(policies), node, &Stale::everything());
    planner.ruleset
}

/// What a plan no longer says rightly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stale {
    everything: bool,
    pods: bool,
    isolations: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Stale {
    /// All of it.
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// What these changes are about, too.
    pub fn note(&mut self, changes: &Changes) {
        self.pods |= !changes.pods.is_empty();
        self.isolations.extend(changes.isolations.keys().cloned());
        self.groups.extend(changes.groups.keys().cloned());
    }
}

/// Plans, and keeps what it planned.
#[derive(Debug)]
pub struct Planner {
    options: Options,
    guarded: bool,
    ruleset: Ruleset,
    touched: Touched,
    isolations: BTreeMap<String, Planned>,
    groups: BTreeMap<String, Group>,
    /// How many isolations use each set of a family. The sets of groups are shared.
    users: BTreeMap<(Family, SetId), usize>,
}

/// What was planned for an isolation.
#[derive(Debug)]
struct Planned {
    service: Service,
    groups: BTreeSet<String>,
    chains: BTreeSet<(Family, String)>,
    sets: BTreeSet<(Family, SetId)>,
}

/// A group of peers that isolations use.
#[derive(Debug, Default)]
struct Group {
    used_by: BTreeSet<String>,
    /// Its members as sets can hold them, family by family; filled when they are needed.
    nets: BTreeMap<Family, Arc<Vec<IpNet>>>,
}

impl Planner {
    /// A planner for these families that knows no pods yet.
    pub fn new(families: &[Family], options: &Options) -> Self {
        let tables = |family: &Family| (*family, frame::tables(*family, options));
        let mut planner = Self {
            options: options.clone(),
            guarded: true,
            ruleset: Ruleset {
                families: families.iter().map(tables).collect(),
            },
            touched: Touched::default(),
            isolations: BTreeMap::new(),
            groups: BTreeMap::new(),
            users: BTreeMap::new(),
        };
        // Nobody has looked yet whether connections are revoked.
        planner.guard(true);
        planner.touched = Touched::all(&planner.ruleset);
        planner
    }

    /// What the kernel ought to hold.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What of the ruleset has become another since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Plans anew what is stale, for a node with these addresses.
    pub fn update(&mut self, compiled: &Compiled, node: &[IpAddr], stale: &Stale) {
        let families: Vec<Family> = self.ruleset.families.keys().copied().collect();
        for family in &families {
            self.put_set(*family, SetId::node(*family), frame::own_addresses(*family, node));
        }
        let pods = stale.pods || stale.everything;
        let served = pods.then(|| served(compiled, &self.ruleset));
        for id in &self.stale_isolations(compiled, stale, served.as_ref()) {
            let service = match (&served, self.isolations.get(id)) {
                (Some(served), _) => served.get(id).cloned(),
                (None, planned) => planned.map(|planned| planned.service.clone()),
            };
            match compiled.isolations.get(id).zip(service) {
                Some((isolation, service)) => self.plan_isolation(id, isolation, service, compiled),
                None => self.forget_isolation(id),
            }
        }
        if pods {
            for family in families {
                for direction in DIRECTIONS {
                    self.plan_tree(compiled, family, direction);
                }
            }
        }
    }

    /// Plans anew which local addresses are let through: those of pods, and those of the node itself, among them the ones
    /// that only its interfaces have. Nothing where unknown pods are not to be held back.
    pub fn update_gate(&mut self, compiled: &Compiled, node: &[IpAddr], ranges: &[IpNet]) {
        if !self.options.gate_unknown_pods {
            return;
        }
        let pods = compiled
            .pods
            .values()
            .flat_map(|pod| pod.addresses.iter().copied());
        let node = node
            .iter()
            .copied()
            .filter(|address| ranges.iter().any(|range| range.contains(address)));
        let known: Vec<IpAddr> = pods.chain(node).collect();
        let families: Vec<Family> = self.ruleset.families.keys().copied().collect();
        for family in families {
            let (ranges, known) = frame::gate_sets(family, ranges, known.iter().copied());
            self.put_set(family, SetId::pod_ranges(family), ranges);
            self.put_set(family, SetId::known(family), known);
        }
    }

    /// Plans the ways in: while no connection is revoked, packets of known ones are spared a comparison.
    pub fn guard(&mut self, revoked: bool) {
        self.guarded = revoked;
        for tables in self.ruleset.families.values_mut() {
            tables.hooks = frame::hooks(&self.options, revoked);
        }
    }

    /// Whether packets of known connections are compared with the mark of revoked ones.
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// The isolations to plan anew. Empties what is known of the groups that changed.
    fn stale_isolations(
        &mut self,
        compiled: &Compiled,
        stale: &Stale,
        served: Option<&BTreeMap<String, Service>>,
    ) -> BTreeSet<String> {
        if stale.everything {
            self.groups.values_mut().for_each(|group| group.nets.clear());
            let planned = self.isolations.keys();
            return compiled.isolations.keys().chain(planned).cloned().collect();
        }
        let mut isolations = stale.isolations.clone();
        for id in &stale.groups {
            if let Some(group) = self.groups.get_mut(id) {
                group.nets.clear();
                isolations.extend(group.used_by.iter().cloned());
            }
        }
        if let Some(served) = served {
            let others = self
                .isolations
                .iter()
                .filter(|(id, planned)| served.get(*id) != Some(&planned.service));
            isolations.extend(others.map(|(id, _)| id.clone()));
        }
        isolations
    }

    fn plan_isolation(
        &mut self,
        id: &str,
        isolation: &CompiledIsolation,
        service: Service,
        compiled: &Compiled,
    ) {
        let groups = isolation.grants.iter().filter_map(|grant| grant.group.clone());
        let groups: BTreeSet<String> = groups.collect();
        for group in &groups {
            let group = self.groups.entry(group.clone()).or_default();
            group.used_by.insert(id.to_owned());
        }
        let (mut chains, mut sets) = (BTreeSet::new(), BTreeSet::new());
        let options = self.options.clone();
        for family in &service.families {
            let nets = |group: &str| self.nets(group, compiled, *family);
            let place = (service.direction, *family);
            let fragment = grants::fragment(id, isolation, place, &options, nets);
            for (set, content) in fragment.sets {
                sets.insert((*family, set.clone()));
                self.put_set(*family, set, content);
            }
            for (chain, rules) in fragment.chains {
                chains.insert((*family, chain.clone()));
                self.put_chain(*family, chain, rules);
            }
        }
        for set in &sets {
            *self.users.entry(set.clone()).or_default() += 1;
        }
        let planned = Planned {
            service,
            groups,
            chains,
            sets,
        };
        if let Some(old) = self.isolations.insert(id.to_owned(), planned) {
            self.release(id, &old);
        }
    }

    fn forget_isolation(&mut self, id: &str) {
        if let Some(old) = self.isolations.remove(id) {
            self.release(id, &old);
        }
    }

    /// Lets go of what an isolation used, once: what it still uses, it uses by its present plan.
    fn release(&mut self, id: &str, old: &Planned) {
        for set in &old.sets {
            let Some(users) = self.users.get_mut(set) else {
                continue;
            };
            *users -= 1;
            if *users == 0 {
                self.users.remove(set);
                self.drop_set(set.0, &set.1);
            }
        }
        let now = self.isolations.get(id).map(|planned| &planned.chains);
        let left = old
            .chains
            .iter()
            .filter(|chain| now.is_none_or(|now| !now.contains(*chain)));
        for (family, chain) in left.cloned().collect::<Vec<_>>() {
            self.drop_chain(family, &chain);
        }
        let now = self.isolations.get(id).map(|planned| &planned.groups);
        for group in old
            .groups
            .iter()
            .filter(|group| now.is_none_or(|now| !now.contains(*group)))
        {
            let Some(known) = self.groups.get_mut(group) else {
                continue;
            };
            known.used_by.remove(id);
            if known.used_by.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// The members of a group of a family, as sets can hold them.
    fn nets(&mut self, group: &str, compiled: &Compiled, family: Family) -> Arc<Vec<IpNet>> {
        let known = self.groups.entry(group.to_owned()).or_default();
        let fill = || {
            // A group that is missing has no members: what cannot be found stays closed.
            let members = compiled.groups.get(group);
            Arc::new(members.map_or_else(Vec::new, |members| grants::networks(members, family)))
        };
        Arc::clone(known.nets.entry(family).or_insert_with(fill))
    }

    fn plan_tree(&mut self, compiled: &Compiled, family: Family, direction: Direction) {
        let isolated = isolated(compiled, family, direction);
        let gate = isolated.keys().map(|address| Element::address(*address));
        self.put_set(
            family,
            SetId::isolated(family, direction),
            Set::new(SetKind::Address, gate),
        );
        let leaves: Vec<(IpAddr, String)> = isolated
            .into_iter()
            .map(|(address, id)| (address, names::isolation_chain(id)))
            .collect();
        let tree = dispatch::tree(direction, &leaves, self.options.leaf_size, POD_JUMPS);
        let tables = self.ruleset.families.get(&family);
        let old = tables.into_iter().flat_map(|tables| tables.chains.keys());
        let gone: Vec<String> = old
            .filter(|chain| dispatch::is_of_tree(chain, direction) && !tree.contains_key(*chain))
            .cloned()
            .collect();
        gone.iter().for_each(|chain| self.drop_chain(family, chain));
        tree.into_iter()
            .for_each(|(chain, rules)| self.put_chain(family, chain, rules));
    }

    fn put_set(&mut self, family: Family, id: SetId, set: Set) {
        let Some(tables) = self.ruleset.families.get_mut(&family) else {
            return;
        };
        if tables.sets.get(&id) != Some(&set) {
            self.touched.sets.insert((family, id.clone()));
            tables.sets.insert(id, set);
        }
    }

    fn drop_set(&mut self, family: Family, id: &SetId) {
        let tables = self.ruleset.families.get_mut(&family);
        if tables.is_some_and(|tables| tables.sets.remove(id).is_some()) {
            self.touched.sets.insert((family, id.clone()));
        }
    }

    fn put_chain(&mut self, family: Family, chain: String, rules: Vec<Rule<SetId>>) {
        let Some(tables) = self.ruleset.families.get_mut(&family) else {
            return;
        };
        if tables.chains.get(&chain) != Some(&rules) {
            self.touched.chains.insert((family, chain.clone()));
            tables.chains.insert(chain, rules);
        }
    }

    fn drop_chain(&mut self, family: Family, chain: &str) {
        let tables = self.ruleset.families.get_mut(&family);
        if tables.is_some_and(|tables| tables.chains.remove(chain).is_some()) {
            self.touched.chains.insert((family, chain.to_owned()));
        }
    }
}
