//! What generated policies are written as: one meaning, several kinds of object.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use ringfence_crd::AuditNetworkPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::foreign::StagedKubernetesNetworkPolicy;

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NetworkPolicies.
    Policy,
    /// AuditNetworkPolicies: policies on trial.
    Trial,
    /// The same as Calico knows them.
    Staged,
}

impl Kind {
    /// The kind as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "NetworkPolicy",
            Self::Trial => "AuditNetworkPolicy",
            Self::Staged => "StagedKubernetesNetworkPolicy",
        }
    }
}

/// An object that says what a NetworkPolicy with its metadata and spec says.
pub trait Form:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + From<NetworkPolicy>
{
    /// The NetworkPolicy that it stands for.
    fn into_policy(self) -> NetworkPolicy;
}

impl Form for NetworkPolicy {
    fn into_policy(self) -> NetworkPolicy {
        self
    }
}

impl Form for AuditNetworkPolicy {
    fn into_policy(self) -> NetworkPolicy {
        self.as_policy()
    }
}

impl Form for StagedKubernetesNetworkPolicy {
    fn into_policy(self) -> NetworkPolicy {
        self.as_policy()
    }
}
