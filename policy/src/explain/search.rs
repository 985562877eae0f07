//! Finds the rule that came nearest.
//!
//! Near means: one edit away before two, and a label or a number that differs before something of another kind. The
//! distances only order the candidates; nothing is decided by them.

use std::net::IpAddr;

use super::miss::{Labelled, Miss, NearMiss, Reason, Unmet, peers_field, rules_field};
use super::remedy;
use crate::evaluate::{Flow, Lookup};
use crate::labels::{Labels, Selector};
use crate::model::{Direction, Namespace, Peer, Pod, Policy, PortMatch, PortSpec, Rule};

/// Peers and ports both differ: farther than any that differs in one of them.
const BOTH: u32 = 100;
/// No rule: farther than any rule.
const NO_RULE: u32 = 10_000;

/// A rule, the peer and the port of it that came nearest; `None` where that part matches.
#[derive(Clone, Copy)]
struct Candidate<'w> {
    distance: u32,
    policy: &'w Policy,
    rule: Option<usize>,
    peer: Option<usize>,
    port: Option<usize>,
}

/// What the other side of the flow is, looked up once.
pub(super) struct Other<'w> {
    pub(super) address: IpAddr,
    pub(super) pod: Option<&'w Pod>,
    pub(super) namespace: Option<&'w Namespace>,
}

/// What came nearest among `policies`, which isolate `pod` in `direction` and do not allow the flow.
pub(super) fn nearest<L: Lookup>(
    world: &L,
    pod: &Pod,
    policies: &[&Policy],
    flow: &Flow,
    direction: Direction,
) -> Option<NearMiss> {
    let (_, address) = flow.sides(direction);
    let other_pod = world.pod(address);
    let other = Other {
        address,
        pod: other_pod,
        namespace: other_pod.and_then(|pod| world.namespace(&pod.key.namespace)),
    };
    let destination = world.pod(flow.destination);
    let candidates = policies
        .iter()
        .flat_map(|policy| candidates(policy, direction, &other, destination, flow));
    let nearest = candidates.min_by_key(|candidate| candidate.distance)?;
    let misses = describe(&nearest, direction, &other, destination, flow);
    let remedy = remedy::of_policy(
        nearest.policy,
        direction,
        (nearest.rule, nearest.peer.is_some(), nearest.port.is_some()),
        &other,
        flow,
    );
    let instead = remedy::instead(&nearest.peer(direction), &misses, &other, flow);
    Some(NearMiss {
        direction,
        pod: pod.key.clone(),
        policy: nearest.policy.key.clone(),
        rule: nearest.rule,
        misses,
        remedy,
        instead,
    })
}

impl<'w> Candidate<'w> {
    fn rule(&self, direction: Direction) -> Option<&'w Rule> {
        self.policy.rules(direction)?.get(self.rule?)
    }

    fn peer(&self, direction: Direction) -> Option<&'w Peer> {
        self.rule(direction)?.peers.as_ref()?.get(self.peer?)
    }

    fn port(&self, direction: Direction) -> Option<&'w PortMatch> {
        self.rule(direction)?.ports.as_ref()?.get(self.port?)
    }
}

fn candidates<'w>(
    policy: &'w Policy,
    direction: Direction,
    other: &Other<'_>,
    destination: Option<&Pod>,
    flow: &Flow,
) -> Vec<Candidate<'w>> {
    let rules = policy.rules(direction).unwrap_or_default();
    let no_rule = Candidate {
        distance: NO_RULE,
        policy,
        rule: None,
        peer: None,
        port: None,
    };
    if rules.is_empty() {
        return vec![no_rule];
    }
    let nearest_in = |(index, rule): (usize, &Rule)| {
        let peer = closest(rule.peers.as_deref(), |peer| peer_distance(policy, peer, other));
        let port = closest(rule.ports.as_deref(), |port| {
            port_distance(port, destination, flow)
        });
        let both = if peer.1 > 0 && port.1 > 0 { BOTH } else { 0 };
        Candidate {
            distance: peer.1 + port.1 + both,
            rule: Some(index),
            peer: peer.0,
            port: port.0,
            ..no_rule
        }
    };
    rules.iter().enumerate().map(nearest_in).collect()
}

