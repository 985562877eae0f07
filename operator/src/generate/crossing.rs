//! Openings of a namespace to pods that may be of others: two-sided where those deny egress and consent.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use ringfence_crd::{Allow, Peer, ZeroTrustNamespace};
use ringfence_policy::Direction;

use super::author::Author;
use super::backend::Target;
use super::build::{Draft, Opening, PortSet, Way, canonical, owned_by_zero_trust, policy, portion, portions};
use super::{Problem, accounts, api_server, ingress_controllers, monitoring, peers, webhooks};
use crate::names::{Purpose, numbered};
use crate::view::ClusterView;

/// An opening that callers come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// Scrapers of metrics.
    Monitoring,
    /// Ingress controllers and gateways.
    IngressControllers,
    /// The API server, or what it calls through.
    Webhooks,
}

/// All of them.
pub(crate) const CROSSINGS: [Crossing; 3] = [
    Crossing::Monitoring,
    Crossing::IngressControllers,
    Crossing::Webhooks,
];

impl Crossing {
    /// Whom a ZeroTrustNamespace lets in by it; None where it does not have it.
    pub(crate) fn from(self, resource: &ZeroTrustNamespace) -> Option<&[Peer]> {
        self.admits(&resource.spec.allow)
    }

    fn admits(self, allow: &Allow) -> Option<&[Peer]> {
        match self {
            Self::Monitoring => allow.monitoring.as_ref().map(|wanted| wanted.from.as_slice()),
            Self::IngressControllers => allow
                .ingress_controllers
                .as_ref()
                .map(|wanted| wanted.from.as_slice()),
            Self::Webhooks => allow.webhooks.as_ref().map(|wanted| wanted.from.as_slice()),
        }
    }

    /// What it opens in the namespace, and what is missing.
    fn offers(self, view: &ClusterView, resource: &ZeroTrustNamespace) -> (Vec<Target>, Vec<Problem>) {
        match self {
            Self::Monitoring => monitoring::offers(view, resource),
            Self::IngressControllers => ingress_controllers::offers(view, resource),
            Self::Webhooks => webhooks::offers(view, resource),
        }
    }

    fn purpose(self, direction: Direction) -> Purpose {
        match (self, direction) {
            (Self::Monitoring, Direction::Ingress) => Purpose::MonitoringIngress,
            (Self::Monitoring, Direction::Egress) => Purpose::MonitoringEgress,
            (Self::IngressControllers, Direction::Ingress) => Purpose::IngressControllersIngress,
            (Self::IngressControllers, Direction::Egress) => Purpose::IngressControllersEgress,
            (Self::Webhooks, Direction::Ingress) => Purpose::WebhooksIngress,
            (Self::Webhooks, Direction::Egress) => Purpose::WebhooksEgress,
        }
    }
}

/// Ingress by it, in the namespace that has it.
pub(crate) fn ingress(author: &Author<'_>, crossing: Crossing) -> (Vec<NetworkPolicy>, Vec<Problem>) {
    let Some(from) = crossing.from(author.resource) else {
        return (Vec::new(), Vec::new());
    };
    let (offers, mut problems) = crossing.offers(author.view, author.resource);
    let callers = match callers(author, crossing, from) {
        Ok(callers) => callers,
        Err(problem) => {
            problems.push(problem);
            return (Vec::new(), problems);
        }
    };
    let purpose = crossing.purpose(Direction::Ingress);
    let callers = portions(callers);
    let policies = by_pods(offers).into_values().flat_map(|(pods, ports)| {
        let portioned = callers.iter().cloned().enumerate();
        let one = move |(number, peers): (usize, Vec<NetworkPolicyPeer>)| {
            let opening = Opening::To {
                peers,
                ports: ports.clone(),
            };
            let about = portion(number).unwrap_or_default();
            author.over(purpose, &about, pods.clone(), Direction::Ingress, opening)
        };
        portioned.map(one)
    });
    (policies.collect(), problems)
}

fn callers(
    author: &Author<'_>,
    crossing: Crossing,
    from: &[Peer],
) -> Result<Vec<NetworkPolicyPeer>, Problem> {
    if crossing == Crossing::Webhooks && from.is_empty() {
        return api_server::addresses(author.view);
    }
    Ok(peers::ingress_peers(author.view, from, author.namespace))
}

