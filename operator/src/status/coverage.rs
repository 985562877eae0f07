//! The Covered condition: which pods are isolated, and who opens them further.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_crd::{ConditionType, Coverage, DefaultDeny, Reason};
use ringfence_policy::{
    Coverage as PodsCoverage, Direction, ObjectKey, Pod, PodCoverage, Policy, World, coverage,
};

use super::condition::{Finding, listed};
use crate::generate::{Problem, exempt};
use crate::ownership::Ledger;
use crate::view::{ByNamespace, ClusterView};

/// How many names of pods or policies a status holds.
const NAMED: usize = 10;

/// How a namespace is covered.
pub(super) struct Covered {
    pub(super) coverage: Coverage,
    /// Pods isolated in every direction asked for.
    pub(super) covered: usize,
    /// All pods that can be.
    pub(super) pods: usize,
    /// The condition.
    pub(super) finding: Finding,
}

impl Covered {
    /// The same in short: `12/14`.
    pub(super) fn in_short(&self) -> String {
        format!("{}/{}", self.covered, self.pods)
    }
}

/// Coverage of a namespace that denies these directions.
pub(super) fn covered(
    view: &ClusterView,
    namespace: &str,
    denied: DefaultDeny,
    found: &[Problem],
) -> Covered {
    let (world, ours) = world(view, namespace, &view.policies);
    let mut read = coverage(&world, |policy| !ours.contains(&policy.key));
    let exempt = take_exempt(view, namespace, &world, &mut read);
    let mut uncovered: Vec<String> = read
        .pods
        .iter()
        .filter(|(_, pod)| !is_covered(pod, denied))
        .map(|(key, _)| key.name.clone())
        .collect();
    let reopened = read
        .pods
        .values()
        .flat_map(|pod| asked(denied).flat_map(|direction| &pod.direction(direction).reopened));
    let overriding: BTreeSet<String> = reopened.map(|by| by.policy.name.clone()).collect();
    let (pods, covered) = (read.pods.len(), read.pods.len() - uncovered.len());
    let in_short = format!("{covered}/{pods}");
    let mut finding = if view.is_audited(namespace) {
        audited(namespace, &in_short)
    } else {
        finding(namespace, &in_short, &uncovered, &overriding)
    };
    finding.message.push_str(&any_caller(found));
    uncovered.truncate(NAMED);
    let isolated_in = |direction| {
        let pods = read.pods.values();
        count(pods.filter(|pod| pod.direction(direction).is_isolated()).count())
    };
    let coverage = Coverage {
        pods: count(read.pods.len()),
        isolated_ingress: isolated_in(Direction::Ingress),
        isolated_egress: isolated_in(Direction::Egress),
        exempt: count(exempt),
        host_network: count(read.host_network.len()),
        uncovered,
        reopened: super::reopened::reopened(&world, &read, &asked(denied).collect::<Vec<_>>()),
    };
    Covered {
        coverage,
        covered,
        pods,
        finding,
    }
}

/// Whether a pod is isolated in every direction asked for.
fn is_covered(pod: &PodCoverage, denied: DefaultDeny) -> bool {
    asked(denied).all(|direction| pod.direction(direction).is_isolated())
}

/// What coverage would be in short, were the namespace's AuditNetworkPolicies in force (`12/14`).
pub(super) fn would_cover(view: &ClusterView, namespace: &str, denied: DefaultDeny) -> String {
    let (world, _) = world(view, namespace, &view.trials);
    let mut read = coverage(&world, |_| false);
    take_exempt(view, namespace, &world, &mut read);
    let covered = read.pods.values().filter(|pod| is_covered(pod, denied));
    format!("{}/{}", covered.count(), read.pods.len())
}

/// Takes the pods that are left alone on purpose out of what was read; how many there are.
fn take_exempt(view: &ClusterView, namespace: &str, world: &World, read: &mut PodsCoverage) -> usize {
    let exempt = view
        .effective(namespace)
        .map(|owner| exempt::selectors(owner))
        .unwrap_or_default();
    let all = read.pods.len();
    read.pods.retain(|key, _| {
        let pod = world.pods.get(key);
        !pod.is_some_and(|pod| exempt.iter().any(|selector| selector.matches(&pod.labels)))
    });
    all - read.pods.len()
}

fn asked(denied: DefaultDeny) -> impl Iterator<Item = Direction> {
    let ingress = denied.ingress.then_some(Direction::Ingress);
    ingress
        .into_iter()
        .chain(denied.egress.then_some(Direction::Egress))
}

/// The namespace's pods and policies as the policy engine sees them, and which of the policies are ours. A policy that
/// cannot be read allows nothing.
fn world(
    view: &ClusterView,
    namespace: &str,
    policies: &ByNamespace<NetworkPolicy>,
) -> (World, BTreeSet<ObjectKey>) {
    let ledger = Ledger::of(view, namespace);
    let mut world = World::default();
    let mut ours = BTreeSet::new();
    for pod in view.pods.get(namespace).into_iter().flatten() {
        world.insert_pod(Pod::from_api(pod));
    }
    for object in policies.get(namespace).into_iter().flatten() {
        let policy = Policy::from_api(object).unwrap_or_else(|_| Policy::closed(object));
        if ledger.is_ours(object) {
            ours.insert(policy.key.clone());
        }
        world.insert_policy(policy);
    }
    (world, ours)
}

/// Nothing is isolated by choice, and what others isolate is no merit of the resource.
fn audited(namespace: &str, in_short: &str) -> Finding {
    Finding::fails(
        ConditionType::Covered,
        Reason::AuditMode,
        format!(
            "Namespace {namespace} is in mode Audit: Ringfence isolates no pod there ({in_short} are isolated by other policies). \
             See status.audit for what would be."
        ),
    )
}

fn finding(namespace: &str, in_short: &str, uncovered: &[String], overriding: &BTreeSet<String>) -> Finding {
    if !uncovered.is_empty() {
        return Finding::fails(
            ConditionType::Covered,
            Reason::PodsUncovered,
            format!(
                "Covered are {in_short} pods of namespace {namespace}. Not isolated in every direction asked for: {}.",
                listed(uncovered, NAMED)
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
                listed(overriding, NAMED)
            ),
        );
    }
    Finding::holds(
        ConditionType::Covered,
        Reason::Covered,
        format!("Every pod is isolated ({in_short})."),
    )
}

/// What is to be said of Services whose callers from outside can't be told apart.
fn any_caller(found: &[Problem]) -> String {
    let services: Vec<String> = found
        .iter()
        .filter_map(|problem| match problem {
            Problem::AnyCaller { service } => Some(service.to_string()),
            _ => None,
        })
        .collect();
    if services.is_empty() {
        return String::new();
    }
    format!(
        " Whoever can call a node's port comes in to pods of other nodes with that node's address, whatever \
         spec.allow.external says, by these Services: {}. With externalTrafficPolicy Local the caller's own address counts.",
        listed(&services, NAMED)
    )
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
