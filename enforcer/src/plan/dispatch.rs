//! The tree that finds a pod's chain by its address: as many comparisons as the tree is deep, whatever the number of
//! pods, instead of one per pod. A packet may jump a limited number of times ([`super::JUMPS`]): pods whose addresses lie so
//! apart that they would need more levels are compared one after the other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_policy::Direction;

use crate::names::{self, SetId};
use crate::rules::Rule;

/// How many address bits one level of the tree tells apart: at most four branches in a chain. With any other number a
/// packet is compared with more rules on its way to one of many pods.
const BITS: u8 = 2;

/// The chains of a tree, by name.
type Chains = BTreeMap<String, Vec<Rule<SetId>>>;
/// Addresses in order, each with the chain that serves it.
type Leaves = [(IpAddr, String)];

/// The tree of a direction: its root and the chains below. Each address in `leaves` goes to its chain, one that is not
/// listed returns. There are at most `depth` levels below the root.
pub(super) fn tree(direction: Direction, leaves: &Leaves, leaf_size: usize, depth: usize) -> Chains {
    let mut chains = Chains::new();
    let root = node(&mut chains, direction, leaves, (leaf_size.max(1), depth));
    chains.insert(names::root(direction).to_owned(), root);
    chains
}

/// Whether a chain is part of the tree of a direction.
pub(super) fn is_of_tree(chain: &str, direction: Direction) -> bool {
    chain == names::root(direction) || chain.starts_with(names::branch_prefix(direction))
}

/// The rules of one node of the tree; the chains below it are added to `chains`.
fn node(
    chains: &mut Chains,
    direction: Direction,
    leaves: &[(IpAddr, String)],
    (leaf_size, depth): (usize, usize),
) -> Vec<Rule<SetId>> {
    if leaves.len() <= leaf_size || depth == 0 {
        return leaves
            .iter()
            .flat_map(|(address, chain)| leaf(direction, *address, chain))
            .collect();
    }
    let common = common_prefix(leaves);
    let branch = (common.prefix_len() + BITS).min(common.max_prefix_len());
    let parts = leaves.chunk_by(|(a, _), (b, _)| truncate(*a, branch) == truncate(*b, branch));
    let mut rules = Vec::new();
    for part in parts {
        let prefix = common_prefix(part);
        let chain = names::branch_chain(direction, &prefix);
        let below = node(chains, direction, part, (leaf_size, depth - 1));
        chains.insert(chain.clone(), below);
        rules.push(Rule::Branch {
            direction,
            prefix,
            chain,
        });
    }
    rules
}

/// A pod reaches itself whatever its policies say, also through a Service that leads back to it.
fn leaf(direction: Direction, address: IpAddr, chain: &str) -> [Rule<SetId>; 2] {
    let prefix = IpNet::from(address);
    [
        Rule::Hairpin { address },
        Rule::Branch {
            direction,
            prefix,
            chain: chain.to_owned(),
        },
    ]
}

/// The longest prefix of all of these addresses, which are in order: what the first and the last have in common.
fn common_prefix(leaves: &[(IpAddr, String)]) -> IpNet {
    let Some(((first, _), (last, _))) = leaves.first().zip(leaves.last()) else {
        return IpNet::default();
    };
    let bits = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    truncate(*first, u8::try_from(bits).unwrap_or(0))
}

fn truncate(address: IpAddr, bits: u8) -> IpNet {
    IpNet::new(address, bits)
        .unwrap_or_else(|_| address.into())
        .trunc()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::options::Options;

    fn tree(count: u32) -> Chains {
        let address = |i: u32| IpAddr::from((0x0af4_0000 + i).to_be_bytes());
        let leaves: Vec<_> = (0..count)
            .map(|i| (address(i), format!("{}P-{i}", names::PREFIX)))
            .collect();
        super::tree(
            Direction::Egress,
            &leaves,
            Options::default().leaf_size,
            super::super::POD_JUMPS,
        )
    }

    /// The rules that a packet of the address is compared with until it is found.
    fn comparisons(chains: &Chains, chain: &str, address: IpAddr) -> Option<usize> {
        let mut seen = 0;
        for rule in &chains[chain] {
            seen += 1;
            if let Rule::Branch { prefix, chain, .. } = rule
                && prefix.contains(&address)
            {
                let below = if chains.contains_key(chain) {
                    comparisons(chains, chain, address)?
                } else {
                    0
                };
                return Some(seen + below);
            }
        }
        None
    }

    #[test]
    fn finding_a_pod_costs_little_more_among_five_hundred_than_among_four() {
        let worst = |count: u32| {
            let chains = tree(count);
            let address = |i: u32| IpAddr::from((0x0af4_0000 + i).to_be_bytes());
            (0..count)
                .map(|i| comparisons(&chains, names::root(Direction::Egress), address(i)).unwrap())
                .max()
                .unwrap()
        };
        assert!(worst(4) <= 8, "{}", worst(4));
        assert!(worst(500) <= 8 + 4 * 4, "{}", worst(500));
    }

    #[test]
    fn an_address_without_isolation_is_not_found() {
        let chains = tree(100);
        let outside = "10.244.1.1".parse().unwrap();
        assert_eq!(
            comparisons(&chains, names::root(Direction::Egress), outside),
            None
        );
    }
}
