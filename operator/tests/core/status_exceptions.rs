//! What the operator says of exemptions, and of openings that are derived.

use serde_json::json;

use crate::cluster::{ApiServer, insert, view};
use crate::status::{HOME, in_short, of_namespace};

#[test]
fn pods_left_alone_on_purpose_are_counted_apart() {
    let mut view = view(&HOME.replace(
        "{mode: Enforce,",
        "{mode: Enforce, exempt: [{key: app, operator: In, values: [deployer]}],",
    ));
    let deployer = json!({
        "kind": "Pod", "metadata": {"name": "deployer", "namespace": "home", "labels": {"app": "deployer"}},
        "spec": {"containers": []}, "status": {"phase": "Running"},
    });
    insert(&mut view, deployer);
    ApiServer::new().settle(&mut view, "home");
    let status = of_namespace(&view, &[], 0);
    let coverage = status.coverage.unwrap();
    assert_eq!((coverage.pods, coverage.exempt), (2, 1));
    assert_eq!(
        (coverage.isolated_ingress, coverage.isolated_egress),
        (2, 2),
        "and not isolated"
    );
    assert_eq!(status.covered.as_deref(), Some("2/2"));
    assert!(in_short(&status.conditions).contains(&"Covered=True Covered".to_owned()));
}

#[test]
fn callers_that_can_not_be_told_apart_are_named_and_keep_nothing_from_being_ready() {
    let mut view = view(&HOME.replace(
        "{mode: Enforce, allow: {",
        "{mode: Enforce, allow: {external: [{service: door}], ",
    ));
    let door = json!({
        "kind": "Service", "metadata": {"name": "door", "namespace": "home"},
        "spec": {"type": "NodePort", "selector": {"app": "api"}, "ports": [{"port": 80}]},
    });
    insert(&mut view, door);
    ApiServer::new().settle(&mut view, "home");
    let status = of_namespace(&view, &[], 0);
    let short = in_short(&status.conditions);
    assert_eq!(short[0], "Ready=True AsExpected");
    let covered = status.conditions.iter().find(|c| c.type_ == "Covered").unwrap();
    assert_eq!(covered.status, "True");
    assert!(covered.message.contains("home/door"), "{}", covered.message);
}

#[test]
fn what_an_opening_lacks_is_said_by_what_it_is_derived_from() {
    let mut view = view(&HOME.replace(
        "{mode: Enforce, allow: {",
        "{mode: Enforce, allow: {ingressControllers: {from: [{podSelector: {}}]}, apiServer: {clients: [{podSelector: {}}]}, ",
    ));
    let backend = json!({"service": {"name": "gone", "port": {"number": 80}}});
    let ingress = json!({
        "kind": "Ingress", "metadata": {"name": "site", "namespace": "home"}, "spec": {"defaultBackend": backend},
    });
    insert(&mut view, ingress);
    ApiServer::new().settle(&mut view, "home");
    let status = of_namespace(&view, &[], 0);
    let resolved = status
        .conditions
        .iter()
        .find(|c| c.type_ == "ResolvedRefs")
        .unwrap();
    assert_eq!(
        (resolved.status.as_str(), resolved.reason.as_str()),
        ("False", "TargetNotFound")
    );
    for said in ["Ingress home/site", "Service home/gone", "default/kubernetes"] {
        assert!(resolved.message.contains(said), "{}", resolved.message);
    }
    assert!(in_short(&status.conditions).contains(&"Reconciling=True TargetNotFound".to_owned()));
}
