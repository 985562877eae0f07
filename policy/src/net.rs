//! Sets of addresses as canonical lists of networks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use crate::model::IpBlock;

/// The union of `blocks`, each without its own exceptions, as the shortest sorted list of disjoint networks.
///
/// An exception belongs to its block alone: what another block contains stays in the union.
pub fn canonical_networks<'a>(blocks: impl IntoIterator<Item = &'a IpBlock>) -> Vec<IpNet> {
    let parts: Vec<IpNet> = blocks.into_iter().flat_map(without_exceptions).collect();
    let mut networks = IpNet::aggregate(&parts);
    networks.sort();
    networks
}

/// The networks of one block that are left when its exceptions are taken out.
fn without_exceptions(block: &IpBlock) -> Vec<IpNet> {
    let mut exceptions: Vec<IpNet> = IpNet::aggregate(&block.except);
    exceptions.sort();
    match block.cidr.trunc() {
        IpNet::V4(cidr) => v4_difference(cidr, &exceptions),
        IpNet::V6(cidr) => v6_difference(cidr, &exceptions),
    }
}

fn v4_difference(cidr: Ipv4Net, exceptions: &[IpNet]) -> Vec<IpNet> {
    let ranges = exceptions.iter().filter_map(|except| match except {
        IpNet::V4(net) => Some((
            u128::from(u32::from(net.network())),
            u128::from(u32::from(net.broadcast())),
        )),
        IpNet::V6(_) => None,
    });
    let whole = (
        u128::from(u32::from(cidr.network())),
        u128::from(u32::from(cidr.broadcast())),
    );
    gaps(whole, ranges)
        .into_iter()
        .flat_map(|(first, last)| Ipv4Subnets::new((first as u32).into(), (last as u32).into(), 0))
        .map(IpNet::V4)
        .collect()
}

fn v6_difference(cidr: Ipv6Net, exceptions: &[IpNet]) -> Vec<IpNet> {
    let ranges = exceptions.iter().filter_map(|except| match except {
        IpNet::V6(net) => Some((u128::from(net.network()), u128::from(net.broadcast()))),
        IpNet::V4(_) => None,
    });
    let whole = (u128::from(cidr.network()), u128::from(cidr.broadcast()));
    gaps(whole, ranges)
        .into_iter()
        .flat_map(|(first, last)| Ipv6Subnets::new(first.into(), last.into(), 0))
        .map(IpNet::V6)
        .collect()
}

/// The parts of the inclusive range `whole` that none of the sorted, disjoint inclusive `ranges` covers.
fn gaps(whole: (u128, u128), ranges: impl Iterator<Item = (u128, u128)>) -> Vec<(u128, u128)> {
    let (mut next, end) = whole;
    let mut left = Vec::new();
    for (first, last) in ranges {
        if last < next || first > end {
            continue;
        }
        if first > next {
            left.push((next, first - 1));
        }
        match last.checked_add(1) {
            Some(after) if after <= end => next = after,
            _ => return left,
        }
    }
    left.push((next, end));
    left
}

/// Whether one of the networks contains the address.
pub(crate) fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|e| e.parse().unwrap()).collect(),
        }
    }

    fn networks(blocks: &[IpBlock]) -> Vec<String> {
        canonical_networks(blocks)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_exception_is_cut_out() {
        assert_eq!(
            networks(&[block("10.0.0.0/30", &["10.0.0.1/32"])]),
            ["10.0.0.0/32", "10.0.0.2/31"]
        );
    }

    #[test]
    fn an_exception_of_one_block_does_not_reach_into_another() {
        let blocks = [block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.0/24", &[])];
        let union = canonical_networks(&blocks);
        assert!(contains(&union, "10.1.2.3".parse().unwrap()));
        assert!(!contains(&union, "10.1.3.3".parse().unwrap()));
    }

    #[test]
    fn the_whole_internet_and_its_complement_work() {
        assert_eq!(networks(&[block("0.0.0.0/0", &[])]), ["0.0.0.0/0"]);
        assert_eq!(networks(&[block("::/0", &[])]), ["::/0"]);
        assert_eq!(networks(&[block("0.0.0.0/0", &["128.0.0.0/1"])]), ["0.0.0.0/1"]);
        assert_eq!(networks(&[block("::/0", &["::/0"])]), Vec::<String>::new());
        assert_eq!(
            networks(&[block("255.255.255.255/32", &["255.255.255.255/32"])]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_network_that_is_not_canonical_means_its_network() {
        assert_eq!(networks(&[block("10.0.0.7/24", &[])]), ["10.0.0.0/24"]);
    }

    proptest! {
        #[test]
        fn membership_is_that_of_the_definition(
            blocks in prop::collection::vec((0u32..64, 26u8..=32, prop::collection::vec((0u32..64, 26u8..=32), 0..4)), 0..4),
            address in 0u32..64,
        ) {
            let blocks: Vec<IpBlock> = blocks.into_iter().map(|(base, len, except)| IpBlock {
                cidr: Ipv4Net::new(base.into(), len).unwrap().into(),
                except: except.into_iter().map(|(b, l)| Ipv4Net::new(b.into(), l).unwrap().into()).collect(),
            }).collect();
            let address = IpAddr::V4(address.into());
            let expected = blocks.iter().any(|b| b.contains(address));
            let union = canonical_networks(&blocks);
            prop_assert_eq!(contains(&union, address), expected);
            prop_assert_eq!(IpNet::aggregate(&union), union, "canonical form is a fixed point");
        }
    }
}
