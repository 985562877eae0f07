//! The addresses behind a Service, from its EndpointSlices: for Services that no selector describes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use ringfence_policy::ObjectKey;

use super::build::{PortSet, Way};
use crate::view::ClusterView;

/// The label by which an EndpointSlice belongs to a Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The Service that an EndpointSlice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.labels().get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.namespace()?, name.clone()))
}

/// Every address behind a Service. Whether an endpoint is ready changes from moment to moment and makes no difference to who
/// may be called, so it is not asked for.
pub(crate) fn addresses(view: &ClusterView, service: &ObjectKey) -> BTreeSet<IpAddr> {
    slices(view, service).flat_map(addresses_in).collect()
}

/// The ways to a Service's addresses, on those of its ports that are wanted: a rule for each set of ports, because every
/// slice has its own. An address without a port number leads nowhere.
pub(crate) fn ways(
    view: &ClusterView,
    service: &ObjectKey,
    wanted: impl Fn(&EndpointPort) -> bool,
) -> Vec<Way> {
    let mut by_ports: BTreeMap<Vec<(i32, String)>, BTreeSet<IpAddr>> = BTreeMap::new();
    for slice in slices(view, service) {
        let offered = slice.ports.iter().flatten().filter(|port| wanted(port));
        let numbered = offered.filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port.port?, protocol))
        });
        let ports: BTreeSet<(i32, String)> = numbered.collect();
        by_ports
            .entry(ports.into_iter().collect())
            .or_default()
            .extend(addresses_in(slice));
    }
    by_ports
        .into_iter()
        .filter_map(|(ports, addresses)| way(ports, &addresses))
        .collect()
}

fn way(ports: Vec<(i32, String)>, addresses: &BTreeSet<IpAddr>) -> Option<Way> {
    let ports = ports.into_iter().map(|(number, protocol)| NetworkPolicyPort {
        end_port: None,
        port: Some(IntOrString::Int(number)),
        protocol: Some(protocol),
    });
    let ports = PortSet::only(ports.collect())?;
    (!addresses.is_empty()).then(|| Way {
        peers: addresses.iter().copied().map(block).collect(),
        ports,
    })
}

/// One address as a peer.
pub(crate) fn block(address: IpAddr) -> NetworkPolicyPeer {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    network(format!("{address}/{bits}"))
}

/// A network as a peer.
pub(crate) fn network(cidr: String) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr, except: None }),
        ..NetworkPolicyPeer::default()
    }
}

fn slices<'a>(view: &'a ClusterView, service: &ObjectKey) -> impl Iterator<Item = &'a EndpointSlice> {
    let known = view.endpoint_slices.get(service).into_iter().flatten();
    known.map(AsRef::as_ref)
}

/// The addresses in a slice. One of type FQDN has names in their place, which no policy can carry.
fn addresses_in(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
}
