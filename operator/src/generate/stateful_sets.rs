//! Pods of a StatefulSet that reach each other.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_policy::{Direction, ObjectKey};

use super::author::Author;
use super::build::{Opening, PortSet};
use super::{Problem, Unsupported, peers, service};
use crate::names::Purpose;

/// Policies in one direction for every StatefulSet of the namespace, on the ports of its governing Service.
pub(crate) fn policies(author: &Author<'_>, direction: Direction) -> Vec<NetworkPolicy> {
    sets(author)
        .filter_map(|set| policy(author, set, direction))
        .collect()
}

fn policy(author: &Author<'_>, set: &StatefulSet, direction: Direction) -> Option<NetworkPolicy> {
    let ports = ports(author, set).ok()?;
    let pods = set.spec.as_ref()?.selector.clone();
    let purpose = match direction {
        Direction::Ingress => Purpose::PeersIngress,
        Direction::Egress => Purpose::PeersEgress,
    };
    let opening = Opening::To {
        peers: vec![peers::pods_of(author.namespace, author.namespace, pods.clone())],
        ports,
    };
    Some(author.over(purpose, &set.name_any(), pods, direction, opening))
}

/// What keeps StatefulSets from having peers.
pub(crate) fn problems(author: &Author<'_>) -> Vec<Problem> {
    sets(author).filter_map(|set| ports(author, set).err()).collect()
}

fn sets<'a>(author: &Author<'a>) -> impl Iterator<Item = &'a StatefulSet> {
    let all = author.view.stateful_sets.get(author.namespace);
    let alive = |set: &&StatefulSet| set.metadata.deletion_timestamp.is_none();
    all.into_iter().flatten().map(AsRef::as_ref).filter(alive)
}

/// The ports on which a StatefulSet's pods serve each other: what the governing Service offers, by its targetPorts.
fn ports(author: &Author<'_>, set: &StatefulSet) -> Result<PortSet, Problem> {
    let name = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(Problem::Ungoverned { set: set.name_any() });
    };
    let service = ObjectKey::new(author.namespace, name);
    let Some(found) = author.view.services.get(&service) else {
        return Err(Problem::Reference {
            by: format!("StatefulSet {}/{}", author.namespace, set.name_any()),
            service,
            port: None,
        });
    };
    let targets = service::ports(found).iter().map(service::target);
    let why = Unsupported::NoPorts;
    PortSet::only(targets.collect()).ok_or(Problem::UnsupportedService { service, why })
}
