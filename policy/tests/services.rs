//! Calls to Services, as the packets experience them.

#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::{API, NODE, OTHER, OTHER_NODE, OUTSIDE, WEB, pod, world};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use ringfence_policy::{
    DirectionVerdict, Door, EndpointSlice, Nowhere, ObjectKey, Protocol, Service, ServiceCall,
    ServiceVerdict, World, evaluate_service,
};

/// The second api pod, on the other node.
const API2: &str = "10.244.2.9";
const BALANCER: &str = "198.51.100.10";

/// `shop` with a Service in front of two api pods, on one node each. The second has its port under another number.
fn shop(service: &str, policies: &[&str]) -> World {
    let mut world = world(policies);
    let mut second = pod("shop", "api-2", "api", "node-b", API2);
    second.ports[0].number = 9090;
    world.insert_pod(second);
    let yaml = format!("{{metadata: {{namespace: shop, name: api}}, spec: {service}}}");
    let mut service: core::Service = serde_yaml_ng::from_str(&yaml).unwrap();
    if service.spec.as_ref().unwrap().type_.as_deref() == Some("LoadBalancer") {
        let status = format!("{{loadBalancer: {{ingress: [{{ip: {BALANCER}}}]}}}}");
        service.status = Some(serde_yaml_ng::from_str(&status).unwrap());
    }
    world.insert_service(Service::from_api(&service));
    world
}

const NAMED: &str = "{clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], selector: {app: api}, ports: [{port: 80, targetPort: http}]}";

fn node_port(policy: &str) -> String {
    format!(
        "{{type: NodePort, clusterIP: 10.96.0.7, selector: {{app: api}}, externalTrafficPolicy: {policy}, \
         ports: [{{port: 80, targetPort: http, nodePort: 30080}}]}}"
    )
}

fn call(world: &World, from: &str, door: Door) -> ServiceVerdict {
    let call = ServiceCall {
        source: from.parse().unwrap(),
        service: ObjectKey::new("shop", "api"),
        protocol: Protocol::Tcp,
        port: 80,
        door,
    };
    evaluate_service(world, &call)
}

/// Per backend: its address and port, the source it sees, and whether the call passes.
fn seen(verdict: &ServiceVerdict) -> Vec<(String, u16, String, bool)> {
    let ServiceVerdict::Backends(backends) = verdict else {
        panic!("{verdict:?}");
    };
    let each = backends.iter().map(|backend| {
        let source = backend.arriving.source.to_string();
        (
            backend.address.to_string(),
            backend.port,
            source,
            backend.verdict.allowed(),
        )
    });
    each.collect()
}

fn expect(backends: &[(&str, u16, &str, bool)]) -> Vec<(String, u16, String, bool)> {
    let each = backends.iter();
    each.map(|(address, port, source, allowed)| {
        ((*address).to_owned(), *port, (*source).to_owned(), *allowed)
    })
    .collect()
}

fn on(node: &str) -> Door {
    Door::NodePort {
        node: node.to_owned(),
    }
}

fn by(node: &str) -> Door {
    Door::External {
        node: node.to_owned(),
    }
}

fn nowhere(verdict: ServiceVerdict) -> Nowhere {
    match verdict {
        ServiceVerdict::Nowhere(nowhere) => nowhere,
        ServiceVerdict::Backends(backends) => panic!("{backends:?}"),
    }
}

#[test]
fn policies_judge_the_target_port_of_each_backend_and_not_the_services_port() {
    let policy = |port: &str| {
        format!("{{podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{ports: [{{port: {port}}}]}}]}}")
    };
    let by_name = call(&shop(NAMED, &[&policy("http")]), WEB, Door::Name);
    assert_eq!(
        seen(&by_name),
        expect(&[(API, 8080, WEB, true), (API2, 9090, WEB, true)])
    );
    assert!(by_name.allowed() && !by_name.is_mixed());
    let one_number = call(&shop(NAMED, &[&policy("8080")]), WEB, Door::Name);
    assert_eq!(
        seen(&one_number),
        expect(&[(API, 8080, WEB, true), (API2, 9090, WEB, false)])
    );
    assert!(
        !one_number.allowed() && one_number.is_mixed(),
        "it works now and then"
    );
    let service_port = call(&shop(NAMED, &[&policy("80")]), WEB, Door::Name);
    assert_eq!(
        seen(&service_port),
        expect(&[(API, 8080, WEB, false), (API2, 9090, WEB, false)])
    );
}

