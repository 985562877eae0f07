//! The policies of a ServiceAccess: ingress on the Service's pods, and egress for its clients.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use ringfence_policy::{Direction, ObjectKey};

use super::backend::{self, Target};
use super::build::{Draft, Opening, canonical, owned_by_access, owned_by_zero_trust, policy};
use super::{Problem, peers};
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
) -> Option<NetworkPolicy> {
    let key = crate::view::key(access);
    if owner.namespace().as_deref() != Some(&key.namespace) || !owner.spec.default_deny.ingress {
        return None;
    }
    // What is no pod of this namespace has no ingress here.
    let Target::Pods { pods, ports } = target else {
        return None;
    };
    let pods = canonical(pods);
    // The selector is part of the name, so that a change of the Service's selector is a new policy: one that selects other
    // pods in place would isolate some and open others in a single write.
    let text = serde_json::to_string(&pods).unwrap_or_default();
    Some(policy(Draft {
        name: numbered(
            Purpose::AccessIngress,
            &key.name,
            &[&key.namespace, &key.name, &text],
        ),
        namespace: &key.namespace,
        purpose: Purpose::AccessIngress,
        origin: &Origin::from(access),
        owners: owned_by_access(view, access),
        pods,
        direction: Direction::Ingress,
        opening: Opening::To {
            peers: peers::ingress_peers(&access.spec.clients, &key.namespace),
            ports,
        },
    }))
}

fn egress(
    view: &ClusterView,
    access: &ServiceAccess,
    owner: &ZeroTrustNamespace,
    target: &Target,
) -> Vec<NetworkPolicy> {
    let server = crate::view::key(access);
    let within = owner.namespace().unwrap_or_default();
    let consents =
        within == server.namespace || peers::accepts(view, &owner.spec.accept_egress_from, &server.namespace);
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
