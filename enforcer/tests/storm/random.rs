//! Random objects and changes, of few names and labels, so that most of them matter.

use fastrand::Rng;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_policy::{Namespace, ObjectKey, Pod, Policy, World};
use ringfence_tests::net_lab::NetLab;
use serde_json::{Value, json};

use crate::lab::NODE;

/// The namespaces.
pub(crate) const NAMESPACES: [&str; 2] = ["red", "blue"];
/// The pods that are probed, each with the number of its place in the laboratory.
pub(crate) const PODS: u8 = 5;
/// Those with a smaller number run on the node.
pub(crate) const LOCAL: u8 = 3;
/// The ports that are probed.
pub(crate) const PORTS: [u16; 2] = [7000, 7001];

const APPS: [&str; 3] = ["web", "api", "db"];
const POLICIES: usize = 4;

/// Something that is done to an object.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A pod is another: same name and place, new labels and namespace, new UID, which takes over the address.
    Replace {
        place: u8,
        namespace: &'static str,
        app: &'static str,
    },
    /// A pod gets a label.
    Label { place: u8, app: &'static str },
    /// A pod goes, if it is there.
    Remove { place: u8 },
    /// A namespace gets a label.
    LabelNamespace {
        namespace: &'static str,
        team: &'static str,
    },
    /// A policy is written.
    Write(Box<NetworkPolicy>),
    /// A policy goes, if it is there.
    Delete { namespace: &'static str, name: String },
}

pub(crate) fn change(random: &mut Rng) -> Change {
    let place = random.u8(0..PODS);
    match random.u8(0..20) {
        0..=1 => Change::Replace {
            place,
            namespace: one(random, &NAMESPACES),
            app: one(random, &APPS),
        },
        2..=7 => Change::Label {
            place,
            app: one(random, &APPS),
        },
        8 => Change::Remove { place },
        9..=10 => Change::LabelNamespace {
            namespace: one(random, &NAMESPACES),
            team: one(random, &["a", "b"]),
        },
        11..=16 => Change::Write(Box::new(policy(random))),
        _ => Change::Delete {
            namespace: one(random, &NAMESPACES),
            name: policy_name(random),
        },
    }
}

fn one<T: Copy>(random: &mut Rng, of: &[T]) -> T {
    of[random.usize(0..of.len())]
}

fn policy_name(random: &mut Rng) -> String {
    format!("policy-{}", random.usize(0..POLICIES))
}

fn policy(random: &mut Rng) -> NetworkPolicy {
    let types = match random.u8(0..4) {
        0 => json!(["Ingress"]),
        1 => json!(["Egress"]),
        _ => json!(["Ingress", "Egress"]),
    };
    let mut spec = json!({"podSelector": selector(random), "policyTypes": types});
    for (direction, sides) in [("ingress", "from"), ("egress", "to")] {
        if types.to_string().to_lowercase().contains(direction) {
            let rules: Vec<Value> = (0..random.usize(0..3)).map(|_| rule(random, sides)).collect();
            spec[direction] = Value::Array(rules);
        }
    }
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": one(random, &NAMESPACES), "name": policy_name(random)},
        "spec": spec,
    });
    serde_json::from_value(value).expect("a policy")
}

fn rule(random: &mut Rng, sides: &str) -> Value {
    let mut rule = json!({});
    if random.u8(0..5) > 0 {
        rule[sides] = (0..random.usize(1..3)).map(|_| peer(random)).collect();
    }
    match random.u8(0..4) {
        0 => {}
        1 => rule["ports"] = json!([{"protocol": "UDP", "port": 7000, "endPort": 7001}]),
        _ => rule["ports"] = json!([{"protocol": "UDP", "port": one(random, &PORTS)}]),
    }
    rule
}

fn peer(random: &mut Rng) -> Value {
    match random.u8(0..8) {
        0 => {
            json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": [format!("10.244.{}.0/24", random.u8(0..PODS))]}})
        }
        1 => json!({"ipBlock": {"cidr": format!("fd00:244:0:{:x}::/64", random.u8(0..PODS))}}),
        2 => json!({"namespaceSelector": {}}),
        3..=4 => {
            json!({"namespaceSelector": {"matchLabels": {"team": one(random, &["a", "b"])}}, "podSelector": selector(random)})
        }
        _ => json!({"podSelector": selector(random)}),
    }
}

fn selector(random: &mut Rng) -> Value {
    match random.u8(0..4) {
        0 => json!({}),
        1 => {
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [one(random, &APPS)]}]})
        }
        _ => json!({"matchLabels": {"app": one(random, &APPS)}}),
    }
}

impl Change {
    /// The worlds that this makes of one, one after the other.
    pub(crate) fn states(&self, world: &World) -> Vec<World> {
        let mut next = world.clone();
        let mut states = Vec::new();
        match self {
            Self::Replace {
                place,
                namespace,
                app,
            } => {
                remove(*place, &mut next);
                states.push(next.clone());
                next.insert_pod(pod(*place, namespace, app));
            }
            Self::Label { place, app } => {
                if let Some(old) = world.pod_at(NetLab::addresses(*place)[0]) {
                    next.insert_pod(pod(*place, &old.key.namespace, app));
                }
            }
            Self::Remove { place } => remove(*place, &mut next),
            Self::LabelNamespace { namespace, team } => {
                if let Some(known) = next.namespaces.get(*namespace).cloned() {
                    let mut labels = known.labels;
                    labels.insert("team".to_owned(), (*team).to_owned());
                    next.insert_namespace(Namespace { labels, ..known });
                }
            }
            Self::Write(policy) => next.insert_policy(Policy::from_api(policy).expect("a valid policy")),
            Self::Delete { namespace, name } => drop(next.policies.remove(&ObjectKey::new(*namespace, name))),
        }
        states.push(next);
        states
    }
}

fn remove(place: u8, world: &mut World) {
    let key = world
        .pod_at(NetLab::addresses(place)[0])
        .map(|pod| pod.key.clone());
    if let Some(key) = key {
        world.pods.remove(&key);
    }
}

/// The pod of a place, as far as policies see it.
fn pod(place: u8, namespace: &str, app: &str) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, format!("pod-{place}")),
        uid: String::new(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        node: Some(if place < LOCAL { NODE } else { "elsewhere" }.to_owned()),
        addresses: NetLab::addresses(place).to_vec(),
        host_network: false,
        finished: false,
        terminating: false,
        ports: Vec::new(),
        service_account: String::new(),
    }
}
