//! The status of a ServiceAccess.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use ringfence_crd::{ConditionType, Reason, ServiceAccessStatus};
use ringfence_policy::{ObjectKey, Pod, Selector};

use super::AccessInput;
use super::condition::{Finding, summarised, written};
use super::enforced::enforced;
use super::programmed::programmed;
use super::references::resolved;
use crate::generate::{AccessOutline, Problem, backends};
use crate::names::ORIGIN_UID_LABEL;
use crate::ownership::Ledger;
use crate::view::{ClusterView, key};

/// What the operator has to say about a ServiceAccess. Equal to the status it has when there is nothing new.
#[must_use]
pub fn access_status(input: &AccessInput<'_>) -> ServiceAccessStatus {
    let previous = input.resource.status.clone().unwrap_or_default();
    let generation = input.resource.metadata.generation;
    let namespace = input.resource.namespace().unwrap_or_default();
    let (enforcement, enforced_in_short) = enforced(input.view, &namespace);
    let findings = vec![
        accepted(input),
        resolved(&input.outline.findings),
        programmed(
            input.view,
            input.outline.policies.iter(),
            leftovers(
                input.view,
                &key(input.resource),
                input.resource.uid(),
                input.outline,
            ),
            input.failures,
        ),
        enforcement,
    ];
    ServiceAccessStatus {
        observed_generation: generation,
        conditions: written(summarised(findings), &previous.conditions, generation, input.now),
        backends: Some(reachable(input)),
        enforced: Some(enforced_in_short),
        policy_count: i32::try_from(input.outline.policies.len()).ok(),
    }
}

fn accepted(input: &AccessInput<'_>) -> Finding {
    let unneeded = input
        .outline
        .findings
        .iter()
        .any(|finding| finding.problem == Problem::NotNeeded);
    if unneeded {
        let namespace = input.resource.namespace().unwrap_or_default();
        return Finding::holds(
            ConditionType::Accepted,
            Reason::NotNeeded,
            format!(
                "Neither namespace {namespace} nor a client's denies this traffic, so it is open already; a \
                 ZeroTrustNamespace would close all but this."
            ),
        );
    }
    Finding::holds(
        ConditionType::Accepted,
        Reason::Accepted,
        "The spec is valid and in force.",
    )
}

/// Policies made for the resource with this UID that are no longer part of its outline.
pub(super) fn leftovers(
    view: &ClusterView,
    access: &ObjectKey,
    uid: Option<String>,
    outline: &AccessOutline,
) -> usize {
    let Some(uid) = uid else {
        return 0;
    };
    let wanted = |namespace: &str, name: &str| {
        let policies = &outline.policies;
        policies
            .iter()
            .any(|policy| policy.namespace().as_deref() == Some(namespace) && policy.name_any() == name)
    };
    let claimed = view
        .concerns
        .claimed(access)
        .map(|policy| policy.namespace.as_str());
    let namespaces: BTreeSet<&str> = claimed.chain([access.namespace.as_str()]).collect();
    namespaces
        .into_iter()
        .filter_map(|namespace| Some((namespace, view.policies.get(namespace)?)))
        .map(|(namespace, policies)| {
            let of_this = policies
                .iter()
                .filter(|policy| policy.labels().get(ORIGIN_UID_LABEL) == Some(&uid));
            let left: Vec<_> = of_this
                .filter(|policy| !wanted(namespace, &policy.name_any()))
                .collect();
            if left.is_empty() {
                return 0;
            }
            let ledger = Ledger::of(view, namespace);
            left.iter().filter(|policy| ledger.is_ours(policy)).count()
        })
        .sum()
}

/// How many pods stand behind the Service.
fn reachable(input: &AccessInput<'_>) -> i32 {
    let namespace = input.resource.namespace().unwrap_or_default();
    let key = ObjectKey::new(namespace.clone(), input.resource.spec.target_ref.name.clone());
    let selector: Option<LabelSelector> = input
        .view
        .services
        .get(&key)
        .and_then(|service| backends(service).ok());
    selector.map_or(0, |selector| selected(input.view, &namespace, &selector))
}

/// How many pods of a namespace, that policies can be about, a selector matches.
pub(super) fn selected(view: &ClusterView, namespace: &str, selector: &LabelSelector) -> i32 {
    let Ok(selector) = Selector::try_from(selector) else {
        return 0;
    };
    let pods = view
        .pods
        .get(namespace)
        .into_iter()
        .flatten()
        .map(|pod| Pod::from_api(pod));
    let behind = pods.filter(|pod| !pod.finished && !pod.host_network && selector.matches(&pod.labels));
    i32::try_from(behind.count()).unwrap_or(i32::MAX)
}
