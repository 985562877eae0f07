//! EnforcementVerified: what the EnforcementProbe found, for the cluster and for the nodes of a namespace.

use std::collections::BTreeSet;

use ringfence_crd::{
    ConditionStatus, ConditionType, EnforcementProbe, ProbeFailure, ProbeFailureKind, Reason,
};

use super::condition::Finding;

const KIND: ConditionType = ConditionType::EnforcementVerified;

/// What the probe says about the nodes that run a namespace's pods. Nothing where there is no probe.
pub(super) fn finding(probe: Option<&EnforcementProbe>, nodes: &BTreeSet<&str>) -> Option<Finding> {
    let status = probe?.status.clone().unwrap_or_default();
    let overall = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == KIND.as_str());
    let judged = overall.filter(|overall| {
        let words = [
            Reason::Verified,
            Reason::DeniedTrafficPassed,
            Reason::AllowedTrafficLost,
            Reason::ProbeIncomplete,
        ];
        words.iter().any(|reason| reason.as_str() == overall.reason)
    });
    if judged.is_none() {
        let why = "No round of the EnforcementProbe has shown yet, or not lately, whether NetworkPolicies are enforced.";
        return Some(Finding::unknown(KIND, Reason::NotVerifiedYet, why));
    }
    if nodes.is_empty() {
        let why = "No node runs pods of this namespace.";
        return Some(Finding::holds(KIND, Reason::Verified, why));
    }
    let probed: BTreeSet<&str> = status.nodes.iter().map(String::as_str).collect();
    if let Some(node) = nodes.iter().find(|node| !probed.contains(**node)) {
        let why = format!(
            "Node {node} runs pods of this namespace, and the last round of the EnforcementProbe was not about it: a new node's \
             turn comes soon; else see the probe's nodeSelector and tolerations."
        );
        return Some(Finding::unknown(KIND, Reason::NotVerifiedYet, why));
    }
    let about: Vec<&ProbeFailure> = status
        .failures
        .iter()
        .filter(|failure| concerns(failure, nodes))
        .collect();
    let all_are_listed =
        usize::try_from(status.failure_count.unwrap_or_default()).ok() == Some(status.failures.len());
    if about.is_empty() && !all_are_listed {
        let why = "The last round of the EnforcementProbe had more failures than its status lists, so nothing is known of these \
                   nodes: see `kubectl describe eprobe default`.";
        return Some(Finding::unknown(KIND, Reason::ProbeIncomplete, why));
    }
    Some(judged_by(about.iter().copied().min(), about.len(), nodes.len()))
}

/// Whether a failure is about pods on these nodes.
fn concerns(failure: &ProbeFailure, nodes: &BTreeSet<&str>) -> bool {
    let on = |node: &str| nodes.contains(node);
    // What was lost may have been lost at either end.
    on(&failure.node) || failure.what == ProbeFailureKind::AllowedLost && on(&failure.source)
}

/// What follows from the worst of so many failures, for so many nodes.
pub(super) fn judged_by(worst: Option<&ProbeFailure>, failures: usize, nodes: usize) -> Finding {
    let Some(worst) = worst else {
        return Finding::holds(
            KIND,
            Reason::Verified,
            format!(
                "Packets have shown that NetworkPolicies are enforced, in both directions: nodes probed: {nodes}."
            ),
        );
    };
    let ProbeFailure {
        what,
        node,
        source,
        destination,
        ..
    } = worst;
    let others = match failures {
        0 | 1 => String::new(),
        more => format!(" Failures in all: {more}; `kubectl describe eprobe default` lists them."),
    };
    let (status, reason, message) = match what {
        ProbeFailureKind::DeniedArrived => (
            ConditionStatus::False,
            Reason::DeniedTrafficPassed,
            format!(
                "Traffic from a pod on node {source} to one on node {destination} passed that a NetworkPolicy denies: the network \
                 plugin on node {node} does not enforce NetworkPolicies. Install the enforcer, or a plugin that does; if one is \
                 installed, see its log on that node."
            ),
        ),
        ProbeFailureKind::AllowedLost => (
            ConditionStatus::Unknown,
            Reason::AllowedTrafficLost,
            format!(
                "Traffic from a pod on node {source} to one on node {destination} did not arrive though every NetworkPolicy of the \
                 probe allows it, so what else did not arrive proves nothing: see whether the pod network works, and whether another \
                 policy selects pods of Ringfence's namespace."
            ),
        ),
        ProbeFailureKind::NoAnswer => (
            ConditionStatus::Unknown,
            Reason::ProbeIncomplete,
            format!(
                "The probe's caller on node {node} did not tell what it found: see its entry in status.failures."
            ),
        ),
        ProbeFailureKind::PodNotStarted => (
            ConditionStatus::Unknown,
            Reason::ProbeIncomplete,
            format!(
                "A pod of the probe did not start on node {node}, so nothing is known about enforcement there: see its entry in \
                 status.failures, and whether the node is Ready."
            ),
        ),
    };
    Finding::new(KIND, status, reason, format!("{message}{others}"))
}
