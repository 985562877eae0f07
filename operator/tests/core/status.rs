//! What the operator says, case by case.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use ringfence_crd::{ServiceAccessStatus, ZeroTrustNamespaceStatus};
use ringfence_operator::form::Kind;
use ringfence_operator::generate::outline;
use ringfence_operator::status::{
    AccessInput, NamespaceInput, WriteFailure, access_status, namespace_status,
};
use ringfence_operator::view::ClusterView;
use ringfence_policy::ObjectKey;
use serde_json::json;

use crate::cluster::{ApiServer, generated, insert, view};

pub(crate) const HOME: &str = "
kind: Namespace
metadata: {name: home}
---
kind: Namespace
metadata: {name: away}
---
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home, generation: 3}
spec: {mode: Enforce, allow: {dns: {enabled: false}}}
---
kind: Service
metadata: {name: api, namespace: home}
spec: {selector: {app: api}, ports: [{port: 80}]}
---
kind: ServiceAccess
metadata: {name: api, namespace: home, generation: 2}
spec: {targetRef: {name: api}, clients: [{podSelector: {matchLabels: {app: web}}}]}
---
kind: Deployment
metadata: {name: api, namespace: home}
spec: {replicas: 2, template: {metadata: {labels: {app: api}}, spec: {containers: [{name: api}]}}}
";

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn settled() -> ClusterView {
    let mut view = view(HOME);
    ApiServer::new().settle(&mut view, "home");
    view
}

pub(crate) fn of_namespace(
    view: &ClusterView,
    failures: &[WriteFailure],
    now: i64,
) -> ZeroTrustNamespaceStatus {
    let generated = generated(view, "home");
    let resource = &view.zero_trust["home"];
    namespace_status(&NamespaceInput {
        view,
        resource,
        generated: &generated,
        failures,
        now: at(now),
    })
}

pub(crate) fn of_access(view: &ClusterView) -> ServiceAccessStatus {
    let resource = &view.accesses[&ObjectKey::new("home", "api")];
    let outline = outline(view, resource);
    access_status(&AccessInput {
        view,
        resource,
        outline: &outline,
        failures: &[],
        now: at(0),
    })
}

pub(crate) fn in_short(conditions: &[Condition]) -> Vec<String> {
    conditions
        .iter()
        .map(|c| format!("{}={} {}", c.type_, c.status, c.reason))
        .collect()
}

#[test]
fn everything_in_place() {
    let view = settled();
    let status = of_namespace(&view, &[], 0);
    assert_eq!(
        in_short(&status.conditions),
        [
            "Ready=True AsExpected",
            "Accepted=True Accepted",
            "ResolvedRefs=True Resolved",
            "Programmed=True Programmed",
            "Covered=True Covered",
            "Enforced=Unknown NoEnforcer",
        ]
    );
    assert_eq!(
        (status.covered.as_deref(), status.enforced.as_deref()),
        (Some("2/2"), Some("Unknown"))
    );
    assert_eq!((status.policy_count, status.policies.len()), (Some(4), 4));
    assert_eq!(status.observed_generation, Some(3));
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(3))
    );

    let status = of_access(&view);
    assert_eq!(
        in_short(&status.conditions),
        [
            "Ready=True AsExpected",
            "Accepted=True Accepted",
            "ResolvedRefs=True Resolved",
            "Programmed=True Programmed",
            "Enforced=Unknown NoEnforcer",
        ]
    );
    assert_eq!((status.backends, status.policy_count), (Some(2), Some(2)));
}

#[test]
fn before_anything_is_written_it_is_working_and_covers_nothing() {
    let status = of_namespace(&view(HOME), &[], 0);
    assert_eq!(
        in_short(&status.conditions),
        [
            "Ready=Unknown Programming",
            "Accepted=True Accepted",
            "ResolvedRefs=True Resolved",
            "Programmed=Unknown Programming",
            "Covered=False PodsUncovered",
            "Enforced=Unknown NoEnforcer",
            "Reconciling=True Programming",
        ]
    );
    let coverage = status.coverage.unwrap();
    assert_eq!(
        (coverage.pods, coverage.isolated_ingress, coverage.isolated_egress),
        (2, 0, 0)
    );
    assert_eq!(coverage.uncovered, ["api-0", "api-1"]);
    assert_eq!(status.covered.as_deref(), Some("0/2"));
}

