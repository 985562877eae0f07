//! What the rules of some policies allow together.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::Groups;
use super::{Grant, Peers, PortRange, Ports};
use crate::model::{Direction, Pod, Policy, PortMatch, PortSpec, Rule};

/// Collects grants: those to the same peers become one.
pub(super) struct Collector<P> {
    /// By the group's id; `None` is anyone.
    by_peers: BTreeMap<Option<String>, (P, Ports)>,
}

impl<P> Collector<P> {
    pub(super) fn new() -> Self {
        Self {
            by_peers: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, id: Option<String>, peers: P, ports: Ports) {
        if matches!(&ports, Ports::Only(ranges) if ranges.is_empty()) {
            return;
        }
        let (_, known) = self
            .by_peers
            .entry(id)
            .or_insert_with(|| (peers, Ports::Only(BTreeSet::new())));
        match (known, ports) {
            (Ports::Only(known), Ports::Only(more)) => known.extend(more),
            (known, Ports::Any) => *known = Ports::Any,
            (Ports::Any, Ports::Only(_)) => {}
        }
    }

    /// The grants, sorted by the peers' id.
    pub(super) fn finish<G>(self, grant: impl Fn(P, Ports) -> G) -> Vec<G> {
        let grants = self.by_peers.into_values();
        grants.map(|(peers, ports)| grant(peers, ports)).collect()
    }
}

impl Collector<Peers> {
    fn add_peers(&mut self, peers: Peers, ports: Ports) {
        let id = match &peers {
            Peers::Any => None,
            Peers::Group { id, .. } => Some(id.clone()),
        };
        self.add(id, peers, ports);
    }
}

/// What `policies`, all of which isolate `pod` in `direction`, allow together.
pub(super) fn collect(
    groups: &mut Groups<'_, '_>,
    policies: &[&Policy],
    pod: &Pod,
    direction: Direction,
) -> Vec<Grant> {
    let mut collector = Collector::new();
    for policy in policies {
        for rule in policy.rules(direction).unwrap_or_default() {
            match direction {
                Direction::Ingress => add_ingress(&mut collector, groups, policy, rule, pod),
                Direction::Egress => add_egress(&mut collector, groups, policy, rule),
            }
        }
    }
    collector.finish(|peers, ports| Grant { peers, ports })
}

/// Ingress: the destination is the local pod, so that is where names resolve.
fn add_ingress(
    collector: &mut Collector<Peers>,
    groups: &mut Groups<'_, '_>,
    policy: &Policy,
    rule: &Rule,
    pod: &Pod,
) {
    let ports = match &rule.ports {
        None => Ports::Any,
        Some(ports) => Ports::Only(ports.iter().flat_map(|port| port.ranges_at(pod)).collect()),
    };
    collector.add_peers(
        groups.resolve(&policy.key.namespace, rule.peers.as_deref()),
        ports,
    );
}

impl PortMatch {
    /// The ports that it stands for at a destination: a name stands for what the pod declares under it.
    pub fn ranges_at(&self, destination: &Pod) -> Vec<PortRange> {
        match &self.port {
            Some(PortSpec::Named(name)) => destination
                .named_port(self.protocol, name)
                .map(|number| PortRange::one(self.protocol, number))
                .collect(),
            _ => numeric(self).into_iter().collect(),
        }
    }
}

/// Egress: names resolve at each destination, which splits the peers by the number that they declare.
fn add_egress(collector: &mut Collector<Peers>, groups: &mut Groups<'_, '_>, policy: &Policy, rule: &Rule) {
    let namespace = &policy.key.namespace;
    let peers = rule.peers.as_deref();
    let Some(ports) = &rule.ports else {
        collector.add_peers(groups.resolve(namespace, peers), Ports::Any);
        return;
    };
    let numbers: BTreeSet<PortRange> = ports.iter().filter_map(numeric).collect();
    if !numbers.is_empty() {
        collector.add_peers(groups.resolve(namespace, peers), Ports::Only(numbers));
    }
    for port in ports {
        if let Some(PortSpec::Named(name)) = &port.port {
            for (number, declaring) in groups.declaring(namespace, peers, port.protocol, name) {
                let one = BTreeSet::from([PortRange::one(port.protocol, number)]);
                collector.add_peers(declaring, Ports::Only(one));
            }
        }
    }
}

pub(super) fn numeric(port: &PortMatch) -> Option<PortRange> {
    match &port.port {
        None => Some(PortRange::all(port.protocol)),
        Some(PortSpec::Range(first, last)) => Some(PortRange {
            protocol: port.protocol,
            first: *first,
            last: *last,
        }),
        Some(PortSpec::Named(_)) => None,
    }
}
