//! Services that clients outside the cluster call, by a node's port or a load balancer.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer};
use kube::ResourceExt;
use ringfence_crd::External;
use ringfence_policy::{Direction, ObjectKey, Selector};

use super::author::Author;
use super::backend::{Lack, Target, behind};
use super::build::{Opening, Way};
use super::{Problem, Unsupported, endpoints, peers};
use crate::names::Purpose;
use crate::view::key;

/// Everybody, of both families.
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// Ingress for clients outside the cluster, one policy for each Service, and what is missing or worth knowing.
pub(crate) fn policies(author: &Author<'_>) -> (Vec<NetworkPolicy>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut ways: BTreeMap<String, (Arc<Service>, Vec<NetworkPolicyPeer>)> = BTreeMap::new();
    for wanted in &author.resource.spec.allow.external {
        let (services, missing) = chosen(author, wanted);
        problems.extend(missing);
        for service in services {
            let (clients, problem) = clients(author, wanted, &service);
            problems.extend(problem);
            let entry = ways
                .entry(service.name_any())
                .or_insert_with(|| (service, Vec::new()));
            entry.1.extend(clients);
        }
    }
    let mut policies = Vec::new();
    for (name, (service, clients)) in ways {
        match opened(author, &service) {
            Ok(Target::Pods { pods, ports }) => {
                let opening = Opening::Ways(vec![Way {
                    peers: clients,
                    ports,
                }]);
                policies.push(author.over(Purpose::External, &name, pods, Direction::Ingress, opening));
            }
            // What has no selector has no pods that could be opened.
            Ok(Target::Addresses(_)) => {
                let why = Lack::Unsupported(Unsupported::NoSelector);
                problems.extend(why.problem(key(service.as_ref())));
            }
            Err(lack) => problems.extend(lack.problem(key(service.as_ref()))),
        }
    }
    (policies, problems)
}

fn opened(author: &Author<'_>, service: &Service) -> Result<Target, Lack> {
    behind(author.view, &key(service), service, |_| true)
}

/// The Services that are meant, and what is wrong with one that is named.
fn chosen(author: &Author<'_>, wanted: &External) -> (Vec<Arc<Service>>, Option<Problem>) {
    let view = author.view;
    if let Some(name) = &wanted.service {
        let service = ObjectKey::new(author.namespace, name.clone());
        return match view.services.get(&service) {
            Some(found) if is_external(found) => (vec![found.clone()], None),
            Some(_) => {
                let why = Unsupported::NotExternal;
                (Vec::new(), Some(Problem::UnsupportedService { service, why }))
            }
            None => {
                let by = "spec.allow.external".to_owned();
                let port = None;
                (Vec::new(), Some(Problem::Reference { by, service, port }))
            }
        };
    }
    let Some(Ok(selector)) = wanted.service_selector.as_ref().map(Selector::try_from) else {
        return (Vec::new(), None);
    };
    let here = view
        .services
        .values()
        .filter(|service| service.metadata.namespace.as_deref() == Some(author.namespace));
    let meant = here.filter(|service| is_external(service) && selector.matches(service.labels()));
    (meant.cloned().collect(), None)
}

fn is_external(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    matches!(kind, Some("NodePort" | "LoadBalancer"))
}

/// Whom a Service's pods see as callers: the clients themselves, and the nodes where these stand in for them.
fn clients(
    author: &Author<'_>,
    wanted: &External,
    service: &Service,
) -> (Vec<NetworkPolicyPeer>, Option<Problem>) {
    let spec = service.spec.clone().unwrap_or_default();
    let mut clients = peers::ingress_peers(author.view, &wanted.from, author.namespace);
    if clients.is_empty() {
        let ranges = spec.load_balancer_source_ranges.unwrap_or_default();
        // Spaces around a range are the API server's to forgive, in a Service only.
        clients = ranges
            .iter()
            .map(|range| endpoints::network(range.trim().to_owned()))
            .collect();
    }
    if clients.is_empty() {
        clients = EVERYBODY.map(|all| endpoints::network(all.to_owned())).to_vec();
    }
    if spec.external_traffic_policy.as_deref() == Some("Local") {
        return (clients, None);
    }
    let nodes = author.view.node_addresses.iter().copied().map(endpoints::block);
    clients.extend(nodes);
    clients.extend(wanted.node_networks.iter().cloned().map(endpoints::network));
    (
        clients,
        Some(Problem::AnyCaller {
            service: key(service),
        }),
    )
}
