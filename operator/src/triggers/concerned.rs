//! Whom a change concerns: pure, from the view after it and from the object before it.
//!
//! The work that a change leads to must not grow with what has nothing to do with it, so nothing here reads through all
//! objects of a kind, except where all of them are concerned.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{
    Allow, AuditNetworkPolicy, ExternalAccess, Peer, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace,
};
use ringfence_policy::ObjectKey;

use super::facts::spec_changed;
use super::{Key, LATER, NOW, SOON, either, grant_of, is_claimed};
use crate::accounts::is_about;
use crate::generate::{admitted, api_server_service, reached};
use crate::stores::Versions;
use crate::view::{ClusterView, key};

/// Finds whom a change concerns.
pub(super) struct Concerned<'a> {
    view: &'a ClusterView,
    /// The cluster's DNS Services.
    dns_services: &'a [ObjectKey],
    found: Vec<(Key, Duration)>,
}

impl<'a> Concerned<'a> {
    pub(super) fn new(view: &'a ClusterView, dns_services: &'a [ObjectKey]) -> Self {
        Self {
            view,
            dns_services,
            found: Vec::new(),
        }
    }

    pub(super) fn view(&self) -> &'a ClusterView {
        self.view
    }

    /// What was found: what to look at, and how soon. The same may be in it several times.
    pub(super) fn found(self) -> Vec<(Key, Duration)> {
        self.found
    }

    pub(super) fn add(&mut self, key: Key, delay: Duration) {
        self.found.push((key, delay));
    }

    /// A namespace, if anything is denied there or was.
    pub(super) fn namespace(&mut self, namespace: &str, delay: Duration) {
        let left = |policies: Option<&imbl::Vector<_>>| {
            let mut all = policies.into_iter().flatten();
            all.any(|policy: &std::sync::Arc<NetworkPolicy>| is_claimed(policy.as_ref()))
        };
        let view = self.view;
        if view.zero_trust.contains_key(namespace)
            || left(view.policies.get(namespace))
            || left(view.trials.get(namespace))
        {
            self.add(Key::Namespace(namespace.to_owned()), delay);
        }
    }

    /// Everything there is.
    pub(super) fn everything(&mut self, delay: Duration) {
        let view = self.view;
        let mut names: BTreeSet<&String> = view.zero_trust.keys().collect();
        names.extend(view.policies.keys().chain(view.trials.keys()));
        if view.baseline_in_force().is_some() {
            names.extend(view.namespaces.keys());
        }
        for name in names {
            self.namespace(name, delay);
        }
        for access in view.accesses.keys() {
            self.add(Key::Access(access.clone()), delay);
        }
        for external in view.externals.keys() {
            self.add(Key::External(external.clone()), delay);
        }
        self.summary(LATER.max(delay));
    }

    /// The ZeroTrustBaseline's status, which counts namespaces.
    fn summary(&mut self, delay: Duration) {
        if self.view.baseline.is_some() {
            self.add(Key::Baseline, delay);
        }
    }

    /// Every grant of a namespace.
    pub(super) fn grants_of(&mut self, namespace: &str, delay: Duration) {
        for (access, _) in self.view.accesses_of(namespace) {
            self.add(Key::Access(access.clone()), delay);
        }
        self.externals_of(namespace, delay);
    }

    fn externals_of(&mut self, namespace: &str, delay: Duration) {
        for (external, _) in self.view.externals_of(namespace) {
            self.add(Key::External(external.clone()), delay);
        }
    }

    /// Namespaces whose pods peers written in `own` mean, and where something is denied.
    fn reached<'p>(&mut self, peers: impl Iterator<Item = &'p Peer>, own: &str, delay: Duration) {
        for namespace in reached(self.view, peers, own) {
            self.namespace(&namespace, delay);
        }
    }

    /// A namespace's openings, and whoever comes in by them.
    pub(super) fn openings_of(&mut self, namespace: &str, delay: Duration) {
        self.namespace(namespace, delay);
        let view = self.view;
        if let Some(resource) = view.zero_trust.get(namespace) {
            self.reached(admitted(&resource.spec.allow), namespace, delay);
        }
    }

    pub(super) fn pod_changed(&mut self, versions: &Versions<Pod>) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        self.namespace(&namespace, LATER);
        self.grants_of(&namespace, LATER);
        if self.is_scraped(&namespace, versions) {
            self.openings_of(&namespace, LATER);
        }
        for pod in [&versions.old, &versions.new].into_iter().flatten() {
            self.account(pod, &namespace);
        }
    }

    /// Whoever names the ServiceAccount that a pod runs as, or says that it does, and whoever opens egress for it.
    fn account(&mut self, pod: &Pod, namespace: &str) {
        let view = self.view;
        let about = |peer: &Peer| {
            let account = peer.service_account.as_deref();
            account.is_some_and(|account| is_about(pod, account))
        };
        let mut named = false;
        for access in view.concerns.grants_to(pod) {
            let found = view.accesses.get(access);
            if found.is_some_and(|found| found.spec.clients.iter().any(about)) {
                named = true;
                self.add(Key::Access(access.clone()), SOON);
                self.namespace(&access.namespace, SOON);
            }
        }
        for opening in view.concerns.openings_for(pod) {
            named = true;
            self.namespace(opening, SOON);
        }
        if named {
            self.namespace(namespace, SOON);
        }
    }

    pub(super) fn service_changed(&mut self, versions: &Versions<Service>) {
        let Some(service) = either(versions).map(key) else {
            return;
        };
        // Its status tells of Services that nobody is let in to.
        self.namespace(&service.namespace, LATER);
        self.backends_changed(&service);
    }

    /// What stands behind a Service changed.
    pub(super) fn backends_changed(&mut self, service: &ObjectKey) {
        if self.dns_services.contains(service) || *service == api_server_service() {
            self.everything(SOON);
            return;
        }
        let view = self.view;
        for namespace in view.concerns.resolvers(service) {
            self.namespace(namespace, SOON);
        }
        for (key, access) in view.accesses_of(&service.namespace) {
            if access.spec.target_ref.name == service.name {
                self.add(Key::Access(key.clone()), SOON);
                self.policies_of(access, SOON);
            }
        }
        let derives = view
            .zero_trust
            .get(&service.namespace)
            .is_some_and(|resource| super::sources::derives_from_services(&resource.spec.allow));
        if derives {
            self.openings_of(&service.namespace, SOON);
        }
    }

    /// The namespaces that a ServiceAccess leads to policies in.
    fn policies_of(&mut self, access: &ServiceAccess, delay: Duration) {
        let own = access.namespace().unwrap_or_default();
        self.namespace(&own, delay);
        self.reached(access.spec.clients.iter(), &own, delay);
    }

    pub(super) fn policy_changed(&mut self, versions: &Versions<NetworkPolicy>, reported: bool) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        self.written(&namespace, claimed(versions), NOW);
        // Each says whether the nodes hold all policies of its namespace.
        if reported {
            self.grants_of(&namespace, SOON);
        }
        let both = [&versions.old, &versions.new].into_iter().flatten();
        for origin in both.filter_map(|policy| grant_of(policy)) {
            self.add(origin, SOON);
        }
    }

    pub(super) fn trial_changed(&mut self, versions: &Versions<AuditNetworkPolicy>) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        self.written(&namespace, claimed(versions), SOON);
        self.grants_of(&namespace, SOON);
    }

    /// A policy of a namespace: one that says that it is generated is looked at even where nothing is denied.
    fn written(&mut self, namespace: &str, claimed: bool, delay: Duration) {
        if claimed {
            self.add(Key::Namespace(namespace.to_owned()), NOW);
        } else {
            self.namespace(namespace, delay);
        }
    }

    pub(super) fn access_changed(&mut self, versions: &Versions<ServiceAccess>) {
        let Some(access) = either(versions).map(key) else {
            return;
        };
        self.add(Key::Access(access.clone()), SOON);
        if !spec_changed(versions) {
            return;
        }
        self.namespace(&access.namespace, NOW);
        for version in [&versions.old, &versions.new].into_iter().flatten() {
            self.policies_of(version, SOON);
        }
        let left = self.view.concerns.claimed(&access);
        let left: BTreeSet<&String> = left.map(|policy| &policy.namespace).collect();
        for namespace in left {
            self.namespace(namespace, SOON);
        }
    }

    pub(super) fn external_changed(&mut self, versions: &Versions<ExternalAccess>) {
        let Some(external) = either(versions).map(key) else {
            return;
        };
        self.add(Key::External(external.clone()), SOON);
        if spec_changed(versions) {
            self.namespace(&external.namespace, NOW);
        }
    }

    /// A namespace that appears may be covered by the ZeroTrustBaseline, and nothing is to be open there for long. Others know it
    /// by its name, or by its labels.
    pub(super) fn namespace_changed(&mut self, versions: &Versions<Namespace>) {
        let Some(name) = either(versions).map(ResourceExt::name_any) else {
            return;
        };
        self.namespace(&name, NOW);
        self.closing(&name, &[]);
        let view = self.view;
        for access in view.concerns.grants.reaching(&name) {
            self.namespace(&access.namespace, SOON);
        }
        for acceptor in &view.concerns.acceptors {
            self.namespace(acceptor, SOON);
        }
    }

    pub(super) fn zero_trust_changed(&mut self, versions: &Versions<ZeroTrustNamespace>) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        // Also when nothing is left of it: its policies may be.
        self.add(Key::Namespace(namespace.clone()), NOW);
        if spec_changed(versions) {
            let before = versions.old.as_ref().map(|old| &old.spec.allow);
            self.closing(&namespace, &before.into_iter().collect::<Vec<_>>());
        }
    }

    /// What is denied in a namespace, or what is opened there, may have changed.
    fn closing(&mut self, namespace: &str, before: &[&Allow]) {
        let view = self.view;
        for access in view.concerns.grants.reaching(namespace) {
            self.add(Key::Access(access.clone()), SOON);
        }
        self.externals_of(namespace, SOON);
        for opening in view.concerns.openings.reaching(namespace) {
            self.namespace(opening, SOON);
        }
        self.openings_of(namespace, SOON);
        let inherited = view.baseline.iter().map(|baseline| &baseline.spec.allow);
        for allow in before.iter().copied().chain(inherited) {
            self.reached(admitted(allow), namespace, SOON);
        }
        self.summary(LATER);
    }

    pub(super) fn baseline_changed(&mut self, versions: &Versions<ZeroTrustBaseline>) {
        self.add(Key::Baseline, SOON);
        if spec_changed(versions) {
            self.everything(SOON);
        }
    }
}

/// Whether a policy says, or said, that it is generated.
fn claimed<K: ResourceExt>(versions: &Versions<K>) -> bool {
    let mut both = [&versions.old, &versions.new].into_iter().flatten();
    both.any(|policy| is_claimed(policy.as_ref()))
}
