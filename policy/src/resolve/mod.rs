//! The compiling reading: for every pod of a node and direction, who may reach which ports.
//!
//! ```text
//!  World ─► Index ─┬─► per local pod: the policies that select it, and how their named ports resolve there
//!                  │        └─► one Isolation for all pods that agree in both
//!                  └─► per rule: its peers as a group of addresses and networks, shared by all rules that say the same
//! ```

mod grants;
mod groups;
pub(crate) mod incremental;
mod index;
mod isolation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::{ObjectKey, Protocol};
use crate::net;
use crate::world::World;

/// What the policies of a cluster mean for the pods of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePolicies {
    /// Every pod of the node that holds an address of its own.
    pub pods: BTreeMap<ObjectKey, LocalPod>,
}

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// The addresses it holds; an address that a newer pod took over is not among them.
    pub addresses: Vec<IpAddr>,
    /// What may come in; `None` where no policy isolates the pod for ingress.
    pub ingress: Option<Arc<Isolation>>,
    /// What may go out; `None` where no policy isolates the pod for egress.
    pub egress: Option<Arc<Isolation>>,
}

/// What the policies that select a pod in one direction allow together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Names the direction, the namespace, the selecting policies and how the pod resolves their named ports: the same
    /// as long as those are, whatever becomes of the policies' rules and of the peers.
    pub id: String,
    /// The policies, sorted.
    pub policies: Vec<ObjectKey>,
    /// What they allow, each thing once, sorted.
    pub grants: Vec<Grant>,
}

impl Isolation {
    /// Whether a flow between the pod and `other` to this destination port is allowed.
    pub fn allows(&self, other: IpAddr, protocol: Protocol, port: u16) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.peers.contain(other) && grant.ports.contain(protocol, port))
    }
}

/// These peers, at these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The other side.
    pub peers: Peers,
    /// The destination's ports.
    pub ports: Ports,
}

/// The other side of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Anyone.
    Any,
    /// A group.
    Group {
        /// Names the group's definition (selectors, blocks), never its members.
        id: String,
        /// Who belongs to it now.
        members: Arc<PeerSet>,
    },
}

impl Peers {
    /// Whether the address is among the peers.
    pub fn contain(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Group { members, .. } => {
                members.addresses.contains(&address) || net::contains(&members.networks, address)
            }
        }
    }
}

/// The members of a group of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSet {
    /// Addresses of pods.
    pub addresses: BTreeSet<IpAddr>,
    /// Networks: disjoint, sorted, as few as can be, exceptions already taken out. May hold `0.0.0.0/0` and `::/0`.
    pub networks: Vec<IpNet>,
}

/// The destination ports of a grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Every port and every protocol, also those that have no ports.
    Any,
    /// These. Never empty: a grant without ports allows nothing and is left out.
    Only(BTreeSet<PortRange>),
}

impl Ports {
    /// Whether the port is among them.
    pub fn contain(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.contains(protocol, port)),
        }
    }
}

/// Consecutive ports of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port; 0 where every port of the protocol is meant.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// One port.
    pub fn one(protocol: Protocol, port: u16) -> Self {
        Self {
            protocol,
            first: port,
            last: port,
        }
    }

    /// Every port of a protocol: 0 to 65535.
    pub fn all(protocol: Protocol) -> Self {
        Self {
            protocol,
            first: 0,
            last: u16::MAX,
        }
    }

    /// The port, if it is one.
    pub fn single(&self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether these are all ports of the protocol.
    pub fn is_all(&self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// Whether the port is among them.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }
}

/// Compiles what the pods of `node` are allowed.
pub fn resolve(world: &World, node: &str) -> NodePolicies {
    let index = index::Index::new(world);
    let mut isolations = isolation::Isolations::new(&index);
    let local = world
        .pods
        .values()
        .filter(|pod| pod.node.as_deref() == Some(node) && pod.holds_addresses());
    let pods = local.filter_map(|pod| {
        let addresses = index.held_addresses(pod);
        (!addresses.is_empty()).then(|| (pod.key.clone(), isolations.local_pod(pod, addresses)))
    });
    NodePolicies { pods: pods.collect() }
}