#[test]
fn a_status_with_nothing_new_is_the_same_whatever_the_time() {
    let mut view = settled();
    let first = of_namespace(&view, &[], 100);
    let mut resource = (*view.zero_trust["home"]).clone();
    let mut stored = first.clone();
    stored.conditions.reverse();
    stored.conditions.push(Condition {
        type_: "example.com/Audited".to_owned(),
        ..stored.conditions[0].clone()
    });
    resource.status = Some(stored.clone());
    view.insert_zero_trust(resource.into());
    assert_eq!(
        of_namespace(&view, &[], 999),
        stored,
        "order and conditions of others stay"
    );
}

#[test]
fn a_transition_time_moves_with_the_status_only() {
    let mut view = view(HOME);
    let working = of_namespace(&view, &[], 100);
    let mut resource = (*view.zero_trust["home"]).clone();
    resource.status = Some(working);
    view.insert_zero_trust(resource.into());
    ApiServer::new().settle(&mut view, "home");
    let done = of_namespace(&view, &[], 200);
    let time = |kind: &str| {
        done.conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .unwrap()
            .last_transition_time
            .0
            .as_second()
    };
    assert_eq!(time("Accepted"), 100);
    assert_eq!(time("Enforced"), 100);
    assert_eq!(time("Programmed"), 200);
    assert_eq!(time("Ready"), 200);
}

#[test]
fn a_conflict_stalls_and_names_the_policy_and_the_remedy() {
    let mut view = view(HOME);
    insert(
        &mut view,
        json!({
            "kind": "NetworkPolicy", "metadata": {"name": "ringfence-deny-ingress", "namespace": "home"},
            "spec": {"podSelector": {}},
        }),
    );
    ApiServer::new().settle(&mut view, "home");
    let status = of_namespace(&view, &[], 0);
    let short = in_short(&status.conditions);
    assert!(
        short.contains(&"Ready=False NameConflict".to_owned()),
        "{short:?}"
    );
    assert!(short.contains(&"Stalled=True NameConflict".to_owned()));
    assert!(!short.iter().any(|line| line.starts_with("Reconciling")));
    let message = &status.conditions[0].message;
    assert!(
        message.contains("home/ringfence-deny-ingress") && message.contains("Rename or delete"),
        "{message}"
    );
    assert_eq!(status.policy_count, Some(3), "theirs is not counted");
}

#[test]
fn a_refused_write_is_said_and_tried_again() {
    let failure = WriteFailure {
        kind: Kind::Policy,
        policy: ObjectKey::new("home", "ringfence-deny-egress"),
        message: "quota".to_owned(),
    };
    let status = of_namespace(&view(HOME), &[failure], 0);
    let short = in_short(&status.conditions);
    assert!(
        short.contains(&"Ready=False WriteFailed".to_owned())
            && short.contains(&"Reconciling=True WriteFailed".to_owned())
    );
    assert!(
        status.conditions[0].message.contains("ringfence-deny-egress")
            && status.conditions[0].message.contains("quota")
    );
}

#[test]
fn a_target_that_is_gone_is_waited_for() {
    let mut view = settled();
    view.services.clear();
    ApiServer::new().settle(&mut view, "home");
    let status = of_access(&view);
    assert_eq!(
        in_short(&status.conditions),
        [
            "Ready=False TargetNotFound",
            "Accepted=True Accepted",
            "ResolvedRefs=False TargetNotFound",
            "Programmed=True Programmed",
            "Enforced=Unknown NoEnforcer",
            "Reconciling=True TargetNotFound",
        ]
    );
    assert!(
        status.conditions[0]
            .message
            .contains("Service home/api does not exist")
    );
    assert_eq!((status.backends, status.policy_count), (Some(0), Some(0)));
    let namespace = of_namespace(&view, &[], 0);
    assert_eq!(
        in_short(&namespace.conditions)[0],
        "Ready=True AsExpected",
        "one broken grant is not the namespace's fault"
    );
}

#[test]
fn an_unsupported_service_needs_a_person() {
    let mut view = settled();
    insert(
        &mut view,
        json!({
            "kind": "Service", "metadata": {"name": "api", "namespace": "home"},
            "spec": {"type": "ExternalName", "externalName": "example.com"},
        }),
    );
    let short = in_short(&of_access(&view).conditions);
    assert!(
        short.contains(&"Stalled=True UnsupportedService".to_owned()),
        "{short:?}"
    );
}

