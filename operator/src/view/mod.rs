//! What the operator sees of the cluster: a snapshot of API objects, and nothing that could change it.
//!
//! The maps share what they have in common with their copies, so that a snapshot of a large cluster costs no more than one
//! of a small one, and a change of one object no more than that object.

mod concerns;
mod contents;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
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
use crate::governance::selects;
use crate::names::{Origin, OriginKind};
use crate::reports::NodeReports;

pub(crate) use concerns::Concerns;

/// Objects in lists, by namespace.
pub type ByNamespace<K> = OrdMap<String, Vector<Arc<K>>>;

/// A snapshot of everything a decision depends on. The objects are shared with the caches they come from.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Every namespace, by name.
    pub namespaces: OrdMap<String, Arc<Namespace>>,
    /// Every Service.
    pub services: OrdMap<ObjectKey, Arc<Service>>,
    /// EndpointSlices of Services whose addresses a policy may carry, by Service.
    pub endpoint_slices: OrdMap<ObjectKey, Vector<Arc<EndpointSlice>>>,
    /// StatefulSets, by namespace.
    pub stateful_sets: ByNamespace<StatefulSet>,
    /// Ingresses, by namespace.
    pub ingresses: ByNamespace<Ingress>,
    /// HTTPRoutes, by namespace; none where the cluster has no such kind.
    pub http_routes: ByNamespace<HTTPRoute>,
    /// PodMonitors; none where the cluster has no such kind.
    pub pod_monitors: Vector<Arc<PodMonitor>>,
    /// ServiceMonitors; none where the cluster has no such kind.
    pub service_monitors: Vector<Arc<ServiceMonitor>>,
    /// The addresses of the cluster's nodes.
    pub node_addresses: BTreeSet<IpAddr>,
    /// What the API server calls in the cluster.
    pub callbacks: BTreeSet<Callback>,
    /// Pods, by namespace. Coverage and transitions read those of the namespace they are about, and of no other. Where
    /// metrics ports are found by annotations, the scrapers' policies depend on those of the scraped namespaces, too; and pods
    /// that run as a ServiceAccount are looked for in all namespaces.
    pub pods: ByNamespace<Pod>,
    /// What holds, by namespace: the ZeroTrustNamespaces that users wrote, and, after [`ClusterView::govern`], what the
    /// ZeroTrustBaseline makes of them and of namespaces that have none.
    pub zero_trust: OrdMap<String, Arc<ZeroTrustNamespace>>,
    /// ZeroTrustNamespaces as users wrote them, by namespace: there is one per namespace at most, named `default`.
    pub written: OrdMap<String, Arc<ZeroTrustNamespace>>,
    /// The ZeroTrustBaseline, where there is one.
    pub baseline: Option<Arc<ZeroTrustBaseline>>,
    /// Namespaces that no ZeroTrustBaseline covers: Ringfence's own.
    pub reserved: Arc<BTreeSet<String>>,
    /// Namespaces that go by the ZeroTrustBaseline alone.
    pub by_baseline: OrdSet<String>,
    /// What ZeroTrustNamespaces ask for and the ZeroTrustBaseline does not permit, by namespace.
    pub overruled: OrdMap<String, Vec<Freedom>>,
    /// Every ServiceAccess.
    pub accesses: OrdMap<ObjectKey, Arc<ServiceAccess>>,
    /// Every ExternalAccess.
    pub externals: OrdMap<ObjectKey, Arc<ExternalAccess>>,
    /// What the DNS names of ExternalAccesses stand for.
    pub names: BTreeMap<String, Resolution>,
    /// Which addresses no DNS name may stand for.
    pub inside: Inside,
    /// NetworkPolicies of any origin, by namespace. Coverage, transitions and status read those of the namespaces they
    /// are about.
    pub policies: ByNamespace<NetworkPolicy>,
    /// AuditNetworkPolicies of any origin, by namespace, as the NetworkPolicies that they stand for. Read like `policies`.
    pub trials: ByNamespace<NetworkPolicy>,
    /// Calico's policies on trial of the namespace that a turn is about, as the NetworkPolicies that they stand for. None where
    /// the cluster has no such kind.
    pub staged: Option<ByNamespace<NetworkPolicy>>,
    /// Whether the cluster refuses pods that are stamped as another ServiceAccount than they run as, see
    /// [`crate::accounts`].
    pub stamps_protected: bool,
    /// Admission policies of ours.
    pub(crate) admission: Vector<Arc<ValidatingAdmissionPolicy>>,
    /// Their bindings.
    pub(crate) admission_bindings: Vector<Arc<ValidatingAdmissionPolicyBinding>>,
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
    /// Who may be concerned by what.
    pub(crate) concerns: Concerns,
}

impl ClusterView {
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

    /// The Services of a namespace.
    pub fn services_of<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Service>)> {
        of_namespace(&self.services, namespace)
    }

    /// The ServiceAccesses of a namespace.
    pub fn accesses_of<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<ServiceAccess>)> {
        of_namespace(&self.accesses, namespace)
    }

    /// The ExternalAccesses of a namespace.
    pub fn externals_of<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<ExternalAccess>)> {
        of_namespace(&self.externals, namespace)
    }

    /// The ServiceAccesses in force, which are those not being deleted, that may lead to policies in a namespace: all of its own,
    /// and those of others that may have clients there.
    pub fn grants_into<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<ServiceAccess>> {
        self.concerns
            .grants
            .reaching(namespace)
            .filter_map(|key| self.accesses.get(key))
            .filter(|access| access.metadata.deletion_timestamp.is_none())
    }

    /// The ExternalAccesses of a namespace that are in force: those not being deleted.
    pub fn effective_externals<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<ExternalAccess>> {
        self.externals_of(namespace)
            .map(|(_, external)| external)
            .filter(|external| external.metadata.deletion_timestamp.is_none())
    }

    /// Whether a namespace is on its way out: nothing can be created in it any more.
    #[must_use]
    pub fn terminating(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|ns| ns.metadata.deletion_timestamp.is_some())
    }
}

const NOTHING_DENIED: DefaultDeny = DefaultDeny {
    ingress: false,
    egress: false,
};

/// The entries of a namespace, which stand beside each other.
fn of_namespace<'a, V: Clone>(
    map: &'a OrdMap<ObjectKey, V>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a V)> {
    map.range(ObjectKey::new(namespace, "")..)
        .take_while(move |(key, _)| key.namespace == namespace)
}

/// The namespace and name of an API object; a cluster-scoped object has an empty namespace.
pub fn key(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}
