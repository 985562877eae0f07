//! Mode Audit, case by case.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_crd::{AppliedNamespace, AuditedNamespace, NodeEnforcementStatus, TopDrop};
use ringfence_operator::names::FIELD_MANAGER;
use ringfence_operator::reports::{NodeReport, NodeReports};
use ringfence_operator::transition::{Step, plan_trials};
use ringfence_operator::view::ClusterView;
use ringfence_policy::{Version, applied_digest};

use crate::cluster::{ApiServer, generated, planned, view, written_by};
use crate::status::{HOME, at, of_access, of_namespace};

fn audited() -> ClusterView {
    view(&HOME.replace("mode: Enforce", "mode: Audit"))
}

/// The same with the policies on trial written, as the API server would keep them.
fn on_trial() -> ClusterView {
    let mut view = audited();
    let plan = plan_trials(&view, "home", &generated(&view, "home"));
    for (number, step) in plan.first.into_iter().enumerate() {
        let Step::Create { mut policy, .. } = step else {
            panic!("{step:?}")
        };
        policy.metadata.uid = Some(format!("trial-{number}"));
        policy.metadata.generation = Some(1);
        policy.metadata.resource_version = Some("1".to_owned());
        policy.metadata.managed_fields = Some(vec![written_by(FIELD_MANAGER)]);
        view.insert_trial(Arc::new(*policy));
    }
    view
}

fn names(policies: &[NetworkPolicy]) -> Vec<String> {
    policies.iter().map(ResourceExt::name_any).collect()
}

#[test]
fn audit_generates_the_same_policies_as_enforce_on_trial_and_none_in_force() {
    let (audit, enforce) = (audited(), view(HOME));
    let (tried, real) = (generated(&audit, "home"), generated(&enforce, "home"));
    assert!(tried.policies.is_empty() && real.trials.is_empty());
    assert_eq!(names(&tried.trials), names(&real.policies));
    let specs = |policies: &[NetworkPolicy]| -> Vec<_> { policies.iter().map(|p| p.spec.clone()).collect() };
    assert_eq!(specs(&tried.trials), specs(&real.policies));
    assert!(planned(&audit, "home").steps.is_empty());
}

#[test]
fn what_is_on_trial_is_written_once_and_put_back_when_edited() {
    let mut view = on_trial();
    let steady = plan_trials(&view, "home", &generated(&view, "home"));
    assert!(steady.first.is_empty() && steady.last.is_empty(), "{steady:?}");
    let trials = view.trials.get_mut("home").unwrap();
    let edited = Arc::make_mut(&mut trials[0]);
    edited.spec.as_mut().unwrap().policy_types = Some(vec![]);
    let plan = plan_trials(&view, "home", &generated(&view, "home"));
    assert!(matches!(&plan.first[..], [Step::Replace { .. }]), "{plan:?}");
}

#[test]
fn when_enforcing_begins_the_trials_go_last_and_those_of_others_stay() {
    let mut view = on_trial();
    let mut foreign = view.trials["home"][0].as_ref().clone();
    foreign.metadata = kube::api::ObjectMeta {
        name: Some("theirs".to_owned()),
        namespace: Some("home".to_owned()),
        ..Default::default()
    };
    view.insert_trial(Arc::new(foreign));
    let mut resource = view.written["home"].as_ref().clone();
    resource.spec.mode = ringfence_crd::Mode::Enforce;
    view.insert_zero_trust(Arc::new(resource));
    let plan = plan_trials(&view, "home", &generated(&view, "home"));
    assert!(plan.first.is_empty());
    assert_eq!(plan.last.len(), view.trials["home"].len() - 1);
    assert!(!format!("{plan:?}").contains("theirs"));
    assert!(!planned(&view, "home").steps.is_empty());
}

#[test]
fn a_trial_of_somebody_else_under_our_name_is_a_conflict() {
    let mut view = audited();
    let wanted = generated(&view, "home").trials;
    let mut foreign = wanted
        .into_iter()
        .find(|policy| policy.name_any() == "ringfence-deny-ingress")
        .unwrap();
    foreign.metadata.owner_references = None;
    foreign.metadata.uid = Some("theirs".to_owned());
    view.insert_trial(Arc::new(foreign));
    let plan = plan_trials(&view, "home", &generated(&view, "home"));
    assert_eq!(plan.conflicts.len(), 1);
    let status = of_namespace(&view, &[], 0);
    let ready = &status.conditions[0];
    assert_eq!(
        (ready.type_.as_str(), ready.reason.as_str()),
        ("Ready", "NameConflict")
    );
}

