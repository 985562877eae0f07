//! Openings that are derived from what is in the cluster, case by case.

use ringfence_operator::generate::{Problem, Unsupported};
use ringfence_operator::view::ClusterView;
use ringfence_policy::ObjectKey;
use serde_json::{Value, json};

use crate::callers::{DOORS, ROUTES};
use crate::cluster::{generated, insert};
use crate::generate::{home, problems, spec};

/// The cluster of [`home`] with these openings, and what a case adds.
pub(crate) fn allowing(allow: &str, more: &str) -> ClusterView {
    home(&format!(
        "
kind: ZeroTrustNamespace
metadata: {{name: default, namespace: home}}
spec: {{mode: Enforce, allow: {allow}}}
---
{more}"
    ))
}

pub(crate) fn found(view: &ClusterView) -> Vec<Problem> {
    let findings = generated(view, "home").findings;
    findings.into_iter().map(|finding| finding.problem).collect()
}

pub(crate) fn purpose(view: &ClusterView, purpose: &str) -> Vec<Value> {
    spec(&generated(view, "home").policies, purpose)
}

pub(crate) fn service(name: &str) -> ObjectKey {
    ObjectKey::new("home", name)
}

const API_SERVER: &str = "
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [172.18.0.2]}, {addresses: [172.18.0.3], conditions: {ready: false}}]
ports: [{name: https, port: 6443, protocol: TCP}]
---
kind: EndpointSlice
metadata: {name: kubernetes-6, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv6
endpoints: [{addresses: ['fd00::2']}]
ports: [{name: https, port: 6443, protocol: TCP}]
";

#[test]
fn clients_of_the_api_server_reach_its_addresses_of_both_families() {
    let allow =
        "{dns: {enabled: false}, apiServer: {clients: [{podSelector: {matchLabels: {app: operator}}}]}}";
    let view = allowing(allow, API_SERVER);
    assert_eq!(found(&view), []);
    assert_eq!(
        purpose(&view, "api-server"),
        [json!({
            "podSelector": {"matchLabels": {"app": "operator"}},
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [
                    {"ipBlock": {"cidr": "172.18.0.2/32"}},
                    {"ipBlock": {"cidr": "172.18.0.3/32"}},
                    {"ipBlock": {"cidr": "fd00::2/128"}},
                ],
                "ports": [{"port": 6443, "protocol": "TCP"}],
            }],
        })]
    );
    let unknown = allowing(allow, "");
    let kubernetes = ObjectKey::new("default", "kubernetes");
    assert_eq!(found(&unknown), [Problem::NoAddresses { service: kubernetes }]);
    assert!(purpose(&unknown, "api-server").is_empty(), "closed while unknown");
}

#[test]
fn a_service_without_selector_is_its_addresses() {
    let sliced = |more: &str| {
        home(&format!(
            "
kind: Service
metadata: {{name: api, namespace: home}}
spec: {{ports: [{{name: http, port: 80}}, {{name: admin, port: 81}}]}}
---
{more}"
        ))
    };
    let unknown = sliced("");
    assert_eq!(
        problems(&unknown, "api"),
        [Problem::NoAddresses {
            service: service("api")
        }]
    );
    let slice = "
kind: EndpointSlice
metadata: {name: api-1, namespace: home, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}, {addresses: [10.0.0.9]}]
ports: [{name: http, port: 8080}, {name: admin, port: 9090}, {name: other, port: 1}]
---
kind: EndpointSlice
metadata: {name: api-2, namespace: home, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.8]}]
ports: [{name: http, port: 8081}]
";
    let view = sliced(slice);
    assert_eq!(problems(&view, "api"), []);
    assert!(purpose(&view, "access-ingress").is_empty());
    assert_eq!(
        purpose(&view, "access-egress")[0]["egress"],
        json!([
            {
                "to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}, {"ipBlock": {"cidr": "192.0.2.7/32"}}],
                "ports": [{"port": 8080, "protocol": "TCP"}, {"port": 9090, "protocol": "TCP"}],
            },
            {"to": [{"ipBlock": {"cidr": "192.0.2.8/32"}}], "ports": [{"port": 8081, "protocol": "TCP"}]},
        ])
    );

    let mut with_pod = view;
    let pod = json!({
        "kind": "Pod", "metadata": {"name": "db-0", "namespace": "home"},
        "spec": {"containers": []}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}]},
    });
    insert(&mut with_pod, pod);
    let pod = "db-0".to_owned();
    assert_eq!(
        problems(&with_pod, "api"),
        [Problem::PodByAddress {
            service: service("api"),
            pod
        }]
    );
}

