//! Which change is whose business: from changes in the caches to what is looked at again.
//!
//! A look that finds nothing to do costs no request, so what is named here may be too much, never too little.

mod closing;
mod facts;
mod sources;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::ResourceExt;
use ringfence_crd::{
    AuditNetworkPolicy, ExternalAccess, Peer, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace,
};
use ringfence_policy::ObjectKey;

use crate::accounts::is_about;
use crate::dns::{Names, names_of};
use crate::generate::allowed_peers;
use crate::names::{MANAGED_BY_LABEL, ORIGIN_KIND_LABEL, Origin, OriginKind};
use crate::queue::Queue;
use crate::reports::Concerned;
use crate::stores::{Definition, Stores, Versions};
use crate::view::key;
use facts::{namespace_matters, pod_matters, service_matters, spec_changed};

/// What is looked at: the unit of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The generated policies of a namespace, and its ZeroTrustNamespace's status.
    Namespace(String),
    /// The status of a ServiceAccess.
    Access(ObjectKey),
    /// The status of an ExternalAccess.
    External(ObjectKey),
    /// The status of the ZeroTrustBaseline.
    Baseline,
}

/// A change in a cache.
#[derive(Clone, Debug)]
pub enum Change {
    /// A namespace.
    Namespace(Versions<Namespace>),
    /// A pod.
    Pod(Versions<Pod>),
    /// A Service.
    Service(Versions<Service>),
    /// A NetworkPolicy.
    Policy(Versions<NetworkPolicy>),
    /// A policy on trial.
    Trial(Versions<AuditNetworkPolicy>),
    /// A ZeroTrustNamespace.
    ZeroTrust(Versions<ZeroTrustNamespace>),
    /// A ZeroTrustBaseline.
    Baseline(Versions<ZeroTrustBaseline>),
    /// A ServiceAccess.
    Access(Versions<ServiceAccess>),
    /// An ExternalAccess.
    External(Versions<ExternalAccess>),
    /// A range of Service addresses.
    ServiceCidr(Versions<ServiceCIDR>),
    /// One of our CustomResourceDefinitions.
    Definition(Versions<Definition>),
    /// An admission policy of ours.
    Admission(Versions<ValidatingAdmissionPolicy>),
    /// A binding of one.
    AdmissionBinding(Versions<ValidatingAdmissionPolicyBinding>),
    /// Something that openings are derived from.
    Source(sources::Source),
    /// A whole kind was listed anew.
    Relisted,
}

macro_rules! changes {
    ($($kind:ty => $case:ident),*) => {
        $(impl From<Versions<$kind>> for Change {
            fn from(versions: Versions<$kind>) -> Self {
                Self::$case(versions)
            }
        })*
    };
}

changes!(Namespace => Namespace, Pod => Pod, Service => Service, NetworkPolicy => Policy,
    AuditNetworkPolicy => Trial, ZeroTrustNamespace => ZeroTrust, ZeroTrustBaseline => Baseline, ServiceAccess => Access, ExternalAccess => External, ServiceCIDR => ServiceCidr, Definition => Definition,
    ValidatingAdmissionPolicy => Admission, ValidatingAdmissionPolicyBinding => AdmissionBinding);

/// At once: somebody waits, or a hole is open.
const NOW: Duration = Duration::ZERO;
/// Soon: a change for many, of which there may be several in a row.
const SOON: Duration = Duration::from_millis(100);
/// Later: counts in a status, which change with every pod of a rollout.
const LATER: Duration = Duration::from_millis(500);

/// Puts into the queue what a change concerns.
pub struct Triggers {
    stores: Stores,
    queue: Arc<Queue<Key>>,
    dns_services: Vec<ObjectKey>,
    names: Arc<Names>,
}

impl Triggers {
    /// Triggers that look into `stores` and fill `queue`.
    pub fn new(
        stores: Stores,
        queue: Arc<Queue<Key>>,
        dns_services: Vec<ObjectKey>,
        names: Arc<Names>,
    ) -> Self {
        Self {
            stores,
            queue,
            dns_services,
            names,
        }
    }

