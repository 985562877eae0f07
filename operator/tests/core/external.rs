//! What an ExternalAccess leads to, and what is said of its names.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use ringfence_operator::dns::{Place, Resolution, State};
use ringfence_operator::generate::{Problem, outline_external};
use ringfence_operator::status::{ExternalInput, external_status};
use ringfence_operator::view::ClusterView;
use ringfence_policy::ObjectKey;
use serde_json::{Value, json};

use crate::cluster::{ApiServer, generated, insert};
use crate::generate::{home, spec};

/// Namespace `home` with an ExternalAccess `out` of this spec.
fn cluster(spec: &Value) -> ClusterView {
    let mut view = home("");
    insert(
        &mut view,
        json!({"kind": "ExternalAccess", "metadata": {"name": "out", "namespace": "home"}, "spec": spec}),
    );
    view
}

fn by_name() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}},
        "egress": [{"to": [{"dnsName": "api.example.com"}], "ports": [{"port": 443}]}]})
}

fn stands_for(view: &mut ClusterView, addresses: &[&str], state: State) {
    let resolution = Resolution {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        state,
        left_out: 0,
    };
    view.names.insert("api.example.com".to_owned(), resolution);
}

fn problems(view: &ClusterView) -> Vec<Problem> {
    let external = &view.externals[&ObjectKey::new("home", "out")];
    let findings = outline_external(view, external).findings;
    findings.into_iter().map(|finding| finding.problem).collect()
}

/// `Type=Status Reason` of the conditions, and the messages.
fn conditions(view: &ClusterView) -> (Vec<String>, String) {
    let mut view = view.clone();
    ApiServer::new().settle(&mut view, "home");
    let resource = &view.externals[&ObjectKey::new("home", "out")];
    let status = external_status(&ExternalInput {
        view: &view,
        resource,
        outline: &outline_external(&view, resource),
        failures: &[],
        now: Timestamp::UNIX_EPOCH,
    });
    let short = status
        .conditions
        .iter()
        .map(|c| format!("{}={} {}", c.type_, c.status, c.reason));
    let messages: Vec<&str> = status.conditions.iter().map(|c| c.message.as_str()).collect();
    (short.collect(), messages.join("\n"))
}

#[test]
fn each_rule_is_a_policy_for_the_chosen_pods() {
    let view = cluster(&json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "egress": [
            {"to": [{"cidr": "0.0.0.0/0", "except": ["192.168.0.0/16", "10.0.0.0/8"]}], "ports": [{"port": 443}]},
            {"to": [{"cidr": "198.51.100.0/24"}], "ports": [{"port": 1000, "endPort": 2000, "protocol": "UDP"}, {"port": 53, "endPort": 53}]},
        ],
        "ingress": [{"from": [{"cidr": "203.0.113.0/24"}]}],
    }));
    let policies = generated(&view, "home").policies;
    let web = json!({"matchLabels": {"app": "web"}});
    let mut egress = spec(&policies, "external-egress");
    egress.sort_by_key(ToString::to_string);
    assert_eq!(
        egress,
        [
            json!({"podSelector": web, "policyTypes": ["Egress"], "egress": [{
            "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.168.0.0/16"]}}],
            "ports": [{"port": 443, "protocol": "TCP"}]}]}),
            json!({"podSelector": web, "policyTypes": ["Egress"], "egress": [{
            "to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}],
            "ports": [{"port": 53, "protocol": "TCP"}, {"port": 1000, "endPort": 2000, "protocol": "UDP"}]}]}),
        ]
    );
    assert_eq!(
        spec(&policies, "external-ingress"),
        [
            json!({"podSelector": web, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]})
        ]
    );
    assert_eq!(conditions(&view).0[0], "Ready=True AsExpected");
}

#[test]
fn only_denied_directions_are_opened() {
    let spec_of = json!({"podSelector": {}, "egress": [{"to": [{"cidr": "203.0.113.0/24"}]}], "ingress": [{"from": [{"cidr": "203.0.113.0/24"}]}]});
    let mut view = cluster(&spec_of);
    insert(
        &mut view,
        json!({"kind": "ZeroTrustNamespace", "metadata": {"name": "default", "namespace": "home"},
        "spec": {"mode": "Enforce", "defaultDeny": {"ingress": false, "egress": true}}}),
    );
    let policies = generated(&view, "home").policies;
    assert_eq!(spec(&policies, "external-egress").len(), 1);
    assert_eq!(spec(&policies, "external-ingress").len(), 0);
    view.zero_trust.clear();
    view.written.clear();
    assert_eq!(problems(&view), [Problem::NotNeeded]);
    assert_eq!(conditions(&view).0[0], "Ready=True NotNeeded");
}

