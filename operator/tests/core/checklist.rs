//! The checklist, step by step, and foreign openings by pod and port.

use ringfence_crd::StepStatus;
use ringfence_operator::view::ClusterView;
use serde_json::json;

use crate::cluster::{ApiServer, insert, view};
use crate::status::{HOME, of_namespace, settled};

/// The steps of a namespace that are of this status.
fn steps(view: &ClusterView, wanted: StepStatus) -> Vec<String> {
    let checklist = of_namespace(view, &[], 0).checklist;
    let found = checklist.into_iter().filter(|item| item.status == wanted);
    found.map(|item| item.step).collect()
}

fn message(view: &ClusterView, step: &str) -> String {
    let checklist = of_namespace(view, &[], 0).checklist;
    checklist
        .into_iter()
        .find(|item| item.step == step)
        .unwrap()
        .message
}

#[test]
fn each_step_is_done_to_do_or_not_applicable() {
    let view = settled();
    assert_eq!(
        steps(&view, StepStatus::True),
        [
            "PodsLabelled",
            "DefaultDeny",
            "IngressGranted",
            "EgressGranted",
            "HealthChecks"
        ]
    );
    assert_eq!(
        steps(&view, StepStatus::False),
        ["EnforcementKnown", "NamespaceLabelled", "Dns"]
    );
    assert_eq!(
        steps(&view, StepStatus::NotApplicable),
        [
            "PathsKnown",
            "Monitoring",
            "ApiServer",
            "ExternalEgress",
            "PathsVerified",
            "StatefulSetPeers",
            "RollingUpdates",
            "DropsLogged"
        ]
    );
}

#[test]
fn what_is_to_be_done_names_the_object_and_the_remedy() {
    let mut view = settled();
    for object in [
        json!({"kind": "Service", "metadata": {"name": "db", "namespace": "home"},
            "spec": {"selector": {"app": "db"}, "ports": [{"port": 5432}]}}),
        json!({"kind": "StatefulSet", "metadata": {"name": "store", "namespace": "home"},
            "spec": {"serviceName": "", "selector": {"matchLabels": {"app": "store"}}, "template": {}}}),
        json!({"kind": "Pod", "metadata": {"name": "bare", "namespace": "home",
                "annotations": {"prometheus.io/scrape": "true"}},
            "spec": {"containers": [{"name": "c"}]}}),
        json!({"kind": "Service", "metadata": {"name": "far", "namespace": "away"},
            "spec": {"selector": {"app": "far"}, "ports": [{"port": 1}]}}),
        json!({"kind": "ServiceAccess", "metadata": {"name": "far", "namespace": "away"},
            "spec": {"targetRef": {"name": "far"}, "clients": [{"namespace": "home"}]}}),
    ] {
        insert(&mut view, object);
    }
    for (step, names, remedy) in [
        ("IngressGranted", "db", "ServiceAccess"),
        ("StatefulSetPeers", "store", "StatefulSetPeers"),
        ("PodsLabelled", "bare", "Label them"),
        ("Monitoring", "bare", "spec.allow.monitoring"),
        ("EgressGranted", "away/far", "spec.acceptEgressFrom"),
        ("Dns", "spec.allow.dns.enabled", "by name"),
    ] {
        let message = message(&view, step);
        assert!(
            message.contains(names) && message.contains(remedy),
            "{step}: {message}"
        );
        assert!(
            steps(&view, StepStatus::False).contains(&step.to_owned()),
            "{step}"
        );
    }
}

#[test]
fn audit_denies_nothing_and_says_what_is_missing() {
    let view = view(&HOME.replace("mode: Enforce", "mode: Audit"));
    let to_do = steps(&view, StepStatus::False);
    assert!(to_do.contains(&"DefaultDeny".to_owned()) && to_do.contains(&"PathsKnown".to_owned()));
    assert!(message(&view, "DefaultDeny").contains("spec.mode"));
}

#[test]
fn a_foreign_opening_is_named_by_policy_rule_pod_and_port() {
    let mut view = view(HOME);
    ApiServer::new().settle(&mut view, "home");
    insert(
        &mut view,
        json!({"kind": "NetworkPolicy", "metadata": {"name": "debug", "namespace": "home"}, "spec": {
            "podSelector": {"matchLabels": {"app": "api"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 6060}]}]}}),
    );
    let status = of_namespace(&view, &[], 0);
    let reopened = status.coverage.unwrap().reopened;
    assert_eq!(reopened.len(), 1);
    let found = &reopened[0];
    assert_eq!(
        (found.policy.as_str(), found.rule.as_str(), found.pod_count),
        ("debug", "spec.ingress[0]", 2)
    );
    assert_eq!(found.pods, ["api-0", "api-1"]);
    assert!(
        found.peers.contains("10.0.0.0/8") && found.ports.contains("6060"),
        "{found:?}"
    );
}