#[test]
fn in_mode_audit_nothing_is_claimed_to_be_isolated_or_enforced_and_ready_says_what_is_in_place() {
    let view = on_trial();
    let status = of_namespace(&view, &[], 0);
    let of = |kind: &str| {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind);
        found.map(|condition| (condition.status.as_str(), condition.reason.as_str()))
    };
    assert_eq!(of("Ready"), Some(("True", "AsExpected")));
    assert_eq!(of("Programmed"), Some(("True", "Programmed")));
    assert_eq!(of("Covered"), Some(("False", "AuditMode")));
    assert_eq!(of("Enforced"), Some(("Unknown", "AuditMode")));
    assert_eq!(status.covered.as_deref(), Some("0/2"));
    let audit = status.audit.unwrap();
    assert_eq!(
        (audit.would_cover.as_str(), audit.judged.as_str()),
        ("2/2", "Unknown")
    );
    let access = of_access(&view);
    let enforced = access.conditions.iter().find(|c| c.type_ == "Enforced").unwrap();
    assert_eq!(enforced.reason, "AuditMode");
    assert!(
        access
            .conditions
            .iter()
            .any(|c| c.type_ == "Programmed" && c.status == "True")
    );
}

fn reports(view: &ClusterView, since: [i64; 2], findings: [i64; 2]) -> NodeReports {
    let versions: Vec<(String, Version)> = view.trials["home"]
        .iter()
        .map(|policy| {
            let version = Version {
                uid: policy.uid().unwrap(),
                generation: 1,
            };
            (policy.name_any(), version)
        })
        .collect();
    let digest = applied_digest(versions.iter().map(|(name, version)| (name.as_str(), version)));
    let node = |number: usize| {
        let audit = AuditedNamespace {
            digest: digest.clone(),
            policies: 3,
            findings: findings[number],
            last_finding_time: (findings[number] > 0).then(|| Time(at(since[number] + 5))),
            since: Time(at(since[number])),
        };
        let drop = |destination: &str| TopDrop {
            verdict: "would-drop".to_owned(),
            direction: "ingress".to_owned(),
            source: "away/caller".to_owned(),
            destination: destination.to_owned(),
            protocol: "TCP".to_owned(),
            port: Some(80),
            packets: findings[number],
        };
        let status = NodeEnforcementStatus {
            namespaces: vec![AppliedNamespace {
                name: "home".to_owned(),
                audit: Some(audit),
                ..AppliedNamespace::default()
            }],
            top_would_drops: vec![drop("home/api-0"), drop("other/pod")],
            ..NodeEnforcementStatus::default()
        };
        let report = NodeReport {
            status: Arc::new(status),
            alive: true,
        };
        (format!("node-{number}"), report)
    };
    NodeReports {
        nodes: [node(0), node(1)].into(),
    }
}

#[test]
fn the_findings_of_all_nodes_are_summed_up_since_the_last_of_them_judges() {
    let mut view = on_trial();
    view.reports = Arc::new(reports(&view, [10, 20], [3, 0]));
    let audit = of_namespace(&view, &[], 0).audit.unwrap();
    assert_eq!(audit.judged, "2/2");
    assert_eq!(audit.findings, 3);
    assert_eq!(audit.since, Some(Time(at(20))));
    assert_eq!(audit.last_finding_time, Some(Time(at(15))));
    assert!(
        audit
            .top_findings
            .iter()
            .all(|drop| drop.destination == "home/api-0")
    );
    assert!(!audit.top_findings.is_empty());
}

#[test]
fn as_long_as_a_node_judges_by_other_policies_it_is_not_said_since_when() {
    let mut view = on_trial();
    let mut reports = reports(&view, [10, 20], [0, 0]);
    let stale = &mut reports.nodes.get_mut("node-1").unwrap().status;
    Arc::make_mut(stale).namespaces[0].audit.as_mut().unwrap().digest = "old".to_owned();
    view.reports = Arc::new(reports);
    let audit = of_namespace(&view, &[], 0).audit.unwrap();
    assert_eq!((audit.judged.as_str(), audit.since), ("1/2", None));
}

#[test]
fn from_enforce_to_audit_opens_in_order() {
    let mut view = view(HOME);
    let mut server = ApiServer::new();
    server.settle(&mut view, "home");
    let mut resource = view.written["home"].as_ref().clone();
    resource.spec.mode = ringfence_crd::Mode::Audit;
    view.insert_zero_trust(Arc::new(resource));
    let plan = server.settle(&mut view, "home");
    assert!(
        matches!(plan.steps.first(), Some(Step::Create { .. })),
        "a bridge first"
    );
    assert!(view.policies["home"].is_empty());
}
