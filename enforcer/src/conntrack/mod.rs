//! Connections that were allowed when they began and no longer are.
//!
//! A packet of a known connection passes without a look at the policies, so a policy that tightens must find the
//! connections it ends. Each is marked with one bit of its connection mark, and the first rule rejects what carries the
//! mark. Deleting the entry would not do: the server's next packet would be taken for a new connection in the other
//! direction. The mark goes again when the connection is allowed again.

pub mod socket;
pub mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_policy::{Isolation, NodePolicies, Ports, Protocol};

/// A connection that the kernel tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Who opened it, before source NAT.
    pub source: IpAddr,
    /// Whom it reached, after destination NAT.
    pub destination: IpAddr,
    /// The protocol and the port it reached; `None` is one that has no ports that policies speak of.
    pub service: Option<(Protocol, u16)>,
    /// Its connection mark.
    pub mark: u32,
    /// What names it to the kernel.
    pub name: wire::Name,
}

/// A mark to set or to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// Whether it is revoked, or allowed again.
    pub revoke: bool,
}

/// What the policies of a node say about connections.
pub struct Judge<'a> {
    isolated: BTreeMap<IpAddr, (Option<&'a Isolation>, Option<&'a Isolation>)>,
    node: &'a [IpAddr],
    police_own_node: bool,
}

impl<'a> Judge<'a> {
    /// A judge for the pods of a node that has these addresses itself. `police_own_node`: policies act on what the pods
    /// send there, too.
    pub fn new(policies: &'a NodePolicies, node: &'a [IpAddr], police_own_node: bool) -> Self {
        let pods = policies.pods.values();
        let isolated = pods.flat_map(|pod| {
            let isolations = (pod.egress.as_deref(), pod.ingress.as_deref());
            pod.addresses.iter().map(move |address| (*address, isolations))
        });
        Self {
            isolated: isolated.collect(),
            node,
            police_own_node,
        }
    }

    /// Whether the policies allow the connection now.
    pub fn allows(&self, connection: &Connection) -> bool {
        let Connection {
            source, destination, ..
        } = connection;
        let to_node_is_free = !self.police_own_node && self.node.contains(destination);
        if source == destination || self.node.contains(source) || to_node_is_free {
            return true;
        }
        let egress = self.isolated.get(source).and_then(|(egress, _)| *egress);
        let ingress = self.isolated.get(destination).and_then(|(_, ingress)| *ingress);
        egress.is_none_or(|isolation| grants(isolation, *destination, connection.service))
            && ingress.is_none_or(|isolation| grants(isolation, *source, connection.service))
    }

    /// The marks that have to change, where `bit` is the mark of a revoked connection.
    pub fn remarks<'c>(&self, connections: &'c [Connection], bit: u32) -> Vec<Remark<'c>> {
        let changed = connections.iter().filter_map(|connection| {
            let revoke = !self.allows(connection);
            let revoked = connection.mark & bit != 0;
            (revoke != revoked).then_some(Remark { connection, revoke })
        });
        changed.collect()
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
    use std::sync::Arc;

    use ringfence_policy::{LocalPod, ObjectKey};

    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 2));
    const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 1));

    fn connection(source: IpAddr, destination: IpAddr) -> Connection {
        Connection {
            source,
            destination,
            service: Some((Protocol::Tcp, 80)),
            mark: 0,
            name: wire::Name::default(),
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
            let judge = Judge::new(&policies, &[NODE], police);
            assert_eq!(judge.allows(&connection(POD, NODE)), to_node);
            assert!(judge.allows(&connection(NODE, POD)), "probes");
            assert!(judge.allows(&connection(POD, POD)), "hairpin");
        }
    }
}
