//! The objects that policies speak of, reduced to what decides about traffic.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::labels::{Labels, Selector};

/// The namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// The key of the object `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that policies can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Protocol {
    /// TCP, what a port means when it names no protocol.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// The direction of a connection's first packet, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels; the API server adds `kubernetes.io/metadata.name`.
    pub labels: Labels,
}

/// A node and the addresses it is reached by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses of any type that are IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ContainerPort {
    /// The name that policies and Services can use.
    pub name: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port number.
    pub number: u16,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// The node it is bound to.
    pub node: Option<String>,
    /// Its addresses, one of a family.
    pub addresses: Vec<IpAddr>,
    /// It uses its node's network: no policy selects it, as a peer it is its node.
    pub host_network: bool,
    /// It has Succeeded or Failed: its addresses may belong to another pod by now.
    pub finished: bool,
    /// It is being deleted, and protected until it is gone.
    pub terminating: bool,
    /// The ports that its containers declare, init and sidecar containers included.
    pub ports: Vec<ContainerPort>,
    /// The ServiceAccount it runs as.
    pub service_account: String,
}

impl Pod {
    /// Whether policies can act on this pod: it has addresses of its own.
    pub fn holds_addresses(&self) -> bool {
        !self.host_network && !self.finished && !self.addresses.is_empty()
    }

    /// The numbers that this pod declares under `name` for `protocol`.
    ///
    /// Several containers of a pod may use one name; all their numbers carry it.
    pub fn named_port<'a>(&'a self, protocol: Protocol, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.ports
            .iter()
            .filter(move |port| port.protocol == protocol && port.name.as_deref() == Some(name))
            .map(|port| port.number)
    }
}

/// A NetworkPolicy with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// Which pods of its namespace it isolates.
    pub pod_selector: Selector,
    /// What may come in; `None` where the policy does not govern ingress.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out; `None` where the policy does not govern egress.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of a direction; `None` where the policy does not govern it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether the policy isolates `pod` in `direction`.
    pub fn isolates(&self, pod: &Pod, direction: Direction) -> bool {
        !pod.host_network
            && self.key.namespace == pod.key.namespace
            && self.rules(direction).is_some()
            && self.pod_selector.matches(&pod.labels)
    }
}

/// One ingress or egress rule: traffic that matches one of the peers and one of the ports is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Rule {
    /// The other side; `None` is anyone. Never an empty list: the API reads that as anyone.
    pub peers: Option<Vec<Peer>>,
    /// The destination's ports; `None` is every port and protocol. Never an empty list, as with peers.
    pub ports: Option<Vec<PortMatch>>,
}

/// One peer of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Peer {
    /// Pods.
    Pods {
        /// In these namespaces; `None` is the policy's own.
        namespaces: Option<Selector>,
        /// With these labels; `None` is every pod of the namespaces.
        pods: Option<Selector>,
    },
    /// Addresses.
    Block(IpBlock),
}

impl Peer {
    /// Whether it stands for a pod by labels, in a policy of the namespace `own`; a block never does. `labels` tells those of the
    /// pod's namespace, if it is known, where they matter.
    pub fn selects<'l>(&self, own: &str, pod: &Pod, labels: impl FnOnce() -> Option<&'l Labels>) -> bool {
        let Self::Pods { namespaces, pods } = self else {
            return false;
        };
        let in_namespace = match namespaces {
            None => pod.key.namespace == own,
            Some(selector) => labels().is_some_and(|labels| selector.matches(labels)),
        };
        in_namespace && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
    }
}

/// A network without some of its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IpBlock {
    /// The network.
    pub cidr: IpNet,
    /// The parts that do not belong.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// Whether the block contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|except| except.contains(&address))
    }
}

/// One port of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// The port; `None` is every port of the protocol.
    pub port: Option<PortSpec>,
}

/// How a rule names a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PortSpec {
    /// The ports from the first to the last, both included; one number is a range of one.
    Range(u16, u16),
    /// Whatever the destination pod declares under this name. A destination that declares none is not matched.
    Named(String),
}
