//! Where to find things in a world.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::labels::Selector;
use crate::model::{Pod, Policy};
use crate::world::{World, claim};

/// A world with its pods by namespace and by address, and its policies by namespace.
pub(super) struct Index<'w> {
    world: &'w World,
    pods: BTreeMap<&'w str, Vec<&'w Pod>>,
    holders: HashMap<IpAddr, &'w Pod>,
    policies: BTreeMap<&'w str, Vec<&'w Policy>>,
}

impl<'w> Index<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut pods: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        let mut holders: HashMap<IpAddr, &Pod> = HashMap::new();
        for pod in world.pods.values().filter(|pod| pod.holds_addresses()) {
            pods.entry(&pod.key.namespace).or_default().push(pod);
            for address in &pod.addresses {
                let holder = holders.entry(*address).or_insert(pod);
                if claim(pod) > claim(holder) {
                    *holder = pod;
                }
            }
        }
        let mut policies: BTreeMap<&str, Vec<&Policy>> = BTreeMap::new();
        for policy in world.policies.values() {
            policies.entry(&policy.key.namespace).or_default().push(policy);
        }
        Self {
            world,
            pods,
            holders,
            policies,
        }
    }

    /// The policies of a namespace, sorted by name.
    pub(super) fn policies(&self, namespace: &str) -> &[&'w Policy] {
        self.policies.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The addresses that `pod` holds against all others.
    pub(super) fn held_addresses(&self, pod: &Pod) -> Vec<IpAddr> {
        pod.addresses
            .iter()
            .copied()
            .filter(|address| self.holds(pod, address))
            .collect()
    }

    fn holds(&self, pod: &Pod, address: &IpAddr) -> bool {
        self.holders
            .get(address)
            .is_some_and(|holder| holder.key == pod.key)
    }

    /// Every pod with each address that it holds.
    pub(super) fn all_pods(&self) -> impl Iterator<Item = (&'w Pod, IpAddr)> {
        self.holders.iter().map(|(address, pod)| (*pod, *address))
    }

    /// The pods of a peer, with each address that they hold. `own` is the policy's namespace.
    pub(super) fn peer_pods(
        &self,
        own: &str,
        namespaces: Option<&Selector>,
        pods: Option<&Selector>,
    ) -> Vec<(&'w Pod, IpAddr)> {
        let selected = self.pods.iter().filter(|(name, _)| match namespaces {
            None => **name == own,
            Some(selector) => {
                let namespace = self.world.namespaces.get(**name);
                namespace.is_some_and(|namespace| selector.matches(&namespace.labels))
            }
        });
        selected
            .flat_map(|(_, in_namespace)| in_namespace)
            .filter(|pod| pods.is_none_or(|selector| selector.matches(&pod.labels)))
            .flat_map(|pod| pod.addresses.iter().map(|address| (*pod, *address)))
            .filter(|(pod, address)| self.holds(pod, address))
            .collect()
    }
}
