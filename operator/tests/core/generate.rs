//! What is generated for what users write, case by case.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_operator::generate::{Problem, Unsupported, outline, touched};
use ringfence_operator::names::ARGO_SYNC_ANNOTATION;
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
fn home(more: &str) -> ClusterView {
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

fn spec(policies: &[NetworkPolicy], purpose: &str) -> Vec<Value> {
    policies
        .iter()
        .filter(|policy| policy.labels()["ringfence.dev/purpose"] == purpose)
        .map(|policy| serde_json::to_value(&policy.spec).unwrap())
        .collect()
}

fn problems(view: &ClusterView, name: &str) -> Vec<Problem> {
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
        (json!({"ports": [{"port": 80}]}), Unsupported::NoSelector),
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
fn peers_mean_what_they_say() {
    let cases = [
        (
            json!({"podSelector": {"matchLabels": {"a": "b"}}}),
            json!({"podSelector": {"matchLabels": {"a": "b"}}}),
        ),
        (json!({"podSelector": {}}), json!({"podSelector": {}})),
        (json!({"namespace": "home"}), json!({"podSelector": {}})),
        (
            json!({"namespace": "away"}),
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "away"}}}),
        ),
        (
            json!({"namespace": "away", "podSelector": {"matchLabels": {"a": "b"}}}),
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "away"}}, "podSelector": {"matchLabels": {"a": "b"}}}),
        ),
        (
            json!({"namespaceSelector": {"matchLabels": {}}}),
            json!({"namespaceSelector": {}}),
        ),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16", "10.2.0.0/16"]}),
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}),
        ),
        (json!({"cidr": "::/0"}), json!({"ipBlock": {"cidr": "::/0"}})),
    ];
    for (client, wanted) in cases {
        let mut view = home("");
        insert(
            &mut view,
            json!({
                "kind": "ServiceAccess", "metadata": {"name": "api", "namespace": "home"},
                "spec": {"targetRef": {"name": "api"}, "clients": [client]},
            }),
        );
        let found = spec(&generated(&view, "home").policies, "access-ingress");
        assert_eq!(found[0]["ingress"][0]["from"], json!([wanted]), "{client}");
    }
}

#[test]
fn egress_in_the_clients_namespace_needs_its_consent() {
    let away = |more: &str| {
        home(&format!("
kind: ServiceAccess
metadata: {{name: far, namespace: home}}
spec: {{targetRef: {{name: api}}, ports: [http], clients: [{{namespace: away, podSelector: {{matchLabels: {{app: web}}}}}}]}}
---
kind: ZeroTrustNamespace
metadata: {{name: default, namespace: away}}
spec: {{mode: Enforce, allow: {{dns: {{enabled: false}}}}{more}}}
"))
    };
    let refused = away("");
    assert_eq!(
        problems(&refused, "far"),
        [Problem::PendingConsent {
            namespace: "away".to_owned()
        }]
    );
    assert!(spec(&generated(&refused, "away").policies, "access-egress").is_empty());

    for consent in [
        "[{namespace: home}]",
        "[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: home}}}]",
    ] {
        let granted = away(&format!(", acceptEgressFrom: {consent}"));
        assert_eq!(problems(&granted, "far"), []);
        let found = generated(&granted, "away").policies;
        assert_eq!(
            spec(&found, "access-egress"),
            [json!({
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "home"}},
                        "podSelector": {"matchLabels": {"app": "api"}},
                    }],
                    "ports": [{"port": 8080, "protocol": "TCP"}],
                }],
            })]
        );
        let policy = found
            .iter()
            .find(|policy| policy.name_any().contains("access-egress"))
            .unwrap();
        assert_eq!(
            policy.owner_references()[0].uid,
            "uid-ZeroTrustNamespace-away-default",
            "owned where it is"
        );
        assert_eq!(policy.annotations()[ARGO_SYNC_ANNOTATION], "Prune=false");
    }

    let open_egress = away(", defaultDeny: {ingress: true, egress: false}");
    assert_eq!(problems(&open_egress, "far"), [], "nothing to consent to");
}

#[test]
fn a_client_namespace_that_does_not_exist_is_said() {
    let view = home(
        "
kind: ServiceAccess
metadata: {name: far, namespace: home}
spec: {targetRef: {name: api}, clients: [{namespace: nowhere}]}
",
    );
    assert_eq!(
        problems(&view, "far"),
        [Problem::NamespaceNotFound {
            namespace: "nowhere".to_owned()
        }]
    );
    let found = spec(&generated(&view, "home").policies, "access-ingress");
    assert_eq!(found.len(), 2, "the grant waits for it");
}

