//! How much the worst policies ask of the kernel: numbers of rules and elements, never of time.

use std::net::{IpAddr, Ipv4Addr};

use ringfence_enforcer::names;
use ringfence_enforcer::options::{DEFAULT_REVOKED_MARK, Options};
use ringfence_enforcer::plan::DIRECTIONS;
use ringfence_enforcer::rules::{PORT_SLOTS, Rule};
use ringfence_enforcer::ruleset::{Family, Hook, Ruleset, Tables};
use ringfence_policy::{
    IpBlock, Namespace, ObjectKey, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Rule as PolicyRule,
    Selector, World,
};

use super::small::{pod, policy, small_world};
use super::{NODE, ruleset};

/// Everything together, of one family.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    rules: usize,
    elements: usize,
}

fn size(tables: &Tables) -> Size {
    Size {
        rules: tables.chains.values().map(Vec::len).sum(),
        elements: tables.sets.values().map(|set| set.members.len()).sum(),
    }
}

fn v4(world: &World) -> Tables {
    let mut ruleset: Ruleset = ruleset(world, &Options::default());
    ruleset.families.remove(&Family::V4).expect("it is enforced")
}

/// A rule more or less, and an address in a gate, are not what these tests are about.
const FEW: usize = 40;

fn peer(number: u32) -> Pod {
    let address = Ipv4Addr::from(0x0a80_0000 + number);
    pod(
        &format!("peer-{number}"),
        &[("peer", "")],
        "node-b",
        &address.to_string(),
    )
}

fn api() -> Pod {
    pod("api", &[("api", "")], NODE, "10.0.0.1")
}

/// The pod isolated by one policy, which lets these peers in at these ports.
fn granting(peers: Vec<Peer>, ports: Vec<PortMatch>, others: impl Iterator<Item = Pod>) -> World {
    let rule = PolicyRule {
        peers: Some(peers),
        ports: Some(ports),
    };
    let policy = Policy {
        ingress: Some(vec![rule]),
        ..policy("api", "api", &[])
    };
    small_world(others.chain([api()]).collect(), vec![policy])
}

fn everybody() -> Peer {
    Peer::Pods {
        namespaces: Some(Selector::everything()),
        pods: None,
    }
}

fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch {
        protocol: Protocol::Tcp,
        port: Some(PortSpec::Range(first, last)),
    }
}

#[test]
fn every_namespace_times_two_hundred_ports_is_not_multiplied_out() {
    let others = (0..10_000).map(|number| Pod {
        key: ObjectKey::new(format!("ns-{}", number % 1_000), format!("pod-{number}")),
        ..peer(number)
    });
    let ports: Vec<u16> = (0..200).map(|number| 8_000 + 2 * number).collect();
    let matches = ports.iter().map(|port| tcp(*port, *port)).collect();
    let mut world = granting(vec![everybody()], matches, others);
    for number in 0..1_000 {
        world.insert_namespace(Namespace {
            name: format!("ns-{number}"),
            labels: [].into(),
        });
    }
    let size = size(&v4(&world));
    assert!(size.rules <= ports.len().div_ceil(PORT_SLOTS) + FEW, "{size:?}");
    // The peers, the pod itself among them, and its address in the gate.
    assert_eq!(size.elements, 10_000 + 2);
}

#[test]
fn a_range_of_every_port_is_one_rule() {
    let world = granting(vec![everybody()], vec![tcp(1, 65_535)], (0..100).map(peer));
    let size = size(&v4(&world));
    assert!(size.rules <= 1 + FEW, "{size:?}");
    assert_eq!(size.elements, 100 + 2);
}

#[test]
fn ten_thousand_blocks_with_exceptions_are_one_set() {
    let net = |bits: u32, length| ipnet::IpNet::new_assert(IpAddr::from(bits.to_be_bytes()), length);
    let blocks = (0..10_000_u32).map(|number| {
        let first = 0x2000_0000 + (number << 16);
        Peer::Block(IpBlock {
            cidr: net(first, 16),
            except: vec![net(first + 4, 30)],
        })
    });
    let world = granting(blocks.collect(), vec![tcp(80, 80), tcp(443, 443)], [].into_iter());
    let size = size(&v4(&world));
    assert!(size.rules <= 1 + FEW, "{size:?}");
    // A /16 without a /30 is one network of each length between them.
    assert_eq!(size.elements, 10_000 * 14 + 1);
}

