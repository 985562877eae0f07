//! Connections that were allowed when they began and no longer are.
//!
//! A packet of a known connection passes without a look at the policies, so a policy that tightens must find the
//! connections it ends. Each is marked with one bit of its connection mark, and the first rule rejects what carries the
//! mark. Deleting the entry would not do: the server's next packet would be taken for a new connection in the other
//! direction. The mark goes again when the connection is allowed again.

pub mod begun;
pub mod socket;
mod standing;
pub mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_policy::{Direction, Isolation, NodePolicies, Ports, Protocol};

/// A connection that the kernel tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who opened it, before source NAT.
    pub source: IpAddr,
    /// Whom it reached, after destination NAT.
    pub destination: IpAddr,
    /// The protocol and the port it reached; `None` is one that has no ports that policies speak of.
    pub service: Option<(Protocol, u16)>,
    /// What else it carries, where the protocol has no ports that policies speak of: its number.
    pub protocol: u8,
    /// Its connection mark.
    pub mark: u32,
}

/// What isolates a pod for egress and for ingress.
type Isolations = (Option<Arc<Isolation>>, Option<Arc<Isolation>>);

/// What the policies of a node say about connections, at one moment.
#[derive(Debug, Clone)]
pub struct Judge {
    isolated: HashMap<IpAddr, Isolations>,
    node: Vec<IpAddr>,
    police_own_node: bool,
}

impl Judge {
    /// A judge for the pods of a node that has these addresses itself. `police_own_node`: policies act on what the pods
    /// send there, too.
    pub fn new(policies: NodePolicies, node: Vec<IpAddr>, police_own_node: bool) -> Self {
        let isolated = policies
            .pods
            .into_values()
            .filter(|pod| pod.egress.is_some() || pod.ingress.is_some())
            .flat_map(|pod| {
                let isolations = (pod.egress, pod.ingress);
                let addresses = pod.addresses.into_iter();
                addresses.map(move |address| (address, isolations.clone()))
            });
        Self {
            isolated: isolated.collect(),
            node,
            police_own_node,
        }
    }

    /// Whether the policies allow the connection now.
    pub fn allows(&self, connection: &Connection) -> bool {
        self.objections(connection).next().is_none()
    }

    /// The directions whose policies do not allow the connection; the one that its first packet meets first.
    pub fn objections<'a>(&'a self, connection: &'a Connection) -> impl Iterator<Item = Direction> + 'a {
        let isolated = self.isolating(connection).into_iter().flatten();
        isolated.filter_map(|(direction, isolation, other)| {
            (!grants(isolation, other, connection.service)).then_some(direction)
        })
    }

    /// What isolates the ends of the connection from each other: whose direction, and who is on the other side.
    fn isolating(&self, connection: &Connection) -> [Option<(Direction, &Isolation, IpAddr)>; 2] {
        let Connection {
            source, destination, ..
        } = *connection;
        let (from, to) = (self.isolated.get(&source), self.isolated.get(&destination));
        // Most connections are of pods that nothing isolates, or of no pod of this node.
        if from.is_none() && to.is_none() {
            return [None, None];
        }
        let to_node_is_free = !self.police_own_node && self.node.contains(&destination);
        if source == destination || self.node.contains(&source) || to_node_is_free {
            return [None, None];
        }
        let egress = from.and_then(|(egress, _)| egress.as_deref());
        let ingress = to.and_then(|(_, ingress)| ingress.as_deref());
        [
            egress.map(|isolation| (Direction::Egress, isolation, destination)),
            ingress.map(|isolation| (Direction::Ingress, isolation, source)),
        ]
    }
}

fn grants(isolation: &Isolation, other: IpAddr, service: Option<(Protocol, u16)>) -> bool {
    match service {
        Some((protocol, port)) => isolation.allows(other, protocol, port),
        None => isolation
            .grants
            .iter()
            .any(|grant| grant.ports == Ports::Any && grant.peers.contain(other)),
    }
}

#[cfg(test)]
mod tests {
    use ringfence_policy::{LocalPod, ObjectKey};

    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 2));
    const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 1));

    fn connection(source: IpAddr, destination: IpAddr) -> Connection {
        Connection {
            source,
            destination,
            service: Some((Protocol::Tcp, 80)),
            protocol: 6,
            mark: 0,
        }
    }

    #[test]
    fn connections_to_the_own_node_end_only_where_it_is_policed() {
        let nothing = Arc::new(Isolation {
            id: "nothing".to_owned(),
            policies: Vec::new(),
            grants: Vec::new(),
        });
        let pod = LocalPod {
            addresses: vec![POD],
            ingress: Some(Arc::clone(&nothing)),
            egress: Some(nothing),
        };
        let policies = NodePolicies {
            pods: [(ObjectKey::new("default", "pod"), pod)].into(),
        };
        for (police, to_node) in [(false, true), (true, false)] {
            let judge = Judge::new(policies.clone(), vec![NODE], police);
            assert_eq!(judge.allows(&connection(POD, NODE)), to_node);
            assert!(judge.allows(&connection(NODE, POD)), "probes");
            assert!(judge.allows(&connection(POD, POD)), "hairpin");
        }
    }
}
