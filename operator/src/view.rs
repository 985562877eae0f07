//! What the operator sees of the cluster: a snapshot of API objects, and nothing that could change it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use ringfence_crd::{
    DefaultDeny, EnforcementProbe, ExternalAccess, Freedom, Mode, ServiceAccess, ZeroTrustBaseline,
    ZeroTrustNamespace,
};
use ringfence_policy::{Labels, ObjectKey};

use crate::callbacks::Callback;
use crate::dns::{Inside, Resolution};
use crate::foreign::{HTTPRoute, PodMonitor, ServiceMonitor};
use crate::governance::{govern, selects};
use crate::names::{Origin, OriginKind};
use crate::reports::NodeReports;

/// A snapshot of everything a decision depends on. The objects are shared with the caches they come from.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Every namespace, by name.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Every Service.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// EndpointSlices of Services whose addresses a policy may carry, by Service.
    pub endpoint_slices: BTreeMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
    /// StatefulSets, by namespace.
    pub stateful_sets: BTreeMap<String, Vec<Arc<StatefulSet>>>,
    /// Ingresses, by namespace.
    pub ingresses: BTreeMap<String, Vec<Arc<Ingress>>>,
    /// HTTPRoutes, by namespace; none where the cluster has no such kind.
    pub http_routes: BTreeMap<String, Vec<Arc<HTTPRoute>>>,
    /// PodMonitors; none where the cluster has no such kind.
    pub pod_monitors: Vec<Arc<PodMonitor>>,
    /// ServiceMonitors; none where the cluster has no such kind.
    pub service_monitors: Vec<Arc<ServiceMonitor>>,
    /// The addresses of the cluster's nodes.
    pub node_addresses: BTreeSet<IpAddr>,
    /// What the API server calls in the cluster.
    pub callbacks: BTreeSet<Callback>,
    /// Pods, by namespace. Coverage and transitions read those of the namespace they are about, and of no other. Where
    /// metrics ports are found by annotations, the scrapers' policies depend on those of the scraped namespaces, too; and peers
    /// that are ServiceAccounts are looked for in all namespaces.
    pub pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// What holds, by namespace: the ZeroTrustNamespaces that users wrote, and, after [`ClusterView::govern`], what the
    /// ZeroTrustBaseline makes of them and of namespaces that have none.
    pub zero_trust: BTreeMap<String, Arc<ZeroTrustNamespace>>,
    /// ZeroTrustNamespaces as users wrote them, by namespace: there is one per namespace at most, named `default`.
    pub written: BTreeMap<String, Arc<ZeroTrustNamespace>>,
    /// The ZeroTrustBaseline, where there is one.
    pub baseline: Option<Arc<ZeroTrustBaseline>>,
    /// Namespaces that no ZeroTrustBaseline covers: Ringfence's own.
    pub reserved: BTreeSet<String>,
    /// Namespaces that go by the ZeroTrustBaseline alone.
    pub by_baseline: BTreeSet<String>,
    /// What ZeroTrustNamespaces ask for and the ZeroTrustBaseline does not permit, by namespace.
    pub overruled: BTreeMap<String, Vec<Freedom>>,
    /// Every ServiceAccess.
    pub accesses: BTreeMap<ObjectKey, Arc<ServiceAccess>>,
    /// Every ExternalAccess.
    pub externals: BTreeMap<ObjectKey, Arc<ExternalAccess>>,
    /// What the DNS names of ExternalAccesses stand for.
    pub names: BTreeMap<String, Resolution>,
    /// Which addresses no DNS name may stand for.
    pub inside: Inside,
    /// NetworkPolicies of any origin, by namespace. Coverage, transitions and status read those of the namespaces they
    /// are about.
    pub policies: BTreeMap<String, Vec<Arc<NetworkPolicy>>>,
    /// AuditNetworkPolicies of any origin, by namespace, as the NetworkPolicies that they stand for. Read like `policies`.
    pub trials: BTreeMap<String, Vec<Arc<NetworkPolicy>>>,
    /// Calico's policies on trial of the namespace that a turn is about, as the NetworkPolicies that they stand for. None where
    /// the cluster has no such kind.
    pub staged: Option<BTreeMap<String, Vec<Arc<NetworkPolicy>>>>,
    /// Whether the cluster refuses pods that are stamped as another ServiceAccount than they run as, see
    /// [`crate::accounts`].
    pub stamps_protected: bool,
    /// What the nodes' enforcers report.
    pub reports: Arc<NodeReports>,
    /// The EnforcementProbe, with what it found.
    pub probe: Option<Arc<EnforcementProbe>>,
    /// A cluster-scoped object that owns policies beside their ZeroTrustNamespace: the CustomResourceDefinition. None where
    /// there is no cluster to write to.
    ///
    /// It keeps the garbage collector from deleting a namespace's policies in any order when its ZeroTrustNamespace goes, so
    /// that the operator can open the namespace in order, without a finalizer that could outlive the operator. When Ringfence
    /// itself is removed, the definition goes too, and the collector takes what is left.
    pub anchor: Option<OwnerReference>,
}

