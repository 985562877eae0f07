//! Whether nodes hold the policies, case by case.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use ringfence_crd::{AppliedNamespace, LastError, NodeEnforcementStatus, NotApplied};
use ringfence_operator::reports::{NodeReport, NodeReports};
use ringfence_operator::view::ClusterView;
use ringfence_policy::{Version, applied_digest};

use crate::status::{at, of_access, of_namespace, settled};

/// What a node says whose kernel holds the policies that the view has.
fn holds(view: &ClusterView) -> NodeEnforcementStatus {
    let versions: Vec<(String, Version)> = view.policies["home"]
        .iter()
        .map(|policy| {
            let version = Version {
                uid: policy.uid().unwrap(),
                generation: policy.metadata.generation.unwrap_or_default(),
            };
            (policy.name_any(), version)
        })
        .collect();
    let applied = AppliedNamespace {
        name: "home".to_owned(),
        digest: applied_digest(versions.iter().map(|(name, version)| (name.as_str(), version))),
        ..AppliedNamespace::default()
    };
    NodeEnforcementStatus {
        namespaces: vec![applied],
        ..NodeEnforcementStatus::default()
    }
}

/// One whose kernel holds other policies.
fn old(view: &ClusterView) -> NodeEnforcementStatus {
    let mut status = holds(view);
    status.namespaces[0].digest = "other".to_owned();
    status
}

/// One whose kernel cannot be written.
fn failing(view: &ClusterView) -> NodeEnforcementStatus {
    NodeEnforcementStatus {
        last_error: Some(LastError {
            name: "LockHeld".to_owned(),
            message: "somebody holds the lock".to_owned(),
            time: Time(at(0)),
        }),
        ..holds(view)
    }
}

/// One that cannot read a policy.
fn unreadable(view: &ClusterView) -> NodeEnforcementStatus {
    NodeEnforcementStatus {
        not_applied: vec![NotApplied {
            namespace: "home".to_owned(),
            policy: Some("theirs".to_owned()),
            reason: "Unreadable".to_owned(),
        }],
        ..holds(view)
    }
}

/// The Enforced condition in short, and the printer column, of the namespace and of the access.
fn enforced(mut view: ClusterView, nodes: &[(&str, NodeEnforcementStatus, bool)]) -> (String, String) {
    let nodes = nodes.iter().map(|(name, status, alive)| {
        let report = NodeReport {
            status: Arc::new(status.clone()),
            alive: *alive,
        };
        ((*name).to_owned(), report)
    });
    view.reports = Arc::new(NodeReports {
        nodes: nodes.collect(),
    });
    let of_namespace = of_namespace(&view, &[], 0);
    let of_access = of_access(&view);
    let short = |conditions: &[Condition], column: Option<String>| {
        let condition = conditions.iter().find(|it| it.type_ == "Enforced").unwrap();
        let column = column.unwrap();
        format!("{} {} {column}", condition.status, condition.reason)
    };
    let namespace = short(&of_namespace.conditions, of_namespace.enforced.clone());
    assert_eq!(
        namespace,
        short(&of_access.conditions, of_access.enforced.clone())
    );
    let ready = of_namespace
        .conditions
        .iter()
        .find(|it| it.type_ == "Ready")
        .unwrap();
    (namespace, format!("{} {}", ready.status, ready.reason))
}

#[test]
fn every_node_with_pods_must_hold_the_very_policies() {
    let view = settled();
    let nodes: Vec<String> = view.pods["home"]
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
        .collect();
    let [a, b] = [nodes[0].as_str(), nodes[1].as_str()];
    assert_ne!(a, b, "two pods on two nodes");
    let good = || holds(&view);
    let bystander = ("elsewhere", NodeEnforcementStatus::default(), true);
    for (nodes, wanted, ready) in [
        (vec![], "Unknown NoEnforcer Unknown", "True AsExpected"),
        (
            vec![(a, good(), true), (b, good(), true), bystander.clone()],
            "True Enforced 2/2",
            "True AsExpected",
        ),
        (
            vec![(a, good(), true), (b, old(&view), true)],
            "False NodesPending 1/2",
            "False NodesPending",
        ),
        (
            vec![(a, good(), true), bystander.clone()],
            "False NodesPending 1/2",
            "False NodesPending",
        ),
        (
            vec![(a, good(), true), (b, good(), false)],
            "Unknown NodesStale 1/2",
            "True AsExpected",
        ),
        (
            vec![(a, old(&view), true), (b, failing(&view), true)],
            "False NodesFailing 0/2",
            "False NodesFailing",
        ),
        (
            vec![(a, unreadable(&view), true), (b, good(), true)],
            "False NodesFailing 1/2",
            "False NodesFailing",
        ),
    ] {
        assert_eq!(
            enforced(view.clone(), &nodes),
            (wanted.to_owned(), ready.to_owned()),
            "{nodes:?}"
        );
    }
}

#[test]
fn pods_that_no_policy_acts_on_need_no_enforcement() {
    let mut view = settled();
    for pod in view.pods.get_mut("home").unwrap() {
        Arc::make_mut(pod).spec.as_mut().unwrap().host_network = Some(true);
    }
    let bystander = ("elsewhere", NodeEnforcementStatus::default(), true);
    let (condition, _) = enforced(view, &[bystander]);
    assert_eq!(condition, "True Enforced 0/0");
}

#[test]
fn a_message_names_the_node_and_what_to_do() {
    let mut view = settled();
    view.reports = Arc::new(NodeReports {
        nodes: [(
            "elsewhere".to_owned(),
            NodeReport {
                status: Arc::default(),
                alive: true,
            },
        )]
        .into(),
    });
    let status = of_namespace(&view, &[], 0);
    let condition = status
        .conditions
        .iter()
        .find(|it| it.type_ == "Enforced")
        .unwrap();
    assert!(
        condition.message.contains("Node node-")
            && condition.message.contains("So are 1 others.")
            && condition.message.contains("whether an enforcer runs there"),
        "{}",
        condition.message
    );
}
