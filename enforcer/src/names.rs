//! The names of our chains and sets: one prefix, so that read back and clean-up find exactly ours.
//!
//! Names come from definitions (an isolation's digest, a prefix), never from positions, so a set is never filled with
//! the members of another meaning while a rule still refers to it.

use std::fmt;

use ipnet::IpNet;
use ringfence_policy::{Direction, Protocol, digest as definition_digest};

use crate::ruleset::Family;

/// What the name of each of our chains and sets starts with, and of no other.
pub const PREFIX: &str = "RINGF-";
/// The first of our chains, whatever built-in chain leads to it. The rules there carry no comment: every packet of the node
/// is tested against them, and the name says whose they are.
pub const FORWARD: &str = "RINGF-FORWARD";
/// Where packets of revoked connections end.
pub const REVOKED: &str = "RINGF-REVOKED";

/// What the names of the chains for some ports of an isolation start with.
const PORT_PREFIX: &str = "RINGF-R-";

/// The root of the dispatch tree of a direction.
pub fn root(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "RINGF-EGRESS",
        Direction::Ingress => "RINGF-INGRESS",
    }
}

/// The chain that logs and drops what a direction does not allow.
pub fn drop_chain(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "RINGF-DROP-EGRESS",
        Direction::Ingress => "RINGF-DROP-INGRESS",
    }
}

/// The chain that drops what comes from, or goes to, a local address that no pod is known to have.
pub fn unknown(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "RINGF-UNKNOWN-EGRESS",
        Direction::Ingress => "RINGF-UNKNOWN-INGRESS",
    }
}

/// The chain of the pods that are isolated alike.
pub fn isolation_chain(id: &str) -> String {
    format!("{PREFIX}P-{id}")
}

/// The chain of an isolation for these ports. What an isolation or a span is called is for others to say, so this is a
/// digest that nobody can craft.
pub fn port_chain(isolation: &str, protocol: Protocol, span: (u16, u16)) -> String {
    format!("{PORT_PREFIX}{}", definition_digest(&(isolation, protocol, span)))
}

/// Whether a chain is one of those.
pub fn is_port_chain(chain: &str) -> bool {
    chain.starts_with(PORT_PREFIX)
}

/// The chain of a dispatch tree's node that serves the addresses of `prefix`.
pub fn branch_chain(direction: Direction, prefix: &IpNet) -> String {
    format!("{}{:016x}", branch_prefix(direction), digest(&prefix.to_string()))
}

/// What the names of the chains of a direction's dispatch tree start with, apart from its root.
pub fn branch_prefix(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "RINGF-DE-",
        Direction::Ingress => "RINGF-DI-",
    }
}

/// FNV-1a: short, stable names for prefixes. The input is ours, not a user's, and there are few.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The logical name of a set: what it means, without its generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(String);

impl SetId {
    /// The local addresses that are isolated in a direction.
    pub fn isolated(family: Family, direction: Direction) -> Self {
        Self(format!("{PREFIX}{}-{direction}", family.digit()))
    }

    /// The addresses of this node itself.
    pub fn node(family: Family) -> Self {
        Self(format!("{PREFIX}{}-node", family.digit()))
    }

    /// The ranges that this node's pods have their addresses from.
    pub fn pod_ranges(family: Family) -> Self {
        Self(format!("{PREFIX}{}-ranges", family.digit()))
    }

    /// The local addresses that are known to be a pod's, or the node's own.
    pub fn known(family: Family) -> Self {
        Self(format!("{PREFIX}{}-known", family.digit()))
    }

    /// Whether this is [`SetId::known`] of a family. What is in it passes on to the rules of its pod, so those must be
    /// there first.
    pub fn is_known(&self) -> bool {
        let name = self.0.strip_prefix(PREFIX);
        name.is_some_and(|name| matches!(name, "4-known" | "6-known"))
    }

    /// Whether this is [`SetId::isolated`] of a family and direction. What comes to it is isolated.
    pub fn is_isolated(&self) -> bool {
        let name = self.0.strip_prefix(PREFIX);
        name.is_some_and(|name| matches!(name, "4-egress" | "4-ingress" | "6-egress" | "6-ingress"))
    }

    /// The networks that an isolation opens every port for.
    pub fn any_port(family: Family, isolation: &str) -> Self {
        Self(format!("{PREFIX}{}n-{isolation}", family.digit()))
    }

    /// The pairs of network and port that an isolation opens.
    pub fn ports(family: Family, isolation: &str) -> Self {
        Self(format!("{PREFIX}{}p-{isolation}", family.digit()))
    }

    /// The members of a group of peers.
    pub fn group(family: Family, group: &str) -> Self {
        Self(format!("{PREFIX}{}g-{group}", family.digit()))
    }

    /// The members of several groups of peers.
    pub fn union(family: Family, groups: &[&str]) -> Self {
        Self(format!(
            "{PREFIX}{}u-{}",
            family.digit(),
            definition_digest(&groups)
        ))
    }

    /// This set in a generation: a letter from `a` to `z`.
    pub fn generation(&self, letter: char) -> SetName {
        SetName(format!("{}.{letter}", self.0))
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a set in the kernel: a [`SetId`] and the letter of a generation.
///
/// A set is changed in place while that is safe; otherwise a new generation is filled and the chains switch to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(String);

impl SetName {
    /// The name as the kernel has it, if it is one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        name.starts_with(PREFIX).then(|| Self(name.to_owned()))
    }

    /// What the set means. A set that carries our prefix and no generation is none we make: it has an id of its own.
    pub fn id(&self) -> SetId {
        match self.0.rsplit_once('.') {
            Some((id, letter)) if letter.len() == 1 => SetId(id.to_owned()),
            _ => SetId(self.0.clone()),
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// XT_EXTENSION_MAXNAMELEN and IPSET_MAXNAMELEN, without the terminating zero.
    const LONGEST: (usize, usize) = (28, 31);

    #[test]
    fn every_name_fits_the_kernel() {
        let id = "abcdefghijklmnopqrst";
        let prefix = "fd00:1234:5678:9abc::/64".parse().unwrap();
        for direction in [Direction::Ingress, Direction::Egress] {
            for chain in [
                root(direction),
                drop_chain(direction),
                unknown(direction),
                &branch_chain(direction, &prefix),
                &port_chain(id, Protocol::Sctp, (0, u16::MAX)),
            ] {
                assert!(chain.len() <= LONGEST.0 && chain.starts_with(PREFIX), "{chain}");
            }
            let set = SetId::isolated(Family::V6, direction).generation('z');
            assert!(set.as_str().len() <= LONGEST.1, "{set}");
        }
        assert!(isolation_chain(id).len() <= LONGEST.0);
        for set in [
            SetId::any_port(Family::V4, id),
            SetId::ports(Family::V4, id),
            SetId::group(Family::V4, id),
            SetId::union(Family::V4, &[id, id]),
        ] {
            assert!(set.generation('a').as_str().len() <= LONGEST.1, "{set}");
            assert_eq!(set.generation('q').id(), set);
            assert!(!set.is_known());
        }
        assert!(
            Family::ALL
                .into_iter()
                .all(|family| SetId::known(family).is_known())
        );
    }

    #[test]
    fn a_prefix_has_a_chain_of_its_own_in_each_direction() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let a = branch_chain(Direction::Egress, &net("10.0.0.0/24"));
        assert_ne!(a, branch_chain(Direction::Ingress, &net("10.0.0.0/24")));
        assert_ne!(a, branch_chain(Direction::Egress, &net("10.0.0.0/25")));
    }
}
