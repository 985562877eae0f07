//! The isolations of the local pods, and what each is made of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::super::grants::{Collector, numeric};
use super::super::groups::{Definition, define};
use super::super::isolation::{Likeness, likeness};
use super::super::{PortRange, Ports};
use super::cohorts::{Cohorts, Meaning, Slot};
use super::compiled::{Compiled, CompiledGrant, CompiledIsolation};
use super::journal::Journal;
use super::store::Store;
use crate::digest::digest;
use crate::model::{Direction, ObjectKey, Pod, Policy, PortMatch, PortSpec, Rule};

/// One grant of an isolation, before the groups of named ports are known.
#[derive(Debug, Clone)]
enum Item {
    /// These ports, to the one group of a cohort or to anyone.
    Ports(Option<Slot>, Ports),
    /// The number that the group is for, to each group of a cohort.
    Named(Slot, crate::model::Protocol),
}

impl Item {
    fn cohort(&self) -> Option<Slot> {
        match self {
            Self::Ports(cohort, _) => *cohort,
            Self::Named(cohort, _) => Some(*cohort),
        }
    }
}

#[derive(Debug, Clone)]
struct Isolation {
    likeness: Likeness,
    items: Vec<Item>,
    /// How many local pods have it.
    pods: usize,
}

/// The isolations of the local pods.
#[derive(Debug, Clone, Default)]
pub(super) struct Isolations {
    by_id: HashMap<String, Isolation>,
    by_policy: HashMap<ObjectKey, BTreeSet<String>>,
    orphans: BTreeSet<String>,
}

/// What is changed together with isolations.
pub(super) struct Context<'a> {
    pub(super) store: &'a Store,
    pub(super) cohorts: &'a mut Cohorts,
    pub(super) compiled: &'a mut Compiled,
    pub(super) journal: &'a mut Journal,
}

impl Isolations {
    /// The isolation of a pod, with one more pod now; `None` where no policy isolates it.
    pub(super) fn acquire(
        &mut self,
        pod: &Pod,
        direction: Direction,
        context: &mut Context<'_>,
    ) -> Option<String> {
        let in_namespace = context.store.policies_in(&pod.key.namespace);
        let policies: Vec<&Policy> = in_namespace
            .map(Arc::as_ref)
            .filter(|policy| policy.isolates(pod, direction))
            .collect();
        if policies.is_empty() {
            return None;
        }
        let likeness = likeness(pod, direction, &policies);
        let id = digest(&likeness);
        if !self.by_id.contains_key(&id) {
            self.create(&id, likeness, context);
        }
        if let Some(isolation) = self.by_id.get_mut(&id) {
            isolation.pods += 1;
        }
        Some(id)
    }

    /// One pod fewer has the isolation.
    pub(super) fn release(&mut self, id: &str) {
        if let Some(isolation) = self.by_id.get_mut(id) {
            isolation.pods = isolation.pods.saturating_sub(1);
            if isolation.pods == 0 {
                self.orphans.insert(id.to_owned());
            }
        }
    }

    fn create(&mut self, id: &str, likeness: Likeness, context: &mut Context<'_>) {
        for policy in &likeness.policies {
            self.by_policy
                .entry(policy.clone())
                .or_default()
                .insert(id.to_owned());
        }
        let isolation = Isolation {
            likeness,
            items: Vec::new(),
            pods: 0,
        };
        self.by_id.insert(id.to_owned(), isolation);
        self.build(id, context);
    }