#[test]
fn pods_of_a_stateful_set_are_peers_on_the_ports_of_its_service() {
    let set = "
kind: StatefulSet
metadata: {name: db, namespace: home}
spec: {serviceName: api, selector: {matchLabels: {app: db}}, template: {}}
---
kind: StatefulSet
metadata: {name: lost, namespace: home}
spec: {serviceName: nowhere, selector: {matchLabels: {app: lost}}, template: {}}
---
kind: StatefulSet
metadata: {name: free, namespace: home}
spec: {selector: {matchLabels: {app: free}}, template: {}}
---
kind: StatefulSet
metadata: {name: mute, namespace: home}
spec: {serviceName: mute, selector: {matchLabels: {app: mute}}, template: {}}
---
kind: Service
metadata: {name: mute, namespace: home}
spec: {clusterIP: None, selector: {app: mute}}
";
    let view = allowing("{dns: {enabled: false}, sameNamespace: StatefulSetPeers}", set);
    let (by, set) = ("StatefulSet home/lost".to_owned(), "free".to_owned());
    let (service, port, why) = (service("nowhere"), None, Unsupported::NoPorts);
    assert_eq!(
        found(&view),
        [
            Problem::UnsupportedService {
                service: ObjectKey::new("home", "mute"),
                why
            },
            Problem::Reference { by, service, port },
            Problem::Ungoverned { set },
        ]
    );
    for (purpose_of, rules, peers) in [
        ("peers-ingress", "ingress", "from"),
        ("peers-egress", "egress", "to"),
    ] {
        let policies = purpose(&view, purpose_of);
        assert_eq!(policies.len(), 1);
        assert_eq!(policies[0]["podSelector"], json!({"matchLabels": {"app": "db"}}));
        let rule = &policies[0][rules][0];
        assert_eq!(
            rule[peers],
            json!([{"podSelector": {"matchLabels": {"app": "db"}}}])
        );
        assert_eq!(
            rule["ports"].as_array().unwrap().len(),
            5,
            "by targetPort: {rule}"
        );
    }
}

#[test]
fn several_dns_services_and_the_cache_on_the_node() {
    let services = "
kind: Service
metadata: {name: main, namespace: dns}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd01::a'], selector: {app: main}, ports: [{port: 53, protocol: UDP, targetPort: 5353}, {port: 9153}]}
---
kind: Service
metadata: {name: spare, namespace: dns}
spec: {clusterIP: None, clusterIPs: [None], selector: {app: spare}, ports: [{port: 53, protocol: UDP}]}
";
    let view = allowing(
        "{dns: {services: [{namespace: dns, name: main}, {namespace: dns, name: spare}, {namespace: dns, name: gone}], nodeLocal: {}}}",
        services,
    );
    let tried = vec![ObjectKey::new("dns", "gone")];
    assert_eq!(found(&view), [Problem::DnsNotFound { tried }]);
    let of = |app: &str| json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "dns"}}, "podSelector": {"matchLabels": {"app": app}}}]);
    let egress = purpose(&view, "dns")[0]["egress"].clone();
    let mut rules: Vec<Value> = egress.as_array().unwrap().clone();
    let cache = rules
        .iter()
        .position(|rule| rule["to"][0].get("ipBlock").is_some())
        .unwrap();
    assert_eq!(
        rules.remove(cache),
        json!({
            "to": [{"ipBlock": {"cidr": "10.96.0.10/32"}}, {"ipBlock": {"cidr": "169.254.20.10/32"}}, {"ipBlock": {"cidr": "fd01::a/128"}}],
            "ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        })
    );
    assert_eq!(
        rules,
        [
            json!({"to": of("main"), "ports": [{"port": 5353, "protocol": "UDP"}]}),
            json!({"to": of("spare"), "ports": [{"port": 53, "protocol": "UDP"}]}),
        ]
    );
}

const CALLED: &str = "
kind: ValidatingWebhookConfiguration
metadata: {name: checks}
webhooks:
- name: a.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {namespace: home, name: hook, path: /}}
- name: b.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: 'https://192.0.2.1/'}
---
kind: APIService
metadata: {name: v1.metrics}
spec: {service: {namespace: home, name: api, port: 81}, groupPriorityMinimum: 1, versionPriority: 1}
---
kind: APIService
metadata: {name: v1.elsewhere}
spec: {service: {namespace: away, name: api, port: 80}, groupPriorityMinimum: 1, versionPriority: 1}
---
kind: Service
metadata: {name: hook, namespace: home}
spec: {selector: {app: hook}, ports: [{port: 443, targetPort: 9443}]}
";

