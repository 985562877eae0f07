//! What is written, and in which order, case by case.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicySpec};
use kube::ResourceExt;
use ringfence_operator::transition::{Cause, Step};
use ringfence_operator::view::ClusterView;
use ringfence_policy::ObjectKey;
use serde_json::{Value, json};

use crate::cluster::{ApiServer, edit, insert, outline, planned, view, written_by};

const HOME: &str = "
kind: Namespace
metadata: {name: home}
---
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce, defaultDeny: {ingress: true, egress: false}, allow: {sameNamespace: All}}
---
kind: Deployment
metadata: {name: api, namespace: home}
spec: {replicas: 2, template: {metadata: {labels: {app: api}}, spec: {containers: [{name: api}]}}}
";

fn home() -> ClusterView {
    view(HOME)
}

fn settled() -> (ClusterView, ApiServer) {
    let (mut view, mut api) = (home(), ApiServer::new());
    api.settle(&mut view, "home");
    (view, api)
}

fn causes(view: &ClusterView) -> Vec<Cause> {
    let cause = |step: Step| match step {
        Step::Create { cause, .. } | Step::Replace { cause, .. } | Step::Delete { cause, .. } => cause,
    };
    planned(view, "home").steps.into_iter().map(cause).collect()
}

fn selector(step: &Step) -> Value {
    match step {
        Step::Create { policy, .. } => {
            serde_json::to_value(&policy.spec.as_ref().unwrap().pod_selector).unwrap()
        }
        _ => Value::Null,
    }
}

#[test]
fn turning_on_is_bridge_allow_deny_bridge_away() {
    assert_eq!(
        outline(&planned(&home(), "home")),
        [
            "create ringfence-bridge-ingress",
            "create ringfence-deny-ingress",
            "create ringfence-same-namespace-ingress",
            "delete ringfence-bridge-ingress",
        ]
    );
}

#[test]
fn turning_off_is_bridge_everything_away_bridge_away() {
    let (mut view, _) = settled();
    view.zero_trust.clear();
    view.written.clear();
    assert_eq!(
        outline(&planned(&view, "home")),
        [
            "create ringfence-bridge-ingress",
            "delete ringfence-deny-ingress",
            "delete ringfence-same-namespace-ingress",
            "delete ringfence-bridge-ingress",
        ]
    );
}

#[test]
fn what_one_write_does_needs_no_bridge() {
    let mut view = home();
    insert(
        &mut view,
        json!({
            "kind": "ZeroTrustNamespace", "metadata": {"name": "default", "namespace": "home"},
            "spec": {"mode": "Enforce", "defaultDeny": {"ingress": true, "egress": false}},
        }),
    );
    assert_eq!(
        outline(&planned(&view, "home")),
        ["create ringfence-deny-ingress"]
    );
}

#[test]
fn without_pods_there_is_nothing_to_keep_open() {
    let mut view = home();
    view.pods.clear();
    assert_eq!(outline(&planned(&view, "home")).len(), 2);
}

#[test]
fn a_bridge_spares_pods_that_others_isolate() {
    let mut view = home();
    insert(
        &mut view,
        json!({
            "kind": "Pod", "metadata": {"name": "db", "namespace": "home", "labels": {"app": "db"}},
            "spec": {"containers": []}, "status": {"phase": "Running"},
        }),
    );
    insert(
        &mut view,
        json!({
            "kind": "NetworkPolicy", "metadata": {"name": "theirs", "namespace": "home"},
            "spec": {"podSelector": {"matchLabels": {"app": "db"}}},
        }),
    );
    let plan = planned(&view, "home");
    assert_eq!(
        selector(&plan.steps[0]),
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]})
    );
}

#[test]
fn nothing_is_written_twice() {
    let (view, _) = settled();
    assert_eq!(planned(&view, "home").steps, vec![]);
}

type Change = fn(&mut NetworkPolicy);

fn spec(policy: &mut NetworkPolicy) -> &mut NetworkPolicySpec {
    policy.spec.as_mut().unwrap()
}

fn from_same(policy: &mut NetworkPolicy) -> &mut Option<Vec<NetworkPolicyPeer>> {
    &mut spec(policy).ingress.as_mut().unwrap()[0].from
}