    /// The isolations that a policy takes part in.
    pub(super) fn of_policy(&self, policy: &ObjectKey) -> Vec<String> {
        self.by_policy
            .get(policy)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Builds what the policies of an isolation allow, from what they say now.
    pub(super) fn build(&mut self, id: &str, context: &mut Context<'_>) {
        let Some(isolation) = self
            .by_id
            .get_mut(id)
            .filter(|isolation| !self.orphans.contains(id) || isolation.pods > 0)
        else {
            return;
        };
        let policies = isolation.likeness.policies.iter();
        let policies: Vec<Arc<Policy>> = policies
            .filter_map(|key| context.store.policy(key).cloned())
            .collect();
        let mut items = Vec::new();
        for policy in &policies {
            for rule in policy.rules(isolation.likeness.direction).unwrap_or_default() {
                rule_items(&mut items, id, &isolation.likeness, policy, rule, context);
            }
        }
        let kept: BTreeSet<Slot> = items.iter().filter_map(Item::cohort).collect();
        let old = std::mem::replace(&mut isolation.items, items);
        for slot in old
            .iter()
            .filter_map(Item::cohort)
            .filter(|slot| !kept.contains(slot))
        {
            context.cohorts.release(slot, id);
        }
        self.compile(id, context);
    }

    /// Writes down what an isolation allows, with the groups that its cohorts have now.
    pub(super) fn compile(&self, id: &str, context: &mut Context<'_>) {
        let Some(isolation) = self.by_id.get(id) else {
            return;
        };
        context.journal.touch_isolation(id, context.compiled);
        let mut collector = Collector::new();
        for item in &isolation.items {
            let cohort = item.cohort().and_then(|slot| context.cohorts.get(slot));
            match item {
                Item::Ports(None, ports) => collector.add(None, None, ports.clone()),
                Item::Ports(Some(_), ports) => {
                    let group = cohort.and_then(|cohort| cohort.groups.get(&None));
                    if let Some(group) = group {
                        collector.add(Some(group.clone()), Some(group.clone()), ports.clone());
                    }
                }
                Item::Named(_, protocol) => {
                    for (number, group) in cohort.into_iter().flat_map(|cohort| &cohort.groups) {
                        let one = number.map(|number| PortRange::one(*protocol, number));
                        let ports = Ports::Only(one.into_iter().collect());
                        collector.add(Some(group.clone()), Some(group.clone()), ports);
                    }
                }
            }
        }
        let compiled = CompiledIsolation {
            policies: isolation.likeness.policies.clone(),
            grants: collector.finish(|group, ports| CompiledGrant { group, ports }),
        };
        context.compiled.isolations.insert(id.to_owned(), compiled);
    }

    /// Removes the isolations that no pod has.
    pub(super) fn sweep(&mut self, context: &mut Context<'_>) {
        for id in std::mem::take(&mut self.orphans) {
            if self.by_id.get(&id).is_none_or(|isolation| isolation.pods > 0) {
                continue;
            }
            let Some(isolation) = self.by_id.remove(&id) else {
                continue;
            };
            for policy in &isolation.likeness.policies {
                if let Some(ids) = self.by_policy.get_mut(policy) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.by_policy.remove(policy);
                    }
                }
            }
            for slot in isolation.items.iter().filter_map(Item::cohort) {
                context.cohorts.release(slot, &id);
            }
            context.journal.touch_isolation(&id, context.compiled);
            context.compiled.isolations.remove(&id);
        }
    }
}

/// What one rule adds to an isolation.
fn rule_items(
    items: &mut Vec<Item>,
    id: &str,
    likeness: &Likeness,
    policy: &Policy,
    rule: &Rule,
    context: &mut Context<'_>,
) {
    let definition = define(&policy.key.namespace, rule.peers.as_deref());
    let mut acquire = |definition: &Definition, port| {
        let meaning = Meaning {
            definition: definition.clone(),
            port,
        };
        let mut groups = context.journal.groups(context.compiled);
        context.cohorts.acquire(meaning, id, context.store, &mut groups)
    };
    let ports = match &rule.ports {
        None => Ports::Any,
        Some(ports) => Ports::Only(ports.iter().flat_map(|port| ranges(port, likeness)).collect()),
    };
    if !matches!(&ports, Ports::Only(ranges) if ranges.is_empty()) {
        let peers = rule.peers.is_some().then(|| acquire(&definition, None));
        items.push(Item::Ports(peers, ports));
    }
    if likeness.direction == Direction::Egress {
        for port in rule.ports.iter().flatten() {
            if let Some(PortSpec::Named(name)) = &port.port {
                let cohort = acquire(&definition, Some((port.protocol, name.clone())));
                items.push(Item::Named(cohort, port.protocol));
            }
        }
    }
}

/// The ranges that a port stands for. Names are resolved here for ingress, where the destination is the local pod.
fn ranges(port: &PortMatch, likeness: &Likeness) -> Vec<PortRange> {
    let Some(PortSpec::Named(name)) = &port.port else {
        return numeric(port).into_iter().collect();
    };
    let declared = likeness
        .named_ports
        .iter()
        .filter(|(protocol, declared, _)| *protocol == port.protocol && declared == name);
    declared
        .flat_map(|(protocol, _, numbers)| numbers.iter().map(|number| PortRange::one(*protocol, *number)))
        .collect()
}
