//! How the evaluator finds things.

use std::net::IpAddr;

use crate::coverage::isolating;
use crate::model::{Direction, Namespace, Node, Pod, Policy};
use crate::world::World;

/// How the evaluator finds things: [`World`] scans, which is obviously right; an index must answer the same.
pub(crate) trait Lookup {
    /// The pod that holds an address.
    fn pod(&self, address: IpAddr) -> Option<&Pod>;
    /// The namespace of this name.
    fn namespace(&self, name: &str) -> Option<&Namespace>;
    /// The node of this name.
    fn node(&self, name: &str) -> Option<&Node>;
    /// The policies that isolate `pod` in `direction`, in the order of their names.
    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<&Policy>;
    /// Whether policies act on what pods send to their own node.
    fn polices_own_node(&self) -> bool;
}

impl Lookup for World {
    fn pod(&self, address: IpAddr) -> Option<&Pod> {
        self.pod_at(address)
    }

    fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<&Policy> {
        isolating(self, pod, direction)
    }

    fn polices_own_node(&self) -> bool {
        self.polices_own_node
    }
}
