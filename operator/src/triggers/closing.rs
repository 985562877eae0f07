//! Changes of what closes namespaces: ZeroTrustNamespaces, the ZeroTrustBaseline, and the namespaces that it covers.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use ringfence_crd::{AuditNetworkPolicy, ZeroTrustBaseline, ZeroTrustNamespace};

use super::facts::spec_changed;
use super::{Key, NOW, SOON, Triggers, either, is_claimed};
use crate::stores::Versions;

impl Triggers {
    /// A namespace that appears may be covered by the ZeroTrustBaseline, and nothing is to be open there for long.
    pub(super) fn namespace(&self, versions: &Versions<Namespace>) {
        if let Some(namespace) = either(versions) {
            self.namespace_if_covered(&namespace.name_any(), NOW);
        }
        self.everything(SOON);
    }

    pub(super) fn baseline(&self, versions: &Versions<ZeroTrustBaseline>) {
        self.queue.add(Key::Baseline, SOON);
        if spec_changed(versions) {
            self.everything(SOON);
        }
    }

    pub(super) fn trial(&self, versions: &Versions<AuditNetworkPolicy>) {
        let Some(policy) = either(versions) else {
            return;
        };
        let namespace = policy.namespace().unwrap_or_default();
        let claimed = [&versions.old, &versions.new];
        let mut claimed = claimed.into_iter().flatten();
        if claimed.any(|policy| is_claimed(policy.as_ref())) {
            self.queue.add(Key::Namespace(namespace.clone()), NOW);
        } else {
            self.namespace_if_covered(&namespace, SOON);
        }
        self.grants_of(&namespace);
    }

    pub(super) fn zero_trust(&self, versions: &Versions<ZeroTrustNamespace>) {
        let Some(namespace) = either(versions).and_then(ResourceExt::namespace) else {
            return;
        };
        self.queue.add(Key::Namespace(namespace), NOW);
        if spec_changed(versions) {
            self.everything(SOON);
        }
    }

    pub(super) fn namespace_if_covered(&self, namespace: &str, delay: Duration) {
        let own = || {
            self.stores
                .zero_trust
                .find(|resource| resource.namespace().as_deref() == Some(namespace))
        };
        if self.stores.baseline_in_force().is_some() || own().is_some() {
            self.queue.add(Key::Namespace(namespace.to_owned()), delay);
        }
    }

    /// Namespaces with a ZeroTrustNamespace, those with policies that one may have left behind, and with a ZeroTrustBaseline
    /// all others.
    pub(super) fn covered(&self) -> BTreeSet<String> {
        let zero_trust = self.stores.zero_trust.state();
        let claimed = self.stores.policies.state_filter(is_claimed);
        let tried = self.stores.trials.state_filter(is_claimed);
        let namespaces = zero_trust.iter().filter_map(|resource| resource.namespace());
        let mut covered: BTreeSet<String> = namespaces
            .chain(claimed.iter().filter_map(|policy| policy.namespace()))
            .chain(tried.iter().filter_map(|policy| policy.namespace()))
            .collect();
        if self.stores.baseline_in_force().is_some() {
            covered.extend(self.stores.namespaces.state().iter().map(|ns| ns.name_any()));
        }
        covered
    }
}