/// The nearest item and its distance; no index where one matches or the rule does not restrict.
fn closest<T>(items: Option<&[T]>, distance: impl Fn(&T) -> u32) -> (Option<usize>, u32) {
    let items = items.unwrap_or_default().iter().map(distance).enumerate();
    match items.min_by_key(|(_, distance)| *distance) {
        Some((index, distance)) if distance > 0 => (Some(index), distance),
        _ => (None, 0),
    }
}

fn peer_distance(policy: &Policy, peer: &Peer, other: &Other<'_>) -> u32 {
    let (namespaces, pods) = match peer {
        Peer::Block(block) if block.contains(other.address) => return 0,
        Peer::Block(block) if block.cidr.contains(&other.address) => return 2,
        Peer::Block(block) => {
            return if block.cidr.addr().is_ipv4() == other.address.is_ipv4() {
                6
            } else {
                9
            };
        }
        Peer::Pods { namespaces, pods } => (namespaces, pods),
    };
    let Some(pod) = other.pod else {
        return 8;
    };
    let namespace = match (namespaces, other.namespace) {
        (None, _) if pod.key.namespace == policy.key.namespace => 0,
        (None, _) | (Some(_), None) => 3,
        (Some(selector), Some(namespace)) => labels_distance(selector, &namespace.labels),
    };
    namespace
        + pods
            .as_ref()
            .map_or(0, |selector| labels_distance(selector, &pod.labels))
}

fn labels_distance(selector: &Selector, labels: &Labels) -> u32 {
    let unmet = selector.requirements().filter(|r| !r.matches(labels)).count();
    if unmet == 0 {
        0
    } else {
        // Bounded, so that a long selector in one rule is not farther than a second rule part.
        1 + u32::try_from(unmet).unwrap_or(u32::MAX).min(10)
    }
}

fn port_distance(port: &PortMatch, destination: Option<&Pod>, flow: &Flow) -> u32 {
    let number = match &port.port {
        None => 0,
        Some(PortSpec::Range(first, last)) if (*first..=*last).contains(&flow.port) => 0,
        Some(PortSpec::Range(..)) => 3,
        Some(PortSpec::Named(name)) => named_distance(name, port, destination, flow),
    };
    number + if port.protocol == flow.protocol { 0 } else { 2 }
}

fn named_distance(name: &str, port: &PortMatch, destination: Option<&Pod>, flow: &Flow) -> u32 {
    let Some(pod) = destination else {
        return 8;
    };
    let numbers: Vec<u16> = pod.named_port(port.protocol, name).collect();
    match numbers.is_empty() {
        true => 3,
        false if numbers.contains(&flow.port) => 0,
        false => 2,
    }
}

fn describe(
    nearest: &Candidate<'_>,
    direction: Direction,
    other: &Other<'_>,
    destination: Option<&Pod>,
    flow: &Flow,
) -> Vec<Miss> {
    let rules = rules_field(direction);
    let Some(rule) = nearest.rule else {
        return vec![miss(rules.to_owned(), Reason::NoRules)];
    };
    let mut misses = Vec::new();
    if let (Some(index), Some(peer)) = (nearest.peer, nearest.peer(direction)) {
        let at = format!("{rules}[{rule}].{}[{index}]", peers_field(direction));
        misses.extend(peer_misses(&at, nearest.policy, peer, other));
    }
    if let (Some(index), Some(port)) = (nearest.port, nearest.port(direction)) {
        let at = format!("{rules}[{rule}].ports[{index}]");
        misses.extend(port_misses(&at, port, destination, flow));
    }
    misses
}

fn miss(field: String, reason: Reason) -> Miss {
    Miss { field, reason }
}

