//! Everything that decides about traffic, at one moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Namespace, Node, ObjectKey, Pod, Policy};
use crate::service::{EndpointSlice, Service};

/// Everything that decides about traffic, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<ObjectKey, Pod>,
    /// Policies by namespace and name.
    pub policies: BTreeMap<ObjectKey, Policy>,
    /// Services by namespace and name.
    pub services: BTreeMap<ObjectKey, Service>,
    /// EndpointSlices by namespace and name. A Service with none of them has the pods it selects as backends.
    pub endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// Pods that are not ready, which matters only to Services without EndpointSlices.
    pub unready: BTreeSet<ObjectKey>,
    /// Whether policies also act on what pods send to their own node, which the API leaves to whoever enforces. What a
    /// node sends to its own pods always passes: the kubelet's probes come that way.
    pub polices_own_node: bool,
}

impl World {
    /// The pod that holds `address`.
    ///
    /// An address that was freed can be given to a new pod while the old one's object is still there: the pod that is
    /// not terminating holds it.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods
            .values()
            .filter(|pod| pod.holds_addresses() && pod.addresses.contains(&address))
            .max_by_key(|pod| claim(pod))
    }

    /// The node that `address` belongs to.
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }

    /// Adds a namespace, or replaces the one of that name.
    pub fn insert_namespace(&mut self, namespace: Namespace) {
        self.namespaces.insert(namespace.name.clone(), namespace);
    }

    /// Adds a node, or replaces the one of that name.
    pub fn insert_node(&mut self, node: Node) {
        self.nodes.insert(node.name.clone(), node);
    }

    /// Adds a pod, or replaces the one of that name.
    pub fn insert_pod(&mut self, pod: Pod) {
        self.pods.insert(pod.key.clone(), pod);
    }

    /// Adds a Service, or replaces the one of that name.
    pub fn insert_service(&mut self, service: Service) {
        self.services.insert(service.key.clone(), service);
    }

    /// Adds an EndpointSlice, or replaces the one of that name.
    pub fn insert_endpoint_slice(&mut self, slice: EndpointSlice) {
        self.endpoint_slices.insert(slice.key.clone(), slice);
    }

    /// Adds a policy, or replaces the one of that name.
    pub fn insert_policy(&mut self, policy: Policy) {
        self.policies.insert(policy.key.clone(), policy);
    }
}

/// How strong a pod's claim to its addresses is: pods that stay before pods that go, then the first by name, so that
/// every reader decides alike.
pub(crate) fn claim(pod: &Pod) -> (bool, Reverse<&ObjectKey>) {
    (!pod.terminating, Reverse(&pod.key))
}
