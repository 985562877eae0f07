//! Objects come into a view and go from it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::Vector;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::ResourceExt;
use ringfence_crd::{ExternalAccess, SINGLETON, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace};

use super::{ByNamespace, ClusterView, key};
use crate::accounts::protected;
use crate::foreign::{HTTPRoute, PodMonitor, ServiceMonitor};
use crate::generate::service_of;
use crate::governance::govern;

impl ClusterView {
    /// Puts a namespace in, in place of one of the same name.
    pub fn insert_namespace(&mut self, namespace: Arc<Namespace>) {
        self.namespaces.insert(namespace.name_any(), namespace);
    }

    pub(crate) fn remove_namespace(&mut self, namespace: &Namespace) {
        self.namespaces.remove(&namespace.name_any());
    }

    /// Puts a Service in, in place of one of the same name.
    pub fn insert_service(&mut self, service: Arc<Service>) {
        self.services.insert(key(service.as_ref()), service);
    }

    pub(crate) fn remove_service(&mut self, service: &Service) {
        self.services.remove(&key(service));
    }

    /// Puts an EndpointSlice in. One that belongs to no Service is left out.
    pub fn insert_endpoint_slice(&mut self, slice: Arc<EndpointSlice>) {
        if let Some(service) = service_of(&slice) {
            put(self.endpoint_slices.entry(service).or_default(), slice);
        }
    }

