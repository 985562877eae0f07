//! What has to change: the difference between the policies that are there and the generated ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_policy::Policy;

use super::{Cause, Conflict, bridge};
use crate::generate::Generated;
use crate::names::Origin;
use crate::ownership::{Difference, Ledger, difference, replacement};
use crate::view::{ClusterView, key};

/// A policy object, and what it means.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) object: Arc<NetworkPolicy>,
    pub(super) meaning: Policy,
}

impl Known {
    /// None for an object that means nothing because the API server would not have taken it.
    fn new(object: &Arc<NetworkPolicy>) -> Option<Self> {
        let meaning = Policy::from_api(object).ok()?;
        Some(Self {
            object: Arc::clone(object),
            meaning,
        })
    }
}

/// A policy of ours that is not as it should be.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) before: Known,
    /// The object to write, with the identity of the one it replaces.
    pub(super) after: Known,
    pub(super) cause: Cause,
}

/// What has to change in a namespace, and what stays.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) creations: Vec<(Known, Cause)>,
    pub(super) edits: Vec<Edit>,
    pub(super) removals: Vec<Known>,
    /// Bridges that an interrupted transition left behind.
    pub(super) bridges: Vec<Known>,
    /// Policies that are right, or not ours.
    pub(super) constant: Vec<Known>,
    pub(super) conflicts: Vec<Conflict>,
}

impl Changes {
    /// Compares what is there with what was generated.
    pub(super) fn find(view: &ClusterView, namespace: &str, generated: &Generated) -> Self {
        let ledger = Ledger::of(view, namespace);
        let mut existing: BTreeMap<String, Known> = view
            .policies
            .get(namespace)
            .into_iter()
            .flatten()
            .filter_map(|policy| Some((policy.name_any(), Known::new(policy)?)))
            .collect();
        let mut changes = Self::default();
        for wanted in &generated.policies {
            match existing.remove(&wanted.name_any()) {
                Some(found) => changes.compare(&ledger, found, wanted),
                // Nothing can be created in a namespace that is being deleted.
                None if view.terminating(namespace) => {}
                None => changes.create(&ledger, wanted),
            }
        }
        for left in existing.into_values() {
            changes.leftover(&ledger, left);
        }
        changes
    }

    fn compare(&mut self, ledger: &Ledger, found: Known, wanted: &NetworkPolicy) {
        if !ledger.is_ours(&found.object) {
            let origin = Origin::of_policy(wanted);
            self.conflicts.extend(origin.map(|origin| Conflict {
                policy: key(wanted),
                origin,
            }));
            self.constant.push(found);
            return;
        }
        let cause = match difference(&found.object, wanted) {
            None => {
                self.constant.push(found);
                return;
            }
            Some(Difference::Edited { field }) => Cause::Edited { field },
            Some(Difference::Outdated) => Cause::Changed,
        };
        if let Some(after) = Known::new(&Arc::new(replacement(&found.object, wanted))) {
            self.edits.push(Edit {
                before: found,
                after,
                cause,
            });
        }
    }

    fn create(&mut self, ledger: &Ledger, wanted: &NetworkPolicy) {
        let deleted = ledger.recorded_names.contains(&wanted.name_any());
        let cause = if deleted { Cause::Deleted } else { Cause::Changed };
        self.creations
            .extend(Known::new(&Arc::new(wanted.clone())).map(|known| (known, cause)));
    }

    fn leftover(&mut self, ledger: &Ledger, left: Known) {
        if !ledger.is_ours(&left.object) {
            self.constant.push(left);
        } else if bridge::is_bridge(&left) {
            self.bridges.push(left);
        } else {
            self.removals.push(left);
        }
    }
}
