//! The status of a ZeroTrustNamespace.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ConditionType, PolicyRecord, Reason, ZeroTrustNamespaceStatus};

use super::NamespaceInput;
use super::condition::{Finding, in_order_of, summarised, written};
use super::coverage::covered;
use super::enforced::enforced;
use super::programmed::programmed;
use super::references::resolved;
use crate::generate::Problem;
use crate::names::{ORIGIN_KIND_LABEL, OriginKind};
use crate::ownership::Ledger;

/// What the operator has to say about a ZeroTrustNamespace. Equal to the status it has when there is nothing new.
#[must_use]
pub fn namespace_status(input: &NamespaceInput<'_>) -> ZeroTrustNamespaceStatus {
    let resource = input.resource;
    let namespace = resource.namespace().unwrap_or_default();
    let previous = resource.status.clone().unwrap_or_default();
    let own = own_policies(input, &namespace);
    let leftovers = own.iter().filter(|policy| !generated(input, policy)).count();
    let denied = input.view.denied(&namespace);
    let found: Vec<Problem> = input
        .generated
        .findings
        .iter()
        .map(|finding| finding.problem.clone())
        .collect();
    let (coverage, in_short, coverage_finding) = covered(input.view, &namespace, denied, &found);
    let (enforcement, enforced_in_short) = enforced(input.view, &namespace);
    let findings = vec![
        accepted(resource.metadata.deletion_timestamp.is_some()),
        resolved(&input.generated.findings),
        programmed(
            input.view,
            of_zero_trust(&input.generated.policies),
            leftovers,
            input.failures,
        ),
        coverage_finding,
        enforcement,
    ];
    let generation = resource.metadata.generation;
    let records: Vec<PolicyRecord> = own.iter().map(|policy| record(policy)).collect();
    ZeroTrustNamespaceStatus {
        observed_generation: generation,
        conditions: written(summarised(findings), &previous.conditions, generation, input.now),
        coverage: Some(coverage),
        covered: Some(in_short),
        enforced: Some(enforced_in_short),
        policy_count: Some(i32::try_from(own.len()).unwrap_or(i32::MAX)),
        policies: in_order_of(&previous.policies, records, |record| record.name.clone()),
    }
}

/// The policies of the namespace that the operator made, by name.
fn own_policies<'a>(input: &NamespaceInput<'a>, namespace: &str) -> Vec<&'a NetworkPolicy> {
    let ledger = Ledger::of(input.view, namespace);
    let all = input.view.policies.get(namespace).into_iter().flatten();
    let mut own: Vec<&NetworkPolicy> = all
        .map(AsRef::as_ref)
        .filter(|policy| ledger.is_ours(policy))
        .collect();
    own.sort_by_key(|policy| policy.name_any());
    own
}

fn generated(input: &NamespaceInput<'_>, policy: &NetworkPolicy) -> bool {
    input
        .generated
        .policies
        .iter()
        .any(|wanted| wanted.name_any() == policy.name_any())
}

/// Policies that come from a ZeroTrustNamespace. Those of a ServiceAccess are that one's to report.
fn of_zero_trust(policies: &[NetworkPolicy]) -> impl Iterator<Item = &NetworkPolicy> {
    policies.iter().filter(|policy| {
        policy.labels().get(ORIGIN_KIND_LABEL).map(String::as_str)
            == Some(OriginKind::ZeroTrustNamespace.as_str())
    })
}

fn record(policy: &NetworkPolicy) -> PolicyRecord {
    PolicyRecord {
        name: policy.name_any(),
        uid: policy.uid().unwrap_or_default(),
    }
}

fn accepted(terminating: bool) -> Finding {
    if terminating {
        Finding::unknown(
            ConditionType::Accepted,
            Reason::Terminating,
            "The namespace is being opened in order, before this resource goes away.",
        )
    } else {
        Finding::holds(
            ConditionType::Accepted,
            Reason::Accepted,
            "The spec is valid and in force.",
        )
    }
}
