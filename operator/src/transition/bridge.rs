//! Bridges: allow-all policies over exactly the pods that a transition closes or opens.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;
use ringfence_policy::{Direction, ObjectKey, Operator, Pod, Requirement, Selector};

use super::changes::Known;
use crate::generate::build::{Draft, Opening, owned_by_zero_trust, policy};
use crate::names::{Origin, OriginKind, Purpose, numbered};
use crate::view::ClusterView;

/// What every bridge's name begins with. A name can't be edited, unlike a label.
const PREFIX: &str = "ringfence-bridge-";

/// Whether one of our policies is a bridge, and still does what a bridge does.
pub(super) fn is_bridge(known: &Known) -> bool {
    let opens_all = |direction| {
        known
            .meaning
            .rules(direction)
            .is_none_or(|rules: &[ringfence_policy::Rule]| {
                rules
                    .iter()
                    .any(|rule| rule.peers.is_none() && rule.ports.is_none())
            })
    };
    known.object.name_any().starts_with(PREFIX)
        && opens_all(Direction::Ingress)
        && opens_all(Direction::Egress)
}

/// Selectors that together match all of these pods, and no pod that one of `barred` matches. None of the pods may be barred.
///
/// A pod that is not barred fails at least one requirement of every barred selector; the negations of these make up the
/// selector. So most often there is one for all pods, and never more than there are differently labelled pods.
pub(super) fn selectors(pods: &[&Pod], barred: &[&Selector]) -> Vec<Selector> {
    let mut found: Vec<Selector> = Vec::new();
    for pod in pods {
        if found.iter().any(|selector| selector.matches(&pod.labels)) {
            continue;
        }
        let failed: BTreeSet<Requirement> = barred
            .iter()
            .filter_map(|selector| {
                let mut requirements = selector.requirements();
                requirements
                    .find(|requirement| !requirement.matches(&pod.labels))
                    .map(negated)
            })
            .collect();
        found.push(Selector::new(failed));
    }
    found
}

fn negated(requirement: &Requirement) -> Requirement {
    let operator = match requirement.operator.clone() {
        Operator::In(values) => Operator::NotIn(values),
        Operator::NotIn(values) => Operator::In(values),
        Operator::Exists => Operator::DoesNotExist,
        Operator::DoesNotExist => Operator::Exists,
    };
    Requirement {
        key: requirement.key.clone(),
        operator,
    }
}

/// The bridge over the pods that a selector matches; None where nothing could own it.
pub(super) fn bridge(
    view: &ClusterView,
    namespace: &str,
    direction: Direction,
    pods: &Selector,
) -> Option<NetworkPolicy> {
    let owner = view.zero_trust.get(namespace).map(AsRef::as_ref);
    let owners = owned_by_zero_trust(view, owner);
    if owners.is_empty() {
        return None;
    }
    let purpose = match direction {
        Direction::Ingress => Purpose::BridgeIngress,
        Direction::Egress => Purpose::BridgeEgress,
    };
    let selector = to_api(pods);
    let text = serde_json::to_string(&selector).unwrap_or_default();
    Some(policy(Draft {
        name: numbered(purpose, "", &[&text]),
        namespace,
        purpose,
        origin: &owner.map_or_else(|| absent(namespace), |owner| view.origin(owner)),
        owners,
        pods: selector,
        direction,
        opening: Opening::Everything,
    }))
}

/// The ZeroTrustNamespace of a namespace in which it is gone already.
fn absent(namespace: &str) -> Origin {
    Origin {
        kind: OriginKind::ZeroTrustNamespace,
        key: ObjectKey::new(namespace, ringfence_crd::SINGLETON),
        uid: String::new(),
    }
}

fn to_api(selector: &Selector) -> LabelSelector {
    let expressions = selector.requirements().map(|requirement| {
        let (operator, values) = match &requirement.operator {
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        LabelSelectorRequirement {
            key: requirement.key.clone(),
            operator: operator.to_owned(),
            values: values.map(|values| values.iter().cloned().collect()),
        }
    });
    LabelSelector {
        match_labels: None,
        match_expressions: Some(expressions.collect()),
    }
}
