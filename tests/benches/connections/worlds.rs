//! The worlds whose rules are compared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::{Planner, Stale};
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{
    Compiled, IpBlock, Namespace, ObjectKey, Operator, Peer, Pod, Policy, PortMatch, PortSpec, Protocol,
    Requirement, Rule, Selector, World, resolve,
};
use ringfence_tests::net_lab::NetLab;

/// The numbers of the two pods that talk: those of the laboratory. Up to 255 are on this node, the others elsewhere.
pub(crate) const CLIENT: u16 = 0;
pub(crate) const SERVER: u16 = 1;
/// The port that is served and granted, TCP and UDP.
pub(crate) const PORT: u16 = 8080;
/// The port, next to it, that takes whatever is written: it is open only where nothing is enforced, or before.
pub(crate) const BULK: u16 = 8081;
/// A port that is served, and never granted.
pub(crate) const FORBIDDEN: u16 = 9;

const NODE: &str = "here";

/// The addresses of a pod.
fn addresses(number: u16) -> Vec<IpAddr> {
    let [high, low] = number.to_be_bytes();
    match low {
        _ if number <= SERVER => NetLab::addresses(low).to_vec(),
        _ => vec![
            [10, 245, high, low].into(),
            [0xfd00, 0x245, 0, 0, 0, 0, high.into(), low.into()].into(),
        ],
    }
}

/// A world to measure, by the name it is printed with.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// `None` is no enforcer at all.
    pub(crate) rules: Option<Ruleset>,
}

/// The cases that the targets speak of. Those without an enforcer come twice: what differs between them is noise.
pub(crate) fn targets() -> Vec<Case> {
    vec![
        Case {
            name: NONE,
            rules: None,
        },
        case(ONE, &[CLIENT, SERVER], one_policy()),
        one_revoked(),
        case(THOUSAND, &[CLIENT, SERVER], thousand_policies()),
        case(CROWD, &(0..250).collect::<Vec<_>>(), one_policy_each()),
        Case {
            name: AGAIN,
            rules: None,
        },
    ]
}

pub(crate) const NONE: &str = "no enforcer";
pub(crate) const AGAIN: &str = "no enforcer, again";
pub(crate) const ONE: &str = "1 policy, 2 local pods";
const REVOKED: &str = "1 policy, another connection revoked";
pub(crate) const THOUSAND: &str = "1,000 policies, 2 local pods";
pub(crate) const CROWD: &str = "250 policies, 250 local pods";

/// The worst that policies can ask for: no target but a bound.
pub(crate) fn worst() -> Vec<Case> {
    vec![
        case(
            "every pod of 1,000 namespaces, 200 ports",
            &[CLIENT, SERVER],
            every_namespace(),
        ),
        case("ports 1-65535 of 1,000 pods", &[CLIENT, SERVER], every_port()),
        case(
            "1,000 policies, each a range of ports",
            &[CLIENT, SERVER],
            ranges(),
        ),
        case(
            "10,000 CIDRs of 13 lengths, with excepts",
            &[CLIENT, SERVER],
            blocks(),
        ),
    ]
}

fn case(name: &'static str, local: &[u16], world: World) -> Case {
    planned(name, local, world, false)
}

/// A connection of the node is revoked, so packets of all others are compared with the mark.
fn one_revoked() -> Case {
    planned(REVOKED, &[CLIENT, SERVER], one_policy(), true)
}

fn planned(name: &'static str, local: &[u16], mut world: World, revoked: bool) -> Case {
    for number in local {
        world.insert_pod(pod(*number, "load", *number));
    }
    let node = [IpAddr::from([172, 30, 0, 11])];
    let mut planner = Planner::new(&Family::ALL, &Options::default());
    planner.guard(revoked);
    let policies = resolve(&world, NODE);
    planner.update(&Compiled::from(&policies), &node, &Stale::everything());
    Case {
        name,
        rules: Some(planner.ruleset().clone()),
    }
}

fn world(namespaces: impl IntoIterator<Item = String>) -> World {
    let mut world = World::default();
    for name in namespaces.into_iter().chain(["load".to_owned()]) {
        world.insert_namespace(Namespace {
            name,
            labels: [("any".to_owned(), String::new())].into(),
        });
    }
    world
}

fn pod(number: u16, namespace: &str, group: u16) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, format!("pod-{number}")),
        uid: number.to_string(),
        labels: [
            ("group".to_owned(), group.to_string()),
            (
                "talks".to_owned(),
                (number == CLIENT || number == SERVER).to_string(),
            ),
        ]
        .into(),
        node: Some(if number < 256 { NODE } else { "elsewhere" }.to_owned()),
        addresses: addresses(number),
        host_network: false,
        finished: false,
        terminating: false,
        ports: vec![],
        service_account: "default".to_owned(),
    }
}

fn labelled(key: &str, value: &str) -> Selector {
    Selector::new(vec![Requirement {
        key: key.to_owned(),
        operator: Operator::In([value.to_owned()].into()),
    }])
}

/// The two pods that talk, as peers.
fn talkers() -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: Some(labelled("talks", "true")),
    }
}