    pub(crate) fn remove_endpoint_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else {
            return;
        };
        if let Some(list) = self.endpoint_slices.get_mut(&service) {
            take(list, slice);
            if list.is_empty() {
                self.endpoint_slices.remove(&service);
            }
        }
    }

    /// Puts a StatefulSet in, in place of one of the same name.
    pub fn insert_stateful_set(&mut self, set: Arc<StatefulSet>) {
        shelve(&mut self.stateful_sets, set);
    }

    pub(crate) fn remove_stateful_set(&mut self, set: &StatefulSet) {
        clear(&mut self.stateful_sets, set);
    }

    /// Puts an Ingress in, in place of one of the same name.
    pub fn insert_ingress(&mut self, ingress: Arc<Ingress>) {
        shelve(&mut self.ingresses, ingress);
    }

    pub(crate) fn remove_ingress(&mut self, ingress: &Ingress) {
        clear(&mut self.ingresses, ingress);
    }

    /// Puts an HTTPRoute in, in place of one of the same name.
    pub fn insert_http_route(&mut self, route: Arc<HTTPRoute>) {
        shelve(&mut self.http_routes, route);
    }

    pub(crate) fn remove_http_route(&mut self, route: &HTTPRoute) {
        clear(&mut self.http_routes, route);
    }

    /// Puts a PodMonitor in, in place of one of the same name.
    pub fn insert_pod_monitor(&mut self, monitor: Arc<PodMonitor>) {
        put(&mut self.pod_monitors, monitor);
    }

    pub(crate) fn remove_pod_monitor(&mut self, monitor: &PodMonitor) {
        take(&mut self.pod_monitors, monitor);
    }

    /// Puts a ServiceMonitor in, in place of one of the same name.
    pub fn insert_service_monitor(&mut self, monitor: Arc<ServiceMonitor>) {
        put(&mut self.service_monitors, monitor);
    }

    pub(crate) fn remove_service_monitor(&mut self, monitor: &ServiceMonitor) {
        take(&mut self.service_monitors, monitor);
    }

    /// Puts an admission policy of ours in, in place of one of the same name.
    pub(crate) fn insert_admission(&mut self, policy: Arc<ValidatingAdmissionPolicy>) {
        put(&mut self.admission, policy);
        self.judge_stamps();
    }

    pub(crate) fn remove_admission(&mut self, policy: &ValidatingAdmissionPolicy) {
        take(&mut self.admission, policy);
        self.judge_stamps();
    }

    /// Puts the binding of one in, in place of one of the same name.
    pub(crate) fn insert_admission_binding(&mut self, binding: Arc<ValidatingAdmissionPolicyBinding>) {
        put(&mut self.admission_bindings, binding);
        self.judge_stamps();
    }

    pub(crate) fn remove_admission_binding(&mut self, binding: &ValidatingAdmissionPolicyBinding) {
        take(&mut self.admission_bindings, binding);
        self.judge_stamps();
    }

    fn judge_stamps(&mut self) {
        self.stamps_protected = protected(&self.admission, &self.admission_bindings);
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

    /// Puts a pod in, in place of one of the same name.
    pub fn insert_pod(&mut self, pod: Arc<Pod>) {
        let new = Arc::clone(&pod);
        if let Some(before) = shelve(&mut self.pods, pod) {
            self.concerns.pod_goes(&before);
        }
        self.concerns.pod_comes(&new);
    }

    pub(crate) fn remove_pod(&mut self, pod: &Pod) {
        if let Some(before) = clear(&mut self.pods, pod) {
            self.concerns.pod_goes(&before);
        }
    }

    /// Puts a ServiceAccess in, in place of one of the same name.
    pub fn insert_access(&mut self, access: Arc<ServiceAccess>) {
        self.remove_access(&access);
        self.concerns.access_comes(&access);
        self.accesses.insert(key(access.as_ref()), access);
    }

    pub(crate) fn remove_access(&mut self, access: &ServiceAccess) {
        if let Some(before) = self.accesses.remove(&key(access)) {
            self.concerns.access_goes(&before);
        }
    }

    /// Puts an ExternalAccess in, in place of one of the same name.
    pub fn insert_external(&mut self, external: Arc<ExternalAccess>) {
        self.externals.insert(key(external.as_ref()), external);
    }

    pub(crate) fn remove_external(&mut self, external: &ExternalAccess) {
        self.externals.remove(&key(external));
    }

    /// Puts a NetworkPolicy in, in place of one of the same name.
    pub fn insert_policy(&mut self, policy: Arc<NetworkPolicy>) {
        let new = Arc::clone(&policy);
        if let Some(before) = shelve(&mut self.policies, policy) {
            self.concerns.policy_goes(&before);
        }
        self.concerns.policy_comes(&new);
    }

    pub(crate) fn remove_policy(&mut self, policy: &NetworkPolicy) {
        if let Some(before) = clear(&mut self.policies, policy) {
            self.concerns.policy_goes(&before);
        }
    }

    /// Puts an AuditNetworkPolicy in, as the NetworkPolicy that it stands for.
    pub fn insert_trial(&mut self, policy: Arc<NetworkPolicy>) {
        shelve(&mut self.trials, policy);
    }

    pub(crate) fn remove_trial(&mut self, policy: &NetworkPolicy) {
        clear(&mut self.trials, policy);
    }

    /// Puts one of Calico's policies on trial in, as the NetworkPolicy that it stands for.
    pub(crate) fn insert_staged(&mut self, policy: Arc<NetworkPolicy>) {
        shelve(self.staged.get_or_insert_default(), policy);
    }

    pub(crate) fn remove_staged(&mut self, policy: &NetworkPolicy) {
        if let Some(staged) = &mut self.staged {
            clear(staged, policy);
        }
    }

    /// Puts a ZeroTrustNamespace in. One with another name than the only one allowed has no effect and is left out.
    pub fn insert_zero_trust(&mut self, resource: Arc<ZeroTrustNamespace>) {
        if resource.name_any() == SINGLETON {
            let namespace = resource.namespace().unwrap_or_default();
            self.written.insert(namespace.clone(), Arc::clone(&resource));
            self.holds(&namespace, Some(resource));
        }
    }

    pub(crate) fn remove_zero_trust(&mut self, resource: &ZeroTrustNamespace) {
        if resource.name_any() == SINGLETON {
            let namespace = resource.namespace().unwrap_or_default();
            self.written.remove(&namespace);
            self.holds(&namespace, None);
        }
    }

    /// Puts the ZeroTrustBaseline in. One with another name than the only one allowed has no effect and is left out.
    pub fn insert_baseline(&mut self, baseline: Arc<ZeroTrustBaseline>) {
        if baseline.name_any() == SINGLETON {
            self.baseline = Some(baseline);
        }
    }

    pub(crate) fn remove_baseline(&mut self, baseline: &ZeroTrustBaseline) {
        if baseline.name_any() == SINGLETON {
            self.baseline = None;
        }
    }

    /// Works out what holds in each namespace. To be called when all namespaces and everything users wrote are in.
    pub fn govern(&mut self) {
        let names: BTreeSet<String> = self
            .namespaces
            .keys()
            .chain(self.zero_trust.keys())
            .cloned()
            .collect();
        for name in names {
            self.govern_namespace(&name);
        }
    }

    /// Works out what holds in one namespace.
    pub(crate) fn govern_namespace(&mut self, namespace: &str) {
        let own = self.written.get(namespace);
        let labels = self.namespace_labels(namespace);
        let governed = labels
            .zip(self.baseline_in_force())
            .and_then(|(labels, baseline)| govern(baseline, own, namespace, &labels, &self.reserved));
        let Some(governed) = governed else {
            let own = own.cloned();
            self.by_baseline.remove(namespace);
            self.overruled.remove(namespace);
            self.holds(namespace, own);
            return;
        };
        if governed.by_baseline {
            self.by_baseline.insert(namespace.to_owned());
        } else {
            self.by_baseline.remove(namespace);
        }
        if governed.overruled.is_empty() {
            self.overruled.remove(namespace);
        } else {
            self.overruled.insert(namespace.to_owned(), governed.overruled);
        }
        self.holds(namespace, Some(Arc::new(governed.zero_trust)));
    }

    /// This ZeroTrustNamespace holds in a namespace from now on.
    fn holds(&mut self, namespace: &str, resource: Option<Arc<ZeroTrustNamespace>>) {
        let namespace = namespace.to_owned();
        if let Some(before) = self.zero_trust.remove(&namespace) {
            self.concerns.zero_trust_goes(&namespace, &before);
        }
        if let Some(resource) = resource {
            self.concerns.zero_trust_comes(&namespace, &resource);
            self.zero_trust.insert(namespace, resource);
        }
    }
}

