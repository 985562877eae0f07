//! The Enforced condition: whether the kernels of the nodes that run a namespace's pods hold its policies.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::Vector;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ConditionType, Reason};
use ringfence_policy::{Version, applied_digest};

use super::condition::Finding;
use crate::reports::NodeReport;
use crate::view::ClusterView;

/// What stands in the printer column while no enforcer reports what its kernel holds.
pub(super) const UNKNOWN: &str = "Unknown";

/// Enforced, for a namespace, and the same in short: nodes that hold its policies, of those that run its pods (`3/3`).
pub(super) fn enforced(view: &ClusterView, namespace: &str) -> (Finding, String) {
    if view.is_audited(namespace) {
        return (audited(namespace), UNKNOWN.to_owned());
    }
    if view.reports.nodes.is_empty() {
        return (no_enforcer(), UNKNOWN.to_owned());
    }
    let digest = digest(view.policies.get(namespace));
    let nodes = nodes(view, namespace);
    let judged: Vec<(&str, Judged)> = nodes
        .iter()
        .map(|node| {
            let report = view.reports.nodes.get(*node);
            (*node, judge(report, namespace, &digest))
        })
        .collect();
    let held = judged
        .iter()
        .filter(|(_, judged)| *judged == Judged::Holds)
        .count();
    let in_short = format!("{held}/{}", nodes.len());
    (finding(namespace, &judged, held), in_short)
}

/// What is to be said of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Judged {
    /// Its kernel cannot be brought to what the policies say, or not in part.
    Fails(String),
    /// It has not come so far.
    Waits,
    /// Its enforcer is not heard of.
    IsSilent,
    /// Its kernel holds these very policies.
    Holds,
}

fn judge(report: Option<&NodeReport>, namespace: &str, digest: &str) -> Judged {
    let Some(report) = report else {
        return Judged::Waits;
    };
    if !report.alive {
        return Judged::IsSilent;
    }
    let status = &report.status;
    if let Some(error) = &status.last_error {
        return Judged::Fails(format!("{}: {}", error.name, error.message));
    }
    let exception = status
        .not_applied
        .iter()
        .find(|exception| exception.namespace == namespace);
    if let Some(exception) = exception {
        let policy = exception.policy.as_deref().unwrap_or("some policies");
        return Judged::Fails(format!("{policy}: {}", exception.reason));
    }
    let applied = status.namespaces.iter().find(|applied| applied.name == namespace);
    match applied {
        Some(applied) if applied.digest == digest => Judged::Holds,
        _ => Judged::Waits,
    }
}

/// The worst decides: what fails before what is waited for, and that before what is not known.
fn finding(namespace: &str, judged: &[(&str, Judged)], held: usize) -> Finding {
    let mut by_weight: Vec<&(&str, Judged)> = judged.iter().collect();
    by_weight.sort_by(|(a, x), (b, y)| (x, a).cmp(&(y, b)));
    let others = |judged: &Judged| {
        let alike = by_weight
            .iter()
            .filter(|(_, other)| std::mem::discriminant(other) == std::mem::discriminant(judged));
        match alike.count() {
            0 | 1 => String::new(),
            count => format!(" So are {} others.", count - 1),
        }
    };
    let kind = ConditionType::Enforced;
    match by_weight.first() {
        Some((node, worst @ Judged::Fails(why))) => Finding::fails(
            kind,
            Reason::NodesFailing,
            format!(
                "Node {node} is failing: its kernel does not hold the policies of namespace {namespace} ({why}).{} The \
                 enforcer's log there says more.",
                others(worst)
            ),
        ),
        Some((node, worst @ Judged::Waits)) => Finding::fails(
            kind,
            Reason::NodesPending,
            format!(
                "Node {node} is pending: it does not report the present policies of namespace {namespace} yet.{} If this lasts, see \
                 whether an enforcer runs there.",
                others(worst)
            ),
        ),
        Some((node, worst @ Judged::IsSilent)) => Finding::unknown(
            kind,
            Reason::NodesStale,
            format!(
                "Node {node} is silent: its enforcer has not renewed its Lease in time, so it is not known what the kernel there \
                 holds.{} The rules it wrote stay. See whether the node is Ready and its enforcer runs.",
                others(worst)
            ),
        ),
        Some((_, Judged::Holds)) => Finding::holds(
            kind,
            Reason::Enforced,
            format!(
                "The kernels of all {held} nodes that run pods of namespace {namespace} hold its policies."
            ),
        ),
        None => Finding::holds(
            kind,
            Reason::Enforced,
            format!("No node runs pods of namespace {namespace}."),
        ),
    }
}

/// The nodes that run pods of the namespace that policies can act on.
pub(super) fn nodes<'a>(view: &'a ClusterView, namespace: &str) -> BTreeSet<&'a str> {
    let pods = view.pods.get(namespace).into_iter().flatten();
    let acted_on = pods.filter(|pod| {
        let over = |phase: &str| matches!(phase, "Succeeded" | "Failed");
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        // Without an address there is nothing to enforce yet.
        let addressed = status.is_some_and(|status| status.pod_ip.is_some());
        let host = pod.spec.as_ref().and_then(|spec| spec.host_network);
        addressed && !phase.is_some_and(over) && host != Some(true)
    });
    acted_on
        .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
        .collect()
}

/// The digest that an enforcer reports when it goes by these policies of a namespace as they are.
pub(super) fn digest(policies: Option<&Vector<Arc<NetworkPolicy>>>) -> String {
    let versions: Vec<(String, Version)> = policies
        .into_iter()
        .flatten()
        .map(|policy| {
            let version = Version {
                uid: policy.uid().unwrap_or_default(),
                generation: policy.metadata.generation.unwrap_or_default(),
            };
            (policy.name_any(), version)
        })
        .collect();
    applied_digest(versions.iter().map(|(name, version)| (name.as_str(), version)))
}

/// Nothing is to be enforced.
fn audited(namespace: &str) -> Finding {
    Finding::unknown(
        ConditionType::Enforced,
        Reason::AuditMode,
        format!(
            "Namespace {namespace} is in mode Audit, so nothing is denied there. See status.audit of its ZeroTrustNamespace for \
             what would be."
        ),
    )
}

/// As long as nobody reports what a kernel holds: nothing is claimed.
fn no_enforcer() -> Finding {
    Finding::unknown(
        ConditionType::Enforced,
        Reason::NoEnforcer,
        "No enforcer reports what the nodes' kernels hold, so nothing is known about enforcement: it is up to the \
         cluster's network plugin.",
    )
}
