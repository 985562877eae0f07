//! Openings that callers from elsewhere come in by: ingress controllers, scrapers, and clients outside the cluster.

use ringfence_operator::generate::{Problem, Unsupported};
use serde_json::{Value, json};

use crate::cluster::generated;
use crate::derived::{allowing, found, purpose, service};
use crate::generate::spec;

pub(crate) const ROUTES: &str = "
kind: Ingress
metadata: {name: site, namespace: home}
spec:
  defaultBackend: {service: {name: api, port: {name: bare}}}
  rules:
  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: api, port: {number: 80}}}}]}
  - http: {paths: [{path: /gone, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}]}
---
kind: HTTPRoute
metadata: {name: route, namespace: home}
spec:
  rules:
  - backendRefs:
    - {name: api, port: 81}
    - {name: api, namespace: away, port: 53}
    - {group: example.com, kind: Bucket, name: files, port: 1}
---
kind: ZeroTrustNamespace
metadata: {name: default, namespace: away}
spec: {mode: Enforce, allow: {dns: {enabled: false}}, acceptEgressFrom: [{namespace: home}]}
";

#[test]
fn ingress_controllers_reach_the_back_ends_of_routes_and_nothing_else() {
    let allow = "{dns: {enabled: false}, ingressControllers: {from: [{namespace: away, podSelector: {matchLabels: {app: nginx}}}]}}";
    let view = allowing(allow, ROUTES);
    let by = "Ingress home/site".to_owned();
    assert_eq!(
        found(&view),
        [Problem::Reference {
            by,
            service: service("gone"),
            port: None
        }]
    );
    let ports = json!([
        {"port": 5432, "protocol": "TCP"},
        {"port": 8080, "protocol": "TCP"},
        {"port": "admin", "protocol": "TCP"},
    ]);
    let policies = purpose(&view, "controllers-ingress");
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0]["podSelector"], json!({"matchLabels": {"app": "api"}}));
    assert_eq!(policies[0]["ingress"][0]["ports"], ports);
    let egress = spec(&generated(&view, "away").policies, "controllers-egress");
    assert_eq!(
        egress,
        [json!({
            "podSelector": {"matchLabels": {"app": "nginx"}},
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "home"}},
                    "podSelector": {"matchLabels": {"app": "api"}},
                }],
                "ports": ports,
            }],
        })]
    );
    let unasked = allowing(
        allow,
        &ROUTES.replace("acceptEgressFrom: [{namespace: home}]", "acceptEgressFrom: []"),
    );
    assert!(spec(&generated(&unasked, "away").policies, "controllers-egress").is_empty());
    let unmet = Problem::PendingConsent {
        namespace: "away".to_owned(),
        grantor: "home".to_owned(),
    };
    assert!(found(&unasked).contains(&unmet));
}

const SCRAPED: &str = "
kind: Pod
metadata: {name: web-1, namespace: home, labels: {app: web, pod-template-hash: abc}, annotations: {prometheus.io/scrape: 'true', prometheus.io/port: '9090'}}
spec: {containers: []}
---
kind: Pod
metadata: {name: web-2, namespace: home, labels: {app: web, pod-template-hash: def}, annotations: {prometheus.io/scrape: 'true'}}
spec: {containers: [{name: main, ports: [{containerPort: 9191}, {containerPort: 53, protocol: UDP}]}]}
---
kind: Pod
metadata: {name: bare, namespace: home, annotations: {prometheus.io/scrape: 'true', prometheus.io/port: '1'}}
spec: {containers: []}
---
kind: Pod
metadata: {name: shy, namespace: home, labels: {app: shy}, annotations: {prometheus.io/scrape: 'false', prometheus.io/port: '2'}}
spec: {containers: []}
---
kind: PodMonitor
metadata: {name: db, namespace: away}
spec: {selector: {matchLabels: {app: db}}, namespaceSelector: {matchNames: [home]}, podMetricsEndpoints: [{port: metrics}, {portNumber: 9187}, {port: metrics-of-the-database}]}
---
kind: PodMonitor
metadata: {name: others, namespace: away}
spec: {selector: {matchLabels: {app: others}}, podMetricsEndpoints: [{port: metrics}]}
---
kind: ServiceMonitor
metadata: {name: api, namespace: home}
spec: {selector: {matchLabels: {team: a}}, endpoints: [{port: admin}, {targetPort: 7070}]}
---
kind: Service
metadata: {name: api, namespace: home, labels: {team: a}}
spec: {selector: {app: api}, ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: admin}]}
";

