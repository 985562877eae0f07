//! Random NetworkPolicies, most fields good and some bad in every way that a field can be.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// One value in this many is a bad one.
const RARE: usize = 40;

const KEYS: [&[&str]; 2] = [
    &["app", "tier", "kubernetes.io/metadata.name", "a_B.c-d"],
    &["", "a b", "-a", "a-", "a/b/c", "A.example/app", "/a", "a/", "é"],
];
const VALUES: [&[&str]; 2] = [&["web", "api", "", "a.B_c-d", "1"], &["a b", "-", "a/b", "é"]];
const OPERATORS: [&[&str]; 2] = [
    &["In", "NotIn", "Exists", "DoesNotExist"],
    &["in", "Gt", "", "Equals"],
];
const NETWORKS: [&[&str]; 2] = [
    &[
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/24",
        "10.1.2.0/25",
        "10.1.2.3/32",
        "0.0.0.0/0",
        "010.001.002.000/25",
        "::/0",
        "fd00::/8",
        "fd00:1::5/64",
        "FD00:1::/65",
        "::ffff:10.0.0.0/104",
        "::ffff:10.1.0.0/112",
        "::ffff:10.0.0.0/90",
        "2001:db8::1/128",
    ],
    &[
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/ 8",
        " 10.0.0.0/8",
        "10.0.0.0/8/8",
        "256.0.0.0/8",
        "0x0a.0.0.0/8",
        "fd00::/129",
        "fd00:::/8",
        "fe80::1%eth0/64",
        "::ffff:10.0.0.0/129",
        "10.0.0.0/255.0.0.0",
        "00010.0.0.0/8",
        "10..0.0/8",
    ],
];
const PORTS: [&[i32]; 2] = [
    &[1, 80, 81, 8080, 32_767, 65_535],
    &[0, -1, 65_536, i32::MAX, i32::MIN],
];
const PORT_NAMES: [&[&str]; 2] = [
    &["http", "a", "h-t-p", "1a", "abcdefghijklmno"],
    &[
        "",
        "HTTP",
        "a--b",
        "-a",
        "a-",
        "80",
        "1-2",
        "abcdefghijklmnop",
        "a_b",
        "a.b",
    ],
];
const PROTOCOLS: [&[&str]; 2] = [&["TCP", "UDP", "SCTP"], &["tcp", "ICMP", "", "6"]];
const TYPES: [&[&str]; 2] = [&["Ingress", "Egress"], &["ingress", "", "Both"]];

/// A policy as JSON, as a user may send it.
pub(crate) fn policy(rng: &mut Rng, name: &str) -> Value {
    let mut spec = Map::new();
    spec.insert("podSelector".to_owned(), selector(rng));
    if rng.bool() {
        let types = list(rng, 2, |rng| json!(one(rng, &TYPES)));
        spec.insert("policyTypes".to_owned(), types);
    }
    if rng.usize(..RARE) == 0 {
        spec.insert("policyTypes".to_owned(), json!(["Ingress", "Egress", "Ingress"]));
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if rng.u8(..4) > 0 {
            let rules = list(rng, 2, |rng| rule(rng, peers));
            spec.insert(direction.to_owned(), rules);
        }
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

fn one<T: Copy>(rng: &mut Rng, [good, bad]: &[&[T]; 2]) -> T {
    let from = if rng.usize(..RARE) == 0 { bad } else { good };
    from[rng.usize(..from.len())]
}

fn list(rng: &mut Rng, most: usize, mut item: impl FnMut(&mut Rng) -> Value) -> Value {
    (0..rng.usize(..=most)).map(|_| item(rng)).collect()
}

fn selector(rng: &mut Rng) -> Value {
    let mut selector = Map::new();
    if rng.bool() {
        let labels = (0..rng.usize(..3)).map(|_| (one(rng, &KEYS).to_owned(), json!(one(rng, &VALUES))));
        let labels: Map<String, Value> = labels.collect();
        selector.insert("matchLabels".to_owned(), labels.into());
    }
    if rng.bool() {
        let expressions = list(rng, 2, expression);
        selector.insert("matchExpressions".to_owned(), expressions);
    }
    selector.into()
}

fn expression(rng: &mut Rng) -> Value {
    let operator = one(rng, &OPERATORS);
    let takes_values = operator.ends_with("In") != (rng.usize(..RARE) == 0);
    let mut expression = json!({"key": one(rng, &KEYS), "operator": operator});
    if takes_values {
        // Only good ones: what is bad there is kept in old objects, and read.
        let values = (0..rng.usize(1..3)).map(|_| VALUES[0][rng.usize(..VALUES[0].len())]);
        expression["values"] = values.collect();
    }
    expression
}

fn rule(rng: &mut Rng, peers_field: &str) -> Value {
    let mut rule = Map::new();
    if rng.u8(..4) > 0 {
        let peers = list(rng, 2, peer);
        rule.insert(peers_field.to_owned(), peers);
    }
    if rng.u8(..4) > 0 {
        let ports = list(rng, 2, port);
        rule.insert("ports".to_owned(), ports);
    }
    rule.into()
}

fn peer(rng: &mut Rng) -> Value {
    let mut peer = Map::new();
    let odd = rng.usize(..RARE) == 0;
    let shape = rng.u8(..4);
    if shape == 0 || odd {
        let cidr = one(rng, &NETWORKS);
        let mut block = json!({"cidr": cidr});
        if rng.bool() {
            block["except"] = list(rng, 2, |rng| json!(one(rng, &NETWORKS)));
        }
        peer.insert("ipBlock".to_owned(), block);
    }
    if shape == 1 || shape == 3 {
        let pods = selector(rng);
        peer.insert("podSelector".to_owned(), pods);
    }
    if shape == 2 || shape == 3 {
        let namespaces = selector(rng);
        peer.insert("namespaceSelector".to_owned(), namespaces);
    }
    if rng.usize(..RARE) == 0 {
        peer.clear();
    }
    peer.into()
}

fn port(rng: &mut Rng) -> Value {
    let mut port = Map::new();
    if rng.bool() {
        port.insert("protocol".to_owned(), json!(one(rng, &PROTOCOLS)));
    }
    let kind = rng.u8(..5);
    match kind {
        0 => {}
        1 => {
            port.insert("port".to_owned(), json!(one(rng, &PORT_NAMES)));
        }
        _ => {
            port.insert("port".to_owned(), json!(one(rng, &PORTS)));
        }
    }
    if kind == 4 || rng.usize(..RARE) == 0 {
        port.insert("endPort".to_owned(), json!(one(rng, &PORTS)));
    }
    port.into()
}