#[test]
fn a_thousand_policies_are_as_many_rules_as_one() {
    let sized = |count: u16| {
        let others = (0..1_000).map(|number| {
            let own = format!("peer-{number}");
            let labels = [(own, String::new())].into();
            Pod {
                labels,
                ..peer(number)
            }
        });
        let policies = (0..count).map(|number| {
            let name = format!("peer-{number}");
            let mut policy = policy(&name, "api", &[&name]);
            for rule in policy.ingress.iter_mut().flatten() {
                rule.ports = Some(vec![tcp(1_000 + number, 1_000 + number)]);
            }
            policy
        });
        size(&v4(&small_world(
            others.chain([api()]).collect(),
            policies.collect(),
        )))
    };
    let (one, thousand) = (sized(1), sized(1_000));
    assert_eq!(thousand.rules, one.rules);
    assert_eq!(thousand.elements, one.elements + 999);
}

/// A thousand policies, each for a peer of its own, at the ports that are told.
fn ranges_for_a_thousand_peers(span: impl Fn(u16) -> (u16, u16)) -> World {
    let named = |number: u16| format!("peer-{number}");
    let others = (0..1_000).map(|number| Pod {
        labels: [(named(number), String::new())].into(),
        ..peer(number.into())
    });
    let policies = (0..1_000).map(|number| {
        let mut policy = policy(&named(number), "api", &[&named(number)]);
        for rule in policy.ingress.iter_mut().flatten() {
            let (first, last) = span(number);
            rule.ports = Some(vec![tcp(first, last)]);
        }
        policy
    });
    small_world(others.chain([api()]).collect(), policies.collect())
}

#[test]
fn a_thousand_ranges_are_one_rule_each_and_some_to_find_them() {
    let size = size(&v4(&ranges_for_a_thousand_peers(|number| {
        (2_000 + 10 * number, 2_009 + 10 * number)
    })));
    assert!(size.rules <= 2_000 + FEW, "{size:?}");
    assert_eq!(size.elements, 1_000 + 1);
}

/// Each port in the middle is granted to all peers, and each range begins and ends where no other does.
#[test]
fn a_thousand_ranges_that_overlap_stay_within_the_bound_of_elements() {
    let world = ranges_for_a_thousand_peers(|number| (1 + number, 30_000 + number));
    let options = Options::default();
    let tables = v4(&world);
    let size = size(&tables);
    assert!(size.elements <= options.flat_entries + 1_000 + 1, "{size:?}");
    assert!(size.rules <= 4 * 1_000 + FEW, "{size:?}");
    // Beyond the bound a rule for each peer stands in for the set of them all: more rules, and no more elements than peers.
    let none = Options {
        flat_entries: 0,
        ..options
    };
    let mut ruleset = ruleset(&world, &none);
    let tables = ruleset.families.remove(&Family::V4).expect("it is enforced");
    let size = self::size(&tables);
    assert_eq!(size.elements, 1_000 + 1);
    assert!(size.rules <= 2 * 11 * 1_000 + FEW, "{size:?}");
}

#[test]
fn a_packet_of_a_known_connection_meets_no_chain_and_exceptions_come_after_grants() {
    let world = small_world(vec![api()], vec![policy("api", "api", &["web"])]);
    for (family, tables) in ruleset(&world, &Options::default()).families {
        let mark = DEFAULT_REVOKED_MARK;
        let ways_in = [(Hook::Forward, vec![Rule::EnterRevoked { mark }, Rule::Enter])];
        assert_eq!(tables.hooks, ways_in.into(), "{family}");
        for direction in DIRECTIONS {
            let last = &tables.chains[names::drop_chain(direction)];
            assert!(
                matches!(last.first(), Some(Rule::RelatedIcmp(_))),
                "{family}: {last:?}"
            );
            let tree = &tables.chains[names::root(direction)];
            assert!(tree.iter().all(|rule| rule.set().is_none()), "{family}: {tree:?}");
        }
    }
}
