//! Whose policy is it: what the operator may change or delete, and what it must leave alone.
//!
//! Labels and names prove nothing: anybody can write them. A policy is the operator's own when its UID is on record in
//! the namespace's ZeroTrustNamespace, or, for the moment between creating and recording one, when the API server names
//! the operator as its writer *and* its owner is a resource of this very namespace or the definition of our own kind.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::names::{FIELD_MANAGER, SPEC_DIGEST_ANNOTATION};
use crate::view::ClusterView;

/// What is known about the operator's own writes in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// UIDs of policies on record.
    pub recorded: BTreeSet<String>,
    /// Names of policies on record.
    pub recorded_names: BTreeSet<String>,
    /// UIDs of the resources that can own generated policies of this namespace: those in it, and the ZeroTrustBaseline.
    pub owners: BTreeSet<String>,
    /// UID of the cluster-scoped owner, see [`ClusterView::anchor`].
    pub anchor: Option<String>,
}

impl Ledger {
    /// The ledger of a namespace.
    #[must_use]
    pub fn of(view: &ClusterView, namespace: &str) -> Self {
        let zero_trust = view.written.get(namespace);
        let records = zero_trust
            .and_then(|resource| resource.status.as_ref())
            .map(|status| status.policies.as_slice())
            .unwrap_or_default();
        let accesses = view.accesses_of(namespace);
        let externals = view.externals_of(namespace);
        Self {
            recorded: records.iter().map(|record| record.uid.clone()).collect(),
            recorded_names: records.iter().map(|record| record.name.clone()).collect(),
            owners: zero_trust
                .and_then(|resource| resource.uid())
                .into_iter()
                .chain(view.baseline.as_ref().and_then(|baseline| baseline.uid()))
                .chain(accesses.filter_map(|(_, access)| access.uid()))
                .chain(externals.filter_map(|(_, external)| external.uid()))
                .collect(),
            anchor: view.anchor.as_ref().map(|anchor| anchor.uid.clone()),
        }
    }

    /// Whether a policy was made by the operator.
    #[must_use]
    pub fn is_ours(&self, policy: &NetworkPolicy) -> bool {
        let recorded = policy
            .metadata
            .uid
            .as_ref()
            .is_some_and(|uid| self.recorded.contains(uid));
        recorded || (written_by_us(policy) && self.owns(policy))
    }

    fn owns(&self, policy: &NetworkPolicy) -> bool {
        policy.owner_references().iter().any(|owner| {
            let controlled = owner.controller == Some(true) && self.owners.contains(&owner.uid);
            controlled || self.anchor.as_ref() == Some(&owner.uid)
        })
    }
}

/// Whether the API server names the operator as a writer of the object itself (not of a subresource).
fn written_by_us(policy: &NetworkPolicy) -> bool {
    policy.managed_fields().iter().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    })
}

/// In what a policy in the API server differs from the generated one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Somebody else changed it: it was last generated as it should be now.
    Edited {
        /// The part that was changed, as a field path.
        field: &'static str,
    },
    /// It was generated for an older state of the cluster or of the user's resources.
    Outdated,
}

/// Compares a policy in the API server with the one that should be there: the whole spec, and the metadata that the
/// operator sets. Labels and annotations of others are none of its business. None means equal.
#[must_use]
pub fn difference(existing: &NetworkPolicy, wanted: &NetworkPolicy) -> Option<Difference> {
    let field = differing_field(existing, wanted)?;
    let digest = |policy: &NetworkPolicy| policy.annotations().get(SPEC_DIGEST_ANNOTATION).cloned();
    // The garbage collector takes away owners that are gone, and a resource made anew has another UID: nobody's edit.
    if field != OWNERS && digest(existing) == digest(wanted) {
        Some(Difference::Edited { field })
    } else {
        Some(Difference::Outdated)
    }
}

const OWNERS: &str = "metadata.ownerReferences";

fn differing_field(existing: &NetworkPolicy, wanted: &NetworkPolicy) -> Option<&'static str> {
    let (have, want) = (existing.spec.as_ref(), wanted.spec.as_ref());
    if have.map(|spec| &spec.pod_selector) != want.map(|spec| &spec.pod_selector) {
        Some("spec.podSelector")
    } else if have.map(|spec| &spec.policy_types) != want.map(|spec| &spec.policy_types) {
        Some("spec.policyTypes")
    } else if have.map(|spec| &spec.ingress) != want.map(|spec| &spec.ingress) {
        Some("spec.ingress")
    } else if have.map(|spec| &spec.egress) != want.map(|spec| &spec.egress) {
        Some("spec.egress")
    } else if !owned_alike(existing.owner_references(), wanted.owner_references()) {
        Some(OWNERS)
    } else if !contains(existing.labels(), wanted.labels()) {
        Some("metadata.labels")
    } else if !contains(existing.annotations(), wanted.annotations()) {
        Some("metadata.annotations")
    } else {
        None
    }
}

type Strings = std::collections::BTreeMap<String, String>;

fn contains(all: &Strings, some: &Strings) -> bool {
    some.iter().all(|(key, value)| all.get(key) == Some(value))
}

fn owned_alike(have: &[OwnerReference], want: &[OwnerReference]) -> bool {
    want.iter().all(|owner| have.contains(owner))
}

/// The object to write in place of `existing`, so that it becomes `wanted`: the wanted spec, the labels and annotations of
/// others, and the identity (UID, and resourceVersion unless the caller clears it) of what it replaces.
#[must_use]
pub fn replacement(existing: &NetworkPolicy, wanted: &NetworkPolicy) -> NetworkPolicy {
    let mut policy = wanted.clone();
    let mut labels = existing.labels().clone();
    labels.extend(wanted.labels().clone());
    let mut annotations = existing.annotations().clone();
    annotations.extend(wanted.annotations().clone());
    let mut owners = wanted.owner_references().to_vec();
    // An object has one controller at most, so a second one can't stay beside ours.
    let others = existing
        .owner_references()
        .iter()
        .filter(|owner| owner.controller != Some(true) && !wanted.owner_references().contains(owner));
    owners.extend(others.cloned());
    policy.metadata.labels = Some(labels);
    policy.metadata.annotations = Some(annotations);
    policy.metadata.owner_references = Some(owners);
    policy.metadata.uid.clone_from(&existing.metadata.uid);
    policy
        .metadata
        .resource_version
        .clone_from(&existing.metadata.resource_version);
    policy
        .metadata
        .finalizers
        .clone_from(&existing.metadata.finalizers);
    policy
}
