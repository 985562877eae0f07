//! What is generated for what users write, case by case.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_operator::generate::{Problem, Unsupported, outline};
use ringfence_operator::view::ClusterView;
use ringfence_policy::{Flow, ObjectKey, Pod, Protocol, evaluate};
use serde_json::{Value, json};

use crate::cluster::{ApiServer, generated, insert, view, world};

const SHOP: &str = include_str!("../../../examples/three-tier/shop.yaml");
const ZERO_TRUST: &str = include_str!("../../../examples/three-tier/zero-trust.yaml");
const DNS: &str = "
kind: Namespace
metadata: {name: kube-system}
---
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: 53}
  - {name: dns-tcp, port: 53, protocol: TCP, targetPort: dns-tcp}
  - {name: metrics, port: 9153, protocol: TCP}
---
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  replicas: 1
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      containers:
      - {name: coredns, ports: [{name: dns-tcp, containerPort: 53}]}
";

fn shop() -> ClusterView {
    view(&[SHOP, ZERO_TRUST, DNS].join("\n---\n"))
}

/// A namespace `home` that denies both directions, with a Service `api`, and what a case adds.
pub(crate) fn home(more: &str) -> ClusterView {
    let base = "
kind: Namespace
metadata: {name: home}
---
kind: Namespace
metadata: {name: away, labels: {team: a}}
---
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce, allow: {dns: {enabled: false}}}
---
kind: Service
metadata: {name: api, namespace: home}
spec:
  selector: {app: api}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: admin, port: 81, targetPort: admin}
  - {name: bare, port: 5432}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
  - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 5353}
---
kind: ServiceAccess
metadata: {name: api, namespace: home}
spec: {targetRef: {name: api}, clients: [{podSelector: {matchLabels: {app: web}}}]}
";
    view(&[base, more].join("\n---\n"))
}

pub(crate) fn spec(policies: &[NetworkPolicy], purpose: &str) -> Vec<Value> {
    policies
        .iter()
        .filter(|policy| policy.labels()["ringfence.dev/purpose"] == purpose)
        .map(|policy| serde_json::to_value(&policy.spec).unwrap())
        .collect()
}

pub(crate) fn problems(view: &ClusterView, name: &str) -> Vec<Problem> {
    let access = &view.accesses[&ObjectKey::new("home", name)];
    outline(view, access)
        .findings
        .into_iter()
        .map(|finding| finding.problem)
        .collect()
}

#[test]
fn the_three_tier_shop() {
    let text: Vec<String> = generated(&shop(), "production")
        .policies
        .iter()
        .map(|policy| serde_yaml_ng::to_string(policy).unwrap())
        .collect();
    insta::assert_snapshot!(text.join("---\n"));
}

#[test]
fn the_shop_has_exactly_the_intended_paths() {
    let mut cluster = shop();
    ApiServer::new().settle(&mut cluster, "production");
    let world = world(&cluster);
    let pods: Vec<&Pod> = world.pods.values().collect();
    let tier = |pod: &Pod| {
        format!(
            "{}/{}",
            pod.key.namespace,
            pod.key
                .name
                .trim_end_matches(|c: char| c == '-' || c.is_ascii_digit())
        )
    };
    let mut open = BTreeSet::new();
    for source in &pods {
        for destination in pods
            .iter()
            .filter(|pod| pod.key != source.key && pod.key.namespace != "attacker")
        {
            for (protocol, port) in [
                (Protocol::Tcp, 8080),
                (Protocol::Tcp, 9090),
                (Protocol::Tcp, 5432),
                (Protocol::Tcp, 53),
                (Protocol::Udp, 53),
            ] {
                let flow = Flow {
                    source: source.addresses[0],
                    destination: destination.addresses[0],
                    protocol,
                    port,
                };
                if evaluate(&world, &flow).allowed() && destination.key.namespace == "production" {
                    open.insert(format!("{} -> {} {port}", tier(source), tier(destination)));
                } else if evaluate(&world, &flow).allowed() && source.key.namespace == "production" {
                    open.insert(format!(
                        "{} -> {} {protocol:?} {port}",
                        tier(source),
                        tier(destination)
                    ));
                }
            }
        }
    }
    let dns = ["web", "api", "db"].into_iter().flat_map(|from| {
        ["Tcp", "Udp"].map(|protocol| format!("production/{from} -> kube-system/coredns {protocol} 53"))
    });
    let mut wanted: BTreeSet<String> = [
        "production/web -> production/api 8080",
        "production/api -> production/db 5432",
        "monitoring/prometheus -> production/api 9090",
    ]
    .map(str::to_owned)
    .into();
    wanted.extend(dns);
    assert_eq!(open, wanted);
}

