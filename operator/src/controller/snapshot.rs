//! From the caches to the values decisions are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use ringfence_crd::AuditNetworkPolicy;

use crate::accounts::{Accounts, protected};
use crate::dns::{Names, names_of};
use crate::generate::{allowed_peers, api_server_service, scraped, service_of};
use crate::stores::{Definition, Stores, ZERO_TRUST_DEFINITION};
use crate::view::ClusterView;

/// What the caches hold for a namespace's turn: all of it, but pods and policies of that namespace only. A cluster has
/// many of both, and there are many turns.
pub(super) fn snapshot(stores: &Stores, namespace: &str) -> ClusterView {
    let mut view = without_policies(stores, namespace);
    add_policies(&mut view, stores, |policy| {
        policy.metadata.namespace.as_deref() == Some(namespace)
    });
    add_trials(&mut view, stores, |policy| {
        policy.metadata.namespace.as_deref() == Some(namespace)
    });
    view.staged = stores.sources.staged().map(|all| {
        let own = all
            .iter()
            .filter(|policy| policy.metadata.namespace.as_deref() == Some(namespace));
        let own = own.map(|policy| Arc::new(policy.as_policy())).collect();
        BTreeMap::from([(namespace.to_owned(), own)])
    });
    view
}

/// The same without any policy.
pub(super) fn without_policies(stores: &Stores, namespace: &str) -> ClusterView {
    let mut view = ClusterView {
        anchor: anchor(stores),
        reports: stores.reports.now(),
        reserved: stores.reserved.as_ref().clone(),
        probe: stores.probe.now(),
        ..ClusterView::default()
    };
    stores
        .namespaces
        .state()
        .into_iter()
        .for_each(|object| view.insert_namespace(object));
    stores
        .services
        .state()
        .into_iter()
        .for_each(|object| view.insert_service(object));
    stores
        .zero_trust
        .state()
        .into_iter()
        .for_each(|object| view.insert_zero_trust(object));
    stores
        .accesses
        .state()
        .into_iter()
        .for_each(|object| view.insert_access(object));
    stores
        .externals
        .state()
        .into_iter()
        .for_each(|object| view.insert_external(object));
    stores
        .baselines
        .state()
        .into_iter()
        .for_each(|object| view.insert_baseline(object));
    view.govern();
    view.stamps_protected = protected(&stores.admission.state(), &stores.admission_bindings.state());
    let accounts = Accounts::new(named_accounts(&view));
    add_sources(&mut view, stores, namespace);
    let mut inhabited = scraped(&view, namespace);
    inhabited.insert(namespace.to_owned());
    let pods = stores.pods.state_filter(|pod| {
        let namespace = pod.metadata.namespace.as_ref();
        namespace.is_some_and(|namespace| inhabited.contains(namespace)) || accounts.concern(pod)
    });
    pods.into_iter().for_each(|object| view.insert_pod(object));
    view
}

/// Adds what the DNS names in a namespace stand for, and, if there are any, what is inside the cluster.
pub(super) fn add_names(view: &mut ClusterView, stores: &Stores, names: &Names, namespace: &str) {
    let resources = stores
        .externals
        .state_filter(|external| external.metadata.namespace.as_deref() == Some(namespace));
    for resource in &resources {
        for name in names_of(resource) {
            let known = names.resolution(resource, name);
            view.names.insert(name.to_owned(), known);
        }
    }
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

/// The ServiceAccounts that any peer names. Few name any, so that few pods of other namespaces are looked at.
fn named_accounts(view: &ClusterView) -> BTreeSet<String> {
    let clients = view.accesses.values().flat_map(|access| &access.spec.clients);
    let allowed = view
        .zero_trust
        .values()
        .flat_map(|resource| allowed_peers(resource));
    clients
        .chain(allowed)
        .filter_map(|peer| peer.service_account.clone())
        .collect()
}

/// Adds what openings in the namespace are derived from, as far as something is.
fn add_sources(view: &mut ClusterView, stores: &Stores, namespace: &str) {
    let sources = &stores.sources;
    let told = |view: &ClusterView, slice: &EndpointSlice| {
        service_of(slice).is_some_and(|service| {
            let found = view.services.get(&service).and_then(|found| found.spec.as_ref());
            let selector = found.and_then(|spec| spec.selector.as_ref());
            service == api_server_service() || selector.is_none_or(BTreeMap::is_empty)
        })
    };
    let slices = sources.endpoint_slices.state_filter(|slice| told(view, slice));
    slices
        .into_iter()
        .for_each(|object| view.insert_endpoint_slice(object));
    let sets = sources
        .stateful_sets
        .state_filter(|set| set.metadata.namespace.as_deref() == Some(namespace));
    sets.into_iter()
        .for_each(|object| view.insert_stateful_set(object));
    let ingresses = sources.ingresses.state();
    ingresses
        .into_iter()
        .for_each(|object| view.insert_ingress(object));
    let routes = sources.http_routes.state();
    routes
        .into_iter()
        .for_each(|object| view.insert_http_route(object));
    view.pod_monitors = sources.pod_monitors.state();
    view.service_monitors = sources.service_monitors.state();
    let mut all = view.zero_trust.values();
    if all.any(|resource| resource.spec.allow.webhooks.is_some()) {
        view.callbacks = sources.callbacks();
    }
    let external = view
        .effective(namespace)
        .is_some_and(|resource| !resource.spec.allow.external.is_empty());
    if external {
        sources
            .nodes
            .state()
            .iter()
            .for_each(|node| view.insert_node(node));
    }
}

/// Adds those policies of the cache that are `wanted`.
pub(super) fn add_policies(view: &mut ClusterView, stores: &Stores, wanted: impl Fn(&NetworkPolicy) -> bool) {
    let policies = stores.policies.state_filter(wanted);
    policies.into_iter().for_each(|object| view.insert_policy(object));
}

/// Adds those policies on trial of the cache that are `wanted`.
pub(super) fn add_trials(
    view: &mut ClusterView,
    stores: &Stores,
    wanted: impl Fn(&AuditNetworkPolicy) -> bool,
) {
    let trials = stores.trials.state_filter(wanted);
    trials
        .into_iter()
        .for_each(|object| view.insert_trial(Arc::new(object.as_policy())));
}

/// The second owner of what ZeroTrustNamespaces lead to.
fn anchor(stores: &Stores) -> Option<OwnerReference> {
    anchor_of(definition(stores)?.as_ref())
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

fn definition(stores: &Stores) -> Option<Arc<Definition>> {
    stores
        .zero_trust_definition
        .find(|definition| definition.name_any() == ZERO_TRUST_DEFINITION)
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
    policies: &mut BTreeMap<String, Vec<Arc<NetworkPolicy>>>,
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
