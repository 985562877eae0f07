//! From API objects to Services and their backends.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::model::{
    Endpoint, EndpointPort, EndpointSlice, Service, ServiceKind, ServicePort, TargetPort, TrafficPolicy,
};
use crate::convert::{key, protocol};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Service {
    /// Reads a Service. Ports whose protocol or number does not exist are left out: nobody can call them.
    pub fn from_api(service: &core::Service) -> Self {
        let default = core::ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default);
        let cluster_ips = spec
            .cluster_ips
            .iter()
            .flatten()
            .map(String::as_str)
            .chain(spec.cluster_ip.as_deref());
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => ServiceKind::ExternalName,
            Some("NodePort") => ServiceKind::NodePort,
            Some("LoadBalancer") => ServiceKind::LoadBalancer,
            _ if headless => ServiceKind::Headless,
            _ => ServiceKind::ClusterIp,
        };
        let balancer = service
            .status
            .iter()
            .filter_map(|status| status.load_balancer.as_ref());
        let balancer = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
        // A balancer in proxy mode hands packets over itself: nodes do not know its address.
        let balancer = balancer.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let external_ips = balancer.filter_map(|ingress| ingress.ip.as_deref());
        let external_ips = external_ips.chain(spec.external_ips.iter().flatten().map(String::as_str));
        Self {
            key: key(&service.metadata),
            kind,
            cluster_ips: addresses(cluster_ips),
            external_ips: addresses(external_ips),
            selector: spec.selector.clone().filter(|selector| !selector.is_empty()),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        }
    }
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    match name {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn port(port: &core::ServicePort) -> Option<ServicePort> {
    let number = u16::try_from(port.port).ok()?;
    let target = match &port.target_port {
        // Missing or 0: the same number.
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
        Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
    Some(ServicePort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        protocol: protocol(port.protocol.as_deref())?,
        port: number,
        target,
        node_port: node_port.filter(|port| *port > 0),
    })
}

impl EndpointSlice {
    /// Reads an EndpointSlice; `None` where it belongs to no Service. Addresses that are names are left out.
    pub fn from_api(slice: &discovery::EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            let said = |condition: fn(&discovery::EndpointConditions) -> Option<bool>| {
                conditions.and_then(condition)
            };
            Some(Endpoint {
                address: endpoint.addresses.first()?.parse().ok()?,
                // Unknown is to be read as ready.
                ready: said(|conditions| conditions.ready).unwrap_or(true),
                serving_terminating: said(|conditions| conditions.serving).unwrap_or(false)
                    && said(|conditions| conditions.terminating).unwrap_or(false),
                node: endpoint.node_name.clone(),
            })
        });
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                protocol: protocol(port.protocol.as_deref())?,
                number: port.port.and_then(|port| u16::try_from(port).ok()),
            })
        });
        Some(Self {
            key: key(&slice.metadata),
            service,
            endpoints: endpoints.collect(),
            ports: ports.collect(),
        })
    }
}