fn peer_misses(at: &str, policy: &Policy, peer: &Peer, other: &Other<'_>) -> Vec<Miss> {
    let address = other.address;
    let (namespaces, pods) = match peer {
        Peer::Pods { namespaces, pods } => (namespaces, pods),
        Peer::Block(block) => {
            let except = block.except.iter().find(|except| except.contains(&address));
            return vec![match except.filter(|_| block.cidr.contains(&address)) {
                Some(except) => {
                    let except = *except;
                    miss(
                        format!("{at}.ipBlock.except"),
                        Reason::Excepted { address, except },
                    )
                }
                None => {
                    let cidr = block.cidr;
                    miss(
                        format!("{at}.ipBlock.cidr"),
                        Reason::OutsideBlock { address, cidr },
                    )
                }
            }];
        }
    };
    let Some(pod) = other.pod else {
        return vec![miss(at.to_owned(), Reason::NotAPod { address })];
    };
    let in_namespace = match (namespaces, other.namespace) {
        (None, _) => (pod.key.namespace != policy.key.namespace).then(|| {
            let pod = pod.key.clone();
            miss(format!("{at}.podSelector"), Reason::OtherNamespace { pod })
        }),
        (Some(_), None) => {
            let name = pod.key.namespace.clone();
            Some(miss(
                format!("{at}.namespaceSelector"),
                Reason::UnknownNamespace { name },
            ))
        }
        (Some(selector), Some(namespace)) => {
            let of = Labelled::Namespace(namespace.name.clone());
            unmet(of, selector, &namespace.labels)
                .map(|reason| miss(format!("{at}.namespaceSelector"), reason))
        }
    };
    let by_labels = pods.as_ref().and_then(|selector| {
        let of = Labelled::Pod(pod.key.clone());
        unmet(of, selector, &pod.labels).map(|reason| miss(format!("{at}.podSelector"), reason))
    });
    in_namespace.into_iter().chain(by_labels).collect()
}

fn unmet(of: Labelled, selector: &Selector, labels: &Labels) -> Option<Reason> {
    let unmet = selector.requirements().filter(|r| !r.matches(labels));
    let unmet: Vec<Unmet> = unmet
        .map(|requirement| Unmet {
            requirement: requirement.clone(),
            value: labels.get(&requirement.key).cloned(),
        })
        .collect();
    (!unmet.is_empty()).then_some(Reason::Labels { of, unmet })
}

fn port_misses(at: &str, port: &PortMatch, destination: Option<&Pod>, flow: &Flow) -> Vec<Miss> {
    let protocol = (port.protocol != flow.protocol).then(|| {
        let (expected, found) = (port.protocol, flow.protocol);
        miss(format!("{at}.protocol"), Reason::Protocol { expected, found })
    });
    let number = match &port.port {
        None => None,
        Some(PortSpec::Range(first, last)) => {
            (!(*first..=*last).contains(&flow.port)).then_some(Reason::Port {
                first: *first,
                last: *last,
                found: flow.port,
            })
        }
        Some(PortSpec::Named(name)) => named_reason(name, port, destination, flow),
    };
    let number = number.map(|reason| miss(format!("{at}.port"), reason));
    protocol.into_iter().chain(number).collect()
}

fn named_reason(name: &str, port: &PortMatch, destination: Option<&Pod>, flow: &Flow) -> Option<Reason> {
    let name = name.to_owned();
    let Some(pod) = destination else {
        let address = flow.destination;
        return Some(Reason::PortOfNoPod { name, address });
    };
    let numbers: Vec<u16> = pod.named_port(port.protocol, &name).collect();
    let (pod, found) = (pod.key.clone(), flow.port);
    if numbers.is_empty() {
        let protocol = port.protocol;
        Some(Reason::PortUndeclared { name, protocol, pod })
    } else if numbers.contains(&found) {
        None
    } else {
        Some(Reason::PortDeclaredAs {
            name,
            pod,
            numbers,
            found,
        })
    }
}
