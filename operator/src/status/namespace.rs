//! The status of a ZeroTrustNamespace.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{
    AuditStatus, ChecklistItem, ConditionType, Freedom, PolicyRecord, Reason, ZeroTrustNamespaceStatus,
};

use super::NamespaceInput;
use super::audit::audit;
use super::baseline::Summary;
use super::checklist::Checklist;
use super::condition::{Finding, in_order_of, summarised, written};
use super::coverage::{Covered, covered};
use super::enforced::{enforced, nodes};
use super::programmed::programmed;
use super::references::resolved;
use super::verified;
use crate::generate::Problem;
use crate::names::{ORIGIN_KIND_LABEL, OriginKind};
use crate::ownership::Ledger;
use crate::view::{ByNamespace, ClusterView};

/// What the operator has to say about a ZeroTrustNamespace. Equal to the status it has when there is nothing new.
#[must_use]
pub fn namespace_status(input: &NamespaceInput<'_>) -> ZeroTrustNamespaceStatus {
    let resource = input.resource;
    let previous = resource.status.clone().unwrap_or_default();
    let assessed = assess(input);
    let generation = resource.metadata.generation;
    let records: Vec<PolicyRecord> = assessed.own.iter().map(|policy| record(policy)).collect();
    let count = assessed.own.len() + assessed.trials;
    ZeroTrustNamespaceStatus {
        observed_generation: generation,
        conditions: written(
            summarised(assessed.findings),
            &previous.conditions,
            generation,
            input.now,
        ),
        covered: Some(assessed.covered.in_short()),
        coverage: Some(assessed.covered.coverage),
        enforced: Some(assessed.enforced),
        policy_count: Some(i32::try_from(count).unwrap_or(i32::MAX)),
        audit: assessed.audit,
        checklist: in_order_of(&previous.checklist, assessed.checklist, |item| item.step.clone()),
        policies: in_order_of(&previous.policies, records, |record| record.name.clone()),
    }
}

/// The same in short, for a namespace that goes by the ZeroTrustBaseline alone.
#[must_use]
pub fn namespace_summary(input: &NamespaceInput<'_>) -> Summary {
    let assessed = assess(input);
    Summary {
        findings: assessed.findings,
        covered: assessed.covered.covered,
        pods: assessed.covered.pods,
    }
}

/// What there is to say about a namespace.
struct Assessed<'a> {
    findings: Vec<Finding>,
    covered: Covered,
    enforced: String,
    audit: Option<AuditStatus>,
    checklist: Vec<ChecklistItem>,
    /// NetworkPolicies that the operator made.
    own: Vec<&'a NetworkPolicy>,
    /// How many AuditNetworkPolicies it made.
    trials: usize,
}

fn assess<'a>(input: &NamespaceInput<'a>) -> Assessed<'a> {
    let resource = input.resource;
    let namespace = resource.namespace().unwrap_or_default();
    let own = made_by_us(input.view, &namespace, &input.view.policies);
    let trials = made_by_us(input.view, &namespace, &input.view.trials);
    let leftovers = unwanted(&own, &input.generated.policies) + unwanted(&trials, &input.generated.trials);
    let denied = input.view.denied(&namespace);
    let found: Vec<Problem> = input
        .generated
        .findings
        .iter()
        .map(|finding| finding.problem.clone())
        .collect();
    let covered = covered(input.view, &namespace, denied, &found);
    let (enforcement, enforced) = enforced(input.view, &namespace);
    let wanted = input.generated.policies.iter().chain(&input.generated.trials);
    let mut findings = vec![
        accepted(input, &namespace),
        resolved(&input.generated.findings),
        programmed(
            input.view,
            wanted.filter(|policy| is_of_zero_trust(policy)),
            leftovers,
            input.failures,
        ),
        covered.finding.clone(),
        enforcement,
    ];
    findings.extend(verified::finding(
        input.view.probe.as_deref(),
        &nodes(input.view, &namespace),
    ));
    let audited = input.view.is_audited(&namespace);
    let audit = audited.then(|| audit(input.view, &namespace, denied));
    let checklist = Checklist {
        view: input.view,
        resource: input.view.effective(&namespace).map_or(resource, AsRef::as_ref),
        problems: &found,
        conditions: &findings,
        audit: audit.as_ref(),
    };
    Assessed {
        checklist: checklist.items(),
        findings,
        covered,
        enforced,
        audit,
        own,
        trials: trials.len(),
    }
}

/// The policies of the namespace that the operator made, by name.
fn made_by_us<'a>(
    view: &'a ClusterView,
    namespace: &str,
    policies: &'a ByNamespace<NetworkPolicy>,
) -> Vec<&'a NetworkPolicy> {
    let ledger = Ledger::of(view, namespace);
    let all = policies.get(namespace).into_iter().flatten();
    let mut own: Vec<&NetworkPolicy> = all
        .map(AsRef::as_ref)
        .filter(|policy| ledger.is_ours(policy))
        .collect();
    own.sort_by_key(|policy| policy.name_any());
    own
}

/// How many of these are not wanted.
fn unwanted(own: &[&NetworkPolicy], wanted: &[NetworkPolicy]) -> usize {
    let names: BTreeSet<String> = wanted.iter().map(ResourceExt::name_any).collect();
    own.iter()
        .filter(|policy| !names.contains(&policy.name_any()))
        .count()
}

/// Whether a policy comes from a ZeroTrustNamespace, or from the ZeroTrustBaseline. Those of a grant are that one's to report.
fn is_of_zero_trust(policy: &NetworkPolicy) -> bool {
    let closing = [OriginKind::ZeroTrustNamespace, OriginKind::ZeroTrustBaseline];
    let kind = policy.labels().get(ORIGIN_KIND_LABEL);
    kind.is_some_and(|kind| closing.iter().any(|closing| closing.as_str() == kind))
}

fn record(policy: &NetworkPolicy) -> PolicyRecord {
    PolicyRecord {
        name: policy.name_any(),
        uid: policy.uid().unwrap_or_default(),
    }
}

fn accepted(input: &NamespaceInput<'_>, namespace: &str) -> Finding {
    if input.resource.metadata.deletion_timestamp.is_some() {
        Finding::unknown(
            ConditionType::Accepted,
            Reason::Terminating,
            "The namespace is being opened in order, before this resource goes away.",
        )
    } else if let Some(overruled) = input.view.overruled.get(namespace) {
        Finding::fails(
            ConditionType::Accepted,
            Reason::NotPermitted,
            not_permitted(overruled),
        )
    } else {
        Finding::holds(
            ConditionType::Accepted,
            Reason::Accepted,
            "The spec is valid and in force.",
        )
    }
}

fn not_permitted(overruled: &[Freedom]) -> String {
    let list = |text: fn(Freedom) -> &'static str| {
        let texts: Vec<&str> = overruled.iter().map(|freedom| text(*freedom)).collect();
        texts.join(", ")
    };
    format!(
        "The ZeroTrustBaseline is stricter in {}, and that counts. Ask for as much as it does, or have the cluster's administrator \
         add {} to its spec.mayLoosen.",
        list(Freedom::field),
        list(Freedom::as_str)
    )
}
