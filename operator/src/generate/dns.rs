//! Name resolution: the cluster's DNS Services, and the cache that may stand before them on every node.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_crd::{Dns, ServiceName};
use ringfence_policy::ObjectKey;

use super::build::{Opening, PortSet, Way};
use super::{GeneratorConfig, Problem, backend, endpoints};
use crate::view::ClusterView;

/// The port number of DNS, on the DNS Service.
const DNS_PORT: i32 = 53;

/// The way to the cluster's DNS, as far as there is one, and what is missing.
pub(crate) fn opening(
    view: &ClusterView,
    config: &GeneratorConfig,
    wanted: &Dns,
    own: &str,
) -> (Option<Opening>, Option<Problem>) {
    let named: Vec<ObjectKey> = wanted.services.iter().map(key).collect();
    let (found, missing) = if named.is_empty() {
        first_of(view, &config.dns_services, own)
    } else {
        all_of(view, &named, own)
    };
    let (services, mut ways): (Vec<ObjectKey>, Vec<Vec<Way>>) = found.into_iter().unzip();
    if let Some(cache) = wanted.node_local.as_ref() {
        let listening = cache.addresses.iter().filter_map(|text| text.parse().ok());
        let taken_over = services.iter().flat_map(|key| cluster_addresses(view, key));
        ways.push(cached(listening.chain(taken_over)));
    }
    let ways: Vec<Way> = ways.into_iter().flatten().collect();
    let problem = (!missing.is_empty()).then_some(Problem::DnsNotFound { tried: missing });
    ((!ways.is_empty()).then_some(Opening::Ways(ways)), problem)
}

type Found = Vec<(ObjectKey, Vec<Way>)>;

/// The first of the Services that exists with pods behind it; or all of them, as missing.
fn first_of(view: &ClusterView, keys: &[ObjectKey], own: &str) -> (Found, Vec<ObjectKey>) {
    let found = keys
        .iter()
        .find_map(|key| Some((key.clone(), ways(view, key, own)?)));
    match found {
        Some(found) => (vec![found], Vec::new()),
        None => (Vec::new(), keys.to_vec()),
    }
}

/// Those of the Services that exist, and those that do not.
fn all_of(view: &ClusterView, keys: &[ObjectKey], own: &str) -> (Found, Vec<ObjectKey>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for key in keys {
        match ways(view, key, own) {
            Some(ways) => found.push((key.clone(), ways)),
            None => missing.push(key.clone()),
        }
    }
    (found, missing)
}

/// The way to what stands behind the DNS ports of a Service, at their targetPorts. Its other ports (metrics) stay closed.
fn ways(view: &ClusterView, key: &ObjectKey, own: &str) -> Option<Vec<Way>> {
    let found = view.services.get(key)?;
    let target = backend::behind(view, key, found, |port| port.port == DNS_PORT).ok()?;
    Some(target.ways(&key.namespace, own))
}

/// The way to a cache that listens at these addresses.
fn cached(addresses: impl Iterator<Item = IpAddr>) -> Vec<Way> {
    let port = |protocol: &str| NetworkPolicyPort {
        end_port: None,
        port: Some(IntOrString::Int(DNS_PORT)),
        protocol: Some(protocol.to_owned()),
    };
    let peers: Vec<NetworkPolicyPeer> = addresses.map(endpoints::block).collect();
    let ports = PortSet::only(vec![port("UDP"), port("TCP")]);
    let way = ports
        .filter(|_| !peers.is_empty())
        .map(|ports| Way { peers, ports });
    way.into_iter().collect()
}

/// The virtual addresses of a Service; a headless one has none.
fn cluster_addresses(view: &ClusterView, key: &ObjectKey) -> Vec<IpAddr> {
    let spec = view.services.get(key).and_then(|service| service.spec.as_ref());
    let listed = spec.and_then(|spec| spec.cluster_ips.as_ref());
    let addresses = listed.into_iter().flatten();
    addresses.filter_map(|address| address.parse().ok()).collect()
}

fn key(name: &ServiceName) -> ObjectKey {
    ObjectKey::new(name.namespace.clone(), name.name.clone())
}
