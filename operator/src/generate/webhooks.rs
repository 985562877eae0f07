//! What the API server calls in a namespace: webhooks and aggregated APIs.

use std::collections::BTreeMap;

use kube::ResourceExt;
use ringfence_crd::ZeroTrustNamespace;

use super::Problem;
use super::backend::Target;
use super::ingress_controllers::{Named, resolved};
use crate::view::ClusterView;

/// What stands behind the Services of the namespace that the API server is told to call, and what is missing.
pub(crate) fn offers(view: &ClusterView, resource: &ZeroTrustNamespace) -> (Vec<Target>, Vec<Problem>) {
    let own = resource.namespace().unwrap_or_default();
    let here = view
        .callbacks
        .iter()
        .filter(|callback| callback.service.namespace == own);
    let named: BTreeMap<Named, String> = here
        .map(|callback| {
            (
                Named::number(callback.service.clone(), callback.port),
                callback.by.clone(),
            )
        })
        .collect();
    resolved(view, named)
}