/// Puts an object into its namespace's list; what it takes the place of.
fn shelve<K: ResourceExt>(map: &mut ByNamespace<K>, object: Arc<K>) -> Option<Arc<K>> {
    let namespace = object.namespace().unwrap_or_default();
    put(map.entry(namespace).or_default(), object)
}

/// Takes an object out of its namespace's list.
fn clear<K: ResourceExt>(map: &mut ByNamespace<K>, object: &K) -> Option<Arc<K>> {
    let namespace = object.namespace().unwrap_or_default();
    let list = map.get_mut(&namespace)?;
    let taken = take(list, object);
    if list.is_empty() {
        map.remove(&namespace);
    }
    taken
}

fn put<K: ResourceExt>(list: &mut Vector<Arc<K>>, object: Arc<K>) -> Option<Arc<K>> {
    match place(list, object.as_ref()) {
        Some(at) => Some(list.set(at, object)),
        None => {
            list.push_back(object);
            None
        }
    }
}

fn take<K: ResourceExt>(list: &mut Vector<Arc<K>>, object: &K) -> Option<Arc<K>> {
    let at = place(list, object)?;
    Some(list.remove(at))
}

/// Where an object of this name stands.
fn place<K: ResourceExt>(list: &Vector<Arc<K>>, object: &K) -> Option<usize> {
    let (name, namespace) = (&object.meta().name, &object.meta().namespace);
    list.iter().position(|other| {
        let meta = other.meta();
        meta.name == *name && meta.namespace == *namespace
    })
}
