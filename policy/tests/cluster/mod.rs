//! A small cluster: `shop` has web and api, `other` has a pod labelled like web, two nodes.

#![allow(clippy::unwrap_used, dead_code)]

use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_policy::{
    ContainerPort, Flow, Labels, Namespace, Node, ObjectKey, Pod, Policy, Protocol, World, evaluate,
};

pub(crate) const WEB: &str = "10.244.1.2";
pub(crate) const API: &str = "10.244.1.3";
pub(crate) const OTHER: &str = "10.244.2.4"; // in namespace `other`, labelled like web
pub(crate) const OUTSIDE: &str = "203.0.113.7";
pub(crate) const NODE: &str = "172.30.0.3";
pub(crate) const OTHER_NODE: &str = "172.30.0.4";

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) fn pod(namespace: &str, name: &str, app: &str, node: &str, address: &str) -> Pod {
    let port = |name: &str, protocol, number| ContainerPort {
        name: Some(name.to_owned()),
        protocol,
        number,
    };
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: name.to_owned(),
        labels: labels(&[("app", app)]),
        node: Some(node.to_owned()),
        addresses: vec![address.parse().unwrap()],
        host_network: false,
        finished: false,
        terminating: false,
        ports: if app == "api" {
            vec![
                port("http", Protocol::Tcp, 8080),
                port("dns", Protocol::Udp, 5353),
            ]
        } else {
            vec![port("http", Protocol::Tcp, 80)]
        },
        service_account: "default".to_owned(),
    }
}

/// `shop` has web and api, `other` has a pod labelled like web.
pub(crate) fn world(policies: &[&str]) -> World {
    let mut world = World::default();
    for (name, address) in [("node-a", NODE), ("node-b", OTHER_NODE)] {
        world.insert_node(Node {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
        });
    }
    for name in ["shop", "other"] {
        let labels = labels(&[("kubernetes.io/metadata.name", name), ("team", name)]);
        world.insert_namespace(Namespace {
            name: name.to_owned(),
            labels,
        });
    }
    world.insert_pod(pod("shop", "web", "web", "node-a", WEB));
    world.insert_pod(pod("shop", "api", "api", "node-a", API));
    world.insert_pod(pod("other", "web", "web", "node-b", OTHER));
    for (index, spec) in policies.iter().enumerate() {
        let yaml = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: shop, name: p{index}}}, spec: {spec}}}"
        );
        let policy: NetworkPolicy = serde_yaml_ng::from_str(&yaml).unwrap();
        world.insert_policy(Policy::from_api(&policy).unwrap());
    }
    world
}

pub(crate) fn allowed(world: &World, from: &str, to: &str, protocol: Protocol, port: u16) -> bool {
    evaluate(world, &flow(from, to, protocol, port)).allowed()
}

pub(crate) fn flow(from: &str, to: &str, protocol: Protocol, port: u16) -> Flow {
    Flow {
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        protocol,
        port,
    }
}

/// Who reaches the api pod on TCP 8080, of web, the other namespace, and the outside.
pub(crate) fn reaches_api(policies: &[&str]) -> [bool; 3] {
    let world = world(policies);
    [WEB, OTHER, OUTSIDE].map(|from| allowed(&world, from, API, Protocol::Tcp, 8080))
}

pub(crate) const EVERYONE: [bool; 3] = [true, true, true];
pub(crate) const NOBODY: [bool; 3] = [false, false, false];

/// The field for which a policy is refused; what cannot be read closes in both directions.
pub(crate) fn refused(spec: &str) -> String {
    let yaml = format!("{{metadata: {{namespace: shop, name: bad}}, spec: {spec}}}");
    let policy: NetworkPolicy = serde_yaml_ng::from_str(&yaml).unwrap();
    let closed = Policy::closed(&policy);
    assert_eq!((closed.ingress, closed.egress), (Some(vec![]), Some(vec![])));
    Policy::from_api(&policy).unwrap_err().field
}