#[test]
fn where_nothing_is_denied_nothing_is_generated() {
    let mut view = home("");
    view.zero_trust.clear();
    assert_eq!(problems(&view, "api"), [Problem::NotNeeded]);
    assert_eq!(generated(&view, "home").policies, vec![]);
    assert_eq!(
        touched(&view, &view.accesses[&ObjectKey::new("home", "api")]).len(),
        0
    );
}

#[test]
fn only_denied_directions_have_policies() {
    for (denied, types) in [
        ("{ingress: true, egress: false}", "Ingress"),
        ("{ingress: false, egress: true}", "Egress"),
    ] {
        let mut cluster = home("");
        let object = format!(
            "
kind: ZeroTrustNamespace
metadata: {{name: default, namespace: home}}
spec:
  mode: Enforce
  defaultDeny: {denied}
  allow: {{sameNamespace: All, dns: {{enabled: false}}, monitoring: {{from: [{{podSelector: {{}}}}]}}}}
"
        );
        insert(&mut cluster, serde_yaml_ng::from_str(&object).unwrap());
        let policies = generated(&cluster, "home").policies;
        assert_eq!(
            policies.len(),
            4,
            "deny, same namespace, monitoring and the grant"
        );
        for policy in policies {
            let spec = policy.spec.unwrap();
            assert_eq!(spec.policy_types.as_deref().unwrap(), [types]);
        }
    }
}

#[test]
fn scrapers_get_egress_where_they_are_when_their_namespace_consents() {
    let view = home("
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce, allow: {monitoring: {from: [{namespace: away, podSelector: {matchLabels: {app: prometheus}}}], ports: [{port: metrics}]}}}
---
kind: ZeroTrustNamespace
metadata: {name: default, namespace: away}
spec: {mode: Enforce, acceptEgressFrom: [{namespace: home}]}
");
    assert_eq!(
        spec(&generated(&view, "away").policies, "monitoring-egress"),
        [json!({
            "podSelector": {"matchLabels": {"app": "prometheus"}},
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "home"}}}],
                "ports": [{"port": "metrics", "protocol": "TCP"}],
            }],
        })]
    );
    let found = generated(&view, "home");
    let wanted = [json!({"port": "metrics", "protocol": "TCP"})];
    assert_eq!(
        spec(&found.policies, "monitoring-ingress")[0]["ingress"][0]["ports"],
        json!(wanted)
    );
}

#[test]
fn dns_is_the_first_configured_service_that_exists_and_closed_when_none_does() {
    let zero_trust = "
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce}
";
    let closed = home(zero_trust);
    let found = generated(&closed, "home");
    assert!(spec(&found.policies, "dns").is_empty());
    assert!(matches!(found.findings[0].problem, Problem::DnsNotFound { .. }));

    let openshift = home(&format!(
        "{zero_trust}
---
kind: Service
metadata: {{name: dns-default, namespace: openshift-dns}}
spec:
  selector: {{dns: default}}
  ports: [{{port: 53, protocol: UDP, targetPort: dns}}, {{port: 53, targetPort: dns-tcp}}, {{port: 9154}}]
---
kind: Service
metadata: {{name: kube-dns, namespace: home, labels: {{k8s-app: kube-dns}}}}
spec: {{selector: {{app: trap}}, ports: [{{port: 53}}]}}
"
    ));
    let found = generated(&openshift, "home");
    assert_eq!(found.findings, vec![]);
    assert_eq!(
        spec(&found.policies, "dns")[0]["egress"],
        json!([{
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}},
                "podSelector": {"matchLabels": {"dns": "default"}},
            }],
            "ports": [{"port": "dns-tcp", "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"}],
        }])
    );
}

#[test]
fn resources_on_their_way_out_have_no_effect() {
    let mut view = home("");
    insert(
        &mut view,
        json!({
            "kind": "ServiceAccess",
            "metadata": {"name": "api", "namespace": "home", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]},
            "spec": {"targetRef": {"name": "api"}, "clients": [{"podSelector": {}}]},
        }),
    );
    assert!(spec(&generated(&view, "home").policies, "access-ingress").is_empty());
}