#[test]
fn egress_is_judged_after_the_destination_was_rewritten() {
    let egress = |to: &str| {
        let policy = format!(
            "{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{{to: [{to}]}}]}}"
        );
        call(&shop(NAMED, &[&policy]), WEB, Door::Name).allowed()
    };
    assert!(egress("{podSelector: {matchLabels: {app: api}}}"));
    assert!(
        !egress("{ipBlock: {cidr: 10.96.0.0/12}}"),
        "the virtual address is never seen"
    );
}

#[test]
fn a_missing_target_port_is_the_same_number() {
    let plain = "{clusterIP: 10.96.0.7, selector: {app: api}, ports: [{port: 80}]}";
    assert_eq!(
        seen(&call(&shop(plain, &[]), WEB, Door::Name)),
        expect(&[(API, 80, WEB, true), (API2, 80, WEB, true)])
    );
}

#[test]
fn a_pod_that_does_not_declare_the_name_is_no_backend() {
    let mut world = shop(NAMED, &[]);
    world
        .pods
        .get_mut(&ObjectKey::new("shop", "api-2"))
        .unwrap()
        .ports
        .clear();
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(API, 8080, WEB, true)])
    );
}

#[test]
fn a_pod_that_reaches_itself_through_its_service_is_never_denied() {
    let world = shop(NAMED, &["{podSelector: {}, policyTypes: [Ingress, Egress]}"]);
    let ServiceVerdict::Backends(backends) = call(&world, API, Door::Name) else {
        panic!("no backends");
    };
    assert_eq!(backends[0].verdict.ingress, DirectionVerdict::AlwaysAllowed);
    assert_eq!(
        backends.iter().map(|b| b.verdict.allowed()).collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn pods_that_are_not_ready_finished_or_terminating_are_no_backends() {
    let first = ObjectKey::new("shop", "api");
    let mut world = shop(NAMED, &[]);
    world.unready.insert(first.clone());
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(API2, 9090, WEB, true)])
    );
    world.unready.clear();
    world.pods.get_mut(&first).unwrap().terminating = true;
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(API2, 9090, WEB, true)])
    );
    world.pods.remove(&ObjectKey::new("shop", "api-2"));
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(API, 8080, WEB, true)]),
        "nobody else is left"
    );
    world.pods.get_mut(&first).unwrap().finished = true;
    assert_eq!(nowhere(call(&world, WEB, Door::Name)), Nowhere::NoBackend);
}

#[test]
fn pods_that_are_not_ready_are_backends_where_the_service_says_so() {
    let publish = NAMED.replace("selector", "publishNotReadyAddresses: true, selector");
    let mut world = shop(&publish, &[]);
    world.unready.insert(ObjectKey::new("shop", "api"));
    assert_eq!(seen(&call(&world, WEB, Door::Name)).len(), 2);
}

#[test]
fn nothing_rewrites_a_packet_to_a_headless_service() {
    let headless = "{clusterIP: None, selector: {app: api}, ports: [{port: 80, targetPort: http}]}";
    let world = shop(
        headless,
        &["{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: http}]}]}"],
    );
    let verdict = call(&world, WEB, Door::Name);
    assert_eq!(
        seen(&verdict),
        expect(&[(API, 80, WEB, false), (API2, 80, WEB, false)])
    );
}