#[test]
fn a_name_is_what_it_stands_for_in_both_families() {
    let mut view = cluster(&by_name());
    stands_for(&mut view, &["203.0.113.7", "2001:db8::7"], State::Answered);
    let policies = generated(&view, "home").policies;
    assert_eq!(
        spec(&policies, "external-egress")[0]["egress"][0]["to"],
        json!([
            {"ipBlock": {"cidr": "2001:db8::7/128"}}, {"ipBlock": {"cidr": "203.0.113.7/32"}},
        ])
    );
    assert_eq!(problems(&view), []);
}

#[test]
fn a_name_without_an_address_is_closed_and_said() {
    for (state, said) in [
        (State::Pending, "is being looked up"),
        (State::Answered, "does not exist or has no address"),
        (State::Failing, "do not answer for api.example.com"),
    ] {
        let mut view = cluster(&by_name());
        stands_for(&mut view, &[], state);
        assert_eq!(
            spec(&generated(&view, "home").policies, "external-egress").len(),
            0
        );
        let (short, messages) = conditions(&view);
        assert_eq!(short[0], "Ready=False NameUnresolved");
        assert!(messages.contains(said), "{messages}");
    }
}

#[test]
fn addresses_are_held_while_nobody_answers_and_that_is_only_a_note() {
    let mut view = cluster(&by_name());
    stands_for(&mut view, &["203.0.113.7"], State::Failing);
    assert_eq!(
        spec(&generated(&view, "home").policies, "external-egress").len(),
        1
    );
    let (short, messages) = conditions(&view);
    assert_eq!(short[0], "Ready=True AsExpected");
    assert!(messages.contains("stay open until they do"), "{messages}");
}

#[test]
fn an_answer_that_points_into_the_cluster_is_refused_and_told() {
    let mut view = cluster(&by_name());
    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}});
    view.inside.insert_node(&serde_json::from_value(node).unwrap());
    stands_for(
        &mut view,
        &["10.244.0.9", "169.254.169.254", "203.0.113.7"],
        State::Answered,
    );
    let policies = generated(&view, "home").policies;
    assert_eq!(
        spec(&policies, "external-egress")[0]["egress"][0]["to"],
        json!([{"ipBlock": {"cidr": "203.0.113.7/32"}}])
    );
    let refused = |address: &str, place| Problem::AddressRefused {
        name: "api.example.com".to_owned(),
        address: address.parse::<IpAddr>().unwrap(),
        place,
    };
    assert_eq!(
        problems(&view),
        [
            refused("10.244.0.9", Place::Pod),
            refused("169.254.169.254", Place::LinkLocal)
        ]
    );
    let (short, messages) = conditions(&view);
    assert_eq!(short[0], "Ready=False AddressRefused");
    assert!(
        messages.contains("10.244.0.9, which is an address of the cluster's pods"),
        "{messages}"
    );
}

#[test]
fn many_addresses_are_spread_over_policies() {
    let mut view = cluster(
        &json!({"podSelector": {}, "egress": [{"to": [{"dnsName": "api.example.com"}, {"dnsName": "b.example.com"}]}]}),
    );
    let many = |third: u8| Resolution {
        addresses: (0..200).map(|n| IpAddr::from([203, 0, third, n])).collect(),
        state: State::Answered,
        left_out: 3,
    };
    view.names.insert("api.example.com".to_owned(), many(113));
    view.names.insert("b.example.com".to_owned(), many(114));
    let specs = spec(&generated(&view, "home").policies, "external-egress");
    let sizes: usize = specs
        .iter()
        .map(|spec| spec["egress"][0]["to"].as_array().unwrap().len())
        .sum();
    assert_eq!((specs.len(), sizes), (2, 400));
    let (short, messages) = conditions(&view);
    assert_eq!(short[0], "Ready=False TooManyAddresses");
    assert!(
        messages.contains("api.example.com has 3 addresses more than are followed"),
        "{messages}"
    );
}
