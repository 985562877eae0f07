//! The naive reading: one flow, every policy, in the words of the API documentation.

mod indexed;
mod lookup;

use std::net::IpAddr;

pub use indexed::IndexedWorld;
pub(crate) use lookup::Lookup;

use crate::model::{Direction, ObjectKey, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Rule};
use crate::world::World;

/// The first packet of a connection, with addresses after destination NAT and before source NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who opens the connection.
    pub source: IpAddr,
    /// Who is connected to.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination's port.
    pub port: u16,
}

/// What becomes of a flow: it passes if the source's egress and the destination's ingress both let it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What the source's side says.
    pub egress: DirectionVerdict,
    /// What the destination's side says.
    pub ingress: DirectionVerdict,
}

impl Verdict {
    /// Whether the flow passes.
    pub fn allowed(&self) -> bool {
        self.egress.allowed() && self.ingress.allowed()
    }
}

/// What one side says of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectionVerdict {
    /// That side is no pod: no policy applies.
    NotAPod,
    /// The pod speaks with itself or with its own node, which no policy can forbid (but see `polices_own_node` of
    /// [`World`]).
    AlwaysAllowed,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows the flow.
    Allowed(Matched),
    /// These policies isolate the pod and none of their rules allows the flow.
    Denied(Vec<ObjectKey>),
}

impl DirectionVerdict {
    /// Whether this side lets the flow pass.
    pub fn allowed(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }
}

/// Which rule allowed a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// The policy.
    pub policy: ObjectKey,
    /// The rule's index in its direction.
    pub rule: usize,
    /// The peer's index; `None` where the rule names no peers.
    pub peer: Option<usize>,
    /// The port's index; `None` where the rule names no ports.
    pub port: Option<usize>,
}

impl Flow {
    /// The address of the side that `direction` is about, and the other side's.
    pub(crate) fn sides(&self, direction: Direction) -> (IpAddr, IpAddr) {
        match direction {
            Direction::Egress => (self.source, self.destination),
            Direction::Ingress => (self.destination, self.source),
        }
    }
}

/// Decides about one flow by looking at every policy.
pub fn evaluate(world: &World, flow: &Flow) -> Verdict {
    evaluate_in(world, flow)
}

pub(crate) fn evaluate_in(world: &impl Lookup, flow: &Flow) -> Verdict {
    Verdict {
        egress: evaluate_side(world, flow, Direction::Egress),
        ingress: evaluate_side(world, flow, Direction::Ingress),
    }
}

/// What one side says of the flow.
pub(crate) fn evaluate_side(world: &impl Lookup, flow: &Flow, direction: Direction) -> DirectionVerdict {
    let (own, other) = flow.sides(direction);
    let Some(pod) = world.pod(own) else {
        return DirectionVerdict::NotAPod;
    };
    let to_node_is_free = direction == Direction::Ingress || !world.polices_own_node();
    if pod.addresses.contains(&other) || (to_node_is_free && is_own_node(world, pod, other)) {
        return DirectionVerdict::AlwaysAllowed;
    }
    let policies = world.isolating(pod, direction);
    if policies.is_empty() {
        return DirectionVerdict::NotIsolated;
    }
    match policies
        .iter()
        .find_map(|policy| allowing_rule(world, policy, direction, other, flow))
    {
        Some(matched) => DirectionVerdict::Allowed(matched),
        None => DirectionVerdict::Denied(policies.iter().map(|policy| policy.key.clone()).collect()),
    }
}

fn is_own_node(world: &impl Lookup, pod: &Pod, address: IpAddr) -> bool {
    let node = pod.node.as_ref().and_then(|node| world.node(node));
    node.is_some_and(|node| node.addresses.contains(&address))
}

fn allowing_rule(
    world: &impl Lookup,
    policy: &Policy,
    direction: Direction,
    other: IpAddr,
    flow: &Flow,
) -> Option<Matched> {
    let rules = policy.rules(direction).unwrap_or_default();
    rules.iter().enumerate().find_map(|(index, rule)| {
        let peer = matching_peer(world, policy, rule, other)?;
        let port = matching_port(world, rule, flow)?;
        Some(Matched {
            policy: policy.key.clone(),
            rule: index,
            peer,
            port,
        })
    })
}

/// `None`: no peer matches. `Some(None)`: the rule names no peers, so anyone does.
fn matching_peer(world: &impl Lookup, policy: &Policy, rule: &Rule, other: IpAddr) -> Option<Option<usize>> {
    match &rule.peers {
        None => Some(None),
        Some(peers) => peers
            .iter()
            .position(|peer| peer_matches(world, policy, peer, other))
            .map(Some),
    }
}

/// Whether a peer of a rule of `policy` stands for the address.
pub(crate) fn peer_matches(world: &impl Lookup, policy: &Policy, peer: &Peer, other: IpAddr) -> bool {
    match peer {
        Peer::Block(block) => block.contains(other),
        Peer::Pods { .. } => world.pod(other).is_some_and(|pod| {
            let labels = || Some(&world.namespace(&pod.key.namespace)?.labels);
            peer.selects(&policy.key.namespace, pod, labels)
        }),
    }
}

fn matching_port(world: &impl Lookup, rule: &Rule, flow: &Flow) -> Option<Option<usize>> {
    match &rule.ports {
        None => Some(None),
        Some(ports) => ports
            .iter()
            .position(|port| port_matches(world, port, flow))
            .map(Some),
    }
}

/// Whether a port of a rule stands for the flow's destination port.
pub(crate) fn port_matches(world: &impl Lookup, port: &PortMatch, flow: &Flow) -> bool {
    port.protocol == flow.protocol
        && match &port.port {
            None => true,
            Some(PortSpec::Range(first, last)) => (*first..=*last).contains(&flow.port),
            Some(PortSpec::Named(name)) => world.pod(flow.destination).is_some_and(|pod| {
                pod.named_port(flow.protocol, name)
                    .any(|number| number == flow.port)
            }),
        }
}