#[test]
fn a_service_without_selector_leads_where_its_endpoint_slices_say() {
    let mut world = shop(
        "{clusterIP: 10.96.0.7, ports: [{name: db, port: 80, targetPort: 5432}]}",
        &[
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.7/32}}], ports: [{port: 5432}]}]}",
        ],
    );
    assert_eq!(nowhere(call(&world, WEB, Door::Name)), Nowhere::NoBackend);
    let slice: discovery::EndpointSlice = serde_yaml_ng::from_str(&format!(
        "{{metadata: {{namespace: shop, name: api-1, labels: {{kubernetes.io/service-name: api}}}}, addressType: IPv4, \
         ports: [{{name: db, port: 5432}}, {{name: metrics, port: 1}}], endpoints: [{{addresses: [{OUTSIDE}]}}, \
         {{addresses: [203.0.113.8], conditions: {{ready: false}}}}, {{addresses: [203.0.113.9], conditions: {{ready: true}}}}]}}"
    ))
    .unwrap();
    world.insert_endpoint_slice(EndpointSlice::from_api(&slice).unwrap());
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(OUTSIDE, 5432, WEB, true), ("203.0.113.9", 5432, WEB, false)])
    );
}

#[test]
fn endpoint_slices_count_before_the_selector() {
    let mut world = shop(NAMED, &[]);
    let slice: discovery::EndpointSlice = serde_yaml_ng::from_str(&format!(
        "{{metadata: {{namespace: shop, name: s, labels: {{kubernetes.io/service-name: api}}}}, addressType: IPv4, \
         ports: [{{port: 7}}], endpoints: [{{addresses: [{API}], conditions: {{ready: false, serving: true, terminating: true}}}}]}}"
    ))
    .unwrap();
    world.insert_endpoint_slice(EndpointSlice::from_api(&slice).unwrap());
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(API, 7, WEB, true)]),
        "the last one that serves"
    );
    let mut other = EndpointSlice::from_api(&slice).unwrap();
    other.service = "another".to_owned();
    world.insert_endpoint_slice(other);
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)).len(),
        2,
        "no slice is this Service's any more"
    );
}

#[test]
fn a_node_port_with_policy_cluster_shows_the_nodes_address_to_backends_elsewhere() {
    let client =
        "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}";
    let world = shop(&node_port("Cluster"), &[client]);
    assert_eq!(
        seen(&call(&world, OUTSIDE, on("node-a"))),
        expect(&[(API, 8080, OUTSIDE, true), (API2, 9090, NODE, false)]),
        "the dialled node's own backend is judged before that node hides the client"
    );
    assert_eq!(
        seen(&call(&world, OUTSIDE, on("node-b"))),
        expect(&[(API, 8080, OTHER_NODE, false), (API2, 9090, OUTSIDE, true)])
    );
}

#[test]
fn a_node_port_with_policy_local_keeps_the_client_and_serves_from_that_node_only() {
    let mut world = shop(&node_port("Local"), &[]);
    assert_eq!(
        seen(&call(&world, OUTSIDE, on("node-a"))),
        expect(&[(API, 8080, OUTSIDE, true)])
    );
    world.pods.remove(&ObjectKey::new("shop", "api"));
    assert_eq!(
        nowhere(call(&world, OUTSIDE, on("node-a"))),
        Nowhere::NoLocalBackend
    );
}

#[test]
fn a_pod_that_dials_another_nodes_port_is_judged_twice() {
    let egress = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 172.30.0.4/32}}], ports: [{port: 30080}]}]}";
    let world = shop(&node_port("Cluster"), &[egress]);
    let verdict = call(&world, WEB, on("node-b"));
    assert_eq!(
        seen(&verdict),
        expect(&[(API, 8080, OTHER_NODE, true), (API2, 9090, WEB, true)])
    );
    let at_home = call(&world, WEB, on("node-a"));
    assert_eq!(
        seen(&at_home),
        expect(&[(API, 8080, WEB, false), (API2, 9090, NODE, false)]),
        "its own node rewrites the destination before egress is judged"
    );
}

