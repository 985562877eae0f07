//! Policies on trial: the difference between the AuditNetworkPolicies that are there and the generated ones.
//!
//! They deny nothing, so their order among themselves does not matter. New ones come before a namespace is opened, and old
//! ones go after it was closed, so that connections are judged without a break when the mode changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;

use super::order::version_of;
use super::{Cause, Conflict, Step};
use crate::generate::Generated;
use crate::names::Origin;
use crate::ownership::{Difference, Ledger, difference, replacement};
use crate::view::{ByNamespace, ClusterView, key};

/// The writes that bring a namespace's AuditNetworkPolicies to the generated ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialPlan {
    /// Those to be taken before the NetworkPolicies are written.
    pub first: Vec<Step>,
    /// Those to be taken after.
    pub last: Vec<Step>,
    /// AuditNetworkPolicies of others that have a name that is needed. They are left alone.
    pub conflicts: Vec<Conflict>,
}

/// Plans them, from the namespace's AuditNetworkPolicies in the view. No steps: everything is as generated.
#[must_use]
pub fn plan_trials(view: &ClusterView, namespace: &str, generated: &Generated) -> TrialPlan {
    plan_from(view, &view.trials, namespace, generated)
}

/// The same for Calico's kind of policies on trial; nothing where the cluster has none.
#[must_use]
pub fn plan_staged(view: &ClusterView, namespace: &str, generated: &Generated) -> TrialPlan {
    let staged = view.staged.as_ref();
    staged.map_or_else(TrialPlan::default, |staged| {
        plan_from(view, staged, namespace, generated)
    })
}

fn plan_from(
    view: &ClusterView,
    existing: &ByNamespace<NetworkPolicy>,
    namespace: &str,
    generated: &Generated,
) -> TrialPlan {
    let ledger = Ledger::of(view, namespace);
    let found = existing.get(namespace).into_iter().flatten();
    let mut found: BTreeMap<String, &Arc<NetworkPolicy>> =
        found.map(|policy| (policy.name_any(), policy)).collect();
    let mut plan = TrialPlan::default();
    for wanted in &generated.trials {
        match found.remove(&wanted.name_any()) {
            None if view.terminating(namespace) => {}
            None => plan.first.push(Step::Create {
                policy: Box::new(wanted.clone()),
                cause: Cause::Changed,
            }),
            Some(existing) if !ledger.is_ours(existing) => {
                let origin = Origin::of_policy(wanted);
                plan.conflicts.extend(origin.map(|origin| Conflict {
                    policy: key(wanted),
                    origin,
                }));
            }
            Some(existing) => plan.first.extend(replace(existing, wanted)),
        }
    }
    let unneeded = found.into_values().filter(|policy| ledger.is_ours(policy));
    plan.last = unneeded
        .map(|policy| Step::Delete {
            key: key(policy.as_ref()),
            version: version_of(policy),
            cause: Cause::Unneeded,
        })
        .collect();
    plan
}

fn replace(existing: &NetworkPolicy, wanted: &NetworkPolicy) -> Option<Step> {
    let cause = match difference(existing, wanted)? {
        Difference::Edited { field } => Cause::Edited { field },
        Difference::Outdated => Cause::Changed,
    };
    Some(Step::Replace {
        policy: Box::new(replacement(existing, wanted)),
        version: version_of(existing),
        cause,
    })
}
