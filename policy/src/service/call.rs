//! A call to a Service, followed to each backend.

use std::net::IpAddr;

use super::model::{Backend, Service, ServiceKind, ServicePort, TrafficPolicy};
use crate::evaluate::{Flow, Verdict, evaluate};
use crate::model::{ObjectKey, Protocol};
use crate::world::World;

/// A call to a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCall {
    /// Who calls: a pod, a node or anyone outside.
    pub source: IpAddr,
    /// The Service.
    pub service: ObjectKey,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service's port, not the backend's, and not the node's.
    pub port: u16,
    /// What is dialled.
    pub door: Door,
}

/// What a caller of a Service dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// The Service's name: its virtual address, or for a headless Service a backend's own address.
    Name,
    /// The port of this node.
    NodePort {
        /// The node's name.
        node: String,
    },
    /// An address from outside, of a load balancer or among `externalIPs`. The packets of callers outside the cluster
    /// come in by this node; those of pods and nodes are taken by their own.
    External {
        /// The node's name.
        node: String,
    },
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceVerdict {
    /// One of these is chosen. Never empty, in the order of their addresses.
    Backends(Vec<BackendVerdict>),
    /// It leads nowhere, whatever policies say.
    Nowhere(Nowhere),
}

impl ServiceVerdict {
    /// Whether the call passes, whichever backend is chosen.
    pub fn allowed(&self) -> bool {
        match self {
            Self::Backends(backends) => backends.iter().all(BackendVerdict::allowed),
            Self::Nowhere(_) => false,
        }
    }

    /// Whether the call passes for some backends and not for others: it works now and then.
    pub fn is_mixed(&self) -> bool {
        match self {
            Self::Backends(backends) => {
                let allowed = backends.iter().filter(|backend| backend.allowed()).count();
                allowed > 0 && allowed < backends.len()
            }
            Self::Nowhere(_) => false,
        }
    }
}

/// What becomes of a call if this backend is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendVerdict {
    /// The backend's address.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// The backend, if it is a pod.
    pub pod: Option<ObjectKey>,
    /// The flow as the caller's node judges it.
    pub leaving: Flow,
    /// The flow as the backend's node judges it: with another source where a node put its own address there.
    pub arriving: Flow,
    /// What the two sides say.
    pub verdict: Verdict,
    /// Whether the answer comes back by way of the node that rewrote the destination. Otherwise the caller hears from an
    /// address that it never dialled, and the connection fails whatever policies say. That happens to pods that dial
    /// another node where the traffic policy is Local and the backend is on a third node, or on their own.
    pub answered: bool,
}

impl BackendVerdict {
    /// Whether the call passes if this backend is chosen.
    pub fn allowed(&self) -> bool {
        self.answered && self.verdict.allowed()
    }
}

/// Why a call leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// The Service is not there.
    #[error("there is no such Service")]
    NoService,
    /// It has no such port.
    #[error("the Service has no such port")]
    NoPort,
    /// It is a name for something outside the cluster, which policies judge by its address.
    #[error("the Service is of type ExternalName: its name stands for an address outside the cluster")]
    ExternalName,
    /// It cannot be reached that way.
    #[error("the Service has no such address or node port")]
    NoDoor,
    /// The node is not known, or has no address of the caller's family.
    #[error("the node is not known, or has no address of the caller's family")]
    NoNode,
    /// Nobody outside the cluster reaches a virtual address.
    #[error("a virtual address is reached from pods and nodes only")]
    FromOutside,
    /// No backend is ready that has an address of the caller's family; the connection is refused.
    #[error("no backend is ready that has an address of the caller's family")]
    NoBackend,
    /// None of the backends is on the node that was dialled, and only those may serve; the packet is dropped.
    #[error("no backend is on the node that takes the packet, and the traffic policy is Local")]
    NoLocalBackend,
}

/// Follows a call to each backend that may be chosen, as kube-proxy does, and asks the policies.
///
/// Nodes are taken to forward a pod's packets to other nodes with the pod's own address; a network plugin that
/// masquerades those makes the caller its node from there on. A flow is judged where the packet passes: at the node of the
/// caller after that node's rewriting, at the node of the backend before its own masquerading. So a node's address is the
/// source only where *another* node than the backend's took the packet.
pub fn evaluate_service(world: &World, call: &ServiceCall) -> ServiceVerdict {
    match follow(world, call) {
        Ok(backends) => ServiceVerdict::Backends(backends),
        Err(nowhere) => ServiceVerdict::Nowhere(nowhere),
    }
}

/// How a call gets to the backends.
struct Route<'w> {
    /// The node that rewrites the destination.
    taken_by: Option<&'w str>,
    /// Only backends there may serve.
    local_only: bool,
    /// The source becomes that node's address on the way to other nodes.
    masquerade: Option<IpAddr>,
    /// What the caller's own node judges where it is not the one that rewrites; `None` is the rewritten packet.
    dialled: Option<(IpAddr, u16)>,
}

fn follow(world: &World, call: &ServiceCall) -> Result<Vec<BackendVerdict>, Nowhere> {
    let service = world.services.get(&call.service).ok_or(Nowhere::NoService)?;
    if service.kind == ServiceKind::ExternalName {
        return Err(Nowhere::ExternalName);
    }
    let port = service.port(call.protocol, call.port).ok_or(Nowhere::NoPort)?;
    let route = route(world, call, service, port)?;
    let family = |backend: &Backend| backend.address.is_ipv4() == call.source.is_ipv4();
    let mut backends: Vec<Backend> = service.backends(world, port).into_iter().filter(family).collect();
    if backends.is_empty() {
        return Err(Nowhere::NoBackend);
    }
    if route.local_only {
        backends.retain(|backend| backend.node.is_some() && backend.node.as_deref() == route.taken_by);
        if backends.is_empty() {
            return Err(Nowhere::NoLocalBackend);
        }
    }
    let headless = service.kind == ServiceKind::Headless;
    Ok(backends
        .iter()
        .map(|backend| judge(world, call, &route, headless, backend))
        .collect())
}

