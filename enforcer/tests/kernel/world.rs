//! Small worlds for the laboratory: pod `i` has the addresses of the laboratory's pod `i`.

use ringfence_enforcer::cluster::{Kind, Object, Update};
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::plan;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{
    IpBlock, Namespace, ObjectKey, Operator, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Requirement,
    Rule, Selector, World, resolve,
};

use super::net::Lab;

/// The node under test. Pods 0 and 1 run on it, the others elsewhere.
pub(crate) const NODE: &str = "here";

/// A world with so many pods, labelled `pod=0` and so on, and these policies.
pub(crate) fn world(pods: u8, policies: Vec<Policy>) -> World {
    let mut world = World::default();
    world.insert_namespace(Namespace {
        name: "default".to_owned(),
        labels: [].into(),
    });
    (0..pods).for_each(|number| world.insert_pod(pod(number)));
    policies
        .into_iter()
        .for_each(|policy| world.insert_policy(policy));
    world
}

/// What the API server's watches tell of a world, list by list.
pub(crate) fn updates(world: &World) -> Vec<Update> {
    let pods = world.pods.values().cloned().map(Object::Pod);
    let namespaces = world.namespaces.values().cloned().map(Object::Namespace);
    let policies = world.policies.values().cloned().map(Object::Policy);
    Update::list(Kind::Pod, pods)
        .chain(Update::list(Kind::Namespace, namespaces))
        .chain(Update::list(Kind::Policy, policies))
        .chain(Update::list(Kind::Node, []))
        .collect()
}

/// The rules of the node under test.
pub(crate) fn ruleset(world: &World) -> Ruleset {
    plan(&resolve(world, NODE), &[], &Family::ALL, &Options::default())
}

fn pod(number: u8) -> Pod {
    Pod {
        key: ObjectKey::new("default", format!("pod-{number}")),
        uid: number.to_string(),
        labels: [("pod".to_owned(), number.to_string())].into(),
        node: Some(if number < 2 { NODE } else { "elsewhere" }.to_owned()),
        addresses: Lab::addresses(number).to_vec(),
        host_network: false,
        finished: false,
        terminating: false,
        ports: vec![],
        service_account: "default".to_owned(),
    }
}

/// The pods with these numbers.
pub(crate) fn pods(numbers: &[u8]) -> Selector {
    let values = numbers.iter().map(u8::to_string).collect();
    Selector::new(vec![Requirement {
        key: "pod".to_owned(),
        operator: Operator::In(values),
    }])
}

/// Pods as peers.
pub(crate) fn peers(numbers: &[u8]) -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: Some(pods(numbers)),
    }
}

/// A network without parts as a peer.
pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    let net = |text: &str| text.parse().expect("a network");
    Peer::Block(IpBlock {
        cidr: net(cidr),
        except: except.iter().map(|text| net(text)).collect(),
    })
}

/// Ports from the first to the last.
pub(crate) fn ports(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch {
        protocol,
        port: Some(PortSpec::Range(first, last)),
    }
}

/// A rule for these peers and ports; none is all.
pub(crate) fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> Rule {
    Rule {
        peers: (!peers.is_empty()).then_some(peers),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// A policy for some pods.
pub(crate) fn policy(
    name: &str,
    selects: &[u8],
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
) -> Policy {
    Policy {
        key: ObjectKey::new("default", name),
        uid: name.to_owned(),
        pod_selector: pods(selects),
        ingress,
        egress,
    }
}
