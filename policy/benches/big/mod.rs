//! A large world that looks like a cluster: every namespace has ten applications and ten policies, all with a default deny.

pub(crate) mod events;

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_policy::{ContainerPort, Labels, Namespace, Node, ObjectKey, Pod, Policy, Protocol, World};

/// A node whose pods are of as many namespaces as there are: every one needs isolations of its own.
pub(crate) const NODE: &str = "node-1";

/// A node with the same pods in every world: ten of each of the first ten namespaces, nine of one application and one of
/// another. So what it has to do with an event is the same however many other pods there are.
pub(crate) const SAME_NODE: &str = "node-0";

/// The pods of a node.
const PER_NODE: usize = 100;

/// The first of the pods of namespace 0 on [`SAME_NODE`]; eight others there are like it.
pub(crate) const LIKE_OTHERS: usize = 0;

/// The number of the pod of namespace 0 on [`SAME_NODE`] that no other pod there is like.
pub(crate) fn alone(namespaces: usize) -> usize {
    95 * namespaces
}

/// The address of the pod with this number.
pub(crate) fn address(number: usize) -> IpAddr {
    let bits = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + u32::try_from(number).unwrap_or(u32::MAX) + 1;
    IpAddr::V4(bits.into())
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

/// The node of the pod with this number: those of [`SAME_NODE`] first, the others all over the other nodes.
fn node(number: usize, namespaces: usize, pods: usize) -> usize {
    let (namespace, index) = (number % namespaces, number / namespaces);
    let is_same = match index / 10 {
        9 => index % 10 == (namespace + 5) % 10,
        _ => index % 10 == namespace,
    };
    if namespace < 10 && is_same {
        return 0;
    }
    let others = pods.div_ceil(PER_NODE) - 1;
    1 + (number + index) % others
}

/// The pod with this number: pods go around the namespaces.
pub(crate) fn pod(number: usize, namespaces: usize, pods: usize) -> Pod {
    let namespace = number % namespaces;
    let app = number / namespaces % 10;
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        protocol: Protocol::Tcp,
        number,
    };
    Pod {
        key: ObjectKey::new(format!("ns-{namespace}"), format!("pod-{number}")),
        uid: format!("uid-{number}"),
        labels: labels(&[
            ("app", format!("app-{app}")),
            ("tier", (if app < 5 { "front" } else { "back" }).to_owned()),
            ("pod-template-hash", format!("{:08x}", number * 7919)),
        ]),
        node: Some(format!("node-{}", node(number, namespaces, pods))),
        addresses: vec![address(number)],
        host_network: false,
        finished: false,
        terminating: false,
        ports: vec![
            port("http", 8080 + u16::try_from(number % 2).unwrap_or(0)),
            port("metrics", 9090),
        ],
        service_account: "default".to_owned(),
    }
}

/// The ten policies of a namespace: a default deny, then one for each application but the last.
fn policies(namespace: usize) -> Vec<Policy> {
    let team = namespace / 5;
    let texts = (0..10).map(|app| {
        let spec = match app {
            9 => "{podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{namespaceSelector: {matchLabels: \
                  {kubernetes.io/metadata.name: ns-0}}, podSelector: {matchLabels: {app: app-0}}}], ports: [{port: 53, \
                  protocol: UDP}, {port: 53}]}]}"
                .to_owned(),
            _ => format!(
                "{{podSelector: {{matchLabels: {{app: app-{app}}}}}, policyTypes: [Ingress, Egress], ingress: [{{from: \
                 [{{podSelector: {{matchLabels: {{app: app-{}}}}}}}, {{namespaceSelector: {{matchLabels: {{team: team-{team}}}}}, \
                 podSelector: {{matchLabels: {{tier: front}}}}}}], ports: [{{port: http}}]}}, {{from: [{{ipBlock: {{cidr: \
                 192.168.{app}.0/24, except: [192.168.{app}.128/25]}}}}], ports: [{{port: 8000, endPort: 8999}}]}}], egress: \
                 [{{to: [{{podSelector: {{matchLabels: {{app: app-{}}}}}}}], ports: [{{port: http}}]}}]}}",
                app + 1,
                (app + 3) % 10
            ),
        };
        format!("{{metadata: {{namespace: ns-{namespace}, name: policy-{app}}}, spec: {spec}}}")
    });
    let parsed = texts.map(|text| {
        let policy: NetworkPolicy = serde_yaml_ng::from_str(&text).expect("the text is YAML");
        Policy::from_api(&policy).expect("the policy is valid")
    });
    parsed.collect()
}

/// A world of so many pods and namespaces, with ten policies in each namespace.
pub(crate) fn world(pods: usize, namespaces: usize) -> World {
    let mut world = World::default();
    for number in 0..namespaces {
        let name = format!("ns-{number}");
        let labels = labels(&[
            ("kubernetes.io/metadata.name", name.clone()),
            ("team", format!("team-{}", number / 5)),
        ]);
        world.insert_namespace(Namespace { name, labels });
        policies(number)
            .into_iter()
            .for_each(|policy| world.insert_policy(policy));
    }
    for number in 0..pods.div_ceil(PER_NODE) {
        let bits = u32::from(Ipv4Addr::new(172, 16, 0, 1)) + u32::try_from(number).unwrap_or(u32::MAX);
        world.insert_node(Node {
            name: format!("node-{number}"),
            addresses: vec![IpAddr::V4(bits.into())],
        });
    }
    (0..pods).for_each(|number| world.insert_pod(pod(number, namespaces, pods)));
    world
}
