//! The Programmed condition: whether the API server holds what was generated.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ConditionType, Reason};
use ringfence_policy::ObjectKey;

use super::WriteFailure;
use super::condition::Finding;
use crate::form::Kind;
use crate::ownership::{Ledger, difference};
use crate::view::{ClusterView, key};

/// Programmed, for these generated policies.
pub(super) fn programmed<'a>(
    view: &ClusterView,
    wanted: impl Iterator<Item = &'a NetworkPolicy>,
    leftovers: usize,
    failures: &[WriteFailure],
) -> Finding {
    let mut ledgers: BTreeMap<String, Ledger> = BTreeMap::new();
    let (mut total, mut conflicts, mut pending) = (0, Vec::new(), Vec::new());
    for policy in wanted {
        total += 1;
        let key = key(policy);
        let ledger = ledgers
            .entry(key.namespace.clone())
            .or_insert_with(|| Ledger::of(view, &key.namespace));
        match existing(view, &key) {
            Some(found) if !ledger.is_ours(found) => conflicts.push(key),
            Some(found) if difference(found, policy).is_none() => {}
            _ => pending.push(key),
        }
    }
    if let Some(first) = conflicts.first() {
        return Finding::fails(
            ConditionType::Programmed,
            Reason::NameConflict,
            conflict(view, first, conflicts.len()),
        );
    }
    if let Some(failure) = failures.first() {
        return Finding::fails(
            ConditionType::Programmed,
            Reason::WriteFailed,
            format!(
                "{} {} could not be written, and is tried again: {}",
                failure.kind.as_str(),
                failure.policy,
                failure.message
            ),
        );
    }
    if let Some(first) = pending.first() {
        return Finding::unknown(
            ConditionType::Programmed,
            Reason::Programming,
            format!(
                "{} of {total} generated policies are still to be written, {first} first.",
                pending.len()
            ),
        );
    }
    if leftovers > 0 {
        return Finding::unknown(
            ConditionType::Programmed,
            Reason::Programming,
            format!("{leftovers} generated policies that are no longer needed are still to be deleted."),
        );
    }
    let message = match total {
        0 => "No policy is needed.".to_owned(),
        total => format!("{total} policies are in the API server, as generated."),
    };
    Finding::holds(ConditionType::Programmed, Reason::Programmed, message)
}

fn conflict(view: &ClusterView, first: &ObjectKey, count: usize) -> String {
    let kind = if view.is_audited(&first.namespace) {
        Kind::Trial.as_str()
    } else {
        Kind::Policy.as_str()
    };
    let more = if count > 1 {
        format!(" So do {} others.", count - 1)
    } else {
        String::new()
    };
    format!(
        "{kind} {first} was not made by Ringfence and has a name that is needed; it is left untouched.{more} \
         Rename or delete it."
    )
}

fn existing<'a>(view: &'a ClusterView, key: &ObjectKey) -> Option<&'a Arc<NetworkPolicy>> {
    let all = if view.is_audited(&key.namespace) {
        &view.trials
    } else {
        &view.policies
    };
    all.get(&key.namespace)?
        .iter()
        .find(|policy| policy.name_any() == key.name)
}
