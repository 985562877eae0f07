//! The policies of an ExternalAccess: addresses outside the cluster, given as networks or as DNS names.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_crd::{ExternalAccess, ExternalPeer, ExternalPort};
use ringfence_policy::Direction;

use super::build::{Draft, Opening, PortSet, canonical, owned_by_grant, policy, portion, portions};
use super::{Problem, accounts, peers};
use crate::dns::{Place, State, names_of};
use crate::names::{Origin, Purpose, numbered};
use crate::view::ClusterView;

/// One rule of either direction.
struct Rule<'a> {
    direction: Direction,
    /// Its place among those of its direction.
    number: usize,
    peers: &'a [ExternalPeer],
    ports: &'a [ExternalPort],
}

/// The policies that an ExternalAccess leads to in its namespace: for each rule of a direction that is denied there, one, or
/// several if it has many addresses.
pub(super) fn policies(view: &ClusterView, external: &ExternalAccess) -> Vec<NetworkPolicy> {
    needed(view, external)
        .flat_map(|rule| of_rule(view, external, &rule))
        .collect()
}

/// Whether nothing is denied that it would open.
pub(super) fn is_needless(view: &ClusterView, external: &ExternalAccess) -> bool {
    needed(view, external).next().is_none()
}

fn needed<'a>(view: &ClusterView, external: &'a ExternalAccess) -> impl Iterator<Item = Rule<'a>> {
    let denied = view.denied(external.metadata.namespace.as_deref().unwrap_or_default());
    let egress = external
        .spec
        .egress
        .iter()
        .enumerate()
        .map(|(number, rule)| Rule {
            direction: Direction::Egress,
            number,
            peers: &rule.to,
            ports: &rule.ports,
        });
    let ingress = external
        .spec
        .ingress
        .iter()
        .enumerate()
        .map(|(number, rule)| Rule {
            direction: Direction::Ingress,
            number,
            peers: &rule.from,
            ports: &rule.ports,
        });
    egress.chain(ingress).filter(move |rule| match rule.direction {
        Direction::Egress => denied.egress,
        Direction::Ingress => denied.ingress,
    })
}

fn of_rule(view: &ClusterView, external: &ExternalAccess, rule: &Rule<'_>) -> Vec<NetworkPolicy> {
    let key = crate::view::key(external);
    let purpose = match rule.direction {
        Direction::Egress => Purpose::ExternalEgress,
        Direction::Ingress => Purpose::ExternalIngress,
    };
    let pods = canonical(external.spec.pod_selector.clone());
    // As with a ServiceAccess: another selector is another policy.
    let text = serde_json::to_string(&pods).unwrap_or_default();
    let number = rule.number.to_string();
    let one = |(position, peers)| {
        let portion = portion(position);
        let mut parts = vec![key.namespace.as_str(), &key.name, &text, &number];
        parts.extend(portion.as_deref());
        policy(Draft {
            name: numbered(purpose, &key.name, &parts),
            namespace: &key.namespace,
            purpose,
            origin: &Origin::from(external),
            owners: owned_by_grant(view, external),
            pods: pods.clone(),
            direction: rule.direction,
            opening: Opening::To {
                peers,
                ports: ports(rule.ports),
            },
        })
    };
    let meant = rule.peers.iter().flat_map(|peer| meant(view, peer)).collect();
    portions(meant).into_iter().enumerate().map(one).collect()
}

/// What a peer means now: nothing while a name is unknown.
fn meant(view: &ClusterView, peer: &ExternalPeer) -> Vec<NetworkPolicyPeer> {
    match (&peer.cidr, &peer.dns_name) {
        (Some(cidr), _) => vec![peers::addresses(cidr, &peer.except)],
        (None, Some(name)) => {
            let (open, _) = judged(view, name);
            open.into_iter().map(accounts::single).collect()
        }
        (None, None) => Vec::new(),
    }
}

/// The addresses of a name that may be opened, and those that may not.
pub(crate) fn judged(view: &ClusterView, name: &str) -> (BTreeSet<IpAddr>, Vec<(IpAddr, Place)>) {
    let addresses = view
        .names
        .get(name)
        .into_iter()
        .flat_map(|known| &known.addresses);
    let (mut open, mut refused) = (BTreeSet::new(), Vec::new());
    for address in addresses {
        match view.inside.place(*address) {
            None => {
                open.insert(address.to_canonical());
            }
            Some(place) => refused.push((*address, place)),
        }
    }
    (open, refused)
}

fn ports(wanted: &[ExternalPort]) -> PortSet {
    let ports = wanted.iter().map(|wanted| NetworkPolicyPort {
        port: Some(IntOrString::Int(wanted.port.into())),
        end_port: wanted.end_port.filter(|end| *end > wanted.port).map(i32::from),
        protocol: Some(wanted.protocol.as_str().to_owned()),
    });
    PortSet::only(ports.collect()).unwrap_or(PortSet::All)
}

/// What keeps the names of an ExternalAccess from meaning all that they say.
pub(super) fn problems(view: &ClusterView, external: &ExternalAccess) -> Vec<Problem> {
    names_of(external)
        .into_iter()
        .flat_map(|name| problems_of(view, name))
        .collect()
}

fn problems_of(view: &ClusterView, name: &str) -> Vec<Problem> {
    let known = view.names.get(name).cloned().unwrap_or_default();
    let (open, refused) = judged(view, name);
    let name = || name.to_owned();
    let mut problems: Vec<Problem> = refused
        .into_iter()
        .map(|(address, place)| Problem::AddressRefused {
            name: name(),
            address,
            place,
        })
        .collect();
    if open.is_empty() && problems.is_empty() {
        problems.push(Problem::NameUnresolved {
            name: name(),
            state: known.state,
        });
    } else if known.state == State::Failing {
        problems.push(Problem::NameHeld { name: name() });
    }
    if known.left_out > 0 {
        problems.push(Problem::TooManyAnswers {
            name: name(),
            left_out: known.left_out,
        });
    }
    problems
}
