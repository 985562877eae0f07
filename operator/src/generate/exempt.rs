//! Pods that a ZeroTrustNamespace leaves alone.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use ringfence_crd::ZeroTrustNamespace;
use ringfence_policy::Selector;

use super::build::narrowed;

/// The policies of a namespace, with those pods taken out that its ZeroTrustNamespace leaves alone. Every policy isolates
/// what it selects, also one that allows something, so this is done to all of them and in this one place.
pub(crate) fn sparing(owner: &ZeroTrustNamespace, policies: Vec<NetworkPolicy>) -> Vec<NetworkPolicy> {
    let spared: Vec<LabelSelectorRequirement> = readable(owner).filter_map(negated).collect();
    if spared.is_empty() {
        return policies;
    }
    let spare = |policy: NetworkPolicy| {
        let selected = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone());
        let mut pods = selected.unwrap_or_default();
        pods.match_expressions
            .get_or_insert_default()
            .extend(spared.iter().cloned());
        narrowed(policy, pods)
    };
    policies.into_iter().map(spare).collect()
}

/// Selectors of the pods left alone: a pod is, when one of them matches it.
pub(crate) fn selectors(owner: &ZeroTrustNamespace) -> Vec<Selector> {
    readable(owner)
        .filter_map(|requirement| selector(&requirement))
        .collect()
}

/// The requirements that mean something. One that the API server should have refused leaves nobody alone.
fn readable(owner: &ZeroTrustNamespace) -> impl Iterator<Item = LabelSelectorRequirement> {
    let all = owner.spec.exempt.iter();
    all.filter(|requirement| selector(requirement).is_some()).cloned()
}

fn selector(requirement: &LabelSelectorRequirement) -> Option<Selector> {
    let selector = LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![requirement.clone()]),
    };
    Selector::try_from(&selector).ok()
}

/// The requirement that is met by exactly those pods which do not meet this one: NotIn is also met by pods without the
/// label, and so is the opposite of In.
fn negated(requirement: LabelSelectorRequirement) -> Option<LabelSelectorRequirement> {
    let operator = match requirement.operator.as_str() {
        "In" => "NotIn",
        "NotIn" => "In",
        "Exists" => "DoesNotExist",
        "DoesNotExist" => "Exists",
        _ => return None,
    };
    Some(LabelSelectorRequirement {
        operator: operator.to_owned(),
        ..requirement
    })
}
