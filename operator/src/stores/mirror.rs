//! What all caches hold together, kept up to date object by object, so that nobody reads through a cache to decide about one
//! object.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy, ServiceCIDR};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::runtime::reflector;
use kube::{Resource, ResourceExt};
use ringfence_crd::{
    AuditNetworkPolicy, ExternalAccess, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace,
};

use serde::de::DeserializeOwned;

use super::{Definition, ZERO_TRUST_DEFINITION};
use crate::controller::anchor_of;
use crate::foreign::{HTTPRoute, PodMonitor, ServiceMonitor, StagedKubernetesNetworkPolicy};
use crate::view::ClusterView;

/// The view that the caches add up to.
#[derive(Debug, Default)]
pub struct Mirror(Mutex<ClusterView>);

impl Mirror {
    /// All of it, as it is now. Costs the same for every cluster.
    pub(crate) fn now(&self) -> ClusterView {
        self.lock().clone()
    }

    /// What somebody reads out of it, who does not take long.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&ClusterView) -> T) -> T {
        read(&self.lock())
    }

    /// No ZeroTrustBaseline covers these namespaces.
    pub(crate) fn reserve(&self, namespaces: BTreeSet<String>) {
        self.lock().reserved = Arc::new(namespaces);
    }

    /// An object is there from now on.
    #[cfg(test)]
    pub(crate) fn enter<K: Mirrored>(&self, object: &Option<Arc<K>>) {
        object.iter().for_each(|object| object.comes(&mut self.lock()));
    }

    /// The view, to be changed. As long as it is held, nobody decides anything.
    pub(super) fn lock(&self) -> MutexGuard<'_, ClusterView> {
        // Each object comes and goes by itself: after a panic the others are still right, and the next list mends that one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object of a kind that is watched.
pub trait Mirrored:
    reflector::Lookup<DynamicType = ()>
    + Resource<DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// It is there from now on, in place of one of the same name.
    fn comes(self: &Arc<Self>, view: &mut ClusterView);
    /// It is gone.
    fn goes(&self, view: &mut ClusterView);
}

macro_rules! mirrored {
    ($($kind:ty => $insert:ident, $remove:ident;)*) => {
        $(impl Mirrored for $kind {
            fn comes(self: &Arc<Self>, view: &mut ClusterView) {
                view.$insert(Arc::clone(self));
            }

            fn goes(&self, view: &mut ClusterView) {
                view.$remove(self);
            }
        })*
    };
}

mirrored! {
    Pod => insert_pod, remove_pod;
    Service => insert_service, remove_service;
    NetworkPolicy => insert_policy, remove_policy;
    ServiceAccess => insert_access, remove_access;
    ExternalAccess => insert_external, remove_external;
    EndpointSlice => insert_endpoint_slice, remove_endpoint_slice;
    StatefulSet => insert_stateful_set, remove_stateful_set;
    Ingress => insert_ingress, remove_ingress;
    HTTPRoute => insert_http_route, remove_http_route;
    PodMonitor => insert_pod_monitor, remove_pod_monitor;
    ServiceMonitor => insert_service_monitor, remove_service_monitor;
    ValidatingAdmissionPolicy => insert_admission, remove_admission;
    ValidatingAdmissionPolicyBinding => insert_admission_binding, remove_admission_binding;
}

/// Kinds that few decisions depend on, which read them from their caches.
macro_rules! left_out {
    ($($kind:ty),*) => {
        $(impl Mirrored for $kind {
            fn comes(self: &Arc<Self>, _: &mut ClusterView) {}

            fn goes(&self, _: &mut ClusterView) {}
        })*
    };
}

left_out!(
    Node,
    ServiceCIDR,
    ValidatingWebhookConfiguration,
    MutatingWebhookConfiguration,
    APIService
);

impl Mirrored for Namespace {
    fn comes(self: &Arc<Self>, view: &mut ClusterView) {
        view.insert_namespace(Arc::clone(self));
        view.govern_namespace(&self.name_any());
    }

    fn goes(&self, view: &mut ClusterView) {
        view.remove_namespace(self);
        view.govern_namespace(&self.name_any());
    }
}

impl Mirrored for ZeroTrustNamespace {
    fn comes(self: &Arc<Self>, view: &mut ClusterView) {
        view.insert_zero_trust(Arc::clone(self));
        view.govern_namespace(&self.namespace().unwrap_or_default());
    }

    fn goes(&self, view: &mut ClusterView) {
        view.remove_zero_trust(self);
        view.govern_namespace(&self.namespace().unwrap_or_default());
    }
}

impl Mirrored for ZeroTrustBaseline {
    fn comes(self: &Arc<Self>, view: &mut ClusterView) {
        view.insert_baseline(Arc::clone(self));
        view.govern();
    }

    fn goes(&self, view: &mut ClusterView) {
        view.remove_baseline(self);
        view.govern();
    }
}

impl Mirrored for AuditNetworkPolicy {
    fn comes(self: &Arc<Self>, view: &mut ClusterView) {
        view.insert_trial(Arc::new(self.as_policy()));
    }

    fn goes(&self, view: &mut ClusterView) {
        view.remove_trial(&self.as_policy());
    }
}

impl Mirrored for StagedKubernetesNetworkPolicy {
    fn comes(self: &Arc<Self>, view: &mut ClusterView) {
        view.insert_staged(Arc::new(self.as_policy()));
    }

    fn goes(&self, view: &mut ClusterView) {
        view.remove_staged(&self.as_policy());
    }
}

impl Mirrored for Definition {
    fn comes(self: &Arc<Self>, view: &mut ClusterView) {
        if self.name_any() == ZERO_TRUST_DEFINITION {
            view.anchor = anchor_of(self);
        }
    }

    fn goes(&self, view: &mut ClusterView) {
        if self.name_any() == ZERO_TRUST_DEFINITION {
            view.anchor = None;
        }
    }
}