#[test]
fn the_api_server_reaches_what_it_is_told_to_call() {
    let view = allowing(
        "{dns: {enabled: false}, webhooks: {}}",
        &format!("{CALLED}---{API_SERVER}"),
    );
    assert_eq!(found(&view), []);
    let mut opened: Vec<(Value, Value, Value)> = purpose(&view, "webhooks-ingress")
        .into_iter()
        .map(|spec| {
            let rule = &spec["ingress"][0];
            (
                spec["podSelector"].clone(),
                rule["ports"][0]["port"].clone(),
                rule["from"].clone(),
            )
        })
        .collect();
    opened.sort_by_key(|(pods, _, _)| pods.to_string());
    let addresses = json!([{"ipBlock": {"cidr": "172.18.0.2/32"}}, {"ipBlock": {"cidr": "172.18.0.3/32"}}, {"ipBlock": {"cidr": "fd00::2/128"}}]);
    assert_eq!(
        opened,
        [
            (
                json!({"matchLabels": {"app": "api"}}),
                json!("admin"),
                addresses.clone()
            ),
            (json!({"matchLabels": {"app": "hook"}}), json!(9443), addresses),
        ]
    );
    let through = allowing(
        "{dns: {enabled: false}, webhooks: {from: [{namespace: away, podSelector: {matchLabels: {app: agent}}}]}}",
        CALLED,
    );
    let from = &purpose(&through, "webhooks-ingress")[0]["ingress"][0]["from"];
    assert_eq!(from[0]["podSelector"], json!({"matchLabels": {"app": "agent"}}));
    let unknown = allowing("{dns: {enabled: false}, webhooks: {}}", CALLED);
    assert!(
        purpose(&unknown, "webhooks-ingress").is_empty(),
        "closed while unknown"
    );
    assert_eq!(found(&unknown).len(), 1);
}

#[test]
fn pods_left_alone_are_in_none_of_the_selectors() {
    let view = home(&format!(
        "
kind: ZeroTrustNamespace
metadata: {{name: default, namespace: home}}
spec:
  mode: Enforce
  exempt: [{{key: app, operator: In, values: [deployer]}}]
  allow: {{sameNamespace: All, external: [{{service: node}}], apiServer: {{clients: [{{podSelector: {{}}}}]}}, ingressControllers: {{from: [{{namespace: away}}]}}}}
---
{ROUTES}
---
{DOORS}
---
{API_SERVER}"
    ));
    let spared = json!({"key": "app", "operator": "NotIn", "values": ["deployer"]});
    let policies = generated(&view, "home").policies;
    assert!(policies.len() > 7, "{}", policies.len());
    for policy in policies {
        let spec = serde_json::to_value(&policy.spec).unwrap();
        let expressions = spec["podSelector"]["matchExpressions"].as_array().unwrap();
        assert!(expressions.contains(&spared), "{spec}");
    }
}