    /// A cache changed.
    pub fn changed(&self, change: &Change) {
        match change {
            Change::Relisted | Change::Definition(_) => {
                self.want_names();
                self.everything(SOON);
            }
            Change::Namespace(versions) if namespace_matters(versions) => self.namespace(versions),
            Change::Service(versions) if service_matters(versions) => self.service(versions),
            Change::Pod(versions) if pod_matters(versions) => self.pod(versions),
            Change::Policy(versions) => self.policy(versions),
            Change::ZeroTrust(versions) => self.zero_trust(versions),
            Change::Trial(versions) => self.trial(versions),
            Change::Baseline(versions) => self.baseline(versions),
            Change::Access(versions) => self.access(versions),
            Change::Source(source) => self.source(source),
            Change::External(versions) => self.external(versions),
            Change::ServiceCidr(versions) if spec_changed(versions) => self.insides(),
            Change::Admission(versions) if spec_changed(versions) => self.everything(SOON),
            Change::AdmissionBinding(versions) if spec_changed(versions) => self.everything(SOON),
            Change::Namespace(_)
            | Change::Service(_)
            | Change::Pod(_)
            | Change::ServiceCidr(_)
            | Change::Admission(_)
            | Change::AdmissionBinding(_) => {}
        }
    }

    /// Everything there is.
    pub fn everything(&self, delay: Duration) {
        for namespace in self.covered() {
            self.queue.add(Key::Namespace(namespace), delay);
        }
        for access in self.stores.accesses.state() {
            self.queue.add(Key::Access(key(access.as_ref())), delay);
        }
        for external in self.stores.externals.state() {
            self.queue.add(Key::External(key(external.as_ref())), delay);
        }
        if !self.stores.baselines.is_empty() {
            self.queue.add(Key::Baseline, LATER.max(delay));
        }
    }

    /// DNS names that stand for something else than before.
    pub fn names_changed(&self, names: &BTreeSet<String>) {
        let concerned = self
            .stores
            .externals
            .state_filter(|external| names_of(external).iter().any(|name| names.contains(*name)));
        self.externals(&concerned);
    }

    /// What is inside the cluster changed: some answers may be refused now, or no longer.
    fn insides(&self) {
        let concerned = self
            .stores
            .externals
            .state_filter(|external| !names_of(external).is_empty());
        self.externals(&concerned);
    }

    fn externals(&self, concerned: &[Arc<ExternalAccess>]) {
        for external in concerned {
            self.namespace_if_covered(&external.namespace().unwrap_or_default(), SOON);
            self.queue.add(Key::External(key(external.as_ref())), SOON);
        }
    }

    fn want_names(&self) {
        let resources = self.stores.externals.state();
        self.names.want(resources.iter().map(AsRef::as_ref));
    }

    fn external(&self, versions: &Versions<ExternalAccess>) {
        let Some(external) = either(versions).map(key) else {
            return;
        };
        self.queue.add(Key::External(external.clone()), SOON);
        if spec_changed(versions) {
            self.want_names();
            self.namespace_if_covered(&external.namespace, NOW);
        }
    }

    /// Nodes report something else.
    pub fn reported(&self, concerned: &Concerned) {
        let Concerned::Namespaces(namespaces) = concerned else {
            return self.everything(SOON);
        };
        for namespace in namespaces {
            self.namespace_if_covered(namespace, SOON);
            self.grants_of(namespace);
        }
    }

    /// Every grant of a namespace.
    fn grants_of(&self, namespace: &str) {
        for access in self.accesses_of(namespace) {
            self.queue.add(Key::Access(key(access.as_ref())), SOON);
        }
        let externals = self
            .stores
            .externals
            .state_filter(|external| external.metadata.namespace.as_deref() == Some(namespace));
        for external in externals {
            self.queue.add(Key::External(key(external.as_ref())), SOON);
        }
    }