fn route<'w>(
    world: &'w World,
    call: &ServiceCall,
    service: &Service,
    port: &ServicePort,
) -> Result<Route<'w>, Nowhere> {
    let at_home = home(world, call.source);
    match &call.door {
        Door::Name if service.kind == ServiceKind::Headless => Ok(Route {
            taken_by: None,
            local_only: false,
            masquerade: None,
            dialled: None,
        }),
        Door::Name => {
            family_of(&service.cluster_ips, call)?;
            Ok(Route {
                taken_by: Some(at_home.ok_or(Nowhere::FromOutside)?),
                local_only: service.internal_policy == TrafficPolicy::Local,
                masquerade: None,
                dialled: None,
            })
        }
        Door::NodePort { node } => {
            let number = port.node_port.ok_or(Nowhere::NoDoor)?;
            let taken_by = at_home.filter(|home| home == node);
            let elsewhere = taken_by.is_none();
            let mut route = from_outside(world, call, service, node, taken_by)?;
            if elsewhere {
                route.dialled = Some((node_address(world, node, call.source)?, number));
            }
            Ok(route)
        }
        Door::External { node } => {
            family_of(&service.external_ips, call)?;
            // A caller's own node knows the address and takes the packet itself.
            from_outside(world, call, service, at_home.unwrap_or(node), at_home)
        }
    }
}

/// A packet that a node takes at its node port or at an address from outside. `at_home` is that node where it is the
/// caller's own.
fn from_outside<'w>(
    world: &'w World,
    call: &ServiceCall,
    service: &Service,
    node: &str,
    at_home: Option<&'w str>,
) -> Result<Route<'w>, Nowhere> {
    let (taken_by, _) = world.nodes.get_key_value(node).ok_or(Nowhere::NoNode)?;
    let address = node_address(world, node, call.source)?;
    let is_pod = world.pod_at(call.source).is_some();
    let local = service.external_policy == TrafficPolicy::Local;
    // With Local, pods are served by every backend and keep their address: kube-proxy treats them as if they had dialled
    // the virtual address. So are the node's own processes, with the node's address.
    let inside = is_pod || at_home.is_some();
    let masquerade = !local || (at_home.is_some() && !is_pod);
    Ok(Route {
        taken_by: Some(taken_by),
        local_only: local && !inside,
        masquerade: masquerade.then_some(address),
        dialled: None,
    })
}

fn judge(
    world: &World,
    call: &ServiceCall,
    route: &Route<'_>,
    headless: bool,
    backend: &Backend,
) -> BackendVerdict {
    // Nothing rewrites a packet to a headless Service: it goes to the number that was dialled.
    let port = if headless { call.port } else { backend.port };
    let flow = |source, destination, port| Flow {
        source,
        destination,
        protocol: call.protocol,
        port,
    };
    let (dialled, number) = route.dialled.unwrap_or((backend.address, port));
    let leaving = flow(call.source, dialled, number);
    // The backend's node sees the packet before its own masquerading, so only another node's shows.
    let stays = backend.node.is_some() && backend.node.as_deref() == route.taken_by;
    let rewritten_elsewhere = route.taken_by.is_some() && route.taken_by != home(world, call.source);
    // Whoever calls itself is masqueraded always, which shows where another node did it.
    let hairpin = route
        .taken_by
        .filter(|_| rewritten_elsewhere && backend.address == call.source)
        .and_then(|node| node_address(world, node, call.source).ok());
    let masquerade = route.masquerade.or(hairpin);
    let source = masquerade.filter(|_| !stays).unwrap_or(call.source);
    let arriving = flow(source, backend.address, port);
    BackendVerdict {
        address: backend.address,
        port,
        pod: world.pod_at(backend.address).map(|pod| pod.key.clone()),
        leaving,
        arriving,
        verdict: Verdict {
            egress: evaluate(world, &leaving).egress,
            ingress: evaluate(world, &arriving).ingress,
        },
        answered: !rewritten_elsewhere || stays || source != call.source,
    }
}

/// The node that a caller is on: a pod's node, or the node whose address it is.
fn home(world: &World, source: IpAddr) -> Option<&str> {
    let node = match world.pod_at(source) {
        Some(pod) => pod.node.as_deref(),
        None => world.node_at(source).map(|node| node.name.as_str()),
    };
    node.and_then(|node| world.nodes.get_key_value(node))
        .map(|(name, _)| name.as_str())
}

fn node_address(world: &World, node: &str, like: IpAddr) -> Result<IpAddr, Nowhere> {
    let node = world.nodes.get(node).ok_or(Nowhere::NoNode)?;
    let mut addresses = node.addresses.iter().copied();
    addresses
        .find(|address| address.is_ipv4() == like.is_ipv4())
        .ok_or(Nowhere::NoNode)
}

fn family_of(addresses: &[IpAddr], call: &ServiceCall) -> Result<(), Nowhere> {
    let same = addresses
        .iter()
        .any(|address| address.is_ipv4() == call.source.is_ipv4());
    same.then_some(()).ok_or(Nowhere::NoDoor)
}