fn ports(first: u16, last: u16) -> Vec<PortMatch> {
    [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| PortMatch {
            protocol,
            port: Some(PortSpec::Range(first, last)),
        })
        .to_vec()
}

/// A policy that isolates these pods in both directions and grants the same in both.
fn policy(number: u16, selects: Selector, peers: Vec<Peer>, ports: Vec<PortMatch>) -> Policy {
    let rules = vec![Rule {
        peers: Some(peers),
        ports: Some(ports),
    }];
    Policy {
        key: ObjectKey::new("load", format!("policy-{number}")),
        uid: number.to_string(),
        pod_selector: selects,
        ingress: Some(rules.clone()),
        egress: Some(rules),
    }
}

fn one_policy() -> World {
    let mut world = world([]);
    world.insert_policy(policy(0, Selector::default(), vec![talkers()], ports(PORT, PORT)));
    world
}

/// Each lets another group of pods in and out, at another port; one of them in the middle grants what is measured.
fn thousand_policies() -> World {
    let mut world = world([]);
    for number in 0..1_000 {
        let other = 1_000 + number;
        world.insert_pod(pod(other, "load", other));
        let (peer, port) = if number == 500 {
            (talkers(), PORT)
        } else {
            (
                Peer::Pods {
                    namespaces: None,
                    pods: Some(labelled("group", &other.to_string())),
                },
                if number < 500 { 2_000 } else { 10_000 } + number * 10,
            )
        };
        world.insert_policy(policy(number, Selector::default(), vec![peer], ports(port, port)));
    }
    world
}

/// Every pod has a policy of its own, so none shares another's chain.
fn one_policy_each() -> World {
    let mut world = world([]);
    for number in 0..250 {
        let own = labelled("group", &number.to_string());
        let own_peer = Peer::Pods {
            namespaces: None,
            pods: Some(own.clone()),
        };
        world.insert_policy(policy(number, own, vec![talkers(), own_peer], ports(PORT, PORT)));
    }
    world
}

/// All namespaces are granted 200 single ports.
fn every_namespace() -> World {
    let mut world = world((0..1_000).map(|number| format!("ns-{number}")));
    for number in 0..10_000 {
        world.insert_pod(pod(1_000 + number, &format!("ns-{}", number % 1_000), 0));
    }
    let everybody = Peer::Pods {
        namespaces: Some(Selector::default()),
        pods: None,
    };
    let ports = (0..200)
        .flat_map(|number| ports(PORT - 100 + number, PORT - 100 + number))
        .collect();
    world.insert_policy(policy(0, Selector::default(), vec![everybody], ports));
    world
}

fn every_port() -> World {
    let mut world = world([]);
    for number in 1_000..2_000 {
        world.insert_pod(pod(number, "load", 0));
    }
    // The port that must stay closed is left out.
    let all = [ports(1, FORBIDDEN - 1), ports(FORBIDDEN + 1, 65_535)].concat();
    let everybody = Peer::Pods {
        namespaces: None,
        pods: Some(Selector::default()),
    };
    world.insert_policy(policy(0, Selector::default(), vec![everybody], all));
    world
}

/// As the thousand policies, but each with a range: sets hold no ranges, so every one is a rule, and a tree finds it.
fn ranges() -> World {
    let mut world = thousand_policies();
    for policy in world.policies.values_mut() {
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
            for port in rule.ports.iter_mut().flatten() {
                if let Some(PortSpec::Range(first, last)) = &mut port.port {
                    *last = *first + 9;
                }
            }
        }
    }
    world
}

/// Blocks of thirteen lengths, each without a part: every length of a set's elements costs a look-up.
fn blocks() -> World {
    let mut world = world([]);
    let own = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16));
    let own6 = IpNet::from(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0),
        32,
    ));
    let mut peers: Vec<_> = [own, own6]
        .map(|cidr| Peer::Block(IpBlock { cidr, except: vec![] }))
        .into();
    for number in 0..10_000_u32 {
        let length = u8::try_from(16 + number % 13).unwrap_or(16);
        let first = 0x2000_0000_u32 + (number << 16);
        let cidr = Ipv4Net::new_assert(first.into(), length);
        let except = Ipv4Net::new_assert((first + 4).into(), 30);
        peers.push(Peer::Block(IpBlock {
            cidr: cidr.into(),
            except: vec![except.into()],
        }));
    }
    world.insert_policy(policy(0, Selector::default(), peers, ports(PORT, PORT)));
    world
}

/// How much is written for a case, both families together.
pub(crate) fn size(case: &Case) -> String {
    let tables = || case.rules.iter().flat_map(|rules| rules.families.values());
    let rules: usize = tables()
        .flat_map(|tables| tables.chains.values())
        .map(Vec::len)
        .sum();
    let sets: usize = tables().map(|tables| tables.sets.len()).sum();
    let elements: usize = tables()
        .flat_map(|tables| tables.sets.values())
        .map(|set| set.members.len())
        .sum();
    format!("{rules} rules, {sets} sets, {elements} elements")
}
