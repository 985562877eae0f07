//! Isolations, shared by the pods that are alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::groups::Groups;
use super::index::Index;
use super::{Isolation, LocalPod, grants};
use crate::digest::digest;
use crate::model::{Direction, ObjectKey, Pod, Policy, PortSpec, Protocol};

/// What makes two pods alike in one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Likeness {
    pub(super) direction: Direction,
    pub(super) policies: Vec<ObjectKey>,
    /// For ingress: the named ports that the policies mention, with the numbers the pod declares under them.
    pub(super) named_ports: BTreeSet<(Protocol, String, BTreeSet<u16>)>,
}

/// Resolves pods, building each isolation once.
pub(super) struct Isolations<'i, 'w> {
    index: &'i Index<'w>,
    groups: Groups<'i, 'w>,
    known: BTreeMap<Likeness, Arc<Isolation>>,
}

impl<'i, 'w> Isolations<'i, 'w> {
    pub(super) fn new(index: &'i Index<'w>) -> Self {
        Self {
            index,
            groups: Groups::new(index),
            known: BTreeMap::new(),
        }
    }

    /// The pod with what isolates it.
    pub(super) fn local_pod(&mut self, pod: &Pod, addresses: Vec<IpAddr>) -> LocalPod {
        LocalPod {
            addresses,
            ingress: self.isolation(pod, Direction::Ingress),
            egress: self.isolation(pod, Direction::Egress),
        }
    }

    fn isolation(&mut self, pod: &Pod, direction: Direction) -> Option<Arc<Isolation>> {
        let in_namespace = self.index.policies(&pod.key.namespace).iter().copied();
        let policies: Vec<&Policy> = in_namespace
            .filter(|policy| policy.isolates(pod, direction))
            .collect();
        if policies.is_empty() {
            return None;
        }
        let likeness = likeness(pod, direction, &policies);
        if let Some(known) = self.known.get(&likeness) {
            return Some(Arc::clone(known));
        }
        let isolation = Arc::new(Isolation {
            id: digest(&likeness),
            policies: likeness.policies.clone(),
            grants: grants::collect(&mut self.groups, &policies, pod, direction),
        });
        self.known.insert(likeness, Arc::clone(&isolation));
        Some(isolation)
    }
}

pub(super) fn likeness(pod: &Pod, direction: Direction, policies: &[&Policy]) -> Likeness {
    let named_ports = match direction {
        Direction::Egress => BTreeSet::new(),
        Direction::Ingress => policies
            .iter()
            .flat_map(|policy| policy.rules(direction).unwrap_or_default())
            .flat_map(|rule| rule.ports.iter().flatten())
            .filter_map(|port| match &port.port {
                Some(PortSpec::Named(name)) => Some((
                    port.protocol,
                    name.clone(),
                    pod.named_port(port.protocol, name).collect(),
                )),
                _ => None,
            })
            .collect(),
    };
    Likeness {
        direction,
        policies: policies.iter().map(|policy| policy.key.clone()).collect(),
        named_ports,
    }
}
