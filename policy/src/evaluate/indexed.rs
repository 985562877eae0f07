//! The evaluator for many questions about one world.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Flow, Lookup, Verdict, evaluate_in};
use crate::explain::{Explanation, explain_in};
use crate::model::{Direction, Namespace, Node, Pod, Policy};
use crate::world::{World, claim};

/// A world with its pods by address and its policies by namespace: answers exactly what [`evaluate`](crate::evaluate)
/// and [`explain`](crate::explain) answer, without looking at every pod and policy for each question.
#[derive(Debug, Clone)]
pub struct IndexedWorld<'w> {
    world: &'w World,
    holders: HashMap<IpAddr, &'w Pod>,
    policies: HashMap<&'w str, Vec<&'w Policy>>,
}

impl<'w> IndexedWorld<'w> {
    /// Indexes `world`, once for many questions.
    pub fn new(world: &'w World) -> Self {
        let mut holders: HashMap<IpAddr, &Pod> = HashMap::with_capacity(world.pods.len());
        for pod in world.pods.values().filter(|pod| pod.holds_addresses()) {
            for address in &pod.addresses {
                let holder = holders.entry(*address).or_insert(pod);
                if claim(pod) > claim(holder) {
                    *holder = pod;
                }
            }
        }
        let mut policies: HashMap<&str, Vec<&Policy>> = HashMap::new();
        for policy in world.policies.values() {
            policies.entry(&policy.key.namespace).or_default().push(policy);
        }
        Self {
            world,
            holders,
            policies,
        }
    }

    /// The world that is indexed.
    pub fn world(&self) -> &'w World {
        self.world
    }

    /// As [`evaluate`](crate::evaluate).
    pub fn evaluate(&self, flow: &Flow) -> Verdict {
        evaluate_in(self, flow)
    }

    /// As [`explain`](crate::explain).
    pub fn explain(&self, flow: &Flow) -> Explanation {
        explain_in(self, flow)
    }
}

impl Lookup for IndexedWorld<'_> {
    fn pod(&self, address: IpAddr) -> Option<&Pod> {
        self.holders.get(&address).copied()
    }

    fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.world.namespaces.get(name)
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.world.nodes.get(name)
    }

    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<&Policy> {
        let in_namespace = self.policies.get(pod.key.namespace.as_str());
        let in_namespace = in_namespace.into_iter().flatten().copied();
        in_namespace
            .filter(|policy| policy.isolates(pod, direction))
            .collect()
    }

    fn polices_own_node(&self) -> bool {
        self.world.polices_own_node
    }
}
