//! The Covered condition: which pods are isolated, and who opens them further.

use std::collections::BTreeSet;

use ringfence_crd::{ConditionType, Coverage, DefaultDeny, Reason};
use ringfence_policy::{Direction, Pod, Policy};

use super::condition::Finding;
use crate::ownership::Ledger;
use crate::view::ClusterView;

/// How many names of pods or policies a status holds.
const NAMED: usize = 10;

/// Coverage of a namespace that denies these directions, the same in short (`12/14`), and the condition.
pub(super) fn covered(
    view: &ClusterView,
    namespace: &str,
    denied: DefaultDeny,
) -> (Coverage, String, Finding) {
    let pods: Vec<Pod> = view
        .pods
        .get(namespace)
        .into_iter()
        .flatten()
        .map(|pod| Pod::from_api(pod))
        .collect();
    let (on_host, pods): (Vec<&Pod>, Vec<&Pod>) = pods
        .iter()
        .filter(|pod| !pod.finished)
        .partition(|pod| pod.host_network);
    let (ours, foreign) = policies(view, namespace);
    let isolated = |pod: &Pod, direction| {
        ours.iter()
            .chain(&foreign)
            .any(|policy: &Policy| policy.isolates(pod, direction))
    };
    let is_covered = |pod: &Pod| asked(denied).all(|direction| isolated(pod, direction));
    let mut uncovered: Vec<String> = pods
        .iter()
        .filter(|pod| !is_covered(pod))
        .map(|pod| pod.key.name.clone())
        .collect();
    uncovered.sort();
    let overriding: BTreeSet<String> = foreign
        .iter()
        .filter(|policy| pods.iter().any(|pod| opens(policy, pod, denied)))
        .map(|policy| policy.key.name.clone())
        .collect();
    let in_short = format!("{}/{}", pods.len() - uncovered.len(), pods.len());
    let finding = finding(namespace, &in_short, &uncovered, &overriding);
    uncovered.truncate(NAMED);
    let isolated_in = |direction| count(pods.iter().filter(|pod| isolated(pod, direction)).count());
    let coverage = Coverage {
        pods: count(pods.len()),
        isolated_ingress: isolated_in(Direction::Ingress),
        isolated_egress: isolated_in(Direction::Egress),
        exempt: 0,
        host_network: count(on_host.len()),
        uncovered,
    };
    (coverage, in_short, finding)
}

fn asked(denied: DefaultDeny) -> impl Iterator<Item = Direction> {
    let ingress = denied.ingress.then_some(Direction::Ingress);
    ingress
        .into_iter()
        .chain(denied.egress.then_some(Direction::Egress))
}

/// Policies of ours, and of others.
fn policies(view: &ClusterView, namespace: &str) -> (Vec<Policy>, Vec<Policy>) {
    let ledger = Ledger::of(view, namespace);
    let all = view.policies.get(namespace).into_iter().flatten();
    let (ours, foreign): (Vec<_>, Vec<_>) = all.partition(|policy| ledger.is_ours(policy));
    let read = |list: Vec<&std::sync::Arc<_>>| {
        list.into_iter()
            .filter_map(|policy| Policy::from_api(policy).ok())
            .collect()
    };
    (read(ours), read(foreign))
}

/// Whether a policy adds something to what a pod may do in a direction that is denied.
fn opens(policy: &Policy, pod: &Pod, denied: DefaultDeny) -> bool {
    asked(denied).any(|direction| {
        policy.isolates(pod, direction) && policy.rules(direction).is_some_and(|rules| !rules.is_empty())
    })
}

fn finding(namespace: &str, in_short: &str, uncovered: &[String], overriding: &BTreeSet<String>) -> Finding {
    if !uncovered.is_empty() {
        return Finding::fails(
            ConditionType::Covered,
            Reason::PodsUncovered,
            format!(
                "Covered are {in_short} pods of namespace {namespace}. Not isolated in every direction asked for: {}.",
                listed(uncovered.iter())
            ),
        );
    }
    if !overriding.is_empty() {
        return Finding::fails(
            ConditionType::Covered,
            Reason::Overridden,
            format!(
                "NetworkPolicies that Ringfence did not make allow more on pods of namespace {namespace}: {}. Delete them, \
                 or turn what they allow into a ServiceAccess.",
                listed(overriding.iter())
            ),
        );
    }
    Finding::holds(
        ConditionType::Covered,
        Reason::Covered,
        format!("Every pod is isolated ({in_short})."),
    )
}

fn listed<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
