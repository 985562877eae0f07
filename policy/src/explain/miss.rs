//! What came nearest to matching, and what kept it from it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Remedy;
use crate::evaluate::Matched;
use crate::labels::Requirement;
use crate::model::{Direction, ObjectKey, Protocol};

/// What came nearest to allowing a flow, in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The direction.
    pub direction: Direction,
    /// The pod that is isolated.
    pub pod: ObjectKey,
    /// The policy that came nearest, one of those that isolate the pod.
    pub policy: ObjectKey,
    /// Its rule that came nearest; `None` where it has no rules in this direction.
    pub rule: Option<usize>,
    /// What kept it from matching. Never empty; all of it would have to change.
    pub misses: Vec<Miss>,
    /// The edit of that policy that allows this flow, and as little else as can be.
    pub remedy: Remedy,
    /// What could change instead of the policy, all of it together: labels, declared ports. Empty where nothing of that
    /// kind helps.
    pub instead: Vec<Remedy>,
}

/// One field that did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The field of the policy, such as `spec.ingress[0].from[1].podSelector`.
    pub field: String,
    /// What about it did not match.
    pub reason: Reason,
}

/// Why a field did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The policy has no rules in this direction.
    NoRules,
    /// A selector does not select the object.
    Labels {
        /// Whose labels.
        of: Labelled,
        /// The requirements that its labels do not meet. Never empty.
        unmet: Vec<Unmet>,
    },
    /// A `podSelector` alone stands for pods of the policy's own namespace, and this pod is in another one.
    OtherNamespace {
        /// The pod at the other side.
        pod: ObjectKey,
    },
    /// A `namespaceSelector` cannot select a namespace that is not known.
    UnknownNamespace {
        /// Its name.
        name: String,
    },
    /// Selectors stand for pods, and no pod holds this address.
    NotAPod {
        /// The address at the other side.
        address: IpAddr,
    },
    /// The address is not in the block.
    OutsideBlock {
        /// The address at the other side.
        address: IpAddr,
        /// The block.
        cidr: IpNet,
    },
    /// The address is in the block, and in one of its exceptions.
    Excepted {
        /// The address at the other side.
        address: IpAddr,
        /// The exception.
        except: IpNet,
    },
    /// The flow has another protocol.
    Protocol {
        /// The policy's.
        expected: Protocol,
        /// The flow's.
        found: Protocol,
    },
    /// The flow has another port.
    Port {
        /// The first port of the policy's range.
        first: u16,
        /// The last, the same where the policy names one port.
        last: u16,
        /// The flow's port.
        found: u16,
    },
    /// The destination declares no port of this name.
    PortUndeclared {
        /// The name.
        name: String,
        /// The protocol it would have to be declared for.
        protocol: Protocol,
        /// The destination.
        pod: ObjectKey,
    },
    /// The destination declares the name for other numbers than the flow's.
    PortDeclaredAs {
        /// The name.
        name: String,
        /// The destination.
        pod: ObjectKey,
        /// What it declares.
        numbers: Vec<u16>,
        /// The flow's port.
        found: u16,
    },
    /// Names of ports are declared by pods, and no pod holds the destination's address.
    PortOfNoPod {
        /// The name.
        name: String,
        /// The destination.
        address: IpAddr,
    },
}

/// An object that has labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Labelled {
    /// A pod.
    Pod(ObjectKey),
    /// A namespace.
    Namespace(String),
}

/// A requirement that an object's labels do not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The requirement.
    pub requirement: Requirement,
    /// The label's value, where it has one.
    pub value: Option<String>,
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkPolicy {}", self.policy)?;
        for (index, miss) in self.misses.iter().enumerate() {
            write!(f, "{} {miss}", if index == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRules => f.write_str("no rule at all"),
            Self::Labels { of, unmet } => write_labels(f, of, unmet),
            Self::OtherNamespace { pod } => {
                write!(
                    f,
                    "stands for pods of the policy's own namespace, and {pod} is in another"
                )
            }
            Self::UnknownNamespace { name } => write!(f, "namespace {name} is not known"),
            Self::NotAPod { address } => write!(f, "stands for pods, and no pod holds {address}"),
            Self::OutsideBlock { address, cidr } => write!(f, "{address} is not in {cidr}"),
            Self::Excepted { address, except } => write!(f, "{address} is in the exception {except}"),
            Self::Protocol { expected, found } => write!(f, "is {expected}, and the flow is {found}"),
            Self::Port { first, last, found } if first == last => {
                write!(f, "is {first}, and the flow goes to {found}")
            }
            Self::Port { first, last, found } => {
                write!(f, "is {first} to {last}, and the flow goes to {found}")
            }
            Self::PortUndeclared { name, protocol, pod } => {
                write!(
                    f,
                    "is `{name}`, and pod {pod} declares no {protocol} port of that name"
                )
            }
            Self::PortDeclaredAs {
                name,
                pod,
                numbers,
                found,
            } => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                let numbers = numbers.join(", ");
                write!(
                    f,
                    "is `{name}`, which pod {pod} declares as {numbers}, and the flow goes to {found}"
                )
            }
            Self::PortOfNoPod { name, address } => {
                write!(
                    f,
                    "is `{name}`, which only a pod can declare, and no pod holds {address}"
                )
            }
        }
    }
}

fn write_labels(f: &mut fmt::Formatter<'_>, of: &Labelled, unmet: &[Unmet]) -> fmt::Result {
    for (index, Unmet { requirement, value }) in unmet.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let key = &requirement.key;
        match value {
            Some(value) => write!(f, "{separator}wants `{requirement}`, and {of} has {key}={value}")?,
            None => write!(f, "{separator}wants `{requirement}`, and {of} has no label {key}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Labelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod {key}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
        }
    }
}

/// The list of rules of a direction, as a field of a policy.
pub(super) fn rules_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "spec.ingress",
        Direction::Egress => "spec.egress",
    }
}

/// The list of peers of a rule.
pub(super) fn peers_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

impl Matched {
    /// Names the policy and the fields that matched, such as `NetworkPolicy shop/api spec.ingress[0].from[1]`.
    pub fn at(&self, direction: Direction) -> String {
        let Self {
            policy,
            rule,
            peer,
            port,
        } = self;
        let rule = format!("{}[{rule}]", rules_field(direction));
        let peer = peer.map(|peer| format!("{rule}.{}[{peer}]", peers_field(direction)));
        let port = port.map(|port| format!("{rule}.ports[{port}]"));
        let fields: Vec<String> = peer.into_iter().chain(port).collect();
        if fields.is_empty() {
            format!("NetworkPolicy {policy} {rule}, which names neither peers nor ports")
        } else {
            format!("NetworkPolicy {policy} {}", fields.join(" and "))
        }
    }
}