/// Every absent field added, and the others edited: what is edited, the field that is reported, and the edit.
const WIDENED: [(&str, &str, Change); 8] = [
    ("deny-ingress", "spec.ingress", |p| {
        spec(p).ingress = Some(vec![Default::default()]);
    }),
    ("deny-ingress", "spec.ingress", |p| spec(p).ingress = Some(vec![])),
    ("deny-ingress", "spec.egress", |p| {
        spec(p).egress = Some(vec![Default::default()]);
    }),
    ("deny-ingress", "spec.policyTypes", |p| {
        spec(p).policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
    }),
    ("deny-ingress", "spec.podSelector", |p| {
        spec(p).pod_selector = serde_json::from_value(json!({"matchLabels": {"app": "none"}})).unwrap();
    }),
    ("same-namespace-ingress", "spec.ingress", |p| *from_same(p) = None),
    ("same-namespace-ingress", "spec.ingress", |p| {
        let everywhere = NetworkPolicyPeer {
            namespace_selector: Some(Default::default()),
            ..Default::default()
        };
        from_same(p).as_mut().unwrap().push(everywhere);
    }),
    ("same-namespace-ingress", "metadata.labels", |p| {
        p.labels_mut().remove("ringfence.dev/origin-uid");
    }),
];

#[test]
fn every_way_to_widen_a_policy_is_undone() {
    for (name, field, change) in WIDENED {
        let (mut view, mut api) = settled();
        let good = view.policies.clone();
        edit(&mut view, "home", &format!("ringfence-{name}"), change);
        assert_eq!(causes(&view), [Cause::Edited { field }], "{name}");
        api.settle(&mut view, "home");
        for (repaired, good) in view.policies["home"].iter().zip(&good["home"]) {
            assert_eq!(repaired.spec, good.spec, "{name}");
            assert_eq!(repaired.metadata.uid, good.metadata.uid, "replaced in place");
            assert_eq!(repaired.labels(), good.labels());
        }
        assert_eq!(planned(&view, "home").steps, vec![]);
    }
}

#[test]
fn a_grant_made_anew_under_its_old_name_is_no_repair() {
    let grant = |uid: &str| {
        json!({
            "kind": "ServiceAccess", "metadata": {"name": "api", "namespace": "home", "uid": uid},
            "spec": {"targetRef": {"name": "api"}, "clients": [{"podSelector": {}}]},
        })
    };
    let (mut view, mut api) = settled();
    insert(
        &mut view,
        json!({
            "kind": "ZeroTrustNamespace", "metadata": {"name": "default", "namespace": "home"},
            "spec": {"mode": "Enforce", "allow": {"dns": {"enabled": false}}},
        }),
    );
    insert(
        &mut view,
        json!({
            "kind": "Service", "metadata": {"name": "api", "namespace": "home"},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}]},
        }),
    );
    insert(&mut view, grant("first"));
    api.settle(&mut view, "home");
    insert(&mut view, grant("second"));
    assert_eq!(causes(&view), [Cause::Changed, Cause::Changed]);
}

#[test]
fn labels_and_annotations_of_others_are_none_of_our_business() {
    let (mut view, mut api) = settled();
    edit(&mut view, "home", "ringfence-deny-ingress", |policy| {
        policy.labels_mut().insert("team".to_owned(), "a".to_owned());
        policy
            .annotations_mut()
            .insert("note".to_owned(), "kept".to_owned());
    });
    assert_eq!(planned(&view, "home").steps, vec![]);
    edit(&mut view, "home", "ringfence-deny-ingress", |policy| {
        policy.spec.as_mut().unwrap().ingress = Some(vec![Default::default()]);
    });
    api.settle(&mut view, "home");
    let repaired = view.policies["home"]
        .iter()
        .find(|policy| policy.name_any() == "ringfence-deny-ingress")
        .unwrap();
    assert_eq!(repaired.annotations()["note"], "kept");
    assert_eq!(repaired.labels()["team"], "a");
}

#[test]
fn a_deleted_policy_comes_back_as_a_repair_once_it_was_on_record() {
    let (mut view, _) = settled();
    let mut resource = (*view.zero_trust["home"]).clone();
    let policies: Vec<Value> = view.policies["home"]
        .iter()
        .map(|policy| json!({"name": policy.name_any(), "uid": policy.uid().unwrap()}))
        .collect();
    resource.status = Some(serde_json::from_value(json!({"policies": policies})).unwrap());
    view.insert_zero_trust(resource.into());
    view.policies
        .get_mut("home")
        .unwrap()
        .retain(|policy| policy.name_any() != "ringfence-deny-ingress");
    assert_eq!(causes(&view), [Cause::Deleted]);
}

