//! Services and their backends, reduced to what decides about traffic.

use std::net::IpAddr;

use crate::labels::Labels;
use crate::model::{ObjectKey, Pod, Protocol};
use crate::world::World;

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// How it can be reached.
    pub kind: ServiceKind,
    /// Its virtual addresses; none where it is headless or an ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses from outside that are routed to the nodes: `externalIPs` and those of the load balancer.
    pub external_ips: Vec<IpAddr>,
    /// The labels of its backends; `None` where somebody else writes its EndpointSlices.
    pub selector: Option<Labels>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Which backends serve what comes from outside by way of a node.
    pub external_policy: TrafficPolicy,
    /// Which backends serve what is sent to the virtual address.
    pub internal_policy: TrafficPolicy,
    /// Pods that are not ready are backends too.
    pub publish_not_ready: bool,
}

/// How a Service can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// By its virtual address.
    ClusterIp,
    /// Without a virtual address: its name stands for its backends' addresses.
    Headless,
    /// Also by a port of every node.
    NodePort,
    /// Also by a load balancer's address.
    LoadBalancer,
    /// It is another name for something outside the cluster.
    ExternalName,
}

/// Which backends serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the node that the packet came to.
    Local,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, where the Service has several.
    pub name: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number that callers use.
    pub port: u16,
    /// Where it leads at a backend.
    pub target: TargetPort,
    /// The number at every node, if it has one.
    pub node_port: Option<u16>,
}

/// Where a Service's port leads at a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// This number.
    Number(u16),
    /// What the backend declares under this name; a pod that declares none is no backend of the port.
    Name(String),
}

/// Some of the backends of a Service, as the control plane or somebody else wrote them down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// The Service's name.
    pub service: String,
    /// The backends.
    pub endpoints: Vec<Endpoint>,
    /// The ports, the same for all of them.
    pub ports: Vec<EndpointPort>,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address. An API endpoint's further addresses are not used by anyone.
    pub address: IpAddr,
    /// It serves: it is ready, or nothing was said about it.
    pub ready: bool,
    /// It is terminating and still answers: used when no other backend is ready.
    pub serving_terminating: bool,
    /// The node it is on.
    pub node: Option<String>,
}

/// A port of the backends in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number at the backend; `None` is any, as dialled.
    pub number: Option<u16>,
}

/// A backend of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) node: Option<String>,
}

impl Service {
    /// Its port with this number and protocol.
    pub fn port(&self, protocol: Protocol, number: u16) -> Option<&ServicePort> {
        self.ports
            .iter()
            .find(|port| port.protocol == protocol && port.port == number)
    }

    /// The backends of a port: from the EndpointSlices where the world has any of this Service, as kube-proxy does, and
    /// from the pods it selects where it has none. In the order of their addresses.
    pub(super) fn backends(&self, world: &World, port: &ServicePort) -> Vec<Backend> {
        let slices = world.endpoint_slices.values();
        let mut slices = slices
            .filter(|slice| slice.key.namespace == self.key.namespace && slice.service == self.key.name)
            .peekable();
        let mut backends = match slices.peek() {
            Some(_) => from_slices(slices, port),
            None => self.selected(world, port),
        };
        backends.sort_by_key(|backend| (backend.address, backend.port));
        backends.dedup();
        backends
    }

    fn selected(&self, world: &World, port: &ServicePort) -> Vec<Backend> {
        let Some(selector) = self.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            return Vec::new();
        };
        let pods = world.pods.values().filter(|pod| {
            pod.key.namespace == self.key.namespace
                && !pod.finished
                && selector
                    .iter()
                    .all(|(key, value)| pod.labels.get(key) == Some(value))
        });
        let usable = pods.filter(|pod| self.publish_not_ready || !world.unready.contains(&pod.key));
        let (leaving, staying): (Vec<&Pod>, Vec<&Pod>) = usable.partition(|pod| pod.terminating);
        // Backends that terminate serve only where no other does.
        let chosen = if staying.is_empty() || self.publish_not_ready {
            [staying, leaving].concat()
        } else {
            staying
        };
        let backends = chosen.into_iter().flat_map(|pod| {
            let addresses = pod.addresses.iter();
            let number = port.target.at(pod, port.protocol);
            addresses.filter_map(move |address| {
                Some(Backend {
                    address: *address,
                    port: number?,
                    node: pod.node.clone(),
                })
            })
        });
        backends.collect()
    }
}

fn from_slices<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port: &ServicePort) -> Vec<Backend> {
    let mut ready = Vec::new();
    let mut leaving = Vec::new();
    for slice in slices {
        let listed = slice
            .ports
            .iter()
            .find(|listed| listed.protocol == port.protocol && listed.name == port.name);
        let Some(listed) = listed else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let backend = Backend {
                address: endpoint.address,
                port: listed.number.unwrap_or(port.port),
                node: endpoint.node.clone(),
            };
            if endpoint.ready {
                ready.push(backend);
            } else if endpoint.serving_terminating {
                leaving.push(backend);
            }
        }
    }
    if ready.is_empty() { leaving } else { ready }
}

impl TargetPort {
    /// The number at a pod: the first container that declares the name decides.
    fn at(&self, pod: &Pod, protocol: Protocol) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => pod.named_port(protocol, name).next(),
        }
    }
}
