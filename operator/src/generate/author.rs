//! The ZeroTrustNamespace whose policies are being written, in its own namespace.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use ringfence_crd::ZeroTrustNamespace;
use ringfence_policy::Direction;

use super::build::{Draft, Opening, canonical, owned_by_zero_trust, policy};
use crate::names::{Origin, Purpose, numbered, singleton};
use crate::view::ClusterView;

/// Writes the policies of one ZeroTrustNamespace.
pub(crate) struct Author<'a> {
    pub(crate) view: &'a ClusterView,
    pub(crate) resource: &'a ZeroTrustNamespace,
    pub(crate) namespace: &'a str,
    pub(crate) origin: Origin,
}

impl<'a> Author<'a> {
    pub(crate) fn new(view: &'a ClusterView, resource: &'a ZeroTrustNamespace) -> Self {
        let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            view,
            resource,
            namespace,
            origin: view.origin(resource),
        }
    }

    /// A policy for all pods of the namespace, of which there is one.
    pub(crate) fn everywhere(
        &self,
        purpose: Purpose,
        direction: Direction,
        opening: Opening,
    ) -> NetworkPolicy {
        self.named(
            singleton(purpose),
            purpose,
            LabelSelector::default(),
            direction,
            opening,
        )
    }

    /// A policy for some pods, of which there is one for each choice of pods and each `about`. The choice is part of the name:
    /// a policy that selected other pods in place would isolate some and open others in a single write.
    pub(crate) fn over(
        &self,
        purpose: Purpose,
        about: &str,
        pods: LabelSelector,
        direction: Direction,
        opening: Opening,
    ) -> NetworkPolicy {
        let pods = canonical(pods);
        if about.is_empty() && pods == LabelSelector::default() {
            return self.everywhere(purpose, direction, opening);
        }
        let text = serde_json::to_string(&pods).unwrap_or_default();
        let name = numbered(purpose, about, &[about, &text]);
        self.named(name, purpose, pods, direction, opening)
    }

    fn named(
        &self,
        name: String,
        purpose: Purpose,
        pods: LabelSelector,
        direction: Direction,
        opening: Opening,
    ) -> NetworkPolicy {
        policy(Draft {
            name,
            namespace: self.namespace,
            purpose,
            origin: &self.origin,
            owners: owned_by_zero_trust(self.view, Some(self.resource)),
            pods,
            direction,
            opening,
        })
    }
}
