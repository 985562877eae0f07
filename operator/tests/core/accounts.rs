//! ServiceAccounts as clients: who is let in, and what is said when a stamp can't be relied on.

use ringfence_operator::generate::{Doubt, Problem};
use ringfence_operator::view::ClusterView;
use ringfence_policy::{Flow, ObjectKey, Protocol, evaluate};
use serde_json::{Value, json};

use crate::cluster::{ApiServer, generated, insert, world};
use crate::generate::{home, problems, spec};

/// Namespace `home` with an `api` that ServiceAccount `cart` of it may call, and of namespace `away`, and these pods: namespace,
/// name, account and stamp.
fn cluster(protected: bool, pods: &[(&str, &str, &str, Option<&str>)]) -> ClusterView {
    let mut view = home(
        "
kind: ServiceAccess
metadata: {name: by-account, namespace: home}
spec:
  targetRef: {name: api}
  ports: [http]
  clients: [{serviceAccount: cart}, {namespace: away, serviceAccount: cart}]
---
kind: Pod
metadata: {name: api, namespace: home, labels: {app: api}}
spec: {containers: [], nodeName: other}
status: {phase: Running, podIP: 10.0.0.200, podIPs: [{ip: 10.0.0.200}]}
",
    );
    view.stamps_protected = protected;
    for (n, (namespace, name, account, stamp)) in pods.iter().enumerate() {
        let labels = stamp.map_or(json!({}), |stamp| json!({"ringfence.dev/service-account": stamp}));
        insert(
            &mut view,
            json!({
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {"containers": [], "serviceAccountName": account, "nodeName": name},
                "status": {"phase": "Running", "podIP": address(n), "podIPs": [{"ip": address(n)}, {"ip": format!("fd00::{}", n + 1)}]},
            }),
        );
    }
    view
}

fn address(n: usize) -> String {
    format!("10.0.0.{}", n + 1)
}

/// Whether the server's side, and the client's, let the n-th pod call the api.
fn calls(view: &ClusterView, n: usize) -> (bool, bool) {
    let mut view = view.clone();
    ApiServer::new().settle(&mut view, "home");
    let flow = Flow {
        source: address(n).parse().unwrap(),
        destination: "10.0.0.200".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 8080,
    };
    let verdict = evaluate(&world(&view), &flow);
    (verdict.ingress.allowed(), verdict.egress.allowed())
}

fn peers(view: &ClusterView) -> Vec<Value> {
    let specs = spec(&generated(view, "home").policies, "access-ingress");
    let by_account = specs
        .iter()
        .filter(|spec| spec["ingress"][0]["ports"][1].is_null());
    by_account
        .flat_map(|spec| spec["ingress"][0]["from"].as_array().cloned().unwrap_or_default())
        .collect()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

#[test]
fn the_stamp_is_used_where_every_pod_carries_it_rightly() {
    let view = cluster(
        true,
        &[
            ("home", "cart-0", "cart", Some("cart")),
            ("away", "cart-0", "cart", Some("cart")),
            ("home", "stranger", "default", Some("default")),
        ],
    );
    let stamp = json!({"matchExpressions": [{"key": "ringfence.dev/service-account", "operator": "In", "values": ["cart"]}]});
    let there = json!({"matchLabels": {"kubernetes.io/metadata.name": "away"}});
    assert_eq!(
        peers(&view),
        [
            json!({"namespaceSelector": there, "podSelector": stamp}),
            json!({"podSelector": stamp})
        ]
    );
    assert_eq!(problems(&view, "by-account"), []);
    assert_eq!(
        [0, 1, 2].map(|n| calls(&view, n)),
        [(true, true), (true, true), (false, false)]
    );
}

#[test]
fn a_forged_stamp_gains_nothing_and_takes_nothing_from_the_servers_side() {
    let view = cluster(
        true,
        &[
            ("home", "cart-0", "cart", Some("cart")),
            ("home", "forger", "default", Some("cart")),
        ],
    );
    // Egress of the true one can't be told from the forger's.
    assert_eq!([0, 1].map(|n| calls(&view, n)), [(true, false), (false, false)]);
    let why = Doubt::Forged {
        pod: key("home", "forger"),
    };
    assert_eq!(
        problems(&view, "by-account"),
        [
            Problem::AccountByAddress {
                account: "cart".to_owned(),
                pods: 1,
                why: why.clone()
            },
            Problem::AccountEgressClosed {
                account: key("home", "cart"),
                why
            },
        ]
    );
}

#[test]
fn a_pod_without_a_stamp_is_let_in_by_its_addresses_of_both_families() {
    let view = cluster(
        true,
        &[
            ("home", "cart-0", "cart", Some("cart")),
            ("home", "cart-1", "cart", None),
        ],
    );
    let found = peers(&view);
    for network in ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "fd00::2/128"] {
        assert!(
            found.contains(&json!({"ipBlock": {"cidr": network}})),
            "{network} in {found:?}"
        );
    }
    // The client's own side goes by stamps alone.
    assert_eq!([0, 1].map(|n| calls(&view, n)), [(true, true), (true, false)]);
    let why = Doubt::Unstamped {
        pod: key("home", "cart-1"),
    };
    assert!(
        problems(&view, "by-account").contains(&Problem::AccountEgressClosed {
            account: key("home", "cart"),
            why
        })
    );
}

