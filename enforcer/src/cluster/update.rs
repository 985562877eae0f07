//! What watches tell.

use ipnet::IpNet;
use ringfence_policy::{Namespace, Node, ObjectKey, Pod, Policy, Version};

/// A kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pods of the whole cluster: any may be a peer.
    Pod,
    /// Namespaces.
    Namespace,
    /// This enforcer's own node.
    Node,
    /// NetworkPolicies of any origin.
    Policy,
    /// AuditNetworkPolicies. A cluster may not know the kind: nothing waits for them.
    Audit,
}

impl Kind {
    /// Every kind that must be listed before anything is written.
    pub const NEEDED: [Self; 4] = [Self::Pod, Self::Namespace, Self::Node, Self::Policy];
}

/// An object, reduced to what matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(Pod),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A policy.
    Policy(Policy),
    /// A policy on trial.
    Audit(Policy),
}

impl Object {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Policy(_) => Kind::Policy,
            Self::Audit(_) => Kind::Audit,
        }
    }

    /// The object's key; one that has no namespace has an empty one.
    pub(super) fn key(&self) -> ObjectKey {
        match self {
            Self::Pod(pod) => pod.key.clone(),
            Self::Namespace(namespace) => ObjectKey::new("", namespace.name.clone()),
            Self::Node(node) => ObjectKey::new("", node.name.clone()),
            Self::Policy(policy) | Self::Audit(policy) => policy.key.clone(),
        }
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A list of all objects of the kind begins.
    Begin(Kind),
    /// An object is so.
    Upsert(Object),
    /// An object is there, but what it says cannot be read: it stays what it was, or is this if it never was.
    Unreadable(Object),
    /// An object that was just told of is this version of it.
    Version(Kind, ObjectKey, Version),
    /// The namespace is there, and is being deleted.
    Terminating(String),
    /// The node of this name gives its pods addresses of these ranges.
    PodRanges(String, Vec<IpNet>),
    /// An object is gone.
    Remove(Kind, ObjectKey),
    /// The list is complete: what it did not name is gone.
    End(Kind),
}

impl Update {
    /// What a watch tells when it lists these objects, all that there are of the kind.
    pub fn list(kind: Kind, objects: impl IntoIterator<Item = Object>) -> impl Iterator<Item = Self> {
        let objects = objects.into_iter().map(Self::Upsert);
        [Self::Begin(kind)]
            .into_iter()
            .chain(objects)
            .chain([Self::End(kind)])
    }
}
