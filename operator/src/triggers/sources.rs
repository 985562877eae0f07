//! Changes of what openings are derived from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt;
use ringfence_crd::{Allow, MetricsSource, SameNamespace};
use ringfence_policy::ObjectKey;

use super::concerned::Concerned;
use super::{Change, SOON, either, spec_changed};
use crate::callbacks::{Callback, Calls};
use crate::foreign::{HTTPRoute, PodMonitor, ServiceMonitor, StagedKubernetesNetworkPolicy};
use crate::generate::{SCRAPE_ANNOTATION, api_server_service, discovers, service_of};
use crate::stores::Versions;

/// Whose business a change of a source is.
#[derive(Clone, Debug)]
pub enum Source {
    /// The addresses behind a Service.
    Addresses(ObjectKey),
    /// The StatefulSets of a namespace.
    Peers(String),
    /// The back ends that the routes of a namespace name.
    Routes(String),
    /// What is scraped where.
    Monitors,
    /// The addresses of nodes and of their pods.
    Nodes,
    /// What the API server calls, by namespace.
    Callbacks(BTreeSet<String>),
    /// Calico's policies on trial of a namespace.
    Staged(String),
    /// Nobody's: nothing changed that an opening depends on.
    Nothing,
}

/// The source of a change, or nothing when these facts about the object are the same before and after.
fn source<K, F: PartialEq>(
    versions: &Versions<K>,
    facts: impl Fn(&K) -> F,
    of: impl Fn(&K) -> Source,
) -> Change {
    let (old, new) = (versions.old.as_deref(), versions.new.as_deref());
    if old.map(&facts) == new.map(&facts) {
        return Change::Source(Source::Nothing);
    }
    Change::Source(either(versions).map_or(Source::Nothing, of))
}

fn namespace(object: &impl ResourceExt) -> String {
    object.namespace().unwrap_or_default()
}

impl From<Versions<EndpointSlice>> for Change {
    fn from(versions: Versions<EndpointSlice>) -> Self {
        let facts = |slice: &EndpointSlice| (service_of(slice), slice.endpoints.clone(), slice.ports.clone());
        source(&versions, facts, |slice| {
            service_of(slice).map_or(Source::Nothing, Source::Addresses)
        })
    }
}

impl From<Versions<StatefulSet>> for Change {
    fn from(versions: Versions<StatefulSet>) -> Self {
        let facts = |set: &StatefulSet| {
            let spec = set.spec.as_ref();
            let named = spec.map(|spec| (spec.selector.clone(), spec.service_name.clone()));
            (set.uid(), named, set.metadata.deletion_timestamp.is_some())
        };
        source(&versions, facts, |set| Source::Peers(namespace(set)))
    }
}

impl From<Versions<Node>> for Change {
    fn from(versions: Versions<Node>) -> Self {
        let facts = |node: &Node| {
            let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
            let spec = node.spec.as_ref();
            let ranges = spec.map(|spec| (spec.pod_cidr.clone(), spec.pod_cidrs.clone()));
            (addresses, ranges)
        };
        source(&versions, facts, |_| Source::Nodes)
    }
}

/// What changes with the spec of an object.
fn by_spec<K: ResourceExt>(versions: &Versions<K>, of: impl Fn(&K) -> Source) -> Change {
    let object = either(versions).filter(|_| spec_changed(versions));
    Change::Source(object.map_or(Source::Nothing, of))
}

impl From<Versions<Ingress>> for Change {
    fn from(versions: Versions<Ingress>) -> Self {
        by_spec(&versions, |ingress| Source::Routes(namespace(ingress)))
    }
}

impl From<Versions<HTTPRoute>> for Change {
    fn from(versions: Versions<HTTPRoute>) -> Self {
        by_spec(&versions, |route| Source::Routes(namespace(route)))
    }
}

impl From<Versions<StagedKubernetesNetworkPolicy>> for Change {
    fn from(versions: Versions<StagedKubernetesNetworkPolicy>) -> Self {
        let facts = |policy: &StagedKubernetesNetworkPolicy| (policy.uid(), policy.spec.clone());
        source(&versions, facts, |policy| Source::Staged(namespace(policy)))
    }
}