impl ClusterView {
    /// Puts a namespace in, in place of one of the same name.
    pub fn insert_namespace(&mut self, namespace: Arc<Namespace>) {
        self.namespaces.insert(namespace.name_any(), namespace);
    }

    /// Puts a Service in, in place of one of the same name.
    pub fn insert_service(&mut self, service: Arc<Service>) {
        self.services.insert(key(service.as_ref()), service);
    }

    /// Adds an EndpointSlice. One that belongs to no Service is left out.
    pub fn insert_endpoint_slice(&mut self, slice: Arc<EndpointSlice>) {
        if let Some(service) = crate::generate::service_of(&slice) {
            self.endpoint_slices.entry(service).or_default().push(slice);
        }
    }

    /// Adds a StatefulSet.
    pub fn insert_stateful_set(&mut self, set: Arc<StatefulSet>) {
        push(&mut self.stateful_sets, set);
    }

    /// Adds an Ingress.
    pub fn insert_ingress(&mut self, ingress: Arc<Ingress>) {
        push(&mut self.ingresses, ingress);
    }

    /// Adds an HTTPRoute.
    pub fn insert_http_route(&mut self, route: Arc<HTTPRoute>) {
        push(&mut self.http_routes, route);
    }

    /// Adds the addresses of a node.
    pub fn insert_node(&mut self, node: &Node) {
        let addresses = node
            .status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten());
        // A host name is no address.
        self.node_addresses
            .extend(addresses.filter_map(|address| address.address.parse::<IpAddr>().ok()));
    }

    /// Adds a pod.
    pub fn insert_pod(&mut self, pod: Arc<Pod>) {
        self.pods
            .entry(pod.namespace().unwrap_or_default())
            .or_default()
            .push(pod);
    }

    /// Puts a ZeroTrustNamespace in. One with another name than the only one allowed has no effect and is left out.
    pub fn insert_zero_trust(&mut self, resource: Arc<ZeroTrustNamespace>) {
        if resource.name_any() == ringfence_crd::SINGLETON {
            let namespace = resource.namespace().unwrap_or_default();
            self.written.insert(namespace.clone(), Arc::clone(&resource));
            self.zero_trust.insert(namespace, resource);
        }
    }

    /// Puts the ZeroTrustBaseline in. One with another name than the only one allowed has no effect and is left out.
    pub fn insert_baseline(&mut self, baseline: Arc<ZeroTrustBaseline>) {
        if baseline.name_any() == ringfence_crd::SINGLETON {
            self.baseline = Some(baseline);
        }
    }

    /// Works out what holds in each namespace. To be called when all namespaces and everything users wrote are in.
    pub fn govern(&mut self) {
        let Some(baseline) = self.baseline_in_force().cloned() else {
            return;
        };
        let names = self.namespaces.keys();
        let labelled = names.filter_map(|name| Some((name, self.namespace_labels(name)?)));
        let governed = govern(&baseline, &self.written, labelled, &self.reserved);
        self.zero_trust = governed.zero_trust;
        self.by_baseline = governed.by_baseline;
        self.overruled = governed.overruled;
    }

    /// The ZeroTrustBaseline, if it is not being deleted.
    #[must_use]
    pub fn baseline_in_force(&self) -> Option<&Arc<ZeroTrustBaseline>> {
        self.baseline
            .as_ref()
            .filter(|baseline| baseline.metadata.deletion_timestamp.is_none())
    }

    /// Whether the ZeroTrustBaseline covers a namespace, unless that has a ZeroTrustNamespace of its own.
    #[must_use]
    pub fn is_selected(&self, namespace: &str) -> bool {
        let labels = self.namespace_labels(namespace);
        labels
            .zip(self.baseline_in_force())
            .is_some_and(|(labels, baseline)| selects(baseline, namespace, &labels, &self.reserved))
    }

    /// What policies that come from this ZeroTrustNamespace name as their origin: itself, or the ZeroTrustBaseline in whose
    /// place it stands.
    #[must_use]
    pub fn origin(&self, resource: &ZeroTrustNamespace) -> Origin {
        let own = Origin::from(resource);
        if !self.by_baseline.contains(&own.key.namespace) {
            return own;
        }
        Origin {
            kind: OriginKind::ZeroTrustBaseline,
            key: ObjectKey::new("", ringfence_crd::SINGLETON),
            ..own
        }
    }

    /// Whether what a namespace does not allow is only reported there.
    #[must_use]
    pub fn is_audited(&self, namespace: &str) -> bool {
        self.effective(namespace)
            .is_some_and(|resource| resource.spec.mode == Mode::Audit)
    }

    /// Puts a ServiceAccess in, in place of one of the same name.
    pub fn insert_access(&mut self, access: Arc<ServiceAccess>) {
        self.accesses.insert(key(access.as_ref()), access);
    }

    /// Puts an ExternalAccess in, in place of one of the same name.
    pub fn insert_external(&mut self, external: Arc<ExternalAccess>) {
        self.externals.insert(key(external.as_ref()), external);
    }

    /// Adds a NetworkPolicy.
    pub fn insert_policy(&mut self, policy: Arc<NetworkPolicy>) {
        self.policies
            .entry(policy.namespace().unwrap_or_default())
            .or_default()
            .push(policy);
    }

    /// Adds an AuditNetworkPolicy, as the NetworkPolicy that it stands for.
    pub fn insert_trial(&mut self, policy: Arc<NetworkPolicy>) {
        self.trials
            .entry(policy.namespace().unwrap_or_default())
            .or_default()
            .push(policy);
    }

    /// The labels of a namespace, with the name label that the API server adds to every one. None if there is no such
    /// namespace.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<Labels> {
        let mut labels = self.namespaces.get(name)?.labels().clone();
        labels.insert(crate::names::NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        Some(labels)
    }

    /// The ZeroTrustNamespace that is in force in a namespace, its own or the ZeroTrustBaseline's: it exists and is not being
    /// deleted.
    #[must_use]
    pub fn effective(&self, namespace: &str) -> Option<&Arc<ZeroTrustNamespace>> {
        self.zero_trust
            .get(namespace)
            .filter(|resource| resource.metadata.deletion_timestamp.is_none())
    }

    /// The directions a namespace denies: none without a ZeroTrustNamespace in force.
    #[must_use]
    pub fn denied(&self, namespace: &str) -> DefaultDeny {
        self.effective(namespace)
            .map_or(NOTHING_DENIED, |resource| resource.spec.default_deny)
    }

    /// The ServiceAccesses in force: those not being deleted.
    pub fn effective_accesses(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<ServiceAccess>)> {
        self.accesses
            .iter()
            .filter(|(_, access)| access.metadata.deletion_timestamp.is_none())
    }

    /// The ExternalAccesses of a namespace that are in force: those not being deleted.
    pub fn effective_externals<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<ExternalAccess>> {
        self.externals
            .iter()
            .filter(move |(key, external)| {
                key.namespace == namespace && external.metadata.deletion_timestamp.is_none()
            })
            .map(|(_, external)| external)
    }

    /// Whether a namespace is on its way out: nothing can be created in it any more.
    #[must_use]
    pub fn terminating(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|ns| ns.metadata.deletion_timestamp.is_some())
    }
}

fn push<K: ResourceExt>(map: &mut BTreeMap<String, Vec<Arc<K>>>, object: Arc<K>) {
    map.entry(object.namespace().unwrap_or_default())
        .or_default()
        .push(object);
}

const NOTHING_DENIED: DefaultDeny = DefaultDeny {
    ingress: false,
    egress: false,
};

/// The namespace and name of an API object; a cluster-scoped object has an empty namespace.
pub fn key(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}
