//! From API objects to the model.

mod block;
mod policy;

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use policy::InvalidPolicy;

use crate::model::{ContainerPort, Namespace, Node, ObjectKey, Pod, Protocol};

pub(crate) fn key(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        metadata.name.clone().unwrap_or_default(),
    )
}

impl Namespace {
    /// Reads a namespace.
    pub fn from_api(namespace: &core::Namespace) -> Self {
        Self {
            name: namespace.metadata.name.clone().unwrap_or_default(),
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
        }
    }
}

impl Node {
    /// Reads a node. Addresses that are names are left out.
    pub fn from_api(node: &core::Node) -> Self {
        let addresses = node
            .status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            addresses: addresses
                .filter_map(|address| address.address.parse().ok())
                .collect(),
        }
    }
}

impl Pod {
    /// Reads a pod.
    pub fn from_api(pod: &core::Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        Self {
            key: key(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            node: spec
                .and_then(|spec| spec.node_name.clone())
                .filter(|node| !node.is_empty()),
            addresses: status.map(pod_addresses).unwrap_or_default(),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            finished: matches!(
                status.and_then(|s| s.phase.as_deref()),
                Some("Succeeded" | "Failed")
            ),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ports: spec.map(container_ports).unwrap_or_default(),
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_default(),
        }
    }
}

fn pod_addresses(status: &core::PodStatus) -> Vec<IpAddr> {
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in listed
        .chain(status.pod_ip.as_deref())
        .filter_map(|ip| ip.parse().ok())
    {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// In the order of declaration, containers before init containers: where a Service names a port, the first one counts.
fn container_ports(spec: &core::PodSpec) -> Vec<ContainerPort> {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let declared = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(ContainerPort {
                name: port.name.clone(),
                protocol: protocol(port.protocol.as_deref())?,
                number: u16::try_from(port.container_port).ok()?,
            })
        });
    let mut ports: Vec<ContainerPort> = Vec::new();
    for port in declared {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}
