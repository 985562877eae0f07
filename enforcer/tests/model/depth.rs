//! How often a packet may jump: nftables refuses rules that could lead it deeper, all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_enforcer::names;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::{DIRECTIONS, JUMPS};
use ringfence_enforcer::rules::Rule;
use ringfence_enforcer::ruleset::{Hook, Tables};
use ringfence_policy::{IpBlock, Peer, Policy, PortMatch, PortSpec, Protocol, Rule as PolicyRule, World};

use super::small::{pod, policy, small_world};
use super::{NODE, ruleset};

/// How many jumps lead from this chain to the last one, at most.
fn jumps_from(tables: &Tables, rules: &[Rule<names::SetId>]) -> usize {
    let next = rules.iter().filter_map(|rule| match rule {
        Rule::Enter | Rule::EnterRevoked { .. } => Some(names::FORWARD.to_owned()),
        Rule::Revoked { .. } => Some(names::REVOKED.to_owned()),
        Rule::Gate { direction, .. } => Some(names::root(*direction).to_owned()),
        Rule::Range { direction, .. } => Some(names::unknown(*direction).to_owned()),
        Rule::Deny { direction } => Some(names::drop_chain(*direction).to_owned()),
        Rule::Branch { chain, .. } | Rule::PortBranch { chain, .. } => Some(chain.clone()),
        _ => None,
    });
    let below = next.map(|chain| 1 + jumps_from(tables, &tables.chains[&chain]));
    below.max().unwrap_or(0)
}

/// Isolated pods of this node at these addresses, at each of which a few thousand ranges that overlap are granted, to
/// somebody else each.
fn world(addresses: impl Iterator<Item = IpAddr>) -> World {
    let rule = |number: u16| PolicyRule {
        peers: Some(vec![Peer::Block(IpBlock {
            cidr: IpAddr::from(Ipv4Addr::from(0x0b00_0000 + u32::from(number))).into(),
            except: vec![],
        })]),
        ports: Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: Some(PortSpec::Range(1 + number, 30_000 + number)),
        }]),
    };
    let pods = addresses.enumerate().map(|(number, address)| {
        pod(
            &format!("api-{number}"),
            &[("api", "")],
            NODE,
            &address.to_string(),
        )
    });
    let rules: Vec<PolicyRule> = (0..4_000).map(rule).collect();
    let policy = Policy {
        ingress: Some(rules.clone()),
        egress: Some(rules),
        ..policy("api", "api", &[])
    };
    small_world(pods.collect(), vec![policy])
}

#[test]
fn no_packet_jumps_more_often_than_nftables_allows() {
    let dense = (0..500_u32).map(|number| IpAddr::from(Ipv4Addr::from(0x0a00_0100 + number)));
    // Each tells itself from all before by a bit further left.
    let apart = (0..64).map(|bit| IpAddr::from(Ipv6Addr::from((0xfd_u128 << 120) + (1 << bit))));
    for (what, world) in [("dense", world(dense)), ("far apart", world(apart))] {
        let options = Options {
            gate_unknown_pods: true,
            ..Options::default()
        };
        for (family, tables) in ruleset(&world, &options).families {
            let deepest = jumps_from(&tables, &tables.hooks[&Hook::Forward]);
            assert!(deepest <= JUMPS, "{what}, {family}: {deepest}");
            let trees = DIRECTIONS.map(|direction| tables.chains[names::root(direction)].len());
            assert!(
                trees.into_iter().all(|rules| rules < 100),
                "{what}, {family}: {trees:?}"
            );
        }
    }
}
