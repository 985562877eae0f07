//! Which change is whose business: from changes in the caches to what is looked at again.
//!
//! A look that finds nothing to do costs no request, so what is named here may be too much, never too little.

mod concerned;
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
    AuditNetworkPolicy, ExternalAccess, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace,
};
use ringfence_policy::ObjectKey;

use crate::dns::{Names, names_of};
use crate::names::{MANAGED_BY_LABEL, ORIGIN_KIND_LABEL, Origin, OriginKind};
use crate::queue::Queue;
use crate::reports::{Concerned as Reported, Reports};
use crate::stores::{Definition, Mirror, Stores, Versions};
use crate::view::ClusterView;
use concerned::Concerned;
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
    mirror: Arc<Mirror>,
    reports: Reports,
    queue: Arc<Queue<Key>>,
    dns_services: Vec<ObjectKey>,
    names: Arc<Names>,
}

impl Triggers {
    /// Triggers that look into what `stores` hold, and fill `queue`.
    pub fn new(
        stores: &Stores,
        queue: Arc<Queue<Key>>,
        dns_services: Vec<ObjectKey>,
        names: Arc<Names>,
    ) -> Self {
        Self {
            mirror: stores.mirror.clone(),
            reports: stores.reports.clone(),
            queue,
            dns_services,
            names,
        }
    }

    /// A cache changed.
    pub fn changed(&self, change: &Change) {
        let wants_names = match change {
            Change::Relisted | Change::Definition(_) => true,
            Change::External(versions) => spec_changed(versions),
            _ => false,
        };
        if wants_names {
            self.mirror
                .read(|view| self.names.want(view.externals.values().map(AsRef::as_ref)));
        }
        self.find(|concerned| concerned.changed(change, self.is_reported()));
        self.names_changed(&self.names.standing_for(&addresses(change)));
    }

    /// Everything there is.
    pub fn everything(&self, delay: Duration) {
        self.find(|concerned| concerned.everything(delay));
    }

    /// DNS names that stand for something else than before.
    pub fn names_changed(&self, names: &BTreeSet<String>) {
        if !names.is_empty() {
            self.find(|concerned| {
                concerned.naming(|external| names_of(external).iter().any(|name| names.contains(*name)));
            });
        }
    }

    /// Nodes report something else.
    pub fn reported(&self, which: &Reported) {
        self.find(|concerned| match which {
            Reported::All => concerned.everything(SOON),
            Reported::Namespaces(namespaces) => {
                for namespace in namespaces {
                    concerned.namespace(namespace, SOON);
                    concerned.grants_of(namespace, SOON);
                }
            }
        });
    }

    fn is_reported(&self) -> bool {
        !self.reports.now().nodes.is_empty()
    }

    /// Puts into the queue whom somebody finds concerned.
    fn find(&self, look: impl FnOnce(&mut Concerned<'_>)) {
        let found = self.mirror.read(|view| {
            let mut concerned = Concerned::new(view, &self.dns_services);
            look(&mut concerned);
            concerned.found()
        });
        for (key, delay) in found {
            self.queue.add(key, delay);
        }
    }
}

/// Whom a change concerns, in a view that holds what it led to. No enforcer reports.
#[must_use]
pub fn concerned(view: &ClusterView, dns_services: &[ObjectKey], change: &Change) -> BTreeSet<Key> {
    let mut concerned = Concerned::new(view, dns_services);
    concerned.changed(change, false);
    concerned.found().into_iter().map(|(key, _)| key).collect()
}

impl Concerned<'_> {
    fn changed(&mut self, change: &Change, reported: bool) {
        match change {
            Change::Relisted | Change::Definition(_) => self.everything(SOON),
            Change::Namespace(versions) if namespace_matters(versions) => self.namespace_changed(versions),
            Change::Service(versions) if service_matters(versions) => self.service_changed(versions),
            Change::Pod(versions) if pod_matters(versions) => self.pod_changed(versions),
            Change::Policy(versions) => self.policy_changed(versions, reported),
            Change::ZeroTrust(versions) => self.zero_trust_changed(versions),
            Change::Trial(versions) => self.trial_changed(versions),
            Change::Baseline(versions) => self.baseline_changed(versions),
            Change::Access(versions) => self.access_changed(versions),
            Change::Source(source) => self.source_changed(source),
            Change::External(versions) => self.external_changed(versions),
            Change::ServiceCidr(versions) if spec_changed(versions) => self.insides_changed(),
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

    /// What is inside the cluster changed: some answers may be refused now, or no longer.
    fn insides_changed(&mut self) {
        self.naming(|external| !names_of(external).is_empty());
    }

    /// These ExternalAccesses, and what they open.
    fn naming(&mut self, wanted: impl Fn(&ExternalAccess) -> bool) {
        let view = self.view();
        for (key, external) in &view.externals {
            if wanted(external) {
                self.namespace(&key.namespace, SOON);
                self.add(Key::External(key.clone()), SOON);
            }
        }
    }
}

/// The addresses inside the cluster that a change is about.
fn addresses(change: &Change) -> Vec<IpAddr> {
    match change {
        Change::Pod(versions) if pod_matters(versions) => {
            let pods = [&versions.old, &versions.new].into_iter().flatten();
            pods.flat_map(|pod| ringfence_policy::Pod::from_api(pod).addresses)
                .collect()
        }
        Change::Service(versions) if service_matters(versions) => {
            let spec = either(versions).and_then(|service| service.spec.as_ref());
            let addresses = spec.and_then(|spec| spec.cluster_ips.as_ref());
            let addresses = addresses.into_iter().flatten();
            addresses.filter_map(|text| text.parse().ok()).collect()
        }
        _ => Vec::new(),
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
