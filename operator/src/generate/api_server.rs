//! The API server, as pods reach it and as it reaches them: it is no pod on most clusters, so policies need its addresses.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer};
use ringfence_policy::{Direction, ObjectKey};

use super::author::Author;
use super::build::Opening;
use super::{Problem, endpoints, peers};
use crate::names::Purpose;
use crate::view::ClusterView;

/// The Service whose EndpointSlices tell where the API server is.
pub(crate) fn service() -> ObjectKey {
    ObjectKey::new("default", "kubernetes")
}

/// The addresses that the API server calls from.
///
/// # Errors
///
/// When nobody tells them.
pub(crate) fn addresses(view: &ClusterView) -> Result<Vec<NetworkPolicyPeer>, Problem> {
    let known = endpoints::addresses(view, &service());
    if known.is_empty() {
        return Err(Problem::NoAddresses { service: service() });
    }
    Ok(known.into_iter().map(endpoints::block).collect())
}

/// Egress to the API server for the pods that may call it.
pub(crate) fn policies(author: &Author<'_>) -> (Vec<NetworkPolicy>, Option<Problem>) {
    let Some(wanted) = author.resource.spec.allow.api_server.as_ref() else {
        return (Vec::new(), None);
    };
    let ways = endpoints::ways(author.view, &service(), |_| true);
    if ways.is_empty() {
        return (Vec::new(), Some(Problem::NoAddresses { service: service() }));
    }
    let clients = peers::selectors_in(author.view, &wanted.clients, author.namespace, author.namespace);
    let policies = clients.into_values().map(|pods| {
        author.over(
            Purpose::ApiServer,
            "",
            pods,
            Direction::Egress,
            Opening::Ways(ways.clone()),
        )
    });
    (policies.collect(), None)
}