#[test]
fn ports_are_the_target_ports_as_the_service_writes_them() {
    let cases = [
        (json!(["http"]), json!([{"port": 8080, "protocol": "TCP"}])),
        (json!([80]), json!([{"port": 8080, "protocol": "TCP"}])),
        (json!(["admin"]), json!([{"port": "admin", "protocol": "TCP"}])),
        (json!(["bare"]), json!([{"port": 5432, "protocol": "TCP"}])),
        (
            json!([53]),
            json!([{"port": 5353, "protocol": "TCP"}, {"port": 5353, "protocol": "UDP"}]),
        ),
        (
            json!([]),
            json!([
                {"port": 5353, "protocol": "TCP"},
                {"port": 5432, "protocol": "TCP"},
                {"port": 8080, "protocol": "TCP"},
                {"port": "admin", "protocol": "TCP"},
                {"port": 5353, "protocol": "UDP"},
            ]),
        ),
    ];
    for (ports, wanted) in cases {
        let mut view = home("");
        insert(
            &mut view,
            json!({
                "kind": "ServiceAccess", "metadata": {"name": "api", "namespace": "home"},
                "spec": {"targetRef": {"name": "api"}, "ports": ports, "clients": [{"namespace": "away"}]},
            }),
        );
        let found = spec(&generated(&view, "home").policies, "access-ingress");
        assert_eq!(found[0]["ingress"][0]["ports"], wanted, "{ports}");
    }
}

#[test]
fn a_port_that_is_missing_is_said_and_leaves_the_others_open() {
    let mut view = home("");
    let access = |ports: Value| {
        json!({
            "kind": "ServiceAccess", "metadata": {"name": "api", "namespace": "home"},
            "spec": {"targetRef": {"name": "api"}, "ports": ports, "clients": [{"podSelector": {}}]},
        })
    };
    let service = ObjectKey::new("home", "api");
    insert(&mut view, access(json!(["http", "grpc"])));
    assert_eq!(
        problems(&view, "api"),
        [Problem::PortNotFound {
            service: service.clone(),
            port: "grpc".to_owned()
        }]
    );
    let found = spec(&generated(&view, "home").policies, "access-ingress");
    assert_eq!(
        found[0]["ingress"][0]["ports"],
        json!([{"port": 8080, "protocol": "TCP"}])
    );

    insert(&mut view, access(json!([9999])));
    assert_eq!(
        problems(&view, "api"),
        [Problem::PortNotFound {
            service,
            port: "9999".to_owned()
        }]
    );
    // A rule without ports would open all of them.
    assert!(spec(&generated(&view, "home").policies, "access-ingress").is_empty());
}

#[test]
fn services_that_no_policy_can_express_are_refused() {
    let cases = [
        (
            json!({"type": "ExternalName", "externalName": "example.com"}),
            Unsupported::ExternalName,
        ),
        (
            json!({"selector": {"app": "api"}, "clusterIP": "None"}),
            Unsupported::NoPorts,
        ),
    ];
    for (service_spec, why) in cases {
        let mut view = home("");
        insert(
            &mut view,
            json!({"kind": "Service", "metadata": {"name": "api", "namespace": "home"}, "spec": service_spec}),
        );
        let service = ObjectKey::new("home", "api");
        assert_eq!(
            problems(&view, "api"),
            [Problem::UnsupportedService { service, why }]
        );
        let found = generated(&view, "home").policies;
        assert!(spec(&found, "access-ingress").is_empty() && spec(&found, "access-egress").is_empty());
    }
}

#[test]
fn a_service_that_is_gone_closes_its_path_and_no_other() {
    let mut view = home(
        "
kind: Service
metadata: {name: other, namespace: home}
spec: {selector: {app: other}, ports: [{port: 80}]}
---
kind: ServiceAccess
metadata: {name: other, namespace: home}
spec: {targetRef: {name: other}, clients: [{podSelector: {}}]}
",
    );
    view.services.remove(&ObjectKey::new("home", "api"));
    assert_eq!(
        problems(&view, "api"),
        [Problem::TargetNotFound {
            service: ObjectKey::new("home", "api")
        }]
    );
    assert_eq!(problems(&view, "other"), []);
    assert_eq!(
        spec(&generated(&view, "home").policies, "access-ingress").len(),
        1
    );
}

#[test]
fn a_named_port_that_is_another_number_on_some_pod_or_none_is_told_and_hinders_nothing() {
    let pod = |name: &str, ports: &str| {
        format!(
            "
kind: Pod
metadata: {{name: {name}, namespace: home, labels: {{app: api}}}}
spec: {{nodeName: n, containers: [{{name: main, ports: [{ports}]}}]}}
status: {{phase: Running}}
"
        )
    };
    let some = [
        pod("a", "{name: admin, containerPort: 9000}"),
        pod(
            "b",
            "{name: admin, containerPort: 9000}, {name: http, containerPort: 8080}",
        ),
    ];
    assert_eq!(problems(&home(&some.join("---")), "api"), []);
    let others = [
        pod("c", "{name: admin, containerPort: 9001}"),
        pod("d", "{name: admin, containerPort: 9000, protocol: UDP}"),
    ];
    let view = home(&[some, others].concat().join("---"));
    let (service, port) = (ObjectKey::new("home", "api"), "admin".to_owned());
    let expected = [
        Problem::NamedPortDiffers {
            service: service.clone(),
            port: port.clone(),
            numbers: vec![(9000, "a".to_owned()), (9001, "c".to_owned())],
        },
        Problem::NamedPortMissing {
            service,
            port,
            pod: "d".to_owned(),
        },
    ];
    assert_eq!(problems(&view, "api"), expected);
    assert!(expected.iter().all(Problem::is_note));
}