#[test]
fn metrics_ports_are_found_where_they_are_declared() {
    let monitoring = "{from: [{namespace: away}], discover: [Annotations, PodMonitors, ServiceMonitors]}";
    let view = allowing(
        &format!("{{dns: {{enabled: false}}, monitoring: {monitoring}}}"),
        SCRAPED,
    );
    let (pod, by, port) = ("bare", "PodMonitor away/db", "metrics-of-the-database");
    let (pod, by, port) = (pod.to_owned(), by.to_owned(), port.to_owned());
    assert_eq!(
        found(&view),
        [Problem::Unlabelled { pod }, Problem::NoContainerPort { by, port }]
    );
    let mut opened: Vec<(String, Vec<String>)> = purpose(&view, "monitoring-ingress")
        .iter()
        .map(|spec| {
            let ports = spec["ingress"][0]["ports"].as_array().unwrap();
            let app = spec["podSelector"]["matchLabels"]["app"].as_str().unwrap();
            (
                app.to_owned(),
                ports.iter().map(|port| port["port"].to_string()).collect(),
            )
        })
        .collect();
    opened.sort();
    let wanted = [
        ("api", vec!["7070", "\"admin\""]),
        ("db", vec!["9187", "\"metrics\""]),
        ("web", vec!["9090", "9191"]),
    ];
    let wanted = wanted.map(|(app, ports)| (app.to_owned(), ports.into_iter().map(str::to_owned).collect()));
    assert_eq!(opened, wanted);
}

pub(crate) const DOORS: &str = "
kind: Service
metadata: {name: local, namespace: home, labels: {door: main}}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: [203.0.113.0/24], selector: {app: web}, ports: [{port: 443, targetPort: https}]}
---
kind: Service
metadata: {name: node, namespace: home}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: InternalIP, address: 'fd00::2'}, {type: Hostname, address: node-1}]}
";

#[test]
fn doors_to_the_outside_know_clients_by_their_addresses_where_these_are_kept() {
    let allow = "{dns: {enabled: false}, external: [{serviceSelector: {matchLabels: {door: main}}}, {service: node, from: [{cidr: 198.51.100.0/24}], nodeNetworks: [10.244.0.0/24]}, {service: api}, {service: gone}]}";
    let view = allowing(allow, DOORS);
    let by = "spec.allow.external".to_owned();
    assert_eq!(
        found(&view),
        [
            Problem::UnsupportedService {
                service: service("api"),
                why: Unsupported::NotExternal
            },
            Problem::Reference {
                by,
                service: service("gone"),
                port: None
            },
            Problem::AnyCaller {
                service: service("node")
            },
        ]
    );
    let mut rules: Vec<Value> = purpose(&view, "external")
        .iter()
        .map(|spec| spec["ingress"][0].clone())
        .collect();
    rules.sort_by_key(ToString::to_string);
    let blocks =
        |cidrs: &[&str]| Value::from_iter(cidrs.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}})));
    assert_eq!(
        rules,
        [
            json!({
                "from": blocks(&["10.244.0.0/24", "172.18.0.2/32", "198.51.100.0/24", "fd00::2/128"]),
                "ports": [{"port": 8080, "protocol": "TCP"}],
            }),
            json!({"from": blocks(&["203.0.113.0/24"]), "ports": [{"port": "https", "protocol": "TCP"}]}),
        ]
    );
}
