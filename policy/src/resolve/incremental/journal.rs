//! What changed in a batch of events, compared with what was before it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::PeerSet;
use super::compiled::{Change, Changes, Compiled, CompiledIsolation, CompiledPod, GroupChange};
use crate::model::ObjectKey;

/// What was before a batch of events, for everything that the batch touched.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pods: BTreeMap<ObjectKey, Option<CompiledPod>>,
    isolations: BTreeMap<String, Option<CompiledIsolation>>,
    groups: BTreeMap<String, Delta>,
}

/// How a group differs from what it was.
#[derive(Debug, Default)]
struct Delta {
    existed: bool,
    added: BTreeSet<IpAddr>,
    removed: BTreeSet<IpAddr>,
}

impl Journal {
    /// To be called before a pod is touched.
    pub(super) fn touch_pod(&mut self, key: &ObjectKey, compiled: &Compiled) {
        let before = || compiled.pods.get(key).cloned();
        self.pods.entry(key.clone()).or_insert_with(before);
    }

    /// To be called before an isolation is touched.
    pub(super) fn touch_isolation(&mut self, id: &str, compiled: &Compiled) {
        if !self.isolations.contains_key(id) {
            let before = compiled.isolations.get(id).cloned();
            self.isolations.insert(id.to_owned(), before);
        }
    }

    /// The groups, to be changed.
    pub(super) fn groups<'a>(&'a mut self, compiled: &'a mut Compiled) -> Groups<'a> {
        Groups {
            members: &mut compiled.groups,
            deltas: &mut self.groups,
        }
    }

    /// What is different now.
    pub(super) fn finish(self, compiled: &Compiled) -> Changes {
        let pods = self.pods.into_iter().filter_map(|(key, before)| {
            let after = compiled.pods.get(&key).cloned();
            Some((key, Change::between(before, after)?))
        });
        let isolations = self.isolations.into_iter().filter_map(|(id, before)| {
            let after = compiled.isolations.get(&id).cloned();
            Some((id, Change::between(before, after)?))
        });
        let groups = self.groups.into_iter().filter_map(|(id, delta)| {
            let change = delta.change(compiled.groups.get(&id))?;
            Some((id, change))
        });
        Changes {
            pods: pods.collect(),
            isolations: isolations.collect(),
            groups: groups.collect(),
        }
    }
}

impl Delta {
    fn change(self, now: Option<&Arc<PeerSet>>) -> Option<GroupChange> {
        let Self {
            existed,
            added,
            removed,
        } = self;
        match (existed, now) {
            (false, None) => None,
            (true, None) => Some(GroupChange::Removed),
            (false, Some(members)) => Some(GroupChange::Added(Arc::clone(members))),
            (true, Some(_)) if added.is_empty() && removed.is_empty() => None,
            (true, Some(_)) => Some(GroupChange::Members { added, removed }),
        }
    }
}

/// The members of the groups; whatever is done to them is noted.
pub(super) struct Groups<'a> {
    members: &'a mut BTreeMap<String, Arc<PeerSet>>,
    deltas: &'a mut BTreeMap<String, Delta>,
}

impl Groups<'_> {
    /// Whether a group has an address as a member.
    pub(super) fn contains(&self, id: &str, address: IpAddr) -> bool {
        self.members
            .get(id)
            .is_some_and(|members| members.addresses.contains(&address))
    }

    /// A group that did not exist does now.
    pub(super) fn appear(&mut self, id: &str, members: PeerSet) {
        let delta = self.delta(id, false);
        if delta.existed {
            // It existed before this batch and went within it: it has changed, and is not new.
            for address in &members.addresses {
                if !delta.removed.remove(address) {
                    delta.added.insert(*address);
                }
            }
        }
        self.members.insert(id.to_owned(), Arc::new(members));
    }

    /// A group that exists does not any more.
    pub(super) fn vanish(&mut self, id: &str) {
        self.delta(id, true);
        self.members.remove(id);
    }

    /// An address belongs to a group.
    pub(super) fn gain(&mut self, id: &str, address: IpAddr) {
        if self.contains(id, address) {
            return;
        }
        let delta = self.delta(id, true);
        if !delta.removed.remove(&address) {
            delta.added.insert(address);
        }
        if let Some(members) = self.members.get_mut(id) {
            Arc::make_mut(members).addresses.insert(address);
        }
    }

    /// An address does not belong to a group any more. Returns whether the group has none left.
    pub(super) fn lose(&mut self, id: &str, address: IpAddr) -> bool {
        let delta = self.delta(id, true);
        if !delta.added.remove(&address) {
            delta.removed.insert(address);
        }
        self.members.get_mut(id).is_some_and(|members| {
            let members = Arc::make_mut(members);
            members.addresses.remove(&address);
            members.addresses.is_empty()
        })
    }

    fn delta(&mut self, id: &str, exists: bool) -> &mut Delta {
        if !self.deltas.contains_key(id) {
            let delta = Delta {
                existed: exists,
                ..Delta::default()
            };
            self.deltas.insert(id.to_owned(), delta);
        }
        // Just inserted where it was missing.
        self.deltas.entry(id.to_owned()).or_default()
    }
}