/// What is opened on pods: one entry for each choice of pods, by its canonical text, with all of its ports.
fn by_pods(offers: Vec<Target>) -> BTreeMap<String, (LabelSelector, PortSet)> {
    let mut by_pods: BTreeMap<String, (LabelSelector, PortSet)> = BTreeMap::new();
    for offer in offers {
        let Target::Pods { pods, ports } = offer else {
            continue;
        };
        let pods = canonical(pods);
        let text = serde_json::to_string(&pods).unwrap_or_default();
        let ports = match by_pods.remove(&text) {
            Some((_, more)) => ports.and(more),
            None => ports,
        };
        by_pods.insert(text, (pods, ports));
    }
    by_pods
}

/// The other half: egress for callers that are pods of the namespace of `resource`, to every namespace that lets them in and
/// which this one accepts grants from.
pub(crate) fn egress(
    view: &ClusterView,
    resource: &ZeroTrustNamespace,
    crossing: Crossing,
) -> Vec<NetworkPolicy> {
    let own = resource.namespace().unwrap_or_default();
    let targets = view.concerns.openings.reaching(&own);
    targets
        .filter_map(|namespace| view.effective(namespace))
        .flat_map(|target| egress_to(view, resource, crossing, target))
        .collect()
}

fn egress_to(
    view: &ClusterView,
    resource: &ZeroTrustNamespace,
    crossing: Crossing,
    target: &ZeroTrustNamespace,
) -> Vec<NetworkPolicy> {
    let own = resource.namespace().unwrap_or_default();
    let called = target.namespace().unwrap_or_default();
    let from = crossing.from(target).unwrap_or_default();
    let consents = called == own || peers::accepts(view, &resource.spec.accept_egress_from, &called);
    let callers = peers::selectors_in(view, from, &called, &own);
    if !consents || callers.is_empty() {
        return Vec::new();
    }
    let (offers, _) = crossing.offers(view, target);
    let addresses = offers
        .iter()
        .filter(|offer| matches!(offer, Target::Addresses(_)));
    let mut ways: Vec<Way> = addresses.flat_map(|offer| offer.ways(&called, &own)).collect();
    for (pods, ports) in by_pods(offers.clone()).into_values() {
        ways.extend(Target::Pods { pods, ports }.ways(&called, &own));
    }
    if ways.is_empty() {
        return Vec::new();
    }
    let purpose = crossing.purpose(Direction::Egress);
    let origin = view.origin(target);
    callers
        .into_iter()
        .map(|(text, pods)| {
            policy(Draft {
                name: numbered(purpose, &called, &[&called, &text]),
                namespace: &own,
                purpose,
                origin: &origin,
                owners: owned_by_zero_trust(view, Some(resource)),
                pods,
                direction: Direction::Egress,
                opening: Opening::Ways(ways.clone()),
            })
        })
        .collect()
}

/// What stands between a namespace and the callers it names outright.
pub(crate) fn obstacles(view: &ClusterView, resource: &ZeroTrustNamespace) -> Vec<Problem> {
    let own = resource.namespace().unwrap_or_default();
    CROSSINGS
        .into_iter()
        .filter_map(|crossing| crossing.from(resource))
        .flat_map(|from| peers::named_namespaces(from, &own))
        .filter_map(|namespace| peers::obstacle(view, namespace, &own))
        .chain(account_problems(view, resource, &own))
        .collect()
}

/// What there is to say about the accounts among those who are let through.
fn account_problems(view: &ClusterView, resource: &ZeroTrustNamespace, own: &str) -> Vec<Problem> {
    let callers = CROSSINGS
        .into_iter()
        .filter_map(|crossing| crossing.from(resource));
    let callers = callers.flat_map(|from| accounts::problems(view, from, own));
    let clients = resource.spec.allow.api_server.iter();
    let clients = clients
        .flat_map(|wanted| accounts::problems(view, &wanted.clients, own))
        // They call the API server, nobody calls them.
        .filter(|problem| matches!(problem, Problem::AccountEgressClosed { .. }));
    callers.chain(clients).collect()
}

/// Every peer that comes in by an opening that is two-sided.
pub(crate) fn admitted(allow: &Allow) -> impl Iterator<Item = &Peer> {
    CROSSINGS
        .into_iter()
        .filter_map(|crossing| crossing.admits(allow))
        .flatten()
}

/// Every peer that a ZeroTrustNamespace names as somebody to let through.
pub(crate) fn allowed_peers(resource: &ZeroTrustNamespace) -> impl Iterator<Item = &Peer> {
    let clients = resource.spec.allow.api_server.as_ref();
    let clients = clients.map(|wanted| wanted.clients.as_slice());
    admitted(&resource.spec.allow).chain(clients.into_iter().flatten())
}
