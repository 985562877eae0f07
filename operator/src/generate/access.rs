//! The policies of a ServiceAccess: ingress on the Service's pods, and egress for its clients.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use ringfence_policy::{Direction, ObjectKey};

use super::build::{
    Draft, Opening, PortSet, canonical, owned_by_access, owned_by_zero_trust, policy, portion, portions,
};
use super::{Problem, Unsupported, accounts, peers, service};
use crate::names::{Origin, Purpose, numbered};
use crate::view::ClusterView;

/// The pods and ports behind the part of a Service that a grant is about.
struct Target {
    pods: LabelSelector,
    ports: PortSet,
}

/// The policies that a ServiceAccess leads to in the namespace of `owner`, which is in force: ingress if that is the
/// Service's namespace, egress if clients are there, each only where it is denied.
pub(crate) fn policies_in(
    view: &ClusterView,
    access: &ServiceAccess,
    owner: &ZeroTrustNamespace,
) -> Vec<NetworkPolicy> {
    let (Some(target), _) = resolve(view, access) else {
        return Vec::new();
    };
    let mut policies = egress(view, access, owner, &target);
    policies.extend(ingress(view, access, owner, target));
    policies
}

fn ingress(
    view: &ClusterView,
    access: &ServiceAccess,
    owner: &ZeroTrustNamespace,
    target: Target,
) -> Vec<NetworkPolicy> {
    let key = crate::view::key(access);
    if owner.namespace().as_deref() != Some(&key.namespace) || !owner.spec.default_deny.ingress {
        return Vec::new();
    }
    let pods = canonical(target.pods);
    // The selector is part of the name, so that a change of the Service's selector is a new policy: one that selects other
    // pods in place would isolate some and open others in a single write.
    let text = serde_json::to_string(&pods).unwrap_or_default();
    let clients = portions(peers::ingress_peers(view, &access.spec.clients, &key.namespace));
    let one = |(number, peers)| {
        let portion = portion(number);
        let mut parts = vec![key.namespace.as_str(), &key.name, &text];
        parts.extend(portion.as_deref());
        policy(Draft {
            name: numbered(Purpose::AccessIngress, &key.name, &parts),
            namespace: &key.namespace,
            purpose: Purpose::AccessIngress,
            origin: &Origin::from(access),
            owners: owned_by_access(view, access),
            pods: pods.clone(),
            direction: Direction::Ingress,
            opening: Opening::To {
                peers,
                ports: target.ports.clone(),
            },
        })
    };
    clients.into_iter().enumerate().map(one).collect()
}

fn egress(
    view: &ClusterView,
    access: &ServiceAccess,
    owner: &ZeroTrustNamespace,
    target: &Target,
) -> Vec<NetworkPolicy> {
    let server = crate::view::key(access);
    let within = owner.namespace().unwrap_or_default();
    let consents = peers::consents(view, &within, &server.namespace);
    if !owner.spec.default_deny.egress || !consents {
        return Vec::new();
    }
    let origin = Origin::from(access);
    let clients = peers::selectors_in(view, &access.spec.clients, &server.namespace, &within);
    clients
        .into_iter()
        .map(|(text, pods)| {
            let readable = if within == server.namespace {
                server.name.clone()
            } else {
                format!("{}.{}", server.namespace, server.name)
            };
            policy(Draft {
                name: numbered(
                    Purpose::AccessEgress,
                    &readable,
                    &[&server.namespace, &server.name, &text],
                ),
                namespace: &within,
                purpose: Purpose::AccessEgress,
                origin: &origin,
                owners: owned_by_zero_trust(view, Some(owner)),
                pods,
                direction: Direction::Egress,
                opening: Opening::To {
                    peers: vec![peers::pods_of(&server.namespace, &within, target.pods.clone())],
                    ports: target.ports.clone(),
                },
            })
        })
        .collect()
}

/// Everything that keeps a ServiceAccess from meaning all that it says.
pub(crate) fn problems(view: &ClusterView, access: &ServiceAccess) -> Vec<Problem> {
    let own = access.namespace().unwrap_or_default();
    let (_, mut problems) = resolve(view, access);
    let named = peers::named_namespaces(&access.spec.clients, &own);
    problems.extend(named.filter_map(|namespace| peers::obstacle(view, namespace, &own)));
    problems.extend(accounts::problems(view, &access.spec.clients, &own));
    problems
}

/// What a ServiceAccess points at, as far as it exists. A part that is missing stays closed and does not stop the rest.
fn resolve(view: &ClusterView, access: &ServiceAccess) -> (Option<Target>, Vec<Problem>) {
    let key = ObjectKey::new(
        access.namespace().unwrap_or_default(),
        access.spec.target_ref.name.clone(),
    );
    let Some(found) = view.services.get(&key) else {
        return (None, vec![Problem::TargetNotFound { service: key }]);
    };
    let unsupported = |why: Unsupported| Problem::UnsupportedService {
        service: key.clone(),
        why,
    };
    let pods = match service::backends(found) {
        Ok(pods) => pods,
        Err(why) => return (None, vec![unsupported(why)]),
    };
    let offered = service::ports(found);
    let chosen = &access.spec.ports;
    if offered.is_empty() && chosen.is_empty() {
        return (None, vec![unsupported(Unsupported::NoPorts)]);
    }
    let missing = chosen
        .iter()
        .filter(|wanted| !offered.iter().any(|port| service::is_called(port, wanted)));
    let problems = missing
        .map(|wanted| Problem::PortNotFound {
            service: key.clone(),
            port: text(wanted),
        })
        .collect();
    let granted = offered
        .iter()
        .filter(|port| chosen.is_empty() || chosen.iter().any(|wanted| service::is_called(port, wanted)));
    let ports = PortSet::only(granted.map(service::target).collect());
    (ports.map(|ports| Target { pods, ports }), problems)
}

fn text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}
