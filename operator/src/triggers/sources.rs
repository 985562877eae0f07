//! Changes of what openings are derived from.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt;
use ringfence_crd::{MetricsSource, SameNamespace, ZeroTrustBaseline, ZeroTrustNamespace};
use ringfence_policy::ObjectKey;

use super::{Change, SOON, Triggers, either, spec_changed};
use crate::callbacks::{Callback, Calls};
use crate::foreign::{HTTPRoute, PodMonitor, ServiceMonitor, StagedKubernetesNetworkPolicy};
use crate::generate::{SCRAPE_ANNOTATION, api_server_service, service_of};
use crate::stores::Versions;
use crate::view::key;

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

impl Triggers {
    pub(super) fn source(&self, source: &Source) {
        let concerned = match source {
            Source::Nothing => false,
            Source::Addresses(service) => self.is_told_by_addresses(service),
            Source::Peers(namespace) => {
                self.namespace_if_covered(namespace, SOON);
                false
            }
            Source::Staged(namespace) => {
                self.namespace_if_covered(namespace, SOON);
                false
            }
            Source::Routes(namespace) => self.some(|resource| {
                let derives = resource.spec.allow.ingress_controllers.is_some();
                derives && resource.namespace().as_deref() == Some(namespace)
            }),
            Source::Monitors => self.some(|resource| {
                discovers(resource, MetricsSource::PodMonitors)
                    || discovers(resource, MetricsSource::ServiceMonitors)
            }),
            Source::Nodes => {
                self.insides();
                self.some(|resource| !resource.spec.allow.external.is_empty())
            }
            Source::Callbacks(namespaces) => self.some(|resource| {
                let namespace = resource.namespace().unwrap_or_default();
                resource.spec.allow.webhooks.is_some() && namespaces.contains(&namespace)
            }),
        };
        if concerned {
            self.everything(SOON);
        }
    }

    /// Whether there is such a ZeroTrustNamespace. A ZeroTrustBaseline that derives anything may stand for one.
    fn some(&self, wanted: impl Fn(&ZeroTrustNamespace) -> bool) -> bool {
        let derives = |baseline: &ZeroTrustBaseline| {
            let allow = &baseline.spec.allow;
            allow.same_namespace == SameNamespace::StatefulSetPeers
                || allow.monitoring.is_some()
                || allow.ingress_controllers.is_some()
                || allow.webhooks.is_some()
                || !allow.external.is_empty()
                || !allow.dns.services.is_empty()
        };
        let baseline = || self.stores.baseline_in_force();
        self.stores.zero_trust.find(wanted).is_some() || baseline().is_some_and(|baseline| derives(&baseline))
    }

    /// Whether policies carry the addresses behind a Service: those of the API server, and of Services without selector. The
    /// slices of all others change with every pod, and their policies do not.
    fn is_told_by_addresses(&self, service: &ObjectKey) -> bool {
        let selected = |found: &Service| {
            let spec = found.spec.as_ref();
            let selector = spec.and_then(|spec| spec.selector.as_ref());
            key(found) == *service && selector.is_some_and(|selector| !selector.is_empty())
        };
        *service == api_server_service() || self.stores.services.find(selected).is_none()
    }

    /// Whether a ZeroTrustNamespace derives openings from a Service that it may not name itself.
    pub(super) fn is_derived_from(&self, service: &ObjectKey) -> bool {
        self.some(|resource| {
            let allow = &resource.spec.allow;
            let named = allow
                .dns
                .services
                .iter()
                .any(|named| named.namespace == service.namespace && named.name == service.name);
            let derives = allow.same_namespace == SameNamespace::StatefulSetPeers
                || allow.ingress_controllers.is_some()
                || allow.webhooks.is_some()
                || !allow.external.is_empty()
                || discovers(resource, MetricsSource::ServiceMonitors);
            named || derives && resource.namespace().as_deref() == Some(&service.namespace)
        })
    }

    /// Whether scrapers' policies may depend on a pod's annotations.
    pub(super) fn is_scraped(&self, namespace: &str, versions: &Versions<Pod>) -> bool {
        let annotated = |pod: &Option<Arc<Pod>>| {
            pod.as_ref()
                .is_some_and(|pod| pod.annotations().contains_key(SCRAPE_ANNOTATION))
        };
        (annotated(&versions.old) || annotated(&versions.new))
            && self.some(|resource| {
                discovers(resource, MetricsSource::Annotations)
                    && resource.namespace().as_deref() == Some(namespace)
            })
    }
}

fn discovers(resource: &ZeroTrustNamespace, source: MetricsSource) -> bool {
    let monitoring = resource.spec.allow.monitoring.as_ref();
    monitoring.is_some_and(|wanted| wanted.discover.contains(&source))
}
