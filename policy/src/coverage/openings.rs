//! What the rules open beyond a pod's own namespace.

use ipnet::IpNet;

use crate::model::{Direction, IpBlock, ObjectKey, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Rule};
use crate::net::canonical_networks;
use crate::world::World;

/// A network that has this part of its family's addresses is as wide as the internet: IPv6's global addresses are one
/// eighth of all (`2000::/3`), and IPv4 without its private ranges is more than that.
const WIDE: u8 = 3;

/// A rule that opens more than the pod's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The policy.
    pub policy: ObjectKey,
    /// The rule's index in its direction.
    pub rule: usize,
    /// To whom it opens.
    pub to: Openness,
    /// It opens every port and protocol.
    pub all_ports: bool,
}

/// To whom a rule opens a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Openness {
    /// Everyone: it names no peers.
    Everyone,
    /// The world: its networks together have an eighth or more of all IPv4 or of all IPv6 addresses.
    World,
    /// Some networks of less than that.
    Networks(Vec<IpNet>),
    /// Pods of these other namespaces, as far as they are known now.
    Namespaces(Vec<String>),
}

/// What the rules of these policies, which are of one namespace, open.
pub(super) fn of(world: &World, policies: &[&Policy], direction: Direction) -> Vec<Opening> {
    let mut openings = Vec::new();
    for policy in policies {
        for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
            openings.extend(openness(world, policy, rule).into_iter().map(|to| Opening {
                policy: policy.key.clone(),
                rule: index,
                to,
                all_ports: rule.ports.is_none(),
            }));
        }
    }
    openings
}

fn openness(world: &World, policy: &Policy, rule: &Rule) -> Vec<Openness> {
    let Some(peers) = &rule.peers else {
        return vec![Openness::Everyone];
    };
    let networks = canonical_networks(peers.iter().filter_map(as_block));
    let networks = match networks.is_empty() {
        true => None,
        false if is_wide(&networks) => Some(Openness::World),
        false => Some(Openness::Networks(networks)),
    };
    let selectors = || {
        peers.iter().filter_map(|peer| match peer {
            Peer::Pods { namespaces, .. } => namespaces.as_ref(),
            Peer::Block(_) => None,
        })
    };
    let others = world.namespaces.values().filter(|namespace| {
        namespace.name != policy.key.namespace
            && selectors().any(|selector| selector.matches(&namespace.labels))
    });
    let others: Vec<String> = others.map(|namespace| namespace.name.clone()).collect();
    let others = (!others.is_empty()).then_some(Openness::Namespaces(others));
    networks.into_iter().chain(others).collect()
}

/// Whether the rules of these policies let every address of each of the pod's families use every port: whether by one rule
/// that names nobody, or by many that together leave nothing out.
pub(super) fn allow_all(policies: &[&Policy], direction: Direction, pod: &Pod) -> bool {
    let rules = || {
        policies
            .iter()
            .flat_map(|policy| policy.rules(direction).unwrap_or_default())
    };
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .all(|protocol| {
            let rules = rules().filter(|rule| has_every_port(rule, protocol));
            let blocks: Option<Vec<&IpBlock>> = rules
                .map(|rule| Some(rule.peers.as_ref()?.iter().filter_map(as_block)))
                .try_fold(Vec::new(), |mut all, blocks| {
                    all.extend(blocks?);
                    Some(all)
                });
            // `None`: one of the rules names no peers.
            blocks.is_none_or(|blocks| has_every_address(&canonical_networks(blocks), pod))
        })
}

fn as_block(peer: &Peer) -> Option<&IpBlock> {
    match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } => None,
    }
}

fn has_every_port(rule: &Rule, protocol: Protocol) -> bool {
    let every = |port: &PortMatch| {
        port.protocol == protocol && matches!(port.port, None | Some(PortSpec::Range(0..=1, u16::MAX)))
    };
    rule.ports.as_ref().is_none_or(|ports| ports.iter().any(every))
}

/// Whether disjoint networks have all addresses of the families that the pod has addresses of, or of both where it has
/// none yet.
fn has_every_address(networks: &[IpNet], pod: &Pod) -> bool {
    [true, false].into_iter().all(|v4| {
        let has_family =
            pod.addresses.is_empty() || pod.addresses.iter().any(|address| address.is_ipv4() == v4);
        let whole = |network: &IpNet| network.prefix_len() == 0 && network.addr().is_ipv4() == v4;
        !has_family || networks.iter().any(whole)
    })
}

/// Whether disjoint networks have a [`WIDE`] part of a family's addresses.
fn is_wide(networks: &[IpNet]) -> bool {
    // In units of a /32, so that IPv6's 2^128 fits: smaller parts do not make a wide one.
    let parts = |v4: bool| -> u64 {
        let family = networks.iter().filter(|network| network.addr().is_ipv4() == v4);
        family
            .map(|network| 1u64 << (32 - network.prefix_len().min(32)))
            .sum()
    };
    let wide = 1u64 << (32 - WIDE);
    parts(true) >= wide || parts(false) >= wide
}
