//! The policies of a ServiceAccess: ingress on the Service's pods, and egress for its clients.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use ringfence_policy::{Direction, ObjectKey};

use super::backend::{self, Target};
use super::build::{
    Draft, Opening, canonical, owned_by_grant, owned_by_zero_trust, policy, portion, portions,
};
use super::{Problem, accounts, peers};
use crate::names::{Origin, Purpose, numbered};
use crate::view::ClusterView;

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
    // What is no pod of this namespace has no ingress here.
    let Target::Pods { pods, ports } = target else {
        return Vec::new();
    };
    let pods = canonical(pods);
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
            owners: owned_by_grant(view, access),
            pods: pods.clone(),
            direction: Direction::Ingress,
            opening: Opening::To {
                peers,
                ports: ports.clone(),
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
                opening: Opening::Ways(target.ways(&server.namespace, &within)),
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

/// What a ServiceAccess points at, as far as it exists.
fn resolve(view: &ClusterView, access: &ServiceAccess) -> (Option<Target>, Vec<Problem>) {
    let service = ObjectKey::new(
        access.namespace().unwrap_or_default(),
        access.spec.target_ref.name.clone(),
    );
    backend::resolve(view, &service, &access.spec.ports)
}
