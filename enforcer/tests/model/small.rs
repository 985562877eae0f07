//! Small worlds, made by hand.

use ringfence_policy::{
    Namespace, ObjectKey, Operator, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Requirement, Rule,
    Selector, World,
};

pub(crate) fn pod(name: &str, labels: &[(&str, &str)], node: &str, address: &str) -> Pod {
    let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Pod {
        key: ObjectKey::new("default", name),
        uid: name.to_owned(),
        labels: labels.iter().map(label).collect(),
        node: Some(node.to_owned()),
        addresses: vec![address.parse().expect("an address")],
        host_network: false,
        finished: false,
        terminating: false,
        ports: vec![],
        service_account: "default".to_owned(),
    }
}

/// A policy for the pods with the label, that lets pods with the labels in, at TCP 80.
pub(crate) fn policy(name: &str, selects: &str, peers: &[&str]) -> Policy {
    let labelled = |key: &str| {
        Selector::new(vec![Requirement {
            key: key.to_owned(),
            operator: Operator::Exists,
        }])
    };
    let peer = |key: &&str| Peer::Pods {
        namespaces: None,
        pods: Some(labelled(key)),
    };
    Policy {
        key: ObjectKey::new("default", name),
        uid: name.to_owned(),
        pod_selector: labelled(selects),
        ingress: Some(vec![Rule {
            peers: Some(peers.iter().map(peer).collect()),
            ports: Some(vec![PortMatch {
                protocol: Protocol::Tcp,
                port: Some(PortSpec::Range(80, 80)),
            }]),
        }]),
        egress: None,
    }
}

pub(crate) fn small_world(pods: Vec<Pod>, policies: Vec<Policy>) -> World {
    let mut world = World::default();
    world.insert_namespace(Namespace {
        name: "default".to_owned(),
        labels: [].into(),
    });
    pods.into_iter().for_each(|pod| world.insert_pod(pod));
    policies
        .into_iter()
        .for_each(|policy| world.insert_policy(policy));
    world
}