#[test]
fn a_grant_where_nothing_is_denied_is_not_needed() {
    let mut view = view(HOME);
    view.zero_trust.clear();
    view.written.clear();
    let short = in_short(&of_access(&view).conditions);
    assert_eq!(short[..2], ["Ready=True NotNeeded", "Accepted=True NotNeeded"]);
}

#[test]
fn a_grant_is_programming_until_its_policies_are_there_and_its_old_ones_gone() {
    let short = in_short(&of_access(&view(HOME)).conditions);
    assert!(
        short.contains(&"Programmed=Unknown Programming".to_owned()),
        "{short:?}"
    );
    let mut view = settled();
    view.services.clear();
    let short = in_short(&of_access(&view).conditions);
    assert!(
        short.contains(&"Programmed=Unknown Programming".to_owned()),
        "still to be deleted: {short:?}"
    );
}

#[test]
fn policies_of_others_that_open_covered_pods_are_named() {
    let theirs = |name: &str, spec: serde_json::Value| json!({"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "home"}, "spec": spec});
    let mut view = settled();
    insert(&mut view, theirs("closes-too", json!({"podSelector": {}})));
    insert(
        &mut view,
        theirs(
            "of-nobody",
            json!({"podSelector": {"matchLabels": {"app": "none"}}, "ingress": [{}]}),
        ),
    );
    assert!(in_short(&of_namespace(&view, &[], 0).conditions).contains(&"Covered=True Covered".to_owned()));

    insert(
        &mut view,
        theirs(
            "opens",
            json!({"podSelector": {"matchLabels": {"app": "api"}}, "ingress": [{}]}),
        ),
    );
    let status = of_namespace(&view, &[], 0);
    let covered = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Covered")
        .unwrap();
    assert_eq!(
        (covered.status.as_str(), covered.reason.as_str()),
        ("False", "Overridden")
    );
    assert!(
        covered.message.contains("opens") && !covered.message.contains("closes-too"),
        "{}",
        covered.message
    );
    assert_eq!(
        in_short(&status.conditions)[0],
        "Ready=True AsExpected",
        "Covered does not change Ready"
    );
}

#[test]
fn policies_of_others_that_repeat_what_is_allowed_anyway_open_nothing() {
    let mut view = settled();
    let ours = view.policies["home"].clone();
    assert!(ours.len() > 2);
    for (number, policy) in ours.iter().enumerate() {
        let name = format!("repeats-{number}");
        let copy = json!({"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "home"}, "spec": policy.spec});
        insert(&mut view, copy);
    }
    assert!(in_short(&of_namespace(&view, &[], 0).conditions).contains(&"Covered=True Covered".to_owned()));
}

#[test]
fn host_network_and_finished_pods_are_not_counted_as_coverable() {
    let pod = |name: &str, spec: serde_json::Value, phase: &str| json!({"kind": "Pod", "metadata": {"name": name, "namespace": "home"}, "spec": spec, "status": {"phase": phase}});
    let mut view = settled();
    insert(
        &mut view,
        pod("agent", json!({"hostNetwork": true, "containers": []}), "Running"),
    );
    insert(&mut view, pod("job", json!({"containers": []}), "Succeeded"));
    let status = of_namespace(&view, &[], 0);
    let coverage = status.coverage.unwrap();
    assert_eq!((coverage.pods, coverage.host_network), (2, 1));
    assert_eq!(status.covered.as_deref(), Some("2/2"));
}

#[test]
fn names_of_uncovered_pods_are_bounded() {
    let mut view = view(HOME);
    for n in 0..40 {
        insert(
            &mut view,
            json!({
                "kind": "Pod", "metadata": {"name": format!("pod-{n:02}"), "namespace": "home"},
                "spec": {"containers": []}, "status": {"phase": "Running"},
            }),
        );
    }
    let status = of_namespace(&view, &[], 0);
    assert_eq!(status.coverage.unwrap().uncovered.len(), 10);
    let covered = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Covered")
        .unwrap();
    assert!(covered.message.contains("and 32 more"), "{}", covered.message);
}
