//! From the caches to the values decisions are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::dns::{Names, names_of};
use crate::stores::{Definition, Stores};
use crate::view::{ByNamespace, ClusterView};

/// What the caches hold, for a turn of this namespace or of something in it.
pub(super) fn snapshot(stores: &Stores, namespace: &str) -> ClusterView {
    let mut view = stores.mirror.now();
    view.reports = stores.reports.now();
    view.probe = stores.probe.now();
    view.staged = stores
        .sources
        .has_staged()
        .then(|| view.staged.take().unwrap_or_default());
    let webhooks = view.concerns.openings.reaching(namespace).any(|target| {
        view.effective(target)
            .is_some_and(|resource| resource.spec.allow.webhooks.is_some())
    });
    let own = view.effective(namespace);
    let external = own.is_some_and(|resource| !resource.spec.allow.external.is_empty());
    if webhooks {
        view.callbacks = stores.sources.callbacks();
    }
    if external {
        let nodes = stores.sources.nodes.state();
        nodes.iter().for_each(|node| view.insert_node(node));
    }
    view
}

/// Adds what the DNS names in a namespace stand for, and, if there are any, what is inside the cluster.
pub(super) fn add_names(view: &mut ClusterView, stores: &Stores, names: &Names, namespace: &str) {
    let mut resolved = BTreeMap::new();
    for (_, resource) in view.externals_of(namespace) {
        for name in names_of(resource) {
            resolved.insert(name.to_owned(), names.resolution(resource, name));
        }
    }
    view.names = resolved;
    let asked: BTreeSet<IpAddr> = view
        .names
        .values()
        .flat_map(|known| known.addresses.iter().copied())
        .collect();
    if asked.is_empty() {
        return;
    }
    let inside = &mut view.inside;
    stores
        .sources
        .nodes
        .state()
        .iter()
        .for_each(|node| inside.insert_node(node));
    let ranges = stores.service_cidrs.state();
    ranges.iter().for_each(|range| inside.insert_service_cidr(range));
    view.services
        .values()
        .for_each(|service| inside.insert_service(service));
    stores
        .pods
        .state()
        .iter()
        .for_each(|pod| inside.insert_pod(pod, &asked));
}

/// A reference to a definition as an owner.
pub(crate) fn anchor_of(definition: &Definition) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        name: definition.name_any(),
        uid: definition.uid()?,
        ..OwnerReference::default()
    })
}

/// Whether Ringfence's own kinds are being deleted. What users wrote then vanishes piece by piece, and following that
/// would close, for a moment, what was allowed.
pub(super) fn departing(stores: &Stores) -> bool {
    let leaving = |definition: &Definition| definition.metadata.deletion_timestamp.is_some();
    let definitions = [
        &stores.zero_trust_definition,
        &stores.access_definition,
        &stores.external_definition,
    ];
    definitions
        .iter()
        .any(|definition| definition.find(leaving).is_some())
}

/// Enters the answers to our own writes, which the caches do not hold yet.
pub(crate) fn enter(
    policies: &mut ByNamespace<NetworkPolicy>,
    namespace: &str,
    answers: &BTreeMap<String, Option<NetworkPolicy>>,
) {
    if answers.is_empty() {
        return;
    }
    let policies = policies.entry(namespace.to_owned()).or_default();
    policies.retain(|policy| !answers.contains_key(&policy.name_any()));
    policies.extend(answers.values().flatten().cloned().map(Arc::new));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn policy(name: &str, version: &str) -> NetworkPolicy {
        let mut policy = NetworkPolicy::default();
        policy.metadata.name = Some(name.to_owned());
        policy.metadata.namespace = Some("shop".to_owned());
        policy.metadata.resource_version = Some(version.to_owned());
        policy
    }

    #[test]
    fn answers_take_the_place_of_what_the_cache_held() {
        let mut view = ClusterView::default();
        for name in ["kept", "replaced", "deleted"] {
            view.insert_policy(Arc::new(policy(name, "1")));
        }
        let answers = BTreeMap::from([
            ("replaced".to_owned(), Some(policy("replaced", "2"))),
            ("deleted".to_owned(), None),
            ("created".to_owned(), Some(policy("created", "2"))),
        ]);
        enter(&mut view.policies, "shop", &answers);
        let mut found: Vec<_> = view.policies["shop"]
            .iter()
            .map(|policy| format!("{}@{}", policy.name_any(), policy.resource_version().unwrap()))
            .collect();
        found.sort();
        assert_eq!(found, ["created@2", "kept@1", "replaced@2"]);
    }
}
