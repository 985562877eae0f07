//! What a resolver holds, in flat form, and how it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::{Grant, Isolation, LocalPod, NodePolicies, PeerSet, Peers, Ports};
use crate::model::ObjectKey;

/// What the policies mean for the pods of a node, flat: pods name isolations, isolations name groups of peers. Says the
/// same as [`NodePolicies`], and a change to one of its parts is a small [`Changes`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Every pod of the node that holds an address of its own.
    pub pods: BTreeMap<ObjectKey, CompiledPod>,
    /// The isolations that pods name, by id.
    pub isolations: BTreeMap<String, CompiledIsolation>,
    /// The groups that isolations name, by id.
    pub groups: BTreeMap<String, Arc<PeerSet>>,
}

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPod {
    /// The addresses it holds.
    pub addresses: Vec<IpAddr>,
    /// The id of what isolates it for ingress; `None` where nothing does.
    pub ingress: Option<String>,
    /// The id of what isolates it for egress; `None` where nothing does.
    pub egress: Option<String>,
}

/// An isolation, see [`Isolation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledIsolation {
    /// The policies, sorted.
    pub policies: Vec<ObjectKey>,
    /// What they allow, each thing once, sorted.
    pub grants: Vec<CompiledGrant>,
}

/// These peers, at these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledGrant {
    /// The group's id; `None` is anyone.
    pub group: Option<String>,
    /// The destination's ports.
    pub ports: Ports,
}

/// What became of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// It is new.
    Added(T),
    /// It is another than before.
    Changed(T),
    /// It is gone.
    Removed,
}

/// What became of a group of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// It is new.
    Added(Arc<PeerSet>),
    /// It gained and lost addresses. Its networks never change, they are part of what its id names.
    Members {
        /// The addresses it gained.
        added: BTreeSet<IpAddr>,
        /// The addresses it lost.
        removed: BTreeSet<IpAddr>,
    },
    /// It is gone: no isolation names it any more.
    Removed,
}

/// The difference between two states of a [`Compiled`], as small as can be: nothing in it is as it was before.
///
/// Within one, groups are added before isolations name them and removed after no isolation does, if it is carried out in
/// the order: groups added and gaining, isolations, pods, groups losing and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Local pods.
    pub pods: BTreeMap<ObjectKey, Change<CompiledPod>>,
    /// Isolations by id.
    pub isolations: BTreeMap<String, Change<CompiledIsolation>>,
    /// Groups by id.
    pub groups: BTreeMap<String, GroupChange>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.isolations.is_empty() && self.groups.is_empty()
    }
}

impl<T> Change<T> {
    /// What became of a thing that was `before` and is `after`; `None` where it is the same.
    pub(super) fn between(before: Option<T>, after: Option<T>) -> Option<Self>
    where
        T: PartialEq,
    {
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(Self::Added(after)),
            (Some(_), None) => Some(Self::Removed),
            (Some(before), Some(after)) => (before != after).then_some(Self::Changed(after)),
        }
    }
}

impl Compiled {
    /// Carries changes out on a copy of the state they were made from.
    pub fn apply(&mut self, changes: &Changes) {
        apply_each(&mut self.pods, &changes.pods);
        apply_each(&mut self.isolations, &changes.isolations);
        for (id, change) in &changes.groups {
            match change {
                GroupChange::Added(members) => {
                    self.groups.insert(id.clone(), Arc::clone(members));
                }
                GroupChange::Removed => {
                    self.groups.remove(id);
                }
                GroupChange::Members { added, removed } => {
                    let members = Arc::make_mut(self.groups.entry(id.clone()).or_default());
                    members.addresses.retain(|address| !removed.contains(address));
                    members.addresses.extend(added);
                }
            }
        }
    }

    /// The same as nested values.
    pub fn node_policies(&self) -> NodePolicies {
        let isolations: BTreeMap<&String, Arc<Isolation>> = self
            .isolations
            .iter()
            .map(|(id, isolation)| (id, Arc::new(self.isolation(id, isolation))))
            .collect();
        let named = |id: &Option<String>| id.as_ref().and_then(|id| isolations.get(id)).cloned();
        let pods = self.pods.iter().map(|(key, pod)| {
            let local = LocalPod {
                addresses: pod.addresses.clone(),
                ingress: named(&pod.ingress),
                egress: named(&pod.egress),
            };
            (key.clone(), local)
        });
        NodePolicies { pods: pods.collect() }
    }

    fn isolation(&self, id: &str, isolation: &CompiledIsolation) -> Isolation {
        let grants = isolation.grants.iter().map(|grant| Grant {
            peers: match &grant.group {
                None => Peers::Any,
                Some(id) => Peers::Group {
                    id: id.clone(),
                    // A group that is missing has no members: what cannot be found stays closed.
                    members: self.groups.get(id).cloned().unwrap_or_default(),
                },
            },
            ports: grant.ports.clone(),
        });
        Isolation {
            id: id.to_owned(),
            policies: isolation.policies.clone(),
            grants: grants.collect(),
        }
    }
}

impl From<&NodePolicies> for Compiled {
    fn from(policies: &NodePolicies) -> Self {
        let mut compiled = Self::default();
        for (key, pod) in &policies.pods {
            let mut named = |isolation: &Option<Arc<Isolation>>| {
                isolation.as_ref().map(|isolation| {
                    compiled.insert(isolation);
                    isolation.id.clone()
                })
            };
            let pod = CompiledPod {
                addresses: pod.addresses.clone(),
                ingress: named(&pod.ingress),
                egress: named(&pod.egress),
            };
            compiled.pods.insert(key.clone(), pod);
        }
        compiled
    }
}

impl Compiled {
    fn insert(&mut self, isolation: &Isolation) {
        if self.isolations.contains_key(&isolation.id) {
            return;
        }
        let groups = &mut self.groups;
        let grants = isolation.grants.iter().map(|grant| CompiledGrant {
            group: match &grant.peers {
                Peers::Any => None,
                Peers::Group { id, members } => {
                    groups.entry(id.clone()).or_insert_with(|| Arc::clone(members));
                    Some(id.clone())
                }
            },
            ports: grant.ports.clone(),
        });
        let compiled = CompiledIsolation {
            policies: isolation.policies.clone(),
            grants: grants.collect(),
        };
        self.isolations.insert(isolation.id.clone(), compiled);
    }
}

fn apply_each<K: Ord + Clone, T: Clone>(things: &mut BTreeMap<K, T>, changes: &BTreeMap<K, Change<T>>) {
    for (key, change) in changes {
        match change {
            Change::Added(thing) | Change::Changed(thing) => things.insert(key.clone(), thing.clone()),
            Change::Removed => things.remove(key),
        };
    }
}
