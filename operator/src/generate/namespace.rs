//! The policies of a ZeroTrustNamespace itself: what it denies, and its well-known openings.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use ringfence_crd::{SameNamespace, ZeroTrustNamespace};
use ringfence_policy::Direction;

use super::author::Author;
use super::build::{Opening, PortSet};
use super::crossing::{CROSSINGS, egress, ingress, obstacles};
use super::{Finding, GeneratorConfig, Problem, api_server, dns, external, peers, stateful_sets};
use crate::names::Purpose;
use crate::view::ClusterView;

/// The policies that a ZeroTrustNamespace asks for in its own namespace, those that other namespaces' openings ask for
/// there, and what was found missing.
pub(crate) fn policies(
    view: &ClusterView,
    config: &GeneratorConfig,
    resource: &ZeroTrustNamespace,
) -> (Vec<NetworkPolicy>, Vec<Finding>) {
    let author = Author::new(view, resource);
    let mut problems = obstacles(view, resource);
    if resource.spec.allow.same_namespace == SameNamespace::StatefulSetPeers {
        problems.extend(stateful_sets::problems(&author));
    }
    let mut policies = Vec::new();
    let denied = resource.spec.default_deny;
    if denied.ingress {
        policies.push(author.everywhere(Purpose::DenyIngress, Direction::Ingress, Opening::Nothing));
        policies.extend(same_namespace(&author, Direction::Ingress));
        for crossing in CROSSINGS {
            let (found, missing) = ingress(&author, crossing);
            policies.extend(found);
            problems.extend(missing);
        }
        let (found, missing) = external::policies(&author);
        policies.extend(found);
        problems.extend(missing);
    }
    if denied.egress {
        policies.push(author.everywhere(Purpose::DenyEgress, Direction::Egress, Opening::Nothing));
        policies.extend(same_namespace(&author, Direction::Egress));
        let crossings = CROSSINGS.into_iter();
        policies.extend(crossings.flat_map(|crossing| egress(view, resource, crossing)));
        let (found, missing) = api_server::policies(&author);
        policies.extend(found);
        problems.extend(missing);
        let (found, missing) = resolution(&author, config);
        policies.extend(found);
        problems.extend(missing);
    }
    let findings = problems.into_iter().map(|problem| Finding {
        origin: author.origin.clone(),
        problem,
    });
    (policies, findings.collect())
}

/// Traffic between the namespace's own pods.
fn same_namespace(author: &Author<'_>, direction: Direction) -> Vec<NetworkPolicy> {
    let purpose = match direction {
        Direction::Ingress => Purpose::SameNamespaceIngress,
        Direction::Egress => Purpose::SameNamespaceEgress,
    };
    match author.resource.spec.allow.same_namespace {
        SameNamespace::None => Vec::new(),
        SameNamespace::StatefulSetPeers => stateful_sets::policies(author, direction),
        SameNamespace::All => {
            let everyone = peers::pods_of(author.namespace, author.namespace, LabelSelector::default());
            let opening = Opening::To {
                peers: vec![everyone],
                ports: PortSet::All,
            };
            vec![author.everywhere(purpose, direction, opening)]
        }
    }
}

/// Name resolution.
fn resolution(author: &Author<'_>, config: &GeneratorConfig) -> (Option<NetworkPolicy>, Option<Problem>) {
    let wanted = &author.resource.spec.allow.dns;
    if !wanted.enabled {
        return (None, None);
    }
    let (opening, problem) = dns::opening(author.view, config, wanted, author.namespace);
    let policy = opening.map(|opening| author.everywhere(Purpose::Dns, Direction::Egress, opening));
    (policy, problem)
}