    fn pod(&self, versions: &Versions<Pod>) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        self.namespace_if_covered(&namespace, LATER);
        if self.is_scraped(&namespace, versions) {
            self.everything(LATER);
        }
        for access in self.accesses_of(&namespace) {
            self.queue.add(Key::Access(key(access.as_ref())), LATER);
        }
        for external in self.externals_of(&namespace) {
            self.queue.add(Key::External(key(external.as_ref())), LATER);
        }
        self.account(versions, &namespace);
        let pods = [&versions.old, &versions.new].into_iter().flatten();
        let addresses: Vec<IpAddr> = pods
            .flat_map(|pod| ringfence_policy::Pod::from_api(pod).addresses)
            .collect();
        let names = self.names.standing_for(&addresses);
        if !names.is_empty() {
            self.names_changed(&names);
        }
    }

    /// Whoever names the ServiceAccount that a pod runs as, or says that it does, and whoever opens egress for it.
    fn account(&self, versions: &Versions<Pod>, namespace: &str) {
        let pods = [&versions.old, &versions.new];
        let names = |peer: &Peer| {
            let account = peer.service_account.as_deref();
            account.is_some_and(|account| pods.into_iter().flatten().any(|pod| is_about(pod, account)))
        };
        let accesses = self
            .stores
            .accesses
            .state_filter(|access| access.spec.clients.iter().any(names));
        let allowing = self
            .stores
            .zero_trust
            .state_filter(|resource| allowed_peers(resource).any(names));
        for access in &accesses {
            self.queue.add(Key::Access(key(access.as_ref())), SOON);
            self.namespace_if_covered(&access.namespace().unwrap_or_default(), SOON);
        }
        for resource in &allowing {
            self.queue
                .add(Key::Namespace(resource.namespace().unwrap_or_default()), SOON);
        }
        if !accesses.is_empty() || !allowing.is_empty() {
            self.namespace_if_covered(namespace, SOON);
        }
    }

    fn service(&self, versions: &Versions<Service>) {
        let Some(service) = either(versions).map(key) else {
            return;
        };
        let targeting = |access: &&Arc<ServiceAccess>| access.spec.target_ref.name == service.name;
        let accesses = self.accesses_of(&service.namespace);
        let addresses = either(versions)
            .and_then(|service| service.spec.as_ref())
            .and_then(|spec| spec.cluster_ips.clone())
            .unwrap_or_default();
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
        self.names_changed(&self.names.standing_for(&addresses));
        if self.dns_services.contains(&service)
            || accesses.iter().any(|access| targeting(&access))
            || self.is_derived_from(&service)
        {
            self.everything(SOON);
        }
    }

    fn policy(&self, versions: &Versions<NetworkPolicy>) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        let claimed = [&versions.old, &versions.new]
            .into_iter()
            .flatten()
            .any(|policy| is_claimed(policy.as_ref()));
        if claimed {
            self.queue.add(Key::Namespace(namespace.clone()), NOW);
        } else {
            self.namespace_if_covered(&namespace, NOW);
        }
        // Each says whether the nodes hold all policies of its namespace.
        if !self.stores.reports.now().nodes.is_empty() {
            self.grants_of(&namespace);
        }
        for origin in [&versions.old, &versions.new]
            .into_iter()
            .flatten()
            .filter_map(|policy| grant_of(policy))
        {
            self.queue.add(origin, SOON);
        }
    }

    fn externals_of(&self, namespace: &str) -> Vec<Arc<ExternalAccess>> {
        self.stores
            .externals
            .state_filter(|external| external.namespace().as_deref() == Some(namespace))
    }

    fn access(&self, versions: &Versions<ServiceAccess>) {
        let Some(access) = either(versions).map(key) else {
            return;
        };
        self.queue.add(Key::Access(access.clone()), SOON);
        if spec_changed(versions) {
            self.namespace_if_covered(&access.namespace, NOW);
            for namespace in self.covered() {
                self.queue.add(Key::Namespace(namespace), SOON);
            }
        }
    }

    fn accesses_of(&self, namespace: &str) -> Vec<Arc<ServiceAccess>> {
        self.stores
            .accesses
            .state_filter(|access| access.namespace().as_deref() == Some(namespace))
    }
}

fn either<K>(versions: &Versions<K>) -> Option<&K> {
    versions.new.as_deref().or(versions.old.as_deref())
}

/// Whether a policy says that it is generated. Anybody can write that, so it is reason for a look and for no more.
pub fn is_claimed(policy: &impl ResourceExt) -> bool {
    policy.labels().contains_key(ORIGIN_KIND_LABEL)
        || policy
            .labels()
            .get(MANAGED_BY_LABEL)
            .is_some_and(|by| by == crate::names::FIELD_MANAGER)
}

/// The grant a policy says it comes from.
pub(crate) fn grant_of(policy: &NetworkPolicy) -> Option<Key> {
    let origin = Origin::of_policy(policy)?;
    match origin.kind {
        OriginKind::ServiceAccess => Some(Key::Access(origin.key)),
        OriginKind::ExternalAccess => Some(Key::External(origin.key)),
        OriginKind::ZeroTrustNamespace | OriginKind::ZeroTrustBaseline => None,
    }
}

#[cfg(test)]
mod tests;