#[test]
fn a_policy_of_others_with_a_generated_name_is_left_alone_and_reported() {
    let mut view = home();
    insert(
        &mut view,
        json!({
            "kind": "NetworkPolicy",
            "metadata": {
                "name": "ringfence-deny-ingress", "namespace": "home",
                "labels": {"app.kubernetes.io/managed-by": "ringfence-operator", "ringfence.dev/purpose": "deny-ingress"},
            },
            "spec": {"podSelector": {"matchLabels": {"app": "none"}}},
        }),
    );
    let plan = planned(&view, "home");
    assert_eq!(plan.conflicts.len(), 1);
    assert_eq!(
        plan.conflicts[0].policy,
        ObjectKey::new("home", "ringfence-deny-ingress")
    );
    assert_eq!(
        outline(&plan),
        ["create ringfence-same-namespace-ingress"],
        "the rest is not held up"
    );

    view.zero_trust.clear();
    view.written.clear();
    assert_eq!(planned(&view, "home").steps, vec![], "nor is it ever deleted");
}

#[test]
fn a_copy_of_a_generated_policy_under_another_name_is_not_ours() {
    let (mut view, _) = settled();
    let mut copy = (*view.policies["home"][0]).clone();
    copy.metadata.name = Some("copy".to_owned());
    copy.metadata.uid = Some("uid-copy".to_owned());
    copy.metadata.managed_fields = Some(vec![written_by("kubectl-create")]);
    view.insert_policy(copy.into());
    assert_eq!(planned(&view, "home").steps, vec![]);
}

#[test]
fn nothing_is_created_in_a_namespace_that_is_going_away() {
    let mut view = home();
    insert(
        &mut view,
        json!({"kind": "Namespace", "metadata": {"name": "home", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    assert_eq!(planned(&view, "home").steps, vec![]);
}

#[test]
fn an_interrupted_opening_is_finished_without_the_resource_that_began_it() {
    let (mut view, mut api) = settled();
    view.zero_trust.clear();
    view.written.clear();
    let plan = planned(&view, "home");
    plan.steps
        .iter()
        .take(2)
        .for_each(|step| api.apply(&mut view, step));
    assert_eq!(
        outline(&planned(&view, "home")),
        [
            "delete ringfence-same-namespace-ingress",
            "delete ringfence-bridge-ingress"
        ]
    );
}

#[test]
fn a_change_of_ports_is_one_write_in_place() {
    let grant = |port: u16| {
        json!({
            "kind": "Service", "metadata": {"name": "api", "namespace": "home"},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80, "targetPort": port}]},
        })
    };
    let (mut view, mut api) = settled();
    insert(&mut view, grant(8080));
    insert(
        &mut view,
        json!({
            "kind": "ServiceAccess", "metadata": {"name": "api", "namespace": "home"},
            "spec": {"targetRef": {"name": "api"}, "clients": [{"podSelector": {}}]},
        }),
    );
    api.settle(&mut view, "home");
    insert(&mut view, grant(8081));
    assert_eq!(
        outline(&planned(&view, "home")),
        ["replace ringfence-access-ingress-api"]
    );
    assert_eq!(causes(&view), [Cause::Changed]);
}

/// Two thousand pods have four million connections among them: looked at one by one they would take minutes here.
#[test]
fn a_namespace_of_thousands_of_pods_is_closed_in_the_order_of_a_small_one() {
    let closing = |replicas: usize| {
        let both = HOME.replace("egress: false", "egress: true");
        let text = both.replace("replicas: 2,", &format!("replicas: {replicas},"));
        outline(&planned(&view(&text), "home"))
    };
    assert_eq!(closing(2000), closing(2));
}

/// The one direction gives up what the other comes to allow: were the second first, both ends would be open for a moment.
#[test]
fn the_direction_that_gives_something_up_goes_before_one_that_only_widens() {
    let everywhere = json!({"cidr": "0.0.0.0/0", "except": ["192.0.2.0/24"]});
    let access = |spec: Value| {
        let metadata = json!({"name": "bank", "namespace": "home"});
        json!({"kind": "ExternalAccess", "metadata": metadata, "spec": spec})
    };
    let egress = |to: &Value| json!({"podSelector": {}, "egress": [{"to": [to]}]});
    let closed = HOME
        .replace("egress: false", "egress: true")
        .replace("sameNamespace: All", "sameNamespace: None");
    let (mut view, mut api) = (view(&closed), ApiServer::new());
    insert(&mut view, access(egress(&everywhere)));
    api.settle(&mut view, "home");
    let mut turned = egress(&json!({"cidr": "192.0.2.0/24"}));
    turned["ingress"] = json!([{"from": [everywhere]}]);
    insert(&mut view, access(turned));
    let steps = outline(&planned(&view, "home"));
    let place = |start: &str| steps.iter().position(|step| step.starts_with(start));
    let (egress, ingress) = (
        place("replace ringfence-external-egress"),
        place("create ringfence-external-ingress"),
    );
    assert!(egress < ingress && egress.is_some(), "{steps:?}");
}
