//! The cluster as it would be if AuditNetworkPolicies were NetworkPolicies.
//!
//! While there are none it costs nothing; with the first, what the resolver knows is copied, and both hear of everything
//! from then on.

use std::collections::BTreeMap;

use ringfence_policy::{Event, ObjectKey, Policy, Resolver};

/// What the name of an AuditNetworkPolicy begins with, so that it is not taken for a NetworkPolicy of the same name: Audit and
/// Enforce are two kinds of one name.
pub const PREFIX: &str = "auditnetworkpolicy/";

/// The policies on trial, and what they mean beside the real ones.
#[derive(Debug, Default)]
pub struct Trial {
    policies: BTreeMap<ObjectKey, Policy>,
    resolver: Option<Resolver>,
    changed: bool,
}

impl Trial {
    /// Events happened in the cluster.
    pub(super) fn happen(&mut self, events: &[Event]) {
        if let Some(resolver) = &mut self.resolver {
            let changes = resolver.apply_all(events.iter().cloned());
            self.changed |= !changes.is_empty();
        }
    }

    /// A policy is on trial, or says something else now.
    pub(super) fn policy(&mut self, mut policy: Policy) {
        policy.key.name.insert_str(0, PREFIX);
        if let Some(resolver) = &mut self.resolver {
            let changes = resolver.apply(Event::Policy(policy.clone()));
            self.changed |= !changes.is_empty();
        }
        self.policies.insert(policy.key.clone(), policy);
    }

    /// A policy is on trial no more.
    pub(super) fn gone(&mut self, key: &ObjectKey) {
        let key = ObjectKey::new(key.namespace.clone(), format!("{PREFIX}{}", key.name));
        if self.policies.remove(&key).is_none() {
            return;
        }
        if let Some(resolver) = &mut self.resolver {
            let changes = resolver.apply(Event::PolicyGone(key));
            self.changed |= !changes.is_empty();
        }
    }

    /// Begins with the first policy, and ends with the last. `real` is what the cluster is without any.
    pub(super) fn settle(&mut self, real: &Resolver) {
        match (&self.resolver, self.policies.is_empty()) {
            (None, false) => {
                let mut resolver = real.clone();
                resolver.apply_all(self.policies.values().cloned().map(Event::Policy));
                self.resolver = Some(resolver);
                self.changed = true;
            }
            (Some(_), true) => {
                self.resolver = None;
                self.changed = true;
            }
            (None, true) | (Some(_), false) => {}
        }
    }

    /// The cluster with the policies on trial in force; `None` where there are none.
    pub(super) fn resolver(&self) -> Option<&Resolver> {
        self.resolver.as_ref()
    }

    /// What decides beside the policies has changed.
    pub(super) fn touch(&mut self) {
        self.changed |= self.resolver.is_some();
    }

    /// Whether it means something else than when this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}