#[test]
fn a_pod_that_dials_another_node_with_policy_local_hears_only_from_backends_there() {
    let world = shop(&node_port("Local"), &[]);
    let answered = |from, node| {
        let verdict = call(&world, from, on(node));
        let ServiceVerdict::Backends(backends) = &verdict else {
            panic!("{verdict:?}");
        };
        let each: Vec<bool> = backends.iter().map(|backend| backend.answered).collect();
        (each, verdict.allowed(), verdict.is_mixed())
    };
    // The api pod on the caller's own node answers straight to the caller, from an address that was never dialled.
    assert_eq!(answered(WEB, "node-b"), (vec![false, true], false, true));
    assert_eq!(answered(WEB, "node-a"), (vec![true, true], true, false));
    // What calls itself by way of another node comes back with that node's address.
    assert_eq!(
        seen(&call(&world, API, on("node-b"))),
        expect(&[(API, 8080, OTHER_NODE, true), (API2, 9090, API, true)])
    );
    assert_eq!(answered(API, "node-b"), (vec![true, true], true, false));
    assert_eq!(answered(OUTSIDE, "node-b"), (vec![true], true, false));
}

#[test]
fn a_load_balancer_brings_clients_in_by_a_node_and_pods_by_their_own() {
    let balancer = |policy: &str| node_port(policy).replace("NodePort", "LoadBalancer");
    let cluster = shop(&balancer("Cluster"), &[]);
    assert_eq!(
        seen(&call(&cluster, OUTSIDE, by("node-b"))),
        expect(&[(API, 8080, OTHER_NODE, true), (API2, 9090, OUTSIDE, true)])
    );
    assert_eq!(
        seen(&call(&cluster, WEB, by("node-b"))),
        expect(&[(API, 8080, WEB, true), (API2, 9090, NODE, true)])
    );
    let local = shop(&balancer("Local"), &[]);
    assert_eq!(
        seen(&call(&local, OUTSIDE, by("node-b"))),
        expect(&[(API2, 9090, OUTSIDE, true)])
    );
    assert_eq!(
        seen(&call(&local, WEB, by("node-b"))),
        expect(&[(API, 8080, WEB, true), (API2, 9090, WEB, true)]),
        "pods are served as by the virtual address"
    );
}

#[test]
fn internal_traffic_policy_local_serves_from_the_callers_node_only() {
    let local = NAMED.replace("selector", "internalTrafficPolicy: Local, selector");
    let mut world = shop(&local, &[]);
    assert_eq!(
        seen(&call(&world, WEB, Door::Name)),
        expect(&[(API, 8080, WEB, true)])
    );
    assert_eq!(
        seen(&call(&world, OTHER, Door::Name)),
        expect(&[(API2, 9090, OTHER, true)])
    );
    world.pods.remove(&ObjectKey::new("shop", "api"));
    assert_eq!(nowhere(call(&world, WEB, Door::Name)), Nowhere::NoLocalBackend);
}

#[test]
fn a_call_that_leads_nowhere_says_why() {
    let world = shop(NAMED, &[]);
    assert_eq!(nowhere(call(&world, OUTSIDE, Door::Name)), Nowhere::FromOutside);
    assert_eq!(nowhere(call(&world, WEB, on("node-a"))), Nowhere::NoDoor);
    assert_eq!(nowhere(call(&world, WEB, by("node-a"))), Nowhere::NoDoor);
    assert_eq!(
        nowhere(call(&shop(&node_port("Cluster"), &[]), WEB, on("node-z"))),
        Nowhere::NoNode
    );
    let name = shop(
        "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}",
        &[],
    );
    assert_eq!(nowhere(call(&name, WEB, Door::Name)), Nowhere::ExternalName);
    let mut other = ServiceCall {
        source: WEB.parse().unwrap(),
        service: ObjectKey::new("shop", "api"),
        protocol: Protocol::Udp,
        port: 80,
        door: Door::Name,
    };
    assert_eq!(nowhere(evaluate_service(&world, &other)), Nowhere::NoPort);
    other.service.name = "nope".to_owned();
    assert_eq!(nowhere(evaluate_service(&world, &other)), Nowhere::NoService);
    other = ServiceCall {
        source: "fd00::1".parse().unwrap(),
        service: ObjectKey::new("shop", "api"),
        protocol: Protocol::Tcp,
        ..other
    };
    assert_eq!(
        nowhere(evaluate_service(&world, &other)),
        Nowhere::NoDoor,
        "of the other family"
    );
}
