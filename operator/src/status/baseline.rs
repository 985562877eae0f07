//! The status of the ZeroTrustBaseline: the sum of what is to be said about the namespaces that go by it alone.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use ringfence_crd::{
    BaselineNamespaces, ConditionStatus, ConditionType, Mode, Reason, TroubledNamespace, ZeroTrustBaseline,
    ZeroTrustBaselineStatus,
};

use super::condition::{Finding, needs_a_person, summarised, written};
use super::enforced::UNKNOWN;
use crate::view::ClusterView;

/// The most namespaces that are named.
const NAMED: usize = 20;
/// The longest message about one of them.
const MESSAGE: usize = 512;

/// What each of these conditions says of all namespaces together.
const SUMMED: [ConditionType; 4] = [
    ConditionType::ResolvedRefs,
    ConditionType::Programmed,
    ConditionType::Covered,
    ConditionType::Enforced,
];

/// What there is to say about one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub(super) findings: Vec<Finding>,
    /// Pods isolated in every direction asked for.
    pub(super) covered: usize,
    /// All pods that can be.
    pub(super) pods: usize,
}

impl Summary {
    fn finding(&self, kind: ConditionType) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }
}

/// Everything the status of the ZeroTrustBaseline depends on.
#[derive(Clone, Copy, Debug)]
pub struct BaselineInput<'a> {
    /// The cluster.
    pub view: &'a ClusterView,
    /// The resource, with the status it has now.
    pub resource: &'a ZeroTrustBaseline,
    /// What is known of namespaces.
    pub summaries: &'a BTreeMap<String, Summary>,
    /// The time, for conditions that change.
    pub now: Timestamp,
}

/// What the operator has to say about the ZeroTrustBaseline. Equal to the status it has when there is nothing new.
#[must_use]
pub fn baseline_status(input: &BaselineInput<'_>) -> ZeroTrustBaselineStatus {
    let previous = input.resource.status.clone().unwrap_or_default();
    let generation = input.resource.metadata.generation;
    let covered = &input.view.by_baseline;
    let known: Vec<(&str, &Summary)> = covered
        .iter()
        .filter_map(|name| Some((name.as_str(), input.summaries.get(name)?)))
        .collect();
    let unknown = covered.len() - known.len();
    let mut findings = vec![accepted(input.resource)];
    findings.extend(SUMMED.map(|kind| summed(kind, &known, unknown)));
    let sum = |of: fn(&Summary) -> usize| known.iter().map(|(_, summary)| of(summary)).sum::<usize>();
    ZeroTrustBaselineStatus {
        observed_generation: generation,
        conditions: written(summarised(findings), &previous.conditions, generation, input.now),
        namespaces: Some(namespaces(input.view)),
        covered: Some(format!("{}/{}", sum(|s| s.covered), sum(|s| s.pods))),
        enforced: Some(enforced(input, &known)),
        troubled: troubled(&known),
    }
}

fn accepted(resource: &ZeroTrustBaseline) -> Finding {
    if resource.metadata.deletion_timestamp.is_some() {
        return Finding::unknown(
            ConditionType::Accepted,
            Reason::Terminating,
            "Namespaces are being opened in order.",
        );
    }
    Finding::holds(
        ConditionType::Accepted,
        Reason::Accepted,
        "The spec is valid and in force.",
    )
}

fn namespaces(view: &ClusterView) -> BaselineNamespaces {
    let selected: BTreeSet<&String> = view
        .namespaces
        .keys()
        .filter(|name| view.is_selected(name))
        .collect();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    BaselineNamespaces {
        selected: number(selected.len()),
        own: number(selected.len().saturating_sub(view.by_baseline.len())),
        left_alone: number(view.namespaces.len() - selected.len()),
    }
}

/// The worst that a condition says of any namespace.
fn summed(kind: ConditionType, known: &[(&str, &Summary)], unknown: usize) -> Finding {
    let worst = known
        .iter()
        .filter_map(|(name, summary)| Some((*name, summary.finding(kind)?)))
        .filter(|(_, finding)| finding.status != ConditionStatus::True)
        .min_by_key(|(name, finding)| (weight(finding), *name));
    if let Some((name, finding)) = worst {
        let alike = known.iter().filter(|(_, summary)| {
            let other = summary.finding(kind);
            other.is_some_and(|other| other.status == finding.status && other.reason == finding.reason)
        });
        let others = match alike.count() {
            0 | 1 => String::new(),
            count => format!(" So it is in {} other namespaces.", count - 1),
        };
        let message = format!("Namespace {name}: {}{others}", finding.message);
        return Finding::new(kind, finding.status, finding.reason, message);
    }
    if unknown > 0 && kind == ConditionType::Programmed {
        let message = format!("{unknown} namespaces are still to be looked at.");
        return Finding::unknown(kind, Reason::Programming, message);
    }
    let reason = match kind {
        ConditionType::ResolvedRefs => Reason::Resolved,
        ConditionType::Programmed => Reason::Programmed,
        ConditionType::Covered => Reason::Covered,
        _ => Reason::Enforced,
    };
    Finding::holds(
        kind,
        reason,
        format!("So it is in all {} namespaces.", known.len()),
    )
}

/// What needs a person goes before what fails, and that before what is not known.
fn weight(finding: &Finding) -> (bool, bool) {
    (
        !needs_a_person(finding.reason),
        finding.status != ConditionStatus::False,
    )
}

fn enforced(input: &BaselineInput<'_>, known: &[(&str, &Summary)]) -> String {
    if input.view.reports.nodes.is_empty() || input.resource.spec.mode == Mode::Audit {
        return UNKNOWN.to_owned();
    }
    let held = known.iter().filter(|(_, summary)| {
        let finding = summary.finding(ConditionType::Enforced);
        finding.is_some_and(|finding| finding.status == ConditionStatus::True)
    });
    format!("{}/{}", held.count(), input.view.by_baseline.len())
}

/// The first few namespaces in which a condition is False, each with the first of these.
fn troubled(known: &[(&str, &Summary)]) -> Vec<TroubledNamespace> {
    let bad = |summary: &Summary| {
        let mut failed = summary.findings.iter().filter(|finding| {
            finding.status == ConditionStatus::False && finding.reason != Reason::AuditMode
        });
        failed.next().cloned()
    };
    let all = known
        .iter()
        .filter_map(|(name, summary)| Some((*name, bad(summary)?)));
    all.take(NAMED)
        .map(|(name, finding)| TroubledNamespace {
            name: name.to_owned(),
            condition: finding.kind.as_str().to_owned(),
            reason: finding.reason.as_str().to_owned(),
            message: finding.message.chars().take(MESSAGE).collect(),
        })
        .collect()
}
