//! Which pods are isolated, by what, and what is open all the same.

mod covers;
mod openings;

use std::collections::BTreeMap;

pub use openings::{Opening, Openness};

use crate::model::{Direction, ObjectKey, Pod, Policy};
use crate::world::World;

/// The policies that isolate `pod` in `direction`, in the order of their names.
pub fn isolating<'w>(world: &'w World, pod: &Pod, direction: Direction) -> Vec<&'w Policy> {
    world
        .policies
        .values()
        .filter(|policy| policy.isolates(pod, direction))
        .collect()
}

/// How well the pods of a cluster are covered by policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Every pod that policies can act on: it has addresses of its own, or will have when it starts.
    pub pods: BTreeMap<ObjectKey, PodCoverage>,
    /// The pods that policies cannot act on, because they use their node's network.
    pub host_network: Vec<ObjectKey>,
}

/// How a pod is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCoverage {
    /// What comes in.
    pub ingress: DirectionCoverage,
    /// What goes out.
    pub egress: DirectionCoverage,
}

/// How a pod is covered in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectionCoverage {
    /// The policies that isolate it, in the order of their names. None: everything is open.
    pub isolated_by: Vec<ObjectKey>,
    /// The rules that open more than the pod's own namespace.
    pub openings: Vec<Opening>,
    /// The rules together allow everyone every port, so that isolation closes nothing.
    pub allows_all: bool,
    /// The rules of foreign policies that allow what no other policy of the pod allows. Empty where all or none of the
    /// policies that isolate the pod are foreign: then none reopens what another closes.
    pub reopened: Vec<Reopening>,
}

/// A rule of a foreign policy that opens what other policies leave closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reopening {
    /// The foreign policy.
    pub policy: ObjectKey,
    /// The rule's index in its direction.
    pub rule: usize,
}

impl DirectionCoverage {
    /// Whether a policy isolates the pod.
    pub fn is_isolated(&self) -> bool {
        !self.isolated_by.is_empty()
    }

    /// Whether anyone may use any port: no policy isolates the pod, or those that do allow all.
    pub fn is_open(&self) -> bool {
        !self.is_isolated() || self.allows_all
    }

    /// Whether some port is open to addresses outside the cluster at large: the pod is not isolated, or a rule names
    /// everyone or a network as wide as the internet.
    pub fn is_open_to_the_world(&self) -> bool {
        let world = |opening: &Opening| matches!(opening.to, Openness::Everyone | Openness::World);
        !self.is_isolated() || self.openings.iter().any(world)
    }

    /// Whether some port is open to pods of other namespaces. The whole world includes them only where a rule names
    /// everyone; a network is judged by what it is, not by who has an address in it.
    pub fn is_open_to_other_namespaces(&self) -> bool {
        let others = |opening: &Opening| matches!(opening.to, Openness::Everyone | Openness::Namespaces(_));
        !self.is_isolated() || self.openings.iter().any(others)
    }
}

impl PodCoverage {
    /// The coverage of a direction.
    pub fn direction(&self, direction: Direction) -> &DirectionCoverage {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Coverage {
    /// The pods that policies can act on and that anyone can reach, or that can reach anyone: not isolated, or opened by
    /// an allow-all.
    pub fn open(&self, direction: Direction) -> impl Iterator<Item = &ObjectKey> {
        let open = self
            .pods
            .iter()
            .filter(move |(_, pod)| pod.direction(direction).is_open());
        open.map(|(key, _)| key)
    }

    /// The foreign policies that reopen what others close, each with the pods it does that to.
    pub fn reopening(&self) -> BTreeMap<ObjectKey, Vec<ObjectKey>> {
        let mut reopening: BTreeMap<ObjectKey, Vec<ObjectKey>> = BTreeMap::new();
        for (key, pod) in &self.pods {
            for by in pod.ingress.reopened.iter().chain(&pod.egress.reopened) {
                let pods = reopening.entry(by.policy.clone()).or_default();
                if pods.last() != Some(key) {
                    pods.push(key.clone());
                }
            }
        }
        reopening
    }
}

/// Reads how every pod is covered. `is_foreign` tells the policies that are somebody else's.
pub fn coverage(world: &World, is_foreign: impl Fn(&Policy) -> bool) -> Coverage {
    let mut in_namespace: BTreeMap<&str, Vec<&Policy>> = BTreeMap::new();
    for policy in world.policies.values() {
        in_namespace
            .entry(&policy.key.namespace)
            .or_default()
            .push(policy);
    }
    let read = |pod: &Pod, direction| {
        let policies = in_namespace.get(pod.key.namespace.as_str()).into_iter().flatten();
        let policies: Vec<&Policy> = policies
            .copied()
            .filter(|policy| policy.isolates(pod, direction))
            .collect();
        DirectionCoverage {
            isolated_by: policies.iter().map(|policy| policy.key.clone()).collect(),
            openings: openings::of(world, &policies, direction),
            allows_all: openings::allow_all(&policies, direction, pod),
            reopened: reopened(&policies, direction, &is_foreign),
        }
    };
    let mut coverage = Coverage::default();
    for pod in world.pods.values() {
        if pod.finished {
            continue;
        }
        if pod.host_network {
            coverage.host_network.push(pod.key.clone());
        } else {
            let covered = PodCoverage {
                ingress: read(pod, Direction::Ingress),
                egress: read(pod, Direction::Egress),
            };
            coverage.pods.insert(pod.key.clone(), covered);
        }
    }
    coverage
}

/// The rules of foreign policies that allow more than the other policies do together.
fn reopened(
    policies: &[&Policy],
    direction: Direction,
    is_foreign: impl Fn(&Policy) -> bool,
) -> Vec<Reopening> {
    let (foreign, ours): (Vec<&Policy>, Vec<&Policy>) =
        policies.iter().partition(|policy| is_foreign(policy));
    if ours.is_empty() {
        return Vec::new();
    }
    let ours = || {
        ours.iter()
            .flat_map(|policy| policy.rules(direction).unwrap_or_default())
    };
    let rules = foreign.iter().flat_map(|policy| {
        let rules = policy.rules(direction).unwrap_or_default().iter().enumerate();
        rules.map(|(index, rule)| (&policy.key, index, rule))
    });
    rules
        .filter(|(_, _, rule)| !covers::covered(rule, &ours()))
        .map(|(policy, rule, _)| Reopening {
            policy: policy.clone(),
            rule,
        })
        .collect()
}