#[test]
fn without_the_admission_policies_no_stamp_is_relied_on() {
    let view = cluster(false, &[("away", "cart-0", "cart", Some("cart"))]);
    assert_eq!(
        peers(&view),
        [
            json!({"ipBlock": {"cidr": "10.0.0.1/32"}}),
            json!({"ipBlock": {"cidr": "fd00::1/128"}})
        ]
    );
    assert_eq!(
        problems(&view, "by-account")
            .iter()
            .filter(|problem| !problem.is_note())
            .count(),
        0
    );
}

#[test]
fn an_account_without_pods_lets_nobody_in() {
    let view = cluster(false, &[("home", "stranger", "default", Some("cart"))]);
    assert_eq!(peers(&view), Vec::<Value>::new());
    assert_eq!(calls(&view, 0), (false, false));
    let policies = generated(&view, "home").policies;
    assert_eq!(
        spec(&policies, "access-ingress").len(),
        1,
        "that of the other grant alone"
    );
}

#[test]
fn a_finished_pod_and_one_of_the_nodes_network_are_nobody() {
    let mut view = cluster(false, &[]);
    for (name, network, phase) in [("done", false, "Succeeded"), ("host", true, "Running")] {
        insert(
            &mut view,
            json!({
                "kind": "Pod", "metadata": {"name": name, "namespace": "home"},
                "spec": {"containers": [], "serviceAccountName": "cart", "hostNetwork": network},
                "status": {"phase": phase, "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]},
            }),
        );
    }
    assert_eq!(peers(&view), Vec::<Value>::new());
}

#[test]
fn many_pods_are_spread_over_policies_of_bounded_size_and_the_rest_is_told() {
    let names: Vec<String> = (0..1100).map(|n| format!("cart-{n:04}")).collect();
    let mut view = cluster(false, &[]);
    for (n, name) in names.iter().enumerate() {
        let address = format!("10.1.{}.{}", n / 250, n % 250);
        insert(
            &mut view,
            json!({
                "kind": "Pod", "metadata": {"name": name, "namespace": "away"},
                "spec": {"containers": [], "serviceAccountName": "cart"},
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
            }),
        );
    }
    let specs = spec(&generated(&view, "home").policies, "access-ingress");
    let sizes: Vec<usize> = specs
        .iter()
        .map(|spec| spec["ingress"][0]["from"].as_array().unwrap().len())
        .filter(|size| *size > 1)
        .collect();
    assert_eq!(sizes, [250, 250, 250, 250]);
    assert!(problems(&view, "by-account").contains(&Problem::TooManyPods {
        account: "cart".to_owned(),
        followed: 1000,
        pods: 1100
    }));
}

#[test]
fn five_hundred_clients_of_any_size_are_spread_over_policies() {
    let clients: Vec<Value> = (0..500)
        .map(|n| json!({"namespace": format!("n-{n}"), "podSelector": {"matchLabels": {"app": format!("{n}-{}", "a".repeat(50))}}}))
        .collect();
    let mut view = home("");
    insert(
        &mut view,
        json!({"kind": "ServiceAccess", "metadata": {"name": "many", "namespace": "home"},
        "spec": {"targetRef": {"name": "api"}, "clients": clients}}),
    );
    let policies = generated(&view, "home").policies;
    let specs = spec(&policies, "access-ingress");
    let total: usize = specs
        .iter()
        .map(|spec| spec["ingress"][0]["from"].as_array().unwrap().len())
        .sum();
    assert_eq!((specs.len(), total), (3, 501), "one client of the other grant");
    assert!(
        policies
            .iter()
            .all(|policy| serde_json::to_string(policy).unwrap().len() < 300 * 1024)
    );
}
