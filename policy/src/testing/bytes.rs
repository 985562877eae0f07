//! A world made from bytes, each choice from one of them: a byte more or less is a world that differs a little.

use std::collections::BTreeSet;

use super::{KEYS, NAMESPACES, NODES, OUTSIDE, PORT_NAMES, PORTS, VALUES, node_addresses, pod_addresses};
use crate::evaluate::Flow;
use crate::labels::{Labels, Operator, Requirement, Selector};
use crate::model::{
    ContainerPort, IpBlock, Namespace, Node, ObjectKey, Peer, Pod, Policy, PortMatch, PortSpec, Protocol,
    Rule,
};
use crate::world::World;

const BLOCKS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.244.1.0/24",
    "10.244.1.2/31",
    "203.0.113.0/24",
    "::/0",
    "fd24:1::/32",
    "2001:db8::/32",
];

/// Choices read from bytes; the first of everything when they are used up.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let (first, rest) = self
            .0
            .split_first()
            .map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        usize::from(first) % limit
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn list<T>(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| item(self)).collect()
    }

    fn maybe<T>(&mut self, item: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(4) > 0).then(|| item(self))
    }

    /// A world of up to twelve pods and six policies.
    pub(super) fn world(&mut self) -> World {
        let mut world = World::default();
        for (index, name) in NODES.iter().enumerate() {
            world.insert_node(Node {
                name: (*name).to_owned(),
                addresses: node_addresses(index),
            });
        }
        // Not every namespace that has pods and policies needs to be known.
        for namespace in self.list(4, Self::namespace) {
            world.insert_namespace(namespace);
        }
        for pod in self.list(12, Self::pod) {
            world.insert_pod(pod);
        }
        for policy in self.list(6, Self::policy) {
            world.insert_policy(policy);
        }
        world.polices_own_node = self.below(4) == 3;
        world
    }

    /// A flow between addresses of one family.
    pub(super) fn flow(&mut self, world: &World) -> Flow {
        let pods = world.pods.values().flat_map(|pod| pod.addresses.iter().copied());
        let nodes = world
            .nodes
            .values()
            .flat_map(|node| node.addresses.iter().copied());
        let outside = OUTSIDE.iter().filter_map(|text| text.parse().ok());
        let all: Vec<_> = pods.chain(nodes).chain(outside).collect();
        let source = self.one(&all);
        let same: Vec<_> = all
            .into_iter()
            .filter(|address| address.is_ipv4() == source.is_ipv4())
            .collect();
        Flow {
            source,
            destination: self.one(&same),
            protocol: self.protocol(),
            port: self.one(&PORTS),
        }
    }

    fn namespace(&mut self) -> Namespace {
        Namespace {
            name: self.one(&NAMESPACES).to_owned(),
            labels: self.labels(),
        }
    }

    fn labels(&mut self) -> Labels {
        let pairs = self.list(2, |choices| {
            (choices.one(&KEYS).to_owned(), choices.one(&VALUES).to_owned())
        });
        pairs.into_iter().collect()
    }

    fn pod(&mut self) -> Pod {
        let node = self.below(NODES.len());
        let addresses = pod_addresses(node, self.below(7) as u8);
        let host_network = self.below(10) == 9;
        Pod {
            key: ObjectKey::new(self.one(&NAMESPACES), format!("pod-{}", self.below(4))),
            uid: String::new(),
            labels: self.labels(),
            node: Some(NODES[node].to_owned()),
            addresses: if host_network {
                node_addresses(node)
            } else {
                addresses[self.below(2)..].to_vec()
            },
            host_network,
            finished: self.below(10) == 9,
            terminating: self.below(10) == 9,
            ports: self.list(3, |choices| ContainerPort {
                name: choices.maybe(|choices| choices.one(&PORT_NAMES).to_owned()),
                protocol: choices.protocol(),
                number: choices.one(&PORTS),
            }),
            service_account: "default".to_owned(),
        }
    }

    fn protocol(&mut self) -> Protocol {
        self.one(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
    }

    fn policy(&mut self) -> Policy {
        Policy {
            key: ObjectKey::new(self.one(&NAMESPACES), format!("policy-{}", self.below(3))),
            uid: String::new(),
            pod_selector: self.selector(),
            ingress: self.maybe(|choices| choices.list(2, Self::rule)),
            egress: self.maybe(|choices| choices.list(2, Self::rule)),
        }
    }

    fn selector(&mut self) -> Selector {
        Selector::new(self.list(2, |choices| {
            let values: BTreeSet<String> = [choices.one(&VALUES), choices.one(&VALUES)]
                .map(str::to_owned)
                .into();
            let operators = [
                Operator::In(values.clone()),
                Operator::NotIn(values),
                Operator::Exists,
                Operator::DoesNotExist,
            ];
            Requirement {
                key: choices.one(&KEYS).to_owned(),
                operator: choices.one(&operators),
            }
        }))
    }

    fn rule(&mut self) -> Rule {
        // An empty list is the same as none, and never in a rule.
        Rule {
            peers: Some(self.list(2, Self::peer)).filter(|peers| !peers.is_empty()),
            ports: Some(self.list(2, Self::port)).filter(|ports| !ports.is_empty()),
        }
    }

    fn peer(&mut self) -> Peer {
        if self.below(3) == 2 {
            return Peer::Block(self.block());
        }
        let namespaces = self.maybe(Self::selector);
        let pods = if namespaces.is_none() {
            Some(self.selector())
        } else {
            self.maybe(Self::selector)
        };
        Peer::Pods { namespaces, pods }
    }

    fn block(&mut self) -> IpBlock {
        let networks: Vec<ipnet::IpNet> = BLOCKS.iter().filter_map(|text| text.parse().ok()).collect();
        let cidr = self.one(&networks);
        let except = self.list(2, |choices| choices.one(&networks));
        IpBlock {
            cidr,
            except: except
                .into_iter()
                .filter(|except| cidr.contains(except) && cidr != *except)
                .collect(),
        }
    }

    fn port(&mut self) -> PortMatch {
        let protocol = self.protocol();
        let (one, two) = (self.one(&PORTS), self.one(&PORTS));
        let named = PortSpec::Named(self.one(&PORT_NAMES).to_owned());
        let port = self.one(&[
            Some(PortSpec::Range(one, one)),
            Some(PortSpec::Range(one.min(two), one.max(two))),
            Some(named),
            None,
        ]);
        PortMatch { protocol, port }
    }
}
