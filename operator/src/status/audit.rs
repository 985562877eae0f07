//! What a namespace's policies would do, were they enforced: summed up from what nodes report.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_crd::{AuditStatus, AuditedNamespace, DefaultDeny, MOST_DROPS, NodeEnforcementStatus, TopDrop};

use super::coverage::would_cover;
use super::enforced::{UNKNOWN, digest, nodes};
use crate::view::ClusterView;

/// Sums up what the enforcers of the nodes that run a namespace's pods found.
pub(super) fn audit(view: &ClusterView, namespace: &str, denied: DefaultDeny) -> AuditStatus {
    let mut status = AuditStatus {
        judged: UNKNOWN.to_owned(),
        would_cover: would_cover(view, namespace, denied),
        ..AuditStatus::default()
    };
    if view.reports.nodes.is_empty() {
        return status;
    }
    let (nodes, digest) = (nodes(view, namespace), digest(view.trials.get(namespace)));
    let reports = nodes.iter().filter_map(|node| view.reports.nodes.get(*node));
    let told: Vec<(&NodeEnforcementStatus, &AuditedNamespace)> = reports
        .filter(|report| report.alive)
        .filter_map(|report| Some((report.status.as_ref(), of(&report.status, namespace)?)))
        .filter(|(_, audited)| audited.digest == digest)
        .collect();
    status.judged = format!("{}/{}", told.len(), nodes.len());
    let all = told.len() == nodes.len();
    let since = told.iter().map(|(_, audited)| &audited.since).max();
    status.since = since.filter(|_| all).cloned();
    status.findings = told
        .iter()
        .fold(0, |sum, (_, audited)| audited.findings.saturating_add(sum));
    status.last_finding_time = last(&told);
    status.top_findings = top(told.iter().map(|(report, _)| *report), namespace);
    status
}

fn of<'a>(report: &'a NodeEnforcementStatus, namespace: &str) -> Option<&'a AuditedNamespace> {
    let applied = report
        .namespaces
        .iter()
        .find(|applied| applied.name == namespace)?;
    applied.audit.as_ref()
}

fn last(told: &[(&NodeEnforcementStatus, &AuditedNamespace)]) -> Option<Time> {
    let times = told
        .iter()
        .filter_map(|(_, audited)| audited.last_finding_time.clone());
    times.max()
}

/// The findings about pods of the namespace, the most frequent first. Both ends' nodes may tell of the same connection, each
/// in its own direction.
fn top<'a>(reports: impl Iterator<Item = &'a NodeEnforcementStatus>, namespace: &str) -> Vec<TopDrop> {
    let is_ours = |drop: &&TopDrop| {
        let judged_by = match drop.direction.as_str() {
            "egress" => &drop.source,
            _ => &drop.destination,
        };
        judged_by.split_once('/').is_some_and(|(of, _)| of == namespace)
    };
    let mut found: Vec<TopDrop> = reports
        .flat_map(|report| &report.top_would_drops)
        .filter(is_ours)
        .cloned()
        .collect();
    found.sort_by(|a, b| {
        let text = |drop: &TopDrop| (drop.source.clone(), drop.destination.clone(), drop.port);
        (b.packets, text(a)).cmp(&(a.packets, text(b)))
    });
    found.truncate(MOST_DROPS);
    found
}
