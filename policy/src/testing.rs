//! Random worlds and flows for property tests.
//!
//! The worlds are small and collide a lot on purpose: few labels, few ports, addresses that are reused, so that random
//! flows meet random rules often.

mod bytes;
pub mod fuzz;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::evaluate::Flow;
use crate::labels::{Labels, Operator, Requirement, Selector};
use crate::model::{
    ContainerPort, IpBlock, Namespace, Node, ObjectKey, Peer, Pod, Policy, PortMatch, PortSpec, Protocol,
    Rule,
};
use crate::resolve::incremental::Event;
use crate::resolve::{Isolation, LocalPod, resolve};
use crate::world::World;

/// How many cases a property test tries: `short`, or `long` where the environment has `RINGFENCE_LONG`.
pub fn cases(short: u32, long: u32) -> ProptestConfig {
    let cases = if std::env::var_os("RINGFENCE_LONG").is_some() {
        long
    } else {
        short
    };
    // Without a file of past failures: a failure that matters gets a test of its own.
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What the compiled form of every node says about a flow, with the two exceptions that no policy can forbid.
pub fn resolved_allows(world: &World, flow: &Flow) -> bool {
    let own_node = |pod_side: IpAddr, other| {
        // Only what a pod sends to its node can be policed, not what comes from there.
        if world.polices_own_node && pod_side == flow.source {
            return false;
        }
        let node = world.pod_at(pod_side).and_then(|pod| pod.node.as_ref());
        node.and_then(|node| world.nodes.get(node))
            .is_some_and(|node| node.addresses.contains(&other))
    };
    let allows = |own: IpAddr, other: IpAddr, pod: &LocalPod, isolation: &Option<Arc<Isolation>>| {
        let concerned = pod.addresses.contains(&own) && own != other && !own_node(own, other);
        let isolation = isolation.as_ref().filter(|_| concerned);
        isolation.is_none_or(|isolation| isolation.allows(other, flow.protocol, flow.port))
    };
    let nodes = world.nodes.keys().flat_map(|node| resolve(world, node).pods);
    nodes.into_iter().all(|(_, pod)| {
        allows(flow.source, flow.destination, &pod, &pod.egress)
            && allows(flow.destination, flow.source, &pod, &pod.ingress)
    })
}

/// Labels that meet a selector's positive requirements.
fn meeting(selector: &Selector) -> Labels {
    let wanted = selector
        .requirements()
        .filter_map(|requirement| match &requirement.operator {
            Operator::In(values) => Some((requirement.key.clone(), values.first()?.clone())),
            Operator::Exists => Some((requirement.key.clone(), String::new())),
            Operator::NotIn(_) | Operator::DoesNotExist => None,
        });
    wanted.collect()
}

/// A world with some flows in it.
pub fn world_and_flows(flows: usize) -> impl Strategy<Value = (World, Vec<Flow>)> {
    world().prop_flat_map(move |world| {
        let flows = prop::collection::vec(flow(&world), flows);
        (Just(world), flows)
    })
}

const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const NAMESPACES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const NODES: [&str; 3] = ["node-0", "node-1", "node-2"];
const PORT_NAMES: [&str; 3] = ["http", "metrics", "dns"];
const PORTS: [u16; 6] = [1, 53, 80, 81, 8080, 65535];
const OUTSIDE: [&str; 4] = ["203.0.113.7", "198.51.100.1", "2001:db8::7", "192.168.1.1"];

/// A world of up to four namespaces, three nodes, twelve pods and six policies.
pub fn world() -> impl Strategy<Value = World> {
    let namespaces = subsequence(NAMESPACES.to_vec(), 1..=NAMESPACES.len());
    let namespaces = namespaces.prop_flat_map(|names| {
        let labels = prop::collection::vec(labels(), names.len());
        (Just(names), labels)
    });
    let pods = prop::collection::vec(pod(), 0..12);
    let policies = prop::collection::vec(policy(), 0..6);
    let polices_own_node = prop::bool::weighted(0.2);
    (namespaces, pods, policies, polices_own_node).prop_map(
        |((names, labels), pods, policies, polices_own_node)| {
            let mut world = World {
                polices_own_node,
                ..World::default()
            };
            for (name, mut labels) in names.iter().zip(labels) {
                labels.insert("kubernetes.io/metadata.name".to_owned(), (*name).to_owned());
                world.insert_namespace(Namespace {
                    name: (*name).to_owned(),
                    labels,
                });
            }
            for (index, name) in NODES.iter().enumerate() {
                world.insert_node(Node {
                    name: (*name).to_owned(),
                    addresses: node_addresses(index),
                });
            }
            let pods = pods
                .into_iter()
                .filter(|pod| names.contains(&pod.key.namespace.as_str()));
            pods.for_each(|pod| world.insert_pod(pod));
            let policies = policies
                .into_iter()
                .filter(|policy| names.contains(&policy.key.namespace.as_str()));
            policies.for_each(|policy| world.insert_policy(policy));
            world
        },
    )
}

/// A flow between addresses of `world`, or of its nodes, or from outside it.
pub fn flow(world: &World) -> BoxedStrategy<Flow> {
    let mut addresses: Vec<IpAddr> = OUTSIDE.iter().filter_map(|text| text.parse().ok()).collect();
    addresses.extend(
        world
            .nodes
            .values()
            .flat_map(|node| node.addresses.iter().copied()),
    );
    // Pods four times: most flows should meet one.
    for _ in 0..4 {
        addresses.extend(world.pods.values().flat_map(|pod| pod.addresses.iter().copied()));
    }
    let ports = [0, 1, 2, 53, 79, 80, 81, 82, 8080, 8081, 65534, 65535];
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let ends = prop_oneof![
        3 => (select(v4.clone()), select(v4)),
        1 => (select(v6.clone()), select(v6)),
    ];
    (ends, protocol(), select(ports.to_vec()))
        .prop_map(|((source, destination), protocol, port)| Flow {
            source,
            destination,
            protocol,
            port,
        })
        .boxed()
}

/// Something that happens to one of the pods, namespaces and policies of a world.
pub fn event() -> impl Strategy<Value = Event> {
    let name = || select(NAMESPACES.to_vec());
    prop_oneof![
        6 => pod().prop_map(Event::Pod),
        2 => pod().prop_map(|pod| Event::PodGone(pod.key)),
        3 => policy().prop_map(Event::Policy),
        1 => policy().prop_map(|policy| Event::PolicyGone(policy.key)),
        2 => (name(), labels()).prop_map(|(name, labels)| Event::Namespace(Namespace { name: name.to_owned(), labels })),
        1 => name().prop_map(|name| Event::NamespaceGone(name.to_owned())),
    ]
}

/// Labels of two keys and three values.
pub fn labels() -> impl Strategy<Value = Labels> {
    let pair = (select(KEYS.to_vec()), select(VALUES.to_vec()));
    prop::collection::btree_map(
        pair.clone().prop_map(|(k, _)| k.to_owned()),
        pair.prop_map(|(_, v)| v.to_owned()),
        0..=2,
    )
}

/// A selector with up to two requirements.
pub fn selector() -> impl Strategy<Value = Selector> {
    let values = prop::collection::btree_set(select(VALUES.to_vec()).prop_map(str::to_owned), 1..3);
    let operator = prop_oneof![
        4 => values.clone().prop_map(Operator::In),
        1 => values.prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement = (select(KEYS.to_vec()), operator).prop_map(|(key, operator)| Requirement {
        key: key.to_owned(),
        operator,
    });
    prop::collection::vec(requirement, 0..=2).prop_map(Selector::new)
}

/// A pod; its name and addresses come from a small range, so pods replace each other and addresses are reused.
pub fn pod() -> impl Strategy<Value = Pod> {
    let identity = (
        select(NAMESPACES.to_vec()),
        0u8..4,
        select(vec![0usize, 1, 2]),
        1u8..7,
        0u8..4,
    );
    let ports = prop::collection::btree_set(container_port(), 0..4);
    let rare = || prop::bool::weighted(0.1);
    (identity, labels(), ports, rare(), rare(), rare()).prop_map(
        |((namespace, name, node, host, families), labels, ports, host_network, finished, terminating)| {
            let pod_addresses = pod_addresses(node, host);
            let addresses = match families {
                0 => pod_addresses.to_vec(),
                1 => vec![pod_addresses[1]],
                _ => vec![pod_addresses[0]],
            };
            Pod {
                key: ObjectKey::new(namespace, format!("pod-{name}")),
                uid: format!("{namespace}-{name}-{node}-{host}"),
                labels,
                node: Some(NODES[node].to_owned()),
                addresses: if host_network {
                    node_addresses(node)
                } else {
                    addresses
                },
                host_network,
                finished,
                terminating,
                ports: ports.into_iter().collect(),
                service_account: "default".to_owned(),
            }
        },
    )
}

/// A policy with up to three rules in each direction that it governs.
pub fn policy() -> impl Strategy<Value = Policy> {
    let rules = || prop::option::weighted(0.7, prop::collection::vec(rule(), 0..3));
    (select(NAMESPACES.to_vec()), 0u8..3, selector(), rules(), rules()).prop_map(
        |(namespace, name, pod_selector, ingress, egress)| Policy {
            key: ObjectKey::new(namespace, format!("policy-{name}")),
            uid: format!("{namespace}-{name}"),
            pod_selector,
            ingress,
            egress,
        },
    )
}

/// A rule with up to two peers and two ports.
pub fn rule() -> impl Strategy<Value = Rule> {
    let peers = prop::option::weighted(0.8, prop::collection::vec(peer(), 1..3));
    let ports = prop::option::weighted(0.7, prop::collection::vec(port_match(), 1..3));
    (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports })
}

/// A peer of any kind.
pub fn peer() -> impl Strategy<Value = Peer> {
    let pods = (prop::option::of(selector()), prop::option::of(selector())).prop_map(|(namespaces, pods)| {
        // A peer with neither selector does not exist in the API.
        let pods = if namespaces.is_none() {
            Some(pods.unwrap_or_default())
        } else {
            pods
        };
        Peer::Pods { namespaces, pods }
    });
    prop_oneof![3 => pods, 1 => block().prop_map(Peer::Block)]
}

/// A block of either family around the worlds' addresses, with up to two exceptions inside it.
pub fn block() -> impl Strategy<Value = IpBlock> {
    let candidates: Vec<IpNet> = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.244.0.0/16",
        "10.244.1.0/24",
        "10.244.1.2/31",
        "10.244.2.3/32",
        "172.30.0.0/24",
        "203.0.113.0/24",
        "192.168.0.0/16",
        "::/0",
        "fd24::/16",
        "fd24:1::/32",
        "fd24:1::2/127",
        "2001:db8::/32",
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect();
    let excepts = prop::collection::vec(select(candidates.clone()), 0..3);
    (select(candidates), excepts).prop_map(|(cidr, except)| {
        let inside = except
            .into_iter()
            .filter(|except| cidr.contains(except) && *except != cidr);
        IpBlock {
            cidr,
            except: inside.collect::<BTreeSet<_>>().into_iter().collect(),
        }
    })
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let spec = prop_oneof![
        3 => select(PORTS.to_vec()).prop_map(|port| Some(PortSpec::Range(port, port))),
        1 => (select(PORTS.to_vec()), select(PORTS.to_vec())).prop_map(|(a, b)| Some(PortSpec::Range(a.min(b), a.max(b)))),
        3 => select(PORT_NAMES.to_vec()).prop_map(|name| Some(PortSpec::Named(name.to_owned()))),
        1 => Just(None),
    ];
    (protocol(), spec).prop_map(|(protocol, port)| PortMatch { protocol, port })
}

fn container_port() -> impl Strategy<Value = ContainerPort> {
    let name = prop::option::weighted(0.8, select(PORT_NAMES.to_vec()).prop_map(str::to_owned));
    (name, protocol(), select(PORTS.to_vec())).prop_map(|(name, protocol, number)| ContainerPort {
        name,
        protocol,
        number,
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![3 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn pod_addresses(node: usize, host: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 244, node as u8, host)),
        IpAddr::V6(Ipv6Addr::new(0xfd24, node as u16, 0, 0, 0, 0, 0, host.into())),
    ]
}

fn node_addresses(index: usize) -> Vec<IpAddr> {
    let index = index as u8;
    vec![
        IpAddr::V4(Ipv4Addr::new(172, 30, 0, 3 + index)),
        IpAddr::V6(Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 3 + u16::from(index))),
    ]
}