impl From<Versions<PodMonitor>> for Change {
    fn from(versions: Versions<PodMonitor>) -> Self {
        by_spec(&versions, |_| Source::Monitors)
    }
}

impl From<Versions<ServiceMonitor>> for Change {
    fn from(versions: Versions<ServiceMonitor>) -> Self {
        by_spec(&versions, |_| Source::Monitors)
    }
}

/// The namespaces of the Services that are called before and not after, or the other way round.
fn calls<K: Calls>(versions: &Versions<K>) -> Change {
    let of = |object: &Option<Arc<K>>| -> BTreeSet<Callback> {
        object.as_deref().map(Calls::callbacks).unwrap_or_default()
    };
    let (old, new) = (of(&versions.old), of(&versions.new));
    let changed = old.symmetric_difference(&new);
    Change::Source(Source::Callbacks(
        changed
            .map(|callback| callback.service.namespace.clone())
            .collect(),
    ))
}

impl From<Versions<ValidatingWebhookConfiguration>> for Change {
    fn from(versions: Versions<ValidatingWebhookConfiguration>) -> Self {
        calls(&versions)
    }
}

impl From<Versions<MutatingWebhookConfiguration>> for Change {
    fn from(versions: Versions<MutatingWebhookConfiguration>) -> Self {
        calls(&versions)
    }
}

impl From<Versions<APIService>> for Change {
    fn from(versions: Versions<APIService>) -> Self {
        calls(&versions)
    }
}

impl Concerned<'_> {
    pub(super) fn source_changed(&mut self, source: &Source) {
        let view = self.view();
        match source {
            Source::Nothing => {}
            Source::Addresses(service) if self.is_told_by_addresses(service) => {
                self.backends_changed(service);
            }
            Source::Addresses(_) => {}
            Source::Peers(namespace) | Source::Staged(namespace) => self.namespace(namespace, SOON),
            Source::Routes(namespace) => {
                self.openings_that(namespace, |allow| allow.ingress_controllers.is_some());
            }
            Source::Monitors => {
                for namespace in &view.concerns.discoverers {
                    self.openings_of(namespace, SOON);
                }
            }
            Source::Nodes => {
                self.insides_changed();
                for namespace in &view.concerns.to_nodes {
                    self.namespace(namespace, SOON);
                }
            }
            Source::Callbacks(namespaces) => {
                for namespace in namespaces {
                    self.openings_that(namespace, |allow| allow.webhooks.is_some());
                }
            }
        }
    }

    /// A namespace's openings, if they depend on something.
    fn openings_that(&mut self, namespace: &str, depend: impl Fn(&Allow) -> bool) {
        let resource = self.view().zero_trust.get(namespace);
        if resource.is_some_and(|resource| depend(&resource.spec.allow)) {
            self.openings_of(namespace, SOON);
        }
    }

    /// Whether policies carry the addresses behind a Service: those of the API server, and of Services without selector. The
    /// slices of all others change with every pod, and their policies do not.
    fn is_told_by_addresses(&self, service: &ObjectKey) -> bool {
        let found = self.view().services.get(service);
        let spec = found.and_then(|found| found.spec.as_ref());
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        *service == api_server_service() || selector.is_none_or(BTreeMap::is_empty)
    }

    /// Whether scrapers' policies may depend on a pod's annotations.
    pub(super) fn is_scraped(&self, namespace: &str, versions: &Versions<Pod>) -> bool {
        let annotated = |pod: &Option<Arc<Pod>>| {
            pod.as_ref()
                .is_some_and(|pod| pod.annotations().contains_key(SCRAPE_ANNOTATION))
        };
        let resource = self.view().zero_trust.get(namespace);
        (annotated(&versions.old) || annotated(&versions.new))
            && resource.is_some_and(|resource| discovers(&resource.spec.allow, MetricsSource::Annotations))
    }
}

/// Whether openings are derived from Services that are not named.
pub(super) fn derives_from_services(allow: &Allow) -> bool {
    allow.same_namespace == SameNamespace::StatefulSetPeers
        || allow.ingress_controllers.is_some()
        || allow.webhooks.is_some()
        || !allow.external.is_empty()
        || discovers(allow, MetricsSource::ServiceMonitors)
}
